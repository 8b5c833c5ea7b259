"""Scores: how well does each query match each key? Step one of attention, and its derivatives."""

import numpy as np

from attn_core.reference.shapes import (
    Array,
    check_gradient,
    check_number,
    check_pair,
    sum_to_shape,
    transpose,
)


def _check_same_width(query: Array, key: Array, least: int = 0) -> None:
    check_pair(query, key)
    if query.shape[-1] < least:
        raise ValueError(f"query must have a width of at least {least}, got query {query.shape}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            "query and key must have the same last dimension, "
            f"got query {query.shape} and key {key.shape}"
        )


def dot(query: Array, key: Array) -> Array:
    r"""Score each query against each key by their dot product.

    .. math:: s_{ij} = q_i \cdot k_j, \qquad S = Q K^\top

    Args:
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).

    Returns:
        Scores, shape (..., L, S).

    Raises:
        TypeError: an argument is no floating-point array, or their dtypes differ.
        ValueError: their last dimensions differ, or their leading ones do not broadcast.

    Source: Luong et al. 2015, section 3.1, "dot".

    Example:
        >>> dot(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [[11.0, 2.0]]
    """
    _check_same_width(query, key)
    scores: Array = query @ transpose(key)
    return scores


def dot_backward(grad_scores: Array, query: Array, key: Array) -> tuple[Array, Array]:
    r"""Carry a gradient from the dot-product scores back to queries and keys.

    .. math:: \bar Q = \bar S K, \qquad \bar K = \bar S^\top Q

    Args:
        grad_scores: gradient of the loss with respect to the scores, shape (..., L, S).
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).

    Returns:
        The gradients of query, shape (..., L, D), and of key, shape (..., S, D).

    Raises:
        TypeError: as :func:`dot`.
        ValueError: as :func:`dot`, or grad_scores does not have the shape of the scores.

    Source: The math chapter, "the whole backward pass".

    Example:
        >>> grad_query, grad_key = dot_backward(
        ...     np.array([[1.0, 0.0]]), np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])
        ... )
        >>> grad_query.tolist(), grad_key.tolist()
        ([[3.0, 4.0]], [[1.0, 2.0], [0.0, 0.0]])
    """
    _check_same_width(query, key)
    check_gradient(grad_scores, query, key)
    grad_query = grad_scores @ key
    grad_key = transpose(grad_scores) @ query
    return sum_to_shape(grad_query, query.shape), sum_to_shape(grad_key, key.shape)


def scaled_dot(query: Array, key: Array) -> Array:
    r"""Score by the dot product divided by the square root of the width.

    .. math:: S = \frac{Q K^\top}{\sqrt{D}}

    Args:
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).

    Returns:
        Scores, shape (..., L, S).

    Raises:
        TypeError: as :func:`dot`.
        ValueError: as :func:`dot`, or their width is 0.

    Source: Vaswani et al. 2017, section 3.2.1; D1 section 3.1, D2 section 4.1.

    Example:
        >>> scaled_dot(np.array([[1.0, 1.0, 1.0, 1.0]]), np.array([[1.0, 2.0, 3.0, 4.0]])).tolist()
        [[5.0]]
    """
    _check_same_width(query, key, least=1)
    return dot(query, key) / float(np.sqrt(query.shape[-1]))


def scaled_dot_backward(grad_scores: Array, query: Array, key: Array) -> tuple[Array, Array]:
    r"""Carry a gradient from the scaled dot-product scores back to queries and keys.

    .. math:: \bar Q = \frac{\bar S K}{\sqrt D}, \qquad \bar K = \frac{\bar S^\top Q}{\sqrt D}

    Args:
        grad_scores: gradient of the loss with respect to the scores, shape (..., L, S).
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).

    Returns:
        The gradients of query, shape (..., L, D), and of key, shape (..., S, D).

    Raises:
        TypeError: as :func:`dot_backward`.
        ValueError: as :func:`dot_backward`, or their width is 0.

    Source: The math chapter, "the whole backward pass".

    Example:
        >>> ones = np.ones((1, 4))
        >>> scaled_dot_backward(np.array([[1.0]]), ones, 2 * ones)[0].tolist()
        [[1.0, 1.0, 1.0, 1.0]]
    """
    _check_same_width(query, key, least=1)
    check_gradient(grad_scores, query, key)
    return dot_backward(grad_scores / float(np.sqrt(query.shape[-1])), query, key)


def _normalise(vectors: Array) -> tuple[Array, Array]:
    """Return the vectors scaled to length 1, and their lengths; a zero vector stays zero."""
    length = np.sqrt((vectors**2).sum(axis=-1, keepdims=True))
    return vectors / np.where(length > 0, length, 1), length


def _normalise_backward(grad_unit: Array, vectors: Array) -> Array:
    """Remove what points along the vector, for its length cannot change, and divide by it."""
    unit, length = _normalise(vectors)
    across = grad_unit - unit * (unit * grad_unit).sum(axis=-1, keepdims=True)
    gradient: Array = np.where(length > 0, across / np.where(length > 0, length, 1), 0)
    return gradient


def cosine(query: Array, key: Array) -> Array:
    r"""Score by the cosine of the angle between query and key; 0 where either is zero.

    .. math:: s_{ij} = \frac{q_i \cdot k_j}{\lVert q_i \rVert \, \lVert k_j \rVert}

    Args:
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).

    Returns:
        Scores between -1 and 1, shape (..., L, S).

    Raises:
        TypeError: as :func:`dot`.
        ValueError: as :func:`scaled_dot`.

    Source: Graves et al. 2014, section 3.3.1; D1 section 3.1 names it.

    Example:
        >>> cosine(np.array([[3.0, 0.0]]), np.array([[5.0, 0.0], [0.0, 1.0]])).tolist()
        [[1.0, 0.0]]
    """
    _check_same_width(query, key, least=1)
    return dot(_normalise(query)[0], _normalise(key)[0])


def cosine_backward(grad_scores: Array, query: Array, key: Array) -> tuple[Array, Array]:
    r"""Carry a gradient from cosine scores back to queries and keys.

    With :math:`u = x / \lVert x \rVert` the gradient of a vector is

    .. math:: \bar x = \frac{\bar u - u \, (u \cdot \bar u)}{\lVert x \rVert}

    Args:
        grad_scores: gradient of the loss with respect to the scores, shape (..., L, S).
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).

    Returns:
        The gradients of query, shape (..., L, D), and of key, shape (..., S, D); 0 for a zero
        vector, where the cosine has no derivative.

    Raises:
        TypeError: as :func:`dot_backward`.
        ValueError: as :func:`dot_backward`, or their width is 0.

    Source: The quotient rule.

    Example:
        >>> query, key = np.array([[2.0, 0.0]]), np.array([[0.0, 1.0]])
        >>> cosine_backward(np.array([[1.0]]), query, key)[0].tolist()
        [[0.0, 0.5]]
    """
    _check_same_width(query, key, least=1)
    grad_unit_query, grad_unit_key = dot_backward(
        grad_scores, _normalise(query)[0], _normalise(key)[0]
    )
    return _normalise_backward(grad_unit_query, query), _normalise_backward(grad_unit_key, key)


def _differences(query: Array, key: Array, bandwidth: float) -> Array:
    """Return q_i − k_j for every pair, shape (..., L, S, D)."""
    _check_same_width(query, key)
    check_number("bandwidth", bandwidth)
    if bandwidth <= 0:
        raise ValueError(f"bandwidth must be above 0, got {bandwidth}")
    differences: Array = query[..., :, None, :] - key[..., None, :, :]
    return differences


def gaussian(query: Array, key: Array, *, bandwidth: float = 1.0) -> Array:
    r"""Score by nearness; softmax of it gives the weights of Nadaraya and Watson's regression.

    .. math:: s_{ij} = -\frac{\lVert q_i - k_j \rVert^2}{2 h^2}

    Args:
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).
        bandwidth: h, above 0, in the unit of query and key.

    Returns:
        Scores of at most 0, shape (..., L, S).

    Raises:
        TypeError: as :func:`dot`, or bandwidth is no number.
        ValueError: as :func:`dot`, or bandwidth is not above 0.

    Source: Nadaraya 1964; Watson 1964.

    Example:
        >>> gaussian(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])).tolist()
        [[-12.5]]
    """
    differences = _differences(query, key, bandwidth)
    scores: Array = -(differences**2).sum(axis=-1) / (2 * bandwidth**2)
    return scores


def gaussian_backward(
    grad_scores: Array, query: Array, key: Array, *, bandwidth: float = 1.0
) -> tuple[Array, Array]:
    r"""Carry a gradient from the gaussian scores back to queries and keys.

    .. math:: \bar q_i = -\frac{1}{h^2} \sum_j \bar s_{ij} (q_i - k_j), \qquad
              \bar k_j = \frac{1}{h^2} \sum_i \bar s_{ij} (q_i - k_j)

    Args:
        grad_scores: gradient of the loss with respect to the scores, shape (..., L, S).
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).
        bandwidth: h, as in :func:`gaussian`.

    Returns:
        The gradients of query, shape (..., L, D), and of key, shape (..., S, D).

    Raises:
        TypeError: as :func:`gaussian`.
        ValueError: as :func:`gaussian`, or grad_scores does not have the shape of the scores.

    Source: The chain rule.

    Example:
        >>> query, key = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])
        >>> gaussian_backward(np.array([[1.0]]), query, key)[0].tolist()
        [[3.0, 4.0]]
    """
    differences = _differences(query, key, bandwidth)
    check_gradient(grad_scores, query, key)
    pulls = grad_scores[..., None] * differences / bandwidth**2
    return (
        sum_to_shape(-pulls.sum(axis=-2), query.shape),
        sum_to_shape(pulls.sum(axis=-3), key.shape),
    )
