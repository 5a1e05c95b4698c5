"""The site: from the executed chapters of a run to pages with numbered figures and quoted numbers.

Jupyter Book renders the pages and executes nothing. This module prepares its
input, and afterwards removes everything that a page would load from another
server.

A site that is up to date is not rendered again. If pages have changed, Sphinx
reads only these. It writes all pages, as each shows titles and numbers of
others, so the site is the same as one from scratch.
"""

import filecmp
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..checks import shorten
from ..evidence import RESULTS
from ..store import file_digest
from .chapter_pages import is_smoke, page, shareable
from .execution import executed, read
from .notebooks import BookError, repository
from .polish import polish
from .prose import fill
from .widgets import add_widget

__all__ = ["mathjax", "preview", "render"]

LIBRARY = Path(__file__).parents[1]
SETTINGS = ("_config.yml", "_toc.yml")
# The parts of MathJax that `_config.yml` uses; the whole package has 24 MB.
MATHJAX = ("startup.js", "core.js", "input/tex.js", "output/chtml.js", "output/chtml", "a11y/assistive-mml.js")


def render(root: Path, run_dir: Path) -> Path:
    """Make the site of one run.

    Args:
        run_dir: relative to `root`.

    Returns:
        the path of its first page, ``_build/html/index.html`` under `root`; ``_build/executed`` then holds
        the executed notebooks.

    Raises:
        BookError: the run lacks a chapter or a number that a page quotes, its chapters had different
            parameters, or Jupyter Book gave a warning. An earlier site stays as it was.
    """
    build = root / "_build"
    site, stage, made_from = build / "html", build / "stage", build / "html.sha256"
    of_pages, of_site = _inputs(root, run_dir)
    common, everything = _digest(of_site), _digest([*of_pages, *of_site])
    if (site / "index.html").is_file() and (build / "executed").is_dir() and _holds(made_from, everything):
        return site / "index.html"
    _prepare(root, run_dir, stage)
    html = _build(stage, build / "sphinx", common, run_dir)
    polish(html, root / "notebooks", stage / "book")
    made_from.unlink(missing_ok=True)
    _replace(site, html)
    _replace(build / "executed", stage / "executed")
    made_from.write_text(everything)
    shutil.rmtree(build / "preview", ignore_errors=True)
    return site / "index.html"


def preview(root: Path, run_dir: Path, names: Sequence[str]) -> Path:
    """Make pages of the chapters that are done, to read before the others are; links to other pages lead nowhere.

    Returns:
        the path of the first page, ``_build/preview/index.html`` under `root`.
    """
    stage, pages = root / "_build" / "preview.stage", root / "_build" / "preview"
    _lay_out(root, stage)
    (stage / "index.md").write_text("# Chapters that are done\n\nLoad this page again to see whether more are.\n")
    contents = {"format": "jb-book", "root": "index", "chapters": [{"file": f"notebooks/{name}"} for name in names]}
    (stage / "_toc.yml").write_text(json.dumps(contents))  # JSON is YAML
    _write_chapters(stage, {name: read(root / run_dir / f"{name}.ipynb") for name in names}, repository(root))
    _jupyter_book(run_dir, str(stage))
    _replace(pages, stage / "_build" / "html")
    return pages / "index.html"


def _inputs(root: Path, run_dir: Path) -> tuple[list[Path], list[Path]]:
    """The files that one page is made from or another, and those that concern every page."""
    # Hidden files are still being written, or an editor's.
    book, run = ([*folder.rglob("[!.]*")] for folder in (root / "book", root / run_dir))
    prose = [path for path in book if path.suffix == ".md"]
    others = [path for path in book if path.suffix != ".md"]
    return ([*prose, *(root / "notebooks").glob("[!.]*"), *run, *RESULTS.glob("*.json")],
            [*others, *(root / name for name in (*SETTINGS, "pyproject.toml")), *LIBRARY.rglob("*.py")])


def _digest(paths: Iterable[Path]) -> str:
    """SHA-256 (hex) of files, with their names, and of the versions of Python and all packages."""
    packages = Path(sysconfig.get_path("purelib")).glob("*.dist-info")
    digest = hashlib.sha256("\n".join([sys.version, *sorted(path.name for path in packages)]).encode())
    for path in sorted(filter(Path.is_file, paths)):
        digest.update(os.fsencode(path) + file_digest(path).encode())
    return digest.hexdigest()


def _holds(path: Path, text: str) -> bool:
    """Whether there is such a file with this text."""
    return path.is_file() and path.read_bytes() == text.encode()


def _prepare(root: Path, run_dir: Path, stage: Path) -> None:
    """Make `stage`, the input of Jupyter Book."""
    notebooks = executed(root, root / run_dir)
    _lay_out(root, stage)
    _write_pages(stage, root / run_dir, notebooks, repository(root))


def _lay_out(root: Path, stage: Path) -> None:
    """Make `stage` with all that does not depend on a run."""
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(root / "book", stage / "book")
    for name in SETTINGS:
        shutil.copy(root / name, stage)
    _add_mathjax(stage / "book" / "_static" / "mathjax")
    for folder in ("notebooks", "executed", "figures", "book/_static/playground"):
        (stage / folder).mkdir()


def _build(stage: Path, kept: Path, common: str, run_dir: Path) -> Path:
    """Let Jupyter Book make HTML from `stage`.

    Args:
        kept: the folder for what Sphinx keeps of the pages that it has read. Only a build without warnings leaves
            it for the next one, so a warning cannot be lost with a page that is not read again.
        common: the digest of the files that concern every page; if it changes, nothing kept is used.
    """
    source, html, good = kept / "source", kept / "_build" / "html", kept / "good"
    if kept.exists() and not _holds(good, common):
        shutil.rmtree(kept)
    good.unlink(missing_ok=True)
    shutil.rmtree(html, ignore_errors=True)  # Sphinx writes the pages that are not there: all
    _update(source, stage)
    _jupyter_book(run_dir, "-n", "-W", "--keep-going", "--path-output", str(kept), str(source))
    good.write_text(common)
    return html


def _jupyter_book(run_dir: Path, *arguments: str) -> None:
    """Let Jupyter Book make HTML of a run."""
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", *arguments]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        output = built.stdout + built.stderr
        complaints = [line for line in output.splitlines() if re.search("WARNING|ERROR|Error:", line)]
        raise BookError("\n".join([f"Jupyter Book could not render {run_dir}:", *(complaints or [output])]))


def _update(folder: Path, new: Path) -> None:
    """Give `folder` the files of `new`. Those that are equal keep their time, by which Sphinx finds what changed."""
    names = {path.relative_to(new) for path in new.rglob("*") if path.is_file()}
    for path in [*folder.rglob("*")]:
        if path.is_file() and path.relative_to(folder) not in names:
            path.unlink()
    for name in names:
        if not ((folder / name).is_file() and filecmp.cmp(folder / name, new / name, shallow=False)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(new / name, folder / name)


def _replace(folder: Path, new: Path) -> None:
    """Put `new` in the place of `folder`, which stays intact until then."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_pages(stage: Path, run_dir: Path, notebooks: Mapping[str, NotebookNode], address: str) -> None:
    """Write the input of Jupyter Book: executed chapters, also as pages, and prose with the run's numbers."""
    try:
        _write(stage, run_dir, notebooks, address)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise BookError(f"{run_dir} is damaged: {shorten(error)}; without its notebooks, make run makes them "
                        "again") from None


def _write(stage: Path, run_dir: Path, notebooks: Mapping[str, NotebookNode], address: str) -> None:
    for path in run_dir.glob("*/playground.*"):
        shutil.copy(path, stage / "book" / "_static" / "playground")
    fill(stage, run_dir, notebooks, RESULTS)
    _write_chapters(stage, notebooks, address)


def _write_chapters(stage: Path, notebooks: Mapping[str, NotebookNode], address: str) -> None:
    """Write executed chapters, to share and as pages."""
    for name, notebook in notebooks.items():
        nbformat.write(shareable(notebook), stage / "executed" / f"{name}.ipynb")
        shown = page(name, notebook, is_smoke(notebooks), address)
        add_widget(name, shown, stage / "book")
        nbformat.write(shown, stage / "notebooks" / f"{name}.ipynb")


def mathjax() -> Path:
    """The folder of MathJax, which sets formulas without a network; a package has it."""
    package = find_spec("sphinx-mathjax-offline")
    if package is None:
        raise BookError("sphinx-mathjax-offline is not installed; make environment installs it")
    return Path(package.origin).parent / "static" / "mathjax"


def _add_mathjax(folder: Path) -> None:
    """Copy the parts of MathJax that the pages use into `folder`, so that the pages need no network."""
    source = mathjax()
    for name in MATHJAX:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, folder / name)
