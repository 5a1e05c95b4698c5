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
    row = making.measured(model, digits, making.DIGIT, (making.DIGIT,), QUICK)
    errors = json.loads(row["errors"])
    targets = making.data.held_out(digits, making.DIGIT, 4)
    attack = trained.reconstruction(model, targets, making.DIGIT, making.THREATS[making.THREAT], QUICK)
    torch.testing.assert_close(torch.tensor(errors), attack.errors, atol=1e-3, rtol=0)
    assert -0.01 < row["shortfall"] < 1 and row["digest"] == model.digest
    assert all(isinstance(row[name], float) for name in MEASURES)


def test_the_committed_table_has_every_state_of_every_model():
    rows, models = trials.read_recipe(), making.models(trials)  # the argument is only kept
    assert set(rows.index.unique("model")) == models.keys() > MENDED.keys()
    for name, own in rows.groupby("model"):
        states = ["as is"] if models[name].role == "baseline" else list(trials.STATES)
        assert set(own.index) == {(digit, name, state) for digit in models[name].gone for state in states}
        assert set(own["role"]) == {models[name].role}
        assert set(own["gone"]) == {" ".join(map(str, models[name].gone))}
    assert rows["errors"].map(len).unique().tolist() == [making.COUNT]
    assert rows[[*MEASURES, "shortfall"]].notna().all(axis=None)


def test_a_table_goes_on_where_it_was(tmp_path, monkeypatch):
    made = []

    def models(dataset):
        return {name: making.Model(role, lambda name=name: made.append(name) or name)
                for name, role in (("baseline", "baseline"), ("the notebook", "subject"), ("never saw", "never"))}

    monkeypatch.setattr(making, "models", models)
    monkeypatch.setattr(making.data, "load", lambda name: None)
    monkeypatch.setattr(making.trained, "mended", lambda model, dataset, gone: f"{model}, mended")
    monkeypatch.setattr(making, "measured", lambda model, dataset, digit, gone: {"digest": model})
    monkeypatch.setattr(making, "RESULTS", tmp_path)
    assert making.make() == 5
    table = pd.read_csv(tmp_path / "recipe.csv")
    assert table["state"].tolist() == ["as is", "as is", "mended", "as is", "mended"]
    table.drop(index=2).to_csv(tmp_path / "recipe.csv", index=False)  # one state of the notebook's model
    made.clear()
    assert making.make() == 5
    assert set(made) == {"the notebook"}
    assert pd.read_csv(tmp_path / "recipe.csv").equals(table)

    def stop(*arguments):
        raise KeyboardInterrupt

    table.drop(index=1).to_csv(tmp_path / "recipe.csv", index=False)
    monkeypatch.setattr(making, "measured", stop)
    with pytest.raises(KeyboardInterrupt):
        making.make()
    assert pd.read_csv(tmp_path / "recipe.csv")["model"].tolist() == table["model"].drop(index=1).tolist()


def test_another_table_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    with pytest.raises(FileNotFoundError, match="make evidence SWEEPS=recipe makes one"):
        trials.read_recipe(path)
    path.write_text("model,state\na,as is\n", encoding="utf-8")
    with pytest.raises(ValueError, match="it lacks class, errors, gone, nelbo, probability, role"):
        trials.read_recipe(path)
