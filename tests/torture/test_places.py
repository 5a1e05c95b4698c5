"""Full, read-only, oddly named and other disks: everything works there, or one sentence names the fault."""

import os
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager

import papermill
import pytest
import torch
from test_data import SMALL, give_nothing, set_sources
from test_store import RECIPE, Maker, assert_whole

from runs import PROJECT, numbers
from sa_lib import data, store
from sa_lib.book import notebooks, sweep
from sa_lib.book.__main__ import main

pytestmark = pytest.mark.torture
# A chapter that needs no time and prints `amount` bytes.
QUICK = '''\
# %% tags=["parameters"]
forget = 9
run_dir = ""

# %%
import json
from pathlib import Path
print("x" * {amount})
folder = Path(run_dir, "01_tiny")
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(json.dumps({{"share": forget / 8}}))
'''


@contextmanager
def mounted(folder, *options):
    """A file system of its own at `folder`; the test is skipped if this user may not mount one."""
    folder.mkdir(exist_ok=True)
    if not shutil.which("mount"):
        pytest.skip("there is no mount here")
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user may mount nothing: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as folder:
        yield folder


@contextmanager
def read_only(folder, at=None):
    """`folder` through a mount that not even root can write to."""
    with mounted(at or folder.with_name(f"{folder.name} read-only"), "--bind", folder) as seen:
        subprocess.run(["mount", "-o", "remount,bind,ro", seen], check=True)
        yield seen


@pytest.fixture
def make():
    return Maker()


def fill(disk):
    with pytest.raises(OSError), open(disk / "filler", "wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()


def project(root, amount=1):
    """A project of one chapter."""
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "01_tiny.py").write_text(QUICK.format(amount=amount))
    shutil.copy(PROJECT / "pyproject.toml", root)
    notebooks.sync(root)
    return root


def assert_one_sentence(output, *names):
    """Assert that the output ends with an error of one line that has these names, without a traceback."""
    assert "Traceback" not in output
    line = output.rstrip("\n").rpartition("\n")[2]
    assert line.startswith("error: "), output
    assert [name for name in names if str(name) not in line] == [], output


def big():
    return {"w": torch.zeros(1_000_000)}, {}


def test_a_full_disk_under_the_store_is_named_and_no_file_is_left(disk, make, monkeypatch, tally):
    monkeypatch.setenv("SA_CACHE", str(disk))
    with pytest.raises(OSError, match=rf"^the store {disk} cannot be written: .*No space left.*'{disk}/models/cvae/\w+"
                                      r"\.safetensors'; SA_CACHE may name another folder$"):
        store.get_or_make("cvae", RECIPE, big)
    assert [path for path in disk.rglob("*") if path.is_file()] == []
    assert_whole(store.get_or_make("cvae", RECIPE, make))
    path = disk / "mine.safetensors"
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        store.save(path, big()[0], {})
    assert not path.exists()
    tally["full disks named"] += 2


def test_a_full_disk_under_the_data_is_a_warning(disk, monkeypatch, tally):
    fill(disk)
    set_sources(monkeypatch, "fashion", good=lambda *_: SMALL)
    with pytest.warns(UserWarning, match=f"{disk}.*No space left"):
        assert len(data.load("fashion", disk).test_labels) == 5
    tally["full disks named"] += 1


def test_a_full_disk_under_a_run_is_one_sentence_and_the_run_continues_when_there_is_room(
        disk, monkeypatch, capfd, tally):
    root = project(disk / "ein Buch ψ 忘", amount=2_000_000)
    monkeypatch.chdir(root)
    assert main(["run", "--run", "mine"]) == 2
    assert_one_sentence(capfd.readouterr().err, "01_tiny", "No space left on device", "runs/mine/.01_tiny.ipynb")
    (root / "notebooks" / "01_tiny.py").write_text(QUICK.format(amount=1))
    notebooks.sync(root)
    fill(disk)
    assert main(["run", "--run", "mine"]) == 2
    assert_one_sentence(capfd.readouterr().err, "No space left on device", "runs/mine")
    (disk / "filler").unlink()
    assert main(["run", "--run", "mine"]) == 0
    assert numbers(root / "runs" / "mine")
    assert list(root.rglob(".*")) == []
    tally["full disks named"] += 2


def test_a_full_disk_under_a_sweep_is_one_sentence(disk, monkeypatch, capfd, tally):
    root = project(disk / "root")
    monkeypatch.chdir(root)
    folder = root / "runs" / "mine"
    cell, = sweep.cells(root, "01_tiny", {"forget": [1]}, {})
    sweep._keep(folder / cell.name, "01_tiny", cell, {"error": "", "metrics": "{}", "seconds": 1.0, "machine": {}})
    fill(disk)
    assert main(["sweep", "--chapter", "01_tiny", "--grid", "forget=1", "--name", "mine"]) == 2
    assert_one_sentence(capfd.readouterr().err, "No space left on device", folder / "table.csv")
    tally["full disks named"] += 1


def test_a_read_only_store_gives_out_its_models_and_is_named_if_it_lacks_one(
        tmp_path, make, monkeypatch, tally):
    cache = tmp_path / "cache"
    monkeypatch.setenv("SA_CACHE", str(cache))
    set_sources(monkeypatch, "fashion", good=lambda *_: SMALL)
    store.get_or_make("cvae", RECIPE, make)
    data.load("fashion", cache / "data")
    with read_only(cache) as seen, warnings.catch_warnings(action="error"):
        monkeypatch.setenv("SA_CACHE", str(seen))
        set_sources(monkeypatch, "fashion", down=give_nothing)
        assert_whole(store.get_or_make("cvae", RECIPE, make))
        assert len(data.load("fashion", seen / "data").test_labels) == 5
        assert make.calls == 1
        for kind in ("cvae", "judge"):
            with pytest.raises(OSError, match=f"^the store {seen} cannot be written: .*Read-only file system: "
                                              f"'{seen}/models/.*; SA_CACHE may name another folder$"):
                store.get_or_make(kind, {"seed": 1}, make)
        assert make.calls == 1, "the error comes before the training"
    tally["read-only places"] += 1


def test_a_run_and_a_sweep_in_a_read_only_checkout_are_one_sentence(tmp_path, monkeypatch, capfd, tally):
    with read_only(project(tmp_path / "root")) as root:
        monkeypatch.chdir(root)
        assert main(["sync"]) == 0
        assert main(["run", "--run", "mine"]) == 2
        assert_one_sentence(capfd.readouterr().err, "Read-only file system", root / "runs")
        assert main(["sweep", "--chapter", "01_tiny", "--grid", "forget=1"]) == 2
        assert_one_sentence(capfd.readouterr().err, "Read-only file system", root / "runs")
    tally["read-only places"] += 2


def test_a_store_on_another_disk_works(disk, make, monkeypatch, tmp_path, tally):
    assert os.stat(disk).st_dev != os.stat(tmp_path).st_dev
    monkeypatch.setenv("SA_CACHE", str(disk))
    set_sources(monkeypatch, "fashion", good=lambda *_: SMALL)
    made = store.get_or_make("cvae", RECIPE, make)
    monkeypatch.setenv("SA_MODELS", store.pack([f"cvae/{made.path.name}"], tmp_path / "models.zip"))
    made.path.unlink()
    assert_whole(store.get_or_make("cvae", RECIPE, make))
    data.load("fashion", disk)
    assert make.calls == 1
    assert len(list((disk / "fashion").iterdir())) == 5
    tally["other disks"] += 1


@pytest.mark.parametrize("home", ["not there/yet", "a file/below it"])
def test_a_missing_home_is_made_or_named(tmp_path, home, tally):
    (tmp_path / "a file").touch()
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith(("SA_", "XDG_")) and key != "PYTHONPATH"}
    home = tmp_path / home
    script = ("import torch\nfrom sa_lib import store\n"
              "print(store.get_or_make('cvae', {}, lambda: ({'w': torch.ones(1)}, {})).path)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT,
                          env={**environment, "HOME": str(home)})
    if "yet" in str(home):
        assert done.stdout.startswith(str(home)), done.stderr
    else:
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"OSError: the store {home}")
        assert "Not a directory" in last
        assert "SA_CACHE" in last
    tally["homes"] += 1


def test_a_chapter_runs_if_all_but_its_own_folder_is_read_only_and_names_are_odd(
        undisturbed, tmp_path, monkeypatch, tally):
    odd = tmp_path / "Verlernt, «zwei» ψ 忘"
    odd.mkdir()
    with (read_only(undisturbed.root, odd / "das Buch") as root,
          read_only(undisturbed.cache, odd / "der Speicher") as cache):
        for name, value in {"SA_CACHE": cache, "PYTHONPATH": root, "HOME": odd / "none", "OMP_NUM_THREADS": 1}.items():
            monkeypatch.setenv(name, str(value))
        for chapter in undisturbed.chapters:
            papermill.execute_notebook(
                root / "notebooks" / f"{chapter}.ipynb", odd / "made.ipynb",
                {"profile": "smoke", "dataset": "digits", "run_dir": str(odd / "mein Lauf")},
                kernel_name="python3", cwd=root, progress_bar=False)
    assert numbers(odd / "mein Lauf") == numbers(undisturbed.folder)
    tally["read-only places"] += 2 * len(undisturbed.chapters)
