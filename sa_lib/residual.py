"""Residual knowledge: how much of a forgotten class is left in a model, against models that never saw it.

rho compares the errors of one attacker on three kinds of models; see `residual_knowledge`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .checks import LARGEST, check_seed, check_types, check_whole, shorten

__all__ = ["SPREAD", "Residual", "interval", "residual_knowledge", "verdict"]

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
        numbers = np.asarray(values.tolist() if isinstance(values, torch.Tensor) else values, dtype=float)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.ndim != 1 or not len(numbers) or not (np.abs(numbers) <= LARGEST).all():
        raise ValueError(f"values must be at least one number of at most {LARGEST:g} in size, got {shorten(values)}")
    check_whole(resamples=resamples)
    seed = check_seed(seed)
    means = np.random.default_rng(seed).choice(numbers, (resamples, len(numbers))).mean(1)
    return float(numbers.mean()), *map(float, np.quantile(means, (0.025, 0.975)))
