"""What a visitor to the repository meets: a new chapter, the models of a run, workflows, licence and citation."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

import test_colab
from sa_lib import book

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture
def small(tmp_path):
    """A project of one chapter that was begun a moment ago, with the real configuration."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_first.py").write_text("# %% [markdown]\n# # First\n")
    for name in ("pyproject.toml", "_config.yml", "_toc.yml"):
        shutil.copy(PROJECT / name, tmp_path)
    book.new_chapter(tmp_path, "09_my_topic")
    (tmp_path / "notebooks" / "01_first.py").unlink()
    return tmp_path


def test_a_new_chapter_runs_and_its_models_can_be_packed(small, monkeypatch):
    run_dir = Path("runs", "mine")
    book.run(small, run_dir, {"profile": "smoke", "dataset": "digits"})
    metrics = json.loads((small / run_dir / "09_my_topic" / "metrics.json").read_text())
    assert len(metrics["accuracy"]) == 10 and max(metrics["accuracy"]) > 0.5
    address = book.models(small, run_dir)
    path, _, digest = address.partition("#sha256=")
    assert path == str(small / "_build" / "models-mine.zip") and len(digest) == 64
    asked = (small / run_dir / "09_my_topic" / "models.txt").read_text().split()
    assert {name.partition("/")[0] for name in asked} == {"cvae", "judge"}

    made = [Path(os.environ["SA_CACHE"], "models", name).read_bytes() for name in asked]
    empty = small / "another store"
    monkeypatch.setenv("SA_CACHE", str(empty))
    with pytest.raises(book.BookError, match="the models of runs/mine cannot be packed: no file at .*; SA_CACHE must"):
        book.models(small, run_dir)
    monkeypatch.setenv("SA_MODELS", address)
    (small / run_dir / "09_my_topic.ipynb").unlink()
    book.run(small, run_dir, {"profile": "smoke", "dataset": "digits"})
    assert [(empty / "models" / name).read_bytes() for name in asked] == made, "nothing was trained again"


def test_a_new_chapter_is_as_the_others_are(small, monkeypatch):
    assert book.sync(small, check=True) == []
    monkeypatch.setattr(test_colab, "PROJECT", small)
    for check in (test_colab.test_every_parameter_has_a_form_that_offers_what_is_allowed,
                  test_colab.test_the_opening_leads_to_this_chapter_and_says_what_it_takes,
                  test_colab.test_no_markdown_is_for_sphinx_alone):
        check("09_my_topic")
    source = (small / "notebooks" / "09_my_topic.py").read_text()
    assert source.count("# # My topic\n") == 1 and not re.search(r"\b(NAME|TITLE|COLAB|ADDRESS)\b", source)
    old, new = (path.read_text().splitlines() for path in (PROJECT / "_toc.yml", small / "_toc.yml"))
    after = new.index(f"{old[max(n for n, line in enumerate(old) if 'notebooks/' in line)]}") + 1
    assert new[after].strip() == "- file: notebooks/09_my_topic" and new[:after] + new[after + 1:] == old
    assert new[after].index("-") == new[after - 1].index("-")


@pytest.mark.parametrize("name, complaint", [
    ("9_topic", "use two digits and a topic, as in 09_topic"), ("../09_x", "use two digits"),
    ("10_Topic", "use two digits"), ("", "use two digits"), ("09_other", "there is 09_my_topic")])
def test_a_chapter_with_another_name_is_not_begun(small, name, complaint):
    before = sorted(small.rglob("*"))
    with pytest.raises(book.BookError, match=f"^NAME={re.escape(name)} is not allowed[;:] {complaint}"):
        book.new_chapter(small, name)
    assert sorted(small.rglob("*")) == before
