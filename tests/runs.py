"""Runs of chapters for the tests: in a copy of the checkout, with a store of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
SMOKE = ("-p", "profile", "smoke", "-p", "dataset", "digits")
# Metrics that depend on the clock, besides those with "seconds" in their name: chapter 7 ranks methods by time too.
TIMED = {"fisher_ratio", "ranks", "best", "worst"}


class Run(NamedTuple):
    """A copy of the checkout, its store, the chapters to run in it, and the seconds that the run took."""

    root: Path
    cache: Path
    chapters: Sequence[str]
    seconds: float = 0.0

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "mine"


def copied(folder: Path, chapters: Sequence[str]) -> Run:
    """A copy of the files that a run needs, in `folder`, with an empty store."""
    for name in ("notebooks", "sa_lib"):
        shutil.copytree(PROJECT / name, folder / "root" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder / "root")  # it has the repository's address, for links to Colab
    return Run(folder / "root", folder / "cache", chapters)


def book_run(run: Run) -> list[str]:
    """The command that runs the chapters of `run`."""
    return [sys.executable, "-m", "sa_lib.book", "run", "--run", "mine", *SMOKE, "--chapters", *run.chapters]


def started(run: Run, command: Sequence[str], **environment: str) -> subprocess.Popen:
    """Start the command in a session of its own; its output goes into the file ``log``."""
    variables = {key: value for key, value in os.environ.items() if key != "SA_MODELS"}
    variables |= {"SA_CACHE": str(run.cache), "PYTHONPATH": str(run.root), "OMP_NUM_THREADS": "1", **environment}
    with open(run.root / "log", "ab") as log:
        return subprocess.Popen(command, cwd=run.root, env=variables, stdout=log, stderr=log, start_new_session=True)


def ended(run: Run, command: Sequence[str], **environment: str) -> Run:
    """Run the command to its end, which must be a success; the result has the seconds that it took."""
    start = time.monotonic()
    process = started(run, command, **environment)
    assert process.wait(7200) == 0, (run.root / "log").read_text(errors="replace")[-3000:]
    return run._replace(seconds=time.monotonic() - start)


def untimed(value: Any) -> Any:
    """Metrics without those that depend on the clock."""
    if isinstance(value, dict):
        return {key: untimed(entry) for key, entry in value.items() if "seconds" not in key and key not in TIMED}
    return [untimed(entry) for entry in value] if isinstance(value, list) else value


def numbers(folder: Path) -> dict[str, Any]:
    """The metrics in the folder of a run, by chapter, without those that depend on the clock."""
    metrics = {path.parent.name: untimed(json.loads(path.read_text())) for path in folder.glob("*/metrics.json")}
    assert metrics
    assert all(metrics.values())
    return metrics
