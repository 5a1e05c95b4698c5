"""The cost of forgetting against the cost of learning: the book's model and default configurations.

No whole training is timed: the time of either is its number of steps times the median seconds of one step.
"""

from functools import partial

import torch

from sa_lib.fisher import fisher_diagonal
from sa_lib.methods import ewc_gray
from sa_lib.model import ARCHITECTURES, build
from sa_lib.training import TrainingConfig, train_cvae
from sa_lib.unlearning import UnlearningConfig, unlearn

IMAGES = 60_000  # of MNIST
STEPS = 40


def test_forgetting_costs_a_part_of_learning(compare, benchmark, sample):
    training, unlearning = TrainingConfig(), UnlearningConfig()
    assert training.batch == 2 * unlearning.batch, "a step of either has as many images, real or replayed"
    model = build(ARCHITECTURES["mlp"], 0)
    images, labels, noise = sample(STEPS * training.batch, model.config.latent_dim)
    fisher = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    jobs = {
        "training step": (partial(train_cvae, model.requires_grad_(True), images, labels,
                                  TrainingConfig(epochs=1), seed=0), STEPS),
        # All of its steps, because it logs its gradients a fixed number of times.
        "unlearning step": (partial(unlearn, build(model.config, 0), images, labels, 9, fisher, unlearning, seed=0,
                                    loss=ewc_gray), unlearning.steps),
        "Fisher": (partial(fisher_diagonal, build(model.config, 0), images, labels, noise), STEPS)}
    step, forget, batch = (row["seconds"] for row in compare("Unlearning, mlp", "batch of 256 images", jobs, rounds=3))
    learned = training.epochs * (IMAGES // training.batch)
    benchmark.extra_info |= {
        "training steps": learned, "unlearning steps": unlearning.steps,
        "share": unlearning.steps * forget / (learned * step),
        "share with Fisher": (unlearning.steps * forget + IMAGES / training.batch * batch) / (learned * step)}
