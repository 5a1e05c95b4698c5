"""The bibliography: every entry is cited, by its key on a page, or by its first author and year elsewhere."""

import re

import pytest

from runs import PROJECT

ENTRIES = {re.match(r"\w+\{(\w+)", entry)[1]: entry for entry in
           re.split(r"(?m)^@", (PROJECT / "book" / "references.bib").read_text(encoding="utf-8"))[1:]}
SOURCES = [*(PROJECT / "book").glob("*.md"), *(PROJECT / "notebooks").glob("*.py"), *(PROJECT / "sa_lib").rglob("*.py")]
TEXT = " ".join(re.sub(r"\n *#? *", " ", path.read_text(encoding="utf-8")) for path in SOURCES)


def is_cited(key, entry, text):
    author = re.search(r"author *= \{(.+?)(?: and |\},?\n)", entry + "\n")[1]
    name = re.sub(r"[{}\\\"'`]", "", author.split(",")[0])
    year = re.search(r"year *= \{(\d{4})", entry)[1]
    return bool(re.search(rf"{{cite:[pt]}}`[^`]*\b{key}\b", text) or re.search(rf"{name}[^();]{{0,30}}\(?{year}", text))


@pytest.mark.parametrize("text, cited", [
    ("after {cite:t}`shannon1948`", True), ("{cite:p}`other2000,shannon1948`", True), ("(Shannon 1948)", True),
    ("[Shannon et al. 1948](https://example.org)", True), ("Shannon (1948)", True), ("Shannon; in 1948", False),
    ("Weaver 1948", False)])
def test_a_citation_is_found(text, cited):
    assert is_cited("shannon1948", "x{shannon1948,\n author = {Shannon, Claude},\n year = {1948},\n}", text) is cited


def test_every_entry_of_the_bibliography_is_cited():
    assert [key for key, entry in ENTRIES.items() if not is_cited(key, entry, TEXT)] == []


ADDRESSES = {("https://doi.org/" if kind == "doi" else "") + value for entry in ENTRIES.values()
             for kind, value in re.findall(r"\b(url|doi) = \{(.+?)\}", entry)}
CITATION = re.compile(r"[A-Z][\wäöü]+(?: et al\.| & [A-Z]\w+)? (?:19|20)\d\d\b")


def test_every_entry_of_the_bibliography_has_an_address():
    assert [key for key, entry in ENTRIES.items() if not re.search(r"\b(url|doi) = \{", entry)] == []


def unlinked(markdown):
    """The citations of a cell that are no links to an entry of the bibliography."""
    text = re.sub(r"\s+", " ", markdown)
    links = dict(re.findall(r"\[([^\[\]]+)\]: (\S+)", text) + re.findall(r"\[([^\[\]]+)\]\((\S+?)\)", text))
    return [name for name in CITATION.findall(text) if links.get(name) not in ADDRESSES]


@pytest.mark.parametrize("markdown, names", [
    ("as in Heng & Soh 2023", ["Heng & Soh 2023"]), ("([Heng & Soh 2023](https://arxiv.org/abs/2305.10120))", []),
    ("see [Guo et\nal. 2017].\n\n[Guo et al. 2017]: https://arxiv.org/abs/1706.04599", []),
    ("see [Guo et al. 2017].", ["Guo et al. 2017"]),
    ("([Guo et al. 2017](https://example.org))", ["Guo et al. 2017"])])
def test_a_citation_without_a_link_is_noticed(markdown, names):
    assert unlinked(markdown) == names


@pytest.mark.parametrize("path", sorted((PROJECT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_every_citation_in_a_chapter_is_a_link(path):
    cells = re.split(r"(?m)^# %%", path.read_text(encoding="utf-8"))
    markdown = [re.sub(r"(?m)^# ?", "", cell) for cell in cells if cell.startswith(" [markdown]")]
    assert [name for cell in markdown for name in unlinked(cell)] == []
