"""Multi-head attention: attention in every head, split and joined as the formula says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attn_core import AttentionOutput, attention, kernels, masks
from attn_core.modules import MultiHeadAttention

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def normal(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def torch_layer(**options):
    """PyTorch's layer, with biases that are not the zeros it starts with."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(12, 3, **{"batch_first": True, **options}).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return layer


# Three queries, four keys; the last key of the second entry is padding. PyTorch: True = not.
IGNORED_KEYS = torch.tensor([[False, False, False, False], [False, False, False, True]])
IGNORED_PAIRS = torch.tensor(
    [[False, True, False, False], [False, False, True, False], [True, False, False, False]]
)
IGNORED_PER_HEAD = torch.stack([IGNORED_PAIRS.roll(turns, 1) for turns in range(6)]).view(
    2, 3, 3, 4
)
LAYERS = {
    "plain": {},
    "no bias": {"bias": False},
    "widths of their own": {"kdim": 5, "vdim": 7},
    "widths of their own, no bias": {"kdim": 5, "vdim": 7, "bias": False},
    "sequence first": {"batch_first": False},
    "dropout": {"dropout": 0.5},
}
MASKS = {
    "no mask": ({}, None),
    "key padding": ({"key_padding_mask": IGNORED_KEYS}, ~IGNORED_KEYS[:, None, None]),
    "pairs": ({"attn_mask": IGNORED_PAIRS}, ~IGNORED_PAIRS),
    "both": (
        {"attn_mask": IGNORED_PAIRS, "key_padding_mask": IGNORED_KEYS},
        masks.dense(~IGNORED_PAIRS) & masks.padding([4, 3]),
    ),
    "pairs per head": ({"attn_mask": IGNORED_PER_HEAD.flatten(0, 1)}, ~IGNORED_PER_HEAD),
}


@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
@pytest.mark.parametrize(("their_masks", "our_mask"), MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_a_copy_of_torchs_layer_gives_what_it_gives(
    options, their_masks, our_mask, kernel, training
):
    if training and "dropout" in options:
        options = {**options, "dropout": 0.0}
    theirs = torch_layer(**options).train(training)
    ours = MultiHeadAttention.from_torch(theirs)
    assert ours.training == training
    assert ours.dropout == theirs.dropout
    query, key, value = normal((2, 3, 12), (2, 4, theirs.kdim), (2, 4, theirs.vdim))
    given = [query, key, value]
    if not theirs.batch_first:
        given = [x.transpose(0, 1) for x in given]
    expected, expected_weights = theirs(*given, **their_masks, average_attn_weights=False)
    if not theirs.batch_first:
        expected = expected.transpose(0, 1)
    with kernels.use(kernel):
        seen = ours(query, key, value, mask=our_mask, return_weights=True)
    torch.testing.assert_close(seen.output, expected, **TOLERANCE)
    torch.testing.assert_close(seen.weights, expected_weights, **TOLERANCE)


@given(data=st.data())
def test_a_copy_gives_what_torchs_layer_gives_whatever_the_sizes(data):
    """Heads, widths, lengths, masks and order of dimensions at random; a row may lose all keys."""
    draw = data.draw
    heads, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    batch, q_len, k_len = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    theirs = nn.MultiheadAttention(
        heads * width,
        heads,
        bias=draw(st.booleans()),
        kdim=draw(st.none() | st.integers(1, 6)),
        vdim=draw(st.none() | st.integers(1, 6)),
        batch_first=True,
    ).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    query, key, value = (
        torch.randn(batch, length, dim, dtype=torch.float64)
        for length, dim in [(q_len, heads * width), (k_len, theirs.kdim), (k_len, theirs.vdim)]
    )
    allowed = torch.rand(batch, heads, q_len, k_len) < 0.7
    ours = MultiHeadAttention.from_torch(theirs)
    seen = ours(query, key, value, mask=allowed, return_weights=True)
    expected, expected_weights = theirs(
        query, key, value, attn_mask=~allowed.flatten(0, 1), average_attn_weights=False
    )
    # Where a head of a query may attend nothing, PyTorch gives NaN; here that head gives nothing.
    has_key = allowed.any(-1)
    assert torch.equal(expected_weights.isfinite().all(-1), has_key)
    assert (seen.weights[~has_key] == 0).all()
    torch.testing.assert_close(seen.weights[has_key], expected_weights[has_key], **TOLERANCE)
    whole = has_key.all(1)
    torch.testing.assert_close(seen.output[whole], expected[whole], **TOLERANCE)
    assert seen.output.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"kdim": 5, "vdim": 7}, {"bias": False}], ids=str)
def test_a_copy_learns_as_torchs_layer_learns(options):
    theirs = torch_layer(**options)
    ours = MultiHeadAttention.from_torch(theirs)
    query, key, value, target = normal(
        (2, 3, 12), (2, 4, theirs.kdim), (2, 4, theirs.vdim), (2, 3, 12)
    )
    (theirs(query, key, value)[0] * target).sum().backward()
    (ours(query, key, value) * target).sum().backward()
    projections = [ours.query_proj, ours.key_proj, ours.value_proj]
    ours_in = torch.cat([layer.weight.grad.flatten() for layer in projections])
    theirs_in = (
        [theirs.in_proj_weight]
        if theirs.in_proj_weight is not None
        else [theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight]
    )
    theirs_in = torch.cat([weight.grad.flatten() for weight in theirs_in])
    torch.testing.assert_close(ours_in, theirs_in, **TOLERANCE)
    torch.testing.assert_close(ours.out_proj.weight.grad, theirs.out_proj.weight.grad, **TOLERANCE)
    if theirs.in_proj_bias is not None:
        ours_bias = torch.cat([layer.bias.grad for layer in projections])
        torch.testing.assert_close(ours_bias, theirs.in_proj_bias.grad, **TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"kdim": 5, "vdim": 7}], ids=str)
def test_a_copy_has_parameters_of_its_own(options):
    theirs = torch_layer(**options)
    before = {name: parameter.clone() for name, parameter in theirs.named_parameters()}
    with torch.no_grad():
        for parameter in MultiHeadAttention.from_torch(theirs).parameters():
            assert parameter.dtype == torch.float64
            parameter.zero_()
    assert all(torch.equal(before[name], x) for name, x in theirs.named_parameters())


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_what_cannot_be_copied_is_an_error(options):
    with pytest.raises(ValueError, match="add_bias_kv or add_zero_attn"):
        MultiHeadAttention.from_torch(torch_layer(**options))


def attend_head_by_head(layer, query, key, value, mask):
    """The formula: for each head its own columns of the projections, then all side by side."""
    width = layer.query_proj.out_features // layer.heads
    joined = []
    for head in range(layer.heads):
        shared = head // (layer.heads // layer.kv_heads)
        rows = slice(head * width, (head + 1) * width)
        shared_rows = slice(shared * width, (shared + 1) * width)
        q, k, v = (
            x @ projection.weight[own].T + (0 if projection.bias is None else projection.bias[own])
            for x, projection, own in [
                (query, layer.query_proj, rows),
                (key, layer.key_proj, shared_rows),
                (value, layer.value_proj, shared_rows),
            ]
        )
        scores = q @ k.mT / width**0.5
        joined.append(scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v)
    return layer.out_proj(torch.cat(joined, -1))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("head_dim", [None, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_heads_are_split_and_joined_as_a_loop_over_heads_does(kv_heads, head_dim, bias):
    torch.manual_seed(0)
    layer = MultiHeadAttention(
        8, 4, kv_heads=kv_heads, head_dim=head_dim, bias=bias, key_dim=6, value_dim=7
    ).double()
    query, key, value = normal((2, 3, 8), (2, 5, 6), (2, 5, 7))
    mask = torch.ones(3, 5, dtype=torch.bool).tril(1)
    seen = layer(query, key, value, mask=mask)
    expected = attend_head_by_head(layer, query, key, value, mask)
    torch.testing.assert_close(seen, expected, **TOLERANCE)


def test_grouped_heads_with_one_key_head_each_are_multi_head_attention():
    torch.manual_seed(0)
    plain = MultiHeadAttention(8, 4).double()
    grouped = MultiHeadAttention(8, 4, kv_heads=4).double()
    grouped.load_state_dict(plain.state_dict())
    (x,) = normal((2, 5, 8))
    assert torch.equal(grouped(x), plain(x))


def test_without_key_and_value_it_is_self_attention():
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2).double()
    x, memory = normal((2, 5, 8), (2, 4, 8))
    assert torch.equal(layer(x), layer(x, x, x))
    assert torch.equal(layer(x, memory), layer(x, memory, memory))
    assert not torch.allclose(layer(x, memory, x[:, :4]), layer(x, memory))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("training", [False, True])
def test_asking_for_weights_changes_no_bit_of_the_output(dropout, training):
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, dropout=dropout).train(training)
    x = torch.randn(2, 5, 8)
    torch.manual_seed(1)
    expected = layer(x, mask=masks.causal())
    torch.manual_seed(1)
    seen = layer(x, mask=masks.causal(), return_weights=True)
    assert isinstance(seen, AttentionOutput)
    assert torch.equal(seen.output, expected)
    assert seen.weights.shape == (2, 2, 5, 5)


@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
def test_dropout_is_for_training_only_and_the_weights_are_those_before_it(kernel):
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, dropout=0.6)
    x = torch.randn(2, 5, 8)
    with kernels.use(kernel):
        one, two = layer(x, return_weights=True), layer(x, return_weights=True)
        assert not torch.equal(one.output, two.output)
        assert torch.equal(one.weights, two.weights)
        torch.testing.assert_close(one.weights.sum(-1), torch.ones(2, 2, 5))
        layer.eval()
        assert torch.equal(layer(x), layer(x))
        without = MultiHeadAttention(8, 2)
        without.load_state_dict(layer.state_dict())
        assert torch.equal(layer(x), without(x))


def test_a_stack_of_layers_keeps_its_causal_mask():
    """Through four layers a later token reaches no earlier output in any bit."""
    torch.manual_seed(0)
    layers = [MultiHeadAttention(8, 2) for _ in range(4)]
    x = torch.randn(1, 6, 8)
    y = x.clone()
    y[:, 4] += 1
    for layer in layers:
        x, y = layer(x, mask=masks.causal()), layer(y, mask=masks.causal())
        assert torch.equal(x[:, :4], y[:, :4])
        assert not torch.equal(x[:, 4:], y[:, 4:])


def test_bias_and_offset_reach_attention():
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2).double()
    x, bias = normal((2, 5, 8), (2, 3, 5))
    seen = layer(x[:, 2:], x, bias=bias, mask=masks.causal(), q_offset=2)

    def heads(projected):
        return projected.unflatten(-1, (2, 4)).transpose(1, 2)

    expected = attention(
        heads(layer.query_proj(x[:, 2:])),
        heads(layer.key_proj(x)),
        heads(layer.value_proj(x)),
        bias=bias,
        mask=masks.causal(),
        q_offset=2,
    )
    torch.testing.assert_close(
        seen, layer.out_proj(expected.transpose(1, 2).flatten(2)), **TOLERANCE
    )


def test_padding_reaches_no_real_token():
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2).double()
    (x,) = normal((2, 5, 8))
    padded = layer(x, mask=masks.padding([5, 3]))
    alone = layer(x[1:, :3])
    torch.testing.assert_close(padded[1:, :3], alone, **TOLERANCE)
    x[1, 3:] = torch.nan
    assert torch.equal(layer(x, mask=masks.padding([5, 3]))[1, :3], padded[1, :3])


def test_it_runs_under_autocast():
    layer = MultiHeadAttention(8, 2)
    x = torch.randn(2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x, mask=masks.causal()).dtype == torch.bfloat16
