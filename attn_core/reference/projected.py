"""Linformer in NumPy: attention to a few mixtures of the keys."""

from typing import NamedTuple

import numpy as np

from attn_core.reference.attend import attention, attention_backward
from attn_core.reference.recurrence import Inputs, gradient_of, prepare, repeat_heads
from attn_core.reference.shapes import Array, check_float_arrays, check_same_shape, transpose


class LinformerGradients(NamedTuple):
    """The gradients of Linformer's inputs, each with the shape of its input.

    Attributes:
        query: gradient of the queries.
        key: gradient of the keys.
        value: gradient of the values.
        key_projection: gradient of E; that of both uses if E mixes the values too.
        value_projection: gradient of F; None where none was given.
    """

    query: Array
    key: Array
    value: Array
    key_projection: Array
    value_projection: Array | None


class _Mixed(NamedTuple):
    """The keys and values of Linformer, mixed.

    Attributes:
        inputs: query, key and value, heads repeated, padding zeroed.
        mix_keys: E, heads repeated.
        mix_values: F, heads repeated.
        key: E K, shape (..., Hq, r, D).
        value: F V, shape (..., Hq, r, Dv).
        attended: True where a mixture draws on a real key, shape (..., Hq, 1, r); or None.
    """

    inputs: Inputs
    mix_keys: Array
    mix_values: Array
    key: Array
    value: Array
    attended: Array | None


def _mix(
    query: Array,
    key: Array,
    value: Array,
    key_projection: Array,
    value_projection: Array | None,
    mask: Array | None,
) -> _Mixed:
    inputs = prepare(query, key, value, mask)
    if value_projection is None:
        value_projection = key_projection
    check_float_arrays(
        query=query, key_projection=key_projection, value_projection=value_projection
    )
    mixtures, keys = key_projection.shape[-2], key.shape[-2]
    for name, projection in (
        ("key_projection", key_projection),
        ("value_projection", value_projection),
    ):
        check_same_shape(name, projection, (*projection.shape[:-2], mixtures, keys))
    mix_keys, mix_values = (
        repeat_heads(
            projection, inputs.group if projection.ndim > 2 and projection.shape[-3] > 1 else 1
        )
        for projection in (key_projection, value_projection)
    )
    attended = None
    if mask is not None:
        attended = np.any((mix_keys != 0) & transpose(inputs.real), axis=-1)[..., None, :]
    mixed_key, mixed_value = mix_keys @ inputs.key, mix_values @ inputs.value
    return _Mixed(inputs, mix_keys, mix_values, mixed_key, mixed_value, attended)


def linformer(
    query: Array,
    key: Array,
    value: Array,
    *,
    key_projection: Array,
    value_projection: Array | None = None,
    mask: Array | None = None,
    scale: float | None = None,
) -> Array:
    r"""Attend to r mixtures of the keys instead of all of them.

    .. math:: \operatorname{softmax}\Bigl(\frac{Q (E K)^\top}{\sqrt D}\Bigr) F V

    A padded key is 0 in the mixtures; a mixture of padding alone is left out.

    Args:
        query: queries, shape (..., Hq, L, D), or (L, D).
        key: keys, shape (..., Hkv, S, D), or (S, D); Hq is a multiple of Hkv.
        value: values, shape (..., Hkv, S, Dv), or (S, Dv).
        key_projection: E, shape (r, S) or (..., Hkv, r, S).
        value_projection: F, of the same kind; None is E.
        mask: boolean, True = a real key; broadcasts to (..., 1, 1, S).
        scale: factor on the scores; None is 1 / sqrt(D).

    Returns:
        The output, shape (..., Hq, L, Dv).

    Raises:
        TypeError: an array holds no floating-point numbers, dtypes differ, or mask is not boolean.
        ValueError: shapes do not fit; the message names the argument.

    Source: Wang et al. 2020, section 4.

    Example:
        >>> words = np.eye(2)
        >>> linformer(words, words, words, key_projection=np.ones((1, 2))).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    mixed = _mix(query, key, value, key_projection, value_projection, mask)
    return attention(mixed.inputs.query, mixed.key, mixed.value, mask=mixed.attended, scale=scale)


def linformer_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    *,
    key_projection: Array,
    value_projection: Array | None = None,
    mask: Array | None = None,
    scale: float | None = None,
) -> LinformerGradients:
    r"""Carry a gradient from the output of Linformer back to its inputs.

    With :math:`\bar K'` and :math:`\bar V'` from attention to the mixtures K' = E K, V' = F V:

    .. math:: \bar K = E^\top \bar K', \quad \bar E = \bar K' K^\top, \qquad
              \bar V = F^\top \bar V', \quad \bar F = \bar V' V^\top

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., Hq, L, Dv).
        query: as in linformer.
        key: as in linformer.
        value: as in linformer.
        key_projection: as in linformer.
        value_projection: as in linformer.
        mask: as in linformer.
        scale: as in linformer.

    Returns:
        The gradients of query, key, value and of the projections.

    Raises:
        TypeError: as linformer.
        ValueError: as linformer, or grad_output does not have the shape of the output.

    Source: The product rule.

    Example:
        >>> words, one = np.eye(2), np.ones((1, 2))
        >>> linformer_backward(words, words, words, words, key_projection=one).value.tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    mixed = _mix(query, key, value, key_projection, value_projection, mask)
    inputs = mixed.inputs
    grads = attention_backward(
        grad_output, inputs.query, mixed.key, mixed.value, mask=mixed.attended, scale=scale
    )
    zero = np.zeros((), key.dtype)
    grad_key = np.where(inputs.real, transpose(mixed.mix_keys) @ grads.key, zero)
    grad_value = np.where(inputs.real, transpose(mixed.mix_values) @ grads.value, zero)
    grad_mix_keys = grads.key @ transpose(inputs.key)
    grad_mix_values = grads.value @ transpose(inputs.value)
    if value_projection is None:
        grad_mix_keys = grad_mix_keys + grad_mix_values
    return LinformerGradients(
        gradient_of(grads.query, query, 1),
        gradient_of(grad_key, key, inputs.group),
        gradient_of(grad_value, value, inputs.group),
        gradient_of(grad_mix_keys, key_projection, inputs.group),
        None
        if value_projection is None
        else gradient_of(grad_mix_values, value_projection, inputs.group),
    )
