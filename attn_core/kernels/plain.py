"""The short way to the fused kernel, for a call that a few comparisons show to be right.

All checks of a small call together take longer than the call. Most calls are plain: three tensors
of one kind, with no mask or a causal one. Nothing is refused here: what is not plain goes the long
way, which says what is wrong with it, if anything is.
"""

import math

import torch
from torch import Tensor

from attn_core.kernels.choosing import fixed_kernel
from attn_core.kernels.sdpa import fused
from attn_core.masks import Mask, causal

_DTYPES = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_DEVICES = {"cpu", "cuda"}  # autocast can be asked about them


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | Mask | None,
    scale: float | None,
    dropout_p: float,
    q_offset: int | Tensor | None,
) -> Tensor | None:
    """Compute what ``sdpa`` gives for a plain call ``(batch, heads, length, width)``; else None."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or fixed_kernel() is not None:
        return None
    if not (_are_alike(query, key, value) and type(dropout_p) is float and dropout_p == 0.0):
        return None
    size, k_size = query.shape, key.shape
    if k_size != value.shape or not len(size) == len(k_size) == 4:
        return None
    batch, heads, q_len, width = size
    k_len = k_size[2]
    if size != k_size and (batch, heads, k_len, width) != k_size:
        return None
    if 0 in size or k_len == 0 or not (q_offset is None or type(q_offset) is int):
        return None
    if scale is None:
        scale = 1 / math.sqrt(width)
    elif type(scale) is not float or not 0 < scale < math.inf:
        return None
    if mask is None:
        return fused(query, key, value, scale)
    if mask is not causal():
        return None
    if q_offset is not None and q_offset >= k_len - 1:
        return fused(query, key, value, scale)  # the first query comes after all keys
    if q_len == k_len and not q_offset:
        return fused(query, key, value, scale, is_causal=True)
    return None


def _are_alike(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether these are tensors, of no other class, of one dtype, which autocast leaves alone."""
    if not (type(query) is type(key) is type(value) is Tensor):
        return False
    dtype, device = query.dtype, query.device
    kind = device.type
    return (
        dtype in _DTYPES
        and dtype == key.dtype == value.dtype
        and device == key.device == value.device
        and query.layout == key.layout == value.layout == torch.strided
        and kind in _DEVICES
        and not torch.is_autocast_enabled(kind)
    )
