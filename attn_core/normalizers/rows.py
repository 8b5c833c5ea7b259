"""What every normaliser asks of its scores, and the rows that have nothing to attend."""

import torch
from torch import Tensor

from attn_core.checks import check_floating_point, check_number, check_same_kind, is_integer

__all__ = ["without_empty_rows"]


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
    check_rows(scores, dim)
    empty = scores.isneginf().all(dim, keepdim=True)
    return scores.masked_fill(empty, 0.0), empty


def check_rows(scores: Tensor, dim: int) -> None:
    """Refuse what has no rows of floating point numbers along this dimension."""
    check_floating_point("scores", scores)
    if not is_integer(dim):
        raise TypeError(f"dim must be an integer, got {dim!r}")
    if not -scores.ndim <= dim < scores.ndim:
        raise ValueError(f"scores {tuple(scores.shape)} have no dimension dim {dim}")


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not positive."""
    check_number("temperature", temperature)
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def check_one_per_row(name: str, numbers: Tensor, scores: Tensor, dim: int) -> None:
    """Refuse a tensor that does not give one number to each row of scores."""
    check_floating_point(name, numbers)
    check_same_kind(name, numbers, "scores", scores)
    rows = list(scores.shape)
    rows[dim] = 1
    try:
        fits = torch.broadcast_shapes(numbers.shape, rows) == tuple(rows)
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must broadcast to one number for each row, {tuple(rows)}, "
            f"got {name} {tuple(numbers.shape)}"
        )


def at_least_float32(scores: Tensor) -> Tensor:
    """Half precision becomes float32: its sums are too coarse to normalise by."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
