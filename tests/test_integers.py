"""Where an integer is due, one of NumPy's or a tensor that holds one gives the same result."""

import numpy as np
import pytest
import torch

from attn_core import (
    arguments,
    attention,
    checks,
    cost,
    kernels,
    masks,
    modules,
    normalizers,
    positions,
    scores,
)
from attn_core.models import bert, block, gpt, graph, transformer, vit

X = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
B = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
IDS = torch.ones(2, 3, dtype=torch.long)


def drawn():
    return torch.Generator().manual_seed(0)


# What is called with integers of the kind n.
CALLS = {
    "attention q_offset": lambda n: attention(
        X[:, :, :2], X, X, mask=masks.causal(), q_offset=n(2)
    ),
    "attention q_offset alibi": lambda n: attention(
        X[:, :, :2], X, X, bias=positions.ALiBi(n(2)), q_offset=n(2)
    ),
    "which": lambda n: kernels.which(X[:, :, :2], X, X, mask=masks.causal(), q_offset=n(2)).kernel,
    "window": lambda n: masks.window(n(1), n(0)).dense(n(3), n(3)),
    "window attn": lambda n: attention(X, X, X, mask=masks.window(n(1), n(1))),
    "window name": lambda n: masks.window(n(1), n(0)).name,
    "dilated": lambda n: masks.dilated(n(1), n(0), n(1)).dense(5, 5),
    "global": lambda n: masks.global_tokens(n(1)).dense(5, 5),
    "strided": lambda n: masks.strided(n(2)).dense(5, 5),
    "longformer": lambda n: masks.longformer(n(2), n(1)).dense(8, 8),
    "bigbird": lambda n: masks.bigbird(
        n(16), n(4), near_blocks=n(1), global_blocks=n(1), random_blocks=n(1), seed=n(0)
    ).dense(16, 16),
    "sparse_transformer": lambda n: masks.sparse_transformer(n(2)).dense(8, 8),
    "block_sparse": lambda n: masks.block_sparse(torch.ones(2, 2) > 0, n(2)).dense(4, 4),
    "sinusoidal": lambda n: positions.sinusoidal(n(5), n(4)),
    "SinusoidalEncoding": lambda n: positions.SinusoidalEncoding(n(8))(B, offset=n(1)),
    "Learned": lambda n: positions.LearnedEncoding(n(5), n(8))(B, offset=n(1)),
    "Segment": lambda n: positions.SegmentEncoding(n(5), n(8))(B, IDS),
    "rotary": lambda n: positions.rotary(X, dim=n(4)),
    "Rotary": lambda n: positions.Rotary(n(4))(X),
    "T5": lambda n: attention(
        X, X, X, bias=positions.T5Bias(n(2), buckets=n(8), max_distance=n(9))
    ),
    "Shaw": lambda n: attention(X, X, X, bias=positions.ShawBias(n(8), n(3), heads=n(2))),
    "ShawValues": lambda n: positions.ShawValues(n(8), n(3), heads=n(2))(
        torch.ones(1, 2, 4, 4) / 4, q_offset=n(0)
    ),
    "TXL": lambda n: attention(X, X, X, bias=positions.TransformerXLBias(n(2), n(8), dim=n(6))),
    "distances": lambda n: positions.distances(n(3), n(4), n(1)),
    "alibi_slopes": lambda n: positions.alibi_slopes(n(6)),
    "MHA": lambda n: modules.MultiHeadAttention(
        n(8), n(4), kv_heads=n(2), head_dim=n(2), key_dim=n(8)
    )(B),
    "MHA repr": lambda n: repr(modules.MultiHeadAttention(n(8), n(4))),
    "latent": lambda n: modules.MultiHeadLatentAttention(n(8), n(2), kv_rank=n(4), query_rank=n(4))(
        B
    ),
    "Self": lambda n: modules.SelfAttention(n(8), head_dim=n(4))(B),
    "Pool": lambda n: modules.AttentionPooling(n(8))(B),
    "Hier": lambda n: modules.HierarchicalAttention(n(8), hidden_dim=n(4))(torch.ones(2, 3, 4, 8)),
    "LocalM": lambda n: modules.LocalMonotonic(n(1))(B, B, B, q_offset=n(0)),
    "LocalP": lambda n: modules.LocalPredictive(n(8), n(2), hidden_dim=n(4))(B, B, B),
    "KVCache": lambda n: repr(modules.KVCache(n(5))),
    "KVCache window": lambda n: modules.MultiHeadAttention(8, 2)(
        B, mask=masks.window(5, 0), cache=modules.KVCache(window=n(5))
    ),
    "entmax_bisect": lambda n: normalizers.entmax_bisect(B, steps=n(20)),
    "softmax dim": lambda n: normalizers.softmax(B, n(-1)),
    "Bilinear": lambda n: scores.Bilinear(n(8), n(8))(B, B),
    "Additive": lambda n: scores.Additive(n(8), n(8), n(3))(B, B),
    "Location": lambda n: scores.Location(n(8), n(3))(B, B),
    "lsh": lambda n: kernels.lsh(X, X, buckets=n(2), rounds=n(2), generator=drawn()),
    "favor": lambda n: kernels.favor(X, X, X, features=n(16), generator=drawn()),
    "orth": lambda n: kernels.orthogonal_projection(n(16), n(8), generator=drawn()),
    "nystrom": lambda n: kernels.nystrom(X, X, X, landmarks=n(2), iterations=n(3)),
    "linear": lambda n: kernels.linear_attention(X, X, X, causal=True, chunk_size=n(2)),
    "delta": lambda n: kernels.delta_rule(X, X, X, chunk_size=n(2)),
    "GPT": lambda n: gpt.GPT(n(9), n(8), n(2), n(1), max_len=n(6))(IDS),
    "BERT": lambda n: bert.BERT(n(9), n(8), n(2), n(1), hidden_dim=n(8), max_len=n(6))(IDS)[0],
    "Block": lambda n: block.Block(n(8), n(2), hidden_dim=n(8))(B),
    "Transformer": lambda n: transformer.Transformer(n(9), n(9), n(8), n(2), n(1))(IDS, IDS),
    "ViT": lambda n: vit.ViT(n(8), n(4), n(3), n(5), n(8), n(2), n(1))(torch.ones(1, 3, 8, 8)),
    "GAT": lambda n: graph.GAT(n(8), n(4), n(3), heads=n(2))(
        torch.ones(3, 8), torch.ones(3, 3) > 0
    ),
    "cost": lambda n: cost("multi_head", q_len=n(8), dim=n(8), heads=n(2)),
    "decode": lambda n: gpt.GPT(9, 8, 2, 1, max_len=16).eval().generate(IDS[:, :2], n(2)),
}
KINDS = {"np.int64": np.int64, "np.int32": np.int32, "tensor": torch.tensor}


def result(call, kind):
    torch.manual_seed(0)
    return call(kind)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_integers_of_numpy_and_tensors_are_integers(call):
    expected = result(call, int)
    for name, kind in KINDS.items():
        got = result(call, kind)
        if isinstance(expected, torch.Tensor):
            assert torch.equal(got, expected), name
        else:
            assert str(got) == str(expected), name


@pytest.mark.parametrize(
    "number",
    [
        np.float64(2),
        np.bool_(True),
        np.array([2]),
        torch.tensor(2.0),
        torch.tensor(True),
        torch.tensor([2]),
        True,
        2.0,
        "2",
        None,
    ],
    ids=repr,
)
def test_what_is_no_integer_is_none(number):
    for calls in (
        lambda: checks.check_sizes(size=number),
        lambda: modules.MultiHeadAttention(4, number),
        lambda: normalizers.softmax(X, number),
        lambda: cost("dot_product", q_len=number, head_dim=2),
    ):
        with pytest.raises(TypeError, match="must be an integer"):
            calls()


def test_q_offset_is_an_integer_of_python_from_then_on():
    for kind in KINDS.values():
        assert type(arguments.check_arguments(X, X, X, q_offset=kind(0)).q_offset) is int
