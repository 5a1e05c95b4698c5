"""Argument checks: every public function looks once at its arguments and refuses a bad one in one sentence.

A pixel of 255, a label of 10 or a seed of -1 would otherwise fail deep inside PyTorch, or not at all.
Messages have one form: "{name} must be ..., got ...". Checks of labels are in `sa_lib.labels`.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["LARGEST", "SEEDS", "check_config", "check_fisher", "check_images", "check_name", "check_names",
           "check_number", "check_seed", "check_table", "check_types", "check_values", "check_whole", "is_whole",
           "shorten"]

# The square of a larger value overflows in float32, and compiled code may crash on the result.
LARGEST = 1e15
# PyTorch, NumPy and scikit-learn all take seeds below this. Chapters accept half of them, and count on from there.
SEEDS = 2**32


def shorten(value: Any) -> str:
    """A value on one line of at most 120 characters, for a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of ten thousand digits has no text, and a foreign object may have none either
        text = f"a {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def check_types(**arguments: tuple[Any, type | tuple[type, ...]]) -> None:
    """Refuse values, each given as name=(value, type), that are not of their type.

    Raises:
        TypeError: names the argument, its type and the allowed types.
    """
    for name, (value, allowed) in arguments.items():
        if not isinstance(value, allowed):
            kinds = " or ".join(kind.__name__ for kind in (allowed if isinstance(allowed, tuple) else (allowed,)))
            raise TypeError(f"{name} must be a {kinds}, got {shorten(value)} (a {type(value).__name__})")


def is_whole(value: Any) -> bool:
    """Whether the value is a whole number, of Python or NumPy; True is not 1."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_whole(least: int = 1, **arguments: Any) -> None:
    """Refuse anything but whole numbers from `least`."""
    for name, value in arguments.items():
        if not is_whole(value) or value < least:
            raise ValueError(f"{name} must be a whole number from {least}, got {shorten(value)}")


def check_number(**arguments: Any) -> None:
    """Refuse anything but finite numbers from 0."""
    for name, value in arguments.items():
        if not (is_whole(value) or isinstance(value, (float, np.floating))) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number from 0, got {shorten(value)}")


def check_config(config: Any) -> None:
    """Refuse a configuration whose whole numbers are below 1 or whose other numbers are negative or not finite.

    Numbers of NumPy become numbers of Python, in place.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type is int:
            check_whole(**{field.name: value})
            object.__setattr__(config, field.name, int(value))
        if field.type is float:
            check_number(**{field.name: value})
            object.__setattr__(config, field.name, float(value) if isinstance(value, np.floating) else value)


def check_seed(seed: Any) -> int:
    """The seed as a number of Python; refuse anything but a whole number from 0 to 2**32 - 1."""
    if not is_whole(seed) or not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be a whole number from 0 to {SEEDS - 1}, got {shorten(seed)}")
    return int(seed)


def check_images(images: Any, name: str = "images", shape: Sequence[int] | None = None) -> None:
    """Refuse anything but images [N, channels, height, width], N >= 1, with floating-point pixels from 0 to 1.

    Args:
        shape: of one image; any by default.
    """
    check_types(**{name: (images, torch.Tensor)})
    right = images.ndim == 4 if shape is None else images.shape[1:] == tuple(shape)
    if not right or not images.numel() or not images.is_floating_point():
        sizes = ", ".join(map(str, ("channels", "height", "width") if shape is None else shape))
        raise ValueError(f"{name} must be floating-point [N, {sizes}] with at least one image, "
                         f"got {images.dtype} {list(images.shape)}")
    lowest, highest = torch.stack(images.detach().aminmax()).tolist()  # one transfer, for which a GPU has to wait
    if not (0 <= lowest and highest <= 1):
        raise ValueError(f"{name} must have pixels in [0, 1], got [{lowest:g}, {highest:g}]; "
                         "divide by the white level (usually 255)")


def check_values(least: int = 1, **arguments: Any) -> None:
    """Refuse anything but floating-point rows [N, d], N >= `least`, all of one length d, of size up to 1e15."""
    check_types(**{name: (values, torch.Tensor) for name, values in arguments.items()})
    for name, values in arguments.items():
        if values.ndim != 2 or len(values) < least or not values.shape[1] or not values.is_floating_point():
            raise ValueError(f"{name} must be floating-point [N, d] with N of at least {least}, "
                             f"got {values.dtype} {list(values.shape)}")
        if not values.isfinite().all():
            raise ValueError(f"{name} must be finite everywhere, got {int((~values.isfinite()).sum())} values that "
                             "are not")
        if (largest := float(values.detach().abs().max())) > LARGEST:
            raise ValueError(f"{name} must have values of at most {LARGEST:g} in size, got {largest:g}")
    lengths = [values.shape[1] for values in arguments.values()]
    if len(set(lengths)) > 1:
        raise ValueError(f"{', '.join(arguments)} must have rows of one length, got {', '.join(map(str, lengths))}")


def _is_among(value: Any, allowed: list[Any]) -> bool:
    """Whether the value is one of those allowed; True is not 1, and an array cannot be compared."""
    return isinstance(value, Hashable) and not isinstance(value, bool) and value in set(allowed)


def check_name(allowed: Iterable[Any], **arguments: Any) -> None:
    """Refuse a value that is not among those allowed."""
    allowed = list(allowed)
    for name, value in arguments.items():
        if not _is_among(value, allowed):
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {shorten(value)}")


def check_names(allowed: Iterable[Any], **arguments: Any) -> None:
    """Refuse anything but a sequence of allowed names."""
    allowed = list(allowed)
    for name, names in arguments.items():
        if (isinstance(names, str) or not isinstance(names, Sequence)
                or not all(_is_among(one, allowed) for one in names)):
            raise ValueError(f"{name} must be a list of names among {', '.join(map(str, allowed))}, "
                             f"got {shorten(names)}")


def check_table(*columns: str, **arguments: Any) -> None:
    """Refuse anything but a table with at least one row, and numbers in these columns (in all, if none is named)."""
    import pandas as pd  # the audit of a reader's model must work without it

    check_types(**{name: (table, pd.DataFrame) for name, table in arguments.items()})
    for name, table in arguments.items():
        numeric = table.select_dtypes("number").columns
        if table.empty or not set(columns or table.columns) <= set(numeric):
            raise ValueError(f"{name} must be a table with at least one row and numbers in "
                             f"{', '.join(columns) or 'all columns'}, got {len(table)} rows with numbers in "
                             f"{shorten(list(numeric))}")


def check_fisher(model: nn.Module, fisher: Mapping[str, torch.Tensor], name: str = "fisher") -> None:
    """Refuse anything but one tensor for each parameter of the model, of the parameter's shape."""
    check_types(**{name: (fisher, Mapping)})
    shapes = {key: weight.shape for key, weight in model.named_parameters()}
    odd = sorted(map(str, {key for key in fisher.keys() | shapes.keys()
                           if getattr(fisher.get(key), "shape", None) != shapes.get(key, ())}))
    if odd:
        raise ValueError(f"{name} must be of a model with the same configuration, got a wrong shape for, too few or "
                         f"too many of: {', '.join(odd[:4])}{', ...' if odd[4:] else ''}")
