"""Linear attention and the delta rule refuse bad input by name: a table of call × defect."""

import numpy as np
import pytest
import torch
from refusals import assert_refuses

from attn_core import masks, reference
from attn_core.kernels import delta_rule, elu_plus_one, linear_attention

X = torch.ones(3, 4)
HEADS = torch.ones(2, 3, 4)
BATCH = torch.ones(2, 2, 3, 4)
ELSEWHERE = {"device": "meta"}

# What both refuse: (query, key, value), options, error, parts of the message.
BOTH = {
    "a list": (([[1.0]], X, X), {}, TypeError, ["query", "list"]),
    "an array": ((X, np.ones((3, 4)), X), {}, TypeError, ["key", "ndarray", "reference"]),
    "integers": ((X.long(), X, X), {}, TypeError, ["query", "int64"]),
    "another dtype": ((X, X, X.double()), {}, TypeError, ["value", "float64", "float32"]),
    "a vector": ((X[0], X, X), {}, ValueError, ["query", "(4,)"]),
    "another width": ((X[:, :3], X, X), {}, ValueError, ["width", "(3, 3)", "(3, 4)"]),
    "another length": ((X, X, X[:2]), {}, ValueError, ["key and value", "(3, 4)", "(2, 4)"]),
    "other heads": ((HEADS, torch.ones(4, 3, 4), HEADS), {}, ValueError, ["heads", "(4, 3, 4)"]),
    "another batch": (
        (torch.ones(3, 2, 3, 4), BATCH, BATCH),
        {},
        ValueError,
        ["broadcast", "(3, 2, 3, 4)"],
    ),
    "elsewhere": ((X, X.to(**ELSEWHERE), X), {}, ValueError, ["key", "meta", "cpu"]),
    "causal mask": ((X, X, X), {"mask": masks.causal()}, ValueError, ["mask", "causal()", "real"]),
    "table": ((X, X, X), {"mask": torch.ones(3, 3) > 0}, ValueError, ["mask", "(1, 3, 3)"]),
    "mask of heads": (
        (HEADS, HEADS, HEADS),
        {"mask": torch.ones(2, 1, 3) > 0},
        ValueError,
        ["mask", "(2, 1, 3)"],
    ),
    "float mask": ((X, X, X), {"mask": torch.ones(3)}, TypeError, ["mask", "float32"]),
    "mask of another length": (
        (X, X, X),
        {"mask": torch.ones(5) > 0},
        ValueError,
        ["mask", "(1, 5)"],
    ),
    "padding of another batch": (
        (BATCH, BATCH, BATCH),
        {"mask": masks.padding([1, 2, 3])},
        ValueError,
        ["padding([1, 2, 3])", "3"],
    ),
    "chunk of 3": ((X, X, X), {"chunk_size": 3}, ValueError, ["chunk_size", "power of 2", "3"]),
    "chunk of 0": ((X, X, X), {"chunk_size": 0}, ValueError, ["chunk_size", "0"]),
    "chunk of text": ((X, X, X), {"chunk_size": "64"}, TypeError, ["chunk_size", "'64'"]),
    "state of another shape": (
        (X, X, X),
        {"past_state": torch.ones(4, 3)},
        ValueError,
        ["past_state", "(4, 3)"],
    ),
    "state with heads": (
        (X, X, X),
        {"past_state": torch.ones(1, 4, 4)},
        ValueError,
        ["past_state", "(1, 4, 4)"],
    ),
    "state of integers": (
        (X, X, X),
        {"past_state": torch.ones(4, 4).long()},
        TypeError,
        ["past_state", "int64"],
    ),
    "state in a list": ((X, X, X), {"past_state": [1.0]}, TypeError, ["past_state", "list"]),
    "state elsewhere": (
        (X, X, X),
        {"past_state": torch.ones(4, 4, **ELSEWHERE)},
        ValueError,
        ["past_state", "meta", "cpu"],
    ),
    "an unknown argument": ((X, X, X), {"bias": X}, TypeError, ["bias"]),
}


@pytest.mark.parametrize("kernel", [linear_attention, delta_rule])
@pytest.mark.parametrize(("inputs", "options", "raises", "says"), BOTH.values(), ids=BOTH.keys())
def test_both_refuse(kernel, inputs, options, raises, says):
    assert_refuses(lambda: kernel(*inputs, **options), raises, says)


LINEAR = {
    "no feature map": ({"feature_map": None}, TypeError, ["feature_map", "None"]),
    "a name": ({"feature_map": "elu"}, TypeError, ["feature_map", "'elu'"]),
    "a map to a list": ({"feature_map": lambda x: x.tolist()}, TypeError, ["feature_map", "list"]),
    "a map that drops a token": (
        {"feature_map": lambda x: x[..., 1:, :]},
        ValueError,
        ["feature_map", "query", "2"],
    ),
    "a map to another dtype": (
        {"feature_map": lambda x: x.half()},
        ValueError,
        ["feature_map", "float16", "float32"],
    ),
}


@pytest.mark.parametrize(("options", "raises", "says"), LINEAR.values(), ids=LINEAR.keys())
def test_linear_attention_refuses(options, raises, says):
    assert_refuses(lambda: linear_attention(X, X, X, **options), raises, says)


def test_causal_needs_as_many_queries_as_keys():
    assert_refuses(
        lambda: linear_attention(X[:2], X, X, causal=True),
        ValueError,
        ["causal", "(2, 4)", "(3, 4)", "past_state"],
    )
    assert_refuses(lambda: delta_rule(X[:2], X, X), ValueError, ["length", "(2, 4)", "(3, 4)"])
    assert_refuses(lambda: elu_plus_one(X.long()), TypeError, ["x", "int64"])


GATES = {
    "without its own dimension": (torch.ones(2, 2, 3), ValueError, ["(2, 2, 3)"]),
    "of another length": (torch.ones(4, 1), ValueError, ["(4, 1)"]),
    "of query heads": (torch.ones(4, 3, 1), ValueError, ["(4, 3, 1)"]),
    "of another width": (torch.ones(3, 2), ValueError, ["(3, 2)"]),
    "larger than the batch": (torch.ones(5, 2, 2, 3, 1), ValueError, ["(5, 2, 2, 3, 1)"]),
    "of integers": (torch.ones(3, 1).long(), TypeError, ["int64"]),
    "in a list": ([1.0], TypeError, ["list"]),
    "a text": ("1", TypeError, ["str"]),
    "a bool": (True, TypeError, ["True"]),
    "not a number": (float("nan"), ValueError, ["nan"]),
    "elsewhere": (torch.ones(3, 1, **ELSEWHERE), ValueError, ["meta", "cpu"]),
}


@pytest.mark.parametrize("name", ["beta", "decay"])
@pytest.mark.parametrize(("gate", "raises", "says"), GATES.values(), ids=GATES.keys())
def test_the_delta_rule_refuses_a_gate(name, gate, raises, says):
    query = torch.ones(2, 4, 3, 4)
    assert_refuses(lambda: delta_rule(query, BATCH, BATCH, **{name: gate}), raises, [name, *says])


def test_the_delta_rule_refuses_a_beta_for_each_entry_of_a_key():
    assert_refuses(lambda: delta_rule(X, X, X, beta=X), ValueError, ["beta", "(3, 4)"])
    assert_refuses(lambda: delta_rule(X, X, X, scale="1"), TypeError, ["scale", "'1'"])


A = np.ones((3, 4))
IN_NUMPY = {
    "a list": (([[1.0]], A, A), {}, TypeError, ["query", "list"]),
    "integers": ((A.astype(int), A, A), {}, TypeError, ["query", "int64"]),
    "two dtypes": ((A, A, A.astype(np.float32)), {}, TypeError, ["dtype", "float32"]),
    "another width": ((A[:, :2], A, A), {}, ValueError, ["width", "(3, 2)"]),
    "another length": ((A, A, A[:2]), {}, ValueError, ["key and value", "(2, 4)"]),
    "other heads": (
        (np.ones((3, 3, 4)), np.ones((2, 3, 4)), np.ones((2, 3, 4))),
        {},
        ValueError,
        ["heads", "(2, 3, 4)"],
    ),
    "float mask": ((A, A, A), {"mask": A[0]}, TypeError, ["mask", "float64"]),
    "table": ((A, A, A), {"mask": np.ones((3, 3), bool)}, ValueError, ["mask", "(3, 3)"]),
    "mask of another length": ((A, A, A), {"mask": np.ones(5, bool)}, ValueError, ["mask"]),
    "state": ((A, A, A), {"past_state": np.ones((2, 2))}, ValueError, ["past_state", "(2, 2)"]),
    "state in float32": (
        (A, A, A),
        {"past_state": np.ones((4, 4), np.float32)},
        TypeError,
        ["past_state", "float32"],
    ),
}
OF_ONE = {
    "beta": ("delta_rule", {"beta": A}, ValueError, ["beta", "(3, 4)"]),
    "beta text": ("delta_rule", {"beta": "1"}, TypeError, ["beta", "'1'"]),
    "decay": ("delta_rule", {"decay": A[:2]}, ValueError, ["decay", "(2, 4)"]),
    "scale": ("delta_rule", {"scale": np.inf}, ValueError, ["scale", "inf"]),
    "map": ("linear_attention", {"feature_map": 3}, TypeError, ["feature_map", "3"]),
    "map of rows": (
        "linear_attention",
        {"feature_map": lambda x: x[:2], "feature_map_backward": lambda g, x: g},
        ValueError,
        ["feature_map", "(2, 4)"],
    ),
}


@pytest.mark.parametrize("name", ["linear_attention", "delta_rule"])
@pytest.mark.parametrize(
    ("inputs", "options", "raises", "says"), IN_NUMPY.values(), ids=IN_NUMPY.keys()
)
def test_both_twins_refuse(name, inputs, options, raises, says):
    twin, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    assert_refuses(lambda: twin(*inputs, **options), raises, says)
    assert_refuses(lambda: backward(A, *inputs, **options), raises, says)


@pytest.mark.parametrize(("name", "options", "raises", "says"), OF_ONE.values(), ids=OF_ONE.keys())
def test_a_twin_refuses(name, options, raises, says):
    forward_options = {key: x for key, x in options.items() if key != "feature_map_backward"}
    options = dict(options)
    if name == "linear_attention":
        options.setdefault("feature_map_backward", lambda grad, x: grad)
    assert_refuses(lambda: getattr(reference, name)(A, A, A, **forward_options), raises, says)
    backward = getattr(reference, f"{name}_backward")
    assert_refuses(lambda: backward(A, A, A, A, **options), raises, says)


def test_twins_refuse_other_lengths_and_a_gradient_of_another_shape():
    assert_refuses(
        lambda: reference.linear_attention(A[:2], A, A, causal=True),
        ValueError,
        ["causal", "(2, 4)"],
    )
    assert_refuses(
        lambda: reference.delta_rule(A[:2], A, A), ValueError, ["query and key", "(2, 4)"]
    )
    for name in ("linear_attention", "delta_rule"):
        backward = getattr(reference, f"{name}_backward")
        assert_refuses(lambda b=backward: b(A[:2], A, A, A), ValueError, ["grad_output", "(2, 4)"])
    assert_refuses(
        lambda: reference.elu_plus_one_backward(A[:2], A), ValueError, ["grad_features", "(2, 4)"]
    )
    assert_refuses(lambda: reference.elu_plus_one(A.astype(int)), TypeError, ["x", "int64"])
