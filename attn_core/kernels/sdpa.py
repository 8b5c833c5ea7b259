"""PyTorch's fused kernel, :func:`torch.nn.functional.scaled_dot_product_attention`.

It never holds all the weights at once. Two of its habits are mended here: NaN in a masked key
reaches its output, and what it gives for a fully masked row depends on the backend.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attn_core import normalizers
from attn_core.arguments import Arguments, is_any
from attn_core.checks import is_tracing
from attn_core.masks import Mask
from attn_core.positions.bias import Bias

_LARGE_BIAS, _LARGE_MASK = 2**20, 2**26
# From here on it takes longer to compute what the table hides than to go through it in blocks.
LARGE_MASK_ON_CPU = 2**23
# Fewer than these may be held.
FEW_SCORES = 2**20
_ONLY_ONCE = (
    "PyTorch's fused kernel has no {}; the explicit kernel has: "
    'with attn_core.kernels.use("explicit")'
)


def refusal(arguments: Arguments) -> str | None:
    """Say why this kernel cannot do the job, or None if it can."""
    if arguments.score is not None:
        return "score is not the dot product"
    if arguments.normalizer not in (None, normalizers.softmax):
        return "normalizer is not softmax"
    if arguments.softcap is not None:
        return "softcap is given"
    if arguments.k_len == 0:
        return "there are no keys"
    return None


def reluctance(arguments: Arguments) -> str | None:
    """Say why another kernel is better, though this one can do the job, or None if none is."""
    if torch.compiler.is_compiling() or is_tracing():  # see chunked
        return None
    pairs = arguments.q_len * arguments.k_len
    reason = why_not_fused(arguments)
    if reason is not None:
        weights = arguments.leading.numel() * arguments.query.shape[-3] * pairs
        if weights >= FEW_SCORES:
            return f"{reason}, so that PyTorch would hold all {weights} weights"
    if isinstance(arguments.bias, Bias):
        numbers = pairs * (arguments.bias.heads or 1)
        if numbers > _LARGE_BIAS:
            return f"bias {arguments.bias.name} would be a table of {numbers} numbers"
    mask = arguments.mask
    if isinstance(mask, Mask) and not arguments.is_causal_from_first_key:
        is_one_row = not mask.uses_positions and mask.q_len is None
        numbers = pairs * (mask.batch or 1) * (mask.heads or 1)
        on_cpu = arguments.query.device.type == "cpu"
        if not is_one_row and (numbers > _LARGE_MASK or (on_cpu and pairs > LARGE_MASK_ON_CPU)):
            return f"mask {mask.name} would be a table of {numbers} pairs"
    return None


def why_not_fused(arguments: Arguments) -> str | None:
    """Why PyTorch does not run its fused kernel on a processor, but writes the steps out."""
    if arguments.query.device.type != "cpu":
        return None
    if arguments.dropout_p:
        return "the fused kernel for the CPU has no dropout"
    if arguments.value.shape[-1] != arguments.query.shape[-1]:
        return "the fused kernel for the CPU takes values as wide as keys only"
    bias = arguments.bias
    if isinstance(bias, Tensor) and bias.requires_grad and torch.is_grad_enabled():
        return "the fused kernel for the CPU has no gradient of a bias"
    return None


def run(arguments: Arguments) -> tuple[Tensor, None]:
    """Compute output ``(..., Hq, L, Dv)``; this kernel has no weights to give."""
    # With ``is_causal`` the kernel multiplies −inf by the scale: NaN if that is not positive.
    is_causal = (
        arguments.is_causal_from_first_key and arguments.bias is None and arguments.scale > 0
    )
    table = None if is_causal and arguments.k_len <= arguments.q_len else arguments.table()
    query, key, value = arguments.without_masked(table)
    attn_mask, empty = (None, None)
    if not is_causal:
        bias = arguments.bias_table(query, key)
        attn_mask, empty = _additive_or_bool(bias, table, arguments.is_all_in_use)
    leading, heads, group = arguments.leading, query.shape[-3:-1], arguments.group
    query, key, value = (_flatten_leading(x, leading) for x in (query, key, value))
    if attn_mask is not None:
        attn_mask = _flatten_leading(attn_mask, leading)
    if _is_step_of_decoding(arguments, attn_mask):
        # One product with the keys for all queries of a group is up to twice as fast.
        query, group = query.unflatten(1, (-1, group)).squeeze(3), 1
    output = fused(
        query,
        key,
        value,
        arguments.scale,
        attn_mask=attn_mask,
        dropout_p=arguments.dropout_p,
        is_causal=is_causal,
        group=group,
    )
    output = output.reshape(*leading, *heads, value.shape[-1])
    return (output if empty is None else output.masked_fill(empty, 0.0)), None


def fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    *,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    group: int = 1,
) -> Tensor:
    """Call PyTorch's fused kernel, and say of what it cannot differentiate which kernel can."""
    # Only what is asked for: each option takes a while to be read, and torch.compile may leave
    # the comparisons open.
    options: dict[str, Any] = {"scale": scale}
    if attn_mask is not None:
        options["attn_mask"] = attn_mask
    if dropout_p:
        options["dropout_p"] = dropout_p
    if is_causal:
        options["is_causal"] = True
    if group > 1:
        options["enable_gqa"] = True
    try:
        output = scaled_dot_product_attention(query, key, value, **options)
    except RuntimeError as error:
        if "forward AD" not in str(error):
            raise
        raise RuntimeError(_ONLY_ONCE.format("forward mode differentiation")) from error
    if output.requires_grad and not torch.compiler.is_compiling():
        _refuse_second_derivatives(output)
    return output


def _refuse_second_derivatives(output: Tensor) -> None:
    """Let a fused kernel that is differentiated twice say what to do."""
    node = output.grad_fn
    if node is not None and "ScaledDotProduct" in node.name():
        node.register_hook(_once)


def _once(gradients: tuple[Tensor | None, ...], _: object) -> tuple[Tensor | None, ...] | None:
    if not torch.is_grad_enabled():
        return None
    return tuple(None if x is None else _Once.apply(x) for x in gradients)


class _Once(torch.autograd.Function):
    """A gradient that cannot be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise RuntimeError(_ONLY_ONCE.format("second derivatives"))


def _is_step_of_decoding(arguments: Arguments, attn_mask: Tensor | None) -> bool:
    """Whether each head has one query, and the heads of a group may attend the same keys."""
    is_one_query = arguments.q_len == 1 and not arguments.is_causal_from_first_key
    shared = attn_mask is None or attn_mask.ndim == 2 or attn_mask.shape[1] == 1
    return arguments.group > 1 and is_one_query and shared


def _additive_or_bool(
    bias: Tensor | None, table: Tensor | None, is_all_in_use: bool
) -> tuple[Tensor | None, Tensor | None]:
    """What the fused kernel takes as mask, and the rows that attend nothing.

    Those rows attend everything in the kernel, and their output is zeroed afterwards: output and
    gradient are then exactly 0 on every backend.
    """
    if bias is None and (table is None or is_all_in_use):
        return table, None
    if bias is None:
        assert table is not None
        empty = ~table.any(-1, keepdim=True)
        return (table | empty, empty) if is_any(empty) else (table, None)
    if table is not None:
        bias = bias.masked_fill(~table, -torch.inf)
    filled, empty = normalizers.without_empty_rows(bias, -1)
    return filled, empty


def _flatten_leading(x: Tensor, leading: torch.Size) -> Tensor:
    """The fast backends read ``(batch, heads, length, width)`` only; a matrix is a mask for all."""
    if x.ndim == 2 or (x.ndim == 4 and x.shape[:-3] == leading):
        return x
    x = x.reshape((1,) * (len(leading) + 3 - x.ndim) + x.shape)
    return x.expand(*leading, *x.shape[-3:]).reshape(leading.numel(), *x.shape[-3:])
