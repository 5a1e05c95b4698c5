"""What all benchmarks share: one thread, one model, one set of images; nothing is downloaded."""

import datetime
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from sa_lib import book
from sa_lib.model import ARCHITECTURES, build
from timing import rows, timed

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench.json"
TOOLS = ("opacus", "backpack-for-pytorch", "nngeometry", "openTSNE", "scikit-learn")
made = {}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample():
    """(count, latent_dim) -> images, labels and noise; time does not depend on what is in the images."""
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
    """(group, unit, name -> (job, units of work in it)) -> rows; the first job is what the others are held to."""
    def run(group, unit, jobs, rounds=7):
        seen = []
        benchmark.group = group
        benchmark.pedantic(lambda: seen.append(timed({name: job for name, (job, _) in jobs.items()})),
                           rounds=rounds, warmup_rounds=1)
        found = rows(seen[1:], {name: units for name, (_, units) in jobs.items()})
        benchmark.extra_info |= {"unit": unit, "rounds": rounds, "rows": found}
        return found
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
    made.update({"date": datetime.date.today().isoformat(), "threads": torch.get_num_threads(),
                 "machine": book.machine(), "tools": {name: installed(name) for name in TOOLS},
                 "groups": {one["group"]: tidy(one["extra_info"]) for one in output_json["benchmarks"]}})


def pytest_sessionfinish(exitstatus):
    # Only a whole `make bench`, which asks for JSON, replaces what the book shows.
    if made and exitstatus == pytest.ExitCode.OK:
        RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
