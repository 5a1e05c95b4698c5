"""The last touches to a rendered site: quick to open, and to be used without a mouse."""

import functools
import html
import re
import shutil
from collections import Counter
from pathlib import Path

from . import terms

__all__ = ["polish"]


def polish(site: Path, notebooks: Path, prose: Path) -> None:
    """Make a rendered site quick to open, and let its download button give the notebooks without outputs.

    Args:
        prose: the folder of the pages that define the terms; see `terms`.
    """
    known = terms.read(prose)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        # The theme loads its icons twice (the fonts are the smaller way), and code for live cells, which no page has.
        text = re.sub(r'\s*<script src="[^"]*fontawesome[^"]*"></script>', "", text)
        text = re.sub(r'\s*<script(?: async="async" src="[^"]*sphinx-thebe\.js[^"]*">|>const THEBE_JS_URL[^<]*)'
                      r"</script>", "", text)
        # Scrolling regions must be reachable from the keyboard, and a list must have items.
        text = re.sub(r'<div class="(?:pst-scrollable-table-container|math notranslate nohighlight)"',
                      r'\g<0> tabindex="0"', text)
        text = text.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        text = re.sub(r'<img [^>]*src="[^"]*_images/(\w+)\.svg"[^>]*>', functools.partial(_inline, site), text)
        text = re.sub(r'<img (?=[^>]*src="[^"]*_images/([^"]+\.png)")', functools.partial(_lazy, site), text)
        text = re.sub(r'<img (?=src="[^"]*_static/(?:minus|plus)\.png")', '<img width="11" height="11" ', text)
        for part, scope in (("thead", "col"), ("tbody", "row")):  # a screen reader names the cells of a table by these
            text = re.sub(rf"<{part}>.*?</{part}>", lambda rows, scope=scope: re.sub(
                r"<th(?=[ >])(?![^>]*scope=)", f'<th scope="{scope}"', rows[0]), text, flags=re.DOTALL)
        text = _named_folds(text)
        # A number and its % stay on one line.
        text = re.sub(r"<(pre|script).*?</\1>|(?<=\d) %(?=[\s,.;:)<])",
                      lambda found: found[0] if found[1] else "&nbsp;%", text, flags=re.DOTALL)
        if page.parent.name in ("book", "notebooks") and page.stem not in terms.UNMARKED:
            text = terms.with_terms(text, known)
        page.write_text(text, encoding="utf-8")
    for unused in (*site.glob("_static/vendor/fontawesome/*/js"), site / "_static" / "locales"):
        shutil.rmtree(unused, ignore_errors=True)
    # Every browser takes the woff2 beside a ttf.
    for unused in (*(site / "_static").rglob("*.map"), *site.glob("_static/vendor/fontawesome/*/webfonts/*.ttf")):
        unused.unlink()
    for path in (site / "_sources" / "notebooks").glob("*.ipynb"):
        shutil.copy(notebooks / path.name, path)


def _lazy(site: Path, image: re.Match) -> str:
    """The beginning of a picture that is loaded when it comes near, with its size, so that nothing moves then."""
    data = (site / "_images" / image[1]).read_bytes()[16:24]  # of the PNG's IHDR
    width, height = (int.from_bytes(data[at:at + 4], "big") for at in (0, 4))
    return f'<img loading="lazy" width="{width}" height="{height}" '


def _inline(site: Path, image: re.Match) -> str:
    """A drawing as part of its page, where the style sheet sets its colors for light and dark."""
    drawing = (site / "_images" / f"{image[1]}.svg").read_text(encoding="utf-8")
    alt = re.search(r'alt="([^"]*)"', image[0])
    label = f'<svg class="drawing" role="img" aria-label="{alt[1] if alt else image[1]}"'
    return re.sub("<title>.*?</title>", "", drawing).replace("<svg", label, 1)


FOLD = (r'<summary aria-label="Toggle hidden content">\s*<p class="collapsed admonition-title">Show code cell '
        r"(?P<what>content|source)</p>.*?</summary>")


def _named_folds(text: str) -> str:
    """A page whose folded parts have names that differ: with their sections, and counted within them."""
    heading, counts = "", Counter()

    def named(match: re.Match) -> str:
        nonlocal heading
        if match["heading"] is not None:
            heading = html.unescape(re.sub(r"<a .*?</a>|<[^>]+>", "", match["heading"], flags=re.DOTALL)).strip()
            return match[0]
        plain = match["plain"]
        if plain and text.count(match[0]) == 1:
            return match[0]
        kind = plain or {"content": "code and result", "source": "code"}[match["what"]]
        counts[kind, heading] += 1
        name = f"{kind}, {heading}" + (f", part {counts[kind, heading]}" if counts[kind, heading] > 1 else "")
        if plain:
            return f'<summary aria-label="{html.escape(html.unescape(name))}">{plain}</summary>'
        lines = [f'<p class="{state} admonition-title">{verb} {html.escape(name)}</p>'
                 for state, verb in (("collapsed", "Show"), ("expanded", "Hide"))]
        return "\n".join(["<summary>", *lines, "</summary>"])
    return re.sub(rf"<h[1-4]>(?P<heading>.*?)</h[1-4]>|{FOLD}|<summary>(?P<plain>[^<]+)</summary>", named, text,
                  flags=re.DOTALL)
