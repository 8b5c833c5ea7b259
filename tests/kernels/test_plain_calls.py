"""The short way of a plain call is no other way: the same bits, and the same errors."""

import sys
from itertools import product

import pytest
import torch

from attn_core import attention, kernels, masks
from attn_core.arguments import check_arguments
from attn_core.kernels import plain, sdpa

SHAPES = [(2, 3, 4, 8), (2, 3, 1, 8), (1, 3, 4, 8), (2, 1, 4, 8), (2, 3, 4, 6), (2, 3, 0, 8)]
SHAPES += [(2, 0, 4, 8), (0, 3, 4, 8), (2, 3, 4, 0), (3, 4, 8), (4, 8), (8,), (), (1, 2, 3, 4, 8)]
RIGHT = (2, 3, 4, 8)


def by_the_long_way(query, key, value, mask=None, scale=None, dropout_p=0.0, q_offset=None):
    """The output of all checks and of the kernel that is chosen; or the error."""
    arguments = check_arguments(
        query, key, value, mask=mask, scale=scale, dropout_p=dropout_p, q_offset=q_offset
    )
    assert kernels.choosing.choose(arguments).kernel == "sdpa"
    output = sdpa.run(arguments)[0]
    return output[0] if arguments.without_heads else output


def assert_same(call, options, *, is_plain=None):
    """The short way gives what the long one gives, bit for bit, or leaves the call to it."""
    given = {"mask": None, "scale": None, "dropout_p": 0.0, "q_offset": None} | options
    short = plain.run(*call, *given.values())
    if is_plain is not None:
        assert (short is not None) == is_plain, options
    if short is not None:
        assert torch.equal(short, by_the_long_way(*call, **options))


def tensors(*shapes, **kind):
    return [
        torch.linspace(-1, 1, torch.Size(shape).numel(), **kind).reshape(shape) for shape in shapes
    ]


@pytest.mark.parametrize("mask", [None, masks.causal()], ids=["plain", "causal"])
def test_whatever_the_shapes_nothing_is_let_through_that_would_be_refused(mask):
    taken = 0
    for shapes in product(SHAPES, repeat=3):
        call = tensors(*shapes)
        short = plain.run(*call, mask, None, 0.0, None)
        if short is not None:
            taken += 1
            assert torch.equal(short, by_the_long_way(*call, mask=mask)), shapes
    # Two lengths meet in four ways, of which two are causal; three other shapes meet themselves.
    assert taken == (7 if mask is None else 5)


@pytest.mark.parametrize(
    ("options", "is_plain"),
    [
        ({}, True),
        ({"scale": 0.3}, True),
        ({"scale": 1}, False),
        ({"scale": 0.0}, False),
        ({"scale": -1.0}, False),
        ({"scale": True}, False),
        ({"scale": float("nan")}, False),
        ({"scale": float("inf")}, False),
        ({"dropout_p": 0.1}, False),
        ({"dropout_p": False}, False),
        ({"dropout_p": None}, False),
        ({"q_offset": 2}, True),
        ({"q_offset": True}, False),
        ({"q_offset": 2.0}, False),
        ({"q_offset": torch.tensor(2)}, False),
        ({"mask": masks.causal()}, True),
        ({"mask": masks.causal(), "q_offset": 0}, True),
        ({"mask": masks.causal(), "q_offset": -1}, False),
        ({"mask": masks.causal(), "q_offset": 1}, False),
        ({"mask": masks.causal(), "q_offset": 2}, False),
        ({"mask": masks.causal(), "q_offset": 3}, True),
        ({"mask": masks.causal(), "scale": -1.0}, False),
        ({"mask": masks.window(1, 0)}, False),
        ({"mask": masks.window(None, 0)}, False),
        ({"mask": torch.ones(4, 4)}, False),
        ({"mask": torch.ones(4, 4, dtype=torch.bool)}, False),
        ({"mask": "causal"}, False),
    ],
)
def test_which_options_are_plain(options, is_plain):
    assert_same(tensors(RIGHT, RIGHT, RIGHT), options, is_plain=is_plain)


@pytest.mark.parametrize("q_offset", [None, -1, 0, 1, 2, 3, 4])
@pytest.mark.parametrize("q_len", [1, 2, 5])
def test_a_causal_call_of_another_length_is_plain_only_where_nothing_is_hidden(q_len, q_offset):
    call = tensors((2, 3, q_len, 8), RIGHT, RIGHT)
    hides_nothing = q_offset is not None and q_offset >= 3
    options = {"mask": masks.causal(), "q_offset": q_offset}
    assert_same(call, options, is_plain=hides_nothing)


class OwnTensor(torch.Tensor):
    """A tensor with a mind of its own."""


KINDS = {
    "float32": lambda x: x,
    "float64": lambda x: x.double(),
    "bfloat16": lambda x: x.bfloat16(),
    "int64": lambda x: x.long(),
    "bool": lambda x: x > 0,
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "own class": lambda x: x.as_subclass(OwnTensor),
    "parameter": torch.nn.Parameter,
    "array": lambda x: x.numpy(),
    "none": lambda x: None,
}


def test_only_tensors_of_one_kind_are_plain():
    call = tensors(RIGHT, RIGHT, RIGHT)
    for names in product(KINDS, repeat=3):
        mixed = [KINDS[name](x) for name, x in zip(names, call, strict=True)]
        is_plain = len(set(names)) == 1 and names[0] in ("float32", "float64", "bfloat16")
        assert_same(mixed, {}, is_plain=is_plain)


def test_a_plain_call_obeys_what_stands_around_it():
    """A kernel that is fixed, autocast, a recording, and the wish for weights."""
    call = tensors(RIGHT, RIGHT, RIGHT)
    with kernels.use("explicit"):
        assert_same(call, {}, is_plain=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(call, {}, is_plain=False)
        assert attention(*call).dtype == torch.bfloat16
    assert attention(*call, return_weights=True).weights.shape == (2, 3, 4, 4)


def test_a_plain_call_asks_little():
    """The way is short, or it is of no use: calls of Python functions are what takes the time."""
    call, calls = tensors(RIGHT, RIGHT, RIGHT), []
    for options in ({}, {"mask": masks.causal()}):
        attention(*call, **options)
        calls.clear()
        sys.setprofile(lambda frame, event, _: event == "call" and calls.append(frame.f_code))
        try:
            attention(*call, **options)
        finally:
            sys.setprofile(None)
        assert len(calls) <= 14, [code.co_qualname for code in calls]
