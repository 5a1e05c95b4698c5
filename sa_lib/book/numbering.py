"""The numbers of a chapter's figures, tables and formulas, and the references to them in its text.

A chapter says "the figure below" or "the second table above", which reads well wherever it is opened. The site puts the
number there, with a link.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Literal, NamedTuple

from nbformat import NotebookNode

from .notebooks import DRAWINGS

__all__ = ["refer", "with_formulas"]

DRAWING = re.compile(rf"^!\[([^]]+)\]\(({DRAWINGS}/\w+\.svg)\)\n\n\*((?:[^*]|\n)+)\*$", re.MULTILINE)
TABLE = re.compile('<figure class="table" style="margin: 0"><figcaption>')
PHRASE = re.compile(r"\b[Tt]he\s+(?:(second|third)\s+)?(figure|table)\s+(below|above)\b")
STEPS = {None: 1, "second": 2, "third": 3}


class Place(NamedTuple):
    """A figure, a table, or a text, and how to write it."""

    kind: Literal["figure", "table", "text"]
    reference: str
    text: str
    write: Callable[[str], None]


def refer(name: str, cells: Sequence[NotebookNode]) -> None:
    """Number the tables and drawings of the chapter `name`, and put numbers in place of "the figure below".

    A phrase stays as it is if the run has no such figure or table.

    Args:
        cells: of the chapter's page; figures that code has drawn have their names already. Changed in place.
    """
    places = list(_places(name, cells))
    for position, place in enumerate(places):
        if place.kind == "text":
            place.write(_with_references(place.text, places, position))


def with_formulas(name: str, formulas: Iterator[int], source: str) -> str:
    """Markdown with a label at each displayed formula, so that it gets a number.

    Behind each link to a formula, such as ``05_attacks.ipynb#formula-2``, stands its number.
    """
    def numbered(link: re.Match) -> str:
        text, chapter, number = link.groups()
        text = text if chapter == name else f"[{text}]({chapter}.ipynb)"
        return f"{text} {{eq}}`formula-{chapter}-{number}`"
    source = re.sub(r"^\$\$\n.*?\n\$\$$", lambda formula: f"{formula[0]} (formula-{name}-{next(formulas)})", source,
                    flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\[([^]]+)\]\((\d\d_\w+)\.ipynb#formula-(\d+)\)", numbered, source)


def _with_references(text: str, places: Sequence[Place], position: int) -> str:
    def numbered(phrase: re.Match) -> str:
        steps, kind, way = phrase.groups()
        others = places[position + 1:] if way == "below" else places[:position][::-1]
        found = [place.reference for place in others if place.kind == kind]
        return found[STEPS[steps] - 1] if len(found) >= STEPS[steps] else phrase[0]
    return PHRASE.sub(numbered, text)


def _places(name: str, cells: Sequence[NotebookNode]) -> Iterator[Place]:
    tables, drawings = count(1), count(1)
    for cell in cells:
        if cell.cell_type == "markdown":
            yield from _of_markdown(name, cell, drawings)
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"], numbers = _number_tables(int(name[:2]), tables, data["text/html"])
                for number in numbers:
                    yield Place("table", f'<a href="#table-{number.replace(".", "-")}">Table {number}</a>', "", _ignore)
            elif "text/markdown" in data:
                yield Place("text", "", data["text/markdown"], _writer(data, "text/markdown"))
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            yield Place("figure", f"{{numref}}`{figure['name']}`", "", _ignore)


def _of_markdown(name: str, cell: NotebookNode, drawings: Iterator[int]) -> Iterator[Place]:
    """The texts and drawings of a cell, in turns. A drawing with the caption below it becomes a figure."""
    parts, end = [], 0

    def add(part: str) -> Callable[[str], None]:
        parts.append(part)
        position = len(parts) - 1

        def write(text: str) -> None:
            parts[position] = text
            cell.source = "".join(parts)
        return write

    for drawing in DRAWING.finditer(cell.source):
        text = cell.source[end:drawing.start()]
        yield Place("text", "", text, add(text))
        label = f"{name}-drawing-{next(drawings)}"
        alt, path, caption = (" ".join(part.split()) for part in drawing.groups())
        add(f"```{{figure}} {path}\n:alt: {alt}\n:name: {label}\n\n{caption}\n```")
        yield Place("figure", f"{{numref}}`{label}`", "", _ignore)
        end = drawing.end()
    text = cell.source[end:]
    yield Place("text", "", text, add(text))


def _number_tables(chapter: int, tables: Iterator[int], page: str) -> tuple[str, list[str]]:
    """HTML with numbers by chapter, as those of figures, before the captions of its tables; and these numbers."""
    numbers = [f"{chapter}.{next(tables)}" for _ in TABLE.findall(page)]
    left = iter(numbers)

    def numbered(_: re.Match) -> str:
        number = next(left)
        return (f'<figure class="table" id="table-{number.replace(".", "-")}" style="margin: 0"><figcaption>'
                f'<span class="caption-number">Table {number} </span>')
    return TABLE.sub(numbered, page), numbers


def _writer(data: NotebookNode, key: str) -> Callable[[str], None]:
    def write(text: str) -> None:
        data[key] = text
    return write


def _ignore(_: str) -> None:
    pass
