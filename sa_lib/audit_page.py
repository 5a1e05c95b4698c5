"""The page of an audit: one HTML file without scripts or other files, for dark mode and for a phone too.

The finding comes first, then the number line of rho, the intervals by each attack, the losses if there are any, and how
to read all of them.
"""

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

__all__ = ["number_line", "page"]

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --soft: #5c5c5c; --line: #d4d4d4; --mark: #0b5cad;
  --zone: #d9efdc; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --paper: #15171a; --soft: #a9adb3; --line: #3c4046;
  --mark: #7db8f5; --zone: #1f4027; } }
body { margin: 0 auto; padding: 1rem; max-width: 46rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
svg { display: block; width: 100%; max-width: 32rem; height: auto; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; paint-order: stroke; stroke: var(--paper);
  stroke-width: 3px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; overflow-wrap: normal;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; } .soft { color: var(--soft); font-size: .9rem; }
code { font-size: .85em; }
"""

MEANINGS = {
    "ρ": "How much of the class is left: (E_never − E_subject) / (E_never − E_baseline), with E the attacker's mean "
         "error. 0: the attacker gets no more than from models that never saw the class. 1: as much as from the "
         "baseline, as if nothing had been forgotten. Below 0: less than from models that never saw it.",
    "95% interval": "All ρ that these models and images do not rule out, by Fieller's method. With one unlearned "
                     "model it is about this model; with several, about the method that made them.",
    "verdict": "Gone: ρ is within the margin of 0, by two one-sided tests at 5 %, as the model is and mended; gone as "
               "it is: it was not mended. Residue: the interval lies above 0. Over-forgotten: it lies below. "
               "Inconclusive: the interval is too wide. Unresolved: the controls differ too much among themselves, or "
               "reproduce the class. Undefined: the baseline is no better than the controls. Not converged: the "
               "attacker has not arrived.",
    "mended": "After a little further training on the other classes, the same for the model and the controls. Damage "
              "can hide a class, and mending brings it back.",
    "power": "The probability of “gone” with these controls and images if ρ is 0.",
    "resolution": "The gap between the controls and the baseline in units of the controls' spread. Below 5 there is "
                  "no verdict.",
    "shortfall": "The share of the mean error by which ten times the rounds lower it. Above 2 % there is no verdict.",
    "reach": "The controls' mean error as a share of the images' variance. Below 1 %, models that never saw the class "
             "reproduce its images, and there is no verdict.",
}
# Limits of the number line.
LOWEST, HIGHEST = -2.0, 2.5
WIDTH, ROW, TOP = 360, 34, 30


def page(report: Any) -> str:
    """The page of a report, an `audit_report.Report`."""
    facts = report.asdict()
    finding = facts["findings"][facts["threat"]]
    roles = ", ".join(f"{len(names)} {role}" for role, names in facts["models"].items())
    threats = {name: _row(one) for name, one in facts["findings"].items()}
    means = {model: {"role": role, **{threat: f"{its[model]:.4g}" for threat, its in facts["mean_errors"].items()}}
             for role, names in facts["models"].items() for model in names}
    title = f"ρ = {_rho(finding)}: {facts['verdict']}"
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(report.sentence)} The attack that decides: {escape(facts['threat'])}.</p>",
        number_line(facts["findings"], facts["margin"]),
        "<h2>By each attack</h2>",
        _table(threats, "attack", f"ρ with its 95% interval, from {facts['images']} images. Margin: "
                                        f"{facts['margin']:g}."),
        "<ul>", *(f"<li>{escape(name)}: {escape(one['advice'])}.</li>" for name, one in facts["findings"].items()),
        "</ul>\n<h2>Mean errors</h2>", _table(means, "model", f"The models: {roles}."),
        *_losses(facts["losses"]), "<h2>How to read the numbers</h2>\n<dl>",
        *(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in MEANINGS.items()),
        "</dl>\n<h2>The limits of this page</h2>\n<ul>",
        f"<li>The attacker: {escape(facts['attacker'])}.{escape(_settings(facts['settings']))}</li>",
        *(f"<li>{escape(note)}</li>" for note in facts["notes"]),
        "<li>The page is about these attacks. No attack proves that there is no better one.</li>",
        '</ul>\n<h2>Digests</h2>\n<p class="soft">SHA-256 of everything that the page is about.</p>',
        '<ul class="soft">',
        *(f"<li>{escape(name)}: <code>{escape(digest)}</code></li>" for name, digest in facts["digests"].items()),
        f'</ul>\n<p class="soft">{escape(facts["schema"])}, {escape(facts["library"])}</p>',
        "</main>\n</body>\n</html>", ""])


def number_line(findings: Mapping[str, Mapping[str, Any]], margin: float) -> str:
    """rho and its 95 % interval by each attack on one line of numbers, as inline SVG.

    Args:
        findings: name -> the JSON values of a finding. An end that is None is infinite; with a rho that is
            None, there is no point.
    """
    known = [value for one in findings.values() for value in (one["rho"], one["low"], one["high"]) if value is not None]
    low = max(LOWEST, min([-0.5, *known]) - 0.1)
    high = min(HIGHEST, max([1.2, *known]) + 0.1)

    def x(value: float) -> float:
        return 10 + (WIDTH - 20) * (min(max(value, low), high) - low) / (high - low)

    bottom = TOP + ROW * len(findings)
    parts = [f'<rect x="{x(-margin):.1f}" y="{TOP - 6}" width="{x(margin) - x(-margin):.1f}" '
             f'height="{bottom - TOP + 6}" fill="var(--zone)"/>']
    for value, name in ((0, "0: never saw"), (1, "1: baseline")):
        parts.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP - 6}" y2="{bottom}" '
                     f'stroke="var(--soft)" stroke-dasharray="3 3"/>'
                     f'<text x="{x(value):.1f}" y="{TOP - 12}" text-anchor="middle">{name}</text>')
    for row, (name, one) in enumerate(findings.items()):
        y = TOP + ROW * row + 24
        parts.append(f'<text x="10" y="{y - 10}">{escape(name)}: {escape(_rho(one))}</text>')
        if one["rho"] is None:
            continue
        if one["spread"] is not None:  # without a spread there is no interval
            ends = (one["low"] if one["low"] is not None else -math.inf,
                    one["high"] if one["high"] is not None else math.inf)
            parts.append(f'<line x1="{x(ends[0]):.1f}" x2="{x(ends[1]):.1f}" y1="{y}" y2="{y}" stroke="var(--mark)" '
                         'stroke-width="3"/>')
        parts.append(f'<circle cx="{x(one["rho"]):.1f}" cy="{y}" r="5" fill="var(--mark)"/>')
    said = "; ".join(f"{name}: {_rho(one)}" for name, one in findings.items())
    return (f'<svg viewBox="0 0 {WIDTH} {bottom + 6}" role="img" aria-label="{escape(f"Number line of rho. {said}")}">'
            + "".join(parts) + "</svg>")


def _losses(losses: Mapping[str, Any] | None) -> list[str]:
    """The section on membership inference and relearning; empty without a loss."""
    if losses is None:
        return []
    membership, relearning = losses["membership"], losses["relearning"]
    rows = {name: {"AUC of membership": f"{auc:.3f} ± {membership['standard_error'][name]:.3f}"}
            for name, auc in membership["auc"].items()}
    caption = f"AUC with its standard error, from {losses['seen']} training images of the class; 0.5 tells nothing."
    if relearning:
        for name, path in relearning["loss"].items():
            rows[name] |= {"loss at first": f"{path[0]:.4g}", "after relearning": f"{path[-1]:.4g}",
                           "mean along the way": f"{relearning['mean_loss'][name]:.4g}"}
        caption += (f" Losses of held-out images, before and after {relearning['steps'][-1]} updates on the training "
                    "images.")
    told = [one["meaning"] for one in (membership, relearning) if one]
    return ["<h2>More than inputs: losses</h2>", *(f"<p>{escape(text)}</p>" for text in told),
            _table(rows, "model", caption),
            '<p class="soft">These numbers do not change the verdict. Membership inference treats all images alike, '
            "and attacks on single images are stronger, so an AUC of 0.5 proves no privacy.</p>"]


def _settings(settings: Mapping[str, Any]) -> str:
    flat = {**settings, **settings.get("search", {})}
    told = (f"{name} {value}" for name, value in flat.items() if name not in ("search", "threats", "attacker"))
    return f" Its settings: {', '.join(told)}." if settings else ""


def _rho(one: Mapping[str, Any]) -> str:
    if one["rho"] is None:
        return "undefined"
    if one["spread"] is None:
        return f"{one['rho']:+z.2f} (no interval)"
    ends = [f"{end:+z.2f}" if end is not None else sign + "∞" for end, sign in ((one["low"], "−"), (one["high"], "+"))]
    return f"{one['rho']:+z.2f} [{', '.join(ends)}]"


def _row(one: Mapping[str, Any]) -> dict[str, str]:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return {"ρ": _rho(one), "verdict": one["verdict"], "power": number(one["power"], ".0%"),
            "controls": f"{one['controls']}", "needed": number(one["controls_needed"], ".0f"),
            "resolution": number(one["resolution"], ".0f"), "shortfall": number(one["shortfall"], ".1%"),
            "reach": number(one["reach"], ".1%")}


def _table(rows: Mapping[str, Mapping[str, str]], name: str, caption: str) -> str:
    def cells(kind: str, values: Iterable[str]) -> str:
        return "".join(f"<{kind}>{escape(value)}</{kind}>" for value in values)

    head = f"<tr>{cells('th', [name, *next(iter(rows.values()))])}</tr>"
    body = "".join(f"<tr>{cells('td', [key, *row.values()])}</tr>" for key, row in rows.items())
    return (f'<p class="soft">{escape(caption)}</p>\n<div class="wide" tabindex="0" role="region" '
            f'aria-label="{escape(caption)}"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>')
