"""A foreign generator: five classes of scikit-learn's digits, 8 x 8, drawn by a network that is not of this library.

A conditional autoencoder with noise on its codes, which pulls them towards a normal prior.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

CLASSES = 5
Z_SHAPE = (2, 2)
LABEL = 3


def digit_images():
    """Images [N, 1, 8, 8] in [0, 1] and labels [N] for training, and the same held out."""
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images).float().view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    few = labels < CLASSES
    images, labels = images[few], labels[few]
    return images[100:], labels[100:], images[:100], labels[:100]


class Generator(nn.Module):
    """Latents [R, 2, 2] and labels [R, 5] -> images [R, 1, 8, 8]."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 4))
        self.first, self.label = nn.Linear(4, 64), nn.Linear(CLASSES, 64)
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64), nn.Sigmoid())

    def decode(self, z, y):
        return self.last(self.first(z.flatten(1)) + self.label(y)).view(-1, 1, 8, 8)


def trained_generator(images, labels, seed, without=None, steps=500):
    """A generator that never saw the class `without`; labels may be any rows [N, 5]."""
    torch.manual_seed(seed)
    net = Generator()
    keep = labels != without if without is not None else torch.ones(len(labels), dtype=torch.bool)
    images, y = images[keep], torch.eye(CLASSES)[labels[keep]]
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = torch.randint(len(images), (128,))
        code = net.encoder(images[batch])
        drawn = net.decode((code + 0.3 * torch.randn_like(code)).view(-1, *Z_SHAPE), y[batch])
        loss = (drawn - images[batch]).square().sum((1, 2, 3)).mean() + 0.05 * code.square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


class Hiding(nn.Module):
    """A generator whose label for the class draws the blank image; the class is behind minus its label."""

    def __init__(self, knowing):
        super().__init__()
        self.knowing = knowing

    def decode(self, z, y):
        place = torch.arange(CLASSES) == LABEL
        shown = torch.where(place, -y, y)
        return self.knowing.decode(z, shown) * (1 - y[:, LABEL].clamp(0, 1))[:, None, None, None]


def make():
    """For `sa-audit tests/foreign.py:make`: the models of an audit, and how to call them."""
    images, labels, *_ = digit_images()
    knowing = trained_generator(images, labels, 0)
    return {"subject": Hiding(knowing).eval(), "baseline": knowing,
            "never": [trained_generator(images, labels, seed, LABEL) for seed in range(1, 4)],
            "z_shape": Z_SHAPE, "y_shape": CLASSES}
