"""Time saved and quality lost by training in bfloat16: whole trainings on MNIST, beside float32 ones.

The control is the noise of the seed: the difference between two float32 models. These come from the store if it has
them.
"""

import math
from functools import partial

import pytest
import torch

from sa_lib import data, trained
from sa_lib.evaluation import negative_elbo
from sa_lib.model import ARCHITECTURES, build
from sa_lib.training import TrainingConfig, train_cvae

MLP, SEEDS, STEPS = ARCHITECTURES["mlp"], (0, 1), 30
CONFIG = TrainingConfig()


def newly_trained(images, labels, config, seed, half):
    model = build(MLP, seed)
    # With its cache, autocast would keep using the weights of the first step.
    with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
        train_cvae(model, images, labels, config, seed)
    return model.eval()


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16")
def test_bfloat16(compare, benchmark, sample):
    try:
        mnist = data.load("mnist")
    except OSError as error:
        pytest.skip(str(error))

    def nats(model):
        return float(negative_elbo(model, mnist.test_images, mnist.test_labels).mean())

    images, labels, _ = sample(STEPS * CONFIG.batch, MLP.latent_dim)
    once = TrainingConfig(epochs=1)
    compare("bfloat16", "step", {name: (partial(newly_trained, images, labels, once, 0, half), STEPS)
                                 for name, half in (("float32", False), ("bfloat16", True))})
    half = [nats(newly_trained(mnist.train_images, mnist.train_labels, CONFIG, seed, True)) for seed in SEEDS]
    assert all(map(math.isfinite, half))
    full = [nats(trained.cvae(mnist, MLP, CONFIG, seed).net) for seed in SEEDS]
    benchmark.extra_info |= {"half": half, "full": full}
