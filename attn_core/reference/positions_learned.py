"""What positions add through learned numbers: T5, Shaw, segments."""

import math

import numpy as np

from attn_core.reference.positions_fixed import check_distance, t5_bucket
from attn_core.reference.shapes import (
    Array,
    check_flags,
    check_float_arrays,
    check_integer_array,
    check_same_shape,
    sum_to_shape,
)


def t5_bias(
    weight: Array, *, distance: Array, max_distance: int = 128, bidirectional: bool = True
) -> Array:
    r"""Look up T5's bias: a learned number for each bucket of distances and each head.

    .. math:: b_{hij} = w_{\operatorname{bucket}(d_{ij}), h}

    Args:
        weight: w, shape (buckets, H).
        distance: key position minus query position, shape (L, S) or (B, 1, L, S).
        max_distance: as in t5_bucket.
        bidirectional: as in t5_bucket.

    Returns:
        The bias, shape (H, L, S) or (B, H, L, S).

    Raises:
        TypeError: weight is not an array of floating-point numbers.
        ValueError: as t5_bucket, or distance has another shape.

    Source: Raffel et al. 2020, section 2.1.

    Example:
        >>> weight = np.array([[1.0], [2.0], [3.0], [4.0]])
        >>> t5_bias(weight, distance=np.array([[-1, 0, 1]]), max_distance=3).tolist()
        [[[2.0, 1.0, 4.0]]]
    """
    check_flags(bidirectional=bidirectional)
    bucket = _t5_bucket(weight, distance, max_distance, bidirectional)
    bias: Array = np.moveaxis(weight[bucket], -1, -3)
    return bias if distance.ndim == 2 else bias[:, 0]


def t5_bias_backward(
    grad_bias: Array,
    weight: Array,
    *,
    distance: Array,
    max_distance: int = 128,
    bidirectional: bool = True,
) -> Array:
    r"""Add up, for each bucket and head, the gradients of all pairs that looked it up.

    .. math:: \bar w_{nh} = \sum_{ij} \bar b_{hij} \, [\operatorname{bucket}(d_{ij}) = n]

    Args:
        grad_bias: gradient of the loss with respect to the bias, shape (H, L, S) or (B, H, L, S).
        weight: as in t5_bias.
        distance: as in t5_bias.
        max_distance: as in t5_bias.
        bidirectional: as in t5_bias.

    Returns:
        The gradient of weight, shape (buckets, H).

    Raises:
        TypeError: as t5_bias.
        ValueError: as t5_bias, or grad_bias does not have the shape of the bias.

    Source: The chain rule.

    Example:
        >>> weight, distance = np.ones((4, 1)), np.array([[-1, 0, 1, 2]])
        >>> t5_bias_backward(np.ones((1, 1, 4)), weight, distance=distance, max_distance=3).tolist()
        [[1.0], [1.0], [0.0], [2.0]]
    """
    check_flags(bidirectional=bidirectional)
    bucket = _t5_bucket(weight, distance, max_distance, bidirectional)
    *batch, length, keys = bucket.shape[:1] * (bucket.ndim > 2) + bucket.shape[-2:]
    check_same_shape("grad_bias", grad_bias, (*batch, weight.shape[1], length, keys))
    grad_weight = np.zeros_like(weight)
    for n in range(len(weight)):
        chosen = np.where(bucket == n, grad_bias, 0.0)  # (..., H, L, S)
        grad_weight[n] = chosen.sum(axis=(-2, -1)).reshape(-1, weight.shape[1]).sum(axis=0)
    return grad_weight


def _t5_bucket(weight: Array, distance: Array, max_distance: int, bidirectional: bool) -> Array:
    check_float_arrays(weight=weight)
    check_distance(distance)
    return t5_bucket(
        distance, buckets=len(weight), max_distance=max_distance, bidirectional=bidirectional
    )


def shaw(query: Array, weight: Array, *, distance: Array, scale: float | None = None) -> Array:
    r"""Score each query against the learned vector of each key's distance.

    .. math:: b_{ij} = \frac{q_i \cdot a_{\operatorname{clip}(d_{ij})}}{\sqrt{D}}, \qquad
              \operatorname{clip}(d) = \max(-m, \min(m, d))

    Args:
        query: queries, shape (..., H, L, D).
        weight: the vectors a from distance -m to m, shape (2m + 1, D), or (H, 2m + 1, D) with
            vectors of its own for each head.
        distance: key position minus query position, shape (L, S) or (B, 1, L, S).
        scale: takes the place of 1/√D.

    Returns:
        The bias, shape (..., H, L, S).

    Raises:
        TypeError: query or weight is not an array of floating-point numbers.
        ValueError: their widths differ, or distance does not fit the queries.

    Source: Shaw et al. 2018, equation 5.

    Example:
        >>> query, weight = np.array([[[2.0]]]), np.array([[1.0], [10.0], [100.0]])
        >>> shaw(query, weight, distance=np.array([[-5, 0, 1]])).tolist()
        [[[2.0, 20.0, 200.0]]]
    """
    vectors, scale = _shaw_vectors(query, weight, distance, scale)
    scores: Array = scale * np.einsum("...ld,...lsd->...ls", query, vectors)
    return scores


def shaw_backward(
    grad_bias: Array,
    query: Array,
    weight: Array,
    *,
    distance: Array,
    scale: float | None = None,
) -> tuple[Array, Array]:
    r"""Carry a gradient from Shaw's scores back to queries and vectors.

    .. math:: \bar q_i = \frac{1}{\sqrt D} \sum_j \bar b_{ij} \, a_{\operatorname{clip}(d_{ij})},
              \qquad \bar a_c = \frac{1}{\sqrt D}
              \sum_{ij} \bar b_{ij} \, q_i \, [\operatorname{clip}(d_{ij}) = c]

    Args:
        grad_bias: gradient of the loss with respect to the scores, shape (..., H, L, S).
        query: as in shaw.
        weight: as in shaw.
        distance: as in shaw.
        scale: as in shaw.

    Returns:
        The gradients of query and weight, each with the shape of its input.

    Raises:
        TypeError: as shaw.
        ValueError: as shaw, or grad_bias does not have the shape of the scores.

    Source: The product rule.

    Example:
        >>> query, weight = np.array([[[2.0]]]), np.array([[1.0], [10.0], [100.0]])
        >>> grads = shaw_backward(np.ones((1, 1, 2)), query, weight, distance=np.array([[0, 5]]))
        >>> [grad.tolist() for grad in grads]
        [[[[110.0]]], [[0.0], [2.0], [2.0]]]
    """
    vectors, scale = _shaw_vectors(query, weight, distance, scale)
    leading = np.broadcast_shapes(query.shape[:-2], vectors.shape[:-3])
    check_same_shape("grad_bias", grad_bias, (*leading, *vectors.shape[-3:-1]))
    grad_query = scale * np.einsum("...ls,...lsd->...ld", grad_bias, vectors)
    grad_vectors = scale * np.einsum("...ls,...ld->...lsd", grad_bias, query)
    return sum_to_shape(grad_query, query.shape), _to_vectors(grad_vectors, weight, distance)


def shaw_values(weights: Array, weight: Array, *, distance: Array) -> Array:
    r"""Add up the learned vectors of the keys' distances, weighted as the keys are.

    .. math:: o_i = \sum_j w_{ij} \, a_{\operatorname{clip}(d_{ij})}

    Args:
        weights: attention's weights w, shape (..., H, L, S).
        weight: the vectors a from distance -m to m, shape (2m + 1, Dv), or (H, 2m + 1, Dv).
        distance: key position minus query position, shape (L, S) or (B, 1, L, S).

    Returns:
        What is added to the output of attention, shape (..., H, L, Dv).

    Raises:
        TypeError: weights or weight is not an array of floating-point numbers.
        ValueError: distance has another shape than weights.

    Source: Shaw et al. 2018, equation 3.

    Example:
        >>> weights, weight = np.array([[[0.5, 0.25, 0.25]]]), np.array([[1.0], [10.0], [100.0]])
        >>> shaw_values(weights, weight, distance=np.array([[-1, 0, 1]])).tolist()
        [[[28.0]]]
    """
    check_float_arrays(weights=weights, weight=weight)
    check_distance(distance, weights.shape[-2:])
    vectors = _at_distance(weight, distance)
    added: Array = np.einsum("...ls,...lsd->...ld", weights, vectors)
    return added


def shaw_values_backward(
    grad_output: Array, weights: Array, weight: Array, *, distance: Array
) -> tuple[Array, Array]:
    r"""Carry a gradient from what was added to the output back to weights and vectors.

    .. math:: \bar w_{ij} = \bar o_i \cdot a_{\operatorname{clip}(d_{ij})}, \qquad
              \bar a_c = \sum_{ij} w_{ij} \, \bar o_i \, [\operatorname{clip}(d_{ij}) = c]

    Args:
        grad_output: gradient of the loss with respect to what was added, shape (..., H, L, Dv).
        weights: as in shaw_values.
        weight: as in shaw_values.
        distance: as in shaw_values.

    Returns:
        The gradients of weights and weight, each with the shape of its input.

    Raises:
        TypeError: as shaw_values.
        ValueError: as shaw_values, or grad_output does not have the shape of what was added.

    Source: The product rule.

    Example:
        >>> weights, weight = np.array([[[0.5, 0.5]]]), np.array([[1.0], [10.0], [100.0]])
        >>> grads = shaw_values_backward(
        ...     np.ones((1, 1, 1)), weights, weight, distance=np.array([[0, 1]])
        ... )
        >>> [grad.tolist() for grad in grads]
        [[[[10.0, 100.0]]], [[0.0], [0.5], [0.5]]]
    """
    check_float_arrays(weights=weights, weight=weight)
    check_distance(distance, weights.shape[-2:])
    vectors = _at_distance(weight, distance)
    leading = np.broadcast_shapes(weights.shape[:-2], vectors.shape[:-3])
    check_same_shape("grad_output", grad_output, (*leading, weights.shape[-2], weight.shape[-1]))
    grad_weights = np.einsum("...ld,...lsd->...ls", grad_output, vectors)
    grad_vectors = np.einsum("...ls,...ld->...lsd", weights, grad_output)
    return sum_to_shape(grad_weights, weights.shape), _to_vectors(grad_vectors, weight, distance)


def _shaw_vectors(
    query: Array, weight: Array, distance: Array, scale: float | None
) -> tuple[Array, float]:
    check_float_arrays(query=query, weight=weight)
    check_same_shape("weight", weight, (*weight.shape[:-1], query.shape[-1]))
    check_distance(distance, (query.shape[-2], *np.shape(distance)[-1:]))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return _at_distance(weight, distance), scale


def _clipped(weight: Array, distance: Array) -> Array:
    furthest = weight.shape[-2] // 2
    return np.clip(distance, -furthest, furthest) + furthest


def _at_distance(weight: Array, distance: Array) -> Array:
    """Return the vector of each pair, shape (H, L, S, D) or (B, H, L, S, D); H may be 1."""
    index = _clipped(weight, distance)
    per_head = weight if weight.ndim == 3 else weight[None]
    if distance.ndim == 2:
        return per_head[:, index]
    return np.moveaxis(per_head[:, index[:, 0]], 0, 1)


def _to_vectors(grad_vectors: Array, weight: Array, distance: Array) -> Array:
    """Add up (..., H, L, S, D) over the pairs that share a vector: the shape of weight."""
    index = _clipped(weight, distance)[..., None]
    grad_weight = np.zeros_like(weight)
    for c in range(weight.shape[-2]):
        of_pairs = np.where(index == c, grad_vectors, 0.0).sum(axis=(-3, -2))  # (..., H, D)
        grad_weight[..., c, :] = sum_to_shape(of_pairs, weight[..., c, :].shape)
    return grad_weight


def segment(x: Array, weight: Array, *, segment_ids: Array) -> Array:
    r"""Add a learned vector per segment to each vector of a sequence.

    .. math:: y_t = x_t + E_{s_t}

    Args:
        x: the sequence, shape (..., L, D).
        weight: the vectors E, shape (segments, D).
        segment_ids: integers s that broadcast to shape (..., L).

    Returns:
        The encoded sequence, shape (..., L, D).

    Raises:
        TypeError: x or weight is not an array of floating-point numbers, or segment_ids holds no
            integers.
        ValueError: their widths differ, or segment_ids does not fit x or names no segment.

    Source: Devlin et al. 2019, section 3.

    Example:
        >>> weight = np.array([[1.0], [2.0]])
        >>> segment(np.zeros((3, 1)), weight, segment_ids=np.array([0, 0, 1])).tolist()
        [[1.0], [1.0], [2.0]]
    """
    check_float_arrays(x=x, weight=weight)
    check_same_shape("weight", weight, (len(weight), x.shape[-1]))
    _check_ids(segment_ids, x, weight)
    encoded: Array = x + weight[segment_ids]
    return encoded


def segment_backward(
    grad_output: Array, x: Array, weight: Array, *, segment_ids: Array
) -> tuple[Array, Array]:
    r"""Carry a gradient from the encoded sequence back to the sequence and the vectors.

    .. math:: \bar x_t = \bar y_t, \qquad \bar E_n = \sum_t \bar y_t \, [s_t = n]

    Args:
        grad_output: gradient of the loss with respect to the result, shape (..., L, D).
        x: as in segment.
        weight: as in segment.
        segment_ids: as in segment.

    Returns:
        The gradients of x and weight, each with the shape of its input.

    Raises:
        TypeError: as segment.
        ValueError: as segment, or grad_output does not have the shape of x.

    Source: The chain rule.

    Example:
        >>> grads = segment_backward(
        ...     np.ones((3, 1)), np.zeros((3, 1)), np.zeros((2, 1)), segment_ids=np.array([0, 0, 1])
        ... )
        >>> grads[1].tolist()
        [[2.0], [1.0]]
    """
    check_float_arrays(x=x, weight=weight)
    _check_ids(segment_ids, x, weight)
    check_same_shape("grad_output", grad_output, x.shape)
    grad_weight = np.zeros_like(weight)
    for n in range(len(weight)):
        in_segment = np.where(segment_ids == n, 1.0, 0.0)[..., None]
        grad_weight[n] = (in_segment * grad_output).reshape(-1, x.shape[-1]).sum(axis=0)
    return grad_output.copy(), grad_weight


def _check_ids(segment_ids: Array, x: Array, weight: Array) -> None:
    check_integer_array("segment_ids", segment_ids)
    try:
        fits = np.broadcast_shapes(segment_ids.shape, x.shape[:-1]) == x.shape[:-1]
    except ValueError:
        fits = False
    if not fits or segment_ids.shape[-1:] != x.shape[-2:-1]:
        raise ValueError(f"segment_ids must broadcast to {x.shape[:-1]}, got {segment_ids.shape}")
    if segment_ids.size and not 0 <= segment_ids.min() <= segment_ids.max() < len(weight):
        raise ValueError(
            f"segment_ids must be from 0 to {len(weight) - 1}, got {segment_ids.min()} to "
            f"{segment_ids.max()}"
        )
