"""Build the wheel and the source archive, and try each in an environment of its own with PyTorch and NumPy alone.

    python tools/dist.py            builds into _build/dist
"""

import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FILES = ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text", "CITATION.cff")
MODELS = """
import torch

def decoder(seed):
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    return lambda z: (z @ weight).tanh().view(-1, 1, 8, 8)

def make():
    baseline, *never = map(decoder, range(4))
    images = baseline(torch.randn(10, 4, generator=torch.Generator().manual_seed(4)))
    return {"subject": decoder(4), "baseline": baseline, "never": never, "z_shape": 4, "images": images}
"""
BUILD = "from setuptools import build_meta as b; b.build_wheel(r'{0}'); b.build_sdist(r'{0}')"


def build(target: Path) -> list[Path]:
    """The wheel and the source archive, built from a copy, for setuptools writes into the folder that it builds."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        for name in FILES:
            shutil.copy(PROJECT / name, copy)
        shutil.copytree(PROJECT / "sa_lib", copy / "sa_lib", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([sys.executable, "-c", BUILD.format(target)], cwd=copy, check=True, stdout=subprocess.DEVNULL)
    return sorted(target.iterdir())


def attempt(archive: Path) -> None:
    """Install an archive in a new environment, and audit a small table and foreign decoders with it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        venv.create(folder / "venv", with_pip=True)
        programs = folder / "venv" / "bin"
        pip = [programs / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, "torch", "numpy"], check=True)
        subprocess.run([*pip, "--no-deps", archive], check=True)
        random.seed(0)
        with open(folder / "errors.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["model", "role", "image", "error"])
            for role, mean in (("baseline", 2), ("subject", 10), ("never", 10), ("never", 10.1), ("never", 9.9)):
                table.writerows([f"{role} {mean}", role, n, random.gauss(mean, 0.1)] for n in range(20))
        (folder / "mymodels.py").write_text(MODELS, encoding="utf-8")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        for arguments in (["--help"], ["errors.csv", "--out", "errors"], ["mymodels.py:make", "--out", "decoders"]):
            subprocess.run([programs / "sa-audit", *arguments], cwd=folder, env=clean, check=True)
        if missing := [card for card in ("errors", "decoders") if not (folder / card / "index.html").is_file()]:
            sys.exit(f"{archive.name}: sa-audit wrote no page for {', '.join(missing)}")


if __name__ == "__main__":
    for built in build(PROJECT / "_build" / "dist"):
        attempt(built)
        print(f"{built}: it works in a clean environment")
