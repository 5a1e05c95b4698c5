"""Checkpoints: save and load models. No file that is loaded here can run code.

Our own files are safetensors with the model's configuration in the header. The
files of the official implementation of Selective Amnesia (Heng & Soh 2023,
arXiv 2305.10120) are pickles; only tensors, plain containers and
`argparse.Namespace` are read from them.
"""

import argparse
import itertools
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from . import store
from .checks import check_types, shorten
from .model import CVAE, ModelConfig

__all__ = ["import_official", "load_model", "read_model", "save_model"]

# Names that wrappers of PyTorch (DataParallel, compile, modules around the model) put before every parameter's.
PREFIXES = ("module.", "_orig_mod.", "model.")
# The packages whose classes a checkpoint may name, and how far into a pickle we look for others.
PLAIN = {"torch", "collections", "argparse"}
MOST_OPERATIONS = 100_000
# The first bytes of a file of torch.save before PyTorch 1.6: the pickle of a magic number.
OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# The official name of each of our layers.
OFFICIAL = {"encoder.layers.0": "fc1", "encoder.layers.2": "fc2", "encoder.mean": "fc31",
            "encoder.log_var": "fc32", "decoder.layers.0": "fc4", "decoder.layers.2": "fc5",
            "decoder.layers.4": "fc6"}


def save_model(path: str | Path, model: CVAE, info: Mapping[str, Any] | None = None) -> str:
    """Write a model to a file, with further JSON values in `info`.

    Returns:
        SHA-256 (hex) of its weights.
    """
    check_types(model=(model, CVAE), info=(info, (Mapping, type(None))))
    return store.save(path, model.state_dict(), {**(info or {}), "model": model.config.asdict()})


def load_model(path: str | Path) -> CVAE:
    """The model in a file of `save_model`, or of the store with the configuration as ``info["model"]``.

    Returns:
        the model on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a model file, or its tensors do not match its header.
    """
    artifact = store.load(path)
    try:
        config = ModelConfig(**artifact.info["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold a CVAE: its header gives no usable configuration "
                         f"of one ({type(error).__name__}: {error})") from None
    return _assemble(path, config, artifact.tensors)


def import_official(path: str | Path) -> CVAE:
    """The model in a checkpoint of the official implementation.

    Such a checkpoint is ``torch.save({"model": state_dict, "config": argparse.Namespace})``
    with layers fc1 to fc6 of any size. Its encoder and decoder append the label to x and z, as ours do.
    A prefix that a wrapper put before every name, such as ``module.``, is ignored.

    Returns:
        the model on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a checkpoint, or asks for anything but data.
    """
    check_types(path=(path, (str, Path)))
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        # torch.save never compresses, so a compressed file was made to exhaust memory.
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("compressed")
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = dict(torch.load(path, map_location="cpu", weights_only=True))
        state = _without_prefix(dict(checkpoint["model"]))
    except Exception:  # a broken pickle can fail in any way, and PyTorch's message advises trusting the file
        raise ValueError(f"{path} is not a checkpoint of the official implementation: "
                         f"it cannot be read as plain data with an entry 'model'{_foreign_entry(path)}") from None
    return _assemble(path, _official_config(path, state), state, _official_name)


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without the prefixes that wrappers of PyTorch put before every name."""
    names = [str(name) for name in state]
    while names and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None)):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _official_config(path: str | Path, state: Mapping[str, Any]) -> ModelConfig:
    """The configuration that fits the shapes of the layers."""
    shapes = {name: getattr(state.get(f"{name}.weight"), "shape", ()) for name in ("fc1", "fc2", "fc31")}
    if not all(len(shape) == 2 for shape in shapes.values()):
        return ModelConfig()  # the missing layers are named later
    wide, narrow, latent = (int(shape[0]) for shape in shapes.values())
    try:
        return ModelConfig(latent_dim=latent, hidden=(wide, narrow))
    except ValueError as error:
        raise ValueError(f"{path} does not hold a CVAE: {error}") from None


def _foreign_entry(path: str | Path) -> str:
    """The first entry of a checkpoint that is not plain data, for a message; "" if it cannot be found."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            texts: list[str] = []
            for operation, argument, _ in itertools.islice(pickletools.genops(archive.read(name)), MOST_OPERATIONS):
                if operation.name == "STACK_GLOBAL":
                    module, kind, key = texts[-2], texts[-1], texts[-3:-2]
                elif operation.name == "GLOBAL":
                    (module, kind), key = argument.split(" ", 1), texts[-1:]
                else:
                    texts += [argument] if isinstance(argument, str) else []
                    continue
                if module.split(".")[0] not in PLAIN:
                    return f", got {shorten(key[0])} with a {module}.{kind}" if key else f", got a {module}.{kind}"
    except Exception:  # a broken file can fail in any way; this only makes the message better
        pass
    return ""


def read_model(path: str | Path) -> CVAE:
    """The model in a file of either kind.

    Raises:
        FileNotFoundError, ValueError: as `load_model` and `import_official`.
    """
    check_types(path=(path, (str, Path)))
    if _is_old(path):
        raise ValueError(f"{path} must be a file of torch.save since PyTorch 1.6, got one of an older PyTorch; load it "
                         "there and save it again")
    try:
        official = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # an archive in several parts
        official = True
    return import_official(path) if official else load_model(path)


def _is_old(path: str | Path) -> bool:
    """Whether a file is a pickle, as PyTorch wrote it before it wrote zip files."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(OLD)) == OLD


def _official_name(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{OFFICIAL[layer]}.{kind}"


def _assemble(path: str | Path, config: ModelConfig, state: Mapping[str, Any],
              rename: Callable[[str], str] = str) -> CVAE:
    """A model with the weights of `state`, which calls our weight ``name`` ``rename(name)``."""
    with torch.device("meta"):  # a false header must not make us allocate memory
        model = CVAE(config)
    shapes = {rename(name): (name, weight.shape) for name, weight in model.state_dict().items()}
    if state.keys() != shapes.keys():
        odd = sorted(" ".join(str(label).split())[:99] for label in state.keys() ^ shapes.keys())
        raise ValueError(f"{path} does not hold a CVAE of this configuration: {', '.join(odd[:4])}"
                         f"{', ...' if odd[4:] else ''} should not be there or is missing")
    weights = {}
    for label, (name, shape) in shapes.items():
        tensor = state[label]
        if not (isinstance(tensor, torch.Tensor) and tensor.shape == shape and tensor.is_floating_point()
                and tensor.layout == torch.strided and tensor.device.type == "cpu"):
            kind = (f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, torch.Tensor)
                    else f"a {type(tensor).__name__}")
            raise ValueError(f"{path} does not hold a CVAE of this configuration: {label} must be floating-point "
                             f"{list(shape)}, got {kind}")
        weights[name] = tensor.detach().to(torch.float32, copy=True)
        if not weights[name].isfinite().all():
            raise ValueError(f"{path} holds a broken CVAE: {label} must be finite everywhere, got values that are not")
    model.load_state_dict(weights, assign=True)
    return model.eval()
