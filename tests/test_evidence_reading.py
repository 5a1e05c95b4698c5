"""The evidence is read as it was written, and every comparison of it has a known answer."""

import json
from dataclasses import asdict

import jupytext
import numpy as np
import pandas as pd
import pytest

from runs import PROJECT
from sa_lib import comparison, evidence
from sa_lib.evidence import Estimate, by_seed, estimate
from sa_lib.residual import MARGIN, RESOLUTION, Residual, verdict

THREATS = SIMPLEX, FREE = "y on the simplex", "y free"
# model -> its nats above the baseline, and its rho for class 1
METHODS = {"ewc_gray": (0.25, 0.4), "unseen": (0.5, 0.1)}


def cell(forget, seed, known=METHODS, **other):
    """A row of a sweep in which every number is known: rho of a method is the class times its own."""
    random = np.random.default_rng(10 * forget + seed)
    noise = random.normal(0, 0.1, 50)
    never, base = 10 + noise, 4 + noise
    models = {"baseline": (0.0, base), "retrain": (0.125, never),
              **{name: (nats, never - rho * forget * (never - base)) for name, (nats, rho) in known.items()}}
    row = {"cell": f"forget-{forget},seed-{seed}", "error": "", "forget": forget, "seed": seed, "date": "2026-01-01",
           "seconds": 1800.0, "machine.torch": "2.0.1", "machine.processor": "one", "machine.cores": 2.0,
           "confusion": json.dumps([0.9 if k == forget else k / 100 for k in range(10)]),
           "latent_distances": json.dumps([float(abs(k - forget)) for k in range(10)])}
    for name, (nats, errors) in models.items():
        row |= {f"models.{name}.{measure}": value for measure, value in (
            ("nelbo", 90.0 + seed + nats), ("accuracy", 0.96 - nats / 100), ("gray", 0.4), ("seconds", 10.0 + nats),
            ("probability", nats / 50), ("relearning", 0.5 - nats), (f"errors.{SIMPLEX}", json.dumps(errors.tolist())),
            (f"errors.{FREE}", json.dumps((errors + 1).tolist())))}
        row |= {f"models.{name}.rho.{threat}.value": known.get(name, (0, 0))[1] * forget for threat in THREATS}
    return row | other


def written(folder, rows):
    path = folder / "table.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def table(tmp_path):
    """Three classes with two seeds, a failed cell, one of another data set, and a search of two settings."""
    rows = [cell(f, s) for f in range(3) for s in range(2)]
    rows += [cell(5, 0, error="it failed"), cell(1, 0, dataset="digits", cell="other")]
    search = {"sweep": "search-unseen", "methods": '["unseen"]'}
    rows += [cell(2, 0, **search, cell="own"), cell(1, 0, **search, cell="steps", **{"changes.steps": 800})]
    return evidence.read(written(tmp_path, rows))


@pytest.fixture
def rows(table):
    return evidence.tidy(evidence.split(table)[0]).droplevel(["dataset", "architecture"])


# Reading ------------------------------------------------------------------------------------

def test_the_parts_are_the_main_cells_the_others_and_the_search(table):
    main, others, search = evidence.split(table)
    assert list(main["forget"]) == [0, 0, 1, 1, 2, 2, 5]
    assert list(others["cell"]) == ["other"]
    assert list(search["cell"]) == ["own", "steps"]


def test_the_main_part_of_other_data_is_that_of_the_first_cell_that_succeeded(tmp_path):
    rows = [cell(9, 0, error="no"), cell(1, 0, dataset="digits"), cell(2, 0, dataset="fashion")]
    main, others, search = evidence.split(evidence.read(written(tmp_path, rows)))
    assert list(main["dataset"]) == ["digits"]
    assert sorted(others["dataset"]) == ["fashion", "mnist"]
    assert search.empty


def test_a_table_of_the_search_alone_is_refused(table):
    with pytest.raises(ValueError, match="table must have a cell that succeeded outside the search for settings"):
        evidence.split(table[table["sweep"] != ""])


def test_the_overview_counts_cells_classes_and_hours(table):
    overview = evidence.overview(table)
    assert list(overview.index) == ["mnist, mlp", "digits, mlp", "search for settings"]
    assert overview.loc["mnist, mlp"].to_dict() == {"cells": 7, "failed": 1, "classes": 4, "seeds": 2, "hours": 3.5}


def test_the_origin_names_each_date_and_machine_once(table):
    later = pd.concat([table, table.assign(date="2026-02-03")])
    assert evidence.origin(later) == {
        "dates": "2026-01-01 and 2026-02-03", "torch": "2.0.1", "processors": "one", "cores": "2"}
    assert evidence.origin(table.drop(columns="machine.torch"))["torch"] == "unknown"


def test_failures_are_named_with_their_errors(table):
    assert evidence.failures(table)["error"].to_dict() == {"forget-5,seed-0": "it failed"}


def test_a_method_is_complete_if_it_has_every_class(tmp_path):
    table = [cell(1, 0), cell(2, 0, known={"unseen": (0.5, 0.1)})]
    rows = evidence.tidy(evidence.read(written(tmp_path, table))).droplevel(["dataset", "architecture"])
    assert evidence.complete(rows, ["ewc_gray", "unseen", "saliency"]) == ["unseen"]
    with pytest.raises(ValueError, match="names must have a method that the table has for every class"):
        evidence.complete(rows, ["ewc_gray"])


def test_rows_of_two_data_sets_are_refused(rows):
    with pytest.raises(ValueError, match="rows must be of one data set and architecture"):
        evidence.differences(pd.concat([rows, rows]), "nelbo", "unseen", "baseline")


@pytest.mark.parametrize("values, scale, text", [
    ([1.0, 1.0, 1.0], 1.0, "+1.00 [+1.00, +1.00]"), ([2.0], -3.0, "-6.00 (no interval)"), ([], 1.0, "–")])
def test_an_estimate_of_few_values_says_how_far_it_goes(values, scale, text):
    assert str(evidence.estimate(values, scale)) == text


def test_an_estimate_holds_its_mean_and_keeps_the_order_of_its_ends():
    values = np.random.default_rng(0).normal(3, 1, 5)
    one, negative = evidence.estimate(values), evidence.estimate(values, -1)
    assert one.low < one.low90 < one.mean < one.high90 < one.high
    assert (negative.mean, negative.low, negative.high90) == (-one.mean, -one.high, -one.low90)


def test_a_seed_counts_once_and_only_with_every_class():
    index = pd.MultiIndex.from_tuples([(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)], names=["forget", "seed"])
    assert evidence.by_seed(pd.Series([1.0, 3.0, 2.0, 6.0, 9.0], index)).to_dict() == {0: 2.0, 1: 4.0}
    with pytest.raises(ValueError, match="^values must have the levels forget and seed, got"):
        evidence.by_seed(pd.Series([1.0]))


def test_methods_share_the_seeds_that_all_of_them_have(rows):
    some = rows.drop(index=[key for key in rows.index if key[-1] == "unseen" and key[1] == 0])
    assert 0 in rows.index.unique("seed")
    assert comparison.shared_seeds(rows, ["ewc_gray", "unseen"]) == list(rows.index.unique("seed"))
    assert comparison.shared_seeds(some, ["ewc_gray", "unseen"]) == list(rows.index.unique("seed"))[1:]
    assert comparison.shared_seeds(rows, []) == []


def test_a_method_of_some_classes_has_its_own_table(rows):
    few = rows.drop(index=[key for key in rows.index if key[-1] == "unseen" and key[0] != 2])
    table = comparison.on_some(few, ["ewc_gray"])
    assert table.index.tolist() == ["unseen"] and table["digit"].tolist() == [2]
    for condition in evidence.conditions(rows):
        assert table[f"ρ, {condition}"].iloc[0] == evidence.residual(rows, "unseen", 2, condition)
    assert table["nats_lost"].iloc[0] == evidence.differences(rows, "nelbo", "unseen", "baseline")[2].mean()
    assert comparison.on_some(rows, ["ewc_gray", "unseen"]).empty
    with pytest.raises(ValueError, match="^known must be"):
        comparison.on_some(rows, ["nothing"])


def test_over_all_classes_rho_is_a_ratio_of_sums(rows):
    doubled = rows.copy()
    for place in doubled.index[doubled.index.get_level_values("forget") == 2]:
        doubled.at[place, f"errors.{FREE}"] = 3 * doubled.at[place, f"errors.{FREE}"]
    # rho is 0, 0.1 and 0.2; the gap of the last class is three times as large.
    assert evidence.overall(rows, "unseen", FREE).rho == pytest.approx(0.1, abs=1e-3)
    assert evidence.overall(doubled, "unseen", FREE).rho == pytest.approx(0.14, abs=1e-3)
    assert evidence.overall(rows, "unseen", FREE).models == 2
    assert not evidence.overall(rows.drop(index=[(2, 0, "retrain"), (1, 1, "retrain")]), "unseen", FREE).defined


# Comparison ---------------------------------------------------------------------------------

def test_rho_is_what_the_errors_were_made_with(rows):
    rho = comparison.rho_table(rows, ["ewc_gray", "unseen"])
    assert rho.index.names == ["condition", "forget", "model"]
    assert list(rho.index.unique("condition")) == [SIMPLEX, FREE] == evidence.conditions(rows)
    for (_, digit, model), row in rho.iterrows():
        assert row["rho"] == pytest.approx(digit * METHODS[model][1], abs=1e-6)
    assert (rho["low"] <= rho["rho"]).all()
    assert (rho["rho"] <= rho["high"]).all()


@pytest.mark.parametrize("values, adjusted", [
    ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.5, 0.9], [1.0, 1.0]), ([np.nan, 0.02], [np.nan, 0.02])])
def test_holm_adjusts_for_the_number_of_looks(values, adjusted):
    assert comparison.holm(pd.Series(values)).tolist() == pytest.approx(adjusted, nan_ok=True)


def test_the_verdicts_are_counted(rows):
    counted = comparison.counts(comparison.rho_table(rows, ["ewc_gray", "unseen"]))
    assert counted.loc["unseen", FREE].to_dict() == {"looks": 3, "gone": 2, "residue": 1, "above 0": 2, "below 0": 0}
    assert counted.loc["ewc_gray", SIMPLEX].to_dict() == {
        "looks": 3, "gone": 1, "residue": 2, "above 0": 2, "below 0": 0}


def test_the_placebo_is_how_far_models_that_never_saw_the_class_are_from_each_other(rows):
    apart = rows.copy()
    for seed, shift in ((0, -1.0), (1, 1.0)):
        apart.at[(1, seed, "retrain"), f"errors.{FREE}"] = rows.at[(1, seed, "retrain"), f"errors.{FREE}"] + shift
    # Two models that are 2 apart, over a gap of 6: one model against the other, and scaled to two against two.
    one, two = (comparison.placebo(apart, 1, FREE, count) for count in (1, 2))
    assert one == pytest.approx(1 / 3 * np.sqrt(1.5 / 2), rel=0.02)
    assert two == pytest.approx(1 / 3 * np.sqrt(1 / 2), rel=0.02)
    assert np.isnan(comparison.placebo(rows.drop(index=(1, 0, "retrain")), 1, FREE, 1))


def test_totals_have_the_mean_and_the_placebo_beside_the_sums(rows):
    totals = comparison.totals(rows, comparison.rho_table(rows, ["unseen"]))
    own = totals.loc["unseen", SIMPLEX]
    assert [own["rho"], own["mean_abs_rho"], own["sums"].rho] == pytest.approx([0.1] * 3, abs=0.01)
    assert own["placebo"] < 0.02


def test_a_shift_is_what_the_last_condition_brings_back_over_all_classes(rows):
    brought = rows.copy()
    for place in brought.index[brought.index.get_level_values("model") == "unseen"]:
        brought.at[place, f"errors.{FREE}"] = brought.at[place, f"errors.{FREE}"] - 1.5  # a quarter of the gap of 6
    shifts = comparison.shifts(brought, ["ewc_gray", "unseen"])
    assert [shifts["ewc_gray"].mean, shifts["unseen"].mean] == pytest.approx([0.0, 0.25], abs=1e-6)
    assert shifts["unseen"].low == pytest.approx(0.25, abs=1e-6)


@pytest.fixture
def shown(rows):
    """The names of the cells of chapter 8 that show a computation of the library, for these rows."""
    cells = jupytext.read(PROJECT / "notebooks" / "08_evidence.py", fmt="py:percent").cells
    methods = ["ewc_gray", "unseen"]
    scope = {"rows": rows, "methods": methods, "rho": comparison.rho_table(rows, methods),
             "first": SIMPLEX, "last": FREE,
             "np": np, "pd": pd, "comparison": comparison, "estimate": estimate, "by_seed": by_seed, "MARGIN": MARGIN,
             "RESOLUTION": RESOLUTION}
    for name in ("above_never", "rule", "brought_back", "lost_by"):
        (source,) = [cell.source for cell in cells if cell.source.startswith(f"def {name}(")]
        exec(source, scope)
    return scope


def test_chapter_8_shows_what_the_library_computes(shown, rows):
    sums, summary = shown["totals"]["sums"], comparison.summary(rows, shown["rho"])
    for model in shown["methods"]:
        assert shown["ratios"][model] == pytest.approx(sums[model, SIMPLEX].rho)
        assert shown["lost_by"](model, "nelbo").high90 == pytest.approx(summary.loc[model, "nats_lost"].high90)
        assert shown["back"][model].low == pytest.approx(comparison.shifts(rows, [model])[model].low, abs=1e-9)


@pytest.mark.parametrize("change", [
    {}, {"low": np.nan, "verdict": "no interval"}, {"rho": np.nan, "low": np.nan, "verdict": "undefined"},
    {"spread": 2.0}, {"low90": -0.2}, {"low": 0.1, "high90": 0.2}, {"high": -0.1, "low90": -0.2}], ids=str)
def test_the_rule_of_chapter_8_is_that_of_the_verdicts(shown, change):
    one = Residual(**{"rho": 0.05, "low": -0.1, "high": 0.14, "low90": -0.09, "high90": 0.12, "gap": 6.0, "spread": 1.0}
                   | {name: value for name, value in change.items() if name != "verdict"})
    assert shown["rule"](pd.Series(asdict(one) | change)) == verdict(one)


def test_a_shift_under_one_condition_is_refused(rows):
    single = rows.drop(columns=[f"errors.{name}" for name in evidence.conditions(rows)[1:]])
    with pytest.raises(ValueError, match="^rows must have two conditions or more, got "):
        comparison.shifts(single, ["unseen"])


def test_the_search_has_a_row_for_each_setting(table):
    searched = comparison.search(evidence.split(table)[2])
    assert searched.index.tolist() == [("unseen", "own"), ("unseen", "steps 800")]
    assert searched.loc[("unseen", "own")].to_dict() == pytest.approx(
        {"cell_abs_rho": 0.2, "nats_lost": 0.5, "points_lost": 0.5, "probability": 0.0075})
    assert searched["cell_abs_rho"].tolist() == pytest.approx([0.2, 0.1])


def test_a_failed_cell_of_the_search_is_infinitely_far(table):
    search = evidence.split(table)[2]
    searched = comparison.search(search.assign(error=["", "it failed"]))
    assert np.isinf(searched.loc[("unseen", "steps 800")]).all()
    assert comparison.search(search[:0]).empty


def test_settings_are_listed_best_first():
    scores = {("a", "own"): 2.0, ("a", "x 1"): 1234.5, ("a", "x 2"): 0.5, ("b", "x 1"): np.inf, ("b", "own"): 1.0}
    listed = comparison.settings(pd.Series(scores).rename_axis(["method", "setting"]))
    assert listed.loc["a"].tolist() == ["2.0", "0.5 (x 2)", "1,234.5 (x 1)"]
    assert listed.loc["b"].tolist() == ["1.0", "failed (x 1)", "–"]


def test_a_summary_has_the_numbers_that_the_claims_are_about(rows):
    summary = comparison.summary(rows, comparison.rho_table(rows, ["unseen", "ewc_gray"]))
    assert summary.loc["ewc_gray", ["looks", "gone", "residues"]].tolist() == [6, 2, 4]
    assert np.isnan(summary.loc["ewc_gray", "share"])
    shared = comparison.summary(rows.assign(share=0.2), comparison.rho_table(rows, ["unseen"]))
    assert shared["share"].tolist() == [0.2]
    assert summary.loc["ewc_gray", "nats_lost"].mean == pytest.approx(0.25)
    assert summary.loc["ewc_gray", "points_lost"].mean == pytest.approx(0.25)
    assert summary.loc["ewc_gray", "relearning"].mean == pytest.approx(-0.125)


def summarized(**change):
    """A summary of one method that meets every limit."""
    flat = Estimate(0.0, -0.04, 0.04, -0.03, 0.03)
    return pd.DataFrame({name: [value] for name, value in {
        "looks": 6, "gone": 6, "residues": 0, "nats_lost": flat, "points_lost": flat, "relearning": flat,
        "share": 0.25, **change}.items()}, index=["m"])


@pytest.mark.parametrize("change, failed", [
    ({}, None), ({"gone": 5}, "gone in"), ({"residues": 1}, "no residue"),
    ({"nats_lost": Estimate(0.3, 0.0, 0.51)}, "nats lost"), ({"nats_lost": Estimate(0.3)}, "nats lost"),
    ({"points_lost": Estimate(0.3, 0.0, 0.51)}, "points lost"), ({"share": 0.26}, "images seen"),
    ({"share": np.nan}, "images seen"),
    ({"relearning": Estimate(0.0, -0.06, 0.06, -0.049, 0.049)}, None),
    ({"relearning": Estimate(0.0, -0.06, 0.06, -0.05, 0.04)}, "relearning as"),
    ({"relearning": Estimate(0.0)}, "relearning as")])
def test_a_claim_fails_beyond_its_limit_and_without_an_interval(change, failed):
    claims = comparison.claims(summarized(**change))
    assert len(claims) == 6
    lost = [claim for (claim, _), holds in claims["holds"].items() if not holds]
    assert [claim.startswith(failed) for claim in lost] == [True] if failed else not lost
    assert (claims["outcome"] == "fails").equals(~claims["holds"])
    assert claims.query("not decided")["outcome"].tolist() == (
        ["none found"] * (failed != "no residue") + ["fails" if failed == "images seen" else "kept"])


def test_a_rho_that_is_not_defined_is_not_gone(rows):
    swapped = rows.rename({"baseline": "retrain", "retrain": "baseline"}, level="model").sort_index()
    rho = comparison.rho_table(swapped, ["unseen"])
    summary = comparison.summary(swapped, rho)
    assert set(rho["verdict"]) == {"undefined"}
    assert not comparison.claims(summary)["holds"].iloc[0]
    metrics = comparison.metrics(rho, summary, comparison.claims(summary), comparison.totals(swapped, rho),
                                 comparison.shifts(swapped, ["unseen"]))
    assert metrics["gone"] == {"unseen": 0}
    assert metrics["rho"][FREE]["2"]["unseen"] == {"verdict": "undefined", "rho": None, "low": None, "high": None}


def test_metrics_are_plain_values_by_method(rows):
    rho = comparison.rho_table(rows, ["ewc_gray", "unseen"])
    summary = comparison.summary(rows, rho)
    metrics = comparison.metrics(rho, summary, comparison.claims(summary), comparison.totals(rows, rho),
                                 comparison.shifts(rows, ["ewc_gray", "unseen"]))
    assert metrics["sums"]["unseen"]["y_free"]["rho"] == pytest.approx(0.1, abs=1e-6)
    assert metrics["back"]["ewc_gray"]["mean"] == pytest.approx(0, abs=1e-6)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["nats"]["unseen"] == pytest.approx(
        {"mean": 0.5, "low": 0.5, "high": 0.5, "low90": 0.5, "high90": 0.5})
    assert metrics["gone"] == {"ewc_gray": 2, "unseen": 4}
    assert list(metrics["rho"]) == [*THREATS]
    assert metrics["claims"]["unseen: nats lost at most 0.5"] is True


def test_other_data_have_no_interval_from_one_control(table):
    _, others, _ = evidence.split(table)
    found = comparison.other_data(others, ["ewc_gray", "unseen", "saliency"])
    assert list(found.index) == ["digits, mlp: ewc_gray", "digits, mlp: unseen"]
    assert str(found.loc["digits, mlp: ewc_gray", SIMPLEX]) == "+0.40 (no interval: one control)"
    assert str(found.loc["digits, mlp: unseen", "nats_lost"]) == "+0.50 (no interval)"
    assert comparison.other_data(others.assign(error="it failed"), ["unseen"]).empty


def test_of_the_committed_results_the_chapter_makes_whole_tables():
    main, others, search = evidence.split(evidence.read())
    rows = evidence.tidy(main).droplevel(["dataset", "architecture"])
    methods = evidence.complete(rows, ["ewc_gray", "unseen", "saliency"])
    assert methods == ["ewc_gray", "unseen", "saliency"]
    assert (comparison.search(search).groupby("method").size() == 5).all()
    assert comparison.counts(comparison.rho_table(rows, methods))["looks"].tolist() == [10] * 6
    elsewhere = comparison.other_data(others, methods)
    assert all(one.defined and one.controls == 2 for one in elsewhere[["as is", "mended"]].stack())


NOT_CELLS = [None, 3, "x", pd.DataFrame(), pd.DataFrame({"low": [1.0]})]


@pytest.mark.parametrize("wrong", NOT_CELLS)
@pytest.mark.parametrize("call, name", [
    (lambda bad, rows: evidence.split(bad), "table"), (lambda bad, rows: evidence.overview(bad), "table"),
    (lambda bad, rows: evidence.origin(bad), "table"), (lambda bad, rows: evidence.failures(bad), "table"),
    (lambda bad, rows: evidence.complete(bad, ["unseen"]), "rows"),
    (lambda bad, rows: comparison.rho_table(bad, ["unseen"]), "rows"),
    (lambda bad, rows: comparison.shifts(bad, ["unseen"]), "rows"),
    (lambda bad, rows: comparison.counts(bad), "rho"), (lambda bad, rows: comparison.totals(rows, bad), "rho"),
    (lambda bad, rows: comparison.search(bad), "cells"), (lambda bad, rows: comparison.settings(bad), "scored"),
    (lambda bad, rows: comparison.summary(rows, bad), "rho"),
    (lambda bad, rows: comparison.claims(bad), "summarized"),
    (lambda bad, rows: comparison.on_some(bad, []), "rows"),
    (lambda bad, rows: comparison.shared_seeds(bad, []), "rows"),
    (lambda bad, rows: comparison.shortfalls(bad), "rows"),
    (lambda bad, rows: comparison.by_processor(bad, "unseen", "as is"), "rows"),
    (lambda bad, rows: comparison.other_data(bad, ["unseen"]), "cells")])
def test_a_wrong_table_is_refused_by_name(call, name, wrong, rows):
    with pytest.raises((TypeError, ValueError), match=rf"^{name} (must|is not)"):
        call(wrong, rows)
