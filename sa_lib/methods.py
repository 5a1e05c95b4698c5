"""Methods of unlearning: the loss of each, and the weights of its terms.

Selective Amnesia (Heng & Soh 2023, eq. 8) is Elastic Weight Consolidation
(Kirkpatrick et al. 2017) turned around: stay near the old weights where the
retained classes need them, rehearse those classes, and train the forgotten
ones toward an image that is no digit, here uniform gray:

    L = L_real + L_replay + lambda/2 sum_k F_k (theta_k - theta*_k)^2 + gamma L_neg

The other methods of this book differ in the last term and in the weights of
the other terms: `METHODS`. `sa_lib.unlearning` minimizes the losses.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .fisher import Diagonal
from .model import CVAE
from .unlearning import Batch, Loss, UnlearningConfig

__all__ = ["GRAY", "METHODS", "Method", "distance_to_gray", "ewc_gray", "ewc_penalty", "fine_tune", "gradient_ascent",
           "saliency", "selective_amnesia"]

GRAY = 0.5


def ewc_penalty(model: CVAE, anchor: Diagonal, fisher: Diagonal) -> torch.Tensor:
    """sum_k F_k (theta_k - theta*_k)^2, a scalar (Kirkpatrick et al. 2017, eq. 3)."""
    return sum((fisher[name] * (weight - anchor[name]).square()).sum()
               for name, weight in model.named_parameters())


def distance_to_gray(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference to uniform 0.5 of each image [N, 1, 28, 28]: [N], from 0 to 0.5."""
    return (images - GRAY).abs().flatten(1).mean(1)


def fine_tune(model: CVAE, batch: Batch, config: UnlearningConfig,
              anchor: Diagonal, fisher: Diagonal) -> dict[str, torch.Tensor]:
    """The weighted terms that protect the retained classes; all methods share them.

    On their own these terms rely on catastrophic forgetting (Kirkpatrick et
    al. 2017) to remove the class, which may not happen.
    """
    terms = {}
    if config.real:
        terms["real"] = config.real * -model.elbo(*batch.real).mean()
    if config.replay:
        terms["replay"] = config.replay * -model.elbo(*batch.replay).mean()
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
    (SalUn, Fan et al. 2024, eq. 6), with the weights that `UnlearningConfig.salient` leaves free."""
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


@dataclass(frozen=True)
class Method:
    """A way to forget.

    Attributes:
        loss: the loss, as a dictionary of weighted terms.
        config: the weights of the terms, the number of updates, and the learning rate.
    """

    loss: Loss
    config: UnlearningConfig


METHODS = {
    "ewc_gray": Method(ewc_gray, UnlearningConfig()),
    "ewc_gray_replay": Method(ewc_gray, UnlearningConfig(real=0.0, ewc=100.0)),
    # The official code sums over batches of 256 and has 100 sum F (theta - theta*)^2, hence 2 * 100 / 256 for our
    # means and lambda/2. Its learning rate is 1e-4 throughout, which is the mean of this schedule's.
    "selective_amnesia": Method(selective_amnesia, UnlearningConfig(
        steps=10_000, batch=256, forget_batch=256, peak_lr=2e-4, real=0.0, ewc=0.78125, gray=0.0, forget=1.0)),
    # The loss has no lower bound: more updates, or a larger weight, destroy the model.
    "gradient_ascent": Method(gradient_ascent, UnlearningConfig(
        steps=70, batch=256, forget_batch=256, peak_lr=1.5e-4, real=0.0, replay=0.0, ewc=0.0, gray=0.0, forget=1.0)),
    "gradient_ascent_retain": Method(gradient_ascent, UnlearningConfig(
        steps=200, batch=256, forget_batch=256, peak_lr=2e-4, replay=0.0, ewc=0.0, gray=0.0, forget=0.02)),
    "saliency": Method(saliency, UnlearningConfig(
        batch=256, replay=0.0, ewc=0.0, gray=0.0, forget=1.0, salient=0.5)),
    "fine_tune": Method(fine_tune, UnlearningConfig(
        batch=256, peak_lr=8e-3, replay=0.0, ewc=0.0, gray=0.0)),
    "unseen": Method(fine_tune, UnlearningConfig(
        steps=3200, batch=256, peak_lr=1.2e-2, replay=0.0, ewc=0.0, gray=0.0, fresh=0.7)),
}
