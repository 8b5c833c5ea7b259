"""A query that may attend nothing gives exact zeros, and what is masked reaches nothing.

Masking by a large negative number fails here, and so does zeroing a NaN after the softmax.
"""

from functools import partial

import pytest
import torch

from attn_core import attention, kernels, masks, normalizers, scores

pytestmark = pytest.mark.filterwarnings("ignore:Anomaly Detection")
KERNELS = ["explicit", "sdpa", "chunked"]


def plain_softmax(scores, dim):
    return torch.softmax(scores, dim)


def scaled_softplus(scores, dim):
    """A normaliser of somebody else's, whose rows do not even sum to 1."""
    return torch.nn.functional.softplus(scores) / scores.shape[dim]


NORMALIZERS = [
    None,
    normalizers.softmax,
    normalizers.sparsemax,
    normalizers.hard,
    partial(normalizers.softmax, temperature=0.5),
    normalizers.softmax_with_sink,
    normalizers.entmax15,
    partial(normalizers.entmax, alpha=1.2),
    normalizers.sigmoid,
    plain_softmax,
    scaled_softplus,
]
KERNELS_AND_NORMALIZERS = [
    *((kernel, normalizer) for kernel in KERNELS for normalizer in NORMALIZERS[:2]),
    *(("explicit", normalizer) for normalizer in NORMALIZERS[2:]),
]
# The queries 0 of the first and 2 of the second batch entry may attend nothing; nobody may attend
# the keys 3 and 4 of the second.
TABLE = torch.ones(2, 1, 3, 5, dtype=torch.bool)
TABLE[0, 0, 0] = False
TABLE[1, 0, 2] = False
TABLE[1, 0, :, 3:] = False
GROUPS = {"one head each": (4, 4), "grouped": (4, 2), "one key head": (4, 1)}


def normal(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def query_key_value(heads=(4, 2), dtype=torch.float64):
    return normal((2, heads[0], 3, 6), (2, heads[1], 5, 6), (2, heads[1], 5, 2), dtype=dtype)


def output_and_gradients(query, key, value, **options):
    """Output, weights and the gradients of query, key, value and bias (if there is one)."""
    inputs = [x.clone().requires_grad_() for x in (query, key, value)]
    if options.get("bias") is not None:
        options["bias"] = options["bias"].clone().requires_grad_()
        inputs.append(options["bias"])
    output, weights = attention(*inputs[:3], **options, return_weights=True)
    (grad_output,) = normal(output.shape, seed=7, dtype=output.dtype)
    with torch.autograd.detect_anomaly(check_nan=True):
        gradients = torch.autograd.grad(output, inputs, grad_output)
    return [output, weights, *gradients]


@pytest.mark.parametrize("heads", GROUPS.values(), ids=GROUPS.keys())
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("kernel", "normalizer"), KERNELS_AND_NORMALIZERS)
def test_a_query_that_may_attend_nothing_gives_exact_zeros(kernel, normalizer, biased, heads):
    bias = normal((2, 4, 3, 5))[0] if biased else None
    with kernels.use(kernel):
        output, weights, *gradients = output_and_gradients(
            *query_key_value(heads), mask=TABLE, bias=bias, normalizer=normalizer
        )
    for entry, row in [(0, 0), (1, 2)]:
        assert (output[entry, :, row] == 0).all()
        assert (weights[entry, :, row] == 0).all()
        assert (gradients[0][entry, :, row] == 0).all()
        if biased:
            assert (gradients[3][entry, :, row] == 0).all()
    others = output[TABLE.any(-1).expand(2, 4, 3)]
    assert (others != 0).all()
    assert (gradients[1][1, :, 3:] == 0).all()
    assert (gradients[2][1, :, 3:] == 0).all()
    assert all(torch.isfinite(x).all() for x in (output, weights, *gradients))


@pytest.mark.parametrize("heads", GROUPS.values(), ids=GROUPS.keys())
@pytest.mark.parametrize(("kernel", "normalizer"), KERNELS_AND_NORMALIZERS)
def test_a_query_without_keys_has_no_influence_on_the_others(kernel, normalizer, heads):
    query, key, value = query_key_value(heads)
    keep = [1, 2]
    with kernels.use(kernel):
        all_rows = output_and_gradients(
            query[:1], key[:1], value[:1], mask=TABLE[:1], normalizer=normalizer
        )
        output, weights = attention(
            query[:1, :, keep],
            key[:1],
            value[:1],
            mask=TABLE[:1, :, keep],
            normalizer=normalizer,
            return_weights=True,
        )
    torch.testing.assert_close(all_rows[0][:, :, keep], output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(all_rows[1][:, :, keep], weights, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "normalizer"), KERNELS_AND_NORMALIZERS)
@pytest.mark.parametrize(
    "mask",
    [
        masks.dense(torch.zeros(3, 5, dtype=torch.bool)),
        masks.padding([0, 0]),
        masks.causal() & ~masks.causal(),
        torch.zeros(1, 1, dtype=torch.bool),
    ],
    ids=["table", "padding", "contradiction", "one False for all"],
)
def test_when_everything_is_masked_everything_is_zero(kernel, normalizer, mask):
    with kernels.use(kernel):
        for result in output_and_gradients(
            *query_key_value(), mask=mask, normalizer=normalizer, q_offset=0
        ):
            assert (result == 0).all()


@pytest.mark.parametrize(("kernel", "normalizer"), KERNELS_AND_NORMALIZERS)
def test_a_bias_of_minus_infinity_masks_too(kernel, normalizer):
    bias = torch.zeros(2, 1, 3, 5, dtype=torch.float64).masked_fill(~TABLE, -torch.inf)
    with kernels.use(kernel):
        by_bias = output_and_gradients(*query_key_value(), bias=bias, normalizer=normalizer)
        by_mask = output_and_gradients(*query_key_value(), mask=TABLE, normalizer=normalizer)
        by_both = output_and_gradients(
            *query_key_value(), bias=bias, mask=TABLE, normalizer=normalizer
        )
    for one, two, three in zip(by_bias, by_mask, by_both, strict=False):
        assert torch.equal(two, three)
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    assert (by_bias[3 + 2][~TABLE] == 0).all()


@pytest.mark.parametrize("biased", [False, True])
def test_the_fused_kernel_is_never_asked_about_a_query_that_may_attend_nothing(monkeypatch, biased):
    """What it answers depends on the backend: NaN, zeros or the mean of the values."""
    asked = []

    def watched(*tensors, attn_mask, **options):
        asked.append(attn_mask if attn_mask.dtype == torch.bool else attn_mask > -torch.inf)
        return torch.nn.functional.scaled_dot_product_attention(
            *tensors, attn_mask=attn_mask, **options
        )

    monkeypatch.setattr(kernels.sdpa, "scaled_dot_product_attention", watched)
    bias = torch.zeros(3, 5, dtype=torch.float64) if biased else None
    with kernels.use("sdpa"):
        attention(*query_key_value(), mask=TABLE, bias=bias)
    assert len(asked) == 1
    assert asked[0].any(-1).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_mask_and_a_bias_can_together_leave_nothing(kernel):
    mask = torch.tensor([[True, True, False]])
    bias = torch.tensor([[-torch.inf, -torch.inf, 0.0]])
    query, key, value = normal((1, 4), (3, 4), (3, 2), dtype=torch.float32)
    with kernels.use(kernel):
        for result in output_and_gradients(query, key, value, mask=mask, bias=bias):
            assert (result == 0).all()


POISONED_MASKS = {
    "table": TABLE,
    "padding": masks.padding([5, 3]),
    "causal and padding": masks.causal() & masks.padding([5, 3]),
    "per head": TABLE.expand(2, 4, 3, 5).clone(),
    "one head sees less": TABLE.expand(2, 4, 3, 5).logical_and(
        torch.tensor([True, True, True, False])[:, None, None]
    ),
    "window before the end": masks.window(1, 0) & masks.dense(TABLE),
}


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("heads", GROUPS.values(), ids=GROUPS.keys())
@pytest.mark.parametrize("mask", POISONED_MASKS.values(), ids=POISONED_MASKS.keys())
@pytest.mark.parametrize(("kernel", "normalizer"), KERNELS_AND_NORMALIZERS)
def test_poison_in_masked_keys_and_values_reaches_nothing(kernel, normalizer, mask, heads, poison):
    query, key, value = query_key_value(heads)
    bias = normal((3, 5), seed=3)[0]
    options = {"mask": mask, "bias": bias, "normalizer": normalizer, "q_offset": 1}
    with kernels.use(kernel):
        clean = output_and_gradients(query, key, value, **options)
        key[1, :, 3:], value[1, :, 3:] = poison, poison
        poisoned = output_and_gradients(query, key, value, **options)
    for seen, expected in zip(poisoned, clean, strict=True):
        assert torch.equal(seen, expected)
        assert torch.isfinite(seen).all()


@pytest.mark.parametrize(
    "score", [None, scores.dot, scores.scaled_dot, scores.cosine, "bilinear", "additive"]
)
def test_poison_reaches_nothing_with_any_score(score):
    torch.manual_seed(0)
    score = {
        "bilinear": scores.Bilinear(6, 6).double(),
        "additive": scores.Additive(6, 6, 4).double(),
    }.get(score, score)
    parameters = list(score.parameters()) if isinstance(score, torch.nn.Module) else []
    results = []
    for poison in (0.5, torch.nan, torch.inf):
        query, key, value = (x.requires_grad_() for x in query_key_value())
        with torch.no_grad():
            key[1, :, 3:], value[1, :, 3:], query[0, :, 0] = poison, poison, poison
        output = attention(query, key, value, mask=TABLE, score=score)
        gradients = torch.autograd.grad(output.sum(), [query, key, value, *parameters])
        results.append([output, *gradients])
    for seen in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(seen, results[0], strict=True))
        assert all(torch.isfinite(x).all() for x in seen)


@pytest.mark.parametrize("kernel", KERNELS)
def test_poison_beyond_the_first_keys_is_masked_by_causal_alone(kernel):
    query, key, value = normal((3, 4), (5, 4), (5, 2))
    with kernels.use(kernel):
        clean = output_and_gradients(query, key, value, mask=masks.causal(), q_offset=0)
        key[3:], value[3:] = torch.nan, torch.inf
        poisoned = output_and_gradients(query, key, value, mask=masks.causal(), q_offset=0)
    assert all(torch.equal(x, y) for x, y in zip(poisoned, clean, strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_poison_is_masked_per_batch_entry_of_shared_keys(kernel):
    """One key for both batch entries: it counts for the entry that may attend it."""
    query, key, value = normal((2, 1, 3, 4), (5, 4), (5, 2))
    with kernels.use(kernel):
        clean = attention(query, key, value, mask=masks.padding([3, 5]))
        value[4] = torch.nan
        poisoned = attention(query, key, value, mask=masks.padding([3, 5]))
    assert torch.equal(poisoned[0], clean[0])
    assert poisoned[1].isnan().all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_poison_in_a_query_that_attends_nothing_reaches_nothing(kernel):
    query, key, value = query_key_value()
    with kernels.use(kernel):
        clean = output_and_gradients(query, key, value, mask=TABLE)
        query[0, :, 0], query[1, :, 2] = torch.nan, torch.inf
        poisoned = output_and_gradients(query, key, value, mask=TABLE)
    assert all(torch.equal(x, y) for x, y in zip(poisoned, clean, strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_poison_in_the_bias_of_masked_pairs_reaches_nothing(kernel):
    bias = normal((2, 1, 3, 5), seed=3)[0]
    with kernels.use(kernel):
        clean = output_and_gradients(*query_key_value(), mask=TABLE, bias=bias)
        bias = bias.masked_fill(~TABLE, torch.nan)
        poisoned = output_and_gradients(*query_key_value(), mask=TABLE, bias=bias)
    assert all(torch.equal(x, y) for x, y in zip(poisoned, clean, strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_poison_that_may_be_attended_is_not_hidden(kernel):
    query, key, value = query_key_value()
    value[0, 0, 1, 0] = torch.nan
    with kernels.use(kernel):
        assert attention(query, key, value, mask=TABLE)[0, :2, 1:, 0].isnan().all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padded", [(0, 4), (3, 0), (0, 0)], ids=str)
def test_no_queries_give_no_rows_and_no_keys_give_zeros(kernel, padded):
    queries, keys = padded
    query, key, value = normal((2, 4, queries, 6), (2, 2, keys, 6), (2, 2, keys, 3))
    query.requires_grad_()
    for mask in (None, masks.padding([0, 0]), masks.causal()):
        fixed = kernels.use(kernel) if keys else kernels.use("explicit")
        with fixed:
            output, weights = attention(
                query, key, value, mask=mask, q_offset=0, return_weights=True
            )
        assert output.shape == (2, 4, queries, 3)
        assert weights.shape == (2, 4, queries, keys)
        assert (output == 0).all()
        (gradient,) = torch.autograd.grad(output.sum(), query)
        assert (gradient == 0).all()
    assert attention(query, key, value).shape == (2, 4, queries, 3)


@pytest.mark.parametrize("normalizer", NORMALIZERS[1:9])
def test_no_keys_give_zeros_with_every_normalizer(normalizer):
    query, key, value = normal((3, 6), (0, 6), (0, 2))
    assert torch.equal(
        attention(query, key, value, normalizer=normalizer),
        torch.zeros(3, 2, dtype=torch.float64),
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_empty_batch_gives_an_empty_batch(kernel):
    query, key, value = normal((0, 4, 3, 6), (0, 2, 5, 6), (0, 2, 5, 3))
    with kernels.use(kernel):
        assert attention(query, key, value, mask=TABLE[:1]).shape == (0, 4, 3, 3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_long_row_whose_first_thousand_keys_are_masked(kernel):
    """Kernels that read keys in blocks meet blocks of nothing before they meet a key."""
    query, key, value = normal((1, 3, 8), (1, 1500, 8), (1, 1500, 4))
    mask = torch.zeros(3, 1500, dtype=torch.bool)
    mask[0, 1200:] = mask[1, 700:705] = True
    with kernels.use(kernel):
        seen = attention(query, key, value, mask=mask)
    for row, keys in [(0, slice(1200, None)), (1, slice(700, 705))]:
        alone = attention(query[:, row : row + 1], key[:, keys], value[:, keys])
        torch.testing.assert_close(seen[:, row : row + 1], alone, rtol=1e-10, atol=1e-10)
    assert (seen[:, 2] == 0).all()
