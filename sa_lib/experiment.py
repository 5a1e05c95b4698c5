"""The experiment: a chapter's parameters, checked, and the configurations and models that follow from them."""

import ast
import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from . import chapter, claims, trained
from .attacks import AttackConfig
from .checkpoints import read_model
from .checks import check_name, check_types, check_whole, is_whole, shorten
from .data import DATASETS, Dataset, held_out, load, plain_name
from .judges import Judge, JudgeConfig
from .labels import CLASSES, forget_set
from .methods import COMPARED, METHODS, Method
from .model import ARCHITECTURES, ModelConfig, device
from .reconstruction import SearchConfig
from .store import expanded
from .trained import MENDING, Trained
from .training import TrainingConfig
from .unlearning import UnlearningConfig

__all__ = ["PROFILES", "Parameters", "Profile", "validate"]

# Data sets with fewer training images get more epochs.
FEW = 10_000
# Of the book's images, for which the weights of the methods' terms were chosen.
PIXELS = 28 * 28


@dataclass(frozen=True)
class Profile:
    """The size of a run.

    Attributes:
        cvae_epochs: passes over the training images; None: as many as data and model need, see `Parameters.training`.
        judge_epochs: the same for the judges.
        unlearning: updates of the book's method.
        mending: the further training after which a model is attacked once more.
        longest: the most updates of any method; None: as the parameter `longest` says.
        attack: the budget of Adam, for guided attacks and as a second attacker.
        search: the budget of a reconstruction attack.
        targets: images of a class that an attacker tries to reach.
        samples: images drawn from the prior for each class to measure a model.
    """

    cvae_epochs: int | None = None
    judge_epochs: int | None = None
    unlearning: UnlearningConfig = UnlearningConfig()
    longest: int | None = None
    attack: AttackConfig = AttackConfig()
    search: SearchConfig = SearchConfig()
    mending: UnlearningConfig = MENDING
    targets: int = 100
    samples: int = 1000


PROFILES = {
    "full": Profile(),
    "smoke": Profile(cvae_epochs=40, judge_epochs=12, unlearning=UnlearningConfig(steps=100), longest=100,
                     attack=AttackConfig(steps=30, restarts=2), mending=replace(MENDING, steps=100),
                     search=SearchConfig(pool=256, starts=2, iterations=5, rounds=4), targets=20, samples=100),
}


@dataclass(frozen=True)
class Parameters:
    """The checked parameters of a chapter; see `validate`.

    `forget` is the forget set: a tuple of classes, in their order. The number of `classes` and the `image_shape` are
    those of the data set; `few` says whether it has few training images.
    """

    dataset: str
    seed: int
    forget: tuple[int, ...]
    profile: str
    architecture: str
    run_dir: Path
    checkpoint: Path | None = None
    chosen: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    longest: int = 0
    classes: int = CLASSES
    image_shape: tuple[int, ...] = (1, 28, 28)
    few: bool = False

    @property
    def size(self) -> Profile:
        """The size of the run."""
        return PROFILES[self.profile]

    @property
    def smoke(self) -> bool:
        """Whether this is the quick run on little data, which only shows that everything works."""
        return self.profile == "smoke"

    @property
    def model(self) -> ModelConfig:
        """The configuration of the trained models; with a checkpoint, the checkpoint's own."""
        if self.checkpoint:
            return read_model(self.checkpoint).config
        return replace(ARCHITECTURES[self.architecture], classes=self.classes, image_shape=self.image_shape)

    @property
    def training(self) -> TrainingConfig:
        """How they are trained.

        A set of few images, such as `digits`, gets more epochs. A step of the convolutional model costs twenty times as
        much, so it gets fewer epochs, of smaller steps.
        """
        shape = TrainingConfig(epochs=8, batch=128, peak_lr=6e-3) if self.architecture == "conv" else TrainingConfig()
        return replace(shape, epochs=self.size.cvae_epochs or (400 if self.few else shape.epochs))

    @property
    def unlearning(self) -> UnlearningConfig:
        """How they are made to forget."""
        return self._sized(self.size.unlearning)

    def _sized(self, config: UnlearningConfig) -> UnlearningConfig:
        """The weight of the distance to gray, a mean over pixels, grows with their number, as the ELBO's terms do."""
        return replace(config, gray=config.gray * math.prod(self.image_shape) / PIXELS)

    @property
    def methods(self) -> dict[str, Method]:
        """The chosen methods, with the changes to their configurations, and at most `longest` updates each."""
        most = self.size.longest or self.longest
        changed = {name: replace(self._sized(METHODS[name].config), **self.changes) for name in self.chosen or COMPARED}
        return {name: replace(METHODS[name], config=replace(config, steps=min(config.steps, most)))
                for name, config in changed.items()}

    @property
    def attack(self) -> AttackConfig:
        """The budget of Adam as a second attacker."""
        return self.size.attack

    @property
    def search(self) -> SearchConfig:
        """The budget of a reconstruction attack."""
        return self.size.search

    @property
    def guided(self) -> AttackConfig:
        """The budget of a guided attack: fewer steps, for each of them asks a classifier as well."""
        return replace(self.attack, steps=3 * self.attack.steps // 10, restarts=2)

    @property
    def targets(self) -> int:
        """Images of a class that an attacker tries to reach."""
        return self.size.targets

    @property
    def samples(self) -> int:
        """Images drawn from the prior for each class to measure a model."""
        return self.size.samples

    def baseline(self, dataset: Dataset, seed: int | None = None, without: Sequence[int] = ()) -> Trained:
        """The model that has learned all classes, or all but those in `without`."""
        return trained.cvae(dataset, self.model, self.training, self.seed if seed is None else seed, without)

    def sequence(self, dataset: Dataset, forget: int | Sequence[int]) -> list[Trained]:
        """The models after each step of forgetting from the baseline; see `trained.sequence`."""
        return trained.sequence(self.baseline(dataset), dataset, forget, self.unlearning, self.seed)

    def never_saw(self, dataset: Dataset, forget: int | Sequence[int], seed: int | None = None,
                  rounds: int | None = None) -> Trained:
        """The reference for `sequence`, or for another number of rounds; see `trained.never_saw`."""
        forget = sorted(forget_set(forget, classes=self.classes))
        return trained.never_saw(dataset, forget, self.model, self.training, self.unlearning,
                                 len(forget) if rounds is None else rounds, self.seed if seed is None else seed)

    def mended(self, dataset: Dataset, source: Trained, forget: int | Sequence[int]) -> Trained:
        """A model after further training on the retained classes alone; see `trained.mended`."""
        return trained.mended(source, dataset, forget, self.size.mending, self.seed)

    def held_out(self, dataset: Dataset, label: int) -> Tensor:
        """A random sample of the test images of a class, the targets of its attackers: `[N, *image_shape]`."""
        return held_out(dataset, label, self.targets, self.seed).to(device())

    def subject(self, dataset: Dataset) -> Trained:
        """The model in the checkpoint; without one, the last of `sequence`."""
        if self.checkpoint is None:
            return self.sequence(dataset, self.forget)[-1]
        return trained.given(read_model(self.checkpoint))

    def judge_config(self, name: str) -> JudgeConfig:
        """How the judge of this name is trained."""
        epochs = self.size.judge_epochs or (60 if self.few else JudgeConfig.epochs)
        return JudgeConfig(name, epochs=epochs)

    def judge(self, dataset: Dataset, name: str) -> Judge:
        """The judge of this name."""
        return trained.judge(dataset, self.judge_config(name), self.seed)

    @property
    def record(self) -> dict[str, Any]:
        """The parameters that a chapter's metrics record."""
        return {"dataset": self.dataset, "seed": self.seed, "forget": self.forget, "profile": self.profile,
                "architecture": self.architecture}

    def show_claims(self, name: str, metrics: Mapping[str, Any]) -> None:
        """Show the book's claims about a chapter, held to its metrics; see `claims.verdicts`."""
        check_types(metrics=(metrics, Mapping))
        chapter.show_table(claims.verdicts(name, {"parameters": self.record, **metrics}),
                           "The book's claims about this chapter, held to this run.")

    def finish(self, name: str, metrics: Mapping[str, Any], models: Mapping[str, Trained], started: float) -> None:
        """Write a chapter's metrics, and show its last line: the seconds it took and the models it speaks of.

        Args:
            name: the chapter's, such as "01_baseline".
            metrics: as for `chapter.write_metrics`; the parameters, the seconds and the models' digests are added.
            models: those that the chapter speaks of, by name.
            started: `time.perf_counter()` at the chapter's beginning.
        """
        check_types(metrics=(metrics, Mapping), models=(models, Mapping))
        seconds = time.perf_counter() - started
        chapter.write_metrics(self.run_dir, name, {
            "parameters": self.record, **metrics, "chapter_seconds": seconds,
            "digests": {model: one.digest for model, one in models.items()}})
        weights = "; ".join(f"{model} `{one.digest[:12]}`" for model, one in models.items())
        chapter.say("This chapter took {seconds:.0f} s. SHA-256 of the weights, its beginning: {weights}.",
                    seconds=seconds, weights=weights or "none were trained")


def validate(*, dataset: str = "mnist", seed: int = 0, forget: Any = (), at_most: int | None = None,
             methods: Any = (), changes: Any = "{}", longest: int = 10_000, profile: str = "full",
             architecture: str = "mlp", model: str | None = "", run_dir: str | Path = "runs/full") -> Parameters:
    """Check a chapter's parameters, and say so on the page if this is a smoke run.

    Args:
        dataset: one of `data.DATASETS`, also with ``-validation`` behind it, or the path of a reader's own data set;
            see `data.load`.
        seed: 0 to 2**31 - 1.
        forget: the class to forget, or the list of classes in their order; as text ("[3, 5]") too, for papermill's
            ``-p`` passes lists as text.
        at_most: how many classes the chapter can forget; by default all but one.
        methods: names in `methods.METHODS`, or those of `methods.COMPARED` if empty; one, a list, or text as for
            `forget`.
        changes: field -> value for their configurations; a mapping, or text as for `forget`. Its `steps` may be
            `longest` at most.
        longest: the most updates that a method may take, from 1.
        profile: "full" or "smoke".
        architecture: a name in `model.ARCHITECTURES`.
        model: the path of a checkpoint that `checkpoints.read_model` reads, of the data set's images and classes,
            whose architecture then replaces `architecture`; or "" or None.
        run_dir: the folder for the chapter's results.

    Raises:
        ValueError: a parameter is not allowed; the message names it, the allowed values and its value.
    """
    _refuse_unknown_parameters()
    check_name(PROFILES, profile=profile)
    check_name(ARCHITECTURES, architecture=architecture)
    if not is_whole(seed) or not 0 <= seed < 2**31:
        raise ValueError(f"seed must be a whole number from 0 to {2**31 - 1}, got {shorten(seed)}")
    if not isinstance(run_dir, (str, Path)) or not str(run_dir) or "\0" in str(run_dir):
        raise ValueError(f"run_dir must be the path of a folder, got {shorten(run_dir)}")
    kind, asked = _kind(dataset), _from_text(forget)
    nothing = isinstance(asked, tuple) and not asked
    forgotten = () if nothing else forget_set(asked, most=at_most, classes=kind.get("classes", CLASSES))
    chosen, changed = _method_parameters(methods, changes)
    check_whole(longest=longest)
    if changed.get("steps", 1) > longest:
        raise ValueError(f"changes must be of at most longest={longest} steps, got {shorten(changes)}")
    parameters = Parameters(dataset, int(seed), forgotten, profile, architecture, expanded(run_dir),
                            _checkpoint(model), chosen, changed, longest, **kind)
    parameters = replace(parameters, architecture=_architecture(parameters, model))
    if parameters.smoke:
        chapter.show_markdown("> **Smoke run.** Little data and few steps: this run shows that everything "
                              "works, and its numbers mean nothing.", role="banner")
    return parameters


def _kind(dataset: Any) -> dict[str, Any]:
    """The number of classes and the shape of the images of a data set, and whether it has few of them."""
    if plain := plain_name(dataset):
        return {"few": plain == "digits"}
    if not isinstance(dataset, str):
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, or the path of a data set, "
                         f"got {shorten(dataset)}")
    own = load(dataset)
    if not _is_plain(own.name):
        raise ValueError(f"dataset must be the path of a data set with a name of {PLAIN}, got {shorten(dataset)}")
    return {"classes": own.classes, "image_shape": own.image_shape, "few": len(own.train_labels) < FEW}


def _architecture(parameters: Parameters, model: Any) -> str:
    """The architecture of the trained models, which must take the images of the data set."""
    kind = parameters.classes, parameters.image_shape
    try:
        config = parameters.model
        if (config.classes, config.image_shape) != kind:
            raise ValueError(f"it has {config.classes} classes of images {list(config.image_shape)}, and the data set "
                             f"has {kind[0]} of {list(kind[1])}")
        return config.architecture
    except (OSError, ValueError) as error:
        name, given = ("model", model) if parameters.checkpoint else ("architecture", parameters.architecture)
        what = "the path of a checkpoint" if parameters.checkpoint else "one that takes the images of the data set"
        raise ValueError(f"{name} must be {what}, got {shorten(given)}: {' '.join(str(error).split())}") from None


def _refuse_unknown_parameters() -> None:
    """Refuse papermill parameters that the chapter does not have: papermill only warns, and runs without them."""
    ipython = sys.modules.get("IPython")  # None too where a program has blocked it
    shell = ipython.get_ipython() if ipython else None
    executed = shell.user_ns.get("In", []) if shell else []
    for own, injected in pairwise(executed):
        if injected.startswith("# Parameters\n"):  # papermill's cell, right behind the chapter's own
            known = _assigned(own)
            for name in sorted(_assigned(injected) - known):
                nearest = get_close_matches(name, known, 1, cutoff=0.5)
                hint = f"; did you mean {nearest[0]}?" if nearest else ""
                raise ValueError(f"parameters must be among {', '.join(sorted(known))}, got {name}{hint}")


def _assigned(source: str) -> set[str]:
    """The names that a cell assigns at its top level."""
    return {target.id for node in ast.parse(source).body if isinstance(node, ast.Assign)
            for target in node.targets if isinstance(target, ast.Name)}


def _method_parameters(methods: Any, changes: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of the chosen methods, and the changes to their configurations."""
    chosen, changed = _from_text(methods), _from_text(changes)
    chosen = (chosen,) if isinstance(chosen, str) else chosen
    if not isinstance(chosen, (list, tuple)) or not all(isinstance(name, str) and name in METHODS for name in chosen):
        raise ValueError(f"methods must be a list of names among {', '.join(METHODS)}, got {shorten(methods)}")
    try:
        UnlearningConfig(**changed)
    except (TypeError, ValueError) as error:
        raise ValueError(f"changes must be values for fields of UnlearningConfig, got {shorten(changes)}: "
                         f"{' '.join(str(error).split())}") from None
    return tuple(chosen), changed


def _checkpoint(model: Any) -> Path | None:
    if model is None:
        return None
    if not isinstance(model, str) or "\0" in model or not _is_plain(Path(model).name) or "](" in model:
        raise ValueError(f"model must be the path of a checkpoint with a name of {PLAIN}, or '' for the book's own, "
                         f"got {shorten(model)}")
    return expanded(model) if model else None


PLAIN = "letters, digits and spaces, and . , + = @ ( ) [ ] # ~ : - _, but without ]("


def _is_plain(name: str) -> bool:
    """Whether the page may show the name of a file: it contains neither Markdown nor HTML."""
    return bool(re.fullmatch(r"[\w .,+=@()#~:\[\]-]*", name)) and "](" not in name


def _from_text(value: Any) -> Any:
    """The value of JSON text; anything else as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
    return value
