"""The committed results are read as they were written, and a row that does not hold is found."""

import datetime
import json
import math

import numpy as np
import pandas as pd
import pytest

from sa_lib import evidence
from sa_lib.book import evidence as making
from sa_lib.book import sweep

THREATS = "y on the simplex", "y free"


def cell(forget, seed, rho, **other):
    """A row of a sweep with errors that have this rho."""
    random = np.random.default_rng(10 * forget + seed)
    noise = random.normal(0, 0.1, 50)
    never, base = 10 + noise, 4 + noise
    errors = {"baseline": base, "retrain": never, "unseen": never - rho * (never - base)}
    row = {"cell": f"forget-{forget},seed-{seed}", "error": "", "forget": forget, "seed": seed, "date": "2026-01-01"}
    for name, values in errors.items():
        row |= {f"models.{name}.errors.{t}": json.dumps(values.tolist()) for t in THREATS}
        row |= {f"models.{name}.nelbo": 90.0 + seed + (name == "unseen"), f"models.{name}.gray": 0.4}
        row |= {f"models.{name}.rho.{t}.value": rho for t in THREATS}
    return row | other


@pytest.fixture
def path(tmp_path):
    """A table of six cells that succeeded, and one that failed."""
    rows = [cell(f, s, 0.1 * f) for f in range(3) for s in range(2)] + [cell(5, 0, 0.0, error="it failed")]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


@pytest.fixture
def rows(path):
    """A row for each model of each cell that succeeded."""
    return evidence.tidy(evidence.read(path)).droplevel(["dataset", "architecture"])


def test_the_rows_are_those_of_the_cells_that_succeeded(path):
    rows = evidence.tidy(evidence.read(path))
    assert len(rows) == 3 * 2 * 3
    assert list(rows.index.names) == ["dataset", "architecture", "forget", "seed", "model"]
    assert rows.loc[("mnist", "mlp", 2, 1, "unseen"), "nelbo"] == 92
    assert rows.loc[("mnist", "mlp", 2, 1, "unseen"), f"errors.{THREATS[0]}"].shape == (50,)


@pytest.mark.parametrize("forget", range(3))
def test_the_rho_over_all_seeds_is_the_true_one(rows, forget):
    found = evidence.residual(rows, "unseen", forget, THREATS[1])
    assert found.rho == pytest.approx(0.1 * forget, abs=1e-6)
    assert found.low <= found.rho <= found.high


@pytest.mark.parametrize("ask", [lambda rows: evidence.residual(rows, "unseen", 1, THREATS[0]),
                                 lambda rows: evidence.differences(rows, "nelbo", "unseen", "baseline")])
def test_rows_of_two_data_sets_are_not_mixed(rows, ask):
    with pytest.raises(ValueError, match="^rows .* of one data set and architecture"):
        ask(pd.concat([rows, rows]))


def test_differences_are_taken_within_a_cell(rows):
    assert evidence.differences(rows, "nelbo", "unseen", "baseline").tolist() == [1.0] * 6


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.csv"):
        evidence.read(tmp_path / "nothing.csv")


def test_a_table_of_something_else_is_named(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other.csv .* sweep of 07_methods.* lack"):
        evidence.read(tmp_path / "other.csv")


def test_a_table_in_which_every_cell_failed_is_named(tmp_path):
    pd.DataFrame([cell(1, 0, 0.0, error="no")]).to_csv(tmp_path / "failed.csv", index=False)
    with pytest.raises(ValueError, match="failed.csv"):
        evidence.read(tmp_path / "failed.csv")


# The committed results ------------------------------------------------------------------------

def test_the_committed_table_has_the_models_that_chapter_8_compares():
    rows = evidence.tidy(evidence.read())
    assert {"baseline", "retrain", "ewc_gray", "unseen"} <= set(rows.index.unique("model"))


def test_the_committed_table_has_the_cells_that_its_provenance_lists():
    provenance = json.loads((evidence.RESULTS / "provenance.json").read_text())
    sweeps = evidence.read().groupby("sweep")
    assert {name: record["cells"] for name, record in provenance.items()} == sweeps.size().to_dict()
    assert provenance.keys() <= making.SWEEPS.keys()
    for name, rows in sweeps:
        grid, shared = making.SWEEPS[name]
        assert provenance[name]["grid"] == grid
        assert provenance[name]["shared"] == shared
        assert math.prod(map(len, grid.values())) == len(rows)
        assert datetime.date.fromisoformat(provenance[name]["date"]) >= datetime.date.fromisoformat(rows["date"].max())


def test_a_repeated_sweep_replaces_only_its_own_rows(tmp_path, monkeypatch):
    results = tmp_path / "results"
    results.mkdir()
    monkeypatch.setattr(making, "RESULTS", results)
    monkeypatch.setattr(making, "SWEEPS", {"one": ({"forget": [1]}, {}), "two": ({"forget": [2, 3]}, {})})
    monkeypatch.setattr(sweep, "cells", lambda root, chapter, grid, shared: grid["forget"])
    monkeypatch.setattr(sweep, "sweep", lambda root, out, chapter, wanted, scheduler: pd.DataFrame(
        [cell(k, 0, 0.1) | {"seconds": seconds[out.name], "error": "it failed" * (k == 3)} for k in wanted]
    ).set_index("cell"))
    seconds = {"one": 10, "two": 20}
    assert making.make(tmp_path, ["one", "two"], 5, None) == 1
    seconds["two"] = 30
    assert making.make(tmp_path, ["two"], 5, None) == 1
    table = pd.read_csv(results / "evidence.csv")
    assert table[["sweep", "forget", "seconds"]].to_numpy().tolist() == [["one", 1, 10], ["two", 2, 30], ["two", 3, 30]]
    provenance = json.loads((results / "provenance.json").read_text())
    assert [(record["cells"], record["failed"]) for record in provenance.values()] == [(1, 0), (2, 1)]
