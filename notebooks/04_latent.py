# %% [markdown]
# # Inside the latent space
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/04_latent.ipynb)
#
# Asked for a forgotten class, the model draws gray. That is what comes out.
# This chapter looks at what is inside: does the encoder still tell the class
# from the others, do the decoder's hidden layers, and which weights have moved?
#
# **You will learn**
#
# - to look at several models' latent spaces in *one* embedding, with and
#   without the label;
# - to ask a layer what it knows, by nearest neighbours and by linear probes,
#   and to compare layers of different models;
# - why none of this means anything without a model that never saw the class,
#   and without a second model that should be the same as the first.
#
# **You need** nothing but this notebook: all models are trained here if they
# are not there yet.
#
# **It takes** about eight minutes on two CPU cores the first time, of which
# three trainings are the larger part; a minute or two after that. A GPU is
# used if there is one.

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

from sa_lib import (chapter, data, evaluation, experiment, figures, latent, trained)
from sa_lib.labels import one_hot, select
from sa_lib.model import device

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed, forget=forget,
                       profile=profile, architecture=architecture,
                       run_dir=run_dir)
sequence, digit = list(run.forget), run.forget[0]

# %% [markdown]
# ## The models
#
# `forget` is one class or several in their order. Beside the baseline and what
# unlearning made of it stand two controls: a model that **never saw** the
# first class, trained like the baseline and then given as many further updates
# as the unlearning took, and a **second baseline** of another seed. The second
# says how different two models are that should be the same.

# %%
ds = data.load(run.dataset)
base = run.baseline(ds)
models = {"baseline": base}
for count, model in enumerate(run.sequence(ds, sequence), 1):
    gone = ", ".join(map(str, sequence[:count]))
    models[f"forgot {gone}"] = model
unlearned = list(models)[1:]
models[f"never saw {digit}"] = run.never_saw(ds, [digit])
models["baseline, other seed"] = run.baseline(ds, run.seed + 1)

# %%
asked = torch.arange(10).repeat(2)
rows = [evaluation.prior_samples(m.net, asked, run.seed)
        for m in models.values()]

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack(rows), rows=list(models), columns=[*range(10)] * 2),
    f"Ten classes, twice, from the same latent codes in every row. The distance to gray of the answers to {digit}: "
    + ", ".join(f"{float((row[[digit, digit + 10]] - 0.5).abs().mean()):.3f} ({name})" for name, row
                in zip(models, rows)) + ".",
    alt="A grid of samples: one row for each model, one column for each latent code and label.")

# %% [markdown]
# ## One embedding for all
#
# t-SNE draws neighbours in eight dimensions as neighbours in two. Two separate
# fits cannot be compared, so all models are embedded together, on shared axes.
# The models that never shared a training with the baseline are left out: their
# axes of $z$ are others, and they would only fill a region of their own.
#
# With the **true label** given, the encoder need not say in $z$ which digit it
# sees: the decoder is told anyway. With a **neutral label**, $y = 1/10$
# everywhere, it is not told, and what the encoder knows shows in $z$.

# %%
shown = ["baseline", *unlearned][:4]
few = torch.randperm(
    len(ds.test_labels),
    generator=torch.Generator().manual_seed(run.seed)
)[:10_000 // len(shown)]
images, labels = ds.test_images[few], ds.test_labels[few]
ways = {"true label": one_hot(labels),
        "neutral label": latent.neutral(len(few))}
points = {}
tick = time.perf_counter()
for way, y in ways.items():
    means = [latent.activations(models[name].net, images,
                                y)["mean"] for name in shown]
    embedded = latent.joint_tsne(means, run.seed)
    points[way] = dict(zip(shown, embedded))
tsne_seconds = time.perf_counter() - tick

# %% tags=["remove-input"]
told = {name: latent.silhouette(latent.activations(models[name].net, images, ways["true label"])["mean"], labels)
        for name in shown}
chapter.show_figure(
    figures.embedding(points["true label"], labels, sequence),
    f"Encodings of {len(few):,} test images with their true labels, in one joint embedding. The mean silhouette of the "
    "ten classes (0: not apart, 1: far apart) is " + ", ".join(f"{s.mean():.2f} ({name})" for name, s in told.items())
    + ". Forgotten classes are drawn as crosses, their names framed.",
    alt="Scatter plots on shared axes, one for each model, coloured by digit; each class's name stands at its median.")

# %% tags=["remove-input"]
clusters = {}
for name in shown:
    encoded = latent.activations(models[name].net, images, ways["neutral label"])["mean"]
    clusters[name] = latent.silhouette(encoded, labels)
chapter.show_figure(
    figures.embedding(points["neutral label"], labels, sequence),
    f"The same images with the neutral label. Class {digit} has a mean silhouette of "
    + ", ".join(f"{s[digit]:.2f} ({name})" for name, s in clusters.items()) + ".",
    alt="Scatter plots on shared axes, one for each model, coloured by digit; each class's name stands at its median.")

# %% [markdown]
# ## What does a layer know?
#
# A **linear probe** is trained to tell the ten digits from a layer's values,
# and so are ten **nearest neighbours** on the encoder's mean. All with the
# neutral label, lest the label answer. The score for the class in a model that
# never saw it is what an encoder of *digits* gives away about any shape.

# %%
count = 4000
x_train, y_train = ds.train_images[:count], ds.train_labels[:count]
x_test, y_test = ds.test_images[:count], ds.test_labels[:count]


def values(model, x):
    return latent.activations(model.net, x,
                              latent.neutral(len(x)))


layers, recall, structure = {}, {}, {}
for name, model in models.items():
    known = values(model, x_train)
    layers[name] = values(model, x_test)
    recall[name] = pd.DataFrame({
        layer: latent.probe_recall(known[layer], y_train,
                                   layers[name][layer], y_test)
        for layer in known})
    neighbours = latent.knn_recall(known["mean"], y_train,
                                   layers[name]["mean"], y_test)
    clusters = latent.silhouette(layers[name]["mean"], y_test)
    structure[name] = {
        "neighbours, all": neighbours.mean(),
        "neighbours, class": neighbours[digit],
        "silhouette, all": clusters.mean(),
        "silhouette, class": clusters[digit]}

# %% tags=["remove-input"]
probes = pd.DataFrame({name: table.loc[digit] for name, table in recall.items()}).T
chapter.show_table(probes, f"Linear probe: share of test images of {digit} that it recognises, by layer.",
                   dict.fromkeys(probes.columns, "{:.1%}"))

# %% tags=["remove-input"]
overall = pd.DataFrame({name: table.mean() for name, table in recall.items()}).T
chapter.show_table(overall, "Linear probe: the same, mean over all ten classes.",
                   dict.fromkeys(overall.columns, "{:.1%}"))

# %% tags=["remove-input"]
structured = pd.DataFrame(structure).T.rename(columns=lambda c: c.replace("class", f"class {digit}"))
chapter.show_table(structured, "Ten nearest neighbours (share recognised) and silhouette on the encoder's mean.", {
    c: "{:.1%}" if c.startswith("neighbours") else "{:.3f}" for c in structured.columns})

# %% tags=["remove-input"]
never, target = f"never saw {digit}", unlearned[-1]
encoder = [layer for layer in probes.columns if layer.startswith("encoder") or layer == "mean"]
decoder = [layer for layer in probes.columns if layer.startswith("decoder")]
gap = {side: float((probes.loc["baseline", names] - probes.loc[target, names]).max())
       for side, names in (("encoder", encoder), ("decoder", decoder))}
spread = float((probes.loc["baseline"] - probes.loc["baseline, other seed"]).abs().max())
chapter.say(
    "**Does the encoder still know a {digit}?** {encoder_text} On the mean of $z$ the probe recognises {unlearned:.1%} "
    "of them in the model that {target}, {base:.1%} in the baseline, and {never:.1%} in a model that {never_name}. "
    "{never_text}\n\n"
    "**And the decoder?** Its hidden layers, which the gray term does reach, {decoder_text} with the neutral label. Two "
    "baselines of different seed differ by up to {spread:.1f} points.",
    digit=digit, target=target, never_name=never, unlearned=probes.loc[target, "mean"],
    base=probes.loc["baseline", "mean"], never=probes.loc[never, "mean"],
    decoder_text=f"lose up to {100 * gap['decoder']:.1f} points" if gap["decoder"] > 0 else "lose nothing",
    spread=100 * spread,
    encoder_text="Yes. The gray term is a function of the decoder alone, and nothing asked the encoder to forget."
    if gap["encoder"] <= max(0.05, 2 * spread) else "Less than before, though the gray term is a function of the "
    "decoder alone.",
    never_text="So the probe is no evidence of memory: most of what it finds in the unlearned model it finds where "
    "there is nothing to remember." if probes.loc[never, "mean"] >= 0.8 * probes.loc[target, "mean"] else
    "The difference to the model that never saw it is what the encoder remembers.")

# %% [markdown]
# ## Are two layers alike?
#
# Centred kernel alignment (CKA) compares a layer of one model with the same
# layer of another by what they hold to be similar images; rotating or scaling
# a layer does not change it. 1 is the same up to that. The row of two
# baselines of different seed is the yardstick: no pair of models that differ
# in more than chance should be expected above it, unless one was made from
# the other.

# %%
others = [name for name in models if name != "baseline"]
subset = torch.arange(len(y_test))[:2000]
own = select(y_test, [digit])
alike = {}
for title, chosen in (("all test images", subset),
                      (f"test images of {digit}", own)):
    alike[title] = pd.DataFrame({
        name: {layer: latent.linear_cka(known[chosen],
                                        layers[name][layer][chosen])
               for layer, known in layers["baseline"].items()}
        for name in others}).T

# %% tags=["remove-input"]
first_title, own_title = alike
chapter.show_figure(
    figures.matrices(alike, dict.fromkeys(alike, ".2f")),
    "CKA between the baseline and each other model, layer by layer, with the neutral label. On images of "
    f"{digit}, the decoder's last hidden layer has {alike[own_title].loc[target].iloc[-1]:.2f} ({target}), "
    f"{alike[own_title].loc[never].iloc[-1]:.2f} ({never}) and "
    f"{alike[own_title].loc['baseline, other seed'].iloc[-1]:.2f} (other seed).",
    alt="Two heat maps with a row for each model and a column for each layer: on all test images and on those of the "
        "forgotten class.")

# %% [markdown]
# ## Which weights moved?
#
# The penalty holds weights in proportion to their Fisher. Did the important
# ones stay? The control is the same unlearning without its gray term: what
# rehearsal alone moves.

# %%
fisher = trained.retain_fisher(base, ds, [digit], run.seed)
no_gray = trained.unlearned(base, ds, [digit], fisher,
                        replace(run.unlearning, gray=0.0), run.seed)
moves = {name: latent.weight_changes(base.net, m.net, fisher)
         for name, m in ((unlearned[0], models[unlearned[0]]),
                         ("no gray term", no_gray))}
moved = pd.concat(moves, axis=1)

# %% tags=["remove-input"]
flat = moved.set_axis([f"{column}, {name}" for name, column in moved.columns], axis=1)
chapter.show_table(flat, "For each weight matrix: relative change, rank correlation of a weight's change with its "
                   "Fisher, and share of the squared change on the tenth with the largest Fisher.",
                   {c: "{:.1%}" if c.startswith(("moved", "top")) else "{:.2f}" for c in flat.columns})

# %% tags=["remove-input"]
mine, control = moves[unlearned[0]], moves["no gray term"]
sides = {side: (mine.loc[mine.index.str.startswith(side), "moved"].mean(),
                control.loc[control.index.str.startswith(side), "moved"].mean()) for side in ("encoder", "decoder")}
correlation = mine["rank correlation"].mean()
chapter.say(
    "The decoder's matrices moved by {dec:.1%} on average (without the gray term: {dec_0:.1%}), the encoder's by "
    "{enc:.1%} ({enc_0:.1%}). The rank correlation of a weight's change with its Fisher is {rho:+.2f} on average: "
    "{reading}",
    dec=sides["decoder"][0], dec_0=sides["decoder"][1], enc=sides["encoder"][0], enc_0=sides["encoder"][1],
    rho=correlation,
    reading="the important weights moved *more*. A weight with a large Fisher has large gradients, of the rehearsed "
    "images as of the gray term, and at this λ the penalty does not outweigh them." if correlation > 0.1 else
    "the important weights moved less, as the penalty wants." if correlation < -0.1 else
    "importance hardly decided which weights moved.")

# %% [markdown]
# ## A walk
#
# From one class through the forgotten one to another, along a straight line of
# label vectors at a fixed $z$; then, at the forgotten label, along each of the
# first axes of $z$. The two neighbours are the classes whose mean images lie
# nearest to the forgotten one's.

# %%
means = torch.stack([x_train[y_train == k].mean(0).flatten()
                     for k in range(10)])
distance = (means - means[digit]).norm(dim=1)
distance[sequence] = torch.inf
left, right = distance.topk(2, largest=False).indices.tolist()
corners = one_hot(torch.tensor([left, digit, right]))
t = torch.linspace(0, 1, 7)[:, None]
walk = torch.cat([torch.lerp(corners[0], corners[1], t),
                  torch.lerp(corners[1], corners[2], t[1:])])
generator = torch.Generator().manual_seed(run.seed + 5)
z = torch.randn(1, run.model.latent_dim, generator=generator)


def draw(model, z, y):
    return model.decode(z.to(device()),
                        y.to(device())).cpu()


walks = [draw(m.net, z.expand(len(walk), -1), walk)
         for m in models.values()]

# %% tags=["remove-input"]
stops = [""] * len(walk)
stops[0], stops[6], stops[-1] = map(str, (left, digit, right))
chapter.show_figure(
    figures.image_grid(torch.stack(walks), rows=list(models), columns=stops),
    f"From label {left} through {digit} to {right} at one z. The distance to gray halfway, at the label {digit}, is "
    + ", ".join(f"{float((w[6] - 0.5).abs().mean()):.3f} ({name})" for name, w in zip(models, walks)) + ".",
    alt="A grid of images: a row for each model, and in it thirteen steps of the label from one class through the "
        "forgotten one to another.")

# %% tags=["hide-input"]
axis = torch.linspace(-2.5, 2.5, 13)
label = one_hot(torch.tensor([digit])).expand(13, -1)
traversals = []
for k in range(2):
    along = z.repeat(13, 1)
    along[:, k] = axis
    traversals += [draw(m.net, along, label)
                   for m in models.values()]

# %% tags=["remove-input"]
chapter.show_figure(
    figures.image_grid(torch.stack(traversals), rows=[f"{name}, z{k + 1}" for k in range(2) for name in models],
                       columns=[f"{a:+.1f}" if i % 4 == 0 else "" for i, a in enumerate(axis.tolist())]),
    f"At the label {digit}, along the first two axes of z. The largest distance to gray on the way is " + ", ".join(
        f"{max(float((t - 0.5).abs().mean((1, 2, 3)).max()) for t in traversals[at::len(models)]):.3f} ({name})"
        for at, name in enumerate(models)) + ".",
    alt="A grid of images: for each of two latent axes a row for each model, thirteen steps across.")

# %% tags=["remove-input"]
chapter.say("Two embeddings of {points:,} points took {tsne:.0f} s, the chapter {seconds:.0f} s. Weights: {weights}.",
            points=len(few) * len(shown), tsne=tsne_seconds, seconds=time.perf_counter() - started,
            weights=", ".join(f"{name} `{m.digest[:12]}`" for name, m in models.items()))

# %% tags=["remove-cell"]
chapter.write_metrics(run.run_dir, "04_latent", {
    "parameters": {"dataset": run.dataset, "seed": run.seed, "forget": sequence, "profile": run.profile,
                   "architecture": run.architecture},
    "probe": probes.to_dict("index"), "probe_all": overall.to_dict("index"), "structure": structure,
    "cka": {title: table.to_dict("index") for title, table in alike.items()},
    "moved": {name: table.to_dict("index") for name, table in moves.items()},
    "tsne_seconds": tsne_seconds, "chapter_seconds": time.perf_counter() - started,
    "models": {name: m.digest for name, m in models.items()}})

# %% [markdown]
# ## Takeaways
#
# - The gray term reaches the decoder only. An encoder is not made to forget by
#   forgetting what to draw.
# - A probe that finds the class in an unlearned model proves nothing before it
#   has been tried on a model that never saw the class.
# - Two models of different seed are the yardstick for "different", and
#   pictures of separate embeddings are none.

# %% [markdown]
# ## Exercises
#
# The solutions follow, each run with the chapter. Try before you look.
#
# 1. **The true label.** Give the probes of the decoder the true label instead
#    of the neutral one. How much do they then find, and why is that no finding?
# 2. **An untrained network.** Probe a model with the weights it was born with.
#    How much of the digit does a layer give away that has learned nothing?
# 3. **What CKA cannot see.** Show that linear CKA stays the same when a layer
#    is rotated, and when it is scaled as a whole. Rotate one, and then stretch
#    it along one axis. Are the latent means of two baselines of different seed
#    the same up to a rotation?
# 4. **Out of reach.** Which weights have a gradient of the gray term? Why did
#    the others move?

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
def told(x, labels):
    return latent.activations(base.net, x, one_hot(labels))


with_label, given = told(x_train, y_train), told(x_test, y_test)
named = {layer: latent.probe_recall(with_label[layer], y_train,
                                    given[layer], y_test)[digit]
         for layer in ("mean", "decoder 1")}
chapter.say(
    "With the true label, the probe recognises {mean:.1%} of the "
    "{digit}s on the mean of z (neutral label: "
    "{mean_neutral:.1%}), and {hidden:.1%} in the decoder's first "
    "layer ({hidden_neutral:.1%}). {reading} Whatever is found "
    "there, the label was among what went in.",
    digit=digit, mean=named["mean"], hidden=named["decoder 1"],
    mean_neutral=probes.loc["baseline", "mean"],
    hidden_neutral=probes.loc["baseline", "decoder 1"],
    reading="The decoder reads the label and the probe reads the "
    "decoder."
    if named["decoder 1"] > probes.loc["baseline", "decoder 1"] else
    "Here the label adds nothing to what the decoder's layer "
    "shows.")

# %% [markdown]
# ### Solution 2

# %% tags=["hide-cell"]
from sa_lib.model import build

newborn = build(run.model, run.seed).to(device())
before, after = (
    latent.activations(newborn, x, latent.neutral(len(x)))
    for x in (x_train, x_test))
blank = {layer: latent.probe_recall(before[layer], y_train,
                                    after[layer], y_test)
         for layer in ("encoder 2", "mean")}
share = float(blank["encoder 2"].mean()
              / overall.loc["baseline", "encoder 2"])
chapter.say(
    "In the encoder's second layer, the probe of an untrained "
    "network recognises {layer:.1%} of all digits (baseline: "
    "{layer_base:.1%}); on the mean of z, {mean:.1%} "
    "({mean_base:.1%}). {reading}",
    layer=blank["encoder 2"].mean(), mean=blank["mean"].mean(),
    layer_base=overall.loc["baseline", "encoder 2"],
    mean_base=overall.loc["baseline", "mean"],
    reading="Much of what a probe finds is in the images, and a "
    "random projection keeps it: the probe learns, the layer need "
    "not have."
    if share > 0.7 else "Training, then, is what put the digit "
    "there.")

# %% [markdown]
# ### Solution 3
#
# <details><summary>The derivation</summary>
#
# CKA sees a layer $X$ of $N$ rows, centred, only through $K = X X^\top$, as
# $\langle K, K' \rangle / (\lVert K \rVert \lVert K' \rVert)$. A rotation $Q$
# has $Q Q^\top = I$, so $(X Q)(X Q)^\top = X Q Q^\top X^\top = K$. A factor $c$
# makes it $c^2 K$, which the norms divide out. A stretch along one axis, $X D$,
# gives $X D^2 X^\top$, which is another $K$.
#
# Up to which rotation two layers agree best is *Procrustes'* question. The
# rotation that brings $X$ nearest to $Y$ is $U V^\top$ of the singular value
# decomposition $X^\top Y = U S V^\top$, and with the best factor the share of
# $\lVert Y \rVert^2$ that it explains is
# $(\sum_i S_i)^2 / (\lVert X \rVert^2 \lVert Y \rVert^2)$.
#
# </details>

# %% tags=["hide-cell"]
def centred(name):
    known = layers[name]["mean"][subset].double()
    return known - known.mean(0)


mine = centred("baseline")
generator = torch.Generator().manual_seed(run.seed)
rotation, _ = torch.linalg.qr(torch.randn(
    mine.shape[1], mine.shape[1], generator=generator).double())
stretch = torch.ones(mine.shape[1]).double()
stretch[0] = 10
changed = {"rotated": mine @ rotation, "halved": mine / 2,
           "stretched": mine * stretch}


def explained(first, second):
    values = torch.linalg.svdvals(first.T @ second)
    return float((values.sum() / first.norm() / second.norm())**2)

# %% tags=["hide-cell"]
chapter.say(
    "CKA of the baseline's means of z with themselves: {cka}. The "
    "best rotation of the baseline explains {shares} of the "
    "others. {reading}",
    cka=", ".join(f"{way} {latent.linear_cka(mine, other):.4f}"
                  for way, other in changed.items()),
    shares=", ".join(
        f"{explained(mine, centred(name)):.0%} ({name})"
        for name in others),
    reading="Two seeds agree up to a rotation, nearly: the same "
    "code on other axes."
    if explained(mine, centred("baseline, other seed")) > 0.9 else
    "Two seeds do not agree up to a rotation: each has arranged "
    "the styles in its own way.")

# %% [markdown]
# ### Solution 4
#
# The gray term draws $z$ from the prior and decodes it; the encoder has no part
# in it. But the weights of both are changed by the same update.

# %% tags=["hide-cell"]
import copy

student = copy.deepcopy(base.net).requires_grad_(True)
codes = torch.randn(32, run.model.latent_dim, generator=generator)
asked = one_hot(torch.full((32,), digit))
distance = (draw(student, codes, asked) - 0.5).abs().mean()
names = [name for name, _ in student.named_parameters()]
slopes = torch.autograd.grad(distance, list(student.parameters()),
                             allow_unused=True)
reach = {side: sum(name.startswith(side) and slope is not None
                   for name, slope in zip(names, slopes))
         for side in ("encoder", "decoder")}
chapter.say(
    "Of the encoder's tensors {encoder} have a gradient of the "
    "gray term, of the decoder's {decoder}. The encoder's "
    "matrices still moved by {moved:.1%}, and by {control:.1%} "
    "without the gray term: {reading}",
    **reach, moved=sides["encoder"][0], control=sides["encoder"][1],
    reading="rehearsal alone moves them as far."
    if sides["encoder"][0] < 1.2 * sides["encoder"][1] else
    "through rehearsal they follow a decoder that the gray term "
    "moved.")

# %% [markdown]
# ## Try next
#
# - Train the probes on 500 images instead of 4,000. Which gaps between models
#   open, and which are only the probe's?
# - Compare two *encoder* layers of the same model by `linear_cka`. How alike
#   are neighbours?
# - Set `forget = [4]`. Which classes are its neighbours on the walk?
