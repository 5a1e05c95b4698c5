"""Work: tasks that wait for each other, done by the workers of a cluster, the longest chain of tasks first."""

import heapq
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import Any

from distributed import Client, KilledWorker, wait
from tqdm.auto import tqdm

__all__ = ["Task", "alone", "do", "makespan", "outcome", "ranks", "words"]


@dataclass(frozen=True)
class Task:
    """One call of a function, to be done once.

    Attributes:
        name: of the task, unique.
        kind: such as "cvae".
        call: the function, and its arguments by position.
        needs: names of the tasks that must be done before.
        seconds: expected.
    """

    name: str
    kind: str
    call: tuple[Any, ...]
    needs: tuple[str, ...]
    seconds: float = 0.0


def ranks(tasks: Sequence[Task]) -> dict[str, float]:
    """The seconds from the start of each task to the end of the longest chain of tasks that waits for it.

    Args:
        tasks: each behind those that it needs.
    """
    seconds = {task.name: task.seconds for task in tasks}
    rank = dict(seconds)
    for task in reversed(tasks):
        for needed in task.needs:
            rank[needed] = max(rank[needed], seconds[needed] + rank[task.name])
    return rank


def makespan(tasks: Sequence[Task], workers: int) -> float:
    """The seconds that so many workers take, if a free one always begins the task of the highest rank that can begin.

    This is list scheduling by the longest chain (Graham 1969, SIAM J. Appl. Math. 17, 416-429).
    """
    rank, by_name = ranks(tasks), {task.name: task for task in tasks}
    missing = {task.name: len(task.needs) for task in tasks}
    waiting = defaultdict(list)
    for task in tasks:
        for needed in task.needs:
            waiting[needed].append(task.name)
    ready = [(-rank[task.name], task.name) for task in tasks if not task.needs]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            name = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + by_name[name].seconds, name))
        now, ended = heapq.heappop(running)
        for name in waiting[ended]:
            missing[name] -= 1
            if not missing[name]:
                heapq.heappush(ready, (-rank[name], name))
    return now


def alone(tasks: Sequence[Task], workers: int) -> dict[str, float]:
    """The seconds that each chapter would take by itself, with all that it needs, on so many workers.

    Args:
        tasks: each behind those that it needs; a chapter has its own name for a kind.
    """
    below: dict[str, set[str]] = {}
    for task in tasks:
        below[task.name] = {task.name}.union(*(below[name] for name in task.needs))
    return {task.name: makespan([other for other in tasks if other.name in below[task.name]], workers)
            for task in tasks if task.name == task.kind}


def do(client: Client, tasks: Sequence[Task], workers: int, describe: Callable[[Sequence[Task]], str]
       ) -> Iterator[tuple[Task, Any]]:
    """Do the tasks, and yield each with its result as soon as it is there; an exception counts as a result.

    One line in the terminal says how far the work is.

    Args:
        tasks: each behind those that it needs.
        workers: how many the client has, for the time that is left.
        describe: the tasks that are left -> a text for that line.
    """
    rank, futures, own = ranks(tasks), {}, uuid.uuid4().hex  # other runs may use the cluster at the same time
    for task in tasks:
        futures[task.name] = client.submit(outcome, *task.call, after=[futures[name] for name in task.needs],
                                           key=f"{task.name}-{own}", priority=round(1000 * rank[task.name]), pure=False)
    left, began, expected = {task.name: task for task in tasks}, time.monotonic(), makespan(tasks, workers)
    ends = began + expected
    with tqdm(bar_format="{desc}", disable=not sys.stderr.isatty(), leave=False) as line:
        while left:
            line.set_description_str(f"{describe(list(left.values()))}, about "
                                     f"{words(max(ends - time.monotonic(), 0))} left")
            ended = _ended({name: futures[name] for name in left})
            for name in ended:
                line.clear()
                yield left.pop(name), _result(futures[name])
            if ended:
                rest = makespan([replace(task, needs=tuple(left.keys() & task.needs)) for task in left.values()],
                                workers)
                # How much slower this machine is than expected; at first, the half minute of the expectation counts.
                pace = (time.monotonic() - began + 30) / (expected - rest + 30)
                ends = time.monotonic() + pace * rest


def outcome(function: Callable[..., Any], *arguments: Any, after: Sequence[Any] = ()) -> Any:
    """The result of a call, or its exception: a chapter then meets the failure of its model by itself."""
    try:
        return function(*arguments)
    except Exception as error:
        return error


def _ended(futures: Mapping[str, Any]) -> list[str]:
    """The names of the tasks that have ended, after a second at most."""
    try:
        done = wait(list(futures.values()), timeout=1, return_when="FIRST_COMPLETED").done
    except TimeoutError:
        return []
    return [name for name, future in futures.items() if future in done]


def _result(future: Any) -> Any:
    try:
        return future.result()
    except KilledWorker:
        return RuntimeError("its worker died repeatedly")
    except CancelledError:
        return RuntimeError("the scheduler is gone")
    except Exception as error:
        return error


def words(seconds: float) -> str:
    """A time in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
