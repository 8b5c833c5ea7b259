"""One setting, the public address, turns on the Colab and Binder buttons and the set-up cell."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from execute_notebooks import NOTEBOOK_METADATA, ROOT, with_setup_cell

ADDRESS = "https://github.com/someone/attention-book"
COLAB = "https://colab.research.google.com/github/someone/attention-book/blob/main/"
BINDER = "https://mybinder.org/v2/gh/someone/attention-book/main?urlpath=lab/tree/"


def small_book(folder: Path, address: str) -> Path:
    """Build a book of one notebook with this book's configuration; the built page."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] = address
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    (folder / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters: [{file: chapter}]\n")
    (folder / "references.bib").write_text("")
    (folder / "intro.md").write_text("# The book\n")
    (folder / "_vendor").mkdir()
    for name in ("_ext", "_static"):
        shutil.copytree(ROOT / name, folder / name)
    cells = [
        nbformat.v4.new_markdown_cell("# A chapter"),
        nbformat.v4.new_code_cell("print(1)", execution_count=1),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=NOTEBOOK_METADATA)
    nbformat.write(with_setup_cell(notebook, address), folder / "chapter.ipynb")
    build = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-n", "-W", "--quiet"]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "_build" / "html" / "chapter.html"


@pytest.mark.parametrize("address", ["", ADDRESS], ids=["without", "with"])
def test_address_turns_on_buttons_and_setup_cell(tmp_path: Path, address: str):
    page = small_book(tmp_path, address)
    soup = BeautifulSoup(page.read_text("utf-8"), "lxml")
    links = {link["href"] for link in soup.select("a[href]")}
    buttons = {COLAB + "chapter.ipynb", BINDER + "chapter.ipynb"}
    assert links & buttons == (buttons if address else set())
    assert any("mybinder" in link or "colab" in link for link in links) == bool(address)
    downloaded = (page.parent / "_sources" / "chapter.ipynb").read_text("utf-8")
    assert (f"git+{ADDRESS}" in downloaded) == bool(address)
    assert "git+" not in soup.get_text()
