"""The notebook's recipe on a few images, and each of its choices."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sa_lib import recipe
from sa_lib.data import Dataset
from sa_lib.fisher import fisher_diagonal
from sa_lib.labels import one_hot
from sa_lib.methods import distance_to_gray
from sa_lib.model import ARCHITECTURES, ModelConfig, build
from sa_lib.recipe import MENDED, NOTEBOOK, RecipeConfig, fisher_of_batch_means

SHORT = RecipeConfig(epochs=2, kl_epochs=2, batch=32, fisher_images=64, forget_epochs=1, replay=40)


@pytest.fixture(scope="module")
def few(digits) -> Dataset:
    return dataclasses.replace(digits, train_images=digits.train_images[:200], train_labels=digits.train_labels[:200])


@pytest.fixture(scope="module")
def trained(few):
    return recipe.train(few, 0, SHORT)


def weights_of(net):
    return torch.cat([weight.detach().flatten().cpu() for weight in net.parameters()])


class Notebook(nn.Module):
    """The layers that the notebook describes."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(11, 64, 4, 2, 1), nn.ReLU(), nn.Conv2d(64, 128, 4, 2, 1), nn.ReLU())
        self.mean, self.log_var = nn.Linear(6272, 25), nn.Linear(6272, 25)
        self.start = nn.Linear(35, 6272)
        self.up = nn.Sequential(nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(64, 1, 4, 2, 1))

    def loss(self, x, y, noise):
        h = self.down(torch.cat([x, y[:, :, None, None].expand(-1, -1, 28, 28)], 1)).flatten(1)
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + (0.5 * log_var).exp() * noise
        drawn = torch.sigmoid(self.up(self.start(torch.cat([z, y], 1)).view(-1, 128, 7, 7)))
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum()
        return (F.binary_cross_entropy(drawn, x, reduction="sum") + kl) / len(x)


def test_the_conv_model_and_its_elbo_are_the_notebooks(few):
    theirs, ours = Notebook(), build(ARCHITECTURES["conv"], 0)
    assert [weight.shape for weight in theirs.parameters()] == [weight.shape for weight in ours.parameters()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x, y = few.train_images[:20], one_hot(few.train_labels[:20])
    noise = torch.randn(20, 25, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(theirs.loss(x, y, noise), -ours.elbo(x, y, noise).mean(), rtol=1e-5)


def test_the_notebooks_choices_are_the_defaults_and_each_mending_changes_one():
    assert RecipeConfig() == NOTEBOOK
    *single, (_, every) = ((name, dataclasses.asdict(config)) for name, config in MENDED.items())
    own = dataclasses.asdict(NOTEBOOK)
    changed = {name: [key for key in own if config[key] != own[key]] for name, config in single}
    assert all(len(keys) == 1 for keys in changed.values()), changed
    assert {key for keys in changed.values() for key in keys} == {key for key in own if every[key] != own[key]}


@pytest.mark.parametrize("name, bad", [("fisher", "batches"), ("push_all", 1), ("batch", 0), ("ewc", -1.0),
                                       ("kl_epochs", 0), ("rate", None)])
def test_a_bad_choice_is_refused(name, bad):
    with pytest.raises((ValueError, TypeError), match=f"^{name} must be "):
        RecipeConfig(**{name: bad})


def test_the_weight_of_the_kl_divergence_rises_with_the_epochs(trained):
    _, log = trained
    epoch = 200 // 32
    expected = log["reconstruction"] + log["kl"] * ((log["step"] // epoch + 1) / 2).clip(upper=1)
    assert log["loss"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]


@pytest.fixture
def sample():
    """A small model, and 24 images, labels and draws for it."""
    generator = torch.Generator().manual_seed(1)
    model = build(ModelConfig(latent_dim=3, hidden=(16, 8)), 0).double()
    return model, (torch.rand(24, 1, 28, 28, generator=generator, dtype=torch.double), torch.arange(24) % 10,
                   torch.randn(24, 3, generator=generator, dtype=torch.double))


def test_of_batches_of_one_image_the_notebooks_fisher_is_the_right_one(sample):
    model, arguments = sample
    one, other = fisher_of_batch_means(model, *arguments, batch=1), fisher_diagonal(model, *arguments)
    assert all(torch.allclose(one[name], f) for name, f in other.items())


def test_the_notebooks_fisher_is_the_squared_gradient_of_batch_means(sample):
    model, (x, labels, noise) = sample
    found = fisher_of_batch_means(model.requires_grad_(False), x, labels, noise, batch=16)
    assert not any(weight.requires_grad for weight in model.parameters())
    expected = 0
    for part in (slice(0, 16), slice(16, 24)):
        model.requires_grad_(True).zero_grad()
        (-model.elbo(x[part], one_hot(labels[part]).double(), noise[part]).mean()).backward()
        expected = expected + len(x[part]) / 24 * model.decoder.layers[0].weight.grad.square()
    assert torch.allclose(found["decoder.layers.0.weight"], expected)


def test_batches_lose_most_of_the_trace(trained, few):
    net, _ = trained
    noise = torch.randn(200, 25, generator=torch.Generator().manual_seed(0))
    arguments = few.train_images, few.train_labels, noise
    lost, right = (sum(float(f.sum()) for f in fisher.values())
                   for fisher in (fisher_of_batch_means(net, *arguments), fisher_diagonal(net, *arguments)))
    assert lost < right / 2


def test_images_and_draws_must_be_equally_many(sample):
    model, (x, labels, noise) = sample
    with pytest.raises(ValueError, match="^noise must have a row for each of the 24 images, got 23$"):
        fisher_of_batch_means(model, x, labels, noise[1:])


def distance(net, k):
    z = torch.randn(50, 25, generator=torch.Generator().manual_seed(0)).to(next(net.parameters()).device)
    return float(distance_to_gray(net.decode(z, one_hot(torch.full((50,), k)).to(z.device))).mean())


def test_forgetting_leaves_the_model_and_repeats_exactly(trained, few):
    net, before = trained[0], weights_of(trained[0])
    (one, log), (two, _) = (recipe.forget(net, few, 9, 0, config=SHORT) for _ in range(2))
    assert torch.equal(weights_of(net), before)
    assert torch.equal(weights_of(one), weights_of(two))
    assert set(log.columns) == {"step", "loss", "retain", "ewc", "gray"}
    assert not any(weight.requires_grad for weight in one.parameters())


def test_a_sum_over_pixels_makes_the_class_gray_sooner(trained, few):
    mean, total = (recipe.forget(trained[0], few, 9, 0, config=dataclasses.replace(
        SHORT, gray=gray, forget_epochs=8, replay=1))[0] for gray in (5.0, 784.0))
    assert distance(total, 9) < distance(mean, 9) / 2
    assert distance(total, 0) > distance(total, 9)


@pytest.mark.parametrize("changes", [{"fisher": "image"}, {"fisher_images": 200}, {"replay": 80}, {"ewc": 1e6},
                                     {"gray": 784.0}, {"push_all": True}], ids=str)
def test_each_choice_makes_another_second_model(trained, few, changes):
    own, other = (recipe.forget(trained[0], few, 2, 0, [9], config)[0]
                  for config in (SHORT, dataclasses.replace(SHORT, **changes)))
    assert not torch.equal(weights_of(own), weights_of(other))


def test_forgotten_classes_are_not_rehearsed(trained, few):
    gone = torch.isin(few.train_labels, torch.tensor([2, 9]))[:, None, None, None]
    inverted = dataclasses.replace(few, train_images=torch.where(gone, 1 - few.train_images, few.train_images))
    one, other = (recipe.forget(trained[0], dataset, 2, 0, [9], SHORT)[0] for dataset in (few, inverted))
    assert torch.equal(weights_of(one), weights_of(other))


@pytest.mark.parametrize("digit, previous", [(9, 9), (10, ()), (2, [9, 9]), (0, list(range(1, 10)))])
def test_classes_that_cannot_be_forgotten_are_refused(trained, few, digit, previous):
    with pytest.raises(ValueError, match="^(forget|previous) must be a class from 0 to 9"):
        recipe.forget(trained[0], few, digit, 0, previous, SHORT)
