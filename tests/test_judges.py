"""The judges: they know digits they have not seen, and they know what is no digit."""

import copy

import pytest
import torch
from torch.nn import functional as F

from sa_lib import judges, store
from sa_lib.judges import NOT_A_DIGIT, JudgeConfig, calibrate, get_judge, not_digits

CONFIG = dict(epochs=12, batch=64)


@pytest.fixture(scope="module")
def pair(digits):
    return {name: get_judge(digits, JudgeConfig(name, **CONFIG)) for name in "AB"}


@pytest.fixture(scope="module", params="AB")
def judge(request, pair):
    return pair[request.param]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_and_b_share_neither_architecture_nor_weights(pair):
    a, b = (pair[name].state_dict() for name in "AB")
    assert {tuple(w.shape) for w in a.values() if w.ndim > 1}.isdisjoint(
        tuple(w.shape) for w in b.values() if w.ndim > 1)
    kinds = [[type(m).__name__ for m in pair[name].body] for name in "AB"]
    assert kinds[0] != kinds[1]


def test_they_know_test_digits(judge, digits):
    probabilities = judge.probabilities(digits.test_images)
    assert (probabilities.argmax(1) == digits.test_labels).float().mean() >= 0.97
    assert probabilities[range(360), digits.test_labels].mean() >= 0.95
    for k in range(10):
        of_class = digits.test_labels == k
        assert (probabilities[of_class].argmax(1) == k).float().mean() >= 0.85, k


def gray(digits):
    return torch.linspace(0.1, 0.9, 300)[:, None, None, None].expand(-1, 1, 28, 28)


def noise(digits):
    return torch.rand(300, 1, 28, 28, generator=generator(1))


def salt_and_pepper(digits):
    return torch.rand(300, 1, 28, 28, generator=generator(2)).round()


def blends(digits):
    """Four test digits of four different classes on top of each other."""
    mixed = []
    draw = generator(3)
    by_class = [digits.test_images[digits.test_labels == k] for k in range(10)]
    for _ in range(300):
        four = [by_class[k] for k in torch.randperm(10, generator=draw)[:4]]
        mixed.append(sum(images[torch.randint(len(images), (), generator=draw)] for images in four) / 4)
    return torch.stack(mixed)


@pytest.mark.parametrize("kind", [gray, noise, salt_and_pepper, blends])
def test_they_know_what_is_no_digit(judge, digits, kind):
    refused = judge.probabilities(kind(digits))[:, NOT_A_DIGIT]
    assert refused.mean() >= 0.95 and (refused > 0.5).float().mean() >= 0.95


def test_exact_gray_counts_as_no_digit_at_all(judge):
    probabilities = judge.probabilities(torch.full((1, 1, 28, 28), 0.5))[0]
    assert probabilities[NOT_A_DIGIT] > 0.99 and probabilities[:NOT_A_DIGIT].max() < 0.01


def test_digits_are_not_refused_nor_are_soft_ones(judge, digits):
    for images in (digits.test_images, F.avg_pool2d(digits.test_images, 3, stride=1, padding=1)):
        refused = judge.probabilities(images)[:, NOT_A_DIGIT]
        assert refused.mean() <= 0.01 and (refused > 0.5).float().mean() <= 0.01


def test_probabilities_sum_to_one_in_any_batches(judge, digits):
    probabilities = judge.probabilities(digits.test_images)
    assert probabilities.shape == (360, NOT_A_DIGIT + 1) and not probabilities.requires_grad
    assert probabilities.min() >= 0
    torch.testing.assert_close(probabilities.sum(1), torch.ones(360))
    torch.testing.assert_close(judge.probabilities(digits.test_images, batch=7), probabilities)


def test_an_attacker_gets_gradients_and_a_judge_none(judge, digits):
    assert not judge.training and not any(p.requires_grad for p in judge.parameters())
    images = digits.test_images[:5].clone().requires_grad_()
    gradient, = torch.autograd.grad(judge(images).logsumexp(1).sum(), images)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def with_fresh_non_digits(images, labels):
    """And a tenth as many non-digits as there are digits."""
    extra = not_digits(images, labels, len(images) // 10, generator(7))
    return torch.cat([images, extra]), torch.cat([labels, torch.full((len(extra),), NOT_A_DIGIT)])


def cross_entropy(judge, images, labels):
    return F.cross_entropy(judge(images), labels).item()


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_calibration_lowers_the_cross_entropy_and_finds_the_temperature(judge, digits, sharpness):
    images, labels = with_fresh_non_digits(digits.test_images, digits.test_labels)
    plain = copy.deepcopy(judge)
    plain.temperature.fill_(1)
    best = copy.deepcopy(plain)
    calibrate(best, images, labels)
    spoilt = copy.deepcopy(plain)
    spoilt.head.weight.mul_(sharpness), spoilt.head.bias.mul_(sharpness)
    before = cross_entropy(spoilt, images, labels)
    calibrate(spoilt, images, labels)
    assert 0.25 < best.temperature < 1.3
    expected = max(0.25, sharpness * best.temperature.item())
    assert spoilt.temperature.item() == pytest.approx(expected, rel=0.03)
    assert cross_entropy(spoilt, images, labels) <= before + 1e-6
    again = spoilt.temperature.item()
    calibrate(spoilt, images, labels)
    assert spoilt.temperature.item() == again, "calibrating twice changes nothing"


def test_calibration_lowers_the_cross_entropy_of_images_not_trained_on(judge, digits):
    kept_aside = len(digits.train_labels) // 5
    images, labels = with_fresh_non_digits(digits.train_images[-kept_aside:],
                                           digits.train_labels[-kept_aside:])
    plain = copy.deepcopy(judge)
    plain.temperature.fill_(1)
    assert judge.temperature != 1
    steps = CONFIG["epochs"] * ((len(digits.train_labels) - kept_aside) // CONFIG["batch"])
    assert judge.body[1].num_batches_tracked == steps, "batch statistics are of training images alone"
    assert cross_entropy(judge, images, labels) < cross_entropy(plain, images, labels)


def test_not_digits_are_images_and_determined_by_the_generator(digits):
    state = torch.get_rng_state()
    one, same, other = (not_digits(digits.test_images, digits.test_labels, 500, generator(seed))
                        for seed in (0, 0, 1))
    assert one.shape == (500, 1, 28, 28) and one.dtype == torch.float32
    assert one.min() >= 0 and one.max() <= 1
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert len(one.flatten(1).unique(dim=0)) == 500
    assert torch.equal(torch.get_rng_state(), state)


def test_a_third_each_is_gray_noise_and_blend_of_several_classes():
    # Stripes, exactly alike in every row, give the blends away.
    images = torch.rand(200, 1, 1, 28, generator=generator(2)).expand(-1, 1, 28, 28).contiguous()

    def kinds(labels):
        drawn = not_digits(images, labels, 3000, generator())
        blend = drawn.std(2).amax((1, 2)) < 1e-6
        flat = ~blend & (drawn.std((1, 2, 3)) < 0.1)
        return blend.float().mean().item(), flat.float().mean().item()
    blend, flat = kinds(torch.arange(200) % 10)
    assert 0.28 < blend < 1 / 3 + 0.02 and 0.28 < flat < 0.45
    for number in (1, 2):
        blend, flat = kinds(torch.arange(200) % number)
        assert blend < 0.01 and flat > 0.5, "blends of so few classes may be digits"


def test_the_feature_network_knows_ten_digits_and_gives_features(digits):
    network = get_judge(digits, JudgeConfig("features", **CONFIG))
    assert network(digits.test_images).shape == (360, 10)
    assert (network.probabilities(digits.test_images).argmax(1) == digits.test_labels).float().mean() >= 0.95
    features = network.features(digits.test_images)
    assert features.shape == (360, 64) and features.std(0).max() > 0
    torch.testing.assert_close(network.head(features) / network.temperature, network(digits.test_images))


def test_the_seed_decides_and_the_second_time_it_is_loaded(digits, tmp_path, monkeypatch):
    config = JudgeConfig("B", epochs=1, batch=64)
    digests = []
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        monkeypatch.setenv("SA_CACHE", str(tmp_path / folder))
        digests.append(store.tensor_digest(get_judge(digits, config, seed).state_dict()))
    assert digests[0] == digests[1] != digests[2]
    monkeypatch.setattr(judges, "train_judge", lambda *_: pytest.fail("it was trained again"))
    again = get_judge(digits, config, seed=1)
    assert store.tensor_digest(again.state_dict()) == digests[2] and not again.training


@pytest.mark.parametrize("name", ["C", "", "a", None])
def test_there_is_no_other_judge(name):
    with pytest.raises(ValueError, match=r"^name=.* is not a judge; use one of A, B, features$"):
        JudgeConfig(name)
