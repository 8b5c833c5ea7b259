"""The inputs that a function is asked about."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from attn_core.diagnosis.recipe import Case


@dataclass(frozen=True)
class Sizes:
    """How large the inputs are; ``group`` heads of queries share one of keys and values."""

    batch: int
    heads: int
    q_len: int
    k_len: int
    width: int
    value_width: int
    group: int = 1


def sizes_to_try(layout: str, heads: int, width: int | None) -> list[Sizes]:
    """From sizes that are all different, which tell most, to those that most functions take."""
    batch = 1 if layout == "LD" else 3
    count = {"BHLD": heads, "BLHD": heads, "joined": heads}.get(layout, 1)
    widths = [(6, 8), (6, 6)] if width is None else [(width, width)]
    return [Sizes(batch, count, 5, k_len, *pair) for k_len in (7, 5) for pair in widths]


@cache
def drawn_case(
    sizes: Sizes, seed: int, *, masked: str = "", causal: bool = False, shared_mask: bool = False
) -> Case:
    """A random case, the same for the same arguments.

    Args:
        sizes: how large.
        seed: of the draw.
        masked: ``""`` for no mask, ``"some"`` for one in which every query may attend a key,
            ``"rows"`` for one in which the last query may attend nothing.
        causal: whether the function is asked to be causal.
        shared_mask: whether all batch entries have the same mask.
    """
    random = np.random.default_rng(seed)
    shape = (sizes.batch, sizes.heads)
    query = random.normal(size=(*shape, sizes.q_len, sizes.width)) * 1.5
    key = random.normal(size=(*shape, sizes.k_len, sizes.width)) * 1.5
    value = random.normal(size=(*shape, sizes.k_len, sizes.value_width))
    key, value = (x[:, :: sizes.group].repeat(sizes.group, axis=1) for x in (key, value))
    if not masked:
        return Case(query, key, value, None, causal)
    entries = 1 if shared_mask else sizes.batch
    mask = random.random((entries, 1, sizes.q_len, sizes.k_len)) < 0.5
    mask[..., 0, 1] = False  # never all
    mask[..., np.arange(sizes.q_len), (2 * np.arange(sizes.q_len)) % sizes.k_len] = True
    if masked == "rows":
        mask[..., -1, :] = False
    return Case(query, key, value, mask.repeat(sizes.batch // entries, 0), causal)
