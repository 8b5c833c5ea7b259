"""Every kernel computes the same attention; it must not matter which one ran."""

import pytest
import torch
from drawn_calls import drawn_calls
from hypothesis import given, settings
from torch.nn.functional import scaled_dot_product_attention

from attn_core import attention, kernels, masks

# Forward-mode differentiation compiles a function the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def normal(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def output_and_gradients(kernel, call):
    inputs = [x.clone().requires_grad_() for x in call.tensors]
    options = dict(call.options)
    if "bias" in options:
        options["bias"] = options["bias"].clone().requires_grad_()
        inputs.append(options["bias"])
    with kernels.use(kernel):
        output = attention(*inputs[:3], **options)
    (grad_output,) = normal(output.shape, seed=7)
    return [output, *torch.autograd.grad(output, inputs, grad_output)]


@settings(max_examples=80)
@given(drawn_calls(score=False, normalizer=False, softcap=False))
def test_explicit_and_sdpa_give_the_same_output_and_gradients(call):
    for seen, expected in zip(
        output_and_gradients("sdpa", call), output_and_gradients("explicit", call), strict=True
    ):
        torch.testing.assert_close(seen, expected, **TOLERANCE)


@given(drawn_calls(score=False, normalizer=False, softcap=False, dtype=torch.float32))
def test_explicit_and_sdpa_agree_in_float32(call):
    for seen, expected in zip(
        output_and_gradients("sdpa", call), output_and_gradients("explicit", call), strict=True
    ):
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("keys", [5, 8])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_it_is_what_torch_computes(kernel, is_causal, keys, kv_heads):
    """Its ``is_causal`` aligns the first query with the first key."""
    query, key, value = normal((2, 4, 6, 8), (2, kv_heads, keys, 8), (2, kv_heads, keys, 3))
    theirs = scaled_dot_product_attention(query, key, value, is_causal=is_causal, enable_gqa=True)
    with kernels.use(kernel):
        ours = attention(query, key, value, mask=masks.causal() if is_causal else None, q_offset=0)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
def test_a_bool_mask_and_a_float_mask_mean_what_they_mean_in_torch(kernel):
    query, key, value, bias = normal((2, 4, 6, 8), (2, 4, 5, 8), (2, 4, 5, 3), (2, 1, 6, 5))
    table = bias > -0.8
    table[..., 0] = True
    with kernels.use(kernel):
        by_mask = attention(query, key, value, mask=table)
        by_bias = attention(query, key, value, bias=bias, scale=0.7)
    torch.testing.assert_close(
        by_mask, scaled_dot_product_attention(query, key, value, table), **TOLERANCE
    )
    torch.testing.assert_close(
        by_bias, scaled_dot_product_attention(query, key, value, bias, scale=0.7), **TOLERANCE
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask": masks.causal()},
        {"mask": masks.padding([4, 2])},
        {"mask": masks.causal() & ~masks.window(0, 0)},
        {"mask": torch.zeros(4, 4, dtype=torch.bool)},
    ],
    ids=["plain", "causal", "padding", "a row of nothing", "nothing"],
)
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_first_second_and_forward_derivatives_are_right(options, kv_heads):
    inputs = [
        x.requires_grad_()
        for x in normal((2, 2, 4, 3), (2, kv_heads, 4, 3), (2, kv_heads, 4, 2), (4, 4))
    ]

    def compute(query, key, value, bias):
        return attention(query, key, value, bias=bias, softcap=3.0, **options)

    with kernels.use("explicit"):
        assert torch.autograd.gradcheck(compute, inputs, check_forward_ad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(compute, inputs, fast_mode=True)


@pytest.mark.parametrize("options", [{}, {"mask": masks.window(1, 0)}], ids=["plain", "window"])
def test_sdpa_has_the_right_first_derivatives(options):
    inputs = [x.requires_grad_() for x in normal((2, 2, 4, 3), (2, 1, 4, 3), (2, 1, 4, 2), (4, 4))]
    with kernels.use("sdpa"):
        assert torch.autograd.gradcheck(
            lambda q, k, v, b: attention(q, k, v, bias=b, **options), inputs, fast_mode=True
        )


@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
def test_dropout_leaves_the_mean_of_the_output(kernel):
    query, key, value = normal((4, 3, 8), (4, 6, 8), (4, 6, 2))
    torch.manual_seed(0)
    many = [x.expand(4000, *x.shape) for x in (query, key, value)]
    with kernels.use(kernel):
        mean = attention(*many, dropout_p=0.5, mask=masks.window(2, 3), q_offset=0).mean(0)
        expected = attention(query, key, value, mask=masks.window(2, 3), q_offset=0)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.12)


@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
def test_dropout_differs_between_batch_entries_heads_and_queries(kernel):
    query, key = torch.zeros(2, 2, 3, 4), torch.zeros(1, 30, 4)
    identity = torch.eye(30).expand(2, 1, 30, 30)
    torch.manual_seed(0)
    for shared_query in (query, query[:1]):
        with kernels.use(kernel):
            rows = attention(shared_query, key, identity, dropout_p=0.5).reshape(-1, 30)
        assert len({tuple(row.tolist()) for row in rows}) == 12


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_causal_attention_with_a_scale_that_is_not_positive(scale):
    """Scale 0 gives the mean of the values so far; the fused kernel's own causal form gives NaN."""
    query, key, value = normal((2, 6, 4), (2, 6, 4), (2, 6, 3))
    with kernels.use("sdpa"):
        seen = attention(query, key, value, mask=masks.causal(), scale=scale)
    with kernels.use("explicit"):
        expected = attention(query, key, value, mask=masks.causal(), scale=scale)
    torch.testing.assert_close(seen, expected, **TOLERANCE)
