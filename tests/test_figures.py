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


def test_long_labels_of_rows_stand_above_their_images():
    images = torch.rand(2, 4, 1, 28, 28)
    (axes,) = figures.image_grid(images, rows=["the baseline", "it forgot 9"]).axes
    assert [text.get_text() for text in axes.texts] == ["the baseline", "it forgot 9"]
    sheet = np.asarray(axes.images[0].get_array())
    below = [int(np.ceil(text.get_position()[1])) for text in axes.texts]
    for row, start in zip(images, below):
        top = next(y for y in range(start, len(sheet)) if (sheet[y] < 1).any())
        assert np.allclose(sheet[top:top + 28, 2:30], row[0, 0])


def test_the_curve_of_the_fisher_adds_up_its_largest_entries(fisher):
    (axes,) = figures.concentration(fisher, 0.1).axes
    curve, even, point = axes.lines
    entries = np.sort(torch.cat([values.flatten() for values in fisher.values()]).double().numpy())[::-1]
    assert point.get_ydata()[0] == pytest.approx(100 * entries[:int(0.1 * len(entries))].sum() / entries.sum())
    assert curve.get_xydata()[[0, -1]] == pytest.approx(np.array([[0, 0], [100, 100]]))
    assert (np.interp(even.get_xdata(), curve.get_xdata(), curve.get_ydata()) >= even.get_ydata() - 1e-9).all()


def test_curves_are_the_columns_of_the_log():
    log = pd.DataFrame({"step": [0, 1, 2], "real": [3.0, 2.0, 1.0], "real_grad": [3.0, None, 1.0]})
    value, gradient = figures.curves(log, ["real", "gray"], {"": "value", "_grad": "norm"}).axes
    assert [list(line.get_ydata()) for line in value.lines] == [[3, 2, 1]]
    assert list(gradient.lines[0].get_xdata()) == [0, 2]


def test_lines_has_a_line_for_each_table_and_one_for_the_bound():
    tables = {name: pd.DataFrame({"gray": [0.1, 0.2]}, index=[0.0, 10.0]) for name in ("one", "two")}
    (axes,) = figures.lines(tables, {"gray": "distance"}, "λ", "symlog", {"gray": 0.3}, logarithmic=["gray"]).axes
    assert len(axes.lines) == 3
    assert [text.get_text() for text in axes.texts] == ["one", "two"]
    assert set(axes.lines[2].get_ydata()) == {0.3}
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "distance"
    assert axes.get_xlabel() == "λ"


def test_one_thing_has_one_color_and_one_kind_of_line_in_several_figures():
    table = pd.DataFrame({"gray": [0.1, 0.2]}, index=[0.0, 10.0])
    points = pd.DataFrame({("two", "a"): {"x": 0.5, "y": 2.0}}).T
    colors = dict(zip(["one", "two"], figures.PALETTE))
    (first,), (second,) = (figures.lines({name: table for name in names}, {"gray": "distance"}, "λ",
                                         colors=colors).axes for names in (["one", "two"], ["two"]))
    (third,) = figures.tradeoff(points, "residue", "cost", colors).axes
    assert first.lines[1].get_color() == second.lines[0].get_color() == third.lines[0].get_color() == colors["two"]
    assert first.lines[1].get_linestyle() == second.lines[0].get_linestyle() == "--"
    with pytest.raises(ValueError, match="^colors must have a color for every name, got none for \\['three'\\]$"):
        figures.lines({"three": table}, {"gray": "distance"}, "λ", colors=colors)


def test_names_along_the_x_axis_break_at_spaces():
    table = pd.DataFrame({"cka": [1.0, 0.9]}, index=["encoder 1", "mean"])
    (axes,) = figures.lines({"one": table}, {"cka": "CKA"}, "layer").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["encoder\n1", "mean"]


def test_matrices_share_rows_and_frame_the_marked_cells():
    tables = {name: pd.DataFrame([[0.25, 1.5], [2.0, 3.0]], index=["a", "b"]) for name in ("one", "two")}
    figure = figures.matrices(tables, {"one": ".1f", "two": ".2f"}, {"b": [1]})
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.25", "1.50", "2.00", "3.00"]
    assert [patch.get_xy() for patch in figure.axes[0].patches] == [(1, 1)]


def test_a_cell_without_a_number_has_a_dash_and_the_colors_have_fixed_ends():
    table = pd.DataFrame([[0.25, float("nan")]], index=["a"])
    (axes,) = figures.matrices({"one": table}, {"one": ".1f"}, scale=(-1.0, 2.0)).axes
    assert axes.collections[0].get_clim() == (-1.0, 2.0)
    assert [text.get_text() for text in axes.texts] == ["0.2", "–"]


def test_an_embedding_leads_the_points_of_a_marked_label_to_their_second_place():
    points, labels = {name: torch.randn(20, 2) for name in ("one", "two")}, torch.arange(20) % 2
    (axes,) = figures.embedding(points, labels, marked=[1]).axes
    assert len(axes.lines) == 10
    assert axes.lines[3].get_xydata() == pytest.approx(np.stack([points[name][7].numpy() for name in points]))


def test_a_band_is_drawn_where_a_table_has_its_ends():
    table = pd.DataFrame({"rho": [0.1, 0.3], "rho, low": [0.0, 0.2], "rho, high": [0.2, 0.4]}, index=[1.0, 10.0])
    (axes,) = figures.lines({"with": table, "without": table[["rho"]]}, {"rho": "ρ"}, "images", "log").axes
    (band,) = axes.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices.round(3)} >= {(1.0, 0.0), (10.0, 0.4)}


def test_a_plane_names_the_values_of_a_sweep_and_colors_the_corner():
    table = pd.DataFrame({"x": [1e-4, 1e-2], "y": [0.2, 0.6]}, index=[0.0, 100.0])
    (axes,) = figures.plane({"one": table}, "distance", "nats", (0.005, 0.5), "λ").axes
    assert [text.get_text() for text in axes.texts] == ["λ = 0", "100", "good on both", "one"]
    assert axes.collections[0].get_paths()[0].vertices.max(0) == pytest.approx([0.005, 0.5])


def test_intervals_leave_undefined_values_out():
    table = pd.DataFrame({"value": [0.1, float("nan")], "low": [0.0, float("nan")], "high": [0.3, float("nan")]},
                         index=pd.MultiIndex.from_tuples([("a", "x"), ("b", "x")]))
    (axes,) = figures.intervals(table, "rho", [0.0]).axes
    (container,) = axes.containers
    assert list(container[0].get_xdata()) == [0.1]
    assert axes.get_xlabel() == "rho"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_intervals_take_the_axis_from_their_own_columns():
    table = pd.DataFrame({"value": [0.1], "low": [0.0], "high": [0.3], "resolution": [12.0]},
                         index=pd.MultiIndex.from_tuples([("a", "x")]))
    (axes,) = figures.intervals(table, "rho", [0.0, 1.0]).axes
    assert axes.get_xlim()[1] < 1.2


def test_shares_are_shown_in_percent():
    table = pd.DataFrame([[0.25, 0.75, 0.004]], index=["gray"], columns=["0", "none", "1"])
    assert [text.get_text() for text in figures.confusion(table).axes[0].texts] == ["25", "75", ""]


def test_a_tradeoff_has_a_point_for_each_model_and_measure():
    table = pd.DataFrame({("one", "a"): {"x": 0.5, "y": 2.0}, ("one", "b"): {"x": -0.5, "y": 2.0},
                          ("two", "a"): {"x": 0.1, "y": -3.0}, ("two", "b"): {"x": 0.2, "y": -3.0}}).T
    (axes,) = figures.tradeoff(table, "residue", "cost").axes
    points = {(*line.get_xdata(), *line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 1}
    assert {(0.5, 2.0), (-0.5, 2.0), (0.1, -3.0), (0.2, -3.0)} <= points
    assert axes.figure.legends == []
    assert [text.get_text() for text in axes.texts] == ["a", "b", "two", "one"]
    assert [text.xy for text in axes.texts[:2]] == [(0.5, 2.0), (-0.5, 2.0)], "the widest series names the measures"
