"""Hierarchical attention: words make sentences, sentences make a document."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from attn_core.attend import AttentionOutput, attention
from attn_core.calls import TensorOrWeights, checked_call
from attn_core.checks import check_same_kind, check_sequence, check_sizes, projected


class HierarchicalOutput(NamedTuple):
    """A document, and what it was made of.

    Attributes:
        output: ``(batch, sentence_dim)``, one vector per document.
        word_weights: ``(batch, sentences, words)``; each sentence that has words sums to 1.
        sentence_weights: ``(batch, sentences)``; each document that has words sums to 1.

    Source: Yang et al. (2016), section 2.2.

    Example:
        >>> import torch
        >>> words = torch.ones(1, 2, 3, 4)
        >>> layer = HierarchicalAttention(dim=4)
        >>> layer(words, return_weights=True).sentence_weights.detach()
        tensor([[0.5000, 0.5000]])
    """

    output: Tensor
    word_weights: Tensor
    sentence_weights: Tensor


@checked_call
class HierarchicalAttention(nn.Module):
    r"""Sum the words of each sentence up, then the sentences of each document.

    .. math::
        u_{ij} &= \tanh(W_w h_{ij} + b_w), \qquad
        s_i = \sum_j \operatorname{softmax}_j(u_{ij} \cdot u_w) \, h_{ij} \\
        g &= \operatorname{encode}(s) \\
        u_i &= \tanh(W_s g_i + b_s), \qquad
        v = \sum_i \operatorname{softmax}_i(u_i \cdot u_s) \, g_i

    Words and sentences are asked by a learned query each, :math:`u_w` and :math:`u_s`: which word
    matters in a sentence, and which sentence in a document? Padding takes no part. A sentence
    without words is a vector of zeros and gets no weight; a document without words is zeros.

    Args:
        dim: width of the words.
        hidden_dim: width of the hidden layers :math:`u`; by default ``dim``.
        sentence_encoder: what lets the sentences know of each other: a module from ``(batch,
            sentences, dim)`` to ``(batch, sentences, sentence_dim)``, in the paper a bidirectional
            GRU; by default sentences are taken as they are.
        sentence_dim: width of what ``sentence_encoder`` gives; by default ``dim``.

    Attributes:
        word_proj: :math:`W_w` and :math:`b_w`.
        word_query: :math:`u_w`, ``(hidden_dim,)``.
        sentence_proj: :math:`W_s` and :math:`b_s`.
        sentence_query: :math:`u_s`, ``(hidden_dim,)``.

    Raises:
        ValueError: if a size is not positive, or an input has the wrong shape.
        TypeError: if a size is no integer, ``sentence_encoder`` no module, an input no tensor, or
            ``mask`` not bool.

    Source: Yang et al. (2016), section 2.2, equations 5 to 7 and 8 to 10.

    Example:
        >>> import torch
        >>> layer = HierarchicalAttention(dim=4)
        >>> words = torch.randn(2, 3, 5, 4)  # documents, sentences, words
        >>> mask = torch.ones(2, 3, 5, dtype=torch.bool)
        >>> mask[1, 2] = False  # the second document has two sentences only
        >>> layer(words, mask=mask).shape
        torch.Size([2, 4])
        >>> layer(words, mask=mask, return_weights=True).sentence_weights[1, 2].item()
        0.0
    """

    __call__: TensorOrWeights[HierarchicalOutput]

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: int | None = None,
        sentence_encoder: nn.Module | None = None,
        sentence_dim: int | None = None,
    ) -> None:
        super().__init__()
        hidden_dim = dim if hidden_dim is None else hidden_dim
        sentence_dim = dim if sentence_dim is None else sentence_dim
        check_sizes(dim=dim, hidden_dim=hidden_dim, sentence_dim=sentence_dim)
        if sentence_encoder is not None and not isinstance(sentence_encoder, nn.Module):
            raise TypeError(f"sentence_encoder must be a module, got {sentence_encoder!r}")
        if sentence_encoder is None and sentence_dim != dim:
            raise ValueError(
                f"sentence_dim {sentence_dim} needs a sentence_encoder that makes it from dim {dim}"
            )
        self.dim = dim
        self.sentence_dim = sentence_dim
        self.word_proj = nn.Linear(dim, hidden_dim)
        self.word_query = nn.Parameter(torch.empty(hidden_dim))
        self.sentence_encoder = sentence_encoder
        self.sentence_proj = nn.Linear(sentence_dim, hidden_dim)
        self.sentence_query = nn.Parameter(torch.empty(hidden_dim))
        for query in (self.word_query, self.sentence_query):
            nn.init.uniform_(query, -(hidden_dim**-0.5), hidden_dim**-0.5)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, return_weights: bool = False
    ) -> Tensor | HierarchicalOutput:
        """Sum documents up.

        Args:
            x: ``(batch, sentences, words, dim)``.
            mask: bool ``(batch, sentences, words)``, True = a real word; by default all are.
            return_weights: whether to return the weights too.

        Returns:
            ``(batch, sentence_dim)``, or :class:`HierarchicalOutput`.

        Raises:
            ValueError: if ``x``, ``mask`` or what ``sentence_encoder`` gives has the wrong shape.
            TypeError: if ``x`` is no tensor, or ``mask`` not bool.
        """
        check_sequence("x", x, self.dim)
        check_same_kind("x", x, "the layer", self.word_query)
        if x.ndim != 4:
            raise ValueError(
                f"x must be (batch, sentences, words, {self.dim}), got x {tuple(x.shape)}"
            )
        mask = _checked_mask(mask, x)
        # Before any layer reads it: the padding may hold anything, NaN too.
        x = x.masked_fill(~mask[..., None], 0.0)
        sentences, word_weights = _pool(x, mask, self.word_proj, self.word_query)
        has_words = mask.any(-1)
        if self.sentence_encoder is not None:
            sentences = self.sentence_encoder(sentences)
            _check_encoded(sentences, (*x.shape[:2], self.sentence_dim))
        document, sentence_weights = _pool(
            sentences, has_words, self.sentence_proj, self.sentence_query
        )
        if return_weights:
            return HierarchicalOutput(document, word_weights, sentence_weights)
        return document

    def extra_repr(self) -> str:
        return f"dim={self.dim}, hidden_dim={len(self.word_query)}"


def _pool(x: Tensor, mask: Tensor, projection: nn.Module, query: Tensor) -> tuple[Tensor, Tensor]:
    """One level: ``(..., length, dim)`` to ``(..., dim)``, and the weights ``(..., length)``."""
    keys = torch.tanh(projected("x", x, projection))
    result = attention(
        query.expand(*x.shape[:-2], 1, -1).to(keys.dtype)[..., None, :, :],
        keys[..., None, :, :],
        x.to(keys.dtype)[..., None, :, :],
        mask=mask[..., None, None, :],
        scale=1.0,
        return_weights=True,
    )
    assert isinstance(result, AttentionOutput)
    return result.output[..., 0, 0, :], result.weights[..., 0, 0, :]


def _checked_mask(mask: Tensor | None, x: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(x.shape[:3], dtype=torch.bool, device=x.device)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        seen = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor, True = a real word, got {seen}")
    if mask.shape != x.shape[:3]:
        raise ValueError(
            f"mask must be (batch, sentences, words) = {tuple(x.shape[:3])}, got mask "
            f"{tuple(mask.shape)}"
        )
    if mask.device != x.device:
        raise ValueError(f"mask is on {mask.device}, but x is on {x.device}")
    return mask


def _check_encoded(sentences: object, shape: tuple[int, ...]) -> None:
    if not isinstance(sentences, Tensor):
        raise TypeError(
            f"sentence_encoder must return a torch tensor, got {type(sentences).__name__}; a GRU "
            "returns two: take the first"
        )
    if sentences.shape != shape:
        raise ValueError(
            f"sentence_encoder must return (batch, sentences, sentence_dim) = {shape}, got "
            f"{tuple(sentences.shape)}"
        )
