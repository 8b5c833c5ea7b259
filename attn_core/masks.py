"""Which query may attend which key: masks that compose.

A mask is defined once, as a predicate on positions, and everything else follows from it: the
boolean table that a kernel reads, its picture, its negation and its combinations. ``True`` means
*may attend*, as in :func:`torch.nn.functional.scaled_dot_product_attention`;
:class:`torch.nn.MultiheadAttention` means the opposite.

Combine masks with ``&`` (both must allow), ``|`` (one must allow) and ``~`` (the opposite):

    >>> causal() & padding([3, 2])
    causal() & padding([3, 2])
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attn_core.checks import check_q_offset, check_sizes
from attn_core.mask_picture import mask_picture

__all__ = ["Indices", "Mask", "causal", "dense", "padding", "window"]


class Indices(NamedTuple):
    """Where a predicate looks: integer tensors that broadcast to ``(batch, heads, L, S)``.

    Attributes:
        batch: which batch entry.
        head: which query head.
        row: which query of this call, counted from 0.
        query: the query's position among the keys, ``row + q_offset``.
        key: the key's position.

    Example:
        >>> Indices(batch=0, head=0, row=1, query=4, key=2).query
        4
    """

    batch: Tensor
    head: Tensor
    row: Tensor
    query: Tensor
    key: Tensor


class Mask:
    """A rule that says which query may attend which key.

    Masks are made by :func:`causal`, :func:`window`, :func:`padding` and :func:`dense`, by
    combining those, or from a predicate of your own.

    Args:
        predicate: takes :class:`Indices`, returns a bool tensor, True where attending is allowed.
        name: how the mask prints.
        uses_positions: whether query positions are compared with key positions. Then a call with
            as many queries as keys takes them as aligned; any other must give ``q_offset``.
        batch: number of batch entries that the mask tells apart; None if it treats all alike.
        heads: number of query heads that the mask tells apart; None if it treats all alike.
        q_len: the only number of queries that the mask fits; None if any.
        k_len: the only number of keys that the mask fits; None if any.
        min_keys: the least number of keys that the mask fits.
        device: the device of the tensors that the predicate reads; None if it reads none.

    Raises:
        TypeError: if it is combined with something else than a mask.
        ValueError: if the masks that are combined do not fit together.

    Source: FlexAttention's ``mask_mod`` (Dong et al. 2024) has the same four arguments.

    Example:
        >>> same_parity = Mask(lambda at: (at.query - at.key) % 2 == 0, "same_parity",
        ...                    uses_positions=True)
        >>> same_parity.dense(2, 2)
        tensor([[ True, False],
                [False,  True]])
    """

    def __init__(
        self,
        predicate: Callable[[Indices], Tensor],
        name: str,
        *,
        uses_positions: bool = False,
        batch: int | None = None,
        heads: int | None = None,
        q_len: int | None = None,
        k_len: int | None = None,
        min_keys: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.predicate = predicate
        self.name = name
        self.uses_positions = uses_positions
        self.batch = batch
        self.heads = heads
        self.q_len = q_len
        self.k_len = k_len
        self.min_keys = min_keys
        self.device = device

    def dense(
        self,
        q_len: int,
        k_len: int,
        q_offset: int | Tensor | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Write the mask out as a table.

        Args:
            q_len: number of queries, L.
            k_len: number of keys, S.
            q_offset: position of query 0 among the keys; an int, or ``(batch,)`` integers. It
                must be given when L and S differ and the mask compares positions.
            device: where to build the table; by default where the mask's own tensors are.

        Returns:
            A bool tensor, True where attending is allowed: ``(L, S)``, or ``(batch, heads, L, S)``
            if it tells batch entries or heads apart, with a 1 for what it does not tell apart.

        Raises:
            ValueError: if the mask does not fit these lengths, or ``q_offset`` is needed.
            TypeError: if ``q_offset`` is no integer.

        Source: this package; FlexAttention builds its block masks from a predicate the same way.

        Example:
            >>> causal().dense(2, 3, q_offset=1)
            tensor([[ True,  True, False],
                    [ True,  True,  True]])
        """
        device = torch.device(device) if device is not None else self.device
        self.check_fit(q_len, k_len, q_offset, device)
        offset: int | Tensor = 0 if q_offset is None else q_offset
        if isinstance(offset, Tensor):
            offset = offset.to(device)[:, None, None, None]
        row = torch.arange(q_len, device=device)[:, None]
        at = Indices(
            batch=torch.arange(self.batch or 1, device=device)[:, None, None, None],
            head=torch.arange(self.heads or 1, device=device)[:, None, None],
            row=row,
            query=row + offset,
            key=torch.arange(k_len, device=device),
        )
        table = self.predicate(at)
        if table.dtype != torch.bool:
            raise TypeError(f"the predicate of mask {self.name} must be bool, got {table.dtype}")
        table = table.expand(torch.broadcast_shapes(table.shape, (q_len, k_len)))
        if table.ndim > 2 and table.shape[:-2].numel() == 1:
            table = table.reshape(q_len, k_len)
        return table if table.ndim == 2 else table.reshape((1,) * (4 - table.ndim) + table.shape)

    def check_fit(
        self,
        q_len: int,
        k_len: int,
        q_offset: int | Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Refuse a call that this mask does not fit; see :meth:`dense`."""
        check_sizes(least=0, q_len=q_len, k_len=k_len)
        if None not in (self.device, device) and device != self.device:
            raise ValueError(f"mask {self.name} is on {self.device}, but was asked for on {device}")
        for name, seen, fits in (("queries", q_len, self.q_len), ("keys", k_len, self.k_len)):
            if fits is not None and seen != fits:
                raise ValueError(f"mask {self.name} is made for {fits} {name}, got {seen}")
        if k_len < self.min_keys:
            raise ValueError(f"mask {self.name} needs at least {self.min_keys} keys, got {k_len}")
        if q_offset is not None:
            check_q_offset(q_offset)
        elif self.uses_positions and q_len != k_len:
            raise ValueError(
                f"mask {self.name} compares positions, and there are {q_len} queries for "
                f"{k_len} keys: give q_offset, the position of query 0 among the keys. "
                f"q_offset=0 aligns the first query with the first key, "
                f"q_offset={k_len - q_len} the last query with the last key"
            )
        if isinstance(q_offset, Tensor) and self.batch not in (None, 1, len(q_offset)):
            raise ValueError(
                f"q_offset has {len(q_offset)} entries, but mask {self.name} has {self.batch} "
                "batch entries"
            )

    def __and__(self, other: "Mask") -> "Mask":
        return self._combine(other, lambda a, b: a & b, "&")

    def __or__(self, other: "Mask") -> "Mask":
        return self._combine(other, lambda a, b: a | b, "|")

    def __invert__(self) -> "Mask":
        return self._like(lambda at: ~self.predicate(at), f"~{self._grouped_name()}")

    def _combine(
        self, other: "Mask", operator: Callable[[Tensor, Tensor], Tensor], symbol: str
    ) -> "Mask":
        if not isinstance(other, Mask):
            raise TypeError(
                f"a mask combines with a mask, got {type(other).__name__}; wrap a bool tensor in "
                "masks.dense(tensor)"
            )
        if None not in (self.device, other.device) and self.device != other.device:
            raise ValueError(
                f"masks on different devices: {self.name} on {self.device}, "
                f"{other.name} on {other.device}"
            )
        combined = self._like(
            lambda at: operator(self.predicate(at), other.predicate(at)),
            f"{self._grouped_name()} {symbol} {other._grouped_name()}",
        )
        combined.uses_positions = self.uses_positions or other.uses_positions
        combined.min_keys = max(self.min_keys, other.min_keys)
        combined.device = self.device or other.device
        for what in ("batch", "heads", "q_len", "k_len"):
            ours, theirs = getattr(self, what), getattr(other, what)
            if None not in (ours, theirs) and ours != theirs:
                raise ValueError(
                    f"masks that do not fit together: {what} is {ours} in {self.name} and "
                    f"{theirs} in {other.name}"
                )
            setattr(combined, what, theirs if ours is None else ours)
        return combined

    def _like(self, predicate: Callable[[Indices], Tensor], name: str) -> "Mask":
        return Mask(
            predicate,
            name,
            uses_positions=self.uses_positions,
            batch=self.batch,
            heads=self.heads,
            q_len=self.q_len,
            k_len=self.k_len,
            min_keys=self.min_keys,
            device=self.device,
        )

    def _grouped_name(self) -> str:
        return f"({self.name})" if " & " in self.name or " | " in self.name else self.name

    def __repr__(self) -> str:
        return self.name

    def _repr_html_(self) -> str:
        """Draw the mask in a notebook: queries are rows, keys are columns, filled = may attend."""
        k_len = self.k_len or self.q_len or self.min_keys or 8
        q_len = self.q_len or k_len
        table = self.dense(q_len, k_len, q_offset=0).cpu()
        return mask_picture(table.reshape(-1, q_len, k_len), self.name)


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


_CAUSAL = Mask(lambda at: at.key <= at.query, "causal()", uses_positions=True)


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

    return Mask(near, f"window({left}, {right})", uses_positions=True)


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
        >>> (dense(torch.tensor([[True, True], [False, True]])) & causal()).dense(2, 2)
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
