"""The repository for its visitors: a new chapter, the models of a run, workflows, license and citation."""

import http.server
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import jupytext
import pytest
import test_chapters
import test_colab
import yaml

import sa_lib
from runs import PROJECT
from sa_lib.book import notebooks, pages, run
from sa_lib.book.notebooks import BookError
from sa_lib.evidence import RESULTS

RUN = Path("runs", "mine")


@pytest.fixture
def small(tmp_path):
    """A project of one new chapter, with the real configuration."""
    (tmp_path / "notebooks").mkdir()
    last = tmp_path / "notebooks" / f"{notebooks.chapters(PROJECT)[-1]}.py"
    last.write_text("# %% [markdown]\n# # Before\n")
    for name in ("pyproject.toml", "_config.yml", "_toc.yml", "README.md"):
        shutil.copy(PROJECT / name, tmp_path)
    notebooks.new_chapter(tmp_path, "99_my_topic")
    last.unlink()
    return tmp_path


def test_a_new_chapter_runs_and_its_models_can_be_packed(small, monkeypatch):
    run.run(small, RUN, {"profile": "smoke", "dataset": "digits"})
    metrics = json.loads((small / RUN / "99_my_topic" / "metrics.json").read_text())
    assert len(metrics["accuracy"]) == 10
    assert max(metrics["accuracy"]) > 0.5
    address = run.models(small, RUN)
    path, _, digest = address.partition("#sha256=")
    assert path == str(small / "_build" / "models-mine.zip")
    assert len(digest) == 64
    requested = (small / RUN / "99_my_topic" / "models.txt").read_text().split()
    assert {name.partition("/")[0] for name in requested} == {"cvae", "judge"}

    first = [Path(os.environ["SA_CACHE"], "models", name).read_bytes() for name in requested]
    empty = small / "another store"
    monkeypatch.setenv("SA_CACHE", str(empty))
    with pytest.raises(BookError, match="the models of runs/mine cannot be packed: no file at .*; SA_CACHE must"):
        run.models(small, RUN)
    monkeypatch.setenv("SA_MODELS", address)
    (small / RUN / "99_my_topic.ipynb").unlink()
    run.run(small, RUN, {"profile": "smoke", "dataset": "digits"})
    assert [(empty / "models" / name).read_bytes() for name in requested] == first, "nothing is trained again"


CHAPTER_TESTS = [test for module in (test_chapters, test_colab) for name, test in sorted(vars(module).items())
                 if name.startswith("test_") and inspect.signature(test).parameters.keys() in ({"cells"}, {"name"})]


@pytest.mark.parametrize("test", CHAPTER_TESTS, ids=lambda test: test.__name__)
def test_a_new_chapter_passes_the_tests_of_all_chapters(small, monkeypatch, test):
    monkeypatch.setattr(test_colab, "PROJECT", small)
    source = small / "notebooks" / "99_my_topic.py"
    test(jupytext.read(source).cells if "cells" in inspect.signature(test).parameters else source.stem)


def test_a_new_chapter_has_its_name_its_notebook_and_a_line_in_every_list(small):
    assert notebooks.sync(small, check=True) == []
    source = (small / "notebooks" / "99_my_topic.py").read_text()
    assert source.count("# # My topic\n") == 1
    assert re.findall(r"\b(NAME|TITLE|COLAB|ADDRESS)\b", source) == []
    added = {}
    for name in ("_toc.yml", "README.md"):
        old, new = ((root / name).read_text().splitlines() for root in (PROJECT, small))
        at = next(n for n, line in enumerate(new) if line not in old)
        assert new[:at] + new[at + 1:] == old
        assert f"notebooks/{notebooks.chapters(PROJECT)[-1]}" in new[at - 1]
        added[name] = new[at]
    assert re.fullmatch(r" *- file: notebooks/99_my_topic", added["_toc.yml"])
    assert added["README.md"].startswith("| 99. My topic | what it shows | a few minutes | [![Open in Colab]")
    assert added["README.md"].endswith("/blob/main/notebooks/99_my_topic.ipynb) |")


FORM, NUMBER = "NAME must be two digits and a topic, as in 09_topic", "NAME must have a number of its own"


@pytest.mark.parametrize("name, complaint", [
    ("9_topic", FORM), ("../09_x", FORM), ("10_Topic", FORM), ("", FORM), ("99_other", NUMBER)])
def test_a_chapter_with_a_bad_name_is_not_started(small, name, complaint):
    before = sorted(small.rglob("*"))
    with pytest.raises(BookError, match=f"^{re.escape(complaint)}, got {re.escape(name)}"):
        notebooks.new_chapter(small, name)
    assert sorted(small.rglob("*")) == before


def test_the_readme_lists_every_chapter_with_the_time_of_its_opening():
    readme = (PROJECT / "README.md").read_text()
    rows = re.findall(r"(?m)^\| \d+\. .* \| ([\w ]+) \| .*/notebooks/(\w+)\.ipynb\) \|$", readme)
    assert [name for _, name in rows] == notebooks.chapters(PROJECT)
    for duration, name in rows:
        opening = test_colab.read(name).cells[0].source
        assert re.search(rf"\*\*It takes\*\* (about )?{duration} on two CPU cores", opening), f"{name}: {duration}"


def test_the_readme_shows_a_small_picture_with_a_text():
    ((alt, picture),) = re.findall(r"(?m)^!\[([^]]+)\]\(([^)]+)\)", (PROJECT / "README.md").read_text())
    assert len(alt) > 50
    assert (PROJECT / picture).stat().st_size < 150_000


@pytest.mark.parametrize("name", ["README.md", ".github/CONTRIBUTING.md"])
def test_links_to_files_lead_to_files(name):
    path = PROJECT / name
    links = re.findall(r"\]\((?!https://)([^)#]+)[^)]*\)", path.read_text())
    assert links
    assert [link for link in links if not (path.parent / link).is_file()] == []


def test_the_citation_agrees_with_the_package():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["repository-code"] == notebooks.repository(PROJECT)
    assert citation["version"] == sa_lib.__version__
    assert citation["license"] == "MIT"
    assert "2305.10120" in citation["references"][0]["url"]


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE-text", "README.md", ".github/CONTRIBUTING.md"])
def test_every_text_on_licenses_names_both(name):
    text = (PROJECT / name).read_text()
    assert "CC BY 4.0" in text
    assert re.search(r"\bMIT\b", text)


def test_the_license_is_the_mit_license():
    assert (PROJECT / "LICENSE").read_text().startswith("MIT License\n")


# Workflows ----------------------------------------------------------------------------------

TARGETS = set(re.findall(r"(?m)^([a-z-]+):", (PROJECT / "Makefile").read_text()))
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_a_workflow_has_only_the_rights_that_it_needs(path):
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in text
    rights = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert rights == {"book": {"publish": {"pages": "write", "id-token": "write"}, "executed": {"contents": "write"}},
                      "release": {"attach": {"contents": "write"}}}.get(path.stem, {})


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_a_workflow_runs_nothing_but_make_and_pinned_actions(path):
    text = path.read_text()
    for name, job in yaml.safe_load(text)["jobs"].items():
        for step in job["steps"]:
            if "uses" in step:
                assert re.search(rf"{re.escape(step['uses'])}  # v\d+\.\d+\.\d+\n", text)
                assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
            elif name not in ("executed", "attach"):  # see the next tests
                command, *targets = step["run"].split()
                assert command == "make"
                assert set(targets) <= TARGETS


def test_the_job_that_may_write_to_the_repository_runs_no_code_of_it():
    steps = yaml.safe_load((PROJECT / ".github" / "workflows" / "book.yml").read_text())["jobs"]["executed"]["steps"]
    download, push = steps
    assert download["uses"].startswith("actions/download-artifact@")
    commands = push["run"].replace("\\\n", "").strip().splitlines()
    assert {command.split()[0] for command in commands} == {"git"}
    assert commands[-1].endswith("HEAD:refs/heads/executed")


def test_the_job_that_may_write_to_a_release_runs_no_code_of_the_repository():
    download, attach = yaml.safe_load((PROJECT / ".github" / "workflows" / "release.yml").read_text()
                                      )["jobs"]["attach"]["steps"]
    assert download["uses"].startswith("actions/download-artifact@")
    (command,) = attach["run"].strip().splitlines()
    assert command.startswith('gh release create "$GITHUB_REF_NAME" dist/*')


def test_the_workflows_lint_test_publish_run_as_colab_does_and_check_links_and_evidence():
    texts = {path.stem: path.read_text() for path in WORKFLOWS}
    for name, text in (("tests", "make lint"), ("tests", "make test"), ("tests", "pull_request"), ("book", "make book"),
                       ("book", "make check"), ("book", "path: _build/html"), ("book", "path: _build/executed/*.ipynb"),
                       ("colab", "make colab-test"), ("links", "make links"), ("release", "make dist"),
                       ("evidence", "make evidence-check")):
        assert text in texts[name], name
    assert re.search(r'cron: "\d+ \d+ \* \* \*"', texts["evidence"]), "the check takes another cell every day"
    for weekly in ("colab", "links"):
        assert re.search(r'cron: "\d+ \d+ \* \* 1"', texts[weekly])


def test_the_whole_check_runs_every_step():
    steps = re.findall(r"(?m)^step make ([\w-]+)", (PROJECT / ".ci" / "run").read_text())
    assert steps == ["environment", "lint", "book", "check", "test"]


def test_every_target_of_make_is_phony_and_has_a_help():
    makefile = (PROJECT / "Makefile").read_text()
    phony = " ".join(re.findall(r"(?m)^\.PHONY: (.*)$", makefile)).split()
    assert sorted(phony) == sorted(TARGETS)
    assert [target for target in TARGETS if not re.search(rf"(?m)^{target}:.*  ## \w", makefile)] == []


def recipe(*arguments):
    """The commands that make would run."""
    return subprocess.run(["make", "-n", "PYTHON=true", *arguments], cwd=PROJECT, env={"PATH": os.environ["PATH"]},
                          capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_target_of_make_names_only_files_that_are_there(target):
    named = re.findall(r"(?<![\w/.])(?:tools|tests|sa_lib)/[\w/.-]+", recipe(target))
    assert [name for name in named if not (PROJECT / name).exists()] == []


def test_the_digit_to_forget_is_the_same_parameter_for_all_chapters():
    command = " ".join(recipe("run", "FORGET=3", "SEED=1").split())
    assert '-m sa_lib.book run --run "full-forget3-seed1" -p profile "full" -p forget "3" -p seed "1"' in command


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, PROJECT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_package_has_its_license_in_the_table():
    rows = {name.lower(): (version, license_name) for name, version, license_name in load_tool("licences").table()}
    for package in ("torch", "numpy", "pytest"):
        assert rows[package][0] == importlib.metadata.version(package)
        assert rows[package][1] != "unknown"
    assert "BSD" in rows["numpy"][1]
    assert rows["pytest"][1].startswith("MIT")
    assert [name for name, (_, license_name) in rows.items() if len(license_name) >= 200] == []


def test_a_dead_link_is_found_and_a_site_that_refuses_programs_is_not_dead(tmp_path, monkeypatch, capsys):
    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path[1:4]))
            self.end_headers()

        def log_message(self, *_):
            pass

    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{site.server_port}"
    (tmp_path / "book").mkdir()
    (tmp_path / "README.md").write_text(f"[one]({url}/200), [![two]({url}/403)]({url}/429#part). {url}/200\n"
                                        "https://github.com/YOUR_ACCOUNT/selective-amnesia-cvae\n")
    (tmp_path / "book" / "page.md").write_text(f"<{url}/404>, `{url}/410`; http://127.0.0.1:9/\n")
    links = load_tool("links")
    monkeypatch.setattr(links, "ROOT", tmp_path)
    assert links.main() == 1
    output = capsys.readouterr()
    assert output.out == "6 addresses, 3 broken\n"
    assert [line.partition(": ")[0] for line in output.err.splitlines()] == ["book/page.md"] * 3
    (tmp_path / "book" / "page.md").unlink()
    assert links.main() == 0
    site.shutdown()


RELIABILITY = (PROJECT / "book" / "reliability.md").read_text()
COUNTED = {name for path in (PROJECT / "tests").rglob("*.py")
           for name in re.findall(r'tally\["([^"]+)"\] \+=', path.read_text())}


def test_the_page_on_reliability_quotes_counts_of_the_long_tests():
    quoted = set(re.findall(r"{{tried: ([^}]+)}}", RELIABILITY))
    assert {name for name in quoted if not name.startswith(("tolerance ", "limit "))} <= COUNTED | {"when"}


def test_the_committed_counts_are_those_of_the_long_tests():
    counts = pages.torture(RESULTS / "torture.json")
    assert counts.keys() == COUNTED | {"when"}
    assert [name for name in COUNTED if int(counts[name].replace(",", "")) < 1] == []


def test_the_page_on_reliability_names_tests_that_exist():
    there = {path.name for path in (PROJECT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)`", RELIABILITY)) <= there
