"""Tables of layers and of attacks: their numbers are those of the functions for one layer and one attack."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from sa_lib import attack_tables, figures, latent, measures
from sa_lib.attacks import AttackResult, score
from sa_lib.judges import Judge
from sa_lib.residual import Residual, residual_knowledge

NEVER = ["never saw 9, seed 0", "never saw 9, seed 1"]
MODELS = ["baseline", "forgot 9", *NEVER]


def result(seed, count=4):
    """An attack on `count` targets at three moments."""
    generator = torch.Generator().manual_seed(seed)
    loss, z, y = (torch.rand(3, count, *shape, generator=generator) for shape in ((), (5,), (10,)))
    return AttackResult([1, 2, 3], loss + seed, z, y, torch.rand(3, count, 1, 28, 28, generator=generator))


@pytest.fixture
def results():
    """Two threat models, two classes and four models, of which the baseline has the lowest errors."""
    keys = [(threat, k, name) for threat in ("y free", "label only") for k in (9, 2) for name in MODELS]
    return {key: result(MODELS.index(key[2])) for key in keys}


@pytest.fixture
def judge():
    torch.manual_seed(0)
    return Judge("B").eval()


# Layers

def test_a_probe_of_each_layer_is_the_probe_of_that_layer():
    labels = torch.arange(200) % 10
    generator = torch.Generator().manual_seed(0)
    layers = {name: torch.randn(200, 4, generator=generator) + labels[:, None] for name in ("encoder 1", "mean")}
    train, test = ({name: values[part] for name, values in layers.items()} for part in (slice(150), slice(150, None)))
    table = latent.layer_recall(train, labels[:150], test, labels[150:])
    assert list(table.columns) == ["encoder 1", "mean"]
    assert table["mean"].equals(latent.probe_recall(train["mean"], labels[:150], test["mean"], labels[150:]))


def test_cka_of_each_layer_is_the_cka_of_that_layer_on_the_chosen_rows():
    first, second = ({name: torch.randn(30, 4) for name in ("mean", "decoder 1")} for _ in range(2))
    rows = torch.tensor([0, 3, 5, 7])
    alike = latent.layer_cka(first, second, rows)
    assert list(alike.index) == ["mean", "decoder 1"]
    assert alike["mean"] == latent.linear_cka(first["mean"][rows], second["mean"][rows])


def test_a_missing_layer_is_named():
    whole, part = {"mean": torch.randn(20, 2), "decoder 1": torch.randn(20, 2)}, {"mean": torch.randn(20, 2)}
    labels = torch.arange(20) % 10
    with pytest.raises(ValueError, match="second must have the layers mean, decoder 1, got none of decoder 1"):
        latent.layer_cka(whole, part, torch.arange(3))
    with pytest.raises(ValueError, match="test must have the layers mean, decoder 1, got none of decoder 1"):
        latent.layer_recall(whole, labels, part, labels)


# Attacks

def test_errors_are_those_within_the_whole_budget(results):
    errors = attack_tables.errors(results)
    assert errors.index.names == ["threat", "class", "model", "image"]
    assert len(errors) == len(results) * 4
    last = results["y free", 2, "forgot 9"].loss[-1].double()
    assert [errors["y free", 2, "forgot 9", image] for image in range(4)] == last.tolist()


def test_scores_are_those_of_each_attack_in_their_order(results, judge):
    real = {k: torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(k)) for k in (9, 2)}
    table = attack_tables.scores(results, judge, real)
    assert list(table.index) == list(results)
    key = "label only", 2, "forgot 9"
    assert table.loc[key].to_dict() == score(results[key].end, judge, 2, real[2]).iloc[0].to_dict()
    with pytest.raises(ValueError, match="classes must be a list of names among 9, got"):
        attack_tables.scores(results, judge, {9: real[9]})


def test_inputs_are_means_over_the_targets_at_the_last_moment():
    z = torch.zeros(2, 2, 3)
    z[-1] = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    y = torch.zeros(2, 2, 10)
    y[-1, :, 9] = torch.tensor([0.5, 1.5])
    attack = AttackResult([1, 2], torch.ones(2, 2), z, y, torch.zeros(2, 2, 1, 28, 28))
    table = attack_tables.inputs({("y free", 9, "baseline"): attack})
    assert table.loc["y free", 9, "baseline"].to_dict() == {"norm_z": 3.0, "norm_y": 1.0, "y_class": 1.0}


@pytest.mark.parametrize("results", [{}, {"y free": result(0)}, {("y free", 9, "baseline"): 3}])
def test_results_that_are_no_attacks_by_threat_class_and_model(results):
    with pytest.raises(ValueError, match=r"results must be at least one attack by \(threat, class, model\), got"):
        attack_tables.errors(results)


# rho

def test_each_row_of_the_table_is_the_rho_of_its_errors(results):
    errors = attack_tables.errors(results)
    table = attack_tables.residuals(errors, {"forgot 9": NEVER, NEVER[0]: NEVER[1:]})
    assert list(table.index) == [key for key in results if key[2] in ("forgot 9", NEVER[0])]
    baseline, forgot, first, second = (results["y free", 2, name].errors for name in MODELS)
    assert Residual(*table.loc["y free", 2, "forgot 9"]) == residual_knowledge(
        torch.stack([first, second]), forgot, baseline)
    alone = table.loc["y free", 2, NEVER[0]]
    assert alone["rho"] == residual_knowledge(second[None], first, baseline).rho
    assert alone[["low", "high", "spread"]].isna().all()


def test_a_pooled_spread_gives_one_control_an_interval(results):
    table = attack_tables.residuals(attack_tables.errors(results), {"forgot 9": NEVER[:1]},
                                    pooled={("y free", 2): (0.1, 5)})
    assert table["low"].notna().to_dict() == {key: key[:2] == ("y free", 2) for key in table.index}


def test_the_baseline_against_itself_has_a_rho_of_one(results):
    table = attack_tables.residuals(attack_tables.errors(results), {"baseline": NEVER})
    assert (table[["rho", "low", "high", "low90", "high90"]] == 1).all(axis=None)


def test_a_model_that_was_not_attacked_for_a_class_has_no_row_for_it(results):
    errors = attack_tables.errors({key: one for key, one in results.items() if key[1:] != (2, "forgot 9")})
    table = attack_tables.residuals(errors, {"forgot 9": NEVER})
    assert list(table.index.unique("class")) == [9]


def test_images_are_compared_by_their_number_and_not_by_their_place(results):
    errors = attack_tables.errors(results)
    shuffled = errors.sample(frac=1, random_state=0)
    expected = attack_tables.residuals(errors, {"forgot 9": NEVER})
    assert np.allclose(attack_tables.residuals(shuffled, {"forgot 9": NEVER}).loc[expected.index]["rho"],
        expected["rho"])


def test_errors_that_cannot_be_compared_are_refused(results):
    errors = attack_tables.errors(results)
    with pytest.raises(ValueError, match="errors must have every image of"):
        attack_tables.residuals(errors.drop(("y free", 9, NEVER[1], 3)), {"forgot 9": NEVER})
    with pytest.raises(ValueError, match="errors must have the levels threat, class, model and image"):
        attack_tables.residuals(errors.droplevel("class"), {"forgot 9": NEVER})
    with pytest.raises(ValueError, match="never must be a list of names among baseline, "):
        attack_tables.residuals(errors, {"forgot 3": NEVER})
    with pytest.raises(ValueError, match="never must have at least one model for each, got none for forgot 9"):
        attack_tables.residuals(errors, {"forgot 9": []})
    with pytest.raises(ValueError, match="baseline must be"):
        attack_tables.residuals(errors, {"forgot 9": NEVER}, baseline="teacher")


def test_verdicts_put_each_row_in_words():
    index = pd.MultiIndex.from_tuples([("y free", 9, "a"), ("y free", 9, "b")], names=attack_tables.LEVELS)
    table = pd.DataFrame([Residual(0.6, 0.5, 0.75, 0.55, 0.7, 0.01, 3, 1, 6.0, 0.5), Residual(math.nan)], index)
    words = attack_tables.verdicts(table)
    assert words.loc["y free", 9, "a"].tolist() == ["+0.60 [+0.50, +0.75]", "12", "residue"]
    assert words.loc["y free", 9, "b"].tolist() == ["–", "–", "undefined"]


def test_flat_rows_are_named_by_the_chosen_levels_in_their_order(results):
    errors = attack_tables.errors(results).groupby(level=attack_tables.LEVELS, sort=False).mean()
    wide = attack_tables.flat(errors.unstack("threat", sort=False), "class", "model")
    assert list(wide.index[:2]) == ["9: baseline", "9: forgot 9"]
    assert wide.index.name == "class: model"
    assert attack_tables.flat(errors, "model", "threat").index[0] == "baseline: y free"
    with pytest.raises(ValueError, match="levels must be a list of names among threat, class, model"):
        attack_tables.flat(errors, "digit")


def test_a_table_by_threat_keeps_the_order_of_the_attacks(results):
    means = attack_tables.errors(results).groupby(level=attack_tables.LEVELS, sort=False).mean()
    wide = attack_tables.by_threat(means)
    assert list(wide.columns) == ["y free", "label only"]
    assert list(wide.index) == [f"{k}: {name}" for k in (9, 2) for name in MODELS]
    assert wide.loc["2: forgot 9", "label only"] == means["label only", 2, "forgot 9"]


def test_points_are_rho_for_the_figure_of_intervals(results):
    table = attack_tables.residuals(attack_tables.errors(results), {"forgot 9": NEVER})
    points = attack_tables.points(table)
    assert points.loc[("label only", "2: forgot 9")].tolist() == table.loc["label only", 2, "forgot 9"].tolist()
    assert figures.intervals(points, "rho", [0.0]).axes


def test_relearning_is_timed_by_the_first_step_that_reaches_the_share():
    curve = pd.DataFrame({1: [0.0, 0.1, 0.2], 100: [0.2, 0.5, 0.8]}, index=[0, 20, 40])
    table = attack_tables.relearning({(9, "forgot 9"): curve, (9, "baseline"): curve + 0.5})
    assert table.index.name == "class: model"
    assert math.isnan(table.loc["9: forgot 9", "k = 1"])
    assert table.loc["9: forgot 9", "k = 100"] == 20
    assert table.loc["9: baseline"].tolist() == [0, 0, 1.0]
    assert table.loc["9: forgot 9", "relearning"] == pytest.approx(0.5)


def test_a_nested_table_is_json_with_none_for_nan():
    index = pd.MultiIndex.from_tuples([("y free", 9, "a"), ("y free", 2, "a")], names=attack_tables.LEVELS)
    table = pd.DataFrame({"rho": [0.5, math.nan]}, index=index)
    assert attack_tables.nested(table) == {"y free": {"9": {"a": {"rho": 0.5}}, "2": {"a": {"rho": None}}}}
    assert attack_tables.nested(pd.DataFrame({"gray": [0.25]}, index=["all"])) == {"all": {"gray": 0.25}}


# Captions

def test_values_are_listed_in_the_format_of_their_measure():
    assert measures.listing("success", {"baseline": 1.0, "forgot 9": None}) == "100% (baseline), – (forgot 9)"
    with pytest.raises(ValueError, match="name must be one of"):
        measures.listing("fame", {"baseline": 1.0})


def probe_rows(model, seed, error, value):
    return [{"class": 9, "seed": seed, "model": model, "probe": "attack", "errors": json.dumps([error, error + 1.0]),
             "value": None},
            {"class": 9, "seed": seed, "model": model, "probe": "auc", "errors": None, "value": value}]


def test_a_probe_is_held_against_models_that_never_saw_the_class():
    rows = pd.DataFrame([row for seed, noise in enumerate((-0.1, 0.0, 0.1)) for row in (
        *probe_rows("baseline", seed, 2.0 + noise, 0.9), *probe_rows("never saw", seed, 10.0 + noise, 0.5 + noise),
        *probe_rows("method", seed, 8.0 - noise, 0.7 + noise + 0.01 * seed))])
    effects = attack_tables.probe_effects(rows, ["method"])
    attack, auc = (effects.loc[("method", probe)] for probe in ("attack", "auc"))
    assert attack["effect"] == pytest.approx(0.25)
    assert attack["low"] < 0.25 < attack["high"] and attack["p"] < 0.05
    assert np.isnan(attack["control"])
    assert auc["effect"] == pytest.approx(0.21) and auc["control"] == pytest.approx(0.5)
    scipy_p = stats.ttest_1samp([0.2, 0.21, 0.22], 0).pvalue
    assert auc["p"] == pytest.approx(scipy_p, rel=1e-3)


@pytest.mark.parametrize("seeds, change, p", [(3, 0.25, 0.0), (3, 0.0, 1.0), (1, 0.25, math.nan)])
def test_a_difference_that_all_seeds_share_is_certain_and_that_of_one_seed_is_not(seeds, change, p):
    rows = pd.DataFrame([row for seed in range(seeds) for row in (
        *probe_rows("baseline", seed, 2.0, 0.9), *probe_rows("never saw", seed, 10.0, 0.5),
        *probe_rows("method", seed, 8.0, 0.5 + change))])
    auc = attack_tables.probe_effects(rows, ["method"]).loc[("method", "auc")]
    assert auc["effect"] == change and auc["p"] == pytest.approx(p, nan_ok=True)
