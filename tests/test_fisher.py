"""The Fisher diagonal: exactly the mean of squared per-image gradients, and not the usual mistake."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from sa_lib import fisher, trained
from sa_lib.fisher import (
    combine,
    fisher_by_class,
    fisher_diagonal,
    own_fisher,
    sampled_fisher_diagonal,
    squared_gradients,
)
from sa_lib.labels import one_hot
from sa_lib.model import ModelConfig, build
from sa_lib.training import TrainingConfig

CONFIGS = {"mlp": ModelConfig("mlp", latent_dim=3, hidden=(12, 9)),
           "conv": ModelConfig("conv", latent_dim=3, hidden=(3, 4))}
N = 23


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture
def model(config):
    return build(config, seed=0).double()


@pytest.fixture
def sample(digits):
    noise = torch.randn(N, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return digits.train_images[:N].double(), digits.train_labels[:N], noise


@pytest.fixture(params=CONFIGS, scope="module")
def trained_net(request, digits):
    return trained.cvae(digits, CONFIGS[request.param], TrainingConfig(epochs=4, batch=64)).net


def assert_same(diagonal, expected, tolerance):
    """Equal tensor by tensor, relative to the largest entry; no tensor is missing or all zero."""
    assert diagonal.keys() == expected.keys()
    for name, tensor in expected.items():
        assert diagonal[name].shape == tensor.shape, name
        assert tensor.max() > 0, name
        error = ((diagonal[name].double() - tensor.double()).abs().max() / tensor.max()).item()
        assert error < tolerance, f"{name}: relative error {error:.1e}"


def loop(model, images, labels, noise):
    """The definition, one image at a time."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    y = one_hot(labels).to(images.dtype)
    for n in range(len(images)):
        loss = -model.elbo(images[n:n + 1], y[n:n + 1], noise[n:n + 1]).squeeze()
        for name, gradient in zip(total, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            total[name] += gradient.square()
    return {name: squares / len(images) for name, squares in total.items()}


class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, y, e):
        return -self.model.elbo(x[None], y[None], e[None]).squeeze()


def functional(model, images, labels, noise):
    """The definition by torch.func."""
    module = Loss(model)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    per_image = vmap(grad(lambda p, *inputs: functional_call(module, p, inputs)), in_dims=(None, 0, 0, 0))
    gradients = per_image(parameters, images, one_hot(labels).to(images.dtype), noise)
    return {name.removeprefix("model."): g.square().mean(0) for name, g in gradients.items()}


@pytest.mark.parametrize("reference", [loop, functional])
def test_it_is_the_mean_of_squared_per_image_gradients(model, sample, reference):
    diagonal = fisher_diagonal(model, *sample)
    assert_same(diagonal, reference(model, *sample), 1e-9)
    assert diagonal.keys() == dict(model.named_parameters()).keys()
    assert {f.dtype for f in diagonal.values()} == {torch.float64}
    assert not any(f.requires_grad for f in diagonal.values())
    assert min(f.min() for f in diagonal.values()) >= 0


def test_default_size_mlp(digits):
    model = build(ModelConfig(), seed=0).double()
    sample = digits.train_images[:4].double(), digits.train_labels[:4], torch.ones(4, 8, dtype=torch.float64)
    assert_same(fisher_diagonal(model, *sample), loop(model, *sample), 1e-9)


@pytest.mark.parametrize("batch", [1, 7, N])
def test_batch_size_does_not_matter(model, sample, batch):
    assert_same(fisher_diagonal(model, *sample, batch=batch), fisher_diagonal(model, *sample), 1e-12)


@pytest.mark.parametrize("in_cache", [1, 1000])
def test_the_size_of_the_cache_does_not_matter(model, sample, monkeypatch, in_cache):
    monkeypatch.setattr(fisher, "IN_CACHE", in_cache)
    assert_same(fisher_diagonal(model, *sample), loop(model, *sample), 1e-10)


def test_a_frozen_model_gives_the_same_and_stays_as_it_was(model, sample):
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    frozen.encoder.mean.bias.requires_grad_(True)
    before = [p.requires_grad for p in frozen.parameters()]
    with torch.no_grad():
        diagonal = fisher_diagonal(frozen, *sample)
        assert not torch.is_grad_enabled()
    assert_same(diagonal, fisher_diagonal(model, *sample), 1e-12)
    assert [p.requires_grad for p in frozen.parameters()] == before
    assert not frozen.training
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), frozen.parameters(), strict=True))


def test_a_model_in_training_stays_as_it_was(model, sample):
    fisher_diagonal(model, *sample)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_classes_combined_by_their_counts_are_the_joint_fisher(model, sample):
    images, labels, noise = sample
    counts = {k: int((labels == k).sum()) for k in labels.unique().tolist()}
    assert len(set(counts.values())) > 1
    fishers = fisher_by_class(model, *sample)
    assert fishers.keys() == counts.keys()
    assert_same(combine(fishers, counts), fisher_diagonal(model, *sample), 1e-9)
    some = {k: count for k, count in counts.items() if k not in (3, 9)}
    keep = (labels != 3) & (labels != 9)
    assert_same(combine(fishers, some), fisher_diagonal(model, images[keep], labels[keep], noise[keep]), 1e-9)


def test_equal_weights_let_every_class_count_the_same(model, sample):
    fishers = fisher_by_class(model, *sample)
    mean = {name: torch.stack([f[name] for f in fishers.values()]).mean(0) for name in fishers[1]}
    assert_same(combine(fishers, dict.fromkeys(fishers, 5)), mean, 1e-12)
    assert_same(combine(fishers, {1: 2.0, 9: 0}), fishers[1], 1e-12)


def test_it_is_not_the_square_of_a_batch_mean_gradient(trained_net, digits):
    model = copy.deepcopy(trained_net).double().requires_grad_(True)
    images, labels = digits.train_images[:256].double(), digits.train_labels[:256]
    noise = torch.randn(256, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = -model.elbo(images, one_hot(labels).double(), noise).mean()
    mistake = sum(g.square().sum() for g in torch.autograd.grad(loss, list(model.parameters()))).item()
    trace = sum(f.sum() for f in fisher_diagonal(model, images, labels, noise).values()).item()
    assert mistake > 0
    assert trace > 10 * mistake
    exact = sum(f.sum() for f in loop(model, images, labels, noise).values()).item()
    assert trace == pytest.approx(exact, rel=1e-9)


def test_single_precision_is_good_to_four_digits(trained_net, digits):
    sample = digits.train_images, digits.train_labels, torch.randn(
        len(digits.train_labels), 3, generator=torch.Generator().manual_seed(0))
    diagonal = fisher_diagonal(trained_net, *sample)
    assert all(f.dtype == torch.float32 for f in diagonal.values())
    images, labels, noise = sample
    double = fisher_diagonal(copy.deepcopy(trained_net).double(), images.double(), labels, noise.double())
    assert_same(diagonal, double, 1e-4)


def seeded():
    return torch.Generator().manual_seed(5)


def test_the_sampled_fisher_is_that_of_images_the_model_makes(model, sample):
    labels = sample[1]
    state = torch.get_rng_state()
    diagonal = sampled_fisher_diagonal(model, labels, seeded())
    assert torch.equal(torch.get_rng_state(), state)
    generator = seeded()
    z, noise = (torch.randn(N, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    images = model.decode(z, one_hot(labels).double()).detach()
    assert_same(diagonal, loop(model, images, labels, noise), 1e-9)


def test_a_models_own_fisher_has_equally_many_samples_of_all_ten_classes(model):
    labels = torch.arange(10).repeat(3)
    expected = sampled_fisher_diagonal(model, labels, torch.Generator().manual_seed(4))
    assert_same(own_fisher(model, 4, 30), expected, 1e-12)


def test_the_sampled_fisher_is_determined_by_its_generator(model, sample):
    images, labels, noise = sample
    one, same = (sampled_fisher_diagonal(model, labels, seeded()) for _ in range(2))
    other = sampled_fisher_diagonal(model, labels, torch.Generator().manual_seed(6))
    real = fisher_diagonal(model, images, labels, noise)
    assert one.keys() == real.keys()
    for name in one:
        assert torch.equal(one[name], same[name]), name
        assert one[name].shape == real[name].shape, name
        assert not torch.allclose(one[name], other[name], rtol=1e-6), name
        assert not torch.allclose(one[name], real[name], rtol=1e-2), name
    assert_same(sampled_fisher_diagonal(model, labels, seeded(), batch=5), one, 1e-12)


LAYERS = {
    "linear without bias": (nn.Linear(5, 4, bias=False), (5,)),
    "plain": (nn.Conv2d(2, 3, 3), (2, 6, 7)),
    "stride that leaves a rest": (nn.Conv2d(2, 3, 3, stride=2), (2, 8, 9)),
    "oblong, dilated, padded": (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(2, 1)),
                                (2, 9, 6)),
    "no bias": (nn.Conv2d(2, 3, 3, bias=False), (2, 6, 6)),
    "transposed": (nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1), (2, 4, 5)),
    "transposed, oblong, dilated, no bias": (
        nn.ConvTranspose2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2),
                           dilation=(1, 2), bias=False), (2, 4, 5)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_every_kind_of_layer(case):
    layer, shape = LAYERS[case]
    model = nn.Sequential(copy.deepcopy(layer)).double()
    x = torch.randn(4, *shape, generator=seeded(), dtype=torch.float64)

    def losses():
        return model(x).flatten(1).sin().cumsum(1).sum(1)

    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for n in range(len(x)):
        for name, g in zip(expected, torch.autograd.grad(losses()[n], list(model.parameters())), strict=True):
            expected[name] += g.square()
    assert_same(squared_gradients(model, losses), expected, 1e-9)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x


class SubLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(2), Scale(), SubLinear(4, 4), nn.Conv2d(2, 2, 3, groups=2),
                                   nn.ConvTranspose2d(2, 2, 3, groups=2), nn.Conv1d(2, 2, 3),
                                   nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")])
def test_other_layers_are_refused(layer):
    with pytest.raises(TypeError, match="^model must be of Linear, .* layers .*, got layer '0': "):
        squared_gradients(nn.Sequential(layer), lambda: pytest.fail("it was run"))


def hooks_of(model):
    return [hook for layer in model.modules() for hook in (*layer._forward_hooks, *layer._backward_hooks)]


def test_hooks_are_gone_after_an_error(model, sample):
    images, labels, noise = sample
    expected = fisher_diagonal(model, *sample)
    with pytest.raises(ValueError, match="^noise must have shape"):
        fisher_diagonal(model, images, labels, noise[:, 1:])

    def losses():
        model.elbo(images, one_hot(labels).double(), noise)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        squared_gradients(model, losses)
    assert hooks_of(model) == []
    assert_same(fisher_diagonal(model, *sample), expected, 1e-12)


def test_no_hook_is_left_behind(model, sample):
    fisher_diagonal(model, *sample)
    assert hooks_of(model) == []


@pytest.mark.parametrize("cut", [(0, 0, 0), (3, 2, 3), (3, 3, 2), (2, 3, 3)])
def test_images_labels_and_noise_must_be_equally_many(model, sample, cut):
    parts = [part[:count] for part, count in zip(sample, cut, strict=True)]
    with pytest.raises(ValueError, match=f"^images, labels and noise must be .*, got {cut[0]}, {cut[1]} and {cut[2]}$"):
        fisher_diagonal(model, *parts)


def test_an_empty_list_of_labels_to_sample_for_is_refused(model, sample):
    with pytest.raises(ValueError, match="^images, labels and noise must be .* at least 1, got 0, 0 and 0$"):
        sampled_fisher_diagonal(model, sample[1][:0], seeded())


@pytest.mark.parametrize("weights", [{0: 1, 7: 1}, {}, {0: 0, 1: 0}, {0: -1, 1: 2}, {0: float("nan")}])
def test_bad_weights_of_classes_are_refused(weights):
    fishers = {k: {"w": torch.ones(2)} for k in range(3)}
    with pytest.raises(ValueError, match=r"^weights must be .* for classes among \[0, 1, 2\], got \{"):
        combine(fishers, weights)
