"""Bad input gives an error that names the argument and says what was seen."""

import numpy as np
import pytest

from attn_core import reference

X = np.ones((2, 3))

BAD_CALLS = {
    "query no array": ([[[1.0]], X, X], {}, TypeError, "query must be a NumPy array, got list"),
    "key of integers": (
        [X, X.astype(int), X],
        {},
        TypeError,
        "key must hold floating-point.*int64",
    ),
    "value a vector": ([X, X, X[0]], {}, ValueError, r"value must have at least 2.*\(3,\)"),
    "two dtypes": ([X, X, X.astype(np.float32)], {}, TypeError, "one dtype.*value float32"),
    "widths": ([X, np.ones((2, 4)), X], {}, ValueError, r"query and key.*\(2, 3\).*\(2, 4\)"),
    "no width": ([X[:, :0], X[:, :0], X], {}, ValueError, r"query must have a width.*\(2, 0\)"),
    "lengths": ([X, X, np.ones((4, 3))], {}, ValueError, r"key and value.*\(2, 3\).*\(4, 3\)"),
    "batches": (
        [np.ones((2, 1, 2, 3)), np.ones((3, 1, 2, 3)), X],
        {},
        ValueError,
        r"leading dimensions do not broadcast: query \(2, 1, 2, 3\)",
    ),
    "heads": (
        [np.ones((3, 2, 3)), np.ones((2, 2, 3)), np.ones((2, 2, 3))],
        {},
        ValueError,
        "heads of query must be a multiple",
    ),
    "heads of value": (
        [np.ones((4, 2, 3)), np.ones((2, 2, 3)), X],
        {},
        ValueError,
        "key and value must have the same number of heads",
    ),
    "float mask": ([X, X, X], {"mask": np.zeros((2, 2))}, TypeError, "mask.*float64.*a bias"),
    "mask a list": ([X, X, X], {"mask": [[True]]}, TypeError, "mask must be a boolean.*list"),
    "mask shape": ([X, X, X], {"mask": X > 0}, ValueError, r"mask must broadcast.*\(2, 2\)"),
    "mask batch": (
        [X, X, X],
        {"mask": reference.padding([1, 2], 2)},
        ValueError,
        r"mask must broadcast.*got \(2, 1, 1, 2\)",
    ),
    "integer bias": ([X, X, X], {"bias": np.ones((2, 2), int)}, TypeError, "bias must hold float"),
    "bias shape": ([X, X, X], {"bias": X}, ValueError, r"bias must broadcast.*\(2, 3\)"),
    "softcap": ([X, X, X], {"softcap": 0.0}, ValueError, "softcap must be above 0, got 0.0"),
    "softcap infinite": ([X, X, X], {"softcap": np.inf}, ValueError, "softcap must be finite"),
    "scale infinite": ([X, X, X], {"scale": np.inf}, ValueError, "scale must be finite, got inf"),
    "scale a word": ([X, X, X], {"scale": "big"}, TypeError, "scale must be a number, got 'big'"),
    "score a word": ([X, X, X], {"score": "dot"}, TypeError, "score must be a function"),
    "normalizer a word": ([X, X, X], {"normalizer": "softmax"}, TypeError, "normalizer must be a"),
    "no heads": ([X[None][:0], X, X], {}, ValueError, r"heads.*at least 1.*\(0, 2, 3\)"),
    "score": ([X, X, X], {"score": lambda q, k: q}, ValueError, "what score returns.*broadcast"),
    "normalizer": (
        [X, X, X],
        {"normalizer": lambda scores, dim: scores[:1]},
        ValueError,
        "what normalizer returns must have shape",
    ),
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_attention_refuses(call):
    arguments, options, error, message = call
    with pytest.raises(error, match=message):
        reference.attention(*arguments, **options)
    with pytest.raises(error):
        reference.attention_backward(np.ones((2, 3)), *arguments, **options)


BAD_SCORES = {
    "weight": lambda: reference.bilinear(X, X, np.ones((2, 3))),
    "query_weight": lambda: reference.additive(X, X, np.ones((4, 2)), np.ones((4, 3)), np.ones(4)),
    "key_weight": lambda: reference.additive(X, X, np.ones((4, 3)), np.ones((5, 3)), np.ones(4)),
    "score_vector": lambda: reference.additive(
        X, X, np.ones((4, 3)), np.ones((4, 3)), np.ones((4, 1))
    ),
    "query and key": lambda: reference.cosine(X, np.ones((2, 4))),
}


@pytest.mark.parametrize("name", ["scaled_dot", "cosine"])
def test_scores_that_divide_need_a_width(name):
    empty = X[:, :0]
    with pytest.raises(ValueError, match="query must have a width of at least 1"):
        getattr(reference, name)(empty, empty)
    with pytest.raises(ValueError, match="query must have a width of at least 1"):
        getattr(reference, f"{name}_backward")(np.ones((2, 2)), empty, empty)


@pytest.mark.parametrize(("name", "call"), BAD_SCORES.items(), ids=BAD_SCORES.keys())
def test_scores_refuse(name, call):
    with pytest.raises(ValueError, match=rf"^{name} must have"):
        call()


def test_loops_refuse_what_is_no_matrix():
    with pytest.raises(ValueError, match="query must have shape"):
        reference.attention_loops(np.ones((1, 2, 3)), X, X)
    with pytest.raises(ValueError, match="key must have shape"):
        reference.attention_loops(X, np.ones((4, 3)), X)
    with pytest.raises(ValueError, match="mask must have shape"):
        reference.attention_loops(X, X, X, X > 0)
    with pytest.raises(TypeError, match="mask must be a boolean"):
        reference.attention_loops(X, X, X, np.ones((2, 2)))
