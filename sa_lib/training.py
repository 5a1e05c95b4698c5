"""Training: one optimization loop, and the CVAE trained with it."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from .checks import check_config, check_images, check_name, check_number, check_seed, check_types, check_whole, shorten
from .data import Dataset
from .labels import check_labels, one_hot, retain_set, select
from .model import CVAE, ModelConfig, build, device
from .settings import with_native_products

__all__ = ["SCHEDULES", "Checkpoint", "ElboTerms", "TrainingConfig", "batches", "check_fits", "minimize", "new_cvae",
           "start_at_mean", "train_cvae"]

# How the learning rate goes.
SCHEDULES = ("one-cycle", "constant")
# A killed process loses at most this many seconds of training plus one epoch.
KEEP_EVERY = 30.0
# The share of a training in which the weight of the KL divergence falls to 1.
KL_SHARE = 0.6

# (model, x, y, noise) -> log-likelihood [N] and KL divergence [N], as `CVAE.elbo_terms`.
ElboTerms = Callable[[CVAE, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Saved(Protocol):
    """The state of a training, as it was saved."""

    tensors: Mapping[str, torch.Tensor]
    info: Mapping[str, Any]


class Checkpoint(Protocol):
    """A place for the state of an unfinished training, such as `store.Part`."""

    def save(self, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any]) -> None: ...

    def load(self) -> Saved | None: ...


@dataclass(frozen=True)
class TrainingConfig:
    """How a CVAE is trained.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        peak_lr: highest learning rate of the one-cycle schedule (Smith & Topin 2018).
        kl_start: weight of the KL divergence in the first step; it falls evenly to 1, the ELBO's, within the first
            60 % of the steps. Codes that keep to the prior early on generalize sooner.
    """

    epochs: int = 26
    batch: int = 256
    peak_lr: float = 8e-3
    kl_start: float = 1.5

    def __post_init__(self):
        check_config(self)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Endless index batches [size]: one random permutation of `count` after another.

    The few indices left over at the end of a permutation are dropped; a set
    smaller than a batch is drawn whole.
    """
    check_whole(count=count, size=size)
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator, device=generator.device)
        yield from order[:count - count % size].split(size)


def minimize(parameters: Iterable[nn.Parameter],
             loss: Callable[[int], tuple[torch.Tensor, dict[str, torch.Tensor]]],
             steps: int, peak_lr: float, title: str, log_every: int = 50, checkpoint: Checkpoint | None = None,
             generator: torch.Generator | None = None, epoch: int = 1, schedule: str = "one-cycle",
             backward: Callable[[torch.Tensor], None] = torch.Tensor.backward) -> pd.DataFrame:
    """Minimize a stochastic loss with Adam.

    Args:
        parameters: the tensors to change.
        loss: step -> (scalar loss, values to log); called once a step.
        steps: number of updates.
        peak_lr: highest learning rate of the schedule.
        title: label of the progress bar.
        log_every: steps between two rows of the log.
        checkpoint: keeps the state at the end of an epoch, at most every
            `KEEP_EVERY` seconds. If it holds one, training resumes from
            there and ends with the same weights.
        generator: with `checkpoint`, the only source of randomness of `loss`.
        epoch: with `checkpoint`, the number of steps after which `loss`
            depends on nothing but `generator`.
        schedule: one of `SCHEDULES`: "one-cycle" (Smith & Topin 2018), or "constant", which keeps `peak_lr`.
        backward: writes the gradient of the loss's value into `.grad` of the parameters.

    Returns:
        The log: columns `step`, `loss` and the names that `loss` gave.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    check_whole(steps=steps, log_every=log_every)
    check_number(peak_lr=peak_lr)
    check_name(SCHEDULES, schedule=schedule)
    parameters = list(parameters)
    optimizer = torch.optim.Adam(parameters, lr=peak_lr, fused=True)
    scheduler = (torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=max(steps, 2))
                 if schedule == "one-cycle" else torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0))
    rows, kept = [], (began := time.monotonic())
    if checkpoint and (saved := checkpoint.load()):
        rows = _restore(saved, parameters, optimizer, scheduler, generator)
        began -= saved.info["seconds"]
    bar = tqdm(range(scheduler.last_epoch, steps), initial=scheduler.last_epoch, total=steps, desc=title, leave=False,
               mininterval=1.0)
    for step in bar:
        with with_native_products(parameters[0].device):
            value, record = loss(step)
        optimizer.zero_grad(set_to_none=True)
        backward(value)
        optimizer.step()
        scheduler.step()
        if step % log_every == 0 or step == steps - 1:
            row = {"step": step} | {k: float(v.detach()) for k, v in {"loss": value, **record}.items()}
            if not math.isfinite(row["loss"]):
                # Only logged steps are checked: reading a value makes a GPU wait.
                raise FloatingPointError(
                    f"{title}: the loss is {row['loss']} by step {step}; lower the learning rate "
                    f"(peak_lr={peak_lr}), or look for pixels that are not numbers")
            bar.set_postfix_str(f"loss {row['loss']:.4g}", refresh=False)
            rows.append(row)
        if checkpoint and (step + 1) % epoch == 0 and time.monotonic() - kept > KEEP_EVERY:
            kept = time.monotonic()
            _keep(checkpoint, parameters, optimizer, scheduler, generator, rows, kept - began)
    return pd.DataFrame(rows)


def _keep(checkpoint: Checkpoint, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer,
          schedule: torch.optim.lr_scheduler.LRScheduler, generator: torch.Generator, rows: Sequence[dict],
          seconds: float) -> None:
    state = optimizer.state_dict()
    tensors = {f"moment/{at}/{name}": value for at, moments in state["state"].items()
               for name, value in moments.items()}
    tensors |= {f"weight/{at}": weight for at, weight in enumerate(parameters)}
    checkpoint.save({**tensors, "generator": generator.get_state()},
                    {"rows": rows, "groups": state["param_groups"], "schedule": schedule.state_dict(),
                     "seconds": seconds})


def _restore(saved: Saved, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer,
             schedule: torch.optim.lr_scheduler.LRScheduler, generator: torch.Generator) -> list[dict]:
    """Bring a training back to the state that `_keep` saved; return the rows of its log."""
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in saved.tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "moment":
            at, _, name = rest.partition("/")
            moments.setdefault(int(at), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": saved.info["groups"]})
    schedule.load_state_dict(saved.info["schedule"])
    generator.set_state(saved.tensors["generator"])
    with torch.no_grad():
        for at, weight in enumerate(parameters):
            weight.copy_(saved.tensors[f"weight/{at}"])
    return saved.info["rows"]


def train_cvae(model: CVAE, images: torch.Tensor, labels: torch.Tensor, config: TrainingConfig, seed: int,
               terms: ElboTerms = CVAE.elbo_terms, title: str = "train CVAE",
               checkpoint: Checkpoint | None = None) -> pd.DataFrame:
    """Maximize the ELBO on images `[N, *image_shape]` with labels [N], in place.

    Args:
        terms: the two terms of the ELBO, see `ElboTerms`.
        checkpoint: from which a killed training resumes; see `minimize`.

    Returns:
        The log: per logged step the batch's negative ELBO (`loss`) and its
        two parts, `reconstruction` and `kl`, in nats per image.
    """
    check_types(model=(model, CVAE), config=(config, TrainingConfig))
    check_images(images, shape=model.config.image_shape)
    check_labels(labels, len(images), model.config.classes)
    seed = check_seed(seed)
    where = next(model.parameters()).device
    images, y = images.to(where), one_hot(labels, model.config.classes).to(where)
    generator = torch.Generator(where).manual_seed(seed)
    indices = batches(len(images), config.batch, generator)
    epoch = max(1, len(images) // config.batch)
    steps = config.epochs * epoch

    def loss(step):
        batch = next(indices)
        noise = torch.randn(len(batch), model.config.latent_dim, generator=generator, device=where)
        log_likelihood, kl = terms(model, images[batch], y[batch], noise)
        reconstruction, kl = -log_likelihood.mean(), kl.mean()
        weight = 1 + (config.kl_start - 1) * max(0.0, 1 - step / (KL_SHARE * steps))
        return reconstruction + weight * kl, {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    return minimize(model.parameters(), loss, steps, config.peak_lr, title,
                    checkpoint=checkpoint, generator=generator, epoch=epoch)


def check_fits(dataset: Dataset, config: ModelConfig) -> None:
    """Refuse a data set whose images or classes are not those of the model."""
    if (dataset.classes, dataset.image_shape) != (config.classes, config.image_shape):
        raise ValueError(f"dataset must have {config.classes} classes of images {list(config.image_shape)}, as the "
                         f"model has, got {dataset.classes} of {list(dataset.image_shape)} in {shorten(dataset.name)}")


def new_cvae(dataset: Dataset, model_config: ModelConfig, config: TrainingConfig, seed: int,
             without: Sequence[int] = (), terms: ElboTerms = CVAE.elbo_terms,
             checkpoint: Checkpoint | None = None) -> tuple[CVAE, pd.DataFrame]:
    """A CVAE with new weights, trained on the images of `dataset` whose class is not in `without`, and its log."""
    keep = select(dataset.train_labels, retain_set(without, model_config.classes))
    images = dataset.train_images[keep]
    model = build(model_config, seed).to(device())
    start_at_mean(model, images)
    title = "train CVAE" + (f" without {', '.join(map(str, sorted(without)))}" if without else "")
    log = train_cvae(model, images, dataset.train_labels[keep], config, seed, terms, title, checkpoint)
    return model, log


@torch.no_grad()
def start_at_mean(model: CVAE, images: torch.Tensor) -> None:
    """Let a new model draw about the mean of images `[N, *image_shape]`, which it then need not learn.

    In the mlp the weights behind the last hidden layer do it, not the bias: a model that forgets a class can then
    still draw gray for it by switching this layer off. The convolutional model has one bias for each channel.
    """
    *hidden, last = model.decoder.layers
    mean = images.mean(0).clamp(0.01, 0.99)  # no pixel is certain
    if model.config.architecture == "conv":
        last.bias.copy_(mean.mean((1, 2)).logit())
        return
    classes = model.config.classes
    middle = last.weight.new_zeros(1, model.config.latent_dim), last.weight.new_full((1, classes), 1 / classes)
    values = nn.Sequential(*hidden)(torch.cat(middle, 1))  # of the last hidden layer, for z = 0 and the neutral label
    last.weight += torch.outer(mean.flatten().logit().to(last.weight), (values / values.square().sum()).flatten())
