"""Attention that is right is never accused: other libraries', ours, and rewritings of it."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import einsum, nn

import attn_core
from attn_core import kernels, masks, modules, reference
from attn_core.diagnosis import diagnose
from attn_core.models.gpt import GPT


def assert_right(function, **options):
    report = diagnose(function, **options)
    assert report, str(report)
    return report


def test_pytorch():
    report = assert_right(torch.nn.functional.scaled_dot_product_attention)
    assert report.convention.mask_argument == "attn_mask"
    assert report.convention.causal_argument == "is_causal"


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_multi_head_layer_of_pytorch(batch_first, bias):
    assert_right(nn.MultiheadAttention(16, 4, batch_first=batch_first, bias=bias))
    assert_right(nn.MultiheadAttention(16, 1, dropout=0.5, batch_first=batch_first))


def test_the_encoder_layer_of_pytorch():
    assert_right(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), mask="src_mask")


@pytest.mark.parametrize("model", ["llama", "qwen2", "bart", "clip", "whisper", "gpt2", "vit"])
def test_the_eager_functions_of_hugging_face(model):
    pytest.importorskip("transformers")
    library = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
    layer = nn.Module()
    layer.num_key_value_groups, layer.scale_attn_weights = 1, True
    layer.scale_attn_by_inverse_layer_idx, layer.is_cross_attention = False, True
    layer.attn_dropout = nn.Dropout(0.1)
    layer.eval()

    def attention(query, key, value, attention_mask=None):
        scaling = query.shape[-1] ** -0.5
        return library.eager_attention_forward(
            layer, query, key, value, attention_mask, scaling=scaling
        )

    def without_mask(query, key, value):
        return attention(query, key, value)

    # GPT-2's divides by the root of a value's width, which is a key's there. ViT's multiplies the
    # weights by its mask, and nobody gives it one.
    assert_right(
        without_mask if model == "vit" else attention,
        mask_means="additive",
        layout="BHLD",
        width=6 if model == "gpt2" else None,
        masked_rows=False,
    )


def test_what_hugging_face_does_with_a_mask_for_its_vision_transformer_is_told():
    library = pytest.importorskip("transformers.models.vit.modeling_vit")
    layer = nn.Module().eval()

    def attention(query, key, value, attention_mask=None):
        scaling = query.shape[-1] ** -0.5
        return library.eager_attention_forward(layer, query, key, value, attention_mask, scaling)

    (mistake,) = diagnose(attention, layout="BHLD").mistakes
    assert mistake.name == "mask after softmax"


def test_flex_attention():
    from torch.nn.attention.flex_attention import flex_attention

    assert_right(flex_attention, layout="BHLD", seconds=60)


def test_the_reference_of_onnx():
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    names = ["Q", "K", "V", "attn_mask"]
    node = onnx.helper.make_node("Attention", names, ["Y"])
    kinds = [onnx.TensorProto.DOUBLE] * 3 + [onnx.TensorProto.BOOL]
    inputs = [
        onnx.helper.make_tensor_value_info(name, kind, [None] * 4)
        for name, kind in zip(names, kinds, strict=True)
    ]
    output = onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.DOUBLE, [None] * 4)
    graph = onnx.helper.make_graph([node], "attention", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)])
    session = ReferenceEvaluator(model)

    def attention(query, key, value, mask):
        mask = np.broadcast_to(mask, (*query.shape[:3], key.shape[2]))
        feeds = dict(zip(names, (query, key, value, mask), strict=True))
        return session.run(None, feeds)[0]

    assert_right(attention, layout="BHLD", backend="numpy", masked_rows=False)


@pytest.mark.parametrize("kernel", ["explicit", "sdpa", "chunked"])
@pytest.mark.parametrize("layout", ["BHLD", "LD"])
def test_our_kernels(kernel, layout):
    def attention(query, key, value, mask=None, causal=False):
        if causal:
            mask = masks.causal()
        with kernels.use(kernel):
            return attn_core.attention(query, key, value, mask=mask, q_offset=0)

    assert_right(attention, layout=layout)


def test_our_flex_kernel():
    def attention(query, key, value, mask=None):
        with kernels.use("flex"):
            return attn_core.attention(query, key, value, mask=mask)

    assert_right(attention, layout="BHLD", seconds=60)


def test_our_banded_kernel():
    def attention(query, key, value):
        with kernels.use("banded"):
            return attn_core.attention(query, key, value, mask=masks.window(50, 50), q_offset=0)

    assert_right(attention, layout="BHLD")


def test_our_reference():
    assert_right(reference.attention, backend="numpy", layout="BHLD")
    assert_right(reference.attention_loops, backend="numpy", layout="LD")


@pytest.mark.parametrize(
    "layer",
    [
        modules.MultiHeadAttention(16, 4),
        modules.MultiHeadAttention(16, 4, kv_heads=2, bias=False),
        modules.SelfAttention(16),
        modules.SelfAttention(16, head_dim=8, bias=False),
        modules.AttentionPooling(16),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_our_layers(layer):
    assert_right(layer)


def test_our_language_model():
    torch.manual_seed(0)
    assert_right(GPT(40, dim=16, heads=2, layers=2, max_len=16))


@st.composite
def rewritings(draw):
    """Attention, written in one of many ways that are all right."""
    library = draw(st.sampled_from(["torch", "numpy"]))
    dtype = draw(st.sampled_from(["as given", "float32"]))
    scaled = draw(st.sampled_from(["scores", "query", "key", "both"]))
    product = draw(st.sampled_from(["matmul", "einsum"]))
    softmax = draw(st.sampled_from(["shifted", "log", "two passes"]))
    late = draw(st.booleans())  # divide after the sum over values
    shape = draw(st.sampled_from(["BHLD", "BLHD", "BLD", "LD"]))
    xp = torch if library == "torch" else np

    def scores_peak(scores):
        return getattr(scores, "amax" if library == "torch" else "max")(-1, keepdims=True)

    def exponentials(scores):
        peak = scores_peak(scores)
        if softmax == "two passes":
            half = xp.exp((scores - peak) / 2)
            return half * half
        return xp.exp(scores - peak)

    def attention(query, key, value):
        given = query.dtype
        if dtype == "float32":
            kind = torch.float32 if library == "torch" else np.float32
            query, key, value = (
                x.to(kind) if library == "torch" else x.astype(kind) for x in (query, key, value)
            )
        if shape == "BLHD":
            query, key, value = (xp.swapaxes(x, 1, 2) for x in (query, key, value))
        width = query.shape[-1]
        if scaled == "query":
            query = query / width**0.5
        if scaled == "key":
            key = key * width**-0.5
        if scaled == "both":
            query, key = query / width**0.25, key / width**0.25
        if product == "einsum":
            scores = (einsum if library == "torch" else np.einsum)("...id,...jd->...ij", query, key)
        else:
            scores = query @ xp.swapaxes(key, -1, -2)
        if scaled == "scores":
            scores = scores / width**0.5
        powers = exponentials(scores)
        total = powers.sum(-1, keepdims=True)
        if softmax == "log":
            powers, total = xp.exp(scores - scores_peak(scores) - xp.log(total)), 1.0
        output = (powers @ value) / total if late else (powers / total) @ value
        if shape == "BLHD":
            output = xp.swapaxes(output, 1, 2)
        return output.to(given) if library == "torch" else output.astype(given)

    return attention, library, shape


@settings(max_examples=60)
@given(rewritings())
def test_rewritings(drawn):
    attention, library, layout = drawn
    assert_right(attention, backend=library, layout=layout)
