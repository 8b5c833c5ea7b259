"""Layers call their projections: a wrapped, quantised or parametrised one does as well."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from attn_core import masks
from attn_core.interpret import ablate_heads, record
from attn_core.modules import (
    HierarchicalAttention,
    KVCache,
    LocalPredictive,
    MultiHeadAttention,
    MultiHeadLatentAttention,
    SelfAttention,
)
from attn_core.positions import TransformerXLBias
from attn_core.scores import Additive

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class LoRA(nn.Module):
    """A linear layer with a correction of low rank beside it, as its users write it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Parameter(0.3 * torch.randn(2, base.in_features))
        self.up = nn.Parameter(0.3 * torch.randn(base.out_features, 2))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T

    def merged(self):
        plain = copy.deepcopy(self.base)
        with torch.no_grad():
            plain.weight += self.up @ self.down
        return plain


class Int8(nn.Module):
    """A linear layer whose weight is int8, with a scale for each row."""

    def __init__(self, base):
        super().__init__()
        scale = base.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (base.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = base.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)

    def merged(self):
        rows, columns = self.weight.shape
        plain = nn.Linear(columns, rows, bias=self.bias is not None)
        with torch.no_grad():
            plain.weight.copy_(self.weight * self.scale)
            if self.bias is not None:
                plain.bias.copy_(self.bias)
        return plain


def latent(**options):
    layer = MultiHeadLatentAttention(8, 2, kv_rank=3, query_rank=4)
    return layer, lambda: layer(X, mask=masks.causal(), **options)


def make_all():
    """Each layer that has projections, and a call of it."""
    torch.manual_seed(0)
    multi = MultiHeadAttention(8, 4, kv_heads=2, key_dim=6, value_dim=7)
    own = MultiHeadAttention(8, 2)
    single, place = SelfAttention(8, 4), LocalPredictive(8, 2)
    words, additive = HierarchicalAttention(8, hidden_dim=3), Additive(8, 8, 5)
    bias = TransformerXLBias(2, 4)
    memory = torch.randn(2, 3, 8)
    return {
        "multi-head": (multi, lambda: multi(X, memory[..., :6], memory[..., :7])),
        "self-attention": (own, lambda: own(X, mask=masks.causal(), cache=KVCache())),
        "latent": latent(),
        "latent absorbed": latent(absorbed=True),
        "latent unfolded": latent(absorbed=False),
        "latent with a cache": latent(cache=KVCache()),
        "single head": (single, lambda: single(X)),
        "local": (place, lambda: place(X, memory)),
        "hierarchical": (words, lambda: words(X[None])),
        "additive": (additive, lambda: additive(X, memory)),
        "Transformer-XL": (bias, lambda: own(X, bias=bias)),
    }


def projections(layer):
    return [name for name, part in layer.named_children() if isinstance(part, nn.Linear)]


@pytest.mark.parametrize("wrapper", [LoRA, Int8])
@pytest.mark.parametrize("name", make_all())
def test_a_wrapped_layer_is_the_layer_with_merged_weights(name, wrapper):
    layer, call = make_all()[name]
    with torch.no_grad():
        before = call()
        wrapped = {part: wrapper(getattr(layer, part)) for part in projections(layer)}
        for part, module in wrapped.items():
            setattr(layer, part, module)
        if name == "latent with a cache":
            layer, call = layer, lambda: layer(X, mask=masks.causal(), cache=KVCache())
        seen = call()
        for part, module in wrapped.items():
            setattr(layer, part, module.merged())
        torch.testing.assert_close(seen, call(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(seen, before, atol=1e-6)


@pytest.mark.parametrize("name", make_all())
def test_a_layer_can_be_quantised_as_a_whole(name):
    layer, call = make_all()[name]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = call()
        torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, inplace=True)
        assert projections(layer) == []
        if name == "latent with a cache":
            layer, call = layer, lambda: layer(X, mask=masks.causal(), cache=KVCache())
        seen = call()
    assert not torch.equal(seen, expected)
    torch.testing.assert_close(seen, expected, rtol=0.1, atol=0.1)


def test_the_default_unfolds_where_a_weight_cannot_be_read():
    """Asking a wrapped layer for its matrix at each step would cost more than it saves."""
    layer, _ = latent()
    layer.key_proj = LoRA(layer.key_proj)
    asked = []
    layer.key_proj.register_forward_hook(lambda _, inputs, __: asked.append(inputs[0].shape))
    layer(X[:, :1], mask=masks.causal(), cache=KVCache())
    assert asked == [(2, 1, 3)]


def test_a_parametrised_projection_is_read_through_its_parametrisation():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer, call = latent(absorbed=True)
    expected_layer = copy.deepcopy(layer)
    with torch.no_grad():
        expected_layer.value_proj.weight *= 2
        parametrize.register_parametrization(layer.value_proj, "weight", Doubled())
        expected = expected_layer(X, mask=masks.causal(), absorbed=True)
        torch.testing.assert_close(call(), expected)


def test_what_a_projection_takes_is_not_refused():
    """A layer that casts its own input may be given another dtype."""

    class Casting(nn.Linear):
        def forward(self, x):
            return super().forward(x.float())

    layer = MultiHeadAttention(8, 2)
    expected = layer(X)
    for part in ("query_proj", "key_proj", "value_proj"):
        plain = getattr(layer, part)
        casting = Casting(8, 8)
        casting.load_state_dict(plain.state_dict())
        setattr(layer, part, casting)
    torch.testing.assert_close(layer(X.double()), expected)


@pytest.mark.parametrize("wrapper", [LoRA, Int8])
def test_heads_of_a_wrapped_layer_are_taken_out(wrapper):
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2)
    layer.out_proj = wrapper(layer.out_proj)
    with ablate_heads(layer, {"MultiHeadAttention": [1]}):
        seen = layer(X)
    again = layer(X)
    layer.out_proj = layer.out_proj.merged()
    torch.testing.assert_close(again, layer(X))
    with torch.no_grad():
        layer.out_proj.weight[:, 4:] = 0
    torch.testing.assert_close(seen, layer(X))


def test_a_wrapped_layer_is_recorded():
    layer = MultiHeadAttention(8, 2)
    layer.query_proj = LoRA(layer.query_proj)
    with record(layer) as weights:
        layer(X)
    assert weights["MultiHeadAttention"][0].shape == (2, 2, 5, 5)
