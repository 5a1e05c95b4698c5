# %% [markdown]
# # TITLE
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](COLAB/blob/main/notebooks/NAME.ipynb)
#
# What this chapter asks, and why one would want to know, in three sentences.
#
# **You will learn**
#
# - what the reader can do after it.
#
# **You need** nothing but this notebook: the baseline and the judge are
# trained here if they are not there yet.
#
# **It takes** a few minutes on two CPU cores the first time, seconds after
# that. A GPU is used if there is one.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+ADDRESS"
    import sa_lib

# %% tags=["parameters"]
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"]
seed = 0  # @param {type: "integer"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import time

import torch

from sa_lib import chapter, data, evaluation, figures

started = time.perf_counter()
run = chapter.validate(dataset=dataset, seed=seed, profile=profile,
                       architecture=architecture, run_dir=run_dir)

# %% [markdown]
# ## What is measured
#
# Say it before it is done: what is drawn, who judges it, what would surprise.

# %%
ds = data.load(run.dataset)
baseline, judge = run.baseline(ds), run.judge(ds, "B")
asked = torch.arange(10).repeat_interleave(run.samples)
drawn = evaluation.prior_samples(baseline.model, asked, run.seed)
p = judge.probabilities(drawn).cpu()
right = p.argmax(1) == asked
accuracy = [float(right[asked == k].float().mean())
            for k in range(10)]

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack([drawn[asked == k][:12] for k in range(10)]), rows=range(10)),
    f"Samples of each class; judge B recognises {sum(accuracy) / 10:.1%} of them.",
    alt="A grid of ten rows, one for each class, of twelve generated images.")

# %% tags=["remove-input"]
chapter.say("Of the samples of the hardest class, judge B recognises **{low:.1%}**, and {high:.1%} of those of the "
            "easiest.", low=min(accuracy), high=max(accuracy))

# %% tags=["remove-cell"]
chapter.write_metrics(run.run_dir, "NAME", {
    "parameters": {"dataset": run.dataset, "seed": run.seed, "profile": run.profile,
                   "architecture": run.architecture},
    "accuracy": accuracy, "chapter_seconds": time.perf_counter() - started})

# %% [markdown]
# ## Takeaways
#
# - What was found, without a number: numbers come from the run.
#
# ## Exercises
#
# The solutions follow, each run with the chapter. Try before you look.
#
# 1. **The hardest.** Which class does judge B recognise least?
# 2. **Sure or right?** How sure is the judge where it is right, and where not?
# 3. **No digit.** How many samples are no digit at all to the judge?

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
chapter.say("It is {hardest}.", hardest=accuracy.index(min(accuracy)))

# %% [markdown]
# ### Solution 2

# %% tags=["hide-cell"]
sure = p.max(1).values
chapter.say("Its largest probability is {right:.3f} on average where "
            "it is right, and {all:.3f} over all samples.",
            right=sure[right].mean() if right.any() else 0,
            all=sure.mean())

# %% [markdown]
# ### Solution 3

# %% tags=["hide-cell"]
none = (p.argmax(1) == 10).float().mean()
chapter.say("It says so of {none:.1%}.", none=none)

# %% [markdown]
# ## Try next
#
# - Another `dataset`, another `seed`: what stays?
