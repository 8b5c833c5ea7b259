"""Shakespeare's plays in the alphabet in which Shannon (1951) measured English."""

from __future__ import annotations

import re

from attn_core.data import packages

ALPHABET = " abcdefghijklmnopqrstuvwxyz"


def titles() -> list[str]:
    """The names of the plays and poems.

    Returns:
        Names for `letters`, sorted.

    Raises:
        MissingDataError: the data package is not installed.

    Example:
        >>> titles()[:3]
        ['alls_well_that_ends_well', 'antony_and_cleopatra', 'as_you_like_it']
    """
    found = packages.files(packages.SHAKESPEARE.name, r"shksprdata/texts/[a-z_0-9]+_gut\.txt$")
    return [path.name.removesuffix("_gut.txt") for path in found]


def letters(title: str) -> str:
    """A whole play, speakers and stage directions too, in small letters and spaces.

    Whatever is no letter, and several such characters in a row, become one space.

    Args:
        title: one of `titles`.

    Returns:
        The text; it neither begins nor ends with a space.

    Raises:
        ValueError: there is no such play.
        MissingDataError: the data package is not installed.

    Example:
        >>> text = letters("hamlet")
        >>> len(text), text[:40]
        (162576, 'hamlet prince of denmark by william shak')
    """
    if title not in titles():
        raise ValueError(f"title must be one of {', '.join(titles())}; got {title!r}")
    (path,) = packages.files(packages.SHAKESPEARE.name, rf"shksprdata/texts/{title}_gut\.txt$")
    return re.sub("[^a-z]+", " ", path.read_text(encoding="latin-1").lower()).strip()
