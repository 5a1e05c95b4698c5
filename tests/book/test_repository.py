"""What a visitor to the repository meets: a new chapter, the models of a run, workflows, licence and citation."""

import http.server
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
import yaml

import sa_lib
import test_colab
from sa_lib import book, pages

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture
def small(tmp_path):
    """A project of one chapter that was begun a moment ago, with the real configuration."""
    (tmp_path / "notebooks").mkdir()
    last = tmp_path / "notebooks" / f"{book.chapters(PROJECT)[-1]}.py"
    last.write_text("# %% [markdown]\n# # Before\n")
    for name in ("pyproject.toml", "_config.yml", "_toc.yml", "README.md"):
        shutil.copy(PROJECT / name, tmp_path)
    book.new_chapter(tmp_path, "99_my_topic")
    last.unlink()
    return tmp_path


def test_a_new_chapter_runs_and_its_models_can_be_packed(small, monkeypatch):
    run_dir = Path("runs", "mine")
    book.run(small, run_dir, {"profile": "smoke", "dataset": "digits"})
    metrics = json.loads((small / run_dir / "99_my_topic" / "metrics.json").read_text())
    assert len(metrics["accuracy"]) == 10 and max(metrics["accuracy"]) > 0.5
    address = book.models(small, run_dir)
    path, _, digest = address.partition("#sha256=")
    assert path == str(small / "_build" / "models-mine.zip") and len(digest) == 64
    asked = (small / run_dir / "99_my_topic" / "models.txt").read_text().split()
    assert {name.partition("/")[0] for name in asked} == {"cvae", "judge"}

    picture, = load_tool("picture").figures(small / run_dir / "99_my_topic.ipynb")
    assert picture.startswith(b"\x89PNG")

    made = [Path(os.environ["SA_CACHE"], "models", name).read_bytes() for name in asked]
    empty = small / "another store"
    monkeypatch.setenv("SA_CACHE", str(empty))
    with pytest.raises(book.BookError, match="the models of runs/mine cannot be packed: no file at .*; SA_CACHE must"):
        book.models(small, run_dir)
    monkeypatch.setenv("SA_MODELS", address)
    (small / run_dir / "99_my_topic.ipynb").unlink()
    book.run(small, run_dir, {"profile": "smoke", "dataset": "digits"})
    assert [(empty / "models" / name).read_bytes() for name in asked] == made, "nothing was trained again"


def test_a_new_chapter_is_as_the_others_are(small, monkeypatch):
    assert book.sync(small, check=True) == []
    monkeypatch.setattr(test_colab, "PROJECT", small)
    for check in (test_colab.test_every_parameter_has_a_form_that_offers_what_is_allowed,
                  test_colab.test_the_opening_leads_to_this_chapter_and_says_what_it_takes,
                  test_colab.test_no_markdown_is_for_sphinx_alone):
        check("99_my_topic")
    source = (small / "notebooks" / "99_my_topic.py").read_text()
    assert source.count("# # My topic\n") == 1 and not re.search(r"\b(NAME|TITLE|COLAB|ADDRESS)\b", source)
    added = {}
    for name in ("_toc.yml", "README.md"):
        old, new = ((root / name).read_text().splitlines() for root in (PROJECT, small))
        at = next(n for n, line in enumerate(new) if line not in old)
        assert new[:at] + new[at + 1:] == old and f"notebooks/{book.chapters(PROJECT)[-1]}" in new[at - 1]
        added[name] = new[at]
    assert re.fullmatch(r" *- file: notebooks/99_my_topic", added["_toc.yml"])
    assert added["README.md"].startswith("| 99. My topic | what it shows | a few minutes | [![Open in Colab]")
    assert added["README.md"].endswith("/blob/main/notebooks/99_my_topic.ipynb) |")


@pytest.mark.parametrize("name, complaint", [
    ("9_topic", "use two digits and a topic, as in 09_topic"), ("../09_x", "use two digits"),
    ("10_Topic", "use two digits"), ("", "use two digits"), ("99_other", "there is 99_my_topic")])
def test_a_chapter_with_another_name_is_not_begun(small, name, complaint):
    before = sorted(small.rglob("*"))
    with pytest.raises(book.BookError, match=f"^NAME={re.escape(name)} is not allowed; {complaint}"):
        book.new_chapter(small, name)
    assert sorted(small.rglob("*")) == before


def test_the_readme_lists_every_chapter_with_what_its_opening_says_it_takes():
    readme = (PROJECT / "README.md").read_text()
    rows = re.findall(r"(?m)^\| \d+\. .* \| ([\w ]+) \| .*/notebooks/(\w+)\.ipynb\) \|$", readme)
    assert [name for _, name in rows] == book.chapters(PROJECT)
    for takes, name in rows:
        opening = test_colab.read(name).cells[0].source
        assert re.search(rf"\*\*It takes\*\* (about )?{takes} on two CPU cores", opening), f"{name}: {takes}"


def test_the_readme_shows_a_picture_and_leads_to_files_that_are_there():
    readme = (PROJECT / "README.md").read_text()
    (alt, picture), = re.findall(r"(?m)^!\[([^]]+)\]\(([^)]+)\)", readme)
    assert len(alt) > 50 and (PROJECT / picture).stat().st_size < 150_000
    for text in (readme, (PROJECT / "CONTRIBUTING.md").read_text()):
        for link in re.findall(r"\]\((?!https://)([^)]+)\)", text):
            assert (PROJECT / link).is_file(), link


def test_citation_and_licences_say_the_same():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys() and citation["cff-version"] == "1.2.0"
    assert citation["repository-code"] == book.repository(PROJECT)
    assert citation["version"] == sa_lib.__version__ and citation["license"] == "MIT"
    assert "2305.10120" in citation["references"][0]["url"]
    assert (PROJECT / "LICENSE").read_text().startswith("MIT License\n")
    for name in ("LICENSE", "LICENSE-text", "README.md", "CONTRIBUTING.md"):
        text = (PROJECT / name).read_text()
        assert "CC BY 4.0" in text and re.search(r"\bMIT\b", text), name


# Workflows ----------------------------------------------------------------------------------

TARGETS = set(re.findall(r"(?m)^([a-z-]+):", (PROJECT / "Makefile").read_text()))
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_a_workflow_calls_make_with_as_few_rights_as_will_do(path):
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"} and "secrets" not in text
    asked = {}
    for job in workflow["jobs"].values():
        asked |= job.get("permissions", {})
        for step in job["steps"]:
            if "run" in step:
                assert step["run"].split()[0] == "make" and set(step["run"].split()[1:]) <= TARGETS
            else:
                assert re.search(rf"{re.escape(step['uses'])}  # v\d+\.\d+\.\d+\n", text)
                assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
    assert asked == ({"pages": "write", "id-token": "write"} if path.stem == "book" else {})


def test_the_workflows_test_publish_run_as_colab_does_and_check_links():
    said = {path.stem: path.read_text() for path in WORKFLOWS}
    assert "make test" in said["tests"] and "pull_request" in said["tests"]
    assert "make book" in said["book"] and "path: _build/html" in said["book"]
    for weekly, target in (("colab", "make colab-test"), ("links", "make links")):
        assert target in said[weekly] and re.search(r'cron: "\d+ \d+ \* \* 1"', said[weekly])


def test_every_target_of_make_is_phony_and_says_what_it_is_for():
    makefile = (PROJECT / "Makefile").read_text()
    phony = set(" ".join(re.findall(r"(?m)^\.PHONY: (.*)$", makefile)).split())
    assert TARGETS == phony
    assert {target for target in TARGETS if not re.search(rf"(?m)^{target}:.*##", makefile)} == {"environment"}


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, PROJECT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_package_has_its_licence_in_the_table():
    rows = {name.lower(): (version, licence) for name, version, licence in load_tool("licences").table()}
    for package in ("torch", "numpy", "pytest"):
        assert rows[package][0] == importlib.metadata.version(package) and rows[package][1] != "not said"
    assert "BSD" in rows["numpy"][1] and rows["pytest"][1].startswith("MIT")
    assert all(len(licence) < 200 for _, licence in rows.values())


def test_a_dead_link_is_found_and_a_shy_site_is_not_dead(tmp_path, monkeypatch, capsys):
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
    said = capsys.readouterr()
    assert said.out == "6 addresses, 3 of no use\n"
    assert [line.partition(": ")[0] for line in said.err.splitlines()] == ["book/page.md"] * 3
    (tmp_path / "book" / "page.md").unlink()
    assert links.main() == 0
    site.shutdown()


def test_the_page_on_what_can_go_wrong_quotes_what_the_long_tests_count():
    text = (PROJECT / "book" / "reliability.md").read_text()
    quoted = {name for name in re.findall(r"{{tried: ([^}]+)}}", text) if not name.startswith("tolerance ")} - {"when"}
    counted = {name for path in (PROJECT / "tests").glob("*.py")
               for name in re.findall(r'tally\["([^"]+)"\] \+=', path.read_text())}
    assert quoted <= counted
    found = pages.tried(PROJECT / "results" / "torture.json")
    assert set(found) == counted | {"when"} and all(int(found[name].replace(",", "")) > 0 for name in counted)
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert (PROJECT / "tests" / name).is_file(), name
