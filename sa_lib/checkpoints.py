"""Checkpoints: save and load models. No file that is loaded here can run code.

Our own files are safetensors with the model's configuration in the header. The
files of the official implementation of Selective Amnesia (Heng & Soh 2023,
arXiv 2305.10120), and others of `torch.save`, are pickles; only tensors, plain
containers, numbers of NumPy, paths and `argparse.Namespace` are read from them.
"""

import argparse
import itertools
import pathlib
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import store
from .checks import check_types, shorten
from .model import ARCHITECTURES, CVAE, ModelConfig

__all__ = ["import_official", "load_model", "read_model", "save_model"]

# Names that wrappers of PyTorch (DataParallel, compile, modules around the model) put before every parameter's.
PREFIXES = ("module.", "_orig_mod.", "model.")
# The packages whose classes a checkpoint may name, and how far into a pickle we look for others.
PLAIN = {"torch", "collections", "_codecs"}
MOST_OPERATIONS = 100_000
# The first bytes of a file of torch.save before PyTorch 1.6: the pickle of a magic number.
OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# Entries that may hold the weights: of the official implementation, of Lightning, and of PyTorch's tutorials.
ENTRIES = ("model", "state_dict", "model_state_dict")
# Plain data that often lie beside the weights: settings, losses of NumPy, and paths.
KINDS = ("bool", "int32", "int64", "float16", "float32", "float64")
SCALAR = np.float64(0).__reduce__()[0]  # makes a number of NumPy
PATHS = (pathlib.PosixPath, pathlib.PurePosixPath)
BESIDE = [argparse.Namespace, *PATHS, np.dtype, *(type(np.dtype(k)) for k in KINDS), SCALAR]
# Some of these have other names in other versions: NumPy 1 and 2, and Python 3.13.
ALIASES = {f"numpy.{core}.multiarray.scalar": SCALAR for core in ("core", "_core")}
ALIASES |= {f"{module}.{path.__name__}": path for module in ("pathlib", "pathlib._local") for path in PATHS}
if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6):  # older versions know an object by its own name alone
    BESIDE += [(one, name) for name, one in ALIASES.items()]
BESIDE_NAMES = {*ALIASES, *(f"{one.__module__}.{one.__qualname__}" for one in BESIDE if not isinstance(one, tuple))}

# The names that others give each of our layers: the official implementation, and the notebook that this book follows.
LAYERS = ("encoder.layers.0", "encoder.layers.2", "encoder.mean", "encoder.log_var")
LAYOUTS = {
    "official": dict(zip((*LAYERS, "decoder.layers.0", "decoder.layers.2", "decoder.layers.4"),
                         ("fc1", "fc2", "fc31", "fc32", "fc4", "fc5", "fc6"))),
    "notebook": dict(zip((*LAYERS, "decoder.layers.0", "decoder.layers.2", "decoder.layers.4"),
                         ("enc_conv.0", "enc_conv.2", "enc_fc_mu", "enc_fc_logvar", "dec_fc", "dec_conv.0",
                          "dec_conv.2"))),
    "ours": {name: name for name in (*LAYERS, "decoder.layers.0", "decoder.layers.2", "decoder.layers.4")},
}
CONVERT = "where the model can be loaded, save its weights alone, with torch.save(model.state_dict(), 'weights.pt')"


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
    """The model in a checkpoint of the official implementation, or of the notebook that this book follows.

    The official one is ``torch.save({"model": state_dict, "config": argparse.Namespace})`` with layers fc1 to fc6 of
    any size (its settings z_dim, h_dim1 and h_dim2). Its encoder and decoder append the label to x and z, as ours do.
    The notebook's has convolutions, enc_conv to dec_conv. The weights may also be alone, or in an entry `state_dict`
    or `model_state_dict`, as Lightning and others write them. A prefix that a wrapper put before every name, such as
    ``module.``, is ignored.

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
        with torch.serialization.safe_globals(BESIDE):
            checkpoint = dict(torch.load(path, map_location="cpu", weights_only=True))
        inner = next((checkpoint[name] for name in ENTRIES if name in checkpoint), checkpoint)
        state = _without_prefix(dict(inner))
        if not any(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("no weights")
    except Exception:  # a broken pickle can fail in any way, and PyTorch's message advises trusting the file
        raise ValueError(f"{path} is not a checkpoint of the official implementation or a state_dict: it cannot be "
                         f"read as plain data with weights, alone or in {', '.join(ENTRIES)}{_foreign_entry(path)}; "
                         f"{CONVERT}") from None
    return _from_state(path, state)


def _from_state(path: str | Path, state: Mapping[str, Any]) -> CVAE:
    """The model with weights under the names of one of `LAYOUTS`."""
    layers = {str(name).rpartition(".")[0] for name in state}
    name, layout = max(LAYOUTS.items(), key=lambda item: len(layers & set(item[1].values())))
    if not layers & set(layout.values()):
        raise ValueError(f"{path} must hold a CVAE with layers as {', '.join(list(layout.values())[:2])}, fc1 or "
                         f"enc_conv.0, got {shorten(sorted(layers)[:6])}; rename them to those of one of these models")
    shapes = {layer: getattr(state.get(f"{layout[layer]}.weight"), "shape", ()) for layer in LAYERS[:3]}
    kind = "conv" if len(shapes[LAYERS[0]]) == 4 or name == "notebook" else "mlp"
    config = ARCHITECTURES[kind]  # the missing layers are named later
    if all(shapes.values()):
        outer, inner, latent = (int(shape[0]) for shape in shapes.values())
        try:
            config = ModelConfig(kind, latent, (outer, inner))
        except ValueError as error:
            raise ValueError(f"{path} does not hold a CVAE: {error}") from None

    def theirs(own: str) -> str:
        layer, _, part = own.rpartition(".")
        return f"{layout[layer]}.{part}"

    return _assemble(path, config, state, theirs)


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without the prefixes that wrappers of PyTorch put before every name."""
    names = [str(name) for name in state]
    while names and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None)):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


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
                if module.split(".")[0] not in PLAIN and f"{module}.{kind}" not in BESIDE_NAMES:
                    return f", got {shorten(key[0])} with a {module}.{kind}" if key else f", got a {module}.{kind}"
    except Exception:  # a broken file can fail in any way; this only makes the message better
        pass
    return ""


def read_model(path: str | Path) -> CVAE:
    """The model in a file of `save_model`, a safetensors file with weights alone, or one that `import_official` reads.

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
    if official:
        return import_official(path)
    bare = _bare_safetensors(path)
    return load_model(path) if bare is None else _from_state(path, _without_prefix(bare))


def _bare_safetensors(path: str | Path) -> dict[str, torch.Tensor] | None:
    """The tensors of a safetensors file without our header; None for any other file."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).keys() & {"sa_lib", "sha256"}:  # ours, or ours and damaged
                return None
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, OSError):  # `load_model` says so
        return None


def _is_old(path: str | Path) -> bool:
    """Whether a file is a pickle, as PyTorch wrote it before it wrote zip files."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(OLD)) == OLD


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
