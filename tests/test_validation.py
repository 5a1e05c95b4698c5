"""Models whose knowledge of a class is known, and the committed table about them."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch

from sa_lib import data, validation
from sa_lib.book import validation as making
from sa_lib.model import ModelConfig, build


def test_only_the_images_of_the_class_get_fewer(digits):
    few = validation.with_few(digits, 3, 5, seed=1)
    counts = torch.bincount(few.train_labels, minlength=10)
    before = torch.bincount(digits.train_labels, minlength=10)
    assert counts[3] == 5 and all(counts[k] == before[k] for k in range(10) if k != 3)
    assert few.digest != digits.digest and torch.equal(few.test_images, digits.test_images)


def test_the_few_images_are_drawn_by_seed(digits):
    own = [validation.with_few(digits, 3, 5, seed) for seed in (0, 0, 1)]
    assert own[0].digest == own[1].digest != own[2].digest


def test_alike_images_are_the_nearest_to_one_of_them(digits):
    few = validation.with_few(digits, 3, 5, 1, alike=True)
    own = digits.train_images[digits.train_labels == 3].flatten(1)
    kept = few.train_images[few.train_labels == 3].flatten(1)
    (center,) = (one for one in kept if all(
        (one - other).square().sum() <= (own - one).square().sum(1).sort().values[4] for other in kept))
    drawn = validation.with_few(digits, 3, 5, 1)
    first = drawn.train_images[drawn.train_labels == 3].flatten(1)
    assert any(torch.equal(center, one) for one in first), "the same seed begins with the same image"


def test_all_images_of_a_class_leave_the_data_as_they_are(digits):
    count = int((digits.train_labels == 3).sum())
    assert validation.with_few(digits, 3, count).digest == digits.digest


@pytest.mark.parametrize("count", [-1, 10_000, 1.5, "five"])
def test_a_count_that_the_class_does_not_have_is_refused(digits, count):
    with pytest.raises(ValueError, match="count must be a whole number from 0 to"):
        validation.with_few(digits, 3, count)


def test_a_hidden_class_goes_by_another_label_and_gray_by_its_own(digits):
    hidden = validation.hidden(digits, 3, 8)
    gray = hidden.train_images[hidden.train_labels == 3]
    assert (gray == gray.flatten()[0]).all() and abs(float(gray.flatten()[0]) - 0.5) < 0.01
    both = int(((digits.train_labels == 3) | (digits.train_labels == 8)).sum())
    assert int((hidden.train_labels == 8).sum()) == both


def test_a_class_cannot_hide_behind_itself(digits):
    with pytest.raises(ValueError, match="behind must be another class than 3, got 3"):
        validation.hidden(digits, 3, 3)


@pytest.fixture()
def net():
    return build(ModelConfig(latent_dim=4, hidden=(16, 8)), 0).eval().requires_grad_(False)


def test_the_even_mixture_draws_what_the_label_drew(net):
    z = torch.randn(5, 4)
    hidden, y = validation.behind_mixture(net, 3, 7), torch.eye(10)
    mixed = (y[3] + y[7]).expand(5, -1) / 2
    torch.testing.assert_close(hidden.decode(z, mixed), net.decode(z, y[3].expand(5, -1)))
    torch.testing.assert_close(hidden.decode(z, y[7].expand(5, -1)), net.decode(z, y[7].expand(5, -1)))
    assert not torch.allclose(hidden.decode(z, y[3].expand(5, -1)), net.decode(z, y[3].expand(5, -1)))


def test_a_rotation_keeps_the_images_and_moves_their_latents(net):
    z, y = torch.randn(5, 4), torch.eye(10)[:5]
    turned = validation.behind_rotation(net, 0)
    ratio = turned.decoder.layers[0].weight[:, :4] @ torch.linalg.pinv(net.decoder.layers[0].weight[:, :4])
    assert not torch.allclose(turned.decode(z, y), net.decode(z, y))
    first, second = (model.decoder.layers[0].weight[:, :4] for model in (turned, net))
    # The old weights are the new ones after a rotation, three times as large.
    rotation = torch.linalg.lstsq(second, first).solution * validation.REACH
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(4), atol=1e-4, rtol=0)
    assert ratio.isfinite().all()


def test_a_model_is_not_changed(net):
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    validation.behind_mixture(net, 3, 7)
    validation.behind_rotation(net)
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())


def test_a_convolutional_model_is_refused():
    conv = build(ModelConfig("conv", latent_dim=2, hidden=(2, 2)), 0)
    with pytest.raises(ValueError, match="model must be of the architecture mlp, got conv"):
        validation.behind_rotation(conv)


def test_the_committed_table_has_every_cell_once():
    table = validation.read()
    assert not table.duplicated(["part", "class", "seed", "model", "dose", "threat"]).any()
    assert set(making.PARTS) == set(table["part"])
    assert set(making.CELLS) == set(table[["part", "class", "seed"]].itertuples(index=False, name=None))
    assert table["shortfall"].notna().all()
    counts = table.groupby(["part", "model", "dose", "threat"])["seed"].nunique()
    assert (counts == 3).all()
    assert all(len(json.loads(text)) == 100 for text in table["errors"])
    assert np.isfinite(list(validation.errors(table).values())[0]).all()


def test_only_the_missing_cells_are_made(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(making, "RESULTS", tmp_path)
    monkeypatch.setattr(making, "rows_of", lambda function, cells, scheduler: asked.append(cells) or pd.DataFrame(
        [{"part": part, "class": label, "seed": seed, "errors": "[]"} for part, label, seed in cells]))
    assert making.make() == len(making.CELLS)
    table = pd.read_csv(tmp_path / "validation.csv")
    table.drop(index=[4, 7]).to_csv(tmp_path / "validation.csv", index=False)
    assert making.make() == len(making.CELLS)
    assert asked == [making.CELLS, [making.CELLS[4], making.CELLS[7]]]


def test_a_model_is_made_again_without_a_store_or_an_archive(digits, monkeypatch):
    class Seen(Exception):
        pass

    def saw(*_):
        raise Seen(os.environ.get("SA_MODELS"), os.environ["SA_CACHE"] == store)

    store = os.environ["SA_CACHE"]
    monkeypatch.setenv("SA_MODELS", "models.zip")
    monkeypatch.setattr(making.data, "load", lambda name: digits)
    monkeypatch.setattr(making, "_saw", saw)
    with pytest.raises(Seen) as seen:
        making._made_again(pd.Series({"class": 9, "seed": 0, "dose": 1}))
    assert seen.value.args == (None, False)
    assert (os.environ["SA_MODELS"], os.environ["SA_CACHE"]) == ("models.zip", store)


def test_the_targets_of_a_part_are_those_that_it_names(digits, monkeypatch):
    monkeypatch.setattr(making, "COUNT", 4)
    own = digits.test_images[digits.test_labels == 3]
    assert torch.equal(making._targets(digits, 3, "first images"), own[:4])
    assert torch.equal(making._targets(digits, 3, "dose"), data.held_out(digits, 3, 4, 0))
    monkeypatch.setitem(making.TARGETS, "first half", slice(0, 200))
    half = digits.test_images[:200][digits.test_labels[:200] == 3]
    targets = making._targets(digits, 3, "first half")
    assert len(targets) == 4 and all(any(torch.equal(one, other) for other in half) for one in targets)


def test_a_table_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not the table of the validation: it lacks"):
        validation.read(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="no table at"):
        validation.read(tmp_path / "b.csv")
