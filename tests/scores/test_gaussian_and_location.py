"""Nearness, exact where the usual formula has no digit left; and places, whatever stands there."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import assert_refuses

from attn_core import attention, masks, reference, scores
from attn_core.squared_distance import squared_distance

# Forward-mode differentiation compiles a function the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_softmax_of_it_is_the_regression_of_nadaraya_and_watson():
    """Each training point votes with the normal density of its distance."""
    key, value, query = normal(20, 1), normal(20, 1, seed=1), normal(5, 1, seed=2)
    density = torch.distributions.Normal(key[:, 0], torch.tensor(0.4, dtype=torch.float64))
    votes = density.log_prob(query).exp()  # (5, 20)
    expected = votes @ value / votes.sum(-1, keepdim=True)
    seen = attention(query, key, value, score=lambda q, k: scores.gaussian(q, k, bandwidth=0.4))
    torch.testing.assert_close(seen, expected, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bandwidth", [0.25, 3.0])
def test_near_points_far_from_zero_keep_all_their_digits(dtype, bandwidth):
    """|q|² − 2 q·k + |k|² would have none: 256² in half precision knows no 1 beside it."""
    unit = 256 * torch.finfo(dtype).eps  # the gap between neighbouring numbers there
    query = torch.full((1, 3), 256.0, dtype=dtype)
    steps = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 2, 2]], dtype=dtype)
    key = (256 + unit * steps).requires_grad_()
    seen = scores.gaussian(query, key, bandwidth=bandwidth)
    exact = -(unit**2) * torch.tensor([0.0, 1, 9], dtype=torch.float64) / (2 * bandwidth**2)
    assert seen.dtype == dtype
    error = (seen[0].double() - exact).abs()
    assert (error <= torch.finfo(dtype).eps * exact.abs()).all()
    (gradient,) = torch.autograd.grad(seen.sum(), key)
    exact = -unit * steps.double() / bandwidth**2
    assert ((gradient.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    query, key = normal(20, 64).to(dtype), normal(30, 64, seed=1).to(dtype)
    exact = scores.gaussian(query.double(), key.double(), bandwidth=2.0)
    seen = scores.gaussian(query, key, bandwidth=2.0)
    assert ((seen.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs()).all()


@given(seed=st.integers(0, 999), shift=st.sampled_from([-64.0, 1024.0]))
def test_moving_everything_changes_nothing(seed, shift):
    query, key = (
        (normal(3, 4, seed=seed + i) * 1024).round() / 1024 for i in range(2)
    )  # so that the shift itself rounds nothing away
    assert torch.equal(scores.gaussian(query + shift, key + shift), scores.gaussian(query, key))


def test_a_query_that_is_a_key_scores_zero_there_and_less_elsewhere():
    x = normal(6, 4).requires_grad_()
    seen = scores.gaussian(x, x)
    assert (seen.diagonal() == 0).all()
    assert (seen <= 0).all()
    assert (seen.fill_diagonal_(-1) < 0).all()
    torch.testing.assert_close(seen, seen.T)


def test_no_table_of_all_differences_is_kept():
    """512 × 512 pairs of width 64 are 64 MiB of differences, and 1 MiB of scores."""
    query, key = (normal(512, 64, seed=i).float().requires_grad_() for i in range(2))
    kept = []

    def pack(x):
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        seen = scores.gaussian(query, key)
    assert sum(kept) <= 3 * 512 * 512
    with torch.profiler.profile(profile_memory=True) as profile:
        seen.sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 2**20


def test_the_gradient_at_a_distance_of_zero_is_zero():
    x = normal(1, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(scores.gaussian(x, x.detach()).sum(), x)
    assert (gradient == 0).all()


@pytest.mark.parametrize("shapes", [((2, 3, 4), (5, 4)), ((3, 4), (2, 1, 5, 4)), ((0, 4), (5, 4))])
def test_squared_distances_broadcast(shapes):
    x, y = (normal(*shape, seed=i) for i, shape in enumerate(shapes))
    expected = (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)
    torch.testing.assert_close(squared_distance(x, y), expected, **TOLERANCE)


LEADING = [((4, 6), (5, 6)), ((2, 4, 6), (2, 5, 6)), ((2, 1, 4, 6), (3, 5, 6))]


@pytest.mark.parametrize("shapes", LEADING, ids=str)
def test_the_gaussian_and_its_twin(shapes):
    arrays = [normal(*shape, seed=i).numpy() for i, shape in enumerate(shapes)]
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    seen = scores.gaussian(*tensors, bandwidth=0.8)
    expected = reference.gaussian(*arrays, bandwidth=0.8)
    np.testing.assert_allclose(seen.detach().numpy(), expected, **TOLERANCE)
    grad = np.random.default_rng(7).normal(size=expected.shape)
    gradients = torch.autograd.grad(seen, tensors, torch.tensor(grad))
    expected = reference.gaussian_backward(grad, *arrays, bandwidth=0.8)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, **TOLERANCE)


@pytest.mark.parametrize("shapes", LEADING, ids=str)
def test_the_location_and_its_twin(shapes):
    layer = scores.Location(query_dim=6, max_len=7).double()
    query, key = (normal(*shape, seed=i) for i, shape in enumerate(shapes))
    weight = layer.weight.detach().numpy()
    query.requires_grad_()
    seen = layer(query, key)
    arrays = (query.detach().numpy(), key.numpy(), weight)
    expected = reference.location(*arrays)
    np.testing.assert_allclose(seen.detach().numpy(), expected, **TOLERANCE)
    grad = np.random.default_rng(7).normal(size=expected.shape)
    gradients = torch.autograd.grad(seen, [query, layer.weight], torch.tensor(grad))
    grad_query, grad_key, grad_weight = reference.location_backward(grad, *arrays)
    np.testing.assert_allclose(gradients[0].numpy(), grad_query, **TOLERANCE)
    np.testing.assert_allclose(gradients[1].numpy(), grad_weight, **TOLERANCE)
    assert grad_key.shape == key.shape
    assert (grad_key == 0).all()
    assert (grad_weight[5:] == 0).all()  # places beyond the keys


@pytest.mark.parametrize("name", ["gaussian", "location"])
def test_the_formula_is_what_finite_differences_measure(name):
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=shape) for shape in ((2, 1, 3, 4), (2, 5, 4), (6, 4))]
    inputs = inputs if name == "location" else inputs[:2]
    forward, backward = getattr(reference, name), getattr(reference, f"{name}_backward")
    grad = rng.normal(size=forward(*inputs).shape)
    gradients = backward(grad, *inputs)
    for position, gradient in enumerate(gradients):
        measured = np.zeros_like(gradient)
        for at in np.ndindex(gradient.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [x.copy() for x in inputs]
                moved[position][at] += step
                ends.append((grad * forward(*moved)).sum())
            measured[at] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(gradient, measured, rtol=1e-6, atol=1e-8)


def test_a_place_is_scored_by_the_query_alone():
    layer = scores.Location(3, max_len=6)
    query = normal(2, 4, 3).float()
    seen = layer(query, normal(2, 5, 7).float())
    assert torch.equal(seen, layer(query, torch.zeros(2, 5, 1)))
    for i in range(4):
        for j in range(5):
            place = math.fsum((layer.weight[j] * query[0, i]).tolist())
            assert seen[0, i, j].item() == pytest.approx(place, abs=1e-6)
    shorter = layer(query, torch.zeros(2, 3, 1))
    torch.testing.assert_close(shorter, seen[..., :3])


def test_attention_by_place_with_padding():
    layer = scores.Location(4, max_len=6)
    query, key, value = normal(2, 1, 3, 4).float(), normal(2, 1, 5, 4), normal(2, 1, 5, 2)
    key, value = key.float(), value.float()
    mask = masks.padding([5, 3])
    output, weights = attention(query, key, value, score=layer, mask=mask, return_weights=True)
    expected = layer(query[1], key[1, :, :3]).softmax(-1)
    torch.testing.assert_close(weights[1, ..., :3], expected)
    assert (weights[1, ..., 3:] == 0).all()
    value[1, :, 3:] = key[1, :, 3:] = torch.nan
    assert torch.equal(attention(query, key, value, score=layer, mask=mask), output)


def test_derivatives_of_the_location_are_right():
    layer = scores.Location(3, max_len=6).double()
    key = normal(2, 1, 5, 3)

    def call(query, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (query, key))

    inputs = (normal(3, 4, 3).requires_grad_(), layer.weight.detach().requires_grad_())
    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs)


X = torch.ones(2, 4)
ROWS = np.ones((2, 4))
BAD_CALLS = {
    "no bandwidth": (lambda: scores.gaussian(X, X, bandwidth=0), ValueError, ["bandwidth", "0"]),
    "bandwidth below zero": (
        lambda: scores.gaussian(X, X, bandwidth=-1.5),
        ValueError,
        ["bandwidth", "-1.5"],
    ),
    "bandwidth infinite": (
        lambda: scores.gaussian(X, X, bandwidth=math.inf),
        ValueError,
        ["bandwidth", "inf"],
    ),
    "bandwidth a word": (
        lambda: scores.gaussian(X, X, bandwidth="wide"),
        TypeError,
        ["bandwidth", "'wide'"],
    ),
    "query a list": (lambda: scores.gaussian([[1.0]], X), TypeError, ["query", "list"]),
    "key of integers": (lambda: scores.gaussian(X, X.long()), TypeError, ["key", "int64"]),
    "two dtypes": (lambda: scores.gaussian(X, X.double()), TypeError, ["key", "float64"]),
    "two widths": (lambda: scores.gaussian(X, X[:, :3]), ValueError, ["query and key", "(2, 3)"]),
    "a vector": (lambda: scores.gaussian(X[0], X), ValueError, ["query", "(4,)"]),
    "two devices": (
        lambda: scores.gaussian(X, X.to(device="meta")),
        ValueError,
        ["key", "meta", "cpu"],
    ),
    "two batches": (
        lambda: scores.gaussian(X.expand(2, 2, 4), X.expand(3, 2, 4)),
        ValueError,
        ["(2, 2, 4)", "(3, 2, 4)"],
    ),
    "Location query_dim": (lambda: scores.Location(0, 3), ValueError, ["query_dim", "0"]),
    "Location max_len": (lambda: scores.Location(4, 2.0), TypeError, ["max_len", "2.0"]),
    "Location width": (
        lambda: scores.Location(3, 9)(X, X),
        ValueError,
        ["query", "3", "(2, 4)"],
    ),
    "Location too many keys": (
        lambda: scores.Location(4, 1)(X, X),
        ValueError,
        ["key", "2 places", "max_len is 1"],
    ),
    "Location key a list": (
        lambda: scores.Location(4, 9)(X, [[1.0]]),
        TypeError,
        ["key", "list"],
    ),
    "Location key a vector": (
        lambda: scores.Location(4, 9)(X, X[0]),
        ValueError,
        ["key", "(4,)"],
    ),
    "Location dtype": (
        lambda: scores.Location(4, 9)(X.double(), X.double()),
        TypeError,
        ["query", "float64", "float32"],
    ),
    "Location batches": (
        lambda: scores.Location(4, 9)(X.expand(2, 2, 4), X.expand(3, 2, 4)),
        ValueError,
        ["query and key", "(2, 2, 4)", "(3, 2, 4)"],
    ),
    "twin bandwidth": (
        lambda: reference.gaussian(ROWS, ROWS, bandwidth=0.0),
        ValueError,
        ["bandwidth", "0.0"],
    ),
    "twin widths": (
        lambda: reference.gaussian(ROWS, ROWS[:, :2]),
        ValueError,
        ["query and key", "(2, 2)"],
    ),
    "twin gradient": (
        lambda: reference.gaussian_backward(ROWS, ROWS, ROWS),
        ValueError,
        ["grad_scores", "(2, 2)", "(2, 4)"],
    ),
    "twin weight": (
        lambda: reference.location(ROWS, ROWS, np.ones((5, 3))),
        ValueError,
        ["weight", "(5, 4)", "(5, 3)"],
    ),
    "twin places": (
        lambda: reference.location_backward(np.ones((2, 2)), ROWS, ROWS, np.ones((1, 4))),
        ValueError,
        ["key", "1 places", "(2, 4)"],
    ),
}


@pytest.mark.parametrize(("call", "raises", "says"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_input_is_refused(call, raises, says):
    assert_refuses(call, raises, says)
