# %% [markdown]
# # One after another
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/03_sequential.ipynb)
#
# Requests to forget do not come all at once. Suppose that a model has forgotten
# one class and now has to forget a second. Does it still not draw the first?
# And how many classes can it forget in this way before it loses the others?
#
# **You will learn**
#
# - how to forget a second class on top of a first, and how to read relapse and
#   drift off a matrix of steps and classes;
# - which choices the second step has that the first has not, and the cost of
#   each: which classes the new Fisher protects, which weights the penalty is
#   anchored at, and whether earlier classes are still sent to gray;
# - what is left of both classes, by an attacker, over ten other seeds;
# - whether the protection of the other classes wears out from step to step,
#   against forgetting all classes at once and against a model that never saw
#   them.
#
# **You need** nothing but this notebook: it trains the baseline and the judge
# if they are not there yet.
#
# **It takes** about six minutes on two CPU cores the first time, of which the
# baseline is one; under a minute after that. A GPU is used if there is one.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae"
    import sa_lib

# %% tags=["parameters"]
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"] {allow-input: true}
seed = 0  # @param {type: "integer"}
forget = [9, 2]  # @param {type: "raw"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from sa_lib import (chapter, comparison, data, evaluation,
                    experiment, figures, measures, plan, trained,
                    trials)
from sa_lib.attack_tables import flat
from sa_lib.claims import LIMITS, is_forgotten
from sa_lib.evidence import by_seed, estimate
from sa_lib.labels import retain_set
from sa_lib.residual import CONVERGED, MARGIN

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed,
                          forget=forget, profile=profile,
                          architecture=architecture,
                          run_dir=run_dir)
plan.make_ahead("03_sequential", run)  # on all cores
sequence = list(run.forget)

# %% [markdown]
# ## Load, protect, forget, and again
#
# Each step starts from the model of the step before. The weights of that model
# are the new anchor. A new Fisher, computed on that model, says which weights
# the classes still retained depend on. And *all* classes forgotten so far are
# sent to gray, the new one and the old ones. The figure below shows three such
# steps.
#
# ![A chain from the baseline through three steps. Each step is anchored at the model before it, sends one more class to gray, and has a Fisher of one class less.](../book/_static/drawings/timeline.svg)
#
# *A chain of requests, here for 9, 2 and 8. From step to step one more class
# goes to gray, and the Fisher speaks of one class less.*

# %%
ds = data.load(run.dataset)
judge = run.judge(ds, "B")


def forget_next(source, classes, **weights):
    fisher = trained.retain_fisher(source, ds, classes, run.seed)
    config = replace(run.unlearning, **weights)
    return trained.unlearned(source, ds, classes, fisher, config,
                             run.seed)

# %%
def measure(model):
    return evaluation.evaluate(model, ds, judge, None, run.seed,
                               run.samples)


models = [run.baseline(ds)]
for count in range(1, len(sequence) + 1):
    models.append(forget_next(models[-1], sequence[:count]))
tables = [measure(m.net) for m in models]

# %% [markdown]
# ## The matrix of steps and classes
#
# In the figure below, follow a class down its column through the steps. A
# retained class should stay as it was: if it does not, it *drifts*. A forgotten
# class should arrive at gray and stay there: if it comes back later, it
# *relapses*.

# %% tags=["remove-input"]
names = ["baseline"] + [f"− {', '.join(map(str, sequence[:n]))}" for n in range(1, len(models))]
title, limit = "nats lost since the baseline", LIMITS["nats_lost"]
change = pd.DataFrame({names[n]: (tables[n]["nelbo"] - tables[0]["nelbo"]).drop(sequence[:n])
                       for n in range(1, len(models))}).T.reindex(columns=range(ds.classes))
chapter.show_figure(
    figures.matrices({title: change}, {title: "+.1f"}, scale=(-limit, limit)),
    "Every class after every step; –: forgotten by then. The colors reach to the limit for retained classes, "
    f"±{limit} nats; the largest change is {change.abs().max(axis=None):.1f}.")

# %% [markdown]
# The table below checks every class after the last step. A class is *forgotten*
# if the probability that judge B gives its samples is within the book's limit,
# and *drawn gray* if their distance to gray is. *Relapse* is how far a class has
# moved away from gray since its own step.

# %%
final = tables[-1]
checks = pd.DataFrame({
    "requested": final.index.isin(sequence),
    "forgotten": final["probability"].map(is_forgotten),
    "drawn gray": final["gray"] <= LIMITS["gray"]})
forgotten = checks.index[checks["forgotten"]].tolist()
relapse = evaluation.relapse(tables, sequence)
drift = (final["nelbo"] - tables[0]["nelbo"]).drop(sequence)

# %% tags=["remove-input"]
chapter.show_table(checks.assign(gray=final["gray"], relapse=relapse, nats_lost=drift),
                   "Every class after the last step.")

# %% [markdown]
# If a class is requested and not forgotten, this run has failed for it. If one
# is forgotten and not requested, the chain has taken more than it should. The
# table below holds the chain to the book's claims.

# %%
retained = ["accuracy", "nelbo"]
retained_before, retained_after = (
    evaluation.retained_means(table, sequence)[retained]
    for table in (tables[0], final))

# %% tags=["remove-input"]
metrics = {"forgotten": forgotten, "gray": final.loc[sequence, "gray"].to_dict(),
           "gray_most": final.loc[sequence, "gray"].max(), "relapse": relapse.max(),
           "retained": {**retained_after, **retained_before.add_suffix("_baseline")},
           "steps": {name: table.to_dict("index") for name, table in zip(names, tables)}}
run.show_claims("03_sequential", metrics)

# %% [markdown]
# Do the drawings agree? In the figure below, a column has one code and one
# label; from row to row, only the model changes.

# %%
classes = torch.arange(ds.classes).repeat(2)
strips = [evaluation.prior_samples(m.net, classes, run.seed)
          for m in models]

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack(strips), names, [*range(ds.classes)] * 2),
    f"The same latent codes and labels after each step. The steps forget {', '.join(map(str, sequence))}.")

# %% [markdown]
# ## The choices of the second step
#
# The first step had one natural reading. The second has several:
#
# - **Which classes does the new Fisher protect?** "All but the first", as in
#   the first step, also protects the class that is now to be forgotten. Only
#   those *still retained* protects neither. And the Fisher of a set can be the
#   mean over its images or the *sum over its classes*, which is a stronger
#   penalty in disguise.
# - **Where is it anchored?** At the model that the step starts from, or still
#   at the baseline, which knew the first class.
# - **Which classes are sent to gray?** The new class alone, or the old one with
#   it. With a Fisher that leaves out the first class and a gray term on the
#   second, nothing holds the first at gray.
#
# We measure the choices in two situations: with rehearsal ($\lambda = 1$, as
# above), and with the penalty alone ($\lambda = 100$, no real images, no
# replay), so that nothing else holds the model. The table below has a row for
# each choice that we try.

# %%
others = [k for k in reversed(range(ds.classes))
          if k not in sequence]
long = (sequence + others)[:max(min(5, ds.classes - 1),
                                len(sequence))]
first, second = pair = long[:2]
base = models[0]
source = forget_next(base, [first])
by_class = trained.fishers(source, ds, run.seed)
all_but_first = trained.retain_fisher(source, ds, first, run.seed)
still = trained.retain_fisher(source, ds, pair, run.seed)
total = {name: sum(by_class[k][name]
                   for k in retain_set(pair, ds.classes))
         for name in still}
old = trained.retain_fisher(base, ds, pair, run.seed)

# %%
variants = {
    "all but first | here | new": (all_but_first, source, second),
    "all but first | here | both": (all_but_first, source, pair),
    "retained | here | new": (still, source, second),
    "retained | here | both": (still, source, pair),
    "retained, sum | here | both": (total, source, pair),
    "retained | baseline | both": (old, base, pair)}
alone = {"real": 0.0, "replay": 0.0, "ewc": 100.0}
situations = {
    "rehearsal": ({}, ["all but first | here | new",
                       "retained | here | new",
                       "retained | here | both"]),
    "penalty alone": (alone, list(variants))}

# %%
choice_models = {}
for situation, (weights, chosen) in situations.items():
    config = replace(run.unlearning, **weights)
    for name in chosen:
        fisher, anchor, push = variants[name]
        choice_models[f"{situation}: {name}"] = trained.unlearned(
            source, ds, pair, fisher, config, run.seed, push=push,
            anchor=anchor)

# %% tags=["hide-input"]
def pair_and_rest(model):
    table = measure(model.net)
    gray = table.loc[pair, "gray"].rename("{} to gray".format)
    return {**gray,
            **evaluation.retained_means(table, pair)[retained]}


rows = {f"before this step (without {first})": source}
choices = pd.DataFrame({name: pair_and_rest(m) for name, m
                        in (rows | choice_models).items()}).T

# %% tags=["remove-input"]
chapter.show_table(
    choices.rename_axis("Fisher protects | anchor | sent to gray"),
    f"Forgetting {second} after {first}. Accuracy and negative ELBO are means over the classes still retained.",
    dict.fromkeys(choices.columns[:2], "{:.4f}"))

# %% [markdown]
# - **Sent to gray.** Compare "retained | here | new" with "retained | here |
#   both" in the column of the first class. If the class is farther from gray
#   with "new", it moves away when nothing holds it. Beyond the limit for gray it
#   has come back. To keep it covered is the safer choice in any case.
# - **Protected.** With the penalty alone, compare "all but first | here | both"
#   with "retained | here | both" in the column of the second class: the first
#   of the two Fishers also protects that class. The sum over classes is a
#   stronger penalty (exercise 2); look for its effect on both sides, the second
#   class and the retained ones.
# - **Anchor.** "retained | baseline | both" pulls the weights back to a model
#   that knew the first class, and its Fisher is computed on that model as well.
#   Compare the columns of the first class and of accuracy with those of
#   "retained | here | both".

# %% [markdown]
# ## Gone, or hidden?
#
# Gray drawings do not show that a class is gone. [The chapter on
# attacks](05_attacks.ipynb) has the measure for that: $\rho$ compares the
# errors of an attacker with those on models that never saw the class; 0 says
# that nothing is left, and 1 that all is. The table below has both classes of a
# sequence that is always 9 and then 2, over the ten seeds of [the chapter on
# evidence](08_evidence.ipynb). Models that never saw the two got as many further
# updates as the sequence takes. *Mended* models were trained further on the
# other eight classes, which repairs damage and brings back what it had hidden.

# %%
pair_csv = trials.RESULTS / "sequential.csv"
trial = trials.read(pair_csv, (9, 2))
ways = ["one after another", "at once"]
rho = comparison.rho_table(trial, ways)


def added(state):
    """What the sequence adds to ρ over forgetting at once."""
    error = trial[f"errors.{state}"].map(np.mean).unstack("model")
    gap = (error["retrain"] - error["baseline"]).mean()
    pairs = (error["at once"] - error["one after another"]) / gap
    return estimate(by_seed(pairs))

# %% tags=["remove-input"]
left = rho.assign(looked=[f"{one['rho']:+z.2f} [{one['low']:+z.2f}, {one['high']:+z.2f}], {one['verdict']}" for _, one in rho.iterrows()])
late = trial[[f"shortfall.{state}" for state in trials.STATES]].stack().groupby(["forget", "model"]).max()
chapter.show_table(flat(left["looked"].unstack("condition"), "forget", "model").rename_axis(columns=None).rename_axis("class: model"),
                   f"ρ, with 95% intervals over seeds, and the verdict. Gone: within {MARGIN} of 0, by two one-sided tests.")
chapter.say("Over both classes, the sequence adds {before} to ρ of forgetting at once, and {after} when mended. With ten times the "
            "rounds, the attacker's error is lower by at most {most:.1%}, on seed {seed}; {limit:.0%} is the limit for a verdict.",
            before=str(added("as is")), after=str(added("mended")), most=late.max(), limit=CONVERGED,
            seed=trial.index[trial["shortfall.as is"].notna()].unique("seed")[0])

# %% [markdown]
# A *residue* in one state is enough, so read the column of the mended models
# first: it says whether a class is gone, or only hidden. The line under the
# table above is about the sequence itself. If its intervals lie well within the
# margin, it hardly matters whether two classes are forgotten at once or one
# after another.
#
# ## Does the shield wear out?
#
# Now a longer chain. If protection is imperfect, its losses may add up from
# step to step. We run two chains, one with rehearsal and one with the penalty
# alone ($\lambda = 100$), beside two references: the same classes forgotten
# **at once**, and a model that **never saw** them. The figure below and the table
# below measure all of them on the classes that no step forgets.

# %%
chains = {}
for name, weights in {"rehearsal": {},
                      "penalty alone": alone}.items():
    chain = chains[name] = [base]
    for count in range(1, len(long) + 1):
        chain.append(forget_next(chain[-1], long[:count],
                                 **weights))
references = {"at once": [forget_next(base, long)],
              "never saw": [run.never_saw(ds, long, rounds=1)]}

# %% tags=["hide-input"]
measured = {name: [measure(m.net) for m in chain]
            for name, chain in (chains | references).items()}
lines = {name: pd.DataFrame(
    [evaluation.retained_means(table, long)[retained]
     for table in found], index=range(len(long) + 1)[-len(found):])
    for name, found in measured.items()}

# %% tags=["remove-input"]
chapter.show_figure(
    figures.lines(lines, {"accuracy": measures.label("accuracy")}, "classes forgotten"),
    f"Forgetting {', '.join(map(str, long))} in this order: judge B's accuracy on the classes that no step forgets.")

# %%
ends = evaluation.summary(
    {"baseline": tables[0]}
    | {name: found[-1] for name, found in measured.items()},
    long, "baseline").drop(columns="probability")
ends["retained"] = (
    (ends["points_lost"] <= LIMITS["points_lost"])
    & (ends["nats_lost"] <= LIMITS["nats_lost"]))

# %% tags=["remove-input"]
chapter.show_table(ends, "The baseline, and every model after the last step. The distance to gray is the largest of a "
                   "forgotten class. Retained: points and nats lost are within the book's limits.")

# %% [markdown]
# If the last column of the table above says "yes" for a chain, its shield has not
# worn out. If it says "no", look at the figure above: do the losses grow with
# every class? The difference between the chain with rehearsal and "at once" is the price of one
# after another. The difference between "at once" and "never saw" is the price
# of forgetting. If "never saw" is the worse of the two, no price shows: it was
# trained for as many epochs on fewer images, so with fewer updates.
#
# A chain takes as many times the updates of forgetting at once as it has
# steps. The model that never saw the classes got as many further updates, on
# retained data, as forgetting at once.

# %% tags=["remove-input"]
kept = {name.replace(" ", "_"): ends.loc[name, "accuracy"] for name in ends.index}
all_models = {**dict(zip(names, models)), **choice_models, **{
    f"{name}, {n}": m for name, chain in (chains | references).items() for n, m in enumerate(chain)}}
run.finish("03_sequential", metrics | {
    "left": {f"{way.replace(' ', '_')}_{k}": {state.replace(" ", "_"): rho.loc[(state, k, way), "rho"] for state in trials.STATES}
             for way in ways for k in trial.index.unique("forget")},
    "models": {name: m.digest for name, m in all_models.items()}, "choices": choices.to_dict("index"),
    "short": kept | {"classes": len(long)},
    "long": {"classes": long, **{name: table.to_dict("list") for name, table in lines.items()}}},
    dict(zip(names, models)), started)

# %% tags=["remove-input", "in-short"]
chapter.say(
    "**In short**\n\n"
    "- After forgetting {sequence}, one after another, the forgotten classes are at most {gray:.4f} from gray. None came "
    "back: the largest move away from gray is {relapse:.4f}. Gray is not gone: over other seeds, {words}.\n"
    "- After {count} requests in a row, with rehearsal, judge B recognizes {rehearsal:.1%} of the classes that nobody asked "
    "to forget, {baseline:.1%} at the start. With the penalty alone it is {alone:.1%}.\n"
    "- Forgetting the same {count} at once gives {at_once:.1%}, and a model that never saw them {never_saw:.1%}.",
    words=" and ".join(f"ρ of {k} is {rho.loc[('mended', k, ways[0]), 'rho']:+z.2f} when mended (*{rho.loc[('mended', k, ways[0]), 'verdict']}*)"
                       for k in trial.index.unique("forget")),
    sequence=", ".join(map(str, sequence)), gray=metrics["gray_most"], relapse=max(metrics["relapse"], 0.0),
    count=len(long), rehearsal=kept["rehearsal"], baseline=kept["baseline"], alone=kept["penalty_alone"],
    at_once=kept["at_once"], never_saw=kept["never_saw"])

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input", "takeaways"]
nats = ends["nats_lost"]
gray_first, gray_second = (choices[f"{k} to gray"] for k in pair)
alone_all, alone_still, with_all, with_still = (gray_second[f"{situation}: {protected} | here | new"] for situation in (
    "penalty alone", "rehearsal") for protected in ("all but first", "retained"))
chapter.say(
    "- Whether a forgotten class comes back while the model forgets the next one is a question to measure. Go on sending it "
    "to gray: with rehearsal, {first} then ends {both:.5f} from gray, and {new:.5f} without.\n"
    "- With the penalty alone, each step needs the Fisher of the classes that are *still* retained. With it, {second} ends "
    "{alone_still:.4f} from gray, and with that of all but {first}, which protects {second} too, {alone_all:.4f}. With "
    "rehearsal, the two are {with_still:.4f} and {with_all:.4f}.\n"
    "- What rehearsal does shows in the classes that nobody asked to forget. After {count} requests, their negative ELBO has "
    "changed by {rehearsed:+z.1f} nats with rehearsal, and by {alone:+z.1f} with the penalty alone.\n"
    "- What is left need not depend on the order. When mended, the sequence adds {sequence} to ρ of forgetting at once.\n"
    "- Judge a chain by these classes, against forgetting all at once and against a model that never saw the others. Those "
    "two are {at_once:+z.1f} and {never:+z.1f} nats from the baseline.", first=first, second=second, count=len(long),
    both=gray_first["rehearsal: retained | here | both"], new=gray_first["rehearsal: retained | here | new"],
    alone_all=alone_all, alone_still=alone_still, with_all=with_all, with_still=with_still, rehearsed=nats["rehearsal"],
    alone=nats["penalty alone"], at_once=nats["at once"], never=nats["never saw"], sequence=str(added("mended")))

# %% [markdown]
# ## Check yourself
#
# Answer first, then unfold.
#
# <details><summary>Why is the Fisher of "all but the first" wrong for the second step?</summary>
#
# It also protects the class that is now to be forgotten. The second step needs
# the Fisher of the classes that are still retained, computed on the model from
# which the step starts.
#
# </details>
#
# <details><summary>The second class is gray. What else must you check?</summary>
#
# Whether the first class has come back, which is relapse, and whether the
# retained classes have changed, which is drift. A step can succeed for its own
# class and fail for the others.
#
# </details>
#
# <details><summary>A chain loses more than forgetting at once. Is that the price of forgetting?</summary>
#
# No, it is the price of forgetting one class after another. The price of
# forgetting is the difference between forgetting at once and a model that never
# saw the classes.
#
# </details>

# %% [markdown]
# ## Exercises
#
# The solutions follow; they run with the chapter. Try before you look.
# Easy takes about 10 minutes, medium about 20, and hard about 40.
#
# 1. **How few updates?** Make `source` forget the second class with 10 and with
#    30 updates, all else as in "retained | here | both" with rehearsal. How
#    close to gray does it come? (easy)
# 2. **Sum or mean.** Derive by which factor the sum of the classes' Fishers is
#    a stronger penalty than the mean over their images. When is it exactly the
#    number of classes? Compare with `total` and `still`. (medium)
# 3. **Who relapses?** In the two long chains, take every class after every step
#    at which it should be gray. Which one moves away farthest? (easy)
# 4. **Straight or winding?** With steps $d_1, \dots, d_n$ of the weights, expand
#    $\lVert \sum_i d_i \rVert^2$. What is it if all steps point the same way,
#    and if each is at right angles to the others? Which of the two is closer
#    to the chains above? (hard)

# %% [markdown]
# ### Solution 1
#
# If 30 updates cover most of the way, to turn gray is quick, and the many
# updates that follow repair the damage. If they do not, so few are too few.

# %% tags=["hide-cell"]
from sa_lib.methods import distance_to_gray


def gray(m, k):
    drawn = evaluation.prior_samples(
        m.net, torch.full((100,), k), run.seed)
    return float(distance_to_gray(drawn).mean())


quick = {steps: trained.unlearned(
    source, ds, pair, still, replace(run.unlearning, steps=steps),
    run.seed) for steps in (10, 30)}
distances = {0: gray(source, second)} | {
    steps: gray(model, second) for steps, model in quick.items()}
distances[run.unlearning.steps] = choices.loc[
    "rehearsal: retained | here | both", f"{second} to gray"]
chapter.say(
    "After {steps} updates, {second} is at {gray} from gray.",
    steps=", ".join(map(str, distances)), second=second,
    gray=", ".join(f"{d:.4f}" for d in distances.values()))

# %% [markdown]
# ### Solution 2
#
# <details><summary>The derivation</summary>
#
# Let $F_k$ be the mean over the $n_k$ images of class $k$, and $N = \sum_k n_k$.
# The mean over all images of $K$ classes is $\sum_k \frac{n_k}{N} F_k$; the sum
# is $\sum_k F_k$. Summed over the weights, with $t_k$ for the sum of $F_k$, the
# factor is
#
# $$
# \frac{\sum_k t_k}{\sum_k \frac{n_k}{N} t_k} .
# $$
#
# It is $K$ if all classes have equally many images ($n_k / N = 1 / K$), and
# also whenever all $t_k$ are equal. It is more if small classes have the large
# Fishers. With the same $\lambda$, the sum is the mean with $\lambda$ times
# that factor. What separates it from $K$ are classes of different sizes together
# with Fishers of different sizes.
#
# </details>

# %% tags=["hide-cell"]
counts = torch.bincount(ds.train_labels).tolist()
images = {k: counts[k] for k in retain_set(pair, ds.classes)}
traces = {k: sum(float(f.sum()) for f in by_class[k].values())
          for k in images}
share = {k: count / sum(images.values())
         for k, count in images.items()}
derived = sum(traces.values()) / sum(
    share[k] * trace for k, trace in traces.items())
measured = (sum(float(f.sum()) for f in total.values())
            / sum(float(f.sum()) for f in still.values()))
chapter.say(
    "{n} classes are retained. The derived factor is "
    "{derived:.3f}, and the one of `total` and `still` is "
    "{measured:.3f}. The classes have {fewest:,} to {most:,} "
    "images, and the largest Fisher of a class is {ratio:.1f} "
    "times the smallest.",
    n=len(images), derived=derived, measured=measured,
    fewest=min(images.values()), most=max(images.values()),
    ratio=max(traces.values()) / min(traces.values()))

# %% [markdown]
# ### Solution 3
#
# Compare the answer with the book's limit for gray. Below it, no class comes
# back in either chain: each step sends all the earlier ones to gray again. Above
# it, gray gives way where other demands are stronger, although every step
# teaches it again.

# %% tags=["hide-cell"]
away = {}
for name, chain in chains.items():
    for step, k in enumerate(long, 1):
        path = [gray(model, k) for model in chain[step:]]
        away[name, k] = max(path) - path[0]
name, k = max(away, key=away.get)
chapter.say(
    "It is {k}, in the chain \"{name}\": {most:.4f} since its own "
    "step. The limit is {limit}.",
    k=k, name=name, most=away[name, k], limit=LIMITS["gray"])

# %% [markdown]
# ### Solution 4
#
# <details><summary>The derivation</summary>
#
# $$
# \Big\lVert \sum_i d_i \Big\rVert^2 = \sum_i \lVert d_i \rVert^2
# + 2 \sum_{i < j} d_i \cdot d_j
# $$
#
# Steps that all point the same way end $\sum_i \lVert d_i \rVert$ away from the
# start. At right angles the second sum is 0, and they end
# $\sqrt{\sum_i \lVert d_i \rVert^2}$ away; steps that undo each other, nearer
# than that.
#
# </details>
#
# On a scale from 0 for right angles to 1 for a straight way, a chain below 0 has
# steps that partly undo each other.

# %% tags=["hide-cell"]
def weights_of(m):
    return torch.cat([weight.detach().flatten().cpu()
                      for weight in m.net.parameters()])


travel = {}
for name, chain in chains.items():
    path = torch.stack([weights_of(model) for model in chain])
    lengths = path.diff(dim=0).norm(dim=1)
    travel[name] = {"end": float((path[-1] - path[0]).norm()),
                    "straight": float(lengths.sum()),
                    "right angles": float(lengths.norm())}
travel = pd.DataFrame(travel).T
chapter.show_table(
    travel.rename_axis("chain"),
    "Distance of the last weights from the first, and the distance "
    "that steps of the same lengths would give.",
    dict.fromkeys(travel.columns, "{:.2f}"))
ways = ((travel["end"] - travel["right angles"])
        / (travel["straight"] - travel["right angles"]))
chapter.say(
    "On this scale the chains are at {ways}.",
    ways=", ".join(f"{way:.2f} ({name})"
                   for name, way in ways.items()))

# %% [markdown]
# ## Try next
#
# - Run `forget = [4, 9]`, two classes that resemble each other, and
#   then `[9, 4]`. Does the order matter?
# - Forget the same class twice: start from `models[1]` and call `forget_next`
#   with `[first]` again. What changes?
# - In the chain with the penalty alone, add up the Fishers of all steps, as in
#   online EWC, instead of using the last one.
#
# Next: [look inside the model](04_latent.ipynb): does it still know the class?
