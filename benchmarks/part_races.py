"""Races of the parts: normalisers, rotary positions, linear attention, the NumPy reference."""

import numpy as np

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


@race(
    name="causal linear attention, forward",
    setting="exact, 8 heads, 4096 tokens, width 64, the same 64 features",
    peer="performer-pytorch",
    package="performer_pytorch",
    goal=0.05,
)
def linear_attention(lab: Lab) -> Contest:
    from performer_pytorch.performer_pytorch import causal_linear_attention_noncuda

    shape = (1, 8, lab.size(4096, 160), 64)
    query, key, value = (lab.normal(*shape, seed=i) for i in range(3))
    phi = kernels.elu_plus_one
    return Contest(
        ours=forward(lambda: kernels.linear_attention(query, key, value, causal=True)),
        theirs=forward(lambda: causal_linear_attention_noncuda(phi(query), phi(key), value)),
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
