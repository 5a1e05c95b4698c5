# %% [markdown]
# # The course notebook's model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/12_notebook.ipynb)
#
# This book follows a course notebook {cite}`ariafar2025`, which makes a
# convolutional CVAE forget 9. Its readers ask first: *is its 9 gone?* We trained
# its recipe in full, with every choice as it stands there, and put it under this
# book's attacker. Then we changed its choices, one at a time.
#
# **You will learn**
#
# - what is left of the notebook's 9, as it is and after mending;
# - what it costs to square the gradient of a batch in place of those of images;
# - which of its choices matter.
#
# **You need** the table `recipe.csv` of `sa_lib`, which
# `make evidence SWEEPS=recipe` makes again.
#
# **It takes** seconds on two CPU cores, and needs no GPU. Making the table takes
# hours.

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
from sa_lib.residual import (MARGIN, both, residual_knowledge,
                             verdict)

started = time.perf_counter()
run = experiment.validate(profile=profile, run_dir=run_dir)
rows = trials.read_recipe(table or trials.RESULTS / "recipe.csv")

# %% [markdown]
# ## Is its 9 gone?
#
# The attacker has the decoder and 100 held-out images of the digit. They search
# over $z$ and all mixtures $y$ of labels, as in [the chapter on
# attacks](05_attacks.ipynb). The controls are models of the same recipe that
# never saw a 9. *Mended* models, and controls beside them, got 800 ordinary
# updates on the other nine digits.

# %%
def errors(role, state):
    own = rows[rows["role"] == role].xs(state, level="state")
    return own["errors"].map(torch.tensor)


def rho_of(model, state):
    before = f"baseline: {model}"  # of a training of its own
    baseline = errors("baseline", "as is")
    return residual_knowledge(
        torch.stack([*errors("never", state)]),
        errors("subject", state)[model],
        baseline.get(before, baseline["baseline"]))

# %%
subjects = list(errors("subject", "as is").index)
states = ("as is", "mended")
rho = {(model, state): rho_of(model, state)
       for model in subjects for state in states}
words = {model: both(*(rho[model, state] for state in states))
         for model in subjects}

# %% tags=["remove-input"]
points = pd.DataFrame({key: {"value": one.rho, "low": one.low, "high": one.high} for key, one in rho.items()}).T
chapter.show_figure(figures.intervals(points.clip(-1.5, 1.5), "ρ, with 95 % interval", [-MARGIN, 0.0, MARGIN, 1.0]),
                    "What is left of 9 in the notebook's model, and in models with one choice changed. At 0, nothing; at "
                    "1, everything.")

# %% tags=["remove-input"]
own = {state: rows.xs(state, level="state").loc[subjects] for state in states}
shown = pd.DataFrame({
    "ρ": {model: str(rho[model, "as is"]) for model in subjects},
    "ρ mended": {model: str(rho[model, "mended"]) for model in subjects}, "verdict": words,
    "P(forgotten)": own["as is"]["probability"].map("{:.1%}".format),
    "nats": own["as is"]["nelbo"].map("{:.1f}".format), "relearning": own["as is"]["relearning"].map("{:.2f}".format)})
base = rows.loc[("baseline", "as is")]
chapter.show_table(shown.rename_axis("model"), "ρ with its 95 % interval; the verdict on both states; and, of the model as "
                   "it is, judge B's probability of 9 at the label 9, the negative ELBO of the other digits, and "
                   "relearning from 100 images.")
never = rows[rows["role"] == "never"].xs("as is", level="state")
chapter.say("The baseline has {base:.1f} nats on the other digits and gives 9 a probability of {seen:.1%}; models that never "
            "saw a 9 relearn it to {back:.2f}. The gap between baseline and controls is {gap:.2f}, {times:.0f} times the "
            "spread of the controls.", base=base["nelbo"], seen=base["probability"], back=never["relearning"].mean(),
            gap=rho["the notebook", "as is"].gap, times=rho["the notebook", "as is"].resolution)
