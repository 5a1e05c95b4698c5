"""Shared by all benchmarks: one thread, one model, one set of images, and the user's own store."""

import datetime
import json
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from timing import rows, timed

from sa_lib.book.execution import machine
from sa_lib.evidence import RESULTS
from sa_lib.model import ARCHITECTURES, build

TOOLS = ("opacus", "backpack-for-pytorch", "nngeometry", "openTSNE", "scikit-learn")
results = {}


@pytest.fixture(autouse=True, scope="session")
def small_cache():
    """The user's own store, not an empty one as in the other tests: training models that are there takes minutes."""


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample():
    """(count, latent_dim) -> images, labels and noise; the time does not depend on their values."""
    def draw(count, latent_dim):
        generator = torch.Generator().manual_seed(0)
        images = (torch.rand(count, 1, 28, 28, generator=generator) - 0.8).clamp_min(0) * 5
        return (images, torch.randint(10, (count,), generator=generator),
                torch.randn(count, latent_dim, generator=generator))
    return draw


@pytest.fixture(scope="session", params=["mlp", "conv"])
def model(request):
    return build(ARCHITECTURES[request.param], seed=0).eval()


@pytest.fixture
def compare(benchmark):
    """(group, unit, name -> (job, units of work in it)) -> rows; the others are compared with the first job."""
    def run(group, unit, jobs, rounds=7):
        times = []
        benchmark.group = group
        benchmark.pedantic(lambda: times.append(timed({name: job for name, (job, _) in jobs.items()})),
                           rounds=rounds, warmup_rounds=1)
        table = rows(times[1:] or times, {name: units for name, (_, units) in jobs.items()})
        benchmark.extra_info |= {"unit": unit, "rounds": rounds, "rows": table}
        return table
    return run


def tidy(value):
    """Numbers to four digits: more are noise."""
    if isinstance(value, dict):
        return {name: tidy(item) for name, item in value.items()}
    if isinstance(value, list):
        return [tidy(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def pytest_benchmark_update_json(output_json):
    results.update({"date": datetime.date.today().isoformat(), "threads": torch.get_num_threads(),
                    "machine": machine(), "tools": {name: installed(name) for name in TOOLS},
                    "groups": {one["group"]: tidy(one["extra_info"]) for one in output_json["benchmarks"]}})


def pytest_sessionfinish(exitstatus):
    # Only `make bench` asks for JSON; a run of it that succeeds replaces the numbers in the book.
    if results and exitstatus == pytest.ExitCode.OK:
        (RESULTS / "bench.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
