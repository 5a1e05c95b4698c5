"""Seconds of things that are compared, measured in turn: whatever disturbs the machine disturbs all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def timed(jobs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """One round of all jobs: name -> seconds of processor time, to which others on a busy machine add little."""
    spent = {}
    for name, job in jobs.items():
        begun = time.process_time()
        job()
        spent[name] = time.process_time() - begun
    return spent


def rows(rounds: Sequence[Mapping[str, float]], units: Mapping[str, float]) -> list[dict[str, Any]]:
    """For each job the median over the rounds of its seconds a unit, and of their ratio to those of the first job."""
    each = [{name: spent / units[name] for name, spent in round_.items()} for round_ in rounds]
    floor = next(iter(each[0]))
    return [{"name": name, "seconds": statistics.median(spent[name] for spent in each),
             "ratio": statistics.median(spent[name] / spent[floor] for spent in each)} for name in each[0]]
