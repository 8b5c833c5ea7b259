"""Multi-head latent attention: all keys and values of a token come from one small vector."""

import math
from typing import TypeGuard

import torch
from torch import Tensor, nn

from attn_core.attend import AttentionOutput, attention
from attn_core.calls import TensorOrWeights, checked_call
from attn_core.checks import (
    check_eps,
    check_mask_dimensions,
    check_number,
    check_share,
    check_sizes,
    check_vectors,
    projected,
)
from attn_core.masks import Mask
from attn_core.modules.cache import KVCache
from attn_core.modules.multi_head import normed, rotated
from attn_core.positions import Rotary


@checked_call
class MultiHeadLatentAttention(nn.Module):
    r"""Attend in many heads whose keys and values are unfolded from one small latent vector.

    .. math::
        c_j &= W_{DKV} \, x_j, \qquad c'_i = W_{DQ} \, x_i \\
        k^C_{j,h} &= W_{UK}^h c_j, \qquad
        k^R_j = \operatorname{rotary}(W_{KR} \, x_j), \qquad
        v_{j,h} = W_{UV}^h c_j \\
        q^C_{i,h} &= W_{UQ}^h c'_i, \qquad
        q^R_{i,h} = \operatorname{rotary}(W_{QR}^h c'_i) \\
        s_{ij,h} &= \frac{q^C_{i,h} \cdot k^C_{j,h} + q^R_{i,h} \cdot k^R_j}{\sqrt{D + D_R}} \\
        y_i &= W_O \Big[\dots;\, \sum_j \operatorname{softmax}_j(s_{ij,h}) \, v_{j,h};\, \dots\Big]

    Positions are *decoupled*: they turn a few entries of their own, the rotary key, which all heads
    share. The rest stays linear in the latent, and so the unfolding can be moved to the other side:

    .. math::
        q^C_{i,h} \cdot W_{UK}^h c_j &= ({W_{UK}^h}^\top q^C_{i,h}) \cdot c_j \\
        \sum_j a_{ij,h} \, W_{UV}^h c_j &= W_{UV}^h \sum_j a_{ij,h} \, c_j

    *Absorbed* like this, it is multi-query attention over the latents themselves. The result is the
    same; keys and values are never made. That is cheaper for few queries and many keys, as in
    decoding.

    A cache holds ``kv_rank + rotary_dim`` numbers for a token, where multi-head attention holds
    ``2 × heads × head_dim``.

    Args:
        dim: width of the sequence.
        heads: number of heads.
        kv_rank: width of the latent :math:`c_j`.
        query_rank: width of the latent of the queries :math:`c'_i`; None for queries made from
            :math:`x_i` itself.
        head_dim: width :math:`D` of the part of a head without positions; by default
            ``dim / heads``.
        value_dim: width of a head's values; by default ``head_dim``.
        rotary_dim: width :math:`D_R` of the part that is turned, an even number; by default half of
            ``head_dim``, as in the paper.
        rotary: what turns it; by default ``positions.Rotary()``. A released model may need
            ``Rotary(pairing="interleaved")``.
        norm: whether the latents pass an RMS norm, as in the paper's models.
        eps: added to the mean square in these norms.
        scale: multiplies the scores; by default :math:`1 / \sqrt{D + D_R}`. Models whose positions
            were stretched by YaRN have another.
        dropout: share of weights dropped, while training only.

    Attributes:
        latent_proj: :math:`W_{DKV}`, ``dim`` to ``kv_rank``.
        rotary_key_proj: :math:`W_{KR}`, ``dim`` to ``rotary_dim``.
        key_proj: :math:`W_{UK}`, ``kv_rank`` to ``heads × head_dim``.
        value_proj: :math:`W_{UV}`, ``kv_rank`` to ``heads × value_dim``.
        query_latent_proj: :math:`W_{DQ}`, ``dim`` to ``query_rank``; None without ``query_rank``.
        query_proj: :math:`W_{UQ}`, to ``heads × head_dim``.
        rotary_query_proj: :math:`W_{QR}`, to ``heads × rotary_dim``.
        out_proj: :math:`W_O`, ``heads × value_dim`` to ``dim``.

    Raises:
        ValueError: if a size is not positive, sizes do not divide, ``rotary_dim`` is odd,
            ``dropout`` is not in [0, 1), ``eps`` is negative, or an input has the wrong shape.
        TypeError: if a size is not an integer, ``rotary`` no module, or an input not a tensor.

    Source: DeepSeek-AI (2024), section 2.1 and appendix C.

    Example:
        >>> import torch
        >>> from attn_core import masks
        >>> from attn_core.modules import KVCache
        >>> layer, cache = MultiHeadLatentAttention(dim=64, heads=8, kv_rank=16), KVCache()
        >>> layer(torch.ones(2, 5, 64), mask=masks.causal(), cache=cache).shape
        torch.Size([2, 5, 64])
        >>> cache.key.shape[-1] + cache.value.shape[-1]  # and not 2 × 64
        20
    """

    __call__: TensorOrWeights[AttentionOutput]

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_rank: int,
        query_rank: int | None = None,
        head_dim: int | None = None,
        value_dim: int | None = None,
        rotary_dim: int | None = None,
        rotary: nn.Module | None = None,
        norm: bool = True,
        eps: float = 1e-6,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, heads=heads, kv_rank=kv_rank)
        kv_rank = int(kv_rank)
        if head_dim is None:
            if dim % heads:
                raise ValueError(f"dim must be a multiple of heads, got dim {dim}, heads {heads}")
            head_dim = dim // heads
        check_sizes(head_dim=head_dim)
        value_dim = head_dim if value_dim is None else value_dim
        rotary_dim = head_dim // 2 if rotary_dim is None else rotary_dim
        check_sizes(value_dim=value_dim, rotary_dim=rotary_dim)
        if rotary_dim % 2:
            raise ValueError(f"rotary_dim must be even, got {rotary_dim}")
        if query_rank is not None:
            check_sizes(query_rank=query_rank)
            query_rank = int(query_rank)
        if rotary is not None and not isinstance(rotary, nn.Module):
            raise TypeError(f"rotary must be a module (x, positions), got {rotary!r}")
        check_eps(eps)
        if scale is not None:
            check_number("scale", scale)
        check_share("dropout", dropout)
        self.dim = dim
        self.heads = heads
        self.kv_rank = kv_rank
        self.head_dim = head_dim
        self.value_dim = value_dim
        self.rotary_dim = rotary_dim
        self.scale = 1 / math.sqrt(head_dim + rotary_dim) if scale is None else float(scale)
        self.dropout = dropout
        self.latent_proj = nn.Linear(dim, kv_rank, bias=False)
        self.latent_norm = nn.RMSNorm(kv_rank, eps=eps) if norm else nn.Identity()
        self.rotary_key_proj = nn.Linear(dim, rotary_dim, bias=False)
        self.key_proj = nn.Linear(kv_rank, heads * head_dim, bias=False)
        self.value_proj = nn.Linear(kv_rank, heads * value_dim, bias=False)
        self.query_latent_proj: nn.Linear | None = None
        self.query_latent_norm: nn.Module = nn.Identity()
        if query_rank is not None:
            self.query_latent_proj = nn.Linear(dim, query_rank, bias=False)
            self.query_latent_norm = nn.RMSNorm(query_rank, eps=eps) if norm else nn.Identity()
        query_width = dim if query_rank is None else query_rank
        self.query_proj = nn.Linear(query_width, heads * head_dim, bias=False)
        self.rotary_query_proj = nn.Linear(query_width, heads * rotary_dim, bias=False)
        self.out_proj = nn.Linear(heads * value_dim, dim, bias=False)
        self.rotary = Rotary() if rotary is None else rotary

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | Mask | None = None,
        cache: KVCache | None = None,
        absorbed: bool | None = None,
        return_weights: bool = False,
    ) -> Tensor | AttentionOutput:
        """Attend within ``x`` and what the cache holds, batch first.

        Args:
            x: ``(batch, L, dim)``.
            mask: a mask, or bool ``(L, S)`` or ``(batch, heads, L, S)``, True = may attend.
            cache: what earlier calls left, and where this one leaves its latents and rotary keys.
            absorbed: whether to attend over the latents themselves; by default whatever takes fewer
                multiplications for these L and S, and not where ``key_proj`` or ``value_proj`` is
                no plain linear layer.
            return_weights: whether to return the weights ``(batch, heads, L, S)`` too.

        Returns:
            ``(batch, L, dim)``, or :class:`attn_core.AttentionOutput`.

        Raises:
            ValueError: if ``x`` or ``mask`` has the wrong shape, or ``cache`` does not fit.
            TypeError: if ``x`` is not a tensor, ``mask`` is not bool, or ``cache`` no cache.
        """
        check_vectors("x", x, self.dim)
        check_mask_dimensions(mask)
        if cache is not None and not isinstance(cache, KVCache):
            raise TypeError(f"cache must be a KVCache, got {type(cache).__name__}")
        first = 0 if cache is None else cache.length

        latent = normed(projected("x", x, self.latent_proj), self.latent_norm)
        latent = latent[:, None]  # (batch, 1, L, kv_rank)
        rotary_key = rotated(self.rotary, self.rotary_key_proj(x)[:, None], first)
        query, rotary_query = self._queries(x, first)
        q_offset = None
        if cache is not None:
            mask = cache.mask_of_kept(mask, x.shape[1])
            latent, rotary_key, q_offset = cache.update(latent, rotary_key)

        if absorbed is None:
            absorbed = (
                _is_plain(self.key_proj)
                and _is_plain(self.value_proj)
                and self._absorbing_is_cheaper(x.shape[1], latent.shape[2])
            )
        attend = self._over_latents if absorbed else self._over_heads
        query, key, value = attend(query, latent)
        rotary_key = rotary_key.expand(*key.shape[:3], -1)
        result = attention(
            torch.cat([query, rotary_query], -1),
            torch.cat([key, rotary_key], -1),
            value,
            mask=mask,
            scale=self.scale,
            dropout_p=self.dropout if self.training else 0.0,
            q_offset=q_offset,
            return_weights=return_weights,
        )
        output = result.output if isinstance(result, AttentionOutput) else result
        if absorbed:  # (batch, heads, L, kv_rank) to (batch, heads, L, value_dim)
            output = output @ self._per_head(self.value_proj, output).mT
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        if isinstance(result, AttentionOutput):
            return AttentionOutput(output, result.weights)
        return output

    def _queries(self, x: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """The part without positions ``(batch, heads, L, D)``, and the part that is turned."""
        if self.query_latent_proj is not None:
            x = normed(self.query_latent_proj(x), self.query_latent_norm)
        rotary_query = rotated(self.rotary, self._split(self.rotary_query_proj(x)), first)
        return self._split(self.query_proj(x)), rotary_query

    def _over_heads(self, query: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unfold keys and values of every head from the latents: ``(batch, heads, S, ·)``."""
        latent = latent[:, 0]
        return query, self._split(self.key_proj(latent)), self._split(self.value_proj(latent))

    def _over_latents(self, query: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fold the queries instead: the latents are the keys and the values of a single head."""
        query = query @ self._per_head(self.key_proj, query)
        return query, latent, latent

    def _absorbing_is_cheaper(self, q_len: int, k_len: int) -> bool:
        """Count the multiplications of a head, but for those that both ways have."""
        rank, widths = self.kv_rank, self.head_dim + self.value_dim
        over_heads = k_len * rank * widths + q_len * k_len * widths
        over_latents = q_len * rank * widths + q_len * k_len * 2 * rank
        return over_latents < over_heads

    def _per_head(self, projection: nn.Module, like: Tensor) -> Tensor:
        """The matrix of each head, ``(heads, width, kv_rank)``."""
        if _is_plain(projection):
            matrix = projection.weight
        else:  # a wrapped or quantised layer is asked: what it gives for e_r is column r
            each = torch.eye(self.kv_rank, dtype=like.dtype, device=like.device)
            matrix = projection(each).T
        return matrix.unflatten(0, (self.heads, -1))

    def _split(self, x: Tensor) -> Tensor:
        """(batch, length, heads × width) to (batch, heads, length, width)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, kv_rank={self.kv_rank}, dropout={self.dropout}"


def _is_plain(projection: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is a linear layer whose weight is a matrix, not a quantised form of one."""
    return type(projection) is nn.Linear and not hasattr(projection.weight, "__tensor_flatten__")
