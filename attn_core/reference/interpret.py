"""Measures of attention weights, in NumPy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attn_core.reference.shapes import Array


def entropy(weights: npt.ArrayLike) -> Array:
    r"""Measure how spread the weights of each query are.

    .. math:: H_i = -\sum_j a_{ij} \ln a_{ij}, \qquad 0 \ln 0 = 0

    Args:
        weights: shape (..., L, S).

    Returns:
        Shape (..., L), in nats.

    Raises:
        ValueError: weights have less than two dimensions.

    Source: Clark et al. 2019.

    Example:
        >>> entropy([[1.0, 0.0], [0.5, 0.5]]).round(4).tolist()
        [0.0, 0.6931]
    """
    a = _table(weights)
    safe = np.where(a > 0, a, 1.0)  # ln 1 = 0, so that a weight of 0 adds nothing
    spread: Array = -(a * np.log(safe)).sum(-1)
    return spread + 0.0  # −0 is 0


def distance(weights: npt.ArrayLike, q_offset: int | None = None) -> Array:
    r"""Measure how far each query looks, on average.

    .. math:: \bar d_i = \sum_j a_{ij} \, \lvert j - (i + o) \rvert

    Args:
        weights: shape (..., L, S).
        q_offset: o, the position of query 0 among the keys. Needed when L and S differ.

    Returns:
        Shape (..., L), in positions.

    Raises:
        ValueError: weights have less than two dimensions, or q_offset is needed.

    Source: Vig and Belinkov 2019.

    Example:
        >>> distance([[1.0, 0.0], [0.5, 0.5]]).tolist()
        [0.0, 0.5]
    """
    a = _table(weights)
    q_len, k_len = a.shape[-2:]
    if q_offset is None and q_len != k_len:
        raise ValueError(f"q_offset is needed because q_len ({q_len}) differs from k_len ({k_len})")
    position = np.arange(q_len)[:, None] + (q_offset or 0)
    far: Array = (a * np.abs(np.arange(k_len) - position)).sum(-1)
    return far


def rollout(weights: Sequence[npt.ArrayLike], *, residual: float = 0.5) -> Array:
    r"""Follow attention through the layers.

    .. math::
        R = \tilde A^{(n)} \cdots \tilde A^{(1)}, \qquad
        \tilde A^{(l)} = (1 - r) \, \tfrac1H \sum_h A^{(l, h)} + r \, I

    Args:
        weights: one array of shape (..., heads, L, L) per layer, from the first to the last.
        residual: r, the share that stays in place.

    Returns:
        Shape (..., L, L).

    Raises:
        ValueError: there are no layers, a layer is not square, or residual leaves [0, 1].

    Source: Abnar and Zuidema 2020, section 3.

    Example:
        >>> first = [[[1.0, 0.0], [1.0, 0.0]]]
        >>> rollout([first, first], residual=0.0).tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """
    if not 0 <= residual <= 1:
        raise ValueError(f"residual must be between 0 and 1, got {residual}")
    if len(weights) == 0:
        raise ValueError("weights must hold an array for each layer, got none")
    flow: Array | None = None
    for layer in weights:
        a = np.asarray(layer, dtype=float)
        if a.ndim < 3 or a.shape[-1] != a.shape[-2]:
            raise ValueError(f"weights must have shape (..., heads, L, L), got {a.shape}")
        mixed = (1 - residual) * a.mean(-3) + residual * np.eye(a.shape[-1])
        flow = mixed if flow is None else mixed @ flow
    assert flow is not None
    return flow


def alignment_error_rate(
    weights: npt.ArrayLike, sure: npt.ArrayLike, possible: npt.ArrayLike | None = None
) -> float:
    r"""Compare where attention points with an alignment that people made.

    .. math::
        \mathrm{AER} = 1 - \frac{|A \cap S| + |A \cap P|}{|A| + |S|}, \qquad
        A = \{(i, \arg\max_j a_{ij})\}

    Args:
        weights: shape (L, S).
        sure: boolean, shape (L, S), the links that must be there.
        possible: boolean, shape (L, S), the links that may be there, beside the sure ones.

    Returns:
        A number between 0, agreement, and 1.

    Raises:
        ValueError: weights are no matrix, or shapes differ.

    Source: Och and Ney 2003.

    Example:
        >>> alignment_error_rate([[0.9, 0.1], [0.6, 0.4]], [[True, False], [False, True]])
        0.5
    """
    a = _table(weights)
    must, may = np.asarray(sure), np.asarray(sure if possible is None else possible)
    if a.ndim != 2 or must.shape != a.shape or may.shape != a.shape:
        raise ValueError(
            f"weights, sure and possible must be matrices of one shape, got {a.shape}, "
            f"{must.shape} and {may.shape}"
        )
    found = {(i, int(row.argmax())) for i, row in enumerate(a) if row.any()}
    sure_links = {(int(i), int(j)) for i, j in np.argwhere(must)}
    possible_links = sure_links | {(int(i), int(j)) for i, j in np.argwhere(may)}
    hits = len(found & sure_links) + len(found & possible_links)
    return 1 - hits / (len(found) + len(sure_links))


def _table(weights: npt.ArrayLike) -> Array:
    a = np.asarray(weights, dtype=float)
    if a.ndim < 2:
        raise ValueError(f"weights must have shape (..., L, S), got {a.shape}")
    return a
