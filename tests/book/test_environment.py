import importlib.util
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "environment.py"


@pytest.fixture
def environment():
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0), (2, 7, 18)])
def test_another_python_is_refused(environment, monkeypatch, version):
    monkeypatch.setattr(environment.sys, "version_info", version)
    with pytest.raises(environment.SetupError, match="3.11 to 3.13 is needed"):
        environment.check_python()


def test_a_missing_venv_package_is_named(environment, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name))
    with pytest.raises(environment.SetupError, match="install the package python3-venv"):
        environment.check_python()


def test_a_full_disk_is_said_before_anything_is_made(environment, monkeypatch, tmp_path, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**9, 10**9))
    monkeypatch.setattr(sys, "argv", ["environment.py", str(tmp_path / "env")])
    assert environment.main() == 1
    assert f"{tmp_path} has 1.0 GB free" in capsys.readouterr().err
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize("said, sentence", [
    ("WARNING: Retrying after connection broken by 'NewConnectionError'", "check the network"),
    ("ERROR: Could not install packages: [Errno 28] No space left on device", "the disk is full"),
    ("ERROR: No matching distribution found for x", "its own message is above"),
])
def test_why_pip_failed(environment, said, sentence):
    assert sentence in environment.explain(said)


@pytest.mark.parametrize("retries", ["0", "1"])  # without retries pip does not say that it could not connect
def test_pip_without_a_network_ends_in_that_sentence(environment, monkeypatch, tmp_path, retries):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / "constraints.txt").touch()
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["a-package-not-installed"]\n')
    for name, value in {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": retries,
                        "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_EXTRA_INDEX_URL": "",
                        "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(environment.SetupError, match="no package index could be reached"):
        environment.install(tmp_path)


def test_a_finished_environment_is_kept_and_an_unfinished_one_made_again(environment, monkeypatch, tmp_path):
    folder = tmp_path / "an env"
    installs = []
    monkeypatch.setattr(environment, "install", installs.append)
    environment.ensure(folder)
    environment.ensure(folder)
    assert installs == [folder] and environment.works(folder)

    mark = folder / "mark"
    mark.touch()
    (folder / "sa_lib.stamp").write_text("of another pyproject.toml")
    environment.ensure(folder)
    assert len(installs) == 2 and mark.exists(), "brought up to date, not made again"

    def fails(folder):
        raise environment.SetupError("no network")
    monkeypatch.setattr(environment, "install", fails)
    (folder / "sa_lib.stamp").write_text("of yet another pyproject.toml")
    with pytest.raises(environment.SetupError):
        environment.ensure(folder)
    assert (folder / "sa_lib.stamp").read_text() == "of yet another pyproject.toml", "it still works"

    monkeypatch.setattr(environment, "install", installs.append)
    (folder / "sa_lib.stamp").unlink()  # as after a kill
    environment.ensure(folder)
    assert len(installs) == 3 and not mark.exists()


def test_a_moved_environment_does_not_pass_for_a_good_one(environment, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "here"], check=True)
    (tmp_path / "here").rename(tmp_path / "there")
    assert not environment.works(tmp_path / "there"), "it has no pip"
    assert environment.wanted_stamp(tmp_path / "here") != environment.wanted_stamp(tmp_path / "there")


def test_a_folder_that_is_something_else_is_not_touched(environment, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(environment.SetupError, match="is not a virtual environment"):
        environment.ensure(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
