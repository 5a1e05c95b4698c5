"""Residual knowledge: rho where it is known, by arithmetic or because nothing was forgotten or nothing ever seen."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sa_lib import trained
from sa_lib.attacks import THREATS
from sa_lib.model import ModelConfig
from sa_lib.reconstruction import SearchConfig
from sa_lib.residual import (
    MARGIN,
    RESOLUTION,
    Residual,
    _error,
    _excess,
    _fit,
    both,
    interval,
    is_equivalent,
    pooled_spread,
    power,
    residual_knowledge,
    seeds_needed,
    verdict,
    wording,
)
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

MODEL = ModelConfig(latent_dim=4, hidden=(64, 32))
TRAINING = TrainingConfig(epochs=80)
UNLEARNING = UnlearningConfig(steps=200, batch=64, forget_batch=16, peak_lr=5e-3)
DIGIT = 0
UNDEFINED = Residual(math.nan)


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
def test_the_interval_holds_rho_and_the_one_at_90_percent(seed, gap, share):
    noise = 0.1 * errors_of(seed)
    never, known = (10 + noise[2]).expand(2, -1), 10 - gap + noise[0]
    residual = residual_knowledge(never, 10 - share * gap + noise[1], known)
    assert residual.low <= residual.low90 <= residual.rho <= residual.high90 <= residual.high


def test_at_its_ends_the_test_of_rho_changes_its_answer():
    never, changed, known = (errors.numpy() for errors in drawn(3, 4, 0.2))
    residual = residual_knowledge(*(torch.tensor(errors) for errors in (never, changed, known)))
    fit = _fit(never, changed, known)
    for level, ends in ((0.95, (residual.low, residual.high)), (0.90, (residual.low90, residual.high90))):
        assert _excess(fit, np.array(ends), level) == pytest.approx(0, abs=1e-9)
    assert (residual.p < 0.05) == (not residual.low <= 0 <= residual.high)
    error, _ = _error(fit, residual.rho)
    assert error / residual.gap < residual.high - residual.rho


def test_rho_is_not_defined_where_the_baseline_is_no_better():
    residual = residual_knowledge(torch.full((2, 5), 3.0), torch.full((5,), 4.0), torch.full((5,), 3.0))
    assert all(map(math.isnan, (residual.rho, residual.low, residual.high)))
    assert not residual.defined
    assert verdict(residual) == "undefined"


def test_rho_is_defined_for_any_gap_and_its_interval_may_be_unbounded():
    never = torch.tensor([[3.0, 5.0], [1.0, 3.0]])
    residual = residual_knowledge(never, torch.tensor([2.0, 4.0]), torch.tensor([1.9, 4.0]))
    assert residual.rho == pytest.approx(0.0, abs=1e-6)
    assert (residual.low, residual.high) == (-math.inf, math.inf)
    assert str(residual) == "-0.00 [-∞, +∞]".replace("-0.00", f"{residual.rho:+.2f}")
    assert residual.asdict()["low"] is None


def test_one_control_has_no_interval_without_a_pooled_spread():
    never, changed, known = drawn(1, 1, 0.1)
    alone = residual_knowledge(never, changed, known)
    assert str(alone) == f"{alone.rho:+.2f} (no interval: one control)"
    assert verdict(alone) == "no interval"
    assert math.isnan(alone.resolution)
    pooled = residual_knowledge(never, changed, known, (0.05, 7))
    assert pooled.low < alone.rho == pooled.rho < pooled.high
    assert pooled.spread == pytest.approx(0.05)
    assert pooled.resolution == pytest.approx(pooled.gap / 0.05)


def test_a_pooled_spread_is_that_of_all_sets():
    sets = [torch.tensor([[0.0, 2.0], [2.0, 4.0]]), torch.tensor([[5.0, 5.0]]), torch.tensor([[1.0], [1.0], [4.0]])]
    spread, freedom = pooled_spread(sets)
    assert freedom == 3
    assert spread == pytest.approx(math.sqrt((2.0 + 6.0) / 3))
    with pytest.raises(ValueError, match="^never must be errors"):
        pooled_spread(sets[1:2])


@pytest.mark.parametrize("pooled", [(0.0, 7), (0.1, -1), (0.1,), (math.nan, 7)])
def test_a_pooled_spread_is_two_numbers_above_0(pooled):
    with pytest.raises(ValueError, match=r"^pooled.* must be .*, got "):
        residual_knowledge(*drawn(1, 1, 0.1), pooled)


def test_what_is_spoken_of_depends_on_the_number_of_models():
    one, several = (residual_knowledge(*drawn(3, count, 0.0)) for count in (1, 3))
    assert (one.estimand, one.controls, one.models) == ("this model", 3, 1)
    assert (several.estimand, several.controls, several.models) == ("this method", 3, 3)


# Coverage -------------------------------------------------------------------------------------------------------

# Standard deviations in units of the gap, as of the digits and attackers of the committed evidence: of the means of
# models that never saw the class; of images; of a model from image to image; of images between the two kinds of
# models; of the means of unlearned models.
COMPONENTS = {"typical": (0.06, 0.6, 0.3, 0.2, 0.05), "alike": (0.04, 0.6, 0.3, 0.2, 0.05),
              "digit 0": (0.14, 0.45, 0.25, 0.2, 0.07), "y free": (0.08, 0.8, 0.5, 0.35, 0.10)}


def drawn(controls, models, rho, components="typical", draws=None, images=100, seed=0):
    """Errors [S, N], [T, N], [T, N] with a gap of 1 and this rho; with draws, arrays with an axis of them in front."""
    between, image, within, arm, method = COMPONENTS[components]
    random = np.random.default_rng(seed)
    shape = (draws or 1,)

    def normal(scale, *axes):
        return scale * random.standard_normal((*shape, *axes))

    def skewed(scale):
        return scale * (random.standard_exponential((*shape, 1, images)) - 1)

    common = skewed(image)
    single = models == 1  # about this model: its own mean is no draw
    never = 1 + common + normal(between, controls, 1) + normal(within, controls, images)
    known = common * 0.7 + normal(0 if single else 0.01, models, 1) + normal(0.15, models, images)
    changed = (1 - rho + common + skewed(arm) + normal(0 if single else method, models, 1)
               + normal(within, models, images))
    arrays = (never, changed, known)
    return arrays if draws else tuple(torch.tensor(errors[0]) for errors in arrays)


@pytest.mark.parametrize("controls", [2, 3, 5, 8])
@pytest.mark.parametrize("models", [1, 3, 5])
@pytest.mark.parametrize("components", COMPONENTS)
def test_the_interval_holds_rho_about_as_often_as_it_says(controls, models, components):
    held = []
    for seed, rho in enumerate((0.0, 0.3, -0.5)):
        fit = _fit(*drawn(controls, models, rho, components, 600, seed=100 * controls + 10 * models + seed))
        held.append(_excess(fit, rho, 0.95) <= 0)
    assert 0.92 <= np.mean(held) <= 0.98  # 0.005 is one standard error of 1,800 draws


@pytest.mark.parametrize("controls", [2, 3, 8])
def test_a_model_at_the_margin_is_seldom_called_gone(controls):
    fit = _fit(*drawn(controls, 1, MARGIN, "digit 0", 2000))
    assert np.mean((_excess(fit, MARGIN, 0.9) > 0) & (fit.difference < MARGIN * fit.gap)) <= 0.07


@pytest.mark.parametrize("shapes", [((3,), (3,), (3,)), ((1, 3), (2,), (3,)), ((0, 3), (3,), (3,)),
                                    ((1, 0), (0,), (0,)), ((1, 3), (2, 3), (3,)), ((1, 3), (1, 1, 3), (1, 1, 3))])
def test_errors_of_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"^never must be finite \[S, N\] .* both \[N\] or both \[T, N\], got \["):
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
                                         SearchConfig(256, 2, 8, 1)).errors
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


CLEAR = Residual(0.0, -0.1, 0.1, -0.08, 0.08, 1.0, 3, 1, 10.0, 0.5, 0.1)


@pytest.mark.parametrize("change, word", [
    ({}, "gone"), ({"rho": math.nan}, "undefined"), ({"low": math.nan, "high": math.nan}, "no interval"),
    ({"spread": 10.0 / RESOLUTION + 0.01}, "unresolved"), ({"spread": 10.0 / RESOLUTION}, "gone"),
    ({"high90": MARGIN}, "inconclusive"), ({"low90": -MARGIN}, "inconclusive"),
    ({"rho": 0.1, "low": 0.01, "low90": 0.02, "high90": 0.14}, "gone"),  # clear of 0, and within the margin
    ({"rho": 0.2, "low": 0.01, "high90": 0.3}, "residue"), ({"rho": 0.2, "low": -0.01, "high90": 0.3}, "inconclusive"),
    ({"rho": -0.2, "high": -0.01, "low90": -0.3}, "over-forgotten"),
    ({"low": -math.inf, "low90": -math.inf}, "inconclusive")])
def test_rho_in_a_word(change, word):
    assert verdict(replace(CLEAR, **change)) == word


def test_what_is_inconclusive_says_what_would_settle_it():
    wide = replace(CLEAR, high90=0.2)
    assert wording(CLEAR) == "gone"
    assert wording(wide) == f"inconclusive ({seeds_needed(wide)} controls)"
    assert wording(replace(wide, models=3)) == f"inconclusive ({seeds_needed(replace(wide, models=3))} seeds)"
    assert wording(replace(wide, image_error=9.0)) == "inconclusive (more images)"


def test_the_margin_can_be_another():
    assert is_equivalent(CLEAR, 0.1)
    assert not is_equivalent(CLEAR, 0.08)
    assert verdict(CLEAR, 0.05) == "inconclusive"


WORDS = {"gone": CLEAR, "residue": replace(CLEAR, rho=0.2, low=0.1, high=0.3, high90=0.3), "undefined": UNDEFINED,
         "over-forgotten": replace(CLEAR, rho=-0.2, high=-0.1, low90=-0.3), "inconclusive": replace(CLEAR, high90=0.2)}


@pytest.mark.parametrize("as_is, mended, word", [
    ("gone", "gone", "gone"), ("over-forgotten", "residue", "residue"), ("residue", "gone", "residue"),
    ("gone", "over-forgotten", "over-forgotten"), ("gone", "inconclusive", "inconclusive"),
    ("over-forgotten", "inconclusive", "inconclusive"), ("gone", "undefined", "undefined")])
def test_a_model_is_gone_only_if_it_is_after_mending_too(as_is, mended, word):
    assert both(WORDS[as_is], WORDS[mended]) == word


def test_seeds_needed_is_the_number_that_reaches_the_power():
    assert math.isnan(seeds_needed(UNDEFINED))
    this_model = replace(CLEAR, image_error=0.0)
    needed = [seeds_needed(replace(this_model, spread=share * 10.0, models=5)) for share in (0.05, 0.085, 0.16)]
    assert needed == [4, 8, 26]
    assert seeds_needed(replace(this_model, spread=0.5)) < needed[0] + 1
    assert seeds_needed(replace(this_model, image_error=1.0)) == math.inf
    assert seeds_needed(this_model, margin=0.3) < seeds_needed(this_model)
    with pytest.raises(ValueError, match="^margin must be above 0 and power in"):
        seeds_needed(CLEAR, power=1.0)


@pytest.mark.parametrize("models", [1, 5])
@pytest.mark.parametrize("share", [0.05, 0.085, 0.16])
def test_the_power_reaches_90_percent_at_the_number_of_seeds_needed(models, share):
    residual = replace(CLEAR, spread=share * 10.0, image_error=0.0, models=models)
    needed = seeds_needed(residual)
    reached, before = (power(replace(residual, controls=count, models=1 if models == 1 else count))
                       for count in (needed, needed - 1))
    assert before < 0.9 <= reached


def test_there_is_no_power_without_a_spread_or_a_rho():
    assert math.isnan(power(UNDEFINED))
    assert math.isnan(power(replace(CLEAR, spread=math.nan)))
    assert power(replace(CLEAR, spread=100.0)) == 0.0
    assert power(replace(CLEAR, spread=0.0, image_error=0.0)) == 1.0


@pytest.mark.parametrize("residual, text", [
    (Residual(0.123, -0.034, 0.25), "+0.12 [-0.03, +0.25]"), (Residual(-1.0, -math.inf, 0.0), "-1.00 [-∞, +0.00]"),
    (UNDEFINED, "–")])
def test_a_residual_reads_as_rho_with_its_interval(residual, text):
    assert str(residual) == text
    assert f"rho = {residual}" == f"rho = {text}"


def test_a_residual_as_json_values():
    assert CLEAR.asdict() == {
        "estimand": "this model", "rho": 0.0, "low": -0.1, "high": 0.1, "low90": -0.08, "high90": 0.08, "p": 1.0,
        "controls": 3, "models": 1, "gap": 10.0, "spread": 0.5, "image_error": 0.1, "resolution": 20.0}
    read = json.loads(json.dumps(UNDEFINED.asdict(), allow_nan=False))
    assert read["rho"] is read["low"] is read["resolution"] is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_residual_with_a_number_is_defined(rho):
    residual = Residual(rho, rho, rho)
    assert residual.defined
    assert residual.asdict()["rho"] == rho


def test_the_interval_of_a_mean():
    assert interval([1.0, 2.0, 4.0, 5.0]) == pytest.approx((3.0, 3 - 3.182446 * 0.912871, 3 + 3.182446 * 0.912871))
    mean, *ends = interval([2.5])
    assert mean == 2.5
    assert all(map(math.isnan, ends))


@pytest.mark.parametrize("bad", [[], [math.nan], ["a"], [[1.0]], None])
def test_values_without_a_mean_are_refused(bad):
    with pytest.raises(ValueError, match="^values must be at least one .*number.*, got "):
        interval(bad)
