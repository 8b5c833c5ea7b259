"""Squared distances of many pairs of points, with no table of all their differences."""

from typing import Any

import torch
from torch import Tensor


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Compute :math:`\lVert x_i - y_j \rVert^2` from the differences, in ``(..., L, S)`` numbers.

    Args:
        x: ``(..., L, D)``.
        y: ``(..., S, D)``, of the same dtype.

    Returns:
        ``(..., L, S)``; half precision gives float32, for it has too few digits to add up.

    Source: the definition.

    Example:
        >>> squared_distance(torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 5.0], [1.0, 1.0]]))
        tensor([[25.,  0.]])
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    squares: Tensor = SquaredDistance.apply(x.to(dtype), y.to(dtype))
    return squares


class SquaredDistance(torch.autograd.Function):
    r""":math:`d_{ij} = \lVert x_i - y_j \rVert^2`, and so
    :math:`\bar x_i = 2 \sum_j \bar d_{ij} (x_i - y_j)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        leading = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        total = x.new_zeros(*leading, x.shape[-2], y.shape[-2])
        for d in range(x.shape[-1]):
            total = total + (x[..., :, None, d] - y[..., None, :, d]).square()
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        grad_x = 2 * WeightedDifferences.apply(grad, x, y)
        grad_y = 2 * WeightedDifferences.apply(grad.mT, y, x)
        return grad_x.sum_to_size(x.shape), grad_y.sum_to_size(y.shape)

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, y_tangent: Tensor | None) -> Tensor:
        x, y = ctx.saved_tensors
        tangent = x.new_zeros(())
        if x_tangent is not None:
            tangent = tangent + _differences_times(x_tangent, x, y)
        if y_tangent is not None:
            tangent = tangent + _differences_times(y_tangent, y, x).mT
        return 2 * tangent


class WeightedDifferences(torch.autograd.Function):
    r""":math:`\sum_j w_{ij} (x_i - y_j)`, what pulls point i to, or pushes it from, all others."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        columns = [
            (weights * (x[..., :, None, d] - y[..., None, :, d])).sum(-1)
            for d in range(x.shape[-1])
        ]
        return torch.stack(columns, -1) if columns else x.new_zeros(*weights.shape[:-1], 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, x, y = ctx.saved_tensors
        grad_weights = _differences_times(grad, x, y)
        grad_x = weights.sum(-1, keepdim=True) * grad
        grad_y = -weights.mT @ grad
        return grad_weights, grad_x.sum_to_size(x.shape), grad_y.sum_to_size(y.shape)

    @staticmethod
    def jvp(
        ctx: Any, weights_tangent: Tensor | None, x_tangent: Tensor | None, y_tangent: Tensor | None
    ) -> Tensor:
        weights, x, y = ctx.saved_tensors
        tangent = x.new_zeros(*weights.shape[:-1], x.shape[-1])
        if weights_tangent is not None:
            tangent = tangent + WeightedDifferences.apply(weights_tangent, x, y)
        if x_tangent is not None:
            tangent = tangent + weights.sum(-1, keepdim=True) * x_tangent
        if y_tangent is not None:
            tangent = tangent - weights @ y_tangent
        return tangent


def _differences_times(vectors: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r""":math:`v_i \cdot (x_i - y_j)` for every pair."""
    return (vectors * x).sum(-1, keepdim=True) - vectors @ y.mT
