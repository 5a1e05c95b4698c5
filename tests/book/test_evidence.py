"""The committed table is read as it was written, and a row that does not hold is found."""

import datetime
import json
import math

import numpy as np
import pandas as pd
import pytest

from sa_lib import evidence, sweep

THREATS = evidence.THREATS


def cell(forget, seed, rho, **other):
    """A row of a sweep in which the errors are those of a known rho."""
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
    rows = [cell(f, s, 0.1 * f) for f in range(3) for s in range(2)] + [cell(5, 0, 0.0, error="it failed")]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def test_the_rows_are_those_of_the_cells_that_succeeded(path):
    rows = evidence.tidy(evidence.read(path))
    assert len(rows) == 3 * 2 * 3
    assert list(rows.index.names) == ["dataset", "architecture", "forget", "seed", "model"]
    assert rows.loc[("mnist", "mlp", 2, 1, "unseen"), "nelbo"] == 92
    assert rows.loc[("mnist", "mlp", 2, 1, "unseen"), f"errors.{THREATS[0]}"].shape == (50,)


def test_rho_of_all_seeds_together_is_what_it_was_made_with(path):
    rows = evidence.tidy(evidence.read(path)).droplevel(["dataset", "architecture"])
    for forget in range(3):
        found = evidence.residual(rows, "unseen", forget, THREATS[1])
        assert found.rho == pytest.approx(0.1 * forget, abs=1e-6) and found.low <= found.rho <= found.high


def test_rows_of_two_data_sets_are_not_taken_for_one(path):
    rows = evidence.tidy(evidence.read(path)).droplevel(["dataset", "architecture"])
    twice = pd.concat([rows, rows])
    for ask in (lambda: evidence.residual(twice, "unseen", 1, THREATS[0]),
                lambda: evidence.differences(twice, "nelbo", "unseen", "baseline")):
        with pytest.raises(ValueError, match="rows have a model of the same class and seed twice; give those of one"):
            ask()


def test_differences_are_taken_within_a_cell(path):
    rows = evidence.tidy(evidence.read(path)).droplevel(["dataset", "architecture"])
    assert evidence.differences(rows, "nelbo", "unseen", "baseline").tolist() == [1.0] * 6


def test_an_interval_holds_the_mean_and_narrows_with_more_values():
    random = np.random.default_rng(0)
    few, many = random.normal(3, 1, 10), random.normal(3, 1, 1000)
    mean, low, high = evidence.interval(few)
    assert mean == pytest.approx(few.mean()) and low < mean < high
    _, least, most = evidence.interval(many)
    assert most - least < (high - low) / 5


def test_what_is_no_table_of_a_sweep_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table at .*nothing.csv"):
        evidence.read(tmp_path / "nothing.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other.csv is not the table of a sweep of 07_methods: it lacks cell"):
        evidence.read(tmp_path / "other.csv")
    pd.DataFrame([cell(1, 0, 0.0, error="no")]).to_csv(tmp_path / "failed.csv", index=False)
    with pytest.raises(ValueError, match="no cell of .*failed.csv succeeded"):
        evidence.read(tmp_path / "failed.csv")


def test_the_committed_table_is_whole():
    rows = evidence.tidy(evidence.read())
    assert {"baseline", "retrain", "ewc_gray", "unseen"} <= set(rows.index.unique("model"))
    provenance = json.loads((evidence.RESULTS / "provenance.json").read_text())
    made = evidence.read().groupby("sweep")
    assert {name: one["cells"] for name, one in provenance.items()} == made.size().to_dict()
    assert provenance.keys() <= evidence.SWEEPS.keys()
    for name, rows in made:
        grid, shared = evidence.SWEEPS[name]
        assert provenance[name]["grid"] == grid and provenance[name]["shared"] == shared
        assert math.prod(map(len, grid.values())) == len(rows)
        assert datetime.date.fromisoformat(provenance[name]["date"]) >= datetime.date.fromisoformat(rows["date"].max())


def test_a_sweep_made_again_replaces_its_own_rows_alone(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(evidence, "SWEEPS", {"one": ({"forget": [1]}, {}), "two": ({"forget": [2, 3]}, {})})
    monkeypatch.setattr(sweep, "cells", lambda root, chapter, grid, shared: grid["forget"])
    monkeypatch.setattr(sweep, "sweep", lambda root, out, chapter, wanted, scheduler: pd.DataFrame(
        [cell(k, 0, 0.1) | {"seconds": tally[out.name], "error": "it failed" * (k == 3)} for k in wanted]).set_index("cell"))
    tally = {"one": 10, "two": 20}
    assert evidence.make(tmp_path, ["one", "two"], 5, None) == 1
    tally["two"] = 30
    assert evidence.make(tmp_path, ["two"], 5, None) == 1
    table = pd.read_csv(tmp_path / "results" / "evidence.csv")
    assert table[["sweep", "forget", "seconds"]].to_numpy().tolist() == [["one", 1, 10], ["two", 2, 30], ["two", 3, 30]]
    provenance = json.loads((tmp_path / "results" / "provenance.json").read_text())
    assert [(one["cells"], one["failed"]) for one in provenance.values()] == [(1, 0), (2, 1)]
