"""Ways to compute the same attention: which one runs, and why.

``explicit`` writes the three steps out and can do everything. ``sdpa`` hands them to PyTorch's
fused kernel. They give the same result up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from attn_core.arguments import Arguments, check_arguments
from attn_core.kernels import explicit, sdpa

__all__ = ["Choice", "use", "which"]

# The fastest first: the first one that can do the job runs.
_KERNELS: dict[str, ModuleType] = {"sdpa": sdpa, "explicit": explicit}

_fixed: ContextVar[str | None] = ContextVar("fixed kernel", default=None)


@dataclass(frozen=True)
class Choice:
    """Which kernel runs a call, and why not the others.

    Attributes:
        kernel: the name of the kernel that runs.
        refused: for each kernel that cannot do the job, the reason.

    Source: this package; :func:`torch.nn.attention.sdpa_kernel` does it for PyTorch.

    Example:
        >>> print(Choice("explicit", {"sdpa": "softcap is given"}))
        explicit runs
        sdpa cannot: softcap is given
    """

    kernel: str
    refused: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.kernel} runs"]
        return "\n".join(lines + [f"{name} cannot: {why}" for name, why in self.refused.items()])


@contextmanager
def use(kernel: str) -> Iterator[None]:
    """Fix the kernel of every call of attention inside a ``with`` block.

    Args:
        kernel: ``"explicit"`` or ``"sdpa"``.

    Raises:
        ValueError: if there is no such kernel. A call that the kernel cannot do raises one too,
            with the reason; it never falls back to another kernel.

    Source: this package; :func:`torch.nn.attention.sdpa_kernel` does it for PyTorch.

    Example:
        >>> import torch, attn_core
        >>> x = torch.eye(2)
        >>> with use("explicit"):
        ...     attn_core.attention(x, x, x, scale=0.0)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    if kernel not in list(_KERNELS):
        raise ValueError(f"kernel must be one of {sorted(_KERNELS)}, got {kernel!r}")
    token = _fixed.set(kernel)
    try:
        yield
    finally:
        _fixed.reset(token)


def which(query: Tensor, key: Tensor, value: Tensor, **arguments: Any) -> Choice:
    """Say which kernel :func:`attn_core.attention` runs for these arguments, and why.

    Args:
        query: ``(..., Hq, L, D)``.
        key: ``(..., Hkv, S, D)``.
        value: ``(..., Hkv, S, Dv)``.
        **arguments: the others of :func:`attn_core.attention`.

    Returns:
        The choice; it prints as text.

    Raises:
        TypeError: as :func:`attn_core.attention`.
        ValueError: as :func:`attn_core.attention`.

    Source: this package; :func:`torch.nn.attention.sdpa_kernel` does it for PyTorch.

    Example:
        >>> import torch
        >>> x = torch.ones(3, 4)
        >>> print(which(x, x, x, softcap=5.0))
        explicit runs
        sdpa cannot: softcap is given
    """
    arguments.pop("return_weights", None)  # asking for weights never changes the kernel
    return choose(check_arguments(query, key, value, **arguments))


def choose(arguments: Arguments) -> Choice:
    """Choose the kernel for checked arguments; see :func:`which`."""
    fixed = _fixed.get()
    if fixed is not None:
        reason = _KERNELS[fixed].refusal(arguments)
        if reason:
            raise ValueError(f"kernel {fixed!r} is fixed by kernels.use, but cannot: {reason}")
        return Choice(fixed, {})
    refused: dict[str, str] = {}
    for name, kernel in _KERNELS.items():
        reason = kernel.refusal(arguments)
        if reason is None:
            break
        refused[name] = reason
    return Choice(name, refused)


def run(arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """Compute the output, and the weights if the kernel has them at hand."""
    return _KERNELS[choose(arguments).kernel].run(arguments)
