"""Figures: every function takes results and returns a Matplotlib figure.

What it cannot draw is refused with a TypeError or ValueError that names the argument and what is allowed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .checks import (check_fisher, check_images, check_name, check_names, check_table, check_types, check_values,
                     shorten)
from .fisher import Diagonal
from .labels import CLASSES, check_labels
from .model import CVAE, ModelConfig

__all__ = ["confusion", "curves", "embedding", "fisher_layers", "fisher_maps", "image_grid", "intervals", "lines",
           "matrices", "tradeoff"]

WIDTH = 7.0  # inches: at the 14 pixels an inch of a phone, text of 9 points can still be read
PALETTE = sns.color_palette("colorblind")
LABELS = {"real": "real", "replay": "replay", "ewc": "EWC", "gray": "gray", "loss": "negative ELBO",
          "reconstruction": "reconstruction", "kl": "KL divergence"}


def image_grid(images: torch.Tensor, rows: Sequence[str] = (), columns: Sequence[str] = (),
               marked: Sequence[int] = ()) -> Figure:
    """Images [R, C, ..., 28, 28] in [0, 1] as R rows and C columns.

    Args:
        rows, columns: labels; none if empty.
        marked: rows to draw a frame around.
    """
    check_types(images=(images, torch.Tensor))
    images = images.detach().cpu()
    if images.ndim < 4 or images.shape[-2:] != (28, 28) or not images.numel() or set(images.shape[2:-2]) - {1}:
        raise ValueError(f"images of shape {tuple(images.shape)} will not do; give [R, C, 28, 28] or [R, C, 1, 28, 28]")
    count, across = images.shape[:2]
    check_images(images.reshape(-1, 1, 28, 28))
    images = images.reshape(count, across, 28, 28)
    for name, labels, wanted in (("rows", rows, count), ("columns", columns, across)):
        if not isinstance(labels, Sequence) or len(labels) not in (0, wanted):
            raise ValueError(f"{name}={shorten(labels)} is not allowed; give a sequence of {wanted} labels, or none")
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
    return figure


def _frame(left: float, top: float, width: float, height: float) -> Rectangle:
    return Rectangle((left, top), width, height, fill=False, edgecolor=PALETTE[1], linewidth=2.5,
                     clip_on=False)


def curves(log: pd.DataFrame, names: Sequence[str], suffixes: Mapping[str, str]) -> Figure:
    """Columns of a training log against the step, one panel for each suffix, logarithmic.

    Args:
        names: columns, each a line; those the log lacks are left out.
        suffixes: what is put behind a name in a panel -> the label of its y axis.
    """
    check_table("step", log=log)
    _check_panels(suffixes=suffixes)
    if isinstance(names, str) or not isinstance(names, Sequence) or not {
            f"{name}{suffix}" for name in names for suffix in suffixes} & set(log.columns):
        raise ValueError(f"names={shorten(names)} is not allowed; use a sequence with a column of the log in it: "
                         f"{shorten(list(log.columns))}")
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
    return figure


def fisher_layers(fisher: Diagonal) -> Figure:
    """Box plots of log10 F of every weight matrix, zeros left out, from the image to the pixels."""
    check_types(fisher=(fisher, Mapping))
    if not any(str(name).endswith("weight") for name in fisher) or not all(
            isinstance(values, torch.Tensor) and (values >= 0).all() for values in fisher.values()):
        raise ValueError(f"fisher with {shorten(list(fisher))} will not do; give tensors of numbers from 0, at least one "
                         "of them of a weight matrix")
    order = sorted((name for name in fisher if name.endswith("weight")),
                   key=lambda name: name.startswith("decoder"))
    figure = Figure(figsize=(WIDTH, 0.4 * len(order) + 0.9), layout="constrained")
    axes = figure.subplots()
    values = [fisher[name].flatten().cpu() for name in order]
    boxes = axes.boxplot([torch.log10(v[v > 0]).numpy() for v in values], orientation="horizontal",
                         whis=(1, 99), showfliers=False, patch_artist=True, widths=0.6)
    for box in boxes["boxes"]:
        box.set_facecolor(PALETTE[0])
    axes.set_yticks(range(1, len(order) + 1), [name.removesuffix(".weight") for name in order])
    axes.invert_yaxis()
    _label(axes, "log10 of Fisher diagonal (box: quartiles; whiskers: 1 % to 99 %)", "")
    return figure


def fisher_maps(fisher: Diagonal, config: ModelConfig) -> Figure:
    """The Fisher of the layers that touch pixels, summed over everything but the place in the image.

    Dense layers give a map of the 28x28 pixels; convolutions share their
    weights over all places, so their map is the 4x4 kernel.
    """
    check_types(config=(config, ModelConfig))
    check_fisher(CVAE(config), fisher)
    first = fisher["encoder.layers.0.weight"].cpu()
    last = fisher[max(name for name in fisher if name.startswith("decoder") and name.endswith("weight"))].cpu()
    if config.architecture == "mlp":
        maps = {"encoder: input pixels": first[:, :784].sum(0).view(28, 28),
                "decoder: output pixels": last.sum(1).view(28, 28)}
    else:
        maps = {"encoder: first kernels": first[:, :1].sum((0, 1)), "decoder: last kernels": last.sum((0, 1))}
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    for axes, (title, image) in zip(figure.subplots(1, 2), maps.items()):
        shown = axes.imshow(image.numpy(), cmap="cividis")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
        figure.colorbar(shown, ax=axes, shrink=0.85, label="summed Fisher")
    return figure


def confusion(table: pd.DataFrame) -> Figure:
    """Shares 0-1 as a heat map: rows what was shown, columns what the judge said."""
    check_table(table=table)
    figure = Figure(figsize=(WIDTH, 0.34 * len(table) + 1), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(100 * table, ax=axes, cmap="cividis", vmin=0, vmax=100, annot=True, fmt=".0f",
                annot_kws={"fontsize": 8}, cbar_kws={"label": "%"}, linewidths=0.5)
    axes.tick_params(length=0)
    _label(axes, "the judge's answer", "")
    return figure


def matrices(tables: Mapping[str, pd.DataFrame], formats: Mapping[str, str],
             marked: Mapping[str, Sequence[int]] = {}) -> Figure:
    """One annotated heat map below the other, on common rows and columns.

    Args:
        tables: title -> numbers.
        formats: title -> format of the numbers, such as ".3f".
        marked: row -> positions of the columns to draw a frame around in it.
    """
    _check_panels(tables=tables)
    check_table(**{f"tables[{title!r}]": table for title, table in tables.items()})
    check_types(formats=(formats, Mapping), marked=(marked, Mapping))
    rows, across = next(iter(tables.values())).shape
    check_names(next(iter(tables.values())).index, marked=list(marked))
    check_names(range(across), **{f"marked[{row!r}]": columns for row, columns in marked.items()})
    if len({table.shape for table in tables.values()}) > 1:
        raise ValueError(f"tables are of shapes {[table.shape for table in tables.values()]}; give them the same")
    if missing := tables.keys() - formats.keys():
        raise ValueError(f"formats={shorten(formats)} is not allowed; it lacks {shorten(missing)}")
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
    return figure


def embedding(points: Mapping[str, torch.Tensor], labels: torch.Tensor, marked: Sequence[int]) -> Figure:
    """Points [N, 2] of several models on shared axes, two panels a row, coloured by label [N].

    Args:
        marked: labels drawn as crosses, with a framed name.
    """
    _check_panels(points=points)
    check_values(**{f"points[{name!r}]": place for name, place in points.items()})
    for name, place in points.items():
        check_labels(labels, len(place))
        if place.shape[1] != 2:
            raise ValueError(f"points[{name!r}] of shape {tuple(place.shape)} will not do; give [N, 2]")
    check_names(range(CLASSES), marked=marked)
    names, count = list(points), (len(points) + 1) // 2
    figure = Figure(figsize=(WIDTH, 3.4 * count), layout="constrained")
    panels = figure.subplots(count, 2, sharex=True, sharey=True, squeeze=False).flat
    for name, axes in zip(names, panels):
        place = points[name].numpy()
        for k in labels.unique().tolist():
            mine = place[(labels == k).numpy()]
            axes.scatter(*mine.T, s=9 if k in marked else 4, marker="x" if k in marked else "o", alpha=0.6,
                         color=PALETTE[k], linewidths=0.6 if k in marked else 0, rasterized=True)
            axes.text(*np.median(mine, axis=0), str(k), ha="center", va="center", fontsize=11, weight="bold",
                      bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "alpha": 0.85, "linewidth": 1.5,
                            "edgecolor": PALETTE[1] if k in marked else "none"})
        axes.set_title(name, fontsize=10)
        axes.set(xticks=[], yticks=[])
    for axes in panels:
        axes.set_axis_off()
    return figure


def lines(tables: Mapping[str, pd.DataFrame], panels: Mapping[str, str], x: str, scale: str = "linear",
          bounds: Mapping[str, float] = {}, logarithmic: Sequence[str] = ()) -> Figure:
    """Results against the tables' index, a line for each table and a panel for each column.

    Args:
        tables: label -> results.
        panels: column -> label of its y axis.
        x: label of the x axis.
        scale: of the x axis; "symlog" is linear from 0 to the smallest positive value.
        bounds: column -> level of a dotted line, such as the baseline's.
        logarithmic: columns whose axis is so.
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
    return figure


def intervals(table: pd.DataFrame, x: str, levels: Sequence[float]) -> Figure:
    """Values with their intervals, one below the other.

    Args:
        table: columns `value`, `low`, `high`; index (place, series): a row of
            the figure, and which of its differently drawn points.
        x: label of the axis.
        levels: of dotted lines.
    """
    check_table("value", "low", "high", table=table)
    _check_pairs(table)
    if ((table["low"] > table["value"]) | (table["value"] > table["high"])).any():
        raise ValueError("table has a value outside its interval; give low <= value <= high")
    places, series = (list(dict.fromkeys(table.index.get_level_values(level))) for level in (0, 1))
    figure = Figure(figsize=(WIDTH, 0.26 * len(places) * max(1.6, len(series)) + 1.1), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(series):
        mine = table.xs(name, level=1).dropna()
        at = [places.index(place) + 0.7 * ((index + 0.5) / len(series) - 0.5) for place in mine.index]
        axes.errorbar(mine["value"], at, xerr=[mine["value"] - mine["low"], mine["high"] - mine["value"]],
                      fmt="osD^v"[index % 5], color=PALETTE[index], label=name, capsize=2, markersize=5)
    for level in levels:
        axes.axvline(level, color="0.35", linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(places)), places)
    axes.invert_yaxis()
    _label(axes, x, "")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def tradeoff(table: pd.DataFrame, x: str, y: str) -> Figure:
    """Two results against each other, for several things by several measures of the first.

    Args:
        table: columns `x`, `y`; index (thing, measure): a colour, and a marker.
        x, y: labels of the axes; dotted lines stand at 0, and y is logarithmic away from it.
    """
    check_table("x", "y", table=table)
    _check_pairs(table)
    things, measures = (list(dict.fromkeys(table.index.get_level_values(level))) for level in (0, 1))
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, thing in enumerate(things):
        mine = table.xs(thing, level=0)
        color = PALETTE[index % len(PALETTE)]
        axes.plot(mine["x"], mine["y"], color=color, linewidth=1, label=thing)
        for measure, marker in zip(measures, "os^D"):
            axes.plot(*mine.loc[measure, ["x", "y"]], marker, color=color, markersize=6)
    for measure, marker in zip(measures, "os^D"):
        axes.plot([], [], marker, color="0.35", label=measure)
    axes.set_yscale("symlog", linthresh=1)
    axes.axvline(0, color="0.35", linestyle=":", linewidth=1.2)
    axes.axhline(0, color="0.35", linestyle=":", linewidth=1.2)
    _label(axes, x, y)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _check_panels(**given: Mapping) -> None:
    """Refuse what is no mapping with something in it."""
    check_types(**{name: (panels, Mapping) for name, panels in given.items()})
    for name, panels in given.items():
        if not panels:
            raise ValueError(f"{name}={shorten(panels)} is not allowed; use a mapping with at least one entry")


def _check_pairs(table: pd.DataFrame) -> None:
    """Refuse a table whose rows are not named by pairs, each once."""
    if table.index.nlevels != 2 or table.index.has_duplicates:
        raise ValueError(f"table with the rows {shorten(list(table.index))} will not do; name them by pairs, each once")


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    sns.despine(ax=axes)
