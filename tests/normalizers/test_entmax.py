"""The entmax family: each member the maximum of its own problem, however it is computed."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_core import attention, normalizers

# Forward-mode differentiation compiles a function the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
ALPHAS = [1.0, 1.0001, 1.1, 1.5, 1.9, 2.0, 2.5, 4.0]
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def rows(draw):
    """Scores of every size, some equal, some −inf."""
    scores = normal(
        draw(st.integers(1, 4)), draw(st.integers(1, 40)), seed=draw(st.integers(0, 999))
    )
    scores = scores * draw(st.sampled_from([1e-3, 0.3, 2.0, 30.0]))
    if draw(st.booleans()):
        scores = scores.round()
    return scores.masked_fill(scores > draw(st.sampled_from([1.0, 1e9])), -torch.inf)


@given(scores=rows(), alpha=st.sampled_from(ALPHAS) | st.floats(1, 2))
@settings(max_examples=150)
def test_exact_and_by_bisection_agree(scores, alpha):
    exact = normalizers.entmax(scores, alpha=alpha)
    halved = normalizers.entmax_bisect(scores, alpha=alpha)
    # Above 2 a weight near 0 is steeper in the threshold than float64 is fine.
    tolerance = 1e-12 if alpha <= 2 else 1e-6
    torch.testing.assert_close(exact, halved, rtol=0, atol=tolerance)


@given(scores=rows())
def test_one_and_a_half_two_and_one_are_the_named_ones(scores):
    entmax = normalizers.entmax
    assert torch.equal(entmax(scores), normalizers.entmax15(scores))
    assert torch.equal(entmax(scores, alpha=2), normalizers.sparsemax(scores))
    assert torch.equal(entmax(scores, alpha=1.0), normalizers.softmax(scores))
    for alpha, named in [(1.5, normalizers.entmax15), (2.0, normalizers.sparsemax)]:
        general = entmax(scores, alpha=torch.tensor([[alpha]], dtype=torch.float64))
        torch.testing.assert_close(general, named(scores), **TOLERANCE)
    near = entmax(scores, alpha=1 + 1e-9)
    torch.testing.assert_close(near, normalizers.softmax(scores), rtol=0, atol=1e-5)


@given(scores=rows(), alpha=st.sampled_from([1.2, 1.5, 2.0, 3.0]), seed=st.integers(0, 99))
def test_no_other_weights_do_better(scores, alpha, seed):
    """Entmax maximises p · s + H(p) over the simplex, H being Tsallis' entropy."""
    row = scores[0][scores[0] > -torch.inf]
    if len(row) == 0:
        return

    def worth(p):
        return p @ row + ((p - p**alpha) / (alpha * (alpha - 1))).sum()

    best = normalizers.entmax(row, alpha=alpha)
    other = normal(len(row), seed=seed).softmax(-1)
    for share in (1e-3, 0.1, 1.0):
        assert worth(best) >= worth((1 - share) * best + share * other) - 1e-12


def test_the_higher_alpha_the_fewer_keys_are_attended():
    scores = normal(20, 100)
    attended = [
        (normalizers.entmax(scores, alpha=alpha) > 0).sum(-1) for alpha in (1.0, 1.2, 1.5, 2.0, 3.0)
    ]
    assert (attended[0] == 100).all()
    for more, fewer in pairwise(attended):
        assert (more >= fewer).all()
        assert more.sum() > fewer.sum()


@pytest.mark.parametrize("normalizer", [normalizers.entmax15, normalizers.sparsemax])
def test_equal_scores_share_equally_however_many_they_are(normalizer):
    for count in (1, 2, 7, 5000):
        shares = normalizer(torch.full((count,), 3.0, dtype=torch.float64))
        torch.testing.assert_close(shares, torch.full_like(shares, 1 / count), **TOLERANCE)


def test_many_keys_just_above_the_threshold():
    """Each of Michelot's steps drops a few keys only: the slowest case."""
    scores = -torch.arange(300, dtype=torch.float64).log1p() / 8
    for normalizer in (normalizers.sparsemax, normalizers.entmax15):
        weights = normalizer(scores)
        assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    halved = normalizers.entmax_bisect(scores, alpha=2.0)
    torch.testing.assert_close(normalizers.sparsemax(scores), halved, rtol=0, atol=1e-12)


def test_one_alpha_for_each_head():
    scores = normal(2, 3, 4, 5)
    alpha = torch.tensor([1.0, 1.4, 2.0], dtype=torch.float64)[:, None, None]
    for normalizer in (normalizers.entmax, normalizers.entmax_bisect):
        together = normalizer(scores, alpha=alpha)
        for head in range(3):
            alone = normalizer(scores[:, head], alpha=alpha[head].item())
            torch.testing.assert_close(together[:, head], alone, **TOLERANCE)
        moved = normalizer(scores.movedim(-1, 1), 1, alpha=alpha.movedim(-1, 0))
        torch.testing.assert_close(moved.movedim(1, -1), together, **TOLERANCE)


@pytest.mark.parametrize("normalizer", [normalizers.entmax, normalizers.entmax_bisect])
def test_alpha_can_be_learned(normalizer):
    scores = 1.5 * normal(2, 3, 4, 5)
    scores[0, 0, 0, 1] = scores[1, 1, 2] = -torch.inf
    alpha = torch.tensor([1.05, 1.5, 1.9], dtype=torch.float64)[:, None, None].requires_grad_()
    finite = scores > -torch.inf
    values = scores[finite].requires_grad_()

    def weights(values, alpha):
        return normalizer(scores.masked_scatter(finite, values), alpha=alpha)

    assert torch.autograd.gradcheck(weights, (values, alpha), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(weights, (values, alpha))


def test_the_slope_in_alpha_has_no_step_at_softmax():
    scores, grad_weights = normal(6), normal(6, seed=1)
    slopes = []
    for number in (1.0, 1.0 + 1e-8, 1.0 + 1e-4):
        alpha = torch.tensor([number], dtype=torch.float64, requires_grad=True)
        weights = normalizers.entmax(scores, alpha=alpha)
        slopes.append(torch.autograd.grad(weights, alpha, grad_weights)[0].item())
    low, high = (normalizers.entmax(scores, alpha=a) @ grad_weights for a in (1.0, 1.00001))
    assert slopes[0] == pytest.approx((high - low).item() / 1e-5, rel=1e-3)
    assert slopes == pytest.approx([slopes[0]] * 3, rel=1e-3)


def test_a_learned_alpha_reaches_attention():
    x = normal(2, 3, 4, 8)
    alpha = torch.full((3, 1, 1), 1.5, dtype=torch.float64, requires_grad=True)
    output = attention(x, x, x, normalizer=lambda s, dim: normalizers.entmax(s, dim, alpha=alpha))
    expected = attention(x, x, x, normalizer=normalizers.entmax15)
    torch.testing.assert_close(output, expected, **TOLERANCE)
    (gradient,) = torch.autograd.grad(output.square().sum(), alpha)
    assert (gradient != 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1.01, 1.3, 1.5, 2.0])
@pytest.mark.parametrize("size", [1.0, 0.001], ids=["few weights", "thousands of weights"])
def test_in_half_precision_it_is_the_exact_answer_rounded(dtype, alpha, size):
    scores = size * normal(20, 2000).to(dtype)
    exact = normalizers.entmax(scores.double(), alpha=alpha)
    for seen in (
        normalizers.entmax(scores, alpha=alpha),
        normalizers.entmax_bisect(scores, alpha=alpha),
        normalizers.entmax(scores, alpha=torch.tensor([alpha], dtype=dtype)).double()
        if alpha in (1.5, 2.0)  # numbers that half precision has
        else exact,
    ):
        assert (seen.double() - exact).abs().max() <= torch.finfo(dtype).eps * exact.max()


@pytest.mark.parametrize("alpha", [1.01, 1.3, 1.5, 2.0])
def test_single_precision_is_exact_to_a_few_units(alpha):
    scores = 2 * normal(50, 512).float()
    exact = normalizers.entmax(scores.double(), alpha=alpha)
    seen = normalizers.entmax(scores, alpha=alpha)
    assert (seen.double() - exact).abs().max() <= 4 * torch.finfo(torch.float32).eps
