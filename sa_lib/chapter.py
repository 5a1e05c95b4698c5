"""What the cells of a chapter call: parameters in, prose with numbers, figures and tables out.

Everything shown is an ordinary notebook output, so a chapter reads the same in
Jupyter, in Colab and on GitHub. What the rendered book does differently (numbered
figures, one banner a page) is said in the metadata of the output under the key
``sa_lib``, which `sa_lib.book` reads. IPython is imported when something is
shown, not before: the library works without it.
"""

import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas

from sa_lib.attacks import AttackConfig
from sa_lib.checkpoints import read_model
from sa_lib.data import DATASETS, Dataset
from sa_lib.files import write_atomically
from sa_lib.inputs import check_types, short
from sa_lib.judges import Judge, JudgeConfig, get_judge
from sa_lib.model import ARCHITECTURES, CLASSES, ModelConfig
from sa_lib.store import tensor_digest, used
from sa_lib.training import Trained, TrainingConfig, device, get_cvae
from sa_lib.unlearning import METHODS, Method, UnlearningConfig, get_never_saw, get_sequence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PROFILES", "Parameters", "read_metrics", "say", "show_figure",
           "show_table", "validate", "write_metrics"]

PROFILES = ("full", "smoke")


@dataclass(frozen=True)
class Parameters:
    """The checked parameters of a chapter; see `validate`."""

    dataset: str
    seed: int
    forget_sequence: tuple[int, ...]
    profile: str
    architecture: str
    run_dir: Path
    checkpoint: Path | None = None
    chosen: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    longest: int = 0

    @property
    def forget(self) -> int:
        """The class to forget, or the first of them."""
        return self.forget_sequence[0]

    @property
    def smoke(self) -> bool:
        """Whether this is the quick run on little data that only shows that everything works."""
        return self.profile == "smoke"

    @property
    def model(self) -> ModelConfig:
        """The model that the chapters train: like the one in the checkpoint, where one is given."""
        return read_model(self.checkpoint).config if self.checkpoint else ARCHITECTURES[self.architecture]

    @property
    def training(self) -> TrainingConfig:
        """How they train it. The few images of `digits` are gone through more often, and convolutions, which cost
        twenty times as much a step, take fewer of them."""
        epochs = (40 if self.smoke else 400 if self.dataset == "digits" else
                  8 if self.architecture == "conv" else TrainingConfig.epochs)
        return TrainingConfig(epochs=epochs, peak_lr=2e-3 if self.architecture == "conv" else 8e-3)

    @property
    def unlearning(self) -> UnlearningConfig:
        """How they make it forget."""
        return UnlearningConfig(steps=100) if self.smoke else UnlearningConfig()

    @property
    def methods(self) -> dict[str, Method]:
        """The chosen methods, with the changes to their configurations, and no more updates than `longest`."""
        most = 100 if self.smoke else self.longest
        changed = {name: replace(METHODS[name].config, **self.changes) for name in self.chosen or METHODS}
        return {name: replace(METHODS[name], config=replace(config, steps=min(config.steps, most)))
                for name, config in changed.items()}

    @property
    def attack(self) -> AttackConfig:
        """What an attacker may spend."""
        return AttackConfig(steps=30, restarts=2) if self.smoke else AttackConfig()

    @property
    def guided(self) -> AttackConfig:
        """What a guided attacker may spend: fewer steps, for in each a classifier is asked as well."""
        return replace(self.attack, steps=3 * self.attack.steps // 10, restarts=2)

    @property
    def targets(self) -> int:
        """Images of a class that an attacker tries to reach."""
        return 20 if self.smoke else 100

    def baseline(self, dataset: Dataset, seed: int | None = None, without: Sequence[int] = ()) -> Trained:
        """The model that has learned all ten classes, or those not in `without`, from the store if it is there."""
        return get_cvae(dataset, self.model, self.training, self.seed if seed is None else seed, without)

    def sequence(self, dataset: Dataset, forget: Sequence[int]) -> list[Trained]:
        """The baseline made to forget classes one after another; see `unlearning.get_sequence`."""
        return get_sequence(self.baseline(dataset), dataset, forget, self.unlearning, self.seed)

    def never_saw(self, dataset: Dataset, forget: Sequence[int], seed: int | None = None,
                  rounds: int | None = None) -> Trained:
        """The reference for `sequence`, or for what took another number of rounds; see `unlearning.get_never_saw`."""
        return get_never_saw(dataset, sorted(forget), self.model, self.training, self.unlearning,
                             len(forget) if rounds is None else rounds, self.seed if seed is None else seed)

    def subject(self, dataset: Dataset) -> Trained:
        """The model in the checkpoint, or the last of `sequence` where none is given."""
        if self.checkpoint is None:
            return self.sequence(dataset, self.forget_sequence)[-1]
        model = read_model(self.checkpoint).requires_grad_(False).to(device())
        return Trained(model, pandas.DataFrame(), 0.0, tensor_digest(model.state_dict()))

    @property
    def samples(self) -> int:
        """Images drawn from the prior for each class where a model is measured."""
        return 100 if self.smoke else 1000

    def judge(self, dataset: Dataset, name: str) -> Judge:
        """The judge of this name, from the store if it is there."""
        epochs = 12 if self.smoke else 60 if self.dataset == "digits" else JudgeConfig.epochs
        return get_judge(dataset, JudgeConfig(name, epochs=epochs), self.seed)


def validate(*, dataset: str = "mnist", seed: int = 0, forget: Any = (), forget_sequence: Any = (),
             at_most: int = CLASSES - 1, methods: Any = (), changes: Any = "{}", longest: int = 10_000,
             profile: str = "full", architecture: str = "mlp", model: str = "", run_dir: str | Path = "runs/full") -> Parameters:
    """Check a chapter's parameters and say so on the page if this is a smoke run.

    Args:
        dataset: one of `sa_lib.data.DATASETS`.
        seed: 0 to 2**31 - 1.
        forget: the class to forget, 0 to 9, or the list of them in their
            order; as text ("[3, 5]") too, for that is how papermill's ``-p``
            hands over a list.
        forget_sequence: the same under the name that it has where the order matters.
        at_most: how many classes the chapter can forget.
        methods: names in `unlearning.METHODS`, all if empty; a list, or text as for `forget`.
        changes: field -> value for their configurations; a mapping, or text as for `forget`.
        longest: the most updates that a method may take, from 1.
        profile: "full" or "smoke".
        architecture: a name in `sa_lib.model.ARCHITECTURES`.
        model: the path of a checkpoint that `checkpoints.read_model` reads, whose
            architecture then takes the place of `architecture`; or "".
        run_dir: the folder for what the chapter writes.

    Raises:
        ValueError: a parameter is not allowed; the message names it, its value and what is.
    """
    for name, value, allowed in (("dataset", dataset, DATASETS), ("profile", profile, PROFILES),
                                 ("architecture", architecture, tuple(ARCHITECTURES))):
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{name}={short(value)} is not allowed; use one of {', '.join(allowed)}")
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise ValueError(f"seed={short(seed)} is not allowed; use a whole number from 0 to {2**31 - 1}")
    if not isinstance(run_dir, (str, Path)) or not str(run_dir) or "\0" in str(run_dir):
        raise ValueError(f"run_dir={short(run_dir)} is not allowed; use the path of a folder")
    sequence = _classes("forget", forget, at_most) or _classes("forget_sequence", forget_sequence, at_most)
    chosen, changed = _from_text(methods), _from_text(changes)
    if not isinstance(chosen, (list, tuple)) or not all(isinstance(name, str) and name in METHODS for name in chosen):
        raise ValueError(f"methods={short(methods)} is not allowed; use a list of names among {', '.join(METHODS)}")
    try:
        UnlearningConfig(**changed)
    except (TypeError, ValueError) as error:
        raise ValueError(f"changes={short(changes)} is not allowed; use values for fields of UnlearningConfig "
                         f"({' '.join(str(error).split())})") from None
    if type(longest) is not int or longest < 1:
        raise ValueError(f"longest={short(longest)} is not allowed; use a whole number from 1")
    # The page shows the file's name, which must be no Markdown and no HTML.
    if not isinstance(model, str) or "\0" in model or not re.fullmatch(r"[\w .,+=@()#~-]*", Path(model).name):
        raise ValueError(f"model={short(model)} is not allowed; use the path of a checkpoint that is named "
                         "in letters, digits and . , + = @ ( ) # ~ - _, or '' for the book's own")
    parameters = Parameters(dataset, seed, sequence, profile, architecture, Path(run_dir),
                            Path(model) if model else None, tuple(chosen), changed, longest)
    if model:
        try:
            parameters = replace(parameters, architecture=read_model(model).config.architecture)
        except (OSError, ValueError) as error:
            raise ValueError(f"model={short(model)} is not allowed: {' '.join(str(error).split())}") from None
    if parameters.smoke:
        _show_markdown("> **Smoke run.** Little data and few steps: this run shows that everything "
                       "works, and its numbers mean nothing.", role="banner")
    return parameters


def _classes(name: str, value: Any, at_most: int) -> tuple[int, ...]:
    """A class, or several different ones; () is the value of a parameter that a chapter does not have."""
    classes = _from_text(value)
    classes = (classes,) if type(classes) is int else classes
    if (not isinstance(classes, (list, tuple)) or not (classes or value == ())
            or not all(type(k) is int and 0 <= k < CLASSES for k in classes)
            or len(set(classes)) != len(classes) or len(classes) > at_most):
        several = f", or a list of up to {at_most} different ones" if at_most > 1 else ""
        raise ValueError(f"{name}={short(value)} is not allowed; use a whole number from 0 to {CLASSES - 1}{several}")
    return tuple(classes)


def _from_text(value: Any) -> Any:
    """What JSON text stands for; anything else as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
    return value


def say(template: str, **numbers: Any) -> None:
    """Show Markdown prose with numbers of this run: ``say("It is {nll:.1f} nats.", nll=nll)``.

    The text is the cell's output, so that it reads well wherever the notebook is
    opened; the numbers are kept in the output's metadata as plain JSON values.

    Args:
        template: Markdown for `str.format`; a literal brace, as in LaTeX, is doubled.
        numbers: values to fill in; scalars of NumPy and PyTorch will do.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    check_types(template=(template, str))
    plain = {name: _plain(name, value) for name, value in numbers.items()}
    _show_markdown(template.format(**plain), numbers=plain)


def show_figure(figure: "Figure", caption: str, alt: str) -> None:
    """Show a Matplotlib figure at double resolution, with its caption, and close it.

    One figure a cell: the rendered book numbers it and sets the caption below it.

    Args:
        caption: Markdown; states what is found.
        alt: plain text for who cannot see it; says what is drawn.

    Raises:
        ValueError: the caption or the alternative text is empty.
    """
    from IPython.display import display
    from matplotlib import pyplot
    from matplotlib.figure import Figure
    from PIL import Image, ImageChops
    check_types(figure=(figure, Figure), caption=(caption, str), alt=(alt, str))
    if not caption.strip() or not alt.strip():
        raise ValueError(f"caption={caption!r}, alt={alt!r} will not do; a figure needs both")
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=200, facecolor="white", bbox_inches="tight")
    pyplot.close(figure)
    # The same pixels in fewer bytes: nothing shines through, and most figures are gray.
    with Image.open(drawn) as image:
        opaque = image.convert("RGB")
    gray = opaque.convert("L")
    colourful = ImageChops.difference(opaque, gray.convert("RGB")).getbbox()
    (opaque if colourful else gray).save(picture, format="png", optimize=True)
    data = picture.getvalue()
    width, height = (int.from_bytes(data[at:at + 4], "big") // 2 for at in (16, 20))  # of the PNG's IHDR
    display({"image/png": data, "text/plain": alt}, raw=True,
            metadata={"image/png": {"width": width, "height": height, "alt": alt},
                      "sa_lib": {"role": "figure", "caption": caption, "alt": alt, "width": width}})
    _show_markdown(f"*{caption}*", role="caption")


def show_table(frame: pandas.DataFrame, caption: str, formats: Mapping[str, str] | None = None) -> None:
    """Show a table that scrolls sideways where it is wider than the page.

    Args:
        frame: the index is shown.
        caption: plain text, set above the table.
        formats: column -> format of its values, such as ``"{:.1%}"``; other
            floats show three digits.

    Raises:
        ValueError: the table is empty, or a format names a column it lacks.
    """
    from IPython.display import display
    check_types(frame=(frame, pandas.DataFrame), caption=(caption, str), formats=(formats, (Mapping, type(None))))
    formats = dict(formats or {})
    if frame.empty:
        raise ValueError("frame is an empty table; at least one row and one column are needed")
    if unknown := [name for name in formats if name not in frame.columns]:
        raise ValueError(f"formats names {short(unknown)}; the table's columns are {list(frame.columns)}")
    # The name of the index goes into the corner, where it costs no second row of headers.
    framed = frame.rename_axis(columns=frame.index.name) if frame.columns.name is None else frame
    table = framed.rename_axis(index=None).to_html(
        border=0, na_rep="–", float_format="{:.3g}".format,
        formatters={name: form.format for name, form in formats.items()})
    head, body = table.split(">", 1)
    # A region that scrolls must be reachable from the keyboard.
    title = html.escape(caption)
    page = (f'<div style="overflow-x: auto" tabindex="0" role="region" aria-label="{title}">{head}>'
            f'<caption style="caption-side: top; text-align: left">{title}</caption>{body}</div>')
    display({"text/html": page, "text/plain": f"{caption}\n{frame}"}, raw=True)


def write_metrics(run_dir: str | Path, chapter: str, metrics: Mapping[str, Any]) -> None:
    """Write a chapter's results to ``run_dir/chapter/metrics.json``, whole or not at all.

    Beside it, ``models.txt`` names what the chapter took from the store; see `store.pack`.

    Args:
        chapter: the chapter's name, such as "01_baseline".
        metrics: name -> number, text, truth value, None, or lists and mappings of
            these; scalars and arrays of NumPy and PyTorch become plain numbers and lists.

    Raises:
        ValueError: a number is NaN or infinite, or a value has no place in JSON.
    """
    path = _metrics_path(run_dir, chapter)
    text = json.dumps(_plain("metrics", metrics), indent=1, sort_keys=True)
    with write_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    with write_atomically(path.with_name("models.txt")) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in sorted(used)))


def read_metrics(run_dir: str | Path, chapter: str) -> dict[str, Any]:
    """What `write_metrics` wrote.

    Raises:
        FileNotFoundError: the chapter has written none in this run.
        ValueError: the file is not what `write_metrics` writes.
    """
    path = _metrics_path(run_dir, chapter)
    if not path.is_file():
        raise FileNotFoundError(f"no metrics of {chapter} in {run_dir}; run the chapter first")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(metrics, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(metrics).__name__}, not a mapping")
    return metrics


def _metrics_path(run_dir: str | Path, chapter: str) -> Path:
    check_types(run_dir=(run_dir, (str, Path)))
    if not isinstance(chapter, str) or not chapter or not f"_{chapter}".isidentifier():
        raise ValueError(f"chapter={short(chapter)} is not allowed; use letters, digits and underscores")
    return Path(run_dir) / chapter / "metrics.json"


def _plain(name: str, value: Any) -> Any:
    """`value` as JSON values; `name` is where it stands, for the message."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{name}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; a finite number is needed")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{name} is a {type(value).__name__}; numbers, text, lists and mappings are allowed")


def _show_markdown(text: str, **about: Any) -> None:
    from IPython.display import display
    display({"text/markdown": text, "text/plain": text}, raw=True, metadata={"sa_lib": about})

