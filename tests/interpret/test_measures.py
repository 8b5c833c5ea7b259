"""Measures of weights: known cases, bounds, and the NumPy twins."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import assert_refuses

from attn_core import interpret, reference

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def weights_of(*shape, seed=0, zeros=True):
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if zeros:
        scores = scores.masked_fill(scores < -2, -torch.inf)
    return torch.softmax(scores, -1).nan_to_num()


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_measures_are_what_the_reference_says(seed, length):
    weights = weights_of(2, 3, length, length, seed=seed)
    for name in ("entropy", "distance"):
        seen = getattr(interpret, name)(weights)
        torch.testing.assert_close(
            seen, torch.from_numpy(getattr(reference, name)(weights.numpy())), **TOLERANCE
        )
    layers = [weights_of(3, length, length, seed=seed + n) for n in range(3)]
    seen = interpret.rollout(layers, residual=0.3)
    twin = reference.rollout([layer.numpy() for layer in layers], residual=0.3)
    torch.testing.assert_close(seen, torch.from_numpy(twin), **TOLERANCE)
    sure = torch.rand(length, length, generator=torch.Generator().manual_seed(seed)) < 0.4
    possible = torch.rand(length, length, generator=torch.Generator().manual_seed(seed + 1)) < 0.4
    for optional in ((), (possible,)):
        links = [sure, *optional]
        seen = interpret.alignment_error_rate(weights[0, 0], *links).item()
        if not math.isnan(seen):
            twin = reference.alignment_error_rate(
                weights[0, 0].numpy(), *(x.numpy() for x in links)
            )
            assert seen == pytest.approx(twin, abs=1e-12)


@pytest.mark.parametrize("keys", [1, 2, 7])
def test_entropy_is_nothing_for_one_key_and_the_logarithm_for_equal_ones(keys):
    equal = torch.full((3, keys), 1 / keys, dtype=torch.float64)
    torch.testing.assert_close(
        interpret.entropy(equal), torch.full((3,), math.log(keys), dtype=torch.float64)
    )
    assert torch.equal(interpret.entropy(torch.eye(keys)), torch.zeros(keys))
    assert torch.equal(interpret.entropy(torch.zeros(2, keys)), torch.zeros(2))
    assert (interpret.entropy(weights_of(50, keys)) <= math.log(keys) + 1e-12).all()


def test_entropy_has_a_finite_gradient_where_weights_are_positive():
    weights = weights_of(3, 4, zeros=False).requires_grad_()
    assert torch.autograd.gradcheck(interpret.entropy, weights)


def test_distance_counts_positions():
    shifted = torch.eye(6).roll(2, dims=1)  # query i attends key i + 2, the last two the first
    assert interpret.distance(shifted).tolist() == [2, 2, 2, 2, 4, 4]
    step = torch.tensor([[[[0.5, 0.0, 0.0, 0.5]]]])
    assert interpret.distance(step, q_offset=3).item() == 1.5
    two = step.expand(2, 1, 1, 4)
    assert interpret.distance(two, torch.tensor([3, 1])).flatten().tolist() == [1.5, 1.5]
    assert interpret.distance(torch.zeros(2, 2)).tolist() == [0, 0]


def test_rollout_of_layers_that_stay_in_place_stays_in_place():
    layers = [torch.eye(4).expand(2, 3, 4, 4)] * 3
    torch.testing.assert_close(interpret.rollout(layers), torch.eye(4).expand(2, 4, 4))


def test_rollout_shares_out_every_position_and_keeps_causality():
    causal = [weights_of(3, 5, 5, seed=n, zeros=False).tril() for n in range(4)]
    causal = [layer / layer.sum(-1, keepdim=True) for layer in causal]
    flow = interpret.rollout(causal)
    torch.testing.assert_close(flow.sum(-1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(flow, flow.tril())


def test_rollout_goes_from_the_first_layer_to_the_last():
    """The last layer attends position 0 only, so the first layer's row 0 decides."""
    first = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    last = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    expected = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert torch.equal(interpret.rollout([first, last], residual=0.0), expected)


def test_the_alignment_error_rate_counts_links():
    gold = torch.eye(4, dtype=torch.bool)
    assert interpret.alignment_error_rate(torch.eye(4), gold) == 0
    assert interpret.alignment_error_rate(torch.eye(4).roll(1, 1), gold) == 1
    # A link that may be there is not punished, and a sure one that is missed is.
    weights = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 0.0]])
    sure = torch.tensor([[True, False, False], [False, False, True], [False, False, False]])
    may = torch.tensor([[False, False, False], [False, True, False], [False, False, False]])
    assert interpret.alignment_error_rate(weights, sure).item() == pytest.approx(1 - 2 / 4)
    assert interpret.alignment_error_rate(weights, sure, may).item() == pytest.approx(1 - 3 / 4)
    assert torch.isnan(interpret.alignment_error_rate(torch.zeros(2, 2), torch.zeros(2, 2) > 0))
    pair = interpret.alignment_error_rate(torch.stack([weights] * 2), torch.stack([sure] * 2))
    assert pair.shape == (2,)


W = torch.eye(2)[None]
REFUSED = {
    "entropy list": (lambda: interpret.entropy([[1.0]]), TypeError, ["weights", "list"]),
    "entropy vector": (lambda: interpret.entropy(W[0, 0]), ValueError, ["weights", "(2,)"]),
    "distance integers": (lambda: interpret.distance(W.long()), TypeError, ["weights", "int64"]),
    "distance no offset": (
        lambda: interpret.distance(W[:, :1]),
        ValueError,
        ["q_offset", "1", "2"],
    ),
    "distance offset": (lambda: interpret.distance(W, 0.5), TypeError, ["q_offset", "0.5"]),
    "distance offsets": (
        lambda: interpret.distance(W, torch.tensor([0, 1])),
        ValueError,
        ["q_offset", "2 entries", "(1, 2, 2)"],
    ),
    "rollout nothing": (lambda: interpret.rollout([]), ValueError, ["weights"]),
    "rollout matrix": (lambda: interpret.rollout([W[0]]), ValueError, ["weights", "(2, 2)"]),
    "rollout not square": (lambda: interpret.rollout([W[:, :1]]), ValueError, ["(1, 1, 2)"]),
    "rollout of two lengths": (
        lambda: interpret.rollout([W, torch.eye(3)[None]]),
        ValueError,
        ["one length", "(1, 3, 3)"],
    ),
    "rollout residual": (lambda: interpret.rollout([W], residual=2), ValueError, ["residual", "2"]),
    "rollout no number": (lambda: interpret.rollout([W], residual="half"), TypeError, ["residual"]),
    "gold numbers": (lambda: interpret.alignment_error_rate(W, W), TypeError, ["sure", "float32"]),
    "gold list": (lambda: interpret.alignment_error_rate(W, [True]), TypeError, ["sure", "list"]),
    "gold shape": (
        lambda: interpret.alignment_error_rate(W, W > 0, W[0] > 0),
        ValueError,
        ["possible", "(1, 2, 2)", "(2, 2)"],
    ),
    "reference entropy": (lambda: reference.entropy([1.0]), ValueError, ["weights", "(1,)"]),
    "reference distance": (lambda: reference.distance(np.ones((1, 2))), ValueError, ["q_offset"]),
    "reference rollout": (lambda: reference.rollout([np.eye(2)]), ValueError, ["(2, 2)"]),
    "reference rollout nothing": (lambda: reference.rollout([]), ValueError, ["weights"]),
    "reference residual": (
        lambda: reference.rollout([np.eye(2)[None]], residual=-1),
        ValueError,
        ["residual", "-1"],
    ),
    "reference gold": (
        lambda: reference.alignment_error_rate(np.eye(2), np.eye(3) > 0),
        ValueError,
        ["sure", "(3, 3)"],
    ),
}


@pytest.mark.parametrize(("call", "error", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_it_refuses(call, error, says):
    assert_refuses(call, error, says)
