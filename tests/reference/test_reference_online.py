"""Softmax in blocks gives the numbers of softmax at once, forward and backward."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_core import reference

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@given(
    leading=st.sampled_from([(), (2,), (3, 1)]),
    queries=st.integers(1, 6),
    keys=st.integers(0, 9),
    block=st.integers(1, 10),
    size=st.sampled_from([1.0, 30.0]),
)
def test_blocks_change_neither_output_nor_gradients(leading, queries, keys, block, size):
    query = size * normal(*leading, queries, 4)
    key, value = normal(*leading[:1], keys, 4, seed=1), normal(keys, 3, seed=2)
    if len(leading) == 1:
        key = key[:1]
    output = reference.online_attention(query, key, value, block=block)
    # One head for all, but reference.attention would read a third dimension as heads.
    heads = [x[..., None, :, :] for x in (query, key, value)]
    np.testing.assert_allclose(output[..., None, :, :], reference.attention(*heads), **TOLERANCE)
    grad_output = normal(*output.shape, seed=3)
    seen = reference.online_attention_backward(grad_output, query, key, value, block=block)
    expected = reference.attention_backward(grad_output[..., None, :, :], *heads)
    for gradient, wanted, x in zip(seen, expected, (query, key, value), strict=False):
        assert gradient.shape == x.shape
        np.testing.assert_allclose(gradient, wanted.reshape(x.shape), **TOLERANCE)


def test_scores_that_would_overflow_do_not():
    key = np.linspace(-900, 900, 31)[:, None]
    with np.errstate(over="raise", invalid="raise"):
        output = reference.online_attention(np.ones((1, 1)), key, np.eye(31), block=3)
    np.testing.assert_allclose(output, reference.softmax(key.T), **TOLERANCE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"block": 0}, "block"),
        ({"block": 1.5}, "block"),
        ({"key": normal(5, 3)}, "same width"),
        ({"value": normal(4, 3)}, "same length"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(change, says):
    options = {"query": normal(2, 4), "key": normal(5, 4), "value": normal(5, 3), **change}
    with pytest.raises(ValueError, match=says):
        reference.online_attention(**options)
    with pytest.raises(ValueError, match="grad_output"):
        reference.online_attention_backward(normal(1, 1), normal(2, 4), normal(5, 4), normal(5, 3))
