"""Which query may attend which key: masks that compose.

A mask is defined once, as a predicate on positions, and everything else follows from it: the
boolean table that a kernel reads, its picture, its negation and its combinations. ``True`` means
*may attend*, as in :func:`torch.nn.functional.scaled_dot_product_attention`;
:class:`torch.nn.MultiheadAttention` means the opposite.

Combine masks with ``&`` (both must allow), ``|`` (one must allow) and ``~`` (the opposite):

    >>> causal() & padding([3, 2])
    causal() & padding([3, 2])
"""

from attn_core.masks.given import dense, padding
from attn_core.masks.mask import Indices, Mask, Reach
from attn_core.masks.near import causal, window

__all__ = ["Indices", "Mask", "Reach", "causal", "dense", "padding", "window"]
