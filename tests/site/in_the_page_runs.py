"""A chapter's cells, run in the page, beside what the notebook stores."""

import base64
import re
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
from execute_notebooks import ROOT
from nbformat import NotebookNode
from PIL import Image, ImageFilter
from playwright.sync_api import Page

sys.path.insert(0, str(ROOT / "_ext"))
import in_the_page
import real_model

CHAPTERS = {
    path.relative_to(ROOT).with_suffix("").as_posix(): in_the_page.cells_of(path)
    for path in sorted(ROOT.glob("chapters/**/*.ipynb"))
}
RUNNING = [name for name, cells in CHAPTERS.items() if any(not c["why"] for c in cells)]
# What cannot be the same, by words of the cell, and why. A line that is not needed fails.
OTHER_TEXT = {
    "def train(width, scale, seed, size=0.5):": "a saturated softmax multiplies rounding errors",
}
OTHER_FIGURE = {
    "Factors make straight lines": "two versions of Matplotlib label a logarithmic axis otherwise",
}
RUN = "([code, options]) => bookPython.run(code, options)"


def stored_cells(chapter: str) -> list[NotebookNode]:
    cells = nbformat.read(ROOT / f"{chapter}.ipynb", as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def run_chapter(page: Page, chapter: str) -> Iterator[tuple[NotebookNode, dict]]:
    """Each runnable cell and its result, in the order of the page, in one namespace."""
    goes_on = False
    if any("reference.minilm()" in cell["code"] for cell in CHAPTERS[chapter]):
        load_model(page)
    for cell, stored in zip(CHAPTERS[chapter], stored_cells(chapter), strict=True):
        code = cell["preamble"] if cell["why"] else cell["code"]
        options = {"folder": str(Path(chapter).parent), "goesOn": goes_on}
        if not code:
            continue
        result = page.evaluate(RUN, [code, options])
        goes_on = True
        if not cell["why"]:
            yield stored, result


def load_model(page: Page) -> None:
    """What the panel of the chapter on a real model does when a reader asks for the model."""
    file = f"{page.url.partition('/chapters/')[0]}/{real_model.folder_of_model()}/minilm.npz"
    page.evaluate("file => bookPython.file(file, 'minilm.npz')", file)


def assert_runs_as_printed(page: Page, chapter: str) -> None:
    found = {
        stored.source: list(differences(stored, result))
        for stored, result in run_chapter(page, chapter)
    }
    assert found
    assert {source: what for source, what in found.items() if what} == {}


def differences(stored: NotebookNode, result: dict) -> Iterator[str]:
    """What a run in the page shows otherwise than the book prints it."""
    if result["error"]:
        yield result["error"]["traceback"]
        return
    compared = "nbval-ignore-output" not in stored.metadata.get("tags", [])
    if compared and (printed(stored) != shown(result)) != excepted(stored, OTHER_TEXT):
        yield f"{printed(stored)!r} is printed, the page shows {shown(result)!r}"
    yield from drawn_otherwise(pages_of(stored), pages_of_run(result))
    figures = figures_of(stored), figures_of_run(result)
    if len(figures[0]) != len(figures[1]):
        yield f"{len(figures[1])} figures instead of {len(figures[0])}"
    for one, other in zip(*figures, strict=False):
        found = list(unlike(one, other))
        if bool(found) != excepted(stored, OTHER_FIGURE):
            yield from found or ["a figure is expected to be drawn otherwise, and is not"]


def excepted(stored: NotebookNode, reasons: dict[str, str]) -> bool:
    return any(words in stored.source for words in reasons)


def printed(stored: NotebookNode) -> str:
    texts = []
    for output in stored.outputs:
        data = output.get("data", {})
        if output.output_type == "stream":
            texts.append(output.text)
        elif "text/html" not in data and not any(kind.startswith("image/") for kind in data):
            texts.append(data.get("text/plain", ""))
    return "".join(texts).strip()


def shown(result: dict) -> str:
    kinds = ("stdout", "stderr", "text")
    return "".join(o["text"] for o in result["outputs"] if o["type"] in kinds).strip()


def pages_of(stored: NotebookNode) -> list[str]:
    return [o.data["text/html"] for o in stored.outputs if "text/html" in o.get("data", {})]


def pages_of_run(result: dict) -> list[str]:
    return [output["html"] for output in result["outputs"] if output["type"] == "html"]


def drawn_otherwise(stored: list[str], run: list[str]) -> Iterator[str]:
    """The HTML of live figures: the same words, and the same numbers to rounding."""
    number = r"-?\d+\.?\d*(?:e-?\d+)?"
    if len(stored) != len(run):
        yield f"{len(run)} live figures instead of {len(stored)}"
    for one, other in zip(stored, run, strict=False):
        numbers = [np.array([float(n) for n in re.findall(number, html)]) for html in (one, other)]
        if re.sub(number, "#", one) != re.sub(number, "#", other):
            yield "the live figure has other words"
        elif not np.allclose(*numbers, rtol=1e-6, atol=1e-6):
            yield "the live figure has other numbers"


def figures_of(stored: NotebookNode) -> list[Image.Image]:
    data = [o.data["image/png"] for o in stored.outputs if "image/png" in o.get("data", {})]
    return [Image.open(BytesIO(base64.b64decode(png))) for png in data]


def figures_of_run(result: dict) -> list[Image.Image]:
    data = [output["data"] for output in result["outputs"] if output["type"] == "png"]
    return [Image.open(BytesIO(base64.b64decode(png))) for png in data]


def unlike(one: Image.Image, other: Image.Image) -> Iterator[str]:
    """What tells apart two drawings of one thing by two versions of Matplotlib."""
    if np.ptp(np.asarray(other.convert("L"))) < 100:
        yield "a blank figure"
    if np.abs(np.subtract(one.size, other.size)).max() > 0.02 * max(one.size):
        yield f"a figure of {other.size} instead of {one.size} pixels"
    elif (found := distance(one, other)) > FAR:
        yield f"a figure that is drawn otherwise ({found:.2f})"


FAR = 0.2
WIDTH = 150


def distance(one: Image.Image, other: Image.Image) -> float:
    """How far the colours of a place are from all that the other figure has near there: 0 to 1.

    Letters that moved by some pixels count for nothing, a curve that went elsewhere for much.
    """
    height = round(WIDTH * one.height / one.width)
    small = [
        picture.convert("RGB").resize((WIDTH, height), Image.Resampling.BOX)
        for picture in (one, other)
    ]
    worst = 0.0
    for picture, beside in (small, small[::-1]):
        low, high = (
            np.asarray(beside.filter(near(5)), int)
            for near in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
        )
        colours = np.asarray(picture, int)
        away = np.clip(np.maximum(colours - high, low - colours), 0, 255).max(-1)
        blurred = Image.fromarray(away.astype(np.uint8)).filter(ImageFilter.BoxBlur(1))
        worst = max(worst, float(np.asarray(blurred).max()) / 255)
    return worst
