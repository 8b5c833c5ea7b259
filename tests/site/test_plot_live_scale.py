"""The live figure of the scale, in a real browser: its arithmetic is the reference's."""

import re

import numpy as np
import pytest
from live_page import page_of, read

from attn_core import reference
from attn_core.plot import live_scale

QUERIES, KEYS = np.random.default_rng(0).normal(size=(2, 16, 256))
STEPS = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def move_to(figure, width):
    figure.locator("input").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }",
        STEPS.index(width),
    )


def assert_is_scaled_attention(figure, queries, keys, width):
    """The page rounds a dot product to two decimals; all that follows is exact."""
    dots = reference.dot(queries[:, :width], keys[:, :width])
    shown = read(figure, "dots")[STEPS.index(width)]
    np.testing.assert_allclose(shown, dots, rtol=0, atol=0.005 + 1e-9)
    for side, scale in enumerate([1, width**-0.5]):
        scores = shown * scale
        jacobians = reference.softmax_jacobian(scores)
        np.testing.assert_allclose(read(figure, "spreads")[side], scores.std(), atol=1e-9)
        np.testing.assert_allclose(
            read(figure, "weights")[side], reference.softmax(scores[0]), rtol=0, atol=1e-9
        )
        np.testing.assert_allclose(
            read(figure, "derivatives")[side],
            np.sqrt((jacobians**2).sum(axis=(1, 2))),
            rtol=0,
            atol=1e-7,
        )


def tops(figure, kind):
    """Heights of the bars, left and right, in units of the drawing."""
    paths = [p.get_attribute("d") for p in figure.locator(f"svg.{kind} .bars").all()]
    return [84 - np.array(re.findall(r"V([\d.]+)H", path), dtype=float) for path in paths]


@pytest.mark.parametrize("seed", range(2))
def test_numbers_on_the_page_are_scaled_attention(page, seed):
    random = np.random.default_rng(seed)
    queries = random.normal(size=(int(random.integers(1, 6)), 300))
    keys = random.normal(size=(int(random.integers(1, 6)), 300))
    page.set_content(page_of(live_scale(queries, keys, width=16)))
    figure = page.locator(".attn-scale")
    assert_is_scaled_attention(figure, queries, keys, 16)
    for width in STEPS:
        move_to(figure, width)
        assert_is_scaled_attention(figure, queries, keys, width)


def test_bars_are_the_numbers(page):
    page.set_content(page_of(live_scale(QUERIES, KEYS)))
    figure = page.locator(".attn-scale")
    limit, highest = float(read(figure, "limit")), float(read(figure, "highest"))
    for width in (1, 256):
        move_to(figure, width)
        shown = read(figure, "dots")[STEPS.index(width)]
        for side, scores in enumerate([shown, shown / np.sqrt(width)]):
            counts = np.histogram(scores, bins=int(read(figure, "bins")), range=(-limit, limit))[0]
            np.testing.assert_allclose(
                tops(figure, "scores")[side], 60 * counts / highest, atol=0.006
            )
            for kind, full in {"weights": 1, "derivatives": 0.5}.items():
                np.testing.assert_allclose(
                    tops(figure, kind)[side], 60 * read(figure, kind)[side] / full, atol=0.006
                )
                assert tops(figure, kind)[side].max() <= 60


def test_width_follows_the_keyboard(page):
    page.set_content(page_of(live_scale(QUERIES, KEYS)))
    figure = page.locator(".attn-scale")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert read(figure, "width") == 128
    assert figure.locator("input").get_attribute("aria-valuetext") == "128"
    assert page.inner_text(".reading").startswith("Width 128. Not scaled: ")
    page.keyboard.press("Home")
    assert_is_scaled_attention(figure, QUERIES, KEYS, 1)
    page.keyboard.press("End")
    assert_is_scaled_attention(figure, QUERIES, KEYS, 256)


def test_two_figures_on_a_page_do_not_meet(page):
    figure = live_scale(QUERIES, KEYS)
    page.set_content(page_of(figure, figure))
    first, second = page.locator(".attn-scale").all()
    move_to(first, 2)
    assert (read(first, "width"), read(second, "width")) == (2, 64)
