"""Where Pyodide could not be had, the book has no controls, and a page that asks hears why."""

from pathlib import Path

import pytest
from browser import served
from execute_notebooks import NOTEBOOK_METADATA, ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from playwright.sync_api import Browser
from small_book import built, write_book


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book")
    cells = [new_markdown_cell("# A chapter"), new_code_cell("print(1)")]
    asking = "# A page\n\n```{raw} html\n<p>bookPython</p>\n```\n"
    write_book(
        folder,
        {"chapter.ipynb": new_notebook(cells=cells, metadata=NOTEBOOK_METADATA), "page.md": asking},
    )
    (folder / "_vendor").unlink()
    (folder / "_vendor").mkdir()
    for name in ("node_modules", "chinese"):
        (folder / "_vendor" / name).symlink_to(ROOT / "_vendor" / name)
    return built(folder)


def test_without_pyodide_a_chapter_has_no_controls(without: Path):
    page = (without / "chapter.html").read_text("utf-8")
    assert "in_the_page" not in page
    assert list((without / "_static").rglob("*.wasm")) == []


def test_without_pyodide_a_page_that_asks_for_python_hears_why(browser: Browser, without: Path):
    page = browser.new_page()
    with served(without) as home:
        page.goto(f"{home}/page.html")
        assert "built without Python" in page.evaluate("bookPython.available()")
        refused = page.evaluate("bookPython.start().catch(error => error.message)")
        assert "built without Python" in refused
    page.close()
