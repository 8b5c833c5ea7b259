"""Generators: reading in pieces has to give what reading at once gives."""

import pytest
import torch
from torch import nn

from attn_core import masks
from attn_core.diagnosis import diagnose
from attn_core.models.gpt import GPT
from attn_core.modules import KVCache, MultiHeadAttention
from attn_core.positions import SinusoidalEncoding

INPUTS = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0))


class Writer(nn.Module):
    def __init__(self, mask=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = MultiHeadAttention(8, 2)
        self.encoding = SinusoidalEncoding(8)
        self.mask = mask

    def new_cache(self):
        return KVCache()

    def forward(self, x, cache=None):
        offset = 0 if cache is None else cache.length
        return self.layer(self.encoding(x, offset=offset), mask=masks.causal(), cache=cache)


class StartsAgain(Writer):
    """Every new piece begins at position 0."""

    def forward(self, x, cache=None):
        return self.layer(self.encoding(x), mask=masks.causal(), cache=cache)


class Forgets(Writer):
    def forward(self, x, cache=None):
        return self.layer(x, mask=masks.causal())


class SeesTheFuture(Writer):
    def forward(self, x, cache=None):
        return self.layer(x, mask=None if cache is None else masks.causal(), cache=cache)


@pytest.mark.parametrize(
    ("writer", "mistakes"),
    [
        (Writer, []),
        (StartsAgain, ["cache differs"]),
        (Forgets, ["cache forgets"]),
        (SeesTheFuture, ["full pass sees the future", "cache differs"]),
    ],
)
def test_a_cache_that_goes_wrong_is_named(writer, mistakes):
    report = diagnose(writer(), inputs=INPUTS)
    assert [one.name for one in report.mistakes] == mistakes, str(report)
    assert bool(report) == (not mistakes)


def test_the_position_at_which_it_goes_wrong_is_told():
    assert "from position 1 on" in str(diagnose(StartsAgain(), inputs=INPUTS))


def test_a_function_and_its_step():
    def full(x):
        return x.cumsum(1)

    def step(piece, total):
        sums = piece.cumsum(1) + (0 if total is None else total)
        return sums, sums[:, -1:]

    assert diagnose(full, step=step, inputs=INPUTS)
    report = diagnose(full, step=lambda piece, state: (piece.cumsum(1), None), inputs=INPUTS)
    assert [one.name for one in report.mistakes] == ["cache forgets"]


def test_a_language_model_is_asked_with_tokens():
    torch.manual_seed(0)
    model = GPT(30, dim=16, heads=2, layers=2, max_len=12).train()
    assert diagnose(model)
    assert model.training


@pytest.mark.parametrize(
    ("full", "step", "says"),
    [
        (lambda x: x.numpy(), lambda x, state: (x.numpy(), None), None),
        (lambda x: "words", lambda x, state: (x, None), "it returns str"),
        (lambda x: x.sum(), lambda x, state: (x, None), "for every token"),
        (lambda x: x / 0, lambda x, state: (x, None), "NaN or infinity"),
        (lambda x: x, lambda x, state: x, "not an output and a state"),
        (lambda x: x, lambda x, state: (None, None), "it returns NoneType"),
        (lambda x: x, lambda x, state: (x.sum(), None), "do not make a sequence"),
    ],
)
def test_whatever_a_generator_returns_there_is_a_report(full, step, says):
    report = diagnose(full, step=step, inputs=INPUTS)
    assert bool(report) == (says is None), str(report)
    assert says is None or says in report.trouble


def test_a_step_that_gives_nan_is_named():
    report = diagnose(lambda x: x, step=lambda x, state: (x / (x != x), None), inputs=INPUTS)
    assert [one.name for one in report.mistakes] == ["cache differs"]
    assert "from position 0 on" in str(report)


def test_a_generator_that_crashes_gets_a_report():
    def step(piece, state):
        raise IndexError("position")

    assert "IndexError" in str(diagnose(lambda x: x, step=step, inputs=INPUTS))
