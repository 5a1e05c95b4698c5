"""The shares of PyTorch's operators in the time of a training step and of a Fisher pass."""

from functools import partial

import pytest
from torch.profiler import ProfilerActivity, profile

from sa_lib.fisher import fisher_diagonal
from sa_lib.model import ARCHITECTURES, build
from sa_lib.training import TrainingConfig, train_cvae

STEPS, SHOWN = 30, 6


def shares(job):
    """Operator -> its share of the time of all operators, for the largest ones; then all others together."""
    job()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        job()
    spent = {one.key.removeprefix("aten::"): one.self_cpu_time_total for one in profiled.key_averages()}
    total, largest = sum(spent.values()), sorted(spent, key=spent.get, reverse=True)[:SHOWN]
    return {**{name: spent[name] / total for name in largest},
            "all others": 1 - sum(spent[name] for name in largest) / total}


def test_profile(benchmark, sample):
    model = build(ARCHITECTURES["mlp"], 0)
    images, labels, noise = sample(STEPS * TrainingConfig.batch, model.config.latent_dim)
    jobs = {"training step": partial(train_cvae, model, images, labels, TrainingConfig(epochs=1), seed=0),
            "Fisher": partial(fisher_diagonal, model, images, labels, noise)}
    benchmark.group = "Profile, mlp"
    parts = benchmark.pedantic(lambda: {name: shares(job) for name, job in jobs.items()})
    assert [sum(part.values()) for part in parts.values()] == pytest.approx([1] * len(jobs))
    benchmark.extra_info |= {"rounds": 1, "shares": parts}
