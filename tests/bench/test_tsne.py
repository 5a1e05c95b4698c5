"""The book's t-SNE, which is scikit-learn's, against openTSNE: ten clouds in as many dimensions as z has."""

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
    centres = 3 * random.normal(size=(10, ARCHITECTURES["mlp"].latent_dim))
    points = (centres[random.integers(10, size=POINTS)] + random.normal(size=(POINTS, centres.shape[1]))).astype("f4")
    found = {}

    def ours():
        found["scikit-learn"], = joint_tsne([torch.from_numpy(points)])

    def other():
        # Its first 250 updates, of exaggerated attraction, come on top.
        found["openTSNE"] = opentsne.TSNE(n_iter=UPDATES - 250, n_jobs=1, random_state=0).fit(points)

    embedded = compare("t-SNE", f"embedding of {POINTS:,} points", {"scikit-learn": (ours, 1), "openTSNE": (other, 1)},
                       rounds=1)
    for row in embedded:
        row["trustworthiness"] = float(trustworthiness(points, np.asarray(found[row["name"]])))
        assert row["trustworthiness"] > 0.9, f"{row['name']} does not show the neighbours"
