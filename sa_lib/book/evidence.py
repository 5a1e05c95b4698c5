"""Make the exploratory table of the committed results again, ``results/evidence.csv``; see `sa_lib.evidence`."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..checks import check_names
from ..evidence import RESULTS
from ..store import write_atomically
from . import sweep
from .execution import machine

__all__ = ["SWEEPS", "make"]

# The search for settings: each method gets its own settings and four others, on one digit and one seed, judged on
# training images that were held out. uno and fine_tune have the best of an earlier round as their own.
SEARCH = {
    "ewc_gray": [{"peak_lr": 1e-3}, {"peak_lr": 4e-3}, {"gray": 78.4}, {"ewc": 10.0}],
    "ewc_gray_replay": [{"peak_lr": 1e-3}, {"peak_lr": 4e-3}, {"ewc": 10.0}, {"ewc": 1000.0}],
    "selective_amnesia": [{"peak_lr": 6e-4}, {"peak_lr": 2e-3}, {"ewc": 0.078125}, {"ewc": 7.8125}],
    "selective_amnesia_tuned": [{"peak_lr": 6e-4}, {"peak_lr": 1e-3}, {"peak_lr": 4e-3}, {"ewc": 7.8125}],
    "gradient_ascent": [{"steps": 35}, {"steps": 140}, {"peak_lr": 7.5e-5}, {"peak_lr": 3e-4}],
    "neggrad_plus": [{"peak_lr": 1e-3}, {"forget": 0.005}, {"forget": 0.1}, {"steps": 800, "peak_lr": 1e-3}],
    "saliency": [{"peak_lr": 1e-3}, {"peak_lr": 4e-3}, {"forget": 0.1}, {"salient": 0.2}],
    "salun": [{"peak_lr": 1e-3}, {"steps": 3000}, {"forget": 3.255}, {"salient": 1.0}],
    "gradient_surgery": [{"steps": 50}, {"steps": 200}, {"peak_lr": 1e-4}, {"peak_lr": 4e-4}],
    "uno": [{"peak_lr": 2e-3}, {"peak_lr": 8e-3}, {"forget": 0.78125}, {"forget": 78.125}],
    "fine_tune": [{"peak_lr": 8e-3}, {"peak_lr": 3.2e-2}, {"steps": 1600}, {"batch": 512}],
    "unseen": [{"peak_lr": 8e-3}, {"steps": 1600}, {"fresh": 0.5}, {"fresh": 0.85}],
}
# The book's evidence: the grid of each sweep of 07_methods, and the parameters that its cells share.
SWEEPS = {
    "evidence": ({"forget": [*range(10)], "seed": [*range(5)]}, {"methods": ["ewc_gray", "unseen"]}),
    **{f"search-{method}": ({"changes": [{}, *others]},
                            {"dataset": "mnist-validation", "methods": [method], "forget": 3, "seed": 0,
                             "longest": 3200})
       for method, others in SEARCH.items()},
    # Run on all digits because it came first of eight methods on four; from baselines that are in no other sweep.
    "saliency": ({"forget": [*range(10)], "seed": [*range(6, 9)]}, {"methods": ["saliency"]}),
    "digits": ({"forget": [*range(10)], "seed": [0, 1]}, {"dataset": "digits", "methods": ["ewc_gray", "unseen"]}),
}


def make(root: Path, names: Sequence[str], seeds: int, scheduler: str | None) -> int:
    """Run these of `SWEEPS` and put their rows into the results; return the number of cells that failed.

    Rows of other sweeps stay. ``provenance.json`` records how each sweep was made.
    """
    check_names(SWEEPS, sweeps=names)
    path, provenance = RESULTS / "evidence.csv", RESULTS / "provenance.json"
    records = json.loads(provenance.read_text(encoding="utf-8")) if provenance.is_file() else {}
    tables = dict([*pd.read_csv(path, index_col="cell").groupby("sweep")] if path.is_file() else [])
    for name in names:
        grid, shared = SWEEPS[name]
        grid = {**grid, "seed": grid["seed"][:seeds]} if "seed" in grid else grid
        cells = sweep.cells(root, "07_methods", grid, shared)
        table = sweep.sweep(root, root / "runs" / name, "07_methods", cells, scheduler).assign(sweep=name)
        tables[name] = table
        records[name] = {"grid": grid, "shared": shared, "date": datetime.date.today().isoformat(),
                         "cells": len(table), "failed": int((table["error"] != "").sum()),
                         "cell_hours": float(table["seconds"].sum() / 3600), "machine": machine()}
        with write_atomically(path) as temporary:
            pd.concat([tables[name] for name in SWEEPS if name in tables]).dropna(axis=1, how="all").to_csv(temporary)
        with write_atomically(provenance) as temporary:
            temporary.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return sum(records[name]["failed"] for name in names)
