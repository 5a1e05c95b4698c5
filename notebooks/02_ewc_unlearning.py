# %% [markdown]
# # Forgetting a digit
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/02_ewc_unlearning.ipynb)
#
# The model of the first chapter draws all classes. This chapter makes it
# forget one of them: for the label of that class it should draw gray, and
# everything else should stay the same.
#
# **You will learn**
#
# - the three demands on forgetting, and a measurement for each;
# - what the Fisher information says about a network's weights, and how to
#   compute its diagonal exactly without a pass for every image;
# - the terms of the loss, and the use of each, by taking it away;
# - when elastic weight consolidation earns its place, and when it does not.
#
# **You need** nothing but this notebook: it trains the baseline and the
# judges if they are not there yet.
#
# **It takes** about five minutes on two CPU cores the first time, of which the
# baseline and the judges are the smaller part; a minute after that. A GPU is
# used if there is one.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae"
    import sa_lib

# %% tags=["parameters"]
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"] {allow-input: true}
seed = 0  # @param {type: "integer"}
forget = 9  # @param {type: "integer"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import math
import time
import timeit
from dataclasses import replace

import pandas as pd
import torch
from scipy.stats import spearmanr

from sa_lib import (chapter, data, evaluation, experiment, figures,
                    measures, plan, trained)
from sa_lib.claims import LIMITS, is_forgotten
from sa_lib.fisher import (combine, fisher_diagonal,
                           sampled_fisher_diagonal)
from sa_lib.labels import one_hot, retain_set, select
from sa_lib.model import device

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed,
                          forget=forget, at_most=1,
                          profile=profile,
                          architecture=architecture,
                          run_dir=run_dir)
plan.make_ahead("02_ewc_unlearning", run)  # on all cores

# %% [markdown]
# ## What forgetting should mean
#
# 1. **Forgotten.** For the label of the class, the model draws nothing of the
#    class. Here it should draw uniform gray. So we measure the mean distance
#    of its samples to gray, and the probability of the class that the
#    held-out judge B gives them.
# 2. **Retained.** The others are as good as before: judge B recognizes as
#    many samples, and the ELBO of their test images is the same.
# 3. **Cheap.** It sees at most a quarter of the images that training sees.
#    Otherwise it is better to train again without the class.
#
# These demands do *not* yet mean that the knowledge is gone. A model that
# draws gray for the label may still know the class; later chapters attack it.

# %%
ds = data.load(run.dataset)
baseline = trained.cvae(ds, run.model, run.training, run.seed)
judge, features = run.judge(ds, "B"), run.judge(ds, "features")
digit = run.forget[0]
retain = retain_set(run.forget, ds.classes)


def measure(model):
    return evaluation.evaluate(model, ds, judge, features, run.seed,
                               run.samples)


before = measure(baseline.net)

# %% [markdown]
# ## Which weights do the retained classes need?
#
# The **Fisher information** of a weight says how much the model's prediction
# changes when the weight does. Its diagonal is a mean of squared gradients, one
# gradient for each image $x_n$ of the retained classes, with $\ell_n$ the
# negative [ELBO](01_baseline.ipynb#formula-1) of that image at one draw of $z$:
#
# $$
# F_k = \frac{1}{N} \sum_{n=1}^{N}
# \left( \frac{\partial \ell_n}{\partial \theta_k} \right)^{2}
# $$
#
# We compute it class by class, over all training images: the Fisher of any
# set of classes is a weighted mean of theirs. The figure below shows how few
# weights hold most of it.

# %%
fishers = trained.fishers(baseline, ds, run.seed)
counts = torch.bincount(ds.train_labels).tolist()
fisher = combine(fishers, {k: counts[k] for k in retain})
entries = torch.cat([f.flatten().cpu() for f in fisher.values()])
top = entries.topk(len(entries) // 100).values.sum()

# %% tags=["remove-input"]
chapter.show_figure(
    figures.concentration(fisher),
    f"One weight in a hundred holds {float(top / entries.sum()):.0%} of the Fisher of the retained classes. The curve adds "
    "up the diagonal from its largest values on.")

# %% [markdown]
# **The usual mistake** is to square the gradient of a batch mean, because a
# training loop has that gradient at hand. Gradients of single images point in
# all directions and cancel in the mean. With $B$ images in a batch, about $1/B$
# of the Fisher is left. The figure below does both, with four gradients.
#
# ![Four gradients, plus 3, minus 2, plus 1, minus 2: squared first, their mean is 4.5; the mean first is 0, and so is its square.](../book/_static/drawings/fisher.svg)
#
# *Four gradients of one weight. Their squares have a mean of 4.5, the Fisher.
# Their mean is 0, and nothing is left to square.*
#
# **The usual price** is one backward pass for every single image. Neither the
# mistake nor the price is needed. For a linear layer the gradient of image $n$
# is an outer product, $\delta_n a_n^\top$, of the gradient at its output and of
# its input. So the sum of squares is a single matrix product
# ([Goodfellow 2015]). The matrices $\delta$ and $a$ have a row for every image,
# and each entry is squared:
#
# $$
# \sum_n (\delta_n a_n^\top)^2 = (\delta^2)^\top (a^2)
# $$
#
# In each dense layer this product replaces the product that forms the
# gradient. A convolution has to form the gradient of each image before it is
# squared. What does that cost? The yardstick is one plain forward and backward
# pass over the same images, which yields the gradient of their mean and no
# Fisher.
#
# [Goodfellow 2015]: https://arxiv.org/abs/1510.01799

# %%
chosen = select(ds.train_labels, retain)
x, labels = ds.train_images[chosen], ds.train_labels[chosen]
generator = torch.Generator().manual_seed(run.seed)
noise = torch.randn(len(x), run.model.latent_dim,
                    generator=generator)
model = run.baseline(ds).net

# %%
def batch_gradients(size=512):
    model.requires_grad_(True)
    inputs = x, one_hot(labels, ds.classes), noise
    for batch in zip(*(t.split(size) for t in inputs)):
        batch = (t.to(device()) for t in batch)
        loss = -model.elbo(*batch).mean()
        yield torch.autograd.grad(loss, list(model.parameters()))

# %%
def plain_pass():
    for _ in batch_gradients():
        pass


def fisher_pass():
    fisher_diagonal(model, x, labels, noise)


plain_seconds, fisher_seconds = (
    min(timeit.repeat(task, number=1, repeat=2))
    for task in (plain_pass, fisher_pass))

# %% [markdown]
# We also square the batch means, to see how much is lost. And we compare with
# another Fisher: ours is of data, while Heng & Soh use images that the model
# draws itself, so that they need no data.

# %%
squares = [sum(float(g.square().sum()) for g in gradients)
           for gradients in batch_gradients()]
mistaken = sum(squares) / len(squares)
trace = float(entries.sum())

drawn = torch.tensor(retain)
drawn = drawn.repeat_interleave(len(x) // len(retain))
generator = torch.Generator(device()).manual_seed(run.seed)
sampled = sampled_fisher_diagonal(model, drawn, generator)
rank = spearmanr(entries, torch.cat(
    [sampled[name].flatten().cpu() for name in fisher])).statistic

# %% tags=["remove-input"]
chapter.say(
    "Over {n:,} images the exact Fisher took {fisher:.1f} s, **{ratio:.2f} times** the {plain:.1f} s of the plain "
    "pass. Its trace is {trace:,.0f} nats² per squared unit; squaring batch means gives {mistaken:,.0f}, which is "
    "**{lost:.0f} times too small**. The diagonal from the model's own images has a rank correlation of "
    "{rank:.2f} with the exact one.",
    n=len(x), fisher=fisher_seconds, plain=plain_seconds, ratio=fisher_seconds / plain_seconds, trace=trace,
    mistaken=mistaken, lost=trace / mistaken, rank=rank)

# %% [markdown]
# ## Forgetting on purpose
#
# Teach a network something new, and it loses the old: **catastrophic
# forgetting** ([McCloskey & Cohen 1989]). *Continual learning* has two
# remedies.
#
# - **Rehearsal** goes on showing old images. **Replay** shows images that a
#   frozen copy of the old model draws, for when the data are no longer there
#   ([Shin et al. 2017](https://arxiv.org/abs/1705.08690)).
# - **Elastic weight consolidation** (EWC,
#   [Kirkpatrick et al. 2017](https://arxiv.org/abs/1612.00796)) ties each
#   weight to its old value by an elastic band. The band is as stiff as the
#   weight's Fisher. The figure below shows where that leads.
#
# ![Two valleys of the loss overlap. The gray term alone leads to the middle of one of them; an elastic band to the old weights ends where they overlap.](../book/_static/drawings/ewc.svg)
#
# *Two valleys. In one, the retained classes are drawn well; in the other, the
# forgotten class is gray. The elastic band lets weights move far only where
# that does little harm, so the end is where the valleys overlap.*
#
# With numbers: at $\lambda = 1$, a weight with $F = 4$ that moves by 0.1 costs
# $\frac12 \cdot 4 \cdot 0.1^2 = 0.02$ nats. A weight with $F = 0.004$ may move
# 32 times as far for that price.
#
# Selective Amnesia ([Heng & Soh 2023](https://arxiv.org/abs/2305.10120)) uses
# the same tools in the other direction: lose one class on purpose, and keep the
# rest.
#
# ## The loss
#
# The book's loss follows theirs, and differs in three things. It may rehearse
# real images. It measures the distance of the decoder's images to gray, where
# theirs has the ELBO of noise. And its Fisher is of real images of the retained
# classes. [The chapter on methods](07_methods.ipynb) also runs theirs. The
# figure below shows where each term comes from.
#
# ![Four rows lead to the loss: real images and replay through the model to the negative ELBO, weights and Fisher to the penalty, label and code through the decoder to the distance to gray.](../book/_static/drawings/loss.svg)
#
# *The terms of the loss: two rehearse the classes to keep, one holds the weights
# near their old values, and one turns the forgotten class gray.*
#
# With $\theta^*$ for the weights before, the sum of these terms is minimized
# (change one, and the cells below train other models):
#
# $$
# L = \underbrace{-\mathrm{ELBO}(\text{real}) - \mathrm{ELBO}(\text{replay})}_{\text{rehearse the retained classes}}
# + \underbrace{\frac{\lambda}{2} \sum_k F_k (\theta_k - \theta^*_k)^2}_{\text{stay near the old weights}}
# + \underbrace{\gamma \, L_\text{neg}}_{\text{turn gray}}
# $$
#
# *Real* are training images of the retained classes; *replay* are images of
# these classes that the frozen original draws. $L_\text{neg}$ is the distance to uniform gray of the decoder's
# images for the forgotten label, over $z$ from the prior.
#
# [McCloskey & Cohen 1989]: https://doi.org/10.1016/S0079-7421(08)60536-8

# %%
def forget_loss(model, batch, config, anchor, fisher):
    terms = {}
    if config.real:
        elbo = model.elbo(*batch.real)
        terms["real"] = config.real * -elbo.mean()
    if config.replay:
        elbo = model.elbo(*batch.replay)
        terms["replay"] = config.replay * -elbo.mean()
    if config.ewc:
        terms["ewc"] = config.ewc / 2 * sum(
            (fisher[name] * (theta - anchor[name]).square()).sum()
            for name, theta in model.named_parameters())
    if config.gray:
        distance = (model.decode(*batch.asked) - 0.5).abs().mean()
        terms["gray"] = config.gray * distance
    return terms

# %%
config = run.unlearning


def make_forget(**weights):
    return trained.unlearned(baseline, ds, run.forget, fisher,
                             replace(config, **weights), run.seed,
                             forget_loss)


forgot = make_forget()
after = measure(forgot.net)

# %% tags=["remove-input"]
chapter.say(
    "Real and replayed images have the weights {real:g} and {replay:g}, λ is {ewc:g}, and γ is {gray:g}; {pixels} makes "
    "the mean over pixels a sum. Each of {steps:,} steps has {batch} real and {batch} replayed images, and {forget_batch} "
    "latent codes for the label to forget.", pixels=math.prod(ds.image_shape), **vars(config))

# %% [markdown]
# In the figure below, the gray term falls, and the penalty rises from zero as
# the weights leave their old values. The lower panel shows how hard each term
# pulls.

# %% tags=["remove-input"]
chapter.show_figure(
    figures.curves(forgot.log, ["real", "replay", "ewc", "gray"],
                   {"": "weighted term", "_grad": "norm of its gradient"}, logarithmic=True),
    "The terms of the loss during forgetting, each times its weight, and the norms of their gradients. The gray term "
    f"goes from {forgot.log['gray'].iloc[0]:.0f} to {forgot.log['gray'].iloc[-1]:.2g} on the codes of a step.")

# %% [markdown]
# ## Before and after
#
# In the figure below, the row in the frame should turn gray, and all others
# should stay. The table below measures both.

# %%
classes = torch.arange(ds.classes).repeat_interleave(6)
sides = [evaluation.prior_samples(m.net, classes, run.seed)
         for m in (baseline, forgot)]
grid = torch.cat([side.unflatten(0, (ds.classes, 6))
                  for side in sides], 1)

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(grid, range(ds.classes), ["", "", "before", "", "", "", "", "", "after", "", "", ""],
                       marked=run.forget),
    f"Six samples of each class, from the same latent codes before and after: the label {digit} now draws images that are "
    f"{after.loc[digit, 'gray']:.4f} from gray.")

# %% tags=["remove-input"]
chapter.show_table(
    measures.before_after(before, after, ["accuracy", "not_a_digit", "gray", "nelbo", "fid", "recall"]),
    f"Class by class, before → after forgetting {digit}.")

# %%
names = ["accuracy", "nelbo", "fid"]
retained_before, retained_after = (
    evaluation.retained_means(table, digit)[names]
    for table in (before, after))

# %% [markdown]
# The table below holds the model to the three demands. *Forgotten* and
# *retained* have two rows each. *Cheap* is the row with the share of the images
# of a training; it includes those of the Fisher. The limits for the retained
# classes follow from the baseline of this run.

# %% tags=["remove-input"]
images = run.unlearning.steps * (run.unlearning.batch * (bool(run.unlearning.real) + bool(run.unlearning.replay))
                                 + run.unlearning.forget_batch) + int((ds.train_labels != digit).sum())
metrics = {"forgotten": after.loc[digit].to_dict(),
           "share": images / (run.training.epochs * len(ds.train_labels)),
           "retained": {**retained_after, **retained_before.add_suffix("_baseline")},
           "seconds": forgot.seconds + fisher_seconds, "seconds_baseline": baseline.seconds,
           "fisher_ratio": fisher_seconds / plain_seconds, "fisher_seconds": fisher_seconds}
run.show_claims("02_ewc_unlearning", metrics)

# %% [markdown]
# ## What is each term good for?
#
# A result is no evidence for a term if it comes about without the term. So we
# take every term away in turn and leave all else as it is. And we sweep the
# penalty's weight $\lambda$ from zero upwards in three situations: with real
# images and replay; **data-free**, with replay alone, as in Heng & Soh; and
# with no rehearsal of any kind, so that only the penalty protects the retained
# classes.
#
# The table below says which demands each model meets. The figure below is about
# the sweep: the aim is its lower left corner, where both demands are met. The
# second figure below shows what becomes of the drawings.

# %%
situations = {"real + replay": {}, "replay only": {"real": 0.0},
              "no rehearsal": {"real": 0.0, "replay": 0.0}}
lambdas = {"real + replay": [0.0, 1.0, 100.0],
           "replay only": [0.0, 1.0, 100.0],
           "no rehearsal": [0.0, 1.0, 10.0, 100.0, 1000.0]}
variants = {(name, lam): make_forget(**weights, ewc=lam)
            for name, weights in situations.items()
            for lam in lambdas[name]}
variants["real only", config.ewc] = make_forget(replay=0.0)
variants["no gray term", config.ewc] = make_forget(gray=0.0)

# %% tags=["hide-input"]
models = {"baseline": baseline} | {
    f"{name}, λ = {lam:g}": variant
    for (name, lam), variant in variants.items()}
tables = {name: measure(m.net) for name, m in models.items()}
ablations = evaluation.summary(tables, run.forget, "baseline")
ablations["fid"] = [evaluation.retained_means(table, digit)["fid"]
                    for table in tables.values()]

# %%
demands = pd.DataFrame({
    "forgotten": ablations["probability"].map(is_forgotten),
    "drawn gray": ablations["gray"] <= LIMITS["gray"],
    "retained": (
        (ablations["points_lost"] <= LIMITS["points_lost"])
        & (ablations["nats_lost"] <= LIMITS["nats_lost"]))})

# %% tags=["remove-input"]
chapter.show_table(
    ablations[["probability", "gray", "accuracy", "nats_lost", "fid"]].join(demands),
    f"Every term taken away, and λ swept. Probability and distance to gray are those of class {digit}; accuracy, nats "
    "lost and FID are means over the retained classes. The last three columns apply the book's limits.")

# %% tags=["remove-input"]
sweeps = ablations.iloc[1:].set_axis(pd.MultiIndex.from_tuples(variants))
chapter.show_figure(
    figures.plane({name: sweeps.loc[name].rename(columns={"gray": "x", "nats_lost": "y"}) for name in situations},
                  f"distance of class {digit} to gray", "nats lost, retained classes",
                  (LIMITS["gray"], LIMITS["nats_lost"]), "λ"),
    "The weight λ of the penalty, at the points, in three situations. In the colored corner the class is drawn gray, and "
    f"the retained classes lose at most {LIMITS['nats_lost']} nats.")

# %% tags=["remove-input"]
rows = [name for name in models if not name.startswith("real")]
classes = torch.arange(ds.classes).repeat(2)
strips = [evaluation.prior_samples(models[name].net, classes, run.seed) for name in rows]
chapter.show_figure(
    figures.image_grid(torch.stack(strips), rows, [*range(ds.classes)] * 2),
    "The same latent codes in the baseline, in the variants without real images, and without the gray term. With no "
    f"rehearsal and no penalty, judge B recognizes {ablations.loc['no rehearsal, λ = 0', 'accuracy']:.0%} of the retained "
    "samples.")

# %% [markdown]
# **What does EWC add?** That depends on what can be rehearsed. In each situation,
# compare $\lambda = 0$ with the $\lambda$ at which the retained classes lose
# least, in the table above or along a line of the second figure above. But a
# penalty that protects the retained classes also holds back the class to
# forget. Where "drawn gray" says "no" at that $\lambda$, the class stays away
# from gray.
#
# **And the other terms?** If the class is not forgotten without the gray term,
# then it is this term that removes it, not the lack of rehearsal. The rows
# "real only" and "replay only" show what each kind of rehearsal retains on its
# own.

# %% tags=["remove-input"]
lost = sweeps["nats_lost"]
short = {"free": lost["real + replay", 0.0], "held": lost["real + replay", 1.0], "replay": lost["replay only"].min(),
         "alone": lost["no rehearsal"].min(), "least": lost["no rehearsal"].idxmin()}
run.finish("02_ewc_unlearning", metrics | {
    "short": short, "models": {name: m.digest for name, m in {**models, "forgot": forgot}.items()},
    "ablations": ablations.to_dict("index")}, {"baseline": baseline, f"without class {digit}": forgot}, started)

# %% tags=["remove-input", "in-short"]
chapter.say(
    "**In short**\n\n"
    "- Asked for a {digit}, the model now draws gray: its drawings are {gray:.4f} from it, and were {gray_before:.2f}. "
    "Judge B recognizes {accuracy:.1%} of the other classes, {accuracy_before:.1%} before.\n"
    "- It saw {share:.0%} of the images of a training. It took {seconds:.0f} s; training took {training:.0f} s.\n"
    "- With real images and replay to rehearse, the penalty is not needed: without it the retained classes lose {free:.2f} "
    "nats, with it {held:.2f}. With replay alone, the best weight of the sweep loses {replay:.2f}. With neither, the "
    "penalty is all there is, and its best weight, {least:g}, loses {alone:.1f} nats.",
    digit=digit, gray=after.loc[digit, "gray"], gray_before=before.loc[digit, "gray"],
    accuracy=retained_after["accuracy"], accuracy_before=retained_before["accuracy"], seconds=metrics["seconds"],
    share=metrics["share"], training=baseline.seconds, **short)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input", "takeaways"]
lost, gray = (sweeps.loc["no rehearsal", measure] for measure in ("nats_lost", "gray"))
chapter.say(
    "- Turning a class gray takes one term of the loss. The work is in keeping the rest: with that term alone, the other "
    "classes lose {gray_alone:.1f} nats, and with the book's loss {held:.2f}.\n"
    "- The exact Fisher diagonal does not need a pass for every image. Here it took {ratio:.2f} times as long as one plain "
    "pass over all of them. The square of a batch mean is not the Fisher: it came out {times:.0f} times too small.\n"
    "- Rehearse the classes to keep where you can, with real images if there are any. Without a penalty, they lose {free:.2f} "
    "nats with real images and replay, and {replay:.2f} with replay alone. With the best penalty and no rehearsal, they lose "
    "{alone:.1f}.\n"
    "- Where nothing can be rehearsed, only the penalty protects them, and a large one can also protect the class to be "
    "forgotten: at λ = {small:g} its drawings end {near:.4f} from gray, and at λ = {large:g}, {far:.4f}.\n"
    "- Nothing here shows that the knowledge is *gone*. The label leads to gray; whether another way leads to the digit is "
    "another question.",
    gray_alone=lost[0.0], held=short["held"], ratio=metrics["fisher_ratio"], times=trace / mistaken, free=short["free"],
    replay=sweeps.loc[("replay only", 0.0), "nats_lost"], alone=short["alone"], small=gray.index[1], near=gray.iloc[1],
    large=gray.index[-1], far=gray.iloc[-1])

# %% [markdown]
# ## Check yourself
#
# Answer first, then unfold.
#
# <details><summary>All samples for the label are gray. Is the digit gone from the model?</summary>
#
# That is not shown. This label no longer leads to the digit, but another input
# may. To find out, one has to attack the model.
#
# </details>
#
# <details><summary>Why is the square of a batch's mean gradient not the Fisher information?</summary>
#
# The Fisher is a mean of squares. The gradients of single images point in
# different directions, so most of them cancel in the mean, before anything is
# squared.
#
# </details>
#
# <details><summary>The retained classes are as good as before. Did the penalty do that?</summary>
#
# Only a run without the penalty, and all else the same, can tell. Where these
# classes are rehearsed, rehearsal may do the work alone; without any rehearsal,
# only the penalty protects them.
#
# </details>

# %% [markdown]
# ## Exercises
#
# The solutions follow; they run with the chapter. Try before you look.
# Easy takes about 10 minutes, medium about 20, and hard about 40.
#
# 1. **One weight by hand.** Take 64 images of a retained class and the weight
#    that matters most to it. Compute its Fisher with one backward pass for each
#    image, and compare with `fisher_by_class`. What would the square of the
#    mean gradient have given? (medium)
# 2. **What $\lambda$ stands for.** Derive the gradient and the curvature of the
#    penalty. For which $\lambda$ does it stand in for the *mean* loss of the
#    retained images, for which for the *sum* over all $N$? Check the gradient,
#    and the penalty's estimate of the damage, on the model above. (hard)
# 3. **$\lambda = 0$, from the curves.** Look at the norms of the gradients, and
#    predict whether the penalty makes a difference in this run. Then look it
#    up in the sweep. (easy)
# 4. **Why not squared?** Derive how strongly $\lvert x - \frac12 \rvert$ and
#    $(x - \frac12)^2$ pull at the logit of a pixel close to gray. (medium)

# %% [markdown]
# ### Solution 1
#
# The smaller the share of the Fisher that is left, the more the gradients of
# single images cancel in the mean.

# %% tags=["hide-cell"]
from sa_lib.fisher import fisher_by_class

k = retain[0]
own = select(labels, [k])[:64]
name = max(fisher, key=lambda n: float(fishers[k][n].max()))
index = int(fishers[k][name].argmax())
weight = dict(model.named_parameters())[name]
inputs = x[own], one_hot(labels[own], ds.classes), noise[own]
slopes = []
for one in zip(*(t.to(weight).split(1) for t in inputs)):
    loss = -model.elbo(*one).sum()
    (slope,) = torch.autograd.grad(loss, [weight])
    slopes.append(float(slope.flatten()[index]))
slopes = torch.tensor(slopes)
by_hand = float(slopes.square().mean())
by_class = fisher_by_class(model, x[own], labels[own], noise[own])
library = float(by_class[k][name].flatten()[index])
mistaken = float(slopes.mean().square())
chapter.say(
    "Weight {index:,} of `{name}`, from {count} images of {k}: by "
    "hand {by_hand:.5g}, by the library {library:.5g}. The square "
    "of the mean gradient is {mistaken:.3g}, a share of "
    "{share:.2g} of the Fisher.",
    index=index, name=name, count=len(own), k=k, by_hand=by_hand,
    library=library, mistaken=mistaken,
    share=mistaken / max(by_hand, 1e-30))

# %% [markdown]
# ### Solution 2
#
# <details><summary>The derivation</summary>
#
# With $P = \frac{\lambda}{2} \sum_k F_k (\theta_k - \theta^*_k)^2$,
#
# $$
# \frac{\partial P}{\partial \theta_k} = \lambda F_k (\theta_k - \theta^*_k),
# \qquad \frac{\partial^2 P}{\partial \theta_k^2} = \lambda F_k .
# $$
#
# Around a minimum $\theta^*$ the mean loss of the retained images rises like
# $\frac12 \sum_k H_k (\theta_k - \theta^*_k)^2$, if the curvatures across
# weights are left out. Where the model fits its data, the curvature of the mean
# negative log-likelihood is the Fisher, $H_k \approx F_k$. So $\lambda = 1$
# stands in for the mean over the images, as in the term of the real images,
# and $\lambda = N$ for their sum, the Laplace approximation of the
# posterior. Neither $\theta^*$ nor the fit is perfect, so this is a guide and
# not a law.
#
# </details>
#
# The quadratic knows nothing of curvature across weights, nor of the repairs
# that rehearsal makes on the way.

# %% tags=["hide-cell"]
from sa_lib.model import copy_of

student = copy_of(forgot.net).requires_grad_(True)
anchor = dict(baseline.net.named_parameters())
stiff = {name: f.to(device()) for name, f in fisher.items()}
alone = replace(config, real=0.0, replay=0.0, gray=0.0)
penalty = forget_loss(student, None, alone, anchor, stiff)["ewc"]
by_autograd = torch.autograd.grad(penalty,
                                  list(student.parameters()))
derived = [alone.ewc * stiff[name] * (theta - anchor[name])
           for name, theta in student.named_parameters()]
off = max(float((a - b).detach().abs().max())
          for a, b in zip(by_autograd, derived))
chapter.say(
    "The gradient by autograd and the derived one differ by at "
    "most {off:.1e}. At λ = 1 the penalty is {guess:.2f} nats: its "
    "estimate of the loss on the retained images. The retained "
    "test images lost {rise:+.2f}. λ = {n:,} would stand for the "
    "sum of the losses of the retained training images.",
    off=off, guess=float(penalty.detach()) / alone.ewc,
    rise=retained_after["nelbo"] - retained_before["nelbo"],
    n=len(x))

# %% [markdown]
# ### Solution 3
#
# The weaker the penalty pulls, the less $\lambda = 0$ should change. But norms
# can mislead: they say how strong a pull is, not where it leads. A weak pull
# that never turns adds up; a strong one that others balance moves nothing.

# %% tags=["hide-cell"]
norms = forgot.log.iloc[1:]  # at the anchor there is no pull yet
pull = (norms["ewc_grad"]
        / (norms["real_grad"] + norms["replay_grad"])).median()
free = ablations.loc["real + replay, λ = 0"]
chapter.say(
    "Half of the time the penalty pulls with less than {pull:.1%} "
    "of the strength of rehearsal. In the sweep, λ = 0 changes "
    "the retained classes by {points:+.2f} points and {nats:+.2f} "
    "nats, and the distance to gray from {gray:.4f} to "
    "{gray_free:.4f}.",
    pull=pull, nats=free["nelbo"] - retained_after["nelbo"],
    points=100 * (free["accuracy"] - retained_after["accuracy"]),
    gray=after.loc[digit, "gray"], gray_free=free["gray"])

# %% [markdown]
# ### Solution 4
#
# <details><summary>The derivation</summary>
#
# A pixel is $x = \sigma(a)$ of its logit $a$, and
# $\mathrm{d}x / \mathrm{d}a = x (1 - x)$, close to $\frac14$ near gray. So
#
# $$
# \Big\lvert \frac{\mathrm{d}}{\mathrm{d}a} \lvert x - \tfrac12 \rvert \Big\rvert
# = x (1 - x) \approx \tfrac14,
# \qquad
# \Big\lvert \frac{\mathrm{d}}{\mathrm{d}a} (x - \tfrac12)^2 \Big\rvert
# = 2 \, \lvert x - \tfrac12 \rvert \, x (1 - x) \approx
# \tfrac12 \lvert x - \tfrac12 \rvert .
# $$
#
# The first pulls as hard at the end as on the way. The second lets go as it
# arrives, so that any pull the other way stops it before gray.
#
# </details>

# %% tags=["hide-cell"]
pixel = torch.tensor(0.5 + max(after.loc[digit, "gray"], 1e-6))
logit = pixel.logit().requires_grad_(True)
distance = logit.sigmoid() - 0.5
pulls = [float(torch.autograd.grad(d, logit, retain_graph=True)[0])
         for d in (distance.abs(), distance.square())]
chapter.say(
    "At the end of this run, at {gray:.5f} from gray, the absolute "
    "distance pulls with {absolute:.3f} and the squared one with "
    "{squared:.2g}: {ratio:,.0f} times less.",
    gray=pixel - 0.5, absolute=pulls[0], squared=pulls[1],
    ratio=pulls[0] / pulls[1])

# %% [markdown]
# ## Try next
#
# - Set `forget = 1`, the class least like the others. Is λ needed then?
# - Replace `.abs()` in the loss by `.square()`, a squared distance to gray.
#   Which of the demands suffers?
# - Give `make_forget` the weight `real=0.0`, and use `sampled` as the Fisher:
#   then nothing comes from the data. Compare with the row "replay only".
#
# Next: [forget a second digit, and a third](03_sequential.ipynb).
