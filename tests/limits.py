"""The ends of every range that the package checks: the last value in it, and the first beyond.

A row is a call of one argument. Each end has a row of its own: where a call is far outside, or
outside at both ends at once, a limit that is off by one goes unseen.
"""

import math
import sys
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from attn_core import (
    attention,
    costs,
    diagnosis,
    interpret,
    kernels,
    masks,
    plot,
    positions,
    training,
)
from attn_core import normalizers as normal
from attn_core import scores as scoring
from attn_core.data.dates import split_dates
from attn_core.data.vocabulary import Vocabulary
from attn_core.diagnosis.calling import Budget, TroubleError
from attn_core.diagnosis.listings import excerpt
from attn_core.diagnosis.runner import Runner
from attn_core.models import block, copying, gpt, graph, hierarchical, pointer, seq2seq, spectrogram
from attn_core.modules import HardAttention, KVCache, LocalMonotonic, MultiHeadAttention


class Row(NamedTuple):
    """One end of one range.

    Attributes:
        says: what the error names, and for the reader which end it is, after a comma.
        call: what takes the number.
        last: the last one that is accepted at this end.
        beyond: the first that is refused.
    """

    says: str
    call: Callable[[Any], Any]
    last: Any
    beyond: Any

    def is_right(self) -> bool:
        """Whether the last value is accepted, and the one beyond refused by name."""
        try:
            self.call(self.last)
        except Exception:
            return False
        try:
            self.call(self.beyond)
        except (ValueError, TroubleError) as refusal:
            return self.says.split(",")[0] in str(refusal)
        except Exception:
            return False
        return False


MOST = sys.float_info.max
TINY = 2.0**-40  # positive, and its square is too
BELOW_0 = -math.ulp(0.0)
BELOW_1, ABOVE_1 = math.nextafter(1, 0), math.nextafter(1, 2)


def t(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


def n(*shape: int) -> np.ndarray:
    return np.ones(shape)


def ids(*numbers: Any) -> torch.Tensor:
    return torch.tensor(numbers)


WORDS = Vocabulary("ab")  # with four signs of its own: numbers from 0 to 5
VOCABULARY = len(WORDS)
NEAR = ids([0, -1], [1, 0])
SIGNS = [[True, False], [True, True]]
GPT = gpt.GPT(3, 2, 1, 1, max_len=3).eval()
LETTERS = seq2seq.Seq2Seq(WORDS, WORDS, embedding_dim=1, hidden_dim=1, attention="luong").eval()
COPIER = pointer.PointerGenerator(WORDS, embedding_dim=1, hidden_dim=1).eval()
READER = hierarchical.ReadAndAttend(2, 1)
CLASSIFIER = hierarchical.HierarchicalClassifier(4, 2, embedding_dim=1, hidden_dim=1).eval()
HARD = HardAttention()
HEADS = MultiHeadAttention(2, 2)
XL = positions.TransformerXLBias(1, 2)
PARAMETERS = nn.Linear(1, 1)


@torch.no_grad()
def filled(count: int) -> Any:
    return KVCache(max_len=2).update(t(1, 1, count, 1), t(1, 1, count, 1))


def cache_of_two() -> KVCache:
    cache = KVCache()
    cache.update(t(2, 1, 1, 2), t(2, 1, 1, 2))
    return cache


def without_heads(numbers: list[int]) -> None:
    with interpret.ablate_heads(HEADS, {"MultiHeadAttention": numbers}):
        pass


def trained(error: float = 1.0, **options: int) -> Any:
    def loss(batch: torch.Tensor) -> torch.Tensor:
        return PARAMETERS(batch).square().mean()

    options = {"max_epochs": 1} | options
    return training.train_to_plateau(
        PARAMETERS, loss, lambda _: [t(1, 1)], lambda: error, **options
    )


class Giving(nn.Module):
    """A module that gives the same whatever it is asked."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self) -> torch.Tensor:
        return self.output


def diagnosed(**options: Any) -> Any:
    """With no time to try anything: arguments are checked before."""
    return diagnosis.diagnose(lambda query, key, value: query, **{"seconds": TINY} | options)


def run_with(**left: float) -> None:
    budget = Budget(9.0)
    vars(budget).update(left)
    with budget.running():
        pass


def span(days: int) -> Any:
    return split_dates(date(2000, 1, 1), date(2000, 1, 1) + timedelta(days=days - 1))


def copied(source: list[int]) -> Any:
    """A mixture of three words."""
    half = torch.full((1, len(source)), 0.5)
    return copying.pointer_mixture(half[:, :2], half, half[:, 0], torch.tensor(source), 3)


def live(query: float = 0.5, bandwidths: Any = (1.0,), keys: Any = (0.0, 1.0)) -> Any:
    chosen = bandwidths[-1]
    return plot.live_kernel(
        keys, np.zeros(len(keys)), query=query, bandwidths=bandwidths, bandwidth=chosen
    )


def live_words(temperature: float) -> Any:
    return plot.live_attention(["a", "b"], n(2, 2), n(2, 2), n(2), temperature=temperature)


def turned(scaling: Any, dim: int = 4, base: float = 100.0) -> Any:
    return positions.rotary(t(1, dim), base=base, scaling=scaling)


ATTENTION = [
    Row("scale, least", lambda x: attention(t(1, 1), t(1, 1), t(1, 1), scale=x), -MOST, -math.inf),
    Row("scale, most", lambda x: attention(t(1, 1), t(1, 1), t(1, 1), scale=x), MOST, math.inf),
    Row("softcap", lambda x: attention(t(1, 1), t(1, 1), t(1, 1), softcap=x), TINY, 0.0),
    Row(
        "dropout_p, least", lambda x: attention(t(1, 1), t(1, 1), t(1, 1), dropout_p=x), 0, BELOW_0
    ),
    Row("dropout_p, most", lambda x: attention(t(1, 1), t(1, 1), t(1, 1), dropout_p=x), BELOW_1, 1),
    Row("query", lambda x: attention(x, t(2, 2), t(2, 2)), t(2, 2), t(2)),
    Row("key", lambda x: scoring.dot(t(2, 2), x), t(2, 2), t(2)),
    Row("query, sequence", lambda x: scoring.Bilinear(2, 2)(x, t(2, 2)), t(2, 2), t(2)),
    Row("bandwidth", lambda x: scoring.gaussian(t(1, 1), t(1, 1), bandwidth=x), TINY, 0.0),
    Row("width", lambda x: scoring.cosine(x, x), t(1, 1), t(1, 0)),
    Row("max_len", lambda x: scoring.Location(1, 2)(t(1, 1), x), t(2, 1), t(3, 1)),
    Row("dim, least", lambda x: normal.softmax(t(2, 2), dim=x), -2, -3),
    Row("dim, most", lambda x: normal.softmax(t(2, 2), dim=x), 1, 2),
    Row("temperature", lambda x: normal.softmax(t(2), temperature=x), TINY, 0.0),
    Row("alpha", lambda x: normal.entmax(t(2), alpha=x), 1.0, BELOW_1),
]
MASKS = [
    Row("lengths", lambda x: masks.padding([x]), 0, -1),
    Row("table, least", lambda x: masks.dense(x.bool()), t(1, 1), t(1)),
    Row("table, most", lambda x: masks.dense(x.bool()), t(1, 1, 1, 1), t(1, 1, 1, 1, 1)),
    Row("at least 2 keys", lambda x: masks.padding([2]).dense(1, x), 2, 1),
    Row("at most 4 keys", lambda x: masks.block_sparse(ids(*SIGNS), 2).dense(x, x), 4, 5),
    Row("left", lambda x: masks.window(x, 0), 0, -1),
    Row("stride", masks.strided, 1, 0),
]
POSITIONS = [
    Row("one number of heads", lambda x: positions.ALiBi(2) + positions.ALiBi(x), 2, 1),
    Row("base", lambda x: positions.sinusoidal(1, 2, base=x), TINY, 0.0),
    Row(
        "positions, least",
        lambda x: positions.LearnedEncoding(2, 1)(t(1, 1), positions=ids(x)),
        0,
        -1,
    ),
    Row(
        "positions, most",
        lambda x: positions.LearnedEncoding(2, 1)(t(1, 1), positions=ids(x)),
        1,
        2,
    ),
    Row("max_len", lambda x: positions.LearnedEncoding(2, 1)(t(1, 1), offset=x), 1, 2),
    Row("segment_ids, least", lambda x: positions.SegmentEncoding(2, 1)(t(1, 1), ids(x)), 0, -1),
    Row("segment_ids, most", lambda x: positions.SegmentEncoding(2, 1)(t(1, 1), ids(x)), 1, 2),
    Row("buckets, two directions", lambda x: positions.t5_bucket(ids(1), buckets=x), 4, 2),
    Row(
        "buckets, one direction",
        lambda x: positions.t5_bucket(ids(1), buckets=x, bidirectional=False),
        2,
        1,
    ),
    Row("max_distance", lambda x: positions.t5_bucket(ids(1), max_distance=x), 9, 8),
    Row("x", positions.rotary, t(2, 2), t(2)),
    Row("dim", lambda x: positions.rotary(t(1, 4), dim=x), 4, 6),
    Row("base, rotary", lambda x: positions.rotary(t(1, 4), base=x), TINY, 0.0),
    Row("dim, NTK", lambda x: turned(positions.NTKScaling(2.0), dim=x), 4, 2),
    Row(
        "beta_fast",
        lambda x: positions.YaRNScaling(2.0, 8, beta_fast=x, beta_slow=1.0),
        ABOVE_1,
        1.0,
    ),
    Row("base, YaRN", lambda x: turned(positions.YaRNScaling(2.0, 8), base=x), ABOVE_1, 1.0),
    Row("factor", positions.LinearScaling, TINY, 0.0),
    Row("weights", lambda x: positions.ShawValues(2, 1)(x), t(2, 2), t(2)),
    Row("base, XL", lambda x: positions.TransformerXLBias(1, 2, base=x), TINY, 0.0),
    Row("key", lambda x: XL(t(1, 2, 2), x, NEAR), t(1, 2, 2), t(2, 2)),
]
KERNELS = [
    Row("buckets", lambda x: kernels.lsh(t(4, 2), t(4, 2), buckets=x), 1, 3),
    Row("query", lambda x: kernels.lsh(x, t(2, 2), buckets=1), t(2, 2), t(2)),
    Row(
        "landmarks, queries",
        lambda x: kernels.nystrom(t(3, 2), t(5, 2), t(5, 2), landmarks=x),
        3,
        4,
    ),
    Row("landmarks, keys", lambda x: kernels.nystrom(t(5, 2), t(3, 2), t(3, 2), landmarks=x), 3, 4),
    Row(
        "key_projection",
        lambda x: kernels.linformer(t(2, 2), t(2, 2), t(2, 2), key_projection=x),
        t(1, 2),
        t(2),
    ),
    Row("beta, least", lambda x: kernels.delta_rule(*[t(1, 1)] * 3, beta=x), 0.0, -TINY),
    Row("beta, most", lambda x: kernels.delta_rule(*[t(1, 1)] * 3, beta=x), 2.0, 2.1),
    Row("decay", lambda x: kernels.delta_rule(*[t(1, 1)] * 3, decay=x), 0.0, TINY),
]
MODULES = [
    Row("softcap", lambda x: MultiHeadAttention(2, 1, softcap=x), TINY, 0.0),
    Row("max_len", filled, 2, 3),
    Row("window", lambda x: KVCache(window=2).mask_of_kept(masks.window(x, 0), 1), 2, 3),
    Row("indices, least", lambda x: cache_of_two().reorder([x]), 0, -1),
    Row("indices, most", lambda x: cache_of_two().reorder([x]), 1, 2),
    Row(
        "choice, least",
        lambda x: HARD(t(1, 2, 1), t(1, 2, 1), mask=ids([False, False], [True, True]), choice=x),
        ids([-1, 0]),
        ids([-1, -2]),
    ),
    Row("choice, most", lambda x: HARD(t(1, 1, 1), t(1, 2, 1), choice=ids([x])), 1, 2),
    Row("lengths, least", lambda x: LocalMonotonic(1)(t(1, 1, 1), t(1, 2, 1), lengths=[x]), 0, -1),
    Row("lengths, most", lambda x: LocalMonotonic(1)(t(1, 1, 1), t(1, 2, 1), lengths=[x]), 2, 3),
]
MODELS = [
    Row("eps", lambda x: block.Block(2, 1, eps=x), 0.0, BELOW_0),
    Row("ids, least", lambda x: GPT(ids([x])), 0, -1),
    Row("ids, most", lambda x: GPT(ids([x])), 2, 3),
    Row("ids, of the loss", lambda x: GPT.loss(ids([0] * x)), 2, 1),
    Row("temperature", lambda x: GPT.generate(ids([0]), 1, temperature=x), 0.0, BELOW_0),
    Row("x", lambda x: graph.GraphAttention(2, 1)(x, ids(*SIGNS)), t(2, 2), t(2)),
    Row("weights", copying.coverage, t(2, 2), t(2)),
    Row("source, least", copied, [0, 0], [-1, 0]),
    Row("source, most", copied, [2, 2], [2, 3]),
    Row("source, of words", lambda x: COPIER(ids([4, x]), ids([2, 3])), 0, -1),
    Row("lengths, least", lambda x: READER(t(1, 2, 2), ids(x)), 1, 0),
    Row("lengths, most", lambda x: READER(t(1, 2, 2), ids(x)), 2, 3),
    Row("documents, least", lambda x: CLASSIFIER(ids([[1, x]])), 0, -1),
    Row("documents, most", lambda x: CLASSIFIER(ids([[1, x]])), 3, 4),
    Row("max_length", lambda x: LETTERS.greedy(ids([2, 3]), x), 1, 0),
    Row("embedding_dim", lambda x: seq2seq.Seq2Seq(WORDS, WORDS, embedding_dim=x), 1, 0),
    Row("rate", lambda x: spectrogram.mel_filters(1, rate=x), TINY, 0.0),
    Row("audio, least", lambda x: spectrogram.log_mel(t(x), seconds=None), 400, 399),
    Row("audio, most", lambda x: spectrogram.log_mel(t(x), seconds=0.5, bands=1), 8000, 8001),
]
AROUND = [
    Row("q_len", lambda x: costs.cost("dot_product", q_len=x, head_dim=1), 1, 0),
    Row("cached", lambda x: costs.cost("multi_head", q_len=2, dim=1, heads=1, cached=x), 2, 3),
    Row(
        "q_len, latent",
        lambda x: costs.cost("latent", q_len=x, k_len=2, dim=2, heads=1, kv_rank=1),
        2,
        3,
    ),
    Row("length", lambda x: costs.cost("kv_cache", length=x, head_dim=1, max_len=2), 2, 3),
    Row("10 dates", span, 10, 9),
    Row("seconds", lambda x: diagnosed(seconds=x), TINY, 0.0),
    Row("heads, diagnosed", lambda x: diagnosed(heads=x), 1, 0),
    Row("it returns", lambda x: Runner(Giving(x), (), Budget(9.0))(), t(2, 2), t(2)),
    Row("takes too long", lambda x: run_with(left=x), 9.0, 0.0),
    Row("waits too long", lambda x: run_with(wall_left=x), 9.0, 0.0),
    Row("part, first", lambda x: excerpt("a\nb", (x, 1)), 1, 0),
    Row("part, order", lambda x: excerpt("a\nb", (2, x)), 2, 1),
    Row("part, last", lambda x: excerpt("a\nb", (1, x)), 2, 3),
    Row("residual, least", lambda x: interpret.rollout([t(1, 2, 2)], residual=x), 0.0, BELOW_0),
    Row("residual, most", lambda x: interpret.rollout([t(1, 2, 2)], residual=x), 1.0, ABOVE_1),
    Row("weights, rollout", lambda x: interpret.rollout([x]), t(1, 2, 2), t(2, 2)),
    Row("weights, entropy", interpret.entropy, t(2, 2), t(2)),
    Row("head 2", without_heads, [1], [2]),
    Row("batch_size", lambda x: training.length_batches([1], x), 1, 0),
    Row("epochs", lambda x: training.length_batches([1], 1, epochs=x), 1, 0),
    Row("patience", lambda x: trained(patience=x), 1, 0),
    Row("max_epochs", lambda x: trained(max_epochs=x), 1, 0),
    Row("reductions", lambda x: trained(reductions=x), 0, -1),
    Row("error", trained, 0.0, BELOW_0),
]
PICTURES = [
    Row("query, least", lambda x: live(query=x), 0.0, BELOW_0),
    Row("query, most", lambda x: live(query=x), 1.0, ABOVE_1),
    Row("bandwidth must", lambda x: live(bandwidths=[x]), TINY, 0.0),
    Row("bandwidths, positive", lambda x: live(bandwidths=[x, 1.0]), TINY, 0.0),
    Row("bandwidths, rising", lambda x: live(bandwidths=[1.0, x]), ABOVE_1, 1.0),
    Row("keys, least", lambda x: live(keys=np.arange(x)), 2, 0),
    Row("keys, most", lambda x: live(keys=np.linspace(0, 1, x)), 500, 501),
    Row("temperature, least", live_words, 0.1, math.nextafter(0.1, 0)),
    Row("temperature, most", live_words, 4.0, math.nextafter(4, 5)),
    Row("tokens, least", lambda x: plot.live_mask(["a"] * x), 2, 1),
    Row("tokens, most", lambda x: plot.live_mask(["a"] * x), 16, 17),
    Row("layers, least", lambda x: plot.live_mask(["a", "b"], layers=x), 1, 0),
    Row("layers, most", lambda x: plot.live_mask(["a", "b"], layers=x), 6, 7),
    Row("scores", lambda x: plot.live_scale(n(100, 1), n(x, 1), width=1), 100, 101),
]
TABLES = {
    "attention": ATTENTION,
    "masks": MASKS,
    "positions": POSITIONS,
    "kernels": KERNELS,
    "modules": MODULES,
    "models": MODELS,
    "around": AROUND,
    "pictures": PICTURES,
}
