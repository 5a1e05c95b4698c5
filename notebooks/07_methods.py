# %% [markdown]
# # Methods, side by side
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/07_methods.ipynb)
#
# Gray and a penalty are one way to make a model forget. There are others, each
# with a paper that says it works. Here they all start from the same baseline,
# forget the same class, and are measured by the same held-out judge and the
# same attackers, against a model that never saw the class.
#
# **You will learn**
#
# - what each method minimises, in one line;
# - that forgetting *too much* is as common a failure as forgetting too little,
#   and which methods fail which way;
# - how to put a method of your own beside them.
#
# **You need** nothing but this notebook: baseline, judge and the model that
# never saw the class are trained here if they are not there yet.
#
# **It takes** about nine minutes on two CPU cores the first time, a minute
# after that; a GPU is used if there is one.

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
methods = []  # @param {type: "raw"}
changes = {}  # @param {type: "raw"}
longest = 3200  # @param {type: "integer"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import time

import pandas as pd
import torch

from sa_lib import (attacks, chapter, data, evaluation, experiment, figures, latent, residual, trained)
from sa_lib.attacks import THREATS
from sa_lib.residual import residual_knowledge
from sa_lib.methods import fine_tune

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed, forget=forget,
                       at_most=1, methods=methods, changes=changes,
                       longest=longest, profile=profile,
                       architecture=architecture, run_dir=run_dir)
(digit,) = run.forget

# %% [markdown]
# ## What each minimises
#
# All hold on to the retained classes with some of three terms that are by now
# familiar: real images, replayed ones, and the EWC penalty. They differ in what
# they do about the class $f$ that is to go:
#
# | Method | The class to forget | Held by | Source |
# |---|---|---|---|
# | ewc_gray | $\gamma\,\lvert \mathrm{decode}(z, f) - \tfrac12 \rvert$ | real, replay, EWC | this book |
# | ewc_gray_replay | the same | replay, EWC | this book |
# | selective_amnesia | $-\mathrm{ELBO}(u, f)$, $u$ uniform noise | replay, EWC | [Heng & Soh 2023](https://arxiv.org/abs/2305.10120) |
# | gradient_ascent | $+\mathrm{ELBO}(x_f, f)$ | nothing | [Thudi et al. 2022](https://arxiv.org/abs/2109.13398) |
# | gradient_ascent_retain | the same | real | [Kurmanji et al. 2023](https://arxiv.org/abs/2302.09880) |
# | saliency | $\lVert \mathrm{decode}(z, f) - \mathrm{decode}_0(z, k) \rVert^2$, $k$ another class; half of the weights | real | [Fan et al. 2024](https://arxiv.org/abs/2310.12508) |
# | fine_tune | nothing: by neglect | real | [Kirkpatrick et al. 2017](https://arxiv.org/abs/1612.00796) |
# | unseen | nothing; the weights that read its label are drawn afresh, and most of all others are mixed with fresh ones | real | this book, after [Ash & Adams 2020](https://arxiv.org/abs/1910.08475) |
# | retrain | never seen | real | the reference |
#
# **unseen** is this book's answer to the residue and the damage of the others. A
# model that never saw a class has two properties: its label means nothing, and
# its weights carry nothing. So the weights that read the label are drawn anew,
# all others are mixed with new ones, seven parts in ten, and the model is
# trained again on what is retained, for half as long as the first time.
#
# A method is a function that returns weighted terms, and a configuration. Write
# your own, add it to the dictionary below, and it is measured like the rest.

# %%
def terms_of_yours(model, batch, weights, anchor, fisher):
    return {**fine_tune(model, batch, weights, anchor, fisher),
            "forget": weights.forget
            * model.decode(*batch.asked).square().mean()}


candidates = dict(run.methods)
# candidates["yours"] = Method(terms_of_yours,
#                              UnlearningConfig(...))

# %%
ds = data.load(run.dataset)
judge_b = run.judge(ds, "B")
base, never = run.baseline(ds), run.never_saw(ds, [digit])
made = {name: trained.forgotten(base, ds, [digit], method, run.seed)
        for name, method in candidates.items()}
models = {"baseline": base, **made, "retrain": never}

# %% tags=["remove-input"]
settings = pd.DataFrame({name: {
    "updates": m.config.steps, "images a step": m.config.batch * (bool(m.config.real) + bool(m.config.replay)),
    "peak rate": m.config.peak_lr, "λ": m.config.ewc, "forgetting weight": m.config.gray or m.config.forget}
    for name, m in candidates.items()}).T
chapter.show_table(settings.rename_axis("method"), "The settings of this run.",
                   {"updates": "{:.0f}", "images a step": "{:.0f}", "peak rate": "{:g}", "λ": "{:g}",
                    "forgetting weight": "{:g}"})

# %% [markdown]
# **How they were chosen.** Those of selective_amnesia are its authors', converted
# from sums over a batch to means. Those of ewc_gray come from [the chapter on
# EWC](02_ewc_unlearning.ipynb), those of unseen from trials on the digits 0 to 4,
# the others from the shape of their papers' and a few trials on the digit 0. All
# were then searched alike: five settings each, on the digit 3; [the chapter on
# evidence](08_evidence.ipynb) has the table. The parameter `changes` tries others.

# %% [markdown]
# ## What they draw

# %%
asked = torch.cat([torch.arange(10), torch.full((6,), digit)])
drawn = [evaluation.prior_samples(m.net, asked, run.seed)
         for m in models.values()]

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack(drawn), rows=list(models), columns=[*map(str, asked.tolist())]),
    f"One row a model, the same latent codes and labels in each; the last six columns ask for the forgotten {digit} "
    "again. Its distance to gray there: " + ", ".join(
        f"{name} {float((row[10:] - 0.5).abs().mean()):.2f}" for name, row in zip(models, drawn)) + ".", alt="A grid of samples: a row for the baseline, one for each method, and one for a model that never saw "
    "the class; ten columns for the digits and six more for the forgotten one.")

# %% [markdown]
# ## How they get there
#
# What rehearsal costs along the way, on the images of each step. Methods that
# damage what is kept climb before they mend it.

# %% tags=["remove-input"]
paths = {}
for name, m in made.items():
    kept = [term for term in ("real", "replay") if term in m.log]
    if kept:
        paths[name] = pd.DataFrame({"kept": m.log[kept[0]].to_numpy()}, index=m.log["step"] / m.log["step"].iloc[-1])
if paths:
    chapter.show_figure(
        figures.lines(paths, {"kept": "negative ELBO of a batch, nats"}, "share of the updates"),
        "What is kept, on the way. Last values: "
        + ", ".join(f"{name} {t['kept'].iloc[-1]:.1f}" for name, t in paths.items()) + " nats.",
        alt="The negative ELBO of rehearsed images against the share of the updates, a line for each method.")

# %% [markdown]
# ## What is left, and what it cost
#
# As in [the chapter on attacks](05_attacks.ipynb): an attacker looks for the
# inputs that reproduce held-out images of the class, with $y$ any mixture of
# labels, or any vector. $\rho$ is 1 where the class is all there, 0 where the
# attacker gets as much as from the model that never saw it, below 0 where the
# model is worse than that one. Then the model is trained on 100 images of the
# class: how soon is it back?

# %%
where = next(base.net.parameters()).device
real = ds.test_images[ds.test_labels == digit].to(where)
real = real[:run.targets]
few = ds.train_images[ds.train_labels == digit][:100]
strong = ["y on the simplex", "y free"]
errors = {threat: {name: trained.reconstruction(
    m, real, digit, THREATS[threat], run.attack, run.seed).loss[-1]
    for name, m in models.items()} for threat in strong}
rho = {threat: {name: residual_knowledge(
    e["retrain"][None], e[name], e["baseline"]) for name in models}
    for threat, e in errors.items()}
relearned = {name: attacks.relearn(m.net, few, digit, judge_b,
                                   seed=run.seed)
             for name, m in models.items()}
tables = {name: evaluation.evaluate(m.net, ds, judge_b, None,
                                    run.seed, run.samples)
          for name, m in models.items()}

# %% tags=["remove-input"]
means = {name: evaluation.retained_means(table, [digit]) for name, table in tables.items()}
seconds = {name: m.seconds for name, m in models.items()}
seconds["retrain"] += run.baseline(ds, without=[digit]).seconds
summary = pd.DataFrame({name: {
    "probability": tables[name].loc[digit, "probability"], "gray": tables[name].loc[digit, "gray"],
    "accuracy": means[name]["accuracy"], "nelbo": means[name]["nelbo"],
    **{threat: rho[threat][name].rho for threat in strong},
    "relearning": relearned[name].mean(), "seconds": seconds[name]} for name in models}).T
shown = summary.rename(columns={"probability": "judge B: the class", "gray": "distance to gray",
                                "accuracy": "kept: accuracy", "nelbo": "kept: nats", strong[0]: "ρ, simplex",
                                strong[1]: "ρ, free"})
chapter.show_table(shown.rename_axis("model"), f"All methods made to forget {digit}. Relearning: mean accuracy along "
                   "200 updates. Seconds: for the baseline and retrain, of the whole training.",
                   {"judge B: the class": "{:.3f}", "distance to gray": "{:.3f}", "kept: accuracy": "{:.1%}",
                    "kept: nats": "{:.2f}", "ρ, simplex": "{:+.2f}", "ρ, free": "{:+.2f}", "relearning": "{:.2f}",
                    "seconds": "{:.0f}"})

# %% tags=["remove-input"]
cost = summary["nelbo"] - summary.loc["baseline", "nelbo"]
points = pd.DataFrame({(name, threat): {"x": summary.loc[name, threat], "y": cost[name]}
                       for name in made for threat in strong}).T
chapter.show_figure(
    figures.tradeoff(points, "ρ", "nats lost on what is kept"),
    "Retention against residue: good is low, and near the dotted line of a model that never saw the class. "
    + "; ".join(f"{name} {cost[name]:+.1f} nats" for name in made) + ".",
    alt="A scatter plot: rho on the horizontal axis, nats lost on the vertical one, two points for each method.")

# %% tags=["remove-input"]
chapter.show_figure(
    figures.lines({name: s.to_frame() for name, s in relearned.items()},
                  {"accuracy": f"judge B sees a {digit}"}, "updates on 100 images"),
    "Relearning. Mean accuracy along the way: "
    + ", ".join(f"{name} {s.mean():.2f}" for name, s in relearned.items()) + ".",
    alt="The judge's accuracy on the forgotten class against the number of updates, a line for each model.")

# %% [markdown]
# ## Ranks
#
# No method is best at everything. Each is ranked by five things: what the judge
# still sees of the class, how far $\rho$ lies from 0 (mean over both
# attackers), nats and accuracy lost on what is kept, and seconds.

# %%
scores = pd.DataFrame({
    "the class seen": summary["probability"],
    "|ρ|": summary[strong].abs().mean(axis=1),
    "nats lost": cost,
    "accuracy lost": means["baseline"]["accuracy"]
    - summary["accuracy"],
    "seconds": summary["seconds"]}).loc[list(made)]
ranks = scores.rank()
ranks["sum"] = ranks.sum(axis=1)
ranks = ranks.sort_values("sum")

# %% tags=["remove-input"]
chapter.show_table(ranks.rename_axis("method"), "Ranks, 1 the best, and their sum.",
                   dict.fromkeys(ranks.columns, "{:.1f}"))

# %% tags=["remove-input"]
low = [n for n in made if summary.loc[n, strong].max() < -residual.SPREAD]
high = [n for n in made if summary.loc[n, strong].max() > residual.SPREAD]
still = [n for n in made if summary.loc[n, "probability"] > 0.5]
damaged = [n for n in made if cost[n] > 5]
near = [n for n in made if summary.loc[n, strong].abs().max() <= 0.25 and cost[n] <= 1]
chapter.say(
    "**By the sum of ranks** {best} comes first and {last} last, for this class and this seed.\n\n"
    "{readings}\n\n"
    "One class and one seed are an anecdote, and the reference is a single model here: how far two models that never "
    "saw a class differ is measured in [the chapter on attacks](05_attacks.ipynb). This chapter took {seconds:.0f} s. "
    "Weights: {weights}.",
    best=ranks.index[0], last=ranks.index[-1], seconds=time.perf_counter() - started,
    weights=", ".join(f"{name} `{m.digest[:12]}`" for name, m in models.items()),
    readings="\n".join(f"- {text}: {', '.join(names)}." for text, names in {
        "Did not forget, the judge still sees the class in most samples": still,
        "A residue is left for at least one of the attackers": high,
        "Over-forgotten for both, worse at the class than a model that never saw it": low,
        "More than five nats lost on what was to be kept": damaged,
        "Within 0.25 of never having seen the class for both attackers, at a cost of at most one nat": near,
    }.items() if names))

# %% tags=["remove-cell"]
# The first 2,000: the layers of a convolution are large.
seen = latent.activations(base.net, ds.test_images[:2000], latent.neutral(len(ds.test_images[:2000])))["mean"]
apart = latent.class_distances(seen, ds.test_labels[:2000])


def plain(residual):
    values = {"value": residual.rho, "low": residual.low, "high": residual.high}
    return {key: value if value == value else None for key, value in values.items()}


chapter.write_metrics(run.run_dir, "07_methods", {
    "parameters": {"dataset": run.dataset, "seed": run.seed, "forget": digit, "profile": run.profile,
                   "architecture": run.architecture, "methods": list(run.methods), "changes": run.changes,
                   "longest": longest},
    "models": {name: {
        **{key: float(row[key]) for key in ("probability", "gray", "accuracy", "nelbo", "relearning", "seconds")},
        "rho": {threat: plain(rho[threat][name]) for threat in strong},
        "errors": {threat: [round(float(e), 3) for e in errors[threat][name]] for threat in strong},
        "digest": models[name].digest} for name, row in summary.iterrows()},
    "confusion": judge_b.probabilities(real).mean(0)[:10].tolist(), "latent_distances": apart.loc[digit].tolist(),
    "ranks": ranks["sum"].to_dict(), "best": ranks.index[0], "worst": ranks.index[-1],
    "chapter_seconds": time.perf_counter() - started})

# %% [markdown]
# ## Takeaways
#
# - Whether the class still appears under its label is the first question, not
#   the last. What is left behind the label, and what was broken on the way, tell
#   apart those that pass it.
# - A method that *pushes* a class somewhere pushes what it shares with others
#   along. One that merely stops rehearsing it leaves it where it was. Zero lies
#   between, and is worth aiming at.
# - A comparison needs the reference, the judge and the attackers to be the same
#   for all, and each method at settings that its authors would stand by.

# %% [markdown]
# ## Exercises
#
# The solutions follow, each run with the chapter. Try before you look.
#
# 1. **What the sum of ranks hides.** Leave out each criterion in turn, and then
#    weigh them at random. Who comes first how often?
# 2. **Beaten at everything.** Which methods have another that is at least as
#    good by every criterion and better by one? The others are the *Pareto
#    front*: each is the right choice for someone.
# 3. **Noise is gray.** Selective Amnesia teaches the label uniform noise $u$,
#    and the book teaches it gray. Derive what a decoder that minimises
#    $\mathbb{E}_u [-u \log p - (1 - u) \log (1 - p)]$ draws, and at what cost.
# 4. **Fresh weights.** `unseen` mixes new weights into the old ones. Mix in a
#    share of 0, 0.1, 0.3, 0.5 and 0.7, train nothing, and look at the
#    retained test images. How much of the model is left to start from?

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
import numpy as np

criteria = list(scores.columns)
leaders = {c: ranks[criteria].drop(columns=c).sum(axis=1).idxmin()
           for c in criteria}
weights = np.random.default_rng(run.seed).dirichlet(
    np.ones(len(criteria)), 5000)
sums = weights @ ranks[criteria].fillna(0).to_numpy().T
winners = pd.Series(ranks.index[sums.argmin(axis=1)])
first_place = winners.value_counts(normalize=True)
chapter.say(
    "With all five, {best} comes first. Without {leaders}. With "
    "random weights, {shares}. {reading}",
    best=ranks.index[0], leaders="; without ".join(
        f"{c}, {name}" for c, name in leaders.items()),
    shares=", ".join(f"{name} in {share:.0%}" for name, share
                     in first_place.head(4).items()),
    reading="The order hangs on what is counted, and how much."
    if len(set(leaders.values())) > 1 or first_place.iloc[0] < 0.9
    else "First place does not hang on what is counted.")

# %% [markdown]
# ### Solution 2

# %% tags=["hide-cell"]
known = scores.dropna(axis=1)  # |ρ| is not defined in every run


def beats(one, other):
    one, other = known.loc[one], known.loc[other]
    return (one <= other).all() and (one < other).any()


beaten = {m: [o for o in known.index if beats(o, m)]
          for m in known.index}
chapter.say(
    "On the front: {front}. {others}",
    front=", ".join(m for m, by in beaten.items() if not by),
    others="Beaten at everything: " + "; ".join(
        f"{m} by {', '.join(by)}" for m, by in beaten.items() if by)
    + "." if any(beaten.values()) else
    "No method is beaten at everything: with this many criteria "
    "it is hard not to be best at something, be it at being quick.")

# %% [markdown]
# ### Solution 3
#
# <details><summary>The derivation</summary>
#
# The loss is linear in $u$, so that only its mean counts, which is $\frac12$: it
# is $-\frac12 \log p - \frac12 \log (1 - p)$. Its derivative,
# $-\frac{1}{2p} + \frac{1}{2(1 - p)}$, is 0 at $p = \frac12$, and the loss is
# convex: the best that a decoder can draw is gray, at $\log 2$ a pixel,
# $784 \log 2$ nats in all. (Had the decoder seen $u$ through $z$ it could do
# better; a few numbers do not hold 784 random ones.) Both losses lead to the
# same place. What differs is the pull on the way, and what the encoder learns
# of it.
#
# </details>

# %% tags=["hide-cell"]
generator = torch.Generator().manual_seed(run.seed)
u = torch.rand(10_000, generator=generator)
grid = torch.linspace(0.01, 0.99, 99)
loss = -(u.mean() * grid.log() + (1 - u.mean()) * (1 - grid).log())
taught = "selective_amnesia"
chapter.say(
    "On a grid, with {count:,} draws of u, the least loss is at p "
    "= {p:.2f}: {nats:.1f} nats for 784 pixels, and 784 log 2 is "
    "{theory:.1f}. {reading}",
    count=len(u), p=grid[loss.argmin()], nats=784 * loss.min(),
    theory=784 * np.log(2), reading=(
        f"In this run {taught} ends at "
        f"{summary.loc[taught, 'gray']:.4f} from gray, "
        + ("as derived." if summary.loc[taught, "gray"] <= 0.05 else
           "and not there: what is kept holds it back, or it was "
           "given too few updates."))
    if taught in summary.index else
    f"This run does not have {taught} to compare with.")

# %% [markdown]
# ### Solution 4

# %% tags=["hide-cell"]
from sa_lib.model import build

kept = (ds.test_labels != digit).nonzero().squeeze(1)[:500]
fresh = dict(build(run.model, run.seed + 1).named_parameters())
left = {}
for share in (0.0, 0.1, 0.3, 0.5, 0.7):
    mixed = build(run.model, run.seed).requires_grad_(False)
    for name, weight in mixed.named_parameters():
        old = base.net.get_parameter(name).cpu()
        weight.copy_(torch.lerp(old, fresh[name].detach(), share))
    left[share] = float(evaluation.negative_elbo(
        mixed.to(where), ds.test_images[kept], ds.test_labels[kept],
        run.seed).mean())
coin = 784 * np.log(2)
chapter.say(
    "With a share of {shares}, the retained test images cost "
    "{nats} nats; a gray page costs {coin:.0f}. {reading}",
    shares=", ".join(f"{share:g}" for share in left),
    nats=", ".join(f"{value:.0f}" for value in left.values()),
    coin=coin,
    reading="At the largest share little of what the model could "
    "do is left, and what training finds again it finds from data."
    if left[0.7] > (left[0.0] + coin) / 2 else
    "Even at the largest share a good part of the model is left.")

# %% [markdown]
# ## Try next
#
# - Add `terms_of_yours`: black instead of gray. Is black any better?
# - `papermill -p methods '["fine_tune"]' -p changes '{"steps": 4000}'`: does
#   neglect get there in the end?
# - Forget 1 instead of 9. Which methods change places?
