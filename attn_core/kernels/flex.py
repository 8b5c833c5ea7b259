"""FlexAttention: PyTorch writes a kernel for this very mask and bias, if it is compiled.

Nothing is compiled here behind anybody's back. Inside a function of yours that you compile with
:func:`torch.compile` it becomes one fused kernel; outside it is FlexAttention's own slow reference,
with all weights at once. So it runs only when :func:`attn_core.kernels.use` fixes it.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from attn_core import masks, normalizers
from attn_core.arguments import Arguments
from attn_core.positions.bias import Bias

ScoreModifier = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def refusal(arguments: Arguments) -> str | None:
    """Say why this kernel cannot do the job, or None if it can."""
    tensors, bias = (arguments.query, arguments.key, arguments.value), arguments.bias
    if arguments.score is not None:
        return "score is not the dot product"
    if arguments.normalizer not in (None, normalizers.softmax):
        return "normalizer is not softmax"
    if arguments.dropout_p:
        return "FlexAttention has no dropout"
    if isinstance(bias, Bias) and bias.uses_content:
        return f"bias {bias.name} reads query and key, and not their distance alone"
    if isinstance(bias, Bias) and not bias.is_in_blocks:
        return f"bias {bias.name} has a number for every pair"
    if 0 in (*arguments.leading, arguments.q_len, arguments.k_len):
        return "there are no queries or no keys"
    if len(arguments.leading) > 1:
        return "FlexAttention takes (batch, heads, length, width) only"
    if arguments.query.device.type == "cpu" and torch.is_grad_enabled():
        trained = [x for x in (*tensors, *_read_by(bias)) if x.requires_grad]
        return "FlexAttention has no backward on the CPU" if trained else None
    return None


def reluctance(arguments: Arguments) -> str | None:
    """Say why this kernel does not run unasked."""
    return (
        'it runs only when fixed by kernels.use("flex"): it is fast only inside torch.compile, '
        "and nothing is compiled behind your back"
    )


def run(arguments: Arguments) -> tuple[Tensor, None]:
    """Compute output ``(..., Hq, L, Dv)``; this kernel has no weights to give."""
    from torch.nn.attention.flex_attention import flex_attention  # it takes a second

    table = None if arguments.is_all_in_use else arguments.table()
    batch, heads = arguments.leading.numel(), arguments.query.shape[-3]
    query, key, value = (
        x.expand(*arguments.leading, *x.shape[-3:]).reshape(batch, *x.shape[-3:])
        for x in arguments.without_masked(table)
    )
    if query.device.type == "cpu":  # where it refuses to look at what asks for a gradient
        query, key, value = query.detach(), key.detach(), value.detach()
    mask, block_mask = arguments.mask, None
    if isinstance(mask, Tensor):
        assert table is not None
        full = (*table.shape[:-2], arguments.q_len, arguments.k_len)
        mask = masks.dense(table.expand(full))
    if mask is None and query.device.type == "cpu" and torch.compiler.is_compiling():
        # PyTorch 2.13 generates wrong code where there is no mask and a block is not full.
        mask = masks.Mask(lambda at: at.key >= 0, name="everything")
    if mask is not None:
        block_mask = mask.block_mask(
            arguments.q_len, arguments.k_len, arguments.q_offset, device=query.device
        )
    output = flex_attention(
        query,
        key,
        value,
        score_mod=_score_modifier(replace(arguments, query=query)),
        block_mask=block_mask,
        scale=arguments.scale,
        enable_gqa=arguments.group > 1,
    )
    return output.reshape(*arguments.leading, heads, arguments.q_len, value.shape[-1]), None


def _score_modifier(arguments: Arguments) -> ScoreModifier | None:
    """What FlexAttention does to a score: softcap, then bias."""
    softcap, bias = arguments.softcap, arguments.bias
    if softcap is None and bias is None:
        return None
    add = None
    if isinstance(bias, Bias):
        add = _by_distance(arguments, bias)
    elif bias is not None:
        add = _by_index(bias)

    def modify(score: Tensor, entry: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        return score if add is None else score + add(entry, head, row, key)

    return modify


def _by_index(bias: Tensor) -> Callable[..., Tensor]:
    """Look the bias up in its tensor."""
    bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)

    def add(*at: Tensor) -> Tensor:
        return bias[tuple(i if size > 1 else 0 for i, size in zip(at, bias.shape, strict=True))]

    return add


def _by_distance(arguments: Arguments, bias: Bias) -> Callable[..., Tensor]:
    """Look the bias up by distance: a number for each distance that occurs, not for each pair."""
    query, key, q_len, offset = arguments.query, arguments.key, arguments.q_len, arguments.q_offset
    count = q_len + arguments.k_len - 1
    distances = torch.arange(count, device=query.device)[None] - (q_len - 1)
    if isinstance(offset, Tensor):
        offset = offset.to(query.device)[:, None, None, None]
    if offset is not None:
        distances = distances - offset
    table = bias(query, key, distances)  # broadcasts to (batch, heads, 1, distances)
    table = table.reshape((1,) * (4 - table.ndim) + table.shape)
    entries, heads = table.shape[:2]

    def add(entry: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        at = (entry if entries > 1 else 0, head if heads > 1 else 0, 0, key - row + q_len - 1)
        return table[at]

    return add


def _read_by(bias: Tensor | Bias | None) -> list[Tensor]:
    """The tensors whose numbers a bias adds."""
    if isinstance(bias, Bias):
        return list(bias.parameters())
    return [] if bias is None else [bias]
