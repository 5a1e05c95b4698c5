"""Attackers whose success is known beforehand."""

import pytest
import torch

from sa_lib import attacks, trained
from sa_lib.attacks import THREATS, AttackConfig, Threat, attack, squared_error
from sa_lib.evaluation import prior_samples
from sa_lib.judges import JudgeConfig
from sa_lib.model import ModelConfig
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

MODEL = ModelConfig(latent_dim=4, hidden=(64, 32))
TRAINING = TrainingConfig(epochs=80)
UNLEARNING = UnlearningConfig(steps=200, batch=64, forget_batch=16, peak_lr=5e-3)
QUICK = AttackConfig(steps=40, restarts=2)
DIGIT = 0


@pytest.fixture(scope="module")
def baseline(digits):
    return trained.cvae(digits, MODEL, TRAINING, seed=0)


@pytest.fixture(scope="module")
def never_saw(digits):
    """A model that never saw the class."""
    return trained.never_saw(digits, DIGIT, MODEL, TRAINING, UNLEARNING, seed=0)


@pytest.fixture(scope="module")
def targets(digits):
    return digits.test_images[digits.test_labels == DIGIT]


@pytest.fixture(scope="module")
def judge(digits):
    return trained.judge(digits, JudgeConfig("B", epochs=12))


def run_attack(net, targets, threat, config=QUICK):
    return attack(net, squared_error(targets), DIGIT, len(targets), THREATS[threat], config)


def weights_of(net):
    """A copy of all weights, in one vector."""
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


def test_the_ball_holds_its_share_of_the_prior():
    z = torch.randn(20000, 5, generator=torch.Generator().manual_seed(0))
    for share in (0.5, 0.99):
        inside = (z.norm(dim=1) <= attacks.prior_radius(5, share)).double().mean()
        assert float(inside) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("name", THREATS)
def test_attackers_stay_within_their_threat_model(baseline, targets, name):
    threat, before = THREATS[name], weights_of(baseline.net)
    result = run_attack(baseline.net, targets, name)
    assert torch.equal(weights_of(baseline.net), before)
    label = torch.eye(10)[DIGIT].expand_as(result.y)
    if threat.y == "label":
        assert torch.equal(result.y.cpu(), label)
    else:
        assert not torch.equal(result.y[-1].cpu(), label[-1])
    if threat.y == "simplex":
        assert float(result.y.min()) >= 0
        assert torch.allclose(result.y.sum(2).cpu(), torch.ones(()))
    if threat.z == "prior":
        assert float(result.z.norm(dim=2).max()) <= attacks.prior_radius(4) + 1e-4


@pytest.mark.parametrize("name", THREATS)
def test_the_budget_counts_model_evaluations_and_more_of_it_never_makes_the_best_worse(baseline, targets, name):
    result = run_attack(baseline.net, targets, name)
    assert result.budget[-1] == (QUICK.steps + 1) * QUICK.restarts
    assert result.budget == sorted(result.budget)
    assert len(result.budget) == len(result.loss)
    assert float(result.loss.diff(dim=0).clamp(min=0).sum()) == 0


def test_the_images_of_a_result_are_drawn_by_the_model(baseline, targets):
    result = run_attack(baseline.net, targets, "y free")
    drawn = baseline.net.decode(result.z[-1], result.y[-1])
    assert torch.equal(drawn, result.images[-1])
    errors = (drawn - targets.to(drawn.device)).square().flatten(1).sum(1)
    assert torch.allclose(errors, result.errors, rtol=1e-4)


def test_the_end_is_the_last_moment(baseline, targets):
    result = run_attack(baseline.net, targets, "z free")
    assert result.end.budget == result.budget[-1:]
    for name in ("loss", "z", "y", "images"):
        (last,) = getattr(result.end, name)
        assert torch.equal(last, getattr(result, name)[-1]), name
    assert torch.equal(result.errors, result.end.errors)


def test_more_freedom_and_more_budget_reach_lower_errors(baseline, targets):
    draws = attack(baseline.net, squared_error(targets), DIGIT, len(targets), Threat("drawn", "label"),
                   AttackConfig(steps=1, restarts=1))
    many_draws, optimized = (float(run_attack(baseline.net, targets, name).errors.mean())
                             for name in ("random search", "z free"))
    assert optimized < many_draws < float(draws.errors.mean())


def test_an_attacker_reaches_the_images_that_the_model_itself_drew(baseline):
    prototypes = prior_samples(baseline.net, torch.full((10,), DIGIT), seed=3)
    result = run_attack(baseline.net, prototypes, "z free", AttackConfig(steps=150))
    assert float(result.errors.median()) < 0.5


def test_a_guided_attacker_pleases_the_judge(baseline, digits, judge):
    result = attack(baseline.net, attacks.unlike(judge, 3), 3, 20, THREATS["y free"], QUICK)
    table = attacks.score(result, judge, 3, digits.train_images[digits.train_labels == 3])
    assert list(table.index) == result.budget
    assert table["success"].iloc[-1] >= 0.9
    assert table["loss"].iloc[-1] == pytest.approx(float(result.errors.mean()))


def test_the_nearest_real_image_counts_and_its_error_is_summed_over_pixels():
    real = torch.stack([torch.zeros(1, 28, 28), torch.ones(1, 28, 28)])
    to_white = 784 * (1 - 0.75) ** 2
    assert attacks.nearest_distance(torch.full((1, 1, 28, 28), 0.75), real).tolist() == pytest.approx([to_white])


@pytest.mark.parametrize("name, bad", [("label", 10), ("label", True), ("count", 0), ("seed", -1)])
def test_bad_arguments_of_an_attack_are_named(baseline, targets, name, bad):
    arguments = {"model": baseline.net, "loss": squared_error(targets), "label": 0, "count": 1,
                 "threat": Threat("free", "free")} | {name: bad}
    with pytest.raises(ValueError, match=f"^{name} must be .*, got {bad}$"):
        attack(**arguments)


def test_a_loss_that_is_never_finite_stops_the_attack(baseline):
    with pytest.raises(FloatingPointError, match=r"^attack: the loss .*lr=0.2"):
        attack(baseline.net, lambda images: images.flatten(2).sum(2) * float("nan"), DIGIT, 2, THREATS["y free"], QUICK)


def test_relearning_is_quick_for_the_baseline_and_slow_for_a_model_that_never_saw_the_class(
        baseline, never_saw, digits, judge):
    few = digits.train_images[digits.train_labels == DIGIT][:20]
    before = weights_of(never_saw.net)
    known, learned = (attacks.relearn(model.net, few, DIGIT, judge, steps=60, every=20)
                      for model in (baseline, never_saw))
    assert list(known.index) == [0, 20, 40, 60]
    well_known = 0.7
    assert known[0] > well_known
    assert learned[0] < well_known
    assert learned[60] > learned[0]
    assert torch.equal(weights_of(never_saw.net), before)
