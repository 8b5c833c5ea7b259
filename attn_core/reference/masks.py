"""Masks: which query may look at which key. Boolean arrays, True = may attend.

Masks combine with ``&``, ``|`` and ``~``.
"""

import numpy as np
import numpy.typing as npt

from attn_core.reference.shapes import Array


def _distance(q_len: int, k_len: int, q_offset: int | npt.ArrayLike | None) -> Array:
    """Return key position minus query position for every pair."""
    if q_len < 0 or k_len < 0:
        raise ValueError(f"q_len and k_len must be at least 0, got {q_len} and {k_len}")
    if q_offset is None:
        if q_len != k_len:
            raise ValueError(
                f"q_offset is needed because q_len ({q_len}) differs from k_len ({k_len}): "
                "it is the position of the first query among the keys"
            )
        q_offset = 0
    offset = np.asarray(q_offset)
    if not np.issubdtype(offset.dtype, np.integer):
        raise TypeError(f"q_offset must be an integer or one per batch entry, got {offset.dtype}")
    if offset.ndim > 1:
        raise ValueError(f"q_offset must have shape () or (batch,), got {offset.shape}")
    if offset.ndim == 1:
        offset = offset[:, None, None, None]  # batch, head, query, key
    query_position = np.arange(q_len)[:, None] + offset
    key_position = np.arange(k_len)
    distance: Array = key_position - query_position
    return distance


def causal(q_len: int, k_len: int, q_offset: int | npt.ArrayLike | None = None) -> Array:
    r"""Let each query attend to its own position and to those before it.

    .. math:: m_{ij} = [\, j \le i + o \,]

    Args:
        q_len: number of queries, L.
        k_len: number of keys, S.
        q_offset: o, the position of query 0 among the keys; an integer, or one per batch entry,
            shape (B,). Needed when L and S differ.

    Returns:
        Boolean mask, shape (L, S), or (B, 1, L, S) with one offset per batch entry.

    Raises:
        TypeError: q_offset holds no integers.
        ValueError: L and S differ and q_offset is not given.

    Source: Vaswani et al. 2017, section 3.2.3.

    Example:
        >>> causal(2, 3, q_offset=1).astype(int).tolist()
        [[1, 1, 0], [1, 1, 1]]
    """
    return _distance(q_len, k_len, q_offset) <= 0


def window(
    left: int | None,
    right: int | None,
    q_len: int,
    k_len: int,
    q_offset: int | npt.ArrayLike | None = None,
) -> Array:
    r"""Let each query attend to some keys before and after its own position, and to its own.

    .. math:: m_{ij} = [\, i + o - \mathrm{left} \le j \le i + o + \mathrm{right} \,]

    Args:
        left: how many keys before the query's own position, at least 0; None for all of them.
        right: how many keys after it, at least 0; None for all of them.
        q_len: number of queries, L.
        k_len: number of keys, S.
        q_offset: o, the position of query 0 among the keys; an integer, or one per batch entry,
            shape (B,). Needed when L and S differ.

    Returns:
        Boolean mask, shape (L, S), or (B, 1, L, S) with one offset per batch entry.

    Raises:
        TypeError: q_offset holds no integers.
        ValueError: left or right is negative; or L and S differ and q_offset is not given.

    Source: Beltagy et al. 2020, section 3.1; D2 section 2.2, "local attention".

    Example:
        >>> window(1, 0, 3, 3).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    for name, keys in (("left", left), ("right", right)):
        if keys is not None and keys < 0:
            raise ValueError(f"{name} must be at least 0 or None, got {keys}")
    distance = _distance(q_len, k_len, q_offset)
    before = -np.inf if left is None else -left
    after = np.inf if right is None else right
    inside: Array = (before <= distance) & (distance <= after)
    return inside


def padding(lengths: npt.ArrayLike, k_len: int) -> Array:
    r"""Let every query attend to the real keys of its sequence and to none of the padding.

    .. math:: m_{bij} = [\, j < \mathrm{lengths}_b \,]

    Args:
        lengths: how many keys of each batch entry are real, shape (B,).
        k_len: number of keys, padding included, S.

    Returns:
        Boolean mask, shape (B, 1, 1, S): batch, head, query, key.

    Raises:
        TypeError: lengths holds no integers.
        ValueError: lengths has not one dimension, or leaves the range from 0 to k_len.

    Source: The usual practice for batches of sequences of different lengths.

    Example:
        >>> padding([1, 3], 3)[:, 0, 0].astype(int).tolist()
        [[1, 0, 0], [1, 1, 1]]
    """
    length = np.asarray(lengths)
    if not np.issubdtype(length.dtype, np.integer):
        raise TypeError(f"lengths must be integers, got {length.dtype}")
    if length.ndim != 1:
        raise ValueError(f"lengths must have shape (batch,), got {length.shape}")
    if length.size and (length.min() < 0 or length.max() > k_len):
        raise ValueError(f"lengths must be between 0 and k_len ({k_len}), got {length.tolist()}")
    mask: Array = np.arange(k_len) < length[:, None, None, None]
    return mask
