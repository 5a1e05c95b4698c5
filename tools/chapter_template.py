# %% [markdown]
# # TITLE
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](COLAB/blob/main/notebooks/NAME.ipynb)
#
# In three sentences: the question of this chapter, and why it matters.
#
# **You will learn**
#
# - one thing that the reader can do after this chapter.
#
# **You need** nothing but this notebook: it trains the baseline and the judge
# if they are not there yet.
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
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"] {allow-input: true}
seed = 0  # @param {type: "integer"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import time

import torch

from sa_lib import (chapter, data, evaluation, experiment, figures,
                    trained)

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed,
                          profile=profile,
                          architecture=architecture,
                          run_dir=run_dir)

# %% [markdown]
# ## The measurement
#
# Announce it before the code: the images that are drawn, the judge that scores
# them, and the result that would be a surprise. Name every figure and table: in
# the figure below, look at what a reader should see.

# %%
ds = data.load(run.dataset)
baseline = trained.cvae(ds, run.model, run.training, run.seed)
judge = run.judge(ds, "B")
requested = torch.arange(ds.classes)
requested = requested.repeat_interleave(run.samples)
drawn = evaluation.prior_samples(baseline.net, requested, run.seed)
p = judge.probabilities(drawn).cpu()
right = p.argmax(1) == requested
accuracy = [float(right[requested == k].float().mean())
            for k in range(ds.classes)]

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack([drawn[requested == k][:12] for k in range(ds.classes)]),
                       rows=range(ds.classes)),
    f"Samples of each class; judge B recognizes {sum(accuracy) / len(accuracy):.1%} of them.",
    alt="A grid with a row for each class, of twelve generated images.")

# %% tags=["remove-input"]
chapter.say("Judge B recognizes **{low:.1%}** of the samples of the hardest class, and {high:.1%} of the samples of "
            "the easiest.", low=min(accuracy), high=max(accuracy))

# %% tags=["remove-input"]
run.finish("NAME", {"accuracy": accuracy}, {"baseline": baseline}, started)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input", "takeaways"]
chapter.say(
    "- The lesson, with the number that supports it: judge B recognizes {mean:.1%} of the samples.\n"
    "- A mean hides classes. The easiest and the hardest are {apart:.1%} apart.\n"
    "- A lesson may do without a number. At least two of three to five have one, and none is typed.",
    mean=sum(accuracy) / len(accuracy), apart=max(accuracy) - min(accuracy))

# %% [markdown]
# ## Check yourself
#
# Answer first, then unfold.
#
# <details><summary>Why does another network have to judge the samples?</summary>
#
# The model has no measure of how a sample looks. A judge has one, and nothing
# was optimized against it.
#
# </details>
#
# <details><summary>Every sample of a class is recognized. Are the samples good?</summary>
#
# They are recognizable. They may still all look alike, or unlike real images.
#
# </details>
#
# <details><summary>Two seeds give different numbers. Which is right?</summary>
#
# Both. The difference shows how much chance there is in each.
#
# </details>

# %% [markdown]
# ## Exercises
#
# The solutions follow; they run with the chapter. Try before you look.
# Easy takes about 10 minutes, medium about 20, and hard about 40.
#
# 1. **The hardest class.** Which class does judge B recognize least? (easy)
# 2. **Sure or right?** How sure is the judge where it is right, and over all
#    samples? (easy)
# 3. **No digit.** How many samples are not a digit to the judge? (easy)

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
chapter.say("It is {hardest}.",
            hardest=accuracy.index(min(accuracy)))

# %% [markdown]
# ### Solution 2

# %% tags=["hide-cell"]
sure = p.max(1).values
chapter.say("Its largest probability is {right:.3f} on average "
            "where it is right, and {all:.3f} over all samples.",
            right=sure[right].mean() if right.any() else 0,
            all=sure.mean())

# %% [markdown]
# ### Solution 3

# %% tags=["hide-cell"]
none = (p.argmax(1) == 10).float().mean()
chapter.say("To the judge, {none:.1%} of the samples are not "
            "a digit.", none=none)

# %% [markdown]
# ## Try next
#
# - Another `dataset`, or another `seed`: which results stay the same?
