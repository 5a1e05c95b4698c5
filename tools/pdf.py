"""Print all pages of a rendered site into one PDF with headless Chromium.

    python tools/pdf.py _build/html
"""

import functools
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright

# This script runs in the first page. It appends the articles of all other pages and makes the links between them
# internal. Then it starts MathJax, once, on the whole document.
JOIN = """async (first) => {
  const clean = (address) => address.pathname.replace(/[^A-Za-z0-9]+/g, "-");
  const links = [...document.querySelectorAll("nav.bd-links a[href]")]
      .map((a) => new URL(a.getAttribute("href"), first));
  const wanted = [...new Map([new URL(first), ...links].filter((a) => a.origin === location.origin)
      .map((a) => [a.pathname, a])).values()];
  const names = new Set(wanted.map(clean));
  const whole = document.createElement("main");
  whole.className = "bd-content";
  for (const address of wanted) {
    const page = new DOMParser().parseFromString(await (await fetch(address)).text(), "text/html");
    const article = page.querySelector("article.bd-article");
    article.style.breakBefore = "page";
    for (const element of article.querySelectorAll("[id]")) element.id = `${clean(address)}-${element.id}`;
    for (const link of article.querySelectorAll("a[href]")) {
      const target = new URL(link.getAttribute("href"), address);
      if (target.origin !== location.origin) continue;
      if (names.has(clean(target))) link.href = "#" + clean(target) + (target.hash ? "-" + target.hash.slice(1) : "");
      else link.removeAttribute("href");
    }
    for (const image of article.querySelectorAll("img")) {
      image.src = new URL(image.getAttribute("src"), address);
      image.loading = "eager";
    }
    // The title of a folded cell goes; a question, or the name of a derivation, stays above its text.
    for (const element of article.querySelectorAll(".headerlink, button, script, details[class] > summary"))
      element.remove();
    article.querySelectorAll("details").forEach((element) => (element.open = true));
    article.id = clean(address);
    whole.append(article);
  }
  document.body.replaceChildren(whole);
  document.documentElement.dataset.theme = "light";
  await MathJax.startup.promise;
  await MathJax.typesetPromise([whole]);
  await Promise.all([...document.images].map((image) => image.decode()));
  return wanted.length;
}"""
STYLE = """
pre, table, [role="region"] { white-space: pre-wrap; overflow: visible !important; max-height: none !important; }
table { white-space: normal; font-size: 70%; } article { overflow: visible !important; } body { font-size: 80%; }
figure, img, tr { break-inside: avoid; } h1, h2, h3 { break-after: avoid; } html { overflow: visible; }"""


class Quiet(SimpleHTTPRequestHandler):
    """A request handler that logs nothing."""

    def log_message(self, *_):
        pass


def main():
    """Write the PDF beside the site; return the exit status."""
    site = Path(sys.argv[1]).resolve()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("error: chromium, chromium-browser or google-chrome must be installed, got none of them", file=sys.stderr)
        return 1
    if not (site / "index.html").is_file():
        print(f"error: the site must be a folder with index.html, got {sys.argv[1]}; make book makes one",
              file=sys.stderr)
        return 1
    target = site.parent / "book.pdf"
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server, \
            sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        page.set_default_timeout(300_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html", wait_until="networkidle")
        page.evaluate(JOIN, page.url)
        page.add_style_tag(content=STYLE)
        page.pdf(path=target, format="A4", margin=dict.fromkeys(("top", "right", "bottom", "left"), "18mm"),
                 outline=True, tagged=True)
        server.shutdown()
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
