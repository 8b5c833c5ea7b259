r"""Positions: attention treats its keys as a set, so order has to be told.

An encoding is a vector per position that is added to the embedding of the token there. A rotation
turns queries and keys by an angle that grows with the position. A bias is a number per distance
that is added to the scores.
"""

from attn_core.positions.absolute import LearnedEncoding, SinusoidalEncoding, sinusoidal
from attn_core.positions.bias import Bias
from attn_core.positions.rotation import Rotary, rotary
from attn_core.positions.scaling import LinearScaling, NTKScaling, Scaling, YaRNScaling

__all__ = [
    "Bias",
    "LearnedEncoding",
    "LinearScaling",
    "NTKScaling",
    "Rotary",
    "Scaling",
    "SinusoidalEncoding",
    "YaRNScaling",
    "rotary",
    "sinusoidal",
]
