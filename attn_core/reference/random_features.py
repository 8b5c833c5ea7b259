"""FAVOR+ in NumPy: linear attention whose features estimate the softmax."""

import numpy as np

from attn_core.reference.linear import linear_attention, linear_attention_backward
from attn_core.reference.shapes import (
    Array,
    check_flags,
    check_float_arrays,
    check_number,
    check_same_shape,
    sum_to_shape,
)


def orthogonal_projection(features: int, dim: int, *, generator: np.random.Generator) -> Array:
    r"""Draw random directions, orthogonal in blocks of dim, each normally distributed.

    .. math:: \omega_r \sim \mathcal N(0, I), \qquad \omega_r \cdot \omega_s = 0

    Args:
        features: number of rows.
        dim: their width.
        generator: of the draw. The draw is not the one of PyTorch's generators.

    Returns:
        The directions, shape (features, dim).

    Raises:
        ValueError: a size is below 1.

    Source: Choromanski et al. 2021, section 2.

    Example:
        >>> rows = orthogonal_projection(3, 2, generator=np.random.default_rng(0))
        >>> rows.shape, bool(abs(rows[0] @ rows[1]) < 1e-12)
        ((3, 2), True)
    """
    if features < 1 or dim < 1:
        raise ValueError(f"features and dim must be at least 1, got {features} and {dim}")
    blocks = []
    for _ in range(-(-features // dim)):
        directions, triangle = np.linalg.qr(generator.normal(size=(dim, dim)))
        uniform = directions * np.sign(np.diagonal(triangle))  # without the signs some are likelier
        lengths = np.linalg.norm(generator.normal(size=(dim, dim)), axis=-1, keepdims=True)
        blocks.append(lengths * uniform.T)
    return np.concatenate(blocks)[:features]


def positive_features(x: Array, projection: Array) -> Array:
    r"""Turn vectors into positive random features, whose dot product estimates an exponential.

    .. math:: \varphi(x)_r = \frac{1}{\sqrt m} \exp(\omega_r \cdot x - \lVert x \rVert^2 / 2)

    Args:
        x: vectors, shape (..., L, D).
        projection: the random directions, shape (m, D).

    Returns:
        Features, shape (..., L, m), all positive.

    Raises:
        TypeError: an argument holds no floating-point numbers, or dtypes differ.
        ValueError: projection has another shape.

    Source: Choromanski et al. 2021, lemma 1.

    Example:
        >>> positive_features(np.zeros((1, 2)), np.ones((4, 2))).tolist()
        [[0.5, 0.5, 0.5, 0.5]]
    """
    check_float_arrays(x=x, projection=projection)
    check_same_shape("projection", projection, (projection.shape[0], x.shape[-1]))
    half_square = (x**2).sum(axis=-1, keepdims=True) / 2
    features: Array = np.exp(x @ projection.T - half_square) / np.sqrt(
        np.asarray(len(projection), x.dtype)
    )
    return features


def positive_features_backward(
    grad_features: Array, x: Array, projection: Array
) -> tuple[Array, Array]:
    r"""Carry a gradient from positive random features back to vectors and directions.

    With :math:`g_r = \bar\varphi_r \, \varphi_r`:

    .. math:: \bar x = \sum_r g_r \, (\omega_r - x), \qquad \bar\omega_r = \sum_x g_r \, x

    Args:
        grad_features: gradient of the loss with respect to the features, shape (..., L, m).
        x: vectors, shape (..., L, D).
        projection: the random directions, shape (m, D).

    Returns:
        The gradients of x and projection, each with the shape of its input.

    Raises:
        TypeError: as positive_features.
        ValueError: as positive_features, or grad_features does not have the shape of the features.

    Source: The chain rule.

    Example:
        >>> grads = positive_features_backward(np.ones((1, 1)), np.zeros((1, 2)), np.ones((1, 2)))
        >>> [grad.tolist() for grad in grads]
        [[[1.0, 1.0]], [[0.0, 0.0]]]
    """
    features = positive_features(x, projection)
    check_same_shape("grad_features", grad_features, features.shape)
    grad_exponent = grad_features * features
    grad_x = grad_exponent @ projection - x * grad_exponent.sum(axis=-1, keepdims=True)
    grad_projection = np.swapaxes(grad_exponent, -1, -2) @ x
    return grad_x, sum_to_shape(grad_projection, projection.shape)


def _roots(query: Array, scale: float | None) -> tuple[float, float]:
    """Return the factors of query and key whose product is the scale."""
    if scale is None:
        if query.shape[-1] == 0:
            raise ValueError(f"query must have a width of at least 1, got query {query.shape}")
        scale = 1 / float(np.sqrt(query.shape[-1]))
    check_number("scale", scale)
    root = float(np.sqrt(abs(scale)))
    return (root if scale >= 0 else -root), root


def favor(
    query: Array,
    key: Array,
    value: Array,
    *,
    projection: Array,
    causal: bool = False,
    mask: Array | None = None,
    scale: float | None = None,
) -> Array:
    r"""Estimate attention by linear attention with positive random features.

    .. math:: o_i = \frac{\sum_j \varphi(q'_i) \cdot \varphi(k'_j) \; v_j}
                         {\sum_j \varphi(q'_i) \cdot \varphi(k'_j)}

    with :math:`q' = q / D^{1/4}` and :math:`k' = k / D^{1/4}`. The features are taken as they
    are: for vectors so long that they over- or underflow there is the twin in PyTorch.

    Args:
        query: queries, shape (..., Hq, L, D), or (L, D).
        key: keys, shape (..., Hkv, S, D), or (S, D); Hq is a multiple of Hkv.
        value: values, shape (..., Hkv, S, Dv), or (S, Dv).
        projection: the random directions, shape (m, D).
        causal: whether query i attends to keys 0 to i only; L must be S.
        mask: boolean, True = a real key; broadcasts to (..., 1, 1, S).
        scale: factor on the scores; None is 1 / sqrt(D).

    Returns:
        The output, shape (..., Hq, L, Dv).

    Raises:
        TypeError: an array holds no floating-point numbers, dtypes differ, or mask is not boolean.
        ValueError: shapes do not fit; the message names the argument.

    Source: Choromanski et al. 2021, section 2.

    Example:
        >>> words = np.eye(2)
        >>> favor(words, words, words, projection=np.eye(2)).round(4).tolist()
        [[0.5789, 0.4211], [0.4211, 0.5789]]
    """
    check_flags(causal=causal)
    check_float_arrays(query=query, key=key, value=value, projection=projection)
    query_root, key_root = _roots(query, scale)
    return linear_attention(
        query * np.asarray(query_root, query.dtype),
        key * np.asarray(key_root, key.dtype),
        value,
        feature_map=lambda x: positive_features(x, projection),
        causal=causal,
        mask=mask,
    )


def favor_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    *,
    projection: Array,
    causal: bool = False,
    mask: Array | None = None,
    scale: float | None = None,
) -> tuple[Array, Array, Array]:
    r"""Carry a gradient from the output of FAVOR+ back to queries, keys and values.

    It is that of linear attention, through the features:

    .. math:: \bar q = \frac{1}{D^{1/4}} \sum_r \bar\varphi_r \, \varphi_r \, (\omega_r - q')

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., Hq, L, Dv).
        query: as in favor.
        key: as in favor.
        value: as in favor.
        projection: as in favor; it is not learned.
        causal: as in favor.
        mask: as in favor.
        scale: as in favor.

    Returns:
        The gradients of query, key and value, each with the shape of its input.

    Raises:
        TypeError: as favor.
        ValueError: as favor, or grad_output does not have the shape of the output.

    Source: The chain rule.

    Example:
        >>> words = np.eye(2)
        >>> favor_backward(np.eye(2), words, words, words, projection=words)[2].round(4).tolist()
        [[0.5789, 0.4211], [0.4211, 0.5789]]
    """
    check_flags(causal=causal)
    check_float_arrays(query=query, key=key, value=value, projection=projection)
    query_root, key_root = _roots(query, scale)
    gradients = linear_attention_backward(
        grad_output,
        query * np.asarray(query_root, query.dtype),
        key * np.asarray(key_root, key.dtype),
        value,
        feature_map=lambda x: positive_features(x, projection),
        causal=causal,
        mask=mask,
        feature_map_backward=lambda grad, x: positive_features_backward(grad, x, projection)[0],
    )
    return gradients.query * query_root, gradients.key * key_root, gradients.value
