"""Checkpoints: a model read is the model written, and a hostile file is refused."""

import argparse
import os
import pathlib
import re
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sa_lib import checkpoints, store
from sa_lib.checkpoints import import_official, load_model, read_model, save_model
from sa_lib.labels import one_hot
from sa_lib.model import ARCHITECTURES, ModelConfig, build

SMALL = ModelConfig(latent_dim=3, hidden=(6, 5))


def save_official(path, state):
    torch.save({"model": state, "config": argparse.Namespace(z_dim=8, lr=1e-3, name="mnist")}, path)
    return path


def official_state():
    generator = torch.Generator().manual_seed(1)
    sizes = {"fc1": (512, 794), "fc2": (256, 512), "fc31": (8, 256), "fc32": (8, 256),
             "fc4": (256, 18), "fc5": (512, 256), "fc6": (784, 512)}
    state = {}
    for layer, (n_out, n_in) in sizes.items():
        state[f"{layer}.weight"] = torch.randn(n_out, n_in, generator=generator) / n_in ** 0.5
        state[f"{layer}.bias"] = torch.randn(n_out, generator=generator)
    return state


def assert_same_weights(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip(tmp_path, architecture):
    model = build(ARCHITECTURES[architecture], seed=0)
    digest = save_model(tmp_path / "m.safetensors", model, {"note": "before"})
    before = torch.get_rng_state()
    loaded = load_model(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.config == model.config
    assert not loaded.training
    assert_same_weights(loaded, model)
    assert all(weight.requires_grad for weight in loaded.parameters())
    assert all(weight.is_leaf for weight in loaded.parameters())
    assert digest == store.tensor_digest(loaded.state_dict())
    assert store.load(tmp_path / "m.safetensors").info["note"] == "before"
    z, y = torch.randn(4, model.config.latent_dim), one_hot(torch.arange(4))
    assert torch.equal(loaded.decode(z, y), model.decode(z, y))


def test_changing_a_loaded_model_does_not_change_its_file(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, build(SMALL, seed=0))
    loaded = load_model(path)
    with torch.no_grad():
        for weight in loaded.parameters():
            weight.zero_()
    assert load_model(path).encoder.mean.weight.abs().sum() > 0


def test_a_file_of_the_store_can_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    model = build(SMALL, seed=0)
    artifact = store.get_or_make("cvae", {"seed": 0}, lambda: (model.state_dict(), {"model": SMALL.asdict()}))
    assert_same_weights(load_model(artifact.path), model)


def test_an_official_checkpoint_computes_the_official_forward_pass(tmp_path):
    state = official_state()
    model = import_official(save_official(tmp_path / "official.pt", state))
    assert model.config == ModelConfig()
    assert not model.training

    def fc(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x, y = torch.rand(20, 784), one_hot(torch.arange(20) % 10)
    h = fc("fc2", fc("fc1", torch.cat([x, y], 1)).relu()).relu()
    mean, log_var = model.encode(x.view(-1, 1, 28, 28), y)
    torch.testing.assert_close(mean, fc("fc31", h), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(log_var, fc("fc32", h), rtol=1e-6, atol=1e-5)
    z = torch.randn(20, 8)
    image = fc("fc6", fc("fc5", fc("fc4", torch.cat([z, y], 1)).relu()).relu()).sigmoid()
    torch.testing.assert_close(model.decode(z, y).flatten(1), image, rtol=0, atol=1e-6)


class Command:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("where", ["model", "config", "weight"])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_would_run_a_command_is_refused(tmp_path, where, new_format):
    command = Command(f"touch {tmp_path / 'ran'}")
    state = official_state()
    checkpoint = {"model": state, "config": argparse.Namespace()}
    (state if where == "weight" else checkpoint)["fc1.bias" if where == "weight" else where] = command
    torch.save(checkpoint, tmp_path / "bad.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match="bad.pt") as caught:
        import_official(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in str(caught.value), "PyTorch advises to trust the file"


def test_a_namespace_is_allowed_for_that_call_only(tmp_path):
    path = save_official(tmp_path / "official.pt", official_state())
    import_official(path)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_compressed_checkpoint_is_refused(tmp_path):
    path = save_official(tmp_path / "official.pt", official_state())
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="bomb.pt"):
        import_official(tmp_path / "bomb.pt")


BAD_STATES = {
    "missing": (lambda state: state.pop("fc31.bias"), "fc31.bias"),
    "extra": (lambda state: state.update({"fc7.bias": torch.zeros(3)}), "fc7.bias"),
    "not a name": (lambda state: state.update({3: torch.zeros(3)}), ": 3 |got 3"),
    "shape": (lambda state: state.update({"fc2.bias": torch.zeros(3)}), r"fc2.bias.*\[3\]"),
    "huge view": (lambda state: state.update({"fc2.bias": torch.zeros(1).expand(1 << 40)}), "fc2.bias"),
    "dtype": (lambda state: state.update({"fc2.bias": torch.zeros(256).long()}), "fc2.bias.*torch.int64"),
    "sparse": (lambda state: state.update({"fc2.bias": torch.zeros(256).to_sparse()}), "fc2.bias"),
    "no tensor": (lambda state: state.update({"fc2.bias": [0.0] * 256}), "fc2.bias.*list"),
    "no number": (lambda state: state["fc2.bias"].fill_(torch.nan), "fc2.bias.*finite"),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("case", BAD_STATES)
def test_an_official_state_that_does_not_fit_is_refused(tmp_path, case):
    spoil, message = BAD_STATES[case]
    state = official_state()
    spoil(state)
    with pytest.raises(ValueError, match=message):
        import_official(save_official(tmp_path / "bad.pt", state))


@pytest.mark.parametrize("content", [{"config": 1}, {"model": 3}, [1, 2], torch.zeros(3), {"model": [1, 2]}])
def test_other_things_that_torch_saves_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="bad.pt .*official implementation"):
        import_official(tmp_path / "bad.pt")


@pytest.mark.parametrize("read", [load_model, import_official])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html></html>", b"\x80\x02}q\x00.",
                                     b"\xff" * 100, (1 << 60).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, read, content):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match=r"\A[^\n]*bad\b[^\n]*\Z"):
        read(tmp_path / "bad")


@pytest.mark.parametrize("read", [load_model, import_official])
@pytest.mark.parametrize("name", ["none", "."])
def test_a_path_without_a_file_is_named(tmp_path, read, name):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        read(path)


def save_ours(path):
    save_model(path, build(SMALL, seed=0))


@pytest.mark.parametrize("read, write", [(load_model, save_ours),
                                         (import_official, lambda path: save_official(path, official_state()))])
def test_a_truncated_file_is_refused(tmp_path, read, write):
    path = tmp_path / "cut"
    write(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut"):
            read(path)


def test_an_altered_file_is_refused(tmp_path):
    path = tmp_path / "ours"
    save_ours(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(ValueError, match="damaged"):
        load_model(path)


def small_file(tmp_path, spoil=lambda tensors: None, **config):
    tensors = dict(build(SMALL, seed=0).state_dict())
    spoil(tensors)
    store.save(tmp_path / "m", tensors, {"model": {**SMALL.asdict(), **config}})
    return tmp_path / "m"


@pytest.mark.parametrize("config, message", [
    ({"latent_dim": 4}, r"encoder.mean.weight.*\[4, 5\]"),
    ({"hidden": [65536, 65536]}, r"encoder.layers.0.weight.*\[65536, 794\]"),
    ({"architecture": "conv"}, "coder"),
    ({"architecture": "gan"}, "architecture.*'gan'"),
    ({"hidden": [1 << 40, 1]}, "hidden.*1099511627776"),
    ({"hidden": 7}, "hidden.*7"),
    ({"latent_dim": "3"}, "latent_dim.*'3'"),
    ({"depth": 3}, "depth"),
])
def test_a_header_that_does_not_fit_is_refused(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        load_model(small_file(tmp_path, **config))


@pytest.mark.parametrize("spoil, message", [
    (lambda tensors: tensors.pop("encoder.mean.bias"), "encoder.mean.bias"),
    (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra"),
    (lambda tensors: tensors["encoder.mean.bias"].fill_(torch.inf), "encoder.mean.bias.*finite"),
    (lambda tensors: tensors.update({"encoder.mean.bias": torch.zeros(3).int()}), "encoder.mean.bias.*torch.int32"),
])
def test_tensors_that_do_not_fit_are_refused(tmp_path, spoil, message):
    with pytest.raises(ValueError, match=message):
        load_model(small_file(tmp_path, spoil))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precision_is_read_as_float32(tmp_path, dtype):
    path = small_file(tmp_path, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
    assert {weight.dtype for weight in load_model(path).parameters()} == {torch.float32}


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"embedding": torch.zeros(3)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="foreign is not a model file"):
        load_model(tmp_path / "foreign")


def test_a_file_of_the_store_without_a_cvae_is_refused(tmp_path):
    store.save(tmp_path / "fisher", {"w": torch.zeros(3)}, {"kind": "fisher"})
    with pytest.raises(ValueError, match="fisher.*CVAE"):
        load_model(tmp_path / "fisher")


def test_a_file_of_either_kind_is_read(tmp_path):
    model = build(SMALL, seed=0)
    save_model(tmp_path / "ours.safetensors", model)
    assert_same_weights(read_model(tmp_path / "ours.safetensors"), model)
    state = official_state()
    theirs = read_model(save_official(tmp_path / "theirs.pt", state))
    assert torch.equal(theirs.decoder.layers[4].weight, state["fc6.weight"])
    with pytest.raises(FileNotFoundError):
        read_model(tmp_path / "none")


# Files of others --------------------------------------------------------------------------------------------------

class Notebook(nn.Module):
    """The model of the notebook that this book follows, with the names of its layers."""

    def __init__(self, latent=25, outer=64, inner=128):
        super().__init__()
        self.inner = inner
        self.enc_conv = nn.Sequential(nn.Conv2d(11, outer, 4, 2, 1), nn.ReLU(), nn.Conv2d(outer, inner, 4, 2, 1),
                                      nn.ReLU())
        self.enc_fc_mu, self.enc_fc_logvar = nn.Linear(inner * 49, latent), nn.Linear(inner * 49, latent)
        self.dec_fc = nn.Linear(latent + 10, inner * 49)
        self.dec_conv = nn.Sequential(nn.ConvTranspose2d(inner, outer, 4, 2, 1), nn.ReLU(),
                                      nn.ConvTranspose2d(outer, 1, 4, 2, 1), nn.Sigmoid())

    def decode(self, z, y):
        return self.dec_conv(self.dec_fc(torch.cat([z, y], 1)).view(-1, self.inner, 7, 7))

    def encode(self, x, y):
        h = self.enc_conv(torch.cat([x, y[:, :, None, None].expand(-1, -1, 28, 28)], 1)).flatten(1)
        return self.enc_fc_mu(h), self.enc_fc_logvar(h)


@pytest.mark.parametrize("sizes", [{}, {"latent": 3, "outer": 4, "inner": 5}])
def test_a_checkpoint_of_the_notebook_draws_the_same_pixels(tmp_path, sizes):
    torch.manual_seed(0)
    theirs = Notebook(**sizes).eval()
    torch.save(theirs.state_dict(), tmp_path / "cvae.pt")
    ours = read_model(tmp_path / "cvae.pt")
    z, y, x = torch.randn(5, ours.config.latent_dim), one_hot(torch.arange(5)), torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(ours.decode(z, y), theirs.decode(z, y), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.encode(x, y), theirs.encode(x, y), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [(512, 256, 8), (400, 200, 20), (6, 5, 3)])
def test_the_official_model_in_any_of_its_settings(tmp_path, sizes):
    model = build(ModelConfig(latent_dim=sizes[2], hidden=sizes[:2]), 0)
    path = save_official(tmp_path / "official.pt", named_as_official(model))
    assert read_model(path).config == model.config
    assert_same_weights(read_model(path), model)


def named_as_official(model):
    names = dict(zip(("encoder.layers.0", "encoder.layers.2", "encoder.mean", "encoder.log_var", "decoder.layers.0",
                      "decoder.layers.2", "decoder.layers.4"), ("fc1", "fc2", "fc31", "fc32", "fc4", "fc5", "fc6")))
    return {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": weight
            for name, weight in model.state_dict().items()}


WRAPPED = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": np.float64(0.25), "best": np.float32(1)},
    "Lightning": lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()},
                                "pytorch-lightning_version": "2.2.0", "callbacks": {}, "hyper_parameters": {"lr": 1.0}},
    "a path": lambda state: {"model": state, "folder": pathlib.PurePosixPath("runs/3"), "step": np.int64(7)},
    "compiled and parallel": lambda state: {f"module._orig_mod.model.{name}": value for name, value in state.items()},
}


@pytest.mark.parametrize("layout", ["official", "ours"])
@pytest.mark.parametrize("case", WRAPPED)
def test_weights_in_any_usual_wrapping_are_read(tmp_path, case, layout):
    model = build(SMALL, 0)
    state = named_as_official(model) if layout == "official" else dict(model.state_dict())
    torch.save(WRAPPED[case](state), tmp_path / "file.pt")
    assert_same_weights(read_model(tmp_path / "file.pt"), model)


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_a_path_is_read_under_its_name_in_any_python(tmp_path, monkeypatch, module):
    if module != pathlib.PurePosixPath.__module__ and not any(isinstance(one, tuple) for one in checkpoints.BESIDE):
        pytest.skip("this PyTorch knows an object by its own name alone")
    model = build(SMALL, 0)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, pathlib)
        patch.setattr(pathlib.PurePosixPath, "__module__", module)
        torch.save(WRAPPED["a path"](model.state_dict()), tmp_path / "file.pt")
    assert f"{module}\nPurePosixPath".encode() in (tmp_path / "file.pt").read_bytes()
    assert_same_weights(read_model(tmp_path / "file.pt"), model)


def test_safetensors_without_our_header_are_read(tmp_path):
    model = build(SMALL, 0)
    save_file(named_as_official(model), tmp_path / "weights.safetensors")
    assert_same_weights(read_model(tmp_path / "weights.safetensors"), model)


def test_a_model_saved_whole_is_refused_with_the_way_to_convert_it(tmp_path):
    torch.save({"model": Notebook(3, 4, 5)}, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"got 'model' with a .*Notebook; where the model can be loaded, save its "
                                         r"weights alone, with torch.save\(model.state_dict\(\)"):
        read_model(tmp_path / "whole.pt")


def test_weights_of_another_model_are_refused_with_their_names(tmp_path):
    torch.save({"unet.down.weight": torch.zeros(3, 3)}, tmp_path / "unet.pt")
    with pytest.raises(ValueError, match=r"unet.pt must hold a CVAE with layers as .*got \['unet.down'\]"):
        read_model(tmp_path / "unet.pt")
    state = Notebook(3, 4, 5).state_dict()
    state["enc_conv.0.weight"] = torch.zeros(4, 1, 4, 4)  # an encoder without the label
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"enc_conv.0.weight must be floating-point \[4, 11, 4, 4\], got"):
        read_model(tmp_path / "other.pt")
