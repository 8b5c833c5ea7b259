"""The three steps of a layer's attention can be set: what Gemma, Qwen and gpt-oss need."""

import pytest
import torch
from torch import nn

from attn_core import kernels, masks
from attn_core.modules import KVCache, MultiHeadAttention
from attn_core.normalizers import entmax15, sigmoid
from attn_core.positions import Rotary, rotary

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
HEADS, KV_HEADS, WIDTH, LENGTH = 4, 2, 6, 7


class Dimmed(nn.Module):
    """A normaliser that learns how much to give away."""

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, scores, dim):
        return self.share * scores.softmax(dim)


def norms():
    return {"query_norm": nn.RMSNorm(WIDTH, eps=1e-3), "key_norm": nn.RMSNorm(WIDTH, eps=1e-3)}


SETTINGS = {
    "scale": lambda: {"scale": 0.9},
    "softcap": lambda: {"softcap": 0.5},
    "normalizer": lambda: {"normalizer": entmax15},
    "normalizer with parameters": lambda: {"normalizer": Dimmed()},
    "sink": lambda: {"sink": True},
    "norms": norms,
    "norms, turned": lambda: {**norms(), "rotary": Rotary()},
    "norm of the queries": lambda: {"query_norm": norms()["query_norm"]},
    "all": lambda: {**norms(), "rotary": Rotary(), "scale": 1.3, "softcap": 2.0, "sink": True},
}


def make(settings):
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, HEADS, kv_heads=KV_HEADS, head_dim=WIDTH, **settings()).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer, torch.randn(2, LENGTH, 8, dtype=torch.float64)


def head_by_head(layer, x):
    """Causal attention of each head by itself, as the formulas of the papers read."""
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    joined = []
    for head in range(HEADS):
        shared = head * KV_HEADS // HEADS
        query, key, value = (
            projection(x)[..., WIDTH * number : WIDTH * (number + 1)]
            for projection, number in (
                (layer.query_proj, head),
                (layer.key_proj, shared),
                (layer.value_proj, shared),
            )
        )
        query, key = (
            z
            if norm is None
            else z / (z.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
            for z, norm in ((query, layer.query_norm), (key, layer.key_norm))
        )
        if layer.rotary is not None:
            query, key = rotary(query), rotary(key)
        scores = query @ key.mT * (WIDTH**-0.5 if layer.scale is None else layer.scale)
        if layer.softcap is not None:
            scores = layer.softcap * torch.tanh(scores / layer.softcap)
        scores = scores.masked_fill(hidden, -torch.inf)
        if layer.sink is not None:
            powers = scores.exp()
            weights = powers / (layer.sink[head].exp() + powers.sum(-1, keepdim=True))
        else:
            weights = (layer.normalizer or torch.softmax)(scores, -1)
        joined.append(weights @ value)
    return layer.out_proj(torch.cat(joined, -1))


@pytest.mark.parametrize("kernel", ["explicit", None])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_each_step_is_the_formula_forward_and_backward(settings, kernel):
    layer, x = make(settings)
    expected = head_by_head(layer, x)
    wanted = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    if kernel is None:
        seen = layer(x, mask=masks.causal())
    else:
        with kernels.use(kernel):
            seen = layer(x, mask=masks.causal())
    gradients = torch.autograd.grad(seen.square().sum(), list(layer.parameters()))
    torch.testing.assert_close(seen, expected, **TOLERANCE)
    torch.testing.assert_close(gradients, wanted, **TOLERANCE)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_cached_decoding_is_the_full_pass(settings):
    layer, x = make(settings)
    cache = KVCache()
    steps = [layer(x[:, t : t + 1], mask=masks.causal(), cache=cache) for t in range(LENGTH)]
    torch.testing.assert_close(torch.cat(steps, 1), layer(x, mask=masks.causal()), **TOLERANCE)


def test_a_sink_begins_as_the_softmax_off_by_one():
    layer = MultiHeadAttention(8, HEADS, bias=False, sink=True)
    weights = layer(torch.zeros(1, 3, 8), return_weights=True).weights
    torch.testing.assert_close(weights, torch.full((1, HEADS, 3, 3), 1 / 4))


def test_what_is_set_is_shown():
    shown = repr(MultiHeadAttention(8, 2, scale=0.5, softcap=30.0, normalizer=sigmoid))
    assert "scale=0.5, softcap=30.0" in shown
    assert "scale" not in repr(MultiHeadAttention(8, 2))
