"""Parts of pages with numbers that no chapter measures: the speed of the library, and the counts of its tests.

The numbers come from the files that `make bench` and `make torture` write into ``results/``.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figures import PALETTE, WIDTH, in_book_style
from ..figures.style import SMALL
from .work import Task, alone, makespan, ranks

__all__ = ["speed", "table", "torture"]

Bench = Mapping[str, Any]
MINUTES = {2: 15, 8: 5}  # the goals for a book from an empty store, by the number of cores
ALONE = 8  # the goal for a chapter alone on two cores, in minutes


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *([str(text).replace("|", "\\|") for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(bench: Bench, group: str, name: str) -> float:
    """A row's time divided by the time of the first row in its group."""
    return next(row["ratio"] for row in bench[group]["rows"] if row["name"] == name)


# Measure, format, goal, whether larger is better, and the function that reads the value off the results.
GOALS: list[tuple[str, str, float, bool, Callable[[Bench], float]]] = [
    ("Fisher, mlp, against a plain pass", "{:.2f} ×", 1.05, False, lambda b: _ratio(b, "Fisher, mlp", "ours")),
    ("Fisher, conv, against a plain pass", "{:.2f} ×", 2, False, lambda b: _ratio(b, "Fisher, conv", "ours")),
    ("Training step against its matrix products", "{:.2f} ×", 1.25, False,
     lambda b: _ratio(b, "Training step, mlp", "ours")),
    ("Usual loop against a training step", "{:.2f} ×", 3, True,
     lambda b: _ratio(b, "Training step, mlp", "usual loop") / _ratio(b, "Training step, mlp", "ours")),
    ("Unlearning against training", "{:.1%}", 0.25, False, lambda b: b["Unlearning, mlp"]["share"]),
    ("Speed of a sweep with two workers against one", "{:.2f} ×", 1.8, True, lambda b: b["Sweep"]["ratio"]),
    ("Embedding of 10,000 points", "{:.1f} s", 30, False, lambda b: b["t-SNE"]["rows"][0]["seconds"]),
    ("Import beyond PyTorch's own", "{:.2f} s", 0.3, False, lambda b: b["Import"]["sa_lib"]),
]


def speed(path: Path, folder: Path, seconds: Mapping[str, float], tasks: Sequence[Task]) -> dict[str, str]:
    """The parts of the page on speed, in Markdown: name -> part.

    Args:
        path: of the file that `make bench` wrote.
        folder: for the page's figures, next to the folder of the page.
        seconds: chapter -> its seconds in the run that is rendered.
        tasks: of this run, with the seconds that they took, see `times.recorded`.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: it lacks a group.
    """
    bench = json.loads(path.read_text(encoding="utf-8"))
    groups = bench["groups"]
    return {"machine": _machine(bench), "goals": _goals(groups), "fisher": _fisher(groups, folder),
            "training": _compared(groups["Training step, mlp"]),
            "half": _half(groups.get("bfloat16")),
            "unlearning": _unlearning(groups["Unlearning, mlp"]),
            "attacks": _attacks(groups["Attack, mlp"]), "embedding": _embedding(groups.get("t-SNE")),
            "growth": _growth(groups, folder), "profile": _profile(groups["Profile, mlp"]["shares"]),
            "install": _install(groups), "book": _book(seconds), "cores": _cores(tasks),
            "gpu": _gpu(path.with_name("gpu.json"))}


def _time(seconds: float) -> str:
    """Seconds, with three digits, in s, ms or µs."""
    unit, factor = next((pair for pair in (("s", 1), ("ms", 1e3)) if seconds * pair[1] >= 1), ("µs", 1e6))
    return f"{seconds * factor:.3g} {unit}"


def _compared(group: Mapping[str, Any], first: str = "") -> str:
    """The rows of a group as a table: time per unit, and its ratio to the first row's."""
    rows = group["rows"]
    return table(["", f"time for one {group['unit']}", f"against {first or rows[0]['name']}"],
                 [(row["name"], _time(row["seconds"]), f"{row['ratio']:.2f} ×") for row in rows])


def _figure(figure: Figure, name: str, folder: Path, caption: str, alt: str) -> str:
    figure.savefig(folder / f"speed-{name}.png", dpi=240, facecolor="white")
    return (f"```{{figure}} ../figures/speed-{name}.png\n:alt: {alt}\n:width: {int(120 * figure.get_figwidth())}px\n"
            f"{caption}\n```")


def _machine(bench: Mapping[str, Any]) -> str:
    machine = bench["machine"]
    tools = ", ".join(f"{name} {version}" for name, version in bench["tools"].items() if version) or "none"
    return (f"Measured {bench['date']} on {machine['processor']}, cores: {machine['cores']}, threads: "
            f"{bench['threads']}; Python {machine['python']}, PyTorch {machine['torch']}. Other tools: {tools}.")


def _gpu(path: Path) -> str:
    """Seconds on the clock of the larger works, on a GPU and on a core of the same machine, if they were measured."""
    if not path.is_file():
        return "Not measured yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    machine, seconds = found["machine"], found["seconds"]
    rows = [(name, _time(seconds["core"][name]) if name in seconds["core"] else "", _time(own))
            for name, own in seconds["gpu"].items()]
    about = (f"Measured {found['date']} on {machine['processor']}, cores: {machine['cores']}, and on a GPU; Python "
             f"{machine['python']}, PyTorch {machine['torch']}. Other work ran on the other cores.")
    return about + "\n\n" + table(["", f"a core of {machine['processor']}", found["gpu"]], rows)


def _goals(groups: Bench) -> str:
    rows = []
    for measure, form, goal, more, read in GOALS:
        limit = f"{'at least' if more else 'at most'} {form.format(goal)}"
        try:
            value = read(groups)
        except KeyError:
            rows.append((measure, limit, "not measured", ""))
            continue
        reached = value >= goal if more else value <= goal
        measured = form.format(value)
        if not reached and measured == form.format(goal):  # by less than the digits show
            measured = f"just {'below' if more else 'above'} {measured}"
        rows.append((measure, limit, measured, "reached" if reached else "**missed**"))
    counts = {word: sum(word in row[3] for row in rows) for word in ("reached", "missed")}
    return "\n\n".join([f"Reached: {counts['reached']} of {len(rows)}; missed: {counts['missed']}.",
                        table(["", "goal", "measured", ""], rows)])


@in_book_style
def _fisher(groups: Bench, folder: Path) -> str:
    kinds = {kind: groups[f"Fisher, {kind}"]["rows"] for kind in ("mlp", "conv")}
    names = [row["name"] for row in kinds["mlp"]]
    figure = Figure(figsize=(WIDTH, 2 * (0.28 * len(names) + 0.7)), layout="constrained")
    for axes, (kind, rows) in zip(figure.subplots(2, 1), kinds.items()):
        axes.barh([row["name"] for row in rows], [row["ratio"] for row in rows],
                  color=[PALETTE[1] if row["name"] == "ours" else PALETTE[0] for row in rows])
        for place, row in enumerate(rows):
            axes.annotate(f"{row['ratio']:.3g}", (row["ratio"], place), (3, 0), textcoords="offset points",
                          va="center", fontsize=SMALL)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0.5, 5 * max(row["ratio"] for row in rows))
        axes.set_title(kind)
        axes.invert_yaxis()
        axes.set_xlabel("time against a plain pass")
        axes.spines[["top", "right"]].set_visible(False)
    best = {kind: min((row for row in rows if row["name"] not in ("ours", "floor")), key=lambda row: row["ratio"])
            for kind, rows in kinds.items()}
    caption = "; ".join(
        f"{kind}: ours takes {_ratio(groups, f'Fisher, {kind}', 'ours'):.2f} times as long as a plain pass, the "
        f"fastest other tool, {other['name']}, {other['ratio']:.2f} times" for kind, other in best.items()) + "."
    worst = max(row["error"] for rows in kinds.values() for row in rows if row["error"] is not None)
    parts = [_figure(figure, "fisher", folder, caption, "Two panels of bars on logarithmic axes, for mlp and conv: the "
                     f"time of a Fisher diagonal against that of a plain pass, for {', '.join(names)}.")]
    parts += [f"{kind}, {_time(rows[0]['seconds'])} an image for the plain pass: " + ", ".join(
        f"{row['name']} {_time(row['seconds'])}" for row in rows[1:]) + "." for kind, rows in kinds.items()]
    parts.append(f"All agree: the largest relative difference to the gradients of one image at a time is {worst:.0e}.")
    return "\n\n".join(parts)


def _half(group: Mapping[str, Any] | None) -> str:
    if group is None:
        return "It was not measured: the processor lacks bfloat16, or MNIST was missing."
    full, half, step = group["full"], group["half"], group["rows"][1]
    change = sum(half) / len(half) - sum(full) / len(full)
    ends = [" and ".join(f"{nats:.2f}" for nats in one) for one in (half, full)]
    return (f"With products in bfloat16, a step takes {_time(step['seconds'])}, {step['ratio']:.2f} times its time in "
            f"float32. Full trainings on MNIST with it end at {ends[0]} nats per test image, trainings in float32 from "
            f"the same seeds at {ends[1]}: {change:+.2f} on the mean. The seed alone makes a difference of "
            f"{max(full) - min(full):.2f}.")


def _unlearning(group: Mapping[str, Any]) -> str:
    return "\n\n".join([
        _compared(group),
        f"The {group['unlearning steps']} steps of unlearning take {group['share']:.1%} of the time of the "
        f"{group['training steps']} steps of training, or {group['share with Fisher']:.1%} with the Fisher of all "
        "images."])


def _attacks(group: Mapping[str, Any]) -> str:
    once, loop = group["rows"]
    return (f"An attack on all targets at once makes {1 / once['seconds']:,.0f} steps per second, a loop over the "
            f"targets {1 / loop['seconds']:,.0f}. The loop takes {loop['ratio']:.1f} times as long.")


def _embedding(group: Mapping[str, Any] | None) -> str:
    if group is None:
        return "openTSNE was not there for a comparison."
    ours, other = group["rows"]
    return (f"One {group['unit']} takes {_time(ours['seconds'])} with scikit-learn, which the book uses, and "
            f"{_time(other['seconds'])} with openTSNE: {other['ratio']:.2f} times as long. Their trustworthiness, a "
            f"measure of how well they keep neighbors, is {ours['trustworthiness']:.3f} and "
            f"{other['trustworthiness']:.3f}.")


@in_book_style
def _growth(groups: Bench, folder: Path) -> str:
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    images, width = groups["Growth of the Fisher"], groups["Growth of a training step"]
    for axes, (group, x, y) in zip(figure.subplots(2, 1), (
            (images, "images", "a Fisher takes"), (width, "width, times the book's", "a training step takes"))):
        _line(axes, group["rows"])
        axes.set(xlabel=x, ylabel=y)
    caption = (f"The time of a Fisher grows like the number of images to the power {images['exponent']:.2f}. The time "
               f"of a training step grows like the width of the hidden layers to the power {width['exponent']:.2f}.")
    memory = "Memory was not measured: only Linux reports it."
    if group := groups.get("Memory of the Fisher"):
        few, many = group["MB"].items()
        memory = (f"Besides its images, a Fisher takes at most {few[1]:.0f} MB for {few[0]} and {many[1]:.0f} MB for "
                  f"{many[0]}.")
    return "\n\n".join([
        _figure(figure, "growth", folder, caption, "Two lines on logarithmic axes: the time of a Fisher against the "
                "number of images, and that of a training step against the width of the model."),
        memory])


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    sizes = [float(row["name"]) for row in rows]
    axes.loglog(sizes, [row["seconds"] for row in rows], "o-", color=PALETTE[0], markersize=5)
    axes.set_xticks(sizes, [row["name"] for row in rows])
    axes.set_yticks([row["seconds"] for row in rows], [_time(row["seconds"]) for row in rows])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)


def _profile(shares: Mapping[str, Mapping[str, float]]) -> str:
    parts = []
    for task, share in shares.items():
        largest = max((name for name in share if name != "all others"), key=share.get)
        parts += [f"**{task.capitalize()}**: `{largest}` takes {share[largest]:.0%} of the operators' time.",
                  table(["operator", "share"], [(name if name == "all others" else f"`{name}`", f"{part:.1%}")
                                                for name, part in share.items()])]
    return "\n\n".join(parts)


def _install(groups: Bench) -> str:
    sizes, times = groups["Size"]["MB"], groups["Import"]
    others = sum(size for name, size in sizes.items() if name != "torch")
    return (f"The imports of the README's example take {times['sa_lib']:.2f} s, beyond the {times['torch']:.2f} s of "
            f"PyTorch alone. On the disk, PyTorch takes {sizes['torch']:,.0f} MB without its own requirements, the "
            f"other {len(sizes) - 1} direct requirements take {others:,.0f} MB, and the library takes "
            f"{groups['Size']['own MB']:.2f} MB.")


def _book(seconds: Mapping[str, float]) -> str:
    slowest = max(seconds, key=seconds.get)
    return (f"In the run that made this site, the chapters took {sum(seconds.values()):.0f} s of a core together, "
            f"besides the models and attacks that were made before. [](../notebooks/{slowest}) took the longest: "
            f"{seconds[slowest]:.0f} s.")


def _cores(tasks: Sequence[Task]) -> str:
    """What the work of a run would take on more cores, by the recorded times and by what waits for what."""
    if not tasks:
        return "The run that made this site recorded no times."
    rank = ranks(tasks)
    chain = [max(rank, key=rank.get)]
    while following := [task.name for task in tasks if chain[-1] in task.needs]:
        chain.append(max(following, key=rank.get))
    kinds = {task.name: task.kind for task in tasks}
    spans = {cores: makespan(tasks, cores) for cores in (1, 2, 4, 8, 16)}
    reached = {cores: "reached" if spans[cores] <= 60 * goal else "**missed**" for cores, goal in MINUTES.items()}
    minutes = {name: seconds / 60 for name, seconds in alone(tasks, 2).items()}
    slowest, late = max(minutes, key=minutes.get), sum(own > ALONE for own in minutes.values())
    return "\n\n".join([
        table(["cores", "minutes", "goal"], [
            (cores, f"{span / 60:.1f}", f"at most {MINUTES[cores]}: {reached[cores]}" if cores in MINUTES else "")
            for cores, span in spans.items()]),
        f"No number of cores can beat the longest chain of tasks that wait for each other, "
        f"{rank[chain[0]] / 60:.1f} minutes: {', '.join(kinds[name] for name in chain)}. Most of all the work, "
        f"{spans[1] / 60:.1f} minutes of one core, is in "
        f"{', '.join(f'{name} ({seconds / spans[1]:.0%})' for name, seconds in _heaviest(tasks, spans[1] / 2))}.",
        f"A chapter that runs alone makes what it asks for on all cores too. On two, [](../notebooks/{slowest}) takes "
        f"the longest, {minutes[slowest]:.1f} minutes from an empty store. The goal is at most {ALONE} for each: "
        f"{f'**missed** by {late} of {len(minutes)}' if late else 'reached'}."])


def _heaviest(tasks: Sequence[Task], share: float) -> list[tuple[str, float]]:
    """The kinds of tasks that take at least so many seconds together, the longest first, and the seconds of each."""
    seconds = Counter()
    for task in tasks:
        seconds[task.kind] += task.seconds
    few = []
    for kind, total in seconds.most_common():
        few.append((kind, total))
        if sum(total for _, total in few) >= share:
            break
    return few


def torture(path: Path) -> dict[str, str]:
    """The counts of `make torture`, by the promise that was tested, and `when`: its date and machine.

    Args:
        path: of the file that it wrote.

    Raises:
        FileNotFoundError: there is no such file.
    """
    results = json.loads(path.read_text(encoding="utf-8"))
    machine = results["machine"]
    return {"when": f"Last run {results['date']} on {machine['processor']}, {machine['cores']} cores, with Python "
                    f"{machine['python']} and PyTorch {machine['torch']}.",
            **{promise: f"{count:,}" for promise, count in results["tried"].items()}}
