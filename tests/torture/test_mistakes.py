"""Mistakes that people report of tools like this one: each is refused in one sentence, or done right."""

import http.server
import json
import shutil
import subprocess
import threading
import time

import nbformat
import pytest
import torch
from torch import nn

from runs import PROJECT
from sa_lib import checkpoints, store
from sa_lib.book import __main__ as command_line
from sa_lib.book import notebooks, sweep
from sa_lib.book.notebooks import BookError
from sa_lib.fisher import squared_gradients
from sa_lib.model import ModelConfig, build

CHAPTER = '''\
# %% tags=["parameters"]
seed = 0
model = ""
note = ""
run_dir = ""

# %%
from pathlib import Path
from sa_lib import chapter, store
digest = store.file_digest(Path(model)) if model else ""
chapter.write_metrics(run_dir, "01_tiny", {"cache": str(store.cache_root()), "digest": digest})
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout with one small chapter, in which the test stands."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "01_tiny.py").write_text(CHAPTER)
    shutil.copy(PROJECT / "pyproject.toml", root)
    notebooks.sync(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("SA_CACHE", str(tmp_path / "cache"))
    return root


def cells(root, name):
    """The metrics of a sweep's cells, by the names of their folders."""
    return {path.parent.name: json.loads(path.read_text()) for path in (root / "runs" / name).glob("*/metrics.json")}


def save_model(path, seed):
    checkpoints.save_model(path, build(ModelConfig(latent_dim=2, hidden=(8, 4)), seed))


# Results that are no longer those of their inputs ----------------------------------------------

@pytest.mark.parametrize("arguments", [["run", "--run", "mine"], ["sweep", "--chapter", "01_tiny", "--name", "mine"]])
def test_another_file_under_the_same_path_is_another_input(project, arguments):
    digests = []
    for seed in (0, 1):
        save_model("mine.safetensors", seed)
        assert command_line.main([*arguments, "-p", "model", "mine.safetensors"]) == 0
        (path,) = (project / "runs" / "mine").glob("**/metrics.json")
        digests.append(json.loads(path.read_text())["digest"])
        assert digests[-1] == store.file_digest(project / "mine.safetensors")
    assert digests[0] != digests[1]


# What is asked for is done ---------------------------------------------------------------------

@pytest.mark.parametrize("repeated, option", [
    (["--grid", "seed=0:1", "--grid", "seed=5:6"], "--grid"), (["-p", "seed", "1", "-p", "seed", "2"], "-p")])
def test_an_option_that_names_a_parameter_twice_is_refused(project, capsys, repeated, option):
    assert command_line.main(["sweep", "--chapter", "01_tiny", *repeated]) == 2
    assert f"{option} must name each parameter once, got seed twice" in capsys.readouterr().err


def test_a_cell_with_a_long_name_runs_and_keeps_the_others_apart(project):
    grid = {"note": ["a" * 300, "a" * 299 + "b"]}
    names = [cell.name for cell in sweep.cells(project, "01_tiny", grid, {})]
    assert len(set(names)) == 2
    assert max(len(name.encode()) for name in names) <= 200
    assert command_line.main(["sweep", "--chapter", "01_tiny", "--grid", f"note={json.dumps('a' * 300)}"]) == 0
    assert len(cells(project, "01_tiny")) == 1


def test_relative_paths_mean_the_folder_where_the_user_stands(project, monkeypatch):
    save_model("mine.safetensors", 0)
    monkeypatch.setenv("SA_CACHE", "store")
    assert command_line.main(["sweep", "--chapter", "01_tiny", "-p", "model", "mine.safetensors"]) == 0
    (metrics,) = cells(project, "01_tiny").values()
    assert metrics["digest"] == store.file_digest(project / "mine.safetensors")
    assert metrics["cache"] == str(project / "store")


def test_a_tilde_is_the_home(project, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SA_CACHE", "~/store")
    assert store.cache_root() == tmp_path / "home" / "store"


# Servers that are none -------------------------------------------------------------------------

def test_a_web_server_is_no_scheduler(project, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "CONNECT", 2)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    address = f"tcp://127.0.0.1:{server.server_port}"
    assert command_line.main(["sweep", "--chapter", "01_tiny", "--scheduler", address]) == 2
    assert time.monotonic() - began < 20
    assert "scheduler must be the address of a dask scheduler" in capsys.readouterr().err
    server.shutdown()


# Work that is not lost -------------------------------------------------------------------------

def test_a_notebook_edited_in_jupyter_is_not_overwritten(project, capsys):
    path = project / "notebooks" / "01_tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print('mine')"))
    nbformat.write(notebook, path)
    (project / "notebooks" / "01_tiny.py").write_text(CHAPTER + "# another line\n")
    edited = path.read_bytes()
    assert command_line.main(["run", "--run", "mine"]) == 2
    message = capsys.readouterr().err
    assert "01_tiny.py may lack the edits" in message
    assert "sa-book adopt 01_tiny" in message
    assert path.read_bytes() == edited


def test_edits_in_jupyter_can_be_brought_over(project):
    path = project / "notebooks" / "01_tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print('mine')"))
    nbformat.write(notebook, path)
    assert command_line.main(["adopt", "01_tiny"]) == 0
    assert (project / "notebooks" / "01_tiny.py").read_text() == CHAPTER + "\n# %%\nprint('mine')\n"
    assert notebooks.sync(project, check=True) == []


def test_a_notebook_that_was_only_run_in_jupyter_is_derived_again(project):
    path = project / "notebooks" / "01_tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="an output")]
    nbformat.write(notebook, path)
    assert notebooks.sync(project) == ["01_tiny"]


def test_adopting_an_unedited_notebook_changes_nothing(tmp_path):
    shutil.copytree(PROJECT / "notebooks", tmp_path / "notebooks")
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    for name in notebooks.chapters(tmp_path):
        source = (tmp_path / "notebooks" / f"{name}.py").read_text()
        notebooks.adopt(tmp_path, name)
        assert (tmp_path / "notebooks" / f"{name}.py").read_text() == source


def test_a_notebook_to_adopt_must_be_there(project):
    with pytest.raises(BookError, match="name must be a chapter such as 01_tiny, got 09_none"):
        notebooks.adopt(project, "09_none")


# A Fisher of every parameter -------------------------------------------------------------------

def test_shared_weights_have_no_fisher_by_layers():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    with pytest.raises(TypeError, match="must not share parameters between layers, got 0.weight and 2.weight"):
        squared_gradients(net, lambda: net(torch.rand(4, 3)).sum(1))


def test_a_layer_that_the_losses_do_not_use_has_a_fisher_of_zero():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fisher = squared_gradients(net, lambda: net[0](torch.rand(4, 3)).square().sum(1))
    assert fisher.keys() == dict(net.named_parameters()).keys()
    assert fisher["1.weight"].eq(0).all()
    assert fisher["0.weight"].gt(0).any()


def test_losses_that_use_no_layer_have_a_fisher_of_zero():
    net = nn.Linear(3, 3)
    fisher = squared_gradients(net, lambda: torch.zeros(4))
    assert all(values.eq(0).all() for values in fisher.values())


# A checkout on another system ------------------------------------------------------------------

def test_line_ends_of_windows_change_no_digest(tmp_path):
    for path in sorted((PROJECT / "sa_lib").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert store.code_text(text.replace("\n", "\r\n")) == store.code_text(text)


def test_a_clone_on_windows_keeps_the_line_ends(tmp_path):
    made = subprocess.run(["git", "-c", "core.autocrlf=true", "clone", "-q", str(PROJECT), str(tmp_path / "clone")],
                          capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this is not a checkout of git: {made.stderr.strip()}")
    assert b"\r\n" not in (tmp_path / "clone" / "sa_lib" / "model.py").read_bytes()
