# %% [markdown]
# # One after another
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/03_sequential.ipynb)
#
# Requests to forget do not come all at once. A model that has forgotten one
# class is asked to forget a second: will it still not draw the first, and how
# often can this be repeated before what is to be kept wears away?
#
# **You will learn**
#
# - how a second class is forgotten on top of a first, and how relapse and
#   drift are read off a matrix of steps and classes;
# - that the second step has choices which the first has not, and what each
#   costs: which classes the new Fisher protects, which weights the penalty is
#   anchored at, and whether earlier classes are still sent to gray;
# - whether five steps wear out what protects the rest, against forgetting the
#   five at once and against a model that never saw them.
#
# **You need** nothing but this notebook: the baseline and the judge are
# trained here if they are not there yet.
#
# **It takes** about ten minutes on two CPU cores the first time, of which the
# baseline is two; under a minute after that. A GPU is used if there is one.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae"
    import sa_lib

# %% tags=["parameters"]
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"]
seed = 0  # @param {type: "integer"}
forget = [9, 2]  # @param {type: "raw"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import time
from dataclasses import replace

import pandas as pd
import torch

from sa_lib import (chapter, data, evaluation, experiment, figures, trained)
from sa_lib.labels import retain_set
from sa_lib.fisher import combine

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed,
                       forget=forget,
                       profile=profile, architecture=architecture,
                       run_dir=run_dir)
sequence = list(run.forget)

# %% [markdown]
# ## Load, protect, forget, and again
#
# Each step starts from the model that the step before has left. Its weights
# are the new anchor; a new Fisher, computed on that model, says which of them
# the classes still retained depend on; and *all* classes forgotten so far are
# sent to gray, the new one and the old ones.

# %%
ds = data.load(run.dataset)
judge = run.judge(ds, "B")


def forget_next(source, gone, **weights):
    fisher = trained.retain_fisher(source, ds, gone, run.seed)
    config = replace(run.unlearning, **weights)
    return trained.unlearned(source, ds, gone, fisher, config, run.seed)


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
# Down a column one follows a class through the steps. A forgotten one should
# arrive at gray and stay there: if it comes back later, it *relapses*. A
# retained one should stay as it was: if it does not, it *drifts*.

# %% tags=["hide-input"]
names = ["baseline"] + [f"− {', '.join(map(str, sequence[:n]))}"
                        for n in range(1, len(sequence) + 1)]
titles = {"gray": "distance to gray",
          "probability": "probability of the class, by judge B",
          "accuracy": "share of samples judged right",
          "nelbo": "negative ELBO of test images, nats"}
matrix = {title: pd.DataFrame({name: table[column] for name, table
                               in zip(names, tables)}).T
          for column, title in titles.items()}

# %% tags=["remove-input"]
formats = dict(zip(titles.values(), (".3f", ".2f", ".3f", ".1f")))
chapter.show_figure(
    figures.matrices(matrix, formats, {name: sequence[:n] for n, name in enumerate(names)}),
    "Every class after every step; framed: forgotten by then. At the end the forgotten classes are at most "
    f"{tables[-1].loc[sequence, 'gray'].max():.4f} from gray, the others at least "
    f"{tables[-1].loc[list(retain_set(sequence)), 'gray'].min():.3f}.",
    alt="Four heat maps with a row for each step and a column for each class: distance to gray, judge's probability, "
        "accuracy and negative ELBO.")

# %%
final = tables[-1]
forgotten = [k for k in range(10) if final.loc[k, "gray"] < 0.1]
assert forgotten == sorted(sequence), f"forgotten: {forgotten}"

# %% tags=["remove-input"]
kept = list(retain_set(sequence))
was, now = (evaluation.retained_means(table, sequence) for table in (tables[0], final))
drift = (final["nelbo"] - tables[0]["nelbo"])[kept]
rises = {k: final.loc[k, "gray"] - tables[n].loc[k, "gray"] for n, k in enumerate(sequence[:-1], 1)}
relapse = max([0.0, *rises.values()])
chapter.say(
    "**Forgotten:** the set of classes that are gray at the end is {forgotten}, as asked (the cell above stops the "
    "chapter if it is not). Their distance to gray: {gray}. {relapse_text}\n\n"
    "**Retained:** judge B recognises {accuracy:.2%} of the samples of the other {count} (baseline: {was:.2%}); "
    "their test images cost {nelbo:.2f} nats (baseline: {nelbo_was:.2f}). The class that drifted most is {worst}, by "
    "{most:+.2f} nats.",
    forgotten=", ".join(map(str, forgotten)), count=len(kept),
    gray=", ".join(f"{k}: {final.loc[k, 'gray']:.4f}" for k in sequence),
    relapse_text="Since it was forgotten, " + ", ".join(f"{k} has moved {rise:+.4f} away from gray" for k, rise
                                                       in rises.items()) + "." if rises else "",
    accuracy=now["accuracy"], was=was["accuracy"], nelbo=now["nelbo"], nelbo_was=was["nelbo"],
    worst=drift.idxmax(), most=drift.max())

# %%
asked = torch.arange(10).repeat(2)
strips = [evaluation.prior_samples(m.net, asked, run.seed)
          for m in models]

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack(strips), rows=names, columns=[*range(10)] * 2),
    f"The same twenty latent codes and labels after each step. Labels {', '.join(map(str, sequence))} end in gray.",
    alt="A grid of samples: one row for each step, one column for each of the ten classes, twice over.")

# %% [markdown]
# ## What the second step has to decide
#
# The first step had one natural reading. The second has several:
#
# - **Which classes does the new Fisher protect?** "All but the first", as in
#   the first step, protects the very class that is now to be forgotten. Only
#   those *still retained* protects neither. And the Fisher of a set can be the
#   mean over its images or the *sum over its classes*, which is a stronger
#   penalty in disguise.
# - **Where is it anchored?** At the model the step starts from, or still at
#   the baseline, where the first class was known.
# - **What is sent to gray?** The new class alone, or the old one with it. With
#   a Fisher that leaves out the first class and a gray term on the second,
#   nothing holds the first at gray.
#
# The choices are measured in two situations: with rehearsal ($\lambda = 1$,
# as above), and with the penalty alone ($\lambda = 100$, no real images, no
# replay), where there is nothing else to hold the model.

# %%
others = [k for k in range(9, -1, -1) if k not in sequence]
long = (sequence + others)[:max(5, len(sequence))]
first, second = gone = long[:2]
base = run.baseline(ds)
source = forget_next(base, [first])
by_class = trained.fishers(source, ds, run.seed)
counts = torch.bincount(ds.train_labels).tolist()
all_but_first = combine(by_class, {k: counts[k] for k
                                   in retain_set([first])})
still = trained.retain_fisher(source, ds, gone, run.seed)
rest = list(retain_set(gone))
total = {name: sum(by_class[k][name] for k in rest)
         for name in still}
old = trained.retain_fisher(base, ds, gone, run.seed)
variants = {
    "all but first | here | new": (all_but_first, source, [second]),
    "all but first | here | both": (all_but_first, source, gone),
    "retained | here | new": (still, source, [second]),
    "retained | here | both": (still, source, gone),
    "retained, sum | here | both": (total, source, gone),
    "retained | baseline | both": (old, base, gone)}

# %%
situations = {
    "rehearsal": ({}, ["all but first | here | new",
                       "retained | here | new",
                       "retained | here | both"]),
    "penalty alone": ({"real": 0.0, "replay": 0.0, "ewc": 100.0},
                      list(variants))}
rows, chosen_models = {}, {}
for situation, (weights, chosen) in situations.items():
    config = replace(run.unlearning, **weights)
    for name in chosen:
        fisher, anchor, push = variants[name]
        model = trained.unlearned(source, ds, gone, fisher, config,
                              run.seed, push=push, anchor=anchor)
        chosen_models[f"{situation}: {name}"] = model
        table = measure(model.net)
        kept_means = evaluation.retained_means(table, gone)
        rows[situation, name] = {
            "first": table.loc[first, "gray"],
            "second": table.loc[second, "gray"],
            "accuracy": kept_means["accuracy"],
            "nelbo": kept_means["nelbo"]}
choices = pd.DataFrame(rows).T

# %% tags=["remove-input"]
before = measure(source.net)
start = evaluation.retained_means(before, gone)
shown = choices.set_axis([f"{situation}: {name}" for situation, name in choices.index])
shown = pd.concat([pd.DataFrame({"first": before.loc[first, "gray"], "second": before.loc[second, "gray"],
                                 "accuracy": start["accuracy"], "nelbo": start["nelbo"]},
                                index=[f"before this step (without {first})"]), shown])
titled = {"first": f"{first} to gray", "second": f"{second} to gray", "accuracy": "retained accuracy",
          "nelbo": "retained nats"}
chapter.show_table(
    shown.rename(columns=titled).rename_axis("Fisher protects | anchor | sent to gray"),
    f"Forgetting {second} after {first}, by what is protected, where it is anchored and what is sent to gray.",
    {titled["first"]: "{:.4f}", titled["second"]: "{:.4f}", "retained accuracy": "{:.1%}", "retained nats": "{:.2f}"})

# %% tags=["remove-input"]
alone = choices.loc["penalty alone"]
described, ours = alone.loc["all but first | here | new"], alone.loc["retained | here | both"]
uncovered = choices.xs("retained | here | new", level=1)
relapses = {s: uncovered.loc[s, "first"] - before.loc[first, "gray"] for s in situations}
closest = alone["second"].idxmin()
chapter.say(
    "**What is sent to gray.** With a Fisher of the retained classes and only {second} sent to gray, class {first} "
    "moves by {rehearsed:+.4f} away from gray with rehearsal and by {alone:+.4f} with the penalty alone; with both sent "
    "there it ends at {both_r:.4f} and {both_a:.4f}. {relapse}\n\n"
    "**What is protected.** Where the penalty is all there is, the Fisher of all but {first} "
    "leaves class {second} at {protected:.4f} from gray, that of the classes still retained at {ours:.4f} (both with both "
    "classes sent to gray); retained accuracy is {acc_p:.1%} and {acc_o:.1%}. The sum over classes, a penalty {factor:.0f} times "
    "as strong, leaves it at {summed:.4f} and retains {acc_s:.1%}.\n\n"
    "**The anchor:** at the baseline instead of here, class {first} ends at {anchor_first:.4f} from gray and retained "
    "accuracy is {acc_b:.1%}. Of the six, class {second} comes closest to gray with \"{closest}\".",
    relapse=f"Left alone, class {first} does come back." if max(relapses.values()) > 0.01 else
    f"So class {first} hardly comes back even when nothing holds it at gray: what was learned last stays, unless something "
    "pulls at it. To keep it covered is the safer choice.",
    first=first, second=second, rehearsed=relapses["rehearsal"], alone=relapses["penalty alone"],
    both_r=choices.loc[("rehearsal", "retained | here | both"), "first"], both_a=ours["first"],
    protected=alone.loc["all but first | here | both", "second"], ours=ours["second"],
    acc_p=alone.loc["all but first | here | both", "accuracy"], acc_o=ours["accuracy"],
    factor=sum(float(f.sum()) for f in total.values()) / sum(float(f.sum()) for f in still.values()),
    summed=alone.loc["retained, sum | here | both", "second"],
    acc_s=alone.loc["retained, sum | here | both", "accuracy"],
    anchor_first=alone.loc["retained | baseline | both", "first"],
    acc_b=alone.loc["retained | baseline | both", "accuracy"], closest=closest)

# %% [markdown]
# ## Does the shield wear out?
#
# Five classes, one after another. If protection is imperfect, its losses add
# up from step to step. Two chains are run, one with rehearsal and one with the
# penalty alone ($\lambda = 100$), beside two references: the same classes
# forgotten **at once**, and a model that **never saw** them. All are measured
# on the classes that nobody forgets.

# %%
alone_weights = situations["penalty alone"][0]
chains = {"rehearsal": {}, "penalty alone": alone_weights}
ends = {}
for name, weights in chains.items():
    chain = [base]
    for count in range(1, len(long) + 1):
        chain.append(forget_next(chain[-1], long[:count],
                                 **weights))
    ends[name] = chain
references = {"at once": forget_next(base, long),
              "never saw": run.never_saw(ds, long, rounds=1)}


# %% tags=["hide-input"]
def summary(m, forgotten):
    table = measure(m.net)
    means = evaluation.retained_means(table, long)
    gray = table.loc[forgotten or long, "gray"].max()
    return {"accuracy": means["accuracy"], "nelbo": means["nelbo"],
            "gray": gray}


lines = {name: pd.DataFrame([summary(m, long[:n])
                             for n, m in enumerate(chain)])
         for name, chain in ends.items()}
for name, model in references.items():
    lines[name] = pd.DataFrame([summary(model, long)],
                               index=[len(long)])

# %% tags=["remove-input"]
last = pd.DataFrame({name: table.iloc[-1] for name, table in lines.items()}).T
chapter.show_figure(
    figures.lines(lines, {"accuracy": "accuracy on what stays", "nelbo": "nats on what stays",
                          "gray": "largest distance to gray"}, "classes forgotten", logarithmic=["gray"]),
    f"Forgetting {', '.join(map(str, long))} in this order, measured on the others. After the last step they cost "
    + ", ".join(f"{row.nelbo:.2f} nats ({name})" for name, row in last.iterrows()) + ".",
    alt="Three panels against the number of classes forgotten: accuracy and negative ELBO of the classes that stay, "
        "and the largest distance to gray of those forgotten (at 0: of those to be forgotten); a line for each of two chains and a point for each of "
        "two references.")

# %% tags=["remove-input"]
base_row, steps = lines["rehearsal"].iloc[0], len(long)
worn = {name: lines[name]["nelbo"].iloc[-1] - base_row["nelbo"] for name in chains}
against = last.loc["rehearsal", "nelbo"] - last.loc["at once", "nelbo"]
hashes = {name: m.digest for name, m in [
    *zip(names, models), *((f"{name}, {n}", m) for name, chain in ends.items() for n, m in enumerate(chain)),
    *references.items(), *chosen_models.items()]}
chapter.say(
    "After {steps} steps, the classes that stay cost {rehearsal:+.2f} nats against the baseline with rehearsal and "
    "{alone:+.2f} with the penalty alone; judge B recognises {acc_r:.1%} and {acc_a:.1%} of their samples (baseline: "
    "{acc_b:.1%}). At once instead of one after another: {once:.2f} nats, {acc_o:.1%}; a model that never saw "
    "any of the {steps}: {never:.2f} nats, {acc_n:.1%}. {rehearsed_text} {alone_text}\n\n"
    "The chain had {steps} times the updates that forgetting at once took; the model that never saw the classes was "
    "given as many further ones, on retained data, as the latter. This chapter took {seconds:.0f} s. Weights: after "
    "{names} `{digest}`."
    "\n\n<details><summary>The weights of all models</summary>\n\n{hashes}\n\n</details>",
    steps=steps, rehearsal=worn["rehearsal"], alone=worn["penalty alone"], acc_r=last.loc["rehearsal", "accuracy"],
    acc_a=last.loc["penalty alone", "accuracy"], acc_b=base_row["accuracy"], once=last.loc["at once", "nelbo"],
    acc_o=last.loc["at once", "accuracy"], never=last.loc["never saw", "nelbo"],
    acc_n=last.loc["never saw", "accuracy"],
    rehearsed_text="With rehearsal nothing wears out within 0.5 nat." if worn["rehearsal"] <= 0.5 else
    "Even with rehearsal the losses add up.",
    alone_text="The penalty alone does wear out: its loss grows with every class."
    if worn["penalty alone"] > max(0.5, 2 * worn["rehearsal"]) else "Nor does the penalty alone.",
    seconds=time.perf_counter() - started, names=", ".join(map(str, sequence)), digest=models[-1].digest[:12],
    hashes=", ".join(f"{name} `{digest[:12]}`" for name, digest in hashes.items()))

# %% tags=["remove-cell"]
chapter.write_metrics(run.run_dir, "03_sequential", {
    "parameters": {"dataset": run.dataset, "seed": run.seed, "forget": sequence, "profile": run.profile,
                   "architecture": run.architecture},
    "forgotten": forgotten, "gray": {str(k): final.loc[k, "gray"] for k in sequence},
    "gray_most": final.loc[sequence, "gray"].max(), "relapse": relapse,
    "retained": {"accuracy": now["accuracy"], "accuracy_baseline": was["accuracy"], "nelbo": now["nelbo"],
                 "nelbo_baseline": was["nelbo"]},
    "steps": {name: table.to_dict("index") for name, table in zip(names, tables)},
    "choices": {f"{situation}: {name}": row for (situation, name), row in rows.items()},
    "long": {"classes": long, **{name: table.to_dict("list") for name, table in lines.items()}},
    "chapter_seconds": time.perf_counter() - started,
    "models": hashes})

# %% [markdown]
# ## Takeaways
#
# - Whether a forgotten class comes back while the next one is being forgotten
#   is a question to measure. To go on sending it to gray settles it.
# - A Fisher has to be computed anew for what is *still* to be kept. The one of
#   "all but the first" protects what is now to go.
# - Rehearsal, again, does most of the work. Judge a chain by the classes that
#   nobody asked to forget, against forgetting all at once and against a model
#   that never saw them.

# %% [markdown]
# ## Exercises
#
# The solutions follow, each run with the chapter. Try before you look.
#
# 1. **How few updates?** Make `source` forget the second class with 10 and with
#    30 updates, all else as in "retained | here | both" with rehearsal. How
#    near to gray does it come?
# 2. **Sum or mean.** Derive by which factor the sum of the classes' Fishers is
#    a stronger penalty than the mean over their images. When is it exactly the
#    number of classes? Compare with `total` and `still`.
# 3. **Who relapses?** In the two long chains, take every class after every step
#    at which it should be gray. Which one moves away farthest?
# 4. **Straight or winding?** With steps $d_1, \dots, d_n$ of the weights, expand
#    $\lVert \sum_i d_i \rVert^2$. What is it where all steps point the same
#    way, and where each is at right angles to the others? Which is nearer to
#    the chains above?

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
from sa_lib.methods import distance_to_gray


def gray(m, k):
    drawn = evaluation.prior_samples(
        m.net, torch.full((100,), k), run.seed)
    return float(distance_to_gray(drawn).mean())


quick = {steps: trained.unlearned(
    source, ds, gone, still, replace(run.unlearning, steps=steps),
    run.seed) for steps in (10, 30)}
reached = {0: gray(source, second)} | {
    steps: gray(model, second) for steps, model in quick.items()}
reached[run.unlearning.steps] = choices.loc[
    ("rehearsal", "retained | here | both"), "second"]
chapter.say(
    "After {steps} updates, {second} is at {gray} from gray. "
    "{reading}",
    steps=", ".join(map(str, reached)), second=second,
    gray=", ".join(f"{value:.4f}" for value in reached.values()),
    reading="Most of the way is gone in a few updates: to turn "
    "gray is quick, and the many that follow mend what it broke."
    if reached[30] < reached[0] / 2 else
    "So few do not reach it: the rate has hardly risen by then.")

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
# It is $K$ where all classes have equally many images ($n_k / N = 1 / K$), and
# where all $t_k$ are equal. It is more where small classes have the large
# Fishers. With the same $\lambda$, the sum is the mean with $\lambda$ times that
# factor.
#
# </details>

# %% tags=["hide-cell"]
traces = {k: sum(float(f.sum()) for f in by_class[k].values())
          for k in rest}
images = sum(counts[k] for k in rest)
derived = sum(traces.values()) / sum(
    counts[k] / images * trace for k, trace in traces.items())
measured = (sum(float(f.sum()) for f in total.values())
            / sum(float(f.sum()) for f in still.values()))
chapter.say(
    "{n} classes are retained. The derived factor is "
    "{derived:.3f}, that of `total` and `still` {measured:.3f}. "
    "The classes have {fewest:,} to {most:,} images, and the "
    "largest Fisher of a class is {ratio:.1f} times the smallest: "
    "{reading}",
    n=len(rest), derived=derived, measured=measured,
    fewest=min(counts[k] for k in rest),
    most=max(counts[k] for k in rest),
    ratio=max(traces.values()) / min(traces.values()),
    reading="close to the number of classes all the same."
    if abs(derived / len(rest) - 1) <= 0.05 else
    "enough to tell the factor from the number of classes.")

# %% [markdown]
# ### Solution 3

# %% tags=["hide-cell"]
away = {}
for name, chain in ends.items():
    for at, k in enumerate(long, 1):
        path = [gray(model, k) for model in chain[at:]]
        away[name, k] = max(path) - path[0]
worst_chain, worst = max(away, key=away.get)
held = [name for name in ends
        if max(away[name, k] for k in long) <= 0.01]
chapter.say(
    "{worst} with {chain}: by {most:.4f} from where it stood when "
    "it was forgotten. {reading}",
    worst=worst, chain=worst_chain, most=max(away.values()),
    reading="No class comes back in either chain: each step sends "
    "all "
    "the earlier ones to gray again." if len(held) == len(ends) else
    "Gray is taught again at every step, and still it gives way "
    "where other demands are stronger"
    + (f"; with {held[0]} it holds." if held else
       ", in both chains."))

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

# %% tags=["hide-cell"]
def weights_of(m):
    return torch.cat([weight.detach().flatten().cpu()
                      for weight in m.net.parameters()])


travel = {}
for name, chain in ends.items():
    path = torch.stack([weights_of(model) for model in chain])
    lengths = path.diff(dim=0).norm(dim=1)
    travel[name] = {"end": float((path[-1] - path[0]).norm()),
                    "straight": float(lengths.sum()),
                    "right angles": float(lengths.norm())}
travel = pd.DataFrame(travel).T
chapter.show_table(
    travel.rename_axis("chain"),
    "Distance of the last weights from the first; and what it "
    "would be for steps of the same lengths.",
    dict.fromkeys(travel.columns, "{:.2f}"))
ways = ((travel["end"] - travel["right angles"])
        / (travel["straight"] - travel["right angles"]))
chapter.say(" ".join(
    f"With {name}, the steps "
    + ("go nearly the same way." if way > 0.5 else
       "partly undo each other." if way < -0.1 else
       "are nearly at right angles: each goes its own way."
       if way < 0.2 else "share a part of their way.")
    for name, way in ways.items()))

# %% [markdown]
# ## Try next
#
# - Run `forget = [4, 9]`, two classes that resemble each other, and
#   then `[9, 4]`. Does the order matter?
# - Forget the same class twice (start from `models[1]` and call `forget_next`
#   with `[first]` again). What changes, if it is forgotten already?
# - In the chain with the penalty alone, add up the Fishers of all steps, as in
#   online EWC, instead of using the last one.
