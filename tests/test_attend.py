"""What is true of attention, whoever computes it."""

import math
from functools import partial

import pytest
import torch
from drawn_calls import drawn_calls, drawn_sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_attention import plain_attention
from torch.testing import assert_close

from attn_core import AttentionOutput, attention, kernels, masks, normalizers, scores

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
KERNELS = ["explicit", "sdpa"]
NORMALIZERS = [normalizers.softmax, normalizers.sparsemax, normalizers.hard]
seeds = st.integers(0, 10**6)


def normal(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def differentiable(*tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


@settings(max_examples=150)
@given(drawn_calls())
def test_attention_is_score_normalise_aggregate_row_by_row(call):
    output, weights = attention(*call.tensors, **call.options, return_weights=True)
    expected = plain_attention(*call.tensors, call.allowed, **call.plain_options)
    assert output.shape == expected[0].shape
    assert weights.shape == expected[1].shape
    assert_close(output, expected[0], **TOLERANCE)
    assert_close(weights, expected[1], **TOLERANCE)


@settings(max_examples=80)
@given(drawn_calls())
def test_gradients_of_output_and_weights_are_those_of_attention_row_by_row(call):
    bias = call.plain_options.get("bias")
    inputs = [*call.tensors] if bias is None else [*call.tensors, bias]

    def gradients(compute, options):
        moved = differentiable(*inputs)
        options = options if bias is None else {**options, "bias": moved[3]}
        results = compute(*moved[:3], **options)
        grad_results = normal(*(result.shape for result in results), seed=7)
        return torch.autograd.grad(results, moved, grad_results, materialize_grads=True)

    expected = gradients(
        lambda *tensors, **options: plain_attention(*tensors, call.allowed, **options),
        call.plain_options,
    )
    seen_gradients = gradients(partial(attention, return_weights=True), call.options)
    for seen, wanted in zip(seen_gradients, expected, strict=True):
        assert_close(seen, wanted, **TOLERANCE)


@given(drawn_calls())
def test_rows_of_weights_sum_to_one_or_to_nothing(call):
    weights = attention(*call.tensors, **call.options, return_weights=True).weights
    allowed = call.allowed
    if "bias" in call.options:
        allowed = allowed & (call.options["bias"] != -torch.inf)
    assert_close(weights.sum(-1), allowed.any(-1).double(), **TOLERANCE)
    assert (weights >= 0).all()
    assert (weights[~allowed] == 0).all()


def test_the_order_is_scale_softcap_bias_mask_normalise_aggregate():
    query, key = torch.tensor([[2.0]]), torch.tensor([[3.0], [1.0], [9.0]])
    bias, mask = torch.tensor([[0.5, -1.0, 100.0]]), torch.tensor([[True, True, False]])
    capped = [4 * math.tanh(2 * k * 0.5 / 4) for k in (3, 1)]
    powers = [math.exp(capped[0] + 0.5), math.exp(capped[1] - 1.0)]
    expected = torch.tensor([[powers[0], powers[1], 0]]) / sum(powers)
    options = {"scale": 0.5, "softcap": 4.0, "bias": bias, "mask": mask}
    assert_close(attention(query, key, torch.eye(3), **options), expected)


def test_the_default_scale_belongs_to_the_default_score_only():
    query, key = normal((3, 16), (5, 16))
    identity = torch.eye(5, dtype=torch.float64)
    products = query @ key.T
    for options, expected in [
        ({}, products / 4),
        ({"score": scores.dot}, products),
        ({"score": scores.scaled_dot}, products / 4),
        ({"score": scores.scaled_dot, "scale": 3.0}, products / 4 * 3),
        ({"score": scores.dot, "scale": 0.25}, products / 4),
        ({"scale": 2.0}, products * 2),
        ({"score": lambda q, k: q @ k.mT}, products),
        ({"score": scores.cosine, "scale": 2.0}, 2 * scores.cosine(query, key)),
    ]:
        seen = attention(query, key, identity, **options)
        assert_close(seen, expected.softmax(-1), **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
@given(sizes=drawn_sizes(), seed=seeds)
def test_grouped_heads_equal_repeated_heads(kernel, sizes, seed):
    query, key, value, bias = normal(
        (*sizes.batch, sizes.heads, sizes.q_len, sizes.width),
        (*sizes.batch, sizes.kv_heads, sizes.k_len, sizes.width),
        (*sizes.batch, sizes.kv_heads, sizes.k_len, sizes.value_width),
        sizes.full,
        seed=seed,
    )
    mask = bias > -0.5
    repeated = [x.repeat_interleave(sizes.group, dim=-3) for x in (key, value)]
    options = {"mask": mask, "bias": bias, "return_weights": True}
    with kernels.use(kernel):
        grouped = attention(query, key, value, **options)
        copied = attention(query, *repeated, **options)
    assert_close(grouped.output, copied.output, **TOLERANCE)
    assert_close(grouped.weights, copied.weights, **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
@given(call=drawn_calls(score=False, normalizer=False, softcap=False), seed=seeds)
def test_permuting_keys_with_their_values_changes_nothing(kernel, call, seed):
    query, key, value = call.tensors
    order = torch.randperm(key.shape[-2], generator=torch.Generator().manual_seed(seed))
    bias = call.options.get("bias", torch.zeros(1, 1)).expand(call.allowed.shape)
    scale = call.options["scale"]
    with kernels.use(kernel):
        expected = attention(query, key, value, mask=call.allowed, bias=bias.double(), scale=scale)
        seen = attention(
            query,
            key[..., order, :],
            value[..., order, :],
            mask=call.allowed[..., order],
            bias=bias.double()[..., order],
            scale=scale,
        )
    assert_close(seen, expected, **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
@given(call=drawn_calls(score=False, normalizer=False, softcap=False), seed=seeds)
def test_permuting_queries_permutes_outputs(kernel, call, seed):
    query, key, value = call.tensors
    order = torch.randperm(query.shape[-2], generator=torch.Generator().manual_seed(seed))
    with kernels.use(kernel):
        expected = attention(query, key, value, mask=call.allowed)
        seen = attention(query[..., order, :], key, value, mask=call.allowed[..., order, :])
    assert_close(seen, expected[..., order, :], **TOLERANCE)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@given(seed=seeds, shift=st.floats(-30, 30))
def test_adding_a_constant_to_a_row_of_scores_changes_nothing(normalizer, seed, shift):
    query, key, value = normal((2, 3, 4), (2, 5, 4), (2, 5, 3), seed=seed)
    rows = shift * torch.arange(1.0, 4.0, dtype=torch.float64)[:, None]
    expected = attention(query, key, value, normalizer=normalizer)
    seen = attention(query, key, value, normalizer=normalizer, bias=rows)
    assert_close(seen, expected, **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_scores_give_the_mean_of_the_values(kernel):
    query, key, value = normal((2, 3, 4), (2, 5, 4), (2, 5, 3))
    with kernels.use(kernel):
        seen = attention(torch.zeros_like(query), key, value)
    assert_close(seen, value.mean(1, keepdim=True).expand(2, 3, 3), **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("q_offset", "queries"), [(None, 6), (0, 4), (2, 4), (-1, 6), (3, 3)])
def test_a_later_key_never_reaches_an_earlier_output_in_any_bit(kernel, q_offset, queries):
    query, key, value = normal((2, 4, queries, 8), (2, 2, 6, 8), (2, 2, 6, 5), dtype=torch.float32)
    options = {"mask": masks.causal(), "q_offset": q_offset}
    positions = torch.arange(queries) + (q_offset or 0)
    with kernels.use(kernel):
        expected = attention(query, key, value, **options)
        for j in range(6):
            for moved in ("key", "value"):
                new = {"key": key.clone(), "value": value.clone()}
                new[moved][..., j, :] += 3.0
                seen = attention(query, new["key"], new["value"], **options)
                before = positions < j
                assert torch.equal(seen[..., before, :], expected[..., before, :])
                changes = (seen != expected).flatten(-1).any(-1).any(0).any(0)
                reached = (positions >= j) & ((moved == "value") | (positions > 0))
                assert torch.equal(changes, reached)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("align", ["first", "last"])
def test_causal_with_fewer_queries_than_keys_does_what_q_offset_says(kernel, align):
    query, key, value = normal((3, 4), (5, 4), (5, 2))
    offset = 0 if align == "first" else 2
    with kernels.use(kernel):
        seen = attention(query, key, value, mask=masks.causal(), q_offset=offset)
        for row in range(3):
            visible = row + 1 if align == "first" else row + 3
            alone = attention(query[row : row + 1], key[:visible], value[:visible])
            assert_close(seen[row : row + 1], alone, **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
def test_decoding_one_query_at_a_time_equals_the_full_pass(kernel):
    query, key, value = normal((2, 2, 6, 4), (2, 1, 6, 4), (2, 1, 6, 3))
    mask = masks.causal() & masks.window(3, 0)
    with kernels.use(kernel):
        full = attention(query, key, value, mask=mask)
        steps = [
            attention(
                query[..., t : t + 1, :],
                key[..., : t + 1, :],
                value[..., : t + 1, :],
                mask=mask,
                q_offset=t,
            )
            for t in range(6)
        ]
    assert_close(torch.cat(steps, -2), full, **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
def test_offsets_per_batch_entry_equal_one_call_each(kernel):
    query, key, value = normal((3, 2, 2, 4), (3, 2, 6, 4), (3, 2, 6, 3))
    offsets = [0, 4, -1]
    mask = masks.causal() & ~masks.window(0, 0) | masks.window(1, 0)
    with kernels.use(kernel):
        together = attention(query, key, value, mask=mask, q_offset=torch.tensor(offsets))
        alone = [
            attention(query[b], key[b], value[b], mask=mask, q_offset=offset)
            for b, offset in enumerate(offsets)
        ]
    assert_close(together, torch.stack(alone), **TOLERANCE)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mask", [masks.causal(), masks.window(1, 1)], ids=repr)
def test_unequal_lengths_with_a_mask_that_compares_positions_need_an_offset(kernel, mask):
    x = torch.ones(1, 1, 5, 4)
    with kernels.use(kernel):
        for composed in (mask, ~mask, mask & masks.padding([5]), masks.padding([5]) | mask):
            with pytest.raises(ValueError, match=r"3 queries for 5 keys.*q_offset"):
                attention(x[..., :3, :], x, x, mask=composed)
    attention(x[..., :3, :], x, x, mask=masks.padding([5]))


@given(call=drawn_calls(), dropout_p=st.sampled_from([0.0, 0.5]), seed=seeds)
@settings(max_examples=80)
def test_asking_for_weights_changes_no_bit_of_the_output(call, dropout_p, seed):
    options = {**call.options, "dropout_p": dropout_p}
    torch.manual_seed(seed)
    expected = attention(*call.tensors, **options)
    torch.manual_seed(seed)
    seen = attention(*call.tensors, **options, return_weights=True)
    assert isinstance(seen, AttentionOutput)
    assert torch.equal(seen.output, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_asking_for_weights_leaves_the_random_numbers_that_follow_as_they_are(kernel):
    query, key, value = normal((2, 3, 4), (2, 5, 4), (2, 5, 3))
    drawn = []
    for return_weights in (False, True):
        torch.manual_seed(0)
        with kernels.use(kernel):
            attention(query, key, value, dropout_p=0.3, return_weights=return_weights)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("kernel", KERNELS)
def test_dropout_drops_weights_and_enlarges_the_others(kernel):
    query, key = normal((64, 8), (50, 8))
    identity = torch.eye(50, dtype=torch.float64)
    torch.manual_seed(0)
    with kernels.use(kernel):
        dropped, weights = attention(query, key, identity, dropout_p=0.25, return_weights=True)
    assert_close(weights, attention(query, key, identity), **TOLERANCE)
    assert_close(weights.sum(-1), torch.ones(64, dtype=torch.float64), **TOLERANCE)
    kept = dropped != 0
    assert 0.22 < 1 - kept.double().mean().item() < 0.28
    assert_close(dropped[kept], (weights / 0.75)[kept], **TOLERANCE)


@given(call=drawn_calls(), seed=seeds)
def test_without_dropout_no_random_number_is_drawn(call, seed):
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    attention(*call.tensors, **call.options, return_weights=True)
    assert torch.equal(torch.get_rng_state(), before)


@given(drawn_calls())
def test_arguments_are_never_changed_in_place(call):
    tensors = [*call.tensors, *(x for x in call.options.values() if isinstance(x, torch.Tensor))]
    copies = [tensor.clone() for tensor in tensors]
    attention(*call.tensors, **call.options, return_weights=True)
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_output_and_weights_have_the_dtype_of_the_query(kernel, dtype):
    query, key, value = normal((2, 3, 4), (1, 5, 4), (1, 5, 3), dtype=dtype)
    mask = torch.ones(3, 5, dtype=torch.bool).tril()
    bias = torch.zeros(3, 5, dtype=dtype)
    with kernels.use(kernel):
        seen = attention(query, key, value, mask=mask, bias=bias, return_weights=True)
    assert seen.output.dtype == seen.weights.dtype == dtype


def test_plain_matrices_give_plain_matrices():
    query, key, value = normal((3, 4), (5, 4), (5, 2))
    output, weights = attention(query, key, value, return_weights=True)
    assert_close(output, ((query @ key.T) / 2).softmax(-1) @ value, **TOLERANCE)
    assert output.shape == (3, 2)
    assert weights.shape == (3, 5)
    assert_close(attention(query[None], key, value)[0], output, **TOLERANCE)


def test_memory_does_not_have_to_be_contiguous():
    query, key, value = normal((4, 2, 3), (5, 2, 3), (5, 2, 3))
    for kernel in KERNELS:
        with kernels.use(kernel):
            views = attention(*(x.transpose(0, 1) for x in (query, key, value)))
            copies = attention(*(x.transpose(0, 1).contiguous() for x in (query, key, value)))
        assert_close(views, copies, **TOLERANCE)
