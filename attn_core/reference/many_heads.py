"""Multi-head attention with its projections, and the same a token at a time with a cache."""

from typing import Literal, NamedTuple, overload

import numpy as np

from attn_core.reference.attend import (
    AttentionOutput,
    Normalizer,
    NormalizerBackward,
    attention,
    attention_backward,
)
from attn_core.reference.position_wise import rms_norm, rms_norm_backward
from attn_core.reference.shapes import Array, check_flags, check_float_arrays, check_same_shape


class MultiHeadGradients(NamedTuple):
    """What multi_head_backward gives: for each array of multi_head its gradient.

    Attributes:
        query: shape of query, and so are the others.
        key: gradient of key.
        value: gradient of value.
        query_weight: gradient of W_Q.
        key_weight: gradient of W_K.
        value_weight: gradient of W_V.
        out_weight: gradient of W_O.
        query_norm: gradient of the weight of the norm of the queries; None without one.
        key_norm: the same for the keys.

    Example:
        >>> one = np.ones((1, 1))
        >>> multi_head_backward(one, *[one] * 7, heads=1).out_weight.tolist()
        [[1.0]]
    """

    query: Array
    key: Array
    value: Array
    query_weight: Array
    key_weight: Array
    value_weight: Array
    out_weight: Array
    query_norm: Array | None
    key_norm: Array | None


def split_heads(x: Array, heads: int) -> Array:
    """Turn (..., L, H × D) into (..., H, L, D): columns go to heads, and heads to the front."""
    return np.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -3, -2)


def join_heads(x: Array) -> Array:
    """Turn (..., H, L, D) into (..., L, H × D): the way back, in the opposite order."""
    side_by_side = np.swapaxes(x, -3, -2)
    return side_by_side.reshape(*side_by_side.shape[:-2], -1)


def check_heads(name: str, heads: object) -> None:
    """Raise an error that names the argument unless it is a number of heads."""
    if not isinstance(heads, int) or isinstance(heads, bool):
        raise TypeError(f"{name} must be an integer, got {heads!r}")
    if heads < 1:
        raise ValueError(f"{name} must be at least 1, got {heads}")


def check_projection(name: str, weight: Array, x: Array, heads: int) -> None:
    """Raise an error that names the matrix unless it projects these vectors to so many heads."""
    check_float_arrays(min_dims=2, **{"its input": x, name: weight})
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1] or weight.shape[0] % heads:
        raise ValueError(
            f"{name} must have shape (a multiple of {heads}, {x.shape[-1]}), got {weight.shape}"
        )


def weight_gradient(grad_projected: Array, x: Array) -> Array:
    """The gradient of W in x Wᵀ: rows of all batch entries added up."""
    grad_rows = grad_projected.reshape(-1, grad_projected.shape[-1])
    gradient: Array = grad_rows.T @ x.reshape(-1, x.shape[-1])
    return gradient


def _check(
    inputs: tuple[Array, Array, Array],
    weights: tuple[Array, Array, Array],
    out_weight: Array,
    heads: int,
    kv_heads: int,
) -> None:
    check_heads("heads", heads)
    check_heads("kv_heads", kv_heads)
    if heads % kv_heads:
        raise ValueError(f"heads must be a multiple of kv_heads, got {heads} and {kv_heads}")
    names = ("query_weight", "key_weight", "value_weight")
    for name, weight, x, count in zip(
        names, weights, inputs, (heads, kv_heads, kv_heads), strict=True
    ):
        check_projection(name, weight, x, count)
    check_float_arrays(query=inputs[0], out_weight=out_weight)
    check_same_shape(
        "out_weight", out_weight, (len(out_weight), heads * (len(weights[2]) // kv_heads))
    )


@overload
def multi_head(
    query: Array,
    key: Array,
    value: Array,
    query_weight: Array,
    key_weight: Array,
    value_weight: Array,
    out_weight: Array,
    *,
    heads: int,
    kv_heads: int | None = None,
    mask: Array | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    query_norm: Array | None = None,
    key_norm: Array | None = None,
    eps: float = 1e-6,
    return_weights: Literal[False] = False,
) -> Array: ...


@overload
def multi_head(
    query: Array,
    key: Array,
    value: Array,
    query_weight: Array,
    key_weight: Array,
    value_weight: Array,
    out_weight: Array,
    *,
    heads: int,
    kv_heads: int | None = None,
    mask: Array | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    query_norm: Array | None = None,
    key_norm: Array | None = None,
    eps: float = 1e-6,
    return_weights: Literal[True],
) -> AttentionOutput: ...


def multi_head(
    query: Array,
    key: Array,
    value: Array,
    query_weight: Array,
    key_weight: Array,
    value_weight: Array,
    out_weight: Array,
    *,
    heads: int,
    kv_heads: int | None = None,
    mask: Array | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    query_norm: Array | None = None,
    key_norm: Array | None = None,
    eps: float = 1e-6,
    return_weights: bool = False,
) -> Array | AttentionOutput:
    r"""Attend several times side by side, each head with projections of its own.

    .. math:: \operatorname{MultiHead}(Q, K, V) = [H_1; \dots; H_h] \, W_O^\top, \qquad
              H_m = \operatorname{Attention}(Q W_Q^{m\top}, K W_K^{m\top}, V W_V^{m\top})

    The rows of each matrix are those of the first head, then those of the second, and so on, as
    ``torch.nn.Linear`` stores them. A norm of queries or keys is rms_norm of each head's vectors.

    Args:
        query: what asks, shape (..., L, dim).
        key: what is compared, shape (..., S, key_dim).
        value: what is handed out, shape (..., S, value_dim).
        query_weight: W_Q, shape (Hq × D, dim).
        key_weight: W_K, shape (Hkv × D, key_dim).
        value_weight: W_V, shape (Hkv × Dv, value_dim).
        out_weight: W_O, shape (dim, Hq × Dv).
        heads: Hq, the number of query heads.
        kv_heads: Hkv, the number of key-value heads, a divisor of heads; by default heads.
        mask: boolean, True = may attend; broadcasts to (..., Hq, L, S).
        normalizer: as in attention; so are the next two.
        scale: as there.
        softcap: as there.
        query_norm: weight of the norm of the queries, shape (D,); None for no norm.
        key_norm: the same for the keys.
        eps: as in rms_norm.
        return_weights: whether to return the weights (..., Hq, L, S) too.

    Returns:
        The output, shape (..., L, dim), or AttentionOutput(output, weights).

    Raises:
        TypeError: an array holds no floating-point numbers, or heads is no integer.
        ValueError: shapes do not fit, or heads is no multiple of kv_heads.

    Source: Vaswani et al. 2017, section 3.2.2; Ainslie et al. 2023.

    Example:
        >>> x, identity = np.array([[4.0, 0.0], [0.0, 4.0]]), np.eye(2)
        >>> multi_head(x, x, x, *[identity] * 4, heads=2).round(2).tolist()
        [[4.0, 2.0], [2.0, 4.0]]
    """
    check_flags(return_weights=return_weights)
    kv_heads = heads if kv_heads is None else kv_heads
    weights = (query_weight, key_weight, value_weight)
    _check((query, key, value), weights, out_weight, heads, kv_heads)
    output, attended = attention(
        _normed(split_heads(query @ query_weight.T, heads), query_norm, eps),
        _normed(split_heads(key @ key_weight.T, kv_heads), key_norm, eps),
        split_heads(value @ value_weight.T, kv_heads),
        mask=mask,
        normalizer=normalizer,
        scale=scale,
        softcap=softcap,
        return_weights=True,
    )
    projected = join_heads(output) @ out_weight.T
    return AttentionOutput(projected, attended) if return_weights else projected


def multi_head_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    query_weight: Array,
    key_weight: Array,
    value_weight: Array,
    out_weight: Array,
    *,
    heads: int,
    kv_heads: int | None = None,
    mask: Array | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    query_norm: Array | None = None,
    key_norm: Array | None = None,
    eps: float = 1e-6,
    normalizer_backward: NormalizerBackward | None = None,
) -> MultiHeadGradients:
    r"""Carry a gradient from the output of multi-head attention back to all that it came from.

    Every projection :math:`Y = X W^\top` gives :math:`\bar X = \bar Y W` and
    :math:`\bar W = \bar Y^\top X`; between them stands the way back through attention.

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., L, dim).
        query: as in multi_head; so are the others.
        key: as there.
        value: as there.
        query_weight: as there.
        key_weight: as there.
        value_weight: as there.
        out_weight: as there.
        heads: as there.
        kv_heads: as there.
        mask: as there.
        normalizer: as there.
        scale: as there.
        softcap: as there.
        query_norm: as there.
        key_norm: as there.
        eps: as there.
        normalizer_backward: as in attention_backward.

    Returns:
        MultiHeadGradients.

    Raises:
        TypeError: as multi_head.
        ValueError: as multi_head, or grad_output does not have the shape of the output.

    Source: The chain rule.

    Example:
        >>> one = np.ones((1, 1))
        >>> grads = multi_head_backward(one, one, one, one, one, one, 2 * one, 3 * one, heads=1)
        >>> [float(grad[0, 0]) for grad in grads[:7]]
        [0.0, 0.0, 6.0, 0.0, 0.0, 3.0, 2.0]
    """
    kv_heads = heads if kv_heads is None else kv_heads
    weights = (query_weight, key_weight, value_weight)
    _check((query, key, value), weights, out_weight, heads, kv_heads)
    check_same_shape("grad_output", grad_output, (*query.shape[:-1], len(out_weight)))

    queries = split_heads(query @ query_weight.T, heads)
    keys = split_heads(key @ key_weight.T, kv_heads)
    given = (
        _normed(queries, query_norm, eps),
        _normed(keys, key_norm, eps),
        split_heads(value @ value_weight.T, kv_heads),
    )
    steps = {"mask": mask, "normalizer": normalizer, "scale": scale, "softcap": softcap}
    joined = join_heads(attention(*given, **steps))  # type: ignore[call-overload]
    grad_heads = attention_backward(
        split_heads(grad_output @ out_weight, heads),
        *given,
        **steps,  # type: ignore[arg-type]
        normalizer_backward=normalizer_backward,
    )
    grad_queries, grad_query_norm = _normed_backward(grad_heads.query, queries, query_norm, eps)
    grad_keys, grad_key_norm = _normed_backward(grad_heads.key, keys, key_norm, eps)
    grad_query, grad_key, grad_value = (
        join_heads(gradient) for gradient in (grad_queries, grad_keys, grad_heads.value)
    )
    return MultiHeadGradients(
        grad_query @ query_weight,
        grad_key @ key_weight,
        grad_value @ value_weight,
        weight_gradient(grad_query, query),
        weight_gradient(grad_key, key),
        weight_gradient(grad_value, value),
        weight_gradient(grad_output, joined),
        grad_query_norm,
        grad_key_norm,
    )


def _normed(x: Array, weight: Array | None, eps: float) -> Array:
    return x if weight is None else rms_norm(x, weight, eps)


def _normed_backward(
    grad_normed: Array, x: Array, weight: Array | None, eps: float
) -> tuple[Array, Array | None]:
    return (grad_normed, None) if weight is None else rms_norm_backward(grad_normed, x, weight, eps)


def multi_head_decoding(
    x: Array,
    query_weight: Array,
    key_weight: Array,
    value_weight: Array,
    out_weight: Array,
    *,
    heads: int,
    kv_heads: int | None = None,
) -> Array:
    r"""Compute causal multi-head attention a token at a time, with a cache of keys and values.

    .. math:: y_t = \operatorname{MultiHead}(x_t, K_{\le t}, V_{\le t}), \qquad
              K_{\le t} = [K_{<t}; k_t], \qquad V_{\le t} = [V_{<t}; v_t]

    Nothing that comes later changes what an earlier token gave, so its key and value are computed
    once and kept. No mask is needed: the future is not in the cache yet.

    Args:
        x: the tokens, shape (L, dim).
        query_weight: as in multi_head.
        key_weight: as in multi_head.
        value_weight: as in multi_head.
        out_weight: as in multi_head.
        heads: as in multi_head.
        kv_heads: as in multi_head.

    Returns:
        The outputs, shape (L, dim): those of multi_head with the mask causal(L, L).

    Raises:
        TypeError: as multi_head.
        ValueError: as multi_head, or x is no matrix.

    Source: Shazeer 2019, section 2.4.

    Example:
        >>> x, identity = np.array([[4.0, 0.0], [0.0, 4.0]]), np.eye(2)
        >>> multi_head_decoding(x, *[identity] * 4, heads=2).round(2).tolist()
        [[4.0, 0.0], [2.0, 4.0]]
    """
    kv_heads = heads if kv_heads is None else kv_heads
    _check((x, x, x), (query_weight, key_weight, value_weight), out_weight, heads, kv_heads)
    check_same_shape("x", x, x.shape[-2:])
    keys: list[Array] = []  # the cache
    values: list[Array] = []
    outputs = np.empty((len(x), len(out_weight)), dtype=x.dtype)
    for t, token in enumerate(x):
        keys.append((key_weight @ token).reshape(kv_heads, -1))
        values.append((value_weight @ token).reshape(kv_heads, -1))
        query = (query_weight @ token).reshape(heads, 1, -1)
        output = attention(query, np.stack(keys, axis=1), np.stack(values, axis=1))
        outputs[t] = out_weight @ output.reshape(-1)
    return outputs
