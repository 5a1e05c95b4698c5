"""Claims that hold, fail, do not apply, or cannot be looked at."""

import copy

import pytest

from sa_lib.chapter import write_metrics
from sa_lib.check import CLAIMS, STRONGEST, Claim, main
from sa_lib.check import check as check_run

PARAMETERS = {"dataset": "mnist", "seed": 0, "forget": 9, "profile": "full", "architecture": "mlp"}
# Every number lies exactly on its bound.
GOOD = {
    "01_baseline": {"parameters": dict(PARAMETERS), "nelbo": 97.5, "accuracy": 0.96,
                    "judges": {"A": {"accuracy": 0.99}, "B": {"accuracy": 0.99}}},
    "02_ewc_unlearning": {"parameters": dict(PARAMETERS), "forgotten": {"gray": 0.005, "probability": 0.02},
                          "retained": {"accuracy": 0.972 - 0.005, "accuracy_baseline": 0.972, "nelbo": 96.5,
                                       "nelbo_baseline": 96.0},
                          "seconds": 40.0, "seconds_baseline": 100.0, "fisher_ratio": 1.5},
    "03_sequential": {"parameters": dict(PARAMETERS), "gray_most": 0.005, "relapse": 0.005,
                      "retained": {"accuracy": 0.982 - 0.01, "accuracy_baseline": 0.982}},
    "05_attacks": {"parameters": dict(PARAMETERS), "target": "forgot 9, 2",
                   "rho": {threat: {"9": {"forgot 9, 2": {"rho": 0.25}, "forgot 9": {"rho": 0.9}},
                                    "2": {"forgot 9, 2": {"rho": -0.7}}} for threat in STRONGEST},
                   "rho_baseline": {threat: {k: {"rho": 1.0} for k in "92"} for threat in STRONGEST},
                   "held_out": {threat: {k: {"seed 0": {"low": 0.15, "high": 0.3}, "seed 1": {"low": -0.3, "high": -0.15}}
                                         for k in "92"}
                                for threat in STRONGEST}},
    "07_methods": {"parameters": dict(PARAMETERS), "models": {
        "baseline": {"nelbo": 96.0}, "ewc_gray": {"probability": 0.01}, "retrain": {"probability": 0.0},
        "unseen": {"probability": 0.05, "nelbo": 97.0,
                   "rho": {"y on the simplex": {"value": -0.3}, "y free": {"value": -0.3}}}}},
    "08_evidence": {"parameters": {"profile": "full", "table": ""}, "mean_abs_rho": {"ewc_gray": 0.2, "unseen": 0.2},
                    "nats": {"ewc_gray": 0.5, "unseen": 0.5}, "relearning": {"unseen": -0.05}}}
# One number a claim, just beyond its bound.
BAD = {
    "negative ELBO on test images": ("01_baseline", ["nelbo"], 97.501),
    "judge-B accuracy on samples": ("01_baseline", ["accuracy"], 0.9599),
    "judge A": ("01_baseline", ["judges", "A", "accuracy"], 0.9899),
    "judge B": ("01_baseline", ["judges", "B", "accuracy"], 0.9899),
    "distance to gray": ("02_ewc_unlearning", ["forgotten", "gray"], 0.00501),
    "probability of the class": ("02_ewc_unlearning", ["forgotten", "probability"], 0.0201),
    "retained: judge-B accuracy": ("02_ewc_unlearning", ["retained", "accuracy"], 0.9669),
    "retained: negative ELBO": ("02_ewc_unlearning", ["retained", "nelbo"], 96.501),
    "share of training": ("02_ewc_unlearning", ["seconds"], 40.1),
    "Fisher": ("02_ewc_unlearning", ["fisher_ratio"], 1.501),
    "largest distance to gray": ("03_sequential", ["gray_most"], 0.00501),
    "relapse": ("03_sequential", ["relapse"], 0.00501),
    "judge-B accuracy on what is kept": ("03_sequential", ["retained", "accuracy"], 0.9719),
    "largest rho": ("05_attacks", ["rho", "y free", "2", "forgot 9, 2", "rho"], 0.2501),
    "smallest rho of the baseline": ("05_attacks", ["rho_baseline", "y on the simplex", "9", "rho"], 0.9999),
    "never saw it": ("05_attacks", ["held_out", "y free", "2", "seed 1", "high"], -0.1501),
    "judge B sees the class": ("07_methods", ["models", "ewc_gray", "probability"], 0.0501),
    "methods: nats on what is kept": ("07_methods", ["models", "unseen", "nelbo"], 97.001),
    "mean of two attackers": ("07_methods", ["models", "unseen", "rho", "y free", "value"], -0.3001),
    "mean |rho|": ("08_evidence", ["mean_abs_rho", "unseen"], 0.2001),
    "nats lost on what is kept, unseen": ("08_evidence", ["nats", "unseen"], 0.5001),
    "nats lost on what is kept, ewc_gray": ("08_evidence", ["nats", "ewc_gray"], 0.5001),
    "relearning, from a retrained": ("08_evidence", ["relearning", "unseen"], -0.0501)}


MISSING = object()
UNLEARNING = "02_ewc_unlearning"


def changed(chapter, path, value):
    metrics = copy.deepcopy(GOOD)
    place = metrics[chapter]
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return metrics


@pytest.fixture
def check(tmp_path, capsys):
    def run(metrics):
        for chapter, content in metrics.items():
            write_metrics(tmp_path, chapter, content)
        status = main([str(tmp_path)])
        return status, capsys.readouterr()
    return run


def test_every_claim_is_a_line_and_all_hold(check):
    status, said = check(GOOD)
    lines = said.out.splitlines()
    assert status == 0 and len(lines) == len(CLAIMS) == len(BAD)
    assert all(line.endswith("  holds") for line in lines)


@pytest.mark.parametrize("name", BAD)
def test_a_claim_that_fails_is_named(check, name):
    status, said = check(changed(*BAD[name]))
    *lines, last = said.out.splitlines()
    failing = [line for line in lines if line.endswith("DOES NOT HOLD")]
    assert status == 1 and len(failing) == 1 and name in failing[0]
    assert last.startswith("does not hold: ") and name in last


def test_of_other_parameters_nothing_is_claimed(check):
    metrics = changed(*BAD["distance to gray"])
    for content in metrics.values():
        content["parameters"] = PARAMETERS | {"profile": "smoke", "dataset": "digits", "table": ""}
    status, said = check(metrics)
    assert status == 0
    verdicts = ("does not apply (profile=smoke, dataset=digits)", "does not apply (profile=smoke)")
    assert all(line.endswith(verdicts) for line in said.out.splitlines())


@pytest.mark.parametrize("name, other", [
    ("profile", "smoke"), ("dataset", "kmnist"), ("architecture", "conv")])
def test_each_parameter_alone_exempts_a_run(check, name, other):
    metrics = changed(*BAD["distance to gray"])
    metrics[UNLEARNING]["parameters"] = PARAMETERS | {name: other}
    status, said = check(metrics)
    assert status == 0 and said.out.count(f"does not apply ({name}={other})") == 6


def test_all_that_fail_are_named(check):
    metrics = changed(*BAD["distance to gray"])
    metrics["01_baseline"]["nelbo"] = 99
    status, said = check(metrics)
    last = said.out.splitlines()[-1]
    assert status == 1 and "baseline: negative ELBO" in last and "distance to gray" in last


def test_another_digit_and_seed_are_held_to_the_same(check):
    metrics = changed(*BAD["distance to gray"])
    metrics["02_ewc_unlearning"]["parameters"] = PARAMETERS | {"forget": 3, "seed": 7}
    assert check(metrics)[0] == 1


def test_a_claim_may_be_stated_for_parameters_of_its_own(tmp_path, capsys):
    write_metrics(tmp_path, "05_attacks", {"parameters": PARAMETERS | {"architecture": "conv"}, "rho": 0.3})
    claims = [Claim("rho", "05_attacks", lambda m: m["rho"], "<=", lambda m: 0.1, {"forget": k})
              for k in (8, 9)]
    assert check_run(tmp_path, claims) == ["rho"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("does not apply (forget=9)") and second.endswith("DOES NOT HOLD")


def is_one_sentence_on(chapter, error):
    return error.startswith(f"error: the metrics of {chapter}") and error.count("\n") == 1


@pytest.mark.parametrize("chapter, path", [
    *((chapter, path) for chapter, path, _ in BAD.values()), (UNLEARNING, ["retained", "accuracy_baseline"]),
    (UNLEARNING, ["retained", "nelbo_baseline"]), (UNLEARNING, ["seconds_baseline"]),
    ("01_baseline", ["parameters"]), (UNLEARNING, ["parameters", "profile"])])
def test_a_missing_number_is_an_error_and_no_pass(check, chapter, path):
    status, said = check(changed(chapter, path, MISSING))
    assert status == 2 and is_one_sentence_on(chapter, said.err)


@pytest.mark.parametrize("path, value", [
    (["seconds_baseline"], 0), (["seconds"], 10**400), (["retained"], []),
    (["fisher_ratio"], "1"), (["fisher_ratio"], None)])
def test_what_is_no_usable_number_is_an_error_too(check, path, value):
    status, said = check(changed(UNLEARNING, path, value))
    assert status == 2 and is_one_sentence_on(UNLEARNING, said.err)


def test_nan_is_no_pass(check, tmp_path):
    check(GOOD)
    path = tmp_path / "01_baseline" / "metrics.json"
    path.write_text(path.read_text().replace("97.5", "NaN"))
    assert main([str(tmp_path)]) == 1


def test_no_run_and_a_damaged_one(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    assert "run the chapter first" in capsys.readouterr().err
    path = tmp_path / "01_baseline" / "metrics.json"
    path.parent.mkdir()
    path.write_text('{"nelbo": 9')
    assert main([str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err
