"""What several parts of the package check about their arguments."""

from torch import Tensor

from attn_core.masks import Mask


def check_sizes(*, least: int = 1, **sizes: int) -> None:
    """Refuse a size that is no integer, or below the least."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")


def check_batch(name: str, x: Tensor, width: int) -> None:
    """Refuse anything but a batch of sequences of this width."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(x).__name__}")
    if x.ndim != 3 or x.shape[-1] != width:
        raise ValueError(f"{name} must be (batch, length, {width}), got {name} {tuple(x.shape)}")


def check_mask_dimensions(mask: Tensor | Mask | None) -> None:
    """Refuse a tensor of three dimensions, of which the first may mean batch or heads."""
    if isinstance(mask, Tensor) and mask.ndim not in (2, 4):
        raise ValueError(
            "mask must be (queries, keys) or (batch, heads, queries, keys), where batch and heads "
            f"may be 1, got mask {tuple(mask.shape)}"
        )
