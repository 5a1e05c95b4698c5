"""Make the archives of controls that a release carries: for each class, models that never saw it, and a baseline."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from .. import controls, data, trained
from ..data import Dataset
from ..evaluation import negative_elbo, prior_samples
from ..labels import CLASSES
from ..model import CVAE, ModelConfig, device
from ..store import tensor_digest
from ..trained import Trained
from ..training import TrainingConfig
from ..unlearning import UnlearningConfig
from .cluster import rows_of
from .notebooks import BookError

__all__ = ["make", "packed"]

DATA = "mnist"
SAMPLES = 100  # drawings of each class, to show how much the rounding of the weights changes
SHEET = """\
# Models that never saw a {label}

Controls for an audit of a model that was made to forget class {label} of {name}, after *Selective Amnesia on a \
Conditional VAE*. They say how near a model without the class comes to its images.

    sa-audit mine.safetensors --label {label} --never ADDRESS

ADDRESS is that of this archive, with its digest. `baseline.safetensors` saw all classes; start from it, or from your \
own model of the same recipe. `never-SEED.safetensors` never saw a {label}, and had as many further updates as the \
unlearning of the book takes.

| File | Negative ELBO of the other classes, nats | Largest change of a pixel by rounding | SHA-256 of the weights |
|---|---|---|---|
{rows}

- **Data**: {name}, training images alone; SHA-256 of the set {digest}. The test images \
serve the second column of the table, and no training.
- **Recipe**: `{recipe}`
- **Form**: safetensors, read by `sa_lib.checkpoints.load_model`, encoder and decoder. The weights are of half \
precision; the table says what this changes in {samples} drawings, in which a pixel lies between 0 and 1.
- **Use them** beside models of the same architecture and recipe. A model of another recipe needs controls of its own: \
a difference to these may be one of the training.
- **License**: MIT, as the code.
"""


def make(root: Path, seeds: int = 9, scheduler: str | None = None) -> list[str]:
    """Train the missing models on a cluster; pack ``_build/controls-<class>.zip``, and return the addresses."""
    if seeds < 1:
        raise BookError(f"seeds must be a whole number from 1, got {seeds}")
    rows_of(_train, [(label, seed) for seed in range(seeds) for label in range(CLASSES)], scheduler)
    dataset = data.load(DATA)
    return [packed(root / "_build" / f"controls-{label}.zip", dataset, label, trained.cvae(dataset),
                   {seed: trained.never_saw(dataset, label, seed=seed) for seed in range(seeds)})
            for label in range(CLASSES)]


def _train(label: int, seed: int) -> list[dict]:
    """Put a model that never saw a class into the store."""
    trained.never_saw(data.load(DATA), label, seed=seed)
    return []


def packed(path: Path, dataset: Dataset, label: int, baseline: Trained, never: Mapping[int, Trained]) -> str:
    """Pack the models of one class with their data sheet; return the address of the archive."""
    pack = partial(controls.pack, path, label, baseline.net, {seed: model.net for seed, model in never.items()})
    names = ["baseline", *(f"never-{seed}" for seed in never)]
    first, others = controls.read(pack(), label)  # as the rounding left them
    pairs = zip(names, (baseline, *never.values()), (first, *others), strict=True)
    rows = "\n".join(f"| {name}.safetensors | {_nelbo(one, dataset, label):.2f} | {_change(model.net, one):.1e} | "
                     f"{tensor_digest(one.state_dict())} |" for name, model, one in pairs)
    recipe = json.dumps({"model": ModelConfig.asdict(baseline.net.config), "training": asdict(TrainingConfig()),
              "further updates": UnlearningConfig().steps})
    return pack(SHEET.format(label=label, name=dataset.name, rows=rows, digest=dataset.digest, recipe=recipe,
                             samples=SAMPLES * baseline.net.config.classes))


def _nelbo(model: CVAE, dataset: Dataset, label: int) -> float:
    others = dataset.test_labels != label
    return float(negative_elbo(model.to(device()), dataset.test_images[others], dataset.test_labels[others]).mean())


def _change(model: CVAE, rounded: CVAE) -> float:
    labels = torch.arange(model.config.classes).repeat_interleave(SAMPLES)
    return float((prior_samples(model, labels) - prior_samples(rounded.to(device()), labels)).abs().max())
