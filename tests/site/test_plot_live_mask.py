"""The live figure of masks, in a real browser: its tables are the reference's."""

import re

import numpy as np
import pytest
from live_page import page_of, read

from attn_core.plot import live_mask
from attn_core.reference import masks

TOKENS = ["[cls]", "dogs", "bark", ".", "cats", "purr", "."]
IDS = [0, 0, 0, 0, 1, 1, 1]
N = len(TOKENS)
NAMES = ("causal", "document", "window", "global", "length", "layers", "query")
FILLS = ["#ffffff", "#e6bcd6", "#A5397F"]


def set_to(figure, **settings):
    for name, value in settings.items():
        figure.locator(f"input[name={name}]").evaluate(
            "(input, value) => { input[input.type === 'range' ? 'value' : 'checked'] = value;"
            " input.dispatchEvent(new Event('input')); }",
            value,
        )


def assert_is_the_mask(figure):
    now = {name: int(read(figure, name)) for name in NAMES}
    near = now["window"]
    expected = masks.window(near, near, N, N) | masks.global_tokens(now["global"], N, N)
    if now["causal"]:
        expected = expected & masks.causal(N, N)
    if now["document"]:
        expected = expected & masks.document(IDS)
    expected = expected & masks.padding([now["length"]], N)[0, 0]
    reach = np.linalg.matrix_power(expected.astype(int), now["layers"]) > 0
    np.testing.assert_array_equal(read(figure, "mask"), expected)
    np.testing.assert_array_equal(read(figure, "reach"), reach)
    shown = [cell.get_attribute("fill") for cell in figure.locator(".cell").all()]
    shades = np.where(expected, 2, reach.astype(int)).ravel()
    assert shown == [FILLS[shade] for shade in shades]
    query = now["query"]
    told = figure.locator(".reading").inner_text()
    assert told.startswith(f"Query {query}, “{TOKENS[query]}”, sees {expected[query].sum()} of {N}")
    if now["layers"] > 1:
        assert told.endswith(f"through {now['layers']} layers, {reach[query].sum()}.")
    last = re.findall(r"M[\d.]+ 188\.00a", figure.locator(".dots").get_attribute("d"))
    assert len(last) == reach[query].sum()


@pytest.mark.parametrize("seed", range(2))
def test_tables_on_the_page_are_the_masks(page, seed):
    random = np.random.default_rng(seed)
    page.set_content(page_of(live_mask(TOKENS, documents=IDS, window=2, layers=2)))
    figure = page.locator(".attn-mask")
    assert_is_the_mask(figure)
    for _ in range(12):
        highest = {"causal": 1, "document": 1, "window": N - 1, "global": 2, "query": N - 1}
        settings = {name: int(random.integers(0, top + 1)) for name, top in highest.items()}
        settings["length"] = int(random.integers(1, N + 1))
        settings["layers"] = int(random.integers(1, 7))
        set_to(figure, **settings)
        assert {name: int(read(figure, name)) for name in settings} == settings
        assert_is_the_mask(figure)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "mask = None"),
        ({"global": 1}, "mask = None"),
        ({"window": 2}, "mask = window(2, 2)"),
        ({"window": 2, "global": 1}, "mask = (window(2, 2) | global_tokens(1))"),
        (
            {"window": 1, "causal": 1, "document": 1, "length": 5},
            "mask = window(1, 1) & causal() & document(ids) & padding([5])",
        ),
    ],
)
def test_the_code_makes_the_mask_that_is_shown(page, settings, says):
    page.set_content(page_of(live_mask(TOKENS, documents=IDS)))
    set_to(page.locator(".attn-mask"), **settings)
    assert page.inner_text(".attn-mask code") == says


def test_keyboard_reaches_every_choice(page):
    page.set_content(page_of(live_mask(TOKENS, documents=IDS, window=2)))
    figure = page.locator(".attn-mask")
    names = [box.get_attribute("name") for box in figure.locator("input").all()]
    assert sorted(names) == sorted(NAMES)
    for name in names:
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.name")
        assert focused == name
        page.keyboard.press("Space" if name in ("causal", "document") else "End")
        assert_is_the_mask(figure)
    assert int(read(figure, "causal")) == 1
    assert int(read(figure, "query")) == N - 1


def test_mouse_on_a_row_chooses_its_query(page):
    page.set_content(page_of(live_mask(TOKENS, documents=IDS, window=1, layers=2)))
    figure = page.locator(".attn-mask")
    figure.locator(".cell").nth(4 * N + 2).hover()
    assert int(read(figure, "query")) == 4
    assert_is_the_mask(figure)


def test_two_figures_on_a_page_do_not_meet(page):
    figure = live_mask(TOKENS, documents=IDS)
    page.set_content(page_of(figure, figure))
    first, second = page.locator(".attn-mask").all()
    set_to(first, window=1)
    assert (int(read(first, "window")), int(read(second, "window"))) == (1, N - 1)


def test_tokens_are_text_not_markup(page):
    page.set_content(page_of(live_mask(["<b>", 'a"b', "</script>"])))
    assert page.locator("svg.grid text").all_text_contents()[0] == "<b>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": ["a"]}, "tokens must be 2 to 16, got 1"),
        ({"documents": [0, 1]}, "documents must have 7 entries, one for each token, got 2"),
        ({"window": -1}, "window must be between 0 and 6, got -1"),
        ({"length": 0}, "length must be between 1 and 7, got 0"),
        ({"layers": 7}, "layers must be between 1 and 6, got 7"),
        ({"query": 7}, "query must be between 0 and 6, got 7"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        live_mask(**{"tokens": TOKENS} | arguments)
