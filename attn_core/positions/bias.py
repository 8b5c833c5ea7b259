"""A bias: what the distance between a query and a key adds to their score."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import check_q_offset, check_sizes


@checked_call
class Bias(nn.Module):
    r"""Add to a score what follows from the distance of its query and its key.

    .. math:: s_{ij} \leftarrow s_{ij} + b_h(d_{ij}), \qquad d_{ij} = j - (i + \mathrm{q\_offset})

    A subclass says in ``forward(query, key, distance)`` what is added. A kernel calls it for a
    block of queries and keys at a time, so that no table of ``heads × L × S`` numbers has to exist.

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
        parameter = next(iter([*self.parameters(), *self.buffers()]), torch.empty(0))
        nothing = parameter.new_empty(0, 0)
        self.check_fit(q_len, k_len, q_offset)
        return self(nothing, nothing, distances(q_len, k_len, q_offset, parameter.device))

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

    @property
    def name(self) -> str:
        return type(self).__name__


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
