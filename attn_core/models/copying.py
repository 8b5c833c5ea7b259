"""Copying words of the source: their probabilities, their numbers, and what was read already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_core.checks import check_floating_point, check_kind, check_same_kind, check_sizes
from attn_core.data.vocabulary import BOS, EOS, PAD, Vocabulary, check_sentences

__all__ = ["CopyBatch", "copy_batch", "coverage", "coverage_loss", "pointer_mixture"]


def pointer_mixture(
    generate: Tensor, weights: Tensor, p_generate: Tensor, source: Tensor, size: int
) -> Tensor:
    r"""Mix the words that the decoder would write with those that its attention would copy.

    .. math::
        P_t(w) = p_t \, P^{\text{vocab}}_t(w) + (1 - p_t) \sum_{j : x_j = w} a_{tj}

    A word that stands in the source several times collects all its weights.

    Args:
        generate: :math:`P^{\text{vocab}}`, probabilities over the vocabulary, ``(..., T, V)``.
        weights: :math:`a`, attention weights over the source, ``(..., T, S)``.
        p_generate: :math:`p`, the share of what is generated, ``(..., T)``.
        source: :math:`x`, the words of the source as int64, ``(..., S)``; numbers from V on are
            words that the vocabulary lacks.
        size: number of words in the mixture, at least V and above every number in ``source``.

    Returns:
        :math:`P`, ``(..., T, size)``; sums to 1 where ``generate`` and ``weights`` do.

    Raises:
        TypeError: if ``source`` is not int64, another argument not floating point, or ``size`` no
            integer.
        ValueError: if the shapes do not fit, or a word of ``source`` is outside the mixture.

    Source: See, Liu and Manning (2017), equation 9.

    Example:
        >>> import torch
        >>> generate = torch.tensor([[0.5, 0.5]])
        >>> weights = torch.tensor([[0.2, 0.3, 0.5]])
        >>> pointer_mixture(generate, weights, torch.tensor([0.5]), torch.tensor([1, 2, 1]), 3)
        tensor([[0.2500, 0.6000, 0.1500]])
    """
    _check_mixture(generate, weights, p_generate, source, size)
    share = p_generate.unsqueeze(-1)
    generated = F.pad(share * generate, (0, size - generate.shape[-1]))
    copied = (1 - share) * weights
    # scatter_add and not scatter: of two places with the same word neither may be lost.
    return generated.scatter_add(-1, source.unsqueeze(-2).expand(copied.shape), copied)


def coverage(weights: Tensor) -> Tensor:
    r"""Add up, before every step, the attention that each word of the source has received.

    .. math:: c_t = \sum_{t' < t} a_{t'}, \qquad c_0 = 0

    Args:
        weights: :math:`a`, ``(..., T, S)``.

    Returns:
        :math:`c`, ``(..., T, S)``.

    Raises:
        TypeError: if ``weights`` is not floating point.
        ValueError: if it has fewer than two dimensions.

    Source: See, Liu and Manning (2017), equation 10; Tu et al. (2016).

    Example:
        >>> import torch
        >>> coverage(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
        tensor([[0.0000, 0.0000],
                [1.0000, 0.0000],
                [1.5000, 0.5000]])
    """
    _check_weights(weights)
    return F.pad(weights, (0, 0, 1, 0))[..., :-1, :].cumsum(-2)


def coverage_loss(weights: Tensor) -> Tensor:
    r"""Say how much every step attends again to what was attended before.

    .. math:: \ell_t = \sum_j \min(a_{tj}, c_{tj}), \qquad c_t = \sum_{t' < t} a_{t'}

    It is 0 if no word is attended twice, and at most 1.

    Args:
        weights: :math:`a`, ``(..., T, S)``.

    Returns:
        :math:`\ell`, ``(..., T)``.

    Raises:
        TypeError: if ``weights`` is not floating point.
        ValueError: if it has fewer than two dimensions.

    Source: See, Liu and Manning (2017), equation 12.

    Example:
        >>> import torch
        >>> coverage_loss(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
        tensor([0.0000, 0.5000, 0.5000])
    """
    return torch.minimum(weights, coverage(weights)).sum(-1)


class CopyBatch(NamedTuple):
    """Sources and targets as numbers, with numbers for the words that the vocabulary lacks.

    Attributes:
        source: int64 ``(batch, S)``, 0 after the end. A word that the vocabulary of V words lacks
            is V, V + 1, …, counted anew in every row.
        target: int64 ``(batch, T)``, ``<bos>`` first, ``<eos>`` last, 0 after it. A word that
            neither the vocabulary nor the row's source has is ``<unk>``.
        unknown: for every row the words that are V, V + 1, … in it.
    """

    source: Tensor
    target: Tensor
    unknown: list[list[str]]


def copy_batch(
    vocabulary: Vocabulary,
    sources: Sequence[Iterable[str]],
    targets: Sequence[Iterable[str]] | None = None,
) -> CopyBatch:
    """Number the words of sources and targets, those among them that the vocabulary lacks too.

    Args:
        vocabulary: the V words that have numbers already.
        sources: at least one sentence, each a sequence of words.
        targets: as many sentences; None makes every target empty.

    Returns:
        :class:`CopyBatch`.

    Raises:
        ValueError: if there is no source, a source has no word, or there are not as many targets as
            sources.
        TypeError: if ``vocabulary`` is none, or sentences are one text and no sequence of them.

    Source: See, Liu and Manning (2017), section 2.2, *extended vocabulary*.

    Example:
        >>> batch = copy_batch(Vocabulary("ab"), ["axya"], ["xbz"])
        >>> batch.source.tolist(), batch.target.tolist(), batch.unknown
        ([[4, 6, 7, 4]], [[1, 6, 5, 3, 2]], [['x', 'y']])
    """
    check_kind("vocabulary", vocabulary, Vocabulary)
    check_sentences("sources", sources)
    if targets is not None:
        check_sentences("targets", targets)
    if len(sources) == 0:
        raise ValueError("sources must hold at least one sentence, got none")
    targets = [[]] * len(sources) if targets is None else targets
    if len(sources) != len(targets):
        raise ValueError(
            f"sources and targets must be equally many, got {len(sources)} and {len(targets)}"
        )
    source_rows, target_rows, unknown = [], [], []
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        source, target = list(source), list(target)
        if not source:
            raise ValueError(f"sources must have a word each, got none in row {row}")
        lacking = list(dict.fromkeys(word for word in source if word not in vocabulary))
        number = {word: len(vocabulary) + i for i, word in enumerate(lacking)}
        source_rows.append(_encode(vocabulary, number, source))
        target_rows.append([BOS, *_encode(vocabulary, number, target), EOS])
        unknown.append(lacking)
    return CopyBatch(_padded(source_rows), _padded(target_rows), unknown)


def _encode(vocabulary: Vocabulary, number: dict[str, int], sentence: list[str]) -> list[int]:
    ids = vocabulary.encode(sentence)
    return [number.get(word, i) for word, i in zip(sentence, ids, strict=True)]


def _padded(rows: list[list[int]]) -> Tensor:
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD
    )


def _check_weights(weights: Tensor) -> None:
    check_floating_point("weights", weights)
    if weights.ndim < 2:
        raise ValueError(f"weights must be (..., steps, source), got {tuple(weights.shape)}")


def _check_mixture(
    generate: Tensor, weights: Tensor, p_generate: Tensor, source: Tensor, size: int
) -> None:
    check_floating_point("generate", generate)
    _check_weights(weights)
    check_floating_point("p_generate", p_generate)
    check_same_kind("weights", weights, "generate", generate)
    check_same_kind("p_generate", p_generate, "generate", generate)
    if not isinstance(source, Tensor) or source.dtype != torch.int64:
        seen = source.dtype if isinstance(source, Tensor) else type(source).__name__
        raise TypeError(f"source must hold word numbers as int64, got {seen}")
    steps = weights.shape[:-1]
    for name, shape, expected in (
        ("generate", generate.shape[:-1], steps),
        ("p_generate", p_generate.shape, steps),
        ("source", source.shape, (*steps[:-1], weights.shape[-1])),
    ):
        if shape != expected:
            what = "begin with" if name == "generate" else "be"
            raise ValueError(
                f"{name} must {what} {tuple(expected)} for weights {tuple(weights.shape)}, "
                f"got {tuple(shape)}"
            )
    check_sizes(least=generate.shape[-1], size=size)
    if source.numel() and not 0 <= int(source.min()) <= int(source.max()) < size:
        raise ValueError(
            f"source must hold numbers from 0 to {size - 1}, "
            f"got {int(source.min())} to {int(source.max())}"
        )
