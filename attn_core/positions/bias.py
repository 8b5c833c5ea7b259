"""A bias: what the distance between a query and a key adds to their score."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import broadcasts_to, check_q_offset, check_same_kind, check_sizes


@checked_call
class Bias(nn.Module):
    r"""Add to a score what follows from the distance of its query and its key.

    .. math:: s_{ij} \leftarrow s_{ij} + b_h(d_{ij}), \qquad d_{ij} = j - (i + \mathrm{q\_offset})

    A subclass says in ``forward(query, key, distance)`` what is added. A kernel calls it for a
    block of queries and keys at a time, so that no table of ``heads × L × S`` numbers has to exist.

    Biases add up: ``ALiBi(8) + T5Bias(8)``, also with a tensor that broadcasts to ``(..., Hq, L,
    S)``; then the sum is a table, and is computed as one.

    Args:
        heads: number of query heads that the bias tells apart; None if it treats all alike.

    Raises:
        ValueError: if ``heads`` is not positive.
        TypeError: if ``heads`` is neither an integer nor None.

    Source: Press, Smith and Lewis (2022), section 3, for a bias that is linear in the distance.

    Example:
        >>> class Near(Bias):
        ...     def forward(self, query, key, distance):
        ...         return 0.5 ** distance.abs()
        >>> Near().dense(2, 3, q_offset=1)
        tensor([[0.5000, 1.0000, 0.5000],
                [0.2500, 0.5000, 1.0000]])
    """

    __call__: Callable[..., Tensor]

    #: Whether ``forward`` reads query and key, and not their distance alone.
    uses_content = False
    #: Whether a block of queries and keys can be asked for by itself.
    is_in_blocks = True

    def __init__(self, heads: int | None = None) -> None:
        super().__init__()
        if heads is not None:
            check_sizes(heads=heads)
        self.heads = heads

    def forward(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor:
        """Give the bias of a block of queries and keys.

        Args:
            query: ``(..., Hq, L, D)``, the queries of the block.
            key: ``(..., Hkv, S, D)``, its keys.
            distance: integers ``(L, S)`` or ``(batch, 1, L, S)``: key position − query position.

        Returns:
            What is added, broadcast to ``(..., Hq, L, S)``, in the dtype of ``query``.
        """
        raise TypeError(f"{type(self).__name__} does not say what it adds: it needs forward()")

    def dense(self, q_len: int, k_len: int, q_offset: int | Tensor | None = None) -> Tensor:
        """Write the bias out as a table, to look at it.

        Args:
            q_len: number of queries, L.
            k_len: number of keys, S.
            q_offset: position of query 0 among the keys; it must be given when L and S differ.

        Returns:
            ``(heads, L, S)``, or ``(L, S)`` if all heads are alike, and a batch dimension in front
            if ``q_offset`` has one.

        Raises:
            ValueError: if ``q_offset`` is needed, or the bias depends on query and key.
            TypeError: if ``q_offset`` is no integer.
        """
        if self.uses_content:
            raise ValueError(f"{self.name} depends on query and key, so it has no table of its own")
        check_sizes(least=0, q_len=q_len, k_len=k_len)
        nothing = next(iter(self._tensors()), torch.empty(0)).new_empty(0, 0)
        self.check_fit(q_len, k_len, q_offset)
        return self(nothing, nothing, distances(q_len, k_len, q_offset, nothing.device))

    def _tensors(self) -> list[Tensor]:
        return [*self.parameters(), *self.buffers()]

    def check_fit(self, q_len: int, k_len: int, q_offset: int | Tensor | None) -> None:
        """Refuse a call in which it is not clear where the queries stand."""
        if q_offset is not None:
            check_q_offset(q_offset)
        elif q_len != k_len:
            raise ValueError(
                f"bias {self.name} compares positions, and there are {q_len} queries for "
                f"{k_len} keys: give q_offset, the position of query 0 among the keys. "
                f"q_offset=0 aligns the first query with the first key, "
                f"q_offset={k_len - q_len} the last query with the last key"
            )

    def __add__(self, other: "Bias | Tensor") -> "Bias":
        return _sum(self, other)

    def __radd__(self, other: "Bias | Tensor") -> "Bias":
        return _sum(other, self)

    def __bool__(self) -> bool:
        raise TypeError(
            f"bias {self.name} has no truth value: Python's own and, or, not would drop one of two "
            "biases; to ask whether there is a bias, write bias is not None"
        )

    @property
    def name(self) -> str:
        return type(self).__name__


class _Sum(Bias):
    """What several biases and tables add."""

    def __init__(self, biases: list[Bias], tables: list[Tensor]) -> None:
        heads = [(bias.name, bias.heads) for bias in biases if bias.heads is not None]
        heads += [
            (f"a tensor {tuple(table.shape)}", table.shape[-3])
            for table in tables
            if table.ndim > 2 and table.shape[-3] != 1
        ]
        if len({count for _, count in heads}) > 1:
            told = ", ".join(f"{name} has {count}" for name, count in heads)
            raise ValueError(f"biases of one sum must have one number of heads, but {told}")
        super().__init__(heads[0][1] if heads else None)
        self.biases = nn.ModuleList(biases)
        self.tables = tables
        self.uses_content = any(bias.uses_content for bias in biases)
        self.is_in_blocks = not tables and all(bias.is_in_blocks for bias in biases)

    def forward(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor:
        """Give the sum; with a table, of all queries and keys only."""
        for table in self.tables:
            check_same_kind("bias", table, "query", query)
        total = torch.zeros((), dtype=query.dtype, device=query.device)
        for term in [*(bias(query, key, distance) for bias in self.biases), *self.tables]:
            try:
                total = total + term.to(query.dtype)
            except RuntimeError:
                raise ValueError(
                    f"the terms of bias {self.name} must broadcast, got {tuple(term.shape)} after "
                    f"{tuple(total.shape)}"
                ) from None
        return total

    def _tensors(self) -> list[Tensor]:
        return [*self.tables, *super()._tensors()]

    def check_fit(self, q_len: int, k_len: int, q_offset: int | Tensor | None) -> None:
        """Refuse a table that has another length, and what the biases refuse."""
        for bias in self.biases:
            bias.check_fit(q_len, k_len, q_offset)  # type: ignore[operator]
        for table in self.tables:
            if not broadcasts_to(table.shape[-2:], (q_len, k_len)):
                raise ValueError(
                    f"bias {self.name} must broadcast to (..., queries, keys) = "
                    f"{(q_len, k_len)}, got a tensor {tuple(table.shape)}"
                )

    @property
    def name(self) -> str:
        tables = [f"a tensor {tuple(table.shape)}" for table in self.tables]
        return " + ".join([*(str(bias.name) for bias in self.biases), *tables])


def _sum(*terms: object) -> Bias:
    biases: list[Bias] = []
    tables: list[Tensor] = []
    for term in terms:
        if isinstance(term, _Sum):
            biases += term.biases  # type: ignore[arg-type]
            tables += term.tables
        elif isinstance(term, Bias):
            biases.append(term)
        elif isinstance(term, Tensor) and term.is_floating_point():
            tables.append(term.reshape((1,) * (2 - term.ndim) + term.shape))
        else:
            seen = term.dtype if isinstance(term, Tensor) else type(term).__name__
            raise TypeError(
                f"a bias adds up with a bias or a floating point tensor, got {seen}; masks go "
                "by themselves: mask="
            )
    return _Sum(biases, tables)


def distances(
    q_len: int,
    k_len: int,
    q_offset: int | Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor:
    r"""Say how far each key lies after each query.

    .. math:: d_{ij} = j - (i + \mathrm{q\_offset})

    Args:
        q_len: number of queries, L.
        k_len: number of keys, S.
        q_offset: position of query 0 among the keys, an int or one integer per batch entry; it must
            be given when L and S differ.
        device: where the result is to be.

    Returns:
        Integers ``(L, S)``, or ``(batch, 1, L, S)`` with one offset per batch entry.

    Raises:
        ValueError: if a length is negative, or ``q_offset`` is needed and missing.
        TypeError: if a length or ``q_offset`` is no integer.

    Source: Shaw, Uszkoreit and Vaswani (2018), section 3.1.

    Example:
        >>> distances(2, 3, q_offset=1)
        tensor([[-1,  0,  1],
                [-2, -1,  0]])
    """
    check_sizes(least=0, q_len=q_len, k_len=k_len)
    if q_offset is not None:
        check_q_offset(q_offset)
    elif q_len != k_len:
        raise ValueError(f"q_offset must be given, for there are {q_len} queries for {k_len} keys")
    offset: int | Tensor = 0 if q_offset is None else q_offset
    if isinstance(offset, Tensor) and offset.ndim:
        offset = offset.to(device)[:, None, None, None]
    query = torch.arange(q_len, device=device)[:, None] + offset
    return torch.arange(k_len, device=device) - query
