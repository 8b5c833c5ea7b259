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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attn_core import normalizers
from attn_core.arguments import Arguments, Normalizer
from attn_core.autocast import autocast_as, autocast_dtype, without_autocast
from attn_core.checks import broadcasts_to
from attn_core.kernels.grid import Block, Grid, window_of
from attn_core.normalizers.rows import check_temperature
from attn_core.positions.bias import Bias

_FEW_SCORES = 2**20
_LOG2_E = math.log2(math.e)


def refusal(arguments: Arguments) -> str | None:
    """Say why this kernel cannot do the job, or None if it can."""
    if arguments.score is not None:
        return "score is not the dot product"
    if not _is_softmax(arguments.normalizer):
        return "normalizer is neither softmax nor softmax_with_sink"
    bias = arguments.bias
    if isinstance(bias, Bias) and not bias.is_in_blocks:
        return f"bias {bias.name} has a number for every pair"
    sink = _sink(arguments.normalizer)
    if isinstance(sink, Tensor):
        rows = (*arguments.leading, arguments.query.shape[-3], arguments.q_len, 1)
        is_alike = sink.dtype == arguments.query.dtype or autocast_dtype(sink.device) is not None
        if not is_alike or not broadcasts_to(sink.shape, rows):
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
    sink, bias, mask = _sink(arguments.normalizer), arguments.bias, arguments.mask
    if sink is not None and not isinstance(sink, Tensor):
        sink = arguments.query.new_tensor([float(sink)])
    learned = {}
    if isinstance(bias, Bias):
        learned = {name: p for name, p in bias.named_parameters() if p.requires_grad}
    call = _Call(
        arguments,
        tuple(learned),
        seed=int(torch.randint(2**62, ())) if arguments.dropout_p else 0,
        autocast=autocast_dtype(arguments.query.device),
    )
    output, _ = _Online.apply(
        call,
        arguments.query,
        arguments.key,
        arguments.value,
        sink,
        *(x if isinstance(x, Tensor) else None for x in (bias, mask, arguments.q_offset)),
        *learned.values(),
    )
    return output, None


@dataclass(frozen=True)
class _Call:
    """What a call of attention is beside its tensors.

    Attributes:
        arguments: of the call. Of its tensors only those are read that autograd hands over, which
            torch.func may have wrapped and unwrapped.
        learned: the names of the parameters of its bias object that ask for a gradient.
        seed: of dropout.
        autocast: the dtype that a bias object computes in; None for that of its tensors.
    """

    arguments: Arguments
    learned: tuple[str, ...]
    seed: int
    autocast: torch.dtype | None

    def walk(self, inputs: Sequence[Any]) -> "_Walk":
        """Go through the blocks of these tensors."""
        query, key, value, _, *others = inputs
        given = {
            name: x
            for name, x in zip(("bias", "mask", "q_offset"), others, strict=False)
            if x is not None
        }
        arguments = replace(self.arguments, query=query, key=key, value=value, **given)
        parameters = dict(zip(self.learned, others[3:], strict=True))
        return _Walk(arguments, parameters, self.seed, self.autocast)


_NO_SECOND = (
    "the chunked kernel has no second derivatives; the explicit one has them: "
    'with attn_core.kernels.use("explicit")'
)
_NO_FORWARD_MODE = (
    "the chunked kernel has no forward mode differentiation (jvp); the explicit one has it: "
    'with attn_core.kernels.use("explicit")'
)


class _BlockByBlock(torch.autograd.Function):
    """What forward and backward have in common: ``apply(call, *tensors)``, and no jvp."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], call: _Call, *tensors: Any) -> Any:
        """One entry after the other, so that no more blocks are there at a time than of one."""
        results = [
            cls.apply(
                call,
                *(
                    x if dim is None else x.select(dim, entry)
                    for x, dim in zip(tensors, in_dims[1:], strict=True)
                ),
            )
            for entry in range(info.batch_size)
        ]
        stacked = tuple(torch.stack(entries) for entries in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_NO_FORWARD_MODE)


class _Online(_BlockByBlock):
    """The output, block by block, and the logarithm of the sum of each row's exponentials."""

    @staticmethod
    def forward(call: _Call, *inputs: Any) -> tuple[Tensor, Tensor]:
        query = inputs[0]
        with without_autocast(query.device):
            return _output_and_log_sum(call.walk(inputs), inputs[3])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.call, *tensors = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output, *tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        output, log_sum, *inputs = ctx.saved_tensors
        given = iter(_Gradients.apply(ctx.call, grad_output, output, log_sum, *inputs))
        # There is none of mask and q_offset.
        has_gradient = [x is not None and place not in (5, 6) for place, x in enumerate(inputs)]
        return None, *(next(given) if has else None for has in has_gradient)


class _Gradients(_BlockByBlock):
    """The gradients of all inputs that have one, block by block."""

    @staticmethod
    def forward(call: _Call, *tensors: Any) -> tuple[Tensor, ...]:
        grad_output, output, log_sum, *inputs = tensors
        with without_autocast(grad_output.device):
            return _gradients(call.walk(inputs), inputs, output, log_sum, grad_output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(_NO_SECOND)


def _output_and_log_sum(walk: "_Walk", sink: Tensor | None) -> tuple[Tensor, Tensor]:
    temperature = walk.temperature
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
            powers = _exp_(step.scores.sub_(reference), temperature)
            shrink = highest.sub(reference).div_(temperature).exp_()
            total = total.mul_(shrink).add_(powers.sum(-1, keepdim=True))
            kept = powers if step.kept is None else powers.mul_(step.kept)
            summed = summed.mul_(shrink).baddbmm_(kept, step.value)
            highest = higher
        total = total.masked_fill_(total == 0, 1.0)  # a query that may attend nothing
        walk.write(output, rows, summed.div_(total))
        highest = highest.masked_fill(highest.isneginf(), 0.0)
        walk.write(log_sum, rows, highest.add_(total.log(), alpha=temperature))
    return walk.unfold_rows(output), walk.unfold_rows(log_sum)


def _gradients(
    walk: "_Walk", inputs: Sequence[Any], output: Tensor, log_sum: Tensor, grad_output: Tensor
) -> tuple[Tensor, ...]:
    query, key, value, sink, bias, _, _, *parameters = inputs
    arguments, temperature = walk.arguments, walk.temperature
    output, log_sum, grad_output = (walk.fold_rows(x) for x in (output, log_sum, grad_output))
    grad_query, grad_sinks = walk.new_rows(query.shape[-1]), walk.new_rows(1)
    grad_key, grad_value = (x.new_zeros(x.shape, dtype=walk.dtype) for x in (walk.key, walk.value))
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
            weights = _exp_(step.scores.sub_(log), temperature)
            kept = weights if step.kept is None else weights * step.kept
            walk.add(grad_value, step.block.keys, kept.mT, grad_o)
            grad_weights = grad_o @ step.value.mT
            if step.kept is not None:
                grad_weights.mul_(step.kept)
            grad_scores = grad_weights.sub_(mean).mul_(weights)
            if temperature != 1:
                grad_scores.div_(temperature)
            if grad_bias is not None:
                part = window_of(bias, step.block)
                # Keys that lie apart are looked up, and a copy of them is not the sum.
                grad_bias[part] += walk.unfold(grad_scores).sum_to_size(grad_bias[part].shape)
            elif isinstance(arguments.bias, Bias):
                gradients = walk.through_bias(step, grad_scores)
                grad_q += gradients[0]
                walk.add(grad_key, step.block.keys, gradients[1])
                for total, gradient in zip(grad_parameters, gradients[2:], strict=True):
                    total += gradient
            if step.slope is not None:
                grad_scores.mul_(step.slope)
            grad_q.baddbmm_(grad_scores, step.key, alpha=arguments.scale)
            walk.add(grad_key, step.block.keys, grad_scores.mT, step.query, arguments.scale)
        walk.write(grad_query, rows, grad_q)
        if sinks is not None:
            walk.write(grad_sinks, rows, -mean * (walk.rows_of(sinks, rows) - log).exp())
    found = [
        walk.like(query, walk.unfold_rows(grad_query)),
        walk.like(key, walk.unfold_keys(grad_key)),
        walk.like(value, walk.unfold_keys(grad_value)),
    ]
    if sink is not None:
        found.append(walk.like(sink, walk.unfold_rows(grad_sinks)))
    if bias is not None:
        found.append(walk.like(bias, grad_bias))
    return (*found, *grad_parameters)


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
        self,
        arguments: Arguments,
        parameters: dict[str, Tensor],
        seed: int,
        autocast: torch.dtype | None,
    ) -> None:
        query, key, value = arguments.query, arguments.key, arguments.value
        self.arguments, self.parameters, self.autocast = arguments, parameters, autocast
        self.grid = Grid(arguments)
        self.temperature = _temperature(arguments.normalizer)
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
            bias = self._bias(block, q, k, self.parameters)
            if bias is not None:
                view += bias
            if block.table is not None:
                view.masked_fill_(~block.table, -torch.inf)
            yield _Step(block, q, k, v, scores, slope, self._drawn(scores))

    def through_bias(self, step: _Step, grad_scores: Tensor) -> tuple[Tensor, ...]:
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


def _exp_(x: Tensor, temperature: float) -> Tensor:
    """The exponential of x / temperature, in place.

    That of the CPU takes ten times as long where it underflows; a power of 2 does not.
    """
    if temperature != 1:
        x.div_(temperature)
    return x.mul_(_LOG2_E).exp2_()


def _is_softmax(normalizer: Normalizer | None) -> bool:
    if isinstance(normalizer, partial):
        option: dict[Any, str] = {
            normalizers.softmax: "temperature",
            normalizers.softmax_with_sink: "sink",
        }
        is_known = normalizer.func in option and not normalizer.args
        return is_known and set(normalizer.keywords) <= {option[normalizer.func]}
    return normalizer in (None, normalizers.softmax, normalizers.softmax_with_sink)


def _temperature(normalizer: Normalizer | None) -> float:
    """What the scores are divided by in the end."""
    if isinstance(normalizer, partial):
        temperature: float = normalizer.keywords.get("temperature", 1.0)
        check_temperature(temperature)
        return temperature
    return 1.0


def _sink(normalizer: Normalizer | None) -> float | Tensor | None:
    """The score of the key without a value, None if there is none."""
    if isinstance(normalizer, partial) and normalizer.func is normalizers.softmax_with_sink:
        sink: float | Tensor = normalizer.keywords.get("sink", 0.0)
        return sink
    return 0.0 if normalizer is normalizers.softmax_with_sink else None
