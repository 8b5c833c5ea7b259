"""The built site and one browser for each test file that needs them."""

from collections.abc import Iterator
from pathlib import Path

import build_book
import pytest
from browser import launched, served
from playwright.sync_api import Browser, Page

SITE = build_book.INDEX.parent


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site, which must be that of the present sources."""
    if not build_book.is_current():
        pytest.fail("The built site is missing or older than its sources. Run: make book")
    return SITE


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with launched() as chromium:
            yield chromium
    except RuntimeError as error:
        pytest.fail(str(error))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page; a mistake in its script fails the test."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


@pytest.fixture(scope="module")
def home(site: Path) -> Iterator[str]:
    """The address of the served site."""
    with served(site) as address:
        yield address


@pytest.fixture(scope="module")
def python_page(browser: Browser, home: str) -> Page:
    """A page of the book in which Python has started."""
    page = browser.new_page()
    page.goto(f"{home}/chapters/concepts/heads.html")
    page.evaluate("() => bookPython.start(null, { figures: true })")
    return page
