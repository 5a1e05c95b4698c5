"""PyTorch's global settings: a result must not depend on those of the reader's session.

Autocast, reduced precision of matrix products, another default type or device, and inference mode would all change
or stop a training, and none of them is part of a recipe of the store. So the library sets them aside for its work.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["native_bfloat16", "with_defaults", "with_gradients", "with_native_products"]

AUTOCAST = ("cpu", "cuda")


@contextmanager
def with_gradients() -> Iterator[None]:
    """Exact gradients in the block or the decorated function, also in no_grad, inference mode and autocast."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def native_bfloat16() -> bool:
    """Whether the processor itself multiplies matrices of bfloat16: with AMX or AVX512-BF16, several times as fast."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))


@contextmanager
def with_native_products(where: torch.device) -> Iterator[None]:
    """Matrix products and convolutions in reduced precision in the block: in bfloat16, if the processor has it, and on
    a GPU in TensorFloat-32; all else stays float32.

    Weights, their gradients' sums and the outputs of a model keep float32, as in the mixed precision of Micikevicius
    et al. (2018, arXiv 1710.03740).
    """
    if where.type != "cuda":
        # With its cache, autocast would go on with the weights of an earlier step.
        with torch.autocast("cpu", torch.bfloat16, where.type == "cpu" and native_bfloat16(), cache_enabled=False):
            yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def with_defaults() -> Iterator[None]:
    """PyTorch's defaults in the block, or in a function that this decorates; the reader's settings return after it."""
    with with_gradients(), _default_precision(), ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def _default_precision() -> Iterator[None]:
    """Matrix products of float32 in full precision."""
    matmuls = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul if hasattr(torch.backends, "mkldnn") else None
    before = [getattr(matmul, "fp32_precision", None) for matmul in matmuls]
    try:
        named = torch.get_float32_matmul_precision()
    except RuntimeError:  # the settings of the single backends, from PyTorch 2.9 on, have no common name
        named = None
    if named != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if named is None:
            for matmul, precision in zip(matmuls, before):
                if precision is not None:
                    matmul.fp32_precision = precision
        elif named != "highest":
            torch.set_float32_matmul_precision(named)
