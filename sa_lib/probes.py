"""Probes: other ways to reveal a forgotten class, on the weights rather than on the inputs.

A probe rounds the weights of a model, removes some, moves them toward another model's, or trains them on another
class; `membership` compares losses of seen and unseen images. A result means little by itself: probe a model that
never saw the class, too.
"""

import numpy as np
import pandas as pd
import torch
from torch import nn

from .attacks import relearn
from .audit_loss import auc
from .checks import check_fisher, check_images, check_number, check_seed, check_types, check_whole, is_whole, shorten
from .evaluation import negative_elbo
from .judges import Judge
from .labels import check_label, check_labels, one_hot
from .model import CVAE, copy_of

__all__ = ["barrier", "membership", "path", "plasticity", "pruned", "quantized"]

AT_ONCE = 4096  # images in memory at a time


def _matrices(model: CVAE) -> list[tuple[nn.Parameter, int]]:
    """The weights of all layers, without the biases, and for each the dimension of its output channels."""
    return [(layer.weight, 1 if isinstance(layer, nn.ConvTranspose2d) else 0) for layer in model.modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]


@torch.no_grad()
def quantized(model: CVAE, bits: int) -> CVAE:
    """A frozen copy, on the same device, with weights of `bits` bits, 2 to 8, rounded to the nearest.

    Where forgetting moved a weight by less than a rounding step, rounding may undo the move: so Zhang et al. (2025,
    arXiv 2410.16454) brought forgotten knowledge of language models back at 4 bits. Each output channel (a row of a
    matrix) has its own step: its largest weight in size, divided by 2^(bits-1) - 1. No weight moves by more than half
    a step. Biases are kept.

    Raises:
        ValueError: `bits` is out of range.
    """
    check_types(model=(model, CVAE))
    if not is_whole(bits) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be a whole number from 2 to 8, got {shorten(bits)}")
    copy = copy_of(model).requires_grad_(False).eval()
    for weight, channel in _matrices(copy):
        largest = weight.abs().amax([dim for dim in range(weight.ndim) if dim != channel], keepdim=True)
        step = (largest / (2 ** (bits - 1) - 1)).clamp(min=torch.finfo(weight.dtype).tiny)  # a channel may be all 0
        weight.copy_((weight / step).round() * step)
    return copy


@torch.no_grad()
def pruned(model: CVAE, share: float) -> CVAE:
    """A frozen copy, on the same device, without the smallest weights.

    In each matrix this share (0-1) of the weights, the smallest in size, is set to 0, as in Han et al. (2015, arXiv
    1506.02626) but without further training. Biases are kept.

    Raises:
        ValueError: `share` is out of range.
    """
    check_types(model=(model, CVAE))
    check_number(share=share)
    if share > 1:
        raise ValueError(f"share must be a number from 0 to 1, got {shorten(share)}")
    copy = copy_of(model).requires_grad_(False).eval()
    for weight, _ in _matrices(copy):
        smallest = weight.abs().flatten().argsort(stable=True)[:round(float(share) * weight.numel())]
        weight.view(-1).index_fill_(0, smallest, 0.0)
    return copy


@torch.no_grad()
def path(first: CVAE, second: CVAE, images: torch.Tensor, labels: torch.Tensor, points: int = 21, seed: int = 0,
         draws: int = 4) -> pd.Series:
    """The loss on the straight line between the weights of two models of the same configuration.

    Models are linearly connected if it stays low all along (Frankle et al. 2020, arXiv 1912.05671). Siddiqui et al.
    (2025, arXiv 2505.22310) find that a barrier between the unlearned model and the original foretells slow relearning.

    Args:
        images: `[N, *image_shape]`, such as held-out images of the forgotten class.
        labels: [N].
        points: number of models on the line, with both ends, evenly spaced; from 3.
        seed, draws: of the latent noise, as for `evaluation.negative_elbo`, the same at all points.

    Returns:
        Index `share`, of the second model, from 0 to 1; the mean negative ELBO of the images, nats.

    Raises:
        ValueError: the shapes of the models, or of images and labels, do not fit, or there are too few points.
    """
    check_types(first=(first, CVAE), second=(second, CVAE))
    check_fisher(first, dict(second.named_parameters()), "second")
    check_images(images, shape=first.config.image_shape)
    check_labels(labels, len(images), first.config.classes)
    check_whole(3, points=points)
    check_whole(draws=draws)
    generator = torch.Generator().manual_seed(check_seed(seed))
    noise = torch.randn(draws, len(images), first.config.latent_dim, generator=generator)
    between, other = copy_of(first), copy_of(second).to(next(first.parameters()).device)
    weights = list(zip(between.parameters(), first.parameters(), other.parameters()))
    parts = list(zip(*(tensor.to(weights[0][0].device).split(AT_ONCE, dim) for tensor, dim in
                       ((images, 0), (one_hot(labels, first.config.classes), 0), (noise, 1)))))
    shares, losses = [k / (points - 1) for k in range(points)], []
    for share in shares:
        for weight, start, end in weights:
            weight.copy_(torch.lerp(start, end, share))
        losses.append(-sum(between.elbo(x, y, draw).sum(dtype=torch.double) for x, y, n in parts for draw in n))
    losses = (torch.stack(losses) / (draws * len(images))).tolist()  # one transfer, for which a GPU has to wait
    return pd.Series(losses, index=pd.Index(shares, name="share"), name="nelbo")


def barrier(losses: pd.Series) -> float:
    """The largest excess of the losses of a `path` above the line between its ends (Entezari et al. 2022, arXiv
    2110.06296), in nats; 0 if there is none.

    Raises:
        ValueError: `losses` are not two or more finite numbers, indexed by shares that rise from 0 to 1.
    """
    check_types(losses=(losses, pd.Series))
    share, loss = losses.index.to_numpy(), losses.to_numpy()
    rises = len(loss) > 1 and {share.dtype.kind, loss.dtype.kind} <= set("if") and (np.diff(share) > 0).all()
    if not rises or not np.isfinite(loss).all() or (share[0], share[-1]) != (0, 1):
        raise ValueError(f"losses must be finite and indexed by shares rising from 0 to 1, got {shorten(dict(losses))}")
    return max(0.0, float((loss - loss[0] - share * (loss[-1] - loss[0])).max()))


def membership(model: CVAE, members: torch.Tensor, others: torch.Tensor, label: int, seed: int = 0,
               draws: int = 4) -> tuple[float, float]:
    """How well the negative ELBO tells training images of a class from held-out ones: membership inference.

    This is a population attack: it treats all images alike. Attacks on each image by itself are stronger (Hayes et
    al. 2025, arXiv 2403.01218), so an AUC of 0.5 proves no privacy. If the two sets differ by themselves, the AUC
    differs from 0.5 for a model that saw neither, too.

    Args:
        members: training images of the class, `[M, *image_shape]`, M >= 2.
        others: held-out images of the class, `[N, *image_shape]`, N >= 2.
        label: the class.
        seed, draws: of the latent noise, as for `evaluation.negative_elbo`.

    Returns:
        The AUC of the losses, 0-1 (0.5: they tell nothing), and its standard error; see `audit_loss.auc`.

    Raises:
        ValueError: a set has fewer than two images, or the negative ELBO of an image is not finite.
    """
    check_types(model=(model, CVAE))
    check_images(members, "members", model.config.image_shape)
    check_images(others, "others", model.config.image_shape)
    check_label(label, model.config.classes)
    if min(len(members), len(others)) < 2:
        raise ValueError(f"members and others must be two images or more, got {len(members)} and {len(others)}")
    images = torch.cat([images.to(next(model.parameters()).device) for images in (members, others)])
    losses = negative_elbo(model, images, torch.full((len(images),), label), seed, draws)
    if not losses.isfinite().all():
        raise ValueError(f"model must have a finite negative ELBO on all images, got {shorten(losses)}")
    return auc(*losses.split([len(members), len(others)]))


def plasticity(model: CVAE, images: torch.Tensor, label: int, sees: int, judge: Judge, steps: int = 200,
               lr: float = 1e-3, batch: int = 32, every: int = 20, samples: int = 200, seed: int = 0) -> pd.Series:
    """Teach a copy of the model another class under a forgotten label, and watch how fast it learns.

    A class comes back slowly because it is gone, or because the weights behind its label have lost their plasticity
    (Lyle et al. 2023, arXiv 2303.01486). In the second case another class is learned slowly under the label, too.

    Args:
        images: `[k, *image_shape]` of the class `sees`.
        label: the forgotten class, under which they are taught.
        sees: their class, which the judge is to see; not `label`.
        judge, steps, lr, batch, every, samples, seed: as for `attacks.relearn`.

    Returns:
        Index `step`, from 0; the share of the samples for `label` that the judge takes for `sees`, 0-1.

    Raises:
        ValueError: `sees` is `label`.
        FloatingPointError: the model's images are no longer finite.
    """
    check_types(model=(model, CVAE))
    check_label(label, model.config.classes)
    check_label(sees, model.config.classes, "sees")
    if sees == label:
        raise ValueError(f"sees must be another class than the label {label}, got {sees}")
    return relearn(model, images, label, judge, steps, lr, batch, every, samples, seed, sees)
