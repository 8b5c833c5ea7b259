"""From a text to the pieces of words that a BERT knows, as its published tokenizer cuts it."""

import re
import unicodedata
from collections.abc import Collection

__all__ = ["word_pieces"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MOST_CHARACTERS = 100  # a longer word is unknown
# The blocks of ideographs, each of which becomes a word.
IDEOGRAPHS = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)


def word_pieces(text: str, vocabulary: Collection[str]) -> list[str]:
    """Cut a text into tokens, with ``[CLS]`` before and ``[SEP]`` behind.

    The text is cleaned, written in lower case without accents, and cut at spaces, at punctuation
    and around ideographs. Then the longest piece that the vocabulary has is taken from the front
    of each word, again and again; a piece that does not begin its word is written with ``##``. A
    word with a rest that no piece fits becomes ``[UNK]`` as a whole.

    Args:
        text: any text.
        vocabulary: the pieces, best as a set or a dict, in which one is found at once.

    Returns:
        The tokens.

    Raises:
        TypeError: text is no string.

    Source: Song et al. 2021, for the longest match and ``##``; Devlin et al. 2019, section 3; the
    published vocabulary's settings.

    Example:
        >>> vocabulary = {"token", "##s", "a", "!", "cafe"}
        >>> word_pieces("Tokens: a Café!", vocabulary)
        ['[CLS]', 'token', '##s', '[UNK]', 'a', 'cafe', '!', '[SEP]']
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {type(text).__name__}")
    tokens = ["[CLS]"]
    marked = re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", text)
    for part in marked:
        if part in SPECIAL:
            tokens.append(part)
        else:
            for word in _words(_plain(part)):
                tokens += _pieces(word, vocabulary)
    return [*tokens, "[SEP]"]


def _plain(text: str) -> str:
    """Clean, with spaces around ideographs, without accents, in lower case."""
    kept = [" " if sign.isspace() else sign for sign in text if not _is_dropped(sign)]
    spaced = IDEOGRAPHS.sub(r" \g<0> ", "".join(kept))
    decomposed = unicodedata.normalize("NFD", spaced)
    bare = [sign for sign in decomposed if unicodedata.category(sign) != "Mn"]
    return "".join(sign.lower() for sign in bare)  # sign by sign: no rule for the end of a word


def _is_dropped(sign: str) -> bool:
    """Control characters, and those that only say how to show others."""
    is_control = unicodedata.category(sign) in ("Cc", "Cf", "Co", "Cs")
    return sign == "\ufffd" or (is_control and sign not in "\t\n\r")


def _is_punctuation(sign: str) -> bool:
    is_ascii = sign.isascii() and sign.isprintable() and not sign.isalnum() and sign != " "
    return is_ascii or unicodedata.category(sign).startswith("P")


def _words(text: str) -> list[str]:
    """Cut at spaces; each sign of punctuation is a word of its own."""
    spaced = [f" {sign} " if _is_punctuation(sign) else sign for sign in text]
    return "".join(spaced).split()


def _pieces(word: str, vocabulary: Collection[str]) -> list[str]:
    if len(word) > MOST_CHARACTERS:
        return ["[UNK]"]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocabulary:
                break
        else:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces
