"""A run or a sweep that was killed at any moment, and is started again, ends with the same numbers."""

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
              pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the kernels are found through /proc")]
READERS = {".safetensors": store.load, ".part": store.load, ".json": lambda path: json.loads(path.read_text()),
           ".ipynb": lambda path: nbformat.validate(nbformat.read(path, 4)), ".csv": pd.read_csv,
           ".parquet": pd.read_parquet, ".txt": lambda path: path.read_text(), ".bin": lambda path: path.read_bytes()}


def living(run):
    """The processes that use the store of this run: the started process, its kernels and its workers."""
    mark, pids = f"\0SA_CACHE={run.cache}\0".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in b"\0" + (process / "environ").read_bytes():
                pids.append(int(process.name))
    return pids


def kill(process, run, kernels_too):
    """Kill the process and its kernels, as a power cut would, or the process alone; its kernels must then end."""
    deadline = time.monotonic() + 120
    for pid in living(run) if kernels_too else [process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    while left := living(run):
        assert time.monotonic() < deadline, f"{left} are still running"
        if kernels_too:
            for pid in left:  # started while the others were killed
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def assert_readable(run):
    """Assert that every file with a final name is whole."""
    for folder in (run.cache, run.root / "runs"):
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                READERS[path.suffix](path)


def killed_again_and_again(run, command, kills, longest, both_ways, chance):
    """Kill the command `kills` times, each time within `longest` seconds of its start, then let it end."""
    done = 0
    while done < kills:
        process, began = started(run, command), time.monotonic()
        try:
            assert process.wait(chance.uniform(0, longest)) == 0, (run.root / "log").read_text()[-3000:]
            for folder in (run.cache, run.root / "runs"):
                shutil.rmtree(folder)  # it ended before it could be killed
            longest = min(longest, time.monotonic() - began)  # the machine may have got less to do
        except subprocess.TimeoutExpired:
            kill(process, run, not both_ways or chance.random() < 0.5)
            done += 1
            if (run.root / "runs").is_dir():
                assert_readable(run)
    ended(run, command)
    assert_readable(run)
    assert list(run.root.rglob("*.failed.ipynb")) == []
    assert living(run) == []


def impatient(module, seconds):
    """Let the processes of the copy wait `seconds` for a process without a sign of life, instead of 15 s."""
    text = module.read_text()
    assert text.count("PATIENCE = 1.0, 15.0") == 1
    module.write_text(text.replace("PATIENCE = 1.0, 15.0", f"PATIENCE = 1.0, {seconds}"))


@pytest.fixture
def chance():
    """A random generator; pytest prints its seed if the test fails."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed={seed}")
    return random.Random(seed)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_numbers(undisturbed, tmp_path, chance, amount, tally):
    run, kills = copied(tmp_path, undisturbed.chapters), amount(2, 25)
    impatient(run.root / "sa_lib" / "store" / "artifacts.py", amount("3.0", "15.0"))
    killed_again_and_again(run, book_run(run), kills, undisturbed.seconds / amount(1, 4), True, chance)
    assert numbers(run.folder) == numbers(undisturbed.folder)
    tally["kills survived by a run"] += kills


def test_a_sweep_that_is_killed_again_and_again_ends_with_the_same_numbers(tmp_path, chance, amount, tally):
    if not (kills := amount(0, 15)):
        pytest.skip("only the long form kills a sweep")
    chapters = ["01_baseline"]
    alone, run = (copied(tmp_path / name, chapters) for name in ("alone", "killed"))
    command = [sys.executable, "-m", "sa_lib.book", "sweep", "--chapter", *chapters, "--grid", "seed=0:3", *SMOKE,
               "--name", "mine", "--workers", "2"]
    alone = ended(alone, command)
    killed_again_and_again(run, command, kills, alone.seconds, False, chance)
    assert len(numbers(alone.folder)) == 3
    assert numbers(run.folder) == numbers(alone.folder)
    table, other = (untimed_table(each.folder) for each in (run, alone))
    pd.testing.assert_frame_equal(table, other)
    tally["kills survived by a sweep"] += kills


def untimed_table(folder):
    table = pd.read_parquet(folder / "table.parquet")
    return table.drop(columns=[name for name in table if "seconds" in name])
