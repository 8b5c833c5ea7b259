"""The cache: what it keeps, gives back, forgets, and how much it copies."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import masks
from attn_core.modules import KVCache

CACHES = {
    "growing": KVCache,
    "with max_len": lambda: KVCache(max_len=40),
    "with a wide window": lambda: KVCache(window=40),
}


def tokens(new, *, batch=2, heads=3, width=4, first=0, dtype=torch.float64):
    """Keys in which every number says which token it belongs to."""
    numbers = torch.arange(first, first + new, dtype=dtype)[:, None]
    return numbers.expand(batch, heads, new, width).clone()


def numbers_of(key):
    """Which tokens these are; they must be the same in all batch entries, heads and columns."""
    assert (key == key[:1, :1, :, :1]).all()
    return key[0, 0, :, 0].tolist()


def feed(cache, sizes):
    """Update with chunks of these sizes; give what each update gave."""
    seen, first = [], 0
    for new in sizes:
        key = tokens(new, first=first)
        seen.append(cache.update(key, key[..., :1] + 100))
        first += new
    return seen


chunks = st.lists(st.integers(1, 7), min_size=1, max_size=8)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("make", CACHES.values(), ids=CACHES.keys())
@given(sizes=chunks)
def test_every_update_gives_all_tokens_so_far_in_their_order(make, gradients, sizes):
    sizes = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= 40]
    cache = make()
    if cache.max_len is not None and gradients:
        return
    with torch.set_grad_enabled(gradients):
        results = feed(cache, sizes)
    total = 0
    for new, (key, value, q_offset) in zip(sizes, results, strict=True):
        assert q_offset == total
        total += new
        # Even what an early update gave has not been written over by a later one.
        assert numbers_of(key) == list(range(total))
        assert numbers_of(value) == list(range(100, 100 + total))
        assert key.shape == (2, 3, total, 4)
        assert value.shape == (2, 3, total, 1)
    assert cache.length == cache.kept == total


@pytest.mark.parametrize("gradients", [False, True])
@given(sizes=chunks, window=st.integers(0, 9))
def test_a_window_keeps_that_many_tokens_before_the_new_ones(gradients, sizes, window):
    cache = KVCache(window=window)
    with torch.set_grad_enabled(gradients):
        results = feed(cache, sizes)
    total = 0
    for new, (key, value, q_offset) in zip(sizes, results, strict=True):
        before = min(window, total)
        assert q_offset == before
        assert numbers_of(key) == list(range(total - before, total + new))
        assert numbers_of(value) == list(range(100 + total - before, 100 + total + new))
        total += new
    assert cache.length == total
    assert cache.kept == min(window, total)
    if cache.kept:
        assert numbers_of(cache.key) == list(range(total - cache.kept, total))


class CountingWrites(torch.utils._python_dispatch.TorchDispatchMode):
    """Count the numbers that are copied or concatenated."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.copy_.default, torch.ops.aten.cat.default):
            self.numbers += result.numel()
        return result


@pytest.mark.parametrize("settings", [{}, {"max_len": 512}, {"window": 16}], ids=str)
def test_generating_n_tokens_copies_in_the_order_of_n(settings):
    cache = KVCache(**settings)
    one = torch.ones(1, 1, 1, 1)
    with torch.no_grad(), CountingWrites() as counting:
        for _ in range(512):
            cache.update(one, one)
    # Each token is written once, and copied at most twice as room grows: keys and values.
    assert 2 * 512 <= counting.numbers <= 2 * 3 * 512


def test_a_sliding_cache_takes_memory_for_twice_its_window():
    cache = KVCache(window=8)
    with torch.no_grad():
        feed(cache, [100, *[1] * 50])
    assert cache.length == 150
    assert cache.nbytes <= 2 * 8 * 2 * 3 * (4 + 1) * 8


def test_a_cache_with_max_len_takes_its_memory_once():
    cache = KVCache(max_len=20)
    assert cache.nbytes == 0
    with torch.no_grad():
        feed(cache, [3])
        place, size = cache.key.data_ptr(), cache.nbytes
        feed(cache, [1] * 17)
    assert (cache.key.data_ptr(), cache.nbytes) == (place, size)
    assert size == 20 * 2 * 3 * (4 + 1) * 8


def test_the_graph_reaches_back_through_a_growing_cache():
    cache = KVCache()
    parts = [tokens(n).requires_grad_() for n in (2, 3, 1)]
    for part in parts:
        key, _, _ = cache.update(part, part * 2)
    (key.sum() + 3 * cache.value.sum()).backward()
    for part in parts:
        assert torch.equal(part.grad, torch.full_like(part, 7.0))


def test_writing_without_gradients_spoils_no_graph():
    """Tokens that were cached with a graph are copied before anything is written behind them."""
    cache = KVCache()
    part = tokens(3).requires_grad_()
    key, _, _ = cache.update(part, part[..., :1])
    loss = key.square().sum()
    with torch.no_grad():
        feed(cache, [1, 1, 1])
    loss.backward()
    assert torch.equal(part.grad, 2 * part)
    assert cache.length == 6


@pytest.mark.parametrize("settings", [{}, {"max_len": 9}, {"window": 9}], ids=str)
@pytest.mark.parametrize("order", [True, False], ids=["inference mode first", "no_grad first"])
def test_both_ways_to_go_without_gradients_may_follow_each_other(settings, order):
    cache = KVCache(**settings)
    for first, inference in [(0, order), (3, not order), (6, order)]:
        with torch.inference_mode() if inference else torch.no_grad():
            key = tokens(3, first=first)
            seen, _, _ = cache.update(key, key)
    assert numbers_of(seen) == list(range(9))


def test_a_cache_with_max_len_refuses_to_write_into_a_graph():
    cache = KVCache(max_len=9)
    with pytest.raises(ValueError, match=r"max_len 9.*gradients are enabled.*no_grad"):
        feed(cache, [1])
    assert cache.length == 0
    with torch.no_grad():
        feed(cache, [9])


@pytest.mark.parametrize("indices", [[1, 0], [0, 0, 1, 1, 0], [1]], ids=str)
@pytest.mark.parametrize("make", [*CACHES.values(), lambda: KVCache(window=3)])
def test_reordering_is_reordering_all_that_was_fed(make, indices):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, n, 4, generator=generator) for n in (5, 1, 1)]
    cache, expected = make(), make()
    with torch.no_grad():
        for part in parts[:2]:
            cache.update(part, -part)
            expected.update(part[indices], -part[indices])
        cache.reorder(indices)
        seen = cache.update(parts[2][indices], parts[2][indices])
        wanted = expected.update(parts[2][indices], parts[2][indices])
    assert torch.equal(seen[0], wanted[0])
    assert torch.equal(seen[1], wanted[1])
    assert seen[2] == wanted[2]
    assert cache.length == expected.length


def test_reordering_an_empty_cache_changes_nothing():
    cache = KVCache()
    cache.reorder(torch.tensor([3, 1]))
    assert repr(cache) == "KVCache(empty)"


def test_a_cache_that_was_reset_is_as_new():
    cache = KVCache(max_len=4)
    with torch.no_grad():
        feed(cache, [4])
        cache.reset()
        assert (cache.length, cache.kept, cache.nbytes) == (0, 0, 0)
        other = tokens(4, batch=5, heads=1, dtype=torch.float32)
        assert cache.update(other, other)[2] == 0
    filled = KVCache()
    filled.fill(other, other)
    filled.reset()
    filled.update(other, other)


def test_it_prints_what_it_holds():
    with torch.no_grad():
        for cache, says in [
            (KVCache(), "KVCache(length=5, keys (2, 3, 5, 4), values (2, 3, 5, 1), 1200 bytes)"),
            (
                KVCache(max_len=6),
                "KVCache(max_len=6, length=5, keys (2, 3, 5, 4), values (2, 3, 5, 1), 1440 bytes)",
            ),
            (
                KVCache(window=2),
                "KVCache(window=2, length=5, keys (2, 3, 2, 4), values (2, 3, 2, 1), 1200 bytes)",
            ),
        ]:
            assert "empty" in repr(cache)
            feed(cache, [5])
            assert repr(cache) == says
        memory = KVCache()
        memory.fill(tokens(2), tokens(2))
        assert "memory=2" in repr(memory)


@given(
    seen=st.integers(0, 9),
    new=st.integers(1, 4),
    window=st.integers(0, 5),
    data=st.data(),
)
def test_a_mask_counts_from_the_first_token_ever_seen(seen, new, window, data):
    """What a sliding cache shows is the full mask, its first columns cut off."""
    total = seen + new
    mask = masks.window(data.draw(st.integers(0, window)), data.draw(st.integers(0, 2)))
    kind = data.draw(st.sampled_from(["alone", "padding", "left padding", "table", "document"]))
    if kind == "padding":
        mask = mask & masks.padding([total, total // 2])
    if kind == "left padding":
        mask = mask & ~masks.padding([0, total // 2])
    if kind == "document":
        mask = mask & masks.document(torch.arange(total) // 3)
    if kind == "table":
        mask = mask & masks.dense(torch.rand(new, total) < 0.5)
    cache = KVCache(window=window)
    with torch.no_grad():
        if seen:
            feed(cache, [seen])
        kept_mask = cache.mask_of_kept(mask, new)
        key = tokens(new, first=seen)
        key, _, q_offset = cache.update(key, key[..., :1])
    full = mask.dense(new, total, q_offset=seen)
    assert not full[..., : total - key.shape[-2]].any()
    shown = kept_mask.dense(new, key.shape[-2], q_offset=q_offset)
    assert torch.equal(shown, full[..., total - key.shape[-2] :])
    assert kept_mask.reach == mask.reach


def test_a_single_token_needs_no_causal_mask_and_several_do():
    cache = KVCache()
    with torch.no_grad():
        feed(cache, [3])
    assert cache.mask_of_kept(masks.causal(), 1) is None
    assert cache.mask_of_kept(masks.causal(), 2) is masks.causal()
    both = masks.causal() & masks.padding([2, 3])
    assert cache.mask_of_kept(both, 1) is both


@pytest.mark.parametrize(
    "table",
    [masks.document([0, 0, 1, 1]), masks.block_sparse(torch.ones(2, 2, dtype=torch.bool), 2)],
    ids=repr,
)
def test_a_mask_that_ends_ends_for_a_sliding_cache_too(table):
    """It has four keys; the sixth token is beyond them, though only three are kept."""
    mask = masks.window(2, 0) & table
    with pytest.raises(ValueError, match="4 keys"):
        mask.dense(1, 6, q_offset=5)
    cache = KVCache(window=2)
    with torch.no_grad():
        feed(cache, [5])
    with pytest.raises(ValueError, match="keys, got 3"):
        cache.mask_of_kept(mask, 1).dense(1, 3, q_offset=2)


@pytest.mark.parametrize("options", [{"max_len": 9}, {}, {"window": 4}], ids=str)
def test_a_copy_and_its_original_go_on_by_themselves(options):
    """Two continuations of one beginning, as in a search: neither disturbs the other."""
    torch.manual_seed(0)
    start, one, two = (torch.randn(1, 2, length, 4) for length in (3, 2, 2))
    with torch.no_grad():
        cache = KVCache(**options)
        cache.update(start, start)
        other = copy.copy(cache)
        kept = cache.update(one, one)[0]
        seen = other.update(two, two)[0]
    assert torch.equal(kept[..., -2:, :], one)
    assert torch.equal(seen[..., -2:, :], two)
    assert torch.equal(kept[..., :-2, :], seen[..., :-2, :])
    assert (other.length, other.max_len, other.window) == (5, cache.max_len, cache.window)


def test_a_copy_of_an_empty_cache_is_empty():
    cache = copy.copy(KVCache(max_len=2))
    assert cache.length == 0
    with torch.no_grad():
        cache.update(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4))


def test_a_copy_keeps_the_graph():
    x = torch.randn(1, 2, 3, 4, requires_grad=True)
    cache = KVCache()
    cache.update(x, x)
    copy.copy(cache).key.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
