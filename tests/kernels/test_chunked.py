"""Softmax in blocks: what could go wrong block by block, and could not with whole rows."""

from functools import partial

import pytest
import torch
from allocations import peak
from small_blocks import small_blocks
from torch.autograd import forward_ad

from attn_core import attention, kernels, masks, positions
from attn_core.arguments import check_arguments
from attn_core.kernels import sdpa
from attn_core.kernels.grid import Grid
from attn_core.normalizers import softmax, softmax_with_sink


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
        {"normalizer": partial(softmax, temperature=0.3), "bias": positions.ALiBi(2).double()},
    ],
    ids=["ALiBi", "softcap", "padding", "sink", "temperature"],
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


SPARSE = {
    "documents": masks.document(torch.arange(1000) // 250),
    "causal documents": masks.causal() & masks.document(torch.arange(1000) // 250),
    "blocks": masks.bigbird(1000, 20),
    "strides": masks.sparse_transformer(40),
    "strides of all": masks.strided(40),
    "blocks of heads": masks.block_sparse(torch.eye(50).roll(7, 0).repeat(2, 1, 1) > 0, 20),
    "padding": masks.padding([30]),
}


@pytest.mark.parametrize("name", SPARSE)
def test_keys_that_no_query_of_a_block_may_attend_are_not_computed(name):
    """A block of queries looks at those keys that one of them may attend, and at no others."""
    mask, x = SPARSE[name], torch.ones(1, 2, 1000, 1)
    with small_blocks(20, 64):
        grid = Grid(check_arguments(x, x, x, mask=mask))
        blocks = [block for rows in grid.row_blocks() for block in grid.blocks(rows)]
    looked_at = torch.zeros(1000, 1000, dtype=torch.bool)
    for block in blocks:
        assert not looked_at[block.rows, block.keys].any()
        looked_at[block.rows, block.keys] = True
    table = mask.dense(1000, 1000).expand(1, 2, 1000, 1000).any(1)[0]
    needed = table.unflatten(0, (-1, 20)).any(1).repeat_interleave(20, 0)
    assert torch.equal(looked_at, needed)
    # They are gathered, so that there are no more steps than their number asks for.
    assert len(blocks) <= needed[::20].sum(1).div(64).floor().add(2).sum()


@pytest.mark.parametrize("offset", [0, 3, torch.tensor([0, 5])], ids=str)
@pytest.mark.parametrize(
    "mask",
    [
        masks.sparse_transformer(4),
        masks.strided(3) & masks.padding([17, 9]),
        masks.bigbird(20, 2),
        ~masks.document(torch.arange(20) // 6),
    ],
    ids=repr,
)
def test_gathered_keys_get_their_gradients(mask, offset):
    """Also where each key adds a number of its own, and a bias object reads query and key."""
    torch.manual_seed(0)
    inputs = normal((2, 2, 13, 4), (2, 1, 20, 4), (2, 1, 20, 3), (2, 1, 20), (13, 20))
    inputs = [x.requires_grad_() for x in inputs]
    shaw = positions.ShawBias(4, max_distance=3).double()
    for bias in (inputs[3], inputs[4], shaw):
        learned = [*inputs[:3], *(shaw.parameters() if bias is shaw else [bias])]
        results = []
        for kernel in ("explicit", "chunked"):
            with kernels.use(kernel):
                output = attention(*inputs[:3], mask=mask, bias=bias, q_offset=offset)
            results.append([output, *torch.autograd.grad(output.square().sum(), learned)])
        for expected, seen in zip(*results, strict=True):
            torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.05, 3.0, 1e-30])
def test_a_temperature_is_that_of_softmax(temperature):
    query, key, value, bias = normal((2, 9, 4), (1, 11, 4), (1, 11, 3), (9, 11))
    options = {
        "mask": normal((9, 11), seed=2)[0] > 0,
        "bias": bias,
        "normalizer": partial(softmax, temperature=temperature),
    }
    seen = attention(query, key, value, **options)
    with kernels.use("explicit"):
        expected = attention(query, key, value, **options)
    torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-10)


def test_a_temperature_holds_no_weights():
    x = torch.ones(1, 1, 400, 2)
    with small_blocks(100, 100):
        holds = peak(lambda: attention(x, x, x, normalizer=partial(softmax, temperature=2.0)))
    assert holds < 4 * 400 * 400 / 2


def test_a_wrong_temperature_is_named():
    x = torch.ones(1, 3, 2)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        attention(x, x, x, normalizer=partial(softmax, temperature=0))


DOCUMENTS = masks.document([[0] * 30 + [1] * 10, [2] * 5 + [3] * 35])
FUSED = [
    DOCUMENTS,
    masks.causal() & DOCUMENTS,
    masks.bigbird(40, 4) & masks.padding([0, 33]),
    masks.causal() & ~masks.document([0] * 40),
]


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("mask", FUSED, ids=repr)
def test_without_a_gradient_pytorch_computes_the_keys_that_are_left(mask, kv_heads, monkeypatch):
    """A few queries at a time; NaN in what is masked for all, and rows of nothing, do no harm."""
    query, key, value = normal((2, 4, 40, 4), (2, kv_heads, 40, 4), (2, kv_heads, 40, 4))
    key[1, :, 33:] = value[1, :, 33:] = torch.nan if mask is FUSED[2] else 0.0
    calls = []
    run = sdpa.run
    monkeypatch.setattr(sdpa, "run", lambda given: calls.append(given.k_len) or run(given))
    output = attention(query, key, value, mask=mask)
    with kernels.use("explicit"):
        expected = attention(query, key, value, mask=mask)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    allowed = mask.dense(40, 40).reshape(-1, 20, 2, 40).any(2).any(0)  # 2 queries share their keys
    assert calls == [keys for keys in allowed.sum(-1).tolist() if keys]
    calls.clear()
    attention(query.requires_grad_(), key, value, mask=mask)
    assert not calls


def test_a_gradient_that_torch_func_asks_for_later_is_right():
    """Inside of vmap nothing tells that a gradient is taken outside of it."""
    x = normal((2, 3, 1, 20, 4))[0]

    mask = masks.bigbird(20, 2)

    def total(x):
        return torch.func.vmap(lambda x: attention(x, x, x, mask=mask))(x).sin().sum()

    seen = torch.func.grad(total)(x)
    with kernels.use("explicit"):
        torch.testing.assert_close(seen, torch.func.grad(total)(x), rtol=1e-10, atol=1e-10)
