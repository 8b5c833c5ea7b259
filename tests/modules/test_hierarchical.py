"""Hierarchical attention: words make sentences, sentences make documents, padding makes nothing."""

import pytest
import torch
from torch import nn

from attn_core.modules import AttentionPooling, HierarchicalAttention

TOLERANCE = {"rtol": 1e-11, "atol": 1e-11}


class Running(nn.Module):
    """An encoder by which a sentence hears of those before it; widths 4 to 6."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 3, batch_first=True, bidirectional=True)

    def forward(self, sentences):
        return self.gru(sentences)[0]


def make_layer(**options):
    torch.manual_seed(0)
    layer = HierarchicalAttention(4, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def words(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# The documents have sentences of 3, 1 and 2 words; of 2 words, of none, and of 1; and no sentence.
LENGTHS = torch.tensor([[3, 1, 2], [2, 0, 1], [0, 0, 0]])
MASK = torch.arange(3) < LENGTHS[..., None]


def pool(x, project, query):
    keys = torch.tanh(x @ project.weight.T + project.bias)
    weights = torch.softmax(keys @ query, 0)
    return weights @ x, weights


def test_it_is_the_formula_of_the_paper():
    layer, x = make_layer(hidden_dim=5), words(3, 3, 3, 4)
    seen = layer(x, mask=MASK, return_weights=True)
    for entry, lengths in enumerate(LENGTHS.tolist()):
        sentences, numbers = [], [i for i, length in enumerate(lengths) if length]
        for i in numbers:
            real = x[entry, i, : lengths[i]]
            sentence, weights = pool(real, layer.word_proj, layer.word_query)
            sentences.append(sentence)
            torch.testing.assert_close(
                seen.word_weights[entry, i, : lengths[i]], weights, **TOLERANCE
            )
        if numbers:
            document, weights = pool(
                torch.stack(sentences), layer.sentence_proj, layer.sentence_query
            )
            torch.testing.assert_close(seen.output[entry], document, **TOLERANCE)
            torch.testing.assert_close(seen.sentence_weights[entry, numbers], weights, **TOLERANCE)


@pytest.mark.parametrize("encoded", [False, True])
def test_what_is_empty_is_zero_and_takes_no_part(encoded):
    options = {"sentence_encoder": Running(), "sentence_dim": 6} if encoded else {}
    layer, x = make_layer(**options), words(3, 3, 3, 4).requires_grad_()
    output, word_weights, sentence_weights = layer(x, mask=MASK, return_weights=True)
    assert output.shape == (3, 6 if encoded else 4)
    assert (word_weights[~MASK] == 0).all()
    assert (sentence_weights[LENGTHS == 0] == 0).all()
    assert (output[2] == 0).all()
    real = (LENGTHS > 0).double()
    torch.testing.assert_close(word_weights.sum(-1), real, **TOLERANCE)
    torch.testing.assert_close(sentence_weights.sum(-1), real.amax(-1), **TOLERANCE)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    assert (gradient[~MASK] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("encoded", [False, True])
def test_poisoned_padding_reaches_nothing(encoded):
    options = {"sentence_encoder": Running(), "sentence_dim": 6} if encoded else {}
    layer, results = make_layer(**options), []
    for poison in (0.0, torch.nan, torch.inf):
        x = words(3, 3, 3, 4).masked_fill(~MASK[..., None], poison).requires_grad_()
        seen = layer(x, mask=MASK, return_weights=True)
        gradients = torch.autograd.grad(seen.output.sum(), [x, *layer.parameters()])
        results.append([*seen, *gradients])
    for seen in results:
        for one, two in zip(seen, results[0], strict=True):
            assert torch.equal(one, two)
            assert one.isfinite().all()


def test_padding_changes_nothing():
    layer, x = make_layer(), words(1, 2, 3, 4)
    padded = torch.cat([x, words(1, 2, 2, 4, seed=5)], 2)  # two words more in each sentence
    padded = torch.cat([padded, words(1, 3, 5, 4, seed=6)], 1)  # and three sentences more
    mask = torch.zeros(1, 5, 5, dtype=torch.bool)
    mask[:, :2, :3] = True
    torch.testing.assert_close(layer(padded, mask=mask), layer(x), **TOLERANCE)


def test_without_an_encoder_the_order_of_words_and_of_sentences_does_not_matter():
    layer, x = make_layer(), words(2, 3, 4, 4)
    torch.testing.assert_close(layer(x[:, [2, 0, 1]]), layer(x), **TOLERANCE)
    torch.testing.assert_close(layer(x[:, :, [3, 0, 2, 1]]), layer(x), **TOLERANCE)
    # But which word stands in which sentence does.
    moved = x.clone()
    moved[:, 0, 0], moved[:, 1, 0] = x[:, 1, 0], x[:, 0, 0]
    assert not torch.allclose(layer(moved), layer(x))


def test_with_an_encoder_the_order_of_sentences_matters():
    layer = make_layer(sentence_encoder=Running(), sentence_dim=6)
    x = words(2, 3, 4, 4)
    assert not torch.allclose(layer(x[:, [2, 0, 1]]), layer(x))


def test_one_sentence_is_its_own_document():
    layer, x = make_layer(), words(2, 1, 5, 4)
    seen = layer(x, return_weights=True)
    assert torch.equal(seen.sentence_weights, torch.ones(2, 1, dtype=torch.float64))
    pooling = AttentionPooling(4).double()
    with torch.no_grad():
        pooling.query.zero_()
        layer.word_query.zero_()
    torch.testing.assert_close(layer(x), pooling(x[:, 0]), **TOLERANCE)


def test_asking_for_weights_changes_no_bit():
    layer, x = make_layer(), words(3, 3, 3, 4)
    assert torch.equal(layer(x, mask=MASK), layer(x, mask=MASK, return_weights=True).output)


def test_it_learns_which_sentence_and_which_word_matter():
    """The document is to be one of its words, which bears a mark."""
    torch.manual_seed(0)
    x = torch.randn(128, 4, 5, 4)
    every, sentence, word = torch.arange(128), torch.randint(4, (128,)), torch.randint(5, (128,))
    x[..., 3] = 0
    x[every, sentence, word, 3] = 3
    wanted = x[every, sentence, word]
    layer = HierarchicalAttention(4, hidden_dim=8)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(100):
        loss = (layer(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = layer(x, return_weights=True)
    assert (seen.word_weights[every, sentence].argmax(-1) == word).float().mean() > 0.95
    assert (seen.sentence_weights.argmax(-1) == sentence).float().mean() > 0.95


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_exact_as_the_plain_formula(dtype):
    layer, x = make_layer().to(dtype), words(1, 1, 6, 4).to(dtype)
    exact = pool(
        x[0, 0].double(), make_layer().to(dtype).double().word_proj, layer.word_query.double()
    )[0]
    plain, _ = pool(x[0, 0], layer.word_proj, layer.word_query)
    allowed = 2 * (plain.double() - exact).abs().max()
    assert (layer(x)[0].double() - exact).abs().max() <= allowed


def test_it_runs_under_autocast():
    layer, x = make_layer().float(), words(3, 3, 3, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = layer(x, mask=MASK)
    assert (seen - layer(x, mask=MASK)).abs().max() < 0.1
