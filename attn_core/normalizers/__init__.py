r"""Step 2, normalise: a row of scores becomes a row of weights.

A normaliser is a callable ``normalizer(scores, dim)``; options are given by keyword, beforehand:
``functools.partial(entmax, alpha=1.3)``. A score of −inf means "may not attend" and gets the
weight 0. A row in which everything is −inf has nothing to attend: its weights are all 0, and so is
its gradient, where the plain formula gives NaN.

Half precision is normalised in float32 and rounded once.
"""

from attn_core.normalizers.exponential import sigmoid, softmax, softmax_with_sink
from attn_core.normalizers.one_key import gumbel_softmax, hard
from attn_core.normalizers.rows import without_empty_rows
from attn_core.normalizers.sparse import entmax, entmax15, entmax_bisect, sparsemax

__all__ = [
    "entmax",
    "entmax15",
    "entmax_bisect",
    "gumbel_softmax",
    "hard",
    "sigmoid",
    "softmax",
    "softmax_with_sink",
    "sparsemax",
    "without_empty_rows",
]
