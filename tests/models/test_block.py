import pytest
import torch
import torch.nn.functional as F
from gradients import unreached
from torch import nn

from attn_core import masks
from attn_core.models.block import Block, FeedForward
from attn_core.normalizers import sparsemax
from attn_core.positions import Rotary

NORMS = ["pre", "post", "both"]
DIM = 16


def make_block(norm="pre", **options):
    torch.manual_seed(0)
    block = Block(DIM, 4, norm=norm, **options).eval()
    for parameter in block.parameters():  # norms too: with weights of 1 they would hide mistakes
        nn.init.normal_(parameter, std=0.4)
    return block


def near_gelu(x):
    """Hendrycks and Gimpel's formula, with a hyperbolic tangent."""
    return x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def sequences(*lengths, batch=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, length, DIM, generator=generator) for length in lengths]


def test_pre_norm_reads_as_its_equation():
    block = make_block("pre", cross=True)
    x, memory = sequences(5, 7)
    expected = x + block.attention(block.attention_norm(x))
    expected = expected + block.memory_attention(block.memory_norm(expected), memory)
    expected = expected + block.feed_forward(block.feed_forward_norm(expected))
    assert torch.equal(block(x, memory), expected)


def test_post_norm_reads_as_its_equation():
    block = make_block("post", cross=True)
    x, memory = sequences(5, 7)
    expected = block.attention_norm(x + block.attention(x))
    expected = block.memory_norm(expected + block.memory_attention(expected, memory))
    expected = block.feed_forward_norm(expected + block.feed_forward(expected))
    assert torch.equal(block(x, memory), expected)


def silence(block):
    for layer in (block.attention.out_proj, block.feed_forward.outer):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def test_a_pre_norm_block_that_adds_nothing_is_the_identity():
    block = make_block("pre")
    silence(block)
    (x,) = sequences(5)
    assert torch.equal(block(x), x)


def test_a_post_norm_block_that_adds_nothing_still_normalises():
    block = make_block("post")
    silence(block)
    (x,) = sequences(5)
    assert torch.equal(block(x), block.feed_forward_norm(block.attention_norm(x)))


def test_norms_before_and_after_read_as_their_equation():
    block = make_block("both", cross=True)
    x, memory = sequences(5, 7)
    expected = x + block.attention_out_norm(
        block.attention(block.attention_norm(x), mask=masks.causal())
    )
    crossed = block.memory_attention(block.memory_norm(expected), memory)
    expected = expected + block.memory_out_norm(crossed)
    fed = block.feed_forward(block.feed_forward_norm(expected))
    expected = expected + block.feed_forward_out_norm(fed)
    torch.testing.assert_close(block(x, memory, mask=masks.causal()), expected)


def test_rms_norms_divide_by_the_root_of_the_mean_square_and_have_no_bias():
    block = make_block(norm_kind="rms", qk_norm=True, eps=1e-3)
    (x,) = sequences(5)
    rms = (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(block.attention_norm(x), x / rms * block.attention_norm.weight)
    norms = [m for m in block.modules() if isinstance(m, nn.RMSNorm)]
    assert [m.weight.numel() for m in norms] == [4, 4, DIM, DIM]  # of a head, and of a token
    assert {m.eps for m in norms} == {1e-3}
    assert not [m for m in block.modules() if isinstance(m, nn.LayerNorm)]


def test_queries_and_keys_are_normed_head_by_head():
    block = make_block(norm_kind="rms", qk_norm=True)
    (x,) = sequences(5)
    layer = block.attention

    def heads(projection, norm):
        return norm(projection(x).unflatten(-1, (4, 4)).transpose(1, 2))

    query, key = heads(layer.query_proj, layer.query_norm), heads(layer.key_proj, layer.key_norm)
    expected = (query @ key.mT / 2).softmax(-1)
    torch.testing.assert_close(layer(x, return_weights=True).weights, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_without_biases_there_are_none(norm):
    block = make_block(norm, bias=False, cross=True)
    assert not [name for name, _ in block.named_parameters() if name.endswith("bias")]
    x, memory = sequences(5, 7)
    assert not block(0 * x, 0 * memory).any()  # nothing is added to zeros


def test_a_head_may_be_wider_than_its_share():
    block = make_block(head_dim=6, kv_heads=2, cross=True, qk_norm=True, rotary=Rotary())
    assert block.attention.query_proj.out_features == 24
    assert block.attention.key_proj.out_features == 12
    assert block.memory_attention.key_proj.out_features == 24
    x, memory = sequences(5, 7)
    assert block(x, memory).shape == x.shape


def test_scale_softcap_normalizer_and_sink_reach_self_attention():
    (x,) = sequences(5)
    block = make_block(scale=0.3, softcap=0.5, sink=True)
    layer = block.attention
    query = layer.query_proj(x).unflatten(-1, (4, 4)).transpose(1, 2)
    key = layer.key_proj(x).unflatten(-1, (4, 4)).transpose(1, 2)
    scores = 0.5 * torch.tanh(0.3 * query @ key.mT / 0.5)
    with_sink = torch.cat([scores, layer.sink[:, None, None].expand(2, 4, 5, 1)], -1).softmax(-1)
    weights = layer(x, return_weights=True).weights
    torch.testing.assert_close(weights, with_sink[..., :-1])
    block = make_block(normalizer=sparsemax)
    assert (block(x, return_weights=True).weights == 0).any()


def test_no_projection_is_read_so_that_each_may_be_wrapped():
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.wrapped = inner

        def forward(self, x):
            return self.wrapped(x)

    (x,) = sequences(5)
    block = make_block()
    expected = block(x)
    network = block.feed_forward
    network.inner, network.outer = Wrapped(network.inner), Wrapped(network.outer)
    torch.testing.assert_close(block(x), expected)


def test_a_bend_is_what_stands_between_two_linear_maps():
    (x,) = sequences(5)
    for name, activation in {"gelu": F.gelu, "relu": F.relu, "gelu_tanh": near_gelu}.items():
        layer = FeedForward(DIM, 24, activation=name)
        expected = activation(x @ layer.inner.weight.T + layer.inner.bias)
        torch.testing.assert_close(layer(x), expected @ layer.outer.weight.T + layer.outer.bias)


@pytest.mark.parametrize(
    ("name", "bend"),
    [
        ("swiglu", lambda gate: gate * torch.sigmoid(gate)),
        ("geglu", F.gelu),
        ("geglu_tanh", near_gelu),
    ],
)
def test_a_gate_multiplies_and_has_no_bias(name, bend):
    layer = FeedForward(DIM, 24, activation=name)
    (x,) = sequences(5)
    gate = bend(x @ layer.gate.weight.T)
    expected = (gate * (x @ layer.inner.weight.T)) @ layer.outer.weight.T
    torch.testing.assert_close(layer(x), expected)
    assert layer.inner.bias is layer.outer.bias is layer.gate.bias is None


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("options", [{}, {"rotary": Rotary(4)}, {"kv_heads": 1}], ids=repr)
@pytest.mark.parametrize("j", [1, 4])
def test_a_later_token_changes_no_earlier_row_by_a_single_bit(norm, options, j):
    block = make_block(norm, cross=True, **options)
    x, memory = sequences(6, 3)
    changed = x.clone()
    changed[:, j] = changed[:, j].flip(-1)  # a constant added would vanish in the norm
    before = block(x, memory, mask=masks.causal())
    after = block(changed, memory, mask=masks.causal())
    assert torch.equal(after[:, :j], before[:, :j])
    assert not torch.isclose(after[:, j:], before[:, j:]).all(-1).any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("options", [{}, {"rotary": Rotary(4)}, {"kv_heads": 2}], ids=repr)
def test_token_by_token_with_a_cache_is_the_full_pass(norm, options):
    block = make_block(norm, cross=True, **options).double()
    x, memory = (x.double() for x in sequences(6, 3))
    cache = block.new_cache()
    steps = [block(new, memory, mask=masks.causal(), cache=cache) for new in x.split([3, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(steps, 1), block(x, memory, mask=masks.causal()))
    assert cache.length == 6


def test_the_memory_is_projected_once():
    block = make_block(cross=True)
    x, memory = sequences(3, 4)
    cache = block.new_cache()
    calls = []
    block.memory_attention.key_proj.register_forward_hook(lambda *_: calls.append(1))
    for new in x.split(1, dim=1):
        block(new, memory, mask=masks.causal(), cache=cache)
    assert len(calls) == 1


@pytest.mark.parametrize("norm", NORMS)
def test_asking_for_weights_changes_no_bit_of_the_output(norm):
    block = make_block(norm, cross=True)
    x, memory = sequences(5, 7)
    mask, memory_mask = masks.causal(), masks.padding([7, 4])
    plain = block(x, memory, mask=mask, memory_mask=memory_mask)
    output, weights, memory_weights = block(
        x, memory, mask=mask, memory_mask=memory_mask, return_weights=True
    )
    assert torch.equal(output, plain)
    assert (weights.triu(1) == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))
    assert memory_weights.shape == (2, 4, 5, 7)
    assert (memory_weights[1, :, :, 4:] == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_nan_on_padding_reaches_no_token(norm):
    block = make_block(norm, cross=True)
    x, memory = sequences(5, 7)
    options = {"mask": masks.padding([5, 3]), "memory_mask": masks.padding([7, 4])}
    clean = block(x, memory, **options)
    x[1, 3:], memory[1, 4:] = torch.nan, torch.inf
    poisoned = block(x, memory, **options)
    assert torch.equal(poisoned[0], clean[0])
    assert torch.equal(poisoned[1, :3], clean[1, :3])


def test_a_row_that_may_attend_nothing_gets_the_bias_of_the_output_alone():
    block = make_block("pre")
    (x,) = sequences(5)
    nothing = torch.zeros(5, 5, dtype=torch.bool)
    state = x + block.attention.out_proj.bias
    expected = state + block.feed_forward(block.feed_forward_norm(state))
    torch.testing.assert_close(block(x, mask=nothing), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_gradients_reach_every_parameter(norm, activation):
    block = make_block(norm, cross=True, activation=activation)
    x, memory = sequences(5, 7)
    assert not unreached(block, block(x, memory).square().sum())


def test_a_constant_added_to_every_key_changes_nothing():
    """Which is why the bias of the key projection is never trained by a loss."""
    block = make_block().double()
    (x,) = sequences(5)
    block(x.double()).square().sum().backward()
    size = block.attention.query_proj.bias.grad.abs().max()
    assert block.attention.key_proj.bias.grad.abs().max() < 1e-12 * size


def test_dropout_drops_while_training_only():
    block = make_block(dropout=0.5)
    (x,) = sequences(5)
    assert torch.equal(block(x), block(x))
    block.train()
    assert not torch.equal(block(x), block(x))


def plainly(block, x):
    """The pre-norm block with nothing done for precision."""
    normed = block.attention_norm(x)
    layers = (block.attention.query_proj, block.attention.key_proj, block.attention.value_proj)
    query, key, value = (layer(normed).unflatten(-1, (4, -1)).transpose(1, 2) for layer in layers)
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    x = x + block.attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
    return x + block.feed_forward.outer(
        F.gelu(block.feed_forward.inner(block.feed_forward_norm(x)))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_exact_as_the_plain_formula(dtype):
    (x,) = sequences(40)
    block = make_block().to(dtype)
    results = [block(x.to(dtype)), plainly(block, x.to(dtype))]
    assert results[0].dtype == dtype
    exact = block.double()(x.to(dtype).double())  # with the rounded numbers, exactly
    torch.testing.assert_close(plainly(block, x.to(dtype).double()), exact)
    ours, allowed = ((result.double() - exact).abs().max() for result in results)
    assert 0 < ours <= 2 * allowed
