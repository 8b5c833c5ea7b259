"""Masks and positions of the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_core import reference

lengths = st.integers(1, 7)


@given(lengths, lengths, st.integers(-3, 6))
def test_causal_allows_the_own_position_and_those_before(q_len, k_len, q_offset):
    mask = reference.causal(q_len, k_len, q_offset)
    assert mask.dtype == bool
    assert mask.shape == (q_len, k_len)
    for i in range(q_len):
        for j in range(k_len):
            assert mask[i, j] == (j <= i + q_offset)


@given(lengths, lengths, st.integers(-3, 6), st.integers(0, 4), st.integers(0, 4))
def test_window_counts_the_keys_on_each_side(q_len, k_len, q_offset, left, right):
    mask = reference.window(left, right, q_len, k_len, q_offset)
    for i in range(q_len):
        for j in range(k_len):
            assert mask[i, j] == (i + q_offset - left <= j <= i + q_offset + right)


@given(lengths)
def test_a_window_as_wide_as_the_sequence_is_causal(length):
    causal = reference.causal(length, length)
    np.testing.assert_array_equal(reference.window(length, 0, length, length), causal)
    np.testing.assert_array_equal(reference.window(None, 0, length, length), causal)
    np.testing.assert_array_equal(reference.window(0, None, length, length), causal.T)
    np.testing.assert_array_equal(reference.window(0, 0, length, length), np.eye(length))


def test_padding_counts_real_keys():
    mask = reference.padding(np.array([0, 2, 3]), 3)
    assert mask.shape == (3, 1, 1, 3)
    np.testing.assert_array_equal(mask[:, 0, 0], [[0, 0, 0], [1, 1, 0], [1, 1, 1]])


def test_one_offset_per_batch_entry():
    mask = reference.causal(2, 4, np.array([0, 2]))
    assert mask.shape == (2, 1, 2, 4)
    for entry, offset in enumerate([0, 2]):
        np.testing.assert_array_equal(mask[entry, 0], reference.causal(2, 4, offset))


BAD_MASKS = {
    "q_offset is needed": lambda: reference.causal(2, 3),
    "q_offset is needed because": lambda: reference.window(1, 1, 2, 3),
    "left must be": lambda: reference.window(-1, 0, 2, 2),
    "right must be": lambda: reference.window(0, -1, 2, 2),
    "q_len and k_len": lambda: reference.causal(-1, 2, 0),
    "q_offset must be an integer": lambda: reference.causal(2, 2, 0.5),
    r"q_offset must have shape": lambda: reference.causal(2, 2, [[0]]),
    "lengths must be integers": lambda: reference.padding([1.5], 2),
    "lengths must have shape": lambda: reference.padding(2, 2),
    "lengths must have k_len": lambda: reference.padding([[1, 0]], 3),
    "lengths must be 0 and 1": lambda: reference.padding([[1, 2]], 2),
    "lengths must be between": lambda: reference.padding([3], 2),
    "length=-1": lambda: reference.sinusoidal(-1, 2),
    "dim=0": lambda: reference.sinusoidal(2, 0),
    "base must be": lambda: reference.sinusoidal(2, 2, base=0.0),
}


@pytest.mark.parametrize(("message", "call"), BAD_MASKS.items(), ids=BAD_MASKS.keys())
def test_bad_masks_are_refused(message, call):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("dim", [1, 2, 5, 6])
def test_sinusoidal_as_the_formula_reads(dim):
    encoding = reference.sinusoidal(9, dim, base=100.0)
    assert encoding.shape == (9, dim)
    for position in range(9):
        for column in range(dim):
            angle = position * 100.0 ** (-2 * (column // 2) / dim)
            expected = np.cos(angle) if column % 2 else np.sin(angle)
            assert encoding[position, column] == pytest.approx(expected, abs=1e-14)


@given(st.integers(0, 40), st.integers(0, 40))
def test_products_of_encodings_depend_on_the_distance_only(position, distance):
    encoding = reference.sinusoidal(90, 8)
    seen = encoding[position] @ encoding[position + distance]
    assert seen == pytest.approx(encoding[0] @ encoding[distance], abs=1e-9)
