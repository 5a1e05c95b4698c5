"""Every figure describes itself: its alternative text names what is drawn, without a look at the picture."""

import io
import re
from inspect import signature

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

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
SWEEP = {name: pd.DataFrame({"x": [1e-4, 0.2], "y": [0.1, y]}, index=[0.0, 10.0])
         for name, y in (("with data", 0.4), ("without", 0.5))}
LONG = {f"a model with the name {n}": table + n / 1000 for n, table in enumerate([CURVES["with data"]] * 4)}

# For each figure: a call, and the words that its text must have.
CASES = {
    "image_grid": (lambda: figures.image_grid(IMAGES, rows=["before", "after"], columns=range(3), marked=[1]),
                   ["2 rows (before and after)", "3 columns (0 to 2)", "A frame marks the row after."]),
    "curves": (lambda: figures.curves(LOG, ["real", "gray", "ewc"], {"": "weighted term", "_grad": "gradient norm"}),
               ["2 panels against step", "weighted term and gradient norm", "Lines: real and gray."]),
    "concentration": (lambda: figures.concentration(FISHER, 0.1), ["at 10% of the entries", "dotted diagonal"]),
    "confusion": (lambda: figures.confusion(NUMBERS), ["2 rows (gray noise and blends)", "0, 1 and none"]),
    "matrices": (lambda: figures.matrices({"accuracy": NUMBERS, "nats": NUMBERS}, {"accuracy": ".1f", "nats": ".2f"},
                                          {"blends": [0, 2]}),
                 ["accuracy and nats", "2 rows (gray noise and blends)", "3 columns (0, 1 and none)",
                  "blends: 0 and none"]),
    "embedding": (lambda: figures.embedding(POINTS, torch.arange(20) % 10, [9]),
                  ["0 to 9", "For 9, a line", "model baseline", "model unlearned."]),
    "lines": (lambda: figures.lines(CURVES, {"gray": "distance to gray"}, "λ", "symlog", {"gray": 0.3}, ["gray"]),
              ["distance to gray (logarithmic)", "against λ (logarithmic)",
               "Lines: with data, without and a dotted reference level."]),
    "intervals": (lambda: figures.intervals(PAIRS, "rho", [0.0, 1.0], 0.15),
                  ["rho", "2 rows (threat one and threat two)", "ours and theirs", "mark 0 and 1.", "up to 0.15"]),
    "plane": (lambda: figures.plane(SWEEP, "distance", "nats", (0.1, 0.5), "λ"),
              ["nats against distance", "with data and without", "λ at the points", "ends at 0.1 and 0.5."]),
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


PHONE = 342  # pixels for a figure on a phone that is 390 wide


EVERY = {name: draw for name, (draw, _) in CASES.items()} | {
    "names": lambda: figures.lines(LONG, {"gray": "gray"}, "λ"),
    "wide": lambda: figures.image_grid(IMAGES.repeat(1, 7, 1, 1, 1), columns=range(21))}


@pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY)
def test_text_has_nine_pixels_on_a_phone(draw):
    figure, picture = draw(), io.BytesIO()
    figure.savefig(picture, format="svg", bbox_inches="tight")
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', picture.getvalue().decode())[1])  # in points
    sizes = {text.get_text(): text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}
    assert {text: size for text, size in sizes.items() if size * min(PHONE / width, 1) < 9} == {}


def test_a_long_name_goes_on_behind_an_underscore():
    (axes,) = figures.lines({"selective_amnesia_tuned": CURVES["without"]}, {"gray": "distance"}, "λ").axes
    assert "selective_\namnesia_tuned" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("tables", [LONG, SWEEP], ids=["long names", "two names"])
def test_the_names_of_lines_do_not_overlap(tables):
    figure = figures.plane(tables, "x", "y", (1, 1), "λ") if tables is SWEEP else figures.lines(
        tables, {"gray": "distance"}, "λ")
    figure.draw_without_rendering()
    wanted = {name.replace(" ", "") for name in tables}
    boxes = [text.get_window_extent() for text in figure.axes[0].texts
             if "".join(text.get_text().split()) in wanted]
    assert len(boxes) == len(tables)
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


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
