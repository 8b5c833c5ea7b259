"""The pointer-generator: a decoder that writes words of its own or copies those of the source."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import check_flags, check_kind, check_number, check_share, check_sizes
from attn_core.data.vocabulary import BOS, EOS, PAD, UNKNOWN, Vocabulary
from attn_core.models.copying import coverage_loss, pointer_mixture
from attn_core.models.seq2seq import Encoder, Memory, attend
from attn_core.scores import Additive

__all__ = ["Generation", "PointerGenerator", "State"]


class State(NamedTuple):
    """What one step of the decoder hands to the next.

    Attributes:
        hidden: the recurrent state, ``(batch, hidden)``.
        context: what attention gathered, ``(batch, memory_dim)``.
        coverage: what the words of the source have received so far, ``(batch, S)``.
    """

    hidden: Tensor
    context: Tensor
    coverage: Tensor


class Generation(NamedTuple):
    """What greedy decoding returns.

    Attributes:
        tokens: ``(batch, T)``, without ``<bos>``; numbers from the size of the vocabulary on are
            copied words that it lacks; 0 after ``<eos>``.
        weights: the attention weights, ``(batch, T, S)``.
        p_generate: the share of what is generated, ``(batch, T)``.
    """

    tokens: Tensor
    weights: Tensor
    p_generate: Tensor


@checked_call
class PointerGenerator(nn.Module):
    r"""A recurrent encoder–decoder that writes words, or copies them from the source.

    .. math::
        \mathbf{z}_t &= \mathrm{GRU}([\mathbf{y}_{t-1}; \mathbf{c}_{t-1}], \mathbf{z}_{t-1}) \\
        s_{tj} &= \mathbf{v}^\top \tanh\Big(W_q \mathbf{z}_t + W_k \mathbf{h}_j
            + \mathbf{w} \textstyle\sum_{t' < t} a_{t'j}\Big), \qquad
        a_t = \operatorname{softmax}(s_t), \qquad \mathbf{c}_t = \sum_j a_{tj} \mathbf{h}_j \\
        p_t &= \sigma(\mathbf{u} \cdot [\mathbf{c}_t; \mathbf{z}_t; \mathbf{y}_{t-1}] + b), \qquad
        P_t(w) = p_t P^{\text{vocab}}_t(w) + (1 - p_t) \sum_{j : x_j = w} a_{tj}

    Source and target share one vocabulary. Words that it lacks have numbers from its size on, see
    :func:`~attn_core.models.copying.copy_batch`; they are read as ``<unk>``, but copied as what
    they are. The paper has LSTMs where this has GRUs.

    It packs its input by lengths, and so reads numbers at every call: ``torch.compile`` breaks its
    graph there, and it can be neither exported nor called on the meta device.

    Args:
        vocabulary: the words that can be generated.
        embedding_dim: width of a word's vector.
        hidden_dim: width of the decoder's state, and of the encoder's in each direction.
        use_coverage: whether the score knows what was attended before.
        dropout: share of the entries of embeddings and features dropped, while training only.

    Raises:
        ValueError: if a width is not positive, ``dropout`` is not in [0, 1), or a batch has the
            wrong shape or a number that stands for no word.
        TypeError: if ``vocabulary`` is none, a width is no integer, or a batch not int64.

    Source: See, Liu and Manning (2017), section 2.

    Example:
        >>> from attn_core.models.copying import copy_batch
        >>> vocabulary = Vocabulary("ab")
        >>> model = PointerGenerator(vocabulary, embedding_dim=8, hidden_dim=16)
        >>> source, target, _ = copy_batch(vocabulary, ["axya", "b"], ["xa", "b"])
        >>> model(source, target).shape  # 6 words of the vocabulary, and x and y
        torch.Size([2, 4, 8])
        >>> model.greedy(source, max_length=5).weights.shape[::2]
        torch.Size([2, 4])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        embedding_dim: int = 32,
        hidden_dim: int = 64,
        use_coverage: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_kind("vocabulary", vocabulary, Vocabulary)
        check_sizes(embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        check_share("dropout", dropout)
        check_flags(use_coverage=use_coverage)
        self.vocabulary_size = len(vocabulary)
        self.embedding = nn.Embedding(len(vocabulary), embedding_dim, padding_idx=PAD)
        self.encoder = Encoder(embedding_dim, hidden_dim)
        memory_dim = self.encoder.memory_dim
        self.cell = nn.GRUCell(embedding_dim + memory_dim, hidden_dim)
        self.score = Additive(hidden_dim, memory_dim, hidden_dim)
        self.coverage_proj = nn.Linear(1, hidden_dim, bias=False) if use_coverage else None
        self.output = nn.Sequential(
            nn.Linear(hidden_dim + memory_dim, hidden_dim),
            nn.Linear(hidden_dim, len(vocabulary)),
        )
        self.generate_gate = nn.Linear(memory_dim + hidden_dim + embedding_dim, 1)
        self.dropout = nn.Dropout(dropout)

    def encode(self, source: Tensor) -> tuple[Memory, State]:
        """Read ``source`` ``(batch, S)``: the memory, and the state before the first step.

        Raises:
            ValueError: if ``source`` is no batch of word numbers, or has padding before a word.
            TypeError: if it is not int64.
        """
        _check_words("source", source)
        is_word = source != PAD
        if not is_word[:, 0].all() or (is_word[:, 1:] & ~is_word[:, :-1]).any():
            raise ValueError("source must have its padding after the words, in every row")
        memory = self.encoder(self._embed(source), is_word)
        context = memory.summary.new_zeros(len(source), self.encoder.memory_dim)
        covered = memory.summary.new_zeros(source.shape)
        return memory, State(memory.summary, context, covered)

    def decode(
        self, previous: Tensor, memory: Memory, state: State
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        """Some steps of the decoder.

        Args:
            previous: the word before each step, ``(batch, T)``.
            memory: what ``encode`` returned first.
            state: what ``encode`` returned second, or this function last.

        Returns:
            logits over the vocabulary ``(batch, T, V)``, weights ``(batch, T, S)``, the share of
            what is generated ``(batch, T)``, and the state after the last step.

        Raises:
            ValueError: if ``previous`` is no batch of word numbers.
            TypeError: if an argument has the wrong type.
        """
        _check_words("previous", previous)
        check_kind("memory", memory, Memory)
        check_kind("state", state, State)
        projected = self.score.key_proj(memory.states)  # once, since it is the same at every step
        features, weights, gates = [], [], []
        for word in self._embed(previous).unbind(dim=1):
            hidden = self.cell(torch.cat([word, state.context], dim=-1), state.hidden)
            key = projected
            if self.coverage_proj is not None:
                key = key + self.coverage_proj(state.coverage.unsqueeze(-1))
            query = self.score.query_proj(hidden).unsqueeze(1)
            context, weights_t = attend(query, key, memory, self.score.from_projections)
            context, weights_t = context[:, 0], weights_t[:, 0]
            state = State(hidden, context, state.coverage + weights_t)
            features.append(torch.cat([hidden, context], dim=-1))
            gates.append(torch.cat([context, hidden, word], dim=-1))
            weights.append(weights_t)
        logits = self.output(self.dropout(torch.stack(features, dim=1)))
        p_generate = torch.sigmoid(self.generate_gate(torch.stack(gates, dim=1))).squeeze(-1)
        return logits, torch.stack(weights, dim=1), p_generate, state

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Teacher forcing: the next word's probabilities after every word of the true target.

        Args:
            source: word numbers ``(batch, S)``, as ``copy_batch`` makes them.
            target: word numbers ``(batch, T)``, ``<bos>`` first.

        Returns:
            Probabilities ``(batch, T, size)``: V words of the vocabulary, then those of the source
            that it lacks; row t predicts word t + 1.

        Raises:
            ValueError: if a batch has the wrong shape, or a number that stands for no word.
            TypeError: if a batch is not int64.
        """
        probabilities, _ = self._teach(source, target)
        return probabilities

    def loss(self, source: Tensor, target: Tensor, *, coverage_weight: float = 1.0) -> Tensor:
        r"""How improbable the target is, and how much is attended twice on the way.

        .. math:: \frac{1}{T} \sum_t \Big( -\log P_t(y_t)
                  + \lambda \sum_j \min(a_{tj}, c_{tj}) \Big)

        Args:
            source: word numbers ``(batch, S)``.
            target: word numbers ``(batch, T)``, ``<bos>`` first and ``<eos>`` last.
            coverage_weight: :math:`\lambda`; without coverage there is no such term.

        Returns:
            A scalar, the mean over the words after ``<bos>``, padding left out.

        Raises:
            ValueError: if a target has a word that neither the vocabulary nor its source has.
        """
        check_number("coverage_weight", coverage_weight)
        _check_pairs(source, target)
        self._check_can_be_written(source, target)
        following = target[:, 1:]
        probabilities, weights = self._teach(source, target[:, :-1])
        chosen = probabilities.gather(-1, following.unsqueeze(-1)).squeeze(-1)
        losses = -chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log()
        if self.coverage_proj is not None:
            losses = losses + coverage_weight * coverage_loss(weights)
        return losses[following != PAD].mean()

    @torch.no_grad()
    def greedy(self, source: Tensor, max_length: int) -> Generation:
        """Write the most probable word again and again, until ``<eos>``.

        Args:
            source: word numbers ``(batch, S)``, as ``copy_batch`` makes them.
            max_length: the number of words after which to stop.

        Returns:
            :class:`Generation`, T at most ``max_length``.

        Raises:
            ValueError: if ``max_length`` is less than 1.
            TypeError: if it is no integer.
        """
        check_sizes(max_length=max_length)
        memory, state = self.encode(source)
        word = torch.full((len(source), 1), BOS, device=source.device)
        is_done = torch.zeros_like(word, dtype=torch.bool)
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        while len(steps) < max_length and not is_done.all():
            logits, weights, p_generate, state = self.decode(word, memory, state)
            probabilities = self._mix(logits, weights, p_generate, source)
            word = probabilities.argmax(dim=-1).masked_fill(is_done, PAD)
            is_done = is_done | (word == EOS)
            steps.append((word, weights, p_generate))
        return Generation(*(torch.cat(kind, dim=1) for kind in zip(*steps, strict=True)))

    def _embed(self, words: Tensor) -> Tensor:
        """A word that the vocabulary lacks is read as ``<unk>``."""
        known = words.masked_fill(words >= self.vocabulary_size, UNKNOWN)
        return self.dropout(self.embedding(known))

    def _teach(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        _check_pairs(source, target)
        memory, state = self.encode(source)
        logits, weights, p_generate, _ = self.decode(target, memory, state)
        return self._mix(logits, weights, p_generate, source), weights

    def _mix(self, logits: Tensor, weights: Tensor, p_generate: Tensor, source: Tensor) -> Tensor:
        """In half precision a probability of one word in thousands has no digits left."""
        exact = torch.promote_types(logits.dtype, torch.float32)
        size = max(self.vocabulary_size, int(source.max()) + 1)
        return pointer_mixture(
            logits.to(exact).softmax(dim=-1), weights.to(exact), p_generate.to(exact), source, size
        )

    def _check_can_be_written(self, source: Tensor, target: Tensor) -> None:
        is_copied = target >= self.vocabulary_size
        in_source = (target.unsqueeze(-1) == source.unsqueeze(-2)).any(-1)
        lost = target[is_copied & ~in_source]
        if len(lost):
            raise ValueError(
                f"target must hold words of the vocabulary, up to {self.vocabulary_size - 1}, or "
                f"of the row's source, got {sorted(set(lost.tolist()))}"
            )


def _check_words(name: str, words: Tensor) -> None:
    if not isinstance(words, Tensor) or words.dtype != torch.int64:
        seen = words.dtype if isinstance(words, Tensor) else type(words).__name__
        raise TypeError(f"{name} must hold word numbers as int64, got {seen}")
    if words.ndim != 2 or words.numel() == 0:
        raise ValueError(f"{name} must be (batch, length), got shape {tuple(words.shape)}")
    if words.min() < 0:
        raise ValueError(f"{name} must hold numbers from 0 on, got {int(words.min())}")


def _check_pairs(source: Tensor, target: Tensor) -> None:
    _check_words("source", source)
    _check_words("target", target)
    if len(source) != len(target):
        raise ValueError(
            f"source and target must have as many rows, got {len(source)} and {len(target)}"
        )
