"""Normalisers: from scores to weights. Step two of attention, and its derivatives.

Every one of them gives weights that are at least 0, and gives zeros where all scores along ``dim``
are minus infinity: there is nothing to attend to. Weights add up to 1 along ``dim``; those of
:func:`softmax_with_sink` to less, those of :func:`sigmoid` to any number.
"""

import numpy as np

from attn_core.reference.shapes import (
    Array,
    check_float_arrays,
    check_number,
    check_same_shape,
    sum_to_shape,
)


def check_temperature(temperature: float) -> None:
    """Raise an error unless the temperature is above 0."""
    check_number("temperature", temperature)
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")


def check_one_per_row(name: str, numbers: Array, scores: Array, dim: int) -> None:
    """Raise an error that names the argument unless it holds one number for each row of scores."""
    check_float_arrays(min_dims=0, scores=scores, **{name: numbers})
    rows = list(scores.shape)
    rows[dim] = 1
    try:
        fits = np.broadcast_shapes(numbers.shape, rows) == tuple(rows)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must broadcast to one number for each row, {tuple(rows)}, got {numbers.shape}"
        )


def subtract_maximum(scores: Array, dim: int) -> Array:
    """Shift the scores so that the largest is 0, which changes no weight and avoids overflow."""
    maximum = scores.max(axis=dim, keepdims=True, initial=-np.inf)
    return scores - np.where(maximum == -np.inf, np.zeros_like(maximum), maximum)


def softmax(scores: Array, dim: int = -1, *, temperature: float = 1.0) -> Array:
    r"""Turn scores into positive weights that add up to 1.

    .. math:: a_j = \frac{e^{s_j / T}}{\sum_k e^{s_k / T}}

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension along which the weights add up to 1.
        temperature: T, above 0: the higher, the more alike the weights.

    Returns:
        Weights of the same shape; zeros where all scores along dim are minus infinity.

    Raises:
        TypeError: scores is no floating-point array, or temperature no number.
        ValueError: temperature is not above 0.

    Source: D0 section 4.1; Bridle 1990; Hinton, Vinyals and Dean 2015 for the temperature.

    Example:
        >>> softmax(np.log(np.array([1.0, 2.0, 1.0]))).round(4).tolist()
        [0.25, 0.5, 0.25]
    """
    check_float_arrays(min_dims=1, scores=scores)
    check_temperature(temperature)
    shifted = subtract_maximum(scores, dim)
    if temperature != 1:
        shifted = shifted / temperature
    weights: Array = np.exp(shifted, out=shifted)
    total = weights.sum(axis=dim, keepdims=True)
    weights /= np.where(total == 0, np.ones_like(total), total)
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


def softmax_backward(
    grad_weights: Array, scores: Array, dim: int = -1, *, temperature: float = 1.0
) -> Array:
    r"""Carry a gradient from the weights of the softmax back to the scores.

    The product with the Jacobian, without ever building it:

    .. math:: \bar s_j = \frac{a_j}{T} \Bigl( \bar a_j - \sum_k a_k \bar a_k \Bigr)

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: the dimension along which the weights add up to 1.
        temperature: T, as in :func:`softmax`.

    Returns:
        The gradient of scores, same shape.

    Raises:
        TypeError: as :func:`softmax`.
        ValueError: as :func:`softmax`, or grad_weights does not have the shape of scores.

    Source: The math chapter, "the softmax's Jacobian".

    Example:
        >>> softmax_backward(np.array([1.0, 0.0]), np.zeros(2)).tolist()
        [0.25, -0.25]
    """
    weights = softmax(scores, dim, temperature=temperature)
    check_same_shape("grad_weights", grad_weights, scores.shape)
    average = (weights * grad_weights).sum(axis=dim, keepdims=True)
    gradient: Array = weights * (grad_weights - average) / temperature
    return gradient


def softmax_with_sink(scores: Array, dim: int = -1, *, sink: float | Array = 0.0) -> Array:
    r"""Turn scores into weights that add up to less than 1: a key without a value takes the rest.

    .. math:: a_j = \frac{e^{s_j}}{e^b + \sum_k e^{s_k}}

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension along which the weights and the sink add up to 1.
        sink: b, the score of that key: a number, or an array with one for each row, which
            broadcasts to scores with size 1 along dim; 0 makes the softmax "off by one".

    Returns:
        Weights of the same shape; zeros where all scores along dim are minus infinity.

    Raises:
        TypeError: scores is no floating-point array, or sink neither a number nor such an array.
        ValueError: sink does not broadcast, or is not finite.

    Source: Miller 2023; OpenAI 2025.

    Example:
        >>> softmax_with_sink(np.log(np.array([2.0, 1.0]))).round(4).tolist()
        [0.5, 0.25]
    """
    check_float_arrays(min_dims=1, scores=scores)
    if isinstance(sink, np.ndarray):
        check_one_per_row("sink", sink, scores, dim)
    else:
        check_number("sink", sink)
    highest = np.maximum(scores.max(axis=dim, keepdims=True, initial=-np.inf), sink)
    exponentials = np.exp(scores - highest)
    total = np.exp(sink - highest) + exponentials.sum(axis=dim, keepdims=True)
    weights: Array = exponentials / total
    return weights.astype(scores.dtype)


def softmax_with_sink_backward(
    grad_weights: Array, scores: Array, dim: int = -1, *, sink: float | Array = 0.0
) -> Array | tuple[Array, Array]:
    r"""Carry a gradient from the weights back to the scores, and to the sink.

    The sink has the weight :math:`a_b = 1 - \sum_k a_k`, with which nothing is done: its gradient
    is 0.

    .. math:: \bar s_j = a_j \Bigl( \bar a_j - \sum_k a_k \bar a_k \Bigr),
              \qquad \bar b = - a_b \sum_k a_k \bar a_k

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: as in :func:`softmax_with_sink`.
        sink: as in :func:`softmax_with_sink`.

    Returns:
        The gradient of scores, same shape; if sink is an array, also the gradient of sink, of its
        shape.

    Raises:
        TypeError: as :func:`softmax_with_sink`.
        ValueError: as :func:`softmax_with_sink`, or grad_weights does not have the shape of scores.

    Source: The softmax's Jacobian, with one more column.

    Example:
        >>> scores, sink = np.zeros(2), np.log(np.array([2.0]))
        >>> softmax_with_sink_backward(np.array([1.0, 0.0]), scores, sink=sink)
        (array([ 0.1875, -0.0625]), array([-0.125]))
    """
    weights = softmax_with_sink(scores, dim, sink=sink)
    check_same_shape("grad_weights", grad_weights, scores.shape)
    average = (weights * grad_weights).sum(axis=dim, keepdims=True)
    grad_scores: Array = weights * (grad_weights - average)
    if not isinstance(sink, np.ndarray):
        return grad_scores
    sink_weight = 1 - weights.sum(axis=dim, keepdims=True)
    return grad_scores, sum_to_shape(-sink_weight * average, sink.shape)


def sigmoid(scores: Array, dim: int = -1, *, bias: float | None = 0.0) -> Array:
    r"""Weigh each key by itself: no key takes weight from another.

    .. math:: a_j = \frac{1}{1 + e^{-(s_j + b)}}

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension of the keys.
        bias: b, a number; None for :math:`-\log n`, where n scores along dim are above minus
            infinity.

    Returns:
        Weights between 0 and 1, of the same shape; zeros where scores are minus infinity.

    Raises:
        TypeError: scores is no floating-point array, or bias no number.
        ValueError: bias is not finite.

    Source: Ramapuram et al. 2025.

    Example:
        >>> sigmoid(np.array([0.0, 0.0, -np.inf]), bias=None).round(4).tolist()
        [0.3333, 0.3333, 0.0]
    """
    check_float_arrays(min_dims=1, scores=scores)
    if bias is None:
        count = (scores > -np.inf).sum(axis=dim, keepdims=True)
        shifted = scores - np.log(np.maximum(count, 1)).astype(scores.dtype)
    else:
        check_number("bias", bias)
        shifted = scores + bias
    # Neither exponential overflows: the first form is for positive numbers, the other for the rest.
    small = np.exp(-np.abs(shifted))
    weights: Array = np.where(shifted >= 0, 1 / (1 + small), small / (1 + small))
    return weights


def sigmoid_backward(
    grad_weights: Array, scores: Array, dim: int = -1, *, bias: float | None = 0.0
) -> Array:
    r"""Carry a gradient from the weights of the sigmoid back to the scores.

    .. math:: \bar s_j = a_j (1 - a_j) \, \bar a_j

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: the dimension of the keys.
        bias: as in :func:`sigmoid`.

    Returns:
        The gradient of scores, same shape.

    Raises:
        TypeError: as :func:`sigmoid`.
        ValueError: as :func:`sigmoid`, or grad_weights does not have the shape of scores.

    Source: The derivative of the logistic function.

    Example:
        >>> sigmoid_backward(np.array([1.0, 2.0]), np.zeros(2)).tolist()
        [0.25, 0.5]
    """
    weights = sigmoid(scores, dim, bias=bias)
    check_same_shape("grad_weights", grad_weights, scores.shape)
    gradient: Array = weights * (1 - weights) * grad_weights
    return gradient
