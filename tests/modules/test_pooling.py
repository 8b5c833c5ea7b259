"""Attention pooling: one learned query sums a sequence up."""

import pytest
import torch

from attn_core import masks
from attn_core.modules import AttentionPooling

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def make_layer():
    torch.manual_seed(0)
    return AttentionPooling(6).double()


def sequences(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_it_is_the_formula_without_a_scale():
    layer, x = make_layer(), sequences(2, 5, 6)
    weights = torch.softmax(x @ layer.query, -1)
    seen = layer(x, return_weights=True)
    torch.testing.assert_close(seen.weights, weights, **TOLERANCE)
    torch.testing.assert_close(seen.output, torch.einsum("bs,bsd->bd", weights, x), **TOLERANCE)
    assert torch.equal(layer(x), seen.output)


def test_the_order_of_the_sequence_does_not_matter():
    layer, x = make_layer(), sequences(2, 5, 6)
    torch.testing.assert_close(layer(x[:, [3, 0, 4, 2, 1]]), layer(x), **TOLERANCE)


@pytest.mark.parametrize(
    "mask",
    [masks.padding([5, 3]), torch.arange(5) < torch.tensor([5, 3])[:, None, None, None]],
    ids=["padding", "tensor"],
)
def test_padding_takes_no_part(mask):
    layer, x = make_layer(), sequences(2, 5, 6)
    pooled, weights = layer(x, mask=mask, return_weights=True)
    torch.testing.assert_close(pooled[1], layer(x[1:, :3])[0], **TOLERANCE)
    assert weights.shape == (2, 5)
    assert (weights[1, 3:] == 0).all()
    x[1, 3:] = torch.nan
    assert torch.equal(layer(x, mask=mask), pooled)


def test_a_sequence_of_padding_alone_becomes_zeros():
    layer, x = make_layer(), sequences(2, 5, 6)
    pooled = layer(x, mask=masks.padding([0, 5]))
    assert (pooled[0] == 0).all()
    pooled.sum().backward()
    assert torch.isfinite(layer.query.grad).all()


def test_the_query_learns_to_point_at_what_matters():
    """The loss asks for the first vector of the sequence: its weight grows."""
    layer, x = make_layer(), sequences(1, 5, 6)
    before = layer(x, return_weights=True).weights[0, 0].item()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        (layer(x) - x[:, 0]).square().sum().backward()
        optimizer.step()
    assert layer(x, return_weights=True).weights[0, 0].item() > max(0.9, before)
