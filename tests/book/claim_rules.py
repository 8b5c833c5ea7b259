"""What the register of claims owes its reader, one rule a function that yields its objections."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml
from execute_notebooks import ROOT

FIELDS = ["id", "document", "section", "original", "statement", "verdict", "why", "evidence"]
UNCHECKED = "cannot be checked"
VERDICTS = ["holds", "holds with a condition", "misleading", "wrong", UNCHECKED]
TAG = "claim-"
HEADING = r"#+ +(\d+(?:\.\d+)*)\.? *(\S.*?) *$"
DOCUMENT_NAME = r"\bD[0-4]\b"
# The pages that may name the documents; no other teaches with them.
NAMING = {"appendix/claims", "appendix/documents", "code/listings_repaired"}
# Where the documents are: they are not part of this repository.
PLACE = Path(os.environ.get("ATTENTION_DOCUMENTS", ROOT.parent / "shared" / "documents"))


class Book(NamedTuple):
    """All that the rules look at; a notebook is the tags of each of its code cells."""

    claims: list[dict]
    documents: list[dict]
    notebooks: dict[str, list[list[str]]]
    keys: set[str]
    pages: dict[str, str]
    texts: dict[str, list[str]]


def read_book() -> Book:
    chapters = ROOT / "chapters"
    notebooks, pages = {}, {}
    for path in sorted([*chapters.rglob("*.md"), *chapters.rglob("*.ipynb")]):
        name = path.relative_to(chapters).with_suffix("").as_posix()
        if ".ipynb_checkpoints" in path.parts:
            continue
        if path.suffix == ".md":
            pages[name] = path.read_text("utf-8")
            continue
        cells = nbformat.read(path, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        notebooks[name] = [cell.metadata.get("tags", []) for cell in code]
        pages[name] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    bibliography = (ROOT / "references.bib").read_text("utf-8")
    documents = yaml.safe_load((chapters / "appendix" / "documents.yml").read_text("utf-8"))
    return Book(
        claims=yaml.safe_load((chapters / "appendix" / "claims.yml").read_text("utf-8")),
        documents=documents,
        notebooks=notebooks,
        keys=set(re.findall(r"^@\w+\{([^,\s]+),", bibliography, flags=re.M)),
        pages=pages,
        texts={document["id"]: text_of(document["file"]) for document in documents},
    )


def text_of(prefix: str) -> list[str]:
    """The lines of a document; none where the documents are not at hand."""
    return [
        line
        for path in PLACE.glob(f"{prefix}_*.txt")
        for line in path.read_text("utf-8-sig").splitlines()
    ]


def with_section(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(number of the nearest numbered heading, line) of every line."""
    number, fenced = "", False
    for line in lines:
        fenced ^= line.startswith("```")
        heading = None if fenced else re.match(HEADING, line)
        number = heading[1] if heading else number
        yield number, line


def fields_are_filled(book: Book) -> Iterator[str]:
    for claim in book.claims:
        if list(claim) != FIELDS or not all(isinstance(text, str) for text in claim.values()):
            yield f"{claim.get('id')}: its fields are not {FIELDS}, each a text"
            continue
        empty = {field for field, text in claim.items() if text.strip() != text or not text}
        allowed = {"section"} | ({"evidence"} if claim["verdict"] == UNCHECKED else set())
        if empty - allowed or "\n" in "".join(claim.values()):
            yield f"{claim['id']}: {sorted(empty - allowed)} are empty or not of one line"
        for field in ("statement", "why"):
            if not re.search(r"[.!?]\Z", claim[field]):
                yield f"{claim['id']}: its {field} is no sentence: {claim[field]!r}"


def verdicts_are_known(book: Book) -> Iterator[str]:
    for claim in book.claims:
        if claim.get("verdict") not in VERDICTS:
            yield f"{claim.get('id')}: {claim.get('verdict')!r} is no verdict"


def ids_are_unique(book: Book) -> Iterator[str]:
    counts = Counter(claim["id"] for claim in book.claims)
    yield from (f"{id} stands {count} times" for id, count in counts.items() if count > 1)
    for claim in book.claims:
        if not re.fullmatch(claim["document"].lower() + r"(-[a-z0-9]+)+", claim["id"]):
            yield f"{claim['id']} is not {claim['document'].lower()}-… in small letters"


def sections_are_known_and_in_order(book: Book) -> Iterator[str]:
    places = [(document["id"], "") for document in book.documents]
    places += [(d["id"], section["number"]) for d in book.documents for section in d["sections"]]
    order = {place: index for index, place in enumerate(places)}
    found = []
    for claim in book.claims:
        place = (claim["document"], claim["section"])
        if place in order:
            found.append((claim["document"], order[place], claim["id"]))
        else:
            yield f"{claim['id']}: {claim['document']} has no section {claim['section']!r}"
    for before, after in pairwise(found):
        if before > after:
            yield f"{after[2]} stands after {before[2]}: sort by document, section, id"


def evidence_is_there(book: Book) -> Iterator[str]:
    for claim in book.claims:
        where, tag = claim.get("evidence", ""), TAG + claim["id"]
        if "/" in where:
            cells = [tags for tags in book.notebooks.get(where, []) if tag in tags]
            if len(cells) != 1:
                yield f"{claim['id']}: {len(cells)} code cells of {where} have the tag {tag}"
        elif where and where not in book.keys:
            yield f"{claim['id']}: references.bib has no {where}"


def tags_have_entries(book: Book) -> Iterator[str]:
    """A claim may be shown in several notebooks; its entry names one of them."""
    entries = {TAG + claim["id"] for claim in book.claims}
    for notebook, cells in book.notebooks.items():
        found = Counter(tag for tags in cells for tag in tags if tag.startswith(TAG))
        for tag, count in found.items():
            if tag not in entries:
                yield f"{notebook}: the tag {tag} has no entry in the register"
            if count > 1:
                yield f"{notebook}: {count} cells have the tag {tag}"


def chapters_exist(book: Book) -> Iterator[str]:
    for document in book.documents:
        for section in document["sections"]:
            for chapter in section.get("chapters", []):
                if chapter not in book.pages:
                    yield f"{document['id']} §{section['number']}: there is no {chapter}"


def documents_are_named_where_they_may_be(book: Book) -> Iterator[str]:
    for name in book.pages.keys() - NAMING:
        found = re.findall(DOCUMENT_NAME, book.pages[name])
        if found:
            yield f"{name} names {', '.join(sorted(set(found)))}"


def wording_is_in_the_section(book: Book) -> Iterator[str]:
    for claim in book.claims:
        lines = with_section(book.texts.get(claim["document"], []))
        found = {number for number, line in lines if claim["original"] in line}
        if claim["section"] not in found:
            where = f"stands in {sorted(found)}" if found else "is in no line"
            yield f"{claim['id']}: {claim['original']!r} {where}, not in {claim['section']!r}"


def headings_are_the_documents_own(book: Book) -> Iterator[str]:
    for document in book.documents:
        listed = [(section["number"], section["heading"]) for section in document["sections"]]
        fenced, printed = False, []
        for line in book.texts.get(document["id"], []):
            fenced ^= line.startswith("```")
            printed += [] if fenced else re.findall(HEADING, line)
        if listed != printed:
            yield f"{document['id']}: {sorted(set(listed) ^ set(printed))}, or their order"


RULES = [
    fields_are_filled,
    verdicts_are_known,
    ids_are_unique,
    sections_are_known_and_in_order,
    evidence_is_there,
    tags_have_entries,
    chapters_exist,
    documents_are_named_where_they_may_be,
]
RULES_ON_THE_DOCUMENTS = [wording_is_in_the_section, headings_are_the_documents_own]
