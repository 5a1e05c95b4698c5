"""Trained models: each is made once and loaded after that; a changed input or code makes it again; prose does not.

A recipe is complete if a changed module that took part makes the artifact again. The torture tests check that for
every module that runs; these tests check the modules that a recipe names.
"""

import ast
import dataclasses
import importlib
import re
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

import sa_lib
from sa_lib import methods, store, trained
from sa_lib.attacks import THREATS, Threat
from sa_lib.fisher import combine, fisher_by_class
from sa_lib.judges import JudgeConfig
from sa_lib.methods import METHODS, Method, ewc_gray, gradient_ascent, surgery
from sa_lib.model import CVAE, ModelConfig, device
from sa_lib.reconstruction import SearchConfig
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

MODEL = ModelConfig(latent_dim=2, hidden=(16, 8))
TRAINING = TrainingConfig(epochs=1)
UNLEARNING = UnlearningConfig(steps=2, batch=32, forget_batch=8)
ATTACK = SearchConfig(pool=16, starts=2, iterations=2, rounds=2)
LIBRARY = Path(sa_lib.__file__).parent
# The modules whose code is part of the recipe, by kind of artifact.
RECIPES = {"cvae": {"labels", "model", "settings", "training"},
           "judge": {"labels", "model", "settings", "training", "judges"},
           "fisher": {"labels", "model", "fisher", "settings"},
           "unlearned": {"labels", "model", "settings", "training", "unlearning"},
           "attack": {"labels", "model", "settings", "threats", "quantiles", "decoders", "attacks", "reconstruction"}}
IN_RECIPES = sorted(set().union(*RECIPES.values()))
MODULES = sorted(path.relative_to(LIBRARY).with_suffix("").as_posix().replace("/", ".")
                 for path in (*LIBRARY.glob("[a-z]*.py"), *(LIBRARY / "store").glob("[a-z]*.py")))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty store."""
    monkeypatch.setenv("SA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def made(monkeypatch):
    """The kinds of the artifacts that are made from here on."""
    kinds = []
    real = store.get_or_make

    def watched(kind, recipe, make):
        def making():
            kinds.append(kind)
            return make()
        return real(kind, recipe, making)

    monkeypatch.setattr(store, "get_or_make", watched)
    return kinds


@pytest.fixture(scope="module")
def source(digits):
    return trained.cvae(digits, MODEL, TRAINING)


@pytest.fixture(scope="module")
def ones(source):
    """A Fisher of ones."""
    return {name: torch.ones_like(weight) for name, weight in source.net.named_parameters()}


def assert_same_model(one, other):
    assert one.digest == other.digest
    assert one.seconds == other.seconds
    pd.testing.assert_frame_equal(one.log, other.log)
    for name, weight in one.net.state_dict().items():
        assert torch.equal(weight, other.net.state_dict()[name]), name


# Made once, loaded after that ------------------------------------------------------------------------------------

def test_a_cvae_is_made_once_and_loaded_after_that(digits, cache, made):
    first = trained.cvae(digits, MODEL, TRAINING, seed=3)
    with warnings.catch_warnings(action="error"):
        second = trained.cvae(digits, MODEL, TRAINING, seed=3)
    assert made == ["cvae"]
    assert_same_model(first, second)


def test_a_model_is_frozen_on_the_device_and_known_by_its_digest(source):
    assert not source.net.training
    assert not any(weight.requires_grad for weight in source.net.parameters())
    assert {weight.device.type for weight in source.net.parameters()} == {device().type}
    assert source.net.config == MODEL
    assert source.digest == store.tensor_digest(source.net.state_dict())
    assert source.seconds > 0


def in_words(changes):
    """A name for a test that is the same in every process, which the text of a function is not."""
    return ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in changes.items()) or "unchanged"


def twice_the_divergence(model, *inputs):
    log_likelihood, kl = model.elbo_terms(*inputs)
    return log_likelihood, 2 * kl


@pytest.mark.parametrize("changes", [
    {"seed": 1}, {"config": TrainingConfig(epochs=2)}, {"config": TrainingConfig(epochs=1, batch=32)},
    {"config": TrainingConfig(epochs=1, peak_lr=1e-3)}, {"model_config": ModelConfig(latent_dim=2, hidden=(17, 8))},
    {"model_config": ModelConfig(latent_dim=3, hidden=(16, 8))}, {"without": 9}, {"without": [9, 2]},
    {"terms": twice_the_divergence}], ids=in_words)
def test_a_changed_input_makes_another_cvae(digits, source, cache, made, changes):
    other = trained.cvae(digits, **({"model_config": MODEL, "config": TRAINING} | changes))
    assert other.digest != source.digest
    trained.cvae(digits, MODEL, TRAINING)
    assert made == ["cvae", "cvae"]


def test_other_data_make_another_cvae(digits, source, cache):
    darker = dataclasses.replace(digits, train_images=digits.train_images / 2, digest="darker")
    assert trained.cvae(darker, MODEL, TRAINING).digest != source.digest


@pytest.mark.parametrize("one, other", [([9, 2], (2, 9)), (9, [9])])
def test_the_same_classes_left_out_are_the_same_cvae(digits, cache, made, one, other):
    assert trained.cvae(digits, MODEL, TRAINING, without=one).digest == trained.cvae(
        digits, MODEL, TRAINING, without=other).digest
    assert made == ["cvae"]


def rewritten_elbo_terms(model, x, y, noise):
    mean, log_var = model.encode(x, y)
    logits = model.decode_logits(mean + (log_var / 2).exp() * noise, y)
    log_likelihood = x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)
    return log_likelihood.sum((1, 2, 3)), (mean ** 2 + log_var.exp() - 1 - log_var).sum(1) / 2


def test_the_same_elbo_written_in_other_words_is_the_same_cvae(digits, cache, made):
    trained.cvae(digits, MODEL, TRAINING, terms=CVAE.elbo_terms)
    trained.cvae(digits, MODEL, TRAINING, terms=rewritten_elbo_terms)
    assert made == ["cvae"]


def test_a_judge_is_made_once_and_loaded_after_that(digits, cache, made):
    first, second, other = (trained.judge(digits, JudgeConfig("A", epochs=1), seed) for seed in (0, 0, 1))
    assert made == ["judge", "judge"]
    assert store.tensor_digest(first.state_dict()) == store.tensor_digest(second.state_dict())
    assert store.tensor_digest(first.state_dict()) != store.tensor_digest(other.state_dict())
    assert not second.training
    assert not any(weight.requires_grad for weight in second.parameters())


def test_the_fishers_are_those_of_each_class_made_once(digits, source, cache, made):
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(len(digits.train_labels), MODEL.latent_dim, generator=generator)
    direct = fisher_by_class(source.net, digits.train_images, digits.train_labels, noise)
    by_class, again = (trained.fishers(source, digits, seed=5) for _ in range(2))
    assert made == ["fisher"]
    assert sorted(by_class) == list(range(10))
    for k, diagonal in direct.items():
        for name, f in diagonal.items():
            torch.testing.assert_close(by_class[k][name], f.cpu())
            assert torch.equal(again[k][name], by_class[k][name])


@pytest.mark.parametrize("forget", [9, [2, 9], (9, 2)])
def test_the_fisher_of_the_retain_set_is_that_of_all_its_images(digits, source, forget):
    counts = torch.bincount(digits.train_labels).tolist()
    retain = set(range(10)) - ({forget} if forget == 9 else set(forget))
    expected = combine(trained.fishers(source, digits), {k: counts[k] for k in retain})
    diagonal = trained.retain_fisher(source, digits, forget)
    assert diagonal.keys() == expected.keys()
    for name, f in expected.items():
        torch.testing.assert_close(diagonal[name], f, rtol=1e-5, atol=0)


def test_an_unlearned_model_is_made_once_and_its_source_stays_as_it_was(digits, source, ones, cache, made):
    before = store.tensor_digest(source.net.state_dict())
    first, second = (trained.unlearned(source, digits, 9, ones, UNLEARNING) for _ in range(2))
    assert made == ["unlearned"]
    assert_same_model(first, second)
    assert store.tensor_digest(source.net.state_dict()) == before
    assert first.digest != source.digest


def squared_gray(model, batch, config, anchor, fisher):
    return {**ewc_gray(model, batch, config, anchor, fisher),
            "gray": config.gray * (model.decode(*batch.asked) - 0.5).square().mean()}


def reordered(model, batch, config, anchor, fisher):
    return dict(reversed(ewc_gray(model, batch, config, anchor, fisher).items()))


@pytest.mark.parametrize("same", [{}, {"loss": reordered}, {"forget": [9]}, {"forget": (9,)}, {"push": 9}],
                         ids=in_words)
def test_the_same_request_in_other_words_is_the_same_model(digits, source, ones, made, same):
    arguments = {"source": source, "dataset": digits, "forget": 9, "protect": ones, "config": UNLEARNING}
    first = trained.unlearned(**arguments)
    made.clear()
    assert trained.unlearned(**arguments | same).digest == first.digest
    assert made == []


def test_the_order_of_the_classes_makes_no_other_model(digits, source, ones, made):
    first = trained.unlearned(source, digits, [9, 2], ones, UNLEARNING)
    made.clear()
    assert trained.unlearned(source, digits, [2, 9], ones, UNLEARNING).digest == first.digest
    assert made == []


def test_a_changed_input_makes_another_unlearned_model(digits, source, ones, cache, made):
    other = trained.cvae(digits, MODEL, TRAINING, seed=1)
    made.clear()
    arguments = {"source": source, "dataset": digits, "forget": 9, "protect": ones, "config": UNLEARNING}
    changes = [{}, {"forget": 8}, {"forget": [9, 8]}, {"forget": [9, 8], "push": 9},
               {"protect": {name: 2 * f for name, f in ones.items()}},
               {"config": dataclasses.replace(UNLEARNING, peak_lr=1e-3)}, {"seed": 1}, {"loss": squared_gray},
               {"source": other}, {"anchor": other},
               {"dataset": dataclasses.replace(digits, train_images=digits.train_images / 2, digest="darker")}]
    digests = [trained.unlearned(**arguments | change).digest for change in changes]
    assert made == ["unlearned"] * len(changes)
    assert len(set(digests)) == len(changes)


def test_another_combination_of_gradients_makes_another_unlearned_model(digits, source, cache, made):
    config = dataclasses.replace(METHODS["gradient_surgery"].config, steps=2, batch=32, forget_batch=8)
    combinations = [None, surgery, lambda gradients: {name: 2 * g for name, g in surgery(gradients).items()},
                    lambda gradients: gradients["real"]]
    digests = [trained.unlearned(source, digits, 9, {}, config, loss=gradient_ascent, combine=combine).digest
               for combine in combinations]
    assert made == ["unlearned"] * len(combinations)
    assert len(set(digests)) > 2  # Adam makes the same steps of a gradient and of twice that gradient
    made.clear()
    trained.unlearned(source, digits, 9, {}, config, loss=gradient_ascent,
                      combine=lambda gradients: surgery(dict(gradients)))
    assert made == []


def test_selective_amnesia_as_published_protects_what_the_model_itself_draws_of_all_classes(digits, source, made):
    method = METHODS["selective_amnesia"]
    method = dataclasses.replace(method, config=dataclasses.replace(method.config, steps=2))
    by_hand = trained.unlearned(source, digits, 9, trained.own_fisher(source, 3), method.config, 3, method.loss)
    made.clear()
    assert trained.forgotten(source, digits, 9, method, 3).digest == by_hand.digest
    assert made == []
    blank = dataclasses.replace(digits, train_images=torch.zeros_like(digits.train_images), digest="blank")
    assert trained.forgotten(source, blank, 9, method, 3).digest == by_hand.digest


def test_a_method_needs_a_fisher_only_for_its_penalty(digits, source, cache, made):
    for name, kinds in (("saliency", ["unlearned"]), ("ewc_gray", ["fisher", "unlearned"])):
        method = METHODS[name]
        made.clear()
        method = Method(method.loss, dataclasses.replace(method.config, steps=2))
        assert_same_model(*(trained.forgotten(source, digits, 9, method) for _ in range(2)))
        assert made == kinds, name


def test_a_sequence_forgets_one_class_after_another(digits, source):
    first, both = trained.sequence(source, digits, [9, 2], UNLEARNING)
    by_hand = trained.unlearned(source, digits, 9, trained.retain_fisher(source, digits, 9), UNLEARNING)
    assert first.digest == by_hand.digest
    by_hand = trained.unlearned(first, digits, [9, 2], trained.retain_fisher(first, digits, [9, 2]), UNLEARNING)
    assert both.digest == by_hand.digest


def test_a_sequence_of_one_digit_is_a_list_of_one_model(digits, source):
    (from_digit,) = trained.sequence(source, digits, 9, UNLEARNING)
    (from_list,) = trained.sequence(source, digits, [9], UNLEARNING)
    assert from_digit.digest == from_list.digest


def never_saw(dataset, forget=9):
    return trained.never_saw(dataset, forget, MODEL, TRAINING, UNLEARNING, rounds=2, seed=1)


def test_the_reference_has_as_many_further_updates_on_real_images_alone(digits):
    log = never_saw(digits).log
    assert log["step"].iloc[-1] == 2 * UNLEARNING.steps - 1
    assert set(log.columns) == {"step", "loss", "real", "real_grad"}


def test_the_reference_has_never_seen_the_class(digits):
    of_class = (digits.train_labels == 9)[:, None, None, None]
    inverted = torch.where(of_class, 1 - digits.train_images, digits.train_images)
    changed = dataclasses.replace(digits, train_images=inverted, digest="inverted nines")
    assert never_saw(digits).digest == never_saw(changed).digest


@pytest.mark.parametrize("forget", [[], "9", 10, list(range(10))])
def test_a_reference_needs_a_forget_set(digits, forget):
    with pytest.raises(ValueError, match="^forget must be a class .*, got "):
        never_saw(digits, forget)


def test_a_reconstruction_is_made_once_and_a_change_makes_another(digits, source, cache, made):
    targets = digits.test_images[:2]
    arguments = {"source": source, "targets": targets, "label": 0, "threat": Threat("prior", "free"), "config": ATTACK}
    first, second = (trained.reconstruction(**arguments) for _ in range(2))
    assert made == ["attack"]
    assert first.budget == second.budget
    for name in ("loss", "z", "y", "images"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    changes = [{"threat": Threat("prior", "simplex")}, {"config": SearchConfig(16, 2, 3, 2)}, {"seed": 1},
               {"label": 1}, {"targets": targets[1:]}]
    for change in changes:
        trained.reconstruction(**arguments | change)
    assert made == ["attack"] * (1 + len(changes))


@pytest.mark.parametrize("bad", [[], list(range(10)), [9, 9], [10], ["9"], "9", None, 9.0, True])
def test_classes_that_cannot_be_forgotten_are_refused(digits, source, ones, bad):
    with pytest.raises(ValueError, match="^forget must be a class from 0 to 9 or a list of 1 to 9 .*, got "):
        trained.unlearned(source, digits, bad, ones, UNLEARNING)


@pytest.mark.parametrize("push", [[], [3], [9, 3]])
def test_classes_outside_the_forget_set_cannot_be_pushed(digits, source, ones, push):
    with pytest.raises(ValueError, match=f"^push must be .*, got {re.escape(str(sorted(push)))}$"):
        trained.unlearned(source, digits, [9, 2], ones, UNLEARNING, push=push)


# The recipes -----------------------------------------------------------------------------------------------------

def ask_for_all(digits):
    """One artifact of each kind in `RECIPES`."""
    source = trained.cvae(digits, MODEL, TRAINING)
    trained.judge(digits, JudgeConfig("features", epochs=1))
    trained.fishers(source, digits)
    trained.unlearned(source, digits, 9, {}, dataclasses.replace(UNLEARNING, ewc=0.0))
    trained.reconstruction(source, digits.test_images[:2], 0, THREATS["random search"], ATTACK)


@pytest.fixture(scope="module")
def filled(digits):
    """The store has an artifact of each kind."""
    ask_for_all(digits)


@pytest.fixture
def change(monkeypatch, tmp_path):
    """Give a module another source file."""
    def to(name, edit):
        module = importlib.import_module(f"sa_lib.{name}")
        path = tmp_path / "changed.py"
        path.write_text(edit(Path(module.__file__).read_text(encoding="utf-8")), encoding="utf-8")
        monkeypatch.setattr(module, "__file__", str(path))
    return to


def reworded(source):
    """The source with other docstrings, another comment, and other blank lines and spaces."""
    changed, count = re.subn(r'^( *)"""(?=[^\s"])', r'\1"""In other words: ', source, flags=re.MULTILINE)
    assert count, "there is no docstring"
    ast.parse(changed)
    return "# Another comment\n\n" + re.sub("\n\n\n", "  \n\n\n\n# One more\n\n", changed)


def recalculated(source):
    """The source with another value of its first number, or with one more number if it has none."""
    number = next((node for node in ast.walk(ast.parse(source))
                   if isinstance(node, ast.Constant) and type(node.value) in (int, float)), None)
    if number is None:
        return f"{source}\nCHANGED = 1\n"
    lines = source.split("\n")
    line = lines[number.lineno - 1].encode()
    lines[number.lineno - 1] = (line[:number.col_offset] + repr(number.value + 1).encode()
                                + line[number.end_col_offset:]).decode()
    return "\n".join(lines)


@pytest.mark.parametrize("module", MODULES)
def test_prose_is_free(digits, filled, made, change, module):
    change(module, reworded)
    ask_for_all(digits)
    assert made == []


@pytest.mark.parametrize("module", IN_RECIPES)
def test_changed_code_makes_the_artifacts_again_whose_recipes_name_it(digits, filled, made, change, module):
    change(module, recalculated)
    ask_for_all(digits)
    assert made == [kind for kind, modules in RECIPES.items() if module in modules]


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(IN_RECIPES)))
def test_changed_code_of_other_modules_makes_no_artifact_again(digits, filled, made, change, module):
    change(module, lambda source: f"{source}\nCHANGED = 1\n")
    ask_for_all(digits)
    assert made == []


def test_a_ninth_method_makes_no_model_of_the_others_again(digits, source, cache, made, change, monkeypatch):
    def ask_for_all_methods():
        for method in [*METHODS.values()][:8]:
            trained.forgotten(source, digits, 9, Method(method.loss, dataclasses.replace(method.config, steps=1)))

    ask_for_all_methods()
    assert made.count("unlearned") == 8
    made.clear()
    ninth = 'METHODS["ninth"] = Method(fine_tune, UnlearningConfig(steps=1))\n'
    change("methods", lambda source: source + ninth)
    monkeypatch.setitem(methods.METHODS, "ninth", Method(methods.fine_tune, UnlearningConfig(steps=1)))
    ask_for_all_methods()
    assert made == []
    trained.forgotten(source, digits, 9, METHODS["ninth"])
    assert made == ["unlearned"]


def test_another_word_for_a_verdict_runs_no_attack_again(digits, filled, made, change):
    change("residual", lambda source: source.replace('"suppressed"', '"hidden"'))
    ask_for_all(digits)
    assert made == []
