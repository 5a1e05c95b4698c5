"""Figures: every function takes results and returns a Matplotlib figure.

The attribute `alt` of each figure is its alternative text: one or two plain sentences, made from the arguments, for
readers who cannot see it. A bad argument raises a TypeError or ValueError that names it and says how it must be.
"""

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
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .checks import check_fisher, check_images, check_name, check_names, check_table, check_types, check_values, shorten
from .fisher import Diagonal
from .labels import CLASSES, check_labels
from .model import CVAE, ModelConfig

__all__ = ["PALETTE", "WIDTH", "confusion", "curves", "embedding", "fisher_layers", "fisher_maps", "image_grid",
           "in_book_style", "intervals", "lines", "matrices", "tradeoff"]

WIDTH = 7.0  # inches: on a phone, with 14 pixels an inch, text of 9 points can still be read
PALETTE = sns.color_palette("colorblind")
LABELS = {"real": "real", "replay": "replay", "ewc": "EWC", "gray": "gray", "loss": "negative ELBO",
          "reconstruction": "reconstruction", "kl": "KL divergence"}


def _plain(values: torch.Tensor) -> torch.Tensor:
    """Values as NumPy takes them: on the CPU, without gradients, in no half precision."""
    values = values.detach().cpu()
    return values.float() if values.dtype in (torch.half, torch.bfloat16) else values


def in_book_style(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function draw with Matplotlib's defaults, independently of the user's matplotlibrc."""
    @wraps(draw)
    def styled(*args, **kwargs):
        with style.context("default", after_reset=True):
            return draw(*args, **kwargs)
    return styled


@in_book_style
def image_grid(images: torch.Tensor, rows: Sequence[str] = (), columns: Sequence[str] = (),
               marked: Sequence[int] = ()) -> Figure:
    """Images [R, C, ..., 28, 28] in [0, 1] as R rows and C columns.

    Args:
        rows, columns: labels, R and C of them; none if empty.
        marked: positions of the rows to draw a frame around.
    """
    check_types(images=(images, torch.Tensor))
    images = _plain(images)
    if images.ndim < 4 or images.shape[-2:] != (28, 28) or not images.numel() or set(images.shape[2:-2]) - {1}:
        raise ValueError(f"images must be [R, C, 28, 28] or [R, C, 1, 28, 28], got {list(images.shape)}")
    count, across = images.shape[:2]
    check_images(images.reshape(-1, 1, 28, 28))
    images = images.reshape(count, across, 28, 28)
    for name, labels, length in (("rows", rows, count), ("columns", columns, across)):
        if not isinstance(labels, Sequence) or len(labels) not in (0, length):
            raise ValueError(f"{name} must be a sequence of {length} labels, or empty, got {shorten(labels)}")
    check_names(range(count), marked=marked)
    side = min(WIDTH / across, 0.6)
    figure = Figure(figsize=(side * across, side * count), layout="none")
    axes = figure.subplots()
    gap = 2
    sheet = np.ones((count * (28 + gap) + gap, across * (28 + gap) + gap))
    for r in range(count):
        for c in range(across):
            top, left = gap + r * (28 + gap), gap + c * (28 + gap)
            sheet[top:top + 28, left:left + 28] = images[r, c]
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([gap + 14 + r * (28 + gap) for r in range(len(rows))], rows)
    axes.set_xticks([gap + 14 + c * (28 + gap) for c in range(len(columns))], columns)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for r in marked:
        axes.add_patch(_frame(-0.5, r * (28 + gap) - 0.5, sheet.shape[1], 28 + 2 * gap))
    framed = _names(rows[r] if rows else f"number {r + 1}" for r in marked)
    figure.alt = (f"A grid of images with {_counted(count, 'row', rows)} and {_counted(across, 'column', columns)}."
                  + (f" A frame marks the row {framed}." if framed else ""))
    return figure


def _frame(left: float, top: float, width: float, height: float) -> Rectangle:
    return Rectangle((left, top), width, height, fill=False, edgecolor=PALETTE[1], linewidth=2.5,
                     clip_on=False)


@in_book_style
def curves(log: pd.DataFrame, names: Sequence[str], suffixes: Mapping[str, str]) -> Figure:
    """Columns of a training log against the step, one panel for each suffix, logarithmic.

    Args:
        names: columns, each a line; names that the log lacks are left out.
        suffixes: suffix of the columns in a panel -> label of the panel's y axis.
    """
    check_table("step", log=log)
    _check_panels(suffixes=suffixes)
    if isinstance(names, str) or not isinstance(names, Sequence) or not {
            f"{name}{suffix}" for name in names for suffix in suffixes} & set(log.columns):
        raise ValueError(f"names must be a sequence with at least one column of the log, {shorten(list(log.columns))}, "
                         f"got {shorten(names)}")
    figure = Figure(figsize=(WIDTH, 2.8 if len(suffixes) > 1 else 3.2), layout="constrained")
    panels = figure.subplots(1, len(suffixes), squeeze=False)[0]
    styles = ["-", "--", "-.", ":"]
    for axes, (suffix, label) in zip(panels, suffixes.items()):
        for index, name in enumerate(names):
            if name + suffix in log:
                rows = log[["step", name + suffix]].dropna()
                axes.plot(rows["step"], rows[name + suffix], styles[index % 4], color=PALETTE[index],
                          label=LABELS.get(name, name))
        axes.set_yscale("log")
        _label(axes, "step", label)
    panels[0].legend(frameon=False)
    series = [LABELS.get(name, name) for name in names if any(name + suffix in log for suffix in suffixes)]
    figure.alt = _panels(suffixes.values(), "the step, on logarithmic axes", series)
    return figure


@in_book_style
def fisher_layers(fisher: Diagonal) -> Figure:
    """Box plots of log10 F of every weight matrix, without zeros, from the encoder's input to the decoder's output."""
    check_types(fisher=(fisher, Mapping))
    if not any(str(name).endswith("weight") for name in fisher) or not all(
            isinstance(values, torch.Tensor) and (values >= 0).all() for values in fisher.values()):
        raise ValueError("fisher must map names to tensors of numbers from 0, with at least one weight matrix, "
                         f"got {shorten(list(fisher))}")
    order = sorted((name for name in fisher if name.endswith("weight")),
                   key=lambda name: name.startswith("decoder"))
    figure = Figure(figsize=(WIDTH, 0.4 * len(order) + 0.9), layout="constrained")
    axes = figure.subplots()
    values = [_plain(fisher[name]).flatten() for name in order]
    boxes = axes.boxplot([torch.log10(v[v > 0]).numpy() for v in values], orientation="horizontal",
                         whis=(1, 99), showfliers=False, patch_artist=True, widths=0.6)
    for box in boxes["boxes"]:
        box.set_facecolor(PALETTE[0])
    layers = [name.removesuffix(".weight") for name in order]
    axes.set_yticks(range(1, len(order) + 1), layers)
    axes.invert_yaxis()
    _label(axes, "log10 of Fisher diagonal (box: quartiles; whiskers: 1 % to 99 %)", "")
    figure.alt = f"Box plots of the logarithm of the Fisher diagonal, one for each weight matrix: {_names(layers)}."
    return figure


@in_book_style
def fisher_maps(fisher: Diagonal, config: ModelConfig) -> Figure:
    """The Fisher of the first and the last layer, summed over everything except the position in the image.

    Dense layers give a map of the 28x28 pixels. Convolutions use the same
    weights at all positions, so their map is the 4x4 kernel.
    """
    check_types(config=(config, ModelConfig))
    check_fisher(CVAE(config), fisher)
    first = _plain(fisher["encoder.layers.0.weight"])
    last = _plain(fisher[max(name for name in fisher if name.startswith("decoder") and name.endswith("weight"))])
    if config.architecture == "mlp":
        maps = {"encoder: input pixels": first[:, :784].sum(0).view(28, 28),
                "decoder: output pixels": last.sum(1).view(28, 28)}
    else:
        maps = {"encoder: first kernels": first[:, :1].sum((0, 1)), "decoder: last kernels": last.sum((0, 1))}
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, 2), maps.items()):
        picture = axes.imshow(image.numpy(), cmap="cividis")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
        figure.colorbar(picture, ax=axes, shrink=0.85, label="summed Fisher")
    figure.alt = f"Two heat maps of the summed Fisher. Left, {'; right, '.join(maps)}."
    return figure


@in_book_style
def confusion(table: pd.DataFrame) -> Figure:
    """Shares 0-1 as a heat map in percent: a row for each kind of image, a column for each answer of the judge."""
    check_table(table=table)
    figure = Figure(figsize=(WIDTH, 0.34 * len(table) + 1), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(100 * table, ax=axes, cmap="cividis", vmin=0, vmax=100, annot=True, fmt=".0f",
                annot_kws={"fontsize": 8}, cbar_kws={"label": "%"}, linewidths=0.5)
    axes.tick_params(length=0)
    _label(axes, "the judge's answer", "")
    figure.alt = (f"A heat map of percentages with {_counted(len(table), 'row', table.index)} and a column for each "
                  f"answer of the judge: {_names(table.columns)}.")
    return figure


@in_book_style
def matrices(tables: Mapping[str, pd.DataFrame], formats: Mapping[str, str],
             marked: Mapping[str, Sequence[int]] = {}) -> Figure:
    """Annotated heat maps, one below the other, with common rows and columns.

    Args:
        tables: title -> numbers.
        formats: title -> format of the numbers, such as ".3f".
        marked: row -> positions of the columns whose cells get a frame.
    """
    _check_panels(tables=tables)
    check_table(**{f"tables[{title!r}]": table for title, table in tables.items()})
    check_types(formats=(formats, Mapping), marked=(marked, Mapping))
    rows, across = next(iter(tables.values())).shape
    check_names(next(iter(tables.values())).index, marked=list(marked))
    check_names(range(across), **{f"marked[{row!r}]": columns for row, columns in marked.items()})
    if len({table.shape for table in tables.values()}) > 1:
        raise ValueError(f"tables must have one shape, got {[table.shape for table in tables.values()]}")
    if missing := tables.keys() - formats.keys():
        raise ValueError(f"formats must have a format for every table, got none for {shorten(missing)}")
    figure = Figure(figsize=(WIDTH, len(tables) * (0.3 * rows + 0.75)), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(len(tables), 1, squeeze=False)[:, 0], tables.items()):
        sns.heatmap(table, ax=axes, cmap="cividis", annot=True, fmt=formats[title], cbar=False, linewidths=0.5,
                    annot_kws={"fontsize": 8 if across <= 10 else 7})
        axes.set_title(title, fontsize=10)
        axes.tick_params(length=0)
        axes.tick_params(axis="y", rotation=0)
        for row, columns in marked.items():
            for column in columns:
                axes.add_patch(_frame(column, list(table.index).index(row), 1, 1))
        axes.set(xlabel="", ylabel="")
    first = next(iter(tables.values()))
    frames = [f"{row}: {_names(first.columns[list(columns)])}" for row, columns in marked.items() if len(columns)]
    figure.alt = (f"{_counted(len(tables), 'annotated heat map', tables)}, each with "
                  f"{_counted(rows, 'row', first.index)} and {_counted(across, 'column', first.columns)}."
                  + (f" Frames mark these cells: {'; '.join(frames)}." if frames else ""))
    return figure


@in_book_style
def embedding(points: Mapping[str, torch.Tensor], labels: torch.Tensor, marked: Sequence[int]) -> Figure:
    """Points [N, 2] of several models on shared axes, two panels a row, colored by label [N].

    Args:
        marked: labels drawn as crosses, with a framed name.
    """
    _check_panels(points=points)
    check_values(**{f"points[{name!r}]": positions for name, positions in points.items()})
    for name, positions in points.items():
        check_labels(labels, len(positions))
        if positions.shape[1] != 2:
            raise ValueError(f"points[{name!r}] must be [N, 2], got {list(positions.shape)}")
    check_names(range(CLASSES), marked=marked)
    names, count = list(points), (len(points) + 1) // 2
    figure = Figure(figsize=(WIDTH, 3.4 * count), layout="constrained")
    panels = figure.subplots(count, 2, sharex=True, sharey=True, squeeze=False).flat
    for name, axes in zip(names, panels):
        positions = _plain(points[name]).numpy()
        for k in labels.unique().tolist():
            cluster = positions[(labels == k).numpy()]
            axes.scatter(*cluster.T, s=9 if k in marked else 4, marker="x" if k in marked else "o", alpha=0.6,
                         color=PALETTE[k], linewidths=0.6 if k in marked else 0, rasterized=True)
            axes.text(*np.median(cluster, axis=0), str(k), ha="center", va="center", fontsize=11, weight="bold",
                      bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "alpha": 0.85, "linewidth": 1.5,
                            "edgecolor": PALETTE[1] if k in marked else "none"})
        axes.set_title(name, fontsize=10)
        axes.set(xticks=[], yticks=[])
    for axes in panels:
        axes.set_axis_off()
    figure.alt = (f"{_counted(len(names), 'scatter plot', names)} on shared axes, colored by label, with each label, "
                  f"{_names(labels.unique().tolist())}, at the median of its points."
                  + (f" Crosses and frames mark {_names(sorted(marked))}." if marked else ""))
    return figure


@in_book_style
def lines(tables: Mapping[str, pd.DataFrame], panels: Mapping[str, str], x: str, scale: str = "linear",
          bounds: Mapping[str, float] = {}, logarithmic: Sequence[str] = ()) -> Figure:
    """Results against the tables' index, a line for each table and a panel for each column.

    Args:
        tables: label -> results.
        panels: column -> label of its y axis.
        x: label of the x axis.
        scale: of the x axis, "linear", "log" or "symlog", which is linear from 0 to the smallest positive value.
        bounds: column -> level of a dotted line, such as the baseline's.
        logarithmic: columns with a logarithmic y axis.
    """
    _check_panels(tables=tables, panels=panels)
    check_table(*panels, **{f"tables[{name!r}]": table for name, table in tables.items()})
    check_name(("linear", "log", "symlog"), scale=scale)
    check_types(bounds=(bounds, Mapping))
    check_names(panels, logarithmic=logarithmic)
    figure = Figure(figsize=(WIDTH, 2.9 if len(tables) <= 4 else 3.5), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for index, (name, table) in enumerate(tables.items()):
            axes.plot(table.index, table[column], ["o-", "s--", "^-.", "D:"][index % 4],
                      color=PALETTE[index % len(PALETTE)], label=name, markersize=4)
        if column in bounds:
            axes.axhline(bounds[column], color="0.35", linestyle=":", linewidth=1.2)
        if scale == "symlog":
            smallest = min(value for table in tables.values() for value in table.index if value > 0)
            axes.set_xscale("symlog", linthresh=smallest)
            axes.set_xlim(left=-0.3 * smallest)
        else:
            axes.set_xscale(scale)
        if column in logarithmic:
            axes.set_yscale("log")
        _label(axes, x, label)
    if len(tables) <= 4:
        figure.axes[0].legend(frameon=False, fontsize=8)
    else:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
                      frameon=False, fontsize=8)
    titles = [f"{label} (logarithmic)" if column in logarithmic else label for column, label in panels.items()]
    figure.alt = _panels(titles, x if scale == "linear" else f"{x} (logarithmic)",
                         [*tables, *["a dotted reference level"] * bool(set(bounds) & set(panels))])
    return figure


@in_book_style
def intervals(table: pd.DataFrame, x: str, levels: Sequence[float]) -> Figure:
    """Values with their intervals, one below the other.

    Args:
        table: columns `value`, `low`, `high`; index (row, series): a row of
            the figure, and a color and marker. A row without a value is left
            out; one without ends has no interval; an infinite end leaves the axes.
        x: label of the axis.
        levels: positions of dotted lines.
    """
    check_table("value", "low", "high", table=table)
    _check_pairs(table)
    if ((table["low"] > table["value"]) | (table["value"] > table["high"])).any():
        raise ValueError("table must have low <= value <= high in every row, got a value outside its interval")
    known = np.append(table.to_numpy(float), levels)
    least, most = (end(known[np.isfinite(known)], initial=0) for end in (np.min, np.max))
    room = 0.05 * (most - least) or 1
    table = table.clip(least - 2 * room, most + 2 * room)
    rows, series = (list(dict.fromkeys(table.index.get_level_values(level))) for level in (0, 1))
    figure = Figure(figsize=(WIDTH, 0.26 * len(rows) * max(1.6, len(series)) + 1.1), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(series):
        part = table.xs(name, level=1).dropna(subset="value")
        heights = [rows.index(row) + 0.7 * ((index + 0.5) / len(series) - 0.5) for row in part.index]
        axes.errorbar(part["value"], heights, xerr=[part["value"] - part["low"], part["high"] - part["value"]],
                      fmt="osD^v"[index % 5], color=PALETTE[index], label=name, capsize=2, markersize=5)
    for level in levels:
        axes.axvline(level, color="0.35", linestyle=":", linewidth=1.2)
    axes.set_xlim(least - room, most + room)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    _label(axes, x, "")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    dotted = _names(f"{level:g}" for level in levels)
    figure.alt = (f"Points with intervals for {x}, in {_counted(len(rows), 'row', rows)}; colors and markers stand "
                  f"for {_names(series)}." + (f" Dotted lines mark {dotted}." if dotted else ""))
    return figure


@in_book_style
def tradeoff(table: pd.DataFrame, x: str, y: str) -> Figure:
    """Two results against each other, with several points for each series.

    Args:
        table: columns `x`, `y`; index (series, measure): a color, and a marker.
        x, y: labels of the axes. Dotted lines mark 0 on both; y is linear from -1 to 1 and logarithmic beyond.
    """
    check_table("x", "y", table=table)
    _check_pairs(table)
    series, measures = (list(dict.fromkeys(table.index.get_level_values(level))) for level in (0, 1))
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(series):
        part = table.xs(name, level=0)
        color = PALETTE[index % len(PALETTE)]
        axes.plot(part["x"], part["y"], color=color, linewidth=1, label=name)
        for measure, marker in zip(measures, "os^D"):
            axes.plot(*part.loc[measure, ["x", "y"]], marker, color=color, markersize=6)
    for measure, marker in zip(measures, "os^D"):
        axes.plot([], [], marker, color="0.35", label=measure)
    axes.set_yscale("symlog", linthresh=1)
    axes.axvline(0, color="0.35", linestyle=":", linewidth=1.2)
    axes.axhline(0, color="0.35", linestyle=":", linewidth=1.2)
    _label(axes, x, y)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.alt = (f"A scatter plot of {y} against {x}: a color for each of {_names(series)}, and a marker for each of "
                  f"{_names(measures)}. Dotted lines mark 0.")
    return figure


def _names(labels: Iterable) -> str:
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


def _counted(count: int, noun: str, labels: Iterable) -> str:
    """A number of things with their labels, such as "2 rows (before and after)"."""
    names = _names(labels)
    return f"{count} {noun}{'s' if count != 1 else ''}" + (f" ({names})" if names else "")


def _panels(titles: Iterable[str], x: str, series: Iterable) -> str:
    """The alternative text of a panel for each title (a y axis), against x, with a line for each of the series."""
    *_, last = titles = list(titles)
    subject = f"{len(titles)} panels against {x}: {_names(titles)}" if len(titles) > 1 else (
        f"A line chart: {last}, against {x}")
    return f"{subject}. Lines: {_names(series)}."


def _check_panels(**arguments: Mapping) -> None:
    """Refuse anything but mappings with at least one entry."""
    check_types(**{name: (panels, Mapping) for name, panels in arguments.items()})
    for name, panels in arguments.items():
        if not panels:
            raise ValueError(f"{name} must be a mapping with at least one entry, got {shorten(panels)}")


def _check_pairs(table: pd.DataFrame) -> None:
    """Refuse a table whose index is not of distinct pairs."""
    if table.index.nlevels != 2 or table.index.has_duplicates:
        raise ValueError(f"table must have an index of distinct pairs, got {shorten(list(table.index))}")


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    sns.despine(ax=axes)
