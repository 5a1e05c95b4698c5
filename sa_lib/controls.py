"""Controls for others: models that never saw a class, and their baseline, packed into one archive.

With such an archive, a model that was made to forget the class can be audited without training anything.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from .checkpoints import load_model, save_model
from .checks import check_types
from .labels import check_label
from .model import CVAE, copy_of
from .store import archive, load

__all__ = ["pack", "read"]

SHEET = "README.md"  # the data sheet


def pack(path: Path, label: int, baseline: CVAE, never: Mapping[int, CVAE], sheet: str = "") -> str:
    """Write a baseline and the models that never saw a class into one archive; return its address.

    Whole models, not decoders alone: an attacker may start from an encoder's codes, and mending trains both. Their
    weights are rounded to half precision.

    Args:
        never: seed -> model.
        sheet: the data sheet, in Markdown.

    Raises:
        ValueError: there is no model that never saw the class.
    """
    check_types(path=(path, Path), baseline=(baseline, CVAE), never=(never, Mapping), sheet=(sheet, str))
    check_label(label, baseline.config.classes)
    for model in never.values():
        check_types(never=(model, CVAE))
    if not never:
        raise ValueError("never must have at least one model, got none")
    models = {"baseline": baseline, **{f"never-{seed}": model for seed, model in never.items()}}
    members = {SHEET: sheet.encode()}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            file = Path(folder, f"{name}.safetensors")
            save_model(file, copy_of(model).half(), {"controls": label, "role": name})
            members[file.name] = file.read_bytes()
    return archive.pack(members, path)


def read(address: str, label: int, argument: str = "never") -> tuple[CVAE, list[CVAE]]:
    """The baseline and the models that never saw a class, in an archive of `pack`, with weights of single precision.

    Args:
        address: the path or https address of the archive, followed by #sha256= and its digest.
        argument: the name of the address in messages.

    Raises:
        TypeError, ValueError: the address has another form; or the archive has another digest, no such models, or
            those of another class.
        OSError: it cannot be read or fetched.
    """
    check_types(address=(address, str))
    members = archive.contents(address, argument, lambda name: name.endswith(".safetensors"))
    models: dict[str, CVAE] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        for content in members.values():
            file.write_bytes(content)
            info = load(file).info
            if info.get("controls") != label:
                raise ValueError(f"{argument} must be an archive of controls for class {label}, got {address!r} for "
                                 f"{info.get('controls', 'no class')}")
            models[str(info.get("role"))] = load_model(file)
    baseline = models.pop("baseline", None)
    if baseline is None or not models:
        raise ValueError(f"{argument} must be an archive of a baseline and controls, got {address!r} with "
                         f"{', '.join(members) or 'no models'}")
    return baseline, list(models.values())
