"""The chapters on data of another kind: five classes of colored images, 32 x 32, in a reader's own files."""

import json
import math
import os

import numpy as np
import papermill
import pytest
import torch
from PIL import Image

from runs import PROJECT
from sa_lib import attacks, data, evaluation, experiment, figures, latent, playground, residual, trained
from sa_lib.attacks import THREATS
from sa_lib.checkpoints import read_model, save_model
from sa_lib.judges import JudgeConfig
from sa_lib.model import ModelConfig, build
from sa_lib.recipe import RecipeConfig
from sa_lib.reconstruction import SearchConfig
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

SHAPE = (3, 32, 32)
NAMES = ("bars", "checks", "disc", "ring", "stripes")
MODEL = ModelConfig(latent_dim=4, hidden=(32, 16), classes=len(NAMES), image_shape=SHAPE)
TRAINING = TrainingConfig(epochs=60, batch=100)
FORGETTING = UnlearningConfig(steps=60, batch=32, forget_batch=16, gray=math.prod(SHAPE))
SEARCH = SearchConfig(pool=32, starts=1, iterations=2, rounds=1)


def picture(name, random):
    """A shape of random color and place on a dark ground, [32, 32, 3] bytes."""
    y, x = np.mgrid[:32, :32] - random.integers(12, 20, (2, 1, 1))
    far = np.hypot(x, y)
    inside = {"bars": x // 4 % 2 == 0, "checks": (x // 4 + y // 4) % 2 == 0, "disc": far < 9,
              "ring": abs(far - 9) < 3, "stripes": y // 4 % 2 == 0}[name]
    color = random.integers(120, 256, 3)
    return (inside[..., None] * color + random.integers(0, 30, (32, 32, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reader's folder of pictures by class, which nobody may write."""
    folder, random = tmp_path_factory.mktemp("own") / "shapes", np.random.default_rng(0)
    for side, count in (("train", 60), ("test", 20)):
        for name in NAMES:
            (folder / side / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(picture(name, random)).save(folder / side / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(folder, contents):
    return experiment.validate(dataset=str(folder), profile="smoke", forget=[4, 2])


@pytest.fixture(scope="module")
def ds(folder):
    return data.load(folder)


@pytest.fixture(scope="module")
def models(ds):
    baseline = trained.cvae(ds, MODEL, TRAINING)
    forgot, both = trained.sequence(baseline, ds, [4, 2], FORGETTING)
    never = trained.never_saw(ds, [4, 2], MODEL, TRAINING, FORGETTING)
    return {"baseline": baseline, "forgot": forgot, "both": both, "never": never}


def judge_of(ds, name):
    return trained.judge(ds, JudgeConfig(name, epochs=3, batch=50))


def test_the_parameters_follow_from_the_data(run, ds, folder):
    assert run.dataset == str(folder)
    assert (ds.name, ds.classes, ds.image_shape) == ("shapes", 5, SHAPE)
    assert run.model == ModelConfig(classes=5, image_shape=SHAPE)
    assert (run.few, run.judge_config("B").epochs) == (True, 12)
    assert run.unlearning.gray == math.prod(SHAPE)
    assert experiment.validate(dataset="digits").unlearning.gray == 784
    with pytest.raises(ValueError, match=r"^forget must be a class from 0 to 4 or a list of 1 to 4 .*, got 9$"):
        experiment.validate(dataset=str(folder), forget=9)
    with pytest.raises(ValueError, match=r"^dataset must have 10 classes of images .*, got 5 of .* in 'shapes'$"):
        trained.cvae(ds)


def test_a_checkpoint_of_other_data_is_refused(folder, tmp_path):
    save_model(tmp_path / "old.safetensors", build(ModelConfig(latent_dim=2, hidden=(4, 3)), 0))
    with pytest.raises(ValueError, match="^model must be .*: it has 10 classes .*, and the data set has 5 of "):
        experiment.validate(dataset=str(folder), model=str(tmp_path / "old.safetensors"))
    own = build(ModelConfig(latent_dim=2, hidden=(4, 3), classes=5, image_shape=SHAPE), 0)
    save_model(tmp_path / "own.safetensors", own)
    assert read_model(tmp_path / "own.safetensors").config == own.config
    assert experiment.validate(dataset=str(folder), model=str(tmp_path / "own.safetensors")).model == own.config


def test_the_notebooks_recipe_has_the_classes_of_the_data(ds):
    short = RecipeConfig(epochs=1, batch=100, fisher_images=20, forget_epochs=1, replay=20)
    with pytest.raises(ValueError, match=r"^without must be a class from 0 to 4 .*, got 7$"):
        trained.recipe_cvae(ds, short, without=7)
    source = trained.recipe_cvae(ds, short, without=2)
    with pytest.raises(ValueError, match=r"^label must be a class from 0 to 4, got 7$"):
        trained.recipe_forgotten(source, ds, 7, short)
    assert trained.recipe_forgotten(source, ds, 4, short).net.config.classes == 5


def test_a_model_forgets_and_is_measured_as_in_chapters_2_and_3(ds, models):
    judge, features = judge_of(ds, "B"), judge_of(ds, "features")
    tables = {name: evaluation.evaluate(m.net, ds, judge, features, 0, 30) for name, m in models.items()}
    assert tables["baseline"].index.tolist() == [*range(5)]
    summary = evaluation.summary(tables, [4, 2], "baseline")
    assert summary.loc["both", "gray"] < 0.5 * summary.loc["baseline", "gray"]
    assert np.isfinite(summary).all(axis=None)
    assert evaluation.answers(judge, {"real": ds.test_images}).columns.tolist() == [*"01234", "none"]
    steps = [tables[name] for name in ("baseline", "forgot", "both")]
    assert evaluation.relapse(steps, [4, 2]).index.tolist() == [4, 2]


def test_layers_are_read_as_in_chapter_4(ds, models):
    y = latent.neutral(len(ds.test_images), 5)
    values = latent.activations(models["both"].net, ds.test_images, y)
    table = latent.layer_recall(values, ds.test_labels, values, ds.test_labels, 5)
    assert table.index.tolist() == [*range(5)]
    assert latent.class_distances(values["mean"], ds.test_labels, 5).shape == (5, 5)
    assert latent.knn_recall(values["mean"], ds.test_labels, values["mean"], ds.test_labels, 3, 5).shape == (5,)


def test_it_is_attacked_as_in_chapters_5_to_7(ds, models, tmp_path):
    real, judge = data.held_out(ds, 4, 6), judge_of(ds, "A")
    results = {(threat, 4, name): trained.reconstruction(m, real, 4, THREATS[threat], SEARCH)
               for threat in ("z in the prior", *playground.THREATS) for name, m in models.items()}
    errors = {name: results["y on the simplex", 4, name].errors for name in models}
    assert errors["baseline"].mean() < errors["both"].mean()
    rho = residual.residual_knowledge(torch.stack([errors["never"], errors["never"] + 1]), errors["forgot"],
                                      errors["baseline"])
    assert rho.rho < 1
    guided = attacks.attack(models["both"].net, attacks.unlike(judge, 4), 4, 3, THREATS["y free"],
                            attacks.AttackConfig(2, 2))
    assert guided.images.shape[2:] == SHAPE
    assert attacks.score(guided, judge, 4, real)["success"].between(0, 1).all()
    assert attacks.relearn(models["both"].net, real, 4, judge, steps=2, every=1, samples=5).between(0, 1).all()
    for file in playground.FILES:
        (tmp_path / file).write_text("of an earlier run")
    playground.export(tmp_path, models, judge_of(ds, "B"), ds, [4, 2], results, SEARCH)
    assert not [*tmp_path.iterdir()], "the page has no decoder of these images"


def test_figures_have_the_colors(ds):
    figure = figures.image_grid(ds.test_images[:6].view(2, 3, *SHAPE), rows=["a", "b"])
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    assert sheet.shape == (2 * 34 + 2, 3 * 34 + 2, 3)
    assert np.allclose(sheet[2:34, 2:34], ds.test_images[0].permute(1, 2, 0))
    gray = figures.image_grid(ds.test_images[:2, :1].view(1, 2, 1, 32, 32)).axes[0].images[0]
    assert np.asarray(gray.get_array()).ndim == 2


FORGET = {"01_baseline": None, "02_ewc_unlearning": 4, "03_sequential": [4, 2], "04_latent": [4, 2],
          "05_attacks": [4, 2], "06_report_card": [4], "07_methods": 4}


@pytest.mark.torture
def test_chapters_run_and_the_readers_files_stay_as_they_are(folder, contents, tmp_path, monkeypatch, amount):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))))
    for name in amount(["01_baseline"], list(FORGET)):
        parameters = {"dataset": str(folder), "profile": "smoke", "run_dir": str(tmp_path / "run")}
        if FORGET[name] is not None:
            parameters["forget"] = FORGET[name]
        papermill.execute_notebook(PROJECT / "notebooks" / f"{name}.ipynb", tmp_path / "out.ipynb", parameters,
                                   cwd=tmp_path, progress_bar=False)
        metrics = json.loads((tmp_path / "run" / name / "metrics.json").read_text())
        assert metrics["parameters"]["dataset"] == str(folder)
        if name == "01_baseline":
            assert [*metrics["classes"]] == [*"01234"]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == contents
