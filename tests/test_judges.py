"""The judges: they recognize digits that they have not seen, and images that show no digit."""

import copy

import pytest
import torch
from torch.nn import functional as F

from sa_lib import trained
from sa_lib.judges import JudgeConfig, calibrate, new_judge, not_digits
from sa_lib.store import tensor_digest

CONFIG = dict(epochs=12, batch=64)

NOT_A_DIGIT = 10


@pytest.fixture(scope="module")
def pair(digits):
    return {name: trained.judge(digits, JudgeConfig(name, **CONFIG)) for name in "AB"}


@pytest.fixture(scope="module", params="AB")
def judge(request, pair):
    return pair[request.param]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shapes_of(judge):
    return {tuple(weight.shape) for weight in judge.state_dict().values() if weight.ndim > 1}


def test_a_and_b_share_neither_architecture_nor_weights(pair):
    assert shapes_of(pair["A"]).isdisjoint(shapes_of(pair["B"]))
    layers_a, layers_b = ([type(layer).__name__ for layer in judge.body] for judge in pair.values())
    assert layers_a != layers_b


def test_they_recognize_test_digits(judge, digits):
    probabilities = judge.probabilities(digits.test_images)
    right = (probabilities.argmax(1) == digits.test_labels).float()
    assert right.mean() >= 0.97
    assert probabilities[range(360), digits.test_labels].mean() >= 0.95
    for k in range(10):
        assert right[digits.test_labels == k].mean() >= 0.85, k


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


def refusals(judge, images):
    """The mean probability of "not a digit", and the share of images for which it is above one half."""
    refused = judge.probabilities(images)[:, NOT_A_DIGIT]
    return float(refused.mean()), float((refused > 0.5).float().mean())


@pytest.mark.parametrize("kind", [gray, noise, salt_and_pepper, blends])
def test_they_recognize_images_that_show_no_digit(judge, digits, kind):
    assert min(refusals(judge, kind(digits))) >= 0.95


def test_exact_gray_is_no_digit_at_all(judge):
    probabilities = judge.probabilities(torch.full((1, 1, 28, 28), 0.5))[0]
    assert probabilities[NOT_A_DIGIT] > 0.99
    assert probabilities[:NOT_A_DIGIT].max() < 0.01


@pytest.mark.parametrize("kernel", [1, 3], ids=["sharp", "blurred"])
def test_digits_are_not_refused(judge, digits, kernel):
    images = F.avg_pool2d(digits.test_images, kernel, stride=1, padding=kernel // 2)
    assert max(refusals(judge, images)) <= 0.01


def test_probabilities_sum_to_one_in_any_batches(judge, digits):
    probabilities = judge.probabilities(digits.test_images)
    assert probabilities.shape == (360, NOT_A_DIGIT + 1)
    assert not probabilities.requires_grad
    assert probabilities.min() >= 0
    torch.testing.assert_close(probabilities.sum(1), torch.ones(360))
    torch.testing.assert_close(judge.probabilities(digits.test_images, batch=7), probabilities)


def test_gradients_reach_the_images_and_not_the_judge(judge, digits):
    assert not judge.training
    assert not any(weight.requires_grad for weight in judge.parameters())
    images = digits.test_images[:5].clone().requires_grad_()
    gradient, = torch.autograd.grad(judge(images).logsumexp(1).sum(), images)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def with_fresh_non_digits(images, labels):
    """And a tenth as many non-digits as there are digits."""
    extra = not_digits(images, labels, len(images) // 10, generator(7))
    return torch.cat([images, extra]), torch.cat([labels, torch.full((len(extra),), NOT_A_DIGIT)])


def cross_entropy(judge, images, labels):
    return F.cross_entropy(judge(images), labels).item()


def uncalibrated(judge, sharpness=1.0):
    """A copy of the judge with a temperature of 1 and logits that are `sharpness` times as large."""
    plain = copy.deepcopy(judge)
    plain.temperature.fill_(1)
    plain.head.weight.mul_(sharpness)
    plain.head.bias.mul_(sharpness)
    return plain


def calibrated(judge, images, labels):
    result = copy.deepcopy(judge)
    calibrate(result, images, labels)
    return result


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_calibration_lowers_the_cross_entropy_and_finds_the_temperature(judge, digits, sharpness):
    images, labels = with_fresh_non_digits(digits.test_images, digits.test_labels)
    lowest, highest = 0.25, 4.0  # of the temperatures that are tried
    right = calibrated(uncalibrated(judge), images, labels).temperature.item()
    assert right > lowest
    assert right < 1.3
    before = uncalibrated(judge, sharpness)
    after = calibrated(before, images, labels)
    expected = min(highest, max(lowest, sharpness * right))
    assert after.temperature.item() == pytest.approx(expected, rel=0.03)
    assert cross_entropy(after, images, labels) <= cross_entropy(before, images, labels) + 1e-6


def test_calibrating_twice_changes_nothing(judge, digits):
    images, labels = with_fresh_non_digits(digits.test_images, digits.test_labels)
    once = calibrated(judge, images, labels)
    assert calibrated(once, images, labels).temperature == once.temperature


def test_calibration_lowers_the_cross_entropy_of_held_out_images(judge, digits):
    held_out = len(digits.train_labels) // 5
    images, labels = with_fresh_non_digits(digits.train_images[-held_out:], digits.train_labels[-held_out:])
    assert judge.temperature != 1
    assert cross_entropy(judge, images, labels) < cross_entropy(uncalibrated(judge), images, labels)


def test_held_out_images_have_no_part_in_the_batch_statistics(judge, digits):
    held_out = len(digits.train_labels) // 5
    steps = CONFIG["epochs"] * ((len(digits.train_labels) - held_out) // CONFIG["batch"])
    assert judge.body[1].num_batches_tracked == steps


def test_not_digits_are_images_and_determined_by_the_generator(digits):
    state = torch.get_rng_state()
    one, same, other = (not_digits(digits.test_images, digits.test_labels, 500, generator(seed))
                        for seed in (0, 0, 1))
    assert one.shape == (500, 1, 28, 28)
    assert one.dtype == torch.float32
    assert one.min() >= 0
    assert one.max() <= 1
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len(one.flatten(1).unique(dim=0)) == 500, "no image comes twice"
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"


def shares_of_blends_and_flat_images(labels):
    """Among 3000 non-digits made from images with these labels."""
    # Stripes that are alike in every row: a blend of them still has equal rows, and nothing else does.
    stripes = torch.rand(200, 1, 1, 28, generator=generator(2)).expand(-1, 1, 28, 28).contiguous()
    drawn = not_digits(stripes, labels, 3000, generator())
    blend = drawn.std(2).amax((1, 2)) < 1e-6
    flat = ~blend & (drawn.std((1, 2, 3)) < 0.1)
    return blend.float().mean().item(), flat.float().mean().item()


def test_a_third_each_is_gray_noise_and_blend_of_several_classes():
    blend, flat = shares_of_blends_and_flat_images(torch.arange(200) % 10)
    third = 1 / 3
    assert blend > third - 0.05  # some blends are of fewer than three classes, and gray replaces them
    assert blend < third + 0.02
    assert flat > third - 0.05
    assert flat < third + 0.12  # faint noise counts too


@pytest.mark.parametrize("number", [1, 2])
def test_there_are_no_blends_of_one_or_two_classes_which_might_be_digits(number):
    blend, flat = shares_of_blends_and_flat_images(torch.arange(200) % number)
    assert blend < 0.01
    assert flat > 0.5


def test_the_feature_network_recognizes_ten_digits_and_gives_features(digits):
    network = trained.judge(digits, JudgeConfig("features", **CONFIG))
    assert network(digits.test_images).shape == (360, 10)
    assert (network.probabilities(digits.test_images).argmax(1) == digits.test_labels).float().mean() >= 0.95
    features = network.features(digits.test_images)
    assert features.shape == (360, 64)
    assert features.std(0).max() > 0
    torch.testing.assert_close(network.head(features) / network.temperature, network(digits.test_images))


def test_the_seed_decides(digits):
    config = JudgeConfig("B", epochs=1, batch=64)
    one, same, other = (tensor_digest(new_judge(digits, config, seed)[0].state_dict()) for seed in (0, 0, 1))
    assert one == same
    assert one != other


@pytest.mark.parametrize("name", ["C", "", "a", None])
def test_there_is_no_other_judge(name):
    with pytest.raises(ValueError, match=f"^name must be one of A, B, features, got {name!r}$"):
        JudgeConfig(name)
