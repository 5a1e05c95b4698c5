"""Stacks: many models of one shape, trained, unlearned and attacked side by side.

One small model leaves a GPU idle. Here the weights of K models are stacked to [K, ...], and PyTorch's vmap runs a
function of a model on all of them at once. A stack of one model is the model that `training`, `unlearning` and
`reconstruction` would make, up to rounding; in a larger one, all draw their numbers from one generator.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from .checks import check_images, check_seed, check_types
from .data import Dataset
from .decoders import decoder_of
from .fisher import Diagonal
from .judges import Judge
from .labels import check_label, forget_set, one_hot, retain_set, select
from .methods import Method
from .model import CVAE, ModelConfig, build, device
from .reconstruction import Problem, SearchConfig, by_each, search
from .settings import with_native_products
from .threats import AttackResult, Threat
from .training import KL_SHARE, TrainingConfig, batches, check_fits, minimize, start_at_mean
from .unlearning import Combine, batch_of, draws, labeled, refresh, salient_masks
from .unlearning import gradients as gradients_of

__all__ = ["Stack", "forget", "joined", "negative_elbo", "prior_samples", "reconstruct", "recorded", "relearn",
           "stacked", "train"]


@dataclass(frozen=True)
class Stack:
    """K models of one shape.

    Attributes:
        config: their shape.
        weights: name -> [K, ...].
    """

    config: ModelConfig
    weights: Diagonal

    def __len__(self) -> int:
        return len(next(iter(self.weights.values())))

    def __getitem__(self, rows: slice | Sequence[int]) -> "Stack":
        """Some of the models."""
        rows = rows if isinstance(rows, slice) else torch.tensor(rows)
        return Stack(self.config, {name: weight[rows] for name, weight in self.weights.items()})

    @property
    def where(self) -> torch.device:
        """The device of the weights."""
        return next(iter(self.weights.values())).device

    def __iter__(self) -> Iterator["Stack"]:
        """Each model, as a stack of its own."""
        return (self[row:row + 1] for row in range(len(self)))

    def models(self) -> list[CVAE]:
        """Frozen models with copies of the weights."""
        found = []
        for row in range(len(self)):
            model = build(self.config, 0).to(self.where).eval().requires_grad_(False)
            model.load_state_dict({name: weight[row] for name, weight in self.weights.items()})
            found.append(model)
        return found

    def run(self, function: Callable[..., Any], *inputs: Any, shared: Sequence[Any] = ()) -> Any:
        """`function(model, *inputs, *shared)` of every model at once.

        Args:
            inputs: tensors [K, ...], or dictionaries of such; each model gets its row.
            shared: inputs that all models get.

        Returns:
            The function's tensors, with K rows.
        """
        call = _caller(self.config)

        def single(weights, *own):
            return functional_call(call, {f"model.{name}": weight for name, weight in weights.items()},
                                   (function, *own, *shared))

        if len(self) == 1:  # plain products are faster than those of a stack
            result = single(*tree_map(lambda rows: rows.squeeze(0), (self.weights, *inputs)))
            return tree_map(lambda own: own.unsqueeze(0), result)
        return vmap(single)(self.weights, *inputs)


class _Call(nn.Module):
    """A function of a model as a module, for `functional_call`."""

    def __init__(self, model: CVAE):
        super().__init__()
        self.model = model

    def forward(self, function, *inputs):
        return function(self.model, *inputs)


@cache
def _caller(config: ModelConfig) -> _Call:
    """A module without weights of its own."""
    with torch.device("meta"):
        return _Call(CVAE(config))


def stacked(models: Sequence[CVAE]) -> Stack:
    """The stack of models of one shape."""
    return Stack(models[0].config, _stacked([dict(model.named_parameters()) for model in models]))


def joined(stacks: Sequence[Stack]) -> Stack:
    """All models of several stacks, one after another."""
    return Stack(stacks[0].config, {name: torch.cat([stack.weights[name] for stack in stacks])
                                    for name in stacks[0].weights})


def _stacked(rows: Sequence[Diagonal]) -> Diagonal:
    return {name: torch.stack([row[name].detach() for row in rows]) for name in rows[0]}


def train(dataset: Dataset, model: ModelConfig, config: TrainingConfig, seeds: Sequence[int],
          without: Sequence[int] = ()) -> Stack:
    """Models whose weights begin with these seeds, trained as `training.new_cvae` does it."""
    check_fits(dataset, model)
    keep = select(dataset.train_labels, retain_set(without, model.classes))
    images = dataset.train_images[keep].to(device())
    labels = one_hot(dataset.train_labels[keep], model.classes).to(device())
    models = [build(model, check_seed(seed)).to(device()) for seed in seeds]
    for one in models:
        start_at_mean(one, images)
    generator = torch.Generator(images.device).manual_seed(seeds[0])
    indices = [batches(len(images), config.batch, generator) for _ in seeds]
    steps = config.epochs * max(1, len(images) // config.batch)
    stack = _trainable(stacked(models))

    def draw(step):
        at = torch.stack([next(own) for own in indices])
        noise = torch.randn(*at.shape, model.latent_dim, generator=generator, device=at.device)
        weight = 1 + (config.kl_start - 1) * max(0.0, 1 - step / (KL_SHARE * steps))
        return {"at": at, "noise": noise, "weight": torch.full((len(at),), weight, device=at.device)}

    def terms(one, numbers):
        at = numbers["at"]
        log_likelihood, kl = one.elbo_terms(images[at], labels[at], numbers["noise"])
        return {"reconstruction": -log_likelihood.mean(), "kl": numbers["weight"] * kl.mean()}

    _minimize(stack, draw, terms, (), steps, config.peak_lr, f"train {len(seeds)} CVAEs")
    return _frozen(stack)


def forget(stack: Stack, dataset: Dataset, forget: int | Sequence[int], method: Method, seeds: Sequence[int],
           fishers: Sequence[Diagonal] = ()) -> Stack:
    """The models after a method has made them forget classes, as `unlearning.unlearn` does it.

    Args:
        forget: classes to forget now, and those forgotten before.
        seeds: one for each model, of its new weights; the first is that of all random numbers.
        fishers: of the classes to protect, one for each model, if the method has such a term.
    """
    check_types(stack=(stack, Stack), method=(method, Method))
    shape = stack.config
    forget = tuple(sorted(forget_set(forget, classes=shape.classes)))
    check_fits(dataset, shape)
    config, where, retain = method.config, stack.where, retain_set(forget, shape.classes)
    kept = labeled(shape, dataset.train_images, dataset.train_labels, retain, where) if config.real else None
    gone = (labeled(shape, dataset.train_images, dataset.train_labels, forget, where)
            if config.forget or config.salient < 1 else None)
    models = stack.models()
    generator = torch.Generator(where).manual_seed(check_seed(seeds[0]))
    if config.fresh:
        for model, seed in zip(models, seeds, strict=True):
            refresh(model, forget, config.fresh, check_seed(seed))
    masks = _stacked([salient_masks(model.requires_grad_(True), *gone, config.salient, generator)
                      for model in models]) if config.salient < 1 else {}
    student = _trainable(stacked(models))
    numbers = draws(shape, len(kept[0]) if kept else 0, len(gone[0]) if gone else 0, retain,
                    forget, config, generator, len(stack))
    protect = _stacked([{name: f.to(where) for name, f in own.items()} for own in fishers]) if config.ewc else {}

    def terms(one, numbers, original, protect):
        batch = functional_call(_caller(stack.config), {f"model.{name}": weight for name, weight in original.items()},
                                (batch_of, numbers, kept, gone))
        return method.loss(one, batch, config, original, protect)

    _minimize(student, lambda step: next(numbers), terms, (stack.weights, protect), config.steps, config.peak_lr,
              f"forget {', '.join(map(str, forget))}, {len(stack)} models", config.schedule, method.combine, masks)
    return _frozen(student)


def _minimize(stack: Stack, draw: Callable[[int], dict[str, torch.Tensor]], terms: Callable[..., Diagonal],
              inputs: Sequence[Diagonal], steps: int, peak_lr: float, title: str, schedule: str = "one-cycle",
              combine: Combine | None = None, masks: Diagonal | None = None) -> None:
    """Minimize the sum of terms(model, draw(step), *inputs) of each model, in place.

    Args:
        combine, masks: as in `unlearning.unlearn`, with a leading axis of models.
    """
    weights = stack.weights

    def gradients(numbers):
        with with_native_products(stack.where):
            return own_gradients(numbers)

    def own_gradients(numbers):
        values = {term: value.sum() for term, value in stack.run(terms, numbers, *inputs).items()}
        if combine:
            found = combine(gradients_of(values, weights), stacked=True)
        else:  # the gradient of the sum over the models is that of each model
            found = gradients_of({"": sum(values.values())}, weights)[""]
        # The fused optimizer takes a gradient to lie in memory as its weight does.
        return (sum(values.values()).detach(), {
            name: (gradient * masks[name] if masks else gradient).contiguous() for name, gradient in found.items()})

    step_of = recorded(gradients, draw(0)) if stack.where.type == "cuda" else own_gradients
    current: Diagonal = {}

    def loss(step):
        value, own = step_of(draw(step))
        current.update(own)
        return value, {}

    def backward(value):
        for name, weight in weights.items():
            weight.grad = current[name]

    minimize(weights.values(), loss, steps, peak_lr, title, schedule=schedule, backward=backward)


def recorded(function: Callable[[dict[str, torch.Tensor]], Any],
             example: dict[str, torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], Any]:
    """A function of tensors on a GPU as one recorded graph: its many small kernels are launched at once.

    The next call overwrites its result.

    Args:
        example: inputs of the shapes that all calls will have.
    """
    inputs = {name: tensor.clone() for name, tensor in example.items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # the first calls set up libraries, which cannot be recorded
        for _ in range(3):
            function(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(inputs)

    def replay(numbers):
        for name, tensor in numbers.items():
            inputs[name].copy_(tensor)
        graph.replay()
        return result
    return replay


def _trainable(stack: Stack) -> Stack:
    return Stack(stack.config, {name: weight.clone().requires_grad_() for name, weight in stack.weights.items()})


def _frozen(stack: Stack) -> Stack:
    return Stack(stack.config, {name: weight.detach() for name, weight in stack.weights.items()})


@torch.no_grad()
def negative_elbo(stack: Stack, images: torch.Tensor, labels: torch.Tensor, seed: int = 0,
                  draws: int = 4) -> torch.Tensor:
    """`evaluation.negative_elbo` of every model, [K, N], nats: all models get the same draws."""
    check_images(images, shape=stack.config.image_shape)
    generator = torch.Generator().manual_seed(check_seed(seed))
    noise = torch.randn(draws, len(images), stack.config.latent_dim, generator=generator).to(stack.where)
    images, y = images.to(stack.where), one_hot(labels, stack.config.classes).to(stack.where)
    return torch.cat([sum(-stack.run(CVAE.elbo, shared=part) for part in ((x, own, draw) for draw in own_noise)) / draws
                      for x, own, own_noise in zip(images.split(512), y.split(512), noise.split(512, 1))], 1)


@torch.no_grad()
def prior_samples(stack: Stack, labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """`evaluation.prior_samples` of every model, `[K, N, *image_shape]`."""
    generator = torch.Generator().manual_seed(check_seed(seed))
    z = torch.randn(len(labels), stack.config.latent_dim, generator=generator).to(stack.where)
    return stack.run(CVAE.decode, shared=(z, one_hot(labels, stack.config.classes).to(stack.where)))


class _Problem(Problem):
    """`reconstruction.Problem` for a stack: the targets of the first model, then those of the second, and so on."""

    def __init__(self, stack: Stack, targets: torch.Tensor, label: int, threat: Threat):
        super().__init__(decoder_of(stack[:1].models()[0], stack.config.image_shape), targets, label, threat)
        self.stack, self.own = stack, self.targets
        self.targets = self.targets.repeat(len(stack), 1, 1, 1)
        self.some_rows &= len(stack) == 1

    def images(self, values: torch.Tensor) -> torch.Tensor:
        return self._images(values.unflatten(0, (len(self.stack), -1))).flatten(0, 1)

    def _images(self, values: torch.Tensor) -> torch.Tensor:
        """[K, R, P] -> [K, R, pixels]"""
        if len(self.stack) == 1:
            return super().images(values[0])[None]
        z, y = self.inputs(values.flatten(0, 1))
        shape = values.shape[:2]
        return self.stack.run(CVAE.decode, z.unflatten(0, shape), y.unflatten(0, shape)).flatten(2)

    def best(self, values: torch.Tensor, count: int) -> torch.Tensor:
        images = self._images(values.expand(len(self.stack), -1, -1))
        distances = torch.cdist(self.own.flatten(1), images)
        return distances.topk(min(count, len(values)), largest=False).indices.flatten(0, 1)

    def codes(self) -> torch.Tensor:
        y = self.label if self.threat.y == "label" else torch.eye(self.classes, device=self.where)
        labels = y.repeat(self.group, 1)
        z, _ = self.stack.run(CVAE.encode, shared=(self.own.repeat_interleave(len(y), 0), labels))
        values = self.raw(z.flatten(0, 1), labels.repeat(len(self.stack), 1))
        return self.allowed(values).view(len(self.targets), len(y), -1)

    def similar(self, values: torch.Tensor, count: int) -> torch.Tensor:
        images = self.images(values).unflatten(0, (len(self.stack), -1))
        distances = torch.cdist(self.own.flatten(1), images)
        distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        near = distances.topk(count, largest=False).indices
        first = torch.arange(len(self.stack), device=self.where)[:, None, None] * self.group
        return (near + first).flatten(0, 1)

    def for_each(self, draw: Callable[..., torch.Tensor], *shape: int) -> torch.Tensor:
        own = draw(self.group, *shape).to(self.where)
        return own.repeat(len(self.stack), *[1] * (own.ndim - 1))

    def normal_equations(self, values: torch.Tensor, difference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self.stack) == 1:
            return super().normal_equations(values, difference)
        return self._equations(values, difference)  # all at once: the rows of a model must stay together

    def derivatives(self, values: torch.Tensor) -> torch.Tensor:
        return super().derivatives(values) if len(self.stack) == 1 else by_each(self.images, values)


@torch.no_grad()
def reconstruct(stack: Stack, targets: torch.Tensor, label: int, threat: Threat, config: SearchConfig = SearchConfig(),
                seed: int = 0, weaker: AttackResult | None = None) -> AttackResult:
    """The attack of `reconstruction.reconstruct` on every model of a stack.

    Args:
        targets: `[N, *image_shape]`, the same for all models.
        weaker: this function's result under a threat model with less freedom.

    Returns:
        The end of the attack alone: errors [K N], the targets of the first model first; without images.
    """
    check_types(stack=(stack, Stack), threat=(threat, Threat), config=(config, SearchConfig))
    check_images(targets, "targets", stack.config.image_shape)
    check_label(label, stack.config.classes)
    budget, (error, z, y) = search(_Problem(stack, targets, label, threat), config, check_seed(seed), weaker)
    return AttackResult(budget[-1:], error[-1:], z[-1:], y[-1:], torch.empty(0))


def relearn(stack: Stack, images: torch.Tensor, label: int, judge: Judge, seed: int = 0, steps: int = 200,
            lr: float = 1e-3, batch: int = 32, every: int = 20, samples: int = 200) -> torch.Tensor:
    """The accuracies of `attacks.relearn` for every model, [K, 1 + steps // every]."""
    check_types(stack=(stack, Stack), judge=(judge, Judge))
    check_images(images, shape=stack.config.image_shape)
    where, latent_dim, classes = stack.where, stack.config.latent_dim, stack.config.classes
    student = _trainable(stack)
    optimizer = torch.optim.Adam(student.weights.values(), lr=lr, fused=True)
    generator = torch.Generator(where).manual_seed(check_seed(seed))
    indices = [batches(len(images), batch, generator) for _ in range(len(stack))]
    images, y = images.to(where), one_hot(torch.tensor([label]), classes).to(where)

    def normal(count):
        return torch.randn(len(stack), count, latent_dim, generator=generator, device=where)

    z, accuracy = normal(samples), []
    for step in range(steps + 1):
        if step % every == 0:
            with torch.no_grad():
                drawn = _frozen(student).run(CVAE.decode, z, shared=(y.expand(samples, -1),))
            answers = judge.probabilities(drawn.flatten(0, 1)).argmax(1).view(len(stack), -1)
            accuracy.append((answers == label).float().mean(1).cpu())
        at = torch.stack([next(own) for own in indices])
        loss = -student.run(lambda one, x, noise: one.elbo(x, y.expand(len(x), -1), noise), images[at],
                            normal(at.shape[1])).mean(1).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return torch.stack(accuracy, 1)
