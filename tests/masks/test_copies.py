"""A mask is copied, pickled and saved with the model that holds it, and stays the mask it was."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from attn_core import attention, kernels, masks, positions

LAYOUT = torch.tensor([[True, False], [True, True]])
MASKS = [
    masks.causal(),
    masks.window(1, None),
    masks.padding([4, 2]),
    masks.document([0, 0, 1, 1]),
    masks.document([[0, 0, 1, 1], [0, 1, 1, 1]]),
    masks.dense(torch.tensor([[True, False, True, True]] * 4)),
    masks.block_sparse(LAYOUT, 2),
    masks.dilated(1, 1, 1),
    masks.strided(2),
    masks.global_tokens(1),
    masks.longformer(2, 1),
    masks.bigbird(4, 1),
    masks.sparse_transformer(2),
    ~(masks.causal() & masks.padding([4, 2])) | masks.window(0, 0),
]
WAYS = {
    "copied": copy.copy,
    "copied deeply": copy.deepcopy,
    "pickled": lambda x: pickle.loads(pickle.dumps(x)),
}


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_a_copy_is_the_same_rule_and_knows_the_same_about_it(mask, way):
    other = way(mask)
    assert torch.equal(other.dense(4, 4), mask.dense(4, 4))
    known, known_of_other = ({**vars(m), "predicate": None} for m in (mask, other))
    assert known_of_other == known


@pytest.mark.parametrize("way", [*WAYS.values(), saved], ids=[*WAYS, "saved"])
def test_a_copy_of_causal_is_causal(way):
    assert way(masks.causal()) is masks.causal()
    assert way([masks.causal()])[0] is masks.causal()


class Model(nn.Module):
    """A layer that holds its mask and its bias."""

    def __init__(self):
        super().__init__()
        self.mask, self.both = masks.causal(), masks.causal() & masks.padding([5, 3])
        self.bias = positions.T5Bias(2)

    def forward(self, x):
        seen = attention(x, x, x, mask=self.mask)
        return seen + attention(x, x, x, mask=self.both, bias=self.bias)


@pytest.mark.parametrize("way", [copy.deepcopy, saved])
def test_a_model_that_holds_masks_is_saved_whole_and_keeps_the_fused_path(way):
    model = Model()
    other = way(model)
    x = torch.randn(2, 2, 5, 8)
    assert torch.equal(other(x), model(x))
    assert kernels.which(x, x, x, mask=other.mask).kernel == "sdpa"
    assert kernels.choosing.check_arguments(x, x, x, mask=other.mask).is_causal_from_first_key


@pytest.mark.parametrize("bias", [positions.ALiBi(2), positions.T5Bias(2)], ids=repr)
def test_a_bias_is_pickled(bias):
    other = pickle.loads(pickle.dumps(bias))
    assert torch.equal(other.dense(3, 3), bias.dense(3, 3))


def test_a_predicate_that_cannot_be_pickled_says_so():
    mask = masks.Mask(lambda at: at.key >= 0, "all")
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(mask)
    assert copy.deepcopy(mask).dense(2, 2).all()
