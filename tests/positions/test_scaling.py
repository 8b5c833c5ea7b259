"""Scalings of rotary positions: what each keeps, what it squeezes, and by how much."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core.positions import (
    LinearScaling,
    NTKScaling,
    Rotary,
    Scaling,
    YaRNScaling,
    rotary,
)

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
factors = st.sampled_from([0.5, 1.0, 2.0, 8.0, 40.0])
bases = st.sampled_from([10000.0, 500000.0])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(factor=factors, dim=st.sampled_from([4, 8, 64]), base=bases)
def test_linear_scaling_divides_positions(factor, dim, base):
    x = normal(5, dim)
    positions = torch.tensor([0, 3, 1, 1000, 7])
    scaled = rotary(x, positions, base=base, scaling=LinearScaling(factor))
    torch.testing.assert_close(
        scaled, rotary(x, positions.double() / factor, base=base), **TOLERANCE
    )


@given(factor=factors, dim=st.sampled_from([4, 8, 64]), base=bases)
def test_ntk_keeps_the_first_frequency_and_divides_the_last(factor, dim, base):
    plain = Scaling().frequencies(dim, base)
    scaled = NTKScaling(factor).frequencies(dim, base)
    assert scaled[0] == plain[0] == 1
    assert scaled[-1].item() == pytest.approx((plain[-1] / factor).item(), rel=1e-12)
    ratios = (scaled[1:] / scaled[:-1]).tolist()
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-12)  # still a geometric row
    assert ratios[0] == pytest.approx((base * factor ** (dim / (dim - 2))) ** (-2 / dim))


@given(
    factor=factors,
    dim=st.sampled_from([8, 64, 128]),
    base=bases,
    ramp=st.sampled_from(["index", "unrounded index", "rotations"]),
    length=st.sampled_from([128, 2048, 8192]),
)
def test_yarn_keeps_fast_pairs_and_squeezes_slow_ones(factor, dim, base, ramp, length):
    plain = Scaling().frequencies(dim, base)
    scaled = YaRNScaling(factor, length, ramp=ramp).frequencies(dim, base)
    turns = length * plain / (2 * math.pi)
    fast, slow = turns >= 32, turns <= 1
    torch.testing.assert_close(scaled[fast], plain[fast], **TOLERANCE)
    torch.testing.assert_close(scaled[slow], plain[slow] / factor, **TOLERANCE)
    if factor == 1:
        return
    # γ falls from 1 to 0, and with "rotations" linearly in the number of turns
    kept = (scaled / plain - 1 / factor) / (1 - 1 / factor)
    assert (kept.diff() <= 1e-9).all()
    if ramp == "rotations":
        between = ~fast & ~slow
        torch.testing.assert_close(kept[between], (turns[between] - 1) / 31, rtol=0, atol=1e-9)


# Every fourth of the 32 frequencies of a head of width 64, as transformers 4.57 computes them.
RELEASED = {
    (4.0, 2048, 1e4): [
        1.0, 0.316228, 0.1, 0.0243252, 0.00538462, 0.000973009, 0.00025, 7.90569e-05
    ],
    (16.0, 128, 1e4): [
        1.0, 0.208423, 0.0318182, 0.00197642, 0.000625, 0.000197642, 6.25e-05, 1.97642e-05
    ],
    (8.0, 4096, 5e5): [
        1.0, 0.193923, 0.0339499, 0.00374762, 0.000176777, 3.4281e-05, 6.64787e-06, 1.28917e-06
    ],
}  # fmt: skip


@pytest.mark.parametrize(("factor", "length", "base"), RELEASED)
def test_yarn_has_the_frequencies_of_released_models(factor, length, base):
    seen = YaRNScaling(factor, length).frequencies(64, base)[::4].tolist()
    assert seen == pytest.approx(RELEASED[factor, length, base], rel=1e-5)
    paper = YaRNScaling(factor, length, ramp="rotations").frequencies(64, base)[::4].tolist()
    assert paper != pytest.approx(seen, rel=1e-2)


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize(
    ("dim", "base", "factor", "length"),
    [(64, 150000.0, 32.0, 4096), (128, 1e4, 40.0, 4096), (16, 100.0, 4.0, 32)],
    ids=["gpt-oss", "DeepSeek", "small"],
)
def test_yarn_is_that_of_transformers_rounded_or_not(dim, base, factor, length, truncate):
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    config = SimpleNamespace(
        rope_theta=base,
        head_dim=dim,
        hidden_size=dim,
        num_attention_heads=1,
        max_position_embeddings=length,
        rope_scaling={
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": length,
            "truncate": truncate,
        },
    )
    expected, attention_factor = rope.ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    ours = YaRNScaling(factor, length, ramp="index" if truncate else "unrounded index")
    torch.testing.assert_close(ours.frequencies(dim, base).float(), expected, rtol=1e-5, atol=0)
    assert ours.attention_factor == pytest.approx(attention_factor)
    other = YaRNScaling(factor, length, ramp="unrounded index" if truncate else "index")
    assert not torch.allclose(other.frequencies(dim, base).float(), expected, rtol=1e-3)


@pytest.mark.parametrize("ramp", ["index", "unrounded index", "rotations"])
def test_a_factor_of_one_changes_nothing(ramp):
    x = normal(50, 8)
    for scaling in (LinearScaling(1), NTKScaling(1.0), YaRNScaling(1.0, 16, ramp=ramp), Scaling()):
        torch.testing.assert_close(rotary(x, scaling=scaling), rotary(x), **TOLERANCE)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_the_temperature_of_yarn_is_in_the_vectors(pairing):
    """Both query and key are longer by mscale, so that a score is multiplied by its square."""
    x, scaling = normal(2, 9, 8), YaRNScaling(16.0, 32)
    mscale = 0.1 * math.log(16) + 1
    assert scaling.attention_factor == pytest.approx(mscale)
    turned = rotary(x, pairing=pairing, scaling=scaling)
    torch.testing.assert_close(turned.norm(dim=-1), mscale * x.norm(dim=-1), **TOLERANCE)
    without = YaRNScaling(16.0, 32, mscale=1)
    bare = rotary(x, pairing=pairing, scaling=without)
    torch.testing.assert_close(turned @ turned.mT, mscale**2 * (bare @ bare.mT), **TOLERANCE)
    partly = rotary(x, dim=4, pairing=pairing, scaling=scaling)
    assert torch.equal(partly[..., 4:], x[..., 4:])
    assert YaRNScaling(0.5, 32).attention_factor == 1  # shorter than before: nothing to sharpen


def test_the_layer_takes_a_scaling_too():
    x = normal(2, 9, 8)
    for scaling in (LinearScaling(4.0), NTKScaling(4.0), YaRNScaling(4.0, 8)):
        assert torch.equal(Rotary(scaling=scaling)(x), rotary(x, scaling=scaling))
        assert repr(scaling) in repr(Rotary(scaling=scaling))


def test_a_scaling_of_ones_own():
    class Slow(Scaling):
        def frequencies(self, dim, base):
            return super().frequencies(dim, base) / 100

    x = normal(5, 8)
    expected = rotary(x, torch.arange(5.0, dtype=torch.float64) / 100)
    torch.testing.assert_close(rotary(x, scaling=Slow()), expected, **TOLERANCE)
