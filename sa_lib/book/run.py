"""Run the chapters: papermill executes each into ``runs/<name>/`` unless an up-to-date result is there."""

import ast
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from .. import __version__
from ..data import DATASETS, own_digest
from ..evidence import RESULTS
from ..store import code_text, expanded, file_digest, pack, write_atomically
from .notebooks import TITLE, BookError, chapters, sync

__all__ = ["FILES", "RUN_NAME", "execute", "executed", "library_digest", "machine", "models", "read", "reason", "run",
           "stamp"]

# Two chapters of one thread each use two cores better than one chapter of two threads.
JOBS = 2
RUN_NAME = r"\w[\w.-]*"  # such a name cannot lead out of runs/
# The parameters of chapters that name a file.
FILES = ("model", "table")
LIBRARY = Path(__file__).parents[1]
KERNEL_SECONDS = 300  # time limit for the start of a kernel; on a busy machine, papermill's 60 s are too few
_code = cache(code_text)  # every cell of a sweep asks for the same


class OwnPython(AsyncKernelManager):
    """A kernel of this Python, even if the user has registered another one under the name python3."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def run(root: Path, run_dir: Path, parameters: Mapping[str, Any], only: Sequence[str] = ()) -> None:
    """Execute the chapters that this run still lacks, two at a time, each with the parameters that it declares.

    A chapter is done if its metrics and its executed notebook exist and the
    notebook was made from the same source, parameters, library and versions.

    Args:
        run_dir: relative to `root`. The chapters are executed in `root`, so
            no path of this machine appears on a page.
        parameters: name -> JSON value, for the cell tagged ``parameters``.
        only: names of the chapters to run; all by default.

    Raises:
        BookError: a chapter failed, a parameter belongs to no chapter, or a name in `only` is not a chapter's.
    """
    sync(root)
    names = chapters(root)
    if unknown := set(only) - set(names):
        raise BookError(f"there is no chapter {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    sources = {name: root / "notebooks" / f"{name}.ipynb" for name in names}
    declared = {name: papermill.inspect_notebook(path).keys() for name, path in sources.items()}
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
    cores = machine()["cores"]
    jobs = max(1, min(JOBS, cores, len(missing)))
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // jobs))  # PyTorch in the kernels reads it
    pool = ThreadPoolExecutor(jobs)
    # Later chapters take longer, so they start first. If several need one model, one chapter makes it, see `store`.
    running = [pool.submit(_run_chapter, root, run_dir, name, origin) for name, origin in reversed(missing.items())]
    try:
        for chapter in as_completed(running):
            chapter.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _run_chapter(root: Path, run_dir: Path, name: str, origin: dict[str, Any]) -> None:
    """Execute one chapter; `origin`, its stamp and parameters, goes into the metadata of the executed notebook."""
    source = root / "notebooks" / f"{name}.ipynb"
    target = root / run_dir / source.name
    print(f"{name}: running", flush=True)
    failed = target.with_suffix(".failed.ipynb")
    metrics = target.with_suffix("") / "metrics.json"
    for old in (target, failed, metrics):  # a chapter that ends early must not pass with the metrics of an earlier run
        old.unlink(missing_ok=True)
    part = target.with_name(f".{target.name}")
    try:
        notebook = execute(source, part, origin["parameters"], cwd=root, progress_bar={"ncols": 80, "desc": name})
        if not metrics.is_file():
            part.replace(failed)
            raise BookError(f"{name}: it ended without metrics (the notebook is saved as {failed})")
        notebook.metadata["sa_lib"] = {**origin, "machine": machine()}
        nbformat.write(notebook, part)
        part.replace(target)
    except (PapermillExecutionError, DeadKernelError) as error:
        part.replace(failed)
        raise BookError(f"{name}: {reason(error, failed)} (the notebook is saved as {failed})") from None
    except (OSError, RuntimeError) as error:  # a RuntimeError if the kernel does not start
        part.unlink(missing_ok=True)
        raise BookError(f"{name}: {part} cannot be written, or its kernel cannot start: {error}") from None


def execute(source: Path, target: Path, parameters: Mapping[str, Any], **options: Any) -> NotebookNode:
    """Execute a notebook with this Python, and without the user's own start-up files and settings of IPython.

    Args:
        options: further arguments of `papermill.execute_notebook`.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # the kernel may still be writing
        return papermill.execute_notebook(
            source, target, dict(parameters), kernel_name="python3", kernel_manager_class=OwnPython,
            start_timeout=KERNEL_SECONDS, **options, extra_arguments=[
                "--log-level=ERROR", f"--ipython-dir={folder}", "--InteractiveShellApp.exec_PYTHONSTARTUP=False"])


def machine() -> dict[str, Any]:
    """The kind of machine, without its name, and the versions that matter."""
    processor = platform.processor() or platform.machine()
    with open(os.devnull if not os.path.exists("/proc/cpuinfo") else "/proc/cpuinfo") as file:
        if model := re.search(r"model name\s*:\s*(.+)", file.read()):
            processor = model[1]
    return {"processor": processor, "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
            else os.cpu_count(), "system": platform.system(), "python": platform.python_version(),
            "sa_lib": __version__, **{package: version(package) for package in ("torch", "numpy")}}


def stamp(source: Path, parameters: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of everything that a chapter's result depends on; `data.load` checks the data that we downloaded.

    The bytes of a file that a parameter names, and of a user's own data, are part of it. The committed results are
    part of it only if the chapter reads them.
    """
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for name in FILES:
        # The file may have changed under the same path.
        if (path := expanded(str(parameters.get(name) or ""))).is_file():
            digest.update(file_digest(path).encode())
    if (dataset := parameters.get("dataset", "mnist")) in DATASETS:
        digest.update(own_digest(dataset).encode())
    text = source.read_text(encoding="utf-8")
    digest.update(text.encode() + library_digest().encode())
    if {"comparison", "evidence"} & _imported(text):
        for name in ("evidence.csv", "provenance.json"):
            digest.update((RESULTS / name).read_bytes())
    for package in ("torch", "numpy", "matplotlib"):
        digest.update(version(package).encode())
    return digest.hexdigest()


@cache
def _imported(text: str) -> set[str]:
    """The modules of `sa_lib` that the cells of a notebook import by name."""
    names = set()
    for cell in nbformat.reads(text, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        with suppress(SyntaxError):  # such a cell stops the chapter when it is run
            # Lines that begin with % or ! are no Python until IPython has translated them.
            for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("sa_lib.") for name in names if name and name.startswith("sa_lib.")}


def library_digest() -> str:
    """SHA-256 (hex) of the code that a chapter may import, without comments and docstrings, see `store.code_text`."""
    paths = sorted([*LIBRARY.glob("*.py"), *(LIBRARY / "store").glob("*.py")])
    texts = (f"{path.relative_to(LIBRARY).as_posix()}\n{_code(path.read_text(encoding='utf-8'))}" for path in paths)
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def reason(error: Exception, failed: Path) -> str:
    """The number of the cell that failed, counted as in the source, its first line, and its error."""
    if not isinstance(error, PapermillExecutionError):
        return f"the kernel died ({error})"
    cells = [cell for cell in read(failed).cells
             if not {"injected-parameters", "papermill-error-cell-tag"} & set(cell.metadata.get("tags", []))]
    number = 1 + next(index for index, cell in enumerate(cells)
                      if any(output.output_type == "error" for output in cell.get("outputs", [])))
    line = re.sub(TITLE, "", error.source).strip().splitlines()[0]
    return f"cell {number} ({line}) failed with {error.ename}: {error.evalue}"


def read(path: Path) -> NotebookNode:
    """The notebook at `path`; an empty notebook if there is no file or it is damaged."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        origin = notebook.metadata.get("sa_lib", {})
        if "stamp" not in origin:  # the notebook was derived from its .py and not executed, or an error stopped it
            notebook.metadata.pop("sa_lib", None)
        elif not all(isinstance(origin[name], dict) for name in ("parameters", "machine")):
            raise ValueError("its metadata lack its parameters or its machine")
        return notebook
    except Exception:  # a damaged notebook can fail in any way; the chapter is then run again
        return nbformat.v4.new_notebook()


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
