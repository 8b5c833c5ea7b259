"""Relative positions as Shaw and others learn them: a vector for each distance."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import (
    check_floating_point,
    check_number,
    check_same_kind,
    check_sequence,
    check_sizes,
)
from attn_core.positions.bias import Bias, distances


@checked_call
class ShawBias(Bias):
    r"""Score a query against a learned vector for the distance, beside the key itself.

    .. math::
        s_{ij} \leftarrow s_{ij} + \frac{q_i \cdot a_{\operatorname{clip}(d_{ij})}}{\sqrt{D}},
        \qquad \operatorname{clip}(d) = \max(-m, \min(m, d)), \quad m = \text{max\_distance}

    With the dot product as score that is :math:`q_i \cdot (k_j + a_{\operatorname{clip}(d_{ij})})
    / \sqrt{D}`. The queries are compared with the 2m + 1 vectors first, and the products then
    looked up by distance, so that no ``L × S × D`` numbers exist.

    The paper also adds a vector to each value; see :class:`ShawValues`.

    Args:
        head_dim: width of a query head, D.
        max_distance: m; keys further away have the vector of that distance.
        heads: number of query heads, if each is to learn vectors of its own; by default all share.
        scale: what the products are multiplied by, by default :math:`1/\sqrt{D}`: the ``scale`` of
            the call of attention.

    Attributes:
        weight: :math:`a`, ``(2m + 1, head_dim)`` or ``(heads, 2m + 1, head_dim)``, from the
            distance −m to m.

    Raises:
        TypeError: if a size is not an integer, or ``query`` has another dtype than the layer.
        ValueError: if a size is not positive, or ``query`` has another width.

    Source: Shaw, Uszkoreit and Vaswani (2018), equations 4 and 5.

    Example:
        >>> import torch
        >>> from attn_core import attention
        >>> x = torch.randn(2, 8, 5, 64)
        >>> attention(x, x, x, bias=ShawBias(head_dim=64, max_distance=4)).shape
        torch.Size([2, 8, 5, 64])
    """

    uses_content = True

    def __init__(
        self,
        head_dim: int,
        max_distance: int,
        heads: int | None = None,
        *,
        scale: float | None = None,
    ) -> None:
        super().__init__(heads)
        self.scale = checked_scale(scale, head_dim)
        self.max_distance = max_distance
        self.weight = _vectors(head_dim, max_distance, heads)

    def forward(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor:
        """Give the bias of a block, ``(..., Hq, L, S)``."""
        check_sequence("query", query, self.weight.shape[-1])
        check_same_kind("query", query, "the layer", self.weight)
        products = self.scale * (query @ self.weight.mT)  # (..., Hq, L, 2m + 1)
        return look_up(products, _index(distance, self.max_distance))

    def extra_repr(self) -> str:
        return (
            f"head_dim={self.weight.shape[-1]}, max_distance={self.max_distance}, "
            f"heads={self.heads}"
        )


@checked_call
class ShawValues(nn.Module):
    r"""Add to the output the learned vector of each key's distance, weighted as the key is.

    .. math::
        o_i \leftarrow o_i + \sum_j w_{ij} \, a_{\operatorname{clip}(d_{ij})}
        \qquad\text{so that}\qquad
        o_i = \sum_j w_{ij} \, (v_j + a_{\operatorname{clip}(d_{ij})})

    The weights of keys at one clipped distance are added up first, so that no ``L × S × Dv``
    numbers exist. It needs the weights, and so a call with ``return_weights=True``; those are the
    weights before dropout.

    Args:
        value_dim: width of a value head, Dv.
        max_distance: m; keys further away have the vector of that distance.
        heads: number of query heads, if each is to learn vectors of its own; by default all share.

    Attributes:
        weight: :math:`a`, ``(2m + 1, value_dim)`` or ``(heads, 2m + 1, value_dim)``, from the
            distance −m to m.

    Raises:
        TypeError: if a size is not an integer, or ``weights`` has another dtype than the layer.
        ValueError: if a size is not positive, ``weights`` has another number of heads, or
            ``q_offset`` is needed and missing.

    Source: Shaw, Uszkoreit and Vaswani (2018), equation 3.

    Example:
        >>> import torch
        >>> from attn_core import attention
        >>> x = torch.randn(2, 8, 5, 64)
        >>> output, weights = attention(x, x, x, return_weights=True)
        >>> (output + ShawValues(value_dim=64, max_distance=4)(weights)).shape
        torch.Size([2, 8, 5, 64])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, value_dim: int, max_distance: int, heads: int | None = None) -> None:
        super().__init__()
        check_sizes(value_dim=value_dim)
        if heads is not None:
            check_sizes(heads=heads)
        self.heads = heads
        self.max_distance = max_distance
        self.weight = _vectors(value_dim, max_distance, heads)

    def forward(self, weights: Tensor, q_offset: int | Tensor | None = None) -> Tensor:
        """Give ``(..., Hq, L, Dv)``, what is added to the output, for weights ``(..., Hq, L, S)``.

        Args:
            weights: ``(..., Hq, L, S)``, as attention returns them.
            q_offset: as in :func:`attn_core.attention`; it must be given when L and S differ.

        Returns:
            ``(..., Hq, L, value_dim)``.

        Raises:
            TypeError: if ``weights`` has another dtype than the layer.
            ValueError: if it has another number of heads, or ``q_offset`` is needed and missing.
        """
        check_floating_point("weights", weights)
        check_same_kind("weights", weights, "the layer", self.weight)
        if weights.ndim < 2 or (self.heads is not None and weights.shape[-3:-2] != (self.heads,)):
            raise ValueError(
                f"weights must be (..., {self.heads or 'heads'}, queries, keys), got weights "
                f"{tuple(weights.shape)}"
            )
        q_len, k_len = weights.shape[-2:]
        distance = distances(q_len, k_len, q_offset, weights.device)
        if distance.ndim == 4 and weights.shape[:-3] != distance.shape[:1]:
            raise ValueError(
                f"q_offset has {len(distance)} entries, and so must weights (batch, heads, "
                f"queries, keys), got weights {tuple(weights.shape)}"
            )
        index = _index(distance, self.max_distance)
        at_distance = weights.new_zeros(*weights.shape[:-1], 2 * self.max_distance + 1)
        at_distance = at_distance.scatter_add(-1, index.expand(weights.shape), weights)
        return at_distance @ self.weight

    def extra_repr(self) -> str:
        return (
            f"value_dim={self.weight.shape[-1]}, max_distance={self.max_distance}, "
            f"heads={self.heads}"
        )


def checked_scale(scale: float | None, head_dim: int) -> float:
    """The scale of attention's own score, unless another is given."""
    check_sizes(head_dim=head_dim)
    if scale is None:
        return 1 / math.sqrt(head_dim)
    check_number("scale", scale)
    return float(scale)


def look_up(products: Tensor, index: Tensor) -> Tensor:
    """Take for each query and key the entry of ``products`` that ``index`` names.

    ``(..., Hq, L, entries)`` and integers ``(L, S)`` or ``(batch, 1, L, S)`` give
    ``(..., Hq, L, S)``.
    """
    rows = torch.broadcast_shapes(products.shape[:-1], index.shape[:-1])
    products = products.expand(*rows, products.shape[-1])
    return products.gather(-1, index.expand(*rows, index.shape[-1]))


def _vectors(width: int, max_distance: int, heads: int | None) -> nn.Parameter:
    check_sizes(least=0, max_distance=max_distance)
    leading = () if heads is None else (heads,)
    weight = nn.Parameter(torch.empty(*leading, 2 * max_distance + 1, width))
    nn.init.normal_(weight, std=0.02)
    return weight


def _index(distance: Tensor, max_distance: int) -> Tensor:
    return distance.clamp(-max_distance, max_distance) + max_distance
