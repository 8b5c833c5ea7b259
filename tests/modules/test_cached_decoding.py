"""Decoding with a cache gives what one pass over all tokens gives, however they are cut up."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attn_core import kernels, masks
from attn_core.modules import KVCache, MultiHeadAttention
from attn_core.positions import Bias, Rotary


class Turn(nn.Module):
    """A rotary encoding of the test's own: pairs of columns as complex numbers."""

    def forward(self, x, positions=None):
        positions = torch.arange(x.shape[-2]) if positions is None else positions
        rates = 0.3 ** torch.arange(x.shape[-1] // 2, dtype=torch.float64)
        turns = torch.polar(torch.ones(1, dtype=torch.float64), positions[:, None] * rates)
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


class Slopes(Bias):
    """A bias of the test's own: it falls with the distance, in each head at another rate."""

    def forward(self, query, key, distance):
        rates = 0.2 * torch.arange(1.0, self.heads + 1, dtype=query.dtype)[:, None, None]
        return -rates * distance.abs()


ROTATIONS = [None, Turn(), Rotary(), Rotary(2, pairing="interleaved")]


@dataclass
class Drawn:
    """A layer, a sequence, and the mask for any number of tokens seen."""

    layer: MultiHeadAttention
    x: torch.Tensor
    mask_of: object
    cache: KVCache
    bias: Bias | None
    sizes: list
    kernel: str


@st.composite
def drawn_decoding(draw, dtype):
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    heads, total = kv_heads * group, draw(st.integers(2, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    layer = MultiHeadAttention(
        6,
        heads,
        kv_heads=kv_heads,
        head_dim=4,
        bias=draw(st.booleans()),
        rotary=draw(st.sampled_from(ROTATIONS)),
    ).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    left = draw(st.integers(0, 4))
    near = draw(st.sampled_from([masks.causal(), masks.window(left, 0)]))
    caches = [KVCache(), KVCache(max_len=total)]
    if near is not masks.causal():
        caches.append(KVCache(window=draw(st.integers(left, left + 2))))
    kind = draw(st.sampled_from(["no padding", "right", "left"]))
    pads = draw(st.lists(st.integers(0, total), min_size=2, max_size=2))

    def mask_of(seen):
        """Padding counts keys from the first, and a mask needs the keys that it tells of."""
        if kind == "right":
            return near & masks.padding([min(total - pad, seen) for pad in pads])
        if kind == "left":
            return near & ~masks.padding([min(pad, seen) for pad in pads])
        return near

    sizes, left_over = [], total
    while left_over:
        sizes.append(draw(st.integers(1, left_over)))
        left_over -= sizes[-1]
    return Drawn(
        layer=layer,
        x=torch.randn(2, total, 6, generator=generator).to(dtype),
        mask_of=mask_of,
        cache=draw(st.sampled_from(caches)),
        bias=Slopes(heads) if draw(st.booleans()) else None,
        sizes=sizes,
        kernel=draw(st.sampled_from(["explicit", "sdpa"])),
    )


def decode(drawn):
    outputs, seen = [], 0
    for new in drawn.sizes:
        part = drawn.x[:, seen : seen + new]
        seen += new
        mask = drawn.mask_of(seen)
        outputs.append(drawn.layer(part, mask=mask, bias=drawn.bias, cache=drawn.cache))
    return torch.cat(outputs, 1)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@given(data=st.data())
@settings(max_examples=80)
def test_cached_decoding_is_the_full_pass(dtype, error, data):
    drawn = data.draw(drawn_decoding(dtype))
    with torch.no_grad(), kernels.use(drawn.kernel):
        full = drawn.layer(drawn.x, mask=drawn.mask_of(drawn.x.shape[1]), bias=drawn.bias)
        seen = decode(drawn)
    scale = max(1.0, full.abs().max().item())
    assert (seen - full).abs().max() <= error * scale
    assert drawn.cache.length == drawn.x.shape[1]


@given(data=st.data())
@settings(max_examples=25)
def test_gradients_through_a_cache_are_those_of_the_full_pass(data):
    drawn = data.draw(drawn_decoding(torch.float64))
    if drawn.cache.max_len is not None:
        drawn.cache = KVCache()
    drawn.x.requires_grad_()
    inputs = [drawn.x, *drawn.layer.parameters()]
    full = drawn.layer(drawn.x, mask=drawn.mask_of(drawn.x.shape[1]), bias=drawn.bias)
    target = torch.randn_like(full)
    expected = torch.autograd.grad((full * target).sum(), inputs)
    seen = torch.autograd.grad((decode(drawn) * target).sum(), inputs)
    for one, two in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def make_layer(**options):
    torch.manual_seed(0)
    return MultiHeadAttention(8, 2, **options).double().eval()


def sequences(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_position_that_is_off_by_one_is_seen(wrong):
    """The equality above would not hold if keys or queries were turned by another position."""
    layer, x = make_layer(rotary=Turn()), sequences(1, 6, 8)
    cache = KVCache()
    layer(x[:, :5], mask=masks.causal(), cache=cache)
    cache.length += wrong
    last = layer(x[:, 5:], mask=masks.causal(), cache=cache)
    full = layer(x, mask=masks.causal())[:, 5:]
    assert (last - full).abs().max() > 1e-3


def test_a_later_token_changes_no_bit_of_what_was_decoded_before():
    layer, x = make_layer(), sequences(1, 6, 8)
    y = x.clone()
    y[:, 4] += 1
    for sequence in (x, y):
        cache = KVCache()
        outputs = [
            layer(sequence[:, t : t + 1], mask=masks.causal(), cache=cache) for t in range(6)
        ]
        if sequence is x:
            before = outputs
    assert all(torch.equal(a, b) for a, b in zip(before[:4], outputs[:4], strict=True))
    assert not torch.equal(before[4], outputs[4])
    assert not torch.equal(before[5], outputs[5])


@torch.no_grad()
def test_asking_for_weights_changes_no_bit_of_a_cached_step():
    layer, x = make_layer(), sequences(2, 6, 8)
    one, two = KVCache(), KVCache()
    for cut in (slice(0, 4), slice(4, 6)):
        plain = layer(x[:, cut], mask=masks.causal(), cache=one)
        seen = layer(x[:, cut], mask=masks.causal(), cache=two, return_weights=True)
        assert torch.equal(seen.output, plain)
    assert seen.weights.shape == (2, 2, 2, 6)
    full = layer(x, mask=masks.causal(), return_weights=True)
    torch.testing.assert_close(seen.weights, full.weights[:, :, 4:], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_without_a_mask_a_token_sees_all_that_is_kept():
    layer, x = make_layer(), sequences(2, 4, 8)
    cache = KVCache()
    for t in range(4):
        step = layer(x[:, t : t + 1], cache=cache)
        full = layer(x[:, : t + 1])[:, t:]
        torch.testing.assert_close(step, full, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("given_as", ["query alone", "query twice", "query three times"])
def test_self_attention_may_name_its_query_as_key(given_as):
    layer, x = make_layer(), sequences(2, 5, 8)
    cache, again = KVCache(), {"query alone": 0, "query twice": 1, "query three times": 2}
    for t in range(5):
        part = x[:, t : t + 1]
        step = layer(part, *[part] * again[given_as], mask=masks.causal(), cache=cache)
    full = layer(x, mask=masks.causal())
    torch.testing.assert_close(step, full[:, 4:], rtol=1e-12, atol=1e-12)


class Counting(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@torch.no_grad()
@pytest.mark.parametrize("max_len", [None, 7])
@pytest.mark.parametrize("lengths", [[7, 3], [7, 7]], ids=str)
def test_a_memory_is_projected_once(max_len, lengths):
    cache = KVCache(max_len=max_len)
    layer = make_layer(key_dim=5, value_dim=6, kv_heads=1)
    layer.key_proj.__class__ = layer.value_proj.__class__ = Counting
    x, key, value = sequences(2, 4, 8), sequences(2, 7, 5), sequences(2, 7, 6)
    mask = masks.padding(lengths)
    full = layer(x, key, value, mask=mask)
    layer.key_proj.calls = layer.value_proj.calls = 0
    for t in range(4):
        step = layer(x[:, t : t + 1], key, value, mask=mask, cache=cache)
        torch.testing.assert_close(step, full[:, t : t + 1], rtol=1e-12, atol=1e-12)
    assert layer.key_proj.calls == layer.value_proj.calls == 1
    assert cache.length == 7


def test_gradients_reach_a_memory_through_its_cache():
    layer, x, memory = make_layer(), sequences(2, 3, 8), sequences(2, 5, 8).requires_grad_()
    cache = KVCache()
    steps = [layer(x[:, t : t + 1], memory, cache=cache) for t in range(3)]
    (seen,) = torch.autograd.grad(torch.cat(steps, 1).square().sum(), memory)
    (expected,) = torch.autograd.grad(layer(x, memory).square().sum(), memory)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("make", [KVCache, lambda: KVCache(max_len=6), lambda: KVCache(window=2)])
def test_beams_continue_what_they_grew_from(make):
    """After a reordering each beam decodes as if its own tokens had been fed from the start."""
    layer = make_layer(rotary=Turn())
    mask = masks.window(2, 0)
    x, parents, new = sequences(3, 4, 8), [2, 0, 0, 1], sequences(4, 2, 8, seed=2)
    cache = make()
    layer(x, mask=mask, cache=cache)
    cache.reorder(parents)
    steps = [layer(new[:, t : t + 1], mask=mask, cache=cache) for t in range(2)]
    full = layer(torch.cat([x[parents], new], 1), mask=mask)
    torch.testing.assert_close(torch.cat(steps, 1), full[:, 4:], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_copy_of_torchs_layer_decodes_with_a_cache():
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    ours, x = MultiHeadAttention.from_torch(theirs), sequences(2, 6, 8)
    later = ~torch.ones(6, 6, dtype=torch.bool).tril()
    expected, _ = theirs(x, x, x, attn_mask=later)
    cache = KVCache(max_len=6)
    seen = [ours(part, mask=masks.causal(), cache=cache) for part in x.split([3, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(seen, 1), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_it_decodes_under_autocast():
    layer, x, cache = make_layer().float(), sequences(2, 5, 8).float(), KVCache()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        full = layer(x, mask=masks.causal())
        steps = [layer(part, mask=masks.causal(), cache=cache) for part in x.split(1, 1)]
    assert cache.key.dtype == torch.bfloat16
    assert (torch.cat(steps, 1) - full).abs().max() < 0.02


@pytest.mark.parametrize("rotary", [Turn(), Rotary()], ids=["Turn", "Rotary"])
def test_rotary_turns_queries_that_stand_later_among_the_keys(rotary):
    layer, x = make_layer(rotary=rotary), sequences(2, 6, 8)
    full = layer(x, mask=masks.causal())
    seen = layer(x[:, 4:], x, mask=masks.causal(), q_offset=4)
    torch.testing.assert_close(seen, full[:, 4:], rtol=1e-12, atol=1e-12)


def test_queries_of_each_batch_entry_may_stand_elsewhere():
    layer, x = make_layer(rotary=Rotary()), sequences(2, 6, 8)
    full = layer(x, mask=masks.causal())
    late = torch.stack([x[0, 1:3], x[1, 4:6]])
    seen = layer(late, x, mask=masks.causal(), q_offset=torch.tensor([1, 4]))
    expected = torch.stack([full[0, 1:3], full[1, 4:6]])
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)


def test_rotary_knows_distances_only():
    """Padding on the left moves all positions, and changes nothing."""
    layer, x = make_layer(rotary=Turn()), sequences(1, 6, 8)
    padded = torch.cat([sequences(1, 3, 8, seed=5), x], 1)
    mask = masks.causal() & ~masks.padding([3])
    seen = layer(padded, mask=mask)[:, 3:]
    torch.testing.assert_close(seen, layer(x, mask=masks.causal()), rtol=1e-12, atol=1e-12)
