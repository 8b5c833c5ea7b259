"""Sparse normalisers: weights that add up to 1 and of which many are exactly 0."""

from typing import TypeAlias

import numpy as np

from attn_core.reference.normalizers import (
    check_one_per_row,
    softmax,
    subtract_maximum,
)
from attn_core.reference.shapes import (
    Array,
    check_float_arrays,
    check_number,
    check_same_shape,
    sum_to_shape,
)

Alpha: TypeAlias = float | Array


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
    shifted = np.moveaxis(subtract_maximum(scores, dim), dim, -1)
    descending, count = _descending(shifted), _count(shifted)
    sums = np.cumsum(_finite(descending), axis=-1)
    # The threshold if the first one, two, three, ... scores were the ones above it.
    thresholds = (sums - 1) / count
    threshold = _last_below(thresholds, descending)
    weights: Array = np.maximum(shifted - threshold, 0)
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


def entmax15(scores: Array, dim: int = -1) -> Array:
    r"""Turn scores into weights half-way between softmax and sparsemax.

    .. math:: a_j = \max(s_j / 2 - \tau, 0)^2, \qquad \tau \text{ such that } \sum_j a_j = 1

    If the largest k scores are the ones above the threshold, and :math:`\mu` and :math:`\sigma^2`
    are the mean and the variance of their halves, then :math:`k \sigma^2 + k (\mu - \tau)^2 = 1`,
    so :math:`\tau = \mu - \sqrt{1/k - \sigma^2}`.

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension along which the weights add up to 1.

    Returns:
        Weights of the same shape; zeros where all scores along dim are minus infinity.

    Raises:
        TypeError: scores is no floating-point array.

    Source: Peters, Niculae and Martins 2019, algorithm 2.

    Example:
        >>> entmax15(np.array([2.0, 2.0, 0.0])).round(4).tolist()
        [0.5, 0.5, 0.0]
    """
    check_float_arrays(min_dims=1, scores=scores)
    if scores.shape[dim] == 0:
        return scores.copy()
    halves = np.moveaxis(subtract_maximum(scores, dim), dim, -1) / 2
    descending, count = _descending(halves), _count(halves)
    mean = np.cumsum(_finite(descending), axis=-1) / count
    variance = np.cumsum(_finite(descending) ** 2, axis=-1) / count - mean**2
    thresholds = mean - np.sqrt(np.maximum(1 / count - variance, 0))
    threshold = _last_below(thresholds, descending)
    weights: Array = np.maximum(halves - threshold, 0) ** 2
    return np.moveaxis(weights, -1, dim)


def entmax15_backward(grad_weights: Array, scores: Array, dim: int = -1) -> Array:
    r"""Carry a gradient from the weights of 1.5-entmax back to the scores.

    .. math:: \bar s_j = q_j \Bigl(\bar a_j - \frac{\sum_k q_k \bar a_k}{\sum_k q_k}\Bigr),
              \qquad q_j = \sqrt{a_j}

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: the dimension along which the weights add up to 1.

    Returns:
        The gradient of scores, same shape.

    Raises:
        TypeError: scores is no floating-point array.
        ValueError: grad_weights does not have the shape of scores.

    Source: Peters, Niculae and Martins 2019, section 3.

    Example:
        >>> entmax15_backward(np.array([1.0, 0.0, 5.0]), np.array([2.0, 2.0, -1.0])).round(4)
        array([ 0.3536, -0.3536,  0.    ])
    """
    weights = entmax15(scores, dim)
    check_same_shape("grad_weights", grad_weights, scores.shape)
    return _times_jacobian(grad_weights, np.sqrt(weights), dim)


def entmax(scores: Array, dim: int = -1, *, alpha: Alpha = 1.5) -> Array:
    r"""Turn scores into weights that are the sparser, the higher alpha.

    .. math:: a_j = \max\bigl((\alpha - 1) s_j - \tau, 0\bigr)^{1/(\alpha - 1)},
              \qquad \tau \text{ such that } \sum_j a_j = 1

    Softmax, 1.5-entmax and sparsemax, alpha 1, 1.5 and 2, have a threshold in closed form; for any
    other alpha it is found by bisection.

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension along which the weights add up to 1.
        alpha: at least 1; a number, or an array with one for each row, which broadcasts to scores
            with size 1 along dim.

    Returns:
        Weights of the same shape; zeros where all scores along dim are minus infinity.

    Raises:
        TypeError: scores is no floating-point array, or alpha neither a number nor such an array.
        ValueError: alpha is below 1, not finite or does not broadcast.

    Source: Peters, Niculae and Martins 2019, section 3.

    Example:
        >>> entmax(np.array([2.0, 1.0, 0.0]), alpha=1.3).round(4).tolist()
        [0.7688, 0.2078, 0.0234]
    """
    if isinstance(alpha, np.ndarray):
        return entmax_bisect(scores, dim, alpha=alpha)
    check_number("alpha", alpha)
    if alpha == 1:
        return softmax(scores, dim)
    closed = {1.5: entmax15, 2: sparsemax}
    if alpha in closed:
        return closed[alpha](scores, dim)
    return entmax_bisect(scores, dim, alpha=alpha)


def entmax_bisect(scores: Array, dim: int = -1, *, alpha: Alpha = 1.5, steps: int = 60) -> Array:
    r"""Find the threshold of :func:`entmax` by halving the interval in which it lies.

    At its lower end the largest weight is 1, so that they add up to at least 1. At its upper end
    the largest of the n weights is 1/n, so that they add up to at most 1.

    .. math:: \tau \in \Bigl[ (\alpha - 1) \max_j s_j - 1, \;
              (\alpha - 1) \max_j s_j - n^{1 - \alpha} \Bigr]

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension along which the weights add up to 1.
        alpha: at least 1, as in :func:`entmax`.
        steps: how often the interval is halved.

    Returns:
        Weights of the same shape; zeros where all scores along dim are minus infinity.

    Raises:
        TypeError: as :func:`entmax`, or steps is no integer.
        ValueError: as :func:`entmax`, or steps is below 1.

    Source: Peters, Niculae and Martins 2019, algorithm 1.

    Example:
        >>> entmax_bisect(np.array([2.0, 1.0, 0.0]), alpha=1.3).round(4).tolist()
        [0.7688, 0.2078, 0.0234]
    """
    check_float_arrays(min_dims=1, scores=scores)
    _check_alpha(alpha, scores, dim)
    if not isinstance(steps, int) or isinstance(steps, bool):
        raise TypeError(f"steps must be an integer, got {steps!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if scores.shape[dim] == 0:
        return scores.copy()
    slope = np.asarray(alpha - 1, dtype=scores.dtype)
    slope = np.maximum(slope, np.finfo(scores.dtype).eps)  # the limit of alpha = 1, softmax
    shifted = subtract_maximum(scores, dim)
    keys = scores.shape[dim]
    # λ = (τ + 1) / (α − 1), because τ itself is lost in rounding when α is close to 1.
    low = np.zeros_like(shifted.max(axis=dim, keepdims=True))
    width = (1 - np.exp(-slope * np.log(keys))) / slope + low
    for _ in range(steps):
        width = width / 2
        total = _power(slope * (shifted - low - width), slope).sum(axis=dim, keepdims=True)
        low = np.where(total >= 1, low + width, low)
    weights = _power(slope * (shifted - low), slope)
    total = weights.sum(axis=dim, keepdims=True)
    normalised: Array = weights / np.where(total == 0, 1, total)
    return normalised


def entmax_backward(
    grad_weights: Array, scores: Array, dim: int = -1, *, alpha: Alpha = 1.5
) -> Array | tuple[Array, Array]:
    r"""Carry a gradient from the weights of entmax back to the scores, and to alpha.

    On the support, the entries whose weight is above 0, :math:`q_j = a_j^{2 - \alpha}`; elsewhere
    :math:`q_j = 0`.

    .. math:: \bar s_j = q_j \Bigl(\bar a_j - \frac{\sum_k q_k \bar a_k}{\sum_k q_k}\Bigr),
              \qquad
              \bar \alpha = - \sum_j \bar s_j \,
              \frac{\partial}{\partial \alpha} \frac{a_j^{\alpha - 1} - 1}{\alpha - 1}

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: the dimension along which the weights add up to 1.
        alpha: as in :func:`entmax`.

    Returns:
        The gradient of scores, same shape; if alpha is an array, also the gradient of alpha, of
        its shape.

    Raises:
        TypeError: as :func:`entmax`.
        ValueError: as :func:`entmax`, or grad_weights does not have the shape of scores.

    Source: Correia, Niculae and Martins 2019, proposition 1.

    Example:
        >>> entmax_backward(np.array([1.0, 0.0, 5.0]), np.array([1.0, 0.5, -1.0]), alpha=2)
        array([ 0.5, -0.5,  0. ])
    """
    weights = entmax(scores, dim, alpha=alpha)
    check_same_shape("grad_weights", grad_weights, scores.shape)
    return _entmax_backward(grad_weights, weights, dim, alpha)


def entmax_bisect_backward(
    grad_weights: Array, scores: Array, dim: int = -1, *, alpha: Alpha = 1.5, steps: int = 60
) -> Array | tuple[Array, Array]:
    r"""Carry a gradient back through :func:`entmax_bisect`, which is that of :func:`entmax`.

    .. math:: \bar s_j = q_j \Bigl(\bar a_j - \frac{\sum_k q_k \bar a_k}{\sum_k q_k}\Bigr),
              \qquad q_j = a_j^{2 - \alpha}

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: the dimension along which the weights add up to 1.
        alpha: as in :func:`entmax`.
        steps: as in :func:`entmax_bisect`; the derivative does not depend on it.

    Returns:
        As :func:`entmax_backward`.

    Raises:
        TypeError: as :func:`entmax_bisect`.
        ValueError: as :func:`entmax_bisect`, or grad_weights does not have the shape of scores.

    Source: Correia, Niculae and Martins 2019, proposition 1.

    Example:
        >>> entmax_bisect_backward(np.array([1.0, 0.0]), np.array([1.0, 0.5]), alpha=2.0)
        array([ 0.5, -0.5])
    """
    weights = entmax_bisect(scores, dim, alpha=alpha, steps=steps)
    check_same_shape("grad_weights", grad_weights, scores.shape)
    return _entmax_backward(grad_weights, weights, dim, alpha)


def _entmax_backward(
    grad_weights: Array, weights: Array, dim: int, alpha: Alpha
) -> Array | tuple[Array, Array]:
    support = weights > 0
    q = np.where(support, np.where(support, weights, 1) ** (2 - alpha), 0)
    grad_scores = _times_jacobian(grad_weights, q, dim)
    if not isinstance(alpha, np.ndarray):
        return grad_scores
    grad_alpha = -(grad_scores * _logarithm_by_alpha(weights, alpha)).sum(axis=dim, keepdims=True)
    return grad_scores, sum_to_shape(grad_alpha, alpha.shape)


def _check_alpha(alpha: Alpha, scores: Array, dim: int) -> None:
    if isinstance(alpha, np.ndarray):
        check_one_per_row("alpha", alpha, scores, dim)
    else:
        check_number("alpha", alpha)
    if not np.all(np.asarray(alpha) >= 1):
        raise ValueError(f"alpha must be at least 1, got {np.min(alpha)}")


def _descending(rows: Array) -> Array:
    descending: Array = -np.sort(-rows, axis=-1)
    return descending


def _finite(descending: Array) -> Array:
    """Minus infinity is never among the weights above 0, and as a number it would spoil sums."""
    return np.where(descending == -np.inf, 0, descending)


def _count(rows: Array) -> Array:
    return np.arange(1, rows.shape[-1] + 1, dtype=rows.dtype)


def _last_below(thresholds: Array, descending: Array) -> Array:
    """Of the thresholds for the first 1, 2, 3, ... scores, the last that its score is above."""
    support = (descending > thresholds).sum(axis=-1, keepdims=True)
    return np.take_along_axis(thresholds, np.maximum(support - 1, 0), axis=-1)


def _power(x: Array, slope: Array) -> Array:
    """max(1 + x, 0) ** (1 / slope), without a loss of digits when both are small."""
    inside = x > -1
    power = np.exp(np.log1p(np.where(inside, x, 0)) / slope)
    return np.where(inside, power, 0).astype(x.dtype)


def _times_jacobian(grad_weights: Array, q: Array, dim: int) -> Array:
    total = q.sum(axis=dim, keepdims=True)
    average = (q * grad_weights).sum(axis=dim, keepdims=True) / np.where(total == 0, 1, total)
    gradient: Array = q * (grad_weights - average)
    return gradient


def _logarithm_by_alpha(weights: Array, alpha: Array) -> Array:
    """Return the derivative of (a ** (α − 1) − 1) / (α − 1) by α; at α = 1, log²a / 2."""
    log_weights = np.log(np.where(weights > 0, weights, 1))
    slope = np.asarray(alpha - 1) + np.zeros_like(log_weights)
    t = slope * log_weights
    series = 0.5 + t / 3 + t**2 / 8 + t**3 / 30 + t**4 / 144 + t**5 / 840 + t**6 / 5760
    far = np.where(np.abs(t) < 0.01, 1, t)
    quotient = (far * np.exp(far) - np.expm1(far)) / far**2
    derivative: Array = log_weights**2 * np.where(np.abs(t) < 0.01, series, quotient)
    return derivative
