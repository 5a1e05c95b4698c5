# %% [markdown]
# # Report card
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/06_report_card.ipynb)
#
# One page for one model: what it was made to forget, at what cost, and how it
# stands against every attack of this book. The model may be the book's own, or
# **yours**: any checkpoint that `sa_lib` can load, one of the official
# implementation of Selective Amnesia included.
#
# ```sh
# papermill notebooks/06_report_card.ipynb out.ipynb -p model mine.safetensors -p forget 9
# ```
#
# **You will learn**
#
# - what to ask of a claim that a model has forgotten something, on one page;
# - how to have your own model audited.
#
# **You need** nothing but this notebook, and a checkpoint if it is yours that
# is to be looked at: the controls are trained here if they are not there yet.
#
# **It takes** about twelve minutes on two CPU cores the first time, for a
# baseline and three models that never saw the class; a minute after that.
# A GPU is used if there is one.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae"
    import sa_lib

# %% tags=["parameters"]
model = ""  # @param {type: "string"}
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"]
seed = 0  # @param {type: "integer"}
forget = [9, 2]  # @param {type: "raw"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import time

import pandas as pd
import torch

from sa_lib import (attacks, chapter, data, evaluation, experiment, figures, residual, trained)
from sa_lib.attacks import THREATS, attack
from sa_lib.residual import residual_knowledge

started = time.perf_counter()
run = experiment.validate(model=model, dataset=dataset, seed=seed,
                       forget=forget, profile=profile,
                       architecture=architecture, run_dir=run_dir)
sequence = list(run.forget)

# %% [markdown]
# ## The model and its controls
#
# `model` is the path of a checkpoint; left empty, the book's own model is
# looked at, with the classes of `forget` forgotten one after another. The
# controls are trained here, with the same architecture: a **baseline** that
# knows all ten classes, and three models that **never saw** those of `forget`.
# For a model that was made elsewhere they are the nearest thing at hand, and no
# more: it may have been trained for longer, or from other data.

# %%
ds = data.load(run.dataset)
judge_a, judge_b = run.judge(ds, "A"), run.judge(ds, "B")
features = run.judge(ds, "features")
base = run.baseline(ds)
subject = run.subject(ds)
never = {f"never saw, seed {s}": run.never_saw(ds, sequence, s)
         for s in range(run.seed, run.seed + 3)}
models = {"this model": subject, "baseline": base} | never
tables = {name: evaluation.evaluate(m.net, ds, judge_b, features,
                                    run.seed, run.samples)
          for name, m in models.items()}

# %% tags=["remove-input"]
named = ", ".join(map(str, sequence))
chapter.say(
    "| | |\n|---|---|\n| Model | {origin} |\n| SHA-256 of its weights | `{digest}` |\n| Architecture | "
    "{architecture}, latent dimension {latent} |\n| To have forgotten | {named} |\n| Data | {dataset} |\n"
    "| Baseline, the control | `{base}` |\n| Never saw, the controls | {controls} |",
    origin=run.checkpoint.name if run.checkpoint else "the book's own, seed " + str(run.seed),
    digest=subject.digest, architecture=run.model.architecture, latent=run.model.latent_dim, named=named,
    dataset=run.dataset, base=base.digest, controls=" ".join(f"`{m.digest[:12]}`" for m in never.values()))

# %%
asked = torch.arange(10).repeat(2)
strips = [evaluation.prior_samples(m.net, asked, run.seed)
          for m in list(models.values())[:3]]

# %% tags=["remove-input"]
mine, before = tables["this model"], tables["baseline"]
chapter.show_figure(
    figures.image_grid(torch.stack(strips), rows=["this model", "baseline", "never saw"], columns=[*range(10)] * 2),
    "The same twenty latent codes and labels. This model answers " + ", ".join(
        f"{k} at a distance of {mine.loc[k, 'gray']:.4f} from gray" for k in sequence) + ".",
    alt="A grid of samples in three rows: the model, the baseline, and a model that never saw the forgotten classes.")

# %% [markdown]
# ## Forgotten, and at what cost

# %% tags=["remove-input"]
asked_for = pd.DataFrame({f"{k}: {name}": table.loc[k, ["gray", "probability", "not_a_digit", "entropy"]]
                          for k in sequence for name, table in tables.items()}).T
chapter.show_table(asked_for.rename(columns={"gray": "distance to gray", "probability": "judge B: the class",
                                             "not_a_digit": "judge B: no digit", "entropy": "entropy, nats"})
                   .rename_axis("class: model"), "What is drawn for the classes that were to be forgotten.",
                   {"distance to gray": "{:.4f}", "judge B: the class": "{:.3f}", "judge B: no digit": "{:.3f}",
                    "entropy, nats": "{:.2f}"})

# %% tags=["remove-input"]
means = {name: evaluation.retained_means(table, sequence) for name, table in tables.items()}
kept = pd.DataFrame({name: m[["accuracy", "nelbo", "reconstruction", "fid", "precision", "recall"]]
                     for name, m in means.items()}).T
chapter.show_table(kept.rename(columns={"accuracy": "judge B right", "nelbo": "negative ELBO, nats",
                                        "reconstruction": "squared error", "fid": "FID"}).rename_axis("model"),
                   "The classes that were to be kept, mean over them.",
                   {"judge B right": "{:.1%}", "negative ELBO, nats": "{:.2f}", "squared error": "{:.2f}",
                    "FID": "{:.1f}", "precision": "{:.3f}", "recall": "{:.3f}"})

# %% [markdown]
# ## Against every attack
#
# The attacker freezes the model and chooses its inputs to reproduce held-out
# real images of the class; $\rho$ says how much more he gets than from models
# that never saw it, as a share of what he would get from the baseline. The
# threat models and $\rho$ are those of [the chapter on
# attacks](05_attacks.ipynb).

# %%
where = next(base.net.parameters()).device
found, rho, success, guided = {}, {}, {}, {}
for k in sequence:
    seen = ds.train_images[ds.train_labels == k].to(where)
    real = ds.test_images[ds.test_labels == k].to(where)
    real = real[:run.targets]
    for threat in THREATS:
        for name, m in models.items():
            found[name] = trained.reconstruction(
                m, real, k, THREATS[threat], run.attack, run.seed)
        loss = {name: f.loss[-1] for name, f in found.items()}
        others = torch.stack([loss[name] for name in never])
        rho[k, threat] = residual_knowledge(
            others, loss["this model"], loss["baseline"])
        success[k, threat] = attacks.score(
            found["this model"].end, judge_b, k, seen).iloc[0]
    for name in ("this model", "never saw, seed " + str(run.seed)):
        free = attack(models[name].net,
                      attacks.unlike(judge_a, k), k, run.targets,
                      THREATS["y free"], run.guided, run.seed)
        guided[k, name] = attacks.score(free.end, judge_b, k,
                                        seen).iloc[0]

# %% tags=["remove-input"]
card = pd.DataFrame({f"{k}: {threat}": {
    "squared error": f"{success[k, threat]['loss']:.1f}", "judge B agrees": f"{success[k, threat]['success']:.0%}",
    "ρ": "–" if r.rho != r.rho else f"{r.rho:+.2f} [{r.low:+.2f}, {r.high:+.2f}]", "verdict": residual.verdict(r)}
    for (k, threat), r in rho.items()}).T
chapter.show_table(card.rename_axis("class: threat model"),
                   "Every attack on this model, with ρ, its 95 % interval, and the verdict in a word.")

# %%
relearned = {}
for k in sequence:
    few = ds.train_images[ds.train_labels == k][:100]
    for name, m in models.items():
        relearned[k, name] = attacks.relearn(
            m.net, few, k, judge_b, seed=run.seed)

# %% tags=["remove-input"]
defined = {key: r for key, r in rho.items() if r.rho == r.rho}
worst = max(defined, key=lambda key: defined[key].rho) if defined else None
gray = float(mine.loc[sequence, "gray"].max())
cost = means["this model"]["nelbo"] - means["baseline"]["nelbo"]
chapter.say(
    "**Forgotten when asked by its label?** {forgotten} The largest distance to gray is {gray:.4f}, the largest "
    "probability that judge B gives the class {probability:.3f}.\n\n"
    "**At what cost?** {cost:+.2f} nats and {points:+.2f} points of judge-B accuracy on what was to be kept, against "
    "the baseline.\n\n"
    "**Gone?** {residue}\n\n"
    "**Does a guided attack bring it back?** " + "; ".join(
        f"class {k}: in {{mine_{k}:.0%}} of its attempts, and in {{never_{k}:.0%}} on a model that never saw it"
        for k in sequence) + ".\n\n"
    "**How soon is it relearned,** from 100 images? " + "; ".join(
        f"class {k}: mean accuracy along 200 updates {{back_{k}:.2f}}, never saw {{fresh_{k}:.2f}}, baseline "
        f"{{known_{k}:.2f}}" for k in sequence) + ".\n\nThis chapter took {seconds:.0f} s.",
    forgotten="Yes, it draws gray." if gray <= 0.05 else "It draws something, and judge B does not take it for the class."
    if mine.loc[sequence, "probability"].max() <= 0.05 else "No.",
    gray=gray, probability=mine.loc[sequence, "probability"].max(), cost=cost,
    points=100 * (means["this model"]["accuracy"] - means["baseline"]["accuracy"]),
    residue="ρ is not defined here: the baseline is no better at these classes than models that never saw them."
    if worst is None else f"The strongest attacker on the input, class {worst[0]}, {worst[1]}, has ρ = "
    f"{defined[worst].rho:+.2f} [{defined[worst].low:+.2f}, {defined[worst].high:+.2f}]: {residual.verdict(defined[worst])}.",
    **{f"mine_{k}": guided[k, "this model"]["success"] for k in sequence},
    **{f"never_{k}": guided[k, "never saw, seed " + str(run.seed)]["success"] for k in sequence},
    **{f"back_{k}": relearned[k, "this model"].mean() for k in sequence},
    **{f"fresh_{k}": sum(relearned[k, n].mean() for n in never) / 3 for k in sequence},
    **{f"known_{k}": relearned[k, "baseline"].mean() for k in sequence},
    seconds=time.perf_counter() - started)

# %% tags=["remove-cell"]
chapter.write_metrics(run.run_dir, "06_report_card", {
    "parameters": {"model": model, "dataset": run.dataset, "seed": run.seed, "forget": sequence,
                   "profile": run.profile, "architecture": run.architecture},
    "digest": subject.digest, "gray": gray, "cost_nats": cost,
    "retained": {name: m.to_dict() for name, m in means.items()},
    "forgotten": {str(k): mine.loc[k].to_dict() for k in sequence},
    "rho": {threat: {str(k): None if rho[k, threat].rho != rho[k, threat].rho else rho[k, threat].rho
                     for k in sequence} for threat in THREATS},
    "guided": {f"{k}: {name}": s["success"] for (k, name), s in guided.items()},
    "relearning": {f"{k}: {name}": s.tolist() for (k, name), s in relearned.items()},
    "chapter_seconds": time.perf_counter() - started,
    "models": {name: m.digest for name, m in models.items()}})

# %% [markdown]
# ## Takeaways
#
# - A claim of forgetting is a claim about a model, a class, a threat model and
#   a control. A page that lacks one of them leaves the claim open.
# - The hash says which model the page is about. Another training is another
#   model, and needs a page of its own.

# %% [markdown]
# ## Exercises
#
# The solutions follow, each run with the chapter. Try before you look.
#
# 1. **Audit the controls.** Put the baseline, and each model that never saw the
#    classes, in the place of this model. What does the card say of them?
# 2. **No success in $n$ attempts.** Derive the largest success rate that is
#    still compatible, at 95 %, with no success in $n$ attempts. What may the
#    guided attack's true rates be on this page?
# 3. **How sure is a verdict?** Which lines of the card have an interval that
#    reaches into another verdict? Which would read otherwise if the spread that
#    counts as nothing, `residual.SPREAD`, were half as large?

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
k, threat = sequence[0], "y on the simplex"
wanted = ds.test_images[ds.test_labels == k][:run.targets].to(where)
error = {name: trained.reconstruction(
    m, wanted, k, THREATS[threat], run.attack, run.seed).loss[-1]
    for name, m in models.items()}
audit = {}
for name in models:
    rest = torch.stack([error[n] for n in never if n != name])
    r = residual_knowledge(rest, error[name], error["baseline"])
    audit[name] = {
        "distance to gray": f"{tables[name].loc[k, 'gray']:.4f}",
        "ρ": "–" if r.rho != r.rho else f"{r.rho:+.2f}",
        "verdict": residual.verdict(r)}
chapter.show_table(
    pd.DataFrame(audit).T.rename_axis("in the place of this model"),
    f"The card's lines for {k}, {threat}.")

# %% tags=["hide-cell"]
fooled = [name for name in never
          if audit[name]["verdict"] not in ("gone", "undefined")]
never_gray = min(tables[name].loc[k, "gray"] for name in never)
chapter.say(
    "The baseline has ρ = 1 by definition, where ρ is defined: "
    "the card knows it. {reading} {hidden}",
    reading="Each model that never saw the class, held against the "
    "other two, is called gone, as it should be, or undefined."
    if not fooled else "Held against the other two, the card "
    "misjudges "
    f"{'; '.join(fooled)}: so wide is the margin of this page.",
    hidden="What tells this model from a retrained one is the "
    "gray: a model that never saw a class has nothing to hide."
    if mine.loc[k, "gray"] < never_gray / 2 else
    "This model is no nearer to gray than half of what a "
    "retrained one is: nothing here betrays that something was "
    "removed.")

# %% [markdown]
# ### Solution 2
#
# <details><summary>The derivation</summary>
#
# At a rate $p$, no success in $n$ independent attempts has the probability
# $(1 - p)^n$. The largest $p$ for which that is at least 0.05 is
#
# $$
# p = 1 - 0.05^{1/n} \approx \frac{3}{n},
# $$
#
# since $\log 0.05$ is close to $-3$: the *rule of three*. With $s$ successes it
# is the $p$ at which $s$ or fewer have the probability 0.05, a quantile of a
# beta distribution (Clopper & Pearson 1934).
#
# </details>

# %% tags=["hide-cell"]
from scipy.stats import beta


def at_most(rate, n):
    hits = round(rate * n)
    return beta.ppf(0.95, hits + 1, n - hits) if hits < n else 1.0


rows = {f"{k}: {name}": {
    "found": s["success"],
    "at most": at_most(s["success"], run.targets)}
    for (k, name), s in guided.items()}
chapter.show_table(
    pd.DataFrame(rows).T.rename_axis("class: model"),
    f"Success of the guided attack in {run.targets} attempts, and "
    f"the "
    "upper 95 % limit of its rate.",
    {"found": "{:.0%}", "at most": "{:.1%}"})
chapter.say(
    "No success in {n} attempts would leave room for {none:.1%} "
    "(the rule of three says {three:.1%}). The attempts share one "
    "model, so the limit is about this model and not about its "
    "kind.",
    n=run.targets, none=at_most(0, run.targets),
    three=3 / run.targets)

# %% [markdown]
# ### Solution 3

# %% tags=["hide-cell"]
def word(value, spread=residual.SPREAD):
    bounds = {"over-forgotten": value < -spread,
              "gone": value <= spread, "suppressed": value < 0.5,
              "avoided": True}
    return next(name for name, holds in bounds.items() if holds)


unsure = [key for key, r in defined.items()
          if word(r.low) != word(r.high)]
stricter = [key for key, r in defined.items()
            if word(r.rho, residual.SPREAD / 2) != word(r.rho)]


def listed(keys):
    return ", ".join(f"{k}: {t}" for k, t in keys) or "none"


chapter.say(
    "Of {count} lines with a ρ, {n} have an interval that reaches "
    "into another verdict ({unsure}). With half the spread, {m} "
    "would read otherwise ({stricter}). {reading}",
    count=len(defined), n=len(unsure), unsure=listed(unsure),
    m=len(stricter), stricter=listed(stricter),
    reading="A verdict is a word for a number; quote the interval."
    if unsure or stricter else
    "The verdicts of this card do not hang on where the lines are "
    "drawn.")

# %% [markdown]
# ## Try next
#
# - Save a model with `sa_lib.checkpoints.save_model` after unlearning it with
#   a loss of your own, and give its path as `model`.
# - Save what a method of [the chapter on methods](07_methods.ipynb) made, and
#   audit it against three models that never saw the class instead of one. Does
#   it keep its rank?
# - Audit a model for a class that it was never asked to forget. Which lines of
#   the page give that away?
