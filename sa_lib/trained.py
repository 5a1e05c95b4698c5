"""Trained models: everything that the book asks of the store, each made once and loaded after that.

This module has no arithmetic. Every function names what its result depends on (configuration, data, seed, code,
the models before it) and hands the making to one function of the library.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd
import torch

from . import (
    attacks,
    decoders,
    fisher,
    judges,
    labels,
    model,
    quantiles,
    recipe,
    settings,
    store,
    threats,
    training,
    unlearning,
)
from . import reconstruction as search
from .attacks import AttackResult, Threat
from .checks import SEEDS, check_fisher, check_images, check_seed, check_types, check_whole
from .data import Dataset
from .fisher import Diagonal
from .judges import Judge, JudgeConfig
from .labels import check_label, forget_set, retain_set
from .methods import Method, ewc_gray
from .model import CVAE, ModelConfig
from .recipe import NOTEBOOK, RecipeConfig
from .reconstruction import SearchConfig
from .settings import with_defaults
from .training import ElboTerms, TrainingConfig
from .unlearning import Batch, Combine, Loss, UnlearningConfig

__all__ = ["MENDING", "Trained", "cvae", "fishers", "forgotten", "given", "judge", "mended", "never_saw", "own_fisher",
           "recipe_cvae", "recipe_forgotten", "reconstruction", "retain_fisher", "sequence", "shortfall", "unlearned"]


# Ordinary further training, as anybody may give a model.
MENDING = UnlearningConfig(steps=800, batch=256, peak_lr=4e-3)


@dataclass(frozen=True)
class Trained:
    """A model and its history.

    Attributes:
        net: the CVAE, frozen, in evaluation mode, on `model.device()`.
        log: one row for every logged step.
        seconds: wall-clock seconds of the training, on the machine that did it.
        digest: SHA-256 (hex) of its weights, under which pages name it.
    """

    net: CVAE
    log: pd.DataFrame
    seconds: float
    digest: str


def given(net: CVAE) -> Trained:
    """A frozen copy, on `model.device()`, of a model that was trained elsewhere."""
    check_types(net=(net, CVAE))
    copy = model.copy_of(net).eval().requires_grad_(False).to(model.device())
    return Trained(copy, pd.DataFrame(), 0.0, store.tensor_digest(copy.state_dict()))


@with_defaults()
def cvae(dataset: Dataset, model_config: ModelConfig = ModelConfig(), config: TrainingConfig = TrainingConfig(),
         seed: int = 0, without: int | Sequence[int] = (), terms: ElboTerms = CVAE.elbo_terms) -> Trained:
    """The CVAE trained on the training images of `dataset`.

    Args:
        seed: of the initial weights, the batches and the latent noise.
        without: classes the model never sees; empty for the baseline.
        terms: the two terms of the ELBO, see `training.ElboTerms`. Their values and gradients on a fixed probe are
            part of the recipe: changed terms make another model.

    Raises:
        ValueError: `without` leaves no class to train on, or is not of distinct classes; `dataset` does not fit
            the model.
    """
    check_types(dataset=(dataset, Dataset), model_config=(model_config, ModelConfig), config=(config, TrainingConfig))
    seed = check_seed(seed)
    training.check_fits(dataset, model_config)
    without = tuple(sorted(forget_set(without, least=0, name="without", classes=model_config.classes)))
    recipe = {"model": model_config.asdict(), "training": asdict(config), "seed": seed, "without": list(without),
              "data": dataset.digest, "terms": _elbo_fingerprint(terms),
              "code": store.code_digest(labels, model, settings, training)}

    def make():
        net, log = training.new_cvae(dataset, model_config, config, seed, without, terms, store.part("cvae", recipe))
        return _state(net, log)

    return _loaded(store.get_or_make("cvae", recipe, make))


@with_defaults()
def judge(dataset: Dataset, config: JudgeConfig, seed: int = 0) -> Judge:
    """The judge trained on `dataset`, frozen, in evaluation mode."""
    check_types(dataset=(dataset, Dataset), config=(config, JudgeConfig))
    seed = check_seed(seed)
    classes = dataset.classes
    recipe = {"config": asdict(config), "seed": seed, "data": dataset.digest,
              "code": store.code_digest(labels, model, settings, training, judges)}

    def make():
        network, log = judges.new_judge(dataset, config, seed, classes)
        return network.state_dict(), {"log": log.to_dict("list")}

    artifact = store.get_or_make("judge", recipe, make)
    with torch.device("meta"):
        network = Judge(config.name, classes, dataset.image_shape)
    network.load_state_dict(artifact.tensors, assign=True)
    return network.to(model.device()).eval().requires_grad_(False)


@with_defaults()
def fishers(source: Trained, dataset: Dataset, seed: int = 0) -> dict[int, Diagonal]:
    """The data Fisher of each class over all its training images; see `fisher.fisher_by_class`."""
    check_types(source=(source, Trained), dataset=(dataset, Dataset))
    seed = check_seed(seed)
    recipe = {"model": source.digest, "data": dataset.digest, "seed": seed,
              "code": store.code_digest(labels, model, fisher, settings)}

    def make():
        by_class = fisher.dataset_fishers(source.net, dataset, seed)
        return {f"{k}/{name}": f for k, diagonal in by_class.items() for name, f in diagonal.items()}, {}

    by_class: dict[int, Diagonal] = {}
    for key, f in store.get_or_make("fisher", recipe, make).tensors.items():
        k, name = key.split("/")
        by_class.setdefault(int(k), {})[name] = f
    return by_class


@with_defaults()
def own_fisher(source: Trained, seed: int = 0) -> Diagonal:
    """The Fisher of the model's own samples of all its classes; see `fisher.own_fisher`."""
    check_types(source=(source, Trained))
    seed = check_seed(seed)
    recipe = {"model": source.digest, "samples": "own", "seed": seed,
              "code": store.code_digest(labels, model, fisher, settings)}
    return store.get_or_make("fisher", recipe, lambda: (fisher.own_fisher(source.net, seed), {})).tensors


def retain_fisher(source: Trained, dataset: Dataset, forget: int | Sequence[int], seed: int = 0) -> Diagonal:
    """The data Fisher of the classes that are not in `forget`, over all their training images."""
    check_types(source=(source, Trained))
    retain = retain_set(forget, source.net.config.classes)
    by_class = fishers(source, dataset, seed)
    counts = torch.bincount(dataset.train_labels, minlength=source.net.config.classes).tolist()
    return fisher.combine(by_class, {k: counts[k] for k in retain if counts[k]})


@with_defaults()
def unlearned(source: Trained, dataset: Dataset, forget: int | Sequence[int], protect: Diagonal,
              config: UnlearningConfig = UnlearningConfig(), seed: int = 0, loss: Loss = ewc_gray,
              push: int | Sequence[int] | None = None, anchor: Trained | None = None,
              combine: Combine | None = None) -> Trained:
    """A copy of `source` that has forgotten classes; see `unlearning.unlearn`.

    Args:
        protect: the Fisher of the classes to protect; unused if `config.ewc` is 0.
        loss: its values and gradients on a fixed probe are part of the recipe: a changed loss makes another model.
        combine: the same holds for the update that it makes of the gradients of this probe.

    Raises:
        ValueError: as `unlearning.unlearn`.
    """
    check_types(source=(source, Trained), dataset=(dataset, Dataset), config=(config, UnlearningConfig),
                anchor=(anchor, (Trained, type(None))))
    training.check_fits(dataset, source.net.config)
    forget = tuple(sorted(forget_set(forget, classes=source.net.config.classes)))
    push = unlearning.push_set(forget, push, source.net.config.classes)
    seed = check_seed(seed)
    if config.ewc:
        check_fisher(source.net, protect, "protect")
    anchor = anchor or source
    recipe = {"source": source.digest, "data": dataset.digest, "forget": list(forget), "push": list(push),
              "anchor": anchor.digest, "fisher": store.tensor_digest(protect), "unlearning": asdict(config),
              "seed": seed, "loss": _loss_fingerprint(loss, config, combine),
              "code": store.code_digest(labels, model, settings, training, unlearning)}

    def make():
        return _state(*unlearning.unlearned_copy(source.net, dataset, forget, protect, config, seed, loss, push,
                                                 anchor.net, combine))

    return _loaded(store.get_or_make("unlearned", recipe, make))


def forgotten(source: Trained, dataset: Dataset, forget: int | Sequence[int], method: Method,
              seed: int = 0) -> Trained:
    """A copy of `source` that has forgotten classes by one of `methods.METHODS`, or by a method of your own."""
    check_types(method=(method, Method))
    protect = {}
    if method.config.ewc:
        protect = own_fisher(source, seed) if method.own else retain_fisher(source, dataset, forget, seed)
    return unlearned(source, dataset, forget, protect, method.config, seed, method.loss, combine=method.combine)


def sequence(source: Trained, dataset: Dataset, forget: int | Sequence[int],
             config: UnlearningConfig = UnlearningConfig(), seed: int = 0, loss: Loss = ewc_gray) -> list[Trained]:
    """The models after each step of forgetting the classes of `forget` one after another.

    Each step starts from the model of the step before and is anchored there,
    protects the classes that are still retained by a new Fisher, and sends
    all classes forgotten so far to gray.

    Raises:
        ValueError: as `unlearning.unlearn`.
    """
    check_types(source=(source, Trained))
    forget = forget_set(forget, classes=source.net.config.classes)
    models = [source]
    for count in range(1, len(forget) + 1):
        protect = retain_fisher(models[-1], dataset, forget[:count], seed)
        models.append(unlearned(models[-1], dataset, forget[:count], protect, config, seed, loss))
    return models[1:]


def never_saw(dataset: Dataset, forget: int | Sequence[int], model_config: ModelConfig = ModelConfig(),
              training_config: TrainingConfig = TrainingConfig(), config: UnlearningConfig = UnlearningConfig(),
              rounds: int = 1, seed: int = 0) -> Trained:
    """The reference for a model made to forget `forget`: a model that never saw these classes.

    It is trained like the baseline and then gets as many further updates on
    the retained images as the unlearning took. Without these it would have
    been trained for less long than the unlearned model.

    Args:
        config: that of the unlearning, whose updates, batch and learning rate the further training has.
        rounds: how many times unlearning with `config` was done.

    Raises:
        ValueError: as `cvae`; `forget` is empty.
    """
    check_types(config=(config, UnlearningConfig), model_config=(model_config, ModelConfig))
    check_whole(rounds=rounds)
    forget = forget_set(forget, classes=model_config.classes)
    source = cvae(dataset, model_config, training_config, seed, forget)
    return mended(source, dataset, forget, replace(config, steps=rounds * config.steps), seed)


def mended(source: Trained, dataset: Dataset, forget: int | Sequence[int], config: UnlearningConfig = MENDING,
           seed: int = 0) -> Trained:
    """A model after further ordinary training on the images of the retained classes alone.

    It repairs the damage of the unlearning, and can bring a class back though no image of it is shown (for classifiers:
    Siddiqui et al. 2025, arXiv 2505.22310).

    Args:
        config: its updates, batch and learning rate count, and no other term.
    """
    check_types(config=(config, UnlearningConfig))
    updates = UnlearningConfig(steps=config.steps, batch=config.batch, peak_lr=config.peak_lr, replay=0.0, ewc=0.0,
                               gray=0.0)
    return unlearned(source, dataset, forget, {}, updates, seed)


@with_defaults()
def recipe_cvae(dataset: Dataset, config: RecipeConfig = NOTEBOOK, seed: int = 0,
                without: int | Sequence[int] = ()) -> Trained:
    """The CVAE of the notebook's recipe; see `recipe.train`."""
    check_types(dataset=(dataset, Dataset), config=(config, RecipeConfig))
    seed = check_seed(seed)
    without = tuple(sorted(forget_set(without, least=0, name="without", classes=dataset.classes)))
    wanted = {"training": asdict(config), "seed": seed, "without": list(without), "data": dataset.digest,
              "code": store.code_digest(labels, model, settings, training, recipe)}
    return _loaded(store.get_or_make("recipe", wanted, lambda: _state(*recipe.train(dataset, seed, config, without))))


@with_defaults()
def recipe_forgotten(source: Trained, dataset: Dataset, digit: int, config: RecipeConfig = NOTEBOOK,
                     seed: int = 0, previous: int | Sequence[int] = ()) -> Trained:
    """A copy of `source` that has forgotten a class by the notebook's recipe; see `recipe.forget`."""
    check_types(source=(source, Trained), dataset=(dataset, Dataset), config=(config, RecipeConfig))
    check_label(digit, dataset.classes)
    seed = check_seed(seed)
    previous = tuple(sorted(forget_set(previous, least=0, name="previous", classes=dataset.classes)))
    wanted = {"source": source.digest, "forget": digit, "previous": list(previous), "training": asdict(config),
              "seed": seed, "data": dataset.digest,
              "code": store.code_digest(labels, model, settings, training, fisher, unlearning, recipe)}
    return _loaded(store.get_or_make("recipe", wanted, lambda: _state(*recipe.forget(
        source.net, dataset, digit, seed, previous, config))))


@with_defaults()
def reconstruction(source: Trained, targets: torch.Tensor, label: int, threat: Threat,
                   config: SearchConfig = SearchConfig(), seed: int = 0) -> AttackResult:
    """The reconstruction attack on targets `[N, *image_shape]`; see `reconstruction.reconstruct`.

    Under one of `attacks.THREATS` the attacker also starts from their own answers under the one before it, so that
    its errors are nowhere above those.
    """
    check_types(source=(source, Trained), threat=(threat, Threat), config=(config, SearchConfig))
    check_images(targets, "targets", source.net.config.image_shape)
    check_label(label, source.net.config.classes)
    seed = check_seed(seed)
    order = list(attacks.THREATS.values())
    before = order[order.index(threat) - 1] if threat in order[1:] else None
    weaker = reconstruction(source, targets, label, before, config, seed) if before else None
    return _attack(source, targets, label, threat, config, seed, weaker)


@with_defaults()
def shortfall(source: Trained, targets: torch.Tensor, label: int, threat: Threat,
              config: SearchConfig = SearchConfig(), seed: int = 0, part: int = 5) -> float:
    """How far `reconstruction` is from the end: the share of its mean error by which ten times the rounds lower it.

    The longer attack goes on from its answers, with other draws, for the first of the targets; they should be in random
    order. A small shortfall does not prove that there is no better answer, a large one proves that there is.

    Args:
        part: one in so many targets is attacked for longer.
    """
    check_whole(part=part)
    short = reconstruction(source, targets, label, threat, config, seed).of(slice(max(1, len(targets) // part)))
    long = _attack(source, targets[:len(short.errors)], label, threat, replace(config, rounds=10 * config.rounds),
                   (seed + 1) % SEEDS, short.end)
    return float(1 - long.errors.mean() / short.errors.mean())


def _attack(source: Trained, targets: torch.Tensor, label: int, threat: Threat, config: SearchConfig, seed: int,
            weaker: AttackResult | None) -> AttackResult:
    recipe = {"model": source.digest, "targets": store.tensor_digest({"targets": targets}), "label": label,
              "threat": asdict(threat), "search": asdict(config), "seed": seed,
              "weaker": weaker and store.tensor_digest({"z": weaker.z[-1], "y": weaker.y[-1]}),
              "code": store.code_digest(labels, model, settings, threats, quantiles, decoders, attacks, search)}

    def make():
        result = search.reconstruct(source.net, targets, label, threat, config, seed, weaker)
        return {"loss": result.loss, "z": result.z, "y": result.y}, {"budget": result.budget}

    artifact = store.get_or_make("attack", recipe, make)
    where = next(source.net.parameters()).device
    return attacks.decoded(source.net, artifact.info["budget"],
                           *(artifact.tensors[name].to(where) for name in ("loss", "z", "y")))


def _state(net: CVAE, log: pd.DataFrame) -> tuple[dict[str, torch.Tensor], dict]:
    return net.state_dict(), {"model": net.config.asdict(), "log": log.to_dict("list")}


def _loaded(artifact: store.Artifact) -> Trained:
    """The model of an artifact, frozen, with its log."""
    with torch.device("meta"):
        net = CVAE(ModelConfig(**artifact.info["model"]))
    net.load_state_dict(artifact.tensors, assign=True)
    net.to(model.device()).eval().requires_grad_(False)
    return Trained(net, pd.DataFrame(artifact.info["log"]), artifact.info["seconds"], artifact.info["digest"])


PROBE = ModelConfig(latent_dim=2, hidden=(8, 4))


def _elbo_fingerprint(terms: ElboTerms) -> dict[str, list[str]]:
    net = model.build(PROBE, seed=0).double()
    log_likelihood, kl = terms(net, *_probe())
    return store.fingerprint({"log_likelihood": log_likelihood.sum(), "kl": kl.sum()}, net.parameters())


def _loss_fingerprint(loss: Loss, config: UnlearningConfig,
                      combine: Combine | None = None) -> dict[str, list[str]]:
    net, other = model.build(PROBE, seed=0).double(), model.build(PROBE, seed=1).double()
    x, y, z = _probe()
    anchor = dict(other.named_parameters())
    protect = {name: weight.detach().square() for name, weight in anchor.items()}
    batch = Batch((x, y, z), (1 - x, y, z), (z, y), x.square(), (x.sqrt(), y, z), (1 - x.square(), y, z), 1 - z)
    terms = loss(net, batch, config, anchor, protect)
    marks = store.fingerprint(terms, net.parameters())
    if combine:
        weights = dict(net.named_parameters())
        update = combine(unlearning.gradients(terms, weights))
        # The gradient of this scalar is the update.
        marks |= store.fingerprint({"combine": sum((update[name] * weights[name]).sum() for name in weights)},
                                   net.parameters())
    return marks


def _probe() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(3, *shape, generator=generator, dtype=torch.double)
                 for shape in (PROBE.image_shape, (PROBE.classes,), (PROBE.latent_dim,)))
