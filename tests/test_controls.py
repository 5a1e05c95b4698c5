"""Archives of controls: the models that went in come out, of half precision, and only for their class."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from runs import PROJECT
from sa_lib import audit_command, controls, data
from sa_lib.book.controls import packed
from sa_lib.checkpoints import save_model
from sa_lib.evaluation import prior_samples
from sa_lib.model import ModelConfig, build
from sa_lib.store import archive, tensor_digest
from sa_lib.trained import Trained

SMALL = ModelConfig(latent_dim=2, hidden=(8, 4))
LABELS = torch.arange(30) % 10


@pytest.fixture
def models():
    """A baseline and three models that never saw the class, by seed."""
    return build(SMALL, 9), {seed: build(SMALL, seed) for seed in range(3)}


@pytest.fixture
def address(models, tmp_path):
    return controls.pack(tmp_path / "controls.zip", 3, *models, sheet="# Threes")


def test_the_models_come_back_in_their_order_with_weights_of_half_precision(models, address):
    baseline, never = controls.read(address, 3)
    for one, other in zip((models[0], *models[1].values()), (baseline, *never), strict=True):
        assert not other.training and next(other.parameters()).dtype == torch.float32
        for name, weight in one.state_dict().items():
            assert torch.equal(other.state_dict()[name], weight.half().float()), name
        change = (prior_samples(one, LABELS) - prior_samples(other, LABELS)).abs().max()
        assert 0 < change < 1e-3


def test_an_archive_has_its_data_sheet(address):
    members = archive.contents(address, "never")
    assert members["README.md"] == b"# Threes"
    assert list(members)[1:] == ["baseline.safetensors", *(f"never-{seed}.safetensors" for seed in range(3))]


@pytest.mark.parametrize("spoil, message", [
    (lambda address: address.partition("#")[0], "--never must be the path or https address"),
    (lambda address: f"{address[:-4]}0000", "--never=.* is damaged or another file"),
    (lambda address: address.replace("controls.zip", "nothing.zip"), "--never=.* cannot be read"),
])
def test_an_address_that_is_wrong_is_refused(address, spoil, message):
    with pytest.raises((ValueError, OSError), match=message):
        controls.read(spoil(address), 3, "--never")


def test_archives_of_another_class_or_of_no_controls_are_refused(models, address, tmp_path):
    with pytest.raises(ValueError, match="never must be an archive of controls for class 4, got .* for 3$"):
        controls.read(address, 4)
    with pytest.raises(ValueError, match="never must be an archive of a baseline and controls, got .* no models"):
        controls.read(archive.pack({"README.md": b""}, tmp_path / "empty.zip"), 3)
    save_model(tmp_path / "model.safetensors", models[0])
    foreign = archive.pack({"a.safetensors": (tmp_path / "model.safetensors").read_bytes()}, tmp_path / "foreign.zip")
    with pytest.raises(ValueError, match="for class 3, got .* for no class$"):
        controls.read(foreign, 3)
    broken = archive.pack({"a.safetensors": b"nothing"}, tmp_path / "broken.zip")
    with pytest.raises(ValueError, match="is not a model file"):
        controls.read(broken, 3)


def test_the_data_sheet_names_every_model_with_what_the_rounding_changes(models, tmp_path):
    tiny = data.Dataset("tiny", torch.rand(30, 1, 28, 28), LABELS, torch.rand(30, 1, 28, 28), LABELS, "its digest")
    first, *others = (Trained(net, pd.DataFrame(), 0.0, "") for net in (models[0], *models[1].values()))
    address = packed(tmp_path / "controls.zip", tiny, 3, first, dict(enumerate(others)))
    sheet = archive.contents(address, "never")["README.md"].decode()
    baseline, never = controls.read(address, 3)
    rows = [line for line in sheet.splitlines() if ".safetensors |" in line]
    assert len(rows) == 4 and "its digest" in sheet
    for row, model in zip(rows, (baseline, *never), strict=True):
        assert tensor_digest(model.state_dict()) in row
        assert 0 < float(row.split("|")[3]) < 1e-3


def test_an_audit_takes_its_controls_and_its_baseline_from_an_archive(models, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model("mine.safetensors", models[1][0])
    np.savez("threes.npz", images=np.random.default_rng(0).integers(0, 255, (4, 28, 28), dtype=np.uint8))
    command = ["mine.safetensors", "--label", "3", "--images", "threes.npz", "--rounds", "1", "--never", address]
    assert audit_command.main(command) == 0
    report = json.loads((tmp_path / "card" / "report.json").read_text())
    assert report["models"]["never"] == ["never 1", "never 2", "never 3"]
    assert report["models"]["baseline"] == ["baseline"]
    foreign = "The baseline came with the controls: it is not the model from which this one was made"
    assert any(note.startswith(foreign) for note in report["notes"])
    save_model("before.safetensors", models[0])
    assert audit_command.main([*command, "--baseline", "before.safetensors"]) == 0
    assert not any("baseline" in note for note in json.loads((tmp_path / "card" / "report.json").read_text())["notes"])


def test_a_release_carries_the_controls():
    text = (PROJECT / ".github" / "workflows" / "release.yml").read_text()
    assert "make controls" in text and "make run models" in text and "_build/*.zip" in text
