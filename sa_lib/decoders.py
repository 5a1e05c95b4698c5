"""Decoders: the part of a generative model that the reconstruction attacker needs, whatever the model is.

The attacker works on rows: latents [R, d] and label vectors [R, c]. A `Decoder` gives a model of any shapes this form.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import jvp, vmap
from torch.nn import functional as F

from .checks import check_types, check_whole, shorten
from .model import CVAE

__all__ = ["CHUNK", "Decoder", "decode_derivatives", "decoder_of", "forward_slope", "is_smooth", "shape_of",
           "slope_along", "with_prior"]

# Images that are drawn at once.
CHUNK = 512
# Two drawings of the same inputs may differ by this share of the largest pixel: sums in another order are rounded.
SAME = 1e-3
PROBES = 8


@dataclass(frozen=True)
class Decoder:
    """A frozen decoder as an attacker sees it.

    Attributes:
        decode: latents [R, latent_dim] and label vectors [R, classes] -> images `[R, *image_shape]`.
        latent_dim: numbers in a latent.
        classes: numbers in a label vector; 0 for a model without labels.
        image_shape: of one image.
        where: the device of its inputs.
        encode: images `[R, *image_shape]` and label vectors -> latents [R, latent_dim], as proposals; None: no encoder.
        prior: a count and a generator of the CPU -> latents [count, latent_dim]; None: standard normal.
        derivatives: latents, label vectors, and directions [Q, R, latent_dim + classes] -> derivatives of the images
            along them, `[Q, R, *image_shape]`; None: those of forward-mode differentiation.
    """

    decode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    latent_dim: int
    classes: int
    image_shape: tuple[int, ...]
    where: torch.device
    encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    prior: Callable[[int, torch.Generator], torch.Tensor] | None = None
    derivatives: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Latents [count, latent_dim] from the prior, on the CPU."""
        if self.prior is None:
            return torch.randn(count, self.latent_dim, generator=generator)
        return self.prior(count, generator)

    def label(self, number: int | None) -> torch.Tensor:
        """The label vector [1, classes] of a class; [1, 0] for a model without labels."""
        y = torch.zeros(1, self.classes, device=self.where)
        if number is not None:
            y[0, number] = 1
        return y


def decoder_of(model: Any, image_shape: tuple[int, ...], z_shape: tuple[int, ...] | None = None,
               y_shape: tuple[int, ...] | None = None, prior: Callable | None = None,
               where: torch.device | None = None, name: str = "model") -> Decoder:
    """The decoder of a `CVAE`, of an object with `decode`, or of a function.

    Args:
        model: `decode(z [R, *z_shape], y [R, *y_shape]) -> images [R, *image_shape]`; without y if `y_shape` is None.
            If it is a module of PyTorch, it must be in evaluation mode. It is not changed.
        prior: (count, generator) -> latents `[count, *z_shape]`; standard normal by default.
        where: the device of the inputs of a function; that of a module is the one of its weights.
        name: the argument to be named in a message.

    Raises:
        TypeError, ValueError: the model cannot be called so, or gives other images than it should; each image must
            depend on its own inputs alone, and be the same each time.
    """
    if isinstance(model, CVAE):
        if prior is not None:
            raise ValueError(f"prior must be None for a CVAE, whose prior is standard normal, got {shorten(prior)}")
        shape, where = model.config, next(model.parameters()).device
        derivatives = partial(decode_derivatives, model) if type(model) is CVAE else None  # others may decode otherwise
        return Decoder(model.decode, shape.latent_dim, shape.classes, shape.image_shape, where,
                       lambda x, y: model.encode(x, y)[0], derivatives=derivatives)
    if isinstance(model, nn.Module) and model.training:
        raise ValueError(f"{name} must be in evaluation mode, got a {type(model).__name__} in training mode; call its "
                         ".eval()")
    decode = getattr(model, "decode", model)
    if not callable(decode):
        raise TypeError(f"{name} must be a function or have a decode, got {shorten(model)} (a {type(model).__name__})")
    z_shape = shape_of(z_shape, "z_shape")
    y_shape = None if y_shape is None else shape_of(y_shape, "y_shape")
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    where = weight.device if weight is not None else where or torch.device("cpu")

    def by_rows(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z, y = z.unflatten(1, z_shape), None if y_shape is None else y.unflatten(1, y_shape)
        parts = [slice(at, at + CHUNK) for at in range(0, len(z), CHUNK)]
        return torch.cat([decode(z[part]) if y is None else decode(z[part], y[part]) for part in parts])

    def flat_prior(count: int, generator: torch.Generator) -> torch.Tensor:
        return prior(count, generator).to(torch.float32).flatten(1)

    decoder = Decoder(by_rows, math.prod(z_shape), math.prod(y_shape) if y_shape else 0, tuple(image_shape), where,
                      prior=prior and flat_prior)
    _check(decoder, name)
    return decoder


def decode_derivatives(model: CVAE, z: torch.Tensor, y: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Derivatives of `decode` at (z, y), along directions [Q, R, latent_dim + classes] of both: `[Q, R, *image_shape]`.

    Forward mode, in half the time of PyTorch's, which also adds the derivatives by the weights, all zero.
    """
    value, tangent = torch.cat([z, y], 1), directions.flatten(0, 1)
    for layer in model.decoder.layers:
        if isinstance(layer, nn.ReLU):
            tangent = (tangent.unflatten(0, directions.shape[:2]) * (value > 0)).flatten(0, 1)
        else:
            tangent = _without_bias(layer, tangent)
        value = layer(value)
    pixels = torch.sigmoid(value.to(z.dtype)).view(-1, *model.config.image_shape)
    return tangent.to(z.dtype).view(*directions.shape[:2], *model.config.image_shape) * (pixels * (1 - pixels))


def _without_bias(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight)
    if isinstance(layer, nn.ConvTranspose2d):
        return F.conv_transpose2d(x, layer.weight, None, layer.stride, layer.padding)
    return layer(x)  # it only changes the shape


def with_prior(model: CVAE) -> Decoder:
    """The decoder of a model whose images [D + latent_dim] end with z / sqrt(2): their squared error to a target that
    ends with zeros is E + ‖z‖² / 2.

    So an attacker pays for a z far from the prior. Up to a constant, that is -log p(x, z | y) where the pixels have
    normal noise of variance 1/2.
    """
    plain, share = decoder_of(model, model.config.image_shape), 0.5**0.5
    pixels = math.prod(plain.image_shape)

    def decode(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([plain.decode(z, y).flatten(1), share * z], 1)

    def derivatives(z: torch.Tensor, y: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        of_images = decode_derivatives(model, z, y, directions).flatten(2)
        return torch.cat([of_images, share * directions[..., :plain.latent_dim]], 2)

    def encode(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return plain.encode(x[:, :pixels].unflatten(1, plain.image_shape), y)

    return replace(plain, decode=decode, image_shape=(pixels + plain.latent_dim,), encode=encode,
                   derivatives=derivatives)


def shape_of(shape: Any, name: str) -> tuple[int, ...]:
    """A shape as a tuple of whole numbers from 1; a single number is a shape too."""
    shape = (shape,) if isinstance(shape, int) else shape
    check_types(**{name: (shape, (tuple, list))})
    if not shape:
        raise ValueError(f"{name} must be one whole number or more, got {shorten(shape)}")
    check_whole(**{f"{name}[{at}]": size for at, size in enumerate(shape)})
    return tuple(map(int, shape))


def _inputs(decoder: Decoder) -> tuple[torch.Tensor, torch.Tensor]:
    """A few fixed inputs [PROBES, latent_dim] and [PROBES, classes]."""
    generator = torch.Generator().manual_seed(0)
    try:
        z = decoder.draw(PROBES, generator)
    except Exception as error:  # a foreign prior can fail in any way
        raise ValueError("prior must take a count and a generator, and give latents [count, *z_shape], got a "
                         f"{type(error).__name__}: {shorten(' '.join(str(error).split()))}") from None
    if z.shape != (PROBES, decoder.latent_dim):
        raise ValueError(f"prior must give {decoder.latent_dim} numbers for each latent, got {list(z.shape)} for "
                         f"{PROBES}")
    y = torch.eye(decoder.classes)[torch.arange(PROBES) % max(decoder.classes, 1)] if decoder.classes else z[:, :0]
    return z.to(decoder.where), y.to(decoder.where)


@torch.no_grad()
def _check(decoder: Decoder, name: str) -> None:
    z, y = _inputs(decoder)
    try:
        images = decoder.decode(z, y)
    except Exception as error:  # a foreign model can fail in any way
        raise ValueError(f"{name} must draw images for z of {decoder.latent_dim} numbers and y of {decoder.classes}, "
                         f"got a {type(error).__name__}: {shorten(' '.join(str(error).split()))}") from None
    shape = getattr(images, "shape", ())
    if not isinstance(images, torch.Tensor) or tuple(shape) != (PROBES, *decoder.image_shape):
        raise ValueError(f"{name} must draw images of the shape {[PROBES, *decoder.image_shape]} for {PROBES} latents, "
                         f"as images has it, got {list(shape) or type(images).__name__}")
    if not images.is_floating_point() or not images.isfinite().all():
        raise ValueError(f"{name} must draw finite floating-point images, got {images.dtype} with "
                         f"{int((~images.isfinite()).sum())} values that are not finite")
    size = float(images.abs().max()) or 1.0
    again, alone = decoder.decode(z, y), decoder.decode(z[:1], y[:1])
    if float((again - images).abs().max()) > SAME * size or float((alone - images[:1]).abs().max()) > SAME * size:
        raise ValueError(f"{name} must draw the same image for the same inputs each time, whatever else is drawn with "
                         "it, got another one; switch off its noise, dropout and statistics of batches")


def slope_along(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor,
                direction: torch.Tensor) -> torch.Tensor:
    """The derivative of a function at x along a direction, in forward mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own first derivative uses its old torch.jit
        return jvp(function, (x,), (direction,))[1]


def forward_slope(decoder: Decoder) -> torch.Tensor | None:
    """The derivatives of a few images along a direction of z, taken as by Gauss-Newton: `[PROBES, *image_shape]`.

    None if the images have no derivatives in forward mode.
    """
    z, y = _inputs(decoder)
    try:
        return vmap(partial(slope_along, lambda z: decoder.decode(z, y), z))(torch.ones_like(z)[None])[0]
    except Exception:  # an operation without forward-mode derivatives can fail in any way
        return None


def is_smooth(decoder: Decoder) -> bool:
    """Whether the images have forward-mode derivatives by their inputs, and these are not 0 everywhere."""
    slope = forward_slope(decoder)
    return slope is not None and bool(slope.isfinite().all()) and bool(slope.abs().max() > 0)
