"""The pairs of queries and keys as a grid of blocks, of which many need not be looked at."""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
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
# How many keys are looked at together, to find those that some query of a block may attend.
_STRIP = 2048


class Block(NamedTuple):
    """Some queries and some keys.

    Attributes:
        rows: which queries.
        keys: which keys: a stretch of them, or their numbers where they lie apart.
        table: bool, broadcasts to ``(..., Hq, rows, keys)``; None where every pair is allowed.
    """

    rows: slice
    keys: slice | Tensor
    table: Tensor | None

    @property
    def pairs(self) -> int:
        """How many scores there are."""
        keys = len(self.keys) if isinstance(self.keys, Tensor) else _length(self.keys)
        return _length(self.rows) * keys


class Grid:
    """Goes through the blocks of a call, and reads mask and bias there.

    Args:
        arguments: of the call.
        rows: how many queries a block has at most; 128 by default.
        keys: how many keys; by default as many as the cache of a processor has room for.
    """

    def __init__(
        self, arguments: Arguments, rows: int | None = None, keys: int | None = None
    ) -> None:
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
        self.rows = max(1, min(rows or _ROWS, arguments.q_len))
        heads = max(1, arguments.leading.numel() * arguments.query.shape[-3])
        self.keys = keys or min(max(_LEAST_KEYS, scores // (heads * self.rows)), _MOST_KEYS)

    def row_blocks(self) -> list[slice]:
        """All queries, block by block."""
        return _blocks(0, self.arguments.q_len, self.rows)

    def blocks(self, rows: slice) -> Iterator[Block]:
        """The blocks of keys that these queries may attend."""
        if self.arguments.mask is None or self.device.type != "cpu":  # elsewhere it would wait
            for stretch in self._key_blocks(rows, self.keys):
                yield Block(rows, stretch, self._table(rows, stretch))
            return
        for keys, table in self._gathered(rows):
            yield Block(rows, keys, None if table.all() else table)

    def _gathered(self, rows: slice) -> Iterator[tuple[slice | Tensor, Tensor]]:
        """The keys that some of these queries may attend, as many at a time as a block holds."""
        found: list[tuple[slice | Tensor, Tensor]] = []
        count = 0
        for strip in self._key_blocks(rows, _STRIP):
            table = self._table(rows, strip)
            assert table is not None
            flat = table.reshape(-1, table.shape[-1]).view(torch.uint8)  # ten times as fast as bool
            used = flat.amax(0).expand(_length(strip)).nonzero()[:, 0]
            for some in used.split(self.keys):
                if len(some) and count + len(some) > self.keys:
                    yield _joined(found)
                    found, count = [], 0
                if len(some):
                    found.append(_of_strip(strip, table, some))
                    count += len(some)
        if found:
            yield _joined(found)

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

    def _key_blocks(self, rows: slice, size: int) -> list[slice]:
        mask, k_len = self.arguments.mask, self.arguments.k_len
        if not isinstance(mask, Mask):
            return _blocks(0, k_len, size)
        left, right, first = mask.reach
        nearest, furthest = rows.start + self.least_offset, rows.stop - 1 + self.greatest_offset
        begin = 0 if left is None else min(max(0, nearest - left), k_len)
        end = k_len if right is None else min(max(begin, furthest + right + 1), k_len)
        if nearest < first and not mask.by_distance:  # this query may attend everything
            begin, end = 0, k_len
        before = min(first, begin)
        return _blocks(0, before, size) + _blocks(begin, end, size)

    def _table(self, rows: slice, keys: slice) -> Tensor | None:
        mask = self.arguments.mask
        if isinstance(mask, Mask):
            if self._by_distance is not None:
                return self._by_distance[: rows.stop - rows.start, self._distance_of(rows, keys)]
            return mask.pairs(*self._indices(rows, keys), self.arguments.q_offset)
        return None if mask is None else mask[window_of(mask, Block(rows, keys, None))]

    def _indices(self, rows: slice, keys: slice | Tensor) -> tuple[Tensor, Tensor]:
        row = torch.arange(rows.start, rows.stop, device=self.device)[:, None]
        if isinstance(keys, Tensor):
            return row, keys
        return row, torch.arange(keys.start, keys.stop, device=self.device)

    @cached_property
    def _by_distance(self) -> Tensor | None:
        """Where the mask knows distances only: its table for one block of rows at any place.

        Its rows are those of a block after the last one, so that every other block finds its keys
        further to the right.
        """
        mask, offset = self.arguments.mask, self.offset
        if not isinstance(mask, Mask) or not mask.by_distance or isinstance(offset, Tensor):
            return None
        end = self.arguments.q_len
        row = torch.arange(end, end + self.rows, device=self.device)[:, None]
        width = end + self.arguments.k_len
        strips = _blocks(0, width, _STRIP)
        tables = [mask.pairs(row, torch.arange(s.start, s.stop), offset) for s in strips]
        return torch.cat(tables, -1).reshape(self.rows, width)

    def _distance_of(self, rows: slice, keys: slice) -> slice:
        """Where these keys, seen from these rows, stand among the columns of the table."""
        moved = self.arguments.q_len - rows.start
        return slice(keys.start + moved, keys.stop + moved)


def window_of(x: Tensor, block: Block) -> tuple[EllipsisType, slice, slice | Tensor]:
    """Where the block stands in a tensor that broadcasts to ``(..., Hq, L, S)``."""
    one = slice(0, 1)
    q_len, k_len = x.shape[-2:]
    return ..., block.rows if q_len > 1 else one, block.keys if k_len > 1 else one


def _length(stretch: slice) -> int:
    length: int = stretch.stop - stretch.start
    return length


def _of_strip(strip: slice, table: Tensor, used: Tensor) -> tuple[slice | Tensor, Tensor]:
    """Some keys of a strip, a stretch if they are one, and what the table says of them."""
    first, last = int(used[0]), int(used[-1])
    table = table.expand(*table.shape[:-1], _length(strip))
    if last - first + 1 == len(used):
        stretch = slice(strip.start + first, strip.start + last + 1)
        return stretch, table[..., first : last + 1]
    return used + strip.start, table.index_select(-1, used)


def _joined(found: list[tuple[slice | Tensor, Tensor]]) -> tuple[slice | Tensor, Tensor]:
    """The keys of several strips as those of one block."""
    if len(found) == 1:
        return found[0]
    stretches = [keys for keys, _ in found if isinstance(keys, slice)]
    table = torch.cat([table for _, table in found], -1)
    follow = all(a.stop == b.start for a, b in pairwise(stretches))
    if len(stretches) == len(found) and follow:
        return slice(stretches[0].start, stretches[-1].stop), table
    numbers = [
        torch.arange(keys.start, keys.stop) if isinstance(keys, slice) else keys
        for keys, _ in found
    ]
    return torch.cat(numbers), table


def _blocks(begin: int, end: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, end)) for start in range(begin, end, size)]
