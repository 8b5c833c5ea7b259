"""What :class:`torch.autocast` asks of attention: half precision, whatever dtypes come in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes in on this device; None if it is off, or not to be had."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def in_autocast_dtype(*arguments: Any) -> tuple[Any, ...]:
    """Cast tensors as autocast does for PyTorch's own attention; all else stays as it is."""
    device = arguments[0].device if isinstance(arguments[0], Tensor) else None
    dtype = None if device is None else autocast_dtype(device)
    if dtype is None:
        return arguments
    return tuple(x.to(dtype) if _is_eligible(x) else x for x in arguments)


def _is_eligible(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64


def in_widest_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors alike, where autocast is on and what is computed stays in float32."""
    if autocast_dtype(tensors[0].device) is None:
        return tensors
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in tensors)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep autocast from rounding what is computed in float32 on purpose."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def autocast_as(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Bring back autocast as :func:`autocast_dtype` saw it."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
