"""The CVAE: its shapes, and its ELBO against the formula written with torch.distributions."""

import dataclasses
import json
import re

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from sa_lib.labels import one_hot
from sa_lib.model import ARCHITECTURES, ModelConfig, build, copy_of

SMALL = {"mlp": ModelConfig("mlp", latent_dim=3, hidden=(12, 9)),
         "conv": ModelConfig("conv", latent_dim=4, hidden=(3, 5))}


@pytest.fixture(params=SMALL)
def model(request):
    return build(SMALL[request.param], seed=0).double()


def draw(model, count=6, seed=0):
    """Gray images, real label vectors and noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 28, 28, generator=generator, dtype=torch.float64)
    y = torch.randn(count, 10, generator=generator, dtype=torch.float64)
    return x, y, torch.randn(count, model.config.latent_dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shapes_of_the_two_architectures(architecture):
    config = ARCHITECTURES[architecture]
    model = build(config, seed=0)
    x, y, z = torch.rand(3, 1, 28, 28), one_hot(torch.tensor([0, 5, 9])), torch.randn(3, config.latent_dim)
    assert [t.shape for t in model.encode(x, y)] == [(3, config.latent_dim)] * 2
    assert model.decode(z, y).shape == (3, 1, 28, 28)
    assert model.decode_logits(z, y).shape == (3, 1, 28, 28)
    assert [t.shape for t in model.elbo_terms(x, y, z)] == [(3,)] * 2
    assert model.elbo(x[:1], y[:1], z[:1]).shape == (1,)


def test_the_default_is_the_network_of_the_paper():
    shapes = {name: tuple(p.shape) for name, p in build(ModelConfig(), seed=0).named_parameters()}
    assert [shape for name, shape in shapes.items() if name.endswith("weight")] == [
        (512, 794), (256, 512), (8, 256), (8, 256), (256, 18), (512, 256), (784, 512)]


def test_elbo_is_the_textbook_formula(model):
    x, y, noise = draw(model)
    mean, log_var = model.encode(x, y)
    posterior = Normal(mean, (log_var / 2).exp())
    likelihood = Bernoulli(model.decode(mean + posterior.scale * noise, y), validate_args=False)
    expected = likelihood.log_prob(x).sum((1, 2, 3))
    divergence = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1)
    reconstruction, kl = model.elbo_terms(x, y, noise)
    torch.testing.assert_close(reconstruction, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(kl, divergence, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.elbo(x, y, noise), expected - divergence, rtol=1e-10, atol=0)


def test_each_image_has_its_own_elbo(model):
    x, y, noise = draw(model)
    alone = torch.cat([model.elbo(x[n:n + 1], y[n:n + 1], noise[n:n + 1]) for n in range(len(x))])
    torch.testing.assert_close(alone, model.elbo(x, y, noise), rtol=1e-12, atol=0)
    assert len(alone.unique()) == len(x)


def test_elbo_is_finite_where_the_decoder_is_sure(model):
    x, y, noise = draw(model)
    last = [p for p in model.decoder.parameters() if p.ndim == 1][-1]
    with torch.no_grad():
        last.fill_(1e4)
    likelihood, kl = model.elbo_terms(torch.zeros_like(x), y, noise)
    assert likelihood.isfinite().all()
    assert (likelihood < -7e6).all()


def test_decode_is_in_the_unit_interval_and_the_sigmoid_of_its_logits(model):
    x, y, z = draw(model)
    for scale in (1, 1e4):
        image = model.decode(scale * z, scale * y)
        assert image.min() >= 0
        assert image.max() <= 1
        torch.testing.assert_close(image, 1 / (1 + (-model.decode_logits(scale * z, scale * y)).exp()))


def test_labels_may_be_any_real_vectors_and_gradients_reach_x_y_and_z(model):
    x, y, z = (t.requires_grad_() for t in draw(model))
    for gradient in torch.autograd.grad(model.decode(z, y).square().sum(), (z, y)):
        assert (gradient.abs().sum(1) > 0).all()
    for gradient in torch.autograd.grad(model.elbo(x, y, z).sum(), (x, y, z)):
        assert (gradient.flatten(1).abs().sum(1) > 0).all()
    assert torch.autograd.gradcheck(lambda y, z: model.elbo(x.detach(), y, z), (y, z), atol=1e-4)


def test_the_label_is_seen_by_both_halves(model):
    x, y, z = draw(model)
    assert not torch.allclose(model.encode(x, y)[0], model.encode(x, y + 1)[0])
    assert not torch.allclose(model.decode(z, y), model.decode(z, y + 1))


def test_encode_and_decode_do_not_draw(model):
    x, y, z = draw(model)
    state = torch.get_rng_state()
    assert torch.equal(model.elbo(x, y, z), model.elbo(x, y, z))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_build_is_drawn_from_the_seed_alone(config):
    state = torch.get_rng_state()
    one = build(config, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    same, other = build(config, seed=1).state_dict(), build(config, seed=2).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_a_copy_has_weights_of_its_own(model):
    copy = copy_of(model.float())
    before = copy.encoder.mean.weight.clone()
    assert copy.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(weight, copy.state_dict()[name]) for name, weight in model.state_dict().items())
    with torch.no_grad():
        model.encoder.mean.weight += 1
    assert torch.equal(copy.encoder.mean.weight, before)


@pytest.mark.parametrize("name, bad", [
    ("x", torch.zeros(6, 784)), ("x", torch.zeros(6, 28, 28)), ("x", torch.zeros(6, 1, 32, 32)),
    ("x", torch.zeros(6, 3, 28, 28)),
    ("y", torch.zeros(6)), ("y", torch.zeros(6, 9)), ("y", torch.zeros(6, 11)),
    ("z", torch.zeros(6, 2)), ("z", torch.zeros(6)), ("z", torch.zeros(6, 5)),
    ("noise", torch.zeros(6, 1)), ("noise", torch.zeros(6))])
def test_wrong_shapes_are_named(model, name, bad):
    inputs = dict(zip(("x", "y", "z"), draw(model), strict=True))
    inputs["noise"] = inputs["z"]
    inputs[name] = bad.double()
    with pytest.raises(ValueError, match=rf"^{name} must have shape \[N, [0-9, ]+\], got \[6.*\]$"):
        model.decode(inputs["z"], inputs["y"])
        model.elbo(inputs["x"], inputs["y"], inputs["noise"])


def test_an_input_of_another_precision_is_named(model):
    x, y, noise = draw(model)
    with pytest.raises(ValueError, match="^x must have .* torch.float64, got 6 of torch.float32$"):
        model.elbo(x.float(), y, noise)


@pytest.mark.parametrize("name, bad", [
    ("architecture", "vit"), ("architecture", None), ("latent_dim", 0), ("latent_dim", -3), ("latent_dim", 8.0),
    ("latent_dim", True), ("latent_dim", "8"), ("latent_dim", 65537), ("hidden", (512,)), ("hidden", (1, 2, 3)),
    ("hidden", (512, 0)), ("hidden", "ab")])
def test_bad_configurations_are_refused(name, bad):
    with pytest.raises(ValueError, match=f"{name} .*must be .*{re.escape(repr(bad))}"):
        ModelConfig(**{name: bad})


@pytest.mark.parametrize("config", [*SMALL.values(), *ARCHITECTURES.values()])
def test_a_configuration_survives_json(config):
    assert ModelConfig(**json.loads(json.dumps(config.asdict()))) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.latent_dim = 3


OTHER = [ModelConfig("mlp", 3, (12, 9), classes=5, image_shape=(3, 9, 7)),
         ModelConfig("conv", 4, (3, 5), classes=12, image_shape=(3, 32, 20))]


@pytest.mark.parametrize("config", OTHER, ids=lambda config: config.architecture)
def test_classes_and_the_shape_of_an_image_may_be_others(config):
    model = build(config, seed=0)
    x, y, z = torch.rand(6, *config.image_shape), torch.rand(6, config.classes), torch.randn(6, config.latent_dim)
    assert model.decode(z, y).shape == x.shape
    assert model.elbo(x, y, z).shape == (6,)
    assert ModelConfig(**json.loads(json.dumps(config.asdict()))) == config
    assert copy_of(model).config == config
    with pytest.raises(ValueError, match=rf"^y must have shape \[N, {config.classes}\], got \[6, 10\]$"):
        model.decode(z, torch.rand(6, 10))


def test_a_configuration_from_before_there_were_others_has_those_of_the_book():
    assert ModelConfig(**{"architecture": "mlp", "latent_dim": 8, "hidden": [512, 256]}) == ModelConfig()


@pytest.mark.parametrize("name, bad", [
    ("classes", 1), ("classes", 5.0), ("classes", None), ("image_shape", (28, 28)), ("image_shape", (1, 28, 0)),
    ("image_shape", 28), ("image_shape", "abc"), ("image_shape", (2**12, 2**12, 2)), ("image_shape", (1, 28, True))])
def test_other_bad_configurations_are_refused(name, bad):
    with pytest.raises(ValueError, match=f"^{name} must be .*, got {re.escape(repr(bad))}$"):
        ModelConfig(**{name: bad})


def test_convolutions_need_sides_that_they_can_halve_twice():
    with pytest.raises(ValueError, match=r"^image_shape must have .* divisible by 4 .* conv, got \(1, 28, 30\);"):
        ModelConfig("conv", image_shape=(1, 28, 30))
    ModelConfig("mlp", image_shape=(1, 28, 30))
