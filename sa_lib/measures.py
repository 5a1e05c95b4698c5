"""Measures: title, format, unit and direction of every number that tables, figures, pages and checks show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .checks import check_names, check_types, shorten

__all__ = ["MEASURES", "Measure", "before_after", "label", "listing", "write"]


@dataclass(frozen=True)
class Measure:
    """How a number is shown and read.

    Attributes:
        title: its name in a table or at an axis.
        format: for `str.format`, of one value.
        unit: behind the title; "" for a share or a plain number.
        better: "higher", "lower", or "" if neither is.
    """

    title: str
    format: str
    unit: str = ""
    better: str = ""


# The columns of `evaluation.evaluate`, `attacks.score` and the chapters' metrics, by name.
MEASURES = {
    "probability": Measure("judge B's probability", "{:.3f}"),
    "accuracy": Measure("judge B's accuracy", "{:.1%}", better="higher"),
    "not_a_digit": Measure("not a digit", "{:.3f}"),
    "entropy": Measure("entropy", "{:.2f}", "nats"),
    "gray": Measure("distance to gray", "{:.4f}"),
    "nelbo": Measure("negative ELBO", "{:.2f}", "nats", "lower"),
    "reconstruction": Measure("reconstruction error", "{:.1f}", better="lower"),
    "fid": Measure("FID", "{:.1f}", better="lower"),
    "precision": Measure("precision", "{:.2f}", better="higher"),
    "recall": Measure("recall", "{:.2f}", better="higher"),
    "density": Measure("density", "{:.2f}", better="higher"),
    "coverage": Measure("coverage", "{:.2f}", better="higher"),
    "seconds": Measure("time", "{:.0f}", "s", "lower"),
    "share": Measure("share of training", "{:.0%}", better="lower"),
    "ratio": Measure("times a plain pass", "{:.2f}", better="lower"),
    "nats_lost": Measure("nats lost", "{:+z.2f}", "nats", "lower"),
    "points_lost": Measure("points lost", "{:+z.2f}", "points", "lower"),
    "relapse": Measure("relapse", "{:+.4f}", better="lower"),
    "loss": Measure("attacker's loss", "{:.2f}", better="lower"),
    "success": Measure("success", "{:.0%}"),
    "nearest": Measure("nearest real image", "{:.1f}"),
    "relearning": Measure("relearning", "{:.2f}"),
    "rho": Measure("ρ", "{:+z.2f}"),
    "abs_rho": Measure("|ρ|", "{:.2f}", better="lower"),
    "mean_abs_rho": Measure("mean |ρ|", "{:.2f}", better="lower"),
    "placebo": Measure("mean |ρ|, placebo", "{:.2f}"),
    "cell_rho": Measure("ρ of a cell", "{:+z.2f}"),
    "cell_abs_rho": Measure("|ρ| of a cell", "{:.2f}"),
    "count": Measure("count", "{:.0f}", better="higher"),
    "resolution": Measure("gap in spreads of the controls", "{:.0f}", better="higher"),
    "sooner": Measure("relearning, less a retrained model's", "{:+z.2f}"),
    "ece": Measure("calibration error", "{:.4f}", better="lower"),
    "silhouette": Measure("silhouette", "{:.2f}"),
    "cka": Measure("CKA", "{:.2f}"),
    "moved": Measure("relative change", "{:.1%}"),
    "rank correlation": Measure("rank correlation with the Fisher", "{:+z.2f}"),
    "top": Measure("share on the top tenth", "{:.1%}"),
    "norm_z": Measure("norm of z", "{:.1f}"),
    "norm_y": Measure("norm of y", "{:.1f}"),
    "y_class": Measure("y at the class", "{:.2f}"),
}


def label(name: str) -> str:
    """The title of a measure with its unit; any other name as it is."""
    if name not in MEASURES:
        return name
    measure = MEASURES[name]
    return f"{measure.title}, {measure.unit}" if measure.unit and measure.unit not in measure.title else measure.title


def write(name: str, value: Any) -> str:
    """A value in the format of its measure; a dash where there is none."""
    if not isinstance(name, str) or name not in MEASURES:
        raise ValueError(f"name must be one of the names in MEASURES, got {shorten(name)}")
    return "–" if value is None or value != value else MEASURES[name].format.format(value)


def listing(name: str, values: Mapping[str, Any] | pd.Series) -> str:
    """The values of one measure as text, for a caption: "0.4600 (baseline), 0.0004 (forgot 9)"."""
    check_types(values=(values, (Mapping, pd.Series)))
    return ", ".join(f"{write(name, value)} ({key})" for key, value in values.items())


def before_after(before: pd.DataFrame, after: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Two tables as one, with "old → new" in each cell, and the titles of the measures as columns.

    Raises:
        ValueError: a name is not a measure, a table lacks it, or the tables do not have the same rows in one order.
    """
    check_types(before=(before, pd.DataFrame), after=(after, pd.DataFrame))
    if not before.index.equals(after.index):
        raise ValueError(f"after must have the rows of before, {shorten(list(before.index))}, "
                         f"got {shorten(list(after.index))}")
    check_names([name for name in MEASURES if name in before and name in after], names=names)
    return pd.DataFrame({label(name): [f"{write(name, old)} → {write(name, new)}"
                                       for old, new in zip(before[name], after[name], strict=True)]
                         for name in names}, index=before.index)
