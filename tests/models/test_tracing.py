"""What reads token numbers is compiled in one graph, exported, and called on the meta device."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from attn_core.models.bert import BERT
from attn_core.models.gpt import GPT
from attn_core.models.transformer import Transformer
from attn_core.models.whisper import Whisper
from attn_core.positions import Rotary

SIZES = {"dim": 8, "heads": 2, "layers": 1}
LLAMA = {"rotary": Rotary(), "window": 3, "norm_kind": "rms", "bias": False, "kv_heads": 1}


def tokens(length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 20, (2, length), generator=generator)


def padded(length, seed=1):
    return tokens(length, seed), torch.arange(length) >= torch.tensor([[0], [2]])


MODELS = {
    "gpt": (lambda: GPT(20, **SIZES, max_len=16), lambda n, seed: (tokens(n, seed),)),
    "llama": (lambda: GPT(20, **SIZES, **LLAMA), lambda n, seed: (tokens(n, seed),)),
    "bert": (lambda: BERT(20, **SIZES, max_len=16, pooler=False), padded),
    "transformer": (lambda: Transformer(20, 20, **SIZES), lambda n, seed: (tokens(n, seed),) * 2),
    "whisper": (
        lambda: Whisper(20, **SIZES, bands=4, max_frames=10, max_len=16),
        lambda n, seed: (torch.full((2, 4, 12), 0.1 * seed), tokens(n, seed)),
    ),
}
every_model = pytest.mark.parametrize("name", MODELS)


def made(name):
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    return make().eval(), inputs


@pytest.fixture(autouse=True)
def a_compiler_that_has_seen_nothing():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.no_grad()
def test_one_graph_serves_whatever_the_numbers_are():
    model, inputs = made("bert")
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for seed in (1, 2):
        torch.testing.assert_close(compiled(*inputs(6, seed)), model(*inputs(6, seed)))
    assert counter.frame_count == 1


@torch.no_grad()
def test_one_graph_serves_every_length():
    model, inputs = made("gpt")
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for length, seed in ((6, 1), (6, 2), (9, 3)):
        given = inputs(length, seed)
        torch.testing.assert_close(compiled(*given), model(*given))
    assert counter.frame_count == 1


@torch.no_grad()
@every_model
def test_it_is_exported(name):
    model, inputs = made(name)
    exported = torch.export.export(model, inputs(6, 1)).module()
    torch.testing.assert_close(exported(*inputs(6, 2)), model(*inputs(6, 2)))


@torch.no_grad()
@every_model
def test_what_was_made_on_the_meta_device_gives_shapes_there_and_is_right_when_loaded(name):
    model, inputs = made(name)
    with torch.device("meta"):
        other, _ = made(name)
    expected = model(*inputs(6, 1))
    assert other(*(x.to("meta") for x in inputs(6, 1))).shape == expected.shape
    other.to_empty(device="cpu").load_state_dict(model.state_dict())
    torch.testing.assert_close(other(*inputs(6, 1)), expected)


def test_padding_in_front_compiles_too():
    model, (ids, is_token) = GPT(20, **SIZES, **LLAMA).eval(), padded(6)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(ids, is_token=is_token), model(ids, is_token=is_token))


def test_numbers_are_still_read_where_they_can_be():
    model = GPT(20, **SIZES, max_len=16)
    with pytest.raises(ValueError, match="ids must hold numbers from 0 to 19, got 1 to 20"):
        model(torch.tensor([[1, 20]]))
