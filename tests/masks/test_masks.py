"""Masks: one rule for each pair, an algebra, a table, a picture."""

import re
from itertools import product

import numpy as np
import pytest
import torch
from drawn_calls import drawn_offsets, drawn_sizes, masks_with_rules, table_of_rule
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import assert_refuses

from attn_core import attention, masks, reference


@st.composite
def masks_in_place(draw, batches=((), (2,))):
    """A mask with its rule, the sizes of a call, and an offset."""
    sizes = draw(drawn_sizes(batches))
    mask, rule = draw(masks_with_rules(sizes))
    left_out = not mask.uses_positions or sizes.q_len == sizes.k_len
    q_offset = draw(drawn_offsets(sizes, may_be_left_out=left_out))
    return mask, rule, sizes, q_offset


def table_of(mask, sizes, q_offset):
    given_offset = torch.tensor(q_offset) if isinstance(q_offset, list) else q_offset
    table = mask.dense(sizes.q_len, sizes.k_len, given_offset)
    return table[0] if table.ndim > len(sizes.full) else table


@settings(max_examples=150)
@given(masks_in_place())
def test_the_table_is_the_rule_asked_about_every_pair(drawn):
    mask, rule, sizes, q_offset = drawn
    table = table_of(mask, sizes, q_offset)
    assert table.dtype == torch.bool
    assert table.ndim in (2, len(sizes.full))
    assert torch.equal(table.expand(sizes.full), table_of_rule(rule, sizes, q_offset))


@given(data=st.data())
def test_masks_obey_the_laws_of_boolean_algebra(data):
    sizes = data.draw(drawn_sizes(((), (2,))))
    a, b, c = (data.draw(masks_with_rules(sizes, depth=1))[0] for _ in range(3))
    q_offset = data.draw(drawn_offsets(sizes, may_be_left_out=False))

    def table(mask):
        return table_of(mask, sizes, q_offset).expand(sizes.full)

    for left, right in [
        (~(a & b), ~a | ~b),
        (~(a | b), ~a & ~b),
        (~~a, a),
        (a & b, b & a),
        (a | b, b | a),
        ((a & b) & c, a & (b & c)),
        ((a | b) | c, a | (b | c)),
        (a & (b | c), (a & b) | (a & c)),
        (a | (b & c), (a | b) & (a | c)),
        (a & a, a),
        (a | (a & b), a),
    ]:
        assert torch.equal(table(left), table(right))
    assert torch.equal(table(a & b), table(a) & table(b))
    assert torch.equal(table(a | b), table(a) | table(b))
    assert torch.equal(table(~a), ~table(a))
    assert not table(a & ~a).any()
    assert table(a | ~a).all()


def test_causal_lets_a_query_see_itself_and_what_was_before():
    table = masks.causal().dense(4, 4)
    for i, j in product(range(4), range(4)):
        assert table[i, j] == (j <= i)
    assert torch.equal(table, torch.ones(4, 4, dtype=torch.bool).tril())


def test_causal_is_always_the_same_mask():
    assert masks.causal() is masks.causal()


@pytest.mark.parametrize(("q_offset", "diagonal"), [(0, 0), (2, 2), (-1, -1), (7, 7)])
def test_an_offset_moves_the_diagonal(q_offset, diagonal):
    expected = torch.ones(3, 5, dtype=torch.bool).tril(diagonal)
    assert torch.equal(masks.causal().dense(3, 5, q_offset), expected)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (1, 0), (0, 2), (2, 1), (9, 9)])
def test_a_window_counts_the_other_keys_on_each_side_and_never_its_own(left, right):
    table = masks.window(left, right).dense(8, 8)
    for i in range(8):
        seen = table[i].nonzero().flatten().tolist()
        assert seen == list(range(max(0, i - left), min(8, i + right + 1)))
        assert len(seen) == 1 + min(left, i) + min(right, 7 - i)


def test_a_window_is_no_block_pattern():
    """Every query has as many neighbours as the next one; blocks would differ at their edges."""
    counts = masks.window(2, 2).dense(20, 20).sum(-1)[2:-2]
    assert (counts == 5).all()


def test_a_window_as_wide_as_the_sequence_is_causal():
    for wide in (masks.window(5, 0), masks.window(99, 0), masks.window(None, 0)):
        assert torch.equal(wide.dense(6, 6), masks.causal().dense(6, 6))
    assert not torch.equal(masks.window(4, 0).dense(6, 6), masks.causal().dense(6, 6))
    assert masks.window(None, None).dense(6, 6).all()


def test_padding_keys_are_those_after_the_length_of_their_batch_entry():
    table = masks.padding([3, 0, 5]).dense(2, 5)
    assert table.shape == (3, 1, 2, 5)
    for entry, length in enumerate([3, 0, 5]):
        assert table[entry, 0].tolist() == [[True] * length + [False] * (5 - length)] * 2


@pytest.mark.parametrize(
    "lengths", [[2, 3], (2, 3), torch.tensor([2, 3]), torch.tensor([2, 3], dtype=torch.uint8)]
)
def test_lengths_may_be_any_integers(lengths):
    expected = torch.tensor([[[[True, True, False]]], [[[True, True, True]]]])
    assert torch.equal(masks.padding(lengths).dense(1, 3), expected)


@pytest.mark.parametrize("as_given", [lambda t: t, lambda t: t.long(), lambda t: t.tolist()])
def test_padding_may_stand_anywhere(as_given):
    """A tokenizer's ``attention_mask`` says which keys are real, on the left too."""
    real = torch.tensor([[False, False, True, True], [True, True, True, False]])
    mask = masks.padding(as_given(real))
    assert torch.equal(mask.dense(3, 4), real[:, None, None].expand(2, 1, 3, 4))
    twin = reference.padding(np.asarray(as_given(real)), 4)
    np.testing.assert_array_equal(mask.dense(1, 4), twin)
    at_end = (mask & masks.causal()).dense(1, 4, 3)
    assert torch.equal(at_end, real[:, None, None])
    assert repr(mask) == "padding(2×4)"


def test_a_table_of_padding_is_no_table_of_queries_and_keys():
    """Where the numbers do not agree it is refused, and where they do it is (queries, keys)."""
    real = torch.tensor([[False, True, True], [True, True, False]])
    x, y = torch.randn(2, 1, 3, 4), torch.randn(2, 1, 2, 4)
    says = ["mask (2, 3)", "masks.padding(mask)"]
    assert_refuses(lambda: attention(x, x, x, mask=real), ValueError, says)
    by_query = attention(y, x, x, mask=real)
    torch.testing.assert_close(by_query, attention(y, x, x, mask=masks.dense(real)))
    by_entry = attention(y, x, x, mask=masks.padding(real))
    torch.testing.assert_close(by_entry, attention(y, x, x, mask=real[:, None, None]))
    assert not torch.allclose(by_query, by_entry)


def test_a_dense_mask_belongs_to_the_rows_of_the_call_whatever_the_offset():
    table = torch.tensor([[True, False, True], [False, False, True]])
    for q_offset in (0, 1, 7):
        assert torch.equal(masks.dense(table).dense(2, 3, q_offset), table)


def test_a_table_is_built_where_it_is_asked_for_wherever_the_offset_is():
    q_offset = torch.tensor([1, 2])
    table = masks.causal().dense(2, 4, q_offset, device="meta")
    assert table.device.type == "meta"
    assert table.shape == masks.causal().dense(2, 4, q_offset).shape == (2, 1, 2, 4)


@pytest.mark.parametrize("shape", list(product((1, 2), (1, 3), (1, 4), (1, 4))), ids=str)
def test_a_dense_mask_broadcasts_as_a_tensor_does(shape):
    table = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.7
    query = torch.randn(2, 3, 4, 5)
    by_mask = attention(query, query, query, mask=masks.dense(table) & masks.causal())
    by_table = attention(query, query, query, mask=table & masks.causal().dense(4, 4))
    torch.testing.assert_close(by_mask, by_table)


def test_a_dense_mask_with_one_number_for_each_key_says_which_keys_are_real():
    real = torch.tensor([[True, True, False], [True, False, False]])
    mask = masks.dense(real[:, None, None]) & masks.causal()
    assert torch.equal(mask.dense(3, 3), (masks.padding([2, 1]) & masks.causal()).dense(3, 3))
    assert torch.equal(mask.dense(1, 3, 2), (masks.padding([2, 1]) & masks.causal()).dense(1, 3, 2))
    with pytest.raises(ValueError, match="made for 3 keys, got 4"):
        mask.dense(4, 4)


def test_masks_that_know_batch_and_heads_combine():
    per_head = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    mask = masks.dense(per_head) & masks.padding([5, 2]) | masks.causal() & masks.window(0, 0)
    table = mask.dense(4, 5, torch.tensor([0, 1]))
    assert table.shape == (2, 3, 4, 5)
    for b, h, i, j in product(range(2), range(3), range(4), range(5)):
        expected = (per_head[h, i, j] and j < [5, 2][b]) or j == i + [0, 1][b]
        assert table[b, h, i, j] == expected


@given(masks_in_place())
def test_a_mask_and_its_table_give_the_same_attention(drawn):
    mask, rule, sizes, q_offset = drawn
    query = torch.randn(*sizes.batch, sizes.heads, sizes.q_len, 3)
    key = torch.randn(*sizes.batch, sizes.kv_heads, sizes.k_len, 3)
    given_offset = torch.tensor(q_offset) if isinstance(q_offset, list) else q_offset
    by_mask = attention(query, key, key, mask=mask, q_offset=given_offset)
    by_table = attention(query, key, key, mask=table_of_rule(rule, sizes, q_offset))
    torch.testing.assert_close(by_mask, by_table)


def test_a_mask_of_your_own_is_a_predicate():
    stripes = masks.Mask(lambda at: at.key % 2 == at.head % 2, "stripes", heads=2)
    table = (stripes & masks.causal()).dense(3, 3)
    for h, i, j in product(range(2), range(3), range(3)):
        assert table[0, h, i, j] == (j % 2 == h and j <= i)


def test_a_mask_prints_how_it_was_made():
    causal, padding = masks.causal(), masks.padding([3, 2])
    assert repr(causal & padding) == "causal() & padding([3, 2])"
    assert repr(~(causal | padding)) == "~(causal() | padding([3, 2]))"
    assert repr(causal & (padding | ~masks.window(1, None))) == (
        "causal() & (padding([3, 2]) | ~window(1, None))"
    )
    assert len(repr(masks.padding(list(range(1000))))) < 60


def squares(picture):
    """The fill of every square of each table, row by row."""
    return re.findall(r'<rect [^>]*fill="([^"]+)"', picture)


@pytest.mark.parametrize(
    ("mask", "table"),
    [
        (masks.causal(), masks.causal().dense(8, 8)),
        (masks.window(2, 1), masks.window(2, 1).dense(8, 8)),
        (masks.padding([1, 4]), masks.padding([1, 4]).dense(4, 4)),
        (~masks.dense(torch.eye(3, 5) > 0), ~(torch.eye(3, 5) > 0)),
    ],
    ids=repr,
)
def test_a_mask_draws_itself_with_a_square_for_every_pair(mask, table):
    picture = mask._repr_html_()
    fills = squares(picture)
    assert len(fills) == table.numel()
    filled = [fill != "#ffffff" for fill in fills]
    assert filled == table.flatten().tolist()
    description = re.search(r'role="img" aria-label="([^"]+)"', picture).group(1)
    assert mask.name.replace("&", "&amp;") in description
    assert f"{int(table.sum())} of {table.numel()} pairs allowed" in description
    assert "may attend" in picture


def test_the_name_of_a_mask_is_text_in_its_picture_never_markup():
    picture = masks.Mask(lambda at: at.key >= 0, 'a<b> & "c"')._repr_html_()
    assert "<b>" not in picture
    assert "a&lt;b&gt; &amp; &quot;c&quot;" in picture


def test_the_picture_of_a_large_mask_shows_a_corner_and_says_so():
    mask = masks.padding([500, 300, 1, 2, 3])
    picture = mask._repr_html_()
    assert len(squares(picture)) == 4 * 32 * 32
    assert len(picture) < 500_000
    allowed = (32 + 32 + 1 + 2) * 32
    assert f"a corner: {allowed} of {4 * 32 * 32} pairs allowed" in picture
    assert "4 of 5 tables, 32 of 500 queries, 32 of 500 keys" in picture


@pytest.mark.parametrize(
    "mask",
    [
        masks.padding([20_000] * 6),
        masks.document(torch.arange(65_536) // 100),
        masks.bigbird(65_536, 512),
        masks.dense(torch.arange(40) < torch.arange(3 * 40)[:, None] % 41) & masks.window(3, 0),
        masks.block_sparse(torch.eye(3, dtype=torch.bool).expand(2, 6, 3, 3), 20),
    ],
    ids=str,
)
def test_no_more_is_asked_for_a_picture_than_it_shows(mask):
    asked = []
    rule = mask.predicate

    def watched(at):
        pairs = torch.broadcast_shapes(*(i.shape for i in at)).numel()
        assert pairs <= 16 * 32 * 32
        asked.append(pairs)
        return rule(at)

    mask.predicate = watched
    fills = squares(mask._repr_html_())
    assert asked
    rows, tables = torch.arange(32)[:, None], (mask.batch or 1) * (mask.heads or 1)
    expected = mask._like(rule, "unwatched").pairs(rows, torch.arange(32))
    expected = expected.reshape(-1, 32, 32).expand(tables, 32, 32)[:4]
    assert [fill != "#ffffff" for fill in fills] == expected.flatten().tolist()
