"""What CONTRIBUTING.md asks of a notebook, one rule a function that yields its objections."""

import re
from collections.abc import Iterator

from execute_notebooks import KEPT_CELL_METADATA, NOTEBOOK_METADATA, SETUP_SOURCE
from nbformat import NotebookNode

PARTS = ["The question", "Exercises", "Summary", "Further reading"]
OPENING = {
    "a title": r"\A# \S",
    "the sentence 'After this chapter you can …'": r"\*\*After this chapter you can …?\*\*",
    "the folded table of prerequisites": (
        r"^:::\{dropdown\} Prerequisites\n\| ?Concept ?\| ?Where ?\| ?Why ?\|"
    ),
    "the line of times": r"^\*\*Time:\*\* \d+ minutes? to read, \d+ (second|minute)s? to run\b",
}
MOST_WORDS, MOST_MINUTES, MOST_SECONDS, MOST_SECONDS_WITH_DATA = 3000, 25, 45, 120
MOST_LINES, MOST_COLUMNS, MOST_BOOLEANS = 25, 76, 2
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
BOX = (
    r"^\((mistake-[\w-]+)\)=\n:{3,}\{admonition\} Mistake: \S[^\n]*\n:class: caution\n(.*?)^:{3,}$"
)
SYMPTOM = r"\{ref\}`[^`]*<symptom-[\w-]+>`"
MATHS = r"^(`{3,}|:{3,})\{math\}.*?^\1|\$\$.*?\$\$|\$[^$\n]*\$"
NAMES_OF_DOCUMENTS = r"\bD[0-4]\b"
SEED = r"torch\.manual_seed\(\d+\)|default_rng\(\d+\)"
DROPDOWN = r"\A(:{3,})\{dropdown\} Solution\n.*\n\1\Z"
MARK = r"`attn_core\.diagnose\(\w+, ([^`]+, )?backend=\"numpy\"[^`]*\)`"
MARK_FORM = '`attn_core.diagnose(function, backend="numpy")`'
PROMPTS = {"code_prompt_show", "code_prompt_hide"}
NBVAL_COMMENTS = r"#\s*(NBVAL_\w+|PYTEST_VALIDATE_IGNORE_OUTPUT)"
MACHINE = (
    r"0x[0-9a-fA-F]{6,}|(?<![\w.])/(?:root|home|tmp|work|Users|opt|usr)/\w|site-packages|[A-Z]:\\"
)


def code_cells_of(cells: list[NotebookNode]) -> list[NotebookNode]:
    return [cell for cell in cells if cell.cell_type == "code"]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return code_cells_of(notebook.cells)


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def headings(notebook: NotebookNode) -> Iterator[tuple[int, int, str]]:
    """(cell, level, text) of every heading of the markdown cells, code fences left out."""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            text = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", cell.source, flags=re.M | re.S)
            for marks, title in re.findall(r"^(#+) +(.*?) *$", text, flags=re.M):
                yield index, len(marks), title


def section(notebook: NotebookNode, title: str) -> list[NotebookNode]:
    """The cells from the `##` heading with this title up to the next one."""
    starts = [(i, text) for i, level, text in headings(notebook) if level == 2]
    ends = [i for i, _ in starts[1:]] + [len(notebook.cells)]
    for (start, text), end in zip(starts, ends, strict=False):
        if text == title:
            return notebook.cells[start:end]
    return []


def pictures(cell: NotebookNode) -> list[str]:
    data = [output.data for output in cell.outputs if "data" in output]
    return [mime for bundle in data for mime in bundle if mime.startswith("image/")]


def printed(cell: NotebookNode) -> str:
    """All text that the cell's outputs show."""
    texts = []
    for output in cell.outputs:
        texts += [output.get("text", ""), output.get("evalue", "")]
        texts += [output.get("data", {}).get(mime, "") for mime in ("text/plain", "text/html")]
    return re.sub(r"data:[\w/+;,-]*base64,[\w+/=]*", "", "\n".join(texts))


def opening_is_complete(notebook: NotebookNode) -> Iterator[str]:
    first_code = next(i for i, c in enumerate(notebook.cells) if c.cell_type == "code")
    text = "\n".join(cell.source for cell in notebook.cells[:first_code])
    position = 0
    for what, pattern in OPENING.items():
        found = re.compile(pattern, re.M).search(text, position)
        if found is None:
            yield f"before the first code cell {what} is missing or out of order"
        else:
            position = found.end()


def first_code_cell_seeds(notebook: NotebookNode) -> Iterator[str]:
    own = [cell for cell in code_cells(notebook) if "setup" not in tags(cell)]
    if not re.search(SEED, own[0].source):
        yield "the first code cell sets no seed"
    if not FOLDED & set(tags(own[0])):
        yield "the first code cell, which nobody reads, is not folded"


def prose(notebook: NotebookNode) -> str:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.sub(MATHS, " x ", text, flags=re.M | re.S)


def visible(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in code_cells(notebook) if not FOLDED & set(tags(cell))]


def one_sitting_is_enough(notebook: NotebookNode) -> Iterator[str]:
    words = len(re.findall(r"[A-Za-z\u4e00-\u9fff][\w'’-]*", prose(notebook)))
    if words > MOST_WORDS:
        yield f"{words} words of prose, more than {MOST_WORDS}"
    time = re.search(
        r"\*\*Time:\*\* (\d+) minutes? to read, (\d+) (second|minute)", prose(notebook)
    )
    if time is None:
        return  # opening_is_complete objects
    seconds = int(time[2]) * (60 if time[3] == "minute" else 1)
    with_data = any("attn_core.data" in cell.source for cell in code_cells(notebook))
    most = MOST_SECONDS_WITH_DATA if with_data else MOST_SECONDS
    if int(time[1]) > MOST_MINUTES or seconds > most:
        yield f"{time[0]!r} is more than {MOST_MINUTES} minutes or {most} seconds"


def picture_comes_first(notebook: NotebookNode) -> Iterator[str]:
    if not any(pictures(c) or "<svg" in printed(c) for c in code_cells_of(notebook.cells[:8])):
        yield "no picture in the first eight cells"


def visible_code_fits(notebook: NotebookNode) -> Iterator[str]:
    for cell in visible(notebook):
        lines = cell.source.splitlines()
        if len(lines) > MOST_LINES:
            yield f"{len(lines)} visible lines, more than {MOST_LINES}: {cell.source[:40]!r}"
        for line in lines:
            if len(line) > MOST_COLUMNS:
                yield f"a visible line of more than {MOST_COLUMNS} characters: {line!r}"


def numbers_are_shown(notebook: NotebookNode) -> Iterator[str]:
    shown = [cell for cell in code_cells(notebook) if "hide-cell" not in tags(cell)]
    booleans = [
        line
        for cell in shown
        for line in printed(cell).splitlines()
        if re.search(r"(^|[\s:])(True|False)\s*$", line)
    ]
    if len(booleans) > MOST_BOOLEANS:
        yield f"{len(booleans)} lines of True or False: assert, and print the numbers"


def mistakes_have_boxes(notebook: NotebookNode) -> Iterator[str]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    boxes = re.findall(BOX, text, flags=re.M | re.S)
    announced = len(re.findall(r"^:{3,}\{admonition\} Mistake", text, flags=re.M))
    if announced < 2:
        yield f"{announced} mistake boxes: two or more are needed"
    if announced != len(boxes):
        yield "a mistake box lacks its label mistake-… or the class caution"
    for label, body in boxes:
        if not re.search(SYMPTOM, body):
            yield f"the box {label} does not link to a row of the table of symptoms"


def an_attention_is_marked(notebook: NotebookNode) -> Iterator[str]:
    if not any("diagnose(" in cell.source for cell in section(notebook, "Exercises")):
        yield "no exercise is marked by attn_core.diagnose"


def numpy_exercises_say_how_they_are_marked(notebook: NotebookNode) -> Iterator[str]:
    text = ""
    for cell in section(notebook, "Exercises"):
        if cell.cell_type == "markdown" and cell.source.lstrip("# ").startswith("Exercise"):
            text = cell.source  # "## Exercises" may stand above the first
        marked = re.search(r"diagnose\([^()]*backend=\"numpy\"", cell.source)
        if cell.cell_type == "code" and marked and not re.search(MARK, text):
            yield f"the page cannot mark it: its text lacks {MARK_FORM}: {text[:60]!r}"


def documents_stay_outside(notebook: NotebookNode) -> Iterator[str]:
    named = re.findall(NAMES_OF_DOCUMENTS, prose(notebook))
    introduced = "/chapters/appendix/documents" in prose(notebook)  # the chapter on the listings
    if named and not introduced:
        yield f"documents that the reader has never seen are named: {sorted(set(named))}"


def parts_are_in_order(notebook: NotebookNode) -> Iterator[str]:
    found = [text for _, level, text in headings(notebook) if level == 2]
    named = [text for text in found if text in PARTS]
    if named != PARTS:
        yield f"the parts are {named} and should be {PARTS}"
    elif found[0] != PARTS[0] or found[-1] != PARTS[-1] or found[1] == PARTS[1]:
        yield "a chapter opens with the question, then come its ideas; the reading closes it"


def exercises_have_solutions(notebook: NotebookNode) -> Iterator[str]:
    cells = section(notebook, "Exercises")
    starts = []
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            numbers = re.findall(r"^### Exercise (\d+): \S", cell.source, flags=re.M)
            starts += [(index, int(number)) for number in numbers]
    if [number for _, number in starts] != list(range(1, len(starts) + 1)) or len(starts) < 3:
        yield f"exercises {[n for _, n in starts]}: three or more are needed, numbered from 1"
    ends = [index for index, _ in starts[1:]] + [len(cells)]
    for (start, number), end in zip(starts, ends, strict=False):
        body = cells[start + 1 : end]
        solved = [
            c for c in body if c.cell_type == "markdown" and re.search(DROPDOWN, c.source, re.S)
        ]
        if not solved:
            yield f"exercise {number} has no cell that is one dropdown 'Solution'"
        elif any(":open:" in cell.source for cell in solved):
            yield f"the solution of exercise {number} is open"
        for cell in body:
            prompts = cell.metadata.get("mystnb", {}).keys() & PROMPTS
            if cell.cell_type == "code" and ("hide-cell" not in tags(cell) or prompts != PROMPTS):
                yield f"code in the solution of exercise {number} is not folded with its prompts"


def summary_has_five_lines(notebook: NotebookNode) -> Iterator[str]:
    text = "\n".join(cell.source for cell in section(notebook, "Summary"))
    items = re.findall(r"^(?:[-*]|\d+\.) ", text, flags=re.M)
    if len(items) != 5:
        yield f"the summary is a list of {len(items)} lines and should have five"


def reading_is_cited(notebook: NotebookNode) -> Iterator[str]:
    if not any("{cite" in cell.source for cell in section(notebook, "Further reading")):
        yield "the further reading cites nothing from the bibliography"


def formulas_are_labelled(notebook: NotebookNode) -> Iterator[str]:
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    blocks = re.findall(r"^[`:]{3,}\{math\}[^\n]*\n(.*?)^[`:]{3,} *$", text, flags=re.M | re.S)
    if not blocks:
        yield "there is no numbered formula"
    for block in blocks:
        if not re.match(r"(?::\w+:.*\n)*:label: eq-[\w-]+", block):
            yield f"a formula without a label eq-…: {block[:40]!r}"


def cells_ran_from_top_to_bottom(notebook: NotebookNode) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"the execution counts are {counts}: not run once, from top to bottom"
    if not all(cell.source.strip() for cell in notebook.cells):
        yield "there is an empty cell"


def outputs_are_stored(notebook: NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        if re.search(r"^plt\.show\(\)", cell.source, re.M) and not pictures(cell):
            yield f"the figure of {cell.source[:40]!r} is not stored"
        if re.search(r"^print\(.", cell.source, re.M) and not cell.outputs:
            yield f"the printed output of {cell.source[:40]!r} is not stored"


def errors_are_meant(notebook: NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in tags(cell):
                yield f"an error is stored: {output.ename}: {output.evalue}"
            if output.get("name") == "stderr":
                yield f"a warning is stored: {output.text[:80]!r}"


def figures_are_described(notebook: NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        found = pictures(cell)
        described = cell.metadata.get("mystnb", {})
        if found and len(described.get("image", {}).get("alt", "")) < 40:
            yield f"a figure without alt text of 40 characters: {cell.source[:40]!r}"
        if found and not described.get("figure", {}).get("caption"):
            yield f"a figure without caption: {cell.source[:40]!r}"
        if len(found) > 1:
            yield f"one cell draws {len(found)} figures: {cell.source[:40]!r}"
        for svg in re.findall(r"<svg\b.*?</svg>", printed(cell), flags=re.S):
            if not re.search(r"<title\b|aria-label|aria-hidden", svg):
                yield f"a drawing without a name: {cell.source[:40]!r}"


def exemptions_have_reasons(notebook: NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        exempt = "nbval-ignore-output" in tags(cell)
        if exempt != (len(cell.metadata.get("nbval_reason", "")) > 10):
            yield f"an exemption goes with a reason, in nbval_reason: {cell.source[:40]!r}"
        others = [tag for tag in tags(cell) if tag.startswith("nbval-")]
        if set(others) - {"nbval-ignore-output"} or re.search(NBVAL_COMMENTS, cell.source):
            yield f"nbval is told not to look: {cell.source[:40]!r}"


def outputs_name_no_machine(notebook: NotebookNode) -> Iterator[str]:
    for cell in code_cells(notebook):
        found = re.search(MACHINE, printed(cell))
        if found:
            yield f"an output shows an address or a path of this machine: {found.group()!r}"
        if any("widget" in mime for output in cell.outputs for mime in output.get("data", {})):
            yield "an output needs a running kernel (a widget)"


def metadata_is_clean(notebook: NotebookNode) -> Iterator[str]:
    if notebook.metadata != NOTEBOOK_METADATA:
        yield "the notebook's metadata is not what the executor writes"
    for cell in notebook.cells:
        left = cell.metadata.keys() - KEPT_CELL_METADATA
        if left:
            yield f"metadata left in a cell: {sorted(left)}"


PARTS_RULES = [
    opening_is_complete,
    first_code_cell_seeds,
    one_sitting_is_enough,
    picture_comes_first,
    visible_code_fits,
    numbers_are_shown,
    parts_are_in_order,
    mistakes_have_boxes,
    documents_stay_outside,
    exercises_have_solutions,
    an_attention_is_marked,
    numpy_exercises_say_how_they_are_marked,
    summary_has_five_lines,
    reading_is_cited,
    formulas_are_labelled,
]
NOTEBOOK_RULES = [
    cells_ran_from_top_to_bottom,
    outputs_are_stored,
    errors_are_meant,
    figures_are_described,
    exemptions_have_reasons,
    outputs_name_no_machine,
    metadata_is_clean,
]


def objections(notebook: NotebookNode, *, chapter: bool) -> list[str]:
    """What is wrong with a notebook; one that is no chapter, the introduction, owes no parts."""
    rules = (PARTS_RULES if chapter else []) + NOTEBOOK_RULES
    return [f"{rule.__name__}: {what}" for rule in rules for what in rule(notebook)]


def setup_objections(notebook: NotebookNode, address: str) -> list[str]:
    """The set-up cell for Colab and Binder is there exactly when there is a public address."""
    cells = code_cells(notebook)
    setup = [cell for cell in cells if "setup" in tags(cell)]
    if not address:
        return ["a set-up cell without a public address"] if setup else []
    wanted = SETUP_SOURCE.format(address=address)
    if setup != cells[:1] or setup[0].source != wanted or "remove-cell" not in tags(setup[0]):
        return ["the first code cell is not the set-up cell of the public address"]
    return []
