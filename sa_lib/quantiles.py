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
    share = np.empty(t.shape)
    # Up to 45 degrees the integral from 0, above it that of the tail.
    angle, power = np.arctan2(t[near], scale[near])[:, None], freedom[near][:, None] - 1
    share[near] = angle[:, 0] * (np.cos(angle * NODES)**power @ WEIGHTS)
    angle, power = np.arctan2(scale[~near], t[~near])[:, None], freedom[~near][:, None] - 1
    share[~near] = angle[:, 0] * (np.sin(angle * NODES**POWER)**power @ (WEIGHTS * POWER * NODES**(POWER - 1)))
    share *= _density(freedom)
    return np.clip(np.where(near, share, 1 - share), 0, 1)


def student_quantile(level: float, freedom: np.ndarray | float) -> np.ndarray:
    """The t with P(|T| <= t) = level, a number in (0, 1).

    Newton's method in the angle, whose distribution function is concave, from the expansion about the normal quantile
    (Abramowitz & Stegun 1964, 26.7.5).
    """
    freedom = np.asarray(freedom, float)
    scale, density = np.sqrt(freedom), _density(freedom)
    z = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.double)))
    start = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    angle = np.arctan2(start, scale)
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
