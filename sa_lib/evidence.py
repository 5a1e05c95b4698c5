"""Evidence: the results of sweeps that are kept with the book.

    python -m sa_lib.evidence make     # run the sweeps again and replace results/
    python -m sa_lib.evidence check    # make one cell again, from nothing, and compare

``results/evidence.csv`` has a row for each cell that was run: what 07_methods
measured for one class, one seed and one kind of model. ``provenance.json``
says with what it was made.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from . import attacks, data, evaluation, training, unlearning
from .attacks import Residual, residual_knowledge
from .files import cache_root, write_atomically
from .inputs import check_name, check_seed, check_types, check_whole, short

__all__ = ["RESULTS", "SWEEPS", "THREATS", "TOLERANCE", "check", "differences", "interval", "read", "residual", "tidy"]

# At the top of a checkout; inside the package where it was installed.
RESULTS = next((path for path in (Path(__file__).parent / "results", Path(__file__).parent.parent / "results")
                if path.is_dir()), Path("results"))
THREATS = ("y on the simplex", "y free")
# What each method was given in the search for its settings: its own and four others, on one digit and one seed.
SEARCH = {
    "ewc_gray": [{"peak_lr": 1e-3}, {"peak_lr": 4e-3}, {"gray": 78.4}, {"ewc": 10.0}],
    "ewc_gray_replay": [{"peak_lr": 1e-3}, {"peak_lr": 4e-3}, {"ewc": 10.0}, {"ewc": 1000.0}],
    "selective_amnesia": [{"peak_lr": 6e-4}, {"peak_lr": 2e-3}, {"ewc": 0.078125}, {"ewc": 7.8125}],
    "gradient_ascent": [{"steps": 35}, {"steps": 140}, {"peak_lr": 7.5e-5}, {"peak_lr": 3e-4}],
    "gradient_ascent_retain": [{"peak_lr": 1e-3}, {"forget": 0.005}, {"forget": 0.1},
                               {"steps": 800, "peak_lr": 1e-3}],
    "saliency": [{"peak_lr": 1e-3}, {"peak_lr": 4e-3}, {"forget": 0.1}, {"salient": 0.2}],
    "fine_tune": [{"peak_lr": 4e-3}, {"peak_lr": 1.6e-2}, {"steps": 3200}, {"steps": 3200, "peak_lr": 1.6e-2}],
    "unseen": [{"peak_lr": 8e-3}, {"steps": 1600}, {"fresh": 0.5}, {"fresh": 0.85}],
}
# What the book stands on: the grid of each sweep of 07_methods, and the parameters that its cells share.
SWEEPS = {
    "evidence": ({"forget": [*range(10)], "seed": [*range(5)]}, {"methods": ["ewc_gray", "unseen"]}),
    **{f"search-{method}": ({"changes": [{}, *others]},
                            {"methods": [method], "forget": 3, "seed": 0, "longest": 3200})
       for method, others in SEARCH.items()},
    # Digits on which no setting was looked for, from a baseline that is in no other sweep; 9 is that of ewc_gray.
    "methods": ({"forget": [5, 6, 7, 8]}, {"seed": 5, "longest": 10_000}),
    # Followed through all digits because it came first in "methods"; from baselines that are in no other sweep.
    "saliency": ({"forget": [*range(10)], "seed": [*range(6, 9)]}, {"methods": ["saliency"]}),
    "digits": ({"forget": [*range(10)]}, {"seed": 0, "dataset": "digits", "methods": ["ewc_gray", "unseen"]}),
    # With the rate of its training and half of its updates, as the others have.
    "conv": ({"forget": [9]}, {"architecture": "conv", "methods": ["ewc_gray", "unseen"],
                               "changes": {"peak_lr": 3e-3}, "longest": 936}),
}
# How far a cell made again may lie from its committed row on another machine, where sums are rounded otherwise:
# a training then ends in other weights, like one from another seed.
TOLERANCE = {"nats": 0.6, "gray": 0.02, "rho": 0.35}


def read(path: str | Path = RESULTS / "evidence.csv") -> pd.DataFrame:
    """The table of a sweep of 07_methods, a row a cell; see `sa_lib.sweep.table`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table, or no cell of it succeeded.
    """
    check_types(path=(path, (str, Path)))
    if not Path(path).is_file():
        raise FileNotFoundError(f"no table at {path}; make evidence, or a sweep of 07_methods, makes one")
    try:
        table = pd.read_csv(path, dtype={"error": str}).copy()  # in one piece: so many columns are slow to add to
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a table: {' '.join(str(error).split())}") from None
    _check_columns(table, str(path), ())
    table["error"] = table["error"].fillna("")
    for name, default in (("dataset", "mnist"), ("architecture", "mlp"), ("sweep", "")):
        table[name] = table[name].fillna(default) if name in table else default
    if not (table["error"] == "").any():
        raise ValueError(f"no cell of {path} succeeded; the column 'error' says why")
    return table


def _check_columns(table: pd.DataFrame, name: str, more: Sequence[str]) -> None:
    needed = {"cell", "error", "forget", "seed", "models.baseline.nelbo", "models.retrain.nelbo", *more}
    if missing := needed - set(table.columns):
        raise ValueError(f"{name} is not the table of a sweep of 07_methods: it lacks {', '.join(sorted(missing))}")


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell that succeeded and each model in it.

    Args:
        table: of `read`.

    Returns:
        Index dataset, architecture, forget, seed, model; columns: the numbers of 07_methods for the model
        (`probability`, `gray`, `accuracy`, `nelbo`, `relearning`, `seconds`, `digest`) and, for each threat,
        `errors.<threat>`: an array [N] of the attacker's errors; of "either", the lower of the two for each image.
    """
    check_types(table=(table, pd.DataFrame))
    keys = ["dataset", "architecture", "forget", "seed"]
    _check_columns(table, "table", keys)
    rows = []
    for _, cell in table[table["error"] == ""].iterrows():
        models: dict[str, dict[str, Any]] = {}
        for column, value in cell.items():
            if column.startswith("models.") and not pd.isna(value):
                _, model, measure = column.split(".", 2)
                models.setdefault(model, {})[measure] = (
                    np.array(json.loads(value)) if measure.startswith("errors.") else value)
        for measures in models.values():
            measures["errors.either"] = np.minimum(*(measures[f"errors.{threat}"] for threat in THREATS))
        rows += [{**{key: cell[key] for key in keys}, "model": name, **measures} for name, measures in models.items()]
    return (pd.DataFrame(rows).drop_duplicates([*keys, "model"]).set_index([*keys, "model"]).sort_index())


def residual(rows: pd.DataFrame, model: str, forget: int, threat: str) -> Residual:
    """rho of a method for one class, over all its seeds, against all models that never saw the class.

    Args:
        rows: of `tidy`, of one data set and architecture.
    """
    _check_rows(rows)
    check_name(rows.index.unique("forget"), forget=forget)
    check_name(rows.xs(forget, level="forget").index.unique("model"), model=model)
    check_name((*THREATS, "either"), threat=threat)
    column = f"errors.{threat}"
    mine = rows.xs((forget, model), level=("forget", "model"))[column]
    base, never = (rows.xs((forget, name), level=("forget", "model"))[column] for name in ("baseline", "retrain"))
    errors = (torch.tensor(np.stack(list(e))) for e in (never, mine, base.loc[mine.index]))
    return residual_knowledge(*errors)


def interval(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """A mean with its 95 % interval, by the bootstrap (Efron & Tibshirani 1993) over the values."""
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError(f"values={short(values)} is not allowed; use at least one finite number")
    check_whole(resamples=resamples)
    check_seed(seed)
    means = np.random.default_rng(seed).choice(numbers, (resamples, len(numbers))).mean(1)
    return float(numbers.mean()), *map(float, np.quantile(means, (0.025, 0.975)))


def differences(rows: pd.DataFrame, measure: str, model: str, other: str) -> pd.Series:
    """`measure` of one model less that of another, in the cells that have both."""
    _check_rows(rows)
    check_name(rows.columns, measure=measure)
    check_name(rows.index.unique("model"), model=model, other=other)
    ours, theirs = (rows.xs(name, level="model")[measure] for name in (model, other))
    return (ours - theirs).dropna()


def _check_rows(rows: pd.DataFrame) -> None:
    check_types(rows=(rows, pd.DataFrame))
    if not {"forget", "seed", "model"} <= set(rows.index.names):
        raise ValueError(f"rows are named by {short(list(rows.index.names))}; give rows of tidy")
    if rows.index.has_duplicates:
        raise ValueError("rows have a model of the same class and seed twice; give those of one data set and architecture")


def make(root: Path, names: Sequence[str], seeds: int, scheduler: str | None) -> int:
    """Run these of `SWEEPS` and put their rows into ``results/``; return the number of cells that failed.

    Rows of other sweeps stay, each with what it was made with in ``provenance.json``.
    """
    from . import sweep
    folder = root / "results"
    path, provenance = folder / "evidence.csv", folder / "provenance.json"
    made = json.loads(provenance.read_text(encoding="utf-8")) if provenance.is_file() else {}
    tables = dict([*pd.read_csv(path, index_col="cell").groupby("sweep")] if path.is_file() else [])
    for name in names:
        grid, shared = SWEEPS[name]
        grid = {**grid, "seed": grid["seed"][:seeds]} if "seed" in grid else grid
        wanted = sweep.cells(root, "07_methods", grid, shared)
        table = tables[name] = sweep.sweep(root, root / "runs" / name, "07_methods", wanted, scheduler).assign(sweep=name)
        made[name] = {"grid": grid, "shared": shared, "date": datetime.date.today().isoformat(), "cells": len(table),
                      "failed": int((table["error"] != "").sum()),
                      "cell_hours": float(table["seconds"].sum() / 3600), "machine": sweep.machine()}
        with write_atomically(path) as temporary:
            pd.concat([tables[name] for name in SWEEPS if name in tables]).dropna(axis=1, how="all").to_csv(temporary)
        with write_atomically(provenance) as temporary:
            temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return sum(made[name]["failed"] for name in names)


def check(table: pd.DataFrame, day: datetime.date, config: Mapping[str, float] = TOLERANCE) -> list[str]:
    """Make one cell again from nothing, the one that falls to this day, and print a line for each number.

    Returns:
        what differs from its row by more than the tolerance.
    """
    # What was searched had other settings.
    there = table[(table["error"] == "") & (table["dataset"] == "mnist") & (table["architecture"] == "mlp")
                  & table["models.unseen.nelbo"].notna() & ~table["sweep"].str.startswith("search-")]
    cell = there.iloc[day.toordinal() % len(there)]
    digit, seed = int(cell["forget"]), int(cell["seed"])
    print(f"forget {digit}, seed {seed}, made {cell['date']}")
    dataset = data.load("mnist")
    base = training.get_cvae(dataset, seed=seed)
    models = {"baseline": base, "retrain": unlearning.get_never_saw(dataset, [digit], seed=seed),
              "unseen": unlearning.get_forgotten(base, dataset, [digit], unlearning.METHODS["unseen"], seed)}
    kept = dataset.test_labels != digit
    labels = dataset.test_labels[kept]
    counts = torch.bincount(labels, minlength=10)[labels]
    pairs, errors = [], {}
    for name, made in models.items():
        losses = evaluation.negative_elbo(made.model, dataset.test_images[kept], labels, seed).cpu()
        # Every class counts the same, as in `evaluation.retained_means`.
        pairs.append((f"{name}: kept, nats", "nats", float((losses / counts).sum() / 9), cell[f"models.{name}.nelbo"]))
        real = dataset.test_images[dataset.test_labels == digit][:100].to(training.device())
        for threat in THREATS:
            errors[name, threat] = attacks.get_reconstruction(made, real, digit, attacks.THREATS[threat],
                                                              seed=seed).loss[-1]
    gray = unlearning.distance_to_gray(evaluation.prior_samples(models["unseen"].model, torch.full((1000,), digit)))
    pairs.append(("unseen: distance to gray", "gray", float(gray.mean()), cell["models.unseen.gray"]))
    for threat in THREATS:
        rho = residual_knowledge(errors["retrain", threat][None], errors["unseen", threat], errors["baseline", threat])
        pairs.append((f"unseen: rho, {threat}", "rho", rho.rho, cell[f"models.unseen.rho.{threat}.value"]))
    differing = []
    for name, kind, now, then in pairs:
        agrees = abs(now - then) <= config[kind]
        print(f"{name:32} {now:9.4f}  committed {then:9.4f}  {'agrees' if agrees else 'DIFFERS'}")
        if not agrees:
            differing.append(name)
    return differing


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or check the evidence; return 0 if all is well, 1 if not, 2 if it could not start."""
    parser = argparse.ArgumentParser(prog="python -m sa_lib.evidence", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    again = commands.add_parser("make", help="run the sweeps and replace results/")
    again.add_argument("--sweeps", nargs="+", default=[*SWEEPS], choices=SWEEPS, help="which; all by default")
    again.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    again.add_argument("--scheduler", help="tcp://...: a cluster of dask.distributed that is there")
    commands.add_parser("check", help="make one cell again, from nothing")
    options = parser.parse_args(arguments)
    try:
        if options.command == "make":
            return int(make(Path.cwd(), options.sweeps, options.seeds, options.scheduler) > 0)
        table = read()
        with tempfile.TemporaryDirectory() as folder:
            os.environ.setdefault("SA_DATA", str(cache_root() / "data"))
            os.environ["SA_CACHE"] = folder
            differing = check(table, datetime.date.today())
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if differing:
        print(f"differs: {'; '.join(differing)}")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
