"""One update of the CVAE at batch 256, against the usual loop and against the matrix products alone."""

from functools import partial
from unittest import mock

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from sa_lib import settings
from sa_lib.model import ARCHITECTURES, build
from sa_lib.training import TrainingConfig, train_cvae

BATCH, STEPS = 256, 30


class Pictures(Dataset):
    """Images as from torchvision's MNIST: one PIL image after another, made a tensor."""

    def __init__(self, images, labels):
        from PIL import Image
        self.images = [Image.fromarray((image[0] * 255).byte().numpy()) for image in images]
        self.labels = labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, at):
        return to_tensor(self.images[at]), int(self.labels[at])


def usual_loop(sample):
    """A loop as in most tutorials: DataLoader, `to_tensor`, one-hot labels, Adam."""
    images, labels, _ = sample
    model = build(ARCHITECTURES["mlp"], 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(Pictures(images, labels), BATCH, shuffle=True)

    def run():
        for x, label in loader:
            y = nn.functional.one_hot(label, 10).float()
            loss = -model.elbo(x, y, torch.randn(len(x), model.config.latent_dim)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return run


def ours(sample, half=False):
    images, labels, _ = sample
    model = build(ARCHITECTURES["mlp"], 0)

    def run():
        with mock.patch.object(settings, "native_bfloat16", lambda: half):
            train_cvae(model, images, labels, TrainingConfig(epochs=1, batch=BATCH), seed=0)
    return run


def products(sample, dtype=torch.float32):
    """The matrix products of a step and nothing else: forward, for the weights, and for all inputs but the first."""
    config = ARCHITECTURES["mlp"]
    wide, narrow = config.hidden
    sizes = [(794, wide), (wide, narrow), (narrow, 2 * config.latent_dim),
             (config.latent_dim + 10, narrow), (narrow, wide), (wide, 784)]
    layers = [tuple(torch.randn(shape).to(dtype) for shape in ((BATCH, i), (o, i), (BATCH, o))) for i, o in sizes]

    def run():
        for _ in range(STEPS):
            for at, (a, w, d) in enumerate(layers):
                a @ w.T
                d.T @ a
                if at:
                    d @ w
    return run


def test_training_step(compare, sample):
    loops = {"products": products, "ours": ours, "usual loop": usual_loop}
    if settings.native_bfloat16():
        loops |= {"products in bfloat16": partial(products, dtype=torch.bfloat16),
                  "ours in bfloat16": partial(ours, half=True)}
    images = sample(STEPS * BATCH, 8)
    compare("Training step, mlp", "step", {name: (loop(images), STEPS) for name, loop in loops.items()})
