"""The numbers that stand for tokens: characters or words in, padded tensors out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")


def _check_flags(**flags: object) -> None:
    """Refuse what is neither True nor False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")


def check_sentences(name: str, sentences: object) -> None:
    """Refuse what is no sequence of sentences; one text, which is a sequence of letters, too."""
    if isinstance(sentences, str) or not isinstance(sentences, Sequence):
        raise TypeError(f"{name} must be a sequence of sentences, got {sentences!r}")


class Vocabulary:
    """A list of tokens, each known by its place in it.

    The first four places are always ``<pad>`` (0), ``<bos>`` (1), ``<eos>`` (2) and ``<unk>`` (3).
    A sentence is any sequence of strings: a ``str`` is a sequence of characters, a list of words
    a sequence of words.

    Args:
        tokens: the tokens that follow the four special ones, without repetition.

    Raises:
        ValueError: a token stands twice in ``tokens``, or is one of the special tokens.

    Example:
        >>> vocabulary = Vocabulary.of(["2024", "1999"])
        >>> vocabulary.encode("2019", eos=True)
        [6, 4, 5, 8, 2]
        >>> "".join(vocabulary.decode([6, 4, 5, 8, 2, 0, 0]))
        '2019'
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = [*SPECIAL_TOKENS, *tokens]
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            repeated = sorted(token for token, n in Counter(self.tokens).items() if n > 1)
            raise ValueError(f"tokens must not repeat or be special tokens, but found {repeated}")

    @classmethod
    def of(
        cls,
        sentences: Iterable[Iterable[str]],
        *,
        min_count: int = 1,
        max_size: int | None = None,
    ) -> Vocabulary:
        """The vocabulary of a corpus: its tokens in sorted order.

        Args:
            sentences: the corpus; a string counts as a sequence of characters.
            min_count: how often a token must occur to be taken in.
            max_size: how many tokens to keep at most, the most frequent ones; None keeps all.

        Returns:
            A vocabulary of the special tokens and the tokens that were kept.

        Example:
            >>> Vocabulary.of([["open", "file"], ["close", "file"]], min_count=2).tokens[4:]
            ['file']
        """
        counts = Counter(token for sentence in sentences for token in sentence)
        by_frequency = sorted(counts, key=lambda token: (-counts[token], token))
        kept = [token for token in by_frequency if counts[token] >= min_count]
        return cls(sorted(kept[:max_size]))

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens)"

    def encode(self, sentence: Iterable[str], *, bos: bool = False, eos: bool = False) -> list[int]:
        """The numbers of a sentence's tokens.

        Args:
            sentence: tokens; one that the vocabulary lacks becomes ``<unk>``.
            bos: whether to put ``<bos>`` before the first token.
            eos: whether to put ``<eos>`` after the last token.

        Returns:
            A list of ints.

        Raises:
            TypeError: ``bos`` or ``eos`` is neither True nor False.
        """
        _check_flags(bos=bos, eos=eos)
        ids = [self._ids.get(token, UNKNOWN) for token in sentence]
        return [BOS] * bos + ids + [EOS] * eos

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The tokens that the numbers stand for, up to the first ``<eos>``.

        Args:
            ids: ints, or a 1-D tensor of them; ``<pad>`` and ``<bos>`` are left out.

        Returns:
            A list of tokens.
        """
        tokens = []
        for i in map(int, ids):
            if i == EOS:
                break
            if i not in (PAD, BOS):
                tokens.append(self.tokens[i])
        return tokens

    def pad(
        self, sentences: Sequence[Iterable[str]], *, bos: bool = False, eos: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of sentences as one tensor, the short ones filled up with ``<pad>``.

        Args:
            sentences: at least one sentence, each a sequence of tokens.
            bos: whether every sentence starts with ``<bos>``.
            eos: whether every sentence ends with ``<eos>``.

        Returns:
            ``(ids, lengths)``: int64 tensors ``(batch, longest)`` and ``(batch,)``.

        Raises:
            ValueError: there is no sentence.
            TypeError: ``sentences`` is one text, or no sequence.

        Example:
            >>> ids, lengths = Vocabulary("ab").pad(["ab", "a"], eos=True)
            >>> ids.tolist(), lengths.tolist()
            ([[4, 5, 2], [4, 2, 0]], [3, 2])
        """
        import torch

        check_sentences("sentences", sentences)
        if len(sentences) == 0:
            raise ValueError("sentences must hold at least one sentence, got none")
        rows = [torch.tensor(self.encode(s, bos=bos, eos=eos)) for s in sentences]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence(
            [row.long() for row in rows], batch_first=True, padding_value=PAD
        )
        return ids, lengths
