"""The panel that looks inside a real model: its numbers, its keys, and what it loads when."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from browser import AXE, AXE_OPTIONS, AXE_RUN, SCHEMES, WIDTHS
from playwright.sync_api import Browser, Page, expect

from attn_core import interpret
from attn_core.data import pretrained
from attn_core.models.bert import BERT

CHAPTER = "chapters/code/inside_a_real_model"
SENTENCE = "The river bank was flooded; naïve readers misread 注意力."
OTHER = "Water covered the shore."
LONG = 120_000  # milliseconds: Python and the model are loaded and started


@pytest.fixture(scope="module")
def reader(browser: Browser, home: str) -> Iterator[Page]:
    """The chapter's page, in which the first test that asks loads the model."""
    page = browser.new_page(viewport={"width": WIDTHS["desktop"], "height": 900})
    page.asked = []  # type: ignore[attr-defined]
    page.on("request", lambda request: page.asked.append(request.url))  # type: ignore[attr-defined]
    page.goto(f"{home}/{CHAPTER}.html", wait_until="networkidle")
    yield page
    page.close()


def status(page: Page, text: str) -> None:
    expect(page.locator(".real-model [role=status]")).to_contain_text(text, timeout=LONG)


def look(page: Page, sentence: str, other: str = "") -> None:
    panel = page.locator(".real-model")
    panel.get_by_label("Sentence", exact=True).fill(sentence)
    panel.get_by_label("Another, to compare").fill(other)
    panel.locator("[type=submit]").click()


def shown_weights(page: Page) -> np.ndarray:
    return np.array(json.loads(page.locator(".real-model-pictures").get_attribute("data-weights")))


def test_nothing_is_loaded_before_the_reader_asks(reader: Page):
    heavy = ("worker.js", ".wasm", ".whl", ".zip", ".npz")
    assert [url for url in reader.asked if url.split("?")[0].endswith(heavy)] == []
    assert reader.locator(".real-model progress").is_hidden()


def test_the_weights_of_every_head_are_those_of_the_model_to_the_rounding(reader: Page):
    look(reader, SENTENCE, OTHER)
    status(reader, "72 heads")
    home = reader.url.partition("/chapters/")[0]
    assert [url for url in reader.asked if not url.startswith((home, "data:", "blob:"))] == []

    tokenizer = pretrained.minilm_tokenizer()
    text = tokenizer.encode(SENTENCE)
    panel = reader.locator(".real-model")
    assert panel.locator(".real-model-tokens li").all_text_contents() == text.tokens
    model = BERT.from_safetensors(pretrained.minilm_folder())
    with torch.no_grad(), interpret.record(model) as layers:
        one = model.embed(torch.tensor([text.ids]))[0]
    with torch.no_grad():
        other = model.embed(torch.tensor([tokenizer.encode(OTHER).ids]))[0]
    likeness = panel.locator(".real-model-likeness").text_content()
    assert abs(float(likeness.rpartition(" ")[2]) - float(one @ other)) < 0.03

    changed = []
    for layer, calls in enumerate(layers.values()):
        for head in range(12):
            panel.get_by_role("radio", name=f"Layer {layer}, head {head}", exact=True).click()
            seen, wanted = shown_weights(reader), calls[0][0, head].numpy()
            np.testing.assert_allclose(seen.sum(-1), 1, atol=2e-3)
            changed.append(np.abs(seen - wanted))
    assert np.max(changed) < 0.1
    assert np.mean(changed) < 0.004
    assert np.abs(shown_weights(reader) - wanted.T).max() > 0.1  # rows are queries


def test_what_is_seen_is_what_is_kept(reader: Page):
    panel = reader.locator(".real-model")
    head = panel.get_by_role("radio", name="Layer 0, head 2", exact=True)
    head.click()
    expect(head).to_have_css("outline-width", "3px")
    boxes = panel.locator(".real-model-pictures rect[fill]")
    weights = shown_weights(reader)
    assert boxes.count() == weights.size
    titles = boxes.evaluate_all("all => all.map(e => e.textContent)")
    drawn = [float(title.rpartition(" ")[2]) for title in titles]
    np.testing.assert_allclose(drawn, weights.ravel(), atol=0.0051)
    lines = panel.locator(".real-model-pictures line")
    assert lines.count() == (weights >= 0.05).sum()
    for axis in ("query", "key"):
        expect(panel.locator(".real-model-pictures text.axis", has_text=axis)).to_have_count(2)


def test_heads_and_queries_are_chosen_by_keyboard(reader: Page):
    panel = reader.locator(".real-model")
    panel.get_by_role("radio", name="Layer 0, head 2", exact=True).focus()
    for key, name in (
        ("ArrowRight", "Layer 0, head 3"),
        ("ArrowDown", "Layer 1, head 3"),
        ("ArrowLeft", "Layer 1, head 2"),
        ("ArrowUp", "Layer 0, head 2"),
        ("ArrowUp", "Layer 5, head 2"),
    ):
        reader.keyboard.press(key)
        expect(panel.get_by_role("radio", checked=True)).to_be_focused()
        expect(panel.locator(".real-model-title")).to_have_text(name)
    assert panel.locator(".real-model-grid [tabindex='0']").count() == 1
    numbers = panel.locator(".real-model-grid span").all_text_contents()
    assert numbers == ["", *map(str, range(12)), *map(str, range(6))]
    panel.get_by_label("Query").select_option("5")
    row = shown_weights(reader)[5]
    said = panel.locator(".real-model-spoken").text_content()
    assert said.startswith("“flooded” looks at: “")
    assert f"{row.max():.2f}" in said
    assert panel.locator(".real-model-pictures line").count() == (row >= 0.05).sum()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_in_the_panel(reader: Page, width: str, scheme: str):
    reader.set_viewport_size({"width": WIDTHS[width], "height": 900})
    reader.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    if not reader.evaluate("() => 'axe' in window"):
        reader.evaluate(AXE.read_text(encoding="utf-8"))
    found = reader.evaluate(AXE_RUN, [".real-model", AXE_OPTIONS])
    assert found["violations"] == []
    assert reader.evaluate("() => document.documentElement.scrollWidth") <= WIDTHS[width]


def test_it_follows_what_is_typed(reader: Page):
    panel = reader.locator(".real-model")
    field = panel.get_by_label("Sentence", exact=True)
    query = panel.get_by_label("Query")
    look(reader, "One sentence.")
    status(reader, "5 tokens, 72 heads.")
    expect(panel.get_by_text("those of the first sentence")).to_be_hidden()
    query.select_option("1")
    panel.get_by_label("Another, to compare").fill(OTHER)
    expect(panel.get_by_text("those of the first sentence")).to_be_visible(timeout=LONG)
    expect(query).to_have_value("1")
    field.fill("Attention!")
    expect(reader.locator(".real-model-tokens li")).to_have_count(4, timeout=LONG)
    expect(query).to_have_value("")
    look(reader, "word " * 50)
    status(reader, "52 tokens are too many")
    look(reader, "  ")
    status(reader, "Type a sentence.")


def test_python_that_was_stopped_can_be_loaded_again(reader: Page):
    reader.evaluate("() => bookPython.stop()")
    look(reader, "Attention, please.")
    status(reader, "Load the model again")
    expect(reader.locator(".real-model [type=submit]")).to_have_text("Load the model")


def test_without_webassembly_the_still_picture_stands_and_the_page_says_why(
    browser: Browser, home: str
):
    context = browser.new_context()
    context.add_init_script("delete window.WebAssembly")
    page = context.new_page()
    page.goto(f"{home}/{CHAPTER}.html")
    expect(page.locator(".real-model")).to_contain_text("no WebAssembly")
    assert page.locator(".real-model input").count() == 0
    assert page.locator("#fig-model-question img").count() == 1
    context.close()
