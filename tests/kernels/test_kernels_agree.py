"""Every kernel computes the same attention; it must not matter which one ran."""

from functools import partial

import pytest
import torch
from drawn_calls import Sizes, broadcasting_shape, drawn_calls, masks_with_rules
from hypothesis import given, settings
from hypothesis import strategies as st
from small_blocks import small_blocks
from torch.nn.functional import scaled_dot_product_attention

from attn_core import attention, kernels, masks, normalizers, positions
from attn_core.arguments import check_arguments
from attn_core.kernels import banded, chunked, sdpa

# Forward-mode differentiation compiles a function the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
OTHERS = {"banded": banded, "chunked": chunked, "sdpa": sdpa}
KERNELS = ["explicit", *OTHERS]


def normal(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def output_and_gradients(kernel, tensors, options):
    """The output, and the gradients of all that has one."""
    options = dict(options)
    inputs = [x.clone().requires_grad_() for x in tensors]
    query, key, value = inputs
    bias = options.get("bias")
    if isinstance(bias, torch.Tensor):
        options["bias"] = bias.clone().requires_grad_()
        inputs.append(options["bias"])
    elif bias is not None:
        inputs += bias.parameters()
    if isinstance(options.get("normalizer"), partial):
        inputs += [x for x in options["normalizer"].keywords.values() if torch.is_tensor(x)]
    with kernels.use(kernel):
        output = attention(query, key, value, **options)
    (grad_output,) = normal(output.shape, seed=7, dtype=output.dtype)
    return [output, *torch.autograd.grad(output, inputs, grad_output, materialize_grads=True)]


def assert_all_agree(tensors, options, **tolerance):
    """Every kernel that takes the call gives what the explicit one gives; their names."""
    arguments = check_arguments(*tensors, **options)
    able = [name for name, kernel in OTHERS.items() if kernel.refusal(arguments) is None]
    expected = output_and_gradients("explicit", tensors, options)
    for name in able:
        for seen, wanted in zip(
            output_and_gradients(name, tensors, options), expected, strict=True
        ):
            assert torch.isfinite(wanted).all()
            torch.testing.assert_close(seen, wanted, **(tolerance or TOLERANCE))
    return able


@settings(max_examples=60)
@given(drawn_calls(score=False), st.integers(1, 3), st.integers(1, 3))
def test_all_kernels_give_the_same_output_and_gradients(call, rows, keys):
    with small_blocks(rows, keys):
        assert_all_agree(call.tensors, call.options)


@given(drawn_calls(score=False, dtype=torch.float32))
def test_all_kernels_agree_in_float32(call):
    assert_all_agree(call.tensors, call.options, rtol=1e-4, atol=1e-4)


@st.composite
def near_masks(draw, sizes):
    """Masks that end on both sides of the query, alone and with others."""
    few = st.integers(0, 6)
    mask = draw(
        st.builds(masks.window, few, few)
        | st.builds(masks.dilated, st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))
    )
    if draw(st.booleans()):
        mask = mask | masks.global_tokens(draw(st.integers(0, 9)))
    if draw(st.booleans()):
        mask = mask & draw(masks_with_rules(sizes, depth=1))[0]
    return mask


BIASES = {
    "ALiBi": lambda sizes: positions.ALiBi(sizes.heads),
    "T5": lambda sizes: positions.T5Bias(sizes.heads, buckets=8, max_distance=9),
    "Shaw": lambda sizes: positions.ShawBias(sizes.width, max_distance=4),
    "Transformer-XL": lambda sizes: positions.TransformerXLBias(sizes.heads, sizes.width),
}


@st.composite
def longer_calls(draw):
    """Sequences of many small blocks, with whatever a kernel may take."""
    sizes = Sizes(
        batch=draw(st.sampled_from([(), (2,), (3, 2)])),
        kv_heads=draw(st.integers(1, 2)),
        group=draw(st.integers(1, 3)),
        q_len=draw(st.integers(1, 20)),
        k_len=draw(st.integers(1, 20)),
        width=2 * draw(st.integers(1, 2)),
        value_width=draw(st.integers(1, 3)),
    )
    if draw(st.booleans()):
        sizes.q_len = sizes.k_len
    torch.manual_seed(draw(st.integers(0, 10**6)))
    tensors = [
        torch.randn(*sizes.batch, *shape, dtype=torch.float64)
        for shape in (
            (sizes.heads, sizes.q_len, sizes.width),
            (sizes.kv_heads, sizes.k_len, sizes.width),
            (sizes.kv_heads, sizes.k_len, sizes.value_width),
        )
    ]
    options = {"mask": draw(near_masks(sizes) | masks_with_rules(sizes).map(lambda two: two[0]))}
    offsets = st.integers(-9, 25)
    if len(sizes.batch) == 1:
        offsets |= st.lists(offsets, min_size=2, max_size=2).map(torch.tensor)
    options["q_offset"] = draw(offsets)
    if sizes.q_len == sizes.k_len and draw(st.booleans()):
        options["q_offset"] = None
    options["softcap"] = draw(st.sampled_from([None, None, 1.5]))
    kind = draw(st.sampled_from(["none", "tensor", *BIASES]))
    if kind == "tensor":
        shape = broadcasting_shape(draw, sizes.full)
        options["bias"] = torch.randn(shape, dtype=torch.float64)
        if draw(st.booleans()):
            options["bias"].masked_fill_(options["bias"] > 0.8, -torch.inf)
    elif kind != "none":
        options["bias"] = BIASES[kind](sizes).double()
    sink = torch.randn(sizes.heads, 1, 1, dtype=torch.float64, requires_grad=True)
    options["normalizer"] = draw(
        st.sampled_from(
            [
                None,
                None,
                normalizers.softmax_with_sink,
                partial(normalizers.softmax_with_sink, sink=-0.7),
                partial(normalizers.softmax_with_sink, sink=sink),
                partial(normalizers.softmax, temperature=0.6),
                normalizers.sparsemax,
            ]
        )
    )
    return tensors, options


@settings(max_examples=100)
@given(longer_calls(), st.integers(1, 5), st.integers(1, 5))
def test_all_kernels_agree_on_sequences_of_many_blocks(call, rows, keys):
    with small_blocks(rows, keys):
        assert_all_agree(*call)


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize(
    ("mask", "able"),
    [
        (masks.window(40, 0), ["banded", "chunked", "sdpa"]),
        (masks.window(3, 70), ["banded", "chunked", "sdpa"]),
        (masks.window(9, 9) | masks.global_tokens(5), ["banded", "chunked", "sdpa"]),
        (masks.window(9, 9) & masks.padding([500, 333]), ["banded", "chunked", "sdpa"]),
        (masks.causal() & masks.padding([500, 333]), ["chunked", "sdpa"]),
        (masks.document(torch.arange(500) // 60), ["banded", "chunked", "sdpa"]),
        (masks.bigbird(500, 20), ["banded", "chunked", "sdpa"]),
        (None, ["chunked", "sdpa"]),
    ],
    ids=repr,
)
def test_all_kernels_agree_with_the_blocks_that_they_use(mask, able, kv_heads):
    """500 is no multiple of any of them."""
    tensors = normal((2, 2, 500, 8), (2, kv_heads, 500, 8), (2, kv_heads, 500, 4))
    assert assert_all_agree(tensors, {"mask": mask}) == able


@pytest.mark.parametrize("kernel", ["explicit", "sdpa", "chunked"])
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


@pytest.mark.parametrize("kernel", ["explicit", "sdpa", "chunked"])
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


@pytest.mark.parametrize("kernel", KERNELS)
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
