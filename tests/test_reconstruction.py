"""The reconstruction attacker: it arrives, it stays within its threat model, and it finds what was planted."""

import pytest
import torch

from sa_lib import data, trained, validation
from sa_lib.attacks import THREATS, AttackConfig, Threat, attack, prior_radius, squared_error
from sa_lib.decoders import decoder_of, slope_along, with_prior
from sa_lib.model import ModelConfig, build
from sa_lib.reconstruction import Problem, SearchConfig, by_each, random_unknowns, reconstruct, search
from sa_lib.residual import residual_knowledge
from sa_lib.training import TrainingConfig

QUICK = SearchConfig(pool=256, starts=2, iterations=8, rounds=2)
TRAINING = TrainingConfig(epochs=30)


@pytest.fixture(scope="module")
def baseline(digits):
    return trained.cvae(digits, config=TRAINING)


@pytest.fixture(scope="module")
def targets(digits):
    return data.held_out(digits, 3, 10)


@pytest.fixture(scope="module")
def chain(baseline, targets):
    """The results under all threat models, each from the one before."""
    results, before = {}, None
    for name, threat in THREATS.items():
        before = results[name] = reconstruct(baseline.net, targets, 3, threat, QUICK, weaker=before)
    return results


def test_each_threat_model_is_nowhere_above_the_one_before(chain):
    errors = [result.errors for result in chain.values()]
    assert all((after <= before).all() for before, after in zip(errors, errors[1:]))
    assert errors[-1].mean() < errors[0].mean()


def test_it_is_nowhere_above_it_also_without_steps_of_its_own(baseline, targets, chain):
    idle = reconstruct(baseline.net, targets, 3, THREATS["y free"], SearchConfig(1, 1, 1, 1),
                       weaker=chain["y on the simplex"])
    assert (idle.errors <= chain["y on the simplex"].errors).all()


@pytest.mark.parametrize("name", THREATS)
def test_the_errors_are_those_of_the_images_of_the_inputs(chain, targets, name):
    result = chain[name]
    torch.testing.assert_close((result.images[-1] - targets).square().flatten(1).sum(1), result.errors, rtol=1e-3,
                               atol=1e-3)


def test_it_keeps_to_its_threat_model(chain, baseline):
    label = torch.zeros(10)
    label[3] = 1
    for name in ("random search", "z in the prior", "z free"):
        assert (chain[name].y == label).all()
    assert chain["z in the prior"].z.norm(dim=2).max() <= prior_radius(baseline.net.config.latent_dim) * 1.001
    on_simplex = chain["y on the simplex"].y
    assert (on_simplex >= 0).all() and torch.allclose(on_simplex.sum(2), torch.ones(()))


def test_errors_never_rise_along_the_budget(chain):
    for result in chain.values():
        assert result.budget == sorted(result.budget) and (result.loss.diff(dim=0) <= 0).all()


def test_it_ends_below_adam(baseline, targets):
    threat = THREATS["y on the simplex"]
    adam = attack(baseline.net, squared_error(targets), 3, len(targets), threat, AttackConfig(steps=100))
    ours = reconstruct(baseline.net, targets, 3, threat, SearchConfig(1024, 3, 25, 4))
    assert ours.errors.mean() < adam.errors.mean()


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_an_image_of_the_model_itself_is_found(architecture):
    config = ModelConfig(architecture, latent_dim=2, hidden=(16, 8) if architecture == "mlp" else (4, 4))
    net = build(config, 0).eval().requires_grad_(False)
    with torch.no_grad():
        drawn = net.decode(torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), torch.eye(10)[:4])
    result = reconstruct(net, drawn, 0, THREATS["y free"], SearchConfig(pool=256, starts=3, iterations=30, rounds=2))
    assert result.errors.max() < 0.01  # of 784 pixels


def test_the_same_seed_gives_the_same_answers_and_another_one_others(baseline, targets):
    first, again, other = (reconstruct(baseline.net, targets, 3, THREATS["y free"], QUICK, seed) for seed in (0, 0, 1))
    assert torch.equal(first.z, again.z) and not torch.equal(first.z, other.z)


def test_the_shortfall_is_a_share_and_falls_with_the_budget(baseline, targets):
    small = trained.shortfall(baseline, targets, 3, THREATS["y free"], SearchConfig(64, 1, 1, 1), part=1)
    large = trained.shortfall(baseline, targets, 3, THREATS["y free"], SearchConfig(256, 3, 25, 8), part=1)
    assert 0 <= large < small < 1
    largest = trained.shortfall(baseline, targets, 3, THREATS["y free"], SearchConfig(64, 1, 1, 1), 2**32 - 1)
    assert 0 <= largest < 1


@pytest.mark.parametrize("bad", [{"pool": 0}, {"starts": 0}, {"iterations": 1.5}, {"rounds": "many"}])
def test_a_budget_that_is_none_is_refused(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        SearchConfig(**bad)


def test_a_weaker_result_of_other_targets_is_refused(baseline, targets, chain):
    with pytest.raises(ValueError, match="weaker must be of the same 3 targets, got 10"):
        reconstruct(baseline.net, targets[:3], 3, Threat("free", "free"), QUICK, weaker=chain["y free"])


@pytest.fixture(scope="module")
def planted(digits):
    """Errors of models that never saw a class, that know it, and that hide it."""
    known = trained.cvae(digits, config=TRAINING)
    without = [trained.cvae(digits, config=TRAINING, seed=seed, without=[3]) for seed in range(2)]
    behind = trained.cvae(validation.hidden(digits, 3, 8), config=TRAINING)
    nets = {"known": known.net, "never 0": without[0].net, "never 1": without[1].net, "label": behind.net,
            "mixture": validation.behind_mixture(behind.net, 8, 9), "rotation": validation.behind_rotation(behind.net)}
    images = data.held_out(digits, 3, 10)
    search = SearchConfig(pool=1024, iterations=15, rounds=2)
    return {name: reconstruct(net, images, 3, THREATS["y on the simplex"], search).errors for name, net in nets.items()}


@pytest.mark.parametrize("place", ["label", "mixture", "rotation"])
def test_what_was_hidden_on_purpose_is_found(planted, place):
    never = torch.stack([planted["never 0"], planted["never 1"]])
    assert residual_knowledge(never, planted[place], planted["known"]).rho > 0.7


def test_the_label_of_a_hidden_class_draws_gray(digits):
    behind = trained.cvae(validation.hidden(digits, 3, 8), config=TRAINING)
    z = torch.randn(20, behind.net.config.latent_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn = behind.net.decode(z, torch.eye(10)[[3]].expand(20, -1))
    assert (drawn - 0.5).abs().mean() < 0.1  # after a short training on few images


@pytest.mark.parametrize("threat", ["z free", "y on the simplex", "y free"])
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_the_derivatives_are_those_of_forward_mode(architecture, threat):
    net = build(ModelConfig(architecture, latent_dim=3, hidden=(16, 8) if architecture == "mlp" else (4, 4)), 0)
    net.eval().requires_grad_(False)
    problem = Problem(decoder_of(net, (1, 28, 28)), torch.rand(1, 1, 28, 28), 3, THREATS[threat])
    values = random_unknowns(problem, 20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(problem.derivatives(values), by_each(problem.images, values), rtol=1e-4, atol=1e-7)


def test_saturated_pixels_leave_no_denormal_numbers():
    net = build(ModelConfig(latent_dim=3, hidden=(16, 8)), 0).eval().requires_grad_(False)
    net.decoder.layers[-1].bias -= 50  # the derivatives are about 1e-23
    problem = Problem(decoder_of(net, (1, 28, 28)), torch.rand(20, 1, 28, 28), 3, THREATS["z free"])
    values = random_unknowns(problem, 20, torch.Generator().manual_seed(0))
    curvature, slope = problem.normal_equations(values, problem.differences(values, torch.arange(20)))
    least = torch.finfo(torch.float32).tiny
    for numbers in (curvature, slope):
        assert ((numbers == 0) | (numbers.abs() >= least)).all()


@pytest.mark.parametrize("threat", [name for name, threat in THREATS.items() if threat.z != "drawn"])
def test_derivatives_are_taken_only_where_the_attack_has_moved_and_that_changes_nothing(baseline, targets, threat):
    ends, rows = [], []

    class Counted(Problem):
        def _equations(self, values, difference):
            rows[-1] += len(values)
            return super()._equations(values, difference)

    for some_rows in (True, False):
        problem = Counted(decoder_of(baseline.net, (1, 28, 28)), targets, 3, THREATS[threat])
        problem.some_rows = some_rows
        rows.append(0)
        with torch.no_grad():
            _, (errors, *_) = search(problem, QUICK, 0, None)
        ends.append(float(errors[-1].mean()))
    assert ends[0] == pytest.approx(ends[1], rel=0.02)  # other chunks are rounded otherwise
    assert rows[0] < 0.9 * rows[1]


@pytest.mark.parametrize("architecture", [ModelConfig(latent_dim=4, hidden=(16, 8)),
                                          ModelConfig("conv", latent_dim=4, hidden=(2, 3))])
def test_with_the_prior_of_z_the_error_is_that_of_the_image_and_half_the_square_of_z(architecture):
    model = build(architecture, 0).eval().requires_grad_(False)
    decoder, x = with_prior(model), torch.rand(5, 1, 28, 28)
    z, y, direction = torch.randn(3, 4), torch.rand(3, 10), torch.randn(3, 14)
    own = slope_along(lambda rows: decoder.decode(rows[:, :4], rows[:, 4:]), torch.cat([z, y], 1), direction)
    torch.testing.assert_close(decoder.derivatives(z, y, direction[None])[0], own, rtol=1e-4, atol=1e-5)

    targets = torch.cat([x.flatten(1), torch.zeros(5, 4)], 1)
    result = reconstruct(decoder, targets, 3, THREATS["y on the simplex"], SearchConfig(pool=64, rounds=2))
    z, y = result.z[-1], result.y[-1]
    of_images = (model.decode(z, y) - x).square().flatten(1).sum(1)
    torch.testing.assert_close(result.errors, of_images + z.square().sum(1) / 2)
    free = reconstruct(model, x, 3, THREATS["y on the simplex"], SearchConfig(pool=64, rounds=2))
    assert z.norm(dim=1).mean() < free.z[-1].norm(dim=1).mean()
