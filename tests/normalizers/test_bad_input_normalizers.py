"""Normalisers refuse bad input and name what they saw: a table of call × defect."""

import numpy as np
import pytest
import torch
from refusals import assert_refuses

from attn_core import normalizers, reference

X = torch.ones(2, 4)
BAD_SCORES = {
    "a list": ([1.0], -1, TypeError, ["scores", "list"]),
    "integers": (X.long(), -1, TypeError, ["scores", "int64"]),
    "no such dimension": (X, 2, ValueError, ["(2, 4)", "dim 2"]),
    "no dimension at all": (torch.tensor(1.0), -1, ValueError, ["()", "dim -1"]),
    "dimension by name": (X, "keys", TypeError, ["dim", "'keys'"]),
    "dimension a bool": (X, True, TypeError, ["dim", "True"]),
}


@pytest.mark.parametrize("name", normalizers.__all__)
@pytest.mark.parametrize(
    ("rows", "dim", "raises", "says"), BAD_SCORES.values(), ids=BAD_SCORES.keys()
)
def test_every_normalizer_refuses(name, rows, dim, raises, says):
    assert_refuses(lambda: getattr(normalizers, name)(rows, dim), raises, says)


BAD_OPTIONS = {
    "no temperature": ("softmax", {"temperature": 0.0}, ValueError, ["temperature", "0.0"]),
    "below zero": ("gumbel_softmax", {"temperature": -1}, ValueError, ["temperature", "-1"]),
    "temperature NaN": ("softmax", {"temperature": np.nan}, ValueError, ["temperature", "nan"]),
    "temperature a word": ("softmax", {"temperature": "hot"}, TypeError, ["temperature", "'hot'"]),
    "temperature None": ("gumbel_softmax", {"temperature": None}, TypeError, ["temperature"]),
    "sink infinite": ("softmax_with_sink", {"sink": np.inf}, ValueError, ["sink", "inf"]),
    "sink a word": ("softmax_with_sink", {"sink": "off"}, TypeError, ["sink", "'off'"]),
    "sink a bool": ("softmax_with_sink", {"sink": True}, TypeError, ["sink", "True"]),
    "sink of another shape": (
        "softmax_with_sink",
        {"sink": torch.ones(3, 1)},
        ValueError,
        ["sink", "(3, 1)", "(2, 1)"],
    ),
    "sink for each key": (
        "softmax_with_sink",
        {"sink": torch.ones(4)},
        ValueError,
        ["sink", "(4,)", "(2, 1)"],
    ),
    "sink with more dimensions": (
        "softmax_with_sink",
        {"sink": torch.ones(3, 1, 1)},
        ValueError,
        ["sink", "(3, 1, 1)", "(2, 1)"],
    ),
    "sink of integers": (
        "softmax_with_sink",
        {"sink": torch.ones(2, 1, dtype=torch.long)},
        TypeError,
        ["sink", "int64"],
    ),
    "sink of another dtype": (
        "softmax_with_sink",
        {"sink": torch.ones(2, 1, dtype=torch.float64)},
        TypeError,
        ["sink", "float64", "float32"],
    ),
    "sink elsewhere": (
        "softmax_with_sink",
        {"sink": torch.ones(2, 1, device="meta")},
        ValueError,
        ["sink", "meta", "cpu"],
    ),
    "alpha below one": ("entmax", {"alpha": 0.9}, ValueError, ["alpha", "0.9"]),
    "alpha below one, bisect": ("entmax_bisect", {"alpha": 0.9}, ValueError, ["alpha", "0.9"]),
    "alpha infinite": ("entmax", {"alpha": np.inf}, ValueError, ["alpha", "inf"]),
    "alpha a word": ("entmax", {"alpha": "sparse"}, TypeError, ["alpha", "'sparse'"]),
    "alpha of one head below one": (
        "entmax",
        {"alpha": torch.tensor([[1.5], [0.5]])},
        ValueError,
        ["alpha", "0.5"],
    ),
    "alpha NaN": (
        "entmax",
        {"alpha": torch.tensor([[1.5], [torch.nan]])},
        ValueError,
        ["alpha", "nan"],
    ),
    "alpha of another shape": (
        "entmax",
        {"alpha": torch.full((3, 1), 1.5)},
        ValueError,
        ["alpha", "(3, 1)", "(2, 1)"],
    ),
    "alpha of another dtype": (
        "entmax_bisect",
        {"alpha": torch.full((2, 1), 1.5, dtype=torch.float64)},
        TypeError,
        ["alpha", "float64"],
    ),
    "no steps": ("entmax_bisect", {"steps": 0}, ValueError, ["steps", "0"]),
    "half steps": ("entmax_bisect", {"steps": 2.5}, TypeError, ["steps", "2.5"]),
    "bias infinite": ("sigmoid", {"bias": -np.inf}, ValueError, ["bias", "-inf"]),
    "bias a word": ("sigmoid", {"bias": "log n"}, TypeError, ["bias", "'log n'"]),
    "hard a number": ("gumbel_softmax", {"hard": 1}, TypeError, ["hard", "1"]),
    "generator a seed": ("gumbel_softmax", {"generator": 0}, TypeError, ["generator", "int"]),
}


@pytest.mark.parametrize(
    ("name", "options", "raises", "says"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys()
)
def test_every_option_is_checked(name, options, raises, says):
    assert_refuses(lambda: getattr(normalizers, name)(X, **options), raises, says)


ROWS = np.ones((2, 4))
TWINS = {
    "integers": ("softmax", [ROWS.astype(int)], {}, TypeError, ["scores", "int64"]),
    "a list": ("entmax15", [[[1.0]]], {}, TypeError, ["scores", "list"]),
    "temperature": ("softmax", [ROWS], {"temperature": 0}, ValueError, ["temperature", "0"]),
    "draw": ("gumbel_softmax", [ROWS], {"temperature": -1.0}, ValueError, ["temperature", "-1"]),
    "sink": ("softmax_with_sink", [ROWS], {"sink": "x"}, TypeError, ["sink", "'x'"]),
    "sink shape": (
        "softmax_with_sink",
        [ROWS],
        {"sink": np.ones(4)},
        ValueError,
        ["sink", "(2, 1)", "(4,)"],
    ),
    "bias": ("sigmoid", [ROWS], {"bias": np.inf}, ValueError, ["bias", "inf"]),
    "alpha": ("entmax", [ROWS], {"alpha": 0.5}, ValueError, ["alpha", "0.5"]),
    "alphas": (
        "entmax",
        [ROWS],
        {"alpha": np.array([[2.0], [0.0]])},
        ValueError,
        ["alpha", "0.0"],
    ),
    "alpha dtype": (
        "entmax_bisect",
        [ROWS],
        {"alpha": np.ones((2, 1), np.float32)},
        TypeError,
        ["alpha float32", "scores float64"],
    ),
    "steps": ("entmax_bisect", [ROWS], {"steps": 0}, ValueError, ["steps", "0"]),
    "half steps": ("entmax_bisect", [ROWS], {"steps": 1.5}, TypeError, ["steps", "1.5"]),
}


@pytest.mark.parametrize(
    ("name", "inputs", "options", "raises", "says"), TWINS.values(), ids=TWINS.keys()
)
def test_every_twin_refuses(name, inputs, options, raises, says):
    assert_refuses(lambda: getattr(reference, name)(*inputs, **options), raises, says)
    backward = getattr(reference, f"{name}_backward")
    assert_refuses(lambda: backward(ROWS, *inputs, **options), raises, says)


@pytest.mark.parametrize(
    "name",
    [
        "softmax",
        "softmax_with_sink",
        "sigmoid",
        "sparsemax",
        "entmax15",
        "entmax",
        "gumbel_softmax",
    ],
)
def test_every_derivative_refuses_a_gradient_of_another_shape(name):
    backward = getattr(reference, f"{name}_backward")
    assert_refuses(
        lambda: backward(ROWS[:1], ROWS), ValueError, ["grad_weights", "(2, 4)", "(1, 4)"]
    )
