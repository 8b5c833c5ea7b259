"""What the recurrences share: their arguments, and how a memory is written and read."""

from typing import NamedTuple

import numpy as np

from attn_core.reference.heads import head_groups
from attn_core.reference.shapes import (
    Array,
    broadcast_leading,
    check_broadcasts_to,
    check_float_arrays,
    check_same_shape,
    sum_to_shape,
)


class RecurrentOutput(NamedTuple):
    """What a recurrence returns when it is asked for its state.

    Attributes:
        output: shape (..., Hq, T, Dv).
        state: the memory after the last token, shape (..., Hkv, D, Dv).
    """

    output: Array
    state: Array


class Inputs(NamedTuple):
    """The arrays of a recurrence, checked, with nothing padded left in.

    Attributes:
        query: shape (..., Hq, L, D).
        key: shape (..., Hq, S, D); each key head stands once for every query head of its group.
        value: shape (..., Hq, S, Dv), likewise.
        real: True where a key is real, shape (..., S, 1).
        group: how many query heads share a key head.
    """

    query: Array
    key: Array
    value: Array
    real: Array
    group: int

    def first_state(self, past_state: Array | None, width: int, value_width: int) -> Array:
        """Return the memory before the first token, once for every query head."""
        leading = self.key.shape[:-2]
        if leading:
            leading = (*leading[:-1], leading[-1] // self.group)
        shape = (*leading, width, value_width)
        if past_state is None:
            return repeat_heads(np.zeros(shape, self.key.dtype), self.group)
        check_float_arrays(key=self.key, past_state=past_state)
        check_same_shape("past_state", past_state, shape)
        return repeat_heads(past_state, self.group)

    def once_each(self, state: Array) -> Array:
        """Return the memory of each key head once."""
        return state if self.group == 1 else state[..., :: self.group, :, :]


def prepare(query: Array, key: Array, value: Array, mask: Array | None) -> Inputs:
    """Check the arrays, repeat the keys of a group, and put zeros where there is padding."""
    check_float_arrays(query=query, key=key, value=value)
    seen = f"got query {query.shape}, key {key.shape}, value {value.shape}"
    if query.shape[-1] != key.shape[-1] or query.shape[-1] == 0:
        raise ValueError(f"query and key must have the same width, at least 1, {seen}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"key and value must be equally many, {seen}")
    head_groups(query, key, value)
    if max(query.ndim, key.ndim, value.ndim) > 2:
        query, key, value = (x[None] if x.ndim == 2 else x for x in (query, key, value))
    group = query.shape[-3] // key.shape[-3] if query.ndim > 2 else 1
    key, value = repeat_heads(key, group), repeat_heads(value, group)
    broadcast_leading(query=query, key=key, value=value)
    leading = broadcast_leading(key=key, value=value)
    real = real_keys(mask, (*leading, key.shape[-2]))
    zero = np.zeros((), key.dtype)
    return Inputs(query, np.where(real, key, zero), np.where(real, value, zero), real, group)


def real_keys(mask: Array | None, shape: tuple[int, ...]) -> Array:
    """Return True for each key that is no padding, shape (..., S, 1)."""
    if mask is None:
        return np.ones((*shape, 1), bool)
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        raise TypeError(
            "mask must be a boolean NumPy array, True = a real key, got "
            f"{getattr(mask, 'dtype', type(mask).__name__)}"
        )
    if mask.shape[-3:-1] not in ((), (1,), (1, 1)):
        raise ValueError(
            "mask must say which keys are real, alike for every query and head: shape "
            f"(..., 1, 1, S), got {mask.shape}"
        )
    rows = mask if mask.ndim > 1 else mask[None]
    columns: Array = np.swapaxes(rows, -1, -2)
    check_broadcasts_to("mask", columns, (*shape, 1))
    return np.broadcast_to(columns, (*shape, 1))


def repeat_heads(array: Array, group: int) -> Array:
    """Turn (..., Hkv, S, D) into (..., Hq, S, D): each head ``group`` times in a row."""
    return array if group == 1 else np.repeat(array, group, axis=-3)


def gradient_of(repeated: Array, array: Array, group: int) -> Array:
    """Add up the gradients of all the copies that were made of one array.

    Args:
        repeated: gradient with respect to the copies: heads repeated, dimensions broadcast.
        array: the array as it was given.
        group: how often each of its heads was repeated.
    """
    heads = array.shape[-3] if array.ndim > 2 else 1
    if group > 1 and heads > 1:
        rows = repeated.reshape(*repeated.shape[:-3], heads, group, *repeated.shape[-2:])
        repeated = rows.sum(axis=-3)
    return sum_to_shape(repeated, array.shape)


def write(key: Array, value: Array) -> Array:
    """Return what one token adds to a memory: k vᵀ, shape (..., D, Dv)."""
    return key[..., :, None] * value[..., None, :]


def read(state: Array, query: Array) -> Array:
    """Return what one query finds in a memory: Sᵀ q, shape (..., Dv)."""
    found: Array = np.sum(state * query[..., :, None], axis=-2)
    return found


def times(state: Array, vector: Array) -> Array:
    """Return S v, shape (..., D): what reading with the rows and columns exchanged gives."""
    product: Array = np.sum(state * vector[..., None, :], axis=-1)
    return product
