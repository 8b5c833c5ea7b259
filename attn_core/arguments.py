"""The arguments of :func:`attn_core.attention`, checked once, for every kernel."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attn_core import scores as score_functions
from attn_core.autocast import in_autocast_dtype
from attn_core.checks import (
    broadcast_shapes,
    broadcasts_to,
    check_floating_point,
    check_not_sparse,
    check_number,
    check_q_offset,
    check_share,
    is_integer,
    is_tracing,
)
from attn_core.masks import Mask, causal
from attn_core.positions.bias import Bias, distances

Score = Callable[[Tensor, Tensor], Tensor]
Normalizer = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Arguments:
    """One call of attention, with everything checked and nothing computed.

    Attributes:
        query: ``(..., Hq, L, D)``.
        key: ``(..., Hkv, S, D)``.
        value: ``(..., Hkv, S, Dv)``.
        mask: bool tensor that broadcasts to ``(..., Hq, L, S)``, a mask, or None.
        bias: float tensor that broadcasts to ``(..., Hq, L, S)``, a bias object, or None.
        score: callable, or None for the dot product.
        normalizer: callable, or None for softmax.
        scale: what the scores are multiplied by.
        softcap: scores are squeezed into (−softcap, softcap), or None.
        dropout_p: share of weights dropped.
        q_offset: position of query 0 among the keys.
        without_heads: whether the caller gave plain matrices, so that the result is one too.
        in_use: whether each query and key has a pair; None if nobody has looked.

    Source: the ONNX operator ``Attention``, opset 25, has the same arguments.

    Example:
        >>> import torch
        >>> x = torch.ones(3, 4)
        >>> check_arguments(x, x, x).scale
        0.5
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | Mask | None
    bias: Tensor | Bias | None
    score: Score | None
    normalizer: Normalizer | None
    scale: float
    softcap: float | None
    dropout_p: float
    q_offset: int | Tensor | None
    without_heads: bool
    in_use: bool | None = None

    @property
    def leading(self) -> torch.Size:
        """The dimensions before the heads."""
        return broadcast_shapes(self.query.shape[:-3], self.key.shape[:-3], self.value.shape[:-3])

    @property
    def q_len(self) -> int:
        return self.query.shape[-2]

    @property
    def k_len(self) -> int:
        return self.key.shape[-2]

    @property
    def group(self) -> int:
        """How many query heads share one key-value head."""
        return self.query.shape[-3] // self.key.shape[-3]

    @property
    def _queries_start_at_first_key(self) -> bool:
        offset = 0 if self.q_offset is None else self.q_offset
        return isinstance(offset, int) and offset == 0

    @property
    def is_causal_from_first_key(self) -> bool:
        """Whether the mask is causal() with query 0 at key 0: what kernels call ``is_causal``."""
        return self.mask is causal() and self._queries_start_at_first_key

    @property
    def hides_nothing(self) -> bool:
        """Whether it is plain that the mask allows every pair, as for the newest of all tokens."""
        if self.mask is not causal():
            return self.mask is None
        return isinstance(self.q_offset, int) and self.q_offset >= self.k_len - 1

    @property
    def is_all_in_use(self) -> bool:
        """Whether it is plain, without a look at every pair, that each query and key has one."""
        if self.hides_nothing or self.in_use:
            return True
        if self.is_causal_from_first_key and self.k_len <= self.q_len:
            return True
        if not isinstance(self.mask, Mask) or self.q_len != self.k_len:
            return False
        return self.mask.own_key and self._queries_start_at_first_key

    def table(self) -> Tensor | None:
        """The mask as a bool tensor, broadcast to ``(..., Hq, L, S)``; None if it hides nothing.

        One row for all queries where they may attend the same keys, as with padding.
        """
        if self.hides_nothing:
            return None
        if isinstance(self.mask, Mask):
            table = self.mask.dense(self.q_len, self.k_len, self.q_offset, device=self.query.device)
            table = table[0] if table.ndim == 4 and len(table) == 1 else table
        else:
            assert self.mask is not None
            table = self.mask
        return table[..., :1, :] if self.q_len > 1 and table.stride(-2) == 0 else table

    def bias_table(self, query: Tensor, key: Tensor) -> Tensor | None:
        """What is added to the scores of query and key, broadcast to ``(..., Hq, L, S)``."""
        if isinstance(self.bias, Bias):
            device = query.device
            return self.bias(query, key, distances(self.q_len, self.k_len, self.q_offset, device))
        return self.bias

    @property
    def _is_harmless(self) -> bool:
        """Whether all numbers are so small that a weight of 0, or a score of −inf, wipes them out.

        Then nothing needs to be zeroed, which would copy keys and values.
        """
        most = math.sqrt(torch.finfo(self.query.dtype).max / max(1.0, abs(self.scale)))
        lengths = (torch.linalg.vector_norm(x) for x in (self.query, self.key, self.value))
        return _are_all(*(length < most for length in lengths))

    def without_masked(self, table: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, with zeros where no pair of the mask uses them.

        A weight of 0 does not stop a NaN: 0 × NaN is NaN, forward and backward.
        """
        if table is None or self.is_all_in_use:
            return self.query, self.key, self.value
        # (..., heads or 1, L or 1, S or 1)
        table = table.reshape((1,) * (3 - table.ndim) + table.shape)
        row_is_used = table.any(-1, keepdim=True)
        key_is_used = table.any(-2).unsqueeze(-1)
        if self.in_use is None and (_are_all(row_is_used, key_is_used) or self._is_harmless):
            return self.query, self.key, self.value
        if self.group > 1 and key_is_used.shape[-3] > 1:
            key_is_used = key_is_used.unflatten(-3, (-1, self.group)).any(-3)
        return (
            self.query.masked_fill(~row_is_used, 0.0),
            self.key.masked_fill(~key_is_used, 0.0),
            self.value.masked_fill(~key_is_used, 0.0),
        )


def check_arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | Mask | None = None,
    bias: Tensor | Bias | None = None,
    score: Score | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    q_offset: int | Tensor | None = None,
    follow_autocast: bool = True,
) -> Arguments:
    """Check the arguments of :func:`attn_core.attention` against each other.

    Args:
        query: as there, and so are all the others.
        key: as there.
        value: as there.
        mask: as there.
        bias: as there.
        score: as there.
        normalizer: as there.
        scale: as there.
        softcap: as there.
        dropout_p: as there.
        q_offset: as there.
        follow_autocast: whether :class:`torch.autocast` decides on the dtype, where it is on.

    Returns:
        The checked arguments.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if an argument has the wrong shape, device or range.

    Source: the ONNX operator ``Attention``, opset 25, has the same arguments.

    Example:
        >>> import torch
        >>> check_arguments(torch.ones(2, 4), torch.ones(3, 4), torch.ones(3, 5)).k_len
        3
    """
    if score is not None and not callable(score):
        raise TypeError(f"score must be a callable (query, key), got {score!r}")
    if normalizer is not None and not callable(normalizer):
        raise TypeError(f"normalizer must be a callable (scores, dim), got {normalizer!r}")
    if scale is not None:
        check_number("scale", scale)
    check_not_sparse("mask", mask)
    check_not_sparse("bias", bias)
    if follow_autocast:
        query, key, value, bias = in_autocast_dtype(query, key, value, bias)
    _check_tensors(query, key, value)
    if score in (None, score_functions.dot, score_functions.scaled_dot):
        _check_width(query, key, value)
    without_heads = query.ndim == key.ndim == value.ndim == 2
    query, key, value = (x[None] if x.ndim == 2 else x for x in (query, key, value))
    if score is score_functions.scaled_dot:
        scale = (1.0 if scale is None else scale) / math.sqrt(query.shape[-1])
        score = score_functions.dot
    if softcap is not None:
        check_number("softcap", softcap)
        if softcap <= 0:
            raise ValueError(f"softcap must be positive, got {softcap}")
    check_share("dropout_p", dropout_p)
    if q_offset is not None:
        check_q_offset(q_offset)
        is_recorded = isinstance(q_offset, int | torch.SymInt) or torch.jit.is_tracing()
        if is_integer(q_offset) and not is_recorded:
            q_offset = int(q_offset)
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1]) if score is None else 1.0
    if mask is causal() and isinstance(q_offset, int) and q_offset >= key.shape[-2] - 1:
        mask = None  # the first query comes after all keys, as in each step of decoding
    arguments = Arguments(
        query=query,
        key=key,
        value=value,
        mask=_at_least_a_matrix(mask) if isinstance(mask, Tensor) else mask,
        bias=_at_least_a_matrix(bias) if isinstance(bias, Tensor) else bias,
        score=None if score is score_functions.dot else score,
        normalizer=normalizer,
        scale=float(scale),
        softcap=softcap,
        dropout_p=dropout_p,
        q_offset=q_offset,
        without_heads=without_heads,
    )
    _check_mask(arguments)
    _check_bias(arguments)
    return arguments


def _check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            hint = "; for NumPy arrays there is attn_core.reference.attention"
            raise TypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}{hint}")
        check_floating_point(name, tensor)
        if tensor.ndim < 2:
            raise ValueError(
                f"{name} must be (..., heads, length, width) or (length, width), got "
                f"{name} {tuple(tensor.shape)}"
            )
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name} has dtype {tensor.dtype}, but query has {query.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, but query is on {query.device}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"key and value must have the same length, {_shapes(query, key, value)}")
    q_heads, k_heads, v_heads = (x.shape[-3] if x.ndim > 2 else 1 for x in (query, key, value))
    if k_heads != v_heads:
        raise ValueError(
            f"key and value must have the same number of heads, {_shapes(query, key, value)}"
        )
    if 0 in (q_heads, k_heads) or q_heads % k_heads:
        raise ValueError(
            "the heads of query must be a multiple of the heads of key, at least 1, "
            f"{_shapes(query, key, value)}"
        )
    try:
        broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    except RuntimeError:
        raise ValueError(
            "the dimensions before the heads of query, key and value must broadcast, "
            f"{_shapes(query, key, value)}"
        ) from None


def _check_width(query: Tensor, key: Tensor, value: Tensor) -> None:
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have the same width, {_shapes(query, key, value)}")
    if query.shape[-1] == 0:
        raise ValueError(f"query and key have width 0, {_shapes(query, key, value)}")


def _check_mask(arguments: Arguments) -> None:
    mask, q_len, k_len = arguments.mask, arguments.q_len, arguments.k_len
    if mask is None:
        return
    if isinstance(mask, Mask):
        heads = arguments.query.shape[-3]
        if mask.batch is not None:
            _check_entries(f"mask {mask.name}", mask.batch, arguments)
        if mask.uses_positions:
            _check_offset(arguments)
        if mask.heads is not None and mask.heads != heads:
            raise ValueError(f"mask {mask.name} has {mask.heads} heads, but query has {heads}")
        mask.check_fit(q_len, k_len, arguments.q_offset, arguments.query.device)
        return
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"mask must be a bool tensor or a mask of attn_core.masks, got {type(mask).__name__}"
        )
    if mask.dtype != torch.bool:
        hint = "; to add numbers to the scores use bias=" if mask.is_floating_point() else ""
        raise TypeError(f"mask must be bool, True = may attend, got {mask.dtype}{hint}")
    _check_fits("mask", mask, arguments)


def _check_bias(arguments: Arguments) -> None:
    bias = arguments.bias
    if bias is None:
        return
    if isinstance(bias, Bias):
        heads = arguments.query.shape[-3]
        if bias.heads is not None and bias.heads != heads:
            raise ValueError(f"bias {bias.name} has {bias.heads} heads, but query has {heads}")
        bias.check_fit(arguments.q_len, arguments.k_len, arguments.q_offset)
        _check_offset(arguments)
        return
    if not isinstance(bias, Tensor):
        raise TypeError(
            "bias must be a torch tensor or a bias of attn_core.positions, got "
            f"{type(bias).__name__}"
        )
    if bias.dtype == torch.bool:
        raise TypeError("bias must be floating point, got torch.bool; a bool tensor is a mask=")
    if bias.dtype != arguments.query.dtype:
        raise TypeError(f"bias has dtype {bias.dtype}, but query has {arguments.query.dtype}")
    _check_fits("bias", bias, arguments)


def _check_offset(arguments: Arguments) -> None:
    offset = arguments.q_offset
    _check_entries("q_offset", len(offset) if isinstance(offset, Tensor) else None, arguments)


def _check_entries(what: str, entries: int | None, arguments: Arguments) -> None:
    if entries is not None and arguments.leading[-1:] != (entries,):
        raise ValueError(
            f"{what} has {entries} batch entries, and so must query, key and value "
            f"(batch, heads, length, width), "
            f"{_shapes(arguments.query, arguments.key, arguments.value)}; a batch without "
            "heads needs a head dimension of 1: query[:, None]"
        )


def _check_fits(name: str, tensor: Tensor, arguments: Arguments) -> None:
    if tensor.device != arguments.query.device:
        raise ValueError(f"{name} is on {tensor.device}, but query is on {arguments.query.device}")
    full = (*arguments.leading, arguments.query.shape[-3], arguments.q_len, arguments.k_len)
    if not broadcasts_to(tensor.shape, full):
        is_padding = name == "mask" and tensor.shape == (*full[:-3][-1:], full[-1])
        hint = "; a table (batch, keys) of padding is masks.padding(mask)" if is_padding else ""
        raise ValueError(
            f"{name} must broadcast to (..., heads, queries, keys) = {full}, "
            f"got {name} {tuple(tensor.shape)}{hint}"
        )


def is_in_use(table: Tensor) -> bool:
    """Whether a look at the table shows that each query and each key has a pair."""
    return _are_all(table.any(-1), table.any(-2))


def is_any(table: Tensor) -> bool:
    """Whether something in it is True, or may be: see :func:`_looks`."""
    return not _are_all(~table)


def _are_all(*tables: Tensor) -> bool:
    """Whether all is True and can be seen to be: see :func:`_looks`."""
    if not _looks(tables[0]):
        return False
    try:
        return all(bool(table.all()) for table in tables)
    except RuntimeError:  # vmap and fake tensors have no single number to read
        return False


def _looks(x: Tensor) -> bool:
    """Whether a number can be read without waiting for it, and without tracing it as a constant."""
    is_recorded = torch.compiler.is_compiling() or is_tracing()
    return x.device.type == "cpu" and not is_recorded


def _at_least_a_matrix(x: Tensor) -> Tensor:
    return x.reshape((1,) * (2 - x.ndim) + x.shape)


def _shapes(query: Tensor, key: Tensor, value: Tensor) -> str:
    return f"got query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
