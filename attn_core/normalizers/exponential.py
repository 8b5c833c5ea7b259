"""Dense normalisers: every key that may be attended gets a weight above 0."""

import torch
from torch import Tensor

from attn_core.checks import check_number
from attn_core.normalizers.rows import (
    at_least_float32,
    check_one_per_row,
    check_rows,
    check_temperature,
    without_empty_rows,
)

__all__ = ["sigmoid", "softmax", "softmax_with_sink"]


def softmax(scores: Tensor, dim: int = -1, *, temperature: float = 1.0) -> Tensor:
    r"""Turn scores into positive weights that sum to 1.

    .. math:: a_{ij} = \frac{\exp(s_{ij} / T)}{\sum_m \exp(s_{im} / T)}

    A temperature :math:`T` above 1 makes the weights more alike, one below 1 makes them sharper.

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the keys.
        temperature: :math:`T`, above 0, in the unit of the scores.

    Returns:
        Weights, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, ``dim`` no integer or ``temperature`` no
            number.
        ValueError: if ``scores`` have no such dimension, or ``temperature`` is not positive.

    Source: Bridle (1990); Hinton, Vinyals and Dean (2015), equation 1, for the temperature; D0,
        section 4.1.

    Example:
        >>> import torch
        >>> softmax(torch.tensor([[0.0, 0.0], [0.0, -torch.inf], [-torch.inf, -torch.inf]]))
        tensor([[0.5000, 0.5000],
                [1.0000, 0.0000],
                [0.0000, 0.0000]])
        >>> softmax(torch.tensor([4.0, 2.0]).log(), temperature=0.5)
        tensor([0.8000, 0.2000])
    """
    check_temperature(temperature)
    filled, empty = without_empty_rows(scores, dim)
    if temperature != 1 and scores.shape[dim]:
        # The highest score of a row is taken off first, so that no quotient overflows.
        rows = at_least_float32(filled)
        filled = (rows - rows.amax(dim, keepdim=True).detach()) / temperature
    return filled.softmax(dim).to(scores.dtype).masked_fill(empty, 0.0)


def softmax_with_sink(scores: Tensor, dim: int = -1, *, sink: float | Tensor = 0.0) -> Tensor:
    r"""Turn scores into weights that sum to less than 1: the rest goes to a key without a value.

    .. math:: a_{ij} = \frac{\exp(s_{ij})}{\exp(b) + \sum_m \exp(s_{im})}

    A query that finds nothing may so attend to almost nothing. With the sink :math:`b = 0` this is
    the *softmax off by one*, whose denominator has 1 more. A tensor gives each head a sink that
    can be learned.

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the keys.
        sink: :math:`b`, the score of the key without a value: a number, or a tensor with one for
            each row, broadcast to ``scores`` with size 1 along ``dim``: ``(heads, 1, 1)`` for
            scores ``(batch, heads, L, S)``.

    Returns:
        Weights, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, ``dim`` no integer, or ``sink`` neither a
            number nor a tensor of the dtype of ``scores``.
        ValueError: if ``scores`` have no such dimension, or ``sink`` does not broadcast or is not
            finite.

    Source: Miller (2023), for :math:`b = 0`; OpenAI (2025) for a learned sink.

    Example:
        >>> import torch
        >>> softmax_with_sink(torch.tensor([2.0, 1.0]).log())
        tensor([0.5000, 0.2500])
        >>> sink = torch.tensor([[5.0], [1.0]]).log()
        >>> softmax_with_sink(torch.tensor([[2.0, 1.0], [2.0, 1.0]]).log(), sink=sink)
        tensor([[0.2500, 0.1250],
                [0.5000, 0.2500]])
    """
    filled, empty = without_empty_rows(scores, dim)
    if isinstance(sink, Tensor):
        check_one_per_row("sink", sink, scores, dim)
    else:
        check_number("sink", sink)
        sink = scores.new_tensor(float(sink))
    column = sink.to(scores.dtype).expand_as(empty)
    weights = torch.cat([filled, column], dim).softmax(dim)
    return weights.narrow(dim, 0, scores.shape[dim]).masked_fill(empty, 0.0)


def sigmoid(scores: Tensor, dim: int = -1, *, bias: float | None = 0.0) -> Tensor:
    r"""Weigh each key by itself: no key takes weight from another, and rows do not sum to 1.

    .. math:: a_{ij} = \frac{1}{1 + \exp(-(s_{ij} + b))}

    With ``bias=None`` it is :math:`b = -\log n_i`, where query i may attend :math:`n_i` keys. Rows
    then sum to about 1 where scores are near 0, as softmax's do, and keys that are masked out
    change nothing.

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension of the keys.
        bias: :math:`b`, a number; None for :math:`-\log n_i`.

    Returns:
        Weights between 0 and 1, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, ``dim`` no integer or ``bias`` no number.
        ValueError: if ``scores`` have no such dimension, or ``bias`` is not finite.

    Source: Ramapuram et al. (2025), with :math:`b = -\log n` for n keys.

    Example:
        >>> import torch
        >>> sigmoid(torch.tensor([0.0, 0.0, -torch.inf]))
        tensor([0.5000, 0.5000, 0.0000])
        >>> sigmoid(torch.tensor([0.0, 0.0, -torch.inf]), bias=None)
        tensor([0.3333, 0.3333, 0.0000])
    """
    check_rows(scores, dim)
    rows = at_least_float32(scores)
    if bias is None:
        attended = (~scores.isneginf()).sum(dim, keepdim=True)
        return (rows - attended.clamp_min(1).to(rows.dtype).log()).sigmoid().to(scores.dtype)
    check_number("bias", bias)
    return (rows + bias).sigmoid().to(scores.dtype)
