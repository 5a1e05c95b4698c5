"""What may be handed to the library, and one sentence about what may not.

Every public function looks once at what it is given. A pixel of 255, a label
of 10 or a seed of -1 would otherwise fail deep inside PyTorch, or not at all.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

__all__ = ["CLASSES", "SEEDS", "check_fisher", "check_images", "check_label", "check_labels", "check_name",
           "check_names", "check_seed", "check_table", "check_types", "check_values", "check_whole", "short"]

CLASSES = 10
# What PyTorch, NumPy and scikit-learn all take; chapters end at half of it, and count on from there.
SEEDS = 2**32


def short(value: Any) -> str:
    """A value as a message shows it: on one line, and no more of it than tells which it was."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of ten thousand digits has no text, and a foreign object may have none either
        text = f"a {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def check_types(**given: tuple[Any, type | tuple[type, ...]]) -> None:
    """Refuse values, each given as name=(value, type), that are not of their type."""
    for name, (value, wanted) in given.items():
        if not isinstance(value, wanted):
            allowed = " or ".join(kind.__name__ for kind in (wanted if isinstance(wanted, tuple) else (wanted,)))
            raise TypeError(f"{name}={short(value)} is a {type(value).__name__}; use a {allowed}")


def check_whole(**given: Any) -> None:
    """Refuse what is no whole number from 1."""
    for name, value in given.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={short(value)} is not allowed; use a whole number from 1")


def check_seed(seed: Any) -> None:
    """Refuse what is no whole number from 0 to 2**32 - 1."""
    if type(seed) is not int or not 0 <= seed < SEEDS:
        raise ValueError(f"seed={short(seed)} is not allowed; use a whole number from 0 to {SEEDS - 1}")


def check_label(label: Any) -> None:
    """Refuse what is no digit."""
    if type(label) is not int or not 0 <= label < CLASSES:
        raise ValueError(f"label={short(label)} is not allowed; use a digit from 0 to {CLASSES - 1}")


def check_images(images: Any, name: str = "images") -> None:
    """Refuse what is not images [N, 1, 28, 28], N >= 1, of floating-point pixels from 0 to 1."""
    check_types(**{name: (images, torch.Tensor)})
    if images.shape[1:] != (1, 28, 28) or not len(images) or not images.is_floating_point():
        raise ValueError(f"{name} of shape {tuple(images.shape)} and dtype {images.dtype} will not do; give at least "
                         "one image, as floating-point [N, 1, 28, 28]")
    lowest, highest = torch.stack(images.detach().aminmax()).tolist()  # both in one look, which makes a GPU wait
    if not (0 <= lowest and highest <= 1):
        raise ValueError(f"{name} with pixels from {lowest:g} to {highest:g} will not do; divide by what is white, "
                         "so that all are numbers from 0 to 1")


def check_labels(labels: Any, count: int | None = None, outcomes: int = CLASSES, name: str = "labels") -> None:
    """Refuse what is not integer labels [N], from 0, and as many as `count`."""
    check_types(**{name: (labels, torch.Tensor)})
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} of shape {tuple(labels.shape)} and dtype {labels.dtype} will not do; "
                         "give integers of shape [N]")
    if count is not None and len(labels) != count:
        raise ValueError(f"{name} are {len(labels)}, for {count} images or rows; give one for each")
    if len(labels):
        lowest, highest = torch.stack(labels.aminmax()).tolist()
        if not (0 <= lowest and highest < outcomes):
            raise ValueError(f"{name} run from {lowest} to {highest}; 0 to {outcomes - 1} are allowed")


def check_values(least: int = 1, **given: Any) -> None:
    """Refuse what is not finite floating-point rows [N, d], at least `least` of them, all of one length."""
    check_types(**{name: (values, torch.Tensor) for name, values in given.items()})
    for name, values in given.items():
        if values.ndim != 2 or len(values) < least or not values.shape[1] or not values.is_floating_point():
            raise ValueError(f"{name} of shape {tuple(values.shape)} and dtype {values.dtype} will not do; give "
                             f"floating-point [N, d] with N of at least {least}")
        if not values.isfinite().all():
            raise ValueError(f"{name} of shape {tuple(values.shape)} will not do; all values must be finite")
    if len({values.shape[1] for values in given.values()}) > 1:
        raise ValueError(f"{', '.join(given)} have rows of {', '.join(str(v.shape[1]) for v in given.values())} "
                         "values; give rows of the same length")


def _among(value: Any, allowed: list[Any]) -> bool:
    """Whether it is one of them; True is not 1, and an array is nothing to compare."""
    return isinstance(value, Hashable) and not isinstance(value, bool) and value in set(allowed)


def check_name(allowed: Iterable[Any], **given: Any) -> None:
    """Refuse what is not among those allowed."""
    allowed = list(allowed)
    for name, value in given.items():
        if not _among(value, allowed):
            raise ValueError(f"{name}={short(value)} is not allowed; use one of {short(allowed)}")


def check_names(allowed: Iterable[Any], **given: Any) -> None:
    """Refuse what is not a sequence of names that are all allowed."""
    allowed = list(allowed)
    for name, names in given.items():
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(_among(one, allowed) for one in names):
            raise ValueError(f"{name}={short(names)} is not allowed; use a sequence of {short(allowed)}")


def check_table(*columns: str, **given: Any) -> None:
    """Refuse what is not a table of numbers with at least a row, and with these columns."""
    check_types(**{name: (table, pd.DataFrame) for name, table in given.items()})
    for name, table in given.items():
        numbers = table.select_dtypes("number").columns
        if table.empty or not set(columns or table.columns) <= set(numbers):
            raise ValueError(f"{name} with {len(table)} rows and numbers in the columns {short(list(numbers))} will not "
                             f"do; give at least a row, and numbers in {', '.join(columns) or 'all columns'}")


def check_fisher(model: nn.Module, fisher: Mapping[str, torch.Tensor], name: str = "fisher") -> None:
    """Refuse what does not have a tensor for each parameter of the model, of its shape."""
    check_types(**{name: (fisher, Mapping)})
    wanted = {key: weight.shape for key, weight in model.named_parameters()}
    odd = sorted(map(str, {key for key in fisher.keys() | wanted.keys()
                           if getattr(fisher.get(key), "shape", None) != wanted.get(key, ())}))
    if odd:
        raise ValueError(f"{name} does not fit the model: {', '.join(odd[:4])}{', ...' if odd[4:] else ''} is missing, "
                         "has another shape or should not be there; give one of a model of the same configuration")
