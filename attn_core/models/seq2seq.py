"""A recurrent encoder–decoder, without attention and with the two classical kinds of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from attn_core.attend import attention
from attn_core.calls import checked_call
from attn_core.checks import (
    check_flags,
    check_floating_point,
    check_kind,
    check_same_kind,
    check_share,
    check_sizes,
    check_tokens,
)
from attn_core.data.vocabulary import BOS, EOS, PAD, Vocabulary
from attn_core.scores import Additive, Bilinear

Attention = Literal["bahdanau", "luong"]
Score = Callable[[Tensor, Tensor], Tensor]


class Memory(NamedTuple):
    """What the encoder hands to the decoder.

    Attributes:
        states: one row for every source token, ``(batch, source length, memory_dim)``.
        mask: False on padding, ``(batch, 1, 1, source length)``; None in a batch without padding.
        summary: the whole sentence in one vector, the decoder's first state, ``(batch, hidden)``.
    """

    states: Tensor
    mask: Tensor | None
    summary: Tensor


class Translation(NamedTuple):
    """What greedy decoding returns.

    Attributes:
        tokens: ``(batch, T)``, without ``<bos>``; 0 after ``<eos>``.
        weights: the attention weights, ``(batch, T, source length)``; None without attention.
    """

    tokens: Tensor
    weights: Tensor | None


class Encoder(nn.Module):
    r"""Reads the source, in both directions or in one; its last states become the summary.

    .. math::
        \mathbf{h}_j = [\overrightarrow{\mathbf{h}}_j ; \overleftarrow{\mathbf{h}}_j], \qquad
        \text{summary} = \tanh([\overrightarrow{\mathbf{h}}_S ; \overleftarrow{\mathbf{h}}_1] W)

    Source: Schuster and Paliwal (1997); Bahdanau, Cho and Bengio (2015), section 3.2.
    """

    def __init__(self, embedding_dim: int, hidden_dim: int, *, bidirectional: bool = True) -> None:
        super().__init__()
        self.memory_dim = hidden_dim * (2 if bidirectional else 1)
        self.gru = nn.GRU(embedding_dim, hidden_dim, batch_first=True, bidirectional=bidirectional)
        self.summarise = nn.Linear(self.memory_dim, hidden_dim)

    def forward(self, embedded: Tensor, is_token: Tensor) -> Memory:
        if is_token.all():  # packing and masking would cost time and change nothing
            mask = None
            states, last = self.gru(embedded)
        else:
            mask = is_token[:, None, None, :]
            packed = pack_padded_sequence(
                embedded, is_token.sum(dim=-1).cpu(), batch_first=True, enforce_sorted=False
            )
            packed_states, last = self.gru(packed)
            states, _ = pad_packed_sequence(
                packed_states, batch_first=True, total_length=is_token.shape[1]
            )
        # last: (directions, batch, hidden)
        summary = torch.tanh(self.summarise(last.transpose(0, 1).flatten(start_dim=1)))
        return Memory(states, mask, summary)


class PlainDecoder(nn.Module):
    r"""No attention: every step gets the same summary, and that is all it sees of the source.

    .. math::
        \mathbf{z}_t = \mathrm{GRU}([\mathbf{y}_{t-1} ; \text{summary}], \mathbf{z}_{t-1}),
        \qquad \mathbf{z}_0 = \text{summary}

    Source: Cho et al. (2014).
    """

    def __init__(self, embedding_dim: int, hidden_dim: int, memory_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(embedding_dim + hidden_dim, hidden_dim, batch_first=True)
        self.feature_dim = hidden_dim + hidden_dim + embedding_dim

    def forward(
        self, embedded: Tensor, memory: Memory, state: Tensor
    ) -> tuple[Tensor, None, Tensor]:
        context = memory.summary[:, None].expand(-1, embedded.shape[1], -1)
        states, last = self.gru(torch.cat([embedded, context], dim=-1), state[None])
        return torch.cat([states, context, embedded], dim=-1), None, last[0]


class BahdanauDecoder(nn.Module):
    r"""Additive attention: the previous state asks, and the answer enters the next state.

    .. math::
        s_{tj} = \mathbf{v}^\top \tanh(W_q \mathbf{z}_{t-1} + W_k \mathbf{h}_j), \qquad
        \mathbf{c}_t = \sum_j \mathrm{softmax}(s_t)_j \, \mathbf{h}_j, \qquad
        \mathbf{z}_t = \mathrm{GRU}([\mathbf{y}_{t-1} ; \mathbf{c}_t], \mathbf{z}_{t-1})

    Source: Bahdanau, Cho and Bengio (2015), section 3.1 and appendix A.
    """

    def __init__(self, embedding_dim: int, hidden_dim: int, memory_dim: int) -> None:
        super().__init__()
        self.score = Additive(hidden_dim, memory_dim, hidden_dim)
        self.cell = nn.GRUCell(embedding_dim + memory_dim, hidden_dim)
        self.feature_dim = hidden_dim + memory_dim + embedding_dim

    def forward(
        self, embedded: Tensor, memory: Memory, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        projected = self.score.key_proj(memory.states)  # once, since it is the same at every step
        features, weights = [], []
        for previous_token in embedded.unbind(dim=1):
            query = self.score.query_proj(state)[:, None]
            context, weights_t = attend(query, projected, memory, self.score.from_projections)
            context = context[:, 0]
            state = self.cell(torch.cat([previous_token, context], dim=-1), state)
            features.append(torch.cat([state, context, previous_token], dim=-1))
            weights.append(weights_t)
        return torch.stack(features, dim=1), torch.cat(weights, dim=1), state


class LuongDecoder(nn.Module):
    r"""Global attention with the *general* score: the new state asks, beside the recurrence.

    .. math::
        \mathbf{z}_t = \mathrm{GRU}(\mathbf{y}_{t-1}, \mathbf{z}_{t-1}), \qquad
        s_{tj} = \mathbf{z}_t^\top W \mathbf{h}_j, \qquad
        \mathbf{c}_t = \sum_j \mathrm{softmax}(s_t)_j \, \mathbf{h}_j, \qquad
        \tilde{\mathbf{z}}_t = \tanh([\mathbf{c}_t ; \mathbf{z}_t] W_c)

    The recurrence does not depend on the contexts (no input feeding), so all steps of a known
    target are computed at once.

    Source: Luong, Pham and Manning (2015), sections 3 and 3.1.
    """

    def __init__(self, embedding_dim: int, hidden_dim: int, memory_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(embedding_dim, hidden_dim, batch_first=True)
        self.score = Bilinear(hidden_dim, memory_dim)
        self.combine = nn.Linear(memory_dim + hidden_dim, hidden_dim)
        self.feature_dim = hidden_dim

    def forward(
        self, embedded: Tensor, memory: Memory, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        states, last = self.gru(embedded, state[None])
        contexts, weights = attend(states, memory.states, memory, self.score)
        features = torch.tanh(self.combine(torch.cat([contexts, states], dim=-1)))
        return features, weights, last[0]


def attend(query: Tensor, key: Tensor, memory: Memory, score: Score) -> tuple[Tensor, Tensor]:
    """One head of attention from ``query`` ``(batch, T, ·)`` to the encoder's states."""
    output, weights = attention(
        query[:, None],
        key[:, None],
        memory.states[:, None],
        mask=memory.mask,
        score=score,
        return_weights=True,
    )
    return output[:, 0], weights[:, 0]


Decoder = PlainDecoder | BahdanauDecoder | LuongDecoder
DECODERS: dict[str | None, type[Decoder]] = {
    None: PlainDecoder,
    "bahdanau": BahdanauDecoder,
    "luong": LuongDecoder,
}


@checked_call
class Seq2Seq(nn.Module):
    r"""A GRU encoder–decoder that turns one sequence of tokens into another.

    .. math:: p(y \mid x) = \prod_t p(y_t \mid y_1, \dots, y_{t-1}, x)

    It packs its input by lengths, and so reads numbers at every call: ``torch.compile`` breaks its
    graph there, and it can be neither exported nor called on the meta device.

    Args:
        source_vocab: the tokens of the source.
        target_vocab: the tokens of the target.
        embedding_dim: width of a token's vector.
        hidden_dim: width of the decoder's state, and of the encoder's in each direction.
        attention: None, the decoder sees the encoder's last states only; ``"bahdanau"``,
            additive attention from the previous state; ``"luong"``, bilinear attention from the
            new state.
        bidirectional: whether the encoder reads the source backwards too.
        dropout: share of the embeddings' and features' entries that training sets to zero.

    Raises:
        ValueError: ``attention`` is none of the three, a width is not positive, or ``dropout`` is
            not in [0, 1).
        TypeError: a vocabulary is none, a width is no integer, or ``bidirectional`` not True or
            False.

    Source: without attention Cho et al. (2014), whose decoder sees the summary at every step, where
    that of Sutskever, Vinyals and Le (2014) only starts from it; ``"bahdanau"`` Bahdanau, Cho and
    Bengio (2015); ``"luong"`` Luong, Pham and Manning (2015). Documents: D0 §1.2, D2 §1.

    Example:
        >>> digits = Vocabulary("0123456789")
        >>> model = Seq2Seq(digits, digits, embedding_dim=8, hidden_dim=16, attention="luong")
        >>> source, _ = digits.pad(["2024", "7"])
        >>> target, _ = digits.pad(["42", "7"], bos=True, eos=True)
        >>> model(source, target).shape
        torch.Size([2, 4, 14])
        >>> model.greedy(source, max_length=5).weights.shape[::2]
        torch.Size([2, 4])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        source_vocab: Vocabulary,
        target_vocab: Vocabulary,
        *,
        embedding_dim: int = 32,
        hidden_dim: int = 64,
        attention: Attention | None = None,
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_kind("source_vocab", source_vocab, Vocabulary)
        check_kind("target_vocab", target_vocab, Vocabulary)
        if not isinstance(attention, str | None) or attention not in DECODERS:
            raise ValueError(f"attention must be None, 'bahdanau' or 'luong', got {attention!r}")
        check_sizes(embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        check_flags(bidirectional=bidirectional)
        check_share("dropout", dropout)
        self.attention = attention
        self.source_embedding = nn.Embedding(len(source_vocab), embedding_dim, padding_idx=PAD)
        self.encoder = Encoder(embedding_dim, hidden_dim, bidirectional=bidirectional)
        self.target_embedding = nn.Embedding(len(target_vocab), embedding_dim, padding_idx=PAD)
        self.decoder = DECODERS[attention](embedding_dim, hidden_dim, self.encoder.memory_dim)
        self.output = nn.Linear(self.decoder.feature_dim, len(target_vocab))
        self.dropout = nn.Dropout(dropout)

    def encode(self, source: Tensor) -> Memory:
        """The encoder's states for ``source`` ``(batch, source length)``, padded with 0 at the end.

        Raises:
            ValueError: ``source`` is no batch of token numbers, or a row starts with padding or
                has padding between tokens.
        """
        check_tokens("source", source, self.source_embedding.num_embeddings)
        is_token = source != PAD
        if not is_token[:, 0].all() or (is_token[:, 1:] & ~is_token[:, :-1]).any():
            raise ValueError("source must have its padding after the tokens, in every row")
        return self.encoder(self.dropout(self.source_embedding(source)), is_token)

    def decode(
        self, previous: Tensor, memory: Memory, state: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Some steps of the decoder.

        Args:
            previous: the token before each step, ``(batch, T)``.
            memory: what ``encode`` returned.
            state: the decoder's state before the first step, ``(batch, hidden)``;
                ``memory.summary`` at the start.

        Returns:
            logits ``(batch, T, target vocabulary)``, weights ``(batch, T, source length)`` or
            None, and the state after the last step ``(batch, hidden)``.

        Raises:
            ValueError: ``previous`` is no batch of token numbers, or ``state`` has another shape.
            TypeError: an argument has the wrong type.
        """
        check_tokens("previous", previous, self.target_embedding.num_embeddings)
        check_kind("memory", memory, Memory)
        check_floating_point("state", state)
        check_same_kind("state", state, "memory", memory.summary)
        if state.shape != memory.summary.shape:
            raise ValueError(
                f"state must be {tuple(memory.summary.shape)}, got {tuple(state.shape)}"
            )
        return self._steps(previous, memory, state)

    def _steps(
        self, previous: Tensor, memory: Memory, state: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        embedded = self.dropout(self.target_embedding(previous))
        features, weights, state = self.decoder(embedded, memory, state)
        return self.output(self.dropout(features)), weights, state

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Teacher forcing: the next token's logits after every token of the true target.

        Args:
            source: token numbers ``(batch, source length)``, padded with 0.
            target: token numbers ``(batch, T)``, ``<bos>`` first, padded with 0.

        Returns:
            logits ``(batch, T, target vocabulary)``; row t predicts token t + 1.

        Raises:
            ValueError: a batch is not two-dimensional, has a number outside its vocabulary or an
                empty row, or the batches differ in size.
            TypeError: the token numbers are not int64.
        """
        memory = self._read(source, target)
        logits, _, _ = self._steps(target, memory, memory.summary)
        return logits

    def _read(self, source: Tensor, target: Tensor) -> Memory:
        """Check both, and encode the source."""
        check_tokens("source", source, self.source_embedding.num_embeddings)
        check_tokens("target", target, self.target_embedding.num_embeddings)
        if len(source) != len(target):
            raise ValueError(
                f"source and target must have as many rows, got {len(source)} and {len(target)}"
            )
        return self.encode(source)

    def align(self, source: Tensor, target: Tensor) -> Tensor:
        """The attention weights of every step of a known target.

        Args:
            source: token numbers ``(batch, source length)``.
            target: token numbers ``(batch, T)``, ``<bos>`` first.

        Returns:
            weights ``(batch, T, source length)``; row t produced token t + 1.

        Raises:
            ValueError: the model has no attention, or as ``forward``.
            TypeError: as ``forward``.
        """
        memory = self._read(source, target)
        _, weights, _ = self._steps(target, memory, memory.summary)
        if weights is None:
            raise ValueError("align needs a model with attention, but attention is None")
        return weights

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of the target's tokens after ``<bos>``, padding left out.

        Args:
            source: token numbers ``(batch, source length)``.
            target: token numbers ``(batch, T)``, ``<bos>`` first and ``<eos>`` last.

        Returns:
            A scalar, in nats per token.

        Raises:
            ValueError: as ``forward``.
            TypeError: as ``forward``.
        """
        check_tokens("target", target, self.target_embedding.num_embeddings)
        logits = self(source, target[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD)

    @torch.no_grad()
    def greedy(self, source: Tensor, max_length: int) -> Translation:
        """The target that grows by its most probable token, until ``<eos>``.

        Args:
            source: token numbers ``(batch, source length)``.
            max_length: the number of tokens after which to stop.

        Returns:
            ``Translation(tokens, weights)``: tokens ``(batch, T)`` without ``<bos>``, 0 after
            ``<eos>``, T at most ``max_length``; weights ``(batch, T, source length)``, or None
            without attention.

        Raises:
            ValueError: ``max_length`` is less than 1.
            TypeError: it is no integer.
        """
        check_sizes(max_length=max_length)
        memory = self.encode(source)
        state = memory.summary
        token = torch.full((len(source), 1), BOS, device=source.device)
        is_done = torch.zeros_like(token, dtype=torch.bool)
        tokens: list[Tensor] = []
        weights: list[Tensor] = []
        while len(tokens) < max_length and not is_done.all():
            logits, weights_t, state = self._steps(token, memory, state)
            token = logits.argmax(dim=-1).masked_fill(is_done, PAD)
            is_done = is_done | (token == EOS)
            tokens.append(token)
            if weights_t is not None:
                weights.append(weights_t)
        return Translation(torch.cat(tokens, dim=1), torch.cat(weights, dim=1) if weights else None)
