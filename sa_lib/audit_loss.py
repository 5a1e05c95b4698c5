"""The losses of an audit: membership inference and relearning, for any model with a loss.

An attacker with training images of the class compares their losses with those of other images: membership inference.
One with the weights trains the model on them, and the class comes back: relearning. Neither proves anything by itself,
so controls, which never saw the class, get the same. This module needs PyTorch and NumPy alone.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from .audit_attack import Plan
from .checks import check_config, check_number, check_seed, check_types, check_whole, shorten
from .decoders import CHUNK, PROBES, SAME, Decoder, shape_of
from .reconstruction import check_attack
from .settings import with_defaults
from .store import tensor_digest
from .threats import THREATS

__all__ = ["Loss", "Losses", "RelearnConfig", "auc", "losses", "mend"]

# loss(model, x, y, generator) -> [N]; see `audit.audit`.
Loss = Callable[[Any, torch.Tensor, torch.Tensor | None, torch.Generator], torch.Tensor]
# Random draws of a loss, of which the mean counts.
DRAWS = 4
OTHERS = ("baseline", "subject")


@dataclass(frozen=True)
class RelearnConfig:
    """Training of a copy: so many `updates` of Adam at the rate `lr`, with at most `batch` images each.

    The loss of the held-out images is measured before the first update, then after each `every` and after the last.
    """

    updates: int = 100
    lr: float = 1e-3
    batch: int = 32
    every: int = 10


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of an audit's models: "baseline", "subject", and controls of any other names.

    Attributes:
        seen: model -> losses [M] of training images of the class, float64.
        held_out: model -> losses [N] of images that no model was trained on.
        relearning: model -> mean losses [S] of the held-out images, while a copy is trained on those seen; empty
            without relearning.
        steps: S numbers of updates, from 0.
        config: of the relearning; None without it.
    """

    seen: Mapping[str, torch.Tensor]
    held_out: Mapping[str, torch.Tensor]
    relearning: Mapping[str, torch.Tensor] = field(default_factory=dict)
    steps: tuple[int, ...] = ()
    config: RelearnConfig | None = None

    @property
    def membership(self) -> dict[str, tuple[float, float]]:
        """Model -> the AUC of membership inference and its standard error, see `auc`."""
        return {name: auc(seen, self.held_out[name]) for name, seen in self.seen.items()}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all losses."""
        return tensor_digest({f"{part}/{name}": values for part in ("seen", "held_out", "relearning")
                              for name, values in getattr(self, part).items()})

    @property
    def means(self) -> dict[str, float]:
        """Model -> the mean loss of the held-out images along the relearning: lower means faster, or less far to go."""
        return {name: float(path.mean()) for name, path in self.relearning.items()}

    @property
    def sentences(self) -> tuple[str, ...]:
        """A sentence on the membership inference, and one on the relearning if there is any."""
        found = [f"Membership inference: AUC {_compared({name: one for name, (one, _) in self.membership.items()})}. "
                 + _meaning({name: one for name, (one, _) in self.membership.items()}, {
                     "above": "its losses tell training images of the class from held-out ones better than those of "
                              "all controls",
                     "among": "its losses tell training images of the class no better than those of controls, which "
                              "never saw them",
                     "below": "its losses tell training images of the class less well than those of all controls"})]
        if self.relearning:
            found.append(f"Relearning: mean held-out loss {_compared(self.means)}. " + _meaning(self.means, {
                "above": "the class comes back more slowly than in all controls",
                "among": "the class comes back no faster than in controls, which never saw it",
                "below": "the class comes back faster than in all controls, or was nearer from the start"}))
        return tuple(found)

    def asdict(self) -> dict[str, Any]:
        """All of the above as JSON values."""
        membership = self.membership
        found = {"seen": len(self.seen["subject"]), "membership": {
            "auc": {name: one for name, (one, _) in membership.items()},
            "standard_error": {name: error for name, (_, error) in membership.items()},
            "meaning": self.sentences[0]}, "relearning": None}
        if self.relearning:
            found["relearning"] = {"mean_loss": self.means, "steps": list(self.steps), "loss": {
                name: path.tolist() for name, path in self.relearning.items()}, "settings": asdict(self.config),
                "meaning": self.sentences[1]}
        return found


def auc(seen: torch.Tensor, others: torch.Tensor) -> tuple[float, float]:
    """How well losses tell images that were seen from others.

    Args:
        seen: losses [M], M >= 2.
        others: losses [N], N >= 2.

    Returns:
        The AUC, the probability that an image that was seen has a lower loss than another, 0-1 (0.5: it tells nothing),
        and its standard error (DeLong et al. 1988, Biometrics 44, 837-845), which is 0, too small, at an AUC of 0 or 1.
    """
    below = 1 - _share_below(seen, others), _share_below(others, seen)  # DeLong's components: V10, V01
    variance = sum(part.var() / len(part) for part in below)
    return tuple(torch.stack([below[0].mean(), variance.sqrt()]).tolist())


def _share_below(values: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """For each value the share of `among` that is below it; a tie counts half."""
    among = among.sort().values
    count = torch.searchsorted(among, values) + torch.searchsorted(among, values, right=True)
    return count.double() / (2 * len(among))


def losses(plan: Plan, models: Mapping[str, Any], decoders: Mapping[str, Decoder], loss: Loss, seen: torch.Tensor,
           y_shape: tuple[int, ...] | int | None, config: RelearnConfig | None) -> tuple[Losses, tuple[str, ...]]:
    """The losses of all models of an audit, and notes on their conduct. No module is changed: each is copied first.

    Args:
        plan: its `targets` are held-out images of the class; its seed is that of the loss's draws.
        models, decoders: by name: "baseline", "subject" and the controls.
        loss: see `audit.audit`.
        seen: training images of the class, `[M, *image_shape]`, M >= 2.
        y_shape: of one label; None: that of the decoder, if it has labels.
        config: of the relearning; None: leave it out. It is left out too if a model is no module with parameters.

    Raises:
        TypeError, ValueError: `seen` or the loss is not as it should be.
        FloatingPointError: a loss is no longer finite in the relearning.
    """
    if not callable(loss):
        raise TypeError(f"loss must be a function of model, x, y and generator, got {shorten(loss)}")
    check_types(seen=(seen, torch.Tensor), relearning=(config, (RelearnConfig, type(None))))
    if config is not None:
        check_config(config)
    shape = tuple(plan.targets.shape[1:])
    if (tuple(seen.shape[1:]) != shape or len(seen) < 2 or not seen.is_floating_point()
            or not bool(seen.isfinite().all())):
        raise ValueError(f"seen must be finite floating-point [N, {', '.join(map(str, shape))}] with at least two "
                         f"images, got {seen.dtype} {list(seen.shape)}")
    seen = seen.detach().float()
    notes = ("The losses come from a function that was given, which no digest covers.", *_same_notes(plan, seen))
    owners = {name: _owner(model) for name, model in models.items()}
    closed = [name for name, one in owners.items()
              if not isinstance(one, nn.Module) or next(one.parameters(), None) is None]
    if config is not None and closed:
        config = None
        notes = (*notes, "No model was trained again, for a module of PyTorch with parameters is needed, and "
                         f"{', '.join(closed)} {'is none' if len(closed) == 1 else 'are none'}.")
    parts: dict[str, list[torch.Tensor]] = {"seen": [], "held_out": [], "relearning": []}
    for name, owner in owners.items():
        plan.progress(f"{name}: losses{', relearning' if config else ''}")
        check_attack(decoders[name], plan.targets, plan.label, THREATS[plan.threats[0]])
        task = _Task(loss, _label(decoders[name], plan.label, y_shape), decoders[name].where, plan.seed, name)
        own = _copy(owner, name)
        parts["seen"].append(_measured(task, own, seen))
        parts["held_out"].append(_measured(task, own, plan.targets))
        if config:
            parts["relearning"].append(_relearned(task, own, seen, plan.targets, config))
    named = {part: dict(zip(owners, values)) for part, values in parts.items()}
    return Losses(**named, steps=_steps(config) if config else (), config=config), notes


@dataclass(frozen=True, eq=False)
class _Task:
    """A loss with its label [1, ...] (None: no labels), device, seed, and the name of the model in a message."""

    loss: Loss
    y: torch.Tensor | None
    where: torch.device
    seed: int
    name: str

    def generator(self) -> torch.Generator:
        return torch.Generator(self.where).manual_seed(self.seed)

    def __call__(self, model: Any, x: torch.Tensor, generator: torch.Generator,
                 y: torch.Tensor | None = None) -> torch.Tensor:
        """The loss [N] of images [N, ...], which may be infinite or NaN; with labels of their own, if there are any."""
        if y is None and self.y is not None:
            y = self.y.expand(len(x), *self.y.shape[1:])
        try:
            values = self.loss(model, x.to(self.where), y, generator)
        except Exception as error:  # a foreign loss can fail in any way
            raise ValueError(f"loss must take a model, x {list(x.shape)}, y {'None' if y is None else list(y.shape)} "
                             f"and a generator, got a {type(error).__name__} for {self.name}: "
                             f"{shorten(' '.join(str(error).split()))}") from None
        if not isinstance(values, torch.Tensor) or values.shape != (len(x),) or not values.is_floating_point():
            raise ValueError(f"loss must give a floating-point number for each image, [{len(x)}], got "
                             f"{list(getattr(values, 'shape', [])) or type(values).__name__} for {self.name}")
        return values


def _owner(model: Any) -> Any:
    """The module behind a method of it, such as `net.decode`; else the model itself."""
    owner = getattr(model, "__self__", model)
    return owner if isinstance(owner, nn.Module) else model


def _copy(model: Any, name: str) -> Any:
    if not isinstance(model, nn.Module):
        return model
    try:
        return copy.deepcopy(model)
    except Exception as error:  # weights that were computed from others cannot be copied
        raise ValueError(f"{name} must be a module that copy.deepcopy can copy, got a {type(error).__name__}: "
                         f"{shorten(' '.join(str(error).split()))}") from None


def _label(decoder: Decoder, label: int | None, y_shape: tuple[int, ...] | int | None) -> torch.Tensor | None:
    if not decoder.classes:
        return None
    return decoder.label(label).view(1, *((decoder.classes,) if y_shape is None else shape_of(y_shape, "y_shape")))


def _same_notes(plan: Plan, seen: torch.Tensor) -> tuple[str, ...]:
    """A note if images are among those seen and among those held out."""
    held_out = {image.cpu().numpy().tobytes() for image in plan.targets}
    same = sum(image.cpu().numpy().tobytes() in held_out for image in seen)
    return (f"{same} of the images seen in training {'is' if same == 1 else 'are'} among the held-out ones too.",
            ) if same else ()


@torch.no_grad()
def _means(task: _Task, model: Any, images: torch.Tensor) -> torch.Tensor:
    """The mean loss [N] of each image over draws that are the same for all models, float64."""
    generator = task.generator()
    return sum(torch.cat([task(model, images[at:at + CHUNK], generator) for at in range(0, len(images), CHUNK)])
               .double().cpu() for _ in range(DRAWS)) / DRAWS


@torch.no_grad()
def _measured(task: _Task, model: Any, images: torch.Tensor) -> torch.Tensor:
    """As `_means`; refuse a loss that is not finite, or has noise from elsewhere than from its generator."""
    means = _means(task, model, images)
    if not means.isfinite().all():
        raise ValueError(f"loss must be finite for all images, got {int((~means.isfinite()).sum())} values that are "
                         f"not for {task.name}")
    first, again = (task(model, images[:PROBES], task.generator()) for _ in range(2))
    if float((first - again).abs().max()) > SAME * (float(first.abs().max()) or 1.0):
        raise ValueError("loss must be the same for the same generator, and draw all of its noise from it, got "
                         f"another one for {task.name}")
    return means


def _steps(config: RelearnConfig) -> tuple[int, ...]:
    return (*range(0, config.updates, config.every), config.updates)


@with_defaults()
def mend(model: nn.Module, loss: Loss, images: torch.Tensor, y: torch.Tensor | None = None, *, updates: int = 800,
         lr: float = 1e-3, batch: int = 128, seed: int = 0) -> nn.Module:
    """A copy of a model after further training on other classes than the one that is audited, frozen and in
    evaluation mode, also in the training.

    It repairs damage, and shows a residue that damage had hidden. Give the subject and every control the same, and
    both to `audit.audit` as `mended`.

    Args:
        model: a module of PyTorch with parameters; it is not changed.
        loss: see `audit.audit`.
        images: training images of the other classes, `[M, *image_shape]`.
        y: their labels, `[M, *y_shape]`; None for a model without labels.
        updates: of Adam at the rate `lr`, with `batch` random images each.

    Raises:
        TypeError, ValueError: an argument is not as described, or the loss does not fit.
        FloatingPointError: the weights are no longer finite.
    """
    check_types(model=(model, nn.Module), images=(images, torch.Tensor), y=(y, (torch.Tensor, type(None))))
    check_whole(updates=updates, batch=batch)
    check_number(lr=lr)
    if len(images) < 2 or not images.is_floating_point() or (y is not None and len(y) != len(images)):
        raise ValueError("images must be floating-point, two or more, each with a row of y if there is one, got "
                         f"{images.dtype} {list(images.shape)} and y {None if y is None else list(y.shape)}")
    weight = next(model.parameters(), None)
    if weight is None:
        raise ValueError(f"model must have parameters, got a {type(model).__name__} with none")
    copied = _copy(model, "model").eval()
    task = _Task(loss, None, weight.device, check_seed(seed), "model")
    for _ in _trained(task, copied, images, y, updates, lr, batch):
        pass
    if not all(bool(weight.isfinite().all()) for weight in copied.parameters()):
        raise FloatingPointError(f"mend: the weights are not finite after {updates} updates; lower the learning rate "
                                 f"(lr={lr})")
    return copied.requires_grad_(False)


def _relearned(task: _Task, student: nn.Module, seen: torch.Tensor, held_out: torch.Tensor,
               config: RelearnConfig) -> torch.Tensor:
    """Train a model on the images seen: the mean loss [S] of those held out along the way. The model is changed."""
    measured = []
    for step in _trained(task, student, seen, None, config.updates, config.lr, config.batch):
        if step in _steps(config):
            measured.append(_means(task, student, held_out).mean())
            if not measured[-1].isfinite():
                raise FloatingPointError(f"relearning: the loss of {task.name} is no longer finite by step {step}; "
                                         f"lower the learning rate (lr={config.lr})")
    return torch.stack(measured)


def _trained(task: _Task, student: nn.Module, images: torch.Tensor, y: torch.Tensor | None, updates: int, lr: float,
             batch: int) -> Iterator[int]:
    """Train a model, in place; each step before its update, and the last after it.

    The model stays in evaluation mode, so that dropout and statistics of batches do not differ between models.
    """
    weights = [weight.requires_grad_() for weight in student.parameters() if weight.is_floating_point()]
    optimizer = torch.optim.Adam(weights, lr=lr)
    generator, order = task.generator(), torch.Generator().manual_seed(task.seed)
    for step in range(updates):
        yield step
        chosen = torch.randint(len(images), (min(batch, len(images)),), generator=order).to(images.device)
        own = None if y is None else y[chosen.to(y.device)].to(task.where)
        for weight, slope in zip(weights, _slopes(task, student, weights, images[chosen], own, generator)):
            weight.grad = slope
        optimizer.step()
    yield updates


def _slopes(task: _Task, student: nn.Module, weights: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor | None,
            generator: torch.Generator) -> tuple[torch.Tensor | None, ...]:
    """The gradients of the mean loss by the weights of a copy; those of no other model are touched."""
    value = task(student, x, generator, y).mean()
    try:
        slopes = torch.autograd.grad(value, weights, allow_unused=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
    else:
        if any(slope is not None for slope in slopes):
            return slopes
        problem = "a loss without them"
    raise ValueError("loss must depend, with derivatives, on the parameters of the model that it is given, for a "
                     f"training (`relearning` may be None), got {shorten(problem)} for {task.name}")


def _compared(values: Mapping[str, float]) -> str:
    """The subject's number, the controls' and the baseline's."""
    controls = [value for name, value in values.items() if name not in OTHERS]
    ends = f"{min(controls):.3g}" if len(controls) == 1 else f"{min(controls):.3g} to {max(controls):.3g}"
    return (f"{values['subject']:.3g} for the subject, {ends} for {len(controls)} "
            f"{'control' if len(controls) == 1 else 'controls'}, {values['baseline']:.3g} for the baseline")


def _meaning(values: Mapping[str, float], meanings: Mapping[str, str]) -> str:
    """A sentence on the place of the subject's number among the controls', with the chance of an extreme place."""
    controls = [value for name, value in values.items() if name not in OTHERS]
    place = ("above" if values["subject"] > max(controls) else "below" if values["subject"] < min(controls)
             else "among")
    text = meanings[place]
    chance = f"; by chance, this happens in one of {len(controls) + 1} cases" if place != "among" else ""
    return f"{text[0].upper()}{text[1:]}{chance}."
