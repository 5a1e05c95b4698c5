"""The notebooks: their names, each ``.ipynb`` from its ``.py``, new chapters, and the repository's address.

The source of a chapter is ``notebooks/NN_name.py`` (Jupytext, percent format); `sync` derives its ``.ipynb``.
"""

import hashlib
import re
import tomllib
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from ..checks import shorten
from ..store import text_digest, write_atomically

__all__ = ["TITLE", "BookError", "adopt", "as_written", "chapters", "colab", "new_chapter", "notebook_text",
           "repository", "set_repository", "sync"]

TEMPLATE = Path(__file__).parents[2] / "tools" / "chapter_template.py"
# Tags of the cells that the site hides; solutions have "hide-cell".
HIDDEN = {"remove-cell", "remove-input", "hide-input", "hide-cell"}
# The title of a folded cell, by the first of these calls in it.
TITLES = {"import sa_lib": "Installation", ".finish(": "Results to a file", "write_metrics(": "Results to a file",
          "show_figure(": "Figure", "show_claims(": "Claims", "show_table(": "Table", "say(": "Numbers in words"}
TITLE = r"\A# @title .*\n"
# A link from one chapter to another, as the source has it.
LINK = r"\]\(([0-9]{2}_\w+\.ipynb(?:#[^)]*)?)\)"
# The folder of the drawings, as a chapter links to it; see tools/drawings.py.
DRAWINGS = "../book/_static/drawings"


class BookError(Exception):
    """The book cannot be made; the message gives the reader the reason in one sentence."""


def chapters(root: Path) -> list[str]:
    """Names of the chapters in order, such as "01_baseline"."""
    names = sorted(path.stem for path in (root / "notebooks").glob("[0-9][0-9]_*.py"))
    if not names:
        raise BookError(f"there is no chapter (NN_name.py) in {root / 'notebooks'}")
    return names


def notebook_text(source: str, address: str) -> str:
    """The ``.ipynb`` of a chapter's ``.py`` source, byte for byte the same on every machine.

    Colab and Jupyter fold the cells that the site hides, links between chapters lead to Colab, and drawings come
    from the repository. The id of a cell is a hash of its source, so editing one cell leaves the ids of all others
    unchanged.

    Args:
        address: of the repository.
    """
    notebook = jupytext.reads(source, fmt="py:percent")
    counts = Counter()
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        counts[digest] += 1
        cell.id = digest if counts[digest] == 1 else f"{digest}-{counts[digest]}"
        cell.metadata.pop("lines_to_next_cell", None)
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "markdown":
            cell.source = re.sub(LINK, rf"]({colab(address, 'main/notebooks')}/\1)", cell.source)
            cell.source = re.sub(rf"\]\({DRAWINGS}/(\w+\.svg)\)", rf"]({_drawings(address)}/\1?sanitize=true)",
                                 cell.source)
        elif tags & HIDDEN:
            cell.metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
            cell.source = f"# @title {_title(cell.source, tags)}\n{cell.source}"
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}, "sa_lib": {"derived": _cells_digest(notebook)}}
    return nbformat.writes(notebook, version=4) + "\n"


def _cells_digest(notebook: NotebookNode) -> str:
    """SHA-256 (hex) of the cells' sources. An ``.ipynb`` that has another digest than its metadata was edited."""
    return text_digest("\0".join(f"{cell.cell_type}\n{cell.source}" for cell in notebook.cells))


def _check_unedited(path: Path) -> None:
    """Refuse to overwrite a notebook with edits that its ``.py`` may lack."""
    try:
        notebook = nbformat.read(path, as_version=4)
        edited = notebook.metadata.get("sa_lib", {}).get("derived") != _cells_digest(notebook)
    except Exception:  # a damaged notebook can fail in any way, and may still hold a reader's work
        edited = True
    if edited:
        raise BookError(f"{path} was edited, and {path.stem}.py may lack the edits; bring them over with "
                        f"sa-book adopt {path.stem}, or delete the .ipynb")


def adopt(root: Path, name: str) -> Path:
    """Bring the cells of a chapter's ``.ipynb`` over to its ``.py``.

    Returns:
        the path of the ``.py``.

    Raises:
        BookError: there is no such notebook, it is damaged, or the ``.py`` could not hold one of its cells.
    """
    path = root / "notebooks" / f"{name}.ipynb"
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise BookError(f"name must be a chapter such as {chapters(root)[0]}, got {name}") from None
    except Exception as error:  # a damaged notebook can fail in any way
        raise BookError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    for cell in notebook.cells:
        cell.source = as_written(cell.source, repository(root))
        cell.metadata = NotebookNode({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
    _check_adoptable(path, notebook)
    notebook.metadata = NotebookNode({"jupytext": {"notebook_metadata_filter": "-all"}})
    source = re.sub(r"\n{3,}# %%", "\n\n# %%", jupytext.writes(notebook, fmt="py:percent"))
    _write(path.with_suffix(".py"), source)
    path.unlink()
    sync(root)
    return path.with_suffix(".py")


def _check_adoptable(path: Path, notebook: NotebookNode) -> None:
    """Refuse cells that a ``.py`` does not hold as they are: pasted pictures, and lines that begin another cell."""
    read = jupytext.reads(jupytext.writes(notebook, fmt="py:percent"), fmt="py:percent").cells
    for number, cell in enumerate(notebook.cells):
        other = read[number] if number < len(read) else nbformat.v4.new_raw_cell()
        if cell.get("attachments") or (cell.cell_type, *cell.source.split()) != (
                other.cell_type, *other.source.split()):
            raise BookError(f"{path.stem}.py cannot hold cell {number + 1} of {path}, which begins "
                            f"{shorten(cell.source[:60])}; take out pasted pictures and lines that begin with # %%")


def colab(address: str, folder: str) -> str:
    """The address at which Colab opens the notebooks in a folder of a branch, such as "main/notebooks"."""
    return f"{address.replace('github.com', 'colab.research.google.com/github')}/blob/{folder}"


def _drawings(address: str) -> str:
    """The address of the drawings in the repository."""
    return f"{address.replace('github.com', 'raw.githubusercontent.com')}/main/book/_static/drawings"


def as_written(source: str, address: str) -> str:
    """A cell's source without the changes of `notebook_text`: no title, and relative links."""
    source = re.sub(rf"\]\({re.escape(_drawings(address))}/(\w+\.svg)\?sanitize=true\)", rf"]({DRAWINGS}/\1)", source)
    # The badge at the top, a picture in a link, stays as it is.
    return re.sub(rf"(?<!\))\]\({re.escape(colab(address, 'main/notebooks'))}/", "](", re.sub(TITLE, "", source))


def _title(source: str, tags: set[str]) -> str:
    """A few words for a folded cell: its purpose, by its tags and its calls."""
    if "in-short" in tags:
        return "In short"
    if "takeaways" in tags:
        return "Takeaways"
    if "hide-cell" in tags:
        return "Solution"
    for call, title in TITLES.items():
        if call in source:
            return title
    return "Computation"


def sync(root: Path, check: bool = False) -> list[str]:
    """Derive every ``.ipynb`` from its ``.py`` again (with `check`, write nothing).

    Returns:
        names of the chapters whose ``.ipynb`` differed from its ``.py``.

    Raises:
        BookError: an ``.ipynb`` was edited since it was derived.
    """
    differing = []
    for name in chapters(root):
        path = root / "notebooks" / f"{name}.ipynb"
        text = notebook_text(path.with_suffix(".py").read_text(encoding="utf-8-sig"), repository(root))
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        differing.append(name)
        if not check:
            if path.is_file():
                _check_unedited(path)
            _write(path, text)
    return differing


def new_chapter(root: Path, name: str) -> Path:
    """Make a small chapter that works, with its ``.ipynb`` and its lines in _toc.yml and in the README's table.

    Args:
        name: its number and topic, such as "09_topic".

    Returns:
        the path of its ``.py``, the file to edit.

    Raises:
        BookError: the name is not of this form, or another chapter has its number.
    """
    if not re.fullmatch(r"[0-9]{2}_[a-z][a-z0-9_]*", name):
        raise BookError(f"NAME must be two digits and a topic, as in 09_topic, got {name}")
    names = chapters(root)
    if same := [other for other in names if other[:2] == name[:2]]:
        raise BookError(f"NAME must have a number of its own, got {name} beside {same[0]}")
    title = name[3:].replace("_", " ").capitalize()
    text = TEMPLATE.read_text(encoding="utf-8")
    for word, value in (("NAME", name), ("TITLE", title), ("ADDRESS", repository(root)),
                        ("COLAB", repository(root).replace("github.com", "colab.research.google.com/github"))):
        text = re.sub(rf"\b{word}\b", value, text)
    path = root / "notebooks" / f"{name}.py"
    _write(path, text)
    for listing in (root / "_toc.yml", root / "README.md"):
        lines = listing.read_text(encoding="utf-8").splitlines(keepends=True)
        at = max(n for n, line in enumerate(lines)
                 if re.match(rf"( *- file: |\| .*)\S*notebooks/{names[-1]}\b", line))
        line = re.sub(r"^\| \d.*?\| .*? \| .*? \|", f"| {int(name[:2])}. {title} | what it shows | a few minutes |",
                      lines[at]).replace(names[-1], name)
        _write(listing, "".join([*lines[:at + 1], line, *lines[at + 1:]]))
    sync(root)
    return path


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def repository(root: Path) -> str:
    """The repository's address, from pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def set_repository(root: Path, url: str) -> None:
    """Change the repository's address everywhere: in the configuration, badges and install cells."""
    match = re.fullmatch(r"https://github\.com/([A-Za-z0-9-]+/[A-Za-z0-9._-]+?)(?:\.git)?/?", url)
    if not match:
        raise BookError(f"URL must be https://github.com/<owner>/<name>, got {url}")
    old = repository(root).removeprefix("https://github.com/")
    for path in [root / "pyproject.toml", root / "_config.yml", *root.glob("*.md"), *root.glob("*.cff"),
                 *root.glob(".github/*.md"), *(root / "notebooks").glob("*.py"), *(root / "book").rglob("*.md")]:
        text = path.read_text(encoding="utf-8")
        _write(path, re.sub(rf"{re.escape(old)}(?![\w-])", match[1], text))
    sync(root)
