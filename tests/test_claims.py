"""Claims that hold, do not hold, are not made for a run, or lack their number; on the page and in the check."""

import copy
import math
import random
import re
from collections import defaultdict

import pytest

from sa_lib.book.__main__ import main
from sa_lib.chapter import write_metrics
from sa_lib.claims import CLAIMS, LIMITS, STRONGEST, Claim, is_forgotten, verdicts
from sa_lib.claims import check as check_run
from sa_lib.measures import MEASURES

PARAMETERS = {"dataset": "mnist", "seed": 0, "forget": [9], "profile": "full", "architecture": "mlp"}
# Every number lies exactly on its limit.
GOOD = {
    "01_baseline": {"parameters": dict(PARAMETERS), "nelbo": 97.5, "accuracy": 0.96,
                    "judges": {"A": {"accuracy": 0.99}, "B": {"accuracy": 0.99}}},
    "02_ewc_unlearning": {"parameters": dict(PARAMETERS), "forgotten": {"gray": 0.005, "probability": 0.02},
                          "retained": {"accuracy": 0.972 - 0.005, "accuracy_baseline": 0.972, "nelbo": 96.5,
                                       "nelbo_baseline": 96.0},
                          "share": 0.25, "fisher_ratio": 1.5},
    "03_sequential": {"parameters": dict(PARAMETERS), "gray_most": 0.005, "relapse": 0.005,
                      "retained": {"accuracy": 0.982 - 0.005, "accuracy_baseline": 0.982}},
    "05_attacks": {"parameters": dict(PARAMETERS), "target": "forgot 9, 2",
                   "rho": {threat: {"9": {"forgot 9, 2": {"high": 0.5}, "forgot 9": {"high": 0.9}},
                                    "2": {"forgot 9, 2": {"high": -0.7}}} for threat in STRONGEST},
                   "held_out": {threat: {k: {"seed 0": {"rho": 0.2, "low": 0.15, "high": 0.3},
                                             "seed 1": {"rho": -0.2, "low": -0.3, "high": -0.15}} for k in "92"}
                                for threat in STRONGEST}},
    "07_methods": {"parameters": dict(PARAMETERS), "models": {
        "baseline": {"nelbo": 96.0}, "ewc_gray": {"probability": 0.01}, "retrain": {"probability": 0.0},
        "unseen": {"probability": 0.02, "nelbo": 96.5}}},
    "08_evidence": {"parameters": {"profile": "full", "table": ""}, "back": {"ewc_gray": {"low": 0.0}},
                    "sums": {"ewc_gray": {"mended": {"low": 0.0}},
                             "unseen": {"mended": {"low90": -0.15, "high90": 0.01}}},
                    "nats": {"ewc_gray": {"high": 0.5}}}}
# One number a claim, just beyond its limit.
BAD = {
    "negative ELBO on test images": ("01_baseline", ["nelbo"], 97.501),
    "judge-B accuracy on samples": ("01_baseline", ["accuracy"], 0.9599),
    "judge A": ("01_baseline", ["judges", "A", "accuracy"], 0.9899),
    "judge B": ("01_baseline", ["judges", "B", "accuracy"], 0.9899),
    "distance to gray": ("02_ewc_unlearning", ["forgotten", "gray"], 0.00501),
    "probability of the class": ("02_ewc_unlearning", ["forgotten", "probability"], 0.0201),
    "retained: judge-B accuracy": ("02_ewc_unlearning", ["retained", "accuracy"], 0.9669),
    "retained: negative ELBO": ("02_ewc_unlearning", ["retained", "nelbo"], 96.501),
    "share of a training": ("02_ewc_unlearning", ["share"], 0.2501),
    "Fisher": ("02_ewc_unlearning", ["fisher_ratio"], 1.501),
    "largest distance to gray": ("03_sequential", ["gray_most"], 0.00501),
    "relapse": ("03_sequential", ["relapse"], 0.00501),
    "judge-B accuracy on retained classes": ("03_sequential", ["retained", "accuracy"], 0.9769),
    "interval of ρ, y on the simplex": (
        "05_attacks", ["rho", "y on the simplex", "2", "forgot 9, 2", "high"], 0.5001),
    "never saw it": ("05_attacks", ["held_out", "y free", "2", "seed 1", "high"], -0.1501),
    "judge B sees the class": ("07_methods", ["models", "ewc_gray", "probability"], 0.0201),
    "methods: nats on retained classes": ("07_methods", ["models", "unseen", "nelbo"], 96.501),
    "ρ that mending brings back": ("08_evidence", ["back", "ewc_gray", "low"], -0.0001),
    "least ρ after mending": ("08_evidence", ["sums", "ewc_gray", "mended", "low"], -0.0001),
    "distance of ρ from 0 after mending": ("08_evidence", ["sums", "unseen", "mended", "low90"], -0.1501),
    "nats lost on retained classes, ewc_gray": ("08_evidence", ["nats", "ewc_gray", "high"], 0.5001)}


MISSING = object()
UNLEARNING = "02_ewc_unlearning"


def changed(chapter, path, value):
    """The good metrics with one value changed, or missing."""
    metrics = copy.deepcopy(GOOD)
    place = metrics[chapter]
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return metrics


def scattered(seed):
    """The good metrics with each number up to a tenth larger or smaller, those of one name by one factor."""
    draw = random.Random(seed)
    factors = defaultdict(lambda: draw.uniform(0.9, 1.1))

    def scatter(name, value):
        if isinstance(value, dict):
            return {key: item if key == "parameters" else scatter(key, item) for key, item in value.items()}
        if not isinstance(value, float):
            return value
        return value * factors[name] if value else factors[name] - 1  # a limit of 0 is broken by either sign
    return scatter("", GOOD)


@pytest.fixture
def check(tmp_path, capsys):
    """Write metrics and check them on the command line: its exit status and output."""
    def run(metrics):
        for chapter, content in metrics.items():
            write_metrics(tmp_path, chapter, content)
        status = main(["check", str(tmp_path)])
        return status, capsys.readouterr()
    return run


# The claims

def test_every_claim_has_a_name_of_its_own():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_is_a_limit_on_a_measure_of_a_chapter(claim):
    assert claim.chapter in GOOD
    assert claim.measure in MEASURES
    assert claim.sign in ("<=", ">=")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_sign_of_a_claim_agrees_with_the_direction_of_its_measure(claim):
    better = MEASURES[claim.measure].better
    assert (claim.sign, better) in {("<=", "lower"), (">=", "higher"), ("<=", ""), (">=", "")}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_number_on_its_limit_holds(claim):
    metrics = GOOD[claim.chapter]
    assert claim.value(metrics) == pytest.approx(claim.limit(metrics))
    assert claim.holds(metrics)


@pytest.mark.parametrize("probability, forgotten", [(0.0, True), (0.02, True), (0.0201, False), (math.nan, False)])
def test_a_class_is_forgotten_up_to_the_limit_of_the_probability(probability, forgotten):
    assert is_forgotten(probability) is forgotten


def test_a_class_is_forgotten_exactly_when_the_claim_of_the_probability_holds():
    claim, = (claim for claim in CLAIMS if claim.name == "forgotten: judge-B probability of the class")
    for probability in (0.019, LIMITS["probability"], 0.021):
        assert claim.holds({"forgotten": {"probability": probability}}) == is_forgotten(probability)


# The check

def test_every_claim_is_a_line_and_all_hold(check):
    status, said = check(GOOD)
    lines = said.out.splitlines()
    assert status == 0
    assert len(lines) == len(CLAIMS)
    assert all(line.startswith(claim.name) for line, claim in zip(lines, CLAIMS, strict=True))
    assert all(line.endswith("  holds") for line in lines)


def test_every_claim_has_a_number_here_that_breaks_it():
    assert len(BAD) == len(CLAIMS)


@pytest.mark.parametrize("name", BAD)
def test_a_claim_that_does_not_hold_is_named(check, name):
    status, said = check(changed(*BAD[name]))
    *lines, last = said.out.splitlines()
    failing, = (line for line in lines if line.endswith("DOES NOT HOLD"))
    assert status == 1
    assert name in failing
    assert last.startswith("does not hold: ")
    assert name in last


def test_of_other_parameters_nothing_is_claimed(check):
    metrics = changed(*BAD["distance to gray"])
    for content in metrics.values():
        content["parameters"] = PARAMETERS | {"profile": "smoke", "dataset": "digits", "table": ""}
    status, said = check(metrics)
    lines = said.out.splitlines()
    assert status == 0
    assert all(line.endswith((" (not claimed for profile=smoke, dataset=digits)", " (not claimed for profile=smoke)"))
               for line in lines)
    assert sum("  does not hold (not claimed for " in line for line in lines) == 1
    assert "DOES NOT HOLD" not in said.out


@pytest.mark.parametrize("name, other", [("profile", "smoke"), ("dataset", "kmnist"), ("architecture", "conv")])
def test_each_parameter_alone_exempts_a_run(check, name, other):
    metrics = changed(*BAD["distance to gray"])
    metrics[UNLEARNING]["parameters"] = PARAMETERS | {name: other}
    status, said = check(metrics)
    assert status == 0
    assert said.out.count(f"(not claimed for {name}={other})") == 6


def test_another_table_exempts_the_evidence_alone(check):
    metrics = changed(*BAD["least ρ after mending"])
    metrics["08_evidence"]["parameters"] = {"profile": "full", "table": "mine.csv"}
    status, said = check(metrics)
    assert status == 0
    assert said.out.count("(not claimed for table=mine.csv)") == 4


def test_all_claims_that_do_not_hold_are_named(check):
    metrics = changed(*BAD["distance to gray"])
    metrics["01_baseline"]["nelbo"] = 99
    status, said = check(metrics)
    assert status == 1
    assert said.out.splitlines()[-1] == (
        "does not hold: baseline: negative ELBO on test images, nats; forgotten: distance to gray")


def test_another_digit_and_seed_are_held_to_the_same(check):
    metrics = changed(*BAD["distance to gray"])
    metrics[UNLEARNING]["parameters"] = PARAMETERS | {"forget": [3, 5], "seed": 7}
    assert check(metrics)[0] == 1


def test_a_claim_may_be_made_for_parameters_of_its_own(tmp_path, capsys):
    write_metrics(tmp_path, "05_attacks", {"parameters": PARAMETERS | {"architecture": "conv"}, "rho": 0.3})
    claims = [Claim("rho", "05_attacks", "rho", lambda m: m["rho"], "<=", lambda m: 0.1, {"seed": seed})
              for seed in (8, 0)]
    assert check_run(tmp_path, claims) == ["rho"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("  does not hold (not claimed for seed=0)")
    assert second.endswith("  DOES NOT HOLD")


def is_one_sentence_on(chapter, error):
    return error.startswith(f"error: the metrics of {chapter}") and error.count("\n") == 1


@pytest.mark.parametrize("chapter, path", [
    *((chapter, path) for chapter, path, _ in BAD.values()), (UNLEARNING, ["retained", "accuracy_baseline"]),
    (UNLEARNING, ["retained", "nelbo_baseline"]), (UNLEARNING, ["share"]),
    ("01_baseline", ["parameters"]), (UNLEARNING, ["parameters", "profile"])])
def test_a_missing_number_is_an_error_and_no_pass(check, chapter, path):
    status, said = check(changed(chapter, path, MISSING))
    assert status == 2
    assert is_one_sentence_on(chapter, said.err)


@pytest.mark.parametrize("path, value", [
    (["share"], 10**400), (["share"], []), (["retained"], []),
    (["fisher_ratio"], "1"), (["fisher_ratio"], None)])
def test_a_value_that_is_no_usable_number_is_an_error_too(check, path, value):
    status, said = check(changed(UNLEARNING, path, value))
    assert status == 2
    assert is_one_sentence_on(UNLEARNING, said.err)


def test_a_number_that_is_not_a_number_does_not_hold(check, tmp_path, capsys):
    check(GOOD)
    path = tmp_path / "01_baseline" / "metrics.json"
    path.write_text(path.read_text().replace("97.5", "NaN"))
    assert main(["check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[0].endswith("DOES NOT HOLD")


def test_a_check_of_no_run_says_how_to_make_one(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none")]) == 2
    assert "run the chapter first" in capsys.readouterr().err


def test_a_check_of_a_damaged_run_is_an_error(tmp_path, capsys):
    path = tmp_path / "01_baseline" / "metrics.json"
    path.parent.mkdir()
    path.write_text('{"nelbo": 9')
    assert main(["check", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err


# The page

@pytest.mark.parametrize("chapter", GOOD)
def test_a_page_has_every_claim_of_its_chapter(chapter):
    table = verdicts(chapter, GOOD[chapter])
    assert list(table.index) == [claim.name for claim in CLAIMS if claim.chapter == chapter]
    assert list(table) == ["measured", "limit", "verdict"]
    assert set(table["verdict"]) == {"holds"}


def test_a_chapter_without_claims_has_an_empty_table():
    assert verdicts("04_latent", {"parameters": PARAMETERS}).empty


def test_a_page_writes_numbers_in_the_format_of_their_measure():
    row = verdicts("01_baseline", GOOD["01_baseline"]).iloc[1]
    assert row["measured"] == "96.0%"
    assert row["limit"] == "≥ 96.0%"


def test_a_page_needs_metrics():
    with pytest.raises(TypeError, match="^metrics must be a Mapping, got "):
        verdicts("01_baseline", [97.5])


# The page and the check

LINE = re.compile(r"(?P<name>.{57}) +(?P<value>\S+) (?P<sign><=|>=) +(?P<limit>\S+)  (?P<verdict>.+)")


def number(text):
    """The number in a text of the page, and the half unit of its last digit."""
    digits = text.rstrip("%")
    scale = 0.01 if text.endswith("%") else 1
    return float(digits) * scale, 0.5 * scale * 10.0**-len(digits.partition(".")[2])


@pytest.mark.parametrize("metrics", [
    pytest.param(GOOD, id="on the limits"), *(pytest.param(changed(*bad), id=name) for name, bad in BAD.items()),
    *(pytest.param(scattered(seed), id=f"scattered {seed}") for seed in range(20))])
@pytest.mark.parametrize("others", [{}, {"profile": "smoke", "dataset": "digits"}], ids=["claimed", "not claimed"])
def test_the_page_and_the_check_agree_on_every_claim(check, metrics, others):
    metrics = {chapter: {**content, "parameters": content["parameters"] | others}
               for chapter, content in metrics.items()}
    status, said = check(metrics)
    lines = [LINE.fullmatch(line) for line in said.out.splitlines()[:len(CLAIMS)]]
    for claim, line in zip(CLAIMS, lines, strict=True):
        row = verdicts(claim.chapter, metrics[claim.chapter]).loc[claim.name]
        sign, limit = row["limit"].split()
        assert line["name"].rstrip() == claim.name
        assert {"≤": "<=", "≥": ">="}[sign] == line["sign"]
        for shown, checked in ((row["measured"], line["value"]), (limit, line["limit"])):
            value, half = number(shown)
            assert value == pytest.approx(float(checked), rel=0, abs=half + 0.00005 + 1e-9)
        assert line["verdict"].lower() == row["verdict"]
        assert line["verdict"].isupper() == (row["verdict"] == "does not hold")
    failed = [line["name"] for line in lines if line["verdict"] == "DOES NOT HOLD"]
    assert status == bool(failed)


def test_the_scattered_metrics_break_and_keep_every_claim_somewhere():
    runs = [scattered(seed) for seed in range(20)]
    for claim in CLAIMS:
        assert {claim.holds(metrics[claim.chapter]) for metrics in runs} == {True, False}
