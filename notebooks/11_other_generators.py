# %% [markdown]
# # Other generators
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/11_other_generators.ipynb)
#
# Everything so far was about one kind of model, a VAE. Here two others have to
# forget a digit: a GAN, and a rectified flow, a relative of diffusion models
# that draws no noise after the start. Both are plain PyTorch on scikit-learn's
# digits of 8 x 8 pixels, and `sa_lib.audit` knows nothing of either.
#
# **You will learn**
#
# - how to audit a generator of any kind: by attack, and from errors alone;
# - when an attack on the inputs tells nothing, and how the report says so;
# - how to audit a model as it is and mended in one go.
#
# **You need** nothing but this notebook: it trains its own models.
#
# **It takes** about two minutes on two CPU cores. A GPU would not help.

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:  # Colab: a bare runtime
    # %pip install -q "sa_lib @ git+https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae"
    import sa_lib

# %% tags=["parameters"]
forget = 6  # @param {type: "integer"}
seed = 0  # @param {type: "integer"}
profile = "full"  # @param ["full", "smoke"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import copy
import time

import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from sa_lib import audit, chapter, experiment, figures
from sa_lib.reconstruction import SearchConfig

started = time.perf_counter()
run = experiment.validate(forget=forget, at_most=1, seed=seed,
                          profile=profile, run_dir=run_dir)

# %% [markdown]
# ## Two generators
#
# Some images of the digit are held out from all training: they are what the
# attackers want.

# %%
def stream(number):
    return torch.Generator().manual_seed(number)


digit = run.forget[0]
pixels, labels = map(torch.tensor, load_digits(return_X_y=True))
order = torch.randperm(len(pixels), generator=stream(run.seed))
pixels, labels = pixels[order].float() / 16, labels[order]
rest = torch.ones(len(pixels), dtype=torch.bool)
count = 5 if run.smoke else 24
rest[torch.nonzero(labels == digit)[:count]] = False
real, x = pixels[~rest], pixels[rest]
y = F.one_hot(labels[rest], 10).float()
keep = y[:, digit] == 0

# %% [markdown]
# The **GAN** turns 8 random numbers and a label into an image. Its training is
# in the folded cell below: the usual game against a discriminator.

# %%
def network(inputs, outputs, width, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(inputs, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, outputs))

# %%
class Gan(nn.Module):
    latent = 8

    def __init__(self, seed):
        super().__init__()
        self.net = network(18, 64, 128, seed)

    def decode(self, z, y):
        return self.net(torch.cat([z, y], 1)).sigmoid()

# %% tags=["hide-input"]
def fit_gan(net, x, y, steps, seed, lr=1e-3):
    """Train in place; the mean of the weights along the way."""
    judge, g = network(74, 1, 128, seed + 1000), stream(seed)
    mean = copy.deepcopy(net)
    ours, theirs = (torch.optim.Adam(
        one.parameters(), lr, (0.5, 0.99)) for one in (net, judge))
    for _ in range(steps):
        i = torch.randint(len(x), (128,), generator=g)
        z = torch.randn(128, net.latent, generator=g)
        blur = 0.1 * torch.randn(2, 128, 64, generator=g)
        drawn, asked = net.decode(z, y[i]), y[i]
        theirs.zero_grad()
        right, wrong = (judge(torch.cat([images, asked], 1))
                        for images in (x[i] + blur[0],
                                       drawn.detach() + blur[1]))
        (F.softplus(-right) + F.softplus(wrong)).mean().backward()
        theirs.step()
        ours.zero_grad()
        wrong = judge(torch.cat([drawn + blur[1], asked], 1))
        F.softplus(-wrong).mean().backward()
        ours.step()
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(),
                                  net.parameters()):
                slow.lerp_(fast, 0.005)
    return mean.eval().requires_grad_(False)

# %% [markdown]
# The **flow** learns a velocity: how each pixel has to move at time $t$ on the
# straight line from noise to an image ([Liu et al.
# 2023](https://arxiv.org/abs/2209.03003)). To draw, it starts at noise and
# takes a few Euler steps. The noise is all that is random, so the same noise
# gives the same image: that is the `decode` that an attacker needs. It has as
# many inputs as pixels.

# %%
class Flow(nn.Module):
    latent = 64

    def __init__(self, seed):
        super().__init__()
        self.net = network(75, 64, 192, seed)

    def decode(self, z, y, steps=4):
        for step in range(steps):
            t = torch.full_like(z[:, :1], step / steps)
            z = z + self.net(torch.cat([z, y, t], 1)) / steps
        return z

# %%
def flow_loss(net, x, y, g):
    """How wrong the velocity is, for each image."""
    noise = torch.randn(x.shape, generator=g)
    t = torch.rand(len(x), 1, generator=g)
    here = (1 - t) * noise + t * x
    v = net.net(torch.cat([here, y, t], 1))
    return (v - (x - noise)).square().sum(1)

# %% tags=["hide-input"]
def minimize(net, loss, steps, lr):
    """Adam, with a learning rate that falls to 0."""
    optimizer = torch.optim.Adam(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer,
                                                          steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def fit_flow(net, x, y, steps, seed, lr=2e-3):
    g = stream(seed)

    def loss():
        i = torch.randint(len(x), (128,), generator=g)
        return flow_loss(net, x[i], y[i], g).mean()

    return minimize(net, loss, steps, lr)

# %% [markdown]
# ## Forgetting, crudely
#
# One loss for both, by what they draw: gray for the digit, and for the other
# labels the same as before. Nothing here is a good method. It only has to hide
# the digit from someone who asks for it by its label.

# %%
label = torch.eye(10)[[digit] * 128]
others = torch.eye(10)[[k for k in range(10) if k != digit]]


def forgotten(base, steps):
    net = copy.deepcopy(base).requires_grad_(True)
    g = stream(run.seed)

    def loss():
        z = torch.randn(128, net.latent, generator=g)
        y = others[torch.randint(9, (128,), generator=g)]
        same = net.decode(z, y) - base.decode(z, y)
        gray = net.decode(z, label) - 0.5
        return (same.square() + gray.square()).sum(1).mean()

    return minimize(net, loss, steps, 1e-3)

# %% [markdown]
# An audit asks for a family of models. The *subject* had to forget the digit,
# and three controls of each kind never saw it. Subject and controls are also
# **mended**: trained a little further on the other digits, as anyone may do who
# has the model. Damage can hide a class, and this repairs damage. The figure
# below shows what they draw.

# %%
def family(make, fit, steps):
    def further(net):
        net = copy.deepcopy(net).requires_grad_(True)
        return fit(net, x[keep], y[keep], steps // 8, run.seed,
                   5e-4)

    base = fit(make(run.seed), x, y, steps, run.seed)
    subject = forgotten(base, steps // 5)
    never = [fit(make(s), x[keep], y[keep], steps, s)
             for s in range(run.seed + 1, run.seed + 4)]
    return {"baseline": base, "subject": subject, "never": never,
            "mended": (further(subject), list(map(further, never)))}

# %%
steps = 40 if run.smoke else 2000
gan = family(Gan, fit_gan, steps)
flow = family(Flow, fit_flow, steps)

# %% tags=["remove-input"]
shown = {}
for name, one in {"GAN": gan, "flow": flow}.items():
    z = torch.randn(20, one["baseline"].latent, generator=stream(run.seed))
    asked = torch.eye(10).repeat(2, 1)
    shown |= {f"{name}, {state}": net.decode(z, asked) for state, net in (
        ("baseline", one["baseline"]), ("forgot", one["subject"]), ("mended", one["mended"][0]))}
gray = {name: float((rows[asked[:, digit] == 1] - 0.5).abs().mean()) for name, rows in shown.items()}
large = F.pad(F.interpolate(torch.stack(list(shown.values())).view(-1, 1, 8, 8).clamp(0, 1), scale_factor=3), [2] * 4)
chapter.show_figure(figures.image_grid(large.view(len(shown), 20, 28, 28), list(shown), [*range(10)] * 2),
                    f"The digits 0 to 9, twice, from the same codes. At the label {digit} the GAN that forgot is "
                    f"{gray['GAN, forgot']:.3f} from gray, and the flow {gray['flow, forgot']:.3f}.")

# %% [markdown]
# ## The GAN under attack
#
# The audit gets the models as they are and mended, and one function: `decode`.
# The attacker searches for the inputs that come nearest to each held-out image,
# first with the digit's own label and codes where most of the prior lies, then
# with any code and any mixture of labels. In the table below, *reach* is the
# error of models that never saw the digit, as a share of the variance of its
# images. At 100% they do no better than the mean image, and they may do worse.

# %%
attack = {"images": real, "label": digit, "y_shape": 10,
          "seed": run.seed}
search = (SearchConfig(128, 1, 3, 1) if run.smoke
          else SearchConfig(1024, 2, 15, 8))
of_gan = audit.audit(
    **gan, **attack, z_shape=8, search=search,
    threats=["z in the prior", "y on the simplex"])

# %% tags=["hide-input"]
def rho_of(report, name):
    rho = report.findings[name].residual
    return str(rho) if rho.resolution >= 1 else "–"  # no gap


def rows_of(report):
    return pd.DataFrame({name: {
        "ρ": rho_of(report, name), "verdict": one.verdict,
        "resolution": f"{one.residual.resolution:.0f}",
        "shortfall": f"{one.shortfall:.1%}",
        "reach": f"{one.reach:.2%}"}
        for name, one in report.findings.items()}).T

# %% tags=["remove-input"]
chapter.show_table(rows_of(of_gan).rename_axis("attack on the GAN"),
                   "ρ with its 95% interval, by the attack on the GAN.")
chapter.say("The report: *{sentence}*", sentence=of_gan.sentence)

# %% [markdown]
# A $\rho$ below 0 at the label of the digit means damage: the model is worse
# there than one that never saw the digit. Mixtures of labels can go around it.
# Compare this with [the chapter on attacks](05_attacks.ipynb), whose model has
# another architecture and another loss.

# %% [markdown]
# ## The flow under the same attack
#
# The flow has 64 numbers of noise for 64 pixels. The attacker may choose all of
# them. In the table below, look at the reach.

# %%
few = attack | {"images": real[:8]}
short = SearchConfig(128, 1, 3, 1) if run.smoke else SearchConfig(
    512, 1, 12, 1)
of_flow = audit.audit(
    flow["subject"], baseline=flow["baseline"], never=flow["never"],
    **few, z_shape=64, search=short, threats=["y on the simplex"])
wide = of_flow.finding

# %% tags=["remove-input"]
error = {name: float(own.mean()) for name, own in of_flow.errors["y on the simplex"].items()}
chapter.show_table(rows_of(of_flow).rename_axis("attack on the flow"), "The attack on all inputs of the flow.")
chapter.say("Models that never saw {digit} reproduce it to {reach:.2%} of the images' variance, with errors of {low:.2g} "
            "to {high:.2g}; the baseline's is {base:.2g}. The report: *{sentence}*", digit=digit, reach=wide.reach,
            low=min(own for name, own in error.items() if name.startswith("never")),
            high=max(own for name, own in error.items() if name.startswith("never")),
            base=error["baseline"], sentence=of_flow.sentence)

# %% [markdown]
# A generator with as many inputs as pixels can be made to draw nearly anything,
# if nothing limits the inputs. That it draws the digit then says something
# about the attacker, who wrote the image into the noise, and nothing about the
# model. So the report refuses a verdict where models that never saw the class
# come within 1% of the images' variance.

# %% [markdown]
# ## From errors alone
#
# What a flow knows shows in its loss: given a noisy image of the digit, how
# well does it point to the image? The noise is the same for all models, so
# nobody can write an image into it. The attacker keeps one freedom, the label.
# A table of these errors is all that `audit_errors` needs. For the GAN, which
# has no loss of a given image, the error is the squared distance to the nearest
# of many draws. The table below has both.

# %%
def denoising(net, y):
    g = stream(run.seed)
    count = 4 if run.smoke else 64
    return sum(flow_loss(net, real, y, g)
               for _ in range(count)) / count


def nearest(net, y):
    g = stream(run.seed)
    z = torch.randn(1000, net.latent, generator=g)
    drawn = net.decode(z, y[:1].expand(1000, -1))
    return torch.cdist(real, drawn).square().amin(1)

# %% tags=["hide-input"]
def errors(models, error_of):
    """A table of errors: by the digit's label, and by the best."""
    rows = []
    states = {"as it is": (models["subject"], models["never"]),
              "mended": models["mended"]}
    for state, (subject, never) in states.items():
        named = [("baseline", models["baseline"]),
                 ("subject", subject)]
        named += [("never", net) for net in never]
        for n, (role, net) in enumerate(named):
            each = torch.stack([
                error_of(net, row.expand(len(real), -1))
                for row in torch.eye(10)])
            for threat, own in (("its label", each[digit]),
                                ("any label", each.amin(0))):
                rows += [(f"{role} {n}", role, image, error, threat,
                          state) for image, error in
                         enumerate(own.tolist())]
    return pd.DataFrame(rows, columns=["model", "role", "image",
                                       "error", "threat", "state"])

# %%
from_errors = {
    "GAN, nearest draw": audit.audit_errors(errors(gan, nearest)),
    "flow, denoising": audit.audit_errors(errors(flow, denoising))}

# %% tags=["remove-input"]
listed = pd.concat({name: rows_of(report) for name, report in from_errors.items()})
listed.index = [f"{name}, {attack}" for name, attack in listed.index]
chapter.show_table(listed[["ρ", "verdict", "resolution"]].rename_axis("error"),
                   "ρ from errors alone, with its 95% interval.")
chapter.say("The report on the flow: *{sentence}*", sentence=from_errors["flow, denoising"].sentence)

# %% [markdown]
# ## What ρ can say here, and what it cannot
#
# - It can say where a model stands between two others of its kind, by one
#   attacker, for any model that draws images or has a loss. No part of the audit
#   had to be written for these two.
# - It cannot compare the two kinds. The GAN's $\rho$ is about distances of
#   images, the flow's about the denoising of noisy ones.
# - Three controls give wide intervals. The models are small and the images few:
#   none of these numbers speaks of a large GAN or a large diffusion model.
# - It says nothing where the attack can reach any image. Then confine the
#   attacker, or give them a loss.

# %% tags=["remove-input", "in-short"]
def said(report, attack):
    return f"{rho_of(report, attack)} (*{report.findings[attack].verdict}*)"


chapter.say(
    "**In short**\n\n"
    "- The audit takes a GAN and a rectified flow without a change. By attack, ρ of the GAN is {label} with the label of "
    "the digit, and {mixed} with any mixture of labels; after mending, {mended}.\n"
    "- Attacked through all of their noise, also flows that never saw the digit draw it, to {reach:.2%} of the variance. "
    "The report says *{nothing}*.\n"
    "- By the errors of its loss, ρ of the flow is {loss} under the digit's label and {best} under the best one.",
    label=said(of_gan, "z in the prior"), mixed=said(of_gan, "y on the simplex"),
    mended=said(of_gan, "y on the simplex, mended"), reach=wide.reach, nothing=wide.verdict,
    loss=said(from_errors["flow, denoising"], "its label"),
    best=said(from_errors["flow, denoising"], "any label"))

# %% tags=["remove-cell"]
reports = {"GAN, attack": of_gan, "flow, attack": of_flow, **from_errors}
run.finish("11_other_generators", {
    "class": digit, "gray": gray, "reach": wide.reach, "nothing": wide.verdict,
    "mixed": rho_of(of_gan, "y on the simplex"),
    "findings": {name: {attack: one.asdict() for attack, one in report.findings.items()}
                 for name, report in reports.items()},
    "verdicts": {name: report.verdict for name, report in reports.items()}}, {}, started)

# %% [markdown]
# ## Takeaways

# %% tags=["remove-input", "takeaways"]
of_nearest, of_loss = from_errors.values()
chapter.say(
    "- An audit needs errors, or a function from inputs to images. The kind of the generator does not matter to it: the same "
    "audit has {gan} findings on the GAN, and {flow} on the flow.\n"
    "- The range of a generator matters. Where models that never saw a class can be made to draw it, being made to draw it "
    "proves nothing. Here their error is {narrow:.0%} of the images' variance with the {few} random numbers of the GAN, and "
    "{wide:.2%} with the {many} of the flow.\n"
    "- A loss at fixed noise takes this freedom away. With it, the baseline of the flow is {by_loss} spreads from the "
    "controls, and with the attack {by_attack}.",
    gan=len(of_gan.findings) + len(of_nearest.findings), flow=len(of_flow.findings) + len(of_loss.findings),
    narrow=of_gan.findings["y on the simplex"].reach, few=Gan.latent, wide=wide.reach, many=Flow.latent,
    by_loss=f"{of_loss.findings['any label'].residual.resolution:z.0f}", by_attack=f"{wide.residual.resolution:z.0f}")

# %% [markdown]
# ## Check yourself
#
# Answer first, then unfold.
#
# <details><summary>Why is the attack on the noise of a flow no evidence?</summary>
#
# There are as many inputs as pixels, so the attacker can write nearly any image
# into them. Models that never saw the class show it: they draw it too.
#
# </details>
#
# <details><summary>Why must the noise of a loss be the same for all models?</summary>
#
# Otherwise the error would depend on each model's draw of the noise, and a part
# of the differences between models would be chance.
#
# </details>
#
# <details><summary>Is a ρ of a GAN comparable with a ρ of a flow?</summary>
#
# Each is relative to its own controls, by its own errors. So both can be read
# as a place between never seen and never forgotten, but they cannot be
# subtracted.
#
# </details>

# %% [markdown]
# ## Exercises
#
# The solutions follow, and run with the chapter. Try before you look.
# Easy takes about 10 minutes, medium about 20, and hard about 40.
#
# 1. **Fewer draws.** An attacker who only sees samples has 50 of each label and
#    not 1,000. How does $\rho$ of the GAN change? (easy)
# 2. **One control.** Leave two of the flow's controls out. What is left of the
#    verdict? (easy)
# 3. **Confine the noise.** Nearly all noise of 64 numbers has a length of about 8.
#    Attack a flow that first gives its noise this length. Is there resolution
#    now? (medium)

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
def nearest_of_few(net, y):
    z = torch.randn(50, net.latent, generator=stream(run.seed))
    return torch.cdist(real, net.decode(
        z, y[:1].expand(50, -1))).square().amin(1)


few_draws = audit.audit_errors(errors(gan, nearest_of_few))
chapter.say("With any label it is {few}, and was {many}.",
            few=str(few_draws.findings["any label"].residual),
            many=str(from_errors["GAN, nearest draw"].findings[
                "any label"].residual))

# %% [markdown]
# ### Solution 2

# %% tags=["hide-cell"]
all_of_them = errors(flow, denoising)
alone = audit.audit_errors(all_of_them[
    ~all_of_them["model"].isin(["never 3", "never 4"])])
chapter.say("ρ is {rho}. The report: *{sentence}*",
            rho=str(alone.finding.residual),
            sentence=alone.sentence)

# %% [markdown]
# ### Solution 3

# %% tags=["hide-cell"]
def confined(net):
    return lambda z, y: net.decode(
        8 * z / z.norm(dim=1, keepdim=True), y)


on_sphere = audit.audit(
    confined(flow["subject"]), baseline=confined(flow["baseline"]),
    never=[confined(net) for net in flow["never"]], **few,
    z_shape=64, search=short, threats=["y on the simplex"]).finding
chapter.say("Models that never saw the digit now come to "
            "{reach:.1%} of the variance. ρ is {rho}, the gap is "
            "{gap:.1f} times the spread of the controls, and the "
            "verdict: {verdict}.",
            reach=on_sphere.reach, rho=str(on_sphere.residual),
            gap=on_sphere.residual.resolution,
            verdict=on_sphere.verdict)

# %% [markdown]
# ## Try next
#
# - Give the flow more Euler steps in `decode`. Its drawings get sharper. Does the
#   attack reach further?
# - Put a generator of your own in the place of `Gan`: any module with `decode`.
# - A better method: replace `forgotten` by one of [chapter
#   7](07_methods.ipynb), and audit again.
