"""The prose pages of the site, filled with the numbers and figures of a run and of the kept results."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from .. import trials
from ..chapter import read_metrics
from ..claims import LIMITS
from .chapter_pages import SMOKE, figures, is_smoke, marked, metadata_of
from .notebooks import TITLE, BookError

__all__ = ["fill"]


def fill(stage: Path, run_dir: Path, notebooks: Mapping[str, NotebookNode], results: Path) -> None:
    """Fill the pages in ``book/`` of `stage` with numbers and figures.

    Args:
        results: the folder of the kept results.
    """
    from . import explorer  # here for the same reason as in `_quotes`
    how = _how_run(notebooks, run_dir)
    explorer.add_scripts(stage / "book" / "_static" / "bokeh")
    evidence = explorer.html(trials.read(results / "trials.csv"))
    quotes = _quotes(notebooks, run_dir, stage / "figures", results)
    for path in (stage / "book").rglob("*.md"):
        text = _with_numbers(path, run_dir).replace("{{how it was run}}", how)
        text = text.replace("{{evidence explorer}}", evidence)
        text = _with_quotes(text, path, quotes)
        text = _with_figures(text, path, notebooks, stage / "figures")
        path.write_text(marked(text, SMOKE) if is_smoke(notebooks) else text, encoding="utf-8")


def _with_numbers(path: Path, run_dir: Path) -> str:
    """A prose page with each ``{{01_baseline.nll:.1f}}`` replaced by the run's number."""
    def number(match: re.Match) -> str:
        chapter, *keys = match["key"].split(".")
        try:
            value = read_metrics(run_dir, chapter)
            for key in keys:
                value = value[key]
            return format(value, match["spec"] or "")
        except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise BookError(f"{path.name} quotes {match[0]}, which {run_dir} lacks: {error}") from None
    quote = r"\{\{\s*(?P<key>[\w.]+)(?::(?P<spec>[^}\s]*))?\s*\}\}"
    return re.sub(quote, number, path.read_text(encoding="utf-8"))


def _with_quotes(text: str, path: Path, quotes: Mapping[str, str]) -> str:
    """A prose page with each ``{{speed of fisher}}``, ``{{tried: homes}}`` or ``{{limit of gray}}`` replaced."""
    def part(match: re.Match) -> str:
        if match[1] not in quotes:
            raise BookError(f"{path.name} quotes {match[0]}, which results/ lacks")
        return quotes[match[1]]
    return re.sub(r"\{\{((?:speed of|tried:|limit of) [^}]+)\}\}", part, text)


def _with_figures(text: str, path: Path, notebooks: Mapping[str, NotebookNode], folder: Path) -> str:
    """A prose page with each ``{{figure 02_ewc_unlearning 4}}`` replaced by that figure of the run with its caption."""
    def figure(match: re.Match) -> str:
        name, number = match[1], int(match[2])
        outputs = figures(notebooks.get(name, nbformat.v4.new_notebook()))
        if not 1 <= number <= len(outputs):
            raise BookError(f"{path.name} shows {match[0]}, but {name} has {len(outputs)} figures")
        output, picture = outputs[number - 1], folder / f"{name}-{number}.png"
        picture.write_bytes(base64.b64decode(output.data["image/png"]))
        metadata = metadata_of(output)
        return (f"```{{figure}} ../figures/{picture.name}\n:alt: {metadata.alt}\n:width: {metadata.width}px\n"
                f"{metadata.caption}\n```")
    return re.sub(r"\{\{figure (\w+) (\d+)\}\}", figure, text)


def _code(text: str) -> str:
    """Text as a Markdown code span, with enough backticks that its content cannot close the span."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _seconds(metadata: Mapping[str, Any]) -> float:
    """The seconds that a chapter or a cell took, by papermill's metadata."""
    return metadata.get("papermill", {}).get("duration") or 0.0


def _quotes(notebooks: Mapping[str, NotebookNode], run_dir: Path, folder: Path, results: Path) -> dict[str, str]:
    """Placeholder -> text for the pages that quote ``results/``; see `pages`."""
    from . import (  # here, as they import seaborn and PyTorch, which a site that is up to date can do without
        pages,
        times,
    )
    seconds = {name: _seconds(notebook.metadata) for name, notebook in notebooks.items()}
    try:
        speed = pages.speed(results / "bench.json", folder, seconds, times.recorded(run_dir))
        counts = pages.torture(results / "torture.json")
    except (FileNotFoundError, KeyError) as error:
        raise BookError(f"results/ lacks a table or a part of one ({error}); make bench and make torture make "
                        "them") from None
    counts |= {f"tolerance {name}": f"{value:g}" for name, value in trials.TOLERANCE.items()}
    return {f"speed of {name}": part for name, part in speed.items()} | {
        f"tried: {name}": part for name, part in counts.items()} | {
        f"limit of {name}": f"{value:g}" for name, value in LIMITS.items()}


def _how_run(notebooks: Mapping[str, NotebookNode], run_dir: Path) -> str:
    """The origin of these pages, in Markdown: parameters, machines, seconds, slowest cells, digests of the models."""
    from .pages import table  # here for the same reason as in `_quotes`

    def digests(name: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from digests(f"{name}, {key}", item)
        elif isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
            yield value, name.replace(", models", "").removesuffix(", digest").removesuffix(", model")

    parameters = json.loads((run_dir / "run.json").read_text())["parameters"]
    machines, cells, models = {}, [], {}
    for name, notebook in notebooks.items():
        machines.setdefault(json.dumps(notebook.metadata.sa_lib["machine"]), []).append(name)
        cells += [(_seconds(cell.metadata), name, re.sub(TITLE, "", cell.source).strip().splitlines()[0])
                  for cell in notebook.cells if cell.cell_type == "code"]
        for digest, model in digests(name, read_metrics(run_dir, name)):
            models.setdefault(digest, []).append(model)
    kinds = [{"chapters": "all" if len(machines) == 1 else ", ".join(names), **json.loads(kind)}
             for kind, names in machines.items()]
    slowest = sorted(cells, reverse=True)[:10]
    return "\n\n".join([
        "Parameters: " + (", ".join(_code(f"{name} = {value!r}") for name, value in parameters.items()) or "none")
        + "; all others have the defaults of their chapters.",
        "## Machine", table(list(kinds[0]), [kind.values() for kind in kinds]),
        "## Time",
        "The models and attacks that the chapters ask for were made first, on all cores; then the chapters ran, each "
        "on one core. The times of all chapters add up to "
        f"{sum(_seconds(notebook.metadata) for notebook in notebooks.values()):.0f} seconds.",
        table(["chapter", "started (UTC)", "seconds"],
              [(f"[](../notebooks/{name})", notebook.metadata.get("papermill", {}).get("start_time", "")[:16]
                .replace("T", " "), f"{_seconds(notebook.metadata):.0f}") for name, notebook in notebooks.items()]),
        "The cells that took longest, by their first lines:",
        table(["chapter", "cell", "seconds"],
              [(name, f"`` {line} ``", f"{seconds:.1f}") for seconds, name, line in slowest]),
        "## Models",
        table(["SHA-256 of the weights, first 12 digits", "chapter, model"],
              [(f"`{digest[:12]}`", "; ".join(names)) for digest, names in models.items()])])
