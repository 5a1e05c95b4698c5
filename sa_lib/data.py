"""Data sets: images and labels, loaded by name or from a reader's own files, and held in memory.

`mnist` (LeCun, Cortes & Burges), `fashion` (Xiao et al. 2017, arXiv 1708.07747)
and `kmnist` (Clanuwat et al. 2018, arXiv 1812.01718) are stored as uncompressed
IDX files in a cache folder. The files are checked every time they are read;
missing or damaged files are downloaded. `digits`, scikit-learn's 8x8
handwritten digits, needs no download. A reader's own files are only read.

A batch is selected by its indices: ``data.train_images[indices]``.
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import check_seed, check_types, check_whole, shorten
from .idx import FILES, folder_of, read_files, read_idx
from .images import SET, load_set, own_images, own_labels
from .labels import CLASSES, check_label
from .sources import SOURCES
from .store import cache_root, expanded, file_digest, tensor_digest, text_digest, write_atomically

__all__ = ["DATASETS", "Dataset", "held_out", "load", "own_digest", "training_sample"]

DATASETS = ("mnist", "fashion", "kmnist", "digits")
VALIDATION = "-validation"  # behind a name: no choice of a setting may depend on test images
SUMS = "MD5SUMS"  # of the files that we wrote ourselves
MNIST_MD5 = dict(zip(FILES, ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
                             "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637")))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set of images in classes.

    Attributes:
        name: one of `DATASETS`, or any other name for a reader's own images.
        train_images: float32 [N, channels, height, width] in [0, 1], 8-bit pixels divided by 255; [N, 1, 28, 28] for
            those of `DATASETS`.
        train_labels: int64 [N], from 0.
        test_images: as train_images.
        test_labels: as train_labels.
        digest: SHA-256 (hex) over the four tensors, with pixels as their original 8-bit values, if they had such.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    digest: str

    @classmethod
    def from_tensors(cls, train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor,
                     name: str = "mine") -> "Dataset":
        """A data set of a reader's own images; the tensors are copied.

        The images are put into a random order, the same each time, since a judge keeps the last of them aside: of
        images in the order of their classes it would never see the last class. 8-bit pixels have the digest of the
        data set that `load` makes of a file with them.

        Args:
            train_images: [N, H, W], [N, C, H, W] or [N, H, W, C], with C of 1 or 3: uint8, 0 to 255, or
                floating-point, 0 to 1.
            train_labels: integers [N], each class from 0 to the last at least once, 2 to 256 classes in all.
            test_images, test_labels: as those for training, held out from it.
            name: for messages; none of `DATASETS`.

        Raises:
            TypeError, ValueError: a tensor or the name is not as described.
        """
        if not isinstance(name, str) or not name.strip() or plain_name(name):
            raise ValueError(f"name must be a text other than {', '.join(DATASETS)}, got {shorten(name)}")
        raw, generator = {}, torch.Generator().manual_seed(0)
        for side, images, labels in (("train", train_images, train_labels), ("test", test_images, test_labels)):
            images = own_images(images, f"{side}_images")
            labels = own_labels(labels, len(images), f"{side}_labels")
            order = torch.randperm(len(images), generator=generator)
            raw |= {f"{side}_images": images[order], f"{side}_labels": labels[order]}
        for what, of in (("images", lambda images: list(images.shape[1:])), ("labels", lambda y: y.unique().tolist())):
            train, test = of(raw[f"train_{what}"]), of(raw[f"test_{what}"])
            if test != train:
                kind = "shape" if what == "images" else "classes"
                raise ValueError(f"test_{what} must be of the {kind} of those for training, {shorten(train)}, "
                                 f"got {shorten(test)}")
        return _of_raw(name, raw)

    @property
    def classes(self) -> int:
        """The number of classes."""
        if plain_name(self.name):
            return CLASSES
        return 1 + int(max(labels.max() for labels in (self.train_labels, self.test_labels)))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return tuple(self.train_images.shape[1:])


def _of_raw(name: str, raw: Mapping[str, Tensor]) -> Dataset:
    """The data set with these tensors: labels, and images without the axis of a single channel."""
    tensors = {}
    for field, value in raw.items():
        if value.ndim == 1:
            tensors[field] = value.long()
            continue
        images = value.float().div_(255) if value.dtype == torch.uint8 else value
        tensors[field] = images[:, None] if images.ndim == 3 else images
    return Dataset(name, **tensors, digest=tensor_digest(raw))


def load(name: str | Path = "mnist", root: Path | None = None) -> Dataset:
    """The data set of this name, or in a reader's own files.

    That of a name comes from the cache if its files there are intact, else from the first source that works.

    Args:
        name: one of `DATASETS`; one of these with ``-validation`` behind it, such as "mnist-validation", to choose
            settings: a sixth of the training images of each class, at random, in place of the test images; or
            the path of one of

            - a folder of pictures by class, `train/<class>/*.png` and `test/<class>/*.png`, see `images.load_set`;
            - an .npz file with train_images, train_labels, test_images and test_labels, see `Dataset.from_tensors`;
            - a folder with four IDX files under any of their usual names, or torchvision's folder above it.

        root: the cache folder; by default ``SA_DATA``, or ``data`` in the
            user's cache. The files of a data set are in ``root/name``.

    Raises:
        ValueError: there is no data set of this name and no such file, or the file cannot be read.
        OSError: every source failed; the message lists each failure.
    """
    if (plain := plain_name(name)) is None:
        return _own(name)
    arrays = _digits() if plain == "digits" else _cached(plain, _folder(plain, root))
    return _of_raw(name, dict(zip(SET, arrays if name == plain else _validation(*arrays[:2]))))


def plain_name(name: object) -> str | None:
    """The data set among `DATASETS` that a name stands for, also with ``-validation`` behind it; None if it is none."""
    plain = name.removesuffix(VALIDATION) if isinstance(name, str) else ""
    return plain if plain in DATASETS else None


def _validation(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Training images and labels, and those held out of them: a sixth of each class, as many as MNIST has for tests."""
    generator = torch.Generator().manual_seed(0)
    aside = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        aside[own[torch.randperm(len(own), generator=generator)[:round(len(own) / 6)]]] = True
    return images[~aside], labels[~aside], images[aside], labels[aside]


def _own(path: str | Path) -> Dataset:
    """The data set in a reader's own files, which are only read."""
    usable = isinstance(path, (str, Path)) and str(path).strip() and "\0" not in str(path)
    if not usable or not os.path.exists(file := expanded(path)):
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, or the path of a folder or an .npz file, "
                         f"got {shorten(path)}")
    try:
        folder = folder_of(file) if file.is_dir() else None
        raw = dict(zip(SET, _arrays(read_files(folder)))) if folder else load_set(file)
        name = file.resolve().stem
        return Dataset.from_tensors(**raw, name=f"own {name}" if plain_name(name) else name)
    except (OSError, ValueError) as error:
        raise ValueError("dataset must be the path of pictures in folders by class, of IDX files or of an .npz file, "
                         f"got {shorten(path)}: {' '.join(str(error).split())}") from None


def held_out(dataset: Dataset, label: int, count: int, seed: int = 0) -> Tensor:
    """A random sample of the test images of a class, without replacement; all of them if it has no more.

    MNIST's test images come in the order of their writers, and its first half is the easier one to reconstruct for
    some digits and the harder one for others. So the first images of a class do not stand for the class.

    Args:
        label: the class.
        count: images, from 1.

    Returns:
        `[count, *image_shape]`.
    """
    check_types(dataset=(dataset, Dataset))
    check_label(label, dataset.classes)
    return _some(dataset.test_images, dataset.test_labels, label, count, seed)


def training_sample(dataset: Dataset, label: int, count: int, seed: int = 0) -> Tensor:
    """A random sample of the training images of a class, `[count, *image_shape]`; see `held_out`."""
    check_types(dataset=(dataset, Dataset))
    check_label(label, dataset.classes)
    return _some(dataset.train_images, dataset.train_labels, label, count, seed)


def _some(images: Tensor, labels: Tensor, label: int, count: int, seed: int) -> Tensor:
    check_whole(count=count)
    own = (labels == label).nonzero()[:, 0]
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(check_seed(seed)))
    return images[own[order[:count]]]


def _cached(name: str, folder: Path) -> list[Tensor]:
    """The four uint8 tensors of `name`, in the order of `FILES`, from `folder` or else from a source."""
    try:
        return _check(read_files(folder), MNIST_MD5 if name == "mnist" else _read_sums(folder))
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        there = not missing or any(folder.glob("t*-*"))
        if there and not (folder / SUMS).exists():  # only files that we wrote may be replaced
            raise OSError(f"{folder} must have the files of {name}, got others: {error}; they are left as they are, so "
                          "move them away or let SA_DATA name another folder") from None
        problem = f"has no {error.filename}" if missing else f"{folder} cannot be used: {error}"
        failures = [f"The cache {problem}."]
        if not missing:
            warnings.warn(f"{failures[0]} It is fetched again.", stacklevel=3)
    for source, get in SOURCES[name].items():
        try:
            with tempfile.TemporaryDirectory() as temporary:
                files = get(name, Path(temporary))
            arrays = _check(files, MNIST_MD5 if name == "mnist" else {})
        except Exception as error:  # a source can fail in any way; the next one may work
            failures.append(f"{source} failed: {' '.join(str(error).split()).rstrip('.') or repr(error)}.")
            continue
        try:
            _keep(files, folder)
        except OSError as error:
            warnings.warn(f"{name} could not be kept in {folder} ({error}); it is fetched again next time",
                          stacklevel=3)
        return arrays
    raise OSError(f"The data set {name!r} could not be loaded. {' '.join(failures)} Put the files "
                  f"{', '.join(FILES)} into {folder} (SA_DATA sets the folder above it), "
                  "or use dataset='digits', which needs no download.")


def own_digest(name: str) -> str:
    """SHA-256 (hex) of a user's own data set, or their own files of one of `DATASETS`; "" if we downloaded those.

    Downloads have known bytes, so only own files can become other data under the same name.

    Raises:
        ValueError: as `load`.
    """
    if (plain := plain_name(name)) is None:
        return _own(name).digest
    folder = _folder(plain)
    paths = sorted(folder.glob("*-*")) if not (folder / SUMS).exists() else []
    digests = (f"{path.name} {file_digest(path)}" for path in paths if path.is_file())
    return text_digest("\n".join(digests)) if paths else ""


def _folder(name: str, root: Path | None = None) -> Path:
    return expanded(root or os.environ.get("SA_DATA") or cache_root() / "data") / name


def _read_sums(folder: Path) -> dict[str, str]:
    """File -> MD5, as `_keep` wrote them; empty if the user put the files there."""
    path = folder / SUMS
    if not path.exists():
        return {}
    lines = (line.partition("  ") for line in path.read_text().splitlines())
    sums = {file: md5 for md5, _, file in lines}
    if sums.keys() != set(FILES):
        raise ValueError("MD5SUMS does not name the four files")
    return sums


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _arrays(files: Mapping[str, bytes]) -> list[Tensor]:
    """The tensors of the files; a ValueError names the one that cannot be read."""
    arrays = []
    for file in FILES:
        try:
            arrays.append(read_idx(files[file]))
        except ValueError as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
    return arrays


def _check(files: Mapping[str, bytes], md5: Mapping[str, str]) -> list[Tensor]:
    """The four tensors of the files; a ValueError if a file has the wrong MD5, format, shape or labels."""
    for file, sum_ in md5.items():
        if _md5(files[file]) != sum_:
            raise ValueError(f"{file} has the MD5 {_md5(files[file])} instead of {sum_}")
    arrays = _arrays(files)
    for images, labels in (arrays[:2], arrays[2:]):
        if (images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or not len(labels)
                or labels.max() > 9):
            raise ValueError("images and labels must be [N, 28, 28] and [N] with labels from 0 to 9, "
                             f"got {list(images.shape)} and {list(labels.shape)}")
    return arrays


def _keep(files: Mapping[str, bytes], folder: Path) -> None:
    # The sums come first: they tell our files from a user's, also if we are killed before the last file.
    sums = "".join(f"{_md5(data)}  {file}\n" for file, data in files.items())
    for file, data in {SUMS: sums.encode(), **files}.items():
        with write_atomically(folder / file) as temporary:
            temporary.write_bytes(data)


def _digits() -> list[Tensor]:
    """scikit-learn's digits (Alpaydin & Kaynak 1998); a fifth of each class is the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images).view(-1, 1, 8, 8) / 16
    large = F.interpolate(small, size=(28, 28), mode="bilinear").mul(255).round().byte()[:, 0]
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    labels = torch.from_numpy(labels).byte()
    return [large[train], labels[train], large[test], labels[test]]
