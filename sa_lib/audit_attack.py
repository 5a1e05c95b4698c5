"""The attacks of an audit: one attacker with one budget on every model; a folder keeps finished attacks."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import __version__
from .checks import SEEDS
from .decoders import PROBES, Decoder
from .reconstruction import SearchConfig, reconstruct
from .searches import Distance, descend, evolve, squared
from .store import tensor_digest, text_digest, write_atomically
from .threats import THREATS, AttackResult, decoded

__all__ = ["ATTACKERS", "Plan", "attacks", "behavior", "shortfall"]

ATTACKERS = {
    "gauss-newton": "damped Gauss-Newton from many starts, which the book's chapters use",
    "adam": "Adam from many starts; it arrives later than Gauss-Newton, so a class may be missed",
    "cma": "CMA-ES without gradients; it arrives later than Gauss-Newton, so a class may be missed",
}


@dataclass(frozen=True, eq=False)
class Plan:
    """An attack that is the same for every model.

    Attributes:
        targets: `[N, *image_shape]`.
        label: the class; None without labels.
        threats: names in `threats.THREATS`, in their order: each attack starts from the answers of the one before.
        attacker: a name in `ATTACKERS`.
        distance: None: squared error.
        folder: for finished attacks; None: they are not kept.
        progress: called with a line before each attack.
    """

    targets: torch.Tensor
    label: int | None
    threats: tuple[str, ...]
    attacker: str
    distance: Distance | None
    search: SearchConfig
    seed: int
    folder: Path | None
    progress: Callable[[str], None]


def behavior(model: Any, decoder: Decoder) -> tuple[str, bool]:
    """SHA-256 (hex) of a model's weights and of a few of its images, and whether the weights are in it.

    A function hides its weights. The few images do not tell it from another one that draws some inputs otherwise.
    """
    owner = getattr(model, "__self__", model)
    weights = owner.state_dict() if isinstance(owner, nn.Module) else {}
    generator = torch.Generator().manual_seed(0)
    z, y = decoder.draw(PROBES, generator), torch.rand(PROBES, decoder.classes, generator=generator)
    with torch.no_grad():
        images = decoder.decode(z.to(decoder.where), y.to(decoder.where))
    return tensor_digest({**{f"weights/{name}": value for name, value in weights.items()
                             if isinstance(value, torch.Tensor)}, "images": images}), bool(weights)


def attacks(plan: Plan, name: str, decoder: Decoder, digest: str | None) -> dict[str, AttackResult]:
    """The attacks on one model, by threat model; `digest` is that of `behavior`, None: they are not kept."""
    results: dict[str, AttackResult] = {}
    weaker = None
    for threat in plan.threats:
        plan.progress(f"{name}: {threat}")
        weaker = results[threat] = _kept(plan, decoder, digest, threat, weaker)
    return results


def shortfall(plan: Plan, name: str, decoder: Decoder, digest: str | None, threat: str, result: AttackResult) -> float:
    """The share of the mean error by which ten times the rounds lower it, for a fifth of the targets.

    As `trained.shortfall` for the models of the book. A random search, which has no rounds, gets ten times the draws.
    """
    much = "pool" if THREATS[threat].z == "drawn" else "rounds"
    short = result.of(slice(max(1, len(plan.targets) // 5)))
    longer = replace(plan, targets=plan.targets[:len(short.errors)], seed=(plan.seed + 1) % SEEDS,
                     search=replace(plan.search, **{much: 10 * getattr(plan.search, much)}))
    plan.progress(f"{name}: {threat}, ten times the {much} for {len(short.errors)} of {len(plan.targets)} images")
    long = _kept(longer, decoder, digest, threat, short.end)
    before = short.errors.mean()
    return float(1 - long.errors.mean() / before) if before else 0.0


def _kept(plan: Plan, decoder: Decoder, digest: str | None, threat: str, weaker: AttackResult | None) -> AttackResult:
    """An attack from the folder, if it is there and whole; else a new one."""
    if plan.folder is None or digest is None or plan.distance is not None:  # a distance has no digest
        return _attack(plan, decoder, threat, weaker)
    recipe = {"model": digest, "targets": tensor_digest({"targets": plan.targets}), "label": plan.label,
              "threat": threat, "attacker": plan.attacker, "search": asdict(plan.search), "seed": plan.seed,
              "weaker": weaker and tensor_digest({"z": weaker.z[-1], "y": weaker.y[-1]}), "library": __version__}
    path = plan.folder / f"attack-{text_digest(json.dumps(recipe, sort_keys=True))[:24]}.npz"
    if arrays := _read(path):
        tensors = {key: torch.from_numpy(arrays[key]).to(decoder.where) for key in ("loss", "z", "y")}
        return decoded(decoder, arrays["budget"].tolist(), *tensors.values())
    result = _attack(plan, decoder, threat, weaker)
    arrays = {key: getattr(result, key).cpu().numpy() for key in ("loss", "z", "y")}
    arrays["budget"] = np.array(result.budget)
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, digest=np.array(_digest(arrays)), **arrays)
    return result


def _attack(plan: Plan, decoder: Decoder, threat: str, weaker: AttackResult | None) -> AttackResult:
    shared = (decoder, plan.targets.to(decoder.where), plan.label, THREATS[threat])
    if plan.attacker == "gauss-newton":
        return reconstruct(*shared, plan.search, plan.seed, weaker)
    search = descend if plan.attacker == "adam" else evolve
    return search(*shared, plan.distance or squared, plan.search, plan.seed, weaker)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    return tensor_digest({name: torch.from_numpy(array) for name, array in arrays.items() if name != "digest"})


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file that `_kept` wrote; None if there is none or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        return arrays if str(arrays["digest"]) == _digest(arrays) else None
    except Exception:  # a damaged file can fail in any way; the attack is then made again
        return None
