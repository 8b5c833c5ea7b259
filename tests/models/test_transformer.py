import itertools

import pytest
import torch
import torch.nn.functional as F
from gradients import unreached
from torch import nn

from attn_core import masks
from attn_core.data.vocabulary import BOS, EOS, PAD
from attn_core.models.transformer import Transformer, TransformerDecoder, TransformerEncoder
from attn_core.positions import sinusoidal
from attn_core.training import train

NORMS = ["pre", "post"]
SOURCE = torch.tensor([[4, 5, 6, 7, 8], [9, 10, 0, 0, 0], [5, 5, 5, 0, 0]])
TARGET = torch.tensor([[1, 9, 8, 7, 2], [1, 5, 2, 0, 0], [1, 4, 4, 2, 0]])


def make_model(norm="pre", **options):
    torch.manual_seed(0)
    return Transformer(12, 11, 16, 4, 2, norm=norm, **options).eval()


def theirs(norm_first, activation):
    """PyTorch's own, with norms that do something."""
    torch.manual_seed(0)
    model = nn.Transformer(
        16, 4, 2, 2, 24, 0.1, activation, norm_first=norm_first, batch_first=True
    ).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("activation", ["relu", "gelu", nn.GELU(), nn.GELU("tanh")])
@pytest.mark.parametrize("norm_first", [True, False])
def test_it_is_pytorchs_transformer_with_the_same_weights(norm_first, activation):
    model = theirs(norm_first, activation)
    encoder = TransformerEncoder.from_torch(model.encoder)
    decoder = TransformerDecoder.from_torch(model.decoder)
    source, target = torch.randn(2, 7, 16).double(), torch.randn(2, 5, 16).double()
    is_padding = torch.arange(7) >= torch.tensor([[7], [4]])
    expected = model(
        source,
        target,
        tgt_mask=~masks.causal().dense(5, 5),  # there True = may not attend
        src_key_padding_mask=is_padding,
        memory_key_padding_mask=is_padding,
    )
    kept = masks.padding([7, 4])
    ours = decoder(target, encoder(source, mask=kept), memory_mask=kept)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [True, False])
def test_a_copied_encoder_without_a_last_norm_has_none(norm_first):
    layer = nn.TransformerEncoderLayer(16, 4, 24, norm_first=norm_first, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2).eval()
    ours = TransformerEncoder.from_torch(theirs)
    assert isinstance(ours.final_norm, nn.Identity)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [True, False])
def test_a_copied_decoder_without_biases_has_none(norm_first):
    layer = nn.TransformerDecoderLayer(16, 4, 24, norm_first=norm_first, bias=False)
    theirs = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(16, bias=False)).eval()
    ours = TransformerDecoder.from_torch(theirs)
    assert not [name for name, _ in ours.named_parameters() if name.endswith("bias")]
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    expected = theirs(
        x.transpose(0, 1), memory.transpose(0, 1), tgt_mask=~masks.causal().dense(5, 5)
    )
    torch.testing.assert_close(ours(x, memory), expected.transpose(0, 1))


def test_a_copy_keeps_dropout_and_mode():
    layer = nn.TransformerDecoderLayer(16, 4, 24, dropout=0.3, batch_first=True)
    copy = TransformerDecoder.from_torch(nn.TransformerDecoder(layer, 2))
    assert copy.training
    assert copy.blocks[1].attention.dropout == copy.blocks[1].dropout.p == 0.3


def test_only_a_pre_norm_stack_ends_with_a_norm_of_its_own():
    assert isinstance(TransformerEncoder(16, 4, 2, norm="pre").final_norm, nn.LayerNorm)
    assert isinstance(TransformerEncoder(16, 4, 2, norm="post").final_norm, nn.Identity)


@pytest.mark.parametrize("norm", NORMS)
def test_no_logit_depends_on_a_later_target_token(norm):
    model = make_model(norm)
    changed = TARGET.clone()
    changed[:, 3:] = 10
    before, after = model(SOURCE, TARGET), model(SOURCE, changed)
    assert torch.equal(after[:, :3], before[:, :3])
    assert not torch.isclose(after[:, 3:], before[:, 3:]).all(-1).any()


@pytest.mark.parametrize("norm", NORMS)
def test_every_source_token_matters_to_every_logit(norm):
    model = make_model(norm)
    before = model(SOURCE[:1], TARGET[:1])
    for place in range(SOURCE.shape[1]):
        changed = SOURCE[:1].clone()
        changed[0, place] = 11
        assert not torch.isclose(model(changed, TARGET[:1]), before).all(-1).any()


@pytest.mark.parametrize("norm", NORMS)
def test_a_sentence_alone_is_a_sentence_in_a_padded_batch(norm):
    model = make_model(norm).double()
    for row, (source, target) in enumerate(zip(SOURCE, TARGET, strict=True)):
        alone = model(source[source != PAD][None], target[target != PAD][None])
        together = model(F.pad(SOURCE, (0, 3)), TARGET)[row : row + 1, : alone.shape[1]]
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("norm", NORMS)
def test_one_token_after_another_with_a_cache_is_teacher_forcing(norm):
    model = make_model(norm).double()
    memory, memory_mask = model.encode(SOURCE)
    cache = model.decoder.new_cache()
    steps = [
        model.decode(previous, memory, memory_mask, cache=cache) for previous in TARGET.split(1, 1)
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), model(SOURCE, TARGET))


@pytest.mark.parametrize("norm", NORMS)
def test_generate_takes_the_most_probable_token_of_the_full_pass(norm):
    model = make_model(norm)
    tokens = model.generate(SOURCE, max_length=6)
    start = torch.full((len(SOURCE), 1), BOS)
    logits = model(SOURCE, torch.cat([start, tokens[:, :-1]], dim=1))
    assert torch.equal(logits.argmax(-1)[tokens != PAD], tokens[tokens != PAD])


def prefer(model, token):
    """Make a model that finds one token likely, whatever it reads."""
    nn.init.zeros_(model.target_embedding.weight)
    nn.init.ones_(model.decoder.final_norm.bias)
    nn.init.zeros_(model.decoder.final_norm.weight)
    nn.init.ones_(model.target_embedding.weight[token])


def test_generate_writes_padding_after_the_end_and_stops():
    model = make_model()
    prefer(model, EOS)
    assert model.generate(SOURCE, max_length=9).tolist() == [[EOS]] * 3


def test_a_row_that_has_ended_is_padded_while_others_go_on(monkeypatch):
    model = make_model()
    script = torch.tensor([[5, EOS, 7, 8], [6, 7, 8, EOS], [EOS, 5, 5, 5]])

    def decode(token, memory, mask, *, cache):
        steps.append(token)
        return F.one_hot(script[:, len(steps) - 1 : len(steps)], 11).float()

    steps = []
    monkeypatch.setattr(model, "decode", decode)
    written = [[5, EOS, PAD, PAD], [6, 7, 8, EOS], [EOS, PAD, PAD, PAD]]
    assert model.generate(SOURCE, max_length=9).tolist() == written
    read = [[BOS, 5, EOS, PAD], [BOS, 6, 7, 8], [BOS, EOS, PAD, PAD]]
    assert torch.cat(steps, dim=1).tolist() == read


def test_generate_stops_at_the_longest_length():
    model = make_model()
    prefer(model, 7)
    assert model.generate(SOURCE, max_length=4).tolist() == [[7] * 4] * 3


def test_a_token_is_its_vector_times_the_root_of_the_width_plus_its_position():
    model = make_model()
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.encode(SOURCE)
    expected = 4 * model.source_embedding.weight[SOURCE] + sinusoidal(5, 16)  # 4² = 16
    torch.testing.assert_close(seen[0], expected)


def test_the_loss_is_the_mean_surprise_of_the_next_token_and_leaves_padding_out():
    model = make_model()
    chances = model(SOURCE, TARGET).log_softmax(-1)
    surprises = [
        -chances[row, place, TARGET[row, place + 1]]
        for row in range(3)
        for place in range(4)
        if TARGET[row, place + 1] != PAD
    ]
    assert len(surprises) == 9
    torch.testing.assert_close(model.loss(SOURCE, TARGET), torch.stack(surprises).mean())
    longer = F.pad(TARGET, (0, 3))
    torch.testing.assert_close(model.loss(SOURCE, longer), model.loss(SOURCE, TARGET))


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_reach_every_parameter(norm):
    model = make_model(norm, activation="relu")
    assert not unreached(model, model.loss(SOURCE, TARGET))


@pytest.mark.parametrize("norm", NORMS)
def test_weights_of_every_block_and_the_same_output(norm):
    model = make_model(norm)
    memory, memory_mask = model.encode(SOURCE)
    x = torch.randn(3, 4, 16)
    result = model.decoder(x, memory, memory_mask=memory_mask, return_weights=True)
    assert torch.equal(result.output, model.decoder(x, memory, memory_mask=memory_mask))
    assert [w.shape for w in result.weights] == [(3, 4, 4, 4)] * 2
    assert [w.shape for w in result.memory_weights] == [(3, 4, 4, 5)] * 2
    for weights in result.memory_weights:
        assert (weights.masked_select((SOURCE == PAD)[:, None, None]) == 0).all()


def test_it_learns_to_reverse_what_it_has_not_seen():
    """Positions, cross-attention and the causal mask all have to work for that."""
    torch.manual_seed(0)
    words = torch.tensor(list(itertools.product(range(4, 8), repeat=4)))
    words = words[torch.randperm(len(words))]
    ends = torch.ones(len(words), 1, dtype=torch.int64)
    reversed_words = torch.cat([BOS * ends, words.flip(1), EOS * ends], dim=1)
    train_set, test_set = torch.arange(200), torch.arange(200, 256)
    model = Transformer(8, 8, 32, 4, 2, norm="pre", hidden_dim=64)
    batches = [train_set[torch.randperm(200)[:64]] for _ in range(200)]
    train(model, lambda b: model.loss(words[b], reversed_words[b]), batches, learning_rate=5e-3)
    model.eval()
    guessing = torch.tensor(4.0).log() * 4 / 5  # four of four letters, and the end is no news
    with torch.no_grad():
        assert model.loss(words[test_set], reversed_words[test_set]) < 0.1 * guessing
    written = model.generate(words[test_set], max_length=5)
    share_right = (written == reversed_words[test_set][:, 1:]).all(1).float().mean()
    assert share_right > 0.95
