"""Times for comparison, measured in turn, so that a disturbance of the machine affects all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def timed(jobs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """One round of all jobs: name -> seconds of processor time, which a busy machine changes little."""
    spent = {}
    for name, job in jobs.items():
        started = time.process_time()
        job()
        spent[name] = time.process_time() - started
    return spent


def rows(rounds: Sequence[Mapping[str, float]], units: Mapping[str, float]) -> list[dict[str, Any]]:
    """For each job, the medians over the rounds of its seconds a unit and of their ratio to the first job's."""
    each = [{name: spent / units[name] for name, spent in round_.items()} for round_ in rounds]
    floor = next(iter(each[0]))
    return [{"name": name, "seconds": statistics.median(spent[name] for spent in each),
             "ratio": statistics.median(spent[name] / spent[floor] for spent in each)} for name in each[0]]
