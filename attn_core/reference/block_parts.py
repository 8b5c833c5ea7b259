"""The parts of a block and the way back through each: its norms, its attention, its network."""

from typing import NamedTuple, TypeAlias

import numpy as np

from attn_core.reference.attend import AttentionOutput, attention, attention_backward
from attn_core.reference.many_heads import check_heads, join_heads, split_heads, weight_gradient
from attn_core.reference.position_wise import (
    gelu,
    gelu_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from attn_core.reference.shapes import (
    Array,
    check_broadcasts_to,
    check_float_arrays,
    check_same_shape,
)

Parameters: TypeAlias = dict[str, Array]


class Settings(NamedTuple):
    """What a block is told beside its input; see transformer_block."""

    parameters: Parameters
    heads: int
    kv_heads: int
    norm: str
    norm_kind: str
    activation: str
    mask: Array | None
    scale: float | None
    softcap: float | None
    eps: float


def before(x: Array, part: str, block: Settings) -> Array:
    return x if block.norm == "post" else _norm(x, f"{part}_norm", block)


def after(x: Array, change: Array, part: str, block: Settings) -> Array:
    if block.norm == "both":
        change = _norm(change, f"{part}_out_norm", block)
    return _norm(x + change, f"{part}_norm", block) if block.norm == "post" else x + change


def _norm(x: Array, name: str, block: Settings) -> Array:
    weight = block.parameters[f"{name}.weight"]
    if block.norm_kind == "rms":
        return rms_norm(x, weight, block.eps)
    bias = block.parameters.get(f"{name}.bias", np.zeros_like(weight))
    return layer_norm(x, weight, bias, block.eps)


def norm_backward(grad: Array, x: Array, name: str, block: Settings) -> tuple[Array, Parameters]:
    weight = block.parameters[f"{name}.weight"]
    if block.norm_kind == "rms":
        grad_x, grad_weight = rms_norm_backward(grad, x, weight, block.eps)
        return grad_x, {f"{name}.weight": grad_weight}
    bias = block.parameters.get(f"{name}.bias", np.zeros_like(weight))
    grad_x, grad_weight, grad_bias = layer_norm_backward(grad, x, weight, bias, block.eps)
    gradients = {f"{name}.weight": grad_weight, f"{name}.bias": grad_bias}
    return grad_x, {name: gradients[name] for name in gradients if name in block.parameters}


_PARTS = ("query", "key", "value")


def _heads(x: Array, block: Settings) -> list[Array]:
    """Queries, keys and values, before their norms."""
    heads = (block.heads, block.kv_heads, block.kv_heads)
    return [
        split_heads(_linear(x, block.parameters, f"attention.{part}_proj"), number)
        for part, number in zip(_PARTS, heads, strict=True)
    ]


def _normed_heads(heads: list[Array], block: Settings) -> list[Array]:
    weights = [block.parameters.get(f"attention.{part}_norm.weight") for part in _PARTS]
    return [
        x if weight is None else rms_norm(x, weight, block.eps)
        for x, weight in zip(heads, weights, strict=True)
    ]


def attend(x: Array, block: Settings) -> AttentionOutput:
    query, key, value = _normed_heads(_heads(x, block), block)
    output, weights = attention(
        query,
        key,
        value,
        mask=block.mask,
        scale=block.scale,
        softcap=block.softcap,
        return_weights=True,
    )
    joined = _linear(join_heads(output), block.parameters, "attention.out_proj")
    return AttentionOutput(joined, weights)


def attended(x: Array, block: Settings) -> Array:
    return attend(x, block).output


def attend_backward(grad: Array, x: Array, block: Settings) -> tuple[Array, Parameters]:
    heads = _heads(x, block)
    query, key, value = _normed_heads(heads, block)
    steps = {"mask": block.mask, "scale": block.scale, "softcap": block.softcap}
    joined = join_heads(attention(query, key, value, **steps))  # type: ignore[call-overload]
    grad, gradients = _linear_backward(grad, joined, block.parameters, "attention.out_proj")
    of_heads = attention_backward(
        split_heads(grad, block.heads),
        query,
        key,
        value,
        **steps,  # type: ignore[arg-type]
    )
    total = np.zeros_like(x)
    for part, grad_head, before in zip(_PARTS, of_heads[:3], heads, strict=True):
        name = f"attention.{part}_norm.weight"
        if name in block.parameters:
            weight = block.parameters[name]
            grad_head, gradients[name] = rms_norm_backward(grad_head, before, weight, block.eps)
        grad_x, of_projection = _linear_backward(
            join_heads(grad_head), x, block.parameters, f"attention.{part}_proj"
        )
        total = total + grad_x
        gradients |= of_projection
    return total, gradients


def feed(x: Array, block: Settings) -> Array:
    hidden = _linear(x, block.parameters, "feed_forward.inner")
    if block.activation == "swiglu":
        gate = _linear(x, block.parameters, "feed_forward.gate")
        hidden = gate * _logistic(gate) * hidden
    else:
        hidden = gelu(hidden)
    return _linear(hidden, block.parameters, "feed_forward.outer")


def feed_backward(grad: Array, x: Array, block: Settings) -> tuple[Array, Parameters]:
    parameters = block.parameters
    inner = _linear(x, parameters, "feed_forward.inner")
    if block.activation == "gelu":
        grad, of_outer = _linear_backward(grad, gelu(inner), parameters, "feed_forward.outer")
        grad = gelu_backward(grad, inner)
        grad, of_inner = _linear_backward(grad, x, parameters, "feed_forward.inner")
        return grad, of_outer | of_inner
    gate = _linear(x, parameters, "feed_forward.gate")
    share = _logistic(gate)
    bent = gate * share
    slope = share * (1 + gate * (1 - share))
    grad, of_outer = _linear_backward(grad, bent * inner, parameters, "feed_forward.outer")
    to_gate, of_gate = _linear_backward(grad * inner * slope, x, parameters, "feed_forward.gate")
    to_inner, of_inner = _linear_backward(grad * bent, x, parameters, "feed_forward.inner")
    return to_gate + to_inner, of_outer | of_gate | of_inner


def _logistic(x: Array) -> Array:
    share: Array = (1 + np.tanh(x / 2)) / 2
    return share


def _linear(x: Array, parameters: Parameters, name: str) -> Array:
    projected: Array = x @ parameters[f"{name}.weight"].T
    return projected + parameters[f"{name}.bias"] if f"{name}.bias" in parameters else projected


def _linear_backward(
    grad: Array, x: Array, parameters: Parameters, name: str
) -> tuple[Array, Parameters]:
    gradients = {f"{name}.weight": weight_gradient(grad, x)}
    if f"{name}.bias" in parameters:
        gradients[f"{name}.bias"] = grad.sum(axis=tuple(range(grad.ndim - 1)))
    return grad @ parameters[f"{name}.weight"], gradients


def check_block(x: Array, block: Settings) -> None:
    check_float_arrays(x=x)
    check_heads("heads", block.heads)
    check_heads("kv_heads", block.kv_heads)
    if block.heads % block.kv_heads:
        raise ValueError(f"kv_heads must divide heads, got {block.kv_heads} and {block.heads}")
    if not isinstance(block.parameters, dict):
        kind = type(block.parameters).__name__
        raise TypeError(f"parameters must be a dict of arrays, got {kind}")
    for name, value, known in (
        ("norm", block.norm, ("pre", "post", "both")),
        ("norm_kind", block.norm_kind, ("layer", "rms")),
        ("activation", block.activation, ("gelu", "swiglu")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    if isinstance(block.mask, np.ndarray):
        full = (*x.shape[:-2], block.heads, x.shape[-2], x.shape[-2])
        check_broadcasts_to("mask", block.mask, full)
    shapes = _shapes(x, block)
    if block.parameters.keys() != shapes.keys():
        raise ValueError(
            "parameters must be those of a block: missing "
            f"{sorted(shapes.keys() - block.parameters)}, "
            f"unexpected {sorted(block.parameters.keys() - shapes)}"
        )
    for name, shape in shapes.items():
        check_float_arrays(min_dims=1, **{"x": x, name: block.parameters[name]})
        check_same_shape(name, block.parameters[name], shape)


def _shapes(x: Array, block: Settings) -> dict[str, tuple[int, ...]]:
    """The shape that each parameter should have, by name."""
    dim, parameters = x.shape[-1], block.parameters
    rows = len(parameters.get("attention.query_proj.weight", x))
    hidden = len(parameters.get("feed_forward.inner.weight", x))
    if rows % block.heads:
        raise ValueError(
            f"heads must divide the rows of attention.query_proj.weight, got {block.heads} "
            f"and {rows}"
        )
    width = rows // block.heads
    shared = width * block.kv_heads
    shapes: dict[str, tuple[int, ...]] = {
        "attention.query_proj.weight": (rows, dim),
        "attention.key_proj.weight": (shared, dim),
        "attention.value_proj.weight": (shared, dim),
        "attention.out_proj.weight": (dim, rows),
        "feed_forward.inner.weight": (hidden, dim),
        "feed_forward.outer.weight": (dim, hidden),
    }
    names = ["attention_norm", "feed_forward_norm"]
    names += ["attention_out_norm", "feed_forward_out_norm"] if block.norm == "both" else []
    norms: dict[str, tuple[int, ...]] = {f"{name}.weight": (dim,) for name in names}
    biased = dict(shapes)
    if block.activation == "swiglu":
        biased = {name: shape for name, shape in shapes.items() if name.startswith("attention")}
        shapes["feed_forward.gate.weight"] = (hidden, dim)
    if block.norm_kind == "layer":
        biased |= norms
    shapes |= norms
    if any(name.endswith(".bias") for name in parameters):
        shapes |= {n.replace("weight", "bias"): shape[:1] for n, shape in biased.items()}
    if "attention.query_norm.weight" in parameters:
        shapes |= {f"attention.{part}_norm.weight": (width,) for part in ("query", "key")}
    return shapes
