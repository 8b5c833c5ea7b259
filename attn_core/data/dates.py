"""Dates as people write them in several languages, and the same dates in ISO 8601."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from attn_core.data.vocabulary import Vocabulary
from attn_core.extras import needed

LANGUAGES: Mapping[str, Sequence[str]] = {
    "en": ("long",),
    "de": ("long",),
    "es": ("long",),
    "hu": ("long",),
    "zh": ("long",),
}
"""The locales that are used, each with Babel's names of its formats.

Add a language by adding a line: any of Babel's locales will do. *medium* shortens the month or
writes its number. *full* writes the weekday, which the answer does not hold; *short* may mean two
dates (3/4/24).
"""

DATE_SPLIT = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class DateExample:
    """A list of dates as a person writes it, and as ISO 8601 with spaces between."""

    source: str
    target: str
    language: str
    dates: tuple[date, ...]


def split_dates(
    first: date = date(1950, 1, 1), last: date = date(2049, 12, 31), *, seed: int = 0
) -> dict[str, list[date]]:
    """Every date of a span of time, dealt out to ``train``, ``validation`` and ``test``.

    Args:
        first: the first date.
        last: the last date.
        seed: of the random order in which they are dealt out.

    Returns:
        The dates by the split's name: 80 %, 10 % and 10 % of them, none in two splits.

    Raises:
        ValueError: the span has fewer than ten dates.

    Example:
        >>> {name: len(dates) for name, dates in split_dates().items()}
        {'train': 29220, 'validation': 3652, 'test': 3653}
    """
    count = (last - first).days + 1
    if count < 10:
        raise ValueError(f"first and last must span at least 10 dates, got {first} to {last}")
    dates = [first + timedelta(days=i) for i in range(count)]
    Random(seed).shuffle(dates)
    train_end = int(count * DATE_SPLIT["train"])
    validation_end = train_end + int(count * DATE_SPLIT["validation"])
    return {
        "train": dates[:train_end],
        "validation": dates[train_end:validation_end],
        "test": dates[validation_end:],
    }


def write_dates(dates: Sequence[date], language: str, style: str = "long") -> str:
    """A list of dates the way a person writes it.

    Args:
        dates: at least one date.
        language: one of Babel's locales, such as ``"en"`` or ``"pt_BR"``.
        style: one of Babel's date formats: ``"medium"``, ``"long"``, ``"full"`` or ``"short"``.

    Returns:
        The dates joined by the language's own commas and its word for *and*.

    Raises:
        ValueError: there is no date, or Babel does not know the language or the style.
        ImportError: Babel is not installed.

    Example:
        >>> write_dates([date(2024, 11, 21), date(1999, 5, 3)], "de")
        '21. November 2024 und 3. Mai 1999'
    """
    with needed("a date in another language"):
        from babel import UnknownLocaleError
        from babel.dates import format_date
        from babel.lists import format_list
    if len(dates) == 0:
        raise ValueError("dates must hold at least one date, got none")
    if style not in ("short", "medium", "long", "full"):
        raise ValueError(f"style must be short, medium, long or full, got {style!r}")
    try:
        written = [format_date(day, style, locale=language) for day in dates]
    except (UnknownLocaleError, ValueError) as error:
        raise ValueError(f"language must be one of Babel's locales, got {language!r}") from error
    return format_list(written, locale=language)


def date_examples(
    dates: Sequence[date],
    count: int,
    *,
    per_list: Sequence[int] = (1, 2, 3, 4),
    languages: Mapping[str, Sequence[str]] = LANGUAGES,
    seed: int = 0,
) -> list[DateExample]:
    """Random lists of dates in random languages.

    Args:
        dates: the dates to draw from, with replacement.
        count: how many examples to make.
        per_list: the possible numbers of dates in a list, all equally likely.
        languages: the locales to draw from, each with its formats.
        seed: of the draws.

    Returns:
        ``count`` examples.

    Raises:
        ValueError: ``dates``, ``per_list`` or ``languages`` is empty.

    Example:
        >>> dates = split_dates()["test"]
        >>> example = date_examples(dates, 1, per_list=[2])[0]
        >>> print(example.source, "=", example.target)
        2019. augusztus 30. és 2003. október 24. = 2019-08-30 2003-10-24
    """
    for name, choices in (("dates", dates), ("per_list", per_list), ("languages", languages)):
        if len(choices) == 0:
            raise ValueError(f"{name} must not be empty")
    random = Random(seed)
    return list(_draw(random, dates, count, per_list, languages))


def _draw(
    random: Random,
    dates: Sequence[date],
    count: int,
    per_list: Sequence[int],
    languages: Mapping[str, Sequence[str]],
) -> Iterator[DateExample]:
    names = list(languages)
    for _ in range(count):
        language = random.choice(names)
        style = random.choice(languages[language])
        chosen = tuple(random.choices(dates, k=random.choice(per_list)))
        source = write_dates(chosen, language, style)
        target = " ".join(day.isoformat() for day in chosen)
        yield DateExample(source, target, language, chosen)


def date_vocabularies(
    languages: Mapping[str, Sequence[str]] = LANGUAGES,
) -> tuple[Vocabulary, Vocabulary]:
    """The characters that the languages' dates are written with, and those of ISO 8601.

    Args:
        languages: the locales, each with its formats.

    Returns:
        The source's and the target's vocabulary of characters.

    Example:
        >>> source, target = date_vocabularies({"en": ["long"]})
        >>> "".join(target.tokens[4:])
        ' -0123456789'
    """
    year = [date(2000, 1, 1) + timedelta(days=i) for i in range(366)]
    lists = [year[i : i + size] for size in (1, 2, 3) for i in range(0, 366 - size, size)]
    written = [
        write_dates(dates, language, style)
        for language, styles in languages.items()
        for style in styles
        for dates in lists
    ]
    return Vocabulary.of([*written, "0123456789"]), Vocabulary.of(["0123456789- "])


def date_words(example: DateExample) -> tuple[list[str], list[str]]:
    """An example cut into words: those of the source, and those that have to be written.

    Args:
        example: a list of dates.

    Returns:
        The numbers, words and marks of the source, spaces left out; and year, month and day of
        every date in turn.

    Example:
        >>> example = DateExample("3. Mai 1999", "1999-05-03", "de", (date(1999, 5, 3),))
        >>> date_words(example)
        (['3', '.', 'Mai', '1999'], ['1999', '05', '03'])
    """
    # Chinese writes no spaces: what stands between its numbers is one character a word.
    source = re.findall(r"\d+|[年月日和]|[^\W\d]+|[^\w\s]", example.source)
    return source, re.split("[- ]", example.target)


def date_word_vocabularies(
    languages: Mapping[str, Sequence[str]] = LANGUAGES,
) -> tuple[Vocabulary, Vocabulary]:
    """The words of the languages' dates from 1950 to 2049, and their years, months and days.

    Args:
        languages: the locales, each with its formats.

    Returns:
        The source's and the target's vocabulary, for what :func:`date_words` returns.

    Example:
        >>> source, target = date_word_vocabularies({"en": ["long"]})
        >>> target.encode(["1999", "05", "03"])
        [53, 108, 106]
    """
    days = [date(2000, 1, 1) + timedelta(days=i) for i in range(366)]
    days += [date(year, 1, 1) for year in range(1950, 2050)]
    lists = [days[i : i + size] for size in (1, 2, 3) for i in range(0, len(days) - size + 1, size)]
    examples = [
        DateExample(write_dates(dates, language, style), "", language, tuple(dates))
        for language, styles in languages.items()
        for style in styles
        for dates in lists
    ]
    numbers = [*map(str, range(1950, 2050)), *[f"{number:02}" for number in range(1, 32)]]
    return Vocabulary.of(date_words(example)[0] for example in examples), Vocabulary(numbers)
