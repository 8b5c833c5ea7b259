"""Masks and biases have no truth value, so that Python's own `and`, `or`, `not` cannot lose one."""

import pytest
import torch
from refusals import assert_refuses

from attn_core import attention, masks, positions

CAUSAL, PADDING = masks.causal(), masks.padding([4])
ALIBI, T5 = positions.ALiBi(2), positions.T5Bias(2)
MISTAKES = {
    "mask and mask": lambda: CAUSAL and PADDING,
    "mask or mask": lambda: PADDING or CAUSAL,
    "not mask": lambda: not PADDING,
    "if mask": lambda: 1 if PADDING & CAUSAL else 0,
    "bool of a mask": lambda: bool(masks.Mask(lambda at: at.key >= 0, "all")),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_python_s_own_logic_is_refused_and_the_operators_are_named(mistake):
    assert_refuses(mistake, TypeError, ["mask", "truth value", "&", "|", "~", "is not None"])


@pytest.mark.parametrize(
    "mistake",
    [lambda: ALIBI and T5, lambda: T5 or ALIBI, lambda: not T5, lambda: bool(positions.Bias())],
)
def test_so_it_is_for_biases(mistake):
    assert_refuses(mistake, TypeError, ["bias", "truth value", "is not None"])


@pytest.mark.parametrize(
    "wrong", [lambda t: t & CAUSAL, lambda t: t | CAUSAL, lambda t: CAUSAL & t]
)
def test_a_tensor_on_either_side_is_told_to_become_a_mask(wrong):
    table = torch.ones(2, 2, dtype=torch.bool)
    assert_refuses(lambda: wrong(table), TypeError, ["Tensor", "masks.dense"])


def test_masks_and_biases_still_work_where_none_is_asked_for():
    x = torch.randn(1, 2, 4, 8)
    module = torch.nn.ModuleDict({"bias": ALIBI, "other": T5}).eval()
    assert len(list(module.modules())) == 3
    seen = attention(x, x, x, mask=CAUSAL & PADDING, bias=ALIBI)
    by_hand = attention(x, x, x, mask=CAUSAL.dense(4, 4), bias=ALIBI.dense(4, 4))
    torch.testing.assert_close(seen, by_hand)
