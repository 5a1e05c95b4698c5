"""Audits: of errors alone, of any decoder, and the report that comes of them."""

import csv
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sa_lib.audit import audit_errors
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
    assert re.fullmatch(r"inconclusive with 3 controls; about \d+ controls would do", report.finding.advice)
    assert report.finding.power < 0.5
    assert audit_errors(columns(0.0, controls=20, spread=0.05)).verdict == "gone"


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


# The report -------------------------------------------------------------------------------------------------------

def test_the_report_as_json_has_a_schema_and_the_digests(tmp_path):
    path = write(tmp_path / "errors.csv", columns(0.4))
    facts = json.loads(audit_errors(path).to_json())
    assert facts["schema"] == "sa-audit/1"
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
