"""Times: the seconds that the tasks of a run took, kept to say how long the next will take, here or on more cores."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..evidence import RESULTS
from ..labels import CLASSES
from ..model import ARCHITECTURES, build, device
from ..store import cache_root, write_atomically
from ..training import TrainingConfig
from .work import Task

__all__ = ["expected", "kept", "read", "recorded", "step_seconds", "write"]

NAME = "times.json"
STEPS = 5


def read(path: Path) -> dict[str, Any]:
    """The times that `write` wrote; no times if there is no such file or it is damaged."""
    try:
        times = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(task[key], kind) for task in times["tasks"].values()
               for key, kind in (("kind", str), ("seconds", float), ("needs", list), ("artifact", str))):
            return {"step": float(times["step"]), "library": str(times["library"]), "tasks": times["tasks"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {"step": 1.0, "library": "", "tasks": {}}


def write(folder: Path, tasks: Sequence[Task], results: Mapping[str, tuple[str, float]], step: float,
          library: str) -> None:
    """Add the times of tasks to those of a run.

    Args:
        folder: of the run.
        results: name of a task -> name of its artifact in the store, "" for a chapter, and the seconds that it took.
        step: seconds of a training step on this machine, see `step_seconds`.
        library: the digest of the library; tasks of another are dropped.
    """
    before = read(folder / NAME)
    entries = before["tasks"] if before["library"] == library else {}
    for task in tasks:
        if task.name in results:
            artifact, seconds = results[task.name]
            entries[task.name] = {"kind": task.kind, "seconds": seconds, "needs": list(task.needs),
                                  "artifact": artifact}
    with write_atomically(folder / NAME) as temporary:
        temporary.write_text(json.dumps({"step": step, "library": library, "tasks": entries}, indent=0) + "\n")


def kept(folder: Path, library: str) -> set[str]:
    """The tasks whose results the store has had since an earlier run with the same library.

    A file of the store may be damaged; its chapter then makes it again.
    """
    times = read(folder / NAME)
    return {name for name, task in times["tasks"].items()
            if times["library"] == library and task["artifact"]
            and (cache_root() / "models" / task["artifact"]).is_file()}


def recorded(folder: Path) -> list[Task]:
    """The tasks of a run with the seconds that they took, each behind those that it needs."""
    times = read(folder / NAME)["tasks"]
    ordered: dict[str, Task] = {}

    def add(name):
        if name not in ordered:
            needs = tuple(needed for needed in times[name]["needs"] if needed in times)
            for needed in needs:
                add(needed)
            ordered[name] = Task(name, times[name]["kind"], (), needs, times[name]["seconds"])

    for name in times:
        add(name)
    return list(ordered.values())


def expected(tasks: Sequence[Task], profile: str, step: float) -> list[Task]:
    """The tasks with the seconds that they may take here, by the times of the book's own run.

    Args:
        step: seconds of a training step on this machine.
    """
    times = read(RESULTS / f"times-{profile}.json")
    kinds: dict[str, list[float]] = {}
    for task in times["tasks"].values():
        kinds.setdefault(task["kind"], []).append(task["seconds"])
    pace = step / times["step"]

    def seconds(task):
        known = times["tasks"].get(task.name, {"seconds": statistics.mean(kinds.get(task.kind, [10.0]))})
        return known["seconds"] * pace
    return [replace(task, seconds=seconds(task)) for task in tasks]


def step_seconds(architecture: str) -> float:
    """Seconds of a training step of this architecture, a batch forward and backward, with one thread."""
    net = build(ARCHITECTURES[architecture], 0).to(device())
    x = torch.zeros(TrainingConfig.batch, 1, 28, 28, device=device())
    y, noise = torch.zeros(len(x), CLASSES).to(x), torch.zeros(len(x), net.config.latent_dim).to(x)
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(STEPS):
            began = time.perf_counter()
            loss = net.elbo(x, y, noise).mean()
            loss.backward()
            loss.item()  # waits for a GPU
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return min(seconds)
