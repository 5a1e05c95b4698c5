"""The evidence is read as it was written, and every comparison of it has a known answer."""

import json

import numpy as np
import pandas as pd
import pytest

from sa_lib import comparison, evidence
from sa_lib.claims import LIMITS
from sa_lib.evidence import THREATS

SIMPLEX, FREE = THREATS
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
    ([1.0, 1.0, 1.0], 1.0, "+1.00"), ([2.0], -3.0, "-6.00"), ([], 1.0, "–")])
def test_an_estimate_without_a_width_shows_no_interval(values, scale, text):
    assert str(evidence.estimate(values, scale)) == text


def test_an_estimate_holds_its_mean_and_keeps_the_order_of_its_ends():
    values = np.random.default_rng(0).normal(3, 1, 50)
    one, negative = evidence.estimate(values), evidence.estimate(values, -1)
    assert one.low < one.mean < one.high
    assert (negative.low, negative.mean, negative.high) == (-one.high, -one.mean, -one.low)


# Comparison ---------------------------------------------------------------------------------

def test_rho_is_what_the_errors_were_made_with(rows):
    rho = comparison.rho_table(rows, ["ewc_gray", "unseen"])
    assert rho.index.names == ["threat", "forget", "model"]
    assert list(rho.index.unique("threat")) == [SIMPLEX, FREE, "either"]
    for (_, digit, model), row in rho.iterrows():
        assert row["rho"] == pytest.approx(digit * METHODS[model][1], abs=1e-6)
    assert (rho["low"] <= rho["rho"]).all()
    assert (rho["rho"] <= rho["high"]).all()


def test_every_class_has_its_means(rows):
    tables = comparison.by_class(rows, comparison.rho_table(rows, ["unseen"]))
    assert list(tables) == ["unseen"]
    assert tables["unseen"].loc["nats lost"].tolist() == pytest.approx([0.5] * 3)
    assert tables["unseen"].loc["points lost"].tolist() == pytest.approx([0.5] * 3)
    assert tables["unseen"].loc["ρ, free"].tolist() == pytest.approx([0, 0.1, 0.2], abs=1e-6)


def test_predictors_find_the_classes_that_are_near(rows, table):
    causes = comparison.predictors(rows, evidence.split(table)[0])
    assert causes["gap"].tolist() == pytest.approx([6] * 3)
    assert causes["mistaken for"].tolist() == [9] * 3
    assert causes["mistaken"].tolist() == pytest.approx([0.09] * 3)
    assert causes["distance"].tolist() == [1] * 3
    assert causes.loc[0, "nearest code"] == 1


def test_predictors_are_missing_where_the_cells_do_not_have_them(rows, table):
    causes = comparison.predictors(rows, evidence.split(table)[0].drop(columns="latent_distances"))
    assert causes[["nearest code", "distance"]].isna().all(axis=None)
    assert causes["mistaken"].notna().all()


def test_correlations_are_of_ranks_and_need_four_classes():
    causes = pd.DataFrame({"gap": [1.0, 2, 3, 10], "mistaken": [4.0, 3, 2, 1], "distance": [np.nan, 1, 2, 3]})
    sizes = pd.DataFrame({"unseen": [0.1, 0.2, 0.4, 0.5]})
    links = comparison.correlations(causes, sizes)
    assert links["correlation"].to_dict() == pytest.approx({("gap", "unseen"): 1, ("mistaken", "unseen"): -1})
    assert comparison.correlations(causes[:3], sizes[:3]).empty


def test_the_search_has_a_row_for_each_setting(table):
    searched = comparison.search(evidence.split(table)[2])
    assert searched.index.tolist() == [("unseen", "own"), ("unseen", "steps 800")]
    assert searched.loc[("unseen", "own")].to_dict() == pytest.approx(
        {"mean_abs_rho": 0.2, "nats_lost": 0.5, "points_lost": 0.5, "probability": 0.0075})
    assert searched["mean_abs_rho"].tolist() == pytest.approx([0.2, 0.1])


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


def test_scores_are_of_the_cells_that_have_all_methods(tmp_path):
    table = [cell(1, 0), cell(1, 1), cell(2, 0, known={"unseen": (0.5, 0.1)})]
    rows = evidence.tidy(evidence.read(written(tmp_path, table))).droplevel(["dataset", "architecture"])
    scores = comparison.scores(rows)
    assert scores.index.tolist() == [(1, 0, "ewc_gray"), (1, 0, "unseen"), (1, 1, "ewc_gray"), (1, 1, "unseen")]
    assert scores.loc[(1, 1, "unseen")].to_dict() == pytest.approx({
        "probability": 0.01, "abs_rho": 0.1, "nats_lost": 0.5, "points_lost": 0.5, "seconds": 10.5, "sooner": -0.375})


def test_scores_may_have_no_rows(tmp_path):
    table = [cell(1, 0, known={"ewc_gray": (0.25, 0.4)}), cell(1, 1, known={"unseen": (0.5, 0.1)})]
    rows = evidence.tidy(evidence.read(written(tmp_path, table))).droplevel(["dataset", "architecture"])
    scores = comparison.scores(rows)
    assert scores.empty
    assert comparison.paired(scores, "unseen").empty


def test_methods_are_paired_within_a_cell(rows):
    paired = comparison.paired(comparison.scores(rows), "unseen")
    assert list(paired.index) == ["ewc_gray"]
    assert str(paired.loc["ewc_gray", "nats_lost"]) == "-0.25"
    assert paired.loc["ewc_gray", "abs_rho"].mean == pytest.approx(0.3)  # of 0, 0.3 and 0.6
    assert comparison.paired(comparison.scores(rows), "saliency").empty


CLAIMS = {"mean_abs_rho": "mean ≤ {:.2f}", "abs_rho": "every ≤ {:.2f}", "rho_upper": "upper ≤ {:.2f}",
          "nats_lost": "nats ≤ {:.1f}", "points_lost": "points ≤ {:.1f}", "relearning": "within {:.2f}",
          "probability": "seen ≤ {:.2f}"}


def test_a_summary_has_the_numbers_that_the_claims_are_about(rows):
    summary = comparison.summary(rows, comparison.rho_table(rows, ["unseen", "ewc_gray"]))
    assert summary.loc["ewc_gray"].drop("rho_upper").to_dict() == pytest.approx({
        "mean_abs_rho": 0.4, "abs_rho": 0.8, "class": 2, "either": 0.4, "nats_lost": 0.25, "accuracy": -0.0025,
        "points_lost": 0.25, "relearning": -0.125, "probability": 0.0025}, abs=1e-6)
    assert summary.loc["ewc_gray", "rho_upper"] == pytest.approx(0.8, abs=0.01)


def test_a_claim_holds_up_to_its_limit():
    numbers = {name: LIMITS[name] for name in CLAIMS}
    beyond = {name: value + 0.001 for name, value in numbers.items()}
    summary = pd.DataFrame({"at": numbers, "beyond": beyond}).T.assign(**{"class": 7})
    claims = comparison.claims(summary, CLAIMS)
    assert claims["holds"].unstack("model")["at"].all()
    assert not claims["holds"].unstack("model")["beyond"].any()
    assert claims.loc[("every ≤ 0.25", "at"), "verdict"] == "0.25 (class 7) holds"
    assert claims.loc[("mean ≤ 0.10", "beyond"), ["measured", "limit", "verdict"]].tolist() == [
        pytest.approx(0.101), 0.1, "0.10 fails"]


@pytest.mark.parametrize("relearning, holds", [(-0.05, True), (-0.051, False), (0.051, False)])
def test_relearning_may_differ_on_either_side(relearning, holds):
    summary = pd.DataFrame({"mean_abs_rho": [0.0], "abs_rho": [0.0], "class": [1], "relearning": [relearning]}, ["m"])
    assert comparison.claims(summary, {"relearning": "within {:.2f}"})["holds"].tolist() == [holds]


def test_a_claim_about_a_rho_that_is_not_defined_does_not_hold(rows):
    swapped = rows.rename({"baseline": "retrain", "retrain": "baseline"}, level="model").sort_index()
    rho = comparison.rho_table(swapped, ["unseen"])
    summary = comparison.summary(swapped, rho)
    claims = comparison.claims(summary, CLAIMS)
    assert rho.isna().all(axis=None)
    assert claims.loc[("every ≤ 0.25", "unseen"), ["holds", "verdict"]].tolist() == [False, "– fails"]
    metrics = comparison.metrics(rho, summary, claims)
    assert metrics["mean_abs_rho"] == metrics["upper"] == {"unseen": None}
    assert metrics["rho"][FREE]["2"]["unseen"] == {"rho": None, "low": None, "high": None}


def test_metrics_are_plain_values_by_method(rows):
    rho = comparison.rho_table(rows, ["ewc_gray", "unseen"])
    summary = comparison.summary(rows, rho)
    metrics = comparison.metrics(rho, summary, comparison.claims(summary, CLAIMS))
    assert json.loads(json.dumps(metrics)) == metrics
    assert metrics["nats"] == pytest.approx({"ewc_gray": 0.25, "unseen": 0.5})
    assert metrics["farthest"] == pytest.approx({"ewc_gray": 0.8, "unseen": 0.2}, abs=1e-6)
    assert list(metrics["rho"]) == list(THREATS)
    assert metrics["claims"]["unseen: mean ≤ 0.10"] is True
    assert metrics["claims"]["ewc_gray: mean ≤ 0.10"] is False


def test_other_data_are_held_to_the_same_limits(table):
    _, others, _ = evidence.split(table)
    found = comparison.other_data(others, ["ewc_gray", "unseen", "saliency"])
    assert list(found.index) == ["digits, mlp: ewc_gray", "digits, mlp: unseen"]
    assert found["beyond"].tolist() == ["mean |ρ|, largest |ρ|", "–"]
    assert found["mean_abs_rho"].tolist() == pytest.approx([0.4, 0.1])
    assert str(found.loc["digits, mlp: unseen", "nats_lost"]) == "+0.50"
    assert comparison.other_data(others.assign(error="it failed"), ["unseen"]).empty


def test_of_the_committed_results_the_chapter_makes_whole_tables():
    main, others, search = evidence.split(evidence.read())
    rows = evidence.tidy(main).droplevel(["dataset", "architecture"])
    methods = evidence.complete(rows, ["ewc_gray", "unseen", "saliency"])
    assert methods == ["ewc_gray", "unseen", "saliency"]
    assert (comparison.search(search).groupby("method").size() == 5).all()
    assert comparison.scores(rows).groupby("model").size().nunique() == 1
    assert comparison.predictors(rows, main).notna().all(axis=None)
    assert comparison.other_data(others, methods)[["mean_abs_rho", "abs_rho"]].notna().all(axis=None)


NOT_CELLS = [None, 3, "x", pd.DataFrame(), pd.DataFrame({"low": [1.0]})]


@pytest.mark.parametrize("wrong", NOT_CELLS)
@pytest.mark.parametrize("call, name", [
    (lambda bad, rows: evidence.split(bad), "table"), (lambda bad, rows: evidence.overview(bad), "table"),
    (lambda bad, rows: evidence.origin(bad), "table"), (lambda bad, rows: evidence.failures(bad), "table"),
    (lambda bad, rows: evidence.complete(bad, ["unseen"]), "rows"),
    (lambda bad, rows: comparison.rho_table(bad, ["unseen"]), "rows"),
    (lambda bad, rows: comparison.by_class(rows, bad), "rho"),
    (lambda bad, rows: comparison.predictors(rows, bad), "cells"),
    (lambda bad, rows: comparison.correlations(bad, pd.DataFrame({"unseen": [0.1]})), "causes"),
    (lambda bad, rows: comparison.search(bad), "cells"), (lambda bad, rows: comparison.settings(bad), "scored"),
    (lambda bad, rows: comparison.scores(bad), "rows"), (lambda bad, rows: comparison.paired(bad, "unseen"), "scored"),
    (lambda bad, rows: comparison.summary(rows, bad), "rho"),
    (lambda bad, rows: comparison.claims(bad, CLAIMS), "summarized"),
    (lambda bad, rows: comparison.other_data(bad, ["unseen"]), "cells")])
def test_a_wrong_table_is_refused_by_name(call, name, wrong, rows):
    with pytest.raises((TypeError, ValueError), match=rf"^{name} (must|is not)"):
        call(wrong, rows)


@pytest.mark.parametrize("texts", [{"seconds": "fast"}, {"either": "{:.2f}"}, ["mean_abs_rho"], None])
def test_a_claim_needs_a_limit(texts):
    summary = pd.DataFrame({"mean_abs_rho": [0.0], "abs_rho": [0.0], "class": [1], "either": [0.0]}, ["m"])
    with pytest.raises((TypeError, ValueError), match="^texts must be"):
        comparison.claims(summary, texts)
