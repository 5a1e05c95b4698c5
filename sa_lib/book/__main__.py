"""The book's command line: ``python -m sa_lib.book VERB``, also installed as ``sa-book VERB``.

A verb imports what it alone needs: `make book` with nothing to do is mostly imports.
"""

import argparse
import base64
import datetime
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import claims
from ..checks import shorten
from ..store import expanded, write_atomically
from . import execution, notebooks, run
from .notebooks import BookError

__all__ = ["main"]


def value(text: str) -> Any:
    """A parameter from the command line: JSON if it is valid JSON, text otherwise.

    Raises:
        BookError: its bytes are no text in the encoding of the terminal.
    """
    try:
        text.encode()
        return json.loads(text)
    except UnicodeEncodeError:
        raise BookError(f"-p must be text in the encoding of the terminal, got {shorten(text)}") from None
    except (ValueError, RecursionError):
        return text


def _once(pairs: Iterable[tuple[str, Any]], option: str) -> dict[str, Any]:
    """Pairs as a mapping; nothing that was asked for is dropped in silence."""
    values: dict[str, Any] = {}
    for name, given in pairs:
        if name in values:
            raise BookError(f"{option} must name each parameter once, got {name} twice")
        values[name] = given
    return values


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    return _once(((name, value(text)) for name, text in options.p), "-p")


def _absolute_environment() -> None:
    """Resolve the paths in the environment here: kernels and workers run in other folders."""
    for name in ("SA_CACHE", "SA_DATA"):
        if os.environ.get(name):
            os.environ[name] = str(expanded(os.environ[name]).absolute())
    if (archive := os.environ.get("SA_MODELS")) and "://" not in archive:
        os.environ["SA_MODELS"] = str(expanded(archive).absolute())


def _open_streams() -> None:
    """Open the standard streams that the shell has closed (>&-): a kernel would take their numbers for its sockets.

    What a terminal cannot show becomes a question mark.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open takes the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # not every terminal has a ρ


def _sync(options: argparse.Namespace) -> int:
    differing = notebooks.sync(Path.cwd(), options.check)
    print("\n".join(f"{name}: .ipynb {'differs from' if options.check else 'made from'} .py"
                    for name in differing) or "all pairs agree")
    return int(options.check and bool(differing))


def _run(options: argparse.Namespace) -> int:
    run.run(Path.cwd(), _run_dir(options.run), _parameters(options), options.chapters, options.scheduler)
    return 0


def _render(options: argparse.Namespace) -> int:
    from . import site
    print(site.render(Path.cwd(), _run_dir(options.run)))
    return 0


def _check(options: argparse.Namespace) -> int:
    failed = claims.check(options.run_dir)
    if failed:
        print(f"does not hold: {'; '.join(failed)}")
    return int(bool(failed))


def _sweep(options: argparse.Namespace) -> int:
    from . import sweep
    if options.workers is not None and options.workers < 1:
        raise BookError(f"workers must be a whole number from 1, got {options.workers}")
    root, out = Path.cwd(), _run_dir(options.chapter if options.name is None else options.name)
    notebooks.sync(root)
    grid = _once(map(sweep.read_grid, options.grid), "--grid")
    cells = sweep.cells(root, options.chapter, grid, _parameters(options))
    table = sweep.sweep(root, root / out, options.chapter, cells, options.scheduler, options.workers)
    for name, error in table.loc[table["error"] != "", "error"].items():
        print(f"{name}: {error}", file=sys.stderr)
    print(f"{(table['error'] == '').sum()} of {len(table)} cells are there: {root / out / 'table.csv'}")
    return int((table["error"] != "").any())


def _evidence(options: argparse.Namespace) -> int:
    from . import evidence, probing, recipe, trials, validation
    if options.what == "make":
        others = ("validation", "probes", "recipe", *trials.TABLES)
        names = options.sweeps or [*evidence.SWEEPS, *others]
        if "validation" in names:
            validation.make(options.scheduler)
        if "probes" in names:
            probing.make(options.scheduler)
        if "recipe" in names:
            recipe.make()
        for table in filter(trials.TABLES.get, names):
            trials.make(Path.cwd(), table, options.seeds, options.scheduler)
        sweeps = [name for name in names if name not in others]
        return int(bool(sweeps) and evidence.make(Path.cwd(), sweeps, options.seeds, options.scheduler) > 0)
    day = datetime.date.today().toordinal()
    differing = (trials if day % 3 else validation).check_today()
    if differing:
        print(f"differs: {'; '.join(differing)}")
    return int(bool(differing))


def _models(options: argparse.Namespace) -> int:
    print(f"SA_MODELS={run.models(Path.cwd(), _run_dir(options.run))}")
    return 0


def _controls(options: argparse.Namespace) -> int:
    from . import controls
    print("\n".join(controls.make(Path.cwd(), options.seeds, options.scheduler)))
    return 0


def _picture(options: argparse.Namespace) -> int:
    from . import chapter_pages
    figures = chapter_pages.figures(execution.read(options.notebook))
    if not figures:
        raise BookError(f"notebook must be an executed chapter with figures, got {options.notebook}")
    if not 1 <= options.number <= len(figures):
        raise BookError(f"number must be 1 to {len(figures)}, the figures of {options.notebook}, got {options.number}")
    with write_atomically(options.target) as temporary:
        temporary.write_bytes(base64.b64decode(figures[options.number - 1].data["image/png"]))
    return 0


def _adopt(options: argparse.Namespace) -> int:
    print(f"{notebooks.adopt(Path.cwd(), options.name)}: it now has the cells of its .ipynb")
    return 0


def _strip(options: argparse.Namespace) -> int:
    from . import teaching
    print(f"{teaching.strip(Path.cwd())}: the chapters without solutions")
    return 0


def _slides(options: argparse.Namespace) -> int:
    from . import teaching
    print(f"{teaching.slides(Path.cwd(), _run_dir(options.run))}: one file of slides for each chapter; "
          "a browser needs a network to show them as slides")
    return 0


def _new_chapter(options: argparse.Namespace) -> int:
    print(f"{notebooks.new_chapter(Path.cwd(), options.name)}: a chapter that works; make it yours, then make run")
    return 0


def _repo(options: argparse.Namespace) -> int:
    notebooks.set_repository(Path.cwd(), options.url)
    return 0


def _run_dir(name: str) -> Path:
    if not re.fullmatch(run.RUN_NAME, name):
        raise BookError(f"RUN must be of letters, digits, '.', '-' and '_', got {shorten(name)}")
    return Path("runs", name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sa-book", description="Make the book: run its chapters, render its site.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name, function, text):
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        return added

    parameter = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    name = {"required": True, "metavar": "NAME", "help": "the folder in runs/"}
    scheduler = {"help": "tcp://...: a running cluster of dask.distributed"}
    sync = verb("sync", _sync, "derive every .ipynb from its .py")
    sync.add_argument("--check", action="store_true", help="only list the pairs that differ, and fail if any does")
    execute = verb("run", _run, "execute the chapters that the run lacks")
    execute.add_argument("--run", **name)
    execute.add_argument("-p", **parameter, help="a chapter's parameter; may be repeated")
    execute.add_argument("--chapters", nargs="*", default=[], help="only these")
    execute.add_argument("--scheduler", **scheduler)
    verb("render", _render, "make the site of a run").add_argument("--run", **name)
    check = verb("check", _check, "hold a run's numbers to the book's claims")
    check.add_argument("run_dir", type=Path, help="a folder in runs/")
    grid = verb("sweep", _sweep, "run a chapter over a grid of parameters")
    grid.add_argument("--chapter", required=True, help="such as 07_methods")
    grid.add_argument("--grid", action="append", default=[], metavar="NAME=VALUES",
                      help="0:10, or values separated by commas; again for another parameter")
    grid.add_argument("-p", **parameter, help="a parameter that all cells share; may be repeated")
    grid.add_argument("--name", help="the sweep's folder in runs/; by default the chapter's name")
    grid.add_argument("--scheduler", **scheduler)
    grid.add_argument("--workers", type=int, help="workers on this machine; by default one a core")
    results = verb("evidence", _evidence, "make the committed results again, or check one cell of them")
    results.add_argument("what", choices=("make", "check"))
    results.add_argument("--sweeps", nargs="+", help="only these, validation, probes, recipe, trials, methods, "
                         "convolutional or sequential; all by default")
    results.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    results.add_argument("--scheduler", **scheduler)
    verb("models", _models, "pack the trained models of a run into one file").add_argument("--run", **name)
    given = verb("controls", _controls, "train and pack models that never saw a class, for each class")
    given.add_argument("--seeds", type=int, default=9, help="so many for each class (9)")
    given.add_argument("--scheduler", **scheduler)
    picture = verb("picture", _picture, "save one figure of an executed chapter, as for the README")
    picture.add_argument("notebook", type=Path)
    picture.add_argument("number", type=int, help="of the figure, from 1")
    picture.add_argument("target", type=Path, help="the PNG file to write")
    verb("strip", _strip, "write the chapters without solutions to _build/strip, for a course")
    verb("slides", _slides, "write slides of an executed run to _build/slides").add_argument("--run", **name)
    verb("adopt", _adopt, "bring edits of a chapter's .ipynb over to its .py").add_argument("name")
    verb("new-chapter", _new_chapter, "begin a chapter").add_argument("name")
    verb("repo", _repo, "set the repository's address").add_argument("url")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 if all is well; 1 if a check or a cell of a sweep failed; 2 if there was an error; 130 if it was interrupted.
    """
    _open_streams()
    options = _parser().parse_args(arguments)
    _absolute_environment()
    try:
        return options.function(options)
    except (BookError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; started again, it does what is missing", file=sys.stderr, flush=True)
        os._exit(130)  # a chapter's thread waits for its kernel, which ends with this process


if __name__ == "__main__":
    sys.exit(main())
