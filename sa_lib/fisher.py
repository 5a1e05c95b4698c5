"""The diagonal of the Fisher information: which weights the retained classes depend on.

F_k = 1/N sum_n (d l_n / d theta_k)^2 with l_n the negative ELBO of image n
(Kirkpatrick et al. 2017; van de Ven 2025, arXiv 2502.11756). The square is
taken per image: squaring the gradient of a batch mean instead averages the
signs away and loses most of the trace.

For a linear layer with inputs a_n and pre-activation gradients d_n the
gradient of image n is the outer product d_n a_n^T, so that
sum_n (d_n a_n^T)^2 = (d^2)^T (a^2): one batched backward pass to the
pre-activations gives the exact answer (Goodfellow 2015, arXiv 1510.01799).
For convolutions the gradient of each image is one small matrix product.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .checks import check_images, check_seed, check_types, check_values, check_whole, shorten
from .data import Dataset
from .labels import check_labels, one_hot
from .model import CVAE
from .settings import with_gradients

__all__ = ["Diagonal", "combine", "dataset_fishers", "fisher_by_class", "fisher_diagonal", "sampled_fisher_diagonal",
           "own_fisher", "squared_gradients"]

Diagonal = dict[str, torch.Tensor]

# This many numbers fit into a processor's cache; the gradients of more images at once would go through main memory.
IN_CACHE = 2**20


def _linear(layer: nn.Linear, a: torch.Tensor, d: torch.Tensor) -> dict[str, torch.Tensor]:
    if a.ndim > 2:  # positions of a sequence, say: the gradient of an image is a sum over them
        a, d = a.flatten(1, -2), d.flatten(1, -2)
        return {"weight": (d.mT @ a).square().sum(0), "bias": d.sum(1).square().sum(0)}
    d2 = d.square()
    return {"weight": d2.T @ a.square(), "bias": d2.sum(0)}


def _patchwise(layer: nn.Conv2d | nn.ConvTranspose2d, rows: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """sum_n (r_n p_n^T)^2 with r_n the rows [R, L] of image n, and p_n the patches of its maps: [R, patch]."""
    at_once = max(1, IN_CACHE // layer.weight.numel())
    total = torch.zeros_like(layer.weight).flatten(1)
    for r, m in zip(rows.flatten(2).split(at_once), maps.split(at_once)):
        patches = F.unfold(m, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        total += (r @ patches.transpose(1, 2)).square_().sum(0)
    return total.view_as(layer.weight)


def _conv(layer: nn.Conv2d, a: torch.Tensor, d: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"weight": _patchwise(layer, d, a), "bias": d.flatten(2).sum(2).square().sum(0)}


def _conv_transposed(layer: nn.ConvTranspose2d, a: torch.Tensor, d: torch.Tensor) -> dict[str, torch.Tensor]:
    # A transposed convolution is the adjoint of one: inputs and output gradients change places.
    return {"weight": _patchwise(layer, a, d), "bias": d.flatten(2).sum(2).square().sum(0)}


RULES = {nn.Linear: _linear, nn.Conv2d: _conv, nn.ConvTranspose2d: _conv_transposed}


@with_gradients()
def squared_gradients(model: nn.Module, losses: Callable[[], torch.Tensor]) -> Diagonal:
    """Sum over a batch of the squared per-sample gradients, for every parameter.

    Args:
        model: made of Linear, Conv2d and ConvTranspose2d layers, each used
            once; it may be frozen, and is left as it was.
        losses: runs the model once and returns the losses [N]; the n-th
            loss must depend on the n-th sample alone, and on the parameters
            only through their layers.

    Returns:
        Parameter name -> tensor of its shape, for every parameter of the
        model; zeros for the parameters of a layer that the losses do not use.

    Raises:
        TypeError: the model has parameters in a layer of another kind, mixes
            samples, uses a layer or a parameter twice, or shares a parameter
            between layers.
        ValueError: the losses are not one for each sample.
    """
    layers = _supported_layers(model)
    calls: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(name, layer, inputs, output):
        if name in calls:
            raise TypeError(f"model must use every layer once, got layer {name!r} twice")
        # In a frozen model the outputs are leaves; without this no gradient would reach them.
        output.requires_grad_()
        calls[name] = (inputs[0].detach(), output)
        return output.clone() if overwrites else None

    overwrites = any(getattr(module, "inplace", False) for module in model.modules())
    hooks = [layer.register_forward_hook(partial(keep, name)) for name, layer in layers.items()]
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    try:
        for weight in frozen:  # so that the graph shows every use of a parameter
            weight.requires_grad_()
        values = losses()
    finally:
        for hook in hooks:
            hook.remove()
        for weight in frozen:
            weight.requires_grad_(False)
    unused = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    if not calls:
        return unused
    _check_losses(values, calls)
    _check_uses(values, model, calls)
    deltas = torch.autograd.grad(values.sum(), [output for _, output in calls.values()], allow_unused=True)
    squares = {f"{name}.{parameter}".removeprefix("."): squared
               for (name, (a, _)), d in zip(calls.items(), deltas) if d is not None
               for parameter, squared in RULES[type(layers[name])](layers[name], a, d).items()
               if getattr(layers[name], parameter) is not None}
    return squares | {name: zeros for name, zeros in unused.items() if name not in squares}


def _check_losses(values: torch.Tensor, calls: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Refuse losses that are not one for each sample: the square of a mean is not a mean of squares."""
    counts = {len(a) for a, _ in calls.values()}
    if counts != {len(values) if values.ndim else 0}:
        raise ValueError(f"losses must be one for each of the {max(counts)} samples, got {list(values.shape)}")


def _check_uses(values: torch.Tensor, model: nn.Module, calls: Mapping[str, Any]) -> None:
    """Refuse losses that use a parameter beside its layer, or overwrite a layer's output: their gradients are lost."""
    for name, (_, output) in calls.items():
        if output._version:
            raise TypeError(f"model must not overwrite the output of a layer, got layer {name!r}")
    uses = _uses(values)
    for name, weight in model.named_parameters():
        if uses[id(weight)] > (name.rpartition(".")[0] in calls):
            raise TypeError(f"losses must use every parameter once, in its layer, got another use of {name}")


def _uses(values: torch.Tensor) -> Counter[int]:
    """How often a graph uses each leaf, by the leaf's id."""
    uses, seen, ahead = Counter(), set(), [values.grad_fn] if values.grad_fn else []
    while ahead:
        for node, _ in ahead.pop().next_functions:
            if hasattr(node, "variable"):
                uses[id(node.variable)] += 1
            elif node is not None and node not in seen:
                seen.add(node)
                ahead.append(node)
    return uses


def _supported_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with parameters, by name, if there is a rule for every one of them."""
    check_types(model=(model, nn.Module))
    layers = {name: layer for name, layer in model.named_modules() if [*layer.parameters(recurse=False)]}
    for name, layer in layers.items():
        own = {own for own, _ in layer.named_parameters(recurse=False)}
        if odd := own - {"weight", "bias"} if type(layer) in RULES else ():  # as weight_norm and pruning do
            raise TypeError(f"model must have its weights as parameters, got {', '.join(sorted(odd))} of layer "
                            f"{name!r}")
        if (type(layer) not in RULES or getattr(layer, "groups", 1) != 1
                or getattr(layer, "padding_mode", "zeros") != "zeros"
                or isinstance(getattr(layer, "padding", 0), str)):
            raise TypeError("model must be of Linear, Conv2d and ConvTranspose2d layers without groups, padded with "
                            f"numbers of zeros, got layer {name!r}: {shorten(layer)}")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or not layer.track_running_stats):
            raise TypeError(f"model must not mix samples, as in batch normalization while training, got layer {name!r}")
    owners: dict[int, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if (other := owners.setdefault(id(weight), name)) != name:
            # The gradient of a shared weight is a sum over its layers, whose square is not the sum of the squares.
            raise TypeError(f"model must not share parameters between layers, got {other} and {name} as one")
    return layers


def fisher_diagonal(model: CVAE, images: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor,
                    batch: int = 512) -> Diagonal:
    """The data Fisher: exact mean of squared per-image gradients of the negative ELBO.

    This is the *empirical* Fisher of the given images (Kunstner et al. 2019);
    `sampled_fisher_diagonal` is the one over the model's own samples.

    Args:
        images: `[N, *image_shape]`, N >= 1; for Selective Amnesia, all images of
            the retained classes.
        labels: [N], integers.
        noise: [N, latent_dim], each image's draw for its ELBO.
        batch: images a pass; it bounds the memory and does not change the result.

    Returns:
        Parameter name -> F, of the parameter's shape, in nats^2 per squared
        unit of the parameter.

    Raises:
        ValueError: there are no images, or not as many labels or draws as images.
    """
    check_types(model=(model, CVAE), **{name: (tensor, torch.Tensor) for name, tensor in
                                        (("images", images), ("labels", labels), ("noise", noise))})
    check_whole(batch=batch)
    if len({t.shape[:1] for t in (images, labels, noise)}) > 1 or not images.numel():
        counts = [str(*t.shape[:1]) or "none" for t in (images, labels, noise)]
        raise ValueError("images, labels and noise must be equally many, at least 1, "
                         f"got {counts[0]}, {counts[1]} and {counts[2]}")
    check_images(images, shape=model.config.image_shape)
    check_values(noise=noise)
    where = next(model.parameters()).device
    total: Diagonal = {}
    inputs = (t.to(where) for t in (images, one_hot(labels, model.config.classes).to(images.dtype), noise))
    for x, y, e in zip(*(t.split(batch) for t in inputs)):
        part = squared_gradients(model, lambda x=x, y=y, e=e: -model.elbo(x, y, e))
        for name, squares in part.items():
            total[name] = total[name] + squares if name in total else squares
    return {name: squares / len(images) for name, squares in total.items()}


def fisher_by_class(model: CVAE, images: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor,
                    batch: int = 512) -> dict[int, Diagonal]:
    """One data Fisher for each class among the labels; `combine` gives the Fisher of any set of classes."""
    check_types(model=(model, CVAE), images=(images, torch.Tensor), noise=(noise, torch.Tensor))
    if images.shape[:1] != noise.shape[:1] or not images.numel():
        raise ValueError("images and noise must be equally many, at least 1, "
                         f"got {list(images.shape)} and {list(noise.shape)}")
    check_labels(labels, len(images), model.config.classes)
    where = {k: (labels == k).nonzero().squeeze(1) for k in labels.unique().tolist()}
    return {k: fisher_diagonal(model, images[i], labels[i], noise[i], batch) for k, i in where.items()}


def dataset_fishers(model: CVAE, dataset: Dataset, seed: int) -> dict[int, Diagonal]:
    """The data Fisher of each class over all its training images, with noise drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(dataset.train_labels), model.config.latent_dim, generator=generator)
    return fisher_by_class(model, dataset.train_images, dataset.train_labels, noise)


def own_fisher(model: CVAE, seed: int, count: int = 50_000) -> Diagonal:
    """The model-sampled Fisher over `count` samples of all classes, equally many of each, drawn from `seed`.

    As in the code of Heng & Soh (2023), which protects the class to forget too, and takes 50,000 samples.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(check_seed(seed))
    return sampled_fisher_diagonal(model, torch.arange(count) % model.config.classes, generator)


def combine(fishers: Mapping[int, Diagonal], weights: Mapping[int, float]) -> Diagonal:
    """The weighted mean of per-class Fishers.

    With the classes' image counts as weights this is the Fisher over all
    their images together; with equal weights every class counts the same.

    Raises:
        ValueError: a class has no Fisher, or the weights are negative or all zero.
    """
    check_types(fishers=(fishers, Mapping), weights=(weights, Mapping))
    numbers = all(type(w) is not bool and isinstance(w, (int, float)) and 0 <= w < math.inf for w in weights.values())
    if not set(weights) <= set(fishers) or not numbers or not (total := sum(weights.values())) > 0:
        raise ValueError(f"weights must be non-negative, not all zero, for classes among {sorted(fishers)}, "
                         f"got {shorten(dict(weights))}")
    names = next(iter(fishers.values()))
    return {name: sum(w / total * fishers[k][name] for k, w in weights.items()) for name in names}


def sampled_fisher_diagonal(model: CVAE, labels: torch.Tensor, generator: torch.Generator,
                            batch: int = 512) -> Diagonal:
    """The model-sampled Fisher: over images that the model itself generates for `labels` [N].

    As in Heng & Soh (2023, section 3.2): z is drawn from the prior, the
    image is the decoder's mean, and the gradient is that of its negative
    ELBO. No data are needed.
    """
    check_types(model=(model, CVAE), generator=(generator, torch.Generator))
    check_labels(labels, outcomes=model.config.classes)
    check_whole(batch=batch)
    where = next(model.parameters())

    def normal():
        return torch.randn(len(labels), model.config.latent_dim, generator=generator,
                           dtype=where.dtype, device=where.device)

    with torch.no_grad():
        y = one_hot(labels.to(where.device), model.config.classes).to(where.dtype)
        images = torch.cat([model.decode(z, part) for z, part in zip(normal().split(4096), y.split(4096))])
    return fisher_diagonal(model, images, labels.to(where.device), normal(), batch)
