"""Approximations in PyTorch and in NumPy agree to 1e-12 in float64, forward and backward."""

import inspect

import numpy as np
import pytest
import torch

from attn_core import kernels, masks, reference
from attn_core.reference.landmarks import pinv_backward

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
SHAPES = {
    "matrices": [(6, 4), (6, 4), (6, 3)],
    "heads": [(2, 6, 4), (2, 6, 4), (2, 6, 3)],
    "grouped": [(2, 4, 6, 4), (2, 2, 6, 4), (2, 2, 6, 3)],
    "one key head": [(2, 4, 6, 4), (2, 1, 6, 4), (2, 1, 6, 3)],
    "batch broadcast": [(2, 1, 6, 4), (1, 1, 6, 4), (6, 3)],
}
PADDING = {None: None, "padded": [6, 3], "one entry all padding": [5, 0]}


def normal(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def assert_twins(call, twin, backward, arrays, learned=()):
    """Outputs, and autograd's gradients beside those of the formula, of arrays and of learned."""
    tensors = [torch.tensor(array, requires_grad=True) for array in (*arrays, *learned)]
    output = call(*tensors)
    expected = twin(*arrays, *learned)
    assert output.dtype == torch.float64
    np.testing.assert_allclose(output.detach().numpy(), expected, **TOLERANCE)
    grad_output = np.random.default_rng(7).normal(size=expected.shape)
    gradients = torch.autograd.grad(output, tensors, torch.tensor(grad_output))
    for seen, wanted in zip(gradients, backward(grad_output, *arrays, *learned), strict=True):
        np.testing.assert_allclose(seen.numpy(), wanted, **TOLERANCE)


def paddings(shapes, lengths):
    """The same padding for both; keys without a batch have none."""
    if lengths is None or len(shapes[1]) < 4 or shapes[1][0] < 2:
        return {}, {}
    return {"mask": masks.padding(lengths)}, {"mask": reference.padding(lengths, 6)}


@pytest.mark.parametrize("lengths", PADDING.values(), ids=PADDING.keys())
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_favor(shapes, causal, lengths):
    (projection,) = normal((10, 4), seed=1)
    mask, twin_mask = paddings(shapes, lengths)
    options = {"projection": projection, "causal": causal, "scale": 0.4}
    assert_twins(
        lambda *x: kernels.favor(*x, **options | mask | {"projection": torch.tensor(projection)}),
        lambda *x: reference.favor(*x, **options, **twin_mask),
        lambda grad, *x: reference.favor_backward(grad, *x, **options, **twin_mask),
        normal(*shapes),
    )


@pytest.mark.parametrize("scale", [None, 0.0, -0.7])
def test_favor_with_any_scale(scale):
    (projection,) = normal((10, 4), seed=1)
    options = {"projection": projection, "scale": scale}
    assert_twins(
        lambda *x: kernels.favor(*x, projection=torch.tensor(projection), scale=scale),
        lambda *x: reference.favor(*x, **options),
        lambda grad, *x: reference.favor_backward(grad, *x, **options),
        normal(*SHAPES["heads"]),
    )


def test_positive_features():
    assert_twins(
        kernels.positive_features,
        reference.positive_features,
        reference.positive_features_backward,
        normal((2, 5, 4), (7, 4)),
    )


@pytest.mark.parametrize("lengths", PADDING.values(), ids=PADDING.keys())
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("per_head", [False, True], ids=["one projection", "one for each head"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_linformer(shapes, per_head, separate, lengths):
    heads = (shapes[1][-3],) if per_head and len(shapes[1]) > 2 else ()
    projections = normal(*[(*heads, 3, 6)] * (2 if separate else 1), seed=1)
    mask, twin_mask = paddings(shapes, lengths)

    def options(projections):
        names = ["key_projection", "value_projection"]
        return dict(zip(names, projections, strict=False))

    def backward(grad, *arrays):
        gradients = reference.linformer_backward(
            grad, *arrays[:3], **options(arrays[3:]), **twin_mask
        )
        return [gradient for gradient in gradients if gradient is not None]

    assert_twins(
        lambda *x: kernels.linformer(*x[:3], **options(x[3:]), **mask),
        lambda *x: reference.linformer(*x[:3], **options(x[3:]), **twin_mask),
        backward,
        normal(*shapes),
        projections,
    )


def each_its_own_key(shapes):
    """Queries that look at one key: where all weights are alike a pseudo-inverse is rounding."""
    (*query, _), (*key, _), value = shapes
    return [3 * np.eye(6) + 0.3 * x for x in normal((*query, 6), (*key, 6))] + normal(value, seed=2)


@pytest.mark.parametrize("lengths", PADDING.values(), ids=PADDING.keys())
@pytest.mark.parametrize("iterations", [None, 0, 3])
@pytest.mark.parametrize("landmarks", [1, 4, 6])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_nystrom(shapes, landmarks, iterations, lengths):
    mask, twin_mask = paddings(shapes, lengths)
    options = {"landmarks": landmarks, "iterations": iterations, "scale": 0.5}
    assert_twins(
        lambda *x: kernels.nystrom(*x, **options, **mask),
        lambda *x: reference.nystrom(*x, **options, **twin_mask),
        lambda grad, *x: reference.nystrom_backward(grad, *x, **options, **twin_mask),
        each_its_own_key(shapes),
    )


def test_nystrom_with_other_padding_for_queries_than_for_keys():
    arrays = normal((2, 4, 5, 4), (2, 2, 7, 4), (2, 2, 7, 3))
    options = {"landmarks": 3, "iterations": None}
    given = {"mask": masks.padding([7, 4]), "query_mask": masks.padding([2, 5])}
    twins = {"mask": reference.padding([7, 4], 7), "query_mask": reference.padding([2, 5], 5)}
    assert_twins(
        lambda *x: kernels.nystrom(*x, **options, **given),
        lambda *x: reference.nystrom(*x, **options, **twins),
        lambda grad, *x: reference.nystrom_backward(grad, *x, **options, **twins),
        arrays,
    )


def test_the_derivative_of_the_pseudo_inverse_holds_for_a_matrix_of_lower_rank_too():
    left, right, grad = normal((4, 2), (2, 4), (4, 4))
    factors = [torch.tensor(x, requires_grad=True) for x in (left, right)]
    inverse = torch.linalg.pinv(factors[0] @ factors[1], rtol=1e-10)
    expected = torch.autograd.grad(inverse, factors, torch.tensor(grad))
    matrix = left @ right
    gradient = pinv_backward(grad, matrix, np.linalg.pinv(matrix, rcond=1e-10))
    np.testing.assert_allclose(gradient @ right.T, expected[0].numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(left.T @ gradient, expected[1].numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lengths", PADDING.values(), ids=PADDING.keys())
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("attend_self", [False, True])
@pytest.mark.parametrize(("rounds", "buckets"), [(1, 1), (1, 4), (3, 4)])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_lsh(shapes, rounds, buckets, attend_self, causal, lengths):
    (rotations,) = normal((rounds, 4, buckets // 2), seed=1)
    mask, twin_mask = paddings(shapes, lengths)
    options = {"attend_self": attend_self, "causal": causal}

    def call(query, value):
        given = {"buckets": buckets, "rounds": rounds, "rotations": torch.tensor(rotations)}
        return kernels.lsh(query, value, **given, **options, **mask)

    assert_twins(
        call,
        lambda *x: reference.lsh(*x, rotations=rotations, **options, **twin_mask),
        lambda grad, *x: reference.lsh_backward(
            grad, *x, rotations=rotations, **options, **twin_mask
        ),
        normal(shapes[0], shapes[2]),
    )


TORCH_ONLY = {
    # What draws is PyTorch's own; the twin takes what was drawn.
    "favor": {"features", "generator"},
    "lsh": {"buckets", "rounds", "generator"},
    # There to be refused with a reason.
    "linformer": {"causal"},
    "nystrom": {"causal"},
    "positive_features": set(),
}


@pytest.mark.parametrize("name", TORCH_ONLY)
def test_twins_take_the_same_arguments(name):
    seen = inspect.signature(getattr(kernels, name)).parameters
    twin = inspect.signature(getattr(reference, name)).parameters
    assert [parameter for parameter in seen if parameter not in TORCH_ONLY[name]] == list(twin)
    for parameter in set(twin) - {"projection", "rotations"}:  # drawn only where PyTorch draws
        assert seen[parameter].default == twin[parameter].default


def test_both_draw_orthogonal_rows_as_long_as_normal_vectors():
    ours = kernels.orthogonal_projection(
        3000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for rows in (
        ours.numpy(),
        reference.orthogonal_projection(3000, 5, generator=np.random.default_rng(0)),
    ):
        blocks = rows.reshape(-1, 5, 5)
        products = blocks @ blocks.transpose(0, 2, 1)
        assert np.abs(products * (1 - np.eye(5))).max() < 1e-12
        np.testing.assert_allclose((rows**2).sum(1).mean(), 5, rtol=0.1)
        np.testing.assert_allclose(rows.T @ rows / 3000, np.eye(5), atol=0.15)
        assert np.abs(rows.mean(0)).max() < 0.1
