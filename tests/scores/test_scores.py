"""Scores: one number for each pair, whoever else is there."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention, scores

# Forward-mode differentiation compiles a function the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def normal(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def make_scores(width):
    torch.manual_seed(0)
    return {
        "dot": scores.dot,
        "scaled_dot": scores.scaled_dot,
        "cosine": scores.cosine,
        "gaussian": partial(scores.gaussian, bandwidth=0.7),
        "bilinear": scores.Bilinear(width, width).double(),
        "additive": scores.Additive(width, width, 5).double(),
    }


NAMES = list(make_scores(1))


def one_score(name, score, q, k):
    """The score of one query and one key, in Python numbers."""
    product = math.fsum(a * b for a, b in zip(q, k, strict=True))
    if name == "dot":
        return product
    if name == "scaled_dot":
        return product / math.sqrt(len(q))
    if name == "cosine":
        return product / math.hypot(*q) / math.hypot(*k)
    if name == "gaussian":
        return -(math.dist(q, k) ** 2) / (2 * 0.7**2)
    if name == "bilinear":
        weight = score.weight.tolist()
        return math.fsum(q[i] * weight[i][j] * k[j] for i in range(len(q)) for j in range(len(k)))
    rows, columns = score.query_proj.weight.tolist(), score.key_proj.weight.tolist()
    return math.fsum(
        v
        * math.tanh(
            math.fsum(a * b for a, b in zip(row, q, strict=True))
            + math.fsum(a * b for a, b in zip(column, k, strict=True))
        )
        for v, row, column in zip(score.score_vector.tolist(), rows, columns, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
@given(
    queries=st.integers(1, 3),
    keys=st.integers(1, 3),
    width=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_a_score_is_a_function_of_one_query_and_one_key(name, queries, keys, width, seed):
    score = make_scores(width)[name]
    query, key = normal((queries, width), (keys, width), seed=seed)
    seen = score(query, key)
    assert seen.shape == (queries, keys)
    for i, q in enumerate(query.tolist()):
        for j, k in enumerate(key.tolist()):
            assert seen[i, j].item() == pytest.approx(one_score(name, score, q, k), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("query_shape", "key_shape"),
    [
        ((2, 3, 4), (2, 5, 4)),
        ((2, 1, 3, 4), (3, 5, 4)),
        ((3, 4), (2, 5, 4)),
        ((2, 0, 4), (2, 5, 4)),
    ],
    ids=str,
)
def test_leading_dimensions_broadcast(name, query_shape, key_shape):
    score = make_scores(4)[name]
    query, key = normal(query_shape, key_shape)
    seen = score(query, key)
    batch = torch.broadcast_shapes(query_shape[:-2], key_shape[:-2])
    assert seen.shape == (*batch, query_shape[-2], key_shape[-2])
    wide_query, wide_key = (
        query.expand(*batch, *query_shape[-2:]),
        key.expand(*batch, *key_shape[-2:]),
    )
    for at in (
        torch.cartesian_prod(*(torch.arange(n) for n in batch)).reshape(-1, len(batch)).tolist()
    ):
        alone = score(wide_query[tuple(at)], wide_key[tuple(at)])
        torch.testing.assert_close(seen[tuple(at)], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_right(name):
    score = make_scores(3)[name]
    query, key = (x.requires_grad_() for x in normal((2, 3, 3), (1, 4, 3)))
    assert torch.autograd.gradcheck(
        score, (query, key), check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(score, (query, key), check_fwd_over_rev=True)


@pytest.mark.parametrize("name", ["bilinear", "additive"])
def test_learned_scores_learn_all_their_parameters(name):
    score = make_scores(3)[name]
    score(*normal((2, 3), (4, 3))).square().sum().backward()
    assert all((parameter.grad != 0).all() for parameter in score.parameters())


def test_query_and_key_of_a_learned_score_may_have_different_widths():
    for score in (scores.Bilinear(3, 5), scores.Additive(3, 5, 7)):
        assert score(torch.ones(2, 4, 3), torch.ones(2, 6, 5)).shape == (2, 4, 6)
        output = attention(
            torch.ones(2, 4, 3), torch.ones(2, 6, 5), torch.ones(2, 6, 2), score=score
        )
        assert output.shape == (2, 4, 2)


def test_the_additive_score_has_two_matrices_and_a_vector_and_no_bias():
    parameters = dict(scores.Additive(3, 5, 7).named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    assert shapes == {
        "query_proj.weight": (7, 3),
        "key_proj.weight": (7, 5),
        "score_vector": (7,),
    }


def test_the_cosine_knows_no_lengths():
    query, key = normal((3, 4), (5, 4))
    expected = scores.cosine(query, key)
    assert (expected.abs() <= 1).all()
    for factor in (1e-200, 1e-5, 1e200):
        seen = scores.cosine(query * factor, key / factor)
        torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scores.cosine(-query, key), -expected, rtol=1e-12, atol=1e-12)


def test_the_cosine_of_a_vector_with_itself_is_one_and_of_zeros_is_zero():
    (x,) = normal((3, 4))
    torch.testing.assert_close(
        scores.cosine(x, x).diagonal(), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    zeros = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    cosine = scores.cosine(zeros, x)
    cosine.sum().backward()
    assert (cosine == 0).all()
    assert (zeros.grad == 0).all()


@pytest.mark.parametrize("width", [4, 64, 1024])
def test_scaling_keeps_the_variance_of_the_score_at_one_for_any_width(width):
    query, key = normal((300, width), (300, width))
    assert scores.scaled_dot(query, key).var().item() == pytest.approx(1, abs=0.1)
    assert scores.dot(query, key).var().item() == pytest.approx(width, rel=0.1)


def test_with_grouped_heads_a_score_sees_each_key_once_and_all_its_queries():
    seen_shapes = []

    def watching(query, key):
        seen_shapes.append((tuple(query.shape), tuple(key.shape)))
        return scores.dot(query, key)

    query, key = normal((2, 6, 3, 4), (2, 2, 5, 4))
    output = attention(query, key, key, score=watching)
    assert seen_shapes == [((2, 2, 9, 4), (2, 2, 5, 4))]
    torch.testing.assert_close(
        output, attention(query, key, key, scale=1.0), rtol=1e-12, atol=1e-12
    )


def test_a_score_may_ignore_batch_and_heads():
    query, key, value = normal((2, 4, 3, 4), (2, 2, 5, 4), (2, 2, 5, 2))
    table = normal((6, 5))[0]
    output, weights = attention(query, key, value, score=lambda q, k: table, return_weights=True)
    assert output.shape == (2, 4, 3, 2)
    assert weights.shape == (2, 4, 3, 5)
    for head in range(4):
        rows = table[:3] if head % 2 == 0 else table[3:]
        expected = rows.softmax(-1) @ value[:, head // 2]
        torch.testing.assert_close(output[:, head], expected, rtol=1e-12, atol=1e-12)


def test_under_autocast_a_learned_score_takes_half_precision():
    score = scores.Bilinear(4, 4)
    query, key = (x.bfloat16() for x in normal((3, 4), (5, 4)))
    with torch.autocast("cpu", torch.bfloat16):
        seen = score(query, key)
    expected = query.float() @ score.weight @ key.float().T
    torch.testing.assert_close(seen.float(), expected, rtol=0.03, atol=0.03)
    with pytest.raises(TypeError, match=r"query.*bfloat16.*float32"):
        score(query, key)
