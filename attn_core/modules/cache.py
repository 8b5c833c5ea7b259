"""A cache of keys and values: a token that is generated computes its own and reads the others'."""

from collections.abc import Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from attn_core.calls import checked_call
from attn_core.checks import check_floating_point, check_not_sparse, check_sizes
from attn_core.masks import Mask, causal


@checked_call
class KVCache:
    r"""Keep the keys and values of the tokens that were seen, so that a new one computes its own.

    .. math:: K_{\le t} = [K_{<t};\, k_t], \qquad V_{\le t} = [V_{<t};\, v_t]

    Without it, generating token t projects t tokens again. One class serves three purposes:

    - ``KVCache()`` grows. Its room doubles, so that generating n tokens copies each about once.
    - ``KVCache(max_len=n)`` takes room for n tokens once, writes in place and is full at n.
    - ``KVCache(window=w)`` forgets. It keeps the last w tokens before the new ones, those that
      :func:`masks.window(w, 0) <attn_core.masks.window>` still allows.

    While gradients are enabled a cache makes new tensors with :func:`torch.cat`, and the graph
    reaches back through all of them; in place it writes only under :func:`torch.no_grad`.
    ``copy.copy`` gives a cache with memory of its own.

    Args:
        max_len: how many tokens there is room for; None for as many as come.
        window: how many tokens before the new ones are kept; None for all of them.

    Attributes:
        length: number of tokens seen so far, those that were forgotten among them: the position of
            the next token.
        holds_memory: whether :meth:`fill` put a memory into it, for cross-attention.

    Raises:
        ValueError: if both are given or one is out of range, the cache is full, keys and values
            do not fit each other or what is kept, or a cache with ``max_len`` is updated while
            gradients are enabled.
        TypeError: if a size is no integer, or dtypes differ.

    Source: Shazeer (2019), section 2.4, for generating step by step; Jiang et al. (2023), section
    2, for the cache that forgets.

    Example:
        >>> import torch
        >>> from attn_core import masks
        >>> from attn_core.modules import MultiHeadAttention
        >>> layer, cache = MultiHeadAttention(8, 2).double(), KVCache()
        >>> x = torch.randn(1, 5, 8, dtype=torch.float64)
        >>> steps = [layer(x[:, t : t + 1], mask=masks.causal(), cache=cache) for t in range(5)]
        >>> torch.allclose(torch.cat(steps, 1), layer(x, mask=masks.causal()))
        True
        >>> cache
        KVCache(length=5, keys (1, 2, 5, 4), values (1, 2, 5, 4), 640 bytes)
    """

    def __init__(self, max_len: int | None = None, *, window: int | None = None) -> None:
        if max_len is not None and window is not None:
            raise ValueError(
                "a cache has either max_len, and keeps all, or window, and forgets; "
                f"got max_len {max_len} and window {window}"
            )
        if max_len is not None:
            check_sizes(max_len=max_len)
        if window is not None:
            check_sizes(least=0, window=window)
        self.max_len = max_len
        self.window = window
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next update may have another batch, dtype and device."""
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        # The tokens that are kept stand in the two tensors from _first to _end; behind is room.
        self._first = 0
        self._end = 0
        self.holds_memory = False

    def __copy__(self) -> Self:
        """A cache that goes on by itself: what one of the two is given, the other does not see."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        if self._keys is not None and self._values is not None:
            other._keys, other._values = self._keys.clone(), self._values.clone()
        return other

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, int]:
        """Append new keys and values, and give what the new queries may look at.

        Args:
            key: ``(batch, kv_heads, new, width)``.
            value: ``(batch, kv_heads, new, value_width)``.

        Returns:
            The keys and the values that are kept, the new ones last, ``(batch, kv_heads, kept +
            new, width)``; and ``q_offset``, the position of the first new token among them.

        Raises:
            ValueError: as :class:`KVCache`.
            TypeError: as :class:`KVCache`.
        """
        if self.holds_memory:
            raise ValueError(
                "this cache holds the memory of cross-attention, which does not grow; "
                "self-attention needs a cache of its own"
            )
        self._check(key, value)
        q_offset, new = self.kept, key.shape[-2]
        if self.max_len is not None and self.length + new > self.max_len:
            raise ValueError(
                f"the cache is full: max_len is {self.max_len}, {self.length} tokens are kept, "
                f"got {new} more"
            )
        if torch.is_grad_enabled():
            self._append(key, value)
        else:
            self._write(key, value)
        self.length += new
        result = self.key, self.value, q_offset
        if self.window is not None:
            self._first = max(self._first, self._end - self.window)
        return result

    def fill(self, key: Tensor, value: Tensor) -> None:
        """Keep the keys and values of a memory, for cross-attention: they are projected once.

        Args:
            key: ``(batch, kv_heads, S, width)``.
            value: ``(batch, kv_heads, S, value_width)``.

        Raises:
            ValueError: if the cache is not empty, or has a ``window``.
            TypeError: as :class:`KVCache`.
        """
        if self.length or self.holds_memory:
            raise ValueError(f"a memory needs an empty cache, got {self!r}: call reset() before")
        if self.window is not None:
            raise ValueError(f"a memory needs a cache that keeps all, got window {self.window}")
        self.update(key, value)
        self.holds_memory = True

    def mask_of_kept(self, mask: Tensor | Mask | None, new: int) -> Tensor | Mask | None:
        """Give the mask for the keys that the next :meth:`update` returns.

        A mask counts positions from the first token ever seen. What has been forgotten is left out
        of it, and nothing else may be: a mask that looks further back than the cache is refused,
        because its result would depend on how many tokens came at a time.

        Args:
            mask: a mask, a bool table of the keys that are kept, or None.
            new: how many tokens come.

        Returns:
            A mask for the keys that are kept, which counts from the first of them; None for a
            single token under :func:`masks.causal() <attn_core.masks.causal>`, which may attend
            them all.

        Raises:
            ValueError: if the cache forgets and the mask looks further back.
        """
        if self.window is None and mask is causal() and new == 1:
            return None
        if self.window is None or isinstance(mask, Tensor):
            return mask
        if mask is None or mask.reach.left is None or mask.reach.left > self.window:
            raise ValueError(
                f"the cache keeps {self.window} tokens before the new ones, but mask "
                f"{'None' if mask is None else mask.name} looks further back: combine it with "
                f"masks.window({self.window}, 0)"
            )
        if mask.reach.first:
            raise ValueError(
                f"mask {mask.name} always sees the first tokens, which a cache with window forgets"
            )
        forgotten = self.length - self.kept
        if not forgotten or mask.by_distance:
            return mask
        predicate = mask.predicate
        shifted = copy(mask)
        shifted.predicate = lambda at: predicate(
            at._replace(query=at.query + forgotten, key=at.key + forgotten)
        )
        shifted.min_keys = max(0, mask.min_keys - forgotten)
        shifted.k_len = None if mask.k_len is None else mask.k_len - forgotten
        shifted.max_keys = None if mask.max_keys is None else mask.max_keys - forgotten
        return shifted

    def reorder(self, indices: Tensor | Sequence[int]) -> None:
        """Rearrange the batch, as beam search does when it keeps some continuations and drops some.

        Args:
            indices: which old batch entry each new one continues, ``(new batch,)`` integers; their
                number may differ from the old batch.

        Raises:
            ValueError: if ``indices`` is not one-dimensional, is empty, or names an entry that is
                not there.
            TypeError: if ``indices`` are no integers.
        """
        try:
            indices = torch.as_tensor(indices)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"indices must be integers, got {indices!r}") from None
        check_not_sparse("indices", indices)
        if indices.ndim != 1 or len(indices) == 0:
            raise ValueError(f"indices must be one integer per batch entry, got {indices.tolist()}")
        if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
            raise TypeError(f"indices must be integers, got {indices.dtype}")
        if self._keys is None or self._values is None:
            return  # nothing is kept yet: there is no batch
        if indices.min() < 0 or indices.max() >= len(self._keys):
            raise ValueError(
                f"indices must be from 0 to {len(self._keys) - 1}, got {indices.tolist()}"
            )
        indices = indices.to(self._keys.device)
        self._keys = self._keys.index_select(0, indices)
        self._values = self._values.index_select(0, indices)

    @property
    def key(self) -> Tensor:
        """The keys that are kept, ``(batch, kv_heads, kept, width)``."""
        return self._kept_of(self._keys)

    @property
    def value(self) -> Tensor:
        """The values that are kept, ``(batch, kv_heads, kept, value_width)``."""
        return self._kept_of(self._values)

    @property
    def kept(self) -> int:
        """Number of tokens whose keys and values are kept; the first is number length − kept."""
        return self._end - self._first

    @property
    def nbytes(self) -> int:
        """Bytes of the memory taken, room for tokens to come included."""
        if self._keys is None or self._values is None:
            return 0
        return self._keys.nbytes + self._values.nbytes

    def _kept_of(self, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            raise ValueError("the cache is empty: it has neither keys nor values yet")
        return tensor.narrow(-2, self._first, self.kept)  # a slice by index takes twice as long

    def _append(self, key: Tensor, value: Tensor) -> None:
        """Make new tensors: what was given away before stays as it is, and so does its graph."""
        if self.max_len is not None:
            raise ValueError(
                f"a cache with max_len {self.max_len} writes in place, and gradients are enabled: "
                "call it under torch.no_grad(), or take a growing KVCache()"
            )
        if self._keys is not None:
            key = torch.cat([self.key, key], dim=-2)
            value = torch.cat([self.value, value], dim=-2)
        self._keys, self._values = key, value
        self._first, self._end = 0, key.shape[-2]

    def _write(self, key: Tensor, value: Tensor) -> None:
        """Write behind what is kept, after making room where there is too little."""
        kept, needed = self.kept, self.kept + key.shape[-2]
        is_full = self._keys is not None and self._end + key.shape[-2] > self._keys.shape[-2]
        # What was made in inference mode may not be written to outside of it.
        is_sealed = (
            self._keys is not None
            and not torch.compiler.is_compiling()
            and self._keys.is_inference()
            and not torch.is_inference_mode_enabled()
        )
        if self._keys is None or is_full or is_sealed:
            # Twice as much as is kept: by the time it is full, as many tokens came as are copied.
            room = max(needed, 2 * (self.window or kept)) if self.max_len is None else self.max_len
            keys = key.new_empty(*key.shape[:-2], room, key.shape[-1])
            values = value.new_empty(*value.shape[:-2], room, value.shape[-1])
            if kept:
                keys[..., :kept, :] = self.key
                values[..., :kept, :] = self.value
            self._keys, self._values = keys, values
            self._first, self._end = 0, kept
        assert self._values is not None
        new = key.shape[-2]
        self._keys.narrow(-2, self._end, new).copy_(key)
        self._values.narrow(-2, self._end, new).copy_(value)
        self._end += new

    def _check(self, key: Tensor, value: Tensor) -> None:
        for name, tensor in (("key", key), ("value", value)):
            check_floating_point(name, tensor)
            if tensor.ndim != 4:
                raise ValueError(
                    f"{name} must be (batch, kv_heads, new, width), got {name} "
                    f"{tuple(tensor.shape)}"
                )
        if key.shape[:-1] != value.shape[:-1]:
            raise ValueError(
                "key and value must have the same batch, heads and length, got key "
                f"{tuple(key.shape)}, value {tuple(value.shape)}"
            )
        if self._keys is None or self._values is None:
            pairs = [("value", value, "key", key)]
        else:
            pairs = [
                ("key", key, "the cache", self._keys),
                ("value", value, "the cache", self._values),
            ]
            for name, tensor, _, kept in pairs:
                batch, heads, _, width = tensor.shape
                if (batch, heads, width) != (*kept.shape[:2], kept.shape[3]):
                    raise ValueError(
                        f"{name} must have the batch, heads and width of what is kept, got {name} "
                        f"{tuple(tensor.shape)} for {tuple(self._kept_of(kept).shape)}"
                    )
        for name, tensor, other_name, other in pairs:
            if tensor.dtype != other.dtype:
                raise TypeError(
                    f"{name} has dtype {tensor.dtype}, but {other_name} has {other.dtype}"
                )
            if tensor.device != other.device:
                raise ValueError(
                    f"{name} is on {tensor.device}, but {other_name} on {other.device}"
                )

    def __repr__(self) -> str:
        settings = [
            f"{name}={number}"
            for name, number in (("max_len", self.max_len), ("window", self.window))
            if number is not None
        ]
        if self._keys is None:
            return f"KVCache({', '.join([*settings, 'empty'])})"
        what = "memory" if self.holds_memory else "length"
        kept = (
            f"keys {tuple(self.key.shape)}",
            f"values {tuple(self.value.shape)}",
            f"{self.nbytes} bytes",
        )
        return f"KVCache({', '.join([*settings, f'{what}={self.length}', *kept])})"
