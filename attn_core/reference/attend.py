"""Attention in three steps, score, normalise, aggregate, and the way back through them."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, overload

import numpy as np

from attn_core.reference.heads import HeadGroups, head_groups
from attn_core.reference.normalizers import (
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
)
from attn_core.reference.one_key import hard, hard_backward
from attn_core.reference.scores import (
    cosine,
    cosine_backward,
    dot,
    dot_backward,
    gaussian,
    gaussian_backward,
    scaled_dot,
    scaled_dot_backward,
)
from attn_core.reference.shapes import (
    Array,
    broadcast_leading,
    check_broadcasts_to,
    check_flags,
    check_float_arrays,
    check_number,
    check_same_shape,
    sum_to_shape,
    transpose,
)
from attn_core.reference.sparse_normalizers import (
    entmax15,
    entmax15_backward,
    sparsemax,
    sparsemax_backward,
)

Score: TypeAlias = Callable[[Array, Array], Array]
ScoreBackward: TypeAlias = Callable[[Array, Array, Array], tuple[Array, Array]]
Normalizer: TypeAlias = Callable[[Array, int], Array]
NormalizerBackward: TypeAlias = Callable[[Array, Array, int], Array]

SCORE_BACKWARD: dict[Score, ScoreBackward] = {
    dot: dot_backward,
    scaled_dot: scaled_dot_backward,
    cosine: cosine_backward,
    gaussian: gaussian_backward,
}
NORMALIZER_BACKWARD: dict[Normalizer, NormalizerBackward] = {
    softmax: softmax_backward,
    sigmoid: sigmoid_backward,
    sparsemax: sparsemax_backward,
    entmax15: entmax15_backward,
    hard: hard_backward,
}


class AttentionOutput(NamedTuple):
    """What attention returns when its weights are asked for.

    Attributes:
        output: shape (..., Hq, L, Dv).
        weights: shape (..., Hq, L, S); each row adds up to 1, or is 0 where all is masked.
    """

    output: Array
    weights: Array


class AttentionGradients(NamedTuple):
    """The gradients of attention's inputs, each with the shape of its input.

    Attributes:
        query: gradient of the queries.
        key: gradient of the keys.
        value: gradient of the values.
        bias: gradient of the bias; None where no bias was given.
    """

    query: Array
    key: Array
    value: Array
    bias: Array | None


class _Inputs(NamedTuple):
    """The arguments of attention, checked, with heads in groups and nothing masked left in."""

    query: Array
    key: Array
    value: Array
    bias: Array | None
    allowed: Array | None
    scale: float
    groups: HeadGroups
    score_shape: tuple[int, ...]


class _Steps(NamedTuple):
    """The intermediate results of attention, in their order."""

    capped: Array
    masked: Array
    weights: Array
    output: Array


def _prepare(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    bias: Array | None,
    score: Score | None,
    normalizer: Normalizer | None,
    scale: float | None,
    softcap: float | None,
) -> _Inputs:
    check_float_arrays(query=query, key=key, value=value)
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"key and value must be equally many, got key {key.shape} and value {value.shape}"
        )
    for name, function in (("score", score), ("normalizer", normalizer)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function, got {function!r}")
    if softcap is not None:
        check_number("softcap", softcap)
        if softcap <= 0:
            raise ValueError(f"softcap must be above 0, got {softcap}")
    if scale is not None:
        check_number("scale", scale)
    elif score is None and query.shape[-1] == 0:
        raise ValueError(f"query must have a width of at least 1, got query {query.shape}")
    if scale is None:
        scale = 1.0 if score is not None else 1 / float(np.sqrt(query.shape[-1]))

    groups = head_groups(query, key, value)
    query, key, value = groups.split(query), groups.split_shared(key), groups.split_shared(value)
    leading = broadcast_leading(query=query, key=key, value=value)
    score_shape = (*leading, query.shape[-2], key.shape[-2])

    allowed: Array | None = None
    if bias is not None:
        check_float_arrays(min_dims=0, query=query, bias=bias)
        check_broadcasts_to("bias", bias, groups.join_shape(score_shape))
        bias = groups.split(bias)
        if np.isneginf(bias).any():
            allowed = bias != -np.inf
    if mask is not None:
        if not isinstance(mask, np.ndarray) or mask.dtype != bool:
            raise TypeError(
                "mask must be a boolean NumPy array, True = may attend, got "
                f"{getattr(mask, 'dtype', type(mask).__name__)}; "
                "numbers to be added to the scores are a bias"
            )
        check_broadcasts_to("mask", mask, groups.join_shape(score_shape))
        mask = groups.split(mask)
        allowed = mask if allowed is None else mask & allowed
    if allowed is not None:
        allowed = np.atleast_2d(allowed)
        # What takes part nowhere becomes 0 here: further down 0 * nan would be nan.
        attends = np.any(allowed, axis=-1, keepdims=True)
        attended = transpose(np.any(allowed, axis=-2, keepdims=True))
        query = np.where(attends, query, np.zeros_like(query))
        key = np.where(attended, key, np.zeros_like(key))
        value = np.where(attended, value, np.zeros_like(value))
    return _Inputs(query, key, value, bias, allowed, scale, groups, score_shape)


def _compute(
    inputs: _Inputs, score: Score | None, normalizer: Normalizer | None, softcap: float | None
) -> _Steps:
    if score is None:  # a factor of the queries is one of the scores, and they are fewer
        scaled = dot(inputs.query * inputs.scale, inputs.key)
    else:
        scores = score(inputs.query, inputs.key)
        check_broadcasts_to("what score returns", scores, inputs.score_shape)
        scaled = scores * inputs.scale
    capped = scaled if softcap is None else softcap * np.tanh(scaled / softcap)
    biased = capped if inputs.bias is None else capped + inputs.bias

    masked = np.broadcast_to(biased, inputs.score_shape)
    if inputs.allowed is not None:
        attends = np.any(inputs.allowed, axis=-1, keepdims=True)
        forbidden = np.where(attends, -np.inf, 0).astype(masked.dtype)
        masked = np.where(inputs.allowed, masked, forbidden)

    weights = (softmax if normalizer is None else normalizer)(masked, -1)
    check_same_shape("what normalizer returns", weights, inputs.score_shape)
    if inputs.allowed is not None and not attends.all():
        weights = np.where(attends, weights, np.zeros_like(weights))

    output = weights @ inputs.value
    return _Steps(capped, masked, weights, output)


def _join(groups: HeadGroups, array: Array) -> Array:
    return array.reshape(groups.join_shape(array.shape))


def _undo_broadcast(gradient: Array, grouped: Array, shape: tuple[int, ...]) -> Array:
    return sum_to_shape(gradient, grouped.shape).reshape(shape)


@overload
def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    score: Score | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_weights: Literal[False] = False,
) -> Array: ...


@overload
def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    score: Score | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_weights: Literal[True],
) -> AttentionOutput: ...


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    score: Score | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_weights: bool = False,
) -> Array | AttentionOutput:
    r"""Give each query the average of the values, weighted by how well their keys match it.

    .. math:: \operatorname{Attention}(Q, K, V)
              = \operatorname{softmax}\Bigl(\frac{Q K^\top}{\sqrt D}\Bigr) V

    The order is that of the ONNX operator: score, scale, softcap, bias, mask, normalise, aggregate.
    A query that may attend to nothing gives zeros. Keys and values that are masked out for every
    query reach nothing, whatever they hold.

    Args:
        query: queries, shape (..., Hq, L, D), or (L, D).
        key: keys, shape (..., Hkv, S, D), or (S, D); Hq is a multiple of Hkv.
        value: values, shape (..., Hkv, S, Dv), or (S, Dv).
        mask: boolean, True = may attend; broadcasts to (..., Hq, L, S).
        bias: numbers added to the scores; broadcasts to (..., Hq, L, S).
        score: function of (query, key) that gives scores; None is the dot product.
        normalizer: function of (scores, dim) that gives weights; None is the softmax.
        scale: factor on the scores; None is 1 / sqrt(D) for the default score and 1 for others.
        softcap: c in c * tanh(scores / c), which keeps scores between -c and c; None is no cap.
        return_weights: whether to return the weights too.

    Returns:
        The output, shape (..., Hq, L, Dv), or AttentionOutput(output, weights).

    Raises:
        TypeError: an array holds no floating-point numbers, dtypes differ, or mask is not boolean.
        ValueError: shapes do not fit; the message names the argument.

    Source: Vaswani et al. 2017, equation 1; D1 section 3.1; D2 section 4.2.

    Example:
        >>> words = np.eye(2)
        >>> attention(words, words, words, scale=1.0).round(4).tolist()
        [[0.7311, 0.2689], [0.2689, 0.7311]]
    """
    check_flags(return_weights=return_weights)
    inputs = _prepare(query, key, value, mask, bias, score, normalizer, scale, softcap)
    steps = _compute(inputs, score, normalizer, softcap)
    output = _join(inputs.groups, steps.output)
    if return_weights:
        return AttentionOutput(output, _join(inputs.groups, steps.weights))
    return output


def attention_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    score: Score | None = None,
    normalizer: Normalizer | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    score_backward: ScoreBackward | None = None,
    normalizer_backward: NormalizerBackward | None = None,
) -> AttentionGradients:
    r"""Carry a gradient from the output of attention back to its inputs.

    For the default score and normaliser, without softcap:

    .. math::
        \bar V &= A^\top \bar O, \qquad \bar A = \bar O V^\top \\
        \bar S &= A \odot (\bar A - \operatorname{rowsum}(A \odot \bar A)) \\
        \bar Q &= \frac{\bar S K}{\sqrt D}, \qquad \bar K = \frac{\bar S^\top Q}{\sqrt D}

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., Hq, L, Dv).
        query: as in attention.
        key: as in attention.
        value: as in attention.
        mask: as in attention.
        bias: as in attention.
        score: as in attention.
        normalizer: as in attention.
        scale: as in attention.
        softcap: as in attention.
        score_backward: function of (grad_scores, query, key) that gives the gradients of query
            and key; needed for a score that is not one of this package's dot, scaled_dot, cosine.
        normalizer_backward: function of (grad_weights, scores, dim) that gives the gradient of
            scores; needed for a normaliser that is not one of this package's.

    Returns:
        The gradients of query, key, value and bias, each with the shape of its input.

    Raises:
        TypeError: as attention.
        ValueError: as attention; or grad_output does not have the shape of the output; or the
            derivative of score or normalizer is not known.

    Source: The math chapter, "the whole backward pass".

    Example:
        >>> words = np.eye(2)
        >>> grads = attention_backward(np.eye(2), words, words, words, scale=1.0)
        >>> grads.value.round(4).tolist()
        [[0.7311, 0.2689], [0.2689, 0.7311]]
        >>> grads.query.round(4).tolist()
        [[0.1966, -0.1966], [-0.1966, 0.1966]]
    """
    inputs = _prepare(query, key, value, mask, bias, score, normalizer, scale, softcap)
    score_backward = score_backward or SCORE_BACKWARD.get(score or dot)
    if score_backward is None:
        raise ValueError("score_backward is needed: the derivative of this score is not known")
    normalizer_backward = normalizer_backward or NORMALIZER_BACKWARD.get(normalizer or softmax)
    if normalizer_backward is None:
        raise ValueError(
            "normalizer_backward is needed: the derivative of this normalizer is not known"
        )
    steps = _compute(inputs, score, normalizer, softcap)
    groups = inputs.groups
    check_same_shape("grad_output", grad_output, groups.join_shape(steps.output.shape))
    grad_output = groups.split(grad_output)

    grad_value = transpose(steps.weights) @ grad_output
    grad_weights = grad_output @ transpose(inputs.value)
    grad_biased = normalizer_backward(grad_weights, steps.masked, -1)
    if inputs.allowed is not None:
        grad_biased = np.where(inputs.allowed, grad_biased, np.zeros_like(grad_biased))
    grad_capped = sum_to_shape(grad_biased, steps.capped.shape)
    slope = 1 if softcap is None else 1 - (steps.capped / softcap) ** 2
    grad_scores = grad_capped * slope * inputs.scale
    grad_query, grad_key = score_backward(grad_scores, inputs.query, inputs.key)

    return AttentionGradients(
        _undo_broadcast(grad_query, groups.split(query), query.shape),
        _undo_broadcast(grad_key, groups.split_shared(key), key.shape),
        _undo_broadcast(grad_value, groups.split_shared(value), value.shape),
        None if bias is None else _undo_broadcast(grad_biased, groups.split(bias), bias.shape),
    )
