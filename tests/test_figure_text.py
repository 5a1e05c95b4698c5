"""Every figure describes itself: its alternative text names what is drawn, without a look at the picture."""

from inspect import signature

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from sa_lib import figures
from sa_lib.model import ModelConfig, build

SMALL = ModelConfig(latent_dim=2, hidden=(16, 8))
FISHER = {name: weight.detach().square() for name, weight in build(SMALL, 0).named_parameters()}
IMAGES = torch.rand(2, 3, 1, 28, 28)
LOG = pd.DataFrame({"step": [0, 1], "real": [3.0, 2.0], "gray": [2.0, 1.0], "real_grad": [3.0, 2.0]})
NUMBERS = pd.DataFrame([[0.2, 0.8, 0.0], [0.5, 0.5, 0.0]], index=["gray noise", "blends"], columns=["0", "1", "none"])
PAIRS = pd.DataFrame({"value": 0.2, "low": 0.1, "high": 0.4, "x": 0.2, "y": 2.0},
                     index=pd.MultiIndex.from_product([("threat one", "threat two"), ("ours", "theirs")]))
POINTS = {"baseline": torch.rand(20, 2), "unlearned": torch.rand(20, 2)}
CURVES = {name: pd.DataFrame({"gray": [0.1, 0.2]}, index=[0.0, 10.0]) for name in ("with data", "without")}

# For each figure: a call, and the words that its text must have.
CASES = {
    "image_grid": (lambda: figures.image_grid(IMAGES, rows=["before", "after"], columns=range(3), marked=[1]),
                   ["2 rows (before and after)", "3 columns (0 to 2)", "A frame marks the row after."]),
    "curves": (lambda: figures.curves(LOG, ["real", "gray", "ewc"], {"": "weighted term", "_grad": "gradient norm"}),
               ["2 panels against the step", "weighted term and gradient norm", "Lines: real and gray."]),
    "fisher_layers": (lambda: figures.fisher_layers(FISHER), ["encoder.layers.0", "decoder.layers.4"]),
    "fisher_maps": (lambda: figures.fisher_maps(FISHER, SMALL), ["encoder: input pixels", "decoder: output pixels"]),
    "confusion": (lambda: figures.confusion(NUMBERS), ["2 rows (gray noise and blends)", "0, 1 and none"]),
    "matrices": (lambda: figures.matrices({"accuracy": NUMBERS, "nats": NUMBERS}, {"accuracy": ".1f", "nats": ".2f"},
                                          {"blends": [0, 2]}),
                 ["accuracy and nats", "2 rows (gray noise and blends)", "3 columns (0, 1 and none)",
                  "blends: 0 and none"]),
    "embedding": (lambda: figures.embedding(POINTS, torch.arange(20) % 10, [9]),
                  ["baseline and unlearned", "0 to 9", "mark 9."]),
    "lines": (lambda: figures.lines(CURVES, {"gray": "distance to gray"}, "λ", "symlog", {"gray": 0.3}, ["gray"]),
              ["distance to gray (logarithmic)", "against λ (logarithmic)",
               "Lines: with data, without and a dotted reference level."]),
    "intervals": (lambda: figures.intervals(PAIRS, "rho", [0.0, 1.0]),
                  ["rho", "2 rows (threat one and threat two)", "ours and theirs", "mark 0 and 1."]),
    "tradeoff": (lambda: figures.tradeoff(PAIRS, "residue", "cost"),
                 ["cost against residue", "threat one and threat two", "ours and theirs"]),
}


def test_every_public_figure_is_here():
    public = {name: getattr(figures, name) for name in figures.__all__}
    assert sorted(CASES) == sorted(name for name, value in public.items()
                                   if callable(value) and signature(value).return_annotation is Figure)


@pytest.mark.parametrize("name", CASES)
def test_a_figure_names_its_parts(name):
    draw, words = CASES[name]
    text = draw().alt
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize("name", CASES)
def test_an_alternative_text_is_one_line_of_short_sentences(name):
    text = CASES[name][0]().alt
    assert "\n" not in text
    assert text[0] == text[0].upper()
    assert text.endswith(".")
    assert len(text) < 400


@pytest.mark.parametrize("labels, phrase", [
    ([], ""), (["", " "], ""), (["gray"], "gray"), ([0, 1], "0 and 1"), ([0, 1, 2], "0 to 2"),
    (["before", "", "before", "after"], "before and after"), ([9, 3, 4, 5, "none"], "9, 3 to 5 and none"),
    (["one, a", "two, b"], "one, a; and two, b"), (["a\nb"], "a b"),
    ([f"model {n}" for n in "abcdefghijklm"], "model a, model b, model c, model d, model e, model f, model g, "
                                              "model h, model i, model j, model k and 2 more")])
def test_labels_become_a_phrase(labels, phrase):
    figure = figures.image_grid(torch.rand(max(1, len(labels)), 1, 28, 28), rows=labels)
    count = max(1, len(labels))
    expected = f"{count} row{'s' if count > 1 else ''}{f' ({phrase})' if phrase else ''} and 1 column."
    assert figure.alt == f"A grid of images with {expected}"
