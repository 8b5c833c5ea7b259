"""Masks that are given: by lengths, or by a table."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attn_core.masks.mask import Indices, Mask


def padding(lengths: Sequence[int] | Tensor) -> Mask:
    r"""Let queries attend the first keys of each batch entry only; the rest is padding.

    .. math:: j < \text{lengths}_b

    Args:
        lengths: number of real keys in each batch entry, ``(batch,)`` integers.

    Returns:
        A mask that tells batch entries apart.

    Raises:
        TypeError: if ``lengths`` are no integers.
        ValueError: if ``lengths`` is not one-dimensional, is empty, or has a negative entry.

    Source: D0's ``Attention`` has no such mask, so padding receives weight.

    Example:
        >>> padding([1, 2]).dense(1, 3)[:, 0]
        tensor([[[ True, False, False]],
        <BLANKLINE>
                [[ True,  True, False]]])
    """
    device = lengths.device if isinstance(lengths, Tensor) else None
    try:
        lengths = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"lengths must be integers, got {lengths!r}") from None
    if lengths.ndim != 1 or len(lengths) == 0:
        raise ValueError(f"lengths must be one integer per batch entry, got {lengths.tolist()}")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.min() < 0:
        raise ValueError(f"lengths must be 0 or more, got {lengths.tolist()}")
    return Mask(
        lambda at: at.key < lengths.to(at.key.device)[at.batch],
        f"padding({_short(lengths.tolist())})",
        batch=len(lengths),
        min_keys=int(lengths.max()),
        device=device,
    )


def dense(table: Tensor) -> Mask:
    r"""Use a boolean table as a mask, so that it combines with the others.

    Row ``i`` of the table belongs to query ``i`` of the call, whatever ``q_offset`` is.

    Args:
        table: bool ``(L, S)``, ``(heads, L, S)`` or ``(batch, heads, L, S)``, True where
            attending is allowed; batch or heads may be 1.

    Returns:
        A mask for exactly L queries and S keys.

    Raises:
        TypeError: if ``table`` is not a bool tensor.
        ValueError: if it has fewer than two dimensions, or more than four.

    Source: :func:`torch.nn.functional.scaled_dot_product_attention`, boolean ``attn_mask``.

    Example:
        >>> import torch
        >>> from attn_core import masks
        >>> (dense(torch.tensor([[True, True], [False, True]])) & masks.causal()).dense(2, 2)
        tensor([[ True, False],
                [False,  True]])
    """
    if not isinstance(table, Tensor) or table.dtype != torch.bool:
        seen = table.dtype if isinstance(table, Tensor) else type(table).__name__
        raise TypeError(f"table must be a bool tensor, True where attending is allowed, got {seen}")
    if not 2 <= table.ndim <= 4:
        raise ValueError(
            f"table must be (L, S), (heads, L, S) or (batch, heads, L, S), got {tuple(table.shape)}"
        )
    full = table.reshape((1,) * (4 - table.ndim) + table.shape)
    batch, heads, q_len, k_len = full.shape

    def look_up(at: Indices) -> Tensor:
        return full[at.batch if batch > 1 else 0, at.head if heads > 1 else 0, at.row, at.key]

    return Mask(
        look_up,
        f"dense({'×'.join(map(str, table.shape))})",
        batch=batch if batch > 1 else None,
        heads=heads if heads > 1 else None,
        q_len=q_len,
        k_len=k_len,
        device=table.device,
    )


def _short(numbers: list[int]) -> str:
    if len(numbers) <= 6:
        return str(numbers)
    return f"[{', '.join(map(str, numbers[:3]))}, … {len(numbers)} entries]"
