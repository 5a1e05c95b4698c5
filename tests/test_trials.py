"""The confirmatory trials: the protocol, the rows of a class, and rho over seeds."""

import dataclasses
import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from sa_lib import comparison, trials
from sa_lib.book import measuring
from sa_lib.book import trials as making
from sa_lib.evidence import conditions, overall, residual
from sa_lib.methods import METHODS
from sa_lib.model import ModelConfig
from sa_lib.reconstruction import SearchConfig
from sa_lib.residual import CONVERGED, MARGIN, RESOLUTION
from sa_lib.threats import THREATS
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

SMALL = measuring.Size(ModelConfig(latent_dim=3, hidden=(16, 12)), TrainingConfig(epochs=3),
                    SearchConfig(pool=64, starts=2, iterations=2, rounds=1), longest=3)


@pytest.fixture(scope="module", autouse=True)
def soon():
    """Relearning ends soon, and the judge learns little."""
    judge = measuring.trained.judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring.stack, "relearn", partial(measuring.stack.relearn, steps=20))
        patch.setattr(measuring.trained, "judge", lambda dataset, config, seed: judge(
            dataset, dataclasses.replace(config, epochs=2), seed))
        yield


@pytest.fixture(scope="module")
def measured(digits, soon):
    return pd.DataFrame(measuring.measured(3, [10, 11], digits, SMALL))


def test_the_protocol_has_the_limits_of_the_book():
    frozen = trials.protocol()
    assert (frozen["margin"], frozen["resolution"], frozen["converged"]) == (MARGIN, RESOLUTION, CONVERGED)
    assert set(frozen["methods"]) <= METHODS.keys()
    assert frozen["threat"] in THREATS
    assert len(set(frozen["seeds"])) == len(frozen["seeds"]) >= 8


def images_of_3(dataset):
    return int((dataset.test_labels == 3).sum())


def test_a_class_has_a_row_for_each_model_seed_and_state(measured, digits):
    frozen = trials.protocol()
    names = ["baseline", "never saw", *frozen["methods"]]
    expected = {(name, seed, "as is") for name in names for seed in (10, 11)}
    expected |= {(name, seed, "mended") for name in names[1:] for seed in (10, 11)}
    assert set(zip(measured["model"], measured["seed"], measured["state"])) == expected
    assert len(measured) == len(expected)
    assert set(measured["errors"].map(json.loads).map(len)) == {min(frozen["targets"], images_of_3(digits))}
    assert (measured["shortfall"].notna() == (measured["seed"] == frozen["seeds"][0])).all()
    as_is = measured[measured["state"] == "as is"]
    assert as_is[["probability", "gray", "accuracy", "nelbo", "relearning"]].notna().all(axis=None)
    assert as_is["digest"].nunique() == len(as_is)


def test_a_seed_alone_is_the_first_of_a_stack(measured, digits):
    """The baselines and the models that never saw the class begin with the weights of their seed."""
    alone = pd.DataFrame(measuring.measured(3, [10], digits, SMALL)).set_index(["model", "state"])["errors"]
    both = measured[measured["seed"] == 10].set_index(["model", "state"])["errors"]
    for key in alone.index:
        assert np.mean(json.loads(both[key])) == pytest.approx(np.mean(json.loads(alone[key])), rel=0.2)


def test_other_methods_have_rows_without_controls(digits):
    names = [*making.OTHERS, making.PUBLISHED]
    rows = pd.DataFrame(measuring.measured(3, [10], digits, SMALL, names, controls=False))
    assert set(names) == METHODS.keys() - set(trials.protocol()["methods"])
    states = {(name, state) for name in names for state in trials.STATES}
    assert set(zip(rows["model"], rows["state"])) == states
    assert rows["shortfall"].notna().all() and len(rows) == 2 * len(names)
    assert rows.loc[rows["state"] == "as is", "digest"].nunique() == len(names)


def test_the_committed_rows_of_other_methods_are_whole_and_on_the_seeds_of_the_protocol():
    frozen, rows = trials.protocol(), trials.read(trials.RESULTS / "methods.csv")
    seeds = rows.index.unique("seed")
    assert set(seeds) <= set(frozen["seeds"]) & set(trials.read().index.unique("seed"))
    counts = rows.groupby("model").size()
    assert counts.to_dict() == {name: 10 * len(seeds) for name in making.OTHERS} | {
        making.PUBLISHED: len(making.PUBLISHED_CLASSES) * len(seeds)}
    assert {len(errors) for state in trials.STATES for errors in rows[f"errors.{state}"]} == {frozen["targets"]}


@pytest.mark.parametrize("name, share", [("unseen", 0.525), ("distillation", 0.225), ("ewc_gray", 0.148)])
def test_the_share_counts_what_the_steps_see(name, share):
    assert measuring.share(METHODS[name].config) == pytest.approx(share, abs=0.001)


def test_mending_has_no_other_term():
    config = measuring.further(UnlearningConfig(steps=7, batch=9)).config
    assert (config.steps, config.batch, config.replay, config.ewc, config.gray) == (7, 9, 0.0, 0.0, 0.0)


def test_a_run_goes_on_where_it_was_and_counts_complete_seeds(tmp_path, monkeypatch, measured):
    frozen = {**trials.protocol(), "classes": [3, 4], "seeds": [10, 11]}
    monkeypatch.setattr(making, "protocol", lambda: frozen)
    monkeypatch.setattr(making, "RESULTS", tmp_path)
    monkeypatch.setattr(making, "device", lambda: type("GPU", (), {"type": "cuda"}))
    asked = []

    def fake(label, seeds, **about):
        assert about == {"size": measuring.Size(), "methods": trials.protocol()["methods"], "controls": True}
        asked.append((label, tuple(seeds)))
        rows = measured[measured["seed"].isin(seeds)].astype(object).where(measured.notna(), None)
        return [{**row, "class": label} for row in rows.to_dict("records")]

    monkeypatch.setattr(making, "measured", fake)
    assert making.make(tmp_path, seeds=1) == 2
    (tmp_path / "runs" / "trials" / "4-10.json").write_text("half a fi")
    assert making.make(tmp_path) == 4
    assert sorted(asked) == [(3, (10,)), (3, (11,)), (4, (10,)), (4, (11,))]  # for half a file there is the table
    (tmp_path / "runs" / "trials" / "4-10.json").write_text("half a fi")
    (tmp_path / "trials.csv").unlink()
    assert making.make(tmp_path) == 4
    assert asked[-1] == (4, (10,))
    monkeypatch.setattr(trials, "protocol", lambda: frozen)
    rows = trials.read(tmp_path / "trials.csv")
    assert list(rows.index.unique("forget")) == [3, 4]
    assert overall(rows, "ewc_gray", "as is").controls == 2
    assert residual(rows, "ewc_gray", 3, "mended").models == 2
    half = pd.read_csv(tmp_path / "trials.csv").query("seed == 10 or `class` == 3")
    half.to_csv(tmp_path / "half.csv", index=False)
    assert list(trials.read(tmp_path / "half.csv").index.unique("seed")) == [10]
    # In another place, the committed rows are there already.
    half.to_csv(tmp_path / "trials.csv", index=False)
    asked.clear()
    assert making.make(tmp_path / "elsewhere") == 4
    assert asked == [(4, (11,))]
    pd.testing.assert_frame_equal(trials.read(tmp_path / "trials.csv"), rows)


def known(path, classes, seeds=range(4)):
    """A table in which a quarter of each class is left, and half of it after mending."""
    random = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        noise = random.normal(0, 0.05)
        for model, state, level in (("baseline", "as is", 4.0), ("never saw", "as is", 10 + noise),
                                    ("ewc_gray", "as is", 8.5 + noise), ("never saw", "mended", 10 + noise),
                                    ("ewc_gray", "mended", 7.0 + noise)):
            rows += [{"class": k, "seed": seed, "model": model, "state": state, "shortfall": 0.01 * (state == "mended"),
                      "errors": json.dumps([level + image for image in range(5)]), "nelbo": 97.0, "date": "2026-01-01",
                      "share": 0.2 if model == "ewc_gray" else None} for k in classes]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_a_known_rho_is_found(tmp_path):
    rows = trials.read(known(tmp_path / "table.csv", range(10)))
    assert conditions(rows) == list(trials.STATES)
    assert overall(rows, "ewc_gray", "as is").rho == pytest.approx(0.25, abs=0.02)
    assert overall(rows, "ewc_gray", "mended").rho == pytest.approx(0.5, abs=0.02)
    shortfall = rows.xs("ewc_gray", level="model")[["shortfall.as is", "shortfall.mended"]]
    assert set(shortfall.itertuples(index=False, name=None)) == {(0.0, 0.01)}
    base = rows.xs("baseline", level="model")
    assert base["errors.as is"].map(list).equals(base["errors.mended"].map(list))


def test_shortfalls_are_those_that_were_measured(tmp_path):
    rows = trials.read(known(tmp_path / "table.csv", range(10)))
    rows.loc[(3, 1, "ewc_gray"), "shortfall.mended"] = np.nan
    found = comparison.shortfalls(rows)
    assert (3, 1, "ewc_gray", "as is") in found.index and (3, 1, "ewc_gray", "mended") not in found.index
    assert found.xs("mended", level="condition").unique().tolist() == [0.01]
    assert comparison.shortfalls(rows.drop(columns=["shortfall.as is", "shortfall.mended"])).empty


def test_processors_are_compared_over_their_seeds(tmp_path):
    rows = trials.read(known(tmp_path / "table.csv", range(10)))
    assert comparison.by_processor(rows, "ewc_gray", "mended").empty
    seeds = rows.index.get_level_values("seed")
    found = comparison.by_processor(rows.assign(processor=np.where(seeds == 2, "one", "other")), "ewc_gray", "mended")
    assert found["seeds"].to_dict() == {"one": 1, "other": 3}
    assert found["rho"].tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_a_table_without_a_complete_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have a seed with all of the classes 0, 1, .*, got none"):
        trials.read(known(tmp_path / "table.csv", range(9)))


@pytest.fixture
def again(tmp_path, monkeypatch):
    """A committed table, and the rows of it that are made again; a test may change them."""
    monkeypatch.setattr(making, "RESULTS", tmp_path)
    table = pd.read_csv(known(tmp_path / "trials.csv", range(10))).assign(processor="any")
    table.to_csv(tmp_path / "trials.csv", index=False)
    changes = {}

    def fake(label, seeds, methods):
        rows = table[(table["class"] == label) & table["seed"].isin(seeds)].to_dict("records")
        return [{**row, **(changes if row["model"] == methods[0] else {})} for row in rows]

    monkeypatch.setattr(making, "measured", fake)
    return changes


@pytest.mark.parametrize("change, differing", [
    ({}, []), ({"nelbo": 97.7}, ["ewc_gray, as is: nats"]),
    ({"errors": "[5, 5, 5, 5, 5]"}, ["ewc_gray, as is: error", "ewc_gray, mended: error"])])
def test_a_trial_made_again_agrees_within_the_tolerance(again, capsys, change, differing):
    again |= change
    assert making.check_today() == differing
    assert capsys.readouterr().out.count("DIFFERS") == len(differing)


@pytest.mark.parametrize("text, message", [
    (None, "no table at"), ("class,seed\n1,2\n", "it lacks errors, model, shortfall, state"), ("\x00", "is not")])
def test_what_is_no_table_is_refused(tmp_path, text, message):
    path = tmp_path / "trials.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        trials.read(path)


def test_limits_hold_for_every_method():
    size = measuring.Size(longest=50, peak_lr=1e-3)
    assert size.capped(UnlearningConfig(steps=80, peak_lr=2e-3)) == UnlearningConfig(steps=50, peak_lr=1e-3)
    assert size.capped(UnlearningConfig(steps=30, peak_lr=5e-4)) == UnlearningConfig(steps=30, peak_lr=5e-4)


def test_a_convolutional_model_is_measured_the_same_way(digits):
    shape = ModelConfig("conv", latent_dim=3, hidden=(2, 3), image_shape=digits.image_shape)
    size = measuring.Size(shape, TrainingConfig(epochs=1), SMALL.search, longest=2)
    rows = pd.DataFrame(measuring.measured(2, [10], digits, size, ["distillation"]))
    assert list(zip(rows["model"], rows["state"])) == [
        ("baseline", "as is"), ("never saw", "as is"), ("distillation", "as is"), ("never saw", "mended"),
        ("distillation", "mended")]
    assert rows["share"].notna().sum() == 1 and rows["processor"].nunique() == 1


def test_a_sequence_has_rows_of_each_of_its_classes(digits):
    rows = pd.concat([pd.DataFrame(measuring.in_sequence(label, (3, 1), (10,), digits, SMALL)) for label in (3, 1)])
    names = ["never saw", "one after another", "at once"]
    expected = {(name, state) for name in names for state in trials.STATES} | {("baseline", "as is")}
    for _, own in rows.groupby("class"):
        assert set(zip(own["model"], own["state"])) == expected and len(own) == len(expected)
    assert rows["shortfall"].notna().all()
    as_is = rows[rows["state"] == "as is"]  # both classes are wanted of the same four models
    assert (as_is.groupby("model")["digest"].nunique() == 1).all() and as_is["digest"].nunique() == 4


def test_the_other_committed_tables_are_whole():
    for name, table in making.TABLES.items():
        rows = trials.read(trials.RESULTS / f"{name}.csv", table.classes)
        assert set(rows.index.unique("forget")) == set(table.classes)
        assert list(rows.index.unique("seed")) == trials.protocol()["seeds"][:table.seeds]


def test_the_check_takes_a_row_of_its_own_kind_of_device(monkeypatch):
    asked = []
    monkeypatch.setattr(making, "measured", lambda label, seeds, methods: asked.append((label, *seeds)) or [])
    for day in range(40):
        class Day(making.datetime.date):
            @classmethod
            def today(cls, day=day):
                return cls.fromordinal(739_000 + day)
        monkeypatch.setattr(making.datetime, "date", Day)
        assert making.check_today() == []
    made = pd.read_csv(trials.RESULTS / "trials.csv").groupby(["class", "seed"])["processor"].first()
    assert len(set(asked)) > 10 and not made.loc[asked].str.startswith("NVIDIA").any()
