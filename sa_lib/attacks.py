"""Attacks: what a forgotten class's images cost an attacker who may choose the inputs of a frozen model.

The attacker has the decoder and picks z and y: to reproduce given images
(reconstruction), or to please a classifier (guided). What a model still knows
shows only beside one that never saw the class: `residual_knowledge`. An
attacker who may change the weights too relearns the class: `relearn`.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import gammaincinv

from . import model as model_module
from . import store
from .inputs import check_images, check_label, check_seed, check_types, check_whole, short
from .judges import NOT_A_DIGIT, Judge
from .model import CLASSES, CVAE, build, one_hot
from .training import Trained, batches, check_numbers

__all__ = ["SPREAD", "THREATS", "Attack", "AttackConfig", "Residual", "Threat", "attack", "get_reconstruction",
           "nearest_distance", "prior_radius", "relearn", "residual_knowledge", "score", "squared_error", "unlike",
           "verdict"]


@dataclass(frozen=True)
class Threat:
    """What the attacker may do with the decoder's inputs.

    Attributes:
        z: "once": one draw from the prior; "drawn": as many draws as there
            are steps, of which the best is kept; "prior": optimised within
            the ball that holds 99 % of the prior; "free": optimised, any
            real vector.
        y: "label": the class's one-hot vector; "simplex": optimised, any
            mixture of the ten labels; "free": optimised, any real vector.
    """

    z: str
    y: str

    def __post_init__(self):
        for name, value, allowed in (("z", self.z, ("once", "drawn", "prior", "free")),
                                     ("y", self.y, ("label", "simplex", "free"))):
            if not isinstance(value, str) or value not in allowed:
                raise ValueError(f"{name}={short(value)} is not a threat; use one of {', '.join(allowed)}")


THREATS = {
    "label only": Threat("once", "label"),
    "random search": Threat("drawn", "label"),
    "z in the prior": Threat("prior", "label"),
    "z free": Threat("free", "label"),
    "z in the prior, y on the simplex": Threat("prior", "simplex"),
    "y on the simplex": Threat("free", "simplex"),
    "z in the prior, y free": Threat("prior", "free"),
    "y free": Threat("free", "free"),
}


# Moments at which an attack is looked at, evenly in the logarithm of the steps.
MOMENTS = 8
# How far from 0 the rho of one model that never saw a class may lie, measured against others.
SPREAD = 0.15


@dataclass(frozen=True)
class AttackConfig:
    """What the attacker may spend on each target: restarts x steps gradient steps, or draws.

    Attributes:
        steps: steps of Adam from each start, under a cosine schedule.
        restarts: starts a target; the one with the lowest loss counts.
        lr: Adam's first learning rate.
    """

    steps: int = 200
    restarts: int = 3
    lr: float = 0.2

    def __post_init__(self):
        check_numbers(self)


@dataclass(frozen=True)
class Attack:
    """What an attacker found for N targets.

    Attributes:
        budget: [K] how often the model was asked for a target, over all its
            starts, up to each of K moments.
        loss: [K, N] the attacker's lowest loss up to then.
        z: [K, N, latent_dim] the latents with which it was reached.
        y: [K, N, 10] the label vectors with which it was reached.
        images: [K, N, 1, 28, 28] what the model draws for them.
    """

    budget: list[int]
    loss: torch.Tensor
    z: torch.Tensor
    y: torch.Tensor
    images: torch.Tensor

    @property
    def end(self) -> "Attack":
        """The same at the last moment alone, K = 1."""
        return Attack(self.budget[-1:], *(t[-1:] for t in (self.loss, self.z, self.y, self.images)))


def squared_error(targets: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The reconstruction attacker's loss: images [R, N, 1, 28, 28] -> squared error to targets
    [N, 1, 28, 28], summed over pixels, [R, N]."""
    check_images(targets, "targets")
    return lambda images: (images - targets).square().flatten(2).sum(2)


def unlike(judge: Judge, label: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The guided attacker's loss: images [R, N, 1, 28, 28] -> -log of the judge's probability of
    `label`, [R, N], nats."""
    check_types(judge=(judge, Judge))
    check_label(label)

    def loss(images):
        return -judge(images.flatten(0, 1)).log_softmax(1)[:, label].view(images.shape[:2])
    return loss


def prior_radius(latent_dim: int, share: float = 0.99) -> float:
    """The norm that this share of draws of z from the prior does not exceed."""
    check_whole(latent_dim=latent_dim)
    if type(share) is not float or not 0 < share < 1:
        raise ValueError(f"share={short(share)} is not allowed; use a number between 0 and 1")
    # |z|^2 is chi-squared: a gamma distribution of shape d/2 and scale 2.
    return math.sqrt(2 * gammaincinv(latent_dim / 2, share))


def attack(model: CVAE, loss: Callable[[torch.Tensor], torch.Tensor], label: int, count: int, threat: Threat,
           config: AttackConfig = AttackConfig(), seed: int = 0) -> Attack:
    """Let an attacker choose the decoder's inputs, for all targets and restarts at once.

    The first start of each target has the class's own label; where y is the
    attacker's to choose, the others are random mixtures of labels.

    Args:
        model: frozen; left as it is.
        loss: images [R, N, 1, 28, 28] -> what is minimised, [R, N]:
            `squared_error` or `unlike`.
        label: the class, 0-9.
        count: N, number of targets.

    Raises:
        ValueError: `label` or `count` is not allowed.
    """
    if type(label) is not int or not 0 <= label < CLASSES or type(count) is not int or count < 1:
        raise ValueError(f"label={short(label)}, count={short(count)} will not do; use a digit from 0 to {CLASSES - 1} "
                         "and at least one target")
    check_types(model=(model, CVAE), threat=(threat, Threat), config=(config, AttackConfig))
    check_seed(seed)
    where = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    steps, restarts = (0, 1) if threat.z == "once" else (config.steps, config.restarts)
    starts = restarts, count

    def draw():
        return torch.randn(*starts, model.config.latent_dim, generator=generator).to(where)

    own = one_hot(torch.tensor([label])).to(where).expand(*starts, CLASSES)
    z, y = draw(), own.clone()
    if threat.y != "label":
        exponential = torch.empty(*starts, CLASSES).exponential_(generator=generator).to(where)
        y[1:] = (exponential / exponential.sum(2, keepdim=True))[1:]
    if threat.y == "simplex":
        # The logits of a softmax, for which a one-hot vector itself lies infinitely far away.
        y = (0.9 * y + 0.1 / CLASSES).log()
    chosen = [tensor.requires_grad_() for tensor, mine in
              ((z, threat.z in ("prior", "free")), (y, threat.y != "label")) if mine]
    optimiser = torch.optim.Adam(chosen, lr=config.lr) if chosen else None
    radius = prior_radius(model.config.latent_dim)
    lowest = torch.full(starts, math.inf, device=where)
    best = {"z": torch.zeros_like(z), "y": torch.zeros_like(y)}
    moments = {0, steps, *(round(steps ** (k / MOMENTS)) for k in range(1, MOMENTS))}
    budget, kept = [], []
    for step in range(steps + 1):
        mixture = y.softmax(2) if threat.y == "simplex" else y
        value = loss(model.decode(z.flatten(0, 1), mixture.flatten(0, 1)).unflatten(0, starts))
        with torch.no_grad():
            better = (value < lowest)[:, :, None]
            lowest = torch.minimum(lowest, value)
            best = {"z": torch.where(better, z, best["z"]), "y": torch.where(better, mixture, best["y"])}
            if step in moments:
                winner = lowest.argmin(0), torch.arange(count, device=where)
                budget.append((step + 1) * restarts)
                kept.append((lowest[winner], best["z"][winner], best["y"][winner]))
        if step == steps:
            break
        if optimiser is None:
            z = draw()
            continue
        optimiser.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * step / steps)) / 2
        for tensor, gradient in zip(chosen, torch.autograd.grad(value.sum(), chosen)):
            tensor.grad = gradient
        optimiser.step()
        if threat.z == "prior":
            with torch.no_grad():
                z *= (radius / z.norm(dim=2, keepdim=True)).clamp(max=1)
    if not lowest.isfinite().all():
        raise FloatingPointError(f"attack: the loss is no longer finite within {steps} steps; lower the learning rate "
                                 f"(lr={config.lr})")
    return _attack(model, budget, *map(torch.stack, zip(*kept)))


def _attack(model: CVAE, budget: list[int], loss: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> Attack:
    with torch.no_grad():
        images = model.decode(z.flatten(0, 1), y.flatten(0, 1)).unflatten(0, z.shape[:2])
    return Attack(budget, loss, z, y, images)


def get_reconstruction(source: Trained, targets: torch.Tensor, label: int, threat: Threat,
                       config: AttackConfig = AttackConfig(), seed: int = 0) -> Attack:
    """The reconstruction attack on targets [N, 1, 28, 28], from the store if it is there; see `attack`."""
    check_types(source=(source, Trained), threat=(threat, Threat), config=(config, AttackConfig))
    check_images(targets, "targets")
    check_label(label)
    check_seed(seed)
    recipe = {"model": source.digest, "targets": store.tensor_digest({"targets": targets}), "label": label,
              "threat": asdict(threat), "attack": asdict(config), "seed": seed,
              "code": store.code_digest(model_module, sys.modules[__name__])}

    def make():
        found = attack(source.model, squared_error(targets), label, len(targets), threat, config, seed)
        return {"loss": found.loss, "z": found.z, "y": found.y}, {"budget": found.budget}

    artefact = store.get_or_make("attack", recipe, make)
    where = next(source.model.parameters()).device
    return _attack(source.model, artefact.info["budget"],
                   *(artefact.tensors[name].to(where) for name in ("loss", "z", "y")))


def nearest_distance(images: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Squared error, summed over pixels, of each image [N, 1, 28, 28] to the nearest of `real`
    [M, 1, 28, 28]: [N]."""
    check_images(images)
    check_images(real, "real")
    return torch.cdist(images.flatten(1), real.flatten(1).to(images.device)).square().amin(1)


def score(found: Attack, judge: Judge, label: int, real: torch.Tensor) -> pd.DataFrame:
    """What a held-out judge says of what an attacker found, by budget.

    Args:
        judge: one that the attacker did not use.
        real: images [M, 1, 28, 28] of the class that the model or its attacker may have seen.

    Returns:
        Index `budget`; columns

        - `loss`: mean of the attacker's own loss;
        - `success`: share of targets whose image the judge takes for `label`, 0-1;
        - `not_a_digit`: share that it takes for no digit, 0-1;
        - `nearest`: mean squared error to the nearest of `real`, see `nearest_distance`.
    """
    check_types(found=(found, Attack), judge=(judge, Judge))
    check_label(label)
    rows = []
    for images, loss in zip(found.images, found.loss):
        outcome = judge.probabilities(images).argmax(1)
        rows.append({"loss": float(loss.mean()),
                     "success": float((outcome == label).float().mean()),
                     "not_a_digit": float((outcome == NOT_A_DIGIT).float().mean()),
                     "nearest": float(nearest_distance(images, real).mean())})
    return pd.DataFrame(rows, index=pd.Index(found.budget, name="budget"))


@dataclass(frozen=True)
class Residual:
    """rho with its 95 % interval; all three are NaN where rho is not defined."""

    rho: float
    low: float
    high: float


def residual_knowledge(never: torch.Tensor, unlearned: torch.Tensor, baseline: torch.Tensor,
                       resamples: int = 2000, seed: int = 0) -> Residual:
    """rho = (E_never - E_unlearned) / (E_never - E_baseline): how much of a class is left in a model.

    E is the mean, over held-out real images of the class, of the lowest
    reconstruction error that one attacker with one budget reaches. 1: as
    if nothing had been forgotten; 0: as if the class had never been seen;
    below 0: over-forgotten, of less use for the class than a model that
    never saw it. This measure is this book's own.

    Args:
        never: errors [S, N] with S models that never saw the class.
        unlearned: errors [N], on the same images, or [T, N] with T models.
        baseline: errors of the same shape, each with the model before its unlearning.
        resamples: of the bootstrap (Efron & Tibshirani 1993) over the images,
            the same for all models, over the S models, and over the T.

    Returns:
        rho, undefined (NaN) where the baseline is no better than the models
        that never saw the class.

    Raises:
        ValueError: the shapes do not fit, or a number is not finite.
    """
    check_types(never=(never, torch.Tensor), unlearned=(unlearned, torch.Tensor), baseline=(baseline, torch.Tensor))
    check_whole(resamples=resamples)
    check_seed(seed)
    if (never.ndim != 2 or not never.numel() or unlearned.ndim not in (1, 2) or not unlearned.numel()
            or unlearned.shape != baseline.shape or unlearned.shape[-1] != never.shape[1]
            or not all(bool(t.isfinite().all()) for t in (never, unlearned, baseline))):
        raise ValueError(f"never, unlearned and baseline of shapes {tuple(never.shape)}, {tuple(unlearned.shape)} and "
                         f"{tuple(baseline.shape)} will not do; finite [S, N], and twice [N] or [T, N], are needed")
    never, unlearned, baseline = (np.atleast_2d(t.detach().double().cpu().numpy())
                                  for t in (never, unlearned, baseline))

    def rho(seen, changed, known):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(seen > known, (seen - changed) / (seen - known), np.nan)

    random = np.random.default_rng(seed)

    def drawn(count):
        return random.multinomial(count, np.full(count, 1 / count), resamples) / count

    models, images, others = drawn(len(never)), drawn(never.shape[1]), drawn(len(unlearned))
    resampled = rho(*((shares @ errors * images).sum(1) for shares, errors in
                      ((models, never), (others, unlearned), (others, baseline))))
    value = float(rho(never.mean(), unlearned.mean(), baseline.mean()))
    if np.isnan(value) or np.isnan(resampled).any():
        return Residual(np.nan, np.nan, np.nan)
    return Residual(value, *map(float, np.quantile(resampled, (0.025, 0.975))))


def verdict(residual: Residual) -> str:
    """rho in a word.

    "avoided": at least half of the knowledge is there, and only the label's way to it is closed;
    "suppressed": less than that; "gone": no more and no less than models that never saw the class
    differ by (`SPREAD`); "over-forgotten": less than they have; "undefined": rho is NaN.
    """
    check_types(residual=(residual, Residual))
    if math.isnan(residual.rho):
        return "undefined"
    if residual.rho >= 0.5:
        return "avoided"
    return "suppressed" if residual.rho > SPREAD else "gone" if residual.rho >= -SPREAD else "over-forgotten"


def relearn(model: CVAE, images: torch.Tensor, label: int, judge: Judge, steps: int = 200, lr: float = 1e-3,
            batch: int = 32, every: int = 20, samples: int = 200, seed: int = 0) -> pd.Series:
    """Fine-tune a copy of the model on a few images of a class, and watch the class come back.

    Args:
        images: [k, 1, 28, 28] of the class.
        label: the class, 0-9.
        judge: scores samples drawn for the label.
        steps: updates of Adam at the constant rate `lr`, with at most `batch` images each.
        every: updates between two looks.
        samples: images a look.

    Returns:
        Index `step`, from 0; the judge's accuracy on samples of the class, 0-1.
    """
    check_types(model=(model, CVAE), judge=(judge, Judge))
    check_images(images)
    check_label(label)
    check_whole(steps=steps, batch=batch, every=every, samples=samples)
    check_seed(seed)
    if type(lr) not in (int, float) or not 0 <= lr < math.inf:
        raise ValueError(f"lr={short(lr)} is not allowed; use a finite number from 0")
    where = next(model.parameters()).device
    student = build(model.config, 0).to(where)
    student.load_state_dict(model.state_dict())
    optimiser = torch.optim.Adam(student.parameters(), lr=lr, fused=True)
    generator = torch.Generator().manual_seed(seed)
    indices = batches(len(images), batch, generator)
    images = images.to(where)
    y = one_hot(torch.tensor([label])).to(where)
    z = torch.randn(samples, model.config.latent_dim, generator=generator).to(where)
    accuracy = {}
    for step in range(steps + 1):
        if step % every == 0:
            with torch.no_grad():
                drawn = student.decode(z, y.expand(samples, -1))
            if not drawn.isfinite().all():
                raise FloatingPointError(f"relearn: what the model draws is no longer finite by step {step}; lower the "
                                         f"learning rate (lr={lr})")
            accuracy[step] = float((judge.probabilities(drawn).argmax(1) == label).float().mean())
        x = images[next(indices)]
        noise = torch.randn(len(x), model.config.latent_dim, generator=generator).to(where)
        loss = -student.elbo(x, y.expand(len(x), -1), noise).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return pd.Series(accuracy, name="accuracy").rename_axis("step")
