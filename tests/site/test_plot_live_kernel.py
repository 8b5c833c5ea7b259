"""The live figure of the kernel, in a real browser: its arithmetic is the reference's."""

import re
from functools import partial

import numpy as np
import pytest
from live_page import page_of, read, set_slider

from attn_core import reference
from attn_core.plot import LiveFigure, live_kernel

KEYS = np.array([0.0, 1.5, 2.0, 4.0, 9.5])
VALUES = np.array([300.0, -20.0, 510.0, 80.0, 120.0])
STEPS = [0.02, 0.5, 1, 3, 40]


def example(**changes) -> LiveFigure:
    given = {"query": 3.0, "bandwidths": STEPS, "bandwidth": 1, "key_axis": "place [km]"}
    return live_kernel(KEYS, VALUES, **given | changes)


def assert_is_kernel_regression(figure, keys, values):
    near = partial(reference.gaussian, bandwidth=float(read(figure, "bandwidth")))
    columns = keys[:, None], values[:, None]
    expected = reference.attention(
        read(figure, "query")[None, None], *columns, score=near, return_weights=True
    )
    np.testing.assert_allclose(read(figure, "weights"), expected.weights[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(read(figure, "output"), expected.output[0, 0], rtol=1e-9)
    places = np.linspace(keys.min(), keys.max(), len(read(figure, "curve")))[:, None]
    curve = reference.attention(places, *columns, score=near)[:, 0]
    np.testing.assert_allclose(read(figure, "curve"), curve, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_numbers_on_the_page_are_kernel_regression(page, seed):
    random = np.random.default_rng(seed)
    keys, values = random.normal(size=(2, int(random.integers(2, 30))))
    middle = float(np.median(keys))
    page.set_content(
        page_of(live_kernel(keys, values, query=middle, bandwidths=STEPS, bandwidth=0.5))
    )
    figure = page.locator(".attn-kernel")
    assert_is_kernel_regression(figure, keys, values)
    for step, place in enumerate(np.linspace(keys.min(), keys.max(), len(STEPS))):
        set_slider(figure, "bandwidth", step)
        set_slider(figure, "query", float(place))
        assert read(figure, "bandwidth") == STEPS[step]
        np.testing.assert_allclose(read(figure, "query"), place, atol=1e-6)
        assert_is_kernel_regression(figure, keys, values)


def test_a_query_far_from_all_keys_of_a_narrow_kernel_stays_finite(page):
    page.set_content(page_of(example(query=7.0, bandwidth=0.02)))
    figure = page.locator(".attn-kernel")
    np.testing.assert_allclose(read(figure, "weights"), [0, 0, 0, 0, 1], atol=1e-12)
    assert_is_kernel_regression(figure, KEYS, VALUES)


def test_drawing_is_the_numbers(page):
    page.set_content(page_of(example()))
    figure = page.locator(".attn-kernel")
    set_slider(figure, "query", 2)
    weights, (low, high, floor, ceiling) = read(figure, "weights"), read(figure, "frame")
    tops = [
        float(re.search(r"V([\d.]+)$", bar.get_attribute("d"))[1])
        for bar in figure.locator(".bar").all()
    ]
    np.testing.assert_allclose(286 - np.array(tops), 52 * weights / weights.max(), atol=0.006)
    answer = figure.locator(".answer")
    x, y = (float(answer.get_attribute(name)) for name in ("cx", "cy"))
    np.testing.assert_allclose(x, 46 + 426 * (2 - low) / (high - low), atol=0.006)
    share = (read(figure, "output") - floor) / (ceiling - floor)
    np.testing.assert_allclose(y, 186 - 170 * share, atol=0.006)


def test_both_sliders_follow_the_keyboard(page):
    page.set_content(page_of(example()))
    figure = page.locator(".attn-kernel")
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert read(figure, "query") == 0
    page.keyboard.press("ArrowRight")
    assert read(figure, "query") == 0.01
    set_slider(figure, "query", 0.123)
    page.keyboard.press("ArrowLeft")
    assert read(figure, "query") == 0.12
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert read(figure, "bandwidth") == 3
    assert figure.locator("input[name=bandwidth]").get_attribute("aria-valuetext") == "3"
    assert_is_kernel_regression(figure, KEYS, VALUES)


def test_two_figures_on_a_page_do_not_meet(page):
    page.set_content(page_of(example(), example()))
    first, second = page.locator(".attn-kernel").all()
    set_slider(first, "bandwidth", 0)
    assert (read(first, "bandwidth"), read(second, "bandwidth")) == (0.02, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": KEYS[:3]}, "one value for each key, got 3 keys and 5 values"),
        ({"keys": KEYS[:, None]}, r"keys must be 1 to 500 numbers, got shape \(5, 1\)"),
        ({"keys": np.full(5, 2.0)}, "keys must differ"),
        ({"values": np.full(5, np.nan)}, "values must be finite"),
        ({"query": 10.0}, "query must be between the keys 0.0 and 9.5, got 10.0"),
        ({"bandwidths": [0, 1]}, "bandwidths must be positive and rise"),
        ({"bandwidths": [1, 0.5]}, "bandwidths must be positive and rise"),
        ({"bandwidth": 2}, "bandwidth must be one of"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"keys": KEYS, "values": VALUES, "query": 3.0, "bandwidths": STEPS, "bandwidth": 1}
    with pytest.raises(ValueError, match=message):
        live_kernel(**given | change)


def test_words_are_refused():
    with pytest.raises(TypeError, match="values must hold numbers"):
        live_kernel(KEYS, ["a"] * 5, query=3.0, bandwidths=STEPS, bandwidth=1)
