"""The device: on a GPU everything gives what it gives on the CPU, and no step waits for the GPU.

The GPU is pretended, see `pretend`: it finds a tensor that was left on the CPU, and needs no driver.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pretend import pretended_gpu
from sa_lib import (
    attacks,
    evaluation,
    fisher,
    judges,
    latent,
    model,
    probes,
    recipe,
    settings,
    trained,
    training,
    unlearning,
)
from sa_lib.attacks import THREATS, AttackConfig
from sa_lib.data import Dataset
from sa_lib.judges import Judge, JudgeConfig
from sa_lib.labels import CLASSES
from sa_lib.methods import METHODS
from sa_lib.model import CVAE, ModelConfig
from sa_lib.recipe import RecipeConfig
from sa_lib.reconstruction import SearchConfig
from sa_lib.training import TrainingConfig
from sa_lib.unlearning import UnlearningConfig

SHAPES = {"mlp": ModelConfig("mlp", latent_dim=3, hidden=(12, 8)),
          "conv": ModelConfig("conv", latent_dim=3, hidden=(2, 4))}
DIGIT = 9
SMALL = {"batch": 16, "forget_batch": 8}


@pytest.fixture(scope="module")
def few(digits):
    """A data set of twelve images of each class."""
    def some(images, labels):
        chosen = torch.cat([(labels == k).nonzero().squeeze(1)[:12] for k in range(CLASSES)])
        return images[chosen], labels[chosen]
    train, test = some(digits.train_images, digits.train_labels), some(digits.test_images, digits.test_labels)
    return Dataset("digits", *train, *test, digest="twelve of each")


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """The same arithmetic on both: only a CPU may multiply in bfloat16."""
    monkeypatch.setattr(settings, "native_bfloat16", lambda: False)


@pytest.fixture
def gpu():
    with pretended_gpu() as pretended:
        yield pretended


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def cvae(shape="mlp"):
    return model.build(SHAPES[shape], 0).to(model.device())


def judge(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Judge(name).to(model.device()).eval().requires_grad_(False)


# What runs -----------------------------------------------------------------------------------------------------------
# Each entry does its work on the device that the library finds, and takes its data from the CPU, where a data set is.

def train_cvae(shape, few, epochs=2, terms=CVAE.elbo_terms):
    net = cvae(shape)
    return net, training.train_cvae(net, few.train_images, few.train_labels, TrainingConfig(epochs, 40), 0, terms)


def new_cvae(few):
    return training.new_cvae(few, SHAPES["mlp"], TrainingConfig(1, 40), 0, without=[DIGIT])


def unlearn(method, few, steps=2, **changes):
    net, config = cvae(), replace(METHODS[method].config, steps=steps, **SMALL, **changes)
    protect = {name: weight.detach().cpu().square() for name, weight in net.named_parameters()}
    log = unlearning.unlearn(net, few.train_images, few.train_labels, DIGIT, protect, config, 0, METHODS[method].loss,
                             combine=METHODS[method].combine)
    return net, log


RECIPE = RecipeConfig(batch=40, fisher_images=60, replay=20)


def recipe_train(few, epochs=2):
    return recipe.train(few, 0, replace(RECIPE, epochs=epochs))


def recipe_forget(fisher, few, epochs=2):
    net = model.build(model.ARCHITECTURES["conv"], 0)
    return recipe.forget(net, few, DIGIT, 0, [2], replace(RECIPE, fisher=fisher, forget_epochs=epochs))


def further_updates(few):
    config = UnlearningConfig(steps=3, replay=0.0, ewc=0.0, gray=0.0, **SMALL)
    return unlearning.unlearned_copy(model.build(SHAPES["mlp"], 0), few, [DIGIT, 2], {}, config, 0,
                                     METHODS["ewc_gray"].loss, push=[2], anchor=model.build(SHAPES["mlp"], 1))


def train_judge(name, few, epochs=2):
    config = JudgeConfig(name, epochs, 40)
    return judges.new_judge(few, config, 0)


def calibrate(few):
    network = judge("A")
    judges.calibrate(network, few.test_images.to(model.device()), few.test_labels.to(model.device()))
    return network


def attack(threat, loss, few, steps=2):
    targets = few.test_images[few.test_labels == DIGIT]
    loss = attacks.squared_error(targets) if loss == "squared_error" else attacks.unlike(judge("A"), DIGIT)
    return attacks.attack(cvae(), loss, DIGIT, len(targets), THREATS[threat], AttackConfig(steps, restarts=2))


def score(few):
    return attacks.score(attack("z free", "unlike", few), judge("B"), DIGIT, few.train_images)


def relearn(few, steps=2, every=2):
    return attacks.relearn(cvae(), few.train_images[:5], DIGIT, judge("B"), steps, batch=3, every=every, samples=6)


def plasticity(few, steps=2, every=2):
    return probes.plasticity(cvae(), few.train_images[:5], DIGIT, 3, judge("B"), steps, batch=3, every=every, samples=6)


def thinned(shape, few):
    return probes.quantized(cvae(shape), 4), probes.pruned(cvae(shape), 0.5)


def path(shape, few, points=3):
    second = model.build(SHAPES[shape], 1)
    return probes.path(cvae(shape), second, few.test_images, few.test_labels, points, draws=2)


def membership(shape, few):
    train, test = (images[labels == DIGIT] for images, labels in
                   ((few.train_images, few.train_labels), (few.test_images, few.test_labels)))
    return probes.membership(cvae(shape), train, test, DIGIT)


def fisher_diagonal(shape, few, passes=2):
    count = len(few.train_labels)
    return fisher.fisher_diagonal(cvae(shape), few.train_images, few.train_labels, normal(count, 3), count // passes)


def fishers(few):
    by_class = fisher.dataset_fishers(cvae(), few, 0)
    return fisher.combine(by_class, {0: 1.0, 3: 2.0}), by_class


def sampled_fisher(few):
    generator = torch.Generator(model.device()).manual_seed(0)
    return fisher.sampled_fisher_diagonal(cvae(), few.train_labels, generator)


def negative_elbo(few, draws=4):
    return evaluation.negative_elbo(cvae(), few.test_images, few.test_labels, draws=draws)


def measures(few):
    network, drawn = judge("B"), evaluation.prior_samples(cvae(), few.test_labels)
    error = evaluation.expected_calibration_error(network.probabilities(drawn), few.test_labels)
    return evaluation.answers(network, {"drawn": drawn, "real": few.test_images}), error


def layers(few):
    y = latent.neutral(len(few.test_labels))
    one, other = (latent.activations(net, few.test_images, y) for net in (cvae(), model.copy_of(cvae())))
    mean, labels = one["mean"].to(model.device()), few.test_labels.to(model.device())
    return (one, latent.layer_cka(one, other, torch.arange(9)), latent.probe_recall(mean, labels, mean, labels),
            latent.knn_recall(mean, labels, mean, labels), latent.silhouette(mean, labels),
            latent.class_distances(mean, labels))


def weight_changes(few):
    before, (after, _) = cvae(), train_cvae("mlp", few)
    return latent.weight_changes(before, after, dict(before.named_parameters()))


def through_the_store(few):
    source = trained.cvae(few, SHAPES["mlp"], TrainingConfig(1, 40))
    method = METHODS["ewc_gray"]
    forgotten = trained.forgotten(source, few, DIGIT, replace(method, config=replace(method.config, steps=2, **SMALL)))
    # Nothing is optimized here: PyTorch's vmap and jvp crash with tensors of the pretended GPU, so the steps of the
    # reconstruction attacker are not tested on it.
    result = trained.reconstruction(forgotten, few.test_images[:4], DIGIT, THREATS["random search"], SearchConfig(16))
    return forgotten.net, result, trained.judge(few, JudgeConfig("B", 1, 40))


TRAININGS = {
    **{f"train_cvae, {shape}": partial(train_cvae, shape) for shape in SHAPES},
    **{f"unlearn, {method}": partial(unlearn, method) for method in METHODS},
    "unlearn, salient and fresh": partial(unlearn, "ewc_gray", salient=0.5, fresh=0.5),
    **{f"train_judge, {name}": partial(train_judge, name) for name in judges.NETWORKS},
    "recipe, train": recipe_train,
    **{f"recipe, forget, {fisher}": partial(recipe_forget, fisher) for fisher in ("batch", "image")},
}
ATTACKS = {f"{threat}, {loss}": partial(attack, threat, loss)
           for threat in THREATS for loss in ("squared_error", "unlike")}
RUNS = TRAININGS | ATTACKS | {
    "new_cvae": new_cvae, "further updates": further_updates, "calibrate": calibrate, "score": score,
    "relearn": relearn, "plasticity": plasticity,
    **{f"{probe.__name__}, {shape}": partial(probe, shape)
       for probe in (thinned, path, membership) for shape in SHAPES},
    **{f"fisher_diagonal, {shape}": partial(fisher_diagonal, shape) for shape in SHAPES},
    "fishers": fishers, "sampled_fisher_diagonal": sampled_fisher, "negative_elbo": negative_elbo,
    "evaluate": lambda few: evaluation.evaluate(cvae(), few, judge("B"), judge("features"), samples=6),
    "measures": measures, "layers": layers, "weight_changes": weight_changes, "through the store": through_the_store,
}


def values(result):
    """All numbers of a result, as bytes."""
    if isinstance(result, nn.Module):
        result = result.state_dict()
    if isinstance(result, attacks.AttackResult):
        result = vars(result)
    if isinstance(result, (pd.Series, pd.DataFrame)):
        result = result.to_numpy(dtype=float)
    if isinstance(result, torch.Tensor):
        return result.detach().cpu().contiguous().numpy().tobytes()
    if isinstance(result, dict):
        return {key: values(value) for key, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [values(value) for value in result]
    return np.asarray(result).tobytes()


def places(result):
    """The devices of the weights and of the results of attacks in a result."""
    if isinstance(result, (list, tuple)):
        return set().union(*map(places, result))
    tensors = (result.state_dict() if isinstance(result, nn.Module) else
               vars(result) if isinstance(result, attacks.AttackResult) else {}).values()
    return {tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor)}


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_on_a_gpu_and_gives_what_it_gives_on_the_cpu(name, few, tmp_path, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(tmp_path / "cpu"))
    on_cpu = values(RUNS[name](few))
    monkeypatch.setenv("SA_CACHE", str(tmp_path / "gpu"))
    with pretended_gpu():
        result = RUNS[name](few)
        assert values(result) == on_cpu
        assert places(result) <= {"cuda"}, "weights and results of attacks stay on the GPU"


def test_a_model_on_the_cpu_is_measured_there_though_there_is_a_gpu(few):
    net, network, features = cvae(), judge("B"), judge("features")
    with pretended_gpu():
        evaluation.evaluate(net, few, network, features, samples=6)
        drawn = evaluation.prior_samples(net, few.test_labels)
        evaluation.answers(network, {"drawn": drawn})
    assert drawn.device.type == "cpu"


class Killed(Exception):
    pass


def test_a_training_that_was_killed_on_a_gpu_resumes_there(few, tmp_path, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    monkeypatch.setattr(training, "KEEP_EVERY", 0.0)
    whole, _ = training.new_cvae(few, SHAPES["mlp"], TrainingConfig(3, 40), 0)
    left = 4

    def killing(net, *batch):
        nonlocal left
        left -= len(batch[0]) > 3  # the store's probe has three images
        if left < 0:
            raise Killed
        return net.elbo_terms(*batch)

    with pretended_gpu():
        with pytest.raises(Killed):
            trained.cvae(few, SHAPES["mlp"], TrainingConfig(3, 40), terms=killing)
        left = 6
        resumed = trained.cvae(few, SHAPES["mlp"], TrainingConfig(3, 40), terms=killing)
        assert values(resumed.net) == values(whole)


# What waits ----------------------------------------------------------------------------------------------------------

LOOPS = TRAININGS | ATTACKS | {"relearn": partial(relearn, every=100), "negative_elbo": negative_elbo,
                               "plasticity": partial(plasticity, every=100),
                               **{f"path, {shape}": lambda few, count, shape=shape: path(shape, few, count + 1)
                                  for shape in SHAPES},
                               **{f"fisher_diagonal, {shape}": partial(fisher_diagonal, shape) for shape in SHAPES}}


def waits(loop, few, count):
    with pretended_gpu() as gpu:
        loop(few, count)
        return gpu.waits


@pytest.mark.parametrize("name", LOOPS)
def test_twice_as_many_steps_wait_for_the_gpu_no_more_often(name, few, monkeypatch):
    # All steps but the first and the last are then between two rows of the log.
    for module in (unlearning, recipe):
        monkeypatch.setattr(module, "minimize",
                            lambda *given, **named: training.minimize(*given[:-1], log_every=100, **named))
    assert waits(LOOPS[name], few, 2) == waits(LOOPS[name], few, 4)


# The pretended GPU itself --------------------------------------------------------------------------------------------

def on_gpu(*shape):
    return torch.arange(6.0).view(*shape or (2, 3)).to("cuda")


CPU = torch.arange(6.0).view(2, 3)
MIXES = {
    "a sum": lambda: on_gpu() + CPU,
    "a number of the GPU with a tensor of the CPU": lambda: on_gpu().sum() * CPU,
    "a change of a tensor on the CPU": lambda: CPU.sum().add_(on_gpu().sum()),
    "a matrix product": lambda: on_gpu() @ CPU.T,
    "a layer": lambda: nn.Linear(3, 1)(on_gpu()),
    "a concatenation": lambda: torch.cat([on_gpu(), CPU]),
    "a choice": lambda: torch.where(on_gpu() > 1, CPU, CPU),
    "an index of the GPU for a tensor on the CPU": lambda: CPU[on_gpu(6).long()[:2]],
    "an assignment to places": lambda: on_gpu().index_put_((torch.tensor([0]).to("cuda"),), CPU[:1]),
    "a selection": lambda: on_gpu().index_select(0, torch.tensor([0])),
    "a loss": lambda: F.cross_entropy(on_gpu(), torch.tensor([0, 1])),
    "a generator of the CPU": lambda: torch.randn(2, generator=torch.Generator(), device="cuda"),
    "a generator of the GPU": lambda: torch.randn(2, generator=torch.Generator("cuda")),
}
WAITS = {
    "a number": lambda x: float(x.sum()), "a condition": lambda x: bool((x > 1).any()), "numbers": lambda x: x.tolist(),
    "a text": lambda x: f"{x.sum():.1f}",
    "equality": lambda x: torch.equal(x, x), "closeness": lambda x: torch.allclose(x, x),
    "a copy to the CPU": lambda x: x.cpu(), "a copy from the CPU": lambda x: CPU.to(x.device),
    "a copy from the CPU in place": lambda x: x.copy_(CPU), "a list": lambda x: torch.tensor([1.0], device="cuda"),
    "a mask": lambda x: x[x > 1], "places": lambda x: (x > 1).nonzero(), "distinct values": lambda x: x.unique(),
    "counts": lambda x: x.flatten().long().bincount(), "indices of the CPU": lambda x: x[torch.tensor([0, 1])],
    "a list of indices": lambda x: x[:, [0, 2]], "an index": lambda x: CPU[x.argmax() % 2],
}
RUNS_ON = {
    "a sum": lambda x: x + x, "a number of the CPU": lambda x: x * torch.tensor(2.0), "a slice": lambda x: x[1, :2],
    "indices of the GPU": lambda x: x[x.argmax(0)], "a choice": lambda x: torch.where(x > 1, x, 0),
    "a new tensor": lambda x: torch.zeros(3, device="cuda"), "another type": lambda x: x.double(),
    "the same device": lambda x: x.to("cuda"), "a change in place": lambda x: x.clamp_(0, 1).mul_(2),
    "random numbers": lambda x: torch.rand(2, generator=torch.Generator("cuda"), device=x.device),
}


@pytest.mark.parametrize("name", MIXES)
def test_what_mixes_the_devices_is_refused_as_on_a_gpu(name, gpu):
    with pytest.raises(RuntimeError, match="^Expected (all tensors to be on the same device|a '.*' device type for)"):
        MIXES[name]()


def test_a_tensor_on_the_gpu_is_no_array(gpu):
    with pytest.raises((RuntimeError, TypeError), match="numpy"):
        on_gpu().numpy()


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_for_the_gpu_is_counted(name, gpu):
    x = on_gpu()
    gpu.waits.clear()
    WAITS[name](x)
    assert gpu.waits.total() > 0


@pytest.mark.parametrize("name", RUNS_ON)
def test_what_does_not_wait_is_not_counted(name, gpu):
    x = on_gpu()
    gpu.waits.clear()
    RUNS_ON[name](x)
    assert not gpu.waits


def test_gradients_are_on_the_gpu_and_those_of_the_cpu(gpu):
    x = on_gpu().requires_grad_()
    x.square().sum().backward()
    assert x.grad.device.type == "cuda"
    assert torch.equal(x.grad.cpu(), 2 * CPU)


def test_a_misplaced_tensor_in_a_training_is_found(few, gpu):
    with pytest.raises(RuntimeError, match="^Expected all tensors to be on the same device"):
        train_cvae("mlp", few, terms=lambda net, x, y, noise: net.elbo_terms(x, y, normal(*noise.shape)))


def test_a_hidden_wait_in_a_training_is_found(few):
    def terms(net, x, y, noise):
        likelihood, kl = net.elbo_terms(x, y, noise)
        return (likelihood, kl) if kl.mean() > 0 else (likelihood, 0 * kl)

    loop = partial(train_cvae, "mlp", terms=terms)
    assert waits(loop, few, 3) != waits(loop, few, 6)
