import pytest
import torch
from gradients import unreached
from torch import nn

from attn_core.interpret import record
from attn_core.models.gpt import GPT
from attn_core.positions import Rotary
from attn_core.training import train

LETTERS = 11
KINDS = {
    "learned": {"max_len": 32},
    "rotary": {"rotary": Rotary(4)},
    "grouped": {"max_len": 32, "kv_heads": 2},
    "window": {"rotary": Rotary(4), "window": 3},
    "llama": {"rotary": Rotary(4), "kv_heads": 1, "activation": "swiglu", "hidden_dim": 24},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make_model(kind="learned"):
    torch.manual_seed(0)
    model = GPT(LETTERS, 16, 4, 2, **KINDS[kind]).eval()
    for parameter in model.parameters():  # at its own start it hardly tells anything apart
        nn.init.normal_(parameter, std=0.4)
    return model


def texts(batch=3, length=9, seed=1):
    return torch.randint(LETTERS, (batch, length), generator=torch.Generator().manual_seed(seed))


@every_kind
@pytest.mark.parametrize("j", [1, 5, 8])
def test_a_later_token_changes_no_earlier_logit_by_a_single_bit(kind, j):
    model, ids = make_model(kind), texts()
    changed = ids.clone()
    changed[:, j] = (changed[:, j] + 1) % LETTERS
    before, after = model(ids), model(changed)
    assert torch.equal(after[:, :j], before[:, :j])
    assert not torch.isclose(after[:, j], before[:, j]).all(-1).any()


def test_a_window_of_three_and_two_blocks_reach_six_tokens_back():
    model, ids = make_model("window"), texts()
    for place in range(9):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % LETTERS
        differs = (model(changed) != model(ids)).any(-1).any(0)
        assert differs.nonzero().flatten().tolist() == list(range(place, min(place + 7, 9)))


@every_kind
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 3, 1], [8, 1]])
def test_piece_by_piece_with_a_cache_is_the_full_pass(kind, pieces):
    model, ids = make_model(kind).double(), texts()
    cache = model.new_cache()
    logits = [model(new, cache=cache) for new in ids.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(ids))


def test_a_cache_of_fixed_size_and_one_that_forgets():
    ids = texts()
    with torch.no_grad():
        model = make_model().double()
        cache = model.new_cache(max_len=9)
        logits = [model(new, cache=cache) for new in ids.split(1, dim=1)]
        torch.testing.assert_close(torch.cat(logits, dim=1), model(ids))
        model = make_model("window")
        cache = model.new_cache()
        model(ids, cache=cache)
        model(ids, cache=cache)
    assert cache[0].length == 18
    assert cache[0].tokens.kept == 3


@every_kind
def test_padding_behind_a_text_changes_none_of_its_logits(kind):
    model, ids = make_model(kind), texts()
    longer = torch.cat([ids, texts(length=4, seed=2)], dim=1)
    torch.testing.assert_close(model(longer)[:, :9], model(ids))


def test_the_loss_is_the_mean_surprise_and_leaves_padding_out():
    model, ids = make_model(), texts()
    ids[1, 5:] = 0
    chances = model(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(model.loss(ids), -chances.mean())
    counted = ids[:, 1:] != 0
    torch.testing.assert_close(model.loss(ids, pad=0), -chances[counted].mean())


@every_kind
def test_gradients_reach_every_parameter(kind):
    model = make_model(kind)
    assert not unreached(model, model.loss(texts()))


def test_the_matrix_that_reads_gives_the_logits_too():
    model, ids = make_model(), texts()
    states = []
    model.decoder.register_forward_hook(lambda _, __, output: states.append(output))
    logits = model(ids)
    torch.testing.assert_close(logits, states[0] @ model.embedding.weight.T)
    assert sum(p.shape == (LETTERS, 16) for p in model.parameters()) == 1


def test_an_untrained_model_finds_all_tokens_about_as_likely():
    torch.manual_seed(0)
    model = GPT(LETTERS, 64, 4, 8, max_len=32)
    even = torch.tensor(float(LETTERS)).log()
    assert (model.loss(texts(batch=32)) - even).abs() < 0.05
    outer = model.decoder.blocks[0].feed_forward.outer.weight
    inner = model.decoder.blocks[0].feed_forward.inner.weight
    assert 3.5 < inner.std() / outer.std() < 4.5  # the square root of 2 × 8 blocks


@every_kind
def test_generate_without_temperature_takes_the_most_probable_token_of_the_full_pass(kind):
    model, ids = make_model(kind), texts(length=4)
    written = model.generate(ids, steps=6, temperature=0)
    assert torch.equal(written[:, :4], ids)
    assert torch.equal(model(written[:, :-1]).argmax(-1)[:, 3:], written[:, 4:])


def test_what_is_recorded_while_a_text_is_written_are_the_rows_of_the_full_pass():
    model = make_model()
    text = model.generate(texts(length=1), steps=5, temperature=0)
    with record(model) as whole:
        model(text[:, :-1])
    with record(model) as steps:
        model.generate(texts(length=1), steps=5, temperature=0)
    assert list(whole) == ["decoder.blocks.0.attention", "decoder.blocks.1.attention"]
    for name, (weights,) in whole.items():
        for place, row in enumerate(steps[name]):
            torch.testing.assert_close(row[..., 0, :], weights[..., place, : place + 1])


def test_generate_draws_with_the_models_chances():
    model, prompt = make_model(), texts(batch=1, length=3)
    generator = torch.Generator().manual_seed(0)
    for temperature, top_k in ((1.0, None), (2.0, 3)):
        logits = model(prompt)[0, -1] / temperature
        if top_k is not None:
            logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
        chances = logits.softmax(-1)
        drawn = model.generate(
            prompt.expand(20_000, -1),
            steps=1,
            temperature=temperature,
            top_k=top_k,
            generator=generator,
        )
        seen = drawn[:, -1].bincount(minlength=LETTERS) / 20_000
        assert (seen[chances == 0] == 0).all()
        error = (chances * (1 - chances) / 20_000).sqrt()
        assert ((seen - chances).abs() <= 4 * error).all()


def test_the_same_generator_writes_the_same_text():
    model, prompt = make_model(), texts(length=3)
    first, second, other = (
        model.generate(prompt, steps=8, generator=torch.Generator().manual_seed(seed))
        for seed in (5, 5, 6)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_it_learns_to_copy_what_came_before():
    """A text of six random letters, twice: the second half can be known, the first cannot."""
    torch.manual_seed(0)
    model = GPT(8, 32, 2, 2, max_len=12)

    def batch(size):
        half = torch.randint(8, (size, 6))
        return torch.cat([half, half], dim=1)

    train(model, model.loss, [batch(64) for _ in range(300)], learning_rate=1e-2)
    test = batch(200)
    guessing = torch.tensor(8.0).log()
    with torch.no_grad():
        logits = model(test[:, :-1])
        surprise = nn.functional.cross_entropy(logits.mT, test[:, 1:], reduction="none").mean(0)
    assert (surprise[:5] > 0.9 * guessing).all()
    assert (surprise[5:] < 0.1 * guessing).all()
    written = model.generate(test[:, :6], steps=6, temperature=0)
    assert (written == test).all(1).float().mean() > 0.95
