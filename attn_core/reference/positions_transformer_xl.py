"""Transformer-XL's relative positions: sinusoids of the distance, and two biases per head."""

import math

import numpy as np

from attn_core.reference.positions import waves
from attn_core.reference.positions_fixed import check_distance
from attn_core.reference.shapes import Array, check_float_arrays, check_same_shape, sum_to_shape


def transformer_xl(
    query: Array,
    key: Array,
    content_bias: Array,
    position_bias: Array,
    position_weight: Array,
    *,
    distance: Array,
    base: float = 10000.0,
    scale: float | None = None,
) -> Array:
    r"""Give what Transformer-XL's score has beyond the product of query and key.

    .. math:: b_{ij} = \frac{q_i \cdot W_R r_{i-j} + u \cdot k_j + v \cdot W_R r_{i-j}}{\sqrt D}

    Args:
        query: queries, shape (..., H, L, D).
        key: keys, shape (..., Hkv, S, D), H a multiple of Hkv.
        content_bias: u, shape (H, D).
        position_bias: v, shape (H, D).
        position_weight: the matrices W_R of the heads, one below the other, shape (H · D, E).
        distance: key position minus query position, shape (L, S) or (B, 1, L, S).
        base: of the sinusoidal encoding r of width E.
        scale: takes the place of 1/√D.

    Returns:
        The bias, shape (..., H, L, S).

    Raises:
        TypeError: an array does not hold floating-point numbers.
        ValueError: a parameter or distance has another shape, or the heads do not divide.

    Source: Dai et al. 2019, section 3.3.

    Example:
        >>> one = np.ones((1, 1))
        >>> distance = np.array([[-np.pi / 2, 0.0]])  # r = sin(-distance)
        >>> transformer_xl(one[None], one[None] * [[3], [5]], one, one, one, distance=distance)
        array([[[5., 5.]]])
    """
    scale, _, r = _prepare(
        query, key, content_bias, position_bias, position_weight, distance, base, scale
    )
    of_content = np.einsum("hd,...hsd->...hs", content_bias, _per_query_head(key, query))
    of_distance = np.einsum("...hld,...hlsd->...hls", query + position_bias[:, None], r)
    bias: Array = scale * (of_content[..., None, :] + of_distance)
    return bias


def transformer_xl_backward(
    grad_bias: Array,
    query: Array,
    key: Array,
    content_bias: Array,
    position_bias: Array,
    position_weight: Array,
    *,
    distance: Array,
    base: float = 10000.0,
    scale: float | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    r"""Carry a gradient from Transformer-XL's terms back to its five inputs.

    With :math:`g_{ij} = \bar b_{ij} / \sqrt D` and :math:`\rho_{ij} = W_R r_{i-j}`

    .. math:: \bar q_i = \sum_j g_{ij} \rho_{ij}, \quad
              \bar k_j = \sum_i g_{ij} u, \quad
              \bar u = \sum_{ij} g_{ij} k_j, \quad
              \bar v = \sum_i \bar q_i, \quad
              \bar W_R = \sum_{ij} g_{ij} (q_i + v) r_{i-j}^\top

    Args:
        grad_bias: gradient of the loss with respect to the bias, shape (..., H, L, S).
        query: as in transformer_xl.
        key: as in transformer_xl.
        content_bias: as in transformer_xl.
        position_bias: as in transformer_xl.
        position_weight: as in transformer_xl.
        distance: as in transformer_xl.
        base: as in transformer_xl.
        scale: as in transformer_xl.

    Returns:
        The gradients of query, key, content_bias, position_bias and position_weight, each with
        the shape of its input.

    Raises:
        TypeError: as transformer_xl.
        ValueError: as transformer_xl, or grad_bias does not have the shape of the bias.

    Source: The product rule.

    Example:
        >>> one, distance = np.ones((1, 1)), np.array([[-np.pi / 2]])
        >>> grads = transformer_xl_backward(
        ...     one[None], one[None], 3 * one[None], one, one, one, distance=distance
        ... )
        >>> [float(grad.sum()) for grad in grads]
        [1.0, 1.0, 3.0, 1.0, 2.0]
    """
    scale, waves_of_pairs, r = _prepare(
        query, key, content_bias, position_bias, position_weight, distance, base, scale
    )
    leading = np.broadcast_shapes(query.shape[:-2], (*key.shape[:-3], 1), r.shape[:-3])
    check_same_shape("grad_bias", grad_bias, (*leading, *r.shape[-3:-1]))
    g = scale * grad_bias
    grad_query = np.einsum("...hls,...hlsd->...hld", g, r)
    grad_key = np.einsum("...hls,hd->...hsd", g, content_bias)
    grad_content_bias = np.einsum("...hls,...hsd->...hd", g, _per_query_head(key, query))
    grad_r = np.einsum("...hls,...hld->...hlsd", g, query + position_bias[:, None])
    grad_weight = np.einsum("...hlsd,...hlse->...hde", grad_r, waves_of_pairs)

    kv_heads, group = key.shape[-3], query.shape[-3] // key.shape[-3]
    shared = grad_key.shape
    grad_key = grad_key.reshape(*shared[:-3], kv_heads, group, *shared[-2:]).sum(axis=-3)
    heads_and_width = (*content_bias.shape, position_weight.shape[1])
    return (
        sum_to_shape(grad_query, query.shape),
        sum_to_shape(grad_key, key.shape),
        sum_to_shape(grad_content_bias, content_bias.shape),
        sum_to_shape(grad_query.sum(axis=-2), position_bias.shape),
        sum_to_shape(grad_weight, heads_and_width).reshape(position_weight.shape),
    )


def _prepare(
    query: Array,
    key: Array,
    content_bias: Array,
    position_bias: Array,
    position_weight: Array,
    distance: Array,
    base: float,
    scale: float | None,
) -> tuple[float, Array, Array]:
    """Return the scale, r of each pair (.., 1, L, S, E) and W_R r of each pair (.., H, L, S, D)."""
    check_float_arrays(
        query=query,
        key=key,
        content_bias=content_bias,
        position_bias=position_bias,
        position_weight=position_weight,
    )
    if query.ndim < 3:
        raise ValueError(f"query must be (..., H, L, D), got {query.shape}")
    heads, head_dim = query.shape[-3], query.shape[-1]
    check_same_shape("content_bias", content_bias, (heads, head_dim))
    check_same_shape("position_bias", position_bias, (heads, head_dim))
    if key.ndim < 3 or heads % key.shape[-3]:
        raise ValueError(
            f"key must be (..., Hkv, S, D) with a divisor of {heads} heads, got {key.shape}"
        )
    check_distance(distance, (query.shape[-2], key.shape[-2]))
    dim = position_weight.shape[1]
    check_same_shape("position_weight", position_weight, (heads * head_dim, dim))
    r = waves(-distance, dim, base)
    r = r[None] if distance.ndim == 2 else r  # a dimension for the heads
    matrices = position_weight.reshape(heads, 1, 1, head_dim, dim)
    projected = np.einsum("hlsde,...hlse->...hlsd", matrices, r)
    return 1 / math.sqrt(head_dim) if scale is None else scale, r, projected


def _per_query_head(key: Array, query: Array) -> Array:
    """Repeat each key head for the query heads that share it: (..., H, S, D)."""
    return np.repeat(key, query.shape[-3] // key.shape[-3], axis=-3)
