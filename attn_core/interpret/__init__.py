r"""What a trained model attends, and how much that tells.

:func:`record` reads the weights of every attention layer while a model runs. The measures turn
weights into numbers: how spread they are, how far they reach, where they lead through several
layers. :func:`ablate_heads` and :func:`gradient_times_attention` ask what weights alone do not
tell: whether the result depends on them.
"""

from attn_core.interpret.measures import (
    alignment_error_rate,
    distance,
    entropy,
    gradient_times_attention,
    rollout,
)
from attn_core.interpret.recording import ablate_heads, record

__all__ = [
    "ablate_heads",
    "alignment_error_rate",
    "distance",
    "entropy",
    "gradient_times_attention",
    "record",
    "rollout",
]
