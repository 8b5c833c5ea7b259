"""A language model: a stack of causal blocks that says how likely every next token is."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import (
    check_flags,
    check_is_token,
    check_number,
    check_share,
    check_sizes,
    check_tokens,
)
from attn_core.masks import Mask, causal, dense, padding
from attn_core.masks import window as window_mask
from attn_core.models.block import BlockCache, tokens_seen
from attn_core.models.transformer import TransformerDecoder
from attn_core.positions import LearnedEncoding

__all__ = ["GPT"]


@checked_call
class GPT(nn.Module):
    r"""Predict the next token from the tokens before it.

    .. math:: p(x_1, \dots, x_L) = \prod_t p(x_t \mid x_1, \dots, x_{t-1})

    Positions are learned, up to ``max_len`` of them, or told to every layer by rotations, without a
    longest length.

    With other arguments of the block this is today's decoders: Llama, Mistral, Qwen, Gemma.

    Args:
        vocab_size: number of tokens.
        dim: width of a token's vector.
        heads: number of heads.
        layers: number of blocks.
        max_len: number of positions to learn; give it or ``rotary``.
        rotary: an :class:`attn_core.positions.Rotary` of the heads' width.
        window: how many tokens back a token may look, besides itself; None for all of them. A list
            has one entry for every block, where some look further back than others.
        tied: whether the matrix that reads the tokens gives the logits too; if not, there is
            another one, ``output``.
        dropout: share of the embeddings dropped, and as in :class:`attn_core.models.block.Block`;
            while training only.
        **block: the other arguments of :class:`attn_core.models.block.Block`: ``kv_heads``,
            ``hidden_dim``, ``activation``, ...

    Raises:
        ValueError: if a size is not positive, both or neither of ``max_len`` and ``rotary`` are
            given, ``window`` has not one entry for every block, tokens are outside the vocabulary,
            or a sequence is longer than ``max_len``.
        TypeError: if a size is not an integer, or tokens are not int64.

    Source: Radford et al. (2019), section 2.3, whose sizes are 50257, 768, 12, 12 and 1024.

    Example:
        >>> import torch
        >>> from attn_core.positions import Rotary
        >>> _ = torch.manual_seed(0)
        >>> model = GPT(100, dim=32, heads=4, layers=2, max_len=64).eval()
        >>> prompt = torch.tensor([[5, 7, 9]])
        >>> model(prompt).shape
        torch.Size([1, 3, 100])
        >>> model.generate(prompt, steps=4, temperature=0).shape
        torch.Size([1, 7])
        >>> settings = {"norm_kind": "rms", "bias": False, "activation": "swiglu", "kv_heads": 2}
        >>> llama = GPT(100, dim=32, heads=4, layers=2, rotary=Rotary(), tied=False, **settings)
        >>> llama(prompt).shape
        torch.Size([1, 3, 100])
        >>> padded = torch.tensor([[0, 0, 5, 7, 9]])  # the same text, behind padding
        >>> torch.allclose(llama(padded, is_token=padded != 0)[:, 2:], llama(prompt), atol=1e-5)
        True
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        heads: int,
        layers: int,
        *,
        max_len: int | None = None,
        rotary: nn.Module | None = None,
        window: int | Sequence[int | None] | None = None,
        tied: bool = True,
        dropout: float = 0.0,
        **block: Any,
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, dim=dim)
        check_share("dropout", dropout)
        if (max_len is None) == (rotary is None):
            raise ValueError(
                "positions are either learned or rotated: give max_len or rotary, got max_len "
                f"{max_len} and rotary {rotary}"
            )
        check_flags(tied=tied)
        check_sizes(layers=layers)
        windows = list(window) if isinstance(window, Sequence) else [window] * layers
        if len(windows) != layers:
            raise ValueError(
                f"window must have one entry for each of {layers} blocks, got {window}"
            )
        for back in windows:
            if back is not None:
                check_sizes(least=0, window=back)
        self.windows = windows
        self.masks = [causal() if back is None else window_mask(back, 0) for back in windows]
        self.embedding = nn.Embedding(vocab_size, dim)
        self.position = None if max_len is None else LearnedEncoding(max_len, dim)
        self.decoder = TransformerDecoder(
            dim, heads, layers, cross=False, rotary=rotary, dropout=dropout, **block
        )
        self.output = None if tied else nn.Linear(dim, vocab_size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self._initialise(layers)

    def _initialise(self, layers: int) -> None:
        """GPT-2's start: small weights, smaller still where they are added to the stream."""
        for name, parameter in self.named_parameters():
            if name.endswith(("out_proj.weight", "outer.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        ids: Tensor,
        *,
        is_token: Tensor | None = None,
        mask: Tensor | Mask | None = None,
        positions: Tensor | None = None,
        cache: list[BlockCache] | None = None,
    ) -> Tensor:
        """Give the next token's logits after every token.

        Args:
            ids: token numbers ``(batch, L)``; with a cache, the new ones only.
            is_token: bool ``(batch, S)``, False on padding, which may stand in front of a text;
                None if there is none. S is L, or with a cache the number of all tokens so far.
            mask: which token may attend which, besides the model's own rule that none looks ahead:
                :func:`masks.document(numbers) <attn_core.masks.document>` for example, or bool
                ``(L, S)`` or ``(batch, heads, L, S)``.
            positions: the learned position of every token, integers that broadcast to
                ``(batch, L)``; by default they count the tokens, and padding not.
            cache: what :meth:`new_cache` gave.

        Returns:
            ``(batch, L, vocab_size)``. What stands behind a token changes nothing; neither does
            what is no token. The logits of padding mean nothing.

        Raises:
            ValueError: as :class:`GPT`, if a shape does not fit, or if ``positions`` are given to a
                model that rotates: a rotation tells distances, which padding does not change.
            TypeError: as :class:`GPT`, or if ``is_token`` or ``mask`` is not bool.
        """
        if cache is not None and not isinstance(cache, list):
            raise TypeError(f"cache must be what new_cache gave, got {type(cache).__name__}")
        check_tokens("ids", ids, self.embedding.num_embeddings)
        start = tokens_seen(cache)
        x = self.embedding(ids)
        if is_token is not None:
            check_is_token(is_token, (len(ids), start + ids.shape[1]))
        if self.position is None:
            if positions is not None:
                raise ValueError("positions are given to a model that rotates, and learns none")
        else:
            if positions is None and is_token is not None:
                positions = _counted(is_token)[:, start:]
            x = self.position(x, offset=start if positions is None else 0, positions=positions)
        masks = self._masks(is_token, mask)
        return self._logits(self.decoder(self.dropout(x), mask=masks, cache=cache))

    def _masks(self, is_token: Tensor | None, mask: Tensor | Mask | None) -> list[Mask]:
        """What every block may look at."""
        masks = self.masks
        if is_token is not None:
            real = padding(is_token)
            masks = [own & real for own in masks]
        if mask is not None:
            other = dense(mask) if isinstance(mask, Tensor) else mask
            masks = [own & other for own in masks]
        return masks

    def _logits(self, states: Tensor) -> Tensor:
        if self.output is None:
            return F.linear(states, self.embedding.weight)
        return self.output(states)

    def loss(
        self, ids: Tensor, *, pad: int | None = None, is_token: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy of every token but the first.

        Args:
            ids: token numbers ``(batch, L)``, L at least 2.
            pad: the number that stands for padding behind a text, which is left out.
            is_token: bool ``(batch, L)``, False on padding wherever it stands, which is neither
                read nor counted. The first token behind padding has nothing that it could be
                predicted from, and is not counted either.

        Returns:
            A scalar, in nats per token.

        Raises:
            ValueError: if there is nothing to predict, or ``pad`` is negative.
            TypeError: if ``pad`` is no integer.
        """
        check_tokens("ids", ids, self.embedding.num_embeddings)
        if ids.shape[1] < 2:
            raise ValueError(f"ids must hold two tokens or more per row, got {tuple(ids.shape)}")
        if pad is not None:
            check_sizes(least=0, pad=pad)
        following, known = ids[:, 1:], None
        if is_token is not None:
            check_is_token(is_token, tuple(ids.shape))
            known = is_token[:, :-1]
            following = following.masked_fill(~(known & is_token[:, 1:]), -100)
        if pad is not None:
            following = following.masked_fill(following == pad, -100)
        logits = self(ids[:, :-1], is_token=known)
        return F.cross_entropy(logits.flatten(0, 1), following.flatten())

    def new_cache(self, **options: int) -> list[BlockCache]:
        """An empty cache per block, which forgets what the window does not reach.

        Args:
            **options: of :class:`attn_core.modules.KVCache`.

        Returns:
            A list with one entry per block, for ``model(ids, cache=cache)``.
        """
        if options:
            return self.decoder.new_cache(**options)
        return [
            block.new_cache(window=back)  # type: ignore[operator]
            for block, back in zip(self.decoder.blocks, self.windows, strict=True)
        ]

    @torch.no_grad()
    def generate(
        self,
        ids: Tensor,
        steps: int,
        *,
        is_token: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue a text, one token after another.

        Args:
            ids: token numbers ``(batch, L)``; texts of different lengths end together, with
                padding in front.
            steps: how many tokens to add.
            is_token: bool ``(batch, L)``, False on padding; None if there is none.
            temperature: what the logits are divided by: below 1 likely tokens become more likely;
                0 takes the most likely one.
            top_k: how many of the most likely tokens can be drawn; None for all.
            generator: the source of randomness, for repeating a run.

        Returns:
            ``(batch, L + steps)``: the tokens given and those added.

        Raises:
            ValueError: if ``steps`` or ``top_k`` is not positive, or ``temperature`` is negative.
            TypeError: if ``steps`` or ``top_k`` is not an integer.
        """
        check_sizes(steps=steps)
        check_number("temperature", temperature)
        if temperature < 0:
            raise ValueError(f"temperature must be 0 or more, got {temperature}")
        if top_k is not None:
            check_sizes(top_k=top_k)
        if is_token is not None:
            check_is_token(is_token, tuple(ids.shape))
            if not is_token[:, -1].all():
                raise ValueError("is_token is False at the end of a row: padding belongs in front")
        cache, new = self.new_cache(), ids
        for _ in range(steps):
            logits = self(new, is_token=is_token, cache=cache)[:, -1]
            new = _draw(logits, temperature, top_k, generator)
            ids = torch.cat([ids, new], dim=1)
            if is_token is not None:
                is_token = F.pad(is_token, (0, 1), value=True)
        return ids


def _counted(is_token: Tensor) -> Tensor:
    """The position of every token among the tokens of its row; padding in front has 0."""
    return (is_token.long().cumsum(-1) - 1).clamp(min=0)


def _draw(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Tensor:
    """One token per row ``(batch, 1)``."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        likely, which = logits.topk(top_k)
        return which.gather(-1, torch.multinomial(likely.softmax(-1), 1, generator=generator))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)
