"""Audits: of errors alone, of any decoder, and the report that comes of them."""

import csv
import json
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import foreign
from sa_lib import audit_attack, trained
from sa_lib.attacks import THREATS
from sa_lib.audit import RelearnConfig, audit, audit_errors, mend
from sa_lib.model import ModelConfig, build
from sa_lib.reconstruction import SearchConfig
from sa_lib.residual import residual_knowledge, verdict


def columns(share=0.0, controls=3, images=40, spread=0.03, seed=0, subjects=1, threat=None):
    """A table of errors in which rho is about `share`: 10 where the class was never seen, and 2 of the baseline."""
    random = np.random.default_rng(seed)
    image = random.uniform(-1, 1, images)
    models = {("baseline", "baseline"): 2.0}
    models |= {("subject", f"subject {k}"): 10 - 8 * share for k in range(subjects)}
    models |= {("never", f"never {k}"): 10 + 8 * spread * random.standard_normal() for k in range(controls)}
    rows = [(model, role, f"image {n}", mean + image[n] + 0.1 * random.standard_normal())
            for (role, model), mean in models.items() for n in range(images)]
    table = {name: list(column) for name, column in zip(("model", "role", "image", "error"), zip(*rows))}
    return table | ({"threat": [threat] * len(rows)} if threat else {})


def joined(*tables):
    return {name: sum((table[name] for table in tables), []) for name in tables[0]}


def write(path, table):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(table), *zip(*table.values())])
    return path


# Errors alone -----------------------------------------------------------------------------------------------------

def test_rho_is_that_of_the_errors(tmp_path):
    table = columns(0.4)
    report = audit_errors(write(tmp_path / "errors.csv", table))
    error = np.array(table["error"]).reshape(5, 40)  # baseline, subject, three controls
    expected = residual_knowledge(*map(torch.tensor, (error[2:], error[1], error[0])))
    assert report.finding.residual == expected
    assert report.verdict == verdict(expected) == "residue"
    assert report.rho == pytest.approx(0.4, abs=0.1) and not report.equivalence


def test_a_file_a_data_frame_and_a_mapping_give_the_same(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = columns(0.1)
    frame = pandas.DataFrame(table).sample(frac=1, random_state=0)  # in any order
    for other in (frame, write(tmp_path / "errors.csv", table)):
        assert audit_errors(other).rho == pytest.approx(audit_errors(table).rho, abs=1e-12)
    pytest.importorskip("pyarrow")
    frame.to_parquet(tmp_path / "errors.parquet")
    assert audit_errors(tmp_path / "errors.parquet").rho == pytest.approx(audit_errors(table).rho, abs=1e-12)


def test_an_inconclusive_audit_says_how_many_controls_would_do():
    report = audit_errors(columns(0.0, controls=3, spread=0.1))
    assert report.verdict == "inconclusive"
    assert re.fullmatch(r"inconclusive with 3 controls; about \d+ would probably do if nothing is left",
                        report.finding.advice)
    assert report.finding.power < 0.5
    assert audit_errors(columns(0.0, controls=20, spread=0.05)).finding.verdict == "gone"


def test_one_control_gives_a_rho_and_no_verdict():
    report = audit_errors(columns(0.2, controls=1))
    assert report.rho == pytest.approx(0.2, abs=0.1)
    assert report.verdict == "no interval" and "two give an interval" in report.finding.advice


def test_several_subjects_are_of_a_method():
    table = columns(0.0, subjects=3, controls=4)
    assert audit_errors(table).finding.residual.estimand == "this method"
    assert audit_errors(table).finding.residual.models == 3


def test_one_residue_is_a_residue_whatever_the_other_attacks_say():
    table = joined(columns(0.0, 12, threat="weak"), columns(0.7, 12, seed=1, threat="strong"))
    report = audit_errors(table)
    assert {name: one.verdict for name, one in report.findings.items()} == {"weak": "gone", "strong": "residue"}
    assert (report.verdict, report.threat, report.equivalence) == ("residue", "strong", False)


def states(as_is, mended):
    return joined(*(table | {"state": [state] * len(table["role"])}
                    for table, state in ((as_is, "as it is"), (mended, "mended"))))


def test_gone_needs_both_states():
    gone, residue = columns(0.0, controls=20, spread=0.05), columns(0.7, controls=20, spread=0.05)
    alone = audit_errors(gone)
    assert alone.verdict == "gone as it is" and alone.sentence.startswith("Gone as it is: no more is left")
    assert "audit the model mended too" in json.loads(alone.to_json())["advice"]
    both = audit_errors(states(gone, gone))
    assert (both.verdict, both.mended) == ("gone", True) and "mended too" not in both.sentence
    hidden = audit_errors(states(gone, residue))
    assert (hidden.verdict, hidden.threat) == ("residue", "the attack, mended")
    assert "the attack, mended: +0.7" in hidden.to_html()


def test_a_baseline_need_not_be_mended():
    table = states(columns(0.1), columns(0.4, seed=1))
    less = without(table, lambda row: (row["role"], row["state"]) != ("baseline", "mended"))
    report = audit_errors(less)
    assert torch.equal(report.errors["the attack, mended"]["baseline"], report.errors["the attack"]["baseline"])
    assert list(report.findings) == ["the attack", "the attack, mended"]


def without(table, keep):
    rows = [row for row in zip(*table.values()) if keep(dict(zip(table, row)))]
    return {name: list(column) for name, column in zip(table, zip(*rows))} if rows else {name: [] for name in table}


WRONG = {
    "no column": (lambda t: {name: t[name] for name in ("model", "image", "error")}, "columns .* none called role"),
    "no row": (lambda t: without(t, lambda row: False), "at least two images"),
    "one image": (lambda t: without(t, lambda row: row["image"] == "image 0"), "at least two images .* got 1"),
    "no control": (lambda t: without(t, lambda row: row["role"] != "never"), "one that never saw the class"),
    "no baseline": (lambda t: without(t, lambda row: row["role"] != "baseline"), "one baseline"),
    "no subject": (lambda t: without(t, lambda row: row["role"] != "subject"), "at least one subject"),
    "a missing image": (lambda t: without(t, lambda row: (row["model"], row["image"]) != ("never 1", "image 3")),
                        "same for all models, got 'image 3'"),
    "an image twice": (lambda t: joined(t, {name: column[:1] for name, column in t.items()}), "once for each model"),
    "two roles": (lambda t: joined(t, {"model": ["never 0"], "role": ["subject"], "image": ["x"], "error": [1.0]}),
                  "one for each model, got 'subject'"),
    "another role": (lambda t: t | {"role": ["control"] * len(t["role"])}, "role must be one of baseline"),
    "uneven columns": (lambda t: t | {"role": t["role"][:-1]}, "columns of one length"),
    "another state": (lambda t: t | {"state": ["repaired"] * len(t["role"])}, "state must be one of as it is, mended"),
    "mended alone": (lambda t: t | {"state": ["mended"] * len(t["role"])}, "state must be 'as it is' for some rows"),
    "a control not mended": (lambda t: without(states(t, t), lambda row: (row["model"], row["state"]) != (
        "never 1", "mended")), "same for all models, got 'image 0' .* under the attack, mended"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_table_that_does_not_fit_is_refused_in_a_sentence(case):
    change, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as caught:
        audit_errors(change(columns()))
    assert ", got " in str(caught.value) and "\n" not in str(caught.value)


@given(st.sampled_from([math.nan, math.inf, -math.inf, 1e16, "", "many", None]), st.integers(0, 199))
def test_an_error_that_is_no_number_is_refused_with_its_row(bad, row):
    table = columns()
    table["error"][row] = bad
    with pytest.raises(ValueError, match=rf"^error must be a number .* in row {row + 1}$"):
        audit_errors(table)


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(1, 3), st.integers(0, 99))
def test_any_table_that_fits_gives_a_report(controls, images, subjects, seed):
    report = audit_errors(columns(0.3, controls, images, subjects=subjects, seed=seed))
    assert report.verdict in json.loads(report.to_json())["advice"] or report.finding.advice
    assert "<h1>" in report.to_html()


@pytest.mark.parametrize("text, message", [
    ("", "columns model"), ("model,role,image,error\na,never,1\n", "4 fields in each row, got 3 in row 1"),
    ("model,model,image,error\n", "name each column once"), ("\x00\x01", "table must")])
def test_a_file_that_is_no_table_is_refused(tmp_path, text, message):
    (tmp_path / "errors.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        audit_errors(tmp_path / "errors.csv")


@pytest.mark.parametrize("bad", [None, 3, [1, 2], {"model": "abc"}])
def test_anything_but_a_table_is_refused(bad):
    with pytest.raises(ValueError, match="table must be the path of a file, a data frame, or a mapping"):
        audit_errors(bad)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.csv"):
        audit_errors(tmp_path / "nothing.csv")


# Decoders ---------------------------------------------------------------------------------------------------------

SEARCH = SearchConfig(pool=256, starts=2, iterations=10, rounds=1)
SHAPES = {"z_shape": foreign.Z_SHAPE, "y_shape": foreign.CLASSES}


@pytest.fixture(scope="module")
def models():
    return foreign.make()


@pytest.fixture(scope="module")
def real():
    _, _, images, labels = foreign.digit_images()
    return images[labels == foreign.LABEL][:12]


def test_a_foreign_model_is_audited_where_the_answer_is_known(models, real):
    knowing, hiding, never = models["baseline"], models["subject"], models["never"]
    plan = {"baseline": knowing, "images": real, "label": foreign.LABEL, "search": SEARCH, **SHAPES}
    itself = audit(knowing, never=never, **plan, threats=["y on the simplex"])
    assert itself.rho == 1 and itself.verdict in ("residue", "unresolved")
    hidden = audit(hiding, never=never, **plan)
    assert hidden.findings["y free"].residual.rho > 0.7
    ignorant = audit(never[0], never=never[1:], **plan, threats=["y on the simplex"])
    assert abs(ignorant.rho) < 0.4 and ignorant.verdict not in ("residue", "gone")


def random_cvaes(count):
    return [build(ModelConfig(latent_dim=2, hidden=(16, 8)), seed).eval().requires_grad_(False)
            for seed in range(count)]


def test_the_numbers_are_those_of_the_chapters(digits):
    nets, images = random_cvaes(4), digits.test_images[digits.test_labels == 3][:5]
    own = [trained.Trained(net, pd.DataFrame(), 0.0, str(n)) for n, net in enumerate(nets)]
    search = SearchConfig(pool=64, starts=1, iterations=3, rounds=1)  # the same numbers, with any budget
    report = audit(nets[0], baseline=nets[1], never=nets[2:], images=images, label=3, search=search)
    for threat, errors in report.errors.items():
        for name, model in zip(("subject", "baseline", "never 1", "never 2"), own):
            result = trained.reconstruction(model, images, 3, THREATS[threat], search)
            assert torch.equal(errors[name], result.errors.double()), (threat, name)
        assert report.findings[threat].shortfall == max(
            trained.shortfall(model, images, 3, THREATS[threat], search) for model in (own[0], own[2]))


def linear(seed, size=(3, 4, 4)):
    """A decoder without labels, of colored images: a function."""
    weight = torch.randn(2, 48, generator=torch.Generator().manual_seed(seed))
    return lambda z: (z @ weight).sigmoid().view(-1, *size)


COLORED = {"baseline": linear(0), "never": [linear(1), linear(2)], "z_shape": 2, "search": SEARCH}


def colored(count=4):
    return linear(0)(torch.randn(count, 2, generator=torch.Generator().manual_seed(9)))


def test_functions_without_labels_and_of_any_shape():
    report = audit(linear(0), images=colored(), **COLORED)
    assert list(report.findings) == ["z in the prior", "z free"]
    assert report.rho == 1 and float(report.errors["z free"]["subject"].max()) < 1e-3


def test_another_prior_and_another_distance():
    def prior(count, generator):
        return 3 * torch.rand(count, 2, generator=generator)

    def distance(images, targets):
        return (images - targets).abs().flatten(1).sum(1)

    report = audit(linear(0), images=colored(), prior=prior, distance=distance, **COLORED)
    assert list(report.findings) == ["z free"]
    assert report.attacker.startswith("Adam") and "distance" in report.notes[0]
    answer = report.answers["z free"]
    assert math.isnan(report.finding.reach)  # of squared errors alone
    torch.testing.assert_close(distance(answer.images[-1], colored()), answer.errors)
    assert float(answer.errors.mean()) < 0.2 * float(report.errors["z free"]["never 1"].mean())


def test_both_states_are_attacked_and_shown(tmp_path):
    report = audit(linear(1), images=colored(), mended=(linear(0), [linear(1), linear(2)]), **COLORED)
    assert list(report.findings) == ["z in the prior", "z in the prior, mended", "z free", "z free, mended"]
    assert report.findings["z free, mended"].residual.rho == 1 > report.findings["z free"].residual.rho
    assert torch.equal(*(report.errors[name]["baseline"] for name in ("z free", "z free, mended")))
    facts = json.loads(report.to_json())
    assert facts["mended"] and {"subject, mended", "never 2, mended"} <= facts["digests"].keys()
    assert facts["models"]["never"] == ["never 1", "never 2"]
    assert not any("as they are" in note for note in report.notes) and "z free, mended" in report.to_html()
    report.save_inputs(tmp_path / "attack.npz")
    with np.load(tmp_path / "attack.npz", allow_pickle=False) as file:
        assert file["z free, mended/z"].shape == (4, 2)


def test_the_mended_state_is_that_of_an_audit_of_the_mended_models():
    both = audit(linear(1), images=colored(), mended=(linear(3), [linear(4), linear(2)]), **COLORED)
    alone = audit(linear(3), images=colored(), **COLORED | {"never": [linear(4), linear(2)]})
    for threat, finding in alone.findings.items():
        assert both.findings[f"{threat}, mended"] == finding


def wide(seed):
    """A decoder with as many inputs as pixels: it can be made to draw any image."""
    weight = torch.randn(48, 48, generator=torch.Generator().manual_seed(seed))
    return lambda z: (z @ weight).view(-1, 3, 4, 4)


def test_an_attack_that_can_reach_any_image_has_no_verdict():
    report = audit(wide(0), baseline=wide(1), never=[wide(2), wide(3)], images=colored(), z_shape=48, search=SEARCH,
                   threats=["z free"])
    assert report.finding.reach < 0.01 and report.verdict == "unresolved"
    assert "reproduce its images" in report.sentence and json.loads(report.to_json())["findings"]["z free"]["reach"] < 1
    narrow = audit(linear(0), images=colored(), **COLORED)
    own = torch.stack([narrow.errors["z free"][f"never {k}"] for k in (1, 2)]).mean()
    variance = (colored() - colored().mean(0)).square().flatten(1).sum(1).mean()
    assert narrow.findings["z free"].reach == pytest.approx(float(own / variance)) and narrow.verdict != "unresolved"


@settings(max_examples=10)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(2, 4), st.integers(1, 3), st.integers(0, 99))
def test_a_decoder_of_any_shape_gives_a_report(shape, count, controls, seed):
    def decoder(seed):
        weight = torch.randn(2, math.prod(shape), generator=torch.Generator().manual_seed(seed))
        return lambda z: (z @ weight).sigmoid().view(-1, *shape)

    report = audit(decoder(0), baseline=decoder(1), never=[decoder(k) for k in range(2, 2 + controls)],
                   images=torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)), z_shape=2,
                   search=SearchConfig(16, 1, 2, 1), threats=["z in the prior"])
    facts = json.loads(report.to_json())
    assert facts["images"] == count and len(facts["models"]["never"]) == controls
    assert controls > 1 or facts["findings"]["z in the prior"]["low"] is None
    assert facts["verdict"] not in ("gone", "gone as it is", "residue") or controls > 1
    assert "nan" not in report.to_html()


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(context, values):
        return values.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient


@pytest.mark.parametrize("decode", [lambda z: Backward.apply(linear(0)(z)),
                                    lambda z: linear(0)(z) if z.isfinite().all() else z])  # not under vmap
def test_a_decoder_without_forward_derivatives_is_attacked_by_adam(decode):
    report = audit(decode, images=colored(), threats=["z free"], **COLORED)
    assert report.attacker.startswith("Adam") and "forward-mode" in report.notes[0]
    assert report.rho == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="^attacker must be 'adam' or 'cma' for models without forward-mode"):
        audit(decode, images=colored(), attacker="gauss-newton", **COLORED)


def test_gauss_newton_can_be_asked_for_where_a_model_draws_one_image():
    decode = linear(0)
    report = audit(lambda z: decode(0 * z), images=colored(), threats=["z free"], attacker="gauss-newton", **COLORED)
    assert report.rho < 1 and report.attacker.startswith("damped Gauss-Newton")


def test_a_black_box_is_refused_by_gradients_and_found_by_cma():
    def black(decode):
        return lambda z: (decode(z) * 255).round() / 255

    box = {"baseline": black(linear(0)), "never": [black(linear(1)), black(linear(2))], "z_shape": 2, "search": SEARCH,
           "images": colored(2), "threats": ["z free"]}
    with pytest.raises(ValueError, match="must be differentiable .* the attacker 'cma' needs none"):
        audit(black(linear(0)), **box)
    report = audit(black(linear(0)), **box, attacker="cma")
    assert report.attacker.startswith("CMA-ES") and float(report.errors["z free"]["subject"].max()) < 0.1


def test_cma_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ValueError, match="pip install cma"):
        audit(linear(0), images=colored(), attacker="cma", **COLORED)


def test_what_the_attack_found_can_be_saved_and_repeated(tmp_path):
    report = audit(linear(0), images=colored(), **COLORED)
    report.save_inputs(tmp_path / "attack.npz")
    with np.load(tmp_path / "attack.npz", allow_pickle=False) as file:
        found = {name: torch.from_numpy(file[name]) for name in file}
    assert torch.equal(found["targets"], colored())
    torch.testing.assert_close(linear(0)(found["z free/z"]), found["z free/images"])
    torch.testing.assert_close((found["z free/images"] - found["targets"]).square().flatten(1).sum(1),
                               found["z free/errors"], rtol=1e-3, atol=1e-6)
    assert found["z free/y"].shape == (4, 0)


class Linear(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(2, 48)

    def decode(self, z):
        return self.layer(z).sigmoid().view(-1, 3, 4, 4)


def modules():
    first, *never = (Linear(seed).eval().requires_grad_(False) for seed in range(3))
    return {"baseline": first, "never": never, "z_shape": 2, "images": colored(), "search": SEARCH}


def counted(monkeypatch):
    made, attack = [], audit_attack._attack
    monkeypatch.setattr(audit_attack, "_attack", lambda *a: made.append(a[2]) or attack(*a))
    return made


def test_finished_attacks_are_found_again_and_damaged_ones_made_again(tmp_path, monkeypatch):
    made, lines = counted(monkeypatch), []
    first = audit(modules()["never"][0], **modules(), folder=tmp_path, progress=lines.append)
    count, files = len(made), sorted(tmp_path.iterdir())
    assert count == len(files) < len(lines)  # the subject is one of the controls
    assert audit(modules()["never"][0], **modules(), folder=tmp_path).to_json() == first.to_json()
    assert len(made) == count
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    assert audit(modules()["never"][0], **modules(), folder=tmp_path).to_json() == first.to_json()
    assert len(made) == count + 2


def test_the_largest_seed_is_one_too():
    assert audit(Linear(7).eval(), **modules(), seed=2**32 - 1).findings


def test_another_model_and_a_function_are_attacked_anew(tmp_path, monkeypatch):
    made = counted(monkeypatch)
    audit(Linear(7).eval(), **modules(), folder=tmp_path)
    count = len(made)
    audit(Linear(8).eval(), **modules(), folder=tmp_path)
    assert len(made) - count == 5  # the attacks on the subject under three threat models, two of them longer too
    audit(linear(0), images=colored(), folder=tmp_path / "functions", **COLORED)
    assert not (tmp_path / "functions").exists()


class Noisy(Linear):
    def decode(self, z):
        return super().decode(z) + torch.rand(len(z), 1, 1, 1)


REFUSED = {
    "training mode": ({"subject": Linear(0)}, "subject must be in evaluation mode"),
    "noise": ({"subject": Noisy(0).eval()}, "subject must draw the same image .* switch off its noise"),
    "wrong images": ({"subject": linear(0, (1, 6, 8))}, r"subject must draw images of the shape \[8, 3, 4, 4\]"),
    "wrong latents": ({"z_shape": 3}, "baseline must draw images for z of 3 numbers"),
    "no latents": ({"z_shape": ()}, "z_shape must be one whole number or more"),
    "no shape": ({"z_shape": None}, "z_shape must be a tuple or list"),
    "a label too many": ({"y_shape": 4}, "must draw images for z of 2 numbers and y of 4"),
    "NaN": ({"subject": lambda z: linear(0)(z) * math.nan}, "subject must draw finite"),
    "no model": ({"subject": 3}, "subject must be a function or have a decode"),
    "no control": ({"never": []}, "never must be at least one model"),
    "another control": ({"never": [linear(1), linear(2, (1, 6, 8))]}, r"never 2 must draw images of the shape \[8, 3"),
    "a control of NaN": ({"never": [linear(1), lambda z: linear(2)(z) * math.nan]}, "never 2 must draw finite"),
    "no images": ({"images": colored()[:0]}, "at least two images, got torch.float32 \\[0, 3, 4, 4\\]"),
    "numbers as images": ({"images": torch.rand(3)}, "images must be finite floating-point"),
    "mended alone": ({"mended": linear(0)}, "mended must be a list or tuple"),
    "too few mended": ({"mended": (linear(0), [linear(1)])}, "mended must be the subject and a list of the 2 controls"),
    "no mended model": ({"mended": (3, [linear(1), linear(2)])}, "subject, mended must be a function"),
    "a control alone": ({"never": linear(1)}, "never must be a list or tuple"),
    "one image": ({"images": colored(1)}, "at least two images"),
    "broken images": ({"images": colored() * math.nan}, "images must be finite"),
    "whole numbers": ({"images": colored().byte()}, "images must be finite floating-point"),
    "a label without labels": ({"label": 3}, "label must be None without labels, got 3"),
    "another threat": ({"threats": ["y free"]}, "threats must be a list of names among random search"),
    "no threat": ({"threats": []}, "threats must be at least one of"),
    "another attacker": ({"attacker": "sgd"}, "attacker must be one of gauss-newton, adam, cma"),
    "margin": ({"margin": -1.0}, "margin must be a finite number"),
    "prior": ({"prior": lambda count, generator: torch.rand(count, 3)}, "prior must give 2 numbers for each latent"),
    "a prior of None": ({"prior": lambda count, generator: None}, r"prior must .* \[count, .* got a AttributeError"),
    "a prior on its side": ({"prior": lambda count, generator: torch.rand(2, count)}, "prior must give 2 numbers"),
    "another prior": ({"prior": lambda count: torch.rand(count, 2)}, "prior must take a count and a generator, .*Type"),
    "a distance of None": ({"distance": lambda a, b: None}, r"distance must give .* image, \[8\], got NoneType"),
    "a mean distance": ({"distance": lambda a, b: (a - b).square().mean()}, r"distance must .* torch.float32 \[\]"),
    "whole distances": ({"distance": lambda a, b: a.flatten(1).sum(1).long()}, r"distance must .* torch.int64 \[8\]"),
    "another distance": ({"distance": lambda a: a}, r"distance must take .* targets \[8, 3, 4, 4\], got a TypeError"),
    "distance": ({"distance": lambda a, b: (a - b).square().flatten(1).sum(1), "attacker": "gauss-newton"},
                 "attacker must be 'adam' or 'cma'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_audit_that_cannot_be_is_refused_in_a_sentence(case):
    changes, message = REFUSED[case]
    arguments = {"subject": linear(0), "images": colored(), **COLORED, **changes}
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        audit(arguments.pop("subject"), **arguments)
    assert ", got " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_distance_that_is_not_finite_is_refused(value):
    with pytest.raises(FloatingPointError, match="distances of the model's images are not finite"):
        audit(linear(0), images=colored(), distance=lambda a, b: (a - b).flatten(1).sum(1) * 0 + value, attacker="cma",
              **COLORED)


def test_a_label_that_is_none_of_the_models_is_refused(models, real):
    for label in (None, 5, -1, 1.0):
        with pytest.raises(ValueError, match="label must be a whole number from 0 to 4, got"):
            audit(models["subject"], baseline=models["baseline"], never=models["never"], images=real, label=label,
                  search=SEARCH, **SHAPES)


def test_a_report_has_the_settings_of_its_attack():
    report = audit(linear(0), images=colored(), seed=5, **COLORED)
    assert json.loads(report.to_json())["settings"] == {
        "label": None, "threats": ["random search", "z in the prior", "z free"], "attacker": "gauss-newton", "seed": 5,
        "distance": "squared error", "search": {"pool": 256, "starts": 2, "iterations": 10, "rounds": 1}}
    assert "seed 5, distance squared error, pool 256" in report.to_html()
    assert json.loads(audit_errors(columns()).to_json())["settings"] == {}


def test_a_cvae_has_its_own_prior(digits):
    nets = random_cvaes(3)
    with pytest.raises(ValueError, match="prior must be None for a CVAE"):
        audit(nets[0], baseline=nets[1], never=nets[2:], images=digits.test_images[:3], label=3,
              prior=lambda count, generator: torch.rand(count, 2))


def test_images_in_other_units_are_noticed():
    report = audit(linear(0), images=colored() * 0.01, **COLORED)
    assert any("other units" in note for note in report.notes)
    assert not any("other units" in note for note in audit(linear(0), images=colored(), **COLORED).notes)


# Losses -----------------------------------------------------------------------------------------------------------

CLASS = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def alike(seed, count=12):
    """Images [count, 1, 4, 4] of the class: each is its own, and all are near to one."""
    return (CLASS + 0.2 * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def other(seed, count=24):
    """Images [count, 1, 4, 4] of other classes, which are dark."""
    return 0.3 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


class Coder(nn.Module):
    """A foreign autoencoder with noise on its codes and a loss of its own."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.code = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 3))
        self.image = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 16), nn.Sigmoid())

    def decode(self, z):
        return self.image(z).view(-1, 1, 4, 4)

    def loss(self, x, y, generator):
        code = self.code(x)
        noise = torch.randn(code.shape, generator=generator, device=x.device)
        return (self.decode(code + 0.05 * noise) - x).square().flatten(1).sum(1)


def coder(images, seed, steps=250):
    net, generator = Coder(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        net.loss(images, None, generator).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def coders():
    """A baseline that was trained on images of the class, and controls that never saw it."""
    return {"baseline": coder(torch.cat([other(0), alike(2)]), 0), "never": [coder(other(k), k) for k in (1, 2)],
            "images": alike(3), "seen": alike(2), "loss": Coder.loss, "z_shape": 3, "search": SEARCH,
            "threats": ["z in the prior"]}


def test_a_model_that_saw_the_images_is_told_from_those_that_never_did(coders):
    weights = {name: weight.clone() for name, weight in coders["baseline"].state_dict().items()}
    report = audit(coders["baseline"], **coders)
    areas = {name: area for name, (area, _) in report.losses.membership.items()}
    assert areas["subject"] == areas["baseline"] > 0.8 and max(areas["never 1"], areas["never 2"]) < 0.7
    means = report.losses.means
    assert means["subject"] < 0.85 * min(means["never 1"], means["never 2"])
    for name, path in report.losses.relearning.items():  # from the loss of the model as it is to a lower one
        assert path[0] == pytest.approx(report.losses.held_out[name].mean()) and len(path) == len(report.losses.steps)
    assert report.losses.relearning["never 1"][-1] < report.losses.relearning["never 1"][0]
    first, second = report.losses.sentences
    assert "better than those of all controls; by chance, this happens in one of 3 cases" in first
    assert "the class comes back faster" in second.lower()
    assert all(torch.equal(weight, weights[name]) for name, weight in coders["baseline"].state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in coders["baseline"].parameters())


def test_a_model_that_never_saw_the_images_is_among_the_controls(coders):
    report = audit(coder(other(5), 5), **coders, relearning=RelearnConfig(updates=25))
    assert report.losses.membership["subject"][0] < 0.7 < report.losses.membership["baseline"][0]
    assert report.losses.means["subject"] > 1.3 * report.losses.means["baseline"]
    assert report.losses.steps == (0, 10, 20, 25)


def test_losses_are_in_the_report(coders):
    report = audit(coders["baseline"], **coders, relearning=RelearnConfig(updates=5))
    assert report.to_json() == audit(coders["baseline"], **coders, relearning=RelearnConfig(updates=5)).to_json()
    facts = json.loads(report.to_json())
    assert facts["losses"]["membership"]["auc"].keys() == facts["losses"]["relearning"]["mean_loss"].keys()
    assert facts["losses"]["relearning"]["settings"] == {"updates": 5, "lr": 1e-3, "batch": 32, "every": 10}
    assert {"seen", "losses"} <= facts["digests"].keys()
    html = report.to_html()
    assert "More than inputs: losses" in html and all(text in html for text in report.losses.sentences)
    without = audit(coders["baseline"], **coders | {"loss": None, "seen": None})
    assert json.loads(without.to_json())["losses"] is None and "losses" not in without.to_html()
    assert without.rho == report.rho and without.verdict == report.verdict


def test_a_function_has_membership_and_no_relearning(coders):
    report = audit(coders["baseline"], **coders | {"never": [lambda z, one=one: one.decode(z)
                                                             for one in coders["never"]],
                   "loss": lambda model, x, y, generator: x.flatten(1).sum(1)})
    assert not report.losses.relearning and json.loads(report.to_json())["losses"]["relearning"] is None
    assert any("never 1, never 2 are none" in note for note in report.notes) and "AUC" in report.to_html()


def test_a_loss_has_the_label_as_one_hot_numbers():
    seen = []

    def decode(z, y):
        return z[:, :, None, None].expand(-1, 2, 3, 3) + y.sum((1, 2))[:, None, None, None]

    def loss(model, x, y, generator):
        seen.append(y)
        return (x - y.sum()).flatten(1).sum(1)

    audit(decode, baseline=decode, never=[decode, decode], images=torch.rand(3, 2, 3, 3), seen=torch.rand(5, 2, 3, 3),
          label=3, z_shape=2, y_shape=(2, 2), loss=loss, threats=["random search"], search=SEARCH)
    assert all(torch.equal(y[0], torch.tensor([[0., 0.], [0., 1.]])) for y in seen)
    assert {len(y) for y in seen} == {3, 5}


def test_the_loss_of_a_cvae_is_its_negative_elbo(digits):
    nets, images = random_cvaes(3), digits.test_images[digits.test_labels == 3][:6]

    def loss(model, x, y, generator):
        return -model.elbo(x, y, torch.randn(len(x), model.config.latent_dim, generator=generator, device=x.device))

    report = audit(nets[0], baseline=nets[0], never=nets[1:], images=images[:3], seen=images[3:], label=3, loss=loss,
                   relearning=RelearnConfig(updates=3), threats=["random search"], search=SEARCH)
    generator, y = torch.Generator().manual_seed(0), torch.eye(10)[[3, 3, 3]]
    with torch.no_grad():
        values = [loss(nets[1], images[3:], y, generator).double() for _ in range(4)]
    torch.testing.assert_close(report.losses.seen["never 1"], torch.stack(values).mean(0))
    assert report.losses.relearning["never 1"][-1] < report.losses.relearning["never 1"][0]


def test_images_that_are_seen_and_held_out_are_noticed(coders):
    report = audit(coders["baseline"], **coders | {"images": torch.cat([alike(3), alike(2)[:2]])}, relearning=None)
    assert any("2 of the images seen" in note for note in report.notes)


OTHER = Coder()
UNFIT = {
    "no seen": ({"seen": None}, "loss and seen must both be given, or neither, got only loss"),
    "no loss": ({"loss": None}, "got only seen"),
    "a number": ({"loss": 3}, "loss must be a function"),
    "other images": ({"seen": torch.rand(5, 3, 4, 4)}, r"seen must be .* \[N, 1, 4, 4\] .* got torch.float32 \[5, 3"),
    "one image": ({"seen": alike(2)[:1]}, "seen must be .* at least two images"),
    "NaN": ({"seen": alike(2) * math.nan}, "seen must be finite"),
    "a path": ({"seen": "seen/"}, "seen must be a Tensor"),
    "another signature": ({"loss": lambda x: x}, "loss must take a model, x .*got a TypeError for baseline"),
    "a mean": ({"loss": lambda *a: Coder.loss(*a).mean()}, r"loss must give a .* for each image, \[12\], got"),
    "an infinite loss": ({"loss": lambda *a: Coder.loss(*a) / 0}, "loss must be finite for all images, got 12"),
    "noise": ({"loss": lambda m, x, y, g: torch.rand(len(x))}, "loss must be the same for the same generator"),
    "no gradient": ({"loss": lambda *a: Coder.loss(*a).detach()}, "loss must depend, with derivatives"),
    "another model": ({"loss": lambda m, x, y, g: OTHER.loss(x, y, g)}, "loss must depend, with der"),
    "relearning": ({"relearning": 100}, "relearning must be a RelearnConfig"),
    "no updates": ({"relearning": RelearnConfig(updates=0)}, "updates must be a whole number from 1"),
    "a label": ({"label": 3}, "label must be None without labels"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_loss_that_does_not_fit_is_refused_in_a_sentence(coders, case):
    changes, message = UNFIT[case]
    lines = []
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        audit(coders["baseline"], **coders | changes, progress=lines.append)
    assert ", got " in str(caught.value) and "\n" not in str(caught.value)
    assert not any("z in the prior" in line for line in lines)  # before any attack


def test_a_relearning_that_diverges_names_the_model_and_the_rate(coders):
    with pytest.raises(FloatingPointError, match=r"loss of baseline is no longer finite by step 10; lower .*lr=1e\+30"):
        audit(coders["baseline"], **coders | {"loss": lambda *a: Coder.loss(*a) * a[0].image[0].weight.square().sum()},
              relearning=RelearnConfig(lr=1e30))


# Mending with a loss --------------------------------------------------------------------------------------------------

def test_mending_lowers_the_loss_of_the_images_it_trains_on_and_leaves_the_model(coders):
    model, x = coders["never"][0], other(1, 40)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    mended = mend(model, Coder.loss, x, updates=60, lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    assert Coder.loss(mended, x, None, generator).mean() < 0.9 * Coder.loss(model, x, None, generator).mean()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert not any(weight.requires_grad for weight in mended.parameters())
    again = mend(model, Coder.loss, x, updates=60, lr=3e-3)
    assert all(torch.equal(one, two) for one, two in zip(mended.parameters(), again.parameters()))


def test_mending_is_in_evaluation_mode_and_needs_no_gradients_around_it():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.Dropout()), torch.rand(9, 3)

    def loss(model, x, y, generator):
        return (model(x) - x).square().sum(1)

    with torch.no_grad():
        mended = mend(model, loss, x, updates=2)
    assert model.training and not any(part.training for part in mended.modules())
    assert torch.equal(mended[0].weight, mend(model.eval(), loss, x, updates=2)[0].weight)  # without dropout


def test_mended_models_are_audited_in_both_states(coders):
    further = [mend(one, Coder.loss, other(4), updates=5) for one in (coders["baseline"], *coders["never"])]
    report = audit(coders["baseline"], **coders, relearning=None, mended=(further[0], further[1:]))
    assert any(name.endswith(", mended") for name in report.findings)


def test_each_image_is_trained_on_with_its_own_label():
    asked = []

    def loss(model, x, y, generator):
        asked.append((x[:, 0], y[:, 0]))
        return (model(x) - y).square().sum(1)

    mend(nn.Linear(1, 1), loss, torch.arange(50.)[:, None], torch.arange(50.)[:, None], updates=3, batch=7)
    assert len(asked) == 3 and all(torch.equal(x, y) and len(x) == 7 for x, y in asked)


@pytest.mark.parametrize("changes, message", [
    ({"model": lambda x: x}, "model must be a Module"),
    ({"model": nn.ReLU()}, "model must have parameters, got a ReLU"),
    ({"images": torch.rand(1, 1, 4, 4)}, r"images must be floating-point, two or more"),
    ({"y": torch.rand(3, 2)}, r"each with a row of y if there is one, got torch.float32 \[6, 1, 4, 4\] and y \[3, 2\]"),
    ({"updates": 0}, "updates must be a whole number from 1"),
    ({"loss": lambda *a: Coder.loss(*a).detach()}, "loss must depend, with derivatives"),
    ({"loss": lambda x: x}, "loss must take a model, x .* for model")])
def test_what_cannot_be_mended_is_refused_in_a_sentence(coders, changes, message):
    given = {"model": coders["baseline"], "loss": Coder.loss, "images": torch.rand(6, 1, 4, 4), **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        mend(given.pop("model"), **given)


def test_mending_that_diverges_names_the_rate(coders):
    with pytest.raises(FloatingPointError, match=r"not finite after 9 updates; lower the learning rate \(lr=1e\+30\)"):
        mend(coders["baseline"], lambda *a: Coder.loss(*a) * a[0].image[0].weight.square().sum(), other(8), updates=9,
             lr=1e30)


# The report -------------------------------------------------------------------------------------------------------

def test_the_report_as_json_has_a_schema_and_the_digests(tmp_path):
    path = write(tmp_path / "errors.csv", columns(0.4))
    facts = json.loads(audit_errors(path).to_json())
    assert facts["schema"] == "sa-audit/3"
    assert facts["models"] == {"baseline": ["baseline"], "subject": ["subject 0"],
                               "never": ["never 0", "never 1", "never 2"]}
    assert {"file", "errors"} == facts["digests"].keys()
    assert audit_errors(path).to_json() == audit_errors(path).to_json()
    write(path, columns(0.4, seed=1))
    assert json.loads(audit_errors(path).to_json())["digests"]["errors"] != facts["digests"]["errors"]


def test_the_page_has_the_finding_first_and_needs_no_other_file():
    table = columns(0.4)
    table["model"] = [name.replace("subject", "<b>mine</b>") for name in table["model"]]
    html = audit_errors(table).to_html()
    assert html.index("residue") < html.index("<h2>")
    assert "<svg" in html and "&lt;b&gt;mine&lt;/b&gt;" in html and "<b>" not in html
    assert not re.search(r"https?://|<script|<link|src=", html)


@pytest.mark.parametrize("table", [columns(0.2, controls=1), columns(0.0, controls=2, spread=1.0),
                                   columns(9.0), columns(-9.0)])
def test_a_page_for_any_interval(table):
    report = audit_errors(table)
    html = report.to_html()
    assert "nan" not in html and "inf" not in html.replace("information", "")
    places = [float(x) for x in re.findall(r'(?:x1|x2|cx)="([^"]+)"', html)]
    assert all(0 <= x <= 360 for x in places)


def test_a_figure_is_drawn():
    axes = audit_errors(columns(0.4)).figure().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["the attack"]


def test_errors_alone_have_no_inputs_to_save(tmp_path):
    with pytest.raises(ValueError, match="report must be of a decoder .* got one of errors alone"):
        audit_errors(columns()).save_inputs(tmp_path / "attack.npz")


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
"""
OTHERS = ["pandas", "scipy", "sklearn", "matplotlib", "seaborn", "tqdm", "safetensors", "platformdirs", "torchvision",
          "IPython", "pyarrow", "cma"]


def run_alone(code, *arguments):
    """Run Python with PyTorch and NumPy alone."""
    return subprocess.run([sys.executable, "-c", BLOCKED.format(blocked=OTHERS) + code, *map(str, arguments)],
                          capture_output=True, text=True)


def test_torch_and_numpy_are_enough_for_errors(tmp_path):
    path = write(tmp_path / "errors.csv", columns(0.4))
    done = run_alone("from sa_lib.audit import audit_errors\nreport = audit_errors(sys.argv[1])\nreport.to_html()\n"
                     "print(report.to_json())", path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "residue"


def test_torch_and_numpy_are_enough_for_a_decoder():
    code = """
import torch
from sa_lib.audit import audit
from sa_lib.reconstruction import SearchConfig
def linear(seed):
    weight = torch.randn(2, 48, generator=torch.Generator().manual_seed(seed))
    return lambda z: (z @ weight).sigmoid()
report = audit(linear(0), baseline=linear(0), never=[linear(1), linear(2)], images=linear(0)(torch.randn(4, 2)),
               z_shape=2, search=SearchConfig(64, 1, 5, 1))
report.to_html()
print(report.rho)
"""
    done = run_alone(code)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 1
