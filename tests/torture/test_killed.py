"""A run and a sweep that are killed at any moment: started again, they end as if nothing had been."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from runs import SMOKE, book_run, copied, ended, numbers, started
from sa_lib import store

pytestmark = [pytest.mark.torture,
              pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the kernels are found by /proc")]
READERS = {".safetensors": store.load, ".part": store.load, ".json": lambda path: json.loads(path.read_text()),
           ".ipynb": lambda path: nbformat.validate(nbformat.read(path, 4)), ".csv": pd.read_csv,
           ".parquet": pd.read_parquet, ".txt": lambda path: path.read_text(), ".bin": lambda path: path.read_bytes()}


def living(run):
    """Processes that use this run's store: the one that was started, and its kernels and workers."""
    mark, found = f"\0SA_CACHE={run.cache}\0".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in b"\0" + (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def kill(process, run, kernels_too):
    """Kill it as a power cut would, or the process alone, whose kernels then end by themselves."""
    deadline = time.monotonic() + 120
    for pid in living(run) if kernels_too else [process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    while left := living(run):
        assert time.monotonic() < deadline, f"{left} live on"
        if kernels_too:
            for pid in left:  # begun while the others were killed
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def assert_readable(run):
    """Every file under its final name is whole."""
    for folder in (run.cache, run.root / "runs"):
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                READERS[path.suffix](path)


def killed_again_and_again(run, command, kills, longest, both_ways, chance):
    """Kill the command that often, within `longest` seconds of its start, then let it end."""
    done = 0
    while done < kills:
        process = started(run, command)
        try:
            assert process.wait(chance.uniform(0, longest)) == 0, (run.root / "log").read_text()[-3000:]
            for folder in (run.cache, run.root / "runs"):
                shutil.rmtree(folder)  # it was there before it could be killed
        except subprocess.TimeoutExpired:
            kill(process, run, not both_ways or chance.random() < 0.5)
            done += 1
            if (run.root / "runs").is_dir():
                assert_readable(run)
    ended(run, command)
    assert_readable(run)
    assert not list(run.root.rglob("*.failed.ipynb")) and not living(run)


def impatient(module, seconds):
    """The copy's processes wait that long for one that shows no sign of life, not the 15 s of the library."""
    text = module.read_text()
    assert text.count("PATIENCE = 1.0, 15.0") == 1
    module.write_text(text.replace("PATIENCE = 1.0, 15.0", f"PATIENCE = 1.0, {seconds}"))


@pytest.fixture
def chance():
    """A random generator, whose seed is printed where a test fails."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed={seed}")
    return random.Random(seed)


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(undisturbed, tmp_path, chance, amount, tally):
    run, kills = copied(tmp_path, undisturbed.chapters), amount(3, 25)
    impatient(run.root / "sa_lib" / "store.py", amount("3.0", "15.0"))
    killed_again_and_again(run, book_run(run), kills, undisturbed.seconds / amount(1, 4), True, chance)
    assert numbers(run.folder) == numbers(undisturbed.folder)
    tally["kills survived by a run"] += kills


def test_a_sweep_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path, chance, amount, tally):
    if not (kills := amount(0, 15)):
        pytest.skip("a sweep is killed in the long form alone")
    chapters = ["01_baseline"]
    alone, run = (copied(tmp_path / name, chapters) for name in ("alone", "killed"))
    command = [sys.executable, "-m", "sa_lib.sweep", "--chapter", *chapters, "--grid", "seed=0:3", *SMOKE,
               "--name", "mine", "--workers", "2"]
    alone = ended(alone, command)
    killed_again_and_again(run, command, kills, alone.seconds, False, chance)
    assert len(numbers(alone.folder)) == 3 and numbers(run.folder) == numbers(alone.folder)
    table, other = (untimed_table(each.folder) for each in (run, alone))
    pd.testing.assert_frame_equal(table, other)
    tally["kills survived by a sweep"] += kills


def untimed_table(folder):
    table = pd.read_parquet(folder / "table.parquet")
    return table.drop(columns=[name for name in table if "seconds" in name])
