"""Sparse normalisers: the entmax family, which gives exact zeros to the keys that matter least.

How many steps it takes to find the threshold depends on the scores, so :func:`torch.compile` breaks
its graph there, and ``fullgraph=True`` is an error; bisection takes a fixed number.
"""

from collections.abc import Callable

from torch import Tensor

from attn_core.checks import check_number, check_sizes
from attn_core.normalizers.exponential import softmax
from attn_core.normalizers.projection import (
    Alpha,
    Entmax,
    entmax15_weights,
    newton_weights,
    sparsemax_weights,
    weights_by_bisection,
)
from attn_core.normalizers.rows import at_least_float32, check_one_per_row, check_rows

__all__ = ["entmax", "entmax15", "entmax_bisect", "sparsemax"]


def sparsemax(scores: Tensor, dim: int = -1) -> Tensor:
    r"""Project scores onto the simplex: weights that sum to 1, many of them exactly 0.

    .. math::
        a_i = \arg\min_{p \in \Delta} \lVert p - s_i \rVert^2 = \max(s_i - \tau_i, 0),
        \qquad \sum_j \max(s_{ij} - \tau_i, 0) = 1

    It has no form for ``torch.compile(fullgraph=True)``: how long the threshold is sought depends
    on the scores. Without ``fullgraph`` it runs between two graphs; :func:`entmax_bisect` has one.

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the keys.

    Returns:
        Weights, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, or ``dim`` no integer.
        ValueError: if ``scores`` have no such dimension.

    Source: Martins and Astudillo (2016), equation 2. The threshold is found without sorting, as
        Michelot (1986) does.

    Example:
        >>> import torch
        >>> sparsemax(torch.tensor([1.0, 0.8, -1.0]))
        tensor([0.6000, 0.4000, 0.0000])
    """
    return _normalise(scores, dim, 2.0, sparsemax_weights)


def entmax15(scores: Tensor, dim: int = -1) -> Tensor:
    r"""Turn scores into weights half-way between softmax and sparsemax: some are exactly 0.

    .. math::
        a_{ij} = \max\!\left(\frac{s_{ij}}{2} - \tau_i, \, 0\right)^2,
        \qquad \sum_j \max\!\left(\frac{s_{ij}}{2} - \tau_i, \, 0\right)^2 = 1

    It has no form for ``torch.compile(fullgraph=True)``: how long the threshold is sought depends
    on the scores. Without ``fullgraph`` it runs between two graphs; :func:`entmax_bisect` has one.

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the keys.

    Returns:
        Weights, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, or ``dim`` no integer.
        ValueError: if ``scores`` have no such dimension.

    Source: Peters, Niculae and Martins (2019), section 3, α = 1.5. The threshold is found by
        Newton's method, without sorting.

    Example:
        >>> import torch
        >>> entmax15(torch.tensor([2.0, 1.0, 0.0]))
        tensor([0.8307, 0.1693, 0.0000])
    """
    return _normalise(scores, dim, 1.5, entmax15_weights)


def entmax(scores: Tensor, dim: int = -1, *, alpha: Alpha = 1.5) -> Tensor:
    r"""Turn scores into weights that are the sparser, the higher :math:`\alpha`.

    .. math::
        a_{ij} = \max\bigl((\alpha - 1)\, s_{ij} - \tau_i, \, 0\bigr)^{\frac{1}{\alpha - 1}},
        \qquad \sum_j a_{ij} = 1

    :math:`\alpha = 1` is softmax (the limit), 1.5 :func:`entmax15`, 2 :func:`sparsemax`. A tensor
    gives each head an α of its own, which can be learned.

    It has no form for ``torch.compile(fullgraph=True)``: how long the threshold is sought depends
    on the scores. Without ``fullgraph`` it runs between two graphs; :func:`entmax_bisect` has one.

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the keys.
        alpha: :math:`\alpha`, at least 1: a number, or a tensor with one for each row, broadcast
            to ``scores`` with size 1 along ``dim``: ``(heads, 1, 1)`` for scores
            ``(batch, heads, L, S)``.

    Returns:
        Weights, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, ``dim`` no integer, or ``alpha`` neither a
            number nor a tensor of the dtype of ``scores``.
        ValueError: if ``scores`` have no such dimension, or ``alpha`` is below 1, not finite or
            does not broadcast.

    Source: Peters, Niculae and Martins (2019), section 3; Correia, Niculae and Martins (2019),
        section 3, for an α that is learned.

    Example:
        >>> import torch
        >>> scores = torch.tensor([2.0, 1.0, 0.0])
        >>> entmax(scores, alpha=1.0)
        tensor([0.6652, 0.2447, 0.0900])
        >>> entmax(scores, alpha=1.3)
        tensor([0.7688, 0.2078, 0.0234])
        >>> entmax(scores, alpha=2.0)
        tensor([1., 0., 0.])
    """
    check_rows(scores, dim)
    _check_alpha(alpha, scores, dim)
    if isinstance(alpha, Tensor):
        return _normalise(scores, dim, alpha, newton_weights)
    if alpha == 1:
        return softmax(scores, dim)
    closed = {1.5: entmax15_weights, 2: sparsemax_weights}
    return _normalise(scores, dim, float(alpha), closed.get(alpha, newton_weights))


def entmax_bisect(scores: Tensor, dim: int = -1, *, alpha: Alpha = 1.5, steps: int = 60) -> Tensor:
    r"""Compute :func:`entmax` by halving the interval of the threshold, for any α alike.

    .. math::
        \tau_i \in \Bigl[\, \max_j (\alpha - 1) s_{ij} - 1, \;
        \max_j (\alpha - 1) s_{ij} - S^{1 - \alpha} \,\Bigr]

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the S keys.
        alpha: :math:`\alpha`, at least 1, as :func:`entmax` takes it.
        steps: how often the interval is halved; each step makes one more bit of τ sure.

    Returns:
        Weights, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: as :func:`entmax`, or if ``steps`` is no integer.
        ValueError: as :func:`entmax`, or if ``steps`` is below 1.

    Source: Peters, Niculae and Martins (2019), algorithm 1; Blondel, Martins and Niculae (2020).

    Example:
        >>> import torch
        >>> entmax_bisect(torch.tensor([2.0, 1.0, 0.0]), alpha=1.3)
        tensor([0.7688, 0.2078, 0.0234])
    """
    check_rows(scores, dim)
    _check_alpha(alpha, scores, dim)
    check_sizes(steps=steps)

    def bisected(rows: Tensor, alpha: Alpha) -> Tensor:
        return weights_by_bisection(rows, alpha, steps)

    return _normalise(scores, dim, alpha, bisected)


def _normalise(
    scores: Tensor, dim: int, alpha: Alpha, weights_of: Callable[[Tensor, Alpha], Tensor]
) -> Tensor:
    check_rows(scores, dim)
    if scores.shape[dim] == 0:
        return scores.clone()
    if isinstance(alpha, Tensor):
        one_per_row = list(scores.shape)
        one_per_row[dim] = 1
        alpha = at_least_float32(alpha).expand(one_per_row).movedim(dim, -1)
    rows = at_least_float32(scores).movedim(dim, -1)
    weights: Tensor = Entmax.apply(rows, alpha, weights_of)
    return weights.movedim(-1, dim).to(scores.dtype)


def _check_alpha(alpha: Alpha, scores: Tensor, dim: int) -> None:
    if isinstance(alpha, Tensor):
        check_one_per_row("alpha", alpha, scores, dim)
        lowest = alpha.detach().min().item() if alpha.numel() else 1.0
    else:
        check_number("alpha", alpha)
        lowest = alpha
    if not lowest >= 1:
        raise ValueError(f"alpha must be at least 1, got {lowest}")
