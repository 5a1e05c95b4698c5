"""The same sweep by one worker and by two."""

import os
import time

import pytest

from runs import PROJECT
from sa_lib.book import sweep
from sa_lib.book.execution import machine


def test_two_workers_against_one(benchmark, tmp_path, monkeypatch):
    cores = machine()["cores"]
    # This process is part of the load.
    if cores < 2 or os.getloadavg()[0] > cores - 0.5:
        pytest.skip(f"two workers need two cores of their own; of {cores} cores, {os.getloadavg()[0]:.1f} are busy")
    cells = sweep.cells(PROJECT, "01_baseline", {"seed": [*range(4)]}, {"profile": "smoke", "dataset": "digits"})

    def run(workers):
        # With an empty store, each sweep trains all of its models.
        monkeypatch.setenv("SA_CACHE", str(tmp_path / f"cache {workers}"))
        started = time.perf_counter()
        table = sweep.sweep(PROJECT, tmp_path / f"sweep {workers}", "01_baseline", cells, workers=workers)
        assert (table["error"] == "").all()
        return time.perf_counter() - started

    benchmark.group = "Sweep"
    one, two = benchmark.pedantic(lambda: [run(1), run(2)])
    benchmark.extra_info |= {"rounds": 1, "cells": len(cells), "seconds": {"1": one, "2": two}, "ratio": one / two}
