"""A language model: a stack of causal blocks that says how likely every next token is."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import check_number, check_share, check_sizes, check_tokens
from attn_core.masks import causal
from attn_core.masks import window as window_mask
from attn_core.models.block import BlockCache
from attn_core.models.transformer import TransformerDecoder
from attn_core.positions import LearnedEncoding

__all__ = ["GPT"]


@checked_call
class GPT(nn.Module):
    r"""Predict the next token from the tokens before it.

    .. math:: p(x_1, \dots, x_L) = \prod_t p(x_t \mid x_1, \dots, x_{t-1})

    The matrix that reads the tokens gives the logits too. Positions are learned, up to ``max_len``
    of them, or told to every layer by rotations, without a longest length.

    Args:
        vocab_size: number of tokens.
        dim: width of a token's vector.
        heads: number of heads.
        layers: number of blocks.
        max_len: number of positions to learn; give it or ``rotary``.
        rotary: an :class:`attn_core.positions.Rotary` of the heads' width.
        window: how many tokens back a token may look, besides itself; None for all of them.
        dropout: share of the embeddings dropped, and as in :class:`attn_core.models.block.Block`;
            while training only.
        **block: the other arguments of :class:`attn_core.models.block.Block`: ``kv_heads``,
            ``hidden_dim``, ``activation``, ...

    Raises:
        ValueError: if a size is not positive, both or neither of ``max_len`` and ``rotary`` are
            given, tokens are outside the vocabulary, or a sequence is longer than ``max_len``.
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
        >>> llama = GPT(100, dim=32, heads=4, layers=2, rotary=Rotary(8), activation="swiglu")
        >>> llama(prompt).shape
        torch.Size([1, 3, 100])
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
        window: int | None = None,
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
        if window is not None:
            check_sizes(least=0, window=window)
        self.window = window
        self.mask = causal() if window is None else window_mask(window, 0)
        self.embedding = nn.Embedding(vocab_size, dim)
        self.position = None if max_len is None else LearnedEncoding(max_len, dim)
        self.decoder = TransformerDecoder(
            dim, heads, layers, cross=False, rotary=rotary, dropout=dropout, **block
        )
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

    def forward(self, ids: Tensor, *, cache: list[BlockCache] | None = None) -> Tensor:
        """Give the next token's logits after every token.

        Args:
            ids: token numbers ``(batch, L)``; with a cache, the new ones only.
            cache: what :meth:`new_cache` gave.

        Returns:
            ``(batch, L, vocab_size)``. What stands behind a token, padding too, changes nothing.
        """
        if cache is not None and not isinstance(cache, list):
            raise TypeError(f"cache must be what new_cache gave, got {type(cache).__name__}")
        check_tokens("ids", ids, self.embedding.num_embeddings)
        x = self.embedding(ids)
        if self.position is not None:
            x = self.position(x, offset=0 if cache is None else cache[0].length)
        states = self.decoder(self.dropout(x), mask=self.mask, cache=cache)
        return F.linear(states, self.embedding.weight)

    def loss(self, ids: Tensor, *, pad: int | None = None) -> Tensor:
        """Mean cross-entropy of every token but the first.

        Args:
            ids: token numbers ``(batch, L)``, L at least 2.
            pad: the number that stands for padding, which is left out.

        Returns:
            A scalar, in nats per token.

        Raises:
            ValueError: if there is nothing to predict.
        """
        check_tokens("ids", ids, self.embedding.num_embeddings)
        if ids.shape[1] < 2:
            raise ValueError(f"ids must hold two tokens or more per row, got {tuple(ids.shape)}")
        logits = self(ids[:, :-1]).flatten(0, 1)
        return F.cross_entropy(
            logits, ids[:, 1:].flatten(), ignore_index=-100 if pad is None else pad
        )

    def new_cache(self, **options: int) -> list[BlockCache]:
        """An empty cache per block, which forgets what the window does not reach.

        Args:
            **options: of :class:`attn_core.modules.KVCache`.

        Returns:
            A list with one entry per block, for ``model(ids, cache=cache)``.
        """
        if self.window is not None and not options:
            options = {"window": self.window}
        return self.decoder.new_cache(**options)

    @torch.no_grad()
    def generate(
        self,
        ids: Tensor,
        steps: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue a text, one token after another.

        Args:
            ids: token numbers ``(batch, L)``.
            steps: how many tokens to add.
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
        cache, new = self.new_cache(), ids
        for _ in range(steps):
            logits = self(new, cache=cache)[:, -1]
            new = _draw(logits, temperature, top_k, generator)
            ids = torch.cat([ids, new], dim=1)
        return ids


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
