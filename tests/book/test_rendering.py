"""Rendering again: nothing if nothing has changed, and otherwise the site that a rendering from scratch makes."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from test_book import RUN, few_results, tiny_project

from sa_lib.book import run, site
from sa_lib.book.notebooks import BookError

PAGES = {"intro.md": "# Welcome\n\n(here)=\n## Here\n\nThe share is {{01_tiny.share:.3f}}. {cite:p}`heng2023`\n",
         "reading.md": "# How to read the results\n\n[](here), [](../notebooks/01_tiny)\n"}
# Does the same in another process as a test that uses the fixture `project`.
RENDER = f"""
from pathlib import Path
from sa_lib.book import site
site.LIBRARY, site.RESULTS = Path("LIBRARY").absolute(), Path("RESULTS").absolute()
site.render(Path.cwd(), Path({str(RUN)!r}))
"""


class Rendered(Exception):
    """Stands for a rendering."""


def copies(root):
    """The library and its results as copies in the project, which sites are made with from then on."""
    patch = pytest.MonkeyPatch()
    for name in ("LIBRARY", "RESULTS"):
        patch.setattr(site, name, root / name)
    return patch


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A project whose one chapter has been run, with its site and what Sphinx keeps."""
    root = tiny_project(tmp_path_factory.mktemp("rendering"))
    for name, text in PAGES.items():
        (root / "book" / name).write_text(text)
    run.run(root, RUN, {"forget": 6})
    shutil.copytree(site.LIBRARY, root / "LIBRARY", ignore=shutil.ignore_patterns("__pycache__"))
    few_results(root / "RESULTS")
    patch = copies(root)
    site.render(root, RUN)
    patch.undo()
    shutil.copytree(root, root.with_name("as it was"))
    return root


@pytest.fixture
def project(kept):
    """The project as it was. The library and its results are copies."""
    shutil.rmtree(kept)
    shutil.copytree(kept.with_name("as it was"), kept)  # with the times of its files
    patch = copies(kept)
    yield kept
    patch.undo()


@pytest.fixture
def unrendered(project, monkeypatch):
    """Raise `Rendered` instead of a rendering."""
    def rendered(*_):
        raise Rendered

    monkeypatch.setattr(site, "_prepare", rendered)


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def contents(root):
    """path -> bytes, of the site and the notebooks to share."""
    return {path.relative_to(root): path.read_bytes() for folder in ("html", "executed")
            for path in sorted((root / "_build" / folder).rglob("*")) if path.is_file()}


def from_scratch(root):
    """The contents of a site for which nothing is kept."""
    shutil.rmtree(root / "_build")
    site.render(root, RUN)
    return contents(root)


def parsed(root):
    """page -> time at which Sphinx has read it."""
    folder = root / "_build" / "sphinx" / "_build" / ".doctrees"
    return {path.stem: path.stat().st_mtime_ns for path in folder.rglob("*.doctree")}


@pytest.mark.parametrize("path", [
    "book/intro.md", "book/_static/book.css", "book/references.bib", "_config.yml", "_toc.yml", "pyproject.toml",
    "notebooks/01_tiny.ipynb", f"{RUN}/01_tiny.ipynb", f"{RUN}/01_tiny/metrics.json", f"{RUN}/run.json",
    "LIBRARY/model.py", "LIBRARY/book/site.py", "RESULTS/bench.json"])
def test_a_site_is_rendered_again_if_a_file_has_changed_and_not_if_only_its_time_has(project, unrendered, path):
    os.utime(project / path)
    assert site.render(project, RUN) == project / "_build" / "html" / "index.html"
    before = (project / path).read_bytes()
    (project / path).write_bytes(before + b"\n")
    with pytest.raises(Rendered):
        site.render(project, RUN)
    (project / path).write_bytes(before)
    site.render(project, RUN)


@pytest.mark.parametrize("lost", ["html/index.html", "executed", "html.sha256"])
def test_a_site_that_is_damaged_is_rendered_again(project, unrendered, lost):
    there = project / "_build" / lost
    away = there.rename(project / "lost")
    with pytest.raises(Rendered):
        site.render(project, RUN)
    away.rename(there)
    site.render(project, RUN)


def test_only_changed_pages_are_read_and_the_site_is_the_same_as_one_from_scratch(project):
    before, sites = parsed(project), [contents(project)]
    changed(project / "book" / "intro.md", "# Welcome", "# Good evening")
    changed(project / "book" / "intro.md", "## Here", "## There")
    changed(project / RUN / "01_tiny.ipynb", "A tiny chapter", "A small chapter")
    changed(project / RUN / "01_tiny.ipynb", "It rises", "It climbs")
    site.render(project, RUN)
    after = parsed(project)
    assert {name for name in after if after[name] != before[name]} == {"intro", "01_tiny"}
    sites.append(contents(project))
    reading = (project / "_build" / "html" / "book" / "reading.html").read_text()
    assert [word for word in ("Good evening", "There", "A small chapter") if word not in reading] == []
    assert sites[1] == from_scratch(project)
    assert sites[0] != sites[1]


def test_what_concerns_every_page_leaves_nothing_kept(project):
    before = parsed(project)
    changed(project / "LIBRARY" / "model.py", '"""', '"""Really: ')
    site.render(project, RUN)
    after = parsed(project)
    assert [name for name in before if before[name] == after[name]] == []


@pytest.mark.parametrize("page, old, new, warning", [
    ("reading.md", "# How", "```{nothing}\n```\n\n# How", "reading.md.*nothing"),
    ("intro.md", "(here)=\n", "", "reading.md.*'here'")], ids=["of a changed page", "of a page not read again"])
def test_a_warning_is_given_at_every_try(project, page, old, new, warning):
    before = contents(project)
    changed(project / "book" / page, old, new)
    for _ in range(2):
        with pytest.raises(BookError, match=warning):
            site.render(project, RUN)
    assert contents(project) == before
    (project / "book" / page).write_text(PAGES[page])
    site.render(project, RUN)
    assert contents(project) == before


def test_a_warning_is_given_after_a_rendering_that_was_killed(project):
    changed(project / "book" / "reading.md", "# How", "```{nothing}\n```\n\n# How")
    kept = project / "_build" / "sphinx" / "_build" / ".doctrees" / "environment.pickle"
    before = kept.stat().st_mtime_ns
    process = subprocess.Popen([sys.executable, "-c", RENDER], cwd=project, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    deadline = time.monotonic() + 120
    while kept.stat().st_mtime_ns == before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(BookError, match="reading.md.*nothing"):
        site.render(project, RUN)


@pytest.mark.parametrize("name", ["html", "executed"])
def test_a_site_that_was_stopped_while_it_was_replaced_is_rendered_again(project, monkeypatch, name):
    replace = site._replace

    def stopped(folder, new):
        if folder.name == name:
            raise KeyboardInterrupt
        replace(folder, new)

    before = contents(project)
    changed(project / "book" / "intro.md", "# Welcome", "# Good evening")
    monkeypatch.setattr(site, "_replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        site.render(project, RUN)
    monkeypatch.setattr(site, "_replace", replace)
    (project / "book" / "intro.md").write_text(PAGES["intro.md"])
    site.render(project, RUN)
    assert contents(project) == before


def test_a_site_that_is_up_to_date_imports_neither_seaborn_nor_dask():
    code = "import sys, sa_lib.book.__main__, sa_lib.book.site; print({'seaborn', 'distributed'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_chapter_that_is_done_can_be_read_before_the_others(project):
    before = contents(project)
    page = site.preview(project, RUN, ["01_tiny"])
    assert "A tiny chapter" in page.read_text()
    assert "It rises to 6." in (page.parent / "notebooks" / "01_tiny.html").read_text()
    assert (page.parent / "_static" / "mathjax" / "startup.js").is_file()
    assert contents(project) == before
    changed(project / "book" / "intro.md", "# Welcome", "# Good evening")
    site.render(project, RUN)
    assert not page.exists(), "the site replaces it"
