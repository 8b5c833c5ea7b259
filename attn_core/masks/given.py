"""Masks that are given: by lengths, by documents, or by a table."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from attn_core.checks import check_sizes
from attn_core.masks.mask import Mask
from attn_core.masks.pairs import Indices, Reach


def padding(lengths: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Mask:
    r"""Let queries attend the real keys of each batch entry only; the rest is padding.

    .. math:: j < \text{lengths}_b \qquad\text{or}\qquad \text{lengths}_{b, j} = 1

    Args:
        lengths: how many keys of each batch entry are real, the first ones, ``(batch,)`` integers;
            or which of them are, ``(batch, S)`` bool or 0 and 1, as tokenizers give it as
            ``attention_mask``. Then padding may stand on the left, or anywhere.

    Returns:
        A mask that tells batch entries apart; in the second form it is for exactly S keys.

    Raises:
        TypeError: if ``lengths`` are neither integers nor a bool table.
        ValueError: if ``lengths`` has no or more than two dimensions, is empty, has a negative
            length, or a table has numbers other than 0 and 1.

    Source: D0's ``Attention`` has no such mask, so padding receives weight.

    Example:
        >>> padding([1, 2]).dense(1, 3)[:, 0]
        tensor([[[ True, False, False]],
        <BLANKLINE>
                [[ True,  True, False]]])
        >>> padding([[0, 0, 1], [0, 1, 1]]).dense(1, 3)[:, 0]
        tensor([[[False, False,  True]],
        <BLANKLINE>
                [[False,  True,  True]]])
    """
    device = lengths.device if isinstance(lengths, Tensor) else None
    known = _lengths_or_table(lengths)
    if known.ndim == 2:
        batch, k_len = known.shape
        return Mask(
            partial(_is_marked, known),
            f"padding({batch}×{k_len})",
            batch=batch,
            k_len=k_len,
            device=device,
        )
    name, longest = "padding", 0
    if not torch.compiler.is_compiling():  # where nobody can look at the numbers
        if known.min() < 0:
            raise ValueError(f"lengths must be 0 or more, got {known.tolist()}")
        name, longest = f"padding({_short(known.tolist())})", int(known.max())
    return Mask(
        partial(_is_real, known),
        name,
        batch=len(known),
        min_keys=longest,
        device=device,
    )


def _lengths_or_table(lengths: object) -> Tensor:
    """Lengths as integers ``(batch,)``, or a bool table ``(batch, S)``."""
    try:
        known = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        known = torch.empty(0)
    if known.dtype != torch.bool or known.ndim != 2:
        known = _integers("lengths", lengths)
    if known.ndim not in (1, 2) or known.numel() == 0:
        raise ValueError(
            "lengths must be one integer per batch entry, or a table (batch, keys) of which keys "
            f"are real, got {known.tolist()}"
        )
    if known.ndim == 1 or known.dtype == torch.bool:
        return known
    marked = known == 1
    if not torch.compiler.is_compiling() and not (marked | (known == 0)).all():
        raise ValueError(
            "lengths must be bool or 0 and 1 where it is a table (batch, keys), got numbers from "
            f"{known.min()} to {known.max()}"
        )
    return marked


def _is_real(lengths: Tensor, at: Indices) -> Tensor:
    return at.key < lengths.to(at.key.device)[at.batch]


def _is_marked(real: Tensor, at: Indices) -> Tensor:
    return real.to(at.key.device)[at.batch, at.key]


def document(ids: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Mask:
    r"""Let a query attend the keys of its own document, where several share a sequence.

    .. math:: \text{ids}_{b, j} = \text{ids}_{b, p}, \qquad p = i + \mathrm{q\_offset}

    A query outside the ids belongs to no document and attends nothing.

    Args:
        ids: the document of each position, ``(S,)`` or ``(batch, S)`` integers.

    Returns:
        A mask for exactly S keys, which compares positions.

    Raises:
        TypeError: if ``ids`` are no integers.
        ValueError: if ``ids`` have no or more than two dimensions, or are empty.

    Source: Krell, Kosec, Perez and Fitzgibbon (2021): packing without cross-contamination.

    Example:
        >>> document([7, 7, 9]).dense(3, 3)
        tensor([[ True,  True, False],
                [ True,  True, False],
                [False, False,  True]])
    """
    device = ids.device if isinstance(ids, Tensor) else None
    ids = _integers("ids", ids)
    if ids.ndim not in (1, 2) or ids.numel() == 0:
        raise ValueError(f"ids must be (length,) or (batch, length), got {tuple(ids.shape)}")
    rows = ids if ids.ndim == 2 else ids[None]
    batch, k_len = rows.shape

    longest = _longest_span(rows)
    return Mask(
        partial(_is_same_document, rows),
        f"document({_short(ids.tolist()) if ids.ndim == 1 else f'{batch}×{k_len}'})",
        uses_positions=True,
        batch=batch if batch > 1 else None,
        k_len=k_len,
        reach=Reach(left=longest, right=longest),
        own_key=True,
        device=device,
    )


def _is_same_document(ids: Tensor, at: Indices) -> Tensor:
    batch, k_len = ids.shape
    known = ids.to(at.key.device)
    entry = at.batch if batch > 1 else 0
    of_query = known[entry, at.query.clamp(0, k_len - 1)]
    is_inside = (at.query >= 0) & (at.query < k_len)
    return is_inside & (known[entry, at.key] == of_query)


def dense(table: Tensor) -> Mask:
    r"""Use a boolean table as a mask, so that it combines with the others.

    Row ``i`` of the table belongs to query ``i`` of the call, whatever ``q_offset`` is.

    Args:
        table: bool ``(L, S)``, ``(heads, L, S)`` or ``(batch, heads, L, S)``, True where
            attending is allowed. Where one of the four is 1, all are alike, as with a tensor that
            broadcasts.

    Returns:
        A mask for exactly L queries, unless L is 1, and S keys, unless S is 1.

    Raises:
        TypeError: if ``table`` is not a bool tensor.
        ValueError: if it has fewer than two dimensions, or more than four.

    Source: :func:`torch.nn.functional.scaled_dot_product_attention`, boolean ``attn_mask``.

    Example:
        >>> import torch
        >>> from attn_core import masks
        >>> (dense(torch.tensor([[True, True], [False, True]])) & masks.causal()).dense(2, 2)
        tensor([[ True, False],
                [False,  True]])
    """
    full = _four_dimensions("table", table)
    batch, heads, q_len, k_len = full.shape
    return Mask(
        partial(_is_in_table, full),
        f"dense({'×'.join(map(str, table.shape))})",
        batch=batch if batch > 1 else None,
        heads=heads if heads > 1 else None,
        q_len=q_len if q_len != 1 else None,
        k_len=k_len if k_len != 1 else None,
        device=table.device,
    )


def _is_in_table(table: Tensor, at: Indices) -> Tensor:
    places = (at.batch, at.head, at.row, at.key)
    return table[
        tuple(place if size > 1 else 0 for place, size in zip(places, table.shape, strict=True))
    ]


def block_sparse(layout: Tensor, block_size: int) -> Mask:
    r"""Let blocks of positions attend blocks of positions, as a table says.

    .. math::
        \text{layout}_{\lfloor p / n \rfloor, \lfloor j / n \rfloor}, \qquad
        p = i + \mathrm{q\_offset}, \quad n = \text{block\_size}

    The last block may be shorter than the others. A query outside the table attends nothing.

    Args:
        layout: bool ``(query blocks, key blocks)``, ``(heads, …)`` or ``(batch, heads, …)``, True
            where attending is allowed; batch or heads may be 1.
        block_size: number of positions in a block, n.

    Returns:
        A mask that compares positions, for as many keys as the key blocks hold.

    Raises:
        TypeError: if ``layout`` is not a bool tensor, or ``block_size`` not an integer.
        ValueError: if ``layout`` has no such shape, or ``block_size`` is not positive.

    Source: Zaheer et al. (2020), appendix D; Child, Gray, Radford and Sutskever (2019),
    section 5.5.

    Example:
        >>> block_sparse(torch.tensor([[True, False], [True, True]]), block_size=2).dense(3, 3)
        tensor([[ True,  True, False],
                [ True,  True, False],
                [ True,  True,  True]])
    """
    full = _four_dimensions("layout", layout)
    check_sizes(block_size=block_size)
    batch, heads, _, k_blocks = full.shape
    if 0 in full.shape:
        raise ValueError(f"layout must have blocks, got {tuple(layout.shape)}")

    return Mask(
        partial(_is_in_blocks, full, block_size),
        f"block_sparse({'×'.join(map(str, layout.shape))}, {block_size})",
        uses_positions=True,
        batch=batch if batch > 1 else None,
        heads=heads if heads > 1 else None,
        min_keys=(k_blocks - 1) * block_size + 1,
        max_keys=k_blocks * block_size,
        reach=_reach_of_blocks(full, block_size),
        device=layout.device,
    )


def _is_in_blocks(layout: Tensor, block_size: int, at: Indices) -> Tensor:
    batch, heads, q_blocks, _ = layout.shape
    query_block, key_block = at.query // block_size, at.key // block_size
    # Outside of the layout is one more row of blocks, which attends nothing.
    is_inside = (query_block >= 0) & (query_block < q_blocks)
    query_block = query_block.where(is_inside, q_blocks)
    layout = F.pad(layout, (0, 0, 0, 1))
    if batch == heads == key_block.ndim == 1 and query_block.ndim == 2:
        # Every query meets every key: ten times as fast one after the other, whole rows at a time.
        rows = layout[0, 0].index_select(0, query_block[:, 0]).mT.contiguous()
        return rows.index_select(0, key_block).mT
    entry, head = at.batch if batch > 1 else 0, at.head if heads > 1 else 0
    return layout[entry, head, query_block, key_block]


def _four_dimensions(name: str, table: Tensor) -> Tensor:
    """A bool table as ``(batch, heads, queries, keys)``."""
    if not isinstance(table, Tensor) or table.dtype != torch.bool:
        seen = table.dtype if isinstance(table, Tensor) else type(table).__name__
        raise TypeError(
            f"{name} must be a bool tensor, True where attending is allowed, got {seen}"
        )
    if not 2 <= table.ndim <= 4:
        raise ValueError(
            f"{name} must be (L, S), (heads, L, S) or (batch, heads, L, S), got "
            f"{tuple(table.shape)}"
        )
    return table.reshape((1,) * (4 - table.ndim) + table.shape)


def _integers(name: str, numbers: object) -> Tensor:
    try:
        tensor = torch.as_tensor(numbers)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be integers, got {numbers!r}") from None
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        # An empty list has no integers, and no other numbers either.
        if tensor.numel() or isinstance(numbers, Tensor):
            raise TypeError(f"{name} must be integers, got {tensor.dtype}")
        tensor = tensor.long()
    return tensor


def _longest_span(rows: Tensor) -> int:
    """The largest distance between two positions of one document."""
    batch, length = rows.shape
    documents, which = rows.unique(return_inverse=True)
    which = which + len(documents) * torch.arange(batch, device=rows.device)[:, None]
    position = torch.arange(length, device=rows.device).expand_as(rows).flatten()
    ends = position.new_zeros(batch * len(documents))
    first, last = (
        ends.scatter_reduce(0, which.flatten(), position, end, include_self=False)
        for end in ("amin", "amax")
    )
    return int((last - first).max())


def _reach_of_blocks(layout: Tensor, block_size: int) -> Reach:
    """The largest distance to a key within the blocks that are allowed."""
    query_block, key_block = layout.nonzero()[:, -2:].unbind(1)
    blocks = key_block - query_block
    if blocks.numel() == 0:
        return Reach(left=0, right=0)
    within = block_size - 1
    return Reach(
        left=max(0, -int(blocks.min()) * block_size + within),
        right=max(0, int(blocks.max()) * block_size + within),
    )


def _short(numbers: list[int]) -> str:
    if len(numbers) <= 6:
        return str(numbers)
    return f"[{', '.join(map(str, numbers[:3]))}, … {len(numbers)} entries]"
