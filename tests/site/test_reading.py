"""What a reader does with the site: opens it, searches it, downloads a chapter, follows links."""

import inspect
from pathlib import Path

import pytest
from browser import UNRENDERED_MATHS, Visit, opened
from bs4 import BeautifulSoup
from execute_notebooks import ROOT, public_address
from links import broken, pages
from playwright.sync_api import Browser

import attn_core

NOTEBOOKS = sorted(ROOT.glob("chapters/**/*.ipynb"))
SERVICES = ("colab.research.google.com", "mybinder.org")


def built(site: Path, notebook: Path) -> Path:
    return site / notebook.relative_to(ROOT).with_suffix(".html")


def test_no_link_is_broken(site: Path):
    assert broken(site) == []


def test_first_page_leads_to_the_introduction(site: Path, browser: Browser, home: str):
    page = browser.new_page()
    page.goto(f"{home}/index.html")
    page.wait_for_url("**/chapters/intro.html", timeout=5000)
    assert page.locator("article h1").count() == 1
    page.close()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_page_works_from_the_file_system(site: Path, browser: Browser, notebook: Path):
    visit = Visit()
    with opened(browser, built(site, notebook).as_uri(), site.as_uri(), visit) as page:
        assert page.evaluate(UNRENDERED_MATHS) == []
    assert visit.third_party == []
    assert visit.failed == []


@pytest.mark.parametrize("word", ["softmax", "注意力"])
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_word(site: Path, browser: Browser, home: str, word: str, scheme: str):
    page = browser.new_page()
    page.goto(f"{home if scheme == 'http' else site.as_uri()}/chapters/intro.html")
    page.locator("button.search-button-field:visible, button.search-button:visible").first.click()
    field = page.locator("input[type=search]:visible").first
    field.fill(word)
    field.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    page.locator("#search-results ul.search li").first.wait_for(timeout=10_000)
    assert page.locator("#search-results ul.search li a").count() > 0
    page.close()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_download_button_gives_the_committed_notebook(site: Path, notebook: Path):
    page = built(site, notebook)
    soup = BeautifulSoup(page.read_text("utf-8"), "lxml")
    (button,) = soup.select("a.btn-download-source-button")
    assert (page.parent / button["href"]).read_bytes() == notebook.read_bytes()


def test_launch_buttons_are_there_exactly_when_the_address_is_known(site: Path):
    for notebook in NOTEBOOKS:
        text = built(site, notebook).read_text("utf-8")
        assert [name in text for name in SERVICES] == [bool(public_address())] * len(SERVICES)


def public_names() -> list[str]:
    """attn_core's functions and classes, and those that its modules name as theirs."""
    names = []
    for name in attn_core.__all__:
        value = getattr(attn_core, name)
        inside = getattr(value, "__all__", []) if inspect.ismodule(value) else []
        things = {f"{name}.{below}": getattr(value, below) for below in inside}
        things |= {} if inspect.ismodule(value) else {name: value}
        names += [n for n, t in things.items() if inspect.isfunction(t) or inspect.isclass(t)]
    return names


def test_every_public_name_is_in_the_reference(site: Path):
    anchors = {
        tag["id"]
        for page in pages(site)
        for tag in BeautifulSoup(page.read_text("utf-8"), "lxml").select("dt[id]")
    }
    assert "attention" in public_names()
    missing = [name for name in public_names() if f"attn_core.{name}" not in anchors]
    assert missing == []
