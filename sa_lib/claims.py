"""The book's claims: each is a number of a chapter and its limit, stated once, for pages and for ``make check``.

They are stated for the default data, model and profile, and for any digit and seed. Of other runs a page says
whether they would hold, and that nothing is claimed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .chapter import read_metrics
from .checks import check_name, check_number, check_types, shorten
from .measures import write
from .residual import MARGIN, VERDICTS, Residual, verdict, wording

__all__ = ["CLAIMS", "LIMITS", "Claim", "check", "is_forgotten", "outcomes", "report_card", "verdicts"]

STATED_FOR = {"profile": "full", "dataset": "mnist", "architecture": "mlp"}
COMMITTED = {"profile": "full", "table": ""}
STRONGEST = ("y on the simplex", "y free")
Metrics = Mapping[str, Any]

# The limits that more than one claim, chapter or page uses.
LIMITS = {
    "probability": 0.02,  # a class is forgotten if judge B gives its samples at most this probability of the class
    "gray": 0.005,  # and drawn gray if its samples are at most this far from gray
    "accuracy_lost": 0.005,  # of the retained classes, as a share
    "nats_lost": 0.5,  # of the retained classes
    "rho": MARGIN,  # distance from 0, to be shown by a test of equivalence
    "rho_most": 0.5,  # upper end of the interval of one digit and attacker: less than half is left
    "points_lost": 0.5,
    "relearning": 0.05,  # distance to a retrained model's
    "share": 0.25,  # of the images of a training that a cheap method's steps see
}


@dataclass(frozen=True)
class Claim:
    """A number of a chapter that is at most, or at least, a limit.

    Attributes:
        name: of the number.
        chapter: whose metrics have it.
        measure: a name in `measures.MEASURES`, for its format.
        value: the metrics -> the number.
        sign: "<=" or ">=".
        limit: the metrics -> the limit.
        stated_for: parameter -> the value for which the claim is made.
    """

    name: str
    chapter: str
    measure: str
    value: Callable[[Metrics], float]
    sign: str
    limit: Callable[[Metrics], float]
    stated_for: Metrics = field(default_factory=lambda: STATED_FOR)

    def holds(self, metrics: Metrics) -> bool:
        value, limit = self.value(metrics), self.limit(metrics)
        return value <= limit if self.sign == "<=" else value >= limit

    def verdict(self, metrics: Metrics) -> str:
        """"holds" or "does not hold", and the parameters for which nothing is claimed."""
        others = [f"{name}={value}" for name, value in self.others(metrics).items()]
        return ("holds" if self.holds(metrics) else "does not hold") + (
            f" (not claimed for {', '.join(others)})" if others else "")

    def others(self, metrics: Metrics) -> dict[str, Any]:
        """The parameters of a run that are not those for which the claim is made."""
        return {name: metrics["parameters"][name] for name, value in self.stated_for.items()
                if metrics["parameters"][name] != value}


def is_forgotten(probability: float) -> bool:
    """Whether a class is forgotten when asked for by its label: judge B's mean probability of it is at most 0.02."""
    return probability <= LIMITS["probability"]


def _most(metrics: Metrics) -> list[float]:
    """The most that rho of the last unlearned model may be, of each class, by the attacker that has arrived."""
    return [models[metrics["target"]]["high"] for models in metrics["rho"][STRONGEST[0]].values()]


def _distance(rho: Mapping[str, float | None]) -> float:
    """From 0 to the 95 % interval of a rho; 0 if it contains 0. An end that is None is infinite."""
    low, high = (-math.inf if rho["low"] is None else rho["low"]), (math.inf if rho["high"] is None else rho["high"])
    return max(low, -high, 0.0 * rho["rho"])


BASELINE, UNLEARNING, SEQUENTIAL, ATTACKS = "01_baseline", "02_ewc_unlearning", "03_sequential", "05_attacks"
METHODS, EVIDENCE = "07_methods", "08_evidence"
CLAIMS = (
    Claim("baseline: negative ELBO on test images, nats", BASELINE, "nelbo",
          lambda m: m["nelbo"], "<=", lambda m: 97.5),
    Claim("baseline: judge-B accuracy on samples", BASELINE, "accuracy",
          lambda m: m["accuracy"], ">=", lambda m: 0.96),
    Claim("judge A: accuracy on test images", BASELINE, "accuracy",
          lambda m: m["judges"]["A"]["accuracy"], ">=", lambda m: 0.99),
    Claim("judge B: accuracy on test images", BASELINE, "accuracy",
          lambda m: m["judges"]["B"]["accuracy"], ">=", lambda m: 0.99),
    Claim("forgotten: distance to gray", UNLEARNING, "gray",
          lambda m: m["forgotten"]["gray"], "<=", lambda m: LIMITS["gray"]),
    Claim("forgotten: judge-B probability of the class", UNLEARNING, "probability",
          lambda m: m["forgotten"]["probability"], "<=", lambda m: LIMITS["probability"]),
    Claim("retained: judge-B accuracy on samples", UNLEARNING, "accuracy",
          lambda m: m["retained"]["accuracy"], ">=",
          lambda m: m["retained"]["accuracy_baseline"] - LIMITS["accuracy_lost"]),
    Claim("retained: negative ELBO on test images, nats", UNLEARNING, "nelbo",
          lambda m: m["retained"]["nelbo"], "<=", lambda m: m["retained"]["nelbo_baseline"] + LIMITS["nats_lost"]),
    # Seconds depend on what else the machine does; the images that the steps and the Fisher see do not.
    Claim("unlearning: images seen, as a share of a training's", UNLEARNING, "share",
          lambda m: m["share"], "<=", lambda m: LIMITS["share"]),
    Claim("Fisher: seconds, in plain forward and backward passes", UNLEARNING, "ratio",
          lambda m: m["fisher_ratio"], "<=", lambda m: 1.5),
    Claim("one after another: largest distance to gray", SEQUENTIAL, "gray",
          lambda m: m["gray_most"], "<=", lambda m: LIMITS["gray"]),
    Claim("one after another: relapse, in distance to gray", SEQUENTIAL, "gray",
          lambda m: m["relapse"], "<=", lambda m: LIMITS["gray"]),
    Claim("one after another: judge-B accuracy on retained classes", SEQUENTIAL, "accuracy",
          lambda m: m["retained"]["accuracy"], ">=",
          lambda m: m["retained"]["accuracy_baseline"] - LIMITS["accuracy_lost"]),
    # Largest of several ends: each must be below the limit, so none needs a correction.
    Claim("attacks: end of the interval of ρ, y on the simplex", ATTACKS, "rho",
          lambda m: max(_most(m)), "<=", lambda m: LIMITS["rho_most"]),
    Claim("attacks: from 0 to the interval of ρ, never saw it", ATTACKS, "rho",
          lambda m: max(_distance(r) for threat in STRONGEST for seeds in m["held_out"][threat].values()
                        for r in seeds.values()), "<=", lambda m: MARGIN),
    Claim("methods: judge B sees the class, ewc_gray and unseen", METHODS, "probability",
          lambda m: max(m["models"][name]["probability"] for name in ("ewc_gray", "unseen")), "<=",
          lambda m: m["models"]["retrain"]["probability"] + LIMITS["probability"]),
    Claim("methods: nats on retained classes, unseen", METHODS, "nelbo",
          lambda m: m["models"]["unseen"]["nelbo"], "<=",
          lambda m: m["models"]["baseline"]["nelbo"] + LIMITS["nats_lost"]),
    # Of all digits together, and stated after the first numbers. The ends of 95 % intervals over seeds; "near 0" is
    # held to the 90 % interval, as two one-sided tests at 5 %. The protocol's claims are on the page of the chapter.
    Claim("evidence: least of ρ that mending brings back, ewc_gray", EVIDENCE, "rho",
          lambda m: m["back"]["ewc_gray"]["low"], ">=", lambda m: 0.0, COMMITTED),
    Claim("evidence: least ρ after mending, ewc_gray", EVIDENCE, "rho",
          lambda m: m["sums"]["ewc_gray"]["mended"]["low"], ">=", lambda m: 0.0, COMMITTED),
    Claim("evidence: distance of ρ from 0 after mending, unseen", EVIDENCE, "rho",
          lambda m: max(m["sums"]["unseen"]["mended"]["high90"], -m["sums"]["unseen"]["mended"]["low90"]), "<=",
          lambda m: MARGIN, COMMITTED),
    Claim("evidence: most nats lost on retained classes, ewc_gray", EVIDENCE, "nats_lost",
          lambda m: m["nats"]["ewc_gray"]["high"], "<=", lambda m: LIMITS["nats_lost"], COMMITTED),
)


def verdicts(chapter: str, metrics: Metrics) -> pd.DataFrame:
    """The claims about a chapter, held to its metrics, for its page.

    Args:
        metrics: with the run's `parameters`.

    Returns:
        Index `claim`; columns `measured`, `limit` and `verdict`, all text. A claim whose number the run lacks, or
        could not define, reads "not measured".
    """
    check_types(metrics=(metrics, Mapping))
    rows = [{"claim": claim.name, **_row(claim, metrics)} for claim in CLAIMS if claim.chapter == chapter]
    return pd.DataFrame(rows).set_index("claim") if rows else pd.DataFrame()


def _row(claim: Claim, metrics: Metrics) -> dict[str, str]:
    try:
        return {"measured": write(claim.measure, claim.value(metrics)),
                "limit": f"{'≤' if claim.sign == '<=' else '≥'} {write(claim.measure, claim.limit(metrics))}",
                "verdict": claim.verdict(metrics)}
    except (LookupError, TypeError, ValueError):
        return {"measured": "–", "limit": "–", "verdict": UNMEASURED}


def report_card(model: str, never: Sequence[str], summary: pd.DataFrame, rho: Mapping[tuple[int, str], Residual],
                guided: pd.DataFrame, relearned: pd.DataFrame, unfinished: Sequence[str] = (),
                drawn: pd.DataFrame | None = None) -> pd.DataFrame:
    """The report card of one model: a row for each question, with the number and the answer.

    Args:
        model: its name in the tables.
        never: the names of its controls, which never saw the forgotten classes.
        summary: of `evaluation.summary`, against the baseline.
        rho: (class, threat, ...) -> rho of an attack on the model's inputs.
        guided: success of the guided attack, 0-1; index class; columns: the model, and at least one control.
        relearned: mean accuracy while the class is learned again, 0-1; index and columns as in `guided`.
        unfinished: names of the attacks that have not arrived and are not in `rho`. With one, a model is gone only
            under the others.
        drawn: judge B's probability of a class in what the mended models draw for its label, 0-1; index and columns
            as in `guided`.

    Returns:
        Index `question`; columns `measured`, `limit or control` and `answer`, all text. A control's number is the
        mean over the controls in its table.

    A question whose number is missing, since its part of the report failed, is answered "not measured".

    Raises:
        ValueError: the summary lacks the model.
    """
    check_types(summary=(summary, pd.DataFrame), rho=(rho, Mapping), guided=(guided, pd.DataFrame),
                relearned=(relearned, pd.DataFrame))
    check_name(summary.index, model=model)
    numbers = summary.loc[model]
    rows = [(question, write(measure, numbers[measure]), f"≤ {write(measure, LIMITS[measure])}",
             _answer(numbers[measure] - LIMITS[measure], 0, above, below, below))
            for question, measure, below, above in LIMITED]
    # The model is gone only if it is for every attack. An attack without a rho says nothing.
    (k, *attack), worst = min(rho.items(), key=lambda item: (
        not item[1].defined, VERDICTS.index(verdict(item[1])), -item[1].rho), default=(("none", "no attack"), None))
    rows.append((f"residue: ρ of the worst attack ({', '.join(map(str, (k, *attack)))})", str(worst or "–"),
                 f"0 ± {MARGIN}", verdict(worst) if worst else UNMEASURED))
    if unfinished:
        if rows[-1][-1] == "gone":
            rows[-1] = (*rows[-1][:-1], "gone under these attacks")
        rows.append(("residue: attacks that have not arrived", "; ".join(unfinished), "none", "no verdict"))
    for k, probability, control in _controlled(drawn, model, never) if drawn is not None else []:
        spread = LIMITS["probability"]
        rows.append((f"label {k} when mended: judge B's probability", write("probability", probability),
                     f"never saw: {write('probability', control)} + {spread}",
                     _answer(probability - control, spread, "back", "not back", "not back")))
    for k, success, control in _controlled(guided, model, never):
        rows.append((f"guided attack on {k}: success", write("success", success),
                     f"never saw: {write('success', control)}",
                     _answer(success - control, 0, "more often", "less often", "as often")))
    for k, accuracy, control in _controlled(relearned, model, never):
        spread = LIMITS["relearning"]
        rows.append((f"relearning of {k}: mean accuracy", write("relearning", accuracy),
                     f"never saw: {write('relearning', control)} ± {spread}",
                     _answer(accuracy - control, spread, "faster", "slower", "as fast")))
    return pd.DataFrame(rows, columns=["question", "measured", "limit or control", "answer"]).set_index("question")


def _answer(difference: float, spread: float, more: str, less: str, same: str) -> str:
    """The word for a difference beyond a spread, or within it; `UNMEASURED` if a number is missing."""
    if math.isnan(difference):
        return UNMEASURED
    return same if abs(difference) <= spread else more if difference > 0 else less


UNMEASURED = "not measured"
# The questions of a report card that have a limit: each with its measure, and the answers below and above the limit.
LIMITED = (("forgotten: judge B's probability", "probability", "forgotten", "not forgotten"),
           ("gray: distance to gray", "gray", "gray", "not gray"),
           ("cost: nats lost on the retained classes", "nats_lost", "within the limit", "above the limit"),
           ("cost: points of accuracy lost on them", "points_lost", "within the limit", "above the limit"))


def _controlled(table: pd.DataFrame, model: str, never: Sequence[str]) -> list[tuple[int, float, float]]:
    """For each class: the model's number, and the mean of its controls' numbers; NaN if it was not measured."""
    columns = table.reindex(columns=[model, *never])
    return list(zip(table.index, columns[model], columns[[*never]].mean(axis=1), strict=True))


def outcomes(summary: pd.DataFrame, rho: Mapping[str, Mapping[str, Residual]], never: float = 0.0) -> pd.DataFrame:
    """How each method ended, in numbers and in words.

    Args:
        summary: of `evaluation.summary`, against the baseline; a row for each method, and for the reference.
        rho: threat -> method -> rho.
        never: judge B's probability of the class for a model that never saw it.

    Returns:
        Index as in `summary`; columns

        - `probability`, and `forgotten`: "yes" or "no", see `is_forgotten`, of what it is above `never`;
        - one for each threat: `residual.wording` of its rho, or rho itself where one control gives no interval;
        - `nats_lost` on the retained classes, and `cost`: whether its limit is "kept" or "exceeded".
    """
    check_types(summary=(summary, pd.DataFrame), rho=(rho, Mapping))
    check_number(never=never)
    forgotten = ["yes" if is_forgotten(value - never) else "no" for value in summary["probability"]]
    residue = {threat: [write("rho", residuals[name].rho) if residuals[name].controls == 1 else wording(residuals[name])
                        for name in summary.index] for threat, residuals in rho.items()}
    cost = ["kept" if value <= LIMITS["nats_lost"] else "exceeded" for value in summary["nats_lost"]]
    return summary[["probability"]].assign(forgotten=forgotten, **residue, nats_lost=summary["nats_lost"], cost=cost)


def check(run_dir: Path, claims: Sequence[Claim] = CLAIMS) -> list[str]:
    """Hold a run's numbers to the claims; print a line for each claim.

    Returns:
        the names of the claims that do not hold.

    Raises:
        FileNotFoundError: a chapter has left no metrics in the run.
        ValueError: its metrics are damaged, or lack the number of a claim.
    """
    failed = []
    for claim in claims:
        metrics = read_metrics(run_dir, claim.chapter)
        try:
            numbers = f"{claim.value(metrics):9.4f} {claim.sign} {claim.limit(metrics):9.4f}"
            verdict, claimed, holds = claim.verdict(metrics), not claim.others(metrics), claim.holds(metrics)
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"the metrics of {claim.chapter} in {run_dir} must have the number of "
                             f"'{claim.name}', got {shorten(error)}") from None
        print(f"{claim.name:57} {numbers}  {verdict.upper() if claimed and not holds else verdict}")
        if claimed and not holds:
            failed.append(claim.name)
    return failed
