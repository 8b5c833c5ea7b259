"""The hierarchical classifier: words make sentences, sentences make a document."""

import random

import pytest
import torch
from torch import nn

from attn_core.data.vocabulary import PAD
from attn_core.models.hierarchical import HierarchicalClassifier, ReadAndAttend
from attn_core.modules import HierarchicalAttention
from attn_core.training import train

DOCUMENTS = torch.tensor(
    [
        [[4, 5, 6, 7], [8, 9, 0, 0], [5, 0, 0, 0]],
        [[9, 4, 0, 0], [6, 0, 0, 0], [0, 0, 0, 0]],
        [[7, 7, 7, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]
)


def make_model(**options):
    torch.manual_seed(0)
    widths = {"embedding_dim": 5, "hidden_dim": 6}
    return HierarchicalClassifier(12, 3, **widths, **options).double().eval()


def by_hand(model, document):
    """One document, a list of lists of words, without padding and without a batch."""
    sentences = []
    for words in document:
        sentences.append(summed_up(model.words, model.embedding(torch.tensor(words))))
    return model.output(summed_up(model.sentences, torch.stack(sentences)))


def summed_up(reader, x):
    states = reader.gru(x[None])[0][0]
    keys = torch.tanh(states @ reader.key_proj.weight.T + reader.key_proj.bias)
    return (keys @ reader.query).softmax(0) @ states


def unpadded(document):
    rows = [[word for word in row if word != PAD] for row in document.tolist()]
    return [row for row in rows if row]


def test_it_is_the_formula_sentence_by_sentence():
    model = make_model()
    expected = torch.stack([by_hand(model, unpadded(document)) for document in DOCUMENTS])
    torch.testing.assert_close(model(DOCUMENTS), expected, rtol=1e-12, atol=1e-12)


def test_its_attention_is_the_layer_hierarchical_attention():
    """Where nothing is padded; the layer's encoder of sentences is not told what is."""
    model = make_model()
    documents = torch.tensor([[[4, 5, 6], [8, 9, 3]], [[7, 7, 1], [2, 5, 4]]])

    class First(nn.Module):
        def forward(self, x):
            return model.sentences.gru(x)[0]

    layer = HierarchicalAttention(12, sentence_encoder=First()).double()
    for ours, theirs in ((model.words, "word"), (model.sentences, "sentence")):
        getattr(layer, f"{theirs}_proj").load_state_dict(ours.key_proj.state_dict())
        getattr(layer, f"{theirs}_query").data = ours.query.data
    states = model.words.gru(model.embedding(documents).flatten(0, 1))[0]
    expected = layer(states.unflatten(0, (2, 2)), return_weights=True)
    result = model.classify(documents)
    torch.testing.assert_close(result.logits, model.output(expected.output))
    torch.testing.assert_close(result.word_weights, expected.word_weights)
    torch.testing.assert_close(result.sentence_weights, expected.sentence_weights)


def test_weights_sum_to_one_and_are_zero_where_nothing_is():
    result = make_model().classify(DOCUMENTS)
    is_word, is_sentence = DOCUMENTS != PAD, (DOCUMENTS != PAD).any(-1)
    assert (result.word_weights[~is_word] == 0).all()
    assert (result.word_weights[is_word] > 0).all()
    assert (result.sentence_weights[~is_sentence] == 0).all()
    assert (result.sentence_weights[is_sentence] > 0).all()
    torch.testing.assert_close(result.word_weights.sum(-1), is_sentence.double())
    torch.testing.assert_close(result.sentence_weights.sum(-1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(result.logits, make_model()(DOCUMENTS))


def test_padding_changes_nothing():
    model = make_model()
    before = model(DOCUMENTS)
    more = nn.functional.pad(DOCUMENTS, (0, 3, 0, 2), value=PAD)
    torch.testing.assert_close(model(more), before, rtol=1e-12, atol=1e-12)
    alone = model(DOCUMENTS[1:2, :2, :2])
    torch.testing.assert_close(alone, before[1:2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nonsense", [100.0, torch.nan])
def test_what_stands_on_padding_reaches_nothing(nonsense):
    model = make_model()
    before = model(DOCUMENTS)
    with torch.no_grad():
        model.embedding.weight[PAD] = nonsense
    after = model(DOCUMENTS)
    assert torch.equal(after, before)
    gradients = torch.autograd.grad(after.sum(), list(model.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("nonsense", [100.0, torch.nan, torch.inf])
def test_what_stands_beyond_the_end_of_a_sequence_reaches_nothing(nonsense):
    torch.manual_seed(0)
    reader = ReadAndAttend(3, 4).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    lengths = torch.tensor([5, 2])
    before = reader(x, lengths)
    x[1, 2:] = nonsense
    after = reader(x, lengths)
    assert torch.equal(after.output, before.output)
    assert torch.equal(after.weights, before.weights)


def test_documents_of_a_batch_do_not_see_each_other():
    model = make_model()
    before = model(DOCUMENTS)
    changed = DOCUMENTS.clone()
    changed[0, 1] = torch.tensor([3, 3, 3, 3])
    after = model(changed)
    torch.testing.assert_close(after[1:], before[1:], rtol=1e-13, atol=1e-13)
    assert not torch.allclose(after[0], before[0])


def test_the_words_of_a_sentence_are_summed_up_before_another_is_seen():
    model = make_model()
    changed = DOCUMENTS.clone()
    changed[0, 1] = torch.tensor([3, 3, 3, 3])
    before, after = model.classify(DOCUMENTS), model.classify(changed)
    for sentence in (0, 2):
        torch.testing.assert_close(
            after.word_weights[0, sentence], before.word_weights[0, sentence]
        )
    assert not torch.allclose(after.sentence_weights[0], before.sentence_weights[0])


def test_every_parameter_gets_a_gradient():
    model = make_model()
    nn.functional.cross_entropy(model(DOCUMENTS), torch.tensor([0, 1, 2])).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_dropout_is_for_training():
    model = make_model(dropout=0.5)
    assert torch.equal(model(DOCUMENTS), model(DOCUMENTS))
    model.train()
    assert not torch.equal(model(DOCUMENTS), model(DOCUMENTS))


def test_it_learns_what_stands_together_which_a_bag_of_words_cannot_know():
    """Every document has the words 1 and 2: in one sentence, or in two."""
    rng = random.Random(0)

    def document(together):
        sentences = [rng.choices(range(3, 20), k=4) for _ in range(3)]
        one, two = rng.sample(range(3), 2)
        places = rng.sample(range(4), 2)
        sentences[one][places[0]] = 1
        sentences[one if together else two][places[1]] = 2
        return sentences

    labels = torch.tensor([i % 2 for i in range(600)])
    documents = torch.tensor([document(bool(label)) for label in labels])
    unseen = slice(400, 600)
    batches = list(torch.randperm(400, generator=torch.Generator().manual_seed(0)).split(40)) * 12

    torch.manual_seed(0)
    model = HierarchicalClassifier(20, 2, embedding_dim=12, hidden_dim=12)
    train(
        model,
        lambda rows: nn.functional.cross_entropy(model(documents[rows]), labels[rows]),
        batches,
        learning_rate=0.02,
    )
    bag = nn.functional.one_hot(documents.flatten(1), 20).sum(1).float()
    baseline = nn.Linear(20, 2)
    train(
        baseline,
        lambda rows: nn.functional.cross_entropy(baseline(bag[rows]), labels[rows]),
        batches,
        learning_rate=0.02,
    )
    right = (model(documents[unseen]).argmax(-1) == labels[unseen]).double().mean()
    by_bag = (baseline(bag[unseen]).argmax(-1) == labels[unseen]).double().mean()
    assert right > 0.9
    assert by_bag < 0.65
    # It looks where the two words are.
    result = model.classify(documents[unseen])
    together = labels[unseen] == 1
    where = (documents[unseen] == 1).any(-1)
    share = (result.sentence_weights * where).sum(-1)[together].mean()
    assert share > 0.8  # of three sentences
