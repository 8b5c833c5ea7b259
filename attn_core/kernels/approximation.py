"""How far an approximation is from exact attention, beside what it costs nothing to reach."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attn_core.checks import check_floating_point
from attn_core.kernels.buckets import lsh
from attn_core.masks import Mask, causal


@dataclass(frozen=True)
class ApproximationError:
    """How far an approximation is from exact attention, and how far trivial answers are.

    Attributes:
        error: length of the difference of the outputs, divided by the length of the exact output.
        mean_of_values: the same for the mean of the values that a query may attend. An
            approximation that is not far below it has found nothing. The answer 0 has error 1.

    Source: this package; papers often leave the second number out.

    Example:
        >>> print(ApproximationError(error=0.1234, mean_of_values=0.85))
        error 0.12, mean of the values 0.85
    """

    error: float
    mean_of_values: float

    def __str__(self) -> str:
        return f"error {self.error:.2g}, mean of the values {self.mean_of_values:.2g}"


@torch.no_grad()
def approximation_error(
    approximation: Callable[..., Tensor], *tensors: Tensor, **options: Any
) -> ApproximationError:
    r"""Measure how far an approximation is from exact attention, beside the mean of the values.

    .. math::
        \text{error} = \frac{\lVert O_\text{approximate} - O \rVert}{\lVert O \rVert},
        \qquad
        \text{mean of values} = \frac{\lVert \bar V - O \rVert}{\lVert O \rVert}

    :math:`\bar V` holds for each query the mean of the values that it may attend: what scale 0
    gives. It computes exact attention, and so costs as much as that.

    Args:
        approximation: :func:`favor`, :func:`linformer`, :func:`nystrom`, :func:`lsh`,
            :func:`linear_attention`, or a callable of yours that takes the same arguments.
        *tensors: its tensors: query, key and value, or query and value for :func:`lsh`.
        **options: its other arguments. ``mask``, ``causal`` and ``scale`` hold for exact attention
            too. For :func:`lsh` exact is one bucket.

    Returns:
        The two errors; they print as text.

    Raises:
        TypeError: as the approximation does, or if it is not callable or returns no tensor.
        ValueError: as the approximation does; or if it returns another shape than exact attention;
            or if the exact output is 0, so that nothing can be relative to it.

    Source: this package; papers measure the first of the two.

    Example:
        >>> import torch
        >>> from attn_core import kernels
        >>> x = torch.sin(torch.arange(100)[:, None] * torch.arange(1, 17) / 40)
        >>> print(kernels.approximation_error(kernels.nystrom, x, x, x, landmarks=20))
        error 0.028, mean of the values 0.69
    """
    if not callable(approximation):
        raise TypeError(f"approximation must be a callable, got {approximation!r}")
    if isinstance(approximation, partial):
        options = approximation.keywords | options
        return approximation_error(approximation.func, *approximation.args, *tensors, **options)
    exactly: Callable[..., Tensor]
    if approximation is lsh:
        exactly = partial(lsh, *tensors, **_one_bucket(options))
    else:
        from attn_core.attend import attention  # which imports the kernels itself

        exactly = partial(attention, *tensors, **_shared_with_exact(tensors, options))
    exact, mean = exactly(), exactly(scale=0.0)
    estimate = approximation(*tensors, **options)
    check_floating_point("the result of approximation", estimate)
    if estimate.shape != exact.shape:
        raise ValueError(
            f"approximation must return {tuple(exact.shape)}, as exact attention does, got "
            f"{tuple(estimate.shape)}"
        )
    length = exact.double().norm()
    if length == 0:
        raise ValueError("the exact output is 0, so no error can be relative to it")
    return ApproximationError(
        error=float((estimate.double() - exact.double()).norm() / length),
        mean_of_values=float((mean.double() - exact.double()).norm() / length),
    )


def _shared_with_exact(tensors: tuple[Tensor, ...], options: dict[str, Any]) -> dict[str, Any]:
    """What exact attention takes of an approximation's options."""
    mask: Tensor | Mask | None = options.get("mask")
    if options.get("causal"):
        if isinstance(mask, Tensor):
            mask = mask & causal().dense(*(x.shape[-2] for x in tensors[:2]), device=mask.device)
        else:
            mask = causal() if mask is None else causal() & mask
    return {"mask": mask, "scale": options.get("scale")}


def _one_bucket(options: dict[str, Any]) -> dict[str, Any]:
    return options | {"buckets": 1, "rounds": 1, "rotations": None, "generator": None}
