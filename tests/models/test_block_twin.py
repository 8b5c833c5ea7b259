"""The block in PyTorch and the block in NumPy give the same, forward and backward."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import assert_refuses
from torch import nn

from attn_core import masks, reference
from attn_core.models.block import Block

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
DIM, HIDDEN = 8, 20


KINDS = {
    "pre": {"norm": "pre"},
    "post": {"norm": "post"},
    "both": {"norm": "both"},
    "without biases": {"norm": "pre", "bias": False},
    "llama": {"norm": "pre", "bias": False, "norm_kind": "rms", "activation": "swiglu"}
    | {"kv_heads": 1},
    "qwen": {"norm": "pre", "norm_kind": "rms", "activation": "swiglu"}
    | {"kv_heads": 1, "qk_norm": True, "head_dim": 6},
    "gemma": {"norm": "both", "norm_kind": "rms", "bias": False, "scale": 0.3, "softcap": 0.8},
}
in_numpy_too = {"norm", "norm_kind", "activation", "kv_heads", "scale", "softcap"}


def settings_of(kind):
    return {"heads": 2} | {k: x for k, x in KINDS[kind].items() if k in in_numpy_too}


def make(kind, shape=(2, 5, DIM)):
    torch.manual_seed(0)
    block = Block(DIM, 2, hidden_dim=HIDDEN, **KINDS[kind]).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    parameters = {name: p.detach().numpy() for name, p in block.named_parameters()}
    return block, parameters, torch.randn(shape, dtype=torch.float64)


MASKS = {
    "none": (None, None),
    "causal": (masks.causal(), reference.causal(5, 5)),
    "padding": (masks.padding([5, 2]), reference.padding([5, 2], 5)),
    "a row that attends nothing": (
        masks.dense(torch.tril(torch.ones(5, 5), -1).bool()),
        np.tril(np.ones((5, 5)), -1).astype(bool),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_block(kind, mask):
    block, parameters, x = make(kind)
    in_torch, in_numpy = MASKS[mask]
    options = settings_of(kind) | {"mask": in_numpy}
    x.requires_grad_()
    output = block(x, mask=in_torch)
    expected = reference.transformer_block(x.detach().numpy(), parameters, **options)
    np.testing.assert_allclose(output.detach().numpy(), expected, **TOLERANCE)

    grad_output = np.random.default_rng(0).normal(size=expected.shape)
    output.backward(torch.tensor(grad_output))
    gradients = reference.transformer_block_backward(
        grad_output, x.detach().numpy(), parameters, **options
    )
    np.testing.assert_allclose(x.grad.numpy(), gradients.x, **TOLERANCE)
    assert gradients.parameters.keys() == parameters.keys()
    for name, parameter in block.named_parameters():
        np.testing.assert_allclose(
            parameter.grad.numpy(), gradients.parameters[name], **TOLERANCE, err_msg=name
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_is_the_slope(kind):
    """Finite differences along random directions, in x and in every parameter at once."""
    _, parameters, x = make(kind, (3, DIM))
    x = x.numpy()
    rng = np.random.default_rng(1)
    grad_output = rng.normal(size=x.shape)
    options = settings_of(kind) | {"mask": reference.causal(3, 3)}
    gradients = reference.transformer_block_backward(grad_output, x, parameters, **options)
    for _ in range(5):
        step = rng.normal(size=x.shape)
        steps = {name: rng.normal(size=array.shape) for name, array in parameters.items()}

        def loss(size, step=step, steps=steps):
            moved = {name: array + size * steps[name] for name, array in parameters.items()}
            output = reference.transformer_block(x + size * step, moved, **options)
            return (grad_output * output).sum()

        slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
        expected = (gradients.x * step).sum() + sum(
            (gradients.parameters[name] * steps[name]).sum() for name in parameters
        )
        np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_a_block_over_a_matrix_is_a_block_over_a_batch_of_one():
    _, parameters, x = make("pre")
    alone = reference.transformer_block(x[1].numpy(), parameters, heads=2)
    together = reference.transformer_block(x.numpy(), parameters, heads=2)[1]
    np.testing.assert_allclose(alone, together, **TOLERANCE)


@pytest.mark.parametrize("shape", [(4, DIM), (2, 3, DIM)])
def test_layer_norm(shape):
    arrays = [np.random.default_rng(i).normal(size=s) for i, s in enumerate([shape, DIM, DIM])]
    x, weight, bias = (torch.tensor(array, requires_grad=True) for array in arrays)
    output = F.layer_norm(x, (DIM,), weight, bias, eps=1e-3)
    expected = reference.layer_norm(*arrays, eps=1e-3)
    np.testing.assert_allclose(output.detach().numpy(), expected, **TOLERANCE)
    grad_output = np.random.default_rng(9).normal(size=shape)
    output.backward(torch.tensor(grad_output))
    for seen, gradient in zip(
        (x, weight, bias),
        reference.layer_norm_backward(grad_output, *arrays, eps=1e-3),
        strict=True,
    ):
        np.testing.assert_allclose(seen.grad.numpy(), gradient, **TOLERANCE)


@pytest.mark.parametrize("shape", [(4, DIM), (2, 3, DIM)])
def test_rms_norm(shape):
    arrays = [np.random.default_rng(i).normal(size=s) for i, s in enumerate([shape, DIM])]
    x, weight = (torch.tensor(array, requires_grad=True) for array in arrays)
    output = F.rms_norm(x, (DIM,), weight, eps=1e-3)
    expected = reference.rms_norm(*arrays, eps=1e-3)
    np.testing.assert_allclose(output.detach().numpy(), expected, **TOLERANCE)
    grad_output = np.random.default_rng(9).normal(size=shape)
    output.backward(torch.tensor(grad_output))
    gradients = reference.rms_norm_backward(grad_output, *arrays, eps=1e-3)
    for seen, gradient in zip((x, weight), gradients, strict=True):
        np.testing.assert_allclose(seen.grad.numpy(), gradient, **TOLERANCE)


def test_what_layer_norm_gives_does_not_change_with_scale_or_shift():
    x = np.random.default_rng(0).normal(size=(4, DIM))
    one, zero = np.ones(DIM), np.zeros(DIM)
    normed = reference.layer_norm(x, one, zero, eps=0.0)
    np.testing.assert_allclose(reference.layer_norm(7 * x - 3, one, zero, eps=0.0), normed)
    np.testing.assert_allclose(normed.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(normed.var(-1), 1)


@pytest.mark.parametrize("shape", [(), (0,), (50,), (3, 4)])
def test_gelu(shape):
    array = 3 * np.random.default_rng(0).normal(size=shape)
    array = np.asarray(array)
    x = torch.tensor(array, requires_grad=True)
    output = F.gelu(x)
    np.testing.assert_allclose(output.detach().numpy(), reference.gelu(array), **TOLERANCE)
    grad_output = np.asarray(np.random.default_rng(1).normal(size=shape))
    output.backward(torch.tensor(grad_output))
    gradient = reference.gelu_backward(grad_output, array)
    np.testing.assert_allclose(x.grad.numpy(), gradient, **TOLERANCE)


def test_float32_stays_float32():
    _, parameters, x = make("pre")
    small = {name: array.astype(np.float32) for name, array in parameters.items()}
    x32 = x.numpy().astype(np.float32)
    assert reference.transformer_block(x32, small, heads=2).dtype == np.float32
    gradients = reference.transformer_block_backward(x32, x32, small, heads=2)
    assert {g.dtype for g in gradients.parameters.values()} == {np.dtype(np.float32)}


_, GOOD, X = make("pre")
X = X.numpy()
ONE = np.ones(DIM)
NAME = "feed_forward.outer.weight"


def block(x=X, parameters=GOOD, heads=2, **options):
    return lambda: reference.transformer_block(x, parameters, heads=heads, **options)


REFUSED = {
    "x list": (block(x=[[1.0]]), TypeError, ["x", "list"]),
    "x integers": (block(x=np.ones((3, DIM), int)), TypeError, ["x", "int"]),
    "x vector": (block(x=X[0, 0]), ValueError, ["x", "(8,)"]),
    "x width": (
        block(x=X[..., :4]),
        ValueError,
        ["attention.query_proj.weight", "(8, 4)", "(8, 8)"],
    ),
    "heads zero": (block(heads=0), ValueError, ["heads", "0"]),
    "heads float": (block(heads=2.0), TypeError, ["heads", "2.0"]),
    "heads three": (block(heads=3), ValueError, ["heads", "3", "8"]),
    "key-value heads": (block(kv_heads=3), ValueError, ["kv_heads", "3", "2"]),
    "key-value heads zero": (block(kv_heads=0), ValueError, ["kv_heads", "0"]),
    "kind of norm": (block(norm_kind="batch"), ValueError, ["norm_kind", "'batch'"]),
    "activation": (block(activation="relu"), ValueError, ["activation", "'relu'"]),
    "biases too many": (
        block(norm_kind="rms"),
        ValueError,
        ["unexpected", "attention_norm.bias"],
    ),
    "gate missing": (block(activation="swiglu"), ValueError, ["missing", "feed_forward.gate"]),
    "a bias missing": (
        block(parameters={k: v for k, v in GOOD.items() if k != "attention.out_proj.bias"}),
        ValueError,
        ["missing", "attention.out_proj.bias"],
    ),
    "norm": (block(norm="none"), ValueError, ["norm", "'none'"]),
    "eps": (block(eps=-1.0), ValueError, ["eps", "-1.0"]),
    "mask of numbers": (block(mask=np.ones((5, 5))), TypeError, ["mask", "float64", "bias"]),
    "mask shape": (block(mask=np.ones((4, 5), bool)), ValueError, ["mask", "(4, 5)"]),
    "parameter missing": (
        block(parameters={k: v for k, v in GOOD.items() if k != NAME}),
        ValueError,
        ["missing", NAME],
    ),
    "parameter too many": (
        block(parameters=GOOD | {"gate": ONE}),
        ValueError,
        ["unexpected", "gate"],
    ),
    "parameter shape": (
        block(parameters=GOOD | {NAME: GOOD[NAME].T}),
        ValueError,
        [NAME, "(8, 20)", "(20, 8)"],
    ),
    "parameter dtype": (
        block(parameters=GOOD | {NAME: GOOD[NAME].astype(np.float32)}),
        TypeError,
        [NAME, "float32", "float64"],
    ),
    "parameters list": (block(parameters=[ONE]), TypeError, ["parameters", "list"]),
    "gradient shape": (
        lambda: reference.transformer_block_backward(X[0], X, GOOD, heads=2),
        ValueError,
        ["grad_output", "(2, 5, 8)", "(5, 8)"],
    ),
    "norm weight": (
        lambda: reference.layer_norm(X, ONE[:4], ONE),
        ValueError,
        ["weight", "(8,)", "(4,)"],
    ),
    "norm bias": (lambda: reference.layer_norm(X, ONE, ONE[:4]), ValueError, ["bias", "(4,)"]),
    "norm eps": (lambda: reference.layer_norm(X, ONE, ONE, "a"), TypeError, ["eps", "'a'"]),
    "norm gradient": (
        lambda: reference.layer_norm_backward(X[0], X, ONE, ONE),
        ValueError,
        ["grad_output", "(5, 8)"],
    ),
    "rms norm weight": (
        lambda: reference.rms_norm(X, ONE[:4]),
        ValueError,
        ["weight", "(8,)", "(4,)"],
    ),
    "rms norm eps": (lambda: reference.rms_norm(X, ONE, -1.0), ValueError, ["eps", "-1.0"]),
    "rms norm gradient": (
        lambda: reference.rms_norm_backward(X[0], X, ONE),
        ValueError,
        ["grad_output", "(5, 8)"],
    ),
    "gelu list": (lambda: reference.gelu([1.0]), TypeError, ["x", "list"]),
    "gelu integers": (lambda: reference.gelu(np.arange(3)), TypeError, ["x", "int64"]),
    "gelu gradient": (
        lambda: reference.gelu_backward(ONE, X),
        ValueError,
        ["grad_output", "(8,)"],
    ),
}


@pytest.mark.parametrize(
    ("call", "raises", "says"), [pytest.param(*row, id=name) for name, row in REFUSED.items()]
)
def test_bad_input_is_refused_by_name(call, raises, says):
    assert_refuses(call, raises, says)
