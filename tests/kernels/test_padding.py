"""A padding mask is one row for all queries, and costs what it costs PyTorch."""

import pytest
import torch
from allocations import peak
from torch.func import vmap
from torch.nn.functional import scaled_dot_product_attention

from attn_core import attention, kernels, masks
from attn_core.arguments import check_arguments

BATCH, HEADS, LENGTH, WIDTH = 4, 2, 90, 64
LENGTHS = torch.linspace(LENGTH // 2, LENGTH, BATCH).long()
TABLE = (torch.arange(LENGTH) < LENGTHS[:, None])[:, None, None]
PADDING = {
    "mask": masks.padding(LENGTHS),
    "one row": TABLE,
    "expanded": TABLE.expand(-1, -1, LENGTH, -1),
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tensors():
    return [normal(BATCH, HEADS, LENGTH, WIDTH, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("name", PADDING)
def test_it_asks_for_no_more_memory_than_pytorch(name):
    query, key, value = tensors()
    theirs = peak(lambda: scaled_dot_product_attention(query, key, value, attn_mask=TABLE))
    ours = peak(lambda: attention(query, key, value, mask=PADDING[name]))
    assert ours <= 1.1 * theirs


@pytest.mark.parametrize("name", PADDING)
def test_it_stays_one_row_for_all_queries(name):
    table = check_arguments(*tensors(), mask=PADDING[name]).table()
    assert table.shape == (BATCH, 1, 1, LENGTH)
    assert torch.equal(table, TABLE)


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize("name", ["mask", "one row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, 6e4, 1e19, 3e38])
def test_nothing_large_or_undefined_comes_out_of_the_padding(kernel, name, dtype, junk):
    """1e19 is finite, and its product with another such number is not."""
    clean = [x.to(dtype) for x in tensors()]
    padding = ~TABLE[:, 0, 0, :, None].unsqueeze(1)
    junk = min(junk, torch.finfo(dtype).max) if junk < torch.inf else junk
    filled = [clean[0] * 10, *(x.masked_fill(padding, junk) for x in clean[1:])]
    clean[0] = clean[0] * 10
    with kernels.use(kernel):
        results = []
        for inputs in (clean, filled):
            learned = [x.clone().requires_grad_() for x in inputs]
            output = attention(*learned, mask=PADDING[name])
            results.append(
                [output.detach(), *torch.autograd.grad(output.float().square().sum(), learned)]
            )
    for expected, seen in zip(*results, strict=True):
        torch.testing.assert_close(seen, expected)


def test_an_entry_without_keys_gives_zeros():
    query, key, value = tensors()
    output = attention(query, key, value, mask=masks.padding([0, *[LENGTH] * (BATCH - 1)]))
    assert (output[0] == 0).all()
    assert (output[1:] != 0).any(-1).all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_padding_table_can_be_mapped_over():
    query, key, value = tensors()
    expected = attention(query, key, value, mask=TABLE)
    torch.testing.assert_close(
        vmap(lambda q, k, v, m: attention(q, k, v, mask=m))(query, key, value, TABLE), expected
    )
