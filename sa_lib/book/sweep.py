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
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pandas as pd
import papermill
from distributed import Client, KilledWorker, LocalCluster, as_completed, get_worker
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from ..checks import shorten
from ..store import text_digest, write_atomically
from .notebooks import BookError, chapters
from .run import FILES, library_digest, machine, reason, stamp

__all__ = ["Cell", "cells", "read_grid", "sweep"]

LONGEST = 200  # bytes in the name of a folder, of the 255 that file systems allow
CONNECT = 20  # seconds until a scheduler must have answered


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
        BookError: the text is none of these.
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
        raise BookError(f"grid {text!r} is not allowed; use name=first:end or name=value,value,...")
    return name, values


def cells(root: Path, chapter: str, grid: Mapping[str, Sequence[Any]], shared: Mapping[str, Any]) -> list[Cell]:
    """The cells of a grid, neighbours apart: two that run at once should not wait for one baseline.

    Raises:
        BookError: there is no such chapter, or it has no such parameter.
    """
    if chapter not in (names := chapters(root)):
        raise BookError(f"chapter={chapter!r} is not allowed; there are {', '.join(names)}")
    source = root / "notebooks" / f"{chapter}.ipynb"
    known = set(papermill.inspect_notebook(source)) - {"run_dir"}
    for name in [*grid, *shared]:
        if name not in known or (name in grid and name in shared):
            raise BookError(f"{name!r} is not a parameter to set here, or is set twice; "
                             f"{chapter} has {', '.join(sorted(known))}")
    sizes = [len(values) for values in grid.values()]
    places = sorted(itertools.product(*map(range, sizes)),
                    key=lambda place: [(at - place[0]) % size for at, size in zip(place[1:], sizes[1:])] + [*place])
    found = []
    for place in places:
        own = {name: values[at] for (name, values), at in zip(grid.items(), place)}
        # A cell runs in a folder of its own, so a file is named by where it is from here.
        parameters = {name: str(Path(value).expanduser().absolute()) if name in FILES and value else value
                      for name, value in {**shared, **own}.items()}
        title = ",".join(f"{name}-{json.dumps(value, separators=(',', ':'))}" for name, value in own.items())
        found.append(Cell(_folder(title), parameters, stamp(source, parameters)))
    if len({cell.name for cell in found}) < len(found):
        raise BookError("two values of the grid are the same, or are written alike; every cell needs a name of its own")
    return found


def _folder(title: str) -> str:
    """The name of a cell's folder; a digest takes the place of the end of a name that is too long for a file system."""
    name = re.sub(r"[^\w,.-]+", "_", title) or "cell"
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[:LONGEST - 13].decode(errors='ignore')}-{text_digest(title)[:12]}"


def execute(chapter: str, text: str, parameters: Mapping[str, Any], library: str) -> dict[str, Any]:
    """Run a notebook on a worker.

    Returns:
        its bytes, metrics and log as text, the error in one sentence or "",
        the seconds it took, and where it ran.

    Raises:
        BookError: the worker has another `sa_lib` than `library`, its digest, says.
    """
    if library_digest() != library:
        raise BookError(f"the worker on {platform.node()} has another sa_lib than the one that started the sweep")
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
                error = reason(failure, target)
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
        BookError: there is no scheduler at this address, or no worker within a minute.
    """
    if scheduler is None:
        count = workers or machine()["cores"]
        with (LocalCluster(n_workers=count, threads_per_worker=1, processes=True, memory_limit=None,
                           dashboard_address=None) as cluster, Client(cluster) as client):
            yield client
        return
    with _client(scheduler) as client:
        try:
            client.wait_for_workers(1, timeout=3 * CONNECT)
        except TimeoutError as error:
            raise BookError(f"scheduler={scheduler!r} has no worker ({error})") from None
        yield client


def _client(scheduler: str) -> Client:
    """A client of the scheduler, within `CONNECT` seconds.

    A server that accepts the connection and speaks another protocol makes `Client` wait for ever, whatever its
    timeout, so it is made in a thread that can be left behind.
    """
    answer: SimpleQueue[Client | Exception] = SimpleQueue()

    def connect():
        try:
            answer.put(Client(scheduler, timeout=CONNECT))
        except Exception as error:  # whatever is wrong with the address or the server
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        client = answer.get(timeout=CONNECT)
    except Empty:
        client = TimeoutError(f"no answer of a dask scheduler within {CONNECT} s")
    if isinstance(client, Exception):
        raise BookError(f"scheduler must be the address of a dask scheduler, got {scheduler!r}: "
                        f"{' '.join(str(client).split())}")
    return client


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
    library = library_digest()
    futures = {client.submit(execute, chapter, text, cell.parameters, library, key=f"{cell.name}-{cell.stamp}",
                             pure=False): cell for cell in missing}
    failed = 0
    with tqdm(total=len(futures), desc=chapter, unit="cell") as bar:
        for future in as_completed(futures):
            cell = futures[future]
            try:
                made = future.result()
            except CancelledError:
                raise BookError("the scheduler went away; started again, the sweep does what is missing") from None
            except Exception as failure:  # whatever stops a worker concerns one cell
                said = ("its worker died, again and again" if isinstance(failure, KilledWorker)
                        else str(failure) if isinstance(failure, BookError) else repr(failure))
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
