"""Comparison: methods and classes compared over the rows of the evidence, with intervals.

The classes are fixed and the seeds random. All classes of a seed share a baseline, so an interval is over seeds: each
counts with its mean over the classes. Every function takes the rows of `trials.read` or of `evidence.tidy`, of one
data set and architecture, or the cells of `evidence.split`, and returns a table.
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
    Estimate,
    by_seed,
    check_cells,
    check_rows,
    conditions,
    differences,
    estimate,
    overall,
    residual,
    tidy,
)
from .residual import VERDICTS, Residual, seeds_needed, verdict

__all__ = ["CONTROLS", "by_processor", "claims", "counts", "holm", "metrics", "on_some", "other_data", "placebo",
           "rho_table", "search", "settings", "shared_seeds", "shifts", "shortfalls", "summary", "totals"]

CONTROLS = ("baseline", "retrain")
SEARCHED = ["cell_abs_rho", "nats_lost", "points_lost", "probability"]


def rho_table(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """rho of each method for each class, over all seeds; see `evidence.residual`.

    Args:
        methods: names that `rows` has for every class; see `evidence.complete`.

    Returns:
        Index (condition, forget, model), with the `evidence.conditions` of the rows; columns: the attributes of a
        `residual.Residual`, its `verdict`, its `seeds` (`residual.seeds_needed`), and `holm`: the p of rho = 0,
        adjusted for all looks at a method: each class under each condition.
    """
    check_rows(rows)
    check_names(rows.index.unique("model"), methods=methods)
    found = {(condition, digit, model): residual(rows, model, digit, condition) for condition in conditions(rows)
             for digit in rows.index.unique("forget").sort_values() for model in methods}
    table = _frame({key: {**asdict(one), "verdict": verdict(one), "seeds": seeds_needed(one)}
                    for key, one in found.items()}, ["condition", "forget", "model"],
                   [*(field.name for field in fields(Residual)), "verdict", "seeds"])
    return table.assign(holm=table.groupby("model")["p"].transform(holm))


def holm(values: pd.Series) -> pd.Series:
    """p-values adjusted for their number (Holm 1979): the chance of any false one among them stays below the limit.

    Args:
        values: p-values, 0-1; one that is NaN is no look.
    """
    check_types(values=(values, pd.Series))
    ordered = values.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1).reindex(values.index)


def counts(rho: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on each method, counted over the classes under each condition.

    Args:
        rho: as from `rho_table`.

    Returns:
        Index (model, condition); columns `looks`, a column for each verdict that occurs, and `above 0` and `below 0`:
        looks in which rho differs from 0 after Holm's adjustment.
    """
    _check_rho(rho)
    rows = {}
    for (model, condition), looks in rho.groupby(["model", "condition"], sort=False):
        clear = looks["holm"] <= 0.05
        rows[model, condition] = {
            "looks": len(looks), **{word: int((looks["verdict"] == word).sum()) for word in VERDICTS[::-1]},
            "above 0": int((clear & (looks["rho"] > 0)).sum()), "below 0": int((clear & (looks["rho"] < 0)).sum())}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "condition"])
    return table.drop(columns=[word for word in VERDICTS if not table[word].any()])


def placebo(rows: pd.DataFrame, digit: int, condition: str, models: int) -> float:
    """Mean ``|rho|`` where nothing is left: each never-saw model in the method's place, against the others.

    One model varies more than the mean of several. So the values are scaled to the variance of `models` models
    against all that never saw the class.

    Returns:
        NaN with one model that never saw the class, or without a gap.
    """
    check_rows(rows)
    check_whole(models=models)
    never, base = (np.array([errors.mean() for errors in rows.xs(
        (digit, name), level=("forget", "model"))[f"errors.{condition}"]]) for name in ("retrain", "baseline"))
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
        Index (model, condition); columns `sums`: the `Residual` of `evidence.overall`; `rho`: the mean over the
        classes; `mean_abs_rho`; and `placebo`: that of never-saw models in the place of the method's.
    """
    check_rows(rows)
    _check_rho(rho)
    table = {}
    for (model, condition), own in rho.groupby(["model", "condition"], sort=False):
        floor = [placebo(rows, digit, condition, int(one["models"]))
                 for digit, one in own.droplevel(["model", "condition"]).iterrows()]
        table[model, condition] = {"sums": overall(rows, model, condition), "rho": own["rho"].mean(),
                                   "mean_abs_rho": own["rho"].abs().mean(), "placebo": pd.Series(floor).mean()}
    return _frame(table, ["model", "condition"], ["sums", "rho", "mean_abs_rho", "placebo"])


def shifts(rows: pd.DataFrame, methods: Sequence[str]) -> pd.Series:
    """How much further above 0 rho is under the last condition than under the first: what mending brings back.

    The difference is taken within each seed, as a share of the mean gap under the first condition:
    ``[(E_never - E_unlearned)_last - (E_never - E_unlearned)_first] / gap``, a mean over the classes.

    Returns:
        Index model; an `evidence.Estimate` over seeds.

    Raises:
        ValueError: the rows have fewer than two conditions.
    """
    check_rows(rows)
    check_names(rows.index.unique("model"), methods=methods)
    if len(conditions(rows)) < 2:
        raise ValueError(f"rows must have two conditions or more, got {shorten(conditions(rows))}")
    first, last = conditions(rows)[0], conditions(rows)[-1]
    means = rows[[f"errors.{first}", f"errors.{last}"]].map(np.mean).astype(float)
    never, base = (means.xs(name, level="model") for name in ("retrain", "baseline"))
    gap = (never - base)[f"errors.{first}"].mean()
    return pd.Series({model: estimate(by_seed((never - means.xs(model, level="model")).diff(axis=1).iloc[:, -1] / gap))
                      for model in methods}, dtype=object).rename_axis("model")


def shared_seeds(rows: pd.DataFrame, methods: Sequence[str]) -> list[int]:
    """The seeds that all methods have, in order; a comparison on them alone is fair."""
    check_rows(rows)
    check_names(rows.index.unique("model"), methods=methods)
    seeds = [set(rows.xs(method, level="model").index.unique("seed")) for method in methods]
    return sorted(set.intersection(*seeds)) if seeds else []


def on_some(rows: pd.DataFrame, known: Sequence[str]) -> pd.DataFrame:
    """The methods that were measured on some of the classes only, so that nothing is said over all of them.

    Args:
        known: models that are left out; those of `CONTROLS` are, too.

    Returns:
        For each class and method, index `method`; columns `digit`; `probability`, a mean over seeds; the `Residual`
        ``ρ, <condition>`` for each; and `nats_lost`, from the baseline. Empty if there is no such method.
    """
    check_rows(rows)
    check_names(rows.index.unique("model"), known=known)
    some = rows.drop(index=[*known, *CONTROLS], level="model", errors="ignore")
    table = [{"method": model, "digit": digit, "probability": own["probability"].mean(),
              **{f"ρ, {condition}": residual(rows, model, digit, condition) for condition in conditions(rows)},
              "nats_lost": differences(rows, "nelbo", model, "baseline")[digit].mean()}
             for (digit, model), own in some.groupby(["forget", "model"])]
    return pd.DataFrame(table).set_index("method") if table else pd.DataFrame()


def shortfalls(rows: pd.DataFrame) -> pd.Series:
    """How far the attack is from its end, where that was measured; see `trained.shortfall`.

    Returns:
        Index (forget, seed, model, condition); empty for rows without the columns of `trials.read`.
    """
    check_rows(rows)
    columns = {f"shortfall.{condition}": condition for condition in conditions(rows)}
    own = rows.reindex(columns=list(columns)).rename(columns=columns).rename_axis(columns="condition")
    return own.stack().dropna().rename("shortfall")


def by_processor(rows: pd.DataFrame, model: str, condition: str) -> pd.DataFrame:
    """rho of a method over the seeds that were made on each kind of processor.

    Returns:
        Index `processor`; columns `seeds`, their number, and `rho`, the mean over seeds and classes as a share of the
        mean gap of all. Empty for rows without the column `processor`.
    """
    check_rows(rows)
    check_names(rows.index.unique("model"), model=[model])
    if "processor" not in rows:
        return pd.DataFrame(columns=["seeds", "rho"])
    error = rows[f"errors.{condition}"].map(np.mean).astype(float).unstack("model")
    left = by_seed(error["retrain"] - error[model]) / by_seed(error["retrain"] - error["baseline"]).mean()
    of_seeds = left.groupby(rows["processor"].groupby("seed").first())
    return pd.DataFrame({"seeds": of_seeds.size(), "rho": of_seeds.mean()})


def search(cells: pd.DataFrame) -> pd.DataFrame:
    """The result of each setting in the search for settings.

    Args:
        cells: of the search, as from `evidence.split`.

    Returns:
        Index (method, setting), where "own" is the method's own; columns `cell_abs_rho`, the mean
        ``|rho|`` under all conditions; `nats_lost` and `points_lost`, on the retained classes, from the baseline; and
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
    """rho under each condition of the cell, against its one never-saw model, or its few."""
    return np.array([value for name, value in model.items() if name.startswith("rho.")], float)


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


def summary(rows: pd.DataFrame, rho: pd.DataFrame) -> pd.DataFrame:
    """The numbers of each method that `claims` holds to limits.

    Args:
        rho: as from `rho_table`, of the same rows.

    Returns:
        Index `model`; columns `looks`: the number of classes times conditions; `gone`: of those, the ones with this
        verdict; `residues`: those with rho above 0 after Holm's adjustment; `nats_lost`, `points_lost` and
        `relearning`: an `Estimate` over seeds, on the retained classes and from the baseline, relearning of the class
        and from a retrained model; and `share`: the images that its steps see, as a share of those of a training, NaN
        where the rows do not have it.
    """
    check_rows(rows)
    _check_rho(rho)
    table = {}
    for model, own in rho.groupby("model", sort=False):
        table[model] = {
            "looks": len(own), "gone": int((own["verdict"] == "gone").sum()),
            "residues": int(((own["holm"] <= 0.05) & (own["rho"] > 0)).sum()),
            "nats_lost": estimate(by_seed(differences(rows, "nelbo", model, "baseline"))),
            "points_lost": estimate(by_seed(differences(rows, "accuracy", model, "baseline")), -100),
            "relearning": estimate(by_seed(differences(rows, "relearning", model, "retrain"))),
            "share": rows.xs(model, level="model")["share"].max() if "share" in rows else np.nan}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("model")


def claims(summarized: pd.DataFrame) -> pd.DataFrame:
    """The claims of the protocol about each method, held to the limits of `claims.LIMITS`.

    Args:
        summarized: as from `summary`.

    Returns:
        Index (claim, model), a claim after the other; columns `measured`, as text; `holds`; `decided`, by results; and
        `outcome`, in a word. A claim about nats and points is held to the end of the 95 % interval; relearning is held
        to the 90 % interval, as two one-sided tests. A claim without an interval does not hold. The images seen are a
        setting, and that no residue was found decides nothing: with few seeds, little is found.
    """
    check_table("looks", "gone", "residues", "share", summarized=summarized)
    margin, most = LIMITS["relearning"], LIMITS["share"]
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for model, own in summarized.iterrows():
        back: Estimate = own["relearning"]
        for claim, measured, holds, passes in (
                ("gone in every look", f"{own['gone']} of {own['looks']}", own["gone"] == own["looks"], "holds"),
                ("no residue after Holm's adjustment", f"{own['residues']} of {own['looks']}", own["residues"] == 0,
                 "none found"),
                *((f"{name} lost at most {LIMITS[f'{name}_lost']}", str(own[f"{name}_lost"]),
                   own[f"{name}_lost"].high <= LIMITS[f"{name}_lost"], "holds") for name in ("nats", "points")),
                (f"relearning as a retrained model, ± {margin}", str(back),
                 -margin < back.low90 and back.high90 < margin, "holds"),
                (f"images seen at most {most:.0%} of a training's",
                 "–" if np.isnan(own["share"]) else f"{own['share']:.0%}", own["share"] <= most, "kept")):
            table.setdefault(claim, {})[model] = {
                "measured": measured, "holds": bool(holds), "outcome": passes if holds else "fails",
                "decided": not claim.startswith("images") and (passes != "none found" or not holds)}
    return _frame({(claim, model): one for claim, models in table.items() for model, one in models.items()},
                  ["claim", "model"], ["measured", "holds", "outcome", "decided"])


def metrics(rho: pd.DataFrame, summarized: pd.DataFrame, claimed: pd.DataFrame, overall: pd.DataFrame,
            shifted: pd.Series) -> dict[str, Any]:
    """The tables of `rho_table`, `summary`, `claims`, `totals` and `shifts` as the metrics of 08_evidence.

    Returns:
        `looks`, `gone` and `residues`: method -> number; `nats`, `points` and `relearning`: method -> an `Estimate`;
        `rho`: condition -> class -> method -> `rho`, `low`, `high` and `verdict`; `sums`: method -> condition, with _
        for each space -> `Residual.asdict`; `back`: method -> an `Estimate` of what the last condition adds to rho; and
        `claims`: "method: claim" -> whether it holds. None where there is no number.
    """
    _check_rho(rho)
    check_table("looks", "gone", summarized=summarized)
    check_types(claimed=(claimed, pd.DataFrame), overall=(overall, pd.DataFrame), shifted=(shifted, pd.Series))
    residuals: dict[str, Any] = {}
    sums: dict[str, Any] = {}
    for (model, condition), one in overall["sums"].items():
        sums.setdefault(model, {})[condition.replace(" ", "_")] = one.asdict()
    for (condition, digit, model), row in rho.iterrows():
        residuals.setdefault(condition, {}).setdefault(str(digit), {})[model] = {
            "verdict": row["verdict"], **_known(row[["rho", "low", "high"]])}
    names = {"nats_lost": "nats", "points_lost": "points", "relearning": "relearning"}
    return {**{name: summarized[name].astype(int).to_dict() for name in ("looks", "gone", "residues")},
            **{key: {model: _known(asdict(one)) for model, one in summarized[name].items()}
               for name, key in names.items()},
            "rho": residuals, "sums": sums, "back": {model: _known(asdict(one)) for model, one in shifted.items()},
            "claims": {f"{model}: {claim}": bool(holds) for (claim, model), holds in claimed["holds"].items()}}


def _known(values: Mapping[str, Any] | pd.Series) -> dict[str, Any]:
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def other_data(cells: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """rho over all classes, and the losses, of each method on other data and models than those of the main part.

    Args:
        cells: of any data sets and architectures, as from `evidence.split`.
        methods: those to look at, where the cells have them.

    Returns:
        Index: "data, model: method"; columns `cells`; for each condition, the `Residual` of `evidence.overall`;
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
                **{condition: overall(rows, model, condition) for condition in conditions(rows)},
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
    if list(rho.index.names) != ["condition", "forget", "model"]:
        raise ValueError(f"rho must be a table of rho_table, got rows named by {shorten(list(rho.index.names))}")
