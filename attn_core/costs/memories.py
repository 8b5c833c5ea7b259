"""What a memory of fixed size costs: linear attention and the delta rule."""

import math

from attn_core.costs.pairs import check_heads
from attn_core.costs.total import Cost


def linear_attention(
    q_len: int,
    head_dim: int,
    k_len: int | None = None,
    value_dim: int | None = None,
    heads: int = 1,
    kv_heads: int | None = None,
    features: int | None = None,
    causal: bool = False,
    chunk_size: int = 64,
    batch: int = 1,
    *,
    number_bytes: int,
) -> Cost:
    """Sums over the keys; where causal, in chunks."""
    k_len, kv_heads, features = k_len or q_len, kv_heads or heads, features or head_dim
    width = (value_dim or head_dim) + 1  # the sum that is divided by stands beside the values
    check_heads(heads, kv_heads)
    if causal:
        if k_len != q_len:
            raise ValueError(f"causal needs k_len = q_len, got k_len {k_len}, q_len {q_len}")
        return batch * _recurrence(
            q_len, features, width, heads, kv_heads, False, False, chunk_size, number_bytes
        )
    return Cost(
        multiplications=batch * (kv_heads * k_len + heads * q_len) * features * width,
        cache_bytes=batch * kv_heads * features * width * max(number_bytes, 4),
    )


def delta_rule(
    q_len: int,
    head_dim: int,
    value_dim: int | None = None,
    heads: int = 1,
    kv_heads: int | None = None,
    beta: bool = True,
    decay: bool = False,
    chunk_size: int = 64,
    batch: int = 1,
    *,
    number_bytes: int,
) -> Cost:
    """A memory that is written, corrected and read in chunks."""
    kv_heads, value_dim = kv_heads or heads, value_dim or head_dim
    check_heads(heads, kv_heads)
    return batch * _recurrence(
        q_len, head_dim, value_dim, heads, kv_heads, beta, decay, chunk_size, number_bytes
    )


def _recurrence(
    length: int,
    width: int,
    value_width: int,
    heads: int,
    kv_heads: int,
    beta: bool,
    decay: bool,
    chunk_size: int,
    number_bytes: int,
) -> Cost:
    """A memory of ``width × value_width`` numbers, in chunks, as ``kernels.recurrence`` does it."""
    if chunk_size & (chunk_size - 1):
        raise ValueError(f"chunk_size must be a power of 2, got {chunk_size}")
    while chunk_size > 1 and chunk_size >= 2 * length:
        chunk_size //= 2
    chunks = math.ceil(length / chunk_size)
    tokens, pairs = chunks * chunk_size, chunks * chunk_size**2
    # With a decay the pairs with a later key are left out, and not computed and set to 0.
    compared = chunks * chunk_size * (chunk_size + 1) // 2 if decay else pairs
    written = kv_heads * tokens * width * value_width
    found = heads * (tokens * width * value_width + compared * width + pairs * value_width)
    corrected = 0
    if beta:
        solved = chunks * chunk_size * (chunk_size - 1) // 2 * (width + value_width)
        corrected = kv_heads * (compared * width + solved + tokens * width * value_width)
    exact_bytes = max(number_bytes, 4)  # half precision is computed in float32
    return Cost(
        multiplications=written + found + corrected,
        weight_bytes=heads * pairs * exact_bytes,
        cache_bytes=kv_heads * width * value_width * exact_bytes,
    )
