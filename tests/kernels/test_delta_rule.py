"""The delta rule and its relatives: what is written, forgotten, overwritten and read."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import masks, reference
from attn_core.kernels import delta_rule, linear_attention

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
RULES = ["linear", "gated", "delta", "gated_delta"]


def normal(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def drawn(rule, length=11, heads=(4, 2), batch=(2,), decay_width=6, dtype=torch.float64):
    """Query, key, value, and the gates of a rule; keys have length 1."""
    q_heads, kv_heads = heads
    query, key, value, beta, decay = normal(
        (*batch, q_heads, length, 6),
        (*batch, kv_heads, length, 6),
        (*batch, kv_heads, length, 3),
        (*batch, kv_heads, length, 1),
        (*batch, kv_heads, length, decay_width),
    )
    key = torch.nn.functional.normalize(key, dim=-1)
    gates = {}
    if "delta" in rule:
        gates["beta"] = beta.sigmoid().to(dtype)
    if "gated" in rule:
        gates["decay"] = -decay.square().to(dtype)
    return [x.to(dtype) for x in (query, key, value)], gates


def specified(query, key, value, past_state=None, *, rule, beta=None, decay=None, scale=None):
    """The four recurrences of the ONNX operator ``LinearAttention``, opset 27, written out.

    One batch entry, one head and one token after the other.
    """
    batch, q_heads, length, width = query.shape
    kv_heads, value_width = key.shape[1], value.shape[-1]
    scale = width**-0.5 if scale is None else scale
    outputs = torch.zeros(batch, q_heads, length, value_width, dtype=query.dtype)
    states = []
    for b in range(batch):
        for h in range(kv_heads):
            state = torch.zeros(width, value_width, dtype=query.dtype)
            state = state if past_state is None else past_state[b, h]
            for t in range(length):
                k, v = key[b, h, t], value[b, h, t]
                g = None if decay is None else decay[b, h, t].expand(width)[:, None]
                if rule == "linear":
                    state = state + torch.outer(k, v)
                elif rule == "gated":
                    state = torch.exp(g) * state + torch.outer(k, v)
                elif rule == "delta":
                    state = state + beta[b, h, t] * torch.outer(k, v - state.T @ k)
                else:
                    kept = torch.exp(g) * state
                    state = kept + beta[b, h, t] * torch.outer(k, v - kept.T @ k)
                for q_head in range(h * q_heads // kv_heads, (h + 1) * q_heads // kv_heads):
                    outputs[b, q_head, t] = scale * (query[b, q_head, t] @ state)
            states.append(state)
    return outputs, torch.stack(states).unflatten(0, (batch, kv_heads))


@given(
    rule=st.sampled_from(RULES),
    length=st.integers(1, 21),
    exponent=st.integers(0, 5),
    group=st.integers(1, 3),
    decay_width=st.sampled_from([1, 6]),
    scale=st.sampled_from([None, 1.0, 0.3]),
    has_past=st.booleans(),
)
def test_every_chunk_size_gives_what_is_specified(
    rule, length, exponent, group, decay_width, scale, has_past
):
    inputs, gates = drawn(rule, length, heads=(2 * group, 2), decay_width=decay_width)
    (past,) = normal((2, 2, 6, 3), seed=1)
    past = past if has_past else None
    expected = specified(*inputs, past, rule=rule, scale=scale, **gates)
    seen = delta_rule(
        *inputs, **gates, scale=scale, past_state=past, return_state=True, chunk_size=2**exponent
    )
    torch.testing.assert_close(seen.output, expected[0], **CLOSE)
    torch.testing.assert_close(seen.state, expected[1], **CLOSE)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("decay_width", [1, 6])
@pytest.mark.parametrize("group", [1, 2])
def test_it_is_the_operator_of_onnx(rule, decay_width, group):
    """Runs where an ``onnx`` with opset 27 is installed; the specification above runs anywhere."""
    operator = pytest.importorskip("onnx.reference.ops.op_linear_attention").LinearAttention
    heads = (2 * group, 2)
    inputs, gates = drawn(rule, heads=heads, decay_width=decay_width, dtype=torch.float32)
    (past,) = normal((2, 2, 6, 3), seed=1, dtype=torch.float32)
    packed = {name: _packed(x) for name, x in gates.items()}
    expected = operator._run(
        operator.__new__(operator), *map(_packed, inputs), past_state=past.numpy(),
        q_num_heads=heads[0], kv_num_heads=heads[1], update_rule=rule, **packed,
    )  # fmt: skip
    output, state = delta_rule(*inputs, **gates, past_state=past, return_state=True, chunk_size=4)
    torch.testing.assert_close(_packed(output), expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.numpy(), expected[1], rtol=1e-4, atol=1e-5)


def _packed(x):
    """(batch, heads, length, width) to ONNX's (batch, length, heads × width)."""
    return x.transpose(1, 2).flatten(2).numpy()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("at", [1, 5, 10])
def test_prefill_and_decoding_are_the_full_pass(rule, at):
    inputs, gates = drawn(rule)
    full, last = delta_rule(*inputs, **gates, return_state=True)
    state, rows = None, []
    for now in [slice(0, at), *(slice(t, t + 1) for t in range(at, 11))]:
        part, state = delta_rule(
            *(x[..., now, :] for x in inputs),
            **{name: x[..., now, :] for name, x in gates.items()},
            past_state=state,
            return_state=True,
        )
        rows.append(part)
    torch.testing.assert_close(torch.cat(rows, -2), full, **CLOSE)
    torch.testing.assert_close(state, last, **CLOSE)


def test_each_rule_is_a_case_of_the_gated_delta_rule():
    inputs, gates = drawn("gated_delta")
    linear, delta = delta_rule(*inputs), delta_rule(*inputs, beta=gates["beta"])
    torch.testing.assert_close(delta_rule(*inputs, decay=0.0), linear, **CLOSE)
    torch.testing.assert_close(delta_rule(*inputs, beta=gates["beta"], decay=0.0), delta, **CLOSE)
    assert not torch.allclose(linear, delta)
    nothing = delta_rule(*inputs, decay=gates["decay"], beta=0.0)
    assert torch.equal(nothing, torch.zeros_like(nothing))
    # With keys at right angles nothing is there to correct.
    query, _, value = (x[..., :6, :] for x in inputs)
    key = torch.eye(6, dtype=torch.float64).expand(2, 2, 6, 6)
    decay = gates["decay"][..., :6, :]
    torch.testing.assert_close(
        delta_rule(query, key, value, decay=decay, beta=1.0),
        delta_rule(query, key, value, decay=decay),
        **CLOSE,
    )


def test_linear_attention_is_the_linear_rule_divided_by_itself_over_ones():
    (query, key, value), _ = drawn("linear")
    query, key = query.exp(), key.exp()
    read = delta_rule(query, key, value, scale=1.0)
    total = delta_rule(query, key, torch.ones_like(value), scale=1.0)
    expected = linear_attention(query, key, value, feature_map=lambda x: x, causal=True)
    torch.testing.assert_close(read / total, expected, **CLOSE)


def test_the_delta_rule_stores_exactly_under_orthonormal_keys():
    (value, random) = normal((6, 3), (6, 6))
    key = torch.linalg.qr(random).Q
    _, state = delta_rule(key, key, value, beta=1.0, return_state=True)
    torch.testing.assert_close(key @ state, value, **CLOSE)
    _, again = delta_rule(key, key, value, beta=1.0, past_state=state, return_state=True)
    torch.testing.assert_close(again, state, **CLOSE)


def test_the_delta_rule_overwrites_what_the_linear_rule_adds_up():
    (key,) = normal((1, 6))
    key = torch.nn.functional.normalize(key, dim=-1).expand(3, 6)
    value = torch.tensor([[5.0], [7.0], [1.0]], dtype=torch.float64)
    added = delta_rule(key, key, value, scale=1.0)
    overwritten = delta_rule(key, key, value, beta=1.0, scale=1.0)
    halfway = delta_rule(key, key, value, beta=0.5, scale=1.0)
    torch.testing.assert_close(added, value.cumsum(0), **CLOSE)
    torch.testing.assert_close(overwritten, value, **CLOSE)
    expected = torch.tensor([[2.5], [4.75], [2.875]], dtype=torch.float64)
    torch.testing.assert_close(halfway, expected, **CLOSE)


def test_one_token_is_a_step_of_gradient_descent():
    (query, key, value), gates = drawn("delta", length=1, heads=(1, 1), batch=())
    (state,) = normal((1, 6, 3), seed=3)
    state.requires_grad_()
    error = (key[0] @ state[0] - value[0]).square().sum() / 2
    (slope,) = torch.autograd.grad(error, state)
    _, seen = delta_rule(query, key, value, **gates, past_state=state, return_state=True)
    torch.testing.assert_close(seen, state - gates["beta"] * slope, **CLOSE)


@pytest.mark.parametrize("rule", ["gated", "gated_delta"])
@pytest.mark.parametrize("strength", [3.0, 100.0, 1e4, 1e30, torch.inf])
@pytest.mark.parametrize("decay_width", [1, 6])
def test_strong_decay_neither_overflows_nor_loses_the_present(rule, strength, decay_width):
    """exp(−G) of a running sum G would be infinite here, and −inf − (−inf) is NaN."""
    inputs, gates = drawn(rule, length=70, decay_width=decay_width, dtype=torch.float32)
    every_third = (torch.arange(70) % 3 == 1)[:, None]
    gates["decay"] = torch.where(every_third, -strength, gates["decay"] / 100)
    leaves = [x.clone().requires_grad_() for x in (*inputs, *gates.values())]
    given_gates = dict(zip(gates, leaves[3:], strict=True))
    output = delta_rule(*leaves[:3], **given_gates)
    gradients = torch.autograd.grad(output.sum(), leaves)
    assert all(torch.isfinite(x).all() for x in (output, *gradients))
    doubles = {name: x.double() for name, x in gates.items()}
    exact, _ = specified(*(x.double() for x in inputs), rule=rule, **doubles)
    torch.testing.assert_close(output.double(), exact, rtol=1e-4, atol=1e-5)


def test_forgetting_everything_leaves_the_token_itself():
    (query, key, value), _ = drawn("linear", heads=(2, 2))
    forget = torch.full((11, 1), -torch.inf, dtype=torch.float64)
    itself = (query * key).sum(-1, keepdim=True) * value / 6**0.5
    torch.testing.assert_close(delta_rule(query, key, value, decay=forget), itself, **CLOSE)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_padding_is_neither_written_nor_forgotten(rule, poison):
    """Right padding: the state is that of the shorter sequence. And it reaches nothing."""
    results = []
    for filling in (0.5, poison):
        inputs, gates = drawn(rule)
        for x in (*inputs[1:], *gates.values()):
            x[1, :, 7:] = filling
        if "decay" in gates:
            gates["decay"][1, :, 7:] *= -1
        leaves = [x.requires_grad_() for x in (*inputs, *gates.values())]
        output, state = delta_rule(
            *inputs, **gates, mask=masks.padding([11, 7]), return_state=True, chunk_size=4
        )
        gradients = torch.autograd.grad(output.sum() + state.sum(), leaves)
        assert all((x[1, :, 7:] == 0).all() for x in gradients[1:])
        results.append([output, state, *gradients])
    for clean, poisoned in zip(*results, strict=True):
        assert torch.equal(clean, poisoned)
        assert torch.isfinite(poisoned).all()
    inputs, gates = drawn(rule)
    _, alone = delta_rule(
        *(x[1:, :, :7] for x in inputs),
        **{name: x[1:, :, :7] for name, x in gates.items()},
        return_state=True,
    )
    torch.testing.assert_close(results[0][1][1:], alone, **CLOSE)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("changed", [1, 8, 29])
def test_a_later_token_moves_no_bit_of_an_earlier_output(rule, changed):
    inputs, gates = drawn(rule, length=40, dtype=torch.float32)
    before = delta_rule(*inputs, **gates, chunk_size=16)
    for x in (*inputs, *gates.values()):
        x[..., changed:, :] = x[..., changed:, :] * 0.3
    after = delta_rule(*inputs, **gates, chunk_size=16)
    assert torch.equal(after[..., :changed, :], before[..., :changed, :])
    assert not torch.equal(after[..., changed:, :], before[..., changed:, :])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_half_precision_is_as_exact_as_the_plain_recurrence(rule, dtype):
    inputs, gates = drawn(rule, length=40, heads=(2, 1), batch=(1,), dtype=dtype)

    def results(compute, dtype):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (*inputs, *gates.values())]
        output, state = compute(*leaves[:3], **dict(zip(gates, leaves[3:], strict=True)))
        assert output.dtype == dtype
        return [output, state, *torch.autograd.grad(output.sum(), leaves)]

    exact = results(lambda *x, **gates: specified(*x, rule=rule, **gates), torch.float64)
    plain = results(lambda *x, **gates: specified(*x, rule=rule, **gates), dtype)
    ours = results(
        lambda *x, **gates: delta_rule(*x, **gates, return_state=True, chunk_size=16), dtype
    )
    assert ours[1].dtype == torch.float32
    for seen, allowed, right in zip(ours, plain, exact, strict=True):
        error = (allowed.double() - right).abs().max()
        assert error > 0
        assert (seen.double() - right).abs().max() <= 2 * error


@pytest.mark.parametrize(
    ("rule", "decay_width"),
    [
        ("linear", 1),
        ("gated", 1),
        ("gated", 2),
        ("delta", 1),
        ("gated_delta", 1),
        ("gated_delta", 2),
    ],
)
def test_gradients_of_all_orders(rule, decay_width):
    shapes = (2, 3, 2), (1, 3, 2), (1, 3, 1), (1, 2, 1), (1, 3, 1), (1, 3, decay_width)
    *inputs, beta, decay = normal(*shapes)
    inputs, gates = [x.requires_grad_() for x in inputs], {}
    if "delta" in rule:
        gates["beta"] = beta.sigmoid().requires_grad_()
    if "gated" in rule:
        gates["decay"] = (-0.1 - decay.abs()).requires_grad_()

    def call(query, key, value, past_state, *given_gates):
        return delta_rule(
            query, key, value, **dict(zip(gates, given_gates, strict=True)),
            past_state=past_state, return_state=True, chunk_size=2,
        )  # fmt: skip

    leaves = [*inputs, *gates.values()]
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, leaves)


OUT_OF_RANGE = {
    "beta below 0": {"beta": [0.5, -0.1]},
    "beta above 2": {"beta": [2.5, 0.5]},
    "decay above 0": {"decay": [-1.0, 0.1]},
    "decay, not its logarithm": {"decay": [0.9, 0.9]},
}


@pytest.mark.parametrize("gate", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
def test_a_gate_out_of_range_is_refused_where_it_is_no_padding(gate):
    [(name, numbers)] = gate.items()
    x, column = torch.ones(2, 2), torch.tensor(numbers)[:, None]
    with pytest.raises(ValueError, match=rf"^{name} must be at (least|most) \d, got "):
        delta_rule(x, x, x, **{name: column})
    with pytest.raises(ValueError, match=rf"^{name} must be at (least|most) \d, got "):
        reference.delta_rule(*[x.numpy()] * 3, **{name: column.numpy()})
    is_right = torch.tensor(
        [0 <= number <= 2 if name == "beta" else number <= 0 for number in numbers]
    )
    delta_rule(x, x, x, **{name: column}, mask=is_right)
    reference.delta_rule(
        x.numpy(), x.numpy(), x.numpy(), **{name: column.numpy()}, mask=is_right.numpy()
    )


def test_gates_go_through_vmap_and_inference_mode():
    x, gates = (
        torch.ones(3, 2, 2),
        {"beta": torch.full((3, 2, 1), 0.5), "decay": -torch.ones(3, 2, 1)},
    )
    together = torch.func.vmap(lambda x, beta, decay: delta_rule(x, x, x, beta=beta, decay=decay))
    with torch.inference_mode():
        torch.testing.assert_close(together(x, *gates.values()), delta_rule(x, x, x, **gates))


def test_a_number_can_forget_everything():
    x = torch.ones(2, 2)
    for decay in (-math.inf, torch.tensor(-math.inf)):
        torch.testing.assert_close(delta_rule(x, x, x, decay=decay, scale=0.5), x)
    forgotten = reference.delta_rule(*[x.numpy()] * 3, decay=-math.inf, scale=0.5)
    np.testing.assert_array_equal(forgotten, x.numpy())


def test_gates_broadcast_and_may_be_numbers():
    inputs, _ = drawn("linear")
    full = delta_rule(
        *inputs,
        beta=torch.full((2, 2, 11, 1), 0.25, dtype=torch.float64),
        decay=torch.full((2, 2, 11, 6), -0.5, dtype=torch.float64),
    )
    for shape in [(), (1,), (11, 1), (2, 1, 1), (2, 1, 1, 1)]:
        beta, decay = torch.full(shape, 0.25), torch.full(shape, -0.5)
        torch.testing.assert_close(delta_rule(*inputs, beta=beta, decay=decay), full, **CLOSE)
    torch.testing.assert_close(delta_rule(*inputs, beta=0.25, decay=-0.5), full, **CLOSE)
    # A gate may tell batch entries apart that key and value do not.
    query, key, value = inputs
    many, state = delta_rule(
        query, key[0], value[0],
        decay=torch.tensor([0.0, -1.0]).reshape(2, 1, 1, 1), return_state=True,
    )  # fmt: skip
    alone = delta_rule(query[1], key[0], value[0], decay=-1.0)
    torch.testing.assert_close(many[1], alone, **CLOSE)
    assert state.shape == (2, 2, 6, 3)


@pytest.mark.parametrize("rule", RULES)
def test_no_tokens_leave_the_state_as_it_is(rule):
    inputs, gates = drawn(rule, length=0)
    (past,) = normal((2, 2, 6, 3))
    output, state = delta_rule(*inputs, **gates, past_state=past, return_state=True)
    assert output.shape == (2, 4, 0, 3)
    assert torch.equal(state, past)


def test_autocast_does_not_make_it_coarser():
    inputs, gates = drawn("gated_delta", dtype=torch.float32)
    alone = delta_rule(*inputs, **gates)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(delta_rule(*inputs, **gates), alone)
