"""Chinese is shown with the site's own font, which only pages with Chinese text load."""

from pathlib import Path

import pytest
from browser import Visit, opened
from playwright.sync_api import Browser, Page
from small_book import build, built, write_book

CHINESE = """# A chapter

The word 注意力 is *attention*, `"打分"` is a **score 分数**.

```python
print("归一化")
```
"""
PLAIN = "# Another\n\nNo such word here.\n"
MARK = r"""() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const signs = walker.currentNode.data.match(/[\u3400-\u9fff]/g)?.length;
    if (signs && element.checkVisibility())
      element.dataset.chinese = Number(element.dataset.chinese ?? 0) + signs;
  }
}"""

TEXTS = """() => [...document.querySelectorAll("[data-chinese]")]
    .map(e => [e.textContent, e.dataset.chinese])"""


def drawn_with(page: Page) -> dict[str, tuple[int, int]]:
    """Each text with Chinese: its own Chinese signs, and how many the site's own font has
    drawn in it and below it."""
    page.evaluate(MARK)
    session = page.context.new_cdp_session(page)
    session.send("DOM.enable")
    session.send("CSS.enable")
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    marked = {"nodeId": root, "selector": "[data-chinese]"}
    texts = page.evaluate(TEXTS)
    nodes = session.send("DOM.querySelectorAll", marked)["nodeIds"]
    found = {}
    for node, (text, signs) in zip(nodes, texts, strict=True):
        fonts = session.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]
        own = [f for f in fonts if f["isCustomFont"] and f["familyName"].startswith("Noto Sans SC")]
        found[text] = int(signs), int(sum(font["glyphCount"] for font in own))
    return found


def visit(browser: Browser, page: Path, home: str) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """What `drawn_with` says of a page, and the Chinese fonts that it loaded."""
    with opened(browser, page.as_uri(), home, Visit()) as tab:
        loaded: list[str] = []
        tab.on("request", lambda r: loaded.append(r.url) if "fonts/chinese" in r.url else None)
        tab.reload(wait_until="networkidle")
        return drawn_with(tab), loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book")
    write_book(folder, {"chapter.md": CHINESE, "other.md": PLAIN})
    return built(folder)


def test_chinese_text_is_drawn_with_the_font_of_the_site(browser: Browser, folder: Path):
    drawn, loaded = visit(browser, folder / "chapter.html", folder.as_uri())
    words = [word for word in ("注意力", "打分", "分数", "归一化") if word in "".join(drawn)]
    assert len(words) == 4
    assert {text: own for text, (signs, own) in drawn.items() if own < signs} == {}
    assert len(loaded) == 1


def test_a_page_without_chinese_neither_names_nor_loads_it(browser: Browser, folder: Path):
    assert visit(browser, folder / "other.html", folder.as_uri()) == ({}, [])
    assert "fonts/chinese" not in (folder / "other.html").read_text("utf-8")


def test_the_book_draws_its_chinese_with_it(browser: Browser, site: Path):
    pages = [p for p in sorted(site.glob("chapters/**/*.html")) if "fonts/chinese" in p.read_text()]
    assert len(pages) > 3
    for page in pages:
        drawn, _ = visit(browser, page, site.as_uri())
        assert {text: own for text, (signs, own) in drawn.items() if own < signs} == {}


def test_a_sign_that_the_font_lacks_stops_the_build(tmp_path: Path):
    write_book(tmp_path, {"chapter.md": "# A chapter\n\nThe sign \u4db6 is in few fonts.\n"})
    done = build(tmp_path)
    assert done.returncode != 0
    assert "the Chinese font lacks \u4db6" in done.stderr
    assert "chapter" in done.stderr
