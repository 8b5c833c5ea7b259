"""Luong's local attention: a window that goes with the query, or where the query predicts."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attn_core.reference.attend import AttentionOutput, attention, attention_backward
from attn_core.reference.masks import padding
from attn_core.reference.masks import window as window_mask
from attn_core.reference.normalizers import softmax, softmax_backward
from attn_core.reference.scores import dot
from attn_core.reference.shapes import (
    Array,
    check_flags,
    check_float_arrays,
    check_same_shape,
    transpose,
)


def _check(query: Array, key: Array, value: Array, window: object, least: int) -> None:
    check_float_arrays(query=query, key=key, value=value)
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim != 3 or len(array) != len(query):
            raise ValueError(
                f"{name} must be (batch, length, width) with the batch of query {query.shape}, "
                f"got {array.shape}"
            )
    check_same_shape("key", key, (*key.shape[:2], query.shape[-1]))
    check_same_shape("value", value, (*key.shape[:2], value.shape[-1]))
    if not isinstance(window, int) or isinstance(window, bool):
        raise TypeError(f"window must be an integer, got {window!r}")
    if window < least:
        raise ValueError(f"window must be at least {least}, got {window}")


def _real_keys(lengths: npt.ArrayLike | None, key: Array) -> tuple[Array, Array]:
    """Which keys are real, shape (B, 1, S), and how many, shape (B, 1)."""
    batch, k_len = key.shape[:2]
    counted = np.full(batch, k_len) if lengths is None else np.asarray(lengths)
    check_same_shape("lengths", counted, (batch,))
    return padding(counted, k_len)[:, 0], counted[:, None]


def local_m(
    query: Array,
    key: Array,
    value: Array,
    *,
    window: int,
    lengths: npt.ArrayLike | None = None,
    q_offset: int | npt.ArrayLike = 0,
    return_weights: bool = False,
) -> Array | AttentionOutput:
    r"""Look around the key that stands where the query stands: Luong's *local-m*.

    .. math::
        p_t &= t \\
        a_t(s) &= \operatorname{softmax}_{|s - p_t| \le D} (q_t \cdot k_s) \\
        c_t &= \sum_s a_t(s) \, v_s

    Args:
        query: queries, shape (B, L, W).
        key: keys, shape (B, S, W).
        value: values, shape (B, S, Dv).
        window: D, how many keys on each side of :math:`p_t`.
        lengths: how many keys of each batch entry are real, shape (B,); by default S.
        q_offset: position t of the first query; an integer, or one per batch entry, shape (B,).
        return_weights: whether to return the weights (B, L, S) too.

    Returns:
        The output, shape (B, L, Dv), or AttentionOutput(output, weights); zeros for a query whose
        window holds no real key.

    Raises:
        TypeError: an array holds no floating-point numbers, or window is no integer.
        ValueError: shapes do not fit, or window is negative.

    Source: Luong et al. 2015, section 3.2, "monotonic alignment".

    Example:
        >>> query, key, value = np.zeros((1, 3, 1)), np.zeros((1, 3, 1)), np.eye(3)[None]
        >>> local_m(query, key, value, window=1)[0].round(2).tolist()
        [[0.5, 0.5, 0.0], [0.33, 0.33, 0.33], [0.0, 0.5, 0.5]]
    """
    check_flags(return_weights=return_weights)
    mask = _monotonic_mask(query, key, value, window, lengths, q_offset)
    output, weights = attention(query, key, value, score=dot, mask=mask, return_weights=True)
    return AttentionOutput(output, weights) if return_weights else output


def local_m_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    *,
    window: int,
    lengths: npt.ArrayLike | None = None,
    q_offset: int | npt.ArrayLike = 0,
) -> tuple[Array, Array, Array]:
    r"""Carry a gradient from the output of local-m back: attention's own way, inside the window.

    .. math::
        \bar a_t(s) &= \bar c_t \cdot v_s \\
        \bar s_t(s) &= a_t(s) \Big( \bar a_t(s) - \sum_r a_t(r) \bar a_t(r) \Big)

    Args:
        grad_output: gradient of the loss with respect to the output, shape (B, L, Dv).
        query: as in local_m.
        key: as in local_m.
        value: as in local_m.
        window: as in local_m.
        lengths: as in local_m.
        q_offset: as in local_m.

    Returns:
        The gradients of query, key and value.

    Raises:
        TypeError: as local_m.
        ValueError: as local_m, or grad_output does not have the shape of the output.

    Source: The chain rule.

    Example:
        >>> query, key, value = np.zeros((1, 3, 1)), np.zeros((1, 3, 1)), np.eye(3)[None]
        >>> local_m_backward(np.ones((1, 3, 3)), query, key, value, window=0)[2][0].tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    mask = _monotonic_mask(query, key, value, window, lengths, q_offset)
    grads = attention_backward(grad_output, query, key, value, score=dot, mask=mask)
    return grads.query, grads.key, grads.value


def _monotonic_mask(
    query: Array,
    key: Array,
    value: Array,
    window: int,
    lengths: npt.ArrayLike | None,
    q_offset: int | npt.ArrayLike,
) -> Array:
    _check(query, key, value, window, least=0)
    near = window_mask(window, window, query.shape[1], key.shape[1], q_offset)
    near = near[:, 0] if near.ndim == 4 else near
    mask: Array = near & _real_keys(lengths, key)[0]
    return mask


class _Predicted(NamedTuple):
    """The steps of local-p in their order."""

    hidden: Array
    share: Array
    distance: Array
    masked: Array
    align: Array
    gaussian: Array


def _predict(
    query: Array,
    key: Array,
    value: Array,
    hidden_weight: Array,
    position_vector: Array,
    window: int,
    lengths: npt.ArrayLike | None,
) -> _Predicted:
    _check(query, key, value, window, least=1)
    check_float_arrays(query=query, hidden_weight=hidden_weight)
    check_float_arrays(min_dims=1, query=query, position_vector=position_vector)
    check_same_shape("hidden_weight", hidden_weight, (len(hidden_weight), query.shape[-1]))
    check_same_shape("position_vector", position_vector, (len(hidden_weight),))
    real, count = _real_keys(lengths, key)

    hidden = np.tanh(query @ hidden_weight.T)
    share = 1 / (1 + np.exp(-(hidden @ position_vector)))
    center = count * share
    distance = np.arange(key.shape[1]) - center[..., None]
    inside = (np.abs(distance) <= window) & real
    # What is masked may hold anything, NaN too, and never takes part.
    scores = query @ transpose(np.where(transpose(real), key, 0))
    masked = np.where(inside, scores, -np.inf)
    sigma = window / 2
    gaussian = np.exp(-(distance**2) / (2 * sigma**2))
    return _Predicted(hidden, share, distance, masked, softmax(masked), gaussian)


def local_p(
    query: Array,
    key: Array,
    value: Array,
    hidden_weight: Array,
    position_vector: Array,
    *,
    window: int,
    lengths: npt.ArrayLike | None = None,
    return_weights: bool = False,
) -> Array | AttentionOutput:
    r"""Look around a place that the query predicts: Luong's *local-p*.

    .. math::
        p_t &= S \cdot \sigma\big(v_p \cdot \tanh(W_p q_t)\big) \\
        a_t(s) &= \operatorname{softmax}_{|s - p_t| \le D} (q_t \cdot k_s)
        \, e^{-(s - p_t)^2 / 2 \sigma^2}, \qquad \sigma = D / 2 \\
        c_t &= \sum_s a_t(s) \, v_s

    Args:
        query: queries, shape (B, L, W).
        key: keys, shape (B, S, W).
        value: values, shape (B, S, Dv).
        hidden_weight: W_p, shape (H, W).
        position_vector: v_p, shape (H,).
        window: D, how many keys on each side of :math:`p_t`, at least 1.
        lengths: how many keys of each batch entry are real, shape (B,); by default S.
        return_weights: whether to return the weights (B, L, S) too.

    Returns:
        The output, shape (B, L, Dv), or AttentionOutput(output, weights).

    Raises:
        TypeError: an array holds no floating-point numbers, or window is no integer.
        ValueError: shapes do not fit, or window is below 1.

    Source: Luong et al. 2015, section 3.2, equations 9 and 10.

    Example:
        >>> query, key, value = np.zeros((1, 1, 1)), np.zeros((1, 6, 1)), np.eye(6)[None]
        >>> local_p(query, key, value, np.ones((1, 1)), np.ones(1), window=2)[0].round(4).tolist()
        [[0.0, 0.0271, 0.1213, 0.2, 0.1213, 0.0271]]
    """
    check_flags(return_weights=return_weights)
    steps = _predict(query, key, value, hidden_weight, position_vector, window, lengths)
    weights = steps.align * steps.gaussian
    output = weights @ np.where(transpose(_real_keys(lengths, key)[0]), value, 0)
    return AttentionOutput(output, weights) if return_weights else output


def local_p_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    hidden_weight: Array,
    position_vector: Array,
    *,
    window: int,
    lengths: npt.ArrayLike | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    r"""Carry a gradient from the output of local-p back to its inputs and its two parameters.

    The Gaussian :math:`g` is all that teaches :math:`p_t`; where the window ends has no gradient.

    .. math::
        \bar p_t &= \sum_s \bar a_t(s) \, a_t(s) \, \frac{s - p_t}{\sigma^2} \\
        \bar z_t &= \bar p_t \, S \, \sigma(z_t) \big(1 - \sigma(z_t)\big), \qquad
        z_t = v_p \cdot \tanh(W_p q_t)

    Args:
        grad_output: gradient of the loss with respect to the output, shape (B, L, Dv).
        query: as in local_p.
        key: as in local_p.
        value: as in local_p.
        hidden_weight: as in local_p.
        position_vector: as in local_p.
        window: as in local_p.
        lengths: as in local_p.

    Returns:
        The gradients of query, key, value, hidden_weight and position_vector.

    Raises:
        TypeError: as local_p.
        ValueError: as local_p, or grad_output does not have the shape of the output.

    Source: The chain rule.

    Example:
        >>> query, key, value = np.ones((1, 1, 1)), np.zeros((1, 2, 1)), np.eye(2)[None]
        >>> w, v = np.zeros((1, 1)), np.ones(1)
        >>> grads = local_p_backward(np.array([[[1.0, 0.0]]]), query, key, value, w, v, window=2)
        >>> grads[3].round(4).tolist()  # towards key 0: the centre is 1
        [[-0.1516]]
    """
    steps = _predict(query, key, value, hidden_weight, position_vector, window, lengths)
    check_same_shape("grad_output", grad_output, (*query.shape[:2], value.shape[-1]))
    real, count = _real_keys(lengths, key)
    key, value = (np.where(transpose(real), array, 0) for array in (key, value))

    weights = steps.align * steps.gaussian
    grad_value = transpose(weights) @ grad_output
    grad_weights = grad_output @ transpose(value)
    grad_scores = softmax_backward(grad_weights * steps.gaussian, steps.masked)
    grad_center = (grad_weights * weights * steps.distance).sum(axis=-1) / (window / 2) ** 2
    grad_z = grad_center * count * steps.share * (1 - steps.share)
    grad_before_tanh = grad_z[..., None] * position_vector * (1 - steps.hidden**2)
    return (
        grad_scores @ key + grad_before_tanh @ hidden_weight,
        transpose(grad_scores) @ query,
        grad_value,
        (transpose(grad_before_tanh) @ query).sum(axis=0),
        (grad_z[..., None] * steps.hidden).sum(axis=(0, 1)),
    )
