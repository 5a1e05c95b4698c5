"""Figures show their data: the right values at the right places."""

import numpy as np
import pandas as pd
import pytest
import torch

from sa_lib import figures
from sa_lib.fisher import fisher_diagonal
from sa_lib.model import ModelConfig, build


@pytest.fixture(params=[ModelConfig(latent_dim=2, hidden=(16, 8)), ModelConfig("conv", latent_dim=2, hidden=(4, 8))],
                ids=lambda config: config.architecture)
def model(request):
    return build(request.param, 0)


@pytest.fixture
def fisher(model, digits):
    return fisher_diagonal(model, digits.train_images[:32], digits.train_labels[:32], torch.zeros(32, 2))


def test_a_grid_holds_every_image_at_its_place():
    images = torch.rand(3, 4, 1, 28, 28)
    figure = figures.image_grid(images, rows=["a", "b", "c"], columns=range(4), marked=[1])
    (axes,) = figure.axes
    sheet = np.asarray(axes.images[0].get_array())
    assert np.allclose(sheet[2 + 30:30 + 30, 2 + 90:30 + 90], images[1, 3, 0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert len(axes.patches) == 1


def test_every_weight_matrix_has_its_box_from_the_image_to_the_pixels(fisher):
    (axes,) = figures.fisher_layers(fisher).axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(f"{name}.weight" for name in shown) == sorted(n for n in fisher if n.endswith("weight"))
    assert [name.split(".")[0] for name in shown] == sorted((n.split(".")[0] for n in shown), reverse=True)


def test_the_maps_show_the_fisher_of_the_pixels(fisher, model):
    maps = [axes.images[0].get_array() for axes in figures.fisher_maps(fisher, model.config).axes if axes.images]
    side = {"mlp": 28, "conv": 4}[model.config.architecture]
    assert [m.shape for m in maps] == [(side, side)] * 2
    last = model.decoder.layers[-1].weight
    name = next(n for n, weight in model.named_parameters() if weight is last)
    assert float(maps[1].sum()) == pytest.approx(float(fisher[name].sum()), rel=1e-5)


def test_curves_are_the_columns_of_the_log():
    log = pd.DataFrame({"step": [0, 1, 2], "real": [3.0, 2.0, 1.0], "real_grad": [3.0, None, 1.0]})
    value, gradient = figures.curves(log, ["real", "gray"], {"": "value", "_grad": "norm"}).axes
    assert [list(line.get_ydata()) for line in value.lines] == [[3, 2, 1]]
    assert list(gradient.lines[0].get_xdata()) == [0, 2]


def test_lines_has_a_line_for_each_table_and_one_for_the_bound():
    tables = {name: pd.DataFrame({"gray": [0.1, 0.2]}, index=[0.0, 10.0]) for name in ("one", "two")}
    (axes,) = figures.lines(tables, {"gray": "distance"}, "λ", "symlog", {"gray": 0.3}, logarithmic=["gray"]).axes
    assert len(axes.lines) == 3
    assert set(axes.lines[2].get_ydata()) == {0.3}
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "distance"
    assert axes.get_xlabel() == "λ"


def test_matrices_share_rows_and_frame_the_marked_cells():
    tables = {name: pd.DataFrame([[0.25, 1.5], [2.0, 3.0]], index=["a", "b"]) for name in ("one", "two")}
    figure = figures.matrices(tables, {"one": ".1f", "two": ".2f"}, {"b": [1]})
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.25", "1.50", "2.00", "3.00"]
    assert [patch.get_xy() for patch in figure.axes[0].patches] == [(1, 1)]


def test_an_embedding_has_a_panel_for_each_model_on_shared_axes():
    points = {name: torch.randn(20, 2) for name in ("one", "two", "three")}
    labels = torch.arange(20) % 2
    figure = figures.embedding(points, labels, marked=[1])
    assert [axes.get_title() for axes in figure.axes] == ["one", "two", "three", ""]
    assert figure.axes[0].get_xlim() == figure.axes[2].get_xlim()
    assert [len(axes.collections) for axes in figure.axes] == [2, 2, 2, 0]


def test_intervals_leave_undefined_values_out():
    table = pd.DataFrame({"value": [0.1, float("nan")], "low": [0.0, float("nan")], "high": [0.3, float("nan")]},
                         index=pd.MultiIndex.from_tuples([("a", "x"), ("b", "x")]))
    (axes,) = figures.intervals(table, "rho", [0.0]).axes
    (container,) = axes.containers
    assert list(container[0].get_xdata()) == [0.1]
    assert axes.get_xlabel() == "rho"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_shares_are_shown_in_percent():
    table = pd.DataFrame([[0.25, 0.75]], index=["gray"], columns=["0", "none"])
    assert [text.get_text() for text in figures.confusion(table).axes[0].texts] == ["25", "75"]


def test_a_tradeoff_has_a_point_for_each_model_and_measure():
    table = pd.DataFrame({("one", "a"): {"x": 0.5, "y": 2.0}, ("one", "b"): {"x": -0.5, "y": 2.0},
                          ("two", "a"): {"x": 0.1, "y": -3.0}, ("two", "b"): {"x": 0.2, "y": -3.0}}).T
    (axes,) = figures.tradeoff(table, "residue", "cost").axes
    points = {(*line.get_xdata(), *line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 1}
    assert {(0.5, 2.0), (-0.5, 2.0), (0.1, -3.0), (0.2, -3.0)} <= points
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["one", "two", "a", "b"]
