"""Residual knowledge: rho where it is known, by arithmetic or because nothing was forgotten or nothing ever seen."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sa_lib import trained
from sa_lib.attacks import THREATS, AttackConfig
from sa_lib.model import ModelConfig
from sa_lib.residual import SPREAD, Residual, interval, residual_knowledge, verdict
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

MODEL = ModelConfig(latent_dim=4, hidden=(64, 32))
TRAINING = TrainingConfig(epochs=80)
UNLEARNING = UnlearningConfig(steps=200, batch=64, forget_batch=16, peak_lr=5e-3)
DIGIT = 0
UNDEFINED = Residual(math.nan, math.nan, math.nan)


@pytest.mark.parametrize("share", [1.0, 0.0, 0.25, -0.5])
def test_rho_is_the_share_of_the_way_from_never_seen_to_known(share):
    never, known = torch.tensor([[10.0, 14.0], [8.0, 12.0]]), torch.tensor([4.0, 8.0])
    changed = never.mean(0) - share * (never.mean(0) - known)
    assert residual_knowledge(never, changed, known).rho == pytest.approx(share)
    two_models = (torch.stack([errors - 1, errors + 1]) for errors in (changed, known))
    assert residual_knowledge(never, *two_models).rho == pytest.approx(share)


def errors_of(seed):
    """Errors [3, 200] of standard normal noise, for three kinds of models."""
    return torch.randn(3, 200, generator=torch.Generator().manual_seed(seed))


def width(residual):
    return residual.high - residual.low


def test_the_interval_grows_with_the_spread_of_the_seeds():
    noise = errors_of(0)
    known, changed = 5 + noise[0], 9 + noise[1]
    alike = torch.stack([10 + noise[2]] * 3)
    narrow = residual_knowledge(alike, changed, known)
    wide = residual_knowledge(torch.stack([8 + noise[2], 10 + noise[2], 12 + noise[2]]), changed, known)
    assert width(wide) > 2 * width(narrow)
    seeds = torch.tensor([[-2.0], [0.0], [2.0]])
    spread = residual_knowledge(alike, changed + seeds, known.expand(3, -1))
    assert spread.rho == pytest.approx(narrow.rho)
    assert width(spread) > 2 * width(narrow)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.5, 3.0), st.floats(0.0, 1.5))
def test_the_interval_holds_rho(seed, gap, share):
    noise = 0.1 * errors_of(seed)
    never, known = (10 + noise[2]).expand(2, -1), 10 - gap + noise[0]
    residual = residual_knowledge(never, 10 - share * gap + noise[1], known, resamples=200)
    assert residual.low <= residual.rho
    assert residual.rho <= residual.high


def test_the_seed_decides_the_interval_and_not_rho():
    noise = errors_of(0)
    one, same, other = (residual_knowledge(10 + noise[:1], 9 + noise[1], 5 + noise[2], 50, seed) for seed in (0, 0, 1))
    assert one == same
    assert one.rho == other.rho
    assert one.low != other.low


def test_rho_is_not_defined_where_the_baseline_is_no_better():
    residual = residual_knowledge(torch.full((2, 5), 3.0), torch.full((5,), 4.0), torch.full((5,), 3.0))
    assert all(map(math.isnan, (residual.rho, residual.low, residual.high)))
    assert not residual.defined
    assert verdict(residual) == "undefined"


@pytest.mark.parametrize("shapes", [((3,), (3,), (3,)), ((1, 3), (2,), (3,)), ((0, 3), (3,), (3,)),
                                    ((1, 0), (0,), (0,)), ((1, 3), (2, 3), (3,)), ((1, 3), (1, 1, 3), (1, 1, 3))])
def test_errors_of_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"^never must be finite \[S, N\], .* both \[N\] or both \[T, N\], got \["):
        residual_knowledge(*(torch.ones(*shape) for shape in shapes))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_errors_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="^never must be finite"):
        residual_knowledge(torch.ones(1, 2), torch.tensor([1.0, bad]), torch.ones(2))


@pytest.fixture(scope="module")
def errors(digits):
    """The attacker's errors [N] on one class, by kind of model."""
    targets = digits.test_images[digits.test_labels == DIGIT]
    baseline = trained.cvae(digits, MODEL, TRAINING)
    (forgot,) = trained.sequence(baseline, digits, DIGIT, UNLEARNING)
    models = {"baseline": baseline, "forgot": forgot} | {
        seed: trained.never_saw(digits, DIGIT, MODEL, TRAINING, UNLEARNING, seed=seed) for seed in range(3)}
    return {name: trained.reconstruction(model, targets, DIGIT, THREATS["y on the simplex"],
                                         AttackConfig(steps=40, restarts=2)).errors
            for name, model in models.items()}


def never_saw(errors, *seeds):
    return torch.stack([errors[seed] for seed in seeds])


def test_everything_is_left_in_the_baseline(errors):
    assert residual_knowledge(never_saw(errors, 0, 1, 2), errors["baseline"], errors["baseline"]).rho == 1


def test_a_model_that_never_saw_the_class_reaches_it_less_well(errors):
    assert float(never_saw(errors, 0, 1, 2).mean()) > float(errors["baseline"].mean())


@pytest.mark.parametrize("seed", range(3))
def test_little_is_left_in_a_model_that_never_saw_the_class(errors, seed):
    others = never_saw(errors, *({0, 1, 2} - {seed}))
    assert abs(residual_knowledge(others, errors[seed], errors["baseline"]).rho) < 0.5


def test_less_than_half_is_left_in_a_model_that_forgot_the_class(errors):
    assert residual_knowledge(never_saw(errors, 0, 1, 2), errors["forgot"], errors["baseline"]).rho < 0.5


@pytest.mark.parametrize("rho, word", [(1.0, "avoided"), (0.5, "avoided"), (0.49, "suppressed"), (0.16, "suppressed"),
                                       (SPREAD, "gone"), (-SPREAD, "gone"), (-0.16, "over-forgotten")])
def test_rho_in_a_word(rho, word):
    assert verdict(Residual(rho, rho - 0.1, rho + 0.1)) == word


@pytest.mark.parametrize("residual, text", [
    (Residual(0.123, -0.034, 0.25), "+0.12 [-0.03, +0.25]"), (Residual(-1.0, -1.5, 0.0), "-1.00 [-1.50, +0.00]"),
    (UNDEFINED, "–")])
def test_a_residual_reads_as_rho_with_its_interval(residual, text):
    assert str(residual) == text
    assert f"rho = {residual}" == f"rho = {text}"


def test_a_residual_as_json_values():
    assert Residual(0.5, 0.25, 0.75).asdict() == {"rho": 0.5, "low": 0.25, "high": 0.75}
    assert json.loads(json.dumps(UNDEFINED.asdict(), allow_nan=False)) == {"rho": None, "low": None, "high": None}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_residual_with_a_number_is_defined(rho):
    residual = Residual(rho, rho, rho)
    assert residual.defined
    assert residual.asdict()["rho"] == rho


def test_the_interval_of_a_mean():
    values = [1.0, 2.0, 4.0, 5.0]
    mean, low, high = interval(values)
    assert mean == 3.0
    assert min(values) < low
    assert low < mean
    assert mean < high
    assert high < max(values)
    assert interval(values) == (mean, low, high)
    assert interval([2.5]) == (2.5, 2.5, 2.5)


def test_the_seed_decides_the_interval_of_a_mean():
    values = [number ** 1.5 for number in range(50)]
    assert interval(values, 20, seed=0) == interval(values, 20, seed=0)
    assert interval(values, 20, seed=0) != interval(values, 20, seed=1)


@pytest.mark.parametrize("bad", [[], [math.nan], ["a"], [[1.0]], None])
def test_values_without_a_mean_are_refused(bad):
    with pytest.raises(ValueError, match="^values must be at least one .*number.*, got "):
        interval(bad)
