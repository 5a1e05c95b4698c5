"""A pretended GPU: tensors that say they are on "cuda:0" and obey its rules, with their values on the CPU.

An operation on tensors of both devices fails where it fails on a GPU, and what would make the CPU wait for the GPU is
counted. PyTorch's compiled code takes these tensors for some on its "meta" device, which needs no driver.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sa_lib import model

META = torch.device("meta")
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
NEEDS_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class OnGPU(torch.Tensor):
    """A tensor on the pretended GPU; `held` has its values."""

    device, is_cuda, is_meta = torch.device("cuda", 0), True, False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, held.stride(), held.storage_offset(),
                                                   dtype=held.dtype, device=META)

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"OnGPU({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} must be called in a block with pretended_gpu")


class Generator(torch.Generator):
    """A generator for the CPU or the pretended GPU; a seed has the same numbers on both."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls)

    def __init__(self, device="cpu"):
        self.where = torch.device(device)

    @property
    def device(self):
        return self.where


class Driver(TorchFunctionMode):
    """Keeps PyTorch from looking for a real driver: what is asked of "cuda" is asked of "meta"."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.device:
            return function(*args, **kwargs)
        where = torch.device(kwargs.get("device") or getattr(args[0] if args else None, "device", "cpu")).type
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != where:
            raise RuntimeError(f"Expected a {where!r} device type for generator but found {generator.device.type!r}")
        if function is torch.tensor and where == "cuda":
            return function(*args, **kwargs | {"device": "cpu"}).to(META)
        if function in (torch.Tensor.tolist, torch.Tensor.__format__):
            args = args[0].cpu(), *args[1:]
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(part) if isinstance(part, list) else part for part in index)
            args = args[0], index, *args[2:]
        return function(*_each(_meta, args), **_each(_meta, kwargs))


def _each(change, value):
    """The same lists, tuples and dictionaries with other leaves."""
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(_each(change, part) for part in value)
    if isinstance(value, dict):
        return {key: _each(change, part) for key, part in value.items()}
    return change(value)


def _meta(value):
    named = isinstance(value, (str, torch.device)) and str(value).startswith("cuda")
    return META if named else value


class Pretended(TorchDispatchMode):
    """Does on the CPU what the GPU would do; `waits` counts, by operation, how often the CPU would wait for it."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = []
        _each(lambda value: tensors.append(value) if isinstance(value, torch.Tensor) else None, (args, kwargs))
        from_gpu = any(isinstance(tensor, OnGPU) for tensor in tensors)
        onto = kwargs.get("device")
        to_gpu = from_gpu if onto is None else onto.type == "meta"
        if not from_gpu and not to_gpu:
            return function(*args, **kwargs)
        mixed = from_gpu and not all(isinstance(tensor, OnGPU) for tensor in tensors)
        if mixed and not _may_mix(function, args, tensors):
            places = " and ".join(f"{list(tensor.shape)} on {tensor.device}" for tensor in tensors)
            raise RuntimeError(f"Expected all tensors to be on the same device, but {function} got {places}")
        if _waits(function, tensors, mixed or from_gpu != to_gpu):
            self.waits[str(function)] += 1
        if onto is not None:
            kwargs["device"] = torch.device("cpu")
        known = {id(getattr(tensor, "held", tensor)): tensor for tensor in tensors}
        args, kwargs = _each(lambda value: getattr(value, "held", value), (args, kwargs))

        def placed(value):
            if id(value) in known:  # changed in place
                return known[id(value)]
            return OnGPU(value) if to_gpu and isinstance(value, torch.Tensor) else value

        return _each(placed, function(*args, **kwargs))


def _may_mix(function, args, tensors):
    """Whether a GPU takes tensors from the CPU here: to copy them, as indices, and as single numbers."""
    if function in COPIES:
        return True
    if function in INDEXING:
        tensors = [args[0], *args[2:3]]
    elif torch.Tag.pointwise not in function.tags:
        return False
    changed = args[:1] if function._schema.is_mutable else ()
    return (any(isinstance(tensor, OnGPU) for tensor in tensors)
            and all(isinstance(tensor, OnGPU) for tensor in changed)
            and all(isinstance(tensor, OnGPU) or not tensor.ndim for tensor in tensors))


def _waits(function, tensors, moved):
    if function in COPIES:
        return moved
    if function in INDEXING:  # indices from the CPU are copied, and a mask becomes as many indices as it has ones
        return moved or any(tensor.dtype == torch.bool for tensor in tensors[1:])
    return not NEEDS_VALUES.isdisjoint(function.tags)


@contextmanager
def pretended_gpu() -> Iterator[Pretended]:
    """In the block there is a GPU, and the library has found it."""
    users = [module for name, module in sys.modules.items()
             if name.startswith("sa_lib.") and getattr(module, "device", None) is model.device]
    with ExitStack() as stack:
        for module in users:
            stack.enter_context(mock.patch.object(module, "device", lambda: torch.device("cuda")))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(Driver())
        yield stack.enter_context(Pretended())
