"""What every method promises, and the form that lets its loss run for many models at once."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from sa_lib.labels import one_hot
from sa_lib.methods import METHODS, salun, surgery, uno
from sa_lib.model import ModelConfig, build
from sa_lib.unlearning import Batch, gradients

MODEL = ModelConfig(latent_dim=2, hidden=(8, 4))


def sample(generator, labels):
    return (torch.rand(len(labels), 1, 28, 28, generator=generator, dtype=torch.double),
            one_hot(torch.tensor(labels)).double(),
            torch.randn(len(labels), 2, generator=generator, dtype=torch.double))


@pytest.fixture
def batch():
    """A batch of five retained images, and four of a forgotten 3."""
    generator = torch.Generator().manual_seed(0)
    real, replay, forgotten, noise = (sample(generator, labels) for labels in ([0, 1, 2, 4, 5], [9, 8, 7, 6, 5],
                                                                               [3] * 4, [3] * 4))
    return Batch(real, replay, (forgotten[2], forgotten[1]), sample(generator, [0, 1, 2, 4])[0], forgotten, noise,
                 replay[2].flip(0))


@pytest.fixture
def nets():
    return [build(MODEL, seed).double() for seed in range(3)]


@pytest.fixture
def theta(nets):
    """Anchor weights and a Fisher."""
    anchor = {name: weight.detach() for name, weight in build(MODEL, 9).double().named_parameters()}
    return anchor, {name: weight.square() for name, weight in anchor.items()}


def weights_of(net):
    return dict(net.named_parameters())


def inner(one, other):
    return float(sum((one[name] * other[name]).sum() for name in one))


class Terms(nn.Module):
    """The terms of a method's loss as the output of a module."""

    def __init__(self, net, method, theta):
        super().__init__()
        self.net, self.method, self.theta = net, method, theta

    def forward(self, batch):
        return self.method.loss(self.net, batch, self.method.config, *self.theta)


@pytest.mark.parametrize("name", METHODS)
def test_many_models_at_once_get_the_gradients_of_each_alone(name, nets, batch, theta):
    method = METHODS[name]
    module = Terms(nets[0], method, theta)
    stacked = {key: weight.detach() for key, weight in stack_module_state(nets)[0].items()}

    def term(weights, key):
        return functional_call(module, {f"net.{key}": weight for key, weight in weights.items()}, (batch,))[key]

    alone = [method.loss(net, batch, method.config, *theta) for net in nets]
    together = {key: vmap(grad(lambda weights, key=key: term(weights, key)))(stacked) for key in alone[0]}
    for index, (net, terms) in enumerate(zip(nets, alone)):
        own = gradients(terms, weights_of(net))
        for key, of_term in own.items():
            for weight, gradient in of_term.items():
                assert torch.allclose(together[key][weight][index], gradient, atol=1e-9), (key, weight)
        if method.combine:
            update, own_update = method.combine(together, stacked=True), method.combine(own)
            assert all(torch.allclose(update[weight][index], own_update[weight]) for weight in own_update)


@pytest.mark.parametrize("name", METHODS)
def test_only_a_method_with_the_penalty_asks_for_a_fisher(name):
    method = METHODS[name]
    assert method.config.ewc or not method.own


def test_only_selective_amnesia_as_published_takes_more_than_3200_updates():
    assert [name for name, method in METHODS.items() if method.config.steps > 3200] == ["selective_amnesia"]
    config = METHODS["selective_amnesia"].config
    assert (config.steps, config.batch, config.schedule, config.peak_lr) == (10_000, 256, "constant", 1e-4)


def test_after_surgery_a_small_step_leaves_the_retained_images_and_climbs_for_the_forgotten(nets, batch, theta):
    method = METHODS["gradient_surgery"]
    terms = gradients(method.loss(nets[0], batch, method.config, *theta), weights_of(nets[0]))
    update = surgery(terms)
    scale = inner(update, update) ** 0.5 * inner(terms["real"], terms["real"]) ** 0.5
    assert abs(inner(update, terms["real"])) < 1e-12 * scale
    assert inner(update, terms["forget"]) == pytest.approx(inner(update, update))
    assert inner(update, update) > 0


def test_surgery_leaves_a_gradient_that_is_orthogonal_already():
    terms = {"real": {"w": torch.tensor([1.0, 0.0])}, "forget": {"w": torch.tensor([0.0, 2.0])}}
    assert torch.equal(surgery(terms)["w"], terms["forget"]["w"])


def cosine(net, batch):
    of = {"forgotten": -net.elbo(*batch.forgotten).mean(),
          "retained": -net.elbo(*batch.real).mean() - net.elbo(
              batch.real[0][:4], batch.forgotten[1], batch.real[2][:4]).mean()}
    found = gradients(of, weights_of(net))
    one, other = found.values()
    return inner(one, other) / (inner(one, one) * inner(other, other)) ** 0.5


def test_uno_measures_the_squared_cosine_of_the_two_gradients(nets, batch, theta):
    terms = uno(nets[0], batch, replace(METHODS["uno"].config, forget=2.0), *theta)
    assert terms["forget"].item() == pytest.approx(2 * cosine(nets[0], batch) ** 2)


def test_unos_last_term_alone_makes_the_gradients_orthogonal(nets, batch, theta):
    net = nets[0]
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    before = abs(cosine(net, batch))
    for _ in range(60):
        optimizer.zero_grad()
        uno(net, batch, METHODS["uno"].config, *theta)["forget"].backward()
        optimizer.step()
    assert abs(cosine(net, batch)) < before / 10


def test_salun_moves_the_class_to_what_the_model_draws_for_the_next_one(nets, batch, theta):
    net, config = nets[0], replace(METHODS["salun"].config, forget=1.0)
    z, y = batch.asked
    other = net.decode(z, one_hot(torch.full((4,), 4)).double())
    terms = salun(net, batch, config, *theta)
    assert terms["forget"].item() == pytest.approx(((net.decode(z, y) - other).square().sum() / 4).item())
    expected = (net.decode(z, y) - other.detach()).square().sum() / 4
    found = gradients({"own": terms["forget"], "expected": expected}, weights_of(net))
    assert all(torch.allclose(found["own"][name], g) for name, g in found["expected"].items())


def test_the_class_after_9_is_0(nets, batch, theta):
    z, nine = batch.asked[0], one_hot(torch.full((4,), 9)).double()
    terms = salun(nets[0], replace(batch, asked=(z, nine)), replace(METHODS["salun"].config, forget=1.0), *theta)
    zero = one_hot(torch.zeros(4, dtype=torch.long)).double()
    assert terms["forget"].item() == pytest.approx(
        ((nets[0].decode(z, nine) - nets[0].decode(z, zero)).square().sum() / 4).item())
