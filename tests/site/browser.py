"""A real Chromium, and what it sees when it visits a page of the built site."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import build_book
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
MISSING = (
    "The tests of the built site need Chromium or Chrome, and none was found. Install it, for "
    "example with `apt-get install chromium` or `brew install --cask chromium`, or set CHROMIUM "
    "to the path of one."
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = {"desktop": 1200, "phone": 400}
SCHEMES = ("light", "dark")
AXE = build_book.VENDOR / "node_modules" / "axe-core" / "axe.min.js"
AXE_RUN = "([context, options]) => axe.run(context ?? document, options)"
AXE_OPTIONS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
    "preload": False,  # axe's own copy of the style sheets would look for its imports elsewhere
}
AXE_CONTRAST = {**AXE_OPTIONS, "runOnly": ["color-contrast"]}
# Two thirds of a page's elements are the signs of its equations, and axe's time follows their
# number. Equations in places of one kind have one colour, so the first of each kind keeps its
# signs; so does one with colours of its own. The others keep their size and what is read out.
EMPTY_EQUATIONS = """() => {
  const kept = new Set();
  const equations = [...document.querySelectorAll('.katex-html')]
    .filter(e => !e.querySelector('[style*="color"]'))
    .map(e => [e, e.getBoundingClientRect()]);
  for (const [e, box] of equations) {
    const {tagName, className} = e.closest('.math').parentElement;
    const kind = `${tagName} ${className}`;
    if (!kept.has(kind)) { kept.add(kind); continue; }
    const blank = document.createElement('span');
    blank.style.cssText =
      `display: inline-block; width: ${box.width}px; height: ${box.height}px`;
    e.replaceChildren(blank);
  }
}"""
UNRENDERED_MATHS = """() => [...document.querySelectorAll('.math')]
    .filter(e => !e.querySelector('.katex-html') || !e.querySelector('math annotation') ||
      getComputedStyle(e.querySelector('.katex')).fontFamily.indexOf('KaTeX_Main') < 0)
    .map(e => e.textContent.trim().slice(0, 60))"""
DIMMED_FIGURES = """() => [...document.querySelectorAll('div.cell_output img')].filter(e => {
    const style = getComputedStyle(e);
    return style.filter !== 'none' || style.backgroundColor !== 'rgb(255, 255, 255)';
  }).map(e => e.alt.slice(0, 60))"""
# Named with what sticks out of no box of its own, so that a failure says where to look.
PAGE_SCROLL = """() => {
  const page = document.documentElement;
  if (page.scrollWidth <= page.clientWidth + 1) return [];  // rounding
  const boxed = e => e && e !== page &&
    (getComputedStyle(e).overflowX !== 'visible' || boxed(e.parentElement));
  return [...document.querySelectorAll('main *')]
    .filter(e => e.getBoundingClientRect().right > page.clientWidth + 1)
    .filter(e => !boxed(e.parentElement))
    .map(e => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 40)}`).slice(0, 5)
    .concat(`${page.scrollWidth} > ${page.clientWidth}`);
}"""

PICTURES_IN_VIEW = """() => [...document.images].filter(e => {
    const box = e.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  }).map(e => e.currentSrc)"""


def chromium() -> str | None:
    """The path of a Chromium or Chrome: $CHROMIUM, or the first one that is installed."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), MAC]
    return next((path for path in candidates if path and Path(path).exists()), None)


@contextmanager
def launched() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        raise RuntimeError(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder is served on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@dataclass
class Visit:
    """What happened on one page, over both colour schemes and both widths."""

    third_party: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    scrolls: list[str] = field(default_factory=list)
    unrendered: list[str] = field(default_factory=list)
    dimmed: list[str] = field(default_factory=list)
    equations: int = 0


@contextmanager
def opened(browser: Browser, address: str, home: str, visit: Visit) -> Iterator[Page]:
    """The page at an address, loaded; what lies outside `home` is a third party."""
    context = browser.new_context(viewport={"width": WIDTHS["desktop"], "height": 900})
    page = context.new_page()

    def note_request(request) -> None:
        if not request.url.startswith((home, "data:", "blob:")):
            visit.third_party.append(request.url)

    page.on("request", note_request)
    page.on("requestfailed", lambda request: visit.failed.append(request.url))
    page.on("response", lambda r: visit.failed.append(r.url) if r.status >= 400 else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on(
        "console",
        lambda line: (
            visit.complaints.append(line.text) if line.type in ("error", "warning") else None
        ),
    )
    page.goto(address, wait_until="load")
    yield page
    context.close()


def violations(page: Page, where: str, options: dict = AXE_OPTIONS) -> list[str]:
    """axe-core's findings, one line for each element."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(AXE_RUN, [None, options])["violations"]
    return [f"{where}: {v['id']}: {node['html'][:120]}" for v in found for node in v["nodes"]]


def weight(browser: Browser, address: str) -> dict[str, int]:
    """The bytes, uncompressed, of all that a first visit loads; of pictures, those in view."""
    context = browser.new_context(viewport={"width": WIDTHS["desktop"], "height": 900})
    page = context.new_page()
    answers = []
    page.on("response", lambda answer: answers.append(answer))
    page.goto(address, wait_until="networkidle")
    seen = page.evaluate(PICTURES_IN_VIEW)
    loaded = [a for a in answers if a.request.resource_type != "image" or a.url in seen]
    sizes = {answer.url: len(answer.body()) for answer in loaded}
    context.close()
    return sizes


def visited(browser: Browser, address: str, home: str, *, with_axe: bool = True) -> Visit:
    visit = Visit()
    with opened(browser, address, home, visit) as page:
        visit.equations = page.locator(".katex").count()
        visit.unrendered = page.evaluate(UNRENDERED_MATHS)
        for width in WIDTHS.values():
            page.set_viewport_size({"width": width, "height": 900})
            visit.scrolls += page.evaluate(PAGE_SCROLL)
        if with_axe:
            page.evaluate(EMPTY_EQUATIONS)
            look_closely(page, visit)
    return visit


def look_closely(page: Page, visit: Visit) -> None:
    """What axe-core finds, and dimmed figures, at every width and in every colour scheme.

    Only colours follow the scheme: the first is checked by all rules, the others by contrast.
    """
    for name, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)  # the theme's scripts answer a resize after 0.3 s
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            options = AXE_OPTIONS if scheme == SCHEMES[0] else AXE_CONTRAST
            visit.violations += violations(page, f"{name}, {scheme}", options)
            if scheme == "dark":
                visit.dimmed += page.evaluate(DIMMED_FIGURES)
