"""Executed chapters: execute a notebook, tell whether its result is up to date, and read it."""

import ast
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping
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
from ..data import own_digest
from ..evidence import RESULTS
from ..store import code_text, expanded, file_digest
from .notebooks import TITLE, BookError, chapters

__all__ = ["FILES", "execute", "execute_chapter", "executed", "library_digest", "machine", "read", "reason", "stamp"]

# The parameters of chapters that name a file.
FILES = ("model", "table")
# Module of the library -> the committed files that it reads.
COMMITTED = {"comparison": ("evidence.csv",), "evidence": ("evidence.csv",),
             "trials": ("trials.csv", "methods.csv", "convolutional.csv", "sequential.csv", "recipe.csv",
                        "protocol.json"),
             "validation": ("validation.csv", "probes.csv")}
LIBRARY = Path(__file__).parents[1]
KERNEL_SECONDS = 300  # time limit for the start of a kernel; on a busy machine, papermill's 60 s are too few
_code = cache(code_text)  # every cell of a sweep asks for the same


class OwnPython(AsyncKernelManager):
    """A kernel of this Python, even if the user has registered another one under the name python3."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def execute_chapter(root: Path, run_dir: Path, name: str, origin: dict[str, Any]) -> tuple[str, float]:
    """Execute one chapter; `origin`, its stamp and parameters, goes into the metadata of the executed notebook.

    Returns:
        "", for it is no artifact of the store, and the seconds that it took.
    """
    source = root / "notebooks" / f"{name}.ipynb"
    target = root / run_dir / source.name
    failed = target.with_suffix(".failed.ipynb")
    metrics = target.with_suffix("") / "metrics.json"
    for old in (target, failed, metrics):  # a chapter that ends early must not pass with the metrics of an earlier run
        old.unlink(missing_ok=True)
    part = target.with_name(f".{target.name}")
    try:
        notebook = execute(source, part, origin["parameters"], cwd=root, progress_bar=False)
        if not metrics.is_file():
            part.replace(failed)
            raise BookError(f"{name}: it ended without metrics (the notebook is saved as {failed})")
        notebook.metadata["sa_lib"] = {**origin, "machine": machine()}
        nbformat.write(notebook, part)
        part.replace(target)
        return "", notebook.metadata.papermill["duration"]
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
    with suppress(ValueError, OSError):  # the chapter says what is wrong with it
        digest.update(own_digest(parameters.get("dataset", "mnist")).encode())
    text = source.read_text(encoding="utf-8")
    digest.update(text.encode() + library_digest().encode())
    for module in sorted(COMMITTED.keys() & _imported(text)):
        for name in COMMITTED[module]:
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
    paths = sorted(path for part in ("", "figures", "store") for path in (LIBRARY / part).glob("*.py"))
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
