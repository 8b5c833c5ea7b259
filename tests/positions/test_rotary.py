"""Rotary positions: what is turned, by how much, and what a score then depends on."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention, masks
from attn_core.positions import (
    LinearScaling,
    NTKScaling,
    Rotary,
    YaRNScaling,
    restarting,
    rotary,
)

# Forward-mode differentiation compiles a function the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
PAIRINGS = ["half", "interleaved"]
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def turned_by_loops(x, positions, base, dim, pairing):
    """Pair by pair, with a 2×2 matrix and Python's own cosine."""
    y = x.clone()
    for row, position in enumerate(positions):
        for k in range(dim // 2):
            a, b = (k, k + dim // 2) if pairing == "half" else (2 * k, 2 * k + 1)
            angle = position * base ** (-2 * k / dim)
            turn = torch.tensor(
                [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
                dtype=x.dtype,
            )
            y[..., row, [a, b]] = x[..., row, [a, b]] @ turn.T
    return y


@given(
    pairing=st.sampled_from(PAIRINGS),
    dim=st.sampled_from([2, 4, 6]),
    passed=st.integers(0, 3),
    positions=st.none() | st.lists(st.floats(-50, 50), min_size=3, max_size=3),
    base=st.sampled_from([10000.0, 7.5, 0.5]),
    leading=st.sampled_from([(), (2,), (2, 3), (1, 2, 2)]),
)
def test_each_pair_is_turned_by_its_own_angle(pairing, dim, passed, positions, base, leading):
    x = normal(*leading, 3, dim + passed)
    given_positions = None if positions is None else torch.tensor(positions, dtype=torch.float64)
    options = {"base": base, "dim": dim, "pairing": pairing}
    expected = turned_by_loops(x, positions or [0, 1, 2], base, dim, pairing)
    torch.testing.assert_close(rotary(x, given_positions, **options), expected, **TOLERANCE)
    layer = Rotary(dim, base=base, pairing=pairing)
    torch.testing.assert_close(layer(x, given_positions), expected, **TOLERANCE)


@pytest.mark.parametrize("pairing", PAIRINGS)
@given(shift=st.integers(-3000, 3000))
def test_a_score_depends_on_the_distance_alone(pairing, shift):
    query, key = normal(5, 8), normal(7, 8, seed=1)
    here, there = torch.arange(5), torch.arange(7)
    scores = rotary(query, here, pairing=pairing) @ rotary(key, there, pairing=pairing).mT
    moved = (
        rotary(query, here + shift, pairing=pairing)
        @ rotary(key, there + shift, pairing=pairing).mT
    )
    torch.testing.assert_close(scores, moved, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(scores, query @ key.mT)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_turn_keeps_lengths_and_the_first_position(pairing):
    x = normal(2, 3, 50, 8)
    turned = rotary(x, pairing=pairing)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), **TOLERANCE)
    assert torch.equal(turned[..., 0, :], x[..., 0, :])
    assert not torch.allclose(turned[..., 1, :], x[..., 1, :])
    back = rotary(turned, -torch.arange(50), pairing=pairing)
    torch.testing.assert_close(back, x, **TOLERANCE)


@pytest.mark.parametrize("dim", [2, 8])
def test_the_two_pairings_are_one_encoding_with_columns_in_another_order(dim):
    x = normal(2, 9, dim)
    order = torch.arange(dim).reshape(-1, 2).T.flatten()  # 0 2 4 … 1 3 5 …
    interleaved = rotary(x, pairing="interleaved")
    torch.testing.assert_close(rotary(x[..., order]), interleaved[..., order], **TOLERANCE)
    if dim > 2:
        assert not torch.allclose(rotary(x), interleaved)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_it_is_a_product_of_complex_numbers(pairing):
    x, positions = normal(4, 6), [3.0, 0.5, -2.0, 900.0]
    turned = rotary(x, torch.tensor(positions, dtype=torch.float64), pairing=pairing)
    for row, position in enumerate(positions):
        for k in range(3):
            a, b = (k, k + 3) if pairing == "half" else (2 * k, 2 * k + 1)
            number = complex(*x[row, [a, b]].tolist())
            number *= complex(math.e) ** (1j * position * 10000.0 ** (-k / 3))
            assert complex(*turned[row, [a, b]].tolist()) == pytest.approx(number, abs=1e-12)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_what_lies_beyond_dim_passes_untouched(pairing):
    x = normal(2, 5, 9)
    turned = rotary(x, dim=4, pairing=pairing)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    torch.testing.assert_close(turned[..., :4], rotary(x[..., :4], pairing=pairing), **TOLERANCE)


@pytest.mark.parametrize("position", [2_000, 100_000])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("layer", [False, True], ids=["function", "layer"])
def test_angles_are_exact_far_out(position, pairing, layer):
    """In float32 the angle itself is rounded, and the result is off by 2e-4 and more."""
    x = torch.ones(3, 64)
    at = torch.arange(position, position + 3)
    turned = Rotary(pairing=pairing)(x, at) if layer else rotary(x, at, pairing=pairing)
    exact = turned_by_loops(x.double(), at.tolist(), 10000.0, 64, pairing)
    assert (turned.double() - exact).abs().max() < 3e-7


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("dim", [4, 6])
def test_derivatives(pairing, dim):
    x = normal(2, 3, 6).requires_grad_()

    def turn(x):
        return rotary(x, dim=dim, pairing=pairing, scaling=YaRNScaling(4.0, 8))

    assert torch.autograd.gradcheck(turn, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(turn, x)
    positions = normal(3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: rotary(x, p, dim=dim, pairing=pairing), positions, check_forward_ad=True
    )


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_gradient_is_turned_by_the_opposite_angle(pairing):
    x, grad_output = normal(3, 7, 8).requires_grad_(), normal(3, 7, 8, seed=1)
    positions = torch.tensor([4, 0, 9, 2, 2, 7, 100])
    (grad,) = torch.autograd.grad(rotary(x, positions, pairing=pairing), x, grad_output)
    expected = rotary(grad_output, -positions, pairing=pairing)
    torch.testing.assert_close(grad, expected, **TOLERANCE)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_each_batch_entry_has_its_positions_and_all_heads_share_them(pairing):
    x = normal(2, 3, 4, 6)
    positions = torch.tensor([[0, 1, 2, 3], [7, 0, 1, 5]])
    for turned in (rotary(x, positions, pairing=pairing), Rotary(pairing=pairing)(x, positions)):
        for entry in range(2):
            for head in range(3):
                expected = rotary(x[entry, head], positions[entry], pairing=pairing)
                torch.testing.assert_close(turned[entry, head], expected, **TOLERANCE)
    shared = rotary(x, positions[:1], pairing=pairing)
    torch.testing.assert_close(shared, rotary(x, positions[0], pairing=pairing), **TOLERANCE)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_it_does_not_matter_how_the_vectors_lie_in_memory(pairing):
    x = normal(2, 5, 3, 8)
    split = x.transpose(1, 2)  # as heads are split: strides out of order
    shifted = normal(2 * 3 * 5 * 8 + 1)[1:].view(2, 3, 5, 8)  # begins between two pairs
    odd = normal(2, 3, 5, 9)[..., :8]  # rows lie an odd number of entries apart
    every_other = normal(2, 3, 5, 16)[..., ::2]
    for view in (split, shifted, odd, every_other):
        expected = turned_by_loops(view, range(5), 1e4, 8, pairing)
        torch.testing.assert_close(rotary(view, pairing=pairing), expected, **TOLERANCE)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_input_is_left_as_it_was(pairing):
    x = normal(3, 8)
    before = x.clone()
    rotary(x, pairing=pairing)
    Rotary(4, pairing=pairing)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_nothing_to_turn(pairing):
    for shape in [(0, 4), (2, 0, 4), (0, 3, 5, 4)]:
        x = torch.zeros(shape)
        assert rotary(x, pairing=pairing).shape == shape
        assert Rotary(pairing=pairing)(x, torch.arange(shape[-2])).shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_half_precision_is_rounded_once(dtype, pairing):
    x = normal(2, 300, 16).to(dtype)
    for turned in (rotary(x, pairing=pairing), Rotary(pairing=pairing)(x)):
        assert turned.dtype == dtype
        exact = rotary(x.double(), pairing=pairing)
        half_an_ulp = 0.501 * torch.finfo(dtype).eps * exact.abs()
        assert ((turned.double() - exact).abs() <= half_an_ulp + 2e-6).all()
        plain = turned_by_plain_formula(x, pairing)
        ours = (turned.double() - exact).abs().max()
        assert ours <= (plain.double() - exact).abs().max()


def turned_by_plain_formula(x, pairing):
    """Cosines and sines rounded to the dtype of x, and products in it."""
    angles = torch.outer(torch.arange(300.0), 10000.0 ** (-torch.arange(8) / 8))
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1) if pairing == "half" else (x[..., ::2], x[..., 1::2])
    parts = [a * cos - b * sin, a * sin + b * cos]
    return torch.cat(parts, -1) if pairing == "half" else torch.stack(parts, -1).flatten(-2)


def test_the_layer_keeps_its_table_and_the_table_is_no_state():
    layer = Rotary()
    assert list(layer.parameters()) == []
    layer(normal(3, 5, 8))
    assert layer.state_dict() == {}
    table = layer._table
    layer(normal(3, 40, 8))
    layer(normal(1, 8), torch.tensor([63]))
    assert layer._table is table
    layer(normal(1, 8), torch.tensor([64]))
    assert len(layer._table) > len(table)
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(normal(5, 8)), layer(normal(5, 8)))


def test_the_table_follows_dtype_and_device():
    layer, x = Rotary(), normal(5, 8)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.float64, torch.bfloat16):
        assert torch.equal(layer(x.to(dtype)), rotary(x.to(dtype)))
    for device in ("meta", "cpu"):
        assert layer(x.to(device)).device.type == device
    assert torch.equal(layer.half()(x), rotary(x))  # x decides, not what the layer is cast to


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([torch.float32, torch.float64, torch.float16]),
            st.sampled_from([4, 8]),
            st.integers(0, 200),
            st.sampled_from(["from 0", "from 150", "before 0", "floats", "too far for a table"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_layer_does_what_the_function_does_whatever_came_before(steps):
    layer = Rotary(scaling=LinearScaling(3.0))
    for dtype, width, length, start in steps:
        x = normal(length, width).to(dtype)
        positions = {
            "from 0": None,
            "from 150": torch.arange(length) + 150,
            "before 0": torch.arange(length) - 5,
            "floats": torch.arange(length) / 3,
            "too far for a table": torch.arange(length) + 10**7,
        }[start]
        expected = rotary(x, positions, scaling=LinearScaling(3.0))
        assert torch.equal(layer(x, positions), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integers_of_any_size(dtype):
    x = normal(2, 1, 4, 6)
    positions = torch.tensor([1, 0, 5, 1], dtype=dtype)
    expected = rotary(x, torch.tensor([1.0, 0.0, 5.0, 1.0]))
    assert torch.equal(rotary(x, positions), expected)
    assert torch.equal(Rotary()(x, positions), expected)


def test_a_layer_used_in_inference_mode_can_be_trained_afterwards():
    layer = Rotary()
    with torch.inference_mode():
        layer(normal(5, 8))
    x = normal(5, 8).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_cached_decoding_equals_the_full_pass(pairing):
    """A key is turned where it stands, and a new query where it stands, not at 0."""
    query, key, value = normal(2, 4, 7, 8), normal(2, 2, 7, 8, seed=1), normal(2, 2, 7, 8, seed=2)
    layer = Rotary(pairing=pairing)
    full = attention(layer(query), layer(key), value, mask=masks.causal())
    for step in range(7):
        at = torch.tensor([step])
        one = attention(
            layer(query[..., step : step + 1, :], at),
            layer(key[..., : step + 1, :]),
            value[..., : step + 1, :],
            mask=masks.causal(),
            q_offset=step,
        )
        torch.testing.assert_close(one, full[..., step : step + 1, :], **TOLERANCE)


def test_padding_on_the_left_moves_all_positions_and_changes_no_score():
    query, key = normal(1, 2, 4, 8), normal(1, 2, 4, 8, seed=1)
    padded_query, padded_key = (
        torch.cat([torch.zeros(1, 2, 3, 8, dtype=x.dtype), x], -2) for x in (query, key)
    )
    scores = rotary(query) @ rotary(key).mT
    padded = rotary(padded_query) @ rotary(padded_key).mT
    torch.testing.assert_close(padded[..., 3:, 3:], scores, **TOLERANCE)


def test_packed_documents_have_the_scores_that_each_has_alone():
    ids = torch.tensor([[0, 0, 0, 1, 1], [5, 5, 5, 5, 2]])
    query, key, value = (normal(2, 2, 5, 8, seed=seed) for seed in range(3))
    at = restarting(ids)
    packed = attention(
        rotary(query, at), rotary(key, at), value, mask=masks.document(ids) & masks.causal()
    )
    for entry, spans in enumerate([[(0, 3), (3, 5)], [(0, 4), (4, 5)]]):
        for first, last in spans:
            q, k, v = (x[entry, :, first:last] for x in (query, key, value))
            alone = attention(rotary(q), rotary(k), v, mask=masks.causal())
            torch.testing.assert_close(packed[entry, :, first:last], alone, **TOLERANCE)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_it_can_be_mapped_over_a_dimension(pairing):
    x = normal(3, 2, 5, 8)
    mapped = torch.func.vmap(lambda one: rotary(one, pairing=pairing))(x)
    torch.testing.assert_close(mapped, rotary(x, pairing=pairing), **TOLERANCE)


@pytest.mark.parametrize("scaling", [NTKScaling(4.0), YaRNScaling(4.0, 16)], ids=repr)
def test_a_scaled_score_depends_on_the_distance_alone(scaling):
    query, key = normal(5, 8), normal(5, 8, seed=1)
    at = torch.arange(5)
    scores = rotary(query, at, scaling=scaling) @ rotary(key, at, scaling=scaling).mT
    moved = rotary(query, at + 9, scaling=scaling) @ rotary(key, at + 9, scaling=scaling).mT
    torch.testing.assert_close(scores, moved, rtol=1e-10, atol=1e-10)


SETTINGS = {
    "base": 50.0,
    "scaling": LinearScaling(4.0),
    "pairing": "interleaved",
    "dim": 4,
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("asked", [{}, {"positions": torch.arange(2, 7)}, {"offset": 2}], ids=str)
def test_a_setting_that_is_changed_is_followed(name, asked):
    (x,) = (torch.randn(2, 3, 5, 8),)
    layer = Rotary()
    before = layer(x, **asked)
    setattr(layer, name, SETTINGS[name])
    assert not torch.equal(layer(x, **asked), before)
    assert torch.equal(layer(x, **asked), Rotary(**{name: SETTINGS[name]})(x, **asked))


@pytest.mark.parametrize(
    ("name", "setting", "error"),
    [
        ("base", -1.0, ValueError),
        ("pairing", "halves", ValueError),
        ("scaling", 4.0, TypeError),
        ("dim", 3, ValueError),
    ],
)
def test_a_setting_that_is_changed_is_checked(name, setting, error):
    layer = Rotary()
    setattr(layer, name, setting)
    for _ in range(2):
        with pytest.raises(error, match=name):
            layer(torch.randn(5, 8))


@pytest.mark.parametrize("offset", [-3, 0, 1, 200, 2**17 - 2])
def test_an_offset_is_the_position_of_the_first_vector(offset):
    x, layer = torch.randn(2, 3, 5, 8), Rotary()
    assert torch.equal(layer(x, offset=offset), layer(x, torch.arange(offset, offset + 5)))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"offset": 1.0}, TypeError, "offset must be an integer, got 1.0"),
        ({"offset": True}, TypeError, "offset must be an integer, got True"),
        ({"offset": 2, "positions": torch.arange(5)}, ValueError, "offset and positions"),
    ],
    ids=str,
)
def test_a_wrong_offset_is_refused(options, error, says):
    with pytest.raises(error, match=says):
        Rotary()(torch.randn(5, 8), **options)
