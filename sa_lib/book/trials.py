"""Make the tables of trials: those of ``results/protocol.json``, of other methods, of another model, and of a sequence.

`sa_lib.trials` describes the tables, and `measuring` makes their rows. Finished seeds are kept in ``runs/<table>``, so
a run that was stopped goes on where it was. Rows of the committed table are there already: delete it to make all again.
"""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from distributed import as_completed

from ..model import ARCHITECTURES, device
from ..store import write_atomically
from ..training import TrainingConfig
from ..trials import RESULTS, TOLERANCE, protocol
from .cluster import connected, workers_for
from .measuring import Size, in_sequence, measured

__all__ = ["OTHERS", "PUBLISHED", "TABLES", "Table", "check_today", "make"]

# Methods beside the protocol's: they get its baselines, its models that never saw the class, and its measures.
OTHERS = ("ewc_gray_replay", "selective_amnesia_tuned", "gradient_ascent", "neggrad_plus", "gradient_surgery", "salun",
          "uno", "fine_tune")
FEWER_SEEDS = 3  # the first of the protocol, for tables that confirm no claim
PUBLISHED = "selective_amnesia"  # takes 10,000 updates, so it is measured on some classes alone
PUBLISHED_CLASSES = (2, 5, 9)


@dataclass(frozen=True)
class Table:
    """A table of classes and seeds of the protocol.

    Attributes:
        order: classes to forget one after another, see `in_sequence`; by default, each class of the protocol alone.
        methods: by default those of the protocol.
        seeds: the first of the protocol, by default all.
        controls: see `measured`.
        published: whether some classes also have `PUBLISHED`.
    """

    methods: tuple[str, ...] = tuple(protocol()["methods"])
    seeds: int | None = None
    controls: bool = True
    published: bool = False
    size: Size = Size()
    order: tuple[int, ...] = ()

    @property
    def classes(self) -> tuple[int, ...]:
        """Those that it has rows of."""
        return self.order or tuple(protocol()["classes"])

    def rows(self, label: int, seeds: Sequence[int]) -> list[dict]:
        """The rows of a class."""
        if self.order:
            return in_sequence(label, self.order, tuple(seeds), size=self.size)
        some = self.published and label in PUBLISHED_CLASSES
        return measured(label, seeds, size=self.size, methods=[*self.methods, *[PUBLISHED] * some],
                        controls=self.controls)


TABLES = {
    "trials": Table(),
    "methods": Table(OTHERS, FEWER_SEEDS, controls=False, published=True),
    # The notebook's layers. No update has more than half of the training's learning rate.
    "convolutional": Table(("ewc_gray", "distillation"), FEWER_SEEDS, size=Size(
        ARCHITECTURES["conv"], TrainingConfig(epochs=20, batch=128, peak_lr=6e-3), peak_lr=3e-3)),
    "sequential": Table(order=(9, 2)),
}


def make(root: Path, name: str = "trials", seeds: int | None = None, scheduler: str | None = None) -> int:
    """Make the missing rows on a cluster, and write the table; return the number of classes times seeds in it.

    Args:
        name: in `TABLES`.
        seeds: only the first of the protocol.
    """
    table, path = TABLES[name], RESULTS / f"{name}.csv"
    chosen = protocol()["seeds"][:table.seeds][:seeds]
    folder = root / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    _adopt(path, folder)
    missing = [(label, seed) for seed in chosen for label in table.classes if not _kept(folder, label, seed)]
    print(f"{name}: {len(missing)} of {len(table.classes) * len(chosen)} are missing", flush=True)
    if device().type == "cuda":  # in this process, for a GPU is faster with one large stack than with several small
        for label in dict.fromkeys(label for label, _ in missing):
            _keep(folder, label, table.rows(label, [seed for own, seed in missing if own == label]))
    else:
        with connected(scheduler, workers_for(os.cpu_count() or 1)) as client:
            futures = {client.submit(table.rows, label, [seed], pure=False, priority=-place): label
                       for place, (label, seed) in enumerate(missing)}
            for future in as_completed(futures):
                _keep(folder, futures[future], future.result())
    kept = [row for seed in chosen for label in table.classes for row in _kept(folder, label, seed)]
    with write_atomically(path) as temporary:
        pd.DataFrame(kept).to_csv(temporary, index=False)
    return len({(row["class"], row["seed"]) for row in kept})


def _keep(folder: Path, label: int, rows: Sequence[Mapping[str, Any]]) -> None:
    for seed in sorted({row["seed"] for row in rows}):
        with write_atomically(folder / f"{label}-{seed}.json") as temporary:
            temporary.write_text(json.dumps([row for row in rows if row["seed"] == seed]), encoding="utf-8")
        print(f"class {label}, seed {seed}", flush=True)


def _adopt(path: Path, folder: Path) -> None:
    """Keep the rows of a committed table in the folder too, where it has none of their class and seed."""
    if path.is_file():
        for (label, seed), rows in pd.read_csv(path).groupby(["class", "seed"]):
            if not _kept(folder, label, seed):
                _keep(folder, label, rows.astype(object).where(rows.notna(), None).to_dict("records"))


def _kept(folder: Path, label: int, seed: int) -> list[dict]:
    """The rows that were made before; empty if there are none, or damaged ones."""
    try:
        return json.loads((folder / f"{label}-{seed}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def check_today() -> list[str]:
    """Make one method for one class and seed of the committed table again, chosen by the date, and print its numbers.

    A GPU draws other random numbers, as another seed would. So the row is one that was made on the same kind of device.

    Returns:
        the numbers that differ from the committed ones by more than `TOLERANCE`.
    """
    table = pd.read_csv(RESULTS / "trials.csv").set_index(["class", "seed", "model", "state"]).sort_index()
    day = datetime.date.today().toordinal()
    alike = table["processor"].str.startswith("NVIDIA") == (device().type == "cuda")
    cells = table.loc[table["share"].notna() & alike].index  # the methods, as they are
    label, seed, method, _ = cells[7 * day % len(cells)]  # the next day has another class or seed
    print(f"{method}: forget {label}, seed {seed}, made {table.loc[(label, seed, method), 'date'].iloc[0]}")
    differing = []
    for row in measured(int(label), [int(seed)], methods=[method]):
        then = table.loc[(label, seed, row["model"], row["state"])]
        numbers = {"error": [sum(errors := json.loads(one["errors"])) / len(errors) for one in (row, then)]}
        if row["state"] == "as is":
            numbers["nats"] = [row["nelbo"], then["nelbo"]]
        for kind, (now, committed) in numbers.items():
            agrees = abs(now - committed) <= TOLERANCE[kind] * (committed if kind == "error" else 1)
            name = f"{row['model']}, {row['state']}: {kind}"
            print(f"{name:40} {now:9.3f}  committed {committed:9.3f}  {'agrees' if agrees else 'DIFFERS'}")
            differing += [] if agrees else [name]
    return differing
