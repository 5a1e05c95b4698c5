"""Sweeps: every cell runs once, even if cells fail or machines die, here or on a cluster."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pandas as pd
import pytest

from runs import PROJECT
from sa_lib import data, trained
from sa_lib.book import cluster, notebooks, sweep
from sa_lib.book.__main__ import main
from sa_lib.book.notebooks import BookError
from sa_lib.model import ModelConfig
from sa_lib.training import TrainingConfig

CHAPTER = '''\
# %% tags=["parameters"]
forget = 9
seed = 0
slow = 0.0
run_dir = ""

# %%
import os
import time
import torch
from sa_lib import chapter, data, experiment, trained
from sa_lib.model import ModelConfig
from sa_lib.training import TrainingConfig
run = experiment.validate(forget=forget, seed=seed, run_dir=run_dir)
if forget == 7:
    raise ValueError("seven is not allowed")
time.sleep(slow)
small = ModelConfig(latent_dim=2, hidden=(16, 8))
base = trained.cvae(data.load("digits"), small, TrainingConfig(epochs=2), seed)
chapter.write_metrics(run.run_dir, "01_tiny", {
    "parameters": {"forget": forget, "seed": seed}, "digest": base.digest,
    "loss": {"last": base.log["loss"].iloc[-1], "all": base.log["loss"].tolist()},
    "threads": torch.get_num_threads(), "trims": "MALLOC_TRIM_THRESHOLD_" in os.environ})
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "01_tiny.py").write_text(CHAPTER)
    shutil.copy(PROJECT / "pyproject.toml", root)
    notebooks.sync(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("SA_CACHE", str(tmp_path / "cache"))
    return root


def metrics(root, name):
    return {path.parent.name: json.loads(path.read_text())
            for path in (root / "runs" / name).glob("*/metrics.json")}


@pytest.mark.parametrize("text, expected", [
    ("forget=0:3", ("forget", [0, 1, 2])), ("forget=3,[9,2]", ("forget", [3, [9, 2]])),
    ("seed=7", ("seed", [7])), ("dataset=mnist,fashion", ("dataset", ["mnist", "fashion"]))])
def test_a_grid_is_read(text, expected):
    assert sweep.read_grid(text) == expected


@pytest.mark.parametrize("text", ["", "forget", "forget=", "=0:3", "forget=3:3", "a b=1"])
def test_a_text_that_is_not_a_grid_is_named(text):
    with pytest.raises(BookError, match=re.escape(repr(text))):
        sweep.read_grid(text)


@pytest.mark.parametrize("grid, shared, message", [
    ({"color": [1]}, {}, "'color'"), ({"forget": [1]}, {"forget": 2}, "'forget'"),
    ({"run_dir": ["x"]}, {}, "'run_dir'"), ({"forget": [1, 1]}, {}, "name of its own")])
def test_a_grid_that_the_chapter_does_not_have_is_refused(project, grid, shared, message):
    with pytest.raises(BookError, match=message):
        sweep.cells(project, "01_tiny", grid, shared)


def test_neighbours_share_no_parameter(project):
    cells = sweep.cells(project, "01_tiny", {"forget": list(range(10)), "seed": list(range(5))}, {})
    assert len({cell.name for cell in cells}) == 50
    apart = [a.parameters["seed"] != b.parameters["seed"] and a.parameters["forget"] != b.parameters["forget"]
             for a, b in pairwise(cells)]
    assert sum(apart) >= 0.9 * len(apart)


def test_a_failed_cell_stops_no_other_and_is_the_only_one_to_run_again(project, capsys):
    command = ["sweep", "--chapter", "01_tiny", "--grid", "forget=6:9", "--workers", "2", "--name", "three"]
    assert main(command) == 1
    output = capsys.readouterr()
    assert "2 of 3 cells" in output.out
    assert re.search(r"forget-7: cell 2 \(.*ValueError: seven is not allowed", output.err)
    folder = project / "runs" / "three"
    for name in ("table.csv", "table.parquet"):
        table = (pd.read_csv if name.endswith("csv") else pd.read_parquet)(folder / name)
        assert sorted(table["forget"]) == [6, 7, 8]
        good = table[table["forget"] != 7]
        assert good["trims"].eq(False).all(), "the setting of dask's workers would slow a training down"
        assert good["threads"].eq(1).all()
        assert good["seconds"].gt(0).all()
        assert good["loss.last"].notna().all()
        assert good["digest"].nunique() == 1
        assert len(json.loads(good["loss.all"].iloc[0])) > 1
    assert "Traceback" in (folder / "forget-7" / "01_tiny.ipynb").read_text()
    assert not (folder / "forget-7" / "metrics.json").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/cell.json")}
    assert main(command) == 1
    assert "3 cells, 2 of them done" in capsys.readouterr().out
    changed = {path.parent.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert changed == {"forget-7"}


@pytest.mark.parametrize("grid, workers", [("forget=6", 1), ("forget=0:3", 2)])
def test_no_worker_is_started_without_a_cell(project, monkeypatch, grid, workers):
    def connected(scheduler, count):
        raise BookError(f"{count} workers")

    monkeypatch.setattr(sweep, "connected", connected)
    monkeypatch.setattr(sweep, "machine", lambda: {"cores": 2})
    cells = sweep.cells(project, "01_tiny", dict([sweep.read_grid(grid)]), {})
    with pytest.raises(BookError, match=f"^{workers} workers$"):
        sweep.sweep(project, project / "runs" / "mine", "01_tiny", cells)


def test_a_scheduler_that_does_not_answer_is_named(project, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 1)
    assert main(["sweep", "--chapter", "01_tiny", "--scheduler", "tcp://127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: scheduler must be the address of a dask scheduler, got 'tcp://127.0.0.1:9'")
    assert error.count("\n") == 1


@pytest.fixture
def machines(tmp_path):
    """A scheduler and two workers, each with its own folder and cache, as on machines that share nothing."""
    started = []

    def start(name, *command):
        home = tmp_path / name
        home.mkdir()
        process = subprocess.Popen([sys.executable, "-m", "distributed.cli." + command[0], *command[1:]], cwd=home,
                                   env={**os.environ, "SA_CACHE": str(home / "cache")}, start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=open(home / "log", "w"))
        started.append(process)
        return process

    address = tmp_path / "scheduler.json"
    start("head", "dask_scheduler", "--scheduler-file", str(address), "--port", "0", "--no-dashboard")
    workers = [start(name, "dask_worker", "--scheduler-file", str(address), "--nthreads", "1", "--no-dashboard")
               for name in ("left", "right")]
    while not address.is_file():
        assert started[0].poll() is None, (tmp_path / "head" / "log").read_text()
        time.sleep(0.1)
    yield json.loads(address.read_text())["address"], workers[0]
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_machine_that_dies_during_a_sweep_costs_nothing_but_time(project, machines, tmp_path):
    scheduler, left = machines
    grid = ["sweep", "--chapter", "01_tiny", "--grid", "forget=0:2", "--grid", "seed=0,1", "-p", "slow", "1.5"]
    running = subprocess.Popen([sys.executable, "-m", "sa_lib.book", *grid, "--name", "cluster", "--scheduler",
                                scheduler], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not metrics(project, "cluster"):
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.1)
    os.killpg(left.pid, signal.SIGKILL)
    output, _ = running.communicate(timeout=300)
    assert running.returncode == 0, output
    assert [name for name in ("left", "right") if not (tmp_path / name / "cache").is_dir()] == []
    small, ended = ModelConfig(latent_dim=2, hidden=(16, 8)), metrics(project, "cluster").values()
    alone = [trained.cvae(data.load("digits"), small, TrainingConfig(epochs=2), seed) for seed in (0, 1)]
    assert sorted((cell["parameters"]["seed"], cell["digest"], cell["loss"]["all"]) for cell in ended) == [
        (seed, model.digest, model.log["loss"].tolist()) for seed, model in enumerate(alone) for _ in range(2)]
