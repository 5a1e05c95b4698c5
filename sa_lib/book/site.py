"""The site: from the executed chapters of a run to pages with numbered figures and quoted numbers.

Jupyter Book renders the pages and executes nothing. This module prepares its
input, and afterwards removes everything that a page would load from another
server.

A site that is up to date is not rendered again. If pages have changed, Sphinx
reads only these. It writes all pages, as each shows titles and numbers of
others, so the site is the same as one from scratch.
"""

import base64
import filecmp
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from ..chapter import read_metrics
from ..checks import shorten
from ..claims import LIMITS
from ..evidence import RESULTS
from ..store import file_digest
from ..trials import TOLERANCE
from .execution import executed, read
from .notebooks import DRAWINGS, TITLE, BookError, as_written, colab, repository

__all__ = ["figures", "preview", "render"]

SMOKE = ("```{admonition} Smoke run\n:class: warning\nLittle data and few steps: this run only shows that "
         "everything works. Its numbers and pictures mean nothing.\n```")
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
    _lighten(html, root / "notebooks")
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
    from .. import trials  # here for the same reason as in `_quotes`
    from . import explorer
    for path in run_dir.glob("*/playground.*"):
        shutil.copy(path, stage / "book" / "_static" / "playground")
    how = _how_run(notebooks, run_dir)
    explorer.add_scripts(stage / "book" / "_static" / "bokeh")
    evidence = explorer.html(trials.read())
    quotes = _quotes(notebooks, run_dir, stage / "figures")
    for path in (stage / "book").rglob("*.md"):
        text = _with_numbers(path, run_dir).replace("{{how it was run}}", how)
        text = text.replace("{{evidence explorer}}", evidence)
        text = _with_quotes(text, path, quotes)
        text = _with_figures(text, path, notebooks, stage / "figures")
        path.write_text(_marked(text, SMOKE) if _is_smoke(notebooks) else text, encoding="utf-8")
    _write_chapters(stage, notebooks, address)


def _write_chapters(stage: Path, notebooks: Mapping[str, NotebookNode], address: str) -> None:
    """Write executed chapters, to share and as pages."""
    for name, notebook in notebooks.items():
        nbformat.write(_shareable(notebook), stage / "executed" / f"{name}.ipynb")
        page = _page(name, notebook, _is_smoke(notebooks), address)
        nbformat.write(page, stage / "notebooks" / f"{name}.ipynb")


def _is_smoke(notebooks: Mapping[str, NotebookNode]) -> bool:
    return any(notebook.metadata.sa_lib.parameters.get("profile") == "smoke" for notebook in notebooks.values())


def _page(name: str, notebook: NotebookNode, smoke: bool, address: str) -> NotebookNode:
    """An executed chapter as a page: without cells and metadata that readers do not need, with numbered figures."""
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
            cell.source = _with_drawings(cell.source)
        page.cells.append(cell)
    # The page has its own launch button, and the badge is a picture from another server.
    title = re.sub(r"\[!\[[^]]*\]\([^)]*\)\]\([^)]*\)\n*", "", page.cells[0].source)
    links = (f"[Executed, in Colab]({colab(address, 'executed')}/{name}.ipynb) · "
             f"{{download}}`Executed notebook <../executed/{name}.ipynb>` · "
             f"[Source]({address}/blob/main/notebooks/{name}.py) · [How to read the results](../book/reading)")
    if short := _in_short(notebook):
        title = _marked(title, f"::::{{admonition}} In short\n:class: tip\n{short}\n::::")
    page.cells[0].source = _marked(_marked(title, links), SMOKE) if smoke else _marked(title, links)
    return page


def _in_short(notebook: NotebookNode) -> str:
    """The findings of an executed chapter, in Markdown: the output of its cell with the tag in-short, if it has one."""
    return "\n\n".join(output.data["text/markdown"] for cell in notebook.cells
                       if "in-short" in cell.metadata.get("tags", []) for output in cell.outputs
                       if "text/markdown" in output.get("data", {})).removeprefix("**In short**").strip()


def _with_drawings(source: str) -> str:
    """Markdown in which a drawing with the caption below it is a figure, so that it gets a number."""
    def figure(match: re.Match) -> str:
        alt, path, caption = (" ".join(part.split()) for part in match.groups())
        return f"```{{figure}} {path}\n:alt: {alt}\n\n{caption}\n```"
    return re.sub(rf"^!\[([^]]+)\]\(({DRAWINGS}/\w+\.svg)\)\n\n\*((?:[^*]|\n)+)\*$", figure, source, flags=re.MULTILINE)


def _with_values(source: str, parameters: Mapping[str, Any]) -> str:
    """The parameters cell as it was executed: with the run's values and without Colab's forms."""
    lines = []
    for line in source.splitlines():
        line = re.sub(r"\s*#\s*@param.*$", "", line)
        name = line.partition("=")[0].strip()
        lines.append(f"{name} = {parameters[name]!r}" if name in parameters else line)
    return "\n".join(lines)


def _code(text: str) -> str:
    """Text as a Markdown code span, with enough backticks that its content cannot close the span."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _metadata(output: NotebookNode) -> Mapping[str, Any]:
    """The metadata that `sa_lib.chapter` gave an output."""
    return output.get("metadata", {}).get("sa_lib", {})


def _set_figures(name: str, position: int, cell: NotebookNode) -> None:
    """Turn the metadata of a cell's outputs by `sa_lib.chapter` into those that MyST-NB reads."""
    figures = [metadata for output in cell.outputs if (metadata := _metadata(output)).get("role") == "figure"]
    cell.outputs = [output for output in cell.outputs if _metadata(output).get("role") not in ("caption", "banner")]
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
            if _metadata(output).get("role") == "figure"]


def _marked(text: str, mark: str) -> str:
    """A Markdown page with `mark` below its title."""
    return re.sub(r"^# .*$", lambda title: f"{title[0]}\n\n{mark}", text, count=1, flags=re.MULTILINE)


def _shareable(notebook: NotebookNode) -> NotebookNode:
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


def _add_mathjax(folder: Path) -> None:
    """Copy the parts of MathJax that the pages use into `folder`, so that the pages need no network."""
    package = find_spec("sphinx-mathjax-offline")
    if package is None:
        raise BookError("sphinx-mathjax-offline is not installed; make environment installs it")
    source = Path(package.origin).parent / "static" / "mathjax"
    for name in MATHJAX:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, folder / name)


def _lighten(site: Path, notebooks: Path) -> None:
    """Make a rendered site quick to open, and let its download button give the notebooks without outputs."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        # The theme loads its icons twice (the fonts are the smaller way), and code for live cells, which no page has.
        text = re.sub(r'\s*<script src="[^"]*fontawesome[^"]*"></script>', "", text)
        text = re.sub(r'\s*<script(?: async="async" src="[^"]*sphinx-thebe\.js[^"]*">|>const THEBE_JS_URL[^<]*)'
                      r"</script>", "", text)
        # Scrolling regions must be reachable from the keyboard, and a list must have items.
        text = re.sub(r'<div class="(?:pst-scrollable-table-container|math notranslate nohighlight)"',
                      r'\g<0> tabindex="0"', text)
        text = text.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        text = re.sub(r'<img [^>]*src="[^"]*_images/(\w+)\.svg"[^>]*>', functools.partial(_inline, site), text)
        text = re.sub(r'<img (?=[^>]*src="[^"]*_images/([^"]+\.png)")', functools.partial(_lazy, site), text)
        for part, scope in (("thead", "col"), ("tbody", "row")):  # a screen reader names the cells of a table by these
            text = re.sub(rf"<{part}>.*?</{part}>", lambda rows, scope=scope: re.sub(
                r"<th(?=[ >])(?![^>]*scope=)", f'<th scope="{scope}"', rows[0]), text, flags=re.DOTALL)
        page.write_text(text, encoding="utf-8")
    for unused in (*site.glob("_static/vendor/fontawesome/*/js"), site / "_static" / "locales"):
        shutil.rmtree(unused, ignore_errors=True)
    # Every browser takes the woff2 beside a ttf.
    for unused in (*(site / "_static").rglob("*.map"), *site.glob("_static/vendor/fontawesome/*/webfonts/*.ttf")):
        unused.unlink()
    for path in (site / "_sources" / "notebooks").glob("*.ipynb"):
        shutil.copy(notebooks / path.name, path)


def _lazy(site: Path, image: re.Match) -> str:
    """The beginning of a picture that is loaded when it comes near, with its size, so that nothing moves then."""
    data = (site / "_images" / image[1]).read_bytes()[16:24]  # of the PNG's IHDR
    width, height = (int.from_bytes(data[at:at + 4], "big") for at in (0, 4))
    return f'<img loading="lazy" width="{width}" height="{height}" '


def _inline(site: Path, image: re.Match) -> str:
    """A drawing as part of its page, where the style sheet sets its colors for light and dark."""
    drawing = (site / "_images" / f"{image[1]}.svg").read_text(encoding="utf-8")
    alt = re.search(r'alt="([^"]*)"', image[0])
    label = f'<svg class="drawing" role="img" aria-label="{alt[1] if alt else image[1]}"'
    return re.sub("<title>.*?</title>", "", drawing).replace("<svg", label, 1)


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
        metadata = _metadata(output)
        return (f"```{{figure}} ../figures/{picture.name}\n:alt: {metadata.alt}\n:width: {metadata.width}px\n"
                f"{metadata.caption}\n```")
    return re.sub(r"\{\{figure (\w+) (\d+)\}\}", figure, text)


def _seconds(metadata: Mapping[str, Any]) -> float:
    """The seconds that a chapter or a cell took, by papermill's metadata."""
    return metadata.get("papermill", {}).get("duration") or 0.0


def _quotes(notebooks: Mapping[str, NotebookNode], run_dir: Path, folder: Path) -> dict[str, str]:
    """Placeholder -> text for the pages that quote ``results/``; see `pages`."""
    from . import (  # here, as they import seaborn and PyTorch, which a site that is up to date can do without
        pages,
        times,
    )
    seconds = {name: _seconds(notebook.metadata) for name, notebook in notebooks.items()}
    try:
        speed = pages.speed(RESULTS / "bench.json", folder, seconds, times.recorded(run_dir))
        counts = pages.torture(RESULTS / "torture.json")
    except (FileNotFoundError, KeyError) as error:
        raise BookError(f"results/ lacks a table or a part of one ({error}); make bench and make torture make "
                        "them") from None
    counts |= {f"tolerance {name}": f"{value:g}" for name, value in TOLERANCE.items()}
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
