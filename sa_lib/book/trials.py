"""Make the confirmatory trials of ``results/protocol.json``, cell by cell; see `sa_lib.trials`.

A cell is one class and one seed. Its models are trained, made to forget, mended and attacked in stacks, see
`sa_lib.stack`. A cell that is done is kept in ``runs/trials``, so a run that was stopped goes on where it was.
"""

import datetime
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from distributed import as_completed

from .. import data, fisher, stack, trained
from ..attacks import THREATS
from ..data import Dataset
from ..fisher import Diagonal
from ..judges import JudgeConfig
from ..labels import CLASSES, retain_set
from ..methods import METHODS, Method, distance_to_gray, fine_tune
from ..model import ModelConfig, device
from ..reconstruction import SearchConfig
from ..stack import Stack
from ..store import tensor_digest, write_atomically
from ..trained import MENDING
from ..training import TrainingConfig
from ..trials import RESULTS, protocol
from ..unlearning import UnlearningConfig
from .cluster import connected, workers_for
from .execution import machine

__all__ = ["make", "measured"]

SAMPLES = 500  # drawn for each class to measure a model
FEW = 100  # training images of the class to learn it again


def make(root: Path, seeds: int | None = None, scheduler: str | None = None) -> int:
    """Make the missing cells on a cluster, seed by seed, and write the table; return the number of its cells.

    Args:
        seeds: only the first of the protocol.
    """
    frozen = protocol()
    cells = [(label, seed) for seed in frozen["seeds"][:seeds] for label in frozen["classes"]]
    folder = root / "runs" / "trials"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if not _kept(folder, *cell)]
    print(f"trials: {len(cells)} cells, {len(cells) - len(missing)} of them done", flush=True)
    with connected(scheduler, workers_for(os.cpu_count() or 1)) as client:
        futures = {client.submit(measured, *cell, pure=False, priority=-place): cell
                   for place, cell in enumerate(missing)}
        for future in as_completed(futures):
            label, seed = futures[future]
            with write_atomically(folder / f"{label}-{seed}.json") as temporary:
                temporary.write_text(json.dumps(future.result()), encoding="utf-8")
            print(f"class {label}, seed {seed}", flush=True)
    return write(folder, cells)


def write(folder: Path, cells: Sequence[tuple[int, int]]) -> int:
    """Write the table of the cells that are there, and return their number."""
    kept = [rows for cell in cells if (rows := _kept(folder, *cell))]
    with write_atomically(RESULTS / "trials.csv") as temporary:
        pd.DataFrame([row for rows in kept for row in rows]).to_csv(temporary, index=False)
    return len(kept)


def _kept(folder: Path, label: int, seed: int) -> list[dict]:
    """The rows of a cell that was made before; empty if there is none, or a damaged one."""
    try:
        return json.loads((folder / f"{label}-{seed}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def measured(label: int, seed: int) -> list[dict]:
    """The rows of a cell, one for each model as it is and one for each mended model."""
    frozen, dataset = protocol(), data.load("mnist")
    baseline, fishers = _start(seed)
    never = stack.train(dataset, ModelConfig(), TrainingConfig(), [seed], [label])
    models = {"baseline": baseline, "never saw": stack.forget(never, dataset, label, further(UnlearningConfig()),
                                                              [seed])}
    protect = [fisher.combine(fishers, {k: int((dataset.train_labels == k).sum()) for k in retain_set(label)})]
    for name in frozen["methods"]:
        method = METHODS[name]
        models[name] = stack.forget(baseline, dataset, label, method, [seed], protect if method.config.ewc else ())
    kinds = [*models]
    together = stack.joined([*models.values()])
    rows = [{"class": label, "seed": seed, "model": name, "state": "as is", **values,
             "share": share(METHODS[name].config) if name in METHODS else None}
            for name, values in zip(kinds, _measures(together, dataset, label), strict=True)]
    mended = stack.forget(together[1:], dataset, label, further(MENDING), [seed] * (len(kinds) - 1))
    rows += [{"class": label, "seed": seed, "model": name, "state": "mended"} for name in kinds[1:]]
    targets = data.held_out(dataset, label, frozen["targets"], 0).to(device())
    for row, own in zip(rows, [*together, *mended], strict=True):
        row |= _attacked(own, targets, label, check=seed == frozen["seeds"][0])
    made = {"date": datetime.date.today().isoformat(), "processor": machine()["processor"]}
    return [row | made for row in rows]


@functools.lru_cache(maxsize=1)
def _start(seed: int) -> tuple[Stack, dict[int, Diagonal]]:
    """The baseline of a seed, and its Fisher of each class: all cells of the seed begin with them."""
    dataset = data.load("mnist")
    baseline = stack.train(dataset, ModelConfig(), TrainingConfig(), [seed])
    return baseline, fisher.dataset_fishers(baseline.models()[0], dataset, seed)


def further(config: UnlearningConfig) -> Method:
    """Further ordinary training on the retained classes, with the updates of a configuration."""
    return Method(fine_tune, UnlearningConfig(steps=config.steps, batch=config.batch, peak_lr=config.peak_lr,
                                              replay=0.0, ewc=0.0, gray=0.0))


def share(config: UnlearningConfig, training: TrainingConfig = TrainingConfig(), images: int = 60_000) -> float:
    """The images that the steps of a method see, real, replayed or asked for, as a share of those of a training."""
    step = config.batch * (bool(config.real) + bool(config.replay)) + config.forget_batch * bool(
        config.gray or config.forget)
    return config.steps * step / (training.epochs * images)


def _attacked(model: Stack, targets: torch.Tensor, label: int, check: bool) -> Mapping[str, float | str]:
    """The errors of the attack, and, if asked for, its shortfall; see `trained.shortfall`."""
    threat, search = THREATS[protocol()["threat"]], SearchConfig()
    result = stack.reconstruct(model, targets, label, threat, search)
    found: dict[str, float | str] = {"errors": json.dumps([round(e, 2) for e in result.errors.tolist()])}
    if check:
        short = result.of(slice(max(1, len(targets) // 5)))
        long = stack.reconstruct(model, targets[:len(short.errors)], label, threat,
                                 replace(search, rounds=10 * search.rounds), 1, short)
        found["shortfall"] = float(1 - long.errors.mean() / short.errors.mean())
    return found


def _measures(models: Stack, dataset: Dataset, label: int) -> list[dict[str, float | str]]:
    """The measures of chapter 7 on each model."""
    judge = trained.judge(dataset, JudgeConfig("B"), 0)
    own = dataset.train_images[dataset.train_labels == label]
    few = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(0))[:FEW]]
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
    return [{**{name: float(values[row]) for name, values in columns.items()},
             "digest": tensor_digest(net.state_dict())} for row, net in enumerate(models.models())]
