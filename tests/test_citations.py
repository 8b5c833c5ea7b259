"""Whom the package cites: every paper stands in the bibliography, every mechanism cites one."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import attn_core

PACKAGE = Path(attn_core.__file__).parent
BIBLIOGRAPHY = PACKAGE.parent / "references.bib"

SURNAME = r"(?:(?:van|de|der|dos) )?[A-Z][\w’-]+"
CITATION = re.compile(
    rf"({SURNAME}(?: et al\.|(?:, {SURNAME})*,? and {SURNAME})?),? \(?((?:19|20)\d\d)\b"
)
YEAR = re.compile(r"\b(?:19|20)\d\d\b")


class Entry(NamedTuple):
    surnames: tuple[str, ...]
    year: str


def entries():
    found = {}
    for key, body in re.findall(
        r"^@\w+\{([^,]+),\n(.*?)^\}", BIBLIOGRAPHY.read_text("utf-8"), re.M | re.S
    ):
        fields = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", body, re.M))
        names = re.sub(r"[{}]", "", fields["author"]).split(" and ")
        found[key] = Entry(tuple(name.split(",")[0].strip() for name in names), fields["year"])
    return found


ENTRIES = entries()


def is_in_the_bibliography(who, year):
    """*A et al.* are three or more, *A and B* are all that wrote it, *A* wrote it alone."""
    for entry in ENTRIES.values():
        if entry.year != year:
            continue
        if who.endswith(" et al."):
            if entry.surnames[0] == who.removesuffix(" et al.") and len(entry.surnames) > 2:
                return True
        elif tuple(re.split(r",? and |, ", who)) == entry.surnames:
            return True
    return False


def documented():
    """Every function and class of the package that is meant to be used, by its full name."""
    found = {}
    for info in pkgutil.walk_packages([str(PACKAGE)], "attn_core."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        own = [name for name, thing in vars(module).items() if is_of(thing, module)]
        for name in getattr(module, "__all__", own):
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


def is_of(thing, module):
    is_code = inspect.isfunction(thing) or inspect.isclass(thing)
    return is_code and thing.__module__ == module.__name__ and not thing.__name__.startswith("_")


DOCUMENTED = documented()


def source_of(thing):
    found = re.search(r"^Source:(.*?)(?=^\S|\Z)", inspect.getdoc(thing) or "", re.M | re.S)
    return " ".join(found.group(1).split()) if found else ""


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if source_of(DOCUMENTED[name])])
def test_who_is_cited_as_a_source_is_in_the_bibliography(name):
    source = source_of(DOCUMENTED[name])
    cited = CITATION.findall(source)
    missing = [pair for pair in cited if not is_in_the_bibliography(*pair)]
    assert not missing, source
    # A year that belongs to nobody is a citation that this test cannot read.
    assert len(YEAR.findall(source)) == len(cited), source


# The loaders of data are full of dates, and cite nobody.
CODE = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "data"]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_who_is_cited_anywhere_in_the_code_is_in_the_bibliography(path):
    text = " ".join(re.sub(r"^ *#", "", path.read_text("utf-8"), flags=re.M).split())
    missing = [pair for pair in CITATION.findall(text) if not is_in_the_bibliography(*pair)]
    assert not missing


# What has no paper: it belongs to this package, to a format or to another library, and says so.
WITHOUT_PAPER = {
    "kernels.choosing.Choice",
    "kernels.choosing.use",
    "kernels.choosing.which",
    "kernels.approximation.ApproximationError",
    "kernels.approximation.approximation_error",
    "kernels.padded.check_padded",
    "masks.given.dense",
    "models.weights.load_weights",
    "models.weights.read_ctranslate2",
    "models.weights.read_safetensors",
    "normalizers.rows.without_empty_rows",
}
MECHANISMS = ["scores", "normalizers", "masks", "positions", "kernels", "modules", "models"]


def is_record(thing):
    return inspect.isclass(thing) and issubclass(thing, tuple)


def given_away():
    """The mechanisms: what these parts of the package list in their ``__all__``."""
    for name, thing in DOCUMENTED.items():
        _, part, *_ = name.split(".")
        if part in MECHANISMS and not is_record(thing) and source_of(thing):
            yield name


@pytest.mark.parametrize("name", sorted(given_away()))
def test_every_mechanism_cites_a_paper_or_a_document(name):
    source = source_of(DOCUMENTED[name])
    cites = bool(CITATION.search(source) or re.search(r"\bD[0-4]\b", source))
    is_own = name.removeprefix("attn_core.") in WITHOUT_PAPER
    assert cites != is_own, source


def test_the_list_of_what_has_no_paper_is_not_longer_than_needed():
    assert {f"attn_core.{name}" for name in WITHOUT_PAPER} <= set(DOCUMENTED)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Vaswani et al. (2017), equation 1.", [("Vaswani et al.", "2017")]),
        ("Bahdanau, Cho and Bengio (2015)", [("Bahdanau, Cho and Bengio", "2015")]),
        ("where Cho et al. (2014) differ", [("Cho et al.", "2014")]),
        ("(Loshchilov and Hutter, 2017)", [("Loshchilov and Hutter", "2017")]),
        ("Shazeer (2019); Nadaraya 1964", [("Shazeer", "2019"), ("Nadaraya", "1964")]),
        ("van Merriënboer et al. 2014", [("van Merriënboer et al.", "2014")]),
    ],
)
def test_citations_are_read_as_they_are_written(text, found):
    assert CITATION.findall(text) == found


@pytest.mark.parametrize(
    ("who", "year", "expected"),
    [
        ("Vaswani et al.", "2017", True),
        ("Vaswani et al.", "2018", False),
        ("Vaswani", "2017", False),
        ("Bahdanau, Cho and Bengio", "2015", True),
        ("Bahdanau and Cho", "2015", False),
        ("Bahdanau et al.", "2015", True),
        ("Kingma et al.", "2015", False),
        ("Kingma and Ba", "2015", True),
        ("Shazeer", "2019", True),
        ("Nobody et al.", "2017", False),
    ],
)
def test_a_citation_names_all_authors_or_says_that_there_are_more(who, year, expected):
    assert is_in_the_bibliography(who, year) == expected


def test_every_key_is_the_first_author_the_year_and_a_word():
    for key, entry in ENTRIES.items():
        assert re.fullmatch(r"[a-z0-9]+?\d{4}[a-z0-9]+", key), key
        assert entry.year in key


def test_the_bibliography_is_in_alphabetical_order():
    assert list(ENTRIES) == sorted(ENTRIES)
