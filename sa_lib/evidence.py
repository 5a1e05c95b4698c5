"""Evidence: the committed results of sweeps, read and compared.

``results/evidence.csv`` has a row for each cell that was run: the metrics of
07_methods for one class, one seed and one kind of model. ``provenance.json``
records how each sweep was made. `sa_lib.book.evidence` makes both again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .checks import check_name, check_types, shorten
from .residual import Residual, residual_knowledge

__all__ = ["RESULTS", "THREATS", "TOLERANCE", "differences", "read", "residual", "tidy"]

RESULTS = Path(__file__).parent / "results"
THREATS = ("y on the simplex", "y free")
# Largest accepted difference between a recomputed cell and its committed row. Another machine rounds sums differently,
# so training ends in different weights, much as with another seed.
TOLERANCE = {"nats": 0.6, "gray": 0.02, "rho": 0.35}


def read(path: str | Path = RESULTS / "evidence.csv") -> pd.DataFrame:
    """The table of a sweep of 07_methods, a row a cell; see `sa_lib.sweep.table`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table, or no cell of it succeeded.
    """
    check_types(path=(path, (str, Path)))
    if not Path(path).is_file():
        raise FileNotFoundError(f"no table at {path}; make evidence, or a sweep of 07_methods, makes one")
    try:
        table = pd.read_csv(path, dtype={"error": str}).copy()  # in one piece: so many columns are slow to add to
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a table: {' '.join(str(error).split())}") from None
    _check_columns(table, str(path), ())
    table["error"] = table["error"].fillna("")
    for name, default in (("dataset", "mnist"), ("architecture", "mlp"), ("sweep", "")):
        table[name] = table[name].fillna(default) if name in table else default
    if not (table["error"] == "").any():
        raise ValueError(f"no cell of {path} succeeded; the column 'error' says why")
    return table


def _check_columns(table: pd.DataFrame, name: str, more: Sequence[str]) -> None:
    needed = {"cell", "error", "forget", "seed", "models.baseline.nelbo", "models.retrain.nelbo", *more}
    if missing := needed - set(table.columns):
        raise ValueError(f"{name} is not the table of a sweep of 07_methods: it lacks {', '.join(sorted(missing))}")


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell that succeeded and each model in it.

    Args:
        table: of `read`.

    Returns:
        Index dataset, architecture, forget, seed, model; columns: the numbers of 07_methods for the model
        (`probability`, `gray`, `accuracy`, `nelbo`, `relearning`, `seconds`, `digest`) and, for each threat,
        `errors.<threat>`: an array [N] of the attacker's errors; of "either", the lower of the two for each image.
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
        for measures in models.values():
            measures["errors.either"] = np.minimum(*(measures[f"errors.{threat}"] for threat in THREATS))
        rows += [{**{key: cell[key] for key in keys}, "model": name, **measures} for name, measures in models.items()]
    return (pd.DataFrame(rows).drop_duplicates([*keys, "model"]).set_index([*keys, "model"]).sort_index())


def residual(rows: pd.DataFrame, model: str, forget: int, threat: str) -> Residual:
    """rho of a method for one class, over all its seeds, against all models that never saw the class.

    Args:
        rows: of `tidy`, of one data set and architecture.
    """
    _check_rows(rows)
    check_name(rows.index.unique("forget"), forget=forget)
    check_name(rows.xs(forget, level="forget").index.unique("model"), model=model)
    check_name((*THREATS, "either"), threat=threat)
    column = f"errors.{threat}"
    mine = rows.xs((forget, model), level=("forget", "model"))[column]
    base, never = (rows.xs((forget, name), level=("forget", "model"))[column] for name in ("baseline", "retrain"))
    errors = (torch.tensor(np.stack(list(e))) for e in (never, mine, base.loc[mine.index]))
    return residual_knowledge(*errors)


def differences(rows: pd.DataFrame, measure: str, model: str, other: str) -> pd.Series:
    """`measure` of one model less that of another, in the cells that have both."""
    _check_rows(rows)
    check_name(rows.columns, measure=measure)
    check_name(rows.index.unique("model"), model=model, other=other)
    ours, theirs = (rows.xs(name, level="model")[measure] for name in (model, other))
    return (ours - theirs).dropna()


def _check_rows(rows: pd.DataFrame) -> None:
    check_types(rows=(rows, pd.DataFrame))
    if not {"forget", "seed", "model"} <= set(rows.index.names):
        raise ValueError(f"rows are named by {shorten(list(rows.index.names))}; give rows of tidy")
    if rows.index.has_duplicates:
        raise ValueError("rows have a model of the same class and seed twice; give those of one data set and architecture")
