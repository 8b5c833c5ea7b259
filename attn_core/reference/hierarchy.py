"""Hierarchical attention: words make sentences, sentences make a document."""

import numpy as np

from attn_core.reference.normalizers import softmax, softmax_backward
from attn_core.reference.shapes import Array, check_float_arrays, check_same_shape


def _pool(
    x: Array, real: Array, weight: Array, bias: Array, query: Array
) -> tuple[Array, Array, Array]:
    """One level: keys tanh(W x + b), weights of their match with the query, weighted sum of x."""
    key = np.tanh(x @ weight.T + bias)
    weights = softmax(np.where(real, key @ query, -np.inf))
    return (weights[..., None] * x).sum(axis=-2), weights, key


def _pool_backward(
    grad_pooled: Array, x: Array, real: Array, weight: Array, bias: Array, query: Array
) -> tuple[Array, Array, Array, Array]:
    _, weights, key = _pool(x, real, weight, bias, query)
    grad_weights = (grad_pooled[..., None, :] * x).sum(axis=-1)
    grad_scores = softmax_backward(grad_weights, np.where(real, key @ query, -np.inf))
    grad_before_tanh = grad_scores[..., None] * query * (1 - key**2)
    rows = grad_before_tanh.reshape(-1, len(query))
    return (
        weights[..., None] * grad_pooled[..., None, :] + grad_before_tanh @ weight,
        rows.T @ x.reshape(-1, x.shape[-1]),
        rows.sum(axis=0),
        (grad_scores[..., None] * key).reshape(-1, len(query)).sum(axis=0),
    )


def _prepare(
    x: Array,
    mask: Array | None,
    word_weight: Array,
    word_bias: Array,
    word_query: Array,
    sentence_weight: Array,
    sentence_bias: Array,
    sentence_query: Array,
) -> tuple[Array, Array]:
    """Check everything; give x with zeros for padding, and which words are real."""
    check_float_arrays(min_dims=3, x=x)
    for level, weight, bias, query in (
        ("word", word_weight, word_bias, word_query),
        ("sentence", sentence_weight, sentence_bias, sentence_query),
    ):
        named = {f"{level}_weight": weight, f"{level}_bias": bias, f"{level}_query": query}
        check_float_arrays(min_dims=1, x=x, **named)
        check_same_shape(f"{level}_query", query, (len(query),))
        check_same_shape(f"{level}_bias", bias, query.shape)
        check_same_shape(f"{level}_weight", weight, (len(query), x.shape[-1]))
    if mask is None:
        mask = np.ones(x.shape[:-1], dtype=bool)
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        raise TypeError(
            "mask must be a boolean NumPy array, True = a real word, got "
            f"{getattr(mask, 'dtype', type(mask).__name__)}"
        )
    check_same_shape("mask", mask, x.shape[:-1])
    return np.where(mask[..., None], x, 0), mask


def hierarchical(
    x: Array,
    word_weight: Array,
    word_bias: Array,
    word_query: Array,
    sentence_weight: Array,
    sentence_bias: Array,
    sentence_query: Array,
    *,
    mask: Array | None = None,
) -> Array:
    r"""Sum the words of each sentence up, then the sentences of each document.

    .. math::
        u_{ij} &= \tanh(W_w h_{ij} + b_w), \qquad
        s_i = \sum_j \operatorname{softmax}_j(u_{ij} \cdot u_w) \, h_{ij} \\
        u_i &= \tanh(W_s s_i + b_s), \qquad
        v = \sum_i \operatorname{softmax}_i(u_i \cdot u_s) \, s_i

    Args:
        x: words, shape (..., sentences, words, D).
        word_weight: W_w, shape (H, D).
        word_bias: b_w, shape (H,).
        word_query: u_w, shape (H,).
        sentence_weight: W_s, shape (Hs, D).
        sentence_bias: b_s, shape (Hs,).
        sentence_query: u_s, shape (Hs,).
        mask: boolean, shape (..., sentences, words), True = a real word; by default all are.

    Returns:
        One vector per document, shape (..., D); zeros for a document without words.

    Raises:
        TypeError: an array holds no floating-point numbers, or mask is not boolean.
        ValueError: shapes do not fit.

    Source: Yang et al. 2016, section 2.2.

    Example:
        >>> words = np.array([[[1.0, 3.0], [0.0, 0.0]], [[5.0, 5.0], [7.0, 7.0]]])
        >>> mask = np.array([[True, False], [True, True]])
        >>> level = np.zeros((1, 2)), np.zeros(1), np.zeros(1)  # all weights are equal
        >>> hierarchical(words, *level, *level, mask=mask).tolist()
        [3.5, 4.5]
    """
    word_level = (word_weight, word_bias, word_query)
    sentence_level = (sentence_weight, sentence_bias, sentence_query)
    x, real = _prepare(x, mask, *word_level, *sentence_level)
    sentences, _, _ = _pool(x, real, *word_level)
    document, _, _ = _pool(sentences, np.asarray(real.any(axis=-1)), *sentence_level)
    return document


def hierarchical_backward(
    grad_output: Array,
    x: Array,
    word_weight: Array,
    word_bias: Array,
    word_query: Array,
    sentence_weight: Array,
    sentence_bias: Array,
    sentence_query: Array,
    *,
    mask: Array | None = None,
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    r"""Carry a gradient from documents back to sentences, and from sentences to words.

    On each level, with :math:`t = \bar s_j \, q \odot (1 - u_j^2)`

    .. math:: \bar x_j = a_j \bar c + W^\top t_j, \qquad \bar W = \sum_j t_j x_j^\top, \qquad
              \bar b = \sum_j t_j, \qquad \bar q = \sum_j \bar s_j u_j

    Args:
        grad_output: gradient of the loss with respect to the documents, shape (..., D).
        x: as in hierarchical; so are the others.
        word_weight: as there.
        word_bias: as there.
        word_query: as there.
        sentence_weight: as there.
        sentence_bias: as there.
        sentence_query: as there.
        mask: as there.

    Returns:
        The gradients of x and of the six parameters, in the order of the arguments.

    Raises:
        TypeError: as hierarchical.
        ValueError: as hierarchical, or grad_output does not have the shape of the output.

    Source: The chain rule.

    Example:
        >>> level = np.zeros((1, 2)), np.zeros(1), np.zeros(1)
        >>> grads = hierarchical_backward(np.ones(2), np.ones((1, 4, 2)), *level, *level)
        >>> grads[0][0, 0].tolist()
        [0.25, 0.25]
    """
    word_level = (word_weight, word_bias, word_query)
    sentence_level = (sentence_weight, sentence_bias, sentence_query)
    x, real = _prepare(x, mask, *word_level, *sentence_level)
    check_same_shape("grad_output", grad_output, (*x.shape[:-3], x.shape[-1]))
    sentences, _, _ = _pool(x, real, *word_level)
    has_words = np.asarray(real.any(axis=-1))
    grad_sentences, *grad_sentence_level = _pool_backward(
        grad_output, sentences, has_words, *sentence_level
    )
    grad_x, *grad_word_level = _pool_backward(grad_sentences, x, real, *word_level)
    return (grad_x, *grad_word_level, *grad_sentence_level)  # type: ignore[return-value]
