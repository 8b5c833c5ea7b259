"""Every PyTorch function and its NumPy twin agree to 1e-12 in float64, forward and backward."""

import inspect

import numpy as np
import pytest
import torch

import attn_core
from attn_core import (
    interpret,
    kernels,
    masks,
    modules,
    normalizers,
    positions,
    reference,
    scores,
)
from attn_core.models import copying
from attn_core.models.bert import BERT
from attn_core.models.block import Block
from attn_core.models.graph import GraphAttention

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def assert_twins(torch_function, numpy_function, numpy_backward, arrays):
    """Compare outputs, and autograd's gradients with those of the formula."""
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    output = torch_function(*tensors)
    expected = numpy_function(*arrays)
    assert output.dtype == torch.float64
    np.testing.assert_allclose(output.detach().numpy(), expected, **TOLERANCE)

    grad_output = np.random.default_rng(7).normal(size=expected.shape)
    output.backward(torch.tensor(grad_output))
    gradients = numpy_backward(grad_output, *arrays)
    if isinstance(gradients, np.ndarray):
        gradients = (gradients,)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, **TOLERANCE)


@pytest.mark.parametrize("name", ["dot", "scaled_dot", "cosine"])
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_scores(name, leading):
    assert_twins(
        getattr(scores, name),
        getattr(reference, name),
        getattr(reference, f"{name}_backward"),
        normal((*leading, 4, 6), (*leading, 5, 6)),
    )


def test_the_cosine_of_a_zero_vector():
    query, key = normal((4, 6), (5, 6))
    query[1], key[2] = 0, 0
    assert_twins(scores.cosine, reference.cosine, reference.cosine_backward, [query, key])


def test_bilinear():
    module = scores.Bilinear(query_dim=6, key_dim=3).double()

    def call(query, key, weight):
        return torch.func.functional_call(module, {"weight": weight}, (query, key))

    arrays = normal((2, 4, 6), (2, 5, 3), (6, 3))
    assert_twins(call, reference.bilinear, reference.bilinear_backward, arrays)


def test_additive():
    module = scores.Additive(query_dim=6, key_dim=3, hidden_dim=7).double()

    def call(query, key, query_weight, key_weight, score_vector):
        parameters = {
            "query_proj.weight": query_weight,
            "key_proj.weight": key_weight,
            "score_vector": score_vector,
        }
        return torch.func.functional_call(module, parameters, (query, key))

    arrays = normal((2, 4, 6), (2, 5, 3), (7, 6), (7, 3), (7,))
    assert_twins(call, reference.additive, reference.additive_backward, arrays)


@pytest.mark.parametrize("name", ["softmax", "sparsemax", "hard"])
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_normalizers(name, dim):
    (rows,) = normal((3, 4, 5))
    rows[0, 0] = -np.inf
    rows[:, 1, 1] = -np.inf
    rows[:, :, 4] = -np.inf
    backward = getattr(reference, f"{name}_backward")
    assert_twins(
        lambda x: getattr(normalizers, name)(x, dim),
        lambda x: getattr(reference, name)(x, dim),
        lambda grad, x: backward(grad, x, dim),
        [rows],
    )


@pytest.mark.parametrize("q_offset", [None, 0, 2, [0, 3]])
def test_masks(q_offset):
    queries, keys = (5, 5) if q_offset is None else (3, 5)
    offset = torch.tensor(q_offset) if isinstance(q_offset, list) else q_offset
    pairs = [
        (masks.causal(), reference.causal(queries, keys, q_offset)),
        (masks.window(2, 1), reference.window(2, 1, queries, keys, q_offset)),
        (masks.window(None, 0), reference.window(None, 0, queries, keys, q_offset)),
        (
            masks.causal() & ~masks.window(1, 1) | masks.padding([2, 5]),
            reference.causal(queries, keys, q_offset)
            & ~reference.window(1, 1, queries, keys, q_offset)
            | reference.padding([2, 5], keys),
        ),
    ]
    for mask, expected in pairs:
        np.testing.assert_array_equal(mask.dense(queries, keys, offset).numpy(), expected)
    padding = masks.padding([0, 2, 5]).dense(1, 5).numpy()
    np.testing.assert_array_equal(padding, reference.padding([0, 2, 5], 5))


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("dim", [1, 2, 7, 8])
def test_sinusoidal(dim):
    seen = positions.sinusoidal(3000, dim, base=500.0)
    assert seen.dtype == torch.float64
    expected = reference.sinusoidal(3000, dim, base=500.0)
    np.testing.assert_allclose(seen.numpy(), expected, **TOLERANCE)


def test_sinusoidal_is_rounded_once():
    seen = positions.sinusoidal(3000, 8)
    expected = reference.sinusoidal(3000, 8).astype(np.float32)
    np.testing.assert_allclose(seen.numpy(), expected, rtol=0, atol=6e-8)


SHAPES = {
    "matrices": [(4, 6), (5, 6), (5, 3)],
    "heads": [(2, 4, 6), (2, 5, 6), (2, 5, 3)],
    "grouped": [(2, 4, 4, 6), (2, 2, 5, 6), (2, 2, 5, 3)],
    "one key head": [(2, 4, 4, 6), (2, 1, 5, 6), (2, 1, 5, 3)],
    "batch broadcast": [(2, 1, 4, 6), (1, 1, 5, 6), (5, 3)],
}
DEAD_ROW = reference.causal(4, 5, q_offset=-1) & (np.arange(5) != 1)
OPTIONS = {
    "default": {},
    "scale and softcap": {"scale": 0.7, "softcap": 1.3},
    "mask": {"mask": DEAD_ROW},
    "sparsemax": {"normalizer": "sparsemax", "mask": DEAD_ROW},
    "hard": {"normalizer": "hard", "mask": DEAD_ROW},
    "cosine": {"score": "cosine", "scale": 4.0},
    "scaled_dot": {"score": "scaled_dot", "mask": DEAD_ROW, "softcap": 2.0},
}


def as_torch(options):
    modules = {"normalizer": normalizers, "score": scores}
    return {
        name: getattr(modules[name], option)
        if name in modules
        else torch.tensor(option)
        if name == "mask"
        else option
        for name, option in options.items()
    }


def as_numpy(options):
    return {
        name: getattr(reference, option) if isinstance(option, str) else option
        for name, option in options.items()
    }


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_attention(shapes, options):
    def call(query, key, value, bias):
        return attn_core.attention(query, key, value, bias=bias, **as_torch(options))

    def twin(query, key, value, bias):
        return reference.attention(query, key, value, bias=bias, **as_numpy(options))

    def backward(grad_output, query, key, value, bias):
        return reference.attention_backward(
            grad_output, query, key, value, bias=bias, **as_numpy(options)
        )

    assert_twins(call, twin, backward, normal(*shapes, (4, 5)))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_masked_for_every_query(poison):
    query, key, value = normal(*SHAPES["grouped"])
    key[1, :, 3:], value[1, :, 3:] = poison, poison
    mask = reference.padding([5, 3], 5)
    assert_twins(
        lambda *tensors: attn_core.attention(*tensors, mask=masks.padding([5, 3])),
        lambda *arrays: reference.attention(*arrays, mask=mask),
        lambda grad, *arrays: reference.attention_backward(grad, *arrays, mask=mask)[:3],
        [query, key, value],
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_weights(options):
    arrays = normal(*SHAPES["grouped"])
    seen = attn_core.attention(*map(torch.tensor, arrays), return_weights=True, **as_torch(options))
    expected = reference.attention(*arrays, return_weights=True, **as_numpy(options))
    np.testing.assert_allclose(seen.weights.numpy(), expected.weights, **TOLERANCE)
    np.testing.assert_allclose(seen.output.numpy(), expected.output, **TOLERANCE)


def test_every_name_of_the_reference_has_a_twin_or_is_a_derivative():
    own = {
        "attention_loops",
        "softmax_jacobian",
        "AttentionGradients",
        "BERTOutput",
        "RoundedRows",
        "load_rounded",
        "minilm",
        "restore_rows",
        "round_rows",
        "save_rounded",
        "word_pieces",
        "BlockGradients",
        "DeltaGradients",
        "LinearGradients",
        "LinformerGradients",
        "MultiHeadGradients",
        "multi_head_decoding",
        "online_attention",
    }
    learned = {
        "bilinear": scores.Bilinear,
        "additive": scores.Additive,
        "location": scores.Location,
        "alibi": positions.ALiBi,
        "bert": BERT,
        "sentence_vector": BERT.embed,
        "segment": positions.SegmentEncoding,
        "shaw": positions.ShawBias,
        "shaw_values": positions.ShawValues,
        "t5_bias": positions.T5Bias,
        "transformer_xl": positions.TransformerXLBias,
        "gelu": torch.nn.GELU,
        "graph_attention": GraphAttention,
        "graph_attention_v2": GraphAttention,
        "hard_attention": modules.HardAttention,
        "layer_norm": torch.nn.LayerNorm,
        "rms_norm": torch.nn.RMSNorm,
        "transformer_block": Block,
        "hierarchical": modules.HierarchicalAttention,
        "local_m": modules.LocalMonotonic,
        "local_p": modules.LocalPredictive,
        "multi_head": modules.MultiHeadAttention,
        "multi_head_latent": modules.MultiHeadLatentAttention,
    }
    for name in set(reference.__all__) - own:
        if name.endswith("_backward"):
            continue
        homes = [attn_core, scores, normalizers, masks, positions, kernels, modules, copying]
        homes += [interpret]
        assert name in learned or any(hasattr(home, name) for home in homes), name


@pytest.mark.parametrize("name", ["softmax", "sparsemax", "hard", "dot", "scaled_dot", "cosine"])
def test_twins_take_the_same_arguments(name):
    home = normalizers if hasattr(normalizers, name) else scores
    seen, expected = (
        [(p.name, p.default) for p in inspect.signature(getattr(m, name)).parameters.values()]
        for m in (home, reference)
    )
    assert seen == expected


def test_attention_takes_the_same_arguments():
    torch_only = {"dropout_p", "q_offset"}
    seen = inspect.signature(attn_core.attention).parameters
    twin = inspect.signature(reference.attention).parameters
    assert [name for name in seen if name not in torch_only] == list(twin)
    assert all(seen[name].default == twin[name].default for name in twin)
