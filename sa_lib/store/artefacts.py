"""Get or make: everything trained is a file found by the hash of what made it.

An artefact is a set of tensors and a JSON description, kept in one
safetensors file whose header carries the recipe and digests of the tensors
and of the description. A file is written under a temporary name and renamed
when whole, so a killed process leaves nothing that could be read back as
good; a file that was damaged later fails its digests, is reported, and is
made again. Of several processes that ask for one artefact, on one machine or
on several with a common folder, one makes it and the others wait.

``SA_MODELS`` may name an archive that `pack` wrote: what the store lacks and
the archive has is then taken from there. Code, data and configuration are
part of the recipe, so an archive never stands for another model.
"""

import hashlib
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
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised

from . import archive
from .files import cache_root, write_atomically
from .inputs import check_types, short

__all__ = ["Artefact", "code_digest", "fingerprint", "get_or_make", "load", "load_part", "pack", "part", "save",
           "save_part", "tensor_digest", "used"]

Tensors = dict[str, torch.Tensor]

# Seconds between two signs of life of who makes an artefact, and without one until another takes over.
SIGN_OF_LIFE, PATIENCE = 1.0, 15.0
# Seconds after which what a writer left beside an artefact is no one's any more.
ABANDONED = 86_400.0

# What the folders of the store may be called.
KIND = r"[A-Za-z0-9_]+"

# What this process has asked for so far, as "kind/file": the models that a chapter speaks of.
used: set[str] = set()


@dataclass(frozen=True)
class Artefact:
    """What a file of the store holds.

    Attributes:
        tensors: name -> tensor, on the CPU.
        info: what was recorded when it was made (seconds, log, ...), plus
            ``recipe`` and ``digest``.
        path: the file it lies in.
    """

    tensors: Tensors
    info: dict[str, Any]
    path: Path


def tensor_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes, in order of name."""
    _check_tensors(tensors)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def code_digest(*modules: ModuleType) -> str:
    """SHA-256 (hex) of the modules' source: a recipe that names it is never stale."""
    check_types(**{f"modules[{at}]": (module, ModuleType) for at, module in enumerate(modules)})
    digest = hashlib.sha256()
    for module in modules:
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def _check_tensors(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse what a safetensors file cannot hold: names that are no text, tensors that are no plain array."""
    check_types(tensors=(tensors, Mapping))
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise TypeError(f"tensors has {short(name)}={short(tensor)}; use names and tensors")
        if name == "__metadata__" or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"tensors has {short(name)}, of {tensor.layout} on {tensor.device}; use dense tensors that "
                             "hold values, under any name but __metadata__")


def _json(name: str, values: Mapping[str, Any], nan: bool = True, **further: Any) -> str:
    """The values, called `name` where they are refused, and further ones as JSON, in order of name."""
    check_types(**{name: (values, Mapping)})
    try:
        return json.dumps({**values, **further}, sort_keys=True, allow_nan=nan)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}={short(values)} is not allowed; use text under each name, numbers, lists and "
                         f"mappings of them: {error}") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(values: Mapping[str, torch.Tensor], weights: Iterable[torch.Tensor]) -> dict[str, list[str]]:
    """What terms of a loss are on a fixed probe, and what they do: each value and the norm of its gradient.

    To six digits they stand for the loss in a recipe. So a reader's copy of a
    loss finds the model that the library's made, and any change to it,
    wherever in the code it lies, makes another.
    """
    check_types(values=(values, Mapping), weights=(weights, Iterable))
    weights = list(weights)
    if not weights or not all(isinstance(one, torch.Tensor) and one.requires_grad for one in weights):
        raise ValueError(f"weights={short(weights)} is not allowed; use tensors that require a gradient")
    marks = {}
    for name, value in values.items():
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad:
            raise ValueError(f"values has {short(name)}={short(value)}; use numbers that depend on the weights")
        gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        norm = sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5
        marks[name] = [f"{number:.5e}" for number in (float(value.detach()), norm)]
    return marks


def save(path: str | Path, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any]) -> str:
    """Write tensors and their description to one safetensors file; return their digest.

    Args:
        info: JSON values.
    """
    check_types(path=(path, (str, Path)))
    digest = tensor_digest(tensors)
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    header = _json("info", info, digest=digest)
    with write_atomically(Path(path)) as temporary:
        # Not save_file: what it writes is for the owner's eyes alone.
        temporary.write_bytes(serialised(tensors, {"sa_lib": header, "sha256": _sha256(header)}))
    return digest


def load(path: str | Path) -> Artefact:
    """Read a file that `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file, was not written by `save`,
            or its tensors and description are not those that were saved.
    """
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
    if metadata.get("sha256") != _sha256(header) or tensor_digest(tensors) != info.get("digest"):
        raise ValueError(f"{path} is damaged: its header or its tensors do not match their digest")
    return Artefact(tensors, info, path)


def get_or_make(kind: str, recipe: Mapping[str, Any],
                make: Callable[[], tuple[Tensors, dict[str, Any]]]) -> Artefact:
    """Load the artefact of this recipe if the store or ``SA_MODELS`` has it whole; otherwise make and keep it.

    Args:
        kind: what it is ("cvae", "judge", ...); a folder of the store.
        recipe: everything the result depends on, as JSON values.
        make: called with nothing when the artefact has to be made; returns
            its tensors and what to record of the making.

    Raises:
        ValueError: ``SA_MODELS`` is not the address of an archive of `pack`, or
            the archive is damaged or another than its digest says.
        OSError: the archive cannot be read or fetched, or the artefact has to be
            made and the store cannot be written.
    """
    check_types(make=(make, Callable))
    recipe, path = _place(kind, recipe)
    used.add(f"{kind}/{path.name}")
    if (artefact := _good(path, recipe)) is not None:
        return artefact
    with _claim(path):
        if (artefact := _good(path, recipe, warnings.warn)) is not None:
            return artefact
        if _unpack(path) and (artefact := _good(path, recipe, warnings.warn)) is not None:
            return artefact
        began = load_part(_part(path))
        started = time.perf_counter() - (began.info["seconds"] if began else 0)
        tensors, info = make()
        info = {"seconds": time.perf_counter() - started, **info, "recipe": recipe}
        with _naming_the_store():
            save(path, tensors, info)
            _part(path).unlink(missing_ok=True)
        _tidy(path.parent)
    return load(path)


def part(kind: str, recipe: Mapping[str, Any]) -> Path:
    """Where who makes the artefact of this recipe may keep what is done so far; it goes when the artefact is there."""
    return _part(_place(kind, recipe)[1])


def save_part(path: Path, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any]) -> None:
    """Keep what is done so far, if the disk lets us; `info` has the `seconds` that it took."""
    check_types(path=(path, Path), info=(info, Mapping))
    with suppress(OSError):
        save(path, tensors, {**info, "part": path.name})


def load_part(path: Path) -> Artefact | None:
    """What `save_part` wrote there, or None where nothing whole is."""
    check_types(path=(path, Path))
    try:
        artefact = load(path)
    except (FileNotFoundError, ValueError):
        return None
    whole = artefact.info.get("part") == path.name and isinstance(artefact.info.get("seconds"), float)
    return artefact if whole else None


def _part(path: Path) -> Path:
    return path.with_suffix(".part")


def _place(kind: str, recipe: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    """The whole recipe, as JSON gives it back, and the file of its artefact."""
    if not isinstance(kind, str) or not re.fullmatch(KIND, kind):
        raise ValueError(f"kind={short(kind)} is not allowed; use letters, digits and _")
    text = _json("recipe", recipe, nan=False, kind=kind)
    return json.loads(text), _models() / kind / f"{_sha256(text)[:24]}.safetensors"


def _good(path: Path, recipe: Mapping[str, Any],
          complain: Callable[[str], None] = lambda complaint: None) -> Artefact | None:
    """The artefact in the file, if it is whole and the recipe's."""
    try:
        artefact = load(path)
        if artefact.info.get("recipe") == recipe:
            return artefact
        complain(f"{path} holds another recipe than its name says; it is made again")
    except FileNotFoundError:
        pass
    except ValueError as error:
        complain(f"{error}; it is made again")
    return None


def pack(names: Iterable[str], path: Path) -> str:
    """Write artefacts of the store into one zip archive; return its address for ``SA_MODELS``.

    Args:
        names: as in `used`, such as "cvae/0123456789abcdef01234567.safetensors".
        path: of the archive.

    Raises:
        FileNotFoundError: the store lacks one of them.
        ValueError: one of them is damaged, or a name is none of the store's.
    """
    check_types(names=(names, Iterable), path=(path, Path))
    names = list(names)
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(rf"{KIND}/[0-9a-f]{{24}}\.safetensors", name):
            raise ValueError(f"names has {short(name)}; use names as in store.used")
    return archive.pack({name: load(_models() / name).path.read_bytes() for name in sorted(names)}, path)


def _unpack(path: Path) -> bool:
    """Whether the archive that ``SA_MODELS`` names, if it does, had this file of the store, which is then there."""
    if (content := archive.member(f"{path.parent.name}/{path.name}")) is None:
        return False
    # The path is the store's own: no name in the archive leads anywhere else.
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)
    return True


def _models() -> Path:
    return cache_root() / "models"


@contextmanager
def _naming_the_store():
    """Say, where the block cannot write to the store, how to have another."""
    try:
        yield
    except OSError as error:
        raise OSError(f"the store {cache_root()} cannot be written: {error}; SA_CACHE may name another folder") from None


def _tidy(folder: Path) -> None:
    """Remove what killed processes left in a folder of the store a day ago or earlier."""
    for left in folder.glob(".*"):
        with suppress(OSError):
            if (re.fullmatch(r"\..+\.([0-9a-f]{32}|claim)", left.name)
                    and time.time() - left.stat().st_mtime > ABANDONED):
                left.unlink()


@contextmanager
def _claim(path: Path):
    """Wait until no other process makes `path`, and keep the others waiting until the block is left.

    The claim is a file that only one process can create. Its owner touches it
    as long as he lives; one that stays untouched is taken over. No clock of
    another machine is asked, and no lock of the file system: should two ever
    take over at once, the artefact is made twice, and is the same.
    """
    claim = path.with_name(f".{path.name}.claim")
    seen, since = None, time.monotonic()
    while True:
        with _naming_the_store(), suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
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
