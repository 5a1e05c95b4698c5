"""Get or make: everything trained is a file found by the hash of everything that it was made from.

An artifact is a set of tensors and a JSON description, kept in one
safetensors file whose header carries the recipe and digests of the tensors
and of the description. A file is written under a temporary name and renamed
when it is complete, so a killed process leaves nothing that could be read
back as good. A file that was damaged later fails its digests, is reported,
and is made again. If several processes ask for one artifact, on one machine
or on several with a common folder, one makes it and the others wait.

``SA_MODELS`` may name an archive written by `pack`: an artifact that the
store lacks and the archive has is then taken from there. Code, data and
configuration are part of the recipe, so an archive never stands for another
model.
"""

import json
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checks import check_types, shorten
from ..settings import with_defaults
from . import archive
from .digests import plain, tensor_digest, text_digest
from .files import cache_root, write_atomically

__all__ = ["Artifact", "Part", "get_or_make", "kept", "load", "pack", "part",
           "requested", "save"]

Tensors = dict[str, torch.Tensor]

# A process touches its claim file every SIGN_OF_LIFE seconds. After PATIENCE seconds without a touch, another process
# takes over.
SIGN_OF_LIFE, PATIENCE = 1.0, 15.0
# Temporary files older than this many seconds count as abandoned and are deleted.
ABANDONED = 86_400.0

# Names that a folder of the store may have.
KIND = r"[A-Za-z0-9_]+"

# The artifacts that this process has asked for so far, as "kind/file", in the order of the first requests: the models
# that a chapter speaks of.
requested: dict[str, None] = {}


@dataclass(frozen=True)
class Artifact:
    """The contents of a file of the store.

    Attributes:
        tensors: name -> tensor, on the CPU.
        info: its description from when it was made (seconds, log, ...), plus
            ``recipe`` and ``digest``.
        path: its file.
    """

    tensors: Tensors
    info: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class Part:
    """The checkpoint of an unfinished artifact. It is deleted once the artifact is saved."""

    path: Path

    def save(self, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any]) -> None:
        """Write the checkpoint, if the disk allows it; `info` has the `seconds` spent so far."""
        check_types(info=(info, Mapping))
        with suppress(OSError):
            save(self.path, tensors, {**info, "part": self.path.name})

    def load(self) -> Artifact | None:
        """The checkpoint, or None if there is none or it is damaged."""
        try:
            artifact = load(self.path)
        except (FileNotFoundError, ValueError):
            return None
        whole = artifact.info.get("part") == self.path.name and isinstance(artifact.info.get("seconds"), float)
        return artifact if whole else None


def _json(name: str, values: Mapping[str, Any], nan: bool = True, **further: Any) -> str:
    """The values and further ones as JSON, in order of name; messages call the values `name`."""
    check_types(**{name: (values, Mapping)})
    try:
        return json.dumps({**values, **further}, sort_keys=True, allow_nan=nan, default=_number)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be a mapping of names to JSON values, got {shorten(values)}: {error}") from None


def _number(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is not a JSON value")


def save(path: str | Path, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any]) -> str:
    """Write tensors and their description to one safetensors file; return their digest.

    Args:
        info: JSON values.
    """
    from safetensors.torch import save as serialize  # the audit of a reader's model must work without it

    check_types(path=(path, (str, Path)))
    digest = tensor_digest(tensors)
    tensors = _apart({name: plain(tensor) for name, tensor in tensors.items()})
    header = _json("info", info, digest=digest)
    with write_atomically(Path(path)) as temporary:
        # Not save_file: only the owner may read the files that it writes.
        temporary.write_bytes(serialize(tensors, {"sa_lib": header, "sha256": text_digest(header)}))
    return digest


def _apart(tensors: Tensors) -> Tensors:
    """The tensors with memory of its own for each: tied weights share theirs, and safetensors refuses them."""
    memory: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if place in memory else tensor
        memory.add(place)
    return own


def load(path: str | Path) -> Artifact:
    """Read a file written by `save`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file, was not written by `save`,
            or its tensors or description have changed since.
    """
    from safetensors import SafetensorError, safe_open

    check_types(path=(path, (str, Path)))
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = metadata.get("sa_lib", "null")
            info = json.loads(header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a model file: {error}") from None
    if not isinstance(info, dict):
        raise ValueError(f"{path} is not a model file: its header has no description by sa_lib")
    if metadata.get("sha256") != text_digest(header) or tensor_digest(tensors) != info.get("digest"):
        raise ValueError(f"{path} is damaged: its header or its tensors do not match their digest")
    return Artifact(tensors, info, path)


def get_or_make(kind: str, recipe: Mapping[str, Any],
                make: Callable[[], tuple[Tensors, dict[str, Any]]]) -> Artifact:
    """Load the artifact of this recipe if the store or ``SA_MODELS`` has it whole; otherwise make and keep it.

    Args:
        kind: "cvae", "judge", ...: a folder of the store.
        recipe: everything the result depends on, as JSON values.
        make: called without arguments if the artifact has to be made; returns
            its tensors and its description.

    Raises:
        ValueError: ``SA_MODELS`` is not the address of an archive of `pack`, or
            the archive is damaged or does not have the digest in its address.
        OSError: the archive cannot be read or fetched, or the artifact has to be
            made and the store cannot be written.
    """
    check_types(make=(make, Callable))
    recipe, path = _place(kind, recipe)
    requested[f"{kind}/{path.name}"] = None
    if (artifact := _good(path, recipe)) is not None:
        return artifact
    with _claim(path):
        if (artifact := _good(path, recipe, warnings.warn)) is not None:
            return artifact
        if _unpack(path) and (artifact := _good(path, recipe, warnings.warn)) is not None:
            return artifact
        checkpoint = _part(path).load()
        started = time.perf_counter() - (checkpoint.info["seconds"] if checkpoint else 0)
        with with_defaults():
            tensors, info = make()
        info = {"seconds": time.perf_counter() - started, **info, "recipe": recipe}
        with _naming_the_store():
            save(path, tensors, info)
            _part(path).path.unlink(missing_ok=True)
        _tidy(path.parent)
    return load(path)


def kept(name: str) -> Artifact:
    """The artifact of this name, as in `requested`.

    Raises:
        ValueError: it is damaged, or `name` is not a name of the store.
        FileNotFoundError: the store does not have it.
    """
    _check_names(name=[name])
    return load(_models() / name)


def _check_names(**arguments: Iterable[Any]) -> None:
    """Refuse names that no artifact has."""
    for argument, names in arguments.items():
        for name in names:
            if not isinstance(name, str) or not re.fullmatch(rf"{KIND}/[0-9a-f]{{24}}\.safetensors", name):
                raise ValueError(f"{argument} must be as in store.requested, got {shorten(name)}")


def part(kind: str, recipe: Mapping[str, Any]) -> Part:
    """The checkpoint of the artifact of this recipe; see `get_or_make`."""
    return _part(_place(kind, recipe)[1])


def _part(path: Path) -> Part:
    return Part(path.with_suffix(".part"))


def _place(kind: str, recipe: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    """The recipe as it reads after a round trip through JSON, and the file of its artifact."""
    if not isinstance(kind, str) or not re.fullmatch(KIND, kind):
        raise ValueError(f"kind must be of letters, digits and _, got {shorten(kind)}")
    text = _json("recipe", recipe, nan=False, kind=kind)
    return json.loads(text), _models() / kind / f"{text_digest(text)[:24]}.safetensors"


def _good(path: Path, recipe: Mapping[str, Any],
          complain: Callable[[str], None] = lambda complaint: None) -> Artifact | None:
    """The artifact in the file, if it is undamaged and has this recipe."""
    try:
        artifact = load(path)
        if artifact.info.get("recipe") == recipe:
            return artifact
        complain(f"{path} has a recipe that does not fit its name; it is made again")
    except FileNotFoundError:
        pass
    except ValueError as error:
        complain(f"{error}; it is made again")
    return None


def pack(names: Iterable[str], path: Path) -> str:
    """Write artifacts of the store into one zip archive; return its address for ``SA_MODELS``.

    Args:
        names: as in `requested`, such as "cvae/0123456789abcdef01234567.safetensors".
        path: of the archive.

    Raises:
        FileNotFoundError: the store lacks one of them.
        ValueError: one of them is damaged, or is not a name of the store.
    """
    check_types(names=(names, Iterable), path=(path, Path))
    names = list(names)
    _check_names(names=names)
    return archive.pack({name: kept(name).path.read_bytes() for name in sorted(names)}, path)


def _unpack(path: Path) -> bool:
    """Take this file of the store from the archive of ``SA_MODELS``; return whether the archive has it."""
    if (content := archive.member(f"{path.parent.name}/{path.name}")) is None:
        return False
    # The path comes from the store, so no name in the archive can lead anywhere else.
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)
    return True


def _models() -> Path:
    return cache_root() / "models"


@contextmanager
def _naming_the_store():
    """Name the store, and the way to choose another, if the block cannot write to it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"the store {cache_root()} cannot be written: {error}; SA_CACHE may name another "
                      "folder") from None


def _tidy(folder: Path) -> None:
    """Delete the abandoned temporary files of killed processes from a folder of the store."""
    for left in folder.glob(".*"):
        with suppress(OSError):
            if (re.fullmatch(r"\..+\.([0-9a-f]{32}|claim)", left.name)
                    and time.time() - left.stat().st_mtime > ABANDONED):
                left.unlink()


@contextmanager
def _claim(path: Path):
    """Wait until no other process makes `path`, and keep the others waiting until the block ends.

    The claim is a file that only one process can create. The owner touches
    the file while it runs; a claim that is no longer touched can be taken
    over. This needs no synchronized clocks and no file locks. In the worst
    case two processes make the same artifact twice.
    """
    claim = path.with_name(f".{path.name}.claim")
    seen, since = None, time.monotonic()
    while True:
        with _naming_the_store():
            path.parent.mkdir(parents=True, exist_ok=True)  # fails for a file, and for a link that leads nowhere
            with suppress(FileExistsError):
                os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                break
        try:
            touched = claim.stat().st_mtime_ns
        except FileNotFoundError:
            continue
        if touched != seen:
            seen, since = touched, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            claim.unlink(missing_ok=True)
            continue
        time.sleep(0.1)
    done = threading.Event()

    def live():
        while not done.wait(SIGN_OF_LIFE):
            with suppress(OSError):
                os.utime(claim)

    alive = threading.Thread(target=live, daemon=True)
    alive.start()
    try:
        yield
    finally:
        done.set()
        alive.join()
        claim.unlink(missing_ok=True)
