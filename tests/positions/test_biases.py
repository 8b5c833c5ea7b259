"""What every bias owes: the same numbers however it is asked, for every kernel, by any offset."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_attention import plain_attention
from small_blocks import small_blocks

from attn_core import attention, kernels, masks
from attn_core.positions import (
    ALiBi,
    ShawBias,
    T5Bias,
    TransformerXLBias,
    distances,
)

HEADS, WIDTH = 4, 6
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
BIASES = {
    "alibi": lambda: ALiBi(HEADS),
    "t5": lambda: T5Bias(HEADS, buckets=8, max_distance=6),
    "t5 one direction": lambda: T5Bias(HEADS, buckets=5, max_distance=9, bidirectional=False),
    "shaw": lambda: ShawBias(WIDTH, 2),
    "shaw per head": lambda: ShawBias(WIDTH, 3, heads=HEADS),
    "transformer-xl": lambda: TransformerXLBias(HEADS, WIDTH, dim=10),
}
OFFSETS = {"none": None, "ahead": 3, "behind": -2, "per batch entry": torch.tensor([0, 4])}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def made(name, dtype=torch.float64):
    """A bias whose learned numbers are all different and not small."""
    bias = BIASES[name]().to(dtype)
    for seed, parameter in enumerate(bias.parameters()):
        parameter.data = normal(*parameter.shape, seed=100 + seed, dtype=dtype)
    return bias


def inputs(kv_heads=HEADS, q_len=5, k_len=5, dtype=torch.float64):
    return (
        normal(2, HEADS, q_len, WIDTH, seed=1, dtype=dtype),
        normal(2, kv_heads, k_len, WIDTH, seed=2, dtype=dtype),
        normal(2, kv_heads, k_len, 3, seed=3, dtype=dtype),
    )


def table(bias, query, key, q_offset=None):
    """The whole bias, written out: (2, heads, L, S)."""
    distance = distances(query.shape[-2], key.shape[-2], q_offset)
    full = (2, HEADS, query.shape[-2], key.shape[-2])
    return bias(query, key, distance).expand(full)


def kernels_that_can(*tensors, **options):
    for name in ("explicit", "sdpa", "banded", "chunked", "flex"):
        try:
            with kernels.use(name):
                kernels.which(*tensors, **options)
        except ValueError:  # it says why it cannot; see tests/kernels
            continue
        yield name


@pytest.mark.parametrize("offset", OFFSETS.values(), ids=OFFSETS.keys())
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("name", BIASES)
def test_every_kernel_gives_what_the_table_of_the_bias_gives(name, kv_heads, offset):
    bias = made(name)
    tensors = [x.requires_grad_() for x in inputs(kv_heads, k_len=5 if offset is None else 7)]
    leaves = [*tensors, *bias.parameters()]
    grad_output = normal(2, HEADS, 5, 3, seed=9)
    for mask in (None, masks.causal(), masks.window(2, 1) | masks.global_tokens(1)):
        options = {"mask": mask, "q_offset": offset}
        allowed = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        if mask is not None:
            allowed = mask.dense(5, tensors[1].shape[-2], offset)
        written = table(bias, tensors[0], tensors[1], offset)
        expected, weights = plain_attention(*tensors, allowed, bias=written)
        gradients = torch.autograd.grad(expected, leaves, grad_output)
        able = list(kernels_that_can(*tensors, bias=bias, **options))
        assert {"explicit", "sdpa"} <= set(able)
        for kernel in able:
            with small_blocks(), kernels.use(kernel):
                output, seen = attention(*tensors, bias=bias, return_weights=True, **options)
            torch.testing.assert_close(output, expected, **TOLERANCE)
            torch.testing.assert_close(seen, weights, **TOLERANCE)
            with small_blocks():
                ours = torch.autograd.grad(output, leaves, grad_output)
            torch.testing.assert_close(ours, gradients, **TOLERANCE)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_kernels_without_gradients_agree_too():
    """FlexAttention has no backward on CPU, so it ran nowhere above."""
    tensors = inputs(kv_heads=2)
    for name in BIASES:
        bias = made(name).requires_grad_(False)
        with kernels.use("explicit"):
            expected = attention(*tensors, bias=bias, mask=masks.causal())
        for kernel in kernels_that_can(*tensors, bias=bias, mask=masks.causal()):
            with small_blocks(), kernels.use(kernel):
                output = attention(*tensors, bias=bias, mask=masks.causal())
            torch.testing.assert_close(output, expected, **TOLERANCE)


@pytest.mark.parametrize("name", BIASES)
@given(data=st.data())
def test_the_bias_of_a_block_is_the_block_of_the_bias(name, data):
    """Kernels ask for blocks; the queries and keys of one need not be neighbours."""
    bias = made(name)
    query, key, _ = inputs(kv_heads=2, q_len=5, k_len=8)
    offset = data.draw(st.sampled_from([0, 3, -2, torch.tensor([0, 4])]))
    whole = table(bias, query, key, offset)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=1, unique=True)))
    columns = torch.tensor(data.draw(st.lists(st.integers(0, 7), min_size=1, unique=True)))
    distance = distances(5, 8, offset)[..., rows[:, None], columns]
    block = bias(query[..., rows, :], key[..., columns, :], distance)
    expected = whole[..., rows[:, None], columns]
    torch.testing.assert_close(block.expand(expected.shape), expected, **TOLERANCE)


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_looks_at_distances_and_not_at_positions(name):
    bias = made(name)
    query, key, _ = inputs()
    for moved in (torch.tensor([7, 7]), torch.tensor([-40, 12])):
        one = bias(query, key, distances(5, 5, moved))
        for entry, shift in enumerate(moved.tolist()):
            alone = bias(query[entry], key[entry], distances(5, 5, shift))
            torch.testing.assert_close(
                one[entry % len(one)].expand(alone.shape), alone, **TOLERANCE
            )


@pytest.mark.parametrize("name", BIASES)
def test_decoding_step_by_step_equals_the_full_pass(name):
    bias = made(name)
    query, key, value = inputs(kv_heads=2, q_len=7, k_len=7)
    full = attention(query, key, value, mask=masks.causal(), bias=bias)
    for step in range(7):
        one = attention(
            query[:, :, step : step + 1],
            key[:, :, : step + 1],
            value[:, :, : step + 1],
            mask=masks.causal(),
            bias=bias,
            q_offset=step,
        )
        torch.testing.assert_close(one, full[:, :, step : step + 1], **TOLERANCE)


@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
@pytest.mark.parametrize("name", BIASES)
def test_a_later_token_changes_nothing_before_it(name, kernel):
    bias = made(name, torch.float32)
    query, key, value = inputs(dtype=torch.float32)
    with kernels.use(kernel):
        before = attention(query, key, value, mask=masks.causal(), bias=bias)
        for changed in (query, key, value):
            changed[:, :, 3] += 10
        after = attention(query, key, value, mask=masks.causal(), bias=bias)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.allclose(before[:, :, 3:], after[:, :, 3:])


@pytest.mark.parametrize("offset", [None, torch.tensor([0, 2])], ids=["none", "per batch entry"])
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("name", BIASES)
def test_gradients_of_inputs_and_of_what_is_learned(name, kv_heads, offset):
    bias = made(name)
    names = [parameter_name for parameter_name, _ in bias.named_parameters()]
    tensors = [x.requires_grad_() for x in inputs(kv_heads, q_len=3, k_len=3)]
    parameters = [parameter.detach().requires_grad_() for parameter in bias.parameters()]

    def compute(query, key, value, *learned):
        def call(query, key, distance):
            state = dict(zip(names, learned, strict=True))
            return torch.func.functional_call(bias, state, (query, key, distance))

        scores = query @ key.repeat_interleave(HEADS // kv_heads, 1).mT
        scores = scores / WIDTH**0.5 + call(query, key, distances(3, 3, offset))
        return scores.softmax(-1) @ value.repeat_interleave(HEADS // kv_heads, 1)

    assert torch.autograd.gradcheck(compute, [*tensors, *parameters], fast_mode=True)
    ours = attention(*tensors, bias=bias, q_offset=offset)
    expected = compute(*tensors, *parameters)
    grad_output = normal(*ours.shape, seed=9)
    seen = torch.autograd.grad(ours, [*tensors, *bias.parameters()], grad_output)
    wanted = torch.autograd.grad(expected, [*tensors, *parameters], grad_output)
    for one, other in zip(seen, wanted, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
@pytest.mark.parametrize("name", BIASES)
def test_what_is_masked_reaches_neither_output_nor_gradient(name, kernel, poison):
    bias = made(name)
    clean = inputs(kv_heads=2)
    mask = masks.padding([5, 3]) & masks.dense(torch.arange(5)[:, None].expand(5, 5) != 1)
    poisoned = [x.clone() for x in clean]
    poisoned[0][:, :, 1] = poison  # a query that attends nothing
    for x in poisoned[1:]:
        x[1, :, 3:] = poison
    results = []
    for tensors in (clean, poisoned):
        leaves = [x.clone().requires_grad_() for x in tensors]
        with kernels.use(kernel):
            output = attention(*leaves, mask=mask, bias=bias)
        learned = [p for p in bias.parameters() if p.requires_grad]
        results.append([output, *torch.autograd.grad(output.sum(), [*leaves, *learned])])
    for seen, expected in zip(*results, strict=True):
        assert torch.isfinite(seen).all()
        torch.testing.assert_close(seen, expected, **TOLERANCE)
    assert (results[1][0][:, :, 1] == 0).all()
    assert (results[1][1][:, :, 1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", BIASES)
def test_half_precision_is_as_exact_as_the_plain_formula(name, dtype):
    """Plain: the table of the bias, rounded to the dtype, and everything in it from there on."""
    bias, exact_bias = made(name, dtype), made(name)
    for ours, exact in zip(bias.parameters(), exact_bias.parameters(), strict=True):
        exact.data = ours.detach().double()
    query, key, value = inputs(q_len=40, k_len=40, dtype=dtype)
    doubles = [x.double() for x in (query, key, value)]
    written = table(exact_bias, *doubles[:2])
    exact = attention(*doubles, bias=exact_bias, mask=masks.causal())
    allowed = masks.causal().dense(40, 40)
    scores = query @ key.mT / WIDTH**0.5 + written.to(dtype)
    plain = scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value
    bound = 2 * (plain.double() - exact).abs().max()
    for kernel in ("explicit", "sdpa"):
        with kernels.use(kernel):
            ours = attention(query, key, value, bias=bias, mask=masks.causal())
        assert ours.dtype == dtype
        assert (ours.double() - exact).abs().max() <= bound


@pytest.mark.parametrize("name", BIASES)
def test_nothing_to_attend(name):
    bias = made(name)
    for q_len, k_len in [(0, 3), (3, 0), (0, 0)]:
        tensors = inputs(q_len=q_len, k_len=k_len)
        output = attention(*tensors, bias=bias, q_offset=0)
        assert output.shape == (2, HEADS, q_len, 3)
        assert (output == 0).all()


@pytest.mark.parametrize("name", BIASES)
def test_what_is_learned_can_be_saved_and_the_rest_is_made_anew(name):
    bias = made(name)
    other = BIASES[name]().double()
    other.load_state_dict(bias.state_dict())
    query, key, _ = inputs()
    assert torch.equal(table(other, query, key), table(bias, query, key))
    learned = {parameter_name for parameter_name, _ in bias.named_parameters()}
    assert set(bias.state_dict()) == learned


@pytest.mark.parametrize("name", ["alibi", "t5", "t5 one direction"])
def test_a_bias_of_distances_can_be_looked_at(name):
    bias = made(name)
    query, key, _ = inputs()
    torch.testing.assert_close(
        bias.dense(5, 5).to(torch.float64), table(bias, query, key)[0], rtol=1e-6, atol=1e-6
    )
    assert bias.dense(2, 5, torch.tensor([0, 3])).shape == (2, HEADS, 2, 5)


def test_plain_matrices_take_a_bias_of_one_head():
    x = normal(5, WIDTH)
    for bias in (ALiBi(1), T5Bias(1), ShawBias(WIDTH, 2), TransformerXLBias(1, WIDTH)):
        bias = bias.double()
        output = attention(x, x, x, bias=bias)
        expected = attention(x[None], x[None], x[None], bias=bias)[0]
        assert output.shape == x.shape
        assert torch.equal(output, expected)
