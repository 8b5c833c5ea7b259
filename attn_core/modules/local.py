"""Luong's local attention: every query looks at a few keys around a place of its own."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from attn_core import masks
from attn_core.attend import AttentionOutput, attention
from attn_core.calls import TensorOrWeights, checked_call
from attn_core.checks import (
    check_floating_point,
    check_q_offset,
    check_sequence,
    check_sizes,
    has_numbers,
    projected,
)
from attn_core.masks import Mask
from attn_core.normalizers import softmax
from attn_core.scores import dot

Score = Callable[[Tensor, Tensor], Tensor]


@checked_call
class LocalMonotonic(nn.Module):
    r"""Look around the key that stands where the query stands: Luong's *local-m*.

    .. math::
        p_t &= t \\
        a_t(s) &= \operatorname{softmax}_{|s - p_t| \le D} \operatorname{score}(q_t, k_s) \\
        c_t &= \sum_s a_t(s) \, v_s

    It supposes that both sequences run in step. A query whose window lies behind the last key
    attends nothing and gives zeros.

    Args:
        window: :math:`D`, how many keys on each side of :math:`p_t`.
        score: a callable ``(query, key)``, see :mod:`attn_core.scores`; by default the dot product.

    Raises:
        ValueError: if ``window`` is negative, or an input has the wrong shape.
        TypeError: if ``window`` is no integer, ``score`` not callable, or an input no tensor.

    Source: Luong, Pham and Manning (2015), section 3.2, *monotonic alignment*.

    Example:
        >>> import torch
        >>> layer = LocalMonotonic(window=1)
        >>> layer(torch.zeros(1, 4, 2), torch.zeros(1, 3, 2), return_weights=True).weights
        tensor([[[0.5000, 0.5000, 0.0000],
                 [0.3333, 0.3333, 0.3333],
                 [0.0000, 0.5000, 0.5000],
                 [0.0000, 0.0000, 1.0000]]])
    """

    __call__: TensorOrWeights[AttentionOutput]

    def __init__(self, window: int, *, score: Score | None = None) -> None:
        super().__init__()
        check_sizes(least=0, window=window)
        self.window = window
        self.score = checked_score(score)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,
        *,
        lengths: Sequence[int] | Tensor | None = None,
        q_offset: int | Tensor = 0,
        return_weights: bool = False,
    ) -> Tensor | AttentionOutput:
        """Attend from ``query`` to the keys around the same position.

        Args:
            query: ``(batch, L, Dq)``.
            key: ``(batch, S, Dk)``.
            value: ``(batch, S, Dv)``; by default the key.
            lengths: number of real keys of each batch entry, ``(batch,)``; by default S.
            q_offset: position t of the first query; an int, or ``(batch,)`` integers. A decoder
                that goes step by step counts it up.
            return_weights: whether to return the weights ``(batch, L, S)`` too.

        Returns:
            ``(batch, L, Dv)``, or :class:`attn_core.AttentionOutput`.

        Raises:
            ValueError: if shapes do not fit, or ``lengths`` are out of range.
            TypeError: if an input is no tensor, or ``lengths`` or ``q_offset`` no integers.
        """
        value = key if value is None else value
        check_batches(query, key, value)
        check_q_offset(q_offset)
        mask: Mask = masks.window(self.window, self.window)
        if lengths is not None:
            mask = mask & masks.padding(_checked_lengths(lengths, key))
        result = attention(
            query[:, None],
            key[:, None],
            value[:, None],
            score=self.score,
            mask=mask,
            q_offset=q_offset,
            return_weights=return_weights,
        )
        return without_heads(result)

    def extra_repr(self) -> str:
        return f"window={self.window}"


@checked_call
class LocalPredictive(nn.Module):
    r"""Look around a place that the query predicts: Luong's *local-p*.

    .. math::
        p_t &= S \cdot \sigma\big(v_p^\top \tanh(W_p \, q_t)\big) \\
        a_t(s) &= \operatorname{softmax}_{|s - p_t| \le D} \operatorname{score}(q_t, k_s)
                  \cdot \exp\!\left(-\frac{(s - p_t)^2}{2 \sigma^2}\right),
                  \qquad \sigma = \frac{D}{2} \\
        c_t &= \sum_s a_t(s) \, v_s

    The Gaussian favours keys near :math:`p_t`, and it is all that teaches :math:`p_t`: the window
    has no gradient. Because of it a row of weights sums to less than 1. Keys are counted from
    :math:`s = 0`; :math:`S` is the number of real keys.

    Args:
        query_dim: width of the query.
        window: :math:`D`, how many keys on each side of :math:`p_t`, at least 1.
        hidden_dim: width of the hidden layer; by default ``query_dim``.
        score: a callable ``(query, key)``, see :mod:`attn_core.scores`; by default the dot product.

    Attributes:
        hidden_proj: :math:`W_p`, a linear layer without bias.
        position_vector: :math:`v_p`, ``(hidden_dim,)``.

    Raises:
        ValueError: if a size is not positive, or an input has the wrong shape.
        TypeError: if a size is no integer, ``score`` not callable, or an input no tensor.

    Source: Luong, Pham and Manning (2015), section 3.2, equations 9 and 10.

    Example:
        >>> import torch
        >>> layer = LocalPredictive(query_dim=2, window=2)
        >>> query, key = torch.zeros(1, 1, 2), torch.zeros(1, 6, 2)
        >>> layer.centers(query, key).detach()
        tensor([[3.]])
        >>> layer(query, key, return_weights=True).weights.detach()
        tensor([[[0.0000, 0.0271, 0.1213, 0.2000, 0.1213, 0.0271]]])
    """

    __call__: TensorOrWeights[AttentionOutput]

    def __init__(
        self,
        query_dim: int,
        window: int,
        *,
        hidden_dim: int | None = None,
        score: Score | None = None,
    ) -> None:
        super().__init__()
        hidden_dim = query_dim if hidden_dim is None else hidden_dim
        check_sizes(query_dim=query_dim, window=window, hidden_dim=hidden_dim)
        self.query_dim = query_dim
        self.window = window
        self.score = checked_score(score)
        self.hidden_proj = nn.Linear(query_dim, hidden_dim, bias=False)
        self.position_vector = nn.Parameter(torch.empty(hidden_dim))
        nn.init.uniform_(self.position_vector, -(hidden_dim**-0.5), hidden_dim**-0.5)

    def centers(
        self, query: Tensor, key: Tensor, *, lengths: Sequence[int] | Tensor | None = None
    ) -> Tensor:
        """Predict where each query looks.

        Args:
            query: ``(batch, L, query_dim)``.
            key: ``(batch, S, Dk)``, of which only the length is read.
            lengths: number of real keys of each batch entry, ``(batch,)``; by default S.

        Returns:
            :math:`p_t`, ``(batch, L)``, between 0 and the number of keys; at least in float32.
        """
        check_batches(query, key, key)
        check_sequence("query", query, self.query_dim)
        shares = torch.sigmoid(
            (torch.tanh(projected("query", query, self.hidden_proj)) @ self.position_vector).to(
                _exact(query.dtype)
            )
        )
        if lengths is None:
            return key.shape[1] * shares
        return _checked_lengths(lengths, key)[:, None] * shares

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,
        *,
        lengths: Sequence[int] | Tensor | None = None,
        return_weights: bool = False,
    ) -> Tensor | AttentionOutput:
        """Attend from ``query`` to the keys around the place that it predicts.

        Args:
            query: ``(batch, L, query_dim)``.
            key: ``(batch, S, Dk)``.
            value: ``(batch, S, Dv)``; by default the key.
            lengths: number of real keys of each batch entry, ``(batch,)``; by default S.
            return_weights: whether to return the weights ``(batch, L, S)`` too.

        Returns:
            ``(batch, L, Dv)``, or :class:`attn_core.AttentionOutput`.

        Raises:
            ValueError: if shapes do not fit, or ``lengths`` are out of range.
            TypeError: if an input is no tensor, or ``lengths`` no integers.
        """
        value = key if value is None else value
        check_batches(query, key, value)
        centers = self.centers(query, key, lengths=lengths)
        positions = torch.arange(key.shape[1], device=key.device)
        distance = positions - centers[:, None, :, None]  # (batch, 1, L, S)
        inside = distance.abs() <= self.window
        if lengths is not None:
            inside = inside & (positions < _checked_lengths(lengths, key)[:, None, None, None])
        sigma = self.window / 2
        gaussian = torch.exp(-(distance**2) / (2 * sigma**2)).to(query.dtype)
        result = attention(
            query[:, None],
            key[:, None],
            value[:, None],
            score=self.score,
            mask=inside,
            normalizer=lambda scores, dim: softmax(scores, dim) * gaussian,
            return_weights=return_weights,
        )
        return without_heads(result)

    def extra_repr(self) -> str:
        return f"window={self.window}"


def _exact(dtype: torch.dtype) -> torch.dtype:
    """In half precision positions beyond a few hundred run together."""
    return torch.promote_types(dtype, torch.float32)


def checked_score(score: Score | None) -> Score:
    if score is not None and not callable(score):
        raise TypeError(f"score must be a callable (query, key), got {score!r}")
    return dot if score is None else score


def _checked_lengths(lengths: Sequence[int] | Tensor, key: Tensor) -> Tensor:
    try:
        lengths = torch.as_tensor(lengths, device=key.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"lengths must be integers, got {lengths!r}") from None
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.shape != key.shape[:1]:
        raise ValueError(
            f"lengths must be one integer per batch entry, got lengths {tuple(lengths.shape)} for "
            f"key {tuple(key.shape)}"
        )
    if (
        has_numbers(lengths)
        and len(lengths)
        and (lengths.min() < 0 or lengths.max() > key.shape[1])
    ):
        raise ValueError(f"lengths must be from 0 to {key.shape[1]}, got {lengths.tolist()}")
    return lengths


def check_batches(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        check_floating_point(name, x)
        if x.ndim != 3:
            raise ValueError(f"{name} must be (batch, length, width), got {name} {tuple(x.shape)}")
        if len(x) != len(query):
            raise ValueError(
                f"query, key and value must have one batch size, got query {tuple(query.shape)} "
                f"and {name} {tuple(x.shape)}"
            )


def without_heads(result: Tensor | AttentionOutput) -> Tensor | AttentionOutput:
    if isinstance(result, AttentionOutput):
        return AttentionOutput(result.output[:, 0], result.weights[:, 0])
    return result[:, 0]
