"""Stacks: each model of a stack is the model that it would be alone."""

from dataclasses import replace

import pytest
import torch

from sa_lib import attacks, fisher, reconstruction, stack, training, unlearning
from sa_lib.judges import Judge
from sa_lib.methods import METHODS
from sa_lib.model import ModelConfig, build
from sa_lib.reconstruction import SearchConfig
from sa_lib.training import TrainingConfig

SHAPE = ModelConfig(latent_dim=3, hidden=(16, 12))
SEEDS = [0, 5]
LABEL = 3


@pytest.fixture(scope="module", autouse=True)
def in_float32():
    """Reduced precision would hide a difference, or make one."""
    patch = pytest.MonkeyPatch()
    patch.setattr("sa_lib.settings.native_bfloat16", lambda: False)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def pair():
    return stack.stacked([build(SHAPE, seed) for seed in SEEDS])


def close(model, other):
    for (name, weight), alone in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, alone, rtol=1e-3, atol=2e-4, msg=name)


def test_training(digits):
    config = TrainingConfig(epochs=2, batch=256)
    for seed in SEEDS:
        alone, _ = training.new_cvae(digits, SHAPE, config, seed, [LABEL])
        close(stack.train(digits, SHAPE, config, [seed], [LABEL]).models()[0], alone)


@pytest.mark.parametrize("name", METHODS)
def test_forgetting(digits, pair, name):
    method = METHODS[name]
    method = replace(method, config=replace(method.config, steps=3))
    for seed, model in zip(SEEDS, pair.models(), strict=True):
        protect = fisher.combine(fisher.dataset_fishers(model, digits, 0), dict.fromkeys([0, 1, 2], 1))
        together = stack.forget(stack.stacked([model]), digits, LABEL, method, [seed], [protect])
        alone, _ = unlearning.unlearned_copy(model, digits, [LABEL], protect, method.config, seed, method.loss,
                                             combine=method.combine)
        close(together.models()[0], alone)
        assert any(not torch.equal(weight, old) for weight, old in zip(alone.parameters(), model.parameters()))


def test_forgetting_several(digits, pair):
    """One after another, as chapter 3 does it: earlier classes are neither rehearsed nor left alone."""
    method = replace(METHODS["ewc_gray"], config=replace(METHODS["ewc_gray"].config, steps=3, ewc=0.0))
    for seed, model in zip(SEEDS, pair.models(), strict=True):
        together = stack.forget(stack.stacked([model]), digits, [LABEL, 1], method, [seed])
        alone, _ = unlearning.unlearned_copy(model, digits, [LABEL, 1], {}, method.config, seed, method.loss)
        close(together.models()[0], alone)
    with pytest.raises(ValueError, match="forget must be a class"):
        stack.forget(pair, digits, [LABEL, LABEL], method, SEEDS)


def test_the_models_of_a_stack_do_not_touch_each_other(digits, pair):
    """Beside another model, a model takes the steps that it takes beside itself."""
    for name in METHODS:
        method = replace(METHODS[name], config=replace(METHODS[name].config, steps=3, fresh=0.0))
        fishers = [{key: torch.rand_like(weight) for key, weight in model.named_parameters()}
                   for model in pair.models()]
        first = stack.forget(pair, digits, LABEL, method, SEEDS, fishers)
        other = stack.forget(pair[[0, 0]], digits, LABEL, method, [SEEDS[0]] * 2, fishers[:1] * 2)
        close(first.models()[0], other.models()[0])


def test_attacks(digits, pair):
    targets = digits.test_images[digits.test_labels == LABEL][:6]
    config = SearchConfig(pool=64, starts=2, iterations=4, rounds=4)
    weaker, alone = None, [None, None]
    for threat in attacks.THREATS.values():
        weaker = stack.reconstruct(pair, targets, LABEL, threat, config, 0, weaker)
        alone = [reconstruction.reconstruct(model, targets, LABEL, threat, config, 0, before)
                 for model, before in zip(pair.models(), alone, strict=True)]
        torch.testing.assert_close(weaker.errors.view(2, -1), torch.stack([one.errors for one in alone]),
                                   rtol=5e-3, atol=1e-3)


def test_relearning(digits, pair):
    images, judge = digits.train_images[digits.train_labels == LABEL][:40], Judge("B").eval()
    options = {"steps": 6, "every": 2, "samples": 20}
    for model in pair.models():
        alone = attacks.relearn(model, images, LABEL, judge, seed=4, **options)
        found, = stack.relearn(stack.stacked([model]), images, LABEL, judge, 4, **options)
        assert found.tolist() == pytest.approx(alone.tolist(), abs=0.051)


def test_rows_and_joining(pair):
    assert len(pair[:1]) == 1 and len(stack.joined([pair, pair[[1]]])) == 3
    close(stack.joined([pair, pair[[1]]]).models()[2], pair.models()[1])
