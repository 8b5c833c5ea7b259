"""Every *_backward of the reference is the derivative that finite differences measure."""

from functools import partial

import numpy as np
import pytest

from attn_core import reference
from attn_core.reference.shapes import sum_to_shape

STEP = 1e-6


def measured_gradient(function, inputs, position, grad_output):
    """Move one number of one input at a time and see how much sum(grad_output * output) moves."""
    gradient = np.zeros_like(inputs[position])
    for index in np.ndindex(gradient.shape):
        ends = []
        for step in (STEP, -STEP):
            moved = [array.copy() for array in inputs]
            moved[position][index] += step
            ends.append((grad_output * function(*moved)).sum())
        gradient[index] = (ends[0] - ends[1]) / (2 * STEP)
    return gradient


def assert_is_derivative(function, backward, inputs):
    grad_output = np.random.default_rng(7).normal(size=function(*inputs).shape)
    gradients = backward(grad_output, *inputs)
    if isinstance(gradients, np.ndarray):
        gradients = (gradients,)
    assert len(gradients) == len(inputs)
    for position, gradient in enumerate(gradients):
        assert gradient.shape == inputs[position].shape
        expected = measured_gradient(function, inputs, position, grad_output)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


def normal(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


SCORES = [
    (reference.dot, reference.dot_backward, []),
    (reference.scaled_dot, reference.scaled_dot_backward, []),
    (reference.cosine, reference.cosine_backward, []),
    (reference.bilinear, reference.bilinear_backward, [(4, 4)]),
    (reference.additive, reference.additive_backward, [(3, 4), (3, 4), (3,)]),
]


@pytest.mark.parametrize(("score", "backward", "parameters"), SCORES)
@pytest.mark.parametrize(
    ("query_shape", "key_shape"),
    [((3, 4), (5, 4)), ((2, 3, 4), (2, 5, 4)), ((2, 1, 3, 4), (2, 5, 4)), ((3, 4), (2, 5, 4))],
    ids=["matrices", "batch", "both broadcast", "query broadcast"],
)
def test_score_gradients(score, backward, parameters, query_shape, key_shape):
    assert_is_derivative(score, backward, normal(query_shape, key_shape, *parameters))


def test_learned_scores_take_different_widths():
    query, key, weight = normal((3, 4), (5, 2), (4, 2))
    assert_is_derivative(reference.bilinear, reference.bilinear_backward, [query, key, weight])
    inputs = normal((3, 4), (5, 2), (6, 4), (6, 2), (6,))
    assert_is_derivative(reference.additive, reference.additive_backward, inputs)


def test_the_cosine_has_gradient_zero_at_a_zero_vector():
    query, key = np.zeros((1, 4)), normal((5, 4))[0]
    grad_query, grad_key = reference.cosine_backward(np.ones((1, 5)), query, key)
    assert (reference.cosine(query, key) == 0).all()
    assert (grad_query == 0).all()
    assert (grad_key == 0).all()


@pytest.mark.parametrize("dim", [-1, 0, 1])
@pytest.mark.parametrize(
    ("normalizer", "backward"),
    [
        (reference.softmax, reference.softmax_backward),
        (reference.sparsemax, reference.sparsemax_backward),
    ],
)
def test_normalizer_gradients(normalizer, backward, dim):
    assert_is_derivative(partial(normalizer, dim=dim), partial(backward, dim=dim), normal((3, 4)))


def test_minus_infinity_has_weight_and_gradient_zero():
    scores = np.array([[1.0, -np.inf, 0.5], [-np.inf, -np.inf, -np.inf]])
    grad_weights = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    for name in ("softmax", "sparsemax", "hard"):
        weights = getattr(reference, name)(scores)
        gradient = getattr(reference, f"{name}_backward")(grad_weights, scores)
        assert (weights[0, 1], gradient[0, 1]) == (0, 0), name
        assert (weights[1] == 0).all(), name
        assert (gradient[1] == 0).all(), name
        np.testing.assert_allclose(weights[0].sum(), 1, err_msg=name)
        np.testing.assert_allclose(gradient[0].sum(), 0, atol=1e-15, err_msg=name)


def test_hard_is_flat_and_its_backward_is_that_of_the_softmax():
    scores, grad_weights = normal((3, 5), (3, 5))
    flat = measured_gradient(reference.hard, [scores], 0, grad_weights)
    assert (flat == 0).all()
    straight_through = reference.hard_backward(grad_weights, scores)
    assert (straight_through != 0).all()
    np.testing.assert_array_equal(
        straight_through, reference.softmax_backward(grad_weights, scores)
    )


def test_the_jacobian_holds_all_derivatives_of_the_softmax():
    scores, grad_weights = normal((2, 4), (2, 4))
    jacobian = reference.softmax_jacobian(scores)
    for row in range(2):
        for output in range(4):
            one_hot = np.eye(4)[output]
            expected = measured_gradient(reference.softmax, [scores[row]], 0, one_hot)
            np.testing.assert_allclose(jacobian[row, output], expected, atol=1e-9)
    np.testing.assert_allclose(
        np.einsum("bi,bij->bj", grad_weights, jacobian),
        reference.softmax_backward(grad_weights, scores),
        atol=1e-15,
    )


DEAD_ROW = np.array([[True, False, True, True, False], [False] * 5, [True] * 4 + [False]])
SHAPES = {
    "matrices": [(3, 4), (5, 4), (5, 2)],
    "heads": [(2, 3, 4), (2, 5, 4), (2, 5, 2)],
    "grouped heads": [(2, 4, 3, 4), (2, 2, 5, 4), (2, 2, 5, 2)],
    "one key head": [(4, 3, 4), (1, 5, 4), (1, 5, 2)],
    "batch broadcast": [(2, 1, 3, 4), (1, 1, 5, 4), (5, 2)],
}
OPTIONS = {
    "default": {},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 0.7, "scale": 1.0},
    "masked": {"mask": DEAD_ROW},
    "sparsemax": {"normalizer": reference.sparsemax, "mask": DEAD_ROW},
    "cosine": {"score": reference.cosine, "scale": 5.0},
    "scaled score": {"score": reference.scaled_dot, "mask": DEAD_ROW, "softcap": 2.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_attention_gradients(shapes, options):
    def backward(*arguments):
        return reference.attention_backward(*arguments, **options)[:3]

    assert_is_derivative(partial(reference.attention, **options), backward, normal(*shapes))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("bias_shape", [(3, 5), (1, 5), (4, 1, 5), (2, 1, 3, 1), (2, 4, 3, 5)])
def test_bias_gradient(bias_shape, options):
    *inputs, bias = normal(*SHAPES["grouped heads"], bias_shape)

    def forward(bias):
        return reference.attention(*inputs, bias=bias, **options)

    def backward(grad_output, bias):
        return reference.attention_backward(grad_output, *inputs, bias=bias, **options).bias

    assert_is_derivative(forward, backward, [bias])


def test_a_score_and_a_normalizer_of_ones_own():
    query, key, value, weight = normal((3, 4), (5, 2), (5, 2), (4, 2))
    own = {
        "score": lambda query, key: reference.bilinear(query, key, weight),
        "normalizer": lambda scores, dim: 1 / (1 + np.exp(-scores)),
    }
    slopes = {
        "score_backward": lambda grad, query, key: reference.bilinear_backward(
            grad, query, key, weight
        )[:2],
        "normalizer_backward": lambda grad, scores, dim: (
            grad * np.exp(-scores) / (1 + np.exp(-scores)) ** 2
        ),
    }

    def backward(*arguments):
        return reference.attention_backward(*arguments, **own, **slopes)[:3]

    assert_is_derivative(partial(reference.attention, **own), backward, [query, key, value])
    for missing in slopes:
        given = {name: slope for name, slope in slopes.items() if name != missing}
        with pytest.raises(ValueError, match=missing):
            reference.attention_backward(np.ones((3, 2)), query, key, value, **own, **given)


def test_a_gradient_of_copies_is_summed():
    gradient = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(sum_to_shape(gradient, (2, 3, 4)), gradient)
    np.testing.assert_array_equal(sum_to_shape(gradient, (3, 4)), gradient.sum(0))
    np.testing.assert_array_equal(sum_to_shape(gradient, (1, 4)), gradient.sum((0, 1))[None])
    np.testing.assert_array_equal(
        sum_to_shape(gradient, (2, 1, 1)), gradient.sum((1, 2))[:, None, None]
    )


def test_backward_refuses_a_gradient_of_another_shape():
    query, key, value = normal((3, 4), (5, 4), (5, 2))
    with pytest.raises(ValueError, match=r"grad_output must have shape \(3, 2\)"):
        reference.attention_backward(np.ones((3, 3)), query, key, value)
    with pytest.raises(ValueError, match=r"grad_scores must have shape \(3, 5\)"):
        reference.dot_backward(np.ones((5, 3)), query, key)
    with pytest.raises(ValueError, match="grad_weights"):
        reference.softmax_backward(np.ones(3), np.ones(4))
