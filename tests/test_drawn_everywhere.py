"""Kernels × normalisers × masks × biases × offsets × groups, drawn at random: all agree.

Every kernel that takes a drawn call gives what the explicit one gives, in output, weights and
gradients; and the explicit one gives what attention row by row gives.
"""

from collections import Counter
from functools import partial
from importlib import import_module

import pytest
import torch
from drawn_calls import masks_with_rules
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_attention import plain_attention
from small_blocks import small_blocks

from attn_core import attention, kernels, masks, normalizers, positions
from attn_core.arguments import check_arguments

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
KERNELS = {
    name: import_module(f"attn_core.kernels.{name}")
    for name in ("sdpa", "banded", "chunked", "flex")
}
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
NORMALIZERS = {
    "default": None,
    "softmax": normalizers.softmax,
    "temperature": partial(normalizers.softmax, temperature=0.6),
    "sink": partial(normalizers.softmax_with_sink, sink=0.4),
    "off by one": normalizers.softmax_with_sink,
    "sparsemax": normalizers.sparsemax,
    "entmax15": normalizers.entmax15,
    "entmax": partial(normalizers.entmax, alpha=1.3),
    "sigmoid": normalizers.sigmoid,
}
BIASES = {
    "ALiBi": lambda sizes: positions.ALiBi(sizes.heads),
    "T5": lambda sizes: positions.T5Bias(sizes.heads, buckets=8, max_distance=9),
    "T5 of one direction": lambda sizes: positions.T5Bias(
        sizes.heads, buckets=8, max_distance=9, bidirectional=False
    ),
    "Shaw": lambda sizes: positions.ShawBias(sizes.width, max_distance=4, heads=sizes.heads),
    "Transformer-XL": lambda sizes: positions.TransformerXLBias(sizes.heads, sizes.width),
}


class Drawn:
    """A call: its tensors, its options, and what is special in it by name."""

    def __init__(self, draw):
        self.batch = draw(st.sampled_from([(), (2,)]))
        self.kv_heads, self.group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
        self.heads = self.kv_heads * self.group
        self.q_len, self.k_len = draw(st.integers(1, 14)), draw(st.integers(1, 14))
        self.width = 2 * draw(st.integers(1, 2))
        torch.manual_seed(draw(st.integers(0, 10**6)))
        self.tensors = [
            torch.randn(*self.batch, heads, length, self.width, dtype=torch.float64)
            for heads, length in (
                (self.heads, self.q_len),
                (self.kv_heads, self.k_len),
                (self.kv_heads, self.k_len),
            )
        ]
        self.mask, self.normalizer, self.bias = (
            draw(st.sampled_from([*names])) for names in (MASKS, NORMALIZERS, ["none", *BIASES])
        )
        offsets = st.integers(-4, 12)
        if self.batch:
            offsets |= st.lists(offsets, min_size=2, max_size=2).map(torch.tensor)
        self.options = {
            "mask": MASKS[self.mask](draw, self),
            "normalizer": NORMALIZERS[self.normalizer],
            "q_offset": draw(offsets),
            "softcap": draw(st.sampled_from([None, None, 1.5])),
            "scale": draw(st.sampled_from([None, 0.8, -0.5])),
            "bias": None if self.bias == "none" else BIASES[self.bias](self).double(),
        }

    @property
    def full(self):
        return (*self.batch, self.heads, self.q_len, self.k_len)

    def __repr__(self):
        return f"{self.full} {self.mask}, {self.normalizer}, {self.bias}: {self.options}"


def few(draw, least=0, most=4):
    return draw(st.integers(least, most))


def document(draw, sizes):
    shape = (2, sizes.k_len) if sizes.batch else (sizes.k_len,)
    steps = torch.rand(shape, generator=torch.Generator().manual_seed(few(draw, 0, 99))) < 0.3
    return masks.document(steps.int().cumsum(-1))


def block_sparse(draw, sizes):
    size = few(draw, 1, 4)
    shape = (few(draw, 1, 20), -(-sizes.k_len // size))
    layout = torch.rand(shape, generator=torch.Generator().manual_seed(few(draw, 0, 99)))
    return masks.block_sparse(layout < 0.6, size)


MASKS = {
    "none": lambda draw, sizes: None,
    "window": lambda draw, sizes: masks.window(few(draw), few(draw)),
    "dilated": lambda draw, sizes: masks.dilated(few(draw), few(draw), few(draw, 0, 2)),
    "strided": lambda draw, sizes: masks.strided(few(draw, 1, 4)) & masks.window(9, 9),
    "document": document,
    "document and window": lambda draw, sizes: document(draw, sizes) & masks.window(few(draw), 3),
    "blocks": block_sparse,
    "Longformer": lambda draw, sizes: masks.longformer(2 * few(draw), few(draw)),
    "sparse Transformer": lambda draw, sizes: masks.sparse_transformer(few(draw, 1, 4)),
    "composed": lambda draw, sizes: draw(masks_with_rules(sizes))[0],
    "composed in a window": lambda draw, sizes: (
        draw(masks_with_rules(sizes))[0] & masks.window(few(draw), few(draw))
    ),
}


@st.composite
def drawn(draw):
    return Drawn(draw)


def results(kernel, call, *, learns=True):
    """Output, weights, and the gradients of query, key, value and what a bias has learned."""
    tensors = [x.clone().requires_grad_(learns) for x in call.tensors]
    bias = call.options["bias"]
    with kernels.use(kernel), torch.set_grad_enabled(learns):
        output, weights = attention(*tensors, return_weights=True, **call.options)
    if not learns:
        return [output, weights]
    inputs = tensors + ([] if bias is None else list(bias.parameters()))
    grad_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).double()
    gradients = torch.autograd.grad(output, inputs, grad_output, materialize_grads=True)
    return [output, weights, *gradients]


def assert_agrees(kernel, call):
    learns = kernel != "flex"  # which has no backward on the CPU
    expected = results("explicit", call, learns=learns)
    for seen, wanted in zip(results(kernel, call, learns=learns), expected, strict=True):
        assert torch.isfinite(wanted).all()
        torch.testing.assert_close(seen, wanted, **TOLERANCE)


def can(kernel, call):
    with torch.no_grad():
        return KERNELS[kernel].refusal(check_arguments(*call.tensors, **call.options)) is None


# A kernel that refuses what was drawn is asked again; how often, depends on what it can do.
EXAMPLES = {"sdpa": 60, "banded": 100, "chunked": 60, "flex": 15}
LEAST = {
    "sdpa": {"mask": 6, "normalizer": 2, "bias": 5},
    "banded": {"mask": 5, "normalizer": 6, "bias": 5},
    "chunked": {"mask": 6, "normalizer": 4, "bias": 5},
    "flex": {"mask": 4, "normalizer": 2, "bias": 3},
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_gives_what_the_explicit_one_gives(kernel):
    seen = Counter()

    @settings(max_examples=EXAMPLES[kernel])
    @given(drawn().filter(lambda call: can(kernel, call)), st.integers(1, 5), st.integers(1, 5))
    def compare(call, rows, keys):
        with small_blocks(rows, keys):
            assert_agrees(kernel, call)
        seen.update([("mask", call.mask), ("normalizer", call.normalizer), ("bias", call.bias)])

    compare()
    # So that it cannot pass by refusing.
    kinds = Counter(kind for kind, _ in seen)
    least = LEAST[kernel]
    assert all(kinds[kind] >= least[kind] for kind in least), kinds


@settings(max_examples=60)
@given(drawn())
def test_the_explicit_kernel_gives_attention_row_by_row(call):
    """With every mask and bias; the row-by-row formula knows softmax and sparsemax."""
    normalizer = {"sparsemax": "sparsemax"}.get(call.normalizer, "softmax")
    options = dict(call.options, normalizer=getattr(normalizers, normalizer))
    query, key, value = call.tensors
    allowed = torch.ones(call.full, dtype=torch.bool)
    if options["mask"] is not None:
        table = options["mask"].dense(call.q_len, call.k_len, options["q_offset"])
        allowed = table.reshape((1,) * (4 - table.ndim) + table.shape).expand(
            *(call.batch or (1,)), *call.full[-3:]
        )
        allowed = allowed.reshape(call.full)
    bias = options["bias"]
    if bias is not None:
        distance = positions.distances(call.q_len, call.k_len, options["q_offset"])
        bias = bias(query, key, distance).expand(call.full)
    with kernels.use("explicit"), torch.no_grad():
        seen = attention(query, key, value, return_weights=True, **options)
    expected = plain_attention(
        query,
        key,
        value,
        allowed,
        bias=bias,
        normalizer=normalizer,
        scale=options["scale"],
        softcap=options["softcap"],
    )
    for one, two in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, two.detach(), rtol=1e-12, atol=1e-12)
