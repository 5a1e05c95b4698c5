"""The exact Fisher diagonal, by every public tool that computes one, on the same images.

Each tool must agree with the gradients of one image at a time before its time counts. Slow tools get fewer images.
Times are compared per image, because the time of every tool is linear in their number.
"""

import copy
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader, TensorDataset

from sa_lib.fisher import fisher_diagonal
from sa_lib.labels import one_hot

BATCH = 512
# Images a round, for mlp and conv.
COUNTS = {"floor": (8192, 512), "ours": (8192, 512), "nngeometry": (8192, 512), "BackPACK": (8192, 512),
          "vmap": (256, 64), "Opacus": (256, 64), "one image at a time": (256, 64)}


class Loss(nn.Module):
    """The negative ELBO as a module: the form that the tools need."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, y, noise):
        return -self.model.elbo(x, y, noise)


def parts(sample, batch=BATCH):
    images, labels, noise = sample
    return zip(*(t.split(batch) for t in (images, one_hot(labels).to(images.dtype), noise)), strict=True)


def floor(model, sample):
    """A plain forward and backward pass: the least work that any of the others can do."""
    for part in parts(sample):
        model.zero_grad()
        Loss(model)(*part).sum().backward()


def ours(model, sample):
    return fisher_diagonal(model, *sample, batch=BATCH)


def one_image_at_a_time(model, sample):
    loss, total = Loss(model), {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for part in parts(sample, 1):
        gradients = torch.autograd.grad(loss(*part).sum(), list(model.parameters()))
        for square, gradient in zip(total.values(), gradients, strict=True):
            square += gradient.square()
    return {name: square / len(sample[0]) for name, square in total.items()}


def by_vmap(model, sample):
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights, x, y, noise):
        return functional_call(Loss(model), {f"model.{name}": weight for name, weight in weights.items()},
                               (x[None], y[None], noise[None])).sum()

    per_image = vmap(grad(loss), in_dims=(None, 0, 0, 0))
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    for part in parts(sample, 128):
        for name, gradient in per_image(weights, *part).items():
            total[name] += gradient.square().sum(0)
    return {name: square / len(sample[0]) for name, square in total.items()}


def by_opacus(model, sample):
    from opacus import GradSampleModule
    wrapped = GradSampleModule(Loss(model), loss_reduction="sum").train()  # in evaluation mode it computes nothing
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for part in parts(sample, 128):
        wrapped.zero_grad()
        wrapped(*part).sum().backward()
        for square, weight in zip(total.values(), model.parameters(), strict=True):
            square += weight.grad_sample.square().sum(0)
    wrapped.to_standard_module()
    return {name: square / len(sample[0]) for name, square in total.items()}


def by_backpack(model, sample):
    from backpack import backpack, extend
    from backpack.extensions import SumGradSquared
    extended = extend(Loss(model), use_converter=False)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for part in parts(sample):
        extended.zero_grad()
        with backpack(SumGradSquared()):
            extended(*part).sum().backward()
        for square, weight in zip(total.values(), model.parameters(), strict=True):
            square += weight.sum_grad_squared
    return {name: square / len(sample[0]) for name, square in total.items()}


def by_nngeometry(model, sample):
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatDiag
    loss = Loss(model)
    images, labels, noise = sample
    loader = DataLoader(TensorDataset(images, one_hot(labels).to(images.dtype), noise), batch_size=BATCH)
    metric = FIM(model, loader, PMatDiag, variant="regression", function=lambda *part: loss(*part)[:, None])
    weights = dict(model.named_parameters())
    flat = metric.get_diag().split([weight.numel() for weight in weights.values()])
    return {name: f.view_as(weight) for (name, weight), f in zip(weights.items(), flat, strict=True)}


TOOLS = {"floor": (floor, None), "ours": (ours, None), "nngeometry": (by_nngeometry, "nngeometry"),
         "BackPACK": (by_backpack, "backpack"), "vmap": (by_vmap, None), "Opacus": (by_opacus, "opacus"),
         "one image at a time": (one_image_at_a_time, None)}


def test_fisher(compare, model, sample):
    latent_dim, conv = model.config.latent_dim, model.config.architecture == "conv"
    images, labels, noise = sample(40, latent_dim)
    few = images.double(), labels, noise.double()
    exact = one_image_at_a_time(copy.deepcopy(model).double(), few)
    jobs, errors = {}, {}
    for tool, (compute, package) in TOOLS.items():
        if package and find_spec(package) is None:
            continue
        if tool != "floor":
            diagonal = compute(copy.deepcopy(model).double(), few)
            assert diagonal.keys() == exact.keys()
            error = max(float((diagonal[name] - f).abs().max() / f.max()) for name, f in exact.items())
            assert error < 1e-4, f"{tool} disagrees: relative error {error:.1e}"
            errors[tool] = error
        count = COUNTS[tool][conv]
        # Some tools leave hooks behind.
        jobs[tool] = partial(compute, copy.deepcopy(model), sample(count, latent_dim)), count
    for row in compare(f"Fisher, {model.config.architecture}", "image", jobs, rounds=5):
        row["error"] = errors.get(row["name"])
