"""BERT in NumPy gives what BERT in PyTorch gives, on a small model and on the packaged one."""

import numpy as np
import pytest
import torch
from refusals import assert_refuses
from torch import nn

from attn_core import interpret, reference
from attn_core.data import pretrained
from attn_core.models.bert import BERT

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
SENTENCES = [
    "The bank was flooded after the heavy rain.",
    "Attention!",
    "Naïve readers — 42 of them — unbelievably misread 注意力.",
]


def small():
    torch.manual_seed(0)
    model = BERT(13, 16, 4, 3, hidden_dim=24, max_len=12).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model, {name: array.detach().numpy() for name, array in model.named_parameters()}


def tokens(*lengths):
    ids = np.random.default_rng(1).integers(1, 13, size=(len(lengths), max(lengths)))
    is_token = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return np.where(is_token, ids, 0), is_token


def recorded(model, *args, **options):
    with torch.no_grad(), interpret.record(model) as layers:
        states = model(*args, **options)
    return states.numpy(), np.stack([calls[0].numpy() for calls in layers.values()], axis=1)


def test_states_and_weights_are_those_of_torch():
    model, parameters = small()
    ids, is_token = tokens(9, 4, 1)
    segments = np.arange(9) % 2
    states, weights = recorded(
        model,
        torch.tensor(ids),
        torch.tensor(is_token),
        segments=torch.tensor(segments).expand(3, -1),
    )
    seen = reference.bert(ids, parameters, heads=4, is_token=is_token, segments=segments)
    assert seen.weights.shape == (3, 3, 4, 9, 9)
    np.testing.assert_allclose(seen.states, states, **TOLERANCE)
    np.testing.assert_allclose(seen.weights, weights, **TOLERANCE)
    vectors = reference.sentence_vector(seen.states, is_token)
    with torch.no_grad():
        expected = model.embed(torch.tensor(ids), torch.tensor(is_token)).numpy()
    without = reference.bert(ids, parameters, heads=4, is_token=is_token).states
    np.testing.assert_allclose(reference.sentence_vector(without, is_token), expected, **TOLERANCE)
    assert not np.allclose(vectors, expected)


def test_a_text_alone_is_a_text_in_a_padded_batch():
    _, parameters = small()
    ids, is_token = tokens(9, 4)
    together = reference.bert(ids, parameters, heads=4, is_token=is_token)
    alone = reference.bert(ids[1, :4], parameters, heads=4)
    np.testing.assert_allclose(together.states[1, :4], alone.states, **TOLERANCE)
    np.testing.assert_allclose(together.weights[1, ..., :4, :4], alone.weights, **TOLERANCE)
    assert not together.weights[1, ..., :4, 4:].any()


def test_a_text_without_tokens_has_a_vector_of_zeros():
    states = np.full((2, 3, 4), np.nan)
    assert not reference.sentence_vector(states, np.zeros((2, 3), dtype=bool)).any()


@pytest.fixture(scope="module")
def minilm():
    return BERT.from_safetensors(pretrained.minilm_folder())


@pytest.fixture(scope="module")
def arrays():
    return pretrained.minilm_arrays()


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_packaged_model_in_float32(minilm, arrays, sentence):
    parameters, vocabulary = arrays
    numbers = {token: number for number, token in enumerate(vocabulary)}
    ids = [numbers[token] for token in reference.word_pieces(sentence, numbers)]
    assert ids == pretrained.minilm_tokenizer().encode(sentence).ids
    seen = reference.bert(ids, parameters, heads=12)
    assert seen.states.dtype == seen.weights.dtype == np.float32
    states, weights = recorded(minilm, torch.tensor([ids]))
    np.testing.assert_allclose(seen.states, states[0], atol=1e-5)
    np.testing.assert_allclose(seen.weights, weights[0], atol=1e-5)
    with torch.no_grad():
        expected = minilm.embed(torch.tensor([ids]))[0].numpy()
    np.testing.assert_allclose(reference.sentence_vector(seen.states), expected, atol=1e-6)


MODEL, GOOD = small()
IDS = [1, 2, 3]
NAME = "encoder.blocks.1.feed_forward.outer.weight"


def call(ids=IDS, parameters=GOOD, heads=4, **options):
    return lambda: reference.bert(ids, parameters, heads=heads, **options)


def without(name):
    return {key: array for key, array in GOOD.items() if not key.startswith(name)}


REFUSED = {
    "ids floats": (call([1.0]), TypeError, ["ids", "float64"]),
    "ids one number": (call(1), ValueError, ["ids", "(..., L)"]),
    "ids too large": (call([13]), ValueError, ["ids", "12", "13"]),
    "ids negative": (call([-1]), ValueError, ["ids", "-1"]),
    "too long": (call([1] * 13), ValueError, ["ids", "13", "12"]),
    "segments": (call(segments=2), ValueError, ["segments", "1", "2"]),
    "heads": (call(heads=0), ValueError, ["heads", "0"]),
    "is_token numbers": (call(is_token=np.ones(3)), TypeError, ["is_token", "bool"]),
    "is_token shape": (call(is_token=np.ones(4, bool)), ValueError, ["is_token", "(3,)", "(4,)"]),
    "parameters list": (call(parameters=[]), TypeError, ["parameters", "list"]),
    "no table": (call(parameters=without("position")), ValueError, ["position.weight"]),
    "no layers": (call(parameters=without("encoder")), ValueError, ["layers", "[]"]),
    "a layer is missing": (call(parameters=without("encoder.blocks.1")), ValueError, ["[0, 2]"]),
    "an array is missing": (call(parameters=without(NAME)), ValueError, ["missing", NAME[17:]]),
    "no norm": (call(parameters=without("embedding_norm")), ValueError, ["embedding_norm.weight"]),
    "vector list": (lambda: reference.sentence_vector([[1.0]]), TypeError, ["states", "list"]),
    "vector is_token": (
        lambda: reference.sentence_vector(np.ones((3, 2)), np.ones(2, bool)),
        ValueError,
        ["is_token", "(3,)", "(2,)"],
    ),
}


@pytest.mark.parametrize(
    ("call", "raises", "says"), [pytest.param(*row, id=name) for name, row in REFUSED.items()]
)
def test_bad_input_is_refused_by_name(call, raises, says):
    assert_refuses(call, raises, says)
