"""What every live figure owes its reader: a still picture, no request, room on a phone."""

import re

import numpy as np
import pytest
from browser import SCHEMES, WIDTHS, violations
from live_page import page_of

from attn_core.plot import LiveFigure, live_attention, live_kernel, live_mask, live_scale

KEYS = np.array([[-1.0, 1.0], [2.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
FIGURES = {
    "attention": live_attention(
        ["the", "bank", "was", "flooded"], KEYS, KEYS**2, [1, -1], temperature=1.4
    ),
    "scale": live_scale(*np.random.default_rng(0).normal(size=(2, 16, 256)), width=32),
    "kernel": live_kernel(
        [0, 1.5, 2, 4, 9.5], [300, -20, 510, 80, 120], query=3, bandwidths=[0.5, 1], bandwidth=1
    ),
    "mask": live_mask(
        [f"word{i}" for i in range(16)],
        documents=[0] * 9 + [1] * 7,
        by_document=True,
        causal=True,
        window=3,
        global_tokens=1,
        length=14,
        layers=6,
        query=12,
    ),
}
every_figure = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)


def place(attribute: str | None) -> str:
    """A path or a coordinate with its numbers to one decimal: 16.0 and 16 are one place."""
    return re.sub(r"\d+(\.\d+)?", lambda number: f"{float(number[0]):.1f}", attribute or "")


def drawing(page) -> list:
    """What is seen: every text, and the colour and place of everything drawn."""
    shapes = page.locator("svg :is(path, circle, rect)").all()
    places = ("d", "cx", "cy", "r", "x", "y", "width", "height")
    return [
        *page.locator("svg text").all_text_contents(),
        *page.locator("code, .reading").all_text_contents(),
        *[shape.get_attribute("fill") for shape in shapes],
        *[[place(shape.get_attribute(name)) for name in places] for shape in shapes],
    ]


@every_figure
def test_still_picture_shows_what_the_script_would_draw(browser, figure):
    context = browser.new_context(java_script_enabled=False)
    still, live = context.new_page(), browser.new_page()
    for page in (still, live):
        page.set_content(page_of(figure))
    assert len(drawing(still)) > 20
    assert drawing(still) == drawing(live)
    assert not still.locator(".controls").is_visible()
    assert live.locator(".controls").is_visible()
    live.close()
    context.close()


@every_figure
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_figure_fits_every_page_and_is_accessible(browser, width, scheme, figure):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_content(page_of(LiveFigure("<h1>Attention</h1>"), figure))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page, "figure") == []
    page.close()


@every_figure
def test_figure_asks_nobody_and_is_small(browser, figure):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_content(page_of(figure))
    assert asked == []
    assert len(figure.html) < 90_000
    page.close()


@every_figure
def test_figure_can_stand_twice_on_a_page(figure):
    assert not re.search(r"\sid=", figure.html)
