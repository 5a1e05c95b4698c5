"""Pictures: images in a grid, codes as points, and tables of numbers as heat maps."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from ..checks import check_images, check_names, check_table, check_types, check_values, shorten
from ..labels import MOST_CLASSES, check_labels
from .style import PALETTE, SMALL, WIDTH, check_mappings, counted, frame, in_book_style, ink, label, names, plain

__all__ = ["confusion", "embedding", "image_grid", "matrices"]

GAP = 2  # pixels between two images of a grid


@in_book_style
def image_grid(images: torch.Tensor, rows: Sequence[str] = (), columns: Sequence[str] = (),
               marked: Sequence[int] = ()) -> Figure:
    """Images [R, C, H, W], or [R, C, 1 or 3, H, W], in [0, 1] as R rows and C columns.

    Args:
        rows, columns: labels, R and C of them; none if empty. Short labels of rows stand beside them, and long ones
            above them, so that they leave the width to the images.
        marked: positions of the rows to draw a frame around.
    """
    check_types(images=(images, torch.Tensor))
    images = plain(images)
    channels = math.prod(images.shape[2:-2])
    if images.ndim < 4 or not images.numel() or channels not in (1, 3):
        raise ValueError("images must be [R, C, H, W], or [R, C, 1 or 3, H, W] for gray or colors, got "
                         f"{list(images.shape)}")
    (count, across), (height, width) = images.shape[:2], images.shape[-2:]
    check_images(images.reshape(-1, channels, height, width))
    images = images.reshape(count, across, channels, height, width).movedim(2, -1)
    for name, labels, length in (("rows", rows, count), ("columns", columns, across)):
        if not isinstance(labels, Sequence) or len(labels) not in (0, length):
            raise ValueError(f"{name} must be a sequence of {length} labels, or empty, got {shorten(labels)}")
    check_names(range(count), marked=marked)
    above = any(len(str(label)) > 3 for label in rows)
    side = min((WIDTH - 0.3 * (bool(rows) and not above)) / across, 0.5)
    step, down = width + GAP, height + GAP
    title = round(0.23 * step / side) if above else 0  # pixels of the line above a row
    tops = GAP + title + (title + down) * np.arange(count)
    sheet = np.ones((tops[-1] + down, across * step + GAP, channels))
    for r, top in enumerate(tops):
        for c in range(across):
            sheet[top:top + height, GAP + c * step:GAP + c * step + width] = images[r, c]
    figure = Figure(figsize=(side * sheet.shape[1] / step, side * sheet.shape[0] / step), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet.squeeze(2) if channels == 1 else sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest",
                aspect="auto")
    beside = rows if not above else ()
    axes.set_yticks([top + height / 2 for top in tops][:len(beside)], beside)
    for top, text in zip(tops, rows if above else ()):
        axes.text(GAP - 0.5, top - 0.05 * step / side, str(text), va="bottom")
    axes.set_xticks([GAP + width / 2 + c * step for c in range(len(columns))], columns)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for r in marked:
        axes.add_patch(frame(-0.5, tops[r] - GAP - 0.5, sheet.shape[1], height + 2 * GAP))
    framed = names(rows[r] if rows else f"number {r + 1}" for r in marked)
    figure.alt = (f"A grid of images with {counted(count, 'row', rows)} and {counted(across, 'column', columns)}."
                  + (f" A frame marks the row {framed}." if framed else ""))
    return figure


@in_book_style
def confusion(table: pd.DataFrame) -> Figure:
    """Shares 0-1 as a heat map in percent: a row for each kind of image, a column for each answer of the judge.

    Cells of less than half a percent have no number.
    """
    check_table(table=table)
    figure = Figure(figsize=(WIDTH, 0.27 * len(table) + 0.7), layout="constrained")
    axes = figure.subplots()
    numbers = (100 * table).map(lambda share: f"{share:.0f}" if share >= 0.5 else "")
    sns.heatmap(100 * table, ax=axes, cmap="cividis", vmin=0, vmax=100, annot=numbers, fmt="",
                annot_kws={"fontsize": SMALL}, cbar=False, linewidths=0.5)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0)
    label(axes, "the judge's answer", "")
    figure.alt = (f"A heat map of percentages with {counted(len(table), 'row', table.index)} and a column for each "
                  f"answer of the judge: {names(table.columns)}.")
    return figure


@in_book_style
def matrices(tables: Mapping[str, pd.DataFrame], formats: Mapping[str, str],
             marked: Mapping[str, Sequence[int]] = {}, scale: tuple[float, float] | None = None) -> Figure:
    """Annotated heat maps, one below the other, with common rows and columns. A cell without a number has a dash.

    Args:
        tables: title -> numbers.
        formats: title -> format of the numbers, such as ".3f".
        marked: row -> positions of the columns whose cells get a frame.
        scale: the numbers at the two ends of the colors; by default the least and the greatest of each table.
    """
    check_mappings(tables=tables)
    check_table(**{f"tables[{title!r}]": table for title, table in tables.items()})
    check_types(formats=(formats, Mapping), marked=(marked, Mapping))
    rows, across = next(iter(tables.values())).shape
    check_names(next(iter(tables.values())).index, marked=list(marked))
    check_names(range(across), **{f"marked[{row!r}]": columns for row, columns in marked.items()})
    if len({table.shape for table in tables.values()}) > 1:
        raise ValueError(f"tables must have one shape, got {[table.shape for table in tables.values()]}")
    if missing := tables.keys() - formats.keys():
        raise ValueError(f"formats must have a format for every table, got none for {shorten(missing)}")
    least, most = _ends(scale)
    figure = Figure(figsize=(WIDTH, len(tables) * (0.3 * rows + 0.75)), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(len(tables), 1, squeeze=False)[:, 0], tables.items()):
        sns.heatmap(table, ax=axes, cmap="cividis", vmin=least, vmax=most, annot=True, fmt=formats[title], cbar=False,
                    linewidths=0.5, annot_kws={"fontsize": SMALL})
        for r, c in np.argwhere(table.isna().to_numpy()):
            axes.text(c + 0.5, r + 0.5, "–", ha="center", va="center")
        axes.set_title(title)
        axes.tick_params(length=0)
        axes.tick_params(axis="y", rotation=0)
        for row, columns in marked.items():
            for column in columns:
                axes.add_patch(frame(column, list(table.index).index(row), 1, 1))
        axes.set(xlabel="", ylabel="")
    first = next(iter(tables.values()))
    frames = [f"{row}: {names(first.columns[list(columns)])}" for row, columns in marked.items() if len(columns)]
    figure.alt = (f"{counted(len(tables), 'annotated heat map', tables)}, each with "
                  f"{counted(rows, 'row', first.index)} and {counted(across, 'column', first.columns)}."
                  + (f" Frames mark these cells: {'; '.join(frames)}." if frames else ""))
    return figure


def _ends(scale: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """The two ends of a scale of colors; None is free."""
    if scale is None:
        return None, None
    check_types(scale=(scale, tuple))
    if len(scale) != 2 or not all(isinstance(end, (int, float)) and np.isfinite(end) for end in scale) \
            or scale[0] >= scale[1]:
        raise ValueError(f"scale must be two numbers, the smaller one first, got {shorten(scale)}")
    return scale


@in_book_style
def embedding(points: Mapping[str, torch.Tensor], labels: torch.Tensor, marked: Sequence[int]) -> Figure:
    """The same N points in one embedding of two models, with a line from the first place of each to the second.

    Args:
        points: model -> places [N, 2], for two models.
        labels: of the points, [N]. Each label stands at the median of its first places.
        marked: labels with colored points and lines; all others are gray dots at their first place.
    """
    check_mappings(points=points)
    check_values(**{f"points[{name!r}]": places for name, places in points.items()})
    if len(points) != 2:
        raise ValueError(f"points must have two models, got {shorten(list(points))}")
    for name, places in points.items():
        check_labels(labels, len(places), MOST_CLASSES)
        if places.shape[1] != 2:
            raise ValueError(f"points[{name!r}] must be [N, 2], got {list(places.shape)}")
    check_names(labels.unique().tolist(), marked=marked)
    before, after = (plain(places).numpy() for places in points.values())
    figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    for k in labels.unique().tolist():
        own, color = (labels == k).numpy(), PALETTE[(2 * list(marked).index(k) + 1) % 10] if k in marked else "0.8"
        axes.scatter(*before[own].T, s=6 if k in marked else 3, color=color, linewidths=0, rasterized=True)
        if k in marked:
            axes.plot(*np.stack([before[own], after[own]]).transpose(2, 0, 1), color=color, linewidth=0.6, zorder=2)
        axes.text(*np.median(before[own], axis=0), str(k), ha="center", va="center", fontsize=12, weight="bold",
                  color=ink(color) if k in marked else "0.25", bbox={"boxstyle": "round,pad=0.2", "facecolor": "white",
                                                                    "edgecolor": "none"})
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", "datalim")
    axes.set_axis_off()
    first, second = points
    figure.alt = (f"A scatter plot with each label, {names(labels.unique().tolist())}, at the median of its points. "
                  f"For {names(sorted(marked)) or 'none'}, a line leads from the place of each point in the model "
                  f"{first} to its place in the model {second}.")
    return figure
