"""Masks of other numbers are no reason to compile anew: a shape is compiled once."""

import pytest
import torch
from refusals import assert_refuses
from torch._dynamo.testing import CompileCounter

from attn_core import attention, masks
from attn_core.positions import ALiBi, ShawBias, T5Bias


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


LENGTHS = (17, 18, 20, 23)
OF_LENGTH = {
    "window": lambda length: {"mask": masks.window(2, 1)},
    "dilated, padding": lambda length: {
        "mask": masks.dilated(2, 1, gap=1) & masks.padding([length - 1, length])
    },
    "documents": lambda length: {
        "mask": masks.document(torch.arange(2 * length).view(2, -1) // (2 + length % 4))
    },
    "not documents": lambda length: {"mask": ~masks.document(torch.arange(length) // 3)},
    "bigbird": lambda length: {"mask": masks.bigbird(length, 2)},
    "ALiBi": lambda length: {"bias": ALIBI},
    "sum of biases": lambda length: {"mask": masks.causal(), "bias": SUM},
}
ALIBI = ALiBi(2)
SUM = ALIBI + T5Bias(2, buckets=6, max_distance=4) + ShawBias(4, 2)


@pytest.mark.parametrize("options_of", OF_LENGTH.values(), ids=OF_LENGTH)
def test_many_lengths_are_compiled_once(options_of):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(with_options, backend=counter, fullgraph=True, dynamic=True)
    for length in LENGTHS:
        x, options = torch.randn(2, 2, length, 4), options_of(length)
        torch.testing.assert_close(compiled(x, options), with_options(x, options))
    assert counter.frame_count == 1


def with_options(x, options):
    return attention(x, x, x, **options)


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
