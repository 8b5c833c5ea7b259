import json
import shutil

import pytest
import torch
from gradients import unreached
from test_spectrogram import chirp
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from attn_core.data import pretrained
from attn_core.interpret import record
from attn_core.models import whisper
from attn_core.models.spectrogram import log_mel
from attn_core.models.weights import read_ctranslate2
from attn_core.models.whisper import Rules, Whisper

TEXT = torch.tensor([[50257, 50362, 770, 318, 257, 1332, 13]])  # the prompt, " This is a test."


def hugging_face_weights(variables, decoder_layers=4):
    """CTranslate2's variables under Hugging Face's names: another way than the package's."""

    def pair(ours, theirs):
        yield f"{ours}.weight", variables[f"{theirs}/weight"]
        yield f"{ours}.bias", variables[f"{theirs}/bias"]

    def norm(ours, theirs):
        yield f"{ours}.weight", variables[f"{theirs}/gamma"]
        yield f"{ours}.bias", variables[f"{theirs}/beta"]

    def projections(ours, theirs, letters):
        weights = variables[f"{theirs}/weight"].split(384)
        biases = variables[f"{theirs}/bias"].split(384)
        for letter, weight, bias in zip(letters, weights, biases, strict=True):
            yield f"{ours}.{letter}_proj.weight", weight
            if letter == "k":  # theirs has none
                assert not bias.any()
            else:
                yield f"{ours}.{letter}_proj.bias", bias

    for part in ("encoder", "decoder"):
        yield from norm(f"model.{part}.layer_norm", f"{part}/layer_norm")
        positions = variables[f"{part}/position_encodings/encodings"]
        yield f"model.{part}.embed_positions.weight", positions
        for number in range(4 if part == "encoder" else decoder_layers):
            ours, theirs = f"model.{part}.layers.{number}", f"{part}/layer_{number}"
            attention = f"{theirs}/self_attention"
            yield from projections(f"{ours}.self_attn", f"{attention}/linear_0", "qkv")
            yield from pair(f"{ours}.self_attn.out_proj", f"{attention}/linear_1")
            yield from norm(f"{ours}.self_attn_layer_norm", f"{attention}/layer_norm")
            yield from pair(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
            yield from pair(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
            yield from norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
            if part == "decoder":
                cross = f"{theirs}/attention"
                yield from projections(f"{ours}.encoder_attn", f"{cross}/linear_0", "q")
                yield from projections(f"{ours}.encoder_attn", f"{cross}/linear_1", "kv")
                yield from pair(f"{ours}.encoder_attn.out_proj", f"{cross}/linear_2")
                yield from norm(f"{ours}.encoder_attn_layer_norm", f"{cross}/layer_norm")
    yield from pair("model.encoder.conv1", "encoder/conv1")
    yield from pair("model.encoder.conv2", "encoder/conv2")
    yield "model.decoder.embed_tokens.weight", variables["decoder/embeddings/weight"]
    yield "proj_out.weight", variables["decoder/embeddings/weight"]


@pytest.fixture(scope="module")
def tiny():
    return whisper.from_ctranslate2(pretrained.whisper_folder())


def hugging_face_model(variables, decoder_layers=4):
    config = WhisperConfig(
        vocab_size=51864,
        d_model=384,
        encoder_layers=4,
        decoder_layers=decoder_layers,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        bos_token_id=50256,
        eos_token_id=50256,
        pad_token_id=50256,
        decoder_start_token_id=50257,
        attn_implementation="eager",
    )
    model = WhisperForConditionalGeneration(config).eval()
    model.load_state_dict(dict(hugging_face_weights(variables, decoder_layers)))
    return model


@pytest.fixture(scope="module")
def hugging_face():
    return hugging_face_model(read_ctranslate2(pretrained.whisper_folder() / "model.bin"))


@pytest.fixture(scope="module")
def sound():
    return log_mel(chirp(5))[None]


@pytest.fixture(scope="module")
def expected(hugging_face, sound):
    with torch.no_grad():
        return hugging_face(sound, decoder_input_ids=TEXT, output_attentions=True)


@torch.no_grad()
def test_it_gives_what_hugging_face_gives(tiny, sound, expected):
    memory = tiny.encode(sound)
    assert expected.encoder_last_hidden_state.std() > 0.1
    torch.testing.assert_close(memory, expected.encoder_last_hidden_state, rtol=0, atol=1e-4)
    logits = tiny.decode(TEXT, memory)
    assert expected.logits.std() > 1
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_so_do_the_weights_on_the_sound(tiny, sound, expected):
    weights = tiny.align(sound, TEXT)
    assert weights.shape == (1, 4, 6, 7, 1500)
    theirs = torch.stack(expected.cross_attentions, dim=1)
    torch.testing.assert_close(weights, theirs, rtol=0, atol=1e-4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 6, 7))


def test_the_heads_that_follow_the_sound_are_those_of_the_package(tiny):
    config = json.loads((pretrained.whisper_folder() / "config.json").read_text())
    assert [list(place) for place in tiny.alignment_heads] == config["alignment_heads"]
    assert all(block < 4 and head < 6 for block, head in tiny.alignment_heads)


@torch.no_grad()
def test_it_writes_what_hugging_faces_logits_say(tiny, hugging_face, expected, sound):
    rules = tiny.rules
    assert rules.prompt == (50257, 50362)
    assert {220, 50256} == set(rules.not_first)
    memory = (expected.encoder_last_hidden_state,)
    ids, written = list(rules.prompt), []
    while len(written) < 12:
        logits = hugging_face(encoder_outputs=memory, decoder_input_ids=torch.tensor([ids])).logits[
            0, -1
        ]
        logits[list(rules.never)] = -torch.inf
        if not written:
            logits[list(rules.not_first)] = -torch.inf
        written.append(int(logits.argmax()))
        ids.append(written[-1])
        if written[-1] == rules.end:
            break
    assert tiny.generate(sound, max_length=12).tolist() == [written]


@torch.no_grad()
def test_token_by_token_with_a_cache_is_the_full_pass(tiny, sound):
    memory, cache = tiny.encode(sound[..., :400]), tiny.new_cache()
    steps = [tiny.decode(new, memory, cache=cache) for new in TEXT.split([2, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), tiny.decode(TEXT, memory), rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_distilled_decoder_has_fewer_blocks_than_the_encoder(tmp_path, monkeypatch):
    variables = {
        name: tensor
        for name, tensor in read_ctranslate2(pretrained.whisper_folder() / "model.bin").items()
        if not name.startswith(("decoder/layer_1/", "decoder/layer_2/", "decoder/layer_3/"))
    }
    shutil.copy(pretrained.whisper_folder() / "config.json", tmp_path)
    monkeypatch.setattr(whisper, "read_ctranslate2", lambda _: variables)
    ours = Whisper.from_ctranslate2(tmp_path)
    assert (len(ours.encoder.blocks), len(ours.decoder.blocks)) == (4, 1)
    memory = torch.randn(1, 50, 384)
    expected = hugging_face_model(variables, decoder_layers=1)(
        encoder_outputs=(memory,), decoder_input_ids=TEXT
    )
    torch.testing.assert_close(ours.decode(TEXT, memory), expected.logits, rtol=0, atol=1e-4)


def test_encoder_and_decoder_have_as_many_blocks_as_they_are_told():
    sizes = {"bands": 4, "max_frames": 6, "max_len": 4}
    assert len(Whisper(11, 8, 2, 3, **sizes).decoder.blocks) == 3
    turbo = Whisper(11, 8, 2, 3, decoder_layers=1, **sizes)
    assert (len(turbo.encoder.blocks), len(turbo.decoder.blocks)) == (3, 1)
    with pytest.raises(ValueError, match="decoder_layers must be at least 1, got 0"):
        Whisper(11, 8, 2, 3, decoder_layers=0, **sizes)
    with pytest.raises(TypeError, match=r"decoder_layers must be an integer, got 1\.0"):
        Whisper(11, 8, 2, 3, decoder_layers=1.0, **sizes)


@torch.no_grad()
def test_silence_has_no_words_in_it(tiny):
    text = tiny.transcribe(torch.zeros(16_000), pretrained.whisper_tokenizer())
    assert len(text.split()) <= 2


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, monkeypatch):
    def without(name, other=None):
        variables = read_ctranslate2(pretrained.whisper_folder() / "model.bin")
        tensor = variables.pop(name)
        return variables if other is None else variables | {other: tensor}

    shutil.copy(pretrained.whisper_folder() / "config.json", tmp_path)
    for change, says in (
        (("decoder/layer_2/ffn/linear_0/bias",), r"blocks\.2\.feed_forward\.inner\.bias"),
        (("encoder/conv1/weight",), r"conv1\.weight"),
        (("decoder/num_heads",), "num_heads"),
        (("encoder/conv2/bias", "encoder/conv2/offset"), r"unexpected \['conv2\.offset'\]"),
    ):
        monkeypatch.setattr(whisper, "read_ctranslate2", lambda _, c=change: without(*c))
        with pytest.raises(ValueError, match=says):
            Whisper.from_ctranslate2(tmp_path)


RULES = Rules(prompt=(1, 2), end=3, never=(4, 5), not_first=(6, 3))


def make_model(seed=4):
    """A model that finds different tokens likely at different places."""
    torch.manual_seed(seed)
    model = Whisper(11, 16, 4, 2, bands=5, max_frames=20, max_len=12, rules=RULES).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    nn.init.normal_(model.position.weight, std=4)
    nn.init.zeros_(model.decoder.final_norm.bias)
    return model


def sounds(batch=3, frames=14):
    return torch.randn(batch, 5, frames, generator=torch.Generator().manual_seed(1))


def test_a_later_token_changes_no_earlier_logit_by_a_single_bit():
    model, ids = make_model(), torch.arange(8)[None].expand(3, -1)
    changed = ids.clone()
    changed[:, 5] = 10
    before, after = model(sounds(), ids), model(sounds(), changed)
    assert torch.equal(after[:, :5], before[:, :5])
    assert not torch.isclose(after[:, 5:], before[:, 5:]).all(-1).any()


def test_every_moment_of_the_sound_matters():
    model, ids = make_model(), torch.tensor([[1, 2, 7]])
    before = model(sounds(1), ids)
    for frame in range(14):
        changed = sounds(1)
        changed[..., frame] = changed[..., frame].flip(-1)
        assert not torch.isclose(model(changed, ids), before).all(-1).any()


def test_what_it_aligns_is_what_its_layers_attend_to():
    model, ids = make_model(), torch.tensor([[1, 2, 7, 8]] * 3)
    with record(model) as layers:
        model(sounds(), ids)
    expected = [layers[f"decoder.blocks.{number}.memory_attention"][0] for number in (0, 1)]
    assert torch.equal(model.align(sounds(), ids), torch.stack(expected, dim=1))


def test_two_frames_become_one_position():
    assert make_model().encode(sounds(frames=14)).shape == (3, 7, 16)


def test_generate_keeps_to_the_rules_and_takes_the_best_of_what_is_left():
    broken = set()
    for seed in (4, 5):
        model = make_model(seed)
        tokens = model.generate(sounds(), max_length=8)
        ids = torch.cat([torch.tensor([RULES.prompt] * 3), tokens], dim=1)
        logits = model(sounds(), ids)[:, 1:-1].detach()
        broken |= set(logits.argmax(-1).flatten().tolist()) & set(RULES.never)
        broken |= set(logits.argmax(-1)[:, 0].tolist()) & set(RULES.not_first)
        logits[..., list(RULES.never)] = -torch.inf
        logits[:, 0, list(RULES.not_first)] = -torch.inf
        is_written = (tokens == RULES.end).cumsum(1) - (tokens == RULES.end).long() == 0
        assert torch.equal(logits.argmax(-1)[is_written], tokens[is_written])
        assert (tokens[~is_written] == RULES.end).all()
    assert broken & set(RULES.never)  # without the rules it would have broken them
    assert broken & set(RULES.not_first)


def test_generate_ends_each_row_by_itself():
    model = make_model()
    together = model.generate(sounds(), max_length=8)
    lengths = set()
    for row, sound in zip(together, sounds(), strict=True):
        (alone,) = model.generate(sound[None], max_length=8)
        assert torch.equal(row[: len(alone)], alone)
        assert (row[len(alone) :] == RULES.end).all()
        lengths.add(len(alone))
    assert len(lengths) == 2


def test_gradients_reach_every_parameter():
    model = make_model()
    ids = torch.tensor([[1, 2, 7, 8]])
    assert not unreached(model, model(sounds(1), ids).log_softmax(-1)[..., 3].sum())
