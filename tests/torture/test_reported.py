"""Troubles that users of such tools report: settings of a session, odd tensors and odd models change no result."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import warnings
from contextlib import nullcontext

import nbformat
import numpy as np
import pytest
import sklearn
import torch
from torch import nn
from torch.nn.utils import prune

from runs import PROJECT
from sa_lib import chapter, checkpoints, figures, latent, residual, store, trained
from sa_lib.book import __main__ as command_line
from sa_lib.book import cluster as clusters
from sa_lib.book import execution, making, notebooks, run, sweep
from sa_lib.book.notebooks import BookError
from sa_lib.fisher import squared_gradients
from sa_lib.model import ModelConfig
from sa_lib.training import TrainingConfig

SMALL, BRIEF = ModelConfig(latent_dim=2, hidden=(16, 8)), TrainingConfig(epochs=1)


# Fishers ---------------------------------------------------------------------------------------

def one_by_one(net, loss, x):
    """The sum of the squared gradients, a sample at a time."""
    sums = {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
    for sample in x:
        gradients = torch.autograd.grad(loss(net(sample[None])).sum(), list(net.parameters()))
        for sum_, gradient in zip(sums.values(), gradients, strict=True):
            sum_ += gradient.square()
    return sums


def test_a_layer_over_the_positions_of_a_sequence_has_the_fisher_of_its_sum():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.rand(5, 7, 3)

    def loss(out):
        return out.square().flatten(1).sum(1)

    fisher = squared_gradients(net, lambda: loss(net(x)))
    for name, squares in one_by_one(net, loss, x).items():
        assert torch.allclose(fisher[name], squares, rtol=1e-4), name


def test_samples_that_batch_normalization_mixes_have_no_fisher():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False))
    with pytest.raises(TypeError, match="must not mix samples"):
        squared_gradients(net, lambda: net(torch.rand(4, 3)).sum(1))


def test_the_mean_of_the_losses_is_not_the_losses():
    net = nn.Linear(3, 1)
    with pytest.raises(ValueError, match="losses must be one for each of the 4 samples"):
        squared_gradients(net, lambda: net(torch.rand(4, 3)).mean())


def test_a_weight_that_is_used_beside_its_layer_is_refused():
    net = nn.Linear(3, 2)
    with pytest.raises(TypeError, match="another use of weight"):
        squared_gradients(net, lambda: net(torch.rand(4, 3)).sum(1) + net.weight.square().sum())


@pytest.mark.parametrize("overwriting", [False, True], ids=["kept", "overwritten"])
def test_a_layer_whose_output_the_next_overwrites_has_the_same_fisher(overwriting):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=overwriting), nn.Linear(4, 2)), torch.rand(5, 3)

    def loss(out):
        return out.square().sum(1)

    fisher = squared_gradients(net, lambda: loss(net(x)))
    for name, squares in one_by_one(net, loss, x).items():
        assert torch.allclose(fisher[name], squares, rtol=1e-4), name


def test_a_pruned_layer_has_no_fisher():
    net = nn.Sequential(nn.Linear(3, 3))
    prune.random_unstructured(net[0], "weight", 0.5)
    with pytest.raises(TypeError, match="must have its weights as parameters, got weight_orig of layer '0'"):
        squared_gradients(net, lambda: net(torch.rand(4, 3)).sum(1))


def test_a_model_of_one_layer_has_the_fisher_of_that_layer():
    fisher = squared_gradients(net := nn.Linear(3, 1), lambda: net(torch.ones(4, 3)).sum(1))
    assert {name: values.tolist() for name, values in fisher.items()} == {"weight": [[4.0] * 3], "bias": [4.0]}


# Settings of a session -------------------------------------------------------------------------

@pytest.fixture
def digest(digits, tmp_path, monkeypatch):
    """Trains a small model in an empty store, and returns its digest."""
    def train(name):
        monkeypatch.setenv("SA_CACHE", str(tmp_path / name))
        return trained.cvae(digits, SMALL, BRIEF).digest
    return train


def test_another_default_type_changes_no_model(digest):
    expected = digest("before")
    torch.set_default_dtype(torch.float64)
    try:
        assert digest("after") == expected
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("setting", [torch.no_grad, torch.inference_mode,
                                     lambda: torch.autocast("cpu", torch.bfloat16)],
                         ids=["no_grad", "inference", "autocast"])
def test_no_mode_of_pytorch_changes_a_model(digest, setting):
    expected = digest("before")
    with setting():
        assert digest("after") == expected


def test_a_lower_precision_of_products_changes_no_model(digest):
    expected = digest("before")
    torch.set_float32_matmul_precision("medium")
    try:
        assert digest("after") == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_another_default_device_changes_no_model(digest):
    expected = digest("before")
    with torch.device("meta"):
        assert digest("after") == expected


def test_an_embedding_is_one_of_tensors_whatever_scikit_learn_is_set_to():
    with sklearn.config_context(transform_output="pandas"):
        (points,) = latent.joint_tsne([torch.rand(40, 3)])
    assert points.shape == (40, 2)


# Tensors ---------------------------------------------------------------------------------------

def test_tied_tensors_are_saved_each_with_its_own_bytes(tmp_path):
    tied = torch.rand(3)
    store.save(tmp_path / "tied.safetensors", {"a": tied, "b": tied}, {})
    loaded = store.load(tmp_path / "tied.safetensors").tensors
    assert torch.equal(loaded["a"], tied)
    assert torch.equal(loaded["b"], tied)


def test_a_conjugated_view_has_the_digest_of_its_values():
    values = torch.rand(3, dtype=torch.complex64)
    assert store.tensor_digest({"a": values.conj()}) == store.tensor_digest({"a": values.conj().resolve_conj()})


def test_a_type_that_safetensors_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tensors must be dense and hold values, of a type that safetensors has"):
        store.save(tmp_path / "a.safetensors", {"a": torch.zeros(2, dtype=torch.complex128)}, {})


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_images_in_half_precision_are_drawn(dtype):
    assert figures.image_grid(torch.rand(2, 3, 28, 28).to(dtype)).axes


def test_a_tensor_has_an_interval():
    assert residual.interval(torch.tensor([1.0, 2.0], requires_grad=True))[0] == 1.5


# Files and metrics -----------------------------------------------------------------------------

def test_a_store_behind_a_broken_link_is_named_and_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(tmp_path / "nowhere" / "at" / "all")
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="the store .* cannot be written"):
        store.get_or_make("thing", {"seed": 0}, lambda: ({"a": torch.zeros(1)}, {}))


def test_a_user_without_a_home_is_told_to_name_a_store(monkeypatch):
    def unknown(user):
        raise KeyError(user)

    for name in ("HOME", "SA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(OSError, match="SA_CACHE must name a folder"):
        store.cache_root()


def test_a_checkpoint_of_an_older_pytorch_is_named_as_one(tmp_path):
    torch.save({"model": {}}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="since PyTorch 1.6"):
        checkpoints.read_model(tmp_path / "old.pt")


def test_keys_that_are_one_as_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must have keys that differ as text"):
        chapter.write_metrics(tmp_path, "01_tiny", {"a": {1: 0.5, "1": 0.6}})


def test_a_date_is_not_written_as_a_number(tmp_path):
    with pytest.raises(ValueError, match="must be a number, a text, a list or a mapping"):
        chapter.write_metrics(tmp_path, "01_tiny", {"day": np.datetime64("2026-01-01", "ns")})


# Notebooks and grids ---------------------------------------------------------------------------

@pytest.mark.parametrize("cell", [
    nbformat.v4.new_code_cell("x = 1\n# %% another\ny = 2"),
    nbformat.v4.new_markdown_cell("![a](attachment:a.png)", attachments={"a.png": {"image/png": "aGk="}})],
    ids=["a marker in code", "a pasted picture"])
def test_a_cell_that_a_source_cannot_hold_is_not_lost(tmp_path, cell):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    source, path = (tmp_path / "notebooks" / f"01_mine{ending}" for ending in (".py", ".ipynb"))
    source.write_text("# %%\nx = 1\n")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    with pytest.raises(BookError, match="cannot hold cell 1"):
        notebooks.adopt(tmp_path, "01_mine")
    assert path.is_file()
    assert source.read_text() == "# %%\nx = 1\n"


def test_a_value_of_a_grid_that_is_nested_too_deep_for_json_is_a_text():
    deep = "[" * 100_000
    assert sweep.read_grid(f"note={deep}") == ("note", [deep])


# Runs ------------------------------------------------------------------------------------------

TINY = """\
# %% tags=["parameters"]
seed = 0
note = ""
run_dir = ""

# %%
import sys, torch
from sa_lib import chapter
chapter.write_metrics(run_dir, "01_tiny", {"python": sys.executable, "dtype": str(torch.get_default_dtype())})
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout with one small chapter, in which the test stands."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks" / "01_tiny.py").write_text(TINY)
    shutil.copy(PROJECT / "pyproject.toml", root)
    monkeypatch.chdir(root)
    return root


def metrics(root):
    return json.loads((root / "runs" / "mine" / "01_tiny" / "metrics.json").read_text())


def test_a_chapter_runs_in_this_python_and_without_the_users_start_up_files(project, tmp_path, monkeypatch):
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "mine.py"
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    for path, text in ((startup, "import torch; torch.set_default_dtype(torch.float64)"),
                       (kernel, json.dumps({"argv": ["false"], "display_name": "another", "language": "python"}))):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(startup))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    assert command_line.main(["run", "--run", "mine"]) == 0
    assert metrics(project) == {"python": sys.executable, "dtype": "torch.float32"}


def test_a_chapter_that_ends_early_does_not_pass_with_its_metrics_of_before(project, capsys):
    assert command_line.main(["run", "--run", "mine"]) == 0
    source = project / "notebooks" / "01_tiny.py"
    source.write_text(TINY.replace("import sys, torch", "import sys, torch; sys.exit(0)"))
    assert command_line.main(["run", "--run", "mine"]) == 2
    assert "01_tiny: it ended without metrics" in capsys.readouterr().err


def test_a_run_works_with_its_standard_streams_closed(project):
    command = f"'{sys.executable}' -m sa_lib.book run --run mine <&- >&- 2>&-"
    subprocess.run(["sh", "-c", command], cwd=project, check=True, timeout=120,
                   env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert metrics(project)["python"] == sys.executable


@pytest.mark.parametrize("failure", [RuntimeError("Kernel died before replying to kernel_info"),
                                     RuntimeError("Kernel didn't respond in 300 seconds")])
def test_a_kernel_that_does_not_start_is_one_sentence(project, monkeypatch, capsys, failure):
    def execute(*arguments, **options):
        raise failure

    monkeypatch.setattr(execution.papermill, "execute_notebook", execute)
    assert command_line.main(["run", "--run", "mine"]) == 2
    assert f"its kernel cannot start: {failure}\n" in capsys.readouterr().err


def test_kernels_share_the_cores_that_the_process_may_use(project, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(making, "execute_chapter", lambda *arguments: ("", 1.0))
    run.run(project, run.Path("runs", "mine"), {})
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_a_parameter_that_is_no_text_is_refused_before_anything_runs(project, capsys):
    assert command_line.main(["run", "--run", "mine", "-p", "note", "a\udcff"]) == 2
    assert capsys.readouterr().err == ("error: -p must be text in the encoding of the terminal, "
                                       "got 'a\\udcff'\n")
    assert not (project / "runs").exists()


def test_a_parameter_that_is_nested_too_deep_for_json_is_a_text():
    deep = "[" * 100_000
    assert command_line.value(deep) == deep


# Clusters --------------------------------------------------------------------------------------

def test_workers_that_cannot_start_are_one_sentence(project, monkeypatch, capsys):
    def cluster(**options):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(clusters, "LocalCluster", cluster)
    assert command_line.main(["sweep", "--chapter", "01_tiny", "--workers", "1"]) == 2
    assert "error: dask cannot start 1 workers on this machine: Nanny failed to start.\n" in capsys.readouterr().err


def test_a_cluster_needs_no_port_of_its_own():
    try:
        taken = socket.create_server(("", 8787))
    except OSError:  # another cluster has it
        taken = nullcontext()
    with taken, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with clusters.connected(None, 1) as client:
            assert client.cluster.scheduler.http_server.address == "127.0.0.1"
    assert not [str(one.message) for one in heard if "already in use" in str(one.message)]
