"""The newest token may attend everything: with a mask or without, the same kernel does the same."""

import pytest
import torch

from attn_core import attention, kernels, masks
from attn_core.arguments import check_arguments


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


QUERY, KEY, VALUE = normal(2, 8, 1, 16), normal(2, 2, 9, 16, seed=1), normal(2, 2, 9, 4, seed=2)


@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
@pytest.mark.parametrize("q_offset", [8, 20])
def test_the_mask_of_the_newest_token_changes_no_bit(kernel, q_offset):
    with kernels.use(kernel):
        masked = attention(QUERY, KEY, VALUE, mask=masks.causal(), q_offset=q_offset)
        assert torch.equal(masked, attention(QUERY, KEY, VALUE))


@pytest.mark.parametrize("kernel", ["explicit", "sdpa"])
@pytest.mark.parametrize("q_offset", [7, 0, torch.tensor([7, 8]), torch.tensor([8, 3])], ids=str)
def test_the_mask_of_an_older_token_does_not(kernel, q_offset):
    with kernels.use(kernel):
        masked = attention(QUERY, KEY, VALUE, mask=masks.causal(), q_offset=q_offset)
        offsets = q_offset.tolist() if isinstance(q_offset, torch.Tensor) else [q_offset] * 2
        for entry, offset in enumerate(offsets):
            seen = slice(entry, entry + 1)
            alone = attention(QUERY[seen], KEY[seen, :, : offset + 1], VALUE[seen, :, : offset + 1])
            torch.testing.assert_close(masked[seen], alone)
        assert not torch.equal(masked, attention(QUERY, KEY, VALUE))


@pytest.mark.parametrize("rows", [1, 2])
def test_no_table_is_made_and_nothing_is_copied_for_it(rows):
    arguments = check_arguments(
        QUERY.expand(2, 8, rows, 16), KEY, VALUE, mask=masks.causal(), q_offset=8
    )
    assert arguments.table() is None
    _, key, value = arguments.without_masked(None)
    assert key.data_ptr() == KEY.data_ptr()
    assert value.data_ptr() == VALUE.data_ptr()


def test_a_window_of_the_newest_token_still_hides_what_is_far():
    masked = attention(QUERY, KEY, VALUE, mask=masks.window(3, 0), q_offset=8)
    torch.testing.assert_close(masked, attention(QUERY, KEY[:, :, 5:], VALUE[:, :, 5:]))
    masked = attention(QUERY, KEY, VALUE, mask=masks.causal() & masks.window(3, 0), q_offset=8)
    torch.testing.assert_close(masked, attention(QUERY, KEY[:, :, 5:], VALUE[:, :, 5:]))
