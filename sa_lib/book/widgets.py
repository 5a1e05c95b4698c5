"""Figures to touch in the chapters of the site: they run the playground's models in the reader's browser.

A chapter itself has no trace of them, for neither Jupyter nor Colab could show them. Their text and HTML are
``book/widgets/NN_name.md``, and their JavaScript lies in ``book/_static/``.
"""

import json
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from .notebooks import BookError

__all__ = ["SECTIONS", "add_widget"]

# The section of a chapter at whose end its figure stands.
SECTIONS = {"02_ewc_unlearning": "## Before and after", "05_attacks": "## Has the attacker arrived?"}


def add_widget(name: str, page: NotebookNode, book: Path) -> None:
    """Add its figure to touch, if there is one, to a chapter's page; none where the run has no playground.

    Args:
        page: it is changed.
        book: the folder of the prose pages, with the run's playground.

    Raises:
        BookError: the chapter lacks the section for its figure.
    """
    folder = book / "_static" / "playground"
    models = [folder / "playground.json", folder / "playground.bin"]
    if name not in SECTIONS or not all(path.is_file() for path in models):
        return
    starts = [number for number, cell in enumerate(page.cells)
              if cell.cell_type == "markdown" and cell.source.startswith("## ")]
    own = [number for number in starts if page.cells[number].source.splitlines()[0] == SECTIONS[name]]
    if not own:
        raise BookError(f"{name} must have a cell that begins with {SECTIONS[name]!r}, where its figure to touch goes; "
                        "sa_lib/book/widgets.py names it")
    end = min((number for number in starts if number > own[0]), default=len(page.cells))
    text = (book / "widgets" / f"{name}.md").read_text(encoding="utf-8")
    values = {"digit": json.loads(models[0].read_text(encoding="utf-8"))["digit"],
              "size": f"{sum(path.stat().st_size for path in models) / 1000:,.0f}"}
    for value, shown in values.items():
        text = text.replace("{{" + f"{value} of the playground" + "}}", str(shown))
    page.cells.insert(end, nbformat.v4.new_markdown_cell(text, id="widget"))
