"""The environment: made once, kept while it is up to date, and refused in one sentence where it cannot be made."""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest

from runs import PROJECT

SCRIPT = PROJECT / "tools" / "environment.py"


@pytest.fixture
def environment():
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stamp_counts_the_requirements_and_the_constraints(environment, monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / "tools").mkdir()
    files = [tmp_path / "pyproject.toml", tmp_path / "tools" / "constraints.txt"]
    for path in files:
        path.touch()
    stamps = {environment.wanted_stamp(tmp_path)}
    for path in files:
        path.write_text("changed")
        stamps.add(environment.wanted_stamp(tmp_path))
    assert len(stamps) == 3


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0), (2, 7, 18)])
def test_an_unsupported_python_is_refused(environment, monkeypatch, version):
    monkeypatch.setattr(environment.sys, "version_info", version)
    with pytest.raises(environment.SetupError, match="Python must be 3.11 to 3.13, got "):
        environment.check_python()


def test_a_missing_venv_package_is_named(environment, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name))
    with pytest.raises(environment.SetupError, match="got one without ensurepip; install the package python3-venv"):
        environment.check_python()


def test_a_full_disk_is_an_error_before_anything_is_made(environment, monkeypatch, tmp_path, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**9, 10**9))
    monkeypatch.setattr(sys, "argv", ["environment.py", str(tmp_path / "env")])
    assert environment.main() == 1
    assert re.search(rf"free space in {tmp_path} must be at least \d GB, got 1.0 GB$", capsys.readouterr().err)
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize("output, sentence", [
    ("WARNING: Retrying after connection broken by 'NewConnectionError'", "check the network"),
    ("ERROR: Could not install packages: [Errno 28] No space left on device", "the disk is full"),
    ("ERROR: No matching distribution found for x", "its own message is above"),
])
def test_the_reason_of_a_failure_of_pip_is_one_sentence(environment, output, sentence):
    assert sentence in environment.explain(output)


@pytest.mark.parametrize("retries", ["0", "1"])  # without retries pip does not report that it could not connect
def test_pip_without_a_network_ends_in_a_sentence_about_it(environment, monkeypatch, tmp_path, retries):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "constraints.txt").touch()
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
    monkeypatch.setattr(environment, "DISK_GB", 0)  # no package is installed, so any disk will do
    monkeypatch.setattr(environment, "install", installs.append)
    environment.ensure(folder)
    environment.ensure(folder)
    assert installs == [folder]
    assert environment.works(folder)

    mark = folder / "mark"
    mark.touch()
    (folder / "sa_lib.stamp").write_text("of another pyproject.toml")
    environment.ensure(folder)
    assert len(installs) == 2
    assert mark.exists(), "it is updated, not made again"

    def fails(folder):
        raise environment.SetupError("no network")
    monkeypatch.setattr(environment, "install", fails)
    (folder / "sa_lib.stamp").write_text("of yet another pyproject.toml")
    with pytest.raises(environment.SetupError):
        environment.ensure(folder)
    assert (folder / "sa_lib.stamp").read_text() == "of yet another pyproject.toml", "the old one still works"

    monkeypatch.setattr(environment, "install", installs.append)
    (folder / "sa_lib.stamp").unlink()  # as after a kill
    environment.ensure(folder)
    assert len(installs) == 3
    assert not mark.exists()


def test_a_moved_environment_is_not_taken_for_a_good_one(environment, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "here"], check=True)
    (tmp_path / "here").rename(tmp_path / "there")
    assert not environment.works(tmp_path / "there"), "it has no pip"
    assert environment.wanted_stamp(tmp_path / "here") != environment.wanted_stamp(tmp_path / "there")


def test_a_folder_of_something_else_is_not_touched(environment, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(environment.SetupError, match="VENV must be a virtual environment or a new folder, got "):
        environment.ensure(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
