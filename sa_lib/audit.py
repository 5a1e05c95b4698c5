"""An audit: how much of a class any generative model still knows, against models that never saw the class.

Three kinds of models are compared, under one attacker with one budget: the `subject`, which had to forget the class;
its `baseline`, the model before; and the controls, `never`, which never saw the class. See `sa_lib.residual`.

`audit_errors` asks only for the attacker's errors, of any model. `audit` asks for decoders, and attacks them itself;
with a loss and training images, it adds membership inference and relearning.
This module and all that it imports need PyTorch and NumPy alone.
"""

import csv
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .audit_attack import ATTACKERS, Plan, attacks, behavior, shortfall
from .audit_loss import Loss, Losses, RelearnConfig, losses, mend
from .audit_report import MENDED, ROLES, Finding, Report
from .checks import LARGEST, check_name, check_names, check_number, check_seed, check_types, shorten
from .decoders import Decoder, decoder_of, forward_slope, is_smooth
from .reconstruction import SearchConfig
from .residual import MARGIN, Residual, residual_knowledge
from .settings import with_defaults
from .store import file_digest, tensor_digest
from .threats import THREATS, AttackResult

__all__ = ["Finding", "RelearnConfig", "Report", "audit", "audit_errors", "mend", "residual_of"]

COLUMNS = ("model", "role", "image", "error")
STATES = {"as it is": "", "mended": MENDED}
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
            - `threat`, if there are several attacks: the name of the attack;
            - `state`, if there are errors of the models after mending too: "as it is" or "mended". The baseline need
              not be mended.

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
    names = [*COLUMNS, *(name for name in ("threat", "state") if name in columns)]
    if len(lengths := {len(columns[name]) for name in names}) > 1:
        raise ValueError(f"table must have columns of one length, got {', '.join(map(str, sorted(lengths)))}")
    roles: dict[str, str] = {}
    errors: dict[str, dict[str, dict[str, float]]] = {}
    for number, row in enumerate(zip(*(columns[name] for name in names)), 1):
        threat = _attack_of(dict(zip(names, row)), number)
        model, role, image = (str(value).strip() for value in row[:3])
        if role not in ROLES or roles.setdefault(model, role) != role:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, one for each model, got {shorten(role)} for "
                             f"{shorten(model)} in row {number}")
        own = errors.setdefault(threat, {}).setdefault(model, {})
        if image in own:
            raise ValueError(f"image must be there once for each model, got {shorten(image)} again for "
                             f"{shorten(model)} in row {number}")
        own[image] = _number(row[3], number)
    errors = _with_baselines(errors, roles)
    by_role = {role: tuple(model for model, its in roles.items() if its == role) for role in ROLES}
    images = _same_images(errors, roles)
    tensors = {threat: {model: torch.tensor([own[image] for image in images], dtype=torch.double)
                        for model, own in models.items()} for threat, models in errors.items()}
    digests = {"file": file_digest(Path(table))} if isinstance(table, (str, Path)) else {}
    digests["errors"] = tensor_digest({f"{threat}/{model}": values for threat, models in tensors.items()
                                       for model, values in models.items()})
    findings = {threat: Finding(residual_of(models, by_role), margin=margin) for threat, models in tensors.items()}
    return Report(findings, by_role, tensors, images, "yours; its errors were given", digests, notes=(
        "The errors were given. Their attacker, its budget and the images cannot be checked here: they must be the "
        "same for all models, and the images held out from their training.",))


@with_defaults()
def audit(subject: Any, *, baseline: Any, never: Sequence[Any], images: torch.Tensor, label: int | None = None,
          mended: tuple[Any, Sequence[Any]] | None = None, z_shape: tuple[int, ...] | int | None = None,
          y_shape: tuple[int, ...] | int | None = None,
          prior: Callable[[int, torch.Generator], torch.Tensor] | None = None,
          distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
          threats: Sequence[str] | None = None, attacker: str | None = None, search: SearchConfig = SearchConfig(),
          margin: float = MARGIN, seed: int = 0, folder: str | Path | None = None,
          progress: Callable[[str], None] | None = None, loss: Loss | None = None, seen: torch.Tensor | None = None,
          relearning: RelearnConfig | None = RelearnConfig()) -> Report:
    """Attack decoders to reproduce images of a class, and compare: rho of the subject.

    Args:
        subject: the model that had to forget the class: anything with `decode(z, y)`, or that function itself; a
            module of PyTorch in evaluation mode, or a `model.CVAE`. Without labels, `decode(z)`. It is not changed.
        baseline: the subject before it had to forget, of the same kind.
        never: models that never saw the class, at least one; about nine usually give a verdict. They should be trained
            as the subject was.
        images: floating-point [N, ...], N at least 2, of the class, held out from the training of all models, and in
            the range in which the models draw. 100 are usual.
        label: the class, a place in y; None without labels.
        mended: the subject, and all controls in their order, after the same further training on the other classes.
            Damage can hide a class, so "gone" is a verdict on both states; with None it is "gone as it is".
        z_shape: of one latent. A `CVAE` knows its own shapes.
        y_shape: of one label, as one-hot numbers; None: `decode` takes z alone. If a model takes the number of the
            class, wrap it: ``lambda z, y: model(z, y @ model.embedding.weight)``.
        prior: (count, generator) -> latents `[count, *z_shape]`; standard normal by default.
        distance: (images [R, ...], targets [R, ...]) -> [R], 0 or more; squared error by default.
        threats: names in `threats.THREATS`; by default "y on the simplex" and "y free", without labels "z in the prior"
            and "z free". Each attack starts from the answers of those with less freedom, which are made too.
        attacker: a name in `audit_attack.ATTACKERS`; by default "gauss-newton", or "adam" if there is a `distance` or
            the models have no forward-mode derivatives.
        search: the budget.
        margin: rho is as good as 0 if it is this near to it.
        folder: finished attacks are kept there, and found again. Those on a function are not, for its weights are
            hidden, nor those with a `distance`.
        progress: called with a line of text before each attack.
        loss: (model, x `[N, *image_shape]`, y `[N, *y_shape]`, generator) -> losses [N], lower for images that the
            model knows. y has the class as one-hot numbers, and is None without labels. Noise must come from the
            generator, which is on the device of x. If it is a method of your class, give ``YourClass.loss``. The model
            is a copy of yours if that is a module.
        seen: training images of the class, `[M, *image_shape]`, M at least 2, if there is a loss. The report then has
            the losses, see `audit_loss.Losses`; they do not change the verdict.
        relearning: the training of a copy of each model on `seen`; None leaves it out. It takes modules with
            parameters, and a loss with derivatives.

    Raises:
        TypeError, ValueError: an argument is not allowed, or a model cannot be called as described.
        FloatingPointError: a model's images are not finite, or its loss no longer is in the relearning.
    """
    check_types(never=(never, (list, tuple)), images=(images, torch.Tensor), search=(search, SearchConfig),
                folder=(folder, (str, Path, type(None))))
    check_number(margin=margin)
    if images.ndim < 2 or len(images) < 2 or not images.is_floating_point() or not bool(images.isfinite().all()):
        raise ValueError("images must be finite floating-point [N, ...] with at least two images, got "
                         f"{images.dtype} {list(images.shape)}")
    if not never:
        raise ValueError("never must be at least one model that never saw the class, got none")
    if (loss is None) != (seen is None):
        raise ValueError("loss and seen must both be given, or neither, got only "
                         f"{'seen' if loss is None else 'loss'}")
    as_is = {"baseline": baseline, "subject": subject} | {f"never {k}": one for k, one in enumerate(never, 1)}
    models = as_is | _mended(mended, len(never))
    decoders = {name: decoder_of(model, tuple(images.shape[1:]), z_shape, y_shape, prior, images.device, name)
                for name, model in models.items()}
    asked, chain = _threats(decoders["subject"], threats)
    attacker, notes = _attacker(decoders, distance, attacker)
    states = [end for end in STATES.values() if f"subject{end}" in models]
    count = len(models) * len(chain) + (loss is not None) * len(as_is) + 2 * len(asked) * len(states)
    plan = Plan(images.detach().float(), label, chain, attacker, distance, search, check_seed(seed),
                None if folder is None else Path(folder), _numbered(progress, count))
    digests = {name: behavior(models[name], decoder) for name, decoder in decoders.items()}
    # The losses take less time than the attacks, so a loss that does not fit is refused first.
    found, more = losses(plan, as_is, decoders, loss, seen, y_shape, relearning) if loss is not None else (None, ())
    kept = {name: digest if whole else None for name, (digest, whole) in digests.items()}
    results = {name: attacks(plan, name, decoder, kept[name]) for name, decoder in decoders.items()}
    short = {threat + end: max(shortfall(plan, name, decoders[name], kept[name], threat, results[name][threat])
                               for name in (f"subject{end}", f"never 1{end}")) for threat in asked for end in states}
    known = {name: digest for name, (digest, _) in digests.items()}
    if found is not None:
        known |= {"seen": tensor_digest({"images": seen}), "losses": found.digest}
    return _report(plan, results, short, margin, known, (*notes, *more, *_range_notes(decoders, plan.targets)),
                   found)


def _mended(mended: Any, count: int) -> dict[str, Any]:
    """The subject and the controls after mending, by name; empty without them."""
    if mended is None:
        return {}
    check_types(mended=(mended, (list, tuple)))
    if len(mended) != 2 or not isinstance(mended[1], (list, tuple)) or len(mended[1]) != count:
        raise ValueError(f"mended must be the subject and a list of the {count} controls after mending, got "
                         f"{shorten(mended)}")
    return {f"subject{MENDED}": mended[0]} | {f"never {k}{MENDED}": one for k, one in enumerate(mended[1], 1)}


def _numbered(progress: Callable[[str], None] | None, count: int) -> Callable[[str], None]:
    """The same with the number of the attack before each line."""
    done = itertools.count(1)
    return lambda line: progress(f"{next(done)} of {count}: {line}") if progress else None


def _threats(decoder: Decoder, asked: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the threat models asked for, and of all up to the last one, in their order."""
    possible = [name for name, threat in THREATS.items() if (decoder.classes or threat.y == "label")
                and (decoder.prior is None or threat.z != "prior")]
    usual = [name for name in (("y on the simplex", "y free") if decoder.classes else ("z in the prior", "z free"))
             if name in possible]
    asked = usual if asked is None else asked
    check_names(possible, threats=asked)
    if not asked:
        raise ValueError(f"threats must be at least one of {', '.join(possible)}, got none")
    asked = tuple(name for name in possible if name in asked)
    return asked, tuple(possible[:possible.index(asked[-1]) + 1])


def _attacker(decoders: Mapping[str, Decoder], distance: Any, attacker: str | None) -> tuple[str, tuple[str, ...]]:
    """The attacker's name, and a note where it is not the one of the book."""
    if len({(one.latent_dim, one.classes) for one in decoders.values()}) > 1:
        shapes = ", ".join(f"{name}: {one.latent_dim} and {one.classes}" for name, one in decoders.items())
        raise ValueError(f"models must have latents and labels of the same lengths, got {shapes}")
    if attacker is not None:
        check_name(ATTACKERS, attacker=attacker)
        if attacker == "gauss-newton" and distance is not None:
            raise ValueError("attacker must be 'adam' or 'cma' for a distance that is not the squared error, got "
                             "'gauss-newton'")
        if attacker == "gauss-newton" and any(forward_slope(one) is None for one in decoders.values()):
            raise ValueError("attacker must be 'adam' or 'cma' for models without forward-mode derivatives (jvp under "
                             "vmap), got 'gauss-newton'")
        return attacker, ()
    if distance is not None:
        return "adam", ("The distance is not the squared error, so the attacker is Adam.",)
    if all(map(is_smooth, decoders.values())):
        return "gauss-newton", ()
    return "adam", ("A model has no forward-mode derivatives, or they are 0, so the attacker is Adam.",)


def _range_notes(decoders: Mapping[str, Decoder], targets: torch.Tensor) -> tuple[str, ...]:
    """A note where the models draw in a range that is not that of the images."""
    z = decoders["baseline"].draw(64, torch.Generator().manual_seed(0)).to(decoders["baseline"].where)
    with torch.no_grad():
        drawn = decoders["baseline"].decode(z, torch.zeros(64, decoders["baseline"].classes, device=z.device))
    (low, high), (least, most) = (tuple(map(float, t.aminmax())) for t in (drawn, targets))
    if low < least - 0.25 * (most - least) or high > most + 0.25 * (most - least):
        return (f"The images have pixels from {least:.2g} to {most:.2g}, and the baseline draws from {low:.2g} to "
                f"{high:.2g}: if these are other units, the numbers mean nothing.",)
    return ()


def _report(plan: Plan, results: Mapping[str, Mapping[str, AttackResult]], short: Mapping[str, float], margin: float,
            digests: Mapping[str, str], notes: Sequence[str], found: Losses | None) -> Report:
    roles = {"baseline": ("baseline",), "subject": ("subject",),
             "never": tuple(name for name in results if name.startswith("never") and not name.endswith(MENDED))}

    def result(finding: str, model: str) -> AttackResult:
        end = MENDED if finding.endswith(MENDED) and model != "baseline" else ""
        return results[model + end][finding.removesuffix(MENDED)]

    errors = {name: {model: result(name, model).errors.detach().double().cpu()
                     for models in roles.values() for model in models} for name in short}
    variance = _variance(plan)
    findings = {name: Finding(residual_of(own, roles), short[name], margin,
                              float(torch.stack([own[model] for model in roles["never"]]).mean()) / variance)
                for name, own in errors.items()}
    if not any(name.endswith(MENDED) for name in short):
        notes = (*notes, "The models were attacked as they are. Damage can hide a class: give the subject and the "
                         "controls after a little further training on the other classes too, as `mended`; with a loss, "
                         "`mend` makes them.")
    return Report(
        findings, roles, errors, tuple(map(str, range(len(plan.targets)))), ATTACKERS[plan.attacker],
        {"images": tensor_digest({"images": plan.targets}), **digests,
         "errors": tensor_digest({f"{name}/{model}": values for name, own in errors.items()
                                  for model, values in own.items()})},
        {"label": plan.label, "threats": list(plan.threats), "attacker": plan.attacker, "seed": plan.seed,
         "distance": "squared error" if plan.distance is None else "given", "search": asdict(plan.search)},
        tuple(notes), plan.targets, {name: result(name, "subject") for name in short}, found)


def _variance(plan: Plan) -> float:
    """The mean squared distance of the images to their mean; NaN where the errors are other distances, or it is 0."""
    variance = float((plan.targets - plan.targets.mean(0)).square().flatten(1).sum(1).mean())
    return variance if variance and plan.distance is None else math.nan


def residual_of(errors: Mapping[str, torch.Tensor], roles: Mapping[str, Sequence[str]]) -> Residual:
    """The `Residual` of errors [N] by model, on the same images, with the names of the models of each role.

    Raises:
        ValueError: a role has no model, or the baselines are neither one nor one for each subject; else as
            `residual.residual_knowledge`.
    """
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


def _attack_of(row: Mapping[str, Any], number: int) -> str:
    """The name of the finding that a row belongs to."""
    state = str(row.get("state", "as it is")).strip()
    if state not in STATES:
        raise ValueError(f"state must be one of {', '.join(STATES)}, got {shorten(state)} in row {number}")
    return str(row.get("threat", ONLY)).strip() + STATES[state]


def _with_baselines(errors: Mapping[str, dict], roles: Mapping[str, str]) -> dict[str, dict]:
    """The errors by finding, those as it is before those mended, which get the baselines that they lack."""
    ordered = {}
    for threat in dict.fromkeys(name.removesuffix(MENDED) for name in errors):
        if threat not in errors:
            raise ValueError(f"state must be 'as it is' for some rows of each attack, got only 'mended' for {threat}")
        baselines = {model: own for model, own in errors[threat].items() if roles[model] == "baseline"}
        ordered[threat] = errors[threat]
        if mended := errors.get(threat + MENDED):
            ordered[threat + MENDED] = baselines | mended
    return ordered


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
