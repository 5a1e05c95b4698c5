"""Plots: numbers along axes, each line with its name at its end."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..checks import check_name, check_names, check_number, check_table, check_types, shorten
from ..fisher import Diagonal
from .style import (
    PALETTE,
    WIDTH,
    check_mappings,
    check_pairs,
    counted,
    in_book_style,
    ink,
    label,
    name_lines,
    names,
    plain,
)

__all__ = ["concentration", "curves", "intervals", "lines", "plane", "tradeoff"]

LABELS = {"real": "real", "replay": "replay", "ewc": "EWC", "gray": "gray", "loss": "negative ELBO",
          "reconstruction": "reconstruction", "kl": "KL divergence"}
FEW = 20  # points of a line that are drawn one by one
LEVEL = {"color": "0.35", "linestyle": ":", "linewidth": 1.2}
Colors = Mapping[str, tuple[float, float, float]]


def curves(log: pd.DataFrame, names: Sequence[str], suffixes: Mapping[str, str], logarithmic: bool = False) -> Figure:
    """Columns of a training log against the step, one panel for each suffix.

    Args:
        names: columns, each a line; names that the log lacks are left out.
        suffixes: suffix of the columns in a panel -> label of the panel's y axis.
        logarithmic: whether the y axes are.
    """
    check_table("step", log=log)
    check_mappings(suffixes=suffixes)
    check_types(logarithmic=(logarithmic, bool))
    if isinstance(names, str) or not isinstance(names, Sequence) or not {
            f"{name}{suffix}" for name in names for suffix in suffixes} & set(log.columns):
        raise ValueError(f"names must be a sequence with at least one column of the log, {shorten(list(log.columns))}, "
                         f"got {shorten(names)}")
    there = [name for name in names if any(f"{name}{suffix}" in log for suffix in suffixes)]
    tables = {LABELS.get(name, str(name)): pd.DataFrame(
        {title: log.get(f"{name}{suffix}", pd.Series(np.nan, log.index)) for suffix, title in suffixes.items()},
        dtype=float).set_axis(log["step"]) for name in there}
    titles = list(suffixes.values())
    return lines(tables, dict(zip(titles, titles)), "step", logarithmic=titles if logarithmic else ())


@in_book_style
def lines(tables: Mapping[str, pd.DataFrame], panels: Mapping[str, str], x: str, scale: str = "linear",
          bounds: Mapping[str, float] = {}, logarithmic: Sequence[str] = (), colors: Colors | None = None) -> Figure:
    """Results against the tables' index: a line for each table, and a panel for each column, one below the other.

    Args:
        tables: label -> results. Where a table has the columns "name, low" and "name, high" of a panel's column, they
            bound a band around its line.
        panels: column -> label of its y axis.
        x: label of the x axis.
        scale: of the x axis, "linear", "log" or "symlog", which is linear from 0 to the smallest positive value.
        bounds: column -> level of a dotted line, such as the baseline's.
        logarithmic: columns with a logarithmic y axis.
        colors: label -> color, of these tables and others, so that figures of the same things look alike; the position
            of a label there chooses its dashes and marker. By default, the colors of `PALETTE` in their order.
    """
    check_mappings(tables=tables, panels=panels)
    check_table(*panels, **{f"tables[{name!r}]": table for name, table in tables.items()})
    check_name(("linear", "log", "symlog"), scale=scale)
    check_types(bounds=(bounds, Mapping))
    check_names(panels, logarithmic=logarithmic)
    colors = _colors(tables, colors)
    styles = {name: index % 4 for index, name in enumerate(colors)}
    height = max(2.5 if len(panels) == 1 else 1.7, 0.24 * len(tables))
    figure = Figure(figsize=(WIDTH, height * len(panels) + 0.4), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0], panels.items()):
        ends = {}
        for name, table in tables.items():
            known = table[column].dropna()
            marker = "os^D"[styles[name]] if len(known) <= FEW else ""
            axes.plot(known.index, known, marker + ["-", "--", "-.", ":"][styles[name]], color=colors[name],
                      markersize=4)
            if {f"{column}, low", f"{column}, high"} <= set(table.columns):
                axes.fill_between(table.index, table[f"{column}, low"], table[f"{column}, high"], color=colors[name],
                                  alpha=0.15, linewidth=0)
            if len(known):
                ends[name] = known.iloc[-1]
        if column in bounds:
            axes.axhline(bounds[column], **LEVEL)
        if scale == "symlog":
            smallest = min(value for table in tables.values() for value in table.index if value > 0)
            axes.set_xscale("symlog", linthresh=smallest)
            axes.set_xlim(left=-0.3 * smallest)
        elif scale == "log":
            axes.set_xscale(scale)
        elif isinstance(table.index[0], str):
            axes.set_xticks(range(len(table)), [name.replace(" ", "\n") for name in table.index])
        if column in logarithmic:
            axes.set_yscale("log")
        label(axes, x if axes is figure.axes[-1] else "", title)
        name_lines(axes, ends, [colors[name] for name in ends])
    figure.align_ylabels()
    titles = [f"{title} (logarithmic)" if column in logarithmic else title for column, title in panels.items()]
    against = x if scale == "linear" else f"{x} (logarithmic)"
    subject = (f"{len(titles)} panels against {against}: {names(titles)}" if len(titles) > 1 else
               f"A line chart: {titles[0]}, against {against}")
    series = [*tables, *["a dotted reference level"] * bool(set(bounds) & set(panels))]
    figure.alt = f"{subject}. Lines: {names(series)}."
    return figure


@in_book_style
def plane(tables: Mapping[str, pd.DataFrame], x: str, y: str, corner: tuple[float, float], name: str) -> Figure:
    """Two results of a sweep against each other: a line for each table, with the value that is swept at its points.

    Args:
        tables: label -> columns `x`, drawn on a logarithmic axis, and `y`, on one that is linear up to 0.1; the index
            is the value that is swept.
        x, y: labels of the axes. Low is good on both.
        corner: the largest good values of the two; the area below both is colored.
        name: of the value that is swept.
    """
    check_mappings(tables=tables)
    check_table("x", "y", **{f"tables[{title!r}]": table for title, table in tables.items()})
    check_types(corner=(corner, tuple))
    if len(corner) != 2:
        raise ValueError(f"corner must be two numbers, got {shorten(corner)}")
    check_number(**{f"corner[{at}]": limit for at, limit in enumerate(corner)})
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, table in enumerate(tables.values()):
        color = PALETTE[index % len(PALETTE)]
        axes.plot(table["x"], table["y"], "os^D"[index % 4] + "-", color=color, markersize=5, linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=0.1)
    axes.margins(0.12)
    least, bottom = axes.get_xlim()[0], min(axes.get_ylim()[0], 0.0)
    axes.fill_between([least, corner[0]], bottom, corner[1], color=PALETTE[2], alpha=0.15, linewidth=0, zorder=0)
    axes.set_xlim(left=least)
    axes.set_ylim(bottom=bottom)
    label(axes, x, y)
    figure.draw_without_rendering()  # now the axes have their final size
    for index, table in enumerate(tables.values()):
        points = table[["x", "y"]].to_numpy(float)
        for at, (value, point, (right, up)) in enumerate(zip(table.index, points, _away(axes, points))):
            text = f"{value:g}" if at or index else f"{name} = {value:g}"
            axes.annotate(text, point, xytext=(6 * right, 6 * up), textcoords="offset points",
                          ha="center" if abs(right) < 0.75 else "left" if right > 0 else "right",
                          va="center" if abs(up) < 0.6 else "bottom" if up > 0 else "top",
                          color=ink(PALETTE[index % len(PALETTE)]))
    axes.annotate("good on both", (0, 0), xycoords="axes fraction", xytext=(5, 5), textcoords="offset points",
                  color=ink(PALETTE[2]))
    name_lines(axes, {title: table["y"].iloc[-1] for title, table in tables.items()}, PALETTE)
    figure.alt = (f"A plane of {y} against {x}, with a line for each of {names(tables)}, and {name} at the points. "
                  f"An area in the lower left corner ends at {corner[0]:g} and {corner[1]:g}.")
    return figure


def _away(axes: Axes, points: np.ndarray) -> np.ndarray:
    """The direction on the page from each point [N, 2] of a line to where the line leaves most room."""
    steps = np.diff(axes.transData.transform(points), axis=0)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True).clip(1e-9)
    away = np.zeros(points.shape)
    away[:-1] -= steps
    away[1:] += steps
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, away / lengths.clip(1e-6), (0.0, 1.0))


@in_book_style
def concentration(fisher: Diagonal, share: float = 0.01) -> Figure:
    """The Lorenz curve of a Fisher diagonal: the share of its sum that the largest entries hold, against their number.

    Args:
        share: of the entries, from 0 to 1; the point there is marked.
    """
    check_types(fisher=(fisher, Mapping))
    if not fisher or not all(isinstance(values, torch.Tensor) and values.numel() and (values >= 0).all()
                             for values in fisher.values()):
        raise ValueError(f"fisher must map names to tensors of numbers from 0, got {shorten(list(fisher))}")
    check_number(share=share)
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    entries = torch.cat([plain(values).double().flatten() for values in fisher.values()]).sort(descending=True).values
    total = entries.cumsum(0).numpy()
    held = np.append(0.0, total / total[-1] if total[-1] > 0 else np.arange(1, len(total) + 1) / len(total))
    places = np.append(np.geomspace(1, len(total), 300), np.linspace(0, len(total), 200))
    places = np.unique(places.astype(int))
    at = max(1, int(share * len(total)))
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * places / len(total), 100 * held[places], color=PALETTE[0])
    axes.plot([0, 100], [0, 100], **LEVEL)
    axes.plot(100 * at / len(total), 100 * held[at], "o", color=PALETTE[1])
    axes.annotate(f"{100 * share:g}% of the weights\nhold {held[at]:.0%} of the sum",
                  (100 * at / len(total), 100 * held[at]), xytext=(14, -10), textcoords="offset points", va="top",
                  weight="bold")
    axes.annotate("if all were alike", (70, 70), xytext=(6, -6), textcoords="offset points", va="top", color="0.35")
    label(axes, "weights with the largest Fisher, in %", "share of the sum, in %")
    figure.alt = ("A curve of the share of the Fisher that the largest entries hold, in percent: at "
                  f"{100 * share:g}% of the entries it is at {held[at]:.0%}. "
                  "A dotted diagonal stands for entries that are all alike.")
    return figure


@in_book_style
def intervals(table: pd.DataFrame, x: str, levels: Sequence[float], margin: float = 0.0) -> Figure:
    """Values with their intervals, one below the other; each series has its name at its first value.

    Args:
        table: columns `value`, `low`, `high`; index (row, series): a row of
            the figure, and a color and marker. A row without a value is left
            out; one without ends has no interval; an infinite end leaves the axes.
        x: label of the axis.
        levels: positions of dotted lines.
        margin: distance from 0 up to which the background is colored.
    """
    check_table("value", "low", "high", table=table)
    check_pairs(table)
    check_number(margin=margin)
    if ((table["low"] > table["value"]) | (table["value"] > table["high"])).any():
        raise ValueError("table must have low <= value <= high in every row, got a value outside its interval")
    table = table[["value", "low", "high"]]
    known = np.append(table.to_numpy(float), levels)
    least, most = (end(known[np.isfinite(known)], initial=0) for end in (np.min, np.max))
    room = 0.05 * (most - least) or 1
    table = table.clip(least - 2 * room, most + 2 * room)
    rows, series = (list(dict.fromkeys(table.index.get_level_values(level))) for level in (0, 1))
    figure = Figure(figsize=(WIDTH, 0.26 * len(rows) * max(1.6, len(series)) + 0.7), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-margin, margin, color=PALETTE[2], alpha=0.15, linewidth=0)
    for index, name in enumerate(series):
        part, color = table.xs(name, level=1).dropna(subset="value"), PALETTE[index % len(PALETTE)]
        heights = [rows.index(row) + 0.7 * ((index + 0.5) / len(series) - 0.5) for row in part.index]
        axes.errorbar(part["value"], heights, xerr=[part["value"] - part["low"], part["high"] - part["value"]],
                      fmt="osD^v"[index % 5], color=color, capsize=2, markersize=5)
        if len(part):
            low, high = (part[end].fillna(part["value"]).iloc[0] for end in ("low", "high"))
            right = high - least < most - low  # there is more room on this side
            axes.annotate(str(name), (high if right else low, heights[0]), xytext=(7 if right else -7, 0), va="center",
                          ha="left" if right else "right", textcoords="offset points", color=ink(color),
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    for level in levels:
        axes.axvline(level, **LEVEL)
    axes.set_xlim(least - room, most + room)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    label(axes, x, "")
    dotted = names(f"{level:g}" for level in levels)
    figure.alt = (f"Points with intervals for {x}, in {counted(len(rows), 'row', rows)}; colors and markers stand "
                  f"for {names(series)}." + (f" Dotted lines mark {dotted}." if dotted else "")
                  + (f" The background is colored up to {margin:g} from 0." if margin else ""))
    return figure


@in_book_style
def tradeoff(table: pd.DataFrame, x: str, y: str, colors: Colors | None = None) -> Figure:
    """Two results against each other, with several points for each series.

    Args:
        table: columns `x`, `y`; index (series, measure): a color with its name at the right, at the height of the last
            point, and a marker. The widest series has the names of the measures.
        x, y: labels of the axes. Dotted lines mark 0 on both; y is linear from -1 to 1 and logarithmic beyond.
        colors: series -> color, as for `lines`.
    """
    check_table("x", "y", table=table)
    check_pairs(table)
    series, measures = (list(dict.fromkeys(table.index.get_level_values(level))) for level in (0, 1))
    colors = _colors(series, colors)
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    widest = max(series, key=lambda name: np.nan_to_num(np.ptp(table.xs(name, level=0)["x"])))
    for name in series:
        part, color = table.xs(name, level=0), colors[name]
        axes.plot(part["x"], part["y"], color=color, linewidth=1)
        for measure, marker in zip(measures, "os^D"):
            axes.plot(*part.loc[measure, ["x", "y"]], marker, color=color, markersize=6)
            if name == widest:  # where the names of the measures have most room
                axes.annotate(str(measure), part.loc[measure, ["x", "y"]], xytext=(0, 7), ha="center",
                              textcoords="offset points", color=ink(color))
    axes.set_yscale("symlog", linthresh=1)
    axes.margins(x=0.12)  # room for the names of the measures
    axes.axvline(0, **LEVEL)
    axes.axhline(0, **LEVEL)
    label(axes, x, y)
    name_lines(axes, {str(name): table.xs(name, level=0)["y"].iloc[-1] for name in series},
               [colors[name] for name in series])
    figure.alt = (f"A scatter plot of {y} against {x}: a color for each of {names(series)}, and a marker for each of "
                  f"{names(measures)}. Dotted lines mark 0.")
    return figure


def _colors(names: Iterable[str], given: Colors | None) -> Colors:
    """A color for each name: the given ones, or those of the palette in their order."""
    if given is None:
        return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}
    check_types(colors=(given, Mapping))
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"colors must have a color for every name, got none for {shorten(missing)}")
    return given
