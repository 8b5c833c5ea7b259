"""Scalings: rotary positions for sequences longer than those a model was trained on."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from attn_core.checks import check_number, check_sizes

Ramp = Literal["index", "unrounded index", "rotations"]


class Scaling:
    r"""Say at which frequencies the pairs of a rotary encoding turn; this one changes none.

    .. math:: \theta_k = \text{base}^{-2k / \text{dim}}, \qquad k = 0, \dots, \text{dim} / 2 - 1

    A subclass overrides ``frequencies``, and ``attention_factor`` if it has one.

    Source: Su et al. (2024), equation 15.

    Example:
        >>> Scaling().frequencies(4, 100.0)
        tensor([1.0000, 0.1000], dtype=torch.float64)
    """

    @property
    def attention_factor(self) -> float:
        """What each turned vector, query and key, is multiplied by."""
        return 1.0

    def frequencies(self, dim: int, base: float) -> Tensor:
        """Give the frequencies ``(dim / 2,)`` in float64, in radians per position."""
        check_sizes(dim=dim)
        check_number("base", base)
        return base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


@dataclass(frozen=True)
class LinearScaling(Scaling):
    r"""Squeeze all positions by one factor: position interpolation.

    .. math:: \theta'_k = \frac{\theta_k}{\text{factor}}

    Position p then turns a vector as far as position p / factor did before. Neighbours, too, move
    closer together by this factor.

    Args:
        factor: how many times longer the sequences become.

    Raises:
        ValueError: if ``factor`` is not positive.
        TypeError: if ``factor`` is no number.

    Source: Chen et al. (2023), section 2.3.

    Example:
        >>> LinearScaling(4.0).frequencies(4, 100.0)
        tensor([0.2500, 0.0250], dtype=torch.float64)
    """

    factor: float

    def __post_init__(self) -> None:
        _check_positive(factor=self.factor)

    def frequencies(self, dim: int, base: float) -> Tensor:
        """Give the frequencies ``(dim / 2,)`` in float64, in radians per position."""
        return super().frequencies(dim, base) / self.factor


@dataclass(frozen=True)
class NTKScaling(Scaling):
    r"""Raise the base, so that slow pairs are squeezed and the fastest is left as it is.

    .. math::
        \text{base}' = \text{base} \cdot \text{factor}^{\text{dim} / (\text{dim} - 2)}
        \qquad\Rightarrow\qquad
        \theta'_k = \theta_k \cdot \text{factor}^{-2k / (\text{dim} - 2)}

    The first pair keeps its frequency, the last is divided by the factor, exactly as in
    :class:`LinearScaling`.

    Args:
        factor: how many times longer the sequences become.

    Raises:
        ValueError: if ``factor`` is not positive, or ``dim`` is 2, where the first pair is the
            last one.
        TypeError: if ``factor`` is no number.

    Source: Peng et al. (2024), section 3.1, *NTK-aware*.

    Example:
        >>> NTKScaling(4.0).frequencies(4, 100.0)
        tensor([1.0000, 0.0250], dtype=torch.float64)
    """

    factor: float

    def __post_init__(self) -> None:
        _check_positive(factor=self.factor)

    def frequencies(self, dim: int, base: float) -> Tensor:
        """Give the frequencies ``(dim / 2,)`` in float64, in radians per position."""
        check_sizes(dim=dim)
        check_number("base", base)
        if dim <= 2:
            raise ValueError(f"dim must be at least 4 for {self}, got {dim}")
        return super().frequencies(dim, base * self.factor ** (dim / (dim - 2)))


@dataclass(frozen=True)
class YaRNScaling(Scaling):
    r"""Leave fast pairs as they are, squeeze slow ones, and sharpen the attention a little.

    .. math::
        \theta'_k = \gamma_k \, \theta_k + (1 - \gamma_k) \, \frac{\theta_k}{\text{factor}},
        \qquad \text{attention\_factor} = 0.1 \ln \text{factor} + 1

    A pair that turned ``beta_fast`` times or more within the original length keeps its frequency
    (:math:`\gamma_k = 1`); one that turned ``beta_slow`` times or fewer is squeezed by the factor
    (:math:`\gamma_k = 0`). Between them :math:`\gamma_k` falls linearly, in one of three ways:

    - ``ramp="index"``, the released code's and so that of released models: linearly in k, between
      the first and the last index concerned, rounded outwards to integers;
    - ``"unrounded index"``, that of gpt-oss (``"truncate": false`` in its configuration): the same
      without the rounding;
    - ``ramp="rotations"``, the paper's equation: linearly in the number of turns.

    The paper's *attention temperature* t divides the scores. It is applied to the vectors here, as
    in the released code: :func:`rotary` multiplies the turned entries of query and key by
    ``attention_factor`` :math:`= \sqrt{1/t}`, named ``mscale`` there, so that a score is
    multiplied by its square and attention itself needs no change. A turned vector is then longer
    than it was.

    Args:
        factor: how many times longer the sequences become.
        original_length: the length that the model was trained on, in positions.
        beta_fast: the number of turns from which on a pair is left as it is.
        beta_slow: the number of turns up to which a pair is squeezed.
        mscale: takes the place of :math:`0.1 \ln \text{factor} + 1` as the ``attention_factor``;
            1 leaves the vectors as long as they are.
        ramp: ``"index"``, ``"unrounded index"`` or ``"rotations"``.

    Raises:
        ValueError: if a number is not positive, ``beta_fast`` is not above ``beta_slow``, ``ramp``
            is unknown, or ``base`` is not above 1.
        TypeError: if an argument has the wrong type.

    Source: Peng et al. (2024), sections 3.2 to 3.4; OpenAI (2025) for the ramp without rounding.

    Example:
        >>> scaling = YaRNScaling(4.0, original_length=2048)
        >>> scaling.frequencies(8, 10000.0) / Scaling().frequencies(8, 10000.0)
        tensor([1.0000, 1.0000, 0.6250, 0.2500], dtype=torch.float64)
        >>> round(scaling.attention_factor, 4)
        1.1386
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    ramp: Ramp = "index"

    def __post_init__(self) -> None:
        _check_positive(factor=self.factor, beta_fast=self.beta_fast, beta_slow=self.beta_slow)
        check_sizes(original_length=self.original_length)
        if self.mscale is not None:
            _check_positive(mscale=self.mscale)
        if self.beta_fast <= self.beta_slow:
            raise ValueError(
                f"beta_fast must be above beta_slow, got beta_fast {self.beta_fast}, "
                f"beta_slow {self.beta_slow}"
            )
        if self.ramp not in get_args(Ramp):
            raise ValueError(f"ramp must be one of {get_args(Ramp)}, got {self.ramp!r}")

    @property
    def attention_factor(self) -> float:
        """What each turned vector, query and key, is multiplied by."""
        if self.mscale is not None:
            return self.mscale
        return 0.1 * math.log(max(self.factor, 1.0)) + 1.0

    def frequencies(self, dim: int, base: float) -> Tensor:
        """Give the frequencies ``(dim / 2,)`` in float64, in radians per position."""
        check_number("base", base)
        if base <= 1:
            raise ValueError(f"base must be above 1 for {self}, got {base}")
        frequencies = super().frequencies(dim, base)
        kept = self._kept(frequencies, dim, base)
        return kept * frequencies + (1 - kept) * frequencies / self.factor

    def _kept(self, frequencies: Tensor, dim: int, base: float) -> Tensor:
        """The share γ of each frequency that stays as it is."""
        if self.ramp == "rotations":
            turns = self.original_length * frequencies / (2 * math.pi)
            return ((turns - self.beta_slow) / (self.beta_fast - self.beta_slow)).clamp(0, 1)

        def index_of(turns: float) -> float:
            """The k, no integer as a rule, of a pair that turns so often."""
            wavelength = self.original_length / (2 * math.pi * turns)
            return dim * math.log(wavelength) / (2 * math.log(base))

        first, last = index_of(self.beta_fast), index_of(self.beta_slow)
        if self.ramp == "index":
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        # Where both fall on one index, the released code makes the ramp very steep.
        width = last - first if last != first else 0.001
        return 1 - ((torch.arange(dim // 2, dtype=torch.float64) - first) / width).clamp(0, 1)


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        check_number(name, number)
        if number <= 0:
            raise ValueError(f"{name} must be positive, got {number}")
