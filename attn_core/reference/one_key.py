"""Normalisers that give one key all the weight: the best one, or one drawn at random."""

import numpy as np

from attn_core.reference.normalizers import check_temperature, softmax, softmax_backward
from attn_core.reference.shapes import Array, check_flags, check_float_arrays


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
    return _one_hot(scores, dim)


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


def gumbel_softmax(
    scores: Array,
    dim: int = -1,
    *,
    temperature: float = 1.0,
    hard: bool = False,
    generator: np.random.Generator | None = None,
) -> Array:
    r"""Draw one key at random, softly, so that a gradient can pass.

    .. math:: a_j = \frac{e^{(s_j + g_j) / T}}{\sum_k e^{(s_k + g_k) / T}},
              \qquad g_j = -\log(-\log u_j), \quad u_j \sim U(0, 1)

    Args:
        scores: scores of any shape; minus infinity means "not this one".
        dim: the dimension along which the weights add up to 1.
        temperature: T, above 0: the lower, the closer the weights are to a single 1.
        hard: whether the drawn key gets the weight 1 and the others 0.
        generator: where the random numbers come from; by default a new one.

    Returns:
        Weights of the same shape; zeros where all scores along dim are minus infinity.

    Raises:
        TypeError: scores is no floating-point array, or temperature no number.
        ValueError: temperature is not above 0.

    Source: Jang, Gu and Poole 2017, equation 2; Maddison, Mnih and Teh 2017.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> gumbel_softmax(np.array([0.0, 1.0, 2.0]), hard=True, generator=generator).tolist()
        [0.0, 0.0, 1.0]
    """
    check_flags(hard=hard)
    noisy = _with_noise(scores, temperature, generator)
    return _one_hot(noisy, dim) if hard else softmax(noisy, dim, temperature=temperature)


def gumbel_softmax_backward(
    grad_weights: Array,
    scores: Array,
    dim: int = -1,
    *,
    temperature: float = 1.0,
    hard: bool = False,
    generator: np.random.Generator | None = None,
) -> Array:
    r"""Carry a gradient from the drawn weights back to the scores.

    The noise is a constant, so it is the softmax's gradient at the noisy scores. With hard weights
    it is the straight-through estimate, which is biased.

    .. math:: \bar s_j = \frac{a_j}{T} \Bigl( \bar a_j - \sum_k a_k \bar a_k \Bigr)

    Args:
        grad_weights: gradient of the loss with respect to the weights, shape of scores.
        scores: scores of any shape.
        dim: as in :func:`gumbel_softmax`.
        temperature: as in :func:`gumbel_softmax`.
        hard: as in :func:`gumbel_softmax`; the gradient does not depend on it.
        generator: one that draws the same noise as forward: with the same seed, anew.

    Returns:
        The gradient of scores, same shape.

    Raises:
        TypeError: as :func:`gumbel_softmax`.
        ValueError: as :func:`gumbel_softmax`, or grad_weights does not have the shape of scores.

    Source: Jang, Gu and Poole 2017, section 2.2.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> grad_weights, scores = np.array([1.0, 0.0]), np.zeros(2)
        >>> gradient = gumbel_softmax_backward(grad_weights, scores, generator=generator)
        >>> bool(np.isclose(gradient[0], -gradient[1]))
        True
    """
    check_flags(hard=hard)
    noisy = _with_noise(scores, temperature, generator)
    return softmax_backward(grad_weights, noisy, dim, temperature=temperature)


def _with_noise(scores: Array, temperature: float, generator: np.random.Generator | None) -> Array:
    check_float_arrays(min_dims=1, scores=scores)
    check_temperature(temperature)
    generator = np.random.default_rng() if generator is None else generator
    noisy: Array = scores + generator.gumbel(size=scores.shape).astype(scores.dtype)
    return noisy


def _one_hot(scores: Array, dim: int) -> Array:
    """Weight 1 for the largest score, the first of them in a tie."""
    if scores.shape[dim] == 0:
        return scores.copy()
    winner = np.expand_dims(scores.argmax(axis=dim), dim)
    weights = np.zeros_like(scores)
    np.put_along_axis(weights, winner, 1, axis=dim)
    return np.where(scores == -np.inf, 0, weights).astype(scores.dtype)
