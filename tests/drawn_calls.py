"""Calls of attention, drawn by hypothesis: shapes that broadcast, groups, masks, offsets.

A mask is drawn together with the rule it stands for, a Python function of one pair, so that a
test never asks the package which pairs are allowed.
"""

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st

from attn_core import masks, normalizers, scores

SCORES = {"dot": scores.dot, "scaled_dot": scores.scaled_dot, "cosine": scores.cosine}
NORMALIZERS = {"softmax": normalizers.softmax, "sparsemax": normalizers.sparsemax}


@dataclass
class Sizes:
    """The full shape of a call."""

    batch: tuple
    kv_heads: int
    group: int
    q_len: int
    k_len: int
    width: int
    value_width: int

    @property
    def heads(self):
        return self.kv_heads * self.group

    @property
    def full(self):
        return (*self.batch, self.heads, self.q_len, self.k_len)


@dataclass
class Call:
    """Arguments for the package, and what :func:`plain_attention` needs for the same call."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    allowed: torch.Tensor
    options: dict = field(default_factory=dict)
    plain_options: dict = field(default_factory=dict)

    @property
    def tensors(self):
        return self.query, self.key, self.value


def table_of_rule(rule, sizes, q_offset):
    """Ask the rule about every pair, one by one."""
    table = torch.zeros(sizes.full, dtype=torch.bool)
    for at in torch.cartesian_prod(*(torch.arange(n) for n in sizes.full)).tolist():
        *batch, head, row, key = at
        entry = batch[-1] if batch else 0
        offset = q_offset[entry] if isinstance(q_offset, list) else q_offset or 0
        table[tuple(at)] = rule(entry, head, row, row + offset, key)
    return table


@st.composite
def drawn_sizes(draw, batches=((), (2,), (3, 2))):
    return Sizes(
        batch=draw(st.sampled_from(batches)),
        kv_heads=draw(st.integers(1, 2)),
        group=draw(st.integers(1, 3)),
        q_len=draw(st.integers(1, 4)),
        k_len=draw(st.integers(1, 5)),
        width=draw(st.integers(1, 4)),
        value_width=draw(st.integers(1, 3)),
    )


@st.composite
def masks_with_rules(draw, sizes, depth=2):
    """A mask, composed at random, and its rule ``(batch, head, row, position, key) -> bool``."""
    kinds = ["causal", "window", "dilated", "strided", "global", "document", "blocks", "dense"]
    kinds += ["padding"] if sizes.batch else []
    if depth:
        kinds += ["not", "and", "or"]
    kind = draw(st.sampled_from(kinds))
    if kind == "causal":
        return masks.causal(), lambda b, h, i, p, j: j <= p
    if kind == "window":
        left, right = draw(st.none() | st.integers(0, 4)), draw(st.none() | st.integers(0, 4))
        return (
            masks.window(left, right),
            lambda b, h, i, p, j: (
                (left is None or p - j <= left) and (right is None or j - p <= right)
            ),
        )
    if kind in ("dilated", "strided", "global"):
        return draw(masks_of_distance_with_rules(kind))
    if kind in ("document", "blocks"):
        return draw(masks_of_parts_with_rules(kind, sizes))
    if kind == "padding":
        entries = sizes.batch[-1]
        lengths = draw(st.lists(st.integers(0, sizes.k_len), min_size=entries, max_size=entries))
        return masks.padding(lengths), lambda b, h, i, p, j: j < lengths[b]
    if kind == "dense":
        entries = draw(st.sampled_from([1, *sizes.batch[-1:]]))
        heads, rows, keys = (
            draw(st.sampled_from([1, size])) for size in (sizes.heads, sizes.q_len, sizes.k_len)
        )
        table = draw(bool_tables((entries, heads, rows, keys)))
        known = table.tolist()
        table = table if entries > 1 else table[0] if heads > 1 else table[0, 0]
        return (
            masks.dense(table),
            lambda b, h, i, p, j: known[b % entries][h % heads][i % rows][j % keys],
        )
    one, one_rule = draw(masks_with_rules(sizes, depth - 1))
    if kind == "not":
        return ~one, lambda *at: not one_rule(*at)
    two, two_rule = draw(masks_with_rules(sizes, depth - 1))
    if kind == "and":
        return one & two, lambda *at: one_rule(*at) and two_rule(*at)
    return one | two, lambda *at: one_rule(*at) or two_rule(*at)


@st.composite
def masks_of_distance_with_rules(draw, kind):
    few = st.integers(0, 2)
    if kind == "dilated":
        left, right, gap = draw(few), draw(few), draw(few)
        allowed = {n * (gap + 1) for n in range(-left, right + 1)}
        return masks.dilated(left, right, gap), lambda b, h, i, p, j: j - p in allowed
    if kind == "strided":
        stride = draw(st.integers(1, 3))
        return masks.strided(stride), lambda b, h, i, p, j: abs(p - j) % stride == 0
    n = draw(few)
    return masks.global_tokens(n), lambda b, h, i, p, j: j < n or 0 <= p < n


@st.composite
def masks_of_parts_with_rules(draw, kind, sizes):
    """Documents, or blocks; a query outside of them attends nothing."""
    entries = draw(st.sampled_from([1, *sizes.batch[-1:]]))
    if kind == "document":
        ids = [[draw(st.integers(0, 2)) for _ in range(sizes.k_len)] for _ in range(entries)]
        return (
            masks.document(ids if entries > 1 else ids[0]),
            lambda b, h, i, p, j: (
                0 <= p < sizes.k_len and ids[b % entries][p] == ids[b % entries][j]
            ),
        )
    block_size = draw(st.integers(1, 3))
    heads = draw(st.sampled_from([1, sizes.heads]))
    q_blocks, k_blocks = draw(st.integers(1, 4)), -(-sizes.k_len // block_size)
    layout = draw(bool_tables((entries, heads, q_blocks, k_blocks)))
    known = layout.tolist()
    layout = layout if entries > 1 else layout[0] if heads > 1 else layout[0, 0]
    return (
        masks.block_sparse(layout, block_size),
        lambda b, h, i, p, j: (
            0 <= p < q_blocks * block_size
            and known[b % entries][h % heads][p // block_size][j // block_size]
        ),
    )


@st.composite
def bool_tables(draw, shape):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    share = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return torch.rand(shape, generator=generator) < share


def drawn_offsets(sizes, *, may_be_left_out):
    """Positions of query 0: nothing, one number, or one for each batch entry."""
    one = st.integers(-3, 4)
    choices = one
    if sizes.batch:
        choices |= st.lists(one, min_size=sizes.batch[-1], max_size=sizes.batch[-1])
    return st.none() | choices if may_be_left_out else choices


@st.composite
def drawn_masks(draw, sizes):
    """The arguments ``mask`` and ``q_offset``, and the table of what they allow."""
    kind = draw(st.sampled_from(["none", "table", "mask", "mask"]))
    if kind == "none":
        return {}, torch.ones(sizes.full, dtype=torch.bool)
    if kind == "table":
        table = draw(bool_tables(broadcasting_shape(draw, sizes.full)))
        return {"mask": table}, table.expand(sizes.full)
    mask, rule = draw(masks_with_rules(sizes))
    may_be_left_out = not mask.uses_positions or sizes.q_len == sizes.k_len
    q_offset = draw(drawn_offsets(sizes, may_be_left_out=may_be_left_out))
    given_offset = torch.tensor(q_offset) if isinstance(q_offset, list) else q_offset
    return {"mask": mask, "q_offset": given_offset}, table_of_rule(rule, sizes, q_offset)


def broadcasting_shape(draw, full):
    """A shape that broadcasts to ``full``: some dimensions are 1, some in front are missing."""
    shape = tuple(draw(st.sampled_from([1, size])) for size in full)
    return shape[draw(st.integers(0, len(full))) :]


@st.composite
def drawn_calls(draw, *, score=True, normalizer=True, softcap=True, dtype=torch.float64):
    """A call; what the fused kernel cannot do is left out on demand."""
    sizes = draw(drawn_sizes())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    has_full_batch = draw(st.integers(0, 2))
    query_batch, key_batch, value_batch = (
        sizes.batch if i == has_full_batch else broadcasting_shape(draw, sizes.batch)
        for i in range(3)
    )
    mask_options, allowed = draw(drawn_masks(sizes))
    call = Call(
        query=normal(*query_batch, sizes.heads, sizes.q_len, sizes.width),
        key=normal(*key_batch, sizes.kv_heads, sizes.k_len, sizes.width),
        value=normal(*value_batch, sizes.kv_heads, sizes.k_len, sizes.value_width),
        allowed=allowed,
        options=dict(mask_options),
    )
    numbers = {"scale": st.sampled_from([None, 0.0, 0.3, 2.0, -1.0])}
    if softcap:
        numbers["softcap"] = st.sampled_from([None, None, 0.5, 5.0])
    for name, choices in numbers.items():
        call.options[name] = call.plain_options[name] = draw(choices)
    if draw(st.booleans()):
        bias = normal(*broadcasting_shape(draw, sizes.full))
        if draw(st.booleans()):
            bias = bias.masked_fill(bias > 0.8, -torch.inf)
        call.options["bias"] = call.plain_options["bias"] = bias
    for name, choices, wanted in (
        ("score", SCORES, score),
        ("normalizer", NORMALIZERS, normalizer),
    ):
        choice = draw(st.sampled_from([None, *choices])) if wanted else None
        call.plain_options[name] = choice
        call.options[name] = None if choice is None else choices[choice]
    return call
