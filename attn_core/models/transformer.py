"""The Transformer: a stack that reads, a stack that writes, and the two together."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_core.calls import TensorOrWeights, checked_call
from attn_core.checks import check_flags, check_sequence, check_share, check_sizes, check_tokens
from attn_core.data.vocabulary import BOS, EOS, PAD
from attn_core.masks import Mask, causal
from attn_core.models.block import Block, BlockCache, BlockOutput, tokens_seen
from attn_core.models.from_torch import copy_stack
from attn_core.positions import SinusoidalEncoding

__all__ = ["StackOutput", "Transformer", "TransformerDecoder", "TransformerEncoder"]

BlockMask: TypeAlias = Tensor | Mask | None


class StackOutput(NamedTuple):
    """What a stack of blocks returns when it is asked for its weights.

    Attributes:
        output: ``(batch, L, dim)``.
        weights: of every block's self-attention, ``(batch, heads, L, S)``.
        memory_weights: of every block's cross-attention, ``(batch, heads, L, memory length)``;
            empty in a stack without it.
    """

    output: Tensor
    weights: list[Tensor]
    memory_weights: list[Tensor]


class _Stack(nn.Module):
    def __init__(self, dim: int, heads: int, layers: int, final_norm: bool | None, **block: Any):
        super().__init__()
        check_sizes(dim=dim, heads=heads, layers=layers)
        if final_norm is not None:
            check_flags(final_norm=final_norm)
        blocks = [Block(int(dim), heads, **block) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        # Before the norm, such a stack is a sum of as many terms as it has layers.
        has_norm = blocks[0].norm != "post" if final_norm is None else final_norm
        self.final_norm = deepcopy(blocks[0].attention_norm) if has_norm else nn.Identity()

    def _run(
        self,
        x: Tensor,
        memory: Tensor | None,
        cache: list[BlockCache] | None,
        return_weights: bool,
        mask: BlockMask | Sequence[BlockMask],
        **options: Any,
    ) -> Tensor | StackOutput:
        masks = mask if isinstance(mask, Sequence) else [mask] * len(self.blocks)
        if len(masks) != len(self.blocks):
            raise ValueError(f"mask has {len(masks)} entries for {len(self.blocks)} blocks")
        tokens_seen(cache)
        if cache is not None and len(cache) != len(self.blocks):
            raise ValueError(f"cache has {len(cache)} entries for {len(self.blocks)} blocks")
        weights: list[Tensor] = []
        memory_weights: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            entry = None if cache is None else cache[number]
            result = block(
                x,
                memory,
                mask=masks[number],
                cache=entry,
                return_weights=return_weights,
                **options,
            )
            if isinstance(result, BlockOutput):
                x = result.output
                weights.append(result.weights)
                if result.memory_weights is not None:
                    memory_weights.append(result.memory_weights)
            else:
                x = result
        x = self.final_norm(x)
        return StackOutput(x, weights, memory_weights) if return_weights else x


@checked_call
class TransformerEncoder(_Stack):
    r"""A stack of blocks in which every token may attend to every other one.

    .. math:: x \leftarrow \operatorname{Block}_n(x), \qquad n = 1, \dots, N

    Args:
        dim: width of the sequence.
        heads: number of heads of every block.
        layers: number of blocks, N.
        final_norm: whether a norm ends the stack; by default yes, but for post-norm, whose
            blocks end with one.
        **block: the other arguments of :class:`attn_core.models.block.Block`: ``hidden_dim``,
            ``activation``, ``norm``, ``dropout``, ...

    Attributes:
        blocks: the blocks.
        final_norm: the last norm, or the identity.

    Raises:
        ValueError: as :class:`attn_core.models.block.Block`.
        TypeError: as :class:`attn_core.models.block.Block`.

    Source: Vaswani et al. (2017), section 3.1.

    Example:
        >>> import torch
        >>> from attn_core import masks
        >>> encoder = TransformerEncoder(dim=16, heads=4, layers=2, norm="post")
        >>> encoder(torch.ones(2, 5, 16), mask=masks.padding([5, 3])).shape
        torch.Size([2, 5, 16])
    """

    __call__: TensorOrWeights[StackOutput]

    def __init__(
        self, dim: int, heads: int, layers: int, *, final_norm: bool | None = None, **block: Any
    ) -> None:
        super().__init__(dim, heads, layers, final_norm, **block)

    def forward(
        self,
        x: Tensor,
        *,
        mask: BlockMask | Sequence[BlockMask] = None,
        return_weights: bool = False,
    ) -> Tensor | StackOutput:
        """Read ``x`` ``(batch, L, dim)``.

        Args:
            x: ``(batch, L, dim)``.
            mask: which token may attend which; a list has one mask for every block.
            return_weights: whether to return the weights too.

        Returns:
            ``(batch, L, dim)``, or :class:`StackOutput`.
        """
        return self._run(x, None, None, return_weights, mask)

    @classmethod
    def from_torch(cls, stack: nn.TransformerEncoder) -> Self:
        """Copy a :class:`torch.nn.TransformerEncoder`, weights and all.

        Args:
            stack: what to copy; the copy is batch first whatever it is.

        Returns:
            A stack that gives the same output.

        Raises:
            TypeError: if ``stack`` is no :class:`torch.nn.TransformerEncoder`.
            ValueError: if its activation is neither ReLU nor GELU.
        """
        return copy_stack(cls, stack, nn.TransformerEncoder)


@checked_call
class TransformerDecoder(_Stack):
    r"""A stack of blocks in which a token attends to itself and those before it, and to a memory.

    .. math:: x \leftarrow \operatorname{Block}_n(x, \text{memory}), \qquad n = 1, \dots, N

    Args:
        dim: width of the sequence and of the memory.
        heads: number of heads of every block.
        layers: number of blocks, N.
        cross: whether there is a memory to attend to; without, this is a language model's stack.
        final_norm: as in :class:`TransformerEncoder`.
        **block: the other arguments of :class:`attn_core.models.block.Block`.

    Attributes:
        blocks: the blocks.
        final_norm: the last norm, or the identity.

    Raises:
        ValueError: as :class:`attn_core.models.block.Block`, or if ``cache`` is another stack's.
        TypeError: as :class:`attn_core.models.block.Block`.

    Source: Vaswani et al. (2017), section 3.1.

    Example:
        >>> import torch
        >>> decoder, memory = TransformerDecoder(dim=16, heads=4, layers=2), torch.ones(2, 7, 16)
        >>> cache = decoder.new_cache()
        >>> decoder(torch.ones(2, 5, 16), memory, cache=cache).shape
        torch.Size([2, 5, 16])
        >>> decoder(torch.ones(2, 1, 16), memory, cache=cache).shape, cache[0].length
        (torch.Size([2, 1, 16]), 6)
    """

    __call__: TensorOrWeights[StackOutput]

    def __init__(
        self,
        dim: int,
        heads: int,
        layers: int,
        *,
        cross: bool = True,
        final_norm: bool | None = None,
        **block: Any,
    ) -> None:
        super().__init__(dim, heads, layers, final_norm, cross=cross, **block)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: BlockMask | Sequence[BlockMask] = causal(),  # noqa: B008 - always the same object
        memory_mask: Tensor | Mask | None = None,
        cache: list[BlockCache] | None = None,
        return_weights: bool = False,
    ) -> Tensor | StackOutput:
        """Write on: give a vector for every token, from it, those before it, and the memory.

        Args:
            x: ``(batch, L, dim)``.
            memory: ``(batch, S, dim)``, what the encoder returned.
            mask: which token may attend which; a list has one mask for every block.
            memory_mask: which token may attend which vector of the memory.
            cache: what :meth:`new_cache` gave; then ``x`` holds the new tokens only.
            return_weights: whether to return the weights too.

        Returns:
            ``(batch, L, dim)``, or :class:`StackOutput`.
        """
        return self._run(x, memory, cache, return_weights, mask, memory_mask=memory_mask)

    def new_cache(self, **options: Any) -> list[BlockCache]:
        """An empty cache per block, with these options of :class:`attn_core.modules.KVCache`."""
        return [block.new_cache(**options) for block in self.blocks]  # type: ignore[operator]

    @classmethod
    def from_torch(cls, stack: nn.TransformerDecoder) -> Self:
        """Copy a :class:`torch.nn.TransformerDecoder`, weights and all.

        Args:
            stack: what to copy; the copy is batch first whatever it is, and causal unless it is
                given another mask.

        Returns:
            A stack that gives the same output.

        Raises:
            TypeError: if ``stack`` is no :class:`torch.nn.TransformerDecoder`.
            ValueError: if its activation is neither ReLU nor GELU.
        """
        return copy_stack(cls, stack, nn.TransformerDecoder)


@checked_call
class Transformer(nn.Module):
    r"""An encoder–decoder that turns one sequence of tokens into another.

    .. math:: p(y \mid x) = \prod_t p(y_t \mid y_1, \dots, y_{t-1}, x)

    Tokens are numbers of :class:`attn_core.data.vocabulary.Vocabulary`: 0 is padding, at the end.
    Positions are told by sinusoids, so there is no longest length. The matrix that reads the
    target's tokens gives the logits too.

    Args:
        source_size: number of tokens of the source's vocabulary.
        target_size: number of tokens of the target's vocabulary.
        dim: width of a token's vector.
        heads: number of heads.
        layers: number of blocks of the encoder, and of the decoder.
        dropout: share of the embeddings dropped, and as in :class:`attn_core.models.block.Block`;
            while training only.
        **block: the other arguments of :class:`attn_core.models.block.Block`; ``norm="post"`` and
            ``activation="relu"`` are the paper's.

    Raises:
        ValueError: if a size is not positive, ``dim`` is no multiple of ``heads``, or tokens are
            outside their vocabulary.
        TypeError: if a size is not an integer, or tokens are not int64.

    Source: Vaswani et al. (2017); the weights shared with the output, section 3.4. Documents: D1
    §3.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model = Transformer(14, 14, dim=16, heads=4, layers=2).eval()
        >>> source = torch.tensor([[4, 5, 6], [7, 0, 0]])
        >>> model(source, torch.tensor([[1, 9], [1, 8]])).shape
        torch.Size([2, 2, 14])
        >>> model.generate(source, max_length=5).shape[0]
        2
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        source_size: int,
        target_size: int,
        dim: int,
        heads: int,
        layers: int,
        *,
        dropout: float = 0.0,
        **block: Any,
    ) -> None:
        super().__init__()
        check_sizes(source_size=source_size, target_size=target_size, dim=dim)
        check_share("dropout", dropout)
        self.source_embedding = nn.Embedding(source_size, dim, padding_idx=PAD)
        self.target_embedding = nn.Embedding(target_size, dim, padding_idx=PAD)
        self.position = SinusoidalEncoding(dim)
        self.encoder = TransformerEncoder(dim, heads, layers, dropout=dropout, **block)
        self.decoder = TransformerDecoder(dim, heads, layers, dropout=dropout, **block)
        self.dropout = nn.Dropout(dropout)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=dim**-0.5)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Read the source.

        Args:
            source: token numbers ``(batch, S)``, padded with 0.

        Returns:
            The memory ``(batch, S, dim)``, and its mask ``(batch, 1, 1, S)``, False on padding.
        """
        check_tokens("source", source, self.source_embedding.num_embeddings)
        is_token = (source != PAD)[:, None, None, :]
        return self.encoder(self._embed(source, self.source_embedding), mask=is_token), is_token

    def decode(
        self,
        target: Tensor,
        memory: Tensor,
        memory_mask: Tensor | None = None,
        *,
        cache: list[BlockCache] | None = None,
    ) -> Tensor:
        """Give the next token's logits after every token of ``target``.

        Args:
            target: token numbers ``(batch, T)``; with a cache, the new ones only.
            memory: what :meth:`encode` returned.
            memory_mask: what :meth:`encode` returned beside it.
            cache: what ``decoder.new_cache()`` gave.

        Returns:
            ``(batch, T, target_size)``.
        """
        check_tokens("target", target, self.target_embedding.num_embeddings)
        check_sequence("memory", memory, self.target_embedding.embedding_dim)
        if len(target) != len(memory):
            raise ValueError(
                f"source and target must have as many rows, got {len(memory)} and {len(target)}"
            )
        embedded = self._embed(target, self.target_embedding, tokens_seen(cache))
        states = self.decoder(embedded, memory, memory_mask=memory_mask, cache=cache)
        return F.linear(states, self.target_embedding.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Teacher forcing: the next token's logits after every token of the true target.

        Args:
            source: token numbers ``(batch, S)``, padded with 0.
            target: token numbers ``(batch, T)``, ``<bos>`` first, padded with 0.

        Returns:
            logits ``(batch, T, target_size)``; row t predicts token t + 1.
        """
        return self.decode(target, *self.encode(source))

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of the target's tokens after ``<bos>``, padding left out.

        Args:
            source: token numbers ``(batch, S)``, padded with 0.
            target: token numbers ``(batch, T)``, ``<bos>`` first and ``<eos>`` last.

        Returns:
            A scalar, in nats per token.
        """
        check_tokens("target", target, self.target_embedding.num_embeddings)
        logits = self(source, target[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD)

    @torch.no_grad()
    def generate(self, source: Tensor, max_length: int) -> Tensor:
        """The target that grows by its most probable token, until ``<eos>``.

        Args:
            source: token numbers ``(batch, S)``, padded with 0.
            max_length: the number of tokens after which to stop.

        Returns:
            Token numbers ``(batch, T)`` without ``<bos>``, 0 after ``<eos>``.
        """
        check_sizes(max_length=max_length)
        memory, memory_mask = self.encode(source)
        cache = self.decoder.new_cache()
        token = torch.full((len(source), 1), BOS, device=source.device)
        is_done = torch.zeros_like(token, dtype=torch.bool)
        tokens: list[Tensor] = []
        while len(tokens) < max_length and not is_done.all():
            logits = self.decode(token, memory, memory_mask, cache=cache)
            token = logits.argmax(dim=-1).masked_fill(is_done, PAD)
            is_done = is_done | (token == EOS)
            tokens.append(token)
        return torch.cat(tokens, dim=1)

    def _embed(self, tokens: Tensor, embedding: nn.Embedding, start: int = 0) -> Tensor:
        embedded = embedding(tokens) * math.sqrt(embedding.embedding_dim)
        return self.dropout(self.position(embedded, offset=start))
