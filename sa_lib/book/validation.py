"""Make the committed ``results/validation.csv``, or one model of it, and compare; see `sa_lib.validation`."""

import datetime
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from .. import data, trained, validation
from ..attacks import THREATS
from ..labels import CLASSES
from ..methods import METHODS
from ..model import device
from ..store import cache_root, tensor_digest, write_atomically
from ..trained import MENDING, Trained
from ..validation import RESULTS, read
from .cluster import rows_of
from .execution import machine

__all__ = ["CELLS", "check_today", "make"]

COUNT = 100  # targets
SEEDS = (0, 1, 2)
DIGIT = 9
DOSES = (0, 1, 10, 100, 1000, None)  # images of the class; None: all
MENDED = ("ewc_gray", "saliency", "unseen")
UPDATES = (0, 800, 3200)  # of mending
TOLERANCE = 0.1  # of an error, relative: a training on another machine is much as one with another seed
# Each cell is one part of the table, for one seed.
CELLS = [(part, DIGIT, seed) for seed in SEEDS for part in ("mending", "dose", "hidden")]


def make(scheduler: str | None = None) -> int:
    """Make all cells on a cluster, and write the table with its provenance; return the number of cells."""
    table = rows_of(measured, CELLS, scheduler)
    record = {"date": datetime.date.today().isoformat(), "machine": machine(), "targets": COUNT}
    with write_atomically(RESULTS / "validation.csv") as temporary:
        table.to_csv(temporary, index=False)
    with write_atomically(RESULTS / "validation.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return len(CELLS)


def measured(part: str, label: int, seed: int) -> list[dict]:
    """The rows of a cell: for each model and threat model, the errors of the targets."""
    dataset = data.load("mnist")
    targets = data.held_out(dataset, label, COUNT, 0).to(device())
    rows = []
    for dose, model in MODELS[part](dataset, label, seed):
        for threat in ("y on the simplex", "y free"):
            result = trained.reconstruction(model, targets, label, THREATS[threat])
            rows.append({"part": part, "class": label, "seed": seed, **dose, "threat": threat,
                         "errors": json.dumps([round(float(e), 3) for e in result.errors])})
            if part != "mending":
                rows[-1]["shortfall"] = trained.shortfall(model, targets, label, THREATS[threat])
    return rows


def _dose(dataset: data.Dataset, label: int, seed: int) -> Iterator[tuple[dict, Trained]]:
    for count in DOSES:
        images = int((dataset.train_labels == label).sum()) if count is None else count
        yield {"model": "saw", "dose": images}, _saw(dataset, label, seed, images)


def _saw(dataset: data.Dataset, label: int, seed: int, count: int) -> Trained:
    """The model that saw `count` images of a class."""
    few = dataset if count == 0 else validation.with_few(dataset, label, count, seed)
    return trained.cvae(few, seed=seed, without=[label] if count == 0 else [])


def _hidden(dataset: data.Dataset, label: int, seed: int) -> Iterator[tuple[dict, Trained]]:
    behind = (label + 5) % CLASSES
    planted = trained.cvae(validation.hidden(dataset, label, behind), seed=seed)
    yield {"model": "behind a label", "dose": 0}, planted
    for name, net in (("behind a mixture", validation.behind_mixture(planted.net, behind, (behind + 1) % CLASSES)),
                      ("behind a rotation", validation.behind_rotation(planted.net, seed))):
        net = net.to(device())
        yield {"model": name, "dose": 0}, Trained(net, planted.log, planted.seconds, tensor_digest(net.state_dict()))


def _mending(dataset: data.Dataset, label: int, seed: int) -> Iterator[tuple[dict, Trained]]:
    baseline = trained.cvae(dataset, seed=seed)
    models = {"never saw": trained.never_saw(dataset, label, seed=seed)}
    models |= {name: trained.forgotten(baseline, dataset, label, METHODS[name], seed) for name in MENDED}
    for name, model in models.items():
        for steps in UPDATES:
            after = trained.mended(model, dataset, label, replace(MENDING, steps=steps), seed) if steps else model
            yield {"model": name, "dose": steps}, after


MODELS = {"dose": _dose, "hidden": _hidden, "mending": _mending}


def check_today() -> list[str]:
    """Make one model of the committed dose-response again in an empty store, and attack it; print its number.

    Returns:
        the numbers that differ from the committed ones by more than the tolerance.
    """
    table = read().query("part == 'dose'")
    day = datetime.date.today().toordinal()
    cell = table.iloc[day % len(table)]
    now = _made_again(cell)
    then = sum(json.loads(cell["errors"])) / COUNT
    agrees = abs(now / then - 1) <= TOLERANCE
    name = f"saw {cell['dose']} images of {cell['class']}, seed {cell['seed']}, {cell['threat']}"
    print(f"{name:60} {now:9.3f}  committed {then:9.3f}  {'agrees' if agrees else 'DIFFERS'}")
    return [] if agrees else [name]


def _made_again(cell: pd.Series) -> float:
    """The mean error of a row of the dose-response, with a model that is trained and attacked in an empty store."""
    label, seed, count = int(cell["class"]), int(cell["seed"]), int(cell["dose"])
    before = dict(os.environ)
    os.environ.setdefault("SA_DATA", str(cache_root() / "data"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SA_CACHE"] = folder
        try:
            dataset = data.load("mnist")
            source = _saw(dataset, label, seed, count)
            targets = data.held_out(dataset, label, COUNT, 0).to(device())
            return float(trained.reconstruction(source, targets, label, THREATS[cell["threat"]]).errors.mean())
        finally:  # the next check has the store that this one had
            os.environ.clear()
            os.environ.update(before)
