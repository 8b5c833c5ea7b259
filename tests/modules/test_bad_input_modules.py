"""Caches, and multi-head attention with them, refuse bad input: a table of call × defect."""

import pytest
import torch
from refusals import assert_refuses

from attn_core import masks
from attn_core.modules import KVCache, MultiHeadAttention
from attn_core.positions import Rotary

HEADS = torch.ones(2, 3, 5, 4)  # batch, heads, tokens, width
X = torch.ones(2, 5, 8)
ELSEWHERE = HEADS.to("meta")


def filled(**settings):
    cache = KVCache(**settings)
    with torch.no_grad():
        cache.update(HEADS, HEADS)
    return cache


def with_memory():
    cache = KVCache()
    cache.fill(HEADS, HEADS)
    return cache


def update(cache, key, value):
    with torch.no_grad():
        cache.update(key, value)


layer = MultiHeadAttention(8, 2)
turning = MultiHeadAttention(8, 2, rotary=Rotary())


def decode(cache, **options):
    with torch.no_grad():
        return layer(X, cache=cache, **options)


CACHE = {
    "max_len zero": (lambda: KVCache(max_len=0), ValueError, ["max_len", "0"]),
    "max_len float": (lambda: KVCache(max_len=4.0), TypeError, ["max_len", "4.0"]),
    "window negative": (lambda: KVCache(window=-1), ValueError, ["window", "-1"]),
    "window bool": (lambda: KVCache(window=True), TypeError, ["window", "True"]),
    "both": (lambda: KVCache(4, window=3), ValueError, ["max_len 4", "window 3"]),
    "full": (
        lambda: update(filled(max_len=9), HEADS, HEADS),
        ValueError,
        ["full", "max_len is 9", "5 tokens", "5 more"],
    ),
    "gradients": (
        lambda: KVCache(max_len=9).update(HEADS, HEADS),
        ValueError,
        ["max_len 9", "gradients", "no_grad"],
    ),
    "key a list": (lambda: update(KVCache(), [1.0], HEADS), TypeError, ["key", "list"]),
    "value integers": (
        lambda: update(KVCache(), HEADS, HEADS.long()),
        TypeError,
        ["value", "int64"],
    ),
    "three dimensions": (
        lambda: update(KVCache(), HEADS[0], HEADS[0]),
        ValueError,
        ["key", "batch, kv_heads, new, width", "(3, 5, 4)"],
    ),
    "lengths differ": (
        lambda: update(KVCache(), HEADS, HEADS[:, :, :3]),
        ValueError,
        ["key and value", "(2, 3, 5, 4)", "(2, 3, 3, 4)"],
    ),
    "dtypes differ": (
        lambda: update(KVCache(), HEADS, HEADS.double()),
        TypeError,
        ["value", "float64", "key", "float32"],
    ),
    "devices differ": (
        lambda: update(KVCache(), HEADS, ELSEWHERE),
        ValueError,
        ["value", "meta", "cpu"],
    ),
    "another batch": (
        lambda: update(filled(), HEADS[:1], HEADS[:1]),
        ValueError,
        ["key", "(1, 3, 5, 4)", "(2, 3, 5, 4)"],
    ),
    "other heads": (
        lambda: update(filled(), HEADS[:, :1], HEADS[:, :1]),
        ValueError,
        ["key", "(2, 1, 5, 4)", "(2, 3, 5, 4)"],
    ),
    "another width of values": (
        lambda: update(filled(), HEADS, HEADS[..., :2]),
        ValueError,
        ["value", "(2, 3, 5, 2)", "(2, 3, 5, 4)"],
    ),
    "another dtype": (
        lambda: update(filled(), HEADS.half(), HEADS.half()),
        TypeError,
        ["key", "float16", "the cache", "float32"],
    ),
    "another device": (
        lambda: update(filled(), ELSEWHERE, ELSEWHERE),
        ValueError,
        ["key", "meta", "the cache", "cpu"],
    ),
    "empty key": (lambda: KVCache().key, ValueError, ["empty"]),
    "empty value": (lambda: KVCache().value, ValueError, ["empty"]),
    "update of a memory": (
        lambda: with_memory().update(HEADS, HEADS),
        ValueError,
        ["memory", "cross-attention"],
    ),
    "fill twice": (lambda: with_memory().fill(HEADS, HEADS), ValueError, ["empty", "reset()"]),
    "fill after update": (lambda: filled().fill(HEADS, HEADS), ValueError, ["length=5"]),
    "fill a window": (
        lambda: KVCache(window=3).fill(HEADS, HEADS),
        ValueError,
        ["memory", "window 3"],
    ),
    "reorder floats": (lambda: filled().reorder([0.5]), TypeError, ["indices", "float32"]),
    "reorder bools": (lambda: filled().reorder([True, False]), TypeError, ["indices", "bool"]),
    "reorder None": (lambda: filled().reorder(None), TypeError, ["indices", "None"]),
    "reorder table": (lambda: filled().reorder([[0, 1]]), ValueError, ["indices", "[[0, 1]]"]),
    "reorder nothing": (lambda: filled().reorder([]), ValueError, ["indices", "[]"]),
    "reorder too high": (lambda: filled().reorder([0, 2]), ValueError, ["0 to 1", "[0, 2]"]),
    "reorder negative": (lambda: filled().reorder([-1]), ValueError, ["0 to 1", "[-1]"]),
    "a mask that looks too far": (
        lambda: KVCache(window=3).mask_of_kept(masks.window(4, 0), 2),
        ValueError,
        ["3 tokens", "window(4, 0)", "masks.window(3, 0)"],
    ),
    "a mask that looks everywhere": (
        lambda: KVCache(window=3).mask_of_kept(masks.causal(), 1),
        ValueError,
        ["3 tokens", "causal()"],
    ),
    "no mask": (
        lambda: KVCache(window=3).mask_of_kept(None, 1),
        ValueError,
        ["3 tokens", "None"],
    ),
    "a mask of first tokens": (
        lambda: KVCache(window=3).mask_of_kept(
            masks.Mask(lambda at: at.key < 1, "sinks", reach=masks.Reach(3, 0, first=1)), 1
        ),
        ValueError,
        ["sinks", "first", "forgets"],
    ),
}
MULTI_HEAD = {
    "rotary no module": (
        lambda: MultiHeadAttention(8, 2, rotary=lambda x, positions: x),
        TypeError,
        ["rotary", "module"],
    ),
    "scale": (lambda: MultiHeadAttention(8, 2, scale="1"), TypeError, ["scale", "'1'"]),
    "softcap": (lambda: MultiHeadAttention(8, 2, softcap=0), ValueError, ["softcap", "0"]),
    "normalizer": (
        lambda: MultiHeadAttention(8, 2, normalizer="softmax"),
        TypeError,
        ["normalizer", "'softmax'"],
    ),
    "sink a number": (lambda: MultiHeadAttention(8, 2, sink=0.0), TypeError, ["sink", "0.0"]),
    "sink and normalizer": (
        lambda: MultiHeadAttention(8, 2, sink=True, normalizer=torch.softmax),
        ValueError,
        ["sink", "normalizer", "softmax"],
    ),
    "norm of the queries": (
        lambda: MultiHeadAttention(8, 2, query_norm=4),
        TypeError,
        ["query_norm", "module", "4"],
    ),
    "norm of the keys": (
        lambda: MultiHeadAttention(8, 2, key_norm=True),
        TypeError,
        ["key_norm", "module", "True"],
    ),
    "rotary and no offset": (
        lambda: turning(X[:, :2], X),
        ValueError,
        ["rotary", "q_offset", "2 queries", "5 keys"],
    ),
    "cache a list": (lambda: decode([]), TypeError, ["cache", "KVCache", "list"]),
    "cache and offset": (lambda: decode(KVCache(), q_offset=0), ValueError, ["q_offset", "cache"]),
    "cache of other heads": (
        lambda: decode(filled()),
        ValueError,
        ["key", "(2, 2, 5, 4)", "(2, 3, 5, 4)"],
    ),
    "cache full": (lambda: decode(KVCache(max_len=3)), ValueError, ["full", "max_len is 3"]),
    "cache that forgets, no mask": (
        lambda: decode(KVCache(window=3)),
        ValueError,
        ["3 tokens", "None"],
    ),
    "cache that forgets, as memory": (
        lambda: decode(KVCache(window=3), key=X + 1),
        ValueError,
        ["memory", "window 3"],
    ),
    "another memory": (
        lambda: decode(with_memory(), key=X[:, :2]),
        ValueError,
        ["memory of 5 vectors", "batch of 2", "key", "(2, 2, 8)", "empty"],
    ),
    "a memory for another batch": (
        lambda: layer(X[:1], X[:1] + 1, cache=with_memory()),
        ValueError,
        ["memory of 5 vectors", "batch of 2", "key", "(1, 5, 8)"],
    ),
    "a history as memory": (
        lambda: layer(X, X + 1, cache=filled()),
        ValueError,
        ["key is not the query", "self-attention", "length=5", "a cache of its own"],
    ),
    "a memory as history": (
        lambda: decode(with_memory()),
        ValueError,
        ["memory", "self-attention needs a cache of its own"],
    ),
}


@pytest.mark.parametrize(("call", "raises", "says"), CACHE.values(), ids=CACHE.keys())
def test_a_cache_refuses(call, raises, says):
    assert_refuses(call, raises, says)


@pytest.mark.parametrize(("call", "raises", "says"), MULTI_HEAD.values(), ids=MULTI_HEAD.keys())
def test_multi_head_attention_refuses(call, raises, says):
    assert_refuses(call, raises, says)


def test_what_is_refused_is_not_kept():
    cache = filled(max_len=9)
    for bad in (HEADS, HEADS[:1], HEADS.half()):
        with pytest.raises((ValueError, TypeError)):
            update(cache, bad, bad)
    assert cache.length == cache.kept == 5
