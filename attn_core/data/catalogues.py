"""Sentence pairs from the message catalogues of programs: real translations, made by people.

A message catalogue maps the English messages of a program to another language. `pairs` reads those
of `attn_core.data.packages.CATALOGUES` and cleans them, `split` divides them without leaks,
`overlap` measures what is left.
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from attn_core.data import packages
from attn_core.extras import needed

LOCALES = {"zh": r"zh|zh_CN|zh_Hans|zh_Hans_CN", "fr": r"fr|fr_FR"}
MAX_WORDS = 12
MAX_TARGET = {"zh": 24, "fr": 18}

PLACEHOLDER = re.compile(
    r"%\([^)]*\)[#0-9.+ -]*[a-zA-Z]"  # %(name)s
    r"|%[0-9.]*[sdifr](?=\b|[A-Z])|%[1-9]"  # %s, %.2f, %1
    r"|\{\{[^}]*\}\}|\{[^}]*\}|\$\{[^}]*\}"  # {{ name }}, {name}, ${name}
)
REFUSED = re.compile(r"[<>\n\\|=@#`$]|&[a-z]+;|https?:|www\.|\w/\w|%%|%\s?\w")
ACCELERATOR = re.compile(r"\s*\(&?_?[A-Z]\)|&(?=\w)")
HAN = re.compile(r"[\u4e00-\u9fff]")
ELIDED = r"(?:[cdjlmnst]|qu|jusqu|lorsqu|puisqu|quelqu)'(?=\w)"  # l' in l'image is a word
TOKEN = re.compile(rf"\{{\}}|\b{ELIDED}|[^\W\d_]+(?:[-'][^\W\d_]+)*|\d+|[^\w\s]")
DROPPED = frozenset("\"“”‘’'«»*_~^")


class Pair(NamedTuple):
    """A message in two languages.

    Attributes:
        source: the English tokens, joined by spaces.
        target: the other language's tokens, joined by spaces.
        origins: the packages that have it so, joined by commas.

    Example:
        >>> Pair("open file", "打 开 文 件", "spyder").source.split()
        ['open', 'file']
    """

    source: str
    target: str
    origins: str


class Split(NamedTuple):
    """Three disjoint parts of the pairs.

    Attributes:
        train: to learn from.
        validation: to choose settings with.
        test: to measure with, once.

    Example:
        >>> Split([], [], [])._fields
        ('train', 'validation', 'test')
    """

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]


def words(text: str) -> list[str]:
    """Lower-case words, numbers and marks of `text`; a placeholder is one token, `{}`.

    Args:
        text: a message in a language that parts its words by spaces.

    Returns:
        The tokens.

    Example:
        >>> words("Delete %(count)s selected files?")
        ['delete', '{}', 'selected', 'files', '?']
        >>> words("L'image n'existe pas")
        ["l'", 'image', "n'", 'existe', 'pas']
    """
    text = PLACEHOLDER.sub(" {} ", unicodedata.normalize("NFKC", text)).lower()
    tokens = TOKEN.findall(text.replace("…", "").replace("...", "").replace("’", "'"))
    return [token for token in tokens if token not in DROPPED]


def characters(text: str) -> list[str]:
    """Chinese characters of `text` one by one; Latin words, numbers, marks as `words` gives them.

    Args:
        text: a message in Chinese.

    Returns:
        The tokens.

    Example:
        >>> characters("关闭 %s 文件")
        ['关', '闭', '{}', '文', '件']
    """
    return words(HAN.sub(r" \g<0> ", text))


TOKENIZERS = {"zh": characters, "fr": words}


def pairs(language: str) -> list[Pair]:
    """Cleaned, deduplicated sentence pairs from English to `language`, in a fixed order.

    The rules:

    - Translations marked *fuzzy* (a program's guess that nobody has checked) are left out.
    - Messages with plural forms are left out: which form is meant depends on a number.
    - Accelerators go (`&File`, `文件(&F)`), and so do quotation marks, trailing dots and colons;
      text is NFKC-normalised and lower-cased.
    - Every placeholder (`%s`, `%(name)s`, `{name}`) becomes the token `{}`. A pair whose sides have
      a different number of them is left out.
    - Messages with markup, addresses, code or several lines are left out.
    - A translation equal to its source is left out: it cannot be told from an untranslated one. A
      Chinese one must have at least one Chinese character.
    - English has 1 to 12 tokens, one of them a word; Chinese at most 24, French at most 18.
    - Equal pairs count once, with all their origins; one source may keep several translations.

    English and French are tokenised by words. Chinese is tokenised by characters: that needs no
    dictionary, leaves few unknown tokens, and is the unit in which BLEU counts Chinese.

    Args:
        language: "zh" (Chinese, simplified) or "fr" (French).

    Returns:
        The pairs, sorted by source and target.

    Raises:
        ValueError: there is no such language here.
        MissingDataError: a data package is not installed.

    Example:
        >>> {pair.target for pair in pairs("zh") if pair.source == "file not found"}
        {'未 找 到 文 件'}
    """
    if language not in LOCALES:
        raise ValueError(f"language must be one of {sorted(LOCALES)}, got {language!r}")
    rows = packages.cached(f"catalogues-{language}", __file__, lambda: _read(language))
    return [Pair(*row) for row in rows]


def _read(language: str) -> list[Pair]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for package in packages.CATALOGUES:
        if package.name.startswith("jupyterlab-language-pack") and language not in package.name:
            continue
        catalogues = packages.files(
            package.name, rf"(^|/)({LOCALES[language]})/LC_MESSAGES/[^/]+\.[mp]o$"
        )
        sources = [path for path in catalogues if path.suffix == ".po"] or catalogues
        for path in sources:
            for message, translation in _messages(path):
                cleaned = _clean(message, translation, language)
                if cleaned and package.name not in found[cleaned]:
                    found[cleaned].append(package.name)
    return sorted(Pair(*sides, ",".join(origins)) for sides, origins in found.items())


def _messages(path: Path) -> Iterator[tuple[str, str]]:
    with needed("a catalogue of messages"):
        from babel.messages.mofile import read_mo
        from babel.messages.pofile import read_po

    # Babel prints what it finds odd in a plural form; plural forms are left out here.
    with path.open("rb") as file, contextlib.redirect_stdout(io.StringIO()):
        catalogue = read_po(file) if path.suffix == ".po" else read_mo(file)
    for message in catalogue:
        if isinstance(message.id, str) and isinstance(message.string, str) and not message.fuzzy:
            yield message.id, message.string


def _clean(message: str, translation: str, language: str) -> tuple[str, str] | None:
    sides = [
        ACCELERATOR.sub("", side).strip().rstrip(".。:：… ") for side in (message, translation)
    ]
    if any(REFUSED.search(PLACEHOLDER.sub(" ", side)) for side in sides):
        return None
    source, target = words(sides[0]), TOKENIZERS[language](sides[1])
    if not (1 <= len(source) <= MAX_WORDS and 1 <= len(target) <= MAX_TARGET[language]):
        return None
    if source == target or source.count("{}") != target.count("{}"):
        return None
    if not any(token.isalpha() for token in source):
        return None
    if language == "zh" and not HAN.search(translation):
        return None
    return " ".join(source), " ".join(target)


def key(text: str) -> str:
    """What two near-duplicates share: the words of `text` without marks, numbers and small endings.

    Placeholders, digits and punctuation go; so do a, an, the; a final s is cut from longer words.

    Args:
        text: tokens joined by spaces.

    Returns:
        The words that are left, joined by spaces.

    Example:
        >>> key("delete the selected files ?") == key("delete selected file")
        True
    """
    kept = [token for token in text.split() if token.isalpha() or "-" in token or "'" in token]
    kept = [token for token in kept if token not in {"a", "an", "the"}]
    return " ".join(token[:-1] if len(token) > 3 and token[-1] == "s" else token for token in kept)


def groups(found: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs in groups: pairs that share the key of a source or of a target are together.

    Args:
        found: pairs, in any order.

    Returns:
        The groups; together they are `found`.

    Example:
        >>> texts = (("close", "关闭"), ("shut", "关闭"), ("save", "保存"))
        >>> found = [Pair(source, target, "django") for source, target in texts]
        >>> [len(group) for group in groups(found)]
        [2, 1]
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for pair in found:
        parent[root("source " + key(pair.source))] = root("target " + key(pair.target))
    members: dict[str, list[Pair]] = defaultdict(list)
    for pair in found:
        members[root("source " + key(pair.source))].append(pair)
    return list(members.values())


def split(
    found: Sequence[Pair], *, held_out: int = 600, min_words: int = 3, seed: int = 0
) -> Split:
    """Divide pairs into training, validation and test without leaks.

    Two pairs whose sources or whose targets are near-duplicates (equal `key`) always fall on the
    same side, chains included. Groups are shuffled and dealt to test, then to validation, until
    each has `held_out` pairs. Groups of more than eight pairs go to training, and so do those with
    a source of fewer than `min_words` tokens: they are entries of a dictionary, not sentences.

    Args:
        found: what `pairs` returned.
        held_out: the size of test and of validation, in pairs (the last group may exceed it).
        min_words: the length of the shortest source to test on, in tokens.
        seed: of the shuffle.

    Returns:
        The three parts; together they are `found`.

    Example:
        >>> found = [Pair(f"open the {word} file", word, "") for word in ("old", "new", "log")]
        >>> [len(part) for part in split(found, held_out=1)]
        [1, 1, 1]
    """
    parts: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
    train, validation, test = parts
    dealt = groups(found)
    random.Random(seed).shuffle(dealt)
    for group in dealt:
        suits = len(group) <= 8 and all(len(p.source.split()) >= min_words for p in group)
        if suits and len(test) < held_out:
            test += group
        elif suits and len(validation) < held_out:
            validation += group
        else:
            train += group
    return Split(*parts)


def overlap(train: Iterable[Pair], test: Iterable[Pair]) -> dict[str, float]:
    """How much of `test` a model could have seen, as shares of the pairs of `test` from 0 to 1.

    Args:
        train: the pairs that it learns from.
        test: the pairs that it is tested on.

    Returns:
        `source` and `target`: the same sentence; `near source` and `near target`: the same `key`;
        `one word`: a training source that differs in one word, which is language, not a leak, but
        worth knowing.

    Example:
        >>> seen = Pair("open the old file", "打 开 旧 文 件", "spyder")
        >>> overlap([seen], [Pair("open the new file", "打 开 新 文 件", "spyder")])["one word"]
        1.0
    """
    train, test = list(train), list(test)
    seen = {
        "source": {pair.source for pair in train},
        "target": {pair.target for pair in train},
        "near source": {key(pair.source) for pair in train},
        "near target": {key(pair.target) for pair in train},
    }
    gaps = {gap for pair in train for gap in _gaps(pair.source)}
    hits: Counter[str] = Counter()
    for pair in test:
        hits["source"] += pair.source in seen["source"]
        hits["target"] += pair.target in seen["target"]
        hits["near source"] += key(pair.source) in seen["near source"]
        hits["near target"] += key(pair.target) in seen["near target"]
        hits["one word"] += any(gap in gaps for gap in _gaps(pair.source))
    return {name: hits[name] / max(len(test), 1) for name in (*seen, "one word")}


def _gaps(text: str) -> list[str]:
    tokens = text.split()
    if len(tokens) < 3:
        return []
    return [" ".join([*tokens[:i], "_", *tokens[i + 1 :]]) for i in range(len(tokens))]
