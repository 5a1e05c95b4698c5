"""The cost of the library before it computes anything: its import beyond PyTorch's own, and its size on the disk."""

import re
import statistics
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from runs import PROJECT

# The imports of the README's example.
IMPORT = """
import time
begun = time.process_time()
import torch
between = time.process_time()
from sa_lib import data, evaluation, fisher, methods, trained
print(between - begun, time.process_time() - between)
"""


def test_import(benchmark):
    times = []

    def once():
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, cwd=PROJECT)
        times.append([float(number) for number in done.stdout.split()])

    benchmark.group = "Import"
    benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    torch, ours = map(statistics.median, zip(*(times[1:] or times), strict=True))
    benchmark.extra_info |= {"rounds": 5, "torch": torch, "sa_lib": ours}


def test_size(benchmark):
    needed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]

    def size(package):
        paths = (Path(file.locate()) for file in distribution(package).files)
        return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6

    benchmark.group = "Size"
    sizes = benchmark.pedantic(lambda: {name: size(name) for name in (re.match(r"[\w-]+", one)[0] for one in needed)})
    benchmark.extra_info |= {"rounds": 1, "MB": sizes,
                             "own MB": sum(path.stat().st_size for path in (PROJECT / "sa_lib").rglob("*.py")) / 1e6}
