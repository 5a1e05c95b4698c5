"""Attacks: how well an attacker can recover a forgotten class by choosing the inputs of a frozen model.

The attacker has the decoder and picks z and y: to reproduce given images
(reconstruction), or to convince a classifier (guided). The result means little
by itself: `sa_lib.residual` compares it with models that never saw the class.
If the attacker may also change the weights, they relearn the class: `relearn`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch

from .checks import check_config, check_images, check_number, check_seed, check_types, check_whole
from .judges import Judge
from .labels import check_label, one_hot
from .model import CVAE, copy_of
from .threats import THREATS, AttackResult, Threat, decoded, prior_radius
from .training import batches

__all__ = ["THREATS", "AttackConfig", "AttackResult", "Threat", "attack", "decoded", "nearest_distance",
           "prior_radius", "relearn", "score", "squared_error", "unlike"]


# An attack records its state at this many moments, evenly in the logarithm of the steps.
MOMENTS = 8


@dataclass(frozen=True)
class AttackConfig:
    """The attacker's budget for each target: restarts x steps gradient steps, or draws.

    Attributes:
        steps: steps of Adam from each start, under a cosine schedule.
        restarts: starts for each target; the start with the lowest loss counts.
        lr: Adam's first learning rate.
    """

    steps: int = 200
    restarts: int = 3
    lr: float = 0.2

    def __post_init__(self):
        check_config(self)


def squared_error(targets: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The reconstruction attacker's loss: images `[R, N, *image_shape]` -> squared error to targets
    `[N, *image_shape]`, summed over pixels, [R, N]."""
    check_images(targets, "targets")

    def loss(images):
        nonlocal targets
        targets = targets.to(images.device)  # copies at the first step only
        return (images - targets).square().flatten(2).sum(2)
    return loss


def unlike(judge: Judge, label: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The guided attacker's loss: images `[R, N, *image_shape]` -> -log of the judge's probability of
    `label`, [R, N], nats."""
    check_types(judge=(judge, Judge))
    check_label(label, judge.classes)

    def loss(images):
        return -judge(images.flatten(0, 1)).log_softmax(1)[:, label].view(images.shape[:2])
    return loss


def attack(model: CVAE, loss: Callable[[torch.Tensor], torch.Tensor], label: int, count: int, threat: Threat,
           config: AttackConfig = AttackConfig(), seed: int = 0) -> AttackResult:
    """Let an attacker choose the decoder's inputs, for all targets and restarts at once.

    The first start of each target has the class's own label. If the attacker
    may choose y, the other starts are random mixtures of labels.

    Args:
        model: frozen; it is not changed.
        loss: images `[R, N, *image_shape]` -> the attacker's loss [R, N]:
            `squared_error` or `unlike`.
        label: the class.
        count: N, number of targets.

    Raises:
        ValueError: `label` or `count` is not allowed.
        FloatingPointError: the loss is no longer finite.
    """
    check_types(model=(model, CVAE), threat=(threat, Threat), config=(config, AttackConfig))
    check_label(label, model.config.classes)
    check_whole(count=count)
    seed = check_seed(seed)
    steps, restarts = config.steps, config.restarts
    inputs = _Inputs(model, label, (restarts, count), threat, config, seed)
    lowest = torch.full((restarts, count), math.inf, device=inputs.z.device)
    best_z, best_y = torch.zeros_like(inputs.z), torch.zeros_like(inputs.y())
    moments = {0, steps, *(round(steps ** (k / MOMENTS)) for k in range(1, MOMENTS))}
    budget, snapshots = [], []
    for step in range(steps + 1):
        z, y = inputs.z, inputs.y()
        value = loss(model.decode(z.flatten(0, 1), y.flatten(0, 1)).unflatten(0, (restarts, count)))
        with torch.no_grad():
            better = (value < lowest)[:, :, None]
            lowest = torch.minimum(lowest, value)
            best_z, best_y = torch.where(better, z, best_z), torch.where(better, y, best_y)
            if step in moments:
                winner = lowest.argmin(0), torch.arange(count, device=lowest.device)
                budget.append((step + 1) * restarts)
                snapshots.append((lowest[winner], best_z[winner], best_y[winner]))
        if step < steps:
            inputs.move(value.sum(), config.lr * (1 + math.cos(math.pi * step / steps)) / 2)
    if not lowest.isfinite().all():
        raise FloatingPointError(f"attack: the loss is no longer finite within {steps} steps; lower the learning rate "
                                 f"(lr={config.lr})")
    return decoded(model, budget, *map(torch.stack, zip(*snapshots)))


class _Inputs:
    """The inputs of all starts, and how the attacker moves them: by new draws, or by Adam."""

    def __init__(self, model: CVAE, label: int, starts: tuple[int, int], threat: Threat, config: AttackConfig,
                 seed: int):
        self.threat, self.starts, self.radius = threat, starts, prior_radius(model.config.latent_dim)
        self.latent_dim, self.classes = model.config.latent_dim, model.config.classes
        self.where = next(model.parameters()).device
        self.generator = torch.Generator(self.where).manual_seed(seed)
        self.z = self._draw()
        self.raw_y = self._first_labels(label)  # logits of a softmax on the simplex, y itself elsewhere
        self.chosen = [tensor.requires_grad_() for tensor, free in
                       ((self.z, threat.z in ("prior", "free")), (self.raw_y, threat.y != "label")) if free]
        self.optimizer = torch.optim.Adam(self.chosen, lr=config.lr) if self.chosen else None

    def y(self) -> torch.Tensor:
        return self.raw_y.softmax(2) if self.threat.y == "simplex" else self.raw_y

    def move(self, loss: torch.Tensor, rate: float) -> None:
        """Draw z again, or take one step of Adam at this rate."""
        if self.optimizer is None:
            self.z = self._draw()
            return
        self.optimizer.param_groups[0]["lr"] = rate
        for tensor, gradient in zip(self.chosen, torch.autograd.grad(loss, self.chosen)):
            tensor.grad = gradient
        self.optimizer.step()
        if self.threat.z == "prior":
            with torch.no_grad():
                self.z *= (self.radius / self.z.norm(dim=2, keepdim=True)).clamp(max=1)

    def _draw(self) -> torch.Tensor:
        return torch.randn(*self.starts, self.latent_dim, generator=self.generator, device=self.where)

    def _first_labels(self, label: int) -> torch.Tensor:
        y = one_hot(torch.tensor([label]), self.classes).to(self.where).repeat(*self.starts, 1)
        if self.threat.y != "label":
            exponential = torch.empty(*self.starts, self.classes, device=self.where)
            exponential.exponential_(generator=self.generator)
            y[1:] = (exponential / exponential.sum(2, keepdim=True))[1:]
        # The logits of a one-hot vector itself would be infinite.
        return (0.9 * y + 0.1 / self.classes).log() if self.threat.y == "simplex" else y


def nearest_distance(images: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Squared error, summed over pixels, of each image `[N, *image_shape]` to the nearest of `real`
    `[M, *image_shape]`: [N]."""
    check_images(images)
    check_images(real, "real", images.shape[1:])
    return torch.cdist(images.flatten(1), real.flatten(1).to(images)).square().amin(1)


def score(result: AttackResult, judge: Judge, label: int, real: torch.Tensor) -> pd.DataFrame:
    """A held-out judge's opinion of the images of an attack, by budget.

    Args:
        judge: the attacker must not have used it.
        real: images `[M, *image_shape]` of the class that the model or its attacker may have seen.

    Returns:
        Index `budget`; columns

        - `loss`: mean of the attacker's own loss;
        - `success`: share of targets whose image the judge takes for `label`, 0-1;
        - `not_a_digit`: share whose image it takes for no digit, 0-1;
        - `nearest`: mean squared error to the nearest of `real`, see `nearest_distance`.
    """
    check_types(result=(result, AttackResult), judge=(judge, Judge))
    check_label(label, judge.classes)
    rows = []
    for images, loss in zip(result.images, result.loss):
        outcome = judge.probabilities(images).argmax(1)
        rows.append({"loss": float(loss.mean()),
                     "success": float((outcome == label).float().mean()),
                     "not_a_digit": float((outcome == judge.not_a_digit).float().mean()),
                     "nearest": float(nearest_distance(images, real).mean())})
    return pd.DataFrame(rows, index=pd.Index(result.budget, name="budget"))


def relearn(model: CVAE, images: torch.Tensor, label: int, judge: Judge, steps: int = 200, lr: float = 1e-3,
            batch: int = 32, every: int = 20, samples: int = 200, seed: int = 0, sees: int | None = None) -> pd.Series:
    """Fine-tune a copy of the model on a few images of a class, and watch the class come back.

    Args:
        images: `[k, *image_shape]` of the class.
        label: the class.
        judge: scores samples drawn for the label.
        steps: updates of Adam at the constant rate `lr`, with at most `batch` images each.
        every: updates between two measurements.
        samples: images a measurement.
        sees: the class that the judge is to see in the samples, if it is not `label`; see `probes.plasticity`.

    Returns:
        Index `step`, from 0; the judge's accuracy on samples of the class, 0-1.
    """
    check_types(model=(model, CVAE), judge=(judge, Judge))
    classes = model.config.classes
    check_images(images, shape=model.config.image_shape)
    check_label(label, classes)
    check_whole(steps=steps, batch=batch, every=every, samples=samples)
    seed = check_seed(seed)
    check_number(lr=lr)
    sees = label if sees is None else sees
    check_label(sees, classes, "sees")
    where = next(model.parameters()).device
    student = copy_of(model)
    optimizer = torch.optim.Adam(student.parameters(), lr=lr, fused=True)
    generator = torch.Generator(where).manual_seed(seed)
    indices = batches(len(images), batch, generator)
    images = images.to(where)
    y = one_hot(torch.tensor([label]), classes).to(where)
    z = torch.randn(samples, model.config.latent_dim, generator=generator, device=where)
    accuracy = {}
    for step in range(steps + 1):
        if step % every == 0:
            with torch.no_grad():
                drawn = student.decode(z, y.expand(samples, -1))
            if not drawn.isfinite().all():
                raise FloatingPointError(f"relearn: the model's images are no longer finite by step {step}; lower the "
                                         f"learning rate (lr={lr})")
            accuracy[step] = float((judge.probabilities(drawn).argmax(1) == sees).float().mean())
        x = images[next(indices)]
        noise = torch.randn(len(x), model.config.latent_dim, generator=generator, device=where)
        loss = -student.elbo(x, y.expand(len(x), -1), noise).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return pd.Series(accuracy, name="accuracy").rename_axis("step")
