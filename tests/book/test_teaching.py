"""The chapters without solutions, and the slides, of a tiny chapter."""

import re
import shutil

import jupytext
import nbformat
import pytest

from runs import PROJECT
from sa_lib.book import __main__, notebooks, teaching
from sa_lib.book.notebooks import BookError

SOURCE = '''# %% [markdown]
# # Tiny
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/x)
#
# ![A drawing.](../book/_static/drawings/rho.svg) and [the next](02_next.ipynb).
#
# <details><summary>The derivation</summary>
#
# Folded algebra.
#
# </details>
#
# ## Second
#
# Text, and $F_k = x^2$.

# %% tags=["parameters"]
seed = 0

# %%
shown = 1

# %% tags=["remove-input"]
hidden_code = 2

# %% tags=["remove-cell"]
gone = 3

# %% [markdown]
# Text after code.
#
# ## Check yourself
#
# Answer first, then unfold.
#
# <details><summary>Is it?</summary>
#
# Folded answer.
#
# </details>

# %% [markdown]
# ## Exercises
#
# The solutions follow; they run with the chapter. Try before you look.
# Easy takes about 10 minutes.
#
# 1. **First.** Do it,
#    twice. (easy)
# 2. **Second.** Do it again. (hard)

# %% [markdown]
# ### Solution 1

# %% tags=["hide-cell"]
secret = 1

# %% [markdown]
# A remark on secrets.

# %% [markdown]
# ### Solution 2

# %% tags=["hide-cell"]
secret = 2

# %% [markdown]
# ## Try next
#
# - More.
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one tiny chapter, with its drawing, as the folder that commands run in."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_tiny.py").write_text(SOURCE)
    drawings = tmp_path / "book" / "_static" / "drawings"
    drawings.mkdir(parents=True)
    shutil.copy(PROJECT / "book" / "_static" / "drawings" / "rho.svg", drawings)
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(project):
    """The tiny chapter as if it had been executed."""
    notebook = nbformat.reads(notebooks.notebook_text(SOURCE, notebooks.repository(project)), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": f"output of {cell.source}"})]
    return notebook


def sources(notebook, kind):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_a_stripped_chapter_has_exercises_and_room_but_no_solutions(project):
    assert __main__.main(["strip"]) == 0
    path = project / "_build" / "strip" / "01_tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    text = path.read_text()
    for word in ("secret", "Solution 1", "solutions follow", "Folded", "<details", "unfold", "Open in Colab"):
        assert word not in text
    tail = [(cell.cell_type, cell.source) for cell in notebook.cells[-7:]]
    assert tail == [
        ("markdown", "## Check yourself\n\n- Is it?"),
        ("markdown", "## Exercises\n\nEasy takes about 10 minutes."),
        ("markdown", "1. **First.** Do it,\n   twice. (easy)"), ("code", "# Your solution:\n"),
        ("markdown", "2. **Second.** Do it again. (hard)"), ("code", "# Your solution:\n"),
        ("markdown", "## Try next\n\n- More.")]
    assert "[the next](02_next.ipynb)" in notebook.cells[0].source
    assert "(https://raw.githubusercontent.com/" in notebook.cells[0].source


def test_a_chapter_is_stripped_to_the_same_bytes_each_time(project):
    first = (teaching.strip(project) / "01_tiny.ipynb").read_bytes()
    assert (teaching.strip(project) / "01_tiny.ipynb").read_bytes() == first


@pytest.mark.parametrize("name", notebooks.chapters(PROJECT))
def test_every_chapter_can_be_stripped_and_keeps_its_exercises(name):
    source = (PROJECT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
    notebook = jupytext.reads(source, fmt="py:percent")
    asked = len(re.findall(r"(?m)^# \d+\. \*\*.*", source.partition("# ## Exercises")[2]))
    left = teaching.stripped(notebook)
    assert sources(left, "code").count("# Your solution:\n") == asked
    assert not [text for text in sources(left, "markdown") if "<details" in text or text.startswith("### Solution")]


def test_slides_start_at_sections_and_go_on_below_after_code(run, project):
    deck = teaching.deck(run, notebooks.repository(project))
    kinds = [(cell.source.partition("\n")[0], cell.metadata.slideshow.slide_type) for cell in deck.cells]
    assert kinds == [("# Tiny", "slide"), ("## Second", "slide"), ("shown = 1", "-"), ("# @title Computation", "-"),
                     ("Text after code.", "subslide"), ("## Check yourself", "slide"), ("## Exercises", "slide"),
                     ("## Try next", "slide")]
    assert "[the next](02_next.html)" in deck.cells[0].source


def test_slides_hide_the_code_that_the_site_removes(run, project, monkeypatch):
    monkeypatch.setattr(teaching, "executed", lambda root, run_dir: {"01_tiny": run})
    assert __main__.main(["slides", "--run", "full"]) == 0
    page = (project / "_build" / "slides" / "01_tiny.html").read_text()
    assert "output of" in page
    assert 'class="n">shown' in page
    assert 'class="n">hidden_code' not in page
    assert "data:image/svg+xml;base64," in page
    assert page.count("<section>") >= page.count("</section>") - 1 >= 5


def test_slides_set_formulas_without_a_network(run, project, monkeypatch, chromium):
    monkeypatch.setattr(teaching, "executed", lambda root, run_dir: {"01_tiny": run})
    path = teaching.slides(project, project / "runs" / "full") / "01_tiny.html"
    assert "'slidechanged', update" not in path.read_text(), "what nbconvert does there needs an older MathJax"
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    formula = page.locator("mjx-container svg").first
    formula.wait_for()
    assert formula.bounding_box()["width"] > 20
    assert "$" not in page.locator("main").inner_text()
    context.close()


def test_slides_without_nbconvert_are_refused_in_one_sentence(project, monkeypatch):
    monkeypatch.setattr(teaching, "find_spec", lambda name: None)
    with pytest.raises(BookError, match="^slides need the package nbconvert; make environment installs it$"):
        teaching.slides(project, project / "runs" / "full")
