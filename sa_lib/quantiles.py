"""Quantiles of Student's t and of the norm of a normal vector, with NumPy and PyTorch alone.

SciPy has them too. An audit runs in the environment of a reader's model, which may lack it.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

__all__ = ["normal_radius", "root", "student", "student_quantile"]

# With t = sqrt(nu) tan(angle), the density of t is that of the angle, proportional to cos(angle)^(nu - 1). It is smooth
# and its range finite, so that Gauss-Legendre quadrature of this many nodes has an error below 1e-12.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2
# The substitution x = y^POWER near a tail, where the density falls like x^(nu - 1), which is not smooth.
POWER = 4


def _log_gamma(x: np.ndarray) -> np.ndarray:
    return torch.lgamma(torch.as_tensor(x, dtype=torch.double)).numpy()


def _density(freedom: np.ndarray) -> np.ndarray:
    """The density of |angle| at 0."""
    return 2 / math.sqrt(math.pi) * np.exp(_log_gamma((freedom + 1) / 2) - _log_gamma(freedom / 2))


def student(t: np.ndarray | float, freedom: np.ndarray | float) -> np.ndarray:
    """P(|T| <= t) for Student's t with this many degrees of freedom, from 1; t at least 0."""
    t, freedom = np.broadcast_arrays(np.asarray(t, float), np.asarray(freedom, float))
    scale = np.sqrt(freedom)
    near = t <= scale
    # Up to 45 degrees the integral from 0, above it that of the tail.
    angle = np.where(near, np.arctan2(t, scale), np.arctan2(scale, t))[..., None]
    power = freedom[..., None] - 1
    y = NODES**POWER
    tail = WEIGHTS * POWER * NODES**(POWER - 1)
    inner = np.where(near[..., None], WEIGHTS * np.cos(angle * NODES)**power, tail * np.sin(angle * y)**power)
    share = _density(freedom) * angle[..., 0] * inner.sum(-1)
    return np.clip(np.where(near, share, 1 - share), 0, 1)


def student_quantile(level: float, freedom: np.ndarray | float) -> np.ndarray:
    """The t with P(|T| <= t) = level, a number in (0, 1).

    Newton's method in the angle. Its distribution function is concave, so from an angle below the answer, such as that
    of the normal quantile, the steps only rise.
    """
    freedom = np.asarray(freedom, float)
    scale, density = np.sqrt(freedom), _density(freedom)
    angle = np.arctan2(float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.double))), scale)
    for _ in range(60):
        step = (level - student(scale * np.tan(angle), freedom)) / (density * np.cos(angle)**(freedom - 1))
        angle = np.clip(angle + step, 0, np.pi / 2 - 1e-12)
        if np.abs(step).max(initial=0) < 1e-13:
            break
    return scale * np.tan(angle)


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a continuous function of a number is 0, between two numbers where it has different signs.

    Steps of the secant with the weights of the Illinois method (Dowell & Jarratt 1971); every third halves the bracket,
    so that it ends for any function.
    """
    at_low, at_high = function(low), function(high)
    for step in range(200):
        middle = (low + high) / 2 if step % 3 == 2 else (low * at_high - high * at_low) / (at_high - at_low)
        if middle in (low, high) or not (value := function(middle)):
            return middle
        if value * at_high < 0:
            low, at_low = high, at_high
        else:
            at_low /= 2
        high, at_high = middle, value
        if abs(high - low) <= 1e-15 * abs(high):
            break
    return high


def normal_radius(dimensions: int, share: float) -> float:
    """The radius of the ball around 0 that has this share, in (0, 1), of a standard normal vector."""
    # |z|^2 is chi-squared: a gamma distribution of shape d/2 and scale 2.
    shape = torch.tensor(dimensions / 2, dtype=torch.double)

    def excess(square: float) -> float:
        return float(torch.special.gammainc(shape, torch.tensor(square / 2, dtype=torch.double))) - share

    high = float(dimensions)
    while excess(high) < 0:
        high *= 2
    low = 0.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return math.sqrt(high)
