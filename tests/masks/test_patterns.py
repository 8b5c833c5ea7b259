"""Sparse patterns: documents, strides, blocks, and the compositions that papers use."""

import numpy as np
import pytest
import torch

from attn_core import attention, masks, reference


def twin_of(mask, *lengths):
    return torch.from_numpy(np.ascontiguousarray(mask(*lengths)))


@pytest.mark.parametrize(("q_len", "k_len", "q_offset"), [(5, 5, 0), (3, 6, 2), (6, 4, -2)])
@pytest.mark.parametrize(
    ("ours", "twin"),
    [
        (masks.dilated(2, 1, 1), lambda *at: reference.dilated(2, 1, 1, *at)),
        (masks.dilated(1, 3, 0), lambda *at: reference.dilated(1, 3, 0, *at)),
        (masks.strided(2), lambda *at: reference.strided(2, *at)),
        (masks.strided(3), lambda *at: reference.strided(3, *at)),
        (masks.global_tokens(2), lambda *at: reference.global_tokens(2, *at)),
    ],
)
def test_masks_of_distance_are_what_the_reference_says(ours, twin, q_len, k_len, q_offset):
    seen = ours.dense(q_len, k_len, q_offset)
    assert torch.equal(seen, torch.from_numpy(twin(q_len, k_len, q_offset)))
    per_entry = torch.tensor([q_offset, q_offset + 1])
    seen = ours.dense(q_len, k_len, per_entry)
    assert torch.equal(seen, torch.from_numpy(twin(q_len, k_len, per_entry.numpy())))


@pytest.mark.parametrize("ids", [[4, 4, 1, 4], [[0, 0, 1, 1], [2, 3, 3, 3]]])
@pytest.mark.parametrize("q_offset", [0, 2, np.array([1, -1])], ids=str)
def test_documents_are_what_the_reference_says(ids, q_offset):
    seen = masks.document(ids).dense(
        3, 4, torch.as_tensor(q_offset) if np.ndim(q_offset) else q_offset
    )
    twin = torch.from_numpy(reference.document(ids, 3, q_offset))
    assert torch.equal(seen.broadcast_to(twin.shape), twin)


def test_blocks_are_what_the_reference_says():
    layout = torch.rand(2, 3, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    for part, q_offset in ((layout, 0), (layout[0], 3), (layout[0, 0], -1)):
        twin = reference.block_sparse(part.numpy(), 2, 4, 5, q_offset)
        seen = masks.block_sparse(part, 2).dense(4, 5, q_offset)
        assert torch.equal(seen.reshape(twin.shape), torch.from_numpy(twin))


def test_packed_documents_attend_as_if_each_were_alone():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    lengths = [4, 2, 3]
    ids = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    packed = attention(x, x, x, mask=masks.document(ids) & masks.causal())
    alone = [attention(part, part, part, mask=masks.causal()) for part in x.split(lengths, dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=0, atol=1e-14)


def test_a_dilated_window_without_gap_is_a_window():
    assert torch.equal(masks.dilated(2, 1, gap=0).dense(6, 6), masks.window(2, 1).dense(6, 6))


def test_a_dilated_window_has_as_many_keys_as_the_window_and_sees_further():
    middle = masks.dilated(2, 2, gap=2).dense(20, 20)[10].nonzero().flatten()
    assert middle.tolist() == [4, 7, 10, 13, 16]


def test_two_steps_of_the_sparse_transformer_reach_every_earlier_position():
    length = 16
    one_step = masks.sparse_transformer(4).dense(length, length)
    two_steps = one_step.double() @ one_step.double() > 0
    assert torch.equal(two_steps, masks.causal().dense(length, length))
    assert one_step.sum(1).max() == 4 + 3


def test_global_tokens_see_and_are_seen():
    table = masks.longformer(width=2, n_global=2).dense(6, 6)
    assert table[:2].all()
    assert table[:, :2].all()
    assert table[4].tolist() == [True, True, False, True, True, True]
    assert masks.longformer(2, 0).dense(6, 6).equal(masks.window(1, 1).dense(6, 6))


@pytest.mark.parametrize("seed", range(5))
def test_bigbird_adds_as_many_random_blocks_as_it_says(seed):
    blocks, size = 12, 3
    mask = masks.bigbird(
        blocks * size, size, near_blocks=3, global_blocks=2, random_blocks=2, seed=seed
    )
    table = mask.dense(blocks * size, blocks * size)
    by_block = table.unflatten(0, (blocks, size)).unflatten(2, (blocks, size))
    counts = by_block.sum((1, 3))
    assert set(counts.unique().tolist()) == {0, size * size}
    row = counts[6] > 0
    assert row[:2].all()
    assert row[5:8].all()
    assert row.sum() == 2 + 3 + 2
    assert counts[0].all()


def test_bigbird_is_drawn_by_its_seed_and_every_far_block_has_its_chance():
    def table(seed):
        return masks.bigbird(20, 2, global_blocks=1, random_blocks=2, seed=seed).dense(20, 20)

    assert torch.equal(table(3), table(3))
    assert not torch.equal(table(3), table(4))
    by_default = masks.bigbird(20, 2, global_blocks=1, random_blocks=2).dense(20, 20)
    assert torch.equal(by_default, table(0))
    assert not torch.equal(by_default, table(1))
    row = sum(table(seed)[10].int() for seed in range(60))
    assert (row > 0).all()
    assert len(masks.bigbird(6, 2, random_blocks=99).dense(6, 6)) == 6


def test_the_number_of_pairs_of_the_patterns_grows_with_the_length_and_not_its_square():
    for pattern in (
        lambda n: masks.longformer(8, 2),
        lambda n: masks.bigbird(n, 4, seed=1),
        lambda n: masks.dilated(3, 3, 2),
    ):
        few, many = (int(pattern(n).dense(n, n).sum()) for n in (128, 256))
        assert many < 2.2 * few


@pytest.mark.parametrize("batch", [1, 2])
def test_a_cached_step_attends_what_the_full_pass_does(batch):
    """One query at a time, with q_offset, gives the rows of the whole table."""
    layout = torch.rand(batch, 2, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.6
    ids = [[0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1]][:batch]
    for mask in (
        masks.document(ids),
        masks.block_sparse(layout, 2),
        masks.bigbird(6, 2),
        masks.longformer(2, 1) & masks.causal(),
        masks.sparse_transformer(2),
    ):
        whole = mask.dense(6, 6)
        steps = [mask.dense(1, 6, position) for position in range(6)]
        assert torch.equal(torch.cat(steps, -2), whole)
