"""The Transformer's block: attention and a feed-forward network, each with a norm and a sum."""

from typing import Literal, NamedTuple, overload

from attn_core.reference.attend import AttentionOutput
from attn_core.reference.block_parts import (
    Parameters,
    Settings,
    after,
    attend,
    attend_backward,
    attended,
    before,
    check_block,
    feed,
    feed_backward,
    norm_backward,
)
from attn_core.reference.shapes import Array, check_flags, check_same_shape


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
    kv_heads: int | None = None,
    norm: Literal["pre", "post", "both"] = "pre",
    norm_kind: Literal["layer", "rms"] = "layer",
    activation: Literal["gelu", "swiglu"] = "gelu",
    mask: Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    eps: float = 1e-5,
    return_weights: Literal[False] = False,
) -> Array: ...


@overload
def transformer_block(
    x: Array,
    parameters: Parameters,
    *,
    heads: int,
    kv_heads: int | None = None,
    norm: Literal["pre", "post", "both"] = "pre",
    norm_kind: Literal["layer", "rms"] = "layer",
    activation: Literal["gelu", "swiglu"] = "gelu",
    mask: Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    eps: float = 1e-5,
    return_weights: Literal[True],
) -> AttentionOutput: ...


def transformer_block(
    x: Array,
    parameters: Parameters,
    *,
    heads: int,
    kv_heads: int | None = None,
    norm: Literal["pre", "post", "both"] = "pre",
    norm_kind: Literal["layer", "rms"] = "layer",
    activation: Literal["gelu", "swiglu"] = "gelu",
    mask: Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    eps: float = 1e-5,
    return_weights: bool = False,
) -> Array | AttentionOutput:
    r"""Attend, then feed forward, each added to what came in, with norms before, after, or both.

    .. math::
        \text{pre:}  \quad & x \leftarrow x + f(\operatorname{norm}(x)) \\
        \text{post:} \quad & x \leftarrow \operatorname{norm}(x + f(x)) \\
        \text{both:} \quad & x \leftarrow x + \operatorname{norm}'(f(\operatorname{norm}(x)))

    for f multi-head attention, and then the network
    :math:`\operatorname{gelu}(x W_1^\top + b_1) W_2^\top + b_2` or
    :math:`(\operatorname{silu}(x W_g^\top) \odot x W_1^\top) W_2^\top`.

    Args:
        x: the sequence, shape (..., L, D).
        parameters: the arrays of a block by the names that ``attn_core.models.block.Block`` has for
            them: ``attention.query_proj.weight``, shape (heads × W, D), its ``bias``, shape
            (heads × W,), those of ``key_proj`` and ``value_proj``, shape (kv_heads × W, D), and of
            ``out_proj``, shape (D, heads × W); ``attention_norm`` and ``feed_forward_norm``, all of
            shape (D,), and with "both" ``attention_out_norm`` and ``feed_forward_out_norm``;
            ``feed_forward.inner``, shape (H, D), ``feed_forward.outer``, shape (D, H), and for
            "swiglu" ``feed_forward.gate``, shape (H, D). Queries and keys are normed where
            ``attention.query_norm.weight`` and ``attention.key_norm.weight`` are there, shape
            (W,). All biases may be missing; norms of kind "rms" and "swiglu" have none.
        heads: the number of heads.
        kv_heads: the number of key-value heads, a divisor of heads; by default heads.
        norm: "pre", "post" or "both".
        norm_kind: "layer" for layer_norm, "rms" for rms_norm.
        activation: "gelu" or "swiglu".
        mask: boolean, True = may attend; broadcasts to (..., heads, L, L).
        scale: as in attention.
        softcap: as in attention.
        eps: added to the variance, or to the mean square, in the norms.
        return_weights: whether to return the weights (..., heads, L, L) too.

    Returns:
        The sequence, shape (..., L, D), or AttentionOutput(sequence, weights).

    Raises:
        TypeError: an array holds no floating-point numbers, dtypes differ, or heads is no integer.
        ValueError: a parameter is missing or too many, shapes do not fit, heads does not divide
            the rows of a projection, or norm, norm_kind or activation is unknown.

    Source: Vaswani et al. 2017, section 3.1, post-norm; Xiong et al. 2020, section 3, pre-norm;
    Ding et al. 2021 for norms before and after; Shazeer 2020 for swiglu.

    Example:
        >>> import numpy as np
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
    check_flags(return_weights=return_weights)
    block = Settings(
        parameters,
        heads,
        heads if kv_heads is None else kv_heads,
        norm,
        norm_kind,
        activation,
        mask,
        scale,
        softcap,
        eps,
    )
    check_block(x, block)
    result = attend(before(x, "attention", block), block)
    x = after(x, result.output, "attention", block)
    x = after(x, feed(before(x, "feed_forward", block), block), "feed_forward", block)
    return AttentionOutput(x, result.weights) if return_weights else x


def transformer_block_backward(
    grad_output: Array,
    x: Array,
    parameters: Parameters,
    *,
    heads: int,
    kv_heads: int | None = None,
    norm: Literal["pre", "post", "both"] = "pre",
    norm_kind: Literal["layer", "rms"] = "layer",
    activation: Literal["gelu", "swiglu"] = "gelu",
    mask: Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    eps: float = 1e-5,
) -> BlockGradients:
    r"""Carry a gradient from the output of a block back to its input and all its parameters.

    A sum hands the gradient on unchanged beside what goes through the layer, which is why deep
    stacks of pre-norm blocks can be trained:

    .. math::
        \text{pre:}  \quad & \bar x = \bar y + \operatorname{norm}'\big(f'(\bar y)\big) \\
        \text{post:} \quad & \bar x = g + f'(g), \quad g = \operatorname{norm}'(\bar y)

    where a prime stands for the way back through. With norms before and after, f is the layer with
    its second norm.

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., L, D).
        x: as in transformer_block; so are the others.
        parameters: as there.
        heads: as there.
        kv_heads: as there.
        norm: as there.
        norm_kind: as there.
        activation: as there.
        mask: as there.
        scale: as there.
        softcap: as there.
        eps: as there.

    Returns:
        The gradients of x and of every parameter.

    Raises:
        TypeError: as transformer_block.
        ValueError: as transformer_block, or grad_output does not have the shape of x.

    Source: The chain rule; Xiong et al. 2020, section 3.3, for what follows from it.

    Example:
        >>> import numpy as np
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
    block = Settings(
        parameters,
        heads,
        heads if kv_heads is None else kv_heads,
        norm,
        norm_kind,
        activation,
        mask,
        scale,
        softcap,
        eps,
    )
    check_block(x, block)
    check_same_shape("grad_output", grad_output, x.shape)
    layers = {"attention": (attended, attend_backward), "feed_forward": (feed, feed_backward)}
    inputs = {}
    for part, (layer, _) in layers.items():
        inputs[part] = x
        x = after(x, layer(before(x, part, block), block), part, block)

    grad = grad_output
    gradients: Parameters = {}
    for part in reversed(layers):
        layer, layer_backward = layers[part]
        x = inputs[part]
        given = before(x, part, block)
        if norm == "post":
            grad, of_norm = norm_backward(grad, x + layer(x, block), f"{part}_norm", block)
            gradients |= of_norm
        of_change = grad
        if norm == "both":
            change = layer(given, block)
            of_change, of_norm = norm_backward(grad, change, f"{part}_out_norm", block)
            gradients |= of_norm
        grad_x, of_layer = layer_backward(of_change, given, block)
        gradients |= of_layer
        if norm != "post":
            grad_x, of_norm = norm_backward(grad_x, x, f"{part}_norm", block)
            gradients |= of_norm
        grad = grad + grad_x
    return BlockGradients(grad, gradients)
