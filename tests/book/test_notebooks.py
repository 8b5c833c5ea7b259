"""Every notebook keeps the rules of CONTRIBUTING.md, and every rule notices a planted defect."""

import copy
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from chapter_rules import NOTEBOOK_RULES, PARTS_RULES, code_cells, objections, setup_objections
from execute_notebooks import NOTEBOOK_METADATA, ROOT, normalise, public_address, with_setup_cell
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

NOTEBOOKS = sorted(ROOT.glob("chapters/**/*.ipynb"))
PROMPTS = {"code_prompt_show": "Show the solution's code", "code_prompt_hide": "Hide it"}


def test_every_part_has_a_chapter():
    parts = {"background", "concepts", "math", "code", "applications"}
    assert {path.parent.name for path in NOTEBOOKS} >= parts


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rules(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert objections(notebook, chapter=path.parent.name not in ("chapters", "appendix")) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_a_setup_cell_exactly_when_the_address_is_known(path: Path):
    assert setup_objections(nbformat.read(path, as_version=4), public_address()) == []


def good_chapter() -> NotebookNode:
    """A small chapter that keeps every rule."""
    picture = new_output(
        "display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}
    )
    figure = new_code_cell("plt.plot([1, 2])\nplt.show()", outputs=[picture])
    figure.metadata["mystnb"] = {
        "image": {"alt": "A line that rises from one to two, so more is more."},
        "figure": {"caption": "A line", "name": "fig-line"},
    }
    timed = new_code_cell("print(time())", outputs=[new_output("stream", text="12 ms")])
    timed.metadata.update(tags=["nbval-ignore-output"], nbval_reason="a time of this machine")
    meant = new_code_cell("1 / 0", outputs=[new_output("error", ename="E", evalue="division")])
    meant.metadata["tags"] = ["raises-exception"]
    box = (
        "(mistake-{0})=\n:::{{admonition}} Mistake: {0}\n:class: caution\nThe fix: stop it. "
        "More: {{ref}}`rows <symptom-{0}>`.\n:::"
    )
    imports = new_code_cell("import torch\n\ntorch.manual_seed(0)")
    imports.metadata["tags"] = ["hide-input"]
    folded = new_code_cell("print(2)\ndiagnose(mine)", outputs=[new_output("stream", text="2")])
    folded.metadata.update(tags=["hide-cell"], mystnb=PROMPTS)
    exercises = [
        cell
        for number in (1, 2, 3)
        for cell in (
            new_markdown_cell(f"### Exercise {number}: prove it"),
            new_markdown_cell(":::{dropdown} Solution\nBy hand.\n:::"),
        )
    ]
    cells = [
        new_markdown_cell(
            "# Title\n\n**After this chapter you can …** add.\n\n:::{dropdown} Prerequisites\n"
            "| Concept | Where | Why |\n|---|---|---|\n:::\n\n"
            "**Time:** 5 minutes to read, 1 second to run."
        ),
        imports,
        new_markdown_cell("## The question\n\n```python\n## no heading\n```"),
        new_markdown_cell("## An idea\n\n```{math}\n:label: eq-idea\na = b\n```"),
        figure,
        new_markdown_cell(box.format("loud")),
        timed,
        new_markdown_cell(box.format("late")),
        meant,
        new_markdown_cell("## Exercises"),
        *exercises,
        folded,
        new_markdown_cell("## Summary\n\n- 1\n- 2\n- 3\n- 4\n- 5"),
        new_markdown_cell("## Further reading\n\n{cite:t}`someone2020title`"),
    ]
    notebook = new_notebook(cells=cells, metadata=copy.deepcopy(NOTEBOOK_METADATA))
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = count
    return nbformat.from_dict(notebook)


def cell_with(notebook: NotebookNode, text: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if text in cell.source)


def replaced(old: str, new: str) -> Callable[[NotebookNode], None]:
    """A defect: in the first cell that has the old text, the new one stands instead."""

    def plant(notebook: NotebookNode) -> None:
        cell = cell_with(notebook, old)
        cell.source = cell.source.replace(old, new)

    return plant


def output_of(source: str, *outputs: NotebookNode) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        cell_with(notebook, source).outputs = [nbformat.from_dict(output) for output in outputs]

    return plant


def metadata_of(source: str, **metadata: object) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        cell_with(notebook, source).metadata = nbformat.from_dict(metadata)

    return plant


def data_chapter_of(time: str) -> Callable[[NotebookNode], None]:
    """A chapter that reads real data, which may take longer, and takes this long."""

    def plant(notebook: NotebookNode) -> None:
        replaced("1 second", time)(notebook)
        replaced("import torch", "import torch\nfrom attn_core.data import dates")(notebook)

    return plant


def stripped(notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None


def run_out_of_order(notebook: NotebookNode) -> None:
    first, second = code_cells(notebook)[:2]
    first.execution_count, second.execution_count = 2, 1


def two_parts_swapped(notebook: NotebookNode) -> None:
    replaced("## Summary", "## Later")(notebook)
    replaced("## Exercises", "## Summary")(notebook)
    replaced("## Later", "## Exercises")(notebook)


def other_kernel(notebook: NotebookNode) -> None:
    notebook.metadata.kernelspec.display_name = "my-laptop"


def text_output(text: str) -> NotebookNode:
    return new_output("execute_result", data={"text/plain": text})


FIGURE, TIMED, FOLDED = "plt.plot", "print(time())", "print(2)"
SVG = new_output("display_data", data={"text/html": "<svg><path/></svg>"})
WIDGET = new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})
PICTURE = new_output("display_data", data={"image/png": "iVBORw0KGgo="})
ALT = {"alt": "A line that rises from one to two, so more is more."}

DEFECTS = {
    "opening_is_complete": [
        replaced("# Title", "Title"),
        replaced("**After", "**Before"),
        replaced("| Concept |", "| Idea |"),
        replaced(":::{dropdown} Prerequisites\n", ""),
        replaced("**Time:** 5", "**Time:** some"),
    ],
    "first_code_cell_seeds": [
        replaced("torch.manual_seed(0)", "print"),
        metadata_of("import torch"),
    ],
    "one_sitting_is_enough": [
        replaced("## An idea", "## An idea\n\n" + "word " * 3001),
        replaced("**Time:** 5", "**Time:** 26"),
        replaced("1 second", "46 seconds"),
        replaced("1 second", "1 minute"),
        data_chapter_of("121 seconds"),
    ],
    "picture_comes_first": [output_of(FIGURE)],
    "visible_code_fits": [
        replaced("print(time())", "print(time())  #" + "-" * 61),
        replaced("print(time())", "print(time())" + "\n1" * 25),
    ],
    "numbers_are_shown": [output_of(TIMED, text_output("same: True\nFalse\nequal True"))],
    "parts_are_in_order": [
        replaced("## The question", "## A question"),
        two_parts_swapped,
        replaced("## An idea", "### An idea"),
        replaced("## Further reading", "## Further reading\n\n## More"),
    ],
    "mistakes_have_boxes": [
        replaced("(mistake-loud)=\n", ""),
        replaced(":class: caution\n", ""),
        replaced("<symptom-late>", "<late>"),
        replaced("Mistake: loud", "Note: loud"),
    ],
    "documents_stay_outside": [replaced("## An idea", "## An idea of D3")],
    "exercises_have_solutions": [
        replaced("### Exercise 3: prove it", "More"),
        replaced("### Exercise 2:", "### Exercise 4:"),
        replaced(":::{dropdown} Solution", ":::{note}"),
        replaced(":::{dropdown} Solution", ":::{dropdown} Solution\n:open:"),
        metadata_of(FOLDED, tags=[], mystnb=PROMPTS),
        metadata_of(FOLDED, tags=["hide-cell"]),
    ],
    "an_attention_is_marked": [replaced("diagnose(mine)", "print(mine)")],
    "numpy_exercises_say_how_they_are_marked": [
        replaced("diagnose(mine)", 'diagnose(mine, backend="numpy")'),
    ],
    "summary_has_five_lines": [replaced("- 5", "")],
    "reading_is_cited": [replaced("{cite:t}`someone2020title`", "A book")],
    "formulas_are_labelled": [
        replaced(":label: eq-idea\n", ""),
        replaced("```{math}\n:label: eq-idea\na = b\n```", "$a = b$"),
    ],
    "cells_ran_from_top_to_bottom": [
        stripped,
        run_out_of_order,
        replaced("plt.plot([1, 2])\nplt.show()", " "),
    ],
    "outputs_are_stored": [output_of(FIGURE), output_of(TIMED)],
    "errors_are_meant": [
        metadata_of("1 / 0"),
        output_of(TIMED, new_output("stream", name="stderr", text="UserWarning")),
    ],
    "figures_are_described": [
        metadata_of(FIGURE, mystnb={"image": {"alt": "A plot"}, "figure": {"caption": "c"}}),
        metadata_of(FIGURE, mystnb={"image": ALT}),
        output_of(FIGURE, PICTURE, PICTURE),
        output_of(TIMED, SVG),
    ],
    "exemptions_have_reasons": [
        metadata_of(TIMED, tags=["nbval-ignore-output"]),
        metadata_of(TIMED, nbval_reason="a time of this machine"),
        metadata_of(FIGURE, tags=["nbval-skip"]),
        replaced("print(time())", "# NBVAL_IGNORE_OUTPUT\nprint(time())"),
    ],
    "outputs_name_no_machine": [
        output_of(TIMED, text_output("<object at 0x7f2a5c0d1e50>")),
        output_of(TIMED, text_output("saved in /home/someone/book")),
        output_of(TIMED, WIDGET),
    ],
    "metadata_is_clean": [
        other_kernel,
        metadata_of("import torch", execution={"iopub.status.busy": "2026-11-21T08:25:00Z"}),
    ],
}
PLANTED = [
    pytest.param(rule, defect, id=f"{rule}-{number}")
    for rule, defects in DEFECTS.items()
    for number, defect in enumerate(defects)
]


def test_good_chapter_meets_no_objection():
    assert objections(good_chapter(), chapter=True) == []


@pytest.mark.parametrize(
    "change",
    [
        replaced("1 second", "45 seconds"),
        data_chapter_of("120 seconds"),
        replaced("print(time())", "print(time())  #" + "-" * 60),
        replaced("print(time())", "print(time())" + "\n1" * 24),
        output_of("print(time())", text_output("same: True\nFalse")),
    ],
)
def test_at_the_limit_there_is_no_objection(change: Callable[[NotebookNode], None]):
    notebook = good_chapter()
    change(notebook)
    assert objections(notebook, chapter=True) == []


def test_every_rule_has_a_planted_defect():
    assert [rule.__name__ for rule in PARTS_RULES + NOTEBOOK_RULES] == list(DEFECTS)


@pytest.mark.parametrize(("rule", "defect"), PLANTED)
def test_planted_defect_is_found(rule: str, defect: Callable[[NotebookNode], None]):
    notebook = good_chapter()
    defect(notebook)
    assert rule in {what.partition(":")[0] for what in objections(notebook, chapter=True)}


def test_setup_cell_follows_the_address():
    without = good_chapter()
    with_cell = with_setup_cell(without, "https://example.org/book")
    assert setup_objections(without, "") == []
    assert setup_objections(with_cell, "https://example.org/book") == []
    assert setup_objections(without, "https://example.org/book") != []
    assert setup_objections(with_cell, "https://example.org/moved") != []
    assert setup_objections(with_cell, "") != []


def test_setup_cell_is_replaced_not_repeated():
    without = good_chapter()
    once = with_setup_cell(without, "https://example.org/book")
    assert with_setup_cell(once, "https://example.org/book") == once
    assert with_setup_cell(once, "") == without


def test_normalise_cleans_what_a_run_leaves():
    notebook = good_chapter()
    other_kernel(notebook)
    cell_with(notebook, "import torch").metadata["execution"] = {"iopub.status.busy": "now"}
    normalise(notebook)
    assert objections(notebook, chapter=True) == []
