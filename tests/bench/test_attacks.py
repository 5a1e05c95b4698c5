"""The reconstruction attack on all targets and restarts at once, against one target after another."""

from sa_lib.attacks import THREATS, AttackConfig, attack, squared_error
from sa_lib.model import ARCHITECTURES, build

TARGETS, CONFIG = 100, AttackConfig(steps=10)
# The model is evaluated once more than there are steps, for each start of each target.
STEPS = TARGETS * CONFIG.restarts * (CONFIG.steps + 1)


def attacks(sample):
    """name -> job; both do the same work."""
    model = build(ARCHITECTURES["mlp"], 0).eval().requires_grad_(False)
    images, _, _ = sample(TARGETS, model.config.latent_dim)

    def on(targets):
        return attack(model, squared_error(targets), 9, len(targets), THREATS["y free"], CONFIG)
    return {"all at once": lambda: on(images), "one after another": lambda: [on(image[None]) for image in images]}


def test_attack_steps(compare, sample):
    compare("Attack, mlp", "step", {name: (job, STEPS) for name, job in attacks(sample).items()}, rounds=5)
