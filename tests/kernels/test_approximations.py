"""What is true of approximations: where they are exact, what padding and the future cannot do.

That they compute their formula is in ``test_approximation_twins.py``.
"""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention, kernels, masks

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
HALVES = [torch.float16, torch.bfloat16]


def normal(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def tokens(length, batch=2, heads=4, kv_heads=2, width=6, value_width=3, seed=0):
    return normal(
        (batch, heads, length, width),
        (batch, kv_heads, length, width),
        (batch, kv_heads, length, value_width),
        seed=seed,
    )


def drawn(*shape, like):
    """Random numbers that every dtype holds exactly."""
    return normal(shape, seed=1)[0].bfloat16().to(like.dtype)


def favor(query, key, value, **options):
    projection = drawn(20, query.shape[-1], like=query)
    return kernels.favor(query, key, value, projection=projection, **options)


def linformer(query, key, value, **options):
    mix = drawn(4, 50, like=query)[:, : key.shape[-2]]
    return kernels.linformer(query, key, value, key_projection=mix, **options)


def nystrom(query, key, value, **options):
    return kernels.nystrom(query, key, value, landmarks=3, **options)


def nystrom_exact_pinv(query, key, value, **options):
    return kernels.nystrom(query, key, value, landmarks=3, iterations=None, **options)


def lsh(query, key, value, **options):
    """It takes no key: where the others get one, its query has it added in."""
    group = query.shape[-3] // key.shape[-3] if key.ndim > 2 else 1
    query = query + (key.repeat_interleave(group, -3) if key.ndim > 2 else key)
    rotations = drawn(2, query.shape[-1], 2, like=query)
    return kernels.lsh(query, value, buckets=4, rounds=2, rotations=rotations, **options)


ALL = [favor, linformer, nystrom, nystrom_exact_pinv, lsh]
CAUSAL = [favor, lsh]
FORMS = [(one, {}) for one in ALL] + [(one, {"causal": True}) for one in CAUSAL]


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def output_and_gradients(approximation, inputs, rows=None, **options):
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = approximation(*inputs, **options)
    (grad_output,) = normal(output.shape, seed=7)
    if rows is not None:
        grad_output = grad_output * rows
    return [output, *torch.autograd.grad(output, inputs, grad_output.to(output.dtype))]


# Where they are exact


@pytest.mark.parametrize("lengths", [None, [9, 5], [9, 0]])
def test_linformer_is_exact_with_the_identity_for_its_projections(lengths):
    query, key, value = tokens(9)
    mask = None if lengths is None else masks.padding(lengths)
    seen = kernels.linformer(
        query[..., :7, :], key, value, key_projection=torch.eye(9).double(), mask=mask
    )
    torch.testing.assert_close(seen, attention(query[..., :7, :], key, value, mask=mask))


@pytest.mark.parametrize("lengths", [[9, 9], [9, 5], [1, 2]])
def test_nystrom_is_exact_with_as_many_landmarks_as_tokens(lengths):
    query, key, value = tokens(9)
    mask = masks.padding(lengths)
    exact = attention(query, key, value, mask=mask)
    seen = kernels.nystrom(query, key, value, landmarks=9, iterations=None, mask=mask)
    steps = kernels.nystrom(query, key, value, landmarks=9, iterations=40, mask=mask)
    for entry, length in enumerate(lengths):
        rows = (entry, slice(None), slice(length))
        torch.testing.assert_close(seen[rows], exact[rows], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(steps[rows], exact[rows], rtol=1e-8, atol=1e-8)


def test_steps_of_the_pseudo_inverse_lead_to_the_exact_one():
    query, key, value = tokens(40)
    exact = kernels.nystrom(query, key, value, landmarks=8, iterations=None)
    errors = [
        (kernels.nystrom(query, key, value, landmarks=8, iterations=steps) - exact).norm()
        for steps in (6, 10, 30)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-8 * exact.norm()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("scale", [None, 2000.0])
def test_lsh_with_one_bucket_is_exact(causal, rounds, scale):
    query, _, value = tokens(150)
    options = {"rounds": rounds, "attend_self": True, "causal": causal, "scale": scale}
    seen = kernels.lsh(query, value, buckets=1, **options)
    mask = masks.causal() if causal else None
    exact = attention(query, unit(query), shared(value), mask=mask, scale=scale)
    torch.testing.assert_close(seen, exact)


def shared(value):
    return value.repeat_interleave(2, -3)


def bucket_table(query, rotations, causal, attend_self):
    """Which tokens meet in some round, written out."""
    rotated = torch.einsum("bhld,rde->rbhle", query, rotations)
    bucket = torch.cat([rotated, -rotated], -1).argmax(-1)
    table = (bucket[..., :, None] == bucket[..., None, :]).any(0)
    itself = torch.eye(query.shape[-2], dtype=torch.bool)
    if causal:
        table = table & ~itself.new_ones(itself.shape).triu(1)
    if attend_self:
        return table
    others = table & ~itself
    return others | (itself & ~others.any(-1, keepdim=True))


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("attend_self", [False, True])
def test_lsh_is_exact_attention_to_the_tokens_met_in_any_round(length, causal, attend_self):
    query, _, value = tokens(length)
    (rotations,) = normal((3, 6, 2), seed=1)
    table = bucket_table(query, rotations, causal, attend_self)
    seen = kernels.lsh(
        query,
        value,
        buckets=4,
        rounds=3,
        rotations=rotations,
        causal=causal,
        attend_self=attend_self,
    )
    exact = attention(query, unit(query), shared(value), mask=table)
    torch.testing.assert_close(seen, exact, **TOLERANCE)


def test_lsh_gives_the_same_however_many_rows_at_a_time(monkeypatch):
    inputs = tokens(70)
    expected = output_and_gradients(lsh, inputs, causal=True)
    monkeypatch.setattr(kernels.buckets, "_TOKENS_AT_ONCE", 3 * 140)  # 3 of 8 rows
    for seen, all_at_once in zip(
        output_and_gradients(lsh, inputs, causal=True), expected, strict=True
    ):
        torch.testing.assert_close(seen, all_at_once, rtol=1e-12, atol=1e-12)


def test_no_tokens_give_no_outputs():
    empty = torch.ones(2, 3, 0, 4).double()
    assert kernels.lsh(empty, empty, buckets=4).shape == (2, 3, 0, 4)
    assert favor(empty, *tokens(5, heads=3, kv_heads=3, width=4)[1:]).shape == (2, 3, 0, 3)
    assert (favor(torch.ones(2, 3, 5, 4).double(), empty, empty) == 0).all()
    assert favor(empty, empty, empty, causal=True).shape == (2, 3, 0, 4)


def test_lsh_finds_more_with_more_rounds():
    query, _, value = tokens(100, batch=1, heads=2, kv_heads=1)
    generator = torch.Generator().manual_seed(0)
    errors = [
        kernels.approximation_error(
            kernels.lsh, 3 * query, value, buckets=8, rounds=rounds, generator=generator
        ).error
        for rounds in (1, 4, 16)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * errors[0]


@pytest.mark.parametrize("causal", [False, True])
def test_favor_is_linear_attention_with_positive_features(causal):
    query, key, value = tokens(150)
    projection = drawn(20, 6, like=query)

    def feature_map(x):
        return kernels.positive_features(x, projection)

    linear = kernels.linear_attention(
        query / 6**0.25, key / 6**0.25, value, feature_map=feature_map, causal=causal
    )
    torch.testing.assert_close(favor(query, key, value, causal=causal), linear, **TOLERANCE)


def test_the_last_token_of_causal_favor_sees_everything():
    query, key, value = tokens(70)
    torch.testing.assert_close(
        favor(query, key, value, causal=True)[..., -1, :], favor(query, key, value)[..., -1, :]
    )


# What random features estimate


def test_the_estimate_of_the_exponential_has_no_bias_and_an_error_of_one_over_the_root():
    x, y = normal((1, 8), (1, 8))
    x, y = x / 3, y / 3
    exact = (x @ y.T).exp().item()
    generator = torch.Generator().manual_seed(0)

    def estimates(features):
        for _ in range(1500):
            projection = kernels.orthogonal_projection(
                features, 8, generator=generator, dtype=torch.float64
            )
            fx, fy = (kernels.positive_features(z, projection) for z in (x, y))
            yield (fx @ fy.T).item()

    deviations = []
    for features in (8, 32, 128):
        seen = torch.tensor(list(estimates(features)))
        deviations.append(seen.std().item())
        assert abs(seen.mean().item() - exact) < 4 * deviations[-1] / math.sqrt(1500)
    for fewer, more in pairwise(deviations):
        assert 1.6 < fewer / more < 2.5


def test_orthogonal_rows_estimate_better_than_independent_ones():
    x, y = normal((1, 16), (1, 16))
    x, y = x / 2, y / 2
    generator = torch.Generator().manual_seed(0)

    def deviation(draw):
        seen = []
        for _ in range(1000):
            projection = draw()
            fx, fy = (kernels.positive_features(z, projection) for z in (x, y))
            seen.append((fx @ fy.T).item())
        return torch.tensor(seen).std().item()

    orthogonal = deviation(
        lambda: kernels.orthogonal_projection(16, 16, generator=generator, dtype=torch.float64)
    )
    independent = deviation(lambda: torch.randn(16, 16, generator=generator, dtype=torch.float64))
    assert orthogonal < 0.9 * independent


def test_favor_comes_near_attention_with_many_features():
    query, key, value = tokens(60)
    generator = torch.Generator().manual_seed(0)
    seen = [
        kernels.approximation_error(
            kernels.favor, query / 3, key, value, features=features, generator=generator
        )
        for features in (16, 256, 4096)
    ]
    errors = [one.error for one in seen]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 < 0.3 < seen[-1].mean_of_values


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [30.0, 1e4])
@pytest.mark.parametrize("padded", [0, 4])
def test_favor_is_finite_where_its_exponentials_are_not(causal, size, padded):
    query, key, value = (x.float() for x in tokens(150))
    options = {"causal": causal, "mask": torch.arange(150) >= padded}
    results = output_and_gradients(favor, [query * size, key * size, value], **options)
    assert all(torch.isfinite(x).all() for x in results)
    assert results[0].abs().max() <= value.abs().max() * 1.001


@pytest.mark.parametrize("size", [1.0, 8.0, 30.0])
def test_causal_favor_loses_no_feature_however_long_the_keys_are(size):
    """The last token sees all keys, and without a causal form each feature is scaled by itself."""
    query, key, value = (x.float() for x in tokens(150))
    query, key = query * size, key * size
    causal = favor(query, key, value, causal=True)
    for length in (1, 30, 150):
        upto = (x[..., :length, :] for x in (query, key, value))
        expected = favor(*upto)[..., -1, :]
        torch.testing.assert_close(causal[..., length - 1, :], expected, rtol=1e-2, atol=1e-3)


def test_features_can_be_drawn_again_and_can_be_given():
    query, key, value = tokens(9)

    def drawn(seed):
        return kernels.favor(query, key, value, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    projection = kernels.orthogonal_projection(
        256, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    assert torch.equal(drawn(0), kernels.favor(query, key, value, projection=projection))

    def hashed(seed):
        generator = torch.Generator().manual_seed(seed)
        return kernels.lsh(query, value, buckets=4, generator=generator)

    assert torch.equal(hashed(0), hashed(0))
    assert not torch.equal(hashed(0), hashed(1))


# The future


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("approximation", "key_size"), [(favor, 1.0), (favor, 30.0), (lsh, 1.0)])
def test_a_later_token_leaves_earlier_outputs_as_they_are_bit_for_bit(
    approximation, key_size, dtype
):
    inputs = [x.to(dtype) for x in tokens(140, batch=1, heads=2, kv_heads=1)]
    inputs[1] *= key_size
    output = approximation(*inputs, causal=True)
    for at in (0, 1, 5, 62, 63, 64, 65, 100, 127, 128, 139):
        for size in (0.1, 30.0):
            changed = [x.clone() for x in inputs]
            for x, new in zip(changed, tokens(140, 1, 2, 1, seed=at), strict=True):
                x[..., at:, :] = size * new[..., at:, :].to(dtype)
            seen = approximation(*changed, causal=True)
            assert torch.equal(seen[..., :at, :], output[..., :at, :]), (at, size)
            assert not torch.equal(seen[..., at:, :], output[..., at:, :])


def test_chunks_of_sorted_buckets_would_leak_the_future():
    """Reformer's chunks, cut from the sorted sequence: a later token moves their borders."""
    buckets = torch.tensor([1, 1, 0, 0, 1, 1, 0])

    def seen_by_each(buckets):
        order = buckets.argsort(stable=True)
        chunk = torch.empty_like(order)
        chunk[order] = torch.arange(len(order)) // 3
        near = (chunk[:, None] - chunk).abs() == 0
        return (near & (buckets[:, None] == buckets)).tril()

    changed = buckets.clone()
    changed[6] = 1
    before, after = seen_by_each(buckets), seen_by_each(changed)
    assert not torch.equal(before[:6], after[:6])
    # Whole buckets do not.
    whole, whole_after = ((b[:, None] == b).tril() for b in (buckets, changed))
    assert torch.equal(whole[:6], whole_after[:6])


# Padding


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("approximation", ALL)
def test_poison_in_padded_keys_and_values_reaches_nothing(approximation, poison):
    query, key, value = tokens(9)
    mask = masks.padding([9, 5])
    clean = output_and_gradients(approximation, [query, key, value], mask=mask)
    key[1, :, 5:], value[1, :, 5:] = poison, poison
    poisoned = output_and_gradients(approximation, [query, key, value], mask=mask)
    for seen, expected in zip(poisoned, clean, strict=True):
        assert torch.equal(seen, expected)
        assert torch.isfinite(seen).all()
    assert all((gradient[1, :, 5:] == 0).all() for gradient in clean[2:])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("approximation", ALL)
def test_poison_in_padded_queries_reaches_no_other_query(approximation, poison):
    query, key, value = tokens(9)
    mask = masks.padding([9, 5])
    clean = approximation(query, key, value, mask=mask)
    query[1, :, 5:] = poison
    poisoned = approximation(query, key, value, mask=mask)
    assert torch.equal(poisoned[0], clean[0])
    assert torch.equal(poisoned[1, :, :5], clean[1, :, :5])


def test_nystrom_takes_other_padding_for_queries_than_for_keys():
    query, _, _ = tokens(7)
    _, key, value = tokens(9)
    clean = nystrom(query[:, :, :4], key, value, mask=masks.padding([9, 5]))
    query[:, :, 4:] = torch.nan
    options = {"mask": masks.padding([9, 5]), "query_mask": torch.arange(7) < 4}
    torch.testing.assert_close(nystrom(query, key, value, **options)[:, :, :4], clean)
    assert nystrom(query, key, value, mask=masks.padding([9, 5])).isnan().all()


@pytest.mark.parametrize(("approximation", "options"), FORMS)
def test_padding_changes_nothing_for_what_is_real(approximation, options):
    inputs = tokens(9)
    padded = approximation(*inputs, mask=masks.padding([9, 5]), **options)
    alone = approximation(*(x[1:, :, :5] for x in inputs), **options)
    torch.testing.assert_close(padded[1:, :, :5], alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("approximation", ALL)
def test_a_batch_entry_does_not_depend_on_the_others(approximation):
    inputs = tokens(9)
    larger = [torch.cat([x, 20 * x[:1]]) for x in inputs]
    torch.testing.assert_close(approximation(*larger)[:2], approximation(*inputs), **TOLERANCE)


@pytest.mark.parametrize("approximation", ALL)
def test_nothing_but_padding_gives_zeros(approximation):
    inputs = tokens(9)
    results = output_and_gradients(approximation, inputs, mask=masks.padding([9, 0]))
    assert all((result[1] == 0).all() for result in results)
    assert all(torch.isfinite(result).all() for result in results)
    assert (results[0][0] != 0).all()


@pytest.mark.parametrize("approximation", CAUSAL)
def test_queries_before_the_first_real_key_give_zeros(approximation):
    real = torch.arange(9) >= 4
    results = output_and_gradients(approximation, tokens(9), mask=real, causal=True)
    assert (results[0][..., :4, :] == 0).all()
    assert (results[0][..., 4:, :] != 0).all()
    assert all(torch.isfinite(result).all() for result in results)


def test_padding_may_differ_where_keys_are_shared():
    query, key, value = tokens(9)
    mask = masks.padding([9, 5])
    for approximation in (favor, linformer, nystrom):
        shared_keys = approximation(query, key[:1], value[:1], mask=mask)
        copied = approximation(
            query, *(x[:1].expand(2, -1, -1, -1) for x in (key, value)), mask=mask
        )
        torch.testing.assert_close(shared_keys, copied)


# Shapes and dtypes


@pytest.mark.parametrize("approximation", ALL)
def test_grouped_heads_are_repeated_heads(approximation):
    query, key, value = tokens(9)
    seen = approximation(query, key, value)
    assert seen.shape == (2, 4, 9, 3)
    torch.testing.assert_close(seen, approximation(query, shared(key), shared(value)))


@pytest.mark.parametrize("approximation", ALL)
def test_leading_dimensions_may_be_any_and_none(approximation):
    query, key, value = tokens(9)
    deeper = approximation(query[None, :, None], key[None, :, None], value[:, None])
    torch.testing.assert_close(deeper[0, :, 0], approximation(query, key, value))
    matrices = approximation(query[0, 0], key[0, 0], value[0, 0])
    assert matrices.shape == (9, 3)
    torch.testing.assert_close(matrices, approximation(query, key, value)[0, 0])


@pytest.mark.parametrize(("approximation", "options"), FORMS)
def test_gradients(approximation, options):
    inputs = [x.requires_grad_() for x in tokens(5, batch=1, heads=2, kv_heads=1, width=3)]
    assert torch.autograd.gradcheck(
        lambda *x: approximation(*x, mask=torch.arange(5) < 4, **options), inputs
    )


def plain_favor(query, key, value):
    """The formula, with nothing done for precision; the others are too."""
    width = query.shape[-1] ** 0.25
    projection = drawn(20, query.shape[-1], like=query)
    rows, keys = (kernels.positive_features(x / width, projection) for x in (query, key))
    weights = rows @ keys.mT
    return weights @ value / weights.sum(-1, keepdim=True)


def plain_linformer(query, key, value):
    mix = drawn(4, 50, like=query)[:, : key.shape[-2]]
    return (query @ (mix @ key).mT / query.shape[-1] ** 0.5).softmax(-1) @ (mix @ value)


def plain_nystrom(query, key, value):
    query = query / query.shape[-1] ** 0.5
    rows, keys = (x.unflatten(-2, (3, -1)).mean(-2) for x in (query, key))
    matrix = (rows @ keys.mT).softmax(-1)
    inverse = matrix.mT / matrix.sum(-2).amax(-1)[..., None, None]
    eye = torch.eye(3, dtype=query.dtype)
    for _ in range(6):
        step = matrix @ inverse
        inverse = inverse @ (13 * eye - step @ (15 * eye - step @ (7 * eye - step))) / 4
    return (query @ keys.mT).softmax(-1) @ (inverse @ ((rows @ key.mT).softmax(-1) @ value))


def plain_lsh(query, key, value):
    query = query + key
    rotations = drawn(2, query.shape[-1], 2, like=query)
    table = bucket_table(query.double(), rotations.double(), causal=False, attend_self=False)
    scores = query @ unit(query).mT / query.shape[-1] ** 0.5
    return scores.masked_fill(~table, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("approximation", "plain"),
    [
        (favor, plain_favor),
        (linformer, plain_linformer),
        (nystrom, plain_nystrom),
        (lsh, plain_lsh),
    ],
)
def test_half_precision_is_as_exact_as_the_plain_formula(approximation, plain, dtype):
    query, key, value = (x.to(dtype) for x in tokens(48, heads=2))
    if approximation is lsh:
        key = torch.zeros_like(key)  # so that the sum is not rounded
    inputs = [query, key, value]
    exact = output_and_gradients(plain, [x.double() for x in inputs])
    ours, allowed = (
        [
            (x.double() - y).abs().max().item()
            for x, y in zip(output_and_gradients(compute, inputs), exact, strict=True)
        ]
        for compute in (approximation, plain)
    )
    for seen, error in zip(ours, allowed, strict=True):
        assert error > 0
        assert seen <= 2 * error


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("approximation", [favor, nystrom, nystrom_exact_pinv, lsh])
def test_half_precision_is_single_precision_rounded_once(approximation, dtype):
    query, key, value = (x.to(dtype) for x in tokens(9))
    if approximation is lsh:
        key = torch.zeros_like(key)
    half = approximation(query, key, value)
    assert half.dtype == dtype
    single = approximation(query.float(), key.float(), value.float())
    assert torch.equal(half, single.to(dtype))


@pytest.mark.parametrize("approximation", ALL)
def test_autocast_does_not_round_what_is_computed_in_single_precision(approximation):
    inputs = [x.float() for x in tokens(9)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = approximation(*inputs)
    if approximation is not linformer:  # which computes in the dtype it is given
        torch.testing.assert_close(seen, approximation(*inputs), rtol=1e-5, atol=1e-5)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_any_lengths_and_heads(q_len, k_len, group, kv_heads, padded, seed):
    query, key, value = normal(
        (2, group * kv_heads, q_len, 4),
        (2, kv_heads, k_len, 4),
        (2, kv_heads, k_len, 3),
        seed=seed,
    )
    mask = masks.padding([k_len, seed % (k_len + 1)]) if padded else None
    landmarks = 1 + seed % min(q_len, k_len)
    outputs = [
        favor(query, key, value, mask=mask),
        linformer(query, key, value, mask=mask),
        kernels.nystrom(query, key, value, landmarks=landmarks, mask=mask),
    ]
    if q_len == k_len:
        outputs += [lsh(query, key, value, mask=mask), favor(query, key, value, causal=True)]
    for output in outputs:
        assert output.shape == (2, group * kv_heads, q_len, 3)
        assert torch.isfinite(output).all()


# How far they are from exact attention


def test_the_error_of_exact_attention_is_zero_and_that_of_zeros_is_one():
    query, key, value = tokens(30)
    for options in ({}, {"scale": 0.3}, {"mask": masks.padding([30, 12])}):
        seen = kernels.approximation_error(attention, query, key, value, **options)
        assert seen.error == 0
        assert seen.mean_of_values > 0.1
    zeros = kernels.approximation_error(lambda q, k, v: torch.zeros_like(q[..., :3]), *tokens(30))
    assert zeros.error == 1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "mask", [None, masks.padding([30, 12]), torch.arange(30) < 20], ids=["all", "mask", "tensor"]
)
def test_the_errors_are_those_of_the_outputs_written_out(causal, mask):
    query, key, value = tokens(30)
    real = torch.ones(1, 1, 1, 30, dtype=torch.bool)
    if isinstance(mask, torch.Tensor):
        real = mask
    elif mask is not None:
        real = mask.dense(1, 30)
    table = torch.ones(30, 30, dtype=torch.bool).tril() if causal else True
    table = (real & table).expand(2, 4, 30, 30)
    exact = attention(query, key, value, mask=table, scale=0.3)
    mean = table.double() @ shared(value) / table.sum(-1, keepdim=True)
    options = {"causal": causal, "mask": mask, "scale": 0.3}
    seen = kernels.approximation_error(favor, query, key, value, **options)
    estimate = favor(query, key, value, **options)
    assert seen.error == pytest.approx(((estimate - exact).norm() / exact.norm()).item())
    assert seen.mean_of_values == pytest.approx(((mean - exact).norm() / exact.norm()).item())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("attend_self", [False, True])
def test_the_error_of_lsh_is_measured_with_queries_as_keys(causal, attend_self):
    query, _, value = tokens(30)
    options = {"causal": causal, "attend_self": attend_self}
    table = torch.ones(30, 30, dtype=torch.bool)
    table = table.tril() if causal else table
    if not attend_self:
        table = table & ~torch.eye(30, dtype=torch.bool)
        table[0, 0] = causal
    exact = attention(query, unit(query), shared(value), mask=table)
    mean = table.double() @ shared(value) / table.sum(-1, keepdim=True)
    (rotations,) = normal((2, 6, 2), seed=1)
    options |= {"buckets": 4, "rounds": 2, "rotations": rotations}
    seen = kernels.approximation_error(kernels.lsh, query, value, **options)
    error = (kernels.lsh(query, value, **options) - exact).norm() / exact.norm()
    assert seen.error == pytest.approx(error.item())
    assert seen.mean_of_values == pytest.approx(((mean - exact).norm() / exact.norm()).item())


def test_options_inside_a_partial_hold_for_exact_attention_too():
    inputs = tokens(30)
    inside = partial(favor, causal=True, scale=0.2)
    seen = kernels.approximation_error(inside, *inputs, mask=masks.padding([30, 12]))
    options = {"causal": True, "scale": 0.2, "mask": masks.padding([30, 12])}
    assert seen == kernels.approximation_error(favor, *inputs, **options)


def test_an_error_prints_beside_the_trivial_one():
    error = kernels.ApproximationError(error=0.1234, mean_of_values=0.85)
    assert str(error) == "error 0.12, mean of the values 0.85"
