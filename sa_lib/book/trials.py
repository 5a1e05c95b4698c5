"""Trials: the measurements behind the committed tables, of many models at a time.

A trial is one class with all its seeds. Its models are trained, made to forget, mended and attacked side by side, see
`sa_lib.stack`: on one GPU in a minute or two, on two processor cores in some hours.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from .. import data, evaluation, fisher, stack, trained
from ..attacks import THREATS, AttackResult
from ..data import Dataset
from ..fisher import Diagonal
from ..judges import Judge, JudgeConfig
from ..labels import CLASSES, retain_set
from ..methods import Method, fine_tune
from ..model import device
from ..reconstruction import SearchConfig
from ..stack import Stack
from ..store import tensor_digest
from ..trained import MENDING
from ..training import TrainingConfig
from ..unlearning import UnlearningConfig

__all__ = ["ATTACKS", "attacked", "digit_rows", "further", "judge_b", "retain_fishers"]

ATTACKS = ("y on the simplex", "y free")
TARGETS = 100
SAMPLES = 1000
BLOCK = 64  # models attacked at once
CHECKED = 2  # models of each kind whose attack is continued for ten times as long


def judge_b(dataset: Dataset) -> Judge:
    """The judge of all trials."""
    epochs = 60 if dataset.name == "digits" else JudgeConfig.epochs
    return trained.judge(dataset, JudgeConfig("B", epochs=epochs), 0)


def further(config: UnlearningConfig) -> Method:
    """Further ordinary training on the retained classes, with the updates of a configuration."""
    return Method(fine_tune, stack.updates(config))


def retain_fishers(by_class: Sequence[Mapping[int, Diagonal]], dataset: Dataset, label: int) -> list[Diagonal]:
    """The Fisher of the retained classes of each baseline."""
    counts = torch.bincount(dataset.train_labels, minlength=CLASSES).tolist()
    return [fisher.combine(own, {k: counts[k] for k in retain_set(label)}) for own in by_class]


def attacked(models: Stack, targets: torch.Tensor, label: int, checked: Sequence[int] = (),
             search: SearchConfig = SearchConfig()) -> dict[str, torch.Tensor]:
    """The attacks on models [K], under the threat models that count.

    Args:
        checked: places of models whose attacks are continued for ten times the rounds, on the first fifth of the
            targets.

    Returns:
        "errors.<threat>" -> [K, N]; and "shortfall.<threat>" -> [K], the share by which the longer attack lowers the
        error, see `trained.shortfall`; NaN for models that are not checked.
    """
    blocks = [_chain(models[first:first + BLOCK], targets, label, search) for first in range(0, len(models), BLOCK)]
    found, count, some = {}, len(targets), max(1, len(targets) // 5)
    rows = torch.tensor([row * count + image for row in checked for image in range(some)])
    for name in ATTACKS:
        ends = [torch.cat(parts) for parts in zip(*((one.loss[0], one.z[0], one.y[0])
                                                    for one in (block[name] for block in blocks)))]
        found[f"errors.{name}"] = ends[0].view(len(models), count).cpu()
        found[f"shortfall.{name}"] = torch.full((len(models),), torch.nan)
        if len(rows):
            short = AttackResult([0], *(end[rows.to(end.device)][None] for end in ends), torch.empty(0))
            long = stack.reconstruct(models[checked], targets[:some], label, THREATS[name],
                                     replace(search, rounds=10 * search.rounds), 1, short)
            means = [one.errors.view(len(checked), some).mean(1).cpu() for one in (long, short)]
            found[f"shortfall.{name}"][torch.tensor(checked)] = 1 - means[0] / means[1]
    return found


def _chain(models: Stack, targets: torch.Tensor, label: int, search: SearchConfig) -> dict[str, AttackResult]:
    """The attacks under all threat models, each from the answers under the one before it."""
    results: dict[str, AttackResult] = {}
    before = None
    for name, threat in THREATS.items():
        before = results[name] = stack.reconstruct(models, targets, label, threat, search, 0, before)
    return results


def digit_rows(dataset: Dataset, label: int, seeds: Sequence[int], methods: Mapping[str, Method], baselines: Stack,
               fishers: Sequence[Diagonal], judge: Judge, training: TrainingConfig = TrainingConfig(),
               lengths: Sequence[UnlearningConfig] = (), search: SearchConfig = SearchConfig()) -> list[dict]:
    """The rows of the evidence for one class: for each seed, the measures of every model.

    Args:
        baselines: one for each seed.
        fishers: of the retained classes, one for each baseline.
        lengths: further updates of additional controls, beside one without any.

    Returns:
        As the cells of a sweep of 07_methods, with the attacks on the mended models beside them.
    """
    shape = baselines.config
    never = stack.train(dataset, shape, training, seeds, [label])
    models = {"baseline": baselines,
              "retrain": stack.forget(never, dataset, label, further(UnlearningConfig()), seeds)}
    for name, method in methods.items():
        models[name] = stack.forget(baselines, dataset, label, method, seeds, fishers if method.config.ewc else ())
    mended = {name: stack.forget(own, dataset, label, further(MENDING), seeds)
              for name, own in models.items() if name != "baseline"}
    controls = {f"never saw, {config.steps}": stack.forget(never, dataset, label, further(config), seeds)
                for config in lengths}
    controls["never saw, 0"] = never
    targets = data.held_out(dataset, label, TARGETS, 0).to(device())
    few = dataset.train_images[dataset.train_labels == label]
    few = few[torch.randperm(len(few), generator=torch.Generator().manual_seed(0))[:100]]
    measures = {(name, seed): {} for name in (*models, *controls) for seed in seeds}
    for name, own in models.items():
        back = stack.relearn(own, few, label, judge, seeds).mean(1).tolist()
        for seed, net, relearning in zip(seeds, own.models(), back, strict=True):
            table = evaluation.evaluate(net, dataset, judge, None, seed, SAMPLES)
            kept = evaluation.retained_means(table, label)
            measures[name, seed] |= {
                "probability": table.loc[label, "probability"], "gray": table.loc[label, "gray"],
                "accuracy": kept["accuracy"], "nelbo": kept["nelbo"], "relearning": relearning,
                "share": _share(dataset, label, name, methods, training), "digest": tensor_digest(net.state_dict())}
    kinds = [(name, "", own) for name, own in {**models, **controls}.items()]
    kinds += [(name, ", mended", own) for name, own in mended.items()]
    checked = [place * len(seeds) + row for place in range(len(kinds)) for row in range(min(CHECKED, len(seeds)))]
    for measure, values in attacked(stack.joined([own for *_, own in kinds]), targets, label, checked, search).items():
        for (name, suffix, _), part in zip(kinds, values.split(len(seeds)), strict=True):
            for seed, value in zip(seeds, part.tolist(), strict=True):
                measures[name, seed][measure + suffix] = value if measure.startswith("shortfall") else _text(value)
    return [{"cell": f"forget-{label},seed-{seed}", "forget": label, "seed": seed, "error": "",
             **{f"models.{name}.{measure}": value for name in (*models, *controls)
                for measure, value in measures[name, seed].items()}} for seed in seeds]


def _text(errors: Sequence[float]) -> str:
    return json.dumps([round(error, 2) for error in errors], separators=(",", ":"))


def _share(dataset: Dataset, label: int, name: str, methods: Mapping[str, Method], training: TrainingConfig) -> float:
    """The images that the steps of a method see, as a share of those of the baseline's training."""
    whole = training.epochs * len(dataset.train_labels)
    if name not in methods:
        own = (dataset.train_labels == label).float().mean().item()
        return 1.0 if name == "baseline" else 1 - own + UnlearningConfig().steps * UnlearningConfig().batch / whole
    config = methods[name].config
    step = config.batch * (bool(config.real) + bool(config.replay)) + config.forget_batch * bool(
        config.gray or config.forget)
    return config.steps * step / whole
