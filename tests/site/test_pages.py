"""Every page of the built site, visited in Chromium: light and dark, at phone and desktop width."""

import re

import build_book
import pytest
from browser import Visit, visited
from links import pages
from playwright.sync_api import Browser

SITE = build_book.INDEX.parent
# index.html only sends the reader on; test_reading.py follows it. Without a built site the
# `site` fixture fails on the one page that is left here.
PAGES = [str(p.relative_to(SITE)) for p in pages(SITE) if p != build_book.INDEX] or ["search.html"]
SOURCE = "_modules/"  # pages with the source of a module


def alike(names: list[str]) -> set[str]:
    """Pages of source that have no kind of token that the others lack.

    They differ in their code only, so axe visits pages that have every kind between them.
    """
    seen: set[str] = set()
    found = set()
    for name in names:
        if name.startswith(SOURCE):
            kinds = set(re.findall(r'<span class="(\w+)">', (SITE / name).read_text("utf-8")))
            if kinds <= seen:
                found.add(name)
            seen |= kinds
    return found


ALIKE = alike(PAGES)


@pytest.fixture(scope="module", params=PAGES)
def visit(request: pytest.FixtureRequest, browser: Browser, home: str) -> Visit:
    with_axe = request.param not in ALIKE
    return visited(browser, f"{home}/{request.param}", home, with_axe=with_axe)


def test_nothing_is_asked_of_a_third_party(visit: Visit):
    assert visit.third_party == []
    assert visit.failed == []


def test_console_is_silent(visit: Visit):
    assert visit.complaints == []


def test_axe_finds_nothing(visit: Visit):
    assert visit.violations == []


def test_page_does_not_scroll_sideways(visit: Visit):
    assert visit.scrolls == []


def test_equations_are_set(visit: Visit):
    assert visit.unrendered == []


def test_figures_keep_their_colours_in_dark_mode(visit: Visit):
    assert visit.dimmed == []
