"""Evaluation: the images that a model draws for each class, and how well it models the real ones."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from .checks import check_images, check_name, check_seed, check_table, check_types, check_values, check_whole, shorten
from .data import Dataset
from .judges import Judge
from .labels import MOST_CLASSES, check_label, check_labels, forget_set, one_hot, retain_set
from .methods import distance_to_gray
from .model import CVAE
from .training import check_fits

__all__ = ["answers", "class_probability", "evaluate", "expected_calibration_error", "fidelity", "frechet_distance",
           "negative_elbo", "prior_samples", "rehearsal", "relapse", "retained_means", "summary"]

NEIGHBORS = 5
BINS = 15  # of confidence


def prior_samples(model: CVAE, labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The decoder's means for z from the prior and the labels [N]: `[N, *image_shape]`.

    z depends only on the seed and on the position in the list, so two models
    get the same z for the same labels.
    """
    check_types(model=(model, CVAE))
    check_labels(labels, outcomes=model.config.classes)
    seed = check_seed(seed)
    where = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(len(labels), model.config.latent_dim, generator=generator).to(where)
    with torch.no_grad():
        return torch.cat([model.decode(*part) for part in
                          zip(z.split(4096), one_hot(labels, model.config.classes).to(where).split(4096))])


def class_probability(model: CVAE, judge: Judge, label: int, samples: int = 1000, seed: int = 0) -> float:
    """The judge's mean probability, 0-1, of a class in what the model draws for its label."""
    check_types(model=(model, CVAE), judge=(judge, Judge))
    check_label(label, model.config.classes)
    check_whole(samples=samples)
    drawn = prior_samples(model, torch.full((samples,), label), seed)
    return float(judge.probabilities(drawn)[:, label].mean())


@torch.no_grad()
def negative_elbo(model: CVAE, images: torch.Tensor, labels: torch.Tensor, seed: int = 0,
                  draws: int = 4) -> torch.Tensor:
    """Negative ELBO of each image, [N], nats: the mean over `draws` latent draws.

    Raises:
        ValueError: there are no images or no draws.
    """
    check_types(model=(model, CVAE))
    check_images(images, shape=model.config.image_shape)
    check_labels(labels, len(images), model.config.classes)
    check_whole(draws=draws)
    seed = check_seed(seed)
    where = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    shape = (draws, len(images), model.config.latent_dim)
    noise = torch.randn(shape, generator=generator).to(where)
    images, y = images.to(where), one_hot(labels, model.config.classes).to(where)
    total = torch.zeros(len(images), device=where)
    for draw in noise:
        total -= torch.cat([model.elbo(*part) for part in zip(images.split(4096), y.split(4096), draw.split(4096))])
    return total / draws


def evaluate(model: CVAE, dataset: Dataset, judge: Judge, features: Judge | None, seed: int = 0,
             samples: int = 1000) -> pd.DataFrame:
    """Measure a model on every class: one row per class.

    Args:
        judge: scores the samples; in this book judge B, which no attack uses.
        features: the network whose hidden layer the fidelity measures use;
            with None they are left out.
        samples: number of images drawn from the prior for each class.

    Returns:
        Index `class`, from 0; columns

        - `probability`: the judge's mean probability of the class, 0-1;
        - `accuracy`: share of samples for which the class is the most probable outcome, 0-1;
        - `not_a_digit`: the judge's mean probability of no digit, 0-1;
        - `entropy`: mean entropy of the judge's probabilities, nats, 0 to log(classes + 1);
        - `gray`: mean distance to gray, 0-0.5;
        - `nelbo`: mean negative ELBO of the class's test images, nats;
        - `reconstruction`: mean squared error of the test images, summed over pixels, decoded from the mean of z;
        - `fid`, `precision`, `recall`, `density`, `coverage`: samples against
          the class's test images, see `fidelity`.

    Raises:
        ValueError: `samples`, or the number of test images of a class, is
            below 6: `fidelity` uses the fifth neighbor of each image; the
            data set or a judge is not of the model's images and classes.
    """
    check_types(model=(model, CVAE), dataset=(dataset, Dataset), judge=(judge, Judge),
                features=(features, (Judge, type(None))))
    seed = check_seed(seed)
    check_whole(NEIGHBORS + 1, samples=samples)
    classes, shape = model.config.classes, model.config.image_shape
    check_fits(dataset, model.config)
    for name, one in {"judge": judge, **({"features": features} if features else {})}.items():
        if (one.classes, one.image_shape) != (classes, shape):
            raise ValueError(f"{name} must tell {classes} classes of images {list(shape)} apart, like the model, "
                             f"got a judge of {one.classes} of {list(one.image_shape)}")
    real = _test_images(dataset)
    fake = prior_samples(model, torch.arange(classes).repeat_interleave(samples), seed)
    rows = []
    for k, images in enumerate(fake.view(classes, samples, *shape)):
        p = judge.probabilities(images)
        x = real[k].to(images.device)
        labels = torch.full((len(x),), k)
        with torch.no_grad():
            y = one_hot(labels, classes).to(images.device)
            rebuilt = model.decode(model.encode(x, y)[0], y)
            measures = fidelity(features.features(x), features.features(images)) if features else {}
        rows.append({
            "class": k,
            "probability": float(p[:, k].mean()),
            "accuracy": float((p.argmax(1) == k).float().mean()),
            "not_a_digit": float(p[:, judge.not_a_digit].mean()),
            "entropy": float(torch.special.entr(p).sum(1).mean()),
            "gray": float(distance_to_gray(images).mean()),
            "nelbo": float(negative_elbo(model, x, labels, seed).mean()),
            "reconstruction": float((rebuilt - x).square().flatten(1).sum(1).mean()),
            **measures})
    return pd.DataFrame(rows).set_index("class")


def _test_images(dataset: Dataset) -> list[torch.Tensor]:
    """The test images of each class; a ValueError if a class has too few for `fidelity`."""
    check_images(dataset.test_images, shape=dataset.image_shape)
    check_labels(dataset.test_labels, len(dataset.test_images), dataset.classes)
    counts = torch.bincount(dataset.test_labels, minlength=dataset.classes)
    if int(counts.min()) <= NEIGHBORS:
        raise ValueError(f"dataset must have at least {NEIGHBORS + 1} test images of every class, got "
                         f"{int(counts.min())} of class {int(counts.argmin())} in {dataset.name}")
    return [dataset.test_images[dataset.test_labels == k] for k in range(dataset.classes)]


def retained_means(table: pd.DataFrame, forget: int | Sequence[int]) -> pd.Series:
    """The means of an `evaluate` table over the classes that are not in `forget`; every class counts the same."""
    retain = retain_set(forget, _classes(table=table))
    return table.loc[list(retain)].mean()


def _classes(**tables: pd.DataFrame) -> int:
    """The number of classes in tables of `evaluate`, the same for all."""
    check_types(**{name: (table, pd.DataFrame) for name, table in tables.items()})
    counts = {name: len(table) for name, table in tables.items()}
    classes = max(counts.values())
    for name, table in tables.items():
        if set(table.index) != {*range(classes)} or counts[name] != classes or classes < 2:
            raise ValueError(f"{name} must have a row for each class from 0 to {max(classes, 2) - 1}, got "
                             f"{shorten(list(table.index))}")
    return classes


def summary(tables: Mapping[str, pd.DataFrame], forget: int | Sequence[int], reference: str) -> pd.DataFrame:
    """How several models did on the forgotten and on the retained classes, a row for each model.

    Args:
        tables: model -> its table of `evaluate`.
        reference: the model in `tables` against which the losses count, such as the baseline.

    Returns:
        Index `model`; columns

        - `probability`, `gray`: the largest over the classes in `forget`;
        - `accuracy`, `nelbo`: the means over the retained classes, see `retained_means`;
        - `nats_lost`: `nelbo` minus the reference's;
        - `points_lost`: the reference's `accuracy` minus the model's, in percentage points.
    """
    check_types(tables=(tables, Mapping))
    if not tables:
        raise ValueError("tables must map at least one model to its table, got none")
    named = {f"tables[{name!r}]": table for name, table in tables.items()}
    check_table("probability", "gray", "accuracy", "nelbo", **named)
    forget = forget_set(forget, classes=_classes(**named))
    check_name(tables, reference=reference)
    retained = {name: retained_means(table, forget) for name, table in tables.items()}
    rows = pd.DataFrame({name: {**table.loc[list(forget), ["probability", "gray"]].max(),
                                **retained[name][["accuracy", "nelbo"]]} for name, table in tables.items()}).T
    return rows.assign(nats_lost=rows["nelbo"] - rows.loc[reference, "nelbo"],
                       points_lost=100 * (rows.loc[reference, "accuracy"] - rows["accuracy"])).rename_axis("model")


def rehearsal(logs: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The loss of the rehearsed images during unlearning.

    Args:
        logs: method -> its log, see `unlearning.unlearn`.

    Returns:
        method -> index: share of the updates, 0-1; column `nelbo`: the weighted term of the step's real images, or
        of the replayed ones if there are no real ones: their negative ELBO, nats, if its weight is 1. A method that
        rehearses nothing is left out.
    """
    check_types(logs=(logs, Mapping))
    check_table("step", **{f"logs[{name!r}]": log for name, log in logs.items()})
    losses = {}
    for name, log in logs.items():
        for term in ("replay", "real"):
            if term in log:
                share = (log["step"] / max(1, log["step"].iloc[-1])).rename("share")
                losses[name] = pd.DataFrame({"nelbo": log[term].to_numpy()}, index=share)
    return losses


def relapse(tables: Sequence[pd.DataFrame], forget: int | Sequence[int]) -> pd.Series:
    """How far each forgotten class has moved away from gray since the step that forgot it.

    Args:
        tables: of `evaluate`, of the model before the first step and of the model after each step.
        forget: the class of each step, in order.

    Returns:
        Index `class`: the distance to gray at the end minus the distance right after the class's own step, so 0 for
        the last class, and below 0 for a class that came closer to gray.

    Raises:
        ValueError: the number of tables is wrong, or a table lacks `gray` or one of the classes.
    """
    check_types(tables=(tables, Sequence))
    forget = forget_set(forget, classes=MOST_CLASSES)
    check_table("gray", **{f"tables[{step}]": table for step, table in enumerate(tables)})
    if len(tables) != len(forget) + 1:
        raise ValueError(f"tables must be one for the start and one for each of the {len(forget)} steps, "
                         f"got {len(tables)}")
    if missing := set(forget) - set.intersection(*(set(table.index) for table in tables)):
        raise ValueError(f"tables must have a row for every class in forget, got none for {sorted(missing)}")
    rises = {k: tables[-1].loc[k, "gray"] - tables[step].loc[k, "gray"] for step, k in enumerate(forget, 1)}
    return pd.Series(rises, name="relapse").rename_axis("class")


def answers(judge: Judge, images: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Shares of the judge's answers for several sets of images.

    Args:
        images: name -> `[N, *image_shape]` in [0, 1], N >= 1.

    Returns:
        Index: the names; columns "0", "1", ... for the classes, and "none", for no digit: the share of the images for
        which this is the most probable outcome. Each row sums to 1.

    Raises:
        ValueError: a set is not of at least one image.
    """
    check_types(judge=(judge, Judge), images=(images, Mapping))
    for name, one in images.items():
        check_images(one, f"images[{name!r}]", judge.image_shape)
    outcomes = [*map(str, range(judge.classes)), "none"]
    shares = {}
    for name, one in images.items():
        answer = judge.probabilities(one.to(judge.temperature.device)).argmax(1).cpu()
        shares[name] = (torch.bincount(answer, minlength=len(outcomes)) / len(answer)).tolist()
    return pd.DataFrame.from_dict(shares, "index", columns=outcomes)


def fidelity(real: torch.Tensor, fake: torch.Tensor, neighbors: int = NEIGHBORS) -> dict[str, float]:
    """How close generated images are to real ones, and how well they cover the real ones, measured on features.

    Args:
        real: features [N, d], N > `neighbors`.
        fake: features [M, d], M > `neighbors`.
        neighbors: k. The ball of an image reaches to its k-th nearest neighbor in its own set.

    Returns:
        - `fid`: the Frechet distance (Heusel et al. 2017), from 0;
        - `precision`: share of fake images that lie in the ball of a real one;
          `recall`: share of real images that lie in the ball of a fake one
          (Kynkaanniemi et al. 2019), 0-1;
        - `density`: mean number of real images whose ball holds a fake image,
          divided by k, from 0, may exceed 1; `coverage`: share of real images
          whose ball holds a fake one (Naeem et al. 2020, eq. 4 and 5), 0-1.

    Raises:
        ValueError: a set is too small, or the two sets have features of different lengths.
    """
    check_whole(neighbors=neighbors)
    check_values(real=real, fake=fake)
    if min(len(real), len(fake)) <= neighbors:
        raise ValueError(f"real and fake must have more than {neighbors} rows each, the number of neighbors, "
                         f"got {len(real)} and {len(fake)}")

    real, fake = (x if x.dtype == torch.double else x.float() for x in (real, fake))

    def reach(points):
        # Every point is its own nearest neighbor, so the k-th other one is at k + 1.
        return torch.cdist(points, points).kthvalue(neighbors + 1, dim=1).values

    between = torch.cdist(real, fake)
    in_real = between <= reach(real)[:, None]
    in_fake = between <= reach(fake)[None, :]
    return {"fid": frechet_distance(real, fake),
            "precision": float(in_real.any(0).float().mean()),
            "recall": float(in_fake.any(1).float().mean()),
            "density": float(in_real.float().sum(0).mean() / neighbors),
            "coverage": float(in_real.any(1).float().mean())}


def frechet_distance(real: torch.Tensor, fake: torch.Tensor) -> float:
    """||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features [N, d].

    Heusel et al. 2017, eq. 6. The features are 64 values of our own network,
    not Inception's, so the distances are comparable only within this book.
    """
    check_values(2, real=real, fake=fake)
    means, covariances = zip(*((x.double().mean(0), x.double().T.cov()) for x in (real.cpu(), fake.cpu())))
    # The trace of the root of C1 C2 is the sum of the roots of the eigenvalues of C1 C2, all real and >= 0.
    roots = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    traces = covariances[0].trace() + covariances[1].trace()
    return max(0.0, float((means[0] - means[1]).square().sum() + traces - 2 * roots))


def expected_calibration_error(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean gap between confidence and accuracy over 15 bins of confidence (Guo et al. 2017, eq. 3), 0-1.

    Args:
        probabilities: [N, outcomes], N >= 1, each from 0 to 1.
        labels: [N], integers from 0 to outcomes - 1.

    Raises:
        ValueError: there are no probabilities, or not as many labels.
    """
    check_values(probabilities=probabilities)
    check_labels(labels, len(probabilities), probabilities.shape[1])
    if not 0 <= probabilities.min() <= probabilities.max() <= 1:
        raise ValueError("probabilities must be in [0, 1], got "
                         f"[{float(probabilities.min()):g}, {float(probabilities.max()):g}]")
    confidence, guess = probabilities.max(1)
    index = (confidence * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.double, device=index.device)
    gap.index_add_(0, index, (guess == labels.to(guess.device)).double() - confidence.double())
    return float(gap.abs().sum() / len(labels))
