"""Layers hold for shapes alone: on the meta device, and while a call is traced."""

import pytest
import torch
from torch import nn

from attn_core import masks
from attn_core.modules import (
    HierarchicalAttention,
    KVCache,
    LocalPredictive,
    MovingAverage,
    MultiHeadAttention,
    MultiHeadLatentAttention,
)
from attn_core.positions import (
    ALiBi,
    LearnedEncoding,
    Rotary,
    SegmentEncoding,
    ShawBias,
    SinusoidalEncoding,
    T5Bias,
    TransformerXLBias,
)

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
PLACES = torch.tensor([0, 2, 1, 4, 3])


class Biased(nn.Module):
    """Attention with a bias, as one model."""

    def __init__(self, bias):
        super().__init__()
        self.attend = MultiHeadAttention(8, 2, rotary=Rotary())
        self.bias = bias

    def forward(self, x):
        return self.attend(x, mask=masks.causal(), bias=self.bias)


class WithArguments(nn.Module):
    def __init__(self, layer, *arguments, **options):
        super().__init__()
        self.layer, self.arguments, self.options = layer, arguments, options

    def forward(self, x):
        def here(given):
            return given.to(x.device) if isinstance(given, torch.Tensor) else given

        options = {name: here(given) for name, given in self.options.items()}
        return self.layer(x, *map(here, self.arguments), **options)


LAYERS = {
    "ALiBi": lambda: Biased(ALiBi(2)),
    "ALiBi, geometric": lambda: Biased(ALiBi(2, slopes="geometric")),
    "T5": lambda: Biased(T5Bias(2, buckets=6, max_distance=4)),
    "Shaw": lambda: Biased(ShawBias(4, 2)),
    "Transformer-XL": lambda: Biased(TransformerXLBias(2, 4)),
    "latent": lambda: MultiHeadLatentAttention(8, 2, kv_rank=3, query_rank=4),
    "rotary at positions": lambda: WithArguments(Rotary(), PLACES),
    "rotary from an offset": lambda: WithArguments(Rotary(), offset=3),
    "sinusoidal": lambda: SinusoidalEncoding(8),
    "learned": lambda: LearnedEncoding(9, 8),
    "learned at positions": lambda: WithArguments(LearnedEncoding(9, 8), positions=PLACES),
    "segments": lambda: WithArguments(SegmentEncoding(3, 8), PLACES // 2),
    "local": lambda: WithArguments(LocalPredictive(8, 2), X, lengths=torch.tensor([5, 3])),
}


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_layer_made_on_the_meta_device_is_whole_after_loading(make, assign):
    torch.manual_seed(0)
    expected = make()
    with torch.device("meta"):
        layer = make()
    if not assign:
        layer.to_empty(device="cpu")
        for tensor in layer.buffers():  # what no state dict fills
            tensor.fill_(-1)
    layer.load_state_dict(expected.state_dict(), assign=assign)
    if isinstance(layer, WithArguments):  # which the device has moved too
        layer.arguments, layer.options = expected.arguments, expected.options
    assert torch.equal(layer(X), expected(X))


def test_no_layer_has_a_buffer_that_its_state_dict_lacks():
    layers = [make() for make in LAYERS.values()] + [MovingAverage(), HierarchicalAttention(8)]
    for layer in layers:
        assert {name for name, _ in layer.named_buffers()} <= set(layer.state_dict())


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Transformer-XL"])
def test_a_call_on_the_meta_device_gives_the_shape(name):
    layer = LAYERS[name]()
    seen = layer.to("meta")(X.to("meta"))
    assert seen.is_meta
    assert seen.shape == X.shape


def test_cached_latent_attention_on_the_meta_device():
    layer, cache = MultiHeadLatentAttention(8, 2, kv_rank=3).to("meta"), KVCache()
    for _ in range(2):
        assert layer(X.to("meta"), mask=masks.causal(), cache=cache).shape == X.shape


@pytest.mark.parametrize(
    "name",
    ["latent", "rotary at positions", "learned at positions", "segments", "local", "ALiBi", "T5"],
)
def test_a_layer_compiles_to_one_graph(name):
    torch._dynamo.reset()
    layer = LAYERS[name]()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), layer(X))


def test_a_decoding_step_compiles_to_one_graph():
    torch._dynamo.reset()
    layer, cache = MultiHeadAttention(8, 2, rotary=Rotary()), KVCache(max_len=4)

    @torch.compile(backend="eager", fullgraph=True)
    def step(x):
        return layer(x, mask=masks.causal(), cache=cache)

    with torch.no_grad():
        steps = [step(X[:, t : t + 1]) for t in range(2)]
        torch.testing.assert_close(torch.cat(steps, 1), layer(X[:, :2], mask=masks.causal()))


@pytest.mark.parametrize("name", ["latent", "rotary"])
def test_a_layer_is_exported_for_every_length(name):
    layer = {"rotary": Rotary(), "latent": LAYERS["latent"]()}[name]
    length = torch.export.Dim("length", min=2, max=64)
    exported = torch.export.export(layer, (X,), dynamic_shapes={"x": {1: length}})
    longer = torch.randn(2, 11, 8)
    torch.testing.assert_close(exported.module()(longer), layer(longer))


def test_a_table_made_while_tracing_is_not_kept():
    """A table of stand-ins would be found by the next real call."""
    layer = Rotary()
    torch.export.export(layer, (X,))
    assert layer._table is None
    assert layer(X).sum().isfinite()
