"""Validation: models of which it is known how much they know of a class, to hold rho to.

A measure of knowledge must rise with what a model has seen, and must find what is hidden on purpose (Zimmermann et
al. 2022). Here are data sets with few images of a class, and models that hide one.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .checks import check_seed, check_types, is_whole, shorten
from .data import Dataset
from .evidence import check_columns, read_table
from .labels import check_label
from .model import CVAE, copy_of
from .store import tensor_digest

__all__ = ["RESULTS", "WITH_PRIOR", "behind_mixture", "behind_rotation", "errors", "hidden", "read", "read_probes",
           "with_few"]

RESULTS = Path(__file__).parent / "results"

COLUMNS = ("part", "class", "seed", "model", "dose", "threat", "errors", "shortfall")
WITH_PRIOR = "y on the simplex, with the prior of z"  # the threat of errors of `decoders.with_prior`
REACH = 3.0  # the factor by which `behind_rotation` moves the codes away from 0


def with_few(dataset: Dataset, label: int, count: int, seed: int = 0, alike: bool = False) -> Dataset:
    """The data set with only a few of the training images of a class.

    Args:
        label: the class.
        count: images of it to keep, from 0; no more than there are.
        alike: keep a random one and those nearest to it in squared distance, in place of a random sample.
    """
    own = _own(dataset, label)
    if not is_whole(count) or not 0 <= count <= len(own):
        raise ValueError(f"count must be a whole number from 0 to {len(own)}, got {shorten(count)}")
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(check_seed(seed)))
    if alike:
        images = dataset.train_images[own].flatten(1)
        order = (images - images[order[0]]).square().sum(1).argsort(stable=True)
    keep = torch.ones(len(dataset.train_labels), dtype=torch.bool)
    keep[own[order[count:]]] = False
    return _with_training(dataset, dataset.train_images[keep], dataset.train_labels[keep])


def hidden(dataset: Dataset, label: int, behind: int) -> Dataset:
    """The data set in which a class goes by the label of another one, and its own label belongs to gray images.

    A model of it draws gray for the label and knows the class all the same.

    Args:
        label: the class to hide.
        behind: the class whose label it shares.

    Raises:
        ValueError: the two are one class.
    """
    own = _own(dataset, label)
    check_label(behind, dataset.classes, "behind")
    if label == behind:
        raise ValueError(f"behind must be another class than {label}, got {behind}")
    labels = dataset.train_labels.clone()
    labels[own] = behind
    gray = torch.full((len(own), *dataset.train_images.shape[1:]), 128 / 255)
    return _with_training(dataset, torch.cat([dataset.train_images, gray]),
                          torch.cat([labels, torch.full((len(own),), label)]))


def behind_mixture(model: CVAE, label: int, other: int) -> CVAE:
    """A copy of an mlp model that draws a class for no label alone, and for the even mixture of two labels exactly.

    The first layer of the decoder is linear in y: the columns c of the two labels become 2c(label) - c(other) and
    c(other), whose mean is c(label).
    """
    copy, weight = _first_layer(model)
    check_label(label, model.config.classes)
    check_label(other, model.config.classes, "other")
    columns = weight[:, model.config.latent_dim:]
    columns[:, label] = 2 * columns[:, label] - columns[:, other]
    return copy


def behind_rotation(model: CVAE, seed: int = 0) -> CVAE:
    """A copy of an mlp model whose decoder takes latents that are rotated at random and three times as long.

    The same images are there, but not where the prior or the encoder look for them.
    """
    copy, weight = _first_layer(model)
    size = model.config.latent_dim
    random = torch.randn(size, size, generator=torch.Generator().manual_seed(check_seed(seed)))
    rotation = torch.linalg.qr(random).Q.to(weight)
    weight[:, :size] = weight[:, :size] @ rotation / REACH
    return copy


def read(path: str | Path = RESULTS / "validation.csv") -> pd.DataFrame:
    """The committed table, a row for each model and threat model; `sa_lib.book.validation` makes it.

    Returns:
        Columns `part`, `class`, `seed`, `model`, `dose` (images of the class that the model saw, or updates),
        `threat`, `errors`: the attacker's error on each target, as JSON; and `shortfall`, see
        `trained.shortfall`. The parts: "dose"; "alike", of images that look alike; "hidden"; "mending"; "updates" of
        models that never saw the class; "sequence 9" and "sequence 2", of models that forgot 9 and then 2, attacked for
        one of them; "latent 2" and so on, by the length of z; "prior 8" and so on, the same with the errors of
        `decoders.with_prior`; and by the targets "first images", "first half" and "second half" of the test set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a table.
    """
    return read_table(path, "make evidence SWEEPS=validation makes it", "the validation", COLUMNS)


def errors(table: pd.DataFrame) -> dict[tuple[str, str, str, int], np.ndarray]:
    """The errors of a table of `read`: (threat, part, model, dose) -> [S, N], a row for each seed, in their order."""
    check_types(table=(table, pd.DataFrame))
    check_columns(table, "table", "the validation", COLUMNS)
    return {key: np.array([json.loads(text) for text in rows.sort_values("seed")["errors"]])
            for key, rows in table.groupby(["threat", "part", "model", "dose"], sort=False)}


def read_probes(path: str | Path = RESULTS / "probes.csv") -> pd.DataFrame:
    """The committed table of further probes, a row for each probe and model; `sa_lib.book.probing` makes it.

    Returns:
        Columns `class`, `seed`, `model`, `probe`, and either `errors`, the attacker's on each target as JSON, and
        `shortfall`, see `trained.shortfall`, of attacks; or `value`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a table.
    """
    return read_table(path, "make evidence SWEEPS=probes makes it", "the probes",
                      ("class", "seed", "model", "probe", "errors", "value"))


def _first_layer(model: CVAE) -> tuple[CVAE, torch.Tensor]:
    """A copy and the weights of its decoder's first layer, which may be changed."""
    check_types(model=(model, CVAE))
    if model.config.architecture != "mlp":
        raise ValueError(f"model must be of the architecture mlp, got {model.config.architecture}")
    copy = copy_of(model).eval().requires_grad_(False)
    return copy, copy.decoder.layers[0].weight


def _own(dataset: Dataset, label: int) -> torch.Tensor:
    check_types(dataset=(dataset, Dataset))
    check_label(label, dataset.classes)
    return (dataset.train_labels == label).nonzero()[:, 0]


def _with_training(dataset: Dataset, images: torch.Tensor, labels: torch.Tensor) -> Dataset:
    raw = {"train_images": images.squeeze(1).mul(255).round().byte(), "train_labels": labels.byte(),
           "test_images": dataset.test_images.squeeze(1).mul(255).round().byte(),
           "test_labels": dataset.test_labels.byte()}
    return replace(dataset, train_images=images, train_labels=labels, digest=tensor_digest(raw))
