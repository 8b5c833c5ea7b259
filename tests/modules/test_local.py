"""Luong's local attention: a window that goes with the query, or where the query predicts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention, masks, scores
from attn_core.modules import LocalMonotonic, LocalPredictive

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
LAYERS = {
    "local-m": lambda window=2, **options: LocalMonotonic(window, **options).double(),
    "local-p": lambda window=2, **options: predictive(window, **options),
}


def predictive(window=2, **options):
    torch.manual_seed(0)
    layer = LocalPredictive(4, window, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def normal(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def row_of_local_p(layer, query, keys):
    """The equations for one query, number by number."""
    hidden = [
        math.tanh(sum(w * q for w, q in zip(row, query, strict=True)))
        for row in layer.hidden_proj.weight.tolist()
    ]
    z = sum(v * h for v, h in zip(layer.position_vector.tolist(), hidden, strict=True))
    center = len(keys) / (1 + math.exp(-z))
    inside = [s for s in range(len(keys)) if abs(s - center) <= layer.window]
    powers = {s: math.exp(sum(q * k for q, k in zip(query, keys[s], strict=True))) for s in inside}
    sigma = layer.window / 2
    return [
        powers[s] / sum(powers.values()) * math.exp(-((s - center) ** 2) / (2 * sigma**2))
        if s in inside
        else 0.0
        for s in range(len(keys))
    ]


@given(window=st.integers(1, 4), lengths=st.lists(st.integers(0, 7), min_size=2, max_size=2))
def test_local_p_is_the_equation(window, lengths):
    layer = predictive(window)
    query, key, value = normal((2, 3, 4), (2, 7, 4), (2, 7, 5))
    seen = layer(query, key, value, lengths=lengths, return_weights=True)
    for entry, length in enumerate(lengths):
        for t in range(3):
            row = row_of_local_p(layer, query[entry, t].tolist(), key[entry, :length].tolist())
            expected = torch.tensor([*row, *[0.0] * (7 - length)], dtype=torch.float64)
            torch.testing.assert_close(seen.weights[entry, t], expected, **TOLERANCE)
            torch.testing.assert_close(
                seen.output[entry, t], (expected[:, None] * value[entry]).sum(0), **TOLERANCE
            )


def test_local_p_looks_between_the_first_and_the_last_real_key():
    layer, (query, key) = predictive(), normal((2, 50, 4), (2, 9, 4))
    with torch.no_grad():
        layer.position_vector.mul_(10)
    centers = layer.centers(query, key, lengths=[9, 4])
    assert centers.shape == (2, 50)
    assert (centers >= 0).all()
    assert (centers[0] <= 9).all()
    assert (centers[1] <= 4).all()
    assert centers[0].max() > 8.5
    assert centers[1].max() > 3.5


@pytest.mark.parametrize("window", [1, 2])
def test_the_keys_at_the_ends_of_the_window_are_inside(window):
    """With equal scores for all places the centre is half the number of keys, exactly."""
    layer, (query, key) = predictive(window), normal((1, 1, 4), (1, 6, 4))
    with torch.no_grad():
        layer.position_vector.zero_()
    weights = layer(query, key, return_weights=True).weights[0, 0]
    assert layer.centers(query, key).item() == 3
    assert weights.nonzero().flatten().tolist() == list(range(3 - window, 3 + window + 1))


def test_local_p_learns_where_to_look():
    """Only the Gaussian tells the centre where to go: it finds the key that is asked for."""
    layer, (query, key) = predictive(window=5), normal((1, 1, 4), (1, 12, 4))
    value = torch.eye(12, dtype=torch.float64)[None]
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (-layer(query, key * 0, value)[0, 0, 8]).backward()
        optimizer.step()
    assert abs(layer.centers(query, key).item() - 8) < 0.5


def test_gradients_of_local_p_are_those_of_finite_differences():
    layer, (query, key, value) = predictive(window=3), normal((1, 2, 4), (1, 6, 4), (1, 6, 2))
    names = [name for name, _ in layer.named_parameters()]

    def call(query, key, value, *parameters):
        given_parameters = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given_parameters, (query, key, value))

    inputs = [x.requires_grad_() for x in (query, key, value)]
    assert torch.autograd.gradcheck(call, [*inputs, *layer.parameters()])


@given(
    window=st.integers(0, 4),
    q_offset=st.sampled_from([0, 2, [1, 4]]),
    lengths=st.lists(st.integers(0, 6), min_size=2, max_size=2),
)
def test_local_m_is_the_softmax_of_the_window_alone(window, q_offset, lengths):
    layer = LocalMonotonic(window).double()
    query, key, value = normal((2, 4, 3), (2, 6, 3), (2, 6, 5))
    given_offset = torch.tensor(q_offset) if isinstance(q_offset, list) else q_offset
    seen = layer(query, key, value, lengths=lengths, q_offset=given_offset, return_weights=True)
    for entry, length in enumerate(lengths):
        for i in range(4):
            t = i + (q_offset[entry] if isinstance(q_offset, list) else q_offset)
            near = [s for s in range(length) if abs(s - t) <= window]
            expected = torch.zeros(6, dtype=torch.float64)
            if near:
                expected[near] = torch.softmax(key[entry, near] @ query[entry, i], 0)
            torch.testing.assert_close(seen.weights[entry, i], expected, **TOLERANCE)
            torch.testing.assert_close(seen.output[entry, i], expected @ value[entry], **TOLERANCE)


def test_local_m_with_a_window_as_wide_as_the_sequence_is_global():
    query, key = normal((2, 5, 3), (2, 5, 3))
    seen = LocalMonotonic(4)(query, key)
    torch.testing.assert_close(seen, attention(query, key, key, score=scores.dot), **TOLERANCE)


def test_local_m_step_by_step_is_local_m_at_once():
    layer, (query, key) = LocalMonotonic(1), normal((2, 5, 3), (2, 6, 3))
    steps = [layer(query[:, t : t + 1], key, q_offset=t) for t in range(5)]
    torch.testing.assert_close(torch.cat(steps, 1), layer(query, key), **TOLERANCE)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("score", ["general", "concat"])
def test_any_of_luongs_scores_may_align(make, score):
    torch.manual_seed(1)
    align = scores.Bilinear(4, 3) if score == "general" else scores.Additive(4, 3, 5)
    layer, (query, key) = make(score=align.double()), normal((2, 3, 4), (2, 6, 3))
    seen = layer(query, key, return_weights=True)
    assert set(align.parameters()) <= set(layer.parameters())
    by_dot = make()
    by_dot.load_state_dict(layer.state_dict(), strict=False)  # the same centres
    other = by_dot(query, torch.zeros(2, 6, 4, dtype=torch.float64), return_weights=True)
    assert torch.equal(seen.weights > 0, other.weights > 0)
    # Keys of zeros have equal scores: what is left after division is what the score has added.
    ratio = (seen.weights / other.weights).nan_to_num()
    expected = align(query, key).exp() * (seen.weights > 0)
    normed = [x / x.sum(-1, keepdim=True) for x in (ratio, expected)]
    torch.testing.assert_close(*normed, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_asking_for_weights_changes_no_bit(make):
    layer, (query, key) = make(), normal((2, 3, 4), (2, 6, 4))
    assert torch.equal(layer(query, key), layer(query, key, return_weights=True).output)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_poisoned_padding_reaches_nothing_and_no_keys_give_zeros(make):
    layer, (query, key, value) = make(), normal((3, 3, 4), (3, 6, 4), (3, 6, 2))
    results = []
    for poison in (1.0, torch.nan, torch.inf):
        key[1, 3:], value[1, 3:], key[2], value[2] = poison, poison, poison, poison
        inputs = [x.clone().requires_grad_() for x in (query, key, value)]
        output = layer(*inputs, lengths=[6, 3, 0])
        gradients = torch.autograd.grad(output.sum(), [*inputs, *layer.parameters()])
        results.append([output, *gradients])
    for seen in results:
        assert (seen[0][2] == 0).all()
        assert (seen[2][1, 3:] == 0).all()
        for one, two in zip(seen, results[0], strict=True):
            assert torch.equal(one, two)
            assert one.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_centers_far_out_survive_half_precision(dtype):
    layer, (query,) = predictive().to(dtype), normal((1, 20, 4))
    key = torch.zeros(1, 5000, 4, dtype=dtype)
    centers = layer.centers(query.to(dtype), key)
    assert centers.dtype == torch.float32
    exact = layer.double().centers(query.to(dtype).double(), key)
    # σ moves by at most a quarter of what its argument moves.
    assert ((centers - exact).abs() <= 5000 * torch.finfo(dtype).eps * 3).all()
    seen = layer.to(dtype)(query.to(dtype), key, return_weights=True)
    assert seen.weights.dtype == dtype
    assert ((seen.weights > 0).sum(-1) >= 3).all()


def test_local_m_is_a_window_mask():
    query, key = normal((2, 6, 4), (2, 6, 4))
    mask = masks.window(2, 2)
    expected = attention(query[:, None], key[:, None], key[:, None], score=scores.dot, mask=mask)[
        :, 0
    ]
    torch.testing.assert_close(LocalMonotonic(2)(query, key), expected, **TOLERANCE)
