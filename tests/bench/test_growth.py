"""Growth of time and memory with the images of a Fisher, and of time with the width of the model."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sa_lib.fisher import fisher_diagonal
from sa_lib.model import ARCHITECTURES, build
from sa_lib.training import TrainingConfig, train_cvae

MLP = ARCHITECTURES["mlp"]
COUNTS = (1024, 2048, 4096, 8192)
WIDTHS = (0.5, 1, 2)
STEPS = 10
# Each count needs a process of its own, because the peak of the memory cannot be reset. The peak comes from Linux,
# because `getrusage` counts the memory of the parent too.
PEAK = f"""
import re, sys, torch
from sa_lib.fisher import fisher_diagonal
from sa_lib.model import ARCHITECTURES, build

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 2**10

torch.set_num_threads(1)
model = build(ARCHITECTURES["mlp"], 0)
images, labels = torch.rand({COUNTS[-1]}, 1, 28, 28), torch.zeros({COUNTS[-1]}, dtype=torch.long)
noise, count, before = torch.randn({COUNTS[-1]}, model.config.latent_dim), int(sys.argv[1]), peak()
fisher_diagonal(model, images[:count], labels[:count], noise[:count])
print(peak() - before)
"""


def exponent(sizes, rows):
    """The exponent of the growth of the seconds with the size."""
    return float(np.polyfit(np.log(sizes), np.log([row["seconds"] for row in rows]), 1)[0])


def test_the_fisher_grows_with_the_images(compare, benchmark, sample):
    model = build(MLP, 0).eval()
    data = sample(COUNTS[-1], MLP.latent_dim)
    jobs = {f"{count}": (partial(fisher_diagonal, model, *(part[:count] for part in data)), 1) for count in COUNTS}
    rows = compare("Growth of the Fisher", "pass", jobs, rounds=5)
    benchmark.extra_info["exponent"] = exponent(COUNTS, rows)


def test_a_training_step_grows_with_the_width(compare, benchmark, sample):
    images, labels, _ = sample(STEPS * TrainingConfig.batch, MLP.latent_dim)
    models = {width: build(replace(MLP, hidden=[int(width * size) for size in MLP.hidden]), 0) for width in WIDTHS}
    jobs = {f"{width}": (partial(train_cvae, model, images, labels, TrainingConfig(epochs=1), seed=0), STEPS)
            for width, model in models.items()}
    rows = compare("Growth of a training step", "step", jobs)
    benchmark.extra_info["exponent"] = exponent(WIDTHS, rows)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not report the peak of the memory")
def test_a_further_image_costs_the_fisher_less_memory_than_the_image_itself(benchmark):
    def added(count):
        done = subprocess.run([sys.executable, "-c", PEAK, str(count)], capture_output=True, text=True, check=True)
        return float(done.stdout)

    benchmark.group = "Memory of the Fisher"
    few, many = benchmark.pedantic(lambda: [added(count) for count in (COUNTS[0], COUNTS[-1])])
    # Within a batch, an image takes several times its own size; between batches, nothing of it may be left.
    further = (COUNTS[-1] - COUNTS[0]) * 4 * 28 * 28 / 2**20
    assert few > 0
    assert many - few < further, f"{COUNTS[-1]} images took {many:.0f} MB, {COUNTS[0]} took {few:.0f} MB"
    benchmark.extra_info |= {"rounds": 1, "MB": {str(COUNTS[0]): few, str(COUNTS[-1]): many}}
