"""Attention with no matrix product at all: the definition, number by number."""

import math

import numpy as np

from attn_core.reference.shapes import Array, check_float_arrays, check_same_shape


def attention_loops(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    r"""Compute scaled dot-product attention with nothing but loops over numbers.

    .. math:: s_{ij} = \frac{1}{\sqrt D} \sum_d q_{id} k_{jd}, \qquad
              a_{ij} = \frac{e^{s_{ij}}}{\sum_k e^{s_{ik}}}, \qquad
              o_{ic} = \sum_j a_{ij} v_{jc}

    Args:
        query: queries, shape (L, D).
        key: keys, shape (S, D).
        value: values, shape (S, Dv).
        mask: boolean, shape (L, S), True = may attend; None allows all.

    Returns:
        One output per query, shape (L, Dv); zeros for a query that may attend to nothing.

    Raises:
        TypeError: an array holds no floating-point numbers, or mask is not boolean.
        ValueError: an argument has not two dimensions, or their shapes do not fit.

    Source: Vaswani et al. 2017, equation 1; D0 section 4.

    Example:
        >>> identity = np.eye(2)
        >>> attention_loops(identity, identity, identity).round(4).tolist()
        [[0.6698, 0.3302], [0.3302, 0.6698]]
    """
    check_float_arrays(query=query, key=key, value=value)
    query_count, dim = query.shape[-2:]
    key_count, value_dim = value.shape[-2:]
    check_same_shape("query", query, (query_count, dim))
    check_same_shape("value", value, (key_count, value_dim))
    check_same_shape("key", key, (key_count, dim))
    if mask is None:
        mask = np.ones((query_count, key_count), dtype=bool)
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        raise TypeError("mask must be a boolean NumPy array, True = may attend")
    check_same_shape("mask", mask, (query_count, key_count))

    output = np.zeros((query_count, value_dim), dtype=query.dtype)
    for i in range(query_count):
        allowed = [j for j in range(key_count) if mask[i, j]]

        scores = {}
        for j in allowed:
            products = 0.0
            for d in range(dim):
                products += query[i, d] * key[j, d]
            scores[j] = products / math.sqrt(dim)

        # Without the largest score subtracted, exp overflows for scores above 709.
        largest = max(scores.values(), default=0.0)
        exponentials = {j: math.exp(scores[j] - largest) for j in allowed}
        total = sum(exponentials.values())

        for j in allowed:
            weight = exponentials[j] / total
            for c in range(value_dim):
                output[i, c] += weight * value[j, c]
    return output
