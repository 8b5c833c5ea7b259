"""What it costs to compare queries with keys, pair by pair."""

from typing import TYPE_CHECKING, Any

from attn_core.costs.total import Cost

if TYPE_CHECKING:
    from attn_core.arguments import Arguments


def dot_product(
    q_len: int,
    head_dim: int,
    k_len: int | None = None,
    value_dim: int | None = None,
    heads: int = 1,
    kv_heads: int | None = None,
    batch: int = 1,
    *,
    number_bytes: int,
) -> Cost:
    """Every query with every key."""
    k_len, width = k_len or q_len, head_dim + (value_dim or head_dim)
    kv_heads = kv_heads or heads
    check_heads(heads, kv_heads)
    pairs = batch * heads * q_len * k_len
    return Cost(
        multiplications=pairs * width,
        weight_bytes=pairs * number_bytes,
        cache_bytes=batch * kv_heads * k_len * width * number_bytes,
    )


def window(
    q_len: int,
    head_dim: int,
    left: int,
    right: int,
    value_dim: int | None = None,
    heads: int = 1,
    kv_heads: int | None = None,
    batch: int = 1,
    *,
    number_bytes: int,
) -> Cost:
    from attn_core import masks
    from attn_core.kernels import banded

    call = _call(q_len, q_len, masks.window(left, right))
    # In blocks of queries, each with all the keys that one of its queries may attend.
    pairs = sum(
        queries.number * queries.length * (keys.first + keys.length)
        for queries, keys in banded.pieces(call)
    )
    width, kv_heads = head_dim + (value_dim or head_dim), kv_heads or heads
    check_heads(heads, kv_heads)
    return Cost(
        multiplications=batch * heads * pairs * width,
        weight_bytes=batch * heads * pairs * number_bytes,
        cache_bytes=batch * kv_heads * min(q_len, left) * width * number_bytes,
    )


def chunked(
    q_len: int,
    head_dim: int,
    k_len: int | None = None,
    value_dim: int | None = None,
    heads: int = 1,
    kv_heads: int | None = None,
    batch: int = 1,
    causal: bool = False,
    *,
    number_bytes: int,
) -> Cost:
    """The same, with the weights of one block at a time."""
    from attn_core import masks
    from attn_core.kernels.grid import Grid

    k_len, width = k_len or q_len, head_dim + (value_dim or head_dim)
    kv_heads = kv_heads or heads
    check_heads(heads, kv_heads)
    grid = Grid(_call(q_len, k_len, masks.causal() if causal else None, heads, batch))
    blocks = [block.pairs for rows in grid.row_blocks() for block in grid.blocks(rows)]
    return Cost(
        multiplications=batch * heads * sum(blocks) * width,
        weight_bytes=batch * heads * max(blocks) * max(number_bytes, 4),
        cache_bytes=batch * kv_heads * k_len * width * number_bytes,
    )


def additive(
    q_len: int,
    query_dim: int,
    hidden_dim: int,
    k_len: int | None = None,
    key_dim: int | None = None,
    value_dim: int | None = None,
    batch: int = 1,
    *,
    number_bytes: int,
) -> Cost:
    """A small network for every pair."""
    k_len, key_dim = k_len or q_len, key_dim or query_dim
    value_dim = value_dim or key_dim
    parameters = hidden_dim * (query_dim + key_dim + 1)
    projections = hidden_dim * (q_len * query_dim + k_len * key_dim)
    return Cost(
        multiplications=batch * (projections + q_len * k_len * (hidden_dim + value_dim)),
        parameters=parameters,
        parameter_bytes=parameters * number_bytes,
        weight_bytes=batch * q_len * k_len * number_bytes,
        # A decoder projects its keys once, and keeps the result instead of them.
        cache_bytes=batch * k_len * (hidden_dim + value_dim) * number_bytes,
    )


def check_heads(heads: int, kv_heads: int) -> None:
    """Refuse query heads that do not share the key heads evenly."""
    if heads % kv_heads:
        raise ValueError(
            f"heads must be a multiple of kv_heads, got heads {heads}, kv_heads {kv_heads}"
        )


def _call(q_len: int, k_len: int, mask: Any, heads: int = 1, batch: int = 1) -> "Arguments":
    """A call of attention of these sizes that takes no memory; query 0 stands at key 0."""
    import torch

    from attn_core.arguments import check_arguments

    one = torch.zeros(1)
    query, key = one.expand(batch, heads, q_len, 1), one.expand(batch, heads, k_len, 1)
    return check_arguments(query, key, key, mask=mask, q_offset=0)
