"""Evaluation: what a model draws for each class, and how well it still models it."""

from collections.abc import Sequence

import pandas as pd
import torch

from .checks import check_images, check_seed, check_types, check_values, check_whole
from .data import Dataset
from .judges import NOT_A_DIGIT, Judge
from .labels import CLASSES, check_labels, one_hot, retain_set
from .methods import distance_to_gray
from .model import CVAE, device

__all__ = ["evaluate", "expected_calibration_error", "fidelity", "frechet_distance", "negative_elbo",
           "prior_samples", "retained_means"]

NEIGHBOURS = 5


def prior_samples(model: CVAE, labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The decoder's means for z from the prior and the labels [N]: [N, 1, 28, 28].

    z depends on the seed and on the place in the list alone, so that two
    models asked for the same labels are given the same z.
    """
    check_types(model=(model, CVAE))
    check_labels(labels)
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(len(labels), model.config.latent_dim, generator=generator).to(device())
    with torch.no_grad():
        return torch.cat([model.decode(*part) for part in
                          zip(z.split(4096), one_hot(labels).to(device()).split(4096))])


@torch.no_grad()
def negative_elbo(model: CVAE, images: torch.Tensor, labels: torch.Tensor, seed: int = 0,
                  draws: int = 4) -> torch.Tensor:
    """Negative ELBO of each image, [N], nats: the mean over `draws` latent draws.

    Raises:
        ValueError: there are no images or no draws.
    """
    check_types(model=(model, CVAE), images=(images, torch.Tensor))
    if images.numel() == 0 or type(draws) is not int or draws < 1:
        raise ValueError(f"{len(images)} images and draws={shorten(draws)} will not do; "
                         "at least one of each is needed")
    check_images(images)
    check_labels(labels, len(images))
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (draws, len(images), model.config.latent_dim)
    noise = torch.randn(shape, generator=generator).to(device())
    y = one_hot(labels).to(device())
    total = torch.zeros(len(images), device=device())
    for draw in noise:
        total -= torch.cat([model.elbo(*part) for part in zip(images.to(device()).split(4096), y.split(4096),
                                                              draw.split(4096))])
    return total / draws


def evaluate(model: CVAE, dataset: Dataset, judge: Judge, features: Judge | None, seed: int = 0,
             samples: int = 1000) -> pd.DataFrame:
    """How a model does on every class: one row a class.

    Args:
        judge: scores the samples; judge B, so that no attack has seen it.
        features: the network whose hidden layer the fidelity measures use;
            without it they are left out.
        samples: images drawn from the prior for each class.

    Returns:
        Index `class` 0-9; columns

        - `probability`: judge's mean probability of the class asked for, 0-1;
        - `accuracy`: share of samples whose most probable outcome it is, 0-1;
        - `not_a_digit`: judge's mean probability of no digit, 0-1;
        - `entropy`: mean entropy of the judge's eleven probabilities, nats, 0 to log 11;
        - `gray`: mean distance to gray, 0-0.5;
        - `nelbo`: mean negative ELBO of the class's test images, nats;
        - `reconstruction`: their mean squared error, summed over pixels, through the mean of z;
        - `fid`, `precision`, `recall`, `density`, `coverage`: samples against
          the class's test images, see `fidelity`.

    Raises:
        ValueError: `samples`, or the number of test images of a class, is
            below 6: `fidelity` looks for an image's fifth neighbour.
    """
    check_types(model=(model, CVAE), dataset=(dataset, Dataset), judge=(judge, Judge),
                features=(features, (Judge, type(None))))
    check_seed(seed)
    if type(samples) is not int or samples <= NEIGHBOURS:
        raise ValueError(f"samples={shorten(samples)} is not allowed; use a whole number from {NEIGHBOURS + 1}")
    check_images(dataset.test_images)
    check_labels(dataset.test_labels, len(dataset.test_images))
    counts = torch.bincount(dataset.test_labels, minlength=CLASSES)
    if int(counts.min()) <= NEIGHBOURS:
        raise ValueError(f"the test set of {dataset.name} has {int(counts.min())} images of class "
                         f"{int(counts.argmin())}; at least {NEIGHBOURS + 1} of every class are needed")
    asked = torch.arange(CLASSES).repeat_interleave(samples)
    drawn = prior_samples(model, asked, seed).view(CLASSES, samples, 1, 28, 28)
    rows = []
    for k in range(CLASSES):
        p = judge.probabilities(drawn[k])
        x = dataset.test_images[dataset.test_labels == k].to(device())
        labels = torch.full((len(x),), k)
        with torch.no_grad():
            y = one_hot(labels).to(device())
            rebuilt = model.decode(model.encode(x, y)[0], y)
            measures = fidelity(features.features(x), features.features(drawn[k])) if features else {}
        rows.append({
            "class": k,
            "probability": float(p[:, k].mean()),
            "accuracy": float((p.argmax(1) == k).float().mean()),
            "not_a_digit": float(p[:, NOT_A_DIGIT].mean()),
            "entropy": float(torch.special.entr(p).sum(1).mean()),
            "gray": float(distance_to_gray(drawn[k]).mean()),
            "nelbo": float(negative_elbo(model, x, labels, seed).mean()),
            "reconstruction": float((rebuilt - x).square().flatten(1).sum(1).mean()),
            **measures})
    return pd.DataFrame(rows).set_index("class")


def retained_means(table: pd.DataFrame, forget: Sequence[int]) -> pd.Series:
    """The means over the classes not in `forget` of an `evaluate` table; every class counts the same."""
    check_types(table=(table, pd.DataFrame))
    if missing := set(kept := retain_set(forget)) - set(table.index):
        raise ValueError(f"table lacks the classes {sorted(missing)}; give one of evaluate, with a row a class")
    return table.loc[list(kept)].mean()


def fidelity(real: torch.Tensor, fake: torch.Tensor, neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """How close generated images are to real ones, and how much of them they cover, by their features.

    Args:
        real: features [N, d], N > `neighbours`.
        fake: features [M, d], M > `neighbours`.
        neighbours: k; an image's ball reaches to its k-th nearest neighbour in its own set.

    Returns:
        - `fid`: the Frechet distance (Heusel et al. 2017), from 0;
        - `precision`: share of fakes in the ball of some real; `recall`: the
          converse (Kynkaanniemi et al. 2019), 0-1;
        - `density`: mean number of reals whose ball holds a fake, over k, from
          0, may exceed 1; `coverage`: share of reals whose ball holds a fake
          (Naeem et al. 2020, eq. 4 and 5), 0-1.

    Raises:
        ValueError: a set is too small, or the features are not of one length.
    """
    check_whole(neighbours=neighbours)
    check_types(real=(real, torch.Tensor), fake=(fake, torch.Tensor))
    if min(real.ndim, fake.ndim) == 0 or min(len(real), len(fake)) <= neighbours or real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"real and fake of shapes {tuple(real.shape)} and {tuple(fake.shape)} will not do with "
                         f"neighbours={neighbours}; "
                         f"give more than {neighbours} rows in each, of the same length")
    check_values(real=real, fake=fake)

    def reach(points):
        # The nearest point is the point itself.
        return torch.cdist(points, points).kthvalue(neighbours + 1, dim=1).values

    between = torch.cdist(real, fake)
    in_real = between <= reach(real)[:, None]
    in_fake = between <= reach(fake)[None, :]
    return {"fid": frechet_distance(real, fake),
            "precision": float(in_real.any(0).float().mean()),
            "recall": float(in_fake.any(1).float().mean()),
            "density": float(in_real.float().sum(0).mean() / neighbours),
            "coverage": float(in_real.any(1).float().mean())}


def frechet_distance(real: torch.Tensor, fake: torch.Tensor) -> float:
    """||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features [N, d].

    Heusel et al. 2017, eq. 6.

    On 64 features of our own network, not on Inception's: to be compared
    within this book only.
    """
    check_values(2, real=real, fake=fake)
    means, covariances = zip(*((x.double().mean(0), x.double().T.cov()) for x in (real.cpu(), fake.cpu())))
    # The trace of the root of C1 C2 is the sum of the roots of its eigenvalues, which are real and >= 0.
    roots = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    traces = covariances[0].trace() + covariances[1].trace()
    return max(0.0, float((means[0] - means[1]).square().sum() + traces - 2 * roots))


def expected_calibration_error(probabilities: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins of confidence (Guo et al. 2017, eq. 3), 0-1.

    Raises:
        ValueError: there are no probabilities, or not as many labels.
    """
    check_whole(bins=bins)
    check_types(probabilities=(probabilities, torch.Tensor), labels=(labels, torch.Tensor))
    if not labels.numel() or probabilities.shape[:1] != labels.shape[:1]:
        raise ValueError(f"{probabilities.shape[:1].numel()} probabilities and {labels.numel()} labels will not do; "
                         "equal numbers of at least 1 are needed")
    check_values(probabilities=probabilities)
    if not 0 <= probabilities.min() <= probabilities.max() <= 1:
        raise ValueError(f"probabilities from {float(probabilities.min()):g} to {float(probabilities.max()):g} will "
                         "not do; use numbers from 0 to 1")
    check_labels(labels, outcomes=probabilities.shape[1])
    confidence, guess = probabilities.max(1)
    index = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.double, device=index.device)
    gap.index_add_(0, index, (guess == labels).double() - confidence.double())
    return float(gap.abs().sum() / len(labels))
