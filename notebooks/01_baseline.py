# %% [markdown]
# # A conditional VAE learns to draw digits
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/01_baseline.ipynb)
#
# Before a model can forget, it has to know something, and we have to be able
# to measure that. This chapter trains the model that the rest of the book
# works on, and the judges that score its drawings.
#
# **You will learn**
#
# - what a conditional variational autoencoder is, and the loss it minimizes;
# - how to see what the model has learned: samples, reconstructions, a latent
#   walk;
# - how to put a number on a drawing, with a judge that may also answer
#   "this is not a digit".
#
# **You need** nothing but this notebook. The first run fetches the data and
# trains the model and the judges; later runs load them.
#
# **It takes** about two minutes on two CPU cores the first time, seconds
# after that. A GPU is used if there is one.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae"
    import sa_lib

# %% tags=["parameters"]
dataset = "mnist"  # @param ["mnist", "fashion", "kmnist", "digits"] {allow-input: true}
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

from sa_lib import (chapter, data, evaluation, experiment, figures,
                    plan, trained)
from sa_lib.labels import one_hot, select
from sa_lib.model import device

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed,
                          profile=profile,
                          architecture=architecture,
                          run_dir=run_dir)
plan.make_ahead("01_baseline", run)  # on all cores

# %% [markdown]
# ## The data
#
# Images are numbers between 0 and 1 on a grid of pixels, 28 × 28 in the book's
# data sets. Every image has a class $y$, written as a vector with a number for
# each class, one of them 1. The book's data sets have ten. Images of one class
# differ a good deal, as the figure below shows, and the model has to learn how.
# The parameter `dataset` also takes the path of images of your own.

# %%
ds = data.load(run.dataset)
examples = torch.stack([ds.train_images[ds.train_labels == k][:12]
                        for k in range(ds.classes)])

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(examples, rows=range(ds.classes)),
    f"The first twelve images of each class, of {len(ds.train_images):,} for training. The numbers of this chapter are "
    f"measured on {len(ds.test_images):,} test images, which train no model in this book.")

# %% [markdown]
# ## The model and its loss
#
# A *variational autoencoder* is a pair of networks. The encoder
# $q(z \mid x, y)$ maps an image to the latent codes $z$ that it might have
# come from: a Gaussian with a mean and a variance for each coordinate.
# The decoder $p(x \mid z, y)$ turns a code into an image. The model is
# *conditional* because both networks get the class $y$, as the figure below
# shows. So the code need not carry the class: $z$ is left with the style, such
# as slant and thickness.
#
# ![An image goes through an encoder to a code z and through a decoder to a drawing; the label y enters both.](../book/_static/drawings/cvae.svg)
#
# *The conditional VAE. The label y enters twice: at the encoder, and at the
# decoder. To draw, only the decoder is needed, with a code from the prior.*
#
# Both are trained to maximize the **evidence lower bound** (ELBO) on the
# log-likelihood of the data ([Kingma & Welling 2014]; [Sohn et al. 2015]):
#
# $$
# \log p(x \mid y) \;\ge\;
# \underbrace{\mathbb{E}_{q(z \mid x, y)} \log p(x \mid z, y)}_{\text{how well } x \text{ is rebuilt}}
# \;-\; \underbrace{\mathrm{KL}\big(q(z \mid x, y) \,\|\, \mathcal{N}(0, I)\big)}
# _{\text{how far } z \text{ is from the prior}}
# $$
#
# In code, with one draw of $z$ for the expectation (change it, and the cells
# below train another model):
#
# [Kingma & Welling 2014]: https://arxiv.org/abs/1312.6114
# [Sohn et al. 2015]: https://papers.nips.cc/paper_files/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html

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
# Both terms are in *nats* per image, the unit of information for natural
# logarithms; a nat is 1.44 bits. Two numbers to compare with: a page of uniform
# gray says ½ for every pixel, and costs $784 \log 2 = 543$ nats for any image
# of 28 × 28 pixels.
# And a coordinate of $z$ with mean 1 and variance 0.1 costs a divergence of
# $\frac12 (1 + 0.1 - 1 - \log 0.1) = 1.2$ nats.
#
# At test time the encoder is not needed: draw $z$ from the prior
# $\mathcal{N}(0, I)$, choose a class, and decode.
#
# ## Training
#
# Training starts from a model that draws about the mean image. In the first
# part the KL term weighs more, which keeps the codes near the prior while the
# decoder learns; after that, the loss is the negative ELBO. In the figure
# below, the model pays for better reconstruction with information in the code:
# as the one gets cheaper, the divergence rises from about zero.

# %%
baseline = trained.cvae(ds, run.model, run.training, run.seed,
                        terms=elbo_terms)

# %% tags=["remove-input"]
first, last = baseline.log.iloc[0], baseline.log.iloc[-1]
chapter.show_figure(
    figures.curves(baseline.log, ["reconstruction", "kl"], {"": "nats per image"}),
    f"Training, on the batch of each logged step: reconstruction from {first['reconstruction']:.0f} to "
    f"{last['reconstruction']:.0f} nats, divergence from {first['kl']:.2f} to {last['kl']:.1f}. It took "
    f"{baseline.seconds:.0f} s on the machine that did it.")

# %% [markdown]
# ## What it has learned
#
# **Samples.** In the figure below, a column has one $z$, and a row one class.
# The same code under all labels shows that the code holds style, not identity.

# %%
z = torch.randn(12, run.model.latent_dim,
                generator=torch.Generator().manual_seed(run.seed))
z = z.to(device())
labels = one_hot(torch.arange(ds.classes), ds.classes).to(z)
samples = torch.stack([baseline.net.decode(z, y.expand(12, -1))
                       for y in labels])

# %% tags=["remove-input"]
chapter.show_figure(figures.image_grid(samples, rows=range(ds.classes)),
                    "Samples from the prior. Down a column the class changes and the latent code stays.")

# %% [markdown]
# **Reconstructions.** Encode a test image, and decode the mean of its code. The
# figure below shows what gets lost.

# %%
shown = torch.cat([select(ds.test_labels, [k])[:1]
                   for k in range(ds.classes)])
x = ds.test_images[shown].to(z)
y = one_hot(ds.test_labels[shown], ds.classes).to(z)
rebuilt = baseline.net.decode(baseline.net.encode(x, y)[0], y)

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack([x, rebuilt]), rows=["test image", "rebuilt"]),
    f"A test image of each class and its reconstruction from {run.model.latent_dim} numbers and the class, with a "
    f"squared error of {float((x - rebuilt).square().sum()) / len(x):.1f} per image.")

# %% [markdown]
# **A walk.** Encode the test images of one class, take the two whose codes are
# farthest apart, and go from one to the other in a straight line. Every row of
# the figure below follows the same line under its own label.

# %%
one = select(ds.test_labels, [int(ds.test_labels[0])])
y = one_hot(ds.test_labels[one], ds.classes).to(z)
codes = baseline.net.encode(ds.test_images[one].to(z), y)[0]
farthest = int(torch.cdist(codes, codes).argmax())
first, last = divmod(farthest, len(codes))
steps = torch.linspace(0, 1, 12, device=z.device)[:, None]
line = torch.lerp(codes[first], codes[last], steps)
walk = torch.stack([baseline.net.decode(line, y.expand(12, -1))
                    for y in labels])

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(walk, rows=range(ds.classes)),
    "A straight walk between two distant codes, under each label: a row changes the style, a column the class.")

# %% [markdown]
# ## The judges
#
# "It looks like a 9" is not a measurement. Three small classifiers make it one.
# **Judge A** is the one that attackers may use in later chapters. **Judge B**
# has another architecture and other random draws, and is *held out*: nothing is
# ever optimized against it; it only scores. A third network knows only the
# classes and lends its hidden layer as a feature space.
#
# A classifier must give every image one of its names, even uniform gray. So
# judges A and B have one answer more than there are classes, *not a digit*,
# trained on gray, on noise and on blends of four images. Their probabilities
# are *calibrated*: of the answers that a judge gives with 90% probability,
# 90% should be right. For that, one number, the temperature of the softmax,
# is fitted on separate images ([Guo et al. 2017]). What is left of the gap
# between probability and accuracy is the calibration error. The table below
# is about test images. Each of them shows a class, so to call one *not a digit*
# is an error.
#
# [Guo et al. 2017]: https://arxiv.org/abs/1706.04599

# %%
judges = {name: run.judge(ds, name)
          for name in ("A", "B", "features")}
test_x = ds.test_images.to(z)
test_y = ds.test_labels.to(z.device)


def quality(judge):
    p = judge.probabilities(test_x)
    answer = p.argmax(1)
    return {"accuracy": float((answer == test_y).float().mean()),
            "ece": evaluation.expected_calibration_error(p, test_y),
            "none": float((answer == judge.not_a_digit)
                          .float().mean()),
            "temperature": float(judge.temperature)}


qualities = {name: quality(judges[name]) for name in ("A", "B")}

# %% tags=["remove-input"]
chapter.show_table(
    pd.DataFrame(qualities).T.set_axis(["recognized", "ece", "called no digit", "temperature"], axis=1),
    "Judges A and B on the test images.",
    {"recognized": "{:.2%}", "called no digit": "{:.2%}", "temperature": "{:.2f}"})

# %% [markdown]
# How does judge B answer for the model's samples, and for images that show
# nothing? In the figure below, samples should be on the diagonal, and the rest
# in the last column. The gray, the noise and the blends are fresh ones.

# %%
classes = torch.arange(ds.classes)
classes = classes.repeat_interleave(run.samples)
drawn = evaluation.prior_samples(baseline.net, classes, run.seed)
generator = torch.Generator().manual_seed(run.seed)
four = torch.randint(len(test_x), (4, run.samples),
                     generator=generator)
nothing = {
    "gray": torch.full((1, *ds.image_shape), 0.5),
    "noise": torch.rand(run.samples, *ds.image_shape,
                        generator=generator),
    "blends": ds.test_images[four].mean(0)}

# %%
sets = {f"samples of {k}": drawn[classes == k]
        for k in range(ds.classes)}
answers = evaluation.answers(judges["B"], sets | nothing)

# %% tags=["remove-input"]
chapter.show_figure(
    figures.confusion(answers),
    "Judge B's answers, in percent, for the baseline's samples of each class, and for gray, noise and blends. It calls "
    f"at least {answers.loc[list(nothing), 'none'].min():.0%} of gray, of noise and of blends no digit.")

# %% [markdown]
# ## A table by class
#
# The table below has, for every class: judge B's mean probability of the
# class, the share of samples for which the class is its first answer, its
# mean probability of no digit, the entropy of its answers, the distance to
# uniform gray (the mean of $|x - 0.5|$, from 0 to 0.5), the negative ELBO of
# the test images, and their squared reconstruction error. The second table
# below compares samples with test images in feature space:
#
# - the Fréchet distance **FID** ([Heusel et al. 2017]), here per class and on
#   our own features, so it is not comparable with numbers from elsewhere;
# - **precision** and **recall** ([Kynkäänniemi et al. 2019]): the share of
#   samples that lie among real images, and of real images that lie among
#   samples;
# - **density** and **coverage** ([Naeem et al. 2020]), their more robust
#   successors.
#
# [Heusel et al. 2017]: https://arxiv.org/abs/1706.08500
# [Kynkäänniemi et al. 2019]: https://arxiv.org/abs/1904.06991
# [Naeem et al. 2020]: https://arxiv.org/abs/2002.09797

# %%
table = evaluation.evaluate(
    baseline.net, ds, judges["B"], judges["features"], run.seed,
    run.samples)

# %% tags=["remove-input"]
chapter.show_table(table.loc[:, :"reconstruction"], "The baseline, class by class: its samples and its fit.")
chapter.show_table(table.loc[:, "fid":], "The baseline, class by class: samples compared with test images.")

# %% [markdown]
# **Two controls** put these numbers in perspective; the table below sets them
# beside the baseline. What do real images score? We compare training images
# with test images. The feature network was trained on the former. Samples more
# typical than real images can score higher.

# %%
real = []
for k in range(ds.classes):
    train = ds.train_images[ds.train_labels == k].to(z)
    test = ds.test_images[ds.test_labels == k].to(z)
    real.append(evaluation.fidelity(*map(
        judges["features"].features, (test, train[:run.samples]))))
ceiling = pd.DataFrame(real).mean()

# %% [markdown]
# And how low is a low negative ELBO? The second control knows only the mean
# image of each class, and draws every pixel independently. It has no latent
# code and pays no KL.

# %%
means = torch.stack([ds.train_images[ds.train_labels == k].mean(0)
                     for k in range(ds.classes)])
means = means.clamp(1e-3, 1 - 1e-3).to(z)
mean_image = float(F.binary_cross_entropy(
    means[test_y], test_x, reduction="sum") / len(test_x))
nelbo = float(evaluation.negative_elbo(
    baseline.net, ds.test_images, ds.test_labels,
    run.seed).mean())

# %% tags=["remove-input"]
mean = table.mean()
rows = {"baseline": {**mean, "nelbo": nelbo}, "real images": {**ceiling, "accuracy": qualities["B"]["accuracy"]},
        "mean images": {"nelbo": mean_image}}
chapter.show_table(pd.DataFrame(rows).T[["nelbo", "accuracy", *ceiling.index]],
                   "The baseline and its controls, means over all classes. The negative ELBO is the mean over all "
                   "test images; judge B's accuracy on real images is that on the test images.")

# %% [markdown]
# If the baseline's recall is below its precision, the samples lie where real
# images lie, and leave out some places where real images are: the model draws
# the typical and misses the odd. If it is not, the samples lack likeness, not
# variety.
#
# The table below holds this run to what the book claims about the baseline and
# its judges.

# %% tags=["remove-input"]
metrics = {"nelbo": nelbo, "nelbo_mean_image": mean_image, "accuracy": mean["accuracy"], "seconds": baseline.seconds,
           "judges": qualities, "fidelity": mean["fid":].to_dict(), "fidelity_real": ceiling.to_dict(),
           "classes": table.to_dict("index")}
run.show_claims("01_baseline", metrics)

# %% tags=["remove-input"]
run.finish("01_baseline", metrics, {"baseline": baseline}, started)

# %% tags=["remove-input", "in-short"]
chapter.say(
    "**In short**\n\n"
    "- A held-out judge recognizes {drawn:.1%} of the model's drawings, and {real:.1%} of real test images.\n"
    "- A test image costs the model {nelbo:.1f} nats. Drawing the mean image of its class costs {mean:.1f}, and a gray "
    "page {gray:.0f}.\n"
    "- Of the drawings, {precision:.0%} lie among real images; of the real images, {recall:.0%} lie among drawings. "
    "Real images against real images give {precision_real:.0%} and {recall_real:.0%}.",
    drawn=mean["accuracy"], real=qualities["B"]["accuracy"], nelbo=nelbo, mean=mean_image,
    gray=math.prod(ds.image_shape) * math.log(2), precision=mean["precision"], recall=mean["recall"],
    precision_real=ceiling["precision"], recall_real=ceiling["recall"])

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input", "takeaways"]
end = baseline.log.iloc[-1]
chapter.say(
    "- A conditional VAE splits an image into a class, which it gets as an input, and a style, which it puts into z: "
    "{latent} numbers for {pixels} pixels.\n"
    "- Its loss is a sum of two terms in nats: in the last batch that was logged, {rebuilt:.1f} for an image and {code:.1f} for "
    "its code. The sum bounds how well the model explains the data, and says little about how good a sample looks.\n"
    "- A judge is part of the measurement. It needs a held-out twin, an answer for \"none of these\", and a check on real "
    "images. Judges A and B agree with {a:.1%} and {b:.1%} of the labels of test images, and judge B calls at least "
    "{none:.0%} of gray, of noise and of blends no digit.",
    latent=run.model.latent_dim, pixels=math.prod(ds.image_shape), rebuilt=end["reconstruction"], code=end["kl"],
    a=qualities["A"]["accuracy"], b=qualities["B"]["accuracy"], none=answers.loc[list(nothing), "none"].min())

# %% [markdown]
# ## Check yourself
#
# Answer first, then unfold.
#
# <details><summary>Why does one z give all classes in one style?</summary>
#
# The label is an input of both networks, so the code need not carry the class.
# It carries what the label does not say, such as slant and thickness.
#
# </details>
#
# <details><summary>Why does a judge need the answer "not a digit"?</summary>
#
# A classifier must name one of its classes for every image, even for uniform
# gray. Then a model that draws gray would still get a digit, and the
# measure would say something false about it.
#
# </details>
#
# <details><summary>Two models have the same negative ELBO. Are their samples equally good?</summary>
#
# Not necessarily. The ELBO bounds how well a model explains the data, as a sum
# of two terms, and says little about samples. Samples need measures of their
# own: a judge, precision and recall.
#
# </details>

# %% [markdown]
# ## Exercises
#
# The solutions follow; they run with the chapter. Try before you look.
# Easy takes about 10 minutes, medium about 20, and hard about 40.
#
# 1. **A wider prior.** Samples are decoded from $z \sim \mathcal{N}(0, I)$.
#    Draw from $\mathcal{N}(0, s^2 I)$ with $s$ = 0.5, 1, 1.5 and 2. What
#    happens to judge B's accuracy, and to the variety within a class? (easy)
# 2. **The divergence.** Derive the line of `elbo_terms` that computes `kl` from
#    $\mathrm{KL}(q \,\|\, p) = \mathbb{E}_q [\log q(z) - \log p(z)]$. Then
#    estimate that expectation with draws from $q$. How many draws does it take
#    to be right to a tenth of a nat? (medium)
# 3. **Bits, and slack.** Put the negative ELBO into bits per pixel. The bound is
#    not tight. With draws $z_1, \dots, z_L$ from $q$,
#    $\log \frac1L \sum_l p(x, z_l \mid y) / q(z_l \mid x, y)$ bounds
#    $\log p(x \mid y)$ more closely ([Burda et al.
#    2016](https://arxiv.org/abs/1509.00519)). How many nats does that gain with
#    32 draws? (hard)

# %% [markdown]
# ### Solution 1
#
# If accuracy falls with $s$ and variety rises, likeness is bought with variety:
# near 0 the decoder draws the typical, and far out it was hardly ever trained.

# %% tags=["hide-cell"]
classes = torch.arange(ds.classes).repeat_interleave(100)
generator = torch.Generator().manual_seed(run.seed)
noise = torch.randn(len(classes), run.model.latent_dim,
                    generator=generator)
widths = {}
for s in (0.5, 1.0, 1.5, 2.0):
    images = baseline.net.decode(s * noise.to(z),
                                 one_hot(classes, ds.classes).to(z))
    answer = judges["B"].probabilities(images).argmax(1).cpu()
    spread = images.view(ds.classes, 100, -1).var(1).sum(1)
    widths[f"{s:g}"] = {
        "accuracy": float((answer == classes).float().mean()),
        "variety": float(spread.mean())}
widths = pd.DataFrame(widths).T
chapter.say(
    "With s = {widths}, judge B recognizes {accuracy} of the "
    "samples. The variance within a class, summed over the pixels, "
    "is {variety}.",
    widths=", ".join(widths.index),
    accuracy=", ".join(f"{a:.1%}" for a in widths["accuracy"]),
    variety=", ".join(f"{v:.1f}" for v in widths["variety"]))

# %% [markdown]
# ### Solution 2
#
# <details><summary>The derivation</summary>
#
# The coordinates of $z$ are independent under both
# $q = \mathcal{N}(\mu, \sigma^2)$ and $p = \mathcal{N}(0, 1)$, so one of them
# is enough:
#
# $$
# \log q(z) - \log p(z) = -\tfrac12 \log \sigma^2
# - \frac{(z - \mu)^2}{2 \sigma^2} + \frac{z^2}{2}
# $$
#
# Under $q$ the mean of $(z - \mu)^2$ is $\sigma^2$, and that of $z^2$ is
# $\mu^2 + \sigma^2$. This leaves
# $\tfrac12 (\mu^2 + \sigma^2 - 1 - \log \sigma^2)$, and the sum over the
# coordinates is the line of code.
#
# </details>
#
# Up to about 4 standard errors between the formula and the draws is chance. More
# means that the cell of the loss was changed.

# %% tags=["hide-cell"]
y = one_hot(ds.test_labels[shown], ds.classes).to(z)
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
    "and by at most {times:.1f} standard errors. A single draw is "
    "off by {spread:.1f} nats. A standard error of a tenth of a "
    "nat takes {needed:,.0f} draws; the formula takes none.",
    draws=len(ratios), most=errors.max(), needed=needed,
    times=(errors / chance).max(), spread=ratios.std(0).max())

# %% [markdown]
# ### Solution 3
#
# Gray values count as probabilities here, so these bits are comparable only
# within this book. A coin for every pixel costs 1.

# %% tags=["hide-cell"]
some = torch.randperm(len(ds.test_labels), generator=(
    torch.Generator().manual_seed(run.seed)))[:200]
x = ds.test_images[some].to(z)
y = one_hot(ds.test_labels[some], ds.classes).to(z)
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
pixels = math.prod(ds.image_shape)
chapter.say(
    "{nelbo:.2f} nats are {bits:.3f} bits for each of {pixels} "
    "pixels. On {count} test images, 32 draws together give "
    "{tight:.2f} nats, and one by one they give {single:.2f}: at "
    "least {gain:.2f} nats of the negative ELBO are slack of the "
    "bound, not a fault of the decoder.",
    nelbo=nelbo, bits=nelbo / pixels / math.log(2),
    pixels=pixels, count=len(x),
    tight=-tighter.mean(), single=-weights.mean(),
    gain=(tighter - weights.mean(0)).mean())

# %% [markdown]
# ## Try next
#
# - Multiply `kl` by 4 in the cell of the loss. What happens to samples and
#   to reconstructions?
# - Set `seed = 1` and compare the tables: differences of this size mean
#   nothing in later chapters.
# - Set `dataset = "fashion"`: which two classes does judge B confuse?
#
# Next: [make this model forget one digit](02_ewc_unlearning.ipynb).
