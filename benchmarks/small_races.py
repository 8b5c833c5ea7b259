"""Races of small calls, where checks would weigh most: one token, and one token after another."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from attn_core import masks, modules, positions
from benchmarks.race import Contest, Lab, forward, race

DIM, HEADS = 128, 4
ONE = "batch 1, one token, width 128, 4 heads"
HAND = "PyTorch's layers and fused attention, written out by hand"


class ByHand(nn.Module):
    """What one writes who knows the sizes and checks nothing: a layer, with or without a cache."""

    def __init__(self, layer: modules.MultiHeadAttention, length: int, *, rotary: bool) -> None:
        super().__init__()
        self.query_proj, self.key_proj = layer.query_proj, layer.key_proj
        self.value_proj, self.out_proj = layer.value_proj, layer.out_proj
        room = (1, HEADS, length, DIM // HEADS)
        weight = layer.out_proj.weight
        self.keys, self.values = weight.new_zeros(room), weight.new_zeros(room)
        self.length = 0
        self.rotary = rotary
        rates = 10000.0 ** (-torch.arange(0, room[-1], 2, dtype=torch.float64) / room[-1])
        angles = (torch.arange(length)[:, None] * rates).repeat(1, 2)
        self.cos, self.sin = angles.cos().to(weight), angles.sin().to(weight)

    def forward(self, x: Tensor, *, cached: bool) -> Tensor:
        batch, new, dim = x.shape
        query = self.query_proj(x).view(batch, new, HEADS, -1).transpose(1, 2)
        key = self.key_proj(x).view(batch, new, HEADS, -1).transpose(1, 2)
        value = self.value_proj(x).view(batch, new, HEADS, -1).transpose(1, 2)
        if cached:
            end = self.length + new
            if self.rotary:
                query, key = self.turned(query, end), self.turned(key, end)
            self.keys[:, :, self.length : end] = key
            self.values[:, :, self.length : end] = value
            key, value = self.keys[:, :, :end], self.values[:, :, :end]
            self.length = end
        output = scaled_dot_product_attention(query, key, value)
        return self.out_proj(output.transpose(1, 2).reshape(batch, new, dim))

    def turned(self, x: Tensor, end: int) -> Tensor:
        first, second = x.chunk(2, -1)
        across = torch.cat([-second, first], -1)
        return x * self.cos[self.length : end] + across * self.sin[self.length : end]


def _layer(lab: Lab, rotary: nn.Module | None = None) -> modules.MultiHeadAttention:
    torch.manual_seed(0)
    layer = modules.MultiHeadAttention(DIM, HEADS, rotary=rotary)
    return layer.to(lab.device, lab.dtype).eval()


@race(name="layer with one token", setting=ONE, peer="PyTorch's nn.MultiheadAttention", goal=1.0)
def one_token(lab: Lab) -> Contest:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).to(lab.device, lab.dtype).eval()
    ours, x = modules.MultiHeadAttention.from_torch(theirs), lab.normal(1, 1, DIM)
    return Contest(
        ours=forward(lambda: ours(x)),
        theirs=forward(lambda: theirs(x, x, x, need_weights=False)[0]),
    )


@race(name="layer with one token", setting=ONE, peer=HAND, goal=1.0)
def one_token_by_hand(lab: Lab) -> Contest:
    ours, x = _layer(lab), lab.normal(1, 1, DIM)
    theirs = ByHand(ours, 1, rotary=False)
    return Contest(ours=forward(lambda: ours(x)), theirs=forward(lambda: theirs(x, cached=False)))


def _decoding(lab: Lab, *, rotary: bool) -> Contest:
    tokens = lab.normal(lab.size(64, 3), 1, 1, DIM).unbind(0)
    layer = _layer(lab, positions.Rotary() if rotary else None)
    cache = modules.KVCache(max_len=len(tokens))
    by_hand = ByHand(layer, len(tokens), rotary=rotary)

    def ours() -> Tensor:
        cache.reset()
        return torch.cat([layer(x, mask=masks.causal(), cache=cache) for x in tokens])

    def theirs() -> Tensor:
        by_hand.length = 0
        return torch.cat([by_hand(x, cached=True) for x in tokens])

    return Contest(ours=forward(ours), theirs=forward(theirs), tolerance=1e-4)


STEPS = "64 tokens one by one, batch 1, width 128, 4 heads, room for all from the start"


@race(name="decoding with a cache", setting=STEPS, peer=HAND, goal=1.0)
def decoding(lab: Lab) -> Contest:
    return _decoding(lab, rotary=False)


@race(name="decoding with a cache and rotary positions", setting=STEPS, peer=HAND, goal=1.0)
def decoding_rotary(lab: Lab) -> Contest:
    return _decoding(lab, rotary=True)
