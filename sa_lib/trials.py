"""Trials: the confirmatory measurements, under a protocol that was frozen before any was seen.

``results/protocol.json`` has the estimand, the margin, the claims and the seeds; ``results/trials.csv`` the rows that
are there so far. ``results/methods.csv`` has other methods, on the same baselines; ``results/convolutional.csv`` some
methods on a model of the notebook's layers; ``results/sequential.csv`` two classes, forgotten one after another.
`sa_lib.book.trials` makes these, and `sa_lib.comparison` compares them. ``results/recipe.csv`` has the same measures
of the notebook's recipe, which `sa_lib.book.recipe` makes.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .evidence import read_table

__all__ = ["RESULTS", "STATES", "TOLERANCE", "protocol", "read", "read_recipe"]

RESULTS = Path(__file__).parent / "results"
STATES = ("as is", "mended")
# Largest accepted difference of a number made again from the committed one: of an error, relative; of nats, in nats.
# On another machine a sum is rounded otherwise, and training ends in other weights, much as with another seed.
TOLERANCE = {"error": 0.1, "nats": 0.6}


def protocol() -> dict[str, Any]:
    """The frozen protocol."""
    return json.loads((RESULTS / "protocol.json").read_text(encoding="utf-8"))


def read(path: str | Path = RESULTS / "trials.csv", classes: Collection[int] | None = None) -> pd.DataFrame:
    """The committed rows of the seeds that have every class, in the form of `evidence.tidy`.

    Args:
        classes: that a seed must have; by default those of the protocol.

    Returns:
        Index (forget, seed, model), where "retrain" stands for the models that never saw the class; columns
        `errors.as is` and `errors.mended`: an array [N] of the attacker's errors; `probability`, `gray`, `accuracy`,
        `nelbo` and `relearning` of the model as it is; `share`: see `sa_lib.book.measuring.share`; `shortfall.as is`
        and `shortfall.mended`: see `trained.shortfall`, NaN where it was not measured; `digest`, `date` and
        `processor`. A baseline is not mended: under both conditions it is the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a table, or no seed has every class.
    """
    table = read_table(path, "make evidence SWEEPS=trials makes one", "the trials",
                       ("class", "seed", "model", "state", "errors", "shortfall"))
    classes = protocol()["classes"] if classes is None else classes
    table = table[table["seed"].map(table.groupby("seed")["class"].agg(lambda own: set(own) >= set(classes)))]
    if table.empty:
        raise ValueError(f"{path} must have a seed with all of the classes {', '.join(map(str, classes))}, got none")
    table["model"] = table["model"].replace("never saw", "retrain")
    table = table.rename(columns={"class": "forget"}).set_index(["forget", "seed", "model"]).sort_index()
    as_is, mended = (table[table["state"] == state].drop(columns="state") for state in STATES)
    errors = as_is["errors"].map(_numbers)
    again = {"errors.mended": mended["errors"].map(_numbers).reindex(as_is.index).fillna(errors),
             "shortfall.mended": mended["shortfall"].reindex(as_is.index)}
    return as_is.rename(columns={"shortfall": "shortfall.as is"}).drop(columns="errors").assign(
        **{"errors.as is": errors}, **again)


def read_recipe(path: str | Path = RESULTS / "recipe.csv") -> pd.DataFrame:
    """The committed table of the notebook's recipe in full; see `sa_lib.recipe`.

    Returns:
        Index (class, model, state): the class that the attacker wants; "as is" and, for all but baselines, "mended".
        Columns: `role`: "baseline", "subject" or "never"; `gone`: all classes that the model was made to forget or
        never saw, such as "9 2"; `errors`: an array [N] of the attacker's errors; `probability`, `gray`, `accuracy`,
        `nelbo` and `relearning`; `shortfall`, `digest`, `date` and `processor`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a table.
    """
    table = read_table(path, "make evidence SWEEPS=recipe makes one", "the recipe",
                       ("class", "model", "role", "gone", "state", "errors", "nelbo", "probability"))
    table = table.assign(gone=table["gone"].astype(str), errors=table["errors"].map(_numbers))
    return table.set_index(["class", "model", "state"])


def _numbers(text: str) -> np.ndarray:
    return np.array(json.loads(text))
