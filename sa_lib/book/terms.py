"""Terms with their definitions on the pages: those of the glossary in running text, and measures in heads of tables.

The definitions are those of the pages themselves: the glossary and the tables of measures in ``reading.md``, and the
table of symbols in ``notation.md``. A term is a ``<dfn>`` with its definition as a title; ``terms.js`` shows it at the
focus and by touch as well.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..measures import MEASURES

__all__ = ["Terms", "read", "with_terms"]

# Pages that define the terms themselves, or list names of code.
UNMARKED = {"reading", "notation", "api", "references", "changelog", "how_run"}
# Text in these elements is no place for a term.
CLOSED = {"a", "button", "code", "dfn", "h1", "h2", "h3", "h4", "nav", "pre", "script", "style", "summary", "svg"}
SIGNS = {r"\mid": "|", r"\lvert": "|", r"\rvert": "|", r"\theta": "θ", r"\rho": "ρ", r"\mathcal{N}": "N",
         "_k": "ₖ", "_n": "ₙ"}


@dataclass(frozen=True)
class Terms:
    """Definitions as plain text.

    Attributes:
        words: of the forms of a term in running text.
        heads: of the titles of measures, as tables have them.
        symbols: of symbols, by their TeX.
    """

    words: Mapping[str, str]
    heads: Mapping[str, str]
    symbols: Mapping[str, str]


def read(folder: Path) -> Terms:
    """The terms that the pages in a folder define; none of a page that is not there."""
    reading, notation = ((folder / name).read_text(encoding="utf-8") if (folder / name).is_file() else ""
                         for name in ("reading.md", "notation.md"))
    words = {form.strip(): _plain(text) for forms, text in re.findall(r"(?m)^(\S.*)\n: (.+(?:\n  .+)*)", reading)
             for form in forms.split(",")}
    heads = {}
    for table in re.findall(r"(?m)^\| Measure \| Definition .*\n\|[-|]+\n((?:\|.*\n)+)", reading):
        for name, text in re.findall(r"(?m)^\| ([^|]+) \| ((?:[^|]|\\\|)+?) \|", table):
            name = name.replace(" ", "_") if name.replace(" ", "_") in MEASURES else name
            heads[MEASURES[name].title if name in MEASURES else name] = _plain(text)
    symbols = {symbol: _plain(text) for line, text in re.findall(r"(?m)^\| (\$.+?) \| (.+) \|$", notation)
               for symbol in re.findall(r"\$([^$]+)\$", line)}
    return Terms(words, heads | words, symbols)


def _plain(markdown: str) -> str:
    """Markdown as one line of plain text, without references and formulas."""
    text = " ".join(markdown.split())
    text = re.sub(r";? see \[\][^;|]*|\s*{(?:cite:[pt]|eq)}`[^`]*`|\s*\[\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", text)

    def formula(match: re.Match) -> str:
        tex = match[1]
        for command, sign in SIGNS.items():
            tex = tex.replace(command, sign)
        return "" if "\\" in tex or "_" in tex else tex
    text = re.sub(r"\$([^$]+)\$", formula, text)
    return re.sub(r"\s+([,;.:])", r"\1", " ".join(re.sub(r"[*`]", "", text).split())).strip(" ;,")


def _dfn(shown: str, definition: str) -> str:
    return f'<dfn class="term" tabindex="0" title="{html.escape(definition)}">{shown}</dfn>'


def with_terms(page: str, terms: Terms) -> str:
    """An HTML page whose article has the terms marked: each once between two headings, and in heads of tables."""
    start, end = page.find("<article"), page.rfind("</article>")
    if start < 0 or not terms.words:
        return page
    forms = "|".join(re.escape(html.escape(form, quote=False)) for form in sorted(terms.words, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])(?:{forms})(?![\w-])")
    article = re.sub(r'<span class="math notranslate nohighlight">\\\((.+?)\\\)</span>',
                     lambda match: f"<math-symbol>{match[0]}</math-symbol>" if html.unescape(match[1]) in terms.symbols
                     else match[0], page[start:end])
    seen, open_tags, parts = set(), [], []

    def first(match: re.Match) -> str:
        definition = terms.words[html.unescape(match[0])]
        if definition in seen:
            return match[0]
        seen.add(definition)
        return _dfn(match[0], definition)

    for part in re.split(r"(<math-symbol>.*?</math-symbol>|<!--.*?-->|\\\(.*?\\\)|\\\[.*?\\\]|<[^>]+>)", article,
                         flags=re.DOTALL):
        closed = bool(CLOSED.intersection(open_tags))
        if part.startswith("<math-symbol>"):
            shown = part.removeprefix("<math-symbol>").removesuffix("</math-symbol>")
            tex = html.unescape(re.search(r"\\\((.+)\\\)", shown)[1])
            parts.append(shown if closed or tex in seen else _dfn(shown, terms.symbols[tex]))
            seen |= set() if closed else {tex}
        elif part.startswith(("\\(", "\\[")):  # a word in a formula is TeX
            parts.append(part)
        elif part.startswith("<"):
            _follow(part, open_tags, seen)
            parts.append(part)
        elif closed or not part.strip() or "th" in open_tags:
            title = html.unescape(part).strip().partition(", ")[0]
            definition = terms.heads.get(title) if "th" in open_tags and not closed else None
            parts.append(_dfn(part, definition) if definition else part)
        else:
            parts.append(pattern.sub(first, part))
    return page[:start] + "".join(parts) + page[end:]


def _follow(tag: str, open_tags: list[str], seen: set[str]) -> None:
    """Keep count of the open elements that matter; a heading begins a new part, in which each term is marked again."""
    name = re.match(r"</?([a-z0-9-]*)", tag)[1]
    if name == "h2" and not tag.startswith("</"):
        seen.clear()
    if name not in CLOSED | {"th"} or tag.endswith("/>"):
        return
    if not tag.startswith("</"):
        open_tags.append(name)
    elif name in open_tags:
        del open_tags[len(open_tags) - 1 - open_tags[::-1].index(name):]
