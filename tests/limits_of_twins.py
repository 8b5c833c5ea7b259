"""The ends of the ranges that the NumPy twins check; see ``limits.py``."""

from typing import Any

import numpy as np
from limits import ABOVE_1, BELOW_0, BELOW_1, TINY, Row, n

from attn_core import reference as twin


def numbers(*entries: Any) -> np.ndarray:
    return np.array(entries)


DISTANCE = numbers([0, 1], [-1, 0])


def copied_by_twin(source: list[int], size: int = 3) -> Any:
    half = np.full((1, len(source)), 0.5)
    return twin.pointer_mixture(n(1, 2), half, half[:, 0], np.array(source), size)


def bert(token: list[int], segments: list[int]) -> Any:
    shapes = {"token_embedding": (3, 2), "position": (2, 2), "segment": (2, 2)}
    first = "encoder.blocks.0."
    shapes |= {f"{first}attention.{one}_proj": (2, 2) for one in ("query", "key", "value", "out")}
    shapes |= {f"{first}feed_forward.{one}": (2, 2) for one in ("inner", "outer")}
    arrays = {f"{name}.weight": n(*shape) for name, shape in shapes.items()}
    arrays |= {f"{name}.bias": n(2) for name in shapes if "blocks" in name}
    for name in ("embedding_norm", f"{first}attention_norm", f"{first}feed_forward_norm"):
        arrays |= {f"{name}.weight": n(2), f"{name}.bias": n(2)}
    return twin.bert(token, arrays, heads=1, segments=segments)


def turned_by_twin(scaling: Any, dim: int = 4, base: float = 100.0) -> Any:
    return twin.rotary(n(1, dim), base=base, scaling=scaling)


MASKS = [
    Row("q_len", lambda x: twin.causal(x, 2, 0), 0, -1),
    Row("k_len", lambda x: twin.causal(2, x, 0), 0, -1),
    Row("q_offset", lambda x: twin.causal(2, 2, x.astype(int)), n(1), n(1, 1)),
    Row("lengths, least", lambda x: twin.padding([x], 2), 0, -1),
    Row("lengths, most", lambda x: twin.padding([x], 2), 2, 3),
    Row("left, window", lambda x: twin.window(x, 0, 2, 2), 0, -1),
    Row("left, dilated", lambda x: twin.dilated(x, 0, 0, 2, 2), 0, -1),
    Row("stride", lambda x: twin.strided(x, 2, 2), 1, 0),
    Row("n", lambda x: twin.global_tokens(x, 2, 2), 0, -1),
    Row("layout", lambda x: twin.block_sparse(x > 0, 2, 2, 2), n(1, 1), n(1)),
    Row("block_size", lambda x: twin.block_sparse(n(1, 1) > 0, x, 1, 1), 1, 0),
    Row("k_len, blocks", lambda x: twin.block_sparse(n(1, 1) > 0, 2, x, x), 2, 3),
]
PARTS = [
    Row("softcap", lambda x: twin.attention(n(1, 1), n(1, 1), n(1, 1), softcap=x), TINY, 0.0),
    Row("query", lambda x: twin.attention(x, n(2, 2), n(2, 2)), n(2, 2), n(2)),
    Row("width", lambda x: twin.cosine(x, x), n(1, 1), n(1, 0)),
    Row("bandwidth", lambda x: twin.gaussian(n(1, 1), n(1, 1), bandwidth=x), TINY, 0.0),
    Row("key", lambda x: twin.location(n(1, 1), x, n(2, 1)), n(2, 1), n(3, 1)),
    Row("temperature", lambda x: twin.softmax(n(2), temperature=x), TINY, 0.0),
    Row("steps", lambda x: twin.entmax_bisect(n(2), steps=x), 1, 0),
    Row("alpha", lambda x: twin.entmax_bisect(n(2), alpha=x), 1.0, BELOW_1),
    Row("residual, least", lambda x: twin.rollout([n(1, 2, 2)], residual=x), 0.0, BELOW_0),
    Row("residual, most", lambda x: twin.rollout([n(1, 2, 2)], residual=x), 1.0, ABOVE_1),
    Row("weights, rollout", lambda x: twin.rollout([x]), n(1, 2, 2), n(2, 2)),
    Row("weights, entropy", twin.entropy, n(2, 2), n(2)),
    Row("length", lambda x: twin.sinusoidal(x, 1), 0, -1),
    Row("dim", lambda x: twin.sinusoidal(1, x), 1, 0),
    Row("base", lambda x: twin.sinusoidal(1, 2, base=x), TINY, 0.0),
    Row("heads", twin.alibi_slopes, 1, 0),
    Row("buckets, two directions", lambda x: twin.t5_bucket(numbers(1), buckets=x), 4, 2),
    Row(
        "buckets, one direction",
        lambda x: twin.t5_bucket(numbers(1), buckets=x, bidirectional=False),
        2,
        1,
    ),
    Row("max_distance", lambda x: twin.t5_bucket(numbers(1), max_distance=x), 9, 8),
    Row(
        "segment_ids, least",
        lambda x: twin.segment(n(2, 1), n(2, 1), segment_ids=x),
        numbers(0, 0),
        numbers(-1, 0),
    ),
    Row(
        "segment_ids, most",
        lambda x: twin.segment(n(2, 1), n(2, 1), segment_ids=x),
        numbers(1, 1),
        numbers(1, 2),
    ),
    Row("dim, rotary", lambda x: twin.rotary(n(1, 4), dim=x), 2, 0),
    Row("dim, width", lambda x: twin.rotary(n(1, 4), dim=x), 4, 6),
    Row("dim, NTK", lambda x: turned_by_twin(twin.NTKScaling(2.0), dim=x), 4, 2),
    Row("beta_fast", lambda x: twin.YaRNScaling(2.0, 8, beta_fast=x, beta_slow=1.0), ABOVE_1, 1.0),
    Row("base, YaRN", lambda x: turned_by_twin(twin.YaRNScaling(2.0, 8), base=x), ABOVE_1, 1.0),
    Row("factor", twin.LinearScaling, TINY, 0.0),
    Row(
        "query, XL",
        lambda x: twin.transformer_xl(x, n(1, 2, 2), *[n(1, 2)] * 2, n(2, 2), distance=DISTANCE),
        n(1, 2, 2),
        n(2, 2),
    ),
    Row(
        "key, XL",
        lambda x: twin.transformer_xl(n(1, 2, 2), x, *[n(1, 2)] * 2, n(2, 2), distance=DISTANCE),
        n(1, 2, 2),
        n(2, 2),
    ),
]
LAYERS = [
    Row("beta, least", lambda x: twin.delta_rule(*[n(1, 1)] * 3, beta=x), 0.0, BELOW_0),
    Row("beta, most", lambda x: twin.delta_rule(*[n(1, 1)] * 3, beta=x), 2.0, 2.1),
    Row("decay", lambda x: twin.delta_rule(*[n(1, 1)] * 3, decay=x), 0.0, -BELOW_0),
    Row("landmarks, least", lambda x: twin.nystrom(n(3, 2), n(5, 2), n(5, 2), landmarks=x), 1, 0),
    Row("landmarks, queries", lambda x: twin.nystrom(n(3, 2), n(5, 2), n(5, 2), landmarks=x), 3, 4),
    Row("landmarks, keys", lambda x: twin.nystrom(n(5, 2), n(3, 2), n(3, 2), landmarks=x), 3, 4),
    Row("window", lambda x: twin.local_m(n(1, 1, 1), n(1, 1, 1), n(1, 1, 1), window=x), 0, -1),
    Row("heads", lambda x: twin.multi_head(*[n(1, 2)] * 3, *[n(2, 2)] * 4, heads=x), 1, 0),
    Row("block", lambda x: twin.online_attention(n(1, 1), n(1, 1), n(1, 1), block=x), 1, 0),
    Row("size", lambda x: copied_by_twin([0, 0], size=x), 2, 1),
    Row("source, least", copied_by_twin, [0, 0], [-1, 0]),
    Row("source, most", copied_by_twin, [2, 2], [2, 3]),
    Row("eps", lambda x: twin.layer_norm(numbers([0.0, 1.0]), n(2), n(2), eps=x), 0.0, BELOW_0),
    Row(
        "features",
        lambda x: twin.orthogonal_projection(x, 1, generator=np.random.default_rng(0)),
        1,
        0,
    ),
    Row(
        "dim", lambda x: twin.orthogonal_projection(1, x, generator=np.random.default_rng(0)), 1, 0
    ),
    Row("ids, least", lambda x: bert([x], [0]), 0, -1),
    Row("ids, most", lambda x: bert([x], [0]), 2, 3),
    Row("positions", lambda x: bert([0] * x, [0] * x), 2, 3),
    Row("reward", lambda x: twin.reinforce_loss(x, n(3)), n(), n(2)),
    Row("choice", lambda x: twin.hard_attention(n(1, 1), n(2, 1), n(2, 1), numbers(x)), 1, 2),
]
TABLES = {
    "twins of masks": MASKS,
    "twins of parts": PARTS,
    "twins of layers": LAYERS,
}
