"""Each chapter works when it is opened alone in Colab, with only the notebook, PyTorch and an empty folder."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from runs import PROJECT
from sa_lib.book import notebooks
from sa_lib.data import DATASETS
from sa_lib.experiment import PROFILES
from sa_lib.model import ARCHITECTURES

CHAPTERS = notebooks.chapters(PROJECT)
PLAIN = "10_one_page"  # it does not use the library, so it does not install it
ADDRESS = notebooks.repository(PROJECT)
CHOICES = {"dataset": DATASETS, "profile": PROFILES, "architecture": ARCHITECTURES}
TYPES = {"integer": int, "string": str, "raw": object}


def read(name):
    return nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", 4)


def tagged(notebook, tag):
    cell, = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return cell


# Without running anything ---------------------------------------------------------------------

@pytest.mark.parametrize("name", CHAPTERS)
def test_every_parameter_has_a_form_with_the_allowed_values(name):
    lines = tagged(read(name), "parameters").source.splitlines()
    assert len(lines) >= 3
    for line in lines:
        form = re.fullmatch(r"(\w+) = (.+?)  # @param (?:(\[.*\])(?: \{allow-input: true\})?|\{type: \"(\w+)\"\})",
                            line)
        assert form, f"{line!r} has no form of Colab's"
        parameter, default, choices, kind = form.groups()
        default = json.loads(default)
        if parameter in CHOICES:
            assert choices, line
            assert json.loads(choices) == list(CHOICES[parameter])
            assert default in CHOICES[parameter]
        else:
            assert kind in TYPES, line
            assert isinstance(default, TYPES[kind]), line


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_opening_links_to_this_chapter_and_says_how_long_it_takes(name):
    opening = read(name).cells[0].source
    colab = ADDRESS.replace("https://github.com", "https://colab.research.google.com/github")
    assert re.findall(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)", opening) == [
        f"{colab}/blob/main/notebooks/{name}.ipynb"]
    takes = opening.partition("**It takes** ")[2].partition("\n\n")[0]
    assert re.match(r"[^.]*\b(second|minute)", takes)
    assert "two CPU cores" in takes
    assert "GPU" in takes


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_markdown_is_for_sphinx_alone(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            raw = re.findall(r"\{[a-z:]+\}`|^(?:`{3,}|:{3,}) *\{|^:::|\[\]\(|^\([\w-]+\)=$|^%", cell.source, re.M)
            assert raw == [], f"Colab shows {raw} as raw text: {cell.source[:60]!r}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_colab_and_jupyter_fold_the_cells_that_the_site_hides(name):
    for cell in read(name).cells:
        hidden = cell.cell_type == "code" and bool(notebooks.HIDDEN & set(cell.metadata.get("tags", [])))
        assert cell.source.startswith("# @title ") is hidden
        assert (cell.metadata.get("cellView") == "form") is hidden
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) is hidden


def test_links_between_chapters_lead_to_colab():
    source = ("# %% [markdown]\n# See [chapter 1](01_baseline.ipynb), [its end](01_baseline.ipynb#takeaways), "
              "[x](x.ipynb).\n")
    (cell,) = nbformat.reads(notebooks.notebook_text(source, ADDRESS), 4).cells
    colab = ADDRESS.replace("https://github.com", "https://colab.research.google.com/github")
    assert cell.source == (f"See [chapter 1]({colab}/blob/main/notebooks/01_baseline.ipynb), "
                           f"[its end]({colab}/blob/main/notebooks/01_baseline.ipynb#takeaways), [x](x.ipynb).")


# As Colab runs it ------------------------------------------------------------------------------

def needed(roots):
    """The installed distributions of these requirements, and of their requirements in turn."""
    found, queue = {}, [(Requirement(root), {""}) for root in roots]
    while queue:
        requirement, extras = queue.pop()
        key = requirement.name, frozenset(requirement.extras)
        if key in found or requirement.marker and not any(requirement.marker.evaluate({"extra": extra})
                                                          for extra in extras):
            continue
        found[key] = distribution(requirement.name)
        queue += [(Requirement(text), {"", *requirement.extras}) for text in found[key].requires or []]
    return found.values()


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """A kernel whose Python has the chapters' dependencies, as Colab's has, and whose pip finds this checkout.

    The packages are those of this environment. Links lend them in a folder that
    does not belong to the kernel's environment, so pip would have to report any
    package that it wants to change.
    """
    lent, env, checkout = (tmp_path / name for name in ("lent", "env", "checkout"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    lent.mkdir()
    for package in needed([*project["project"]["dependencies"], "ipykernel", "pip", "setuptools"]):
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (lent / top).is_symlink():
                (lent / top).symlink_to(package.locate_file(top))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": env}))
    (site / "lent.pth").write_text(f"{lent}\n")

    checkout.mkdir()
    for path in [*PROJECT.glob("LICENSE*"), PROJECT / "README.md", PROJECT / "pyproject.toml"]:
        shutil.copy(path, checkout)
    shutil.copytree(PROJECT / "sa_lib", checkout / "sa_lib", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", checkout, "-c", "user.name=a reader", "-c", "user.email=reader@example.org",
           "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "as it is now"]):
        subprocess.run([*git, *command], check=True)

    kernel = tmp_path / "kernels" / "colab"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({
        "argv": [str(env / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Colab", "language": "python", "env": {
            "PYTHONPATH": "", "PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "",
            "PIP_NO_BUILD_ISOLATION": "0",  # for pip, 0 means no isolation; isolation would need the index
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{checkout.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS}}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    return tmp_path


def execute(colab, notebook):
    """Run all cells in a new kernel, in the empty folder; the notebook with its outputs."""
    (colab / "content").mkdir(exist_ok=True)
    client = NotebookClient(notebook, kernel_name="colab", timeout=1800,
                            resources={"metadata": {"path": str(colab / "content")}})
    return client.execute()


@pytest.mark.parametrize("name", [
    name if name == "01_baseline" else pytest.param(name, marks=pytest.mark.colab)
    for name in CHAPTERS if name != PLAIN])
def test_a_chapter_alone_runs_twice_and_once_more_after_a_restart(colab, name):
    notebook = read(name)
    form = tagged(notebook, "parameters")
    for parameter, choice in (("dataset", "digits"), ("profile", "smoke")):
        form.source = re.sub(rf'(?m)^{parameter} = "\w+"', f'{parameter} = "{choice}"', form.source)
    assert 'profile = "smoke"' in form.source
    cells = len(notebook.cells)
    notebook.cells += [nbformat.from_dict({**cell, "id": f"{cell.id}-again"}) for cell in notebook.cells]
    torch = distribution("torch").locate_file("torch")
    before = {path: path.stat().st_mtime_ns for path in torch.glob("*.py")}

    done = execute(colab, notebook)
    site = next((colab / "env").rglob("lent.pth")).parent
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"lent.pth", "sa_lib"}, \
        "pip installs sa_lib and nothing else, and the requirements name everything that a chapter imports"
    first, second = (next(cell for cell in part if "%pip install" in cell.source)
                     for part in (done.cells[:cells], done.cells[cells:]))
    assert "restart the kernel" in str(first.outputs)
    assert second.outputs == []
    restarted = execute(colab, nbformat.from_dict({**notebook, "cells": notebook.cells[:cells]}))
    for run in (done.cells[:cells], done.cells[cells:], restarted.cells):
        assert any("text/markdown" in output.get("data", {}) for cell in run for output in cell.get("outputs", []))
    assert (colab / "content" / "runs" / "full" / name / "metrics.json").is_file()
    assert {path: path.stat().st_mtime_ns for path in torch.glob("*.py")} == before


@pytest.mark.colab
def test_the_page_in_plain_pytorch_runs_without_the_library(colab):
    notebook = read(PLAIN)
    form = tagged(notebook, "parameters")
    form.source = form.source.replace('profile = "full"', 'profile = "smoke"')
    done = execute(colab, notebook)
    assert not [path for path in (colab / "env").rglob("sa_lib*")]
    assert any("ρ = (" in str(output) for cell in done.cells for output in cell.get("outputs", []))
    metrics = json.loads((colab / "content" / "runs" / "full" / PLAIN / "metrics.json").read_text())
    assert metrics["errors"]["baseline"] < metrics["errors"]["never saw 9"]
