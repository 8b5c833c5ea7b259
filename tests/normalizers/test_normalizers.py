"""Normalisers: rows of weights, none below zero, that sum to one or attend nothing."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention, normalizers

# Forward-mode differentiation compiles a function the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
SMOOTH = {
    "softmax": normalizers.softmax,
    "softmax at a low temperature": partial(normalizers.softmax, temperature=0.3),
    "softmax at a high temperature": partial(normalizers.softmax, temperature=7.0),
    "sparsemax": normalizers.sparsemax,
    "entmax15": normalizers.entmax15,
    "entmax 1": partial(normalizers.entmax, alpha=1),
    "entmax 1.3": partial(normalizers.entmax, alpha=1.3),
    "entmax 2": partial(normalizers.entmax, alpha=2.0),
    "entmax 2.5": partial(normalizers.entmax, alpha=2.5),
    "entmax by bisection": partial(normalizers.entmax_bisect, alpha=1.7),
}
SUM_TO_ONE = SMOOTH | {"hard": normalizers.hard}
OTHERS = {
    "softmax off by one": normalizers.softmax_with_sink,
    "softmax with a low sink": partial(normalizers.softmax_with_sink, sink=-1.5),
    "sigmoid": normalizers.sigmoid,
    "sigmoid of n keys": partial(normalizers.sigmoid, bias=None),
}
ALL = SUM_TO_ONE | OTHERS


def each(choice):
    return pytest.mark.parametrize("normalizer", choice.values(), ids=choice.keys())


TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


@st.composite
def rows_of_scores(draw):
    """Scores in which some are −inf, and some rows have nothing else."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    size = draw(st.sampled_from([0.1, 1.0, 30.0]))
    scores = size * torch.randn(shape, generator=generator, dtype=torch.float64)
    return scores.masked_fill(torch.rand(shape, generator=generator) < 0.3, -torch.inf)


def nearest_point_of_the_simplex(row):
    """Find by bisection the threshold that leaves a total of one."""
    low, high = max(row) - 1, max(row)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(max(x - middle, 0) for x in row) > 1 else (low, middle)
    return [max(x - high, 0) for x in row]


@each(SUM_TO_ONE)
@given(scores=rows_of_scores(), data=st.data())
def test_rows_sum_to_one_along_the_dimension_and_empty_rows_are_zero(normalizer, scores, data):
    dim = data.draw(st.integers(-scores.ndim, scores.ndim - 1))
    weights = normalizer(scores, dim)
    has_keys = (scores > -torch.inf).any(dim)
    torch.testing.assert_close(weights.sum(dim), has_keys.double(), **TOLERANCE)
    assert (weights >= 0).all()
    assert (weights[scores == -torch.inf] == 0).all()
    assert weights.shape == scores.shape


@each(OTHERS)
@given(scores=rows_of_scores())
def test_other_weights_are_shares_too_and_empty_rows_are_zero(normalizer, scores):
    weights = normalizer(scores)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (weights[scores == -torch.inf] == 0).all()
    assert weights.shape == scores.shape


@each(ALL)
@given(scores=rows_of_scores())
def test_the_dimension_is_normalised_wherever_it_stands(normalizer, scores):
    for dim in range(scores.ndim):
        expected = normalizer(scores.movedim(dim, -1), -1).movedim(-1, dim)
        torch.testing.assert_close(normalizer(scores, dim), expected, **TOLERANCE)
    assert torch.equal(normalizer(scores), normalizer(scores, -1))


@each(SUM_TO_ONE)
@given(scores=rows_of_scores(), shift=st.sampled_from([-64.0, 0.5, 1024.0]))
def test_adding_a_constant_changes_nothing(normalizer, scores, shift):
    # Multiples of 1/1024, so that the addition itself rounds nothing away.
    scores = (scores * 1024).round() / 1024
    torch.testing.assert_close(normalizer(scores + shift), normalizer(scores), **TOLERANCE)


@each(ALL)
@given(scores=rows_of_scores())
def test_a_key_that_is_masked_might_as_well_not_be_there(normalizer, scores):
    row = scores.reshape(-1)
    kept = row > -torch.inf
    if kept.any():
        torch.testing.assert_close(normalizer(row)[kept], normalizer(row[kept]), **TOLERANCE)


@each(ALL)
@given(scores=rows_of_scores())
def test_a_higher_score_never_gets_a_lower_weight(normalizer, scores):
    row = scores.reshape(-1).sort().values
    assert (normalizer(row).diff() >= 0).all()


def test_softmax_divides_powers_by_their_sum():
    scores = torch.tensor([1.0, -2.0, 0.5, -torch.inf], dtype=torch.float64)
    expected = scores.exp() / scores.exp().sum()
    torch.testing.assert_close(normalizers.softmax(scores), expected, **TOLERANCE)


@pytest.mark.parametrize("size", [1e3, 1e5, 1e38])
@each(SUM_TO_ONE)
def test_large_scores_do_not_overflow(normalizer, size):
    for sign in (1, -1):
        scores = sign * size * torch.tensor([1.0, 1.0, 0.5])
        weights = normalizer(scores)
        assert torch.isfinite(weights).all()
        assert weights.sum() == pytest.approx(1)


@given(scores=rows_of_scores())
def test_sparsemax_is_the_nearest_point_of_the_simplex(scores):
    for row in scores.reshape(-1, scores.shape[-1]):
        kept = row[row > -torch.inf].tolist()
        if kept:
            seen = normalizers.sparsemax(row)[row > -torch.inf]
            expected = torch.tensor(nearest_point_of_the_simplex(kept), dtype=torch.float64)
            torch.testing.assert_close(seen, expected, rtol=0, atol=1e-12)


def test_sparsemax_gives_weights_that_are_exactly_zero_and_softmax_does_not():
    scores = torch.tensor([2.0, 1.5, 0.2, -1.0])
    assert (normalizers.sparsemax(scores) == 0).tolist() == [False, False, True, True]
    assert (normalizers.softmax(scores) > 0).all()
    torch.testing.assert_close(normalizers.sparsemax(scores), torch.tensor([0.75, 0.25, 0, 0]))


def test_sparsemax_shares_equally_among_equals():
    for count in (1, 2, 7):
        seen = normalizers.sparsemax(torch.full((count,), 3.0))
        torch.testing.assert_close(seen, torch.full((count,), 1 / count))


@given(st.integers(0, 10**6))
def test_the_jacobian_of_sparsemax_centres_on_its_support(seed):
    """diag(s) − s sᵀ / |s|, where s says which weights are above zero."""
    scores = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    support = (normalizers.sparsemax(scores) > 0).double()
    expected = torch.diag(support) - torch.outer(support, support) / support.sum()
    seen = torch.autograd.functional.jacobian(normalizers.sparsemax, scores)
    torch.testing.assert_close(seen, expected, **TOLERANCE)


@each(SMOOTH | OTHERS)
@pytest.mark.parametrize("dim", [-1, 0])
def test_derivatives_are_right(normalizer, dim):
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores[0, 1] = scores[2] = -torch.inf
    finite = scores > -torch.inf
    values = scores[finite].requires_grad_()

    def weights(values):
        return normalizer(scores.index_put(finite.nonzero(as_tuple=True), values), dim)

    assert torch.autograd.gradcheck(weights, values, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(weights, values, check_fwd_over_rev=True)


@each(SMOOTH | OTHERS)
def test_a_map_over_a_batch_gives_what_the_batch_gives(normalizer):
    scores = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mapped = torch.func.vmap(normalizer, in_dims=1, out_dims=1)(scores)
    torch.testing.assert_close(mapped, normalizer(scores), **TOLERANCE)


@each(ALL)
def test_a_row_with_nan_spoils_no_other(normalizer):
    scores = torch.tensor([[1.0, torch.nan, 0.0], [0.5, 2.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(normalizer(scores)[1:], normalizer(scores[1:]), **TOLERANCE)


@each(ALL)
def test_empty_rows_have_gradient_zero_and_do_not_spoil_the_others(normalizer):
    scores = torch.tensor(
        [[1.0, 2.0, -torch.inf], [-torch.inf] * 3], dtype=torch.float64, requires_grad=True
    )
    grad_weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    weights = normalizer(scores)
    assert (weights[1] == 0).all()
    (gradient,) = torch.autograd.grad(weights, scores, grad_weights)
    assert torch.isfinite(gradient).all()
    assert (gradient[1] == 0).all()
    assert gradient[0, 2] == 0
    alone = scores[:1].detach().requires_grad_()
    (expected,) = torch.autograd.grad(normalizer(alone), alone, grad_weights[:1])
    torch.testing.assert_close(gradient[:1], expected, **TOLERANCE)


@given(rows_of_scores())
def test_hard_gives_everything_to_the_first_of_the_highest(scores):
    scores = scores.round()  # so that some are equal
    weights = normalizers.hard(scores).reshape(-1, scores.shape[-1])
    for row, given_weights in zip(
        scores.reshape(-1, scores.shape[-1]).tolist(), weights.tolist(), strict=True
    ):
        if max(row) > -torch.inf:
            assert given_weights == [float(j == row.index(max(row))) for j in range(len(row))]


def test_hard_takes_the_first_of_many_equals():
    assert normalizers.hard(torch.zeros(5000)).nonzero().tolist() == [[0]]


@given(scores=rows_of_scores(), seed=st.integers(0, 99))
def test_hard_is_exact_forward_and_straight_through_to_softmax_backward(scores, seed):
    grad_weights = torch.randn(
        scores.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    gradients = []
    for normalizer in (normalizers.hard, normalizers.softmax):
        inputs = scores.clone().requires_grad_()
        weights = normalizer(inputs)
        gradients.append(torch.autograd.grad(weights, inputs, grad_weights)[0])
        if normalizer is normalizers.hard:
            assert set(weights.flatten().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(*gradients, **TOLERANCE)


def test_hard_attention_copies_one_value():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    output = attention(x, x, x, normalizer=normalizers.hard)
    best = (x @ x.T).argmax(-1)
    assert torch.equal(output, x[best])


@each(ALL)
def test_no_keys_and_no_rows_give_no_weights(normalizer):
    for shape in [(3, 0), (0, 3), (0, 0)]:
        assert normalizer(torch.zeros(shape)).shape == shape
        assert normalizer(torch.zeros(shape).T, 0).shape == shape[::-1]


@each(ALL)
def test_the_scores_are_not_changed_in_place(normalizer):
    scores = torch.tensor([[1.0, -torch.inf], [-torch.inf, -torch.inf]])
    before = scores.clone()
    normalizer(scores)
    assert torch.equal(scores, before)
