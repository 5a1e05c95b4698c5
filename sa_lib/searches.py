"""Searches for decoders and distances that Gauss-Newton cannot serve: Adam by gradients, and CMA-ES without any.

They have the threat models, the pool of random inputs and the result of `sa_lib.reconstruction`, and they arrive later
or not at all: `sa_lib.audit` says which one an audit used.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from .checks import check_seed, check_types, shorten
from .decoders import Decoder
from .reconstruction import Problem, SearchConfig, check_attack, random_unknowns
from .settings import with_gradients
from .threats import AttackResult, Threat, decoded

__all__ = ["Distance", "descend", "evolve", "squared"]

# Images [R, ...] and targets [R, ...], one for each -> how far they are apart, [R].
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
RATE = 0.1  # Adam's first learning rate
STEPS = 10  # steps of Adam for each one of Gauss-Newton
SPREAD = 0.5  # of the first population of CMA-ES, in standard deviations of the prior


def squared(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared error summed over the pixels, [R]."""
    return (images - targets).square().flatten(1).sum(1)


class _Search:
    """A problem of the reconstruction attacker under any distance, and the best inputs so far."""

    def __init__(self, decoder: Decoder, targets: torch.Tensor, label: int | None, threat: Threat, distance: Distance,
                 config: SearchConfig, seed: int):
        check_types(decoder=(decoder, Decoder), threat=(threat, Threat), config=(config, SearchConfig))
        check_attack(decoder, targets, label, threat)
        self.problem, self.distance, self.config = Problem(decoder, targets, label, threat), distance, config
        self.generator = torch.Generator().manual_seed(check_seed(seed))
        self.pool = random_unknowns(self.problem, config.pool, self.generator)
        self.count = len(targets)
        self.error = torch.full((self.count,), math.inf, device=self.problem.where)
        self.values = self.pool[:1].repeat(self.count, 1)
        self.evaluations = config.pool

    def errors(self, values: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The distances [R] of the images of rows of unknowns to their targets."""
        images, targets = self.problem.images(values), self.problem.targets[own]
        try:
            errors = self.distance(images.unflatten(1, self.problem.model.image_shape), targets)
        except Exception as error:  # a foreign distance can fail in any way
            raise ValueError(f"distance must take images and targets {list(targets.shape)}, got a "
                             f"{type(error).__name__}: {shorten(' '.join(str(error).split()))}") from None
        if not isinstance(errors, torch.Tensor) or errors.shape != own.shape or not errors.is_floating_point():
            got = f"{errors.dtype} {list(errors.shape)}" if isinstance(errors, torch.Tensor) else type(errors).__name__
            raise ValueError(f"distance must give a floating-point number for each image, [{len(own)}], got {got}")
        return errors

    @torch.no_grad()
    def take(self, values: torch.Tensor, errors: torch.Tensor) -> None:
        """Keep rows [N, count, P] with errors [N, count] where they are better."""
        error, place = torch.where(errors.isnan(), math.inf, errors).min(1)
        better = error < self.error
        chosen = values[torch.arange(self.count, device=values.device), place]
        self.values = torch.where(better[:, None], chosen, self.values)
        self.error = torch.where(better, error, self.error)

    @torch.no_grad()
    def starts(self, count: int, weaker: AttackResult | None) -> torch.Tensor:
        """The nearest rows of the pool in squared error, and those of a weaker result: [N, count (+ 1), P]."""
        rows = self.pool[self.problem.best(self.pool, count)]
        if weaker is not None:
            rows = torch.cat([rows, self.problem.raw(weaker.z[-1], weaker.y[-1]).to(rows)[:, None]], 1)
        own = torch.arange(self.count, device=rows.device).repeat_interleave(rows.shape[1])
        self.take(rows, self.errors(rows.flatten(0, 1), own).view(self.count, -1))
        return rows

    @torch.no_grad()
    def result(self, weaker: AttackResult | None) -> AttackResult:
        """The best inputs, nowhere above those of the weaker result."""
        z, y = self.problem.inputs(self.values)
        if weaker is not None:
            worse = weaker.errors.to(self.error) <= self.error
            self.error = torch.where(worse, weaker.errors.to(self.error), self.error)
            z = torch.where(worse[:, None], weaker.z[-1].to(z), z)
            y = torch.where(worse[:, None], weaker.y[-1].to(y), y)
        if not self.error.isfinite().all():
            raise FloatingPointError("audit: the distances of the model's images are not finite")
        return decoded(self.problem.model, [self.evaluations], self.error[None], z[None], y[None])


@with_gradients()
def descend(decoder: Decoder, targets: torch.Tensor, label: int | None, threat: Threat, distance: Distance = squared,
            config: SearchConfig = SearchConfig(), seed: int = 0, weaker: AttackResult | None = None) -> AttackResult:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) from the best of a pool, under a cosine schedule, for any distance.

    Args:
        distance: differentiable by the images.
        config: its `iterations` count `STEPS` steps each; its rounds are more steps of the same descent.
        weaker: as for `reconstruction.reconstruct`.

    Returns:
        K = 1 moment.

    Raises:
        ValueError: as `reconstruction.reconstruct`; the distance fails, is not [R], or has no gradient by the inputs.
        FloatingPointError: the distances of a target are not finite.
    """
    search = _Search(decoder, targets, label, threat, distance, config, seed)
    rows = search.starts(config.starts, weaker)
    if threat.z == "drawn":
        return search.result(weaker)
    own = torch.arange(search.count, device=rows.device).repeat_interleave(rows.shape[1])
    values = rows.flatten(0, 1).clone().requires_grad_()
    optimizer = torch.optim.Adam([values], lr=RATE)
    steps = max(1, STEPS * config.iterations * config.rounds // 4)
    for step in range(steps + 1):
        errors = search.errors(values, own)
        search.take(values.detach().view(search.count, -1, values.shape[1]), errors.detach().view(search.count, -1))
        if step == steps:
            break
        (values.grad,) = torch.autograd.grad(errors.sum(), values) if errors.requires_grad else (None,)
        if step == 0 and (values.grad is None or not values.grad.any()):
            raise ValueError("decode and distance must be differentiable by their inputs, got images or distances "
                             "without gradients; the attacker 'cma' needs none")
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        with torch.no_grad():
            values.copy_(search.problem.allowed(values))
    search.evaluations += rows.shape[1] * (steps + 1)
    return search.result(weaker)


@torch.no_grad()
def evolve(decoder: Decoder, targets: torch.Tensor, label: int | None, threat: Threat, distance: Distance = squared,
           config: SearchConfig = SearchConfig(), seed: int = 0, weaker: AttackResult | None = None) -> AttackResult:
    """CMA-ES (Hansen & Ostermeier 2001) from the best of a pool: it needs no gradients, only images.

    The library `cma` by its authors must be installed.

    Args:
        distance: need not be differentiable.
        config: the generations are `iterations` times `rounds` / 8 times `STEPS`.
        weaker: as for `reconstruction.reconstruct`.

    Returns:
        K = 1 moment.

    Raises:
        ValueError: `cma` is not installed; else as `descend`.
    """
    try:
        import cma
    except ImportError:
        raise ValueError("attacker must not be 'cma' where the package cma is not installed, got 'cma'; install it "
                         "with: pip install cma") from None
    search = _Search(decoder, targets, label, threat, distance, config, seed)
    starts = search.starts(1, weaker)
    if threat.z == "drawn":
        return search.result(weaker)
    first = search.values.cpu().double().numpy()
    if search.problem.unknowns == 1:
        raise ValueError("z must have at least two numbers for the attacker 'cma', got 1")
    runs = [cma.CMAEvolutionStrategy(first[n], SPREAD, {"seed": seed + n + 1, "verbose": -9})
            for n in range(search.count)]
    own = torch.arange(search.count, device=starts.device)
    for _ in range(max(1, STEPS * config.iterations * config.rounds // 8)):
        asked = [run.ask() for run in runs]
        rows = torch.tensor(np.array(asked), dtype=starts.dtype, device=starts.device)
        allowed = search.problem.allowed(rows.flatten(0, 1))
        errors = search.errors(allowed, own.repeat_interleave(rows.shape[1])).view(search.count, -1)
        search.take(allowed.view(rows.shape), errors)
        for run, samples, values in zip(runs, asked, errors.double().nan_to_num(1e30).tolist()):
            run.tell(samples, values)
        search.evaluations += rows.shape[1]
    return search.result(weaker)
