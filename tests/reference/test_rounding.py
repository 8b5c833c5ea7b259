"""Weights in 8 bits: at most half a step away, small, and close in what the model says."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn_arrays
from refusals import assert_refuses

from attn_core import reference
from attn_core.data import pretrained
from attn_core.reference import packaged

NUMBERS = st.floats(-1e6, 1e6, width=32)


@given(drawn_arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=NUMBERS))
def test_no_number_moves_by_more_than_half_a_step(matrix):
    numbers, step = reference.round_rows(matrix)
    assert numbers.dtype == np.int8
    assert numbers.min() >= -127
    restored = reference.restore_rows(numbers, step)
    assert restored.dtype == np.float32
    most = step[:, None] / 2
    assert (np.abs(restored - matrix) <= most * (1 + 1e-4)).all()


def test_rounding_twice_is_rounding_once():
    matrix = np.random.default_rng(0).normal(size=(4, 9))
    once = reference.restore_rows(*reference.round_rows(matrix))
    np.testing.assert_allclose(reference.restore_rows(*reference.round_rows(once)), once)


def test_the_packaged_model_is_small_and_the_same_bytes_each_time(tmp_path):
    path = pretrained.minilm_rounded()
    assert path.stat().st_size <= 25_000_000
    parameters, vocabulary = pretrained.minilm_arrays()
    reference.save_rounded(tmp_path / "again.npz", parameters, vocabulary)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    restored, tokens = reference.load_rounded(path)
    assert tokens == vocabulary
    assert restored.keys() == parameters.keys()
    for name, array in parameters.items():
        assert restored[name].shape == array.shape
        if array.ndim == 1:
            np.testing.assert_array_equal(restored[name], array)


def test_what_the_rounding_changes():
    vectors = {}
    for kind, (parameters, tokens) in {
        "exact": pretrained.minilm_arrays(),
        "rounded": reference.load_rounded(pretrained.minilm_rounded()),
    }.items():
        numbers = {token: number for number, token in enumerate(tokens)}
        pieces = reference.word_pieces("A cat sits on the mat.", numbers)
        states, weights = reference.bert([numbers[p] for p in pieces], parameters, heads=12)
        vectors[kind] = reference.sentence_vector(states), weights
    assert vectors["exact"][0] @ vectors["rounded"][0] > 0.998
    assert np.abs(vectors["exact"][1] - vectors["rounded"][1]).max() < 0.1


def test_in_the_page_the_model_is_what_the_panel_has_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "emscripten")
    monkeypatch.setattr(packaged, "IN_THE_PAGE", tmp_path / "minilm.npz")
    with pytest.raises(FileNotFoundError, match="Load the model"):
        reference.minilm()
    reference.save_rounded(tmp_path / "minilm.npz", {"w": np.eye(2)}, ["a", "b"])
    parameters, numbers = reference.minilm()
    assert numbers == {"a": 0, "b": 1}
    with pytest.raises(ValueError, match="read-only"):
        parameters["w"][0] = 2


def broken(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    return lambda: reference.load_rounded(path)


INT8 = np.ones((2, 3), np.int8)
ONE = np.ones(3)
REFUSED = {
    "list": (lambda _: reference.round_rows([[1.0]]), TypeError, ["matrix", "list"]),
    "vector": (lambda _: reference.round_rows(ONE), ValueError, ["matrix", "(3,)"]),
    "not finite": (lambda _: reference.round_rows(ONE[None] / 0), ValueError, ["matrix", "finite"]),
    "not int8": (
        lambda _: reference.restore_rows(INT8 * 1.0, ONE[:2]),
        TypeError,
        ["numbers", "int8", "float64"],
    ),
    "steps": (lambda _: reference.restore_rows(INT8, ONE), ValueError, ["(2, 3)", "(3,)"]),
    "token": (
        lambda path: reference.save_rounded(path / "x.npz", {}, ["a\nb"]),
        ValueError,
        ["vocabulary", "line break"],
    ),
    "three dimensions": (
        lambda path: reference.save_rounded(path / "x.npz", {"w": np.ones((1, 2, 3))}, ["a"]),
        ValueError,
        ["matrix", "(1, 2, 3)"],
    ),
    "no file": (
        lambda path: reference.load_rounded(path / "none.npz"),
        FileNotFoundError,
        ["none.npz"],
    ),
    "another file": (
        lambda path: broken(path, b"no archive")(),
        ValueError,
        ["broken.npz", "save_rounded"],
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(
    ("call", "raises", "says"), [pytest.param(*row, id=name) for name, row in REFUSED.items()]
)
def test_bad_input_is_refused_by_name(call, raises, says, tmp_path):
    assert_refuses(lambda: call(tmp_path), raises, says)
