# %% [markdown]
# # A conditional VAE learns to draw digits
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/01_baseline.ipynb)
#
# Before a model can forget, it has to know something, and we have to be able
# to tell. This chapter trains the model that the rest of the book works on,
# and the judges that say what it draws.
#
# **You will learn**
#
# - what a conditional variational autoencoder is, and the loss it minimises;
# - how to see what it has learned: samples, reconstructions, a latent walk;
# - how to put a number on a drawing, with a judge that may also answer
#   "this is not a digit".
#
# **You need** nothing but this notebook: data, model and judges are fetched
# or trained when they are first asked for, and loaded after that.
#
# **It takes** a few minutes on two CPU cores the first time, seconds after
# that; a GPU is used if there is one.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae"
    import sa_lib

# %% tags=["parameters"]
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"]
seed = 0  # @param {type: "integer"}
profile = "full"  # @param ["full", "smoke"]
architecture = "mlp"  # @param ["mlp", "conv"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import math
import time

import pandas as pd
import torch
from torch.nn import functional as F

from sa_lib import (chapter, data, evaluation, experiment, figures, trained)
from sa_lib.labels import one_hot, select
from sa_lib.model import device
from sa_lib.judges import NOT_A_DIGIT

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed, profile=profile,
                       architecture=architecture, run_dir=run_dir)

# %% [markdown]
# ## The data
#
# Images are numbers between 0 and 1 on a grid of 28 × 28 pixels; every image
# comes with its class $y$, written as a vector of ten numbers, one of them 1.

# %%
ds = data.load(run.dataset)
examples = torch.stack([ds.train_images[ds.train_labels == k][:12]
                        for k in range(10)])

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(examples, rows=range(10)),
    f"The first twelve training images of each class of {run.dataset}.",
    alt="A grid of ten rows, one for each class, of twelve small images.")

# %% tags=["remove-input"]
chapter.say("There are {train:,} images to train on and {test:,} that no model "
            "in this book is trained on: every number below is measured on those.",
            train=len(ds.train_images), test=len(ds.test_images))

# %% [markdown]
# ## The model and its loss
#
# A *variational autoencoder* is a pair of networks. The encoder
# $q(z \mid x, y)$ looks at an image and says which latent code $z$ it might
# have come from: a Gaussian with a mean and a variance for each coordinate.
# The decoder $p(x \mid z, y)$ turns a code into an image. It is *conditional*
# because both are told the class $y$, so that the code need not carry it: $z$
# is left with the style, such as slant and thickness.
#
# Both are trained to maximise the **evidence lower bound** (ELBO) on the
# log-likelihood of the data (Kingma & Welling 2014; Sohn et al. 2015):
#
# $$
# \log p(x \mid y) \;\ge\;
# \underbrace{\mathbb{E}_{q(z \mid x, y)} \log p(x \mid z, y)}_{\text{how well } x \text{ is rebuilt}}
# \;-\; \underbrace{\mathrm{KL}\big(q(z \mid x, y) \,\|\, \mathcal{N}(0, I)\big)}_{\text{how far } z \text{ is from the prior}}
# $$
#
# In code, with one draw of $z$ for the expectation (change it, and the cells
# below train another model):

# %%
def elbo_terms(model, x, y, noise):
    mean, log_var = model.encode(x, y)
    z = mean + torch.exp(log_var / 2) * noise
    logits = model.decode_logits(z, y)
    log_likelihood = -F.binary_cross_entropy_with_logits(
        logits, x, reduction="none").sum((1, 2, 3))
    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1)
    return log_likelihood, kl


# %% [markdown]
# Both terms are in *nats* per image. At test time the encoder is not needed:
# draw $z$ from the prior $\mathcal{N}(0, I)$, choose a class, and decode.
#
# ## Training

# %%
baseline = trained.cvae(ds, run.model, run.training, run.seed,
                             terms=elbo_terms)

# %% tags=["remove-input"]
first, last = baseline.log.iloc[0], baseline.log.iloc[-1]
chapter.show_figure(
    figures.curves(baseline.log, ["reconstruction", "kl"], {"": "nats per image"}),
    "The two terms of the negative ELBO while training, on the batch of each logged step: reconstruction goes from "
    f"{first['reconstruction']:.0f} to {last['reconstruction']:.0f} nats, and the divergence, which is what the code "
    f"carries, from {first['kl']:.2f} to {last['kl']:.1f}.",
    alt="Two curves against the training step on a logarithmic axis: reconstruction and KL divergence.")

# %% [markdown]
# ## What it has learned
#
# **Samples.** One column, one $z$; one row, one class. The same code under
# ten labels shows what the code holds: style, not identity.

# %%
z = torch.randn(12, run.model.latent_dim,
                generator=torch.Generator().manual_seed(run.seed))
z = z.to(device())
labels = one_hot(torch.arange(10)).to(z)
samples = torch.stack([baseline.net.decode(z, y.expand(12, -1))
                       for y in labels])

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(samples, rows=range(10)),
    "Samples from the prior. Down a column the class changes and the latent code stays.",
    alt="A grid of generated images, ten rows for ten classes; the columns share a style.")

# %% [markdown]
# **Reconstructions.** Encode a test image, decode the mean of its code.

# %%
shown = torch.cat([select(ds.test_labels, [k])[:1]
                   for k in range(10)])
x = ds.test_images[shown].to(z)
y = one_hot(ds.test_labels[shown]).to(z)
rebuilt = baseline.net.decode(baseline.net.encode(x, y)[0], y)

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack([x, rebuilt]), rows=["test image", "rebuilt"]),
    f"A test image of each class and what is left of it after the bottleneck: {run.model.latent_dim} numbers and the "
    f"class in place of 784 pixels, at a squared error of {float((x - rebuilt).square().sum()) / len(x):.1f} an image.",
    alt="Two rows of ten images: test images and, below each, what the model makes of it, as a rule a smoother copy.")

# %% [markdown]
# **A walk.** Encode the test images of one class, take the two whose codes are
# farthest apart, and go from one to the other in a straight line. Every row
# walks the same line under its own label.

# %%
one = select(ds.test_labels, [int(ds.test_labels[0])])
y = one_hot(ds.test_labels[one]).to(z)
codes = baseline.net.encode(ds.test_images[one].to(z), y)[0]
farthest = int(torch.cdist(codes, codes).argmax())
first, last = divmod(farthest, len(codes))
steps = torch.linspace(0, 1, 12, device=z.device)[:, None]
line = torch.lerp(codes[first], codes[last], steps)
walk = torch.stack([baseline.net.decode(line, y.expand(12, -1))
                    for y in labels])

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(walk, rows=range(10)),
    "A straight walk between two distant codes, under each of the ten labels: the style changes along a row, "
    "the class from row to row.",
    alt="A grid of ten rows in which every row changes gradually in style from left to right.")

# %% [markdown]
# ## The judges
#
# "It looks like a 9" is not a measurement. Three small classifiers make it
# one. **Judge A** is the one that attackers may use in later chapters.
# **Judge B** has another architecture and other random draws, and is *held
# out*: nothing is ever optimised against it, it only scores. A third network
# knows only the ten classes and lends its hidden layer as a feature space.
#
# A classifier of ten classes must call everything one of ten names, uniform
# gray included. So judges A and B have an eleventh answer, *not a digit*,
# trained on gray, on noise and on blends of four images. Their probabilities
# are calibrated on images kept aside: the temperature of the softmax is
# fitted there (Guo et al. 2017).

# %%
judges = {name: run.judge(ds, name)
          for name in ("A", "B", "features")}
test_x = ds.test_images.to(z)
test_y = ds.test_labels.to(z.device)
quality = {}
for name in ("A", "B"):
    p = judges[name].probabilities(test_x)
    said = p.argmax(1)
    error = evaluation.expected_calibration_error(p, test_y)
    none = said == NOT_A_DIGIT
    quality[name] = {
        "accuracy": float((said == test_y).float().mean()),
        "calibration error": error,
        "called no digit": float(none.float().mean()),
        "temperature": float(judges[name].temperature)}

# %% tags=["remove-input"]
chapter.show_table(
    pd.DataFrame(quality).T.rename_axis("judge"),
    "The judges on the test images, all of which are digits.",
    {"accuracy": "{:.2%}", "calibration error": "{:.2%}",
     "called no digit": "{:.2%}", "temperature": "{:.2f}"})

# %% [markdown]
# What does judge B say of the model's samples, and of images that show
# nothing? The gray, the noise and the blends here are fresh ones.

# %%
asked = torch.arange(10).repeat_interleave(run.samples)
drawn = evaluation.prior_samples(baseline.net, asked, run.seed)
generator = torch.Generator().manual_seed(run.seed)
four = torch.randint(len(test_x), (4, run.samples),
                     generator=generator)
nothing = {
    "gray": torch.full((1, 1, 28, 28), 0.5),
    "noise": torch.rand(run.samples, 1, 28, 28,
                        generator=generator),
    "blends": ds.test_images[four].mean(0)}


def answers(images):
    said = judges["B"].probabilities(images.to(z)).argmax(1).cpu()
    return torch.bincount(said, minlength=11) / len(said)


# %% tags=["remove-input"]
outcomes = [*map(str, range(10)), "none"]
said = pd.DataFrame(
    {f"sample of {k}": answers(drawn[asked == k]) for k in range(10)}
    | {name: answers(images) for name, images in nothing.items()}, index=outcomes).T
chapter.show_figure(
    figures.confusion(said),
    "What judge B sees in the baseline's samples of each class, and in gray, noise and blends, in percent. It takes "
    + ", ".join(f"{said.loc[name, 'none']:.0%} of {name}" for name in nothing) + " for no digit.",
    alt="A heat map: a row for the samples of each class, for gray, for noise and for blends; a column for each of "
        "the judge's eleven answers.")

# %% [markdown]
# ## A table by class
#
# For every class: the judge's mean probability of the class asked for, the
# share of samples whose first answer it is, the entropy of the judge's answer
# (in nats), the distance to uniform gray (the mean of $|x - 0.5|$, from 0 to
# 0.5), the negative ELBO of the test images, their squared reconstruction
# error, and how samples compare with test images in feature space:
#
# - the Fréchet distance **FID** (Heusel et al. 2017), here per class and on
#   our own features, so not to be compared with numbers from elsewhere;
# - **precision** and **recall** (Kynkäänniemi et al. 2019): the share of
#   samples that lie among real images, and of real images that lie among
#   samples;
# - **density** and **coverage** (Naeem et al. 2020), their sturdier
#   successors.

# %%
table = evaluation.evaluate(
    baseline.net, ds, judges["B"], judges["features"], run.seed,
    run.samples)

# %% tags=["remove-input"]
drawing = {"probability": "{:.3f}", "accuracy": "{:.1%}", "not_a_digit": "{:.3f}", "entropy": "{:.2f}",
           "gray": "{:.3f}", "nelbo": "{:.1f}", "reconstruction": "{:.1f}"}
likeness = {"fid": "{:.1f}", "precision": "{:.2f}", "recall": "{:.2f}", "density": "{:.2f}", "coverage": "{:.2f}"}
chapter.show_table(table[list(drawing)], "The baseline, class by class: what it draws and how well it models.", drawing)
chapter.show_table(table[list(likeness)], "The same: how its samples compare with test images.", likeness)

# %% [markdown]
# **Two controls** put these numbers in place. How good could samples be?
# As good as real images the measures have not seen: training images against
# test images. And how low is a low ELBO? A model that knows only the mean
# image of each class, and draws every pixel on its own, has no latent code
# and no KL to pay.

# %%
real = []
for k in range(10):
    train = ds.train_images[ds.train_labels == k].to(z)
    test = ds.test_images[ds.test_labels == k].to(z)
    real.append(evaluation.fidelity(*map(
        judges["features"].features, (test, train[:run.samples]))))
ceiling = pd.DataFrame(real).mean()

means = torch.stack([ds.train_images[ds.train_labels == k].mean(0)
                     for k in range(10)])
means = means.clamp(1e-3, 1 - 1e-3).to(z)
mean_image = float(F.binary_cross_entropy(
    means[test_y], test_x, reduction="sum") / len(test_x))
nelbo = float(evaluation.negative_elbo(
    baseline.net, ds.test_images, ds.test_labels,
    run.seed).mean())

# %% tags=["remove-input"]
mean = table.mean()
chapter.say(
    "The baseline's negative ELBO on the test images is **{nelbo:.2f} nats**, against {mean_image:.0f} nats for the "
    "mean images. Judge B recognises **{accuracy:.1%}** of its samples, averaged over the ten classes (and "
    "{real:.1%} of the test images). Precision is {precision:.2f} and recall {recall:.2f}; real training images "
    "reach {top_precision:.2f} and {top_recall:.2f}. FID is {fid:.1f} a class, against {top_fid:.1f} for real "
    "images.\n\n"
    "Training took {seconds:.0f} s on the machine that did it; this chapter, {chapter:.0f} s. The model's weights "
    "have the hash `{digest}`.",
    nelbo=nelbo, mean_image=mean_image, accuracy=mean["accuracy"], real=quality["B"]["accuracy"],
    precision=mean["precision"], recall=mean["recall"], top_precision=ceiling["precision"],
    top_recall=ceiling["recall"], fid=mean["fid"], top_fid=ceiling["fid"], seconds=baseline.seconds,
    chapter=time.perf_counter() - started, digest=baseline.digest[:12])

# %% tags=["remove-input"]
hardest, easiest = table["accuracy"].idxmin(), table["accuracy"].idxmax()
chapter.say(
    "The classes are not equally easy: judge B recognises {low:.1%} of the samples of {hardest} and {high:.1%} of "
    "those of {easiest}. {verdict}",
    low=table["accuracy"].min(), high=table["accuracy"].max(), hardest=int(hardest), easiest=int(easiest),
    verdict="Recall is below precision: the samples lie where real images lie, and leave out some places where "
    "real images are. The model draws the typical and misses the odd." if mean["recall"] < mean["precision"] else
    "Recall is not below precision: what the samples lack is likeness, not variety.")

# %% tags=["remove-cell"]
chapter.write_metrics(run.run_dir, "01_baseline", {
    "parameters": {"dataset": run.dataset, "seed": run.seed, "profile": run.profile,
                   "architecture": run.architecture},
    "nelbo": nelbo, "nelbo_mean_image": mean_image, "accuracy": mean["accuracy"],
    "seconds": baseline.seconds, "chapter_seconds": time.perf_counter() - started,
    "model": baseline.digest,
    "judges": {name: {"accuracy": q["accuracy"], "ece": q["calibration error"]} for name, q in quality.items()},
    "fidelity": mean[["fid", "precision", "recall", "density", "coverage"]].to_dict(),
    "fidelity_real": ceiling.to_dict(),
    "classes": {str(k): row for k, row in table.to_dict("index").items()}})

# %% [markdown]
# ## Takeaways
#
# - A conditional VAE splits an image into a class, which it is told, and a
#   style, which it puts into $z$.
# - Its loss is a sum of two terms in nats; the sum bounds how well it models
#   the data, and says little about how good a sample looks.
# - A judge is part of the measurement. It needs a held-out twin, an answer
#   for "none of these", and a check on real images.

# %% [markdown]
# ## Exercises
#
# The solutions follow, each run with the chapter. Try before you look.
#
# 1. **A wider prior.** Samples are decoded from $z \sim \mathcal{N}(0, I)$.
#    Draw from $\mathcal{N}(0, s^2 I)$ with $s$ = 0.5, 1, 1.5 and 2. What
#    happens to what judge B recognises, and to the variety within a class?
# 2. **The divergence.** Derive the line of `elbo_terms` that computes `kl` from
#    $\mathrm{KL}(q \,\|\, p) = \mathbb{E}_q [\log q(z) - \log p(z)]$. Then
#    estimate that expectation with draws from $q$. How many draws does it take
#    to be right to a tenth of a nat?
# 3. **Bits, and slack.** Put the negative ELBO into bits a pixel. The bound is
#    not tight. With draws $z_1, \dots, z_L$ from $q$,
#    $\log \frac1L \sum_l p(x, z_l \mid y) / q(z_l \mid x, y)$ bounds
#    $\log p(x \mid y)$ more closely (Burda et al. 2016). How many nats does
#    that gain with 32 draws?

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
wanted = torch.arange(10).repeat_interleave(100)
generator = torch.Generator().manual_seed(run.seed)
noise = torch.randn(len(wanted), run.model.latent_dim,
                    generator=generator)
widths = {}
for s in (0.5, 1.0, 1.5, 2.0):
    images = baseline.net.decode(s * noise.to(z),
                                   one_hot(wanted).to(z))
    guess = judges["B"].probabilities(images).argmax(1).cpu()
    spread = images.view(10, 100, -1).var(1).sum(1)
    widths[s] = {
        "accuracy": float((guess == wanted).float().mean()),
        "variety": float(spread.mean())}
widths = pd.DataFrame(widths).T
chapter.say(
    "With s = {widths}, judge B recognises {accuracy} of the "
    "samples, and the variance within a class, summed over the "
    "pixels, is {variety}. {reading}",
    widths=", ".join(f"{s:g}" for s in widths.index),
    accuracy=", ".join(f"{a:.1%}" for a in widths["accuracy"]),
    variety=", ".join(f"{v:.1f}" for v in widths["variety"]),
    reading="Likeness is bought with variety: near 0 the decoder "
    "draws the typical, far out it was hardly ever trained."
    if widths["accuracy"].is_monotonic_decreasing else
    "Narrower is not always safer here: see at which s judge B "
    "recognises most.")

# %% [markdown]
# ### Solution 2
#
# <details><summary>The derivation</summary>
#
# The coordinates of $z$ are independent under both
# $q = \mathcal{N}(\mu, \sigma^2)$ and $p = \mathcal{N}(0, 1)$, so one will do:
#
# $$
# \log q(z) - \log p(z) = -\tfrac12 \log \sigma^2
# - \frac{(z - \mu)^2}{2 \sigma^2} + \frac{z^2}{2}
# $$
#
# Under $q$ the mean of $(z - \mu)^2$ is $\sigma^2$, and that of $z^2$ is
# $\mu^2 + \sigma^2$. What remains is
# $\tfrac12 (\mu^2 + \sigma^2 - 1 - \log \sigma^2)$, and the sum over the
# coordinates is the line of code.
#
# </details>

# %% tags=["hide-cell"]
y = one_hot(ds.test_labels[shown]).to(z)
mu, log_var = baseline.net.encode(x, y)
q = torch.distributions.Normal(mu, torch.exp(log_var / 2))
p = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
noise = torch.randn(10_000, *mu.shape, generator=generator)
draws = mu + q.scale * noise.to(z)
ratios = (q.log_prob(draws) - p.log_prob(draws)).sum(2)
formula = elbo_terms(baseline.net, x, y, torch.zeros_like(mu))[1]
errors = (ratios.mean(0) - formula).abs()
chance = ratios.std(0) / len(ratios) ** 0.5
needed = float((ratios.std(0) / 0.1).square().max())
chapter.say(
    "For a test image of each class, the mean over {draws:,} "
    "draws and the formula differ by at most {most:.3f} nats, "
    "{times:.1f} of the standard errors. {reading} A single draw "
    "is off by {spread:.1f} nats; for a standard error of a tenth "
    "of a nat it takes {needed:,.0f} draws, and the formula none.",
    draws=len(ratios), most=errors.max(), needed=needed,
    times=(errors / chance).max(), spread=ratios.std(0).max(),
    reading="They agree." if (errors / chance).max() < 4 else
    "That is no chance: has the cell of the loss been changed?")

# %% [markdown]
# ### Solution 3

# %% tags=["hide-cell"]
x = ds.test_images[:200].to(z)
y = one_hot(ds.test_labels[:200]).to(z)
mu, log_var = baseline.net.encode(x, y)
q = torch.distributions.Normal(mu, torch.exp(log_var / 2))
p = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
generator = torch.Generator().manual_seed(run.seed)
weights = []
for _ in range(32):
    noise = torch.randn(mu.shape, generator=generator).to(z)
    draw = mu + q.scale * noise
    likelihood, _ = elbo_terms(baseline.net, x, y, noise)
    weights.append(
        likelihood + (p.log_prob(draw) - q.log_prob(draw)).sum(1))
weights = torch.stack(weights)
tighter = weights.logsumexp(0) - math.log(len(weights))
chapter.say(
    "{nelbo:.2f} nats are {bits:.3f} bits for each of 784 pixels "
    "(a coin for every pixel costs 1). On {count} test images, 32 "
    "draws together give {tight:.2f} nats where one by one they "
    "give {single:.2f}: at least {gain:.2f} nats of the negative "
    "ELBO are slack of the bound, not a fault of the decoder. The "
    "gray values are taken for probabilities here, so compare "
    "these bits within this book only.",
    nelbo=nelbo, bits=nelbo / 784 / math.log(2), count=len(x),
    tight=-tighter.mean(), single=-weights.mean(),
    gain=(tighter - weights.mean(0)).mean())

# %% [markdown]
# ## Try next
#
# - Multiply `kl` by 4 in the cell of the loss. What happens to samples and
#   to reconstructions?
# - Set `seed = 1` and compare the tables: differences of this size mean
#   nothing in the chapters to come.
# - Set `dataset = "fashion"`: which two classes does judge B confuse?
#
# The next chapter makes this model forget.
