"""Positions: what tells attention, which sees a set, in which order its inputs came."""

import numpy as np

from attn_core.reference.shapes import Array


def sinusoidal(length: int, dim: int, base: float = 10000.0) -> Array:
    r"""Encode positions by sines and cosines of many frequencies.

    .. math:: p_{t,2k} = \sin(t \, b^{-2k/d}), \qquad p_{t,2k+1} = \cos(t \, b^{-2k/d})

    Args:
        length: number of positions, starting at 0.
        dim: width d of the encoding; when it is odd, the last column is a sine.
        base: b, which fixes the longest wave; larger is longer.

    Returns:
        The encoding in float64, shape (length, dim).

    Raises:
        ValueError: length is negative, dim is below 1, or base is not above 0.

    Source: Vaswani et al. 2017, section 3.5; D4 section 2.3.1 prints it with a single frequency.

    Example:
        >>> sinusoidal(2, 4).round(4).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.8415, 0.5403, 0.01, 1.0]]
    """
    if length < 0 or dim < 1:
        raise ValueError(
            f"length must be at least 0 and dim at least 1, got length={length} and dim={dim}"
        )
    if base <= 0:
        raise ValueError(f"base must be above 0, got {base}")
    return waves(np.arange(length), dim, base)


def waves(positions: Array, dim: int, base: float) -> Array:
    """Return the encoding of any positions, shape (..., dim) for positions of shape (...)."""
    frequency = base ** (-np.arange(0, dim, 2) / dim)
    angle = positions[..., None] * frequency
    encoding = np.empty((*positions.shape, dim))
    encoding[..., 0::2] = np.sin(angle)
    encoding[..., 1::2] = np.cos(angle[..., : dim // 2])
    return encoding
