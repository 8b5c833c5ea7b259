"""PyTorch's own Transformer stacks, copied into ours."""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from attn_core.models.block import Activation, Block
from attn_core.modules import MultiHeadAttention

_ACTIVATIONS: dict[object, Activation] = {
    F.relu: "relu",
    F.gelu: "gelu",
    torch.relu: "relu",
    nn.ReLU: "relu",
    nn.GELU: "gelu",
}
Stack = TypeVar("Stack", bound=nn.Module)


def copy_stack(cls: type[Stack], stack: Any, expected: type[nn.Module]) -> Stack:
    """Make a stack of type ``cls`` that gives what ``stack``, of type ``expected``, gives.

    Raises:
        TypeError: if ``stack`` has another type.
        ValueError: if its layers have what ours have not.
    """
    if not isinstance(stack, expected):
        raise TypeError(f"stack must be a {expected.__name__}, got {type(stack).__name__}")
    layers: Any = stack.layers
    layer = layers[0]
    activation = _ACTIVATIONS.get(layer.activation) or _ACTIVATIONS.get(type(layer.activation))
    if activation is None:
        raise ValueError(f"activation must be ReLU or GELU, got {layer.activation!r}")
    if getattr(layer.activation, "approximate", "none") == "tanh":
        activation = "gelu_tanh"
    copy = cls(
        layer.linear1.in_features,
        layer.self_attn.num_heads,
        len(layers),
        hidden_dim=layer.linear1.out_features,
        activation=activation,
        bias=layer.linear1.bias is not None,
        norm="pre" if layer.norm_first else "post",
        dropout=layer.dropout.p,
        eps=layer.norm1.eps,
        final_norm=stack.norm is not None,
    ).to(layer.linear1.weight)
    for ours, theirs in zip(copy.blocks, layers, strict=True):  # type: ignore[arg-type]
        _copy_block(ours, theirs)
    if stack.norm is not None:
        copy.final_norm.load_state_dict(stack.norm.state_dict())  # type: ignore[union-attr]
    return copy.train(stack.training)


def _copy_block(ours: Block, theirs: Any) -> None:
    ours.attention = MultiHeadAttention.from_torch(theirs.self_attn)
    pairs: list[tuple[Any, Any]] = [
        (ours.attention_norm, theirs.norm1),
        (ours.feed_forward.inner, theirs.linear1),
        (ours.feed_forward.outer, theirs.linear2),
    ]
    if ours.memory_attention is None:
        pairs.append((ours.feed_forward_norm, theirs.norm2))
    else:
        ours.memory_attention = MultiHeadAttention.from_torch(theirs.multihead_attn)
        pairs += [(ours.memory_norm, theirs.norm2), (ours.feed_forward_norm, theirs.norm3)]
    for copied, original in pairs:
        copied.load_state_dict(original.state_dict())
