"""The table of symptoms: complete, its lines are what they are called, and its links lead back."""

import re
import sys
from itertools import pairwise

import nbformat
import numpy as np
import pytest
from execute_notebooks import ROOT

from attn_core.diagnosis import CATALOGUE, CHOICES, Case
from attn_core.diagnosis.mistakes import MISTAKES, recipe_of
from attn_core.diagnosis.recipe import attend

sys.path.insert(0, str(ROOT / "_ext"))
from mistake_boxes import Box, boxes_below, boxes_of, markdown_of

PAGE = ROOT / "chapters/appendix/mistakes.ipynb"
CELLS = nbformat.read(PAGE, as_version=4).cells
TEXT = "\n\n".join(cell.source for cell in CELLS)
LABELS = re.findall(r"^\((symptom-[\w-]+)\)=$", TEXT, flags=re.M)
COMPUTED = {mistake.name: mistake for mistake in MISTAKES}


def test_every_symptom_has_one_place_and_is_in_the_index():
    assert len(LABELS) == len(set(LABELS)) >= 28
    index = re.findall(r"<(symptom-[\w-]+)>`", CELLS[0].source)
    assert sorted(index) == sorted(LABELS)


def test_every_row_has_code_and_lists_its_boxes():
    for title, right in pairwise(CELLS):
        labels = re.findall(r"^\((symptom-[\w-]+)\)=$", title.source, flags=re.M)
        if labels:
            assert right.cell_type == "code"
            assert '"right' in right.source
            assert f":::{{mistake-boxes}} {' '.join(labels)}\n:::" in title.source


def row_names() -> set[str]:
    """What the page names: beside a line of code, or in the text of a row."""
    code = "\n".join(cell.source for cell in CELLS if cell.cell_type == "code")
    text = "\n".join(c.source for c in CELLS if "{mistake-boxes}" in c.source)
    return {*re.findall(r'"([^"]+)":', code), *re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", text)}


def test_every_mistake_has_a_row_and_no_choice_has():
    names = {mistake.name for mistake in CATALOGUE}
    assert names >= CHOICES
    assert names & row_names() == names - CHOICES


def executed_lines() -> dict[str, tuple[object, dict]]:
    """Each line of the page by its name, and the variables of the page when it was shown."""
    shown: dict[str, tuple[object, dict]] = {}
    names: dict[str, object] = {}

    def keep(test, lines):
        shown.update({name: (line, dict(names)) for name, line in lines.items()})

    import torch

    default = torch.get_default_dtype()
    try:
        for cell in CELLS:
            if cell.cell_type == "code":
                exec(cell.source, names)
                names["show"] = keep
    finally:
        torch.set_default_dtype(default)
    return shown


@pytest.fixture(scope="module")
def lines():
    return executed_lines()


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def is_what_it_is_called(name: str, line, page: dict) -> bool:
    """Whether a line gives what the catalogue's recipe of that name gives for the page's example.

    A line stands for weights, scores with or without their scale, an output, a mask, or a function
    from scores to weights.
    """
    query, key, value, scores = (page[x].numpy() for x in ("query", "key", "value", "scores"))
    past = np.tri(query.shape[-2], dtype=bool)[None, None]
    mask = None
    if callable(line):
        shown = line(page["scores"]).numpy()
        real = page["real"].numpy()
        mask = np.broadcast_to(real & (name != "mask finite"), past.shape)
    else:
        shown = line.detach().numpy()
        if name.startswith("mask"):
            mask = past
    case = Case(query, key, value, mask, name.startswith("causal"))
    found = [shown]
    if shown.dtype == bool:
        found = [softmax(np.where(shown, scores, -1e300)) * shown]
    elif not callable(line):
        found += [softmax(shown), softmax(shown / query.shape[-1] ** 0.5)]
    return any(
        one.shape == right.shape and np.allclose(one, right, rtol=0, atol=1e-12)
        for one in found
        for right in attend(recipe_of((COMPUTED[name],)), case)
    )


# Shown with inputs of their own; the page's outputs, compared by nbval, are their test.
ELSEWHERE = {
    "elementwise product",
    "query and key swapped",
    "values used as keys",
    "weights transposed",
    "heads attend heads",
    "heads split by view",
    "heads joined by view",
    "batch attends batch",
    "causal at the wrong corner",
    "causal unasked",
    "mask leaves NaN",
    "arg max",
}


@pytest.mark.parametrize("name", sorted(set(COMPUTED) - CHOICES - ELSEWHERE))
def test_a_line_is_what_diagnose_calls_it(name, lines):
    assert is_what_it_is_called(name, *lines[name])


def test_another_line_is_not_what_it_is_called(lines):
    line, page = lines["softmax over heads"]
    assert is_what_it_is_called("softmax over heads", line, page)
    assert not is_what_it_is_called("softmax over batch", line, page)
    line, page = lines["causal ignored"]
    assert not is_what_it_is_called("causal sees one ahead", line, page)


EXAMPLE = """
(mistake-softmax-over-queries)=
:::{admonition} Mistake: softmax over the queries
:class: caution
**What is often written:** `softmax(scores, -2)`

More with this symptom: {ref}`rows <symptom-rows-do-not-sum-to-one>`.
:::
"""


def test_a_box_is_found_with_its_symptoms():
    (box,) = boxes_of(EXAMPLE)
    assert box == Box(
        "mistake-softmax-over-queries",
        "softmax over the queries",
        ("symptom-rows-do-not-sum-to-one",),
    )


def objections_to_boxes(text: str) -> list[str]:
    """What is wrong with the mistake boxes of a page."""
    boxes = boxes_of(text)
    found = [f"{box.label} names no symptom" for box in boxes if not box.symptoms]
    found += [
        f"{box.label} links to {symptom}, and the table has no such row"
        for box in boxes
        for symptom in box.symptoms
        if symptom not in LABELS
    ]
    opened = len(re.findall(r"^:{3,}\{admonition\} Mistake\b", text, flags=re.M))
    labelled = len(re.findall(r"^\(mistake-[\w-]+\)=$", text, flags=re.M))
    if not len(boxes) == opened == labelled:
        found.append(f"{opened} boxes, {labelled} labels, {len(boxes)} boxes with a label")
    return found


@pytest.mark.parametrize(
    ("old", "new", "objection"),
    [
        ("(mistake-softmax-over-queries)=\n", "", "1 boxes, 0 labels"),
        ("<symptom-rows-do-not-sum-to-one>", "<symptom-nowhere>", "no such row"),
        ("{ref}`rows <symptom-rows-do-not-sum-to-one>`", "nothing", "names no symptom"),
        ("Mistake: softmax", "Mistake softmax", "0 boxes with a label"),
    ],
)
def test_a_wrong_box_is_noticed(old, new, objection):
    assert objections_to_boxes(EXAMPLE) == []
    assert objection in "; ".join(objections_to_boxes(EXAMPLE.replace(old, new)))


CHAPTERS = sorted(
    path
    for path in ROOT.glob("chapters/**/*.ipynb")
    if path != PAGE and ".ipynb_checkpoints" not in path.parts
)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_boxes_link_to_rows(path):
    assert objections_to_boxes(markdown_of(path)) == []


def test_no_two_boxes_have_one_label():
    labels = [box.label for box in boxes_below(ROOT)]
    assert sorted(labels) == sorted(set(labels))
