"""Comparison: methods and classes compared over the rows of the evidence, with intervals.

Methods are compared in pairs: within a class and a seed, an unlearned model and its baseline, a retrained model, or
the model of another method. Every function takes the rows of `evidence.tidy`, of one data set and architecture, or
the cells of `evidence.split`, and returns a table.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from .checks import check_names, check_table, check_types, shorten
from .claims import LIMITS
from .evidence import THREATS, check_cells, check_rows, differences, estimate, residual, tidy
from .measures import write

__all__ = ["CONTROLS", "RANKED", "by_class", "claims", "correlations", "metrics", "other_data", "paired",
           "predictors", "rho_table", "scores", "search", "settings", "summary"]

CONTROLS = ("baseline", "retrain")
# The measures by which methods are ranked: columns of `scores`, all better if lower.
RANKED = ["probability", "abs_rho", "nats_lost", "points_lost", "seconds"]
PREDICTORS = ("gap", "mistaken", "distance")
SEARCHED = ["mean_abs_rho", "nats_lost", "points_lost", "probability"]


def rho_table(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """rho of each method for each class, over all seeds; see `evidence.residual`.

    Args:
        methods: names that `rows` has for every class; see `complete`.

    Returns:
        Index (threat, forget, model), with the threats of `evidence.THREATS` and "either"; columns `rho`, `low` and
        `high`, the ends of its 95 % interval. All three are NaN where rho is not defined.
    """
    check_rows(rows)
    check_names(rows.index.unique("model"), methods=methods)
    classes = rows.index.unique("forget").sort_values()
    residuals = {(threat, digit, model): residual(rows, model, digit, threat).asdict()
                 for threat in (*THREATS, "either") for digit in classes for model in methods}
    return _frame(residuals, ["threat", "forget", "model"], ["rho", "low", "high"]).astype(float)


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


def correlations(causes: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations of `predictors` with the size of rho.

    Args:
        sizes: ``|rho|``, index `forget`, a column for each method.

    Returns:
        Index (predictor, model); columns `correlation` (Spearman's) and `p`: the probability of one as large if the
        two were not related. No rows for fewer than four classes, or for predictors and methods that lack a class.
    """
    check_table(*PREDICTORS, causes=causes)
    check_table(sizes=sizes)
    links = {}
    for name in PREDICTORS:
        for model in sizes:
            both = pd.DataFrame({"cause": causes[name], "size": sizes[model]})
            if len(both) > 3 and both.notna().all(axis=None):
                link = spearmanr(both["cause"], both["size"])
                links[name, model] = {"correlation": link.statistic, "p": link.pvalue}
    return _frame(links, ["predictor", "model"], ["correlation", "p"])


def search(cells: pd.DataFrame) -> pd.DataFrame:
    """The result of each setting in the search for settings.

    Args:
        cells: of the search, as from `evidence.split`.

    Returns:
        Index (method, setting), where "own" is the method's own; columns `mean_abs_rho`, of both attackers;
        `nats_lost` and `points_lost`, on the retained classes, from the baseline; and `probability`: judge B's, of
        the class, above that of a retrained model. All are infinite if the cell failed. No rows without cells.
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
            tried[method, setting] = {"mean_abs_rho": _mean_abs_rho(model),
                                      "nats_lost": model["nelbo"] - baseline["nelbo"],
                                      "points_lost": 100 * (baseline["accuracy"] - model["accuracy"]),
                                      "probability": model["probability"] - never["probability"]}
    return _frame(tried, ["method", "setting"], SEARCHED)


def _mean_abs_rho(model: pd.Series) -> float:
    """Mean ``|rho|`` of both attackers, as the cell itself measured it."""
    return float(np.mean([abs(model[f"rho.{threat}.value"]) for threat in THREATS]))


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
        Index (forget, seed, model), without the controls; columns: those of `RANKED` (`nats_lost` and `points_lost`
        are on the retained classes, from the baseline), and `sooner`: relearning less that of a retrained model.
    """
    check_rows(rows)
    count = len(rows.index.unique("model"))
    table = []
    for (digit, seed), cell in rows.groupby(level=["forget", "seed"]):
        models = cell.droplevel([name for name in cell.index.names if name != "model"])
        if len(models) == count:
            baseline, never = (models.loc[name] for name in CONTROLS)
            table += [{"forget": digit, "seed": seed, "model": name, "probability": model["probability"],
                       "abs_rho": _mean_abs_rho(model), "nats_lost": model["nelbo"] - baseline["nelbo"],
                       "points_lost": 100 * (baseline["accuracy"] - model["accuracy"]), "seconds": model["seconds"],
                       "sooner": model["relearning"] - never["relearning"]}
                      for name, model in models.drop(list(CONTROLS)).iterrows()]
    return pd.DataFrame(table, columns=["forget", "seed", "model", *RANKED, "sooner"]).set_index(
        ["forget", "seed", "model"])


def paired(scored: pd.DataFrame, other: str) -> pd.DataFrame:
    """Each method less another in the same cells.

    Args:
        scored: as from `scores`.

    Returns:
        Index `model`, without `other`; columns `abs_rho`, `nats_lost` and `points_lost`, each an `Estimate` over
        the cells. No rows if `other` is not in `scored`.
    """
    check_types(scored=(scored, pd.DataFrame), other=(other, str))
    if list(scored.index.names) != ["forget", "seed", "model"]:
        raise ValueError(f"scored must be a table of scores, got rows named by {shorten(list(scored.index.names))}")
    models, columns = scored.index.unique("model"), ["abs_rho", "nats_lost", "points_lost"]
    table = {model: {name: estimate(scored[name].xs(model, level="model") - scored[name].xs(other, level="model"))
                     for name in columns} for model in models if model != other and other in models}
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).rename_axis("model")


def summary(rows: pd.DataFrame, rho: pd.DataFrame) -> pd.DataFrame:
    """The numbers of each method that `claims` holds to limits.

    Args:
        rho: as from `rho_table`, of the same rows.

    Returns:
        Index `model`; columns, over all classes and both attackers: `mean_abs_rho`; `abs_rho`, the largest, and
        `class`, where it is that; `rho_upper`, the largest upper end of an interval of rho; `either`: mean ``|rho|`` of
        the better attacker for each image; means of differences in cells: `nats_lost`, `accuracy` (a share, the gain)
        and `points_lost`, on the retained classes, from the baseline, and `relearning`, from a retrained model;
        `probability`: judge B's, of the class, the largest difference to a retrained model. Means and extremes leave
        out a class for which rho is not defined.
    """
    check_rows(rows)
    _check_rho(rho)
    table = {}
    for model in rho.index.unique("model"):
        attacked = rho.loc[list(THREATS)].xs(model, level="model")
        sizes = attacked["rho"].abs().dropna()
        accuracy = differences(rows, "accuracy", model, "baseline").mean()
        table[model] = {
            "mean_abs_rho": sizes.mean(), "abs_rho": sizes.max(),
            "class": sizes.idxmax()[1] if len(sizes) else pd.NA, "rho_upper": attacked["high"].max(),
            "either": rho["rho"].xs(("either", model), level=("threat", "model")).abs().mean(),
            "nats_lost": differences(rows, "nelbo", model, "baseline").mean(),
            "accuracy": accuracy, "points_lost": -100 * accuracy,
            "relearning": differences(rows, "relearning", model, "retrain").mean(),
            "probability": differences(rows, "probability", model, "retrain").max()}
    return pd.DataFrame.from_dict(table, orient="index").astype({"class": "Int64"}).rename_axis("model")


def claims(summarized: pd.DataFrame, texts: Mapping[str, str]) -> pd.DataFrame:
    """Claims about each method, held to their limits.

    Args:
        summarized: as from `summary`.
        texts: a column of `summarized` with a limit in `claims.LIMITS` -> the claim in words, with a place for the
            limit: "nats lost ≤ {:.1f}".

    Returns:
        Index (claim, model), a claim after the other; columns `measured`, `limit` (relearning may be that far from 0
        on either side), `holds` (not where a number is missing), and `verdict`: "0.08 holds" or "0.40 (class 1)
        fails", with the class where ``|rho|`` is largest.
    """
    check_table("mean_abs_rho", "abs_rho", summarized=summarized)
    check_types(texts=(texts, Mapping))
    check_names([name for name in LIMITS if name in summarized], texts=list(texts))
    table = {}
    for name, text in texts.items():
        limit, measure = LIMITS[name], {"rho_upper": "rho", "relearning": "sooner"}.get(name, name)
        for model, value in summarized[name].items():
            holds = bool((abs(value) if name == "relearning" else value) <= limit)
            place = f" (class {summarized.loc[model, 'class']})" if name == "abs_rho" and value == value else ""
            table[text.format(limit), model] = {
                "measured": value, "limit": limit, "holds": holds,
                "verdict": f"{write(measure, value)}{place} {'holds' if holds else 'fails'}"}
    return _frame(table, ["claim", "model"], ["measured", "limit", "holds", "verdict"])


def metrics(rho: pd.DataFrame, summarized: pd.DataFrame, claimed: pd.DataFrame) -> dict[str, Any]:
    """The tables of `rho_table`, `summary` and `claims` as the metrics of 08_evidence; None where there is no number.

    Returns:
        `mean_abs_rho`, `farthest` (the largest ``|rho|``), `upper`, `either`, `nats`, `accuracy` and `relearning`:
        method -> number; `rho`: threat -> class -> method -> `rho`, `low`, `high`; and `claims`: "method: claim" ->
        whether it holds.
    """
    _check_rho(rho)
    check_table("mean_abs_rho", "abs_rho", summarized=summarized)
    check_table("measured", "limit", claimed=claimed)
    residuals: dict[str, Any] = {}
    for (threat, digit, model), row in rho.loc[list(THREATS)].iterrows():
        residuals.setdefault(threat, {}).setdefault(str(digit), {})[model] = _known(row)
    names = {"mean_abs_rho": "mean_abs_rho", "abs_rho": "farthest", "rho_upper": "upper", "either": "either",
             "nats_lost": "nats", "accuracy": "accuracy", "relearning": "relearning"}
    return {**{key: _known(summarized[name]) for name, key in names.items()}, "rho": residuals,
            "claims": {f"{model}: {claim}": bool(holds) for (claim, model), holds in claimed["holds"].items()}}


def _known(values: pd.Series) -> dict[str, Any]:
    return {name: None if pd.isna(value) else value for name, value in values.items()}


def other_data(cells: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The same for cells of other data and models, with the limits that they miss.

    Args:
        cells: of any data sets and architectures, as from `evidence.split`.
        methods: those to look at, where the cells have them.

    Returns:
        Index: "data, model: method"; columns `cells`; over all classes and both attackers, `mean_abs_rho` and
        `abs_rho`, the largest, both without classes for which rho is not defined; `nats_lost`: an `Estimate`;
        `gray`: the largest; and `beyond`: the names of the limits that the method misses, as text. No rows if no
        such cell succeeded.
    """
    check_cells(cells=cells)
    check_types(methods=(methods, Sequence))
    table = {}
    for (dataset, architecture), part in cells[cells["error"] == ""].groupby(["dataset", "architecture"]):
        rows = tidy(part).droplevel(["dataset", "architecture"])
        for model in [name for name in methods if name in rows.index.unique("model")]:
            own = rows.xs(model, level="model")
            sizes = pd.Series([abs(residual(rows, model, digit, threat).rho)
                               for threat in THREATS for digit in own.index.unique("forget")])
            nats = differences(rows, "nelbo", model, "baseline")
            missed = [name for name, value, limit in (
                ("mean |ρ|", sizes.mean(), "mean_abs_rho"), ("largest |ρ|", sizes.max(), "abs_rho"),
                ("nats lost", nats.mean(), "nats_lost")) if value > LIMITS[limit]]
            table[f"{dataset}, {architecture}: {model}"] = {
                "cells": len(nats), "mean_abs_rho": sizes.mean(), "abs_rho": sizes.max(),
                "nats_lost": estimate(nats), "gray": own["gray"].max(), "beyond": ", ".join(missed) or "–"}
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
