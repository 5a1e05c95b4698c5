"""The table of the notebook's recipe: how a row is made, and what the committed one has."""

import json

import pandas as pd
import pytest
import torch

from sa_lib import trained, trials
from sa_lib.book import recipe as making
from sa_lib.model import ModelConfig, build
from sa_lib.recipe import MENDED
from sa_lib.reconstruction import SearchConfig
from sa_lib.store import tensor_digest
from sa_lib.trained import Trained

QUICK = SearchConfig(pool=16, starts=1, iterations=1, rounds=1)
MEASURES = ["probability", "gray", "accuracy", "nelbo", "relearning"]


@pytest.fixture(scope="module")
def model(digits):
    net = build(ModelConfig("conv", latent_dim=2, hidden=(4, 4)), 0).eval().requires_grad_(False)
    return Trained(net, pd.DataFrame(), 1.0, tensor_digest(net.state_dict()))


def test_a_row_has_the_errors_and_the_measures(model, digits, monkeypatch):
    monkeypatch.setattr(making, "COUNT", 4)
    row = making.measured(model, digits, False, QUICK)
    errors = json.loads(row["errors"])
    targets = making.data.held_out(digits, making.DIGIT, 4)
    attack = trained.reconstruction(model, targets, making.DIGIT, making.THREATS[making.THREAT], QUICK)
    torch.testing.assert_close(torch.tensor(errors), attack.errors, atol=1e-3, rtol=0)
    assert row["shortfall"] is None and row["digest"] == model.digest
    assert all(isinstance(row[name], float) for name in MEASURES)


def test_the_committed_table_has_every_state_of_every_model():
    rows = trials.read_recipe()
    states = rows.groupby("model").apply(lambda own: set(own.index.get_level_values("state")), include_groups=False)
    roles = rows.groupby("model")["role"].first()
    assert (states[roles == "baseline"] == {"as is"}).all()
    assert (states[roles != "baseline"] == {"as is", "mended"}).all()
    assert (roles == "never").sum() == len(making.CONTROLS)
    subjects = set(roles.index[roles == "subject"])
    assert "the notebook" in subjects and subjects - {"the notebook"} <= MENDED.keys()
    assert rows["errors"].map(len).unique().tolist() == [making.COUNT]
    assert rows[MEASURES].notna().all(axis=None)


def test_another_table_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    with pytest.raises(FileNotFoundError, match="make evidence SWEEPS=recipe makes one"):
        trials.read_recipe(path)
    path.write_text("model,state\na,as is\n", encoding="utf-8")
    with pytest.raises(ValueError, match="it lacks errors, nelbo, probability, role"):
        trials.read_recipe(path)
