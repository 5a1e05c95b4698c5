"""Evidence: the committed results of sweeps, read and put in order.

``results/evidence.csv`` has a row for each cell that was run: the metrics of
07_methods for one class, one seed and one kind of model. ``provenance.json``
records how each sweep was made. `sa_lib.book.evidence` makes both again.
`sa_lib.trials` reads rows of the same form from another table, and
`sa_lib.comparison` compares methods and classes.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .checks import check_name, check_types, shorten
from .residual import Residual, interval, residual_knowledge

__all__ = ["RESULTS", "Estimate", "by_seed", "check_cells", "check_columns", "check_rows", "complete", "conditions",
           "differences", "estimate", "failures", "origin", "overall", "overview", "read", "read_table", "residual",
           "split", "tidy"]

RESULTS = Path(__file__).parent / "results"
SEARCH = "search for settings"


def read_table(path: str | Path, made: str, kind: str = "", columns: Collection[str] = ()) -> pd.DataFrame:
    """The table of a CSV file.

    Args:
        made: how to make the file, for the message if there is none.
        kind: "the trials", for example, for the message if the table lacks one of the `columns`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a table, or lacks a column.
    """
    check_types(path=(path, (str, Path)), made=(made, str))
    if not Path(path).is_file():
        raise FileNotFoundError(f"no table at {path}; {made}")
    try:
        # Without errors, the column of their texts is empty. In one piece: so many columns are slow to add to.
        table = pd.read_csv(path, dtype={"error": str}).copy()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a table: {' '.join(str(error).split())}") from None
    check_columns(table, str(path), kind, columns)
    return table


def check_columns(table: pd.DataFrame, name: str, kind: str, columns: Collection[str]) -> None:
    """Refuse a table, called `name` in the message, that is not one of this kind, for it lacks some of the columns."""
    if missing := set(columns) - set(table.columns):
        raise ValueError(f"{name} is not the table of {kind}: it lacks {', '.join(sorted(missing))}")


def read(path: str | Path = RESULTS / "evidence.csv") -> pd.DataFrame:
    """The table of a sweep of 07_methods, a row a cell; see `sa_lib.book.sweep.table`.

    Where the table lacks `dataset`, `architecture`, `longest` or `sweep`, it gets their defaults.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a table, or no cell of it succeeded.
    """
    table = read_table(path, "make evidence, or a sweep of 07_methods, makes one")
    _check_columns(table, str(path), ())
    table["error"] = table["error"].fillna("")
    for name, default in (("dataset", "mnist"), ("architecture", "mlp"), ("longest", 10_000), ("sweep", "")):
        table[name] = table[name].fillna(default) if name in table else default
    if not (table["error"] == "").any():
        raise ValueError(f"no cell of {path} succeeded; the column 'error' says why")
    return table


def _check_columns(table: pd.DataFrame, name: str, more: Sequence[str]) -> None:
    needed = {"cell", "error", "forget", "seed", "models.baseline.nelbo", "models.retrain.nelbo", *more}
    check_columns(table, name, "a sweep of 07_methods", needed)


def split(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The cells of the main part, those of other data and models, and those of the search for settings.

    The main part is MNIST with the mlp; if no cell of these succeeded, it is the data set and the model of the first
    cell that did.

    Args:
        table: as from `read`.

    Raises:
        ValueError: no cell outside the search succeeded.
    """
    check_cells(table=table)
    searched = table["sweep"].str.startswith("search-")
    succeeded = table[~searched & (table["error"] == "")]
    if succeeded.empty:
        raise ValueError("table must have a cell that succeeded outside the search for settings, got none")

    def part(dataset: str, architecture: str) -> pd.Series:
        return (table["dataset"] == dataset) & (table["architecture"] == architecture) & ~searched

    main = part("mnist", "mlp")
    if not main[succeeded.index].any():
        main = part(*succeeded.iloc[0][["dataset", "architecture"]])
    return table[main], table[~main & ~searched], table[searched]


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """The size of a table.

    Args:
        table: as from `read`.

    Returns:
        Index `part`: "data set, architecture", or the search for settings; columns `cells`, `failed` (cells),
        `classes` and `seeds` (different ones), and `hours` of work of single cores (NaN where not recorded).
    """
    check_cells(table=table)
    part = (table["dataset"] + ", " + table["architecture"]).mask(table["sweep"].str.startswith("search-"), SEARCH)
    return pd.DataFrame([
        {"part": name, "cells": len(cells), "failed": int((cells["error"] != "").sum()),
         "classes": cells["forget"].nunique(), "seeds": cells["seed"].nunique(dropna=False),
         "hours": cells["seconds"].sum() / 3600 if "seconds" in cells else np.nan}
        for name, cells in table.groupby(part, sort=False)]).set_index("part")


def origin(table: pd.DataFrame) -> dict[str, str]:
    """When and on which machines a table was made: `dates`, `torch`, `processors` and `cores` as text for a page."""
    check_cells(table=table)
    columns = {"dates": "date", "torch": "machine.torch", "processors": "machine.processor", "cores": "machine.cores"}
    values = {name: sorted(table[column].dropna().unique()) if column in table else []
              for name, column in columns.items()}
    return {name: " and ".join(f"{value:.0f}" if isinstance(value, float) else str(value) for value in distinct)
            or "unknown" for name, distinct in values.items()}


def failures(table: pd.DataFrame) -> pd.DataFrame:
    """The cells that failed: index `cell`, column `error` in one sentence; no rows if none failed."""
    check_cells(table=table)
    return table[table["error"] != ""].set_index("cell")[["error"]]


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell that succeeded and each model in it.

    Args:
        table: as from `read`.

    Returns:
        Index dataset, architecture, forget, seed, model; columns: the numbers of 07_methods for the model
        (`probability`, `gray`, `accuracy`, `nelbo`, `relearning`, `seconds`, `digest`) and, for each condition,
        `errors.<condition>`: an array [N] of the attacker's errors.
    """
    check_types(table=(table, pd.DataFrame))
    keys = ["dataset", "architecture", "forget", "seed"]
    _check_columns(table, "table", keys)
    rows = []
    for _, cell in table[table["error"] == ""].iterrows():
        models: dict[str, dict[str, Any]] = {}
        for column, value in cell.items():
            if column.startswith("models.") and not pd.isna(value):
                _, model, measure = column.split(".", 2)
                models.setdefault(model, {})[measure] = (
                    np.array(json.loads(value)) if measure.startswith("errors.") else value)
        rows += [{**{key: cell[key] for key in keys}, "model": name, **measures} for name, measures in models.items()]
    return (pd.DataFrame(rows).drop_duplicates([*keys, "model"]).set_index([*keys, "model"]).sort_index())


def conditions(rows: pd.DataFrame) -> list[str]:
    """The conditions under which the models of these rows were attacked: threat models, or states of a model."""
    check_rows(rows)
    return [name.removeprefix("errors.") for name in rows.columns if name.startswith("errors.")]


def complete(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Those of the named methods that the rows have for every class.

    Raises:
        ValueError: there is no such method.
    """
    check_rows(rows)
    check_types(names=(names, Sequence))
    classes = rows.index.to_frame(index=False).groupby("model")["forget"].nunique()
    methods = [name for name in names if isinstance(name, str)
               and classes.get(name) == rows.index.unique("forget").size]
    if not methods:
        raise ValueError(f"names must have a method that the table has for every class, got {shorten(list(names))}")
    return methods


def residual(rows: pd.DataFrame, model: str, forget: int, condition: str) -> Residual:
    """rho of a method for one class, over all its seeds, against all models that never saw the class.

    Args:
        rows: as from `tidy`, of one data set and architecture.
        condition: one of `conditions`.
    """
    check_rows(rows)
    check_name(rows.index.unique("forget"), forget=forget)
    check_name(rows.xs(forget, level="forget").index.unique("model"), model=model)
    check_name(conditions(rows), condition=condition)
    unlearned, base, never = (rows.xs((forget, name), level=("forget", "model"))[f"errors.{condition}"]
                              for name in (model, "baseline", "retrain"))
    return _rho(never, unlearned, base)


def overall(rows: pd.DataFrame, model: str, condition: str) -> Residual:
    """The same over all classes, as a ratio of sums: each class weighs by its gap, so that none divides by little.

    The classes are fixed and the seeds random: a seed counts if it has every class, as one model.

    Returns:
        Undefined if no seed has every class.
    """
    check_rows(rows)
    check_name(rows.index.unique("model"), model=model)
    check_name(conditions(rows), condition=condition)
    unlearned, base, never = (_joined(rows.xs(name, level="model")[f"errors.{condition}"])
                              for name in (model, "baseline", "retrain"))
    if never.empty or unlearned.empty:
        return Residual(np.nan)
    return _rho(never, unlearned, base)


def _joined(errors: pd.Series) -> pd.Series:
    """The errors of each seed that has every class, one after another; each class has the same weight in the mean."""
    table = errors.unstack("forget").dropna()
    count = np.mean([len(errors) for errors in table.iloc[0]]) if len(table) else 0
    return pd.Series({seed: np.concatenate([own * (count / len(own)) for own in row])
                      for seed, row in zip(table.index, table.to_numpy(), strict=True)}, dtype=object)


def _rho(never: pd.Series, unlearned: pd.Series, base: pd.Series) -> Residual:
    """rho from errors [N] by seed; each unlearned model has the baseline of its seed."""
    return residual_knowledge(*(torch.tensor(np.stack(list(errors)))
                                for errors in (never, unlearned, base.loc[unlearned.index])))


def differences(rows: pd.DataFrame, measure: str, model: str, other: str) -> pd.Series:
    """`measure` of one model less that of another, in the cells that have both."""
    check_rows(rows)
    check_name(rows.columns, measure=measure)
    check_name(rows.index.unique("model"), model=model, other=other)
    ours, theirs = (rows.xs(name, level="model")[measure] for name in (model, other))
    return (ours - theirs).dropna()


def by_seed(values: pd.Series) -> pd.Series:
    """Numbers of cells as a mean over the classes for each seed that has every class: independent of each other.

    All classes of a seed share a baseline, so the cells of a seed are no independent numbers.

    Args:
        values: with the levels forget and seed in the index.
    """
    check_types(values=(values, pd.Series))
    if not {"forget", "seed"} <= set(values.index.names):
        raise ValueError(f"values must have the levels forget and seed, got {shorten(list(values.index.names))}")
    return values.unstack("forget").dropna().mean(axis=1)


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 and 90 % intervals; all are NaN without values, and the ends with a single value."""

    mean: float
    low: float = np.nan
    high: float = np.nan
    low90: float = np.nan
    high90: float = np.nan

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return "–"
        ends = "(no interval)" if np.isnan(self.low) else f"[{self.low:+z.2f}, {self.high:+z.2f}]"
        return f"{self.mean:+z.2f} {ends}"


def estimate(values: Sequence[float], scale: float = 1.0) -> Estimate:
    """The mean of `scale` times the values, with its intervals by Student's t; see `residual.interval`.

    Args:
        values: independent of each other, as those of `by_seed`.
    """
    check_types(values=(values, (Sequence, np.ndarray, pd.Series)), scale=(scale, (int, float)))
    if not len(values):
        return Estimate(np.nan)
    (mean, *ends), (_, *ends90) = (interval(values, level) for level in (0.95, 0.90))
    return Estimate(scale * mean, *sorted(scale * end for end in ends), *sorted(scale * end for end in ends90))


def check_cells(**tables: pd.DataFrame) -> None:
    """Refuse anything but cells of `read`."""
    for name, table in tables.items():
        check_types(**{name: (table, pd.DataFrame)})
        _check_columns(table, name, ("dataset", "architecture", "sweep"))


def check_rows(rows: pd.DataFrame) -> None:
    """Refuse anything but rows of `tidy`, of one data set and architecture."""
    check_types(rows=(rows, pd.DataFrame))
    if not {"forget", "seed", "model"} <= set(rows.index.names):
        raise ValueError(f"rows must be rows of tidy, got rows named by {shorten(list(rows.index.names))}")
    if rows.index.has_duplicates:
        raise ValueError("rows must be of one data set and architecture, got a model of the same class and seed twice")
