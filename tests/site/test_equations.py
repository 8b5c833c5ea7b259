"""Equations are set when the book is built: numbered, linked, copied as LaTeX, never cut off."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from browser import UNRENDERED_MATHS, Visit, opened
from bs4 import BeautifulSoup
from execute_notebooks import NOTEBOOK_METADATA
from playwright.sync_api import Browser, Page
from small_book import build, built, write_book

PAGE = r"""# A chapter with $\sqrt{D}$ in its title

The weights $a_{ij}$ of {eq}`eq-weights` are shares.

```{math}
:label: eq-weights
a_{ij} = \frac{e^{s_{ij}}}{\sum_m e^{s_{im}}} \\
A = \operatorname{softmax}(E)
```

\begin{align}
x &= 1 + 1 \\
y &= 2
\end{align}

```{math}
:label: eq-wide
\mathbf o_i = a_{i1} \mathbf v_1 + a_{i2} \mathbf v_2 + a_{i3} \mathbf v_3 + a_{i4} \mathbf v_4
+ a_{i5} \mathbf v_5 + a_{i6} \mathbf v_6 + a_{i7} \mathbf v_7 + a_{i8} \mathbf v_8
```

$$\text{权重} = 1$$

```{eval-rst}
.. autofunction:: attn_core.scores.dot
```
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = nbformat.v4.new_output(
        "display_data", data={"text/latex": r"$\displaystyle S = QK^\top$"}
    )
    cell = nbformat.v4.new_code_cell("show()", outputs=[output], execution_count=1)
    cells = [nbformat.v4.new_markdown_cell("# A notebook"), cell]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=NOTEBOOK_METADATA)
    folder = tmp_path_factory.mktemp("book")
    write_book(folder, {"chapter.md": PAGE, "notebook.ipynb": notebook})
    return built(folder)


@pytest.fixture(scope="module")
def soup(folder: Path) -> BeautifulSoup:
    return BeautifulSoup((folder / "chapter.html").read_text("utf-8"), "lxml")


@pytest.fixture
def page(folder: Path, browser: Browser) -> Iterator[Page]:
    visit = Visit()
    with opened(browser, (folder / "chapter.html").as_uri(), folder.as_uri(), visit) as page:
        yield page
    assert visit == Visit()


def test_every_formula_is_set_wherever_it_stands(folder: Path, soup: BeautifulSoup, page: Page):
    assert page.evaluate(UNRENDERED_MATHS) == []
    assert len(soup.select("article h1 .katex")) == 1
    assert len(soup.select("article dl.py .katex")) == 1  # of the docstring
    output = BeautifulSoup((folder / "notebook.html").read_text("utf-8"), "lxml")
    assert "QK^\\top" in output.select_one(".cell_output .katex annotation").text


def test_no_page_has_a_script_for_formulas(folder: Path, soup: BeautifulSoup):
    assert [s for s in soup.select("script") if "math" in str(s).lower()] == []
    assert [s for s in soup.select("script") if "katex" in s.get("src", "")] == []
    without = (folder / "intro.html").read_text("utf-8")
    assert ("katex.css" in str(soup), "katex.css" in without) == (True, True)  # its sidebar has √D


def test_numbers_and_references(soup: BeautifulSoup):
    numbers = [span.text.rstrip("#") for span in soup.select("span.eqno")]
    assert numbers == ["(1)", "(2)", "(3)"]
    link = soup.select_one('a[href="#equation-eq-weights"]')
    assert link.text == "(1)"
    assert soup.select_one("div.math#equation-eq-weights .katex") is not None


def test_screen_readers_get_mathml_and_not_the_drawing(soup: BeautifulSoup):
    for formula in soup.select("article .katex"):
        assert formula.select_one("math > semantics > annotation[encoding='application/x-tex']")
        assert formula.select_one(".katex-html")["aria-hidden"] == "true"


COPY = """selector => {
  const range = document.createRange();
  range.selectNodeContents(document.querySelector(selector));
  getSelection().removeAllRanges(); getSelection().addRange(range);
  const data = new DataTransfer();
  const event = new ClipboardEvent("copy", {clipboardData: data, bubbles: true, cancelable: true});
  document.activeElement.dispatchEvent(event);
  return data.getData("text/plain");
}"""


def test_a_formula_is_copied_as_latex(page: Page):
    assert page.evaluate(COPY, "article p").startswith("The weights $a_{ij}$ of (1) are shares.")
    copied = page.evaluate(COPY, "#equation-eq-weights .formula")
    assert copied.strip().startswith(r"$$\begin{aligned}a_{ij} = \frac")
    # a part of a formula: the whole
    assert page.evaluate(COPY, "article p .katex-html .mord").strip() == "$a_{ij}$"


BOXES = """() => Object.fromEntries([...document.querySelectorAll("div.math[id]")].map(e => {
  const box = e.querySelector(".formula").getBoundingClientRect();
  const number = e.querySelector(".eqno").getBoundingClientRect();
  const formula = e.querySelector(".formula");
  return [e.id, {fits: box.right <= innerWidth && number.right <= innerWidth,
    below: number.top >= box.bottom - 1, marked: formula.classList.contains("cut"),
    reachable: formula.tabIndex === 0}];
}))"""


def test_a_formula_fits_a_phone_and_a_wide_one_says_that_it_scrolls(page: Page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(500)
    boxes = page.evaluate(BOXES)
    assert {box["fits"] for box in boxes.values()} == {True}
    assert {box["below"] for box in boxes.values()} == {True}
    assert {name for name, box in boxes.items() if box["marked"]} == {"equation-eq-wide"}
    assert {name for name, box in boxes.items() if box["reachable"]} == {"equation-eq-wide"}
    wide = page.locator("#equation-eq-wide .formula")
    wide.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
    page.wait_for_timeout(200)
    assert not page.evaluate(BOXES)["equation-eq-wide"]["marked"]


def test_a_refused_formula_stops_the_build_and_names_its_page(tmp_path: Path):
    pages = {"chapter.md": "# A chapter\n\nIt has $x^$ in it.\n", "other.md": "# Another\n\n$x$\n"}
    write_book(tmp_path, pages)
    done = build(tmp_path)
    assert done.returncode != 0
    assert "chapter.md:3" in done.stderr
    assert "KaTeX parse error" in done.stderr
    assert "other.md" not in done.stderr
