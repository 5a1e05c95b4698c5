# %% [markdown]
# # Forgetting a digit
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/02_ewc_unlearning.ipynb)
#
# The model of the first chapter draws ten classes. Now it shall forget one of
# them: asked for it, it is to draw gray, and everything else is to stay as it
# was.
#
# **You will learn**
#
# - what one may ask of forgetting, and how each demand is measured;
# - what the Fisher information says about a network's weights, and how to
#   compute its diagonal exactly without a pass for every image;
# - the terms of the loss, and, by taking each away, what each is good for;
# - when elastic weight consolidation earns its place, and when it does not.
#
# **You need** nothing but this notebook: the baseline and the judges are
# trained here if they are not there yet.
#
# **It takes** several minutes on two CPU cores the first time, of which the
# baseline and the judges are the smaller part; under a minute after that.
# A GPU is used if there is one.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae"
    import sa_lib

# %% tags=["parameters"]
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"]
seed = 0  # @param {type: "integer"}
forget = 9  # @param {type: "integer"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import time
from dataclasses import replace

import pandas as pd
import torch
from scipy.stats import spearmanr

from sa_lib import (chapter, data, evaluation, experiment, figures, trained)
from sa_lib.labels import one_hot, retain_set, select
from sa_lib.model import device
from sa_lib.fisher import (combine, fisher_diagonal,
                           sampled_fisher_diagonal)

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed, forget=forget,
                       at_most=1, profile=profile,
                       architecture=architecture, run_dir=run_dir)

# %% [markdown]
# ## What forgetting should mean
#
# 1. **Forgotten.** Asked for the class, the model draws nothing of it. Here it
#    shall draw uniform gray, so we measure the mean distance to gray of its
#    samples, and the probability that the held-out judge B gives the class.
# 2. **Retained.** The other nine are as good as before: judge B recognises as
#    many samples, and the ELBO of their test images is the same.
# 3. **Cheap.** It takes a small part of the time that training took. If not,
#    one had better train again without the class.
#
# What it does *not* yet mean is that the knowledge is gone. A model that draws
# gray when asked may still know; later chapters attack it.

# %%
ds = data.load(run.dataset)
baseline = trained.cvae(ds, run.model, run.training, run.seed)
judge, features = run.judge(ds, "B"), run.judge(ds, "features")
retain = retain_set(run.forget)


def measure(model):
    return evaluation.evaluate(model, ds, judge, features, run.seed,
                               run.samples)


before = measure(baseline.net)

# %% [markdown]
# ## Which weights do the retained classes need?
#
# The **Fisher information** of a weight says how much the model's prediction
# changes when the weight does. Its diagonal is a mean of squared gradients,
# one gradient for each image $x_n$ of the retained classes, with $\ell_n$ the
# negative ELBO of that image:
#
# $$
# F_k = \frac{1}{N} \sum_{n=1}^{N}
# \left( \frac{\partial \ell_n}{\partial \theta_k} \right)^{2}
# $$
#
# It is computed class by class, over all training images: the Fisher of any
# set of classes is a weighted mean of theirs.

# %%
fishers = trained.fishers(baseline, ds, run.seed)
counts = torch.bincount(ds.train_labels).tolist()
fisher = combine(fishers, {k: counts[k] for k in retain})

# %% tags=["remove-input"]
entries = torch.cat([f.flatten() for f in fisher.values()])
share = float(entries.topk(len(entries) // 100).values.sum() / entries.sum())
chapter.show_figure(
    figures.fisher_layers(fisher),
    "The Fisher diagonal of every weight matrix, over the retained classes. Few weights matter much: one in a hundred "
    f"holds {share:.0%} of the sum.",
    alt="Horizontal box plots of the logarithm of the Fisher diagonal, one for each weight matrix.")

# %% tags=["remove-input"]
where = ("The same, of the first and of the last layer, summed by pixel: it draws the place where images differ."
         if run.architecture == "mlp" else
         "The same, of the kernels of the first and of the last convolution, which all places of the image share.")
chapter.show_figure(figures.fisher_maps(fisher, run.model), where,
                    alt="Two heat maps of the Fisher: of the encoder's input and of the decoder's output.")

# %% [markdown]
# **The usual mistake** is to square the gradient of a batch mean, which is
# what a training loop has at hand. Gradients of single images point in all
# directions and cancel in the mean, so most of the Fisher is lost. And **the
# usual price** is one backward pass for every single image. Neither is
# needed. For a linear layer the gradient of image $n$ is an outer product,
# $\delta_n a_n^\top$, of what flows back into it and what flowed in, so the
# sum of squares is a single matrix product (Goodfellow 2015):
#
# $$
# \sum_n (\delta_n a_n^\top)^2 = (\delta^2)^\top (a^2)
# $$
#
# What does that cost? The yardstick is one plain forward and backward pass
# over the same images, which yields the gradient of their mean and no Fisher.

# %%
kept = select(ds.train_labels, retain)
x, labels = ds.train_images[kept], ds.train_labels[kept]
generator = torch.Generator().manual_seed(run.seed)
noise = torch.randn(len(x), run.model.latent_dim,
                    generator=generator)
model = run.baseline(ds).net


def batch_gradients(size=512):
    model.requires_grad_(True)
    inputs = x, one_hot(labels), noise
    for batch in zip(*(t.split(size) for t in inputs)):
        batch = (t.to(device()) for t in batch)
        loss = -model.elbo(*batch).mean()
        yield torch.autograd.grad(loss, list(model.parameters()))


seconds = {"Fisher": [], "plain pass": []}
for repeat in range(2):
    tick = time.perf_counter()
    for gradients in batch_gradients():
        pass
    seconds["plain pass"].append(time.perf_counter() - tick)
    tick = time.perf_counter()
    exact = fisher_diagonal(model, x, labels, noise)
    seconds["Fisher"].append(time.perf_counter() - tick)

# %%
squares = [sum(float(g.square().sum()) for g in gradients)
           for gradients in batch_gradients()]
mistaken = sum(squares) / len(squares)
trace = sum(float(f.sum()) for f in exact.values())
drawn = torch.tensor(retain)
drawn = drawn.repeat_interleave(len(x) // len(retain))
generator = torch.Generator(device()).manual_seed(run.seed)
sampled = sampled_fisher_diagonal(model, drawn, generator)
flat = [torch.cat([f[name].flatten().cpu() for name in fisher])
        for f in (exact, sampled)]
rank = spearmanr(*flat).statistic

# %% tags=["remove-input"]
ratio = min(seconds["Fisher"]) / min(seconds["plain pass"])
chapter.say(
    "Over {n:,} images the exact Fisher took {fisher:.1f} s, **{ratio:.2f} times** the {plain:.1f} s of the plain "
    "pass{reason}. Its trace is {trace:,.0f} nats² per squared unit; squaring batch means gives {mistaken:,.0f}, "
    "which is **{lost:.0f} times too small**.\n\n"
    "This is the *data* Fisher. Heng & Soh use images that the model draws itself, so that no data are needed; the "
    "rank correlation of that *model-sampled* diagonal with ours is {rank:.2f}.",
    n=len(x), fisher=min(seconds["Fisher"]), plain=min(seconds["plain pass"]), ratio=ratio, trace=trace,
    mistaken=mistaken, lost=trace / mistaken, rank=rank,
    reason=": in each layer the product of squares stands where the gradient's own product stood"
    if run.architecture == "mlp" else "; convolutions form the gradient of each image before it is squared")

# %% [markdown]
# ## The loss
#
# Selective Amnesia (Heng & Soh 2023) is continual learning turned around.
# $\theta^*$ are the weights before, and the sum of these terms is minimised
# (change one, and the cells below train other models):
#
# $$
# L = \underbrace{-\mathrm{ELBO}(\text{real}) - \mathrm{ELBO}(\text{replay})}_{\text{rehearse what is retained}}
# + \underbrace{\frac{\lambda}{2} \sum_k F_k (\theta_k - \theta^*_k)^2}_{\text{stay near the old weights}}
# + \underbrace{\gamma \, L_\text{neg}}_{\text{turn gray}}
# $$
#
# *Real* are training images of the retained classes; *replay* are images that
# the frozen original draws of them, for when the data are no longer there.
# $L_\text{neg}$ is the distance of what the decoder draws for the forgotten
# label to uniform gray, over $z$ from the prior.

# %%
def terms(model, batch, weights, anchor, fisher):
    out = {}
    if weights.real:
        elbo = model.elbo(*batch.real)
        out["real"] = weights.real * -elbo.mean()
    if weights.replay:
        elbo = model.elbo(*batch.replay)
        out["replay"] = weights.replay * -elbo.mean()
    if weights.ewc:
        out["ewc"] = weights.ewc / 2 * sum(
            (fisher[name] * (theta - anchor[name]).square()).sum()
            for name, theta in model.named_parameters())
    if weights.gray:
        images = model.decode(*batch.asked)
        out["gray"] = weights.gray * (images - 0.5).abs().mean()
    return out


def make_forget(**weights):
    config = replace(run.unlearning, **weights)
    return trained.unlearned(baseline, ds, run.forget, fisher, config,
                         run.seed, terms)


forgot = make_forget()
after = measure(forgot.net)

# %% tags=["remove-input"]
config = run.unlearning
chapter.say(
    "The weights of the terms are {real:g} and {replay:g} for real and replayed images, λ = {ewc:g} and "
    "γ = {gray:g} (which makes the mean over pixels a sum); {steps:,} steps of {batch} real and {batch} replayed "
    "images and {few} latent codes for the label {forget}.",
    real=config.real, replay=config.replay, ewc=config.ewc, gray=config.gray, steps=config.steps,
    batch=config.batch, few=config.forget_batch, forget=run.forget[0])

# %% tags=["remove-input"]
first, last = forgot.log.iloc[0], forgot.log.iloc[-1]
chapter.show_figure(
    figures.curves(forgot.log, ["real", "replay", "ewc", "gray"],
                   {"": "weighted term", "_grad": "norm of its gradient"}),
    "The terms of the loss while forgetting, each times its weight, and the norms of their gradients. The gray term "
    f"goes from {first['gray']:.0f} to {last['gray']:.2g}, the real images from {first['real']:.0f} to "
    f"{last['real']:.0f} nats.",
    alt="Two panels on logarithmic axes: values and gradient norms of the terms against the step.")

# %% [markdown]
# ## Before and after

# %%
asked = torch.arange(10).repeat_interleave(6)
sides = [evaluation.prior_samples(m.net, asked, run.seed)
         for m in (baseline, forgot)]
grid = torch.cat([side.view(10, 6, 28, 28) for side in sides], 1)

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(grid, rows=range(10), columns=["", "", "before", "", "", ""] + ["", "", "after", "", "", ""],
                       marked=run.forget),
    f"Six samples of each class before and after, from the same latent codes. Those of class {run.forget[0]} are now "
    f"at a distance of {after.loc[run.forget[0], 'gray']:.4f} from gray.",
    alt=f"A grid of samples: on the left the baseline's ten classes, on the right the same samples after "
        f"forgetting; the row of class {run.forget[0]} is framed.")

# %% tags=["remove-input"]
columns = ["accuracy", "gray", "nelbo", "fid", "recall"]
forms = dict(zip(columns, (".1%", ".3f", ".1f", ".1f", ".2f")))
chapter.show_table(
    pd.DataFrame({name: [f"{old:{form}} → {new:{form}}" for old, new in zip(before[name], after[name])]
                  for name, form in forms.items()}, index=before.index),
    f"Class by class, before → after forgetting {run.forget[0]}.")

# %% tags=["remove-input"]
was, now = (evaluation.retained_means(t, run.forget) for t in (before, after))
gone = after.loc[run.forget[0]]
cost = forgot.seconds + min(seconds["Fisher"])
chapter.say(
    "**Forgotten:** samples of {forget} are at a distance of {gray:.4f} from gray (before: {gray_before:.3f}); "
    "judge B gives them a probability of {probability:.4f} of being a {forget} and of {nothing:.3f} of being no digit "
    "at all.\n\n"
    "**Retained:** judge B recognises {accuracy:.2%} of the samples of the other nine (before: "
    "{accuracy_before:.2%}), and their test images cost {nelbo:.2f} nats (before: {nelbo_before:.2f}).\n\n"
    "**Cheap:** forgetting took {seconds:.0f} s with the Fisher, {share:.0%} of the {training:.0f} s of training.",
    forget=run.forget[0], gray=gone["gray"], gray_before=before.loc[run.forget[0], "gray"],
    probability=gone["probability"], nothing=gone["not_a_digit"], accuracy=now["accuracy"],
    accuracy_before=was["accuracy"], nelbo=now["nelbo"], nelbo_before=was["nelbo"], seconds=cost,
    share=cost / baseline.seconds, training=baseline.seconds)

# %% [markdown]
# ## What is each term good for?
#
# A result is no evidence for a term that it would have come about without. So
# every term is taken away in turn, with all else left as it is, and the
# penalty's weight $\lambda$ is swept from nothing upwards in three situations:
# with real images and replay; **data-free**, with replay alone, as Heng & Soh
# have it; and with no rehearsal of any kind, so that the penalty is all that
# protects the retained classes.

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
rows = {}
for key, variant in variants.items():
    result = measure(variant.net)
    kept = evaluation.retained_means(result, run.forget)
    rows[key] = {"gray": result.loc[run.forget[0], "gray"],
                 "judge B": result.loc[run.forget[0], "probability"],
                 "accuracy": kept["accuracy"],
                 "nelbo": kept["nelbo"], "fid": kept["fid"],
                 "seconds": variant.seconds}
ablations = pd.DataFrame(rows).T.rename_axis(["rehearsal", "λ"])

# %% tags=["remove-input"]
baseline_row = {"gray": before.loc[run.forget[0], "gray"], "judge B": before.loc[run.forget[0], "probability"],
                "accuracy": was["accuracy"], "nelbo": was["nelbo"], "fid": was["fid"], "seconds": baseline.seconds}
shown = pd.concat([pd.DataFrame(baseline_row, index=["baseline"]),
                   ablations.set_axis([f"{name}, λ = {lam:g}" for name, lam in ablations.index])])
chapter.show_table(
    shown.rename(columns={"gray": "distance to gray", "judge B": f"P({run.forget[0]}) by judge B",
                          "accuracy": "retained accuracy", "nelbo": "retained nats", "fid": "retained FID"}),
    "Every term taken away, and λ swept.",
    {"distance to gray": "{:.4f}", f"P({run.forget[0]}) by judge B": "{:.4f}", "retained accuracy": "{:.1%}",
     "retained nats": "{:.1f}", "retained FID": "{:.1f}", "seconds": "{:.0f}"})

# %% tags=["remove-input"]
spread = {name: ablations.loc[name, "accuracy"].agg(["min", "max"]) for name in situations}
chapter.show_figure(
    figures.lines({name: ablations.loc[name] for name in situations},
                  {"accuracy": "retained accuracy", "nelbo": "retained nats", "gray": "distance to gray"},
                  "λ", "symlog", baseline_row, logarithmic=["gray"]),
    "The weight λ of the penalty in three situations (dotted: the baseline). Over the sweep, retained accuracy runs "
    + ", ".join(f"from {low:.1%} to {high:.1%} with {name}" for name, (low, high) in spread.items()) + ".",
    alt="Three panels against lambda: retained accuracy, retained negative ELBO and distance to gray, with a line "
        "for each of three situations.")

# %% tags=["hide-input"]
picked = [("real + replay", 0.0),
          ("replay only", 0.0), ("replay only", 100.0),
          *(("no rehearsal", lam)
            for lam in lambdas["no rehearsal"]),
          ("no gray term", config.ewc)]
asked = torch.arange(10).repeat(2)
strips = [evaluation.prior_samples(m.net, asked, run.seed)
          for m in (baseline, *(variants[key] for key in picked))]

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack(strips),
                       rows=["baseline", *(f"{name}, λ = {lam:g}" for name, lam in picked)],
                       columns=[*range(10)] * 2),
    "The same twenty latent codes and labels in the baseline and in nine variants. Without rehearsal, judge B recognises "
    + ", ".join(f"{share:.0%} (λ = {lam:g})" for lam, share in ablations.loc["no rehearsal", "accuracy"].items())
    + " of the retained samples.",
    alt="A grid of samples, one row for each variant and one column for each latent code and label.")

# %% tags=["remove-input"]
with_data, data_free, neither = (ablations.loc[name] for name in situations)
gain = with_data["accuracy"].max() - with_data.loc[0, "accuracy"]
both = neither.index[(neither["gray"] <= 0.005) & (neither["accuracy"] >= was["accuracy"] - 0.005)]
best = neither["accuracy"].idxmax()
series = {name: ", ".join(f"{value:{form}}" for value in neither[name])
          for name, form in (("accuracy", ".0%"), ("gray", ".4f"))}
chapter.say(
    "**What does EWC add?** *When retained data are at hand*, rehearsal alone (λ = 0) keeps {data_0:.2%} of "
    "the retained samples recognisable, at {data_nats:.2f} nats, and the best λ of the sweep changes that by "
    "{gain:+.2f} points (baseline: {base:.2%}, {base_nats:.2f} nats). *When only replay is at hand*, λ = 0 keeps "
    "{replay_0:.2%} at {replay_nats:.2f} nats, and λ = 100 {replay_100:.2%} at {replay_nats_100:.2f}; what that "
    "costs is a forgotten class at {replay_gray_100:.4f} from gray instead of {replay_gray:.4f}. *When nothing is "
    "rehearsed*, λ = {lambdas} keep {accuracy} of the retained samples recognisable, and "
    "leave class {forget} at {gray} from gray. {verdict} {more}",
    data_0=with_data.loc[0, "accuracy"], data_nats=with_data.loc[0, "nelbo"], gain=100 * gain,
    base=was["accuracy"], base_nats=was["nelbo"], replay_0=data_free.loc[0, "accuracy"],
    replay_nats=data_free.loc[0, "nelbo"], replay_100=data_free.loc[100, "accuracy"],
    replay_nats_100=data_free.loc[100, "nelbo"], replay_gray=data_free.loc[0, "gray"],
    replay_gray_100=data_free.loc[100, "gray"], lambdas=", ".join(f"{lam:g}" for lam in neither.index),
    **series, forget=run.forget[0],
    verdict=f"λ = {', '.join(f'{lam:g}' for lam in both)} does both." if len(both) else
    "No λ of the sweep does both, keep what is to be kept and forget what is to be forgotten.",
    more="" if best == neither.index[-1] else f"Nor is more always better: λ = {best:g} keeps the most.")

# %% tags=["remove-input"]
hashes = {"baseline": baseline.digest, "forgot": forgot.digest,
          **{f"{name}, λ = {lam:g}": variant.digest for (name, lam), variant in variants.items()}}
chapter.say(
    "**And the other terms?** Without the gray term, samples of {forget} are at a distance of {no_gray:.3f} from gray, "
    "and judge B gives {forget} a probability of {no_gray_p:.2f}: {neglect} Without replay, real images alone keep {real_only:.2%}; without real images, "
    "replay alone (λ = {lam:g}) keeps {replay_only:.2%}, at {cost:+.2f} nats against the baseline.\n\n"
    "This chapter took {seconds:.0f} s. Weights: baseline `{base}`, without class {forget} `{digest}`."
    "\n\n<details><summary>The weights of all models</summary>\n\n{hashes}\n\n</details>",
    forget=run.forget[0], no_gray=ablations.loc[("no gray term", config.ewc), "gray"],
    no_gray_p=ablations.loc[("no gray term", config.ewc), "judge B"],
    real_only=ablations.loc[("real only", config.ewc), "accuracy"], lam=config.ewc,
    replay_only=data_free.loc[config.ewc, "accuracy"], cost=data_free.loc[config.ewc, "nelbo"] - was["nelbo"],
    neglect="it is this term, and not neglect, that forgets." if ablations.loc[("no gray term", config.ewc), "gray"]
    > 10 * gone["gray"] else "neglect alone would have done it.",
    seconds=time.perf_counter() - started, base=baseline.digest[:12], digest=forgot.digest[:12],
    hashes=", ".join(f"{name} `{digest[:12]}`" for name, digest in hashes.items()))

# %% tags=["remove-cell"]
chapter.write_metrics(run.run_dir, "02_ewc_unlearning", {
    "parameters": {"dataset": run.dataset, "seed": run.seed, "forget": run.forget, "profile": run.profile,
                   "architecture": run.architecture},
    "forgotten": {name: gone[name] for name in ("gray", "probability", "accuracy", "not_a_digit", "entropy")},
    "retained": {"accuracy": now["accuracy"], "accuracy_baseline": was["accuracy"], "nelbo": now["nelbo"],
                 "nelbo_baseline": was["nelbo"], "fid": now["fid"], "fid_baseline": was["fid"]},
    "seconds": cost, "seconds_baseline": baseline.seconds, "fisher_ratio": ratio,
    "fisher_seconds": min(seconds["Fisher"]), "chapter_seconds": time.perf_counter() - started,
    "models": hashes,
    "ablations": {f"{name}, lambda={lam:g}": row for (name, lam), row in rows.items()}})

# %% [markdown]
# ## Takeaways
#
# - Turning a class gray is easy and quick. The work is in keeping the rest.
# - The exact Fisher diagonal does not need a pass for every image, and the
#   square of a batch mean is not the Fisher.
# - The elastic penalty is a substitute for rehearsal. Where the retained
#   classes can be rehearsed, from data or by replay, rehearse them; where they
#   cannot, the penalty is what keeps them, and a large one protects the class
#   that was to be forgotten as well.
# - Nothing here shows that the knowledge is *gone*. The label leads to gray;
#   whether another way leads to the digit is another question.

# %% [markdown]
# ## Exercises
#
# The solutions follow, each run with the chapter. Try before you look.
#
# 1. **One weight by hand.** Take 64 images of a retained class and the weight
#    that matters most to it. Compute its Fisher with one backward pass for each
#    image, and compare with `fisher_by_class`. What would the square of the
#    mean gradient have given?
# 2. **What $\lambda$ stands for.** Derive the gradient and the curvature of the
#    penalty. For which $\lambda$ does it stand in for the *mean* loss of the
#    retained images, for which for the *sum* over all $N$? Check the gradient,
#    and what the penalty makes of the damage, on the model above.
# 3. **$\lambda = 0$, from the curves.** Look at the norms of the gradients, and
#    say whether this run would have been another without the penalty. Then
#    look it up in the sweep.
# 4. **Why not squared?** Derive how strongly $\lvert x - \frac12 \rvert$ and
#    $(x - \frac12)^2$ pull at the logit of a pixel close to gray.

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
from sa_lib.fisher import fisher_by_class

chosen = retain[0]
own = select(labels, [chosen])[:64]
name = max(fisher, key=lambda n: float(fishers[chosen][n].max()))
place = int(fishers[chosen][name].argmax())
weight = dict(model.named_parameters())[name]
inputs = x[own], one_hot(labels[own]), noise[own]
slopes = []
for one in zip(*(t.to(weight).split(1) for t in inputs)):
    loss = -model.elbo(*one).sum()
    (slope,) = torch.autograd.grad(loss, [weight])
    slopes.append(float(slope.flatten()[place]))
slopes = torch.tensor(slopes)
by_hand = float(slopes.square().mean())
library = float(fisher_by_class(
    model, x[own], labels[own],
    noise[own])[chosen][name].flatten()[place])

# %% tags=["hide-cell"]
chapter.say(
    "Weight {place:,} of `{name}`, from {count} images of "
    "{chosen}: by hand {by_hand:.5g}, by the library "
    "{library:.5g}, which differ by {off:.0e} of it. The square "
    "of the mean gradient is {mistaken:.5g}, {share:.1%} of the "
    "Fisher: {reading}",
    place=place, name=name, count=len(own), chosen=chosen,
    by_hand=by_hand, library=library,
    off=abs(by_hand - library) / max(by_hand, 1e-30),
    mistaken=slopes.mean().square(),
    share=slopes.mean().square() / max(by_hand, 1e-30),
    reading="the gradients of single images cancel in the mean."
    if slopes.mean().square() < by_hand / 2 else
    "for this weight most images pull the same way, and few "
    "cancel.")

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
# stands in for the mean over the images, which is what the term of the real
# images is, and $\lambda = N$ for their sum, the Laplace approximation of the
# posterior. Neither $\theta^*$ nor the fit is perfect, so this is a guide and
# not a law.
#
# </details>

# %% tags=["hide-cell"]
import copy

student = copy.deepcopy(forgot.net).requires_grad_(True)
anchor = dict(baseline.net.named_parameters())
stiff = {name: f.to(device())
         for name, f in fisher.items()}
alone = replace(run.unlearning, real=0.0, replay=0.0, gray=0.0)
penalty = terms(student, None, alone, anchor, stiff)["ewc"]
found = torch.autograd.grad(penalty, list(student.parameters()))
derived = [alone.ewc * stiff[name] * (theta - anchor[name])
           for name, theta in student.named_parameters()]
off = max(float((a - b).detach().abs().max())
          for a, b in zip(found, derived))
guess = float(penalty.detach()) / alone.ewc
rise = now["nelbo"] - was["nelbo"]
chapter.say(
    "The gradient found by autograd and the derived one differ by "
    "at most {off:.1e}. At λ = 1 the penalty is {guess:.2f} nats: "
    "its guess at what the retained images lost. They lost "
    "{rise:+.2f}, on test images. {reading} There are {n:,} "
    "retained training images; λ = {n:,} would stand for the sum "
    "of their losses.",
    off=off, guess=guess, rise=rise, n=len(x),
    reading="The guess is within half a nat." if
    abs(guess - rise) <= 0.5 else "The guess is off: the "
    "quadratic knows nothing of curvature across weights, nor of "
    "what rehearsal mends on the way.")

# %% [markdown]
# ### Solution 3

# %% tags=["hide-cell"]
norms = forgot.log.iloc[1:]  # at the anchor there is no pull yet
pull = (norms["ewc_grad"]
        / (norms["real_grad"] + norms["replay_grad"])).median()
free = ablations.loc[("real + replay", 0.0)]
points = 100 * (free["accuracy"] - now["accuracy"])
nats = free["nelbo"] - now["nelbo"]
weak, same = pull < 0.1, abs(points) <= 0.5 and abs(nats) <= 0.5
chapter.say(
    "Half of the time the penalty pulls with less than {pull:.1%} "
    "of what rehearsal does, so λ = 0 should change {expected}. "
    "In the sweep it changes the retained classes by "
    "{points:+.2f} points and {nats:+.2f} nats, and the distance "
    "to gray from {gray:.4f} to {gray_free:.4f}. {reading}",
    pull=pull, expected="little" if weak else "something",
    points=points, nats=nats, gray=gone["gray"],
    gray_free=free["gray"],
    reading="As expected." if weak == same else
    "The norms mislead here: they say how strong a pull is, not "
    "where it leads. A weak one that never turns adds up; a "
    "strong one that others balance moves nothing.")

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
# The first pulls as hard at the end as on the way; the second lets go as it
# arrives, so that whatever pulls the other way stops it before gray.
#
# </details>

# %% tags=["hide-cell"]
pixel = torch.tensor(0.5 + max(float(gone["gray"]), 1e-6))
logit = pixel.logit().requires_grad_(True)
distance = logit.sigmoid() - 0.5
pulls = [float(torch.autograd.grad(d, logit, retain_graph=True)[0])
         for d in (distance.abs(), distance.square())]
chapter.say(
    "Where this run ended, at {gray:.5f} from gray, the absolute "
    "distance pulls with {absolute:.3f} and the squared one with "
    "{squared:.2g}: {ratio:,.0f} times less.",
    gray=pixel - 0.5, absolute=pulls[0], squared=pulls[1],
    ratio=pulls[0] / pulls[1])

# %% [markdown]
# ## Try next
#
# - Set `forget = 1`, the class least like the others. Is λ needed then?
# - Replace `(images - 0.5).abs().mean()` in the loss by a squared distance.
#   Which of the two demands suffers?
# - Leave out `weights.real` and use `sampled` as the Fisher: nothing then is
#   taken from the data. Compare with the row "replay only".
