"""The glossary leads to pages that use its terms; in the notation one letter has one meaning."""

import re
from pathlib import Path

import pytest
from execute_notebooks import ROOT
from test_book import text_of

GLOSSARY = ROOT / "chapters/appendix/glossary.md"
NOTATION = ROOT / "chapters/appendix/notation.md"
NO_CHAPTER = "no chapter yet"


def entries(text: str) -> dict[tuple[str, ...], str]:
    """The definitions of a glossary by their terms."""
    (block,) = re.findall(r"^```\{glossary\}\n(.*?)^```", text, flags=re.M | re.S)
    found = {}
    for entry in re.split(r"\n\s*\n", block.strip()):
        *terms, definition = entry.splitlines()
        found[tuple(term.strip() for term in terms)] = definition
    return found


def uses(text: str, term: str) -> bool:
    """Whether a text uses a term, in the singular or plural, with a hyphen or a space."""
    words = r"[\s–-]+".join(map(re.escape, re.split(r"[\s–-]+", term)))
    return re.search(rf"\b{words}(?:e?s|d|r)?\b", text, flags=re.I) is not None


def objection(terms: tuple[str, ...], definition: str) -> str:
    """What is wrong with the page that an entry names; nothing if all is well."""
    where = definition.rpartition("→")[2].strip()
    if where == NO_CHAPTER:
        return ""
    named = re.fullmatch(r"\{doc\}`/(chapters/[\w/]+)`", where)
    if named is None:
        return f"the entry names no page: {where!r}"
    paths = [ROOT / f"{named[1]}{suffix}" for suffix in (".ipynb", ".md")]
    path = next(filter(Path.exists, paths), None)
    if path is None:
        return f"there is no page {named[1]}"
    return (
        "" if any(uses(text_of(path), term) for term in terms) else f"{path.stem} does not use it"
    )


@pytest.mark.parametrize(("terms", "definition"), entries(GLOSSARY.read_text("utf-8")).items())
def test_the_page_of_a_term_uses_it(terms, definition):
    assert objection(terms, definition) == ""
    assert re.search(r"\*\*.*[\u4e00-\u9fff].*\*\* — ", definition) or terms == ("Transformer",)


def test_a_wrong_entry_is_noticed():
    page = "→ {doc}`/chapters/appendix/notation`"
    assert objection(("soft cap",), page) == ""
    assert "does not use it" in objection(("backpropagation",), page)
    assert "no page" in objection(("softmax",), "→ {doc}`/chapters/appendix/nowhere`")
    assert "names no page" in objection(("softmax",), "A sentence.")


def symbols(text: str) -> list[str]:
    """The symbols that the tables headed "symbol" explain."""
    tables = re.findall(r"^\| symbol .*\n\|[-| ]+\n((?:\|.*\n)+)", text, flags=re.M)
    cells = [row.split("|")[1] for table in tables for row in table.splitlines()]
    formulas = [formula for cell in cells for formula in re.findall(r"\$([^$]+)\$", cell)]
    return [part.strip() for formula in formulas for part in formula.split(",")]


def test_no_symbol_stands_twice():
    found = symbols(NOTATION.read_text("utf-8"))
    assert len(found) > 40
    assert sorted(found) == sorted(set(found))


def test_tables_of_the_notation_have_three_columns_at_most():
    rows = [line for line in NOTATION.read_text("utf-8").splitlines() if line.startswith("|")]
    assert max(row.count("|") - 1 for row in rows) <= 3
