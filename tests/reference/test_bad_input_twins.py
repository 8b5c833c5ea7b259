"""The NumPy twins refuse bad input by name, as the torch functions do.

A table of call × defect: each row holds the call, the error, and the parts of its message. Other
twins stand in the tables of their own parts.
"""

import numpy as np
import pytest
from refusals import assert_refuses

from attn_core import reference

X = np.ones((3, 4))
WIDE = np.ones((2, 3, 4))
FROM_ZERO = np.arange(3)[None] - np.arange(3)[:, None]
TABLE = np.ones((8, 2))
VECTORS = np.ones((5, 4))
SCORES = np.ones((2, 3, 3))
XL = (np.ones((2, 4)), np.ones((2, 4)), np.ones((8, 4)))

SCORES_AND_NORMALIZERS = {
    "bilinear_backward gradient": (
        lambda: reference.bilinear_backward(X, X, X, np.ones((4, 4))),
        ValueError,
        ["grad_scores", "(3, 3)", "(3, 4)"],
    ),
    "additive_backward gradient": (
        lambda: reference.additive_backward(X, X, X, np.ones((5, 4)), np.ones((5, 4)), np.ones(5)),
        ValueError,
        ["grad_scores", "(3, 3)", "(3, 4)"],
    ),
    "hard integers": (lambda: reference.hard(X.astype(int)), TypeError, ["scores", "int64"]),
    "hard_backward gradient": (
        lambda: reference.hard_backward(X[:2], X),
        ValueError,
        ["grad_weights", "(3, 4)", "(2, 4)"],
    ),
    "sparsemax list": (lambda: reference.sparsemax([1.0]), TypeError, ["scores", "list"]),
    "softmax_jacobian list": (
        lambda: reference.softmax_jacobian([1.0]),
        TypeError,
        ["scores", "list"],
    ),
}
POSITIONS = {
    "alibi heads": (lambda: reference.alibi(FROM_ZERO, 0), ValueError, ["heads", "0"]),
    "alibi_slopes heads": (lambda: reference.alibi_slopes(2.0), TypeError, ["heads", "2.0"]),
    "alibi_slopes convention": (
        lambda: reference.alibi_slopes(3, "paper"),
        ValueError,
        ["slopes", "'paper'"],
    ),
    "distances length": (lambda: reference.distances(-1, 3), ValueError, ["q_len", "-1"]),
    "distances offset": (lambda: reference.distances(2, 3), ValueError, ["q_offset"]),
    "restarting floats": (
        lambda: reference.restarting(np.ones(3)),
        TypeError,
        ["segment_ids", "float64"],
    ),
    "t5_bucket floats": (lambda: reference.t5_bucket(X), TypeError, ["distance", "float64"]),
    "t5_bucket buckets": (
        lambda: reference.t5_bucket(FROM_ZERO, buckets=0),
        ValueError,
        ["buckets", "0"],
    ),
    "t5_bias integers": (
        lambda: reference.t5_bias(TABLE.astype(int), distance=FROM_ZERO),
        TypeError,
        ["weight", "int64"],
    ),
    "t5_bias_backward gradient": (
        lambda: reference.t5_bias_backward(X, TABLE, distance=FROM_ZERO),
        ValueError,
        ["grad_bias", "(2, 3, 3)", "(3, 4)"],
    ),
    "shaw width": (
        lambda: reference.shaw(WIDE, np.ones((5, 3)), distance=FROM_ZERO),
        ValueError,
        ["weight", "(5, 3)"],
    ),
    "shaw_backward gradient": (
        lambda: reference.shaw_backward(X, WIDE, VECTORS, distance=FROM_ZERO),
        ValueError,
        ["grad_bias", "(2, 3, 3)", "(3, 4)"],
    ),
    "shaw_values list": (
        lambda: reference.shaw_values([1.0], VECTORS, distance=FROM_ZERO),
        TypeError,
        ["weights", "list"],
    ),
    "shaw_values_backward gradient": (
        lambda: reference.shaw_values_backward(X, SCORES, VECTORS, distance=FROM_ZERO),
        ValueError,
        ["grad_output", "(2, 3, 4)", "(3, 4)"],
    ),
    "transformer_xl width": (
        lambda: reference.transformer_xl(WIDE, WIDE, np.ones((8, 3)), *XL[1:], distance=FROM_ZERO),
        ValueError,
        ["content_bias", "(2, 4)", "(8, 3)"],
    ),
    "transformer_xl_backward gradient": (
        lambda: reference.transformer_xl_backward(X, WIDE, WIDE, *XL, distance=FROM_ZERO),
        ValueError,
        ["grad_bias", "(2, 3, 3)", "(3, 4)"],
    ),
    "segment ids floats": (
        lambda: reference.segment(X, VECTORS, segment_ids=np.ones(3)),
        TypeError,
        ["segment_ids", "float64"],
    ),
    "segment_backward gradient": (
        lambda: reference.segment_backward(X[:2], X, VECTORS, segment_ids=np.zeros(3, dtype=int)),
        ValueError,
        ["grad_output", "(3, 4)", "(2, 4)"],
    ),
    "rotary pairing": (
        lambda: reference.rotary(X, pairing="gptj"),
        ValueError,
        ["pairing", "'gptj'"],
    ),
    "rotary_backward gradient": (
        lambda: reference.rotary_backward(X[:2], X),
        ValueError,
        ["grad_output", "(3, 4)", "(2, 4)"],
    ),
}
ALL = SCORES_AND_NORMALIZERS | POSITIONS


@pytest.mark.parametrize("defect", ALL)
def test_a_twin_refuses(defect):
    call, raises, says = ALL[defect]
    assert_refuses(call, raises, says)
