"""Judges: classifiers that tell which class an image shows, or that it shows none: "not a digit".

An attacker may use judge A. Judge B has another architecture and seed; it is
held out and only scores. A third network, trained only on the classes,
supplies the features for FID and precision/recall. The networks were chosen
for the book's digits: 28x28 pixels in gray. They take other images too, but
nobody has looked whether other networks would judge those better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from .checks import check_config, check_images, check_name, check_types, check_whole, is_whole, shorten
from .data import Dataset
from .labels import CLASSES, check_labels
from .model import device
from .training import batches, minimize

__all__ = ["NETWORKS", "Judge", "JudgeConfig", "new_judge", "train_judge"]

SMALLEST = 4  # pixels of a side, of which the networks leave one


@dataclass(frozen=True)
class JudgeConfig:
    """How a judge is trained.

    Attributes:
        name: "A", "B" (with the outcome "not a digit") or "features" (without).
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
    """Convolutions of stride 2 from the first number of channels on, each with batch normalization and a ReLU."""
    return [layer for inputs, outputs in pairwise(channels) for layer in
            (nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
             nn.BatchNorm2d(outputs), nn.ReLU())]


def _large_kernels(channels: int, height: int, width: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """Two 5x5 convolutions and two dense layers, after LeNet (LeCun et al. 1998)."""
    places = math.ceil(height / 4) * math.ceil(width / 4)
    return nn.Sequential(*_convolutions(5, channels, 16, 32), nn.Flatten(),
                         nn.Linear(32 * places, 128), nn.ReLU()), nn.Linear(128, classes + 1)


def _small_kernels(channels: int, height: int, width: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """Three 3x3 convolutions and no hidden dense layer."""
    places = math.ceil(height / 8) * math.ceil(width / 8)
    return nn.Sequential(*_convolutions(3, channels, 24, 48, 96), nn.Flatten()), nn.Linear(96 * places, classes + 1)


def _feature_network(channels: int, height: int, width: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """4x4 strided convolutions and a 64-number bottleneck, whose values are the features."""
    return nn.Sequential(
        nn.Conv2d(channels, 24, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(24, 48, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(48 * (height // 4) * (width // 4), 64), nn.ReLU()), nn.Linear(64, classes)


NETWORKS = {"A": _large_kernels, "B": _small_kernels, "features": _feature_network}


class Judge(nn.Module):
    """A classifier of images `[N, *image_shape]` in [0, 1]; logits [N, classes + 1] (features: [N, classes]).

    Args:
        name: a name in `NETWORKS`.
        classes: their number, from 2; the outcome of this number is "not a digit".
        image_shape: channels, height and width, both from 4.
    """

    def __init__(self, name: str, classes: int = CLASSES, image_shape: Sequence[int] = (1, 28, 28)):
        check_name(NETWORKS, name=name)
        check_whole(2, classes=classes)
        check_types(image_shape=(image_shape, (tuple, list)))
        if len(image_shape) != 3 or not all(is_whole(n) for n in image_shape) or min(image_shape[1:]) < SMALLEST \
                or image_shape[0] < 1:
            raise ValueError(f"image_shape must be channels, and a height and a width from {SMALLEST}, "
                             f"got {shorten(image_shape)}")
        super().__init__()
        self.classes, self.image_shape = classes, tuple(image_shape)
        self.body, self.head = NETWORKS[name](*image_shape, classes)
        self.register_buffer("temperature", torch.ones(()))

    @property
    def not_a_digit(self) -> int:
        """The number of the outcome "not a digit"."""
        return self.classes

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Values of the last hidden layer, [N, d]."""
        return self.body(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images)) / self.temperature

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor, batch: int = 500) -> torch.Tensor:
        """Calibrated probabilities [N, classes + 1] of the classes and of "not a digit"."""
        check_images(images, shape=self.image_shape)
        check_whole(batch=batch)
        return torch.cat([self(part).softmax(1) for part in images.split(batch)])


def not_digits(images: torch.Tensor, labels: torch.Tensor, count: int, generator: torch.Generator,
               classes: int = CLASSES) -> torch.Tensor:
    """Images that show no digit, `[count, *image_shape]` in [0, 1], for training and testing judges.

    A third each: flat gray of any level with faint noise; noise of any mean,
    strength and coarseness; blends of four images. A blend of two images, or
    a blurred image, still counts as a digit: a VAE draws digits like that
    when it is unsure.
    """
    where, (channels, *size) = images.device, images.shape[1:]

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, device=where)

    def normal(coarseness):
        grid = [math.ceil(side / coarseness) for side in size]
        noise = torch.randn(count, channels, *grid, generator=generator, device=where)
        return F.interpolate(noise, size=size, mode="nearest")

    gray = uniform(count, 1, 1, 1) + 0.1 * uniform(count, 1, 1, 1) * normal(1)
    coarse = torch.where(uniform(count, 1, 1, 1) < 0.5, normal(1), normal(4))
    noise = uniform(count, 1, 1, 1) + (0.1 + 0.5 * uniform(count, 1, 1, 1)) * coarse
    four = torch.randint(len(images), (4, count), generator=generator, device=where)
    blend = images[four].mean(0)
    # Four images of fewer than three classes may blend into a digit, so gray replaces them.
    kinds = F.one_hot(labels[four], classes).amax(0).sum(1)
    blend = torch.where((kinds < 3)[:, None, None, None], gray, blend)
    kind = torch.randint(3, (count, 1, 1, 1), generator=generator, device=where)
    return torch.where(kind == 0, gray, torch.where(kind == 1, noise, blend)).clamp(0, 1)


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The batch [N, channels, height, width] moved by up to a pixel each way and, in part, blurred.

    The samples of a VAE are smoother than its data. Without blur in training,
    a judge would take smoothness as a sign of no digit.
    """
    down, across = torch.randint(-1, 2, (2,), generator=generator, device=images.device)
    height, width = images.shape[2:]
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    # This is `roll`, which would have to wait until a GPU has drawn the numbers.
    pixels = width * ((rows - down) % height)[:, None] + (columns - across) % width
    images = images.flatten(0, 1).flatten(1).index_select(1, pixels.flatten()).view_as(images)
    share = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    return torch.lerp(images, F.avg_pool2d(images, 3, stride=1, padding=1), share)


def train_judge(judge: Judge, images: torch.Tensor, labels: torch.Tensor, config: JudgeConfig,
                seed: int) -> pd.DataFrame:
    """Train on the classes and, if it has that outcome, on as many non-digits as there are of a class; then calibrate.

    The last `held_out` images are kept aside: the temperature (Guo et al.
    2017, arXiv 1706.04599) is fitted on them and on new non-digits.

    Returns:
        The log of the training, see `training.minimize`.
    """
    check_images(images, shape=judge.image_shape)
    check_labels(labels, len(images), judge.classes)
    where = next(judge.parameters()).device
    generator = torch.Generator(where).manual_seed(seed)
    images, labels = images.to(where), labels.to(where)
    held_out = min(config.held_out, len(images) // 5)
    count = len(images) - held_out
    refuses = judge.head.out_features > judge.classes

    def with_not_digits(x, y, pool, pool_labels):
        extra = not_digits(pool, pool_labels, len(x) // judge.classes, generator, judge.classes)
        return torch.cat([x, extra]), torch.cat([y, y.new_full((len(extra),), judge.not_a_digit)])

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


def new_judge(dataset: Dataset, config: JudgeConfig, seed: int, classes: int = CLASSES) -> tuple[Judge, pd.DataFrame]:
    """A judge trained on `dataset`, which has so many classes, frozen, and its log.

    The seed of each judge depends on its name too, so judges A and B differ
    in architecture and in random draws.
    """
    own_seed = 1000 * seed + 1 + list(NETWORKS).index(config.name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(own_seed)
        judge = Judge(config.name, classes, tuple(dataset.train_images.shape[1:])).to(device())
    return judge, train_judge(judge, dataset.train_images, dataset.train_labels, config, own_seed)
