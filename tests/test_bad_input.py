"""Bad input gives a ValueError or a TypeError that names the argument and says what was seen.

A table of call × defect: each row holds the call, the error, and the parts of its message.
"""

import pytest
import torch
from refusals import assert_refuses

from attn_core import attention, kernels, masks, scores

X = torch.ones(2, 4)  # two queries, or two keys, of width 4
BATCH = torch.ones(2, 3, 4)
TABLE = torch.ones(2, 2, dtype=torch.bool)
ELSEWHERE = {"device": "meta"}


def heads(count, length=2):
    return torch.ones(3, count, length, 4)


ATTENTION = {
    "query is a list": ([[[1.0]], X, X], {}, TypeError, ["query", "list"]),
    "key is None": ([X, None, X], {}, TypeError, ["key", "NoneType"]),
    "value is NumPy": ([X, X, X.numpy()], {}, TypeError, ["value", "ndarray", "reference"]),
    "query holds integers": ([X.long(), X, X], {}, TypeError, ["query", "int64"]),
    "key holds complex numbers": ([X, X.cfloat(), X], {}, TypeError, ["key", "complex64"]),
    "value holds bools": ([X, X, X > 0], {}, TypeError, ["value", "bool"]),
    "query is a vector": ([X[0], X, X], {}, ValueError, ["query", "(4,)"]),
    "key is a vector": ([X, X[0], X], {}, ValueError, ["key", "(4,)"]),
    "value is a number": ([X, X, torch.tensor(1.0)], {}, ValueError, ["value", "()"]),
    "key of another dtype": ([X, X.half(), X], {}, TypeError, ["key", "float16", "float32"]),
    "value of another dtype": ([X, X, X.double()], {}, TypeError, ["value", "float64"]),
    "key on another device": ([X, X.to(**ELSEWHERE), X], {}, ValueError, ["key", "meta", "cpu"]),
    "value on another device": ([X, X, X.to(**ELSEWHERE)], {}, ValueError, ["value", "meta"]),
    "widths differ": ([X, X[:, :3], X], {}, ValueError, ["query and key", "(2, 4)", "(2, 3)"]),
    "no width": ([X[:, :0], X[:, :0], X], {}, ValueError, ["query and key", "(2, 0)"]),
    "lengths differ": ([X, X, X[:1]], {}, ValueError, ["key and value", "(2, 4)", "(1, 4)"]),
    "heads do not divide": (
        [heads(3), heads(2), heads(2)],
        {},
        ValueError,
        ["heads of query", "(3, 3, 2, 4)", "(3, 2, 2, 4)"],
    ),
    "fewer query heads": ([heads(2), heads(4), heads(4)], {}, ValueError, ["heads of query"]),
    "no heads": (
        [heads(0), heads(1), heads(1)],
        {},
        ValueError,
        ["heads of query", "(3, 0, 2, 4)"],
    ),
    "heads of value": (
        [heads(4), heads(2), heads(4)],
        {},
        ValueError,
        ["key and value", "heads", "(3, 2, 2, 4)", "(3, 4, 2, 4)"],
    ),
    "batches do not broadcast": (
        [torch.ones(2, 1, 2, 4), torch.ones(3, 1, 2, 4), X],
        {},
        ValueError,
        ["query, key and value", "(2, 1, 2, 4)", "(3, 1, 2, 4)"],
    ),
    "float mask": ([X, X, X], {"mask": torch.zeros(2, 2)}, TypeError, ["mask", "float32", "bias"]),
    "integer mask": ([X, X, X], {"mask": TABLE.int()}, TypeError, ["mask", "int32", "True"]),
    "mask is a list": ([X, X, X], {"mask": [[True]]}, TypeError, ["mask", "list"]),
    "mask is a function": ([X, X, X], {"mask": masks.causal}, TypeError, ["mask", "function"]),
    "mask too large": (
        [X, X, X],
        {"mask": torch.ones(3, 2) > 0},
        ValueError,
        ["mask", "(3, 2)", "(1, 2, 2)"],
    ),
    "mask with a batch of its own": (
        [X, X, X],
        {"mask": torch.ones(5, 1, 2, 2) > 0},
        ValueError,
        ["mask", "(5, 1, 2, 2)"],
    ),
    "mask with the heads of the keys": (
        [heads(4), heads(2), heads(2)],
        {"mask": torch.ones(2, 2, 2) > 0},
        ValueError,
        ["mask", "(2, 2, 2)", "(3, 4, 2, 2)"],
    ),
    "mask on another device": (
        [X, X, X],
        {"mask": TABLE.to(**ELSEWHERE)},
        ValueError,
        ["mask", "meta", "cpu"],
    ),
    "dense mask on another device": (
        [X, X, X],
        {"mask": masks.dense(TABLE.to(**ELSEWHERE))},
        ValueError,
        ["mask dense(2×2)", "meta", "cpu"],
    ),
    "mask for other lengths": (
        [X, X, X],
        {"mask": masks.dense(torch.ones(2, 5) > 0)},
        ValueError,
        ["mask dense(2×5)", "5 keys", "got 2"],
    ),
    "mask for other queries": (
        [X, X, X],
        {"mask": masks.dense(torch.ones(5, 2) > 0)},
        ValueError,
        ["mask dense(5×2)", "5 queries", "got 2"],
    ),
    "padding longer than the keys": (
        [heads(1), heads(1), heads(1)],
        {"mask": masks.padding([1, 2, 7])},
        ValueError,
        ["mask padding([1, 2, 7])", "7 keys", "got 2"],
    ),
    "padding longer than the keys, second of two": (
        [heads(1), heads(1), heads(1)],
        {"mask": masks.causal() & ~masks.padding([1, 2, 7])},
        ValueError,
        ["mask causal() & ~padding([1, 2, 7])", "7 keys", "got 2"],
    ),
    "padding for another batch": (
        [heads(1), heads(1), heads(1)],
        {"mask": masks.padding([1, 2])},
        ValueError,
        ["mask padding([1, 2])", "2 batch entries", "(3, 1, 2, 4)"],
    ),
    "padding of a batch without heads": (
        [BATCH, BATCH, BATCH],
        {"mask": masks.padding([1, 2])},
        ValueError,
        ["mask padding([1, 2])", "(2, 3, 4)", "query[:, None]"],
    ),
    "mask for other heads": (
        [heads(4), heads(1), heads(1)],
        {"mask": masks.dense(torch.ones(2, 2, 2) > 0)},
        ValueError,
        ["mask dense(2×2×2)", "2 heads", "4"],
    ),
    "no q_offset": (
        [X[:1], X, X],
        {"mask": masks.causal()},
        ValueError,
        ["causal()", "1 queries", "2 keys", "q_offset"],
    ),
    "q_offset is a float": ([X, X, X], {"q_offset": 1.0}, TypeError, ["q_offset", "1.0"]),
    "q_offset is a bool": ([X, X, X], {"q_offset": True}, TypeError, ["q_offset", "True"]),
    "q_offset holds floats": (
        [X, X, X],
        {"q_offset": torch.ones(1)},
        TypeError,
        ["q_offset", "float32"],
    ),
    "q_offset is a matrix": (
        [X, X, X],
        {"q_offset": TABLE.long()},
        ValueError,
        ["q_offset", "(2, 2)"],
    ),
    "q_offset for another batch": (
        [heads(1), heads(1), heads(1)],
        {"mask": masks.causal(), "q_offset": torch.tensor([0, 1])},
        ValueError,
        ["q_offset", "2 batch entries", "(3, 1, 2, 4)"],
    ),
    "q_offset for another batch than the mask": (
        [heads(1), heads(1), heads(1)],
        {"mask": masks.padding([1, 1, 1]), "q_offset": torch.tensor([0, 1])},
        ValueError,
        ["q_offset", "2 entries", "3 batch entries"],
    ),
    "bias is a number": ([X, X, X], {"bias": 1.0}, TypeError, ["bias", "float"]),
    "bias is bool": ([X, X, X], {"bias": TABLE}, TypeError, ["bias", "bool", "mask"]),
    "bias holds integers": ([X, X, X], {"bias": TABLE.int()}, TypeError, ["bias", "int32"]),
    "bias of another dtype": (
        [X, X, X],
        {"bias": torch.ones(2, 2).double()},
        TypeError,
        ["bias", "float64", "float32"],
    ),
    "bias too large": (
        [X, X, X],
        {"bias": torch.ones(2, 3)},
        ValueError,
        ["bias", "(2, 3)", "(1, 2, 2)"],
    ),
    "bias on another device": (
        [X, X, X],
        {"bias": torch.ones(2, 2, **ELSEWHERE)},
        ValueError,
        ["bias", "meta"],
    ),
    "score is a name": ([X, X, X], {"score": "dot"}, TypeError, ["score", "'dot'"]),
    "normalizer is a name": ([X, X, X], {"normalizer": "hard"}, TypeError, ["normalizer", "hard"]),
    "scale is a name": ([X, X, X], {"scale": "no"}, TypeError, ["scale", "'no'"]),
    "scale of scaled_dot is a name": (
        [X, X, X],
        {"scale": "no", "score": scores.scaled_dot},
        TypeError,
        ["scale", "'no'"],
    ),
    "scale is a tensor": ([X, X, X], {"scale": torch.ones(1)}, TypeError, ["scale", "tensor"]),
    "scale is NaN": ([X, X, X], {"scale": float("nan")}, ValueError, ["scale", "nan"]),
    "scale is infinite": ([X, X, X], {"scale": float("inf")}, ValueError, ["scale", "inf"]),
    "softcap is zero": ([X, X, X], {"softcap": 0.0}, ValueError, ["softcap", "0.0"]),
    "softcap is negative": ([X, X, X], {"softcap": -1}, ValueError, ["softcap", "-1"]),
    "softcap is infinite": ([X, X, X], {"softcap": float("inf")}, ValueError, ["softcap", "inf"]),
    "softcap is a bool": ([X, X, X], {"softcap": True}, TypeError, ["softcap", "True"]),
    "dropout_p is one": ([X, X, X], {"dropout_p": 1.0}, ValueError, ["dropout_p", "1.0"]),
    "dropout_p is negative": ([X, X, X], {"dropout_p": -0.1}, ValueError, ["dropout_p", "-0.1"]),
    "dropout_p is None": ([X, X, X], {"dropout_p": None}, TypeError, ["dropout_p", "None"]),
    "dropout_p is a bool": ([X, X, X], {"dropout_p": False}, TypeError, ["dropout_p", "False"]),
}


@pytest.mark.parametrize("kernel", [None, "explicit", "sdpa"])
@pytest.mark.parametrize("call", [attention, kernels.which], ids=["attention", "which"])
@pytest.mark.parametrize(
    ("tensors", "options", "raises", "says"), ATTENTION.values(), ids=ATTENTION.keys()
)
def test_attention_refuses(call, tensors, options, raises, says, kernel):
    if kernel is None:
        assert_refuses(lambda: call(*tensors, **options), raises, says)
    else:
        with kernels.use(kernel):
            assert_refuses(lambda: call(*tensors, **options), raises, says)


RESULTS = {
    "score returns None": ({"score": lambda q, k: None}, TypeError, ["score", "NoneType"]),
    "score returns the query": ({"score": lambda q, k: q}, ValueError, ["score", "(1, 2, 4)"]),
    "score makes a batch": (
        {"score": lambda q, k: torch.ones(5, 1, 2, 2)},
        ValueError,
        ["score", "(5, 1, 2, 2)", "(1, 2, 2)"],
    ),
    "normalizer returns a list": (
        {"normalizer": lambda scores, dim: [1.0]},
        TypeError,
        ["normalizer", "list"],
    ),
    "normalizer drops a row": (
        {"normalizer": lambda scores, dim: scores[..., :1, :]},
        ValueError,
        ["normalizer", "(1, 1, 2)", "(1, 2, 2)"],
    ),
}


@pytest.mark.parametrize(("options", "raises", "says"), RESULTS.values(), ids=RESULTS.keys())
def test_attention_refuses_what_a_callable_returns(options, raises, says):
    assert_refuses(lambda: attention(X, X, X, **options), raises, says)
