import json
import math
import subprocess
import sys

import IPython.display
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from sa_lib import chapter
from sa_lib.checkpoints import save_model
from sa_lib.model import ModelConfig, build
from sa_lib.unlearning import METHODS


@pytest.fixture
def shown(monkeypatch):
    """What a cell displayed: (data, metadata) of each output."""
    outputs = []
    monkeypatch.setattr(IPython.display, "display",
                        lambda data, raw, metadata=None: outputs.append((data, metadata or {})))
    return outputs


@pytest.mark.parametrize("name, value", [
    ("forget", 10), ("forget", -1), ("forget", "nine"), ("forget", True), ("forget", 9.0),
    ("forget", [9, 9]), ("forget", list(range(10))), ("forget", "[3, 3]"), ("forget", []), ("forget", None),
    ("model", 3), ("model", "a\0b"),
    ("forget_sequence", [9, 9]), ("forget_sequence", list(range(10))), ("forget_sequence", "92"),
    ("methods", "saliency"), ("methods", ["prayer"]), ("methods", 3), ("methods", [["saliency"]]),
    ("changes", {"colour": 1}), ("changes", {"steps": 0}), ("changes", "steps"), ("changes", [1]),
    ("longest", 0), ("longest", 1.5), ("longest", True),
    ("seed", -1), ("seed", 2**31), ("seed", None), ("dataset", "imagenet"), ("dataset", ["mnist"]),
    ("profile", "fast"), ("architecture", "transformer"), ("run_dir", ""), ("run_dir", 3),
])
def test_a_bad_parameter_is_named_with_its_value(name, value):
    with pytest.raises(ValueError) as error:
        chapter.validate(**{name: value})
    assert str(error.value).startswith(f"{name}={value!r} is not allowed; use ")
    assert "\n" not in str(error.value)


@given(st.sampled_from(["dataset", "seed", "forget", "forget_sequence", "profile", "architecture", "longest"]),
       st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=11), max_leaves=12))
def test_a_parameter_is_kept_as_it_is_or_refused(name, value):
    try:
        parameters = chapter.validate(**{name: value})
    except ValueError:
        return
    if name.startswith("forget"):
        classes = json.loads(value) if isinstance(value, str) else value
        assert list(parameters.forget_sequence) == (classes if isinstance(classes, list) else [classes])
    else:
        assert getattr(parameters, name) == value


def test_methods_are_chosen_and_changed():
    run = chapter.validate(methods='["saliency", "unseen"]', changes='{"peak_lr": 0.001}', longest=900)
    assert {name: m.config.steps for name, m in run.methods.items()} == {"saliency": 800, "unseen": 900}
    assert {m.config.peak_lr for m in run.methods.values()} == {0.001}
    assert run.methods["saliency"].terms is METHODS["saliency"].terms
    everything = chapter.validate()
    assert everything.methods == METHODS
    assert max(m.config.steps for m in chapter.validate(profile="smoke").methods.values()) == 100


def test_classes_may_be_one_or_several_and_text():
    assert chapter.validate(forget=3).forget_sequence == (3,)
    assert chapter.validate(forget="[3, 5]").forget_sequence == (3, 5)
    assert chapter.validate(forget_sequence=[5, 3]).forget_sequence == (5, 3)
    with pytest.raises(ValueError, match=r"forget=\[3, 5\] is not allowed; use a whole number from 0 to 9$"):
        chapter.validate(forget=[3, 5], at_most=1)


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04"])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^model=.*is not allowed: .*is not a model file"):
        chapter.validate(model=str(path))
    with pytest.raises(ValueError, match="is not allowed: no file at"):
        chapter.validate(model=str(tmp_path / "none"))


def test_a_checkpoint_decides_over_the_architecture(tmp_path, digits):
    config = ModelConfig("conv", latent_dim=3, hidden=(4, 8))
    model = build(config, 0)
    digest = save_model(tmp_path / "mine.safetensors", model)
    run = chapter.validate(model=str(tmp_path / "mine.safetensors"), forget=9)
    assert run.model == config and run.architecture == "conv"
    assert run.subject(digits).digest == digest


def test_a_smoke_run_says_so(shown):
    assert chapter.validate(profile="smoke").smoke
    (data, metadata), = shown
    assert "Smoke run" in data["text/markdown"]
    assert metadata["sa_lib"]["role"] == "banner"
    shown.clear()
    assert not chapter.validate(profile="full").smoke
    assert not shown


def test_metrics_come_back_as_plain_numbers(tmp_path):
    chapter.write_metrics(tmp_path, "01_baseline", {
        "nll": np.float32(0.5), "loss": torch.tensor(2.0), "curve": np.arange(3), "classes": {3: True},
        "text": "yes", "nothing": None, "pair": (1, 2.5)})
    assert chapter.read_metrics(tmp_path, "01_baseline") == {
        "nll": 0.5, "loss": 2.0, "curve": [0, 1, 2], "classes": {"3": True},
        "text": "yes", "nothing": None, "pair": [1, 2.5]}


@pytest.mark.parametrize("value, complaint", [
    (math.nan, "metrics['by']['class'][1] is nan"), (np.inf, "metrics['by']['class'][1] is inf"),
    (object(), "metrics['by']['class'][1] is a object")])
def test_metrics_refuse_what_is_no_result_and_keep_the_old_ones(tmp_path, value, complaint):
    chapter.write_metrics(tmp_path, "01_baseline", {"nll": 1.0})
    with pytest.raises(ValueError) as error:
        chapter.write_metrics(tmp_path, "01_baseline", {"by": {"class": [0.0, value]}})
    assert str(error.value).startswith(complaint)
    assert chapter.read_metrics(tmp_path, "01_baseline") == {"nll": 1.0}
    assert [path.name for path in (tmp_path / "01_baseline").glob("*metrics*")] == ["metrics.json"]


def test_metrics_missing_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="no metrics of 01_baseline"):
        chapter.read_metrics(tmp_path, "01_baseline")
    chapter.write_metrics(tmp_path, "01_baseline", {"nll": 1.0})
    for damage in ('{"nll": 1', "[1]"):
        (tmp_path / "01_baseline" / "metrics.json").write_text(damage)
        with pytest.raises(ValueError, match="is damaged"):
            chapter.read_metrics(tmp_path, "01_baseline")
    with pytest.raises(ValueError, match="chapter='../01' is not allowed"):
        chapter.write_metrics(tmp_path, "../01", {})


def test_say_formats_and_keeps_python_floats(shown):
    chapter.say("**{nll:.1f}** nats, $e^{{x}}$", nll=np.float32(96.54))
    (data, metadata), = shown
    assert data["text/markdown"] == "**96.5** nats, $e^{x}$"
    assert type(metadata["sa_lib"]["numbers"]["nll"]) is float
    with pytest.raises(ValueError, match="nll is nan"):
        chapter.say("{nll}", nll=torch.tensor(math.nan))


def test_a_figure_is_shown_at_double_resolution_and_closed(shown):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1])
    chapter.show_figure(figure, "It rises.", alt="A line.")
    (picture, about), (caption, about_caption) = shown
    data = picture["image/png"]
    pixels = int.from_bytes(data[16:20], "big")
    assert abs(pixels - 2 * about["image/png"]["width"]) <= 1
    assert 400 < pixels < 800
    assert about["sa_lib"] == {"role": "figure", "caption": "It rises.", "alt": "A line.",
                               "width": about["image/png"]["width"]}
    assert (caption["text/markdown"], about_caption["sa_lib"]["role"]) == ("*It rises.*", "caption")
    assert not plt.fignum_exists(figure.number)
    with pytest.raises(ValueError, match="needs both"):
        chapter.show_figure(plt.figure(), "It rises.", alt=" ")
    plt.close("all")


def test_a_table_formats_escapes_and_has_one_row_of_headers(shown):
    frame = pd.DataFrame({"digit": [8, 9], "share": [0.5, math.nan], "<b>": ["<i>", "x"]}).set_index("digit")
    chapter.show_table(frame, "Shares & more", {"share": "{:.1%}"})
    page = shown[0][0]["text/html"]
    assert "50.0%" in page and "–" in page and "nan" not in page
    assert "&lt;i&gt;" in page and "&lt;b&gt;" in page and "Shares &amp; more</caption>" in page
    assert page.count("<tr") == 3 and "<th>digit</th>" in page
    with pytest.raises(ValueError, match=r"formats names \['nll'\]"):
        chapter.show_table(frame, "Shares", {"nll": "{}"})
    with pytest.raises(ValueError, match="frame is an empty table"):
        chapter.show_table(frame.iloc[:0], "Shares")


def test_the_library_works_without_the_tools_of_the_book():
    blocked = ["IPython", "ipykernel", "jupytext", "nbformat", "papermill", "jupyter_book"]
    code = (f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
            "from sa_lib import chapter; print(chapter.validate(forget=3).forget)")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "3\n"
