import json
import shutil

import pytest
import torch
from gradients import unreached
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from attn_core.data import pretrained
from attn_core.models import bert
from attn_core.models.bert import BERT
from attn_core.training import train

SENTENCES = [
    "A cat sits on the mat.",
    "Attention!",
    "The weights of a query add up to one, whatever it asks and however many keys there are.",
]
TOLERANCE = {"rtol": 0, "atol": 1e-4}


def make_model(**options):
    torch.manual_seed(0)
    return BERT(13, 16, 4, 2, max_len=12, **options).eval()


def tokens(*lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 13, (len(lengths), max(lengths)), generator=generator)
    is_token = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~is_token, 0), is_token


@pytest.fixture(scope="module")
def minilm():
    return bert.from_safetensors(pretrained.minilm_folder())


@pytest.fixture(scope="module")
def hugging_face():
    """Their model with the same file, read by their library."""
    folder = pretrained.minilm_folder()
    model = BertModel(BertConfig(**json.loads((folder / "config.json").read_text())))
    missing, unexpected = model.load_state_dict(
        load_file(folder / "model.safetensors"), strict=False
    )
    assert not missing
    assert unexpected == ["embeddings.position_ids"]
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    tokenizer = pretrained.minilm_tokenizer()
    tokenizer.enable_padding()
    texts = tokenizer.encode_batch(SENTENCES)
    ids = torch.tensor([text.ids for text in texts])
    return ids, torch.tensor([text.attention_mask for text in texts]).bool()


@torch.no_grad()
def test_minilm_gives_what_hugging_face_gives(minilm, hugging_face, batch):
    ids, is_token = batch
    assert not is_token.all()
    expected = hugging_face(ids, attention_mask=is_token.long())
    states = minilm(ids, is_token)
    assert expected.last_hidden_state[is_token].std() > 0.1
    torch.testing.assert_close(states[is_token], expected.last_hidden_state[is_token], **TOLERANCE)
    torch.testing.assert_close(minilm.pool(states), expected.pooler_output, **TOLERANCE)


@torch.no_grad()
def test_so_do_two_segments(minilm, hugging_face):
    text = pretrained.minilm_tokenizer().encode("What attends?", "A query attends to keys.")
    ids, segments = torch.tensor([text.ids]), torch.tensor([text.type_ids])
    assert segments.sum() > 0
    expected = hugging_face(ids, token_type_ids=segments).last_hidden_state
    torch.testing.assert_close(minilm(ids, segments=segments), expected, **TOLERANCE)
    assert not torch.allclose(minilm(ids), expected, **TOLERANCE)


@torch.no_grad()
def test_an_embedding_is_the_mean_of_the_tokens_made_one_long(minilm, hugging_face, batch):
    ids, is_token = batch
    states = hugging_face(ids, attention_mask=is_token.long()).last_hidden_state
    means = torch.stack([rows[kept].mean(0) for rows, kept in zip(states, is_token, strict=True)])
    expected = means / means.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(minilm.embed(ids, is_token), expected, **TOLERANCE)


@torch.no_grad()
def test_what_means_the_same_lies_near(minilm):
    tokenizer = pretrained.minilm_tokenizer()
    tokenizer.enable_padding()
    texts = ["How do I open a file?", "What is the way to open files?", "It rains in Paris."]
    ids = torch.tensor([text.ids for text in tokenizer.encode_batch(texts)])
    vectors = minilm.embed(ids, ids != 0)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.7 > 0.2 > cosines[0, 2].abs()


@torch.no_grad()
def test_a_file_with_a_head_loads_and_guesses_as_hugging_face_does(tmp_path):
    """With another size in every place, so that none can be mistaken for another."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=20,
        type_vocab_size=3,
    )
    theirs = BertForMaskedLM(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)
    ours = BERT.from_safetensors(tmp_path / "model.safetensors")
    assert ours.pooler is None
    ids = torch.randint(50, (2, 9))
    is_token = torch.arange(9) < torch.tensor([[9], [5]])
    segments = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2]).expand(2, -1)
    expected = theirs(ids, attention_mask=is_token.long(), token_type_ids=segments).logits
    logits = ours.guess(ours(ids, is_token, segments=segments))
    torch.testing.assert_close(logits[is_token], expected[is_token], **TOLERANCE)


TINY = BertConfig(
    vocab_size=50,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=6,
)


def saved(cls, folder):
    torch.manual_seed(0)
    model = cls(TINY).eval()
    model.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    ("cls", "head"),
    [
        (BertForPreTraining, "cls.seq_relationship"),
        (BertForNextSentencePrediction, "cls.seq_relationship"),
        (BertForSequenceClassification, "classifier"),
        (BertForTokenClassification, "classifier"),
        (BertForMultipleChoice, "classifier"),
        (BertForQuestionAnswering, "qa_outputs"),
    ],
)
def test_a_head_that_the_class_has_not_is_named_and_left_out(cls, head, tmp_path):
    theirs = saved(cls, tmp_path)
    with pytest.warns(UserWarning, match=rf"\['{head}\.bias', '{head}\.weight'\] are left out"):
        ours = BERT.from_safetensors(tmp_path)
    ids = torch.arange(6)[None]
    expected = theirs.bert(ids)
    torch.testing.assert_close(ours(ids), expected.last_hidden_state)
    assert (ours.pooler is None) == (expected.pooler_output is None)
    if cls is BertForPreTraining:
        torch.testing.assert_close(ours.guess(ours(ids)), theirs(ids).prediction_logits)


def test_what_is_no_known_head_is_refused(tmp_path):
    saved(BertModel, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"adapter.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"unexpected \['adapter\.weight'\]"):
        BERT.from_safetensors(tmp_path)


@torch.no_grad()
def test_norms_may_have_the_names_of_old_checkpoints(tmp_path):
    theirs = saved(BertForMaskedLM, tmp_path)
    for name, parameter in theirs.named_parameters():
        if "LayerNorm" in name:
            nn.init.normal_(parameter)
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        tensors[name] = tensor.clone()
    assert sum("gamma" in name for name in tensors) == 4  # embedding, two in the block, head
    save_file(tensors, tmp_path / "model.safetensors")
    ours, ids = BERT.from_safetensors(tmp_path), torch.arange(6)[None]
    torch.testing.assert_close(ours.guess(ours(ids)), theirs(ids).logits)


def changed_copy(folder, change):
    """MiniLM's folder, with a change made to its tensors."""
    source = pretrained.minilm_folder()
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    shutil.copy(source / "config.json", folder)
    return folder


def rename(tensors):
    tensors["encoder.layer.9.output.dense.bias"] = tensors.pop("encoder.layer.3.output.dense.bias")


def cut(tensors):
    tensors["pooler.dense.bias"] = tensors["pooler.dense.bias"][:-1].clone()


def shuffle(tensors):
    tensors["embeddings.position_ids"] = tensors["embeddings.position_ids"].flip(1).contiguous()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            rename,
            [r"blocks\.3\.feed_forward\.outer\.bias", r"blocks\.9\.feed_forward\.outer\.bias"],
        ),
        (cut, [r"pooler\.bias \(383,\) for \(384,\)"]),
        (shuffle, ["position_ids"]),
        (lambda tensors: tensors.pop("embeddings.word_embeddings.weight"), ["token_embedding"]),
        (lambda tensors: tensors.pop("pooler.dense.bias"), [r"missing \['pooler\.bias'\]"]),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, says, tmp_path):
    for part in says:
        with pytest.raises(ValueError, match=part):
            BERT.from_safetensors(changed_copy(tmp_path, change))


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_act", "relu"), ("position_embedding_type", "relative_key")]
)
def test_a_configuration_of_another_kind_is_refused(name, value, tmp_path):
    config = json.loads((pretrained.minilm_folder() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    (tmp_path / "model.safetensors").symlink_to(pretrained.minilm_folder() / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        BERT.from_safetensors(tmp_path)


def test_a_text_alone_is_a_text_in_a_padded_batch():
    model = make_model().double()
    ids, is_token = tokens(9, 4, 1)
    together = model(ids, is_token)
    for row, length in enumerate((9, 4, 1)):
        alone = model(ids[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1, :length], alone)
        torch.testing.assert_close(
            model.embed(ids, is_token)[row : row + 1], model.embed(ids[row : row + 1, :length])
        )


def test_what_stands_on_padding_reaches_no_token():
    model = make_model()
    ids, is_token = tokens(9, 4)
    before, embedded = model(ids, is_token), model.embed(ids, is_token)
    with torch.no_grad():
        model.token_embedding.weight[0] = torch.nan
    assert torch.equal(model(ids, is_token)[is_token], before[is_token])
    assert torch.equal(model.embed(ids, is_token), embedded)


def test_a_text_without_tokens_has_a_vector_of_zeros_and_no_gradient():
    model = make_model()
    ids, is_token = tokens(9, 4)
    is_token[1] = False
    embedded = model.embed(ids, is_token)
    assert torch.equal(embedded[1], torch.zeros(16))
    embedded[1].sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert not any(torch.count_nonzero(gradient) for gradient in gradients)


def test_every_token_matters_to_every_other_in_both_directions():
    model = make_model()
    ids, _ = tokens(6)
    before = model(ids)
    for place in range(6):
        changed = ids.clone()
        changed[0, place] = 1 + ids[0, place] % 12
        assert not torch.isclose(model(changed), before).all(-1).any()


@pytest.mark.parametrize("head", [False, True])
def test_gradients_reach_every_parameter(head):
    model = make_model(head=head, pooler=not head)
    ids, is_token = tokens(9, 4)
    states = model(ids, is_token, segments=(torch.arange(9) > 2).long())
    result = model.guess(states) if head else model.pool(states)
    assert not unreached(model, result.square().sum())


def test_it_learns_to_guess_the_masked_token_from_both_sides():
    """A row counts up or down by one, around the clock; the masked number follows from either."""
    torch.manual_seed(0)
    model = BERT(10, 32, 4, 2, max_len=7, pooler=False, head=True)
    mask = 9

    def batch(size):
        start, step = torch.randint(9, (size, 1)), 2 * torch.randint(2, (size, 1)) - 1
        ids = (start + step * torch.arange(7)) % 9
        return ids, torch.randint(7, (size,))

    def loss(drawn):
        ids, place = drawn
        rows = torch.arange(len(ids))
        hidden = ids.clone()
        hidden[rows, place] = mask
        logits = model.guess(model(hidden))[rows, place]
        return nn.functional.cross_entropy(logits, ids[rows, place])

    train(model, loss, [batch(64) for _ in range(200)], learning_rate=3e-3)
    with torch.no_grad():
        assert loss(batch(300)) < 0.1 * torch.tensor(9.0).log()
