"""The explorer of the evidence gives the verdicts of the library, at any margin, without a network."""

import json

import numpy as np
import pandas as pd
import pytest

from sa_lib import trials
from sa_lib.book import explorer
from sa_lib.comparison import rho_table
from sa_lib.residual import Residual, verdict

MODEL = 'Bokeh.documents[0].get_model_by_name("{}")'
SHOWN = "Array.from(Bokeh.documents[0]._all_models.values()).find(m => m.data && 'verdict' in Object.fromEntries(" \
        "Object.entries(m.data))).data"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Three seeds of all classes; each class has its own spread, so that all verdicts occur."""
    random, table = np.random.default_rng(0), []
    for k in range(10):
        for seed in (10, 11, 12):
            noise = random.normal(0, 0.02 * k**2, 2)
            for model, state, level in (
                    ("baseline", "as is", 4.0), ("never saw", "as is", 10 + noise[0]),
                    ("never saw", "mended", 10 + noise[0]), ("ewc_gray", "as is", 10.5 - 0.3 * k + noise[1]),
                    ("ewc_gray", "mended", 9.5 + noise[1]), ("unseen", "as is", 10 + noise[1]),
                    ("unseen", "mended", 12 + noise[1])):
                table.append({"class": k, "seed": seed, "model": model, "state": state, "shortfall": 0.01,
                              "errors": json.dumps([level + image / 9 for image in range(20)])})
    path = tmp_path_factory.mktemp("trials") / "trials.csv"
    pd.DataFrame(table).to_csv(path, index=False)
    return trials.read(path)


@pytest.fixture(scope="module")
def page(chromium, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    explorer.add_scripts(folder)
    scripts = "".join(f'<script src="{name}"></script>' for name in explorer.SCRIPTS)
    (folder / "index.html").write_text(f'<meta charset="utf-8">{scripts}{explorer.html(rows)}', encoding="utf-8")
    context = chromium.new_context()
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"file://{folder}/index.html")
    page.wait_for_function(f'window.Bokeh && Bokeh.documents.length && {MODEL.format("said")}.text')
    yield page
    context.close()
    assert not complaints
    assert all(url.startswith("file://") for url in asked)


@pytest.mark.parametrize("method", ["ewc_gray", "unseen"])
@pytest.mark.parametrize("margin", [0.05, 0.15, 0.4])
def test_the_verdicts_are_those_of_the_library(page, rows, method, margin):
    page.evaluate(f'{MODEL.format("method")}.value = "{method}", {MODEL.format("margin")}.value = {margin}')
    said = f"{method}, margin {margin:.2f}"
    page.wait_for_function(f"{MODEL.format('said')}.text.includes('{said}')")  # Bokeh updates later
    shown = page.evaluate(f"(own => own.digit.map((digit, at) => [own.state[at], digit, own.verdict[at]]))({SHOWN})")
    table = rho_table(rows, [method])
    fields = ["rho", "low", "high", "low90", "high90", "gap", "spread"]
    expected = {(state, str(digit)): verdict(Residual(**row[fields]), margin)
                for (state, digit, _), row in table.iterrows()}
    assert {(state, digit): word for state, digit, word in shown if digit != "all"} == expected
    assert len(shown) == len(expected) + 2
    assert len(set(expected.values())) > 1
    counted = page.evaluate(f"{MODEL.format('said')}.text")
    for word in set(expected.values()):
        assert f"<strong>{list(expected.values()).count(word)}</strong> {word}" in counted


def test_the_same_rows_make_the_same_page(rows):
    assert explorer.html(rows) == explorer.html(rows)


def test_a_seed_has_its_own_point(rows):
    points = explorer._seeds(rows, ["ewc_gray"], ["as is", "mended"])
    own = points[(points["digit"] == "0") & (points["state"] == "mended")]
    assert len(own) == 3
    assert own["rho"].tolist() == pytest.approx([0.5 / 6] * 3, abs=1e-6)
    assert len(points[points["digit"] == "all"]) == 6
