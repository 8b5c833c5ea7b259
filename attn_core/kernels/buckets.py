"""Reformer: attend only the keys whose hash falls into the query's own bucket."""

from typing import NamedTuple

import torch
from torch import Tensor

from attn_core import normalizers
from attn_core.autocast import without_autocast
from attn_core.calls import checked_call
from attn_core.checks import check_floating_point, check_same_kind, check_sizes
from attn_core.kernels.padded import Padded, check_padded
from attn_core.masks import Mask

_REASON = "for the causal form there is causal=True"
_BLOCK = 64  # Tokens of a bucket that are multiplied at once.
_TOKENS_AT_ONCE = 2**14  # Tokens, counted once for each round, that are in work at once.


@checked_call
def lsh(
    query: Tensor,
    value: Tensor,
    *,
    buckets: int,
    rounds: int = 1,
    rotations: Tensor | None = None,
    generator: torch.Generator | None = None,
    attend_self: bool = False,
    causal: bool = False,
    mask: Tensor | Mask | None = None,
    scale: float | None = None,
) -> Tensor:
    r"""Approximate attention by letting a query attend the keys in its own bucket only.

    .. math::
        o_i = \sum_{j \in P_i} \exp\big(\text{scale} \cdot q_i \cdot k_j - z_i\big) \, v_j,
        \qquad k_j = \frac{q_j}{\lVert q_j \rVert},
        \qquad P_i = \bigcup_r \{ j : h_r(q_i) = h_r(q_j) \}

    with :math:`z_i` the logarithm of the sum of the exponentials. Queries and keys are the same
    vectors, up to length. The hash :math:`h_r(x) = \arg\max [x R_r; -x R_r]` puts vectors of
    similar direction into one bucket, more surely with more rounds. Rounds are joined by their
    log-sum-exp, a key met in several rounds counted once. One bucket is exact attention.

    A query attends *all* the keys of its bucket. Reformer sorts by bucket, cuts the sorted sequence
    into chunks, and lets a chunk see itself and the one before: then a later token moves the
    borders of the chunks, and so changes what earlier ones attend, causal mask or not. Here a later
    token leaves earlier outputs as they are, bit for bit. The price: the number of scores is the
    sum of the squares of the bucket sizes, about rounds × L² / buckets where buckets fill evenly,
    and up to rounds × L² where they do not.

    Args:
        query: ``(..., Hq, L, D)``, the queries, and divided by their length the keys.
        value: ``(..., Hkv, L, Dv)``.
        buckets: number of buckets of a round: 1, or an even number.
        rounds: number of hash rounds.
        rotations: R, ``(rounds, D, buckets / 2)``, the same for every head; by default drawn from
            the normal distribution.
        generator: of the draw; by default PyTorch's own.
        attend_self: whether a query attends its own key. By default only if it has no other, as
            its own key is nearly always the best match.
        causal: whether a query attends no key after its own.
        mask: which tokens are real: ``masks.padding(lengths)``, or bool that broadcasts to
            ``(..., 1, 1, L)``. The outputs of the others are 0.
        scale: multiplies the scores; by default :math:`1/\sqrt{D}`.

    Returns:
        ``(..., Hq, L, Dv)``.

    Raises:
        TypeError: if a tensor is not floating point, dtypes differ, or a count is no integer.
        ValueError: if shapes do not fit, ``buckets`` is neither 1 nor even, or ``mask`` says more
            than which tokens are real.

    Source: Kitaev, Kaiser and Levskaya (2020), section 2, without the chunks.

    Example:
        >>> import torch, attn_core
        >>> query, value = torch.randn(2, 6, 4), torch.randn(2, 6, 3)
        >>> key = query / query.norm(dim=-1, keepdim=True)
        >>> exact = attn_core.attention(query, key, value)
        >>> torch.allclose(lsh(query, value, buckets=1, attend_self=True), exact, atol=1e-6)
        True
    """
    _check_tokens(query, value)
    check_sizes(buckets=buckets, rounds=rounds)
    buckets, rounds = int(buckets), int(rounds)
    if buckets > 1 and buckets % 2:
        raise ValueError(f"buckets must be 1 or even, got {buckets}")
    value_heads = value.shape[-3] if value.ndim > 2 else 1
    as_key = query if query.ndim == 2 else query[..., :value_heads, :, :]
    given = check_padded(query, as_key, value, mask=mask, scale=scale, reason=_REASON)
    rotations = _rotations(rotations, generator, buckets, rounds, query)

    # Exponentials are summed in at least single precision.
    dtype = torch.promote_types(query.dtype, torch.float32)
    with without_autocast(query.device):
        x, values, real, leading = _rows(given, dtype)
        # A few rows at a time, so that the tables of one step stay in the processor's cache.
        at_once = max(1, _TOKENS_AT_ONCE // max(1, rounds * x.shape[1]))
        parts = [rows.split(at_once) for rows in (x, values, real)]
        outputs = [
            _attend_buckets(
                some, its_values, is_real, rotations, buckets, given.scale, attend_self, causal
            )
            for some, its_values, is_real in zip(*parts, strict=True)
        ]
        output = torch.cat(outputs)
    return given.restore(output.reshape(*leading, *values.shape[1:]).to(query.dtype))


def _attend_buckets(
    x: Tensor,
    values: Tensor,
    real: Tensor,
    rotations: Tensor,
    buckets: int,
    scale: float,
    attend_self: bool,
    causal: bool,
) -> Tensor:
    """Attend within buckets: tokens ``(rows, L, D)`` and values ``(rows, L, Dv)``."""
    bucket = _hash(x, rotations)  # (rounds, rows, L)
    layout = _lay_out(bucket, real, buckets, causal)
    pairs = _block_pairs(layout, causal)
    queries, keys = layout.blocks_of(x * scale), layout.blocks_of(_direction(x))
    scores = queries[pairs.row] @ keys[pairs.key].mT  # (pairs, block, block)
    if len(bucket) > 1:
        scores = scores - _times_met(bucket, layout, pairs).to(scores.dtype).log()
    scores = scores.masked_fill(~_allowed(layout, pairs, causal, attend_self), -torch.inf)

    output, log_sum = _attend(scores, layout.blocks_of(values), pairs)
    output = layout.tokens_of(output, 0.0).unflatten(0, bucket.shape)
    log_sum = layout.tokens_of(log_sum, -torch.inf).unflatten(0, bucket.shape)
    return (normalizers.softmax(log_sum, dim=0)[..., None] * output).sum(0)


def _rows(given: Padded, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
    """One row of tokens for each head of each batch entry, and the shape of those rows."""
    length = given.query.shape[-2]
    real = given.real
    if real is None:
        real = torch.ones(1, 1, 1, length, dtype=torch.bool, device=given.query.device)
    leading = torch.broadcast_shapes(
        given.query.shape[:-2], given.value.shape[:-2], real.shape[:-2]
    )
    x, values = (
        tokens.to(dtype).expand(*leading, length, -1).flatten(0, -3)
        for tokens in (given.query, given.value)
    )
    real = real.squeeze(-2).expand(*leading, length).flatten(0, -2)
    return x.masked_fill(~real[..., None], 0.0), values, real, leading


class _Layout(NamedTuple):
    """Where the tokens stand when each bucket has blocks of its own.

    A bucket is one hash value in one row in one round. Its tokens keep their order; the last block
    of a bucket may have places left over.

    Attributes:
        token: ``(blocks, block)``, which token stands at a place, counted through all rows; the
            number behind the last token where a place is left over.
        of_bucket: ``(blocks,)``, which bucket a block belongs to.
        first: ``(buckets,)``, the first block of a bucket.
        n_blocks: ``(buckets,)``, how many blocks a bucket has.
        place: ``(rounds × rows × L,)``, where a token stands; behind all places for padding.
        alone: ``(rows × L + 1,)``, whether a token may attend no other one in any round.
    """

    token: Tensor
    of_bucket: Tensor
    first: Tensor
    n_blocks: Tensor
    place: Tensor
    alone: Tensor

    def blocks_of(self, x: Tensor) -> Tensor:
        """(rows, L, D) to (blocks, block, D), zeros at places left over."""
        x = x.flatten(0, 1)
        return torch.cat([x, x.new_zeros(1, x.shape[-1])])[self.token]

    def tokens_of(self, x: Tensor, padding: float) -> Tensor:
        """(blocks, block, ...) to (rounds × rows × L, ...)."""
        x = x.flatten(0, 1)
        return torch.cat([x, x.new_full((1, *x.shape[1:]), padding)])[self.place]


def _lay_out(bucket: Tensor, real: Tensor, buckets: int, causal: bool) -> _Layout:
    rounds, rows, length = bucket.shape
    row = torch.arange(rounds * rows, device=bucket.device).reshape(rounds, rows, 1)
    n_buckets = rounds * rows * buckets
    # Padding goes into a bucket of its own behind all others, which gets no blocks.
    member = (row * buckets + bucket).masked_fill(~real, n_buckets).flatten()
    order = member.argsort(stable=True)
    size = member.bincount(minlength=n_buckets + 1)
    rank = torch.arange(len(member), device=member.device) - (size.cumsum(0) - size)[member[order]]
    size = size[:-1]
    n_blocks = (size + _BLOCK - 1) // _BLOCK
    first = n_blocks.cumsum(0) - n_blocks
    n_places = int(n_blocks.sum()) * _BLOCK

    order, rank = order[: int(size.sum())], rank[: int(size.sum())]
    place_of = first[member[order]] * _BLOCK + rank
    token = order.new_full((n_places,), rows * length)
    token[place_of] = order % (rows * length)
    place = order.new_full((len(member),), n_places)
    place[order] = place_of
    meets = torch.zeros_like(member, dtype=torch.bool)
    meets[order] = rank > 0 if causal else size[member[order]] > 1
    meets = meets.reshape(rounds, -1).any(0)
    return _Layout(
        token=token.reshape(-1, _BLOCK),
        of_bucket=torch.arange(n_buckets, device=bucket.device).repeat_interleave(n_blocks),
        first=first,
        n_blocks=n_blocks,
        place=place,
        alone=torch.cat([~meets, meets.new_zeros(1)]),
    )


class _Pairs(NamedTuple):
    """Which block meets which: a block of queries, and a block of keys of the same bucket.

    Attributes:
        row: ``(pairs,)``, the block of queries.
        key: ``(pairs,)``, the block of keys.
    """

    row: Tensor
    key: Tensor


def _block_pairs(layout: _Layout, causal: bool) -> _Pairs:
    block = torch.arange(len(layout.of_bucket), device=layout.of_bucket.device)
    first = layout.first[layout.of_bucket]
    partners = block - first + 1 if causal else layout.n_blocks[layout.of_bucket]
    row = block.repeat_interleave(partners)
    number = torch.arange(len(row), device=row.device) - (partners.cumsum(0) - partners)[row]
    return _Pairs(row, first[row] + number)


def _allowed(layout: _Layout, pairs: _Pairs, causal: bool, attend_self: bool) -> Tensor:
    """Which places of the pairs of blocks may attend which: ``(pairs, block, block)``."""
    nobody = len(layout.alone) - 1
    filled = layout.token != nobody
    allowed = filled[pairs.row][:, :, None] & filled[pairs.key][:, None, :]
    token = layout.token.to(torch.int32) if nobody < 2**31 else layout.token
    row, key = token[pairs.row][:, :, None], token[pairs.key][:, None, :]
    if causal:
        allowed &= key <= row  # tokens of one row: their order is that of positions
    if not attend_self:
        allowed &= (key != row) | layout.alone[layout.token][pairs.row][:, :, None]
    return allowed


def _times_met(bucket: Tensor, layout: _Layout, pairs: _Pairs) -> Tensor:
    """In how many rounds the tokens of the pairs meet: a key met twice still counts once."""
    times = torch.zeros(
        len(pairs.row), _BLOCK, _BLOCK, dtype=torch.int16, device=layout.token.device
    )
    for one in bucket.to(torch.int32).flatten(1):
        blocks = torch.cat([one, one.new_zeros(1)])[layout.token]
        times += blocks[pairs.row][:, :, None] == blocks[pairs.key][:, None, :]
    return times.clamp(min=1)


def _attend(scores: Tensor, values: Tensor, pairs: _Pairs) -> tuple[Tensor, Tensor]:
    """Outputs ``(blocks, block, Dv)`` and the logarithms of the sums ``(blocks, block)``."""
    blocks = values.shape[:2]
    largest = scores.detach().amax(-1)
    index = pairs.row[:, None].expand_as(largest)
    largest = largest.new_full(blocks, -torch.inf).scatter_reduce(0, index, largest, "amax")
    largest = largest.masked_fill(largest.isneginf(), 0.0)
    powers = (scores - largest[pairs.row][..., None]).exp()
    sums = powers.new_zeros(blocks).index_add(0, pairs.row, powers.sum(-1))
    totals = torch.zeros_like(values).index_add(0, pairs.row, powers @ values[pairs.key])
    empty = sums == 0
    sums = sums.masked_fill(empty, 1.0)
    return totals / sums[..., None], (largest + sums.log()).masked_fill(empty, -torch.inf)


def _check_tokens(query: Tensor, value: Tensor) -> None:
    for name, x in (("query", query), ("value", value)):
        check_floating_point(name, x)
        if x.ndim < 2:
            raise ValueError(f"{name} must be (..., length, width), got {name} {tuple(x.shape)}")
    seen = f"got query {tuple(query.shape)}, value {tuple(value.shape)}"
    check_same_kind("value", value, "query", query)
    if query.shape[-2] != value.shape[-2]:
        raise ValueError(f"query, which is key too, and value must have the same length, {seen}")
    heads, value_heads = (x.shape[-3] if x.ndim > 2 else 1 for x in (query, value))
    if 0 in (heads, value_heads) or heads % value_heads:
        raise ValueError(
            f"the heads of query must be a multiple of the heads of value, at least 1, {seen}"
        )


def _rotations(
    rotations: Tensor | None,
    generator: torch.Generator | None,
    buckets: int,
    rounds: int,
    query: Tensor,
) -> Tensor:
    dtype = torch.promote_types(query.dtype, torch.float32)
    shape = (rounds, query.shape[-1], buckets // 2)
    if rotations is None:
        device = "cpu" if generator is None else generator.device
        drawn = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        return drawn.to(query.device)
    check_floating_point("rotations", rotations)
    check_same_kind("rotations", rotations, "query", query)
    if rotations.shape != shape:
        raise ValueError(
            f"rotations must be (rounds, width, buckets / 2) = {shape}, got "
            f"{tuple(rotations.shape)}"
        )
    if generator is not None:
        raise ValueError("generator draws the rotations, and rotations are given: give one of them")
    return rotations.to(dtype)


def _hash(x: Tensor, rotations: Tensor) -> Tensor:
    """The bucket of each token in each round: integers ``(rounds, rows, L)``."""
    if rotations.shape[-1] == 0:  # one bucket
        return x.new_zeros(len(rotations), *x.shape[:-1], dtype=torch.long)
    rotated = x.detach() @ rotations[:, None].to(x.dtype)
    return torch.cat([rotated, -rotated], -1).argmax(-1)


def _direction(x: Tensor) -> Tensor:
    """Vectors of length 1; a vector of zeros stays one, and its gradient is 0."""
    is_zero = (x == 0).all(-1, keepdim=True)
    x = x.masked_fill(is_zero, 1.0)
    return (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)).masked_fill(is_zero, 0.0)
