"""One way through the blocks of a call, with the scores of each."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attn_core.arguments import Arguments
from attn_core.autocast import autocast_as
from attn_core.kernels.grid import Block, Grid


class Step(NamedTuple):
    """A block with its scores; query, key and value hold nothing that is masked for all of it."""

    block: Block
    query: Tensor
    key: Tensor
    value: Tensor
    scores: Tensor
    slope: Tensor | None
    kept: Tensor | None


class Walk:
    """One way through the blocks, the same forward and backward.

    Inside, batch entries and key heads are one dimension, and the queries of the heads that share
    a key head stand one below the other, so that no key is copied. Half precision is computed in
    float32.
    """

    def __init__(
        self,
        arguments: Arguments,
        parameters: dict[str, Tensor],
        seed: int,
        autocast: torch.dtype | None,
    ) -> None:
        query, key, value = arguments.query, arguments.key, arguments.value
        self.arguments, self.parameters, self.autocast = arguments, parameters, autocast
        self.grid = Grid(arguments)
        self.leading = arguments.leading
        self.heads, self.kv_heads = query.shape[-3], key.shape[-3]
        self.batch = self.leading.numel() * self.kv_heads
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.query = self.fold_rows(query)
        self.key, self.value = (
            x.expand(*self.leading, *x.shape[-3:]).reshape(self.batch, *x.shape[-2:])
            for x in (key, value)
        )
        self.generator = torch.Generator(query.device).manual_seed(seed)

    def fold_rows(self, x: Tensor) -> Tensor:
        """From what broadcasts to ``(..., Hq, L, width)`` to ``(batch, group, L, width)``."""
        arguments, width = self.arguments, x.shape[-1]
        x = x.expand(*self.leading, self.heads, arguments.q_len, width)
        return x.reshape(self.batch, arguments.group, arguments.q_len, width)

    def new_rows(self, width: int, dtype: torch.dtype | None = None) -> Tensor:
        """Room for a vector of each query: ``(batch, group, L, width)``."""
        shape = (self.batch, self.arguments.group, self.arguments.q_len, width)
        return self.query.new_empty(shape, dtype=dtype or self.dtype)

    def rows_of(self, x: Tensor, rows: slice) -> Tensor:
        """From ``(batch, group, L, width)`` to ``(batch, group · rows, width)``."""
        return x[:, :, rows].flatten(1, 2).to(self.dtype)

    def write(self, x: Tensor, rows: slice, values: Tensor) -> None:
        """Put the result of some queries in its place."""
        x[:, :, rows] = values.unflatten(1, (self.arguments.group, -1))

    def add(
        self,
        total: Tensor,
        keys: slice | Tensor,
        left: Tensor,
        right: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        """Add what these keys get, ``left`` or ``scale · left @ right``, to that of all keys."""
        if isinstance(keys, slice):
            if right is None:
                total[:, keys] += left
            else:
                total[:, keys].baddbmm_(left, right, alpha=scale)
        else:
            total.index_add_(1, keys, left if right is None else left @ right, alpha=scale)

    def unfold_rows(self, x: Tensor) -> Tensor:
        """Undo :meth:`fold_rows`."""
        return x.reshape(*self.leading, self.heads, *x.shape[-2:])

    def unfold_keys(self, x: Tensor) -> Tensor:
        """From ``(batch, S, width)`` to ``(..., Hkv, S, width)``."""
        return x.reshape(*self.leading, self.kv_heads, *x.shape[-2:])

    def unfold(self, scores: Tensor) -> Tensor:
        """From ``(batch, group · rows, keys)`` to ``(..., Hq, rows, keys)``."""
        group = self.arguments.group
        return scores.unflatten(1, (group, -1)).reshape(
            *self.leading, self.heads, scores.shape[1] // group, scores.shape[2]
        )

    def like(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of what was broadcast, summed to the shape that it had."""
        return gradient.sum_to_size(x.shape).to(x.dtype)

    def steps(self, rows: slice, query: Tensor) -> Iterator[Step]:
        """The scores of some queries, block by block."""
        arguments = self.arguments
        for block in self.grid.blocks(rows):
            q, k, v = query, self.key[:, block.keys], self.value[:, block.keys]
            k, v = k.to(self.dtype), v.to(self.dtype)
            if block.table is not None and not arguments.is_all_in_use:
                q, k, v = self._without_masked(block.table, q, k, v)
            scores, slope = (q * arguments.scale) @ k.mT, None
            if arguments.softcap is not None:
                squeezed = scores.div_(arguments.softcap).tanh_()
                slope = 1 - squeezed.square()
                scores = squeezed.mul_(arguments.softcap)
            view = self.unfold(scores)
            bias = self._bias(block, q, k, self.parameters)
            if bias is not None:
                view += bias
            if block.table is not None:
                view.masked_fill_(~block.table, -torch.inf)
            yield Step(block, q, k, v, scores, slope, self._drawn(scores))

    def through_bias(self, step: Step, grad_scores: Tensor) -> tuple[Tensor, ...]:
        """The gradients of query, key and parameters through a bias object."""
        with torch.enable_grad():
            q, k, *parameters = (
                x.detach().requires_grad_()
                for x in (step.query, step.key, *self.parameters.values())
            )
            learned = dict(zip(self.parameters, parameters, strict=True))
            bias = self._bias(step.block, q, k, learned)
            assert bias is not None
            gradient = self.unfold(grad_scores).to(bias.dtype).sum_to_size(bias.shape)
            inputs = [q, k, *parameters]
            if not bias.requires_grad:
                return tuple(torch.zeros_like(x) for x in inputs)
            return torch.autograd.grad(bias, inputs, gradient, materialize_grads=True)

    def _bias(
        self, block: Block, q: Tensor, k: Tensor, parameters: dict[str, Tensor]
    ) -> Tensor | None:
        """What is added to the scores of a block, by a bias object under the caller's autocast."""
        dtype = self.query.dtype
        query, key = self.unfold(q).to(dtype), self.unfold_keys(k).to(dtype)
        with autocast_as(q.device, self.autocast):
            return self.grid.bias(block, query, key, parameters)

    def _without_masked(
        self, table: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Zeros where a block uses nothing: a weight of 0 does not stop a NaN."""
        group = self.arguments.group
        table = table.expand(*self.leading, self.heads, q.shape[1] // group, k.shape[1])
        row_is_used = table.any(-1).reshape(q.shape[:2])[..., None]
        key_is_used = table.any(-2).reshape(self.batch, group, k.shape[1]).any(1)[..., None]
        return (
            q.masked_fill(~row_is_used, 0.0),
            k.masked_fill(~key_is_used, 0.0),
            v.masked_fill(~key_is_used, 0.0),
        )

    def _drawn(self, scores: Tensor) -> Tensor | None:
        """What dropout multiplies the weights by; the generator repeats it on the way back."""
        share = self.arguments.dropout_p
        if not share:
            return None
        numbers = torch.rand(scores.shape, generator=self.generator, device=scores.device)
        return (numbers >= share).to(self.dtype).div_(1 - share)
