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

    .. math:: m_{bij} = [\, j < \mathrm{lengths}_b \,] \qquad\text{or}\qquad
        m_{bij} = [\, \mathrm{lengths}_{bj} = 1 \,]

    Args:
        lengths: how many keys of each batch entry are real, the first ones, integers of shape
            (B,); or which of them are, boolean or 0 and 1, shape (B, S): then padding may stand
            anywhere.
        k_len: number of keys, padding included, S.

    Returns:
        Boolean mask, shape (B, 1, 1, S): batch, head, query, key.

    Raises:
        TypeError: lengths holds neither integers nor, where it is a table, truth values.
        ValueError: lengths is empty or has neither one nor two dimensions, a length leaves the
            range from 0 to k_len, or a table has another width than k_len or numbers other than
            0 and 1.

    Source: The usual practice for batches of sequences of different lengths.

    Example:
        >>> padding([1, 3], 3)[:, 0, 0].astype(int).tolist()
        [[1, 0, 0], [1, 1, 1]]
        >>> padding([[0, 0, 1], [1, 1, 1]], 3)[:, 0, 0].astype(int).tolist()
        [[0, 0, 1], [1, 1, 1]]
    """
    known = np.asarray(lengths)
    is_table = known.ndim == 2
    if known.size == 0:
        raise ValueError(f"lengths must be one integer per batch entry, got {known.tolist()}")
    if not np.issubdtype(known.dtype, np.integer) and not (is_table and known.dtype == bool):
        raise TypeError(
            f"lengths must be integers, or a boolean table (batch, keys), got {known.dtype}"
        )
    if known.ndim not in (1, 2):
        raise ValueError(f"lengths must have shape (batch,) or (batch, keys), got {known.shape}")
    if is_table:
        if known.shape[1] != k_len:
            raise ValueError(f"lengths must have k_len ({k_len}) columns, got shape {known.shape}")
        if not np.isin(known, (0, 1)).all():
            raise ValueError(f"lengths must be 0 and 1 where it is a table, got {known.tolist()}")
        return known[:, None, None].astype(bool)
    if known.min() < 0 or known.max() > k_len:
        raise ValueError(f"lengths must be between 0 and k_len ({k_len}), got {known.tolist()}")
    mask: Array = np.arange(k_len) < known[:, None, None, None]
    return mask


def dilated(
    left: int,
    right: int,
    gap: int,
    q_len: int,
    k_len: int,
    q_offset: int | npt.ArrayLike | None = None,
) -> Array:
    r"""Let each query attend to keys near its own position, with ``gap`` keys left out between.

    .. math:: m_{ij} = [\, d = (\mathrm{gap} + 1)\, n,\; -\mathrm{left} \le n \le \mathrm{right}
        \,], \qquad d = j - (i + o)

    Args:
        left: how many keys before the query's own position, at least 0.
        right: how many keys after it, at least 0.
        gap: how many keys are left out between two that are attended, at least 0.
        q_len: number of queries, L.
        k_len: number of keys, S.
        q_offset: o, the position of query 0 among the keys; an integer, or one per batch entry,
            shape (B,). Needed when L and S differ.

    Returns:
        Boolean mask, shape (L, S), or (B, 1, L, S) with one offset per batch entry.

    Raises:
        TypeError: q_offset holds no integers.
        ValueError: a number is negative; or L and S differ and q_offset is not given.

    Source: Beltagy et al. 2020, section 3.1, dilated sliding window.

    Example:
        >>> dilated(1, 0, 1, 3, 3).astype(int).tolist()
        [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    """
    if min(left, right, gap) < 0:
        raise ValueError(f"left, right and gap must be at least 0, got {left}, {right} and {gap}")
    distance = _distance(q_len, k_len, q_offset)
    steps, rest = np.divmod(distance, gap + 1)
    spread: Array = (rest == 0) & (-left <= steps) & (steps <= right)
    return spread


def strided(
    stride: int, q_len: int, k_len: int, q_offset: int | npt.ArrayLike | None = None
) -> Array:
    r"""Let each query attend to every ``stride``-th key, its own position among them.

    .. math:: m_{ij} = [\, j \equiv i + o \pmod{\mathrm{stride}} \,]

    Args:
        stride: distance between two keys that are attended, at least 1.
        q_len: number of queries, L.
        k_len: number of keys, S.
        q_offset: o, the position of query 0 among the keys; an integer, or one per batch entry,
            shape (B,). Needed when L and S differ.

    Returns:
        Boolean mask, shape (L, S), or (B, 1, L, S) with one offset per batch entry.

    Raises:
        TypeError: q_offset holds no integers.
        ValueError: stride is not positive; or L and S differ and q_offset is not given.

    Source: Child et al. 2019, section 4.3.

    Example:
        >>> strided(2, 3, 3).astype(int).tolist()
        [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    on_grid: Array = _distance(q_len, k_len, q_offset) % stride == 0
    return on_grid


def global_tokens(
    n: int, q_len: int, k_len: int, q_offset: int | npt.ArrayLike | None = None
) -> Array:
    r"""Let the first ``n`` positions attend to every key, and every query to them.

    .. math:: m_{ij} = [\, j < n \;\text{or}\; 0 \le i + o < n \,]

    Args:
        n: number of positions, from the first on, at least 0.
        q_len: number of queries, L.
        k_len: number of keys, S.
        q_offset: o, the position of query 0 among the keys; an integer, or one per batch entry,
            shape (B,). Needed when L and S differ.

    Returns:
        Boolean mask, shape (L, S), or (B, 1, L, S) with one offset per batch entry.

    Raises:
        TypeError: q_offset holds no integers.
        ValueError: n is negative; or L and S differ and q_offset is not given.

    Source: Beltagy et al. 2020, section 3.1, global attention.

    Example:
        >>> global_tokens(1, 2, 2).astype(int).tolist()
        [[1, 1], [1, 0]]
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    key_position = np.arange(k_len)
    query_position = key_position - _distance(q_len, k_len, q_offset)
    is_first = (query_position >= 0) & (query_position < n)
    everywhere: Array = (key_position < n) | is_first
    return everywhere


def document(
    ids: npt.ArrayLike, q_len: int | None = None, q_offset: int | npt.ArrayLike | None = None
) -> Array:
    r"""Let each query attend to the keys of its own document.

    .. math:: m_{bij} = [\, \mathrm{ids}_{b, j} = \mathrm{ids}_{b, i + o} \,]

    Args:
        ids: the document of each position, shape (S,) or (B, S).
        q_len: number of queries, L; by default S. A query outside the ids attends nothing.
        q_offset: o, the position of query 0 among the keys; an integer, or one per batch entry,
            shape (B,). Needed when L and S differ.

    Returns:
        Boolean mask, shape (L, S), or (B, 1, L, S): batch, head, query, key.

    Raises:
        TypeError: ids or q_offset hold no integers.
        ValueError: ids have not one or two dimensions, or q_offset is needed.

    Source: Krell et al. 2021.

    Example:
        >>> document([7, 7, 9]).astype(int).tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    known = np.asarray(ids)
    if not np.issubdtype(known.dtype, np.integer):
        raise TypeError(f"ids must be integers, got {known.dtype}")
    if known.ndim not in (1, 2):
        raise ValueError(f"ids must have shape (S,) or (B, S), got {known.shape}")
    k_len = known.shape[-1]
    position = np.arange(k_len) - _distance(k_len if q_len is None else q_len, k_len, q_offset)
    position = position[..., 0]  # the query's position: (L,), or (B, 1, L)
    inside = (position >= 0) & (position < k_len)
    position = np.clip(position, 0, k_len - 1)
    if known.ndim == 2:
        entry = np.arange(len(known))[:, None, None]
        of_query, of_key = known[entry, position], known[:, None, None]
    else:
        of_query, of_key = known[position], known
    same: Array = inside[..., None] & (of_query[..., None] == of_key)
    return same


def block_sparse(
    layout: npt.ArrayLike,
    block_size: int,
    q_len: int,
    k_len: int,
    q_offset: int | None = None,
) -> Array:
    r"""Let blocks of positions attend to blocks of positions, as a table says.

    .. math:: m_{ij} = \mathrm{layout}_{\lfloor (i + o) / n \rfloor,\, \lfloor j / n \rfloor}

    Args:
        layout: boolean, shape (query blocks, key blocks), or with heads, or batch and heads, in
            front.
        block_size: number of positions in a block, n.
        q_len: number of queries, L. A query outside the table attends nothing.
        k_len: number of keys, S, at most as many as the key blocks hold.
        q_offset: o, the position of query 0 among the keys; an integer. Needed when L and S differ.

    Returns:
        Boolean mask, shape (..., L, S).

    Raises:
        TypeError: layout is not boolean, or q_offset no integer.
        ValueError: layout has less than two dimensions, block_size is not positive, there are
            more keys than the key blocks hold, or q_offset is needed.

    Source: Zaheer et al. 2020, appendix D; Child et al. 2019, section 5.5.

    Example:
        >>> block_sparse([[True, False], [True, True]], 2, 3, 3).astype(int).tolist()
        [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """
    table = np.asarray(layout)
    if table.dtype != bool:
        raise TypeError(f"layout must be boolean, got {table.dtype}")
    if table.ndim < 2:
        raise ValueError(f"layout must have shape (..., blocks, blocks), got {table.shape}")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    if k_len > table.shape[-1] * block_size:
        raise ValueError(
            f"k_len must be at most {table.shape[-1] * block_size}, as many keys as layout "
            f"{table.shape} holds in blocks of {block_size}, got {k_len}"
        )
    if q_offset is not None and np.ndim(q_offset):
        raise TypeError(f"q_offset must be an integer here, got shape {np.shape(q_offset)}")
    written_out = table.repeat(block_size, axis=-2).repeat(block_size, axis=-1)[..., :k_len]
    position = (np.arange(k_len) - _distance(q_len, k_len, q_offset))[:, 0]
    inside = (position >= 0) & (position < written_out.shape[-2])
    rows = written_out[..., np.clip(position, 0, written_out.shape[-2] - 1), :]
    allowed: Array = inside[:, None] & rows
    return allowed
