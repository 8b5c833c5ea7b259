"""Self-attention: one head, three projections, no order of its own."""

import pytest
import torch

from attn_core import masks
from attn_core.modules import SelfAttention

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def make_layer(**options):
    torch.manual_seed(0)
    return SelfAttention(6, **options).double()


def sequences(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("head_dim", [None, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_formula(head_dim, bias):
    layer, x = make_layer(head_dim=head_dim, bias=bias), sequences(2, 5, 6)
    query, key, value = layer.query_proj(x), layer.key_proj(x), layer.value_proj(x)
    weights = torch.softmax(query @ key.mT / (head_dim or 6) ** 0.5, -1)
    seen = layer(x, return_weights=True)
    torch.testing.assert_close(seen.weights, weights, **TOLERANCE)
    torch.testing.assert_close(seen.output, weights @ value, **TOLERANCE)
    assert seen.output.shape == (2, 5, head_dim or 6)
    assert torch.equal(layer(x), seen.output)
    assert (layer.query_proj.bias is not None) == bias


def test_query_and_key_have_projections_of_their_own_so_weights_are_not_symmetric():
    layer, x = make_layer(), sequences(1, 5, 6)
    scores = layer.query_proj(x) @ layer.key_proj(x).mT
    assert not torch.allclose(scores, scores.mT)
    layer(x).square().sum().backward()
    gradients = [layer.query_proj.weight.grad, layer.key_proj.weight.grad]
    assert not torch.allclose(*gradients)


def test_permuting_the_sequence_permutes_the_output():
    layer, x = make_layer(), sequences(2, 5, 6)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], **TOLERANCE)


def test_causal_keeps_the_future_out_in_every_bit():
    layer, x = make_layer(), sequences(2, 5, 6)
    moved = x.clone()
    moved[:, 3] += 1
    seen, expected = layer(moved, mask=masks.causal()), layer(x, mask=masks.causal())
    assert torch.equal(seen[:, :3], expected[:, :3])
    assert (seen[:, 3:] != expected[:, 3:]).any(-1).all()


@pytest.mark.parametrize(
    "mask",
    [
        masks.padding([5, 3]),
        torch.arange(5) < torch.tensor([5, 3])[:, None, None, None],
        masks.dense(torch.arange(5) < torch.tensor([5, 3])[:, None, None, None].expand(2, 1, 5, 1)),
    ],
    ids=["padding", "tensor", "dense"],
)
def test_padding_is_left_out_for_its_own_batch_entry_only(mask):
    layer, x = make_layer(), sequences(2, 5, 6)
    weights = layer(x, mask=mask, return_weights=True).weights
    assert (weights[1, :, 3:] == 0).all()
    assert (weights[0] > 0).all()
    torch.testing.assert_close(layer(x, mask=mask)[1, :3], layer(x[1:, :3])[0], **TOLERANCE)
