"""The hierarchical attention network: words make sentences, and sentences make a document."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from attn_core.attend import AttentionOutput, attention
from attn_core.calls import checked_call
from attn_core.checks import check_batch, check_share, check_sizes
from attn_core.data.vocabulary import PAD
from attn_core.masks import padding

__all__ = ["Classification", "HierarchicalClassifier", "ReadAndAttend"]


class Classification(NamedTuple):
    """The classes of documents, and what was attended on the way to them.

    Attributes:
        logits: ``(batch, classes)``.
        word_weights: ``(batch, sentences, words)``; a row sums to 1, or to 0 where there is no
            sentence.
        sentence_weights: ``(batch, sentences)``; a row sums to 1.
    """

    logits: Tensor
    word_weights: Tensor
    sentence_weights: Tensor


@checked_call
class ReadAndAttend(nn.Module):
    r"""Read a sequence in both directions, and let attention sum it up in one vector.

    .. math::
        h_t = [\overrightarrow{\mathrm{GRU}}(x)_t; \overleftarrow{\mathrm{GRU}}(x)_t], \qquad
        u_t = \tanh(W h_t + b), \qquad
        c = \sum_t \operatorname{softmax}_t(u_t \cdot q) \, h_t

    It packs its input by lengths, and so reads numbers at every call: ``torch.compile`` breaks its
    graph there, and it can be neither exported nor called on the meta device.

    Args:
        dim: width of the sequence.
        hidden_dim: width of the state in each direction; :math:`c` is twice as wide.

    Attributes:
        gru: the two recurrent layers.
        key_proj: :math:`W` and :math:`b`.
        query: :math:`q`, ``(2 × hidden_dim,)``, which says what matters.

    Raises:
        ValueError: if a width is not positive.
        TypeError: if a width is no integer.

    Source: Yang et al. (2016), equations 5 to 7 for words and 8 to 10 for sentences.

    Example:
        >>> import torch
        >>> reader = ReadAndAttend(dim=3, hidden_dim=4)
        >>> reader(torch.ones(2, 5, 3), torch.tensor([5, 2])).output.shape
        torch.Size([2, 8])
    """

    __call__: Callable[..., AttentionOutput]

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        check_sizes(dim=dim, hidden_dim=hidden_dim)
        width = 2 * hidden_dim
        self.gru = nn.GRU(dim, hidden_dim, batch_first=True, bidirectional=True)
        self.key_proj = nn.Linear(width, width)
        self.query = nn.Parameter(torch.empty(width))
        nn.init.uniform_(self.query, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor, lengths: Tensor) -> AttentionOutput:
        """Sum up ``x`` ``(batch, length, dim)``.

        Args:
            x: ``(batch, length, dim)``, padded at the end with anything.
            lengths: number of real entries in each row, ``(batch,)``, at least 1.

        Returns:
            :class:`attn_core.AttentionOutput`: ``(batch, 2 × hidden_dim)`` and the weights
            ``(batch, length)``.

        Raises:
            ValueError: if ``x`` or ``lengths`` has the wrong shape, or a length is below 1 or
                beyond the end.
            TypeError: if ``x`` is not floating point, or ``lengths`` are no integers.
        """
        self._check_lengths(x, lengths)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        output, weights = attention(
            self.query.expand(len(x), 1, 1, -1),
            torch.tanh(self.key_proj(states))[:, None],
            states[:, None],
            mask=padding(lengths),
            scale=1.0,
            return_weights=True,
        )
        return AttentionOutput(output[:, 0, 0], weights[:, 0, 0])

    def _check_lengths(self, x: Tensor, lengths: Tensor) -> None:
        check_batch("x", x, self.gru.all_weights[0][0])
        if not isinstance(lengths, Tensor) or lengths.dtype not in (torch.int32, torch.int64):
            seen = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
            raise TypeError(f"lengths must be a tensor of integers, got {seen}")
        if lengths.shape != x.shape[:1]:
            raise ValueError(f"lengths must be {tuple(x.shape[:1])}, got {tuple(lengths.shape)}")
        if lengths.min() < 1 or lengths.max() > x.shape[1]:
            raise ValueError(
                f"lengths must be from 1 to {x.shape[1]}, got {sorted(set(lengths.tolist()))}"
            )


@checked_call
class HierarchicalClassifier(nn.Module):
    r"""Classify documents: attention sums words up to sentences, and sentences to a document.

    .. math::
        s_i = \operatorname{ReadAndAttend}_{\text{words}}(x_{i1}, \dots, x_{iT}), \qquad
        d = \operatorname{ReadAndAttend}_{\text{sentences}}(s_1, \dots, s_L), \qquad
        \text{logits} = W_c d + b_c

    The two levels of attention are those of :class:`attn_core.modules.HierarchicalAttention`; here
    each follows a recurrent layer that is told where the padding begins.

    It packs its input by lengths, and so reads numbers at every call: ``torch.compile`` breaks its
    graph there, and it can be neither exported nor called on the meta device.

    Args:
        vocabulary_size: number of words, the padding (0) among them.
        classes: number of classes.
        embedding_dim: width of a word's vector.
        hidden_dim: width of both GRUs' states in each direction.
        dropout: share of the entries of words, sentences and documents dropped, while training
            only.

    Attributes:
        words: from the words of a sentence to its vector.
        sentences: from the sentences of a document to its vector.
        output: from the document's vector to the classes.

    Raises:
        ValueError: if a size is not positive, ``dropout`` is not in [0, 1), or ``documents`` has
            the wrong shape, padding before a word or a number that stands for no word.
        TypeError: if a size is no integer, or ``documents`` not int64.

    Source: Yang et al. (2016); D2, sections 7.1 and 8.3, names hierarchical attention.

    Example:
        >>> import torch
        >>> model = HierarchicalClassifier(vocabulary_size=10, classes=2)
        >>> documents = torch.tensor([[[4, 5, 6], [7, 0, 0]], [[8, 9, 0], [0, 0, 0]]])
        >>> model(documents).shape
        torch.Size([2, 2])
        >>> model.classify(documents).sentence_weights[1].tolist()
        [1.0, 0.0]
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        vocabulary_size: int,
        classes: int,
        *,
        embedding_dim: int = 50,
        hidden_dim: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(vocabulary_size=vocabulary_size, classes=classes)
        check_sizes(embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        check_share("dropout", dropout)
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim, padding_idx=PAD)
        self.words = ReadAndAttend(embedding_dim, hidden_dim)
        self.sentences = ReadAndAttend(2 * hidden_dim, hidden_dim)
        self.output = nn.Linear(2 * hidden_dim, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, documents: Tensor) -> Tensor:
        """Score every class for every document.

        Args:
            documents: word numbers, int64, ``(batch, sentences, words)``. Sentences are padded with
                0 after their last word, documents with empty sentences after their last one.

        Returns:
            logits ``(batch, classes)``.

        Raises:
            ValueError: if ``documents`` has another shape, padding before a word, a document
                without words, or a number that stands for no word.
            TypeError: if ``documents`` is not int64.
        """
        return self.classify(documents).logits

    def classify(self, documents: Tensor) -> Classification:
        """Score every class, and say which words and sentences were attended.

        Args:
            documents: as in ``forward``.

        Returns:
            :class:`Classification`.

        Raises:
            ValueError: as ``forward``.
            TypeError: as ``forward``.
        """
        self._check_documents(documents)
        lengths = (documents != PAD).sum(-1)  # (batch, sentences)
        is_sentence = lengths > 0
        # The sentences of all documents side by side, (sentences in all, words)
        read = self.words(
            self.dropout(self.embedding(documents[is_sentence])), lengths[is_sentence]
        )
        sentences = _put(read.output, is_sentence)
        document, sentence_weights = self.sentences(self.dropout(sentences), is_sentence.sum(-1))
        logits = self.output(self.dropout(document))
        return Classification(logits, _put(read.weights, is_sentence), sentence_weights)

    def _check_documents(self, documents: Tensor) -> None:
        if not isinstance(documents, Tensor) or documents.dtype != torch.int64:
            seen = documents.dtype if isinstance(documents, Tensor) else type(documents).__name__
            raise TypeError(f"documents must hold word numbers as int64, got {seen}")
        if documents.ndim != 3 or documents.numel() == 0:
            raise ValueError(
                f"documents must be (batch, sentences, words), got {tuple(documents.shape)}"
            )
        last = self.embedding.num_embeddings - 1
        if documents.min() < 0 or documents.max() > last:
            raise ValueError(
                f"documents must hold numbers from 0 to {last}, "
                f"got {int(documents.min())} to {int(documents.max())}"
            )
        is_word = documents != PAD
        is_sentence = is_word[..., 0]
        if (is_word[..., 1:] & ~is_word[..., :-1]).any():
            raise ValueError("documents must have their padding after the words, in every sentence")
        if (is_sentence[:, 1:] & ~is_sentence[:, :-1]).any() or not is_sentence[:, 0].all():
            raise ValueError("documents must have their sentences first, at least one in each")


def _put(rows: Tensor, where: Tensor) -> Tensor:
    """Put the rows, in their order, where ``where`` is True, and zeros elsewhere."""
    return rows.new_zeros(*where.shape, rows.shape[-1]).masked_scatter(where[..., None], rows)
