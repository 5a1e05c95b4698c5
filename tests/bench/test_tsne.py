"""The book's t-SNE, which is scikit-learn's, against openTSNE: ten clouds with as many dimensions as z."""

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness

from sa_lib.latent import joint_tsne
from sa_lib.model import ARCHITECTURES

POINTS, UPDATES = 10_000, 500


def test_tsne(compare):
    opentsne = pytest.importorskip("openTSNE")
    random = np.random.default_rng(0)
    centers = 3 * random.normal(size=(10, ARCHITECTURES["mlp"].latent_dim))
    points = (centers[random.integers(10, size=POINTS)] + random.normal(size=(POINTS, centers.shape[1]))).astype("f4")
    embeddings = {}

    def ours():
        (embeddings["scikit-learn"],) = joint_tsne([torch.from_numpy(points)])

    def other():
        # openTSNE adds 250 updates of exaggerated attraction before these.
        embeddings["openTSNE"] = opentsne.TSNE(n_iter=UPDATES - 250, n_jobs=1, random_state=0).fit(points)

    rows = compare("t-SNE", f"embedding of {POINTS:,} points", {"scikit-learn": (ours, 1), "openTSNE": (other, 1)},
                   rounds=1)
    for row in rows:
        row["trustworthiness"] = float(trustworthiness(points, np.asarray(embeddings[row["name"]])))
        assert row["trustworthiness"] > 0.9, f"{row['name']} does not keep the neighbors"
