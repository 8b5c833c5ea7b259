"""What the reference asks of its arguments, and how a gradient goes back through broadcasting."""

from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


def check_array(name: str, array: object) -> None:
    """Raise an error that names the argument unless it is an array, or a number of NumPy's."""
    if not isinstance(array, np.ndarray | np.generic):
        raise TypeError(f"{name} must be a NumPy array, got {type(array).__name__}")


def check_integer_array(name: str, array: Array) -> None:
    """Raise an error that names the argument unless it is an array of integers."""
    check_array(name, array)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must hold integers, got {array.dtype}")


def check_float_arrays(min_dims: int = 2, **arrays: Array) -> None:
    """Raise an error that names the argument unless all are floating-point arrays of one dtype."""
    for name, array in arrays.items():
        check_array(name, array)
        if not np.issubdtype(array.dtype, np.floating):
            raise TypeError(f"{name} must hold floating-point numbers, got dtype {array.dtype}")
        if array.ndim < min_dims:
            raise ValueError(
                f"{name} must have at least {min_dims} dimensions, got shape {array.shape}"
            )
    if len({array.dtype for array in arrays.values()}) > 1:
        seen = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise TypeError(f"all arrays must have one dtype, got {seen}")


def check_number(name: str, number: object) -> None:
    """Raise an error that names the argument unless it is a finite number."""
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{name} must be a number, got {number!r}")
    if not np.isfinite(float(number)):
        raise ValueError(f"{name} must be finite, got {number}")


def check_flags(**flags: object) -> None:
    """Raise an error that names the argument unless it is True or False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")


def check_numbers_within(
    name: str, numbers: Array | None, *, least: float = -np.inf, most: float = np.inf
) -> None:
    """Raise an error that names the argument if a number is outside of these limits."""
    if numbers is None or numbers.size == 0:
        return
    if numbers.min() < least:
        raise ValueError(f"{name} must be at least {least:g}, got {numbers.min():g}")
    if numbers.max() > most:
        raise ValueError(f"{name} must be at most {most:g}, got {numbers.max():g}")


def check_same_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise an error that names the argument unless the array has this shape."""
    check_array(name, array)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")


def check_broadcasts_to(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise an error that names the argument unless the array broadcasts to this shape."""
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must broadcast to the shape of the scores {shape}, got {array.shape}"
        )


def broadcast_leading(**arrays: Array) -> tuple[int, ...]:
    """Return the common leading shape, all dimensions but the last two, of some arrays."""
    try:
        return np.broadcast_shapes(*(array.shape[:-2] for array in arrays.values()))
    except ValueError:
        seen = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"leading dimensions do not broadcast: {seen}") from None


def sum_to_shape(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Add up the gradients of all the copies that broadcasting made of one array.

    Args:
        gradient: gradient with respect to the broadcast array.
        shape: the shape the array had before it was broadcast.

    Returns:
        The gradient with respect to the array itself, of that shape.

    Example:
        >>> sum_to_shape(np.ones((4, 3, 2)), (1, 2)).tolist()
        [[12.0, 12.0]]
    """
    extra = gradient.ndim - len(shape)
    gradient = gradient.sum(axis=tuple(range(extra)))
    stretched = tuple(
        axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1
    )
    total: Array = gradient.sum(axis=stretched, keepdims=True)
    return total


def transpose(matrix: Array) -> Array:
    """Swap the last two dimensions."""
    return np.swapaxes(matrix, -1, -2)


def check_pair(query: Array, key: Array) -> None:
    """Raise an error that names the argument unless a score could compare these two."""
    check_float_arrays(query=query, key=key)
    broadcast_leading(query=query, key=key)


def check_gradient(grad_scores: Array, query: Array, key: Array) -> None:
    """Raise an error unless this can be the gradient of the scores of these two."""
    leading = broadcast_leading(query=query, key=key)
    check_same_shape("grad_scores", grad_scores, (*leading, query.shape[-2], key.shape[-2]))
