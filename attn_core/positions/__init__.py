r"""Positions: attention treats its keys as a set, so order has to be told.

An encoding is a vector per position, or per segment, that is added to the embedding of the token
there. A rotation turns queries and keys by an angle that grows with the position. A bias is added
to the scores: a number that follows from the distance of query and key, and in some from query and
key too.
"""

from attn_core.positions.absolute import LearnedEncoding, SinusoidalEncoding, sinusoidal
from attn_core.positions.alibi import ALiBi, alibi_slopes
from attn_core.positions.bias import Bias, distances
from attn_core.positions.buckets import T5Bias, t5_bucket
from attn_core.positions.rotation import Rotary, rotary
from attn_core.positions.scaling import LinearScaling, NTKScaling, Scaling, YaRNScaling
from attn_core.positions.segments import SegmentEncoding, restarting
from attn_core.positions.shaw import ShawBias, ShawValues
from attn_core.positions.transformer_xl import TransformerXLBias

__all__ = [
    "ALiBi",
    "Bias",
    "LearnedEncoding",
    "LinearScaling",
    "NTKScaling",
    "Rotary",
    "Scaling",
    "SegmentEncoding",
    "ShawBias",
    "ShawValues",
    "SinusoidalEncoding",
    "T5Bias",
    "TransformerXLBias",
    "YaRNScaling",
    "alibi_slopes",
    "distances",
    "restarting",
    "rotary",
    "sinusoidal",
    "t5_bucket",
]
