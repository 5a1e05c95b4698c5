"""The same sweep by one worker and by two."""

import os
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def test_two_workers_against_one(benchmark, tmp_path, monkeypatch):
    sweep = pytest.importorskip("sa_lib.sweep")
    cores = sweep.machine()["cores"]
    # One of the processes that make the load is this one.
    if cores < 2 or os.getloadavg()[0] > cores - 0.5:
        pytest.skip(f"two workers need two cores of their own; of {cores} cores, {os.getloadavg()[0]:.1f} are busy")
    wanted = sweep.cells(PROJECT, "01_baseline", {"seed": [*range(4)]}, {"profile": "smoke", "dataset": "digits"})

    def run(workers):
        # Each trains all of its models.
        monkeypatch.setenv("SA_CACHE", str(tmp_path / f"cache {workers}"))
        begun = time.perf_counter()
        found = sweep.sweep(PROJECT, tmp_path / f"sweep {workers}", "01_baseline", wanted, workers=workers)
        assert (found["error"] == "").all()
        return time.perf_counter() - begun

    benchmark.group = "Sweep"
    one, two = benchmark.pedantic(lambda: [run(1), run(2)])
    benchmark.extra_info |= {"rounds": 1, "cells": len(wanted), "seconds": {"1": one, "2": two}, "ratio": one / two}
