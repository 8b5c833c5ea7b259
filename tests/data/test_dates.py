import sys
from datetime import date

import pytest

from attn_core.data.dates import (
    LANGUAGES,
    date_examples,
    date_vocabularies,
    date_word_vocabularies,
    date_words,
    split_dates,
    write_dates,
)
from attn_core.data.vocabulary import UNKNOWN


def test_no_date_is_in_two_splits_and_none_is_lost():
    splits = split_dates(date(2000, 1, 1), date(2009, 12, 31))
    together = [day for days in splits.values() for day in days]
    assert len(together) == len(set(together)) == 3653
    assert min(together) == date(2000, 1, 1)
    assert max(together) == date(2009, 12, 31)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [2922, 365, 366]


def test_the_seed_decides_the_split():
    assert split_dates(seed=1) == split_dates(seed=1) != split_dates(seed=2)


def test_examples_use_the_dates_they_are_given():
    days = split_dates()["test"]
    examples = date_examples(days, 50, seed=3)
    assert {day for example in examples for day in example.dates} <= set(days)
    assert {len(example.dates) for example in examples} == {1, 2, 3, 4}
    assert {example.language for example in examples} == set(LANGUAGES)


def test_the_target_is_iso_8601():
    for example in date_examples(split_dates()["train"], 20):
        assert tuple(map(date.fromisoformat, example.target.split(" "))) == example.dates


def test_the_seed_decides_the_examples():
    days = split_dates()["train"]
    assert date_examples(days, 9, seed=1) == date_examples(days, 9, seed=1)
    assert date_examples(days, 9, seed=1) != date_examples(days, 9, seed=2)


@pytest.mark.parametrize(
    ("language", "style", "written"),
    [
        ("en", "long", "November 21, 2024 and May 3, 1999"),
        ("de", "medium", "21.11.2024 und 03.05.1999"),
        ("es", "long", "21 de noviembre de 2024 y 3 de mayo de 1999"),
        ("fr", "medium", "21 nov. 2024 et 3 mai 1999"),
        ("hu", "long", "2024. november 21. és 1999. május 3."),
        ("zh", "long", "2024年11月21日和1999年5月3日"),
    ],
)
def test_dates_as_people_write_them(language, style, written):
    assert write_dates([date(2024, 11, 21), date(1999, 5, 3)], language, style) == written


def test_no_two_dates_are_written_alike():
    days = split_dates(date(2000, 1, 1), date(2000, 12, 31))
    for language, styles in LANGUAGES.items():
        for style in styles:
            written = [
                write_dates([day], language, style) for part in days.values() for day in part
            ]
            assert len(set(written)) == len(written)


def test_the_vocabularies_know_every_character():
    source, target = date_vocabularies()
    days = split_dates()["validation"]
    for example in date_examples(days, 300, per_list=(1, 2, 3, 4, 5), seed=5):
        assert UNKNOWN not in source.encode(example.source)
        assert UNKNOWN not in target.encode(example.target)
        assert "".join(target.decode(target.encode(example.target, eos=True))) == example.target


def test_a_reader_adds_a_language():
    languages = {**LANGUAGES, "tr": ("long", "medium")}
    source, _ = date_vocabularies(languages)
    assert "ğ" in source
    only = date_examples(split_dates()["train"], 3, languages={"tr": ("long",)})
    assert {example.language for example in only} == {"tr"}


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("dates", lambda: write_dates([], "en")),
        ("style", lambda: write_dates([date(2024, 1, 1)], "en", "tiny")),
        ("language", lambda: write_dates([date(2024, 1, 1)], "xx")),
        ("language", lambda: write_dates([date(2024, 1, 1)], "no such thing")),
        ("dates", lambda: date_examples([], 1)),
        ("per_list", lambda: date_examples([date(2024, 1, 1)], 1, per_list=[])),
        ("languages", lambda: date_examples([date(2024, 1, 1)], 1, languages={})),
        ("first and last", lambda: split_dates(date(2024, 1, 1), date(2024, 1, 2))),
    ],
)
def test_bad_arguments_are_named(name, call):
    with pytest.raises(ValueError, match=f"^{name} "):
        call()


def test_missing_babel_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(ImportError, match="pip install babel"):
        write_dates([date(2024, 1, 1)], "en")


def test_words_are_numbers_words_and_marks():
    days = (date(2024, 11, 21), date(1999, 5, 3))
    written = {
        "hu": "2024 . november 21 . és 1999 . május 3 .",
        "zh": "2024 年 11 月 21 日 和 1999 年 5 月 3 日",
    }
    for language, words in written.items():
        (example,) = [
            e
            for e in date_examples(days, 200, per_list=[2], languages={language: ["long"]})
            if e.dates == days
        ][:1]
        assert date_words(example) == (words.split(), ["2024", "11", "21", "1999", "05", "03"])


def test_every_word_of_a_list_is_in_the_vocabularies():
    source_vocab, target_vocab = date_word_vocabularies()
    days = [day for part in split_dates().values() for day in part]
    for example in date_examples(days, 500, per_list=[1, 2, 3, 4, 5], seed=6):
        source, target = date_words(example)
        assert UNKNOWN not in source_vocab.encode(source)
        assert UNKNOWN not in target_vocab.encode(target)
        assert target_vocab.decode(target_vocab.encode(target)) == target
