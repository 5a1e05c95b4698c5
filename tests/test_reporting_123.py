"""The functions that chapters 1 to 3 report with, and the loss that chapter 2 shows."""

from dataclasses import replace
from pathlib import Path

import jupytext
import pandas as pd
import pytest
import torch

from sa_lib import measures, methods, trained
from sa_lib.evaluation import answers, relapse, summary
from sa_lib.judges import Judge
from sa_lib.model import device
from sa_lib.unlearning import UnlearningConfig

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


class Brightness(Judge):
    """A judge that reads the class off an image: a tenth of brightness per class, and white is no digit."""

    def probabilities(self, images, batch=2000):
        classes = (10 * images.flatten(1).mean(1)).round().long()
        return torch.nn.functional.one_hot(classes, 11).float()


@pytest.fixture
def judge():
    return Brightness("B").to(device())


def flat(*levels):
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous()


def test_answers_are_shares_of_the_outcomes(judge):
    table = answers(judge, {"mixed": flat(0.3, 0.3, 0.3, 1.0), "white": flat(1.0)})
    assert list(table.index) == ["mixed", "white"] and list(table) == [*"0123456789", "none"]
    assert table.loc["mixed", "3"] == 0.75 and table.loc["mixed", "none"] == 0.25
    assert table.loc["white", "none"] == 1 and (table.sum(axis=1) == 1).all()


@pytest.mark.parametrize("images", [torch.zeros(0, 1, 28, 28), torch.zeros(3, 28, 28), flat(1.5), "gray"])
def test_answers_name_the_set_that_has_no_images(judge, images):
    with pytest.raises((TypeError, ValueError), match=r"images\['odd'\] must "):
        answers(judge, {"good": flat(0.5), "odd": images})


def steps(*rows):
    return [pd.DataFrame({"gray": row}) for row in rows]


def test_relapse_counts_from_the_step_that_forgot_the_class():
    tables = steps([0.4, 0.4, 0.4], [0.4, 0.4, 0.01], [0.01, 0.4, 0.05], [0.005, 0.002, 0.03])
    rises = relapse(tables, [2, 0, 1])
    assert list(rises.index) == [2, 0, 1]
    assert rises.to_dict() == pytest.approx({2: 0.02, 0: -0.005, 1: 0.0})


def test_one_step_has_no_relapse():
    assert relapse(steps([0.4], [0.001]), 0).to_dict() == {0: 0.0}


@pytest.mark.parametrize("tables, forget, message", [
    (steps([0.4, 0.4], [0.1, 0.4]), [0, 1], "tables must be one for the start and one for each of the 2 steps, got 2"),
    (steps([0.4], [0.1], [0.1]), [0, 3], r"tables must have a row for every class in forget, got none for \[3\]"),
    ([*steps([0.4]), pd.DataFrame({"nelbo": [1.0]})], [0], r"tables\[1\] must be a table with .* numbers in gray"),
    (steps([0.4]), [], "forget must be a class")])
def test_relapse_names_the_argument_that_does_not_fit(tables, forget, message):
    with pytest.raises(ValueError, match=message):
        relapse(tables, forget)


def test_a_summary_separates_the_forgotten_from_the_retained():
    baseline = pd.DataFrame({"probability": 0.9, "accuracy": 0.98, "gray": 0.4, "nelbo": 96.0}, index=range(10))
    unlearned = baseline.copy()
    unlearned.loc[[3, 7], ["probability", "gray"]] = [[0.01, 0.002], [0.03, 0.001]]
    unlearned.loc[3, ["accuracy", "nelbo"]] = 0.0, 300.0
    unlearned.loc[0, ["accuracy", "nelbo"]] = 0.90, 104.0
    table = summary({"baseline": baseline, "unlearned": unlearned}, [7, 3], "baseline")
    assert table.loc["unlearned"].to_dict() == pytest.approx({
        "probability": 0.03, "gray": 0.002, "accuracy": 0.97, "nelbo": 97.0, "nats_lost": 1.0, "points_lost": 1.0})
    assert table.loc["baseline", ["nats_lost", "points_lost"]].tolist() == [0, 0]


def test_a_relapse_shows_its_sign():
    assert (measures.write("relapse", 0.00123), measures.write("relapse", -0.2)) == ("+0.0012", "-0.2000")


@pytest.fixture(scope="module")
def shown_loss():
    """The loss in the cell of chapter 2."""
    cells = jupytext.read(NOTEBOOKS / "02_ewc_unlearning.py", fmt="py:percent").cells
    (source,) = [cell.source for cell in cells if cell.source.startswith("def forget_loss(")]
    scope = {}
    exec(source, scope)
    return scope["forget_loss"]


@pytest.mark.parametrize("weights", [{}, {"real": 0.0}, {"real": 0.0, "replay": 0.0}, {"ewc": 0.0}, {"ewc": 100.0},
                                     {"gray": 0.0}, {"replay": 0.5, "gray": 100.0}], ids=str)
def test_the_store_takes_the_loss_of_chapter_2_for_the_library_s(shown_loss, weights):
    config = replace(UnlearningConfig(), **weights)
    shown = trained._loss_fingerprint(shown_loss, config)
    assert shown == trained._loss_fingerprint(methods.ewc_gray, config)
    assert {"real", "replay", "ewc", "gray"} - set(shown) == {name for name, weight in weights.items() if not weight}


def test_a_reader_s_change_to_the_loss_makes_another_model(shown_loss):
    def changed(model, batch, config, anchor, fisher):
        terms = shown_loss(model, batch, config, anchor, fisher)
        return {**terms, "gray": 2 * terms["gray"]}

    config = UnlearningConfig()
    assert trained._loss_fingerprint(changed, config) != trained._loss_fingerprint(shown_loss, config)
