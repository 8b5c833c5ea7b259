"""LSH attention in NumPy: exact attention under the mask of the buckets."""

from typing import NamedTuple

import numpy as np

from attn_core.reference.attend import attention, attention_backward
from attn_core.reference.recurrence import gradient_of, real_keys, repeat_heads
from attn_core.reference.shapes import (
    Array,
    check_flags,
    check_float_arrays,
    check_same_shape,
    transpose,
)


class _Inputs(NamedTuple):
    """What LSH attention hands to attention.

    Attributes:
        query: shape (..., Hq, L, D), zeros where there is padding.
        key: the queries divided by their lengths.
        length: the lengths, shape (..., Hq, L, 1); infinite where a query is 0.
        value: shape (..., Hq, L, Dv).
        allowed: which token attends which, shape (..., Hq, L, L).
        group: how many heads share a value.
    """

    query: Array
    key: Array
    length: Array
    value: Array
    allowed: Array
    group: int


def _prepare(
    query: Array,
    value: Array,
    rotations: Array,
    attend_self: bool,
    causal: bool,
    mask: Array | None,
) -> _Inputs:
    check_float_arrays(query=query, value=value, rotations=rotations)
    seen = f"got query {query.shape}, value {value.shape}"
    if query.shape[-2] != value.shape[-2]:
        raise ValueError(f"query, which is key too, and value must be equally many, {seen}")
    heads, value_heads = (array.shape[-3] if array.ndim > 2 else 1 for array in (query, value))
    if 0 in (heads, value_heads) or heads % value_heads:
        raise ValueError(
            f"the heads of query must be a multiple of the heads of value, at least 1, {seen}"
        )
    check_same_shape(
        "rotations", rotations, (rotations.shape[0], query.shape[-1], rotations.shape[-1])
    )
    group = heads // value_heads if value.ndim > 2 else 1
    leading = np.broadcast_shapes(query.shape[:-2], repeat_heads(value, group).shape[:-2])
    real = real_keys(mask, (*leading, query.shape[-2]))

    query = np.where(real, query, np.zeros((), query.dtype))
    length = np.linalg.norm(query, axis=-1, keepdims=True)
    length = np.where(length == 0, np.inf, length).astype(query.dtype)

    allowed = np.zeros((*query.shape[:-1], query.shape[-2]), bool)
    for rotation in rotations:
        rotated = query @ rotation
        both = np.concatenate([rotated, -rotated], axis=-1)
        no_choice = np.zeros(query.shape[:-1], int)
        bucket = both.argmax(axis=-1) if both.shape[-1] else no_choice
        allowed |= bucket[..., :, None] == bucket[..., None, :]
    allowed &= real & transpose(real)
    tokens = query.shape[-2]
    if causal:
        allowed &= np.tri(tokens, dtype=bool)
    if not attend_self:
        itself = np.eye(tokens, dtype=bool)
        alone = ~(allowed & ~itself).any(axis=-1, keepdims=True)
        allowed &= ~itself | alone
    value = np.where(real, repeat_heads(value, group), np.zeros((), value.dtype))
    return _Inputs(query, query / length, length, value, allowed, group)


def lsh(
    query: Array,
    value: Array,
    *,
    rotations: Array,
    attend_self: bool = False,
    causal: bool = False,
    mask: Array | None = None,
    scale: float | None = None,
) -> Array:
    r"""Let each query attend to the keys that share a bucket with it in at least one round.

    .. math::
        m_{ij} = \bigvee_r [\, h_r(q_i) = h_r(q_j) \,], \qquad
        h_r(x) = \arg\max \, [x R_r; -x R_r], \qquad
        k_j = q_j / \lVert q_j \rVert

    Args:
        query: queries, and divided by their lengths the keys, shape (..., Hq, L, D), or (L, D).
        value: values, shape (..., Hkv, L, Dv), or (L, Dv).
        rotations: R, shape (rounds, D, buckets / 2); (rounds, D, 0) is one bucket.
        attend_self: whether a token attends to itself even when it may attend to others.
        causal: whether a token attends to none after it.
        mask: boolean, True = a real token; broadcasts to (..., 1, 1, L).
        scale: factor on the scores; None is 1 / sqrt(D).

    Returns:
        The output, shape (..., Hq, L, Dv).

    Raises:
        TypeError: an array holds no floating-point numbers, dtypes differ, or mask is not boolean.
        ValueError: shapes do not fit; the message names the argument.

    Source: Kitaev et al. 2020, section 2.

    Example:
        >>> tokens = np.array([[2.0, 0.0], [1.0, 0.1], [0.0, 3.0]])
        >>> lsh(tokens, np.eye(3), rotations=np.eye(2)[None]).round(4).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    check_flags(attend_self=attend_self, causal=causal)
    inputs = _prepare(query, value, rotations, attend_self, causal, mask)
    return attention(inputs.query, inputs.key, inputs.value, mask=inputs.allowed, scale=scale)


def lsh_backward(
    grad_output: Array,
    query: Array,
    value: Array,
    *,
    rotations: Array,
    attend_self: bool = False,
    causal: bool = False,
    mask: Array | None = None,
    scale: float | None = None,
) -> tuple[Array, Array]:
    r"""Carry a gradient from the output of LSH attention back to queries and values.

    The buckets do not move. A query counts twice, as query and as key
    :math:`k = q / \lVert q \rVert`:

    .. math:: \bar q_\text{total} = \bar q
              + \frac{\bar k - k \, (k \cdot \bar k)}{\lVert q \rVert}

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., Hq, L, Dv).
        query: as in lsh.
        value: as in lsh.
        rotations: as in lsh; they are not learned.
        attend_self: as in lsh.
        causal: as in lsh.
        mask: as in lsh.
        scale: as in lsh.

    Returns:
        The gradients of query and value, each with the shape of its input.

    Raises:
        TypeError: as lsh.
        ValueError: as lsh, or grad_output does not have the shape of the output.

    Source: The chain rule.

    Example:
        >>> tokens = np.array([[2.0, 0.0], [1.0, 0.1], [0.0, 3.0]])
        >>> lsh_backward(np.eye(3), tokens, np.eye(3), rotations=np.eye(2)[None])[1].tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    check_flags(attend_self=attend_self, causal=causal)
    inputs = _prepare(query, value, rotations, attend_self, causal, mask)
    gradients = attention_backward(
        grad_output, inputs.query, inputs.key, inputs.value, mask=inputs.allowed, scale=scale
    )
    along = (inputs.key * gradients.key).sum(axis=-1, keepdims=True)
    grad_query = gradients.query + (gradients.key - inputs.key * along) / inputs.length
    return gradient_of(grad_query, query, 1), gradient_of(gradients.value, value, inputs.group)
