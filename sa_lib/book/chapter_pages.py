"""Executed chapters, as pages of the site and to share."""

import re
from collections.abc import Mapping
from itertools import count
from typing import Any

import nbformat
from nbformat import NotebookNode

from .notebooks import BookError, as_written, colab
from .numbering import refer, with_formulas

__all__ = ["SMOKE", "figures", "is_smoke", "marked", "metadata_of", "page", "shareable"]

SMOKE = ("```{admonition} Smoke run\n:class: warning\nLittle data and few steps: this run only shows that "
         "everything works. Its numbers and pictures mean nothing.\n```")


def is_smoke(notebooks: Mapping[str, NotebookNode]) -> bool:
    return any(notebook.metadata.sa_lib.parameters.get("profile") == "smoke" for notebook in notebooks.values())


def page(name: str, notebook: NotebookNode, smoke: bool, address: str) -> NotebookNode:
    """An executed chapter as a page: without cells and metadata that readers do not need.

    Its figures, tables and formulas have numbers, and its text refers to them by these.
    """
    formulas = count(1)
    page = nbformat.v4.new_notebook(metadata={"kernelspec": notebook.metadata.kernelspec})
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags or "in-short" in tags:
            continue
        cell.source = as_written(cell.source, address)
        cell.metadata = NotebookNode({"tags": [tag for tag in tags if tag != "parameters"]})
        if "parameters" in tags:
            cell.source = _with_values(cell.source, notebook.metadata.sa_lib.parameters)
        if cell.cell_type == "code":
            _set_figures(name, len(page.cells), cell)
        else:
            cell.source = with_formulas(name, formulas, cell.source)
        page.cells.append(cell)
    refer(name, page.cells)
    # The page has its own launch button, and the badge is a picture from another server.
    title = re.sub(r"\[!\[[^]]*\]\([^)]*\)\]\([^)]*\)\n*", "", page.cells[0].source)
    links = (f"[Executed, in Colab]({colab(address, 'executed')}/{name}.ipynb) · "
             f"{{download}}`Executed notebook <../executed/{name}.ipynb>` · "
             f"[Source]({address}/blob/main/notebooks/{name}.py) · [How to read the results](../book/reading)")
    if short := _in_short(notebook):
        title = marked(title, f"::::{{admonition}} In short\n:class: tip\n{short}\n::::")
    page.cells[0].source = marked(marked(title, links), SMOKE) if smoke else marked(title, links)
    return page


def _in_short(notebook: NotebookNode) -> str:
    """The findings of an executed chapter, in Markdown: the output of its cell with the tag in-short, if it has one."""
    return "\n\n".join(output.data["text/markdown"] for cell in notebook.cells
                       if "in-short" in cell.metadata.get("tags", []) for output in cell.outputs
                       if "text/markdown" in output.get("data", {})).removeprefix("**In short**").strip()


def _with_values(source: str, parameters: Mapping[str, Any]) -> str:
    """The parameters cell as it was executed: with the run's values and without Colab's forms."""
    lines = []
    for line in source.splitlines():
        line = re.sub(r"\s*#\s*@param.*$", "", line)
        name = line.partition("=")[0].strip()
        lines.append(f"{name} = {parameters[name]!r}" if name in parameters else line)
    return "\n".join(lines)


def metadata_of(output: NotebookNode) -> Mapping[str, Any]:
    """The metadata that `sa_lib.chapter` gave an output."""
    return output.get("metadata", {}).get("sa_lib", {})


def _set_figures(name: str, position: int, cell: NotebookNode) -> None:
    """Turn the metadata of a cell's outputs by `sa_lib.chapter` into those that MyST-NB reads."""
    figures = [metadata for output in cell.outputs if (metadata := metadata_of(output)).get("role") == "figure"]
    cell.outputs = [output for output in cell.outputs if metadata_of(output).get("role") not in ("caption", "banner")]
    if len(figures) > 1:
        raise BookError(f"{name}: the cell that begins {cell.source.splitlines()[0]!r} must show at most one figure, "
                        f"got {len(figures)}")
    for figure in figures:
        cell.metadata["mystnb"] = {"image": {"alt": figure["alt"], "width": f"{figure['width']}px"},
                                   "figure": {"caption": figure["caption"], "name": f"{name}-{position}"}}
    for output in cell.outputs:
        # A height would distort the picture where the page is narrower than its width.
        output.get("metadata", {}).get("image/png", {}).pop("height", None)


def figures(notebook: NotebookNode) -> list[NotebookNode]:
    """The outputs of an executed chapter that are figures, in their order."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])
            if metadata_of(output).get("role") == "figure"]


def marked(text: str, mark: str) -> str:
    """A Markdown page with `mark` below its title."""
    return re.sub(r"^# .*$", lambda title: f"{title[0]}\n\n{mark}", text, count=1, flags=re.MULTILINE)


def shareable(notebook: NotebookNode) -> NotebookNode:
    """An executed chapter to share: with its findings first, without paths of this machine and progress bars."""
    shared = nbformat.from_dict(notebook)
    if short := _in_short(notebook):
        shared.cells.insert(1, nbformat.v4.new_markdown_cell(f"**In short**\n\n{short}", id="in-short"))
    for name in ("input_path", "output_path", "environment_variables"):
        shared.metadata.get("papermill", {}).pop(name, None)
    for cell in shared.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return shared
