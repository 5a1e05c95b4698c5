"""The book: notebooks from their sources, runs that can be stopped, the site of a run, and the command line."""

import base64
import html
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from importlib import import_module
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from runs import PROJECT
from sa_lib import evidence
from sa_lib.book import execution, notebooks, run, site
from sa_lib.book.__main__ import main
from sa_lib.book.notebooks import BookError

ADDRESS = notebooks.repository(PROJECT)
SLUG = ADDRESS.removeprefix("https://github.com/")
TINY = '''\
# %% [markdown]
# # A tiny chapter
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/SLUG/blob/main/notebooks/01_tiny.ipynb)

# %% tags=["remove-cell"]
try:
    import sa_lib
except ImportError:
    # %pip install -q "sa_lib @ git+https://github.com/SLUG"
    import sa_lib

# %% tags=["parameters"]
forget = 9  # @param {type: "raw"}
profile = "full"  # @param ["full", "smoke"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import sys
from sa_lib import chapter, experiment
run = experiment.validate(forget=forget, profile=profile, run_dir=run_dir)
print("progress", 100, file=sys.stderr)

# %%
from matplotlib import pyplot as plt
figure, axes = plt.subplots()
axes.plot([0, forget])
chapter.show_figure(figure, f"It rises to {forget}.", alt="A rising line.")

# %% tags=["remove-input"]
chapter.say("It is **{share:.2f}** of $x^2$.", share=forget / 8)

# %%
chapter.write_metrics(run.run_dir, "01_tiny", {"share": forget / 8})
'''.replace("SLUG", SLUG)
# A chapter that needs no time.
QUICK = '''\
# %% tags=["parameters"]
forget = 9
run_dir = ""

# %%
from pathlib import Path
folder = Path(run_dir, "01_tiny")
folder.mkdir(exist_ok=True)
(folder / "metrics.json").write_text(f'{{"share": {forget / 8}}}')
'''
RUN = Path("runs", "mine")


def tiny_project(folder):
    """Make a project of one chapter, with the real configuration."""
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "01_tiny.py").write_text(TINY)
    shutil.copytree(PROJECT / "book", folder / "book")
    (folder / "book" / "intro.md").write_text(
        "# Welcome\n\nThe share is {{01_tiny.share:.3f}}. {cite:p}`heng2023`\n")
    for name, title in (("reading", "How to read the results"), ("shows", "What this shows")):
        (folder / "book" / f"{name}.md").write_text(f"# {title}\n")  # without the numbers of other chapters
    for name in ("_config.yml", "pyproject.toml"):
        shutil.copy(PROJECT / name, folder)
    (folder / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n" + "".join(
        f"  - file: {page}\n" for page in ("notebooks/01_tiny", "book/reading", "book/how_run", "book/reliability",
                                          "book/references")))
    return folder


def few_results(folder):
    """Copy the committed results to `folder`, with the trials of one method, as the intervals of all take time."""
    shutil.copytree(evidence.RESULTS, folder)
    rows = pd.read_csv(folder / "trials.csv")
    rows[rows["model"].isin(["baseline", "never saw", "ewc_gray"])].to_csv(folder / "trials.csv", index=False)
    return folder


@pytest.fixture
def tiny(tmp_path):
    """A project of one chapter, with the real configuration."""
    return tiny_project(tmp_path)


# Notebooks ----------------------------------------------------------------------------------

def test_every_notebook_agrees_with_its_source():
    assert notebooks.sync(PROJECT, check=True) == [], "run make sync, then commit the .ipynb"


def test_a_check_lists_the_pairs_that_differ_and_writes_nothing(tiny):
    assert notebooks.sync(tiny, check=True) == ["01_tiny"]
    assert not (tiny / "notebooks" / "01_tiny.ipynb").exists()


def test_a_second_sync_changes_nothing(tiny):
    notebook = tiny / "notebooks" / "01_tiny.ipynb"
    assert notebooks.sync(tiny) == ["01_tiny"]
    before = notebook.read_bytes()
    assert notebooks.sync(tiny) == []
    assert notebook.read_bytes() == before


def test_an_edited_cell_gets_another_id_and_no_other_cell_does(tiny):
    source, notebook = (tiny / "notebooks" / f"01_tiny.{kind}" for kind in ("py", "ipynb"))
    notebooks.sync(tiny)
    old = nbformat.read(notebook, 4)
    source.write_text(TINY.replace("It rises", "It climbs"))
    assert notebooks.sync(tiny, check=True) == ["01_tiny"]
    notebooks.sync(tiny)
    new = nbformat.read(notebook, 4)
    assert [at for at, pair in enumerate(zip(old.cells, new.cells, strict=True)) if pair[0].id != pair[1].id] == [4]


def test_the_install_command_is_a_comment_in_the_source_alone(tiny):
    notebooks.sync(tiny)
    assert "    %pip install" in nbformat.read(tiny / "notebooks" / "01_tiny.ipynb", 4).cells[1].source


def test_equal_cells_get_different_ids():
    notebook = nbformat.reads(notebooks.notebook_text("# %%\n1\n\n# %%\n1\n\n# %%\n1\n", ADDRESS), 4)
    assert len({cell.id for cell in notebook.cells}) == 3
    nbformat.validate(notebook)


# Runs ---------------------------------------------------------------------------------------

def test_a_run_skips_finished_chapters_and_repeats_changed_ones(tiny, capsys):
    source, executed = tiny / "notebooks" / "01_tiny.py", tiny / RUN / "01_tiny.ipynb"
    source.write_text(QUICK)

    def result(**parameters):
        run.run(tiny, RUN, parameters)
        share = json.loads((tiny / RUN / "01_tiny" / "metrics.json").read_text())["share"]
        return re.search("01_tiny: (done|already done)", capsys.readouterr().out)[1], share

    assert result(forget=4) == ("done", 0.5)
    before = executed.read_bytes()
    assert result(forget=4) == ("already done", 0.5)
    assert executed.read_bytes() == before
    executed.write_bytes(before[:len(before) // 2])  # as a full disk may leave it
    assert result(forget=4) == ("done", 0.5)
    assert result(forget=2) == ("done", 0.25)
    assert json.loads((tiny / RUN / "run.json").read_text())["parameters"] == {"forget": 2}
    source.write_text(QUICK.replace("/ 8", "/ 16"))
    assert result(forget=2) == ("done", 0.125)
    assert not [path.name for path in (tiny / RUN).iterdir() if path.name.startswith(".")]


def test_a_stopped_run_and_a_killed_run_continue_when_started_again(tiny):
    quick = tiny / RUN / "01_tiny.ipynb"
    (tiny / "notebooks" / "01_tiny.py").write_text(QUICK)
    slow = QUICK.replace("01_tiny", "02_slow") + (
        "import os, time\nPath('started').write_text(str(os.getpid()))\n"
        "while not Path('go').exists():\n    time.sleep(0.1)\n")
    (tiny / "notebooks" / "02_slow.py").write_text(slow)
    command = [sys.executable, "-m", "sa_lib.book", "run", "--run", "mine", "-p", "forget", "4"]
    started, deadline = tiny / "started", time.monotonic() + 120
    for how, message in ((signal.SIGINT, "stopped; started again"), (signal.SIGKILL, "")):
        # A test suite in the background ignores SIGINT, and the process would inherit this.
        process = subprocess.Popen(command, cwd=tiny, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
        while not (started.exists() and started.read_text() and quick.exists()):
            assert process.poll() is None, "it ended before it could be stopped"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(how)
        assert process.wait(20) == (130 if message else -how)
        assert message in process.stderr.read()
        while Path("/proc", started.read_text()).exists():
            assert time.monotonic() < deadline, "its kernel is still running"
            time.sleep(0.1)
        started.unlink()
    assert (tiny / RUN / "02_slow" / "metrics.json").is_file()
    assert not (tiny / RUN / "02_slow.ipynb").exists()
    with pytest.raises(BookError, match="lacks 02_slow"):
        site.render(tiny, RUN)
    (tiny / "go").touch()
    output = subprocess.run(command, cwd=tiny, capture_output=True, text=True, check=True).stdout
    assert "01_tiny: already done" in output
    assert "02_slow: done" in output
    assert (tiny / RUN / "02_slow.ipynb").is_file()


@pytest.mark.parametrize("cell, reason", [
    ("1 + 1\n1 / 0", r"cell 4 \(1 \+ 1\) failed with ZeroDivisionError: division by zero"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the kernel died"),
])
def test_a_failing_chapter_is_named_and_cannot_be_rendered(tiny, cell, reason):
    (tiny / "notebooks" / "01_tiny.py").write_text(
        f'# %% [markdown]\n# # T\n\n# %% tags=["parameters"]\nforget = 9\n\n# %%\n0\n\n# %%\n{cell}\n')
    with pytest.raises(BookError, match=f"^01_tiny: {reason}"):
        run.run(tiny, RUN, {"forget": 3})
    assert sorted(path.name for path in (tiny / RUN).iterdir()) == ["01_tiny.failed.ipynb", "run.json", "times.json"]
    with pytest.raises(BookError, match=f"{RUN} lacks 01_tiny"):
        site.render(tiny, RUN)


def test_an_unknown_parameter_of_a_run_is_refused(tiny):
    with pytest.raises(BookError, match="no chapter has a parameter forgte; there are forget, profile"):
        run.run(tiny, RUN, {"forgte": 3})


def test_an_unknown_chapter_is_refused(tiny):
    with pytest.raises(BookError, match="there is no chapter 09_none; there are 01_tiny"):
        run.run(tiny, RUN, {}, only=["09_none"])


def test_a_run_that_does_not_exist_is_not_rendered(tiny):
    with pytest.raises(BookError, match="there is no run in"):
        site.render(tiny, RUN)


def test_an_unknown_parameter_of_papermill_stops_the_chapter_and_the_nearest_known_one_is_named(tiny):
    notebooks.sync(tiny)
    with pytest.raises(PapermillExecutionError) as error:
        papermill.execute_notebook(tiny / "notebooks" / "01_tiny.ipynb", tiny / "out.ipynb",
                                   {"forget_sequence": "[3,5]"}, kernel_name="python3", cwd=tiny, progress_bar=False)
    assert error.value.ename == "ValueError"
    assert error.value.evalue == ("parameters must be among forget, profile, run_dir, got forget_sequence; "
                                  "did you mean forget?")


# Stamps: a chapter is run again if its stamp has changed ----------------------------------------

def chapter_that_runs(folder, *lines):
    """The path of a notebook of these lines, a cell each."""
    path = folder / f"{len([*folder.iterdir()])}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(line) for line in lines]), path)
    return path


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A copy of the committed results, which stamps count from then on."""
    shutil.copytree(evidence.RESULTS, tmp_path / "results")
    monkeypatch.setattr(execution, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize("line, counts", [
    ("from sa_lib import chapter, evidence", True), ("from sa_lib import evidence as table", True),
    ("from sa_lib.evidence import read", True), ("import sa_lib.evidence", True),
    ("if True:\n    from sa_lib import (data,\n                        evidence)", True),
    ("from sa_lib import chapter, data", False), ("evidence = 'from sa_lib import evidence'", False),
    ("# from sa_lib import evidence", False)])
def test_the_committed_results_count_for_a_chapter_that_imports_evidence(tmp_path, results, line, counts):
    path = chapter_that_runs(tmp_path, "import torch", line)
    before = execution.stamp(path, {})
    with open(results / "evidence.csv", "a") as table:
        table.write("\n")
    assert (execution.stamp(path, {}) != before) is counts


@pytest.mark.parametrize("module, file", [("trials", "protocol.json"), ("validation", "validation.csv"),
                                          ("validation", "probes.csv")])
def test_the_other_tables_count_for_the_chapters_that_read_them(tmp_path, results, module, file):
    path = chapter_that_runs(tmp_path, f"from sa_lib import chapter, {module}")
    before = execution.stamp(path, {})
    with open(results / file, "a") as table:
        table.write("\n")
    assert execution.stamp(path, {}) != before


@pytest.mark.parametrize("file", ["bench.json", "provenance.json", "validation.json"])
def test_other_results_count_for_no_chapter(tmp_path, results, file):
    path = chapter_that_runs(tmp_path, "from sa_lib import evidence, validation")
    before = execution.stamp(path, {})
    (results / file).write_text("{}")
    assert execution.stamp(path, {}) == before


@pytest.mark.parametrize("cell", ["%pip install x\n!ls", "%%bash\nif true; then ls; fi", "try:\n    import x\nexcept "
                                  "ImportError:\n    %pip install x", "files = !ls", "this is no Python"])
def test_cells_that_are_no_python_do_not_hinder_a_stamp(tmp_path, results, cell):
    path = chapter_that_runs(tmp_path, cell, "from sa_lib import evidence")
    before = execution.stamp(path, {})
    (results / "evidence.csv").write_text("cell\n")
    assert execution.stamp(path, {}) != before


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A copy of the library, whose digest stamps count from then on."""
    shutil.copytree(PROJECT / "sa_lib", tmp_path / "sa_lib", ignore=shutil.ignore_patterns("__pycache__", "results"))
    monkeypatch.setattr(execution, "LIBRARY", tmp_path / "sa_lib")
    return tmp_path / "sa_lib"


def edited(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_changed_docstring_or_comment_of_the_library_keeps_its_digest(library):
    before = execution.library_digest()
    edited(library / "methods.py", '"""Methods of unlearning', '"""All methods of unlearning')
    edited(library / "store" / "files.py", '"""The cache folder', '"""The folder')
    with open(library / "model.py", "a") as file:
        file.write("\n# A comment.\n")
    assert execution.library_digest() == before


@pytest.mark.parametrize("name, old, new", [("methods.py", "GRAY = 0.5", "GRAY = 0.25"),
                                            ("store/files.py", 'user_cache_dir("sa_lib")', 'user_cache_dir("sa")')])
def test_a_changed_constant_of_the_library_changes_its_digest(library, name, old, new):
    before = execution.library_digest()
    edited(library / name, old, new)
    assert execution.library_digest() != before


def test_the_machinery_of_the_book_does_not_count_in_the_digest_of_the_library(library):
    before = execution.library_digest()
    edited(library / "book" / "cluster.py", "CONNECT = 20", "CONNECT = 10")
    assert execution.library_digest() == before


# The site -----------------------------------------------------------------------------------

def test_a_run_becomes_a_site(tiny, monkeypatch):
    monkeypatch.setattr(site, "RESULTS", few_results(tiny / "results"))
    run.run(tiny, RUN, {"forget": 6, "profile": "smoke"})
    (tiny / RUN / "01_tiny" / "playground.bin").write_bytes(b"weights")
    index = site.render(tiny, RUN)
    assert index == tiny / "_build" / "html" / "index.html"
    assert index.is_file()
    assert (index.parent / "_static" / "playground" / "playground.bin").read_bytes() == b"weights"
    pages = {name: (index.parent / f"{name}.html").read_text()
             for name in ("book/intro", "notebooks/01_tiny", "book/how_run", "book/references")}
    for page in pages.values():
        assert page.count("Little data and few steps") == 1, "one banner on every page"
        assert str(tiny) not in page
    assert "The share is 0.750." in pages["book/intro"]
    how = html.unescape(re.sub("<[^>]*>", "", pages["book/how_run"]))
    assert "forget = 6, profile = 'smoke'" in how
    assert "from matplotlib import pyplot" in how
    assert [fact for fact in execution.machine().values() if str(fact) not in how] == []
    text = pages["notebooks/01_tiny"]
    assert text.count("It rises to 6.") == 1
    assert re.search(r"Fig\. 1\s*</span><span[^>]*>It rises to 6\.", text)
    assert 'alt="A rising line."' in text
    assert "It is <strong>0.75</strong> of" in text
    assert "math notranslate" in text
    for branch in ("main/notebooks", "executed"):
        assert f'colab.research.google.com/github/{SLUG}/blob/{branch}/01_tiny.ipynb"' in text
    assert [word for word in ("colab-badge", "progress 100", "@param", "@title", "papermill", "pip install")
            if word in text] == []
    code = re.sub("<[^>]*>", "", text)
    assert "forget = 6" in code, "the page shows the parameters of the run"
    assert "forget = 9" not in code

    executed = tiny / "_build" / "executed"
    assert [path.name for path in executed.iterdir()] == ["01_tiny.ipynb"]
    shared = (executed / "01_tiny.ipynb").read_text()
    nbformat.validate(nbformat.reads(shared, 4))
    assert "It is **0.75** of" in shared
    assert "image/png" in shared
    assert "progress 100" not in shared, "the progress bars are left out"
    assert str(tiny) not in shared

    # A page that cannot be rendered leaves the site as it was.
    before = (index.parent / "book" / "intro.html").read_bytes()
    intro = tiny / "book" / "intro.md"
    good = intro.read_text()
    for bad, complaint in ((f"{good}\n[](nowhere.md)\n", "could not render(.|\n)*nowhere"),
                           (f"{good}\n{{{{figure 01_tiny 2}}}}\n", "intro.md shows .*, but 01_tiny has 1 figures"),
                           (f"{good}\n{{{{01_tiny.nll}}}}\n", r"intro.md quotes {{01_tiny.nll}}.*'nll'")):
        intro.write_text(bad)
        with pytest.raises(BookError, match=complaint):
            site.render(tiny, RUN)
    assert (index.parent / "book" / "intro.html").read_bytes() == before
    assert (executed / "01_tiny.ipynb").read_text() == shared
    (tiny / RUN / "run.json").write_text('{"parameters": {"forget": 5, "profile": "smoke"}}')
    with pytest.raises(BookError, match="01_tiny in .* was made with another forget"):
        site.render(tiny, RUN)


SHORT_AND_DRAWN = '''
# %% [markdown]
# ![Two controls on a line.](../book/_static/drawings/rho.svg)
#
# *A line of
# numbers.*

# %% tags=["remove-input", "in-short"]
chapter.say("**In short**\\n\\n- The share is {share:.2f}.", share=forget / 8)

# %% tags=["remove-input", "takeaways"]
chapter.say("- A share of {share:.2f} is much.", share=forget / 8)
'''


def test_findings_come_first_and_a_drawing_is_a_figure_in_the_colors_of_its_page(tiny, monkeypatch):
    monkeypatch.setattr(site, "RESULTS", few_results(tiny / "results"))
    source = tiny / "notebooks" / "01_tiny.py"
    source.write_text(source.read_text() + SHORT_AND_DRAWN)
    run.run(tiny, RUN, {"forget": 6})
    written = (tiny / "notebooks" / "01_tiny.ipynb").read_text()
    assert f"](https://raw.githubusercontent.com/{SLUG}/main/book/_static/drawings/rho.svg?sanitize=true)" in written
    assert "# @title In short" in written
    assert "# @title Takeaways" in written
    text = (site.render(tiny, RUN).parent / "notebooks" / "01_tiny.html").read_text()
    assert text.count("The share is 0.75.") == 1
    assert text.index("The share is 0.75.") < text.index("It rises to 6.") < text.index("A share of 0.75 is much.")
    assert re.search(r"Fig\. 2\s*</span><span[^>]*>A line of numbers\.", text)
    assert '<svg class="drawing" role="img" aria-label="Two controls on a line."' in text
    assert "<title>" not in text.partition('<svg class="drawing"')[2].partition("</svg>")[0]
    assert re.search(r'<img loading="lazy" width="\d+" height="\d+" [^>]*alt="A rising line."', text)
    shared = nbformat.read(tiny / "_build" / "executed" / "01_tiny.ipynb", 4)
    assert shared.cells[1].source == "**In short**\n\n- The share is 0.75."
    notebooks.adopt(tiny, "01_tiny")
    assert "](../book/_static/drawings/rho.svg)" in source.read_text()


# The command line ---------------------------------------------------------------------------

VERBS = {"adopt", "check", "controls", "evidence", "models", "new-chapter", "picture", "render", "repo", "run",
         "slides", "strip", "sweep", "sync"}


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_help_lists_every_verb(capsys):
    assert set(re.findall(r"^    ([\w-]+)(?: |$)", help_of(capsys), re.MULTILINE)) == VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_a_help(capsys, verb):
    assert help_of(capsys, verb).startswith(f"usage: sa-book {verb} ")


def test_the_command_line_is_installed_as_sa_book():
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.keys() == {"sa-book", "sa-audit"}
    module, _, function = scripts["sa-book"].partition(":")
    assert getattr(import_module(module), function) is main


@pytest.mark.parametrize("path", ["Makefile", "README.md", ".github/CONTRIBUTING.md", "book/api.md"])
def test_texts_name_only_verbs_that_exist(path):
    named = set(re.findall(r"(?:-m sa_lib\.book|bin/sa-book) ([a-z-]+)", (PROJECT / path).read_text()))
    assert named <= VERBS
    assert named or path != "Makefile"


def test_an_error_is_one_sentence_and_status_2(tiny, monkeypatch, capsys):
    monkeypatch.chdir(tiny)
    assert main(["render", "--run", "../elsewhere"]) == 2
    assert capsys.readouterr().err == "error: RUN must be of letters, digits, '.', '-' and '_', got '../elsewhere'\n"


def test_a_check_that_fails_is_status_1(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    assert main(["sync", "--check"]) == 1
    assert main(["sync"]) == 0
    assert main(["sync", "--check"]) == 0


@pytest.fixture
def illustrated(tmp_path):
    """An executed chapter with two figures, and their pictures."""
    pictures = [b"\x89PNG one", b"\x89PNG two"]
    outputs = [nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(picture).decode()},
                                      metadata={"sa_lib": {"role": "figure"}}) for picture in pictures]
    caption = nbformat.v4.new_output("display_data", {"text/markdown": "*It rises.*"},
                                     metadata={"sa_lib": {"role": "caption"}})
    cells = [nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell("a", outputs=[outputs[0], caption]),
             nbformat.v4.new_code_cell("b", outputs=[outputs[1]])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "executed.ipynb")
    return tmp_path / "executed.ipynb", pictures


def test_a_picture_is_saved_as_a_png_file(illustrated, tmp_path):
    path, pictures = illustrated
    for number, picture in enumerate(pictures, 1):
        assert main(["picture", str(path), str(number), str(tmp_path / "picture.png")]) == 0
        assert (tmp_path / "picture.png").read_bytes() == picture


@pytest.mark.parametrize("number", ["0", "3", "-1"])
def test_a_picture_with_a_number_out_of_range_is_refused(illustrated, tmp_path, capsys, number):
    path, _ = illustrated
    assert main(["picture", "--", str(path), number, str(tmp_path / "picture.png")]) == 2
    assert capsys.readouterr().err == f"error: number must be 1 to 2, the figures of {path}, got {number}\n"
    assert not (tmp_path / "picture.png").exists()


@pytest.mark.parametrize("name", ["nowhere.ipynb", "01_tiny.ipynb", "01_tiny.py"])
def test_a_picture_of_a_notebook_without_figures_is_refused(tiny, capsys, name):
    notebooks.sync(tiny)
    path = tiny / "notebooks" / name
    assert main(["picture", str(path), "1", str(tiny / "picture.png")]) == 2
    assert capsys.readouterr().err == f"error: notebook must be an executed chapter with figures, got {path}\n"


# The repository's address -----------------------------------------------------------------------

def addresses(root):
    """Owner and name in every place that must lead to this repository."""
    files = [*root.glob("*.md"), *root.glob(".github/*.md"), *root.glob("*.cff"), *(root / "notebooks").glob("*.*"),
             *(root / "book").rglob("*.md")]
    pattern = r"(?:colab\.research\.google\.com/github/|(?:git\+|code: )https://github\.com/)([\w-]+/[\w.-]+)"
    listed = [(path.name, slug) for path in files for slug in re.findall(pattern, path.read_text())]
    config = re.search(r"url: https://github\.com/(\S+)", (root / "_config.yml").read_text())
    return [*listed, ("_config.yml", config[1])]


def test_the_repository_has_one_address():
    listed = addresses(PROJECT)
    assert {name for name, _ in listed} >= {"README.md", "CITATION.cff",
                                            *(f"{name}.ipynb" for name in notebooks.chapters(PROJECT))}
    assert [(name, other) for name, other in listed if other != SLUG] == []


def test_the_address_is_changed_everywhere_at_once(tiny):
    for name in ("pyproject.toml", "README.md", "CITATION.cff"):
        shutil.copy(PROJECT / name, tiny)
    notebooks.set_repository(tiny, "https://github.com/some-one/forget.me.git")
    assert notebooks.repository(tiny) == "https://github.com/some-one/forget.me"
    assert {slug for _, slug in addresses(tiny)} == {"some-one/forget.me"}
    assert notebooks.sync(tiny, check=True) == []


def test_a_full_disk_leaves_the_readers_files_whole(tiny, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    shutil.copy(PROJECT / "pyproject.toml", tiny)
    monkeypatch.setattr(notebooks, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        notebooks.set_repository(tiny, "https://github.com/some-one/forget.me.git")
    assert (tiny / "pyproject.toml").read_bytes() == (PROJECT / "pyproject.toml").read_bytes()


@pytest.mark.parametrize("bad", ["https://example.org/a/b", "https://github.com/YOUR_ACCOUNT/x", ""])
def test_an_address_that_is_not_of_a_repository_is_refused(tiny, bad):
    with pytest.raises(BookError, match=re.escape(f"URL must be https://github.com/<owner>/<name>, got {bad}")):
        notebooks.set_repository(tiny, bad)
