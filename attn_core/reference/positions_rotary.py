"""Rotary positions: a vector is turned by an angle that grows with its position."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from attn_core.reference.shapes import (
    Array,
    check_array,
    check_float_arrays,
    check_number,
    check_same_shape,
)

Ramp = Literal["index", "unrounded index", "rotations"]


class Scaling:
    r"""Say at which frequencies the pairs of a rotary encoding turn; this one changes none.

    .. math:: \theta_k = b^{-2k/d}, \qquad k = 0, \dots, d/2 - 1

    Source: Su et al. 2024, equation 15.

    Example:
        >>> Scaling().frequencies(4, 100.0).tolist()
        [1.0, 0.1]
    """

    @property
    def attention_factor(self) -> float:
        """What each turned vector is multiplied by."""
        return 1.0

    def frequencies(self, dim: int, base: float) -> Array:
        """Return the frequencies in radians per position, shape (dim / 2,)."""
        frequencies: Array = base ** (-np.arange(0, dim, 2) / dim)
        return frequencies


@dataclass(frozen=True)
class LinearScaling(Scaling):
    r"""Squeeze all positions by one factor.

    .. math:: \theta'_k = \theta_k / \mathrm{factor}

    Args:
        factor: how many times longer the sequences become.

    Raises:
        TypeError: factor is no number.
        ValueError: factor is not above 0.

    Source: Chen et al. 2023, section 2.3.

    Example:
        >>> LinearScaling(4.0).frequencies(4, 100.0).tolist()
        [0.25, 0.025]
    """

    factor: float

    def __post_init__(self) -> None:
        _check_positive(factor=self.factor)

    def frequencies(self, dim: int, base: float) -> Array:
        """Return the frequencies in radians per position, shape (dim / 2,)."""
        return super().frequencies(dim, base) / self.factor


@dataclass(frozen=True)
class NTKScaling(Scaling):
    r"""Raise the base, so that slow pairs are squeezed and the fastest is left as it is.

    .. math:: b' = b \cdot \mathrm{factor}^{d/(d-2)}

    Args:
        factor: how many times longer the sequences become.

    Raises:
        TypeError: factor is no number.
        ValueError: factor is not above 0, or dim is 2.

    Source: Peng et al. 2024, section 3.1.

    Example:
        >>> NTKScaling(4.0).frequencies(4, 100.0).round(4).tolist()
        [1.0, 0.025]
    """

    factor: float

    def __post_init__(self) -> None:
        _check_positive(factor=self.factor)

    def frequencies(self, dim: int, base: float) -> Array:
        """Return the frequencies in radians per position, shape (dim / 2,)."""
        if dim <= 2:
            raise ValueError(f"dim must be at least 4 for {self}, got {dim}")
        return super().frequencies(dim, base * self.factor ** (dim / (dim - 2)))


@dataclass(frozen=True)
class YaRNScaling(Scaling):
    r"""Leave fast pairs as they are, squeeze slow ones, and lengthen what is turned.

    .. math:: \theta'_k = \gamma_k \theta_k + (1 - \gamma_k) \, \theta_k / \mathrm{factor},
              \qquad \mathrm{attention\_factor} = 0.1 \ln \mathrm{factor} + 1

    Args:
        factor: how many times longer the sequences become.
        original_length: the length the model was trained on, in positions.
        beta_fast: from this number of turns within that length on, a pair is left as it is.
        beta_slow: up to this number, it is squeezed.
        mscale: takes the place of the attention factor above.
        ramp: "index", the released code: γ falls linearly in k, between integers; "unrounded
            index", gpt-oss: between any numbers; "rotations", the paper: linearly in the number
            of turns.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a number is not above 0, beta_fast is not above beta_slow, ramp is unknown, or
            the base is not above 1.

    Source: Peng et al. 2024, sections 3.2 to 3.4.

    Example:
        >>> scaling = YaRNScaling(4.0, original_length=2048)
        >>> (scaling.frequencies(8, 1e4) / Scaling().frequencies(8, 1e4)).round(4).tolist()
        [1.0, 1.0, 0.625, 0.25]
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    ramp: Ramp = "index"

    def __post_init__(self) -> None:
        _check_positive(
            factor=self.factor,
            original_length=self.original_length,
            beta_fast=self.beta_fast,
            beta_slow=self.beta_slow,
            mscale=1.0 if self.mscale is None else self.mscale,
        )
        if self.beta_fast <= self.beta_slow:
            raise ValueError(
                f"beta_fast must be above beta_slow, got {self.beta_fast} and {self.beta_slow}"
            )
        if self.ramp not in get_args(Ramp):
            raise ValueError(f"ramp must be one of {get_args(Ramp)}, got {self.ramp!r}")

    @property
    def attention_factor(self) -> float:
        """What each turned vector is multiplied by."""
        if self.mscale is not None:
            return self.mscale
        return 0.1 * math.log(max(self.factor, 1.0)) + 1.0

    def frequencies(self, dim: int, base: float) -> Array:
        """Return the frequencies in radians per position, shape (dim / 2,)."""
        if base <= 1:
            raise ValueError(f"base must be above 1 for {self}, got {base}")
        theta = super().frequencies(dim, base)
        gamma = self._kept(theta, dim, base)
        return gamma * theta + (1 - gamma) * theta / self.factor

    def _kept(self, theta: Array, dim: int, base: float) -> Array:
        if self.ramp == "rotations":
            turns = self.original_length * theta / (2 * np.pi)
            return np.clip((turns - self.beta_slow) / (self.beta_fast - self.beta_slow), 0, 1)

        def index_of(turns: float) -> float:  # base^(-2k/dim) · original_length = 2π · turns
            log_theta = math.log(2 * math.pi * turns / self.original_length)
            return -log_theta / math.log(base) * dim / 2

        first, last = index_of(self.beta_fast), index_of(self.beta_slow)
        if self.ramp == "index":
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        width = last - first if last != first else 0.001  # the released code's steepest ramp
        return 1 - np.clip((np.arange(dim // 2) - first) / width, 0, 1)


def rotary(
    x: Array,
    positions: Array | None = None,
    *,
    base: float = 10000.0,
    dim: int | None = None,
    pairing: Literal["half", "interleaved"] = "half",
    scaling: Scaling | None = None,
) -> Array:
    r"""Turn each pair of entries by an angle proportional to the position.

    .. math:: y_a = x_a \cos p\theta_k - x_b \sin p\theta_k, \qquad
              y_b = x_a \sin p\theta_k + x_b \cos p\theta_k

    Args:
        x: queries or keys, shape (..., L, D).
        positions: p, shape (L,), or (B, L) for x of shape (B, H, L, D); by default 0 to L - 1.
        base: b in the frequencies :math:`\theta_k = b^{-2k/d}`.
        dim: d, how many entries are turned, the first ones; by default all.
        pairing: "half": pair k is (a, b) = (k, k + d/2); "interleaved": it is (2k, 2k + 1).
        scaling: changes the frequencies, and may lengthen what is turned.

    Returns:
        The turned vectors, shape (..., L, D).

    Raises:
        TypeError: x is not an array of floating-point numbers.
        ValueError: dim is odd or above D, positions have the wrong shape, base is not above 0, or
            pairing is unknown.

    Source: Su et al. 2024, equations 15 and 34.

    Example:
        >>> x = np.array([[1.0, 0.0], [1.0, 0.0]])
        >>> rotary(x, np.array([0, np.pi / 3])).round(4).tolist()
        [[1.0, 0.0], [0.5, 0.866]]
    """
    cos, sin, a, b = _prepare(x, positions, base, dim, pairing, scaling)
    turned = x.copy()  # entries from dim on pass
    turned[..., a] = x[..., a] * cos - x[..., b] * sin
    turned[..., b] = x[..., a] * sin + x[..., b] * cos
    return turned


def rotary_backward(
    grad_output: Array,
    x: Array,
    positions: Array | None = None,
    *,
    base: float = 10000.0,
    dim: int | None = None,
    pairing: Literal["half", "interleaved"] = "half",
    scaling: Scaling | None = None,
) -> Array:
    r"""Carry a gradient from turned vectors back: turn it by the opposite angle.

    .. math:: \bar x_a = \bar y_a \cos p\theta_k + \bar y_b \sin p\theta_k, \qquad
              \bar x_b = -\bar y_a \sin p\theta_k + \bar y_b \cos p\theta_k

    Args:
        grad_output: gradient of the loss with respect to the turned vectors, shape (..., L, D).
        x: as in rotary.
        positions: as in rotary.
        base: as in rotary.
        dim: as in rotary.
        pairing: as in rotary.
        scaling: as in rotary.

    Returns:
        The gradient of x, shape (..., L, D).

    Raises:
        TypeError: as rotary.
        ValueError: as rotary, or grad_output does not have the shape of x.

    Source: The inverse of a rotation is its transpose.

    Example:
        >>> grad = np.array([[0.5, np.sqrt(0.75)]])
        >>> rotary_backward(grad, np.ones((1, 2)), np.array([np.pi / 3])).round(4).tolist()
        [[1.0, 0.0]]
    """
    check_same_shape("grad_output", grad_output, np.shape(x))
    cos, sin, a, b = _prepare(x, positions, base, dim, pairing, scaling)
    grad_x = grad_output.copy()
    grad_x[..., a] = grad_output[..., a] * cos + grad_output[..., b] * sin
    grad_x[..., b] = -grad_output[..., a] * sin + grad_output[..., b] * cos
    return grad_x


def _prepare(
    x: Array,
    positions: Array | None,
    base: float,
    dim: int | None,
    pairing: str,
    scaling: Scaling | None,
) -> tuple[Array, Array, Array, Array]:
    """Return cosine and sine of each angle, and the indices a and b of each pair."""
    check_float_arrays(x=x)
    _check_positive(base=base)
    dim = x.shape[-1] if dim is None else dim
    if dim % 2 or not 2 <= dim <= x.shape[-1]:
        raise ValueError(f"dim must be even and from 2 to {x.shape[-1]}, got {dim}")
    pairs = np.arange(dim // 2)
    if pairing == "half":
        a, b = pairs, pairs + dim // 2
    elif pairing == "interleaved":
        a, b = 2 * pairs, 2 * pairs + 1
    else:
        raise ValueError(f"pairing must be 'half' or 'interleaved', got {pairing!r}")
    scaling = Scaling() if scaling is None else scaling
    positions = np.arange(x.shape[-2]) if positions is None else positions
    check_array("positions", positions)
    if positions.ndim == 2 and x.ndim >= 4 and positions.shape[0] in (1, x.shape[-4]):
        positions = positions[:, None]  # all heads alike
    if positions.shape[-1:] != x.shape[-2:-1] or positions.ndim not in (1, 3):
        raise ValueError(
            f"positions must be (length,), or (batch, length) for x (batch, heads, length, width), "
            f"got positions {positions.shape}, x {x.shape}"
        )
    angles = positions[..., None] * scaling.frequencies(dim, base)
    factor = scaling.attention_factor
    return factor * np.cos(angles), factor * np.sin(angles), a, b


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        check_number(name, number)
        if number <= 0:
            raise ValueError(f"{name} must be above 0, got {number}")
