"""The rows of `trials`: models trained, made to forget, mended, measured and attacked side by side, see `sa_lib.stack`.

On a GPU those of all seeds are made at once, on processor cores those of one seed at a time.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from .. import data, fisher, stack, trained
from ..attacks import THREATS
from ..data import Dataset
from ..fisher import Diagonal
from ..judges import Judge, JudgeConfig
from ..labels import CLASSES, retain_set
from ..methods import METHODS, Method, distance_to_gray, fine_tune
from ..model import ModelConfig, device
from ..reconstruction import SearchConfig
from ..stack import Stack
from ..store import tensor_digest
from ..threats import AttackResult
from ..trained import MENDING
from ..training import TrainingConfig
from ..trials import protocol
from ..unlearning import UnlearningConfig
from .execution import machine

__all__ = ["FEW", "Size", "further", "in_sequence", "measured", "measures_of", "processor", "share"]

SAMPLES = 500  # drawn for each class to measure a model
FEW = 100  # training images of the class to learn it again
# Models at once, as far as the memory of a GPU allows.
BLOCKS = {"mlp": 64, "conv": 8}
CHECKED = 3  # the convergence of the attack is checked on each class that is a multiple of it, for the first seed


@dataclass(frozen=True)
class Size:
    """The size of the trials; a test has a smaller one than the book.

    Attributes:
        longest: the most updates of a method or of mending.
        peak_lr: the highest learning rate of a method or of mending.
    """

    shape: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    search: SearchConfig = SearchConfig()
    longest: int = 10_000
    peak_lr: float = 1.0

    def capped(self, config: UnlearningConfig) -> UnlearningConfig:
        """A configuration within the limits."""
        return replace(config, steps=min(config.steps, self.longest), peak_lr=min(config.peak_lr, self.peak_lr))


def measured(label: int, seeds: Sequence[int], dataset: Dataset | None = None, size: Size = Size(),
             methods: Sequence[str] | None = None, controls: bool = True) -> list[dict]:
    """The rows of a class: for each seed, one for each model as it is, and one for each mended model.

    Args:
        dataset: the protocol's by default.
        size: of the models and of their training, by default that of the book.
        methods: the protocol's by default.
        controls: whether there are rows of the baseline, which is not mended, and of a model that never saw the class.
    """
    frozen, dataset = protocol(), dataset or _images()
    chosen = {name: replace(METHODS[name], config=size.capped(METHODS[name].config))
              for name in methods or frozen["methods"]}
    base = _baselines(tuple(seeds), dataset, size)
    models = {}
    if controls:
        never = stack.train(dataset, size.shape, size.training, seeds, [label])
        plain = further(size.capped(UnlearningConfig()))
        models = {"baseline": base, "never saw": stack.forget(never, dataset, label, plain, seeds)}
    protect = (_protecting(_fishers(tuple(seeds), dataset, size), dataset, [label])
               if any(method.config.ewc for method in chosen.values()) else [])
    of_samples = ([fisher.own_fisher(model, seed) for model, seed in zip(base.models(), seeds, strict=True)]
                  if any(method.own for method in chosen.values()) else [])
    for name, method in chosen.items():
        models[name] = stack.forget(base, dataset, label, method, seeds,
                                    (of_samples if method.own else protect) if method.config.ewc else ())
    shares = {name: share(method.config, size.training) for name, method in chosen.items()}
    return _rows(models, _mended(models, dataset, [label], seeds, size), dataset, label, [label], seeds, size,
                 frozen["seeds"][:1] if label % CHECKED == 0 else (), shares)


def in_sequence(label: int, order: tuple[int, ...], seeds: tuple[int, ...], dataset: Dataset | None = None,
                size: Size = Size()) -> list[dict]:
    """The rows of one class of a sequence of classes, which `ewc_gray` makes the baseline forget; as `measured`.

    The models are "one after another", as in chapter 3, and "at once". Those that never saw the classes get as many
    further updates as the sequence takes.

    Args:
        label: in `order`.
    """
    dataset = dataset or _images()
    models, mended = _sequence(order, seeds, dataset, size)
    return _rows(models, mended, dataset, label, order, seeds, size, protocol()["seeds"][:1])


@functools.lru_cache(maxsize=1)
def _sequence(order: tuple[int, ...], seeds: tuple[int, ...], dataset: Dataset,
              size: Size) -> tuple[dict[str, Stack], dict[str, Stack]]:
    """The models of `in_sequence`, as they are and mended, once for all its classes."""
    base = _baselines(seeds, dataset, size)
    method = replace(METHODS["ewc_gray"], config=size.capped(METHODS["ewc_gray"].config))
    by_class = _fishers(seeds, dataset, size)
    at_once = stack.forget(base, dataset, order, method, seeds, _protecting(by_class, dataset, order))
    current, never = base, stack.train(dataset, size.shape, size.training, seeds, order)
    for count in range(1, len(order) + 1):
        gone = order[:count]
        current = stack.forget(current, dataset, gone, method, seeds, _protecting(by_class, dataset, gone))
        by_class = _fishers_of(current, dataset, seeds) if count < len(order) else []
        never = stack.forget(never, dataset, order, further(size.capped(UnlearningConfig())), seeds)
    models = {"baseline": base, "never saw": never, "one after another": current, "at once": at_once}
    return models, _mended(models, dataset, order, seeds, size)


def _mended(models: Mapping[str, Stack], dataset: Dataset, gone: Sequence[int], seeds: Sequence[int],
            size: Size) -> dict[str, Stack]:
    """All models but baselines after mending."""
    others = [name for name in models if name != "baseline"]
    together, again = stack.joined([models[name] for name in others]), [*seeds] * len(others)
    mended = stack.joined([
        stack.forget(together[first:last], dataset, gone, further(size.capped(MENDING)), again[first:last])
        for first, last in _blocks(len(together), size.shape)])
    return {name: mended[place * len(seeds):(place + 1) * len(seeds)] for place, name in enumerate(others)}


def _rows(models: Mapping[str, Stack], mended: Mapping[str, Stack], dataset: Dataset, label: int, gone: Sequence[int],
          seeds: Sequence[int], size: Size, checked: Sequence[int] = (), shares: Mapping[str, float] | None = None
          ) -> list[dict]:
    """A row for each model and seed as it is, and then for each mended one.

    Args:
        label: the class that the attacker wants.
        gone: all classes that were to be forgotten.
        checked: seeds of which the convergence of the attack is checked.
        shares: name -> see `share`.
    """
    together = stack.joined([*models.values()])
    rows = [{"class": label, "seed": seed, "model": name, "state": "as is", **values, "share": (shares or {}).get(name)}
            for (name, seed), values in zip([(name, seed) for name in models for seed in seeds],
                                            _measures(together, dataset, label, gone), strict=True)]
    rows += [{"class": label, "seed": seed, "model": name, "state": "mended"} for name in mended for seed in seeds]
    targets = data.held_out(dataset, label, protocol()["targets"], 0).to(device())
    found = _attacked(stack.joined([together, *mended.values()]), targets, label, size.search,
                      [place for place, row in enumerate(rows) if row["seed"] in checked])
    made = {"date": datetime.date.today().isoformat(), "processor": processor()}
    return [row | own | made for row, own in zip(rows, found, strict=True)]


def _protecting(by_class: Sequence[Mapping[int, Diagonal]], dataset: Dataset, gone: Sequence[int]) -> list[Diagonal]:
    """The Fisher of the classes that are left, of each model."""
    counts = {k: int((dataset.train_labels == k).sum()) for k in retain_set(gone)}
    return [fisher.combine(own, counts) for own in by_class]


@functools.lru_cache(maxsize=1)
def _baselines(seeds: tuple[int, ...], dataset: Dataset, size: Size) -> Stack:
    """The baselines, with which all classes begin."""
    return stack.train(dataset, size.shape, size.training, seeds)


@functools.lru_cache(maxsize=1)
def _fishers(seeds: tuple[int, ...], dataset: Dataset, size: Size) -> list[dict[int, Diagonal]]:
    """The Fisher of each class of each baseline."""
    return _fishers_of(_baselines(seeds, dataset, size), dataset, seeds)


def _fishers_of(models: Stack, dataset: Dataset, seeds: Sequence[int]) -> list[dict[int, Diagonal]]:
    return [fisher.dataset_fishers(model, dataset, seed) for model, seed in zip(models.models(), seeds, strict=True)]


@functools.cache
def _images() -> Dataset:
    """The protocol's data, once for all classes."""
    return data.load(protocol()["data"])


def processor() -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name() if device().type == "cuda" else machine()["processor"]


def further(config: UnlearningConfig) -> Method:
    """Further ordinary training on the retained classes, with the updates of a configuration."""
    return Method(fine_tune, UnlearningConfig(steps=config.steps, batch=config.batch, peak_lr=config.peak_lr,
                                              replay=0.0, ewc=0.0, gray=0.0))


def share(config: UnlearningConfig, training: TrainingConfig = TrainingConfig(), images: int = 60_000) -> float:
    """The images that the steps of a method see, real, replayed or asked for, as a share of those of a training."""
    step = config.batch * (bool(config.real) + bool(config.replay)) + config.forget_batch * bool(
        config.gray or config.forget)
    return config.steps * step / (training.epochs * images)


def _attacked(models: Stack, targets: torch.Tensor, label: int, search: SearchConfig,
              checked: Sequence[int]) -> list[dict[str, float | str]]:
    """The errors of the attack on each model, and the shortfall of the `checked` ones; see `trained.shortfall`."""
    threat = THREATS[protocol()["threat"]]
    blocks = [stack.reconstruct(models[first:last], targets, label, threat, search)
              for first, last in _blocks(len(models), models.config)]
    errors, z, y = (torch.cat(parts).unflatten(0, (len(models), -1))
                    for parts in zip(*((block.loss[0], block.z[0], block.y[0]) for block in blocks)))
    found: list[dict[str, float | str]] = [
        {"errors": json.dumps([round(error, 2) for error in own])} for own in errors.tolist()]
    some = max(1, len(targets) // 5)
    for first, last in _blocks(len(checked), models.config):
        rows = torch.tensor(checked[first:last], device=errors.device)
        short = AttackResult([0], *(part[rows, :some].flatten(0, 1)[None] for part in (errors, z, y)), torch.empty(0))
        long = stack.reconstruct(models[rows.tolist()], targets[:some], label, threat,
                                 replace(search, rounds=10 * search.rounds), 1, short)
        means = [one.errors.view(len(rows), some).mean(1) for one in (long, short)]
        for row, value in zip(rows.tolist(), (1 - means[0] / means[1]).tolist(), strict=True):
            found[row]["shortfall"] = value
    return found


def _blocks(count: int, shape: ModelConfig) -> list[tuple[int, int]]:
    """The first and the last row, exclusive, of the models that are handled at once.

    On a GPU those that its memory takes; on processor cores one, since products of stacks are slower there.
    """
    size = BLOCKS[shape.architecture] if device().type == "cuda" else 1
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def _measures(models: Stack, dataset: Dataset, label: int, gone: Sequence[int]) -> list[dict[str, float | str]]:
    """The measures of each model, and its digest."""
    judge = trained.judge(dataset, JudgeConfig("B", epochs=60 if dataset.name == "digits" else JudgeConfig.epochs), 0)
    few = data.training_sample(dataset, label, FEW)
    rows = [row for first, last in _blocks(len(models), models.config)
            for row in measures_of(models[first:last], dataset, label, judge, few, gone)]
    return [{**row, "digest": tensor_digest(net.state_dict())}
            for row, net in zip(rows, models.models(), strict=True)]


def measures_of(models: Stack, dataset: Dataset, label: int, judge: Judge, few: torch.Tensor,
                gone: Sequence[int] | None = None) -> list[dict[str, float]]:
    """The measures of chapter 7 on each model.

    Args:
        few: training images of the class, to learn it again.
        gone: all classes that were to be forgotten, by default this one.

    Returns:
        for each model: `probability` of the class, by the judge, in what the model draws for its label; `gray`, its
        distance to gray; `accuracy`, the share of draws of retained classes that the judge recognizes; `nelbo` of
        retained classes, in nats; and `relearning`.
    """
    back = stack.relearn(models, few, label, judge).mean(1)
    samples = stack.prior_samples(models, torch.arange(CLASSES).repeat_interleave(SAMPLES))
    p = torch.stack([judge.probabilities(drawn) for drawn in samples]).unflatten(1, (CLASSES, SAMPLES))
    right = (p.argmax(3) == torch.arange(CLASSES, device=p.device)[:, None]).float().mean(2)
    losses = stack.negative_elbo(models, dataset.test_images, dataset.test_labels)
    by_class = torch.stack([losses[:, dataset.test_labels == k].mean(1) for k in range(CLASSES)], 1)
    retain = list(retain_set(label if gone is None else gone))
    gray = distance_to_gray(samples.unflatten(1, (CLASSES, SAMPLES))[:, label].flatten(0, 1)).view(len(models), -1)
    columns = {"probability": p[:, label, :, label].mean(1), "gray": gray.mean(1), "accuracy": right[:, retain].mean(1),
               "nelbo": by_class[:, retain].mean(1), "relearning": back}
    return [{name: float(values[row]) for name, values in columns.items()} for row in range(len(models))]
