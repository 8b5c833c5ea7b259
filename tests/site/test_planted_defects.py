"""The checks of the site notice what they are there for: one planted defect each."""

from pathlib import Path

import pytest
from browser import Visit, served, visited
from links import broken
from playwright.sync_api import Browser

PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light">
<head><title>A page</title><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<style>
@media (min-width: 600px) {{ .phone {{ display: none }} }}
@media (prefers-color-scheme: dark) {{ .dark-and-pale {{ color: #aaa }} }}
</style></head>
<body><main><h1>A page</h1>{body}</main></body></html>"""

EQUATION = (
    '<span class="math"><span class="katex"><math><semantics><mi>x</mi><annotation>x</annotation>'
    '</semantics></math><span class="katex-html"><b>softmax</b></span></span></span>'
)
DEFECTS = [
    ("third_party", '<script src="https://cdn.example/library.js"></script>'),
    ("failed", '<img alt="A picture that is not there" src="http://127.0.0.1:1/picture.png">'),
    ("complaints", "<script>throw new Error('planted')</script>"),
    ("violations", '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'),
    ("violations", '<p style="color: #aaa; background: #fff">pale</p>'),
    ("violations", '<div class="phone" style="color: #aaa; background: #fff">pale</div>'),
    ("violations", '<p class="dark-and-pale">pale in the dark</p>'),
    ("violations", f"{EQUATION}<p style='color: #aaa'>{EQUATION}</p>"),
    ("violations", EQUATION + EQUATION.replace("<b>", '<b style="color: #aaa">')),
    (
        "violations",
        '<details><summary aria-label="Toggle hidden content">Show the imports</summary></details>',
    ),
    ("scrolls", '<div style="width: 900px">wide</div>'),
    ("unrendered", r'<span class="math">\(x\)</span>'),
    (  # KaTeX's HTML without its style sheet
        "unrendered",
        '<span class="math"><span class="katex"><math><semantics><mi>x</mi><annotation>x'
        '</annotation></semantics></math><span class="katex-html">x</span></span></span>',
    ),
    (
        "dimmed",
        '<div class="cell_output"><img alt="A dimmed picture" src="data:," '
        'style="filter: brightness(.8)"></div>',
    ),
]


def visit_page(folder: Path, browser: Browser, body: str) -> Visit:
    (folder / "page.html").write_text(PAGE.format(body=body), encoding="utf-8")
    with served(folder) as home:
        return visited(browser, f"{home}/page.html", home)


@pytest.mark.parametrize(("check", "body"), DEFECTS)
def test_planted_defect_is_noticed(tmp_path: Path, browser: Browser, check: str, body: str):
    assert getattr(visit_page(tmp_path, browser, body), check) != []


def test_page_without_defect_passes(tmp_path: Path, browser: Browser):
    assert visit_page(tmp_path, browser, "") == Visit()


BROKEN = {
    "does not exist": '<a href="nowhere.html">gone</a>',
    "has no such anchor": '<a href="page.html#nowhere">gone</a>',
    "is used twice": '<p id="here"></p><p id="here"></p>',
    "loads https": '<script src="https://cdn.example/library.js"></script>',
}


@pytest.mark.parametrize(("what", "body"), BROKEN.items())
def test_broken_link_is_noticed(tmp_path: Path, what: str, body: str):
    (tmp_path / "page.html").write_text(PAGE.format(body=body), encoding="utf-8")
    assert [line for line in broken(tmp_path) if what in line] != []


def test_whole_page_has_no_broken_link(tmp_path: Path):
    body = '<p id="here"><a href="#here">a</a> <a href="page.html#here">b</a> <a href="https://x.org">c</a>'
    (tmp_path / "page.html").write_text(PAGE.format(body=body), encoding="utf-8")
    assert broken(tmp_path) == []
