"""Threat models: how freely an attacker may choose the inputs of a frozen decoder, and the result of an attack.

`sa_lib.reconstruction` and `sa_lib.attacks` have the attackers.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from .checks import check_name, check_whole, shorten
from .quantiles import normal_radius

__all__ = ["THREATS", "AttackResult", "Decodes", "Threat", "decoded", "prior_radius"]


class Decodes(Protocol):
    """Anything that draws images for latents [R, d] and label vectors [R, c]: a CVAE, or a `decoders.Decoder`."""

    def decode(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Threat:
    """A threat model: how freely the attacker may choose the decoder's inputs.

    Attributes:
        z: "drawn": the best of many draws from the prior; "prior": optimized
            within the ball that has 99 % of the prior; "free": optimized, any
            real vector.
        y: "label": the class's one-hot vector; "simplex": optimized, any
            mixture of the labels; "free": optimized, any real vector.
    """

    z: str
    y: str

    def __post_init__(self):
        check_name(("drawn", "prior", "free"), z=self.z)
        check_name(("label", "simplex", "free"), y=self.y)


# In their order: each allows all that the one before it allows.
THREATS = {
    "random search": Threat("drawn", "label"),
    "z in the prior": Threat("prior", "label"),
    "z free": Threat("free", "label"),
    "y on the simplex": Threat("free", "simplex"),
    "y free": Threat("free", "free"),
}


@dataclass(frozen=True)
class AttackResult:
    """The best inputs for N targets, at K moments of the budget.

    Attributes:
        budget: [K] model evaluations for a target, over all its starts, up to each moment.
        loss: [K, N] the attacker's lowest loss up to each moment.
        z: [K, N, latent_dim] the latents that reached it.
        y: [K, N, classes] the label vectors that reached it.
        images: `[K, N, *image_shape]` the model's images for them.
    """

    budget: list[int]
    loss: torch.Tensor
    z: torch.Tensor
    y: torch.Tensor
    images: torch.Tensor

    @property
    def end(self) -> "AttackResult":
        """The same at the last moment alone, K = 1."""
        return AttackResult(self.budget[-1:], *(t[-1:] for t in (self.loss, self.z, self.y, self.images)))

    def of(self, rows: slice) -> "AttackResult":
        """The same for some of the targets."""
        return AttackResult(self.budget, *(t[:, rows] for t in (self.loss, self.z, self.y, self.images)))

    @property
    def errors(self) -> torch.Tensor:
        """[N] the attacker's lowest loss within the whole budget."""
        return self.loss[-1]


def prior_radius(latent_dim: int, share: float = 0.99) -> float:
    """The radius of the ball around 0 that holds this share of the prior of z."""
    check_whole(latent_dim=latent_dim)
    if type(share) is not float or not 0 < share < 1:
        raise ValueError(f"share must be a number between 0 and 1, got {shorten(share)}")
    return normal_radius(latent_dim, share)


@torch.no_grad()
def decoded(model: Decodes, budget: list[int], loss: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> AttackResult:
    """The result of an attack with these inputs, and the model's images for them."""
    return AttackResult(budget, loss, z, y,
                        model.decode(z.flatten(0, 1), y.flatten(0, 1)).unflatten(0, z.shape[:2]))
