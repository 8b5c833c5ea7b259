"""A mask: a predicate on positions, and what follows from it."""

import operator
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attn_core.calls import checked_call
from attn_core.checks import check_integers, check_q_offset, check_sizes
from attn_core.masks.pairs import Indices, Predicate, Reach, smaller
from attn_core.masks.picture import mask_picture

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


_ANYWHERE = Reach()


@checked_call
class Mask:
    """A rule that says which query may attend which key.

    Masks are made by the functions of :mod:`attn_core.masks`, by combining them, or from a
    predicate of your own.

    A mask can be copied, pickled and sent to another process, with the tensors that it reads, if
    its predicate can: a function of a module, or ``functools.partial`` of one, but no lambda.

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
        max_keys: the greatest number of keys that the mask fits; None if any.
        reach: how far a query can look at most; see :class:`Reach`.
        own_key: whether every query may attend the key at its own position.
        by_distance: whether the rule depends on key position − query position and nothing else,
            so that one block of it is like the next.
        device: the device of the tensors that the predicate reads; None if it reads none.

    Raises:
        TypeError: if it is combined with something else than a mask, or asked for a truth value,
            as by ``and``, ``or``, ``not``, ``if``.
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
        predicate: Predicate,
        name: str,
        *,
        uses_positions: bool = False,
        batch: int | None = None,
        heads: int | None = None,
        q_len: int | None = None,
        k_len: int | None = None,
        min_keys: int = 0,
        max_keys: int | None = None,
        reach: Reach = _ANYWHERE,
        own_key: bool = False,
        by_distance: bool = False,
        device: torch.device | None = None,
    ) -> None:
        if not callable(predicate):
            raise TypeError(f"predicate must be a callable (indices), got {predicate!r}")
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        sizes = {"batch": batch, "heads": heads, "q_len": q_len, "k_len": k_len}
        sizes |= {"min_keys": min_keys, "max_keys": max_keys}
        check_sizes(least=0, **{key: size for key, size in sizes.items() if size is not None})
        if not isinstance(reach, Reach):
            raise TypeError(f"reach must be a Reach, got {reach!r}")
        if device is not None and not isinstance(device, torch.device):
            raise TypeError(f"device must be a torch.device, got {device!r}")
        self.predicate = predicate
        self._name = name
        self.uses_positions = uses_positions
        self.batch = batch
        self.heads = heads
        self.q_len = q_len
        self.k_len = k_len
        self.min_keys = min_keys
        self.max_keys = max_keys
        self.reach = reach
        self.own_key = own_key
        self.by_distance = by_distance
        self.device = device

    @property
    def name(self) -> str:
        """How the mask prints.

        While PyTorch compiles all have one name: for another it would have to compile anew.
        """
        return "(compiled)" if torch.compiler.is_compiling() else self._name

    @property
    def _least_keys(self) -> int:
        """The least number of keys, where it can be read without compiling anew for another."""
        return 0 if torch.compiler.is_compiling() else self.min_keys

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
            >>> from attn_core import masks
            >>> masks.causal().dense(2, 3, q_offset=1)
            tensor([[ True,  True, False],
                    [ True,  True,  True]])
        """
        device = torch.device(device) if device is not None else self.device
        self.check_fit(q_len, k_len, q_offset, device)
        row = torch.arange(q_len, device=device)[:, None]
        table = self.pairs(row, torch.arange(k_len, device=device), q_offset)
        if table.shape[:-2].numel() == 1:
            return table.reshape(q_len, k_len)
        return table.reshape((1,) * (4 - table.ndim) + table.shape)

    def pairs(self, row: Tensor, key: Tensor, q_offset: int | Tensor | None = None) -> Tensor:
        """Say which of these pairs of a query and a key are allowed.

        A kernel asks it about a block at a time.

        Args:
            row: integers ``(..., L, 1)``, which queries of the call, counted from 0.
            key: integers ``(..., 1, S)`` or ``(S,)``, which keys.
            q_offset: position of query 0 among the keys, as in :meth:`dense`.

        Returns:
            A bool tensor ``(batch, heads, ..., L, S)``, or without the dimensions in front that
            the mask does not tell apart.

        Raises:
            TypeError: if ``row``, ``key`` or ``q_offset`` holds no integers, or the predicate does
                not give a bool tensor.
        """
        check_integers("row", row)
        check_integers("key", key)
        if q_offset is not None:
            check_q_offset(q_offset)
        table = self._ask(self._indices(row, key, 0 if q_offset is None else q_offset))
        pairs = (row.shape[-2], key.shape[-1])
        return table if table.shape[-2:] == pairs else table.expand(*table.shape[:-2], *pairs)

    def _indices(self, row: Tensor, key: Tensor, offset: int | Tensor) -> Indices:
        ones = (1,) * max(row.ndim, key.ndim)
        if isinstance(offset, Tensor):
            offset = offset.to(row.device).reshape(-1, 1, *ones)
        return Indices(
            batch=torch.arange(self.batch or 1, device=row.device).reshape(-1, 1, *ones),
            head=torch.arange(self.heads or 1, device=row.device).reshape(-1, *ones),
            row=row,
            query=row + offset,
            key=key,
        )

    def _ask(self, at: Indices) -> Tensor:
        table = self.predicate(at)
        if not isinstance(table, Tensor) or table.dtype != torch.bool:
            seen = getattr(table, "dtype", type(table).__name__)
            raise TypeError(
                f"the predicate of mask {self.name} must give a bool tensor, got {seen}"
            )
        return table

    def block_mask(
        self,
        q_len: int,
        k_len: int,
        q_offset: int | Tensor | None = None,
        *,
        batch: int | None = None,
        heads: int | None = None,
        device: torch.device | str | None = None,
    ) -> "BlockMask":
        """Give FlexAttention the same mask: which blocks it can leave out, and the predicate.

        Args:
            q_len: number of queries, L.
            k_len: number of keys, S.
            q_offset: position of query 0 among the keys, as in :meth:`dense`.
            batch: number of batch entries; by default as many as the mask tells apart.
            heads: number of query heads; by default as many as the mask tells apart.
            device: where to build it; by default where the mask's own tensors are.

        Returns:
            A block mask for :func:`torch.nn.attention.flex_attention.flex_attention`.

        Raises:
            ValueError: as :meth:`dense`, or if ``batch`` or ``heads`` is not what the mask has.
            TypeError: if ``q_offset``, ``batch`` or ``heads`` is no integer.

        Source: Dong et al. (2024), section 3.2.

        Example:
            >>> from attn_core import masks
            >>> block_mask = masks.window(100, 0).block_mask(1024, 1024)
            >>> block_mask.shape, block_mask.sparsity()
            ((1, 1, 1024, 1024), 76.5625)
        """
        from torch.nn.attention.flex_attention import create_block_mask  # it takes a second

        device = torch.device(device if device is not None else self.device or "cpu")
        self.check_fit(q_len, k_len, q_offset, device)
        offset: int | Tensor = 0 if q_offset is None else q_offset
        offsets = offset.to(device) if isinstance(offset, Tensor) else None
        entries = self.batch or (len(offsets) if offsets is not None else None)
        for what, asked, known in (("batch", batch, entries), ("heads", heads, self.heads)):
            if asked is not None:
                check_sizes(**{what: asked})
            if None not in (asked, known) and asked != known:
                raise ValueError(f"{what} is {known} in mask {self.name}, got {asked}")

        def mask_mod(entry: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
            position = row + (offset if offsets is None else offsets[entry])
            return self.predicate(Indices(entry, head, row, position, key))

        return create_block_mask(
            mask_mod, batch or entries, heads or self.heads, q_len, k_len, device=str(device)
        )

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
        if k_len < self._least_keys:
            raise ValueError(f"mask {self.name} needs at least {self.min_keys} keys, got {k_len}")
        if self.max_keys is not None and k_len > self.max_keys:
            raise ValueError(f"mask {self.name} has at most {self.max_keys} keys, got {k_len}")
        if q_offset is not None:
            check_q_offset(q_offset)
        elif self.uses_positions and q_len != k_len:
            raise ValueError(
                f"mask {self.name} compares positions, and there are {q_len} queries for "
                f"{k_len} keys: give q_offset, the position of query 0 among the keys. "
                f"q_offset=0 aligns the first query with the first key, "
                f"q_offset={k_len - q_len} the last query with the last key"
            )
        if (
            isinstance(q_offset, Tensor)
            and self.batch not in (None, 1)
            and self.batch != len(q_offset)
        ):
            raise ValueError(
                f"q_offset has {len(q_offset)} entries, but mask {self.name} has {self.batch} "
                "batch entries"
            )

    def __and__(self, other: "Mask") -> "Mask":
        return self._combine(other, operator.and_, "&")

    def __or__(self, other: "Mask") -> "Mask":
        return self._combine(other, operator.or_, "|")

    def __rand__(self, other: object) -> "Mask":
        raise _not_a_mask(other)

    def __ror__(self, other: object) -> "Mask":
        raise _not_a_mask(other)

    def __invert__(self) -> "Mask":
        opposite = self._like(partial(_opposite, self.predicate), f"~{self._grouped_name()}")
        opposite.reach = _ANYWHERE
        opposite.own_key = False
        return opposite

    def _combine(self, other: "Mask", both: Callable[[Any, Any], Any], symbol: str) -> "Mask":
        if not isinstance(other, Mask):
            raise _not_a_mask(other)
        if None not in (self.device, other.device) and self.device != other.device:
            raise ValueError(
                f"masks on different devices: {self.name} on {self.device}, "
                f"{other.name} on {other.device}"
            )
        combined = self._like(
            partial(_combined, both, self.predicate, other.predicate),
            f"{self._grouped_name()} {symbol} {other._grouped_name()}",
        )
        combined.uses_positions = self.uses_positions or other.uses_positions
        combined.min_keys = max(self._least_keys, other._least_keys)
        combined.max_keys = smaller(self.max_keys, other.max_keys)
        combined.reach = both(self.reach, other.reach)
        combined.own_key = both(self.own_key, other.own_key)
        combined.by_distance = self.by_distance and other.by_distance
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

    def _like(self, predicate: Predicate, name: str) -> "Mask":
        return Mask(
            predicate,
            name,
            uses_positions=self.uses_positions,
            batch=self.batch,
            heads=self.heads,
            q_len=self.q_len,
            k_len=self.k_len,
            min_keys=self._least_keys,
            max_keys=self.max_keys,
            reach=self.reach,
            own_key=self.own_key,
            by_distance=self.by_distance,
            device=self.device,
        )

    def _grouped_name(self) -> str:
        return f"({self.name})" if " & " in self.name or " | " in self.name else self.name

    def __bool__(self) -> bool:
        raise TypeError(
            f"mask {self.name} has no truth value: combine masks with &, | and ~, for Python's own "
            "and, or, not would drop one of them; to ask whether there is a mask, write "
            "mask is not None"
        )

    def __repr__(self) -> str:
        return self.name

    def _repr_html_(self) -> str:
        """Draw the mask in a notebook: queries are rows, keys are columns, filled = may attend."""
        k_len = self.k_len or self.q_len or self.max_keys or self.min_keys or 8
        full = (self.batch or 1, self.heads or 1, self.q_len or k_len, k_len)
        return mask_picture(self._corner, full, self.name)

    def _corner(self, batch: int, heads: int, q_len: int, k_len: int) -> Tensor:
        """The table of the first batch entries, heads, queries and keys, with nothing beyond."""
        row = torch.arange(q_len, device=self.device)[:, None]
        at = self._indices(row, torch.arange(k_len, device=self.device), 0)
        at = at._replace(batch=at.batch[:batch], head=at.head[:heads])
        return self._ask(at).expand(batch, heads, q_len, k_len)


def _opposite(predicate: Predicate, at: Indices) -> Tensor:
    return ~predicate(at)


def _combined(
    both: Callable[[Tensor, Tensor], Tensor], one: Predicate, other: Predicate, at: Indices
) -> Tensor:
    return both(one(at), other(at))


def _not_a_mask(other: object) -> TypeError:
    return TypeError(
        f"a mask combines with a mask, got {type(other).__name__}; wrap a bool tensor in "
        "masks.dense(tensor)"
    )
