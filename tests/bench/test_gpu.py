"""The library's larger works on a GPU, and on one core of the same machine; the speed page has both columns."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sa_lib.book.execution import machine
from sa_lib.evidence import RESULTS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def works(**environment):
    done = subprocess.run([sys.executable, Path(__file__).with_name("works.py")], stdout=subprocess.PIPE, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", **environment})
    return json.loads(done.stdout)


def test_works_on_a_gpu_and_on_a_core():
    both = {"gpu": works(), "core": works(CUDA_VISIBLE_DEVICES="")}
    both = {where: {name: float(f"{spent:.4g}") for name, spent in own.items()} for where, own in both.items()}
    assert set(both["core"]) < set(both["gpu"])
    about = {"date": datetime.date.today().isoformat(), "machine": machine(), "gpu": torch.cuda.get_device_name()}
    (RESULTS / "gpu.json").write_text(json.dumps({**about, "seconds": both}, indent=1) + "\n", encoding="utf-8")
