"""ALiBi: the slopes of both conventions, and the distance on either side."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention, masks
from attn_core.positions import ALiBi, alibi_slopes

# The authors' get_slopes(n) for numbers of heads that are no power of two.
RELEASED = {
    3: [2**-4, 2**-8, 2**-2],
    6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3],
    12: [*(2.0**-k for k in range(1, 9)), *(2.0 ** -(k + 0.5) for k in range(4))],
}


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16, 64])
def test_the_conventions_are_one_where_heads_are_a_power_of_two(heads):
    released, geometric = alibi_slopes(heads), alibi_slopes(heads, "geometric")
    assert torch.equal(released, geometric)
    assert released.tolist() == pytest.approx([2 ** (-8 * h / heads) for h in range(1, heads + 1)])


@pytest.mark.parametrize("heads", RELEASED)
def test_the_conventions_differ_where_heads_are_none(heads):
    released = alibi_slopes(heads)
    assert released.tolist() == pytest.approx(RELEASED[heads], rel=1e-12)
    geometric = alibi_slopes(heads, "geometric")
    assert geometric.tolist() == pytest.approx([2 ** (-8 * h / heads) for h in range(1, heads + 1)])
    assert not torch.allclose(released.sort().values, geometric.sort().values)


@given(heads=st.integers(1, 70), slopes=st.sampled_from(["released", "geometric"]))
def test_slopes_are_all_different_and_no_steeper_than_half(heads, slopes):
    seen = alibi_slopes(heads, slopes)
    assert seen.shape == (heads,)
    assert len(set(seen.tolist())) == heads
    assert seen.min() >= 2**-8
    assert seen.max() < 1


def test_the_bias_falls_by_the_slope_with_every_position_on_both_sides():
    table = ALiBi(6, slopes="geometric").dense(4, 7, q_offset=2)
    for head, slope in enumerate(alibi_slopes(6, "geometric").tolist()):
        for i in range(4):
            for j in range(7):
                assert table[head, i, j] == pytest.approx(-slope * abs(j - (i + 2)))


def test_with_a_causal_mask_it_is_the_papers_which_adds_slope_times_key_position():
    """The released code adds m · j instead of m · (j − i): a constant for a row."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(8, 5, 4, generator=generator).double() for _ in range(3))
    ours = attention(query, key, value, mask=masks.causal(), bias=ALiBi(8))
    theirs = alibi_slopes(8)[:, None, None] * torch.arange(5)
    expected = attention(query, key, value, mask=masks.causal(), bias=theirs)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_far_distances_are_multiplied_before_they_are_rounded(dtype):
    """1,001 is no bfloat16 number; nor are the slopes, when heads are no power of two."""
    distance = torch.tensor([[0, 1, -257, 1001, -4095]])
    query = torch.zeros(1, 1, dtype=dtype)
    bias = ALiBi(3, slopes="geometric").to(dtype)(query, query, distance)
    exact = -alibi_slopes(3, "geometric")[:, None, None] * distance.abs()
    assert bias.dtype == dtype
    assert ((bias.double() - exact).abs() <= 0.502 * torch.finfo(dtype).eps * exact.abs()).all()
