# %% [markdown]
# # The course notebook's model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/12_notebook.ipynb)
#
# This book follows a course notebook ([Ariafar
# 2025](https://github.com/AidaAriafar/Selective-Amnesia-for-cVAEs)), which
# makes a convolutional CVAE forget 9, and then 2. Its readers ask first: *is
# its 9 gone?* We trained its recipe in full, with every choice as it stands in
# `SA_on_CVAE_final.ipynb`, and put it under this book's attacker. Then we
# mended its choices, one by one and all together.
#
# **You will learn**
#
# - what is left of the notebook's 9, and of its 2, as it is and after mending;
# - what each of its choices changes, image by image;
# - that a class can come back where the attacker finds nothing.
#
# **You need** the table `recipe.csv` of `sa_lib`, which
# `make evidence SWEEPS=recipe` makes again.
#
# **It takes** seconds on two CPU cores, and needs no GPU. Making the table
# takes hours.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae"
    import sa_lib

# %% tags=["parameters"]
table = ""  # @param {type: "string"}
profile = "full"  # @param ["full", "smoke"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import time

import numpy as np
import pandas as pd
import torch

from sa_lib import chapter, experiment, figures, trials
from sa_lib.claims import is_forgotten
from sa_lib.figures.style import names
from sa_lib.recipe import MENDED, NOTEBOOK
from sa_lib.residual import (CONVERGED, MARGIN, RESOLUTION, both,
                             interval, residual_knowledge,
                             seeds_needed)
from sa_lib.trained import MENDING

started = time.perf_counter()
run = experiment.validate(profile=profile, run_dir=run_dir)
rows = trials.read_recipe(table or trials.RESULTS / "recipe.csv")
states = ("as is", "mended")

# %% [markdown]
# ## Is its 9 gone?
#
# The attacker has the decoder and 100 held-out images of the digit. They search
# over $z$ and all mixtures $y$ of labels, as in [the chapter on
# attacks](05_attacks.ipynb#formula-1). The controls are models of the same
# recipe that never saw the digits that a model was made to forget: 9, or 9 and
# 2. *Mended* models, and controls beside them, got further ordinary updates on
# the digits that are left.

# %%
def error(model, state, digit=9):
    """The attacker's error on each image."""
    return torch.tensor(rows.loc[(digit, model, state), "errors"])


def controls(gone, state, digit=9):
    own = rows[(rows["role"] == "never") & (rows["gone"] == gone)]
    return torch.stack([error(name, state, digit) for name in
                        own.index.unique("model")])

# %%
def rho_of(model, state, digit=9):
    choices = MENDED.get(model, NOTEBOOK)
    base = ("baseline" if choices.kl_epochs == NOTEBOOK.kl_epochs
            else "baseline: the ELBO from the start")
    gone = rows.loc[(digit, model, state), "gone"]
    return residual_knowledge(controls(gone, state, digit),
                              error(model, state, digit),
                              error(base, "as is", digit))

# %%
rho = {(digit, model, state): rho_of(model, state, digit)
       for digit, model, state in
       rows.index[rows["role"] == "subject"]}
verdicts = {key[:2]: both(rho[*key[:2], "as is"],
                          rho[*key[:2], "mended"]) for key in rho}
late = rows.index[rows["shortfall"] > CONVERGED]
for digit, model in {key[:2] for key in late} & verdicts.keys():
    if verdicts[digit, model] != "residue":
        verdicts[digit, model] = "not converged"
first, then = "the notebook", "the notebook, then 2"
nines = [model for digit, model in verdicts if digit == 9]

# %% [markdown]
# The figure below has the notebook's model first, as it forgot 9, and then as
# it went on and forgot 2; then models with its choices mended. The table below
# has the verdict. `both` gives one on the two states: a residue in one of them
# is enough, and *gone* needs both. Where the gap between baseline and controls
# is less than five times the spread of the controls, the verdict is
# *unresolved*. And where ten times the rounds lower the attacker's error by more
# than 2%, there is none, but for a residue: a better search of the model would
# only add to it.

# %% tags=["remove-input"]
points = pd.DataFrame({(model, state): {"value": one.rho, "low": one.low, "high": one.high}
                       for (digit, model, state), one in rho.items() if digit == 9}).T
chapter.show_figure(figures.intervals(points.clip(-1.5, 1.5), "ρ, with 95% interval", [-MARGIN, 0.0, MARGIN, 1.0]),
                    "What is left of 9 in the notebook's model, and in models with its choices mended. At 0, nothing; at "
                    "1, everything; dotted beside 0, the margin. Intervals that reach farther end at ±1.5.")

# %%
short = rows["shortfall"].groupby(["class", "model"]).max()
listed = pd.DataFrame({f"{digit}: {model}": {
    **{f"ρ, {state}": str(rho[digit, model, state])
       for state in states},
    "gap in spreads": min(rho[digit, model, state].resolution
                          for state in states),
    "shortfall": short[digit, model], "verdict": word}
    for (digit, model), word in verdicts.items()}).T

# %% tags=["remove-input"]
chapter.show_table(listed.rename_axis("digit: model").infer_objects(), "ρ with its 95% interval. The less of both states: the gap between baseline "
                   f"and controls, in units of the controls' spread, of which it takes {RESOLUTION}. The more of both: how far ten "
                   "times the rounds lower the model's error. And the verdict on both states.",
                   {"gap in spreads": "{:.1f}", "shortfall": "{:.1%}"})

# %% [markdown]
# The notebook attacks its model, too: it looks for a code $z$ under the label
# 9. That asks the place where the model was trained to draw gray. A mixture of
# labels goes around it.
#
# ## And its 2?
#
# The second step sends only the new class to gray, and neither protects nor
# rehearses the old one. Does the 9 come back? The table above has both digits of
# the model that went on, and the same with *both* digits sent to gray. There is
# one more thing to read before a $\rho$ above 0 is called a residue. The model
# has more updates behind it than its controls, and so draws the digits that are
# left more sharply. A sharper decoder would come nearer to *both* digits,
# though: compare the two below.

# %%
nelbo = rows["nelbo"]
of_both = rows[(rows["role"] == "never") & (rows["gone"] == "9 2")]
sharper = {state: of_both["nelbo"].xs(state, level="state").mean()
           - nelbo[2, then, state] for state in states}
came_back = (rows["gray"][9, then, "as is"]
             - rows["gray"][9, first, "as is"])
of_controls = of_both["shortfall"].xs(2, level="class").mean()

# %% tags=["remove-input"]
chapter.say("On the digits that are left, the model that went on is ahead of its controls by {before:.1f} nats, and by {after:.1f} "
            "when mended. Of 2, ρ is {two} and {two_mended}; of 9, in the same model, {nine} and {nine_mended}. The "
            "second step moves what it draws for the label 9 by {moved:+z.4f} away from gray. Ten times the rounds lower the error on 2 by up to "
            "{own:.1%}, and that of the controls by {theirs:.1%} on average.", own=short[2, then], theirs=of_controls, before=sharper["as is"],
            after=sharper["mended"], moved=came_back, two=str(rho[2, then, "as is"]), two_mended=str(rho[2, then, "mended"]),
            nine=str(rho[9, then, "as is"]), nine_mended=str(rho[9, then, "mended"]))

# %% [markdown]
# ## What each choice changes
#
# The attacker has the same images for all models, and most of them began with
# one baseline. So we take the difference from the notebook's model image by
# image, and its interval is over the images: it is about these two models.
#
# Read the Fisher first. The notebook squares the gradient of a batch's mean.
# The gradients of different images point in different directions and cancel in
# the mean, before they are squared. What is left is about one $n$-th of the
# Fisher, for $n$ images in a batch; [the chapter on
# EWC](02_ewc_unlearning.ipynb#formula-1) shows it. And it divides $\lambda =
# 500$ by the number of images in the loop, so its elastic bands are weak twice
# over.

# %%
fixed = "Fisher of single images"


def added(model, state):
    """What a choice adds to ρ of 9, with its 95% interval."""
    change = error(first, state) - error(model, state)
    return interval(change / rho[9, first, state].gap)


one_step = [model for model in nines if model in MENDED
            and rows.loc[(9, model, "as is"), "gone"] == "9"]
measures = ["probability", "relearning", "nelbo"]
after = rows.xs((9, "mended"), level=("class", "state"))
changes = after.loc[[first, *one_step], measures]
of_nines = after[after["role"] == "never"].query("gone == '9'")
changes.loc["never saw 9"] = of_nines[measures].mean()

# %% tags=["remove-input"]
written = {model: {state: "{:+z.3f} [{:+z.3f}, {:+z.3f}]".format(*added(model, state)) for state in states} for model in one_step}
chapter.show_table(pd.DataFrame(written).T.add_prefix("ρ added, ").join(changes, how="right").loc[changes.index].rename_axis("model"),
                   "What a choice adds to ρ of 9, image by image. Then the models when mended: judge B's probability of 9 in what "
                   "they draw for its label, relearning from 100 images, and the negative ELBO of the other digits.")

# %% [markdown]
# The recipe rehearses 54,000 real images twenty times over. For the book's own
# model, [the chapter on EWC](02_ewc_unlearning.ipynb) finds that with rehearsal
# the penalty changes little. Whether this is the reason here was not tested.
#
# ## Back, where the attacker finds nothing
#
# The two columns of $\rho$ in the table above and its column of probabilities
# need not agree. After mending, on images of the other digits alone, some
# models may *draw* 9s again under the label 9. If the attacker, at the same
# time, comes no nearer to real 9s than they come in models that never saw one,
# $\rho$ has missed it: it asks how near the *best* image is, of any code and
# any mixture of labels, and not what the label *usually* draws. A decoder with
# 25 latent numbers reaches nearly every digit, so its best images say little. A
# $\rho$ that does not rise above 0 is not enough here; [the report
# card](06_report_card.ipynb) asks for the drawings and for relearning too.

# %%
drawn = changes["probability"]
usual = drawn["never saw 9"]
back = [model for model in [first, *one_step]
        if not is_forgotten(drawn[model] - usual)]
missed = [model for model in back
          if verdicts[9, model] != "residue"]

# %% tags=["remove-input"]
chapter.say("When mended, these draw 9s for the label 9, by the book's limit: {back}. The controls do so with a probability of "
            "{usual:.2f}. Of these models, ρ shows no residue in {missed}.", usual=usual, missed=names(missed) or "none",
            back=names(f"{model} ({drawn[model]:.2f})" for model in back) or "none")

# %% [markdown]
# ## What this rests on
#
# - One baseline for each training, one model for each choice, and few controls:
#   the intervals are about *this model*, not about the recipe with other seeds,
#   and they are wide.
# - The controls had no further updates, and the notebook's models had those of
#   their forgetting. After mending, both had the same last ones. Where a model
#   is ahead of the controls on the other digits, a part of a $\rho$ above 0 may
#   be a sharper decoder.
# - Models with the ELBO from the start have a baseline of their own, and the
#   controls of the notebook's training.
# - The attacker was checked with ten times the rounds, on a fifth of the images,
#   for every row.
#
# The file `recipe.csv` has the SHA-256 of the weights of each model.

# %%
ahead = {state: of_nelbo.mean() - nelbo[9, first, state]
         for state, of_nelbo in rows[rows["gone"] == "9"].query(
             "role == 'never'")["nelbo"].groupby("state")}
needed = seeds_needed(rho[9, first, "as is"])

# %% tags=["remove-input"]
chapter.say("On the other digits, the notebook's first model is ahead of the controls by {before:+.1f} nats, and by {after:+.1f} "
            "after mending. There are {count} controls; to show a ρ of 0 to be *gone*, it would probably take {needed}. With ten "
            "times the rounds, the attacker's error is lower by {usual:.1%} on average and by at most {most:.1%} ({worst}). Made on {devices}.",
            before=ahead["as is"], after=ahead["mended"], count=rho[9, first, "as is"].controls, most=short.max(), usual=rows["shortfall"].mean(),
            worst=short.idxmax()[1], devices=names(rows["processor"].unique()),
            needed=f"{needed:.0f}" if np.isfinite(needed) else "more images: no number of controls is enough")

# %% tags=["remove-input", "in-short"]
chapter.say(
    "**In short**\n\n"
    "- Of the notebook's 9, ρ = {before} is left as the model is, and {after} after {updates} ordinary updates on the other "
    "digits: *{word}*. Of its 2, forgotten next, {two} and {two_after}: *{word_two}*.\n"
    "- The Fisher of single images in place of that of batches changes ρ of 9 by {fixed} as the model is and {mended} mended, over images alone.\n"
    "- With all choices mended and after those updates, the label 9 draws 9s with a probability of {back:.2f}, that of models that "
    "never saw one with {usual:.2f}, and ρ is {missed}. A judge asks for the usual image, the attacker for the best one.",
    before=str(rho[9, first, "as is"]), after=str(rho[9, first, "mended"]), updates=MENDING.steps, word=verdicts[9, first],
    two=str(rho[2, then, "as is"]), two_after=str(rho[2, then, "mended"]), word_two=verdicts[2, then], fixed=written[fixed]["as is"],
    mended=written[fixed]["mended"], back=drawn["all of these"], usual=usual, missed=str(rho[9, "all of these", "mended"]))

# %% tags=["remove-cell"]
told = {"as_is": str(rho[9, first, "as is"]), "mended": str(rho[9, first, "mended"]), "verdict": verdicts[9, first],
        "two_as_is": str(rho[2, then, "as is"]), "two_mended": str(rho[2, then, "mended"]), "verdict_two": verdicts[2, then],
        "back": float(drawn["all of these"]), "back_never": float(usual), "back_rho": str(rho[9, "all of these", "mended"])}
run.finish("12_notebook", told | {"rho": {f"{digit}: {model}, {state}": one.asdict() for (digit, model, state), one in rho.items()},
                                  "controls": rho[9, first, "as is"].controls, "shortfall": float(short.max())}, {}, started)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input", "takeaways"]
(_, low, high), own = added(fixed, "as is"), rho[9, first, "as is"]
change_of = changes.loc[fixed] - changes.loc[first]
chapter.say(
    "- A page of gray is where the model was trained to look away. For the label 9, its drawings are "
    "{gray:.4f} from gray, and those of models that never saw a 9 are {never:.2f} from it. Whether the class is gone shows "
    "elsewhere: under other labels, and after a little training.\n"
    "- One digit is not the other. The same recipe, in the same model, has ρ = {two} on 2 and {nine} on 9.\n"
    "- A mistake in the Fisher need not show. The right one changes the negative ELBO of the other digits by {nelbo:+z.2f} nats, "
    "and relearning by {relearning:+z.2f}.\n"
    "- Change one choice at a time. Then two models can be compared image by image: the interval of the change in ρ is {narrow} "
    "wide. That of ρ itself, over images and controls, is {wide}.\n"
    "- One ruler is not enough. With all choices mended, ρ is {missed} after further updates, and the label draws 9s with "
    "probability {back:.2f}.", gray=rows.loc[(9, first, "as is"), "gray"], never=of_nines["gray"].mean(), missed=told["back_rho"],
    two=str(rho[2, then, "as is"]), nine=str(rho[9, then, "as is"]), nelbo=change_of["nelbo"], back=told["back"],
    relearning=change_of["relearning"], narrow=f"{high - low:.2f}", wide=f"{own.high - own.low:.2f}")

# %% [markdown]
# ## Check yourself
#
# Answer first, then unfold.
#
# <details><summary>Why is the square of a mean gradient too small?</summary>
#
# The mean of many gradients without a common direction is near 0. The Fisher is
# the mean of their squares, which does not cancel.
#
# </details>
#
# <details><summary>Why do the controls use the same recipe as the model?</summary>
#
# Another recipe draws other images sharper or softer. The difference would
# count as knowledge of the 9.
#
# </details>
#
# <details><summary>Why does the attacker not keep to the label 9?</summary>
#
# Whoever has the decoder need not. The label is a vector of ten numbers, and
# any mixture of labels is one too.
#
# </details>

# %% [markdown]
# ## Exercises
#
# The solutions follow, and run with the chapter. Try before you look.
# Easy takes about 10 minutes, medium about 20, and hard about 40.
#
# 1. **One control.** Compute $\rho$ of the notebook's model from each control
#    alone. How far apart are they? (easy)
# 2. **The median image.** Replace the mean error by the median over the images.
#    Does the finding change? (easy)
# 3. **Power.** With what probability would these controls show a $\rho$ of 0 to be
#    *gone*? `sa_lib.residual.power` knows. What would help most? (medium)

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
def alone(never, state):
    new, old = error(first, state), error("baseline", "as is")
    return float((never.mean() - new.mean())
                 / (never.mean() - old.mean()))


single = pd.DataFrame({state: [
    alone(never, state) for never in controls("9", state)]
    for state in states})
chapter.show_table(single.rename_axis("control"),
                   "ρ from one control.",
                   dict.fromkeys(single, "{:+.2f}"))
chapter.say("As the model is, they are {apart:.2f} apart.",
            apart=float(np.ptp(single["as is"])))

# %% [markdown]
# ### Solution 2

# %% tags=["hide-cell"]
medians = {}
for state in states:
    never = controls("9", state).median(1).values.mean()
    new, old = (error(*key).median() for key in
                ((first, state), ("baseline", "as is")))
    medians[state] = float((never - new) / (never - old))
chapter.say("By medians, ρ is {before:+.2f} as it is and "
            "{after:+.2f} after mending.",
            before=medians["as is"], after=medians["mended"])

# %% [markdown]
# ### Solution 3

# %% tags=["hide-cell"]
from sa_lib.residual import power

now = rho[9, first, "as is"]
chapter.say("The power is {power:.0%}. The spread of the controls "
            "is {spread:.2f} of the gap, and the images add "
            "{images:.2f}.", power=power(now),
            spread=now.spread / now.gap,
            images=now.image_error / now.gap)

# %% [markdown]
# ## Try next
#
# - Give the controls as many further updates as the notebook's models had, with
#   `stack.forget` and `measuring.further`. How much of $\rho$ of 2 is left?
# - Which of the choices in "all of these" brings the 9s back? Take one at a time
#   out of `sa_lib.recipe.MENDED["all of these"]`.
# - Attack the notebook's own checkpoint: `sa-audit` reads it, see [Audit your
#   model](../book/audit.md).
