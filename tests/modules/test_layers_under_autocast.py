"""Every layer trains under autocast, at lengths on both sides of each kernel's threshold."""

import pytest
import torch
from torch import nn

from attn_core import kernels, masks, normalizers, scores
from attn_core.modules import (
    AttentionPooling,
    HardAttention,
    HierarchicalAttention,
    KVCache,
    LocalMonotonic,
    LocalPredictive,
    MultiHeadAttention,
    MultiHeadLatentAttention,
    SelfAttention,
)
from attn_core.positions import (
    ALiBi,
    LearnedEncoding,
    Rotary,
    SegmentEncoding,
    ShawBias,
    ShawValues,
    SinusoidalEncoding,
    T5Bias,
    TransformerXLBias,
)

DIM, HEADS, WIDTH = 16, 4, 4


class Multi(nn.Module):
    def __init__(self, bias=None, mask=None, **options):
        super().__init__()
        self.attend, self.bias = MultiHeadAttention(DIM, HEADS, **options), bias
        self.mask = masks.causal() if mask is None else mask

    def forward(self, x):
        bias = (
            self.bias(x.shape[1])
            if callable(self.bias) and not isinstance(self.bias, nn.Module)
            else self.bias
        )
        return self.attend(x, mask=self.mask, bias=bias)


class Then(nn.Module):
    """A layer, and what of its result is trained."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return self.call(self.layer, x)


def cached(layer, x):
    cache = KVCache()
    return torch.cat([layer(part, mask=masks.causal(), cache=cache) for part in x.split(13, 1)], 1)


def with_shaw_values(layers, x):
    attended = layers[0](x, return_weights=True)
    return attended.output + layers[1](attended.weights[:, None])[:, 0]


def table(length):
    return torch.randn(HEADS, length, length, generator=torch.Generator().manual_seed(0))


LAYERS = {
    "causal": Multi,
    "ALiBi": lambda: Multi(ALiBi(HEADS)),
    "T5": lambda: Multi(T5Bias(HEADS)),
    "Shaw": lambda: Multi(ShawBias(WIDTH, 3)),
    "Transformer-XL": lambda: Multi(TransformerXLBias(HEADS, WIDTH)),
    "table": lambda: Multi(table),
    "window": lambda: Multi(mask=masks.window(9, 0)),
    "window and ALiBi": lambda: Multi(ALiBi(HEADS), masks.window(9, 0)),
    "padding": lambda: Multi(mask=masks.padding([17])),
    "rotary, grouped": lambda: Multi(rotary=Rotary(), kv_heads=2),
    "softcap": lambda: Multi(softcap=4.0, scale=1.0),
    "sink": lambda: Multi(sink=True),
    "RMS norms": lambda: Multi(query_norm=nn.RMSNorm(WIDTH), key_norm=nn.RMSNorm(WIDTH)),
    "layer norms": lambda: Multi(query_norm=nn.LayerNorm(WIDTH), key_norm=nn.LayerNorm(WIDTH)),
    "entmax": lambda: Multi(normalizer=normalizers.entmax15),
    "cache": lambda: Then(MultiHeadAttention(DIM, HEADS, rotary=Rotary()), cached),
    "latent": lambda: MultiHeadLatentAttention(DIM, HEADS, kv_rank=4, query_rank=6),
    "latent, absorbed": lambda: Then(
        MultiHeadLatentAttention(DIM, HEADS, kv_rank=4), lambda layer, x: layer(x, absorbed=True)
    ),
    "single head": lambda: SelfAttention(DIM),
    "pooling": lambda: AttentionPooling(DIM),
    "local-m": lambda: Then(
        LocalMonotonic(3, score=scores.Bilinear(DIM, DIM)), lambda layer, x: layer(x, x)
    ),
    "local-p": lambda: Then(LocalPredictive(DIM, 3), lambda layer, x: layer(x, x)),
    "hard": lambda: Then(
        HardAttention(score=scores.Bilinear(DIM, DIM)).eval(),
        lambda layer, x: (seen := layer(x, x)).output + seen.log_prob[..., None],
    ),
    "hierarchical": lambda: Then(
        HierarchicalAttention(DIM), lambda layer, x: layer(x.unflatten(1, (4, -1)))
    ),
    "encodings": lambda: nn.Sequential(
        nn.Linear(DIM, DIM), SinusoidalEncoding(DIM), LearnedEncoding(700, DIM)
    ),
    "segments": lambda: Then(
        nn.ModuleList([nn.Linear(DIM, DIM), SegmentEncoding(1, DIM)]),
        lambda layers, x: layers[1](layers[0](x), torch.zeros(x.shape[1], dtype=torch.long)),
    ),
    "Shaw's values": lambda: Then(
        nn.ModuleList([SelfAttention(DIM), ShawValues(DIM, 3)]), with_shaw_values
    ),
}
# Of so many tokens four heads have more than 2²⁰ scores, and the chunked kernel runs.
LONG = [
    "ALiBi",
    "T5",
    "table",
    "window",
    "softcap",
    "sink",
    "RMS norms",
    "latent",
    "rotary, grouped",
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "length"), [(name, 20) for name in LAYERS] + [(name, 600) for name in LONG]
)
def test_it_trains_under_autocast_as_in_float32(name, length):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    x = torch.randn(1, length, DIM)
    parameters = list(layer.parameters())
    target = torch.randn_like(expected := layer(x))
    wanted = torch.autograd.grad((expected * target).mean(), parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = layer(x)
    gradients = torch.autograd.grad((seen.float() * target).mean(), parameters)
    assert (seen - expected).norm() <= 0.03 * expected.norm()
    for gradient, other in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        # A gradient that is 0 but for rounding, as that of the keys' bias, is compared with others.
        scale = max(other.norm(), max(map(torch.linalg.vector_norm, wanted)) / 10)
        assert (gradient - other).norm() <= 0.1 * scale


def test_the_long_cases_are_beyond_the_threshold_of_the_chunked_kernel():
    x = torch.zeros(1, HEADS, 600, WIDTH)
    seen = kernels.which(x, x, x, bias=ALiBi(HEADS), mask=masks.causal()).kernel
    assert seen == "chunked"
    short = x[:, :, :20]
    assert kernels.which(short, short, short, bias=ALiBi(HEADS)).kernel != "chunked"
