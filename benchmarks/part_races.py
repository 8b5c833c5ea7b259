"""Races of the parts: normalisers, rotary positions, linear attention, the NumPy reference."""

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import torch
from torch import Tensor, nn

from attn_core import kernels, normalizers, positions, reference
from benchmarks.race import Contest, Lab, forward, forward_and_backward, race

ROWS = "4096 rows of 512 scores"


@race(name="entmax 1.5, forward", setting=ROWS, peer="entmax", package="entmax", goal=0.2)
def entmax15(lab: Lab) -> Contest:
    import entmax

    scores = lab.normal(lab.size(4096, 16), lab.size(512, 32))
    return Contest(
        ours=forward(lambda: normalizers.entmax15(scores)),
        theirs=forward(lambda: entmax.entmax15(scores)),
    )


@race(
    name="entmax 1.5, forward and backward",
    setting=ROWS,
    peer="entmax",
    package="entmax",
    goal=0.2,
)
def entmax15_backward(lab: Lab) -> Contest:
    import entmax

    scores = lab.normal(lab.size(4096, 16), lab.size(512, 32), learn=True)
    weighting = lab.normal(*scores.shape, seed=1)
    return Contest(
        ours=forward_and_backward(lambda: normalizers.entmax15(scores) * weighting, (scores,)),
        theirs=forward_and_backward(lambda: entmax.entmax15(scores) * weighting, (scores,)),
        tolerance=1e-4,
    )


@race(name="sparsemax, forward", setting=ROWS, peer="entmax", package="entmax", goal=0.5)
def sparsemax(lab: Lab) -> Contest:
    import entmax

    scores = lab.normal(lab.size(4096, 16), lab.size(512, 32))
    return Contest(
        ours=forward(lambda: normalizers.sparsemax(scores)),
        theirs=forward(lambda: entmax.sparsemax(scores)),
    )


@race(
    name="rotary positions",
    setting="batch 4, 8 heads, 2048 tokens, width 64, neighbours paired",
    peer="rotary-embedding-torch",
    package="rotary_embedding_torch",
    goal=0.3,
)
def rotary(lab: Lab) -> Contest:
    from rotary_embedding_torch import RotaryEmbedding

    x = lab.normal(4, 8, lab.size(2048, 32), 64)
    ours = positions.Rotary(pairing="interleaved")
    theirs = RotaryEmbedding(dim=64)
    return Contest(
        ours=forward(lambda: ours(x)),
        theirs=forward(lambda: theirs.rotate_queries_or_keys(x)),
        tolerance=1e-3,
        note="both keep their table of angles; the peer computes its angles in float32",
    )


LINEAR = "exact, 8 heads, 4096 tokens, width 64"


def _linear_inputs(lab: Lab) -> list[Tensor]:
    return [lab.normal(1, 8, lab.size(4096, 160), 64, seed=i) for i in range(3)]


def _fast_attention(*, generalized_attention: bool) -> nn.Module:
    from performer_pytorch import FastAttention

    torch.manual_seed(0)
    with redirect_stdout(StringIO()):  # it prints that it has no CUDA
        return FastAttention(64, causal=True, generalized_attention=generalized_attention)


@race(
    name="causal linear attention, forward",
    setting=f"{LINEAR}, each with the features that it takes by itself",
    peer="performer-pytorch",
    package="performer_pytorch",
    goal=0.05,
)
def linear_attention(lab: Lab) -> Contest:
    query, key, value = _linear_inputs(lab)
    theirs = _fast_attention(generalized_attention=False)
    return Contest(
        ours=forward(lambda: kernels.linear_attention(query, key, value, causal=True)),
        theirs=forward(lambda: theirs(query, key, value)),
        tolerance=None,
        note="not the same numbers: the peer approximates softmax by 266 random features, scaled "
        "by a maximum over all keys, so that later keys reach earlier outputs; ours has the 64 "
        "features elu(x) + 1, for which it is exact",
    )


@race(
    name="causal linear attention, the same features, forward",
    setting=f"{LINEAR}, 266 features of one projection and ReLU",
    peer="performer-pytorch",
    package="performer_pytorch",
    goal=1.0,
)
def linear_attention_same_features(lab: Lab) -> Contest:
    query, key, value = _linear_inputs(lab)
    theirs = _fast_attention(generalized_attention=True)
    projection = theirs.projection_matrix.T / 64**0.25

    def features(x: Tensor) -> Tensor:
        return (x @ projection).relu() + 0.001

    return Contest(
        ours=forward(
            lambda: kernels.linear_attention(query, key, value, feature_map=features, causal=True)
        ),
        theirs=forward(lambda: theirs(query, key, value)),
        tolerance=1e-4,
    )


@race(
    name="causal attention in NumPy",
    setting="8 heads, 1024 tokens, width 64",
    peer="ONNX's reference implementation",
    package="onnx",
    goal=0.8,
)
def numpy_causal(lab: Lab) -> Contest:
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    tokens = lab.size(1024, 16)
    arrays = [lab.normal(1, 8, tokens, 64, seed=i).float().cpu().numpy() for i in range(3)]
    names = ["query", "key", "value"]
    node = helper.make_node("Attention", names, ["output"], is_causal=1)
    graph = helper.make_graph(
        [node],
        "causal",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    evaluator = ReferenceEvaluator(model)
    feeds = dict(zip(names, arrays, strict=True))

    def ours() -> np.ndarray:
        return reference.attention(*arrays, mask=reference.causal(tokens, tokens))

    return Contest(
        ours=ours,
        theirs=lambda: evaluator.run(None, feeds)[0],
        note="both in float32",
    )
