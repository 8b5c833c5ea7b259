"""The register of claims: its page, the page about the documents, and the marks in the chapters.

`chapters/appendix/claims.yml` and `documents.yml` hold the facts. A code cell with the tag
`claim-<id>` becomes the target of the claim's link, and a line below it leads back.
"""

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import yaml
from docutils import nodes
from docutils.nodes import Element, Node
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

FOLDER = "chapters/appendix/"
CLAIMS, DOCUMENTS = FOLDER + "claims", FOLDER + "documents"
STATIC = Path(__file__).with_name("claims_static")
TAG = "tag_claim-"  # myst-nb's class for the tag claim-<id>

VERDICTS = {
    "holds": "True as it is written.",
    "holds with a condition": "True where a condition is met that the sentence leaves out.",
    "misleading": "Not false word by word, but a reader will take away something false.",
    "wrong": "False, or it does not run.",
    "cannot be checked": "There is nothing to find or to measure.",
}
FILTER = """\
<form class="claims-filter" hidden>
<label>Words <input type="search" name="words" autocomplete="off"></label>
<label>Verdict <select name="verdict"><option value="">any</option>{verdicts}</select></label>
<label>Document <select name="document"><option value="">any</option>{documents}</select></label>
<button type="reset">Show all</button>
<output aria-live="polite">{count} of {count} claims</output>
</form>
"""


class Register(NamedTuple):
    documents: list[dict]
    claims: dict[str, dict]

    def of_section(self, document: str, number: str) -> list[dict]:
        found = [c for c in self.claims.values() if c["document"] == document]
        return [claim for claim in found if claim["section"] == number]


@lru_cache
def read_register(source: str) -> Register:
    """The two files; a book that has none has no claims."""
    paths = [Path(source, name + ".yml") for name in (DOCUMENTS, CLAIMS)]
    documents, claims = (yaml.safe_load(p.read_text("utf-8")) if p.exists() else [] for p in paths)
    return Register(documents, {claim["id"]: claim for claim in claims or []})


def register_of(env: BuildEnvironment) -> Register:
    return read_register(str(env.srcdir))


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def section_label(document: str, number: str) -> str:
    return slug(f"register {document} {number or 'opening'}")


def counted(claims: list[dict]) -> str:
    return f"{len(claims)} claim" + ("" if len(claims) == 1 else "s")


def foreign(text: str, kind: type[Element] = nodes.inline) -> Element:
    """Words of a document; docutils makes lang="zh" of the class."""
    classes = ["language-zh"] if re.search(r"[\u4e00-\u9fff]", text) else []
    return kind(text, text, classes=classes)


def quotation(text: str) -> list[Node]:
    """The original wording: formulas set if they are short, source text as code."""
    parts = re.split(r"\${1,2}([^$]{1,30})\${1,2}", text)
    if "$" in "".join(parts) or any("\\" in part for part in parts[::2]):
        return [foreign(text, nodes.literal)]
    set_apart = [
        nodes.math(part, part.strip()) if index % 2 else foreign(part)
        for index, part in enumerate(parts)
        if part
    ]
    return set_apart if len(parts) > 1 or not is_code(text) else [foreign(text, nodes.literal)]


def is_code(text: str) -> bool:
    return bool(re.search(r"\w\(.*\)|self\b|[_^]\w|\w'|->| = |`", text)) and "’" not in text


class Page(SphinxDirective):
    """What the directives share: inline Markdown, sections, tables, cross-references."""

    def inline(self, text: str) -> list[Node]:
        return self.state.inline_text(text, self.lineno)[0]

    def paragraph(self, *children: Node, classes: str = "") -> nodes.paragraph:
        return nodes.paragraph("", "", *children, classes=classes.split())

    def target(self, node: Element, label: str) -> None:
        node["ids"], node["names"] = [label], [label]
        self.state.document.note_explicit_target(node, node)

    def section(self, label: str, *title: Node) -> nodes.section:
        section = nodes.section("", nodes.title("", "", *title))
        self.target(section, label)
        return section

    def link(self, label: str, title: str = "") -> addnodes.pending_xref:
        """A link to a label of any page; one that does not exist is a warning of the build."""
        link = addnodes.pending_xref(
            "",
            nodes.inline("", title or label, classes=["xref", "std", "std-ref"]),
            refdomain="std",
            reftype="ref",
            reftarget=label,
            refdoc=self.env.docname,
            refexplicit=bool(title),
            refwarn=True,
        )
        link.source, link.line = self.get_source_info()
        return link

    def table(self, widths: list[int], header: list[str], rows: list[list[Element]]) -> nodes.table:
        """A row with fewer cells than the header ends in a cell that spans the rest."""

        def row_of(cells: list[Element]) -> nodes.row:
            row = nodes.row("", *(nodes.entry("", cell) for cell in cells))
            if len(cells) < len(header):
                row[-1]["morecols"] = len(header) - len(cells)
            return row

        group = nodes.tgroup("", cols=len(header))
        group += [nodes.colspec(colwidth=width) for width in widths]
        group += nodes.thead("", row_of([self.paragraph(nodes.Text(text)) for text in header]))
        group += nodes.tbody("", *(row_of(row) for row in rows))
        return nodes.table("", group, classes=["colwidths-given"])

    @property
    def register(self) -> Register:
        for name in (DOCUMENTS, CLAIMS):
            self.env.note_dependency(str(Path(self.env.srcdir, name + ".yml")))
        return register_of(self.env)


class ClaimsSummary(Page):
    """How many claims have which verdict, and what the verdicts mean; then the filter."""

    def run(self) -> list[Node]:
        register = self.register
        count = Counter(claim["verdict"] for claim in register.claims.values())
        rows = [[verdict, str(count[verdict]), meaning] for verdict, meaning in VERDICTS.items()]
        rows.append(["all", str(count.total()), f"{len(register.documents)} documents"])
        cells = [[self.paragraph(nodes.Text(text)) for text in row] for row in rows]
        form = FILTER.format(
            verdicts="".join(f'<option value="{slug(v)}">{v}</option>' for v in VERDICTS),
            documents="".join(
                f'<option value="{slug(document["id"])}">{document["id"]}</option>'
                for document in register.documents
            ),
            count=count.total(),
        )
        table = self.table([30, 15, 55], ["Verdict", "Claims", "Meaning"], cells)
        return [table, nodes.raw("", form, format="html")]


class ClaimsRegister(Page):
    """Every claim, by document and section."""

    def run(self) -> list[Node]:
        found = [self.document(document) for document in self.register.documents]
        return [section for section in found if len(section) > 1]

    def document(self, document: dict) -> nodes.section:
        title = nodes.Text(f"{document['id']}: {document['subject']}")
        whole = self.section(section_label(document["id"], "claims"), title)
        id = document["id"]
        titles = {"": f"{id}, before section 1"}
        for row in document["sections"]:
            titles.pop(row["number"], None)  # a number that is printed twice has its last place
            titles[row["number"]] = f"{id} §{row['number']}: {row.get('about', row['heading'])}"
        for number, title in titles.items():
            claims = self.register.of_section(id, number)
            if claims:
                section = self.section(section_label(id, number), foreign(title))
                section += nodes.bullet_list("", *map(self.claim, claims), classes=["claims"])
                whole += section
        return whole

    def claim(self, claim: dict) -> nodes.list_item:
        verdict = nodes.inline("", claim["verdict"], classes=["verdict"])
        where = claim["evidence"]
        if "/" in where:
            evidence = [nodes.Text("Shown in "), self.link(f"cell-claim-{claim['id']}")]
        else:
            evidence = self.inline(f"See {{cite:t}}`{where}`") if where else []
        item = nodes.list_item(
            "",
            self.paragraph(*self.inline(claim["statement"]), classes="statement"),
            self.paragraph(*quotation(claim["original"]), classes="original"),
            self.paragraph(verdict, nodes.Text(" "), *self.inline(claim["why"])),
            *[self.paragraph(*evidence, nodes.Text("."), classes="evidence")] * bool(evidence),
            classes=["claim", "verdict-" + slug(claim["verdict"]), slug(claim["document"])],
        )
        self.target(item, "claim-" + claim["id"])
        return item


class DocumentSections(Page):
    """What each document is, and where its sections live in this book."""

    def run(self) -> list[Node]:
        return [self.document(document) for document in self.register.documents]

    def document(self, document: dict) -> nodes.section:
        id, title = document["id"], document["title"]
        whole = self.section(slug(f"document {id}"), nodes.Text(f"{id}: {document['subject']}"))
        named = [nodes.Text(", "), foreign(title)] if title else []
        claims = [c for c in self.register.claims.values() if c["document"] == id]
        facts = [nodes.Text(document["language"]), *named, nodes.Text(f". {counted(claims)}. ")]
        whole += self.paragraph(*facts, *self.inline(document["covers"]))
        rows = [[self.heading("", "before section 1"), *self.places(id, "", [])]]
        rows = rows if self.register.of_section(id, "") else []
        for section in document["sections"]:
            number, about = section["number"], section.get("about")
            row = [self.heading(number, section["heading"], about)]
            rows.append(row + (self.places(id, number, section["chapters"]) if about else []))
        whole += self.table([44, 34, 22], ["Section", "In this book", "Register"], rows)
        return whole

    def heading(self, number: str, heading: str, about: str | None = None) -> nodes.paragraph:
        meaning = [nodes.Text(f": {about}")] if about and about != heading else []
        return self.paragraph(nodes.Text(f"{number} "), foreign(heading), *meaning)

    def places(self, id: str, number: str, chapters: list[str]) -> list[nodes.paragraph]:
        """Where a section is taught: where it is said to be, and where its claims are shown."""
        claims = self.register.of_section(id, number)
        shown = [claim["evidence"] for claim in claims if "/" in claim["evidence"]]
        names = list(dict.fromkeys([*chapters, *shown]))
        links = "; ".join(f"{{doc}}`/chapters/{name}`" for name in names)
        where = self.inline(links) if names else [nodes.Text("no chapter yet")]
        count = self.link(section_label(id, number), counted(claims)) if claims else None
        return [self.paragraph(*where), self.paragraph(count or nodes.Text("no claim yet"))]


def anchor_cells(app: Sphinx, doctree: nodes.document) -> None:
    """Give each cell that shows a claim its anchors, and a line below it that leads back."""
    claims = register_of(app.env).claims
    domain = app.env.get_domain("std")
    for cell in list(doctree.findall(is_code_cell)):
        tagged = [name.removeprefix(TAG) for name in cell["classes"] if name.startswith(TAG)]
        shown = [claims[id] for id in tagged if id in claims]
        for claim in shown:
            label = f"cell-claim-{claim['id']}"
            cell["ids"].append(label)
            if app.env.docname == f"chapters/{claim['evidence']}":
                domain.note_hyperlink_target(label, app.env.docname, label, place_of(cell))
        if shown:
            cell.parent.insert(cell.parent.index(cell) + 1, marks(shown))


def is_code_cell(node: Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def place_of(cell: Element) -> str:
    """The title of the page and that of the section in which a cell stands."""
    titles, node = [], cell.parent
    while node is not None:
        if isinstance(node, nodes.section):
            titles.insert(0, node.next_node(nodes.title).astext())
        node = node.parent
    return ": ".join(t for t in dict.fromkeys([*titles[:1], *titles[-1:]]) if "\\" not in t)


def marks(claims: list[dict]) -> nodes.paragraph:
    """One small line: a link for each claim, which shows the verdict and says the statement."""
    lead = "A statement found elsewhere, tested here: "
    if len(claims) > 1:
        lead = "Statements found elsewhere, tested here: "
    line = nodes.paragraph("", lead, classes=["claim-marks"])
    for index, claim in enumerate(claims):
        statement = re.sub(r"[$`\\]", "", claim["statement"])
        spoken = nodes.inline("", f": {statement}", classes=["visually-hidden"])
        link = nodes.reference("", "", nodes.Text(claim["verdict"]), spoken, refuri="#")
        link["claim"], link["internal"] = claim["id"], True
        link["reftitle"] = statement
        line += [nodes.Text(" · ")] * bool(index) + [link]
    return line


def resolve_marks(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for link in doctree.findall(nodes.reference):
        if "claim" in link:
            page = app.builder.get_relative_uri(docname, CLAIMS)
            link["refuri"] = f"{page}#claim-{link['claim']}"


def load_where_needed(
    app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None
) -> None:
    """The style and the script are loaded by the pages that have claims, and by no other."""
    marked = doctree is not None and any("claim" in r for r in doctree.findall(nodes.reference))
    if marked or page == CLAIMS:
        app.add_css_file("claims.css")
        app.add_js_file("claims.js", loading_method="defer")


def add_static_files(app: Sphinx) -> None:
    app.config.html_static_path.append(str(STATIC))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("claims-summary", ClaimsSummary)
    app.add_directive("claims-register", ClaimsRegister)
    app.add_directive("document-sections", DocumentSections)
    app.connect("builder-inited", add_static_files)
    app.connect("doctree-read", anchor_cells)
    app.connect("doctree-resolved", resolve_marks)
    app.connect("html-page-context", load_where_needed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
