"""Tables of attacks: the results of many attacks as frames, a row for each threat model, class and model.

The frames of this module have the levels threat, class and model in their index.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pandas as pd
import torch

from .attacks import AttackResult, score
from .checks import check_names, check_types, shorten
from .judges import Judge
from .measures import write
from .quantiles import student
from .residual import Residual, both, interval, residual_knowledge, wording

__all__ = ["by_threat", "errors", "flat", "inputs", "nested", "points", "probe_effects", "relearning", "residuals",
           "scores", "verdicts", "verdicts_on_both"]

Results = Mapping[tuple[str, int, str], AttackResult]
LEVELS = ["threat", "class", "model"]


def errors(results: Results) -> pd.Series:
    """The attacker's lowest loss on each target, within the whole budget.

    Args:
        results: (threat, class, model) -> the attack.

    Returns:
        Index threat, class, model, image: the position of the target, from 0.
    """
    _check_results(results)
    return pd.concat({key: pd.Series(result.errors.double().cpu().numpy()) for key, result in results.items()},
                     names=[*LEVELS, "image"]).rename("error")


def scores(results: Results, judge: Judge, real: Mapping[int, torch.Tensor]) -> pd.DataFrame:
    """A judge's opinion of each attack's images, after the whole budget.

    Args:
        results: (threat, class, model) -> the attack.
        judge: the attacker must not have used it.
        real: class -> images `[M, *image_shape]` of it that the model or its attacker may have seen.

    Returns:
        Index threat, class, model; the columns of `attacks.score`: `loss`, `success`, `not_a_digit`, `nearest`.
    """
    _check_results(results)
    check_types(real=(real, Mapping))
    check_names(real, classes=[label for _, label, _ in results])
    return _frame({key: score(result.end, judge, key[1], real[key[1]]).iloc[0].to_dict()
                   for key, result in results.items()})


def inputs(results: Results) -> pd.DataFrame:
    """The decoder's inputs with which each attack ends, as means over its targets.

    Returns:
        Index threat, class, model; columns `norm_z` and `norm_y`, the Euclidean norms, and `y_class`, the label
        vector's entry of the class.
    """
    _check_results(results)
    return _frame({key: {"norm_z": float(result.z[-1].norm(dim=1).mean()),
                         "norm_y": float(result.y[-1].norm(dim=1).mean()),
                         "y_class": float(result.y[-1][:, key[1]].mean())} for key, result in results.items()})


def residuals(errors: pd.Series, never: Mapping[str, Sequence[str]], baseline: str = "baseline",
              pooled: Mapping[tuple[str, int], tuple[float, float]] | None = None) -> pd.DataFrame:
    """rho of several models, for each threat model and class for which they have errors.

    Args:
        errors: of `errors`.
        never: model -> the models that never saw the classes that it has forgotten.
        baseline: the model before any unlearning.
        pooled: (threat, class) -> a pooled spread of the controls, see `residual.residual_knowledge`; their own spread
            where it has none.

    Returns:
        Index threat, class, model, in the order of `errors`; columns: the attributes of a `residual.Residual`.

    Raises:
        ValueError: a model in `never` has no errors, or a model to compare it with lacks them for an image.
    """
    check_types(errors=(errors, pd.Series), never=(never, Mapping))
    if list(errors.index.names) != [*LEVELS, "image"] or errors.index.has_duplicates:
        raise ValueError(f"errors must have the levels {', '.join(LEVELS)} and image, and each row once, got the "
                         f"levels {shorten(list(errors.index.names))}")
    models = list(errors.index.unique("model"))
    check_names(models, never=list(never), **{f"never[{model!r}]": names for model, names in never.items()})
    check_names(models, baseline=[baseline])
    if lonely := [model for model, names in never.items() if not names]:
        raise ValueError(f"never must have at least one model for each, got none for {', '.join(lonely)}")
    attacks = {key: rows.droplevel(LEVELS) for key, rows in errors.groupby(level=LEVELS, sort=False)}
    table = {}
    for threat, label, model in attacks:
        if model in never:
            unlearned = attacks[threat, label, model]
            others = [attacks.get((threat, label, name), unlearned.iloc[:0]).reindex(unlearned.index)
                      for name in (*never[model], baseline)]
            if any(rows.isna().any() for rows in others):
                raise ValueError(f"errors must have every image of ({threat}, {label}, {model}) for {baseline} and "
                                 f"{', '.join(never[model])} too, got fewer")
            *without, before = (torch.tensor(rows.to_numpy()) for rows in others)
            table[threat, label, model] = asdict(residual_knowledge(
                torch.stack(without), torch.tensor(unlearned.to_numpy()), before, (pooled or {}).get((threat, label))))
    return _frame(table)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """rho with its interval, its resolution and its verdict, see `wording`, for each row of `residuals`, as text."""
    residuals = _residuals_of(table)
    return pd.DataFrame({"rho": map(str, residuals),
                         "resolution": [write("resolution", one.resolution) for one in residuals],
                         "verdict": map(wording, residuals)}, index=table.index)


def verdicts_on_both(as_is: pd.DataFrame, mended: pd.DataFrame) -> pd.DataFrame:
    """rho of the models of `mended`, as they are and after mending, with one verdict on the two; see `residual.both`.

    Args:
        as_is, mended: tables of `residuals`; the first has all rows of the second.
    """
    check_types(as_is=(as_is, pd.DataFrame), mended=(mended, pd.DataFrame))
    if not mended.index.isin(as_is.index).all():
        raise ValueError(f"as_is must have the rows of mended, {shorten(list(mended.index))}, got "
                         f"{shorten(list(as_is.index))}")
    first, second = (_residuals_of(table.loc[mended.index]) for table in (as_is, mended))
    return pd.DataFrame({"as it is": map(str, first), "mended": map(str, second),
                         "verdict on both": map(both, first, second)}, index=mended.index)


def _residuals_of(table: pd.DataFrame) -> list[Residual]:
    return [Residual(**row) for row in table[[field.name for field in fields(Residual)]].to_dict("records")]


def flat(frame: pd.DataFrame | pd.Series, *levels: str) -> pd.DataFrame | pd.Series:
    """The same rows, each named by these levels of the index in one text: "9: baseline"."""
    check_types(frame=(frame, (pd.DataFrame, pd.Series)))
    check_names(frame.index.names, levels=levels)
    names = [": ".join(map(str, key)) for key in zip(*map(frame.index.get_level_values, levels), strict=True)]
    return frame.set_axis(pd.Index(names, name=": ".join(levels)))


def by_threat(values: pd.Series) -> pd.DataFrame:
    """Numbers or words of many attacks: a row for each class and model, named as by `flat`, a column for each threat.

    Args:
        values: index threat, class, model.
    """
    check_types(values=(values, pd.Series))
    check_names(values.index.names, levels=LEVELS)
    # Of rows that were selected, the index still has the other threats, and would name the wrong ones.
    values = values.set_axis(values.index.remove_unused_levels())
    return flat(values.unstack("threat", sort=False).rename_axis(columns=None), "class", "model")


def points(table: pd.DataFrame) -> pd.DataFrame:
    """rho and its interval of each row of `residuals`, for `figures.intervals`.

    Returns:
        Index threat and class: model; columns `value`, `low`, `high`.
    """
    named = flat(table, "class", "model").index
    threats = table.index.get_level_values("threat")
    return table.rename(columns={"rho": "value"}).set_axis(pd.MultiIndex.from_arrays([threats, named]))


def relearning(curves: Mapping[tuple[int, str], pd.DataFrame]) -> pd.DataFrame:
    """How soon a class comes back when models are trained on k images of it.

    Args:
        curves: (class, model) -> index step, from 0; a column for each k, as `attacks.relearn` returns it.

    Returns:
        Index class: model; columns "k = 1", ...: the first step at which the accuracy reaches a half, NaN if none
        does; and `relearning`: the mean accuracy over all steps with the last k.
    """
    check_types(curves=(curves, Mapping))
    rows = {}
    for (label, model), curve in curves.items():
        steps = curve.index.to_series().astype(float)
        first = {f"k = {count}": steps[accuracy >= 0.5].min() for count, accuracy in curve.items()}
        rows[f"{label}: {model}"] = first | {"relearning": curve.iloc[:, -1].mean()}
    return pd.DataFrame(rows).T.rename_axis("class: model")


def nested(frame: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON values: a mapping for each level of its index, and column -> value inside.

    None stands for NaN and for infinity.
    """
    check_types(frame=(frame, pd.DataFrame))
    tree: dict[str, Any] = {}
    for key, row in zip(frame.index, frame.to_dict("records"), strict=True):
        place = tree
        for name in key if isinstance(key, tuple) else (key,):
            place = place.setdefault(str(name), {})
        place |= {str(column): value if _is_finite(value) else None for column, value in row.items()}
    return tree


def _is_finite(value: Any) -> bool:
    """Whether a value has a place in JSON: texts have, NaN and infinity have not."""
    return not isinstance(value, (float, np.floating)) or math.isfinite(value)


def _frame(rows: Mapping[tuple[str, int, str], Mapping[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(list(rows), names=LEVELS))


def _check_results(results: Results) -> None:
    check_types(results=(results, Mapping))
    if not results or not all(isinstance(key, tuple) and len(key) == 3 and isinstance(result, AttackResult)
                              for key, result in results.items()):
        raise ValueError(f"results must be at least one attack by (threat, class, model), got {shorten(results)}")


def _p_of_zero(values: np.ndarray) -> float:
    """The p of a mean of 0, by Student's t; NaN for a single value."""
    if len(values) < 2:
        return math.nan
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    return float(1 - student(abs(mean) / error, len(values) - 1)) if error else float(mean == 0)


def probe_effects(table: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """What each probe finds in a kind of model and not in models that never saw the class.

    Args:
        table: as from `validation.read_probes`.
        models: kinds of models in it.

    Returns:
        Index (model, probe). Columns `effect`, `low` and `high`, with a 95 % interval over seeds: rho for an attack,
        and for any other probe the mean difference to the model of the same seed that never saw the class; `p`, that
        there is none; `control`: the mean value of models that never saw it, NaN for an attack. With one seed,
        `low`, `high` and `p` are NaN.
    """
    check_types(table=(table, pd.DataFrame))
    found = {}
    for (probe, model), rows in table.sort_values("seed").groupby(["probe", "model"], sort=False):
        found[probe, model] = (np.array([json.loads(text) for text in rows["errors"]]) if rows["errors"].notna().all()
                               else rows["value"].to_numpy(float))
    effects = {}
    for model in models:
        for probe in table["probe"].unique():
            own, never = found[probe, model], found[probe, "never saw"]
            if own.ndim == 2:
                rho = residual_knowledge(*map(torch.tensor, (never, own, found[probe, "baseline"])))
                effects[model, probe] = {"effect": rho.rho, "low": rho.low, "high": rho.high, "p": rho.p}
                continue
            mean, low, high = interval(own - never)
            effects[model, probe] = {"effect": mean, "low": low, "high": high, "control": never.mean(),
                                     "p": _p_of_zero(own - never)}
    return pd.DataFrame.from_dict(effects, orient="index").rename_axis(["model", "probe"])
