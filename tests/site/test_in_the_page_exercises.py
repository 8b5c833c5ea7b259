"""An exercise that asks for an attention in NumPy is marked in the page, in words."""

from collections.abc import Iterator

import pytest
from in_the_page_runs import CHAPTERS, stored_cells
from playwright.sync_api import Browser, Locator, Page, expect

CHAPTER = "chapters/concepts/heads"
LONG = 60_000  # milliseconds


@pytest.fixture(scope="module")
def reader(browser: Browser, home: str) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(f"{home}/{CHAPTER}.html")
    yield page
    page.close()


@pytest.fixture
def exercise(reader: Page) -> Locator:
    return reader.locator(".in-page-exercise")


def check(exercise: Locator, code: str) -> str:
    exercise.get_by_role("textbox").fill(code)
    exercise.get_by_role("button", name="Check your answer").click()
    expect(exercise.get_by_role("status")).to_contain_text("Ran in", timeout=LONG)
    return exercise.locator(".in-page-live").inner_text()


ATTEND = """def attend(query, key, value):
    batch, length, width = query.shape
    q, k, v = (
        x.reshape(batch, -1, 2, width // 2).swapaxes(1, 2) for x in (query, key, value)
    )
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(width{half})
    output = reference.softmax(scores) @ v
    return output.swapaxes(1, 2).reshape(batch, length, width)"""


def test_the_empty_cell_names_what_is_asked_for(exercise: Locator):
    expect(exercise).to_have_count(1)
    assert (
        exercise.get_by_role("textbox").input_value().startswith("def attend(query, key, value):")
    )
    expect(exercise.get_by_role("textbox")).to_have_accessible_name(
        "Your answer to this exercise. Shift and Enter check it, Tab indents, Escape leaves."
    )


def test_a_right_answer_is_called_right(exercise: Locator):
    said = check(exercise, ATTEND.format(half=" // 2"))
    assert "attend is scaled dot-product attention" in said


def test_a_named_mistake_is_named(exercise: Locator):
    said = check(exercise, ATTEND.format(half=""))
    assert "divided by the root of the width of all heads together" in said


def test_an_empty_answer_and_a_broken_one_get_an_answer(exercise: Locator):
    assert "NoneType" in check(exercise, "def attend(query, key, value):\n    ...")
    exercise.get_by_role("textbox").fill("def attend(query, key, value)\n    return")
    exercise.get_by_role("button", name="Check your answer").click()
    expect(exercise.locator(".in-page-live")).to_contain_text("SyntaxError: expected ':'")
    exercise.get_by_role("button", name="Reset your answer").click()
    assert exercise.get_by_role("textbox").input_value().endswith("...")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_solution_that_is_marked_in_numpy_has_its_cell(reader: Page, home: str, chapter: str):
    solutions = [
        stored
        for cell, stored in zip(CHAPTERS[chapter], stored_cells(chapter), strict=True)
        if not cell["why"]
        and "hide-cell" in stored.metadata.get("tags", [])
        and "diagnose(" in stored.source
    ]
    reader.goto(f"{home}/{chapter}.html")
    expect(reader.locator(".in-page-exercise")).to_have_count(len(solutions))
