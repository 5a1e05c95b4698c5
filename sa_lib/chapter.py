"""The page: what the cells of a chapter call to show prose with numbers, figures and tables, and to leave metrics.

Everything shown is an ordinary notebook output, so a chapter reads the same in
Jupyter, in Colab and on GitHub. The metadata of an output, under the key
``sa_lib``, tells the rendered book how to treat it (numbered figures, one
banner a page). IPython and matplotlib are imported when something is shown,
not before: `read_metrics` works without them.
"""

import html
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .checks import check_types, shorten
from .measures import MEASURES, label
from .store import requested, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["part", "read_metrics", "say", "show_figure", "show_markdown", "show_table", "write_metrics"]


def say(template: str, **numbers: Any) -> None:
    """Show Markdown prose with numbers of this run: ``say("It is {nll:.1f} nats.", nll=nll)``.

    The text is the cell's output, so it reads well wherever the notebook is
    opened. The output's metadata keeps the numbers as plain JSON values.

    Args:
        template: Markdown for `str.format`; a literal brace, as in LaTeX, is doubled.
        numbers: values to fill in; scalars of NumPy and PyTorch are allowed.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    check_types(template=(template, str))
    plain = {name: _plain(name, value) for name, value in numbers.items()}
    whole = {name: _unbroken(value) if isinstance(value, str) else value for name, value in plain.items()}
    show_markdown(template.format(**whole), numbers=plain)


def show_figure(figure: "Figure", caption: str, alt: str = "") -> None:
    """Show a Matplotlib figure at double resolution, with its caption, and close it.

    An inch is 120 pixels wide, so that text of 10 points is as large as the text of the page.

    One figure a cell: the rendered book numbers it and puts the caption below it.

    Args:
        caption: Markdown; states the finding.
        alt: plain text for readers who cannot see the figure; says what is
            drawn. By default the figure's own, as `sa_lib.figures` sets it.

    Raises:
        ValueError: the caption or the alternative text is empty.
    """
    from IPython.display import display
    from matplotlib import pyplot, style
    from matplotlib.figure import Figure
    from PIL import Image, ImageChops
    check_types(figure=(figure, Figure), caption=(caption, str), alt=(alt, str))
    alt = alt or getattr(figure, "alt", "")
    if not caption.strip() or not alt.strip():
        raise ValueError(f"caption and alt must be texts that are not empty, got {caption!r} and {alt!r}")
    drawn, picture = io.BytesIO(), io.BytesIO()
    with style.context("default", after_reset=True):  # not the reader's own, as when it was drawn
        figure.savefig(drawn, format="png", dpi=240, facecolor="white", bbox_inches="tight")
    pyplot.close(figure)
    # The same pixels in fewer bytes: nothing is transparent, and most figures are gray.
    with Image.open(drawn) as image:
        opaque = image.convert("RGB")
    gray = opaque.convert("L")
    colorful = ImageChops.difference(opaque, gray.convert("RGB")).getbbox()
    (opaque if colorful else gray).save(picture, format="png", optimize=True)
    data = picture.getvalue()
    width, height = (int.from_bytes(data[at:at + 4], "big") // 2 for at in (16, 20))  # of the PNG's IHDR
    display({"image/png": data, "text/plain": alt}, raw=True,
            metadata={"image/png": {"width": width, "height": height, "alt": alt},
                      "sa_lib": {"role": "figure", "caption": caption, "alt": alt, "width": width}})
    show_markdown(f"*{caption}*", role="caption")


def show_table(frame: pd.DataFrame, caption: str, formats: Mapping[str, str] | None = None) -> None:
    """Show a table that scrolls sideways where it is wider than the page.

    Columns with the name of a measure get its title and its format from `measures.MEASURES`; truth values read "yes"
    and "no".

    Args:
        frame: the index is shown.
        caption: plain text, set above the table.
        formats: column -> format of its values, such as ``"{:.1%}"``, instead of the measure's; other floats show
            three digits.

    Raises:
        ValueError: the table is empty, or a format names a column it lacks.
    """
    from IPython.display import display
    check_types(frame=(frame, pd.DataFrame), caption=(caption, str), formats=(formats, (Mapping, type(None))))
    formats = dict(formats or {})
    if frame.empty:
        raise ValueError("frame must have at least one row and one column, got an empty table")
    if unknown := [name for name in formats if name not in frame.columns]:
        raise ValueError(f"formats must name columns among {list(frame.columns)}, got {shorten(unknown)}")
    measured = [name for name in frame.select_dtypes("number").columns if name in MEASURES]
    formats = {name: MEASURES[name].format for name in measured} | formats
    titles = {name: label(name) for name in frame.columns if name in MEASURES}
    formats = {titles.get(name, name): form for name, form in formats.items()}
    truths = {name: frame[name].map({True: "yes", False: "no"}) for name in frame.select_dtypes(bool).columns}
    frame = frame.assign(**truths).rename(columns=titles)
    # The name of the index goes into the corner, where it costs no second row of headers.
    framed = frame.rename_axis(columns=frame.index.name)
    with pd.option_context("display.html.use_mathjax", True):  # not the reader's own
        table = framed.rename_axis(index=None).to_html(
            border=0, na_rep="–", justify="right", float_format="{:.3g}".format,
            formatters={name: form.format for name, form in formats.items()})
    table = _unbroken(table)
    # A region that scrolls must be reachable from the keyboard; the caption does not scroll with it.
    title = html.escape(caption)
    page = (f'<figure class="table" style="margin: 0"><figcaption>{title}</figcaption>'
            f'<div style="overflow-x: auto" tabindex="0" role="region" aria-label="{title}">{table}</div></figure>')
    display({"text/html": page, "text/plain": f"{caption}\n{frame}"}, raw=True)


def _unbroken(text: str) -> str:
    """The text with intervals and limits on one line: with spaces that do not break, and a joiner in minus infinity."""
    text = re.sub(r"\[([^][<>()]*), ([^][<>()]*)\](?!\()", "[\\1,\N{NO-BREAK SPACE}\\2]", text)
    text = re.sub("(?<=[±≤≥]) ", "\N{NO-BREAK SPACE}", text)
    return text.replace("-∞", "-\N{WORD JOINER}∞")


@contextmanager
def part(title: str) -> Iterator[None]:
    """Let one part of a page fail alone: its error is shown in its place, and the page goes on without its results.

    A broken model, whose loss is not finite, must not cost the results of the parts that could be measured.
    """
    check_types(title=(title, str))
    try:
        yield
    except (ArithmeticError, ValueError) as error:
        # The advice behind the semicolon is for callers of the library: a chapter may not have the setting.
        show_markdown(f"> **{title}: not measured.** {' '.join(str(error).split()).partition(';')[0]}.")


def write_metrics(run_dir: str | Path, chapter: str, metrics: Mapping[str, Any]) -> None:
    """Write a chapter's results to ``run_dir/chapter/metrics.json``, whole or not at all.

    Beside it, ``models.txt`` lists the artifacts that the chapter took from the store; see `store.pack`.

    Args:
        chapter: the chapter's name, such as "01_baseline".
        metrics: name -> number, text, truth value, None, or lists and mappings of
            these; scalars and arrays of NumPy and PyTorch become plain numbers and lists.

    Raises:
        ValueError: a number is NaN or infinite, or a value has no place in JSON.
    """
    path = _metrics_path(run_dir, chapter)
    text = json.dumps(_plain("metrics", metrics), indent=1, sort_keys=True)
    with write_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    with write_atomically(path.with_name("models.txt")) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in sorted(requested)))


def read_metrics(run_dir: str | Path, chapter: str) -> dict[str, Any]:
    """The metrics that `write_metrics` wrote.

    Raises:
        FileNotFoundError: the chapter has written none in this run.
        ValueError: the file is damaged.
    """
    path = _metrics_path(run_dir, chapter)
    if not path.is_file():
        raise FileNotFoundError(f"no metrics of {chapter} in {run_dir}; run the chapter first")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(metrics, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(metrics).__name__}, not a mapping")
    return metrics


def _metrics_path(run_dir: str | Path, chapter: str) -> Path:
    check_types(run_dir=(run_dir, (str, Path)))
    if not isinstance(chapter, str) or not chapter or not f"_{chapter}".isidentifier():
        raise ValueError(f"chapter must be of letters, digits and underscores, got {shorten(chapter)}")
    return Path(run_dir) / chapter / "metrics.json"


def _plain(name: str, value: Any) -> Any:
    """`value` as JSON values; messages call it `name`."""
    if hasattr(value, "tolist") and getattr(getattr(value, "dtype", None), "kind", "") not in ("M", "m"):
        value = value.tolist()  # of a date, this would be a number of nanoseconds
    if isinstance(value, Mapping):
        if len({str(key) for key in value}) < len(value):
            raise ValueError(f"{name} must have keys that differ as text, got {shorten(list(value))}")
        return {str(key): _plain(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{name}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{name} must be a number, a text, a list or a mapping, got a {type(value).__name__}")


def show_markdown(text: str, **about: Any) -> None:
    """Show Markdown; `about` tells the rendered book how to treat it."""
    from IPython.display import display
    display({"text/markdown": text, "text/plain": text}, raw=True, metadata={"sa_lib": about})

