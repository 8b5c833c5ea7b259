"""Temperature, sinks, the sigmoid, and keys drawn at random."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention, masks, normalizers

# Forward-mode differentiation compiles a function the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
HALVES = [torch.float16, torch.bfloat16]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(seed=st.integers(0, 999), temperature=st.floats(0.05, 20))
def test_a_temperature_divides_the_scores(seed, temperature):
    scores = normal(3, 5, seed=seed)
    seen = normalizers.softmax(scores, temperature=temperature)
    torch.testing.assert_close(seen, (scores / temperature).softmax(-1), **TOLERANCE)


def test_cold_is_hard_and_hot_is_uniform():
    scores = normal(4, 6)
    cold, hot = (normalizers.softmax(scores, temperature=t) for t in (1e-308, 1e9))
    assert torch.equal(normalizers.softmax(1e9 * scores, temperature=1e-308), cold)
    assert torch.equal(cold, normalizers.hard(scores))
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / 6), rtol=0, atol=1e-8)


@given(seed=st.integers(0, 999), sink=st.floats(-30, 30))
def test_a_sink_is_a_key_whose_value_is_zero(seed, sink):
    scores, value = normal(3, 5, seed=seed), normal(5, 2, seed=seed + 1)
    seen = normalizers.softmax_with_sink(scores, sink=sink) @ value
    longer = torch.cat([scores, torch.full((3, 1), sink, dtype=torch.float64)], -1)
    expected = longer.softmax(-1) @ torch.cat([value, torch.zeros(1, 2, dtype=torch.float64)])
    torch.testing.assert_close(seen, expected, **TOLERANCE)


def test_off_by_one_has_one_more_in_the_denominator():
    scores = normal(3, 5)
    expected = scores.exp() / (1 + scores.exp().sum(-1, keepdim=True))
    torch.testing.assert_close(normalizers.softmax_with_sink(scores), expected, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_neither_large_scores_nor_large_sinks_overflow(dtype):
    scores = torch.tensor([[30000.0, 30000.0], [-30000.0, -30000.0]], dtype=dtype)
    seen = normalizers.softmax_with_sink(scores)
    assert torch.equal(seen, torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=dtype))
    for sink in (-30000.0, -60000.0):
        seen = normalizers.softmax_with_sink(scores[1:], sink=sink)
        expected = torch.full_like(seen, 1 / 3 if sink == -30000.0 else 0.5)
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (2, 3, 4, 1)], ids=str)
def test_a_sink_for_each_head_can_be_learned(shape):
    scores = normal(2, 3, 4, 5)
    scores[0, 0, 0, 1] = scores[1, 1, 2] = -torch.inf
    finite = scores > -torch.inf
    inputs = (scores[finite].requires_grad_(), normal(*shape, seed=1).requires_grad_())

    def weights(values, sink):
        return normalizers.softmax_with_sink(scores.masked_scatter(finite, values), sink=sink)

    assert torch.autograd.gradcheck(weights, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(weights, inputs)
    for number in inputs[1].detach().reshape(-1)[:1].tolist():
        alone = normalizers.softmax_with_sink(scores[0, 0, 0], sink=number)
        torch.testing.assert_close(weights(*inputs)[0, 0, 0], alone, **TOLERANCE)


def test_a_sink_lets_a_query_attend_to_less():
    x = normal(4, 8).expand(2, 4, 8)  # two heads alike, except in their sinks
    sinks = torch.tensor([-2.0, 3.0], dtype=torch.float64)[:, None, None]
    output, weights = attention(
        x,
        x,
        x,
        mask=masks.causal(),
        normalizer=lambda s, dim: normalizers.softmax_with_sink(s, dim, sink=sinks),
        return_weights=True,
    )
    totals = weights.sum(-1)
    assert (totals < 1).all()
    assert (totals[0] > totals[1]).all()
    torch.testing.assert_close(output, weights @ x, **TOLERANCE)


def test_the_sigmoid_of_one_key_asks_no_other():
    scores = normal(3, 5)
    expected = 1 / (1 + (-scores - 0.7).exp())
    seen = normalizers.sigmoid(scores, bias=0.7)
    torch.testing.assert_close(seen, expected, **TOLERANCE)
    scores[:, 2] = 100.0
    changed = normalizers.sigmoid(scores, bias=0.7)
    others = [0, 1, 3, 4]
    assert torch.equal(seen[:, others], changed[:, others])


def test_the_sigmoid_with_the_bias_of_n_keys_sums_to_about_one():
    for keys in (10, 100, 1000):
        plain = normalizers.sigmoid(0.1 * normal(20, keys)).sum(-1)
        biased = normalizers.sigmoid(0.1 * normal(20, keys), bias=None).sum(-1)
        torch.testing.assert_close(plain, torch.full_like(plain, keys / 2), rtol=0.05, atol=0)
        torch.testing.assert_close(biased, torch.ones_like(biased), rtol=0.2, atol=0)


def test_a_causal_row_counts_the_keys_that_it_may_attend():
    scores = torch.zeros(4, 4).masked_fill(~torch.ones(4, 4).tril().bool(), -torch.inf)
    seen = normalizers.sigmoid(scores, bias=None)
    for row in range(4):
        expected = torch.tensor(1 / (1 + (row + 1))).expand(row + 1)
        torch.testing.assert_close(seen[row, : row + 1], expected)


def drawn(scores, seed=0, dim=-1, **options):
    generator = torch.Generator().manual_seed(seed)
    return normalizers.gumbel_softmax(scores, dim, generator=generator, **options)


@pytest.mark.parametrize("hard", [False, True])
@given(seed=st.integers(0, 999))
def test_the_same_seed_draws_the_same_keys(hard, seed):
    scores = normal(3, 5, seed=seed)
    scores[1] = scores[0, 2] = -torch.inf
    weights = drawn(scores, seed, hard=hard)
    assert torch.equal(weights, drawn(scores, seed, hard=hard))
    assert not torch.equal(drawn(scores, seed), drawn(scores, seed + 1))
    totals = weights.sum(-1)
    torch.testing.assert_close(totals, torch.tensor([1.0, 0, 1], dtype=torch.float64), **TOLERANCE)
    assert (weights[scores == -torch.inf] == 0).all()
    if hard:
        assert set(weights.flatten().tolist()) == {0.0, 1.0}
        assert torch.equal(weights.argmax(-1), drawn(scores, seed).argmax(-1))


def test_without_a_generator_the_global_seed_counts():
    torch.manual_seed(3)
    first = normalizers.gumbel_softmax(normal(3, 5))
    torch.manual_seed(3)
    assert torch.equal(first, normalizers.gumbel_softmax(normal(3, 5)))


@pytest.mark.parametrize("temperature", [0.1, 5.0])
def test_keys_are_drawn_as_often_as_softmax_says(temperature):
    scores = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    draws = drawn(scores.expand(40000, 4), temperature=temperature, hard=True).mean(0)
    torch.testing.assert_close(draws, scores.softmax(-1), rtol=0, atol=0.01)


@pytest.mark.parametrize("dim", [-1, 0])
def test_the_gradient_passes_through_a_draw(dim):
    scores = normal(3, 4)
    scores[0, 1] = scores[2] = -torch.inf
    finite = scores > -torch.inf
    values = scores[finite].requires_grad_()

    def weights(values, hard=False):
        filled = scores.masked_scatter(finite, values)
        return drawn(filled, dim=dim, temperature=0.7, hard=hard)

    assert torch.autograd.gradcheck(weights, values, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(weights, values)
    grad_weights = normal(3, 4, seed=2)
    soft, straight = (
        torch.autograd.grad(weights(values, hard), values, grad_weights)[0]
        for hard in (False, True)
    )
    assert torch.equal(soft, straight)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax", {"temperature": 0.3}),
        ("softmax", {"temperature": 5.0}),
        ("softmax_with_sink", {"sink": 1.0}),
        ("sigmoid", {"bias": -0.5}),
        ("sigmoid", {"bias": None}),
    ],
)
def test_half_precision_is_rounded_once(dtype, name, options):
    scores = (3 * normal(20, 300)).to(dtype)
    normalizer = getattr(normalizers, name)
    exact = normalizer(scores.double(), **options)
    seen = normalizer(scores, **options)
    assert seen.dtype == dtype
    assert ((seen.double() - exact).abs() <= torch.finfo(dtype).eps * exact + 1e-7).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_draw_in_half_precision_is_a_draw_in_single_precision_rounded(dtype):
    scores = normal(20, 30).to(dtype)
    seen, exact = drawn(scores), drawn(scores.float())
    assert seen.dtype == dtype
    assert torch.equal(seen, exact.to(dtype))
