"""What layers cost, and the caches that they keep."""

from attn_core.costs.pairs import dot_product
from attn_core.costs.total import Cost


def multi_head(
    q_len: int,
    dim: int,
    heads: int,
    k_len: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    key_dim: int | None = None,
    value_dim: int | None = None,
    bias: bool = True,
    cached: int = 0,
    batch: int = 1,
    *,
    number_bytes: int,
) -> Cost:
    """Projections around dot-product attention."""
    k_len, kv_heads = k_len or q_len, kv_heads or heads
    key_dim, value_dim = key_dim or dim, value_dim or dim
    head_dim = _width_of_head(head_dim, dim, heads)
    if cached > k_len:
        raise ValueError(f"cached must be at most k_len, got cached {cached}, k_len {k_len}")
    core = dot_product(
        q_len, head_dim, k_len, None, heads, kv_heads, batch, number_bytes=number_bytes
    )
    query_and_out, key_and_value = 2 * dim * heads * head_dim, kv_heads * head_dim
    key_and_value *= key_dim + value_dim
    biases = (heads + 2 * kv_heads) * head_dim + dim if bias else 0
    parameters = query_and_out + key_and_value + biases
    return core + Cost(
        multiplications=batch * (q_len * query_and_out + (k_len - cached) * key_and_value),
        parameters=parameters,
        parameter_bytes=parameters * number_bytes,
    )


def latent(
    q_len: int,
    dim: int,
    heads: int,
    kv_rank: int,
    k_len: int | None = None,
    query_rank: int | None = None,
    head_dim: int | None = None,
    value_dim: int | None = None,
    rotary_dim: int | None = None,
    norm: bool = True,
    absorbed: bool = False,
    batch: int = 1,
    *,
    number_bytes: int,
) -> Cost:
    """Keys and values unfolded from latents, or the queries folded to them."""
    k_len, head_dim = k_len or q_len, _width_of_head(head_dim, dim, heads)
    value_dim, rotary_dim = value_dim or head_dim, rotary_dim or head_dim // 2
    if q_len > k_len:
        raise ValueError(f"q_len must be at most k_len, got q_len {q_len}, k_len {k_len}")
    # What every new token passes: its latent, its rotary key, its queries, and the way out.
    to_queries = heads * (head_dim + rotary_dim) * (query_rank or dim) + dim * (query_rank or 0)
    each = dim * (kv_rank + rotary_dim) + to_queries + heads * value_dim * dim
    unfolding = heads * kv_rank * (head_dim + value_dim)
    norms = (kv_rank + (query_rank or 0)) if norm else 0
    parameters = each + unfolding + norms
    # Unfolded from every latent, or folded into the queries and out of the result.
    unfolded, width = (
        (q_len, 2 * kv_rank + rotary_dim)
        if absorbed
        else (k_len, head_dim + rotary_dim + value_dim)
    )
    pairs = heads * q_len * k_len
    return Cost(
        multiplications=batch * (q_len * each + unfolded * unfolding + pairs * width),
        parameters=parameters,
        parameter_bytes=parameters * number_bytes,
        weight_bytes=batch * pairs * number_bytes,
        cache_bytes=batch * k_len * (kv_rank + rotary_dim) * number_bytes,
    )


def kv_cache(
    length: int,
    head_dim: int,
    value_dim: int | None = None,
    kv_heads: int = 1,
    max_len: int | None = None,
    window: int | None = None,
    batch: int = 1,
    *,
    number_bytes: int,
) -> Cost:
    """What a cache takes when tokens come one at a time."""
    if max_len is not None and window is not None:
        raise ValueError(f"either max_len or window, got max_len {max_len} and window {window}")
    if max_len is not None and length > max_len:
        raise ValueError(f"length must be at most max_len, got length {length}, max_len {max_len}")
    # Room doubles when it is full: the next power of 2.
    room = 1 << (length - 1).bit_length() if max_len is None else max_len
    if window is not None:
        room = max(2 * window, 1)
    width = head_dim + (value_dim or head_dim)
    return Cost(cache_bytes=batch * kv_heads * (room if length else 0) * width * number_bytes)


def _width_of_head(head_dim: int | None, dim: int, heads: int) -> int:
    """Give the width of a head, by default an even share of ``dim``."""
    if head_dim is None and dim % heads:
        raise ValueError(f"dim must be a multiple of heads, got dim {dim}, heads {heads}")
    return dim // heads if head_dim is None else head_dim
