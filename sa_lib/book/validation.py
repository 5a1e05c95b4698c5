"""Make the committed ``results/validation.csv``, or one model of it, and compare; see `sa_lib.validation`."""

import datetime
import functools
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import torch
from torch.nn import functional as F

from .. import data, trained, validation
from ..attacks import THREATS
from ..decoders import with_prior
from ..labels import CLASSES
from ..methods import METHODS
from ..model import ModelConfig, device
from ..reconstruction import SearchConfig, reconstruct
from ..store import cache_root, tensor_digest, write_atomically
from ..trained import MENDING, Trained
from ..unlearning import UnlearningConfig
from ..validation import RESULTS, WITH_PRIOR, read
from .cluster import rows_of
from .execution import machine

__all__ = ["CELLS", "check_today", "make"]

COUNT = 100  # targets
SEEDS = (0, 1, 2)
DIGIT = 9
DOSES = (0, 1, 10, 100, 1000, None)  # images of the class; None: all
SECOND = 2  # is forgotten after it
MENDED = ("ewc_gray", "saliency", "unseen")
SEQUENTIAL = ("ewc_gray", "unseen")
UPDATES = (0, 800, 3200)  # of mending
LENGTHS = (0, 800, 3200, 10_000)  # updates after the training of a model that never saw the class
LATENTS = (2, 25, 64)  # further lengths of z
PENALIZED = (8, 25, 64)  # lengths of z of models that are attacked with its prior in the error too
TARGETS = {"first images": slice(0, None), "first half": slice(0, 5000), "second half": slice(5000, None)}
FREE = ("dose", "hidden", "mending")  # parts with an attack with y free as well
TOLERANCE = 0.1  # of an error, relative: a training on another machine is much as one with another seed
# Each cell is one part of the table, for one seed.
PARTS = ("mending", "dose", "hidden", "alike", "updates", *(f"latent {size}" for size in LATENTS), *TARGETS,
         *(f"prior {size}" for size in PENALIZED), "sequence 9", "sequence 2")
CELLS = [(part, SECOND if part == "sequence 2" else DIGIT, seed) for part in PARTS for seed in SEEDS]


def make(scheduler: str | None = None) -> int:
    """Make the missing cells on a cluster, and write the table with its provenance; return the number of its rows.

    To make a cell again, take its rows out of the table.
    """
    path, columns = RESULTS / "validation.csv", ["part", "class", "seed"]
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=columns)
    there = set(table[columns].itertuples(index=False, name=None))
    table = pd.concat([table, rows_of(measured, [cell for cell in CELLS if cell not in there], scheduler)])
    record = {"date": datetime.date.today().isoformat(), "machine": machine(), "targets": COUNT}
    with write_atomically(path) as temporary:
        table.to_csv(temporary, index=False)
    with write_atomically(RESULTS / "validation.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return len(table)


def measured(part: str, label: int, seed: int) -> list[dict]:
    """The rows of a cell: for each model and threat model, the errors of the targets and the shortfall."""
    dataset = data.load("mnist")
    targets = _targets(dataset, label, part).to(device())
    rows = []
    for dose, model in _models(dataset, part, label, seed):
        if part.startswith("prior"):
            errors, short = _penalized(model, targets, label)
            rows.append({"part": part, "class": label, "seed": seed, **dose, "threat": WITH_PRIOR,
                         "errors": _written(errors), "shortfall": short})
            continue
        for threat in ("y on the simplex", "y free") if part in FREE else ("y on the simplex",):
            result = trained.reconstruction(model, targets, label, THREATS[threat])
            rows.append({"part": part, "class": label, "seed": seed, **dose, "threat": threat,
                         "errors": _written(result.errors),
                         "shortfall": trained.shortfall(model, targets, label, THREATS[threat])})
    return rows


def _written(errors: torch.Tensor) -> str:
    return json.dumps([round(float(error), 3) for error in errors])


def _penalized(model: Trained, targets: torch.Tensor, label: int) -> tuple[torch.Tensor, float]:
    """E + ‖z‖² / 2 of each target, and the shortfall, as `trained.shortfall` has it."""
    decoder, some = with_prior(model.net), max(1, len(targets) // 5)
    padded = F.pad(targets.flatten(1), (0, decoder.latent_dim))
    attack = functools.partial(reconstruct, decoder, label=label, threat=THREATS["y on the simplex"])
    result = attack(padded)
    config = SearchConfig()
    longer = attack(padded[:some], config=replace(config, rounds=10 * config.rounds), seed=1,
                    weaker=result.of(slice(some)).end)
    return result.errors, float(1 - longer.errors.mean() / result.errors[:some].mean())


def _targets(dataset: data.Dataset, label: int, part: str) -> torch.Tensor:
    """Random test images of a class; for some parts the first ones, or those of a half of the test set."""
    if part == "first images":
        return dataset.test_images[dataset.test_labels == label][:COUNT]
    half = TARGETS.get(part, slice(None))
    some = replace(dataset, test_images=dataset.test_images[half], test_labels=dataset.test_labels[half])
    return data.held_out(some, label, COUNT, 0)


def _models(dataset: data.Dataset, part: str, label: int, seed: int) -> Iterator[tuple[dict, Trained]]:
    """The entries of a row for each model of a part, and the model."""
    if part in TARGETS:
        return _few_models(dataset, label, seed)
    kind, _, size = part.partition(" ")
    if kind in ("latent", "prior"):
        return _latent(dataset, label, seed, int(size))
    return MODELS[kind](dataset, label, seed)


def _dose(dataset: data.Dataset, label: int, seed: int) -> Iterator[tuple[dict, Trained]]:
    for count in DOSES:
        images = int((dataset.train_labels == label).sum()) if count is None else count
        yield {"model": "saw", "dose": images}, _saw(dataset, label, seed, images)


def _saw(dataset: data.Dataset, label: int, seed: int, count: int, alike: bool = False,
         config: ModelConfig = ModelConfig()) -> Trained:
    """The model that saw `count` images of a class."""
    few = dataset if count == 0 else validation.with_few(dataset, label, count, seed, alike)
    return trained.cvae(few, config, seed=seed, without=[label] if count == 0 else [])


def _alike(dataset: data.Dataset, label: int, seed: int) -> Iterator[tuple[dict, Trained]]:
    for count in (10, 100):
        yield {"model": "saw", "dose": count}, _saw(dataset, label, seed, count, alike=True)


def _latent(dataset: data.Dataset, label: int, seed: int, size: int) -> Iterator[tuple[dict, Trained]]:
    for count in (0, 100, None):
        images = int((dataset.train_labels == label).sum()) if count is None else count
        yield {"model": "saw", "dose": images}, _saw(dataset, label, seed, images,
                                                     config=ModelConfig(latent_dim=size))


def _few_models(dataset: data.Dataset, label: int, seed: int) -> Iterator[tuple[dict, Trained]]:
    baseline = trained.cvae(dataset, seed=seed)
    yield {"model": "baseline", "dose": 0}, baseline
    yield {"model": "never saw", "dose": 0}, trained.never_saw(dataset, label, seed=seed)
    yield {"model": "ewc_gray", "dose": 0}, trained.forgotten(baseline, dataset, label, METHODS["ewc_gray"], seed)


def _updates(dataset: data.Dataset, label: int, seed: int) -> Iterator[tuple[dict, Trained]]:
    plain = trained.cvae(dataset, seed=seed, without=[label])
    for steps in LENGTHS:
        yield {"model": "never saw", "dose": steps}, trained.mended(
            plain, dataset, label, replace(UnlearningConfig(), steps=steps), seed) if steps else plain


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


def _sequence(dataset: data.Dataset, label: int, seed: int) -> Iterator[tuple[dict, Trained]]:
    """Models that forgot one class and then another, whichever of the two is attacked."""
    baseline, both = trained.cvae(dataset, seed=seed), (DIGIT, SECOND)
    yield {"model": "baseline", "dose": 0}, baseline
    models = {"never saw": trained.never_saw(dataset, both, rounds=2, seed=seed)}
    for name in SEQUENTIAL:
        first = trained.forgotten(baseline, dataset, DIGIT, METHODS[name], seed)
        models[name] = trained.forgotten(first, dataset, both, METHODS[name], seed)
    for name, model in models.items():
        yield {"model": name, "dose": 0}, model
        yield {"model": name, "dose": MENDING.steps}, trained.mended(model, dataset, both, MENDING, seed)


MODELS = {"dose": _dose, "alike": _alike, "hidden": _hidden, "mending": _mending, "updates": _updates,
          "sequence": _sequence}


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
        os.environ.pop("SA_MODELS", None)  # an archive would fill the store, and nothing would be made
        try:
            dataset = data.load("mnist")
            source = _saw(dataset, label, seed, count)
            targets = data.held_out(dataset, label, COUNT, 0).to(device())
            return float(trained.reconstruction(source, targets, label, THREATS[cell["threat"]]).errors.mean())
        finally:  # the next check has the store that this one had
            os.environ.clear()
            os.environ.update(before)
