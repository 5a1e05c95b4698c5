"""Unlearning: make a trained CVAE forget classes and keep the rest, by one of the methods in `sa_lib.methods`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd
import torch

from . import fisher as fisher_module
from . import methods as methods_module
from . import model as model_module
from . import store, training
from .data import Dataset
from .fisher import Diagonal, combine, fisher_by_class
from .inputs import check_fisher, check_images, check_labels, check_seed, check_types, check_whole
from .methods import (GRAY, METHODS, Batch, Method, Sample, Terms, UnlearningConfig, distance_to_gray, ewc_gray,
                      ewc_penalty, fine_tune, gradient_ascent, saliency, selective_amnesia)
from .model import CLASSES, CVAE, ModelConfig, build, one_hot
from .training import Trained, TrainingConfig, batches, minimise, retained, select, trained

__all__ = ["GRAY", "METHODS", "Batch", "Method", "Sample", "Terms", "UnlearningConfig", "distance_to_gray", "ewc_gray",
           "ewc_penalty", "fine_tune", "get_fisher", "get_fishers", "get_forgotten", "get_never_saw", "get_sequence",
           "get_unlearned", "gradient_ascent", "saliency", "selective_amnesia", "unlearn"]


def unlearn(model: CVAE, images: torch.Tensor, labels: torch.Tensor, forget: Sequence[int],
            fisher: Diagonal, config: UnlearningConfig, seed: int, terms: Terms = ewc_gray,
            push: Sequence[int] | None = None, anchor: CVAE | None = None,
            title: str = "unlearn") -> pd.DataFrame:
    """Make `model` forget classes, in place.

    Args:
        model: the trained model; a frozen copy of it generates the replay.
        images: [N, 1, 28, 28] of any classes; those of the classes to forget
            are used by a method with a `forget` term or with `salient` below 1 alone.
        labels: [N].
        forget: classes that are not to be rehearsed, one to nine of them:
            those to forget now and those forgotten before.
        fisher: `fisher.Diagonal` of the classes to protect.
        terms: the loss, as a dictionary of weighted terms.
        push: those of `forget` that are sent to gray; all by default.
        anchor: the model whose weights are theta*; by default `model` as it
            is at the start.

    Returns:
        The log: per logged step the value of each weighted term and the
        norm of its gradient (`<term>_grad`).

    Raises:
        ValueError: `forget` is empty, has repeated or unknown classes, or all
            ten; `push` has others or none.
        FloatingPointError: the loss is no longer finite.
    """
    keep, push = _targets(forget, push)
    check_types(model=(model, CVAE), images=(images, torch.Tensor), config=(config, UnlearningConfig))
    check_labels(labels, len(images) if images.ndim else 0)
    check_seed(seed)
    if config.ewc:
        check_fisher(model, fisher)
    check_fisher(model, dict((anchor or model).named_parameters()), "anchor")
    where = next(model.parameters()).device
    original = build(model.config, 0).to(where).requires_grad_(False)
    original.load_state_dict(model.state_dict())
    theta = {name: weight.to(where) for name, weight in (anchor or original).named_parameters()}
    fisher = {name: f.to(where) for name, f in fisher.items()}
    kept, gone = select(labels, keep), select(labels, push)
    # What is not used may be anything: a method without data is none that looks at them.
    for used, chosen in ((config.real, kept), (config.forget or config.salient < 1, gone)):
        if used:
            check_images(images[chosen])
    kept_x, kept_y = images[kept].to(where), one_hot(labels[kept]).to(where)
    keep_y = one_hot(torch.tensor(keep)).to(where)
    push_y = one_hot(torch.tensor(push)).to(where)
    generator = torch.Generator(where).manual_seed(seed)
    indices = batches(len(kept_x), config.batch, generator) if config.real else None
    if config.forget or config.salient < 1:
        gone_x, gone_y = images[gone].to(where), one_hot(labels[gone]).to(where)
    if config.forget:
        gone_indices = batches(len(gone_x), config.forget_batch, generator)

    def normal(count):
        return torch.randn(count, model.config.latent_dim, generator=generator, device=where)

    def draw(vectors, count):
        return vectors[torch.randint(len(vectors), (count,), generator=generator, device=where)]

    def next_batch():
        real = replay = None
        if config.real:
            batch = next(indices)
            real = kept_x[batch], kept_y[batch], normal(len(batch))
        if config.replay:
            replay_y = draw(keep_y, config.batch)
            with torch.no_grad():
                replay_x = original.decode(normal(config.batch), replay_y)
            replay = replay_x, replay_y, normal(config.batch)
        count = config.forget_batch
        forget = z, labelled = normal(count), draw(push_y, count)
        if not config.forget:
            return Batch(real, replay, forget)
        with torch.no_grad():
            other = original.decode(z, draw(keep_y, count))
        batch = next(gone_indices)
        uniform = torch.rand(count, 1, 28, 28, generator=generator, device=where)
        return Batch(real, replay, forget, other, (gone_x[batch], gone_y[batch], normal(len(batch))),
                     (uniform, labelled, normal(count)))

    if config.fresh:
        _refresh(model, push, config.fresh, seed)
    weights = list(model.parameters())
    log_every = max(1, config.steps // 50)

    def loss(step):
        values = terms(model, next_batch(), config, theta, fisher)
        record = dict(values)
        if step % log_every == 0:
            for name, value in values.items():
                gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
                record[f"{name}_grad"] = torch.stack([g.norm() for g in gradients if g is not None]).norm()
        return sum(values.values()), record

    model.requires_grad_(True).train()
    if config.salient < 1:
        masks = _salient(model, gone_x, gone_y, normal(len(gone_x)), config.salient)
        hooks = [weight.register_hook(mask.mul) for weight, mask in zip(weights, masks)]
    else:
        hooks = []
    log = minimise(weights, loss, config.steps, config.peak_lr, title, log_every)
    for hook in hooks:
        hook.remove()
    model.requires_grad_(False).eval()
    return log


@torch.no_grad()
def _refresh(model: CVAE, labels: Sequence[int], share: float, seed: int) -> None:
    """Mix new weights into the model's, and put them in place of those that read the labels."""
    new = build(model.config, seed + 1).to(next(model.parameters()).device)
    for old, drawn in zip(model.parameters(), new.parameters()):
        old.lerp_(drawn, share)
    for side in ("encoder", "decoder"):
        # In both architectures the label comes last among the inputs of the first layer.
        columns = [k - CLASSES for k in labels]
        getattr(model, side).layers[0].weight[:, columns] = getattr(new, side).layers[0].weight[:, columns]


def _salient(model: CVAE, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor, share: float) -> list[torch.Tensor]:
    """1 for the `share` of the weights with the largest gradients of the images' ELBO, 0 for the others."""
    weights = list(model.parameters())
    total = [torch.zeros_like(weight) for weight in weights]
    for part in zip(x.split(512), y.split(512), noise.split(512)):
        for sum_, gradient in zip(total, torch.autograd.grad(model.elbo(*part).sum(), weights)):
            sum_ += gradient
    size = torch.cat([gradient.abs().flatten() for gradient in total])
    threshold = size.kthvalue(max(1, round((1 - share) * len(size)))).values
    return [(gradient.abs() > threshold).float() for gradient in total]


def _targets(forget: Sequence[int], push: Sequence[int] | None) -> tuple[list[int], list[int]]:
    """The classes to rehearse and those to send to gray."""
    keep = retained(forget)
    push = forget if push is None else push
    push = sorted(push) if isinstance(push, (list, tuple)) and all(type(k) is int for k in push) else []
    if not push or not set(push) <= set(forget):
        raise ValueError(f"forget={list(forget)}, push={push} will not do; give at least one class to forget, "
                         "and push classes among them")
    return keep, push


def get_fishers(source: Trained, dataset: Dataset, seed: int = 0) -> dict[int, Diagonal]:
    """The data Fisher of each class over all its training images, from the store if it is there."""
    check_types(source=(source, Trained), dataset=(dataset, Dataset))
    check_seed(seed)
    recipe = {"model": source.digest, "data": dataset.digest, "seed": seed,
              "code": store.code_digest(model_module, fisher_module, sys.modules[__name__])}

    def make():
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(dataset.train_labels), source.model.config.latent_dim, generator=generator)
        fishers = fisher_by_class(source.model, dataset.train_images, dataset.train_labels, noise)
        return {f"{k}/{name}": f for k, fisher in fishers.items() for name, f in fisher.items()}, {}

    artefact = store.get_or_make("fisher", recipe, make)
    fishers: dict[int, Diagonal] = {}
    for key, f in artefact.tensors.items():
        k, name = key.split("/")
        fishers.setdefault(int(k), {})[name] = f
    return fishers


def get_fisher(source: Trained, dataset: Dataset, forget: Sequence[int], seed: int = 0) -> Diagonal:
    """The data Fisher of the classes that are not in `forget`, over all their training images."""
    check_types(source=(source, Trained), dataset=(dataset, Dataset))
    retained(forget)
    counts = torch.bincount(dataset.train_labels, minlength=CLASSES).tolist()
    return combine(get_fishers(source, dataset, seed), {k: counts[k] for k in retained(forget) if counts[k]})


def get_unlearned(source: Trained, dataset: Dataset, forget: Sequence[int], fisher: Diagonal,
                  config: UnlearningConfig = UnlearningConfig(), seed: int = 0, terms: Terms = ewc_gray,
                  push: Sequence[int] | None = None, anchor: Trained | None = None) -> Trained:
    """`source` made to forget `forget`, from the store if it is there; see `unlearn`.

    `terms` is part of what the result is found by, through its values and
    gradients on a fixed probe: a changed loss is another model.

    Raises:
        ValueError: as `unlearn`.
    """
    _, push = _targets(forget, push)
    check_types(source=(source, Trained), dataset=(dataset, Dataset), config=(config, UnlearningConfig),
                anchor=(anchor, (Trained, type(None))))
    check_seed(seed)
    if config.ewc:
        check_fisher(source.model, fisher)
    forget, anchor = sorted(forget), anchor or source
    recipe = {"source": source.digest, "data": dataset.digest, "forget": forget, "push": push,
              "anchor": anchor.digest, "fisher": store.tensor_digest(fisher), "unlearning": asdict(config),
              "seed": seed, "terms": _fingerprint(terms, config),
              "code": store.code_digest(model_module, training, methods_module, sys.modules[__name__])}

    def make():
        model = build(source.model.config, 0).to(training.device())
        model.load_state_dict(source.model.state_dict())
        title = f"forget {', '.join(map(str, push))}" if config.gray else "further updates"
        log = unlearn(model, dataset.train_images, dataset.train_labels, forget, fisher, config, seed, terms,
                      push, anchor.model, title)
        return model.state_dict(), {"model": model.config.asdict(), "log": log.to_dict("list")}

    return trained(store.get_or_make("unlearned", recipe, make))


def get_forgotten(source: Trained, dataset: Dataset, forget: Sequence[int], method: Method, seed: int = 0) -> Trained:
    """`source` made to forget by one of `METHODS`, or one of your own; see `get_unlearned`."""
    check_types(method=(method, Method))
    fisher = get_fisher(source, dataset, forget, seed) if method.config.ewc else {}
    return get_unlearned(source, dataset, forget, fisher, method.config, seed, method.terms)


def get_sequence(source: Trained, dataset: Dataset, sequence: Sequence[int],
                 config: UnlearningConfig = UnlearningConfig(), seed: int = 0,
                 terms: Terms = ewc_gray) -> list[Trained]:
    """`source` made to forget the classes of `sequence` one after another.

    Each step starts from the model of the step before and is anchored there,
    protects what is still retained by a new Fisher, and sends all classes
    forgotten so far to gray.

    Returns:
        The models after each step.

    Raises:
        ValueError: as `unlearn`.
    """
    _targets(sequence, None)  # all of it, before the first of it is trained
    models = [source]
    for count in range(1, len(sequence) + 1):
        gone = sequence[:count]
        fisher = get_fisher(models[-1], dataset, gone, seed)
        models.append(get_unlearned(models[-1], dataset, gone, fisher, config, seed, terms))
    return models[1:]


def get_never_saw(dataset: Dataset, forget: Sequence[int], model_config: ModelConfig = ModelConfig(),
                  training_config: TrainingConfig = TrainingConfig(),
                  config: UnlearningConfig = UnlearningConfig(), rounds: int = 1, seed: int = 0) -> Trained:
    """The reference for a model made to forget `forget`: one that never saw these classes.

    It is trained like the baseline, then given as many further updates on
    the retained images as the unlearning took, for without them it would
    have been trained for less long.

    Args:
        config: that of the unlearning; of its terms only the real images are left.
        rounds: number of times that unlearning with `config` was done.

    Raises:
        ValueError: as `training.get_cvae`; `forget` is empty.
    """
    check_types(config=(config, UnlearningConfig))
    check_whole(rounds=rounds)
    _targets(forget, None)
    source = training.get_cvae(dataset, model_config, training_config, seed, forget)
    updates = replace(config, steps=rounds * config.steps, real=1.0, replay=0.0, ewc=0.0, gray=0.0)
    return get_unlearned(source, dataset, forget, {}, updates, seed)


def _fingerprint(terms: Terms, config: UnlearningConfig) -> dict[str, list[str]]:
    generator = torch.Generator().manual_seed(0)
    shape = model_module.ModelConfig(latent_dim=2, hidden=(8, 4))
    model, other = build(shape, seed=0).double(), build(shape, seed=1).double()
    x, y, z = (torch.rand(3, *size, generator=generator, dtype=torch.double)
               for size in ((1, 28, 28), (CLASSES,), (2,)))
    anchor = dict(other.named_parameters())
    fisher = {name: weight.detach().square() for name, weight in anchor.items()}
    batch = Batch((x, y, z), (1 - x, y, z), (z, y), x.square(), (x.sqrt(), y, z), (1 - x.square(), y, z))
    values = terms(model, batch, config, anchor, fisher)
    return store.fingerprint(values, model.parameters())
