"""Softmax in blocks of keys: attention without a row of weights that is there as a whole."""

import numpy as np

from attn_core.reference.shapes import (
    Array,
    broadcast_leading,
    check_float_arrays,
    check_same_shape,
    sum_to_shape,
    transpose,
)


def online_attention(query: Array, key: Array, value: Array, *, block: int = 128) -> Array:
    r"""Compute scaled dot-product attention by one walk through the keys, block by block.

    With a row's highest score so far :math:`m`, the sum :math:`\ell` of its exponentials and their
    sum with the values :math:`o`, a new block of scores makes

    .. math:: m' = \max(m, \max_j s_j), \qquad
              \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'}, \qquad
              o' = e^{m - m'} o + \sum_j e^{s_j - m'} v_j

    and in the end the output is :math:`o / \ell`: the same numbers as with all scores at once.

    Args:
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).
        value: values, shape (..., S, Dv).
        block: how many keys are looked at at a time.

    Returns:
        The output, shape (..., L, Dv); zeros if there are no keys.

    Raises:
        TypeError: an array holds no floating-point numbers, or dtypes differ.
        ValueError: shapes do not fit, or block is below 1.

    Source: Milakov and Gimelshein 2018, algorithm 3; Dao et al. 2022, algorithm 1.

    Example:
        >>> words = np.eye(2)
        >>> online_attention(words, words, words, block=1).round(4).tolist()
        [[0.6698, 0.3302], [0.3302, 0.6698]]
    """
    return _walk(query, key, value, block)[0]


def online_attention_backward(
    grad_output: Array, query: Array, key: Array, value: Array, *, block: int = 128
) -> tuple[Array, Array, Array]:
    r"""Carry a gradient back, block by block: the weights of a block are computed once more.

    One number of each row was kept, :math:`c_i = m_i + \log \ell_i`:

    .. math:: a_{ij} = e^{s_{ij} - c_i}, \qquad
              \bar s_{ij} = a_{ij} \, (\bar o_i \cdot v_j - \bar o_i \cdot o_i)

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., L, Dv).
        query: as in online_attention.
        key: as in online_attention.
        value: as in online_attention.
        block: as in online_attention.

    Returns:
        The gradients of query, key and value, each with the shape of its input.

    Raises:
        TypeError: as online_attention.
        ValueError: as online_attention, or grad_output does not have the shape of the output.

    Source: Dao et al. 2022, algorithm 4.

    Example:
        >>> words = np.eye(2)
        >>> online_attention_backward(words, words, words, words, block=1)[2].round(4).tolist()
        [[0.6698, 0.3302], [0.3302, 0.6698]]
    """
    output, kept = _walk(query, key, value, block)
    check_same_shape("grad_output", grad_output, output.shape)
    scale = 1 / float(np.sqrt(query.shape[-1]))
    mean = (grad_output * output).sum(axis=-1, keepdims=True)
    grad_query = np.zeros((*output.shape[:-1], query.shape[-1]), query.dtype)
    grad_keys, grad_values = [], []
    for k, v in _blocks(key, value, block):
        weights = np.exp(scale * query @ transpose(k) - kept)
        grad_scores = weights * (grad_output @ transpose(v) - mean)
        grad_query += scale * grad_scores @ k
        grad_keys.append(scale * transpose(grad_scores) @ query)
        grad_values.append(transpose(weights) @ grad_output)
    if not grad_keys:
        return np.zeros_like(query), np.zeros_like(key), np.zeros_like(value)
    return (
        sum_to_shape(grad_query, query.shape),
        sum_to_shape(np.concatenate(grad_keys, axis=-2), key.shape),
        sum_to_shape(np.concatenate(grad_values, axis=-2), value.shape),
    )


def _walk(query: Array, key: Array, value: Array, block: int) -> tuple[Array, Array]:
    """The output, and m + log ℓ of each row."""
    check_float_arrays(query=query, key=key, value=value)
    if key.shape[-2] != value.shape[-2] or key.shape[-1] != query.shape[-1] or not key.shape[-1]:
        raise ValueError(
            "query and key must have the same width, at least 1, and key and value the same "
            f"length, got query {query.shape}, key {key.shape}, value {value.shape}"
        )
    if not isinstance(block, int) or block < 1:
        raise ValueError(f"block must be an integer of at least 1, got {block!r}")
    leading = broadcast_leading(query=query, key=key, value=value)
    rows = (*leading, query.shape[-2])
    scale = 1 / float(np.sqrt(query.shape[-1]))
    highest = np.full((*rows, 1), -np.inf, query.dtype)
    total = np.zeros((*rows, 1), query.dtype)
    output = np.zeros((*rows, value.shape[-1]), query.dtype)
    for k, v in _blocks(key, value, block):
        scores = scale * query @ transpose(k)
        higher = np.maximum(highest, scores.max(axis=-1, keepdims=True))
        powers = np.exp(scores - higher)
        shrink = np.exp(highest - higher)
        total = shrink * total + powers.sum(axis=-1, keepdims=True)
        output = shrink * output + powers @ v
        highest = higher
    total = np.where(total == 0, np.ones_like(total), total)  # no keys at all
    return output / total, highest + np.log(total)


def _blocks(key: Array, value: Array, block: int) -> list[tuple[Array, Array]]:
    starts = range(0, key.shape[-2], block)
    return [(key[..., i : i + block, :], value[..., i : i + block, :]) for i in starts]
