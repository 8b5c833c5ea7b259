"""The block that every Transformer here is a stack of: attention, then a feed-forward network."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_core.arguments import Normalizer
from attn_core.attend import AttentionOutput
from attn_core.calls import TensorOrWeights, checked_call
from attn_core.checks import (
    check_eps,
    check_flags,
    check_not_sparse,
    check_same_kind,
    check_sequence,
    check_share,
    check_sizes,
    projected,
)
from attn_core.masks import Mask
from attn_core.modules import KVCache, MultiHeadAttention

__all__ = ["Block", "BlockCache", "BlockOutput", "FeedForward"]

Activation = Literal["relu", "gelu", "gelu_tanh", "swiglu", "geglu", "geglu_tanh"]
Norm = Literal["pre", "post", "both"]
NormKind = Literal["layer", "rms"]

_gelu_tanh = partial(F.gelu, approximate="tanh")
_BENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": _gelu_tanh,
}


class BlockOutput(NamedTuple):
    """What a block returns when it is asked for its weights.

    Attributes:
        output: ``(batch, L, dim)``.
        weights: those of self-attention, ``(batch, heads, L, S)``.
        memory_weights: those of cross-attention, ``(batch, heads, L, memory length)``; None in a
            block without it.
    """

    output: Tensor
    weights: Tensor
    memory_weights: Tensor | None


class BlockCache(NamedTuple):
    """What a block remembers of the tokens it has seen.

    Attributes:
        tokens: the keys and values of self-attention, one more with every token.
        memory: the keys and values of cross-attention, projected once; None in a block without it.
    """

    tokens: KVCache
    memory: KVCache | None

    @property
    def length(self) -> int:
        """How many tokens were seen so far, which is the position of the next one."""
        return self.tokens.length


def tokens_seen(cache: list[BlockCache] | None) -> int:
    """How many tokens a cache has seen, which is the position of the next one; 0 without one."""
    if cache is None:
        return 0
    is_ours = isinstance(cache, list) and all(isinstance(entry, BlockCache) for entry in cache)
    if not is_ours or not cache:
        raise TypeError(f"cache must be what new_cache gave, got {cache!r}")
    return cache[0].length


@checked_call
class FeedForward(nn.Module):
    r"""Change every vector by itself, in a wider space: two linear maps with a bend between them.

    .. math::
        \operatorname{FFN}(x) = \sigma(x W_1 + b_1) \, W_2 + b_2, \qquad
        \operatorname{GLU}(x) = \big(\sigma(x W_g) \odot x W_1\big) \, W_2

    Args:
        dim: width of a vector.
        hidden_dim: width in between; by default ``4 × dim``.
        activation: :math:`\sigma`: ``"relu"``, ``"gelu"``, or ``"gelu_tanh"``, GPT-2's formula
            that comes close to it. Those with a gate have a third matrix and no bias:
            ``"swiglu"`` with silu as :math:`\sigma`, ``"geglu"`` and ``"geglu_tanh"`` with gelu.
        bias: whether the maps have a bias, without a gate.
        dropout: share of the inner numbers dropped, while training only.

    Attributes:
        inner: :math:`W_1, b_1`, ``dim`` to ``hidden_dim``.
        outer: :math:`W_2, b_2`, ``hidden_dim`` to ``dim``.
        gate: :math:`W_g`; None if the activation has no gate.

    Raises:
        ValueError: if a size is not positive, ``activation`` is unknown, or ``dropout`` is not in
            [0, 1), or ``x`` has another width.
        TypeError: if a size is not an integer, or ``x`` not floating point.

    Source: Vaswani et al. (2017), section 3.3; Hendrycks and Gimpel (2016), section 2, for gelu
    and what comes close to it; Shazeer (2020) for the gate.

    Example:
        >>> import torch
        >>> FeedForward(8)(torch.ones(2, 5, 8)).shape
        torch.Size([2, 5, 8])
        >>> FeedForward(8, hidden_dim=24, activation="swiglu").gate
        Linear(in_features=8, out_features=24, bias=False)
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        dim: int,
        hidden_dim: int | None = None,
        *,
        activation: Activation = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim)
        hidden_dim = 4 * dim if hidden_dim is None else hidden_dim
        check_sizes(hidden_dim=hidden_dim)
        if activation not in list(_BENDS):
            raise ValueError(f"activation must be one of {list(_BENDS)}, got {activation!r}")
        check_share("dropout", dropout)
        check_flags(bias=bias)
        self.dim = dim
        self.activation = activation
        is_gated = activation in ("swiglu", "geglu", "geglu_tanh")
        self.inner = nn.Linear(dim, hidden_dim, bias=bias and not is_gated)
        self.gate = nn.Linear(dim, hidden_dim, bias=False) if is_gated else None
        self.outer = nn.Linear(hidden_dim, dim, bias=bias and not is_gated)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Give ``(..., L, dim)`` for ``x`` ``(..., L, dim)``."""
        check_sequence("x", x, self.dim)
        bend = _BENDS[self.activation]
        hidden = projected("x", x, self.inner)
        hidden = bend(hidden) if self.gate is None else bend(self.gate(x)) * hidden
        return self.outer(self.dropout(hidden))

    def extra_repr(self) -> str:
        return f"activation={self.activation}"


@checked_call
class Block(nn.Module):
    r"""Attend, then feed forward, each added to what came in: one layer of a Transformer.

    With the norm *before* (GPT, Llama, ViT, Whisper), *after* (Vaswani's, BERT), or one before and
    another one after each layer (Gemma 2):

    .. math::
        \text{pre:}  \quad & x \leftarrow x + f(\operatorname{norm}(x)) \\
        \text{post:} \quad & x \leftarrow \operatorname{norm}(x + f(x)) \\
        \text{both:} \quad & x \leftarrow x + \operatorname{norm}'(f(\operatorname{norm}(x)))

    for :math:`f` self-attention, then cross-attention if there is any, then the feed-forward
    network.

    Args:
        dim: width of the sequence.
        heads: number of query heads.
        kv_heads: number of key-value heads of self-attention; by default ``heads``.
        head_dim: width of a head; by default ``dim / heads``.
        hidden_dim: inner width of the feed-forward network; by default ``4 × dim``.
        activation: its bend, see :class:`FeedForward`.
        bias: whether projections, network and norms have biases.
        norm: ``"pre"``, ``"post"`` or ``"both"``.
        norm_kind: ``"layer"``, or ``"rms"`` for norms that divide by the root of the mean square
            and neither centre nor shift.
        cross: whether the block attends to a memory too: a decoder's block.
        rotary: a :class:`attn_core.positions.Rotary` for self-attention.
        qk_norm: whether the queries and keys of each head of self-attention pass an RMS norm.
        scale: of self-attention, as in :class:`attn_core.modules.MultiHeadAttention`; so are
            ``softcap``, ``normalizer`` and ``sink``.
        softcap: as there.
        normalizer: as there.
        sink: as there.
        dropout: share dropped of weights, of inner numbers, and of what is added; while training
            only.
        eps: added to the variance in the norms.

    Attributes:
        attention: self-attention.
        memory_attention: cross-attention, or None.
        feed_forward: the network.
        attention_norm: the norm before or after ``attention``; ``memory_norm`` and
            ``feed_forward_norm`` belong to the other two.
        attention_out_norm: with ``"both"`` the norm after ``attention``, else the identity; so are
            ``memory_out_norm`` and ``feed_forward_out_norm``.

    Raises:
        ValueError: if a size is not positive or ``dim`` no multiple of ``heads``, ``norm``,
            ``norm_kind`` or ``activation`` is unknown, or a memory is given to a block without
            cross-attention, or missing in one with it, or missing beside ``memory_mask``.
        TypeError: if a size is not an integer, an input not a tensor, or a mask not one.

    Source: Vaswani et al. (2017), section 3.1, post-norm; Xiong et al. (2020), section 3, pre-norm;
    Zhang and Sennrich (2019) for RMS norms; Ding et al. (2021) for norms before and after.

    Example:
        >>> import torch
        >>> from attn_core import masks
        >>> block = Block(dim=16, heads=4, cross=True)
        >>> x, memory = torch.ones(2, 5, 16), torch.ones(2, 7, 16)
        >>> block(x, memory, mask=masks.causal()).shape
        torch.Size([2, 5, 16])
        >>> block(x, memory, return_weights=True).memory_weights.shape
        torch.Size([2, 4, 5, 7])
    """

    __call__: TensorOrWeights[BlockOutput]

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        hidden_dim: int | None = None,
        activation: Activation = "gelu",
        bias: bool = True,
        norm: Norm = "pre",
        norm_kind: NormKind = "layer",
        cross: bool = False,
        rotary: nn.Module | None = None,
        qk_norm: bool = False,
        scale: float | None = None,
        softcap: float | None = None,
        normalizer: Normalizer | None = None,
        sink: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post", "both"):
            raise ValueError(f"norm must be 'pre', 'post' or 'both', got {norm!r}")
        if norm_kind not in ("layer", "rms"):
            raise ValueError(f"norm_kind must be 'layer' or 'rms', got {norm_kind!r}")
        check_flags(bias=bias, cross=cross, qk_norm=qk_norm)
        check_eps(eps)
        check_sizes(dim=dim)
        dim = int(dim)

        def new_norm(exists: bool = True) -> nn.Module:
            if not exists:
                return nn.Identity()
            if norm_kind == "rms":
                return nn.RMSNorm(dim, eps=eps)
            return nn.LayerNorm(dim, eps=eps, bias=bias)

        is_double = norm == "both"
        self.dim = dim
        self.norm = norm
        self.attention = MultiHeadAttention(
            dim,
            heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            bias=bias,
            dropout=dropout,
            rotary=rotary,
            scale=scale,
            softcap=softcap,
            normalizer=normalizer,
            sink=sink,
        )
        if qk_norm:
            width = dim // heads if head_dim is None else head_dim
            self.attention.query_norm = nn.RMSNorm(width, eps=eps)
            self.attention.key_norm = nn.RMSNorm(width, eps=eps)
        self.attention_norm = new_norm()
        self.attention_out_norm = new_norm(is_double)
        self.memory_attention = (
            MultiHeadAttention(dim, heads, head_dim=head_dim, bias=bias, dropout=dropout)
            if cross
            else None
        )
        self.memory_norm = new_norm() if cross else None
        self.memory_out_norm = new_norm(cross and is_double)
        self.feed_forward = FeedForward(
            dim, hidden_dim, activation=activation, bias=bias, dropout=dropout
        )
        self.feed_forward_norm = new_norm()
        self.feed_forward_out_norm = new_norm(is_double)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | Mask | None = None,
        memory_mask: Tensor | Mask | None = None,
        cache: BlockCache | None = None,
        return_weights: bool = False,
    ) -> Tensor | BlockOutput:
        """Apply the block.

        Args:
            x: ``(batch, L, dim)``.
            memory: ``(batch, S, dim)``, what cross-attention reads.
            mask: which token may attend which, as in
                :class:`attn_core.modules.MultiHeadAttention`.
            memory_mask: the same for cross-attention.
            cache: what :meth:`new_cache` gave; then ``x`` holds the new tokens only.
            return_weights: whether to return the weights too.

        Returns:
            ``(batch, L, dim)``, or :class:`BlockOutput`.

        Raises:
            ValueError: as :class:`Block`.
            TypeError: as :class:`Block`.
        """
        check_flags(return_weights=return_weights)
        if cache is not None and not isinstance(cache, BlockCache):
            raise TypeError(f"cache must be what new_cache gave, got {type(cache).__name__}")
        if (memory is None) != (self.memory_attention is None):
            raise ValueError(
                f"memory is {'missing' if memory is None else 'given'}, but this block has "
                f"{'cross-attention' if memory is None else 'no cross-attention'}"
            )
        self._check("x", x)
        if memory is not None:
            self._check("memory", memory)
        if memory_mask is not None:
            _check_memory_mask(memory_mask, memory)
        query = self._before(x, self.attention_norm)
        tokens = None if cache is None else cache.tokens
        attended, weights = _attend(
            self.attention(query, mask=mask, cache=tokens, return_weights=return_weights)
        )
        x = self._after(x, self.attention_out_norm(attended), self.attention_norm)
        memory_weights = None
        if self.memory_attention is not None and self.memory_norm is not None:
            query = self._before(x, self.memory_norm)
            attended, memory_weights = _attend(
                self.memory_attention(
                    query,
                    memory,
                    mask=memory_mask,
                    cache=None if cache is None else cache.memory,
                    return_weights=return_weights,
                )
            )
            x = self._after(x, self.memory_out_norm(attended), self.memory_norm)
        changed = self.feed_forward(self._before(x, self.feed_forward_norm))
        x = self._after(x, self.feed_forward_out_norm(changed), self.feed_forward_norm)
        return x if weights is None else BlockOutput(x, weights, memory_weights)

    def new_cache(self, **options: Any) -> BlockCache:
        """An empty cache for this block.

        Args:
            **options: of :class:`attn_core.modules.KVCache`, for self-attention.

        Returns:
            The cache; hand it to every call of one sequence.
        """
        return BlockCache(KVCache(**options), None if self.memory_attention is None else KVCache())

    def _check(self, name: str, x: Tensor) -> None:
        check_sequence(name, x, self.dim)
        if x.ndim != 3:
            raise ValueError(
                f"{name} must be (batch, length, {self.dim}), got {name} {tuple(x.shape)}"
            )
        check_same_kind(name, x, "the layer", self.attention_norm.weight)  # type: ignore[arg-type]

    def _before(self, x: Tensor, norm: nn.Module) -> Tensor:
        return x if self.norm == "post" else norm(x)

    def _after(self, x: Tensor, change: Tensor, norm: nn.Module) -> Tensor:
        x = x + self.dropout(change)
        return norm(x) if self.norm == "post" else x

    def extra_repr(self) -> str:
        return f"norm={self.norm}"


def _check_memory_mask(memory_mask: object, memory: Tensor | None) -> None:
    if memory is None:
        raise ValueError("memory_mask is given without a memory")
    if not isinstance(memory_mask, Mask):
        is_table = isinstance(memory_mask, Tensor) and memory_mask.dtype == torch.bool
        if not is_table:
            seen = getattr(memory_mask, "dtype", type(memory_mask).__name__)
            raise TypeError(f"memory_mask must be a bool tensor or a mask, got {seen}")
        check_not_sparse("memory_mask", memory_mask)


def _attend(result: Tensor | AttentionOutput) -> tuple[Tensor, Tensor | None]:
    return result if isinstance(result, AttentionOutput) else (result, None)
