"""Trained models in one zip archive, on this machine or at an https address.

The address carries the archive's digest, so a fetched archive is known to be the one that was packed. ``SA_MODELS``
names the archive of the store.
"""

import os
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from .digests import file_digest
from .files import cache_root, write_atomically

__all__ = ["contents", "fetched", "member", "pack"]

# Fetching an archive may take this many seconds; a slow server could otherwise keep us waiting for ever.
FETCH_SECONDS = 3600

# A member may be this many times larger than its archive; weights hardly shrink.
LARGEST_RATIO = 100


def pack(members: Mapping[str, bytes], path: Path) -> str:
    """Write files, by their names, into an archive at `path`; return its address."""
    with write_atomically(path) as temporary:
        # Weights hardly shrink; a Fisher diagonal shrinks to half.
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # without a date
        digest = file_digest(temporary)
    return f"{path}#sha256={digest}"


def member(name: str) -> bytes | None:
    """The bytes under this name in the archive of ``SA_MODELS``; None if it has none, or there is no archive.

    Raises:
        ValueError: ``SA_MODELS`` is not such an address, or the archive is damaged or has another digest.
        OSError: the archive cannot be read or fetched.
    """
    if not (address := os.environ.get("SA_MODELS")):
        return None
    return contents(address, "SA_MODELS", lambda kept: kept == name).get(name)


def contents(address: str, argument: str, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, bytes]:
    """The files of an archive whose names are wanted, by name.

    Args:
        argument: the name of the address in messages.

    Raises:
        ValueError, OSError: as `fetched`; or the archive is no zip file, or holds more than it could.
    """
    path = fetched(address, argument)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if wanted(name)]
            if sum(archive.getinfo(name).file_size for name in names) > LARGEST_RATIO * path.stat().st_size:
                raise ValueError(f"its files are more than {LARGEST_RATIO} times larger than the archive")
            return {name: archive.read(name) for name in names}
    except Exception as error:  # a broken archive can fail in any way
        raise ValueError(f"{argument} must be an archive of models, got {address!r}: {_message(error)}") from None


@cache
def fetched(address: str, argument: str = "SA_MODELS") -> Path:
    """The archive at a path or https address, fetched if necessary, once its digest has been verified.

    Raises:
        ValueError: the address has another form, or the archive has another digest.
        OSError: the archive cannot be read or fetched.
    """
    place, _, digest = address.rpartition("#sha256=")
    remote = place.startswith("https://")
    if not place or not re.fullmatch("[0-9a-f]{64}", digest) or "://" in place and not remote:
        raise ValueError(f"{argument} must be the path or https address of an archive of models, followed by #sha256= "
                         f"and its digest, got {address!r}")
    path = cache_root() / "archives" / f"{digest}.zip" if remote else Path(place)
    try:
        if remote and not path.is_file():
            end = time.monotonic() + FETCH_SECONDS
            try:
                _fetch(place, path, end)
            except (OSError, HTTPException):  # a failure may pass: there is a second try
                _fetch(place, path, end)
        actual = file_digest(path)
    except (OSError, HTTPException, ValueError) as error:
        raise OSError(f"{argument}={address!r} cannot be read: {_message(error)}") from None
    if actual != digest:
        if remote:
            path.unlink()
        raise ValueError(f"{argument}={address!r} is damaged or another file: its SHA-256 is {actual}")
    return path


def _message(error: Exception) -> str:
    return " ".join(str(error).split()) or repr(error)


def _fetch(url: str, path: Path, end: float) -> None:
    with write_atomically(path) as temporary, urlopen(url, timeout=60) as answer, open(temporary, "wb") as file:
        while block := answer.read1(1 << 20):
            if time.monotonic() > end:
                raise OSError(f"it took longer than {FETCH_SECONDS} s")
            file.write(block)
