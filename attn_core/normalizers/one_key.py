"""Normalisers that choose one key: the best one, or one drawn at random."""

import torch
from torch import Tensor

from attn_core.normalizers.exponential import softmax
from attn_core.normalizers.rows import at_least_float32, check_rows, check_temperature

__all__ = ["gumbel_softmax", "hard"]


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
    check_rows(scores, dim)
    return _straight_through(scores, softmax(scores, dim), dim)


def gumbel_softmax(
    scores: Tensor,
    dim: int = -1,
    *,
    temperature: float = 1.0,
    hard: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw one key at random, softly, so that a gradient can pass.

    .. math:: a_i = \operatorname{softmax}\!\left(\frac{s_i + g_i}{T}\right), \qquad
              g_{ij} = -\log(-\log u_{ij}), \quad u_{ij} \sim U(0, 1)

    The arg max of :math:`s_i + g_i` is a draw from softmax of :math:`s_i`, whatever the
    temperature. The lower the temperature, the closer the weights are to a single 1.

    Args:
        scores: any shape, floating point; −inf where a key may not be attended.
        dim: the dimension that is normalised, the keys.
        temperature: :math:`T`, above 0, in the unit of the scores.
        hard: whether to give the drawn key the weight 1 and the others 0, with the gradient of the
            soft weights (straight-through, which is biased).
        generator: where the random numbers come from, on the device of ``scores``; by default
            PyTorch's own.

    Returns:
        Weights, shaped like ``scores``; zeros for a row of −inf.

    Raises:
        TypeError: if ``scores`` is not floating point, ``dim`` no integer, ``temperature`` no
            number, ``hard`` no bool or ``generator`` no generator.
        ValueError: if ``scores`` have no such dimension, or ``temperature`` is not positive.

    Source: Jang, Gu and Poole (2017), equation 2; Maddison, Mnih and Teh (2017).

    Example:
        >>> import torch
        >>> draw = torch.Generator().manual_seed(0)
        >>> gumbel_softmax(torch.tensor([0.0, 1.0, 2.0]), hard=True, generator=draw)
        tensor([0., 0., 1.])
    """
    check_rows(scores, dim)
    check_temperature(temperature)
    if not isinstance(hard, bool):
        raise TypeError(f"hard must be True or False, got {hard!r}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    rows = at_least_float32(scores)
    # −log u has the exponential distribution.
    noise = -torch.empty_like(rows).exponential_(generator=generator).log()
    noisy = rows + noise
    weights = softmax(noisy, dim, temperature=temperature).to(scores.dtype)
    return _straight_through(noisy, weights, dim) if hard else weights


def _straight_through(scores: Tensor, soft: Tensor, dim: int) -> Tensor:
    """Weight 1 for the highest score of a row, with the derivatives of the soft weights."""
    if scores.shape[dim] == 0:
        return soft
    best = scores.argmax(dim, keepdim=True)
    one_hot = torch.zeros_like(soft).scatter(dim, best, 1.0)
    one_hot = one_hot.masked_fill(scores.isneginf(), 0.0)
    return one_hot + (soft - soft.detach())
