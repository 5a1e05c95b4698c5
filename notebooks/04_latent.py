# %% [markdown]
# # Inside the latent space
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/04_latent.ipynb)
#
# Asked for a forgotten class, the model draws gray. That is its output. This
# chapter looks inside: do the encoder and the hidden layers of the decoder
# still tell the class from the others, and which weights have moved?
#
# **You will learn**
#
# - to look at several models' latent spaces in *one* embedding, with and
#   without the label;
# - to ask a layer what it knows, by nearest neighbors and by linear probes,
#   and to compare layers of different models;
# - why none of this means anything without a model that never saw the class,
#   and without a second model that should be the same as the first.
#
# **You need** nothing but this notebook: it trains every model that is not yet
# in your store.
#
# **It takes** about four minutes on two CPU cores the first time, most of it
# for three trainings, and a minute or two after that. It uses a GPU if there
# is one.

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
import itertools
import time
from dataclasses import replace

import pandas as pd
import torch

from sa_lib import (chapter, data, evaluation, experiment, figures,
                    latent, measures, plan, trained)
from sa_lib.labels import one_hot, select
from sa_lib.methods import distance_to_gray
from sa_lib.model import device

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed, forget=forget,
                          profile=profile,
                          architecture=architecture,
                          run_dir=run_dir)
plan.make_ahead("04_latent", run)  # on all cores
digit = run.forget[0]

# %% [markdown]
# ## The models
#
# `forget` is one class, or several in their order. We compare the baseline and
# the unlearned models with two controls. One model **never saw** the first
# class: it is trained like the baseline and then gets as many further updates
# as the unlearning took. The other is a **second baseline** with another seed.
# It shows how much two models differ that should be the same. The figure below
# has a row for each model: compare the columns of the forgotten classes.

# %%
ds = data.load(run.dataset)
base = run.baseline(ds)
models = {"baseline": base}
for count, model in enumerate(run.sequence(ds, run.forget), 1):
    digits = ", ".join(map(str, run.forget[:count]))
    models[f"forgot {digits}"] = model
unlearned = list(models)[1:]
never, other = f"never saw {digit}", "baseline, other seed"
models[never] = run.never_saw(ds, digit)
models[other] = run.baseline(ds, run.seed + 1)

# %%
asked = torch.arange(ds.classes).repeat(2)
samples = {name: evaluation.prior_samples(m.net, asked, run.seed)
           for name, m in models.items()}

# %% tags=["remove-input"]
gray = {name: float(distance_to_gray(drawn[asked == digit]).mean()) for name, drawn in samples.items()}
chapter.show_figure(
    figures.image_grid(torch.stack(list(samples.values())), list(samples), [*range(ds.classes)] * 2),
    f"All classes, twice, from the same latent codes in every row. Mean distance to gray for {digit}: "
    f"{measures.listing('gray', gray)}.")

# %% [markdown]
# ## One embedding for all
#
# t-SNE draws neighbors in eight dimensions as neighbors in two. Read off it who
# is near whom; the size of a cloud and the distance between two clouds mean
# nothing. Two separate fits cannot be compared, so we embed all models together,
# on shared axes. We
# leave out the models that share no training with the baseline: their axes of
# $z$ are different, so they would only fill a region of their own.
#
# With the **true label**, the encoder need not put the digit into $z$, because
# the decoder gets the label anyway. With a **neutral label**, $y = 1/10$
# everywhere if there are ten classes, the decoder does not get it, and $z$ shows
# what the encoder knows.
#
# In the figure below, a line leads from the place of an image of a forgotten
# class in the baseline to its place in the last unlearned model; an image
# without a line has not moved. The silhouette in the caption is that of the
# baseline's classes, in $z$ and not in the picture: at 0 or below they overlap,
# at 1 they lie far apart.

# %%
shown = ["baseline", *unlearned][:4]
generator = torch.Generator().manual_seed(run.seed)
chosen = torch.randperm(len(ds.test_labels), generator=generator)
chosen = chosen[:10_000 // len(shown)]
images, labels = ds.test_images[chosen], ds.test_labels[chosen]


def means(y):
    return {name: latent.activations(models[name].net, images,
                                     y)["mean"] for name in shown}


with_label = means(one_hot(labels, ds.classes))
without = means(latent.neutral(len(images), ds.classes))

# %%
places = latent.joint_tsne([*without.values()], run.seed)
places = dict(zip(shown, places, strict=True))
moved = (places[shown[-1]] - places["baseline"]).norm(dim=1)
width = places["baseline"].std(0).norm()
apart = {"true label": with_label, "neutral label": without}
apart = {title: float(latent.silhouette(
    values["baseline"], labels, ds.classes).mean())
    for title, values in apart.items()}

# %% tags=["remove-input"]
chapter.show_figure(
    figures.embedding({name: places[name] for name in ("baseline", shown[-1])}, labels, run.forget),
    f"{len(chosen):,} test images with the neutral label, from the baseline to the model that {shown[-1]}. Half of the "
    f"images of {digit} move by less than {float(moved[labels == digit].median() / width):.1%} of the spread of all "
    f"images. Silhouette: {measures.listing('silhouette', apart)}.")

# %% [markdown]
# ## What does a layer know?
#
# A **linear probe** learns to tell the classes from a layer's values. So do
# ten **nearest neighbors** on the mean of $z$. All of them get the neutral
# label, because the true label would give the answer away. The score of the
# class in a model that never saw it shows how much an encoder of *digits*
# reveals about any shape.
#
# The table below has the probes' scores for the class, and the second table
# below those for all classes. The third table below is about the mean of $z$.

# %%
generator = torch.Generator().manual_seed(run.seed)
train = torch.randperm(len(ds.train_labels), generator=generator)
test = torch.randperm(len(ds.test_labels), generator=generator)
train, test = train[:4000], test[:4000]  # random samples
x_train, y_train = ds.train_images[train], ds.train_labels[train]
x_test, y_test = ds.test_images[test], ds.test_labels[test]


def values(net, x):
    return latent.activations(net, x, latent.neutral(
        len(x), ds.classes))

# %%
layers, recall, neighbors, clusters = {}, {}, {}, {}
for name, model in models.items():
    train = values(model.net, x_train)
    layers[name] = test = values(model.net, x_test)
    recall[name] = latent.layer_recall(train, y_train, test, y_test,
                                       ds.classes)
    neighbors[name] = latent.knn_recall(
        train["mean"], y_train, test["mean"], y_test,
        classes=ds.classes)
    clusters[name] = latent.silhouette(test["mean"], y_test,
                                       ds.classes)

# %% tags=["remove-input"]
probes = pd.DataFrame({name: table.loc[digit] for name, table in recall.items()}).T
overall = pd.DataFrame({name: table.mean() for name, table in recall.items()}).T
percent = dict.fromkeys(probes.columns, "{:.1%}")
chapter.show_table(probes, f"Linear probe: share of test images of {digit} that it recognizes, by layer.", percent)
chapter.show_table(overall, "Linear probe: the same, mean over all classes.", percent)

# %% tags=["remove-input"]
structure = pd.DataFrame({name: {
    "neighbors, all": neighbors[name].mean(), "neighbors, class": neighbors[name][digit],
    "silhouette, all": clusters[name].mean(), "silhouette, class": clusters[name][digit]} for name in models}).T
chapter.show_table(structure, "On the mean of z: share that ten nearest neighbors recognize, and silhouette; of all "
                   f"classes and of class {digit}.", dict.fromkeys(structure.columns[:2], "{:.1%}"))

# %% [markdown]
# Read the rows of each table in this order:
#
# - The row **of the other seed** is the yardstick. A difference from the baseline
#   that is no larger than its own, whatever the sign, can be chance.
# - If an **unlearned** model loses no more than that in its encoder, the
#   encoder still knows the digit. The gray term depends on the decoder alone,
#   so nothing asks the encoder to forget (exercise 4). The decoder is the part
#   that the gray term reaches.
# - If the model that **never saw** the class loses no more either, the probe is
#   no evidence of memory: it finds as much where there is nothing to remember.
#   If that model loses much more than the unlearned one, this may be memory of
#   the class. With one other seed as the yardstick, it is a hint and no proof.

# %% [markdown]
# ## Are two layers alike?
#
# Centered kernel alignment (CKA) compares a layer of one model with the same
# layer of another by the images that each finds similar. For three images of
# which both layers put the first two together and the third apart, CKA is near
# 1, whatever the axes of the layers. It ignores a rotation or a scaling: at 1,
# the layers are the same up to these.
#
# Two independent baselines are the yardstick again: in the figure below, that is
# the line of the other seed. A model that was made from the baseline, as the
# unlearned ones were, can be more like it than that.

# %%
others = [name for name in models if name != "baseline"]
subsets = {"all test images": torch.arange(len(y_test))[:2000],
           f"test images of {digit}": select(y_test, [digit])}
alike = {title: pd.DataFrame({
    name: latent.layer_cka(layers["baseline"], layers[name], rows)
    for name in others}).T for title, rows in subsets.items()}

# %% tags=["remove-input"]
last = alike[f"test images of {digit}"].iloc[:, -1]
chapter.show_figure(
    figures.lines({name: pd.DataFrame({title: table.loc[name] for title, table in alike.items()}) for name in others},
                  {title: f"CKA, {title}" for title in alike}, "layer"),
    "CKA between the baseline and each other model, with the neutral label. On images of "
    f"{digit}, in the decoder's last hidden layer: {measures.listing('cka', last.to_dict())}.")

# %% [markdown]
# ## Which weights moved?
#
# The penalty holds each weight in proportion to its Fisher. Did the important
# weights stay? The table below answers for each weight matrix. Its control is
# the same unlearning without the gray term, which shows how far rehearsal alone
# moves the weights.

# %%
fisher = trained.retain_fisher(base, ds, digit, run.seed)
control = trained.unlearned(base, ds, digit, fisher,
                            replace(run.unlearning, gray=0.0),
                            run.seed)
moves = {name: latent.weight_changes(base.net, m.net, fisher)
         for name, m in ((unlearned[0], models[unlearned[0]]),
                         ("no gray term", control))}

# %% tags=["remove-input"]
def with_means(table):
    means = table.groupby(table.index.str.split(".").str[0], sort=False).mean()
    return pd.concat([table, means.rename("{}, mean".format)])


rehearsed, gray_too = (with_means(moves[name]) for name in ("no gray term", unlearned[0]))
chapter.show_table(
    measures.before_after(rehearsed, gray_too, ["moved", "rank correlation", "top"]),
    f"For each weight matrix, without the gray term → with it ({unlearned[0]}): relative change of the matrix, rank "
    "correlation of a weight's change with its Fisher, and share of the squared change that falls on the tenth of the "
    "weights with the largest Fisher. The last rows are means over the matrices of a part.")

# %% [markdown]
# The difference between the two sides of an arrow is the work of the gray term.
# The rank correlation is about all weights. If it is below 0, a weight with a
# larger Fisher tends to move less, as the penalty demands; above 0, it tends to
# move more. In the encoder only rehearsal and the penalty can do that: the gray
# term has no gradient there (exercise 4). The last column is about the weights
# that matter most. Below 10%, they moved less than the rest, whatever the rank
# correlation says.

# %% [markdown]
# ## A walk
#
# The figure below walks from one class through the forgotten class to another,
# along a straight line of label vectors at a fixed $z$. These two neighbors are
# the classes whose mean images lie nearest to that of the forgotten class. The
# second figure below stays at the forgotten label and walks along each of the
# first two axes of $z$.

# %%
distances = latent.class_distances(x_train.flatten(1), y_train,
                                   ds.classes)
distances = distances[digit]
distances[list(run.forget)] = torch.inf
left, right = distances.nsmallest(2).index
corners = one_hot(torch.tensor([left, digit, right]), ds.classes)
t = torch.linspace(0, 1, 7)[:, None]
walk = torch.cat([torch.lerp(corners[0], corners[1], t),
                  torch.lerp(corners[1], corners[2], t[1:])])

# %%
def draw(net, z, y):
    return net.decode(z.to(device()), y.to(device())).cpu()


generator = torch.Generator().manual_seed(run.seed + 5)
z = torch.randn(1, run.model.latent_dim, generator=generator)
walks = {name: draw(m.net, z.expand(len(walk), -1), walk)
         for name, m in models.items()}

# %% tags=["remove-input"]
stops = [str({0: left, 6: digit, 12: right}.get(step, "")) for step in range(len(walk))]
halfway = {name: float(distance_to_gray(drawn)[6]) for name, drawn in walks.items()}
chapter.show_figure(
    figures.image_grid(torch.stack(list(walks.values())), list(walks), stops),
    f"From label {left} through {digit} to {right} at one z. Distance to gray halfway, at the label {digit}: "
    f"{measures.listing('gray', halfway)}.")

# %% tags=["remove-input"]
places = torch.linspace(-2.5, 2.5, 13)
traversals, farthest = {}, dict.fromkeys(models, 0.0)
for axis, (name, m) in itertools.product(range(2), models.items()):
    along = z.repeat(13, 1)
    along[:, axis] = places
    traversals[f"{name}, z{axis + 1}"] = drawn = draw(m.net, along, corners[1].expand(13, -1))
    farthest[name] = max(farthest[name], float(distance_to_gray(drawn).max()))
chapter.show_figure(
    figures.image_grid(torch.stack(list(traversals.values())), list(traversals),
                       [f"{at:+.1f}" * (n % 3 == 0) for n, at in enumerate(places)]),
    f"At the label {digit}, along the first two axes of z. Largest distance to gray on the way: "
    f"{measures.listing('gray', farthest)}.")

# %% tags=["remove-input"]
layer, name = "encoder 2", unlearned[0]
short = {"baseline": probes.loc["baseline", layer], "forgot": probes.loc[name, layer], "never": probes.loc[never, layer],
         "other": probes.loc[other, layer], "encoder": gray_too.loc["encoder, mean", "rank correlation"],
         "decoder": gray_too.loc["decoder, mean", "rank correlation"],
         **{f"top_{side}": gray_too.loc[f"{side}, mean", "top"] for side in ("decoder", "encoder")}}
run.finish("04_latent", {
    "short": short,
    "probe": probes.to_dict("index"), "probe_all": overall.to_dict("index"), "structure": structure.to_dict("index"),
    "cka": {title: table.to_dict("index") for title, table in alike.items()},
    "moved": {name: table.to_dict("index") for name, table in moves.items()}}, models, started)

# %% tags=["remove-input", "in-short"]
chapter.say(
    "**In short**\n\n"
    "- Forgetting happens in the decoder. On the encoder's second layer, a probe finds {baseline:.0%} of the {digit}s before "
    "and {forgot:.0%} after.\n"
    "- That is no proof of memory: in a model that never saw a {digit} it finds {never:.0%}, and in a second baseline "
    "{other:.0%}. On this layer the probe cannot tell whether a class is gone.\n"
    "- In the decoder, a weight's change and its Fisher have a rank correlation of {decoder:+.2f} on average, and in the "
    "encoder of {encoder:+.2f}. Of the squared change, {top_decoder:.1%} and {top_encoder:.1%} fall on the tenth of the "
    "weights with the largest Fisher. Below 10%, these moved less than the rest.", digit=digit, **short)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input", "takeaways"]
moved = pd.concat([gray_too["moved"], rehearsed["moved"]], axis=1, keys=["gray", "without"])
found = structure["neighbors, class"]
chapter.say(
    "- The gray term reaches the decoder only. With it, the decoder's matrices move by {decoder:.1%} on average, and without "
    "it by {decoder_0:.1%}; the encoder's move by {encoder:.1%} and {encoder_0:.1%}. An encoder does not forget a class "
    "because the decoder no longer draws it.\n"
    "- A probe that finds the class in an unlearned model proves nothing until you have tried it on a model that never saw "
    "the class. On the mean of z, nearest neighbors recognize {forgot:.0%} of the {digit}s in the first, and {never:.0%} "
    "in the second.\n"
    "- Two models of different seed are the yardstick for \"different\". On images of {digit}, in the decoder's last hidden "
    "layer, CKA with the baseline is {cka_other:.2f} for another seed, and {cka_forgot:.2f} for the model that {name}. "
    "Pictures of separate embeddings are no yardstick.", digit=digit, name=unlearned[0],
    decoder=moved.loc["decoder, mean", "gray"], decoder_0=moved.loc["decoder, mean", "without"],
    encoder=moved.loc["encoder, mean", "gray"], encoder_0=moved.loc["encoder, mean", "without"],
    forgot=found[unlearned[0]], never=found[never], cka_other=last[other], cka_forgot=last[unlearned[0]])

# %% [markdown]
# ## Check yourself
#
# Answer first, then unfold.
#
# <details><summary>A probe finds the forgotten digit in the encoder. Is that memory?</summary>
#
# Only if the probe finds less in a model that never saw the digit. An encoder
# of digits says something about any shape, and a probe can use that.
#
# </details>
#
# <details><summary>Why do the probes get a neutral label?</summary>
#
# The true label is an input of the network. A layer could pass it on, and the
# probe would read the label and not what the network knows about the image.
#
# </details>
#
# <details><summary>Two t-SNE pictures, one of each model, look different. What follows?</summary>
#
# Nothing. Separate fits cannot be compared, and neither the size of a cloud nor
# the distance between two clouds means anything. All models must be in one
# embedding, and a model of another seed is the yardstick.
#
# </details>

# %% [markdown]
# ## Exercises
#
# The solutions follow, each run with the chapter. Try before you look.
# Easy takes about 10 minutes, medium about 20, and hard about 40.
#
# 1. **The true label.** Give the probes of the decoder the true label instead
#    of the neutral one. How much do they find, and why is that no finding? (easy)
# 2. **An untrained network.** Probe a model with its initial weights. How much
#    of the digit does a layer reveal that has learned nothing? (easy)
# 3. **Blind spots of CKA.** Show that linear CKA stays the same when a layer
#    is rotated, and when it is scaled as a whole. Rotate one, and then stretch
#    it along one axis. Are the latent means of two baselines of different seed
#    the same up to a rotation? (hard)
# 4. **Out of reach.** Which weights have a gradient of the gray term? Why did
#    the others move? (medium)

# %% [markdown]
# ### Solution 1
#
# The decoder reads the label, and the probe reads the decoder. A high recall
# with the true label says nothing about the image: the label was an input.

# %% tags=["hide-cell"]
def labeled(x, labels):
    return latent.activations(base.net, x,
                              one_hot(labels, ds.classes))


known = latent.layer_recall(
    labeled(x_train, y_train), y_train,
    labeled(x_test, y_test), y_test, ds.classes).loc[digit]
chapter.say(
    "With the true label, the probe recognizes {mean:.1%} of the "
    "{digit}s on the mean of z (neutral label: "
    "{mean_neutral:.1%}), and {hidden:.1%} in the decoder's first "
    "layer ({hidden_neutral:.1%}).",
    digit=digit, mean=known["mean"], hidden=known["decoder 1"],
    mean_neutral=probes.loc["baseline", "mean"],
    hidden_neutral=probes.loc["baseline", "decoder 1"])

# %% [markdown]
# ### Solution 2
#
# If the untrained network comes near the baseline, then much of the probe's
# finding is in the images. A random projection keeps it: the probe learns, and
# the layer need not have learned anything. If it stays far below, then training
# put the digit there.

# %% tags=["hide-cell"]
from sa_lib.model import build

untrained = build(run.model, run.seed).to(device())
blank = latent.layer_recall(
    values(untrained, x_train), y_train,
    values(untrained, x_test), y_test, ds.classes).mean()
chapter.say(
    "In the encoder's second layer, the probe of an untrained "
    "network recognizes {layer:.1%} of all digits (baseline: "
    "{layer_base:.1%}); on the mean of z, {mean:.1%} "
    "({mean_base:.1%}).",
    layer=blank["encoder 2"], mean=blank["mean"],
    layer_base=overall.loc["baseline", "encoder 2"],
    mean_base=overall.loc["baseline", "mean"])

# %% [markdown]
# ### Solution 3
#
# <details><summary>The derivation</summary>
#
# CKA sees a layer $X$ of $N$ rows, centered, only through $K = X X^\top$, as
# $\langle K, K' \rangle / (\lVert K \rVert \lVert K' \rVert)$. A rotation $Q$
# has $Q Q^\top = I$, so $(X Q)(X Q)^\top = X Q Q^\top X^\top = K$. A factor $c$
# makes it $c^2 K$, which the norms divide out. A stretch along one axis, $X D$,
# gives $X D^2 X^\top$, which is another $K$.
#
# Up to which rotation two layers agree best is *Procrustes'* question. The
# rotation that brings $X$ nearest to $Y$ is $U V^\top$ of the singular value
# decomposition $X^\top Y = U S V^\top$. With the best factor, it explains the
# share $(\sum_i S_i)^2 / (\lVert X \rVert^2 \lVert Y \rVert^2)$ of
# $\lVert Y \rVert^2$.
#
# </details>
#
# If the rotation explains nearly all of the other seed, the two baselines use
# the same code on different axes. If it does not, each has arranged the styles
# in its own way.

# %% tags=["hide-cell"]
def centered(name):
    rows = layers[name]["mean"][:2000].double()
    return rows - rows.mean(0)


def explained(first, second):
    singular = torch.linalg.svdvals(first.T @ second)
    return float((singular.sum() / first.norm()
                  / second.norm())**2)


rows = centered("baseline")
generator = torch.Generator().manual_seed(run.seed)
rotation, _ = torch.linalg.qr(torch.randn(
    rows.shape[1], rows.shape[1], generator=generator).double())
stretch = torch.ones(rows.shape[1]).double()
stretch[0] = 10
changed = {"rotated": rows @ rotation, "halved": rows / 2,
           "stretched": rows * stretch}
chapter.say(
    "CKA of the baseline's means of z with themselves: {cka}. "
    "The best rotation of the baseline explains {shares}.",
    cka=measures.listing("cka", {
        change: latent.linear_cka(rows, other_rows)
        for change, other_rows in changed.items()}),
    shares=measures.listing("share", {
        name: explained(rows, centered(name))
        for name in others}))

# %% [markdown]
# ### Solution 4
#
# The gray term draws $z$ from the prior and decodes it; the encoder takes no
# part. But one update changes the weights of both. The encoder moves in the
# control too, by rehearsal alone. If it moves clearly farther with the gray
# term, then through rehearsal: it follows the decoder, which the gray term
# moves.

# %% tags=["hide-cell"]
from sa_lib.model import copy_of

student = copy_of(base.net).requires_grad_(True)
codes = torch.randn(32, run.model.latent_dim, generator=generator)
asked = one_hot(torch.full((32,), digit), ds.classes)
distance = distance_to_gray(draw(student, codes, asked)).mean()
parameters = dict(student.named_parameters())
gradients = torch.autograd.grad(distance, parameters.values(),
                                allow_unused=True)
reached = [name.split(".")[0] for name, gradient
           in zip(parameters, gradients, strict=True)
           if gradient is not None]
chapter.say(
    "Of the encoder's tensors {encoder} have a gradient of the "
    "gray term, of the decoder's {decoder}. The encoder's "
    "matrices moved by {moved:.1%}, and by {control:.1%} without "
    "the gray term.",
    encoder=reached.count("encoder"),
    decoder=reached.count("decoder"),
    moved=gray_too.loc["encoder, mean", "moved"],
    control=rehearsed.loc["encoder, mean", "moved"])

# %% [markdown]
# ## Try next
#
# - Train the probes on 500 images instead of 4,000. Which gaps between models
#   open, and which of them come from the probe?
# - Compare two *encoder* layers of the same model by `linear_cka`. How alike
#   are neighboring layers?
# - Set `forget = [4]`. Which classes are its neighbors on the walk?
#
# Next: [attack the model](05_attacks.ipynb), the test that the probes cannot be.
