"""Masks of other numbers are no reason to compile anew: a shape is compiled once."""

import pytest
import torch
from refusals import assert_refuses
from torch._dynamo.testing import CompileCounter

from attn_core import attention, masks


def given(x, mask):
    return attention(x, x, x, mask=mask)


def combined(x, mask):
    return attention(x, x, x, mask=mask & masks.causal())


def made_inside(x, lengths):
    return attention(x, x, x, mask=masks.padding(lengths))


def lengths_of(batch, length):
    return torch.tensor([3 * batch % length + 1, (5 * batch + 2) % length + 1])


CALLS = {
    "given": (given, lambda lengths: masks.padding(lengths)),
    "combined": (combined, lambda lengths: masks.padding(lengths)),
    "made inside": (made_inside, lambda lengths: lengths),
}


@pytest.mark.parametrize("dynamic", [None, True], ids=["one length", "many lengths"])
@pytest.mark.parametrize(("call", "mask_of"), CALLS.values(), ids=CALLS)
def test_padding_of_many_batches_is_compiled_once(call, mask_of, dynamic):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(call, backend=counter, fullgraph=True, dynamic=dynamic)
    for batch in range(9):
        length = 7 + batch if dynamic else 7
        x, mask = torch.randn(2, 2, length, 4), mask_of(lengths_of(batch, length))
        torch.testing.assert_close(compiled(x, mask), call(x, mask))
    assert counter.frame_count == 1


def test_another_mask_is_compiled_anew():
    """What a mask is called is not looked at while compiling; what it does is."""
    torch._dynamo.reset()
    compiled = torch.compile(given, backend=CompileCounter())
    x = torch.randn(2, 2, 5, 4)
    for mask in (
        masks.causal(),
        masks.window(None, 0),
        masks.window(1, 0),
        masks.padding([2, 5]),
        masks.Mask(lambda at: at.key <= at.query + 1, "causal()", uses_positions=True),
        masks.causal(),
    ):
        torch.testing.assert_close(compiled(x, mask), given(x, mask))


def test_outside_of_a_compiled_call_the_lengths_are_still_looked_at():
    x = torch.randn(2, 2, 5, 4)
    says = ["padding([6, 2])", "6 keys", "got 5"]
    assert_refuses(lambda: given(x, masks.padding([6, 2])), ValueError, says)
