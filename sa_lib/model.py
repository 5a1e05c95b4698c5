"""The conditional variational autoencoder (CVAE).

A label y is joined to the input of the encoder q(z|x,y) and of the decoder
p(x|z,y) (Kingma & Welling 2014; Sohn, Lee & Yan 2015). The `mlp` architecture
is the one of Heng & Soh (2023, arXiv 2305.10120, appendix B.1).
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .checks import check_name, check_seed, check_types, shorten
from .labels import CLASSES

__all__ = ["ARCHITECTURES", "CVAE", "ModelConfig", "build", "copy_of", "device"]

# Of one image; more would need other networks.
MOST_VALUES = 2**24


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a `CVAE`.

    Attributes:
        architecture: "mlp" or "conv".
        latent_dim: length of z.
        hidden: widths of the two hidden layers (mlp) or channels of the two
            convolutions (conv), from the image inwards.
        classes: numbers in a label vector, from 2.
        image_shape: channels, height and width of an image; for conv, height
            and width are divisible by 4.
    """

    architecture: str = "mlp"
    latent_dim: int = 8
    hidden: tuple[int, int] = (512, 256)
    classes: int = CLASSES
    image_shape: tuple[int, int, int] = (1, 28, 28)

    def __post_init__(self):
        check_name(("mlp", "conv"), architecture=self.architecture)
        sizes = (self.latent_dim, *self.hidden) if isinstance(self.hidden, (list, tuple)) else ()
        if len(sizes) != 3 or not all(type(size) is int and 1 <= size <= 65536 for size in sizes):
            raise ValueError("latent_dim and hidden must be one and two whole numbers from 1 to 65536, "
                             f"got {shorten(self.latent_dim)} and {shorten(self.hidden)}")
        if type(self.classes) is not int or not 2 <= self.classes <= 65536:
            raise ValueError(f"classes must be a whole number from 2 to 65536, got {shorten(self.classes)}")
        shape = self.image_shape if isinstance(self.image_shape, (list, tuple)) else ()
        if (len(shape) != 3 or not all(type(size) is int and size >= 1 for size in shape)
                or math.prod(shape) > MOST_VALUES):
            raise ValueError("image_shape must be channels, height and width, whole numbers from 1 whose product is at "
                             f"most {MOST_VALUES}, got {shorten(self.image_shape)}")
        if self.architecture == "conv" and (shape[1] % 4 or shape[2] % 4):
            raise ValueError("image_shape must have a height and a width that are divisible by 4 for the architecture "
                             f"conv, got {shorten(self.image_shape)}; take mlp, or images with a margin")
        for name in ("hidden", "image_shape"):  # lists where they come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def asdict(self) -> dict:
        """The configuration as JSON values."""
        return {**dataclasses.asdict(self), "hidden": list(self.hidden), "image_shape": list(self.image_shape)}


ARCHITECTURES = {
    "mlp": ModelConfig(),
    "conv": ModelConfig("conv", latent_dim=25, hidden=(64, 128)),
}


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class MLPEncoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        wide, narrow = config.hidden
        self.layers = nn.Sequential(
            nn.Linear(math.prod(config.image_shape) + config.classes, wide), nn.ReLU(),
            nn.Linear(wide, narrow), nn.ReLU())
        self.mean = nn.Linear(narrow, config.latent_dim)
        self.log_var = nn.Linear(narrow, config.latent_dim)

    def forward(self, x, y):
        h = self.layers(torch.cat([x.flatten(1), y], dim=1))
        return self.mean(h), self.log_var(h)


class MLPDecoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        wide, narrow = config.hidden
        self.image_shape = config.image_shape
        self.layers = nn.Sequential(nn.Linear(config.latent_dim + config.classes, narrow), nn.ReLU(),
                                    nn.Linear(narrow, wide), nn.ReLU(),
                                    nn.Linear(wide, math.prod(config.image_shape)))

    def forward(self, z, y):
        return self.layers(torch.cat([z, y], dim=1)).view(-1, *self.image_shape)


class ConvEncoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        (outer, inner), (channels, height, width) = config.hidden, config.image_shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels + config.classes, outer, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(outer, inner, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten())
        values = inner * (height // 4) * (width // 4)
        self.mean = nn.Linear(values, config.latent_dim)
        self.log_var = nn.Linear(values, config.latent_dim)

    def forward(self, x, y):
        maps = y[:, :, None, None].expand(-1, -1, *x.shape[2:])
        h = self.layers(torch.cat([x, maps], dim=1))
        return self.mean(h), self.log_var(h)


class ConvDecoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        (outer, inner), (channels, height, width) = config.hidden, config.image_shape
        small = inner, height // 4, width // 4
        self.layers = nn.Sequential(  # no ReLU behind the first: so it is in the notebook that this book follows
            nn.Linear(config.latent_dim + config.classes, math.prod(small)),
            nn.Unflatten(1, small),
            nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(outer, channels, 4, stride=2, padding=1))

    def forward(self, z, y):
        return self.layers(torch.cat([z, y], dim=1))


class CVAE(nn.Module):
    """A conditional VAE for images with pixels in [0, 1].

    Images x are float `[N, *image_shape]`; labels y are float [N, classes],
    one-hot or any other real vector; latents z are float [N, latent_dim].
    """

    def __init__(self, config: ModelConfig):
        check_types(config=(config, ModelConfig))
        super().__init__()
        self.config = config
        encoder, decoder = {"mlp": (MLPEncoder, MLPDecoder),
                            "conv": (ConvEncoder, ConvDecoder)}[config.architecture]
        self.encoder = encoder(config)
        self.decoder = decoder(config)

    def encode(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of q(z|x,y), each [N, latent_dim]."""
        weight = self.encoder.mean.weight
        _check_input("x", x, self.config.image_shape, weight)
        _check_input("y", y, (self.config.classes,), weight, len(x))
        mean, log_var = self.encoder(x, y)
        return mean.to(x.dtype), log_var.to(x.dtype)  # not of the reduced precision of a training step

    def decode_logits(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Logits of the pixel means of p(x|z,y), `[N, *image_shape]`."""
        weight = self.encoder.mean.weight
        _check_input("z", z, (self.config.latent_dim,), weight)
        _check_input("y", y, (self.config.classes,), weight, len(z))
        return self.decoder(z, y).to(z.dtype)

    def decode(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Pixel means of p(x|z,y), `[N, *image_shape]`, in [0, 1]."""
        return torch.sigmoid(self.decode_logits(z, y))

    def elbo_terms(self, x: torch.Tensor, y: torch.Tensor,
                   noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two terms of the evidence lower bound (Kingma & Welling 2014, eq. 3).

        Args:
            noise: standard normal [N, latent_dim], the one draw of the
                reparameterized z = mean + exp(log_var / 2) * noise.

        Returns:
            log-likelihood log p(x|z,y) and divergence KL(q(z|x,y) || N(0, I)),
            each [N], in nats per image. Gray pixels enter the Bernoulli
            likelihood as they are (cross-entropy), as is customary on MNIST.
        """
        _check_input("noise", noise, (self.config.latent_dim,), self.encoder.mean.weight, len(x))
        mean, log_var = self.encode(x, y)
        z = mean + (0.5 * log_var).exp() * noise
        logits = self.decode_logits(z, y)
        log_likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        return log_likelihood, kl

    def elbo(self, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """One-sample estimate of the ELBO [N], nats per image; see `elbo_terms`."""
        log_likelihood, kl = self.elbo_terms(x, y, noise)
        return log_likelihood - kl


def build(config: ModelConfig, seed: int) -> CVAE:
    """A CVAE with PyTorch's default initialization drawn from `seed` alone."""
    seed = check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the one of the CPU, which `fork_rng` restores
        return CVAE(config)


def copy_of(model: CVAE) -> CVAE:
    """A copy with weights of its own, on the same device."""
    copy = build(model.config, 0).to(next(model.parameters()).device)
    copy.load_state_dict(model.state_dict())
    return copy


def _check_input(name: str, tensor: torch.Tensor, tail: tuple[int, ...], weight: torch.Tensor,
                 count: int | None = None) -> None:
    """Check shape and dtype only: checking values would force a GPU synchronization at every step."""
    check_types(**{name: (tensor, torch.Tensor)})
    if tensor.ndim == 0 or tuple(tensor.shape[1:]) != tail:
        raise ValueError(f"{name} must have shape [{', '.join(['N', *map(str, tail)])}], got {list(tensor.shape)}")
    if tensor.dtype != weight.dtype or count not in (None, len(tensor)):
        raise ValueError(f"{name} must have as many rows as the other input, of the weights' {weight.dtype}, "
                         f"got {len(tensor)} of {tensor.dtype}")
