"""From chapters to a book: pair the notebooks, run them, render the site.

A chapter is ``notebooks/NN_name.py`` (Jupytext, percent format); ``sync`` derives
the ``.ipynb`` from it. ``run`` executes the chapters into ``runs/<name>/``, and
``render`` makes ``_build/html`` of one such run. Used by the Makefile::

    python -m sa_lib.book sync [--check]
    python -m sa_lib.book run --run full -p forget 9
    python -m sa_lib.book render --run full
    python -m sa_lib.book models --run full
    python -m sa_lib.book new-chapter 09_topic
    python -m sa_lib.book repo https://github.com/me/my-fork

This module needs the extra ``book``; a chapter in Colab never imports it.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

import sa_lib
from sa_lib import site
from sa_lib.files import write_atomically
from sa_lib.site import BookError
from sa_lib.store import pack

__all__ = ["BookError", "chapters", "library_digest", "machine", "models", "new_chapter", "reason", "render",
           "repository", "run", "set_repository", "stamp", "sync", "value"]

# Two chapters of one thread each use two cores better than one chapter of two threads.
JOBS = 2
RUN_NAME = r"\w[\w.-]*"  # so that a run lies in runs/
RESULTS = Path(__file__).parent.parent / "results"
TEMPLATE = Path(__file__).parent.parent / "tools" / "chapter_template.py"
# Modules that shape the site alone: a change in them leaves executed chapters good.
NOT_IN_CHAPTERS = {"book.py", "check.py", "pages.py", "site.py", "sweep.py"}


def chapters(root: Path) -> list[str]:
    """Names of the chapters in order, such as "01_baseline"."""
    names = sorted(path.stem for path in (root / "notebooks").glob("[0-9][0-9]_*.py"))
    if not names:
        raise BookError(f"there is no chapter (NN_name.py) in {root / 'notebooks'}")
    return names


# Pairing ------------------------------------------------------------------------------------

def notebook_text(source: str) -> str:
    """The ``.ipynb`` of a chapter's ``.py`` source: the same bytes whenever and wherever it is made.

    A cell's id is a hash of its own content, so that editing one cell leaves
    the ids of all others as they were.
    """
    notebook = jupytext.reads(source, fmt="py:percent")
    seen = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}}
    return nbformat.writes(notebook, version=4) + "\n"


def sync(root: Path, check: bool = False) -> list[str]:
    """Bring every ``.ipynb`` up to its ``.py`` (or, with `check`, touch nothing).

    Returns:
        names of the chapters whose ``.ipynb`` was not what its ``.py`` says.
    """
    differing = []
    for name in chapters(root):
        path = root / "notebooks" / f"{name}.ipynb"
        text = notebook_text(path.with_suffix(".py").read_text(encoding="utf-8"))
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        differing.append(name)
        if not check:
            with write_atomically(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return differing


def new_chapter(root: Path, name: str) -> Path:
    """Begin a chapter: a small one that works, its ``.ipynb``, and its lines in _toc.yml and the README's table.

    Args:
        name: its number and topic, such as "09_topic".

    Returns:
        the path of its ``.py``, which is the one to edit.

    Raises:
        BookError: the name is not allowed, or its number is taken.
    """
    if not re.fullmatch(r"[0-9]{2}_[a-z][a-z0-9_]*", name):
        raise BookError(f"NAME={name} is not allowed; use two digits and a topic, as in 09_topic")
    names = chapters(root)
    if taken := [other for other in names if other[:2] == name[:2]]:
        raise BookError(f"NAME={name} is not allowed; there is {taken[0]}, so use another number")
    title = name[3:].replace("_", " ").capitalize()
    text = TEMPLATE.read_text(encoding="utf-8")
    for word, meant in (("NAME", name), ("TITLE", title), ("ADDRESS", repository(root)),
                        ("COLAB", repository(root).replace("github.com", "colab.research.google.com/github"))):
        text = re.sub(rf"\b{word}\b", meant, text)
    path = root / "notebooks" / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    for listing in (root / "_toc.yml", root / "README.md"):
        lines = listing.read_text(encoding="utf-8").splitlines(keepends=True)
        at = max(n for n, line in enumerate(lines)
                 if re.match(rf"( *- file: |\| .*)\S*notebooks/{names[-1]}\b", line))
        line = re.sub(r"^\| \d.*?\| .*? \| .*? \|", f"| {int(name[:2])}. {title} | what it shows | a few minutes |",
                      lines[at]).replace(names[-1], name)
        listing.write_text("".join([*lines[:at + 1], line, *lines[at + 1:]]), encoding="utf-8")
    sync(root)
    return path


# Running ------------------------------------------------------------------------------------

def run(root: Path, run_dir: Path, parameters: Mapping[str, Any], only: Sequence[str] = ()) -> None:
    """Execute the chapters that this run still lacks, two at a time, each with the parameters that it declares.

    A chapter is done if its executed notebook is there, was made from the same
    source, parameters, library and versions, and has left its metrics.

    Args:
        run_dir: relative to `root`, where the chapters are executed, so that no
            path of this machine shows on a page.
        parameters: name -> JSON value, for the cell tagged ``parameters``.
        only: names of the chapters to run; all by default.

    Raises:
        BookError: a chapter failed, or no chapter knows a parameter or a name in `only`.
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
        given = {key: value for key, value in parameters.items() if key in declared[name]}
        given["run_dir"] = run_dir.as_posix()
        wanted = stamp(sources[name], given)
        target = root / run_dir / f"{name}.ipynb"
        if (_read(target).metadata.get("sa_lib", {}).get("stamp") == wanted
                and (root / run_dir / name / "metrics.json").is_file()):
            print(f"{name}: already done", flush=True)
        else:
            missing[name] = {"stamp": wanted, "parameters": given}
    cores = os.cpu_count() or 1
    jobs = max(1, min(JOBS, cores, len(missing)))
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // jobs))  # the kernels' torch takes it from here
    pool = ThreadPoolExecutor(jobs)
    # The later chapters take longer than the first. What several need, one makes: see `sa_lib.store`.
    running = [pool.submit(_run_chapter, root, run_dir, name, made) for name, made in reversed(missing.items())]
    try:
        for chapter in as_completed(running):
            chapter.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _run_chapter(root: Path, run_dir: Path, name: str, made: dict[str, Any]) -> None:
    source = root / "notebooks" / f"{name}.ipynb"
    target = root / run_dir / source.name
    print(f"{name}: running", flush=True)
    failed = target.with_suffix(".failed.ipynb")
    target.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    part = target.with_name(f".{target.name}")
    try:
        notebook = papermill.execute_notebook(source, part, made["parameters"], kernel_name="python3", cwd=root,
                                              progress_bar={"ncols": 80, "desc": name},
                                              extra_arguments=["--log-level=ERROR"])
        notebook.metadata["sa_lib"] = {**made, "machine": machine()}
        nbformat.write(notebook, part)
        part.replace(target)
    except (PapermillExecutionError, DeadKernelError) as error:
        part.replace(failed)
        raise BookError(f"{name}: {reason(error, failed)} (the notebook is kept: {failed})") from None
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BookError(f"{name}: {part} cannot be written, or its kernel not started: {error}") from None


def machine() -> dict[str, Any]:
    """The kind of machine this is, and the versions that matter; no name of it."""
    processor = platform.processor() or platform.machine()
    with open(os.devnull if not os.path.exists("/proc/cpuinfo") else "/proc/cpuinfo") as file:
        if found := re.search(r"model name\s*:\s*(.+)", file.read()):
            processor = found[1]
    return {"processor": processor, "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
            else os.cpu_count(), "system": platform.system(), "python": platform.python_version(),
            "sa_lib": sa_lib.__version__, **{package: version(package) for package in ("torch", "numpy")}}


def stamp(source: Path, parameters: Mapping[str, Any]) -> str:
    """SHA-256 of what a chapter's result depends on; the data are checked where they are read."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    text = source.read_bytes()
    digest.update(text + library_digest().encode())
    if b"evidence.RESULTS" in text:
        for path in sorted(RESULTS.glob("*")):
            digest.update(path.read_bytes())
    for package in ("torch", "numpy", "matplotlib"):
        digest.update(version(package).encode())
    return digest.hexdigest()


def library_digest() -> str:
    """SHA-256 of the part of the library that chapters use."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name not in NOT_IN_CHAPTERS:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def reason(error: Exception, failed: Path) -> str:
    """Which cell, counted as in the source, and what went wrong."""
    if not isinstance(error, PapermillExecutionError):
        return f"the kernel died ({error})"
    ours = [cell for cell in _read(failed).cells
            if not {"injected-parameters", "papermill-error-cell-tag"} & set(cell.metadata.get("tags", []))]
    number = 1 + next(index for index, cell in enumerate(ours)
                      if any(output.output_type == "error" for output in cell.get("outputs", [])))
    line = error.source.strip().splitlines()[0]
    return f"cell {number} ({line}) failed with {error.ename}: {error.evalue}"


def _read(path: Path) -> NotebookNode:
    """The notebook at `path`, an empty one where there is none or only a part of one."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        made = notebook.metadata.get("sa_lib", {"parameters": {}, "machine": {}})
        if not all(isinstance(made[name], dict) for name in ("parameters", "machine")):
            raise ValueError("it does not say how it was made")
        return notebook
    except Exception:  # what is no whole notebook can fail in any way, and is made again
        return nbformat.v4.new_notebook()


def models(root: Path, run_dir: Path) -> str:
    """Pack the trained models that the chapters of a run asked for into ``_build/models-<run>.zip``.

    Returns:
        the archive's address for ``SA_MODELS``: its path and digest.

    Raises:
        BookError: the run lacks a chapter, or the store a model of it.
    """
    try:
        names = {line for name in _executed(root, root / run_dir)
                 for line in (root / run_dir / name / "models.txt").read_text().splitlines()}
        return pack(names, root / "_build" / f"models-{run_dir.name}.zip")
    except (FileNotFoundError, ValueError) as error:
        raise BookError(f"the models of {run_dir} cannot be packed: {error}; SA_CACHE must name the store that "
                        "the run was made with") from None


# Rendering ----------------------------------------------------------------------------------

def render(root: Path, run_dir: Path) -> Path:
    """Make the site of one run.

    Returns:
        the path of its first page, ``_build/html/index.html`` under `root`.

    Raises:
        BookError: the run lacks a chapter, mixes parameters, lacks a number that a
            page quotes, or Jupyter Book found anything to warn of. The site that
            was there before is left as it was.
    """
    return site.render(root, run_dir, _executed(root, root / run_dir), repository(root))


def _executed(root: Path, run_dir: Path) -> dict[str, NotebookNode]:
    """The executed chapters of a run, complete and all made with the same parameters."""
    try:
        wanted = dict(json.loads((run_dir / "run.json").read_text())["parameters"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        raise BookError(f"there is no run in {run_dir}; make it first: make run RUN={run_dir.name}") from None
    notebooks = {name: _read(run_dir / f"{name}.ipynb") for name in chapters(root)}
    missing = [name for name, notebook in notebooks.items() if "sa_lib" not in notebook.metadata]
    if missing:
        raise BookError(f"{run_dir} lacks {', '.join(missing)}; make run RUN={run_dir.name} makes it")
    for name, notebook in notebooks.items():
        if differing := {key for key, value in notebook.metadata.sa_lib.parameters.items()
                         if key != "run_dir" and wanted.get(key) != value}:
            raise BookError(f"{name} in {run_dir} was made with another {', '.join(sorted(differing))} than "
                            f"the run now has; make run RUN={run_dir.name} makes it again")
    return notebooks


# The repository's address -------------------------------------------------------------------

def repository(root: Path) -> str:
    """The repository's address, kept in pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def set_repository(root: Path, url: str) -> None:
    """Change the repository's address wherever it stands: configuration, badges, install cells."""
    match = re.fullmatch(r"https://github\.com/([A-Za-z0-9-]+/[A-Za-z0-9._-]+?)(?:\.git)?/?", url)
    if not match:
        raise BookError(f"URL={url} is not allowed; use https://github.com/<owner>/<name>")
    old = repository(root).removeprefix("https://github.com/")
    for path in [root / "pyproject.toml", root / "_config.yml", *root.glob("*.md"), *root.glob("*.cff"),
                 *(root / "notebooks").glob("*.py"), *(root / "book").rglob("*.md")]:
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(rf"{re.escape(old)}(?![\w-])", match[1], text), encoding="utf-8")
    sync(root)


# Command line -------------------------------------------------------------------------------

def value(text: str) -> Any:
    """A parameter from the command line: JSON where it is JSON, text otherwise."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m sa_lib.book", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    pair = commands.add_parser("sync", help="derive every .ipynb from its .py")
    pair.add_argument("--check", action="store_true", help="only say which differ, and fail if any does")
    execute = commands.add_parser("run", help="execute the chapters that the run lacks")
    execute.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                         help="a chapter's parameter; may be repeated")
    execute.add_argument("--chapters", nargs="*", default=[], help="only these")
    site = commands.add_parser("render", help="make the site of a run")
    archive = commands.add_parser("models", help="pack the trained models of a run into one file")
    for command in (execute, site, archive):
        command.add_argument("--run", required=True, metavar="NAME", help="the folder in runs/")
    commands.add_parser("new-chapter", help="begin a chapter").add_argument("name")
    commands.add_parser("repo", help="set the repository's address").add_argument("url")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    try:
        if options.command in ("run", "render", "models") and not re.fullmatch(RUN_NAME, options.run):
            raise BookError(f"RUN={options.run} is not allowed; use letters, digits, '.', '-' and '_'")
        if options.command == "sync":
            differing = sync(root, options.check)
            print("\n".join(f"{name}: .ipynb {'differs from' if options.check else 'made from'} .py"
                            for name in differing) or "all pairs agree")
            return int(options.check and bool(differing))
        if options.command == "run":
            parameters = {name: value(text) for name, text in options.p}
            run(root, Path("runs", options.run), parameters, options.chapters)
        elif options.command == "render":
            print(render(root, Path("runs", options.run)))
        elif options.command == "new-chapter":
            print(f"{new_chapter(root, options.name)}: a chapter that works; make it yours, then make run")
        elif options.command == "models":
            print(f"SA_MODELS={models(root, Path('runs', options.run))}")
        else:
            set_repository(root, options.url)
    except (BookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; started again, it does what is missing", file=sys.stderr, flush=True)
        os._exit(130)  # a chapter's thread waits for its kernel, which ends with this process
    return 0


if __name__ == "__main__":
    sys.exit(main())
