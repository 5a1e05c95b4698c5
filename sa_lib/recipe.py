"""The recipe of the notebook that this book follows, and the mending of its choices one by one.

The notebook (Ariafar, github.com/AidaAriafar/Selective-Amnesia-for-cVAEs) trains a convolutional CVAE, makes it
forget 9, and makes that model forget 2. Its loss for a batch of real and replayed images of the retained classes is

    -ELBO + lambda/(2 N) sum_k F_k (theta_k - theta*_k)^2 + gamma mean abs(decode(z, forgotten) - 1/2)

with lambda = 500, N images in the loop, and gamma = 5. `RecipeConfig` has these choices as they are in the notebook,
and `MENDED` replaces them.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import pandas as pd
import torch

from .checks import check_config, check_images, check_name, check_seed, check_types, check_values, check_whole
from .data import Dataset
from .fisher import Diagonal, fisher_diagonal
from .labels import check_labels, forget_set, one_hot, retain_set, select
from .methods import distance_to_gray, ewc_penalty
from .model import ARCHITECTURES, CVAE, build, copy_of, device
from .settings import with_defaults
from .training import batches, check_fits, minimize
from .unlearning import gradients

__all__ = ["MENDED", "NOTEBOOK", "RecipeConfig", "fisher_of_batch_means", "forget", "train"]


@dataclass(frozen=True)
class RecipeConfig:
    """The choices of the notebook.

    Attributes:
        epochs: passes over the training images.
        kl_epochs: epochs in which the weight of the KL divergence rises to 1, from 1/`kl_epochs` in the first; 1 for
            the ELBO from the start.
        batch: images a step, and draws of the forgotten class.
        rate: learning rate of the training.
        fisher: what is squared for the Fisher: "batch", the gradient of a batch's mean; or "image", that of each image.
        fisher_images: real images of retained classes for the Fisher, or all if there are fewer.
        forget_epochs: passes over the real and the replayed images of the retained classes.
        forget_rate: learning rate of the forgetting.
        replay: images that the model draws of the retained classes, once, at the start.
        ewc: lambda. It is divided by the number of real and replayed images; one equal to it makes the penalty that of
            Laplace's approximation, for a Fisher that is a mean over images.
        gray: gamma, weight of the mean over pixels of the distance to gray; 784 makes it a sum, as the ELBO is one.
        push_all: whether the classes forgotten before are sent to gray too, not only the new one.
    """

    epochs: int = 40
    kl_epochs: int = 10
    batch: int = 128
    rate: float = 1e-3
    fisher: str = "batch"
    fisher_images: int = 6000
    forget_epochs: int = 20
    forget_rate: float = 5e-4
    replay: int = 10_000
    ewc: float = 500.0
    gray: float = 5.0
    push_all: bool = False

    def __post_init__(self):
        check_config(self)
        check_name(("batch", "image"), fisher=self.fisher)
        check_types(push_all=(self.push_all, bool))


NOTEBOOK = RecipeConfig()
# One choice mended in each, and all of them in the last. The first and the last need another training.
MENDED = {change: replace(NOTEBOOK, **settings) for change, settings in {
    "the ELBO from the start": {"kl_epochs": 1},
    "Fisher of single images": {"fisher": "image"},
    "Fisher of all images": {"fisher_images": 60_000},
    "as many replayed images as real ones": {"replay": 54_000},
    "lambda of Laplace": {"ewc": 64_000.0},
    "gray as a sum": {"gray": 784.0},
    "all forgotten classes to gray": {"push_all": True},
    "all of these": {"kl_epochs": 1, "fisher": "image", "fisher_images": 60_000, "replay": 54_000, "ewc": 108_000.0,
                     "gray": 784.0, "push_all": True}}.items()}


@with_defaults()
def train(dataset: Dataset, seed: int, config: RecipeConfig = NOTEBOOK,
          without: int | Sequence[int] = ()) -> tuple[CVAE, pd.DataFrame]:
    """A convolutional CVAE trained on the training images of `dataset`, frozen, and the log of its loss.

    Adam at a constant rate; the few images left over at the end of an epoch wait for the next one.

    Args:
        without: classes whose images it never sees.
    """
    check_types(dataset=(dataset, Dataset), config=(config, RecipeConfig))
    seed = check_seed(seed)
    where = device()
    shape = replace(ARCHITECTURES["conv"], classes=dataset.classes, image_shape=dataset.image_shape)
    model = build(shape, seed).to(where)
    chosen = select(dataset.train_labels, retain_set(without, dataset.classes))
    x, y = dataset.train_images[chosen].to(where), one_hot(dataset.train_labels[chosen], dataset.classes).to(where)
    generator = torch.Generator(where).manual_seed(seed)
    indices = batches(len(x), config.batch, generator)
    epoch = max(1, len(x) // config.batch)

    def loss(step):
        at = next(indices)
        log_likelihood, kl = model.elbo_terms(x[at], y[at], _normal(len(at), model, generator))
        reconstruction, kl = -log_likelihood.mean(), kl.mean()
        weight = min(1.0, (step // epoch + 1) / config.kl_epochs)
        return reconstruction + weight * kl, {"reconstruction": reconstruction, "kl": kl}

    return _minimized(model, loss, config.epochs * epoch, config.rate, "train the recipe's CVAE")


@with_defaults()
def fisher_of_batch_means(model: CVAE, images: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor,
                          batch: int = 128) -> Diagonal:
    """The notebook's Fisher: 1/N sum_b n_b (d mean_b / d theta_k)^2, with the mean negative ELBO of a batch of n_b.

    The gradients of the images of a batch cancel in the mean, before they are squared. For gradients without a common
    direction the result is one n-th of the Fisher (van de Ven 2025); `fisher.fisher_diagonal` has the right one, and
    the same arguments.

    Returns:
        Parameter name -> tensor of its shape, in nats^2 per squared unit of the parameter.

    Raises:
        ValueError: there are no images, or not as many labels or draws as images.
    """
    check_types(model=(model, CVAE))
    check_images(images, shape=model.config.image_shape)
    check_labels(labels, len(images), model.config.classes)
    check_values(noise=noise)
    check_whole(batch=batch)
    if len(noise) != len(images):
        raise ValueError(f"noise must have a row for each of the {len(images)} images, got {len(noise)}")
    where, classes = next(model.parameters()).device, model.config.classes
    model = deepcopy(model).requires_grad_(True)  # the given one may be frozen, and stays as it is
    weights = dict(model.named_parameters())
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for x, y, e in zip(*(t.to(where).split(batch) for t in (images, one_hot(labels, classes).to(images.dtype), noise))):
        of_batch = gradients({"mean": -model.elbo(x, y, e).mean()}, weights)["mean"]
        for name, gradient in of_batch.items():
            total[name] += len(x) * gradient.square()
    return {name: squares / len(images) for name, squares in total.items()}


@with_defaults()
def forget(model: CVAE, dataset: Dataset, digit: int, seed: int, previous: int | Sequence[int] = (),
           config: RecipeConfig = NOTEBOOK) -> tuple[CVAE, pd.DataFrame]:
    """A copy of `model` that has forgotten `digit`, frozen, and the log of the weighted terms of its loss.

    Args:
        previous: classes that `model` has forgotten before: neither rehearsed nor protected.

    Raises:
        ValueError: `digit` is among those of `previous`, or no class is left.
    """
    check_types(model=(model, CVAE), dataset=(dataset, Dataset), config=(config, RecipeConfig))
    seed = check_seed(seed)
    check_fits(dataset, model.config)
    where, classes = device(), model.config.classes
    previous = forget_set(previous, least=0, name="previous", classes=classes)
    retained = retain_set((*previous, digit), classes)
    model = copy_of(model).to(where)
    generator = torch.Generator(where).manual_seed(seed)
    chosen = select(dataset.train_labels, retained)
    images, labels = dataset.train_images[chosen].to(where), dataset.train_labels[chosen].to(where)
    share = len(labels) / len(dataset.train_labels)
    fisher = _fisher(model, images, labels, round(share * config.batch), config, generator)
    anchor = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    drawn = _any_of(one_hot(torch.tensor(retained), classes).to(where), config.replay, generator)
    x, y = torch.cat([images, _replay(model, drawn, generator)]), torch.cat([one_hot(labels, classes), drawn])
    pushed = one_hot(torch.tensor([*previous, digit] if config.push_all else [digit]), classes).to(where)
    indices = batches(len(x), config.batch, generator)

    def loss(step):
        at = next(indices)
        asked = _normal(len(at), model, generator), _any_of(pushed, len(at), generator)
        terms = {"retain": -model.elbo(x[at], y[at], _normal(len(at), model, generator)).mean(),
                 "ewc": config.ewc / (2 * len(x)) * ewc_penalty(model, anchor, fisher),
                 "gray": config.gray * distance_to_gray(model.decode(*asked)).mean()}
        return sum(terms.values()), terms

    steps = config.forget_epochs * max(1, len(x) // config.batch)
    return _minimized(model, loss, steps, config.forget_rate, f"forget {digit} by the recipe")


def _fisher(model: CVAE, images: torch.Tensor, labels: torch.Tensor, batch: int, config: RecipeConfig,
            generator: torch.Generator) -> Diagonal:
    """The Fisher of randomly chosen images; the notebook's batches lack the class to forget, so they are smaller."""
    at = torch.randperm(len(images), generator=generator, device=generator.device)[:config.fisher_images]
    arguments = images[at], labels[at], _normal(len(at), model, generator)
    return (fisher_of_batch_means(model, *arguments, max(1, batch)) if config.fisher == "batch"
            else fisher_diagonal(model, *arguments))


@torch.no_grad()
def _replay(model: CVAE, y: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What the model draws for label vectors [N, classes]: `[N, *image_shape]`."""
    return torch.cat([model.decode(_normal(len(part), model, generator), part) for part in y.split(4096)])


def _normal(count: int, model: CVAE, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, model.config.latent_dim, generator=generator, device=generator.device)


def _any_of(vectors: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Random ones of these label vectors [K, classes]: [N, classes]."""
    return vectors[torch.randint(len(vectors), (count,), generator=generator, device=generator.device)]


def _minimized(model: CVAE, loss: Callable[[int], tuple[torch.Tensor, dict[str, torch.Tensor]]], steps: int,
               rate: float, title: str) -> tuple[CVAE, pd.DataFrame]:
    model.requires_grad_(True).train()
    log = minimize(model.parameters(), loss, steps, rate, title, max(1, steps // 100), schedule="constant")
    return model.requires_grad_(False).eval(), log
