import html
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pytest

from sa_lib import book

PROJECT = Path(__file__).resolve().parent.parent
SLUG = book.repository(PROJECT).removeprefix("https://github.com/")
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
forget = 9  # @param {type: "integer"}
profile = "full"  # @param ["full", "smoke"]
run_dir = "runs/full"  # @param {type: "string"}

# %%
import sys
from sa_lib import chapter
run = chapter.validate(forget=forget, profile=profile, run_dir=run_dir)
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


@pytest.fixture
def tiny(tmp_path):
    """A project of one chapter, with the real configuration."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_tiny.py").write_text(TINY)
    shutil.copytree(PROJECT / "book", tmp_path / "book")
    (tmp_path / "book" / "intro.md").write_text(
        "# Welcome\n\nThe share is {{01_tiny.share:.3f}}. {cite:p}`heng2023`\n")
    (tmp_path / "book" / "reading.md").write_text("# How to read the results\n")
    for name in ("_config.yml", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n" + "".join(
        f"  - file: {page}\n" for page in ("notebooks/01_tiny", "book/reading", "book/how_run", "book/reliability",
                                          "book/references")))
    return tmp_path


RUN = Path("runs", "mine")


def test_every_notebook_is_what_its_source_says():
    assert book.sync(PROJECT, check=True) == [], "make sync, then commit the .ipynb"


def test_sync_is_stable_and_says_what_differs(tiny):
    notebook = tiny / "notebooks" / "01_tiny.ipynb"
    assert book.sync(tiny, check=True) == ["01_tiny"] and not notebook.exists()
    assert book.sync(tiny) == ["01_tiny"]
    before = notebook.read_bytes()
    assert book.sync(tiny) == [] and notebook.read_bytes() == before
    source = tiny / "notebooks" / "01_tiny.py"
    source.write_text(TINY.replace("It rises", "It climbs"))
    assert book.sync(tiny, check=True) == ["01_tiny"] and notebook.read_bytes() == before
    book.sync(tiny)
    old, new = nbformat.reads(before.decode(), 4), nbformat.read(notebook, 4)
    cells = enumerate(zip(old.cells, new.cells, strict=True))
    changed = [position for position, (before, after) in cells if before.id != after.id]
    assert changed == [4], "only the edited cell gets another id"
    assert "    %pip install" in new.cells[1].source, "the install command is a comment in the .py alone"


def test_equal_cells_get_different_ids():
    notebook = nbformat.reads(book.notebook_text("# %%\n1\n\n# %%\n1\n\n# %%\n1\n"), 4)
    assert len({cell.id for cell in notebook.cells}) == 3
    nbformat.validate(notebook)


def test_run_skips_what_is_done_and_redoes_what_changed(tiny, capsys):
    source, executed = tiny / "notebooks" / "01_tiny.py", tiny / RUN / "01_tiny.ipynb"
    source.write_text(QUICK)

    def run(**parameters):
        book.run(tiny, RUN, parameters)
        share = json.loads((tiny / RUN / "01_tiny" / "metrics.json").read_text())["share"]
        return capsys.readouterr().out.strip().removeprefix("01_tiny: "), share

    assert run(forget=4) == ("running", 0.5)
    before = executed.read_bytes()
    assert run(forget=4) == ("already done", 0.5)
    assert executed.read_bytes() == before
    executed.write_bytes(before[:len(before) // 2])  # as a full disk may leave it
    assert run(forget=4)[0] == "running"
    assert run(forget=2) == ("running", 0.25)
    assert json.loads((tiny / RUN / "run.json").read_text())["parameters"] == {"forget": 2}
    source.write_text(QUICK.replace("/ 8", "/ 16"))
    assert run(forget=2) == ("running", 0.125)
    assert not [path.name for path in (tiny / RUN).iterdir() if path.name.startswith(".")]


def test_a_stopped_and_a_killed_run_are_taken_up_where_they_were(tiny):
    notebooks = tiny / "notebooks"
    (notebooks / "01_tiny.py").write_text(QUICK)
    slow = QUICK.replace("01_tiny", "02_slow") + (
        "import os, time\nPath('started').write_text(str(os.getpid()))\n"
        "while not Path('go').exists():\n    time.sleep(0.1)\n")
    (notebooks / "02_slow.py").write_text(slow)
    command = [sys.executable, "-m", "sa_lib.book", "run", "--run", "mine", "-p", "forget", "4"]
    started, deadline = tiny / "started", time.monotonic() + 120
    for how, said in ((signal.SIGINT, "stopped; started again"), (signal.SIGKILL, "")):
        # Where the tests run in the background, SIGINT is ignored, and so it would be here.
        process = subprocess.Popen(command, cwd=tiny, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
        while not (started.exists() and started.read_text() and (tiny / RUN / "01_tiny.ipynb").exists()):
            assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be stopped"
            time.sleep(0.1)
        process.send_signal(how)
        assert process.wait(20) == (130 if said else -how) and said in process.stderr.read()
        while Path("/proc", started.read_text()).exists():
            assert time.monotonic() < deadline, "its kernel lives on"
            time.sleep(0.1)
        started.unlink()
    assert (tiny / RUN / "02_slow" / "metrics.json").is_file() and not (tiny / RUN / "02_slow.ipynb").exists()
    with pytest.raises(book.BookError, match="lacks 02_slow"):
        book.render(tiny, RUN)
    (tiny / "go").touch()
    said = subprocess.run(command, cwd=tiny, capture_output=True, text=True, check=True).stdout
    assert "01_tiny: already done" in said and "02_slow: running" in said
    assert (tiny / RUN / "02_slow.ipynb").is_file()


@pytest.mark.parametrize("cell, reason", [
    ("1 + 1\n1 / 0", r"cell 4 \(1 \+ 1\) failed with ZeroDivisionError: division by zero"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the kernel died"),
])
def test_a_failing_chapter_is_named_and_cannot_be_rendered(tiny, cell, reason):
    (tiny / "notebooks" / "01_tiny.py").write_text(
        f'# %% [markdown]\n# # T\n\n# %% tags=["parameters"]\nforget = 9\n\n# %%\n0\n\n# %%\n{cell}\n')
    with pytest.raises(book.BookError, match=f"^01_tiny: {reason}"):
        book.run(tiny, RUN, {"forget": 3})
    assert sorted(path.name for path in (tiny / RUN).iterdir()) == ["01_tiny.failed.ipynb", "run.json"]
    with pytest.raises(book.BookError, match=f"{RUN} lacks 01_tiny"):
        book.render(tiny, RUN)


def test_an_unknown_parameter_or_chapter_is_refused(tiny):
    with pytest.raises(book.BookError, match="no chapter has a parameter forgte; there are forget, profile"):
        book.run(tiny, RUN, {"forgte": 3})
    with pytest.raises(book.BookError, match="there is no chapter 09_none; there are 01_tiny"):
        book.run(tiny, RUN, {}, only=["09_none"])
    with pytest.raises(book.BookError, match="there is no run in"):
        book.render(tiny, RUN)


def test_a_run_becomes_a_site(tiny, capsys):
    book.run(tiny, RUN, {"forget": 6, "profile": "smoke"})
    (tiny / RUN / "01_tiny" / "playground.bin").write_bytes(b"weights")
    index = book.render(tiny, RUN)
    assert (index.parent / "_static" / "playground" / "playground.bin").read_bytes() == b"weights"
    assert index == tiny / "_build" / "html" / "index.html" and index.is_file()
    pages = {name: (index.parent / f"{name}.html").read_text()
             for name in ("book/intro", "notebooks/01_tiny", "book/how_run", "book/references")}
    for page in pages.values():
        assert page.count("Little data and few steps") == 1, "one banner on every page"
        assert str(tiny) not in page
    assert "The share is 0.750." in pages["book/intro"]
    how = html.unescape(re.sub("<[^>]*>", "", pages["book/how_run"]))
    assert "forget = 6, profile = 'smoke'" in how and "from matplotlib import pyplot" in how
    assert all(str(fact) in how for fact in book.machine().values())
    text = pages["notebooks/01_tiny"]
    assert text.count("It rises to 6.") == 1
    assert re.search(r"Fig\. 1\s*</span><span[^>]*>It rises to 6\.", text)
    assert 'alt="A rising line."' in text
    assert "It is <strong>0.75</strong> of" in text and "math notranslate" in text
    assert f'colab.research.google.com/github/{SLUG}/blob/main/notebooks/01_tiny.ipynb"' in text
    for absent in ("colab-badge", "progress 100", "@param", "papermill", "pip install"):
        assert absent not in text
    code = re.sub("<[^>]*>", "", text)
    assert "forget = 6" in code and "forget = 9" not in code, "the parameters shown are those of the run"

    # What cannot be rendered leaves the site as it was.
    before = (index.parent / "book" / "intro.html").read_bytes()
    intro = tiny / "book" / "intro.md"
    good = intro.read_text()
    for bad, complaint in ((f"{good}\n[](nowhere.md)\n", "could not render(.|\n)*nowhere"),
                           (f"{good}\n{{{{figure 01_tiny 2}}}}\n", "intro.md shows .*, but 01_tiny has 1 figures"),
                           (f"{good}\n{{{{01_tiny.nll}}}}\n", r"intro.md quotes {{01_tiny.nll}}.*'nll'")):
        intro.write_text(bad)
        with pytest.raises(book.BookError, match=complaint):
            book.render(tiny, RUN)
    assert (index.parent / "book" / "intro.html").read_bytes() == before
    (tiny / RUN / "run.json").write_text('{"parameters": {"forget": 5, "profile": "smoke"}}')
    with pytest.raises(book.BookError, match="01_tiny in .* was made with another forget"):
        book.render(tiny, RUN)


def test_the_command_line_ends_with_one_sentence(tiny, monkeypatch, capsys):
    monkeypatch.chdir(tiny)
    assert book.main(["render", "--run", "../elsewhere"]) == 1
    assert capsys.readouterr().err == ("error: RUN=../elsewhere is not allowed; "
                                       "use letters, digits, '.', '-' and '_'\n")
    assert book.main(["sync", "--check"]) == 1
    assert book.main(["sync"]) == 0
    assert book.main(["sync", "--check"]) == 0


def addresses(root):
    """Owner and name in every place that must lead to this repository."""
    files = [*root.glob("*.md"), *root.glob("*.cff"), *(root / "notebooks").glob("*.*"),
             *(root / "book").rglob("*.md")]
    pattern = r"(?:colab\.research\.google\.com/github/|(?:git\+|code: )https://github\.com/)([\w-]+/[\w.-]+)"
    found = [(path.name, slug) for path in files for slug in re.findall(pattern, path.read_text())]
    config = re.search(r"url: https://github\.com/(\S+)", (root / "_config.yml").read_text())
    return [*found, ("_config.yml", config[1])]


def test_the_repository_has_one_address():
    found = addresses(PROJECT)
    assert {name for name, _ in found} >= {"README.md", "CITATION.cff",
                                           *(f"{name}.ipynb" for name in book.chapters(PROJECT))}
    assert [(name, other) for name, other in found if other != SLUG] == []


def test_the_address_is_changed_everywhere_at_once(tiny):
    for name in ("pyproject.toml", "README.md", "CITATION.cff"):
        shutil.copy(PROJECT / name, tiny)
    book.set_repository(tiny, "https://github.com/some-one/forget.me.git")
    assert book.repository(tiny) == "https://github.com/some-one/forget.me"
    assert {slug for _, slug in addresses(tiny)} == {"some-one/forget.me"}
    assert book.sync(tiny, check=True) == []
    for bad in ("https://example.org/a/b", "https://github.com/YOUR_ACCOUNT/x", ""):
        with pytest.raises(book.BookError, match=re.escape(f"URL={bad} is not allowed")):
            book.set_repository(tiny, bad)


def test_a_chapter_that_reads_the_committed_results_is_done_again_when_they_change(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "RESULTS", tmp_path / "results")
    book.RESULTS.mkdir()
    reader, other = tmp_path / "reader.ipynb", tmp_path / "other.ipynb"
    reader.write_text("evidence.read(evidence.RESULTS)")
    other.write_text("evidence.read(table)")

    def stamps():
        return [book.stamp(path, {}) for path in (reader, other)]

    before = stamps()
    (book.RESULTS / "evidence.csv").write_text("cell\n")
    after = stamps()
    assert before[0] != after[0] and before[1] == after[1] and after == stamps()
