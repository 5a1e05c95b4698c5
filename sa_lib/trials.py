"""Trials: the confirmatory measurements, under a protocol that was frozen before any was seen.

``results/protocol.json`` has the estimand, the margin, the claims and the seeds; ``results/trials.csv`` the rows that
are there so far. `sa_lib.book.trials` makes them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .checks import check_name, check_types
from .residual import Residual, residual_knowledge

__all__ = ["RESULTS", "protocol", "read", "residual"]

RESULTS = Path(__file__).parent / "results"
STATES = ("as is", "mended")


def protocol() -> dict[str, Any]:
    """The frozen protocol."""
    return json.loads((RESULTS / "protocol.json").read_text(encoding="utf-8"))


def read(path: str | Path = RESULTS / "trials.csv") -> pd.DataFrame:
    """The committed rows of the seeds that have every class.

    Returns:
        Index (class, seed, model, state), where the state is "as is" or "mended"; columns `errors`: an array [N], and,
        as it is, `probability`, `gray`, `accuracy`, `nelbo`, `relearning`, `share` and `digest`; `shortfall`, `date`
        and `processor`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a table.
    """
    check_types(path=(path, (str, Path)))
    if not Path(path).is_file():
        raise FileNotFoundError(f"no table at {path}; make evidence SWEEPS=trials makes one")
    try:
        table = pd.read_csv(path)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a table: {' '.join(str(error).split())}") from None
    if missing := {"class", "seed", "model", "state", "errors"} - set(table.columns):
        raise ValueError(f"{path} is not the table of the trials: it lacks {', '.join(sorted(missing))}")
    complete = table.groupby("seed")["class"].nunique() == table["class"].nunique()
    table = table[table["seed"].map(complete)]
    return table.assign(errors=[np.array(json.loads(text)) for text in table["errors"]]).set_index(
        ["class", "seed", "model", "state"]).sort_index()


def residual(rows: pd.DataFrame, model: str, state: str = "as is", classes: Sequence[int] | None = None) -> Residual:
    """rho of a method over its seeds, for one class or as a ratio of sums over several.

    Args:
        rows: of `read`.
        classes: all of the table by default. Each has the same number of images, so the sum over the images of all
            classes is the sum of the classes' errors.
    """
    check_types(rows=(rows, pd.DataFrame))
    check_name(STATES, state=state)
    check_name(rows.index.unique("model"), model=model)
    digits = list(rows.index.unique("class")) if classes is None else list(classes)

    def errors(name, state):
        own = rows.xs((name, state), level=("model", "state"))["errors"].unstack("class")[digits]
        return torch.tensor(np.stack([np.concatenate(list(row)) for row in own.to_numpy()]))

    return residual_knowledge(errors("never saw", state), errors(model, state), errors("baseline", "as is"))
