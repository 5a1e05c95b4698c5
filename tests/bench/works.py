"""The seconds on the clock of the library's larger works on the device that it finds, as JSON.

`test_gpu` runs it twice, with the GPU and without.
"""

import json
import sys
import time
from dataclasses import replace
from functools import partial

import torch

from sa_lib import data, fisher, stack, training, unlearning
from sa_lib.attacks import THREATS
from sa_lib.labels import retain_set
from sa_lib.methods import METHODS
from sa_lib.model import ARCHITECTURES, ModelConfig, device
from sa_lib.reconstruction import reconstruct
from sa_lib.training import TrainingConfig

DIGIT = 9


def works(dataset):
    """name -> job."""
    model = training.new_cvae(dataset, ModelConfig(), replace(TrainingConfig(), epochs=1), 0)[0].eval()
    model.requires_grad_(False)
    counts = {k: int((dataset.train_labels == k).sum()) for k in retain_set(DIGIT)}
    protect = fisher.combine(fisher.dataset_fishers(model, dataset, 0), counts)
    method = METHODS["ewc_gray"]
    targets = data.held_out(dataset, DIGIT, 100).to(device())
    conv = ARCHITECTURES["conv"], TrainingConfig(epochs=1, batch=128, peak_lr=6e-3)
    jobs = {
        "train a CVAE": partial(training.new_cvae, dataset, ModelConfig(), TrainingConfig(), 0),
        "the Fisher of all classes": partial(fisher.dataset_fishers, model, dataset, 0),
        "forget a class by ewc_gray": partial(unlearning.unlearned_copy, model, dataset, [DIGIT], protect,
                                              method.config, 0, method.loss),
        "attack 100 images, y on the simplex": partial(reconstruct, model, targets, DIGIT, THREATS["y on the simplex"]),
        "an epoch of the convolutional CVAE": partial(training.new_cvae, dataset, *conv, 0)}
    if device().type == "cuda":  # on a core it would take as long as one after another
        jobs["train six CVAEs side by side"] = partial(stack.train, dataset, ModelConfig(), TrainingConfig(), range(6))
    return jobs


def seconds(job, times):
    """Of the last call: the first one sets up a GPU's libraries."""
    for _ in range(times):
        began = time.perf_counter()
        job()
        if device().type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    torch.set_num_threads(1)
    rounds = 2 if device().type == "cuda" else 1
    found = {}
    for name, job in works(data.load("mnist")).items():
        found[name] = seconds(job, rounds)
        print(name, found[name], file=sys.stderr, flush=True)
    print(json.dumps(found))
