"""Images of one class from a reader's files: a folder of pictures, an .npz or .npy file, or a pair of IDX files."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import torch

from .checks import check_types, shorten
from .data import read_idx

__all__ = ["load_images"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def load_images(path: str | Path, label: int | None = None) -> torch.Tensor:
    """Images [N, C, H, W], float32 in [0, 1] where the file has 8-bit pixels, else as they are.

    Args:
        path: one of

            - a folder of pictures, all of one size; where it has a folder named as the label, those in that folder. The
              package pillow must be installed;
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
        images = _of_class(path, *_arrays(path), label)
    elif "idx" in path.name:
        images = _of_class(path, *_idx(path), label)
    else:
        raise ValueError(f"images must be a folder, an .npz, .npy or IDX file, got {path}")
    if images.ndim < 2 or not images.size:
        raise ValueError(f"images must be at least one of class {label}, got {list(images.shape)} in {path}")
    images = images[:, None] if images.ndim == 3 else images
    return torch.from_numpy(images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32))


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
                kind = "L" if image.mode in ("1", "L", "LA", "I", "I;16") else "RGB"
                pictures.append(np.asarray(image.convert(kind)))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"images must be pictures that pillow reads, got {path}: {error}") from None
    if len(shapes := {picture.shape for picture in pictures}) > 1:
        raise ValueError(f"images must be of one size and kind, got {shorten(sorted(shapes, key=str))} in {folder}")
    images = np.stack(pictures)
    return images if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        file = np.load(path, allow_pickle=False)
        arrays = {"images": file} if isinstance(file, np.ndarray) else dict(file)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"images must be an .npz or .npy file of NumPy without objects, got {path}: "
                         f"{' '.join(str(error).split())}") from None
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
        return tuple(read_idx(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).numpy()
                     for file in (path, labels))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"images must be an IDX file, got {path}: {error}") from None


def _of_class(path: Path, images: np.ndarray, labels: np.ndarray | None, label: int | None) -> np.ndarray:
    if labels is None:
        return images
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must be one for each of the {len(images)} images, got {list(labels.shape)} in {path}")
    if label is None:
        raise ValueError(f"label must be given where a file has labels, got none for {path}")
    return images[labels == label]
