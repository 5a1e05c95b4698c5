"""Comparison: methods and classes compared over the rows of the evidence, with intervals.

The classes are fixed and the seeds random. All classes of a seed share a baseline, so an interval is over seeds: each
counts with its mean over the classes. Every function takes the rows of `evidence.tidy`, of one data set and
architecture, or the cells of `evidence.split`, and returns a table.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pandas as pd

from .checks import check_names, check_table, check_types, check_whole, shorten
from .claims import LIMITS
from .evidence import (
    THREATS,
    Estimate,
    by_seed,
    check_cells,
    check_rows,
    differences,
    estimate,
    overall,
    residual,
    tidy,
)
from .residual import VERDICTS, Residual, seeds_needed, verdict

__all__ = ["CONTROLS", "PLACEBO", "by_class", "claims", "counts", "holm", "metrics", "other_data", "placebo",
           "predictors", "rho_table", "scores", "search", "settings", "summary", "totals"]

CONTROLS = ("baseline", "retrain")
PLACEBO = "never saw (placebo)"
ATTACKERS = (*THREATS, "either")
SEARCHED = ["cell_abs_rho", "nats_lost", "points_lost", "probability"]


def rho_table(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """rho of each method for each class, over all seeds; see `evidence.residual`.

    Args:
        methods: names that `rows` has for every class; see `complete`.

    Returns:
        Index (threat, forget, model), with the threats of `evidence.THREATS` and "either"; columns: the attributes of
        a `residual.Residual`, its `verdict`, its `seeds` (`residual.seeds_needed`), and `holm`: the p of rho = 0,
        adjusted for all looks of a method by both threats, and for its looks by "either".
    """
    check_rows(rows)
    check_names(rows.index.unique("model"), methods=methods)
    found = {(threat, digit, model): residual(rows, model, digit, threat) for threat in ATTACKERS
             for digit in rows.index.unique("forget").sort_values() for model in methods}
    table = _frame({key: {**asdict(one), "verdict": verdict(one), "seeds": seeds_needed(one)}
                    for key, one in found.items()}, ["threat", "forget", "model"],
                   [*(field.name for field in fields(Residual)), "verdict", "seeds"])
    family = [table.index.get_level_values("threat") == "either", table.index.get_level_values("model")]
    return table.assign(holm=table.groupby(family)["p"].transform(holm))


def holm(values: pd.Series) -> pd.Series:
    """p-values adjusted for their number (Holm 1979): the chance of any false one among them stays below the limit.

    Args:
        values: p-values, 0-1; one that is NaN is no look.
    """
    check_types(values=(values, pd.Series))
    ordered = values.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1).reindex(values.index)


def counts(rho: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on each method, counted over the classes, for both threats and for "either".

    Args:
        rho: as from `rho_table`.

    Returns:
        Index (model, attacker), where the attacker is "each" or "either"; columns `looks`, a column for each verdict
        that occurs, and `above 0` and `below 0`: looks in which rho differs from 0 after Holm's adjustment.
    """
    _check_rho(rho)
    rows = {}
    for model in rho.index.unique("model"):
        own = rho.xs(model, level="model")
        for attacker, looks in (("each", own.loc[list(THREATS)]), ("either", own.loc[["either"]])):
            found = looks["holm"] <= 0.05
            rows[model, attacker] = {
                "looks": len(looks), **{word: int((looks["verdict"] == word).sum()) for word in VERDICTS[::-1]},
                "above 0": int((found & (looks["rho"] > 0)).sum()), "below 0": int((found & (looks["rho"] < 0)).sum())}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "attacker"])
    return table.drop(columns=[word for word in VERDICTS if not table[word].any()])


def placebo(rows: pd.DataFrame, digit: int, threat: str, models: int) -> float:
    """Mean ``|rho|`` where nothing is left: each never-saw model in the method's place, against the others.

    One model varies more than the mean of several. So the values are scaled to the variance of `models` models
    against all that never saw the class.

    Returns:
        NaN with one model that never saw the class, or without a gap.
    """
    check_rows(rows)
    check_whole(models=models)
    never, base = (np.array([errors.mean() for errors in rows.xs(
        (digit, name), level=("forget", "model"))[f"errors.{threat}"]]) for name in ("retrain", "baseline"))
    count, gap = len(never), never.mean() - base.mean()
    if count < 2 or not gap > 0:
        return np.nan
    out = np.abs(never - never.mean()) * count / (count - 1) / gap
    return float(out.mean() * np.sqrt((1 / models + 1 / count) / (1 + 1 / (count - 1))))


def totals(rows: pd.DataFrame, rho: pd.DataFrame) -> pd.DataFrame:
    """rho over all classes.

    Args:
        rho: as from `rho_table`, of the same rows.

    Returns:
        Index (threat, model); columns `sums`: the `Residual` of `evidence.overall`; `rho`: the mean over the classes;
        `mean_abs_rho`; and `placebo`: that of never-saw models in the place of the method's.
    """
    check_rows(rows)
    _check_rho(rho)
    table = {}
    for (threat, model), own in rho.groupby(level=["threat", "model"], sort=False):
        floor = [placebo(rows, digit, threat, int(one["models"]))
                 for digit, one in own.droplevel(["threat", "model"]).iterrows()]
        table[threat, model] = {"sums": overall(rows, model, threat), "rho": own["rho"].mean(),
                                "mean_abs_rho": own["rho"].abs().mean(), "placebo": pd.Series(floor).mean()}
    return _frame(table, ["threat", "model"], ["sums", "rho", "mean_abs_rho", "placebo"])


def by_class(rows: pd.DataFrame, rho: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each method of a `rho_table`, its numbers for each class, means over the seeds.

    Returns:
        method -> table. Index: rho for each of `evidence.THREATS`, nats lost, points (hundredths of accuracy) lost,
        relearning; a column for each class.
    """
    check_rows(rows)
    _check_rho(rho)
    return {model: pd.DataFrame({
        "ρ, simplex": rho["rho"].xs((THREATS[0], model), level=("threat", "model")),
        "ρ, free": rho["rho"].xs((THREATS[1], model), level=("threat", "model")),
        "nats lost": differences(rows, "nelbo", model, "baseline").groupby("forget").mean(),
        "points lost": -100 * differences(rows, "accuracy", model, "baseline").groupby("forget").mean(),
        "relearning": rows.xs(model, level="model")["relearning"].groupby("forget").mean()}).T
        for model in rho.index.unique("model")}


def predictors(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Properties of each class that may make it hard to forget.

    Args:
        rows: as from `evidence.tidy`, of `cells`.
        cells: as from `evidence.split`.

    Returns:
        Index `forget`; columns `gap`: the attacker's mean squared error with y on the simplex, of models that never
        saw the class less that of baselines; `mistaken for`: the class that judge B sees most in real images of this
        one, and `mistaken`: its mean probability; `nearest code`: the class with the nearest mean code in the
        baseline's latent space, and `distance` to it. The last four are missing where the cells do not have them.
    """
    check_rows(rows)
    check_cells(cells=cells)
    errors = rows[f"errors.{THREATS[0]}"].groupby(["model", "forget"]).agg(
        lambda values: np.concatenate(list(values)).mean()).astype(float)
    confused, codes = (_of_classes(cells, name).reindex(errors["baseline"].index)
                       for name in ("confusion", "latent_distances"))
    return pd.DataFrame({"gap": errors["retrain"] - errors["baseline"],
                         "mistaken for": _nearest(-confused), "mistaken": confused.max(axis=1),
                         "nearest code": _nearest(codes), "distance": codes.min(axis=1)})


def _of_classes(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of lists, a value a class, as means over the cells of each class, NaN at the class itself."""
    texts = cells[column].dropna() if column in cells else pd.Series(dtype=str)
    means = {digit: np.mean([json.loads(text) for text in own], 0)
             for digit, own in texts.groupby(cells["forget"].reindex(texts.index))}
    table = pd.DataFrame.from_dict(means, orient="index", dtype=float)
    for digit in table.index:
        table.loc[digit, digit] = np.nan
    return table


def _nearest(distances: pd.DataFrame) -> pd.Series:
    """The column with the smallest value of each row, missing where the row has none."""
    known = distances.dropna(how="all")
    # As objects, for a missing class would turn the others into fractions.
    return known.idxmin(axis=1).astype(object).reindex(distances.index)


def search(cells: pd.DataFrame) -> pd.DataFrame:
    """The result of each setting in the search for settings.

    Args:
        cells: of the search, as from `evidence.split`.

    Returns:
        Index (method, setting), where "own" is the method's own; columns `cell_abs_rho`, the mean
        ``|rho|`` of both attackers; `nats_lost` and `points_lost`, on the retained classes, from the baseline; and
        `probability`: judge B's, of the class, above that of a retrained model. All are infinite if the cell failed.
        No rows without cells.
    """
    check_cells(cells=cells)
    tried = {}
    for _, cell in cells.iterrows():
        method, = json.loads(cell["methods"])
        changes = {name.removeprefix("changes."): value for name, value in cell.items()
                   if name.startswith("changes.") and not np.isnan(value)}
        setting = ", ".join(f"{name} {value:g}" for name, value in changes.items()) or "own"
        tried[method, setting] = dict.fromkeys(SEARCHED, np.inf)
        if not cell["error"]:
            models = tidy(cell.to_frame().T).droplevel(["dataset", "architecture", "forget", "seed"])
            model, baseline, never = (models.loc[name] for name in (method, *CONTROLS))
            tried[method, setting] = {"cell_abs_rho": np.abs(_cell_rho(model)).mean(),
                                      "nats_lost": model["nelbo"] - baseline["nelbo"],
                                      "points_lost": 100 * (baseline["accuracy"] - model["accuracy"]),
                                      "probability": model["probability"] - never["probability"]}
    return _frame(tried, ["method", "setting"], SEARCHED)


def _cell_rho(model: pd.Series) -> np.ndarray:
    """rho by each of `evidence.THREATS`, against the one never-saw model of the cell."""
    return np.array([model[f"rho.{threat}.value"] for threat in THREATS], float)


def settings(scored: pd.Series) -> pd.DataFrame:
    """A score for each row of a `search`, as a table of text that fits a page.

    Args:
        scored: index (method, setting); lower is better, and infinite is failed.

    Returns:
        Index `method`; columns `own`: the score with the method's own setting, and 1, 2, ...: those with the other
        settings, best first, as "1.5 (fresh 0.5)" or "failed (steps 800)".
    """
    check_types(scored=(scored, pd.Series))
    if list(scored.index.names) != ["method", "setting"]:
        raise ValueError(f"scored must have an index (method, setting), got {shorten(list(scored.index.names))}")
    table = {}
    for method, tried in scored.groupby("method", sort=False):
        texts = {name: "failed" if np.isinf(score) else f"{score:,.1f}"
                 for name, score in tried.droplevel("method").sort_values().items()}
        others = [f"{text} ({name})" for name, text in texts.items() if name != "own"]
        table[method] = {"own": texts.get("own", "–"), **dict(enumerate(others, 1))}
    return pd.DataFrame.from_dict(table, orient="index").fillna("–").rename_axis("method")


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """All methods in the cells that have them all, each from the same baseline.

    Returns:
        Index (forget, seed, model), with `PLACEBO` and without the controls; columns `probability`; `cell_rho` and
        `cell_abs_rho`: the mean of rho and of its size by both attackers, against the one never-saw model of the
        cell; `nats_lost` and `points_lost`: on the retained classes, from the baseline; `seconds`; and `sooner`:
        relearning less that of a retrained model. Of the placebo, the never-saw models of other seeds, only rho.
    """
    check_rows(rows)
    count = len(rows.index.unique("model"))
    table = {}
    for (digit, seed), cell in rows.groupby(level=["forget", "seed"]):
        models = cell.droplevel([name for name in cell.index.names if name != "model"])
        if len(models) == count:
            baseline, never = (models.loc[name] for name in CONTROLS)
            for name, model in models.drop(list(CONTROLS)).iterrows():
                rho = _cell_rho(model)
                table[digit, seed, name] = {
                    "probability": model["probability"], "cell_rho": rho.mean(), "cell_abs_rho": np.abs(rho).mean(),
                    "nats_lost": model["nelbo"] - baseline["nelbo"],
                    "points_lost": 100 * (baseline["accuracy"] - model["accuracy"]), "seconds": model["seconds"],
                    "sooner": model["relearning"] - never["relearning"]}
            others = rows.xs((digit, "retrain"), level=("forget", "model")).drop(index=seed)
            rho = np.array([[(never[f"errors.{threat}"] - other[f"errors.{threat}"]).mean()
                             / (never[f"errors.{threat}"] - baseline[f"errors.{threat}"]).mean() for threat in THREATS]
                            for _, other in others.iterrows()])
            if len(rho):
                table[digit, seed, PLACEBO] = {"cell_rho": rho.mean(), "cell_abs_rho": np.abs(rho).mean()}
    return _frame(table, ["forget", "seed", "model"], ["probability", "cell_rho", "cell_abs_rho", "nats_lost",
                                                       "points_lost", "seconds", "sooner"])


def summary(rows: pd.DataFrame, rho: pd.DataFrame) -> pd.DataFrame:
    """The numbers of each method that `claims` holds to limits.

    Args:
        rho: as from `rho_table`, of the same rows.

    Returns:
        Index `model`; columns `looks`: the number of classes times attackers; `gone`: of those, the ones with this
        verdict; `residues`: those with rho above 0 after Holm's adjustment; `nats_lost`, `points_lost` and
        `relearning`: an `Estimate` over seeds, on the retained classes and from the baseline, relearning of the class
        and from a retrained model; and `seen`: of all cells, the share in which judge B's probability of the class is
        at most that of a retrained model and `claims.LIMITS`.
    """
    check_rows(rows)
    counted, table = counts(rho), {}
    for model in rho.index.unique("model"):
        seen = differences(rows, "probability", model, "retrain")
        own = counted.loc[model, "each"]
        table[model] = {
            "looks": own["looks"], "gone": own.get("gone", 0), "residues": own["above 0"],
            "nats_lost": estimate(by_seed(differences(rows, "nelbo", model, "baseline"))),
            "points_lost": estimate(by_seed(differences(rows, "accuracy", model, "baseline")), -100),
            "relearning": estimate(by_seed(differences(rows, "relearning", model, "retrain"))),
            "seen": (seen <= LIMITS["probability"]).mean()}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("model")


def claims(summarized: pd.DataFrame) -> pd.DataFrame:
    """Claims about each method, held to the limits of `claims.LIMITS`.

    Args:
        summarized: as from `summary`.

    Returns:
        Index (claim, model), a claim after the other; columns `measured`, as text, and `holds`. A claim about nats
        and points is held to the end of the 95 % interval; relearning is held to the 90 % interval, as two one-sided
        tests. A claim without an interval does not hold.
    """
    check_table("looks", "gone", "residues", "seen", summarized=summarized)
    margin, table = LIMITS["relearning"], {}
    for model, own in summarized.iterrows():
        back: Estimate = own["relearning"]
        for claim, measured, holds in (
                ("gone at every digit and attacker", f"{own['gone']} of {own['looks']}", own["gone"] == own["looks"]),
                ("no residue after Holm's adjustment", f"{own['residues']} of {own['looks']}", own["residues"] == 0),
                *((f"{name} lost at most {LIMITS[f'{name}_lost']}", str(own[f"{name}_lost"]),
                   own[f"{name}_lost"].high <= LIMITS[f"{name}_lost"]) for name in ("nats", "points")),
                (f"relearning as a retrained model, ± {margin}", str(back),
                 -margin < back.low90 and back.high90 < margin),
                (f"seen by judge B in at most 5 % of cells, above {LIMITS['probability']}",
                 f"{1 - own['seen']:.0%}", own["seen"] >= 0.95)):
            table[claim, model] = {"measured": measured, "holds": bool(holds)}
    ordered = dict(sorted(table.items(), key=lambda item: list(dict.fromkeys(key for key, _ in table)).index(
        item[0][0])))
    return _frame(ordered, ["claim", "model"], ["measured", "holds"])


def metrics(rho: pd.DataFrame, summarized: pd.DataFrame, claimed: pd.DataFrame) -> dict[str, Any]:
    """The tables of `rho_table`, `summary` and `claims` as the metrics of 08_evidence; None where there is no number.

    Returns:
        `looks`, `gone` and `residues`: method -> number; `nats`, `points` and `relearning`: method -> an `Estimate`;
        `rho`: threat -> class -> method -> `rho`, `low`, `high` and `verdict`; and `claims`: "method: claim" -> whether
        it holds.
    """
    _check_rho(rho)
    check_table("looks", "gone", summarized=summarized)
    check_types(claimed=(claimed, pd.DataFrame))
    residuals: dict[str, Any] = {}
    for (threat, digit, model), row in rho.iterrows():
        residuals.setdefault(threat, {}).setdefault(str(digit), {})[model] = {
            "verdict": row["verdict"], **_known(row[["rho", "low", "high"]])}
    names = {"nats_lost": "nats", "points_lost": "points", "relearning": "relearning"}
    return {**{name: summarized[name].astype(int).to_dict() for name in ("looks", "gone", "residues")},
            **{key: {model: _known(asdict(one)) for model, one in summarized[name].items()}
               for name, key in names.items()},
            "rho": residuals,
            "claims": {f"{model}: {claim}": bool(holds) for (claim, model), holds in claimed["holds"].items()}}


def _known(values: Mapping[str, Any] | pd.Series) -> dict[str, Any]:
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def other_data(cells: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The same for cells of other data and models.

    Args:
        cells: of any data sets and architectures, as from `evidence.split`.
        methods: those to look at, where the cells have them.

    Returns:
        Index: "data, model: method"; columns `cells`; a column for each threat: the `Residual` of `evidence.overall`;
        `nats_lost`: an `Estimate` over seeds; and `gray`: the largest. No rows if no such cell succeeded.
    """
    check_cells(cells=cells)
    check_types(methods=(methods, Sequence))
    table = {}
    for (dataset, architecture), part in cells[cells["error"] == ""].groupby(["dataset", "architecture"]):
        rows = tidy(part.fillna({"seed": -1})).droplevel(["dataset", "architecture"])
        for model in [name for name in methods if name in rows.index.unique("model")]:
            table[f"{dataset}, {architecture}: {model}"] = {
                "cells": len(rows.xs(model, level="model")),
                **{threat: overall(rows, model, threat) for threat in ATTACKERS},
                "nats_lost": estimate(by_seed(differences(rows, "nelbo", model, "baseline"))),
                "gray": rows.xs(model, level="model")["gray"].max()}
    return pd.DataFrame.from_dict(table, orient="index")


def _frame(rows: dict[tuple, dict[str, Any]], levels: list[str], columns: list[str]) -> pd.DataFrame:
    """Rows named by tuples as a table, also if there are none."""
    names = pd.MultiIndex.from_tuples(rows, names=levels) if rows else pd.MultiIndex.from_arrays([[]] * len(levels),
                                                                                                names=levels)
    return pd.DataFrame(list(rows.values()), names, columns)


def _check_rho(rho: pd.DataFrame) -> None:
    check_table("rho", "low", "high", rho=rho)
    if list(rho.index.names) != ["threat", "forget", "model"]:
        raise ValueError(f"rho must be a table of rho_table, got rows named by {shorten(list(rho.index.names))}")
