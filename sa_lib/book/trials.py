"""Make the confirmatory trials of ``results/protocol.json``, those of other methods, and of another model.

`sa_lib.trials` describes the tables.

The models of a class are trained, made to forget, mended and attacked side by side, see `sa_lib.stack`: on a GPU those
of all seeds at once, on processor cores those of one seed at a time. Finished seeds are kept in ``runs/<table>``, so a
run that was stopped goes on where it was. Rows of the committed table are there already: delete it to make all again.
"""

import datetime
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from distributed import as_completed

from .. import data, fisher, stack, trained
from ..attacks import THREATS
from ..data import Dataset
from ..fisher import Diagonal
from ..judges import Judge, JudgeConfig
from ..labels import CLASSES, retain_set
from ..methods import METHODS, Method, distance_to_gray, fine_tune
from ..model import ARCHITECTURES, ModelConfig, device
from ..reconstruction import SearchConfig
from ..stack import Stack
from ..store import tensor_digest, write_atomically
from ..threats import AttackResult
from ..trained import MENDING
from ..training import TrainingConfig
from ..trials import RESULTS, TOLERANCE, protocol
from ..unlearning import UnlearningConfig
from .cluster import connected, workers_for
from .execution import machine

__all__ = ["OTHERS", "TABLES", "Size", "Table", "check_today", "further", "make", "measured", "measures_of", "share"]

SAMPLES = 500  # drawn for each class to measure a model
FEW = 100  # training images of the class to learn it again
# Methods beside the protocol's: they get its baselines, its models that never saw the class, and its measures.
OTHERS = ("ewc_gray_replay", "selective_amnesia_tuned", "gradient_ascent", "neggrad_plus", "gradient_surgery", "salun",
          "uno", "fine_tune")
FEWER_SEEDS = 3  # the first of the protocol, for tables that confirm no claim
PUBLISHED = "selective_amnesia"  # takes 10,000 updates, so it is measured on some classes alone
PUBLISHED_CLASSES = (2, 5, 9)
# Models at once, as far as the memory of a GPU allows.
BLOCKS = {"mlp": 64, "conv": 8}
CHECKED = 3  # the convergence of the attack is checked on each class that is a multiple of it, for the first seed


@dataclass(frozen=True)
class Size:
    """The size of the trials; a test has a smaller one than the book.

    Attributes:
        longest: the most updates of a method or of mending.
        peak_lr: the highest learning rate of a method or of mending.
    """

    shape: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    search: SearchConfig = SearchConfig()
    longest: int = 10_000
    peak_lr: float = 1.0

    def capped(self, config: UnlearningConfig) -> UnlearningConfig:
        """A configuration within the limits."""
        return replace(config, steps=min(config.steps, self.longest), peak_lr=min(config.peak_lr, self.peak_lr))


@dataclass(frozen=True)
class Table:
    """A table of all classes of the protocol.

    Attributes:
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

    def rows(self, label: int, seeds: Sequence[int]) -> list[dict]:
        """The rows of a class."""
        some = self.published and label in PUBLISHED_CLASSES
        return measured(label, seeds, size=self.size, methods=[*self.methods, *[PUBLISHED] * some],
                        controls=self.controls)


TABLES = {
    "trials": Table(),
    "methods": Table(OTHERS, FEWER_SEEDS, controls=False, published=True),
    # The notebook's layers. No update has more than half of the training's learning rate.
    "convolutional": Table(("ewc_gray", "distillation"), FEWER_SEEDS, size=Size(
        ARCHITECTURES["conv"], TrainingConfig(epochs=20, batch=128, peak_lr=6e-3), peak_lr=3e-3)),
}


def make(root: Path, name: str = "trials", seeds: int | None = None, scheduler: str | None = None) -> int:
    """Make the missing rows on a cluster, and write the table; return the number of classes times seeds in it.

    Args:
        name: in `TABLES`.
        seeds: only the first of the protocol.
    """
    frozen, table, path = protocol(), TABLES[name], RESULTS / f"{name}.csv"
    chosen = frozen["seeds"][:table.seeds][:seeds]
    folder = root / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    _adopt(path, folder)
    missing = [(label, seed) for seed in chosen for label in frozen["classes"] if not _kept(folder, label, seed)]
    print(f"{name}: {len(missing)} of {len(frozen['classes']) * len(chosen)} are missing", flush=True)
    if device().type == "cuda":  # in this process, for a GPU is faster with one large stack than with several small
        for label in dict.fromkeys(label for label, _ in missing):
            _keep(folder, label, table.rows(label, [seed for own, seed in missing if own == label]))
    else:
        with connected(scheduler, workers_for(os.cpu_count() or 1)) as client:
            futures = {client.submit(table.rows, label, [seed], pure=False, priority=-place): label
                       for place, (label, seed) in enumerate(missing)}
            for future in as_completed(futures):
                _keep(folder, futures[future], future.result())
    kept = [row for seed in chosen for label in frozen["classes"] for row in _kept(folder, label, seed)]
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


def measured(label: int, seeds: Sequence[int], dataset: Dataset | None = None, size: Size = Size(),
             methods: Sequence[str] | None = None, controls: bool = True) -> list[dict]:
    """The rows of a class: for each seed, one for each model as it is, and one for each mended model.

    Args:
        dataset: the protocol's by default.
        size: of the models and of their training, by default that of the book.
        methods: the protocol's by default.
        controls: whether there are rows of the baseline, which is not mended, and of a model that never saw the class.
    """
    frozen, dataset = protocol(), dataset or _images()
    chosen = {name: replace(METHODS[name], config=size.capped(METHODS[name].config))
              for name in methods or frozen["methods"]}
    base = _baselines(tuple(seeds), dataset, size)
    models = {}
    if controls:
        never = stack.train(dataset, size.shape, size.training, seeds, [label])
        plain = further(size.capped(UnlearningConfig()))
        models = {"baseline": base, "never saw": stack.forget(never, dataset, label, plain, seeds)}
    counts = {k: int((dataset.train_labels == k).sum()) for k in retain_set(label)}
    protect = ([fisher.combine(own, counts) for own in _fishers(tuple(seeds), dataset, size)]
               if any(method.config.ewc for method in chosen.values()) else [])
    of_samples = ([fisher.own_fisher(model, seed) for model, seed in zip(base.models(), seeds, strict=True)]
                  if any(method.own for method in chosen.values()) else [])
    for name, method in chosen.items():
        models[name] = stack.forget(base, dataset, label, method, seeds,
                                    (of_samples if method.own else protect) if method.config.ewc else ())
    together = stack.joined([*models.values()])
    places = [(name, seed) for name in models for seed in seeds]
    rows = [{"class": label, "seed": seed, "model": name, "state": "as is", **values,
             "share": share(chosen[name].config, size.training) if name in chosen else None}
            for (name, seed), values in zip(places, _measures(together, dataset, label), strict=True)]
    whole = len(seeds) if controls else 0  # baselines, which are not mended
    others = places[whole:]
    mended = stack.joined([
        stack.forget(together[first + whole:last + whole], dataset, label, further(size.capped(MENDING)),
                     [seed for _, seed in others[first:last]]) for first, last in _blocks(len(others), size.shape)])
    rows += [{"class": label, "seed": seed, "model": name, "state": "mended"} for name, seed in others]
    targets = data.held_out(dataset, label, frozen["targets"], 0).to(device())
    found = _attacked(stack.joined([together, mended]), targets, label, size.search,
                      [place for place, row in enumerate(rows)
                       if row["seed"] == frozen["seeds"][0] and label % CHECKED == 0])
    made = {"date": datetime.date.today().isoformat(), "processor": _processor()}
    return [row | own | made for row, own in zip(rows, found, strict=True)]


@functools.lru_cache(maxsize=1)
def _baselines(seeds: tuple[int, ...], dataset: Dataset, size: Size) -> Stack:
    """The baselines, with which all classes begin."""
    return stack.train(dataset, size.shape, size.training, seeds)


@functools.lru_cache(maxsize=1)
def _fishers(seeds: tuple[int, ...], dataset: Dataset, size: Size) -> list[dict[int, Diagonal]]:
    """The Fisher of each class of each baseline."""
    return [fisher.dataset_fishers(model, dataset, seed)
            for model, seed in zip(_baselines(seeds, dataset, size).models(), seeds, strict=True)]


@functools.cache
def _images() -> Dataset:
    """The protocol's data, once for all classes."""
    return data.load(protocol()["data"])


def _processor() -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name() if device().type == "cuda" else machine()["processor"]


def further(config: UnlearningConfig) -> Method:
    """Further ordinary training on the retained classes, with the updates of a configuration."""
    return Method(fine_tune, UnlearningConfig(steps=config.steps, batch=config.batch, peak_lr=config.peak_lr,
                                              replay=0.0, ewc=0.0, gray=0.0))


def share(config: UnlearningConfig, training: TrainingConfig = TrainingConfig(), images: int = 60_000) -> float:
    """The images that the steps of a method see, real, replayed or asked for, as a share of those of a training."""
    step = config.batch * (bool(config.real) + bool(config.replay)) + config.forget_batch * bool(
        config.gray or config.forget)
    return config.steps * step / (training.epochs * images)


def _attacked(models: Stack, targets: torch.Tensor, label: int, search: SearchConfig,
              checked: Sequence[int]) -> list[dict[str, float | str]]:
    """The errors of the attack on each model, and the shortfall of the `checked` ones; see `trained.shortfall`."""
    threat = THREATS[protocol()["threat"]]
    blocks = [stack.reconstruct(models[first:last], targets, label, threat, search)
              for first, last in _blocks(len(models), models.config)]
    errors, z, y = (torch.cat(parts).unflatten(0, (len(models), -1))
                    for parts in zip(*((block.loss[0], block.z[0], block.y[0]) for block in blocks)))
    found: list[dict[str, float | str]] = [
        {"errors": json.dumps([round(error, 2) for error in own])} for own in errors.tolist()]
    some = max(1, len(targets) // 5)
    for first, last in _blocks(len(checked), models.config):
        rows = torch.tensor(checked[first:last], device=errors.device)
        short = AttackResult([0], *(part[rows, :some].flatten(0, 1)[None] for part in (errors, z, y)), torch.empty(0))
        long = stack.reconstruct(models[rows.tolist()], targets[:some], label, threat,
                                 replace(search, rounds=10 * search.rounds), 1, short)
        means = [one.errors.view(len(rows), some).mean(1) for one in (long, short)]
        for row, value in zip(rows.tolist(), (1 - means[0] / means[1]).tolist(), strict=True):
            found[row]["shortfall"] = value
    return found


def _blocks(count: int, shape: ModelConfig) -> list[tuple[int, int]]:
    """The first and the last row, exclusive, of the models that are handled at once.

    On a GPU those that its memory takes; on processor cores one, since products of stacks are slower there.
    """
    size = BLOCKS[shape.architecture] if device().type == "cuda" else 1
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def _measures(models: Stack, dataset: Dataset, label: int) -> list[dict[str, float | str]]:
    """The measures of each model, and its digest."""
    judge = trained.judge(dataset, JudgeConfig("B", epochs=60 if dataset.name == "digits" else JudgeConfig.epochs), 0)
    few = data.training_sample(dataset, label, FEW)
    rows = [row for first, last in _blocks(len(models), models.config)
            for row in measures_of(models[first:last], dataset, label, judge, few)]
    return [{**row, "digest": tensor_digest(net.state_dict())}
            for row, net in zip(rows, models.models(), strict=True)]


def measures_of(models: Stack, dataset: Dataset, label: int, judge: Judge,
                few: torch.Tensor) -> list[dict[str, float]]:
    """The measures of chapter 7 on each model.

    Args:
        few: training images of the class, to learn it again.

    Returns:
        for each model: `probability` of the class, by the judge, in what the model draws for its label; `gray`, its
        distance to gray; `accuracy`, the share of draws of other classes that the judge recognizes; `nelbo` of other
        classes, in nats; and `relearning`.
    """
    back = stack.relearn(models, few, label, judge).mean(1)
    samples = stack.prior_samples(models, torch.arange(CLASSES).repeat_interleave(SAMPLES))
    p = torch.stack([judge.probabilities(drawn) for drawn in samples]).unflatten(1, (CLASSES, SAMPLES))
    right = (p.argmax(3) == torch.arange(CLASSES, device=p.device)[:, None]).float().mean(2)
    losses = stack.negative_elbo(models, dataset.test_images, dataset.test_labels)
    by_class = torch.stack([losses[:, dataset.test_labels == k].mean(1) for k in range(CLASSES)], 1)
    retain = list(retain_set(label))
    gray = distance_to_gray(samples.unflatten(1, (CLASSES, SAMPLES))[:, label].flatten(0, 1)).view(len(models), -1)
    columns = {"probability": p[:, label, :, label].mean(1), "gray": gray.mean(1), "accuracy": right[:, retain].mean(1),
               "nelbo": by_class[:, retain].mean(1), "relearning": back}
    return [{name: float(values[row]) for name, values in columns.items()} for row in range(len(models))]


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
