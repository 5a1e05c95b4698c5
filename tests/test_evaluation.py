"""The measures, in cases where the answer is known."""

import dataclasses
import math

import pandas as pd
import pytest
import scipy.linalg
import torch

from sa_lib import evaluation
from sa_lib.evaluation import (
    evaluate,
    expected_calibration_error,
    fidelity,
    frechet_distance,
    negative_elbo,
    prior_samples,
    retained_means,
)
from sa_lib.judges import Judge
from sa_lib.labels import one_hot
from sa_lib.model import ModelConfig, build, device

MODEL = ModelConfig(latent_dim=3, hidden=(16, 8))


@pytest.fixture(scope="module")
def model():
    return build(MODEL, 0).to(device()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def networks():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [Judge(name).to(device()).eval() for name in ("B", "features")]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_table_has_a_row_a_class_and_its_values_lie_in_their_ranges(model, digits, networks):
    table = evaluate(model, digits, *networks, samples=20)
    assert list(table.index) == list(range(10))
    assert table.notna().all().all()
    ranges = {"probability": 1, "accuracy": 1, "not_a_digit": 1, "entropy": math.log(11) + 1e-6, "gray": 0.5,
              "nelbo": math.inf, "reconstruction": 784, "fid": math.inf, "precision": 1, "recall": 1,
              "density": math.inf, "coverage": 1}
    assert list(table) == list(ranges)
    for column, most in ranges.items():
        assert table[column].between(0, most).all(), column
    again = evaluate(model, digits, *networks, samples=20)
    pd.testing.assert_frame_equal(table, again)


@pytest.mark.parametrize("k", [3, 8])
def test_a_row_has_the_measures_of_its_class_alone(model, digits, networks, monkeypatch, k):
    monkeypatch.setattr(evaluation, "fidelity", lambda real, fake: {"real": float(real.sum()),
                                                                    "fake": float(fake.sum())})
    row = evaluate(model, digits, *networks, samples=20).loc[k]
    drawn = prior_samples(model, torch.arange(10).repeat_interleave(20))[20 * k:20 * k + 20]
    x = digits.test_images[digits.test_labels == k].to(device())
    labels = torch.full((len(x),), k)
    y = one_hot(labels).to(device())
    judge, features = networks
    with torch.no_grad():
        p = judge(drawn).softmax(1)
        rebuilt = model.decode(model.encode(x, y)[0], y)
        sums = {"real": features.body(x).sum(), "fake": features.body(drawn).sum()}
    expected = {"probability": p[:, k].mean(), "accuracy": (p.argmax(1) == k).float().mean(),
                "not_a_digit": p[:, 10].mean(), "entropy": -(p * p.log()).sum(1).mean(),
                "gray": (drawn - 0.5).abs().mean(),
                "reconstruction": ((rebuilt - x) ** 2).sum((1, 2, 3)).mean(),
                "nelbo": negative_elbo(model, x, labels).mean(), **sums}
    assert row.to_dict() == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-4)


def test_the_probability_of_a_class_is_that_of_its_own_drawings(model, networks):
    judge, _ = networks
    drawn = prior_samples(model, torch.full((20,), 4), 5)
    expected = judge.probabilities(drawn)[:, 4].mean()
    assert evaluation.class_probability(model, judge, 4, 20, 5) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match="label must be"):
        evaluation.class_probability(model, judge, 10)
    with pytest.raises(ValueError, match="samples must be a whole number from 1"):
        evaluation.class_probability(model, judge, 4, 0)


def test_the_seed_draws_the_samples_and_the_latent_noise(model, digits, networks):
    one, other = (evaluate(model, digits, *networks, seed=seed, samples=20) for seed in (0, 1))
    for column in ("probability", "gray", "nelbo", "fid"):
        assert (one[column] != other[column]).all(), column
    pd.testing.assert_series_equal(one["reconstruction"], other["reconstruction"])


@pytest.mark.parametrize("bad", [0, -1, 5, 6.0, True])
def test_too_few_samples_are_refused(model, digits, networks, bad):
    with pytest.raises(ValueError, match=f"samples.*{bad}"):
        evaluate(model, digits, *networks, samples=bad)


def test_a_class_with_too_few_test_images_is_refused(model, digits, networks):
    keep = (digits.test_labels != 4) | (digits.test_labels.cumsum(0) < 50)
    without = dataclasses.replace(digits, test_images=digits.test_images[keep],
                                  test_labels=digits.test_labels[keep])
    with pytest.raises(ValueError, match="[0-5] .*of class 4"):
        evaluate(model, without, *networks, samples=20)


@pytest.mark.parametrize("forget, mean", [(9, 1.0), ([9], 1.0), ((0,), (8 + 100) / 9), ([0, 9], 1.0)])
def test_means_leave_the_forgotten_classes_out(forget, mean):
    table = pd.DataFrame({"gray": [1.0] * 9 + [100.0]})
    assert retained_means(table, forget)["gray"] == pytest.approx(mean)


def test_equal_sets_are_perfect():
    x = normal(200, 8)
    measures = fidelity(x, x)
    assert measures.pop("fid") == pytest.approx(0, abs=1e-6)
    assert measures.pop("density") > 0.9
    assert measures == {"precision": 1, "recall": 1, "coverage": 1}


def test_sets_far_apart_share_nothing():
    measures = fidelity(normal(100, 8), normal(100, 8, seed=1) + 1000)
    assert measures.pop("fid") > 1e6
    assert set(measures.values()) == {0}


def test_the_measures_are_those_of_a_naive_loop():
    real, fake, k = normal(30, 2), 0.8 * normal(25, 2, seed=1) + 0.5, 3

    def reach(points, i):
        return sorted(math.dist(points[i], p) for p in points)[k]

    real_, fake_ = real.tolist(), fake.tolist()
    in_real = [[math.dist(r, f) <= reach(real_, i) for f in fake_] for i, r in enumerate(real_)]
    in_fake = [[math.dist(r, f) <= reach(fake_, j) for j, f in enumerate(fake_)] for r in real_]
    expected = {"precision": sum(any(column) for column in zip(*in_real, strict=True)) / 25,
                "recall": sum(any(row) for row in in_fake) / 30,
                "density": sum(map(sum, in_real)) / (k * 25),
                "coverage": sum(any(row) for row in in_real) / 30}
    measures = fidelity(real, fake, k)
    assert {expected["precision"], expected["recall"]}.isdisjoint({0, 1}), "the case would be too easy"
    assert {name: measures[name] for name in expected} == pytest.approx(expected)


def test_a_dropped_mode_costs_recall_and_not_precision():
    real = torch.cat([normal(200, 4), normal(200, 4, seed=1) + 20])
    whole = fidelity(real, torch.cat([normal(200, 4, seed=2), normal(200, 4, seed=3) + 20]))
    half = fidelity(real, normal(400, 4, seed=2))
    assert half["precision"] > whole["precision"] - 0.1
    assert half["recall"] < 0.6 * whole["recall"]
    assert half["coverage"] < 0.6 * whole["coverage"]


def test_sets_too_small_are_refused():
    with pytest.raises(ValueError, match="real and .*fake.* 5 .*50$"):
        fidelity(normal(5, 4), normal(50, 4))


def test_features_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="real(,| and) fake .* 4.* 3"):
        fidelity(normal(50, 4), normal(50, 3))


def test_the_frechet_distance_is_that_of_a_matrix_square_root():
    real, fake = normal(300, 6), normal(200, 6, seed=1) @ normal(6, 6, seed=2) + 1
    covariances = [x.double().T.cov().numpy() for x in (real, fake)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = float((real.double().mean(0) - fake.double().mean(0)).square().sum()) + sum(
        c.trace() for c in covariances) - 2 * root.trace()
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    real = torch.tensor([0.0, 1.0, -2.0]) + torch.tensor([1.0, 2.0, 0.5]) * normal(200_000, 3)
    fake = torch.tensor([1.0, -1.0, 0.0]) + torch.tensor([3.0, 1.0, 0.5]) * normal(200_000, 3, seed=1)
    closed = (1 + 4 + 4) + (1 - 3) ** 2 + (2 - 1) ** 2 + 0
    assert frechet_distance(real, fake) == pytest.approx(closed, rel=0.01)


def test_one_draw_of_the_negative_elbo_is_the_models_own(model, digits):
    x, labels = digits.test_images[:20], digits.test_labels[:20]
    noise = torch.randn(1, 20, MODEL.latent_dim, generator=torch.Generator().manual_seed(7))[0]
    own = -model.elbo(x.to(device()), one_hot(labels).to(device()), noise.to(device()))
    torch.testing.assert_close(negative_elbo(model, x, labels, seed=7, draws=1), own)
    many = negative_elbo(model, x, labels, seed=7, draws=50)
    assert not torch.equal(many, own)
    assert float(many.mean()) == pytest.approx(float(own.mean()), rel=0.01)


def test_the_negative_elbo_is_the_mean_over_its_draws(model, digits):
    x, labels = digits.test_images[:20], digits.test_labels[:20]
    noise = torch.randn(3, 20, MODEL.latent_dim, generator=torch.Generator().manual_seed(7)).to(device())
    each = torch.stack([-model.elbo(x.to(device()), one_hot(labels).to(device()), draw) for draw in noise])
    torch.testing.assert_close(negative_elbo(model, x, labels, seed=7, draws=3), each.mean(0))
    assert not torch.allclose(each[0], each.mean(0))


def test_two_models_are_given_the_same_latent_codes():
    given = []

    def codes(labels, **changes):
        other = build(MODEL, len(given)).to(device())
        other.decode = lambda z, y: given.append(z) or z
        return prior_samples(other, labels, **changes)

    labels = torch.arange(10)
    first = codes(labels)
    assert torch.equal(first, codes(labels))
    assert torch.equal(first, codes(labels.flip(0)))
    assert not torch.equal(first, codes(labels, seed=1))
    assert first.unique().numel() == first.numel(), "each image has its own"


def test_the_calibration_error_of_honest_probabilities_is_small():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(50_000, generator=generator) / 2 + 0.5
    labels = (torch.rand(50_000, generator=generator) > p).long()
    assert expected_calibration_error(torch.stack([p, 1 - p], 1), labels) < 0.01


def test_too_little_confidence_does_not_make_up_for_too_much():
    sure, unsure = (torch.tensor([[p, 1 - p]]).expand(1000, 2) for p in (1.0, 0.55))
    wrong_in_4 = (torch.arange(1000) % 4 == 0).long()
    too_much, too_little = 0.25, 0.75 - 0.55
    assert expected_calibration_error(sure, wrong_in_4) == pytest.approx(too_much)
    mixed = expected_calibration_error(torch.cat([sure, unsure]), wrong_in_4.repeat(2))
    assert mixed == pytest.approx((too_much + too_little) / 2)


def test_a_measure_of_no_data_is_refused(model, digits):
    with pytest.raises(ValueError, match="draws"):
        negative_elbo(model, digits.test_images, digits.test_labels, draws=0)
    with pytest.raises(ValueError, match="images"):
        negative_elbo(model, digits.test_images[:0], digits.test_labels[:0])
    with pytest.raises(ValueError, match="probabilities"):
        expected_calibration_error(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))


def test_without_a_feature_network_the_fidelity_is_left_out(model, digits, networks):
    judge, features = networks
    whole, short = (evaluate(model, digits, judge, network, samples=20) for network in (features, None))
    assert list(short) == [c for c in whole if c not in ("fid", "precision", "recall", "density", "coverage")]
    assert short.equals(whole[list(short)])
