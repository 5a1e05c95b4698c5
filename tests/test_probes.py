"""Probes of weights and losses, on models whose answer is known beforehand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from sa_lib import attacks, probes, trained
from sa_lib.evaluation import negative_elbo, prior_samples
from sa_lib.judges import Judge, JudgeConfig
from sa_lib.model import ModelConfig, build, copy_of, device
from sa_lib.probes import barrier, membership, path, plasticity, pruned, quantized
from sa_lib.training import TrainingConfig, train_cvae

SHAPES = {"mlp": ModelConfig("mlp", latent_dim=3, hidden=(16, 8)),
          "conv": ModelConfig("conv", latent_dim=3, hidden=(4, 6))}
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
DIGIT, OTHER = 0, 4
LABELS = torch.arange(12) % 10


def new(shape, seed=0):
    return build(SHAPES[shape], seed).to(device()).eval().requires_grad_(False)


@pytest.fixture(params=SHAPES)
def model(request):
    return new(request.param)


@pytest.fixture(scope="module")
def images(digits):
    return digits.test_images[:len(LABELS)]


@pytest.fixture(scope="module")
def baseline(digits):
    """The trained model of test_attacks.py."""
    return trained.cvae(digits, ModelConfig(latent_dim=4, hidden=(64, 32)), TrainingConfig(epochs=80), seed=0).net


@pytest.fixture(scope="module")
def judge(digits):
    return trained.judge(digits, JudgeConfig("B", epochs=12))


@pytest.fixture(scope="module")
def others(digits):
    """Training images of the other class."""
    return digits.train_images[digits.train_labels == OTHER][:20]


def channels(model):
    """The weights of each layer as rows, one for each output channel."""
    return [(layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight).flatten(1)
            for layer in model.modules() if isinstance(layer, LAYERS)]


def test_every_weight_but_the_biases_is_in_a_channel(model):
    counted = sum(rows.numel() for rows in channels(model))
    assert counted == sum(w.numel() for name, w in model.named_parameters() if name.endswith("weight"))
    assert [len(rows) for rows in channels(model)] == [
        len(b) for name, b in model.named_parameters() if name.endswith("bias")]


# Fewer bits ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", [2, 4, 8])
def test_each_channel_has_a_step_of_its_own_and_no_weight_moves_by_more_than_half_of_it(model, bits):
    levels = 2 ** (bits - 1) - 1
    for before, after in zip(channels(model), channels(quantized(model, bits))):
        step = before.abs().amax(1, keepdim=True) / levels
        assert float(((after - before).abs() / step).max()) <= 0.5 + 1e-4
        multiples = after / step
        assert torch.allclose(multiples, multiples.round(), atol=1e-4)
        assert torch.equal(multiples.round().abs().amax(1), torch.full_like(step, levels).squeeze(1))
        assert all(len(row.unique()) <= 2 * levels + 1 for row in after)


def test_biases_are_kept(model):
    for copy in (quantized(model, 2), pruned(model, 0.9)):
        after = dict(copy.named_parameters())
        for name, bias in model.named_parameters():
            assert torch.equal(after[name], bias) == name.endswith("bias")


def test_two_bits_are_three_levels(model):
    for before, after in zip(channels(model), channels(quantized(model, 2))):
        largest = before.abs().amax(1, keepdim=True)
        expected = torch.where(before.abs() > largest / 2, largest * before.sign(), 0)
        assert torch.allclose(after, expected)


def test_a_quantized_model_is_not_changed_by_the_same_again(model):
    once = quantized(model, 5)
    for first, second in zip(once.parameters(), quantized(once, 5).parameters()):
        assert torch.allclose(first, second, rtol=1e-5, atol=0)


def test_more_bits_change_the_images_less(baseline):
    labels = torch.arange(10)
    drawn = prior_samples(baseline, labels)
    changes = [float((prior_samples(quantized(baseline, bits), labels) - drawn).abs().mean()) for bits in range(2, 9)]
    assert changes == sorted(changes, reverse=True)
    assert changes[-1] < changes[0] / 20


def test_a_channel_of_zeros_and_one_of_tiny_numbers_stay_finite(model):
    weight = model.encoder.mean.weight
    weight[0] = 0
    weight[1] = 1e-42
    after = quantized(model, 3).encoder.mean.weight
    assert after.isfinite().all()
    assert not after[0].any()
    assert float(after[1].abs().max()) < 1e-37


# Fewer weights -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("share", [0, 0.1, 0.5, 1.0])
def test_the_share_of_each_matrix_is_gone_and_it_is_the_smallest(model, share):
    for before, after in zip(channels(model), channels(pruned(model, share))):
        gone = after == 0
        assert int(gone.sum()) == round(share * before.numel())
        assert torch.equal(after[~gone], before[~gone])
        if 0 < share < 1:
            assert float(before[gone].abs().max()) <= float(before[~gone].abs().min())


def test_equal_weights_are_removed_in_their_order(model):
    model.encoder.mean.weight.fill_(-0.5)
    flat = pruned(model, 0.25).encoder.mean.weight.flatten()
    count = round(0.25 * len(flat))
    assert flat.tolist() == [0.0] * count + [-0.5] * (len(flat) - count)


# A line between two models -------------------------------------------------------------------------------------------

def test_the_ends_of_a_path_are_the_losses_of_the_models(model, images):
    other = new(model.config.architecture, seed=1)
    losses = path(model, other, images, LABELS, points=5, seed=3, draws=2)
    assert list(losses.index) == [0, 0.25, 0.5, 0.75, 1]
    for share, net in ((0, model), (1, other)):
        assert losses[share] == pytest.approx(float(negative_elbo(net, images, LABELS, 3, 2).mean()), rel=1e-6)


def test_a_point_of_a_path_is_the_loss_of_the_model_in_between(model, images):
    other, between = new(model.config.architecture, seed=1), copy_of(model).requires_grad_(False)
    for weight, end in zip(between.parameters(), other.parameters()):
        weight.copy_(0.75 * weight + 0.25 * end)
    losses = path(model, other, images, LABELS, points=5)
    assert losses[0.25] == pytest.approx(float(negative_elbo(between, images, LABELS).mean()), rel=1e-5)


def test_many_images_in_parts_have_the_loss_that_they_have_at_once(model, images, monkeypatch):
    other = new(model.config.architecture, seed=1)
    whole = path(model, other, images, LABELS, points=3)
    monkeypatch.setattr(probes, "AT_ONCE", 5)
    assert path(model, other, images, LABELS, points=3).to_numpy() == pytest.approx(whole.to_numpy(), rel=1e-6)


def test_a_model_has_no_barrier_to_itself(model, images):
    losses = path(model, model, images, LABELS)
    assert losses.nunique() == 1
    assert barrier(losses) == 0


def test_the_way_back_is_the_way_there(model, images):
    other = new(model.config.architecture, seed=1)
    there, back = path(model, other, images, LABELS, 5), path(other, model, images, LABELS, 5)
    assert there.to_numpy() == pytest.approx(back.to_numpy()[::-1], rel=1e-5)


def test_a_model_with_its_units_in_another_order_has_the_same_loss_behind_a_barrier(baseline, digits):
    shuffled = copy_of(baseline).requires_grad_(False)
    _, _, middle, _, last = shuffled.decoder.layers
    order = torch.randperm(len(middle.bias), generator=torch.Generator().manual_seed(0)).to(middle.bias.device)
    for tensor in (middle.weight, middle.bias):
        tensor.copy_(tensor[order])
    last.weight.copy_(last.weight[:, order])
    losses = path(baseline, shuffled, digits.test_images[:50], digits.test_labels[:50], points=5)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert barrier(losses) > 10


@pytest.mark.parametrize("losses, height", [
    ({0: 1, 0.5: 5, 1: 3}, 3.0), ({0: 1.0, 0.25: 1.5, 1: 3.0}, 0.0), ({0: 4.0, 0.75: 2.0, 1: 0.0}, 1.0),
    ({0: 4.0, 0.5: 1.0, 1: 4.0}, 0.0), ({0: 7.0, 1: 9.0}, 0.0)])
def test_a_barrier_is_measured_from_the_line_between_the_ends(losses, height):
    assert barrier(pd.Series(losses)) == height


@pytest.mark.parametrize("losses", [
    {}, {0: 1.0}, {0: 1.0, 1: math.nan}, {0: 1.0, 0.5: math.inf, 1: 1.0}, {0: 1.0, 2: 1.0}, {0.5: 1.0, 1: 2.0},
    {0: 1.0, 0.7: 1.0, 0.3: 1.0, 1: 1.0}, {"a": 1.0, "b": 2.0}, {0: "1", 1: "2"}])
def test_losses_that_are_no_path_are_refused(losses):
    with pytest.raises(ValueError, match="^losses must be finite and indexed by shares rising from 0 to 1, got {"):
        barrier(pd.Series(losses))


# Membership ----------------------------------------------------------------------------------------------------------

def test_the_same_images_on_both_sides_cannot_be_told_apart(baseline, digits):
    zeros = digits.test_images[digits.test_labels == DIGIT]
    auc, error = membership(baseline, zeros, zeros, DIGIT)
    assert error > 0
    assert abs(auc - 0.5) < 1.96 * error


def test_black_and_white_images_are_told_apart_by_a_model_that_draws_black(model):
    model.decoder.layers[-1].bias.fill_(-9.0)
    black, white = torch.zeros(5, 1, 28, 28), torch.ones(4, 1, 28, 28)
    assert membership(model, black, white, DIGIT) == (1.0, 0.0)
    assert membership(model, white, black, DIGIT) == (0.0, 0.0)


def test_a_model_that_learned_few_images_by_heart_gives_them_away(digits):
    every = digits.train_images[digits.train_labels == OTHER]
    net = build(ModelConfig(latent_dim=8, hidden=(256, 128)), 0).to(device())
    before, error = membership(net, every[:30], every[30:], OTHER)
    assert abs(before - 0.5) < 3 * error
    train_cvae(net, every[:30], torch.full((30,), OTHER), TrainingConfig(epochs=600, batch=30, peak_lr=4e-3), 0)
    auc, error = membership(net, every[:30], every[30:], OTHER)
    assert auc - 3 * error > 0.5


def losses_of(seen, unseen, monkeypatch):
    """The result of `membership` for images with these losses."""
    losses = torch.tensor(np.concatenate([seen, unseen]), dtype=torch.float32)
    monkeypatch.setattr(probes, "negative_elbo", lambda *arguments: losses)
    return membership(new("mlp"), *(torch.zeros(len(part), 1, 28, 28) for part in (seen, unseen)), DIGIT)


def test_the_area_is_that_of_scikit_learn_and_the_error_that_of_delong(monkeypatch):
    random = np.random.default_rng(0)
    seen, unseen = random.integers(0, 9, 17).astype(float), random.integers(2, 12, 23).astype(float)  # with ties
    auc, error = losses_of(seen, unseen, monkeypatch)
    assert auc == pytest.approx(roc_auc_score([1] * 17 + [0] * 23, -np.concatenate([seen, unseen])))
    wins = (seen[:, None] < unseen) + 0.5 * (seen[:, None] == unseen)
    variance = wins.mean(1).var(ddof=1) / 17 + wins.mean(0).var(ddof=1) / 23
    assert error == pytest.approx(math.sqrt(variance))
    assert losses_of(unseen, seen, monkeypatch) == pytest.approx((1 - auc, error))


def test_the_error_is_the_spread_over_new_images_and_its_interval_holds_the_truth(monkeypatch):
    random, shift = np.random.default_rng(1), 0.5
    truth = 0.5 * (1 + math.erf(shift / 2))  # P(x < y) for normal x and y whose means differ by `shift`
    results = np.array([losses_of(random.normal(size=60), random.normal(shift, size=90), monkeypatch)
                        for _ in range(400)])
    auc, error = results.T
    assert auc.mean() == pytest.approx(truth, abs=0.01)
    assert error.mean() == pytest.approx(auc.std(), rel=0.1)
    assert 0.92 <= (np.abs(auc - truth) < 1.96 * error).mean() <= 0.98


def test_a_loss_that_is_not_finite_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="^model must have a finite negative ELBO on all images, got "):
        losses_of(np.array([1.0, np.nan]), np.array([1.0, 2.0]), monkeypatch)


# Plasticity ----------------------------------------------------------------------------------------------------------

def test_a_label_learns_another_class_and_the_judge_looks_for_that_one(baseline, others, judge):
    learned = plasticity(baseline, others, DIGIT, OTHER, judge, steps=80, lr=3e-3, every=40)
    assert list(learned.index) == [0, 40, 80]
    assert learned[0] < 0.1
    assert learned[80] > 0.8


def test_a_label_behind_dead_units_learns_no_other_class(baseline, others, judge):
    dead = copy_of(baseline).requires_grad_(False)
    dead.decoder.layers[2].bias.fill_(-100.0)
    assert plasticity(dead, others, DIGIT, OTHER, judge, steps=80, lr=3e-3, every=80)[80] < 0.2


def test_plasticity_is_relearning_seen_as_another_class(model, others, judge):
    arguments = dict(label=DIGIT, judge=judge, steps=4, lr=0.01, batch=5, every=2, samples=7, seed=3)
    taught = plasticity(model, others, sees=OTHER, **arguments)
    assert taught.equals(attacks.relearn(model, others, sees=OTHER, **arguments))
    assert attacks.relearn(model, others, sees=DIGIT, **arguments).equals(attacks.relearn(model, others, **arguments))


# All probes ----------------------------------------------------------------------------------------------------------

def test_the_models_are_not_changed_and_the_copies_are_frozen(model, images, others, judge):
    other = new(model.config.architecture, seed=1)
    before = [{name: value.clone() for name, value in net.state_dict().items()} for net in (model, other)]
    for copy in (quantized(model, 2), pruned(model, 0.9)):
        assert not copy.training
        assert not any(weight.requires_grad for weight in copy.parameters())
        assert {weight.device for weight in copy.parameters()} == {weight.device for weight in model.parameters()}
    path(model, other, images, LABELS, points=3)
    membership(model, images, images, DIGIT)
    plasticity(model, others, DIGIT, OTHER, judge, steps=2, every=1, samples=3)
    for net, values in zip((model, other), before):
        assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())
        assert not any(weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize("probe, message", [
    (lambda net, x: quantized(net, 1), "bits must be a whole number from 2 to 8, got 1"),
    (lambda net, x: quantized(net, 9), "bits must be a whole number from 2 to 8, got 9"),
    (lambda net, x: quantized(net, 4.0), r"bits must be a whole number from 2 to 8, got 4\.0"),
    (lambda net, x: pruned(net, -0.1), r"share must be a finite number from 0, got -0\.1"),
    (lambda net, x: pruned(net, 1.1), r"share must be a number from 0 to 1, got 1\.1"),
    (lambda net, x: path(net, net, x, LABELS, points=2), "points must be a whole number from 3, got 2"),
    (lambda net, x: path(net, new("conv"), x, LABELS), "second must be of a model with the same configuration, got .*"),
    (lambda net, x: membership(net, x[:1], x, DIGIT), "members and others must be two images or more, got 1 and 12"),
    (lambda net, x: plasticity(net, x, DIGIT, DIGIT, None), "sees must be another class than the label 0, got 0"),
    (lambda net, x: plasticity(net, x, DIGIT, 10, None), "sees must be a class from 0 to 9, got 10"),
    (lambda net, x: attacks.relearn(net, x, DIGIT, Judge("B"), sees=10), "sees must be a class from 0 to 9, got 10")])
def test_bad_arguments_are_named(probe, message, images):
    with pytest.raises(ValueError, match=f"^{message}$"):
        probe(new("mlp"), images)
