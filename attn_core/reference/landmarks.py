"""Nyström attention in NumPy: attention by way of landmarks."""

from typing import NamedTuple

import numpy as np

from attn_core.reference.normalizers import softmax, softmax_backward
from attn_core.reference.recurrence import Inputs, gradient_of, prepare, real_keys
from attn_core.reference.shapes import (
    Array,
    broadcast_leading,
    check_number,
    check_same_shape,
    transpose,
)


class _Nystrom(NamedTuple):
    """The steps of Nyström attention; m is the number of landmarks.

    Attributes:
        inputs: query, key and value, heads repeated, padding zeroed.
        query: the queries, zeros where they take no part in the landmarks.
        mean_rows: what averages the queries, shape (..., m, L).
        mean_keys: what averages the keys, shape (..., m, S).
        scores: the three tables of scores: queries and landmarks, landmarks and landmarks,
            landmarks and keys.
        weights: the three tables of weights.
        has_row: True where a landmark of queries has any, shape (..., m, 1).
        inverses: the pseudo-inverse, after each step if it was iterated.
        scale: factor on the scores.
    """

    inputs: Inputs
    query: Array
    mean_rows: Array
    mean_keys: Array
    scores: tuple[Array, Array, Array]
    weights: tuple[Array, Array, Array]
    has_row: Array
    inverses: list[Array]
    scale: float

    @property
    def output(self) -> Array:
        to_landmarks, _, from_landmarks = self.weights
        result: Array = to_landmarks @ self.inverses[-1] @ (from_landmarks @ self.inputs.value)
        return result


def _averages(real: Array, landmarks: int) -> Array:
    """Return what averages the segments of the real positions, shape (..., landmarks, length).

    The real position number i of n belongs to segment floor(i * landmarks / n).
    """
    number = np.cumsum(real, axis=-2) - 1
    count = np.maximum(real.sum(axis=-2, keepdims=True), 1)
    segment = transpose(number * landmarks // count)
    member = (segment == np.arange(landmarks)[:, None]) & transpose(real)
    averages: Array = member / np.maximum(member.sum(axis=-1, keepdims=True), 1)
    return averages


def _steps(
    query: Array,
    key: Array,
    value: Array,
    landmarks: int,
    iterations: int | None,
    mask: Array | None,
    query_mask: Array | None,
    scale: float | None,
) -> _Nystrom:
    inputs = prepare(query, key, value, mask)
    q_len, k_len = query.shape[-2], key.shape[-2]
    if not 1 <= landmarks <= min(q_len, k_len):
        raise ValueError(
            "landmarks must be at least 1 and at most the number of queries and of keys, got "
            f"{landmarks}, {q_len} queries, {k_len} keys"
        )
    if scale is None:
        scale = 1 / float(np.sqrt(query.shape[-1]))
    check_number("scale", scale)
    if query_mask is None and q_len == k_len:
        query_mask = mask
    leading = broadcast_leading(query=inputs.query, key=inputs.key, value=inputs.value)
    real_query = real_keys(query_mask, (*leading, q_len))
    rows = np.where(real_query, inputs.query, np.zeros((), query.dtype))

    mean_rows = _averages(real_query, landmarks).astype(query.dtype)
    mean_keys = _averages(inputs.real, landmarks).astype(key.dtype)
    row_landmarks, key_landmarks = mean_rows @ rows, mean_keys @ inputs.key
    has_row: Array = np.any(mean_rows != 0, axis=-1, keepdims=True)
    has_key: Array = np.any(mean_keys != 0, axis=-1)[..., None, :]

    scores = (
        np.where(has_key, scale * inputs.query @ transpose(key_landmarks), -np.inf),
        np.where(has_key, scale * row_landmarks @ transpose(key_landmarks), -np.inf),
        np.where(transpose(inputs.real), scale * row_landmarks @ transpose(inputs.key), -np.inf),
    )
    to_landmarks, among, from_landmarks = (softmax(table, -1) for table in scores)
    among = np.where(has_row, among, 0)
    if iterations is None:
        inverses = [np.linalg.pinv(among, rcond=landmarks * np.finfo(query.dtype).eps)]
    else:
        inverses = _iterate(among, iterations)
    weights = (to_landmarks, among, from_landmarks)
    return _Nystrom(inputs, rows, mean_rows, mean_keys, scores, weights, has_row, inverses, scale)


def _iterate(matrix: Array, iterations: int) -> list[Array]:
    """Approach the pseudo-inverse, and keep every step."""
    inverses = [transpose(matrix) / _largest_column(matrix)]
    identity = np.eye(matrix.shape[-1], dtype=matrix.dtype)
    for _ in range(iterations):
        product = matrix @ inverses[-1]
        first = 7 * identity - product
        second = 15 * identity - product @ first
        third = 13 * identity - product @ second
        inverses.append(inverses[-1] @ third / 4)
    return inverses


def _largest_column(matrix: Array) -> Array:
    sums = matrix.sum(axis=-2, keepdims=True).max(axis=-1, keepdims=True)
    largest: Array = np.where(sums == 0, 1, sums)
    return largest


def _iterate_backward(grad_inverse: Array, matrix: Array, inverses: list[Array]) -> Array:
    identity = np.eye(matrix.shape[-1], dtype=matrix.dtype)
    grad_matrix = np.zeros_like(matrix)
    for inverse in reversed(inverses[:-1]):
        product = matrix @ inverse
        first = 7 * identity - product
        second = 15 * identity - product @ first
        third = 13 * identity - product @ second
        grad_third = transpose(inverse) @ grad_inverse / 4
        grad_second = -transpose(product) @ grad_third
        grad_first = -transpose(product) @ grad_second
        grad_product = -grad_third @ transpose(second) - grad_second @ transpose(first) - grad_first
        grad_inverse = grad_inverse @ transpose(third) / 4 + transpose(matrix) @ grad_product
        grad_matrix = grad_matrix + grad_product @ transpose(inverse)
    # The first one is the transpose, divided by the largest sum of a column.
    largest = _largest_column(matrix)
    grad_largest = -(grad_inverse * inverses[0]).sum(axis=(-1, -2), keepdims=True) / largest
    is_largest = matrix.sum(axis=-2, keepdims=True) == largest
    return grad_matrix + transpose(grad_inverse) / largest + is_largest * grad_largest


def pinv_backward(grad_inverse: Array, matrix: Array, inverse: Array) -> Array:
    """Golub and Pereyra's derivative of the pseudo-inverse, turned around."""
    identity = np.eye(matrix.shape[-1], dtype=matrix.dtype)
    inverse_t = transpose(inverse)
    gradient: Array = (
        -inverse_t @ grad_inverse @ inverse_t
        + (identity - matrix @ inverse) @ transpose(grad_inverse) @ inverse @ inverse_t
        + inverse_t @ inverse @ transpose(grad_inverse) @ (identity - inverse @ matrix)
    )
    return gradient


def nystrom(
    query: Array,
    key: Array,
    value: Array,
    *,
    landmarks: int,
    iterations: int | None = 6,
    mask: Array | None = None,
    query_mask: Array | None = None,
    scale: float | None = None,
) -> Array:
    r"""Attend by way of landmarks, the means of segments of the queries and of the keys.

    .. math::
        \operatorname{softmax}(Q \tilde K^\top) \,
        \operatorname{softmax}(\tilde Q \tilde K^\top)^{+}
        \operatorname{softmax}(\tilde Q K^\top) \, V

    each score divided by the root of the width. The pseudo-inverse is approached by

    .. math:: Z \leftarrow \tfrac14 Z \, (13 I - A Z \, (15 I - A Z \, (7 I - A Z)))

    Args:
        query: queries, shape (..., Hq, L, D), or (L, D).
        key: keys, shape (..., Hkv, S, D), or (S, D); Hq is a multiple of Hkv.
        value: values, shape (..., Hkv, S, Dv), or (S, Dv).
        landmarks: number of segments, at most L and at most S.
        iterations: number of steps towards the pseudo-inverse; None for the exact one.
        mask: boolean, True = a real key; broadcasts to (..., 1, 1, S).
        query_mask: boolean, True = a real query; None is mask where L is S, and all otherwise.
        scale: factor on the scores; None is 1 / sqrt(D).

    Returns:
        The output, shape (..., Hq, L, Dv).

    Raises:
        TypeError: an array holds no floating-point numbers, dtypes differ, or a mask is not
            boolean.
        ValueError: shapes do not fit; the message names the argument.

    Source: Xiong et al. 2021.

    Example:
        >>> words = np.eye(2)
        >>> nystrom(words, words, words, landmarks=1).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    return _steps(query, key, value, landmarks, iterations, mask, query_mask, scale).output


def nystrom_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    *,
    landmarks: int,
    iterations: int | None = 6,
    mask: Array | None = None,
    query_mask: Array | None = None,
    scale: float | None = None,
) -> tuple[Array, Array, Array]:
    r"""Carry a gradient from the output of Nyström attention back to its inputs.

    With O = F P B V, where P is the pseudo-inverse of A:

    .. math::
        \bar F &= \bar O (P B V)^\top, \qquad \bar P = F^\top \bar O (B V)^\top, \qquad
        \bar B = (F P)^\top \bar O V^\top \\
        \bar A &= -P^\top \bar P P^\top + (I - A P) \bar P^\top P P^\top
                  + P^\top P \bar P^\top (I - P A)

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., Hq, L, Dv).
        query: as in nystrom.
        key: as in nystrom.
        value: as in nystrom.
        landmarks: as in nystrom.
        iterations: as in nystrom; with steps it is their derivative, not that of the limit.
        mask: as in nystrom.
        query_mask: as in nystrom.
        scale: as in nystrom.

    Returns:
        The gradients of query, key and value, each with the shape of its input.

    Raises:
        TypeError: as nystrom.
        ValueError: as nystrom, or grad_output does not have the shape of the output.

    Source: Golub and Pereyra 1973, for the derivative of the pseudo-inverse.

    Example:
        >>> words = np.eye(2)
        >>> nystrom_backward(words, words, words, words, landmarks=1)[2].tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    steps = _steps(query, key, value, landmarks, iterations, mask, query_mask, scale)
    check_same_shape("grad_output", grad_output, steps.output.shape)
    inputs, inverse = steps.inputs, steps.inverses[-1]
    to_landmarks, among, from_landmarks = steps.weights

    gathered = from_landmarks @ inputs.value
    grad_to = grad_output @ transpose(inverse @ gathered)
    grad_inverse = transpose(to_landmarks) @ grad_output @ transpose(gathered)
    grad_gathered = transpose(to_landmarks @ inverse) @ grad_output
    grad_from = grad_gathered @ transpose(inputs.value)
    grad_value = transpose(from_landmarks) @ grad_gathered
    if iterations is None:
        grad_among = pinv_backward(grad_inverse, among, inverse)
    else:
        grad_among = _iterate_backward(grad_inverse, among, steps.inverses)
    grad_among = np.where(steps.has_row, grad_among, 0)

    grad_scores = [
        steps.scale * softmax_backward(grad, np.broadcast_to(table, grad.shape), -1)
        for grad, table in zip((grad_to, grad_among, grad_from), steps.scores, strict=True)
    ]
    row_landmarks = steps.mean_rows @ steps.query
    key_landmarks = steps.mean_keys @ inputs.key
    grad_row_landmarks = grad_scores[1] @ key_landmarks + grad_scores[2] @ inputs.key
    grad_key_landmarks = (
        transpose(grad_scores[0]) @ inputs.query + transpose(grad_scores[1]) @ row_landmarks
    )
    grad_query = grad_scores[0] @ key_landmarks + transpose(steps.mean_rows) @ grad_row_landmarks
    grad_key = (
        transpose(grad_scores[2]) @ row_landmarks + transpose(steps.mean_keys) @ grad_key_landmarks
    )
    zero = np.zeros((), key.dtype)
    return (
        gradient_of(grad_query, query, 1),
        gradient_of(np.where(inputs.real, grad_key, zero), key, inputs.group),
        gradient_of(np.where(inputs.real, grad_value, zero), value, inputs.group),
    )
