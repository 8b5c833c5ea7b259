"""Rotary positions: a vector is turned by an angle that grows with its position."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import (
    check_floating_point,
    check_integers,
    check_number,
    check_sizes,
    has_numbers,
)
from attn_core.positions.scaling import Scaling

Pairing = Literal["half", "interleaved"]

# A table up to here takes 64 MiB with 128 dimensions; positions further out are computed anew.
_LONGEST_TABLE = 2**17


@checked_call
def rotary(
    x: Tensor,
    positions: Tensor | None = None,
    *,
    base: float = 10000.0,
    dim: int | None = None,
    pairing: Pairing = "half",
    scaling: Scaling | None = None,
) -> Tensor:
    r"""Turn each pair of entries by an angle proportional to the position.

    .. math::
        \begin{pmatrix} y_a \\ y_b \end{pmatrix} =
        \begin{pmatrix} \cos p\,\theta_k & -\sin p\,\theta_k \\
                        \sin p\,\theta_k & \cos p\,\theta_k \end{pmatrix}
        \begin{pmatrix} x_a \\ x_b \end{pmatrix},
        \qquad \theta_k = \text{base}^{-2k / \text{dim}}, \quad k = 0, \dots, \text{dim}/2 - 1

    Query and key are turned, not the value. The dot product of a turned query and a turned key
    then depends on the distance of their positions alone.

    Which entries make pair k are two different encodings, and a model works with its own only:
    ``"half"`` pairs :math:`(a, b) = (k, k + \text{dim}/2)`, as Llama and GPT-NeoX in their
    released code; ``"interleaved"`` pairs :math:`(2k, 2k + 1)`, as the paper and GPT-J.

    The angles are computed in float64 and then rounded: in float32 they are off by 2e-4 at
    position 2,000, and more later. Vectors in half precision are turned in float32.

    Args:
        x: ``(..., L, D)``, queries or keys.
        positions: ``(L,)``, or ``(batch, L)`` for x ``(batch, heads, L, D)``: integers, or floats;
            by default 0 to L − 1.
        base: the wavelengths grow from 2π to nearly 2π · base positions.
        dim: how many entries are turned, the first ones; the rest passes. By default all D.
        pairing: ``"half"`` or ``"interleaved"``.
        scaling: for longer sequences than a model was trained on: :class:`LinearScaling`,
            :class:`NTKScaling` or :class:`YaRNScaling`, of which the last also multiplies what is
            turned by its ``attention_factor``.

    Returns:
        Shape and dtype of ``x``.

    Raises:
        TypeError: if ``x`` is not floating point, or another argument has the wrong type.
        ValueError: if ``dim`` is odd or above D, ``positions`` do not fit, ``base`` is not
            positive, or ``pairing`` is unknown.

    Source: Su et al. (2024), equations 15 and 34.

    Example:
        >>> import math, torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> rotary(x, torch.tensor([0.0, math.pi / 3]))
        tensor([[1.0000, 0.0000],
                [0.5000, 0.8660]])
    """
    dim = _checked_dim(x, dim)
    _check_settings(base, pairing, scaling)
    at = _checked_positions(positions, x)
    return _turn(x, _turns(at, x, dim, base, scaling), pairing)


@checked_call
class Rotary(nn.Module):
    r"""Turn queries and keys as :func:`rotary` does, and keep the table of cosines and sines.

    The table grows as positions ask for it, follows the device and the dtype of ``x`` and every
    setting that is changed, and is not in the state dict. One layer serves queries and keys of any
    number of heads, and of all layers of a model.

    Args:
        dim: how many entries are turned, the first ones; by default all.
        base: as in :func:`rotary`.
        pairing: as in :func:`rotary`.
        scaling: as in :func:`rotary`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: as :func:`rotary`.

    Source: Su et al. (2024), section 3.4.2.

    Example:
        >>> import torch
        >>> turn = Rotary()
        >>> query = torch.randn(2, 8, 5, 64)
        >>> bool((turn(query) == rotary(query)).all())
        True
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        dim: int | None = None,
        *,
        base: float = 10000.0,
        pairing: Pairing = "half",
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        if dim is not None:
            _check_even(dim)
        _check_settings(base, pairing, scaling)
        self.dim = dim
        self.base = base
        self.pairing = pairing
        self.scaling = scaling
        self._table: Tensor | None = None  # (positions, dim / 2), complex
        self._settings = self._current_settings()  # those of the table

    def forward(self, x: Tensor, positions: Tensor | None = None, *, offset: int = 0) -> Tensor:
        """Turn the vectors of a sequence, each by its position.

        Args:
            x: ``(..., L, D)``, queries or keys.
            positions: as in :func:`rotary`; by default offset to offset + L − 1.
            offset: position of the first vector; the others follow it.

        Returns:
            Shape and dtype of ``x``.

        Raises:
            TypeError: as :func:`rotary`, or if ``offset`` is no integer.
            ValueError: as :func:`rotary`, or if ``offset`` is given beside ``positions``.
        """
        self._follow_settings()
        dim = _checked_dim(x, self.dim)
        if not isinstance(offset, int) or isinstance(offset, bool):
            raise TypeError(f"offset must be an integer, got {offset!r}")
        if positions is None:
            turns = self._turns_from(offset, x, dim)
        elif offset != 0:
            raise ValueError(f"offset and positions are both given, got offset {offset}")
        else:
            turns = self._turns_at(_checked_positions(positions, x), x, dim)
        return _turn(x, turns, self.pairing)

    def _current_settings(self) -> tuple[object, ...]:
        return self.dim, self.base, self.pairing, self.scaling

    def _follow_settings(self) -> None:
        """Let go of the table if a setting is not the one that it was made with."""
        if self._settings != self._current_settings():
            if self.dim is not None:
                _check_even(self.dim)
            _check_settings(self.base, self.pairing, self.scaling)
            self._table, self._settings = None, self._current_settings()

    def _turns_from(self, first: int, x: Tensor, dim: int) -> Tensor:
        end = first + x.shape[-2]
        if has_numbers(x) and first >= 0 and end <= _LONGEST_TABLE:
            return self._grown_table(x, dim, end).narrow(0, first, x.shape[-2])
        at = torch.arange(first, end, device=x.device)
        return _turns(at, x, dim, self.base, self.scaling)

    def _turns_at(self, at: Tensor, x: Tensor, dim: int) -> Tensor:
        # Elsewhere than on the CPU the greatest position would have to be waited for.
        looks = has_numbers(x) and has_numbers(at) and x.device.type == "cpu"
        if looks and at.numel() and not at.is_floating_point():
            first, last = (int(end) for end in at.aminmax())
            if first >= 0 and last < _LONGEST_TABLE:
                return self._grown_table(x, dim, last + 1)[at.long()]
        return _turns(at, x, dim, self.base, self.scaling)

    def _grown_table(self, x: Tensor, dim: int, length: int) -> Tensor:
        """The table for at least so many positions, made anew where the one at hand will not do."""
        table = self._table
        if (
            table is None
            or table.shape[0] < length
            or table.shape[1] != dim // 2
            or table.dtype != _complex_dtype(x)
            or table.device != x.device
        ):
            # A table made in inference mode could not take part in training later.
            with torch.inference_mode(False):
                length = 1 << max(length - 1, 63).bit_length()  # at least 64, doubled as it grows
                at = torch.arange(length, device=x.device)
                table = _turns(at, x, dim, self.base, self.scaling)
            self._table = table
        return table

    def extra_repr(self) -> str:
        return f"dim={self.dim}, base={self.base}, pairing={self.pairing!r}, scaling={self.scaling}"


def _turn(x: Tensor, turns: Tensor, pairing: str) -> Tensor:
    """Multiply pairs, read as complex numbers, by turns ``(L, dim / 2)`` or with (batch, 1)."""
    dim = 2 * turns.shape[-1]
    width, dtype = x.shape[-1], x.dtype
    turned = x if width == dim else x[..., :dim]
    if dtype not in (torch.float32, torch.float64):
        turned = turned.float()
    if pairing == "half":
        first, second = turned.chunk(2, -1)
        products = torch.view_as_real(torch.complex(first, second) * turns)  # (..., L, dim / 2, 2)
        turned = products.transpose(-2, -1).flatten(-2)
    else:
        turned = torch.view_as_real(_neighbours_as_complex(turned) * turns).flatten(-2)
    if turned.dtype != dtype:
        turned = turned.to(dtype)
    return turned if width == dim else torch.cat([turned, x[..., dim:]], -1)


def _neighbours_as_complex(x: Tensor) -> Tensor:
    """Read entries 2k and 2k + 1 as one complex number; without a copy where memory allows it."""
    pairs = x.unflatten(-1, (-1, 2))
    *strides, last = pairs.stride()
    if last == 1 and all(n % 2 == 0 for n in (*strides, pairs.storage_offset())):
        return torch.view_as_complex(pairs)
    return torch.complex(*pairs.unbind(-1))


def _turns(at: Tensor, x: Tensor, dim: int, base: float, scaling: Scaling | None) -> Tensor:
    """The complex numbers attention_factor · exp(i p θ), exact in float64, then rounded."""
    scaling = Scaling() if scaling is None else scaling
    frequencies = scaling.frequencies(dim, base).to(x.device)
    angles = at.to(torch.float64)[..., None] * frequencies
    turns = torch.polar(torch.full_like(angles, scaling.attention_factor), angles)
    return turns.to(_complex_dtype(x))


def _complex_dtype(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.dtype == torch.float64 else torch.complex64


def _checked_dim(x: Tensor, dim: int | None) -> int:
    check_floating_point("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must be (..., length, width), got x {tuple(x.shape)}")
    if dim is None:
        dim = x.shape[-1]
        if dim == 0 or dim % 2:
            raise ValueError(
                f"x must have an even width, at least 2, got x {tuple(x.shape)}; dim= turns its "
                "first entries only"
            )
        return dim
    _check_even(dim)
    if dim > x.shape[-1]:
        raise ValueError(f"dim must be at most the width of x, got dim {dim}, x {tuple(x.shape)}")
    return dim


def _check_even(dim: int) -> None:
    check_sizes(dim=dim)
    if dim % 2:
        raise ValueError(f"dim must be even, for entries are turned in pairs, got {dim}")


def _check_settings(base: float, pairing: str, scaling: Scaling | None) -> None:
    check_number("base", base)
    if base <= 0:
        raise ValueError(f"base must be positive, got {base}")
    if pairing not in ("half", "interleaved"):
        raise ValueError(f"pairing must be 'half' or 'interleaved', got {pairing!r}")
    if scaling is not None and not isinstance(scaling, Scaling):
        raise TypeError(
            "scaling must be a scaling of attn_core.positions, LinearScaling(4.0) for example, got "
            f"{scaling!r}"
        )


def _checked_positions(positions: Tensor | None, x: Tensor) -> Tensor:
    """Positions ``(L,)``, or ``(batch, 1, L)``: all heads alike."""
    if positions is None:
        return torch.arange(x.shape[-2], device=x.device)
    if not (isinstance(positions, Tensor) and positions.is_floating_point()):
        check_integers("positions", positions)
    if positions.device != x.device:
        raise ValueError(f"positions is on {positions.device}, but x is on {x.device}")
    fits = positions.shape == x.shape[-2:-1]
    if positions.ndim == 2 and x.ndim >= 4:
        fits = positions.shape[1] == x.shape[-2] and positions.shape[0] in (1, x.shape[-4])
    if not fits:
        hint = "; a batch without heads needs a head dimension of 1: x[:, None]"
        raise ValueError(
            f"positions must be (length,), or (batch, length) for x (batch, heads, length, width), "
            f"got positions {tuple(positions.shape)}, x {tuple(x.shape)}"
            f"{hint if positions.ndim == 2 and x.ndim == 3 else ''}"
        )
    return positions if positions.ndim == 1 else positions.unsqueeze(1)
