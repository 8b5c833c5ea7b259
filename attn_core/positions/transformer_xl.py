"""Transformer-XL's relative positions: sinusoids of the distance, and two biases per head."""

import torch
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import check_number, check_same_kind, check_sequence, check_sizes
from attn_core.positions.absolute import wave_table
from attn_core.positions.bias import Bias
from attn_core.positions.shaw import checked_scale, look_up


@checked_call
class TransformerXLBias(Bias):
    r"""Turn the dot product of query and key into Transformer-XL's score.

    .. math::
        \underbrace{q_i \cdot k_j}_{(a)}
        + \underbrace{q_i \cdot W_R \, r_{i-j}}_{(b)}
        + \underbrace{u_h \cdot k_j}_{(c)}
        + \underbrace{v_h \cdot W_R \, r_{i-j}}_{(d)}

    divided by :math:`\sqrt{D}`, where :math:`r_{i-j} = P_{-d_{ij}}` is the sinusoidal encoding of
    how far the key lies back. The score of attention is (a); this bias adds the other three.

    The queries are compared once with each distance that occurs, and the products then looked up
    by distance; the paper's shift of rows does the same to a full table.

    Args:
        heads: number of query heads.
        head_dim: width of a head, D.
        dim: width of the sinusoidal encoding; by default ``heads × head_dim``.
        base: as in :func:`sinusoidal`.
        scale: what (b), (c) and (d) are multiplied by, by default :math:`1/\sqrt{D}`: the ``scale``
            of the call of attention.

    Attributes:
        content_bias: :math:`u`, ``(heads, head_dim)``.
        position_bias: :math:`v`, ``(heads, head_dim)``.
        position_proj: :math:`W_R`, a linear layer from ``dim`` to ``heads × head_dim``, no bias.

    Raises:
        TypeError: if a size is not an integer, or ``query`` has another dtype than the layer.
        ValueError: if a size is not positive, or query or key has another width.

    Source: Dai et al. (2019), section 3.3.

    Example:
        >>> import torch
        >>> from attn_core import attention, masks
        >>> query, memory = torch.randn(2, 8, 5, 64), torch.randn(2, 8, 9, 64)
        >>> bias = TransformerXLBias(heads=8, head_dim=64)
        >>> attention(query, memory, memory, mask=masks.causal(), bias=bias, q_offset=4).shape
        torch.Size([2, 8, 5, 64])
    """

    uses_content = True

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        dim: int | None = None,
        base: float = 10000.0,
        scale: float | None = None,
    ) -> None:
        super().__init__(heads)
        self.scale = checked_scale(scale, head_dim)
        dim = heads * head_dim if dim is None else dim
        check_sizes(dim=dim)
        check_number("base", base)
        if base <= 0:
            raise ValueError(f"base must be positive, got {base}")
        self.dim = dim
        self.base = base
        self.content_bias = nn.Parameter(torch.empty(heads, head_dim))
        self.position_bias = nn.Parameter(torch.empty(heads, head_dim))
        self.position_proj = nn.Linear(dim, heads * head_dim, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def forward(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor:
        """Give the bias of a block, ``(..., Hq, L, S)``."""
        head_dim = self.content_bias.shape[1]
        for name, x in (("query", query), ("key", key)):
            check_sequence(name, x, head_dim)
            check_same_kind(name, x, "the layer", self.content_bias)
        if key.ndim < 3 or len(self.content_bias) % key.shape[-3]:
            raise ValueError(
                f"key must be (..., heads, length, {head_dim}) with a divisor of "
                f"{self.heads} heads, got key {tuple(key.shape)}"
            )
        return self.scale * (self._of_content(key) + self._of_distance(query, distance))

    def _of_content(self, key: Tensor) -> Tensor:
        """(c), the same for all queries: ``(..., Hq, 1, S)``."""
        kv_heads = key.shape[-3]
        biases = self.content_bias.unflatten(0, (kv_heads, -1))  # (Hkv, group, D)
        return (biases @ key.mT).flatten(-3, -2).unsqueeze(-2)

    def _of_distance(self, query: Tensor, distance: Tensor) -> Tensor:
        """(b) + (d): ``(..., Hq, L, S)``."""
        if distance.numel() == 0:
            return query.new_zeros(distance.shape)
        first, last = (int(end) for end in distance.aminmax())
        each = torch.arange(first, last + 1, device=distance.device)
        waves = wave_table(-each, self.dim, self.base)
        # (distances, heads × D) to (heads, distances, D)
        vectors = self.position_proj(waves.to(self.content_bias.dtype))
        vectors = vectors.unflatten(-1, (self.heads, -1)).transpose(0, 1)
        products = (query + self.position_bias.unsqueeze(1)) @ vectors.mT
        return look_up(products, distance - first)

    def extra_repr(self) -> str:
        return (
            f"heads={self.heads}, head_dim={self.content_bias.shape[1]}, "
            f"dim={self.dim}, base={self.base}"
        )
