"""The arguments of an approximation: checked, grouped, with nothing left in the padding.

An approximation never holds the L × S scores, so it cannot take any mask. What it can take is
padding: which keys are real, alike for every query and head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attn_core.arguments import check_arguments
from attn_core.autocast import in_widest_dtype
from attn_core.masks import Mask


@dataclass(frozen=True)
class Padded:
    """One call of an approximation, with everything checked and nothing computed.

    Attributes:
        query: ``(..., Hkv, Hq / Hkv, L, D)``: the queries of a group side by side.
        key: ``(..., Hkv, 1, S, D)``, zeros where it is padding.
        value: ``(..., Hkv, 1, S, Dv)``, zeros where it is padding.
        real: bool ``(..., 1, 1, 1, S)``, False where a key is padding; or None.
        scale: what the scores are multiplied by.
        without_heads: whether the caller gave plain matrices, so that the result is one too.

    Example:
        >>> x = torch.ones(4, 3, 2)
        >>> check_padded(x, x[:2], x[:2], mask=None, scale=None, reason="").query.shape
        torch.Size([2, 2, 3, 2])
    """

    query: Tensor
    key: Tensor
    value: Tensor
    real: Tensor | None
    scale: float
    without_heads: bool

    def restore(self, output: Tensor) -> Tensor:
        """(..., Hkv, Hq / Hkv, L, Dv) to (..., Hq, L, Dv), or to a matrix as it was given."""
        output = output.flatten(-4, -3)
        return output[0] if self.without_heads else output


def check_padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | Mask | None,
    scale: float | None,
    reason: str,
) -> Padded:
    """Check the arguments that approximations share, and take the padding out of keys and values.

    Args:
        query: ``(..., Hq, L, D)``.
        key: ``(..., Hkv, S, D)``.
        value: ``(..., Hkv, S, Dv)``.
        mask: which keys are real; see :func:`real_keys`.
        scale: as in :func:`attn_core.attention`.
        reason: why this approximation takes no other mask.

    Returns:
        The checked arguments.

    Raises:
        TypeError: as :func:`attn_core.attention`.
        ValueError: as :func:`attn_core.attention`, or if ``mask`` says more than which keys are
            real.

    Source: this package; see :func:`attn_core.attention`.

    Example:
        >>> x = torch.ones(3, 2)
        >>> real = torch.tensor([True, True, False])
        >>> check_padded(x, x, x, mask=real, scale=None, reason="").value.flatten()
        tensor([1., 1., 1., 1., 0., 0.])
    """
    if all(isinstance(x, Tensor) for x in (query, key, value)):
        query, key, value = in_widest_dtype(query, key, value)
    given = check_arguments(
        query, key, value, mask=mask, scale=scale, q_offset=0, follow_autocast=False
    )
    group = given.group
    query = given.query.unflatten(-3, (-1, group))
    key, value = given.key.unsqueeze(-3), given.value.unsqueeze(-3)
    real = real_keys("mask", mask, given.k_len, query.device, reason)
    if real is not None:
        real = real[..., None, :, :]  # one more dimension for the groups
        key = key.masked_fill(~real.mT, 0.0)
        value = value.masked_fill(~real.mT, 0.0)
    return Padded(query, key, value, real, given.scale, given.without_heads)


def real_keys(
    name: str, mask: Tensor | Mask | None, k_len: int, device: torch.device, reason: str
) -> Tensor | None:
    """Read from a mask which keys are real: bool ``(..., 1, 1, S)``, or None for all of them."""
    if mask is None:
        return None
    if isinstance(mask, Mask):
        if mask.uses_positions or mask.q_len is not None or mask.heads is not None:
            raise ValueError(_only_padding(name, f"mask {mask.name}", reason))
        row = torch.zeros(1, 1, dtype=torch.long, device=device)
        real = mask.pairs(row, torch.arange(k_len, device=device))
    else:
        real = mask
    real = real.reshape((1,) * (3 - real.ndim) + real.shape)
    if real.shape[-2] != 1 or real.shape[-3] != 1:
        raise ValueError(_only_padding(name, f"mask {tuple(real.shape)}", reason))
    return real if real.shape[-1] > 1 else real.expand(*real.shape[:-1], k_len)


def broadcasts_to(shape: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Whether a shape broadcasts to a full one without enlarging it."""
    try:
        return torch.broadcast_shapes(shape, full) == full
    except RuntimeError:
        return False


def _only_padding(name: str, seen: str, reason: str) -> str:
    return (
        f"{name} must say which positions are real, alike for every query and head: "
        f"masks.padding(lengths) or bool (..., 1, 1, length), got {seen}; {reason}"
    )
