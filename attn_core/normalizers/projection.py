r"""How the sparse normalisers find their weights, and how those move with the scores.

All of them solve, for each row of scores :math:`z` whose highest is 0,

.. math::
    \sum_j a_j = 1, \qquad
    a_j = \max\bigl(1 + (\alpha - 1)(z_j - \lambda), 0\bigr)^{1/(\alpha - 1)}

for one number :math:`\lambda \ge 0`; as α → 1, :math:`a_j = \exp(z_j - \lambda)`. With the
threshold of the papers, :math:`\tau = (\alpha - 1)(\max_j s_j + \lambda) - 1`.

The p-norm of :math:`\max(x - \tau, 0)`, with :math:`p = 1/(\alpha - 1) \ge 1`, is a convex function
of τ. So Newton's method, begun below the solution, climbs to it without ever passing it.

A row stops where it has arrived, however far the others are: one more step would move its last
digits, and under a causal mask an earlier query would feel a later one.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Alpha: TypeAlias = float | Tensor
MOST_STEPS = 100


class Entmax(torch.autograd.Function):
    r"""Weights of rows of scores, and their derivatives, which need the weights alone.

    With :math:`q_j = a_j^{2-\alpha}` where :math:`a_j > 0`, and 0 elsewhere,

    .. math::
        \frac{\partial a_i}{\partial s_j}
        = q_i \Bigl(\delta_{ij} - \frac{q_j}{\sum_k q_k}\Bigr)

    and a change of α acts as a change of every score by

    .. math:: -\frac{\partial}{\partial \alpha} \frac{a_j^{\alpha - 1} - 1}{\alpha - 1}
    """

    @staticmethod
    def forward(rows: Tensor, alpha: Alpha, weights_of: Callable[..., Tensor]) -> Tensor:
        return weights_of(rows, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, alpha, _ = inputs
        ctx.alpha = alpha
        learned = (alpha,) if isinstance(alpha, Tensor) else ()
        ctx.save_for_backward(output, *learned)
        ctx.save_for_forward(output, *learned)

    @staticmethod
    def backward(ctx: Any, grad_weights: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, alpha = _saved(ctx)
        grad_rows = _times_jacobian(grad_weights, weights, alpha)
        if not isinstance(alpha, Tensor) or not ctx.needs_input_grad[1]:
            return grad_rows, None, None
        grad_alpha = (grad_rows * _shift_of_scores(weights, alpha)).sum(-1, keepdim=True)
        return grad_rows, grad_alpha, None

    @staticmethod
    def jvp(ctx: Any, rows_tangent: Tensor, alpha_tangent: Tensor | None, _: None) -> Tensor:
        weights, alpha = _saved(ctx)
        tangent = rows_tangent
        if alpha_tangent is not None:
            tangent = tangent + alpha_tangent * _shift_of_scores(weights, alpha)
        return _times_jacobian(tangent, weights, alpha)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, rows: Tensor, alpha: Alpha, weights_of: Callable[..., Tensor]
    ) -> tuple[Tensor, int]:
        def batch_first(x: Tensor, at: int | None) -> Tensor:
            return x.expand(info.batch_size, *x.shape) if at is None else x.movedim(at, 0)

        rows = batch_first(rows, in_dims[0])
        if isinstance(alpha, Tensor):
            alpha = batch_first(alpha, in_dims[1])
        return Entmax.apply(rows, alpha, weights_of), 0


def _saved(ctx: Any) -> tuple[Tensor, Alpha]:
    weights, *learned = ctx.saved_tensors
    return weights, learned[0] if learned else ctx.alpha


def _times_jacobian(vector: Tensor, weights: Tensor, alpha: Alpha) -> Tensor:
    """The Jacobian is symmetric: it carries changes forward and gradients back."""
    attended = weights > 0
    q = weights.masked_fill(~attended, 1.0) ** (2 - alpha)
    q = q.masked_fill(~attended, 0.0)
    total = q.sum(-1, keepdim=True)
    total = total.masked_fill(total == 0, 1.0)  # a row without keys
    return q * (vector - (q * vector).sum(-1, keepdim=True) / total)


def _shift_of_scores(weights: Tensor, alpha: Alpha) -> Tensor:
    """Give −∂/∂α of (a^(α−1) − 1)/(α − 1): −log²a · (t eᵗ − eᵗ + 1)/t² with t = (α − 1) log a."""
    log_weights = weights.masked_fill(weights <= 0, 1.0).log()
    t = (alpha - 1) * log_weights
    near = t.abs() < 0.3  # where the quotient is 0/0 it is read from its series
    far = torch.where(near, 1.0, t)
    quotient = (far * far.exp() - torch.expm1(far)) / far**2
    series, factorial = torch.zeros_like(t), 6227020800.0  # 13!
    for k in range(13, 1, -1):
        series = series * t + (k - 1) / factorial
        factorial /= k
    return -(log_weights**2) * torch.where(near, series, quotient)


def _below_highest(rows: Tensor) -> Tensor:
    """Scores minus the highest of their row; −inf stays −inf, in a row of nothing else too."""
    highest = rows.amax(-1, keepdim=True)
    return rows - highest.masked_fill(highest.isneginf(), 0.0)


def sparsemax_weights(rows: Tensor, alpha: Alpha = 2.0) -> Tensor:
    r"""Give the weights of α = 2, :math:`\max(z - \tau, 0)`.

    A step solves for τ as if the keys above it were the right ones; when they stay the same, it is
    exact.
    """
    z = _below_highest(rows)
    tau = torch.full_like(z[..., :1], -1.0)
    above, before = torch.empty_like(z), torch.zeros_like(tau)
    moving = torch.ones_like(tau, dtype=torch.bool)
    while True:
        torch.sub(z, tau, out=above).clamp_min_(0)
        total = above.sum(-1, keepdim=True)
        count = above.sign_().sum(-1, keepdim=True)
        tau += (total - 1) / count.clamp_min(1) * moving
        moving &= count != before  # the sign of NaN is 0: a row that holds one stands still
        if not moving.any():
            return torch.sub(z, tau, out=above).clamp_min_(0)
        before = count


def entmax15_weights(rows: Tensor, alpha: Alpha = 1.5) -> Tensor:
    r"""Give the weights of α = 1.5, :math:`\max(z/2 - \tau, 0)^2`.

    Newton's method for the length of the vector :math:`\max(z/2 - \tau, 0)`, which is to be 1.
    """
    z = _below_highest(rows).mul_(0.5)
    tau = torch.full_like(z[..., :1], -1.0)
    root = torch.empty_like(z)
    moving = torch.ones_like(tau, dtype=torch.bool)
    for _ in range(MOST_STEPS):
        torch.sub(z, tau, out=root).clamp_min_(0)
        length = torch.linalg.vector_norm(root, dim=-1, keepdim=True)
        step = (length - 1) * length / root.sum(-1, keepdim=True).clamp_min(0.5) * moving
        tau += step
        moving = _is_large(step)
        if not moving.any():
            break
    return torch.sub(z, tau, out=root).clamp_min_(0).square_()


def newton_weights(rows: Tensor, alpha: Alpha) -> Tensor:
    r"""Give the weights of any α: by Newton's method up to 2, by bisection above.

    The step of λ is :math:`\frac{\sum_j a_j}{\sum_j a_j^{2-\alpha}} \cdot
    \frac{1 - (\sum_j a_j)^{1-\alpha}}{\alpha - 1}`. For softmax, α → 1, that is the logarithm of
    the sum, and the first step is the last.
    """
    if bool((alpha > 2).any()) if isinstance(alpha, Tensor) else alpha > 2:
        return weights_by_bisection(rows, alpha)
    z = _below_highest(rows)
    slope = _slope(alpha, z)
    lam = torch.zeros_like(z[..., :1])
    moving = torch.ones_like(lam, dtype=torch.bool)
    for _ in range(MOST_STEPS):
        log_weights = _log_weights(z, lam, slope)
        weights = log_weights.exp()
        q = ((1 - slope) * log_weights.clamp_min(torch.finfo(z.dtype).min)).exp()
        total = weights.sum(-1, keepdim=True).clamp_min(0.5)
        gradient = q.masked_fill_(weights == 0, 0.0).sum(-1, keepdim=True).clamp_min(0.5)
        step = -torch.expm1(-slope * total.log()) / slope * total / gradient
        step = step * moving
        lam = lam + step
        moving = _is_large(step)
        if not moving.any():
            break
    return _log_weights(z, lam, slope).exp()


def weights_by_bisection(rows: Tensor, alpha: Alpha, steps: int = 100) -> Tensor:
    """Give the weights of any α by halving the interval in which λ must lie."""
    z = _below_highest(rows)
    slope = _slope(alpha, z)
    keys = torch.full_like(z[..., :1], z.shape[-1])
    low = torch.zeros_like(keys)  # there the highest weight is 1
    width = -torch.expm1(-slope * keys.log()) / slope  # at low + width no weight is above 1/keys
    for _ in range(steps):
        width = width / 2
        total = _log_weights(z, low + width, slope).exp().sum(-1, keepdim=True)
        low = torch.where(total >= 1, low + width, low)
    weights = _log_weights(z, low, slope).exp()
    # Above α = 2 a weight near 0 rises more steeply than λ can be told: mend the total.
    total = weights.sum(-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1.0)


def _slope(alpha: Alpha, z: Tensor) -> Tensor:
    """α − 1; for softmax, where it is 0, the least that can be divided by."""
    return torch.as_tensor(alpha - 1, dtype=z.dtype, device=z.device).clamp_min(
        torch.finfo(z.dtype).eps
    )


def _log_weights(z: Tensor, lam: Tensor, slope: Tensor) -> Tensor:
    """log a = log(max(1 + (α − 1)(z − λ), 0)) / (α − 1)."""
    return ((z - lam) * slope).clamp_min_(-1).log1p_().div_(slope)


def _is_large(step: Tensor) -> Tensor:
    """Whether the next step, about the square of this one, would not be lost in rounding."""
    return step > torch.finfo(step.dtype).eps ** 0.75
