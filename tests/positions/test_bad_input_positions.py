"""Rotations, biases, encodings and segments refuse bad input and say what they saw.

A table of call × defect: each row holds the call, the error, and the parts of its message.
"""

import numpy as np
import pytest
import torch
from refusals import assert_refuses

from attn_core import attention, positions, reference

X = torch.ones(2, 4)  # two vectors of width 4
HEADS = torch.ones(3, 2, 5, 4)  # batch, heads, length, width
IDS = torch.tensor([0, 1])
ELSEWHERE = {"device": "meta"}
AT = positions.distances(5, 5)


def complex_numbers(n):
    return torch.ones(n, dtype=torch.complex64)


BAD_SETTINGS = {
    "dim odd": ({"dim": 3}, ValueError, ["dim", "even", "3"]),
    "dim zero": ({"dim": 0}, ValueError, ["dim", "0"]),
    "dim negative": ({"dim": -2}, ValueError, ["dim", "-2"]),
    "dim float": ({"dim": 2.0}, TypeError, ["dim", "2.0"]),
    "base zero": ({"base": 0}, ValueError, ["base", "0"]),
    "base name": ({"base": "e"}, TypeError, ["base", "'e'"]),
    "base infinite": ({"base": float("inf")}, ValueError, ["base", "inf"]),
    "pairing unknown": (
        {"pairing": "gptj"},
        ValueError,
        ["pairing", "'half'", "'interleaved'", "'gptj'"],
    ),
    "pairing None": ({"pairing": None}, ValueError, ["pairing", "None"]),
    "scaling a number": ({"scaling": 4.0}, TypeError, ["scaling", "4.0", "LinearScaling"]),
    "scaling a class": ({"scaling": positions.LinearScaling}, TypeError, ["scaling"]),
}


@pytest.mark.parametrize("turn", [lambda **s: positions.rotary(X, **s), positions.Rotary])
@pytest.mark.parametrize(
    ("settings", "raises", "says"), BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys()
)
def test_rotary_refuses_settings(turn, settings, raises, says):
    assert_refuses(lambda: turn(**settings), raises, says)


BAD_VECTORS = {
    "a list": ([[1.0, 2.0]], None, TypeError, ["x", "list"]),
    "integers": (X.long(), None, TypeError, ["x", "int64"]),
    "one vector": (X[0], None, ValueError, ["x", "(4,)"]),
    "odd width": (X[:, :3], None, ValueError, ["x", "even", "(2, 3)", "dim="]),
    "no width": (X[:, :0], None, ValueError, ["x", "even", "(2, 0)"]),
    "positions a list": (X, [0, 1], TypeError, ["positions", "list"]),
    "positions bool": (X, IDS > 0, TypeError, ["positions", "bool"]),
    "positions complex": (X, complex_numbers(2), TypeError, ["positions", "complex64"]),
    "positions too many": (X, torch.arange(3), ValueError, ["positions (3,)", "x (2, 4)"]),
    "positions one": (X, torch.tensor([1]), ValueError, ["positions (1,)", "x (2, 4)"]),
    "positions a number": (X, torch.tensor(1), ValueError, ["positions ()", "x (2, 4)"]),
    "positions elsewhere": (X, IDS.to(**ELSEWHERE), ValueError, ["positions", "meta", "cpu"]),
    "positions of another batch": (
        HEADS,
        torch.ones(2, 5),
        ValueError,
        ["positions (2, 5)", "x (3, 2, 5, 4)"],
    ),
    "positions of another length": (
        HEADS,
        torch.ones(3, 4),
        ValueError,
        ["positions (3, 4)", "x (3, 2, 5, 4)"],
    ),
    "positions for each head": (
        HEADS,
        torch.ones(3, 2, 5),
        ValueError,
        ["positions (3, 2, 5)", "x (3, 2, 5, 4)"],
    ),
    "a batch without heads": (
        HEADS[:, 0],
        torch.ones(3, 5),
        ValueError,
        ["positions (3, 5)", "x (3, 5, 4)", "x[:, None]"],
    ),
}


@pytest.mark.parametrize("turn", [positions.rotary, positions.Rotary()], ids=["function", "layer"])
@pytest.mark.parametrize(
    ("x", "at", "raises", "says"), BAD_VECTORS.values(), ids=BAD_VECTORS.keys()
)
def test_rotary_refuses_vectors(turn, x, at, raises, says):
    assert_refuses(lambda: turn(x, at), raises, says)


linear, ntk, yarn = positions.LinearScaling, positions.NTKScaling, positions.YaRNScaling
t5 = positions.T5Bias(2)
shaw = positions.ShawBias(4, 2, heads=2)
values = positions.ShawValues(4, 2, heads=2)
xl = positions.TransformerXLBias(2, 4)
segments = positions.SegmentEncoding(2, 4)
OTHERS = {
    "dim above width": (lambda: positions.rotary(X, dim=6), ValueError, ["dim 6", "x (2, 4)"]),
    "layer dim above width": (
        lambda: positions.Rotary(6)(X),
        ValueError,
        ["dim 6", "x (2, 4)"],
    ),
    "linear zero": (lambda: linear(0), ValueError, ["factor", "0"]),
    "linear name": (lambda: linear("4"), TypeError, ["factor", "'4'"]),
    "ntk negative": (lambda: ntk(-1.0), ValueError, ["factor", "-1.0"]),
    "ntk of two dimensions": (
        lambda: positions.rotary(X[:, :2], scaling=ntk(2.0)),
        ValueError,
        ["dim", "4", "NTKScaling", "2"],
    ),
    "yarn factor": (lambda: yarn(float("nan"), 10), ValueError, ["factor", "nan"]),
    "yarn length": (lambda: yarn(2.0, 0), ValueError, ["original_length", "0"]),
    "yarn length float": (lambda: yarn(2.0, 10.5), TypeError, ["original_length", "10.5"]),
    "yarn betas": (
        lambda: yarn(2.0, 10, beta_fast=1, beta_slow=2),
        ValueError,
        ["beta_fast 1", "beta_slow 2"],
    ),
    "yarn beta_slow": (lambda: yarn(2.0, 10, beta_slow=0), ValueError, ["beta_slow", "0"]),
    "yarn mscale": (lambda: yarn(2.0, 10, mscale=0), ValueError, ["mscale", "0"]),
    "yarn ramp": (lambda: yarn(2.0, 10, ramp="paper"), ValueError, ["ramp", "'paper'"]),
    "yarn base": (
        lambda: positions.rotary(X, base=1.0, scaling=yarn(2.0, 10)),
        ValueError,
        ["base", "1.0"],
    ),
    "slopes heads": (lambda: positions.alibi_slopes(0), ValueError, ["heads", "0"]),
    "slopes heads float": (lambda: positions.alibi_slopes(2.0), TypeError, ["heads", "2.0"]),
    "slopes unknown": (
        lambda: positions.alibi_slopes(3, "paper"),
        ValueError,
        ["slopes", "'released'", "'geometric'", "'paper'"],
    ),
    "ALiBi heads": (lambda: positions.ALiBi(-1), ValueError, ["heads", "-1"]),
    "ALiBi slopes": (lambda: positions.ALiBi(3, slopes=[1.0]), ValueError, ["slopes", "[1.0]"]),
    "ALiBi no offset": (
        lambda: positions.ALiBi(2).dense(2, 5),
        ValueError,
        ["ALiBi", "q_offset", "2 queries", "5 keys"],
    ),
    "bucket floats": (lambda: positions.t5_bucket(X), TypeError, ["distance", "float32"]),
    "bucket bools": (lambda: positions.t5_bucket(X > 0), TypeError, ["distance", "bool"]),
    "bucket number": (lambda: positions.t5_bucket(3), TypeError, ["distance", "int"]),
    "bucket odd": (
        lambda: positions.t5_bucket(IDS, buckets=7),
        ValueError,
        ["buckets", "even", "7"],
    ),
    "bucket few": (lambda: positions.t5_bucket(IDS, buckets=2), ValueError, ["buckets", "2"]),
    "bucket one": (
        lambda: positions.t5_bucket(IDS, buckets=1, bidirectional=False),
        ValueError,
        ["buckets", "1"],
    ),
    "bucket direction": (
        lambda: positions.t5_bucket(IDS, bidirectional="no"),
        TypeError,
        ["bidirectional", "'no'"],
    ),
    "bucket max_distance": (
        lambda: positions.t5_bucket(IDS, max_distance=8),
        ValueError,
        ["max_distance", "above 8", "got 8"],
    ),
    "T5Bias heads": (lambda: positions.T5Bias(0), ValueError, ["heads", "0"]),
    "T5Bias buckets": (lambda: positions.T5Bias(2, buckets=5), ValueError, ["buckets", "5"]),
    "T5Bias max_distance": (
        lambda: positions.T5Bias(2, max_distance=1.5),
        TypeError,
        ["max_distance", "1.5"],
    ),
    "T5Bias dtype": (
        lambda: t5(X.double(), X.double(), AT),
        TypeError,
        ["query", "float64", "float32"],
    ),
    "ShawBias head_dim": (lambda: positions.ShawBias(0, 2), ValueError, ["head_dim", "0"]),
    "ShawBias max_distance": (
        lambda: positions.ShawBias(4, -1),
        ValueError,
        ["max_distance", "-1"],
    ),
    "ShawBias heads": (lambda: positions.ShawBias(4, 2, heads=0), ValueError, ["heads", "0"]),
    "ShawBias scale": (
        lambda: positions.ShawBias(4, 2, scale="big"),
        TypeError,
        ["scale", "'big'"],
    ),
    "ShawBias width": (
        lambda: shaw(HEADS[..., :3], HEADS, AT),
        ValueError,
        ["query", "4", "(3, 2, 5, 3)"],
    ),
    "ShawBias dtype": (
        lambda: shaw(HEADS.double(), HEADS.double(), AT),
        TypeError,
        ["query", "float64"],
    ),
    "ShawValues value_dim": (lambda: positions.ShawValues(0, 2), ValueError, ["value_dim", "0"]),
    "ShawValues heads": (
        lambda: positions.ShawValues(4, 2, heads=1.5),
        TypeError,
        ["heads", "1.5"],
    ),
    "ShawValues of other heads": (
        lambda: values(torch.ones(3, 5, 5)),
        ValueError,
        ["weights", "2", "(3, 5, 5)"],
    ),
    "ShawValues no heads": (lambda: values(torch.ones(5, 5)), ValueError, ["weights", "(5, 5)"]),
    "ShawValues vector": (
        lambda: positions.ShawValues(4, 2)(torch.ones(5)),
        ValueError,
        ["weights", "(5,)"],
    ),
    "ShawValues list": (lambda: values([[0.5]]), TypeError, ["weights", "list"]),
    "ShawValues dtype": (
        lambda: values(torch.ones(2, 5, 5).double()),
        TypeError,
        ["weights", "float64"],
    ),
    "ShawValues no offset": (
        lambda: values(torch.ones(2, 3, 5)),
        ValueError,
        ["q_offset", "3 queries", "5 keys"],
    ),
    "ShawValues offset": (
        lambda: values(torch.ones(2, 3, 5), 0.5),
        TypeError,
        ["q_offset", "0.5"],
    ),
    "ShawValues offset of another batch": (
        lambda: values(torch.ones(3, 2, 5, 5), torch.tensor([1, 2])),
        ValueError,
        ["q_offset", "2", "(3, 2, 5, 5)"],
    ),
    "XL heads": (lambda: positions.TransformerXLBias(0, 4), ValueError, ["heads", "0"]),
    "XL head_dim": (lambda: positions.TransformerXLBias(2, "a"), TypeError, ["head_dim", "'a'"]),
    "XL dim": (lambda: positions.TransformerXLBias(2, 4, dim=0), ValueError, ["dim", "0"]),
    "XL base": (lambda: positions.TransformerXLBias(2, 4, base=-1), ValueError, ["base", "-1"]),
    "XL scale": (
        lambda: positions.TransformerXLBias(2, 4, scale=float("inf")),
        ValueError,
        ["scale", "inf"],
    ),
    "XL width": (lambda: xl(HEADS[..., :3], HEADS, AT), ValueError, ["query", "4", "(3, 2, 5, 3)"]),
    "XL key heads": (
        lambda: xl(HEADS, torch.ones(3, 3, 5, 4), AT),
        ValueError,
        ["key", "2 heads", "(3, 3, 5, 4)"],
    ),
    "XL key without heads": (lambda: xl(HEADS, X, AT), ValueError, ["key", "(2, 4)"]),
    "attention with other heads": (
        lambda: attention(HEADS, HEADS, HEADS, bias=positions.ALiBi(4)),
        ValueError,
        ["ALiBi", "4 heads", "2"],
    ),
    "attention with offsets of another batch": (
        lambda: attention(HEADS, HEADS, HEADS, bias=t5, q_offset=IDS),
        ValueError,
        ["q_offset", "2", "(3, 2, 5, 4)"],
    ),
    "attention with no offset": (
        lambda: attention(HEADS, HEADS[:, :, :3], HEADS[:, :, :3], bias=t5),
        ValueError,
        ["T5Bias", "q_offset", "5 queries", "3 keys"],
    ),
    "attention with a class": (
        lambda: attention(HEADS, HEADS, HEADS, bias=positions.ALiBi),
        TypeError,
        ["bias", "attn_core.positions"],
    ),
    "distances no offset": (
        lambda: positions.distances(2, 5),
        ValueError,
        ["q_offset", "2 queries", "5 keys"],
    ),
    "distances length": (lambda: positions.distances(-2, 5, 0), ValueError, ["q_len", "-2"]),
    "distances offset": (lambda: positions.distances(2, 5, 0.5), TypeError, ["q_offset", "0.5"]),
    "restarting list": (lambda: positions.restarting([0, 1]), TypeError, ["segment_ids", "list"]),
    "restarting floats": (
        lambda: positions.restarting(X),
        TypeError,
        ["segment_ids", "float32"],
    ),
    "restarting number": (
        lambda: positions.restarting(torch.tensor(1)),
        ValueError,
        ["segment_ids", "one number"],
    ),
    "segments none": (lambda: positions.SegmentEncoding(0, 4), ValueError, ["segments", "0"]),
    "segments dim": (lambda: positions.SegmentEncoding(2, 4.0), TypeError, ["dim", "4.0"]),
    "segments width": (lambda: segments(X[:, :3], IDS), ValueError, ["x", "4", "(2, 3)"]),
    "segments dtype": (lambda: segments(X.double(), IDS), TypeError, ["x", "float64"]),
    "segments ids floats": (lambda: segments(X, X[:, 0]), TypeError, ["segment_ids", "float32"]),
    "segments ids length": (
        lambda: segments(X, torch.zeros(3, dtype=torch.long)),
        ValueError,
        ["segment_ids (3,)", "(2,)"],
    ),
    "segments ids one for all": (
        lambda: segments(X, IDS[:1]),
        ValueError,
        ["segment_ids (1,)", "(2,)"],
    ),
    "segments ids more than x": (
        lambda: segments(X, IDS.expand(3, 2)),
        ValueError,
        ["segment_ids (3, 2)", "(2,)"],
    ),
    "segments ids too high": (
        lambda: segments(X, IDS + 1),
        ValueError,
        ["segment_ids", "0 to 1", "1 to 2"],
    ),
    "segments ids negative": (lambda: segments(X, IDS - 1), ValueError, ["segment_ids", "-1 to 0"]),
    "segments ids elsewhere": (
        lambda: segments(X, IDS.to(**ELSEWHERE)),
        ValueError,
        ["segment_ids", "meta", "cpu"],
    ),
    "learned positions floats": (
        lambda: positions.LearnedEncoding(9, 4)(X, positions=X[:, 0]),
        TypeError,
        ["positions", "float32"],
    ),
    "learned positions too far": (
        lambda: positions.LearnedEncoding(9, 4)(X, positions=IDS + 8),
        ValueError,
        ["positions", "max_len is 9", "8 to 9"],
    ),
    "learned positions negative": (
        lambda: positions.LearnedEncoding(9, 4)(X, positions=IDS - 1),
        ValueError,
        ["positions", "-1 to 0"],
    ),
}
for encoding in (positions.SinusoidalEncoding(4), positions.LearnedEncoding(9, 4)):
    kind = type(encoding).__name__
    OTHERS |= {
        f"{kind} positions and offset": (
            lambda encoding=encoding: encoding(X, 1, positions=IDS),
            ValueError,
            ["offset", "positions", "1"],
        ),
        f"{kind} positions list": (
            lambda encoding=encoding: encoding(X, positions=[0, 1]),
            TypeError,
            ["positions", "list"],
        ),
        f"{kind} positions bool": (
            lambda encoding=encoding: encoding(X, positions=IDS > 0),
            TypeError,
            ["positions", "bool"],
        ),
        f"{kind} positions length": (
            lambda encoding=encoding: encoding(X, positions=torch.arange(3)),
            ValueError,
            ["positions (3,)", "(2,)"],
        ),
        f"{kind} positions elsewhere": (
            lambda encoding=encoding: encoding(X, positions=IDS.to(**ELSEWHERE)),
            ValueError,
            ["positions", "meta", "cpu"],
        ),
    }


@pytest.mark.parametrize(("call", "raises", "says"), OTHERS.values(), ids=OTHERS.keys())
def test_every_other_call_refuses(call, raises, says):
    assert_refuses(call, raises, says)


ROWS = np.ones((2, 4))
PAIRS = np.ones((3, 2, 5, 4))
BETWEEN = reference.distances(5, 5)
TABLE = np.ones((7, 4))
XL = (PAIRS, PAIRS, np.ones((2, 4)), np.ones((2, 4)), np.ones((8, 3)))
TWINS = {
    "rotary list": (lambda: reference.rotary([[1.0]]), TypeError, ["x", "list"]),
    "rotary integers": (lambda: reference.rotary(np.ones((2, 4), int)), TypeError, ["x", "int64"]),
    "rotary odd": (lambda: reference.rotary(ROWS, dim=3), ValueError, ["dim", "even", "3"]),
    "rotary dim": (lambda: reference.rotary(ROWS, dim=6), ValueError, ["dim", "4", "6"]),
    "rotary base": (lambda: reference.rotary(ROWS, base=0), ValueError, ["base", "0"]),
    "rotary pairing": (lambda: reference.rotary(ROWS, pairing="x"), ValueError, ["pairing", "'x'"]),
    "rotary positions": (
        lambda: reference.rotary(ROWS, np.arange(3)),
        ValueError,
        ["positions (3,)", "x (2, 4)"],
    ),
    "rotary gradient": (
        lambda: reference.rotary_backward(ROWS[:1], ROWS),
        ValueError,
        ["grad_output", "(2, 4)", "(1, 4)"],
    ),
    "linear": (lambda: reference.LinearScaling(0), ValueError, ["factor", "0"]),
    "ntk": (lambda: reference.NTKScaling("4"), TypeError, ["factor", "'4'"]),
    "ntk of two dimensions": (
        lambda: reference.NTKScaling(4.0).frequencies(2, 1e4),
        ValueError,
        ["dim", "4", "2"],
    ),
    "yarn": (lambda: reference.YaRNScaling(4.0, 0), ValueError, ["original_length", "0"]),
    "yarn betas": (
        lambda: reference.YaRNScaling(4.0, 9, 1.0, 2.0),
        ValueError,
        ["beta_fast", "beta_slow"],
    ),
    "yarn ramp": (lambda: reference.YaRNScaling(4.0, 9, ramp="x"), ValueError, ["ramp", "'x'"]),
    "yarn base": (
        lambda: reference.YaRNScaling(4.0, 9).frequencies(4, 1.0),
        ValueError,
        ["base", "1.0"],
    ),
    "distances": (lambda: reference.distances(2, 3), ValueError, ["q_offset", "2", "3"]),
    "slopes heads": (lambda: reference.alibi_slopes(0), ValueError, ["heads", "0"]),
    "slopes": (lambda: reference.alibi_slopes(3, "paper"), ValueError, ["slopes", "'paper'"]),
    "alibi list": (lambda: reference.alibi([[0]], 2), TypeError, ["distance", "list"]),
    "alibi vector": (lambda: reference.alibi(BETWEEN[0], 2), ValueError, ["distance", "(5,)"]),
    "bucket": (
        lambda: reference.t5_bucket(BETWEEN, buckets=7),
        ValueError,
        ["buckets", "even", "7"],
    ),
    "bucket floats": (lambda: reference.t5_bucket(ROWS), TypeError, ["distance", "float64"]),
    "t5_bias": (
        lambda: reference.t5_bias(TABLE[:6].astype(int), distance=BETWEEN),
        TypeError,
        ["weight", "int64"],
    ),
    "t5_bias gradient": (
        lambda: reference.t5_bias_backward(ROWS, TABLE[:6], distance=BETWEEN),
        ValueError,
        ["grad_bias", "(4, 5, 5)", "(2, 4)"],
    ),
    "shaw width": (
        lambda: reference.shaw(PAIRS, TABLE[:, :3], distance=BETWEEN),
        ValueError,
        ["weight", "(7, 4)", "(7, 3)"],
    ),
    "shaw distance": (
        lambda: reference.shaw(PAIRS, TABLE, distance=BETWEEN[:3]),
        ValueError,
        ["distance", "(5, 5)", "(3, 5)"],
    ),
    "shaw gradient": (
        lambda: reference.shaw_backward(PAIRS, PAIRS, TABLE, distance=BETWEEN),
        ValueError,
        ["grad_bias", "(3, 2, 5, 5)", "(3, 2, 5, 4)"],
    ),
    "shaw_values distance": (
        lambda: reference.shaw_values(PAIRS, TABLE, distance=BETWEEN),
        ValueError,
        ["distance", "(5, 4)", "(5, 5)"],
    ),
    "shaw_values dtype": (
        lambda: reference.shaw_values(PAIRS, TABLE.astype("f4"), distance=BETWEEN[:, :4]),
        TypeError,
        ["weights float64", "weight float32"],
    ),
    "shaw_values gradient": (
        lambda: reference.shaw_values_backward(ROWS, PAIRS, TABLE, distance=BETWEEN[:, :4]),
        ValueError,
        ["grad_output", "(3, 2, 5, 4)", "(2, 4)"],
    ),
    "xl bias": (
        lambda: reference.transformer_xl(*XL[:2], XL[2][:1], *XL[3:], distance=BETWEEN),
        ValueError,
        ["content_bias", "(2, 4)", "(1, 4)"],
    ),
    "xl weight": (
        lambda: reference.transformer_xl(*XL[:4], XL[4][:3], distance=BETWEEN),
        ValueError,
        ["position_weight", "(8, 3)", "(3, 3)"],
    ),
    "xl query": (
        lambda: reference.transformer_xl(ROWS, *XL[1:], distance=BETWEEN),
        ValueError,
        ["query", "(2, 4)"],
    ),
    "xl key": (
        lambda: reference.transformer_xl(PAIRS, np.ones((3, 5, 4)), *XL[2:], distance=BETWEEN),
        ValueError,
        ["key", "2 heads", "(3, 5, 4)"],
    ),
    "xl distance": (
        lambda: reference.transformer_xl(*XL, distance=BETWEEN[None]),
        ValueError,
        ["distance", "(1, 5, 5)"],
    ),
    "xl gradient": (
        lambda: reference.transformer_xl_backward(PAIRS, *XL, distance=BETWEEN),
        ValueError,
        ["grad_bias", "(3, 2, 5, 5)", "(3, 2, 5, 4)"],
    ),
    "segment width": (
        lambda: reference.segment(ROWS, TABLE[:, :3], segment_ids=np.array([0, 1])),
        ValueError,
        ["weight", "(7, 4)", "(7, 3)"],
    ),
    "segment ids floats": (
        lambda: reference.segment(ROWS, TABLE, segment_ids=np.ones(2)),
        TypeError,
        ["segment_ids", "float64"],
    ),
    "segment ids shape": (
        lambda: reference.segment(ROWS, TABLE, segment_ids=np.array([1])),
        ValueError,
        ["segment_ids", "(2,)", "(1,)"],
    ),
    "segment ids range": (
        lambda: reference.segment(ROWS, TABLE, segment_ids=np.array([-1, 7])),
        ValueError,
        ["segment_ids", "0 to 6", "-1 to 7"],
    ),
    "segment gradient": (
        lambda: reference.segment_backward(ROWS[:1], ROWS, TABLE, segment_ids=np.array([0, 1])),
        ValueError,
        ["grad_output", "(2, 4)", "(1, 4)"],
    ),
    "restarting": (lambda: reference.restarting(ROWS), TypeError, ["segment_ids", "float64"]),
}


@pytest.mark.parametrize(("call", "raises", "says"), TWINS.values(), ids=TWINS.keys())
def test_every_twin_refuses(call, raises, says):
    assert_refuses(call, raises, says)
