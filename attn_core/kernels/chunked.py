r"""Softmax in blocks of queries and keys: no table of all weights, forward or backward.

A row of weights need not be there as a whole. Block by block it is enough to keep the highest
score :math:`m`, the sum :math:`\ell` of the exponentials and their sum with the values :math:`o`,
and to shrink the last two when a higher score comes:

.. math::
    m' = \max(m, \max_j s_j), \qquad
    \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'}, \qquad
    o' = e^{m - m'} o + \sum_j e^{s_j - m'} v_j

In the end the output is :math:`o / \ell`. Backward, the weights of a block are computed again from
:math:`m + \log \ell`, one number for each query.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attn_core import normalizers
from attn_core.arguments import Arguments, Normalizer
from attn_core.checks import broadcasts_to, is_tracing
from attn_core.kernels.grid import Block, Grid, window_of
from attn_core.positions.bias import Bias

_FEW_SCORES = 2**20
_LOG2_E = math.log2(math.e)


def refusal(arguments: Arguments) -> str | None:
    """Say why this kernel cannot do the job, or None if it can."""
    if is_tracing():
        return "torch.jit.trace would write down the blocks of this very length"
    if arguments.score is not None:
        return "score is not the dot product"
    if not _is_softmax(arguments.normalizer):
        return "normalizer is neither softmax nor softmax_with_sink"
    sink = _sink(arguments.normalizer)
    if isinstance(sink, Tensor):
        rows = (*arguments.leading, arguments.query.shape[-3], arguments.q_len, 1)
        if sink.dtype != arguments.query.dtype or not broadcasts_to(sink.shape, rows):
            return f"sink {tuple(sink.shape)} does not give one {arguments.query.dtype} to each row"
    return None


def reluctance(arguments: Arguments) -> str | None:
    """Say why another kernel is better, though this one can do the job, or None if none is."""
    if torch.compiler.is_compiling():
        return "torch.compile would write its loop out, block after block"
    heads = arguments.leading.numel() * arguments.query.shape[-3]
    scores = heads * arguments.q_len * arguments.k_len
    return f"{scores} scores are few enough to hold" if scores < _FEW_SCORES else None


def run(arguments: Arguments) -> tuple[Tensor, None]:
    """Compute output ``(..., Hq, L, Dv)``; the weights of a block go when the next one comes."""
    sink, bias = _sink(arguments.normalizer), arguments.bias
    if sink is not None and not isinstance(sink, Tensor):
        sink = arguments.query.new_tensor([float(sink)])
    parameters = [p for p in bias.parameters() if p.requires_grad] if isinstance(bias, Bias) else []
    table = bias if isinstance(bias, Tensor) else None
    inputs = (arguments.query, arguments.key, arguments.value, sink, table, *parameters)
    return _Online.apply(arguments, *inputs), None


class _Online(torch.autograd.Function):
    """Forward and backward, block by block."""

    @staticmethod
    def forward(ctx: Any, arguments: Arguments, *inputs: Any) -> Tensor:
        query, key, value, sink, *_ = inputs
        seed = int(torch.randint(2**62, ())) if arguments.dropout_p else 0
        walk = _Walk(arguments, query, key, value, seed)
        output, log_sum = walk.new_rows(walk.value.shape[-1], walk.query.dtype), walk.new_rows(1)
        sinks = None if sink is None else walk.fold_rows(sink)
        for rows in walk.grid.row_blocks():
            q = walk.rows_of(walk.query, rows)
            # A sink is a key that has a score but no value.
            highest = q.new_full((*q.shape[:-1], 1), -torch.inf)
            highest = highest if sinks is None else walk.rows_of(sinks, rows)
            total = torch.full_like(highest, 0.0 if sinks is None else 1.0)
            summed = q.new_zeros(*q.shape[:-1], output.shape[-1])
            for step in walk.steps(rows, q):
                higher = torch.maximum(highest, step.scores.amax(-1, keepdim=True))
                # As long as nothing was allowed all are −inf, and their difference would be NaN.
                reference = higher.masked_fill(higher.isneginf(), 0.0)
                powers = _exp_(step.scores.sub_(reference))
                shrink = highest.sub(reference).exp_()
                total = total.mul_(shrink).add_(powers.sum(-1, keepdim=True))
                kept = powers if step.kept is None else powers.mul_(step.kept)
                summed = summed.mul_(shrink).baddbmm_(kept, step.value)
                highest = higher
            total = total.masked_fill_(total == 0, 1.0)  # a query that may attend nothing
            walk.write(output, rows, summed.div_(total))
            walk.write(
                log_sum, rows, highest.masked_fill(highest.isneginf(), 0.0).add_(total.log())
            )
        ctx.save_for_backward(*inputs, output, log_sum)
        ctx.arguments, ctx.seed = arguments, seed
        return walk.unfold_rows(output)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: what is not there must not count as 0
            raise RuntimeError(
                "the chunked kernel has no second derivatives; the explicit one has them: "
                'with attn_core.kernels.use("explicit")'
            )
        *inputs, output, log_sum = ctx.saved_tensors
        query, key, value, sink, bias, *parameters = inputs
        arguments = ctx.arguments
        walk = _Walk(arguments, query, key, value, ctx.seed)
        grad_output = walk.fold_rows(grad_output)
        grad_query, grad_sinks = walk.new_rows(query.shape[-1]), walk.new_rows(1)
        grad_key, grad_value = (
            x.new_zeros(x.shape, dtype=walk.dtype) for x in (walk.key, walk.value)
        )
        grad_bias: Any = None if bias is None else bias.new_zeros(bias.shape, dtype=walk.dtype)
        grad_parameters = [torch.zeros_like(parameter) for parameter in parameters]
        sinks = None if sink is None else walk.fold_rows(sink)
        for rows in walk.grid.row_blocks():
            q, o, grad_o, log = (
                walk.rows_of(x, rows) for x in (walk.query, output, grad_output, log_sum)
            )
            mean = (o * grad_o).sum(-1, keepdim=True)
            grad_q = torch.zeros_like(q)
            for step in walk.steps(rows, q):
                weights = _exp_(step.scores.sub_(log))
                kept = weights if step.kept is None else weights * step.kept
                grad_value[:, step.block.keys].baddbmm_(kept.mT, grad_o)
                grad_weights = grad_o @ step.value.mT
                if step.kept is not None:
                    grad_weights.mul_(step.kept)
                grad_scores = grad_weights.sub_(mean).mul_(weights)
                if grad_bias is not None:
                    part = grad_bias[window_of(bias, step.block)]
                    part += walk.unfold(grad_scores).sum_to_size(part.shape)
                elif isinstance(arguments.bias, Bias):
                    gradients = walk.through_bias(step, grad_scores, parameters)
                    grad_q += gradients[0]
                    grad_key[:, step.block.keys] += gradients[1]
                    for total, gradient in zip(grad_parameters, gradients[2:], strict=True):
                        total += gradient
                if step.slope is not None:
                    grad_scores.mul_(step.slope)
                grad_q.baddbmm_(grad_scores, step.key, alpha=arguments.scale)
                grad_key[:, step.block.keys].baddbmm_(
                    grad_scores.mT, step.query, alpha=arguments.scale
                )
            walk.write(grad_query, rows, grad_q)
            if sinks is not None:
                walk.write(grad_sinks, rows, -mean * (walk.rows_of(sinks, rows) - log).exp())
        return (
            None,
            walk.like(query, walk.unfold_rows(grad_query)),
            walk.like(key, walk.unfold_keys(grad_key)),
            walk.like(value, walk.unfold_keys(grad_value)),
            None if sink is None else walk.like(sink, walk.unfold_rows(grad_sinks)),
            None if bias is None else walk.like(bias, grad_bias),
            *grad_parameters,
        )


class _Step(NamedTuple):
    """A block with its scores; query, key and value hold nothing that is masked for all of it."""

    block: Block
    query: Tensor
    key: Tensor
    value: Tensor
    scores: Tensor
    slope: Tensor | None
    kept: Tensor | None


class _Walk:
    """One way through the blocks, the same forward and backward.

    Inside, batch entries and key heads are one dimension, and the queries of the heads that share
    a key head stand one below the other, so that no key is copied. Half precision is computed in
    float32.
    """

    def __init__(
        self, arguments: Arguments, query: Tensor, key: Tensor, value: Tensor, seed: int
    ) -> None:
        self.arguments, self.grid = arguments, Grid(arguments)
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

    def steps(self, rows: slice, query: Tensor) -> Iterator[_Step]:
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
            bias = self.grid.bias(block, *self._for_bias(q, k))
            if bias is not None:
                view += bias
            if block.table is not None:
                view.masked_fill_(~block.table, -torch.inf)
            yield _Step(block, q, k, v, scores, slope, self._drawn(scores))

    def through_bias(
        self, step: _Step, grad_scores: Tensor, parameters: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """The gradients of query, key and parameters through a bias object."""
        with torch.enable_grad():
            q, k = (x.detach().requires_grad_() for x in (step.query, step.key))
            bias = self.grid.bias(step.block, *self._for_bias(q, k))
            assert bias is not None
            gradient = self.unfold(grad_scores).to(bias.dtype).sum_to_size(bias.shape)
            inputs = [q, k, *parameters]
            if not bias.requires_grad:
                return tuple(torch.zeros_like(x) for x in inputs)
            return torch.autograd.grad(bias, inputs, gradient, materialize_grads=True)

    def _for_bias(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.query.dtype
        return self.unfold(q).to(dtype), self.unfold_keys(k).to(dtype)

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


def _exp_(x: Tensor) -> Tensor:
    """The exponential, in place: that of the CPU takes ten times as long where it underflows."""
    return x.mul_(_LOG2_E).exp2_()


def _is_softmax(normalizer: Normalizer | None) -> bool:
    if isinstance(normalizer, partial):
        known = normalizer.func is normalizers.softmax_with_sink and not normalizer.args
        return known and set(normalizer.keywords) <= {"sink"}
    return normalizer in (None, normalizers.softmax, normalizers.softmax_with_sink)


def _sink(normalizer: Normalizer | None) -> float | Tensor | None:
    """The score of the key without a value, None if there is none."""
    if isinstance(normalizer, partial):
        sink: float | Tensor = normalizer.keywords.get("sink", 0.0)
        return sink
    return 0.0 if normalizer is normalizers.softmax_with_sink else None
