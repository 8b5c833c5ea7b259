"""A window in blocks: attention whose cost grows with the length, not with its square.

The queries are cut into blocks. Those of a block, with the positions p to p + size − 1, look no
further than the keys p − left to p + size − 1 + right, which stand in a row: the spans of
neighbouring blocks overlap, so they are views of the keys and not copies. Blocks become batch
entries of one dense call, and another kernel computes that::

    queries   |  block 0  |  block 1  |  block 2  |
    keys  |    span 0     |
                      |    span 1     |
                                  |    span 2     |

The blocks at both ends, whose span reaches beyond the keys, are a call each. Where the first tokens
are an exception to the window, their queries are a call with all keys, and their keys stand before
every span.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from attn_core import normalizers
from attn_core.arguments import Arguments, Normalizer, is_in_use
from attn_core.checks import is_tracing
from attn_core.kernels import chunked, explicit, sdpa
from attn_core.kernels.spans import Cut, Spans, one_span
from attn_core.masks import Mask
from attn_core.positions.bias import Bias

# What these do to a row of scores depends on its own numbers only, and −inf changes nothing.
_ROW_BY_ROW = (
    normalizers.softmax,
    normalizers.softmax_with_sink,
    normalizers.sparsemax,
    normalizers.entmax,
    normalizers.entmax15,
    normalizers.entmax_bisect,
    normalizers.sigmoid,
    normalizers.hard,
    normalizers.gumbel_softmax,
)

_FEW_KEYS = 512
# A wider band is worth a look at the mask, which of its keys it leaves: chunked has it, if fused.
_WIDE = 512
# Few enough that their memory is used again, and not asked of the system for each call.
_BLOCKS_AT_ONCE = 64


class Piece(NamedTuple):
    """Some queries, in blocks, and for each block the keys that it may attend.

    Attributes:
        queries: the blocks.
        keys: their spans, as many.
    """

    queries: Spans
    keys: Spans

    def rows_and_keys(self, device: torch.device, *, alike: bool) -> tuple[Tensor, Tensor]:
        """Which queries ``(blocks, rows, 1)`` and which keys ``(blocks, 1, keys)`` meet.

        If the blocks are alike, and they are unless the first keys stand before each span, the
        first one will do.
        """
        queries, keys = self
        if alike and not keys.first:
            queries, keys = queries._replace(number=1), keys._replace(number=1)
        return queries.positions(device)[..., None], keys.positions(device)[:, None]


# PyTorch 2.5 does not tell export from compile.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def refusal(arguments: Arguments) -> str | None:
    """Say why this kernel cannot do the job, or None if it can."""
    if is_tracing():
        return "torch.jit.trace would write down the blocks of this very length"
    mask, bias = arguments.mask, arguments.bias
    if mask is None:
        return "there is no mask, so every query looks at every key"
    if not isinstance(mask, Mask):
        return "mask is not from attn_core.masks, so that it is not known how far it reaches"
    if mask.reach.left is None or mask.reach.right is None:
        return f"mask {mask.name} does not end on both sides of the query"
    if isinstance(arguments.q_offset, Tensor):
        return "q_offset differs between batch entries"
    if arguments.score is not None:
        return "score is not the dot product"
    if not _is_row_by_row(arguments.normalizer):
        return "normalizer may depend on more than one row of scores"
    if isinstance(bias, Tensor) and 1 not in bias.shape[-2:]:
        return "bias is a tensor with a number for every pair"
    if isinstance(bias, Bias) and not bias.is_in_blocks:
        return f"bias {bias.name} has a number for every pair"
    if 0 in (*arguments.leading, arguments.q_len):
        return "there are no queries"
    return None


def reluctance(arguments: Arguments) -> str | None:
    """Say why another kernel is better, though this one can do the job, or None if none is."""
    assert isinstance(arguments.mask, Mask)
    if _is_exporting():
        return "its blocks depend on the length, which torch.export may leave open"
    left, right, first = arguments.mask.reach
    widest = first + (left or 0) + 1 + (right or 0)
    # Of a wide band in a long sequence chunked computes less, where sdpa would compute the whole.
    is_large = arguments.q_len * arguments.k_len > sdpa.LARGE_MASK_ON_CPU
    if (
        is_large
        and widest > _WIDE
        and not arguments.mask.by_distance
        and chunked.refusal(arguments) is None
        and chunked.reluctance(arguments) is None
        and chunked.is_fused(arguments)
    ):
        return "the mask may leave much of its band empty"
    times = 3 if is_large else 2
    if arguments.k_len < max(_FEW_KEYS, times * widest):
        # No number: one that is written out is one that torch.compile compiles for.
        return "the keys are few for how far a query may look"
    return None


def run(arguments: Arguments) -> tuple[Tensor, None]:
    """Compute output ``(..., Hq, L, Dv)``; the weights stay in blocks and are not kept."""
    leading, heads = arguments.leading, arguments.query.shape[-3]
    todo = [(piece, _table(arguments, piece)) for piece in pieces(arguments)]
    spans = tuple(zip(*(piece for piece, _ in todo), strict=True))
    query, key, value = (
        Cut.apply(x.expand(*leading, *x.shape[-3:]).reshape(-1, *x.shape[-3:]), spans[of_what])
        for x, of_what in ((arguments.query, 0), (arguments.key, 1), (arguments.value, 1))
    )
    shape = (leading.numel(), arguments.q_len, heads, value[0].shape[-1])
    outputs = []
    # Writing into one tensor is faster than joining, but a graph would copy it at every step.
    joined = None if torch.is_grad_enabled() else query[0].new_empty(shape)
    for number, (entry, (piece, table)) in enumerate(product(product(*map(range, leading)), todo)):
        blocks = replace(
            arguments,
            query=query[number],
            key=key[number],
            value=value[number],
            mask=_for_blocks(table[entry[-1] if len(table) > 1 else 0]),
            q_offset=None,
            in_use=arguments.is_all_in_use or is_in_use(table),
        )
        blocks = replace(blocks, bias=_bias(arguments, piece, blocks, entry))
        kernel = explicit if sdpa.refusal(blocks) else sdpa
        output, _ = kernel.run(blocks)  # (blocks, heads, rows, Dv)
        output = output.transpose(1, 2).flatten(0, 1)
        if joined is None:
            outputs.append(output)
        else:
            start = piece.queries.start
            joined[number // len(todo), start : start + len(output)] = output
    if joined is None:
        joined = torch.cat(outputs)
    return joined.reshape(*leading, *shape[1:]).transpose(-3, -2), None


def pieces(arguments: Arguments) -> list[Piece]:
    """Cut queries and keys: the first tokens, then the blocks at the start, inside, at the end."""
    assert isinstance(arguments.mask, Mask)
    assert not isinstance(arguments.q_offset, Tensor)
    left, right, first = arguments.mask.reach
    assert left is not None
    assert right is not None
    offset, q_len, k_len = arguments.q_offset or 0, arguments.q_len, arguments.k_len
    first = min(first, k_len)

    def edge(row: int, stop: int) -> Piece:
        """The queries from ``row`` to ``stop``, with those of their keys that are there."""
        begin = min(max(row + offset - left, 0), k_len)
        end = min(max(stop + offset + right, begin, first), k_len)
        begin, before = (begin, first) if begin > first else (0, 0)
        return Piece(one_span(row, stop - row), one_span(begin, end - begin, before))

    # The queries before `start` may attend every key. Block i has the queries from
    # start + i · rows on, and its span begins at key + i · rows.
    start = 0 if arguments.mask.by_distance else min(max(first - offset, 0), q_len)
    rows = block_size(left, right)
    key, keys = start + offset - left, left + rows + right
    begin = max(0, -((key - first) // rows))
    end = min((q_len - start) // rows, (k_len - keys - key) // rows + 1)
    found = [Piece(one_span(0, start), one_span(0, k_len))]
    if begin < end:
        inside, after = start + begin * rows, start + end * rows
        found.append(edge(start, inside))
        for block in range(begin, end, _BLOCKS_AT_ONCE):
            number = min(end - block, _BLOCKS_AT_ONCE)
            row, at = start + block * rows, key + block * rows
            queries = Spans(row, number, rows, rows)
            found.append(Piece(queries, Spans(at, number, rows, keys, first)))
        start = after
    found.append(edge(start, q_len))
    return [piece for piece in found if piece.queries.length]


def block_size(left: int, right: int) -> int:
    """How many queries share a span: a power of two, about half as many as the keys of each.

    In smaller blocks the spans take more memory, in larger ones more scores are masked out.
    """
    return max(32, 2 ** ((left + right) // 2).bit_length() // 2)


def _table(arguments: Arguments, piece: Piece) -> Tensor:
    """Which pairs are allowed: ``(batch, heads, blocks, rows, keys)``, or 1 for what is alike."""
    mask, device = arguments.mask, arguments.query.device
    assert isinstance(mask, Mask)
    row, key = piece.rows_and_keys(device, alike=mask.by_distance)
    table = mask.pairs(row, key, arguments.q_offset)
    return table.reshape((1,) * (5 - table.ndim) + table.shape)


def _bias(
    arguments: Arguments, piece: Piece, blocks: Arguments, entry: tuple[int, ...]
) -> Tensor | None:
    """What is added to the scores of the blocks, broadcast to ``(blocks, heads, rows, keys)``."""
    bias, device = arguments.bias, arguments.query.device
    if bias is None:
        return None
    if isinstance(bias, Bias):
        assert not isinstance(arguments.q_offset, Tensor)
        row, key = piece.rows_and_keys(device, alike=True)
        distance = key - (row + (arguments.q_offset or 0))
        return bias(
            blocks.query, blocks.key, distance[:, None] if len(distance) > 1 else distance[0]
        )
    bias = bias.reshape((1,) * (len(entry) + 3 - bias.ndim) + bias.shape)
    bias = bias[tuple(i if size > 1 else 0 for i, size in zip(entry, bias.shape, strict=False))]
    row, key = piece.rows_and_keys(device, alike=False)
    # One number of the bias may stand in many blocks: its gradient is summed in float32.
    exact = bias.to(torch.promote_types(bias.dtype, torch.float32))
    return _for_blocks(exact[:, row % bias.shape[-2], key % bias.shape[-1]].to(bias.dtype))


def _for_blocks(x: Tensor) -> Tensor:
    """From ``(heads, blocks, rows, keys)`` to ``(blocks, heads, …)``, a matrix if all are alike."""
    return x[0, 0] if x.shape[:2].numel() == 1 else x.transpose(0, 1)


def _is_row_by_row(normalizer: Normalizer | None) -> bool:
    """Whether it is known that it normalises each row by its own numbers."""
    if not isinstance(normalizer, partial):
        return normalizer is None or normalizer in _ROW_BY_ROW
    # A tensor among the options may hold a number for each head, but not for each query.
    options = [x for x in normalizer.keywords.values() if isinstance(x, Tensor)]
    return (
        normalizer.func in _ROW_BY_ROW
        and not normalizer.args
        and all(x.ndim <= 3 and x.shape[-2:].numel() == 1 for x in options)
    )
