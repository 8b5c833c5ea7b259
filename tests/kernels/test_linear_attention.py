"""Linear attention is attention with a product of features for a score, computed another way."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from attn_core import attention, kernels, masks
from attn_core.kernels import elu_plus_one, linear_attention

CLOSE = {"rtol": 1e-11, "atol": 1e-12}
FEATURE_MAPS = {
    "elu + 1": elu_plus_one,
    "exp": torch.exp,
    "square": torch.square,
    "twice as wide": lambda x: torch.cat([x.relu(), (-x).relu()], -1) + 0.1,
}


def normal(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def query_key_value(length=13, heads=(4, 2), batch=(2,), dtype=torch.float64):
    q_heads, kv_heads = heads
    return normal(
        (*batch, q_heads, length, 6),
        (*batch, kv_heads, length, 6),
        (*batch, kv_heads, length, 3),
        dtype=dtype,
    )


def quadratic(query, key, value, feature_map=elu_plus_one, **options):
    """The definition: all weights, each row divided by its sum, through the explicit kernel."""

    def share(scores, dim):
        return scores / scores.sum(dim, keepdim=True)

    def score(query, key):
        return feature_map(query) @ feature_map(key).mT

    def only_allowed(scores, dim):
        return share(scores.masked_fill(scores.isneginf(), 0.0), dim)

    return attention(query, key, value, score=score, normalizer=only_allowed, **options)


@pytest.mark.parametrize("feature_map", FEATURE_MAPS.values(), ids=FEATURE_MAPS.keys())
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_it_is_attention_with_weights_that_are_products_of_features(heads, causal, feature_map):
    inputs = [x.requires_grad_() for x in query_key_value(heads=heads)]
    mask = masks.causal() if causal else None
    expected = quadratic(*inputs, feature_map=feature_map, mask=mask)
    seen = linear_attention(*inputs, feature_map=feature_map, causal=causal, chunk_size=4)
    torch.testing.assert_close(seen, expected, **CLOSE)
    (grad_output,) = normal(seen.shape, seed=5)
    for one, two in zip(
        torch.autograd.grad(seen, inputs, grad_output),
        torch.autograd.grad(expected, inputs, grad_output),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)


@given(
    length=st.integers(1, 40),
    exponent=st.integers(0, 6),
    group=st.integers(1, 3),
    split=st.floats(0, 1),
    padded=st.booleans(),
)
def test_recurrent_chunked_parallel_and_in_two_calls(length, exponent, group, split, padded):
    """Chunks of 1 are the recurrence, one chunk for all is the quadratic form."""
    query, key, value = query_key_value(length, heads=(2 * group, 2))
    lengths = [length, length // 2] if padded else [length, length]
    mask = masks.padding(lengths)
    expected = quadratic(query, key, value, mask=masks.causal() & mask)
    options = {"causal": True, "chunk_size": 2**exponent}
    whole = linear_attention(query, key, value, mask=mask, return_state=True, **options)
    torch.testing.assert_close(whole.output, expected, **CLOSE)

    at = round(split * length)
    real = torch.arange(length) < torch.tensor(lengths)[:, None, None, None]
    first, state = linear_attention(
        query[..., :at, :], key[..., :at, :], value[..., :at, :],
        mask=real[..., :at], return_state=True, **options,
    )  # fmt: skip
    second, state = linear_attention(
        query[..., at:, :], key[..., at:, :], value[..., at:, :],
        mask=real[..., at:], return_state=True, past_state=state, **options,
    )  # fmt: skip
    torch.testing.assert_close(torch.cat([first, second], -2), expected, **CLOSE)
    torch.testing.assert_close(state, whole.state, **CLOSE)


def test_decoding_token_by_token_is_the_full_pass():
    query, key, value = query_key_value()
    state, rows = None, []
    for t in range(query.shape[-2]):
        now = slice(t, t + 1)
        row, state = linear_attention(
            query[..., now, :], key[..., now, :], value[..., now, :],
            causal=True, past_state=state, return_state=True,
        )  # fmt: skip
        rows.append(row)
    full = linear_attention(query, key, value, causal=True)
    torch.testing.assert_close(torch.cat(rows, -2), full, **CLOSE)
    assert state.shape == (2, 2, 6, 4)


def test_without_causal_the_keys_of_two_calls_are_those_of_one():
    query, key, value = query_key_value()
    _, state = linear_attention(query, key[..., :5, :], value[..., :5, :], return_state=True)
    seen = linear_attention(query, key[..., 5:, :], value[..., 5:, :], past_state=state)
    torch.testing.assert_close(seen, linear_attention(query, key, value), **CLOSE)


def test_the_weights_of_a_query_add_up_to_one():
    query, key, value = query_key_value()
    ones = torch.ones_like(value)
    for causal in (False, True):
        output = linear_attention(query, key, ones, causal=causal)
        torch.testing.assert_close(output, torch.ones_like(output), **CLOSE)


def test_keys_may_stand_in_any_order_with_their_values():
    query, key, value = query_key_value()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    seen = linear_attention(query, key[..., order, :], value[..., order, :])
    torch.testing.assert_close(seen, linear_attention(query, key, value), **CLOSE)


def test_plain_matrices_and_batches_that_broadcast():
    query, key, value = query_key_value(batch=(), heads=(1, 1))
    output, state = linear_attention(query[0], key[0], value[0], causal=True, return_state=True)
    with_heads = linear_attention(query, key, value, causal=True)
    torch.testing.assert_close(output, with_heads[0], **CLOSE)
    assert state.shape == (6, 4)
    again = linear_attention(query[0], key[0], value[0], past_state=state)
    assert again.shape == output.shape
    many = query.expand(5, 2, 3, *query.shape[-2:])
    seen = linear_attention(many, key[0], value[0], causal=True)
    torch.testing.assert_close(seen, with_heads.expand(5, 2, 3, 13, 3), **CLOSE)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_padding_reaches_nothing(causal, poison):
    mask = masks.padding([13, 9])
    results = []
    for filling in (0.5, poison):
        inputs = query_key_value()
        inputs[1][1, :, 9:], inputs[2][1, :, 9:] = filling, filling
        inputs = [x.requires_grad_() for x in inputs]
        output, state = linear_attention(*inputs, causal=causal, mask=mask, return_state=True)
        gradients = torch.autograd.grad(output.sum() + state.sum(), inputs)
        results.append([output, state, *gradients])
        assert (gradients[1][1, :, 9:] == 0).all()
        assert (gradients[2][1, :, 9:] == 0).all()
    for clean, poisoned in zip(*results, strict=True):
        assert torch.equal(clean, poisoned)
        assert torch.isfinite(poisoned).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("feature_map", [elu_plus_one, torch.relu])
def test_a_query_with_nothing_to_attend_gives_zeros(causal, feature_map):
    inputs = [x.requires_grad_() for x in query_key_value()]
    real = torch.ones(2, 1, 1, 13, dtype=torch.bool)
    real[0], real[1, ..., :4] = False, False
    output = linear_attention(*inputs, causal=causal, mask=real, feature_map=feature_map)
    gradients = torch.autograd.grad(output.sum(), inputs)
    empty = torch.zeros(2, 13, dtype=torch.bool)
    empty[0], empty[1, :4] = True, causal
    at = empty[:, None].expand(2, 4, 13)
    assert (output[at] == 0).all()
    assert (gradients[0][at] == 0).all()
    assert all(torch.isfinite(x).all() for x in (output, *gradients))
    assert (output[~at] != 0).any()


@pytest.mark.parametrize("causal", [False, True])
def test_no_queries_no_keys_no_batch(causal):
    query, key, value = query_key_value(length=0)
    assert linear_attention(query, key, value, causal=causal).shape == (2, 4, 0, 3)
    query, key, value = query_key_value(batch=(0,))
    assert linear_attention(query, key, value, causal=causal).shape == (0, 4, 13, 3)
    query, key, value = query_key_value()
    output = linear_attention(query, key[..., :0, :], value[..., :0, :])
    assert torch.equal(output, torch.zeros(2, 4, 13, 3, dtype=torch.float64))


@pytest.mark.parametrize("changed", [1, 8, 11])
@pytest.mark.parametrize("chunk_size", [1, 8, 16])
def test_a_later_token_moves_no_bit_of_an_earlier_output(changed, chunk_size):
    query, key, value = query_key_value(dtype=torch.float32)
    before = linear_attention(query, key, value, causal=True, chunk_size=chunk_size)
    for size in (1.0, 1e10):
        others = [x.clone() for x in (query, key, value)]
        for x in others:
            x[..., changed, :] = size
        after = linear_attention(*others, causal=True, chunk_size=chunk_size)
        assert torch.equal(after[..., :changed, :], before[..., :changed, :])
        assert not torch.equal(after[..., changed:, :], before[..., changed:, :])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision_is_as_exact_as_the_plain_formula(causal, dtype):
    inputs = query_key_value(length=150, dtype=dtype)
    mask = masks.causal() if causal else None

    def errors(compute, exact):
        moved = [x.clone().requires_grad_() for x in inputs]
        output = compute(*moved)
        assert output.dtype == dtype
        results = [output, *torch.autograd.grad(output.sum(), moved)]
        return [(x.double() - y).abs().max() for x, y in zip(results, exact, strict=True)]

    doubles = [x.double().requires_grad_() for x in inputs]
    exact = quadratic(*doubles, mask=mask)
    exact = [exact.detach(), *torch.autograd.grad(exact.sum(), doubles)]
    plain = errors(lambda *x: quadratic(*x, mask=mask), exact)
    ours = errors(lambda *x: linear_attention(*x, causal=causal, chunk_size=16), exact)
    for seen, allowed in zip(ours, plain, strict=True):
        assert allowed > 0
        assert seen <= 2 * allowed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_very_negative_entries_still_have_features(dtype):
    """elu(x) + 1 rounds to 0 there, and a query without features would attend nothing."""
    query = torch.full((1, 4), -30.0, dtype=dtype)
    key, value = torch.zeros(2, 4, dtype=dtype), torch.tensor([[1.0], [3.0]], dtype=dtype)
    assert linear_attention(query, key, value).item() == 2
    assert (elu_plus_one(query.float()) > 0).all()


def test_elu_plus_one_is_smooth_and_keeps_infinity_out_of_its_gradient():
    (x,) = normal((50,))
    torch.testing.assert_close(elu_plus_one(x), torch.nn.functional.elu(x) + 1)
    ends = torch.tensor([0.0, 800.0, torch.inf, -torch.inf], dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(elu_plus_one(ends).sum(), ends)
    assert gradient.tolist() == [1, 1, 1, 0]


def test_autocast_does_not_make_it_coarser():
    query, key, value = query_key_value(length=100, dtype=torch.float32)
    alone = linear_attention(query, key, value, causal=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear_attention(query, key, value, causal=True), alone)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_all_orders(causal):
    inputs = [x.requires_grad_() for x in normal((2, 3, 2), (1, 3, 2), (1, 3, 1), (1, 2, 2))]
    inputs[3] = inputs[3].detach().square().requires_grad_()
    real = torch.tensor([True, False, True])

    def call(query, key, value, past_state):
        return linear_attention(
            query, key, value, causal=causal, mask=real, past_state=past_state,
            return_state=True, chunk_size=2,
        )  # fmt: skip

    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs)


class LargestTensor(TorchDispatchMode):
    """Remember the most numbers that one operation returned."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return result


@pytest.mark.parametrize("causal", [False, True])
def test_memory_grows_with_the_length_and_not_with_its_square(causal):
    largest = []
    for length in (1024, 2048):
        query, key, value = query_key_value(length, dtype=torch.float32)
        with LargestTensor() as mode:
            linear_attention(query, key, value, causal=causal)
        largest.append(mode.numel)
    assert largest[1] <= 2 * largest[0]
    assert largest[1] < 2048**2


def test_kernels_take_and_keep_the_dtype():
    for dtype, causal in product([torch.float16, torch.float32, torch.float64], [False, True]):
        inputs = query_key_value(dtype=dtype)
        output, state = kernels.linear_attention(*inputs, causal=causal, return_state=True)
        assert output.dtype == dtype
        assert state.dtype == torch.promote_types(dtype, torch.float32)
        assert linear_attention(*inputs, past_state=state).dtype == dtype
