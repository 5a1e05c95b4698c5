"""Forgetting, term by term and method by method, on a small model of the bundled digits."""

import ast
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sa_lib import trained
from sa_lib.evaluation import negative_elbo, prior_samples
from sa_lib.fisher import combine
from sa_lib.labels import one_hot
from sa_lib.methods import METHODS, distance_to_gray, ewc_gray, ewc_penalty
from sa_lib.model import CVAE, ModelConfig, build, copy_of, device
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import Batch, UnlearningConfig, push_set, unlearn

MODEL = ModelConfig(latent_dim=4, hidden=(64, 32))
CONFIG = UnlearningConfig(steps=200, batch=64, forget_batch=16, peak_lr=5e-3)
CHAPTERS = Path(__file__).parent.parent / "notebooks"
# Mean distances of the samples of a class to gray, from 0 to 0.5: of digits above DRAWN, of gray below GONE.
DRAWN, GONE = 0.2, 0.05


@pytest.fixture(scope="module")
def baseline(digits):
    return trained.cvae(digits, MODEL, TrainingConfig(epochs=80), seed=0)


@pytest.fixture(scope="module")
def fisher(baseline, digits):
    return combine(trained.fishers(baseline, digits), {k: 1.0 for k in range(9)})


def unlearned(baseline, digits, fisher, images=None, forget=9, seed=0, loss=ewc_gray, push=None, anchor=None,
              config=CONFIG, combine=None, **changes):
    """A copy of the baseline's network that has forgotten, and the log."""
    net = copy_of(baseline.net)
    log = unlearn(net, digits.train_images if images is None else images, digits.train_labels, forget, fisher,
                  replace(config, **changes), seed, loss, push, anchor, combine=combine)
    return net, log


def gray(net, k):
    """Mean distance to gray of samples of a class."""
    return float(distance_to_gray(prior_samples(net, torch.full((200,), k))).mean())


def nats(net, digits, *classes):
    """Mean negative ELBO of the test images of these classes."""
    chosen = torch.isin(digits.test_labels, torch.tensor(classes))
    return float(negative_elbo(net, digits.test_images[chosen], digits.test_labels[chosen]).mean())


def retained_nats(net, digits):
    return nats(net, digits, *range(9))


def weights_of(net):
    return torch.cat([weight.detach().flatten().cpu() for weight in net.parameters()])


def test_it_forgets_the_class_and_keeps_the_others(baseline, digits, fisher):
    net, _ = unlearned(baseline, digits, fisher)
    assert gray(baseline.net, 9) > DRAWN
    assert gray(net, 9) < GONE
    assert max(abs(gray(net, k) - gray(baseline.net, k)) for k in range(9)) < 0.03
    assert retained_nats(net, digits) < retained_nats(baseline.net, digits) + 3


def test_without_the_gray_term_the_class_is_not_forgotten(baseline, digits, fisher):
    net, log = unlearned(baseline, digits, fisher, gray=0.0)
    assert gray(net, 9) > DRAWN
    assert "gray" not in log


def test_without_rehearsal_and_penalty_the_others_are_lost(baseline, digits, fisher):
    net, _ = unlearned(baseline, digits, fisher, real=0.0, replay=0.0, ewc=0.0)
    assert retained_nats(net, digits) > retained_nats(baseline.net, digits) + 30


def test_several_classes_at_once(baseline, digits, fisher):
    net, _ = unlearned(baseline, digits, fisher, forget=(9, 2))
    assert gray(net, 9) < GONE
    assert gray(net, 2) < GONE
    assert gray(net, 3) > DRAWN


def test_a_digit_is_the_list_of_one(baseline, digits, fisher):
    (one, _), (same, _) = (unlearned(baseline, digits, fisher, forget=forget, steps=5) for forget in (9, [9]))
    assert torch.equal(weights_of(one), weights_of(same))


def test_the_penalty_follows_the_formula(baseline):
    net, anchor = copy_of(baseline.net), dict(copy_of(baseline.net).named_parameters())
    fisher = {name: torch.full_like(weight, 2.0) for name, weight in anchor.items()}
    fisher["encoder.mean.bias"] = torch.tensor([1.0, 0.0, 5.0, 0.5]).to(device())
    assert float(ewc_penalty(net, anchor, fisher).detach()) == 0
    with torch.no_grad():
        net.encoder.mean.bias += torch.tensor([3.0, 7.0, -1.0, 2.0]).to(device())
        net.decoder.layers[0].weight[0, 0] -= 4.0
    by_hand = 1 * 9 + 0 * 49 + 5 * 1 + 0.5 * 4 + 2 * 16
    assert float(ewc_penalty(net, anchor, fisher).detach()) == pytest.approx(by_hand, rel=1e-4)


def largest_change_of_important_weights(baseline, digits, fisher, **changes):
    # With larger steps Adam overshoots so steep a penalty.
    net, _ = unlearned(baseline, digits, fisher, real=0.0, replay=0.0, peak_lr=1e-4, **changes)
    old = dict(baseline.net.named_parameters())
    return max(float(((new - old[name]).abs() * (fisher[name].to(device()) > 1)).max())
               for name, new in net.named_parameters())


def test_a_large_lambda_holds_the_weights(baseline, digits, fisher):
    held, free = (largest_change_of_important_weights(baseline, digits, fisher, ewc=ewc) for ewc in (1e8, 0.0))
    assert held < 0.1 * free


@pytest.fixture
def batch(digits):
    generator = torch.Generator().manual_seed(0)
    x, y = digits.train_images[:6], one_hot(digits.train_labels[:6])
    e = torch.randn(6, MODEL.latent_dim, generator=generator)
    return Batch(*((tuple(t.to(device()) for t in part)) for part in ((x, y, e), (1 - x, y, e), (e, y))))


@pytest.mark.parametrize("term", ["real", "replay", "ewc", "gray"])
def test_each_term_has_its_weight_and_can_be_switched_off(baseline, fisher, batch, term):
    anchor = {name: weight + 0.1 for name, weight in baseline.net.named_parameters()}
    fisher = {name: f.to(device()) for name, f in fisher.items()}

    def values(weight):
        return ewc_gray(baseline.net, batch, replace(CONFIG, **{term: weight}), anchor, fisher)

    once, twice = values(1.5), values(3.0)
    assert float(once[term]) != 0
    assert float(twice[term]) == pytest.approx(2 * float(once[term]))
    assert {name for name in once if not torch.equal(once[name], twice[name])} == {term}
    assert set(values(0.0)) == {"real", "replay", "ewc", "gray"} - {term}


def test_images_of_the_forgotten_class_are_never_used(baseline, digits, fisher):
    poisoned = digits.train_images.clone()
    poisoned[digits.train_labels == 9] = float("nan")
    clean, _ = unlearned(baseline, digits, fisher, steps=20)
    other, _ = unlearned(baseline, digits, fisher, images=poisoned, steps=20)
    assert torch.equal(weights_of(clean), weights_of(other))


def test_the_seed_decides(baseline, digits, fisher):
    one, same, other = (weights_of(unlearned(baseline, digits, fisher, steps=20, seed=seed)[0]) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


TERMS = ["real", "replay", "ewc", "gray"]


def test_the_log_has_every_term_and_they_add_up_to_the_loss(baseline, digits, fisher):
    _, log = unlearned(baseline, digits, fisher, steps=120)
    assert set(log) == {"step", "loss", *TERMS, *(f"{term}_grad" for term in TERMS)}
    assert log["loss"].tolist() == pytest.approx(log[TERMS].sum(axis=1).tolist(), rel=1e-4)


def test_the_log_has_the_norm_of_the_gradient_of_every_term(baseline, digits, fisher):
    expected = {}

    def recording(model, batch, config, anchor, fisher):
        anchor = {name: weight + 0.01 for name, weight in anchor.items()}  # else the penalty has no gradient yet
        terms = ewc_gray(model, batch, config, anchor, fisher)
        for name in terms:
            twin = copy_of(model).requires_grad_(True)
            ewc_gray(twin, batch, config, anchor, fisher)[name].backward()
            gradients = [weight.grad.flatten() for weight in twin.parameters() if weight.grad is not None]
            expected[name] = float(torch.cat(gradients).norm())
        return terms

    _, log = unlearned(baseline, digits, fisher, loss=recording, steps=1)
    assert list(log["step"]) == [0]
    assert min(expected.values()) > 0
    assert {name: log[f"{name}_grad"][0] for name in TERMS} == pytest.approx(expected, rel=1e-4)


def test_the_model_is_frozen_afterwards(baseline, digits, fisher):
    net, _ = unlearned(baseline, digits, fisher, steps=1)
    assert not net.training
    assert not any(weight.requires_grad for weight in net.parameters())


def test_the_distance_to_gray_is_each_images_own():
    images = torch.tensor([0.5, 0.0, 0.75])[:, None, None, None].expand(-1, 1, 28, 28)
    assert distance_to_gray(images).tolist() == [0.0, 0.5, 0.25]


# The losses that the chapters show ---------------------------------------------------------------------------------

def shown_function(chapter, *arguments):
    """The function with these first arguments that a chapter defines."""
    tree = ast.parse((CHAPTERS / f"{chapter}.py").read_text())
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef)
                   and tuple(argument.arg for argument in node.args.args[:len(arguments)]) == arguments)
    names = {"torch": torch, "F": torch.nn.functional}
    exec(compile(ast.Module([function], []), chapter, "exec"), names)
    return names[function.name]


def squared_gray(model, batch, config, anchor, fisher):
    return {**ewc_gray(model, batch, config, anchor, fisher),
            "gray": config.gray * (model.decode(*batch.asked) - 0.5).square().mean()}


def gray_without_slope(*arguments):
    """The same values, but with no gradient to learn gray from."""
    terms = ewc_gray(*arguments)
    return {**terms, "gray": terms["gray"].detach() + 0 * terms["gray"]}


def test_chapter_2_shows_the_loss_that_the_library_minimizes():
    shown = shown_function("02_ewc_unlearning", "model", "batch")
    assert trained._loss_fingerprint(shown, CONFIG) == trained._loss_fingerprint(ewc_gray, CONFIG)


def test_chapter_1_shows_the_elbo_that_the_library_maximizes():
    shown = shown_function("01_baseline", "model", "x", "y", "noise")
    assert trained._elbo_fingerprint(shown) == trained._elbo_fingerprint(CVAE.elbo_terms)


@pytest.mark.parametrize("other", [squared_gray, gray_without_slope])
def test_another_loss_has_another_fingerprint(other):
    assert trained._loss_fingerprint(other, CONFIG) != trained._loss_fingerprint(ewc_gray, CONFIG)


# Bad arguments -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("field", [f.name for f in fields(UnlearningConfig) if f.name != "schedule"])
@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), True, "1", None])
def test_bad_numbers_are_refused(field, bad):
    with pytest.raises(ValueError, match=f"^{field} must be a .* number from [01], got {re.escape(repr(bad))}$"):
        UnlearningConfig(**{field: bad})


@pytest.mark.parametrize("bad", ["cosine", "", 1, None])
def test_only_two_schedules_are_known(bad):
    with pytest.raises(ValueError, match=f"^schedule must be one of one-cycle, constant, got {re.escape(repr(bad))}$"):
        UnlearningConfig(schedule=bad)


@pytest.mark.parametrize("field, bad", [("steps", 0), ("salient", 0.0), ("salient", 1.5), ("fresh", 1.5)])
def test_numbers_outside_their_range_are_refused(field, bad):
    with pytest.raises(ValueError, match=f"{field} .*got .*{bad}"):
        UnlearningConfig(**{field: bad})


@pytest.mark.parametrize("bad", [[], list(range(10)), [9, 9], [10], ["9"], "9", None])
def test_classes_that_cannot_be_forgotten_are_refused(baseline, digits, fisher, bad):
    with pytest.raises(ValueError, match="^forget must be a class from 0 to 9 or a list .*, got "):
        unlearned(baseline, digits, fisher, forget=bad)


@pytest.mark.parametrize("argument, bad", [("labels", torch.zeros(3)), ("images", torch.zeros(3, 784)), ("seed", -1),
                                           ("fisher", {}), ("anchor", build(ModelConfig(latent_dim=5), 0))])
def test_bad_arguments_are_named(baseline, digits, fisher, argument, bad):
    arguments = {"model": copy_of(baseline.net), "images": digits.train_images, "labels": digits.train_labels,
                 "forget": 9, "fisher": fisher, "config": CONFIG, "seed": 0, "loss": ewc_gray}
    with pytest.raises((TypeError, ValueError), match=f"{argument} must be " if argument != "images" else "images"):
        unlearn(**arguments | {argument: bad})


# Several classes, and classes forgotten before ---------------------------------------------------------------------

def test_a_sequence_forgets_all_its_classes_and_keeps_the_rest(baseline, digits):
    both = trained.sequence(baseline, digits, [9, 2], CONFIG)[-1].net
    assert max(gray(both, k) for k in (9, 2)) < GONE
    assert min(gray(both, k) for k in range(10) if k not in (9, 2)) > DRAWN


def test_only_pushed_classes_go_gray(baseline, digits, fisher):
    net, _ = unlearned(baseline, digits, fisher, forget=[9, 2], push=2, ewc=0.0)
    assert gray(net, 2) < GONE
    assert gray(net, 9) > DRAWN


@pytest.mark.parametrize("push, pushed", [(None, (2, 9)), (2, (2,)), ([9], (9,)), ((9, 2), (2, 9))])
def test_a_push_set_is_a_sorted_part_of_the_forget_set(push, pushed):
    assert push_set((9, 2), push) == pushed


@pytest.mark.parametrize("push", [[], [3], [9, 3], 3, "9"])
def test_a_push_set_outside_the_forget_set_is_refused(push):
    with pytest.raises(ValueError, match="^push must be "):
        push_set((9, 2), push)


def test_the_penalty_pulls_towards_the_anchor(baseline, digits, fisher):
    other = trained.cvae(digits, MODEL, TrainingConfig(epochs=2), seed=0)
    ones = {name: torch.ones_like(f) for name, f in fisher.items()}
    net, _ = unlearned(baseline, digits, ones, anchor=other.net, real=0.0, replay=0.0, gray=0.0, ewc=1e3, steps=300)
    to_anchor, to_start = ((weights_of(net) - weights_of(model.net)).square().sum() for model in (other, baseline))
    assert to_anchor < 0.1 * to_start


# The methods -------------------------------------------------------------------------------------------------------

def run_method(name, baseline, digits, fisher, **changes):
    """The baseline's network after one of `METHODS`, in a short form for the small model."""
    config = replace(METHODS[name].config, **{"steps": 200, "batch": 64, "forget_batch": 64, **changes})
    net, log = unlearned(baseline, digits, fisher, loss=METHODS[name].loss, config=config,
                         combine=METHODS[name].combine)
    assert np.isfinite(log["loss"]).all()
    return net


def test_selective_amnesia_learns_noise_for_the_class_and_needs_no_data(baseline, digits, fisher):
    blank = replace(digits, train_images=torch.zeros_like(digits.train_images))
    net = run_method("selective_amnesia", baseline, blank, fisher, steps=600, peak_lr=1e-2)
    # The decoder's mean of uniform noise is gray.
    assert gray(net, 9) < 0.2
    assert gray(baseline.net, 9) > DRAWN
    assert retained_nats(net, digits) < retained_nats(baseline.net, digits) + 20


def test_gradient_ascent_raises_the_loss_of_the_class_and_of_the_others(baseline, digits):
    net = run_method("gradient_ascent", baseline, digits, {}, peak_lr=5e-4)
    assert nats(net, digits, 9) > nats(baseline.net, digits, 9) + 100
    assert retained_nats(net, digits) > retained_nats(baseline.net, digits) + 10


def test_gradient_ascent_with_rehearsal_keeps_the_others(baseline, digits):
    net = run_method("neggrad_plus", baseline, digits, {}, forget=0.1, peak_lr=5e-4)
    assert nats(net, digits, 9) > nats(baseline.net, digits, 9) + 20
    assert retained_nats(net, digits) < retained_nats(baseline.net, digits) + 10


def test_gradient_surgery_spares_the_others_where_gradient_ascent_does_not(baseline, digits):
    operated, ascended = (run_method(name, baseline, digits, {}, steps=40, peak_lr=5e-4)
                          for name in ("gradient_surgery", "gradient_ascent"))
    assert nats(operated, digits, 9) > nats(baseline.net, digits, 9) + 5
    lost, more = (retained_nats(net, digits) - retained_nats(baseline.net, digits) for net in (operated, ascended))
    assert lost < more / 2


def test_salun_draws_the_next_class_in_place_of_the_forgotten_one(baseline, digits):
    net = run_method("salun", baseline, digits, {}, forget=1.0, peak_lr=2e-3)
    drawn, own = (prior_samples(model, torch.full((200,), 9)) for model in (net, baseline.net))
    following = prior_samples(baseline.net, torch.full((200,), 0))
    assert (drawn - following).square().mean() < 0.5 * (drawn - own).square().mean()
    assert retained_nats(net, digits) < retained_nats(baseline.net, digits) + 5
    assert float((weights_of(net) == weights_of(baseline.net)).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_uno_forgets_the_class_and_keeps_the_others(baseline, digits):
    net = run_method("uno", baseline, digits, {}, peak_lr=5e-3)
    assert nats(net, digits, 9) > nats(baseline.net, digits, 9) + 5
    assert retained_nats(net, digits) < retained_nats(baseline.net, digits) + 5


def test_saliency_changes_only_the_salient_weights(baseline, digits):
    net = run_method("saliency", baseline, digits, {}, salient=0.3)
    unchanged = (weights_of(net) == weights_of(baseline.net)).double().mean()
    assert float(unchanged) == pytest.approx(1 - 0.3, abs=0.02)


def test_saliency_draws_another_class_in_place_of_the_forgotten_one(baseline, digits):
    net = run_method("saliency", baseline, digits, {}, salient=0.3)
    drawn, own = (prior_samples(model, torch.full((200,), 9)) for model in (net, baseline.net))
    others = torch.stack([prior_samples(baseline.net, torch.full((200,), k)) for k in range(9)])

    def distance_to(images):
        return float((drawn - images).square().flatten(1).sum(1).mean())

    assert distance_to(others.mean(0)) < 0.5 * distance_to(own)


def test_fine_tuning_alone_forgets_little(baseline, digits):
    fine_tuned, unseen = (run_method(name, baseline, digits, {}, peak_lr=2e-3) for name in ("fine_tune", "unseen"))
    assert gray(fine_tuned, 9) > DRAWN
    assert nats(fine_tuned, digits, 9) < nats(unseen, digits, 9) - 20


def test_unseen_draws_the_weights_of_the_label_anew_and_those_of_the_rest_in_part(baseline, digits):
    net, new = run_method("unseen", baseline, digits, {}, fresh=0.5, steps=1, peak_lr=1e-9), build(MODEL, 1)
    for side in ("encoder", "decoder"):
        now, drawn, old = (getattr(model, side).layers[0].weight[:, -10:].cpu() for model in (net, new, baseline.net))
        assert torch.allclose(now[:, 9], drawn[:, 9], atol=1e-6)
        assert torch.allclose(now[:, :9], (drawn[:, :9] + old[:, :9]) / 2, atol=1e-6)


def test_unseen_never_trains_the_label_of_the_class(baseline, digits):
    net, new = run_method("unseen", baseline, digits, {}, fresh=0.5), build(MODEL, 1)
    for side in ("encoder", "decoder"):
        assert torch.equal(*(getattr(model, side).layers[0].weight[:, -1].cpu() for model in (net, new)))


def test_unseen_forgets_the_class_and_learns_the_others_again(baseline, digits):
    net = run_method("unseen", baseline, digits, {}, fresh=0.5)
    assert retained_nats(net, digits) < retained_nats(baseline.net, digits) + 5
    assert nats(net, digits, 9) > nats(baseline.net, digits, 9) + 20
