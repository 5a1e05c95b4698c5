"""Reconstruction: the inputs with which a frozen decoder comes nearest to given images, by damped Gauss-Newton.

The unknowns are few, z and y, so each step solves a small system for all targets and starts at once (Levenberg 1944;
Marquardt 1963). The surface has many valleys. So the search starts at the best of a large pool of random inputs and
of the encoder's own answers, and goes on from disturbed answers and from those to similar targets.
`sa_lib.attacks` has the threat models and the other attackers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.func import vmap
from torch.nn import functional as F

from .checks import LARGEST, check_config, check_images, check_seed, check_types, is_whole, shorten
from .decoders import Decoder, decoder_of, slope_along
from .labels import check_label
from .model import CVAE
from .settings import with_native_products
from .threats import AttackResult, Threat, decoded, prior_radius

__all__ = ["Problem", "SearchConfig", "by_each", "check_attack", "random_unknowns", "reconstruct", "search"]

# The disturbance of an answer may raise its error by about this share of it squared, for each unknown.
DISTURBANCE = 0.15
NEAREST = 5  # targets whose answers are tried as starts
SCALES = (1.0, 1.0, 2.0, 4.0)  # of the pool where y is free: answers far from 0 are common there
# Starts whose derivatives are in memory at once; on a processor as many as its cache holds.
CHUNK = {"cpu": 128}
ELSEWHERE = 4096
MOST = 2**26  # numbers in them, at most
TINY = 1e-18  # derivatives that are nearer to 0 than this count as 0


@dataclass(frozen=True)
class SearchConfig:
    """The budget of the reconstruction attacker, for each target.

    Attributes:
        pool: random inputs, shared by all targets, among which the starts are chosen.
        starts: descents from the best of them.
        iterations: steps of each descent.
        rounds: further descents, each from a disturbed answer or from the answer to a similar target.
    """

    pool: int = 4096
    starts: int = 3
    iterations: int = 25
    rounds: int = 8

    def __post_init__(self):
        check_config(self)


@torch.no_grad()
def reconstruct(model: CVAE | Decoder, targets: torch.Tensor, label: int | None, threat: Threat,
                config: SearchConfig = SearchConfig(), seed: int = 0,
                weaker: AttackResult | None = None) -> AttackResult:
    """The inputs with which the model's images come nearest to targets, in squared error summed over the pixels.

    Args:
        model: frozen; it is not changed. Its encoder, if it has one, proposes starts too.
        targets: `[N, *image_shape]` of one class; the answer to one is tried for the others.
        label: the class, from 0; None for a decoder without labels.
        weaker: the result on the same targets under a threat model with less freedom. Its answers are starts, and the
            result is nowhere above it.

    Returns:
        K moments, at most 1 + `config.rounds`: after the descents from the pool, and after each further one; K = 1
        where nothing is optimized. The budget counts model evaluations: a derivative counts as one for each unknown.

    Raises:
        ValueError: `targets` are no images, `label` is not allowed, or `weaker` has other targets.
        FloatingPointError: the model's images are not finite.
    """
    check_types(model=(model, (CVAE, Decoder)), threat=(threat, Threat), config=(config, SearchConfig),
                weaker=(weaker, (AttackResult, type(None))))
    if isinstance(model, CVAE):
        check_images(targets, "targets", model.config.image_shape)
        check_label(label, model.config.classes)
        model = decoder_of(model, model.config.image_shape)
    check_attack(model, targets, label, threat)
    if weaker is not None and len(weaker.errors) != len(targets):
        raise ValueError(f"weaker must be of the same {len(targets)} targets, got {len(weaker.errors)}")
    budget, moments = search(Problem(model, targets, label, threat), config, check_seed(seed), weaker)
    return decoded(model, budget, *moments)


def search(problem: "Problem", config: SearchConfig, seed: int,
           weaker: AttackResult | None) -> tuple[list[int], tuple[torch.Tensor, ...]]:
    """The search of `reconstruct`: its budget, and error [K, N], z [K, N, latent_dim] and y [K, N, classes] at K
    moments."""
    generator = torch.Generator().manual_seed(seed)  # of the CPU: the same draws on every machine
    pool = random_unknowns(problem, config.pool, generator)
    if problem.threat.z == "drawn":
        budget, answers = [config.pool], _Answers(problem, pool[problem.best(pool, 1)[:, 0]], weaker)
    else:
        evaluations = config.pool
        starts = _starts(problem, pool, config.starts)
        answers = _Answers(problem, starts[:, 0], weaker)
        if weaker is not None:
            starts = torch.cat([starts, problem.raw(answers.z, answers.y)[:, None]], 1)
        number = torch.arange(len(problem.targets), device=problem.where)
        budget = []
        # With the label alone the valleys are few.
        rounds = config.rounds // 4 if problem.threat.y == "label" else config.rounds
        for turn in range(rounds + 1):
            count = starts.shape[1] if turn == 0 else 1
            start = starts.flatten(0, 1) if turn == 0 else _next(problem, answers, turn, generator)
            own = number.repeat_interleave(count)
            values, errors = _descend(problem, start, own, config.iterations)
            best = errors.view(-1, count).argmin(1) + number * count
            answers.improve(problem, values[best])
            evaluations += count * (config.iterations + 1) * (1 + problem.unknowns)
            budget.append(evaluations)
            answers.keep()
    if not answers.error.isfinite().all():
        raise FloatingPointError("reconstruct: the model's images are not finite")
    return budget, answers.moments()


def check_attack(decoder: Decoder, targets: torch.Tensor, label: int | None, threat: Threat) -> None:
    """Refuse targets, a label or a threat model that are none of this decoder's."""
    check_types(targets=(targets, torch.Tensor))
    if (tuple(targets.shape[1:]) != decoder.image_shape or not len(targets) or not targets.is_floating_point()
            or not (targets.abs() <= LARGEST).all()):
        raise ValueError(f"targets must be finite floating-point [N, {', '.join(map(str, decoder.image_shape))}] with "
                         f"at least one image, got {targets.dtype} {list(targets.shape)}")
    if not (is_whole(label) and 0 <= label < decoder.classes if decoder.classes else label is None):
        allowed = f"a whole number from 0 to {decoder.classes - 1}" if decoder.classes else "None without labels"
        raise ValueError(f"label must be {allowed}, got {shorten(label)}")
    if not decoder.classes and threat.y != "label":
        raise ValueError(f"threat must leave y alone where the decoder has none, got {threat}")
    if decoder.prior is not None and threat.z == "prior":
        raise ValueError("threat must not be in the ball of a normal prior where the decoder has another prior, got "
                         f"{threat}")


class Problem:
    """The unknowns of a threat model, and the errors of the images that a model draws for them.

    A row of unknowns is z where y is the label, and (z, y) or (z, logits of y) else.
    """

    def __init__(self, model: Decoder, targets: torch.Tensor, label: int | None, threat: Threat):
        self.model, self.threat, self.latent, self.classes = model, threat, model.latent_dim, model.classes
        self.where = model.where
        self.targets = targets.to(self.where)
        self.group = len(targets)  # of targets that share a model
        self.label = model.label(label)
        self.unknowns = self.latent + (0 if threat.y == "label" else self.classes)
        self.radius = prior_radius(self.latent) if threat.z == "prior" else math.inf
        # A GPU would wait for the number of rows, and a stack of models needs all of them.
        self.some_rows = self.where.type == "cpu"

    def raw(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The unknowns for inputs."""
        if self.threat.y == "label":
            return z
        # The logits of a one-hot vector itself would be infinite.
        return torch.cat([z, (0.98 * y + 0.02 / self.classes).log() if self.threat.y == "simplex" else y], 1)

    def inputs(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """z and y for rows of unknowns."""
        z, y = values[:, :self.latent], values[:, self.latent:]
        if self.threat.y == "label":
            y = self.label.expand(len(values), -1)
        return z, y.softmax(1) if self.threat.y == "simplex" else y

    def images(self, values: torch.Tensor) -> torch.Tensor:
        """[R, D], the pixels of an image in a row."""
        return self.model.decode(*self.inputs(values)).flatten(1)

    def differences(self, values: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Images less their targets, [R, D]."""
        return self.images(values) - self.targets.flatten(1)[own]

    def allowed(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest unknowns whose z lies in the ball of the prior."""
        if math.isinf(self.radius):
            return values
        z = values[:, :self.latent]
        z = z * (self.radius / z.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1)
        return torch.cat([z, values[:, self.latent:]], 1)

    def best(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """For each target, the places of the `count` values whose images are nearest, best first."""
        distances = torch.cdist(self.targets.flatten(1), self.images(values))
        return distances.topk(min(count, len(values)), largest=False).indices

    def codes(self) -> torch.Tensor | None:
        """The encoder's codes of the targets, under every label that is allowed: unknowns [N, Q, P], if it has one."""
        if self.model.encode is None:
            return None
        y = self.label if self.threat.y == "label" else torch.eye(self.classes, device=self.where)
        labels = y.repeat(len(self.targets), 1)
        z = self.model.encode(self.targets.repeat_interleave(len(y), 0), labels)
        return self.allowed(self.raw(z, labels)).view(len(self.targets), len(y), -1)

    def similar(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """For each target, the places of the `count` other targets whose answers' images are nearest to it."""
        distances = torch.cdist(self.targets.flatten(1), self.images(values)).fill_diagonal_(math.inf)
        return distances.topk(count, largest=False).indices

    def for_each(self, draw: Callable[..., torch.Tensor], *shape: int) -> torch.Tensor:
        """Random numbers for every target, drawn on the CPU."""
        return draw(len(self.targets), *shape).to(self.where)

    def normal_equations(self, values: torch.Tensor, difference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """J'J [R, P, P] and J' difference [R, P], with J the derivative of the image by its P unknowns.

        Args:
            difference: the `differences` of the values, [R, D].
        """
        chunk = CHUNK.get(self.where.type, ELSEWHERE)
        rows = max(1, min(chunk, MOST // (self.unknowns * math.prod(self.model.image_shape))))
        parts = [self._equations(v, d) for v, d in zip(values.split(rows), difference.split(rows), strict=True)]
        return torch.cat([a for a, _ in parts]), torch.cat([g for _, g in parts])

    def _equations(self, values: torch.Tensor, difference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with with_native_products(self.where):
            jacobian = self.derivatives(values)
        # Products of the derivatives of a saturated pixel would be denormal numbers, which take many times as long.
        jacobian = F.hardshrink(jacobian.transpose(0, 1).to(values), TINY)
        return jacobian @ jacobian.transpose(1, 2), (jacobian @ difference[:, :, None])[:, :, 0]

    def derivatives(self, values: torch.Tensor) -> torch.Tensor:
        """Derivatives of `images` by each of the P unknowns, [P, R, D]."""
        if self.model.derivatives is None:
            return by_each(self.images, values)
        z, y = self.inputs(values)
        of_inputs = torch.eye(self.unknowns, self.latent + self.classes, device=self.where)
        of_inputs = of_inputs[:, None].repeat(1, len(z), 1)
        if self.threat.y == "simplex":  # of the softmax
            of_inputs[self.latent:, :, self.latent:] = (y.diag_embed() - y[:, :, None] * y[:, None]).transpose(0, 1)
        return self.model.derivatives(z, y, of_inputs).flatten(2)


def by_each(function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Derivatives of a function of rows, [R, P] -> [R, D], by each of the P numbers of a row: [P, R, D]."""
    directions = torch.eye(values.shape[1], device=values.device)[:, None].expand(-1, len(values), -1)
    return vmap(partial(slope_along, function, values))(directions)


def _descend(problem: Problem, values: torch.Tensor, own: torch.Tensor,
             iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Damped Gauss-Newton from rows of unknowns [R, P]; `own`: [R] the target of each. The end, and its errors [R].

    The damping falls after a step that lowers the error, and rises after one that does not and is taken back.
    """
    values = problem.allowed(values)
    difference = problem.differences(values, own)
    error = difference.square().sum(1)
    curvature, slope = problem.normal_equations(values, difference)
    damping = torch.full_like(error, 1e-2)
    for step in range(iterations):
        scale = curvature.diagonal(dim1=1, dim2=2)
        scale = scale + 1e-3 * scale.mean(1, keepdim=True) + 1e-9
        factor, _ = torch.linalg.cholesky_ex(curvature + torch.diag_embed(damping[:, None] * scale))
        moved = problem.allowed(values - torch.cholesky_solve(slope[:, :, None], factor)[:, :, 0])
        differs = problem.differences(moved, own)
        after = differs.square().sum(1)
        better = after < error  # never where it is NaN
        values, difference = (torch.where(better[:, None], new, old)
                              for new, old in ((moved, values), (differs, difference)))
        error = torch.where(better, after, error)
        damping = torch.where(better, damping / 4, damping * 4).clamp(1e-6, 1e8)
        if step == iterations - 1:
            break
        if not problem.some_rows:
            curvature, slope = problem.normal_equations(values, difference)
        elif len(moving := better.nonzero()[:, 0]):  # more than half of the steps are taken back
            curvature[moving], slope[moving] = problem.normal_equations(values[moving], difference[moving])
    return values, error


def random_unknowns(problem: Problem, count: int, generator: torch.Generator) -> torch.Tensor:
    """Random unknowns [count, P]: z from the prior; y all labels in turn, mixtures of two, and of all."""
    z, classes = problem.model.draw(count, generator), problem.classes
    if problem.threat.y == "label":
        return problem.allowed(z.to(problem.where))
    first, second = torch.randint(classes, (2, count), generator=generator)
    share = torch.rand(count, 1, generator=generator)
    all_of_them = torch.empty(count, classes).exponential_(generator=generator)
    one_hot = torch.eye(classes)
    kind = torch.arange(count) % 4
    pure = one_hot[torch.arange(count) // 4 % classes]
    pair = share * one_hot[first] + (1 - share) * one_hot[second]
    mixed = all_of_them / all_of_them.sum(1, keepdim=True)
    y = torch.where((kind < 2)[:, None], pure, torch.where((kind == 2)[:, None], pair, mixed))
    if problem.threat.y == "free":
        scale = torch.tensor(SCALES)[torch.arange(count) // 4 % len(SCALES)][:, None]
        z, y = scale * z, scale * y
    return problem.allowed(problem.raw(z, y).to(problem.where))


def _starts(problem: Problem, pool: torch.Tensor, count: int) -> torch.Tensor:
    """The best unknowns [N, count, P] for each target, of the pool and of the encoder's codes under all labels."""
    chosen = pool[problem.best(pool, count)]
    if (codes := problem.codes()) is not None:
        chosen = torch.cat([codes, chosen], 1)
    own = torch.arange(len(chosen), device=problem.where).repeat_interleave(chosen.shape[1])
    error = problem.differences(chosen.flatten(0, 1), own).square().sum(1).view(len(chosen), -1)
    best = error.topk(min(count, error.shape[1]), largest=False).indices
    return chosen.gather(1, best[:, :, None].expand(-1, -1, chosen.shape[2]))


class _Answers:
    """The best inputs so far for each target, now and at earlier moments."""

    def __init__(self, problem: Problem, values: torch.Tensor, weaker: AttackResult | None):
        self.z, self.y = problem.inputs(values)
        own = torch.arange(len(values), device=problem.where)
        self.error = problem.differences(values, own).square().sum(1)
        self.kept: list[tuple[torch.Tensor, ...]] = []
        if weaker is not None:
            self._take(weaker.errors.to(problem.where), weaker.z[-1].to(problem.where), weaker.y[-1].to(problem.where))

    def improve(self, problem: Problem, values: torch.Tensor) -> None:
        """Take the inputs for these unknowns where they are better."""
        own = torch.arange(len(values), device=problem.where)
        self._take(problem.differences(values, own).square().sum(1), *problem.inputs(values))

    def _take(self, error: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> None:
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.z, self.y = torch.where(better[:, None], z, self.z), torch.where(better[:, None], y, self.y)

    def keep(self) -> None:
        """Remember this moment."""
        self.kept.append((self.error, self.z, self.y))

    def moments(self) -> tuple[torch.Tensor, ...]:
        """error [K, N], z [K, N, latent_dim] and y [K, N, classes] at all kept moments, or now if there are none."""
        return tuple(map(torch.stack, zip(*(self.kept or [(self.error, self.z, self.y)]))))


def _next(problem: Problem, answers: _Answers, turn: int, generator: torch.Generator) -> torch.Tensor:
    """Starts [N, P] for a further descent: in turns, answers to similar targets, and disturbed answers."""
    values = problem.raw(answers.z, answers.y)
    own = torch.arange(len(values), device=problem.where)
    if turn % 2 and problem.group > 1:
        near = problem.similar(values, min(NEAREST, problem.group - 1))
        pick = problem.for_each(lambda count: torch.randint(near.shape[1], (count,), generator=generator))
        return values[near[own, pick]]
    # A random step along which the error rises by about the same in all directions.
    curvature, _ = problem.normal_equations(values, problem.differences(values, own))
    typical = curvature.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    factor, _ = torch.linalg.cholesky_ex(curvature + (1e-2 * typical + 1e-9) * torch.eye(problem.unknowns).to(typical))
    size = DISTURBANCE * answers.error.sqrt()[:, None, None]
    noise = size * problem.for_each(lambda *shape: torch.randn(*shape, generator=generator), problem.unknowns, 1)
    return values + torch.linalg.solve_triangular(factor.mT, noise, upper=True)[:, :, 0]
