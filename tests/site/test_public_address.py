"""One setting, the public address, turns on buttons, set-up cell, canonical address and preview."""

from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from execute_notebooks import NOTEBOOK_METADATA, with_setup_cell
from small_book import built, write_book

ADDRESS = "https://github.com/someone/attention-book"
COLAB = "https://colab.research.google.com/github/someone/attention-book/blob/main/"
PAGES = "https://someone.github.io/attention-book/"
SENTENCE = "A sentence that says what attention does & why, in the first paragraph."
BINDER = "https://mybinder.org/v2/gh/someone/attention-book/main?urlpath=lab/tree/"


@pytest.mark.parametrize("address", ["", ADDRESS], ids=["without", "with"])
def test_address_turns_on_buttons_and_setup_cell(tmp_path: Path, address: str):
    cells = [
        nbformat.v4.new_markdown_cell(f"# A chapter\n\n{SENTENCE}"),
        nbformat.v4.new_code_cell("print(1)", execution_count=1),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=NOTEBOOK_METADATA)
    write_book(tmp_path, {"chapter.ipynb": with_setup_cell(notebook, address)}, address)
    page = built(tmp_path) / "chapter.html"
    soup = BeautifulSoup(page.read_text("utf-8"), "lxml")
    links = {link["href"] for link in soup.select("a[href]")}
    buttons = {COLAB + "chapter.ipynb", BINDER + "chapter.ipynb"}
    assert links & buttons == (buttons if address else set())
    assert any("mybinder" in link or "colab" in link for link in links) == bool(address)
    downloaded = nbformat.read(page.parent / "_sources" / "chapter.ipynb", as_version=4)
    clone = f'clone = ["git", "clone", "--quiet", "--depth", "1", "{ADDRESS}"'
    assert any(clone in cell.source for cell in downloaded.cells) == bool(address)
    assert "clone" not in soup.get_text()
    canonical = [link["href"] for link in soup.select('link[rel="canonical"]')]
    assert canonical == ([PAGES + "chapter.html"] if address else [])
    preview = {tag["property"]: tag["content"] for tag in soup.select('meta[property^="og:"]')}
    assert bool(preview) == bool(soup.select('meta[name="description"]')) == bool(address)
    if address:
        assert preview["og:title"].endswith("A chapter")
        assert preview["og:url"] == canonical[0]
        assert preview["og:description"] == SENTENCE
        picture = preview["og:image"].removeprefix(PAGES)
        assert (page.parent / picture).is_file()
