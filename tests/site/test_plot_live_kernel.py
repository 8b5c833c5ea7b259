"""The live figure of the kernel, in a real browser: its arithmetic is the reference's."""

import json
import re
from functools import partial

import numpy as np
import pytest
from browser import SCHEMES, WIDTHS, violations

from attn_core import reference
from attn_core.plot import LiveFigure, live_kernel

KEYS = np.array([0.0, 1.5, 2.0, 4.0, 9.5])
VALUES = np.array([300.0, -20.0, 510.0, 80.0, 120.0])
STEPS = [0.02, 0.5, 1, 3, 40]


def page_of(*figures: LiveFigure) -> str:
    body = "".join(figure.html for figure in figures)
    return f'<!doctype html><html lang="en"><title>Live</title><main>{body}</main></html>'


def example(**changes) -> LiveFigure:
    given = {"query": 3.0, "bandwidths": STEPS, "bandwidth": 1, "key_axis": "place [km]"}
    return live_kernel(KEYS, VALUES, **given | changes)


def read(figure, name):
    return np.array(json.loads(figure.get_attribute(f"data-{name}")), dtype=float)


def set_slider(figure, name, value):
    figure.locator(f"input[name={name}]").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )


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


@pytest.fixture
def page(browser):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


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


def test_still_picture_shows_what_the_script_would_draw(browser):
    context = browser.new_context(java_script_enabled=False)
    still = context.new_page()
    still.set_content(page_of(example()))
    live = browser.new_page()
    live.set_content(page_of(example()))
    seen = [
        [
            *page.locator(".attn-kernel svg text").all_text_contents(),
            page.inner_text(".reading"),
            *[path.get_attribute("d") for path in page.locator(".bar").all()],
            *[dot.get_attribute("r") for dot in page.locator(".seen").all()],
        ]
        for page in (still, live)
    ]
    assert seen[0] == seen[1]
    assert not still.locator(".controls").is_visible()
    assert live.locator(".controls").is_visible()
    live.close()
    context.close()


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
    assert not re.search(r"\sid=", example().html)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_figure_fits_every_page_and_is_accessible(browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    heading = LiveFigure("<h1>Attention</h1>")
    page.set_content(page_of(heading, example()))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page, "figure") == []
    page.close()


def test_figure_asks_nobody(browser):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_content(page_of(example()))
    assert asked == []
    page.close()


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
