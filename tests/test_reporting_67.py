"""The tables of the report card and of the comparison of methods, on cases whose answers are known."""

import math

import pandas as pd
import pytest

from sa_lib import claims, evaluation, measures
from sa_lib.residual import MARGIN, Residual

UNDEFINED = Residual(math.nan)


def rho_of(rho, half=0.1):
    """A rho with its interval, from three controls."""
    return Residual(rho, rho - half, rho + half, rho - 0.8 * half, rho + 0.8 * half, 0.5, 3, 1, 6.0, 0.5)




def table(probability=0.9, gray=0.4, accuracy=0.95, nelbo=100.0, **classes):
    """A table of `evaluate` with the same numbers for all classes, but for the rows in `classes`, such as k9."""
    rows = pd.DataFrame({"probability": probability, "gray": gray, "accuracy": accuracy, "nelbo": nelbo},
                        index=pd.RangeIndex(10, name="class"))
    for name, numbers in classes.items():
        for column, value in numbers.items():
            rows.loc[int(name[1:]), column] = value
    return rows


@pytest.fixture
def summary():
    return evaluation.summary({
        "this model": table(accuracy=0.94, nelbo=100.5, k9={"probability": 0.0, "gray": 0.001},
                            k2={"probability": 0.02, "gray": 0.004}),
        "baseline": table()}, [9, 2], "baseline")


def card(summary, rho=None, success=(0.3, 0.5), accuracy=(0.6, 0.62)):
    """The answers of a report card of class 9 alone, by the first word of each question."""
    guided, relearned = (pd.DataFrame({"this model": [mine], "never saw": [theirs]}, index=[9])
                         for mine, theirs in (success, accuracy))
    rows = claims.report_card("this model", ["never saw"], summary, rho or {(9, "y free"): rho_of(0.1)},
                              guided, relearned)
    return rows["answer"].set_axis([question.split()[0].strip(":") for question in rows.index])


def test_a_summary_has_the_worst_forgotten_class_and_the_mean_retained_one(summary):
    mine = summary.loc["this model"]
    assert mine["probability"] == 0.02
    assert mine["gray"] == 0.004
    assert mine["accuracy"] == pytest.approx(0.94)
    assert mine["nelbo"] == pytest.approx(100.5)


def test_a_summary_has_the_losses_against_its_reference(summary):
    assert summary.loc["this model", "nats_lost"] == pytest.approx(0.5)
    assert summary.loc["this model", "points_lost"] == pytest.approx(1.0)
    assert (summary.loc["baseline", ["nats_lost", "points_lost"]] == 0).all()


def test_a_summary_agrees_with_the_means_of_the_retained_classes():
    numbers = table(k9={"nelbo": 300.0}, k3={"nelbo": 130.0, "accuracy": 0.5})
    row = evaluation.summary({"a": numbers}, 9, "a").loc["a"]
    assert row["nelbo"] == evaluation.retained_means(numbers, 9)["nelbo"]
    assert row["accuracy"] == evaluation.retained_means(numbers, 9)["accuracy"]


def test_a_summary_needs_its_reference():
    with pytest.raises(ValueError, match="^reference must be one of a, got 'baseline'$"):
        evaluation.summary({"a": table()}, 9, "baseline")


def test_the_loss_of_the_rehearsed_images_runs_over_the_share_of_the_updates():
    log = pd.DataFrame({"step": [0, 2, 4], "real": [3.0, 2.0, 1.0], "replay": [9.0, 9.0, 9.0]})
    line = evaluation.rehearsal({"a": log})["a"]
    assert line.index.tolist() == [0.0, 0.5, 1.0]
    assert line["nelbo"].tolist() == [3.0, 2.0, 1.0]


def test_replayed_images_count_where_there_are_no_real_ones_and_without_either_there_is_no_line():
    steps = {"step": [0, 1], "loss": [1.0, 1.0]}
    lines = evaluation.rehearsal({"replays": pd.DataFrame({**steps, "replay": [2.0, 1.0]}),
                                  "neither": pd.DataFrame(steps)})
    assert list(lines) == ["replays"]
    assert lines["replays"]["nelbo"].tolist() == [2.0, 1.0]


def test_one_update_is_the_whole_share():
    line = evaluation.rehearsal({"a": pd.DataFrame({"step": [0], "real": [1.0]})})["a"]
    assert line.index.tolist() == [0.0]


def test_a_listing_writes_each_value_as_its_measure_is_written():
    assert measures.listing("gray", {"a": 0.12345, "b": 0.0}) == "0.1235 (a), 0.0000 (b)"
    assert measures.listing("rho", pd.Series({"a": math.nan})) == "– (a)"


def test_a_report_card_holds_the_model_to_the_limits_of_the_book(summary):
    summary.loc["this model", ["probability", "gray", "nats_lost", "points_lost"]] = [
        claims.LIMITS[name] for name in ("probability", "gray", "nats_lost", "points_lost")]
    answers = card(summary)
    assert list(answers[:4]) == ["forgotten", "gray", "within the limit", "within the limit"]
    assert list(card(summary + 1e-6)[:4]) == ["not forgotten", "not gray", "above the limit", "above the limit"]


@pytest.mark.parametrize("probability", [0.0, 0.02, 0.0201, 0.5])
def test_the_card_and_the_outcomes_have_one_meaning_of_forgotten(summary, probability):
    summary["probability"] = probability
    forgotten = claims.is_forgotten(probability)
    assert (card(summary)["forgotten"] == "forgotten") == forgotten
    assert (claims.outcomes(summary, {})["forgotten"] == "yes").tolist() == [forgotten] * 2


def test_a_method_is_held_to_what_judge_b_sees_in_a_model_that_never_saw_the_class(summary):
    summary["probability"] = [0.049, 0.051]
    assert claims.outcomes(summary, {}, never=0.03)["forgotten"].tolist() == ["yes", "no"]


def test_the_residue_is_that_of_the_worst_attack_with_a_defined_rho(summary):
    rho = {(9, "label only"): UNDEFINED, (9, "y free"): rho_of(0.6), (9, "z free"): rho_of(0.9, 1.0),
           (2, "y free"): rho_of(-3.0)}
    rows = claims.report_card("this model", ["never saw"], summary, rho, *[
        pd.DataFrame({"this model": [0.5], "never saw": [0.5]}, index=[9])] * 2)
    row = rows.loc["residue: ρ of the worst attack (9, y free)"]
    assert row.tolist() == ["+0.60 [+0.50, +0.70]", f"0 ± {MARGIN}", "residue"]


@pytest.mark.parametrize(("mine", "answer"), [(0.02, "not back"), (0.049, "not back"), (0.051, "back"),
                                              (math.nan, "not measured")])
def test_a_label_that_draws_its_class_again_after_mending_is_back(summary, mine, answer):
    other = pd.DataFrame({"this model": [0.5], "never saw": [0.5]}, index=[9])
    drawn = pd.DataFrame({"this model": [mine], "seed 0": [0.02], "seed 1": [0.04]}, index=[9])
    rows = claims.report_card("this model", ["seed 0", "seed 1"], summary, {}, other, other, drawn=drawn)
    row = rows.loc["label 9 when mended: judge B's probability"]
    assert (row["limit or control"], row["answer"]) == ("never saw: 0.030 + 0.02", answer)


def test_a_card_on_which_no_rho_is_defined_says_so(summary):
    assert card(summary, {(9, "y free"): UNDEFINED})["residue"] == "undefined"


@pytest.mark.parametrize(("success", "answer"), [((0.3, 0.5), "less often"), ((0.5, 0.5), "as often"),
                                                 ((0.6, 0.5), "more often")])
def test_a_guided_attack_is_compared_with_the_one_on_the_controls(summary, success, answer):
    assert card(summary, success=success)["guided"] == answer


@pytest.mark.parametrize(("accuracy", "answer"), [((0.60, 0.62), "as fast"), ((0.70, 0.62), "faster"),
                                                  ((0.50, 0.62), "slower")])
def test_relearning_is_compared_with_that_of_the_controls(summary, accuracy, answer):
    assert card(summary, accuracy=accuracy)["relearning"] == answer


def test_the_number_of_the_controls_is_the_mean_over_those_in_the_table(summary):
    guided = pd.DataFrame({"this model": [0.3], "seed 1": [0.4]}, index=[9])
    relearned = pd.DataFrame({"this model": [0.3], "baseline": [1.0], "seed 0": [0.2], "seed 1": [0.6]}, index=[9])
    rho = {(9, "y free"): UNDEFINED}
    rows = claims.report_card("this model", ["seed 0", "seed 1"], summary, rho, guided, relearned)
    assert rows.loc["guided attack on 9: success", "limit or control"] == "never saw: 40%"
    assert rows.loc["relearning of 9: mean accuracy", "limit or control"] == "never saw: 0.40 ± 0.05"


def test_a_question_whose_number_is_missing_is_answered_as_not_measured(summary):
    alone = pd.DataFrame({"this model": [0.3]}, index=[9])
    missing = pd.DataFrame({"this model": [math.nan], "never saw": [0.3]}, index=[9])
    summary.loc["this model", "nats_lost"] = math.nan
    rows = claims.report_card("this model", ["never saw"], summary, {}, alone, missing)
    unmeasured = rows.index[rows["answer"] == "not measured"]
    assert [question.split()[0].strip(":") for question in unmeasured] == ["cost", "residue", "guided", "relearning"]


def test_a_card_is_of_a_model_in_the_summary(summary):
    both = pd.DataFrame({"this model": [0.3], "never saw": [0.3]})
    with pytest.raises(ValueError, match="^model must be one of this model, baseline, got 'mine'$"):
        claims.report_card("mine", ["never saw"], summary, {(9, "y free"): UNDEFINED}, both, both)


def test_the_outcomes_of_the_methods_are_words():
    summary = evaluation.summary({"baseline": table(), "good": table(k9={"probability": 0.0}), "dear": table(
        nelbo=100.6)}, 9, "baseline").drop(index="baseline")
    rho = {"y free": {"baseline": rho_of(1.0), "good": rho_of(0.0), "dear": rho_of(-1.0, 0.9)},
           "y on the simplex": {"baseline": UNDEFINED, "good": UNDEFINED, "dear": UNDEFINED}}
    rows = claims.outcomes(summary, rho)
    assert list(rows) == ["probability", "forgotten", "y free", "y on the simplex", "nats_lost", "cost"]
    words = rows.drop(columns=["probability", "nats_lost"])
    assert words.loc["good"].tolist() == ["yes", "gone", "undefined", "kept"]
    assert words.loc["dear"].tolist() == ["no", "over-forgotten", "undefined", "exceeded"]
    pd.testing.assert_frame_equal(rows[["probability", "nats_lost"]], summary[["probability", "nats_lost"]])


PARAMETERS = {"profile": "full", "dataset": "mnist", "architecture": "mlp"}


@pytest.mark.parametrize("models", [
    {},  # the run had other methods
    {name: {"probability": 0.0, "nelbo": 100.0, "rho": {"y free": {"value": None}}}  # rho is undefined
     for name in ("baseline", "retrain", "ewc_gray", "unseen")}])
def test_a_claim_whose_number_a_run_lacks_is_not_measured(models):
    rows = claims.verdicts("07_methods", {"parameters": PARAMETERS, "models": models})
    assert len(rows) == sum(claim.chapter == "07_methods" for claim in claims.CLAIMS)
    if models:
        assert rows.loc["methods: nats on retained classes, unseen", "verdict"] == "holds"
