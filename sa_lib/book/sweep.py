"""Sweeps: a chapter run again for every cell of a grid of its parameters.

    python -m sa_lib.sweep --chapter 07_methods --grid forget=0:10 --grid seed=0:5
    python -m sa_lib.sweep --chapter 07_methods --grid forget=0:10 --scheduler tcp://head:8786

dask.distributed runs the cells: on the cores of this machine, one thread a
worker, or on a cluster that is there. A cell needs nothing but its worker's
`sa_lib`; what it made travels back as bytes, so the workers may be without a
common folder. With one (``SA_CACHE``), a model that several cells need is
trained by one of them, see `sa_lib.store`.

A sweep is a folder: for each cell the executed notebook, its metrics, its log
and ``cell.json``, and of all cells ``table.csv`` and ``table.parquet``, a row
a cell. Started again, it does what is missing or failed.

This module needs the extras ``book`` and ``sweep``.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
from distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from sa_lib import book
from sa_lib.book import machine
from sa_lib.files import write_atomically
from sa_lib.inputs import short

__all__ = ["Cell", "SweepError", "cells", "read_grid", "sweep"]

CONNECT = 20  # seconds until a scheduler must have answered


class SweepError(Exception):
    """Why there is no sweep, in one sentence for who started it."""


@dataclass(frozen=True)
class Cell:
    """One run of the chapter.

    Attributes:
        name: its folder, made of its place in the grid.
        parameters: those of the grid and those that all cells share.
        stamp: SHA-256 of what its result depends on.
    """

    name: str
    parameters: dict[str, Any]
    stamp: str


def read_grid(text: str) -> tuple[str, list[Any]]:
    """``name=0:10``, ``name=3,[9,2],7`` or ``name=mnist,fashion`` as a name and its values.

    Raises:
        SweepError: the text is none of these.
    """
    name, equals, listed = text.partition("=")
    if span := re.fullmatch(r"(\d+):(\d+)", listed):
        values = list(range(int(span[1]), int(span[2])))
    else:
        try:
            values = json.loads(f"[{listed}]")
        except ValueError:
            values = [value for value in listed.split(",") if value]
    if not name.isidentifier() or not equals or not values:
        raise SweepError(f"grid {text!r} is not allowed; use name=first:end or name=value,value,...")
    return name, values


def cells(root: Path, chapter: str, grid: Mapping[str, Sequence[Any]], shared: Mapping[str, Any]) -> list[Cell]:
    """The cells of a grid, neighbours apart: two that run at once should not wait for one baseline.

    Raises:
        SweepError: there is no such chapter, or it has no such parameter.
    """
    if chapter not in (names := book.chapters(root)):
        raise SweepError(f"chapter={chapter!r} is not allowed; there are {', '.join(names)}")
    source = root / "notebooks" / f"{chapter}.ipynb"
    known = set(papermill.inspect_notebook(source)) - {"run_dir"}
    for name in [*grid, *shared]:
        if name not in known or (name in grid and name in shared):
            raise SweepError(f"{name!r} is not a parameter to set here, or is set twice; "
                             f"{chapter} has {', '.join(sorted(known))}")
    sizes = [len(values) for values in grid.values()]
    places = sorted(itertools.product(*map(range, sizes)),
                    key=lambda place: [(at - place[0]) % size for at, size in zip(place[1:], sizes[1:])] + [*place])
    found = []
    for place in places:
        own = {name: values[at] for (name, values), at in zip(grid.items(), place)}
        parameters = {**shared, **own}
        title = ",".join(f"{name}-{json.dumps(value, separators=(',', ':'))}" for name, value in own.items())
        found.append(Cell(re.sub(r"[^\w,.-]+", "_", title) or "cell", parameters, book.stamp(source, parameters)))
    if len({cell.name for cell in found}) < len(found):
        raise SweepError("two values of the grid are the same, or are written alike; every cell needs a name of its own")
    return found


def execute(chapter: str, text: str, parameters: Mapping[str, Any], library: str) -> dict[str, Any]:
    """Run a notebook on a worker.

    Returns:
        its bytes, metrics and log as text, the error in one sentence or "",
        the seconds it took, and where it ran.

    Raises:
        SweepError: the worker has another `sa_lib` than `library`, its digest, says.
    """
    if book.library_digest() != library:
        raise SweepError(f"the worker on {platform.node()} has another sa_lib than the one that started the sweep")
    os.environ["OMP_NUM_THREADS"] = str(get_worker().state.nthreads)  # the kernel's torch takes it from here
    # With what a dask worker sets, freed memory goes back at once, and a training asks for it again at every step.
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
    started, error = time.perf_counter(), ""
    with tempfile.TemporaryDirectory() as folder:
        source, target, log = (Path(folder) / name for name in (f"{chapter}.ipynb", "executed.ipynb", "log.txt"))
        source.write_text(text, encoding="utf-8")
        with open(log, "w", encoding="utf-8") as file:
            try:
                papermill.execute_notebook(source, target, {**parameters, "run_dir": "run"}, kernel_name="python3",
                                           cwd=folder, progress_bar=False, stdout_file=file, stderr_file=file,
                                           extra_arguments=["--log-level=ERROR"])
            except (PapermillExecutionError, DeadKernelError) as failure:
                error = book.reason(failure, target)
        metrics = Path(folder) / "run" / chapter / "metrics.json"
        if not error and not metrics.is_file():
            error = f"{chapter} left no metrics"
        return {"notebook": target.read_text(encoding="utf-8"), "log": log.read_text(encoding="utf-8"),
                "metrics": metrics.read_text(encoding="utf-8") if metrics.is_file() else None, "error": error,
                "seconds": time.perf_counter() - started, "machine": machine()}


@contextmanager
def connected(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """A client of the cluster at `scheduler`, or of one on this machine for as long as the block lasts.

    Raises:
        SweepError: there is no scheduler at this address, or no worker within a minute.
    """
    if scheduler is None:
        count = workers or machine()["cores"]
        with (LocalCluster(n_workers=count, threads_per_worker=1, processes=True, memory_limit=None,
                           dashboard_address=None) as cluster, Client(cluster) as client):
            yield client
        return
    try:
        client = Client(scheduler, timeout=CONNECT)
        client.wait_for_workers(1, timeout=3 * CONNECT)
    except (OSError, TimeoutError, ValueError) as error:
        raise SweepError(f"scheduler={scheduler!r} does not answer, or has no worker ({error})") from None
    with client:
        yield client


def sweep(root: Path, out: Path, chapter: str, wanted: Sequence[Cell], scheduler: str | None = None,
          workers: int | None = None) -> pd.DataFrame:
    """Run the cells that `out` lacks, and write its tables.

    Args:
        out: the sweep's folder.
        scheduler: the address of a cluster; one on this machine by default.
        workers: of the cluster on this machine; one a core by default.

    Returns:
        a row a cell: see `table`.
    """
    missing = [cell for cell in wanted if _state(out, cell).get("error") != ""]
    print(f"{chapter}: {len(wanted)} cells, {len(wanted) - len(missing)} of them done", flush=True)
    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be is known before a cell has run
    try:
        if missing:
            with connected(scheduler, workers) as client:
                _run(client, root, out, chapter, missing)
    finally:
        found = table(out, wanted)
        if len(found):
            with write_atomically(out / "table.csv") as temporary:
                found.to_csv(temporary)
            with write_atomically(out / "table.parquet") as temporary:
                found.to_parquet(temporary)
    return found


def _run(client: Client, root: Path, out: Path, chapter: str, missing: Sequence[Cell]) -> None:
    text = (root / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8")
    library = book.library_digest()
    futures = {client.submit(execute, chapter, text, cell.parameters, library, key=f"{cell.name}-{cell.stamp}",
                             pure=False): cell for cell in missing}
    failed = 0
    with tqdm(total=len(futures), desc=chapter, unit="cell") as bar:
        for future in as_completed(futures):
            cell = futures[future]
            try:
                made = future.result()
            except CancelledError:
                raise SweepError("the scheduler went away; started again, the sweep does what is missing") from None
            except Exception as failure:  # whatever stops a worker concerns one cell
                said = ("its worker died, again and again" if isinstance(failure, KilledWorker)
                        else str(failure) if isinstance(failure, SweepError) else repr(failure))
                made = {"error": said, "seconds": None, "machine": {}}
            _keep(out / cell.name, chapter, cell, made)
            failed += bool(made["error"])
            bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
            bar.update()


def _keep(folder: Path, chapter: str, cell: Cell, made: Mapping[str, Any]) -> None:
    """Write what a worker sent; the file that says that the cell is there comes last."""
    for name, part in ((f"{chapter}.ipynb", "notebook"), ("metrics.json", "metrics"), ("log.txt", "log")):
        (folder / name).unlink(missing_ok=True)
        if made.get(part) is not None:
            with write_atomically(folder / name) as temporary:
                temporary.write_text(made[part], encoding="utf-8")
    state = {"stamp": cell.stamp, "parameters": cell.parameters, "error": made["error"], "seconds": made["seconds"],
             "date": datetime.date.today().isoformat(), "machine": made["machine"]}
    with write_atomically(folder / "cell.json") as temporary:
        temporary.write_text(json.dumps(state, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _state(out: Path, cell: Cell) -> dict[str, Any]:
    """What is known of the cell, with its metrics, if it was run as it would be run now and all of it is whole."""
    try:
        state = json.loads((out / cell.name / "cell.json").read_text(encoding="utf-8"))
        if state["stamp"] != cell.stamp or not isinstance(state["error"], str):
            return {}
        kept = {name: state[name] for name in ("error", "seconds", "date", "machine")}
        metrics = {} if kept["error"] else json.loads((out / cell.name / "metrics.json").read_text(encoding="utf-8"))
        kept["metrics"] = {name: value for name, value in metrics.items() if name != "parameters"}
        json.dumps(kept, ensure_ascii=False).encode()  # half a surrogate pair has no place in a table
        return kept
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def table(out: Path, wanted: Sequence[Cell]) -> pd.DataFrame:
    """The cells that were run, in order of their names.

    Returns:
        Index `cell`; columns: the parameters; `error`, "" where there is none; `seconds`; `date`; the machine's
        kind and versions (`machine.*`); and the chapter's metrics, nested names joined by dots, lists as JSON.
    """
    rows = []
    for cell in sorted(wanted, key=lambda cell: cell.name):
        if state := _state(out, cell):
            metrics = state.pop("metrics")
            rows.append({"cell": cell.name, **cell.parameters, **state, **metrics})
    flat = pd.json_normalize(rows, sep=".")
    for name in flat.columns[flat.map(lambda value: isinstance(value, (list, dict))).any()]:
        flat[name] = [json.dumps(value) if isinstance(value, (list, dict)) else value for value in flat[name]]
    return flat.set_index("cell") if rows else flat


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep; return 0 if every cell is there, 1 if some failed, 2 if it could not start."""
    parser = argparse.ArgumentParser(prog="python -m sa_lib.sweep", description=__doc__.split("\n")[0])
    parser.add_argument("--chapter", required=True, help="such as 07_methods")
    parser.add_argument("--grid", action="append", default=[], metavar="NAME=VALUES",
                        help="0:10, or values separated by commas; again for another parameter")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                        help="a parameter that all cells share")
    parser.add_argument("--name", help="the sweep's folder in runs/; by default the chapter's name")
    parser.add_argument("--scheduler", help="tcp://...: a cluster of dask.distributed that is there")
    parser.add_argument("--workers", type=int, help="workers on this machine; by default one a core")
    given = parser.parse_args(arguments)
    root = Path.cwd()
    try:
        if given.workers is not None and given.workers < 1:
            raise SweepError(f"workers={given.workers} is not allowed; use a whole number from 1")
        if given.name is not None and not re.fullmatch(book.RUN_NAME, given.name):
            raise SweepError(f"name={short(given.name)} is not allowed; use letters, digits, '.', '-' and '_'")
        book.sync(root)
        grid = dict(map(read_grid, given.grid))
        shared = {name: book.value(text) for name, text in given.p}
        out = root / "runs" / (given.name or given.chapter)
        found = sweep(root, out, given.chapter, cells(root, given.chapter, grid, shared), given.scheduler,
                      given.workers)
    except (SweepError, book.BookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; started again, the sweep does what is missing", file=sys.stderr)
        return 130
    for name, error in found.loc[found["error"] != "", "error"].items():
        print(f"{name}: {error}", file=sys.stderr)
    print(f"{(found['error'] == '').sum()} of {len(found)} cells are there: {out / 'table.csv'}")
    return int((found["error"] != "").any())


if __name__ == "__main__":
    from sa_lib.sweep import main as importable  # what a worker unpickles must have a name that it can import
    sys.exit(importable())
