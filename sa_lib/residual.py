"""Residual knowledge: how much of a forgotten class is left in a model, against models that never saw it.

Hsu et al. (2025, arXiv 2601.22359) use the term for something else: how much more often an unlearned classifier than
a retrained one recognizes slightly perturbed forgotten samples. Here an attacker chooses a generative model's inputs.

rho compares the errors of one attacker on three kinds of models; see `residual_knowledge`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from .checks import LARGEST, check_number, check_types, shorten
from .quantiles import root, student, student_quantile

__all__ = ["CONVERGED", "MARGIN", "RESOLUTION", "VERDICTS", "Residual", "both", "interval", "is_equivalent",
           "pooled_spread", "power", "residual_knowledge", "seeds_needed", "verdict", "wording"]

# A model is as good as one that never saw the class if its rho is this near to 0. The margin is half of the rho
# that counts as knowledge: a model that saw ten images of the class has a rho of about 0.3.
MARGIN = 0.15
# The gap between the controls is at least this many times their spread, or rho divides noise by noise.
RESOLUTION = 5
# No verdict where ten times the attacker's rounds lower the error by more than this share; see `trained.shortfall`.
CONVERGED = 0.02
# Of several verdicts on one model, the first counts: it is gone only if all say so, and one residue is a residue.
VERDICTS = ("residue", "undefined", "no interval", "unresolved", "inconclusive", "over-forgotten", "gone")


@dataclass(frozen=True)
class Residual:
    """rho with its intervals, and the numbers that they rest on.

    Attributes:
        rho: NaN if the gap is not above 0: the baseline is no better than models that never saw the class.
        low, high: ends of the 95 % interval. An end may be infinite; both are NaN with one control and no pooled
            spread.
        low90, high90: the same at 90 %. Two one-sided tests at 5 % find rho within a margin of 0 exactly if this
            interval lies in it (Schuirmann 1987).
        p: of the two-sided test that rho is 0; NaN where there is no interval.
        controls: number S of models that never saw the class.
        models: number T of unlearned models.
        gap: E_never - E_baseline, in units of the error.
        spread: standard deviation of the controls' means, or the pooled one, in units of the error.
        image_error: the part of the standard error of E_never - E_unlearned that more models would not lower, in
            units of the error: it comes from the choice of the images.
    """

    rho: float
    low: float = math.nan
    high: float = math.nan
    low90: float = math.nan
    high90: float = math.nan
    p: float = math.nan
    controls: int = 0
    models: int = 0
    gap: float = math.nan
    spread: float = math.nan
    image_error: float = math.nan

    @property
    def defined(self) -> bool:
        """Whether there is a rho at all."""
        return not math.isnan(self.rho)

    @property
    def estimand(self) -> str:
        """The subject of rho and its interval: "this model", or "this method" if there are several models of it."""
        return "this method" if self.models > 1 else "this model"

    @property
    def resolution(self) -> float:
        """The gap between the controls in units of their spread, infinite without one; NaN if either is unknown."""
        return self.gap / self.spread if self.spread else math.copysign(math.inf, self.gap)

    def __str__(self) -> str:
        if not self.defined:
            return "–"
        if math.isnan(self.low):
            return f"{self.rho:+z.2f} (no interval: one control)"
        return f"{self.rho:+z.2f} [{self.low:+z.2f}, {self.high:+z.2f}]".replace("inf", "∞")

    def asdict(self) -> dict[str, float | str | None]:
        """All of the above as JSON values; None for a number that is not finite."""
        values = asdict(self) | {"resolution": self.resolution}
        return {"estimand": self.estimand,
                **{name: value if math.isfinite(value) else None for name, value in values.items()}}


def residual_knowledge(never: torch.Tensor, unlearned: torch.Tensor, baseline: torch.Tensor,
                       pooled: tuple[float, float] | None = None) -> Residual:
    """rho = (E_never - E_unlearned) / (E_never - E_baseline): how much of a class is left in a model.

    E is the mean, over held-out real images of the class, of the lowest
    reconstruction error that one attacker with one budget reaches. 1: as if
    nothing had been forgotten; 0: as if the class had never been seen; below
    0: over-forgotten, so the model is worse at the class than a model that
    never saw it. This book introduces the measure.

    The interval has all theta for which E_never - E_unlearned - theta
    (E_never - E_baseline) is not clearly different from 0 (Fieller 1954), up
    to the first that is. Its variance is the sum of a part from the controls,
    one from the pairs of unlearned models and baselines, and one from the
    images, less the part that two of them count: how models differ from image
    to image. With one pair, the interval is about this model; with several, about
    the method.

    The degrees of freedom are Satterthwaite's (1946), with a part of nu degrees
    of freedom weighted by ((nu + 2) / nu)^2. Without this weight, two controls
    that are alike by chance would make a narrow interval. In simulations with
    the spreads of this book's models, 92 to 98 % of the intervals hold rho.

    Args:
        never: errors [S, N], at least 0, of S models that never saw the class.
        unlearned: errors [N], on the same images, or [T, N] of T models.
        baseline: errors of the same shape, each of the model before its unlearning.
        pooled: a standard deviation of controls' means, in units of the error, with its degrees of freedom, to be
            used in place of that of `never`; see `pooled_spread`.

    Raises:
        ValueError: the shapes do not fit, a number is not finite, or `pooled` is not two numbers above 0.
    """
    check_types(never=(never, torch.Tensor), unlearned=(unlearned, torch.Tensor), baseline=(baseline, torch.Tensor))
    if (never.ndim != 2 or never.shape[0] < 1 or never.shape[1] < 2 or unlearned.ndim not in (1, 2)
            or not unlearned.numel() or unlearned.shape != baseline.shape or unlearned.shape[-1] != never.shape[1]
            or not all(bool((t.abs() <= LARGEST).all()) for t in (never, unlearned, baseline))):
        raise ValueError("never must be finite [S, N] with at least two images, and unlearned and baseline both [N] "
                         f"or both [T, N], got {list(never.shape)}, {list(unlearned.shape)} and "
                         f"{list(baseline.shape)}")
    if pooled is not None:
        _check_pooled(pooled)
    fit = _fit(*(np.atleast_2d(t.detach().double().cpu().numpy()) for t in (never, unlearned, baseline)), pooled)
    spread = math.sqrt(fit.parts[0, 0] * len(never))
    facts = {"controls": len(never), "models": unlearned.shape[0] if unlearned.ndim == 2 else 1,
             "gap": float(fit.gap), "spread": spread,
             "image_error": math.sqrt(max(0.0, fit.parts[-1, 0] - fit.shared[0]))}
    if not fit.gap > 0:
        return Residual(math.nan, **facts)
    rho = float(fit.difference / fit.gap)
    if math.isnan(spread):
        return Residual(rho, **facts)
    low, high, low90, high90 = (_end(fit, rho, side, level) for level in (0.95, 0.90) for side in (-1, 1))
    error, freedom = _error(fit, 0.0)
    p = float(1 - student(abs(fit.difference) / error, freedom)) if error else float(fit.difference == 0)
    return Residual(rho, low, high, low90, high90, p, **facts)


@dataclass(frozen=True)
class _Fit:
    """The numbers for a test of rho = theta; each array may have further axes at its end, one fit for each place.

    Attributes:
        difference, gap: E_never - E_unlearned and E_never - E_baseline.
        parts: [K, 3]: p, q and r of the K parts p - 2 q theta + r theta² of the variance of difference - theta gap;
            those of the models first, that of the images last.
        shared: [3]: the same of the part that the images count again.
        freedom: [K]: the degrees of freedom of each part.
    """

    difference: np.ndarray
    gap: np.ndarray
    parts: np.ndarray
    shared: np.ndarray
    freedom: np.ndarray


def _fit(never: np.ndarray, unlearned: np.ndarray, baseline: np.ndarray,
         pooled: tuple[float, float] | None = None) -> _Fit:
    """The fit of errors [..., S, N], [..., T, N] and [..., T, N]; its arrays have the axes `...` at their end."""
    controls, models, images = never.shape[-2], unlearned.shape[-2], never.shape[-1]
    if pooled:
        own, freedom = np.full((3, *never.shape[:-2]), pooled[0]**2 / controls), [pooled[1]]
    else:
        own, freedom = _squared_error(never.mean(-1), never.mean(-1)), [controls - 1]
    parts = [own]
    if models > 1:
        parts.append(_squared_error(unlearned.mean(-1), baseline.mean(-1)))
        freedom.append(models - 1)
    mean = never.mean(-2)
    parts.append(_squared_error(mean - unlearned.mean(-2), mean - baseline.mean(-2)))
    return _Fit((mean - unlearned.mean(-2)).mean(-1), (mean - baseline.mean(-2)).mean(-1), np.stack(parts),
                _interaction(never, never) + _interaction(unlearned, baseline), np.array([*freedom, images - 1]))


def _squared_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """p, q, r [3, ...] of the squared standard error of the mean of x - theta y over the last axis; NaN of one."""
    count = x.shape[-1]
    x, y = (values - values.mean(-1, keepdims=True) for values in (x, y))
    squares = np.stack([(x * x).sum(-1), (x * y).sum(-1), (y * y).sum(-1)])
    return squares / (count * (count - 1)) if count > 1 else np.full_like(squares, np.nan)


def _interaction(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same for the rest of x - theta y [..., S, N] beside the means of models and images; 0 of one model."""
    if x.shape[-2] == 1:
        return np.zeros((3, *x.shape[:-2]))
    models, images = x.shape[-2:]
    x, y = (values - values.mean(-1, keepdims=True) - values.mean(-2, keepdims=True)
            + values.mean((-2, -1), keepdims=True) for values in (x, y))
    squares = np.stack([(x * x).sum((-2, -1)), (x * y).sum((-2, -1)), (y * y).sum((-2, -1))])
    return squares / ((models - 1) * (images - 1) * models * images)


def _error(fit: _Fit, theta: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The standard error of difference - theta gap, and its degrees of freedom."""
    def at(form):
        return np.maximum(form[0] - 2 * form[1] * theta + form[2] * theta**2, 0)

    parts, shared = [at(form) for form in fit.parts], at(fit.shared)
    models, images = sum(parts[:-1]), parts[-1]
    variance = np.maximum(models + images - shared, np.maximum(models, images))
    weighted = [part * ((freedom + 2) / freedom)**2 for part, freedom in zip(parts, fit.freedom, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = sum(weighted)**2 / sum(part**2 / own for part, own in zip(weighted, fit.freedom, strict=True))
    return np.sqrt(variance), np.where(np.isfinite(freedom), freedom, 1)  # without variance, any will do


def _excess(fit: _Fit, theta: float | np.ndarray, level: float) -> np.ndarray:
    """By how much difference - theta gap is farther from 0 than chance leaves open; above 0: rho is not theta."""
    error, freedom = _error(fit, theta)
    return np.abs(fit.difference - theta * fit.gap) - student_quantile(level, freedom) * error


def _end(fit: _Fit, rho: float, side: int, level: float) -> float:
    """The end of the interval below (-1) or above (1) rho, infinite if no theta on that side is rejected."""
    scale = float(_error(fit, rho)[0] / fit.gap)
    if not scale:
        return rho
    steps = scale * np.tan(np.linspace(0, np.pi / 2, 1002)[:-1])  # ever wider, to about 600 standard errors
    beyond = np.flatnonzero(_excess(fit, rho + side * steps, level) > 0)
    if not len(beyond):
        return side * math.inf
    if not beyond[0]:  # no variance but that of rounding
        return rho
    bracket = steps[beyond[0] - 1:beyond[0] + 1]
    return rho + side * root(lambda step: float(_excess(fit, rho + side * step, level)), *map(float, bracket))


def pooled_spread(never: Sequence[torch.Tensor]) -> tuple[float, int]:
    """The standard deviation of controls' means, pooled over several sets of them, and its degrees of freedom.

    Args:
        never: errors [S, N] of controls, one for each set. The sets must be such that their spread can be taken as
            the same: other runs of one class and one attacker. The spread of other classes may be ten times as large.

    Raises:
        ValueError: no set has two controls.
    """
    check_types(never=(never, Sequence))
    means = [errors.double().mean(-1) for errors in never if isinstance(errors, torch.Tensor) and errors.ndim == 2]
    freedom = sum(len(own) - 1 for own in means)
    if len(means) < len(never) or not freedom:
        raise ValueError(f"never must be errors [S, N], with two models in one of them, got {shorten(never)}")
    return math.sqrt(sum(float(((own - own.mean())**2).sum()) for own in means) / freedom), freedom


def _check_pooled(pooled: tuple[float, float]) -> None:
    check_types(pooled=(pooled, tuple))
    if len(pooled) != 2:
        raise ValueError(f"pooled must be a standard deviation and its degrees of freedom, got {shorten(pooled)}")
    check_number(**{"pooled[0]": pooled[0], "pooled[1]": pooled[1]})
    if not min(pooled) > 0:
        raise ValueError(f"pooled must be two numbers above 0, got {shorten(pooled)}")


def is_equivalent(residual: Residual, margin: float = MARGIN) -> bool:
    """Whether rho is within the margin of 0, by two one-sided tests at 5 % (Schuirmann 1987)."""
    check_types(residual=(residual, Residual))
    check_number(margin=margin)
    return -margin < residual.low90 and residual.high90 < margin


def verdict(residual: Residual, margin: float = MARGIN) -> str:
    """rho in a word.

    - "undefined": the baseline is no better than models that never saw the class;
    - "no interval": one control says nothing about chance;
    - "unresolved": the gap between the controls is less than `RESOLUTION` times their spread;
    - "gone": equivalent to 0, see `is_equivalent`;
    - "residue", "over-forgotten": not equivalent, and the 95 % interval lies above 0, or below;
    - "inconclusive": none of these; `seeds_needed` says how many seeds would settle it.
    """
    equivalent = is_equivalent(residual, margin)
    if not residual.defined:
        return "undefined"
    if math.isnan(residual.low):
        return "no interval"
    if residual.resolution < RESOLUTION:
        return "unresolved"
    if equivalent:
        return "gone"
    return "residue" if residual.low > 0 else "over-forgotten" if residual.high < 0 else "inconclusive"


def wording(residual: Residual, margin: float = MARGIN) -> str:
    """The `verdict`; and with "inconclusive", what it would probably take to settle it if rho is 0: `seeds_needed`.

    Returns:
        "inconclusive (9 controls)", for example: seeds if there are several unlearned models, or more images.
    """
    word = verdict(residual, margin)
    if word != "inconclusive":
        return word
    count = seeds_needed(residual, margin)
    kind = "seeds" if residual.models > 1 else "controls"
    return f"inconclusive ({count} {kind})" if math.isfinite(count) else "inconclusive (more images)"


def both(as_is: Residual, mended: Residual, margin: float = MARGIN) -> str:
    """One verdict on a model as it is and after mending: after further training on the retained classes alone.

    Damage can hide knowledge, and mending brings it back. So a residue in either is a residue; "gone" and
    "over-forgotten" need both to be clear, and "gone" needs both to be gone.
    """
    check_types(as_is=(as_is, Residual), mended=(mended, Residual))
    return min((verdict(one, margin) for one in (as_is, mended)), key=VERDICTS.index)


def seeds_needed(residual: Residual, margin: float = MARGIN, power: float = 0.9) -> float:
    """How many seeds would settle it: controls, and as many unlearned models, that show a rho of 0 to be "gone".

    The spread of the controls is taken as that of both arms; for "this model", only the controls are counted. The
    images stay the same.

    Args:
        power: the probability of the verdict if rho is 0, in (0, 1).

    Returns:
        A whole number from 2; infinite if no number is enough, because more images are needed; NaN if the spread is
        unknown or rho undefined.
    """
    check_types(residual=(residual, Residual))
    check_number(margin=margin, power=power)
    if not (margin > 0 and 0 < power < 1):
        raise ValueError(f"margin must be above 0 and power in (0, 1), got {margin} and {power}")
    if not residual.defined or math.isnan(residual.spread):
        return math.nan
    arms = 2 if residual.models > 1 else 1
    count = np.arange(2, 1001)
    freedom = arms * (count - 1)
    reach = student_quantile(0.9, freedom) + student_quantile(power, freedom)
    enough = reach * np.sqrt(arms * residual.spread**2 / count + residual.image_error**2) <= margin * residual.gap
    return int(count[enough][0]) if enough.any() else math.inf


def power(residual: Residual, margin: float = MARGIN) -> float:
    """The probability, 0-1, that these controls and images show a rho of 0 to be "gone"; see `seeds_needed`.

    It turns the formula of `seeds_needed` around: the power at a given number of seeds. NaN if the spread is unknown or
    rho undefined. A pooled spread counts as one of these controls alone, so the power is then too low.
    """
    check_types(residual=(residual, Residual))
    check_number(margin=margin)
    if not residual.defined or math.isnan(residual.spread):
        return math.nan
    arms = 2 if residual.models > 1 else 1
    count = min(residual.controls, residual.models) if residual.models > 1 else residual.controls
    freedom = arms * max(count - 1, 1)
    error = math.sqrt(arms * residual.spread**2 / count + residual.image_error**2)
    room = margin * residual.gap / error - float(student_quantile(0.9, freedom)) if error else math.inf
    return float(student(room, freedom)) if room > 0 else 0.0


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """A mean with its interval, by Student's t; the ends of a single value are NaN.

    Args:
        values: independent of each other, for example a mean for each seed.
        level: in (0, 1).

    Raises:
        ValueError: there are no values, one is not finite, or the level is not in (0, 1).
    """
    try:
        numbers = np.asarray(values.tolist() if isinstance(values, torch.Tensor) else values, dtype=float)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.ndim != 1 or not len(numbers) or not (np.abs(numbers) <= LARGEST).all():
        raise ValueError(f"values must be at least one number of at most {LARGEST:g} in size, got {shorten(values)}")
    check_number(level=level)
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    mean, count = float(numbers.mean()), len(numbers)
    half = student_quantile(level, count - 1) * numbers.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return mean, float(mean - half), float(mean + half)
