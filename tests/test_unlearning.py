"""Forgetting, term by term, on a small model of the bundled digits."""

import ast
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sa_lib import training, unlearning
from sa_lib.evaluation import negative_elbo, prior_samples
from sa_lib.fisher import combine, fisher_by_class
from sa_lib.model import CVAE, ModelConfig, build, one_hot
from sa_lib.training import TrainingConfig, device, get_cvae
from sa_lib.unlearning import (METHODS, Batch, Method, UnlearningConfig, distance_to_gray, ewc_gray, ewc_penalty,
                               get_fishers, get_forgotten, get_unlearned, unlearn)

MODEL = ModelConfig(latent_dim=4, hidden=(64, 32))
CONFIG = UnlearningConfig(steps=200, batch=64, forget_batch=16, peak_lr=5e-3)
CHAPTERS = Path(__file__).parent.parent / "notebooks"


@pytest.fixture(scope="module")
def baseline(digits):
    return get_cvae(digits, MODEL, TrainingConfig(epochs=80), seed=0)


@pytest.fixture(scope="module")
def fisher(baseline, digits):
    return combine(get_fishers(baseline, digits), {k: 1.0 for k in range(9)})


def copy(model):
    twin = build(model.config, 0).to(device())
    twin.load_state_dict(model.state_dict())
    return twin


def forget(baseline, digits, fisher, images=None, forgotten=(9,), seed=0, **changes):
    model = copy(baseline.model)
    log = unlearn(model, digits.train_images if images is None else images, digits.train_labels,
                  list(forgotten), fisher, replace(CONFIG, **changes), seed)
    return model, log


def gray(model, k):
    return float(distance_to_gray(prior_samples(model, torch.full((200,), k))).mean())


def retained_nats(model, digits):
    keep = digits.test_labels != 9
    return float(negative_elbo(model, digits.test_images[keep], digits.test_labels[keep]).mean())


def test_it_forgets_the_class_and_keeps_the_others(baseline, digits, fisher):
    model, _ = forget(baseline, digits, fisher)
    assert gray(baseline.model, 9) > 0.3
    assert gray(model, 9) < 0.03
    assert max(abs(gray(model, k) - gray(baseline.model, k)) for k in range(9)) < 0.03
    assert retained_nats(model, digits) < retained_nats(baseline.model, digits) + 3


def test_without_the_gray_term_nothing_is_forgotten(baseline, digits, fisher):
    model, log = forget(baseline, digits, fisher, gray=0.0)
    assert gray(model, 9) > 0.3 and "gray" not in log


def test_without_rehearsal_and_penalty_the_others_are_lost(baseline, digits, fisher):
    model, _ = forget(baseline, digits, fisher, real=0.0, replay=0.0, ewc=0.0)
    assert retained_nats(model, digits) > retained_nats(baseline.model, digits) + 30


def test_several_classes_at_once(baseline, digits, fisher):
    model, _ = forget(baseline, digits, fisher, forgotten=(9, 2))
    assert max(gray(model, 9), gray(model, 2)) < 0.05 and gray(model, 3) > 0.3


def test_the_penalty_is_what_the_formula_says(baseline):
    model, anchor = copy(baseline.model), dict(copy(baseline.model).named_parameters())
    twos = {name: torch.full_like(weight, 2.0) for name, weight in anchor.items()}
    assert float(ewc_penalty(model, anchor, twos).detach()) == 0
    twos["encoder.mean.bias"] = torch.tensor([1.0, 0.0, 5.0, 0.5]).to(device())
    with torch.no_grad():
        model.encoder.mean.bias += torch.tensor([3.0, 7.0, -1.0, 2.0]).to(device())
        model.decoder.layers[0].weight[0, 0] -= 4.0
    by_hand = 1 * 9 + 0 * 49 + 5 * 1 + 0.5 * 4 + 2 * 16
    assert float(ewc_penalty(model, anchor, twos).detach()) == pytest.approx(by_hand, rel=1e-4)


def test_a_large_lambda_holds_the_weights(baseline, digits, fisher):
    # With larger steps Adam overshoots so steep a penalty.
    def moved(**changes):
        model, _ = forget(baseline, digits, fisher, real=0.0, replay=0.0, peak_lr=1e-4, **changes)
        return torch.cat([(w - v)[fisher[name].to(device()) > 1].abs() for (name, w), v in
                          zip(model.named_parameters(), baseline.model.parameters())]).max()
    assert moved(ewc=1e8) < 0.1 * moved(ewc=0.0)


@pytest.fixture
def batch(digits):
    generator = torch.Generator().manual_seed(0)
    x, y = digits.train_images[:6], one_hot(digits.train_labels[:6])
    e = torch.randn(6, MODEL.latent_dim, generator=generator)
    return Batch(*((tuple(t.to(device()) for t in part)) for part in ((x, y, e), (1 - x, y, e), (e, y))))


@pytest.mark.parametrize("term", ["real", "replay", "ewc", "gray"])
def test_each_term_has_its_weight_and_can_be_switched_off(baseline, fisher, batch, term):
    anchor = {name: weight + 0.1 for name, weight in baseline.model.named_parameters()}
    fisher = {name: f.to(device()) for name, f in fisher.items()}

    def values(**weights):
        return ewc_gray(baseline.model, batch, replace(CONFIG, **weights), anchor, fisher)

    once, twice = values(**{term: 1.5}), values(**{term: 3.0})
    assert float(twice[term]) == pytest.approx(2 * float(once[term])) and float(once[term]) != 0
    assert {name for name in once if not torch.equal(once[name], twice[name])} == {term}
    assert set(values(**{term: 0.0})) == {"real", "replay", "ewc", "gray"} - {term}


def test_images_of_the_forgotten_class_are_never_used(baseline, digits, fisher):
    poisoned = digits.train_images.clone()
    poisoned[digits.train_labels == 9] = float("nan")
    clean, _ = forget(baseline, digits, fisher, steps=20)
    other, _ = forget(baseline, digits, fisher, images=poisoned, steps=20)
    assert all(torch.equal(a, b) for a, b in zip(clean.parameters(), other.parameters()))


def test_the_seed_decides(baseline, digits, fisher):
    (one, _), (same, _), (other, _) = (forget(baseline, digits, fisher, steps=20, seed=s) for s in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not torch.equal(one.encoder.mean.weight, other.encoder.mean.weight)


def test_the_log_has_every_term_and_the_norm_of_its_gradient(baseline, digits, fisher):
    _, log = forget(baseline, digits, fisher, steps=120)
    terms = ["real", "replay", "ewc", "gray"]
    assert {"step", "loss", *terms, *(f"{t}_grad" for t in terms)} == set(log)
    assert torch.allclose(torch.tensor(log["loss"]), torch.tensor(log[terms].sum(axis=1)), rtol=1e-4)
    # The same batch again, and weights that have moved: the anchor's penalty has a gradient.
    direct = {}

    def watched(model, batch, weights, anchor, fisher):
        anchor = {name: weight + 0.01 for name, weight in anchor.items()}
        values = ewc_gray(model, batch, weights, anchor, fisher)
        for name in values:
            twin = copy(model).requires_grad_(True)
            ewc_gray(twin, batch, weights, anchor, fisher)[name].backward()
            gradients = [w.grad.flatten() for w in twin.parameters() if w.grad is not None]
            direct[name] = float(torch.cat(gradients).norm())
        return values
    log = unlearn(copy(baseline.model), digits.train_images, digits.train_labels, [9], fisher,
                  replace(CONFIG, steps=1), 0, watched)
    assert list(log["step"]) == [0] and min(direct.values()) > 0
    assert {name: log[f"{name}_grad"][0] for name in terms} == pytest.approx(direct, rel=1e-4)


def squared(model, batch, weights, anchor, fisher):
    return {**ewc_gray(model, batch, weights, anchor, fisher),
            "gray": weights.gray * (model.decode(*batch.forget) - 0.5).square().mean()}


def without_a_slope(*arguments):
    terms = ewc_gray(*arguments)
    return {**terms, "gray": terms["gray"].detach() + 0 * terms["gray"]}


def reworded(model, batch, weights, anchor, fisher):
    return dict(reversed(ewc_gray(model, batch, weights, anchor, fisher).items()))


def test_what_was_unlearned_is_found_again_and_a_change_is_not(baseline, digits, fisher, monkeypatch):
    config = replace(CONFIG, steps=5)
    before = [w.clone() for w in baseline.model.parameters()]
    made = get_unlearned(baseline, digits, [9], fisher, config)
    assert all(torch.equal(a, b) for a, b in zip(before, baseline.model.parameters()))
    with monkeypatch.context() as patch:
        patch.setattr(unlearning, "unlearn", lambda *_: pytest.fail("it was made again"))
        assert get_unlearned(baseline, digits, [9], fisher, config).digest == made.digest
        assert get_unlearned(baseline, digits, [9], fisher, config, terms=reworded).digest == made.digest
    changed = {name: f + 1 for name, f in fisher.items()}
    others = [get_unlearned(baseline, digits, [8], fisher, config),
              get_unlearned(baseline, digits, [9], changed, config),
              get_unlearned(baseline, digits, [9], fisher, replace(config, peak_lr=1e-3)),
              get_unlearned(baseline, digits, [9], fisher, config, seed=1),
              get_unlearned(baseline, digits, [9], fisher, config, terms=squared)]
    assert len({made.digest, *(other.digest for other in others)}) == 6


def test_the_order_of_the_classes_makes_no_other_model(baseline, digits, fisher, monkeypatch):
    config = replace(CONFIG, steps=1)
    made = get_unlearned(baseline, digits, [9, 2], fisher, config)
    monkeypatch.setattr(unlearning, "unlearn", lambda *_: pytest.fail("it was made again"))
    assert get_unlearned(baseline, digits, [2, 9], fisher, config).digest == made.digest


def test_another_model_and_other_data_are_not_mistaken_for_these(baseline, digits, fisher):
    config = replace(CONFIG, steps=1)
    other = get_cvae(digits, MODEL, TrainingConfig(epochs=1), seed=0)
    darker = replace(digits, train_images=digits.train_images / 2, digest="darker")
    pairs = [(baseline, digits), (other, digits), (baseline, darker)]
    assert len({get_unlearned(*pair, [9], fisher, config).digest for pair in pairs}) == 3
    assert len({float(get_fishers(*pair)[3]["encoder.mean.bias"].sum()) for pair in pairs}) == 3


def test_the_distance_to_gray_is_each_images_own():
    images = torch.tensor([0.5, 0.0, 0.75])[:, None, None, None].expand(-1, 1, 28, 28)
    assert distance_to_gray(images).tolist() == [0.0, 0.5, 0.25]


def cell(chapter, start):
    """The function that a chapter defines in the cell that begins with `start`."""
    source = (CHAPTERS / f"{chapter}.py").read_text()
    tree = ast.parse(source)
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == start)
    names = {"torch": torch, "F": torch.nn.functional}
    exec(compile(ast.Module([function], []), chapter, "exec"), names)
    return names[start]


def test_the_chapters_show_the_very_losses_that_the_library_minimises():
    terms = cell("02_ewc_unlearning", "terms")
    assert unlearning._fingerprint(terms, CONFIG) == unlearning._fingerprint(ewc_gray, CONFIG)
    assert unlearning._fingerprint(squared, CONFIG) != unlearning._fingerprint(ewc_gray, CONFIG)
    # Of the same values, but with nothing to learn from the last.
    assert unlearning._fingerprint(without_a_slope, CONFIG) != unlearning._fingerprint(ewc_gray, CONFIG)
    shown = cell("01_baseline", "elbo_terms")
    assert training._fingerprint(shown) == training._fingerprint(CVAE.elbo_terms)


@pytest.mark.parametrize("field", [f.name for f in fields(UnlearningConfig)])
@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), True, "1", None])
def test_weights_of_no_sense_are_refused(field, bad):
    with pytest.raises(ValueError, match=f"^{field}={re.escape(repr(bad))} is not allowed; use a [^\n]*$"):
        UnlearningConfig(**{field: bad})


def test_no_step_is_no_unlearning():
    with pytest.raises(ValueError, match="^steps=0 is not allowed; use a whole number from 1$"):
        UnlearningConfig(steps=0)


@pytest.mark.parametrize("bad", [[], list(range(10)), [9, 9], [10], ["9"]])
def test_classes_that_cannot_be_forgotten(baseline, digits, fisher, bad):
    with pytest.raises(ValueError, match=r"give (at least one class|a list of at most 9 distinct digits)"):
        forget(baseline, digits, fisher, forgotten=bad)


@pytest.mark.parametrize("bad", [9, None, [9, "9"], "9"])
def test_what_is_no_list_of_classes_cannot_be_forgotten(baseline, digits, fisher, bad):
    with pytest.raises(ValueError, match="give a list of at most 9 distinct digits from 0 to 9$"):
        get_unlearned(baseline, digits, bad, fisher, CONFIG)


def test_the_fishers_kept_are_those_of_each_class(baseline, digits):
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(len(digits.train_labels), MODEL.latent_dim, generator=generator)
    direct = fisher_by_class(baseline.model, digits.train_images, digits.train_labels, noise)
    kept = get_fishers(baseline, digits, seed=5)
    assert sorted(kept) == sorted(direct) == list(range(10))
    for k in direct:
        for name in direct[k]:
            torch.testing.assert_close(kept[k][name], direct[k][name].cpu())


def test_a_sequence_forgets_all_it_names_and_protects_only_the_rest(baseline, digits):
    first, both = unlearning.get_sequence(baseline, digits, [9, 2], CONFIG)
    gray = {k: float(distance_to_gray(prior_samples(both.model, torch.full((50,), k))).mean()) for k in range(10)}
    assert max(gray[9], gray[2]) < 0.05 < 0.2 < min(gray[k] for k in range(10) if k not in (9, 2))
    by_hand = get_unlearned(first, digits, [9, 2], unlearning.get_fisher(first, digits, [9, 2]), CONFIG)
    assert by_hand.digest == both.digest
    alone = get_unlearned(baseline, digits, [9], unlearning.get_fisher(baseline, digits, [9]), CONFIG)
    assert alone.digest == first.digest


def test_the_fisher_of_the_retained_classes_is_that_of_all_their_images(baseline, digits):
    fishers, counts = get_fishers(baseline, digits), torch.bincount(digits.train_labels).tolist()
    expected = combine(fishers, {k: counts[k] for k in range(10) if k not in (9, 2)})
    found = unlearning.get_fisher(baseline, digits, [2, 9])
    assert all(torch.equal(found[name], f) for name, f in expected.items())


def test_only_what_is_pushed_goes_gray(baseline, digits, fisher):
    model = get_unlearned(baseline, digits, [9, 2], fisher, replace(CONFIG, ewc=0.0), push=[2]).model
    gray = [float(distance_to_gray(prior_samples(model, torch.full((50,), k))).mean()) for k in (9, 2)]
    assert gray[1] < 0.05 and gray[0] > 0.2
    for push in ([], [3], [9, 3]):
        with pytest.raises(ValueError, match="push="):
            get_unlearned(baseline, digits, [9, 2], fisher, CONFIG, push=push)


def test_the_penalty_pulls_towards_the_anchor(baseline, digits, fisher):
    other = get_cvae(digits, MODEL, TrainingConfig(epochs=2), seed=0)
    ones = {name: torch.ones_like(f) for name, f in fisher.items()}
    alone = replace(CONFIG, real=0.0, replay=0.0, gray=0.0, ewc=1e3, steps=300)
    model = get_unlearned(baseline, digits, [9], ones, alone, anchor=other).model

    def distance(a, b):
        return sum(float((x - y).square().sum()) for x, y in zip(a.parameters(), b.parameters()))

    assert distance(model, other.model) < 0.1 * distance(model, baseline.model)


def test_the_reference_has_never_seen_the_class_and_as_many_updates(digits):
    config = replace(CONFIG, steps=30)
    reference = unlearning.get_never_saw(digits, [9], MODEL, TrainingConfig(epochs=3), config, rounds=2, seed=1)
    assert int(reference.log["step"].iloc[-1]) == 2 * 30 - 1
    assert set(reference.log.columns) == {"step", "loss", "real", "real_grad"}
    changed = replace(digits, train_images=torch.where(
        (digits.train_labels == 9)[:, None, None, None], 1 - digits.train_images, digits.train_images))
    again = unlearning.get_never_saw(changed, [9], MODEL, TrainingConfig(epochs=3), config, rounds=2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(reference.model.parameters(), again.model.parameters()))


def by(method, baseline, digits, fisher, **changes):
    config = replace(METHODS[method].config, **{"steps": 200, "batch": 64, "forget_batch": 64, **changes})
    model = copy(baseline.model)
    log = unlearn(model, digits.train_images, digits.train_labels, [9], fisher, config, 0, METHODS[method].terms)
    assert np.isfinite(log["loss"]).all()
    return model


def nines(model, digits):
    there = digits.test_labels == 9
    return float(negative_elbo(model, digits.test_images[there], digits.test_labels[there]).mean())


def test_selective_amnesia_learns_noise_for_the_class_and_needs_no_data(baseline, digits, fisher):
    blank = replace(digits, train_images=torch.zeros_like(digits.train_images))
    model = by("selective_amnesia", baseline, blank, fisher, steps=600, peak_lr=1e-2)
    # What stands for uniform noise is its mean.
    assert gray(model, 9) < 0.15 < 0.3 < gray(baseline.model, 9)
    assert retained_nats(model, digits) < retained_nats(baseline.model, digits) + 20


def test_gradient_ascent_raises_the_loss_of_the_class_and_rehearsal_keeps_the_others(baseline, digits, fisher):
    before, kept = nines(baseline.model, digits), retained_nats(baseline.model, digits)
    plain = by("gradient_ascent", baseline, digits, {}, peak_lr=5e-4)
    held = by("gradient_ascent_retain", baseline, digits, {}, forget=0.1, peak_lr=5e-4)
    assert nines(plain, digits) > before + 100 and nines(held, digits) > before + 20
    assert retained_nats(held, digits) < kept + 10 < retained_nats(plain, digits)


def test_saliency_draws_another_class_and_leaves_the_other_weights_alone(baseline, digits, fisher):
    model = by("saliency", baseline, digits, {}, salient=0.3)
    same = sum(int((a == b).sum()) for a, b in zip(model.parameters(), baseline.model.parameters()))
    count = sum(weight.numel() for weight in model.parameters())
    assert same / count == pytest.approx(0.7, abs=0.02)
    labels = torch.full((200,), 9)
    drawn, own = prior_samples(model, labels), prior_samples(baseline.model, labels)
    others = torch.stack([prior_samples(baseline.model, torch.full((200,), k)) for k in range(9)])

    def apart(images):
        return float((drawn - images).square().flatten(1).sum(1).mean())
    assert apart(others.mean(0)) < 0.5 * apart(own)


def test_fine_tuning_alone_forgets_nothing(baseline, digits, fisher):
    model = by("fine_tune", baseline, digits, {}, peak_lr=2e-3)
    assert gray(model, 9) > 0.25
    assert nines(model, digits) < nines(by("unseen", baseline, digits, {}, peak_lr=2e-3), digits) - 20


def test_unseen_draws_the_label_afresh_and_rehearses_the_rest(baseline, digits, fisher):
    model, new = by("unseen", baseline, digits, {}, fresh=0.5), build(MODEL, 1)
    for side in ("encoder", "decoder"):
        read, drawn, old = (getattr(m, side).layers[0].weight for m in (model, new.to(device()), baseline.model))
        assert torch.equal(read[:, -1], drawn[:, -1])
        assert not (read[:, -10:-1] == old[:, -10:-1]).any()
    assert retained_nats(model, digits) < retained_nats(baseline.model, digits) + 5
    assert nines(model, digits) > nines(baseline.model, digits) + 20


def test_a_method_is_found_again_and_needs_a_fisher_only_for_its_penalty(baseline, digits, monkeypatch):
    monkeypatch.setattr(unlearning, "get_fisher", lambda *_: pytest.fail("no penalty asks for it"))
    method = Method(METHODS["saliency"].terms, replace(METHODS["saliency"].config, steps=3))
    made = get_forgotten(baseline, digits, [9], method)
    monkeypatch.setattr(unlearning, "unlearn", lambda *_: pytest.fail("it was made again"))
    assert get_forgotten(baseline, digits, [9], method).digest == made.digest


@pytest.mark.parametrize("field, value", [("salient", 0.0), ("salient", 1.5), ("fresh", 1.5), ("fresh", -0.1),
                                          ("forget", float("nan"))])
def test_a_bad_share_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        UnlearningConfig(**{field: value})
