"""The recurrences in PyTorch's chunks and in NumPy's loops agree to 1e-12, forward and backward."""

import inspect

import numpy as np
import pytest
import torch

from attn_core import kernels, reference

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
# Query, key and value, and what stands before width and value width in the state.
SHAPES = {
    "matrices": [(7, 4), (7, 4), (7, 3), ()],
    "heads": [(2, 3, 7, 4), (2, 3, 7, 4), (2, 3, 7, 3), (2, 3)],
    "grouped": [(2, 6, 7, 4), (2, 3, 7, 4), (2, 3, 7, 3), (2, 3)],
    "one key head": [(2, 6, 7, 4), (1, 1, 7, 4), (1, 1, 7, 3), (1, 1)],
    "batch of queries": [(2, 2, 7, 4), (2, 7, 4), (2, 7, 3), (2,)],
    "keys without heads": [(2, 4, 7, 4), (7, 4), (7, 3), (1,)],
}
EVERY_SHAPE = pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
PADDED = pytest.mark.parametrize("padded", [False, True])


def normal(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def padding(shapes, padded):
    """Some keys are not real; and none at all of the second entry, where keys have a batch of 2."""
    if not padded:
        return None
    real = np.array([True, True, False, True, True, False, True])
    return (
        real
        if shapes[3][:1] != (2,) or len(shapes[3]) < 2
        else np.stack([real, np.zeros(7, bool)])[:, None, None]
    )


def tensors(arrays, *, requires_grad=False):
    return {name: torch.tensor(x, requires_grad=requires_grad) for name, x in arrays.items()}


def assert_twins(call, twin, backward, arrays, mask, **options):
    """Outputs, states and gradients; ``arrays`` are by name, in the order of the gradients."""
    leaves = tensors(arrays, requires_grad=True)
    torch_mask = None if mask is None else torch.tensor(mask)
    output, state = call(**leaves, mask=torch_mask, return_state=True, chunk_size=4, **options)
    expected = twin(**arrays, mask=mask, return_state=True, **options)
    np.testing.assert_allclose(output.detach().numpy(), expected.output, **TOLERANCE)
    np.testing.assert_allclose(state.detach().numpy(), expected.state, **TOLERANCE)
    assert state.shape == expected.state.shape

    grad_output = np.random.default_rng(7).normal(size=expected.output.shape)
    output.backward(torch.tensor(grad_output))
    gradients = backward(grad_output, **arrays, mask=mask, **options)._asdict()
    for name, gradient in gradients.items():
        assert (gradient is None) == (name not in leaves)
        if gradient is not None:
            assert gradient.shape == arrays[name].shape
            np.testing.assert_allclose(leaves[name].grad.numpy(), gradient, **TOLERANCE)


@EVERY_SHAPE
@PADDED
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("has_past", [False, True])
def test_linear_attention(shapes, padded, causal, has_past):
    query, key, value, past = normal(*shapes[:3], (*shapes[3], 4, 4))
    arrays = {"query": query, "key": key, "value": value}
    if has_past:
        arrays["past_state"] = past**2
    assert_twins(
        kernels.linear_attention,
        reference.linear_attention,
        reference.linear_attention_backward,
        arrays,
        padding(shapes, padded),
        causal=causal,
    )


@EVERY_SHAPE
@PADDED
@pytest.mark.parametrize("gates", ["", "beta", "decay", "beta decay", "wide decay", "shared"])
@pytest.mark.parametrize("has_past", [False, True])
def test_delta_rule(shapes, padded, gates, has_past):
    query, key, value, past = normal(*shapes[:3], (*shapes[3], 4, 3))
    arrays = {
        "query": query,
        "key": key / np.linalg.norm(key, axis=-1, keepdims=True),
        "value": value,
    }
    rng = np.random.default_rng(1)
    of_heads = () if gates == "shared" else shapes[3]
    if "beta" in gates or gates == "shared":
        arrays["beta"] = rng.uniform(size=(*of_heads, 7, 1))
    if "decay" in gates or gates == "shared":
        arrays["decay"] = -rng.uniform(size=(*of_heads, 7, 4 if "wide" in gates else 1))
    if has_past:
        arrays["past_state"] = past
    assert_twins(
        kernels.delta_rule,
        reference.delta_rule,
        reference.delta_rule_backward,
        arrays,
        padding(shapes, padded),
        scale=None if has_past else 0.7,
    )


def test_gates_that_are_numbers():
    arrays = dict(
        zip(("query", "key", "value"), normal((2, 7, 4), (1, 7, 4), (1, 7, 3)), strict=True)
    )
    arrays |= {"beta": np.array(0.3), "decay": np.array(-0.2)}
    assert_twins(
        kernels.delta_rule, reference.delta_rule, reference.delta_rule_backward, arrays, None
    )
    numbers = {name: arrays[name] for name in ("query", "key", "value")}
    expected = kernels.delta_rule(**tensors(numbers), beta=0.3, decay=-0.2).numpy()
    seen = reference.delta_rule(**numbers, beta=0.3, decay=-0.2)
    np.testing.assert_allclose(seen, expected, **TOLERANCE)


def test_another_feature_map_needs_its_derivative():
    query, key, value = normal((7, 4), (7, 4), (7, 3))
    assert_twins(
        lambda **x: kernels.linear_attention(**x, feature_map=torch.exp),
        lambda **x: reference.linear_attention(**x, feature_map=np.exp),
        lambda grad, **x: reference.linear_attention_backward(
            grad, **x, feature_map=np.exp, feature_map_backward=lambda g, x: g * np.exp(x)
        ),
        {"query": query, "key": key, "value": value},
        None,
        causal=True,
    )
    with pytest.raises(ValueError, match="feature_map_backward is needed"):
        reference.linear_attention_backward(value, query, key, value, feature_map=np.exp)


def test_weights_that_cancel_give_zeros_and_not_infinity():
    """With a feature map of both signs a sum of weights can be 0 though the keys are not."""
    query, key, value = np.ones((1, 1)), np.array([[1.0], [-1.0]]), np.array([[3.0], [5.0]])
    arrays = {"query": query, "key": key, "value": value}
    assert_twins(
        lambda **x: kernels.linear_attention(**x, feature_map=lambda y: y),
        lambda **x: reference.linear_attention(**x, feature_map=lambda y: y),
        lambda grad, **x: reference.linear_attention_backward(
            grad, **x, feature_map=lambda y: y, feature_map_backward=lambda g, y: g
        ),
        arrays,
        None,
    )
    output = reference.linear_attention(**arrays, feature_map=lambda y: y)
    assert output.tolist() == [[0.0]]


def test_the_feature_map():
    (x,) = normal((3, 5))
    leaf = torch.tensor(x, requires_grad=True)
    features = kernels.elu_plus_one(leaf)
    np.testing.assert_allclose(features.detach().numpy(), reference.elu_plus_one(x), **TOLERANCE)
    features.sum().backward()
    gradient = reference.elu_plus_one_backward(np.ones_like(x), x)
    np.testing.assert_allclose(leaf.grad.numpy(), gradient, **TOLERANCE)


def measured_gradient(function, arrays, name, grad_output, step=1e-6):
    """Move one number at a time and see how much sum(grad_output × output) moves."""
    gradient = np.zeros_like(arrays[name])
    for at in np.ndindex(gradient.shape):
        ends = []
        for sign in (1, -1):
            moved = {**arrays, name: arrays[name].copy()}
            moved[name][at] += sign * step
            ends.append((grad_output * function(**moved)).sum())
        gradient[at] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def test_the_derivatives_are_what_finite_differences_measure():
    query, key, value, beta, decay, past = normal(
        (2, 3, 2), (1, 3, 2), (1, 3, 1), (1, 3, 1), (1, 3, 2), (1, 2, 1)
    )
    arrays = {"query": query, "key": key, "value": value}
    gates = {"beta": np.abs(np.tanh(beta)), "decay": -np.abs(decay), "past_state": past}
    past_sums = {"past_state": np.concatenate([past, past], -1) ** 2}
    for name, inputs, options in (
        ("delta_rule", arrays | gates, {}),
        ("linear_attention", arrays | past_sums, {"causal": True}),
        ("linear_attention", arrays | past_sums, {}),
    ):
        function, backward = getattr(reference, name), getattr(reference, f"{name}_backward")

        def compute(function=function, options=options, **moved):
            return function(**moved, **options)

        grad_output = np.random.default_rng(7).normal(size=(2, 3, 1))
        for argument, gradient in backward(grad_output, **inputs, **options)._asdict().items():
            expected = measured_gradient(compute, inputs, argument, grad_output)
            np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["linear_attention", "delta_rule", "elu_plus_one"])
def test_twins_take_the_same_arguments(name):
    torch_only = {"chunk_size"}
    seen = inspect.signature(getattr(kernels, name)).parameters
    twin = inspect.signature(getattr(reference, name)).parameters
    assert [argument for argument in seen if argument not in torch_only] == list(twin)
    defaults = {argument: twin[argument].default for argument in twin if argument != "feature_map"}
    assert all(seen[argument].default == default for argument, default in defaults.items())


def test_what_is_padded_reaches_nothing_in_numpy():
    results = []
    for filling in (0.5, np.nan):
        query, key, value, beta, decay = normal((7, 4), (7, 4), (7, 3), (7, 1), (7, 4))
        beta, decay = np.abs(np.tanh(beta)), -np.abs(decay)
        for x in (key, value, beta, decay):
            x[4:] = filling
        gates = {"beta": beta, "decay": decay, "mask": np.arange(7) < 4}
        grad = np.ones((7, 3))
        results.append(
            [
                reference.delta_rule(query, key, value, **gates),
                *reference.delta_rule_backward(grad, query, key, value, **gates)[:5],
                reference.linear_attention(query, key, value, mask=gates["mask"]),
                *reference.linear_attention_backward(grad, query, key, value, mask=gates["mask"])[
                    :3
                ],
            ]
        )
    for clean, poisoned in zip(*results, strict=True):
        np.testing.assert_array_equal(clean, poisoned)
        assert np.isfinite(poisoned).all()
