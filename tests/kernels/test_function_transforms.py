"""``torch.func`` through every kernel: grad, vmap, and a clear word where there is nothing."""

import pytest
import torch
from small_blocks import small_blocks
from torch.func import functional_call, grad, jvp, vmap

from attn_core import attention, kernels, masks, positions

LENGTH = 11


def normal(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.fixture(autouse=True)
def _many_blocks():
    with small_blocks(4, 3):
        yield


CALLS = {
    "chunked": {"mask": masks.causal(), "bias": positions.ALiBi(2).double()},
    "chunked with a table": {"mask": normal((LENGTH, LENGTH), seed=5)[0] > 0},
    "chunked with an offset": {"mask": masks.causal(), "q_offset": torch.tensor([0, 3])},
    "banded": {"mask": masks.window(2, 1)},
    "banded with padding": {"mask": masks.window(2, 0) & masks.padding([LENGTH, 5])},
    "sdpa": {"mask": masks.causal()},
    "explicit": {"mask": masks.causal(), "softcap": 2.0},
}


def tensors():
    return normal((2, 2, LENGTH, 4), (2, 1, LENGTH, 4), (2, 1, LENGTH, 3), seed=1)


def computed_by(name):
    return kernels.use(name.split()[0])


@pytest.mark.parametrize("name", CALLS)
def test_grad_is_autograd(name):
    inputs = tensors()

    def loss(*inputs):
        return attention(*inputs, **CALLS[name]).square().sum()

    with computed_by(name):
        seen = grad(loss, argnums=(0, 1, 2))(*inputs)
        learned = [x.clone().requires_grad_() for x in inputs]
        expected = torch.autograd.grad(loss(*learned), learned)
    torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "sdpa"])
def test_vmap_is_a_loop_also_around_grad(name):
    _, key, value = tensors()
    (query,) = normal((3, 2, 2, LENGTH, 4), seed=2)

    def output(query):
        return attention(query, key, value, **CALLS[name])

    def gradient(query):
        return grad(lambda query: output(query).square().sum())(query)

    with computed_by(name):
        for function in (output, gradient):
            expected = torch.stack([function(x) for x in query])
            torch.testing.assert_close(vmap(function)(query), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", ["chunked", "explicit", "banded"])
def test_gradients_reach_parameters_that_functional_call_puts_in(kernel):
    bias, inputs = positions.T5Bias(2).double(), tensors()
    weight = normal(tuple(bias.weight.shape), seed=3)[0]

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = bias

        def forward(self, inputs):
            return attention(*inputs, mask=masks.window(3, 0), bias=self.bias).square().sum()

    loss = Loss()
    with kernels.use(kernel):
        seen = grad(lambda w: functional_call(loss, {"bias.weight": w}, (inputs,)))(weight)
        learned = weight.clone().requires_grad_()
        with torch.no_grad():
            bias.weight.copy_(weight)
        (expected,) = torch.autograd.grad(loss(inputs), bias.weight)
    assert learned.shape == expected.shape
    torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", ["chunked", "sdpa"])
def test_second_derivatives_name_the_kernel_that_has_them(kernel):
    query, key, _ = tensors()
    value = key.clone()

    def loss(query):
        return attention(query, key, value).square().sum()

    with kernels.use(kernel), pytest.raises(RuntimeError, match=r'use\("explicit"\)'):
        grad(lambda query: grad(loss)(query).sum())(query)
    query.requires_grad_()
    with kernels.use(kernel):
        (first,) = torch.autograd.grad(loss(query), query, create_graph=True)
    with pytest.raises(RuntimeError, match=r'use\("explicit"\)'):
        torch.autograd.grad(first.sum(), query)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("kernel", ["chunked", "sdpa"])
def test_forward_mode_names_the_kernel_that_has_it(kernel):
    query, key, _ = tensors()
    value = key.clone()
    with kernels.use(kernel), pytest.raises(RuntimeError, match=r'use\("explicit"\)'):
        jvp(lambda query: attention(query, key, value), (query,), (query,))
