"""Attackers whose success is known beforehand, and what is left of a class where that is known."""

import math

import pytest
import torch

from sa_lib import attacks
from sa_lib.attacks import (SPREAD, THREATS, AttackConfig, Residual, Threat, attack, get_reconstruction,
                            residual_knowledge, squared_error, verdict)
from sa_lib.evaluation import prior_samples
from sa_lib.judges import JudgeConfig, get_judge
from sa_lib.model import ModelConfig
from sa_lib.training import TrainingConfig, get_cvae
from sa_lib.unlearning import UnlearningConfig, get_never_saw, get_sequence

MODEL = ModelConfig(latent_dim=4, hidden=(64, 32))
TRAINING = TrainingConfig(epochs=80)
UNLEARNING = UnlearningConfig(steps=200, batch=64, forget_batch=16, peak_lr=5e-3)
QUICK = AttackConfig(steps=40, restarts=2)
DIGIT = 0


@pytest.fixture(scope="module")
def baseline(digits):
    return get_cvae(digits, MODEL, TRAINING, seed=0)


@pytest.fixture(scope="module")
def never(digits):
    return [get_never_saw(digits, [DIGIT], MODEL, TRAINING, UNLEARNING, seed=s) for s in range(3)]


@pytest.fixture(scope="module")
def targets(digits):
    return digits.test_images[digits.test_labels == DIGIT]


@pytest.fixture(scope="module")
def judge(digits):
    return get_judge(digits, JudgeConfig("B", epochs=12))


def reconstruct(model, targets, threat="y on the simplex", config=QUICK):
    return get_reconstruction(model, targets, DIGIT, THREATS[threat], config)


def test_the_ball_holds_its_share_of_the_prior():
    z = torch.randn(20000, 5, generator=torch.Generator().manual_seed(0))
    for share in (0.5, 0.99):
        inside = (z.norm(dim=1) <= attacks.prior_radius(5, share)).double().mean()
        assert float(inside) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("name", THREATS)
def test_an_attacker_stays_within_his_threat_model(baseline, targets, name):
    threat, before = THREATS[name], [w.clone() for w in baseline.model.parameters()]
    found = attack(baseline.model, squared_error(targets), DIGIT, len(targets), threat, QUICK)
    assert all(torch.equal(a, b) for a, b in zip(before, baseline.model.parameters()))
    label = torch.eye(10)[DIGIT].expand_as(found.y)
    if threat.y == "label":
        assert torch.equal(found.y.cpu(), label)
    else:
        assert not torch.equal(found.y[-1].cpu(), label[-1])
    if threat.y == "simplex":
        assert bool((found.y >= 0).all()) and torch.allclose(found.y.sum(2), torch.ones(()).to(found.y.device))
    if threat.z == "prior":
        assert float(found.z.norm(dim=2).max()) <= attacks.prior_radius(4) + 1e-4
    assert bool((found.loss.diff(dim=0) <= 0).all()), "more budget never makes the best worse"
    assert found.budget == ([1] if threat.z == "once" else sorted(found.budget))
    assert found.budget[-1] == (1 if threat.z == "once" else 41 * 2)


def test_what_is_found_is_what_the_model_draws(baseline, targets):
    found = attack(baseline.model, squared_error(targets), DIGIT, len(targets), THREATS["y free"], QUICK)
    drawn = baseline.model.decode(found.z[-1], found.y[-1])
    assert torch.equal(drawn, found.images[-1])
    assert torch.allclose((drawn - targets.to(drawn.device)).square().flatten(1).sum(1), found.loss[-1], rtol=1e-4)


def test_the_end_is_the_last_moment(baseline, targets):
    found = attack(baseline.model, squared_error(targets), DIGIT, len(targets), THREATS["z free"], QUICK)
    assert found.end.budget == found.budget[-1:] and torch.equal(found.end.images[0], found.images[-1])
    assert [len(t) for t in (found.end.loss, found.end.z, found.end.y)] == [1, 1, 1]


def test_more_freedom_and_more_budget_find_more(baseline, targets):
    error = {name: float(reconstruct(baseline, targets, name).loss[-1].mean())
             for name in ("label only", "random search", "z free")}
    assert error["z free"] < error["random search"] < error["label only"]


def test_a_model_reaches_what_it_draws_itself(baseline):
    prototypes = prior_samples(baseline.model, torch.full((10,), DIGIT), seed=3)
    found = reconstruct(baseline, prototypes, "z free", AttackConfig(steps=150))
    assert float(found.loss[-1].median()) < 0.5


def test_a_reconstruction_is_found_again_and_a_change_is_not(baseline, targets, monkeypatch):
    first = reconstruct(baseline, targets)
    monkeypatch.setattr(attacks, "attack", lambda *a: pytest.fail("made again"))
    again = reconstruct(baseline, targets)
    assert torch.equal(first.images, again.images) and first.budget == again.budget
    for change in ({"threat": "y free"}, {"config": AttackConfig(steps=41, restarts=2)}, {"targets": targets[1:]}):
        with pytest.raises(pytest.fail.Exception):
            reconstruct(**{"model": baseline, "targets": targets} | change)


def test_a_guided_attacker_pleases_his_judge(baseline, digits, judge):
    found = attack(baseline.model, attacks.unlike(judge, 3), 3, 20, THREATS["y free"], QUICK)
    table = attacks.score(found, judge, 3, digits.train_images[digits.train_labels == 3])
    assert table["success"].iloc[-1] >= 0.9 and list(table.index) == found.budget
    assert table["loss"].iloc[-1] == pytest.approx(float(found.loss[-1].mean()))


def test_the_nearest_is_found_and_its_error_is_summed_over_pixels():
    real = torch.stack([torch.zeros(1, 28, 28), torch.ones(1, 28, 28)])
    assert attacks.nearest_distance(torch.full((1, 1, 28, 28), 0.75), real).tolist() == pytest.approx([784 / 16])


@pytest.mark.parametrize("bad", [{"label": 10}, {"label": True}, {"count": 0}])
def test_no_such_attack(baseline, targets, bad):
    arguments = {"model": baseline.model, "loss": squared_error(targets), "label": 0, "count": 1,
                 "threat": Threat("free", "free")} | bad
    with pytest.raises(ValueError, match="digit from 0 to 9 and at least one target"):
        attack(**arguments)


# What is left

def test_rho_where_it_is_known_by_arithmetic():
    never, known = torch.tensor([[10.0, 14.0], [8.0, 12.0]]), torch.tensor([4.0, 8.0])
    never_mean = never.mean(0)
    for share in (1.0, 0.0, 0.25, -0.5):
        changed = never_mean - share * (never_mean - known)
        assert residual_knowledge(never, changed, known).rho == pytest.approx(share)
        several = (torch.stack([t - 1, t + 1]) for t in (changed, known))
        assert residual_knowledge(never, *several).rho == pytest.approx(share)


def test_the_interval_holds_rho_and_grows_with_the_spread_of_the_seeds():
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 200, generator=random)
    known, changed = 5 + noise[0], 9 + noise[1]
    narrow = residual_knowledge(torch.stack([10 + noise[2]] * 3), changed, known)
    wide = residual_knowledge(torch.stack([8 + noise[2], 10 + noise[2], 12 + noise[2]]), changed, known)
    assert narrow.low < narrow.rho < narrow.high and wide.low < wide.rho < wide.high
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    same = torch.stack([10 + noise[2]] * 3)
    seeds = torch.tensor([[-2.0], [0.0], [2.0]])
    spread = residual_knowledge(same, changed + seeds, known.expand(3, -1))
    assert spread.rho == pytest.approx(narrow.rho) and spread.high - spread.low > 2 * (narrow.high - narrow.low)


def test_rho_is_not_defined_where_the_baseline_is_no_better():
    residual = residual_knowledge(torch.full((2, 5), 3.0), torch.full((5,), 4.0), torch.full((5,), 3.0))
    assert math.isnan(residual.rho) and math.isnan(residual.low) and verdict(residual) == "undefined"


@pytest.mark.parametrize("shapes", [((3,), (3,), (3,)), ((1, 3), (2,), (3,)), ((0, 3), (3,), (3,)),
                                    ((1, 0), (0,), (0,)), ((1, 3), (2, 3), (3,)), ((1, 3), (1, 1, 3), (1, 1, 3))])
def test_errors_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match=r"finite \[S, N\], and twice \[N\] or \[T, N\], are needed"):
        residual_knowledge(*(torch.ones(*shape) for shape in shapes))
    with pytest.raises(ValueError, match="finite"):
        residual_knowledge(torch.ones(1, 2), torch.tensor([1.0, math.inf]), torch.ones(2))


def test_nothing_is_left_in_a_model_that_never_saw_it_and_all_in_the_baseline(baseline, never, digits, targets):
    error = {model.digest: reconstruct(model, targets).loss[-1] for model in (baseline, *never)}
    unseen = torch.stack([error[model.digest] for model in never])
    known = error[baseline.digest]
    assert residual_knowledge(unseen, known, known).rho == 1
    assert float(unseen.mean()) > float(known.mean())
    for k in range(3):
        rest = torch.stack([unseen[i] for i in range(3) if i != k])
        assert abs(residual_knowledge(rest, unseen[k], known).rho) < 0.5
    (forgot,) = get_sequence(baseline, digits, [DIGIT], UNLEARNING)
    assert residual_knowledge(unseen, reconstruct(forgot, targets).loss[-1], known).rho < 0.5


@pytest.mark.parametrize("rho, word", [(1.0, "avoided"), (0.5, "avoided"), (0.49, "suppressed"), (0.16, "suppressed"),
                                       (SPREAD, "gone"), (-SPREAD, "gone"), (-0.16, "over-forgotten")])
def test_rho_in_a_word(rho, word):
    assert verdict(Residual(rho, rho - 0.1, rho + 0.1)) == word


def test_the_baseline_knows_at_once_what_another_has_to_learn(baseline, never, digits, judge):
    few = digits.train_images[digits.train_labels == DIGIT][:20]
    before = never[0].digest, [w.clone() for w in never[0].model.parameters()]
    known, learned = (attacks.relearn(m.model, few, DIGIT, judge, steps=60, every=20) for m in (baseline, never[0]))
    assert list(known.index) == [0, 20, 40, 60]
    assert known[0] > 0.8 > learned[0] and learned[60] > learned[0]
    assert all(torch.equal(a, b) for a, b in zip(before[1], never[0].model.parameters()))
