"""The look of all figures: their width, colors and text, the names at lines, and phrases for the alternative texts."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ..checks import check_types, shorten

__all__ = ["PALETTE", "SMALL", "WIDTH", "in_book_style"]

WIDTH = 4.7  # inches: on a phone of 390 pixels, text of 9.2 points then has 9
SMALL = 9.2  # points, the least; all other text has 10
PALETTE = sns.color_palette("colorblind")


def in_book_style(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function draw with Matplotlib's defaults, independently of the user's matplotlibrc."""
    @wraps(draw)
    def styled(*args, **kwargs):
        with style.context(["default", {"legend.fontsize": SMALL, "axes.titlesize": 10}], after_reset=True):
            return draw(*args, **kwargs)
    return styled


def plain(values: torch.Tensor) -> torch.Tensor:
    """Values as NumPy takes them: on the CPU, without gradients, in no half precision."""
    values = values.detach().cpu()
    return values.float() if values.dtype in (torch.half, torch.bfloat16) else values


def frame(left: float, top: float, width: float, height: float) -> Rectangle:
    """The frame around a part of a picture that is marked."""
    return Rectangle((left, top), width, height, fill=False, edgecolor=PALETTE[1], linewidth=2.5,
                     clip_on=False)


def label(axes: Axes, x: str, y: str) -> None:
    """Name the axes, and draw only two of their lines."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    sns.despine(ax=axes)


def ink(color: Sequence[float]) -> tuple[float, ...]:
    """A color dark enough for text on white."""
    return tuple(0.72 * part for part in color)


def name_lines(axes: Axes, ends: Mapping[str, float], colors: Sequence) -> None:
    """Write the name of each line to the right of the axes, in a dark tone of its color, at the height of its end.

    Names that would overlap move apart, and stay beside the axes as far as there is room. The limits and scales of the
    axes must be set.

    Args:
        ends: name -> y of the line's last point.
    """
    from sklearn.isotonic import isotonic_regression  # a second of import that most users of the library can do without

    axes.figure.draw_without_rendering()  # now the axes have their final height
    # A long name may also go on behind a "_".
    spaced = [name.replace("_", "_ ") if len(name) > 16 else name for name in ends]
    texts = [textwrap.fill(name, 16).replace("_ ", "_") for name in spaced]
    heights = np.array([axes.transData.transform((0, y))[1] for y in ends.values()]) * 72 / axes.figure.dpi
    below, above = (axes.transAxes.transform((0, y))[1] * 72 / axes.figure.dpi for y in (0, 1))
    heights = heights.clip(below, above)
    order = np.argsort(heights, kind="stable")
    needed = [13.0 * (text.count("\n") + 1) for text in np.array(texts)[order]]
    least = np.cumsum([0, *((a + b) / 2 for a, b in zip(needed, needed[1:]))])  # distances from the lowest name
    highest = max(below, above - least[-1])
    places = isotonic_regression(heights[order] - least, y_min=below, y_max=highest) + least
    for index, place in zip(order, places):
        axes.annotate(texts[index], (1, list(ends.values())[index]), xycoords=("axes fraction", "data"),
                      xytext=(5, place - heights[index]), textcoords="offset points", va="center",
                      color=ink(colors[index]), annotation_clip=False)


def names(labels: Iterable) -> str:
    """Labels as a phrase for an alternative text, each once and without empty ones, such as "0 to 9 and noise"."""
    texts = [text for text in dict.fromkeys(" ".join(str(label).split()) for label in labels) if text]
    parts = []
    # Numbers that count up have one difference to their positions.
    for _, run in groupby(enumerate(texts), lambda pair: int(pair[1]) - pair[0] if pair[1].isdecimal() else pair[1]):
        run = [text for _, text in run]
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else run
    if len(parts) > 12:
        parts = [*parts[:11], f"{len(parts) - 11} more"]
    comma, last = ("; ", "; and ") if any("," in part for part in parts) else (", ", " and ")
    return last.join([comma.join(parts[:-1]), *parts[-1:]] if len(parts) > 1 else parts)


def counted(count: int, noun: str, labels: Iterable) -> str:
    """A number of things with their labels, such as "2 rows (before and after)"."""
    phrase = names(labels)
    return f"{count} {noun}{'s' if count != 1 else ''}" + (f" ({phrase})" if phrase else "")


def check_mappings(**arguments: Mapping) -> None:
    """Refuse anything but mappings with at least one entry."""
    check_types(**{name: (value, Mapping) for name, value in arguments.items()})
    for name, value in arguments.items():
        if not value:
            raise ValueError(f"{name} must be a mapping with at least one entry, got {shorten(value)}")


def check_pairs(table: pd.DataFrame) -> None:
    """Refuse a table whose index is not of distinct pairs."""
    if table.index.nlevels != 2 or table.index.has_duplicates:
        raise ValueError(f"table must have an index of distinct pairs, got {shorten(list(table.index))}")
