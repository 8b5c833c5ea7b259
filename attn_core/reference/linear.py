"""Linear attention in NumPy: two sums that are carried along the sequence."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, overload

import numpy as np

from attn_core.reference.recurrence import (
    Inputs,
    RecurrentOutput,
    gradient_of,
    prepare,
    read,
    times,
    write,
)
from attn_core.reference.shapes import (
    Array,
    check_flags,
    check_float_arrays,
    check_same_shape,
    sum_to_shape,
    transpose,
)

FeatureMap: TypeAlias = Callable[[Array], Array]
FeatureMapBackward: TypeAlias = Callable[[Array, Array], Array]


class LinearGradients(NamedTuple):
    """The gradients of linear attention's inputs, each with the shape of its input.

    Attributes:
        query: gradient of the queries.
        key: gradient of the keys.
        value: gradient of the values.
        past_state: gradient of the past state; None where none was given.
    """

    query: Array
    key: Array
    value: Array
    past_state: Array | None


def elu_plus_one(x: Array) -> Array:
    r"""Turn a vector into positive features, one for each of its entries.

    .. math:: \phi(x) = \begin{cases} x + 1 & x > 0 \\ e^x & x \le 0 \end{cases}

    Args:
        x: array of any shape.

    Returns:
        Features above 0, same shape.

    Raises:
        TypeError: x is no floating-point array.

    Source: Katharopoulos et al. 2020, section 3.2.1.

    Example:
        >>> elu_plus_one(np.array([-1.0, 0.0, 2.0])).round(4).tolist()
        [0.3679, 1.0, 3.0]
    """
    check_float_arrays(min_dims=0, x=x)
    return np.maximum(x, 0) + np.exp(np.minimum(x, 0))


def elu_plus_one_backward(grad_features: Array, x: Array) -> Array:
    r"""Carry a gradient from the features of elu + 1 back to the vector.

    .. math:: \bar x = \bar\phi \odot \begin{cases} 1 & x > 0 \\ e^x & x \le 0 \end{cases}

    Args:
        grad_features: gradient of the loss with respect to the features, shape of x.
        x: array of any shape.

    Returns:
        The gradient of x, same shape.

    Raises:
        TypeError: x is no floating-point array.
        ValueError: grad_features does not have the shape of x.

    Source: The chain rule.

    Example:
        >>> elu_plus_one_backward(np.ones(2), np.array([-1.0, 2.0])).round(4).tolist()
        [0.3679, 1.0]
    """
    check_float_arrays(min_dims=0, x=x)
    check_same_shape("grad_features", grad_features, x.shape)
    gradient: Array = grad_features * np.exp(np.minimum(x, 0))
    return gradient


class _Sums(NamedTuple):
    """The arguments of linear attention, checked, and what it adds up.

    Attributes:
        inputs: query, key and value.
        query_features: shape (..., Hq, L, F).
        key_features: shape (..., Hq, S, F), zeros where there is padding.
        extended: the values with a 1 beside them, shape (..., Hq, S, Dv + 1).
        states: the memory after each token, shape (..., Hq, F, Dv + 1) each; only the last where
            all queries read that one.
        sums: what the queries find, shape (..., Hq, L, Dv + 1).
    """

    inputs: Inputs
    query_features: Array
    key_features: Array
    extended: Array
    states: list[Array]
    sums: Array


def _add_up(
    query: Array,
    key: Array,
    value: Array,
    feature_map: FeatureMap,
    causal: bool,
    mask: Array | None,
    past_state: Array | None,
) -> _Sums:
    inputs = prepare(query, key, value, mask)
    if not callable(feature_map):
        raise TypeError(f"feature_map must be a function, got {feature_map!r}")
    if causal and query.shape[-2] != key.shape[-2]:
        raise ValueError(
            "causal linear attention needs as many queries as keys, got query "
            f"{query.shape}, key {key.shape}"
        )
    query_features, key_features = feature_map(inputs.query), feature_map(inputs.key)
    width = np.shape(query_features)[-1]
    for name, features, x in (
        ("feature_map of query", query_features, inputs.query),
        ("feature_map of key", key_features, inputs.key),
    ):
        check_same_shape(name, features, (*x.shape[:-1], width))
    key_features = np.where(inputs.real, key_features, np.zeros((), key.dtype))
    # A value of 1 beside the others gathers the sum that they are divided by.
    extended = np.concatenate([inputs.value, np.ones_like(inputs.value[..., :1])], axis=-1)

    state = inputs.first_state(past_state, width, extended.shape[-1])
    if not causal:
        state = state + transpose(key_features) @ extended
        return _Sums(
            inputs, query_features, key_features, extended, [state], query_features @ state
        )
    leading = np.broadcast_shapes(inputs.query.shape[:-2], state.shape[:-2])
    sums = np.zeros((*leading, query.shape[-2], extended.shape[-1]), query.dtype)
    states = [state]
    for t in range(key.shape[-2]):
        states.append(states[t] + write(key_features[..., t, :], extended[..., t, :]))
        sums[..., t, :] = read(states[-1], query_features[..., t, :])
    return _Sums(inputs, query_features, key_features, extended, states, sums)


def _divide(sums: Array) -> tuple[Array, Array]:
    """Return the weighted averages, and what they were divided by; zeros where that is 0."""
    weighted, total = sums[..., :-1], sums[..., -1:]
    nothing = total == 0
    average = np.where(nothing, 0, weighted / np.where(nothing, 1, total)).astype(sums.dtype)
    return average, np.where(nothing, np.inf, total)


@overload
def linear_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    feature_map: FeatureMap = ...,
    causal: bool = ...,
    mask: Array | None = ...,
    past_state: Array | None = ...,
    return_state: Literal[False] = ...,
) -> Array: ...


@overload
def linear_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    feature_map: FeatureMap = ...,
    causal: bool = ...,
    mask: Array | None = ...,
    past_state: Array | None = ...,
    return_state: Literal[True],
) -> RecurrentOutput: ...


def linear_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    feature_map: FeatureMap = elu_plus_one,
    causal: bool = False,
    mask: Array | None = None,
    past_state: Array | None = None,
    return_state: bool = False,
) -> Array | RecurrentOutput:
    r"""Attend with weights that are products of features, by way of two sums over the keys.

    .. math::
        S_t = S_{t-1} + \phi(k_t) \, v_t^\top, \qquad z_t = z_{t-1} + \phi(k_t), \qquad
        o_t = \frac{S_t^\top \phi(q_t)}{z_t \cdot \phi(q_t)}

    Without causal every query reads the last sums. Both sums are one memory here, with a 1 beside
    each value.

    Args:
        query: queries, shape (..., Hq, L, D), or (L, D).
        key: keys, shape (..., Hkv, S, D), or (S, D); Hq is a multiple of Hkv.
        value: values, shape (..., Hkv, S, Dv), or (S, Dv).
        feature_map: function that turns (..., D) into (..., F).
        causal: whether query i attends to keys 0 to i only; L must be S.
        mask: boolean, True = a real key; broadcasts to (..., 1, 1, S).
        past_state: the memory before the first token, shape (..., Hkv, F, Dv + 1); None is zeros.
        return_state: whether to return the memory after the last token too.

    Returns:
        The output, shape (..., Hq, L, Dv), or RecurrentOutput(output, state).

    Raises:
        TypeError: an array holds no floating-point numbers, dtypes differ, or mask is not boolean.
        ValueError: shapes do not fit; the message names the argument.

    Source: Katharopoulos et al. 2020, sections 3.2 and 3.4.

    Example:
        >>> x = np.eye(2)
        >>> linear_attention(x, x, x, causal=True).round(4).tolist()
        [[1.0, 0.0], [0.4444, 0.5556]]
    """
    check_flags(causal=causal, return_state=return_state)
    steps = _add_up(query, key, value, feature_map, causal, mask, past_state)
    output, _ = _divide(steps.sums)
    if not return_state:
        return output
    return RecurrentOutput(output, steps.inputs.once_each(steps.states[-1]))


def linear_attention_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    *,
    feature_map: FeatureMap = elu_plus_one,
    causal: bool = False,
    mask: Array | None = None,
    past_state: Array | None = None,
    feature_map_backward: FeatureMapBackward | None = None,
) -> LinearGradients:
    r"""Carry a gradient from the output of linear attention back to its inputs.

    With :math:`S_t` for both sums, a 1 beside each value, and :math:`n_t = z_t \cdot \phi(q_t)`:

    .. math::
        \bar s_t &= [\, \bar o_t \,;\, -\bar o_t \cdot o_t \,] \,/\, n_t, \qquad
        \bar\phi(q_t) = S_t \, \bar s_t \\
        \bar S &\leftarrow \bar S + \phi(q_t) \, \bar s_t^\top, \qquad
        \bar\phi(k_t) = \bar S \, [v_t; 1], \qquad
        \bar v_t = \bar S^\top \phi(k_t)

    from the last token to the first.

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., Hq, L, Dv).
        query: as in linear_attention.
        key: as in linear_attention.
        value: as in linear_attention.
        feature_map: as in linear_attention.
        causal: as in linear_attention.
        mask: as in linear_attention.
        past_state: as in linear_attention.
        feature_map_backward: function of (grad_features, x) that gives the gradient of x; needed
            for a feature map other than elu_plus_one.

    Returns:
        The gradients of query, key, value and past_state, each with the shape of its input, and
        None if there was no past_state.

    Raises:
        TypeError: as linear_attention.
        ValueError: as linear_attention; or grad_output does not have the shape of the output; or
            the derivative of the feature map is not known.

    Source: Katharopoulos et al. 2020, section 3.3.1, and the quotient rule.

    Example:
        >>> x = np.eye(2)
        >>> linear_attention_backward(np.eye(2), x, x, x).value.round(4).tolist()
        [[0.5556, 0.4444], [0.4444, 0.5556]]
    """
    check_flags(causal=causal)
    if feature_map_backward is None:
        if feature_map is not elu_plus_one:
            raise ValueError(
                "feature_map_backward is needed: the derivative of this feature_map is not known"
            )
        feature_map_backward = elu_plus_one_backward
    steps = _add_up(query, key, value, feature_map, causal, mask, past_state)
    output, total = _divide(steps.sums)
    check_same_shape("grad_output", grad_output, output.shape)
    grad_total = -(grad_output * output).sum(axis=-1, keepdims=True)
    grad_sums = np.concatenate([grad_output, grad_total], axis=-1) / total

    inputs, leading = steps.inputs, output.shape[:-2]
    if causal:
        length, width = steps.key_features.shape[-2:]
        grad_query_features = np.zeros((*leading, length, width), query.dtype)
        grad_key_features = np.zeros_like(grad_query_features)
        grad_extended = np.zeros((*leading, length, grad_sums.shape[-1]), query.dtype)
        grad_state = np.zeros((*leading, width, grad_sums.shape[-1]), query.dtype)
        for t in reversed(range(length)):
            grad_query_features[..., t, :] = times(steps.states[t + 1], grad_sums[..., t, :])
            grad_state = grad_state + write(steps.query_features[..., t, :], grad_sums[..., t, :])
            grad_key_features[..., t, :] = times(grad_state, steps.extended[..., t, :])
            grad_extended[..., t, :] = read(grad_state, steps.key_features[..., t, :])
    else:
        grad_query_features = grad_sums @ transpose(steps.states[0])
        grad_state = transpose(steps.query_features) @ grad_sums
        grad_key_features = steps.extended @ transpose(grad_state)
        grad_extended = steps.key_features @ grad_state

    zero = np.zeros((), key.dtype)
    grad_query_features = sum_to_shape(grad_query_features, steps.query_features.shape)
    grad_key_features = sum_to_shape(
        np.where(inputs.real, grad_key_features, zero), steps.key_features.shape
    )
    grad_key = np.where(inputs.real, feature_map_backward(grad_key_features, inputs.key), zero)
    grad_value = np.where(inputs.real, grad_extended[..., :-1], zero)
    return LinearGradients(
        gradient_of(feature_map_backward(grad_query_features, inputs.query), query, 1),
        gradient_of(grad_key, key, inputs.group),
        gradient_of(grad_value, value, inputs.group),
        None if past_state is None else gradient_of(grad_state, past_state, inputs.group),
    )
