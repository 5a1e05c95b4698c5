"""Residual knowledge: how much of a forgotten class is left in a model, against models that never saw it.

rho compares the errors of one attacker on three kinds of models; see `residual_knowledge`. `table` does so for many
attacks at once. The results of many attacks are mappings (threat model, class, model) -> `AttackResult`; the tables
made of them have these three as the levels of their index, named `threat`, `class` and `model`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from .attacks import AttackResult, score
from .checks import LARGEST, check_names, check_seed, check_types, check_whole, shorten
from .judges import Judge

__all__ = ["SPREAD", "Residual", "by_threat", "errors", "flat", "inputs", "interval", "nested", "points", "relearning",
           "residual_knowledge", "scores", "table", "verdict", "verdicts"]

Results = Mapping[tuple[str, int, str], AttackResult]
LEVELS = ["threat", "class", "model"]

# The rho of one model that never saw a class, measured against others, may be this far from 0.
SPREAD = 0.15


@dataclass(frozen=True)
class Residual:
    """rho with its 95 % interval; all three are NaN where rho is not defined."""

    rho: float
    low: float
    high: float

    @property
    def defined(self) -> bool:
        """Whether there is a rho at all."""
        return not math.isnan(self.rho)

    def __str__(self) -> str:
        return f"{self.rho:+.2f} [{self.low:+.2f}, {self.high:+.2f}]" if self.defined else "–"

    def asdict(self) -> dict[str, float | None]:
        """As JSON values; None where rho is not defined."""
        return {name: value if self.defined else None
                for name, value in (("rho", self.rho), ("low", self.low), ("high", self.high))}


def residual_knowledge(never: torch.Tensor, unlearned: torch.Tensor, baseline: torch.Tensor,
                       resamples: int = 2000, seed: int = 0) -> Residual:
    """rho = (E_never - E_unlearned) / (E_never - E_baseline): how much of a class is left in a model.

    E is the mean, over held-out real images of the class, of the lowest
    reconstruction error that one attacker with one budget reaches. 1: as if
    nothing had been forgotten; 0: as if the class had never been seen; below
    0: over-forgotten, so the model is worse at the class than a model that
    never saw it. This book introduces the measure.

    Args:
        never: errors [S, N] with S models that never saw the class.
        unlearned: errors [N], on the same images, or [T, N] with T models.
        baseline: errors of the same shape, each with the model before its unlearning.
        resamples: number of bootstrap resamples (Efron & Tibshirani 1993) of
            the images (the same for all models), of the S models, and of the T.

    Returns:
        rho with its interval; undefined (NaN) if the baseline is no better than
        the models that never saw the class, also in a single resample.

    Raises:
        ValueError: the shapes do not fit, or a number is not finite.
    """
    check_types(never=(never, torch.Tensor), unlearned=(unlearned, torch.Tensor), baseline=(baseline, torch.Tensor))
    check_whole(resamples=resamples)
    seed = check_seed(seed)
    if (never.ndim != 2 or not never.numel() or unlearned.ndim not in (1, 2) or not unlearned.numel()
            or unlearned.shape != baseline.shape or unlearned.shape[-1] != never.shape[1]
            or not all(bool(t.isfinite().all()) for t in (never, unlearned, baseline))):
        raise ValueError("never must be finite [S, N], and unlearned and baseline both [N] or both [T, N], got "
                         f"{list(never.shape)}, {list(unlearned.shape)} and {list(baseline.shape)}")
    never, unlearned, baseline = (np.atleast_2d(t.detach().double().cpu().numpy())
                                  for t in (never, unlearned, baseline))

    def rho(without, after, before):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(without > before, (without - after) / (without - before), np.nan)

    random = np.random.default_rng(seed)

    def shares(count):
        return random.multinomial(count, np.full(count, 1 / count), resamples) / count

    models, images, others = shares(len(never)), shares(never.shape[1]), shares(len(unlearned))
    resampled = rho(*((share @ errors * images).sum(1) for share, errors in
                      ((models, never), (others, unlearned), (others, baseline))))
    value = float(rho(never.mean(), unlearned.mean(), baseline.mean()))
    if np.isnan(value) or np.isnan(resampled).any():
        return Residual(np.nan, np.nan, np.nan)
    return Residual(value, *map(float, np.quantile(resampled, (0.025, 0.975))))


def verdict(residual: Residual) -> str:
    """rho as one word.

    "avoided": at least half of the knowledge is left, and only the label no longer leads to it;
    "suppressed": less than half is left; "gone": within `SPREAD` of 0, the difference between
    models that never saw the class; "over-forgotten": below that; "undefined": rho is NaN.
    """
    check_types(residual=(residual, Residual))
    if not residual.defined:
        return "undefined"
    if residual.rho >= 0.5:
        return "avoided"
    return "suppressed" if residual.rho > SPREAD else "gone" if residual.rho >= -SPREAD else "over-forgotten"


def interval(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """A mean with its 95 % interval, by the bootstrap (Efron & Tibshirani 1993) over the values.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.ndim != 1 or not len(numbers) or not (np.abs(numbers) <= LARGEST).all():
        raise ValueError(f"values must be at least one number of at most {LARGEST:g} in size, got {shorten(values)}")
    check_whole(resamples=resamples)
    seed = check_seed(seed)
    means = np.random.default_rng(seed).choice(numbers, (resamples, len(numbers))).mean(1)
    return float(numbers.mean()), *map(float, np.quantile(means, (0.025, 0.975)))


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
        real: class -> images [M, 1, 28, 28] of it that the model or its attacker may have seen.

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


def table(errors: pd.Series, never: Mapping[str, Sequence[str]], baseline: str = "baseline", resamples: int = 2000,
          seed: int = 0) -> pd.DataFrame:
    """rho of several models, for each threat model and class for which they have errors.

    Args:
        errors: of `errors`.
        never: model -> the models that never saw the classes that it has forgotten.
        baseline: the model before any unlearning.
        resamples, seed: of the bootstrap, see `residual_knowledge`.

    Returns:
        Index threat, class, model, in the order of `errors`; columns `rho`, `low`, `high`, NaN where rho is not
        defined.

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
    residuals = {}
    for threat, label, model in attacks:
        if model in never:
            unlearned = attacks[threat, label, model]
            others = [attacks.get((threat, label, name), unlearned.iloc[:0]).reindex(unlearned.index)
                      for name in (*never[model], baseline)]
            if any(rows.isna().any() for rows in others):
                raise ValueError(f"errors must have every image of ({threat}, {label}, {model}) for {baseline} and "
                                 f"{', '.join(never[model])} too, got fewer")
            *without, before = (torch.tensor(rows.to_numpy()) for rows in others)
            residuals[threat, label, model] = asdict(residual_knowledge(
                torch.stack(without), torch.tensor(unlearned.to_numpy()), before, resamples, seed))
    return _frame(residuals)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """rho with its interval and its `verdict`, both in words, for each row of `table`."""
    residuals = [Residual(*row) for row in table[["rho", "low", "high"]].itertuples(index=False)]
    return pd.DataFrame({"rho": [str(one) for one in residuals], "verdict": [verdict(one) for one in residuals]},
                        index=table.index)


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
    return flat(values.unstack("threat", sort=False).rename_axis(columns=None), "class", "model")


def points(table: pd.DataFrame) -> pd.DataFrame:
    """rho and its interval of each row of `table`, for `figures.intervals`.

    Returns:
        Index threat and class: model; columns `value`, `low`, `high`.
    """
    named = flat(table, "class", "model").index
    threats = table.index.get_level_values("threat")
    return table.rename(columns={"rho": "value"}).set_axis(pd.MultiIndex.from_arrays([threats, named]))


def relearning(curves: Mapping[tuple[int, str], pd.DataFrame], share: float = 0.5) -> pd.DataFrame:
    """How soon a class comes back when models are trained on k images of it.

    Args:
        curves: (class, model) -> index step, from 0; a column for each k, as `attacks.relearn` returns it.
        share: of the samples, 0-1.

    Returns:
        Index class: model; columns "k = 1", ...: the first step at which the accuracy reaches `share`, NaN if none
        does; and `relearning`: the mean accuracy over all steps with the last k.
    """
    check_types(curves=(curves, Mapping))
    rows = {}
    for (label, model), curve in curves.items():
        steps = curve.index.to_series().astype(float)
        first = {f"k = {count}": steps[accuracy >= share].min() for count, accuracy in curve.items()}
        rows[f"{label}: {model}"] = first | {"relearning": curve.iloc[:, -1].mean()}
    return pd.DataFrame(rows).T.rename_axis("class: model")


def nested(frame: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON values: a mapping for each level of its index, and column -> value inside; None for NaN."""
    check_types(frame=(frame, pd.DataFrame))
    tree: dict[str, Any] = {}
    for key, row in zip(frame.index, frame.to_dict("records"), strict=True):
        place = tree
        for name in key if isinstance(key, tuple) else (key,):
            place = place.setdefault(str(name), {})
        place |= {str(column): None if pd.isna(value) else value for column, value in row.items()}
    return tree


def _frame(rows: Mapping[tuple[str, int, str], Mapping[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(list(rows), names=LEVELS))


def _check_results(results: Results) -> None:
    check_types(results=(results, Mapping))
    if not results or not all(isinstance(key, tuple) and len(key) == 3 and isinstance(result, AttackResult)
                              for key, result in results.items()):
        raise ValueError(f"results must be at least one attack by (threat, class, model), got {shorten(results)}")
