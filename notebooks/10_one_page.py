# %% [markdown]
# # The whole idea on one page
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/10_one_page.ipynb)
#
# Train a conditional VAE, make it forget a digit, attack it, and put a number
# on what is left. This page does it in plain PyTorch, without the book's
# library, so that you can read every line and take it along.
#
# **You will learn**
#
# - the five steps of the book, each in a few lines: the model, the Fisher
#   information, forgetting, the attack, and ρ.
#
# **You need** PyTorch and torchvision. The data come from the book's folder if
# it is there, and are downloaded otherwise.
#
# **It takes** about two minutes on two CPU cores. A GPU is used if there is one.

# %% tags=["parameters"]
forget = 9  # @param {type: "integer"}
seed = 0  # @param {type: "integer"}
profile = "full"  # @param ["full", "smoke"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import copy
import io
import json
import os
from pathlib import Path

import torch
from IPython.display import Image, Markdown, display
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torchvision import datasets, transforms, utils

digit = forget[0] if isinstance(forget, list) else forget
if digit not in range(10):
    raise ValueError(f"forget must be a digit, got {forget!r}")
torch.manual_seed(seed)
smoke = profile == "smoke"  # a quick try on few, small images
gpu = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## 1. The data
#
# 60,000 training images and 10,000 test images of ten digits, as rows of 784
# numbers from 0 to 1.

# %%
cache = os.environ.get("SA_CACHE", "~/.cache/sa_lib")
folder = Path(os.environ.get("SA_DATA", f"{cache}/data"), "mnist")


class Digits(datasets.MNIST):
    """MNIST, from the book's folder if it is there."""
    if folder.expanduser().is_dir():
        raw_folder = str(folder.expanduser())


def load(train):
    if smoke:
        from sklearn.datasets import load_digits
        x, y = map(torch.tensor, load_digits(return_X_y=True))
        x = F.interpolate(x.view(-1, 1, 8, 8), (28, 28)) / 16
        part = slice(300, None) if train else slice(300)
        x, y = x[part], y[part]
    else:
        raw = Digits("data", train=train, download=True)
        x, y = raw.data / 255, raw.targets
    y = F.one_hot(y.long(), 10).float()
    return x.flatten(1).float().to(gpu), y.to(gpu)


x_train, y_train = load(train=True)
x_test, y_test = load(train=False)

# %% [markdown]
# ## 2. The model
#
# The encoder turns an image and its label into a Gaussian over codes $z$. The
# decoder turns a code and a label into an image. The loss is the negative ELBO:
# how badly the image is rebuilt, plus how far the code is from the prior.

# %%
class CVAE(nn.Module):
    def __init__(self, latent=8):
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Linear(794, 512), nn.ReLU(), nn.Linear(512, 256),
            nn.ReLU(), nn.Linear(256, 2 * latent))
        self.decoder = nn.Sequential(
            nn.Linear(latent + 10, 256), nn.ReLU(),
            nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 784))

    def decode(self, z, y):
        return self.decoder(torch.cat([z, y], -1)).sigmoid()

    def forward(self, x, y, noise):
        """The negative ELBO of each image, in nats."""
        h = self.encoder(torch.cat([x, y], -1))
        mean, log_var = h.chunk(2, -1)
        z = mean + (log_var / 2).exp() * noise
        logits = self.decoder(torch.cat([z, y], -1))
        rebuilt = F.binary_cross_entropy_with_logits(
            logits, x, reduction="none").sum(-1)
        kl = (mean**2 + log_var.exp() - 1 - log_var).sum(-1) / 2
        return rebuilt + kl

# %%
def minimize(parameters, loss, steps, lr):
    """Adam, with a learning rate that rises and falls."""
    optimizer = torch.optim.Adam(parameters, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def noise(count):
    return torch.randn(count, 8, device=gpu)


def train(x, y, steps):
    """A new model of these images."""
    torch.manual_seed(seed)
    model = CVAE().to(gpu)

    def loss():
        i = torch.randint(len(x), (128,), device=gpu)
        return model(x[i], y[i], noise(128)).mean()

    minimize(model.parameters(), loss, steps, lr=4e-3)
    return model.requires_grad_(False)

# %% [markdown]
# We train two models: the **baseline** on all images, and one that **never
# saw** the digit. The second tells us later what an attacker gets out of a
# model that has nothing to remember.

# %%
keep = y_train[:, digit] == 0
steps = 300 if smoke else 2500
baseline = train(x_train, y_train, steps)
never = train(x_train[keep], y_train[keep], steps)

# %% [markdown]
# ## 3. The Fisher information
#
# Which weights do the other nine digits need? Square the gradient of each image
# by itself, and take the mean. `vmap` does many images at once.

# %%
anchor = dict(baseline.named_parameters())


def one_loss(weights, x, y, e):
    return functional_call(baseline, weights, (x, y, e))


squares = {name: torch.zeros_like(w) for name, w in anchor.items()}
sample = torch.nonzero(keep)[:, 0]
sample = sample[torch.randperm(len(sample), device=gpu)[:2000]]
for i in sample.split(50):
    gradients = vmap(grad(one_loss), (None, 0, 0, 0))(
        anchor, x_train[i], y_train[i], noise(len(i)))
    for name, g in gradients.items():
        squares[name] += g.square().sum(0)
fisher = {name: s / len(sample) for name, s in squares.items()}

# %% [markdown]
# ## 4. Forgetting
#
# Three terms, and no training image but those of the Fisher: *replay* what the
# frozen baseline draws of the other nine digits, hold each weight by an elastic
# band as stiff as its Fisher, and turn the drawings for the forgotten label
# gray. The figure below compares the result with both other models.

# %%
others = torch.tensor([k for k in range(10) if k != digit])
label = F.one_hot(torch.tensor(digit), 10).float().to(gpu)
forgot = copy.deepcopy(baseline).requires_grad_(True)


def forget_loss():
    k = others[torch.randint(9, (256,))]
    y = F.one_hot(k, 10).float().to(gpu)
    replay = baseline.decode(noise(256), y)
    rehearse = forgot(replay, y, noise(256)).mean()
    band = sum((fisher[name] * (w - anchor[name]) ** 2).sum()
               for name, w in forgot.named_parameters()) / 2
    drawn = forgot.decode(noise(64), label.expand(64, -1))
    gray = (drawn - 0.5).abs().sum(1).mean()
    return rehearse + band + gray


minimize(forgot.parameters(), forget_loss,
         100 if smoke else 1000, lr=1e-3)
forgot = forgot.requires_grad_(False)
models = {"baseline": baseline, f"forgot {digit}": forgot,
          f"never saw {digit}": never}

# %% tags=["remove-input"]
def show(rows, caption, alt):
    """Rows of images [N, 784] as one picture; the metadata give the book its caption."""
    grid = utils.make_grid(torch.cat(list(rows)).view(-1, 1, 28, 28).cpu(), nrow=len(rows[0]), pad_value=1)
    buffer = io.BytesIO()
    transforms.ToPILImage()(F.interpolate(grid[None], scale_factor=2)[0]).save(buffer, "png")
    display(Image(buffer.getvalue(), width=grid.shape[2], alt=alt), metadata={"sa_lib": {
        "role": "figure", "caption": caption, "alt": alt, "width": grid.shape[2]}})


asked, codes = torch.eye(10, device=gpu).repeat(2, 1), noise(20)
drawings = [model.decode(codes, asked) for model in models.values()]
away = {name: float((rows[asked[:, digit] == 1] - 0.5).abs().mean()) for name, rows in zip(models, drawings)}
show(drawings, "The digits 0 to 9, twice, drawn from the same codes. From above: "
     + ", ".join(f"{name} ({far:.3f} from gray at the label {digit})" for name, far in away.items()) + ".",
     f"Three rows of twenty drawn digits; in the middle row the drawings for {digit} are gray.")

# %% [markdown]
# ## 5. The attack
#
# Gray for the label is not proof. The attacker has the decoder and wants a
# given test image of the digit back, here a hundred random ones. They search over codes $z$ and over
# mixtures $y$ of the ten labels, with Adam, from several starts, and keep the
# best. If the digit were gone, the rows of the model that forgot and of the one
# that never saw it would be equally far from the targets in the figure below.

# %%
targets = x_test[y_test[:, digit] == 1]
targets = targets[torch.randperm(len(targets))[:100]]


def attack(model, starts=6, steps=100 if smoke else 400):
    """The best images found, and their squared errors."""
    x = targets.repeat(starts, 1)
    z = noise(len(x)).requires_grad_()
    logits = torch.randn(len(x), 10, device=gpu).requires_grad_()

    def images():
        return model.decode(z, logits.softmax(1))

    def loss():
        return (images() - x).square().sum()

    minimize([z, logits], loss, steps, lr=0.2)
    found = images().detach()
    errors = (found - x).square().sum(1).view(starts, -1)
    best = errors.argmin(0)
    return found.view(starts, len(targets), -1)[
        best, torch.arange(len(targets))], errors.amin(0)


torch.manual_seed(seed)
answers = {name: attack(model) for name, model in models.items()}
error = {name: float(e.mean()) for name, (_, e) in answers.items()}

# %% tags=["remove-input"]
show([targets[:12], *(images[:12] for images, _ in answers.values())],
     "Twelve targets, and what the attacker gets out of each model: " + ", ".join(answers) + ". Mean squared error: "
     + ", ".join(f"{name}: {e:.1f}" for name, e in error.items()) + ".",
     f"Four rows of twelve images: the targets, and their reconstructions by the three models, all much like a {digit}.")

# %% [markdown]
# ## 6. How much is left: ρ
#
# The error alone says nothing. The two controls give it a scale: ρ is 1 if the
# attacker gets as much as from the baseline, and 0 if no more than from a model
# that never saw the digit.
#
# $$
# \rho = \frac{E_\text{never} - E_\text{forgot}}{E_\text{never} - E_\text{baseline}}
# $$

# %%
e_base, e_forgot, e_never = error.values()
rho = (e_never - e_forgot) / (e_never - e_base)


def nats(model):
    """The negative ELBO of the test images of other digits."""
    rest = y_test[:, digit] == 0
    x, y = x_test[rest], y_test[rest]
    return float(model(x, y, noise(len(x))).mean())


lost = nats(forgot) - nats(baseline)
display(Markdown(
    f"ρ = ({e_never:.2f} − {e_forgot:.2f}) / "
    f"({e_never:.2f} − {e_base:.2f}) = **{rho:+.2f}**. The other "
    f"nine digits lost {lost:.2f} nats."))

# %% [markdown]
# A value near 0 says: this attacker gets no more out of the model than if it
# had never seen the digit. Below 0, the model was damaged around it. With a
# single model that never saw the digit, nobody knows how much of ρ is chance;
# [the chapter on attacks](05_attacks.ipynb#formula-2) has several, and
# intervals.

# %% tags=["remove-input", "in-short"]
display(Markdown(
    "**In short**\n\n"
    f"- Asked for a {digit}, the model drew at a distance of {away['baseline']:.2f} from gray before and "
    f"{away[f'forgot {digit}']:.3f} after. The other digits lost {lost:.2f} nats.\n"
    f"- An attacker who mixes labels rebuilds images of {digit} with an error of {e_forgot:.1f}; from the baseline it is "
    f"{e_base:.1f}, and from a model that never saw one {e_never:.1f}.\n"
    f"- So ρ = {rho:+.2f}, where 1 is nothing forgotten and 0 is never seen."))

# %% tags=["remove-cell"]
results = Path(run_dir, "10_one_page")
results.mkdir(parents=True, exist_ok=True)
(results / "metrics.json").write_text(json.dumps({
    "parameters": {"forget": [digit], "seed": seed, "profile": profile}, "errors": error, "rho": rho, "nats_lost": lost,
    "gray": away[f"forgot {digit}"], "gray_baseline": away["baseline"]}, indent=1) + "\n")
(results / "models.txt").write_text("")

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input", "takeaways"]
far, gap = float((targets - 0.5).square().sum(1).mean()), abs(e_never - e_base)
display(Markdown(
    "- This page forgets with three terms: rehearse the rest, hold the weights that the rest needs, and push the class away. "
    f"The rest pays {lost:.2f} nats. Chapter 2 finds that rehearsal does most of the work.\n"
    "- What a model draws for a label says nothing about what it can be made to draw. Attack it: a page of gray has a squared "
    f"error of {far:.0f} from the images of {digit}, and the attacker of the model that draws gray comes to {e_forgot:.1f}.\n"
    "- An attack needs two controls: the model before, and one that never saw the class. ρ is where the model stands between "
    f"them. Here their errors are {gap:.1f} apart, so an error of 1 counts for {1 / gap:.2f} in ρ."))

# %% [markdown]
# ## Try next
#
# - Set `forget = 1`, and look at ρ: the two controls are close there, so that ρ
#   divides by a small number.
# - Delete `band` from the loss, then `rehearse`. Which one keeps the others?
# - Give the attacker more starts. Does ρ move?
#
# From here: [chapter 2](02_ewc_unlearning.ipynb) takes every term of the loss
# away in turn, [chapter 5](05_attacks.ipynb) makes the attacker stronger, and
# [chapter 9](09_trust.ipynb) tests ρ itself.
