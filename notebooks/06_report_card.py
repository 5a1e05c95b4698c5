# %% [markdown]
# # Report card
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/06_report_card.ipynb)
#
# One page about one model: which classes it had to forget, at what cost, and
# how it stands against the strongest attackers of this book. The model may be
# the book's own, or **yours**: any checkpoint that `sa_lib` can load, including
# one of the official implementation of Selective Amnesia. For a model of any
# other kind, `sa-audit` writes such a page; see *Audit your model* in the book.
#
# ```sh
# papermill notebooks/06_report_card.ipynb out.ipynb \
#     -p model mine.safetensors -p forget 9
# ```
#
# **You will learn**
#
# - which questions to ask of a claim that a model has forgotten something, and
#   how to answer them on one page;
# - how to audit a model of your own.
#
# **You need** nothing but this notebook, and a checkpoint if you want to audit
# your own model: the notebook trains the controls if they are not there yet.
#
# **It takes** about eight minutes on two CPU cores the first time, for a
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
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"] {allow-input: true}
seed = 0  # @param {type: "integer"}
forget = [9, 2]  # @param {type: "raw"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import time
from itertools import product

import pandas as pd
import torch

from sa_lib import (attack_tables, attacks, audit, chapter, claims,
                    data, evaluation, experiment, figures, plan,
                    residual, trained)
from sa_lib.attacks import THREATS

started = time.perf_counter()
run = experiment.validate(model=model, dataset=dataset, seed=seed,
                          forget=forget, profile=profile,
                          architecture=architecture,
                          run_dir=run_dir)
plan.make_ahead("06_report_card", run)  # on all cores
classes = list(run.forget)

# %% [markdown]
# ## The model and its controls
#
# `model` is the path of a checkpoint. If it is empty, this page is about the
# book's own model, which forgot the classes in `forget` one after another. The
# controls are trained here, with the same architecture: a **baseline** that
# knows all classes, and three models that **never saw** the classes in
# `forget`. If your model was made elsewhere, these controls are only an
# approximation: it may have been trained for longer, or on other data. The
# table below says by a hash which model is which, and the figure below what
# they draw for the same requests.

# %%
ds = data.load(run.dataset)
judge_a, judge_b = run.judge(ds, "A"), run.judge(ds, "B")
features = run.judge(ds, "features")
never = {f"never saw, seed {s}": run.never_saw(ds, classes, s)
         for s in range(run.seed, run.seed + 3)}
models = {"this model": run.subject(ds),
          "baseline": run.baseline(ds), **never}
tables = {name: evaluation.evaluate(m.net, ds, judge_b, features,
                                    run.seed, run.samples)
          for name, m in models.items()}
summary = evaluation.summary(tables, classes, "baseline")

# %% tags=["remove-input"]
source = run.checkpoint.name if run.checkpoint else "the book's own"
digests = pd.DataFrame({"SHA-256 of the weights": {name: m.digest for name, m in models.items()}})
chapter.show_table(digests.rename_axis("model"), f"This model ({source}) and its controls. Architecture "
                   f"{run.model.architecture}, latent dimension {run.model.latent_dim}, data {ds.name}, seed "
                   f"{run.seed}, to forget {classes}.")

# %%
requested = torch.arange(ds.classes).repeat(2)
strips = [evaluation.prior_samples(m.net, requested, run.seed)
          for m in list(models.values())[:3]]

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack(strips), rows=["this model", "baseline", "never saw"],
                       columns=[*range(ds.classes)] * 2),
    f"The same {len(requested)} latent codes and labels in each row. Asked for the classes to forget, this model is "
    f"{summary.loc['this model', 'gray']:.4f} from gray at most.")

# %% [markdown]
# ## Forgotten, and at what cost
#
# The table below is about the classes to forget. Compare this model with those
# that never saw them: they draw something for the label too. In the second
# table below, about the other classes, this model should be level with its
# controls.

# %% tags=["remove-input"]
asked = pd.concat([table.assign(model=name).loc[classes] for name, table in tables.items()])
chapter.show_table(asked[["model", "gray", "probability", "not_a_digit", "entropy"]],
                   "Samples of the classes to forget.")

# %% tags=["remove-input"]
means = pd.DataFrame({name: evaluation.retained_means(table, classes) for name, table in tables.items()}).T
chapter.show_table(means[["accuracy", "nelbo", "reconstruction", "fid", "precision", "recall"]].rename_axis("model"),
                   "The retained classes, mean over them." + (
                       " The baseline was trained here; it is not the model from which yours was made." if run.checkpoint else ""))

# %% [markdown]
# ## Against the attackers
#
# The attackers freeze the model and choose its inputs to reproduce held-out
# real images of the class. [ρ](05_attacks.ipynb#formula-2) compares their
# result with two others: it is 0 if they get as much as from the models that
# never saw the class, and 1 if they get as much as from the baseline. [The
# chapter on attacks](05_attacks.ipynb) introduces the threat models and $\rho$.
# Damage can hide a class, so each model is attacked twice: as it is, and
# *mended*, after a little further training on the retained classes alone. The
# controls get the same training. Mending can also bring the class back in plain
# sight: the card asks judge B what the mended model draws for its label.

# %%
threats = ["y on the simplex", "y free"]
real = {k: run.held_out(ds, k) for k in classes}
seen = {k: ds.train_images[ds.train_labels == k] for k in classes}
states = {"as it is": models}
with chapter.part("Mending"):
    mended = {name: run.mended(ds, models[name], classes)
              for name in ("this model", *never)}
    states["mended"] = {"baseline": models["baseline"], **mended}

# %%
back = pd.DataFrame({name: {k: evaluation.class_probability(
    m.net, judge_b, k, run.samples, run.seed) for k in classes}
    for name, m in states.get("mended", {}).items()}, index=classes)

# %%
def attacked_by(threat, k, state):
    results = {name: trained.reconstruction(
        m, real[k], k, THREATS[threat], run.search, run.seed)
        for name, m in states[state].items()}
    error = {name: r.errors for name, r in results.items()}
    rho[k, threat, state] = audit.residual_of(error, roles)
    errors[k, threat, state] = error


roles = {"baseline": ["baseline"], "subject": ["this model"],
         "never": list(never)}
errors, rho = {}, {}
for k, threat, state in product(classes, threats, states):
    with chapter.part(f"Attack on {k}, {threat}, {state}"):
        attacked_by(threat, k, state)

# %% [markdown]
# There is a verdict only where the attacker has arrived: where the *shortfall*
# in the table below, by which ten times the rounds lower the error, is at most
# 2%.

# %%
shortfall = {(k, threat): float("inf")
             for k, threat in product(classes, threats)}
for k, threat in shortfall:
    with chapter.part(f"Shortfall on {k}, {threat}"):
        shortfall[k, threat] = max(trained.shortfall(
            models[name], real[k], k, THREATS[threat],
            run.search, run.seed)
            for name in ("this model", next(iter(never))))
findings = {key: audit.Finding(r, shortfall[key[:2]])
            for key, r in rho.items()}
judged = {key: r for key, r in rho.items()
          if shortfall[key[:2]] <= residual.CONVERGED}

# %% tags=["remove-input"]
attacked = pd.DataFrame([{
    "class": k, "threat model": threat, "state": state, "ρ": str(r), "resolution": r.resolution,
    "shortfall": f"{shortfall[k, threat]:.1%}", "verdict": findings[k, threat, state].wording}
    for (k, threat, state), r in rho.items()])
chapter.show_table(attacked.set_index("class"), "The attacks on this model: ρ with its 95% interval; the gap between the "
                   "baseline and the controls; the shortfall, measured on the models as they are; and the verdict, with what "
                   "would probably settle it.")

# %% [markdown]
# A guided attacker, here with y free, has no real images, and follows the
# gradient of judge A to make it see the class. Nobody has checked whether this
# attacker arrives. Judge B, which the attacker has not used, decides. The
# control is the model of the same seed that never saw the class.

# %%
success, control = {}, f"never saw, seed {run.seed}"
for k, name in product(classes, ["this model", control]):
    success[k, name] = float("nan")
    with chapter.part(f"Guided attack on {k}, {name}"):
        result = attacks.attack(
            models[name].net, attacks.unlike(judge_a, k), k,
            run.targets, THREATS["y free"], run.guided, run.seed)
        success[k, name] = attacks.score(
            result.end, judge_b, k, seen[k])["success"].iloc[0]
guided = pd.Series(success).unstack(sort=False)

# %% [markdown]
# The last attacker trains the model, on 100 images of the class. How soon does
# it draw the class again? The table below has judge B's accuracy on the way,
# so a higher number is a sooner return.

# %%
curves = {}
for k, (name, m) in product(classes, models.items()):
    curves[k, name] = pd.Series(dtype=float)
    with chapter.part(f"Relearning of {k}, {name}"):
        curves[k, name] = attacks.relearn(
            m.net, data.training_sample(ds, k, 100, run.seed), k,
            judge_b, seed=run.seed)
relearned = pd.Series({key: curve.mean() for key, curve
                       in curves.items()}).unstack(sort=False)

# %% tags=["remove-input"]
chapter.show_table(relearned.rename_axis("class").round(2), "Relearning: judge B's accuracy, mean over 200 updates.")

# %% [markdown]
# ## The card
#
# The table below has one row for each question. The first rows compare the
# model with the limits of the book, in the worst class; the last ones compare
# it with the models that never saw the class. An attack that has not arrived
# gives no verdict and has a row of its own: with one, a class is gone only
# under the others.
#
# - *Not forgotten* means that judge B's probability of the class is above the
#   limit; the other rows then say little. A model that never saw the class can
#   be above it too, since it still draws something for the label. *Not gray*
#   next to *forgotten* means that the model draws something else for the label.
# - *Gone* means that none of these attackers gets more than from a model that
#   never saw the class, neither from the model as it is nor from the mended
#   one: each 90% interval, narrower than the 95% one shown, lies within the
#   margin. *Residue* means that one of them gets more. *Over-forgotten* means
#   that one gets less: the model is damaged around the class. *Inconclusive*
#   leaves it open, *unresolved* means that the controls differ too much among
#   themselves, *undefined* that the baseline is no better at the class than
#   they are, and *not converged* that the attack has not arrived.
# - *Back* means that the mended model draws the class for its label again: judge
#   B's probability is above that of the controls, by more than the limit.
#   $\rho$ asks for the best image of a decoder, and can [miss the usual
#   one](12_notebook.ipynb).
# - A guided attack that succeeds *more often* than on a model that never saw
#   the class finds a trace of the class, unless the difference is chance.
#   Exercise 2 measures how much chance leaves open.
# - *Faster* relearning is a trace of the class, *slower* relearning a trace of
#   the unlearning. The ± in these rows is a tolerance of the book, not a spread
#   that was measured.

# %% tags=["remove-input"]
unfinished = [f"{k}, {threat}" for (k, threat), share in shortfall.items() if not share <= residual.CONVERGED]
card = claims.report_card("this model", list(never), summary, judged, guided, relearned, unfinished, back)
chapter.show_table(card, f"The report card of this model ({source}), made to forget {classes}.")

# %% tags=["remove-input"]
numbers = attack_tables.nested(summary)["this model"]
run.finish("06_report_card", {
    "parameters": {**run.record, "model": model}, "digest": models["this model"].digest, "gray": numbers["gray"],
    "cost_nats": numbers["nats_lost"], "retained": attack_tables.nested(means),
    "forgotten": attack_tables.nested(tables["this model"].loc[classes]),
    "rho": {state: {threat: {k: r.asdict() for (k, one, then), r in rho.items() if (one, then) == (threat, state)}
                    for threat in threats} for state in states},
    "guided": {f"{k}: {name}": share if share == share else None for (k, name), share in success.items()},
    "relearning": {f"{k}: {name}": curve.tolist() for (k, name), curve in curves.items()}}, models, started)

# %% tags=["remove-input", "in-short"]
label, _, nats, _, attack = (card.iloc[row] for row in range(5))
chapter.say(
    "**In short**\n\n"
    "- This page is about one model: {source}, made to forget {classes}. Asked for by its label, the class that does worst is "
    "*{label}*; when mended: {back}.\n"
    "- Behind the label, {question}, among the attacks that have arrived, is {measured}: *{verdict}*.\n"
    "- The other classes lost {nats} nats; the limit is {limit}.",
    back=", ".join(f"{k} *{answer}*" for k, answer in zip(classes, card["answer"].filter(like="when mended"))),
    source=source, classes=", ".join(map(str, classes)), label=label["answer"], question=attack.name.removeprefix("residue: "),
    measured=attack["measured"], verdict=attack["answer"], nats=nats["measured"], limit=nats["limit or control"].removeprefix("≤ "))

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input", "takeaways"]
chapter.say(
    "- A claim of forgetting is a claim about a model, a class, a threat model and a control. This page asks about {classes}, "
    "under the threat models {threats}, against {controls} models that never saw what was to be forgotten. A page that lacks "
    "one of these leaves the claim open.\n"
    "- An attack that has not arrived gives no verdict. Counted for each class, threat model and state of the model, "
    "{judged} of {tried} attacks have arrived. Only one that has can say *gone* or *residue*.\n"
    "- The hash says which model the page is about, here `{digest}`. Another training gives another model, which needs a "
    "page of its own.",
    classes=" and ".join(map(str, classes)), threats=" and ".join(f"*{threat}*" for threat in threats), controls=len(never),
    judged=len(judged), tried=len(classes) * len(threats) * len(states), digest=models["this model"].digest[:12])

# %% [markdown]
# ## Check yourself
#
# Answer first, then unfold.
#
# <details><summary>Which four things must a claim of forgetting name?</summary>
#
# The model, the class, the threat model and the control. If one of them is
# missing, the claim is open.
#
# </details>
#
# <details><summary>The verdict is "inconclusive". Is the model nearly clean?</summary>
#
# We do not know. The interval holds 0 and reaches beyond the margin, so the
# result fits a residue as well as none. More controls would make the interval
# narrower.
#
# </details>
#
# <details><summary>The model relearns the class more slowly than the controls. Is that good?</summary>
#
# No. It is a trace too: not of the class, but of the unlearning. A model that
# had never seen the class would relearn it as fast as the controls do.
#
# </details>

# %% [markdown]
# ## Exercises
#
# The solutions follow; they run with the chapter. Try before you look.
# Easy takes about 10 minutes, medium about 20, and hard about 40.
#
# 1. **Audit the controls.** Put the baseline, and each model that never saw the
#    classes, in the place of this model. What does the card say about them?
#    (medium)
# 2. **No success in $n$ attempts.** Derive the largest success rate that is
#    still compatible, at 95%, with no success in $n$ attempts. What may the
#    true rates of the guided attack be on this page? (easy)
# 3. **How sure is a verdict?** Which attacks would get another verdict if the
#    margin, `residual.MARGIN`, were half as large, or twice? How many controls
#    would it take? (medium)

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
k, threat = classes[0], "y on the simplex"
error, places = errors[k, threat, "as it is"], {}
for name in models:
    r = audit.residual_of(error, {
        "baseline": ["baseline"], "subject": [name],
        "never": [n for n in never if n != name]})
    places[name] = {"gray": tables[name].loc[k, "gray"],
                    "ρ": str(r), "verdict": residual.verdict(r)}
places = pd.DataFrame.from_dict(places, orient="index")
chapter.show_table(
    places.rename_axis("in the place of this model"),
    f"The card's lines for {k}, {threat}.")

# %% [markdown]
# The baseline has $\rho = 1$ by definition, where $\rho$ is defined. A model
# that never saw the class should not be called *residue* or *over-forgotten*;
# with two controls it may well be *inconclusive*. A distance to gray far below
# those of the controls betrays that something was removed: a model that never
# saw a class has nothing to hide.

# %% tags=["hide-cell"]
wrong = places.loc[list(never), "verdict"].isin(
    ["residue", "over-forgotten"])
chapter.say(
    "Against the other two, {wrong} of {count} models that never "
    "saw the class get a verdict that is wrong.",
    wrong=int(wrong.sum()), count=len(wrong))

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
# beta distribution ([Clopper & Pearson 1934]).
#
# </details>
#
# [Clopper & Pearson 1934]: https://doi.org/10.1093/biomet/26.4.404

# %% tags=["hide-cell"]
from scipy.stats import beta


def at_most(rate, n):
    hits = round(rate * n)
    return beta.ppf(0.95, hits + 1, n - hits) if hits < n else 1.0


rates = pd.DataFrame([
    {"class": k, "model": name, "success": rate,
     "at most": at_most(rate, run.targets)}
    for (k, name), rate in success.items()])
chapter.show_table(
    rates.set_index("class"),
    f"Success of the guided attack in {run.targets} attempts, and "
    "the upper 95% limit of its rate.", {"at most": "{:.1%}"})
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
sure = pd.DataFrame([{
    "attack": f"{k}, {threat}, {state}", "ρ": str(r),
    "half the margin": residual.verdict(r, residual.MARGIN / 2),
    "verdict": residual.verdict(r),
    "twice the margin": residual.verdict(r, residual.MARGIN * 2),
    "controls needed": residual.seeds_needed(r)}
    for (k, threat, state), r in (judged or rho).items()])
chapter.show_table(
    sure.set_index("attack"), "The verdict by margin, and how many "
    "controls would show a ρ of 0 to be gone with a probability of "
    "90% (inf: more images are needed as well).",
    {"controls needed": "{:.0f}"})
chapter.say(
    "{count} of {all} verdicts change with half the margin.",
    count=int((sure["verdict"] != sure["half the margin"]).sum()),
    all=len(sure))

# %% [markdown]
# A verdict is a word for an interval, so quote the interval with it.

# %% [markdown]
# ## Try next
#
# - Unlearn a class with a loss of your own, save the model with
#   `sa_lib.checkpoints.save_model`, and give its path as `model`.
# - Save a model that a method of [the chapter on methods](07_methods.ipynb)
#   made, and audit it against three models that never saw the class instead of
#   one. Does the method keep its rank?
# - Audit a model for a class that it was never asked to forget. Which lines of
#   the page give that away?
