"""Encodings: a vector per position that is added to the embedding of the token there."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import (
    check_integers,
    check_number,
    check_one_per_vector,
    check_same_kind,
    check_sequence,
    check_sizes,
    has_numbers,
)


@checked_call
def sinusoidal(length: int, dim: int, base: float = 10000.0) -> Tensor:
    r"""Encode positions by sines and cosines of ``dim / 2`` frequencies.

    .. math::
        P_{p, 2k} = \sin(p \, \omega_k), \qquad P_{p, 2k+1} = \cos(p \, \omega_k), \qquad
        \omega_k = \text{base}^{-2k / \text{dim}}

    The angles are computed in float64 and then rounded: in float32 they are off by 2e-4 at
    position 2,000, and more later.

    Args:
        length: number of positions, from 0 to length − 1.
        dim: width of the encoding; if it is odd, the last column is a sine without its cosine.
        base: the wavelengths grow from 2π to nearly 2π · base positions.

    Returns:
        A table ``(length, dim)`` in the default dtype.

    Raises:
        ValueError: if ``length`` is negative, ``dim`` is not positive, or ``base`` is not positive.
        TypeError: if ``length`` or ``dim`` is not an integer.

    Source: Vaswani et al. (2017), section 3.5. D4, section 2.3.1, prints one frequency for every
    dimension.

    Example:
        >>> sinusoidal(2, 4)
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    check_sizes(least=0, length=length)
    check_sizes(dim=dim)
    check_number("base", base)
    if base <= 0:
        raise ValueError(f"base must be positive, got {base}")
    return wave_table(torch.arange(length), dim, base).to(torch.get_default_dtype())


@checked_call
class SinusoidalEncoding(nn.Module):
    r"""Add the sinusoidal encoding of its position to each vector of a sequence.

    .. math:: y_p = x_p + P_{p + \text{offset}}

    It has no parameters and no longest length.

    Args:
        dim: width of the sequence.
        base: as in :func:`sinusoidal`.

    Raises:
        ValueError: if ``dim`` or ``base`` is not positive, or ``x`` has another width.
        TypeError: if ``dim`` is not an integer.

    Source: Vaswani et al. (2017), section 3.5. D4's ``PositionalEncoding`` takes the batch index
    for the position when its input is batch first.

    Example:
        >>> import torch
        >>> SinusoidalEncoding(4)(torch.zeros(1, 2, 4))
        tensor([[[0.0000, 1.0000, 0.0000, 1.0000],
                 [0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        sinusoidal(0, dim, base)  # checks both
        self.dim = dim
        self.base = base

    def forward(self, x: Tensor, offset: int = 0, *, positions: Tensor | None = None) -> Tensor:
        """Encode the vectors of a sequence, each by its position.

        Args:
            x: ``(..., L, dim)``.
            offset: position of the first vector; the others follow it.
            positions: one for each vector instead, integers or floats that broadcast to
                ``(..., L)``; :func:`restarting` gives such ones.

        Returns:
            Shape and dtype of ``x``.

        Raises:
            ValueError: if ``x`` or ``positions`` has the wrong shape, or ``offset`` is negative or
                given beside ``positions``.
            TypeError: if an argument has the wrong type.
        """
        check_sequence("x", x, self.dim)
        if positions is None:
            check_sizes(least=0, offset=offset)
            positions = torch.arange(offset, offset + x.shape[-2], device=x.device)
        else:
            _check_positions(positions, x, offset)
        return x + wave_table(positions, self.dim, self.base).to(x.dtype)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, base={self.base}"


@checked_call
class LearnedEncoding(nn.Module):
    r"""Add a learned vector per position to each vector of a sequence.

    .. math:: y_p = x_p + E_{p + \text{offset}}

    Args:
        max_len: number of positions that can be learned; a longer sequence is an error.
        dim: width of the sequence.

    Attributes:
        weight: :math:`E`, ``(max_len, dim)``.

    Raises:
        ValueError: if a size is not positive, ``x`` has another width, or is too long.
        TypeError: if a size is not an integer, or ``x`` has another dtype than ``weight``.

    Source: Gehring et al. (2017), section 3.1.

    Example:
        >>> import torch
        >>> LearnedEncoding(max_len=10, dim=4)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, max_len: int, dim: int) -> None:
        super().__init__()
        check_sizes(max_len=max_len, dim=dim)
        self.weight = nn.Parameter(torch.empty(max_len, dim))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, offset: int = 0, *, positions: Tensor | None = None) -> Tensor:
        """Encode the vectors of a sequence, each by its position.

        Args:
            x: ``(..., L, dim)``.
            offset: position of the first vector; the others follow it.
            positions: one for each vector instead, integers that broadcast to ``(..., L)``;
                :func:`restarting` gives such ones.

        Returns:
            Shape and dtype of ``x``; under autocast the wider dtype of ``x`` and ``weight``.

        Raises:
            ValueError: if ``x`` or ``positions`` has the wrong shape, a position is negative or
                too far, or ``offset`` is given beside ``positions``.
            TypeError: if an argument has the wrong type.
        """
        max_len, dim = self.weight.shape
        check_sequence("x", x, dim)
        check_same_kind("x", x, "the layer", self.weight)
        if positions is None:
            check_sizes(least=0, offset=offset)
            if offset + x.shape[-2] > max_len:
                raise ValueError(
                    f"x reaches position {offset + x.shape[-2] - 1}, but max_len is {max_len}"
                )
            return x + self.weight[offset : offset + x.shape[-2]]
        check_integers("positions", positions)
        _check_positions(positions, x, offset)
        if has_numbers(positions) and positions.numel():
            first, last = (int(end) for end in positions.aminmax())
            if first < 0 or last >= max_len:
                raise ValueError(
                    f"positions must be from 0 to {max_len - 1}, for max_len is {max_len}, got "
                    f"{first} to {last}"
                )
        return x + self.weight[positions.long()]

    def extra_repr(self) -> str:
        max_len, dim = self.weight.shape
        return f"max_len={max_len}, dim={dim}"


def wave_table(positions: Tensor, dim: int, base: float) -> Tensor:
    """The sinusoidal encoding of any positions ``(..., L)``: ``(..., L, dim)`` in float64."""
    pairs = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device)
    angles = positions.to(torch.float64)[..., None] * base ** (-pairs / dim)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :dim]


def _check_positions(positions: Tensor, x: Tensor, offset: int) -> None:
    if not (isinstance(positions, Tensor) and positions.is_floating_point()):
        check_integers("positions", positions)
    if offset != 0:
        raise ValueError(f"offset and positions are both given, got offset {offset}")
    check_one_per_vector("positions", positions, x)
