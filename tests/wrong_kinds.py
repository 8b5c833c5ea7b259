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
)

X = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
B = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
IDS = torch.ones(2, 3, dtype=torch.long)
W = np.full((2, 2), 0.5)
QKV = {"query": X, "key": X, "value": X}
LAYER = modules.MultiHeadAttention(8, 2)
ADDITIVE = scores.Additive(8, 8, 3)
GRADED = torch.full((1, 2, 2), 0.5, requires_grad=True)
TOKEN = {"key": X[:, :, :1], "value": X[:, :, :1]}
FREQUENCIES = {"dim": 8, "base": 10.0}


def filled():
    cache = modules.KVCache()
    cache.update(**TOKEN)
    return cache


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
    "use": (kernels.use, {"kernel": "explicit"}),
    "elu_plus_one": (kernels.elu_plus_one, {"x": X}),
    "approximation_error": (
        lambda approximation: kernels.approximation_error(approximation, X, X, X),
        {"approximation": kernels.linear_attention},
    ),
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
    "Mask.dense": (masks.causal().dense, {"q_len": 2, "k_len": 2}),
    "Mask.pairs": (masks.causal().pairs, {"row": IDS[0, :, None], "key": IDS[0]}),
    "Mask.block_mask": (masks.causal().block_mask, {"q_len": 128, "k_len": 128}),
    "Mask.check_fit": (masks.causal().check_fit, {"q_len": 2, "k_len": 2}),
    "sinusoidal": (positions.sinusoidal, {"length": 2, "dim": 4}),
    "SinusoidalEncoding": (positions.SinusoidalEncoding, {"dim": 8}),
    "SinusoidalEncoding()": (positions.SinusoidalEncoding(8), {"x": B}),
    "LearnedEncoding": (positions.LearnedEncoding, {"max_len": 4, "dim": 8}),
    "LearnedEncoding()": (positions.LearnedEncoding(4, 8), {"x": B}),
    "SegmentEncoding": (positions.SegmentEncoding, {"segments": 3, "dim": 8}),
    "SegmentEncoding()": (positions.SegmentEncoding(3, 8), {"x": B, "segment_ids": IDS}),
    "restarting": (positions.restarting, {"segment_ids": IDS}),
    "rotary": (positions.rotary, {"x": X}),
    "Rotary": (positions.Rotary, {}),
    "Rotary()": (positions.Rotary(), {"x": X}),
    "ALiBi": (positions.ALiBi, {"heads": 2}),
    "T5Bias": (positions.T5Bias, {"heads": 2}),
    "ShawBias": (positions.ShawBias, {"head_dim": 8, "max_distance": 2}),
    "ShawValues()": (positions.ShawValues(8, 2), {"weights": torch.full((1, 2, 4, 4), 0.25)}),
    "Bias": (positions.Bias, {}),
    "Bias.dense": (positions.ALiBi(2).dense, {"q_len": 2, "k_len": 2}),
    "Scaling.frequencies": (positions.Scaling().frequencies, FREQUENCIES),
    "LinearScaling": (positions.LinearScaling, {"factor": 2.0}),
    "LinearScaling.frequencies": (positions.LinearScaling(2.0).frequencies, FREQUENCIES),
    "NTKScaling": (positions.NTKScaling, {"factor": 2.0}),
    "NTKScaling.frequencies": (positions.NTKScaling(2.0).frequencies, FREQUENCIES),
    "YaRNScaling": (positions.YaRNScaling, {"factor": 2.0, "original_length": 8}),
    "YaRNScaling.frequencies": (positions.YaRNScaling(2.0, 8).frequencies, FREQUENCIES),
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
    "without_empty_rows": (normalizers.without_empty_rows, {"scores": B, "dim": -1}),
    "scaled_dot": (scores.scaled_dot, {"query": B, "key": B}),
    "dot": (scores.dot, {"query": B, "key": B}),
    "cosine": (scores.cosine, {"query": B, "key": B}),
    "gaussian": (scores.gaussian, {"query": B, "key": B}),
    "Bilinear": (scores.Bilinear, {"query_dim": 8, "key_dim": 8}),
    "Additive": (scores.Additive, {"query_dim": 8, "key_dim": 8, "hidden_dim": 3}),
    "Bilinear()": (scores.Bilinear(8, 8), {"query": B, "key": B}),
    "Additive()": (ADDITIVE, {"query": B, "key": B}),
    "Additive.from_projections": (
        ADDITIVE.from_projections,
        {"query": torch.ones(2, 3, 3), "key": torch.ones(2, 3, 3)},
    ),
    "Location()": (scores.Location(8, 3), {"query": B, "key": B}),
    "Location": (scores.Location, {"query_dim": 8, "max_len": 3}),
    "MultiHeadAttention": (modules.MultiHeadAttention, {"dim": 8, "heads": 2}),
    "MultiHeadAttention()": (LAYER, {"query": B}),
    "MultiHeadAttention.from_torch": (
        modules.MultiHeadAttention.from_torch,
        {"layer": torch.nn.MultiheadAttention(8, 2, batch_first=True)},
    ),
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
    "HardAttention": (modules.HardAttention, {}),
    "HardAttention()": (modules.HardAttention(), {"query": B, "key": B, "value": B}),
    "LocalMonotonic": (modules.LocalMonotonic, {"window": 1}),
    "LocalMonotonic()": (modules.LocalMonotonic(1), {"query": B, "key": B, "value": B}),
    "LocalPredictive": (modules.LocalPredictive, {"query_dim": 8, "window": 1}),
    "LocalPredictive()": (modules.LocalPredictive(8, 1), {"query": B, "key": B, "value": B}),
    "LocalPredictive.centers": (modules.LocalPredictive(8, 1).centers, {"query": B, "key": B}),
    "MovingAverage": (modules.MovingAverage, {}),
    "MovingAverage.update": (modules.MovingAverage().update, {"reward": B}),
    "KVCache.update": (lambda key, value: filled().update(key, value), TOKEN),
    "KVCache.fill": (lambda key, value: modules.KVCache().fill(key, value), TOKEN),
    "KVCache.reorder": (lambda indices: filled().reorder(indices), {"indices": IDS[0, :1] * 0}),
    "KVCache": (modules.KVCache, {}),
    "reinforce_loss": (modules.reinforce_loss, {"reward": B[..., 0], "log_prob": B[..., 0]}),
    "record": (interpret.record, {"model": LAYER}),
    "ablate_heads": (
        interpret.ablate_heads,
        {"model": LAYER, "heads": {"MultiHeadAttention": [0]}},
    ),
    "entropy": (interpret.entropy, {"weights": torch.full((1, 2, 2), 0.5)}),
    "distance": (interpret.distance, {"weights": torch.full((1, 2, 2), 0.5)}),
    "rollout": (interpret.rollout, {"weights": [torch.full((1, 2, 2), 0.5)]}),
    "alignment_error_rate": (
        interpret.alignment_error_rate,
        {"weights": torch.full((2, 2), 0.5), "sure": torch.eye(2) > 0},
    ),
    "gradient_times_attention": (
        interpret.gradient_times_attention,
        {"target": (GRADED * 2).sum(), "weights": [GRADED]},
    ),
    "cost": (cost, {"mechanism": "dot_product", "q_len": 2, "head_dim": 2}),
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


# What is not called, by reason.
_NOT_WALKED = {
    "the layers and kernels call it, with what they have checked": "ALiBi() T5Bias() ShawBias() "
    "TransformerXLBias() Bias() Bias.check_fit KVCache.mask_of_kept GraphAttention.score",
    "a part of Seq2Seq, which checks": "Encoder Encoder() PlainDecoder PlainDecoder() "
    "BahdanauDecoder BahdanauDecoder() LuongDecoder LuongDecoder()",
    "BERT.guess() calls it": "MaskedTokenHead()",
    "Bilinear(), divided": "ScaledBilinear()",
    "transformers calls it": "attend hide",
    "diagnose(), which raises": "check_attention",
    "it needs a file of trained weights": "BERT.from_safetensors Whisper.from_ctranslate2 "
    "read_safetensors read_ctranslate2",
    "the functions of plot make it": "plot.LiveFigure",
    "it reads or cuts texts, and what is none has no letters": "Vocabulary Vocabulary.of "
    "Vocabulary.encode Vocabulary.decode Vocabulary.pad split_dates write_dates date_examples "
    "date_vocabularies pairs groups key split overlap words characters as_written references "
    "reference_streams TranslationMemory TranslationMemory() TranslationMemory.similarity Glossary "
    "Glossary() Glossary.links",
}
NOT_WALKED = {call for calls in _NOT_WALKED.values() for call in calls.split()}


# Which of them are right after all, or stand for something else; "*" for every call.
RIGHT_AFTER_ALL = {
    ("*", "title", "a text"),
    ("*", "label", "a text"),
    ("*", "key_axis", "a text"),
    ("*", "value_axis", "a text"),
    ("*", "name", "a text"),
    ("*", "font", "a text"),  # the path of a font file
    ("*", "device", "a text"),  # PyTorch says which devices there are
    ("Mask.check_fit", "device", "*"),  # it is compared, and that is all
    ("Translator.align", "source", "a text"),
    ("Translator.align", "target", "a text"),
    ("train", "description", "a text"),
    ("train", "log_dir", "a text"),
    ("excerpt", "source", "a text"),
    ("load", "source", "a text"),
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
