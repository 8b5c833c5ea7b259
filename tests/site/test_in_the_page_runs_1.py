"""Every runnable cell of every second chapter gives in the page what the book prints.

The other chapters stand in a file of their own, so that two workers share the work.
"""

import pytest
from in_the_page_runs import RUNNING, differences, python, run_chapter
from playwright.sync_api import Browser, Page

HALF = RUNNING[::2]


@pytest.fixture(scope="module")
def started(browser: Browser, home: str) -> Page:
    page = browser.new_page()
    python(page, f"{home}/{HALF[0]}.html")
    return page


@pytest.mark.slow
@pytest.mark.parametrize("chapter", HALF)
def test_every_runnable_cell_gives_what_the_book_prints(started: Page, chapter: str):
    found = {
        stored.source: list(differences(stored, result))
        for stored, result in run_chapter(started, chapter)
    }
    assert found
    assert {source: what for source, what in found.items() if what} == {}
