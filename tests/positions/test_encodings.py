"""Positions: one vector for each, told apart, and exact however far out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core.positions import LearnedEncoding, SegmentEncoding, SinusoidalEncoding, sinusoidal


@given(length=st.integers(0, 30), dim=st.integers(1, 9), base=st.sampled_from([10000.0, 7.5]))
def test_columns_alternate_sine_and_cosine_of_falling_frequencies(length, dim, base):
    table = sinusoidal(length, dim, base)
    assert table.shape == (length, dim)
    for position in range(length):
        for column in range(dim):
            angle = position / base ** (2 * (column // 2) / dim)
            wave = math.sin if column % 2 == 0 else math.cos
            assert table[position, column].item() == pytest.approx(wave(angle), abs=1e-6)


@pytest.mark.parametrize("start", [2_000, 100_000])
def test_angles_are_exact_far_out(start):
    """In float32 the angle itself is rounded, and the sine is off by 2e-4 and more."""
    dim = 64
    table = SinusoidalEncoding(dim)(torch.zeros(3, dim), offset=start)
    for row in range(3):
        for column in range(dim):
            angle = (start + row) * 10000.0 ** (-2 * (column // 2) / dim)
            wave = math.sin if column % 2 == 0 else math.cos
            assert table[row, column].item() == pytest.approx(wave(angle), abs=6e-8)


def test_the_table_and_the_layer_agree():
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    layer = SinusoidalEncoding(6, base=50.0)
    assert torch.equal(layer(x), x + sinusoidal(5, 6, 50.0))
    assert torch.equal(layer(x, offset=4), x + sinusoidal(9, 6, 50.0)[4:])
    assert list(layer.parameters()) == []


def test_the_table_has_the_default_dtype_and_the_layer_that_of_its_input():
    assert sinusoidal(2, 4).dtype == torch.float32
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert SinusoidalEncoding(4)(torch.zeros(2, 4, dtype=dtype)).dtype == dtype
    exact = SinusoidalEncoding(4)(torch.zeros(50, 4, dtype=torch.float64))
    assert exact[49, 0].item() == pytest.approx(math.sin(49), abs=1e-15)


@given(shift=st.integers(0, 50), dim=st.sampled_from([2, 8]))
def test_the_product_of_two_positions_depends_on_their_distance_alone(shift, dim):
    table = SinusoidalEncoding(dim)(torch.zeros(60, dim, dtype=torch.float64))
    products = table[:5] @ table[:5].T
    moved = table[shift : shift + 5] @ table[shift : shift + 5].T
    torch.testing.assert_close(products, moved, rtol=1e-9, atol=1e-9)


def test_no_two_positions_are_alike():
    table = sinusoidal(5000, 32)
    assert len(torch.unique(table, dim=0)) == 5000


def encodings():
    torch.manual_seed(0)
    return [SinusoidalEncoding(6), LearnedEncoding(20, 6)]


@pytest.mark.parametrize("layer", encodings(), ids=["sinusoidal", "learned"])
def test_batch_entries_have_the_same_encoding_and_positions_have_not(layer):
    """A common mistake takes the batch index for the position."""
    encoded = layer(torch.zeros(3, 5, 6))
    assert torch.equal(encoded[0], encoded[1])
    assert torch.equal(encoded[0], encoded[2])
    assert len(torch.unique(encoded[0], dim=0)) == 5


@pytest.mark.parametrize("layer", encodings(), ids=["sinusoidal", "learned"])
def test_encoding_piece_by_piece_equals_encoding_at_once(layer):
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1))
    pieces = [layer(x[:, :3]), layer(x[:, 3:4], offset=3), layer(x[:, 4:], offset=4)]
    assert torch.equal(torch.cat(pieces, 1), layer(x))
    assert layer(x[:, :0]).shape == (2, 0, 6)


@pytest.mark.parametrize("layer", encodings(), ids=["sinusoidal", "learned"])
def test_the_input_is_added_to_and_not_changed(layer):
    x = torch.ones(2, 4, 6, requires_grad=True)
    encoded = layer(x)
    torch.testing.assert_close(encoded - 1, layer(torch.zeros(2, 4, 6)))
    encoded.sum().backward()
    assert (x.grad == 1).all()
    assert (x == 1).all()


OTHERS = [torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_what_is_encoded_keeps_its_dtype(dtype):
    x, places = torch.zeros(2, 4, 6, dtype=dtype), torch.arange(4)
    learned, segments = LearnedEncoding(20, 6).to(dtype), SegmentEncoding(4, 6).to(dtype)
    for layer in (SinusoidalEncoding(6), learned):
        assert layer(x).dtype == layer(x, positions=places).dtype == dtype
    assert segments(x, places).dtype == dtype


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_what_is_learned_is_added_to_its_own_dtype_only(dtype):
    x, places = torch.zeros(2, 4, 6, dtype=dtype), torch.arange(4)
    for call in (
        lambda: LearnedEncoding(20, 6)(x),
        lambda: LearnedEncoding(20, 6)(x, positions=places),
        lambda: SegmentEncoding(4, 6)(x, places),
    ):
        with pytest.raises(TypeError, match=rf"x has dtype {dtype}, but the layer has torch.float"):
            call()


@pytest.mark.parametrize("layer", [*encodings(), SegmentEncoding(4, 6)], ids=repr)
def test_places_can_differ_under_vmap(layer):
    x, places = torch.zeros(2, 3, 6), torch.tensor([[0, 1, 2], [3, 1, 0]])
    name = "segment_ids" if isinstance(layer, SegmentEncoding) else "positions"
    each = torch.func.vmap(lambda x, places: layer(x, **{name: places}))
    assert torch.equal(each(x, places), layer(x, **{name: places}))


def test_a_learned_encoding_learns_the_positions_that_it_saw():
    layer = LearnedEncoding(10, 4)
    layer(torch.zeros(3, 2, 4), offset=5).sum().backward()
    expected = torch.zeros(10, 4)
    expected[5:7] = 3
    assert torch.equal(layer.weight.grad, expected)


def test_a_learned_encoding_ends_at_its_longest_length():
    layer = LearnedEncoding(10, 4)
    assert layer(torch.zeros(10, 4)).shape == (10, 4)
    assert layer(torch.zeros(3, 4), offset=7).shape == (3, 4)
    for length, offset in [(11, 0), (3, 8), (1, 10)]:
        with pytest.raises(ValueError, match=rf"position {length + offset - 1}.*max_len is 10"):
            layer(torch.zeros(length, 4), offset=offset)
