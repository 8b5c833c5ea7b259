"""A recurrent encoder–decoder with a vocabulary for each side: sentences in, sentences out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from attn_core.calls import checked_call
from attn_core.checks import check_sizes, check_text
from attn_core.data.catalogues import Pair
from attn_core.data.vocabulary import Vocabulary, check_sentences
from attn_core.models.seq2seq import LuongDecoder, Seq2Seq
from attn_core.scores import Bilinear
from attn_core.training import length_batches

Batch = tuple[Tensor, Tensor]
Kind = Literal["no attention", "Bahdanau", "Luong", "Luong, scaled"]
ATTENTION: dict[str, Literal["bahdanau", "luong"] | None] = {
    "no attention": None,
    "Bahdanau": "bahdanau",
    "Luong": "luong",
    "Luong, scaled": "luong",
}


class ScaledBilinear(Bilinear):
    r"""The bilinear score divided by the square root of the key's width.

    .. math:: s_{ij} = \mathbf q_i W \mathbf k_j^\top / \sqrt{D_k}

    Source: Luong, Pham and Manning (2015), section 3.1, with the scale of Vaswani et al. (2017).

    Example:
        >>> key = torch.ones(4, 25)
        >>> score = ScaledBilinear(3, 25)
        >>> ratio = Bilinear.forward(score, torch.ones(2, 3), key) / score(torch.ones(2, 3), key)
        >>> round(ratio[0, 0].item(), 4)
        5.0
    """

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Score query ``(..., L, query_dim)`` and key ``(..., S, key_dim)``: ``(..., L, S)``."""
        return super().forward(query, key) / key.shape[-1] ** 0.5


@checked_call
class Translator:
    """A `Seq2Seq` and its two vocabularies, for sentences whose tokens are joined by spaces.

    Args:
        train: the pairs that it will learn from; their tokens are its vocabulary.
        kind: "no attention", "Bahdanau", "Luong", or "Luong, scaled", whose scores are divided by
            the square root of the key's width.
        seed: of the first weights.
        embedding_dim: width of a token's vector.
        hidden_dim: width of the decoder's state, and of the encoder's in each direction.
        dropout: share of entries that training sets to zero.
        min_count: how often a token must occur in ``train`` to be known.

    Raises:
        ValueError: ``kind`` is none of the four, ``min_count`` or a width less than 1, ``seed``
            negative, or ``dropout`` not in [0, 1).
        TypeError: an argument has the wrong type.

    Source: Bahdanau, Cho and Bengio (2015); Luong, Pham and Manning (2015).

    Example:
        >>> pairs = [Pair("open file", "打 开 文 件", ""), Pair("save file", "保 存 文 件", "")]
        >>> translator = Translator(pairs, "Bahdanau", min_count=1)
        >>> written, read, weights = translator.align("open file", "打 开")
        >>> read, weights.shape
        (['open', 'file', '<eos>'], (3, 3))
    """

    def __init__(
        self,
        train: Sequence[Pair],
        kind: Kind,
        *,
        seed: int = 0,
        embedding_dim: int = 64,
        hidden_dim: int = 96,
        dropout: float = 0.2,
        min_count: int = 2,
    ) -> None:
        _check_pairs("train", train)
        if not isinstance(kind, str) or kind not in ATTENTION:
            raise ValueError(f"kind must be one of {list(ATTENTION)}, got {kind!r}")
        check_sizes(min_count=min_count)
        check_sizes(least=0, seed=seed)
        self.sources = Vocabulary.of((pair.source.split() for pair in train), min_count=min_count)
        self.targets = Vocabulary.of((pair.target.split() for pair in train), min_count=min_count)
        torch.manual_seed(int(seed))
        self.model = Seq2Seq(
            self.sources,
            self.targets,
            embedding_dim=embedding_dim,
            hidden_dim=hidden_dim,
            attention=ATTENTION[kind],
            dropout=dropout,
        )
        decoder = self.model.decoder
        if kind == "Luong, scaled" and isinstance(decoder, LuongDecoder):
            scaled = ScaledBilinear(*decoder.score.weight.shape)
            scaled.load_state_dict(decoder.score.state_dict())
            decoder.score = scaled
        self.model.eval()

    def batch(self, pairs: Sequence[Pair]) -> Batch:
        """The pairs as token numbers, sources ``(batch, S)`` and targets ``(batch, T)``."""
        _check_pairs("pairs", pairs)
        return (
            self.sources.pad([pair.source.split() for pair in pairs], eos=True)[0],
            self.targets.pad([pair.target.split() for pair in pairs], bos=True, eos=True)[0],
        )

    def epochs(
        self, pairs: Sequence[Pair], batch_size: int, *, seed: int = 0
    ) -> Callable[[int], list[Batch]]:
        """What `attn_core.training.train_to_plateau` asks for: a function of the epoch's number.

        Its batches hold pairs of similar length, in an order that depends on seed and epoch.
        """
        _check_pairs("pairs", pairs)
        check_sizes(batch_size=batch_size)
        check_sizes(least=0, seed=seed)
        lengths = [100 * len(p.source.split()) + len(p.target.split()) for p in pairs]

        def epoch(number: int) -> list[Batch]:
            chosen = length_batches(lengths, batch_size, seed=1000 * seed + number)
            return [self.batch([pairs[i] for i in batch.tolist()]) for batch in chosen]

        return epoch

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of the target's tokens, with teacher forcing, in nats per token."""
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TypeError(f"batch must be sources and targets, as batch() gives, got {batch!r}")
        return self.model.loss(*batch)

    def __call__(self, sources: Sequence[str], max_length: int = 30) -> list[str]:
        """Greedy translations: at every step the most probable token."""
        check_sentences("sources", sources)
        for source in sources:
            check_text("sources", source)
        numbers, _ = self.sources.pad([source.split() for source in sources], eos=True)
        found = self.model.greedy(numbers, max_length=max_length)
        return [" ".join(self.targets.decode(row)) for row in found.tokens]

    @torch.no_grad()
    def align(
        self, source: str, target: str | None = None
    ) -> tuple[list[str], list[str], np.ndarray]:
        """Tokens written, tokens read, and the weights between them.

        Args:
            source: a sentence.
            target: its translation; None takes the translator's own.

        Returns:
            the target's tokens and ``<eos>``, the source's tokens and ``<eos>``, and the weights
            ``(written, read)``.

        Raises:
            ValueError: the translator has no attention.
            TypeError: ``source`` or ``target`` is no text.
        """
        check_text("source", source)
        if target is not None:
            check_text("target", target)
        target = self([source])[0] if target is None else target
        numbers, _ = self.sources.pad([source.split()], eos=True)
        known, _ = self.targets.pad([target.split()], bos=True)
        weights = self.model.align(numbers, known)[0]
        return [*target.split(), "<eos>"], [*source.split(), "<eos>"], weights.numpy()


def _check_pairs(name: str, pairs: object) -> None:
    if not isinstance(pairs, Sequence) or not all(
        isinstance(getattr(pair, side, None), str)
        for pair in pairs
        for side in ("source", "target")
    ):
        seen = type(pairs).__name__
        raise TypeError(f"{name} must be a sequence of pairs with source and target, got {seen}")
