"""A first visit to a page weighs at most a megabyte, and shows what a heavier one would."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import served, weight
from bs4 import BeautifulSoup
from execute_notebooks import ROOT
from fontTools.ttLib import TTFont
from PIL import Image
from playwright.sync_api import Browser
from test_pages import PAGES, SITE

sys.path.insert(0, str(ROOT / "_ext"))
from lighter_pages import pack_pictures

LIMIT = 1_000_000
CONTROLS = 30_000  # more, for what lets a reader run the page's cells
CELLS = re.compile(r'<script type="application/json" class="page-cells">.*?</script>', re.DOTALL)
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_first_visit_weighs_at_most_a_megabyte(browser: Browser, home: str, page: str):
    sizes = weight(browser, f"{home}/{page}")
    assert len(sizes) > 10
    heaviest = sorted(((size, address) for address, size in sizes.items()), reverse=True)
    # a chapter's own panel, model.js, lies beside the controls
    scripts = sum(sizes[a] for a in sizes if "/in_the_page/" in a and "/model." not in a)
    told = CELLS.search((SITE / page).read_text("utf-8"))
    controls = scripts + (len(told[0].encode()) if told else 0)
    assert controls <= CONTROLS
    assert sum(sizes.values()) - controls <= LIMIT, heaviest[:5]


def test_a_heavy_page_is_noticed(tmp_path: Path, browser: Browser):
    (tmp_path / "heavy.js").write_text("//" + "x" * LIMIT)
    (tmp_path / "page.html").write_text("<title>A page</title><script src=heavy.js></script>")
    with served(tmp_path) as home:
        assert sum(weight(browser, f"{home}/page.html").values()) > LIMIT


def test_the_search_index_is_loaded_by_the_search_page_only():
    loading = [p for p in SITE.rglob("*.html") if 'src="../../searchindex.js"' in p.read_text()]
    assert loading == []
    assert "searchindex.js" in (SITE / "search.html").read_text()


def test_every_picture_has_a_place_before_it_is_loaded():
    for page in CHAPTERS:
        soup = BeautifulSoup((SITE / page).read_text("utf-8"), "lxml")
        for picture in soup.select('article img[src$=".png"]'):
            assert picture["loading"] == "lazy", page
            assert int(picture["width"]) > int(picture["height"]) / 10 > 0, page


@pytest.mark.parametrize("opacity", [255, 100])
def test_a_packed_picture_keeps_every_pixel(tmp_path: Path, opacity: int):
    pixels = np.random.default_rng(0).integers(256, size=(40, 30, 4), dtype=np.uint8)
    pixels[..., 3] = opacity
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path, compress_level=0)
    heavy = path.stat().st_size
    pack_pictures(tmp_path)
    assert path.stat().st_size < heavy
    assert (np.asarray(Image.open(path).convert("RGBA")) == pixels).all()


def test_every_icon_of_the_pages_is_left_in_the_fonts():
    fonts = (SITE / "_static" / "vendor" / "fontawesome" / "webfonts").glob("*.woff2")
    signs = {sign for font in fonts for sign in TTFont(font).getBestCmap()}
    sheets = "".join(p.read_text("utf-8") for p in (SITE / "_static").rglob("*.css"))
    icons = {i for p in CHAPTERS for i in re.findall(r"\bfa-[\w-]+", (SITE / p).read_text("utf-8"))}
    shown = {}
    for icon in icons - {"fa-solid", "fa-lg", "fa-fw", "fa-regular", "fa-brands"}:
        rule = re.search(rf"\.{icon}\b[^{{]*{{[^}}]*\"([\ue000-\uf8ff])\"", sheets)
        shown[icon] = rule and ord(rule[1]) in signs
    assert len(shown) > 3
    assert [icon for icon, there in shown.items() if not there] == []
