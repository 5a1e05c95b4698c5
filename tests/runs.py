"""Runs of chapters for the tests: in a copy of the checkout, with a store of their own."""

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
# What depends on the clock besides seconds: chapter 7 ranks methods by them too.
TIMED = {"fisher_ratio", "ranks", "best", "worst"}


class Run(NamedTuple):
    """A copy of the checkout, its store, the chapters that were run in it, and the seconds that this took."""

    root: Path
    cache: Path
    chapters: Sequence[str]
    seconds: float = 0.0

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "mine"


def copied(folder: Path, chapters: Sequence[str]) -> Run:
    """What a run needs of the checkout, in a folder of its own, and an empty store."""
    for name in ("notebooks", "sa_lib", "results"):
        shutil.copytree(PROJECT / name, folder / "root" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Run(folder / "root", folder / "cache", chapters)


def book_run(run: Run) -> list[str]:
    """The command that runs its chapters."""
    return [sys.executable, "-m", "sa_lib.book", "run", "--run", "mine", *SMOKE, "--chapters", *run.chapters]


def started(run: Run, command: Sequence[str], **environment: str) -> subprocess.Popen:
    """The command, begun in a session of its own; what it says goes into the file ``log``."""
    given = {key: value for key, value in os.environ.items() if key != "SA_MODELS"}
    given |= {"SA_CACHE": str(run.cache), "PYTHONPATH": str(run.root), "OMP_NUM_THREADS": "1", **environment}
    with open(run.root / "log", "ab") as log:
        return subprocess.Popen(command, cwd=run.root, env=given, stdout=log, stderr=log, start_new_session=True)


def ended(run: Run, command: Sequence[str], **environment: str) -> Run:
    """The command, left alone until it ends well."""
    begun = time.monotonic()
    process = started(run, command, **environment)
    assert process.wait(7200) == 0, (run.root / "log").read_text(errors="replace")[-3000:]
    return run._replace(seconds=time.monotonic() - begun)


def untimed(value: Any) -> Any:
    """Metrics without what the clock had a part in."""
    if isinstance(value, dict):
        return {key: untimed(entry) for key, entry in value.items() if "seconds" not in key and key not in TIMED}
    return [untimed(entry) for entry in value] if isinstance(value, list) else value


def numbers(folder: Path) -> dict[str, Any]:
    """The metrics in a folder by what left them, without what the clock had a part in."""
    found = {path.parent.name: untimed(json.loads(path.read_text())) for path in folder.glob("*/metrics.json")}
    assert found and all(found.values())
    return found
