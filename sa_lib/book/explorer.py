"""The page "Explore the evidence": chapter 8's table in the reader's browser, where the margin can be moved.

Bokeh draws it. The verdicts are computed again for each margin in the browser, by the rules of `residual.verdict`.
"""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from bokeh.document import Document
from bokeh.embed import components
from bokeh.events import DocumentReady
from bokeh.layouts import column
from bokeh.models import BoxAnnotation, ColumnDataSource, CustomJS, Div, FactorRange, InlineStyleSheet, Select, Slider
from bokeh.plotting import figure

from ..comparison import rho_table
from ..evidence import by_seed, complete, conditions, overall
from ..residual import MARGIN, RESOLUTION, Residual
from ..trials import protocol

__all__ = ["add_scripts", "html"]

SCRIPTS = ("bokeh.min.js", "bokeh-widgets.min.js")
COLORS = ("#0173b2", "#de8f05")  # one for each state, of seaborn's palette for the color-blind
ALL = "all"
IDENTITY = re.compile(r"\b(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|p\d{4,})\b")  # Bokeh's names of its objects
# Of the looks of the chosen method: where each is drawn, and its verdict at the chosen margin.
UPDATE = CustomJS(code="""
    const margin = slider.value, rows = Object.fromEntries(Object.keys(every.data).map(name => [name, []]));
    const at = every.data.model.flatMap((model, index) => model === select.value ? [index] : []);
    for (const name of Object.keys(rows)) rows[name] = at.map(index => every.data[name][index]);
    rows.verdict = at.map(index => {
        const value = Object.fromEntries(Object.keys(every.data).map(name => [name, every.data[name][index]]));
        if (Number.isNaN(value.rho)) return "undefined";
        if (Number.isNaN(value.low)) return "no interval";
        if (value.resolution < resolution) return "unresolved";
        if (-margin < value.low90 && value.high90 < margin) return "gone";
        return value.low > 0 ? "residue" : value.high < 0 ? "over-forgotten" : "inconclusive";
    });
    looks.data = rows;
    const dots = seeds.data.model.map(model => model === select.value);
    points.data = Object.fromEntries(Object.entries(seeds.data).map(
        ([name, values]) => [name, Array.from(values).filter((_, index) => dots[index])]));
    band.left = -margin;
    band.right = margin;
    const counts = {};
    rows.verdict.forEach((word, index) => {
        if (rows.digit[index] !== "all") counts[word] = (counts[word] || 0) + 1;
    });
    said.text = `<p role="status">${select.value}, margin ${margin.toFixed(2)}: ` + Object.entries(counts).map(
        ([word, count]) => `<strong>${count}</strong> ${word}`).join(", ") + `.</p>`;
""")
# A screen reader has to name the handle of the slider, which Bokeh leaves without a name.
NAMED = """
    const name = (root) => {
        for (const element of root.querySelectorAll("*")) {
            if (element.shadowRoot) name(element.shadowRoot);
            if (element.classList.contains("noUi-handle")) element.setAttribute("aria-label", "Margin");
        }
    };
    name(document);
"""


def html(rows: pd.DataFrame) -> str:
    """The explorer of rows of `trials.read`, as HTML; it needs `SCRIPTS` before it.

    With one seed there are no intervals, and so no verdicts.
    """
    methods, states = complete(rows, protocol()["methods"]), conditions(rows)
    every, seeds = _looks(rows, methods, states), _seeds(rows, methods, states)
    sources = {name: ColumnDataSource(own) for name, own in (
        ("every", every), ("seeds", seeds), ("looks", every[:0].assign(verdict="")), ("points", seeds[:0]))}
    band = BoxAnnotation(left=-MARGIN, right=MARGIN, fill_color="#029e73", fill_alpha=0.12, line_alpha=0)
    plot = figure(y_range=FactorRange(*_digits(rows)[::-1]), x_range=(-1, 1.9), height=640, tools="",
                  toolbar_location=None, sizing_mode="stretch_width", x_axis_label="ρ, with 95% interval",
                  y_axis_label="digit")
    plot.add_layout(band)
    plot.segment("left", "place", "right", "place", source=sources["looks"], color="color", line_width=2)
    plot.scatter("rho", "place", source=sources["looks"], color="color", size=9, legend_field="state")
    plot.scatter("rho", "place", source=sources["points"], color="color", size=4, alpha=0.5)
    plot.text(1.15, "place", "verdict", source=sources["looks"], text_font_size="11px", text_baseline="middle",
              text_color="color")
    plot.add_layout(plot.legend[0], "above")
    plot.legend.orientation = "horizontal"
    dark = InlineStyleSheet(css=".bk-input { color: #222; background-color: #fff; }")  # on any page
    select = Select(title="Method", value=methods[0], options=methods, name="method", stylesheets=[dark])
    slider = Slider(title="Margin", start=0.05, end=0.5, step=0.01, value=MARGIN, name="margin",
                    sizing_mode="stretch_width", margin=(5, 15, 5, 15))
    said = Div(name="said", sizing_mode="stretch_width")
    update = UPDATE.clone()
    update.args = {**sources, "band": band, "select": select, "slider": slider, "said": said, "resolution": RESOLUTION}
    for widget in (select, slider):
        widget.js_on_change("value", update)
    document = Document()
    document.add_root(column(select, slider, said, plot, sizing_mode="stretch_width"))
    document.js_on_event(DocumentReady, update)
    document.js_on_event(DocumentReady, CustomJS(code=NAMED))
    script, div = components(document.roots[0])
    text = f'<div class="explorer">\n{div.strip()}\n</div>\n{script.strip()}'
    for number, name in enumerate(dict.fromkeys(IDENTITY.findall(text))):
        text = text.replace(name, f"explorer-{number}-")  # the same page for the same rows, so that it is rendered once
    return text


def add_scripts(folder: Path) -> None:
    """Copy Bokeh's scripts, so that the page needs no network."""
    source = Path(find_spec("bokeh").origin).parent / "server" / "static" / "js"
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCRIPTS:
        shutil.copy(source / name, folder / name)


def _digits(rows: pd.DataFrame) -> list[str]:
    return [*map(str, sorted(rows.index.unique("forget"))), ALL]


def _looks(rows: pd.DataFrame, methods: list[str], states: list[str]) -> pd.DataFrame:
    """A row for each look: each method, state and digit, and all digits together as a ratio of sums."""
    table = rho_table(rows, methods).reset_index().rename(columns={"forget": "digit", "condition": "state"})
    table["digit"] = table["digit"].astype(str)
    totals = [{"state": state, "digit": ALL, "model": model, **_numbers(overall(rows, model, state))}
              for state in states for model in methods]
    table["resolution"] = table["gap"] / table["spread"]
    table = pd.concat([table[[*totals[0]]], pd.DataFrame(totals)], ignore_index=True)
    # Wide intervals end before the words.
    return _placed(table, states).assign(left=table["low"].clip(-1, 1.1), right=table["high"].clip(-1, 1.1))


def _numbers(one: Residual) -> dict[str, float]:
    return {name: getattr(one, name) for name in ("rho", "low", "high", "low90", "high90", "resolution")}


def _seeds(rows: pd.DataFrame, methods: list[str], states: list[str]) -> pd.DataFrame:
    """A row for each method, state, digit and seed: rho of this model, against all that never saw the digit."""
    found = []
    for state in states:
        means = rows[f"errors.{state}"].map(np.mean).astype(float)
        never = means.xs("retrain", level="model").groupby("forget").transform("mean")
        gap = never - means.xs("baseline", level="model")
        for model in methods:
            difference = never - means.xs(model, level="model")
            by_digit = pd.concat([difference / gap, pd.concat({ALL: by_seed(difference) / by_seed(gap)},
                                                              names=["forget"])])
            found += [{"state": state, "digit": str(digit), "model": model, "rho": rho}
                      for (digit, _), rho in by_digit.dropna().items()]
    return _placed(pd.DataFrame(found), states)


def _placed(table: pd.DataFrame, states: list[str]) -> pd.DataFrame:
    """With the place of each row on the axis of digits, a little apart for each state, and its color."""
    order = table["state"].map(states.index)
    offset = 0.5 * ((order + 0.5) / len(states) - 0.5)
    return table.assign(place=list(zip(table["digit"], -offset, strict=True)), color=order.map(dict(enumerate(COLORS))))
