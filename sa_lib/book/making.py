"""Make what a run lacks: first the models and attacks that its chapters will ask for, then the chapters."""

import io
import os
from ast import literal_eval
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..experiment import validate
from ..plan import PLANNED, PLANS, Request, make, requests
from . import site, times
from .cluster import connected, workers_for
from .execution import execute_chapter, library_digest, machine
from .notebooks import BookError
from .work import Task, do, makespan, outcome, words

__all__ = ["work"]


def work(root: Path, run_dir: Path, missing: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]],
         scheduler: str | None) -> None:
    """Make the models and attacks that chapters will ask for, and execute the chapters.

    Args:
        run_dir: relative to `root`.
        missing: chapter -> its origin, see `execution.execute_chapter`.
        declared: chapter -> its parameters, as papermill reads them off its notebook.
        scheduler: as for `run.run`.

    Raises:
        BookError: a chapter failed; all others are done.
    """
    plans = {name: _planned(name, declared[name], origin["parameters"]) for name, origin in missing.items()}
    library, folder, workers = library_digest(), root / run_dir, workers_for(machine()["cores"])
    parameters = next(iter(missing.values()))["parameters"]
    step = times.step_seconds(parameters.get("architecture", "mlp"))
    every = _tasks(root, run_dir, missing, plans)
    tasks = times.expected(_without(every, times.kept(folder, library)), parameters.get("profile", "full"), step)
    print(f"{len(missing)} of the chapters and {len(tasks) - len(missing)} models and attacks are to be made: about "
          f"{words(makespan(tasks, workers))}", flush=True)
    results, errors = {}, {}
    try:
        for task, result in _results(tasks, workers, scheduler, partial(_progress, tasks, missing)):
            (results if isinstance(result, tuple) else errors)[task.name] = result
            if task.name in results.keys() & missing:
                print(f"{task.name}: done, {words(result[1])}{_page(root, run_dir, declared, missing, results)}",
                      flush=True)
            elif task.name in missing:
                print(f"{task.name}: failed", flush=True)
    finally:
        times.write(folder, every, results, step, library)
    if failed := [str(error) if isinstance(error, BookError) else f"{name}: {error}"
                  for name, error in errors.items() if name in missing]:
        raise BookError("; ".join(failed))


def _page(root: Path, run_dir: Path, declared: Collection[str], missing: Collection[str],
          results: Collection[str]) -> str:
    """Where to read the chapters that are done while others are not."""
    if not set(missing) - set(results):
        return ""
    # A run of some chapters lacks those that nobody asked for.
    done = [name for name in declared if name not in missing and (root / run_dir / f"{name}.ipynb").is_file()
            or name in results]
    try:
        page = site.preview(root, run_dir, done)
        return f"; to read in {page.relative_to(root)}"
    except (BookError, OSError):  # the site that follows says why
        return ""


def _planned(name: str, declared: Mapping[str, Any], given: Mapping[str, Any]) -> list[Request]:
    """The requests of a chapter; nothing if it has no plan, or refuses its parameters, which it says by itself."""
    if name not in PLANS:
        return []
    with suppress(ValueError, SyntaxError), redirect_stdout(io.StringIO()):
        values = {key: literal_eval(about["default"]) for key, about in declared.items()} | dict(given)
        return requests(name, validate(**values))
    return []


def _tasks(root: Path, run_dir: Path, missing: Mapping[str, Any], plans: Mapping[str, Sequence[Request]]) -> list[Task]:
    """All that the chapters will ask for, each once, and the chapters; each behind those that it needs."""
    asked = {str(request): request for plan in plans.values() for request in plan}
    return [*(Task(name, request.function.__name__, (make, request), tuple(map(str, request.needs)))
              for name, request in asked.items()),
            *(Task(name, name, (execute_chapter, root, run_dir, name, origin), tuple(map(str, plans[name])))
              for name, origin in missing.items())]


def _without(tasks: Sequence[Task], done: Collection[str]) -> list[Task]:
    """The tasks that are still to be done."""
    return [replace(task, needs=tuple(name for name in task.needs if name not in done)) for task in tasks
            if task.name not in done]


def _progress(tasks: Sequence[Task], chapters: Collection[str], left: Sequence[Task]) -> str:
    """How far the work is, in words."""
    waiting = sum(task.name in chapters for task in left)
    others = len(tasks) - len(chapters)
    return (f"{others - len(left) + waiting} of {others} models and attacks, {len(chapters) - waiting} of "
            f"{len(chapters)} chapters")


def _results(tasks: Sequence[Task], workers: int, scheduler: str | None, progress: Callable[[Sequence[Task]], str]
             ) -> Iterator[tuple[Task, Any]]:
    """Each task with its result as soon as it is there."""
    if len(tasks) > 1 or scheduler:
        with connected(scheduler, workers) as client:
            yield from do(client, tasks, workers, progress)
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(machine()["cores"]))  # PyTorch in the kernel reads it
    os.environ[PLANNED] = "1"
    try:
        for task in tasks:  # a chapter alone needs no cluster, and has all cores
            yield task, outcome(*task.call)
    finally:
        del os.environ[PLANNED]
