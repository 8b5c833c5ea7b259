import copy
import io

import pytest
import torch
from gradients import unreached
from torch import nn

from attn_core import masks
from attn_core.interpret import record
from attn_core.models.gpt import GPT
from attn_core.positions import Rotary, restarting
from attn_core.training import train

LETTERS = 11
KINDS = {
    "learned": {"max_len": 32},
    "rotary": {"rotary": Rotary(4)},
    "grouped": {"max_len": 32, "kv_heads": 2},
    "window": {"rotary": Rotary(4), "window": 3},
    "windows": {"max_len": 32, "window": [3, None]},
    "llama": {
        "rotary": Rotary(4),
        "kv_heads": 1,
        "activation": "swiglu",
        "hidden_dim": 24,
        "norm_kind": "rms",
        "bias": False,
        "tied": False,
    },
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


def left_padded(ids, *widths):
    """The same texts, each behind its padding, and where the tokens are."""
    width = max(widths)
    rows = [
        torch.cat([ids.new_full((n,), 7), row, ids.new_full((width - n,), 3)])
        for n, row in zip(widths, ids, strict=True)
    ]
    place = torch.arange(ids.shape[1] + width)
    first = torch.tensor(widths)[:, None]
    return torch.stack(rows), (place >= first) & (place < first + ids.shape[1])


@every_kind
def test_padding_in_front_of_a_text_changes_none_of_its_logits(kind):
    model, ids = make_model(kind).double(), texts()
    padded, is_token = left_padded(ids, 0, 2, 5)
    logits = model(padded, is_token=is_token)
    torch.testing.assert_close(logits[is_token].view(3, 9, -1), model(ids))
    assert not torch.allclose(model(padded)[is_token].view(3, 9, -1), model(ids))
    with torch.no_grad():  # whatever stands there
        model.embedding.weight[7] = torch.nan
    without = ids.masked_fill(ids == 7, 1)
    padded, is_token = left_padded(without, 2, 2, 2)
    logits = model(padded, is_token=is_token)[is_token].view(3, 9, -1)
    torch.testing.assert_close(logits[..., :7], model(without)[..., :7])


@every_kind
@pytest.mark.parametrize("pieces", [[1] * 14, [6, 1, 4, 3]])
def test_padding_in_front_and_a_cache(kind, pieces):
    model, ids = make_model(kind).double(), texts()
    padded, is_token = left_padded(ids, 0, 2, 5)
    cache, logits, seen = model.new_cache(), [], 0
    for new in padded.split(pieces, dim=1):
        seen += new.shape[1]
        logits.append(model(new, is_token=is_token[:, :seen], cache=cache))
    logits = torch.cat(logits, dim=1)[is_token].view(3, 9, -1)
    torch.testing.assert_close(logits, model(ids))


@every_kind
def test_a_padded_batch_of_prompts_is_continued_as_each_is_alone(kind):
    model = make_model(kind).double()
    prompts = [texts(1, length, seed=length) for length in (2, 5, 4)]
    rows = [torch.cat([ids.new_full((1, 5 - ids.shape[1]), 7), ids], dim=1) for ids in prompts]
    is_token = torch.arange(5) >= torch.tensor([[3], [0], [1]])
    written = model.generate(torch.cat(rows), steps=4, temperature=0, is_token=is_token)
    for row, ids in zip(written, prompts, strict=True):
        alone = model.generate(ids, steps=4, temperature=0)[0]
        assert torch.equal(row[-4:], alone[-4:])


@every_kind
def test_the_loss_reads_and_counts_no_padding_in_front(kind):
    model = make_model(kind).double()
    padded, is_token = left_padded(texts(), 0, 2, 5)
    torch.testing.assert_close(model.loss(padded, is_token=is_token), model.loss(texts()))


@every_kind
def test_documents_in_one_row_know_nothing_of_each_other(kind):
    model, ids = make_model(kind).double(), texts()
    packed, numbers = ids.flatten()[None], torch.arange(27)[None] // 9
    positions = restarting(numbers) if "max_len" in KINDS[kind] else None
    logits = model(packed, mask=masks.document(numbers), positions=positions)
    torch.testing.assert_close(logits.view(3, 9, -1), model(ids))


@every_kind
def test_a_table_is_combined_with_what_the_model_may_look_at(kind):
    model, ids = make_model(kind).double(), texts()
    own = torch.eye(9, dtype=torch.bool)
    logits = model(ids, mask=own | True)
    torch.testing.assert_close(logits, model(ids))
    changed = ids.roll(1, dims=0)
    changed[:, 4] = ids[:, 4]
    torch.testing.assert_close(model(changed, mask=own)[:, 4], model(ids, mask=own)[:, 4])


def test_every_block_has_the_window_that_it_is_told():
    model = make_model("windows")
    with record(model) as layers:
        model(texts())
    seen = [(weights[0] > 0).any(1)[0] for weights in layers.values()]
    assert torch.equal(seen[0], masks.window(3, 0).dense(9, 9))
    assert torch.equal(seen[1], masks.causal().dense(9, 9))
    cache = model.new_cache()
    with torch.no_grad():
        model(texts(), cache=cache)
    assert [entry.tokens.kept for entry in cache] == [3, 9]


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


def test_a_matrix_of_its_own_gives_the_logits_where_they_are_not_tied():
    model, ids, states = make_model("llama"), texts(), []
    model.decoder.register_forward_hook(lambda _, __, output: states.append(output))
    logits = model(ids)
    torch.testing.assert_close(logits, states[0] @ model.output.weight.T)


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


def test_a_copy_and_one_that_was_saved_look_at_what_the_model_looks_at():
    model = make_model("windows")
    copied = copy.deepcopy(model)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    for other in (copied, loaded):
        assert torch.equal(other(texts()), model(texts()))
        assert other.masks[1] is masks.causal()  # which the fused kernel knows
