"""Latent, local, hard and hierarchical attention refuse bad input: a table of call × defect."""

import pytest
import torch
from refusals import assert_refuses
from torch import nn

from attn_core import masks
from attn_core.modules import (
    HardAttention,
    HierarchicalAttention,
    KVCache,
    LocalMonotonic,
    LocalPredictive,
    MovingAverage,
    MultiHeadLatentAttention,
    reinforce_loss,
)

X = torch.ones(2, 5, 8)


def filled():
    cache = KVCache()
    cache.update(torch.ones(2, 3, 5, 4), torch.ones(2, 3, 5, 4))
    return cache


latent = MultiHeadLatentAttention(8, 2, kv_rank=3)
LATENT = {
    "dim": (lambda: MultiHeadLatentAttention(0, 2, kv_rank=3), ValueError, ["dim", "0"]),
    "kv_rank": (lambda: MultiHeadLatentAttention(8, 2, kv_rank=2.5), TypeError, ["kv_rank", "2.5"]),
    "heads": (
        lambda: MultiHeadLatentAttention(8, 3, kv_rank=3),
        ValueError,
        ["dim 8", "heads 3"],
    ),
    "query_rank": (
        lambda: MultiHeadLatentAttention(8, 2, kv_rank=3, query_rank=0),
        ValueError,
        ["query_rank", "0"],
    ),
    "rotary_dim": (
        lambda: MultiHeadLatentAttention(8, 2, kv_rank=3, rotary_dim=3),
        ValueError,
        ["rotary_dim", "even", "3"],
    ),
    "value_dim": (
        lambda: MultiHeadLatentAttention(8, 2, kv_rank=3, value_dim=-1),
        ValueError,
        ["value_dim", "-1"],
    ),
    "rotary": (
        lambda: MultiHeadLatentAttention(8, 2, kv_rank=3, rotary="half"),
        TypeError,
        ["rotary", "'half'"],
    ),
    "dropout": (
        lambda: MultiHeadLatentAttention(8, 2, kv_rank=3, dropout=1),
        ValueError,
        ["dropout", "1"],
    ),
    "eps": (lambda: MultiHeadLatentAttention(8, 2, kv_rank=3, eps=-1), ValueError, ["eps", "-1"]),
    "scale": (
        lambda: MultiHeadLatentAttention(8, 2, kv_rank=3, scale="1"),
        TypeError,
        ["scale", "'1'"],
    ),
    "x width": (lambda: latent(X[..., :4]), ValueError, ["x", "8", "(2, 5, 4)"]),
    "x matrix": (lambda: latent(X[0]), ValueError, ["x", "(5, 8)"]),
    "x dtype": (lambda: latent(X.double()), TypeError, ["x", "float64", "float32"]),
    "mask of three dimensions": (
        lambda: latent(X, mask=torch.ones(2, 5, 5) > 0),
        ValueError,
        ["mask", "(2, 5, 5)"],
    ),
    "mask of floats": (
        lambda: latent(X, mask=torch.ones(5, 5)),
        TypeError,
        ["mask", "bool", "float32"],
    ),
    "cache": (lambda: latent(X, cache={}), TypeError, ["cache", "KVCache", "dict"]),
    "cache of another layer": (
        lambda: latent(X, cache=filled()),
        ValueError,
        ["key", "(2, 1, 5, 3)", "(2, 3, 5, 4)"],
    ),
    "cache that forgets": (
        lambda: latent(X, mask=masks.causal(), cache=KVCache(window=3)),
        ValueError,
        ["3 tokens", "causal()", "masks.window(3, 0)"],
    ),
    "cache full": (
        lambda: latent(X, cache=KVCache(max_len=4)),
        ValueError,
        ["full", "max_len is 4", "5 more"],
    ),
}
monotonic, predictive = LocalMonotonic(2), LocalPredictive(8, 2)
LOCAL = {
    "window negative": (lambda: LocalMonotonic(-1), ValueError, ["window", "-1"]),
    "window float": (lambda: LocalMonotonic(1.5), TypeError, ["window", "1.5"]),
    "window zero": (lambda: LocalPredictive(8, 0), ValueError, ["window", "0"]),
    "query_dim": (lambda: LocalPredictive("a", 2), TypeError, ["query_dim", "'a'"]),
    "hidden_dim": (
        lambda: LocalPredictive(8, 2, hidden_dim=0),
        ValueError,
        ["hidden_dim", "0"],
    ),
    "score": (lambda: LocalMonotonic(1, score="dot"), TypeError, ["score", "'dot'"]),
    "score of local-p": (lambda: LocalPredictive(8, 1, score=3), TypeError, ["score", "3"]),
    "query list": (lambda: monotonic([1.0], X), TypeError, ["query", "list"]),
    "query matrix": (lambda: monotonic(X[0], X), ValueError, ["query", "(5, 8)"]),
    "key batch": (lambda: monotonic(X, X[:1]), ValueError, ["key", "(2, 5, 8)", "(1, 5, 8)"]),
    "key width": (lambda: monotonic(X, X[..., :3]), ValueError, ["query and key", "width"]),
    "value length": (lambda: monotonic(X, X, X[:, :2]), ValueError, ["key and value", "length"]),
    "lengths floats": (
        lambda: monotonic(X, X, lengths=[1.0, 2.0]),
        TypeError,
        ["lengths", "float32"],
    ),
    "lengths None": (
        lambda: predictive(X, X, lengths=[None, 1]),
        TypeError,
        ["lengths", "None"],
    ),
    "lengths too many": (
        lambda: predictive(X, X, lengths=[1, 2, 3]),
        ValueError,
        ["lengths", "(3,)", "(2, 5, 8)"],
    ),
    "lengths too long": (lambda: predictive(X, X, lengths=[6, 1]), ValueError, ["5", "[6, 1]"]),
    "lengths negative": (lambda: monotonic(X, X, lengths=[-1, 1]), ValueError, ["[-1, 1]"]),
    "q_offset": (lambda: monotonic(X, X, q_offset=0.5), TypeError, ["q_offset", "0.5"]),
    "query width": (
        lambda: predictive(X[..., :3], X[..., :3]),
        ValueError,
        ["query", "8", "(2, 5, 3)"],
    ),
    "centers": (lambda: predictive.centers(X, X[0]), ValueError, ["key", "(5, 8)"]),
}
hard = HardAttention()
NO_KEYS = torch.zeros(5, 5, dtype=torch.bool)
CHOICE = torch.zeros(2, 5, dtype=torch.int64)
LOG_PROB = torch.zeros(2, 5)
HARD = {
    "score": (lambda: HardAttention(score=1), TypeError, ["score", "1"]),
    "query": (lambda: hard(X[0], X), ValueError, ["query", "(5, 8)"]),
    "value": (lambda: hard(X, X, X.long()), TypeError, ["value", "int64"]),
    "value length": (lambda: hard(X, X, X[:, :2]), ValueError, ["key and value", "length"]),
    "no keys": (lambda: hard(X, X[:, :0]), ValueError, ["key", "(2, 0, 8)"]),
    "mask": (
        lambda: hard(X, X, mask=torch.ones(2, 5, 5) > 0),
        ValueError,
        ["mask", "(2, 5, 5)"],
    ),
    "choice list": (lambda: hard(X, X, choice=[[0] * 5] * 2), TypeError, ["choice", "list"]),
    "choice floats": (lambda: hard(X, X, choice=LOG_PROB), TypeError, ["choice", "float32"]),
    "choice shape": (
        lambda: hard(X, X, choice=CHOICE[:1]),
        ValueError,
        ["choice", "(2, 5)", "(1, 5)"],
    ),
    "choice too high": (lambda: hard(X, X, choice=CHOICE + 5), ValueError, ["0 to 4", "5"]),
    "choice of nothing": (lambda: hard(X, X, choice=CHOICE - 1), ValueError, ["0 to 4", "-1"]),
    "choice where nothing may be chosen": (
        lambda: hard(X, X, mask=NO_KEYS, choice=CHOICE),
        ValueError,
        ["choice", "nothing"],
    ),
    "choice of what is masked": (
        lambda: hard(X, X, mask=masks.padding([3, 5]), choice=CHOICE + 4),
        ValueError,
        ["choice", "may not be attended"],
    ),
    "momentum": (lambda: MovingAverage(1.0), ValueError, ["momentum", "1.0"]),
    "momentum name": (lambda: MovingAverage("slow"), TypeError, ["momentum", "'slow'"]),
    "average of nothing": (
        lambda: MovingAverage().update(torch.ones(0)),
        ValueError,
        ["reward", "(0,)"],
    ),
    "average of a number": (lambda: MovingAverage().update(1.0), TypeError, ["reward", "float"]),
    "reward": (lambda: reinforce_loss(1.0, LOG_PROB), TypeError, ["reward", "float"]),
    "log_prob": (lambda: reinforce_loss(LOG_PROB, CHOICE), TypeError, ["log_prob", "int64"]),
    "reward along the wrong dimension": (
        lambda: reinforce_loss(torch.ones(5), LOG_PROB),
        ValueError,
        ["reward", "(2, 5)", "(5,)"],
    ),
    "reward of another batch": (
        lambda: reinforce_loss(torch.ones(3, 1), LOG_PROB),
        ValueError,
        ["reward", "(2, 5)", "(3, 1)"],
    ),
    "baseline shape": (
        lambda: reinforce_loss(LOG_PROB, LOG_PROB, baseline=torch.ones(2)),
        ValueError,
        ["baseline", "(2, 5)", "(2,)"],
    ),
    "baseline name": (
        lambda: reinforce_loss(LOG_PROB, LOG_PROB, baseline="mean"),
        TypeError,
        ["baseline", "'mean'"],
    ),
    "entropy missing": (
        lambda: reinforce_loss(LOG_PROB, LOG_PROB, entropy_weight=0.1),
        ValueError,
        ["entropy", "entropy_weight is 0.1"],
    ),
    "entropy shape": (
        lambda: reinforce_loss(LOG_PROB, LOG_PROB, entropy=LOG_PROB[:1]),
        ValueError,
        ["entropy", "(2, 5)", "(1, 5)"],
    ),
    "entropy_weight": (
        lambda: reinforce_loss(LOG_PROB, LOG_PROB, entropy=LOG_PROB, entropy_weight=None),
        TypeError,
        ["entropy_weight", "None"],
    ),
}


class Wrong(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, sentences):
        return self.result


documents, WORDS = HierarchicalAttention(8), torch.ones(2, 3, 4, 8)
HIERARCHICAL = {
    "dim": (lambda: HierarchicalAttention(0), ValueError, ["dim", "0"]),
    "hidden_dim": (
        lambda: HierarchicalAttention(8, hidden_dim="a"),
        TypeError,
        ["hidden_dim", "'a'"],
    ),
    "encoder": (
        lambda: HierarchicalAttention(8, sentence_encoder=len),
        TypeError,
        ["sentence_encoder", "len"],
    ),
    "width without encoder": (
        lambda: HierarchicalAttention(8, sentence_dim=6),
        ValueError,
        ["sentence_dim 6", "sentence_encoder", "dim 8"],
    ),
    "x width": (lambda: documents(WORDS[..., :3]), ValueError, ["x", "8", "(2, 3, 4, 3)"]),
    "x of three dimensions": (lambda: documents(WORDS[0]), ValueError, ["x", "(3, 4, 8)"]),
    "x integers": (lambda: documents(WORDS.long()), TypeError, ["x", "int64"]),
    "x dtype": (lambda: documents(WORDS.double()), TypeError, ["x", "float64", "float32"]),
    "mask lengths": (
        lambda: documents(WORDS, mask=torch.ones(2, 3)),
        TypeError,
        ["mask", "bool", "float32"],
    ),
    "mask list": (lambda: documents(WORDS, mask=[True]), TypeError, ["mask", "list"]),
    "mask shape": (
        lambda: documents(WORDS, mask=torch.ones(2, 3) > 0),
        ValueError,
        ["mask", "(2, 3, 4)", "(2, 3)"],
    ),
    "mask elsewhere": (
        lambda: documents(WORDS, mask=torch.ones(2, 3, 4, device="meta") > 0),
        ValueError,
        ["mask", "meta", "cpu"],
    ),
    "encoder gives two": (
        lambda: HierarchicalAttention(8, sentence_encoder=nn.GRU(8, 8, batch_first=True))(WORDS),
        TypeError,
        ["sentence_encoder", "tuple", "GRU"],
    ),
    "encoder gives another width": (
        lambda: HierarchicalAttention(8, sentence_encoder=Wrong(WORDS[:, :, 0, :3]))(WORDS),
        ValueError,
        ["sentence_encoder", "(2, 3, 8)", "(2, 3, 3)"],
    ),
}
OTHERS = {
    f"{part}, {defect}": row
    for part, table in [
        ("latent", LATENT),
        ("local", LOCAL),
        ("hard", HARD),
        ("hierarchical", HIERARCHICAL),
    ]
    for defect, row in table.items()
}


@pytest.mark.parametrize(("call", "raises", "says"), OTHERS.values(), ids=OTHERS.keys())
def test_layers_refuse(call, raises, says):
    with torch.no_grad():
        assert_refuses(call, raises, says)
