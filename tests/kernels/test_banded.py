"""A window in blocks: exactly the keys of the window, wherever the blocks end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_blocks import small_blocks

from attn_core import attention, kernels, masks
from attn_core.arguments import check_arguments
from attn_core.kernels import banded
from attn_core.kernels.spans import Cut, Join, Spans

# Forward-mode differentiation compiles a function the old way.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def window_in_a_loop(query, key, value, left, right, offset):
    """Each query alone, with the keys of its window cut out."""
    rows = []
    for i, one_query in enumerate(query):
        begin, end = max(0, i + offset - left), max(0, i + offset + right + 1)
        weights = torch.softmax(key[begin:end] @ one_query / query.shape[1] ** 0.5, 0)
        rows.append(weights @ value[begin:end])
    return torch.stack(rows)


@settings(max_examples=150)
@given(
    left=st.integers(0, 12),
    right=st.integers(0, 12),
    q_len=st.integers(1, 40),
    k_len=st.integers(1, 40),
    offset=st.integers(-15, 45),
    rows=st.integers(1, 9),
)
def test_it_is_a_loop_over_queries_with_their_windows(left, right, q_len, k_len, offset, rows):
    query, key, value = normal(q_len, 4), normal(k_len, 4, seed=1), normal(k_len, 3, seed=2)
    with small_blocks(rows), kernels.use("banded"):
        seen = attention(query, key, value, mask=masks.window(left, right), q_offset=offset)
    expected = window_in_a_loop(query, key, value, left, right, offset)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=150)
@given(
    left=st.integers(0, 12),
    right=st.integers(0, 12),
    first=st.integers(0, 12),
    q_len=st.integers(1, 40),
    k_len=st.integers(1, 40),
    offset=st.integers(-15, 45),
    rows=st.integers(1, 9),
)
def test_the_pieces_hold_each_query_once_and_each_of_its_keys_once(
    left, right, first, q_len, k_len, offset, rows
):
    mask = masks.window(left, right) | masks.global_tokens(first)
    arguments = check_arguments(
        normal(q_len, 2), *[normal(k_len, 2)] * 2, mask=mask, q_offset=offset
    )
    with small_blocks(rows):
        pieces = banded.pieces(arguments)
    pairs = []
    for queries, keys in pieces:
        for block, span in zip(
            queries.positions(None).tolist(), keys.positions(None).tolist(), strict=True
        ):
            assert len(set(span)) == len(span)
            assert all(0 <= key < k_len for key in span)
            pairs += [(row, key) for row in block for key in span]
    assert len(set(pairs)) == len(pairs)
    assert {tuple(pair) for pair in mask.dense(q_len, k_len, offset).nonzero().tolist()} <= set(
        pairs
    )
    assert sorted(
        row for queries, _ in pieces for row in queries.positions(None).flatten()
    ) == list(range(q_len))


def test_the_blocks_inside_are_few_calls_of_many_blocks():
    """Both ends are a call each, and so are 64 blocks of 32 queries."""
    for length, calls in ((1000, 3), (2000, 3), (4000, 4), (8000, 6)):
        query = normal(length, 2)
        arguments = check_arguments(query, query, query, mask=masks.window(30, 30))
        pieces = banded.pieces(arguments)
        assert len(pieces) == calls
        assert (
            sum(queries.number for queries, _ in pieces) >= length // banded.block_size(30, 30) - 4
        )


SPANS = (
    Spans(start=0, number=1, step=7, length=7),
    Spans(start=1, number=3, step=2, length=5),
    Spans(start=6, number=2, step=3, length=3, first=2),
    Spans(start=5, number=2, step=4, length=1),
    Spans(start=4, number=1, step=1, length=0, first=3),
)


@pytest.mark.parametrize("spans", [*((span,) for span in SPANS), SPANS], ids=len)
def test_spans_have_the_derivatives_of_slices(spans):
    x = normal(2, 3, 12, 2).requires_grad_()
    cut = Cut.apply(x, spans)
    positions = [span.positions(x.device) for span in spans]
    sliced = [entry[:, where].transpose(0, 1) for entry in x for where in positions]
    assert all(torch.equal(one, two) for one, two in zip(cut, sliced, strict=True))
    assert torch.autograd.gradcheck(
        lambda x: Cut.apply(x, spans), x, check_forward_ad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(lambda x: Cut.apply(x, spans), x, fast_mode=True)
    pieces = [piece.detach().clone().requires_grad_() for piece in cut]
    assert torch.autograd.gradcheck(
        lambda *pieces: Join.apply(x.shape, spans, *pieces), pieces, fast_mode=True
    )


def test_with_softcap_it_has_second_and_forward_derivatives_too():
    inputs = [normal(1, 2, 9, 3, seed=seed).requires_grad_() for seed in range(3)]

    def compute(*inputs):
        with small_blocks(2), kernels.use("banded"):
            return attention(*inputs, mask=masks.window(2, 1), softcap=2.0)

    assert torch.autograd.gradcheck(compute, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(compute, inputs, fast_mode=True)


def test_the_keys_of_the_spans_are_not_copied():
    """Neighbouring spans share the memory of the keys in which they overlap."""
    key = normal(1, 2, 100, 4)
    (spans,) = Cut.apply(key, (Spans(start=0, number=9, step=10, length=20),))
    assert spans.untyped_storage().data_ptr() == key.untyped_storage().data_ptr()


def test_a_window_that_is_open_on_one_side_is_its_table():
    """Long enough that a kernel is chosen by the length."""
    query, key, value = (normal(3000, 2, seed=seed).float() for seed in range(3))
    for mask in (masks.window(3, None), masks.window(None, 3)):
        torch.testing.assert_close(
            attention(query, key, value, mask=mask),
            attention(query, key, value, mask=mask.dense(3000, 3000)),
        )
