"""A reader runs, changes, stops and resets cells in the page, by mouse and by keyboard."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from browser import FLAGS, SCHEMES, WIDTHS, chromium, violations
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

CHAPTER = "chapters/concepts/score_normalise_aggregate"
OTHER = "chapters/concepts/heads"
LONG = 60_000  # milliseconds: the first run loads and starts Python


class Site:
    """The built site below a folder of a host, and the bytes that it sent."""

    def __init__(self, folder: Path) -> None:
        self.sent: dict[str, int] = {}
        self.missing: set[str] = set()  # ends of paths that the host does not find
        self.policy = ""
        site = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def translate_path(self, path: str) -> str:
                inside = path.removeprefix("/below/a/folder")
                hidden = any(path.endswith(end) for end in site.missing)
                return str(folder / "nothing") if hidden else super().translate_path(inside)

            def end_headers(self) -> None:
                if site.policy:
                    self.send_header("Content-Security-Policy", site.policy)
                super().end_headers()

            def copyfile(self, source, target) -> None:
                content = source.read()
                site.sent[self.path] = site.sent.get(self.path, 0) + len(content)
                target.write(content)

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Handler, directory=str(folder))
        )
        self.home = f"http://127.0.0.1:{self.server.server_port}/below/a/folder"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def host(site: Path) -> Iterator[Site]:
    host = Site(site)
    yield host
    host.server.shutdown()


@pytest.fixture
def poor(host: Site) -> Iterator[Site]:
    """The host, to be made worse for one test."""
    yield host
    host.missing, host.policy = set(), ""


@pytest.fixture(scope="module")
def context(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """One reader's browser with a cache on disk: the one in memory takes no large files."""
    context = browser.browser_type.launch_persistent_context(
        tmp_path_factory.mktemp("reader"),
        executable_path=chromium(),
        args=FLAGS,
        viewport={"width": WIDTHS["desktop"], "height": 900},
    )
    yield context
    context.close()


@pytest.fixture(scope="module")
def reader(context: BrowserContext, host: Site) -> Page:
    """A page of the book, in which Python is started by the first test that runs a cell."""
    page = context.new_page()
    page.asked = []  # type: ignore[attr-defined]
    page.on("request", lambda request: page.asked.append(request.url))  # type: ignore[attr-defined]
    page.goto(f"{host.home}/{CHAPTER}.html")
    return page


def cell_with(page: Page, code: str) -> Locator:
    return page.locator(".cell:has(.in-page-bar)").filter(has_text=code).first


def control(cell: Locator, name: str) -> Locator:
    return cell.locator(".in-page-bar").get_by_role("button", name=f"{name}, cell")


def run(cell: Locator) -> None:
    control(cell, "Run").click()
    expect(cell.locator(".in-page-status")).to_contain_text("Ran in", timeout=LONG)


def edit(cell: Locator, code: str) -> Locator:
    if control(cell, "Edit").is_visible():
        control(cell, "Edit").click()
    area = cell.locator("textarea")
    area.fill(code)
    return area


def texts(box: Locator) -> list[str]:
    return [text.strip() for text in box.locator("pre").all_text_contents()]


@pytest.fixture
def scores(reader: Page) -> Iterator[Locator]:
    """A short cell that leans on cells above it, reset after each test."""
    cell = cell_with(reader, "scores = query @ key.T")
    yield cell
    if control(cell, "Stop").is_visible():
        control(cell, "Stop").click()
    if control(cell, "Reset").is_visible():
        control(cell, "Reset").click()


def test_nothing_is_loaded_before_a_cell_is_run(reader: Page):
    own = [url for url in reader.asked if "/in_the_page/" in url]
    assert sorted(url.rpartition("/")[2] for url in own) == ["cells.css", "cells.js", "python.js"]


def test_what_the_page_loads_weighs_at_most_30_kilobytes(site: Path, host: Site, reader: Page):
    weight = sum(n for path, n in host.sent.items() if "/in_the_page/" in path)
    page = (site / f"{CHAPTER}.html").read_text("utf-8")
    told = page[page.index('class="page-cells">') :].partition("</script>")[0]
    assert 1_000 < weight + len(told) < 30_000


def test_a_run_shows_what_is_printed_and_says_how_far_it_is(reader: Page, scores: Locator):
    printed = scores.locator(".cell_output:not(.in-page-live)").inner_text()
    control(scores, "Run").click()
    expect(scores.locator(".in-page-bytes")).to_contain_text("of 25.1 MB", timeout=LONG)
    expect(control(scores, "Stop")).to_be_visible()
    expect(scores.locator(".in-page-status")).to_contain_text("Ran in", timeout=LONG)
    expect(scores.locator(".in-page-status")).to_contain_text("cells above")
    assert scores.locator(".in-page-live").inner_text() == printed
    expect(scores.locator(".cell_output:not(.in-page-live)")).to_be_hidden()


def test_nothing_is_asked_of_a_third_party(reader: Page, host: Site, scores: Locator):
    run(scores)
    assert len(reader.asked) > 20
    assert [u for u in reader.asked if not u.startswith((host.home, "data:", "blob:"))] == []


def test_a_changed_cell_and_those_below_it_follow(reader: Page, scores: Locator):
    edit(scores, 'scores = query @ key.T\nprint("mine", scores.shape)\nscores = scores * 0')
    run(scores)
    expect(scores.locator(".in-page-live")).to_have_text("mine (1, 4)")
    below = cell_with(reader, "powers = np.exp(scores[0])")
    run(below)
    expect(below.locator(".in-page-live")).to_contain_text("0.2500")
    control(scores, "Reset").click()
    expect(scores.locator("textarea")).to_have_count(0)
    expect(scores.locator(".cell_output:not(.in-page-live)")).to_be_visible()
    expect(scores.locator(".in-page-live")).to_be_hidden()
    run(below)
    expect(below.locator(".in-page-live")).not_to_contain_text("0.2500")


def test_an_error_is_shown_as_python_shows_it(scores: Locator):
    edit(scores, "def halve(x):\n    return x / 0\n\nhalve(1)").press("Shift+Enter")
    expect(scores.locator(".in-page-status")).to_have_text("Ended with an error.", timeout=LONG)
    shown = scores.locator(".in-page-live .traceback").inner_text()
    assert shown.startswith('Traceback (most recent call last):\n  File "this cell", line 4')
    assert "return x / 0" in shown
    assert shown.strip().endswith("ZeroDivisionError: division by zero")


def test_an_error_above_is_shown_where_the_reader_ran(reader: Page, scores: Locator):
    edit(scores, "scores = query @ keys.T")
    below = cell_with(reader, "powers = np.exp(scores[0])")
    control(below, "Run").click()
    expect(below.locator(".in-page-live")).to_contain_text("cell above: scores = query @ keys.T")
    expect(below.locator(".in-page-live")).to_contain_text("name 'keys' is not defined")
    control(below, "Reset").click()


def test_what_a_browser_lacks_is_said(scores: Locator):
    edit(scores, "import torch\nfrom attn_core import attention, plot\ntorch.zeros(2)")
    control(scores, "Run").click()
    expect(scores.locator(".in-page-live")).to_contain_text("torch.zeros needs PyTorch")


def test_a_figure_takes_the_place_of_the_printed_one(reader: Page):
    cell = cell_with(reader, "Softmax makes positive weights")
    cell.locator("summary").first.click()
    run(cell)
    figure = cell.locator(".in-page-live figure")
    printed = cell.locator(".cell_output:not(.in-page-live)")
    assert figure.locator("figcaption").inner_text() in printed.text_content()
    assert figure.locator("img").get_attribute("alt") == printed.locator("img").get_attribute("alt")
    assert figure.locator("img").evaluate("image => image.naturalWidth") > 500
    edit(
        cell, "fig, ax = plt.subplots(figsize=(2, 1))\nax.plot([1, 2])\nplt.show()\nprint('after')"
    )
    run(cell)
    assert figure.locator("img").get_attribute("alt") == "The figure that your code drew"
    assert cell.locator(".in-page-live").inner_text().strip().endswith("after")


def test_a_live_figure_lives(reader: Page):
    cell = cell_with(reader, "live_attention")
    if not control(cell, "Run").is_visible():
        cell.locator("summary").first.click()
    run(cell)
    slider = cell.locator(".in-page-live input[type=range]").first
    words = cell.locator(".in-page-live svg text")
    before = words.all_text_contents()
    slider.focus()
    slider.press("Home")
    assert words.all_text_contents() != before


def test_stop_ends_an_endless_loop_and_the_next_run_starts_anew(scores: Locator):
    edit(scores, "while True:\n    pass")
    control(scores, "Run").click()
    expect(scores.locator(".in-page-status")).to_contain_text("Running", timeout=LONG)
    control(scores, "Stop").click()
    expect(scores.locator(".in-page-status")).to_contain_text("Stopped.")
    edit(scores, "print(6 * 7)")
    run(scores)
    expect(scores.locator(".in-page-live")).to_have_text("42")


def test_all_cells_above_run_in_order(reader: Page):
    cell = cell_with(reader, "scores = query @ key.T")
    run(cell)
    control(cell, "Run all above").click()
    expect(cell.locator(".in-page-status")).to_contain_text("after all cells above", timeout=LONG)
    live = reader.locator(".in-page-live:not([hidden])")
    assert live.count() >= 5
    for index in range(live.count()):
        box = live.nth(index)
        if not box.locator("figure").count():
            printed = box.locator("xpath=preceding-sibling::*[contains(@class,'cell_output')]")
            assert texts(box) == texts(printed)


def test_a_cell_is_run_and_changed_by_keyboard_alone(reader: Page, scores: Locator):
    control(scores, "Edit").focus()
    reader.keyboard.press("Enter")
    area = scores.locator("textarea")
    expect(area).to_be_focused()
    assert "Escape leaves" in area.get_attribute("aria-label")
    reader.keyboard.press("Control+a")
    reader.keyboard.type("def f(x):\nif x:\nreturn 1\nreturn 2")
    assert area.input_value() == "def f(x):\n    if x:\n        return 1\n    return 2"
    reader.keyboard.press("Enter")
    reader.keyboard.press("Shift+Tab")  # nothing is left to take away
    reader.keyboard.type("print([")
    reader.keyboard.press("Enter")
    reader.keyboard.type("f(0)])")
    assert area.input_value().splitlines()[-2:] == ["print([", "    f(0)])"]
    reader.keyboard.press("Control+a")
    reader.keyboard.press("Tab")
    assert area.input_value().startswith("    def f(x):\n        if x:")
    reader.keyboard.press("Control+z")
    assert area.input_value().startswith("def f(x):")
    reader.keyboard.press("Control+Enter")
    expect(scores.locator(".in-page-live")).to_have_text("[2]", timeout=LONG)
    expect(area).to_be_focused()
    reader.keyboard.press("Escape")
    expect(control(scores, "Run")).to_be_focused()
    reader.keyboard.press("Tab")
    reader.keyboard.press("Tab")
    expect(control(scores, "Reset")).to_be_focused()
    reader.keyboard.press("Enter")
    expect(control(scores, "Edit")).to_be_focused()


def test_a_second_page_loads_nothing_anew(context: BrowserContext, host: Site, reader: Page):
    host.sent.clear()
    page = context.new_page()
    page.goto(f"{host.home}/{OTHER}.html")
    cell = page.locator(".cell:has(.in-page-bar):not(.tag_hide-input)").first
    run(cell)
    again = {path: size for path, size in host.sent.items() if "/in_the_page/" in path and size}
    page.close()
    assert again == {}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_axe_finds_nothing_in_controls_that_are_used(
    reader: Page, scores: Locator, width: int, scheme: str
):
    reader.set_viewport_size({"width": width, "height": 900})
    reader.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    edit(scores, "print(scores)\n1 / 0").press("Shift+Enter")
    expect(scores.locator(".in-page-status")).to_have_text("Ended with an error.", timeout=LONG)
    figure = cell_with(reader, "Softmax makes positive weights")
    if not control(figure, "Run").is_visible():
        figure.locator("summary").first.click()
    assert violations(reader, f"{width} {scheme}") == []
    assert reader.evaluate("document.documentElement.scrollWidth") <= width + 1


# --- where Python cannot run -------------------------------------------------------------------


def note_of(browser: Browser, address: str, **options: object) -> tuple[str, int]:
    """What the page says about running its cells, and how many controls it shows."""
    without = options.pop("without", "")
    context = browser.new_context(**options)
    page = context.new_page()
    if without:
        page.add_init_script(f"delete window.{without}")
    page.goto(address)
    note = page.locator(".in-page-note").all_text_contents()
    found = " ".join(note), page.locator(".in-page-bar, .in-page-why").count()
    context.close()
    return found


def test_without_webassembly_the_page_says_so(browser: Browser, host: Site):
    note, controls = note_of(browser, f"{host.home}/{CHAPTER}.html", without="WebAssembly")
    assert "this browser has no WebAssembly" in note
    assert controls == 0


def test_a_page_opened_as_a_file_says_how_to_serve_it(browser: Browser, site: Path):
    note, controls = note_of(browser, (site / f"{CHAPTER}.html").as_uri())
    assert "make serve" in note
    assert controls == 0


def test_without_script_the_page_is_what_it_was(browser: Browser, host: Site):
    assert note_of(browser, f"{host.home}/{CHAPTER}.html", java_script_enabled=False) == ("", 0)


@pytest.mark.parametrize("name", ["pyodide.asm.wasm", "book.zip", "worker.js"])
def test_a_file_that_is_missing_is_named(browser: Browser, poor: Site, name: str):
    poor.missing = {name}
    page = browser.new_page()
    page.goto(f"{poor.home}/{CHAPTER}.html")
    cell = cell_with(page, "scores = query @ key.T")
    control(cell, "Run").click()
    expect(cell.locator(".in-page-status")).to_contain_text(name, timeout=LONG)
    page.close()


def test_a_policy_that_forbids_webassembly_is_named(browser: Browser, poor: Site):
    poor.policy = "script-src 'self' 'unsafe-inline'"
    page = browser.new_page()
    page.goto(f"{poor.home}/{CHAPTER}.html")
    cell = cell_with(page, "scores = query @ key.T")
    control(cell, "Run").click()
    expect(cell.locator(".in-page-status")).to_contain_text("forbids WebAssembly", timeout=LONG)
    page.close()
