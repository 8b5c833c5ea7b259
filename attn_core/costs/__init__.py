"""What attention costs: multiplications, parameters, and bytes of weights and of caches."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, Literal

from attn_core.costs.layers import kv_cache, latent, multi_head
from attn_core.costs.memories import delta_rule, linear_attention
from attn_core.costs.pairs import additive, chunked, dot_product, window
from attn_core.costs.total import Cost, is_integer

__all__ = ["Cost", "cost"]

_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
_MAY_BE_0 = ("cached", "left", "right", "window", "length")
Mechanism = Literal[
    "additive",
    "chunked",
    "delta_rule",
    "dot_product",
    "kv_cache",
    "latent",
    "linear_attention",
    "multi_head",
    "window",
]
_MECHANISMS: dict[Mechanism, Callable[..., Cost]] = {
    "additive": additive,
    "chunked": chunked,
    "delta_rule": delta_rule,
    "dot_product": dot_product,
    "kv_cache": kv_cache,
    "latent": latent,
    "linear_attention": linear_attention,
    "multi_head": multi_head,
    "window": window,
}


def cost(mechanism: Mechanism, **sizes: Any) -> Cost:
    r"""Say what one forward pass of a mechanism costs, from its sizes alone: nothing is computed.

    ======================  ========================================================================
    mechanism               sizes, besides ``batch=1`` and ``dtype="float32"``
    ======================  ========================================================================
    ``"dot_product"``       ``q_len, k_len=q_len, head_dim, value_dim=head_dim, heads=1,
                            kv_heads=heads``: all weights are written out
    ``"window"``            the same without ``k_len``, and ``left, right``: in blocks, as the
                            kernel ``banded`` does it
    ``"chunked"``           as ``"dot_product"``, and ``causal=False``: the weights of one block at
                            a time
    ``"additive"``          ``q_len, k_len=q_len, query_dim, key_dim=query_dim, hidden_dim,
                            value_dim=key_dim``
    ``"multi_head"``        ``q_len, k_len=q_len, dim, heads, kv_heads=heads, head_dim=dim/heads,
                            key_dim=dim, value_dim=dim, bias=True, cached=0``: multi-query and
                            grouped-query too; ``cached`` of the ``k_len`` keys are read from a
                            cache
    ``"latent"``            ``q_len, k_len=q_len, dim, heads, kv_rank, query_rank=None,
                            head_dim=dim/heads, value_dim=head_dim, rotary_dim=head_dim/2,
                            norm=True, absorbed=False``: the last ``q_len`` of the ``k_len``
                            tokens are new
    ``"linear_attention"``  as ``"dot_product"``, and ``features=head_dim, causal=False,
                            chunk_size=64``
    ``"delta_rule"``        ``q_len, head_dim, value_dim=head_dim, heads=1, kv_heads=heads,
                            beta=True, decay=False, chunk_size=64``
    ``"kv_cache"``          ``length, head_dim, value_dim=head_dim, kv_heads=1, max_len=None,
                            window=None``: what a :class:`~attn_core.modules.KVCache` takes, room
                            included, after ``length`` tokens that came one at a time
    ======================  ========================================================================

    Every mechanism counts ``batch`` such calls. For dot-product attention

    .. math:: B \cdot H_q \cdot L \cdot S \cdot (D + D_v) \text{ multiplications}, \qquad
              B \cdot H_q \cdot L \cdot S \text{ weights}, \qquad
              B \cdot H_{kv} \cdot S \cdot (D + D_v) \text{ numbers in a cache}

    and a layer adds its projections. A pair that is masked out is counted where it is computed.

    Args:
        mechanism: one of the names above.
        **sizes: its sizes, each by name: positive integers, flags, and ``dtype``, a name or a dtype
            of PyTorch.

    Returns:
        The cost; it prints as text.

    Raises:
        ValueError: if there is no such mechanism, or a size is out of range.
        TypeError: if a size is missing, unknown to this mechanism, or no integer.

    Source: Vaswani et al. (2017), table 1, for the order of growth; the exact counts are those of
    this package's code.

    Example:
        >>> print(cost("multi_head", q_len=128, dim=64, heads=8, kv_heads=2))
        3,407,872 multiplications
        10,400 parameters, 41,600 bytes
        524,288 bytes of weights
        16,384 bytes of cache
        >>> full = cost("dot_product", q_len=8192, head_dim=64, heads=8)
        >>> near = cost("window", q_len=8192, head_dim=64, heads=8, left=128, right=0)
        >>> round(full.multiplications / near.multiplications)
        43
    """
    if mechanism not in list(_MECHANISMS):
        raise ValueError(f"mechanism must be one of {sorted(_MECHANISMS)}, got {mechanism!r}")
    count = _MECHANISMS[mechanism]
    takes = dict(signature(count).parameters)
    del takes["number_bytes"]
    for name in sizes:
        if name not in (*takes, "dtype"):
            raise TypeError(f"{mechanism} has no {name}: it takes {', '.join(takes)}, dtype")
    for name, parameter in takes.items():
        if name in sizes:
            sizes[name] = _checked_size(name, sizes[name], parameter.annotation)
        elif parameter.default is Parameter.empty:
            raise TypeError(f"{mechanism} needs {name}: it takes {', '.join(takes)}, dtype")
    dtype = str(sizes.pop("dtype", "float32")).removeprefix("torch.")
    if dtype not in _BYTES:
        raise ValueError(f"dtype must be one of {sorted(_BYTES)}, got {dtype!r}")
    return count(number_bytes=_BYTES[dtype], **sizes)


def _checked_size(name: str, size: Any, kind: object) -> int | None:
    if kind is bool:
        if not isinstance(size, bool):
            raise TypeError(f"{name} must be True or False, got {size!r}")
        return size
    if size is not None or kind is int:
        least = 0 if name in _MAY_BE_0 else 1
        if not is_integer(size):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")
        return int(size)
    return None
