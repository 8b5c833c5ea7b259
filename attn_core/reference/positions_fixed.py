"""What positions add by themselves: distances, ALiBi's slopes, T5's buckets, segments."""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from attn_core.reference.masks import _distance
from attn_core.reference.shapes import Array, check_flags, check_integer_array


def distances(q_len: int, k_len: int, q_offset: int | npt.ArrayLike | None = None) -> Array:
    r"""Say how far each key lies after each query.

    .. math:: d_{ij} = j - (i + o)

    Args:
        q_len: number of queries, L.
        k_len: number of keys, S.
        q_offset: o, the position of query 0 among the keys; an integer, or one per batch entry,
            shape (B,). Needed when L and S differ.

    Returns:
        Integers, shape (L, S), or (B, 1, L, S) with one offset per batch entry.

    Raises:
        TypeError: q_offset holds no integers.
        ValueError: a length is negative, or L and S differ and q_offset is not given.

    Source: Shaw et al. 2018, section 3.1.

    Example:
        >>> distances(2, 3, q_offset=1).tolist()
        [[-1, 0, 1], [-2, -1, 0]]
    """
    return _distance(q_len, k_len, q_offset)


def check_distance(distance: Array, shape: tuple[int, ...] | None = None) -> None:
    """Raise an error that names it unless it holds a distance for each query and key."""
    if not isinstance(distance, np.ndarray):
        raise TypeError(f"distance must be a NumPy array, got {type(distance).__name__}")
    shape = distance.shape[-2:] if shape is None else shape
    per_batch_entry = distance.ndim == 4 and distance.shape[1] == 1
    if not (distance.ndim == 2 or per_batch_entry) or distance.shape[-2:] != shape:
        raise ValueError(
            f"distance must have shape (L, S) or (B, 1, L, S) with (L, S) = {shape}, got "
            f"{distance.shape}"
        )


def alibi_slopes(heads: int, slopes: Literal["released", "geometric"] = "released") -> Array:
    r"""Give each head the slope with which its scores fall off.

    .. math:: m_h = 2^{-8h/H}, \qquad h = 1, \dots, H

    Args:
        heads: number of query heads, H.
        slopes: matters when H is no power of two. "geometric" is the formula; "released" is the
            authors' code: the slopes of the power of two below H, then every other slope of the
            power of two above it.

    Returns:
        Slopes, shape (H,).

    Raises:
        TypeError: heads is no integer.
        ValueError: heads is below 1, or slopes is unknown.

    Source: Press et al. 2022, section 3.

    Example:
        >>> alibi_slopes(3, "released").tolist()
        [0.0625, 0.00390625, 0.25]
    """
    if not isinstance(heads, int) or isinstance(heads, bool):
        raise TypeError(f"heads must be an integer, got {heads!r}")
    if heads < 1:
        raise ValueError(f"heads must be at least 1, got {heads}")
    if slopes not in ("released", "geometric"):
        raise ValueError(f"slopes must be 'released' or 'geometric', got {slopes!r}")
    is_power_of_two = 2 ** math.floor(math.log2(heads)) == heads
    if slopes == "geometric" or is_power_of_two:
        return np.array([2.0 ** (-8 * h / heads) for h in range(1, heads + 1)])
    below = 2 ** math.floor(math.log2(heads))
    missing = alibi_slopes(2 * below)[0::2]
    return np.concatenate([alibi_slopes(below), missing[: heads - below]])


def alibi(
    distance: Array, heads: int, slopes: Literal["released", "geometric"] = "released"
) -> Array:
    r"""Give what ALiBi adds to the scores.

    .. math:: b_{hij} = -m_h \, |d_{ij}|

    Args:
        distance: key position minus query position, shape (L, S) or (B, 1, L, S).
        heads: number of query heads, H.
        slopes: as in alibi_slopes.

    Returns:
        The bias, shape (H, L, S) or (B, H, L, S).

    Raises:
        TypeError: as alibi_slopes, or distance is not an array.
        ValueError: as alibi_slopes, or distance has another shape.

    Source: Press et al. 2022, section 3.

    Example:
        >>> alibi(distances(2, 2), heads=2).tolist()
        [[[0.0, -0.0625], [-0.0625, 0.0]], [[0.0, -0.00390625], [-0.00390625, 0.0]]]
    """
    check_distance(distance)
    bias: Array = alibi_slopes(heads, slopes)[:, None, None] * -np.abs(distance)
    return bias


def t5_bucket(
    distance: Array, *, buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
) -> Array:
    r"""Sort distances into buckets: near ones each into its own, far ones ever more together.

    .. math:: \operatorname{bucket}(d) = \min\!\Big(n - 1, \;
              e + \Big\lfloor (n - e) \frac{\ln(|d|/e)}{\ln(m/e)} \Big\rfloor\Big)
              \quad \text{for } |d| \ge e, \qquad |d| \text{ below}

    Args:
        distance: key position minus query position, integers of any shape.
        buckets: how many for both directions together; n for one, of which e = n // 2 are exact.
        max_distance: m, from which on all are in the last bucket.
        bidirectional: whether keys after the query have n buckets of their own; else they are in
            bucket 0.

    Returns:
        Integers from 0 to buckets - 1, shape of distance.

    Raises:
        TypeError: distance holds no integers.
        ValueError: buckets is odd for two directions, too small, or max_distance is not above e.

    Source: Raffel et al. 2020, section 2.1, and their released code.

    Example:
        >>> t5_bucket(np.array([-200, -20, -2, 0, 2, 20, 200])).tolist()
        [15, 10, 2, 0, 18, 26, 31]
    """
    check_flags(bidirectional=bidirectional)
    check_integer_array("distance", distance)
    n = buckets // 2 if bidirectional else buckets
    e = n // 2
    if e < 1 or (bidirectional and buckets % 2) or max_distance <= e:
        raise ValueError(
            "buckets must be even for two directions, at least 2 for one, and max_distance above "
            f"{e}, got buckets={buckets} and max_distance={max_distance}"
        )

    def one(d: int) -> int:
        if not bidirectional:
            d = min(d, 0)
        first = n if d > 0 else 0  # the first bucket of this direction
        d = abs(d)
        if d < e:
            return first + d
        far = 0
        # far + 1 <= (n - e) ln(d / e) / ln(m / e), in integers, where nothing is rounded
        while e + far < n - 1 and d ** (n - e) >= max_distance ** (far + 1) * e ** (
            n - e - far - 1
        ):
            far += 1
        return first + e + far

    flat = [one(int(d)) for d in np.ravel(distance)]
    return np.array(flat, dtype=np.int64).reshape(np.shape(distance))


def restarting(segment_ids: Array) -> Array:
    r"""Count positions from 0 again in each segment, a stretch of equal ids.

    .. math:: p_t = 0 \text{ where } s_t \ne s_{t-1}, \qquad p_t = p_{t-1} + 1 \text{ elsewhere}

    Args:
        segment_ids: integers, shape (..., L).

    Returns:
        Positions, shape (..., L).

    Raises:
        TypeError: segment_ids holds no integers.

    Source: D4 section 2.3.3.

    Example:
        >>> restarting(np.array([7, 7, 7, 2, 2, 7])).tolist()
        [0, 1, 2, 0, 1, 0]
    """
    check_integer_array("segment_ids", segment_ids)
    positions = np.zeros(segment_ids.shape, dtype=np.int64)
    for t in range(1, segment_ids.shape[-1]):
        goes_on = segment_ids[..., t] == segment_ids[..., t - 1]
        positions[..., t] = np.where(goes_on, positions[..., t - 1] + 1, 0)
    return positions
