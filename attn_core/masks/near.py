"""Masks of position: which distances between query and key are allowed."""

import torch
from torch import Tensor

from attn_core.masks.mask import Indices, Mask, Reach


def causal() -> Mask:
    r"""Let a query attend its own position and those before it.

    .. math:: j \le i + \mathrm{q\_offset}

    Returns:
        A mask that compares positions. It is always the same object.

    Source: Vaswani et al. (2017), section 3.2.3.

    Example:
        >>> causal().dense(3, 3)
        tensor([[ True, False, False],
                [ True,  True, False],
                [ True,  True,  True]])
    """
    return _CAUSAL


_CAUSAL = Mask(lambda at: at.key <= at.query, "causal()", uses_positions=True, reach=Reach(right=0))


def window(left: int | None, right: int | None) -> Mask:
    r"""Let a query attend the keys near its own position, its own key always among them.

    .. math:: p - \text{left} \le j \le p + \text{right}, \qquad p = i + \mathrm{q\_offset}

    The convention is that of flash-attn and of ONNX: ``left`` and ``right`` count the *other*
    keys, so ``window(1, 1)`` is three keys wide.

    Args:
        left: how many keys before the query's own position; None for all of them.
        right: how many keys after it; None for all of them.

    Returns:
        A mask that compares positions.

    Raises:
        ValueError: if ``left`` or ``right`` is negative.
        TypeError: if one is neither an integer nor None.

    Source: Beltagy, Peters and Cohan (2020), sliding window; D2, section 2.2, local attention.

    Example:
        >>> window(1, 0).dense(3, 3)
        tensor([[ True, False, False],
                [ True,  True, False],
                [False,  True,  True]])
    """
    for name, keys in (("left", left), ("right", right)):
        if keys is not None and (not isinstance(keys, int) or isinstance(keys, bool)):
            raise TypeError(f"{name} must be an integer or None, got {keys!r}")
        if keys is not None and keys < 0:
            raise ValueError(f"{name} must be 0 or more, got {keys}")

    def near(at: Indices) -> Tensor:
        distance = at.key - at.query
        inside = torch.ones_like(distance, dtype=torch.bool)
        if left is not None:
            inside = inside & (distance >= -left)
        if right is not None:
            inside = inside & (distance <= right)
        return inside

    return Mask(
        near, f"window({left}, {right})", uses_positions=True, reach=Reach(left=left, right=right)
    )
