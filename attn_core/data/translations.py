"""What a translation is measured against: references, and two systems without a network."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from attn_core.data.catalogues import Pair


def as_written(tokens: str) -> str:
    """Chinese as it is written: no spaces, except between two Latin words or numbers.

    Args:
        tokens: the tokens of a sentence, joined by spaces.

    Returns:
        The sentence.

    Example:
        >>> as_written("打 开 python file")
        '打开python file'
    """
    return re.sub(r"(?<![a-z0-9]) | (?![a-z0-9])", "", tokens)


def references(part: Iterable[Pair]) -> dict[str, list[str]]:
    """Each source once, with all its translations: several right answers, as BLEU allows.

    Args:
        part: pairs, of a test for example.

    Returns:
        The translations of each source, in the order of ``part``.

    Example:
        >>> references([Pair("close", "关 闭", "a"), Pair("close", "关 掉", "b")])
        {'close': ['关 闭', '关 掉']}
    """
    found: dict[str, list[str]] = defaultdict(list)
    for pair in part:
        found[pair.source].append(pair.target)
    return dict(found)


def reference_streams(targets: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The first translation of every source, then the second: the form that sacrebleu reads.

    Args:
        targets: the translations of each source.

    Returns:
        As many lists as a source has translations at most; None where one has fewer.

    Example:
        >>> reference_streams([["a", "b"], ["c"]])
        [['a', 'c'], ['b', None]]
    """
    most = max(map(len, targets))
    return [[t[k] if k < len(t) else None for t in targets] for k in range(most)]


class TranslationMemory:
    """Translates as the most similar training message was translated.

    Two messages are as similar as their sets of words: shared words divided by all words, the
    Jaccard index.

    Args:
        train: the pairs that it remembers.

    Example:
        >>> memory = TranslationMemory([Pair("open file", "打 开 文 件", "a")])
        >>> memory("open the file"), round(memory.similarity("open the file"), 2)
        ('打 开 文 件', 0.67)
    """

    def __init__(self, train: Iterable[Pair]) -> None:
        self._pairs = [(set(pair.source.split()), pair.target) for pair in train]
        self._having: dict[str, list[int]] = defaultdict(list)
        for i, (words, _) in enumerate(self._pairs):
            for word in words:
                self._having[word].append(i)

    def __call__(self, source: str) -> str:
        """The translation of the most similar training message; of equals, of the first."""
        return self._pairs[self._nearest(source)[1]][1]

    def similarity(self, source: str) -> float:
        """How similar the most similar training message is, from 0 to 1."""
        return self._nearest(source)[0]

    def _nearest(self, source: str) -> tuple[float, int]:
        words = set(source.split())
        shared = Counter(i for word in words for i in self._having.get(word, ()))
        similar = ((n / len(words | self._pairs[i][0]), -i) for i, n in shared.items())
        similarity, i = max(similar, default=(0.0, 0))
        return similarity, -i


class Link(NamedTuple):
    """A word and its translation in one pair.

    Attributes:
        word: the word's place in the source.
        first: the place of the translation's first token in the target.
        tokens: how many tokens the translation has.

    Example:
        >>> Link(word=1, first=0, tokens=2).first
        0
    """

    word: int
    first: int
    tokens: int


class Glossary:
    r"""For each word the piece of the other language that goes along with it most.

    .. math:: \mathrm{dice}(w, t) = \frac{2\, n(w, t)}{n(w) + n(t)}

    ``n(w)`` training pairs have the word ``w``, ``n(t)`` the piece ``t``, ``n(w, t)`` both. Of the
    pieces with the highest coefficient the longest is taken.

    Args:
        train: the pairs to count in.
        longest: tokens of the longest piece.

    Attributes:
        best: for every word its dice coefficient and its piece.

    Source: Dice (1945).

    Example:
        >>> texts = (("open file", "打 开 文 件"), ("save file", "保 存 文 件"), ("open", "打 开"))
        >>> glossary = Glossary([Pair(*text, "") for text in texts * 2])
        >>> glossary("open file"), glossary.best["file"]
        ('打 开 文 件', (1.0, '文 件'))
        >>> glossary.links(Pair("file open", "打 开 文 件", ""))
        [Link(word=0, first=2, tokens=2), Link(word=1, first=0, tokens=2)]
    """

    def __init__(self, train: Iterable[Pair], longest: int = 4) -> None:
        of_word: Counter[str] = Counter()
        of_piece: Counter[str] = Counter()
        of_both: Counter[tuple[str, str]] = Counter()
        for pair in train:
            words, tokens = set(pair.source.split()), pair.target.split()
            pieces = {
                " ".join(tokens[i : i + n])
                for n in range(1, longest + 1)
                for i in range(len(tokens) - n + 1)
            }
            of_word.update(words)
            of_piece.update(pieces)
            of_both.update((word, piece) for word in words for piece in pieces)
        best: dict[str, tuple[float, int, str]] = {}
        for (word, piece), n in of_both.items():
            candidate = (2 * n / (of_word[word] + of_piece[piece]), len(piece.split()), piece)
            if n > 1 and (word not in best or candidate > best[word]):
                best[word] = candidate
        self.best = {word: (dice, piece) for word, (dice, _, piece) in best.items()}

    def __call__(self, source: str) -> str:
        """Word by word, in the order of the source; an unknown word is left out."""
        return " ".join(self.best[word][1] for word in source.split() if word in self.best)

    def links(self, pair: Pair, at_least: float = 0.7) -> list[Link]:
        """The words of a pair whose translation can be told without doubt.

        A word counts when its coefficient is ``at_least`` so high, and it and its piece occur
        once each in the pair.
        """
        words, tokens = pair.source.split(), pair.target.split()
        found = []
        for j, word in enumerate(words):
            dice, piece = self.best.get(word, (0.0, ""))
            parts = piece.split()
            places = [
                t for t in range(len(tokens)) if parts and tokens[t : t + len(parts)] == parts
            ]
            if dice >= at_least and words.count(word) == 1 and len(places) == 1:
                found.append(Link(j, places[0], len(parts)))
        return found
