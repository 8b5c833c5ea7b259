"""The register of claims keeps its rules, and every rule notices a planted mistake."""

import copy
from collections.abc import Callable

import pytest
from claim_rules import PLACE, RULES, RULES_ON_THE_DOCUMENTS, Book, read_book

Rule = Callable[[Book], object]


@pytest.fixture(scope="module")
def book() -> Book:
    return read_book()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_register_keeps_the_rule(book: Book, rule: Rule):
    assert list(rule(book)) == []


@pytest.mark.parametrize("rule", RULES_ON_THE_DOCUMENTS, ids=lambda rule: rule.__name__)
def test_register_agrees_with_the_documents(book: Book, rule: Rule):
    if not PLACE.is_dir():
        pytest.skip(
            f"the five documents are not in {PLACE}; ATTENTION_DOCUMENTS names their folder"
        )
    assert list(rule(book)) == []


def entry(**changed: str) -> dict[str, str]:
    claim = {
        "id": "d1-scale-added",
        "document": "D1",
        "section": "2.3",
        "original": "is added to the scores",
        "statement": "The scale factor is added.",
        "verdict": "wrong",
        "why": "It multiplies.",
        "evidence": "math/scale",
    }
    return claim | changed


def good_book() -> Book:
    """A small book that keeps every rule."""
    second = {
        "id": "d1-softmax",
        "section": "",
        "original": "softmax",
        "verdict": "holds",
        "evidence": "someone2020title",
    }
    third = {"id": "d1-unfound", "section": "4", "verdict": "cannot be checked", "evidence": ""}
    third["original"] = "and the scale"
    sections = [
        {"number": "2", "heading": "核心"},
        {"number": "2.3", "heading": "Scale", "about": "scale", "chapters": ["math/scale"]},
        {"number": "4", "heading": "代码", "about": "code", "chapters": []},
    ]
    text = "about softmax\n## 2.核心\n### 2.3 Scale\nscale is added to the scores, so\n"
    text += "## 4.代码\n```python\n## 5 no heading\n```\nand the scale"
    return Book(
        claims=[entry(**second), entry(), entry(**third)],
        documents=[{"id": "D1", "sections": sections}],
        notebooks={"math/scale": [[], ["hide-input", "claim-d1-scale-added"]]},
        keys={"someone2020title"},
        pages={"math/scale": "Scale", "appendix/claims": "D1"},
        texts={"D1": text.split("\n")},
    )


def changed(**fields: str) -> Callable[[Book], None]:
    """A mistake in the entry of the middle."""
    return lambda book: book.claims[1].update(fields)


def without_a_field(book: Book) -> None:
    del book.claims[1]["why"]


def entry_twice(book: Book) -> None:
    book.claims.insert(1, copy.deepcopy(book.claims[1]))


def swapped(book: Book) -> None:
    book.claims.reverse()


def tagged(*cells: list[str], notebook: str = "math/scale") -> Callable[[Book], None]:
    return lambda book: book.notebooks.update({notebook: list(cells)})


def text_changed(old: str, new: str) -> Callable[[Book], None]:
    def plant(book: Book) -> None:
        book.texts["D1"][:] = [line.replace(old, new) for line in book.texts["D1"]]

    return plant


TAGGED = ["claim-d1-scale-added"]
MISTAKES = {
    "fields_are_filled": [
        without_a_field,
        changed(note="more"),
        changed(why=""),
        changed(evidence=""),
        changed(statement="The scale factor"),
        changed(original="two\nlines"),
        changed(section=2.3),
    ],
    "verdicts_are_known": [changed(verdict="false"), changed(verdict="Wrong")],
    "ids_are_unique": [entry_twice, changed(id="d2-scale-added"), changed(id="d1-Scale added")],
    "sections_are_known_and_in_order": [swapped, changed(section="2.4"), changed(document="D7")],
    "evidence_is_there": [
        changed(evidence="math/elsewhere"),
        changed(evidence="nobody2020title"),
        changed(id="d1-scale"),
        tagged([], []),
        tagged(TAGGED, TAGGED),
    ],
    "tags_have_entries": [
        tagged(TAGGED, ["claim-d1-other"]),
        tagged(["claim-d1-other"], notebook="math/copy"),
        tagged(TAGGED, TAGGED, notebook="math/copy"),
    ],
    "chapters_exist": [lambda book: book.pages.pop("math/scale")],
    "documents_are_named_where_they_may_be": [
        lambda book: book.pages.update({"math/scale": "as D1 says"}),
        lambda book: book.pages.update({"appendix/notation": "(D0, §4)"}),
    ],
    "wording_is_in_the_section": [
        changed(original="is  added to the scores"),
        changed(section="4"),
        text_changed("### 2.3 Scale", "### Scale"),
    ],
    "headings_are_the_documents_own": [
        text_changed("Scale", "Softmax"),
        text_changed("## 5", "```\n## 5"),
        lambda book: book.texts["D1"].append("## 5.更多"),
        lambda book: book.documents[0]["sections"].reverse(),
    ],
}
ALL = {rule.__name__: rule for rule in RULES + RULES_ON_THE_DOCUMENTS}
PLANTED = [
    pytest.param(rule, mistake, id=f"{rule}-{number}")
    for rule, mistakes in MISTAKES.items()
    for number, mistake in enumerate(mistakes)
]


def test_good_book_meets_no_objection():
    assert [what for rule in ALL.values() for what in rule(good_book())] == []


def test_every_rule_has_a_planted_mistake():
    assert list(MISTAKES) == list(ALL)


@pytest.mark.parametrize(("rule", "mistake"), PLANTED)
def test_planted_mistake_is_found(rule: str, mistake: Callable[[Book], None]):
    book = good_book()
    mistake(book)
    assert list(ALL[rule](book)) != []
