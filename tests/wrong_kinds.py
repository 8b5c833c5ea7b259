"""A right call of every public function and class, and values of the wrong kind for arguments."""

import inspect

import numpy as np
import torch

from attn_core import (
    attention,
    cost,
    interpret,
    kernels,
    masks,
    modules,
    normalizers,
    plot,
    positions,
    scores,
    training,
)
from attn_core.models import (
    bert,
    block,
    copying,
    gpt,
    graph,
    hierarchical,
    spectrogram,
    transformer,
    vit,
    weights,
)

X = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
B = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
IDS = torch.ones(2, 3, dtype=torch.long)
W = np.full((2, 2), 0.5)
QKV = {"query": X, "key": X, "value": X}
LAYER = modules.MultiHeadAttention(8, 2)


class Anything:
    def __repr__(self):
        return "Anything()"


WRONG = {
    "a text": "no",
    "an object": Anything(),
    "a complex number": 1j,
    "a dictionary": {},
    "a sparse tensor": torch.eye(3).to_sparse(),
}
# Call, right arguments; each argument that is named is given in each wrong kind.
RIGHT = {
    "attention": (attention, QKV),
    "which": (kernels.which, QKV),
    "favor": (kernels.favor, QKV),
    "linear_attention": (kernels.linear_attention, QKV),
    "delta_rule": (kernels.delta_rule, QKV),
    "lsh": (kernels.lsh, {"query": X, "value": X, "buckets": 2}),
    "nystrom": (kernels.nystrom, QKV | {"landmarks": 2}),
    "linformer": (
        kernels.linformer,
        QKV | {"key_projection": torch.ones(2, 4), "value_projection": torch.ones(2, 4)},
    ),
    "orthogonal_projection": (kernels.orthogonal_projection, {"features": 8, "dim": 4}),
    "positive_features": (kernels.positive_features, {"x": X, "projection": torch.ones(16, 8)}),
    "window": (masks.window, {"left": 1, "right": 1}),
    "padding": (masks.padding, {"lengths": [1, 2]}),
    "document": (masks.document, {"ids": IDS}),
    "global_tokens": (masks.global_tokens, {"n": 1}),
    "strided": (masks.strided, {"stride": 2}),
    "dilated": (masks.dilated, {"left": 1, "right": 1, "gap": 1}),
    "longformer": (masks.longformer, {"width": 2, "n_global": 1}),
    "sparse_transformer": (masks.sparse_transformer, {"stride": 2}),
    "block_sparse": (masks.block_sparse, {"layout": torch.ones(2, 2) > 0, "block_size": 2}),
    "dense": (masks.dense, {"table": torch.ones(2, 2) > 0}),
    "bigbird": (masks.bigbird, {"length": 8, "block_size": 2}),
    "Mask": (masks.Mask, {"predicate": lambda at: at.key <= at.query, "name": "mine"}),
    "mask.dense": (masks.causal().dense, {"q_len": 2, "k_len": 2}),
    "sinusoidal": (positions.sinusoidal, {"length": 2, "dim": 4}),
    "SinusoidalEncoding": (positions.SinusoidalEncoding, {"dim": 8}),
    "SinusoidalEncoding()": (positions.SinusoidalEncoding(8), {"x": B}),
    "LearnedEncoding": (positions.LearnedEncoding, {"max_len": 4, "dim": 8}),
    "LearnedEncoding()": (positions.LearnedEncoding(4, 8), {"x": B}),
    "SegmentEncoding": (positions.SegmentEncoding, {"segments": 3, "dim": 8}),
    "SegmentEncoding()": (positions.SegmentEncoding(3, 8), {"x": B, "segment_ids": IDS}),
    "rotary": (positions.rotary, {"x": X}),
    "Rotary": (positions.Rotary, {}),
    "Rotary()": (positions.Rotary(), {"x": X}),
    "ALiBi": (positions.ALiBi, {"heads": 2}),
    "T5Bias": (positions.T5Bias, {"heads": 2}),
    "ShawBias": (positions.ShawBias, {"head_dim": 8, "max_distance": 2}),
    "ShawValues": (positions.ShawValues, {"value_dim": 8, "max_distance": 2}),
    "TransformerXLBias": (positions.TransformerXLBias, {"heads": 2, "head_dim": 8}),
    "distances": (positions.distances, {"q_len": 2, "k_len": 2}),
    "alibi_slopes": (positions.alibi_slopes, {"heads": 2}),
    "t5_bucket": (positions.t5_bucket, {"distance": IDS}),
    "softmax": (normalizers.softmax, {"scores": B}),
    "softmax_with_sink": (normalizers.softmax_with_sink, {"scores": B}),
    "sigmoid": (normalizers.sigmoid, {"scores": B}),
    "sparsemax": (normalizers.sparsemax, {"scores": B}),
    "entmax": (normalizers.entmax, {"scores": B}),
    "entmax15": (normalizers.entmax15, {"scores": B}),
    "entmax_bisect": (normalizers.entmax_bisect, {"scores": B}),
    "hard": (normalizers.hard, {"scores": B}),
    "gumbel_softmax": (normalizers.gumbel_softmax, {"scores": B}),
    "dot": (scores.dot, {"query": B, "key": B}),
    "cosine": (scores.cosine, {"query": B, "key": B}),
    "gaussian": (scores.gaussian, {"query": B, "key": B}),
    "Bilinear": (scores.Bilinear, {"query_dim": 8, "key_dim": 8}),
    "Additive": (scores.Additive, {"query_dim": 8, "key_dim": 8, "hidden_dim": 3}),
    "Location": (scores.Location, {"query_dim": 8, "max_len": 3}),
    "MultiHeadAttention": (modules.MultiHeadAttention, {"dim": 8, "heads": 2}),
    "MultiHeadAttention()": (LAYER, {"query": B}),
    "SelfAttention": (modules.SelfAttention, {"dim": 8}),
    "SelfAttention()": (modules.SelfAttention(8), {"x": B}),
    "AttentionPooling": (modules.AttentionPooling, {"dim": 8}),
    "AttentionPooling()": (modules.AttentionPooling(8), {"x": B}),
    "MultiHeadLatentAttention": (
        modules.MultiHeadLatentAttention,
        {"dim": 8, "heads": 2, "kv_rank": 4},
    ),
    "MultiHeadLatentAttention()": (modules.MultiHeadLatentAttention(8, 2, kv_rank=4), {"x": B}),
    "HierarchicalAttention": (modules.HierarchicalAttention, {"dim": 8}),
    "HierarchicalAttention()": (modules.HierarchicalAttention(8), {"x": torch.ones(2, 3, 4, 8)}),
    "HardAttention()": (modules.HardAttention(), {"query": B, "key": B, "value": B}),
    "LocalMonotonic": (modules.LocalMonotonic, {"window": 1}),
    "LocalMonotonic()": (modules.LocalMonotonic(1), {"query": B, "key": B, "value": B}),
    "LocalPredictive": (modules.LocalPredictive, {"query_dim": 8, "window": 1}),
    "LocalPredictive()": (modules.LocalPredictive(8, 1), {"query": B, "key": B, "value": B}),
    "KVCache": (modules.KVCache, {}),
    "reinforce_loss": (modules.reinforce_loss, {"reward": B[..., 0], "log_prob": B[..., 0]}),
    "Block": (block.Block, {"dim": 8, "heads": 2}),
    "Block()": (block.Block(8, 2), {"x": B}),
    "FeedForward": (block.FeedForward, {"dim": 8, "hidden_dim": 8}),
    "GPT": (gpt.GPT, {"vocab_size": 9, "dim": 8, "heads": 2, "layers": 1, "max_len": 4}),
    "GPT()": (gpt.GPT(9, 8, 2, 1, max_len=4), {"ids": IDS}),
    "BERT": (bert.BERT, {"vocab_size": 9, "dim": 8, "heads": 2, "layers": 1}),
    "BERT()": (bert.BERT(9, 8, 2, 1), {"ids": IDS}),
    "TransformerEncoder": (transformer.TransformerEncoder, {"dim": 8, "heads": 2, "layers": 1}),
    "TransformerEncoder()": (transformer.TransformerEncoder(8, 2, 1), {"x": B}),
    "TransformerDecoder": (transformer.TransformerDecoder, {"dim": 8, "heads": 2, "layers": 1}),
    "Transformer": (
        transformer.Transformer,
        {"source_size": 9, "target_size": 9, "dim": 8, "heads": 2, "layers": 1},
    ),
    "ViT": (
        vit.ViT,
        {
            "image_size": 4,
            "patch_size": 2,
            "channels": 1,
            "classes": 2,
            "dim": 8,
            "heads": 2,
            "layers": 1,
        },
    ),
    "GraphAttention": (graph.GraphAttention, {"in_dim": 8, "head_dim": 4, "heads": 2}),
    "GraphAttention()": (
        graph.GraphAttention(8, 4, 2),
        {"x": torch.ones(3, 8), "adjacency": torch.ones(3, 3) > 0},
    ),
    "ReadAndAttend": (hierarchical.ReadAndAttend, {"dim": 8, "hidden_dim": 4}),
    "coverage": (copying.coverage, {"weights": torch.full((1, 2, 2), 0.5)}),
    "coverage_loss": (copying.coverage_loss, {"weights": torch.full((1, 2, 2), 0.5)}),
    "mel_filters": (spectrogram.mel_filters, {"bands": 4, "bins": 17}),
    "load_weights": (
        weights.load_weights,
        {"model": torch.nn.Linear(1, 1, bias=False), "tensors": {"weight": torch.ones(1, 1)}},
    ),
    "record": (interpret.record, {"model": LAYER}),
    "ablate_heads": (
        interpret.ablate_heads,
        {"model": LAYER, "heads": {"MultiHeadAttention": [0]}},
    ),
    "entropy": (interpret.entropy, {"weights": torch.full((1, 2, 2), 0.5)}),
    "distance": (interpret.distance, {"weights": torch.full((1, 2, 2), 0.5)}),
    "rollout": (interpret.rollout, {"weights": [torch.full((1, 2, 2), 0.5)]}),
    "cost": (cost, {"mechanism": "dot_product", "q_len": 2, "head_dim": 2}),
    "length_batches": (training.length_batches, {"lengths": [2, 3], "batch_size": 1}),
    "plot.weights": (plot.weights, {"weights": W, "title": "t"}),
    "plot.scores": (plot.scores, {"scores": W, "title": "t"}),
    "plot.heads": (plot.heads, {"weights": W[None], "title": "t"}),
    "plot.mask": (plot.mask, {"mask": masks.causal(), "q_len": 2, "k_len": 2, "title": "t"}),
    "plot.encoding": (plot.encoding, {"table": W, "title": "t"}),
    "plot.live_attention": (
        plot.live_attention,
        {"words": ["a", "b"], "keys": W, "values": W, "query": W[0]},
    ),
    "plot.live_kernel": (
        plot.live_kernel,
        {
            "keys": np.array([0.0, 1.0]),
            "values": W[0],
            "query": 0.5,
            "bandwidths": [0.5, 1.0],
            "bandwidth": 0.5,
        },
    ),
    "plot.live_mask": (plot.live_mask, {"tokens": ["a", "b"]}),
    "plot.live_scale": (plot.live_scale, {"queries": W, "keys": W, "width": 2}),
    "plot.flow_chart": (
        plot.flow_chart,
        {"boxes": {"a": plot.Box("A", (0, 0))}, "arrows": [], "title": "t"},
    ),
}


# Which of them are right after all, or stand for something else; "*" for every call.
RIGHT_AFTER_ALL = {
    ("*", "title", "a text"),
    ("*", "label", "a text"),
    ("*", "key_axis", "a text"),
    ("*", "value_axis", "a text"),
    ("*", "name", "a text"),
    ("*", "font", "a text"),  # the path of a font file
    ("*", "device", "a text"),  # PyTorch says which devices there are
    ("ablate_heads", "heads", "a dictionary"),
    ("load_weights", "tensors", "a dictionary"),  # the message names what is missing in it
    ("plot.flow_chart", "arrows", "a dictionary"),
    ("GPT()", "mask", "a sparse tensor"),  # what masks.dense says of a table
    ("Block()", "memory_mask", "*"),  # without a memory
    ("TransformerDecoder()", "memory_mask", "*"),
}


def is_right_after_all(call, parameter, kind):
    return any(
        (one in ("*", call)) and of == parameter and what in ("*", kind)
        for one, of, what in RIGHT_AFTER_ALL
    )


def parameters_of(call):
    call = call.forward if isinstance(call, torch.nn.Module) else call
    return [
        name
        for name, parameter in inspect.signature(call).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
