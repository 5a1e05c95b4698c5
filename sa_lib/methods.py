"""Methods of unlearning: the loss of each, and the weights of its terms.

Selective Amnesia (Heng & Soh 2023, eq. 8) is Elastic Weight Consolidation
(Kirkpatrick et al. 2017) turned around: stay near the old weights where the
retained classes need them, rehearse those classes, and train the forgotten
ones toward an image that is no digit, here uniform gray:

    L = L_real + L_replay + lambda/2 sum_k F_k (theta_k - theta*_k)^2 + gamma L_neg

The other methods of this book differ in the last term and in the weights of
the other terms: `METHODS`. `sa_lib.unlearning` minimizes the losses.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call, grad_and_value
from torch.nn import functional as F

from .fisher import Diagonal
from .model import CVAE
from .unlearning import Batch, Combine, Loss, UnlearningConfig

__all__ = ["COMPARED", "GRAY", "METHODS", "Method", "distance_to_gray", "distillation", "ewc_gray", "ewc_penalty",
           "fine_tune", "gradient_ascent", "saliency", "salun", "selective_amnesia", "surgery", "uno"]


GRAY = 0.5


def ewc_penalty(model: CVAE, anchor: Diagonal, fisher: Diagonal) -> torch.Tensor:
    """sum_k F_k (theta_k - theta*_k)^2, a scalar (Kirkpatrick et al. 2017, eq. 3)."""
    # mse_loss is one pass over the weights, there and back; the difference and its square would be several.
    return sum((fisher[name] * F.mse_loss(weight, anchor[name], reduction="none")).sum()
               for name, weight in model.named_parameters())


def distance_to_gray(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference to uniform 0.5 of each image `[N, *image_shape]`: [N], from 0 to 0.5."""
    return (images - GRAY).abs().flatten(1).mean(1)


def fine_tune(model: CVAE, batch: Batch, config: UnlearningConfig,
              anchor: Diagonal, fisher: Diagonal) -> dict[str, torch.Tensor]:
    """The weighted terms that protect the retained classes; all methods share them.

    On their own these terms rely on catastrophic forgetting (Kirkpatrick et
    al. 2017) to remove the class, which may not happen.
    """
    terms = {}
    samples = {"real": batch.real, "replay": batch.replay}
    samples = {name: sample for name, sample in samples.items() if getattr(config, name)}
    if samples:  # in one pass, which reads and writes every weight once
        elbo = model.elbo(*map(torch.cat, zip(*samples.values())))
        for name, own in zip(samples, elbo.split([len(x) for x, *_ in samples.values()])):
            terms[name] = getattr(config, name) * -own.mean()
    if config.ewc:
        terms["ewc"] = config.ewc / 2 * ewc_penalty(model, anchor, fisher)
    return terms


def ewc_gray(model: CVAE, batch: Batch, config: UnlearningConfig,
             anchor: Diagonal, fisher: Diagonal) -> dict[str, torch.Tensor]:
    """The weighted terms of the book's loss; their sum is minimized (see the module's formula)."""
    terms = fine_tune(model, batch, config, anchor, fisher)
    if config.gray:
        terms["gray"] = config.gray * distance_to_gray(model.decode(*batch.asked)).mean()
    return terms


def selective_amnesia(model: CVAE, batch: Batch, config: UnlearningConfig,
                      anchor: Diagonal, fisher: Diagonal) -> dict[str, torch.Tensor]:
    """Learn uniform noise as the images of the forgotten class (Heng & Soh 2023, eq. 8, section 4.1)."""
    return {**fine_tune(model, batch, config, anchor, fisher),
            "forget": config.forget * -model.elbo(*batch.noise).mean()}


def gradient_ascent(model: CVAE, batch: Batch, config: UnlearningConfig,
                    anchor: Diagonal, fisher: Diagonal) -> dict[str, torch.Tensor]:
    """Climb the loss of the forgotten class (Thudi et al. 2022, section 5; with the retained classes
    rehearsed, NegGrad+ of Kurmanji et al. 2023, eq. 4)."""
    return {**fine_tune(model, batch, config, anchor, fisher),
            "forget": config.forget * model.elbo(*batch.forgotten).mean()}


def saliency(model: CVAE, batch: Batch, config: UnlearningConfig,
             anchor: Diagonal, fisher: Diagonal) -> dict[str, torch.Tensor]:
    """Draw another class in place of the forgotten one: squared error, summed over pixels
    (after SalUn, Fan et al. 2024, eq. 6), with the weights that `UnlearningConfig.salient` leaves free."""
    moved = (model.decode(*batch.asked) - batch.other).square().flatten(1).sum(1)
    return {**fine_tune(model, batch, config, anchor, fisher), "forget": config.forget * moved.mean()}


def distillation(model: CVAE, batch: Batch, config: UnlearningConfig,
                 anchor: Diagonal, fisher: Diagonal) -> dict[str, torch.Tensor]:
    """Learn the retained classes from real images, and from the original's own decoder (Hinton et al. 2015).

    Its images for latents z are a target without noise, so a model with many new weights learns sooner from them. It
    never shows the forgotten class, whose label is not asked for.
    """
    x, y, _ = batch.replay
    logits = model.decode_logits(batch.replay_z, y)
    difference = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    return {"real": config.real * -model.elbo(*batch.real).mean(), "distillation": config.replay * difference.mean()}


def salun(model: CVAE, batch: Batch, config: UnlearningConfig,
          anchor: Diagonal, fisher: Diagonal) -> dict[str, torch.Tensor]:
    """Draw for the forgotten class c what the model itself, as it is now, draws for class c + 1 (Fan et al. 2024,
    eq. 6): squared error, summed over pixels.

    The next class as the other one, and no gradient through its image, are the choices of the paper's code. There
    the model denoises an image of the class; here it decodes a draw from the prior.
    """
    z, y = batch.asked
    moved = (model.decode(z, y) - model.decode(z, y.roll(1, 1)).detach()).square().flatten(1).sum(1)
    return {**fine_tune(model, batch, config, anchor, fisher), "forget": config.forget * moved.mean()}


class _NegativeElbo(nn.Module):
    """The mean negative ELBO of a sample as the output of a module, for `functional_call`."""

    def __init__(self, model: CVAE):
        super().__init__()
        self.model = model

    def forward(self, x, y, noise):
        return -self.model.elbo(x, y, noise).mean()


def uno(model: CVAE, batch: Batch, config: UnlearningConfig,
        anchor: Diagonal, fisher: Diagonal) -> dict[str, torch.Tensor]:
    """Make the gradients of the forgotten and the retained images orthogonal (UNO, Mandal & Gottwald 2025).

    The loss is L_r + L_1 + lambda cos^2(grad L_f, grad (L_r + L_1)), with the mean negative ELBO of retained images
    L_r and of forgotten ones L_f, each under its own label. L_1 is that of retained images under the label to forget:
    the paper's code has it for conditional models. Without it, neglect alone would have to change what the label draws.
    """
    x, y, noise = batch.real
    count = min(len(x), len(batch.asked[1]))
    relabeled = x[:count], batch.asked[1][:count], noise[:count]
    loss = _NegativeElbo(model)
    weights = dict(loss.named_parameters())

    def retained(weights):
        values = {"real": functional_call(loss, weights, (x, y, noise)),
                  "relabeled": functional_call(loss, weights, relabeled)}
        return sum(values.values()), values

    def forgotten(weights):
        return functional_call(loss, weights, batch.forgotten)

    # Not autograd.grad, which does not go together with vmap.
    of_retained, (_, values) = grad_and_value(retained, has_aux=True)(weights)
    of_forgotten, _ = grad_and_value(forgotten)(weights)
    squared_cosine = (_inner(of_retained, of_forgotten).square()
                      / (_inner(of_retained, of_retained) * _inner(of_forgotten, of_forgotten)))
    return {**values, "forget": config.forget * squared_cosine}


def _inner(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], axes: int = 0) -> torch.Tensor:
    """The inner product over all weights and all but the first `axes` axes."""
    return sum((one[name] * other[name]).flatten(axes).sum(-1) for name in one)


def surgery(gradients: Mapping[str, Mapping[str, torch.Tensor]], stacked: bool = False) -> dict[str, torch.Tensor]:
    """The gradient of the term `forget`, projected onto the normal plane of the gradient of `real` (Bae et al. 2023).

    A small step along it leaves the loss of the retained images as it is, to first order: their gradient protects
    them, but nothing rehearses them.

    Args:
        gradients: term -> weight's name -> gradient.
        stacked: whether each gradient has a leading axis of models.
    """
    forget, real = gradients["forget"], gradients["real"]
    share = _inner(forget, real, int(stacked)) / _inner(real, real, int(stacked))
    return {name: g - share.view(-1, *[1] * (g.ndim - 1)) * real[name] if stacked else g - share * real[name]
            for name, g in forget.items()}


@dataclass(frozen=True)
class Method:
    """A way to forget.

    Attributes:
        loss: the loss, as a dictionary of weighted terms.
        config: the weights of the terms, the number of updates, and the learning rate.
        combine: makes the gradient of the update from those of the terms; their sum by default.
        own: whether the EWC penalty has the Fisher of the model's own samples of all classes
            (`fisher.own_fisher`), not that of the real images of the retained classes.
    """

    loss: Loss
    config: UnlearningConfig
    combine: Combine | None = None
    own: bool = False


METHODS = {
    "ewc_gray": Method(ewc_gray, UnlearningConfig()),
    "ewc_gray_replay": Method(ewc_gray, UnlearningConfig(real=0.0, ewc=100.0)),
    # The official code sums over batches of 256 and has 100 sum F (theta - theta*)^2, hence 2 * 100 / 256 for our
    # means and lambda/2. Its learning rate is 1e-4 throughout.
    "selective_amnesia": Method(selective_amnesia, UnlearningConfig(
        steps=10_000, batch=256, forget_batch=256, peak_lr=1e-4, schedule="constant", real=0.0, ewc=0.78125, gray=0.0,
        forget=1.0), own=True),
    "selective_amnesia_tuned": Method(selective_amnesia, UnlearningConfig(
        steps=3200, batch=256, forget_batch=256, peak_lr=2e-3, real=0.0, ewc=0.78125, gray=0.0, forget=1.0)),
    # The loss has no lower bound: more updates, or a larger weight, destroy the model.
    "gradient_ascent": Method(gradient_ascent, UnlearningConfig(
        steps=70, batch=256, forget_batch=256, peak_lr=1.5e-4, real=0.0, replay=0.0, ewc=0.0, gray=0.0, forget=1.0)),
    "neggrad_plus": Method(gradient_ascent, UnlearningConfig(
        steps=200, batch=256, forget_batch=256, peak_lr=2e-4, replay=0.0, ewc=0.0, gray=0.0, forget=0.02)),
    "saliency": Method(saliency, UnlearningConfig(
        batch=256, replay=0.0, ewc=0.0, gray=0.0, forget=1.0, salient=0.5)),
    # The paper's code weights the mean over pixels of the squared error by 1 and the sum over 3,072 pixels of the
    # retained images' by 0.001, hence 1 / 3.072 for our sums.
    "salun": Method(salun, UnlearningConfig(
        steps=1000, forget_batch=128, peak_lr=1e-4, schedule="constant", replay=0.0, ewc=0.0, gray=0.0, forget=0.3255,
        salient=0.5)),
    # No number of updates and no rate makes it forget before the retained classes are destroyed.
    "gradient_surgery": Method(gradient_ascent, UnlearningConfig(
        steps=100, batch=256, forget_batch=256, peak_lr=2e-4, replay=0.0, ewc=0.0, gray=0.0, forget=1.0),
        combine=surgery),
    # The paper's code sums over batches of 128 and has a weight of 1000, hence 1000 / 128 for our means. Its few
    # dozen updates at a constant 1e-3 are too few to change what a label draws.
    "uno": Method(uno, UnlearningConfig(
        steps=1600, forget_batch=128, peak_lr=4e-3, replay=0.0, ewc=0.0, gray=0.0, forget=7.8125)),
    "fine_tune": Method(fine_tune, UnlearningConfig(
        steps=3200, batch=256, peak_lr=1.6e-2, replay=0.0, ewc=0.0, gray=0.0)),
    # The images that its steps see are at most a quarter of those of a training.
    "distillation": Method(distillation, UnlearningConfig(
        steps=1371, peak_lr=1e-2, ewc=0.0, gray=0.0, fresh=0.85)),
    "unseen": Method(fine_tune, UnlearningConfig(
        steps=3200, batch=256, peak_lr=1.2e-2, replay=0.0, ewc=0.0, gray=0.0, fresh=0.7)),
}

# By default, chapter 7 compares these: none takes more than 3,200 updates, or several times as long for a step.
COMPARED = ("ewc_gray", "selective_amnesia_tuned", "neggrad_plus", "gradient_surgery", "saliency", "salun", "fine_tune",
            "unseen", "distillation")
