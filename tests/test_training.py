"""Training: its seed decides it, it learns, it never sees classes left out, it resumes, and it says when it fails."""

import dataclasses
import shutil

import pytest
import torch
from torch.nn import functional as F

from sa_lib import store, trained, training
from sa_lib.labels import one_hot
from sa_lib.model import ModelConfig, build
from sa_lib.training import TrainingConfig, batches, minimize, new_cvae, start_at_mean, train_cvae

MODEL = ModelConfig(latent_dim=4, hidden=(32, 16))
CONFIG = TrainingConfig(epochs=3, batch=64, peak_lr=8e-3)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    return tmp_path


def weights_after_training(digits, seed, train_seed=None):
    model = build(MODEL, seed)
    train_seed = seed if train_seed is None else train_seed
    train_cvae(model, digits.train_images, digits.train_labels, CONFIG, train_seed)
    return model.state_dict()


def same(one, other):
    """Whether two state dictionaries are equal to the bit."""
    return all(torch.equal(one[name], other[name]) for name in one)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_seed_alone_decides(digits):
    one = weights_after_training(digits, 0)
    torch.rand(5)
    state = torch.get_rng_state()
    assert same(one, weights_after_training(digits, 0))
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    assert not same(one, weights_after_training(digits, 1))
    assert not same(one, weights_after_training(digits, 0, train_seed=1)), "the seed of the training counts too"


@pytest.mark.parametrize("model_config", [MODEL, ModelConfig("conv", latent_dim=4, hidden=(4, 8))],
                         ids=["mlp", "conv"])
def test_it_learns(digits, model_config):
    model, log = new_cvae(digits, model_config, TrainingConfig(epochs=8, batch=64), seed=0)
    noise = torch.randn(len(digits.test_labels), 4, generator=generator())

    def test_elbo(model):
        with torch.no_grad():
            return model.cpu().elbo(digits.test_images, one_hot(digits.test_labels), noise).mean().item()

    at_chance = -540.0  # pixels of one half
    mean = digits.train_images.mean(0).clamp(1e-3, 1 - 1e-3).expand_as(digits.test_images)
    mean_image = -F.binary_cross_entropy(mean, digits.test_images, reduction="sum").item() / len(noise)
    assert test_elbo(build(model_config, 0)) < at_chance
    assert mean_image > at_chance
    assert test_elbo(model) > mean_image + 15
    assert log.loss.iloc[-1] < log.loss.iloc[0] - 20
    assert log.kl.iloc[-1] > 1


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


def test_classes_left_out_are_never_seen(digits):
    keep = (digits.train_labels != 3) & (digits.train_labels != 9)
    subset = dataclasses.replace(digits, train_images=digits.train_images[keep],
                                 train_labels=digits.train_labels[keep], digest="subset")
    without, _ = new_cvae(poisoned(digits, [3, 9]), MODEL, CONFIG, 0, without=[3, 9])
    assert all(weight.isfinite().all() for weight in without.parameters())
    assert same(without.state_dict(), new_cvae(subset, MODEL, CONFIG, 0)[0].state_dict())


def test_the_label_weights_of_classes_left_out_are_never_changed(digits):
    without, _ = new_cvae(digits, MODEL, CONFIG, 0, without=[3, 9])
    before, after = (model.decoder.layers[0].weight[:, 4:].cpu() for model in (build(MODEL, 0), without))
    assert (before != after).any(0).tolist() == [k not in (3, 9) for k in range(10)]


def test_a_class_left_in_is_seen(digits):
    with pytest.raises(ValueError, match=r"^images must have pixels in \[0, 1\], got \[nan, nan\]"):
        new_cvae(poisoned(digits, [3, 9]), MODEL, CONFIG, 0, without=[3])


@pytest.mark.parametrize("bad", [[10], [-1], [9, 9], list(range(10)), ["9"], [None], [9.0], [True], [[9]]])
def test_classes_that_cannot_be_left_out_are_refused_before_anything_is_made(digits, cache, bad):
    with pytest.raises(ValueError, match="^without must be a class .* got "):
        trained.cvae(digits, MODEL, CONFIG, without=bad)
    assert list(cache.iterdir()) == []


class Killed(Exception):
    """Ends a training at any step, as a SIGKILL does: the training has no code that catches it."""


def killed_after(steps):
    """The terms of the ELBO, for `steps` batches; the next one raises `Killed`."""
    def terms(model, *batch):
        nonlocal steps
        if len(batch[0]) > 3:  # the store's probe has three images
            steps -= 1
            if steps < 0:
                raise Killed
        return model.elbo_terms(*batch)
    return terms


def suffixes(folder):
    return [path.suffix for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("steps", [21, 22, 30, 44, 65])
def test_a_killed_training_resumes_from_its_last_epoch(digits, cache, monkeypatch, steps):
    whole = trained.cvae(digits, MODEL, CONFIG)
    shutil.rmtree(cache / "models")
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    with pytest.raises(Killed):
        trained.cvae(digits, MODEL, CONFIG, terms=killed_after(steps))
    epoch = 22
    assert suffixes(cache) == [".part"] * (steps >= epoch)
    steps_of_whole_epochs = steps // epoch * epoch
    resumed = trained.cvae(digits, MODEL, CONFIG, terms=killed_after(3 * epoch - steps_of_whole_epochs))
    assert resumed.digest == whole.digest
    assert resumed.log.equals(whole.log)
    assert suffixes(cache) == [".safetensors"]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]),
                                    lambda path: path.write_bytes(b""),
                                    lambda path: store.save(path, store.load(path).tensors, {"part": path.name}),
                                    lambda path: store.save(path, store.load(path).tensors,
                                                            {"part": "another", "seconds": 1.0})])
def test_no_training_resumes_from_a_damaged_part(digits, cache, monkeypatch, damage):
    whole = trained.cvae(digits, MODEL, CONFIG)
    shutil.rmtree(cache / "models")
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    with pytest.raises(Killed):
        trained.cvae(digits, MODEL, CONFIG, terms=killed_after(50))
    part, = cache.rglob("*.part")
    damage(part)
    with pytest.raises(Killed):
        trained.cvae(digits, MODEL, CONFIG, terms=killed_after(65))
    assert trained.cvae(digits, MODEL, CONFIG).digest == whole.digest


def test_the_seconds_of_a_resumed_training_include_those_before_the_kill(digits, cache, monkeypatch):
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    with pytest.raises(Killed):
        trained.cvae(digits, MODEL, CONFIG, terms=killed_after(50))
    part, = cache.rglob("*.part")
    saved = store.load(part)
    store.save(part, saved.tensors, {**saved.info, "seconds": 1000.0})
    assert trained.cvae(digits, MODEL, CONFIG).seconds > 1000


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
    drawn = torch.cat([torch.cat(epoch) for epoch in epochs(14, 4, 200)]).bincount(minlength=14)
    assert (drawn > 150).all(), "an index is nearly always left over"


def test_batches_of_an_empty_set_are_refused():
    with pytest.raises(ValueError, match="^count must be a whole number from 1, got 0$"):
        next(batches(0, 4, generator()))


@pytest.mark.parametrize("steps", [1, 2, 101])
def test_minimize_calls_the_loss_once_a_step_and_logs_its_values(steps):
    x = torch.nn.Parameter(torch.tensor([3.0]))
    calls = []

    def loss(step):
        calls.append(step)
        return (x - 1).square().sum(), {"error": x - 1}

    log = minimize([x], loss, steps, peak_lr=0.5, title="t", log_every=10)
    assert calls == list(range(steps))
    assert log.step.tolist() == sorted({*range(0, steps, 10), steps - 1})
    assert log.error[0] == 3 - 1
    assert log.loss[0] == (3 - 1) ** 2


def test_minimize_finds_a_minimum():
    x = torch.nn.Parameter(torch.tensor([3.0]))
    minimize([x], lambda step: ((x - 1).square().sum(), {}), 101, peak_lr=0.5, title="t", log_every=10)
    assert x.item() == pytest.approx(1, abs=0.05)


def test_a_constant_rate_makes_steps_of_one_size():
    x, path = torch.nn.Parameter(torch.zeros(1)), []

    def slope(step):
        path.append(x.item())
        return x.sum(), {}

    minimize([x], slope, 20, peak_lr=0.5, title="t", schedule="constant")
    # Adam's step along a gradient that never changes is the rate.
    assert path == pytest.approx([-0.5 * step for step in range(20)], rel=1e-4)


def test_another_schedule_is_refused():
    x = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="^schedule must be one of one-cycle, constant, got 'cosine'$"):
        minimize([x], lambda step: (x.sum(), {}), 20, 0.5, "t", schedule="cosine")


def test_gradients_may_be_written_by_another_function():
    x = torch.nn.Parameter(torch.zeros(1))

    def uphill(value):
        x.grad = -torch.autograd.grad(value, x)[0]

    minimize([x], lambda step: (x.sum(), {}), 20, 0.5, "t", schedule="constant", backward=uphill)
    assert x.item() == pytest.approx(10, rel=1e-4)


@pytest.mark.parametrize("bad, noticed", [(0, 0), (57, 60), (99, 99)])
def test_a_loss_that_is_not_finite_stops_it_and_names_the_step_of_the_log(bad, noticed):
    x = torch.nn.Parameter(torch.ones(1))
    message = rf"^walk: the loss is nan by step {noticed}; lower the learning rate \(peak_lr=0.1\), or look for"
    with pytest.raises(FloatingPointError, match=message):
        minimize([x], lambda step: (x.sum() * (float("nan") if step == bad else 1), {}), 100, 0.1, "walk", 20)


def test_a_training_that_diverges_is_reported_and_keeps_no_file(digits, cache):
    with pytest.raises(FloatingPointError, match=r"^train CVAE: the loss is (nan|inf) by step \d+; lower "):
        trained.cvae(digits, MODEL, TrainingConfig(epochs=3, batch=64, peak_lr=1e3))
    assert suffixes(cache) == []


def test_one_bad_pixel_is_reported_and_no_file_is_kept(digits, cache):
    images = digits.train_images.clone()
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="^images must have pixels in .* got .nan, "):
        trained.cvae(dataclasses.replace(digits, train_images=images, digest="one bad pixel"), MODEL, CONFIG)
    assert suffixes(cache) == []


@pytest.mark.parametrize("name, bad", [("epochs", 0), ("epochs", 2.0), ("batch", True), ("batch", -256),
                                       ("peak_lr", -1.0), ("peak_lr", float("nan")), ("peak_lr", float("inf")),
                                       ("peak_lr", "0.1")])
def test_a_bad_configuration_is_refused(name, bad):
    with pytest.raises(ValueError, match=f"^{name} must be a (whole|finite) number from .*, got {bad!r}$"):
        TrainingConfig(**{name: bad})


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_a_new_model_starts_at_the_mean_image(digits, architecture):
    model = build(ModelConfig(architecture, 4, (4, 8)), 0)
    start_at_mean(model, digits.train_images)
    drawn = model.decode(torch.zeros(1, 4), torch.full((1, 10), 0.1))
    mean = digits.train_images.mean(0).clamp(0.01, 0.99)
    far = (drawn - (mean if architecture == "mlp" else mean.mean())).abs().mean()
    before = (build(model.config, 0).decode(torch.zeros(1, 4), torch.full((1, 10), 0.1)) - mean).abs().mean()
    assert far < before / 5


def test_the_kl_term_weighs_more_at_first_and_the_log_has_the_negative_elbo(digits):
    weights = []

    class Spy(torch.autograd.Function):
        """The divergence, with a note of the weight of its gradient."""

        @staticmethod
        def forward(ctx, kl):
            return kl.clone()

        @staticmethod
        def backward(ctx, gradient):
            weights.append(float(gradient.sum()))
            return gradient

    def terms(model, x, y, noise):
        log_likelihood, kl = model.elbo_terms(x, y, noise)
        return log_likelihood, Spy.apply(kl)

    log = train_cvae(build(MODEL, 0), digits.train_images[:640], digits.train_labels[:640],
                     dataclasses.replace(CONFIG, epochs=1), seed=0, terms=terms)
    assert weights == pytest.approx([max(1, 1.5 - 0.5 * step / 6) for step in range(10)], abs=1e-4)
    assert log.loss.tolist() == pytest.approx((log.reconstruction + log.kl).tolist(), rel=1e-5)


@pytest.mark.parametrize("capabilities, native", [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True),
                                                  ({"amx_bf16": False, "avx512_f": True}, False), ({}, False)])
def test_products_are_of_bfloat16_only_where_the_processor_has_it(monkeypatch, capabilities, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    kinds = set()
    layer = torch.nn.Linear(3, 1)

    def loss(step):
        output = layer(torch.ones(2, 3))
        kinds.add(output.dtype)
        return output.float().mean(), {}

    minimize(layer.parameters(), loss, 2, 1e-3, "test")
    assert kinds == {torch.bfloat16 if native else torch.float32}
    assert {weight.dtype for weight in layer.parameters()} == {torch.float32}


def test_every_step_multiplies_with_its_own_weights_also_inside_the_readers_autocast(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    layer, outputs = torch.nn.Linear(1, 1, bias=False), []

    def loss(step):
        outputs.append(layer(torch.ones(1, 1)).float())
        return outputs[-1].sum(), {}

    with torch.autocast("cpu", torch.bfloat16):
        minimize(layer.parameters(), loss, 3, 0.5, "test")
    assert len({float(output) for output in outputs}) == 3
