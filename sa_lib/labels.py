"""Labels: the ten classes, and the only place that knows forget sets and retain sets.

A forget set is a tuple of distinct digits, in the order in which they are forgotten. `forget_set` turns a digit or
a list into one, once, where it enters the library. The retain set is the rest: `retain_set`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from .checks import check_types, is_whole, shorten

__all__ = ["CLASSES", "check_label", "check_labels", "forget_set", "one_hot", "retain_set", "select"]

CLASSES = 10


def check_label(label: Any) -> None:
    """Refuse anything but a digit."""
    if not is_whole(label) or not 0 <= label < CLASSES:
        raise ValueError(f"label must be a digit from 0 to {CLASSES - 1}, got {shorten(label)}")


def check_labels(labels: Any, count: int | None = None, outcomes: int = CLASSES, name: str = "labels") -> None:
    """Refuse anything but integer labels [N] from 0 to `outcomes` - 1; N must equal `count`, if it is given."""
    check_types(**{name: (labels, torch.Tensor)})
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} must be integers of shape [N], got {labels.dtype} {list(labels.shape)}")
    if count is not None and len(labels) != count:
        raise ValueError(f"{name} must be one for each of the {count} images or rows, got {len(labels)}")
    if len(labels):
        lowest, highest = torch.stack(labels.aminmax()).tolist()
        if not (0 <= lowest and highest < outcomes):
            raise ValueError(f"{name} must be in [0, {outcomes - 1}], got [{lowest}, {highest}]")


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    """Integer labels [N] as float label vectors [N, 10].

    Raises:
        ValueError: a label is outside 0-9, or the tensor is not integer and one-dimensional.
    """
    check_labels(labels)
    return F.one_hot(labels.long(), CLASSES).float()


def select(labels: torch.Tensor, classes: Iterable[int]) -> torch.Tensor:
    """Indices [M] of the labels [N] that are among `classes`."""
    chosen = torch.tensor(sorted(classes), dtype=labels.dtype, device=labels.device)
    return torch.isin(labels, chosen).nonzero().squeeze(1)


def forget_set(forget: int | Sequence[int], least: int = 1, most: int = CLASSES - 1,
               name: str = "forget") -> tuple[int, ...]:
    """A digit, or several distinct digits, as a tuple in their order.

    Raises:
        ValueError: a value is not a digit, is repeated, or there are fewer than `least` or more than `most`.
    """
    digits = (forget,) if is_whole(forget) else forget
    if (not isinstance(digits, (list, tuple)) or not all(is_whole(k) and 0 <= k < CLASSES for k in digits)
            or len(set(digits)) != len(digits) or not least <= len(digits) <= most):
        several = f" or a list of {least} to {most} distinct ones" if most > 1 else ""
        raise ValueError(f"{name} must be a digit from 0 to {CLASSES - 1}{several}, got {shorten(forget)}")
    return tuple(map(int, digits))


def retain_set(forget: int | Sequence[int]) -> tuple[int, ...]:
    """The classes that are not in `forget`, which may be empty.

    Raises:
        ValueError: as `forget_set`.
    """
    forget = forget_set(forget, least=0)
    return tuple(k for k in range(CLASSES) if k not in forget)
