"""Half precision is held to flash-attn's rule.

The error against float64 is at most twice that of the plain formula in the same half precision.
"""

import pytest
import torch
from small_blocks import small_blocks

from attn_core import attention, kernels, masks, normalizers, scores

KERNELS = ["explicit", "sdpa", "chunked"]
HALVES = [torch.float16, torch.bfloat16]


def normal(*shapes, seed=0, dtype):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def plain(query, key, value, table, bias):
    """The formula, with nothing done for precision."""
    group = query.shape[-3] // key.shape[-3]
    key, value = (x.repeat_interleave(group, -3) for x in (key, value))
    products = query @ key.mT / query.shape[-1] ** 0.5 + bias
    return products.masked_fill(~table, -torch.inf).softmax(-1) @ value


def errors(compute, inputs, exact):
    moved = [x.clone().requires_grad_() for x in inputs]
    output = compute(*moved)
    results = [output, *torch.autograd.grad(output.sum(), moved)]
    return [(x.double() - y).abs().max().item() for x, y in zip(results, exact, strict=True)]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mask", [None, masks.causal(), masks.window(9, 9)], ids=repr)
@pytest.mark.parametrize("size", [1.0, 4.0], ids=["usual scores", "large scores"])
def test_half_precision_is_as_exact_as_the_plain_formula(kernel, dtype, mask, size):
    query, key, value, bias = normal(
        (2, 4, 70, 32), (2, 2, 70, 32), (2, 2, 70, 16), (70, 70), dtype=dtype
    )
    inputs = [query * size, key, value, bias]
    table = torch.ones(70, 70, dtype=torch.bool) if mask is None else mask.dense(70, 70)
    doubles = [x.double().requires_grad_() for x in inputs]
    exact = plain(*doubles[:3], table, doubles[3])
    exact = [exact.detach(), *torch.autograd.grad(exact.sum(), doubles)]

    allowed = errors(lambda q, k, v, b: plain(q, k, v, table, b), inputs, exact)
    with kernels.use(kernel):
        ours = errors(lambda q, k, v, b: attention(q, k, v, mask=mask, bias=b), inputs, exact)
    for seen, plain_error in zip(ours, allowed, strict=True):
        assert plain_error > 0
        assert seen <= 2 * plain_error


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kernel", ["banded", "chunked"])
@pytest.mark.parametrize("mask", [masks.window(9, 9), masks.window(9, 0)], ids=repr)
@pytest.mark.parametrize("size", [1.0, 4.0], ids=["usual scores", "large scores"])
def test_sums_over_blocks_are_as_exact_as_the_plain_formula(kernel, dtype, mask, size):
    """The gradient of a key comes from several blocks, and so does an output of chunks."""
    query, key, value, bias = normal(
        (2, 4, 70, 32), (2, 2, 70, 32), (2, 2, 70, 16), (1, 70), dtype=dtype
    )
    inputs = [query * size, key, value, bias]
    doubles = [x.double().requires_grad_() for x in inputs]
    exact = plain(*doubles[:3], mask.dense(70, 70), doubles[3])
    exact = [exact.detach(), *torch.autograd.grad(exact.sum(), doubles)]
    allowed = errors(lambda q, k, v, b: plain(q, k, v, mask.dense(70, 70), b), inputs, exact)
    with small_blocks(8, 8), kernels.use(kernel):
        ours = errors(lambda q, k, v, b: attention(q, k, v, mask=mask, bias=b), inputs, exact)
    assert all(seen <= 2 * plain_error for seen, plain_error in zip(ours, allowed, strict=True))


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [1.0, 4.0], ids=["usual scores", "large scores"])
def test_flex_in_half_precision_is_as_exact_as_the_plain_formula(dtype, size):
    query, key, value, bias = normal((2, 4, 70, 32), *[(2, 2, 70, 32)] * 2, (70, 70), dtype=dtype)
    query, table = query * size, masks.window(9, 9).dense(70, 70)
    exact = plain(*(x.double() for x in (query, key, value)), table, bias.double())
    allowed = (plain(query, key, value, table, bias).double() - exact).abs().max()
    with kernels.use("flex"):
        seen = attention(query, key, value, mask=masks.window(9, 9), bias=bias)
    assert (seen.double() - exact).abs().max() <= 2 * allowed


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_mask_never_overflows_and_never_swallows_a_real_score(kernel, dtype):
    """Scores near −60,000 are real in float16, and below a stand-in such as −1e4."""
    query = torch.tensor([[[240.0]], [[240.0]]], dtype=dtype)
    key = torch.tensor([[-248.0], [-250.0], [100.0]], dtype=dtype)
    table = torch.tensor([[[True, True, False]], [[False, False, False]]])
    value = torch.eye(3, dtype=dtype)
    with kernels.use(kernel):
        output = attention(query, key, value, mask=table, scale=1.0)
    assert torch.equal(output[0], torch.tensor([[1.0, 0, 0]], dtype=dtype))
    assert torch.equal(output[1], torch.zeros(1, 3, dtype=dtype))


@pytest.mark.parametrize(
    ("kernel", "normalizer"),
    [
        ("explicit", None),
        ("explicit", normalizers.sparsemax),
        ("explicit", normalizers.sigmoid),
        ("banded", normalizers.entmax15),
        ("sdpa", None),
        ("chunked", None),
    ],
)
def test_a_product_out_of_range_is_no_score_out_of_range(kernel, normalizer):
    """30 · 30 · 128 = 115,200 is infinite in float16; the score, 10,182, is not."""
    query, key = torch.full((2, 3, 128), 30.0), torch.full((2, 3, 128), 30.0)
    key[:, 1] -= 0.25
    value = torch.eye(3).expand(2, 3, 3)
    options = {"mask": masks.window(2, 2), "normalizer": normalizer}
    with kernels.use(kernel):
        exact = attention(query, key, value, **options)
        inputs = [x.half().requires_grad_() for x in (query, key, value)]
        output, weights = attention(*inputs, **options, return_weights=True)
        gradients = torch.autograd.grad(output.float().square().sum(), inputs)
    torch.testing.assert_close(output.float(), exact, rtol=0, atol=1e-3)
    torch.testing.assert_close(weights.float() @ value, exact, rtol=0, atol=1e-3)
    assert all(torch.isfinite(x).all() for x in gradients)


def test_scaled_scores_stay_in_range_and_keep_their_digits():
    query, key = normal((5, 128), (6, 128), dtype=torch.float16)
    for size in (1.0, 25.0):
        exact = query.double() * size @ key.double().T / 128**0.5
        seen = scores.scaled_dot(query * size, key)
        assert (seen - exact).abs().max() <= 2 * torch.finfo(torch.float16).eps * exact.abs().max()
    large = torch.full((1, 128), 30.0, dtype=torch.float16)
    assert scores.scaled_dot(large, large).item() == pytest.approx(900 * 128**0.5, rel=1e-3)
    tiny = attention(query, key, torch.eye(6).half(), scale=1e-6)
    torch.testing.assert_close(tiny, torch.full((5, 6), 1 / 6).half(), rtol=1e-3, atol=0)


def test_linformer_stays_in_range():
    x = torch.full((2, 128), 30.0, dtype=torch.float16)
    output = kernels.linformer(x, x, x, key_projection=torch.eye(2).half())
    assert torch.equal(output, x)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("normalizer", [normalizers.sparsemax, normalizers.softmax])
def test_normalizers_sum_to_one_as_well_as_the_dtype_can(dtype, normalizer):
    (rows,) = normal((50, 300), dtype=dtype)
    sums = normalizer(rows * 3).double().sum(-1)
    assert (sums - 1).abs().max() <= 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [1.0, 0.001], ids=["few weights", "thousands of weights"])
def test_sparsemax_in_half_precision_is_sparsemax_of_the_same_numbers_rounded(dtype, size):
    (rows,) = normal((20, 2000), dtype=dtype)
    rows = rows * size
    exact = normalizers.sparsemax(rows.double())
    seen = normalizers.sparsemax(rows)
    assert seen.dtype == dtype
    assert (seen.double() - exact).abs().max() <= torch.finfo(dtype).eps * exact.max()


@pytest.mark.parametrize("dtype", HALVES)
def test_the_cosine_survives_long_short_and_zero_vectors(dtype):
    directions = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    for length in (1e-5, 1.0, 1e4):
        vectors = (directions * length).to(dtype).expand(2, 4)
        cosines = scores.cosine(vectors, vectors.clone())
        assert (cosines.double() - 1).abs().max() < 0.05
    zero = torch.zeros(1, 4, dtype=dtype, requires_grad=True)
    cosine = scores.cosine(zero, directions.to(dtype))
    cosine.sum().backward()
    assert (cosine == 0).all()
    assert torch.isfinite(zero.grad).all()
