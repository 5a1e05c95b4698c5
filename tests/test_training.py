"""Training: determined by its seed, it learns, it never sees what it must not, and it says when it fails."""

import dataclasses
import shutil
import warnings

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from sa_lib import store, training
from sa_lib.model import ModelConfig, build, one_hot
from sa_lib.training import (TrainingConfig, batches, device, get_cvae, minimise, retained, select,
                             train_cvae)

MODEL = ModelConfig(latent_dim=4, hidden=(32, 16))
CONFIG = TrainingConfig(epochs=3, batch=64, peak_lr=8e-3)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    return tmp_path


def trained_weights(digits, seed, train_seed=None):
    model = build(MODEL, seed)
    train_seed = seed if train_seed is None else train_seed
    train_cvae(model, digits.train_images, digits.train_labels, CONFIG, train_seed)
    return model.state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_seed_alone_decides(digits):
    one = trained_weights(digits, 0)
    torch.rand(5)
    state = torch.get_rng_state()
    assert same(one, trained_weights(digits, 0))
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    assert not same(one, trained_weights(digits, 1))
    assert not same(one, trained_weights(digits, 0, train_seed=1)), "the seed of the training counts too"


@pytest.mark.parametrize("model_config", [MODEL, ModelConfig("conv", latent_dim=4, hidden=(4, 8))],
                         ids=["mlp", "conv"])
def test_it_learns(digits, model_config):
    baseline = get_cvae(digits, model_config, TrainingConfig(epochs=8, batch=64))
    noise = torch.randn(len(digits.test_labels), 4, generator=generator())

    def test_elbo(model):
        with torch.no_grad():
            return model.elbo(digits.test_images, one_hot(digits.test_labels), noise).mean().item()
    # Pixels at chance give -543 nats; one mean image for all, which says nothing of class or shape, -355.
    mean = digits.train_images.mean(0).clamp(1e-3, 1 - 1e-3).expand_as(digits.test_images)
    mean = -F.binary_cross_entropy(mean, digits.test_images, reduction="sum").item() / len(noise)
    assert test_elbo(build(model_config, 0)) < -540 < mean < mean + 15 < test_elbo(baseline.model)
    first, last = baseline.log.loss.iloc[0], baseline.log.loss.iloc[-1]
    assert last < first - 150 and baseline.log.kl.iloc[-1] > 1


def test_the_log_adds_up(digits):
    model = build(MODEL, 0)
    log = train_cvae(model, digits.train_images, digits.train_labels, CONFIG, seed=0)
    assert log.step.tolist() == [0, 50, 65]  # 3 epochs of 1437 // 64 = 22 steps
    assert list(log.columns) == ["step", "loss", "reconstruction", "kl"]
    assert log.loss.tolist() == pytest.approx((log.reconstruction + log.kl).tolist(), rel=1e-5)


def poisoned(digits, labels):
    images = digits.train_images.clone()
    images[torch.isin(digits.train_labels, torch.tensor(labels))] = float("nan")
    return dataclasses.replace(digits, train_images=images, digest=f"poisoned in {labels}")


def test_classes_left_out_are_never_seen(digits, cache):
    spoilt = poisoned(digits, [3, 9])
    keep = (digits.train_labels != 3) & (digits.train_labels != 9)
    subset = dataclasses.replace(digits, train_images=digits.train_images[keep],
                                 train_labels=digits.train_labels[keep], digest="subset")
    without = get_cvae(spoilt, MODEL, CONFIG, without=[3, 9])
    assert all(p.isfinite().all() for p in without.model.parameters())
    assert same(without.model.state_dict(), get_cvae(subset, MODEL, CONFIG).model.state_dict())
    # The label columns of the classes left out have only ever been multiplied by zero.
    untrained = build(MODEL, 0).state_dict()["decoder.layers.0.weight"][:, 4:]
    moved = (without.model.state_dict()["decoder.layers.0.weight"][:, 4:].cpu() != untrained).any(0)
    assert moved.tolist() == [k not in (3, 9) for k in range(10)]


def test_a_class_left_in_is_seen(digits, cache):
    with pytest.raises(ValueError, match="^images with pixels from nan to nan will not do"):
        get_cvae(poisoned(digits, [3, 9]), MODEL, CONFIG, without=[3])


def test_the_order_of_classes_left_out_does_not_matter(digits, cache, monkeypatch):
    one = get_cvae(digits, MODEL, CONFIG, without=[9, 2])
    monkeypatch.setattr(training, "train_cvae", lambda *_: pytest.fail("it was trained again"))
    assert get_cvae(digits, MODEL, CONFIG, without=(2, 9)).digest == one.digest


@pytest.mark.parametrize("bad", [[10], [-1], [9, 9], list(range(10)), ["9"], [None], [9.0], [True], [[9]], 3])
def test_classes_that_cannot_be_left_out(digits, cache, bad):
    allowed = "give a list of at most 9 distinct digits from 0 to 9"
    with pytest.raises(ValueError, match=f"^classes .* will not do; {allowed}$"):
        retained(bad)
    with pytest.raises(ValueError, match="will not do"):
        get_cvae(digits, MODEL, CONFIG, without=bad)
    assert list(cache.iterdir()) == []


class Killed(Exception):
    """As a SIGKILL would: no code of the training's own sees it."""


def killed_after(steps):
    """The ELBO, until `steps` batches have been seen."""
    def terms(model, *batch):
        nonlocal steps
        if len(batch[0]) > 3:  # the store's probe has three images
            steps -= 1
            if steps < 0:
                raise Killed
        return model.elbo_terms(*batch)
    return terms


@pytest.mark.parametrize("steps", [21, 22, 30, 44, 65])
def test_a_killed_training_goes_on_from_its_last_epoch(digits, cache, monkeypatch, steps):
    whole = get_cvae(digits, MODEL, CONFIG)
    shutil.rmtree(cache / "models")
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    with pytest.raises(Killed):
        get_cvae(digits, MODEL, CONFIG, terms=killed_after(steps))
    left = [path for path in cache.rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".part"] * (steps >= 22)
    # 66 steps in three epochs of 22: it needs no more than those after the last whole one.
    again = get_cvae(digits, MODEL, CONFIG, terms=killed_after(66 - steps // 22 * 22))
    assert again.digest == whole.digest and again.log.equals(whole.log)
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] == [".safetensors"]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]),
                                    lambda path: path.write_bytes(b""),
                                    lambda path: store.save(path, store.load(path).tensors, {"part": path.name}),
                                    lambda path: store.save(path, store.load(path).tensors,
                                                            {"part": "another", "seconds": 1.0})])
def test_a_damaged_part_is_not_gone_on_from(digits, cache, monkeypatch, damage):
    whole = get_cvae(digits, MODEL, CONFIG)
    shutil.rmtree(cache / "models")
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    with pytest.raises(Killed):
        get_cvae(digits, MODEL, CONFIG, terms=killed_after(50))
    part, = cache.rglob("*.part")
    damage(part)
    with pytest.raises(Killed):
        get_cvae(digits, MODEL, CONFIG, terms=killed_after(65))
    assert get_cvae(digits, MODEL, CONFIG).digest == whole.digest


def test_the_seconds_of_a_training_are_those_of_all_its_parts(digits, cache, monkeypatch):
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    with pytest.raises(Killed):
        get_cvae(digits, MODEL, CONFIG, terms=killed_after(50))
    part, = cache.rglob("*.part")
    kept = store.load(part)
    store.save(part, kept.tensors, {**kept.info, "seconds": 1000.0})
    assert get_cvae(digits, MODEL, CONFIG).seconds > 1000


def test_retained_and_select():
    assert retained([]) == list(range(10)) and retained((9, 2)) == [0, 1, 3, 4, 5, 6, 7, 8]
    labels = torch.tensor([5, 0, 9, 0, 3])
    assert select(labels, [0, 9]).tolist() == [1, 2, 3] and select(labels, []).tolist() == []
    assert select(labels, retained([0, 9])).tolist() == [0, 4]


def epochs(count, size, number):
    stream = batches(count, size, generator())
    return [[next(stream) for _ in range(max(1, count // size))] for _ in range(number)]


@pytest.mark.parametrize("count, size", [(12, 4), (5, 5), (3, 8), (7, 1), (1, 256)])
def test_batches_cover_every_index_once_an_epoch(count, size):
    for epoch in epochs(count, size, 3):
        assert sorted(torch.cat(epoch).tolist()) == list(range(count))


def test_batches_are_whole_and_reshuffled():
    for epoch in epochs(14, 4, 20):
        assert [len(batch) for batch in epoch] == [4, 4, 4]
        assert len(set(torch.cat(epoch).tolist())) == 12
    first, second = (torch.cat(epoch) for epoch in epochs(64, 8, 2))
    assert not torch.equal(first, second)
    assert torch.equal(first, next(iter(batches(64, 64, generator()))))
    seen = torch.cat([torch.cat(epoch) for epoch in epochs(14, 4, 200)]).bincount(minlength=14)
    assert (seen > 150).all(), "no index is always among those left over"


def test_no_batches_of_nothing():
    with pytest.raises(ValueError, match="^count=0: "):
        next(batches(0, 4, generator()))


@pytest.mark.parametrize("steps", [1, 2, 101])
def test_minimise_finds_a_minimum_and_calls_the_loss_once_a_step(steps):
    x = torch.nn.Parameter(torch.tensor([3.0]))
    seen = []

    def loss(step):
        seen.append(step)
        return (x - 1).square().sum(), {"error": x - 1}
    log = minimise([x], loss, steps, peak_lr=0.5, title="t", log_every=10)
    assert seen == list(range(steps))
    assert log.step.tolist() == sorted({*range(0, steps, 10), steps - 1})
    assert log.error[0] == 2 and log.loss[0] == 4 and (steps < 101 or abs(x.item() - 1) < 0.05)


@pytest.mark.parametrize("bad, noticed", [(0, 0), (57, 60), (99, 99)])
def test_a_loss_that_is_not_finite_stops_it_and_names_the_step_of_the_log(bad, noticed):
    x = torch.nn.Parameter(torch.ones(1))
    message = rf"^walk: the loss is nan by step {noticed}; lower the learning rate \(peak_lr=0.1\), or look for"
    with pytest.raises(FloatingPointError, match=message):
        minimise([x], lambda step: (x.sum() * (float("nan") if step == bad else 1), {}), 100, 0.1, "walk", 20)


def test_divergence_is_reported_and_nothing_is_kept(digits, cache):
    with pytest.raises(FloatingPointError, match=r"^train CVAE: the loss is (nan|inf) by step \d+; lower "):
        get_cvae(digits, MODEL, TrainingConfig(epochs=3, batch=64, peak_lr=1e3))
    images = digits.train_images.clone()
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="^images with pixels from nan"):
        get_cvae(dataclasses.replace(digits, train_images=images, digest="one bad pixel"), MODEL, CONFIG)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_the_same_loss_written_anew_is_the_same_model(digits, cache, monkeypatch):
    def terms(model, x, y, noise):
        mean, log_var = model.encode(x, y)
        logits = model.decode_logits(mean + (log_var / 2).exp() * noise, y)
        log_likelihood = x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)
        return log_likelihood.sum((1, 2, 3)), (mean ** 2 + log_var.exp() - 1 - log_var).sum(1) / 2
    one = get_cvae(digits, MODEL, CONFIG)
    monkeypatch.setattr(training, "train_cvae", lambda *_: pytest.fail("it was trained again"))
    assert get_cvae(digits, MODEL, CONFIG, terms=terms).digest == one.digest


def test_the_second_time_it_is_loaded(digits, cache, monkeypatch):
    first = get_cvae(digits, MODEL, CONFIG, seed=3)
    monkeypatch.setattr(training, "train_cvae", lambda *_: pytest.fail("it was trained again"))
    with warnings.catch_warnings(action="error"):
        second = get_cvae(digits, MODEL, CONFIG, seed=3)
    for got in (first, second):
        assert not got.model.training and not any(p.requires_grad for p in got.model.parameters())
        assert got.model.config == MODEL and got.digest == store.tensor_digest(got.model.state_dict())
        assert {p.device.type for p in got.model.parameters()} == {device().type}
    assert same(first.model.state_dict(), second.model.state_dict())
    pd.testing.assert_frame_equal(first.log, second.log)
    assert first.seconds == second.seconds > 0
    assert same(second.model.cpu().state_dict(), trained_weights(digits, 3)) or device().type == "cuda"


def twice_the_divergence(model, *inputs):
    log_likelihood, kl = model.elbo_terms(*inputs)
    return log_likelihood, 2 * kl


CHANGES = {
    "seed": dict(seed=1), "epochs": dict(config=dataclasses.replace(CONFIG, epochs=4)),
    "batch": dict(config=dataclasses.replace(CONFIG, batch=32)),
    "rate": dict(config=dataclasses.replace(CONFIG, peak_lr=1e-3)),
    "width": dict(model_config=dataclasses.replace(MODEL, hidden=(33, 16))),
    "latent": dict(model_config=dataclasses.replace(MODEL, latent_dim=5)),
    "without": dict(without=[9]), "loss": dict(terms=twice_the_divergence), "data": {},
    "model's code": {}, "training's code": {},
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_it_is_trained_again(digits, cache, monkeypatch, what):
    calls = []

    def count(*arguments):
        calls.append(arguments)
        return pd.DataFrame({"step": [0], "loss": [1.0]})
    monkeypatch.setattr(training, "train_cvae", count)
    arguments = dict(model_config=MODEL, config=CONFIG)
    get_cvae(digits, **arguments)
    if what == "data":
        digits = dataclasses.replace(digits, digest="other")
    elif what.endswith("code"):
        module = training.model_module if what == "model's code" else training
        other = cache / "changed.py"
        other.write_text("# changed")
        monkeypatch.setattr(module, "__file__", str(other))
    for _ in range(2):
        get_cvae(digits, **(arguments | CHANGES[what]))
    assert len(calls) == 2


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"epochs": 2.0}, {"batch": True}, {"batch": -256},
                                 {"peak_lr": -1.0}, {"peak_lr": float("nan")}, {"peak_lr": float("inf")}, {"peak_lr": "0.1"}])
def test_a_configuration_of_no_sense_is_refused(bad):
    (name, value), = bad.items()
    with pytest.raises(ValueError, match=f"^{name}={value!r} is not allowed; use a (whole|finite) number from"):
        TrainingConfig(**bad)
