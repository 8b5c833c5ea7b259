"""Which kernel runs a call: the one that is fixed, or else the fastest that can do it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from attn_core.arguments import Arguments, Normalizer, Score, check_arguments
from attn_core.calls import checked_call
from attn_core.kernels import banded, chunked, explicit, flex, sdpa
from attn_core.masks import Mask
from attn_core.positions.bias import Bias

__all__ = ["Choice", "use", "which"]

KernelName = Literal["banded", "sdpa", "chunked", "flex", "explicit"]

# The fastest first: the first one that can do the job, and is not reluctant to, runs. A kernel is a
# module with `refusal`, why it cannot; with `run`; and, unless it is the last resort, with
# `reluctance`, why another one is better though it can.
_KERNELS: dict[KernelName, ModuleType] = {
    "banded": banded,
    "sdpa": sdpa,
    "chunked": chunked,
    "flex": flex,
    "explicit": explicit,
}

_fixed: ContextVar[KernelName | None] = ContextVar("fixed kernel", default=None)
# The same for torch.compile, which cannot read a ContextVar, but notices when a list has changed.
_fixed_anywhere: list[KernelName] = []


@dataclass(frozen=True)
class Choice:
    """Which kernel runs a call, and why not the others.

    Attributes:
        kernel: the name of the kernel that runs.
        refused: for each kernel that cannot do the job, the reason.
        passed_over: for each kernel that could do it, but not as well, the reason.

    Source: this package; :func:`torch.nn.attention.sdpa_kernel` does it for PyTorch.

    Example:
        >>> print(Choice("explicit", {"sdpa": "softcap is given"}))
        explicit runs
        sdpa cannot: softcap is given
    """

    kernel: KernelName
    refused: dict[str, str]
    passed_over: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.kernel} runs"]
        lines += [f"{name} cannot: {why}" for name, why in self.refused.items()]
        return "\n".join(lines + [f"{name} could: {why}" for name, why in self.passed_over.items()])


@contextmanager
def use(kernel: KernelName) -> Iterator[None]:
    """Fix the kernel of every call of attention inside a ``with`` block.

    ``"explicit"``
        writes the three steps out. It can do everything, is the only one with second derivatives
        and forward-mode differentiation for all it does, and holds all weights.
    ``"sdpa"``
        hands them to PyTorch's fused kernel.
    ``"banded"``
        cuts a window into blocks: time and memory grow linearly with the length.
    ``"chunked"``
        goes through softmax block by block: memory grows linearly with the length, whatever the
        mask and the bias, also with softcap and sinks.
    ``"flex"``
        is FlexAttention. It is fast only inside a function that you compile, and never runs unless
        it is fixed.

    Args:
        kernel: one of these names.

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
    token = None if torch.compiler.is_compiling() else _fixed.set(kernel)
    _fixed_anywhere.append(kernel)
    try:
        yield
    finally:
        _fixed_anywhere.remove(kernel)
        if token is not None:
            _fixed.reset(token)


@checked_call
def which(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | Mask | None = None,
    bias: Tensor | Bias | None = None,
    score: Score | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    q_offset: int | Tensor | None = None,
    return_weights: bool = False,
) -> Choice:
    """Say which kernel :func:`attn_core.attention` runs for these arguments, and why.

    Args:
        query: ``(..., Hq, L, D)``.
        key: ``(..., Hkv, S, D)``.
        value: ``(..., Hkv, S, Dv)``.
        mask: as in :func:`attn_core.attention`.
        bias: as there.
        score: as there.
        normalizer: as there.
        scale: as there.
        softcap: as there.
        dropout_p: as there.
        q_offset: as there.
        return_weights: as there; it never changes the kernel.

    Returns:
        The choice; it prints as text.

    Raises:
        TypeError: as :func:`attn_core.attention`.
        ValueError: as :func:`attn_core.attention`.

    Source: this package; :func:`torch.nn.attention.sdpa_kernel` does it for PyTorch.

    Example:
        >>> import torch
        >>> from attn_core import masks
        >>> x = torch.ones(3000, 4)
        >>> print(which(x, x, x, mask=masks.window(100, 0)))
        banded runs
        >>> print(which(x, x, x, mask=masks.causal()))
        sdpa runs
        banded cannot: mask causal() does not end on both sides of the query
    """
    arguments = check_arguments(
        query,
        key,
        value,
        mask=mask,
        bias=bias,
        score=score,
        normalizer=normalizer,
        scale=scale,
        softcap=softcap,
        dropout_p=dropout_p,
        q_offset=q_offset,
    )
    return choose(arguments)


def choose(arguments: Arguments) -> Choice:
    """Choose the kernel for checked arguments; see :func:`which`."""
    fixed = fixed_kernel()
    if fixed is not None:
        reason = _KERNELS[fixed].refusal(arguments)
        if reason:
            raise ValueError(f"kernel {fixed!r} is fixed by kernels.use, but cannot: {reason}")
        return Choice(fixed, {})
    refused: dict[str, str] = {}
    passed_over: dict[str, str] = {}
    for name, kernel in _KERNELS.items():
        reason = kernel.refusal(arguments)
        if reason is not None:
            refused[name] = reason
            continue
        reason = kernel.reluctance(arguments)
        if reason is None:
            break
        passed_over[name] = reason
    return Choice(name, refused, passed_over)


def fixed_kernel() -> KernelName | None:
    """The name that the innermost :func:`use` block of this thread has fixed."""
    if torch.compiler.is_compiling():
        return _fixed_anywhere[-1] if _fixed_anywhere else None
    return _fixed.get()


def run(arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """Compute the output, and the weights if the kernel has them at hand."""
    return _KERNELS[choose(arguments).kernel].run(arguments)
