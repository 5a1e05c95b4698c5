"""The parameters of a chapter, the configurations that follow from them, and the end of a chapter."""

import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import IPython
import IPython.display
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sa_lib import chapter, claims, experiment, trained
from sa_lib.attacks import AttackConfig
from sa_lib.checkpoints import save_model
from sa_lib.checks import shorten
from sa_lib.experiment import PROFILES, Profile, validate
from sa_lib.judges import JudgeConfig
from sa_lib.methods import COMPARED, METHODS
from sa_lib.model import ARCHITECTURES, ModelConfig, build
from sa_lib.reconstruction import SearchConfig
from sa_lib.trained import Trained
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

BASELINE = {"nelbo": 97.0, "accuracy": 0.97, "judges": {"A": {"accuracy": 0.98}, "B": {"accuracy": 0.99}}}


@pytest.fixture
def shown(monkeypatch):
    """The outputs of a cell: (data, metadata) of each."""
    outputs = []
    monkeypatch.setattr(IPython.display, "display",
                        lambda data, raw, metadata=None: outputs.append((data, metadata or {})))
    return outputs


@pytest.fixture
def cells(monkeypatch):
    """Let a list of cells be those that the kernel has executed."""
    def executed(*sources):
        monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(user_ns={"In": ["", *sources]}))
    return executed


def refused(**parameters):
    """The message of a refusal."""
    with pytest.raises(ValueError) as error:
        validate(**parameters)
    return str(error.value)


# Parameters

@pytest.mark.parametrize("name, value", [
    ("forget", 10), ("forget", -1), ("forget", "nine"), ("forget", True), ("forget", 9.0), ("forget", None),
    ("forget", ""), ("forget", []), ("forget", [9, 9]), ("forget", list(range(10))),
    ("forget", ["9"]), ("forget", np.array(9)), ("forget", np.array([9, 2])), ("forget", torch.tensor([9, 2])),
    ("forget", pd.Series([9, 2])), ("forget", "[" * 100_000), ("forget", "()"),
    ("model", 3), ("model", "a\0b"), ("model", "<i>.safetensors"), ("model", "[a](b).safetensors"),
    ("methods", "prayer"), ("methods", ["prayer"]), ("methods", 3), ("methods", [["saliency"]]), ("methods", None),
    ("methods", ""),
    ("changes", {"color": 1}), ("changes", {"steps": 0}), ("changes", {"peak_lr": math.nan}), ("changes", "steps"),
    ("changes", [1]), ("changes", None), ("changes", {1: 2}), ("changes", {"steps": 10_001}),
    ("changes", '{"schedule": "cosine"}'),
    ("longest", 0), ("longest", 1.5), ("longest", True), ("longest", "9"),
    ("seed", -1), ("seed", 2**31), ("seed", None), ("seed", True), ("seed", "0"),
    ("dataset", "imagenet"), ("dataset", ["mnist"]), ("dataset", None), ("profile", "fast"), ("profile", None),
    ("architecture", "transformer"), ("run_dir", ""), ("run_dir", 3), ("run_dir", "\0"), ("run_dir", None),
], ids=lambda value: shorten(value)[:30])
def test_a_bad_parameter_is_named_with_its_value_in_one_sentence(name, value):
    message = refused(**{name: value})
    assert re.match(f"{name} must be .+, got ", message)
    assert f", got {shorten(value)}" in message
    assert "\n" not in message
    assert not message.removesuffix("...").endswith(".")


@pytest.mark.parametrize("text", ["[3, 3]", "[]", "92", "-1", "true"])
def test_bad_digits_in_text_are_refused_as_the_value_of_the_text(text):
    assert refused(forget=text).endswith(f", got {json.loads(text)}")


@given(st.sampled_from(["dataset", "seed", "forget", "profile", "architecture", "longest"]),
       st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=11), max_leaves=12))
def test_a_parameter_is_kept_as_it_is_or_refused(name, value):
    try:
        parameters = validate(**{name: value})
    except ValueError:
        return
    if name == "forget":
        asked = json.loads(value) if isinstance(value, str) else value
        assert list(parameters.forget) == (asked if isinstance(asked, list) else [asked])
    else:
        assert getattr(parameters, name) == value


@pytest.mark.parametrize("forget, digits", [
    (3, (3,)), (0, (0,)), ("3", (3,)), ([5, 3], (5, 3)), ((5, 3), (5, 3)), ("[5, 3]", (5, 3)), ([3], (3,)),
    ("[3]", (3,)), (np.int64(3), (3,)), ([np.int64(5), 3], (5, 3)), ((), ())], ids=repr)
def test_digits_to_forget_may_be_one_a_list_or_text_and_keep_their_order(forget, digits):
    assert validate(forget=forget).forget == digits
    assert {type(digit) for digit in validate(forget=forget).forget} <= {int}


def test_a_chapter_that_forgets_one_digit_refuses_two():
    with pytest.raises(ValueError, match=r"^forget must be a class from 0 to 9, got \[3, 5\]$"):
        validate(forget=[3, 5], at_most=1)
    assert validate(forget=[3], at_most=1).forget == (3,)


def test_forget_sequence_is_no_parameter_any_more():
    with pytest.raises(TypeError, match="forget_sequence"):
        validate(forget_sequence=[9, 2])


def test_a_seed_of_numpy_becomes_a_number_of_python():
    assert type(validate(seed=np.int64(3)).seed) is int
    assert validate(seed=np.int64(2**31 - 1)).seed == 2**31 - 1


def test_the_folder_of_a_run_may_begin_at_home():
    assert validate(run_dir="~/run").run_dir == Path.home() / "run"
    assert validate(run_dir=Path("runs/full")).run_dir == Path("runs/full")


@pytest.mark.parametrize("name", ["dataset", "seed", "forget", "profile", "architecture"])
def test_metrics_record_the_parameters_of_a_run(name):
    given = {"dataset": "digits", "seed": 7, "forget": (9, 2), "profile": "full", "architecture": "conv"}
    run = validate(**given)
    assert run.record[name] == given[name]
    assert run.record.keys() == given.keys()


# Unknown parameters of papermill

OWN = "dataset = 'mnist'\nforget = 9\nprofile = 'full'"


def test_an_unknown_parameter_of_papermill_is_named_with_the_nearest_known_one(cells):
    cells("import sa_lib", OWN, "# Parameters\nforgot = 3\n")
    assert refused() == "parameters must be among dataset, forget, profile, got forgot; did you mean forget?"


def test_an_unknown_parameter_unlike_any_other_is_named_alone(cells):
    cells(OWN, "# Parameters\nzzz = 3\n")
    assert refused() == "parameters must be among dataset, forget, profile, got zzz"


@pytest.mark.parametrize("sources", [
    (OWN, "# Parameters\nforget = 3\nprofile = 'smoke'\n"), (OWN, "forgot = 3"), (OWN, "# Parameters\n"), (), (OWN,)])
def test_known_parameters_and_cells_that_papermill_did_not_write_pass(cells, sources):
    cells(*sources)
    assert validate(forget=3).forget == (3,)


def test_parameters_are_checked_without_the_tools_of_the_book():
    blocked = ["IPython", "ipykernel", "jupytext", "nbformat", "papermill", "jupyter_book"]
    code = (f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
            "from sa_lib import experiment; print(experiment.validate(forget=3).forget)")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "(3,)\n"


# Methods

@pytest.mark.parametrize("methods, names", [
    ("saliency", ["saliency"]), (["saliency"], ["saliency"]), ('["unseen", "saliency"]', ["unseen", "saliency"]),
    (("unseen", "saliency"), ["unseen", "saliency"]), ((), list(COMPARED)), ("[]", list(COMPARED))], ids=repr)
def test_methods_may_be_one_a_list_or_text_and_those_to_compare_if_none_is_named(methods, names):
    assert list(validate(methods=methods).methods) == names


@pytest.mark.parametrize("changes", [{"peak_lr": 0.001}, '{"peak_lr": 0.001}'], ids=repr)
def test_changes_are_made_to_every_chosen_method(changes):
    methods = validate(methods=["saliency", "unseen"], changes=changes).methods
    assert {method.config.peak_lr for method in methods.values()} == {0.001}
    assert methods["saliency"].loss is METHODS["saliency"].loss


def test_no_method_takes_more_updates_than_the_longest():
    methods = validate(methods=["saliency", "unseen"], longest=900).methods
    assert {name: method.config.steps for name, method in methods.items()} == {"saliency": 800, "unseen": 900}


def test_methods_are_the_books_own_by_default():
    assert validate().methods == {name: METHODS[name] for name in COMPARED}


def test_a_smoke_run_gives_no_method_more_than_100_updates():
    run = validate(profile="smoke", methods=[*METHODS])
    steps = {name: method.config.steps for name, method in run.methods.items()}
    assert steps == {name: min(method.config.steps, 100) for name, method in METHODS.items()}


# Sizes

def test_there_are_two_profiles():
    assert list(PROFILES) == ["full", "smoke"]
    assert PROFILES["full"] == Profile()


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_a_smoke_run_trains_40_epochs_on_any_data(dataset, architecture):
    assert validate(profile="smoke", dataset=dataset, architecture=architecture).training.epochs == 40


CONV = TrainingConfig(epochs=8, batch=128, peak_lr=6e-3)


@pytest.mark.parametrize("dataset, architecture, config", [
    ("mnist", "mlp", TrainingConfig()), ("fashion", "mlp", TrainingConfig()), ("mnist", "conv", CONV),
    ("digits", "mlp", replace(TrainingConfig(), epochs=400)), ("digits", "conv", replace(CONV, epochs=400))])
def test_a_full_run_trains_as_long_as_data_and_model_need(dataset, architecture, config):
    assert validate(dataset=dataset, architecture=architecture).training == config


@pytest.mark.parametrize("profile, dataset, epochs", [
    ("full", "mnist", JudgeConfig.epochs), ("full", "digits", 60), ("smoke", "mnist", 12), ("smoke", "digits", 12)])
def test_judges_train_as_long_as_profile_and_data_need(monkeypatch, digits, profile, dataset, epochs):
    asked = []
    monkeypatch.setattr(trained, "judge", lambda *arguments: asked.append(arguments))
    validate(profile=profile, dataset=dataset, seed=5).judge(digits, "B")
    assert asked == [(digits, JudgeConfig("B", epochs=epochs), 5)]


@pytest.mark.parametrize("profile, unlearning, attack, search, guided, targets, samples", [
    ("full", UnlearningConfig(), AttackConfig(), SearchConfig(),
     AttackConfig(steps=3 * AttackConfig.steps // 10, restarts=2), 100, 1000),
    ("smoke", UnlearningConfig(steps=100), AttackConfig(steps=30, restarts=2),
     SearchConfig(pool=256, starts=2, iterations=5, rounds=4), AttackConfig(steps=9, restarts=2), 20, 100)])
def test_each_profile_has_its_sizes(profile, unlearning, attack, search, guided, targets, samples):
    run = validate(profile=profile)
    assert run.unlearning == unlearning
    assert run.attack == attack
    assert run.guided == guided
    assert run.targets == targets
    assert run.search == search
    assert run.samples == samples


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_architecture_chooses_the_model(architecture):
    assert validate(architecture=architecture).model == ARCHITECTURES[architecture]


# Models

def test_the_reference_has_as_many_rounds_as_digits_in_the_sorted_forget_set(monkeypatch, digits):
    asked = []
    monkeypatch.setattr(trained, "never_saw", lambda *arguments: asked.append(arguments))
    run = validate(seed=5)
    run.never_saw(digits, (9, 2))
    run.never_saw(digits, 9, seed=1, rounds=2)
    sizes = (run.model, run.training, run.unlearning)
    assert asked == [(digits, [2, 9], *sizes, 2, 5), (digits, [9], *sizes, 2, 1)]


def test_a_sequence_starts_from_the_baseline_of_the_runs_seed(monkeypatch, digits):
    asked = []
    monkeypatch.setattr(trained, "cvae", lambda *arguments: arguments)
    monkeypatch.setattr(trained, "sequence", lambda *arguments: asked.append(arguments))
    run = validate(seed=5)
    run.sequence(digits, (9, 2))
    assert asked == [((digits, run.model, run.training, 5, ()), digits, (9, 2), run.unlearning, 5)]


def test_the_subject_is_the_last_of_the_sequence(monkeypatch, digits):
    monkeypatch.setattr(trained, "cvae", lambda *arguments: "baseline")
    monkeypatch.setattr(trained, "sequence", lambda base, dataset, forget, *sizes: [base, *forget])
    assert validate(forget=[9, 2]).subject(digits) == 2


# Checkpoints

@pytest.mark.parametrize("model", ["", None])
def test_without_a_checkpoint_a_run_has_the_books_own_models(model):
    run = validate(model=model)
    assert run.checkpoint is None
    assert run.model == ARCHITECTURES["mlp"]


@pytest.fixture
def checkpoint(tmp_path):
    """The path, the configuration and the digest of a small convolutional model in a file."""
    config = ModelConfig("conv", latent_dim=3, hidden=(4, 8))
    path = tmp_path / "mine.safetensors"
    return path, config, save_model(path, build(config, 0))


def test_the_architecture_of_a_checkpoint_replaces_the_parameter(checkpoint):
    path, config, _ = checkpoint
    run = validate(model=str(path), architecture="mlp")
    assert run.model == config
    assert run.architecture == "conv"
    assert run.record["architecture"] == "conv"


def test_the_subject_is_the_model_in_the_checkpoint(checkpoint, digits):
    path, _, digest = checkpoint
    subject = validate(model=str(path), forget=9).subject(digits)
    assert subject.digest == digest
    assert not any(weight.requires_grad for weight in subject.net.parameters())


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04"])
def test_a_file_without_a_model_is_refused_by_name(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    message = refused(model=str(path))
    assert message.startswith("model must be the path of a checkpoint, got ")
    assert "is not a model file" in message
    assert "\n" not in message


def test_a_missing_checkpoint_is_refused_by_name(tmp_path):
    message = refused(model=str(tmp_path / "none"))
    assert message.startswith("model must be the path of a checkpoint, got ")
    assert "no file at" in message


# Smoke runs

def test_a_smoke_run_says_so_on_the_page(shown):
    assert validate(profile="smoke").smoke
    (data, metadata), = shown
    assert "Smoke run" in data["text/markdown"]
    assert metadata["sa_lib"]["role"] == "banner"


def test_a_full_run_needs_no_banner(shown):
    assert not validate(profile="full").smoke
    assert not shown


def test_a_refused_smoke_run_shows_nothing(shown):
    refused(profile="smoke", seed=-1)
    assert not shown


# Claims on the page

def test_every_claim_of_the_chapter_is_on_its_page(shown):
    validate(forget=9).show_claims("01_baseline", BASELINE)
    (data, _), = shown
    page = data["text/html"]
    assert all(f"<th>{claim.name}</th>" in page for claim in claims.CLAIMS if claim.chapter == "01_baseline")
    assert page.count("<td>holds</td>") == 3
    assert page.count("<td>does not hold</td>") == 1
    assert "claims about this chapter, held to this run.</figcaption>" in page


def test_a_page_says_for_which_parameters_nothing_is_claimed(shown):
    run = validate(profile="smoke", dataset="digits", architecture="conv")
    shown.clear()
    run.show_claims("01_baseline", BASELINE)
    others = "(not claimed for profile=smoke, dataset=digits, architecture=conv)"
    page = shown[0][0]["text/html"]
    assert page.count(f"<td>holds {others}</td>") == 3
    assert page.count(f"<td>does not hold {others}</td>") == 1


def test_metrics_with_parameters_of_their_own_are_held_to_them(shown):
    metrics = {"parameters": {"profile": "full", "table": "mine.csv"}, "back": {"ewc_gray": {"low": 0.1}},
               "sums": {"ewc_gray": {"mended": {"low": 0.1}}, "unseen": {"mended": {"low90": -0.04, "high90": 0.0}}},
               "nats": {"ewc_gray": {"high": 0.5}}}
    validate().show_claims("08_evidence", metrics)
    assert shown[0][0]["text/html"].count("<td>holds (not claimed for table=mine.csv)</td>") == 4


def test_claims_need_metrics():
    with pytest.raises(TypeError, match="^metrics must be a Mapping, got "):
        validate().show_claims("01_baseline", [97.0])


# The end of a chapter

@pytest.fixture
def models():
    """Two trained models, by name, of which only the digests matter."""
    return {name: Trained(None, pd.DataFrame(), 0.0, digest) for name, digest in
            (("baseline", "ab" * 32), ("forgot 9", "cd" * 32))}


def test_a_chapter_ends_with_its_parameters_and_metrics_in_a_file(tmp_path, shown, models):
    run = validate(forget=[9, 2], seed=7, run_dir=tmp_path)
    run.finish("01_baseline", {"nelbo": np.float32(96.5)}, models, time.perf_counter())
    metrics = chapter.read_metrics(tmp_path, "01_baseline")
    assert metrics["parameters"] == {"dataset": "mnist", "seed": 7, "forget": [9, 2], "profile": "full",
                                     "architecture": "mlp"}
    assert metrics["nelbo"] == 96.5
    assert metrics["digests"] == {"baseline": "ab" * 32, "forgot 9": "cd" * 32}


def test_the_seconds_of_a_chapter_count_from_its_beginning(tmp_path, shown, models):
    validate(run_dir=tmp_path).finish("01_baseline", {}, models, time.perf_counter() - 100)
    seconds = chapter.read_metrics(tmp_path, "01_baseline")["chapter_seconds"]
    assert 100 <= seconds < 160


def test_metrics_may_have_parameters_of_their_own(tmp_path, shown):
    validate(run_dir=tmp_path).finish("08_evidence", {"parameters": {"table": ""}}, {}, time.perf_counter())
    assert chapter.read_metrics(tmp_path, "08_evidence")["parameters"] == {"table": ""}


def test_the_last_line_of_a_chapter_has_its_seconds_and_models(tmp_path, shown, models, monkeypatch):
    monkeypatch.setattr(experiment.time, "perf_counter", lambda: 112.4)
    validate(run_dir=tmp_path).finish("01_baseline", {}, models, 100.0)
    (data, _), = shown
    assert data["text/markdown"] == ("This chapter took 12 s. SHA-256 of the weights, its beginning: "
                                     "baseline `abababababab`; forgot 9 `cdcdcdcdcdcd`.")


def test_the_last_line_of_a_chapter_without_models_says_so(tmp_path, shown):
    validate(run_dir=tmp_path).finish("08_evidence", {}, {}, time.perf_counter())
    (data, _), = shown
    assert data["text/markdown"].endswith("none were trained.")


def test_metrics_that_cannot_be_written_show_no_last_line(tmp_path, shown, models):
    with pytest.raises(ValueError, match=r"^metrics\['nelbo'\] must be a finite number, got nan$"):
        validate(run_dir=tmp_path).finish("01_baseline", {"nelbo": math.nan}, models, time.perf_counter())
    assert not shown
    assert not (tmp_path / "01_baseline" / "metrics.json").exists()


@pytest.mark.parametrize("wrong", [{"metrics": [1.0]}, {"models": ["baseline"]}])
def test_a_chapter_ends_with_metrics_and_models_by_name(tmp_path, wrong):
    name, = wrong
    with pytest.raises(TypeError, match=f"^{name} must be a Mapping, got "):
        validate(run_dir=tmp_path).finish("01_baseline", **{"metrics": {}, "models": {}, **wrong}, started=0.0)
