"""Time and memory of the kernels for long sequences grow with the length, not with its square."""

from unittest import mock

import pytest
import torch
from allocations import peak
from small_blocks import small_blocks
from torch.utils.flop_counter import FlopCounterMode

from attn_core import attention, kernels, masks, positions
from attn_core.kernels import sdpa
from attn_core.normalizers import softmax_with_sink

HEADS, WIDTH = 2, 16
CALLS = {
    "banded, window": ("banded", lambda n: {"mask": masks.window(20, 9)}),
    "banded, global tokens": (
        "banded",
        lambda n: {"mask": masks.window(20, 9) | masks.global_tokens(3)},
    ),
    "banded, padding": ("banded", lambda n: {"mask": masks.window(20, 9) & masks.padding([n - 5])}),
    "banded, documents": ("banded", lambda n: {"mask": masks.document(torch.arange(n) // 30)}),
    "banded, bias": (
        "banded",
        lambda n: {"mask": masks.window(20, 9), "bias": positions.T5Bias(HEADS)},
    ),
    "banded, softcap": ("banded", lambda n: {"mask": masks.window(20, 9), "softcap": 3.0}),
    "banded, sink": (
        "banded",
        lambda n: {"mask": masks.window(20, 9), "normalizer": softmax_with_sink},
    ),
    "banded, dropout": ("banded", lambda n: {"mask": masks.window(20, 9), "dropout_p": 0.1}),
    "chunked": ("chunked", lambda n: {}),
    "chunked, causal": ("chunked", lambda n: {"mask": masks.causal(), "softcap": 3.0}),
    "chunked, padding": ("chunked", lambda n: {"mask": masks.padding([n - 5])}),
    "chunked, learned bias": (
        "chunked",
        lambda n: {"mask": masks.causal(), "bias": positions.T5Bias(HEADS)},
    ),
    "chunked, bias of query and key": (
        "chunked",
        lambda n: {"mask": masks.causal(), "bias": positions.ShawBias(WIDTH, max_distance=8)},
    ),
    "chunked, dropout": ("chunked", lambda n: {"dropout_p": 0.1}),
}
LENGTHS = (256, 512)


@pytest.fixture(autouse=True)
def _blocks_much_shorter_than_these_sequences():
    with small_blocks(32, 128):
        yield


def inputs(length, *, requires_grad=True):
    shape = (1, HEADS, length, WIDTH)
    return [torch.randn(shape, requires_grad=requires_grad) for _ in range(3)]


def forward_and_backward(kernel, tensors, options):
    with kernels.use(kernel):
        attention(*tensors, **options).sum().backward()


@pytest.mark.parametrize("name", CALLS)
def test_memory_grows_with_the_length_forward_and_backward(name):
    kernel, options = CALLS[name]
    peaks = [
        peak(lambda length=length: forward_and_backward(kernel, inputs(length), options(length)))
        for length in LENGTHS
    ]
    assert peaks[1] <= 2.4 * peaks[0]
    table_of_weights = HEADS * LENGTHS[1] ** 2 * 4
    assert peaks[1] < table_of_weights


def test_the_measure_sees_a_table_of_weights():
    peaks = [
        peak(lambda length=length: forward_and_backward("explicit", inputs(length), {}))
        for length in LENGTHS
    ]
    assert peaks[1] > 3.5 * peaks[0]
    assert peaks[1] > HEADS * LENGTHS[1] ** 2 * 4


def scores_of_fused_kernel(query_shape, key_shape, *others, out_val=None, **options):
    return 2 * query_shape.numel() * key_shape[-2]


def multiplications(kernel, length, options):
    """Forward; the counter does not know the fused kernel of the CPU by itself."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={fused: scores_of_fused_kernel})
    with counter, kernels.use(kernel):
        attention(*inputs(length, requires_grad=False), **options(length))
    return counter.get_total_flops()


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("banded")])
def test_multiplications_of_a_window_grow_with_the_length(name):
    kernel, options = CALLS[name]
    few, many = (multiplications(kernel, length, options) for length in LENGTHS)
    assert 0 < many <= 2.2 * few


def test_chunks_of_a_causal_mask_leave_the_future_out():
    """Half the blocks hold nothing that is allowed, but for those at the diagonal."""
    full, causal = (
        multiplications("chunked", 512, lambda n, mask=mask: {"mask": mask})
        for mask in (None, masks.causal())
    )
    assert 0 < causal <= 0.66 * full


def test_chunks_of_a_window_cost_little_more_than_the_window():
    few, many = (
        multiplications("chunked", length, lambda n: {"mask": masks.window(20, 9)})
        for length in LENGTHS
    )
    assert 0 < many <= 2.2 * few


def test_a_step_of_decoding_in_a_window_reads_the_window_only():
    query, key = torch.randn(1, HEADS, 1, WIDTH), torch.randn(1, HEADS, 5000, WIDTH)
    with kernels.use("banded"), mock.patch.object(sdpa, "run", wraps=sdpa.run) as fused:
        attention(query, key, key, mask=masks.window(20, 0), q_offset=4999)
    (call,) = fused.call_args_list
    assert call.args[0].key.shape[-2] == 21
