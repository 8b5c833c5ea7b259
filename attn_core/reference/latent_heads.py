"""Multi-head latent attention, written as the paper's equations read: keys and values unfolded."""

from typing import Literal, NamedTuple

import numpy as np

from attn_core.reference.attend import attention, attention_backward
from attn_core.reference.many_heads import (
    check_heads,
    check_projection,
    join_heads,
    split_heads,
    weight_gradient,
)
from attn_core.reference.positions_rotary import rotary, rotary_backward
from attn_core.reference.shapes import Array, check_float_arrays, check_same_shape

Pairing = Literal["half", "interleaved"]


class _Steps(NamedTuple):
    """What attention is given, and the latents that keys and values came from."""

    latent: Array
    query: Array
    key: Array
    value: Array


def _compute(
    x: Array,
    latent_weight: Array,
    rotary_key_weight: Array,
    key_weight: Array,
    value_weight: Array,
    query_weight: Array,
    rotary_query_weight: Array,
    heads: int,
    base: float,
    pairing: Pairing,
) -> _Steps:
    check_heads("heads", heads)
    check_projection("latent_weight", latent_weight, x, 1)
    check_projection("rotary_key_weight", rotary_key_weight, x, 1)
    check_projection("query_weight", query_weight, x, heads)
    check_projection("rotary_query_weight", rotary_query_weight, x, heads)
    check_same_shape(
        "rotary_query_weight",
        rotary_query_weight,
        (heads * len(rotary_key_weight), x.shape[-1]),
    )
    latent = x @ latent_weight.T
    check_projection("key_weight", key_weight, latent, heads)
    check_projection("value_weight", value_weight, latent, heads)
    check_same_shape("key_weight", key_weight, (len(query_weight), latent.shape[-1]))

    rotary_key = rotary((x @ rotary_key_weight.T)[..., None, :, :], base=base, pairing=pairing)
    rotary_query = rotary(split_heads(x @ rotary_query_weight.T, heads), base=base, pairing=pairing)
    query = split_heads(x @ query_weight.T, heads)
    key = split_heads(latent @ key_weight.T, heads)
    one_for_all = np.broadcast_to(rotary_key, (*key.shape[:-1], rotary_key.shape[-1]))
    return _Steps(
        latent,
        np.concatenate([query, rotary_query], axis=-1),
        np.concatenate([key, one_for_all], axis=-1),
        split_heads(latent @ value_weight.T, heads),
    )


def multi_head_latent(
    x: Array,
    latent_weight: Array,
    rotary_key_weight: Array,
    key_weight: Array,
    value_weight: Array,
    query_weight: Array,
    rotary_query_weight: Array,
    out_weight: Array,
    *,
    heads: int,
    mask: Array | None = None,
    base: float = 10000.0,
    pairing: Pairing = "half",
) -> Array:
    r"""Attend in many heads whose keys and values are unfolded from one small latent vector.

    .. math::
        c_j &= W_{DKV} \, x_j, \qquad v_{j,h} = W_{UV}^h c_j \\
        k_{j,h} &= [W_{UK}^h c_j;\, \operatorname{rotary}(W_{KR} x_j)] \\
        q_{i,h} &= [W_{UQ}^h x_i;\, \operatorname{rotary}(W_{QR}^h x_i)] \\
        y_i &= W_O \, [\operatorname{Attention}(q_{i,1}, k_1, v_1); \dots]

    Queries are not compressed and no norm is applied. A cache would hold c and the turned key only.

    Args:
        x: the sequence, shape (..., L, dim).
        latent_weight: W_DKV, shape (rank, dim).
        rotary_key_weight: W_KR, shape (R, dim): one turned key for all heads.
        key_weight: W_UK, shape (H × D, rank).
        value_weight: W_UV, shape (H × Dv, rank).
        query_weight: W_UQ, shape (H × D, dim).
        rotary_query_weight: W_QR, shape (H × R, dim).
        out_weight: W_O, shape (dim, H × Dv).
        heads: H, the number of heads.
        mask: boolean, True = may attend; broadcasts to (..., H, L, L).
        base: as in rotary.
        pairing: as in rotary.

    Returns:
        The output, shape (..., L, dim).

    Raises:
        TypeError: an array holds no floating-point numbers, or heads is no integer.
        ValueError: shapes do not fit.

    Source: DeepSeek-AI 2024, appendix C.

    Example:
        >>> x, one, turned = np.ones((3, 2)), np.ones((1, 2)), np.ones((2, 2))
        >>> unfold = np.ones((1, 1))
        >>> multi_head_latent(
        ...     x, one, turned, unfold, unfold, one, turned, np.ones((2, 1)), heads=1
        ... ).round(4).tolist()
        [[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]
    """
    steps = _compute(
        x,
        latent_weight,
        rotary_key_weight,
        key_weight,
        value_weight,
        query_weight,
        rotary_query_weight,
        heads,
        base,
        pairing,
    )
    check_float_arrays(x=x, out_weight=out_weight)
    check_same_shape("out_weight", out_weight, (len(out_weight), len(value_weight)))
    output: Array = join_heads(attention(*steps[1:], mask=mask)) @ out_weight.T
    return output


def multi_head_latent_backward(
    grad_output: Array,
    x: Array,
    latent_weight: Array,
    rotary_key_weight: Array,
    key_weight: Array,
    value_weight: Array,
    query_weight: Array,
    rotary_query_weight: Array,
    out_weight: Array,
    *,
    heads: int,
    mask: Array | None = None,
    base: float = 10000.0,
    pairing: Pairing = "half",
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
    r"""Carry a gradient from the output of latent attention back to all that it came from.

    The latent gathers what its keys and its values send back, and the one turned key what all heads
    send back:

    .. math:: \bar c_j = \sum_h {W_{UK}^h}^\top \bar k^C_{j,h} + {W_{UV}^h}^\top \bar v_{j,h},
              \qquad \bar k^R_j = \sum_h \bar k^R_{j,h}

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., L, dim).
        x: as in multi_head_latent; so are the others.
        latent_weight: as there.
        rotary_key_weight: as there.
        key_weight: as there.
        value_weight: as there.
        query_weight: as there.
        rotary_query_weight: as there.
        out_weight: as there.
        heads: as there.
        mask: as there.
        base: as there.
        pairing: as there.

    Returns:
        The gradients of x and of the seven matrices, in the order of the arguments.

    Raises:
        TypeError: as multi_head_latent.
        ValueError: as multi_head_latent, or grad_output does not have the shape of the output.

    Source: The chain rule.

    Example:
        >>> x, one, turned = np.ones((1, 2)), np.ones((1, 2)), np.ones((2, 2))
        >>> unfold, out = np.ones((1, 1)), np.ones((2, 1))
        >>> grads = multi_head_latent_backward(
        ...     x, x, one, turned, unfold, unfold, one, turned, out, heads=1
        ... )
        >>> grads[0].tolist(), grads[4].tolist()
        ([[2.0, 2.0]], [[4.0]])
    """
    steps = _compute(
        x,
        latent_weight,
        rotary_key_weight,
        key_weight,
        value_weight,
        query_weight,
        rotary_query_weight,
        heads,
        base,
        pairing,
    )
    check_same_shape("grad_output", grad_output, (*x.shape[:-1], len(out_weight)))
    joined = join_heads(attention(*steps[1:], mask=mask))
    grads = attention_backward(split_heads(grad_output @ out_weight, heads), *steps[1:], mask=mask)

    width = len(query_weight) // heads
    settings = {"base": base, "pairing": pairing}
    turned_query, turned_key = steps.query[..., width:], steps.key[..., width:]
    grad_rotary_query = join_heads(
        rotary_backward(grads.query[..., width:], turned_query, **settings)  # type: ignore[arg-type]
    )
    grad_turned_key = rotary_backward(grads.key[..., width:], turned_key, **settings)  # type: ignore[arg-type]
    grad_rotary_key = grad_turned_key.sum(axis=-3)  # one for all heads
    grad_query = join_heads(grads.query[..., :width])
    grad_key, grad_value = join_heads(grads.key[..., :width]), join_heads(grads.value)
    grad_latent = grad_key @ key_weight + grad_value @ value_weight
    grad_x = (
        grad_latent @ latent_weight
        + grad_rotary_key @ rotary_key_weight
        + grad_query @ query_weight
        + grad_rotary_query @ rotary_query_weight
    )
    return (
        grad_x,
        weight_gradient(grad_latent, x),
        weight_gradient(grad_rotary_key, x),
        weight_gradient(grad_key, steps.latent),
        weight_gradient(grad_value, steps.latent),
        weight_gradient(grad_query, x),
        weight_gradient(grad_rotary_query, x),
        weight_gradient(grad_output, joined),
    )
