"""What torch.export and torch.jit.trace record with masks and biases holds for other lengths."""

import pytest
import torch
from refusals import assert_refuses
from torch import nn
from torch.export import Dim, export

from attn_core import attention, kernels, masks, positions

PADDING = masks.padding([4, 6])
ONE_ROW = masks.dense(torch.tensor([True, False])[:, None, None, None])


class FewCalls(nn.Module):
    """Two calls at once, so that one recording will do; the second has 3 queries at the end."""

    def __init__(self):
        super().__init__()
        self.alibi, self.shaw = positions.ALiBi(2), positions.ShawBias(4, max_distance=2)
        self.t5 = positions.T5Bias(2, buckets=4, max_distance=3)

    def forward(self, x):
        at_end = {"mask": masks.causal(), "q_offset": x.shape[-2] - 3}
        return (
            attention(x, x, x, mask=masks.window(1, 1) & PADDING),
            attention(x[:, :, -3:], x, x, bias=self.t5, **at_end),
        )


class ManyCalls(FewCalls):
    """What takes longer to export than a test may."""

    def forward(self, x):
        sparse = masks.strided(2) & ~masks.dilated(1, 1, 1) & ONE_ROW
        return (
            attention(x, x, x, mask=masks.causal(), bias=self.alibi),
            attention(x, x, x, mask=masks.window(2, 1) | masks.global_tokens(1), bias=self.shaw),
            attention(x, x, x, mask=masks.causal() & PADDING, softcap=2.0),
            attention(x, x, x, mask=PADDING & sparse, bias=self.t5),
        )


def assert_repeats(recorded, model, length):
    x = torch.randn(2, 2, length, 4)
    torch.testing.assert_close(recorded(x), model(x))


def test_an_exported_call_takes_other_lengths():
    model, length = FewCalls(), {2: Dim("length", min=6, max=8000)}
    program = export(model, (torch.randn(2, 2, 9, 4),), dynamic_shapes=(length,)).module()
    for other in (6, 530):
        assert_repeats(program, model, other)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("length", [9, 530])
def test_a_traced_call_takes_other_lengths(length):
    model = ManyCalls()
    traced = torch.jit.trace(model, torch.randn(2, 2, length, 4))
    for other in (6, 730):
        assert_repeats(traced, model, other)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_what_a_trace_sees_of_one_mask_is_not_taken_for_all():
    """Whether every key has a query is a look at values; a trace would keep its answer."""

    def call(x, table):
        return attention(x, x, x, mask=masks.dense(table))

    x = torch.randn(1, 1, 3, 4)
    traced = torch.jit.trace(call, (x, torch.ones(3, 3, dtype=torch.bool)))
    x[..., 2, :] = torch.nan
    table = torch.tensor([[True, True, False]] * 2 + [[False] * 3])
    assert torch.equal(traced(x, table), call(x, table))
    assert not traced(x, table).isnan().any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kernel", ["banded", "chunked"])
def test_a_kernel_that_goes_through_blocks_refuses_to_be_traced(kernel):
    def call(x):
        with kernels.use(kernel):
            return attention(x, x, x, mask=masks.window(1, 1))

    says = [kernel, "torch.jit.trace"]
    assert_refuses(lambda: torch.jit.trace(call, torch.randn(1, 8, 4)), ValueError, says)


@pytest.mark.parametrize("length", [torch.tensor(3.0), 3.0, True, None])
def test_outside_of_a_recording_a_length_is_an_integer(length):
    for call in (masks.causal().dense, positions.ALiBi(2).dense, positions.T5Bias(2).dense):
        assert_refuses(lambda call=call: call(length, 3, 0), TypeError, ["q_len", repr(length)])
