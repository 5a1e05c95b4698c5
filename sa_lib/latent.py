"""The latent space: how much the layers of a model still reveal of the digit.

All of it is measured with the neutral label, y = 1/classes everywhere. With the
true label a model has no need to keep the digit in z, and every layer that
receives the label would reveal it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import recall_score, silhouette_samples
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from .checks import check_fisher, check_images, check_seed, check_types, check_values, check_whole, shorten
from .fisher import Diagonal
from .labels import CLASSES, check_labels
from .model import CVAE

__all__ = ["activations", "class_distances", "joint_tsne", "knn_recall", "layer_cka", "layer_recall", "linear_cka",
           "neutral", "probe_recall", "silhouette", "weight_changes"]

# t-SNE divides by the spread of the points; compiled code crashes on the result if it is 0 in float32.
SMALLEST_SPREAD = 1e-15
PERPLEXITY = 30  # roughly, the number of neighbors that t-SNE considers for each point


def neutral(count: int, classes: int = CLASSES) -> torch.Tensor:
    """`count` label vectors that favor no class: [count, classes], 1/classes everywhere."""
    check_whole(count=count, classes=classes)
    return torch.full((count, classes), 1 / classes, dtype=torch.float32)


@torch.no_grad()
def activations(model: CVAE, images: torch.Tensor, y: torch.Tensor, batch: int = 2000) -> dict[str, torch.Tensor]:
    """Values of every hidden layer on images `[N, *image_shape]` with label vectors y [N, classes].

    Returns:
        On the CPU, "encoder 1", "encoder 2", ...: the output of each ReLU of
        the encoder, [N, units]; "mean": the mean of q(z|x,y), [N, latent_dim];
        "decoder 1", ...: the output of each ReLU of the decoder for this mean and y.
    """
    check_types(model=(model, CVAE))
    check_images(images, shape=model.config.image_shape)
    check_values(y=y)
    check_whole(batch=batch)
    if tuple(y.shape) != (len(images), model.config.classes):
        raise ValueError(f"y must have shape [{len(images)}, {model.config.classes}], a row for each image, "
                         f"got {list(y.shape)}")
    values: dict[str, list[torch.Tensor]] = {}
    device = next(model.parameters()).device

    def record(name):
        return lambda layer, inputs, output: values.setdefault(name, []).append(output.flatten(1).cpu())

    hooks = []
    for side in ("encoder", "decoder"):
        relus = [layer for layer in getattr(model, side).modules() if isinstance(layer, nn.ReLU)]
        hooks += [relu.register_forward_hook(record(f"{side} {k}")) for k, relu in enumerate(relus, 1)]
    try:
        for x, label in zip(images.split(batch), y.split(batch)):
            mean, _ = model.encode(x.to(device), label.to(device))
            values.setdefault("mean", []).append(mean.cpu())
            model.decode(mean, label.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    order = sorted(values, key=lambda name: ("encoder", "mean", "decoder").index(name.split()[0]))
    return {name: torch.cat(values[name]) for name in order}


def _plain(values: torch.Tensor) -> torch.Tensor:
    """Values on the CPU, without gradients, of at least single precision."""
    values = values.detach().cpu()
    return values if values.dtype == torch.double else values.float()


def _array(values: torch.Tensor) -> np.ndarray:
    """Values as scikit-learn takes them."""
    return _plain(values).numpy()


def _recall(classifier, train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor,
            test_labels: torch.Tensor, classes: int) -> pd.Series:
    check_values(train=train, test=test)
    check_whole(2, classes=classes)
    check_labels(train_labels, len(train), classes, "train_labels")
    check_labels(test_labels, len(test), classes, "test_labels")
    if len(train_labels.unique()) < 2:
        raise ValueError(f"train_labels must have at least two classes, got {train_labels.unique().tolist()}")
    classifier.fit(_array(train), train_labels.cpu().numpy())
    recalls = recall_score(test_labels.cpu().numpy(), classifier.predict(_array(test)), labels=range(classes),
                           average=None, zero_division=0)
    return pd.Series(recalls, index=pd.RangeIndex(classes, name="class"))


def probe_recall(train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor,
                 test_labels: torch.Tensor, classes: int = CLASSES) -> pd.Series:
    """Recall 0-1 of each of the `classes` by a linear probe (Alain & Bengio 2016).

    The probe is a multinomial logistic regression on standardized values. It
    is trained on values [N, d] with labels [N] and tested on values [M, d]
    with labels [M].
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
    return _recall(probe, train, train_labels, test, test_labels, classes)


def knn_recall(train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor,
               test_labels: torch.Tensor, neighbors: int = 10, classes: int = CLASSES) -> pd.Series:
    """Recall 0-1 of every class by the majority of the nearest neighbors; other arguments as `probe_recall`."""
    check_whole(neighbors=neighbors)
    check_values(train=train)
    if neighbors > len(train):
        raise ValueError(f"neighbors must be at most the {len(train)} rows of train, got {neighbors}")
    return _recall(KNeighborsClassifier(neighbors), train, train_labels, test, test_labels, classes)


def silhouette(values: torch.Tensor, labels: torch.Tensor, classes: int = CLASSES) -> pd.Series:
    """Mean silhouette, -1 to 1, of every class of points [N, d] with labels [N] (Rousseeuw 1987).

    It measures how much nearer a class's points are to each other than to the next class.
    """
    check_values(values=values)
    check_labels(labels, len(values), classes)
    if not 2 <= len(labels.unique()) < len(labels):
        raise ValueError("labels must have at least two classes, and fewer classes than points, "
                         f"got {len(labels.unique())} classes for {len(labels)} points")
    labels = labels.cpu().numpy()
    samples = pd.Series(silhouette_samples(_array(values), labels))
    return samples.groupby(labels).mean().rename_axis("class")


def class_distances(values: torch.Tensor, labels: torch.Tensor, classes: int = CLASSES) -> pd.DataFrame:
    """Euclidean distances between the means of the classes of points [N, d]: [classes, classes], from 0.

    The distances of a class without points are NaN.
    """
    check_values(values=values)
    check_labels(labels, len(values), classes)
    values, labels = _plain(values), labels.cpu()
    means = torch.stack([values[labels == k].mean(0) for k in range(classes)])
    return pd.DataFrame(torch.cdist(means, means).numpy()).rename_axis("class")


def linear_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """Linear centered kernel alignment of two layers on the same N inputs, 0-1.

    Kornblith et al. 2019, eq. 3 and 4. Rotating or scaling a layer does not
    change it. It is 0 if a layer has the same values for all inputs, where
    the quotient is not defined.

    Args:
        first: [N, d].
        second: [N, e].

    Raises:
        ValueError: the two layers have different numbers of inputs.
    """
    check_values(first=first)
    check_values(second=second)
    if len(first) != len(second):
        raise ValueError(f"first and second must have a row for each of the same inputs, got {len(first)} and "
                         f"{len(second)} rows")
    first, second = (x.detach().double() - x.detach().double().mean(0) for x in (first, second))
    a, b = first @ first.T, second @ second.T
    scale = float(a.norm() * b.norm())
    return min(1.0, max(0.0, float((a * b).sum()) / scale)) if scale else 0.0


def joint_tsne(encodings: Sequence[torch.Tensor], seed: int = 0) -> list[torch.Tensor]:
    """One t-SNE (van der Maaten & Hinton 2008) of several models' encodings [N, d]: [N, 2] for each.

    All models share one embedding, because separately fitted embeddings cannot be compared.
    """
    check_types(encodings=(encodings, Sequence))
    seed = check_seed(seed)
    check_values(**{f"encodings[{n}]": part for n, part in enumerate(encodings)})
    if sum(map(len, encodings)) <= PERPLEXITY:
        raise ValueError(f"encodings must have more than {PERPLEXITY} rows in all, got {sum(map(len, encodings))}")
    points = np.concatenate([_array(part).astype(np.float32) for part in encodings])
    if points.shape[1] < 2:
        raise ValueError("encodings must have rows of at least 2 values, got rows of 1")
    if (spread := float(points.std(0).max())) < SMALLEST_SPREAD:
        raise ValueError("encodings must not be all alike, got points with a standard deviation of at most "
                         f"{spread:g}")
    embedding = TSNE(perplexity=PERPLEXITY, max_iter=500, random_state=seed, n_jobs=torch.get_num_threads())
    embedding.set_output(transform="default")  # the reader's scikit-learn may be set to give data frames
    return list(torch.from_numpy(embedding.fit_transform(points)).split([len(part) for part in encodings]))


def weight_changes(before: CVAE, after: CVAE, fisher: Diagonal) -> pd.DataFrame:
    """How far the weights moved, compared with their importance by the Fisher.

    Returns:
        Index `layer`, the name of each weight matrix; columns

        - `moved`: norm of the change divided by the norm of the weights, from 0, infinite if all weights were 0;
        - `rank correlation`: Spearman's correlation between the size of a weight's change and its Fisher, -1 to 1,
          0 if the Fisher is constant;
        - `top`: share, 0-1, of the squared change that belongs to the tenth of
          the weights with the largest Fisher.

        All are 0 for a weight matrix that did not change.
    """
    check_types(before=(before, CVAE), after=(after, CVAE))
    if before.config != after.config:
        raise ValueError(f"before and after must have one configuration, got {before.config} and {after.config}")
    check_fisher(after, fisher)
    old = dict(before.named_parameters())
    rows = {}
    for name, new in after.named_parameters():
        if name.endswith("weight"):
            change, f = (new - old[name]).detach().flatten().cpu(), fisher[name].detach().flatten().cpu()
            top = change[f.topk(max(1, len(f) // 10)).indices]
            total = float(change.square().sum())
            rows[name.removesuffix(".weight")] = {
                "moved": float(change.norm() / old[name].detach().norm()) if total else 0.0,
                "rank correlation": float(spearmanr(change.abs(), f).statistic) if total and f.std() > 0 else 0.0,
                "top": float(top.square().sum()) / total if total else 0.0}
    return pd.DataFrame(rows).T.rename_axis("layer")


def layer_recall(train: Mapping[str, torch.Tensor], train_labels: torch.Tensor, test: Mapping[str, torch.Tensor],
                 test_labels: torch.Tensor, classes: int = CLASSES) -> pd.DataFrame:
    """Recall 0-1 of every class by a linear probe on every layer; see `probe_recall`.

    Args:
        train: layer -> values [N, d], as `activations` returns them.
        test: layer -> values [M, d], with the same layers.

    Returns:
        Index `class`, from 0; a column for each layer.

    Raises:
        ValueError: `test` lacks a layer.
    """
    _check_layers(train=train, test=test)
    return pd.DataFrame({layer: probe_recall(values, train_labels, test[layer], test_labels, classes)
                         for layer, values in train.items()})


def layer_cka(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor],
              rows: torch.Tensor) -> pd.Series:
    """Linear CKA of each layer of one model with the same layer of another; see `linear_cka`.

    Args:
        first: layer -> values [N, d], as `activations` returns them.
        second: the same layers of another model on the same N inputs.
        rows: indices [M] of the inputs to compare.

    Returns:
        Index: the layers.

    Raises:
        ValueError: `second` lacks a layer.
    """
    _check_layers(first=first, second=second)
    check_types(rows=(rows, torch.Tensor))
    count = min(map(len, [*first.values(), *second.values()]))
    if (rows.ndim != 1 or rows.dtype != torch.long or not len(rows)
            or not 0 <= int(rows.min()) <= int(rows.max()) < count):
        raise ValueError(f"rows must be whole numbers [M] from 0 to {count - 1}, got {shorten(rows)}")
    return pd.Series({layer: linear_cka(values[rows], second[layer][rows]) for layer, values in first.items()})


def _check_layers(**models: Mapping[str, torch.Tensor]) -> None:
    """Refuse anything but two mappings of layers to values [N, d], of which the second has the layers of the first."""
    check_types(**{name: (layers, Mapping) for name, layers in models.items()})
    for name, layers in models.items():
        if not layers:
            raise ValueError(f"{name} must have at least one layer, got {shorten(layers)}")
        for layer, values in layers.items():
            check_values(**{f"{name}[{layer!r}]": values})
    (_, first), (name, second) = models.items()
    if missing := [layer for layer in first if layer not in second]:
        raise ValueError(f"{name} must have the layers {', '.join(map(str, first))}, "
                         f"got none of {', '.join(map(str, missing))}")
