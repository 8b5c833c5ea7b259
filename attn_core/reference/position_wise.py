"""What a block does to every vector by itself: the norm, and the bend of its network."""

import math

import numpy as np

from attn_core.reference.shapes import Array, check_float_arrays, check_number, check_same_shape


def layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    r"""Give every vector mean 0 and variance 1, then stretch and shift its entries.

    .. math:: y = w \odot \hat x + b, \qquad \hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}},
              \qquad \mu = \tfrac{1}{D} \sum_d x_d, \quad
              \sigma^2 = \tfrac{1}{D} \sum_d (x_d - \mu)^2

    Args:
        x: vectors, shape (..., L, D).
        weight: w, shape (D,).
        bias: b, shape (D,).
        eps: added to the variance.

    Returns:
        Vectors, shape (..., L, D).

    Raises:
        TypeError: an array holds no floating-point numbers, or dtypes differ.
        ValueError: shapes do not fit, or eps is negative.

    Source: Ba, Kiros and Hinton 2016, section 3.

    Example:
        >>> layer_norm(np.array([[1.0, 3.0]]), np.ones(2), np.zeros(2), eps=0.0).tolist()
        [[-1.0, 1.0]]
    """
    _check_norm(x, weight, bias, eps)
    normed, _ = _normed(x, eps)
    return weight * normed + bias


def layer_norm_backward(
    grad_output: Array, x: Array, weight: Array, bias: Array, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    r"""Carry a gradient from normed vectors back to the vectors and the two parameters.

    .. math:: \bar w = \sum \bar y \odot \hat x, \qquad \bar b = \sum \bar y, \qquad
              \bar x = \frac{g - \operatorname{mean}(g)
              - \hat x \operatorname{mean}(g \odot \hat x)}{\sqrt{\sigma^2 + \epsilon}},
              \qquad g = w \odot \bar y

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., L, D).
        x: as in layer_norm.
        weight: as in layer_norm.
        bias: as in layer_norm.
        eps: as in layer_norm.

    Returns:
        The gradients of x, weight and bias, each with the shape of its input.

    Raises:
        TypeError: as layer_norm.
        ValueError: as layer_norm, or grad_output does not have the shape of x.

    Source: The chain rule: the mean and the variance depend on every entry.

    Example:
        >>> x, one = np.array([[1.0, 3.0, 5.0]]), np.ones(3)
        >>> layer_norm_backward(np.ones((1, 3)), x, one, one)[0].tolist()
        [[0.0, 0.0, 0.0]]
    """
    _check_norm(x, weight, bias, eps)
    check_same_shape("grad_output", grad_output, x.shape)
    normed, deviation = _normed(x, eps)
    grad_normed = weight * grad_output
    grad_x = (
        grad_normed
        - grad_normed.mean(axis=-1, keepdims=True)
        - normed * (grad_normed * normed).mean(axis=-1, keepdims=True)
    ) / deviation
    all_rows = tuple(range(x.ndim - 1))
    return grad_x, (grad_output * normed).sum(axis=all_rows), grad_output.sum(axis=all_rows)


def rms_norm(x: Array, weight: Array, eps: float = 1e-6) -> Array:
    r"""Give the entries of every vector a mean square of 1, then stretch them.

    .. math:: y = w \odot \hat x, \qquad
              \hat x = \frac{x}{\sqrt{\tfrac{1}{D} \sum_d x_d^2 + \epsilon}}

    Unlike layer_norm it takes no mean away.

    Args:
        x: vectors, shape (..., L, D).
        weight: w, shape (D,).
        eps: added to the mean square.

    Returns:
        Vectors, shape (..., L, D).

    Raises:
        TypeError: an array holds no floating-point numbers, or dtypes differ.
        ValueError: shapes do not fit, or eps is negative.

    Source: Zhang and Sennrich 2019, equation 4.

    Example:
        >>> rms_norm(np.array([[1.0, 7.0]]), np.array([1.0, 10.0]), eps=0.0).tolist()
        [[0.2, 14.0]]
    """
    _check_norm(x, weight, None, eps)
    normed: Array = weight * x / _root_mean_square(x, eps)
    return normed


def rms_norm_backward(
    grad_output: Array, x: Array, weight: Array, eps: float = 1e-6
) -> tuple[Array, Array]:
    r"""Carry a gradient from normed vectors back to the vectors and the weight.

    .. math:: \bar w = \sum \bar y \odot \hat x, \qquad
              \bar x = \frac{g - \hat x \operatorname{mean}(g \odot \hat x)}
                            {\sqrt{\tfrac{1}{D} \sum_d x_d^2 + \epsilon}},
              \qquad g = w \odot \bar y

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., L, D).
        x: as in rms_norm.
        weight: as in rms_norm.
        eps: as in rms_norm.

    Returns:
        The gradients of x and weight, each with the shape of its input.

    Raises:
        TypeError: as rms_norm.
        ValueError: as rms_norm, or grad_output does not have the shape of x.

    Source: The chain rule: the mean square depends on every entry.

    Example:
        >>> x, one = np.array([[3.0, 3.0]]), np.ones(2)
        >>> rms_norm_backward(np.ones((1, 2)), x, one, eps=0.0)[0].tolist()
        [[0.0, 0.0]]
    """
    _check_norm(x, weight, None, eps)
    check_same_shape("grad_output", grad_output, x.shape)
    root = _root_mean_square(x, eps)
    normed = x / root
    grad_normed = weight * grad_output
    grad_x = (grad_normed - normed * (grad_normed * normed).mean(axis=-1, keepdims=True)) / root
    return grad_x, (grad_output * normed).sum(axis=tuple(range(x.ndim - 1)))


def _root_mean_square(x: Array, eps: float) -> Array:
    root: Array = np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
    return root


def _normed(x: Array, eps: float) -> tuple[Array, Array]:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return centred / deviation, deviation


def _check_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> None:
    check_float_arrays(x=x)
    parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    check_float_arrays(min_dims=1, x=x, **parameters)
    for name, parameter in parameters.items():
        check_same_shape(name, parameter, x.shape[-1:])
    check_number("eps", eps)
    if eps < 0:
        raise ValueError(f"eps must be 0 or more, got {eps}")


def gelu(x: Array) -> Array:
    r"""Let a number through as far as it is larger than most normal numbers.

    .. math:: \operatorname{gelu}(x) = x \, \Phi(x), \qquad
              \Phi(x) = \tfrac{1}{2} \big(1 + \operatorname{erf}(x / \sqrt 2)\big)

    Args:
        x: numbers, of any shape.

    Returns:
        Numbers, of the same shape.

    Raises:
        TypeError: x holds no floating-point numbers.

    Source: Hendrycks and Gimpel 2016, section 2.

    Example:
        >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
        [-0.1587, 0.0, 0.8413]
    """
    check_float_arrays(min_dims=0, x=x)
    return x * _share_below(x)


def gelu_backward(grad_output: Array, x: Array) -> Array:
    r"""Carry a gradient back through gelu.

    .. math:: \bar x = \bar y \odot \Big(\Phi(x) + x \, \frac{e^{-x^2 / 2}}{\sqrt{2 \pi}}\Big)

    Args:
        grad_output: gradient of the loss with respect to the output, of the shape of x.
        x: as in gelu.

    Returns:
        The gradient of x, with its shape.

    Raises:
        TypeError: as gelu.
        ValueError: grad_output does not have the shape of x.

    Source: The product rule; the derivative of Φ is the normal density.

    Example:
        >>> gelu_backward(np.ones(1), np.zeros(1)).tolist()
        [0.5]
    """
    check_float_arrays(min_dims=0, x=x)
    check_same_shape("grad_output", grad_output, x.shape)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    gradient: Array = grad_output * (_share_below(x) + x * density)
    return gradient


def _share_below(x: Array) -> Array:
    """Φ: the share of normal numbers below x. NumPy has no erf, Python has one for a number."""
    if not x.size:
        return x
    share: Array = (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return share.astype(x.dtype)
