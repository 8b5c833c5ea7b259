"""Which query may attend which key: masks that compose.

A mask is defined once, as a predicate on positions, and everything else follows from it: the
boolean table that a kernel reads, its picture, its negation and its combinations. ``True`` means
*may attend*, as in :func:`torch.nn.functional.scaled_dot_product_attention`;
:class:`torch.nn.MultiheadAttention` means the opposite.

Combine masks with ``&`` (both must allow), ``|`` (one must allow) and ``~`` (the opposite):

    >>> causal() & padding([3, 2])
    causal() & padding([3, 2])

A mask has no truth value, so that ``and``, ``or`` and ``not`` cannot lose one without a word.

A mask also knows how far a query looks at most: its *reach*. With a short reach, attention costs as
much as the keys that are near, and not as many as there are.
"""

from attn_core.masks.given import block_sparse, dense, document, padding
from attn_core.masks.mask import Mask
from attn_core.masks.near import causal, dilated, global_tokens, strided, window
from attn_core.masks.pairs import Indices, Reach
from attn_core.masks.patterns import bigbird, longformer, sparse_transformer

__all__ = [
    "Indices",
    "Mask",
    "Reach",
    "bigbird",
    "block_sparse",
    "causal",
    "dense",
    "dilated",
    "document",
    "global_tokens",
    "longformer",
    "padding",
    "sparse_transformer",
    "strided",
    "window",
]
