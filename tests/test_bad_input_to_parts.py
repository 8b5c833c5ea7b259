"""Masks, scores, normalisers, positions and layers refuse bad input as attention does.

A table of call × defect: each row holds the call, the error, and the parts of its message.
"""

import pytest
import torch
from refusals import assert_refuses

from attn_core import attention, kernels, masks, normalizers, positions, scores
from attn_core.modules import AttentionPooling, MultiHeadAttention, SelfAttention

X = torch.ones(2, 4)  # two queries, or two keys, of width 4
BATCH = torch.ones(2, 3, 4)
TABLE = torch.ones(2, 2, dtype=torch.bool)
ELSEWHERE = {"device": "meta"}


def enter(kernel):
    with kernels.use(kernel):
        pass


two_heads = MultiHeadAttention(4, 2, key_dim=3, value_dim=5)
OTHERS = {
    "attention unknown argument": (lambda: attention(X, X, X, masks=None), TypeError, ["masks"]),
    "which unknown argument": (lambda: kernels.which(X, X, X, masks=None), TypeError, ["masks"]),
    "use unknown kernel": (lambda: enter("flash"), ValueError, ["kernel", "'flash'", "sdpa"]),
    "use no name": (lambda: enter(None), ValueError, ["kernel", "None"]),
    "window left float": (lambda: masks.window(1.5, 0), TypeError, ["left", "1.5"]),
    "window left bool": (lambda: masks.window(True, 0), TypeError, ["left", "True"]),
    "window left negative": (lambda: masks.window(-1, 0), ValueError, ["left", "-1"]),
    "window right negative": (lambda: masks.window(0, -2), ValueError, ["right", "-2"]),
    "window right name": (lambda: masks.window(0, "all"), TypeError, ["right", "'all'"]),
    "padding floats": (lambda: masks.padding([1.5]), TypeError, ["lengths", "float32"]),
    "padding bools": (lambda: masks.padding([True]), TypeError, ["lengths", "bool"]),
    "padding complex": (
        lambda: masks.padding(torch.ones(1, dtype=torch.complex128)),
        TypeError,
        ["lengths", "complex128"],
    ),
    "padding None": (lambda: masks.padding(None), TypeError, ["lengths", "None"]),
    "padding text": (lambda: masks.padding("12"), TypeError, ["lengths", "'12'"]),
    "padding number": (lambda: masks.padding(3), ValueError, ["lengths", "3"]),
    "padding empty": (lambda: masks.padding([]), ValueError, ["lengths", "[]"]),
    "padding nested": (
        lambda: masks.padding([[1, 2]]),
        ValueError,
        ["lengths", "0 and 1", "1 to 2"],
    ),
    "padding cube": (lambda: masks.padding([[[1]]]), ValueError, ["lengths", "[[[1]]]"]),
    "padding table of floats": (lambda: masks.padding([[1.0]]), TypeError, ["lengths", "float32"]),
    "padding table below 0": (lambda: masks.padding([[1, -1]]), ValueError, ["lengths", "-1 to 1"]),
    "padding table empty": (lambda: masks.padding([[]]), ValueError, ["lengths", "[[]]"]),
    "padding table of other keys": (
        lambda: masks.padding([[1, 0]]).dense(3, 3),
        ValueError,
        ["padding(1×2)", "2 keys", "got 3"],
    ),
    "padding ragged": (lambda: masks.padding([[1], [1, 2]]), TypeError, ["lengths", "[1, 2]"]),
    "padding negative": (lambda: masks.padding([2, -1]), ValueError, ["lengths", "-1"]),
    "dense floats": (lambda: masks.dense(torch.ones(2, 2)), TypeError, ["table", "float32"]),
    "dense list": (lambda: masks.dense([[True]]), TypeError, ["table", "list"]),
    "dense vector": (lambda: masks.dense(TABLE[0]), ValueError, ["table", "(2,)"]),
    "dense five dimensions": (
        lambda: masks.dense(TABLE[None, None, None]),
        ValueError,
        ["table", "(1, 1, 1, 2, 2)"],
    ),
    "mask and tensor": (lambda: masks.causal() & TABLE, TypeError, ["Tensor", "masks.dense"]),
    "mask or None": (lambda: masks.causal() | None, TypeError, ["NoneType"]),
    "masks of two batches": (
        lambda: masks.padding([1, 2]) & masks.padding([1, 2, 3]),
        ValueError,
        ["batch", "2", "3", "padding([1, 2])", "padding([1, 2, 3])"],
    ),
    "masks of two lengths": (
        lambda: masks.dense(TABLE) | ~masks.dense(torch.ones(2, 5) > 0),
        ValueError,
        ["k_len", "2", "5", "dense(2×2)", "dense(2×5)"],
    ),
    "masks on two devices": (
        lambda: masks.dense(TABLE) & masks.dense(TABLE.to(**ELSEWHERE)),
        ValueError,
        ["dense(2×2)", "cpu", "meta"],
    ),
    "mask table no offset": (
        lambda: masks.causal().dense(2, 5),
        ValueError,
        ["q_offset", "2 queries", "5 keys", "q_offset=0", "q_offset=3"],
    ),
    "mask table negative length": (
        lambda: masks.causal().dense(-1, 5, 0),
        ValueError,
        ["q_len", "-1"],
    ),
    "mask table float length": (
        lambda: masks.causal().dense(2, 5.0, 0),
        TypeError,
        ["k_len", "5.0"],
    ),
    "mask table float offset": (
        lambda: masks.causal().dense(2, 5, 0.5),
        TypeError,
        ["q_offset", "0.5"],
    ),
    "mask predicate of numbers": (
        lambda: masks.Mask(lambda at: at.key - at.query, "numbers").dense(2, 2),
        TypeError,
        ["numbers", "bool", "int64"],
    ),
    "sinusoidal length float": (
        lambda: positions.sinusoidal(2.0, 4),
        TypeError,
        ["length", "2.0"],
    ),
    "sinusoidal length negative": (
        lambda: positions.sinusoidal(-1, 4),
        ValueError,
        ["length", "-1"],
    ),
    "sinusoidal dim zero": (lambda: positions.sinusoidal(2, 0), ValueError, ["dim", "0"]),
    "sinusoidal base zero": (lambda: positions.sinusoidal(2, 4, 0), ValueError, ["base", "0"]),
    "sinusoidal base name": (lambda: positions.sinusoidal(2, 4, "e"), TypeError, ["base", "'e'"]),
    "sinusoidal base infinite": (
        lambda: positions.sinusoidal(2, 4, float("inf")),
        ValueError,
        ["base", "inf"],
    ),
    "SinusoidalEncoding dim": (lambda: positions.SinusoidalEncoding(0), ValueError, ["dim", "0"]),
    "SinusoidalEncoding base": (
        lambda: positions.SinusoidalEncoding(4, base=-1.0),
        ValueError,
        ["base", "-1.0"],
    ),
    "SinusoidalEncoding width": (
        lambda: positions.SinusoidalEncoding(4)(X[:, :3]),
        ValueError,
        ["x", "4", "(2, 3)"],
    ),
    "SinusoidalEncoding integers": (
        lambda: positions.SinusoidalEncoding(4)(X.long()),
        TypeError,
        ["x", "int64"],
    ),
    "SinusoidalEncoding offset": (
        lambda: positions.SinusoidalEncoding(4)(X, offset=-1),
        ValueError,
        ["offset", "-1"],
    ),
    "LearnedEncoding max_len": (
        lambda: positions.LearnedEncoding(0, 4),
        ValueError,
        ["max_len", "0"],
    ),
    "LearnedEncoding dim": (lambda: positions.LearnedEncoding(4, "a"), TypeError, ["dim", "'a'"]),
    "LearnedEncoding vector": (
        lambda: positions.LearnedEncoding(3, 4)(X[0]),
        ValueError,
        ["x", "(4,)"],
    ),
    "LearnedEncoding list": (
        lambda: positions.LearnedEncoding(3, 4)([1.0]),
        TypeError,
        ["x", "list"],
    ),
    "LearnedEncoding too long": (
        lambda: positions.LearnedEncoding(3, 4)(X, offset=2),
        ValueError,
        ["x", "position 3", "max_len is 3"],
    ),
    "Bilinear size": (lambda: scores.Bilinear(0, 4), ValueError, ["query_dim", "0"]),
    "Bilinear float size": (lambda: scores.Bilinear(4, 4.0), TypeError, ["key_dim", "4.0"]),
    "Additive size": (lambda: scores.Additive(4, 4, -1), ValueError, ["hidden_dim", "-1"]),
    "AttentionPooling size": (lambda: AttentionPooling(0), ValueError, ["dim", "0"]),
    "SelfAttention size": (lambda: SelfAttention(4, head_dim=0), ValueError, ["head_dim", "0"]),
    "SelfAttention float size": (lambda: SelfAttention(4.0), TypeError, ["dim", "4.0"]),
    "MultiHeadAttention heads": (lambda: MultiHeadAttention(4, 0), ValueError, ["heads", "0"]),
    "MultiHeadAttention dim": (lambda: MultiHeadAttention(4, 3), ValueError, ["dim 4", "heads 3"]),
    "MultiHeadAttention groups": (
        lambda: MultiHeadAttention(8, 4, kv_heads=3),
        ValueError,
        ["heads 4", "kv_heads 3"],
    ),
    "MultiHeadAttention kv_heads": (
        lambda: MultiHeadAttention(8, 4, kv_heads=0),
        ValueError,
        ["kv_heads", "0"],
    ),
    "MultiHeadAttention key_dim": (
        lambda: MultiHeadAttention(8, 4, key_dim="a"),
        TypeError,
        ["key_dim", "'a'"],
    ),
    "MultiHeadAttention dropout": (
        lambda: MultiHeadAttention(8, 4, dropout=1.0),
        ValueError,
        ["dropout", "1.0"],
    ),
    "MultiHeadAttention dropout name": (
        lambda: MultiHeadAttention(8, 4, dropout="no"),
        TypeError,
        ["dropout", "'no'"],
    ),
    "MultiHeadAttention lengths": (
        lambda: two_heads(BATCH, BATCH[..., :3], torch.ones(2, 1, 5)),
        ValueError,
        ["key and value", "length"],
    ),
    "MultiHeadAttention key width": (
        lambda: two_heads(BATCH, BATCH, torch.ones(2, 3, 5)),
        ValueError,
        ["key", "3", "(2, 3, 4)"],
    ),
    "MultiHeadAttention value width": (
        lambda: two_heads(BATCH, BATCH[..., :3]),
        ValueError,
        ["value", "5", "(2, 3, 3)"],
    ),
    "from_torch of another layer": (
        lambda: MultiHeadAttention.from_torch(torch.nn.Linear(2, 2)),
        TypeError,
        ["layer", "Linear"],
    ),
}


@pytest.mark.parametrize(("call", "raises", "says"), OTHERS.values(), ids=OTHERS.keys())
def test_every_other_call_refuses(call, raises, says):
    assert_refuses(call, raises, says)


SCORES = {
    "dot": scores.dot,
    "scaled_dot": scores.scaled_dot,
    "cosine": scores.cosine,
    "Bilinear": scores.Bilinear(4, 4),
    "Additive": scores.Additive(4, 4, 3),
}
BAD_PAIRS = {
    "query is a list": ([[1.0]], X, TypeError, ["query", "list"]),
    "key is None": (X, None, TypeError, ["key", "NoneType"]),
    "query holds integers": (X.long(), X, TypeError, ["query", "int64"]),
    "query is a vector": (X[0], X, ValueError, ["query", "(4,)"]),
    "key is a vector": (X, X[0], ValueError, ["key", "(4,)"]),
    "key has another width": (X, X[:, :3], ValueError, ["key", "(2, 3)"]),
    "key has another dtype": (X, X.double(), TypeError, ["key", "float64", "float32"]),
    "key is elsewhere": (X, X.to(**ELSEWHERE), ValueError, ["key", "meta", "cpu"]),
    "batches do not broadcast": (
        BATCH,
        torch.ones(5, 3, 4),
        ValueError,
        ["query and key", "(2, 3, 4)", "(5, 3, 4)"],
    ),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
@pytest.mark.parametrize(
    ("query", "key", "raises", "says"), BAD_PAIRS.values(), ids=BAD_PAIRS.keys()
)
def test_every_score_refuses(score, query, key, raises, says):
    assert_refuses(lambda: score(query, key), raises, says)


@pytest.mark.parametrize("score", ["scaled_dot", "cosine"])
def test_scores_that_divide_refuse_vectors_without_width(score):
    assert_refuses(
        lambda: SCORES[score](X[:, :0], X[:, :0]), ValueError, ["query and key", "(2, 0)"]
    )


@pytest.mark.parametrize("score", ["Bilinear", "Additive"])
def test_learned_scores_refuse_another_dtype(score):
    both = X.double()
    assert_refuses(lambda: SCORES[score](both, both), TypeError, ["query", "float64", "float32"])


BAD_SCORES = {
    "a list": ([1.0], -1, TypeError, ["scores", "list"]),
    "integers": (X.long(), -1, TypeError, ["scores", "int64"]),
    "no such dimension": (X, 2, ValueError, ["(2, 4)", "dim 2"]),
    "no dimension at all": (torch.tensor(1.0), -1, ValueError, ["()", "dim -1"]),
    "dimension by name": (X, "keys", TypeError, ["dim", "'keys'"]),
}


@pytest.mark.parametrize("name", ["softmax", "sparsemax", "hard"])
@pytest.mark.parametrize(
    ("rows", "dim", "raises", "says"), BAD_SCORES.values(), ids=BAD_SCORES.keys()
)
def test_every_normalizer_refuses(name, rows, dim, raises, says):
    assert_refuses(lambda: getattr(normalizers, name)(rows, dim), raises, says)


LAYERS = {
    "AttentionPooling": (AttentionPooling(4), "x"),
    "SelfAttention": (SelfAttention(4), "x"),
    "MultiHeadAttention": (MultiHeadAttention(4, 2), "query"),
}
BAD_BATCHES = {
    "a list": ([[[1.0]]], TypeError, ["list"]),
    "integers": (BATCH.long(), TypeError, ["int64"]),
    "no batch": (X, ValueError, ["(batch, length, 4)", "(2, 4)"]),
    "another width": (BATCH[..., :3], ValueError, ["4)", "(2, 3, 3)"]),
    "another dtype": (BATCH.double(), TypeError, ["float64", "float32"]),
    "elsewhere": (BATCH.to(**ELSEWHERE), ValueError, ["meta", "cpu"]),
}
BAD_LAYER_MASKS = {
    "of three dimensions": (torch.ones(2, 3, 3) > 0, ValueError, ["mask", "(2, 3, 3)"]),
    "of floats": (torch.ones(1, 3), TypeError, ["mask", "float32", "bias"]),
    "of another length": (torch.ones(1, 5) > 0, ValueError, ["mask", "(1, 5)"]),
    "of another batch": (masks.padding([1, 2, 3]), ValueError, ["padding([1, 2, 3])", "3 batch"]),
    "a list": ([[True]], TypeError, ["mask", "list"]),
}


@pytest.mark.parametrize(("layer", "name"), LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize(("x", "raises", "says"), BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_every_layer_refuses_a_bad_batch(layer, name, x, raises, says):
    assert_refuses(lambda: layer(x), raises, [name, *says])


@pytest.mark.parametrize(("layer", "name"), LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize(
    ("mask", "raises", "says"), BAD_LAYER_MASKS.values(), ids=BAD_LAYER_MASKS.keys()
)
def test_every_layer_refuses_a_bad_mask(layer, name, mask, raises, says):
    assert_refuses(lambda: layer(BATCH, mask=mask), raises, says)
