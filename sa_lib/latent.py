"""The latent space: what the layers of a model still say of the digit.

Everything is read off with the neutral label, y = 1/10 everywhere: given the
true one, a model has no need to keep the digit in z, and every layer that the
label enters would give it away.
"""

from collections.abc import Sequence

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

from .checks import check_fisher, check_images, check_seed, check_types, check_values, check_whole
from .fisher import Diagonal
from .labels import CLASSES, check_labels
from .model import CVAE

__all__ = ["activations", "class_distances", "joint_tsne", "knn_recall", "linear_cka", "neutral", "probe_recall",
           "silhouette", "weight_changes"]

PERPLEXITY = 30  # roughly, the neighbours of a point that t-SNE looks at


def neutral(count: int) -> torch.Tensor:
    """`count` label vectors that name no class: [count, 10], 1/10 everywhere."""
    check_whole(count=count)
    return torch.full((count, CLASSES), 1 / CLASSES)


@torch.no_grad()
def activations(model: CVAE, images: torch.Tensor, y: torch.Tensor, batch: int = 2000) -> dict[str, torch.Tensor]:
    """Values of every hidden layer on images [N, 1, 28, 28] with label vectors y [N, 10].

    Returns:
        On the CPU, "encoder 1", "encoder 2", ...: the values behind each
        ReLU, [N, units]; "mean": the mean of q(z|x,y), [N, latent_dim];
        "decoder 1", ...: the same of the decoder, given that mean and y.
    """
    check_types(model=(model, CVAE))
    check_images(images)
    check_values(y=y)
    check_whole(batch=batch)
    if tuple(y.shape) != (len(images), CLASSES):
        raise ValueError(f"y has shape {tuple(y.shape)}; [{len(images)}, {CLASSES}], a row for each image, is needed")
    seen: dict[str, list[torch.Tensor]] = {}
    where = next(model.parameters()).device

    def keep(name):
        return lambda layer, inputs, output: seen.setdefault(name, []).append(output.flatten(1).cpu())

    hooks = []
    for side in ("encoder", "decoder"):
        relus = [layer for layer in getattr(model, side).modules() if isinstance(layer, nn.ReLU)]
        hooks += [relu.register_forward_hook(keep(f"{side} {k}")) for k, relu in enumerate(relus, 1)]
    try:
        for x, label in zip(images.split(batch), y.split(batch)):
            mean, _ = model.encode(x.to(where), label.to(where))
            seen.setdefault("mean", []).append(mean.cpu())
            model.decode(mean, label.to(where))
    finally:
        for hook in hooks:
            hook.remove()
    order = sorted(seen, key=lambda name: ("encoder", "mean", "decoder").index(name.split()[0]))
    return {name: torch.cat(seen[name]) for name in order}


def _recall(classifier, train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor,
            test_labels: torch.Tensor) -> pd.Series:
    check_values(train=train, test=test)
    check_labels(train_labels, len(train), name="train_labels")
    check_labels(test_labels, len(test), name="test_labels")
    if len(train_labels.unique()) < 2:
        raise ValueError("train_labels are all the same; give at least two classes")
    classifier.fit(train.numpy(), train_labels.numpy())
    found = recall_score(test_labels.numpy(), classifier.predict(test.numpy()), labels=range(CLASSES),
                         average=None, zero_division=0)
    return pd.Series(found, index=pd.RangeIndex(CLASSES, name="class"))


def probe_recall(train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor,
                 test_labels: torch.Tensor) -> pd.Series:
    """Recall 0-1 of every class by a linear probe (Alain & Bengio 2016).

    Multinomial logistic regression on standardised values [N, d] with labels
    [N], looked at on values [M, d] with labels [M].
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
    return _recall(probe, train, train_labels, test, test_labels)


def knn_recall(train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor,
               test_labels: torch.Tensor, neighbours: int = 10) -> pd.Series:
    """Recall 0-1 of every class by the majority of the nearest neighbours; arguments as `probe_recall`."""
    check_whole(neighbours=neighbours)
    check_values(train=train)
    if neighbours > len(train):
        raise ValueError(f"neighbours={neighbours} is not allowed; use at most {len(train)}, as many as there are")
    return _recall(KNeighborsClassifier(neighbours), train, train_labels, test, test_labels)


def silhouette(values: torch.Tensor, labels: torch.Tensor) -> pd.Series:
    """Mean silhouette, -1 to 1, of every class (Rousseeuw 1987): how much nearer its points [N, d]
    lie to each other than to the next class."""
    check_values(values=values)
    check_labels(labels, len(values))
    if not 2 <= len(labels.unique()) < len(labels):
        raise ValueError(f"labels of {len(labels.unique())} classes will not do for {len(labels)} points; give at "
                         "least two classes, and fewer than points")
    samples = pd.Series(silhouette_samples(values.numpy(), labels.numpy()))
    return samples.groupby(labels.numpy()).mean().rename_axis("class")


def class_distances(values: torch.Tensor, labels: torch.Tensor) -> pd.DataFrame:
    """Euclidean distances between the means of the classes of points [N, d]: [10, 10], from 0.

    A class of which there is no point has NaN.
    """
    check_values(values=values)
    check_labels(labels, len(values))
    means = torch.stack([values[labels == k].mean(0) for k in range(CLASSES)])
    return pd.DataFrame(torch.cdist(means, means).numpy()).rename_axis("class")


def linear_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """Linear centred kernel alignment of two layers on the same N inputs, 0-1.

    Kornblith et al. 2019, eq. 3 and 4. It does not change when a layer is
    rotated or scaled.

    Args:
        first: [N, d].
        second: [N, e].

    Raises:
        ValueError: the two have not the same number of inputs.
    """
    check_values(first=first)
    check_values(second=second)
    if len(first) != len(second):
        raise ValueError(f"first and second, of {len(first)} and {len(second)} inputs, will not do; the two layers "
                         "need the same")
    first, second = (x.double() - x.double().mean(0) for x in (first, second))
    a, b = first @ first.T, second @ second.T
    return float((a * b).sum() / (a.norm() * b.norm()))


def joint_tsne(encodings: Sequence[torch.Tensor], seed: int = 0) -> list[torch.Tensor]:
    """One t-SNE (van der Maaten & Hinton 2008) of several models' encodings [N, d]: [N, 2] for each.

    One embedding for all, because two that were fitted apart cannot be compared.
    """
    check_types(encodings=(encodings, Sequence))
    check_seed(seed)
    check_values(**{f"encodings[{n}]": part for n, part in enumerate(encodings)})
    if sum(map(len, encodings)) <= PERPLEXITY:
        raise ValueError(f"encodings of {sum(map(len, encodings))} points will not do; give more than {PERPLEXITY}")
    together = torch.cat(list(encodings)).numpy()
    embedding = TSNE(perplexity=PERPLEXITY, max_iter=500, random_state=seed, n_jobs=torch.get_num_threads())
    return list(torch.from_numpy(embedding.fit_transform(together)).split([len(part) for part in encodings]))


def weight_changes(before: CVAE, after: CVAE, fisher: Diagonal) -> pd.DataFrame:
    """Which weights moved, against what the Fisher said was important.

    Returns:
        Index `layer`, the name of each weight matrix; columns

        - `moved`: norm of the change over the norm of the weights, from 0;
        - `rank correlation`: Spearman's, of the size of a weight's change and its Fisher, -1 to 1;
        - `top`: share, 0-1, of the squared change that falls on the tenth of
          the weights with the largest Fisher.
    """
    check_types(before=(before, CVAE), after=(after, CVAE))
    if before.config != after.config:
        raise ValueError(f"before is {before.config} and after is {after.config}; give two of one configuration")
    check_fisher(after, fisher)
    old = dict(before.named_parameters())
    rows = {}
    for name, new in after.named_parameters():
        if name.endswith("weight"):
            change, f = (new - old[name]).detach().flatten().cpu(), fisher[name].flatten().cpu()
            top = change[f.topk(max(1, len(f) // 10)).indices]
            total = float(change.square().sum())
            rows[name.removesuffix(".weight")] = {
                "moved": float(change.norm() / old[name].detach().norm()),
                "rank correlation": float(spearmanr(change.abs(), f).statistic) if total else 0.0,
                "top": float(top.square().sum()) / total if total else 0.0}
    return pd.DataFrame(rows).T.rename_axis("layer")
