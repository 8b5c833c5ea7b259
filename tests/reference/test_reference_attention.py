"""What is true of attention, asked of the reference."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attn_core import reference

NORMALIZERS = [reference.softmax, reference.sparsemax, reference.hard]
sizes = st.integers(1, 5)
numbers = st.floats(-30, 30, allow_subnormal=False)


@st.composite
def problems(draw):
    """Query, key, value, and a mask in which whole rows and columns may be forbidden."""
    queries, keys, dim, value_dim = (draw(sizes) for _ in range(4))
    shapes = [(queries, dim), (keys, dim), (keys, value_dim)]
    query, key, value = (draw(arrays(np.float64, shape, elements=numbers)) for shape in shapes)
    mask = draw(arrays(np.bool_, (queries, keys)))
    return query, key, value, mask


@given(problems())
def test_loops_equal_matrices(problem):
    query, key, value, mask = problem
    np.testing.assert_allclose(
        reference.attention_loops(query, key, value),
        reference.attention(query, key, value),
        rtol=1e-12,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        reference.attention_loops(query, key, value, mask),
        reference.attention(query, key, value, mask=mask),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@given(problem=problems())
def test_rows_of_weights_sum_to_one_or_are_zero(normalizer, problem):
    query, key, value, mask = problem
    output, weights = reference.attention(
        query, key, value, mask=mask, normalizer=normalizer, return_weights=True
    )
    attends = mask.any(axis=1)
    np.testing.assert_allclose(weights.sum(axis=1), attends, atol=1e-12)
    assert (weights >= 0).all()
    assert (weights[~mask] == 0).all()
    assert (output[~attends] == 0).all()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@given(scores=arrays(np.float64, (3, 4), elements=st.integers(-40, 40)), shift=st.integers(-50, 50))
def test_adding_a_constant_to_a_row_changes_nothing(normalizer, scores, shift):
    np.testing.assert_array_equal(normalizer(scores + shift), normalizer(scores))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@given(problem=problems(), seed=st.integers(0, 99))
def test_permutations(normalizer, problem, seed):
    query, key, value, mask = problem
    # Distinct scores: which of two equal ones wins the arg max depends on their order.
    key = key + np.random.default_rng(seed).normal(size=key.shape)
    query = query + np.random.default_rng(seed).normal(size=query.shape)
    expected = reference.attention(query, key, value, mask=mask, normalizer=normalizer)
    rows = np.random.default_rng(seed).permutation(len(query))
    columns = np.random.default_rng(seed).permutation(len(key))
    seen = reference.attention(
        query, key[columns], value[columns], mask=mask[:, columns], normalizer=normalizer
    )
    np.testing.assert_allclose(seen, expected, atol=1e-11)
    seen = reference.attention(query[rows], key, value, mask=mask[rows], normalizer=normalizer)
    np.testing.assert_allclose(seen, expected[rows], atol=1e-11)


@given(scores=arrays(np.float64, (6,), elements=numbers))
def test_sparsemax_is_the_nearest_point_of_the_simplex(scores):
    weights = reference.sparsemax(scores)
    distance = ((weights - scores) ** 2).sum()
    for other in [*np.eye(6), np.full(6, 1 / 6), reference.softmax(scores)]:
        assert distance <= ((other - scores) ** 2).sum() + 1e-9


def test_hard_takes_the_first_of_equal_scores():
    scores = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    np.testing.assert_array_equal(reference.hard(scores), [[0, 1, 0], [1, 0, 0]])


def test_large_scores_do_not_overflow():
    with np.errstate(all="raise"):
        assert reference.softmax(np.array([1000.0, 1000.0])).tolist() == [0.5, 0.5]
        reference.attention_loops(np.full((1, 1), 1e3), np.full((2, 1), 1e3), np.ones((2, 1)))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("heads", [(), (1,), (4,)])
def test_what_is_masked_for_every_query_reaches_nothing(normalizer, poison, heads):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 4, 3, 4))
    key, value = rng.normal(size=(2, 2, 5, 4)), rng.normal(size=(2, 2, 5, 3))
    mask = np.broadcast_to(reference.padding([5, 3], 5), (2, *(heads or (1,)), 3, 5)).copy()
    mask[:, :, 1] = False
    grad_output = rng.normal(size=(2, 4, 3, 3))
    options = {"mask": mask, "normalizer": normalizer}
    clean = reference.attention(query, key, value, return_weights=True, **options)
    clean_gradients = reference.attention_backward(grad_output, query, key, value, **options)

    key[1, :, 3:], value[1, :, 3:] = poison, poison
    query[:, :, 1] = poison
    dirty = reference.attention(query, key, value, return_weights=True, **options)
    dirty_gradients = reference.attention_backward(grad_output, query, key, value, **options)
    for seen, expected in zip(
        [*dirty, *dirty_gradients[:3]], [*clean, *clean_gradients[:3]], strict=True
    ):
        np.testing.assert_array_equal(seen, expected)
    assert (clean.output[:, :, 1] == 0).all()
    assert (clean_gradients.query[:, :, 1] == 0).all()
    assert (clean_gradients.key[1, :, 3:] == 0).all()
    assert (clean_gradients.value[1, :, 3:] == 0).all()


def test_a_bias_of_minus_infinity_is_a_mask():
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(3, 4)) for _ in range(3))
    mask = reference.causal(3, 3) & ~np.eye(3, dtype=bool)
    bias = np.where(mask, 0.0, -np.inf)
    expected = reference.attention(query, key, value, mask=mask, return_weights=True)
    seen = reference.attention(query, key, value, bias=bias, return_weights=True)
    np.testing.assert_array_equal(seen.output, expected.output)
    np.testing.assert_array_equal(seen.weights, expected.weights)
    gradients = reference.attention_backward(np.ones((3, 4)), query, key, value, bias=bias)
    assert np.isfinite(gradients.bias).all()
    assert (gradients.bias[~mask] == 0).all()


def test_a_foreign_normalizer_gets_no_empty_row():
    def plain_softmax(scores, dim):
        exponentials = np.exp(scores - scores.max(axis=dim, keepdims=True))
        return exponentials / exponentials.sum(axis=dim, keepdims=True)

    ones, mask = np.ones((2, 2)), np.array([[True, False], [False, False]])
    with np.errstate(all="raise"):
        seen = reference.attention(ones, ones, ones, mask=mask, normalizer=plain_softmax)
    np.testing.assert_array_equal(seen, [[1, 1], [0, 0]])


def test_grouped_heads_equal_repeated_heads():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 6, 3, 4))
    key, value = rng.normal(size=(2, 2, 5, 4)), rng.normal(size=(2, 2, 5, 3))
    mask = rng.random((6, 3, 5)) > 0.3
    bias = rng.normal(size=(2, 6, 1, 5))
    grouped = reference.attention(query, key, value, mask=mask, bias=bias, return_weights=True)
    repeated = reference.attention(
        query, key.repeat(3, 1), value.repeat(3, 1), mask=mask, bias=bias, return_weights=True
    )
    np.testing.assert_allclose(grouped.output, repeated.output, atol=1e-14)
    np.testing.assert_allclose(grouped.weights, repeated.weights, atol=1e-14)
    shuffled = reference.attention(query[:, [0, 2, 4, 1, 3, 5]], key, value)
    assert np.abs(shuffled - reference.attention(query, key, value)).max() > 0.1


def test_the_order_of_operations():
    query, key, value = np.array([[2.0]]), np.array([[3.0], [1.0]]), np.eye(2)
    bias, mask = np.array([[0.5, 0.0]]), np.array([[True, True]])
    capped = 4 * np.tanh(np.array([6.0, 2.0]) * 0.5 / 4)
    expected = reference.softmax(capped + bias[0])
    seen = reference.attention(query, key, value, scale=0.5, softcap=4.0, bias=bias, mask=mask)
    np.testing.assert_allclose(seen[0], expected, rtol=1e-14)


def test_the_default_scale_belongs_to_the_default_score():
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 4)), rng.normal(size=(5, 4)), np.eye(5)
    default = reference.attention(query, key, value)
    np.testing.assert_allclose(default, reference.softmax(query @ key.T / 2))
    for score, factor in [(reference.dot, 1.0), (reference.scaled_dot, 0.5)]:
        seen = reference.attention(query, key, value, score=score)
        np.testing.assert_allclose(seen, reference.softmax(query @ key.T * factor))


def test_float32_stays_float32():
    x = np.ones((2, 3), dtype=np.float32)
    options = {"mask": np.eye(2, dtype=bool), "bias": x[:, :2], "softcap": 3.0}
    for normalizer in NORMALIZERS:
        output, weights = reference.attention(
            x, x, x, normalizer=normalizer, return_weights=True, **options
        )
        gradients = reference.attention_backward(x, x, x, x, normalizer=normalizer, **options)
        kinds = {array.dtype for array in (output, weights, *gradients)}
        assert kinds == {np.dtype(np.float32)}
    assert reference.attention_loops(x, x, x).dtype == np.float32
    assert reference.cosine(x, x).dtype == np.float32


def test_no_keys_give_zeros():
    query, nothing = np.ones((2, 3)), np.ones((0, 3))
    for normalizer in NORMALIZERS:
        seen = reference.attention(query, nothing, nothing, normalizer=normalizer)
        np.testing.assert_array_equal(seen, np.zeros((2, 3)))


def test_the_reference_imports_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "import attn_core.reference as reference\n"
        "x = np.eye(2)\n"
        "print(reference.attention_backward(x, x, x, x).value.shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "(2, 2)"


def test_every_differentiable_function_has_its_backward():
    names = set(reference.__all__)
    assert all(hasattr(reference, name) for name in names)
    differentiable = {"attention", "dot", "scaled_dot", "cosine", "bilinear", "additive"}
    differentiable |= {"softmax", "sparsemax", "hard"}
    assert {f"{name}_backward" for name in differentiable} <= names
