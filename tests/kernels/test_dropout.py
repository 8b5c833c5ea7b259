"""What dropout takes away forward is taken away backward too, with every kernel."""

import pytest
import torch

from attn_core import attention, kernels, masks
from attn_core.arguments import check_arguments
from attn_core.kernels import banded, chunked, explicit, sdpa

KERNELS = {"explicit": explicit, "sdpa": sdpa, "banded": banded, "chunked": chunked}
KEYS = 300  # several blocks of every kernel
MASKS = {"none": None, "window": masks.window(40, 3), "causal": masks.causal()}


def normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def inputs():
    identity = torch.eye(KEYS, dtype=torch.float64).expand(2, 1, KEYS, KEYS).contiguous()
    tensors = normal(2, 2, KEYS, 4, seed=0), normal(2, 1, KEYS, 4, seed=1), identity
    return [x.requires_grad_() for x in tensors]


CASES = [
    (kernel, mask)
    for kernel in KERNELS
    for mask in MASKS
    if KERNELS[kernel].refusal(check_arguments(*inputs(), mask=MASKS[mask], dropout_p=0.4)) is None
]


@pytest.mark.parametrize(("kernel", "mask"), CASES)
def test_the_same_weights_are_dropped_forward_and_backward(kernel, mask):
    """The values are the identity, so that the output is the weights that were left."""
    query, key, value = inputs()
    torch.manual_seed(0)
    with kernels.use(kernel):
        left, weights = attention(
            query, key, value, mask=MASKS[mask], dropout_p=0.4, return_weights=True
        )
    grad_output = normal(*left.shape, seed=2)
    grad_query, grad_key, grad_value = torch.autograd.grad(left, [query, key, value], grad_output)
    kept = (left > 0).double() / 0.6
    torch.testing.assert_close(left, weights.detach() * kept, rtol=1e-10, atol=1e-12)
    assert 0.35 < (left[weights > 0] == 0).double().mean() < 0.45
    expected = (left.detach().mT @ grad_output).sum(1, keepdim=True)  # two heads share a key head
    torch.testing.assert_close(grad_value, expected, rtol=1e-10, atol=1e-12)
    # The rest goes through the weights before dropout.
    with kernels.use("explicit"):
        _, weights = attention(query, key, value, mask=MASKS[mask], return_weights=True)
    expected = torch.autograd.grad(weights, [query, key], grad_output * kept)
    torch.testing.assert_close((grad_query, grad_key), expected, rtol=1e-9, atol=1e-10)


def test_every_kernel_with_dropout_is_there():
    assert {kernel for kernel, _ in CASES} == set(KERNELS)
