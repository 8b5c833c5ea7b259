"""Softmax in blocks: what could go wrong block by block, and could not with whole rows."""

from functools import partial

import pytest
import torch
from small_blocks import small_blocks
from torch.autograd import forward_ad

from attn_core import attention, kernels, masks, positions
from attn_core.normalizers import softmax_with_sink


def normal(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.fixture(autouse=True)
def _many_blocks():
    with small_blocks(2, 3), kernels.use("chunked"):
        yield


@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
def test_scores_of_any_size_in_any_order_are_exact(order):
    """The highest score comes in the first block, or in the last: exp(700) would overflow."""
    key = torch.linspace(-900, 900, 31, dtype=torch.float64)[:, None] * order
    query, value = torch.ones(4, 1, dtype=torch.float64), torch.eye(31, dtype=torch.float64)
    seen = attention(query, key, value, scale=1.0)
    expected = torch.softmax(key.T.expand(4, 31), -1)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=0)


def test_adding_a_constant_to_all_scores_changes_nothing():
    query, key, value = normal((7, 4), (11, 4), (11, 3))
    plain = attention(query, key, value)
    for constant in (-600.0, 600.0):
        bias = torch.full((7, 11), constant, dtype=torch.float64)
        torch.testing.assert_close(
            attention(query, key, value, bias=bias), plain, rtol=1e-9, atol=1e-9
        )


def test_blocks_of_nothing_before_and_after_the_keys_that_may_be_attended():
    query, key, value = normal((5, 4), (30, 4), (30, 3))
    for begin, end in ((0, 1), (14, 16), (29, 30)):
        mask = torch.zeros(5, 30, dtype=torch.bool)
        mask[:, begin:end] = True
        torch.testing.assert_close(
            attention(query, key, value, mask=mask),
            attention(query, key[begin:end], value[begin:end]),
            rtol=1e-12,
            atol=1e-12,
        )


@pytest.mark.parametrize("normalizer", [softmax_with_sink, partial(softmax_with_sink)])
def test_a_sink_that_is_not_given_has_the_score_0(normalizer):
    query, key, value = normal((7, 4), (11, 4), (11, 3))
    powers = (query @ key.T / 2).exp()
    torch.testing.assert_close(
        attention(query, key, value, normalizer=normalizer),
        powers @ value / (1 + powers.sum(-1, keepdim=True)),
    )


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"mask": masks.causal(), "bias": positions.ALiBi(2).double()},
        {"mask": masks.causal(), "softcap": 1.5},
        {"mask": masks.window(2, 1) & masks.padding([7, 4])},
        {"normalizer": partial(softmax_with_sink, sink=0.4), "softcap": 2.0},
    ],
    ids=["ALiBi", "softcap", "padding", "sink"],
)
def test_gradients_are_right(options, kv_heads):
    inputs = [
        x.requires_grad_() for x in normal((2, 2, 7, 4), (2, kv_heads, 7, 4), (2, kv_heads, 7, 3))
    ]
    assert torch.autograd.gradcheck(lambda *x: attention(*x, **options), inputs, fast_mode=True)


def test_backward_draws_the_same_dropout_as_forward():
    inputs = [x.requires_grad_() for x in normal((2, 2, 7, 4), (2, 1, 7, 4), (2, 1, 7, 3))]

    def compute(*inputs):
        torch.manual_seed(3)  # so that it is a function of its inputs
        return attention(*inputs, dropout_p=0.4, mask=masks.window(3, 1))

    assert torch.autograd.gradcheck(compute, inputs, fast_mode=True)
    assert not torch.equal(compute(*inputs), attention(*inputs, mask=masks.window(3, 1)))


def test_each_call_drops_other_weights():
    query, key, value = normal((5, 4), (6, 4), (6, 3))
    torch.manual_seed(0)
    one, two = (attention(query, key, value, dropout_p=0.5) for _ in range(2))
    torch.manual_seed(0)
    again = attention(query, key, value, dropout_p=0.5)
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


@pytest.mark.parametrize("kernel", ["chunked", "sdpa"])
def test_a_second_derivative_is_an_error_and_never_a_zero(kernel):
    inputs = [x.requires_grad_() for x in normal((3, 4), (3, 4), (3, 4))]

    def differentiate_twice():
        gradients = torch.autograd.grad(attention(*inputs).sum(), inputs, create_graph=True)
        torch.autograd.grad(gradients[0].sum() + inputs[0].sum(), inputs[0])

    message = r"no second derivatives|derivative .* is not implemented"
    with kernels.use(kernel), pytest.raises(RuntimeError, match=message):
        differentiate_twice()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("kernel", ["chunked", "sdpa"])
def test_forward_mode_is_an_error_and_never_a_zero(kernel):
    query, tangent, key = normal((3, 4), (3, 4), (3, 4))
    with kernels.use(kernel), forward_ad.dual_level():
        dual = forward_ad.make_dual(query, tangent)
        with pytest.raises(RuntimeError, match=r"forward AD|jvp|forward mode"):
            attention(dual, key, key)


@pytest.mark.parametrize(
    "sink",
    [torch.zeros(3, 1, 1), torch.zeros(2, 1, 1, dtype=torch.float64)],
    ids=["heads", "dtype"],
)
def test_a_sink_that_does_not_fit_is_refused(sink):
    x = torch.ones(1, 2, 5, 4)
    with pytest.raises(ValueError, match="sink"):
        attention(x, x, x, normalizer=partial(softmax_with_sink, sink=sink))
