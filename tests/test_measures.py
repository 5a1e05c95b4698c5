"""Measures: their titles, formats and pairs of values."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sa_lib.measures import MEASURES, before_after, label, listing, write

ROWS = pd.Index([8, 9], name="digit")


@pytest.fixture
def before():
    return pd.DataFrame({"accuracy": [0.96, 0.5], "nelbo": [95.123, math.nan], "note": ["a", "b"]}, ROWS)


@pytest.fixture
def after():
    return pd.DataFrame({"accuracy": [0.95, 0.0], "nelbo": [95.5, 120.0], "note": ["c", "d"]}, ROWS)


@pytest.mark.parametrize("name", MEASURES)
@given(value=st.floats(-1e6, 1e6))
def test_every_measure_writes_a_number_that_reads_back(name, value):
    text = write(name, value)
    share = text.endswith("%")
    digits = len(text.rstrip("%").partition(".")[2]) + 2 * share
    read = float(text.rstrip("%")) / (100 if share else 1)
    assert read == pytest.approx(value, rel=1e-12, abs=0.501 * 10.0**-digits)


@pytest.mark.parametrize("name", MEASURES)
def test_the_direction_of_a_measure_is_known(name):
    assert MEASURES[name].better in ("higher", "lower", "")


def test_no_two_measures_have_the_same_title():
    assert len({label(name) for name in MEASURES}) == len(MEASURES)


@pytest.mark.parametrize("name, value, text", [
    ("accuracy", 0.9604, "96.0%"), ("nelbo", np.float32(96.5), "96.50"), ("rho", 0.1, "+0.10"), ("rho", -0.1, "-0.10"),
    ("probability", 0.02, "0.020"), ("gray", 0.005, "0.0050"), ("seconds", 12.6, "13"), ("share", 0.4, "40%")])
def test_a_value_has_the_format_of_its_measure(name, value, text):
    assert write(name, value) == text


@pytest.mark.parametrize("missing", [None, math.nan, np.float32("nan")])
def test_a_missing_value_is_a_dash(missing):
    assert write("rho", missing) == "–"


def test_only_measures_have_a_format():
    with pytest.raises(ValueError, match="^name must be one of the names in MEASURES, got 'speed'$"):
        write("speed", 1.0)


@pytest.mark.parametrize("name, title", [
    ("nelbo", "negative ELBO, nats"), ("seconds", "time, s"), ("accuracy", "judge B's accuracy"), ("fid", "FID")])
def test_a_label_is_the_title_with_the_unit(name, title):
    assert label(name) == title


@pytest.mark.parametrize("name, title", [("nats_lost", "nats lost"), ("points_lost", "points lost")])
def test_a_unit_in_the_title_is_not_repeated(name, title):
    assert label(name) == title


@pytest.mark.parametrize("name", ["speed", "", 3])
def test_the_label_of_any_other_name_is_that_name(name):
    assert label(name) == name


def test_a_listing_has_each_value_with_its_name():
    assert listing("gray", {"baseline": 0.46, "forgot 9": None}) == "0.4600 (baseline), – (forgot 9)"


def test_a_listing_takes_a_series():
    assert listing("fid", pd.Series([1.0, 2.0], [8, 9])) == "1.0 (8), 2.0 (9)"


def test_a_listing_needs_named_values():
    with pytest.raises(TypeError, match="^values must be a Mapping or Series, got "):
        listing("fid", [1.0, 2.0])


def test_each_cell_has_the_value_before_and_after(before, after):
    paired = before_after(before, after, ["accuracy", "nelbo"])
    assert paired.to_dict("list") == {"judge B's accuracy": ["96.0% → 95.0%", "50.0% → 0.0%"],
                                      "negative ELBO, nats": ["95.12 → 95.50", "– → 120.00"]}


def test_pairs_keep_the_rows_and_the_order_of_the_names(before, after):
    paired = before_after(before, after, ["nelbo", "accuracy"])
    assert list(paired) == ["negative ELBO, nats", "judge B's accuracy"]
    assert paired.index.equals(ROWS)
    assert paired.index.name == "digit"


@pytest.mark.parametrize("names", [["speed"], ["accuracy", "note"], ["fid"], "accuracy", 3], ids=str)
def test_pairs_are_of_measures_that_both_tables_have(before, after, names):
    with pytest.raises(ValueError, match="^names must be a list of names among accuracy, nelbo, got "):
        before_after(before, after, names)


@pytest.mark.parametrize("rows", [[9, 8], [9], [8, 9, 9], []], ids=str)
def test_pairs_are_of_the_same_rows_in_the_same_order(before, after, rows):
    with pytest.raises(ValueError, match=r"^after must have the rows of before, \[8, 9\], got \["):
        before_after(before, after.loc[rows], ["accuracy"])


@pytest.mark.parametrize("name", ["before", "after"])
def test_pairs_are_of_tables(before, after, name):
    with pytest.raises(TypeError, match=f"^{name} must be a DataFrame, got "):
        before_after(**{"before": before, "after": after, name: {"accuracy": [1, 2]}}, names=["accuracy"])
