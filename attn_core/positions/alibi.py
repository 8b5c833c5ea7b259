"""Attention with linear biases: the further away a key, the lower its score."""

import math
from typing import Literal

import torch
from torch import Tensor

from attn_core.calls import checked_call
from attn_core.checks import check_sizes
from attn_core.positions.bias import Bias

Slopes = Literal["released", "geometric"]


@checked_call
def alibi_slopes(heads: int, slopes: Slopes = "released") -> Tensor:
    r"""Give each head the slope with which its scores fall off.

    .. math:: m_h = 2^{-8h / H}, \qquad h = 1, \dots, H

    That is what both conventions give when the number of heads H is a power of two. When it is
    none, they differ:

    - ``"geometric"`` takes the formula as it stands;
    - ``"released"``, the code of the paper's authors, and so that of released models, takes the
      slopes of P heads, P the power of two below H, and then from the slopes of 2P heads every
      other one, the first, the third and so on, until there are H.

    Args:
        heads: number of query heads, H.
        slopes: ``"released"`` or ``"geometric"``.

    Returns:
        Slopes ``(heads,)`` in float64, in score per position.

    Raises:
        TypeError: if ``heads`` is not an integer.
        ValueError: if ``heads`` is not positive, or ``slopes`` is unknown.

    Source: Press, Smith and Lewis (2022), section 3.

    Example:
        >>> alibi_slopes(3, "geometric")
        tensor([0.1575, 0.0248, 0.0039], dtype=torch.float64)
        >>> alibi_slopes(3, "released")
        tensor([0.0625, 0.0039, 0.2500], dtype=torch.float64)
    """
    return torch.tensor(_slopes_of(heads, slopes), dtype=torch.float64)


def _slopes_of(heads: int, slopes: Slopes) -> list[float]:
    check_sizes(heads=heads)
    if slopes not in ("released", "geometric"):
        raise ValueError(f"slopes must be 'released' or 'geometric', got {slopes!r}")
    if slopes == "geometric":
        return _geometric(heads)
    below = 2 ** int(math.log2(heads))
    return _geometric(below) + _geometric(2 * below)[::2][: heads - below]


@checked_call
class ALiBi(Bias):
    r"""Lower a score in proportion to the distance of its query and its key.

    .. math:: s_{ij} \leftarrow s_{ij} - m_h \, |d_{ij}|

    The paper uses it with a causal mask, where keys lie on one side only. Without one it is
    symmetric: a key as far ahead as another is behind is lowered as much.

    It has no parameters: the slopes :math:`m_h` are fixed.

    Args:
        heads: number of query heads.
        slopes: which slopes when ``heads`` is no power of two, see :func:`alibi_slopes`.

    Raises:
        TypeError: if ``heads`` is not an integer.
        ValueError: if ``heads`` is not positive, or ``slopes`` is unknown.

    Source: Press, Smith and Lewis (2022), section 3.

    Example:
        >>> ALiBi(heads=8).dense(3, 3)[0]
        tensor([[ 0.0000, -0.5000, -1.0000],
                [-0.5000,  0.0000, -0.5000],
                [-1.0000, -0.5000,  0.0000]])
    """

    def __init__(self, heads: int, *, slopes: Slopes = "released") -> None:
        super().__init__(heads)
        self.slopes = slopes
        # Numbers and no tensor: they follow neither a cast nor a move, to the meta device say.
        self._per_head = _slopes_of(heads, slopes)

    def forward(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor:
        """Give the bias of a block, ``(heads, L, S)`` or ``(batch, heads, L, S)``."""
        # A distance above 256 is no bfloat16 number: multiply first, round afterwards.
        exact = torch.promote_types(query.dtype, torch.float32)
        per_head = torch.tensor(self._per_head, dtype=exact, device=distance.device)
        return (per_head[:, None, None] * -distance.abs()).to(query.dtype)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, slopes={self.slopes!r}"


def _geometric(heads: int) -> list[float]:
    return [2.0 ** (-8.0 * head / heads) for head in range(1, heads + 1)]
