"""Ways to compute the same attention: which one runs, and why.

``explicit`` writes the three steps out and can do everything. The others give the same result up
to rounding, faster or in less memory, where they can: ``sdpa`` hands the steps to PyTorch's fused
kernel, ``banded`` cuts a window into blocks, ``chunked`` goes through softmax block by block,
``flex`` is FlexAttention. The fastest that can do the job runs without being asked;
:func:`which` says which one, and :func:`use` fixes it.

All have gradients. ``explicit`` alone has second derivatives and forward-mode differentiation for
whatever it computes: fix it where you need them.
"""

from attn_core.kernels.approximation import ApproximationError, approximation_error
from attn_core.kernels.buckets import lsh
from attn_core.kernels.choosing import Choice, use, which
from attn_core.kernels.delta import delta_rule
from attn_core.kernels.landmarks import nystrom
from attn_core.kernels.linear import elu_plus_one, linear_attention
from attn_core.kernels.projected import linformer
from attn_core.kernels.random_features import favor, orthogonal_projection, positive_features
from attn_core.kernels.recurrence import RecurrentOutput

__all__ = [
    "ApproximationError",
    "Choice",
    "RecurrentOutput",
    "approximation_error",
    "delta_rule",
    "elu_plus_one",
    "favor",
    "linear_attention",
    "linformer",
    "lsh",
    "nystrom",
    "orthogonal_projection",
    "positive_features",
    "use",
    "which",
]
