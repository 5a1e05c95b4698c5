"""The table of probes: how the rows of a model are made."""

import json
from functools import cache

import pytest

from sa_lib import trained
from sa_lib.book import probing as making
from sa_lib.model import ModelConfig
from sa_lib.reconstruction import SearchConfig
from sa_lib.training import TrainingConfig

SHAPE = ModelConfig(latent_dim=3, hidden=(16, 12))
QUICK = SearchConfig(pool=64, starts=1, iterations=2, rounds=1)


@cache
def small(dataset, seed, name):
    return trained.cvae(dataset, SHAPE, TrainingConfig(epochs=2), seed, [] if name == "baseline" else [making.DIGIT])


@pytest.fixture(scope="module")
def rows(digits):
    return {row["probe"]: row for row in making.measured("never saw", 0, digits, QUICK, small)}


def test_a_model_has_a_row_for_each_probe(rows):
    attacks = [probe for probe, row in rows.items() if "errors" in row]
    assert attacks == ["as it is", "other images", "z kept to the prior", "weights of 8 bits", "weights of 4 bits",
                       "half of the weights", "features", "Bernoulli likelihood"]
    assert [probe for probe in rows if rows[probe].get("shortfall") is not None] == attacks[:-2]
    assert [probe for probe in rows if probe not in attacks] == [
        "membership inference", "barrier to baseline", "barrier to never saw", "relearning", "learning another class"]
    assert {(row["class"], row["seed"], row["model"]) for row in rows.values()} == {(making.DIGIT, 0, "never saw")}


def test_eight_bits_change_little_and_other_rulers_measure_something_else(rows):
    errors = {probe: sum(json.loads(row["errors"])) for probe, row in rows.items() if "errors" in row}
    assert errors["weights of 8 bits"] == pytest.approx(errors["as it is"], rel=0.05)
    assert errors["z kept to the prior"] >= 0.9 * errors["as it is"]
    assert errors["Bernoulli likelihood"] > errors["as it is"] > 0 < errors["features"]


def test_a_model_without_the_class_is_held_against_another_one(rows):
    assert rows["barrier to never saw"]["value"] > 0  # with itself it would be 0
    assert 0.3 < rows["membership inference"]["value"] < 0.7
