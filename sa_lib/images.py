"""Images from a reader's files, which are only read: those of one class, or a data set.

A class is in a folder of pictures, an .npz or .npy file, or a pair of IDX files; a data set is in folders of pictures
by class, or in an .npz file.
"""

from pathlib import Path

import numpy as np
import torch

from .checks import check_images, check_seed, check_types, shorten
from .idx import read_idx, unpacked
from .labels import MOST_CLASSES, check_labels

__all__ = ["SET", "load_images", "load_set", "own_images", "own_labels"]

SET = ("train_images", "train_labels", "test_images", "test_labels")
COLORS = (1, 3)  # channels of an image: gray, or red, green and blue
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def load_images(path: str | Path, label: int | None = None) -> torch.Tensor:
    """Images [N, C, H, W], float32 in [0, 1] where the file has 8-bit pixels, else as they are.

    Args:
        path: one of

            - a folder of pictures of one size, with at most 8 bits for each color; where it has a folder named as the
              label, those in that folder. The package pillow must be installed;
            - an .npz file with `images` [N, ...], and `labels` [N] if it has other classes too; or an .npy file;
            - an IDX file of images, with the file of its labels beside it; either may be packed (.gz).

        label: the class.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it has no images of this class, or they cannot be read.
    """
    check_types(path=(path, (str, Path)))
    path = Path(path)
    if path.is_dir():
        own = path / str(label)
        images = _pictures(own if label is not None and own.is_dir() else path)
    elif not path.is_file():
        raise FileNotFoundError(f"no file or folder at {path}")
    elif path.suffix in (".npz", ".npy"):
        images = _of_class(path, *_array(path), label)
    elif "idx" in path.name:
        images = _of_class(path, *_idx(path), label)
    else:
        raise ValueError(f"images must be a folder, an .npz, .npy or IDX file, got {path}")
    if images.ndim < 2 or not images.size:
        raise ValueError(f"images must be at least one of class {label}, got {list(images.shape)} in {path}")
    images = images[:, None] if images.ndim == 3 else images
    return torch.from_numpy(images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32))


def load_set(path: str | Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """The tensors train_images, train_labels, test_images and test_labels of a data set, as its files have them.

    Args:
        path: one of

            - a folder of pictures by class, `train/<class>/` and `test/<class>/`, as for `load_images`. Where there is
              no folder `test`, a random fifth of each class is the test set; where there is no `train` either, the
              folders of the classes lie in `path`. Classes have the numbers of their names in order: numbers by their
              size, else by the alphabet. The package pillow must be installed;
            - an .npz file of arrays with these four names.

        seed: of the random fifth.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it has no such data set, or it cannot be read.
    """
    check_types(path=(path, (str, Path)))
    path = Path(path)
    if path.is_dir():
        return _by_class(path, check_seed(seed))
    if not path.is_file():
        raise FileNotFoundError(f"no file or folder at {path}")
    arrays = _arrays(path)
    if missing := [name for name in SET if name not in arrays or arrays[name].dtype.kind not in "fui"]:
        raise ValueError(f"arrays must be numbers called {', '.join(SET)}, got no {missing[0]} in {path}")
    tensors = {name: torch.from_numpy(np.ascontiguousarray(arrays[name], arrays[name].dtype.newbyteorder("=")))
               for name in SET}
    # A column of labels is a list of labels too.
    return {name: values[:, 0] if name.endswith("labels") and values.shape[1:] == (1,) else values
            for name, values in tensors.items()}


def own_images(images: torch.Tensor, name: str) -> torch.Tensor:
    """A reader's images as [N, H, W], or [N, 3, H, W] if they have colors, on the CPU, uint8 or float32.

    Raises:
        TypeError, ValueError: they are not as `data.Dataset.from_tensors` takes them.
    """
    check_types(**{name: (images, torch.Tensor)})
    images = (images[:, None] if images.ndim == 3 else images).detach().cpu()
    if images.ndim == 4 and images.shape[1] not in COLORS and images.shape[3] in COLORS:
        images = images.movedim(3, 1)
    if images.ndim != 4 or images.shape[1] not in COLORS:
        raise ValueError(f"{name} must be [N, H, W], [N, C, H, W] or [N, H, W, C] with one channel or three, "
                         f"got {list(images.shape)}")
    if images.is_floating_point():
        check_images(images, name)
        return images.squeeze(1).to(torch.float32, copy=True)
    black = images.dtype == torch.uint8 and images.numel() > 0 and images.max() == 1  # as 1 of 255
    if images.dtype != torch.uint8 or not images.numel() or black:
        raise ValueError(f"{name} must be one image or more, uint8 from 0 to 255 or floating-point from 0 to 1, got "
                         f"{images.dtype} {list(images.shape)}{' of 0 and 1 alone' if black else ''}")
    return images.squeeze(1)


def own_labels(labels: torch.Tensor, count: int, name: str) -> torch.Tensor:
    """A reader's labels [count] on the CPU, uint8.

    Raises:
        TypeError, ValueError: they are not as `data.Dataset.from_tensors` takes them.
    """
    check_labels(labels, count, MOST_CLASSES, name)
    found = labels.unique().tolist()
    if len(found) < 2 or found[-1] >= len(found):
        raise ValueError(f"{name} must have two classes or more, and each from 0 to the last at least once, got "
                         f"{shorten(found)}")
    return labels.cpu().byte()


def _by_class(folder: Path, seed: int) -> dict[str, torch.Tensor]:
    train, test = folder / "train", folder / "test"
    if test.is_dir() and not train.is_dir():
        raise ValueError(f"images must have a folder train beside test, got none in {folder}")
    sides = {"train": train if train.is_dir() else folder} | ({"test": test} if test.is_dir() else {})
    names = {side: sorted((one.name for one in place.iterdir() if one.is_dir() and not one.name.startswith(".")),
                          key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
             for side, place in sides.items()}
    if len(names["train"]) < 2 or names["train"] != names.get("test", names["train"]):
        raise ValueError("images must lie in a folder for each of two or more classes, the same ones for train and "
                         f"test, got {shorten(names)} in {folder}")
    found: dict[str, list[torch.Tensor]] = {name: [] for name in SET}

    def add(side, label, images):
        found[f"{side}_images"].append(images)
        found[f"{side}_labels"].append(torch.full((len(images),), label))

    for side, place in sides.items():
        for label, name in enumerate(names[side]):
            images = torch.from_numpy(_pictures(place / name))
            if len(sides) == 2:
                add(side, label, images)
                continue
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            few = max(1, len(images) // 5)
            add("test", label, images[order[:few]])
            add("train", label, images[order[few:]])
    if len(shapes := {tuple(images.shape[1:]) for side in ("train", "test") for images in found[f"{side}_images"]}) > 1:
        raise ValueError(f"images must be of one size and kind, got {shorten(sorted(shapes, key=str))} in {folder}")
    return {name: torch.cat(parts) for name, parts in found.items()}


def _pictures(folder: Path) -> np.ndarray:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not paths:
        raise ValueError(f"images must be a folder of pictures ({', '.join(PICTURES)}), got none in {folder}")
    try:
        from PIL import Image
    except ImportError:
        raise ValueError(f"images must be an .npz file where pillow is not installed, got {folder}") from None
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as image:
                if image.mode[0] in "IF":  # 16 or 32 bits, which pillow would cut off at 255
                    raise ValueError(f"it has the mode {image.mode}")
                kind = "L" if image.mode in ("1", "L", "LA") else "RGB"
                pictures.append(np.asarray(image.convert(kind)))
        except Exception as error:  # a damaged picture can fail in any way
            raise ValueError("images must be pictures that pillow reads, with at most 8 bits for each color, got "
                             f"{path}: {error}") from None
    if len(shapes := {picture.shape for picture in pictures}) > 1:
        raise ValueError(f"images must be of one size and kind, got {shorten(sorted(shapes, key=str))} in {folder}")
    images = np.stack(pictures)
    return images if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        return {"images": file} if isinstance(file, np.ndarray) else dict(file)
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"images must be an .npz or .npy file of NumPy without objects, got {path}: "
                         f"{' '.join(str(error).split())}") from None


def _array(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = _arrays(path)
    if "images" not in arrays or arrays["images"].dtype.kind not in "fui":
        raise ValueError(f"images must be an array of numbers called images, got {shorten(sorted(arrays))} in {path}")
    return arrays["images"], arrays.get("labels")


def _idx(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a pair of IDX files, under the names that MNIST's have."""
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    twins = [beside, beside.with_name(beside.name.removesuffix(".gz")), beside.with_name(f"{beside.name}.gz")]
    labels = next((twin for twin in twins if twin != path and twin.is_file()), None)
    if labels is None:
        raise ValueError(f"images must have the IDX file of their labels beside them, got no {beside.name}")
    try:
        return tuple(read_idx(unpacked(file)).numpy() for file in (path, labels))
    except (OSError, ValueError) as error:
        raise ValueError(f"images must be an IDX file, got {path}: {error}") from None


def _of_class(path: Path, images: np.ndarray, labels: np.ndarray | None, label: int | None) -> np.ndarray:
    if labels is None:
        return images
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must be one for each of the {len(images)} images, got {list(labels.shape)} in {path}")
    if label is None:
        raise ValueError(f"label must be given where a file has labels, got none for {path}")
    return images[labels == label]
