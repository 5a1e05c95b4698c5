"""Time saved and quality lost by training in bfloat16: whole trainings on MNIST, beside float32 ones.

The control is the noise of the seed: the difference between two float32 models. The bfloat16 models come from the
store if it has them.
"""

import math
from functools import partial
from unittest import mock

import pytest

from sa_lib import data, settings, trained
from sa_lib.evaluation import negative_elbo
from sa_lib.model import ARCHITECTURES, build
from sa_lib.training import TrainingConfig, new_cvae, train_cvae

MLP, SEEDS, STEPS = ARCHITECTURES["mlp"], (0, 1), 30
CONFIG = TrainingConfig()


@pytest.mark.skipif(not settings.native_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16(compare, benchmark, sample):
    try:
        mnist = data.load("mnist")
    except OSError as error:
        pytest.skip(str(error))

    def steps(half):
        with mock.patch.object(settings, "native_bfloat16", lambda: half):
            train_cvae(build(MLP, 0), images, labels, TrainingConfig(epochs=1), 0)

    def nats(half, seed):
        if half:
            model = trained.cvae(mnist, MLP, CONFIG, seed).net
        else:
            with mock.patch.object(settings, "native_bfloat16", lambda: False):
                model, _ = new_cvae(mnist, MLP, CONFIG, seed)
        return float(negative_elbo(model.eval(), mnist.test_images, mnist.test_labels).mean())

    images, labels, _ = sample(STEPS * CONFIG.batch, MLP.latent_dim)
    compare("bfloat16", "step", {name: (partial(steps, half), STEPS)
                                 for name, half in (("float32", False), ("bfloat16", True))})
    ends = {half: [nats(half, seed) for seed in SEEDS] for half in (True, False)}
    assert all(map(math.isfinite, ends[True]))
    benchmark.extra_info |= {"half": ends[True], "full": ends[False]}
