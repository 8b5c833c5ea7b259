"""Normalisers: from scores to weights. Step two of attention, and its derivatives.

Every one of them gives weights that are at least 0 and add up to 1 along ``dim``, and gives zeros
where all scores along ``dim`` are minus infinity: there is nothing to attend to.
"""

import numpy as np

from attn_core.reference.shapes import Array, check_float_arrays, check_same_shape


def _subtract_maximum(scores: Array, dim: int) -> Array:
    """Shift the scores so that the largest is 0, which changes no weight and avoids overflow."""
    maximum = scores.max(axis=dim, keepdims=True, initial=-np.inf)
    return scores - np.where(maximum == -np.inf, np.zeros_like(maximum), maximum)


def softmax(scores: Array, dim: int = -1) -> Array:
    r"""Turn scores into positive weights that add up to 1.

    .. math:: a_j = \frac{e^{s_j}}{\sum_k e^{s_k}}

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension along which the weights add up to 1.

    Returns:
        Weights of the same shape; zeros where all scores along dim are minus infinity.

    Raises:
        TypeError: scores is no floating-point array.

    Source: D0 section 4.1; Bridle 1990.

    Example:
        >>> softmax(np.log(np.array([1.0, 2.0, 1.0]))).round(4).tolist()
        [0.25, 0.5, 0.25]
    """
    check_float_arrays(min_dims=1, scores=scores)
    exponentials = np.exp(_subtract_maximum(scores, dim))
    total = exponentials.sum(axis=dim, keepdims=True)
    weights: Array = exponentials / np.where(total == 0, np.ones_like(total), total)
    return weights


def softmax_jacobian(scores: Array) -> Array:
    r"""Return all the derivatives of the softmax: how each weight moves with each score.

    .. math:: \frac{\partial a_i}{\partial s_j} = a_i (\delta_{ij} - a_j),
              \qquad J = \operatorname{diag}(a) - a a^\top

    Args:
        scores: scores, shape (..., n); the softmax runs over the last dimension.

    Returns:
        The Jacobian, shape (..., n, n): rows are weights, columns are scores.

    Raises:
        TypeError: scores is no floating-point array.

    Source: The math chapter, "the softmax's Jacobian".

    Example:
        >>> softmax_jacobian(np.zeros(2)).tolist()
        [[0.25, -0.25], [-0.25, 0.25]]
    """
    weights = softmax(scores)
    identity = np.eye(weights.shape[-1], dtype=weights.dtype)
    jacobian: Array = weights[..., :, None] * (identity - weights[..., None, :])
    return jacobian


def softmax_backward(grad_weights: Array, scores: Array, dim: int = -1) -> Array:
    r"""Carry a gradient from the weights of the softmax back to the scores.

    The product with the Jacobian, without ever building it:

    .. math:: \bar s_j = a_j \Bigl( \bar a_j - \sum_k a_k \bar a_k \Bigr)

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: the dimension along which the weights add up to 1.

    Returns:
        The gradient of scores, same shape.

    Raises:
        TypeError: scores is no floating-point array.
        ValueError: grad_weights does not have the shape of scores.

    Source: The math chapter, "the softmax's Jacobian".

    Example:
        >>> softmax_backward(np.array([1.0, 0.0]), np.zeros(2)).tolist()
        [0.25, -0.25]
    """
    weights = softmax(scores, dim)
    check_same_shape("grad_weights", grad_weights, scores.shape)
    average = (weights * grad_weights).sum(axis=dim, keepdims=True)
    gradient: Array = weights * (grad_weights - average)
    return gradient


def sparsemax(scores: Array, dim: int = -1) -> Array:
    r"""Turn scores into weights that add up to 1, most of them exactly 0.

    The Euclidean projection of the scores onto the probability simplex:

    .. math:: a_j = \max(s_j - \tau, 0), \qquad \tau \text{ such that } \sum_j a_j = 1

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension along which the weights add up to 1.

    Returns:
        Weights of the same shape; zeros where all scores along dim are minus infinity.

    Raises:
        TypeError: scores is no floating-point array.

    Source: Martins and Astudillo 2016, algorithm 1.

    Example:
        >>> sparsemax(np.array([1.0, 0.5, -1.0])).tolist()
        [0.75, 0.25, 0.0]
    """
    check_float_arrays(min_dims=1, scores=scores)
    if scores.shape[dim] == 0:
        return scores.copy()
    shifted = np.moveaxis(_subtract_maximum(scores, dim), dim, -1)
    descending = -np.sort(-shifted, axis=-1)
    # Minus infinity is never among the weights above 0, and as a number it would spoil the sums.
    sums = np.cumsum(np.where(descending == -np.inf, 0, descending), axis=-1)
    count = np.arange(1, shifted.shape[-1] + 1, dtype=scores.dtype)
    support = (1 + count * descending > sums).sum(axis=-1, keepdims=True)
    last = np.maximum(support - 1, 0)
    threshold = (np.take_along_axis(sums, last, axis=-1) - 1) / np.maximum(support, 1)
    weights: Array = np.maximum(shifted - threshold.astype(scores.dtype), 0)
    return np.moveaxis(weights, -1, dim)


def sparsemax_backward(grad_weights: Array, scores: Array, dim: int = -1) -> Array:
    r"""Carry a gradient from the weights of sparsemax back to the scores.

    With the support :math:`T`, the entries whose weight is above 0:

    .. math:: \bar s_j = \begin{cases} \bar a_j - \frac{1}{|T|} \sum_{k \in T} \bar a_k
              & j \in T \\ 0 & \text{otherwise} \end{cases}

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: the dimension along which the weights add up to 1.

    Returns:
        The gradient of scores, same shape.

    Raises:
        TypeError: scores is no floating-point array.
        ValueError: grad_weights does not have the shape of scores.

    Source: Martins and Astudillo 2016, section 2.5.

    Example:
        >>> sparsemax_backward(np.array([1.0, 0.0, 5.0]), np.array([1.0, 0.5, -1.0])).tolist()
        [0.5, -0.5, 0.0]
    """
    support = sparsemax(scores, dim) > 0
    check_same_shape("grad_weights", grad_weights, scores.shape)
    inside = np.where(support, grad_weights, 0)
    size = np.maximum(support.sum(axis=dim, keepdims=True), 1).astype(scores.dtype)
    gradient: Array = np.where(support, inside - inside.sum(axis=dim, keepdims=True) / size, 0)
    return gradient


def hard(scores: Array, dim: int = -1) -> Array:
    r"""Give all the weight to the largest score; to the first of them in a tie.

    .. math:: a_j = [\, j = \arg\max_k s_k \,]

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension along which the weights add up to 1.

    Returns:
        Weights 0 and 1 of the same shape; zeros where all scores along dim are minus infinity.

    Raises:
        TypeError: scores is no floating-point array.

    Source: D2 section 2.2, "hard attention".

    Example:
        >>> hard(np.array([0.0, 3.0, 3.0])).tolist()
        [0.0, 1.0, 0.0]
    """
    check_float_arrays(min_dims=1, scores=scores)
    if scores.shape[dim] == 0:
        return scores.copy()
    winner = np.expand_dims(scores.argmax(axis=dim), dim)
    weights = np.zeros_like(scores)
    np.put_along_axis(weights, winner, 1, axis=dim)
    return np.where(scores == -np.inf, 0, weights).astype(scores.dtype)


def hard_backward(grad_weights: Array, scores: Array, dim: int = -1) -> Array:
    r"""Carry a gradient back through hard weights as if they had been the softmax's.

    The arg max is flat almost everywhere: its own gradient is 0 and teaches nothing. This is the
    straight-through estimate, which is biased.

    .. math:: \bar s_j = p_j \Bigl( \bar a_j - \sum_k p_k \bar a_k \Bigr),
              \qquad p = \operatorname{softmax}(s)

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: the dimension along which the weights add up to 1.

    Returns:
        The estimated gradient of scores, same shape.

    Raises:
        TypeError: scores is no floating-point array.
        ValueError: grad_weights does not have the shape of scores.

    Source: Bengio et al. 2013, the straight-through estimator.

    Example:
        >>> hard_backward(np.array([1.0, 0.0]), np.zeros(2)).tolist()
        [0.25, -0.25]
    """
    return softmax_backward(grad_weights, scores, dim)
