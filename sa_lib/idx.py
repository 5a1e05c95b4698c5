"""IDX: the files of MNIST and of the data sets that are made like it, under any of their usual names."""

import errno
import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["FILES", "folder_of", "read_files", "read_idx", "unpacked", "write_idx"]

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read_idx(data: bytes) -> Tensor:
    """The uint8 tensor in an IDX file.

    Raises:
        ValueError: `data` is not an IDX file of unsigned bytes, or its length differs from its header's.
    """
    if data[:3] != b"\0\0\x08" or len(data) < 4:
        raise ValueError(f"data must be an IDX file of unsigned bytes, got a file that begins with {data[:4]!r}")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[at:at + 4], "big") for at in range(4, start, 4)]
    if len(data) != start + math.prod(shape):
        raise ValueError(f"data must have {start + math.prod(shape)} bytes, as its header says, got {len(data)}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)[start:].reshape(shape)


def write_idx(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as an IDX file."""
    return (bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            + array.tobytes())


def read_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the four files, unpacked, under their names in `FILES`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a packed file cannot be unpacked.
    """
    return {file: _content(folder, file) for file in FILES}


def unpacked(path: Path) -> bytes:
    """The bytes of a file, unpacked if its name ends with .gz.

    Raises:
        OSError: it cannot be read.
        ValueError: it cannot be unpacked.
    """
    data = path.read_bytes()
    try:
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} cannot be unpacked: {error}") from None


def folder_of(path: Path) -> Path | None:
    """The folder with the files: `path`, or `raw` below it, where torchvision puts them; None if there is no such.

    Raises:
        ValueError: there are several.
    """
    found = [folder for folder in (path, path / "raw", *sorted(path.glob("*/raw")))
             if any((folder / name).is_file() for name in _names(FILES[0]))]
    if len(found) > 1:
        raise ValueError(f"{path} must have the files of one data set, got those of {len(found)}: "
                         f"{', '.join(folder.relative_to(path).as_posix() for folder in found)}")
    return found[0] if found else None


def _names(file: str) -> tuple[str, ...]:
    dotted = re.sub("-(idx[13])", r".\1", file)  # as the files are called when they are unpacked on Windows
    return file, dotted, f"{file}.gz", f"{dotted}.gz"


def _content(folder: Path, file: str) -> bytes:
    for name in _names(file):
        if (path := folder / name).is_file():
            return unpacked(path)
    raise FileNotFoundError(errno.ENOENT, "no such file", str(folder / file))
