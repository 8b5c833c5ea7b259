"""Latent attention: keys and values from one small vector, absorbed or unfolded, cached or not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import masks
from attn_core.modules import KVCache, MultiHeadLatentAttention
from attn_core.positions import Rotary

TOLERANCE = {"rtol": 1e-11, "atol": 1e-11}


def make_layer(**options):
    torch.manual_seed(0)
    settings = {"dim": 12, "heads": 3, "kv_rank": 5, "value_dim": 6, "rotary_dim": 2, **options}
    layer = MultiHeadLatentAttention(**settings).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer.eval()


def sequences(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


LAYERS = {
    "as in the paper": {"query_rank": 7},
    "queries uncompressed": {},
    "without norm": {"norm": False, "query_rank": 4},
    "interleaved": {"rotary": Rotary(pairing="interleaved"), "rotary_dim": 4},
    "wide latent": {"kv_rank": 40, "head_dim": 2},
    "one head": {"heads": 1, "value_dim": None, "rotary_dim": None},
}


def attend_head_by_head(layer, x, mask):
    """The paper's formula, with a loop over heads, positions and keys as they are numbered."""
    positions = torch.arange(x.shape[1])
    latent = layer.latent_norm(x @ layer.latent_proj.weight.T)
    rotary_key = layer.rotary((x @ layer.rotary_key_proj.weight.T)[:, None], positions)[:, 0]
    source = x
    if layer.query_latent_proj is not None:
        source = layer.query_latent_norm(x @ layer.query_latent_proj.weight.T)
    width = layer.query_proj.out_features // layer.heads
    joined = []
    for head in range(layer.heads):
        w_key, w_value, w_query, w_rotary = (
            projection.weight.chunk(layer.heads)[head]
            for projection in (
                layer.key_proj,
                layer.value_proj,
                layer.query_proj,
                layer.rotary_query_proj,
            )
        )
        rotary_query = layer.rotary((source @ w_rotary.T)[:, None], positions)[:, 0]
        scores = (source @ w_query.T) @ (latent @ w_key.T).mT + rotary_query @ rotary_key.mT
        scores = scores / (width + rotary_key.shape[-1]) ** 0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        joined.append(weights @ (latent @ w_value.T))
    return torch.cat(joined, -1) @ layer.out_proj.weight.T


@pytest.mark.parametrize("absorbed", [False, True, None])
@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS.keys())
def test_it_is_the_formula_of_the_paper(options, absorbed):
    layer, x = make_layer(**options), sequences(2, 5, 12)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    seen = layer(x, mask=masks.causal(), absorbed=absorbed)
    torch.testing.assert_close(seen, attend_head_by_head(layer, x, mask), **TOLERANCE)


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS.keys())
def test_absorbed_is_unfolded_in_output_weights_and_gradients(options):
    layer, x = make_layer(**options), sequences(2, 5, 12).requires_grad_()
    mask = masks.causal() & masks.padding([5, 3])
    results = []
    for absorbed in (False, True):
        seen = layer(x, mask=mask, absorbed=absorbed, return_weights=True)
        target = sequences(*seen.output.shape, seed=3)
        inputs = [x, *layer.parameters()]
        gradients = torch.autograd.grad((seen.output * target).sum(), inputs)
        results.append([seen.output, seen.weights, *gradients])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, **TOLERANCE)


# It counts positions from the first token ever seen, also where that has been forgotten.
NOT_EVERY_THIRD = masks.Mask(lambda at: at.key % 3 != 1, "not every third")


@st.composite
def drawn_splits(draw):
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    cache = draw(st.sampled_from(["growing", "max_len", "window"]))
    absorbed = draw(st.lists(st.sampled_from([False, True, None]), min_size=6, max_size=6))
    return sizes, cache, absorbed


@given(drawn=drawn_splits(), options=st.sampled_from(list(LAYERS.values())))
def test_cached_decoding_is_the_full_pass(drawn, options):
    """Even when every call chooses anew whether to absorb."""
    sizes, kind, absorbed = drawn
    total = sum(sizes)
    layer, x = make_layer(**options), sequences(2, total, 12)
    cache, mask = {
        "growing": (KVCache(), masks.causal()),
        "max_len": (KVCache(max_len=total), masks.causal()),
        "window": (KVCache(window=3), masks.window(3, 0) & NOT_EVERY_THIRD),
    }[kind]
    with torch.no_grad():
        full = layer(x, mask=mask)
        steps = [
            layer(part, mask=mask, cache=cache, absorbed=how)
            for part, how in zip(x.split(sizes, 1), absorbed, strict=False)
        ]
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("absorbed", [False, True])
def test_the_cache_holds_the_latent_and_one_rotary_key_for_all_heads(absorbed):
    layer, x, cache = make_layer(), sequences(2, 5, 12), KVCache()
    layer(x, mask=masks.causal(), cache=cache, absorbed=absorbed)
    latent = layer.latent_norm(layer.latent_proj(x))
    torch.testing.assert_close(cache.key[:, 0], latent, **TOLERANCE)
    assert cache.key.shape == (2, 1, 5, 5)
    assert cache.value.shape == (2, 1, 5, 2)
    assert cache.nbytes == 2 * 5 * (5 + 2) * 8


@torch.no_grad()
def test_beams_continue_what_they_grew_from():
    layer, cache, mask = make_layer(), KVCache(), masks.causal()
    x, parents, new = sequences(3, 4, 12), [2, 0, 0], sequences(3, 1, 12, seed=2)
    layer(x, mask=mask, cache=cache)
    cache.reorder(parents)
    full = layer(torch.cat([x[parents], new], 1), mask=mask)
    step = layer(new, mask=mask, cache=cache)
    torch.testing.assert_close(step, full[:, 4:], **TOLERANCE)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_position_that_is_off_by_one_is_seen(wrong):
    layer, x, cache = make_layer(), sequences(1, 6, 12), KVCache()
    layer(x[:, :5], mask=masks.causal(), cache=cache)
    cache.length += wrong
    last = layer(x[:, 5:], mask=masks.causal(), cache=cache)
    assert (last - layer(x, mask=masks.causal())[:, 5:]).abs().max() > 1e-3


def test_positions_are_decoupled():
    """Without positions only the latent part is left, and permuting tokens permutes outputs."""
    layer, x = make_layer(), sequences(2, 6, 12)
    order = torch.tensor([3, 0, 5, 4, 2, 1])
    assert (layer(x[:, order]) - layer(x)[:, order]).abs().max() > 1e-3
    with torch.no_grad():
        layer.rotary_key_proj.weight.zero_()
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], **TOLERANCE)


@pytest.mark.parametrize("absorbed", [False, True])
def test_a_later_token_changes_no_bit_of_an_earlier_output(absorbed):
    layer, x = make_layer(), sequences(1, 6, 12)
    y = x.clone()
    y[:, 4] += 1
    one, two = (layer(z, mask=masks.causal(), absorbed=absorbed) for z in (x, y))
    assert torch.equal(one[:, :4], two[:, :4])
    assert (one[:, 4:] != two[:, 4:]).any(-1).all()


@pytest.mark.parametrize("absorbed", [False, True])
def test_poisoned_padding_reaches_nothing(absorbed):
    layer, x = make_layer(), sequences(2, 5, 12)
    real = torch.arange(5) < torch.tensor([5, 3])[:, None, None]
    mask = (real & real.mT)[:, None]  # the padding asks nothing, and nobody asks it
    results = []
    for poison in (0.0, torch.nan, torch.inf):
        x[1, 3:] = poison
        given_x = x.clone().requires_grad_()
        output = layer(given_x, mask=mask, absorbed=absorbed)
        (gradient,) = torch.autograd.grad(output.sum(), given_x)
        results.append([output, gradient[0], gradient[1, :3]])
    for seen in results:
        for one, two in zip(seen, results[0], strict=True):
            assert torch.equal(one, two)
            assert one.isfinite().all()


@pytest.mark.parametrize("absorbed", [False, True])
def test_a_token_that_may_attend_nothing_gives_zeros(absorbed):
    layer, x = make_layer(), sequences(2, 3, 12).requires_grad_()
    table = torch.ones(3, 3, dtype=torch.bool)
    table[1] = False
    seen = layer(x, mask=table, absorbed=absorbed, return_weights=True)
    assert (seen.output[:, 1] == 0).all()
    assert (seen.weights[:, :, 1] == 0).all()
    seen.output.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("training", [False, True])
def test_asking_for_weights_changes_no_bit_of_the_output(absorbed, dropout, training):
    layer, x = make_layer(dropout=dropout).train(training), sequences(2, 5, 12)
    options = {"mask": masks.causal(), "absorbed": absorbed}
    torch.manual_seed(1)
    expected = layer(x, **options)
    torch.manual_seed(1)
    seen = layer(x, **options, return_weights=True)
    assert torch.equal(seen.output, expected)
    torch.testing.assert_close(seen.weights.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    assert torch.equal(layer(x, **options), expected) == (dropout == 0 or not training)


def test_it_absorbs_where_that_takes_fewer_multiplications():
    layer = make_layer(kv_rank=16, head_dim=16, value_dim=16)
    assert layer._absorbing_is_cheaper(q_len=1, k_len=1000)
    assert not layer._absorbing_is_cheaper(q_len=1000, k_len=1000)
    assert not make_layer(kv_rank=512)._absorbing_is_cheaper(q_len=1000, k_len=1000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("absorbed", [False, True])
def test_half_precision_is_as_exact_as_the_plain_formula(dtype, absorbed):
    layer = make_layer(dim=64, heads=4, kv_rank=32, value_dim=16, rotary_dim=8, query_rank=24)
    x = sequences(2, 20, 64).to(dtype)
    mask = torch.ones(20, 20, dtype=torch.bool).tril()
    layer.to(dtype).double()  # the numbers that half precision can hold
    exact = layer(x.double(), mask=mask)
    layer.to(dtype)
    plain = (attend_head_by_head(layer, x, mask).double() - exact).abs().max()
    ours = (layer(x, mask=mask, absorbed=absorbed).double() - exact).abs().max()
    assert 0 < ours <= 2 * plain


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("absorbed", [False, True])
def test_it_runs_under_autocast(absorbed):
    layer, x, cache = make_layer().float(), sequences(2, 5, 12).float(), KVCache()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        full = layer(x, mask=masks.causal(), absorbed=absorbed)
        steps = [layer(part, mask=masks.causal(), cache=cache) for part in x.split(1, 1)]
    exact = layer(x, mask=masks.causal())
    scale = exact.abs().max()
    assert (full - exact).abs().max() < 0.03 * scale
    assert (torch.cat(steps, 1) - exact).abs().max() < 0.03 * scale


def test_its_norms_have_the_eps_of_deepseeks_models():
    """PyTorch's default of 1.2e-7 for float32 changes vectors that are small."""
    layer = MultiHeadLatentAttention(8, 2, kv_rank=4, query_rank=4)
    small = torch.full((1, 4), 0.001)
    for norm in (layer.latent_norm, layer.query_latent_norm):
        torch.testing.assert_close(norm(small), torch.full((1, 4), 0.5**0.5))
    layer = MultiHeadLatentAttention(8, 2, kv_rank=4, query_rank=4, eps=3e-6)
    for norm in (layer.latent_norm, layer.query_latent_norm):
        torch.testing.assert_close(norm(small), torch.full((1, 4), 0.5))


@pytest.mark.parametrize("absorbed", [False, True])
def test_a_scale_of_its_own_multiplies_the_scores(absorbed):
    torch.manual_seed(0)
    layer = MultiHeadLatentAttention(8, 2, kv_rank=3, rotary_dim=2).double()
    scaled = MultiHeadLatentAttention(8, 2, kv_rank=3, rotary_dim=2, scale=0.9).double()
    scaled.load_state_dict(layer.state_dict())
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    usual, seen = (f(x, absorbed=absorbed, return_weights=True).weights for f in (layer, scaled))
    # A row of logarithms of weights is one of scores, but for a constant.
    scores, expected = (w.log() - w.log()[..., :1] for w in (seen, usual))
    torch.testing.assert_close(scores, expected * 0.9 * (4 + 2) ** 0.5)
