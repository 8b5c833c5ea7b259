"""Grouped-query attention: several query heads share the keys and values of one head."""

from typing import NamedTuple

from attn_core.reference.shapes import Array


class HeadGroups(NamedTuple):
    """Heads as two dimensions, so that a group's keys are broadcast instead of copied.

    Attributes:
        key_heads: Hkv, the number of heads of key and value.
        group_size: Hq / Hkv, how many query heads share one of them; 1 where nothing is grouped.
    """

    key_heads: int
    group_size: int

    def split_shared(self, array: Array) -> Array:
        """Turn (..., Hkv, S, D) into (..., Hkv, 1, S, D)."""
        return array if self.group_size == 1 else array[..., None, :, :]

    def split(self, array: Array) -> Array:
        """Turn (..., Hq, L, D) into (..., Hkv, Hq / Hkv, L, D); one head for all stays one."""
        if self.group_size == 1 or array.ndim < 3:
            return array
        if array.shape[-3] == 1:
            return array[..., None, :, :]
        return array.reshape(*array.shape[:-3], self.key_heads, self.group_size, *array.shape[-2:])

    def join_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Turn (..., Hkv, Hq / Hkv, L, D) into (..., Hq, L, D)."""
        if self.group_size == 1:
            return shape
        return (*shape[:-4], self.key_heads * self.group_size, *shape[-2:])


def head_groups(query: Array, key: Array, value: Array) -> HeadGroups:
    """Read from the shapes how many query heads share a key head; a matrix is one head.

    Raises:
        ValueError: the heads of query are no multiple of those of key, or key and value differ.
    """
    query_heads, key_heads, value_heads = (
        array.shape[-3] if array.ndim > 2 else 1 for array in (query, key, value)
    )
    seen = f"got query {query.shape}, key {key.shape}, value {value.shape}"
    if key_heads != value_heads:
        raise ValueError(f"key and value must have the same number of heads, {seen}")
    if 0 in (query_heads, key_heads) or query_heads % key_heads:
        raise ValueError(
            f"the heads of query must be a multiple of the heads of key, at least 1, {seen}"
        )
    group_size = 1 if key_heads == 1 else query_heads // key_heads
    return HeadGroups(key_heads, group_size)
