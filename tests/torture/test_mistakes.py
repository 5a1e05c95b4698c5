"""Mistakes that people report of tools like this one: each is refused in one sentence, or done right."""

import argparse
import decimal
import gzip
import http.server
import json
import shutil
import subprocess
import threading
import time

import matplotlib
import nbformat
import numpy as np
import papermill
import pytest
import torch
from torch import nn

from runs import PROJECT
from sa_lib import checkpoints, data, evaluation, experiment, figures, latent, store, trained
from sa_lib.book import __main__ as command_line
from sa_lib.book import cluster, execution, notebooks, sweep
from sa_lib.book.notebooks import BookError
from sa_lib.fisher import squared_gradients
from sa_lib.labels import forget_set
from sa_lib.model import ModelConfig, build
from sa_lib.training import TrainingConfig

CHAPTER = '''\
# %% tags=["parameters"]
seed = 0
model = ""
note = ""
run_dir = ""

# %%
from pathlib import Path
from sa_lib import chapter, store
digest = store.file_digest(Path(model)) if model else ""
chapter.write_metrics(run_dir, "01_tiny", {"cache": str(store.cache_root()), "digest": digest})
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout with one small chapter, in which the test stands."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "01_tiny.py").write_text(CHAPTER)
    shutil.copy(PROJECT / "pyproject.toml", root)
    notebooks.sync(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("SA_CACHE", str(tmp_path / "cache"))
    return root


def cells(root, name):
    """The metrics of a sweep's cells, by the names of their folders."""
    return {path.parent.name: json.loads(path.read_text()) for path in (root / "runs" / name).glob("*/metrics.json")}


def save_model(path, seed):
    checkpoints.save_model(path, build(ModelConfig(latent_dim=2, hidden=(8, 4)), seed))


# Results that are no longer those of their inputs ----------------------------------------------

@pytest.mark.parametrize("arguments", [["run", "--run", "mine"], ["sweep", "--chapter", "01_tiny", "--name", "mine"]])
def test_another_file_under_the_same_path_is_another_input(project, arguments):
    digests = []
    for seed in (0, 1):
        save_model("mine.safetensors", seed)
        assert command_line.main([*arguments, "-p", "model", "mine.safetensors"]) == 0
        (path,) = (project / "runs" / "mine").glob("**/metrics.json")
        digests.append(json.loads(path.read_text())["digest"])
        assert digests[-1] == store.file_digest(project / "mine.safetensors")
    assert digests[0] != digests[1]


# What is asked for is done ---------------------------------------------------------------------

@pytest.mark.parametrize("repeated, option", [
    (["--grid", "seed=0:1", "--grid", "seed=5:6"], "--grid"), (["-p", "seed", "1", "-p", "seed", "2"], "-p")])
def test_an_option_that_names_a_parameter_twice_is_refused(project, capsys, repeated, option):
    assert command_line.main(["sweep", "--chapter", "01_tiny", *repeated]) == 2
    assert f"{option} must name each parameter once, got seed twice" in capsys.readouterr().err


def test_a_cell_with_a_long_name_runs_and_keeps_the_others_apart(project):
    grid = {"note": ["a" * 300, "a" * 299 + "b"]}
    names = [cell.name for cell in sweep.cells(project, "01_tiny", grid, {})]
    assert len(set(names)) == 2
    assert max(len(name.encode()) for name in names) <= 200
    assert command_line.main(["sweep", "--chapter", "01_tiny", "--grid", f"note={json.dumps('a' * 300)}"]) == 0
    assert len(cells(project, "01_tiny")) == 1


def test_relative_paths_mean_the_folder_where_the_user_stands(project, monkeypatch):
    save_model("mine.safetensors", 0)
    monkeypatch.setenv("SA_CACHE", "store")
    assert command_line.main(["sweep", "--chapter", "01_tiny", "-p", "model", "mine.safetensors"]) == 0
    (metrics,) = cells(project, "01_tiny").values()
    assert metrics["digest"] == store.file_digest(project / "mine.safetensors")
    assert metrics["cache"] == str(project / "store")


def test_a_tilde_is_the_home(project, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SA_CACHE", "~/store")
    assert store.cache_root() == tmp_path / "home" / "store"


# Servers that are none -------------------------------------------------------------------------

def test_a_web_server_is_no_scheduler(project, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 2)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    address = f"tcp://127.0.0.1:{server.server_port}"
    assert command_line.main(["sweep", "--chapter", "01_tiny", "--scheduler", address]) == 2
    assert time.monotonic() - began < 20
    assert "scheduler must be the address of a dask scheduler" in capsys.readouterr().err
    server.shutdown()


@pytest.mark.parametrize("grid", ["seed=0:10:2", "seed=0-9", "seed=0..9"])
def test_a_range_in_another_form_is_refused_before_anything_runs(grid):
    with pytest.raises(BookError, match="grid must be name=first:end or name=value"):
        sweep.read_grid(grid)


# Work that is not lost -------------------------------------------------------------------------

def test_a_notebook_edited_in_jupyter_is_not_overwritten(project, capsys):
    path = project / "notebooks" / "01_tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print('mine')"))
    nbformat.write(notebook, path)
    (project / "notebooks" / "01_tiny.py").write_text(CHAPTER + "# another line\n")
    edited = path.read_bytes()
    assert command_line.main(["run", "--run", "mine"]) == 2
    message = capsys.readouterr().err
    assert "01_tiny.py may lack the edits" in message
    assert "sa-book adopt 01_tiny" in message
    assert path.read_bytes() == edited


def test_edits_in_jupyter_can_be_brought_over(project):
    path = project / "notebooks" / "01_tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print('mine')"))
    nbformat.write(notebook, path)
    assert command_line.main(["adopt", "01_tiny"]) == 0
    assert (project / "notebooks" / "01_tiny.py").read_text() == CHAPTER + "\n# %%\nprint('mine')\n"
    assert notebooks.sync(project, check=True) == []


def test_a_notebook_that_was_only_run_in_jupyter_is_derived_again(project):
    path = project / "notebooks" / "01_tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="an output")]
    nbformat.write(notebook, path)
    assert notebooks.sync(project) == ["01_tiny"]


def test_adopting_an_unedited_notebook_changes_nothing(tmp_path):
    shutil.copytree(PROJECT / "notebooks", tmp_path / "notebooks")
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    for name in notebooks.chapters(tmp_path):
        source = (tmp_path / "notebooks" / f"{name}.py").read_text()
        notebooks.adopt(tmp_path, name)
        assert (tmp_path / "notebooks" / f"{name}.py").read_text() == source


def test_a_notebook_to_adopt_must_be_there(project):
    with pytest.raises(BookError, match="name must be a chapter such as 01_tiny, got 09_none"):
        notebooks.adopt(project, "09_none")


# A Fisher of every parameter -------------------------------------------------------------------

def test_shared_weights_have_no_fisher_by_layers():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    with pytest.raises(TypeError, match="must not share parameters between layers, got 0.weight and 2.weight"):
        squared_gradients(net, lambda: net(torch.rand(4, 3)).sum(1))


def test_a_layer_that_the_losses_do_not_use_has_a_fisher_of_zero():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fisher = squared_gradients(net, lambda: net[0](torch.rand(4, 3)).square().sum(1))
    assert fisher.keys() == dict(net.named_parameters()).keys()
    assert fisher["1.weight"].eq(0).all()
    assert fisher["0.weight"].gt(0).any()


def test_losses_that_use_no_layer_have_a_fisher_of_zero():
    net = nn.Linear(3, 3)
    fisher = squared_gradients(net, lambda: torch.zeros(4))
    assert all(values.eq(0).all() for values in fisher.values())


# A checkout on another system ------------------------------------------------------------------

def test_line_ends_of_windows_change_no_digest(tmp_path):
    for path in sorted((PROJECT / "sa_lib").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert store.code_text(text.replace("\n", "\r\n")) == store.code_text(text)


def test_a_clone_on_windows_keeps_the_line_ends(tmp_path):
    made = subprocess.run(["git", "-c", "core.autocrlf=true", "clone", "-q", str(PROJECT), str(tmp_path / "clone")],
                          capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this is not a checkout of git: {made.stderr.strip()}")
    assert b"\r\n" not in (tmp_path / "clone" / "sa_lib" / "model.py").read_bytes()


# A user's own data -----------------------------------------------------------------------------

def put_idx(folder, count=8, names=data.FILES):
    """IDX files of a data set of the user's, with images of one level of gray."""
    folder.mkdir(parents=True)
    labels = np.arange(count, dtype=np.uint8) % 10
    images = np.full((count, 28, 28), 7, np.uint8)
    for name, array in zip(names, (images, labels, images, labels), strict=True):
        content = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def test_other_data_of_a_user_under_the_same_name_are_another_input(project, monkeypatch):
    monkeypatch.setenv("SA_DATA", str(project / "data"))
    source = project / "notebooks" / "01_tiny.ipynb"
    stamps = []
    for count in (8, 9):
        shutil.rmtree(project / "data", ignore_errors=True)
        put_idx(project / "data" / "fashion", count)
        stamps.append(execution.stamp(source, {"dataset": "fashion"}))
    assert stamps[0] != stamps[1]


def test_a_download_makes_no_result_stale(project, monkeypatch):
    monkeypatch.setenv("SA_DATA", str(project / "data"))
    source = project / "notebooks" / "01_tiny.ipynb"
    before = execution.stamp(source, {"dataset": "fashion"})
    put_idx(project / "data" / "fashion")
    (project / "data" / "fashion" / data.SUMS).write_text("as a download leaves it")
    assert execution.stamp(source, {"dataset": "fashion"}) == before


def test_files_that_we_did_not_write_are_never_replaced(tmp_path, monkeypatch):
    put_idx(tmp_path / "mnist")
    before = {path: path.read_bytes() for path in (tmp_path / "mnist").iterdir()}
    monkeypatch.setattr(data, "SOURCES", {"mnist": {"none": lambda *_: pytest.fail("nothing is to be fetched")}})
    with pytest.raises(OSError, match="they are left as they are"):
        data.load("mnist", tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "mnist").iterdir()} == before


@pytest.mark.parametrize("names", [
    ["train-images.idx3-ubyte", "train-labels.idx1-ubyte", "t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"],
    [f"{name}.gz" for name in data.FILES]])
def test_data_files_may_have_any_of_their_usual_names(tmp_path, names):
    put_idx(tmp_path / "fashion", names=names)
    assert data.load("fashion", tmp_path).train_images.shape == (8, 1, 28, 28)


def test_a_tilde_in_the_folder_of_data_is_the_home(tmp_path, monkeypatch):
    put_idx(tmp_path / "mine" / "fashion")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SA_DATA", "~/mine")
    assert len(data.load("fashion").train_labels) == 8


# Checkpoints of others -------------------------------------------------------------------------

NAMES = checkpoints.LAYOUTS["official"]


def official(path, config, prefix="", **entries):
    """A checkpoint as the official implementation writes it, and the model in it."""
    model = build(config, 3)
    state = {f"{prefix}{NAMES[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": weight
             for name, weight in model.state_dict().items()}
    torch.save({"model": state, "config": argparse.Namespace(lr=1e-4), **entries}, path)
    return model


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_an_official_checkpoint_may_have_any_size_and_prefix(tmp_path, prefix):
    model = official(tmp_path / "theirs.pt", ModelConfig(latent_dim=5, hidden=(24, 12)), prefix)
    read = checkpoints.read_model(tmp_path / "theirs.pt")
    assert read.config == model.config
    assert store.tensor_digest(read.state_dict()) == store.tensor_digest(model.state_dict())


def test_an_entry_of_a_checkpoint_that_is_not_plain_data_is_named(tmp_path):
    official(tmp_path / "theirs.pt", ModelConfig(latent_dim=2, hidden=(8, 4)), best_loss=decimal.Decimal(97))
    with pytest.raises(ValueError, match=r"got 'best_loss' with a decimal\.Decimal"):
        checkpoints.read_model(tmp_path / "theirs.pt")


# Degenerate input of compiled code -------------------------------------------------------------

@pytest.mark.parametrize("encodings, message", [
    ([torch.zeros(40, 4), torch.zeros(40, 4)], "must not be all alike"),
    ([1e-25 * torch.rand(40, 4)], "must not be all alike"),
    ([1e30 * torch.rand(40, 4)], "must have values of at most 1e.15"),
    ([torch.rand(40, 1)], "must have rows of at least 2 values")])
def test_points_that_would_crash_t_sne_are_refused(encodings, message):
    with pytest.raises(ValueError, match=message):
        latent.joint_tsne(encodings)


def test_features_that_would_crash_an_eigenvalue_solver_are_refused():
    features = torch.rand(9, 3, dtype=torch.double)
    with pytest.raises(ValueError, match="real must have values of at most"):
        evaluation.frechet_distance(1e160 * features, features)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_features_in_half_precision_are_measured(dtype):
    features = torch.rand(40, 3).to(dtype)
    classes = torch.arange(40) % 2
    assert evaluation.fidelity(features, features)["coverage"] == 1
    assert latent.probe_recall(features, classes, features, classes).loc[[0, 1]].between(0, 1).all()


def test_the_similarity_of_a_dead_layer_is_zero():
    assert latent.linear_cka(torch.zeros(9, 3), torch.rand(9, 3)) == 0
    assert latent.linear_cka(torch.rand(1, 3), torch.rand(1, 3)) == 0


def test_changes_are_ranked_against_a_constant_fisher_as_against_none():
    before, after = (build(ModelConfig(latent_dim=2, hidden=(8, 4)), seed) for seed in (0, 1))
    fisher = {name: torch.zeros_like(weight) for name, weight in before.named_parameters()}
    assert latent.weight_changes(before, after, fisher)["rank correlation"].eq(0).all()


# Other ways to write an argument ---------------------------------------------------------------

def test_numbers_of_numpy_are_numbers(digits):
    assert forget_set(np.int64(3)) == (3,)
    config = TrainingConfig(epochs=np.int64(1), peak_lr=np.float32(1e-3))
    small = ModelConfig(latent_dim=2, hidden=(8, 4))
    model = trained.cvae(digits, small, config, seed=np.int64(1), without=np.int64(3))
    assert model.digest == trained.cvae(digits, small, config, seed=1, without=(3,)).digest


def test_parameters_may_be_null_or_a_single_name():
    run = experiment.validate(model=None, methods="saliency", profile="smoke")
    assert run.checkpoint is None
    assert list(run.methods) == ["saliency"]


def test_a_byte_order_mark_at_the_head_of_a_chapter_is_none_of_its_cells(project):
    path = project / "notebooks" / "01_tiny.py"
    expected = (project / "notebooks" / "01_tiny.ipynb").read_text()
    path.write_text("\ufeff" + CHAPTER, encoding="utf-8")
    notebooks.sync(project)
    assert (project / "notebooks" / "01_tiny.ipynb").read_text() == expected


# The reader's own style ------------------------------------------------------------------------

def test_figures_look_the_same_whatever_the_reader_has_set():
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))

    expected = figures.image_grid(images, rows=["a", "b"]).get_facecolor()
    with matplotlib.rc_context({"figure.facecolor": "red", "font.size": 30, "text.usetex": True}):
        figure = figures.image_grid(images, rows=["a", "b"])
        assert figure.get_facecolor() == expected
        assert not any(label.get_usetex() for label in figure.axes[0].get_yticklabels())


# A report on a broken model --------------------------------------------------------------------

def test_a_part_of_a_report_that_cannot_be_measured_costs_no_other(tmp_path):
    model = build(ModelConfig(latent_dim=2, hidden=(8, 4)), 0)
    with torch.no_grad():
        model.encoder.log_var.bias.fill_(200)
    checkpoints.save_model(tmp_path / "broken.safetensors", model)
    parameters = {"profile": "smoke", "dataset": "digits", "forget": 9, "run_dir": str(tmp_path / "run"),
                  "model": str(tmp_path / "broken.safetensors")}
    page = tmp_path / "page.ipynb"
    papermill.execute_notebook(PROJECT / "notebooks" / "06_report_card.ipynb", page, parameters, progress_bar=False)
    texts = page.read_text(encoding="utf-8")
    metrics = json.loads((tmp_path / "run" / "06_report_card" / "metrics.json").read_text())
    assert "Relearning of 9, this model: not measured" in texts
    assert metrics["cost_nats"] is None
    assert {state: len(own) for state, own in metrics["rho"].items()} == {"as it is": 2}
    assert metrics["guided"]["9: this model"] is not None
