"""Positions in PyTorch and in NumPy agree to 1e-12 in float64, forward and backward."""

import inspect

import numpy as np
import pytest
import torch
from test_twins import assert_twins, normal

import attn_core
from attn_core import masks, positions, reference

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
OFFSETS = {"none": None, "ahead": 2, "per batch entry": [0, 3]}


def both_distances(q_len, k_len, q_offset):
    given_offset = torch.tensor(q_offset) if isinstance(q_offset, list) else q_offset
    ours = positions.distances(q_len, k_len, given_offset)
    twin = reference.distances(q_len, k_len, q_offset)
    np.testing.assert_array_equal(ours.numpy(), twin)
    return ours, twin


def functional(layer, *names):
    """The layer as a function of its inputs and, after them, its parameters."""

    def call(*tensors, **options):
        inputs, learned = tensors[: -len(names)], tensors[-len(names) :]
        return torch.func.functional_call(
            layer, dict(zip(names, learned, strict=True)), inputs, options
        )

    return call


SCALINGS = {
    "none": None,
    "linear": ("LinearScaling", (4.0,)),
    "ntk": ("NTKScaling", (4.0,)),
    "yarn": ("YaRNScaling", (4.0, 32)),
    "yarn of the paper": ("YaRNScaling", (4.0, 32, 8.0, 0.5, None, "rotations")),
    "yarn of gpt-oss": ("YaRNScaling", (32.0, 4096, 32.0, 1.0, None, "unrounded index")),
    "yarn, bare": ("YaRNScaling", (16.0, 64, 32.0, 1.0, 1.0)),
}
POSITIONS = {
    "from 0": None,
    "integers": np.array([4, 0, 1000, 2, 2]),
    "floats": np.array([0.5, -3.25, 7.0, 0.0, 1.5]),
    "per batch entry": np.array([[0, 1, 2, 3, 4], [9, 0, 0, 1, 2]]),
}


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("dim", [None, 4])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
@pytest.mark.parametrize("at", POSITIONS.values(), ids=POSITIONS.keys())
def test_rotary(pairing, dim, scaling, at):
    shared = {"base": 500.0, "dim": dim, "pairing": pairing}

    def options(home):
        name, arguments = scaling or (None, ())
        return {**shared, "scaling": getattr(home, name)(*arguments) if name else None}

    assert_twins(
        lambda x: positions.rotary(
            x, None if at is None else torch.tensor(at), **options(positions)
        ),
        lambda x: reference.rotary(x, at, **options(reference)),
        lambda grad, x: reference.rotary_backward(grad, x, at, **options(reference)),
        normal((2, 3, 5, 8)),
    )


@pytest.mark.parametrize("scaling", [s for s in SCALINGS.values() if s])
@pytest.mark.parametrize("dim", [4, 64, 130])
def test_frequencies(scaling, dim):
    name, arguments = scaling
    ours, twin = (getattr(home, name)(*arguments) for home in (positions, reference))
    np.testing.assert_allclose(
        ours.frequencies(dim, 1e4).numpy(), twin.frequencies(dim, 1e4), rtol=1e-12
    )
    assert ours.attention_factor == twin.attention_factor


@pytest.mark.parametrize("slopes", ["released", "geometric"])
@pytest.mark.parametrize("heads", range(1, 40))
def test_alibi(slopes, heads):
    ours, twin = both_distances(3, 5, [0, 3])
    seen = positions.ALiBi(heads, slopes=slopes)(torch.zeros(1, 1).double(), None, ours)
    np.testing.assert_allclose(seen.numpy(), reference.alibi(twin, heads, slopes), **TOLERANCE)
    np.testing.assert_allclose(
        positions.alibi_slopes(heads, slopes).numpy(),
        reference.alibi_slopes(heads, slopes),
        **TOLERANCE,
    )


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (4, 3), (10, 40), (64, 1000)])
def test_t5_bucket(bidirectional, buckets, max_distance):
    options = {
        "buckets": buckets,
        "max_distance": max_distance if bidirectional else 2 * max_distance,
        "bidirectional": bidirectional,
    }
    distance = np.arange(-1100, 1100).reshape(4, -1)
    seen = positions.t5_bucket(torch.tensor(distance), **options)
    np.testing.assert_array_equal(seen.numpy(), reference.t5_bucket(distance, **options))


@pytest.mark.parametrize("offset", OFFSETS.values(), ids=OFFSETS.keys())
@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_bias(offset, bidirectional):
    ours, twin = both_distances(5, 5 if offset is None else 9, offset)
    options = {"max_distance": 7, "bidirectional": bidirectional}
    layer = positions.T5Bias(3, buckets=8, **options).double()
    call = functional(layer, "weight")
    query = torch.zeros(1, 1).double()
    assert_twins(
        lambda weight: call(query, query, ours, weight),
        lambda weight: reference.t5_bias(weight, distance=twin, **options),
        lambda grad, weight: reference.t5_bias_backward(grad, weight, distance=twin, **options),
        normal((8, 3)),
    )


@pytest.mark.parametrize("offset", OFFSETS.values(), ids=OFFSETS.keys())
@pytest.mark.parametrize("heads", [None, 3])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_shaw(offset, heads, scale):
    ours, twin = both_distances(5, 5 if offset is None else 9, offset)
    layer = positions.ShawBias(4, 3, heads, scale=scale).double()
    call = functional(layer, "weight")
    options = {"distance": twin, "scale": scale}
    assert_twins(
        lambda query, weight: call(query, query, ours, weight),
        lambda query, weight: reference.shaw(query, weight, **options),
        lambda grad, query, weight: reference.shaw_backward(grad, query, weight, **options),
        normal((2, 3, 5, 4), layer.weight.shape),
    )


@pytest.mark.parametrize("offset", OFFSETS.values(), ids=OFFSETS.keys())
@pytest.mark.parametrize("heads", [None, 3])
def test_shaw_values(offset, heads):
    k_len = 5 if offset is None else 9
    _, twin = both_distances(5, k_len, offset)
    layer = positions.ShawValues(4, 3, heads).double()
    call = functional(layer, "weight")
    given_offset = torch.tensor(offset) if isinstance(offset, list) else offset
    assert_twins(
        lambda weights, weight: call(weights, weight, q_offset=given_offset),
        lambda weights, weight: reference.shaw_values(weights, weight, distance=twin),
        lambda grad, weights, weight: reference.shaw_values_backward(
            grad, weights, weight, distance=twin
        ),
        normal((2, 3, 5, k_len), layer.weight.shape),
    )


@pytest.mark.parametrize("offset", OFFSETS.values(), ids=OFFSETS.keys())
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("leading", [(), (2,)])
def test_transformer_xl(offset, kv_heads, leading):
    k_len = 5 if offset is None else 9
    if isinstance(offset, list) and not leading:
        return
    ours, twin = both_distances(5, k_len, offset)
    layer = positions.TransformerXLBias(4, 6, dim=7, base=90.0, scale=0.4).double()
    names = ("content_bias", "position_bias", "position_proj.weight")
    call = functional(layer, *names)
    options = {"distance": twin, "base": 90.0, "scale": 0.4}
    shapes = [dict(layer.named_parameters())[name].shape for name in names]
    assert_twins(
        lambda query, key, *learned: call(query, key, ours, *learned),
        lambda *arrays: reference.transformer_xl(*arrays, **options),
        lambda grad, *arrays: reference.transformer_xl_backward(grad, *arrays, **options),
        normal((*leading, 4, 5, 6), (*leading, kv_heads, k_len, 6), *shapes),
    )


@pytest.mark.parametrize("ids", [[[0, 2, 1, 1, 0], [2, 2, 2, 0, 1]], [0, 0, 1, 1, 1]])
def test_segment(ids):
    layer = positions.SegmentEncoding(4, 6).double()
    options = {"segment_ids": np.array(ids)}
    assert_twins(
        lambda x, weight: functional(layer, "weight")(x, torch.tensor(ids), weight),
        lambda x, weight: reference.segment(x, weight, **options),
        lambda grad, x, weight: reference.segment_backward(grad, x, weight, **options),
        normal((2, 5, 6), (4, 6)),
    )
    seen = positions.restarting(torch.tensor(ids)).numpy()
    np.testing.assert_array_equal(seen, reference.restarting(np.array(ids)))


@pytest.mark.parametrize("name", ["shaw", "transformer_xl", "t5_bias", "alibi"])
def test_attention_with_a_bias_object_is_the_references_with_its_twin(name):
    query, key, value, weight, u, v, matrix = normal(
        (2, 4, 5, 6), (2, 2, 5, 6), (2, 2, 5, 3), (7, 6), (4, 6), (4, 6), (24, 8)
    )
    distance = reference.distances(5, 5)
    if name == "shaw":
        bias, written = positions.ShawBias(6, 3), reference.shaw(query, weight, distance=distance)
        learned = [weight]
    elif name == "transformer_xl":
        bias = positions.TransformerXLBias(4, 6, dim=8)
        written = reference.transformer_xl(query, key, u, v, matrix, distance=distance)
        learned = [u, v, matrix]
    elif name == "t5_bias":
        bias, learned = positions.T5Bias(4, buckets=6, max_distance=4), [matrix.reshape(-1, 4)[:6]]
        written = reference.t5_bias(*learned, distance=distance, max_distance=4)
    else:
        bias, written, learned = positions.ALiBi(4), reference.alibi(distance, 4), []
    bias = bias.double()
    for parameter, numbers in zip(bias.parameters(), learned, strict=True):
        parameter.data = torch.tensor(numbers)
    seen = attn_core.attention(
        *map(torch.tensor, (query, key, value)), mask=masks.causal(), bias=bias
    )
    expected = reference.attention(query, key, value, mask=reference.causal(5, 5), bias=written)
    np.testing.assert_allclose(seen.detach().numpy(), expected, **TOLERANCE)


def step_by_step(function, arrays, grad_output, step=1e-6):
    """The gradient of each array by central differences."""
    for array in arrays:
        gradient = np.zeros_like(array)
        for at in np.ndindex(array.shape):
            kept = array[at]
            array[at] = kept + step
            above = (function(*arrays) * grad_output).sum()
            array[at] = kept - step
            below = (function(*arrays) * grad_output).sum()
            array[at] = kept
            gradient[at] = (above - below) / (2 * step)
        yield gradient


AT = reference.distances(3, 4, [0, 2])
DIFFERENTIABLE = {
    "rotary": ([(2, 1, 3, 4)], {"scaling": reference.YaRNScaling(4.0, 8)}),
    "t5_bias": ([(4, 2)], {"distance": AT, "max_distance": 3}),
    "shaw": ([(2, 2, 3, 4), (5, 4)], {"distance": AT}),
    "shaw_values": ([(2, 2, 3, 4), (2, 3, 5)], {"distance": AT}),
    "transformer_xl": ([(2, 2, 3, 4), (2, 1, 4, 4), (2, 4), (2, 4), (8, 3)], {"distance": AT}),
    "segment": ([(2, 3, 4), (3, 4)], {"segment_ids": np.array([[0, 1, 1], [2, 2, 0]])}),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_references_gradients_are_those_of_finite_differences(name):
    shapes, options = DIFFERENTIABLE[name]
    arrays = normal(*shapes)

    def function(*arrays):
        return getattr(reference, name)(*arrays, **options)

    (grad_output,) = normal(function(*arrays).shape, seed=3)
    gradients = getattr(reference, f"{name}_backward")(grad_output, *arrays, **options)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    for seen, expected in zip(gradients, step_by_step(function, arrays, grad_output), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["rotary", "alibi_slopes", "t5_bucket", "restarting", "LinearScaling", "NTKScaling",
             "YaRNScaling"]
)  # fmt: skip
def test_twins_take_the_same_arguments(name):
    seen, expected = (
        [(p.name, p.default) for p in inspect.signature(getattr(home, name)).parameters.values()]
        for home in (positions, reference)
    )
    assert seen == expected
