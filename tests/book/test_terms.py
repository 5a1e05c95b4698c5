"""Terms on the pages: each has its definition, off the pages that define it, and only where a reader wants it."""

import pytest

from runs import PROJECT
from sa_lib.book import polish, terms

TERMS = terms.read(PROJECT / "book")
PAGE = "<html><p>ρ outside</p><article>{}</article></html>"


def marked(inner):
    return terms.with_terms(PAGE.format(inner), TERMS).partition("<article>")[2].partition("</article>")[0]


@pytest.mark.parametrize("word", ["nat", "nats", "ρ", "judge B", "EWC", "Fisher", "simplex", "mended", "residue"])
def test_the_glossary_has_the_terms_of_the_book(word):
    assert len(TERMS.words[word]) > 20


@pytest.mark.parametrize("title", ["judge B's probability", "judge B's accuracy", "distance to gray", "negative ELBO",
                                   "FID", "recall", "coverage", "silhouette", "ρ"])
def test_heads_have_the_measures_of_the_tables(title):
    assert len(TERMS.heads[title]) > 20


@pytest.mark.parametrize("symbol", ["x", "z", r"\lambda", r"\gamma", r"\rho", "F_k", r"\theta^*", "E"])
def test_symbols_have_the_meanings_of_the_notation(symbol):
    assert len(TERMS.symbols[symbol]) > 10


def test_definitions_are_plain():
    for definitions in (TERMS.words, TERMS.heads, TERMS.symbols):
        assert {term: text for term, text in definitions.items() if set(text) & set("\\$`{}[]*\n")} == {}


def test_a_term_is_marked_once_between_two_headings():
    page = marked("<p>ρ and ρ.</p><h2>More</h2><p>The residues, one residue.</p><h3>And</h3><p>A residue, ρ.</p>")
    assert page.count("<dfn") == 3
    assert page.startswith('<p><dfn class="term" tabindex="0" title="')
    assert "residues, one <dfn" in page, "a part of a word is no term"


@pytest.mark.parametrize("inner", ["<a href='x'>ρ</a>", "<code>EWC</code>", "<h3>ρ</h3>", "<summary>ρ?</summary>",
                                   "<svg><text>ρ</text></svg>", "<p title='ρ'>none</p>", "<!-- ρ -->",
                                   "<th>no ρ</th>", r'<span class="math">\(-\mathrm{ELBO}(u, f)\)</span>',
                                   '<div class="math">\n\\[\n\\text{replay}\n\\]</div>'])
def test_a_term_is_left_alone(inner):
    assert marked(inner) == inner


def test_every_head_of_a_measure_is_marked_and_a_symbol_in_a_formula():
    assert marked("<th>recall</th><th>recall</th><th>negative ELBO, nats</th>").count("<dfn") == 3
    symbol = r'<span class="math notranslate nohighlight">\({}\)</span>'
    page = marked(symbol.format(r"\lambda") + symbol.format(r"\lambda") + symbol.format(r"\lambda = 1"))
    assert page.count("<dfn") == 1
    assert "math-symbol" not in page


def test_nothing_outside_the_article_is_marked():
    assert terms.with_terms(PAGE.format(""), TERMS) == PAGE.format("")
    assert terms.with_terms("<p>ρ</p>", TERMS) == "<p>ρ</p>"


FOLD = ('<summary aria-label="Toggle hidden content">\n<p class="collapsed admonition-title">Show code cell {0}</p>\n'
        '<p class="expanded admonition-title">Hide code cell {0}</p>\n</summary>')


def test_folded_parts_have_names_that_differ():
    text = polish._named_folds("".join([
        '<h2>Results &amp; more<a class="headerlink" href="#r">#</a></h2>', FOLD.format("source"),
        "<h3>Solution 1</h3>", FOLD.format("content"), FOLD.format("content"), "<summary>The derivation</summary>",
        "<h3>Solution 2</h3>", FOLD.format("content"), "<summary>The derivation</summary><summary>Why?</summary>"]))
    for name in ("Show code, Results &amp; more<", "Show code and result, Solution 1<",
                 "Hide code and result, Solution 1, part 2<", "Show code and result, Solution 2<",
                 '"The derivation, Solution 1"', '"The derivation, Solution 2"', "<summary>Why?</summary>"):
        assert text.count(name) == 1, name
    assert "Toggle" not in text
