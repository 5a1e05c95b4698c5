"""What training in bfloat16 would save, and what it would cost: whole trainings on MNIST, beside float32 ones.

The control is the noise of the seed: how far two float32 models lie apart. Those come from the store if they are there.
"""

import math
import time

import pytest
import torch

from sa_lib import data
from sa_lib.evaluation import negative_elbo
from sa_lib.model import ARCHITECTURES, build
from sa_lib.training import TrainingConfig, get_cvae, train_cvae

MLP, SEEDS = ARCHITECTURES["mlp"], (0, 1)
CONFIG = TrainingConfig()


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor does not know bfloat16")
def test_bfloat16(benchmark):
    try:
        mnist = data.load("mnist")
    except OSError as error:
        pytest.skip(str(error))

    def nats(model):
        return float(negative_elbo(model, mnist.test_images, mnist.test_labels).mean())

    def trained(seed):
        model = build(MLP, seed)
        begun = time.process_time()
        # With its cache it would go on with the weights as they were at the first step.
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            train_cvae(model, mnist.train_images, mnist.train_labels, CONFIG, seed)
        return nats(model.eval()), (time.process_time() - begun) / (CONFIG.epochs * (len(mnist.train_images) // CONFIG.batch))

    benchmark.group = "bfloat16"
    halves = benchmark.pedantic(lambda: [trained(seed) for seed in SEEDS])
    assert all(math.isfinite(nats) for nats, _ in halves)
    benchmark.extra_info |= {
        "rounds": 1, "seconds": min(seconds for _, seconds in halves), "half": [nats for nats, _ in halves],
        "full": [nats(get_cvae(mnist, MLP, CONFIG, seed).model) for seed in SEEDS]}
