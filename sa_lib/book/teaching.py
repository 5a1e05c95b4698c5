"""For teachers: the chapters without their solutions, and slides of an executed run."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..store import write_atomically
from .execution import executed
from .notebooks import LINK, BookError, as_written, chapters, colab, notebook_text, repository
from .site import mathjax

__all__ = ["deck", "slides", "strip", "stripped"]

BADGE = r"(?m)^\[!\[Open in Colab\].*\n\n?"
FOLDED = r"(?s)<details><summary>(.*?)</summary>.*?</details>\n*"
# Cells that a slide cannot use: solutions, and those that set a run up.
OFF_SLIDES = {"remove-cell", "hide-cell", "parameters", "injected-parameters"}
HIDDEN_INPUT = {"remove-input", "hide-input"}
# The slides of nbconvert with another MathJax: one file beside them, with shapes in place of fonts, since browsers may
# not load these for a page that was opened as a file. It sets all formulas at once, so a slide need not be set again.
TEMPLATE = """{% extends 'index.html.j2' %}
{%- block html_head_js_mathjax -%}
<script>
MathJax = {tex: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], processEscapes: true, tags: "ams"},
           options: {enableMenu: false}};
</script>
<script src="mathjax.js" defer></script>
{%- endblock -%}
{%- block footer_js -%}
{{ super() | replace("Reveal.addEventListener('slidechanged', update);", "") }}
{%- endblock -%}
"""


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _markdown(source: str) -> NotebookNode:
    """A cell whose id is a hash of its source, so that the same chapter gives the same file."""
    return nbformat.v4.new_markdown_cell(source, id=hashlib.sha256(source.encode()).hexdigest()[:12])


def _sections(cells: Iterable[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells, with every heading of the second level at the start of a cell."""
    for cell in cells:
        if cell.cell_type == "markdown":
            yield from (_markdown(part.strip()) for part in re.split(r"(?m)^(?=## )", cell.source) if part.strip())
        else:
            yield cell


def _without_solutions(cells: Iterable[NotebookNode]) -> Iterator[NotebookNode]:
    """The cells from no heading "Solution" to the next heading, and none that the site folds as a solution."""
    inside = False
    for cell in _sections(cells):
        if cell.cell_type == "markdown" and re.match(r"#{1,3} ", cell.source):
            inside = cell.source.startswith("### Solution ")
        if not inside and "hide-cell" not in _tags(cell):
            yield cell


def _without_answers(source: str) -> str:
    """Text without folded parts; of the questions to check oneself, the question is kept."""
    source = re.sub(r"Answer first, then unfold\.\n*", "", re.sub(BADGE, "", source))
    return re.sub(FOLDED, r"- \1\n" if source.startswith("## Check yourself") else "", source).strip()


def _exercises(source: str) -> Iterator[NotebookNode]:
    """A cell for each exercise, and an empty one for its solution."""
    opening, *asked = re.split(r"(?m)^(?=\d+\. )", source)
    yield _markdown(re.sub(r"(?m)^The solutions follow.*\n", "", opening).strip())
    for number, exercise in enumerate(asked, 1):
        yield _markdown(exercise.strip())
        yield nbformat.v4.new_code_cell("# Your solution:\n", id=f"solution-{number}")


def stripped(notebook: NotebookNode) -> NotebookNode:
    """A chapter without solutions, folded derivations and folded answers, and with room for one's own."""
    cells = []
    for cell in _without_solutions(notebook.cells):
        if cell.cell_type != "markdown":
            cells.append(cell)
        elif cell.source.startswith("## Exercises"):
            cells += _exercises(cell.source)
        elif source := _without_answers(cell.source):
            cells.append(_markdown(source))
    kept = {key: value for key, value in notebook.metadata.items() if key != "sa_lib"}
    return NotebookNode(notebook | {"cells": cells, "metadata": NotebookNode(kept)})


def strip(root: Path) -> Path:
    """Write every chapter without its solutions, from its ``.py``.

    Returns:
        the folder of the notebooks, ``_build/strip`` under `root`.
    """
    folder, address = root / "_build" / "strip", repository(root)
    folder.mkdir(parents=True, exist_ok=True)
    for name in chapters(root):
        source = (root / "notebooks" / f"{name}.py").read_text(encoding="utf-8-sig")
        notebook = stripped(nbformat.reads(notebook_text(source, address), as_version=4))
        for cell in notebook.cells:
            # A link leads to the chapter in the same folder, and not to the one with solutions.
            cell.source = cell.source.replace(f"{colab(address, 'main/notebooks')}/", "")
        with write_atomically(folder / f"{name}.ipynb") as temporary:
            nbformat.write(notebook, temporary)
    return folder


def deck(notebook: NotebookNode, address: str) -> NotebookNode:
    """An executed chapter as slides: each "##" section starts one, and text after code goes on below it.

    Args:
        address: of the repository.
    """
    cells = []
    for cell in _without_solutions(notebook.cells):
        tags = _tags(cell)
        if tags & OFF_SLIDES or (tags & HIDDEN_INPUT and not cell.get("outputs")):
            continue
        kind = "-"
        if cell.cell_type == "markdown":
            source = as_written(_without_answers(cell.source), address)
            cell = _markdown(re.sub(LINK, lambda link: link[0].replace(".ipynb", ".html"), source))
            after_code = bool(cells) and cells[-1].cell_type == "code"
            kind = "slide" if re.match(r"##? ", source) else "subslide" if after_code else "-"
        cell.metadata["slideshow"] = {"slide_type": kind}
        cells.append(cell)
    return NotebookNode(notebook | {"cells": cells})


def slides(root: Path, run_dir: Path) -> Path:
    """Write reveal.js slides of the executed chapters of a run.

    Text, tables, figures and drawings are in the files, and MathJax lies beside them. The browser loads reveal.js,
    RequireJS, jQuery and Mermaid.

    Args:
        run_dir: relative to `root`.

    Returns:
        the folder of the slides, ``_build/slides`` under `root`.

    Raises:
        BookError: the run lacks a chapter, or nbconvert is not installed.
    """
    if not find_spec("nbconvert"):
        raise BookError("slides need the package nbconvert; make environment installs it")
    from nbconvert import SlidesExporter
    from traitlets.config import Config
    exporter = SlidesExporter(
        config=Config(TagRemovePreprocessor={"enabled": True, "remove_input_tags": HIDDEN_INPUT}),
        raw_template=TEMPLATE, embed_images=True, reveal_scroll=True, reveal_transition="none", reveal_number="c/t",
        exclude_input_prompt=True, exclude_output_prompt=True)
    folder = root / "_build" / "slides"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(mathjax() / "tex-svg.js", folder / "mathjax.js")
    for name, notebook in executed(root, root / run_dir).items():
        resources = {"metadata": {"name": name, "path": str(root / "notebooks")}}
        page, _ = exporter.from_notebook_node(deck(notebook, repository(root)), resources)
        with write_atomically(folder / f"{name}.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
    return folder
