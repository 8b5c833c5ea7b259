"""Copying from the source: the mixture of a pointer-generator, and its coverage."""

import numpy as np

from attn_core.reference.shapes import (
    Array,
    check_float_arrays,
    check_integer_array,
    check_same_shape,
)


def _check_mixture(
    generate: Array, weights: Array, p_generate: Array, source: Array, size: int
) -> None:
    check_float_arrays(generate=generate, weights=weights)
    check_float_arrays(min_dims=0, generate=generate, p_generate=p_generate)
    steps, length = weights.shape[:-1], weights.shape[-1]
    check_same_shape("generate", generate, (*steps, generate.shape[-1]))
    check_same_shape("p_generate", p_generate, steps)
    check_integer_array("source", source)
    check_same_shape("source", source, (*steps[:-1], length))
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"size must be an integer, got {size!r}")
    if size < generate.shape[-1]:
        raise ValueError(f"size must be at least {generate.shape[-1]}, got {size}")
    if source.size and not 0 <= source.min() <= source.max() < size:
        raise ValueError(
            f"source must hold numbers from 0 to {size - 1}, got {source.min()} to {source.max()}"
        )


def _is_word(source: Array, size: int) -> Array:
    """Say which place of the source holds which word: 0 or 1, shape (..., S, size)."""
    return source[..., :, None] == np.arange(size)


def pointer_mixture(
    generate: Array, weights: Array, p_generate: Array, source: Array, size: int
) -> Array:
    r"""Mix the words that a decoder would write with those that its attention would copy.

    .. math:: P_t(w) = p_t \, P^{\text{vocab}}_t(w) + (1 - p_t) \sum_{j : x_j = w} a_{tj}

    Args:
        generate: probabilities over the V words of the vocabulary, shape (..., T, V).
        weights: attention weights a over the source, shape (..., T, S).
        p_generate: the share p of what is generated, shape (..., T).
        source: the words x of the source, integers, shape (..., S); V and above are words that the
            vocabulary lacks.
        size: number of words in the mixture, at least V.

    Returns:
        Probabilities, shape (..., T, size).

    Raises:
        TypeError: source holds no integers, or another array no floating-point numbers.
        ValueError: shapes do not fit, or source holds a number outside the mixture.

    Source: See, Liu and Manning (2017), equation 9.

    Example:
        >>> weights, source = np.array([[0.2, 0.3, 0.5]]), np.array([1, 2, 1])
        >>> pointer_mixture(np.array([[0.5, 0.5]]), weights, np.array([0.5]), source, 3)
        array([[0.25, 0.6 , 0.15]])
    """
    _check_mixture(generate, weights, p_generate, source, size)
    generated = np.zeros((*weights.shape[:-1], size), dtype=generate.dtype)
    generated[..., : generate.shape[-1]] = generate
    copied = weights @ _is_word(source, size).astype(weights.dtype)
    share = p_generate[..., None]
    mixture: Array = share * generated + (1 - share) * copied
    return mixture


def pointer_mixture_backward(
    grad_mixture: Array,
    generate: Array,
    weights: Array,
    p_generate: Array,
    source: Array,
    size: int,
) -> tuple[Array, Array, Array]:
    r"""Carry a gradient from the mixture back to what it was mixed from.

    .. math:: \bar P^{\text{vocab}}_t(w) = p_t \bar P_t(w), \qquad
              \bar a_{tj} = (1 - p_t) \bar P_t(x_j), \qquad
              \bar p_t = \sum_w \bar P_t(w) P^{\text{vocab}}_t(w) - \sum_j \bar P_t(x_j) a_{tj}

    Args:
        grad_mixture: gradient of the loss with respect to the mixture, shape (..., T, size).
        generate: as in pointer_mixture.
        weights: as there.
        p_generate: as there.
        source: as there.
        size: as there.

    Returns:
        The gradients of generate, weights and p_generate, each with the shape of its input.

    Raises:
        TypeError: as pointer_mixture.
        ValueError: as pointer_mixture, or grad_mixture does not have the shape of the mixture.

    Source: The product rule.

    Example:
        >>> grads = pointer_mixture_backward(
        ...     np.array([[1.0, 2.0, 4.0]]), np.array([[0.5, 0.5]]),
        ...     np.array([[0.2, 0.3, 0.5]]), np.array([0.5]), np.array([1, 2, 1]), 3)
        >>> [grad.round(4).tolist() for grad in grads]
        [[[0.5, 1.0]], [[1.0, 2.0, 1.0]], [-1.1]]
    """
    _check_mixture(generate, weights, p_generate, source, size)
    check_same_shape("grad_mixture", grad_mixture, (*weights.shape[:-1], size))
    is_word = _is_word(source, size).astype(weights.dtype)
    grad_at_source = grad_mixture @ np.swapaxes(is_word, -1, -2)
    grad_generated = grad_mixture[..., : generate.shape[-1]]
    share = p_generate[..., None]
    grad_p = (grad_generated * generate).sum(axis=-1) - (grad_at_source * weights).sum(axis=-1)
    return share * grad_generated, (1 - share) * grad_at_source, grad_p


def coverage(weights: Array) -> Array:
    r"""Add up, before every step, the attention that each word of the source has received.

    .. math:: c_t = \sum_{t' < t} a_{t'}

    Args:
        weights: attention weights a, shape (..., T, S).

    Returns:
        The sums c, shape (..., T, S).

    Raises:
        TypeError: weights is no floating-point array.
        ValueError: it has fewer than two dimensions.

    Source: See, Liu and Manning (2017), equation 10.

    Example:
        >>> coverage(np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])).tolist()
        [[0.0, 0.0], [1.0, 0.0], [1.5, 0.5]]
    """
    check_float_arrays(weights=weights)
    covered = np.zeros_like(weights)
    for step in range(1, weights.shape[-2]):
        covered[..., step, :] = covered[..., step - 1, :] + weights[..., step - 1, :]
    return covered


def coverage_backward(grad_coverage: Array, weights: Array) -> Array:
    r"""Carry a gradient from the coverage back to the weights: from all later steps.

    .. math:: \bar a_t = \sum_{t' > t} \bar c_{t'}

    Args:
        grad_coverage: gradient of the loss with respect to the coverage, shape (..., T, S).
        weights: attention weights a, shape (..., T, S).

    Returns:
        The gradient of weights, same shape.

    Raises:
        TypeError: as coverage.
        ValueError: as coverage, or grad_coverage does not have the shape of weights.

    Source: The sum rule.

    Example:
        >>> coverage_backward(np.ones((3, 1)), np.ones((3, 1))).tolist()
        [[2.0], [1.0], [0.0]]
    """
    check_float_arrays(weights=weights)
    check_same_shape("grad_coverage", grad_coverage, weights.shape)
    backwards = grad_coverage[..., ::-1, :]
    gradient: Array = coverage(backwards)[..., ::-1, :]
    return gradient


def coverage_loss(weights: Array) -> Array:
    r"""Say how much every step attends again to what was attended before.

    .. math:: \ell_t = \sum_j \min(a_{tj}, c_{tj})

    Args:
        weights: attention weights a, shape (..., T, S).

    Returns:
        The loss of every step, shape (..., T).

    Raises:
        TypeError: weights is no floating-point array.
        ValueError: it has fewer than two dimensions.

    Source: See, Liu and Manning (2017), equation 12.

    Example:
        >>> coverage_loss(np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])).tolist()
        [0.0, 0.5, 0.5]
    """
    loss: Array = np.minimum(weights, coverage(weights)).sum(axis=-1)
    return loss


def coverage_loss_backward(grad_loss: Array, weights: Array) -> Array:
    r"""Carry a gradient from the coverage loss back to the weights.

    With :math:`m_{tj} = 1` where :math:`a_{tj} < c_{tj}`, 0 where it is greater and ½ where the
    two are equal

    .. math:: \bar a_{tj} = \bar \ell_t \, m_{tj} + \sum_{t' > t} \bar \ell_{t'} (1 - m_{t'j})

    Args:
        grad_loss: gradient of the loss with respect to the loss of every step, shape (..., T).
        weights: attention weights a, shape (..., T, S).

    Returns:
        The gradient of weights, same shape.

    Raises:
        TypeError: as coverage_loss.
        ValueError: as coverage_loss, or grad_loss does not have one number for each step.

    Source: The chain rule; at a kink the mean of both sides, as PyTorch has it.

    Example:
        >>> weights = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
        >>> coverage_loss_backward(np.ones(3), weights).tolist()
        [[0.0, 2.5], [1.0, 1.0], [1.0, 0.0]]
    """
    covered = coverage(weights)
    check_same_shape("grad_loss", grad_loss, weights.shape[:-1])
    share = np.where(weights < covered, 1.0, np.where(weights > covered, 0.0, 0.5))
    grad_minimum = grad_loss[..., None]
    return grad_minimum * share + coverage_backward(grad_minimum * (1 - share), weights)
