r"""Positions: attention treats its keys as a set, so order has to be told.

An encoding is a vector per position that is added to the embedding of the token there. A bias is
a number per distance that is added to the scores.
"""

from attn_core.positions.absolute import LearnedEncoding, SinusoidalEncoding, sinusoidal
from attn_core.positions.bias import Bias

__all__ = ["Bias", "LearnedEncoding", "SinusoidalEncoding", "sinusoidal"]
