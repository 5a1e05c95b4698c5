"""Make the committed ``results/probes.csv``: further ways to find a forgotten class, also tried on models without it.

A row is one number of one model: an attack on its changed weights, its answers by another ruler, or a probe of
`sa_lib.probes`. The models are those of chapter 9's mending.
"""

import json
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F

from .. import attacks, data, probes, trained
from ..attacks import THREATS, Threat
from ..data import Dataset
from ..judges import JudgeConfig
from ..labels import CLASSES
from ..methods import METHODS
from ..model import CVAE, device
from ..reconstruction import SearchConfig
from ..store import tensor_digest, write_atomically
from ..threats import AttackResult
from ..trained import Trained
from ..validation import RESULTS
from .cluster import rows_of
from .validation import COUNT, DIGIT, MENDED, SEEDS

__all__ = ["CELLS", "make", "measured"]

FEW = 100  # images to train on again
MEMBERS = 1000  # training images, and at most as many held-out ones
THREAT = "y on the simplex"
CELLS = [(name, seed) for seed in SEEDS for name in ("baseline", "never saw", *MENDED)]


def make(scheduler: str | None = None) -> int:
    """Make all cells on a cluster, and write the table; return the number of its rows."""
    table = rows_of(measured, CELLS, scheduler)
    with write_atomically(RESULTS / "probes.csv") as temporary:
        table.to_csv(temporary, index=False)
    return len(table)


def measured(name: str, seed: int, dataset: Dataset | None = None, search: SearchConfig = SearchConfig(),
             models: Callable[[Dataset, int, str], Trained] | None = None) -> list[dict]:
    """The rows of a model: of each probe, a `value`, or the attacker's `errors` on each target as JSON.

    Of an attack there is also the `shortfall`, see `trained.shortfall`.

    Args:
        dataset: MNIST by default.
        models: (data, seed, name) -> a model; those of the book by default.
    """
    dataset, models = dataset or data.load("mnist"), models or _model
    model = models(dataset, seed, name)
    targets = data.held_out(dataset, DIGIT, COUNT).to(device())
    rows = [{"probe": probe, "errors": json.dumps([round(error, 4) for error in errors.tolist()]), "shortfall": short}
            for probe, errors, short in _errors(model, dataset, targets, search)]
    another = SEEDS[(SEEDS.index(seed) + 1) % len(SEEDS)]
    others = {"baseline": models(dataset, seed, "baseline"),
              "never saw": models(dataset, another if name == "never saw" else seed, "never saw")}
    rows += [{"probe": probe, "value": value} for probe, value in _values(model.net, others, dataset)]
    return [{"class": DIGIT, "seed": seed, "model": name, **row} for row in rows]


def _model(dataset: Dataset, seed: int, name: str) -> Trained:
    base = trained.cvae(dataset, seed=seed)
    if name == "baseline":
        return base
    return (trained.never_saw(dataset, DIGIT, seed=seed) if name == "never saw"
            else trained.forgotten(base, dataset, DIGIT, METHODS[name], seed))


def _errors(model: Trained, dataset: Dataset, targets: torch.Tensor,
            search: SearchConfig) -> Iterator[tuple[str, torch.Tensor, float | None]]:
    """The attacker's errors on the model, on other images, on changed weights, and by other rulers; and the shortfall.

    The other rulers measure the answers of the first attack, so they have none.
    """
    def attack(source: Trained, images: torch.Tensor, threat: Threat = THREATS[THREAT]) -> tuple[AttackResult, float]:
        return (trained.reconstruction(source, images, DIGIT, threat, search),
                trained.shortfall(source, images, DIGIT, threat, search))

    first, short = attack(model, targets)
    yield "as it is", first.errors, short
    cases = {"other images": (model, data.held_out(dataset, DIGIT, COUNT, 1).to(device())),
             "z kept to the prior": (model, targets, Threat("prior", "simplex"))}
    for change, net in (("weights of 8 bits", probes.quantized(model.net, 8)),
                        ("weights of 4 bits", probes.quantized(model.net, 4)),
                        ("half of the weights", probes.pruned(model.net, 0.5))):
        cases[change] = Trained(net, model.log, model.seconds, tensor_digest(net.state_dict())), targets
    for probe, case in cases.items():
        result, short = attack(*case)
        yield probe, result.errors, short
    judge = trained.judge(dataset, JudgeConfig("features"))
    answers = first.images[-1]
    yield "features", (judge.features(answers) - judge.features(targets)).square().sum(1), None
    likelihood = F.binary_cross_entropy(answers.clamp(1e-6, 1 - 1e-6), targets, reduction="none")
    yield "Bernoulli likelihood", likelihood.flatten(1).sum(1), None


def _values(net: CVAE, others: dict[str, Trained], dataset: Dataset) -> Iterator[tuple[str, float]]:
    """The probes of the weights and of the losses."""
    seen = data.training_sample(dataset, DIGIT, MEMBERS)
    unseen = dataset.test_images[dataset.test_labels == DIGIT]
    yield "membership inference", probes.membership(net, seen, unseen, DIGIT)[0]
    for name, other in others.items():
        losses = probes.path(net, other.net, unseen, torch.full((len(unseen),), DIGIT), points=11, draws=1)
        yield f"barrier to {name}", probes.barrier(losses)
    judge = trained.judge(dataset, JudgeConfig("B"))
    few = data.training_sample(dataset, DIGIT, FEW)
    yield "relearning", float(attacks.relearn(net, few, DIGIT, judge).mean())
    new = (DIGIT + 1) % CLASSES
    taught = data.training_sample(dataset, new, FEW)
    yield "learning another class", float(probes.plasticity(net, taught, DIGIT, new, judge).mean())
