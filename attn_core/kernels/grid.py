"""The pairs of queries and keys as a grid of blocks, of which many need not be looked at."""

from collections.abc import Iterator
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from attn_core.arguments import Arguments
from attn_core.masks import Mask
from attn_core.positions.bias import Bias

# How many scores a block holds: what the cache of a processor or the memory of a GPU has room for.
_SCORES_ON_CPU, _SCORES_ELSEWHERE = 2**18, 2**25
_ROWS, _LEAST_KEYS, _MOST_KEYS = 128, 64, 2048


class Block(NamedTuple):
    """Some queries and some keys.

    Attributes:
        rows: which queries.
        keys: which keys.
        table: bool, broadcasts to ``(..., Hq, rows, keys)``; None where every pair is allowed.
    """

    rows: slice
    keys: slice
    table: Tensor | None


class Grid:
    """Goes through the blocks of a call, and reads mask and bias there.

    Args:
        arguments: of the call.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.device = arguments.query.device
        offset = 0 if arguments.q_offset is None else arguments.q_offset
        self.offset: int | Tensor
        if isinstance(offset, Tensor):
            self.offset = offset.to(self.device)[:, None, None, None]
            ends = offset.tolist() or [0]
            self.least_offset, self.greatest_offset = min(ends), max(ends)
        else:
            self.offset = self.least_offset = self.greatest_offset = offset
        scores = _SCORES_ON_CPU if self.device.type == "cpu" else _SCORES_ELSEWHERE
        self.rows = max(1, min(_ROWS, arguments.q_len))
        heads = max(1, arguments.leading.numel() * arguments.query.shape[-3])
        self.keys = min(max(_LEAST_KEYS, scores // (heads * self.rows)), _MOST_KEYS)

    def row_blocks(self) -> list[slice]:
        """All queries, block by block."""
        return _blocks(0, self.arguments.q_len, self.rows)

    def blocks(self, rows: slice) -> Iterator[Block]:
        """The blocks of keys that these queries may attend."""
        for keys in self._key_blocks(rows):
            table = self._table(rows, keys)
            if table is not None and self.device.type == "cpu":  # elsewhere it would wait
                if not table.any():
                    continue
                if table.all():
                    table = None
            yield Block(rows, keys, table)

    def bias(
        self, block: Block, query: Tensor, key: Tensor, parameters: dict[str, Tensor]
    ) -> Tensor | None:
        """What is added to the scores of these queries and keys ``(..., heads, length, D)``.

        A bias object computes it with these parameters in the place of its own.
        """
        bias = self.arguments.bias
        if isinstance(bias, Bias):
            row, column = self._indices(block.rows, block.keys)
            inputs = (query, key, column - (row + self.offset))
            if not parameters:
                return bias(*inputs)
            added: Tensor = functional_call(bias, parameters, inputs)
            return added
        return None if bias is None else bias[window_of(bias, block)]

    def _key_blocks(self, rows: slice) -> list[slice]:
        mask, k_len = self.arguments.mask, self.arguments.k_len
        if not isinstance(mask, Mask):
            return _blocks(0, k_len, self.keys)
        left, right, first = mask.reach
        nearest, furthest = rows.start + self.least_offset, rows.stop - 1 + self.greatest_offset
        begin = 0 if left is None else min(max(0, nearest - left), k_len)
        end = k_len if right is None else min(max(begin, furthest + right + 1), k_len)
        if nearest < first and not mask.by_distance:  # this query may attend everything
            begin, end = 0, k_len
        before = min(first, begin)
        return _blocks(0, before, self.keys) + _blocks(begin, end, self.keys)

    def _table(self, rows: slice, keys: slice) -> Tensor | None:
        mask = self.arguments.mask
        if isinstance(mask, Mask):
            return mask.pairs(*self._indices(rows, keys), self.arguments.q_offset)
        return None if mask is None else mask[window_of(mask, Block(rows, keys, None))]

    def _indices(self, rows: slice, keys: slice) -> tuple[Tensor, Tensor]:
        row = torch.arange(rows.start, rows.stop, device=self.device)[:, None]
        return row, torch.arange(keys.start, keys.stop, device=self.device)


def window_of(x: Tensor, block: Block) -> tuple[EllipsisType, slice, slice]:
    """Where the block stands in a tensor that broadcasts to ``(..., Hq, L, S)``."""
    rows, keys = (
        span if size > 1 else slice(0, 1)
        for span, size in zip((block.rows, block.keys), x.shape[-2:], strict=True)
    )
    return ..., rows, keys


def _blocks(begin: int, end: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, end)) for start in range(begin, end, size)]
