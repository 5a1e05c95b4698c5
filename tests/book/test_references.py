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
