"""Run the chapters: each is executed into ``runs/<name>/`` unless an up-to-date result is there."""

import io
import json
import os
from ast import literal_eval
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import papermill
from nbformat import NotebookNode

from ..experiment import validate
from ..store import pack, write_atomically
from . import times
from .cluster import connected, workers_for
from .execution import execute_chapter, library_digest, machine, read, stamp
from .notebooks import BookError, chapters, sync
from .plan import PLANS, Request, make, requests
from .work import Task, do, makespan, outcome, words

__all__ = ["RUN_NAME", "executed", "models", "run"]

RUN_NAME = r"\w[\w.-]*"  # such a name cannot lead out of runs/


def run(root: Path, run_dir: Path, parameters: Mapping[str, Any], only: Sequence[str] = (),
        scheduler: str | None = None) -> None:
    """Execute the chapters that this run still lacks, each with the parameters that it declares.

    Models that several chapters need, or one needs several of, are made side by side first, see `plan`. A chapter
    is done if its metrics and its executed notebook exist and the notebook was made from the same source,
    parameters, library and versions.

    Args:
        run_dir: relative to `root`. The chapters are executed in `root`, so
            no path of this machine appears on a page.
        parameters: name -> JSON value, for the cell tagged ``parameters``.
        only: names of the chapters to run; all by default.
        scheduler: the address of a cluster whose workers see `root` and the store; by default the cores of this
            machine work.

    Raises:
        BookError: a chapter failed, a parameter belongs to no chapter, or a name in `only` is not a chapter's.
    """
    sync(root)
    names = chapters(root)
    if unknown := set(only) - set(names):
        raise BookError(f"there is no chapter {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    sources = {name: root / "notebooks" / f"{name}.ipynb" for name in names}
    declared = {name: papermill.inspect_notebook(path) for name, path in sources.items()}
    if unknown := set(parameters).difference(*declared.values()):
        raise BookError(f"no chapter has a parameter {', '.join(sorted(unknown))}; "
                        f"there are {', '.join(sorted(set().union(*declared.values())))}")
    (root / run_dir).mkdir(parents=True, exist_ok=True)
    with write_atomically(root / run_dir / "run.json") as temporary:
        temporary.write_text(json.dumps({"parameters": dict(parameters)}, indent=1, sort_keys=True) + "\n")
    missing = {}
    for name in only or names:
        values = {key: value for key, value in parameters.items() if key in declared[name]}
        values["run_dir"] = run_dir.as_posix()
        origin = {"stamp": stamp(sources[name], values), "parameters": values}
        target = root / run_dir / f"{name}.ipynb"
        if (read(target).metadata.get("sa_lib", {}).get("stamp") == origin["stamp"]
                and (root / run_dir / name / "metrics.json").is_file()):
            print(f"{name}: already done", flush=True)
        else:
            missing[name] = origin
    if missing:
        _work(root, run_dir, missing, {name: _planned(name, declared[name], missing[name]["parameters"])
                                       for name in missing}, scheduler)


def _planned(name: str, declared: Mapping[str, Any], given: Mapping[str, Any]) -> list[Request]:
    """What a chapter will ask for; nothing if it has no plan, or refuses its parameters, which it says by itself."""
    if name not in PLANS:
        return []
    with suppress(ValueError, SyntaxError), redirect_stdout(io.StringIO()):
        values = {key: literal_eval(about["default"]) for key, about in declared.items()} | dict(given)
        return requests(name, validate(**values))
    return []


def _work(root: Path, run_dir: Path, missing: Mapping[str, Any], plans: Mapping[str, Sequence[Request]],
          scheduler: str | None) -> None:
    """Make the models and attacks of the chapters, and execute these; `missing` has the origin of each."""
    library, folder, workers = library_digest(), root / run_dir, workers_for(machine()["cores"])
    parameters = next(iter(missing.values()))["parameters"]
    step = times.step_seconds(parameters.get("architecture", "mlp"))
    every = _tasks(root, run_dir, missing, plans)
    tasks = times.expected(_without(every, times.kept(folder, library)), parameters.get("profile", "full"), step)
    print(f"{len(missing)} of the chapters and {len(tasks) - len(missing)} models and attacks are to be made: about "
          f"{words(makespan(tasks, workers))}", flush=True)
    results, errors = {}, []
    for task, result in _results(tasks, workers, scheduler, partial(_progress, tasks, missing)):
        if isinstance(result, tuple):
            results[task.name] = result
        elif task.name in missing:
            errors.append(str(result) if isinstance(result, BookError) else f"{task.name}: {result!r}")
        if task.name in missing:
            print(f"{task.name}: {f'done, {words(result[1])}' if task.name in results else 'failed'}", flush=True)
    times.write(folder, every, results, step, library)
    if errors:
        raise BookError("; ".join(errors))


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
    for task in tasks:  # a chapter alone needs no cluster, and has all cores
        yield task, outcome(*task.call)


def models(root: Path, run_dir: Path) -> str:
    """Pack the trained models that the chapters of a run asked for into ``_build/models-<run>.zip``.

    Returns:
        the archive's address for ``SA_MODELS``: its path and digest.

    Raises:
        BookError: the run lacks a chapter, or the store lacks a model.
    """
    try:
        names = {line for name in executed(root, root / run_dir)
                 for line in (root / run_dir / name / "models.txt").read_text().splitlines()}
        return pack(names, root / "_build" / f"models-{run_dir.name}.zip")
    except (FileNotFoundError, ValueError) as error:
        raise BookError(f"the models of {run_dir} cannot be packed: {error}; SA_CACHE must name the store that "
                        "the run was made with") from None


def executed(root: Path, run_dir: Path) -> dict[str, NotebookNode]:
    """The executed chapters of a run by name.

    Raises:
        BookError: there is no such run, it lacks a chapter, or its chapters had different parameters.
    """
    try:
        parameters = dict(json.loads((run_dir / "run.json").read_text())["parameters"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        raise BookError(f"there is no run in {run_dir}; make it first: make run RUN={run_dir.name}") from None
    notebooks = {name: read(run_dir / f"{name}.ipynb") for name in chapters(root)}
    missing = [name for name, notebook in notebooks.items() if "sa_lib" not in notebook.metadata]
    if missing:
        raise BookError(f"{run_dir} lacks {', '.join(missing)}; make run RUN={run_dir.name} makes it")
    for name, notebook in notebooks.items():
        if differing := {key for key, value in notebook.metadata.sa_lib.parameters.items()
                         if key != "run_dir" and parameters.get(key) != value}:
            raise BookError(f"{name} in {run_dir} was made with another {', '.join(sorted(differing))} than "
                            f"the run now has; make run RUN={run_dir.name} makes it again")
    return notebooks
