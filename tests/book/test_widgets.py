"""Figures to touch: where they stand in a chapter's page, and when they are left out."""

import json

import nbformat
import pytest

from runs import PROJECT
from sa_lib.book import widgets
from sa_lib.book.notebooks import BookError

CHAPTER, HEADING = next(iter(widgets.SECTIONS.items()))


@pytest.fixture
def book(tmp_path):
    """A folder of pages with a figure for one chapter, and the playground of a run."""
    (tmp_path / "widgets").mkdir()
    (tmp_path / "widgets" / f"{CHAPTER}.md").write_text(
        "Class {{digit of the playground}}, {{size of the playground}} kB")
    folder = tmp_path / "_static" / "playground"
    folder.mkdir(parents=True)
    (folder / "playground.json").write_text(json.dumps({"digit": 3}))
    (folder / "playground.bin").write_bytes(bytes(1_999_900))
    return tmp_path


def sources(*texts, name=CHAPTER, book):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text) for text in texts])
    widgets.add_widget(name, page, book)
    return [cell.source for cell in page.cells]


def test_a_figure_ends_its_section(book):
    text = "Class 3, 2,000 kB"
    before = ["# Title", f"{HEADING}\n\nText.", "More."]
    assert sources(*before, "## Next", "## Last", book=book) == [*before, text, "## Next", "## Last"]
    assert sources(*before, book=book) == [*before, text]


def test_other_chapters_have_none(book):
    assert sources("# Title", HEADING, name="01_tiny", book=book) == ["# Title", HEADING]


@pytest.mark.parametrize("lost", ["playground.json", "playground.bin"])
def test_without_the_models_there_is_none(book, lost):
    (book / "_static" / "playground" / lost).unlink()
    assert sources("# Title", HEADING, book=book) == ["# Title", HEADING]


def test_a_chapter_without_the_section_is_refused(book):
    with pytest.raises(BookError, match=f"{CHAPTER} must have a cell that begins with '{HEADING}'"):
        sources("# Title", "## Another", book=book)


@pytest.mark.parametrize("chapter", widgets.SECTIONS)
def test_the_chapters_of_the_book_have_these_sections(chapter):
    source = (PROJECT / "notebooks" / f"{chapter}.py").read_text(encoding="utf-8")
    assert f"# %% [markdown]\n# {widgets.SECTIONS[chapter]}\n" in source
    assert (PROJECT / "book" / "widgets" / f"{chapter}.md").is_file()
