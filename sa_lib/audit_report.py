"""The report of an audit: rho of one model by each attack, the verdict, and their JSON, page and figure.

`sa_lib.audit` makes it, `sa_lib.audit_page` writes its page.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__
from .audit_loss import Losses
from .checks import check_types
from .residual import (
    CONVERGED,
    MARGIN,
    RESOLUTION,
    VERDICTS,
    Residual,
    is_equivalent,
    power,
    seeds_needed,
    verdict,
    wording,
)
from .store import write_atomically
from .threats import AttackResult

__all__ = ["MENDED", "REACH", "ROLES", "SCHEMA", "Finding", "Report"]

SCHEMA = "sa-audit/3"
ROLES = ("baseline", "subject", "never")
NOT_CONVERGED = "not converged"
# The end of the name of a finding about the models after mending.
MENDED = ", mended"
GONE_AS_IT_IS = "gone as it is"
# Models that never saw the class come this near to its images, as a share of the images' variance: their range holds
# nearly any image, and the attack tells nothing.
REACH = 0.01
# Of several findings, the first counts. An attack without a rho says nothing, so it is last.
ORDER = ("residue", NOT_CONVERGED, *(word for word in VERDICTS if word not in ("residue", "undefined")), "undefined")


@dataclass(frozen=True)
class Finding:
    """rho of the subject under one threat model.

    Attributes:
        shortfall: the share of the mean error by which ten times the rounds lower it, the larger of a subject's and a
            control's; NaN if it was not measured, as where the errors come from another attacker.
        margin: see `residual.MARGIN`.
        reach: the controls' mean squared error as a share of the images' variance; NaN if it is not known.
    """

    residual: Residual
    shortfall: float = math.nan
    margin: float = MARGIN
    reach: float = math.nan

    @property
    def verdict(self) -> str:
        """As `residual.verdict`.

        It is "unresolved" too where the reach is below `REACH`, and else "not converged" where the shortfall is above
        `residual.CONVERGED`.
        """
        if self.reach < REACH:
            return "unresolved"
        return NOT_CONVERGED if self.shortfall > CONVERGED else verdict(self.residual, self.margin)

    @property
    def wording(self) -> str:
        """The verdict, as `residual.wording` has it."""
        return wording(self.residual, self.margin) if self.verdict == "inconclusive" else self.verdict

    @property
    def needed(self) -> float:
        """Controls that would settle it, see `residual.seeds_needed`."""
        return seeds_needed(self.residual, self.margin)

    @property
    def power(self) -> float:
        """The probability of "gone" with these controls if rho is 0, see `residual.power`."""
        return power(self.residual, self.margin)

    @property
    def advice(self) -> str:
        """The verdict in a sentence, with the way on where it is open."""
        several = f"{self.needed:g} controls and unlearned models" if self.residual.models > 1 else f"{self.needed:g}"
        count = f"{self.residual.controls} {'control' if self.residual.controls == 1 else 'controls'}"
        return {
            "gone": f"no more is left than in models that never saw the class, within {self.margin:g}",
            "residue": "the attacker gets more from the model than from models that never saw the class",
            "over-forgotten": "the model is worse at the class than models that never saw it; damage can hide "
                              "knowledge, so audit it again after more training on the other classes",
            "undefined": "the baseline is no better at the class than models that never saw it, so there is nothing "
                         "to measure against",
            "unresolved": f"models that never saw the class reproduce its images, to {self.reach:.2%} of their "
                          "variance: their range holds nearly any image, so this attack tells nothing; confine the "
                          "inputs, or give losses as errors" if self.reach < REACH else
                          f"the controls differ too much among themselves: the gap to the baseline is "
                          f"{self.residual.resolution:.1f} times their spread, and at least {RESOLUTION} are needed",
            "no interval": "one control says nothing about chance; two give an interval, and about nine usually give "
                           "a verdict",
            "inconclusive": f"inconclusive with {count}; " + (
                f"about {several} would probably do if nothing is left" if math.isfinite(self.needed)
                else "more controls alone would not do, it takes more images"),
            NOT_CONVERGED: f"ten times the rounds lower the attacker's error by {self.shortfall:.1%}; with more than "
                           f"{CONVERGED:.0%}, there is no verdict: give the attacker more rounds",
        }[self.verdict]

    def asdict(self) -> dict[str, Any]:
        """All of the above as JSON values; None for a number that is not finite."""
        numbers = {"shortfall": self.shortfall, "controls_needed": self.needed, "power": self.power,
                   "reach": self.reach}
        return {**self.residual.asdict(), "verdict": self.verdict, "advice": self.advice,
                **{name: value if math.isfinite(value) else None for name, value in numbers.items()}}


@dataclass(frozen=True, eq=False)
class Report:
    """The result of an audit. Its `rho` is that of the finding that decides; NaN if it is undefined.

    Attributes:
        findings: by threat model, from the least free one on; at least one. Behind each may come one about the models
            after mending, whose name ends with `MENDED`.
        roles: role -> names of its models; see `ROLES`.
        errors: name of a finding -> model -> the attacker's errors [N], float64, on the same images for all.
        images: names of the N images.
        attacker: of whom the errors are.
        digests: name -> SHA-256 (hex) of an input: a file, the errors, the images, the behavior of a model.
        settings: those of the attack, as JSON values; empty where it is not known.
        notes: sentences on the conduct of this audit that a reader of its numbers must know.
        targets: the images [N, ...], where the audit had them.
        answers: name of a finding -> the attacker's best inputs for the subject, where the audit had its decoder.
        losses: membership inference and relearning, where the audit had a loss. They do not change the verdict.
    """

    findings: Mapping[str, Finding]
    roles: Mapping[str, tuple[str, ...]]
    errors: Mapping[str, Mapping[str, torch.Tensor]]
    images: tuple[str, ...]
    attacker: str
    digests: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    targets: torch.Tensor | None = None
    answers: Mapping[str, AttackResult] = field(default_factory=dict)
    losses: Losses | None = None

    @property
    def threat(self) -> str:
        """The finding that decides: of those whose verdict is the first in the order, the one of largest rho.

        The order: residue, not converged, no interval, unresolved, inconclusive, over-forgotten, gone, undefined. So
        one residue is a residue, and a class is gone only if it is under every threat model with a rho, as the model is
        and mended.
        """
        return min(self.findings, key=lambda name: (ORDER.index(self.findings[name].verdict),
                                                    -np.nan_to_num(self.findings[name].residual.rho)))

    @property
    def finding(self) -> Finding:
        """The one that decides."""
        return self.findings[self.threat]

    @property
    def rho(self) -> float:
        """That of the finding that decides; NaN if it is undefined."""
        return self.finding.residual.rho

    @property
    def equivalence(self) -> bool:
        """Whether rho is within the margin of 0 in every finding, by two one-sided tests at 5 %."""
        return all(is_equivalent(finding.residual, finding.margin) for finding in self.findings.values())

    @property
    def mended(self) -> bool:
        """Whether there are findings about the models after mending."""
        return any(name.endswith(MENDED) for name in self.findings)

    @property
    def verdict(self) -> str:
        """That of the finding that decides; "gone as it is" in place of "gone" where nothing was mended."""
        word = self.finding.verdict
        return GONE_AS_IT_IS if word == "gone" and not self.mended else word

    @property
    def advice(self) -> str:
        """That of the finding that decides."""
        more = "; damage can hide a class, so audit the model mended too" if self.verdict == GONE_AS_IT_IS else ""
        return self.finding.advice + more

    @property
    def sentence(self) -> str:
        """The verdict and the way on, for a person to read."""
        advice = self.advice
        text = advice if advice.startswith(self.verdict) else f"{self.verdict}: {advice}"
        return f"{text[0].upper()}{text[1:]}."

    def asdict(self) -> dict[str, Any]:
        """The report as JSON values, without the errors of single images and the attacker's inputs."""
        return {
            "schema": SCHEMA, "library": f"sa_lib {__version__}", "verdict": self.verdict,
            "advice": self.advice, "mended": self.mended, "rho": self.rho if math.isfinite(self.rho) else None,
            "equivalence": self.equivalence, "margin": self.finding.margin, "threat": self.threat,
            "findings": {name: finding.asdict() for name, finding in self.findings.items()},
            "models": {role: list(names) for role, names in self.roles.items()}, "images": len(self.images),
            "mean_errors": {threat: {model: float(values.mean()) for model, values in models.items()}
                            for threat, models in self.errors.items()},
            "losses": self.losses and self.losses.asdict(),
            "attacker": self.attacker, "settings": dict(self.settings), "notes": list(self.notes),
            "digests": dict(self.digests)}

    def to_json(self) -> str:
        """The report as JSON text; `schema` names its version, and null stands for a number that is not finite."""
        return json.dumps(self.asdict(), indent=1, ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """The report as one page that needs no other file."""
        from .audit_page import page
        return page(self)

    def save_inputs(self, path: str | Path) -> None:
        """Write the attack on the subject to an .npz file, to repeat it or to train against it.

        Its arrays: `targets` [N, ...], and for each finding `<name>/z`, `/y`, `/images` and `/errors`, a row for each
        target.

        Raises:
            ValueError: the report is of errors alone, so there are no inputs.
        """
        check_types(path=(path, (str, Path)))
        if not self.answers:
            raise ValueError("report must be of a decoder that was attacked here, got one of errors alone")
        arrays = {"targets": self.targets.cpu().numpy()}
        for threat, answer in self.answers.items():
            parts = {"z": answer.z[-1], "y": answer.y[-1], "images": answer.images[-1], "errors": answer.errors}
            arrays |= {f"{threat}/{name}": part.cpu().numpy() for name, part in parts.items()}
        with write_atomically(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def figure(self):
        """rho and its 95 % interval of each finding, as a figure of Matplotlib, which must be there."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 1 + 0.5 * len(self.findings)), layout="constrained")
        axes = figure.add_subplot()
        margin = self.finding.margin
        axes.axvspan(-margin, margin, color="tab:green", alpha=0.2)
        axes.axvline(0, color="gray"), axes.axvline(1, color="gray", linestyle=":")
        for row, finding in enumerate(self.findings.values()):
            residual = finding.residual
            ends = np.clip([residual.low, residual.high], -3, 3)
            axes.plot(ends, [row, row], color="tab:blue"), axes.plot(residual.rho, row, "o", color="tab:blue")
        axes.set_yticks(range(len(self.findings)), list(self.findings))
        axes.set_xlabel("ρ: 0 as never seen, 1 as the baseline")
        axes.invert_yaxis()
        return figure
