"""Every runnable cell of the other chapters gives in the page what the book prints.

test_in_the_page_runs_1.py has the first half: two workers share the work.
"""

import pytest
from in_the_page_runs import RUNNING, assert_runs_as_printed
from playwright.sync_api import Page

HALF = RUNNING[1::2]


@pytest.mark.slow
@pytest.mark.parametrize("chapter", HALF)
def test_every_runnable_cell_gives_what_the_book_prints(python_page: Page, chapter: str):
    assert_runs_as_printed(python_page, chapter)
