"""Training: one optimisation loop, and the CVAE trained with it."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from . import model as model_module
from . import store
from .data import Dataset
from .inputs import check_images, check_labels, check_seed, check_types, check_whole, short
from .model import CLASSES, CVAE, ModelConfig, build, one_hot

__all__ = ["Terms", "Trained", "TrainingConfig", "batches", "check_numbers", "device", "get_cvae", "minimise",
           "retained", "select", "train_cvae", "trained"]

# Seconds of training, besides one epoch, that are lost with a killed process.
KEEP_EVERY = 30.0


def check_numbers(config: Any) -> None:
    """Refuse a configuration whose whole numbers are below 1 or whose others are negative or not finite.

    Raises:
        ValueError: names the field, its value and what is allowed.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type is int and (type(value) is not int or value < 1):
            raise ValueError(f"{field.name}={short(value)} is not allowed; use a whole number from 1")
        if field.type is float and (type(value) not in (int, float) or not 0 <= value < math.inf):
            raise ValueError(f"{field.name}={short(value)} is not allowed; use a finite number from 0")


@dataclass(frozen=True)
class TrainingConfig:
    """How a CVAE is trained.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        peak_lr: highest learning rate of the one-cycle schedule (Smith & Topin 2018).
    """

    epochs: int = 28
    batch: int = 256
    peak_lr: float = 8e-3

    def __post_init__(self):
        check_numbers(self)


@dataclass(frozen=True)
class Trained:
    """A model and how it came about.

    Attributes:
        model: the CVAE, frozen, in evaluation mode, on `device()`.
        log: one row for every logged step.
        seconds: wall-clock seconds the making took on the machine that made it.
        digest: SHA-256 (hex) of its weights: the hash under which pages speak of it.
    """

    model: CVAE
    log: pd.DataFrame
    seconds: float
    digest: str


def device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def select(labels: torch.Tensor, classes: Iterable[int]) -> torch.Tensor:
    """Indices [M] of the labels [N] that are among `classes`."""
    wanted = torch.tensor(sorted(classes), dtype=labels.dtype, device=labels.device)
    return torch.isin(labels, wanted).nonzero().squeeze(1)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Endless index batches [size]: one random permutation of `count` after another.

    The few indices left over at the end of a permutation are dropped; a set
    smaller than a batch is drawn whole.
    """
    if type(count) is not int or count < 1:
        raise ValueError(f"count={short(count)}: batches need at least one image")
    check_whole(size=size)
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator, device=generator.device)
        yield from order[:count - count % size].split(size)


def minimise(parameters: Iterable[nn.Parameter],
             loss: Callable[[int], tuple[torch.Tensor, dict[str, torch.Tensor]]],
             steps: int, peak_lr: float, title: str, log_every: int = 50, part: Path | None = None,
             generator: torch.Generator | None = None, epoch: int = 1) -> pd.DataFrame:
    """Minimise a stochastic loss with Adam under a one-cycle schedule.

    Args:
        parameters: what to change.
        loss: step -> (scalar loss, values to log); called once a step.
        steps: number of updates.
        peak_lr: highest learning rate of the schedule.
        title: label of the progress bar.
        log_every: steps between two rows of the log.
        part: a file that keeps the state at the end of an epoch, now and
            then. If it is there, the training goes on from it, to the same end.
        generator: with `part`, what all randomness of `loss` comes from.
        epoch: with `part`, steps after which `generator` is all that `loss` remembers.

    Returns:
        The log: columns `step`, `loss` and the names that `loss` gave.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    check_whole(steps=steps, log_every=log_every)
    if type(peak_lr) not in (int, float) or not 0 <= peak_lr < math.inf:
        raise ValueError(f"peak_lr={short(peak_lr)} is not allowed; use a finite number from 0")
    parameters = list(parameters)
    optimiser = torch.optim.Adam(parameters, lr=peak_lr, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak_lr, total_steps=max(steps, 2))
    rows, kept = [], (began := time.monotonic())
    if part and (state := store.load_part(part)):
        rows = _restore(state, parameters, optimiser, schedule, generator)
        began -= state.info["seconds"]
    bar = tqdm(range(schedule.last_epoch, steps), initial=schedule.last_epoch, total=steps, desc=title, leave=False,
               mininterval=1.0)
    for step in bar:
        value, record = loss(step)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        schedule.step()
        if step % log_every == 0 or step == steps - 1:
            row = {"step": step} | {k: float(v.detach()) for k, v in {"loss": value, **record}.items()}
            if not math.isfinite(row["loss"]):
                # Only logged steps are looked at: looking makes a GPU wait.
                raise FloatingPointError(
                    f"{title}: the loss is {row['loss']} by step {step}; lower the learning rate "
                    f"(peak_lr={peak_lr}), or look for pixels that are not numbers")
            bar.set_postfix_str(f"loss {row['loss']:.4g}", refresh=False)
            rows.append(row)
        if part and (step + 1) % epoch == 0 and time.monotonic() - kept > KEEP_EVERY:
            kept = time.monotonic()
            _keep(part, parameters, optimiser, schedule, generator, rows, kept - began)
    return pd.DataFrame(rows)


def _keep(part: Path, parameters: Sequence[nn.Parameter], optimiser: torch.optim.Optimizer,
          schedule: torch.optim.lr_scheduler.LRScheduler, generator: torch.Generator, rows: Sequence[dict],
          seconds: float) -> None:
    state = optimiser.state_dict()
    tensors = {f"moment/{at}/{name}": value for at, moments in state["state"].items()
               for name, value in moments.items()}
    tensors |= {f"weight/{at}": weight for at, weight in enumerate(parameters)}
    store.save_part(part, {**tensors, "generator": generator.get_state()},
                    {"rows": rows, "groups": state["param_groups"], "schedule": schedule.state_dict(),
                     "seconds": seconds})


def _restore(state: store.Artefact, parameters: Sequence[nn.Parameter], optimiser: torch.optim.Optimizer,
             schedule: torch.optim.lr_scheduler.LRScheduler, generator: torch.Generator) -> list[dict]:
    """Put a training back to where `_keep` saw it; return the rows of its log."""
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in state.tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "moment":
            at, _, name = rest.partition("/")
            moments.setdefault(int(at), {})[name] = tensor
    optimiser.load_state_dict({"state": moments, "param_groups": state.info["groups"]})
    schedule.load_state_dict(state.info["schedule"])
    generator.set_state(state.tensors["generator"])
    with torch.no_grad():
        for at, weight in enumerate(parameters):
            weight.copy_(state.tensors[f"weight/{at}"])
    return state.info["rows"]


Terms = Callable[[CVAE, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def train_cvae(model: CVAE, images: torch.Tensor, labels: torch.Tensor, config: TrainingConfig,
               seed: int, terms: Terms = CVAE.elbo_terms, title: str = "train CVAE",
               part: Path | None = None) -> pd.DataFrame:
    """Maximise the ELBO on images [N, 1, 28, 28] with labels [N], in place.

    Args:
        terms: (model, x, y, noise) -> log-likelihood [N] and KL divergence [N],
            as `CVAE.elbo_terms`.
        part: a file from which a training that was killed goes on; see `minimise`.

    Returns:
        The log: per logged step the batch's negative ELBO (`loss`) and its
        two parts, `reconstruction` and `kl`, in nats per image.
    """
    check_types(model=(model, CVAE), config=(config, TrainingConfig))
    check_images(images)
    check_labels(labels, len(images))
    check_seed(seed)
    where = next(model.parameters()).device
    images, y = images.to(where), one_hot(labels).to(where)
    generator = torch.Generator(where).manual_seed(seed)
    indices = batches(len(images), config.batch, generator)
    epoch = max(1, len(images) // config.batch)

    def loss(step):
        batch = next(indices)
        noise = torch.randn(len(batch), model.config.latent_dim, generator=generator, device=where)
        log_likelihood, kl = terms(model, images[batch], y[batch], noise)
        reconstruction, kl = -log_likelihood.mean(), kl.mean()
        return reconstruction + kl, {"reconstruction": reconstruction, "kl": kl}

    return minimise(model.parameters(), loss, config.epochs * epoch, config.peak_lr, title,
                    part=part, generator=generator, epoch=epoch)


def get_cvae(dataset: Dataset, model_config: ModelConfig = ModelConfig(),
             config: TrainingConfig = TrainingConfig(), seed: int = 0,
             without: Sequence[int] = (), terms: Terms = CVAE.elbo_terms) -> Trained:
    """The CVAE trained on `dataset`, from the store if it is there.

    Args:
        dataset: its training images are used.
        seed: of the initial weights, the batches and the latent noise.
        without: classes the model never sees; empty for the baseline.
        terms: the two terms of the ELBO, see `train_cvae`.

    Raises:
        ValueError: `without` leaves no class to train on, or is not of distinct digits.
    """
    check_types(dataset=(dataset, Dataset), model_config=(model_config, ModelConfig), config=(config, TrainingConfig))
    check_seed(seed)
    classes = retained(without)
    recipe = {"model": model_config.asdict(), "training": asdict(config), "seed": seed,
              "without": sorted(without), "data": dataset.digest, "terms": _fingerprint(terms),
              "code": store.code_digest(model_module, sys.modules[__name__])}

    def make():
        keep = select(dataset.train_labels, classes)
        model = build(model_config, seed).to(device())
        title = "train CVAE" + (f" without {', '.join(map(str, sorted(without)))}" if without else "")
        log = train_cvae(model, dataset.train_images[keep], dataset.train_labels[keep], config, seed,
                         terms, title, store.part("cvae", recipe))
        return model.state_dict(), {"model": model_config.asdict(), "log": log.to_dict("list")}

    return trained(store.get_or_make("cvae", recipe, make))


def _fingerprint(terms: Terms) -> dict[str, list[str]]:
    generator = torch.Generator().manual_seed(0)
    model = build(ModelConfig(latent_dim=2, hidden=(8, 4)), seed=0).double()
    x, y, noise = (torch.rand(3, *shape, generator=generator, dtype=torch.double)
                   for shape in ((1, 28, 28), (CLASSES,), (2,)))
    log_likelihood, kl = terms(model, x, y, noise)
    return store.fingerprint({"log_likelihood": log_likelihood.sum(), "kl": kl.sum()}, model.parameters())


def retained(forget: Sequence[int]) -> list[int]:
    """The classes that are not in `forget`.

    Raises:
        ValueError: `forget` has a repeated or unknown class, or all ten.
    """
    if (not isinstance(forget, (list, tuple))
            or any(type(k) is not int or not 0 <= k < CLASSES for k in forget)
            or len(set(forget)) != len(forget) or len(forget) >= CLASSES):
        raise ValueError(f"classes {short(forget)} will not do; give a list of at most {CLASSES - 1} "
                         f"distinct digits from 0 to {CLASSES - 1}")
    return [k for k in range(CLASSES) if k not in forget]


def trained(artefact: store.Artefact) -> Trained:
    """The model that an artefact of the store holds, frozen, with its log."""
    with torch.device("meta"):
        model = CVAE(ModelConfig(**artefact.info["model"]))
    model.load_state_dict(artefact.tensors, assign=True)
    model.to(device()).eval().requires_grad_(False)
    return Trained(model, pd.DataFrame(artefact.info["log"]), artefact.info["seconds"],
                   artefact.info["digest"])
