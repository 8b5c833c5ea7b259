"""The Transformer's block: attention and a feed-forward network, each with a norm and a sum."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, overload

import numpy as np

from attn_core.reference.attend import AttentionOutput, attention, attention_backward
from attn_core.reference.many_heads import check_heads, join_heads, split_heads, weight_gradient
from attn_core.reference.position_wise import gelu, gelu_backward, layer_norm, layer_norm_backward
from attn_core.reference.shapes import (
    Array,
    check_broadcasts_to,
    check_float_arrays,
    check_same_shape,
)

Parameters: TypeAlias = dict[str, Array]


class BlockGradients(NamedTuple):
    """What transformer_block_backward returns.

    Attributes:
        x: the gradient of x, with its shape.
        parameters: the gradients of the parameters, by their names, each with its shape.
    """

    x: Array
    parameters: Parameters


@overload
def transformer_block(
    x: Array,
    parameters: Parameters,
    *,
    heads: int,
    norm: Literal["pre", "post"] = "pre",
    mask: Array | None = None,
    eps: float = 1e-5,
    return_weights: Literal[False] = False,
) -> Array: ...


@overload
def transformer_block(
    x: Array,
    parameters: Parameters,
    *,
    heads: int,
    norm: Literal["pre", "post"] = "pre",
    mask: Array | None = None,
    eps: float = 1e-5,
    return_weights: Literal[True],
) -> AttentionOutput: ...


def transformer_block(
    x: Array,
    parameters: Parameters,
    *,
    heads: int,
    norm: Literal["pre", "post"] = "pre",
    mask: Array | None = None,
    eps: float = 1e-5,
    return_weights: bool = False,
) -> Array | AttentionOutput:
    r"""Attend, then feed forward, each added to what came in, with the norm before or after.

    .. math::
        \text{pre:} \quad x \leftarrow x + f(\operatorname{norm}(x)), \qquad
        \text{post:} \quad x \leftarrow \operatorname{norm}(x + f(x))

    for f multi-head attention, and then the network
    :math:`\operatorname{gelu}(x W_1^\top + b_1) W_2^\top + b_2`.

    Args:
        x: the sequence, shape (..., L, D).
        parameters: the arrays of a block by the names that ``attn_core.models.block.Block`` has for
            them: ``attention.query_proj.weight``, shape (D, D), its ``bias``, shape (D,), and
            those of ``key_proj``, ``value_proj`` and ``out_proj`` alike; ``attention_norm`` and
            ``feed_forward_norm``, all of shape (D,); ``feed_forward.inner``, shape (H, D), and
            ``feed_forward.outer``, shape (D, H).
        heads: the number of heads, a divisor of D.
        norm: "pre" or "post".
        mask: boolean, True = may attend; broadcasts to (..., heads, L, L).
        eps: added to the variance in the norms.
        return_weights: whether to return the weights (..., heads, L, L) too.

    Returns:
        The sequence, shape (..., L, D), or AttentionOutput(sequence, weights).

    Raises:
        TypeError: an array holds no floating-point numbers, dtypes differ, or heads is no integer.
        ValueError: a parameter is missing or too many, shapes do not fit, heads does not divide D,
            or norm is unknown.

    Source: Vaswani et al. 2017, section 3.1, post-norm; Xiong et al. 2020, section 3, pre-norm.

    Example:
        >>> names = ["attention.query_proj", "attention.key_proj", "attention.value_proj"]
        >>> names += ["attention.out_proj", "feed_forward.inner", "feed_forward.outer"]
        >>> zeros = {f"{name}.weight": np.zeros((2, 2)) for name in names}
        >>> zeros |= {f"{name}.bias": np.zeros(2) for name in names}
        >>> for name in ("attention_norm", "feed_forward_norm"):
        ...     zeros |= {f"{name}.weight": np.ones(2), f"{name}.bias": np.zeros(2)}
        >>> x = np.array([[1.0, 3.0], [2.0, 0.0]])
        >>> transformer_block(x, zeros, heads=1, norm="pre").tolist()
        [[1.0, 3.0], [2.0, 0.0]]
        >>> transformer_block(x, zeros, heads=1, norm="post").round(2).tolist()
        [[-1.0, 1.0], [1.0, -1.0]]
    """
    _check_block(x, parameters, heads, norm, mask)

    def normed(name: str, x: Array) -> Array:
        return layer_norm(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"], eps)

    if norm == "pre":
        attended = _attend(normed("attention_norm", x), parameters, heads, mask)
        x = x + attended.output
        x = x + _feed(normed("feed_forward_norm", x), parameters)
    else:
        attended = _attend(x, parameters, heads, mask)
        x = normed("attention_norm", x + attended.output)
        x = normed("feed_forward_norm", x + _feed(x, parameters))
    return AttentionOutput(x, attended.weights) if return_weights else x


def transformer_block_backward(
    grad_output: Array,
    x: Array,
    parameters: Parameters,
    *,
    heads: int,
    norm: Literal["pre", "post"] = "pre",
    mask: Array | None = None,
    eps: float = 1e-5,
) -> BlockGradients:
    r"""Carry a gradient from the output of a block back to its input and all its parameters.

    A sum hands the gradient on unchanged beside what goes through the layer, which is why deep
    stacks of pre-norm blocks can be trained:

    .. math::
        \text{pre:} \quad \bar x = \bar y + \operatorname{norm}'\big(f'(\bar y)\big), \qquad
        \text{post:} \quad \bar x = g + f'(g), \quad g = \operatorname{norm}'(\bar y)

    where a prime stands for the way back through.

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., L, D).
        x: as in transformer_block; so are the others.
        parameters: as there.
        heads: as there.
        norm: as there.
        mask: as there.
        eps: as there.

    Returns:
        The gradients of x and of every parameter.

    Raises:
        TypeError: as transformer_block.
        ValueError: as transformer_block, or grad_output does not have the shape of x.

    Source: The chain rule; Xiong et al. 2020, section 3.3, for what follows from it.

    Example:
        >>> one, zero = np.ones((1, 1)), np.zeros(1)
        >>> names = ["attention.query_proj", "attention.key_proj", "attention.value_proj"]
        >>> names += ["attention.out_proj", "feed_forward.inner", "feed_forward.outer"]
        >>> parameters = {f"{name}.weight": one for name in names}
        >>> parameters |= {f"{name}.bias": zero for name in names}
        >>> for name in ("attention_norm", "feed_forward_norm"):
        ...     parameters |= {f"{name}.weight": one[0], f"{name}.bias": zero}
        >>> transformer_block_backward(one, one, parameters, heads=1).x.tolist()
        [[1.0]]
    """
    _check_block(x, parameters, heads, norm, mask)
    check_same_shape("grad_output", grad_output, x.shape)
    inputs = [x]
    for norm_name, layer, _ in _layers(parameters, heads, mask):
        weight, bias = parameters[f"{norm_name}.weight"], parameters[f"{norm_name}.bias"]
        before = layer_norm(inputs[-1], weight, bias, eps) if norm == "pre" else inputs[-1]
        total = inputs[-1] + layer(before)
        inputs.append(total if norm == "pre" else layer_norm(total, weight, bias, eps))

    grad = grad_output
    gradients: Parameters = {}
    for (norm_name, layer, layer_backward), x in zip(
        reversed(_layers(parameters, heads, mask)), reversed(inputs[:-1]), strict=True
    ):
        weight, bias = parameters[f"{norm_name}.weight"], parameters[f"{norm_name}.bias"]
        if norm == "pre":
            grad_normed, of_layer = layer_backward(grad, layer_norm(x, weight, bias, eps))
            grad_x, *of_norm = layer_norm_backward(grad_normed, x, weight, bias, eps)
        else:
            grad, *of_norm = layer_norm_backward(grad, x + layer(x), weight, bias, eps)
            grad_x, of_layer = layer_backward(grad, x)
        grad = grad + grad_x
        gradients |= of_layer
        gradients |= {f"{norm_name}.weight": of_norm[0], f"{norm_name}.bias": of_norm[1]}
    return BlockGradients(grad, gradients)


_PROJECT = ("attention.query_proj", "attention.key_proj", "attention.value_proj")


def _attend(x: Array, parameters: Parameters, heads: int, mask: Array | None) -> AttentionOutput:
    query, key, value = (split_heads(_linear(x, parameters, name), heads) for name in _PROJECT)
    output, weights = attention(query, key, value, mask=mask, return_weights=True)
    return AttentionOutput(_linear(join_heads(output), parameters, "attention.out_proj"), weights)


def _feed(x: Array, parameters: Parameters) -> Array:
    hidden = gelu(_linear(x, parameters, "feed_forward.inner"))
    return _linear(hidden, parameters, "feed_forward.outer")


Layer: TypeAlias = Callable[[Array], Array]
LayerBackward: TypeAlias = Callable[[Array, Array], tuple[Array, Parameters]]


def _layers(
    parameters: Parameters, heads: int, mask: Array | None
) -> list[tuple[str, Layer, LayerBackward]]:
    """The two layers with the name of the norm that belongs to each, and the way back."""

    def attend(x: Array) -> Array:
        return _attend(x, parameters, heads, mask).output

    def attend_backward(grad: Array, x: Array) -> tuple[Array, Parameters]:
        heads_of = [split_heads(_linear(x, parameters, name), heads) for name in _PROJECT]
        joined = join_heads(attention(heads_of[0], heads_of[1], heads_of[2], mask=mask))
        grad, gradients = _linear_backward(grad, joined, parameters, "attention.out_proj")
        of_heads = attention_backward(
            split_heads(grad, heads), heads_of[0], heads_of[1], heads_of[2], mask=mask
        )
        total = np.zeros_like(x)
        for name, of_head in zip(_PROJECT, of_heads[:3], strict=True):
            grad_x, of_projection = _linear_backward(join_heads(of_head), x, parameters, name)
            total = total + grad_x
            gradients |= of_projection
        return total, gradients

    def feed(x: Array) -> Array:
        return _feed(x, parameters)

    def feed_backward(grad: Array, x: Array) -> tuple[Array, Parameters]:
        inner = _linear(x, parameters, "feed_forward.inner")
        grad, of_outer = _linear_backward(grad, gelu(inner), parameters, "feed_forward.outer")
        grad = gelu_backward(grad, inner)
        grad, of_inner = _linear_backward(grad, x, parameters, "feed_forward.inner")
        return grad, of_outer | of_inner

    return [
        ("attention_norm", attend, attend_backward),
        ("feed_forward_norm", feed, feed_backward),
    ]


def _linear(x: Array, parameters: Parameters, name: str) -> Array:
    projected: Array = x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
    return projected


def _linear_backward(
    grad: Array, x: Array, parameters: Parameters, name: str
) -> tuple[Array, Parameters]:
    gradients = {
        f"{name}.weight": weight_gradient(grad, x),
        f"{name}.bias": grad.sum(axis=tuple(range(grad.ndim - 1))),
    }
    return grad @ parameters[f"{name}.weight"], gradients


def _check_block(
    x: Array, parameters: Parameters, heads: int, norm: str, mask: Array | None
) -> None:
    check_float_arrays(x=x)
    check_heads("heads", heads)
    if not isinstance(parameters, dict):
        raise TypeError(f"parameters must be a dict of arrays, got {type(parameters).__name__}")
    dim = x.shape[-1]
    if dim % heads:
        raise ValueError(f"heads must divide the width of x, got {heads} and x {x.shape}")
    if norm not in ("pre", "post"):
        raise ValueError(f"norm must be 'pre' or 'post', got {norm!r}")
    if mask is not None and isinstance(mask, np.ndarray):
        check_broadcasts_to("mask", mask, (*x.shape[:-2], heads, x.shape[-2], x.shape[-2]))
    hidden = len(parameters.get("feed_forward.inner.bias", x))
    shapes: dict[str, tuple[int, ...]] = {
        f"attention.{name}_proj.weight": (dim, dim) for name in ("query", "key", "value", "out")
    }
    shapes |= {
        "feed_forward.inner.weight": (hidden, dim),
        "feed_forward.outer.weight": (dim, hidden),
    }
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    for name in ("attention_norm", "feed_forward_norm"):
        shapes |= {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}
    if parameters.keys() != shapes.keys():
        raise ValueError(
            f"parameters must be those of a block: missing {sorted(shapes.keys() - parameters)}, "
            f"unexpected {sorted(parameters.keys() - shapes)}"
        )
    for name, shape in shapes.items():
        check_float_arrays(min_dims=1, **{"x": x, name: parameters[name]})
        check_same_shape(name, parameters[name], shape)
