"""Approximations refuse bad input: a table of call × defect.

Each row holds the call, the error, and the parts of its message.
"""

import numpy as np
import pytest
import torch
from refusals import assert_refuses

from attn_core import kernels, masks, reference

X = torch.ones(2, 4, 5, 6)  # batch, heads, tokens, width
MIX = torch.ones(3, 5)
ROWS = torch.ones(8, 6)
TURNS = torch.ones(2, 6, 2)
REAL = torch.ones(5, dtype=torch.bool)


def favor(query=X, key=X, value=X, **options):
    options = {"features": 4} | options
    return kernels.favor(query, key, value, **options)


def linformer(query=X, key=X, value=X, **options):
    options = {"key_projection": MIX} | options
    return kernels.linformer(query, key, value, **options)


def nystrom(query=X, key=X, value=X, **options):
    options = {"landmarks": 2} | options
    return kernels.nystrom(query, key, value, **options)


def lsh(query=X, value=X, **options):
    options = {"buckets": 2} | options
    return kernels.lsh(query, value, **options)


ALL = {"favor": favor, "linformer": linformer, "nystrom": nystrom, "lsh": lsh}
SHARED = {
    "query no tensor": ({"query": np.ones((5, 6))}, TypeError, ["query", "ndarray"]),
    "query integers": ({"query": X.long()}, TypeError, ["query", "int64"]),
    "query vector": ({"query": X[0, 0, 0]}, ValueError, ["query", "(6,)"]),
    "value integers": ({"value": X.long()}, TypeError, ["value", "int64"]),
    "value of another dtype": ({"value": X.double()}, TypeError, ["value", "float64", "float32"]),
    "value elsewhere": ({"value": X.to("meta")}, ValueError, ["value", "meta", "cpu"]),
    "value of another length": (
        {"value": X[..., :3, :]},
        ValueError,
        ["value", "length", "(2, 4, 3, 6)", "(2, 4, 5, 6)"],
    ),
    "heads that do not divide": ({"value": X[:, :3]}, ValueError, ["heads", "(2, 3, 5, 6)"]),
    "scale infinite": ({"scale": float("inf")}, ValueError, ["scale", "inf"]),
    "scale text": ({"scale": "1"}, TypeError, ["scale", "'1'"]),
    "mask of floats": ({"mask": torch.ones(5)}, TypeError, ["mask", "float32"]),
    "mask list": ({"mask": [True]}, TypeError, ["mask", "list"]),
    "mask of another length": ({"mask": REAL[:4]}, ValueError, ["mask", "4)"]),
    "mask for each query": (
        {"mask": torch.ones(5, 5, dtype=torch.bool)},
        ValueError,
        ["mask", "(1, 5, 5)", "which positions are real"],
    ),
    "mask for each head": (
        {"mask": torch.ones(4, 1, 5, dtype=torch.bool)},
        ValueError,
        ["mask", "(4, 1, 5)", "which positions are real"],
    ),
    "mask causal": (
        {"mask": masks.causal()},
        ValueError,
        ["mask causal()", "which positions are real", "causal"],
    ),
    "mask window and padding": (
        {"mask": masks.window(1, 1) & masks.padding([5, 3])},
        ValueError,
        ["window(1, 1) & padding([5, 3])", "which positions are real"],
    ),
    "mask dense": (
        {"mask": masks.dense(torch.ones(5, 5, dtype=torch.bool))},
        ValueError,
        ["dense(5×5)", "which positions are real"],
    ),
    "mask of another batch": (
        {"mask": masks.padding([5, 3, 2])},
        ValueError,
        ["padding([5, 3, 2])", "3 batch entries"],
    ),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("options", "raises", "says"), SHARED.values(), ids=SHARED.keys())
def test_all_refuse(name, options, raises, says):
    if name != "lsh" and "value" in options and "heads" in says:
        options = options | {"key": options["value"]}
    assert_refuses(lambda: ALL[name](**options), raises, says)


OTHERS = {
    "favor key of another width": (
        lambda: favor(key=X[..., :3]),
        ValueError,
        ["width", "(2, 4, 5, 3)"],
    ),
    "favor causal with fewer queries": (
        lambda: favor(query=X[..., :3, :], causal=True),
        ValueError,
        ["causal", "3 queries", "5 keys"],
    ),
    "favor no features": (lambda: favor(features=0), ValueError, ["features", "0"]),
    "favor features float": (lambda: favor(features=2.0), TypeError, ["features", "2.0"]),
    "favor features and projection": (
        lambda: favor(projection=ROWS),
        ValueError,
        ["projection", "features"],
    ),
    "favor generator and projection": (
        lambda: favor(features=None, projection=ROWS, generator=torch.Generator()),
        ValueError,
        ["projection", "generator"],
    ),
    "favor projection of another width": (
        lambda: favor(features=None, projection=ROWS[:, :3]),
        ValueError,
        ["projection", "(m, 6)", "(8, 3)"],
    ),
    "favor projection vector": (
        lambda: favor(features=None, projection=ROWS[0]),
        ValueError,
        ["projection", "(6,)"],
    ),
    "favor projection of another dtype": (
        lambda: favor(features=None, projection=ROWS.double()),
        TypeError,
        ["projection", "float64", "float32"],
    ),
    "favor projection elsewhere": (
        lambda: favor(features=None, projection=ROWS.to("meta")),
        ValueError,
        ["projection", "meta"],
    ),
    "favor projection array": (
        lambda: favor(features=None, projection=np.ones((8, 6))),
        TypeError,
        ["projection", "ndarray"],
    ),
    "features of another width": (
        lambda: kernels.positive_features(X, ROWS[:, :3]),
        ValueError,
        ["x", "(2, 4, 5, 6)"],
    ),
    "features of integers": (
        lambda: kernels.positive_features(X.long(), ROWS),
        TypeError,
        ["x", "int64"],
    ),
    "features of two dtypes": (
        lambda: kernels.positive_features(X, ROWS.double()),
        TypeError,
        ["x", "float32", "float64"],
    ),
    "projection of no rows": (
        lambda: kernels.orthogonal_projection(0, 4),
        ValueError,
        ["features", "0"],
    ),
    "projection of half a column": (
        lambda: kernels.orthogonal_projection(4, 1.5),
        TypeError,
        ["dim", "1.5"],
    ),
    "linformer causal": (
        lambda: linformer(causal=True),
        ValueError,
        ["causal", "mixes keys of all positions"],
    ),
    "linformer projection of another length": (
        lambda: linformer(key_projection=MIX[:, :4]),
        ValueError,
        ["key_projection", "(..., r, 5)", "(3, 4)"],
    ),
    "linformer projection of other heads": (
        lambda: linformer(key_projection=MIX.expand(3, 3, 5)),
        ValueError,
        ["key_projection", "(2, 4, 3, 5)", "(3, 3, 5)"],
    ),
    "linformer projection of no rows": (
        lambda: linformer(key_projection=MIX[:0]),
        ValueError,
        ["key_projection", "(0, 5)"],
    ),
    "linformer projection vector": (
        lambda: linformer(key_projection=MIX[0]),
        ValueError,
        ["key_projection", "(5,)"],
    ),
    "linformer projection of another dtype": (
        lambda: linformer(key_projection=MIX.double()),
        TypeError,
        ["key_projection", "float64"],
    ),
    "linformer projection None": (
        lambda: linformer(key_projection=None),
        TypeError,
        ["key_projection", "NoneType"],
    ),
    "linformer projections of two sizes": (
        lambda: linformer(value_projection=MIX[:2]),
        ValueError,
        ["key_projection", "(3, 5)", "value_projection", "(2, 5)"],
    ),
    "linformer value projection elsewhere": (
        lambda: linformer(value_projection=MIX.to("meta")),
        ValueError,
        ["value_projection", "meta"],
    ),
    "nystrom causal": (
        lambda: nystrom(causal=True),
        ValueError,
        ["causal", "means over all positions"],
    ),
    "nystrom no landmarks": (lambda: nystrom(landmarks=0), ValueError, ["landmarks", "0"]),
    "nystrom landmarks float": (lambda: nystrom(landmarks=2.5), TypeError, ["landmarks", "2.5"]),
    "nystrom landmarks bool": (lambda: nystrom(landmarks=True), TypeError, ["landmarks", "True"]),
    "nystrom more landmarks than queries": (
        lambda: nystrom(query=X[..., :2, :], landmarks=3),
        ValueError,
        ["landmarks 3", "2 queries", "5 keys"],
    ),
    "nystrom more landmarks than keys": (
        lambda: nystrom(landmarks=6),
        ValueError,
        ["landmarks 6", "5 keys"],
    ),
    "nystrom negative iterations": (
        lambda: nystrom(iterations=-1),
        ValueError,
        ["iterations", "-1"],
    ),
    "nystrom iterations float": (lambda: nystrom(iterations=6.0), TypeError, ["iterations", "6.0"]),
    "nystrom query_mask floats": (
        lambda: nystrom(query_mask=torch.ones(5)),
        TypeError,
        ["query_mask", "float32"],
    ),
    "nystrom query_mask list": (
        lambda: nystrom(query_mask=[True]),
        TypeError,
        ["query_mask", "list"],
    ),
    "nystrom query_mask of another length": (
        lambda: nystrom(query_mask=REAL[:4]),
        ValueError,
        ["query_mask", "(1, 1, 4)"],
    ),
    "nystrom query_mask for each key": (
        lambda: nystrom(query_mask=torch.ones(5, 5, dtype=torch.bool)),
        ValueError,
        ["query_mask", "which positions are real", "(1, 5, 5)"],
    ),
    "nystrom query_mask causal": (
        lambda: nystrom(query_mask=masks.causal()),
        ValueError,
        ["query_mask", "causal()"],
    ),
    "nystrom query_mask of another batch": (
        lambda: nystrom(query_mask=masks.padding([5, 3, 2])),
        ValueError,
        ["query_mask", "(3, 1, 1, 5)"],
    ),
    "nystrom query_mask too long": (
        lambda: nystrom(query_mask=masks.padding([5, 7])),
        ValueError,
        ["padding([5, 7])", "7"],
    ),
    "lsh odd buckets": (lambda: lsh(buckets=3), ValueError, ["buckets", "3"]),
    "lsh no buckets": (lambda: lsh(buckets=0), ValueError, ["buckets", "0"]),
    "lsh buckets float": (lambda: lsh(buckets=2.0), TypeError, ["buckets", "2.0"]),
    "lsh no rounds": (lambda: lsh(rounds=0), ValueError, ["rounds", "0"]),
    "lsh value vector": (lambda: lsh(value=X[0, 0, 0]), ValueError, ["value", "(6,)"]),
    "lsh rotations of other rounds": (
        lambda: lsh(buckets=4, rounds=3, rotations=TURNS),
        ValueError,
        ["rotations", "(3, 6, 2)", "(2, 6, 2)"],
    ),
    "lsh rotations of other buckets": (
        lambda: lsh(buckets=2, rounds=2, rotations=TURNS),
        ValueError,
        ["rotations", "(2, 6, 1)", "(2, 6, 2)"],
    ),
    "lsh rotations of another dtype": (
        lambda: lsh(buckets=4, rounds=2, rotations=TURNS.double()),
        TypeError,
        ["rotations", "float64"],
    ),
    "lsh rotations and generator": (
        lambda: lsh(buckets=4, rounds=2, rotations=TURNS, generator=torch.Generator()),
        ValueError,
        ["generator", "rotations"],
    ),
    "error of no function": (
        lambda: kernels.approximation_error("favor", X, X, X),
        TypeError,
        ["approximation", "'favor'"],
    ),
    "error of no tensor": (
        lambda: kernels.approximation_error(lambda q, k, v: None, X, X, X),
        TypeError,
        ["approximation", "NoneType"],
    ),
    "error of another shape": (
        lambda: kernels.approximation_error(lambda q, k, v: q[..., :2], X, X, X),
        ValueError,
        ["approximation", "(2, 4, 5, 6)", "(2, 4, 5, 2)"],
    ),
    "error relative to zeros": (
        lambda: kernels.approximation_error(kernels.favor, X, X, 0 * X),
        ValueError,
        ["exact output is 0"],
    ),
}


@pytest.mark.parametrize(("call", "raises", "says"), OTHERS.values(), ids=OTHERS.keys())
def test_each_refuses(call, raises, says):
    assert_refuses(call, raises, says)


Y = np.ones((4, 5, 6))
REFERENCE = {
    "favor projection": (
        lambda: reference.favor(Y, Y, Y, projection=np.ones((8, 3))),
        ValueError,
        ["projection", "(8, 3)"],
    ),
    "favor list": (
        lambda: reference.favor(Y, Y, Y, projection=[1.0]),
        TypeError,
        ["projection", "list"],
    ),
    "favor mask": (
        lambda: reference.favor(Y, Y, Y, projection=np.ones((8, 6)), mask=np.ones(5)),
        TypeError,
        ["mask", "float64"],
    ),
    "favor scale": (
        lambda: reference.favor(Y, Y, Y, projection=np.ones((8, 6)), scale=np.nan),
        ValueError,
        ["scale", "nan"],
    ),
    "favor width": (
        lambda: reference.favor(Y[..., :0], Y, Y, projection=np.ones((8, 6))),
        ValueError,
        ["query", "width"],
    ),
    "favor_backward gradient": (
        lambda: reference.favor_backward(Y[..., :2], Y, Y, Y, projection=np.ones((8, 6))),
        ValueError,
        ["grad_output", "(4, 5, 2)"],
    ),
    "features": (
        lambda: reference.positive_features_backward(Y, Y, np.ones((8, 6))),
        ValueError,
        ["grad_features", "(4, 5, 8)"],
    ),
    "no rows": (
        lambda: reference.orthogonal_projection(0, 2, generator=np.random.default_rng(0)),
        ValueError,
        ["features", "0"],
    ),
    "linformer projection": (
        lambda: reference.linformer(Y, Y, Y, key_projection=np.ones((3, 4))),
        ValueError,
        ["key_projection", "(3, 5)", "(3, 4)"],
    ),
    "linformer projections": (
        lambda: reference.linformer(
            Y, Y, Y, key_projection=np.ones((3, 5)), value_projection=np.ones((2, 5))
        ),
        ValueError,
        ["value_projection", "(2, 5)"],
    ),
    "linformer mask for each query": (
        lambda: reference.linformer(
            Y, Y, Y, key_projection=np.ones((3, 5)), mask=np.ones((5, 5), bool)
        ),
        ValueError,
        ["mask", "(5, 5)"],
    ),
    "linformer_backward gradient": (
        lambda: reference.linformer_backward(Y[:2], Y, Y, Y, key_projection=np.ones((3, 5))),
        ValueError,
        ["grad_output", "(2, 5, 6)"],
    ),
    "nystrom landmarks": (
        lambda: reference.nystrom(Y, Y, Y, landmarks=6),
        ValueError,
        ["landmarks", "6", "5 keys"],
    ),
    "nystrom_backward gradient": (
        lambda: reference.nystrom_backward(Y[:2], Y, Y, Y, landmarks=2),
        ValueError,
        ["grad_output", "(2, 5, 6)"],
    ),
    "lsh length": (
        lambda: reference.lsh(Y, Y[:, :3], rotations=np.ones((1, 6, 1))),
        ValueError,
        ["value", "(4, 3, 6)"],
    ),
    "lsh heads": (
        lambda: reference.lsh(Y, Y[:3], rotations=np.ones((1, 6, 1))),
        ValueError,
        ["heads", "(3, 5, 6)"],
    ),
    "lsh rotations": (
        lambda: reference.lsh(Y, Y, rotations=np.ones((1, 5, 1))),
        ValueError,
        ["rotations", "(1, 5, 1)"],
    ),
    "lsh_backward gradient": (
        lambda: reference.lsh_backward(Y[:2], Y, Y, rotations=np.ones((1, 6, 1))),
        ValueError,
        ["grad_output", "(2, 5, 6)"],
    ),
}


@pytest.mark.parametrize(("call", "raises", "says"), REFERENCE.values(), ids=REFERENCE.keys())
def test_the_twins_refuse(call, raises, says):
    assert_refuses(call, raises, says)
