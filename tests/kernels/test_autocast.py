"""Under autocast every kernel takes what PyTorch's own attention takes there, and gives its dtype.

That is: query, key, value and bias in whatever precision they come; the output in half precision.
"""

from functools import partial

import pytest
import torch
from small_blocks import small_blocks

from attn_core import attention, kernels, masks, normalizers, positions, scores

HALF = torch.bfloat16
LENGTH = 20


def normal(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def mixed_precision():
    return torch.autocast("cpu", dtype=HALF)


def assert_near_single(tensors, options, kernel):
    """Compare with single precision: output, dtype, and gradients of everything learned."""
    learned = [*tensors]
    bias = options.get("bias")
    if isinstance(bias, torch.Tensor):
        learned.append(bias)
    if isinstance(bias, torch.nn.Module):
        learned.extend(bias.parameters())
    with kernels.use("explicit"):
        exact = attention(*tensors, **options)
        exact_gradients = torch.autograd.grad(exact.square().sum(), learned)
    with kernels.use(kernel), small_blocks(6, 7):
        for dtypes in [(torch.float32,) * 3, (HALF, torch.float32, torch.float32), (HALF,) * 3]:
            with mixed_precision():
                output = attention(
                    *(x.to(dtype) for x, dtype in zip(tensors, dtypes, strict=True)), **options
                )
            assert output.dtype == HALF
            torch.testing.assert_close(output.float(), exact, rtol=0, atol=0.05)
            gradients = torch.autograd.grad(output.float().square().sum(), learned)
            for x, seen, expected in zip(learned, gradients, exact_gradients, strict=True):
                assert seen.dtype == x.dtype
                torch.testing.assert_close(
                    seen, expected, rtol=0, atol=0.05 * max(1.0, expected.abs().max().item())
                )


BIASES = {
    "none": lambda: None,
    "ALiBi": lambda: positions.ALiBi(4),
    "T5": lambda: positions.T5Bias(4),
    "Shaw": lambda: positions.ShawBias(8, max_distance=3),
    "Transformer-XL": lambda: positions.TransformerXLBias(4, head_dim=8, dim=32),
    "tensor": lambda: normal((4, 1, LENGTH), seed=5)[0].requires_grad_(),
}


@pytest.mark.parametrize("kernel", ["explicit", "sdpa", "banded", "chunked"])
@pytest.mark.parametrize("bias", BIASES)
def test_every_kernel_takes_any_precision_and_gives_half(kernel, bias):
    torch.manual_seed(0)
    tensors = [
        x.requires_grad_() for x in normal((2, 4, LENGTH, 8), *[(2, 2, LENGTH, 8)] * 2, seed=1)
    ]
    assert_near_single(tensors, {"mask": masks.window(5, 0), "bias": BIASES[bias]()}, kernel)


@pytest.mark.parametrize("kernel", ["explicit", "banded", "chunked"])
def test_a_sink_that_is_learned_may_stay_in_single_precision(kernel):
    tensors = [x.requires_grad_() for x in normal(*[(2, 4, LENGTH, 8)] * 3)]
    sink = torch.full((4, 1, 1), 0.5, requires_grad=True)
    normalizer = partial(normalizers.softmax_with_sink, sink=sink)
    assert_near_single(tensors, {"mask": masks.window(5, 0), "normalizer": normalizer}, kernel)


@pytest.mark.parametrize(
    "normalizer", [normalizers.sparsemax, normalizers.entmax15, normalizers.sigmoid]
)
@pytest.mark.parametrize("kernel", ["explicit", "banded"])
def test_other_normalizers_do_too(normalizer, kernel):
    tensors = [x.requires_grad_() for x in normal(*[(2, 4, LENGTH, 8)] * 3)]
    assert_near_single(tensors, {"mask": masks.window(5, 0), "normalizer": normalizer}, kernel)


@pytest.mark.parametrize("score", [scores.Bilinear(8, 8), scores.Additive(8, 8, 4), scores.cosine])
def test_scores_do_too(score):
    tensors = [x.requires_grad_() for x in normal(*[(2, 4, LENGTH, 8)] * 3)]
    assert_near_single(tensors, {"mask": masks.causal(), "score": score, "scale": 0.3}, "explicit")


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_does_too():
    query, key, value, bias = normal(*[(1, 2, LENGTH, 16)] * 3, (LENGTH, LENGTH))
    exact = attention(query, key, value, bias=bias)
    with kernels.use("flex"), mixed_precision():
        output = attention(query.to(HALF), key, value, bias=bias)
    assert output.dtype == HALF
    torch.testing.assert_close(output.float(), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("options", [{"bias": positions.ALiBi(2)}, {"softcap": 5.0}, {}])
def test_dtype_and_weights_do_not_depend_on_the_length(options):
    """On both sides of the lengths from which on another kernel runs."""
    ran = set()
    for length in (16, 800):
        query, key, value = normal(*[(1, 2, length, 8)] * 3)
        with mixed_precision():
            ran.add(kernels.which(query, key, value, mask=masks.causal(), **options).kernel)
            output, weights = attention(
                query, key, value, mask=masks.causal(), **options, return_weights=True
            )
        assert (output.dtype, weights.dtype) == (HALF, HALF)
    assert len(ran) == (2 if options else 1)


def test_double_precision_stays_double_as_in_pytorch():
    query, key, value = (x.double() for x in normal(*[(1, 2, 9, 8)] * 3))
    for kernel in ("sdpa", "chunked"):
        with kernels.use(kernel), mixed_precision():
            output = attention(query, key, value)
        assert output.dtype == torch.float64


@pytest.mark.parametrize("kernel", ["explicit", "sdpa", "chunked"])
def test_without_autocast_a_bias_of_another_precision_is_refused(kernel):
    x, bias = torch.ones(1, 2, 3, 4, dtype=HALF), torch.zeros(3, 3)
    with kernels.use(kernel), pytest.raises(TypeError, match=r"bias has dtype torch\.float32"):
        attention(x, x, x, bias=bias)


APPROXIMATIONS = {
    "linear": kernels.linear_attention,
    "delta": lambda q, k, v: kernels.delta_rule(q, k / k.norm(dim=-1, keepdim=True), v, beta=0.5),
    "favor": lambda q, k, v: kernels.favor(
        q, k, v, features=32, generator=torch.Generator().manual_seed(0)
    ),
    "nystrom": lambda q, k, v: kernels.nystrom(q, k, v, landmarks=5),
    "linformer": lambda q, k, v: kernels.linformer(q, k, v, key_projection=torch.ones(3, LENGTH)),
    "lsh": lambda q, k, v: kernels.lsh(q, v, buckets=2, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_approximations_take_tensors_of_different_precision(name):
    query, key, value = normal(*[(2, 4, LENGTH, 8)] * 3)
    exact = APPROXIMATIONS[name](query, key, value)
    with mixed_precision():
        seen = APPROXIMATIONS[name](query.to(HALF), key, value)
    torch.testing.assert_close(seen.float(), exact, rtol=0, atol=0.1 * exact.abs().max().item())


def test_the_meta_device_knows_no_autocast():
    x = torch.ones(2, 3, 4, device="meta")
    with mixed_precision():
        assert attention(x, x, x, mask=masks.causal()).shape == x.shape
    with pytest.raises(TypeError, match="key has dtype"):
        scores.dot(x, x.double())
