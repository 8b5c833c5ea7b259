"""Links from a row of the symptom table to the mistake boxes of the chapters that link to it.

A chapter's box has a label and names the symptom that it belongs to::

    (mistake-softmax-over-queries)=
    :::{admonition} Mistake: softmax over the queries
    ...
    More with this symptom: {ref}`rows do not sum to 1 <symptom-rows-do-not-sum-to-one>`.
    :::

In the table, ``:::{mistake-boxes} symptom-rows-do-not-sum-to-one`` lists every such box, so that
nobody keeps a second list.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

BOX = re.compile(
    r"^\((?P<label>mistake-[\w-]+)\)=\s*\n"
    r"(?P<fence>:{3,})\{admonition\} Mistake: (?P<title>[^\n]+)\n"
    r"(?P<body>.*?)\n(?P=fence) *$",
    flags=re.M | re.S,
)
SYMPTOM = re.compile(r"\{ref\}`[^`]*<(symptom-[\w-]+)>`")


@dataclass(frozen=True)
class Box:
    """A mistake box.

    Attributes:
        label: where it is.
        title: which mistake.
        symptoms: the rows of the table that it links to.
    """

    label: str
    title: str
    symptoms: tuple[str, ...]


def markdown_of(path: Path) -> str:
    """The text of a page; of a notebook, its cells of text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def boxes_of(text: str) -> list[Box]:
    """The mistake boxes of a page."""
    return [
        Box(
            found["label"],
            found["title"].strip().replace("`", ""),
            tuple(SYMPTOM.findall(found["body"])),
        )
        for found in BOX.finditer(text)
    ]


def boxes_below(folder: Path) -> list[Box]:
    """The mistake boxes of every page of the book, by the path of the page."""
    pages = sorted(folder.glob("chapters/**/*"))
    return [
        box
        for path in pages
        if path.suffix in (".md", ".ipynb") and ".ipynb_checkpoints" not in path.parts
        for box in boxes_of(markdown_of(path))
    ]


class MistakeBoxes(SphinxDirective):
    """A paragraph that links every mistake box with one of these symptoms; nothing if none has."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        wanted = set(self.arguments[0].split())
        found = [
            box for box in boxes_below(Path(self.env.srcdir)) if wanted.intersection(box.symptoms)
        ]
        if not found:
            return []
        paragraph = nodes.paragraph(classes=["mistake-boxes"])
        paragraph += nodes.emphasis(text="Mistake boxes:")
        for place, box in enumerate(found):
            paragraph += nodes.Text(", " if place else " ")
            link = pending_xref(
                "",
                nodes.inline(text=box.title, classes=["std", "std-ref"]),
                refdomain="std",
                reftype="ref",
                reftarget=box.label,
                refexplicit=True,
                refwarn=True,
                refdoc=self.env.docname,
            )
            paragraph += link
        paragraph += nodes.Text(".")
        return [paragraph]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mistake-boxes", MistakeBoxes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
