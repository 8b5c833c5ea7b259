"""Multi-head attention, and its grouped-query and multi-query forms."""

from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from attn_core.arguments import Normalizer
from attn_core.attend import AttentionOutput, attention
from attn_core.autocast import autocast_dtype
from attn_core.calls import TensorOrWeights, checked_call
from attn_core.checks import (
    check_mask_dimensions,
    check_number,
    check_share,
    check_sizes,
    check_vectors,
    is_tracing,
    projected,
)
from attn_core.masks import Mask
from attn_core.modules.cache import KVCache
from attn_core.normalizers import softmax_with_sink
from attn_core.positions import Bias, Rotary


@checked_call
class MultiHeadAttention(nn.Module):
    r"""Attend several times side by side, each head with projections of its own.

    .. math::
        \operatorname{MultiHead}(Q, K, V) &= [H_1; \dots; H_h] \, W_O \\
        H_m &= \operatorname{Attention}(Q W_Q^m, K W_K^m, V W_V^m)

    With fewer key-value heads than query heads this is grouped-query attention; with one, it is
    multi-query attention.

    With a cache, a call brings only the tokens that are new, and gives the rows that a call with
    all the tokens would give for them.

    Args:
        dim: width of the query and of the output.
        heads: number of query heads.
        kv_heads: number of key-value heads, a divisor of ``heads``; by default ``heads``.
        head_dim: width of a head; by default ``dim / heads``.
        bias: whether the projections have a bias.
        dropout: share of weights dropped, while training only.
        key_dim: width of the key; by default ``dim``.
        value_dim: width of the value; by default ``dim``.
        rotary: a layer that turns queries and keys by their positions:
            :class:`attn_core.positions.Rotary`, or any module ``(x, positions=None)`` with x
            ``(batch, heads, length, head_dim)`` and positions ``(length,)``.
        scale: as in :func:`attn_core.attention`; by default 1 / √head_dim.
        softcap: as in :func:`attn_core.attention`, as Gemma 2 has it.
        normalizer: as in :func:`attn_core.attention`; a module is trained with the layer.
        sink: whether each head learns the score of a key without a value, so that its weights may
            sum to less than 1: :func:`attn_core.normalizers.softmax_with_sink`, as gpt-oss has it.
        query_norm: a module that norms each head of the queries, before they are turned:
            ``nn.RMSNorm(head_dim)``, as Qwen 3 and Gemma 3 have it.
        key_norm: the same for the keys.

    Attributes:
        query_proj: ``dim`` to ``heads × head_dim``.
        key_proj: ``key_dim`` to ``kv_heads × head_dim``.
        value_proj: ``value_dim`` to ``kv_heads × head_dim``.
        out_proj: ``heads × head_dim`` to ``dim``.
        sink: the scores ``(heads,)``, 0 to begin with; None without ``sink``.

    Raises:
        ValueError: if a size is not positive, sizes do not divide, ``dropout`` is not in
            [0, 1), ``softcap`` is not positive, ``sink`` and ``normalizer`` are both given, or an
            input has the wrong shape.
        TypeError: if a size is not an integer, ``rotary`` or a norm no module, ``normalizer`` not
            callable, or an input not a tensor.

    Source: Vaswani et al. (2017), section 3.2.2; Shazeer (2019); Ainslie et al. (2023); Henry et
    al. (2020) for the norms of queries and keys; OpenAI (2025) for the sink.

    Example:
        >>> import torch
        >>> from attn_core import masks
        >>> layer = MultiHeadAttention(dim=16, heads=4, kv_heads=2)
        >>> x = torch.ones(2, 5, 16)
        >>> layer(x, mask=masks.causal()).shape
        torch.Size([2, 5, 16])
        >>> layer(x, return_weights=True).weights.shape
        torch.Size([2, 4, 5, 5])
    """

    __call__: TensorOrWeights[AttentionOutput]

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        key_dim: int | None = None,
        value_dim: int | None = None,
        rotary: nn.Module | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        normalizer: Normalizer | None = None,
        sink: bool = False,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, heads=heads)
        if head_dim is None:
            if dim % heads:
                raise ValueError(f"dim must be a multiple of heads, got dim {dim}, heads {heads}")
            head_dim = dim // heads
        kv_heads = heads if kv_heads is None else kv_heads
        key_dim = dim if key_dim is None else key_dim
        value_dim = dim if value_dim is None else value_dim
        check_sizes(kv_heads=kv_heads, head_dim=head_dim, key_dim=key_dim, value_dim=value_dim)
        if heads % kv_heads:
            raise ValueError(
                f"heads must be a multiple of kv_heads, got heads {heads}, kv_heads {kv_heads}"
            )
        check_share("dropout", dropout)
        if rotary is not None and not isinstance(rotary, nn.Module):
            raise TypeError(f"rotary must be a module (x, positions), got {rotary!r}")
        for name, norm in (("query_norm", query_norm), ("key_norm", key_norm)):
            if norm is not None and not isinstance(norm, nn.Module):
                raise TypeError(f"{name} must be a module, nn.RMSNorm for example, got {norm!r}")
        _check_steps(scale, softcap, normalizer, sink)
        self.dim = dim
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.heads = heads
        self.kv_heads = kv_heads
        self.dropout = dropout
        self.scale = scale
        self.softcap = softcap
        self.normalizer = normalizer
        self.query_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.key_proj = nn.Linear(key_dim, kv_heads * head_dim, bias=bias)
        self.value_proj = nn.Linear(value_dim, kv_heads * head_dim, bias=bias)
        self.out_proj = nn.Linear(heads * head_dim, dim, bias=bias)
        self.rotary = rotary
        self.query_norm = query_norm
        self.key_norm = key_norm
        self.sink = nn.Parameter(torch.zeros(heads)) if sink else None

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Tensor | Mask | None = None,
        bias: Tensor | Bias | None = None,
        q_offset: int | Tensor | None = None,
        cache: KVCache | None = None,
        return_weights: bool = False,
    ) -> Tensor | AttentionOutput:
        """Attend from ``query`` to ``key`` and ``value``, batch first.

        Args:
            query: ``(batch, L, dim)``.
            key: ``(batch, S, key_dim)``; by default the query: self-attention.
            value: ``(batch, S, value_dim)``; by default the key.
            mask: a mask, or bool ``(L, S)`` or ``(batch, heads, L, S)``, **True = may attend**,
                where :class:`torch.nn.MultiheadAttention` means the opposite.
            bias: as in :func:`attn_core.attention`.
            q_offset: as in :func:`attn_core.attention`; in self-attention a cache sets it.
            cache: what earlier calls left, and where this one leaves its own. In self-attention the
                new keys and values are appended, and S counts all that are kept. In
                cross-attention, with a ``key`` that is not the query, they are projected at the
                first call and read from the cache afterwards; a new memory needs an empty cache.
            return_weights: whether to return the weights ``(batch, heads, L, S)`` too.

        Returns:
            ``(batch, L, dim)``, or :class:`attn_core.AttentionOutput`.

        Raises:
            ValueError: if an input or ``mask`` has the wrong shape, or ``cache`` does not fit.
            TypeError: if an input is not a tensor, ``mask`` is not bool, or ``cache`` no cache.
        """
        is_self_attention = key is None or key is query
        key = query if key is None else key
        value = key if value is None else value
        check_vectors("query", query, self.dim)
        if key is not query or self.key_dim != self.dim:
            check_vectors("key", key, self.key_dim)
        if value is not key or self.value_dim != self.key_dim:
            check_vectors("value", value, self.value_dim)
        check_mask_dimensions(mask)
        if cache is not None and not isinstance(cache, KVCache):
            raise TypeError(f"cache must be a KVCache, got {type(cache).__name__}")

        queries = normed(
            _split(projected("query", query, self.query_proj), self.heads), self.query_norm
        )
        if cache is not None and is_self_attention:
            if q_offset is not None:
                raise ValueError(f"a cache sets q_offset by itself, got q_offset {q_offset}")
            mask = cache.mask_of_kept(mask, query.shape[1])
            queries, keys = self._rotated(queries, self._keys(key), cache.length)
            keys, values, q_offset = cache.update(keys, self._values(value))
        else:
            queries = rotated(self.rotary, queries, self._first_position(query, key, q_offset))
            keys, values = self._memory(key, value, cache)
        result = attention(
            queries,
            keys,
            values,
            mask=mask,
            bias=bias,
            normalizer=self._normalizer_for(queries),
            scale=self.scale,
            softcap=self.softcap,
            dropout_p=self.dropout if self.training else 0.0,
            q_offset=q_offset,
            return_weights=return_weights,
        )
        if isinstance(result, AttentionOutput):
            return AttentionOutput(self.out_proj(_join(result.output)), result.weights)
        return self.out_proj(_join(result))

    def _rotated(self, queries: Tensor, keys: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Turn new queries and keys; those of one token in one go, which takes half as long."""
        if isinstance(self.rotary, Rotary) and not is_tracing() and queries.shape[2] == 1:
            both = rotated(self.rotary, torch.cat([queries, keys], 1), first)
            return both[:, : self.heads], both[:, self.heads :]
        return rotated(self.rotary, queries, first), rotated(self.rotary, keys, first)

    def _keys(self, key: Tensor) -> Tensor:
        return normed(_split(projected("key", key, self.key_proj), self.kv_heads), self.key_norm)

    def _values(self, value: Tensor) -> Tensor:
        return _split(projected("value", value, self.value_proj), self.kv_heads)

    def _memory(self, key: Tensor, value: Tensor, cache: KVCache | None) -> tuple[Tensor, Tensor]:
        """The keys and values of a whole sequence: projected, or read from the cache."""
        if cache is None:
            return rotated(self.rotary, self._keys(key), 0), self._values(value)
        if not cache.length:
            cache.fill(rotated(self.rotary, self._keys(key), 0), self._values(value))
        if not cache.holds_memory:
            raise ValueError(
                f"key is not the query, but the cache holds tokens of self-attention, {cache!r}: "
                "cross-attention needs a cache of its own"
            )
        for name, memory in (("key", key), ("value", value)):
            if memory.shape[:2] != (len(cache.key), cache.length):
                raise ValueError(
                    f"the cache holds a memory of {cache.length} vectors for a batch of "
                    f"{len(cache.key)}, got {name} {tuple(memory.shape)}; a new memory needs an "
                    "empty cache"
                )
        return cache.key, cache.value

    def _normalizer_for(self, queries: Tensor) -> Normalizer | None:
        if self.sink is None:
            return self.normalizer
        return partial(softmax_with_sink, sink=self.sink.to(queries.dtype)[:, None, None])

    def _first_position(
        self, query: Tensor, key: Tensor, q_offset: int | Tensor | None
    ) -> int | Tensor:
        if q_offset is not None:
            return q_offset
        if self.rotary is not None and query.shape[1] != key.shape[1]:
            raise ValueError(
                "rotary needs to know where the queries stand among the keys: give q_offset for "
                f"{query.shape[1]} queries and {key.shape[1]} keys"
            )
        return 0

    @classmethod
    def from_torch(cls, layer: nn.MultiheadAttention) -> Self:
        """Copy a :class:`torch.nn.MultiheadAttention`, weights and all.

        The copy is batch first whatever ``layer.batch_first`` is, takes masks with True = may
        attend, and returns the weights of each head, before dropout.

        Args:
            layer: the layer to copy.

        Returns:
            A layer that gives the same output.

        Raises:
            TypeError: if ``layer`` is no :class:`torch.nn.MultiheadAttention`.
            ValueError: if it has ``add_bias_kv`` or ``add_zero_attn``, which this one has not.

        Example:
            >>> import torch
            >>> theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
            >>> ours = MultiHeadAttention.from_torch(theirs)
            >>> x = torch.randn(1, 3, 8)
            >>> torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6)
            True
        """
        if not isinstance(layer, nn.MultiheadAttention):
            raise TypeError(f"layer must be a MultiheadAttention, got {type(layer).__name__}")
        if layer.bias_k is not None or layer.add_zero_attn:
            raise ValueError("layer has add_bias_kv or add_zero_attn, which cannot be copied")
        has_bias = layer.in_proj_bias is not None
        copy = cls(
            layer.embed_dim,
            layer.num_heads,
            bias=has_bias,
            dropout=layer.dropout,
            key_dim=layer.kdim,
            value_dim=layer.vdim,
        ).to(layer.out_proj.weight)
        in_projections = (copy.query_proj, copy.key_proj, copy.value_proj)
        if layer.in_proj_weight is not None:
            weights = layer.in_proj_weight.chunk(3)
        else:
            weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        with torch.no_grad():
            for projection, weight in zip(in_projections, weights, strict=True):
                projection.weight.copy_(weight)
            copy.out_proj.weight.copy_(layer.out_proj.weight)
            if has_bias:
                for projection, offset in zip(
                    in_projections, layer.in_proj_bias.chunk(3), strict=True
                ):
                    projection.bias.copy_(offset)
                copy.out_proj.bias.copy_(layer.out_proj.bias)
        return copy.train(layer.training)

    def extra_repr(self) -> str:
        settings = {
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "dropout": self.dropout,
            "scale": self.scale,
            "softcap": self.softcap,
        }
        return ", ".join(f"{name}={x}" for name, x in settings.items() if x is not None)


def _check_steps(
    scale: float | None, softcap: float | None, normalizer: Normalizer | None, sink: bool
) -> None:
    """Refuse, when a layer is made, what attention would refuse at its first call."""
    if scale is not None:
        check_number("scale", scale)
    if softcap is not None:
        check_number("softcap", softcap)
        if softcap <= 0:
            raise ValueError(f"softcap must be positive, got {softcap}")
    if normalizer is not None and not callable(normalizer):
        raise TypeError(f"normalizer must be a callable (scores, dim), got {normalizer!r}")
    if not isinstance(sink, bool):
        raise TypeError(f"sink must be True or False, got {sink!r}")
    if sink and normalizer is not None:
        raise ValueError(
            "sink is softmax_with_sink, a normalizer of its own, but normalizer is given too: "
            f"{normalizer!r}"
        )


def normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    """Apply a norm; the result has the dtype of x, whatever the norm computes in."""
    if norm is None:
        return x
    # What autocast made half goes into float32, as the parameters of the norm are.
    is_cast = autocast_dtype(x.device) is not None
    return norm(x.to(torch.promote_types(x.dtype, torch.float32)) if is_cast else x).to(x.dtype)


def rotated(rotary: nn.Module | None, x: Tensor, first: int | Tensor) -> Tensor:
    """Turn the vectors of sequences whose first one stands at this position."""
    if rotary is None:
        return x
    if isinstance(first, int) and first == 0:
        turned: Tensor = rotary(x)
    elif isinstance(first, int) and isinstance(rotary, Rotary):
        turned = rotary(x, offset=first)
    else:
        first = first[:, None] if isinstance(first, Tensor) else first
        turned = rotary(x, first + torch.arange(x.shape[-2], device=x.device))
    return turned


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, length, heads × width) to (batch, heads, length, width)."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    """(batch, heads, length, width) to (batch, length, heads × width)."""
    return x.transpose(1, 2).flatten(2)
