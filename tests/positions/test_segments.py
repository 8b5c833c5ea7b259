"""Segments: told apart by a vector of their own, or counting their positions anew."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core.positions import (
    LearnedEncoding,
    SegmentEncoding,
    SinusoidalEncoding,
    restarting,
    sinusoidal,
)


@given(st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=3))
def test_positions_count_from_zero_in_every_stretch_of_equal_ids(rows):
    positions = restarting(torch.tensor(rows))
    for row, seen in zip(rows, positions.tolist(), strict=True):
        expected = []
        for t, name in enumerate(row):
            goes_on = t > 0 and row[t - 1] == name
            expected.append(expected[-1] + 1 if goes_on else 0)
        assert seen == expected


def test_the_segments_of_equal_length_in_the_document():
    """D4: n positions in k segments of length m = n / k, and an absolute encoding in each."""
    n, k = 12, 3
    m = n // k
    positions = restarting(torch.arange(n) // m)
    assert positions.tolist() == [*range(m)] * k
    x = torch.randn(2, n, 6, generator=torch.Generator().manual_seed(0))
    encoded = SinusoidalEncoding(6)(x, positions=positions)
    expected = x + sinusoidal(m, 6).repeat(k, 1)
    torch.testing.assert_close(encoded, expected)


def test_restarting_positions_alone_make_tokens_of_two_segments_alike():
    ids = torch.tensor([0, 0, 1, 1])
    x = torch.ones(1, 4, 6)
    by_position = SinusoidalEncoding(6)(x, positions=restarting(ids))
    assert torch.equal(by_position[:, :2], by_position[:, 2:])
    told_apart = SegmentEncoding(2, 6)(by_position, ids)
    assert not torch.isclose(told_apart[:, :2], told_apart[:, 2:]).all(-1).any()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (2, 3, 5)])
def test_any_shape_of_ids(shape):
    assert torch.equal(
        restarting(torch.ones(shape, dtype=torch.int32)),
        torch.arange(5).expand(shape) if 5 in shape else torch.zeros(shape, dtype=torch.int64),
    )


def test_each_vector_gets_the_vector_of_its_segment():
    layer = SegmentEncoding(3, 4)
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 0, 1, 1, 2], [2, 2, 2, 0, 0]])
    encoded = layer(x, ids)
    for entry in range(2):
        for t in range(5):
            expected = x[entry, t] + layer.weight[ids[entry, t]]
            assert torch.equal(encoded[entry, t], expected)
    assert torch.equal(layer(x, ids[0]), layer(x, ids[:1].expand(2, 5)))
    assert torch.equal(layer(x[0], ids[0]), encoded[0])
    assert layer(x[:, :0], ids[:, :0]).shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_integers_of_any_size(dtype):
    x, ids = torch.zeros(4, 6), torch.tensor([0, 1, 1, 0])
    small = ids.to(dtype)
    assert torch.equal(restarting(small), restarting(ids))
    segments, learned = SegmentEncoding(2, 6), LearnedEncoding(9, 6)
    assert torch.equal(segments(x, small), segments(x, ids))
    assert torch.equal(learned(x, positions=small), learned(x, positions=ids))


def test_a_segment_learns_from_its_own_vectors():
    layer = SegmentEncoding(3, 2)
    x = torch.zeros(2, 4, 2, requires_grad=True)
    layer(x, torch.tensor([[0, 0, 0, 2], [2, 0, 0, 0]])).sum().backward()
    assert layer.weight.grad.tolist() == [[6, 6], [0, 0], [2, 2]]
    assert (x.grad == 1).all()


@pytest.mark.parametrize("layer", [SinusoidalEncoding(6), LearnedEncoding(50, 6)], ids=repr)
def test_an_encoding_at_given_positions_is_the_one_of_those_positions(layer):
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(x, positions=torch.arange(4)), layer(x))
    assert torch.equal(layer(x, positions=torch.arange(7, 11)), layer(x, offset=7))
    positions = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [9, 9, 40, 0]])
    encoded = layer(x, positions=positions)
    for entry in range(3):
        for t in range(4):
            expected = layer(x[entry, t : t + 1], offset=int(positions[entry, t]))[0]
            torch.testing.assert_close(encoded[entry, t], expected)


def test_a_sinusoid_stands_between_positions_too():
    at = torch.tensor([0.5, 1.25])
    encoded = SinusoidalEncoding(2)(torch.zeros(2, 2), positions=at)
    torch.testing.assert_close(encoded, torch.stack([at.sin(), at.cos()], -1))
