# %% [markdown]
# # Attacks
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/selective-amnesia-cvae/blob/main/notebooks/05_attacks.ipynb)
#
# The label leads to gray. Is the digit gone, or only the way to it? The model
# is frozen now, and an attacker chooses its inputs: the latent code $z$, the
# label vector $y$, or both.
#
# **You will learn**
#
# - what an attacker may be allowed to do, as a list of threat models;
# - why an attack that *succeeds* may prove nothing, and what it has to be
#   compared with;
# - a measure of what is left of a class, $\rho$, with its interval;
# - how quickly the class comes back when the weights may be changed as well.
#
# **You need** nothing but this notebook: all models are trained here if they
# are not there yet, among them several that never saw the forgotten classes.
#
# **It takes** about fifteen minutes on two CPU cores the first time, most of
# it for training the controls; about two minutes after that. A GPU is
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

from sa_lib import (attacks, chapter, data, evaluation, experiment, figures, residual, trained)
from sa_lib.attacks import THREATS, attack
from sa_lib.residual import residual_knowledge

started = time.perf_counter()
run = experiment.validate(dataset=dataset, seed=seed, forget=forget,
                       profile=profile, architecture=architecture,
                       run_dir=run_dir)
sequence, digit = list(run.forget), run.forget[0]

# %% [markdown]
# ## Who is attacked, and who is not
#
# The subjects are the model that has forgotten the first class and, where
# `forget` names several, the one that has forgotten them all. The **positive
# control** is the baseline, which knows them. The **negative control** are
# models that **never saw** the class: three seeds, trained exactly like the
# baseline and then given as many further updates on the retained data as the
# unlearning took. Whatever an attacker gets out of *them* is not memory.

# %%
ds = data.load(run.dataset)
judge_a, judge_b = run.judge(ds, "A"), run.judge(ds, "B")
base = run.baseline(ds)
steps = run.sequence(ds, sequence)


def titled(prefix, classes):
    return f"{prefix} {', '.join(map(str, classes))}"


first = sequence[:1]
subjects = {titled("forgot", first): (steps[0], first),
            titled("forgot", sequence): (steps[-1], sequence)}
target = titled("forgot", sequence)
controls = {f"{titled('never saw', sequence)}, seed {s}":
            (run.never_saw(ds, sequence, s), sequence)
            for s in range(run.seed, run.seed + 3)}
if len(sequence) > 1:
    controls[f"{titled('never saw', [digit])}, seed {run.seed}"] = (
        run.never_saw(ds, [digit]), [digit])
models = {"baseline": (base, sequence)} | subjects | controls
main_controls = list(controls)[:3]

# %% [markdown]
# ## What the attacker may do
#
# | Threat model | $z$ | $y$ |
# |---|---|---|
# | label only | one draw from the prior | the class's label |
# | random search | the best of many draws | the class's label |
# | z in the prior | optimised, where 99 % of the prior lies | the class's label |
# | z free | optimised, anywhere | the class's label |
# | z in the prior, y on the simplex | as above | any mixture of the ten labels |
# | y on the simplex | optimised, anywhere | any mixture of the ten labels |
# | z in the prior, y free | as above | any real vector |
# | y free | optimised, anywhere | any real vector |
#
# He spends a budget: so many looks at the model for each target, over all of
# his restarts. He has one of two aims. **Reconstruction:** reproduce a given
# image; held-out real digits of the class, which anyone may own, or prototypes
# that the baseline drew. **Guided:** make a classifier, judge A, believe that
# it sees the class. Whether he has got there is for judge B to say, which no
# attack has seen.

# %% tags=["hide-input"]
def everyone(threats, attempt):
    return {(threat, k, name): attempt(model, k, THREATS[threat])
            for threat in threats
            for name, (model, classes) in models.items()
            for k in classes}


where = next(base.net.parameters()).device
seen, real, prototypes = {}, {}, {}
for k in sequence:
    seen[k] = ds.train_images[ds.train_labels == k].to(where)
    real[k] = ds.test_images[ds.test_labels == k].to(where)
    real[k] = real[k][:run.targets]
    label = torch.full((len(real[k]),), k)
    prototypes[k] = evaluation.prior_samples(base.net, label,
                                             run.seed + 1)


def look(found):
    return pd.DataFrame({
        key: attacks.score(a.end, judge_b, key[1],
                           seen[key[1]]).iloc[0]
        for key, a in found.items()}).T

# %% [markdown]
# ## Guided by a classifier
#
# The attacker minimises $-\log p_A(\text{class} \mid \text{image})$.

# %%
def guide(model, k, threat):
    return attack(model.net, attacks.unlike(judge_a, k), k,
                  run.targets, threat, run.guided, run.seed)


guided = everyone(["z free", "y on the simplex", "y free"], guide)
guided_scores = look(guided)

# %% tags=["remove-input"]
shown = guided_scores["success"].unstack(0)[["z free", "y on the simplex", "y free"]]
shown = shown.set_axis([f"{k}: {model}" for k, model in shown.index])
nearest = guided_scores.xs("y free", level=0)["nearest"]
shown["nearest real, y free"] = [nearest[k, model] for k, model in nearest.index]
chapter.show_table(shown.rename_axis("class: model"),
                   "Guided by judge A: share of targets that judge B takes for the class; and squared error to the "
                   "nearest real image of it.",
                   {c: "{:.0%}" if c != "nearest real, y free" else "{:.1f}" for c in shown.columns})

# %% tags=["remove-input"]
curves = {name: attacks.score(guided["y free", digit, name], judge_b, digit, seen[digit])
          for name in ("baseline", target, main_controls[0])}
chapter.show_figure(
    figures.lines(curves, {"success": f"judge B sees a {digit}", "not_a_digit": "judge B sees no digit",
                           "nearest": "squared error to nearest real"}, "looks at the model", "log"),
    f"The guided attack with y free, by budget. With all of it, judge B sees a {digit} in "
    + ", ".join(f"{t['success'].iloc[-1]:.0%} ({name})" for name, t in curves.items()) + ".",
    alt="Three panels against the budget on a logarithmic axis: success, share of images taken for no digit, and "
        "distance to real images; a line for each of three models.")

# %% tags=["remove-input"]
success = guided_scores["success"]
never_success = min(success["y free", k, c] for k in sequence for c in main_controls)
target_success = {k: success["y free", k, target] for k in sequence}
chapter.say(
    "With y free, judge B sees the forgotten class in {rates} of the images that the guided attack finds in the "
    "model that {target}, **and in at least {never:.0%} of those found in models that never saw it**. {reading}",
    rates=" and ".join(f"{rate:.0%} (class {k})" for k, rate in target_success.items()), target=target,
    never=never_success,
    reading="By itself, then, its success proves nothing: a decoder of digits can be steered to draw a shape that it "
    "was never taught, and the attacker has brought the knowledge along, in judge A." if never_success > 0.5 else
    "The difference is what the attack shows.")

# %% [markdown]
# ## Reconstruction
#
# The other attacker has an image of the class and looks for the inputs that
# reproduce it. His loss is the squared error, summed over the pixels; the best
# of his restarts counts:
#
# $$
# E = \frac{1}{N} \sum_{n} \min_{z, y}
# \lVert \mathrm{decode}(z, y) - x_n \rVert^2
# $$
#
# A model that knows the class has a place for every image of it. One that does
# not must make do with what it has.

# %%
def reconstruct(targets):
    return lambda model, k, threat: trained.reconstruction(
        model, targets[k], k, threat, run.attack, run.seed)


found = everyone(THREATS, reconstruct(real))
scores = look(found)
proto = everyone(["y on the simplex", "y free"],
                 reconstruct(prototypes))

# %% tags=["remove-input"]
errors = scores["loss"].unstack(0)[list(THREATS)]
for threat in ("y on the simplex", "y free"):
    errors[f"prototypes, {threat}"] = [float(proto[threat, k, model].loss[-1].mean()) for k, model in errors.index]
order = [(k, model) for k in sequence for model in models if (k, model) in errors.index]
errors = errors.loc[order]
chapter.show_table(errors.set_axis([f"{k}: {model}" for k, model in errors.index]).rename_axis("class: model"),
                   "Mean squared error per image of the best reconstruction, by threat model: of held-out real digits "
                   "and, in the last columns, of prototypes that the baseline drew.",
                   dict.fromkeys(errors.columns, "{:.1f}"))

# %% tags=["remove-input"]
pick = found["y on the simplex", digit, target].loss[-1].argsort()
pick = pick[torch.linspace(0, len(pick) - 1, 12).long().to(pick.device)]
best = {"target": real[digit][pick]} | {model: found["y on the simplex", digit, model].images[-1][pick]
                                        for model in ("baseline", *subjects, main_controls[0])}
chapter.show_figure(
    figures.image_grid(torch.stack(list(best.values())), rows=list(best)),
    f"What the attacker recovered with y on the simplex: held-out images of {digit}, from the best to the worst "
    f"reconstruction by the model that {target}. Their mean squared error: " + ", ".join(
        f"{float(found['y on the simplex', digit, model].loss[-1][pick].mean()):.1f} ({model})"
        for model in list(best)[1:]) + ".",
    alt="A grid of images: the targets in the first row, below them their reconstructions by each model.")

# %% tags=["remove-input"]
one = int(pick[len(pick) // 2])
budget = found["y on the simplex", digit, "baseline"].budget
frames = {model: found["y on the simplex", digit, model].images[:, one]
          for model in ("baseline", target, main_controls[0])}
chapter.show_figure(
    figures.image_grid(torch.stack([torch.cat([f, real[digit][one:one + 1]]) for f in frames.values()]),
                       rows=list(frames), columns=[*map(str, budget), "target"]),
    "One attack unfolding: the best image so far against the number of looks at the model; last, the target. The squared "
    "error goes " + ", ".join(f"from {float(e[0, one]):.0f} to {float(e[-1, one]):.1f} ({model})" for model in frames
                              for e in [found["y on the simplex", digit, model].loss]) + ".",
    alt="A grid of images: a row for each of three models, in it the best reconstruction at growing budgets and the "
        "target.")

# %% tags=["remove-input"]
inputs = pd.DataFrame({threat: {
    "norm of z": float(a.z[-1].norm(dim=1).mean()), "norm of y": float(a.y[-1].norm(dim=1).mean()),
    f"y at {digit}": float(a.y[-1][:, digit].mean()), "judge B agrees": scores.loc[(threat, digit, target), "success"],
    "no digit": scores.loc[(threat, digit, target), "not_a_digit"],
    "nearest real": scores.loc[(threat, digit, target), "nearest"]}
    for threat in THREATS for a in [found[threat, digit, target]]}).T
chapter.show_table(inputs.rename_axis("threat model"),
                   f"What the attacker of the model that {target} ends with, for {digit}: his inputs, what judge B "
                   "says, and the squared error to the nearest real image in the training set.",
                   {"norm of z": "{:.1f}", "norm of y": "{:.1f}", f"y at {digit}": "{:.2f}",
                    "judge B agrees": "{:.0%}", "no digit": "{:.0%}", "nearest real": "{:.1f}"})

# %% [markdown]
# ## What is left: ρ
#
# Neither success nor error says anything alone. Between the two controls they
# do:
#
# $$
# \rho = \frac{E_\text{never} - E_\text{unlearned}}
#             {E_\text{never} - E_\text{baseline}}
# $$
#
# 1 if nothing was forgotten; 0 if the attacker gets no more than from a model
# that never saw the class. **Below 0** the model was *over-forgotten*: it is
# of less use for the class than one that never saw it, so it has been damaged
# around the digit, and betrays that something was removed. That is no better
# than 0. Each model is held against those that never saw exactly the classes it
# has forgotten: three seeds for the last one, a single seed for the first. The
# interval is a bootstrap over the images and over these seeds; how far one of
# them lies from the others says how small a $\rho$ can be told from nothing.

# %%
def errors_of(threat, k, names):
    return torch.stack([found[threat, k, n].loss[-1]
                        for n in names])


alone = titled("forgot", [digit])
against = {model: [n for n, (_, unseen) in controls.items()
                   if unseen == classes]
           for model, (_, classes) in subjects.items()}
rho, held_out, known = {}, {}, {}
for threat in THREATS:
    for k in sequence:
        (known_error,) = errors_of(threat, k, ["baseline"])
        for name, (_, classes) in subjects.items():
            if k in classes:
                rho[threat, k, name] = residual_knowledge(
                    errors_of(threat, k, against[name]),
                    found[threat, k, name].loss[-1], known_error)
        known[threat, k] = residual_knowledge(
            errors_of(threat, k, main_controls), known_error,
            known_error)
        for name in main_controls:
            rest = [n for n in main_controls if n != name]
            held_out[threat, k, name] = residual_knowledge(
                errors_of(threat, k, rest),
                found[threat, k, name].loss[-1], known_error)

# %% tags=["remove-input"]
both = pd.DataFrame({(threat, f"{k}: {name}"): {"value": r.rho, "low": r.low, "high": r.high}
                     for (threat, k, name), r in rho.items()}).T
spread = {k: [held_out[threat, k, n].rho for threat in ("y on the simplex", "y free") for n in main_controls]
          for k in sequence}
visible = [threat for threat in THREATS if THREATS[threat].y != "label"]
chapter.show_figure(
    figures.intervals(both.loc[visible], "ρ, with 95 % interval", [0.0, 1.0]),
    "What is left, where the attacker may choose y (dotted: never seen, and nothing forgotten). Each seed that never "
    "saw the class, measured against the others, lies between "
    f"{min(map(min, spread.values())):+.2f} and {max(map(max, spread.values())):+.2f}.",
    alt="Points with intervals for rho, a row for each threat model and a colour for each class and model.")

# %% tags=["remove-input"]
closing = pd.DataFrame({f"{k}: {name}: {threat}": {
    "judge B agrees": f"{scores.loc[(threat, k, name), 'success']:.0%}",
    "ρ": "–" if r.rho != r.rho else f"{r.rho:+.2f} [{r.low:+.2f}, {r.high:+.2f}]", "verdict": residual.verdict(r)}
    for k in sequence for name in subjects for threat in THREATS for r in [rho.get((threat, k, name))] if r}).T
chapter.show_table(closing.rename_axis("class: model: threat model"),
                   "Every threat model against every unlearned model. Avoided: at least half of the knowledge is there "
                   "for this attacker; suppressed: a part; gone: no more than models that never saw the class differ "
                   "by; over-forgotten: less than they have.")

# %% tags=["remove-input"]
def worded(value):
    return "undefined" if value != value else f"{value:+.2f}"


strong = [rho[threat, k, target].rho for threat in ("y on the simplex", "y free") for k in sequence]
defined = [value for value in strong if value == value]
worst, lowest = max(defined, default=0.0), min(defined, default=0.0)
label_only = [rho["label only", k, target].rho for k in sequence]
named = ", ".join(map(str, sequence[1:]))
pooled = residual_knowledge(errors_of("y on the simplex", digit, main_controls),
                            found["y on the simplex", digit, alone].loss[-1],
                            errors_of("y on the simplex", digit, ["baseline"])[0]).rho
chapter.say(
    "With y on the simplex or free, ρ of the model that {target} is: " + "; ".join(
        f"class {k}, {{simplex_{k}}} and {{free_{k}}}" for k in sequence) + ". {reading} Its interval must be read "
    "with the spread of models that should be at 0: held out against the others, they reach {spread:.2f}.\n\n"
    "{other}{betrayed}",
    target=target, spread=max((abs(v) for values in spread.values() for v in values if v == v), default=0.0),
    **{f"simplex_{k}": worded(rho["y on the simplex", k, target].rho) for k in sequence},
    **{f"free_{k}": worded(rho["y free", k, target].rho) for k in sequence},
    reading=("Where ρ lies above the spread of models that should be at 0, an attacker gets more out of it than out of "
             "models that never saw the class: a residue is left." if worst > residual.SPREAD else "He gets no more out of it than out of models that never saw the class.")
    + (" Where ρ lies well below 0, it is over-forgotten: the model is worse for that class than if it had never seen "
       "it, and that, too, can be seen from outside." if lowest < -residual.SPREAD else ""),
    other=f"Against models that never saw {named} either, ρ of the model that forgot {digit} alone would be "
    f"{worded(pooled)} on the simplex instead of {worded(rho['y on the simplex', digit, alone].rho)}: a control must lack what "
    "was forgotten, and nothing else.\n\n" if len(sequence) > 1 else "",
    betrayed=f"The label alone gives ρ = {', '.join(map(worded, label_only))}: a model that never saw the class "
    "answers its label with some other digit, which is nearer to a digit than gray is. Gray hides the class, and "
    "betrays that it was hidden." if max(label_only) < 0 else "")

# %% [markdown]
# ## Forgetting, damage and residue trade off
#
# Fewer updates damage the retained classes less, or more, and leave more, or
# less, behind. The last row is the control: all updates, but no gray term.

# %%
fisher = trained.retain_fisher(base, ds, [digit], run.seed)
budgets = {f"{run.unlearning.steps // part} steps": replace(
    run.unlearning, steps=run.unlearning.steps // part)
    for part in (8, 3, 1)}
budgets["no gray term"] = replace(run.unlearning, gray=0.0)
rows, traded = {}, {}
for label, config in budgets.items():
    model = trained.unlearned(base, ds, [digit], fisher, config,
                          run.seed)
    traded[label] = model
    table = evaluation.evaluate(model.net, ds, judge_b, None,
                                run.seed, run.samples)
    means = evaluation.retained_means(table, [digit])
    rows[label] = {"gray": table.loc[digit, "gray"],
                   "accuracy": means["accuracy"],
                   "nelbo": means["nelbo"]}
    for threat in ("y on the simplex", "y free"):
        error = reconstruct(real)(model, digit, THREATS[threat])
        (known_error,) = errors_of(threat, digit, ["baseline"])
        rows[label][f"ρ, {threat}"] = residual_knowledge(
            errors_of(threat, digit, against[alone]),
            error.loss[-1], known_error).rho
tradeoff = pd.DataFrame(rows).T

# %% tags=["remove-input"]
chapter.show_table(
    tradeoff.rename(columns={"gray": "distance to gray", "accuracy": "retained accuracy", "nelbo": "retained nats"}),
    f"Forgetting {digit} with fewer updates, and without the gray term.",
    {"distance to gray": "{:.4f}", "retained accuracy": "{:.1%}", "retained nats": "{:.2f}",
     "ρ, y on the simplex": "{:+.2f}", "ρ, y free": "{:+.2f}"})

# %% [markdown]
# ## Relearning
#
# An attacker who may change the weights shows the model a few images of the
# class. How soon does it draw the class again, and how much sooner than one
# that never saw it?

# %%
few = [1, 10, 100]
students = {n: models[n]
            for n in ("baseline", *subjects, *main_controls)}
relearned = {}
for k in sequence:
    for name, (model, classes) in students.items():
        if k in classes:
            relearned[k, name] = pd.DataFrame({
                n: attacks.relearn(model.net, seen[k][:n], k,
                                   judge_b, seed=run.seed)
                for n in few})

# %% tags=["remove-input"]
average = sum(relearned[digit, n] for n in main_controls) / 3
pictured = {"baseline": relearned[digit, "baseline"], target: relearned[digit, target], "never saw (mean)": average}
chapter.show_figure(
    figures.lines(pictured, {n: f"judge B sees a {digit}, k = {n}" for n in few}, "updates"),
    f"Fine-tuning on k images of {digit}. After the last update on 100 images, judge B sees a {digit} in "
    + ", ".join(f"{t[100].iloc[-1]:.0%} ({name})" for name, t in pictured.items()) + " of the samples.",
    alt="Three panels, for one, ten and a hundred images: the judge's accuracy against the number of updates, a line "
        "for each of three models.")

# %% tags=["remove-input"]
half = pd.DataFrame({f"{k}: {name}": {
    f"k = {n}": next((f"{step}" for step, value in table[n].items() if value >= 0.5), "not in 200") for n in few}
    for (k, name), table in relearned.items()}).T
chapter.show_table(half.rename_axis("class: model"),
                   "Updates until judge B sees the class in half of the samples (looked at every 20).")

# %% tags=["remove-input"]
sooner = relearned[digit, target][100].mean() - average[100].mean()
shown_models = {name: m for name, (m, _) in models.items()} | traded
chapter.say(
    "With 100 images the model that {target} draws the {digit} again {comparison} one that never saw it (mean accuracy "
    "along the way {mine:.2f} against {never:.2f}). {reading}\n\n"
    "This chapter took {seconds:.0f} s. Weights: {weights}.",
    target=target, digit=digit, mine=relearned[digit, target][100].mean(), never=average[100].mean(),
    comparison="sooner than" if sooner > 0.05 else "later than" if sooner < -0.05 else "about as soon as",
    reading="Whoever may train it does not need what is left: he has the images." if sooner <= 0.05 else
    "That head start is a residue which an attacker of the inputs does not see.",
    seconds=time.perf_counter() - started,
    weights=", ".join(f"{name} `{m.digest[:12]}`" for name, m in shown_models.items()))

# %% tags=["remove-cell"]
from sa_lib import playground

played = ("baseline", *subjects, f"{titled('never saw', [digit])}, seed {run.seed}")
playground.export(run.run_dir / "05_attacks", {name: models[name][0] for name in played}, judge_b, ds, sequence, found,
                  run.attack)

# %% tags=["remove-cell"]
def plain(residual):
    values = {"rho": residual.rho, "low": residual.low, "high": residual.high}
    return {key: value if value == value else None for key, value in values.items()}


def nested(results):
    out = {}
    for (threat, k, name), residual in results.items():
        out.setdefault(threat, {}).setdefault(str(k), {})[name] = plain(residual)
    return out


chapter.write_metrics(run.run_dir, "05_attacks", {
    "parameters": {"dataset": run.dataset, "seed": run.seed, "forget": sequence, "profile": run.profile,
                   "architecture": run.architecture},
    "target": target, "rho": nested(rho),
    "rho_range": f"between {worded(lowest)} and {worded(worst)}" if defined else "not defined in this run", "held_out": nested(held_out),
    "rho_baseline": {threat: {str(k): plain(known[threat, k]) for k in sequence} for threat in THREATS},
    "errors": {f"{k}: {model}": row.to_dict() for (k, model), row in errors.iterrows()},
    "success": {f"{k}: {model}: {threat}": value for (threat, k, model), value in scores["success"].items()},
    "guided": {f"{k}: {model}: {threat}": value for (threat, k, model), value in success.items()},
    "tradeoff": tradeoff.astype(object).where(tradeoff.notna(), None).to_dict("index"),
    "relearning": {f"{k}: {name}": {str(n): table[n].tolist() for n in few} for (k, name), table in relearned.items()},
    "chapter_seconds": time.perf_counter() - started,
    "models": {name: m.digest for name, m in shown_models.items()}})

# %% [markdown]
# ## Takeaways
#
# - An attack's success is not evidence. A guided attacker brings his knowledge
#   along in the classifier; the same attack on a model that never saw the
#   class says how much.
# - What can be measured is the difference between two controls. $\rho$ is that
#   difference, for a stated attacker with a stated budget, and no more.
# - Below 0 is not better than 0. A model that is worse at a class than one that
#   never saw it carries the mark of what was done to it.
# - Every verdict holds for its threat model. One who may train the model needs
#   no memory in it.

# %% [markdown]
# ## Exercises
#
# The solutions follow, each run with the chapter. Try before you look.
#
# 1. **A smaller budget.** The attacks keep their best at several moments. Work
#    out $\rho$ at each, with $y$ on the simplex. Has it settled at the end?
# 2. **The wrong judge.** Let judge A, against which the guided attacker has
#    worked, say how often he succeeds. By how much does it overstate?
# 3. **The bootstrap by hand.** Draw images and never-saw models with
#    replacement, compute $\rho$ a thousand times, and take the middle 95 %.
#    How much narrower is the interval if only the images are drawn?
# 4. **More freedom.** Show that the least error with $y$ free is at most that
#    with $y$ on the simplex. What does it mean where the attacker's own errors
#    say otherwise? Compute $\rho$ from the better of his two for each image.

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
def rho_of(losses):
    return residual_knowledge(
        torch.stack([losses[name] for name in main_controls]),
        losses[target], losses["baseline"]).rho


simplex = {name: found["y on the simplex", digit, name]
           for name in ("baseline", target, *main_controls)}
path = [rho_of({name: f.loss[at] for name, f in simplex.items()})
        for at in range(len(budget))]
late = path[-3:]
chapter.say(
    "ρ of the model that {target}, for {digit}: {path}. {reading}",
    target=target, digit=digit, path="; ".join(
        f"{worded(value)} after {looks:,} looks"
        for looks, value in zip(budget, path)),
    reading="It has settled: over the last moments it moves by "
    "less than models differ that never saw the class."
    if max(late) - min(late) <= residual.SPREAD else
    "It has not settled, or is not defined: ρ belongs to a "
    "budget, and should not be quoted without it.")

# %% [markdown]
# ### Solution 2

# %% tags=["hide-cell"]
claimed = {key: attacks.score(f.end, judge_a, key[1],
                              seen[key[1]])["success"].iloc[0]
           for key, f in guided.items()}
over = pd.Series(claimed) - success
chapter.say(
    "With y free, for {digit}, judge A counts {mine:.0%} "
    "successes on the model that {target}, and judge B "
    "{other:.0%}; on the first that never saw it, {never_a:.0%} "
    "and {never_b:.0%}. Over all guided attacks judge A says "
    "{mean:+.1f} points more, at most {most:+.0f}. {reading}",
    digit=digit, target=target,
    mine=claimed["y free", digit, target],
    other=success["y free", digit, target],
    never_a=claimed["y free", digit, main_controls[0]],
    never_b=success["y free", digit, main_controls[0]],
    mean=100 * over.mean(), most=100 * over.max(),
    reading="An attack fools the judge it was made for; only one "
    "that it has not met can say whether there is a digit."
    if over.mean() > 0.02 else
    "Here the two agree: what pleased one judge pleases the other.")

# %% [markdown]
# ### Solution 3

# %% tags=["hide-cell"]
import numpy as np

never, mine, known_best = (
    errors_of("y on the simplex", digit, names).cpu().numpy()
    for names in (main_controls, [target], ["baseline"]))
random = np.random.default_rng(run.seed)


def bootstrap(draw_models):
    values = []
    for _ in range(1000):
        image = random.integers(never.shape[1], size=never.shape[1])
        seeds = (random.integers(len(never), size=len(never))
                 if draw_models else np.arange(len(never)))
        top = never[seeds][:, image].mean()
        gap = top - known_best[0, image].mean()
        values.append((top - mine[0, image].mean()) / gap
                      if gap > 0 else np.nan)
    return np.quantile(values, (0.025, 0.975))


both_drawn, images_only = bootstrap(True), bootstrap(False)
theirs = rho["y on the simplex", digit, target]
wide, narrow = (float(np.ptp(ends))
                for ends in (both_drawn, images_only))

# %% tags=["hide-cell"]
chapter.say(
    "By hand [{low}, {high}], by the library [{their_low}, "
    "{their_high}]. With the images alone [{image_low}, "
    "{image_high}]. {reading}",
    low=worded(both_drawn[0]), high=worded(both_drawn[1]),
    their_low=worded(theirs.low), their_high=worded(theirs.high),
    image_low=worded(images_only[0]),
    image_high=worded(images_only[1]),
    reading=f"That is {narrow / wide:.0%} of the width; the rest "
    f"is that only {len(never)} models never saw the class."
    if wide > 0 else
    "ρ is not defined in every draw: the baseline is too near to "
    "the models that never saw the class.")

# %% [markdown]
# ### Solution 4
#
# <details><summary>The derivation</summary>
#
# Let $S$ be the mixtures of labels and $\mathbb{R}^{10}$ all vectors. Every
# mixture is a vector, $S \subset \mathbb{R}^{10}$, and a minimum over a larger
# set is never larger:
#
# $$
# \min_{z,\, y \in \mathbb{R}^{10}} \lVert \mathrm{decode}(z, y) - x \rVert^2
# \;\le\; \min_{z,\, y \in S} \lVert \mathrm{decode}(z, y) - x \rVert^2 .
# $$
#
# Where the attacker ends with the opposite, he has not found his minimum: the
# error is his and says nothing of the model. Taking the better of the two for
# each image repairs that, for all models alike.
#
# </details>

# %% tags=["hide-cell"]
free = {name: found["y free", digit, name].loss[-1]
        for name in simplex}
bound = {name: f.loss[-1] for name, f in simplex.items()}
missed = {name: float((free[name] > bound[name]).float().mean())
          for name in simplex}
better = {name: torch.minimum(free[name], bound[name])
          for name in simplex}
chapter.say(
    "With y free he ends above the simplex for {missed} of the "
    "images of {digit}. ρ of the model that {target}: "
    "{on_simplex} on the simplex, {free} free, **{best} with the "
    "better of both**. {reading}",
    missed=", ".join(f"{share:.0%} ({name})"
                     for name, share in missed.items()),
    digit=digit, target=target, on_simplex=worded(rho_of(bound)),
    free=worded(rho_of(free)), best=worded(rho_of(better)),
    reading="He loses his way more often in the unlearned model "
    "than in those that never saw the class; so much of what looks "
    "like over-forgetting may be his own failing."
    if missed[target] > max(missed[n] for n in main_controls) else
    "He loses his way no more often in the unlearned model than in "
    "those that never saw the class.")

# %% [markdown]
# ## Try next
#
# - Give the attacker ten times the budget (`replace(run.attack, steps=2000)`).
#   Which of the models profits most?
# - Let the reconstruction attacker start from the encoder's $z$ instead of a
#   random one. Is that another threat model?
# - Set `forget = [4, 9]`, two digits that resemble each other. Can the one be
#   rebuilt once the other is gone as well?
