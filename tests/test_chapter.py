"""The page: prose with numbers, figures, tables, and metrics that are written and read."""

import io
import json
import math

import IPython.display
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from sa_lib import chapter, store
from sa_lib.measures import MEASURES


@pytest.fixture
def shown(monkeypatch):
    """The outputs of a cell: (data, metadata) of each."""
    outputs = []
    monkeypatch.setattr(IPython.display, "display",
                        lambda data, raw, metadata=None: outputs.append((data, metadata or {})))
    return outputs


@pytest.fixture
def figure():
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1], color="black")
    yield figure
    plt.close(figure)


def page_of(shown):
    """The HTML of the only table."""
    (data, _), = shown
    return data["text/html"]


# Prose

def test_prose_has_its_numbers_in_their_formats(shown):
    chapter.say("**{nll:.1f}** nats, $e^{{x}}$", nll=np.float32(96.54))
    (data, _), = shown
    assert data == {"text/markdown": "**96.5** nats, $e^{x}$", "text/plain": "**96.5** nats, $e^{x}$"}


def test_an_interval_stays_on_one_line_in_prose_and_in_tables(shown):
    chapter.say("ρ = {rho} ([a, b](c.ipynb))", rho="+0.1 [-∞, +0.2]")
    chapter.show_table(pd.DataFrame({"ρ": ["+0.1 [-∞, +0.2]"]}), "ρ")
    (prose, metadata), (table, _) = shown
    assert prose["text/markdown"] == "ρ = +0.1 [-\u2060∞,\xa0+0.2] ([a, b](c.ipynb))"
    assert metadata["sa_lib"]["numbers"] == {"rho": "+0.1 [-∞, +0.2]"}
    assert "<td>+0.1 [-\u2060∞,\xa0+0.2]</td>" in table["text/html"]


@pytest.mark.parametrize("value, kind", [(np.float32(0.5), float), (torch.tensor(2), int), (np.bool_(True), bool),
                                         (3, int), ("nine", str)])
def test_the_numbers_of_prose_are_kept_as_plain_values(shown, value, kind):
    chapter.say("{it}", it=value)
    (_, metadata), = shown
    kept = metadata["sa_lib"]["numbers"]["it"]
    assert type(kept) is kind
    assert kept == value


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(math.nan)])
def test_prose_refuses_a_number_that_is_not_finite(shown, value):
    with pytest.raises(ValueError, match="^nll must be a finite number, got (nan|inf)$"):
        chapter.say("{nll}", nll=value)
    assert not shown


def test_markdown_tells_the_book_its_role(shown):
    chapter.show_markdown("> Careful.", role="banner")
    assert shown == [({"text/markdown": "> Careful.", "text/plain": "> Careful."}, {"sa_lib": {"role": "banner"}})]


# Parts

@pytest.mark.parametrize("error", [ValueError("loss must be\nfinite, got nan"),
                                   OverflowError("loss must be finite, got nan; lower the learning rate")])
def test_a_part_that_fails_is_named_in_its_place(shown, error):
    with chapter.part("Attacks"):
        raise error
    assert [data["text/markdown"] for data, _ in shown] == [
        "> **Attacks: not measured.** loss must be finite, got nan."]


def test_a_part_without_an_error_shows_nothing_of_its_own(shown):
    with chapter.part("Attacks"):
        pass
    assert not shown


@pytest.mark.parametrize("error", [TypeError, KeyError, KeyboardInterrupt])
def test_a_mistake_in_the_code_of_a_part_stops_the_chapter(shown, error):
    with pytest.raises(error), chapter.part("Attacks"):
        raise error
    assert not shown


# Figures

def test_a_figure_is_a_picture_at_double_resolution(shown, figure):
    chapter.show_figure(figure, "It rises.", alt="A line.")
    picture, about = shown[0]
    pixels = Image.open(io.BytesIO(picture["image/png"])).size
    assert 400 < pixels[0] < 800
    assert pixels[0] // 2 == about["image/png"]["width"]
    assert pixels[1] // 2 == about["image/png"]["height"]


def test_a_figure_has_its_caption_and_alternative_text(shown, figure):
    chapter.show_figure(figure, "It rises.", alt="A line.")
    (picture, about), _ = shown
    assert picture["text/plain"] == "A line."
    assert about["image/png"]["alt"] == "A line."
    assert about["sa_lib"] == {"role": "figure", "caption": "It rises.", "alt": "A line.",
                               "width": about["image/png"]["width"]}


def test_the_caption_follows_the_figure(shown, figure):
    chapter.show_figure(figure, "It rises.", alt="A line.")
    data, about = shown[1]
    assert data["text/markdown"] == "*It rises.*"
    assert about["sa_lib"]["role"] == "caption"


def test_a_figure_brings_its_own_alternative_text(shown, figure):
    figure.alt = "A line from 0 to 1."
    chapter.show_figure(figure, "It rises.")
    (picture, about), _ = shown
    assert picture["text/plain"] == "A line from 0 to 1."
    assert about["sa_lib"]["alt"] == "A line from 0 to 1."
    assert about["image/png"]["alt"] == "A line from 0 to 1."


def test_an_alternative_text_of_the_cell_replaces_that_of_the_figure(shown, figure):
    figure.alt = "A line from 0 to 1."
    chapter.show_figure(figure, "It rises.", alt="A rising line.")
    assert shown[0][1]["sa_lib"]["alt"] == "A rising line."


def test_a_figure_that_is_shown_is_closed(shown, figure):
    chapter.show_figure(figure, "It rises.", alt="A line.")
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize("color, mode", [("black", "L"), ("red", "RGB")])
def test_a_gray_figure_is_saved_without_color(shown, figure, color, mode):
    figure.axes[0].lines[0].set_color(color)
    chapter.show_figure(figure, "It rises.", alt="A line.")
    assert Image.open(io.BytesIO(shown[0][0]["image/png"])).mode == mode


@pytest.mark.parametrize("caption, alt", [("It rises.", ""), ("It rises.", " "), ("", "A line."), ("\n", "A line.")])
def test_a_figure_needs_a_caption_and_an_alternative_text(shown, caption, alt):
    with pytest.raises(ValueError, match="^caption and alt must be texts that are not empty, got "):
        chapter.show_figure(Figure(), caption, alt)
    assert not shown


@pytest.mark.parametrize("wrong", [{"figure": "a.png"}, {"caption": None}, {"alt": 3}])
def test_a_figure_and_its_texts_have_their_types(wrong):
    name, = wrong
    with pytest.raises(TypeError, match=f"^{name} must be a (Figure|str), got "):
        chapter.show_figure(**{"figure": Figure(), "caption": "It rises.", "alt": "A line.", **wrong})


# Tables

@pytest.fixture
def frame():
    return pd.DataFrame({"accuracy": [0.5, math.nan], "nelbo": [96.123, 97.0], "<b>": ["<i>", "x"]},
                        pd.Index([8, 9], name="digit"))


@pytest.mark.parametrize("name", MEASURES)
def test_a_column_of_a_measure_has_its_title_and_format(shown, name):
    chapter.show_table(pd.DataFrame({name: [0.123456]}), "One measure")
    page = page_of(shown)
    measure = MEASURES[name]
    assert f">{measure.title}" in page
    assert f"<td>{measure.format.format(0.123456)}</td>" in page


def test_a_unit_stands_behind_the_title_of_its_column(shown, frame):
    chapter.show_table(frame, "Fit")
    assert "<th>negative ELBO, nats</th>" in page_of(shown)


def test_a_format_of_the_cell_replaces_that_of_the_measure(shown, frame):
    chapter.show_table(frame, "Fit", {"nelbo": "{:.3f}"})
    page = page_of(shown)
    assert "<td>96.123</td>" in page
    assert "<th>negative ELBO, nats</th>" in page
    assert "<td>50.0%</td>" in page


def test_a_column_that_is_no_measure_keeps_its_name_and_takes_a_format(shown):
    chapter.show_table(pd.DataFrame({"speed": [0.5], "pace": [0.123456]}), "Speed", {"speed": "{:.1%}"})
    page = page_of(shown)
    assert "<th>speed</th>" in page
    assert "<td>50.0%</td>" in page
    assert "<td>0.123</td>" in page


def test_text_in_the_column_of_a_measure_stays_as_it_is(shown):
    chapter.show_table(pd.DataFrame({"accuracy": ["50.0% → 40.0%"]}), "Change")
    page = page_of(shown)
    assert "<th>judge B's accuracy</th>" in page
    assert "<td>50.0% → 40.0%</td>" in page


def test_a_missing_value_is_a_dash_in_a_table(shown, frame):
    chapter.show_table(frame, "Fit")
    page = page_of(shown)
    assert "<td>–</td>" in page
    assert "nan" not in page.lower()


def test_text_in_a_table_is_escaped(shown, frame):
    chapter.show_table(frame, 'Shares & "more"')
    page = page_of(shown)
    assert "<td>&lt;i&gt;</td>" in page
    assert "<th>&lt;b&gt;</th>" in page
    assert "Shares &amp; &quot;more&quot;</figcaption>" in page
    assert 'aria-label="Shares &amp; &quot;more&quot;"' in page


def test_the_name_of_the_index_costs_no_second_row_of_headers(shown, frame):
    chapter.show_table(frame, "Fit")
    page = page_of(shown)
    assert page.count("<tr") == 3
    assert "<th>digit</th>" in page


def test_a_wide_table_scrolls_from_the_keyboard_too(shown, frame):
    chapter.show_table(frame, "Fit")
    assert '<div style="overflow-x: auto" tabindex="0" role="region" aria-label="Fit"><table' in page_of(shown)


def test_a_table_is_plain_text_too(shown, frame):
    chapter.show_table(frame, "Fit")
    assert shown[0][0]["text/plain"].startswith("Fit\n")


def test_a_table_leaves_its_frame_alone(shown, frame):
    copy = frame.copy()
    chapter.show_table(frame, "Fit", {"nelbo": "{:.3f}"})
    pd.testing.assert_frame_equal(frame, copy)


@pytest.mark.parametrize("name", ["nll", "negative ELBO, nats"])
def test_a_format_of_no_column_is_refused(shown, frame, name):
    with pytest.raises(ValueError) as error:
        chapter.show_table(frame, "Fit", {name: "{}"})
    assert str(error.value) == f"formats must name columns among ['accuracy', 'nelbo', '<b>'], got ['{name}']"
    assert not shown


@pytest.mark.parametrize("empty", [pd.DataFrame(), pd.DataFrame({"nelbo": []}), pd.DataFrame(index=[1])])
def test_an_empty_table_is_refused(shown, empty):
    with pytest.raises(ValueError, match="^frame must have at least one row and one column, got an empty table$"):
        chapter.show_table(empty, "Fit")
    assert not shown


# Metrics

def test_metrics_come_back_as_plain_numbers(tmp_path):
    chapter.write_metrics(tmp_path, "01_baseline", {
        "nll": np.float32(0.5), "loss": torch.tensor(2.0), "curve": np.arange(3), "classes": {3: True},
        "text": "yes", "nothing": None, "pair": (1, 2.5)})
    assert chapter.read_metrics(tmp_path, "01_baseline") == {
        "nll": 0.5, "loss": 2.0, "curve": [0, 1, 2], "classes": {"3": True},
        "text": "yes", "nothing": None, "pair": [1, 2.5]}


@pytest.mark.parametrize("value, complaint", [
    (math.nan, "a finite number, got nan"), (np.inf, "a finite number, got inf"),
    (object(), "a number, a text, a list or a mapping, got a object")])
def test_a_value_that_metrics_cannot_have_is_named_by_its_place(tmp_path, value, complaint):
    with pytest.raises(ValueError) as error:
        chapter.write_metrics(tmp_path, "01_baseline", {"by": {"class": [0.0, value]}})
    assert str(error.value) == f"metrics['by']['class'][1] must be {complaint}"


@pytest.mark.parametrize("value", [math.nan, object()])
def test_refused_metrics_leave_the_old_ones_in_place(tmp_path, value):
    chapter.write_metrics(tmp_path, "01_baseline", {"nll": 1.0})
    with pytest.raises(ValueError):
        chapter.write_metrics(tmp_path, "01_baseline", {"nll": value})
    assert chapter.read_metrics(tmp_path, "01_baseline") == {"nll": 1.0}
    assert [path.name for path in (tmp_path / "01_baseline").glob("*metrics*")] == ["metrics.json"]


def test_metrics_have_the_same_text_in_any_order(tmp_path):
    for run, metrics in (("first", {"a": 1, "b": 2}), ("second", {"b": 2, "a": 1})):
        chapter.write_metrics(tmp_path / run, "01_baseline", metrics)
    first, second = (tmp_path / run / "01_baseline" / "metrics.json" for run in ("first", "second"))
    assert first.read_text() == second.read_text()


def test_the_artifacts_that_a_chapter_took_are_listed_beside_its_metrics(tmp_path, monkeypatch):
    monkeypatch.setattr(chapter, "requested", {"judge-2.safetensors", "cvae-1.safetensors"})
    chapter.write_metrics(tmp_path, "01_baseline", {})
    listed = (tmp_path / "01_baseline" / "models.txt").read_text()
    assert listed == "cvae-1.safetensors\njudge-2.safetensors\n"


def test_the_listed_artifacts_are_those_of_the_store():
    assert chapter.requested is store.requested


def test_metrics_of_a_chapter_that_has_not_run_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="^no metrics of 01_baseline in .*; run the chapter first$"):
        chapter.read_metrics(tmp_path, "01_baseline")


@pytest.mark.parametrize("damage", ['{"nll": 1', "[1]", "", "[" * 100_000, "\0"], ids=lambda text: repr(text[:9]))
def test_damaged_metrics_are_named(tmp_path, damage):
    chapter.write_metrics(tmp_path, "01_baseline", {"nll": 1.0})
    path = tmp_path / "01_baseline" / "metrics.json"
    path.write_text(damage)
    with pytest.raises(ValueError) as error:
        chapter.read_metrics(tmp_path, "01_baseline")
    assert str(error.value).startswith(f"{path} is damaged: ")


@pytest.mark.parametrize("name", ["../01", "", "01 baseline", "01/02", None, 3])
def test_the_name_of_a_chapter_is_no_path(tmp_path, name):
    complaint = f"^chapter must be of letters, digits and underscores, got {name!r}$"
    with pytest.raises(ValueError, match=complaint):
        chapter.write_metrics(tmp_path, name, {})
    with pytest.raises(ValueError, match=complaint):
        chapter.read_metrics(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_metrics_are_readable_json_with_a_line_for_each_number(tmp_path):
    chapter.write_metrics(tmp_path, "01_baseline", {"a": 1, "b": 2.5})
    text = (tmp_path / "01_baseline" / "metrics.json").read_text()
    assert json.loads(text) == {"a": 1, "b": 2.5}
    assert text.count("\n") == 4
