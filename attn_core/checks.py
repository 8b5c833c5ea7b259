"""What several parts of the package check about their arguments."""

import math
from collections.abc import Sequence
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from attn_core.autocast import autocast_dtype

if TYPE_CHECKING:
    from attn_core.masks import Mask


def check_sizes(*, least: int = 1, **sizes: int) -> None:
    """Refuse a size that is no integer, or below the least."""
    for name, size in sizes.items():
        if not is_integer(size):
            raise TypeError(f"{name} must be an integer, got {size!r}")
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")


def is_tracing() -> bool:
    """Whether torch.jit.trace records: what is decided here from a length holds for any length."""
    return not torch.compiler.is_compiling() and torch.jit.is_tracing()


def is_integer(number: object) -> bool:
    """Whether it is an integer of Python or NumPy, or a tensor that holds one and no dimension."""
    if isinstance(number, Tensor):
        is_number = number.is_floating_point() or number.is_complex() or number.dtype == torch.bool
        return number.ndim == 0 and not is_number
    return isinstance(number, int | np.integer | torch.SymInt) and not isinstance(number, bool)


def check_number(name: str, number: object) -> None:
    """Refuse what is no finite real number."""
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{name} must be a number, got {number!r}")
    # torch.compile traces comparisons, and not math.isfinite.
    if not -math.inf < number < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} must be finite, got {number}")


def check_flags(**flags: object) -> None:
    """Refuse what is neither True nor False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")


def check_eps(eps: object) -> None:
    """Refuse what cannot be added to a variance."""
    check_number("eps", eps)
    if eps < 0:  # type: ignore[operator]
        raise ValueError(f"eps must be 0 or more, got {eps}")


def check_share(name: str, share: object) -> None:
    """Refuse what is no share of weights that may be dropped."""
    check_number(name, share)
    if not 0 <= share < 1:  # type: ignore[operator]
        raise ValueError(f"{name} must be at least 0 and below 1, got {share}")


def check_kind(name: str, thing: object, kind: type) -> None:
    """Refuse what is not of this class of the package."""
    if not isinstance(thing, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {thing!r}")


def check_text(name: str, text: object) -> None:
    """Refuse what is no text."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a text, got {text!r}")


def check_path(name: str, path: object) -> None:
    """Refuse what names no file and no folder."""
    if not isinstance(path, str | PathLike):
        raise TypeError(f"{name} must be a path, got {path!r}")


def check_callable(name: str, thing: object) -> None:
    """Refuse what cannot be called."""
    if not callable(thing):
        raise TypeError(f"{name} must be callable, got {thing!r}")


def check_floating_point(name: str, x: Tensor) -> None:
    """Refuse anything but a floating point tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if x.layout != torch.strided:
        check_not_sparse(name, x)


def check_not_sparse(name: str, x: object) -> None:
    """Refuse a tensor that does not hold all its entries."""
    if isinstance(x, Tensor) and x.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got {x.layout}: give {name}.to_dense()")


def check_integers(name: str, x: Tensor) -> None:
    """Refuse anything but a tensor of integers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(x).__name__}")
    if x.dtype == torch.bool or x.is_floating_point() or x.is_complex():
        raise TypeError(f"{name} must hold integers, got {x.dtype}")
    check_not_sparse(name, x)


def has_numbers(x: Tensor) -> bool:
    """Whether the numbers of x can be read: not while a call is traced, nor of a mere shape.

    Nor under the transforms of torch.func: of a tensor that vmap splits no number can be read.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    is_whole = not torch._C._functorch.is_functorch_wrapped_tensor(x)
    return type(x) in (Tensor, nn.Parameter) and x.device.type != "meta" and is_whole


def check_one_per_vector(name: str, numbers: Tensor, x: Tensor) -> None:
    """Refuse anything but one number for each vector of x, or one for those of a shared row."""
    if numbers.device != x.device:
        raise ValueError(f"{name} is on {numbers.device}, but x is on {x.device}")
    full = x.shape[:-1]
    try:
        fits = numbers.shape[-1:] == full[-1:] and (
            torch.broadcast_shapes(numbers.shape, full) == full
        )
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must broadcast to (..., length) = {tuple(full)}, got {name} "
            f"{tuple(numbers.shape)}"
        )


def check_numbers_within(
    name: str, numbers: Tensor | None, *, least: float = -math.inf, most: float = math.inf
) -> None:
    """Refuse a tensor with a number outside of these limits, where its numbers can be read."""
    if numbers is None or not has_numbers(numbers) or numbers.numel() == 0:
        return
    smallest, largest = (float(end) for end in numbers.detach().aminmax())
    if smallest < least:
        raise ValueError(f"{name} must be at least {least:g}, got {smallest:g}")
    if largest > most:
        raise ValueError(f"{name} must be at most {most:g}, got {largest:g}")


def check_sequence(name: str, x: Tensor, width: int) -> None:
    """Refuse anything but sequences of vectors of this width."""
    check_floating_point(name, x)
    if x.ndim < 2 or x.shape[-1] != width:
        raise ValueError(f"{name} must be (..., length, {width}), got {name} {tuple(x.shape)}")


def check_vectors(name: str, x: Tensor, width: int) -> None:
    """Refuse anything but a batch of sequences of vectors of this width."""
    check_sequence(name, x, width)
    if x.ndim != 3:
        raise ValueError(f"{name} must be (batch, length, {width}), got {name} {tuple(x.shape)}")


def check_batch(name: str, x: Tensor, parameter: Tensor) -> None:
    """Refuse anything but a batch of sequences that this parameter can be applied to."""
    check_vectors(name, x, parameter.shape[-1])
    check_same_kind(name, x, "the layer", parameter)


def projected(name: str, x: Tensor, projection: nn.Module) -> Tensor:
    """Apply a projection, and say which argument it is that does not fit it.

    It may be wrapped, quantised or moved about, so nothing of it is read before it has failed.
    """
    try:
        result: Tensor = projection(x)
    except RuntimeError:
        weight = getattr(projection, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point():
            check_same_kind(name, x, "the layer", weight)
        raise
    return result


def check_tokens(name: str, tokens: Tensor, vocabulary_size: int) -> None:
    """Refuse anything but a batch of token numbers of this vocabulary."""
    if not isinstance(tokens, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(tokens).__name__}")
    if tokens.dtype != torch.int64:
        raise TypeError(f"{name} must hold token numbers as int64, got {tokens.dtype}")
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise ValueError(f"{name} must be (batch, length), got shape {tuple(tokens.shape)}")
    if has_numbers(tokens) and (tokens.min() < 0 or tokens.max() >= vocabulary_size):
        raise ValueError(
            f"{name} must hold numbers from 0 to {vocabulary_size - 1}, "
            f"got {int(tokens.min())} to {int(tokens.max())}"
        )


def check_classes(name: str, numbers: Tensor, shape: tuple[int, ...], classes: int) -> None:
    """Refuse anything but the number of a class, int64, in each place of this shape."""
    if not isinstance(numbers, Tensor) or numbers.dtype != torch.int64:
        seen = getattr(numbers, "dtype", type(numbers).__name__)
        raise TypeError(f"{name} must hold numbers of classes as int64, got {seen}")
    if numbers.shape != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(numbers.shape)}")
    check_numbers_within(name, numbers, least=0, most=classes - 1)


def check_is_token(is_token: object, shape: tuple[int, ...]) -> None:
    """Refuse anything but a bool for each token, False on padding."""
    if not isinstance(is_token, Tensor) or is_token.dtype != torch.bool:
        seen = getattr(is_token, "dtype", type(is_token).__name__)
        raise TypeError(f"is_token must be a bool tensor, False on padding, got {seen}")
    if is_token.shape != shape:
        raise ValueError(
            f"is_token must be {shape}, one for each token, got {tuple(is_token.shape)}"
        )


def check_same_kind(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors of different dtypes, or on different devices."""
    if x.dtype != other.dtype and autocast_dtype(x.device) is None:
        raise TypeError(f"{name} has dtype {x.dtype}, but {other_name} has {other.dtype}")
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device}, but {other_name} is on {other.device}")


def check_mask_dimensions(mask: "Tensor | Mask | None") -> None:
    """Refuse a tensor of three dimensions, of which the first may mean batch or heads."""
    if isinstance(mask, Tensor) and mask.ndim not in (2, 4):
        raise ValueError(
            "mask must be (queries, keys) or (batch, heads, queries, keys), where batch and heads "
            f"may be 1, got mask {tuple(mask.shape)}"
        )


def broadcasts_to(shape: Sequence[int], full: Sequence[int]) -> bool:
    """Whether a tensor of this shape expands to the full one."""
    pairs = zip(reversed(shape), reversed(full), strict=False)
    return len(shape) <= len(full) and all(size in (1, whole) for size, whole in pairs)


def broadcast_shapes(*shapes: torch.Size) -> torch.Size:
    """What :func:`torch.broadcast_shapes` gives, without its 20 µs where all shapes are one."""
    if all(shape == shapes[0] for shape in shapes):
        return shapes[0]
    return torch.broadcast_shapes(*shapes)


def check_q_offset(q_offset: object) -> None:
    """Refuse what is neither an integer nor a vector of integers."""
    if is_integer(q_offset):
        return
    if isinstance(q_offset, Tensor):
        if q_offset.is_floating_point() or q_offset.is_complex() or q_offset.dtype == torch.bool:
            raise TypeError(f"q_offset must hold integers, got {q_offset.dtype}")
        if q_offset.ndim != 1:
            raise ValueError(
                "q_offset must be an int or one integer per batch entry, got shape "
                f"{tuple(q_offset.shape)}"
            )
    else:
        raise TypeError(f"q_offset must be an int or a tensor of integers, got {q_offset!r}")
