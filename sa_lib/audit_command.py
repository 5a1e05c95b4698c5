"""The command line of an audit: ``sa-audit``, also ``python -m sa_lib.audit_command``."""

import argparse
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .audit import Report, audit, audit_errors
from .audit_attack import ATTACKERS
from .checks import check_seed, check_types, check_whole, shorten
from .images import load_images
from .reconstruction import SearchConfig
from .residual import MARGIN
from .store import file_digest, text_digest, write_atomically
from .threats import THREATS

__all__ = ["main"]

TABLES = (".csv", ".parquet", ".pq")
# The files of a card that we wrote, each with all digests that it had: only these may be replaced.
OURS = "sa-audit.json"
EXAMPLES = """\
examples:
  sa-audit errors.csv                                    errors of any generator: columns model, role, image, error
  sa-audit mymodels.py:make --label 3 --images folder/   decoders that a function of yours returns
  sa-audit checkpoint.pt --label 9                       a checkpoint of the book's model or the official one

make() returns a mapping: subject, baseline, never (a list), and z_shape; if they are needed y_shape, prior, distance,
images, mended (the subject and a list of the controls), and for membership inference and relearning loss, seen and
relearning. See `sa_lib.audit.audit`.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sa-audit", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="How much of a class does a generative model still know, against models that never saw it?")
    parser.add_argument("source", help="a table of errors (.csv, .parquet), FILE.py:FUNCTION, or a checkpoint")
    parser.add_argument("--label", type=int, help="the class, from 0")
    parser.add_argument("--images", type=Path, help="images of the class: a folder, .npz, .npy or IDX file")
    parser.add_argument("--out", type=Path, default=Path("card"), help="the folder for the report (card)")
    parser.add_argument("--threats", nargs="+", metavar="NAME", help=f"among: {', '.join(THREATS)}")
    parser.add_argument("--attacker", choices=ATTACKERS, help="by default gauss-newton where it is possible")
    parser.add_argument("--targets", type=int, default=100, help="at most so many of the images (100)")
    parser.add_argument("--rounds", type=int, default=SearchConfig.rounds, help="of the attacker (%(default)s)")
    parser.add_argument("--margin", type=float, default=MARGIN, help="rho this near to 0 is as good as 0 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    own = parser.add_argument_group("for a checkpoint")
    own.add_argument("--baseline", help="the checkpoint before it had to forget")
    own.add_argument("--never", nargs="+", metavar="FILE",
                     help="checkpoints that never saw the class, or the address of an archive of controls")
    own.add_argument("--dataset", default="mnist", help="for images, and for training what is not given (mnist)")
    own.add_argument("--mend", action="store_true",
                     help="attack subject and controls after further training on the other classes too")
    own.add_argument("--controls", type=int, default=3, help="so many controls are trained if none are given (3)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one audit.

    Returns:
        0 if there is a report; 2 if there was an error; 130 if it was interrupted.
    """
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # not every terminal has a ρ
    started = time.perf_counter()

    def progress(line: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    try:
        _check_free(options.out)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, about its own code
            report = _report(options, progress)
        page = _write(options.out, report)
    except (OSError, TypeError, ValueError, FloatingPointError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; started again, it goes on from the attacks that are finished", file=sys.stderr)
        return 130
    for threat, finding in report.findings.items():
        print(f"{threat}: ρ = {finding.residual}: {finding.verdict}")
    for sentence in report.losses.sentences if report.losses else ():
        print(sentence)
    print(f"{report.sentence}\n{page}")
    return 0


def _report(options: argparse.Namespace, progress: Callable[[str], None]) -> Report:
    path, colon, function = options.source.rpartition(":")
    if Path(options.source).suffix.lower() in TABLES:
        return audit_errors(options.source, options.margin)
    shared = {"threats": options.threats, "attacker": options.attacker,
              "search": SearchConfig(rounds=options.rounds), "margin": options.margin, "seed": options.seed,
              "folder": options.out / "attacks", "progress": progress}
    if colon and path.endswith(".py"):
        made = _made(Path(path), function)
        if "images" not in made:
            if options.images is None:
                raise ValueError("--images must name the images of the class where the function returns none, got none")
            made["images"] = load_images(options.images, options.label)
        label = options.label if made.get("y_shape") else None  # without labels it only chooses the images
        images = _sample(made.pop("images"), options)
        return audit(made.pop("subject"), images=images, label=label, **made, **shared)
    return _of_checkpoint(options, shared, progress)


def _sample(images: torch.Tensor, options: argparse.Namespace) -> torch.Tensor:
    """Some of the images, drawn at random: the first ones are often of one person or scene."""
    check_whole(**{"--targets": options.targets})
    check_types(images=(images, torch.Tensor))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(check_seed(options.seed)))
    return images[order[:options.targets].sort().values]


def _made(path: Path, function: str) -> dict[str, Any]:
    """The mapping that a reader's own function returns."""
    needed = {"subject", "baseline", "never", "z_shape"}
    possible = {"y_shape", "prior", "distance", "images", "mended", "loss", "seen", "relearning"}
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    sys.path.insert(0, str(path.parent.absolute()))  # it may import its neighbors, in decode and loss too
    name = f"sa_audit_{path.stem}"  # never that of a module of ours or of a package
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look for it there
        spec.loader.exec_module(module)
        made = getattr(module, function)()
    except Exception as error:  # a reader's code can fail in any way
        raise ValueError(f"{path}:{function} must return the models, got a {type(error).__name__}: "
                         f"{shorten(' '.join(str(error).split()))}") from error
    if not isinstance(made, Mapping) or not needed <= made.keys() <= needed | possible:
        names = list(made) if isinstance(made, Mapping) else made
        raise ValueError(f"{path}:{function} must return a mapping with {', '.join(sorted(needed))}, and possibly "
                         f"{', '.join(sorted(possible))}, got {shorten(names)}")
    return dict(made)


def _of_checkpoint(options: argparse.Namespace, shared: Mapping[str, Any], progress: Callable[[str], None]) -> Report:
    """The audit of a CVAE in a checkpoint; models and images that are not given are those of the book."""
    from . import controls, data, experiment, trained
    from .checkpoints import read_model

    if options.label is None:
        raise ValueError("--label must be the class that a checkpoint had to forget, got none")
    subject = read_model(options.source)

    def training(name: str) -> None:
        progress(f"training {name}, if it is not in the store: about three minutes on two CPU cores")

    baseline, origin = (read_model(options.baseline), "") if options.baseline else (None, "was trained here")
    never = options.never or []
    if len(never) == 1 and "#sha256=" in never[0]:
        packed, never = controls.read(never[0], options.label, "--never")
        if baseline is None:
            baseline, origin = packed, "came with the controls"
    else:
        never = [read_model(path) for path in never]
    whole = baseline and never and options.images and not options.mend
    if not whole:
        run = experiment.validate(model=options.source, dataset=options.dataset, seed=options.seed,
                                  forget=options.label, run_dir=options.out)
        dataset = data.load(run.dataset)
    if baseline is None:
        training("a baseline")
        baseline = run.baseline(dataset).net
    for seed in range(options.seed, options.seed + (0 if never else options.controls)):
        training(f"a model that never saw {options.label}, seed {seed}")
        never.append(run.never_saw(dataset, options.label, seed).net)
    if options.images:
        images = _sample(load_images(options.images, options.label), options)
    else:
        images = data.held_out(dataset, options.label, options.targets, options.seed)
    subject, baseline, *never = map(trained.given, (subject, baseline, *never))
    mended = None
    if options.mend:
        first, *others = (run.mended(dataset, model, options.label).net for model in (subject, *never))
        mended = first, others
    report = audit(subject.net, baseline=baseline.net, never=[model.net for model in never], images=images,
                   label=options.label, mended=mended, **shared)
    if not origin:
        return report
    note = (f"The baseline {origin}: it is not the model from which this one was made, so a ρ of 1 stands for what "
            "another model knows. --baseline takes your own.")
    return replace(report, notes=(*report.notes, note))


def _check_free(folder: Path) -> None:
    """Refuse a folder in which a file would be overwritten that we did not write, or that was changed since."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder, got the file {folder}")
    ours = _ours(folder)
    for name in ("index.html", "report.json", "attack.npz", OURS):
        path = folder / name
        if path.exists() and (not ours if name == OURS else file_digest(path) not in ours.get(name, ())):
            raise ValueError(f"--out must be a folder without files of others, got {path}, which sa-audit did not "
                             "write or which was changed since")


def _ours(folder: Path) -> dict[str, list[str]]:
    """File -> the digests of all that we wrote there; empty if we wrote nothing."""
    with suppress(OSError, ValueError):
        ours = json.loads((folder / OURS).read_text(encoding="utf-8"))
        if isinstance(ours, dict) and all(isinstance(value, list) for value in ours.values()):
            return ours
    return {}


def _write(folder: Path, report: Report) -> Path:
    """Write the files of a card, each whole or not at all; return the path of its page."""
    texts = {"index.html": report.to_html(), "report.json": report.to_json() + "\n"}
    digests = {name: text_digest(text) for name, text in texts.items()}
    temporary = folder / ".attack.npz"
    if report.answers:
        report.save_inputs(temporary)
        digests["attack.npz"] = file_digest(temporary)
    ours = _ours(folder)
    # The digests come first, so that a file of ours is known as such also if we are killed behind it.
    with write_atomically(folder / OURS) as path:
        named = ours | {name: [*ours.get(name, ()), digest] for name, digest in digests.items()}
        path.write_text(json.dumps(named, indent=1), encoding="utf-8")
    for name, text in texts.items():
        with write_atomically(folder / name) as path:
            path.write_text(text, encoding="utf-8", newline="\n")
    if report.answers:
        temporary.replace(folder / "attack.npz")
    elif (folder / "attack.npz").exists():
        (folder / "attack.npz").unlink()  # of an earlier audit
    return folder / "index.html"


if __name__ == "__main__":
    sys.exit(main())
