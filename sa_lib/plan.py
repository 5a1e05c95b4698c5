"""The plan of a run: every model and every attack that its chapters will ask for, each behind those that it needs.

A chapter is a notebook and trains its models by itself. The plan only lets models that do not depend on each other be
made side by side, before the chapters ask for them: by `make run` for all chapters, and by `make_ahead` for a chapter
that runs alone. A chapter without a plan loses nothing but this.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import torch
from tqdm.auto import tqdm

from . import data, store, trained
from .attacks import THREATS, AttackResult, Threat
from .checks import check_name, check_types
from .data import Dataset
from .experiment import Parameters
from .fisher import Diagonal
from .labels import retain_set
from .methods import ewc_gray
from .model import device
from .reconstruction import SearchConfig
from .trained import Trained

__all__ = ["ENVIRONMENT", "PLANNED", "PLANS", "Request", "make", "make_ahead", "requests"]

PLANNED = "SA_PLANNED"  # in the environment of a chapter all of whose models are there
MOST = 8  # processes of `make_ahead`; each takes about a gigabyte
# Each of several processes at work has one thread, and no progress bar of its own.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


@dataclass(frozen=True)
class Request:
    """One call of a function, whose arguments may be requests themselves.

    Attributes:
        function: of `trained`, say.
        arguments: all of them, by position.
        after: requests for the artifacts that the function will ask for by itself.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    after: tuple["Request", ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the store keeps the result."""
        return self.function in KEPT

    @property
    def needs(self) -> tuple["Request", ...]:
        """The nearest requests below this one whose results the store keeps."""
        below: dict[Request, None] = {}
        for argument in (*self.arguments, *self.after):
            if isinstance(argument, Request):
                below |= dict.fromkeys([argument] if argument.kept else argument.needs)
        return tuple(below)

    def __str__(self) -> str:
        """A name that is the same in every process."""
        name = self.function.__name__
        return f"{name}-{store.text_digest(repr([name, *map(_text, self.arguments)]))[:16]}"


def _text(value: Any) -> str:
    # The text of a function, which a method has within it, ends with its address in this process.
    return value.__name__ if callable(value) else re.sub(" at 0x[0-9a-f]+", "", str(value))


def make(request: Request) -> tuple[str, float]:
    """Make the result of a request, or find it in the store.

    Returns:
        its name in the store, and the seconds that its making took, now or earlier.
    """
    arguments = _arguments(request)
    store.requested.clear()  # of the arguments' own
    request.function(*arguments)
    name = list(store.requested)[-1]
    return name, store.kept(name).info["seconds"]


def _arguments(request: Request) -> list[Any]:
    return [_result(argument) if isinstance(argument, Request) else argument for argument in request.arguments]


@lru_cache(maxsize=8)  # the Fishers of a model have 43 MB
def _result(request: Request) -> Any:
    return request.function(*_arguments(request))


def requests(chapter: str, run: Parameters) -> list[Request]:
    """The requests of a chapter and all that they need, each once, behind those that it needs.

    Args:
        chapter: its name, such as "01_baseline".
    """
    ordered: dict[Request, None] = {}

    def add(request):
        for needed in request.needs:
            add(needed)
        ordered.setdefault(request)

    for request in PLANS[chapter](run):
        add(request)
    return list(ordered)


def make_ahead(chapter: str, run: Parameters) -> None:
    """Make the models and attacks that a chapter will ask for side by side, on all cores.

    It does nothing where this process has one thread, where a GPU does the work, or where `make run` has made them.
    A request that fails here is left to the chapter, which meets the error by itself.

    Args:
        chapter: its name, such as "01_baseline".

    Raises:
        ValueError: the chapter has no plan.
    """
    check_name(PLANS, chapter=chapter)
    check_types(run=(run, Parameters))
    threads = torch.get_num_threads()
    if threads == 1 or device().type != "cpu" or PLANNED in os.environ:
        return
    planned = {str(request): request for request in requests(chapter, run)}
    # To look for each of them by its weights would take half a minute.
    note = store.cache_root() / "plans" / f"{store.text_digest(' '.join(planned))}.txt"
    known = note.read_text(errors="replace").split() if note.is_file() else []
    if len(known) == len(planned) and all((store.cache_root() / "models" / name).is_file() for name in known):
        return
    with _environment(ENVIRONMENT), suppress(BrokenProcessPool):
        artifacts = _side_by_side(planned, min(threads, MOST))
        if len(artifacts) == len(planned):
            with suppress(OSError), store.write_atomically(note) as temporary:
                temporary.write_text("\n".join(artifacts) + "\n")


def _side_by_side(planned: Mapping[str, Request], processes: int) -> list[str]:
    """Make requests in new processes, each request when those that it needs have ended, well or not.

    Returns:
        the names in the store of those that could be made.
    """
    waiting, needs = dict(planned), {name: set(map(str, request.needs)) for name, request in planned.items()}
    running, ended, artifacts = {}, set(), []
    pool = ProcessPoolExecutor(processes, get_context("spawn"))
    try:
        with tqdm(total=len(planned), desc="models and attacks", leave=False) as bar:
            while waiting or running:
                for name in [name for name in waiting if needs[name] <= ended]:
                    running[pool.submit(make, waiting.pop(name))] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    ended.add(running.pop(future))
                    artifacts += [] if future.exception() else [future.result()[0]]
                    bar.update()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return artifacts


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment for the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Requests that several chapters have.

def baseline(run: Parameters, seed: int | None = None, without: Sequence[int] = ()) -> Request:
    return Request(trained.cvae, (_data(run), run.model, run.training, run.seed if seed is None else seed,
                                  tuple(sorted(without))))


def judges(run: Parameters, *names: str) -> list[Request]:
    return [Request(trained.judge, (_data(run), run.judge_config(name), run.seed)) for name in names]


def fishers(run: Parameters, source: Request) -> Request:
    return Request(trained.fishers, (source, _data(run), run.seed))


def retain_fisher(run: Parameters, source: Request, forget: Sequence[int]) -> Request:
    return Request(trained.retain_fisher, (source, _data(run), tuple(forget), run.seed), (fishers(run, source),))


def unlearned(run: Parameters, source: Request, forget: Sequence[int], protect: Request | None = None,
              push: Sequence[int] | None = None, anchor: Request | None = None, **changes: Any) -> Request:
    return Request(trained.unlearned, (source, _data(run), tuple(forget), protect or retain_fisher(run, source, forget),
                                       replace(run.unlearning, **changes), run.seed, ewc_gray, push, anchor))


def sequence(run: Parameters, source: Request, forget: Sequence[int], **changes: Any) -> list[Request]:
    models = [source]
    for count in range(1, len(forget) + 1):
        models.append(unlearned(run, models[-1], forget[:count], **changes))
    return models[1:]


def never_saw(run: Parameters, forget: Sequence[int], seed: int | None = None, rounds: int | None = None) -> Request:
    seed, forget = run.seed if seed is None else seed, tuple(sorted(forget))
    return Request(trained.never_saw, (_data(run), forget, run.model, run.training, run.unlearning,
                                       rounds or len(forget), seed), (baseline(run, seed, forget),))


def mended(run: Parameters, source: Request, forget: Sequence[int]) -> Request:
    return Request(trained.mended, (source, _data(run), tuple(forget), run.size.mending, run.seed))


def attacks(run: Parameters, sources: Sequence[Request], label: int) -> list[Request]:
    """Under every threat model, each from the answers under the one before it."""
    chained = []
    for source in sources:
        before: tuple[Request, ...] = ()
        for threat in THREATS.values():
            before = (Request(attack, (source, _data(run), label, threat, run.search, run.seed, run.targets), before),)
            chained += before
    return chained


def shortfalls(run: Parameters, sources: Sequence[Request], label: int, part: int = 5) -> list[Request]:
    """Of the attacks under the two strongest threat models, on one in `part` of their targets."""
    return [Request(shortfall, (*request.arguments, part), (request,)) for request in attacks(run, sources, label)
            if request.arguments[3].y != "label"]


def shortfall(source: Trained, dataset: Dataset, label: int, threat: Threat, config: SearchConfig, seed: int,
              count: int, part: int) -> float:
    """How far `attack` is from its end; the store keeps the longer attack."""
    targets = data.held_out(dataset, label, count, seed).to(device())
    return trained.shortfall(source, targets, label, threat, config, seed, part)


def attack(source: Trained, dataset: Dataset, label: int, threat: Threat, config: SearchConfig, seed: int,
           count: int) -> AttackResult:
    """The attack whose targets are `count` random test images of the class."""
    targets = data.held_out(dataset, label, count, seed).to(device())
    return trained.reconstruction(source, targets, label, threat, config, seed)


def sum_of_fishers(by_class: dict[int, Diagonal], classes: tuple[int, ...]) -> Diagonal:
    """The third chapter's penalty in disguise."""
    return {name: sum(by_class[k][name] for k in classes) for name in by_class[classes[0]]}


def _data(run: Parameters) -> Request:
    return Request(data.load, (run.dataset,))


# Chapters, in the order of the book.

def _baseline(run: Parameters) -> list[Request]:
    return [baseline(run), *judges(run, "A", "B", "features")]


def _ewc_unlearning(run: Parameters) -> list[Request]:
    base = baseline(run)
    replay_only, no_rehearsal = {"real": 0.0}, {"real": 0.0, "replay": 0.0}
    variants = [{}, {"ewc": 0.0}, {"ewc": 100.0}, {"replay": 0.0}, {"gray": 0.0},
                *({**replay_only, "ewc": ewc} for ewc in (0.0, 1.0, 100.0)),
                *({**no_rehearsal, "ewc": ewc} for ewc in (0.0, 1.0, 10.0, 100.0, 1000.0))]
    return [*judges(run, "B", "features"), *(unlearned(run, base, run.forget, **weights) for weights in variants)]


def _sequential(run: Parameters) -> list[Request]:
    base, alone = baseline(run), {"real": 0.0, "replay": 0.0, "ewc": 100.0}
    others = [k for k in reversed(range(run.classes)) if k not in run.forget]
    long = [*run.forget, *others][:max(min(5, run.classes - 1), len(run.forget))]
    first, pair = long[:1], tuple(long[:2])
    source = unlearned(run, base, first)
    here, still = (retain_fisher(run, source, classes) for classes in (first, pair))
    total = Request(sum_of_fishers, (fishers(run, source), tuple(retain_set(pair, run.classes))))
    new, both = pair[1:], pair
    variants = [(here, new, None), (here, both, None), (still, new, None), (still, both, None)]
    return [*judges(run, "B"),
            *(unlearned(run, source, pair, *variants[at]) for at in (0, 2, 3)),
            *(unlearned(run, source, pair, *variant, **alone) for variant in variants),
            unlearned(run, source, pair, total, both, **alone),
            unlearned(run, source, pair, retain_fisher(run, base, pair), both, base, **alone),
            *sequence(run, base, run.forget), *sequence(run, base, long), *sequence(run, base, long, **alone),
            unlearned(run, base, long), never_saw(run, long, rounds=1),
            *(unlearned(run, source, pair, still, steps=steps) for steps in (10, 30))]


def _latent(run: Parameters) -> list[Request]:
    base, digit = baseline(run), run.forget[:1]
    return [*sequence(run, base, run.forget), never_saw(run, digit), baseline(run, run.seed + 1),
            unlearned(run, base, digit, gray=0.0)]


def _attacks(run: Parameters) -> list[Request]:
    base, digit, most = baseline(run), run.forget[:1], run.unlearning.steps
    steps = sequence(run, base, run.forget)
    never = [never_saw(run, run.forget, seed) for seed in range(run.seed, run.seed + 3)]
    own = never_saw(run, digit)
    shorter = [*(unlearned(run, base, digit, steps=most // part) for part in (8, 3, 1)),
               unlearned(run, base, digit, gray=0.0)]
    after = [mended(run, steps[0], digit), mended(run, own, digit),
             *(mended(run, model, run.forget) for model in (steps[-1], *never))]
    first = [base, steps[0], steps[-1], *never, own, *after, *shorter]
    return [*judges(run, "A", "B"), *attacks(run, first, digit[0]),
            *(request for k in run.forget[1:] for request in attacks(run, [base, steps[-1], *never], k)),
            *(request for k in run.forget for request in shortfalls(run, [base, steps[-1], never[0]], k))]


def _report_card(run: Parameters) -> list[Request]:
    never = [never_saw(run, run.forget, seed) for seed in range(run.seed, run.seed + 3)]
    # The store knows a checkpoint's file by its weights, which only the chapter reads.
    own = [] if run.checkpoint else sequence(run, baseline(run), run.forget)[-1:]
    after = [mended(run, model, run.forget) for model in (*never, *own)]
    return [*judges(run, "A", "B", "features"),
            *(request for k in run.forget for request in (
                *attacks(run, [baseline(run), *never, *own, *after], k), *shortfalls(run, [*own, never[0]], k)))]


def _methods(run: Parameters) -> list[Request]:
    base = baseline(run)
    models = [Request(trained.forgotten, (base, _data(run), run.forget, method, run.seed),
                      (fishers(run, base),) if method.config.ewc and not method.own else ())
              for method in run.methods.values()]
    models += [never_saw(run, run.forget, seed) for seed in range(run.seed, run.seed + 3)]
    after = [mended(run, model, run.forget) for model in models]
    everything = [base, *models, *after], run.forget[0]
    return [*judges(run, "B"), *(request for request in (
        *attacks(run, *everything), *shortfalls(run, *everything, part=20))
        if request.arguments[3] != THREATS["y free"])]


PLANS = {"01_baseline": _baseline, "02_ewc_unlearning": _ewc_unlearning, "03_sequential": _sequential,
         "04_latent": _latent, "05_attacks": _attacks, "06_report_card": _report_card, "07_methods": _methods}
KEPT = (trained.cvae, trained.judge, trained.fishers, trained.unlearned, trained.mended, trained.never_saw,
        trained.forgotten, attack, shortfall)
