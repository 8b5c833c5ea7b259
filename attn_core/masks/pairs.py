"""Pairs of a query and a key: what a predicate is told of them, and how far apart they may be."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Indices(NamedTuple):
    """Where a predicate looks: integer tensors that broadcast to ``(batch, heads, L, S)``.

    Attributes:
        batch: which batch entry.
        head: which query head.
        row: which query of this call, counted from 0.
        query: the query's position among the keys, ``row + q_offset``.
        key: the key's position.

    Example:
        >>> Indices(batch=0, head=0, row=1, query=4, key=2).query
        4
    """

    batch: Tensor
    head: Tensor
    row: Tensor
    query: Tensor
    key: Tensor


Predicate = Callable[[Indices], Tensor]


class Reach(NamedTuple):
    """How far from its own position a query may look at most; what lies beyond is never allowed.

    The first positions are an exception: they may attend, and be attended, from everywhere.
    A kernel that goes through the keys near a query relies on it.

    Attributes:
        left: how many positions before the query's own; None for all of them.
        right: how many after it; None for all of them.
        first: how many positions at the start are the exception.

    Source: Beltagy, Peters and Cohan (2020), section 3.1: a sliding window and global tokens.

    Example:
        >>> Reach(left=4, right=0)
        Reach(left=4, right=0, first=0)
    """

    left: int | None = None
    right: int | None = None
    first: int = 0

    def __and__(self, other: "Reach") -> "Reach":
        return Reach(
            smaller(self.left, other.left),
            smaller(self.right, other.right),
            max(self.first, other.first),
        )

    def __or__(self, other: "Reach") -> "Reach":
        return Reach(
            larger(self.left, other.left),
            larger(self.right, other.right),
            max(self.first, other.first),
        )


def smaller(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def larger(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)
