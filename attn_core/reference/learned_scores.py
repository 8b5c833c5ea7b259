"""Scores with parameters of their own: queries and keys may have different widths."""

import numpy as np

from attn_core.reference.shapes import (
    Array,
    broadcast_leading,
    check_float_arrays,
    check_gradient,
    check_pair,
    check_same_shape,
    sum_to_shape,
    transpose,
)


def _check_bilinear(query: Array, key: Array, weight: Array) -> None:
    check_pair(query, key)
    check_float_arrays(query=query, weight=weight)
    check_same_shape("weight", weight, (query.shape[-1], key.shape[-1]))


def bilinear(query: Array, key: Array, weight: Array) -> Array:
    r"""Score through a matrix, so that queries and keys may have different widths.

    .. math:: s_{ij} = q_i^\top W k_j, \qquad S = Q W K^\top

    Args:
        query: queries, shape (..., L, Dq).
        key: keys, shape (..., S, Dk).
        weight: the matrix W, shape (Dq, Dk).

    Returns:
        Scores, shape (..., L, S).

    Raises:
        TypeError: as :func:`dot`.
        ValueError: leading dimensions do not broadcast, or weight has another shape.

    Source: Luong et al. 2015, section 3.1, "general".

    Example:
        >>> query, key = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0, 1.0]])
        >>> bilinear(query, key, np.ones((2, 3))).tolist()
        [[6.0]]
    """
    _check_bilinear(query, key, weight)
    scores: Array = query @ weight @ transpose(key)
    return scores


def bilinear_backward(
    grad_scores: Array, query: Array, key: Array, weight: Array
) -> tuple[Array, Array, Array]:
    r"""Carry a gradient from bilinear scores back to queries, keys and the matrix.

    .. math:: \bar Q = \bar S K W^\top, \qquad \bar K = \bar S^\top Q W,
              \qquad \bar W = Q^\top \bar S K

    Args:
        grad_scores: gradient of the loss with respect to the scores, shape (..., L, S).
        query: queries, shape (..., L, Dq).
        key: keys, shape (..., S, Dk).
        weight: the matrix W, shape (Dq, Dk).

    Returns:
        The gradients of query, key and weight, each with the shape of its input.

    Raises:
        TypeError: as :func:`bilinear`.
        ValueError: as :func:`bilinear`, or grad_scores does not have the shape of the scores.

    Source: The product rule.

    Example:
        >>> query, key = np.array([[1.0, 2.0]]), np.array([[3.0]])
        >>> bilinear_backward(np.array([[1.0]]), query, key, np.ones((2, 1)))[2].tolist()
        [[3.0], [6.0]]
    """
    _check_bilinear(query, key, weight)
    check_gradient(grad_scores, query, key)
    grad_query = grad_scores @ key @ weight.T
    grad_key = transpose(grad_scores) @ query @ weight
    grad_weight = transpose(query) @ grad_scores @ key
    return (
        sum_to_shape(grad_query, query.shape),
        sum_to_shape(grad_key, key.shape),
        sum_to_shape(grad_weight, weight.shape),
    )


def _additive_hidden(
    query: Array, key: Array, query_weight: Array, key_weight: Array, score_vector: Array
) -> Array:
    """Return tanh(W_q q_i + W_k k_j) for every pair, shape (..., L, S, H)."""
    check_pair(query, key)
    check_float_arrays(query=query, query_weight=query_weight, key_weight=key_weight)
    check_float_arrays(min_dims=1, query=query, score_vector=score_vector)
    hidden_dim = score_vector.shape[-1]
    check_same_shape("score_vector", score_vector, (hidden_dim,))
    check_same_shape("query_weight", query_weight, (hidden_dim, query.shape[-1]))
    check_same_shape("key_weight", key_weight, (hidden_dim, key.shape[-1]))
    projected_query = query @ query_weight.T
    projected_key = key @ key_weight.T
    hidden: Array = np.tanh(projected_query[..., :, None, :] + projected_key[..., None, :, :])
    return hidden


def additive(
    query: Array, key: Array, query_weight: Array, key_weight: Array, score_vector: Array
) -> Array:
    r"""Score by a small network with one hidden layer.

    .. math:: s_{ij} = v \cdot \tanh(W_q q_i + W_k k_j)

    Args:
        query: queries, shape (..., L, Dq).
        key: keys, shape (..., S, Dk).
        query_weight: the matrix W_q, shape (H, Dq).
        key_weight: the matrix W_k, shape (H, Dk).
        score_vector: the vector v, shape (H,).

    Returns:
        Scores, shape (..., L, S).

    Raises:
        TypeError: as :func:`dot`.
        ValueError: leading dimensions do not broadcast, or a parameter has another shape.

    Source: Bahdanau et al. 2015, appendix A.1.2.

    Example:
        >>> one = np.ones((1, 1))
        >>> additive(one, -one, one, one, np.ones(1)).tolist()
        [[0.0]]
    """
    hidden = _additive_hidden(query, key, query_weight, key_weight, score_vector)
    scores: Array = hidden @ score_vector
    return scores


def additive_backward(
    grad_scores: Array,
    query: Array,
    key: Array,
    query_weight: Array,
    key_weight: Array,
    score_vector: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    r"""Carry a gradient from additive scores back to queries, keys and the three parameters.

    With :math:`h_{ij} = \tanh(W_q q_i + W_k k_j)` and
    :math:`\bar a_{ij} = \bar s_{ij} \, v \odot (1 - h_{ij}^2)`

    .. math:: \bar v = \sum_{ij} \bar s_{ij} h_{ij}, \qquad
              \bar q_i = W_q^\top \sum_j \bar a_{ij}, \qquad
              \bar W_q = \sum_{ij} \bar a_{ij} q_i^\top

    and the same for keys.

    Args:
        grad_scores: gradient of the loss with respect to the scores, shape (..., L, S).
        query: queries, shape (..., L, Dq).
        key: keys, shape (..., S, Dk).
        query_weight: the matrix W_q, shape (H, Dq).
        key_weight: the matrix W_k, shape (H, Dk).
        score_vector: the vector v, shape (H,).

    Returns:
        The gradients of query, key, query_weight, key_weight and score_vector, each with the
        shape of its input.

    Raises:
        TypeError: as :func:`additive`.
        ValueError: as :func:`additive`, or grad_scores does not have the shape of the scores.

    Source: The chain rule.

    Example:
        >>> one = np.ones((1, 1))
        >>> grads = additive_backward(np.ones((1, 1)), one, -one, one, 2 * one, np.ones(1))
        >>> [np.round(grad, 4).tolist() for grad in grads]
        [[[0.42]], [[0.8399]], [[0.42]], [[-0.42]], [-0.7616]]
    """
    hidden = _additive_hidden(query, key, query_weight, key_weight, score_vector)
    check_gradient(grad_scores, query, key)
    grad_score_vector = grad_scores[..., None] * hidden
    grad_before_tanh = grad_scores[..., None] * score_vector * (1 - hidden**2)
    grad_projected_query = grad_before_tanh.sum(axis=-2)
    grad_projected_key = grad_before_tanh.sum(axis=-3)
    return (
        sum_to_shape(grad_projected_query @ query_weight, query.shape),
        sum_to_shape(grad_projected_key @ key_weight, key.shape),
        sum_to_shape(transpose(grad_projected_query) @ query, query_weight.shape),
        sum_to_shape(transpose(grad_projected_key) @ key, key_weight.shape),
        sum_to_shape(grad_score_vector, score_vector.shape),
    )


def _check_location(query: Array, key: Array, weight: Array) -> None:
    check_pair(query, key)
    check_float_arrays(query=query, weight=weight)
    check_same_shape("weight", weight, (weight.shape[0], query.shape[-1]))
    if key.shape[-2] > weight.shape[0]:
        raise ValueError(
            f"key must have at most {weight.shape[0]} places, the rows of weight, got {key.shape}"
        )


def location(query: Array, key: Array, weight: Array) -> Array:
    r"""Score each place by the query alone, whatever key stands there.

    .. math:: s_{ij} = (W q_i)_j

    Args:
        query: queries, shape (..., L, Dq).
        key: keys, shape (..., S, Dk), of which only the number counts.
        weight: the matrix W, shape (M, Dq), with a row for each of at least S places.

    Returns:
        Scores, shape (..., L, S).

    Raises:
        TypeError: as :func:`dot`.
        ValueError: leading dimensions do not broadcast, weight has another width, or there are
            more keys than places.

    Source: Luong et al. 2015, equation 8.

    Example:
        >>> location(np.array([[1.0, 2.0]]), np.zeros((2, 5)), np.eye(3, 2)).tolist()
        [[1.0, 2.0]]
    """
    _check_location(query, key, weight)
    leading = broadcast_leading(query=query, key=key)
    scores: Array = query @ weight[: key.shape[-2]].T
    return np.broadcast_to(scores, (*leading, *scores.shape[-2:])).copy()


def location_backward(
    grad_scores: Array, query: Array, key: Array, weight: Array
) -> tuple[Array, Array, Array]:
    r"""Carry a gradient from the scores of places back to queries and the matrix.

    .. math:: \bar Q = \bar S W, \qquad \bar K = 0, \qquad \bar W = \bar S^\top Q

    Args:
        grad_scores: gradient of the loss with respect to the scores, shape (..., L, S).
        query: queries, shape (..., L, Dq).
        key: keys, shape (..., S, Dk).
        weight: the matrix W, shape (M, Dq).

    Returns:
        The gradients of query, key and weight, each with the shape of its input; that of key is 0.

    Raises:
        TypeError: as :func:`location`.
        ValueError: as :func:`location`, or grad_scores does not have the shape of the scores.

    Source: The product rule.

    Example:
        >>> query, key = np.array([[1.0, 2.0]]), np.zeros((2, 5))
        >>> location_backward(np.array([[1.0, 0.0]]), query, key, np.eye(3, 2))[2].tolist()
        [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    """
    _check_location(query, key, weight)
    check_gradient(grad_scores, query, key)
    keys = key.shape[-2]
    grad_weight = np.zeros_like(weight)
    grad_weight[:keys] = sum_to_shape(transpose(grad_scores) @ query, (keys, query.shape[-1]))
    grad_query = sum_to_shape(grad_scores @ weight[:keys], query.shape)
    return grad_query, np.zeros_like(key), grad_weight
