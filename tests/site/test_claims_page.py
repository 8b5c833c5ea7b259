"""The register of claims as a reader uses it: filter, follow a row to its cell and back."""

from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from execute_notebooks import ROOT
from links import pages
from playwright.sync_api import Browser, Page

CLAIMS = yaml.safe_load((ROOT / "chapters" / "appendix" / "claims.yml").read_text("utf-8"))
ADDRESS = "chapters/appendix/claims.html"
SHOWN = [claim for claim in CLAIMS if "/" in claim["evidence"]]


@pytest.fixture
def register(browser: Browser, home: str):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(f"{home}/{ADDRESS}")
    yield page
    page.close()


def visible(register: Page) -> list[str]:
    rows = register.locator(".claim:visible").all()
    return [row.get_attribute("id").removeprefix("claim-") for row in rows]


def announced(register: Page) -> str:
    return register.locator(".claims-filter output").inner_text()


def test_every_claim_has_its_row_in_order(register: Page):
    assert visible(register) == [claim["id"] for claim in CLAIMS]
    assert announced(register) == f"{len(CLAIMS)} of {len(CLAIMS)} claims"


def test_counts_are_right(register: Page):
    texts = register.locator("tbody").first.locator("td").all_inner_texts()
    printed = {verdict: int(count) for verdict, count in zip(texts[::3], texts[1::3], strict=True)}
    verdicts = [claim["verdict"] for claim in CLAIMS]
    assert printed == {v: verdicts.count(v) for v in printed if v != "all"} | {"all": len(CLAIMS)}


def test_filter_by_keyboard(register: Page):
    wrong = [claim["id"] for claim in CLAIMS if claim["verdict"] == "wrong"]
    register.get_by_label("Verdict").focus()
    register.keyboard.type("wrong")
    assert visible(register) == wrong
    assert announced(register) == f"{len(wrong)} of {len(CLAIMS)} claims"
    register.keyboard.press("Tab")
    register.keyboard.type("D4")
    assert visible(register) == [id for id in wrong if id.startswith("d4-")]
    assert register.locator("h2:visible").count() == 1
    register.keyboard.press("Tab")
    register.keyboard.press("Enter")
    assert len(visible(register)) == len(CLAIMS)


def test_filter_by_words_in_either_language(register: Page):
    field = register.get_by_label("Words")
    field.fill("luong MANNING")
    assert "d4-bahdanau-effective" in visible(register)
    assert len(visible(register)) < len(CLAIMS)
    field.fill("首次提出")
    assert visible(register) == [c["id"] for c in CLAIMS if "首次提出" in c["original"]]
    field.fill("no such words")
    assert announced(register) == f"0 of {len(CLAIMS)} claims"
    assert register.locator("h2:visible").count() == 0


def test_link_to_a_hidden_row_shows_it(register: Page):
    register.get_by_label("Words").fill("no such words")
    register.evaluate("id => { location.hash = id; }", f"claim-{CLAIMS[-1]['id']}")
    register.wait_for_function(
        "document.querySelector(':target').getBoundingClientRect().top < 800"
    )
    assert visible(register)[-1] == CLAIMS[-1]["id"]


def test_without_script_every_row_is_shown_and_no_filter(browser: Browser, home: str):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{home}/{ADDRESS}")
    assert len(visible(page)) == len(CLAIMS)
    assert not page.locator(".claims-filter").is_visible()
    context.close()


def test_every_cell_leads_back_to_its_rows(site: Path):
    anchors = {}
    for chapter in {claim["evidence"] for claim in SHOWN}:
        text = (site / "chapters" / f"{chapter}.html").read_text("utf-8")
        found = BeautifulSoup(text, "lxml").select('[id^="cell-claim-"]')
        anchors[chapter] = {anchor["id"]: anchor for anchor in found}
    for claim in SHOWN:
        anchor = anchors[claim["evidence"]][f"cell-claim-{claim['id']}"]
        cell = anchor if "cell" in anchor.get("class", []) else anchor.find_parent(class_="cell")
        (mark,) = cell.find_next_sibling(class_="claim-marks").select(
            f'a[href$="claims.html#claim-{claim["id"]}"]'
        )
        assert mark.get_text().startswith(claim["verdict"] + ": ")


@pytest.mark.parametrize("chapter", sorted({claim["evidence"] for claim in SHOWN}))
def test_link_to_a_folded_cell_unfolds_it(browser: Browser, home: str, chapter: str):
    page = browser.new_page()
    for id in [claim["id"] for claim in SHOWN if claim["evidence"] == chapter]:
        page.goto(f"{home}/chapters/{chapter}.html#cell-claim-{id}")
        folds = page.locator(f".cell.tag_claim-{id} details")
        assert folds.evaluate_all("folds => folds.filter(fold => !fold.open).length") == 0
    page.close()


def test_script_is_loaded_only_where_there_are_claims(site: Path):
    loading = {
        page.relative_to(site).with_suffix("").as_posix()
        for page in pages(site)
        if "_static/claims.js" in page.read_text("utf-8")
    }
    with_cells = {f"chapters/{claim['evidence']}" for claim in SHOWN}
    assert loading == {"chapters/appendix/claims"} | with_cells
