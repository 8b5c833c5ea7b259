"""Biases add up, as masks combine: with each other, and with a tensor."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from refusals import assert_refuses

from attn_core import attention, kernels, masks
from attn_core.modules import MultiHeadAttention
from attn_core.positions import ALiBi, Bias, ShawBias, T5Bias, TransformerXLBias, distances

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
HEADS, WIDTH, LENGTH = 4, 6, 9


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TABLE = normal(HEADS, LENGTH, LENGTH, seed=5)
BIASES = {
    "ALiBi": ALiBi(HEADS),
    "T5": T5Bias(HEADS, buckets=6, max_distance=5).double(),
    "Shaw": ShawBias(WIDTH, 3).double(),
    "Transformer-XL": TransformerXLBias(HEADS, WIDTH).double(),
}
SUMS = {
    "two of distance": (["ALiBi", "T5"], []),
    "three": (["T5", "ALiBi", "T5"], []),
    "of content": (["Shaw", "ALiBi", "Transformer-XL"], []),
    "with a table": (["ALiBi"], [TABLE]),
    "with a row of keys": (["T5", "Shaw"], [normal(LENGTH)]),
    "with two tables": (["T5"], [TABLE, normal(2, 1, LENGTH, LENGTH)]),
}


def added(names, tables):
    total = BIASES[names[0]]
    for term in [*(BIASES[name] for name in names[1:]), *tables]:
        total = total + term
    return total


def inputs():
    return (normal(2, HEADS, LENGTH, WIDTH, seed=seed).requires_grad_() for seed in (1, 2, 3))


@pytest.mark.parametrize("kernel", ["explicit", "sdpa", "chunked", "banded", None])
@pytest.mark.parametrize(("names", "tables"), SUMS.values(), ids=SUMS)
def test_a_sum_adds_what_each_term_adds(names, tables, kernel):
    query, key, value = inputs()
    bias, mask = added(names, tables), masks.window(4, 1)
    here = distances(LENGTH, LENGTH)
    expected_bias = sum([BIASES[name](query, key, here) for name in names]) + sum(tables)
    trained = [query, key, value, *bias.parameters()]
    expected = attention(query, key, value, mask=mask, bias=expected_bias)
    wanted = torch.autograd.grad(expected.square().sum(), trained)
    fixed = nullcontext() if kernel is None else kernels.use(kernel)
    if tables and kernel in ("chunked", "banded"):
        with fixed, pytest.raises(ValueError, match="number for every pair"):
            attention(query, key, value, mask=mask, bias=bias)
        return
    with fixed:
        seen = attention(query, key, value, mask=mask, bias=bias)
    torch.testing.assert_close(seen, expected, **TOLERANCE)
    gradients = torch.autograd.grad(seen.square().sum(), trained)
    torch.testing.assert_close(gradients, wanted, **TOLERANCE)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_takes_a_sum_without_tables():
    tensors, bias = [x.detach() for x in inputs()], BIASES["ALiBi"] + BIASES["T5"]
    with torch.no_grad():
        expected = attention(*tensors, bias=bias)
        with kernels.use("flex"):
            torch.testing.assert_close(attention(*tensors, bias=bias), expected, **TOLERANCE)
            with pytest.raises(ValueError, match="number for every pair"):
                attention(*tensors, bias=bias + TABLE)


def test_a_tensor_may_come_first_and_is_trained():
    query, key, value = inputs()
    table = TABLE.clone().requires_grad_()
    first, last = (
        torch.autograd.grad(attention(query, key, value, bias=bias).square().sum(), table)[0]
        for bias in (table + ALiBi(HEADS), ALiBi(HEADS) + table)
    )
    assert torch.equal(first, last)
    assert first.norm() > 0


def test_a_sum_is_a_bias_with_a_table_and_a_name():
    bias = ALiBi(HEADS) + BIASES["T5"]
    assert isinstance(bias, Bias)
    expected = ALiBi(HEADS).dense(3, 5, q_offset=2).double() + BIASES["T5"].dense(3, 5, q_offset=2)
    torch.testing.assert_close(bias.dense(3, 5, q_offset=2), expected)
    assert bias.name == "ALiBi + T5Bias"
    torch.testing.assert_close(
        (ALiBi(HEADS) + TABLE).dense(LENGTH, LENGTH), ALiBi(HEADS).double().dense(9, 9) + TABLE
    )


def test_a_sum_is_copied_pickled_and_in_the_state_dict():
    bias = ALiBi(HEADS) + BIASES["T5"] + TABLE
    for twin in (copy.deepcopy(bias), pickle.loads(pickle.dumps(bias))):
        assert torch.equal(twin.dense(LENGTH, LENGTH), bias.dense(LENGTH, LENGTH))
    assert list(bias.state_dict()) == ["biases.1.weight"]


def test_a_layer_takes_a_sum():
    layer, x = MultiHeadAttention(8, HEADS), torch.randn(1, 700, 8)
    bias = ALiBi(HEADS) + T5Bias(HEADS)
    with kernels.use("explicit"):
        expected = layer(x, mask=masks.causal(), bias=bias)
    torch.testing.assert_close(layer(x, mask=masks.causal(), bias=bias), expected)


REFUSED = {
    "a mask": (lambda: ALiBi(4) + masks.causal(), TypeError, ["mask="]),
    "a number": (lambda: 1.0 + ALiBi(4), TypeError, ["float"]),
    "a bool tensor": (lambda: ALiBi(4) + (TABLE > 0), TypeError, ["torch.bool"]),
    "other heads": (lambda: ALiBi(4) + T5Bias(2), ValueError, ["heads", "4", "T5Bias has 2"]),
    "a tensor of other heads": (
        lambda: ALiBi(4) + TABLE[:3],
        ValueError,
        ["heads", "ALiBi has 4", "(3, 9, 9)"],
    ),
    "a tensor of another length": (
        lambda: attention(*inputs(), bias=ALiBi(4) + TABLE[..., :5]),
        ValueError,
        ["bias", "(9, 9)", "(4, 9, 5)"],
    ),
    "a tensor of another dtype": (
        lambda: attention(*inputs(), bias=ALiBi(4) + TABLE.float()),
        TypeError,
        ["bias", "float32", "float64"],
    ),
    "a tensor on another device": (
        lambda: attention(*inputs(), bias=ALiBi(4) + TABLE.to("meta")),
        ValueError,
        ["bias", "meta", "cpu"],
    ),
    "tensors of other batches": (
        lambda: attention(*inputs(), bias=ALiBi(4) + normal(2, 1, 9, 9) + normal(3, 1, 9, 9)),
        ValueError,
        ["broadcast", "(3, 1, 9, 9)", "(2, 4, 9, 9)"],
    ),
    "no offset": (lambda: (ALiBi(4) + ALiBi(4)).dense(2, 3), ValueError, ["q_offset"]),
}


@pytest.mark.parametrize(("call", "raises", "says"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_add_up_is_refused(call, raises, says):
    assert_refuses(call, raises, says)
