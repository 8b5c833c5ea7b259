"""How far a mask reaches: nothing beyond it is allowed, through every combination."""

import pytest
import torch
from drawn_calls import drawn_offsets, drawn_sizes, masks_with_rules
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_core import masks
from attn_core.masks import Reach


@settings(max_examples=200)
@given(data=st.data())
def test_no_pair_beyond_the_reach_is_allowed(data):
    sizes = data.draw(drawn_sizes(((), (2,))))
    mask, rule = data.draw(masks_with_rules(sizes, depth=3))
    offset = data.draw(drawn_offsets(sizes, may_be_left_out=False))
    left, right, first = mask.reach
    for entry in range(len(offset) if isinstance(offset, list) else 2 if sizes.batch else 1):
        start = offset[entry] if isinstance(offset, list) else offset
        for head in range(sizes.heads):
            for row in range(sizes.q_len):
                for key in range(sizes.k_len):
                    position = row + start
                    if rule(entry, head, row, position, key) and min(position, key) >= first:
                        assert left is None or position - key <= left
                        assert right is None or key - position <= right


@pytest.mark.parametrize(
    ("mask", "reach"),
    [
        (masks.causal(), (None, 0, 0)),
        (masks.window(3, 2), (3, 2, 0)),
        (masks.window(None, 2), (None, 2, 0)),
        (masks.dilated(3, 2, gap=1), (6, 4, 0)),
        (masks.strided(2), (None, None, 0)),
        (masks.global_tokens(2), (0, 0, 2)),
        (masks.document([1, 1, 1, 2, 2]), (2, 2, 0)),
        (masks.document([[1, 1, 1, 2, 2], [0, 1, 2, 0, 3]]), (3, 3, 0)),
        (masks.block_sparse(torch.eye(3) > 0, 4), (3, 3, 0)),
        (masks.block_sparse(torch.tensor([[False, True]]), 4), (0, 7, 0)),
        (masks.padding([3]), (None, None, 0)),
        (masks.window(3, 2) & masks.causal(), (3, 0, 0)),
        (masks.window(3, 2) & masks.padding([3]), (3, 2, 0)),
        (masks.window(3, 2) | masks.window(1, 5), (3, 5, 0)),
        (masks.window(3, 2) | masks.causal(), (None, 2, 0)),
        (masks.window(3, 2) | masks.global_tokens(4), (3, 2, 4)),
        (masks.longformer(6, 1) & masks.causal(), (3, 0, 1)),
        (~masks.window(3, 2), (None, None, 0)),
    ],
    ids=repr,
)
def test_the_reach_is_as_near_as_the_rule_says(mask, reach):
    assert mask.reach == Reach(*reach)


@settings(max_examples=200)
@given(data=st.data())
def test_a_mask_that_claims_the_own_key_allows_it(data):
    sizes = data.draw(drawn_sizes(((), (2,))))
    mask, rule = data.draw(masks_with_rules(sizes, depth=3))
    if mask.own_key:
        for entry in range(sizes.batch[-1] if sizes.batch else 1):
            for head in range(sizes.heads):
                assert all(rule(entry, head, p, p, p) for p in range(sizes.k_len))


@pytest.mark.parametrize(
    ("mask", "claims"),
    [
        (masks.causal(), True),
        (masks.window(3, 2) & masks.causal(), True),
        (masks.document([0, 0, 1]), True),
        (masks.dilated(1, 1, 2) | masks.padding([3]), True),
        (masks.causal() & masks.padding([3]), False),
        (masks.global_tokens(2), False),
        (~masks.window(3, 2), False),
        (~~masks.window(3, 2), False),
    ],
    ids=repr,
)
def test_the_own_key_is_claimed_through_combinations(mask, claims):
    assert mask.own_key is claims
