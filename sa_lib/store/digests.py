"""Digests: what tensors, code, losses and files are known by."""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import torch

from ..checks import check_types, shorten

__all__ = ["check_tensors", "code_digest", "code_text", "file_digest", "fingerprint", "plain", "tensor_digest",
           "text_digest"]


def text_digest(text: str) -> str:
    """SHA-256 (hex) of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes, in order of name.

    Raises:
        ValueError: a tensor is not a dense array of values.
    """
    check_tensors(tensors)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = plain(tensors[name])
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU, without gradients, with its values one after the other as they are."""
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def check_tensors(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that a safetensors file cannot hold."""
    check_types(tensors=(tensors, Mapping))
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise TypeError(f"tensors must map names to tensors, got {shorten(name)}={shorten(tensor)}")
        if (name == "__metadata__" or tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested
                or tensor.is_quantized or tensor.dtype == torch.complex128):
            raise ValueError("tensors must be dense and hold values, of a type that safetensors has, under any name "
                             f"but __metadata__, got {shorten(name)} of {tensor.dtype}, {tensor.layout} on "
                             f"{tensor.device}")


def code_digest(*modules: ModuleType) -> str:
    """SHA-256 (hex) of the modules' code without its prose: a recipe that names it is never stale.

    A changed comment or docstring keeps the digest; see `code_text`.
    """
    check_types(**{f"modules[{at}]": (module, ModuleType) for at, module in enumerate(modules)})
    return text_digest("\0".join(code_text(_source(module)) for module in modules))


def _source(module: ModuleType) -> str:
    """A module's code: its file's, or what its loader has where the library is in a zip file."""
    if (path := Path(module.__file__)).is_file():
        return path.read_text(encoding="utf-8")
    return module.__loader__.get_source(module.__name__)


def code_text(source: str) -> str:
    """Python source without comments, docstrings, blank lines and trailing spaces.

    Prose is cut out by position and the rest is left as it is written. Unlike `ast.dump` and `ast.unparse`,
    this gives the same text on every version of Python.

    Args:
        source: with any line ends.

    Raises:
        SyntaxError: it is not Python.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    tree = ast.parse(source)
    lines = source.split("\n")
    inside = set()  # numbers of lines that end inside a string, where every space counts
    depth = began = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        (first, column), (last, _) = token.start, token.end
        if kind == "COMMENT":
            lines[first - 1] = lines[first - 1][:column]
        elif kind == "STRING" and not depth:
            inside.update(range(first, last))
        elif kind == "FSTRING_START":  # f-strings are made of several tokens from Python 3.12 on
            depth, began = depth + 1, began if depth else first
        elif kind == "FSTRING_END":
            depth -= 1
            if not depth:
                inside.update(range(began, last))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _docstring(node):
            doc = node.body[0]
            inside.difference_update(range(doc.lineno, doc.end_lineno))
            rest = lines[doc.end_lineno - 1].encode()[doc.end_col_offset:].decode()
            lines[doc.lineno - 1] = lines[doc.lineno - 1].encode()[:doc.col_offset].decode()
            for number in range(doc.lineno, doc.end_lineno):
                lines[number] = ""
            lines[doc.end_lineno - 1] += rest
    stripped = (line if number in inside else line.rstrip() for number, line in enumerate(lines, 1))
    return "\n".join(line for number, line in enumerate(stripped, 1) if line or number in inside)


def _docstring(node: ast.AST) -> bool:
    return (bool(node.body) and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
            and isinstance(node.body[0].value.value, str))


def fingerprint(values: Mapping[str, torch.Tensor], weights: Iterable[torch.Tensor]) -> dict[str, list[str]]:
    """Terms of a loss on a fixed probe: each value and the norm of its gradient, to six digits.

    They stand for the loss in a recipe. A reader's copy of a loss finds the model that the library's loss made, and
    any change to the loss, wherever in the code it is, makes another model.

    Args:
        values: name -> scalar that depends on the weights.
        weights: tensors that require a gradient.

    Raises:
        ValueError: a value does not depend on the weights, or a weight does not require a gradient.
    """
    check_types(values=(values, Mapping), weights=(weights, Iterable))
    weights = list(weights)
    if not weights or not all(isinstance(one, torch.Tensor) and one.requires_grad for one in weights):
        raise ValueError(f"weights must be tensors that require a gradient, got {shorten(weights)}")
    marks = {}
    for name, value in values.items():
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad:
            raise ValueError(f"values must be scalars that depend on the weights, got {shorten(name)}={shorten(value)}")
        gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        norm = sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5
        marks[name] = [f"{number:.5e}" for number in (float(value.detach()), norm)]
    return marks
