"""Sweeps: run a chapter for every cell of a grid of its parameters.

    sa-book sweep --chapter 07_methods --grid forget=0:10 --grid seed=0:5
    sa-book sweep --chapter 07_methods --grid forget=0:10 --scheduler tcp://head:8786

dask.distributed runs the cells, on the cores of this machine with one thread
per worker, or on a running cluster. A worker needs only `sa_lib`. Results
return as bytes, so the workers need no common folder. If they have one
(``SA_CACHE``), a model that several cells need is trained only once, see
`sa_lib.store`.

A sweep is a folder. It has the executed notebook, the metrics, the log and
``cell.json`` of each cell, and ``table.csv`` and ``table.parquet`` with a row
for each cell. A sweep that is started again runs the missing and failed cells.
"""

import datetime
import itertools
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
from distributed import Client, KilledWorker, as_completed, get_worker
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from ..store import expanded, text_digest, write_atomically
from .cluster import connected
from .execution import FILES, execute, library_digest, machine, reason, stamp
from .notebooks import BookError, chapters

__all__ = ["Cell", "cells", "read_grid", "sweep", "table"]

LONGEST = 200  # largest number of bytes in a folder's name; file systems allow 255


@dataclass(frozen=True)
class Cell:
    """One run of the chapter.

    Attributes:
        name: of its folder: the cell's parameters in the grid.
        parameters: all of them, from the grid and shared by all cells.
        stamp: SHA-256 (hex) of everything that its result depends on.
    """

    name: str
    parameters: dict[str, Any]
    stamp: str


def read_grid(text: str) -> tuple[str, list[Any]]:
    """``name=0:10``, ``name=3,[9,2],7`` or ``name=mnist,fashion`` as a name and its values.

    Raises:
        BookError: the text has none of these forms.
    """
    name, equals, listed = text.partition("=")
    if span := re.fullmatch(r"(\d+):(\d+)", listed):
        values = list(range(int(span[1]), int(span[2])))
    else:
        try:
            values = json.loads(f"[{listed}]")
        except (ValueError, RecursionError):
            values = [value for value in listed.split(",") if value]
    half_read = any(isinstance(value, str) and re.match(r"\d+\s*(:|-|\.\.)", value) for value in values)
    if not name.isidentifier() or not equals or not values or half_read:
        raise BookError(f"grid must be name=first:end or name=value,value,..., got {text!r}")
    return name, values


def cells(root: Path, chapter: str, grid: Mapping[str, Sequence[Any]], shared: Mapping[str, Any]) -> list[Cell]:
    """The cells of a grid, in an order in which two cells that run at once seldom wait for the same baseline.

    Consecutive cells differ in every parameter of the grid where possible.

    Raises:
        BookError: there is no such chapter, or it has no such parameter.
    """
    if chapter not in (names := chapters(root)):
        raise BookError(f"chapter must be one of {', '.join(names)}, got {chapter!r}")
    source = root / "notebooks" / f"{chapter}.ipynb"
    names = set(papermill.inspect_notebook(source)) - {"run_dir"}
    for name in [*grid, *shared]:
        if name not in names or (name in grid and name in shared):
            raise BookError(f"{name!r} is not a parameter to set here, or is set twice; "
                            f"{chapter} has {', '.join(sorted(names))}")
    sizes = [len(values) for values in grid.values()]
    places = sorted(itertools.product(*map(range, sizes)),
                    key=lambda place: [(at - place[0]) % size for at, size in zip(place[1:], sizes[1:])] + [*place])
    result = []
    for place in places:
        values = {name: values[at] for (name, values), at in zip(grid.items(), place)}
        # A cell runs in a folder of its own, so the path of a file must be absolute.
        parameters = {name: str(expanded(value).absolute()) if name in FILES and value else value
                      for name, value in {**shared, **values}.items()}
        title = ",".join(f"{name}-{json.dumps(value, separators=(',', ':'))}" for name, value in values.items())
        result.append(Cell(_folder(title), parameters, stamp(source, parameters)))
    if len({cell.name.casefold() for cell in result}) < len(result):
        raise BookError("grid must give every cell a name of its own, got two values that are the same or read alike")
    return result


def _folder(title: str) -> str:
    """The name of a cell's folder. If it is too long for a file system, a digest replaces its end."""
    name = re.sub(r"[^\w,.-]+", "_", title) or "cell"
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name.encode()[:LONGEST - 13].decode(errors='ignore')}-{text_digest(title)[:12]}"


def _execute(chapter: str, text: str, parameters: Mapping[str, Any], library: str) -> dict[str, Any]:
    """Run a notebook on a worker.

    Returns:
        `notebook`, `metrics` and `log` as text, `error` in one sentence or "",
        the `seconds` it took, and the `machine` it ran on.

    Raises:
        BookError: the digest of the worker's `sa_lib` is not `library`.
    """
    if library_digest() != library:
        raise BookError(f"the worker on {platform.node()} has another sa_lib than the machine that started the sweep")
    os.environ["OMP_NUM_THREADS"] = str(get_worker().state.nthreads)  # PyTorch in the kernel reads it
    # A dask worker sets this so that freed memory returns to the system at once. Training would then request it again
    # at every step.
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
    started, error = time.perf_counter(), ""
    with tempfile.TemporaryDirectory() as folder:
        source, target, log = (Path(folder) / name for name in (f"{chapter}.ipynb", "executed.ipynb", "log.txt"))
        source.write_text(text, encoding="utf-8")
        with open(log, "w", encoding="utf-8") as file:
            try:
                execute(source, target, {**parameters, "run_dir": "run"}, cwd=folder, progress_bar=False,
                        stdout_file=file, stderr_file=file)
            except (PapermillExecutionError, DeadKernelError) as failure:
                error = reason(failure, target)
        metrics = Path(folder) / "run" / chapter / "metrics.json"
        if not error and not metrics.is_file():
            error = f"{chapter} left no metrics"
        return {"notebook": target.read_text(encoding="utf-8"), "log": log.read_text(encoding="utf-8"),
                "metrics": metrics.read_text(encoding="utf-8") if metrics.is_file() else None, "error": error,
                "seconds": time.perf_counter() - started, "machine": machine()}


def sweep(root: Path, out: Path, chapter: str, cells: Sequence[Cell], scheduler: str | None = None,
          workers: int | None = None) -> pd.DataFrame:
    """Run the cells that `out` lacks, and write its tables.

    Args:
        out: the sweep's folder.
        cells: of the grid, see the function `cells`.
        scheduler: the address of a cluster; by default a cluster on this machine.
        workers: number of workers on this machine, by default one per core; at most one per cell is started.

    Returns:
        a row for each cell, see `table`.
    """
    missing = [cell for cell in cells if _state(out, cell).get("error") != ""]
    print(f"{chapter}: {len(cells)} cells, {len(cells) - len(missing)} of them done", flush=True)
    out.mkdir(parents=True, exist_ok=True)  # first, so that a folder that cannot be made is an error before any cell
    try:
        if missing:
            with connected(scheduler, min(workers or machine()["cores"], len(missing))) as client:
                _run(client, root, out, chapter, missing)
    finally:
        results = table(out, cells)
        if len(results):
            with write_atomically(out / "table.csv") as temporary:
                results.to_csv(temporary)
            with write_atomically(out / "table.parquet") as temporary:
                results.to_parquet(temporary)
    return results


def _run(client: Client, root: Path, out: Path, chapter: str, missing: Sequence[Cell]) -> None:
    text = (root / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8")
    library = library_digest()
    futures = {client.submit(_execute, chapter, text, cell.parameters, library, key=f"{cell.name}-{cell.stamp}",
                             pure=False): cell for cell in missing}
    failed = 0
    with tqdm(total=len(futures), desc=chapter, unit="cell") as bar:
        for future in as_completed(futures):
            cell = futures[future]
            try:
                result = future.result()
            except CancelledError:
                raise BookError("the scheduler is gone; start the sweep again to run the missing cells") from None
            except Exception as failure:  # any failure of a worker concerns only its cell
                message = ("its worker died repeatedly" if isinstance(failure, KilledWorker)
                           else str(failure) if isinstance(failure, BookError) else repr(failure))
                result = {"error": message, "seconds": None, "machine": {}}
            _keep(out / cell.name, chapter, cell, result)
            failed += bool(result["error"])
            bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
            bar.update()


def _keep(folder: Path, chapter: str, cell: Cell, result: Mapping[str, Any]) -> None:
    """Write a worker's result. ``cell.json`` comes last, because it marks the cell as complete."""
    for name, part in ((f"{chapter}.ipynb", "notebook"), ("metrics.json", "metrics"), ("log.txt", "log")):
        (folder / name).unlink(missing_ok=True)
        if result.get(part) is not None:
            with write_atomically(folder / name) as temporary:
                temporary.write_text(result[part], encoding="utf-8")
    state = {"stamp": cell.stamp, "parameters": cell.parameters, "error": result["error"],
             "seconds": result["seconds"], "date": datetime.date.today().isoformat(), "machine": result["machine"]}
    with write_atomically(folder / "cell.json") as temporary:
        temporary.write_text(json.dumps(state, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _state(out: Path, cell: Cell) -> dict[str, Any]:
    """The state of a cell with its metrics; empty if its stamp is out of date or one of its files is damaged."""
    try:
        state = json.loads((out / cell.name / "cell.json").read_text(encoding="utf-8"))
        if state["stamp"] != cell.stamp or not isinstance(state["error"], str):
            return {}
        record = {name: state[name] for name in ("error", "seconds", "date", "machine")}
        metrics = {} if record["error"] else json.loads((out / cell.name / "metrics.json").read_text(encoding="utf-8"))
        record["metrics"] = {name: value for name, value in metrics.items() if name != "parameters"}
        json.dumps(record, ensure_ascii=False).encode()  # refuses half a surrogate pair, which no table can hold
        return record
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def table(out: Path, cells: Sequence[Cell]) -> pd.DataFrame:
    """The finished and failed cells, in order of their names.

    Returns:
        Index `cell`; columns: the parameters; `error`, "" if the cell succeeded; `seconds`; `date`; the machine's
        kind and versions (`machine.*`); and the chapter's metrics, nested names joined by dots, lists as JSON.
    """
    rows = []
    for cell in sorted(cells, key=lambda cell: cell.name):
        if state := _state(out, cell):
            metrics = state.pop("metrics")
            rows.append({"cell": cell.name, **cell.parameters, **state, **metrics})
    flat = pd.json_normalize(rows, sep=".")
    for name in flat.columns[flat.map(lambda value: isinstance(value, (list, dict))).any()]:
        flat[name] = [json.dumps(value) if isinstance(value, (list, dict)) else value for value in flat[name]]
    return flat.set_index("cell") if rows else flat
