import pytest
import torch
from torch import nn

from attn_core import reference
from attn_core.data.vocabulary import BOS, EOS, PAD, Vocabulary
from attn_core.models.seq2seq import Seq2Seq
from attn_core.training import train

KINDS = [None, "bahdanau", "luong"]
LETTERS = Vocabulary("abcdefgh")
DIGITS = Vocabulary("01234567")


def make_model(kind, **widths):
    torch.manual_seed(0)
    return Seq2Seq(LETTERS, DIGITS, attention=kind, embedding_dim=6, hidden_dim=8, **widths).eval()


@pytest.fixture
def batch():
    source, _ = LETTERS.pad(["abcde", "fg", "hag"])
    target, _ = DIGITS.pad(["01", "2345", "6"], bos=True, eos=True)
    return source, target


@pytest.mark.parametrize("kind", KINDS)
def test_logits_have_one_row_for_every_target_token(kind, batch):
    source, target = batch
    assert make_model(kind)(source, target).shape == (3, target.shape[1], len(DIGITS))


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_of_one_direction_knows_no_later_token(kind, batch):
    source, target = batch
    model = make_model(kind, bidirectional=False)
    changed = source.clone()
    changed[0, 3:5] = LETTERS.encode("h")[0]
    before, after = model.encode(source), model.encode(changed)
    torch.testing.assert_close(after.states[0, :3], before.states[0, :3], rtol=0, atol=1e-6)
    assert not torch.allclose(after.states[0, 3:5], before.states[0, 3:5])
    assert model(source, target).shape == (3, target.shape[1], len(DIGITS))


@pytest.mark.parametrize("kind", KINDS)
def test_more_padding_changes_no_logit(kind, batch):
    source, target = batch
    model = make_model(kind)
    longer = nn.functional.pad(source, (0, 4), value=PAD)
    torch.testing.assert_close(model(source, target), model(longer, target))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentence_translates_alone_as_in_a_batch(kind, batch):
    source, target = batch
    model = make_model(kind)
    alone = model(source[1:2, :2], target[1:2])
    torch.testing.assert_close(model(source, target)[1:2], alone)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nonsense", [100.0, float("nan")])
def test_what_stands_on_padding_reaches_no_logit(kind, batch, nonsense):
    source, target = batch
    model = make_model(kind)
    before = model(source, target)
    with torch.no_grad():
        model.source_embedding.weight[PAD] = nonsense
    assert torch.equal(model(source, target), before)


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_forcing_is_one_step_after_another(kind, batch):
    source, target = batch
    model = make_model(kind)
    memory = model.encode(source)
    state, steps = memory.summary, []
    for previous in target.split(1, dim=1):
        logits, _, state = model.decode(previous, memory, state)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), model(source, target))


@pytest.mark.parametrize("kind", KINDS)
def test_no_logit_depends_on_a_later_target_token(kind, batch):
    source, target = batch
    model = make_model(kind)
    changed = target.clone()
    changed[:, 3:] = DIGITS.encode("7")[0]
    before, after = model(source, target), model(source, changed)
    torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0, atol=1e-6)
    assert not torch.allclose(after[:, 3:], before[:, 3:])


@pytest.mark.parametrize("kind", ["bahdanau", "luong"])
def test_weights_sum_to_one_and_are_zero_on_padding(kind, batch):
    source, target = batch
    weights = make_model(kind).align(source, target)
    assert weights.shape == (3, target.shape[1], source.shape[1])
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(target.shape))
    on_padding = weights.masked_select((source == PAD)[:, None, :])
    assert on_padding.numel() > 0
    assert (on_padding == 0).all()
    assert (weights.masked_select((source != PAD)[:, None, :]) > 0).all()


def test_bahdanau_asks_with_the_previous_state(batch):
    source, target = batch
    model = make_model("bahdanau").double()
    score = model.decoder.score
    memory = model.encode(source)
    row = 0
    keys = memory.states[row].detach().numpy()
    _, weights = reference.attention(
        memory.summary[row : row + 1].detach().numpy(),
        keys,
        keys,
        score=lambda q, k: reference.additive(
            q,
            k,
            score.query_proj.weight.detach().numpy(),
            score.key_proj.weight.detach().numpy(),
            score.score_vector.detach().numpy(),
        ),
        return_weights=True,
    )
    torch.testing.assert_close(
        model.align(source, target)[row, :1].detach(), torch.from_numpy(weights)
    )


def test_luong_asks_with_the_new_state(batch):
    source, target = batch
    model = make_model("luong").double()
    memory = model.encode(source)
    row = 0
    embedded = model.target_embedding(target)
    states, _ = model.decoder.gru(embedded, memory.summary[None])
    keys = memory.states[row].detach().numpy()
    weight = model.decoder.score.weight.detach().numpy()
    _, weights = reference.attention(
        states[row].detach().numpy(),
        keys,
        keys,
        score=lambda q, k: reference.bilinear(q, k, weight),
        return_weights=True,
    )
    torch.testing.assert_close(model.align(source, target)[row].detach(), torch.from_numpy(weights))


def test_without_attention_two_sentences_of_one_summary_cannot_be_told_apart(batch):
    source, target = batch
    model = make_model(None)
    memory = model.encode(source)
    other = memory._replace(states=torch.randn_like(memory.states))
    before, _, _ = model.decode(target, memory, memory.summary)
    after, _, _ = model.decode(target, other, memory.summary)
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["bahdanau", "luong"])
def test_with_attention_the_states_matter_beside_the_summary(kind, batch):
    source, target = batch
    model = make_model(kind)
    memory = model.encode(source)
    other = memory._replace(states=torch.randn_like(memory.states))
    before, _, _ = model.decode(target, memory, memory.summary)
    after, _, _ = model.decode(target, other, memory.summary)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_takes_the_most_probable_token_each_time(kind, batch):
    source, _ = batch
    model = make_model(kind)
    tokens, weights = model.greedy(source, max_length=7)
    start = torch.full((len(source), 1), BOS)
    logits = model(source, torch.cat([start, tokens[:, :-1]], dim=1))
    not_done = tokens != PAD
    assert torch.equal(logits.argmax(dim=-1)[not_done], tokens[not_done])
    if kind is None:
        assert weights is None
    else:
        assert weights.shape == (*tokens.shape, source.shape[1])


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_writes_padding_after_the_end(kind, batch):
    source, _ = batch
    model = make_model(kind)
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.zero_()
        model.output.bias[EOS] = 1.0
    assert model.greedy(source, max_length=9).tokens.tolist() == [[EOS]] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_stops_at_the_longest_length(kind, batch):
    source, _ = batch
    model = make_model(kind)
    with torch.no_grad():
        model.output.bias[EOS] = -1e4
    assert model.greedy(source, max_length=4).tokens.shape == (3, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_leaves_padding_out(kind, batch):
    source, target = batch
    model = make_model(kind)
    longer = nn.functional.pad(target, (0, 3), value=PAD)
    torch.testing.assert_close(model.loss(source, longer), model.loss(source, target))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind, batch):
    source, target = batch
    model = make_model(kind)
    model.loss(source, target).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_sentences_are_learnt_by_heart(kind, batch):
    source, target = batch
    torch.manual_seed(0)
    model = Seq2Seq(LETTERS, DIGITS, attention=kind, embedding_dim=16, hidden_dim=32)
    train(model, lambda _: model.loss(source, target), [None] * 80, learning_rate=0.02)
    tokens = model.greedy(source, max_length=6).tokens
    assert ["".join(DIGITS.decode(row)) for row in tokens] == ["01", "2345", "6"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "source", "target", "error"),
    [
        ("source", torch.ones(2, 3), torch.ones(2, 2).long(), TypeError),
        ("target", torch.ones(2, 3).long(), torch.ones(2, 2), TypeError),
        ("source", torch.ones(3).long(), torch.ones(2, 2).long(), ValueError),
        ("target", torch.ones(2, 3).long(), torch.ones(2).long(), ValueError),
        ("source", torch.full((2, 3), 99), torch.ones(2, 2).long(), ValueError),
        ("source", torch.full((2, 3), -1), torch.ones(2, 2).long(), ValueError),
        ("target", torch.ones(2, 3).long(), torch.full((2, 2), 99), ValueError),
        ("source", torch.zeros(2, 3).long(), torch.ones(2, 2).long(), ValueError),
        ("source", torch.tensor([[5, 0, 5]]), torch.ones(1, 2).long(), ValueError),
        ("source and target", torch.ones(2, 3).long(), torch.ones(3, 2).long(), ValueError),
        ("source", torch.ones(2, 0).long(), torch.ones(2, 2).long(), ValueError),
    ],
)
def test_bad_batches_are_named(kind, name, source, target, error):
    with pytest.raises(error, match=f"^{name} "):
        make_model(kind)(source, target)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("attention", {"attention": "global"}),
        ("embedding_dim", {"embedding_dim": 0}),
        ("hidden_dim", {"hidden_dim": -1}),
    ],
)
def test_bad_settings_are_named(name, arguments):
    with pytest.raises(ValueError, match=f"^{name} "):
        Seq2Seq(LETTERS, DIGITS, **arguments)


def test_align_needs_attention(batch):
    with pytest.raises(ValueError, match="attention is None"):
        make_model(None).align(*batch)


def test_greedy_needs_a_length(batch):
    with pytest.raises(ValueError, match="max_length"):
        make_model(None).greedy(batch[0], max_length=0)
