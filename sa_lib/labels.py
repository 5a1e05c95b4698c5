"""Labels: classes counted from 0, and the only place that knows forget sets and retain sets.

The book has `CLASSES` of them, which is the default here; a model and a data set know their own number. A forget set is
a tuple of distinct classes, in the order in which they are forgotten. `forget_set` turns a class or a list into one,
once, where it enters the library. The retain set is the rest: `retain_set`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from .checks import check_types, is_whole, shorten

__all__ = ["CLASSES", "MOST_CLASSES", "check_label", "check_labels", "forget_set", "one_hot", "retain_set", "select"]

CLASSES = 10  # of the book's data sets
MOST_CLASSES = 256  # of any data set, whose labels are kept as bytes


def check_label(label: Any, classes: int = CLASSES, name: str = "label") -> None:
    """Refuse anything but one of the classes."""
    if not is_whole(label) or not 0 <= label < classes:
        raise ValueError(f"{name} must be a class from 0 to {classes - 1}, got {shorten(label)}")


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


def one_hot(labels: torch.Tensor, classes: int = CLASSES) -> torch.Tensor:
    """Integer labels [N] as float label vectors [N, classes].

    Raises:
        ValueError: a label is not from 0 to `classes` - 1, or the tensor is not integer and one-dimensional.
    """
    check_labels(labels, outcomes=classes)
    return F.one_hot(labels.long(), classes).float()


def select(labels: torch.Tensor, classes: Iterable[int]) -> torch.Tensor:
    """Indices [M] of the labels [N] that are among `classes`."""
    chosen = torch.tensor(sorted(classes), dtype=labels.dtype, device=labels.device)
    return torch.isin(labels, chosen).nonzero().squeeze(1)


def forget_set(forget: int | Sequence[int], least: int = 1, most: int | None = None, name: str = "forget",
               classes: int = CLASSES) -> tuple[int, ...]:
    """A class, or several distinct classes, as a tuple in their order.

    Args:
        least, most: how many they may be; by default 1 to all but one of the `classes`.

    Raises:
        ValueError: a value is not a class, is repeated, or there are fewer than `least` or more than `most`.
    """
    most = classes - 1 if most is None else min(most, classes - 1)
    chosen = (forget,) if is_whole(forget) else forget
    if (not isinstance(chosen, (list, tuple)) or not all(is_whole(k) and 0 <= k < classes for k in chosen)
            or len(set(chosen)) != len(chosen) or not least <= len(chosen) <= most):
        several = f" or a list of {least} to {most} distinct ones" if most > 1 else ""
        raise ValueError(f"{name} must be a class from 0 to {classes - 1}{several}, got {shorten(forget)}")
    return tuple(map(int, chosen))


def retain_set(forget: int | Sequence[int], classes: int = CLASSES) -> tuple[int, ...]:
    """The classes that are not in `forget`, which may be empty.

    Raises:
        ValueError: as `forget_set`.
    """
    forget = forget_set(forget, least=0, classes=classes)
    return tuple(k for k in range(classes) if k not in forget)
