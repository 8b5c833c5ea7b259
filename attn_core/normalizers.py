r"""Step 2, normalise: a row of scores becomes a row of weights.

A normaliser is a callable ``normalizer(scores, dim)``. A score of −inf means "may not attend" and
gets the weight 0. A row in which everything is −inf has nothing to attend: its weights are all 0,
and so is its gradient, where the plain formula gives NaN.
"""

import torch
from torch import Tensor

from attn_core.checks import check_floating_point

__all__ = ["hard", "softmax", "sparsemax"]


def softmax(scores: Tensor, dim: int = -1) -> Tensor:
    r"""Turn scores into positive weights that sum to 1.

    .. math:: a_{ij} = \frac{\exp(s_{ij})}{\sum_m \exp(s_{im})}

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the keys.

    Returns:
        Weights, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, or ``dim`` no integer.
        ValueError: if ``scores`` have no such dimension.

    Source: Bridle (1990); D0, section 4.1.

    Example:
        >>> import torch
        >>> softmax(torch.tensor([[0.0, 0.0], [0.0, -torch.inf], [-torch.inf, -torch.inf]]))
        tensor([[0.5000, 0.5000],
                [1.0000, 0.0000],
                [0.0000, 0.0000]])
    """
    filled, empty = without_empty_rows(scores, dim)
    return filled.softmax(dim).masked_fill(empty, 0.0)


def sparsemax(scores: Tensor, dim: int = -1) -> Tensor:
    r"""Project scores onto the simplex: weights that sum to 1, many of them exactly 0.

    .. math::
        a_i = \arg\min_{p \in \Delta} \lVert p - s_i \rVert^2 = \max(s_i - \tau_i, 0),
        \qquad \sum_j \max(s_{ij} - \tau_i, 0) = 1

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the keys.

    Returns:
        Weights, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, or ``dim`` no integer.
        ValueError: if ``scores`` have no such dimension.

    Source: Martins and Astudillo (2016), algorithm 1.

    Example:
        >>> import torch
        >>> sparsemax(torch.tensor([1.0, 0.8, -1.0]))
        tensor([0.6000, 0.4000, 0.0000])
    """
    filled, empty = without_empty_rows(scores, dim)
    if filled.shape[dim] == 0:
        return filled
    # Sums of half precision numbers are too coarse for the threshold.
    rows = filled.movedim(dim, -1).to(torch.promote_types(scores.dtype, torch.float32))
    rows = rows - rows.amax(-1, keepdim=True).detach()
    descending = rows.sort(dim=-1, descending=True).values
    sums = descending.cumsum(-1)
    counts = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    support = (1 + counts * descending > sums).sum(-1, keepdim=True)
    threshold = (sums.gather(-1, support - 1) - 1) / support
    weights = (rows - threshold).relu().to(scores.dtype).movedim(-1, dim)
    return weights.masked_fill(empty, 0.0)


def hard(scores: Tensor, dim: int = -1) -> Tensor:
    r"""Give all the weight to the highest score, the first of them if several are equal.

    .. math:: a_{ij} = 1 \text{ if } j = \arg\max_m s_{im}, \text{ else } 0

    The arg max has no useful gradient: it is 0 wherever it exists. This function is a
    *straight-through* estimator: forward the arg max, backward the gradient of softmax. That
    gradient is biased.

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the keys.

    Returns:
        Weights, shaped like ``scores``: exactly one 1 in a row; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, or ``dim`` no integer.
        ValueError: if ``scores`` have no such dimension.

    Source: Bengio, Léonard and Courville (2013), straight-through; D2, section 2.2, hard attention.

    Example:
        >>> import torch
        >>> hard(torch.tensor([1.0, 3.0, 2.0]))
        tensor([0., 1., 0.])
    """
    filled, empty = without_empty_rows(scores, dim)
    if filled.shape[dim] == 0:
        return filled
    best = filled.argmax(dim, keepdim=True)
    one_hot = torch.zeros_like(filled).scatter(dim, best, 1.0)
    soft = filled.softmax(dim)
    straight_through = one_hot + (soft - soft.detach())
    return straight_through.masked_fill(empty, 0.0)


def without_empty_rows(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Replace rows of −inf by zeros, and say which rows they were.

    Both halves are needed: a softmax of −inf everywhere is NaN, and zeroing the NaN afterwards
    leaves it in the gradient.

    Args:
        scores: any shape, floating point.
        dim: the dimension that will be normalised.

    Returns:
        The scores with those rows zeroed, and a bool tensor, True for those rows, of size 1
        along ``dim``.

    Raises:
        TypeError: if ``scores`` is not a floating point tensor, or ``dim`` no integer.
        ValueError: if ``scores`` have no such dimension.

    Source: this package; most code gets fully masked rows wrong.

    Example:
        >>> import torch
        >>> filled, empty = without_empty_rows(torch.tensor([[1.0], [-torch.inf]]), dim=-1)
        >>> filled.tolist(), empty.tolist()
        ([[1.0], [0.0]], [[False], [True]])
    """
    check_floating_point("scores", scores)
    if not isinstance(dim, int):
        raise TypeError(f"dim must be an integer, got {dim!r}")
    if not -scores.ndim <= dim < scores.ndim:
        raise ValueError(f"scores {tuple(scores.shape)} have no dimension dim {dim}")
    empty = scores.isneginf().all(dim, keepdim=True)
    return scores.masked_fill(empty, 0.0), empty
