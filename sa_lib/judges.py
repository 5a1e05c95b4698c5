"""Judges: classifiers that tell which digit an image shows, or that it shows no digit.

An attacker may use judge A. Judge B has another architecture and seed; it is
held out and only scores. A third network, trained only on the ten digits,
supplies the features for FID and precision/recall.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from .checks import check_config, check_images, check_name, check_types, check_whole
from .data import Dataset
from .labels import CLASSES, check_labels
from .model import device
from .training import batches, minimize

__all__ = ["NETWORKS", "NOT_A_DIGIT", "Judge", "JudgeConfig", "new_judge", "not_digits", "train_judge"]

NOT_A_DIGIT = CLASSES


@dataclass(frozen=True)
class JudgeConfig:
    """How a judge is trained.

    Attributes:
        name: "A", "B" (eleven outcomes) or "features" (ten).
        epochs, batch, peak_lr: as for `training.TrainingConfig`.
        held_out: number of training images kept aside to calibrate the temperature.
    """

    name: str
    epochs: int = 4
    batch: int = 256
    peak_lr: float = 4e-3
    held_out: int = 5000

    def __post_init__(self):
        check_name(NETWORKS, name=self.name)
        check_config(self)


def _convolutions(kernel: int, *channels: int) -> list[nn.Module]:
    """Convolutions of stride 2, each with batch normalization and a ReLU."""
    return [layer for inputs, outputs in pairwise((1, *channels)) for layer in
            (nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
             nn.BatchNorm2d(outputs), nn.ReLU())]


def _large_kernels() -> tuple[nn.Module, nn.Module]:
    """Two 5x5 convolutions and two dense layers, after LeNet (LeCun et al. 1998)."""
    return nn.Sequential(*_convolutions(5, 16, 32), nn.Flatten(),
                         nn.Linear(32 * 49, 128), nn.ReLU()), nn.Linear(128, CLASSES + 1)


def _small_kernels() -> tuple[nn.Module, nn.Module]:
    """Three 3x3 convolutions and no hidden dense layer."""
    return nn.Sequential(*_convolutions(3, 24, 48, 96), nn.Flatten()), nn.Linear(96 * 16, CLASSES + 1)


def _feature_network() -> tuple[nn.Module, nn.Module]:
    """4x4 strided convolutions and a 64-number bottleneck, whose values are the features."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(24, 48, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(48 * 49, 64), nn.ReLU()), nn.Linear(64, CLASSES)


NETWORKS = {"A": _large_kernels, "B": _small_kernels, "features": _feature_network}


class Judge(nn.Module):
    """A classifier of images [N, 1, 28, 28] in [0, 1]; logits [N, 11] (features: [N, 10])."""

    def __init__(self, name: str):
        check_name(NETWORKS, name=name)
        super().__init__()
        self.body, self.head = NETWORKS[name]()
        self.register_buffer("temperature", torch.ones(()))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Values of the last hidden layer, [N, d]."""
        return self.body(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images)) / self.temperature

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor, batch: int = 2000) -> torch.Tensor:
        """Calibrated probabilities [N, 11] of the ten digits and of "not a digit"."""
        check_images(images)
        check_whole(batch=batch)
        return torch.cat([self(part).softmax(1) for part in images.split(batch)])


def not_digits(images: torch.Tensor, labels: torch.Tensor, count: int,
               generator: torch.Generator) -> torch.Tensor:
    """Images that show no digit, [count, 1, 28, 28] in [0, 1], for training and testing judges.

    A third each: flat gray of any level with faint noise; noise of any mean,
    strength and coarseness; blends of four images. A blend of two images, or
    a blurred image, still counts as a digit: a VAE draws digits like that
    when it is unsure.
    """
    check_images(images)
    check_labels(labels, len(images))
    check_whole(count=count)
    check_types(generator=(generator, torch.Generator))
    return _not_digits(images, labels, count, generator)


def _not_digits(images: torch.Tensor, labels: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    where = images.device

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, device=where)

    def normal(side):
        noise = torch.randn(count, 1, side, side, generator=generator, device=where)
        return F.interpolate(noise, size=28, mode="nearest")

    gray = uniform(count, 1, 1, 1) + 0.1 * uniform(count, 1, 1, 1) * normal(28)
    coarse = torch.where(uniform(count, 1, 1, 1) < 0.5, normal(28), normal(7))
    noise = uniform(count, 1, 1, 1) + (0.1 + 0.5 * uniform(count, 1, 1, 1)) * coarse
    four = torch.randint(len(images), (4, count), generator=generator, device=where)
    blend = images[four].mean(0)
    # Four images of fewer than three classes may blend into a digit, so gray replaces them.
    kinds = F.one_hot(labels[four], CLASSES).amax(0).sum(1)
    blend = torch.where((kinds < 3)[:, None, None, None], gray, blend)
    kind = torch.randint(3, (count, 1, 1, 1), generator=generator, device=where)
    return torch.where(kind == 0, gray, torch.where(kind == 1, noise, blend)).clamp(0, 1)


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The batch [N, 1, 28, 28] moved by up to a pixel each way and, in part, blurred.

    The samples of a VAE are smoother than its data. Without blur in training,
    a judge would take smoothness as a sign of no digit.
    """
    down, across = torch.randint(-1, 2, (2,), generator=generator, device=images.device)
    side = torch.arange(28, device=images.device)
    # This is `roll`, which would have to wait until a GPU has drawn the numbers.
    pixels = 28 * ((side - down) % 28)[:, None] + (side - across) % 28
    images = images.flatten(1).index_select(1, pixels.flatten()).view_as(images)
    share = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    return torch.lerp(images, F.avg_pool2d(images, 3, stride=1, padding=1), share)


def train_judge(judge: Judge, images: torch.Tensor, labels: torch.Tensor, config: JudgeConfig,
                seed: int) -> pd.DataFrame:
    """Train on digits and, for eleven outcomes, on as many non-digits as there are of each digit; then calibrate.

    The last `held_out` images are kept aside: the temperature (Guo et al.
    2017, arXiv 1706.04599) is fitted on them and on new non-digits.

    Returns:
        The log of the training, see `training.minimize`.
    """
    check_images(images)
    check_labels(labels, len(images))
    where = next(judge.parameters()).device
    generator = torch.Generator(where).manual_seed(seed)
    images, labels = images.to(where), labels.to(where)
    held_out = min(config.held_out, len(images) // 5)
    count = len(images) - held_out
    refuses = judge.head.out_features > CLASSES

    def with_not_digits(x, y, pool, pool_labels):
        extra = _not_digits(pool, pool_labels, len(x) // CLASSES, generator)
        return torch.cat([x, extra]), torch.cat([y, y.new_full((len(extra),), NOT_A_DIGIT)])

    indices = batches(count, config.batch, generator)

    def loss(step):
        batch = next(indices)
        x, y = augmented(images[batch], generator), labels[batch]
        if refuses:
            x, y = with_not_digits(x, y, images[:count], labels[:count])
        return F.cross_entropy(judge(x), y), {}

    steps = config.epochs * max(1, count // config.batch)
    log = minimize(judge.parameters(), loss, steps, config.peak_lr, f"train judge {config.name}")
    judge.eval().requires_grad_(False)
    x, y = images[count:], labels[count:]
    if refuses:
        x, y = with_not_digits(x, y, x, y)
    calibrate(judge, x, y)
    return log


def calibrate(judge: Judge, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Set the temperature that minimizes the cross-entropy on images kept aside from training."""
    logits = torch.cat([judge(part) for part in images.split(2000)]) * judge.temperature
    # A grid is exact enough for one positive number, and cannot diverge.
    grid = torch.logspace(math.log10(0.25), math.log10(4), 161, device=logits.device)
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in grid])
    judge.temperature.copy_(grid[losses.argmin()])


def new_judge(dataset: Dataset, config: JudgeConfig, seed: int) -> tuple[Judge, pd.DataFrame]:
    """A judge trained on `dataset`, frozen, and its log.

    The seed of each judge depends on its name too, so judges A and B differ
    in architecture and in random draws.
    """
    own_seed = 1000 * seed + 1 + list(NETWORKS).index(config.name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(own_seed)
        judge = Judge(config.name).to(device())
    return judge, train_judge(judge, dataset.train_images, dataset.train_labels, config, own_seed)
