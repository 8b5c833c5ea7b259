"""Recording shows what the layers attend, and changes nothing."""

import copy
import inspect

import pytest
import torch
from refusals import assert_refuses
from torch import nn
from torch.nn import functional as F

from attn_core import attention, interpret, masks
from attn_core.interpret import ablate_heads, record
from attn_core.modules import AttentionPooling, KVCache, MultiHeadAttention, SelfAttention

# PyTorch says that the nested tensors of its own encoder are a prototype.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


class Reader(nn.Module):
    """Two kinds of layers, one of them called twice."""

    def __init__(self):
        super().__init__()
        self.mix = MultiHeadAttention(8, 4, kv_heads=2, dropout=0.3)
        self.again = SelfAttention(8)
        self.pool = AttentionPooling(8)

    def forward(self, x, mask=None):
        x = self.mix(x, mask=mask)
        x = self.again(self.again(x))
        return self.pool(x)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def reader():
    torch.manual_seed(0)
    return Reader()


def output_and_gradients(model, *inputs, **options):
    model.zero_grad()
    torch.manual_seed(1)
    output = model(*inputs, **options)
    output.sum().backward()
    return [output, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("training", [False, True])
def test_output_and_gradients_stay_as_they_are_bit_for_bit(reader, training):
    x = normal(2, 5, 8)
    reader.train(training)
    before = output_and_gradients(reader, x, mask=masks.causal())
    with record(reader):
        during = output_and_gradients(reader, x, mask=masks.causal())
    after = output_and_gradients(reader, x, mask=masks.causal())
    for one, two, three in zip(before, during, after, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_every_layer_and_call_is_recorded_with_the_weights_it_returns_itself(reader):
    x = normal(2, 5, 8)
    reader.eval()
    with record(reader) as layers:
        reader(x, mask=masks.causal())
    assert {name: len(calls) for name, calls in layers.items()} == {"mix": 1, "again": 2, "pool": 1}
    mixed = reader.mix(x, mask=masks.causal(), return_weights=True)
    assert torch.equal(layers["mix"][0], mixed.weights)
    once = reader.again(mixed.output, return_weights=True)
    assert torch.equal(layers["again"][0], once.weights)
    assert torch.equal(layers["again"][1], reader.again(once.output, return_weights=True).weights)
    assert layers["pool"][0].shape == (2, 5)


def test_weights_are_those_before_dropout(reader):
    with record(reader.train()) as layers:
        reader(normal(2, 5, 8))
    assert reader.mix.dropout == 0.3
    torch.testing.assert_close(layers["mix"][0].sum(-1), torch.ones(2, 4, 5))


def test_a_layer_that_was_asked_for_weights_still_gives_them(reader):
    with record(reader.mix) as layers:
        result = reader.mix(normal(1, 3, 8), return_weights=True)
    assert torch.equal(result.weights, layers["MultiHeadAttention"][0])


def test_nothing_is_left_behind_not_even_by_an_error(reader):
    with pytest.raises(ZeroDivisionError), record(reader):
        raise ZeroDivisionError
    assert not any("forward" in vars(part) for part in reader.modules())
    assert copy.deepcopy(reader)(normal(1, 2, 8)).shape == (1, 8)


def test_a_forward_of_ones_own_is_there_again_after_recording(reader):
    """Libraries that wrap a layer set its ``forward`` on the instance."""
    calls = []

    def wrapped(*inputs, forward=reader.mix.forward, **options):
        calls.append(inputs)
        return forward(*inputs, **options)

    # What records reads the signature of the layer's own.
    wrapped.__signature__ = inspect.signature(reader.mix.forward)
    reader.mix.forward = wrapped
    with record(reader) as layers:
        reader(normal(1, 2, 8))
    assert len(layers["mix"]) == len(calls) == 1
    assert reader.mix.forward is wrapped


def test_a_step_with_a_cache_happens_once():
    layer, cache = MultiHeadAttention(8, 2).eval(), KVCache()
    with torch.no_grad(), record(layer) as layers:
        for t in range(3):
            layer(normal(1, 1, 8, seed=t), mask=masks.causal(), cache=cache)
    assert cache.length == 3
    assert [weights.shape[-1] for weights in layers["MultiHeadAttention"]] == [1, 2, 3]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"need_weights": False}], ids=["asked", "not asked"])
def test_a_layer_of_torch_is_recorded_beside_its_output(batch_first, options):
    layer = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=batch_first).train()
    x = normal(3, 5, 8)
    torch.manual_seed(3)
    expected = layer(x, x, x, **options)
    torch.manual_seed(3)
    with record(layer) as layers:
        seen = layer(x, x, x, **options)
    assert torch.equal(seen[0], expected[0])
    assert layer.dropout == 0.4
    (weights,) = layers["MultiheadAttention"]
    batch, length = (3, 5) if batch_first else (5, 3)
    assert weights.shape == (batch, 2, length, length)
    torch.testing.assert_close(weights.sum(-1), torch.ones(batch, 2, length))
    ours = MultiHeadAttention.from_torch(layer).eval()
    first = x if batch_first else x.transpose(0, 1)
    torch.testing.assert_close(weights, ours(first, return_weights=True).weights)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_an_encoder_of_torch_that_skips_its_attention_is_recorded_all_the_same(training, padded):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training)
    padding = torch.tensor([[False] * 4, [False, False, True, True]]) if padded else None
    x = normal(2, 4, 8)
    outputs = []
    for recorder in (None, record):
        torch.manual_seed(0)
        with torch.no_grad():
            if recorder is None:
                outputs.append(model(x, src_key_padding_mask=padding))
            else:
                with recorder(model) as layers:
                    outputs.append(model(x, src_key_padding_mask=padding))
    assert torch.equal(*outputs)
    assert {name: len(calls) for name, calls in layers.items()} == {
        "layers.0.self_attn": 1,
        "layers.1.self_attn": 1,
    }
    weights = layers["layers.1.self_attn"][0]
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 4))
    if padded:
        assert (weights[1, :, :, 2:] == 0).all()
    assert torch.backends.mha.get_fastpath_enabled()


def test_gradient_times_attention_is_the_share_of_each_weight_in_a_linear_result():
    """Summed over the keys of a head, the products are what the head adds to the result."""
    layer = MultiHeadAttention(8, 2, bias=False)
    x = normal(1, 4, 8)
    with record(layer, with_gradients=True) as layers:
        target = layer(x)[0, 2].sum()
    (weights,) = layers["MultiHeadAttention"]
    (products,) = interpret.gradient_times_attention(target, [weights])
    torch.testing.assert_close(products.sum(), target)
    assert (products[:, :, [0, 1, 3]] == 0).all()
    with ablate_heads(layer, {"MultiHeadAttention": [0]}):
        torch.testing.assert_close(layer(x)[0, 2].sum(), products[:, 1].sum())
    torch.testing.assert_close(layer(x)[0, 2].sum(), target)


@pytest.mark.parametrize("theirs", [False, True])
def test_a_head_that_is_taken_out_adds_nothing(theirs):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 4, batch_first=True)
    nn.init.normal_(layer.out_proj.bias)
    ours = MultiHeadAttention.from_torch(layer)
    model = layer if theirs else ours
    name = type(model).__name__
    x = normal(2, 3, 8)

    def run():
        return layer(x, x, x, need_weights=False)[0] if theirs else ours(x)

    whole, bias = run(), layer.out_proj.bias
    parts = []
    for head in range(4):
        with ablate_heads(model, {name: [n for n in range(4) if n != head]}):
            parts.append(run() - bias)
    torch.testing.assert_close(sum(parts) + bias, whole)
    with ablate_heads(model, {name: range(4)}):
        torch.testing.assert_close(run(), bias.expand_as(whole))
    assert torch.equal(run(), whole)


def test_taking_heads_out_leaves_parameters_and_their_names_as_they_were(reader):
    state = {name: value.clone() for name, value in reader.state_dict().items()}
    identity = [id(p) for p in reader.parameters()]
    with pytest.raises(ZeroDivisionError), ablate_heads(reader, {"mix": [1]}):
        raise ZeroDivisionError
    assert sorted(reader.state_dict()) == sorted(state)
    assert all(torch.equal(value, state[name]) for name, value in reader.state_dict().items())
    assert sorted(id(p) for p in reader.parameters()) == sorted(identity)


def enter(context):
    with context:
        pass


THEIRS = nn.MultiheadAttention(4, 2)
OURS = MultiHeadAttention(4, 2)
WEIGHTS = torch.ones(1, 2, 2)
REFUSED = {
    "record a function": (lambda: enter(record(len)), TypeError, ["model", "builtin"]),
    "record no attention": (lambda: enter(record(nn.Linear(2, 2))), ValueError, ["Linear"]),
    "gradients of theirs": (
        lambda: enter(record(THEIRS, with_gradients=True)),
        TypeError,
        ["with_gradients", "MultiheadAttention", "from_torch"],
    ),
    "ablate a function": (lambda: enter(ablate_heads(len, {})), TypeError, ["model"]),
    "ablate no layer": (
        lambda: enter(ablate_heads(OURS, {"first": [0]})),
        ValueError,
        ["'first'", "MultiHeadAttention"],
    ),
    "ablate no head": (
        lambda: enter(ablate_heads(OURS, {"MultiHeadAttention": [2]})),
        ValueError,
        ["head 2", "which has 2"],
    ),
    "ablate half a head": (
        lambda: enter(ablate_heads(OURS, {"MultiHeadAttention": [0.5]})),
        TypeError,
        ["MultiHeadAttention", "0.5"],
    ),
    "target of two": (
        lambda: interpret.gradient_times_attention(torch.ones(2), [WEIGHTS]),
        ValueError,
        ["target", "(2,)"],
    ),
    "target without a graph": (
        lambda: interpret.gradient_times_attention(torch.ones(()), [WEIGHTS]),
        ValueError,
        ["target", "with_gradients"],
    ),
    "target of other weights": (
        lambda: interpret.gradient_times_attention(
            torch.ones((), requires_grad=True) * 2, [WEIGHTS.clone().requires_grad_()]
        ),
        ValueError,
        ["target", "weights 0"],
    ),
}


@pytest.mark.parametrize(("call", "error", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_it_refuses(call, error, says):
    assert_refuses(call, error, says)


class CallsPyTorch(nn.Module):
    """Attention as most models call it, through a function that keeps no weights."""

    def __init__(self, attend):
        super().__init__()
        self.attend, self.proj = attend, nn.Linear(8, 8)

    def forward(self, x):
        return self.attend(self.proj(x), x, x)


def test_it_says_why_nothing_is_seen_of_pytorchs_function():
    model, x = CallsPyTorch(F.scaled_dot_product_attention), torch.randn(1, 5, 8)
    says = r"scaled_dot_product_attention.*attn_core\.attention"
    with pytest.raises(ValueError, match=says), record(model):
        model(x)
    model.attend = attention  # what the message asks for
    with record(model) as weights:
        model(x)
    assert weights["CallsPyTorch"][0].shape == (1, 5, 5)


@pytest.mark.parametrize("make", [MultiHeadAttention, nn.MultiheadAttention])
def test_heads_are_taken_out_inside_a_record(make):
    torch.manual_seed(0)
    layers = nn.ModuleList([make(8, 2), make(8, 2)]).eval()
    x = torch.randn(1, 5, 8)

    def run(x):
        for layer in layers:
            result = layer(x, x, x)
            x = result[0] if isinstance(result, tuple) else result
        return x

    with ablate_heads(layers, {"0": [1]}), record(layers) as expected:
        expected_output = run(x)
    with record(layers) as seen, ablate_heads(layers, {"0": [1]}):
        output = run(x)
    assert torch.equal(output, expected_output)
    assert not torch.allclose(output, run(x))
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("make", [MultiHeadAttention, nn.MultiheadAttention])
def test_a_record_inside_a_record_sees_the_same(make):
    layer, x = nn.Sequential(make(8, 2)), torch.randn(1, 5, 8)
    with record(layer) as outer:
        with record(layer) as inner:
            layer[0](x, x, x)
        layer[0](x, x, x)
    assert torch.equal(inner["0"][0], outer["0"][-1])
    assert len(inner["0"]) == 1
    assert "forward" not in vars(layer[0])
