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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attn_core import normalizers
from attn_core.arguments import Arguments, Normalizer
from attn_core.autocast import autocast_dtype, without_autocast
from attn_core.checks import broadcasts_to, is_tracing
from attn_core.kernels import sdpa
from attn_core.kernels.grid import Grid, window_of
from attn_core.kernels.walk import Walk
from attn_core.masks import Mask
from attn_core.normalizers.rows import check_temperature
from attn_core.positions.bias import Bias

# How many queries PyTorch's kernel is given at a time, with the keys that some of them may attend.
_ROWS_AT_ONCE = 256
_LOG2_E = math.log2(math.e)


def refusal(arguments: Arguments) -> str | None:
    """Say why this kernel cannot do the job, or None if it can."""
    if is_tracing():
        return "torch.jit.trace would write down the blocks of this very length"
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
    return f"{scores} scores are few enough to hold" if scores < sdpa.FEW_SCORES else None


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
        is_fused=is_fused(arguments),
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
        is_fused: whether PyTorch's kernel computes the output, as no gradient seems to be wanted.
    """

    arguments: Arguments
    learned: tuple[str, ...]
    seed: int
    autocast: torch.dtype | None
    is_fused: bool

    def given(self, inputs: Sequence[Any]) -> Arguments:
        """The arguments, with these tensors."""
        query, key, value, _, *others = inputs
        given = {
            name: x
            for name, x in zip(("bias", "mask", "q_offset"), others, strict=False)
            if x is not None
        }
        return replace(self.arguments, query=query, key=key, value=value, **given)

    def walk(self, inputs: Sequence[Any]) -> Walk:
        """Go through the blocks of these tensors."""
        parameters = dict(zip(self.learned, inputs[7:], strict=True))
        return Walk(self.given(inputs), parameters, self.seed, self.autocast)


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
        raise RuntimeError(_NO_FORWARD_MODE)


class _Online(_BlockByBlock):
    """The output, block by block, and the logarithm of the sum of each row's exponentials."""

    @staticmethod
    def forward(call: _Call, *inputs: Any) -> tuple[Tensor, Tensor]:
        query = inputs[0]
        with without_autocast(query.device):
            if call.is_fused:
                return _fused_output(call.given(inputs)), query.new_empty(0)
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
            if call.is_fused:  # torch.func asks for a gradient after all
                _, log_sum = _output_and_log_sum(call.walk(inputs), inputs[3])
            return _gradients(call.walk(inputs), inputs, output, log_sum, grad_output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(_NO_SECOND)


def is_fused(arguments: Arguments) -> bool:
    """Whether PyTorch's kernel can do a stretch of queries with all their keys, forward only."""
    tensors = arguments.query, arguments.key, arguments.value
    is_trained = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return (
        arguments.query.device.type == "cpu"  # elsewhere looking at the mask would wait
        and isinstance(arguments.mask, Mask)
        and arguments.bias is None
        and not is_trained
        and sdpa.refusal(arguments) is None
        and sdpa.why_not_fused(arguments) is None
    )


def _fused_output(arguments: Arguments) -> Tensor:
    """The output, some queries at a time: a mask leaves them few keys, which need not be cut."""
    query, key, value = arguments.query, arguments.key, arguments.value
    leading = arguments.leading
    output = query.new_zeros(*leading, *query.shape[-3:-1], value.shape[-1])
    grid = Grid(arguments, _ROWS_AT_ONCE, arguments.k_len)
    for rows in grid.row_blocks():
        for _, keys, table in grid.blocks(rows):  # one, or none
            stretch = replace(
                arguments,
                query=query[..., rows, :],
                key=key[..., keys, :],
                value=value[..., keys, :],
                mask=table,
                q_offset=None,
                in_use=arguments.is_all_in_use or None,
            )
            output[..., rows, :], _ = sdpa.run(stretch)
    return output


def _output_and_log_sum(walk: Walk, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    temperature = _temperature(walk.arguments.normalizer)
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
    walk: Walk, inputs: Sequence[Any], output: Tensor, log_sum: Tensor, grad_output: Tensor
) -> tuple[Tensor, ...]:
    query, key, value, sink, bias, _, _, *parameters = inputs
    arguments, temperature = walk.arguments, _temperature(walk.arguments.normalizer)
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
