"""Bad input: refused where it comes in, in one sentence that names it; and parameters stay data."""

import ast
import copy
import dataclasses
import importlib
import math
import pkgutil
import re
import traceback
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pandas as pd
import papermill.parameterize
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from torch import nn

import sa_lib
from runs import PROJECT
from sa_lib import (
    attack_tables,
    attacks,
    audit,
    audit_attack,
    audit_command,
    audit_loss,
    audit_page,
    audit_report,
    chapter,
    checkpoints,
    checks,
    claims,
    comparison,
    controls,
    data,
    decoders,
    evaluation,
    evidence,
    experiment,
    figures,
    fisher,
    idx,
    judges,
    latent,
    measures,
    methods,
    model,
    plan,
    playground,
    probes,
    quantiles,
    recipe,
    reconstruction,
    residual,
    searches,
    stack,
    store,
    threats,
    trained,
    training,
    trials,
    unlearning,
    validation,
)
from sa_lib import images as images_module
from sa_lib import labels as labels_module
from sa_lib.book import chapter_pages, notebooks, prose
from sa_lib.book.__main__ import main
from sa_lib.checks import shorten
from sa_lib.trained import Trained

pytestmark = pytest.mark.torture

LIBRARY = Path(data.__file__).parent
MODEL = model.ModelConfig(latent_dim=2, hidden=(4, 3))
N = 20


# Bad values of arguments, by kind ---------------------------------------------------------------

anything = st.none() | st.booleans() | st.text(max_size=3) | st.just(object()) | st.just({}) | st.just(1 + 2j)
no_tensor = anything | st.integers() | st.floats() | st.just([0.5]) | st.just(np.zeros((2, 1, 28, 28)))
not_finite = st.sampled_from([math.nan, math.inf, -math.inf])


def spoiled(good, values):
    """The tensor with one of its values replaced."""
    def put(value, at):
        bad = good.clone()
        bad.view(-1)[at] = value
        return bad
    return st.builds(put, values, st.integers(0, good.numel() - 1))


def shaped(*shapes, dtype=torch.float32):
    return st.sampled_from([torch.zeros(shape, dtype=dtype) for shape in shapes])


IMAGES = torch.rand(N, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 10
ROWS = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
ROW_LABELS = torch.arange(40) % 10
NET = model.build(MODEL, 0)
OTHER = model.build(model.ModelConfig("conv", latent_dim=2, hidden=(2, 3)), 0)
DIAGONAL = {name: weight.detach().square() for name, weight in NET.named_parameters()}
SOURCE = Trained(NET, pd.DataFrame(), 0.0, "source")
TINY = data.Dataset("tiny", IMAGES, LABELS, IMAGES, LABELS, "tiny")
JUDGE = judges.Judge("A").eval()
RESIDUAL = residual.Residual(0.0, 0.0, 0.0)
WEIGHT = nn.Parameter(torch.ones(1))
LOSS = WEIGHT.square().sum()
STEPS = unlearning.UnlearningConfig(steps=2, batch=4, forget_batch=4)
SHORT = attacks.AttackConfig(steps=2, restarts=1)
BRIEF = reconstruction.SearchConfig(pool=8, starts=1, iterations=1, rounds=1)


def generator():
    return torch.Generator().manual_seed(0)


images = (no_tensor | shaped((0, 1, 28, 28), (N, 28, 28), (N, 784), (N, 3, 28, 28), (N, 1, 32, 32), ())
          | st.sampled_from([(IMAGES * 255).byte(), (IMAGES > 0.5), IMAGES * 255, IMAGES * 2 - 1,
                             IMAGES.to(torch.cfloat)])
          | spoiled(IMAGES, not_finite | st.sampled_from([-1e-3, 1.001, 255.0])))
# For functions that take images of any size: all of them but those that are wrong for their size alone.
any_images = images.filter(lambda value: not isinstance(value, torch.Tensor) or value.ndim != 4 or not value.numel()
                           or value.shape[1:] == (1, 28, 28))
labels = (no_tensor | shaped((N, 1), (), dtype=torch.long) | st.sampled_from([LABELS.float(), LABELS > 5, LABELS + 1j])
          | spoiled(LABELS, st.integers(10, 2**62) | st.integers(-2**62, -1)))
labels_each = labels | st.sampled_from([LABELS[1:], LABELS[:0]])
rows = (no_tensor | shaped((0, 4), (40,), (), (40, 4, 1), (40, 0)) | spoiled(ROWS, not_finite | st.just(1e16))
        | st.just(ROWS.long()))
errors = no_tensor | shaped((0, 4), (), (40, 4, 1), (3, 7)) | spoiled(ROWS, not_finite)
row_labels = labels | st.sampled_from([ROW_LABELS[1:], ROW_LABELS[:0]])
seed = anything | st.integers(max_value=-1) | st.integers(2**32, 2**70) | st.just(10**5000) | st.floats() | st.just("7")
count = anything | st.integers(max_value=0) | st.floats() | st.just("3") | st.just(-10**5000)
sizes = no_tensor | st.lists(count, min_size=3, max_size=3) | st.just((28, 28))
label = anything | st.integers(max_value=-1) | st.integers(min_value=10) | st.floats() | st.just("3")
rate = anything | not_finite | st.floats(max_value=-1e-9) | st.just("0.1")
classes = (label | st.sampled_from([[0.5], list(range(10)), [3, 3], {3}, LABELS[:2], np.zeros((2, 1, 28, 28))])
           | st.lists(label, min_size=1, max_size=3))
forget = classes | st.just([])
network = no_tensor | st.just(nn.Linear(2, 2)) | st.just(MODEL)
config = no_tensor | st.just(dict(steps=3)) | st.just(judges.Judge)
diagonal = (no_tensor | st.just(dict(OTHER.named_parameters()))
            | st.just({**DIAGONAL, "extra": ROWS}) | st.just({**DIAGONAL, "encoder.mean.bias": 3.0}))
trained_model = no_tensor | st.just(NET)
dataset = no_tensor | st.just("mnist")
seeded = no_tensor | st.just(0)
filled = no_tensor.filter(lambda value: not hasattr(value, "__len__") or len(value))
folder = no_tensor.filter(lambda value: not isinstance(value, str))
TABLE = pd.DataFrame({"step": [0, 1], "value": [1.0, 2.0], "low": [0.5, 1.0], "high": [1.5, 3.0]}, index=[0.1, 1.0])
PATH = pd.Series([1.0, 5.0, 3.0], index=[0.0, 0.5, 1.0])
PAIRS = TABLE.rename(columns={"step": "x", "value": "y"}).assign(value=TABLE["value"])
PAIRS.index = pd.MultiIndex.from_tuples([("one", "a"), ("one", "b")])
table = no_tensor | st.sampled_from([TABLE.iloc[:0], TABLE[["low"]].rename(columns={"low": "other"}),
                                     TABLE.astype(str)])
no_numbers = no_tensor | st.sampled_from([TABLE.iloc[:0], TABLE.astype(str)])
pairs = table | st.sampled_from([PAIRS.reset_index(drop=True), PAIRS.iloc[[0, 0]]])
not_empty = anything.filter(lambda value: value not in ("", {}))
named = filled | st.lists(anything.filter(lambda v: v is not None), min_size=1)
EVALUATED = pd.DataFrame({name: np.linspace(0, 1, 10) for name in ("probability", "gray", "accuracy", "nelbo")})
evaluated = no_tensor | st.sampled_from([EVALUATED.iloc[:0], EVALUATED.iloc[:5], EVALUATED[["nelbo"]].astype(str)])
json_values = (filled
               | st.sampled_from([{"x": object()}, {"x": ROWS}, {"x": {1, 2}}, {("x",): 1}, {1: 2, "x": 3}]))
tensors = (filled
           | st.sampled_from([{1: ROWS}, {"w": 1.0}, {"w": np.zeros(3)}, {"__metadata__": ROWS},
                              {"w": ROWS.to_sparse()}, {"w": torch.zeros(2, device="meta")}]))
path_only = no_tensor | st.just("a text")


def played():
    """The arguments of `playground.export`: two untrained models, and every attack on them."""
    models = {name: Trained(NET, pd.DataFrame(), 0.0, name) for name in ("baseline", "forgot 9")}
    results = {(threat, 9, name): attacks.attack(NET, attacks.squared_error(IMAGES[:3]), 9, 3, attacks.THREATS[threat],
                                                 SHORT)
               for threat in ("z in the prior", *playground.THREATS) for name in models}
    return dict(models=models, judge=judges.Judge("B").eval(), dataset=TINY, forget=[9], attacks=results, config=BRIEF)


PLAYED = played()
CELLS = evidence.read()
TIDY = evidence.tidy(CELLS).loc["mnist", "mlp"]


def loss(step):
    return next(NET.parameters()).sum(), {}


# Every public function: the arguments of a good call, and the bad values of each argument.
CALLS = {
    data.load: (dict(name="digits"), dict(name=no_tensor)),
    data.own_digest: (dict(name="digits"), dict(name=no_tensor)),
    model.build: (dict(config=MODEL, seed=0), dict(config=config, seed=seed)),
    model.CVAE: (dict(config=MODEL), dict(config=config)),
    labels_module.check_label: (dict(label=3, classes=4), dict(label=label | st.just(4))),
    labels_module.check_labels: (dict(labels=LABELS, count=N), dict(labels=labels_each)),
    labels_module.one_hot: (dict(labels=LABELS, classes=10), dict(labels=labels)),
    labels_module.forget_set: (dict(forget=4, classes=5), dict(forget=forget | st.just(5))),
    labels_module.retain_set: (dict(forget=[4], classes=5), dict(forget=classes | st.just([5]))),
    model.ModelConfig: (
        dict(architecture="mlp", latent_dim=2, hidden=(4, 3)),
        dict(architecture=no_tensor, latent_dim=count | st.just(65537), hidden=no_tensor | st.lists(count),
             classes=count | st.sampled_from([1, 65537]), image_shape=sizes)),
    training.TrainingConfig: (dict(epochs=1, batch=1, peak_lr=0.1), dict(epochs=count, batch=count, peak_lr=rate)),
    training.train_cvae: (
        dict(model=copy.deepcopy(NET), images=IMAGES, labels=LABELS, seed=0, config=training.TrainingConfig(1, 8)),
        dict(model=network, images=images, labels=labels_each, config=config, seed=seed)),
    trained.given: (dict(net=NET), dict(net=network)),
    trained.cvae: (
        dict(dataset=TINY, model_config=MODEL, config=training.TrainingConfig(1, 8), seed=0),
        dict(dataset=dataset, model_config=config, config=config, seed=seed, without=classes)),
    training.minimize: (
        dict(parameters=[nn.Parameter(torch.ones(1))], loss=loss, steps=1, peak_lr=0.1, title="t", log_every=1),
        dict(steps=count, peak_lr=rate, log_every=count)),
    fisher.fisher_diagonal: (
        dict(model=NET, images=IMAGES, labels=LABELS, noise=ROWS[:N, :2], batch=8),
        dict(model=network, images=images, labels=labels_each, batch=count,
             noise=rows | st.just(ROWS[:N]) | st.just(ROWS[:3, :2]))),
    fisher.fisher_by_class: (
        dict(model=NET, images=IMAGES, labels=LABELS, noise=ROWS[:N, :2]),
        dict(model=network, images=images, labels=labels_each, noise=rows | st.just(ROWS[:N]) | st.just(ROWS[:3, :2]))),
    fisher.combine: (
        dict(fishers={3: DIAGONAL}, weights={3: 1.0}),
        dict(fishers=no_tensor, weights=no_tensor | st.builds(lambda w: {3: w}, rate | st.just(0)) | st.just({4: 1}))),
    fisher.sampled_fisher_diagonal: (
        dict(model=NET, labels=LABELS, generator=generator(), batch=8),
        dict(model=network, labels=labels | st.just(LABELS[:0]), generator=seeded, batch=count)),
    # Its good calls are in test_fisher.py.
    fisher.squared_gradients: (
        dict(model=nn.Linear(2, 1), losses=lambda: pytest.fail("it was run")),
        dict(model=no_tensor)),
    unlearning.UnlearningConfig: (
        dict(),
        dict(steps=count, batch=count, forget_batch=count, peak_lr=rate, real=rate, ewc=rate,
             salient=rate | st.sampled_from([0.0, 1.5]), fresh=rate | st.just(1.5))),
    unlearning.unlearn: (
        # A method checks only the images that it uses; with `salient` below 1 it uses all.
        dict(model=copy.deepcopy(NET), images=IMAGES, labels=LABELS, forget=9, fisher=DIAGONAL, seed=0,
             config=dataclasses.replace(STEPS, salient=0.9), loss=methods.ewc_gray),
        dict(model=network, images=images, labels=labels_each, forget=forget, fisher=diagonal, config=config, seed=seed,
             push=forget.filter(lambda v: v is not None) | st.just([3]), anchor=st.just(OTHER))),
    unlearning.push_set: (
        dict(forget=(9, 2), push=9),
        dict(push=forget.filter(lambda v: v is not None) | st.just([3]))),
    trained.fishers: (
        dict(source=SOURCE, dataset=TINY, seed=0),
        dict(source=trained_model, dataset=dataset, seed=seed)),
    trained.own_fisher: (
        dict(source=SOURCE, seed=0),
        dict(source=trained_model, seed=seed)),
    trained.retain_fisher: (
        dict(source=SOURCE, dataset=TINY, forget=[9], seed=0),
        dict(source=trained_model, dataset=dataset, forget=classes, seed=seed)),
    trained.unlearned: (
        dict(source=SOURCE, dataset=TINY, forget=9, protect=DIAGONAL, config=STEPS, seed=0),
        dict(source=trained_model, dataset=dataset, forget=forget, protect=diagonal, config=config, seed=seed,
             push=forget.filter(lambda v: v is not None), anchor=trained_model.filter(lambda v: v is not None))),
    trained.forgotten: (
        dict(source=SOURCE, dataset=TINY, forget=[9],
             method=methods.Method(methods.fine_tune, dataclasses.replace(STEPS, ewc=0.0))),
        dict(source=trained_model, dataset=dataset, forget=forget, method=config, seed=seed)),
    trained.sequence: (
        dict(source=SOURCE, dataset=TINY, forget=[9, 2], config=STEPS, seed=0),
        dict(source=trained_model, dataset=dataset, forget=forget, config=config, seed=seed)),
    trained.never_saw: (
        dict(dataset=TINY, forget=[9], model_config=MODEL, config=STEPS, training_config=training.TrainingConfig(1, 8)),
        dict(dataset=dataset, forget=forget, model_config=config, training_config=config, config=config, rounds=count,
             seed=seed)),
    evaluation.prior_samples: (dict(model=NET, labels=LABELS, seed=0), dict(model=network, labels=labels, seed=seed)),
    evaluation.class_probability: (
        dict(model=NET, judge=JUDGE, label=9, samples=3),
        dict(model=network, judge=network, label=label, samples=count, seed=seed)),
    evaluation.negative_elbo: (
        dict(model=NET, images=IMAGES, labels=LABELS, seed=0, draws=1),
        dict(model=network, images=images, labels=labels_each, seed=seed, draws=count)),
    evaluation.evaluate: (
        dict(model=NET,
             dataset=dataclasses.replace(TINY, test_images=IMAGES.repeat(3, 1, 1, 1), test_labels=LABELS.repeat(3)),
             judge=JUDGE, features=None, samples=6),
        dict(model=network, dataset=dataset, judge=network, features=network.filter(lambda v: v is not None), seed=seed,
             samples=count | st.integers(1, 5))),
    evaluation.retained_means: (
        dict(table=pd.DataFrame({"a": range(10)}), forget=[9]),
        dict(table=no_tensor | st.just(pd.DataFrame({"a": range(9)}, index=range(1, 10))), forget=classes)),
    evaluation.summary: (
        dict(tables={"one": EVALUATED, "two": EVALUATED}, forget=9, reference="one"),
        dict(tables=no_tensor | st.builds(lambda table: {"one": table}, evaluated), forget=forget,
             reference=no_tensor)),
    evaluation.rehearsal: (
        dict(logs={"one": TABLE.assign(real=1.0)}),
        dict(logs=filled | st.builds(lambda log: {"one": log}, no_tensor | st.just(TABLE.iloc[:0])))),
    evaluation.relapse: (
        dict(tables=[EVALUATED, EVALUATED], forget=9),
        dict(tables=no_tensor | st.builds(lambda table: [EVALUATED, table], evaluated) | st.just([EVALUATED] * 3),
             forget=forget)),
    evaluation.answers: (
        dict(judge=judges.Judge("B").eval(), images={"some": IMAGES}),
        dict(judge=network, images=filled | st.builds(lambda one: {"some": one}, images))),
    evaluation.fidelity: (
        dict(real=ROWS, fake=ROWS + 1, neighbors=3),
        dict(real=rows, fake=rows, neighbors=count | st.just(40))),
    evaluation.frechet_distance: (
        dict(real=ROWS, fake=ROWS + 1),
        dict(real=rows | st.just(ROWS[:1]), fake=rows | st.just(ROWS[:, :3]))),
    evaluation.expected_calibration_error: (
        dict(probabilities=IMAGES[:, 0, 0, :10], labels=LABELS),
        dict(probabilities=rows | st.just(ROWS[:N] * 9), labels=labels_each)),
    judges.JudgeConfig: (dict(name="A"), dict(name=no_tensor, epochs=count, batch=count, peak_lr=rate, held_out=count)),
    judges.Judge: (
        dict(name="A", classes=3, image_shape=(3, 9, 8)),
        dict(name=no_tensor, classes=count | st.just(1), image_shape=sizes | st.just((3, 9, 3)))),
    judges.Judge.probabilities: (dict(self=JUDGE, images=IMAGES, batch=7), dict(images=images, batch=count)),
    trained.judge: (
        dict(dataset=TINY, config=judges.JudgeConfig("features", epochs=1, batch=16)),
        dict(dataset=dataset, config=config, seed=seed)),
    attacks.AttackConfig: (dict(), dict(steps=count, restarts=count, lr=rate)),
    attacks.Threat: (dict(z="free", y="free"), dict(z=no_tensor, y=no_tensor)),
    attacks.squared_error: (dict(targets=IMAGES), dict(targets=any_images)),
    attacks.unlike: (dict(judge=JUDGE, label=9), dict(judge=network, label=label)),
    attacks.prior_radius: (
        dict(latent_dim=2, share=0.5),
        dict(latent_dim=count, share=rate | st.sampled_from([0.0, 1.0, 2.0]))),
    attacks.attack: (
        dict(model=NET, loss=attacks.squared_error(IMAGES), label=9, count=N, threat=attacks.Threat("free", "free"),
             config=SHORT, seed=0),
        dict(model=network, label=label, count=count, threat=no_tensor, config=config, seed=seed)),
    trained.reconstruction: (
        dict(source=SOURCE, targets=IMAGES, label=9, threat=attacks.Threat("free", "free"), config=BRIEF),
        dict(source=trained_model, targets=images, label=label, threat=no_tensor, config=config, seed=seed)),
    trained.shortfall: (
        dict(source=SOURCE, targets=IMAGES, label=9, threat=attacks.Threat("free", "free"), config=BRIEF),
        dict(source=trained_model, targets=images, label=label, threat=no_tensor, config=config, seed=seed)),
    trained.mended: (
        dict(source=SOURCE, dataset=TINY, forget=9, config=unlearning.UnlearningConfig(steps=1, batch=4)),
        dict(source=trained_model, dataset=dataset, forget=classes, config=config, seed=seed)),
    reconstruction.SearchConfig: (dict(), dict(pool=count, starts=count, iterations=count, rounds=count)),
    reconstruction.reconstruct: (
        dict(model=NET, targets=IMAGES, label=9, threat=attacks.Threat("free", "free"), config=BRIEF),
        dict(model=network, targets=images, label=label, threat=no_tensor, config=config, seed=seed,
             weaker=no_tensor.filter(lambda v: v is not None))),
    data.held_out: (dict(dataset=TINY, label=9, count=2), dict(dataset=dataset, label=label, count=count, seed=seed)),
    data.training_sample: (
        dict(dataset=TINY, label=9, count=2), dict(dataset=dataset, label=label, count=count, seed=seed)),
    validation.read: (dict(), dict(path=folder)),
    validation.read_probes: (dict(), dict(path=folder)),
    validation.errors: (dict(table=validation.read()), dict(table=table | st.just(TABLE))),
    validation.with_few: (
        dict(dataset=TINY, label=9, count=1),
        dict(dataset=dataset, label=label, count=no_tensor | st.sampled_from([-1, 10**6, 1.5]), seed=seed)),
    validation.hidden: (dict(dataset=TINY, label=9, behind=3), dict(dataset=dataset, label=label, behind=label)),
    validation.behind_mixture: (
        dict(model=NET, label=9, other=3), dict(model=network, label=label, other=label)),
    validation.behind_rotation: (dict(model=NET), dict(model=network, seed=seed)),
    attacks.nearest_distance: (dict(images=IMAGES, real=IMAGES), dict(images=any_images, real=images)),
    attacks.score: (
        dict(result=attacks.attack(NET, attacks.squared_error(IMAGES), 9, N, attacks.Threat("drawn", "label"), SHORT),
             judge=JUDGE, label=9, real=IMAGES),
        dict(result=no_tensor, judge=network, label=label, real=images)),
    residual.residual_knowledge: (
        dict(never=ROWS + 9, unlearned=ROWS[0] + 8, baseline=ROWS[0] + 1, pooled=(1.0, 3)),
        dict(never=errors, unlearned=errors, baseline=errors, pooled=st.sampled_from([(0, 1), (1.0,), [1.0, 2], 3]))),
    residual.verdict: (dict(residual=RESIDUAL, margin=0.1), dict(residual=no_tensor, margin=rate)),
    residual.wording: (dict(residual=RESIDUAL, margin=0.1), dict(residual=no_tensor, margin=rate)),
    residual.is_equivalent: (dict(residual=RESIDUAL, margin=0.1), dict(residual=no_tensor, margin=rate)),
    residual.both: (
        dict(as_is=RESIDUAL, mended=RESIDUAL, margin=0.1), dict(as_is=no_tensor, mended=no_tensor, margin=rate)),
    residual.seeds_needed: (
        dict(residual=RESIDUAL, margin=0.1, power=0.9),
        dict(residual=no_tensor, margin=rate, power=st.sampled_from([-1.0, 0.0, 1.0, math.nan]))),
    residual.power: (dict(residual=RESIDUAL, margin=0.1), dict(residual=no_tensor, margin=rate)),
    residual.pooled_spread: (dict(never=[ROWS]), dict(never=no_tensor | st.just([ROWS[:1]]))),
    attacks.relearn: (
        dict(model=NET, images=IMAGES, label=9, judge=JUDGE, steps=2, every=1, samples=3),
        dict(model=network, images=images, label=label, judge=network, steps=count, batch=count, every=count,
             samples=count, lr=rate, seed=seed, sees=label.filter(lambda v: v is not None))),
    probes.quantized: (dict(model=NET, bits=4), dict(model=network, bits=count | st.sampled_from([1, 9, 2**70]))),
    probes.pruned: (dict(model=NET, share=0.5), dict(model=network, share=rate | st.sampled_from([1.001, 2]))),
    probes.path: (
        dict(first=NET, second=model.build(MODEL, 1), images=IMAGES, labels=LABELS, points=3, draws=1),
        dict(first=network, second=network | st.just(OTHER), images=images, labels=labels_each,
             points=count | st.sampled_from([1, 2]), draws=count, seed=seed)),
    probes.barrier: (
        dict(losses=PATH),
        dict(losses=no_tensor | st.sampled_from([TABLE, PATH[:0], PATH[:1], PATH[1:], PATH[::-1], PATH.astype(str)])
             | st.builds(lambda value: PATH.replace(5.0, value), not_finite))),
    probes.membership: (
        dict(model=NET, members=IMAGES[:9], others=IMAGES[9:], label=9, draws=1),
        dict(model=network, members=images | st.just(IMAGES[:1]), others=images | st.just(IMAGES[:1]), label=label,
             draws=count, seed=seed)),
    probes.plasticity: (
        dict(model=NET, images=IMAGES, label=9, sees=3, judge=JUDGE, steps=2, every=1, samples=3),
        dict(model=network, images=images, label=label, sees=label | st.just(9), judge=network, steps=count,
             batch=count, every=count, samples=count, lr=rate, seed=seed)),
    latent.neutral: (dict(count=2, classes=3), dict(count=count, classes=count)),
    latent.activations: (
        dict(model=NET, images=IMAGES, y=latent.neutral(N), batch=7),
        dict(model=network, images=images, y=rows | st.just(latent.neutral(3)), batch=count)),
    latent.probe_recall: (
        dict(train=ROWS, train_labels=ROW_LABELS, test=ROWS, test_labels=ROW_LABELS),
        dict(train=rows, train_labels=row_labels | st.just(ROW_LABELS * 0), test=rows | st.just(ROWS[:, 1:]),
             test_labels=row_labels)),
    latent.knn_recall: (
        dict(train=ROWS, train_labels=ROW_LABELS, test=ROWS, test_labels=ROW_LABELS, neighbors=2),
        dict(train=rows, train_labels=row_labels, test=rows, test_labels=row_labels, neighbors=count | st.just(41))),
    latent.layer_recall: (
        dict(train={"mean": ROWS}, train_labels=ROW_LABELS, test={"mean": ROWS}, test_labels=ROW_LABELS),
        dict(train=filled | st.builds(lambda one: {"mean": one}, rows), train_labels=row_labels,
             test=filled | st.builds(lambda one: {"mean": one}, rows) | st.just({"other": ROWS}),
             test_labels=row_labels)),
    latent.layer_cka: (
        dict(first={"mean": ROWS}, second={"mean": ROWS}, rows=torch.arange(9)),
        dict(first=filled | st.builds(lambda one: {"mean": one}, rows),
             second=filled | st.builds(lambda one: {"mean": one}, rows) | st.just({"other": ROWS}),
             rows=no_tensor | st.sampled_from([ROWS, torch.arange(41), torch.arange(-3, 3), ROW_LABELS > 5]))),
    latent.silhouette: (
        dict(values=ROWS, labels=ROW_LABELS),
        dict(values=rows, labels=row_labels | st.just(ROW_LABELS * 0))),
    latent.class_distances: (dict(values=ROWS, labels=ROW_LABELS), dict(values=rows, labels=row_labels)),
    latent.linear_cka: (dict(first=ROWS, second=ROWS), dict(first=rows | st.just(ROWS[1:]), second=rows)),
    latent.joint_tsne: (
        dict(encodings=[ROWS, ROWS + 1]),
        dict(encodings=no_tensor | st.lists(rows, min_size=1, max_size=2) | st.just([ROWS[:30]]), seed=seed)),
    latent.weight_changes: (
        dict(before=NET, after=model.build(MODEL, 1), fisher=DIAGONAL),
        dict(before=network | st.just(OTHER), after=network | st.just(OTHER), fisher=diagonal)),
    figures.image_grid: (
        dict(images=IMAGES.view(4, 5, 28, 28), rows=range(4), columns=list("abcde"), marked=[1]),
        dict(images=no_tensor | shaped((N, 784), (28, 28), (0, 5, 28, 28), (2, 3, 4, 28, 28))
             | spoiled(IMAGES.view(4, 5, 28, 28), not_finite | st.sampled_from([-1e-3, 1.001])),
             rows=not_empty | st.just(["one"]), columns=not_empty | st.just(range(4)),
             marked=named | st.just([4]))),
    figures.curves: (
        dict(log=TABLE, names=["value"], suffixes={"": "nats"}),
        dict(log=table, names=named, suffixes=no_tensor, logarithmic=st.sampled_from([1, "yes", None]))),
    figures.concentration: (
        dict(fisher=DIAGONAL, share=0.5),
        dict(fisher=no_tensor | st.sampled_from([{}, {"weight": 3.0}, {"weight": -ROWS.abs()}]),
             share=st.sampled_from([0.0, 1.0, -0.5, float("nan"), "half"]))),
    figures.plane: (
        dict(tables={"one": TABLE.rename(columns={"step": "x", "value": "y"})}, x="gray", y="nats", corner=(0.5, 0.5),
             name="λ"),
        dict(tables=no_tensor | st.builds(lambda t: {"one": t}, table),
             corner=no_tensor | st.sampled_from([(1.0,), (1.0, -1.0), [1.0, 1.0]]))),
    figures.confusion: (dict(table=TABLE), dict(table=no_numbers)),
    figures.matrices: (
        dict(tables={"one": TABLE, "two": TABLE}, formats={"one": ".1f", "two": ".2f"}, marked={0.1: [1]}),
        dict(tables=no_tensor | st.builds(lambda t: {"one": t}, no_numbers) | st.just({"one": TABLE, "two": TABLE.T}),
             formats=no_tensor | st.just({"one": ".1f"}),
             marked=filled | st.sampled_from([{0.5: [1]}, {0.1: [4]}, {0.1: 1}]),
             scale=filled.filter(lambda value: value is not None)
             | st.sampled_from([(1.0, 0.0), (0.0,), (0.0, float("nan")), ("0", "1")]))),
    figures.embedding: (
        dict(points={"one": ROWS[:, :2], "two": ROWS[:, 1:3]}, labels=ROW_LABELS, marked=[3]),
        dict(points=no_tensor | st.builds(lambda v: {"one": v, "two": v}, rows | st.just(ROWS))
             | st.just({"one": ROWS[:, :2]}), labels=row_labels,
             marked=named | st.just([10]))),
    figures.lines: (
        dict(tables={"one": TABLE}, panels={"value": "nats"}, x="λ", scale="symlog", bounds={"value": 1.0},
             logarithmic=["value"]),
        dict(tables=no_tensor | st.builds(lambda t: {"one": t}, table), panels=no_tensor, scale=no_tensor,
             bounds=filled, logarithmic=named, colors=st.sampled_from(["red", {"two": (0.0, 0.0, 0.0)}, {}]))),
    figures.intervals: (
        dict(table=PAIRS, x="rho", levels=[0.0]),
        dict(table=pairs | st.just(PAIRS.assign(low=9.0)), margin=st.sampled_from([-1.0, float("inf"), "wide"]))),
    figures.tradeoff: (dict(table=PAIRS, x="rho", y="nats"),
                       dict(table=pairs, colors=st.sampled_from(["red", {"two": (0.0, 0.0, 0.0)}, {}]))),
    playground.export: (
        dict(folder="played", **PLAYED),
        dict(folder=folder, models=no_tensor | st.sampled_from([{"one": SOURCE}, {"one": NET, "two": NET}]),
             judge=network, dataset=dataset, forget=forget, config=config,
             attacks=no_tensor | st.sampled_from([dict(list(PLAYED["attacks"].items())[1:]),
                                                  dict.fromkeys(PLAYED["attacks"], ROWS)]))),
    store.tensor_digest: (dict(tensors={"w": ROWS}), dict(tensors=tensors)),
    store.fingerprint: (
        dict(values={"loss": LOSS}, weights=[WEIGHT]),
        dict(values=filled
             | st.sampled_from([{"loss": 1.0}, {"loss": ROWS}, {"loss": LOSS.detach()}]),
             weights=no_tensor | st.just([ROWS]))),
    store.save: (
        dict(path="saved", tensors={"w": ROWS}, info={"seconds": 1.0}),
        dict(path=folder, tensors=tensors, info=json_values)),
    # Its good calls are in test_store.py.
    store.load: (dict(path="saved"), dict(path=folder)),
    store.kept: (dict(name="saved"), dict(name=folder)),
    store.get_or_make: (
        dict(kind="cvae", recipe={"seed": 0}, make=lambda: ({"w": ROWS}, {})),
        dict(kind=folder | st.sampled_from(["../x", "a/b", "/x", ".", ""]), make=no_tensor,
             recipe=json_values | st.sampled_from([{"x": math.nan}, {"x": [math.inf]}]))),
    store.part: (
        dict(kind="cvae", recipe={"seed": 0}),
        dict(kind=folder | st.sampled_from(["../x", "a/b"]), recipe=json_values)),
    store.Part.save: (
        dict(self=store.Part(Path("part")), tensors={"w": ROWS}, info={"seconds": 1.0}),
        dict(tensors=tensors, info=json_values)),
    checkpoints.save_model: (
        dict(path="saved", model=NET, info={"note": "x"}),
        dict(path=folder, model=network, info=json_values.filter(lambda value: value is not None))),
    # Their good calls are in test_checkpoints.py.
    checkpoints.load_model: (dict(path="saved"), dict(path=folder)),
    checkpoints.read_model: (dict(path="saved"), dict(path=folder)),
    checkpoints.import_official: (dict(path="saved"), dict(path=folder)),
    controls.pack: (
        dict(path=Path("controls.zip"), label=3, baseline=NET, never={0: NET}, sheet="# Threes"),
        dict(path=path_only, label=label, baseline=network, never=no_tensor | st.just({0: ROWS}), sheet=folder)),
    # Its good calls are in test_controls.py.
    controls.read: (dict(address="controls.zip#sha256=0", label=3), dict(address=folder)),
    evidence.read: (dict(), dict(path=folder)),
    evidence.read_table: (
        dict(path=evidence.RESULTS / "validation.csv", made="make it"),
        dict(path=folder, made=st.integers())),
    evidence.tidy: (dict(table=CELLS), dict(table=table)),
    evidence.split: (dict(table=CELLS), dict(table=table)),
    evidence.overview: (dict(table=CELLS), dict(table=table)),
    evidence.origin: (dict(table=CELLS), dict(table=table)),
    evidence.failures: (dict(table=CELLS), dict(table=table)),
    evidence.complete: (dict(rows=TIDY, names=["unseen"]), dict(rows=table, names=named)),
    evidence.estimate: (
        dict(values=[1.0, 2.0], scale=2.0),
        dict(values=anything.filter(lambda value: value != "") | st.sampled_from([[math.nan], [1.0, math.inf]]),
             scale=anything.filter(lambda value: not isinstance(value, bool)))),
    evidence.residual: (
        dict(rows=TIDY, model="unseen", forget=9, condition="y free"),
        dict(rows=table, model=no_tensor, forget=anything | st.integers(max_value=-1) | st.integers(min_value=10),
             condition=no_tensor)),
    residual.interval: (
        dict(values=[1.0, 2.0]),
        dict(values=anything | st.integers() | st.sampled_from([[], [math.nan], [1.0, math.inf], np.zeros((2, 1))]))),
    evidence.overall: (
        dict(rows=TIDY, model="unseen", condition="y free"), dict(rows=table, model=no_tensor, condition=no_tensor)),
    evidence.conditions: (dict(rows=TIDY), dict(rows=table)),
    evidence.by_seed: (dict(values=TIDY["nelbo"].xs("unseen", level="model")), dict(values=no_tensor)),
    evidence.differences: (
        dict(rows=TIDY, measure="nelbo", model="unseen", other="baseline"),
        dict(rows=table, measure=no_tensor, model=no_tensor, other=no_tensor)),
    chapter.say: (dict(template="{x:.1f}", x=1.0), dict(template=folder, x=not_finite | st.just(object()))),
    chapter.show_figure: (
        dict(figure=Figure(), caption="It rises.", alt="a line"),
        dict(figure=no_tensor, caption=folder | st.just(" "), alt=folder | st.just(""))),
    chapter.show_table: (
        dict(frame=TABLE, caption="Numbers.", formats={"low": "{:.1f}"}),
        dict(frame=table.filter(lambda value: not isinstance(value, pd.DataFrame) or value.empty), caption=folder,
             formats=filled.filter(lambda value: value is not None) | st.just({"other": "{}"}))),
    chapter.write_metrics: (
        dict(run_dir="run", chapter="01_baseline", metrics={"x": 1.0}),
        dict(run_dir=folder, chapter=folder | st.sampled_from(["../x", "a/b", ""]),
             metrics=st.sampled_from([{"x": math.nan}, {"x": object()}, {"x": {1}}]))),
    # Its good calls are in test_chapter.py.
    chapter.read_metrics: (
        dict(run_dir="run", chapter="01_baseline"),
        dict(run_dir=folder, chapter=folder | st.sampled_from(["../x", "a/b", ""]))),
    store.pack: (
        dict(names=[], path=Path("models.zip")),
        dict(names=filled | st.sampled_from(
            [["../../etc/passwd"], ["cvae/x.safetensors"], ["/cvae/0123456789abcdef01234567.safetensors"]]),
             path=path_only)),
    measures.write: (dict(name="gray", value=0.1), dict(name=folder | st.just("other"))),
    measures.listing: (
        dict(name="gray", values={"one": 0.1}),
        dict(name=folder | st.just("other"), values=filled)),
    measures.before_after: (
        dict(before=EVALUATED, after=EVALUATED, names=["gray"]),
        dict(before=no_tensor, after=no_tensor, names=named)),
}
# Functions without arguments of a user, functions that others check for, and tests of bad input in other files.
ELSEWHERE = {
    data.Dataset: "load makes it", Trained: "trained.cvae makes it",
    labels_module.select: "retain_set", model.copy_of: "unlearn", model.device: "it has no arguments",
    training.batches: "minimize", training.Checkpoint: "minimize", training.new_cvae: "trained.cvae",
    training.start_at_mean: "trained.cvae", training.check_fits: "trained.cvae",
    fisher.dataset_fishers: "trained.fishers", fisher.own_fisher: "trained.own_fisher",
    judges.new_judge: "trained.judge", judges.train_judge: "trained.judge",
    **dict.fromkeys((unlearning.batch_of, unlearning.draws, unlearning.labeled, unlearning.refresh,
                     unlearning.salient_masks), "unlearn"),
    **dict.fromkeys((reconstruction.Problem, reconstruction.search, reconstruction.check_attack,
                     reconstruction.random_unknowns, reconstruction.by_each), "reconstruct"),
    unlearning.Batch: "unlearn makes it", unlearning.unlearned_copy: "trained.unlearned",
    methods.distance_to_gray: "a loss, which makes no GPU wait", methods.Method: "trained.forgotten",
    recipe.train: "test_recipe.py", trained.recipe_cvae: "recipe.train", trained.recipe_forgotten: "recipe.forget",
    recipe.forget: "test_recipe.py", recipe.fisher_of_batch_means: "test_recipe.py",
    recipe.RecipeConfig: "test_recipe.py", methods.surgery: "unlearn", unlearning.gradients: "unlearn",
    methods.ewc_penalty: "unlearn", **{method.loss: "unlearn" for method in methods.METHODS.values()},
    attacks.AttackResult: "attack makes it", threats.Decodes: "a protocol", attacks.decoded: "attack",
    residual.Residual: "residual_knowledge makes it",
    figures.in_book_style: "a decorator",
    store.Artifact: "get_or_make makes it", store.Part: "part makes it", store.code_digest: "modules, not values",
    store.cache_root: "it has no arguments", store.expanded: "validate",
    **dict.fromkeys((store.code_text, store.file_digest, store.text_digest, store.write_atomically), "the store"),
    chapter.show_markdown: "say", measures.Measure: "MEASURES", measures.label: "any name is allowed",
    chapter.part: "its title is typed by the author of a chapter", evidence.Estimate: "estimate makes it",
    evidence.check_cells: "a check", evidence.check_columns: "a check", evidence.check_rows: "a check",
    # For every chapter, below.
    experiment.Parameters: "validate makes it", experiment.Profile: "PROFILES", experiment.validate: "below",
}
# Modules whose functions have tests of their own: the checks, the tables on the pages of chapters, and audits.
TESTED_ALONE = (checks, attack_tables, claims, comparison, sa_lib.settings, audit, audit_attack, audit_command,
                audit_loss, audit_page, audit_report, decoders, images_module, idx, plan, quantiles, searches, stack,
                trials)


def sentence(error):
    """The message of an error: one short line, from a `raise` statement of the library."""
    message, last = str(error), traceback.extract_tb(error.__traceback__)[-1]
    assert LIBRARY in Path(last.filename).parents, f"{last.filename}: {error!r}"
    source = Path(last.filename).read_text().splitlines()[last.lineno - 1]
    assert source.strip().startswith("raise "), f"{source}: {error!r}"
    assert message
    assert "\n" not in message, message
    assert len(message) < 500, message
    return message


def test_every_public_function_is_here():
    # The functions in sa_lib.book run a book or a sweep, and have errors of their own.
    modules = [importlib.import_module(f"sa_lib.{module.name}") for module in pkgutil.iter_modules(sa_lib.__path__)
               if module.name not in ("book", "results")]
    public = {getattr(module, name) for module in modules if module not in TESTED_ALONE for name in module.__all__
              if callable(getattr(module, name))}
    public = {thing for thing in public if getattr(thing, "__module__", "").startswith("sa_lib")}
    assert public == (CALLS.keys() | ELSEWHERE.keys()) - {judges.Judge.probabilities, store.Part.save}


# Other names that a message may have for an argument.
ALIASES = {"name": "dataset|name", **dict.fromkeys(("training_config", "model_config"), "config"),
           "fishers": "weights", "tables": "tables|table"}
BAD = [(function, name) for function, (_, bad) in CALLS.items() for name in bad]
READERS = (fisher.squared_gradients, store.load, store.kept, checkpoints.load_model, checkpoints.read_model,
           checkpoints.import_official, controls.read, chapter.read_metrics)
GOOD = [function for function in CALLS if function not in READERS]


def called(function, name=""):
    return f"{function.__module__.partition('.')[2]}.{function.__qualname__}{name and '-'}{name}"


@pytest.mark.parametrize("function", GOOD, ids=called)
def test_the_good_call_succeeds(function, tmp_path, monkeypatch):
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    function(**CALLS[function][0])


@pytest.mark.parametrize("function, name", BAD, ids=[called(*pair) for pair in BAD])
def test_bad_input_is_refused_in_one_sentence_that_names_it(function, name, amount, tally, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a missing refusal must not write into the checkout
    good, bad = CALLS[function]

    @settings(max_examples=amount(5, 300), deadline=None, database=None, derandomize=not amount(0, 1),
              suppress_health_check=list(HealthCheck))
    @given(bad[name])
    def refuse(value):
        with pytest.raises((ValueError, TypeError)) as caught:
            function(**{**good, name: value})
        message = sentence(caught.value)
        assert re.search(rf"\b({name}|{ALIASES.get(name, name)})\b", message), message

    refuse()
    tally["bad arguments refused"] += amount(5, 300)


def test_the_message_of_a_divergence_has_the_step_and_the_rate_to_lower(tmp_path, monkeypatch, tally):
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    rates = {"train CVAE": lambda: trained.cvae(TINY, MODEL, training.TrainingConfig(60, 8, 1e30)),
             "forget 9": lambda: trained.unlearned(
                 SOURCE, TINY, 9, DIAGONAL, dataclasses.replace(STEPS, steps=60, peak_lr=1e30)),
             "train judge features": lambda: trained.judge(TINY, judges.JudgeConfig("features", 60, 8, 1e30)),
             "attack": lambda: attacks.attack(NET, lambda x: (x.flatten(2).sum(2) * 1e30) ** 9, 9, 3,
                                              attacks.Threat("free", "free"), attacks.AttackConfig(9, 1, 1e30)),
             "relearn": lambda: attacks.relearn(NET, IMAGES, 9, JUDGE, steps=60, every=20, samples=3, lr=1e30)}
    for title, diverge in rates.items():
        with pytest.raises(FloatingPointError) as caught:
            diverge()
        message = sentence(caught.value)
        assert message.startswith(f"{title}: ")
        assert re.search(r"step \d+|\d+ steps", message), message
        assert re.search(r"lower the learning rate \((peak_)?lr=1e\+30\)", message), message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "nothing is kept"
    tally["divergences stopped"] += len(rates)


# Chapters -----------------------------------------------------------------------------------

CHAPTERS = {name: jupytext.read(PROJECT / "notebooks" / f"{name}.py", fmt="py:percent")
            for name in notebooks.chapters(PROJECT)}


def tagged(name):
    """The cell of a chapter's parameters, and its call of `experiment.validate`; nothing else of it is run."""
    cells = CHAPTERS[name].cells
    declared, = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    call, = [ast.get_source_segment(cell.source, node) for cell in cells if "experiment.validate(" in cell.source
             for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)
             and ast.unparse(node.func) == "experiment.validate"]
    return declared, call


def values(name):
    space = {}
    exec(tagged(name)[0], space)
    return {key: value for key, value in space.items() if not key.startswith("__")}


def validated(name, **given):
    return eval(tagged(name)[1], {"experiment": experiment, **values(name), **given})


text = st.text(max_size=40) | st.sampled_from([
    "'); import os; os._exit(3) #", '"); import os; os._exit(3) #', "\\", "\\'", "\n# %%\nimport os",
    "{{01_baseline.nll}}", "{download}`x <../../../etc/passwd>`", "<script>alert(1)</script>", "```{raw} html\n",
    "${HOME}", "%run x", "!ls", "\u2028", "\0"])
plain = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | text,
                     lambda inner: (st.lists(inner, max_size=4)
                                    | st.dictionaries(st.text(max_size=5), inner, max_size=3)),
                     max_leaves=8)


@pytest.mark.parametrize("name", [name for name in CHAPTERS if name != "10_one_page"])  # which has no library
def test_a_chapter_takes_a_parameter_as_it_is_or_refuses_it(name, amount, tally):
    assert isinstance(validated(name), experiment.Parameters)
    declared = sorted(values(name))

    @settings(max_examples=amount(15, 1500), deadline=None, database=None, derandomize=not amount(0, 1))
    @given(st.sampled_from(declared), plain | st.builds(lambda text: [text], text) | st.just(10**5000))
    def refuse(key, value):
        try:
            run = validated(name, **{key: value})
        except ValueError as error:
            message = sentence(error)
            assert message.startswith(f"{key} must be ")
            assert f", got {shorten(value)}" in message
            return
        if key == "run_dir":
            assert run.run_dir == Path(value)
        elif key in ("dataset", "seed", "profile", "architecture", "longest"):
            assert getattr(run, key) == value
            assert type(getattr(run, key)) is type(value)

    refuse()
    tally["chapter parameters tried"] += amount(15, 1500)


@pytest.mark.parametrize("text, path", [("~/runs/mine", Path.home() / "runs" / "mine"), ("~nobody of this name/mine",
                                        Path("~nobody of this name/mine"))])
def test_a_tilde_is_the_home_of_a_user_or_part_of_a_name(text, path):
    assert experiment.validate(run_dir=text).run_dir == path


# Parameters are data ------------------------------------------------------------------------

def test_papermill_injects_values_and_never_code(amount, tally):
    cell = nbformat.v4.new_code_cell("run_dir = ''", metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "language": "python", "display_name": ""}
    source = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel, "papermill": {}})
    names = st.sampled_from(["run_dir", "dataset", "model", "methods"])

    @settings(max_examples=amount(50, 5000), deadline=None, database=None, derandomize=not amount(0, 1))
    @given(st.dictionaries(names, text | st.lists(text), min_size=1))
    def inject(given_):
        made = papermill.parameterize.parameterize_notebook(source, given_)
        injected, = [cell for cell in made.cells if "injected-parameters" in cell.metadata.tags]
        statements = ast.parse(injected.source).body
        assert [s for s in statements if not isinstance(s, ast.Assign)] == []
        assert {s.targets[0].id: ast.literal_eval(s.value) for s in statements} == given_

    inject()
    tally["texts that stayed data"] += amount(50, 5000)


def test_a_parameters_cell_is_shown_with_values_and_never_as_code(amount, tally):
    declared = tagged("06_report_card")[0]

    @settings(max_examples=amount(50, 5000), deadline=None, database=None, derandomize=not amount(0, 1))
    @given(text)
    def show(value):
        shown = ast.parse(chapter_pages._with_values(declared, {"model": value, "run_dir": value})).body
        assert {s.targets[0].id: ast.literal_eval(s.value) for s in shown} == values("06_report_card") | {
            "model": value, "run_dir": value}

    show()
    tally["texts that stayed data"] += amount(50, 5000)


def test_a_value_on_a_page_is_code_in_markdown_and_cannot_leave_it(amount, tally):
    markdown = MarkdownIt()

    @settings(max_examples=amount(50, 5000), deadline=None, database=None, derandomize=not amount(0, 1))
    @given(text | st.text("`<>{}|[]()!x ", max_size=20))
    def show(value):
        inline, = markdown.parseInline(prose._code(f"model = {value!r}"))
        assert [token.type for token in inline.children] == ["code_inline"]
        assert inline.children[0].content.strip() == f"model = {value!r}"

    show()
    tally["texts that stayed data"] += amount(50, 5000)


@pytest.mark.parametrize("name", ["<b>.pt", "`x`.pt", "a|b", "[x](y)", "{{01_baseline.nll}}", "{x}", "a\nb",
                                  "&lt;", "*"])
def test_the_name_of_a_checkpoint_is_no_markdown(name):
    with pytest.raises(ValueError, match="^model must be the path of a checkpoint with a name of letters, digits and "
                                         "spaces, and "):
        experiment.validate(model=f"some/folder/{name}")


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "..", ".", "a/b", "a\nb", "", "-p", "x y"])
@pytest.mark.parametrize("command", [["run", "--run"], ["render", "--run"], ["models", "--run"],
                                     ["sweep", "--chapter=01_baseline", "--name"]], ids=lambda command: command[0])
def test_no_name_of_a_run_or_a_sweep_leads_out_of_runs(tmp_path, monkeypatch, capsys, name, command):
    monkeypatch.chdir(tmp_path)
    *options, option = command
    assert main([*options, f"{option}={name}"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: RUN must be of letters, digits, '.', '-' and '_', got {shorten(name)}\n"
    assert list(tmp_path.iterdir()) == []
