"""The live figure's arithmetic, run in a real browser, is attention; and it can be used by hand."""

import json
from itertools import pairwise

import numpy as np
import pytest
from browser import WIDTHS
from live_page import page_of, set_slider

from attn_core import reference
from attn_core.plot import LiveFigure, live_attention

WORDS = ["the", "bank", "was", "flooded"]
KEYS = np.array([[-1.0, 1.0], [2.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
VALUES = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
QUERY = np.array([1.0, -1.0])
NUMBERS = ("query", "temperature", "scores", "weights", "output")


def numbers(figure):
    return [
        np.array(json.loads(figure.get_attribute(f"data-{name}")), dtype=float) for name in NUMBERS
    ]


def assert_is_attention(figure, keys, values):
    query, temperature, scores, weights, output = numbers(figure)
    expected = reference.attention(
        query[None], keys, values, scale=1 / float(temperature), return_weights=True
    )
    np.testing.assert_allclose(scores, reference.dot(query[None], keys)[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(weights, expected.weights[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(output, expected.output[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_numbers_on_the_page_are_attention(page, seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 7))
    keys, values = random.normal(size=(2, count, 2))
    words = [f"word{index}" for index in range(count)]
    page.set_content(page_of(live_attention(words, keys, values, random.normal(size=2))))
    figure = page.locator(".attn-live")
    assert_is_attention(figure, keys, values)
    for _ in range(20):
        before = numbers(figure)
        set_slider(figure, "x", random.uniform(-2, 2))
        set_slider(figure, "y", random.uniform(-2, 2))
        set_slider(figure, "temperature", random.uniform(0.1, 4))
        assert not np.array_equal(before[0], numbers(figure)[0])
        assert_is_attention(figure, keys, values)


def test_far_apart_scores_at_the_lowest_temperature_stay_finite(page):
    keys = np.array([[90.0, 0.0], [-90.0, 0.0]])
    page.set_content(page_of(live_attention(["a", "b"], keys, keys, [90, 0], temperature=0.1)))
    assert_is_attention(page.locator(".attn-live"), keys, keys)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ((1, -1), "Most weight: “flooded”, 0.70."),
        ((2.5, 0), "Most weight: “bank” and “flooded”, 0.50 each."),
        ((0, 2.5), "Most weight: “the”, “bank” and “was”, 0.32 each."),
        ((0, 0), "All weights are equal, 0.25."),
    ],
)
def test_every_word_with_the_most_weight_is_named(page, query, says):
    still = live_attention(WORDS, KEYS, VALUES, query)
    assert says in still.html
    page.set_content(page_of(live_attention(WORDS, KEYS, VALUES, QUERY)))
    figure = page.locator(".attn-live")
    set_slider(figure, "x", query[0])
    set_slider(figure, "y", query[1])
    assert page.inner_text(".reading").startswith(says)


def test_nothing_takes_the_focus_without_script(browser):
    context = browser.new_context(java_script_enabled=False)
    still = context.new_page()
    still.set_content(page_of(live_attention(WORDS, KEYS, VALUES, QUERY)))
    assert still.locator("[tabindex]").count() == 0
    context.close()


def test_one_word_has_the_most_weight_by_itself(page):
    page.set_content(page_of(live_attention(WORDS[:1], KEYS[:1], VALUES[:1], QUERY)))
    assert page.inner_text(".reading").startswith("Most weight: “the”, 1.00.")


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_label_of_the_query_is_whole_at_every_edge(browser, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_content(page_of(live_attention(WORDS, KEYS, VALUES, QUERY)))
    figure = page.locator(".attn-live")
    drawing = figure.locator("svg.score").bounding_box()
    for x, y in ((-2.5, 0), (2.5, 0), (2.5, 2.5), (-2.5, -2.5)):
        set_slider(figure, "x", x)
        set_slider(figure, "y", y)
        label = figure.locator(".handle text").bounding_box()
        assert drawing["x"] <= label["x"]
        assert label["x"] + label["width"] <= drawing["x"] + drawing["width"]
    page.close()


def test_query_follows_the_mouse(page):
    page.set_content(page_of(live_attention(WORDS, KEYS, VALUES, QUERY)))
    figure = page.locator(".attn-live")
    figure.scroll_into_view_if_needed()
    box = figure.locator(".handle circle >> nth=1").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y - 60, steps=4)
    page.mouse.up()
    page.mouse.move(x + 40, y + 40)
    query = numbers(figure)[0]
    unit = json.loads(figure.get_attribute("data-frames"))["query"][2]
    pixels = figure.locator("svg.score").bounding_box()["width"] / 240
    np.testing.assert_allclose(query, QUERY + np.array([-20, 60]) / (unit * pixels), atol=0.02)
    assert_is_attention(figure, KEYS, VALUES)


def test_query_follows_the_keyboard(page):
    page.set_content(page_of(live_attention(WORDS, KEYS, VALUES, QUERY)))
    figure = page.locator(".attn-live")
    page.keyboard.press("Tab")
    assert figure.locator(".handle").evaluate("handle => handle === document.activeElement")
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    np.testing.assert_allclose(numbers(figure)[0], QUERY + np.array([0.1, 0.1]), atol=1e-12)
    assert_is_attention(figure, KEYS, VALUES)
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert numbers(figure)[1] == 0.1
    assert_is_attention(figure, KEYS, VALUES)
    figure.get_by_role("button", name="Start again").click()
    np.testing.assert_array_equal(numbers(figure)[0], QUERY)
    assert numbers(figure)[1] == 1.0


def test_query_stays_in_its_drawing(page):
    page.set_content(page_of(live_attention(WORDS, KEYS, VALUES, QUERY)))
    figure = page.locator(".attn-live")
    limit = float(figure.get_attribute("data-limit"))
    figure.locator(".handle").focus()
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    assert numbers(figure)[0][0] == limit


def test_page_around_the_figure_does_not_matter(page):
    figure = live_attention(WORDS, KEYS, VALUES, QUERY)
    wrapped = LiveFigure(f'<div class="output weight handle controls">{figure.html}</div>')
    drawn = []
    for shown in (figure, wrapped):
        page.set_content(page_of(shown))
        set_slider(page.locator(".attn-live"), "y", 0.5)
        drawn.append(page.locator(".attn-live").inner_html())
    assert drawn[0] == drawn[1]


def test_two_figures_on_a_page_do_not_meet(page):
    figure = live_attention(WORDS, KEYS, VALUES, QUERY)
    page.set_content(page_of(figure, figure))
    first, second = page.locator(".attn-live").all()
    set_slider(first, "x", -2)
    assert numbers(first)[0][0] == -2
    np.testing.assert_array_equal(numbers(second)[0], QUERY)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_panels_are_read_in_the_order_of_the_steps(browser, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_content(page_of(live_attention(WORDS, KEYS, VALUES, QUERY)))
    panels = page.locator(".attn-live svg").all()
    assert [panel.locator(".title").text_content()[0] for panel in panels] == ["1", "2", "3"]
    boxes = [panel.bounding_box() for panel in panels]
    for before, after in pairwise(boxes):
        below = after["y"] >= before["y"] + before["height"]
        beside = after["y"] == before["y"] and after["x"] >= before["x"] + before["width"]
        assert below or beside
    page.close()


def test_words_are_text_not_markup(page):
    figure = live_attention(["<b>", 'a"b', "</script>"], KEYS[:3], VALUES[:3], QUERY)
    page.set_content(page_of(figure))
    assert page.locator(".weight text").all_text_contents()[3] == "<b>"
    assert_is_attention(page.locator(".attn-live"), KEYS[:3], VALUES[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": WORDS[:3]}, r"keys must have the shape \(3, 2\).*got \(4, 2\)"),
        ({"keys": KEYS[:, :1]}, r"keys must have the shape \(4, 2\).*got \(4, 1\)"),
        ({"values": VALUES[:3]}, r"values must have the shape \(4, 2\)"),
        ({"query": [1.0, 2.0, 3.0]}, r"query must have the shape \(2,\), got \(3,\)"),
        ({"keys": np.where(KEYS == 2, np.nan, KEYS)}, "keys must be finite"),
        ({"temperature": 0.0}, "temperature must be between 0.1 and 4, got 0.0"),
        ({"words": [], "keys": KEYS[:0], "values": VALUES[:0]}, "keys must have the shape"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"words": WORDS, "keys": KEYS, "values": VALUES, "query": QUERY} | change
    with pytest.raises(ValueError, match=message):
        live_attention(**arguments)
