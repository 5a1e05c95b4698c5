"""Run the chapters: each is executed into ``runs/<name>/`` unless an up-to-date result is there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import papermill

from ..store import pack, write_atomically
from .execution import executed, read, stamp
from .notebooks import BookError, chapters, sync

__all__ = ["RUN_NAME", "models", "run"]

RUN_NAME = r"\w[\w.-]*"  # such a name cannot lead out of runs/


def run(root: Path, run_dir: Path, parameters: Mapping[str, Any], only: Sequence[str] = (),
        scheduler: str | None = None) -> None:
    """Execute the chapters that this run still lacks, each with the parameters that it declares.

    Models that several chapters need, or one needs several of, are made side by side first, see `plan`. A chapter
    is done if its metrics and its executed notebook exist and the notebook was made from the same source,
    parameters, library and versions.

    Args:
        run_dir: relative to `root`. The chapters are executed in `root`, so
            no path of this machine appears on a page.
        parameters: name -> JSON value, for the cell tagged ``parameters``.
        only: names of the chapters to run; all by default.
        scheduler: the address of a cluster whose workers see `root` and the store; by default the cores of this
            machine work.

    Raises:
        BookError: a chapter failed, a parameter belongs to no chapter, or a name in `only` is not a chapter's.
    """
    sync(root)
    names = chapters(root)
    if unknown := set(only) - set(names):
        raise BookError(f"there is no chapter {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    sources = {name: root / "notebooks" / f"{name}.ipynb" for name in names}
    declared = {name: papermill.inspect_notebook(path) for name, path in sources.items()}
    if unknown := set(parameters).difference(*declared.values()):
        raise BookError(f"no chapter has a parameter {', '.join(sorted(unknown))}; "
                        f"there are {', '.join(sorted(set().union(*declared.values())))}")
    (root / run_dir).mkdir(parents=True, exist_ok=True)
    with write_atomically(root / run_dir / "run.json") as temporary:
        temporary.write_text(json.dumps({"parameters": dict(parameters)}, indent=1, sort_keys=True) + "\n")
    missing = {}
    for name in only or names:
        values = {key: value for key, value in parameters.items() if key in declared[name]}
        values["run_dir"] = run_dir.as_posix()
        origin = {"stamp": stamp(sources[name], values), "parameters": values}
        target = root / run_dir / f"{name}.ipynb"
        if (read(target).metadata.get("sa_lib", {}).get("stamp") == origin["stamp"]
                and (root / run_dir / name / "metrics.json").is_file()):
            print(f"{name}: already done", flush=True)
        else:
            missing[name] = origin
    if missing:
        from .making import work  # here, as it imports dask, which a run that is up to date can do without
        work(root, run_dir, missing, declared, scheduler)


def models(root: Path, run_dir: Path) -> str:
    """Pack the trained models that the chapters of a run asked for into ``_build/models-<run>.zip``.

    Returns:
        the archive's address for ``SA_MODELS``: its path and digest.

    Raises:
        BookError: the run lacks a chapter, or the store lacks a model.
    """
    try:
        names = {line for name in executed(root, root / run_dir)
                 for line in (root / run_dir / name / "models.txt").read_text().splitlines()}
        return pack(names, root / "_build" / f"models-{run_dir.name}.zip")
    except (FileNotFoundError, ValueError) as error:
        raise BookError(f"the models of {run_dir} cannot be packed: {error}; SA_CACHE must name the store that "
                        "the run was made with") from None
