"""Masks refuse bad input: call, error, and what its message says."""

import pytest
import torch
from refusals import assert_refuses

from attn_core import masks, reference

TABLE = torch.ones(2, 2, dtype=torch.bool)
CALLS = {
    "dilated float": (lambda: masks.dilated(1.0, 0, 1), TypeError, ["left", "1.0"]),
    "dilated None": (lambda: masks.dilated(1, None, 1), TypeError, ["right", "None"]),
    "dilated negative": (lambda: masks.dilated(1, 0, -1), ValueError, ["gap", "-1"]),
    "strided zero": (lambda: masks.strided(0), ValueError, ["stride", "0"]),
    "strided bool": (lambda: masks.strided(True), TypeError, ["stride", "True"]),
    "global_tokens negative": (lambda: masks.global_tokens(-1), ValueError, ["n must", "-1"]),
    "global_tokens list": (lambda: masks.global_tokens([0]), TypeError, ["n must", "[0]"]),
    "document floats": (lambda: masks.document([0.0]), TypeError, ["ids", "float32"]),
    "document bools": (lambda: masks.document([True]), TypeError, ["ids", "bool"]),
    "document text": (lambda: masks.document("ab"), TypeError, ["ids", "'ab'"]),
    "document number": (lambda: masks.document(3), ValueError, ["ids", "()"]),
    "document empty": (lambda: masks.document([]), ValueError, ["ids", "(0,)"]),
    "document cube": (lambda: masks.document([[[1]]]), ValueError, ["ids", "(1, 1, 1)"]),
    "document of another length": (
        lambda: masks.document([1, 1]).dense(3, 3),
        ValueError,
        ["document([1, 1])", "2 keys", "3"],
    ),
    "document without an offset": (
        lambda: masks.document([1, 1]).dense(1, 2),
        ValueError,
        ["document([1, 1])", "q_offset"],
    ),
    "blocks floats": (
        lambda: masks.block_sparse(TABLE.float(), 2),
        TypeError,
        ["layout", "float32"],
    ),
    "blocks list": (lambda: masks.block_sparse([[True]], 2), TypeError, ["layout", "list"]),
    "blocks vector": (lambda: masks.block_sparse(TABLE[0], 2), ValueError, ["layout", "(2,)"]),
    "no blocks": (lambda: masks.block_sparse(TABLE[:0], 2), ValueError, ["layout", "(0, 2)"]),
    "block size zero": (lambda: masks.block_sparse(TABLE, 0), ValueError, ["block_size", "0"]),
    "block size float": (lambda: masks.block_sparse(TABLE, 2.0), TypeError, ["block_size", "2.0"]),
    "blocks too few": (
        lambda: masks.block_sparse(TABLE, 2).dense(5, 5),
        ValueError,
        ["block_sparse(2×2, 2)", "at most 4 keys", "5"],
    ),
    "blocks too many": (
        lambda: masks.block_sparse(TABLE, 2).dense(2, 2),
        ValueError,
        ["block_sparse(2×2, 2)", "at least 3 keys", "2"],
    ),
    "longformer odd": (lambda: masks.longformer(3, 1), ValueError, ["width", "3"]),
    "longformer float": (lambda: masks.longformer(2.0, 1), TypeError, ["width", "2.0"]),
    "longformer negative": (lambda: masks.longformer(2, -1), ValueError, ["n_global", "-1"]),
    "bigbird no length": (lambda: masks.bigbird(0, 2), ValueError, ["length", "0"]),
    "bigbird even": (lambda: masks.bigbird(8, 2, near_blocks=2), ValueError, ["near_blocks", "2"]),
    "bigbird negative": (
        lambda: masks.bigbird(8, 2, random_blocks=-1),
        ValueError,
        ["random_blocks", "-1"],
    ),
    "bigbird seed": (lambda: masks.bigbird(8, 2, seed=None), TypeError, ["seed", "None"]),
    "sparse_transformer zero": (lambda: masks.sparse_transformer(0), ValueError, ["stride", "0"]),
    "predicate of a list": (
        lambda: masks.Mask(lambda at: [True], "mine").dense(2, 2),
        TypeError,
        ["predicate", "mine", "bool tensor", "list"],
    ),
    "predicate of numbers": (
        lambda: masks.Mask(lambda at: at.key - at.query, "difference").dense(2, 2),
        TypeError,
        ["difference", "bool", "int64"],
    ),
    "reference dilated": (lambda: reference.dilated(1, -1, 0, 2, 2), ValueError, ["right", "-1"]),
    "reference strided": (lambda: reference.strided(0, 2, 2), ValueError, ["stride", "0"]),
    "reference global": (lambda: reference.global_tokens(-1, 2, 2), ValueError, ["n must", "-1"]),
    "reference document floats": (lambda: reference.document([0.5]), TypeError, ["ids", "float64"]),
    "reference document cube": (
        lambda: reference.document([[[1]]]),
        ValueError,
        ["ids", "(1, 1, 1)"],
    ),
    "reference document offset": (lambda: reference.document([1, 1], 1), ValueError, ["q_offset"]),
    "reference blocks": (lambda: reference.block_sparse([[1]], 2, 2, 2), TypeError, ["layout"]),
    "reference block size": (
        lambda: reference.block_sparse([[True]], 0, 2, 2),
        ValueError,
        ["block_size", "0"],
    ),
    "reference blocks too few": (
        lambda: reference.block_sparse([[True]], 2, 3, 3),
        ValueError,
        ["k_len", "2", "3"],
    ),
    "reference blocks offset": (
        lambda: reference.block_sparse([[True]], 2, 2, 2, [0]),
        TypeError,
        ["q_offset", "(1,)"],
    ),
    "reference blocks vector": (
        lambda: reference.block_sparse([True], 2, 2, 2),
        ValueError,
        ["layout", "(1,)"],
    ),
}


@pytest.mark.parametrize(("call", "error", "says"), CALLS.values(), ids=CALLS.keys())
def test_a_mask_refuses(call, error, says):
    assert_refuses(call, error, says)
