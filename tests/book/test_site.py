"""The rendered site in a real browser: complete without a network, readable, whole, and small.

    SITE=_build/html python -m pytest tests/book/test_site.py    # an existing site
    python -m pytest tests/book/test_site.py                     # a small site with the real pages and settings

Every page is opened twice: on a desktop with the light theme, and on a phone with the dark theme. Widths do not depend
on the theme, and colors do not depend on the width, so these two combinations stand for all four.
"""

import functools
import gzip
import json
import os
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from playwright.sync_api import expect
from test_book import TINY

from runs import PROJECT
from sa_lib.book import notebooks, run
from sa_lib.book import site as rendering
from sa_lib.book.widgets import SECTIONS
from sa_lib.plan import PLANS

SCREENS = {"desktop, light": {"viewport": {"width": 1300, "height": 800}, "color_scheme": "light"},
           "phone, dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True}}
WIDE = "A wide table."  # wider than every screen, to see that it scrolls
# Contrast takes long to measure, so only the first of repeated elements is checked.
REPEATED = ["dl.py ~ dl.py", "div.cell ~ div.cell pre", "tr ~ tr ~ tr", "section ~ section ~ section dl.py"]
BARRIERS = """(repeated) => axe.run({exclude: repeated.map((part) => [part])},
                                    {resultTypes: ["violations"], preload: false})
  .then(({violations}) => violations.filter(({impact}) => ["serious", "critical"].includes(impact)).flatMap(
    ({id, nodes}) => nodes.map(({html}) => `${id}: ${html.slice(0, 200)}`)))"""
MOST_BYTES = {"a page": 1_500_000, "the site": 25_000_000}
# Runs in a page: reports its contents and their layout.
LOOK = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const text = (element) => element.textContent.trim().slice(0, 60);
  const root = document.documentElement;
  return {
    title: document.title, theme: root.dataset.theme, wider: root.scrollWidth - innerWidth,
    ids: all("[id]").map((element) => element.id),
    links: all("a[href]").map((element) => element.getAttribute("href")),
    images: all("article img").map((element) => element.alt),
    broken: all("img").filter((i) => i.loading !== "lazy" && !i.naturalWidth).map((i) => i.src),
    math: all("article .math").length, typeset: all("article mjx-container").length,
    wrong: all("mjx-merror, [data-mjx-error]").map(text),
    wide: all("article [role=region], .pst-scrollable-table-container").filter(
        (e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.getAttribute("aria-label") || text(e)),
    inside: all("article [role=region] caption").map(text),
    unwrapped: all("article tbody th").filter((e) => getComputedStyle(e).whiteSpace !== "normal").map(text),
    unsized: all("article img").filter((i) => !(i.getAttribute("width") > 0 && i.getAttribute("height") > 0)).map(text),
    folds: all("article summary").map((e) => e.getAttribute("aria-label") || e.innerText.trim()),
    terms: all("article dfn.term").length,
    tall: all("article .cell_output .output, article .cell_output > div").filter(
        (e) => e.clientHeight > 800 && !e.querySelector("img")).map(text),
    cut: all("article div.math").filter((e) => e.querySelector("mjx-container") && e.scrollLeft === 0 &&
        e.querySelector("mjx-container").getBoundingClientRect().left < e.getBoundingClientRect().left - 1).map(text),
    untypeset: all("article p, article td, article li, article figcaption").filter(
        (e) => !e.querySelector("code, pre") && /\\\\\\(|\\\\\\[|\\$\\$/.test(e.textContent)).map(text)}
}"""

# Runs in a page: the controls that do not show that they have the focus.
UNRINGED = """() => [...document.querySelectorAll("a[href], button, summary, input, select, textarea, [tabindex='0']")]
  .filter((e) => e.checkVisibility({visibilityProperty: true})).slice(0, 200).filter((e) => {
    e.focus({preventScroll: true});
    const style = getComputedStyle(e);
    return document.activeElement === e && !(style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2);
  }).map((e) => e.outerHTML.slice(0, 120))"""


def smallest_site(root, playground):
    """A site with the real settings and pages, in which every chapter is the same small one, run once.

    Args:
        playground: the folder of the files that the page of this name fetches.
    """
    names = notebooks.chapters(PROJECT)
    (root / "notebooks").mkdir()
    for name in names:
        (root / "notebooks" / f"{name}.py").write_text(TINY.replace("01_tiny", name) + '''
# %%
import pandas
chapter.show_table(pandas.DataFrame([[0.5] * 20]), "A wide table.")

''' + "".join(f"# %% [markdown]\n# {heading}\n\n" for heading in SECTIONS.values()) + '''# %% [markdown]
# ## Solutions
#
# A residue shows in ρ. Judge A is no term here, and judge B is one.
#
# ### Solution 1

# %% tags=["hide-cell"]
chapter.say("One.")

# %% tags=["hide-cell"]
chapter.say("Two.")

''' + 3 * '''# %% [markdown]
# $$
# F_k = \\frac{1}{N} \\sum_{n=1}^{N} g_n^2
# $$

''')
    shutil.copytree(PROJECT / "book", root / "book")
    for name in ("_config.yml", "_toc.yml", "pyproject.toml"):
        shutil.copy(PROJECT / name, root)
    intro = root / "book" / "intro.md"
    intro.write_text(re.sub(r"{{figure (\w+) \d+}}", r"{{figure \1 1}}", intro.read_text()))
    run_dir = Path("runs", "small")
    done = next(name for name in names if name not in PLANS)  # a plan would make the models of the real chapter
    run.run(root, run_dir, {"profile": "smoke"}, [done])
    metrics = {name: {"model": "0" * 64} for name in names}
    for path in (root / "book").rglob("*.md"):
        for name, *keys, last in (key.split(".") for key in re.findall(r"{{([\w.]+)", path.read_text()) if "." in key):
            functools.reduce(lambda inner, key: inner.setdefault(key, {}), keys, metrics[name])[last] = 0.5
    for name in names:
        (root / run_dir / name).mkdir(exist_ok=True)
        (root / run_dir / name / "metrics.json").write_text(json.dumps(metrics[name]))
        if name != done:
            shutil.copy(root / run_dir / f"{done}.ipynb", root / run_dir / f"{name}.ipynb")
    shutil.copytree(playground, root / run_dir / playground.name, dirs_exist_ok=True)
    return rendering.render(root, run_dir).parent


@pytest.fixture(scope="session")
def site(chromium, request, tmp_path_factory):
    """The folder of the site."""
    if os.environ.get("SITE"):
        return Path(os.environ["SITE"])
    return smallest_site(tmp_path_factory.mktemp("site"), request.getfixturevalue("exported")["folder"])


@pytest.fixture(scope="session")
def home(site):
    """The address at which the site is served."""
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@functools.cache
def sent(path):
    """The bytes that a server sends for a file: every server compresses text."""
    text = path.suffix in (".html", ".js", ".css", ".json", ".svg")
    return len(gzip.compress(path.read_bytes())) if text else path.stat().st_size


def opened(chromium, site, home, screen, **options):
    """A context without any other site, and its requests: address -> bytes, or None where there is no file."""
    asked = {}

    def answer(route):
        url = route.request.url
        path = site / unquote(urlsplit(url).path).strip("/")
        asked[url] = sent(path) if url.startswith(home) and path.is_file() else None
        route.continue_() if url.startswith(home) else route.abort()

    context = chromium.new_context(**SCREENS[screen], **options)
    context.route("**/*", answer)
    return context, asked


@pytest.fixture(scope="session")
def pages(chromium, site, home):
    """(screen, page) -> the findings of `LOOK`, axe and the console, and the requests."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    findings = {}
    for screen in SCREENS:
        context, asked = opened(chromium, site, home, screen)
        for path in sorted(site.rglob("*.html")):
            if "_static" in path.parts:
                continue
            page, errors = context.new_page(), []
            page.on("console", lambda message, errors=errors: message.type == "error" and errors.append(message.text))
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            asked.clear()
            page.goto(home + path.relative_to(site).as_posix(), wait_until="load")
            page.wait_for_function("!window.MathJax?.startup || MathJax.startup.promise?.then(() => true)")
            page.wait_for_load_state("networkidle")
            name = urlsplit(page.url).path.lstrip("/")  # index.html leads to another page
            found = page.evaluate(LOOK) | {"errors": list(errors), "asked": dict(asked)}
            page.keyboard.press("Tab")  # from here on, a focus is one from the keyboard
            found["unringed"] = page.evaluate(UNRINGED)
            page.evaluate(axe.Axe().axe_script)
            found["axe"] = page.evaluate(BARRIERS, REPEATED)
            findings[screen, name] = found
            page.close()
        context.close()
    return findings


def listed(pages, kind):
    """page -> its findings of this kind, for pages that have any."""
    return {f"{name} ({screen})": found[kind] for (screen, name), found in pages.items() if found[kind]}


def test_a_page_asks_only_for_files_of_the_site_and_all_of_them_exist(pages):
    assert {name: missing for (_, name), found in pages.items()
            if (missing := [url for url, size in found["asked"].items() if size is None])} == {}
    assert listed(pages, "broken") == {}


def test_the_console_has_no_error(pages):
    assert listed(pages, "errors") == {}


def test_every_link_within_the_site_leads_somewhere(pages, site, home):
    ids = {name: {"", "top", *found["ids"]} for (_, name), found in pages.items()}
    dead = []
    for (_, name), found in pages.items():
        for link in found["links"]:
            target = urlsplit(urljoin(home + name, link))
            path = unquote(target.path).lstrip("/")
            if target.geturl().startswith(home) and not (
                    (site / path).is_file() and unquote(target.fragment) in ids.get(path, {""})):
                dead.append(f"{name}: {link}")
    assert sorted(set(dead)) == []


def test_math_is_typeset(pages):
    assert {name: (found["math"], found["typeset"]) for (_, name), found in pages.items()
            if found["typeset"] < found["math"]} == {}
    assert any(found["typeset"] for found in pages.values())
    assert listed(pages, "untypeset") == {}
    assert listed(pages, "wrong") == {}


def test_every_picture_has_a_text(pages):
    assert [name for (_, name), found in pages.items() if not all(alt.strip() for alt in found["images"])] == []
    assert any(found["images"] for found in pages.values())


@pytest.mark.parametrize("screen", SCREENS)
def test_the_theme_follows_the_reader_and_no_page_scrolls_sideways(pages, screen):
    mine = {name: found for (where, name), found in pages.items() if where == screen and found["theme"]}
    assert {found["theme"] for found in mine.values()} == {SCREENS[screen]["color_scheme"]}
    assert {name: found["wider"] for name, found in mine.items() if found["wider"] > 0} == {}


def test_a_formula_that_scrolls_begins_at_the_left_edge(pages):
    assert listed(pages, "cut") == {}


def test_no_output_is_taller_than_a_screen(pages):
    assert listed(pages, "tall") == {}


def test_no_table_is_wider_than_its_frame_on_a_desktop(pages):
    assert {name: wide for (screen, name), found in pages.items() if screen == "desktop, light"
            and (wide := [title for title in found["wide"] if title != WIDE])} == {}


@pytest.mark.parametrize("kind", ["inside", "unwrapped", "unsized", "unringed"])
def test_captions_heads_pictures_and_controls_are_in_order(pages, kind):
    """No caption scrolls, heads of rows wrap, pictures keep their place free, and the focus can be seen."""
    assert listed(pages, kind) == {}


def test_folded_parts_of_a_page_have_names_that_differ(pages):
    assert {name: folds for (_, name), found in pages.items()
            if len(set(folds := found["folds"])) < len(folds)} == {}
    assert any(found["folds"] for found in pages.values())


def test_axe_finds_no_serious_barrier(pages):
    assert listed(pages, "axe") == {}


def test_pages_and_site_are_small(pages, site):
    # The playground's models load after the page can be read; `sa_lib.playground` gives them a limit of their own.
    sizes = {name: sum(size for url, size in found["asked"].items() if size and not url.endswith(".bin"))
             for (_, name), found in pages.items()}
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES["a page"]} == {}
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < MOST_BYTES["the site"]


def test_pages_show_no_path_warning_or_progress_bar(site):
    private = re.compile(r"/(?:home|root|tmp|Users)/|Warning:|Traceback|\d+%\|")
    assert {path.name: private.search(text)[0] for path in site.rglob("*.html")
            if private.search(text := path.read_text(encoding="utf-8"))} == {}


def test_notebooks_to_download_show_no_path(site):
    for path in site.rglob("*.ipynb"):
        assert not re.search(r"(?<![\w.])/(?:home|root|tmp|Users)/", path.read_text(encoding="utf-8")), path


def test_each_chapter_leads_to_its_notebooks(pages, site):
    address = notebooks.repository(PROJECT).removeprefix("https://github.com/")
    for name in notebooks.chapters(PROJECT):
        links = pages["desktop, light", f"notebooks/{name}.html"]["links"]
        for folder in ("main/notebooks", "executed"):
            assert f"https://colab.research.google.com/github/{address}/blob/{folder}/{name}.ipynb" in links
        assert f"https://github.com/{address}/blob/main/notebooks/{name}.py" in links
        written, executed = (
            next(site / "notebooks" / link for link in links if part in link and f"{name}.ipynb" in link)
            for part in ("_sources/", "_downloads/"))
        outputs = [sum(len(cell.get("outputs", [])) for cell in json.loads(path.read_text())["cells"])
                   for path in (written, executed)]
        assert outputs[0] == 0, "the first is as it was written"
        assert outputs[1] > 0, "the second is as it was executed"


@pytest.mark.parametrize("screen", SCREENS)
def test_a_term_shows_its_definition(chromium, site, home, screen):
    context, _ = opened(chromium, site, home, screen)
    page = context.new_page()
    page.goto(f"{home}notebooks/{notebooks.chapters(PROJECT)[0]}.html")
    term, note = page.locator("article dfn.term:visible").last, page.locator("#definition")
    term.scroll_into_view_if_needed()
    ways = [(term.tap, "phone")] if "phone" in screen else [(term.hover, "pointer"), (term.focus, "keyboard")]
    for show, way in ways:
        show()
        note.wait_for(state="visible")
        assert len(note.inner_text()) > 10, way
        assert term.get_attribute("aria-describedby") == "definition"
        box = note.bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= SCREENS[screen]["viewport"]["width"], way
        page.keyboard.press("Escape")
        note.wait_for(state="hidden")
    assert page.evaluate("document.querySelectorAll('dfn[title]').length") == 0, "no second note by the browser"
    context.close()


def widget_page(chromium, site, home, screen, chapter, **options):
    """A chapter's page with its figure to touch; the test is skipped where the site's run has no playground."""
    if not (site / "_static" / "playground" / "playground.bin").is_file():
        pytest.skip("the run of this site has no playground")
    context, asked = opened(chromium, site, home, screen, **options)
    page, errors = context.new_page(), []
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{home}notebooks/{chapter}.html", wait_until="networkidle")
    return context, page, asked, errors


@pytest.mark.parametrize("chapter", SECTIONS)
@pytest.mark.parametrize("screen", SCREENS)
def test_a_figure_to_touch_loads_when_it_is_asked_to_and_moves_nothing(chromium, site, home, screen, chapter):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context, page, asked, errors = widget_page(chromium, site, home, screen, chapter)
    widget = page.locator(".widget")
    assert not [url for url in asked if "/playground/" in url or url.endswith(("models.js", "attack.js"))]
    size = sum((site / "_static" / "playground" / f"playground.{kind}").stat().st_size for kind in ("json", "bin"))
    load = page.get_by_role("button", name=f"Load the models ({size / 1000:,.0f} kB)")
    before = widget.bounding_box()["height"], page.evaluate("document.documentElement.scrollHeight")
    load.press("Enter")
    slider = widget.locator("input[type=range]")
    expect(slider).to_be_focused()
    said, values = widget.locator("[data-part=said]"), widget.locator("output")
    for key in ("ArrowRight", "End"):
        shown = values.inner_text()
        slider.press(key)
        expect(values).not_to_have_text(shown)
    end = f"After {slider.get_attribute('max')}" if chapter == "05_attacks" else "0% 9 + 100%"
    expect(said).to_contain_text(end, timeout=120_000)
    # A pixel for the rounding of fractions.
    after = widget.bounding_box()["height"], page.evaluate("document.documentElement.scrollHeight")
    assert after == pytest.approx(before, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen]["viewport"]["width"]
    assert page.evaluate("document.documentElement.dataset.theme") == SCREENS[screen]["color_scheme"]
    if screen == "phone, dark":
        slider.tap()
    artifacts = PROJECT / "_build" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    widget.screenshot(path=artifacts / f"widget-{chapter}-{screen.replace(', ', '-')}.png")
    report = axe.Axe().run(page, context={"include": [[".widget"]]}, options={"preload": False}).response
    assert report["violations"] == []
    assert [url for url, size in asked.items() if size is None] == []
    assert errors == []
    context.close()


@pytest.mark.parametrize("chapter", SECTIONS)
def test_without_javascript_a_figure_to_touch_is_a_sentence_with_a_link(chromium, site, home, chapter):
    context, page, *_ = widget_page(chromium, site, home, "desktop, light", chapter, java_script_enabled=False)
    widget = page.locator(".widget")
    assert "needs JavaScript" in widget.inner_text()
    assert widget.get_by_role("link", name="playground").get_attribute("href") == "../book/playground.html"
    assert widget.bounding_box()["height"] < 120
    assert widget.locator("input, button").locator("visible=true").count() == 0
    context.close()


@pytest.mark.parametrize("chapter", SECTIONS)
def test_opened_as_a_file_a_figure_to_touch_is_a_sentence_with_a_link(chromium, site, chapter):
    if not (site / "_static" / "playground" / "playground.bin").is_file():
        pytest.skip("the run of this site has no playground")
    page = chromium.new_page()
    page.goto((site / "notebooks" / f"{chapter}.html").absolute().as_uri())
    link = page.locator(".widget").get_by_role("link", name="playground")
    assert "and a server" in page.locator(".widget").inner_text()
    link.click()
    expect(page.locator("#sa-playground-status")).to_contain_text("python -m http.server")
    page.close()


def test_the_search_finds(chromium, site, home):
    context, _ = opened(chromium, site, home, "desktop, light")
    page = context.new_page()
    page.goto(home + "search.html")
    box = page.locator("article input[name=q], #searchbox input, input[name=q]").locator("visible=true").first
    box.fill("Fisher")
    box.press("Enter")
    hit = page.locator("#search-results li a", has_text="Notation").first
    hit.wait_for(timeout=20_000)
    assert hit.get_attribute("href").startswith("book/notation.html")
    context.close()
