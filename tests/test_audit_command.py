"""sa-audit: three kinds of sources, a card that is whole, and bad input in a sentence."""

import gzip
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import foreign
from runs import PROJECT
from sa_lib import audit_attack
from sa_lib.audit_command import main
from sa_lib.checkpoints import save_model
from sa_lib.images import load_images
from sa_lib.model import ModelConfig, build
from sa_lib.reconstruction import SearchConfig
from test_audit import columns, write

MODELS = """
import torch

def linear(seed):
    weight = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
    return lambda z: (z @ weight).sigmoid().view(-1, 1, 4, 4)

def make():
    return {"subject": linear(1), "baseline": linear(0), "never": [linear(1), linear(2), linear(3)], "z_shape": 2}

def losing():
    class Scaled(torch.nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.scale, self.plain = torch.nn.Parameter(torch.ones(1)), linear(seed)
        def decode(self, z):
            return self.scale * self.plain(z)
        def loss(self, x, y, generator):
            return (self.scale * x).square().flatten(1).sum(1)
    one, *never = (Scaled(seed).eval() for seed in range(3))
    return {"subject": one, "baseline": one, "never": never, "z_shape": 2, "loss": Scaled.loss,
            "seen": torch.rand(4, 1, 4, 4)}

def mending():
    return {**make(), "mended": (linear(0), [linear(4), linear(5), linear(6)])}

def broken():
    return 1 / 0

def partly():
    return {"subject": linear(1)}
"""

LATE = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Drawing:
    seed: int
    def decode(self, z):
        from neighbor import draw
        return draw(z + self.seed)

def make():
    return {"subject": Drawing(1), "baseline": Drawing(0), "never": [Drawing(1), Drawing(2)], "z_shape": 2}
"""

THREES = ["mymodels.py:make", "--label", "3", "--images", "real.npz"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a table, models and images, as the working folder; attacks on such models need no large budget."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SearchConfig.__init__, "__defaults__", (256, 2, 10, 8))
    monkeypatch.setattr(sys, "path", [*sys.path])
    write(tmp_path / "errors.csv", columns(0.4))
    (tmp_path / "mymodels.py").write_text(MODELS)
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    np.savez("real.npz", images=images.numpy(), labels=np.array([3, 3, 3, 3, 3, 4]))
    return tmp_path


def test_a_table(here, capsys):
    assert main(["errors.csv"]) == 0
    said = capsys.readouterr().out
    assert "residue" in said and "card/index.html" in said
    assert {path.name for path in (here / "card").iterdir()} == {"index.html", "report.json", "sa-audit.json"}
    assert json.loads((here / "card" / "report.json").read_text())["verdict"] == "residue"


def test_decoders_of_a_readers_function(here, capsys):
    assert main(["mymodels.py:make", "--label", "3", "--images", "real.npz", "--rounds", "1", "--out", "out"]) == 0
    streams = capsys.readouterr()
    assert "z free: ρ = " in streams.out and "1 of 19: baseline: random search" in streams.err
    assert json.loads((here / "out" / "report.json").read_text())["images"] == 5
    with np.load("out/attack.npz", allow_pickle=False) as file:
        assert file["z free/z"].shape == (5, 2)


def test_a_readers_file_has_dataclasses_and_imports_when_it_draws(here):
    (here / "neighbor.py").write_text("def draw(z):\n    return z.repeat(1, 8).sigmoid().view(-1, 1, 4, 4)\n")
    (here / "late.py").write_text(LATE)
    assert main(["late.py:make", "--label", "3", "--images", "real.npz", "--rounds", "1"]) == 0


def test_both_states_of_a_readers_function(here, capsys):
    assert main(["mymodels.py:mending", "--images", "real.npz", "--label", "3", "--rounds", "1"]) == 0
    streams = capsys.readouterr()
    assert "z free, mended: ρ = " in streams.out and "1 of 35: baseline: random search" in streams.err
    assert json.loads((here / "card" / "report.json").read_text())["mended"]


def test_a_loss_of_a_readers_function(here, capsys):
    command = ["mymodels.py:losing", "--label", "3", "--images", "real.npz", "--rounds", "1"]
    assert main(command) == 0
    streams = capsys.readouterr()
    assert "\nMembership inference: AUC " in streams.out and "\nRelearning: mean held-out loss " in streams.out
    assert "1 of 20: baseline: losses, relearning" in streams.err
    assert "More than inputs: losses" in (here / "card" / "index.html").read_text(encoding="utf-8")


def test_checkpoints_with_all_that_they_need(here, capsys, monkeypatch):
    made, attack = [], audit_attack._attack
    monkeypatch.setattr(audit_attack, "_attack", lambda *a: made.append(a) or attack(*a))
    for seed, name in enumerate(("forgot", "before", "never1", "never2")):
        save_model(f"{name}.safetensors", build(ModelConfig(latent_dim=2, hidden=(8, 4)), seed))
    np.savez("nines.npz", images=np.random.default_rng(0).integers(0, 255, (4, 28, 28), dtype=np.uint8))
    command = ["forgot.safetensors", "--label", "9", "--baseline", "before.safetensors", "--images", "nines.npz",
               "--never", "never1.safetensors", "never2.safetensors", "--rounds", "1"]
    assert main(command) == 0
    count = len(made)
    assert main(command) == 0  # from the attacks that were kept
    assert len(made) == count > 0
    shutil.rmtree("card/attacks")
    assert main(command) == 0
    assert len(made) == 2 * count


def test_checkpoints_of_other_data_need_no_data_set_if_all_is_given(here):
    kind = ModelConfig(latent_dim=2, hidden=(8, 4), classes=5, image_shape=(1, 4, 4))
    for seed, name in enumerate(("forgot", "before", "never")):
        save_model(f"{name}.safetensors", build(kind, seed))
    command = ["forgot.safetensors", "--label", "3", "--images", "real.npz", "--never", "never.safetensors",
               "--rounds", "1"]
    assert main([*command, "--baseline", "before.safetensors"]) == 0
    assert main(command) == 2  # the baseline would be trained on MNIST


@pytest.mark.parametrize("command, message", [
    (["nothing.csv"], "no file at nothing.csv"),
    (["nothing.py:make"], "no file at nothing.py"),
    (["nothing.pt", "--label", "9"], "no file at nothing.pt"),
    (["nothing.pt"], "--label must be the class"),
    (["mymodels.py:make", "--label", "3"], "--images must name the images"),
    (["mymodels.py:make", "--label", "5", "--images", "real.npz"], "at least one of class 5"),
    (["mymodels.py:make", "--images", "real.npz"], "label must be given where a file has labels"),
    (["mymodels.py:make", "--label", "3", "--images", "nothing"], "no file or folder at nothing"),
    (["mymodels.py:broken"], "mymodels.py:broken must return the models, got a ZeroDivisionError"),
    (["mymodels.py:missing"], "must return the models, got a AttributeError"),
    (["mymodels.py:partly"], "must return a mapping with baseline, never, subject, z_shape"),
    (["errors.csv", "--out", "errors.csv"], "--out must be a folder, got the file errors.csv"),
    (["errors.csv", "--margin", "-1"], "margin must be a finite number"),
    (["errors.csv", "--margin", "nan"], "margin must be a finite number"),
    ([*THREES, "--targets", "0"], "--targets must be a whole number"),
    ([*THREES, "--targets", "1"], "at least two images"),
    ([*THREES, "--seed", "-1"], "seed must be a whole number"),
])
def test_bad_input_is_refused_in_a_sentence(here, capsys, command, message):
    assert main(command) == 2
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last and "Traceback" not in error
    assert not (here / "card" / "index.html").exists()


@pytest.mark.parametrize("name", ["index.html", "report.json", "sa-audit.json"])
def test_files_of_others_are_left_alone(here, capsys, name):
    (here / "card").mkdir()
    (here / "card" / name).write_text("mine")
    assert main(["errors.csv"]) == 2
    assert f"{name}, which sa-audit did not write" in capsys.readouterr().err
    assert (here / "card" / name).read_text() == "mine"


def test_a_card_is_written_anew_unless_it_was_changed(here, capsys):
    assert main(["errors.csv"]) == 0
    write(here / "errors.csv", columns(0.6))
    assert main(["errors.csv"]) == 0
    page = here / "card" / "index.html"
    page.write_text(page.read_text() + "my note")
    assert main(["errors.csv"]) == 2
    assert page.read_text().endswith("my note")


def test_a_card_is_ours_also_if_we_were_stopped_while_it_was_written(here, monkeypatch):
    unlink = Path.unlink

    def stopped(path, **options):
        if path.name == "attack.npz":
            raise KeyboardInterrupt
        unlink(path, **options)

    assert main([*THREES, "--rounds", "1"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stopped)
        assert main(["errors.csv"]) == 130
    assert (here / "card" / "attack.npz").exists()
    assert main(["errors.csv"]) == 0
    assert not (here / "card" / "attack.npz").exists()


# Images -----------------------------------------------------------------------------------------------------------

def test_pictures_in_a_folder_of_their_class(tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "3").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (2, 4, 5, 3), dtype=np.uint8)
    for n in range(2):
        image.fromarray(pixels[n]).save(tmp_path / "3" / f"{n}.png")
    image.fromarray(pixels[0, :, :, 0]).save(tmp_path / "other.png")
    colored, gray = load_images(tmp_path, 3), load_images(tmp_path, 4)
    np.testing.assert_allclose(colored.numpy() * 255, pixels.transpose(0, 3, 1, 2), atol=1e-4)
    assert gray.shape == (1, 1, 4, 5)
    image.fromarray(pixels[0]).save(tmp_path / "colored.png")
    with pytest.raises(ValueError, match="of one size and kind"):
        load_images(tmp_path)
    (tmp_path / "3" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="pictures that pillow reads"):
        load_images(tmp_path, 3)


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
def test_pictures_of_more_than_8_bits_are_refused(tmp_path, kind):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((4, 5), 1000, kind)).save(tmp_path / "0.tif")
    with pytest.raises(ValueError, match=r"at most 8 bits for each color, got .*0.tif: it has the mode [IF]"):
        load_images(tmp_path)


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_under_their_usual_names(tmp_path, name, packed):
    images = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)
    beside = name.replace("images", "labels").replace("idx3", "idx1")
    for file, array in ((name, images), (beside, np.uint8([1, 2, 1]))):
        data = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
        path = tmp_path / (file + ".gz" * packed)
        path.write_bytes(gzip.compress(data) if packed else data)
    read = load_images(tmp_path / (name + ".gz" * packed), 1)
    np.testing.assert_allclose(read.numpy()[:, 0] * 255, images[[0, 2]], atol=1e-5)


@pytest.mark.parametrize("arrays, message", [
    ({"pixels": np.ones(3)}, "called images"), ({"images": np.array(["a"])}, "array of numbers"),
    ({"images": np.ones((3, 4)), "labels": np.ones(2)}, "one for each of the 3"),
    ({"images": np.ones((0, 4))}, "at least one of class"), ({"images": np.array([object()])}, "without objects")])
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path / "images.npz", 1)


def test_a_damaged_file_is_refused(tmp_path):
    for name in ("images.npz", "images.npy", "x-images-idx3-ubyte", "images.txt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 nothing")
        with pytest.raises(ValueError, match="^images must "):
            load_images(tmp_path / name, 1)


@pytest.mark.parametrize("at, value", [(8, 1), (10, 99)])  # it asks for a password; an unknown compression
def test_an_archive_with_a_damaged_header_is_refused(tmp_path, at, value):
    np.savez(tmp_path / "images.npz", images=np.ones((3, 4, 4)))
    data = bytearray((tmp_path / "images.npz").read_bytes())
    data[data.find(b"PK\x01\x02") + at] = value
    (tmp_path / "images.npz").write_bytes(data)
    with pytest.raises(ValueError, match="^images must be an .npz or .npy file"):
        load_images(tmp_path / "images.npz", 1)
    assert audit_attack._read(tmp_path / "images.npz") is None


def test_a_packed_file_that_cannot_be_unpacked_is_refused(tmp_path):
    data = bytearray(gzip.compress(bytes(99)))
    data[10:] = b"\xff" * 9  # a block of a kind that zlib does not know
    for name in ("x-images-idx3-ubyte.gz", "x-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match="^images must be an IDX file, got .*cannot be unpacked"):
        load_images(tmp_path / "x-images-idx3-ubyte.gz", 1)


def test_the_models_of_the_tests_can_be_audited_from_the_command_line(here):
    _, _, images, labels = foreign.digit_images()
    np.savez("digits.npz", images=images[:30].numpy(), labels=labels[:30].numpy())
    source = f"{PROJECT / 'tests' / 'foreign.py'}:make"
    assert main([source, "--label", "3", "--images", "digits.npz", "--rounds", "1", "--targets", "5",
                 "--threats", "y on the simplex"]) == 0
    assert json.loads((here / "card" / "report.json").read_text())["rho"] > 0.3
