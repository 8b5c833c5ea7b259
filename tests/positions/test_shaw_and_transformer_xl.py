"""Biases that read query and key, against the papers' formulas pair by pair."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention, masks
from attn_core.positions import (
    ShawBias,
    ShawValues,
    SinusoidalEncoding,
    TransformerXLBias,
    distances,
)

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(layer):
    layer = layer.double()
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=50 + seed)
    return layer


@pytest.mark.parametrize("heads", [None, 2])
@pytest.mark.parametrize("max_distance", [0, 1, 3, 20])
@pytest.mark.parametrize("q_offset", [0, 2])
def test_shaw_adds_a_vector_to_each_key_and_each_value(heads, max_distance, q_offset):
    """Equations 3 and 4 of the paper, one pair after the other."""
    query, key, value = normal(2, 4, 6), normal(2, 7, 6, seed=1), normal(2, 7, 3, seed=2)
    of_keys = randomised(ShawBias(6, max_distance, heads))
    of_values = randomised(ShawValues(3, max_distance, heads))
    output, weights = attention(
        query, key, value, bias=of_keys, q_offset=q_offset, return_weights=True
    )
    output = output + of_values(weights, q_offset)
    for head in range(2):
        a_key, a_value = (
            layer.weight if heads is None else layer.weight[head] for layer in (of_keys, of_values)
        )
        for i in range(4):
            scores, shifted = [], []
            for j in range(7):
                at = min(max(j - (i + q_offset), -max_distance), max_distance) + max_distance
                scores.append(query[head, i] @ (key[head, j] + a_key[at]) / math.sqrt(6))
                shifted.append(value[head, j] + a_value[at])
            row = torch.stack(scores).softmax(0)
            torch.testing.assert_close(weights[head, i], row, **TOLERANCE)
            torch.testing.assert_close(output[head, i], row @ torch.stack(shifted), **TOLERANCE)


def test_shaw_with_a_scale_of_its_own():
    x = normal(2, 5, 6)
    own, default = randomised(ShawBias(6, 2, scale=0.3)), randomised(ShawBias(6, 2))
    at = distances(5, 5)
    torch.testing.assert_close(own(x, x, at), default(x, x, at) * 0.3 * math.sqrt(6), **TOLERANCE)


def test_values_of_weights_with_offsets_per_batch_entry():
    layer = randomised(ShawValues(3, 2))
    weights = normal(2, 4, 3, 5).softmax(-1)
    both = layer(weights, torch.tensor([0, 2]))
    torch.testing.assert_close(both[0], layer(weights[0], 0), **TOLERANCE)
    torch.testing.assert_close(both[1], layer(weights[1], 2), **TOLERANCE)
    assert (layer(torch.zeros_like(weights), 0) == 0).all()  # nothing attended, nothing added


def test_the_gradient_of_shaws_values():
    layer = randomised(ShawValues(3, 2, heads=2))
    weights = normal(2, 2, 4, 4).requires_grad_()

    def call(weights, vectors):
        return torch.func.functional_call(layer, {"weight": vectors}, (weights,))

    vectors = layer.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(call, [weights, vectors], fast_mode=True)


def transformer_xl_scores(bias, query, key, q_offset):
    """The four terms of the paper, section 3.3, one pair after the other."""
    heads, width = bias.content_bias.shape
    q_len, k_len = query.shape[-2], key.shape[-2]
    scores = torch.empty(heads, q_len, k_len, dtype=torch.float64)
    matrices = bias.position_proj.weight.unflatten(0, (heads, width))
    wave = SinusoidalEncoding(matrices.shape[-1], bias.base)
    for head in range(heads):
        key_head = head // (heads // key.shape[0])
        for i in range(q_len):
            for j in range(k_len):
                q, k = query[head, i], key[key_head, j]
                back = torch.tensor([i + q_offset - j])
                r = (
                    matrices[head]
                    @ wave(torch.zeros(1, matrices.shape[-1]).double(), positions=back)[0]
                )
                u, v = bias.content_bias[head], bias.position_bias[head]
                scores[head, i, j] = (q @ k + q @ r + u @ k + v @ r) / math.sqrt(width)
    return scores


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("dim", "base"), [(None, 10000.0), (7, 50.0)])
def test_transformer_xl_has_the_four_terms_of_the_paper(kv_heads, dim, base):
    bias = randomised(TransformerXLBias(4, 6, dim=dim, base=base))
    query, key = normal(4, 3, 6), normal(kv_heads, 8, 6, seed=1)
    value = normal(kv_heads, 8, 5, seed=2)
    _, weights = attention(
        query, key, value, bias=bias, q_offset=5, mask=masks.causal(), return_weights=True
    )
    scores = transformer_xl_scores(bias, query, key, 5)
    allowed = masks.causal().dense(3, 8, 5)
    expected = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    torch.testing.assert_close(weights, expected, **TOLERANCE)


@given(q_len=st.integers(1, 6), memory=st.integers(0, 5))
def test_looking_up_by_distance_is_the_papers_shift_of_rows(q_len, memory):
    """Appendix B: multiply with the encodings of all distances, then shift row i by L − 1 − i."""
    bias = randomised(TransformerXLBias(2, 4))
    k_len = q_len + memory
    query, key = normal(2, q_len, 4), normal(2, k_len, 4, seed=1)
    ours = bias(query, key, distances(q_len, k_len, memory))

    distance_of_column = torch.arange(k_len - 1, -1, -1)  # how far back, the furthest first
    wave = SinusoidalEncoding(8)(torch.zeros(k_len, 8).double(), positions=distance_of_column)
    vectors = bias.position_proj(wave).unflatten(-1, (2, 4)).transpose(0, 1)
    products = (query + bias.position_bias[:, None]) @ vectors.mT  # (heads, L, S)
    padded = torch.cat([products.new_zeros(2, q_len, 1), products], -1)
    shifted = padded.view(2, k_len + 1, q_len)[:, 1:].reshape(2, q_len, k_len)
    theirs = (shifted + (bias.content_bias[:, None] * key).sum(-1)[:, None]) / 2
    visible = masks.causal().dense(q_len, k_len, memory)
    torch.testing.assert_close(ours[:, visible], theirs[:, visible], **TOLERANCE)


@pytest.mark.parametrize("layer", [ShawBias(4, 2), TransformerXLBias(2, 4)], ids=["shaw", "xl"])
def test_a_bias_of_content_has_no_table_of_its_own(layer):
    with pytest.raises(ValueError, match="depends on query and key"):
        layer.dense(3, 3)


@pytest.mark.parametrize("name", ["shaw", "xl"])
def test_no_vector_exists_for_every_pair(name):
    """L × S × D numbers would be 64 times the scores; nothing much larger than those is made."""
    length, width = 256, 64
    bias = ShawBias(width, 16) if name == "shaw" else TransformerXLBias(2, width, dim=8)
    x = torch.ones(2, length, width)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        bias(x, x, distances(length, length))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    scores = 2 * length * length * 4
    assert scores <= largest <= 2.1 * scores
