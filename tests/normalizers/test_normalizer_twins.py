"""Every normaliser and its NumPy twin agree to 1e-12 in float64, forward and backward."""

import inspect

import numpy as np
import pytest
import torch

from attn_core import attention, normalizers, reference

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
NAMES = [name for name in normalizers.__all__ if name != "without_empty_rows"]
CASES = {
    "softmax": ("softmax", {}),
    "softmax, cold": ("softmax", {"temperature": 0.3}),
    "off by one": ("softmax_with_sink", {}),
    "sink": ("softmax_with_sink", {"sink": 2.0}),
    "sigmoid": ("sigmoid", {"bias": 0.4}),
    "sigmoid of n keys": ("sigmoid", {"bias": None}),
    "sparsemax": ("sparsemax", {}),
    "entmax15": ("entmax15", {}),
    "entmax 1": ("entmax", {"alpha": 1}),
    "entmax 1.25": ("entmax", {"alpha": 1.25}),
    "entmax 1.5": ("entmax", {}),
    "entmax 2": ("entmax", {"alpha": 2}),
    "entmax 2.5": ("entmax", {"alpha": 2.5}),
    "bisection": ("entmax_bisect", {"alpha": 1.7, "steps": 70}),
    "hard": ("hard", {}),
}


def scores_with_holes():
    scores = np.random.default_rng(0).normal(size=(3, 4, 5))
    scores[0, 0] = -np.inf
    scores[:, 1, 1] = -np.inf
    scores[:, :, 4] = -np.inf
    return scores


def assert_twins(name, scores, dim, torch_options, options, learned=()):
    """Compare weights, and autograd's gradients with those of the formula."""
    rows = torch.tensor(scores, requires_grad=True)
    weights = getattr(normalizers, name)(rows, dim, **torch_options)
    expected = getattr(reference, name)(scores, dim, **options)
    assert weights.dtype == torch.float64
    np.testing.assert_allclose(weights.detach().numpy(), expected, **TOLERANCE)

    grad_weights = np.random.default_rng(7).normal(size=scores.shape)
    inputs = [rows, *learned]
    seen = torch.autograd.grad(weights, inputs, torch.tensor(grad_weights))
    gradients = getattr(reference, f"{name}_backward")(grad_weights, scores, dim, **options)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    for one, other in zip(seen, gradients, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_weights_and_gradients(name, options, dim):
    assert_twins(name, scores_with_holes(), dim, options, options)


@pytest.mark.parametrize("dim", [-1, 0, 1])
@pytest.mark.parametrize("name", ["entmax", "entmax_bisect"])
def test_alpha_of_each_row(name, dim):
    shape = [3, 4, 5]
    shape[dim] = 1
    alpha = 1 + np.random.default_rng(1).uniform(0.1, 0.9, size=shape)
    learned = torch.tensor(alpha, requires_grad=True)
    assert_twins(name, scores_with_holes(), dim, {"alpha": learned}, {"alpha": alpha}, [learned])


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (3, 1, 1)], ids=str)
@pytest.mark.parametrize(("name", "option"), [("softmax_with_sink", "sink"), ("entmax", "alpha")])
def test_what_is_learned_broadcasts(name, option, shape):
    numbers = np.array(1 + np.random.default_rng(1).uniform(0.1, 0.9, size=shape))
    learned = torch.tensor(numbers, requires_grad=True)
    assert_twins(name, scores_with_holes(), -1, {option: learned}, {option: numbers}, [learned])


class Noise:
    """Gives the twin the numbers that PyTorch draws."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def gumbel(self, *, size):
        uniform = torch.empty(size, dtype=torch.float64).exponential_(generator=self.generator)
        return -np.log(uniform.numpy())


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dim", [-1, 0])
def test_a_draw_with_the_same_noise(dim, hard):
    scores = scores_with_holes()
    options = {"temperature": 0.6, "hard": hard}
    rows = torch.tensor(scores, requires_grad=True)
    draw = torch.Generator().manual_seed(3)
    weights = normalizers.gumbel_softmax(rows, dim, generator=draw, **options)
    expected = reference.gumbel_softmax(scores, dim, generator=Noise(3), **options)
    np.testing.assert_allclose(weights.detach().numpy(), expected, **TOLERANCE)
    grad_weights = np.random.default_rng(7).normal(size=scores.shape)
    weights.backward(torch.tensor(grad_weights))
    expected = reference.gumbel_softmax_backward(
        grad_weights, scores, dim, generator=Noise(3), **options
    )
    np.testing.assert_allclose(rows.grad.numpy(), expected, **TOLERANCE)


def test_numpys_own_noise_draws_as_often_as_softmax_says():
    scores = np.array([0.0, 1.0, 2.0, -np.inf])
    rows = np.broadcast_to(scores, (40000, 4))
    generator = np.random.default_rng(0)
    draws = reference.gumbel_softmax(rows, hard=True, generator=generator).mean(0)
    np.testing.assert_allclose(draws, reference.softmax(scores), atol=0.01)
    again = reference.gumbel_softmax(rows, hard=True, generator=np.random.default_rng(0)).mean(0)
    np.testing.assert_array_equal(draws, again)


@pytest.mark.parametrize("name", NAMES)
def test_twins_take_the_same_arguments(name):
    seen, expected = (
        [(p.name, p.default) for p in inspect.signature(getattr(m, name)).parameters.values()]
        for m in (normalizers, reference)
    )
    assert seen == expected


@pytest.mark.parametrize("name", ["sigmoid", "entmax15"])
def test_attention_knows_the_derivative(name):
    arrays = [np.random.default_rng(i).normal(size=(2, 4, 6)) for i in range(3)]
    mask = reference.causal(4, 4, q_offset=-1)  # the first query may attend nothing
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    normalizer = getattr(normalizers, name)
    output = attention(*tensors, mask=torch.tensor(mask), normalizer=normalizer)
    options = {"mask": mask, "normalizer": getattr(reference, name)}
    expected = reference.attention(*arrays, **options)
    np.testing.assert_allclose(output.detach().numpy(), expected, **TOLERANCE)
    output.backward(torch.ones_like(output))
    gradients = reference.attention_backward(np.ones_like(expected), *arrays, **options)
    for tensor, gradient in zip(tensors, gradients[:3], strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, **TOLERANCE)


STEP = 1e-6


@pytest.mark.parametrize(("name", "options"), list(CASES.values())[:-1], ids=list(CASES)[:-1])
def test_the_formula_is_what_finite_differences_measure(name, options):
    scores = np.random.default_rng(5).normal(size=(2, 5))
    grad_weights = np.random.default_rng(6).normal(size=(2, 5))
    normalizer = getattr(reference, name)
    measured = np.zeros_like(scores)
    for at in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[at] = STEP
        rise = normalizer(scores + step, **options) - normalizer(scores - step, **options)
        measured[at] = (grad_weights * rise).sum() / (2 * STEP)
    gradient = getattr(reference, f"{name}_backward")(grad_weights, scores, **options)
    np.testing.assert_allclose(gradient, measured, rtol=1e-6, atol=1e-8)
