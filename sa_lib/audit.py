"""An audit: how much of a class any generative model still knows, against models that never saw the class.

Three kinds of models are compared, under one attacker with one budget: the `subject`, which had to forget the class;
its `baseline`, the model before; and the controls, `never`, which never saw the class. See `sa_lib.residual`.

`audit_errors` asks only for the attacker's errors, of any model. `audit` asks for decoders, and attacks them itself.
This module and all that it imports need PyTorch and NumPy alone.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .audit_report import ROLES, Finding, Report
from .checks import LARGEST, check_number, shorten
from .residual import MARGIN, residual_knowledge
from .store import file_digest, tensor_digest

__all__ = ["Report", "audit_errors"]

COLUMNS = ("model", "role", "image", "error")
# The name of the only attack in a table without a column `threat`.
ONLY = "the attack"


def audit_errors(table: str | Path | Mapping[str, Sequence[Any]] | Any, margin: float = MARGIN) -> Report:
    """rho from errors alone: those of one attacker, on the same images, for all models.

    Any generator will do, and any error: a squared distance, a perceptual one, a negative log-likelihood. Lower must
    mean that the attacker, or the model, comes nearer to the image.

    Args:
        table: the path of a CSV file, or of a Parquet file where pandas is there; a data frame of pandas; or a mapping
            of columns. Its columns are

            - `model`: a name;
            - `role`: "baseline", "subject" or "never";
            - `image`: a name or number, the same for all models;
            - `error`: a finite number;
            - `threat`, if there are several attacks: the name of the attack.

            Several subjects are several models of one method: rho is then of the method. There is one baseline for all
            of them, or one for each, in the same order.
        margin: rho is as good as 0 if it is this near to it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column or a role is missing, an error is not finite, or the models have other images.
    """
    check_number(margin=margin)
    columns = _columns(table)
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"table must have the columns {', '.join(COLUMNS)}, got none called {', '.join(missing)}")
    names = [*COLUMNS, *(["threat"] if "threat" in columns else [])]
    if len(lengths := {len(columns[name]) for name in names}) > 1:
        raise ValueError(f"table must have columns of one length, got {', '.join(map(str, sorted(lengths)))}")
    roles: dict[str, str] = {}
    errors: dict[str, dict[str, dict[str, float]]] = {}
    for number, row in enumerate(zip(*(columns[name] for name in names)), 1):
        threat = str(row[4]) if len(row) > 4 else ONLY
        model, role, image = (str(value).strip() for value in row[:3])
        if role not in ROLES or roles.setdefault(model, role) != role:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, one for each model, got {shorten(role)} for "
                             f"{shorten(model)} in row {number}")
        own = errors.setdefault(threat, {}).setdefault(model, {})
        if image in own:
            raise ValueError(f"image must be there once for each model, got {shorten(image)} again for "
                             f"{shorten(model)} in row {number}")
        own[image] = _number(row[3], number)
    by_role = {role: tuple(model for model, its in roles.items() if its == role) for role in ROLES}
    images = _same_images(errors, roles)
    tensors = {threat: {model: torch.tensor([own[image] for image in images], dtype=torch.double)
                        for model, own in models.items()} for threat, models in errors.items()}
    digests = {"file": file_digest(Path(table))} if isinstance(table, (str, Path)) else {}
    digests["errors"] = tensor_digest({f"{threat}/{model}": values for threat, models in tensors.items()
                                       for model, values in models.items()})
    findings = {threat: Finding(residual_of(models, by_role), margin=margin) for threat, models in tensors.items()}
    return Report(findings, by_role, tensors, images, "yours; its errors were given", digests, (
        "The errors were given. Their attacker, its budget and the images cannot be checked here: they must be the "
        "same for all models, and the images held out from their training.",))


def residual_of(errors: Mapping[str, torch.Tensor], roles: Mapping[str, Sequence[str]]):
    """The `Residual` of errors [N] of models by name, with the models of each role; see `audit_errors`."""
    subjects, baselines = roles["subject"], roles["baseline"]
    if not all(map(roles.get, ROLES)) or len(baselines) not in (1, len(subjects)):
        raise ValueError("models must be at least one subject, one that never saw the class, and one baseline, or one "
                         f"for each subject, got {', '.join(f'{role}: {len(roles[role])}' for role in ROLES)}")
    baselines = baselines * (len(subjects) // len(baselines))
    rows = [torch.stack([errors[name] for name in names]) for names in (roles["never"], subjects, baselines)]
    if len(subjects) == 1:
        return residual_knowledge(rows[0], rows[1][0], rows[2][0])
    return residual_knowledge(*rows)


def _columns(table: Any) -> Mapping[str, Sequence[Any]]:
    """The columns of a file, a data frame or a mapping."""
    if isinstance(table, (str, Path)):
        path = Path(table)
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path}")
        if path.suffix.lower() not in (".parquet", ".pq"):
            return _read_csv(path)
        try:
            import pandas
            table = pandas.read_parquet(path)
        except ImportError:
            raise ValueError(f"table must be a CSV file where pandas and pyarrow are not installed, got {path}"
                             ) from None
        except (OSError, ValueError) as error:
            raise ValueError(f"table must be a Parquet file, got {path}: {' '.join(str(error).split())}") from None
    if hasattr(table, "to_dict") and hasattr(table, "columns"):
        table = table.to_dict("list")
    if not isinstance(table, Mapping) or not all(isinstance(column, (list, tuple)) for column in table.values()):
        raise ValueError("table must be the path of a file, a data frame, or a mapping of columns to lists, got "
                         f"{shorten(table)}")
    return {str(name).strip(): column for name, column in table.items()}


def _read_csv(path: Path) -> dict[str, list[str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"table must be a CSV file in UTF-8, got {path}: {error}") from None
    header = [name.strip() for name in rows[0]] if rows else []
    if len(set(header)) < len(header):
        raise ValueError(f"table must name each column once, got {', '.join(header)}")
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(header):
            raise ValueError(f"table must have {len(header)} fields in each row, got {len(row)} in row {number}")
    return {name: [row[at] for row in rows[1:]] for at, name in enumerate(header)}


def _number(value: Any, row: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise ValueError(f"error must be a number of at most {LARGEST:g} in size, got {shorten(value)} in row {row}")
    return number


def _same_images(errors: Mapping[str, Mapping[str, Mapping[str, float]]], roles: Mapping[str, str]) -> tuple[str, ...]:
    """The images, in the order of the first model; refuse models that have others."""
    images = tuple(next(iter(next(iter(errors.values())).values()))) if errors else ()
    if len(images) < 2:
        raise ValueError(f"table must have at least two images for each model, got {len(images)}")
    for threat, models in errors.items():
        for model in roles:
            own = models.get(model, {}).keys()
            if odd := sorted(own ^ set(images)):
                raise ValueError(f"image must be the same for all models, got {shorten(odd[0])} for some, but not for "
                                 f"all, of {shorten(model)} and the others" + f" under {threat}" * (len(errors) > 1))
    return images
