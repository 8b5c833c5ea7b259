"""Models of transformers give the same on attn_core: their own functions are the reference."""

import functools
import importlib
import sys

import matplotlib.pyplot as plt
import pytest
import torch
import transformers
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache, StaticCache, masking_utils

from attn_core import kernels, masks, plot
from attn_core.hugging_face import attend, hide
from attn_core.interpret import record

VOCABULARY, LENGTH = 50, 9
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # large enough for scores that a softcap or a sink changes
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
WINDOWED = GROUPED | {"sliding_window": 4}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
ENCODER_DECODER = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
    "init_std": 0.3,
}
DECODERS = {
    "Llama": GROUPED,
    "Mistral": WINDOWED,
    "Qwen2": GROUPED | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "Qwen3": GROUPED,
    "Gemma2": WINDOWED | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 5},
    "Gemma3Text": WINDOWED | {"layer_types": ["sliding_attention", "full_attention"]},
    "GptOss": WINDOWED | EXPERTS,
    "Phi3": WINDOWED | {"bos_token_id": 1, "eos_token_id": 2},
    "GPTNeoX": SIZES,
    "GPT2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 40,
        "initializer_range": 0.3,
    },
    "Olmo2": GROUPED,
    "Cohere2": WINDOWED | {"layer_types": ["sliding_attention", "full_attention"]},
    "Starcoder2": WINDOWED,
    "Mixtral": GROUPED | EXPERTS,
    "Granite": GROUPED | {"attention_multiplier": 0.5},
    "DeepseekV3": SIZES
    | {
        "num_key_value_heads": 4,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 6,
        "first_k_dense_replace": 2,
    },
    "Llama4Text": GROUPED
    | EXPERTS
    | {"attention_chunk_size": 4, "intermediate_size_mlp": 32, "use_qk_norm": False},
}
OTHERS = {
    "Esm": SIZES | {"mask_token_id": 4, "position_embedding_type": "rotary"},
    "ViT": SIZES | {"image_size": 16, "patch_size": 8},
    "CLIPVision": SIZES | {"image_size": 16, "patch_size": 8},
    "CLIPText": SIZES | {"projection_dim": 32},
    "Bart": ENCODER_DECODER | {"max_position_embeddings": 40},
    "Whisper": ENCODER_DECODER
    | {"num_mel_bins": 4, "max_source_positions": 6, "max_target_positions": 40},
}
KINDS = {
    "Bart": transformers.AutoModelForSeq2SeqLM,
    "Whisper": transformers.AutoModelForSpeechSeq2Seq,
}
SELF_ATTENTION = {"Bart": 6, "Whisper": 6}  # two layers each of encoder, decoder and crossing
# PyTorch's function has neither softcap nor sinks, and transformers leaves them out with it.
BEYOND_SDPA = ("Gemma2", "GptOss")

TOKENS = torch.randint(5, VOCABULARY, (2, LENGTH), generator=torch.manual_seed(0))
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.manual_seed(1))
SOUND = torch.randn(2, 4, 12, generator=torch.manual_seed(2))
LEFT_PADDED = torch.ones_like(TOKENS).index_put_(
    (torch.tensor([0]), torch.arange(3)), torch.tensor(0)
)


@functools.cache
def build(name, **settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**((DECODERS | OTHERS)[name] | settings))
    kind = KINDS.get(name, transformers.AutoModel)
    if name in DECODERS:
        kind = transformers.AutoModelForCausalLM
    return kind.from_config(config).eval()


def on(model, implementation):
    model.set_attn_implementation(implementation)
    return model


def inputs_of(name, padded):
    if name in ("ViT", "CLIPVision"):
        return {"pixel_values": IMAGES}
    mask = {"attention_mask": LEFT_PADDED} if padded else {}
    if name == "Whisper":
        return {"input_features": SOUND, "decoder_input_ids": TOKENS} | {
            f"decoder_{key}": value for key, value in mask.items()
        }
    if name == "Bart":
        return {"input_ids": TOKENS, "decoder_input_ids": TOKENS.flip(1)} | mask
    return {"input_ids": TOKENS} | mask


def real_of(name, padded, output):
    """Which outputs matter: those of real tokens."""
    if padded and name not in ("ViT", "CLIPVision", "Bart"):
        return LEFT_PADDED.bool()
    return torch.ones(output.shape[:2], dtype=torch.bool)


@torch.no_grad()
def run(name, implementation, inputs, **options):
    return on(build(name), implementation)(**inputs, **options)


def assert_same(output, expected):
    assert expected.std() > 0.1
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "left padded"])
@pytest.mark.parametrize("name", [*DECODERS, *OTHERS])
def test_the_output_is_that_of_a_models_own_functions(name, padded):
    inputs = inputs_of(name, padded)
    with record(on(build(name), "attn_core")) as layers:
        output = run(name, "attn_core", inputs)[0]
    assert len(layers) == SELF_ATTENTION.get(name, 2), "a layer ran on something else"
    real = real_of(name, padded, output)
    theirs = ["eager"] if name in BEYOND_SDPA else ["eager", "sdpa"]
    for implementation in theirs:
        assert_same(output[real], run(name, implementation, inputs)[0][real])


@pytest.mark.parametrize("name", [*DECODERS, "Esm", "ViT", "Whisper"])
def test_recorded_weights_are_those_that_the_model_gives_on_eager(name):
    inputs = inputs_of(name, padded=True)
    with record(on(build(name), "attn_core")) as layers:
        run(name, "attn_core", inputs)
    theirs = run(name, "eager", inputs, output_attentions=True)
    which = "decoder_attentions" if name == "Whisper" else "attentions"
    recorded = [
        calls[0] for layer, calls in layers.items() if "encoder" not in layer or name != "Whisper"
    ]
    rows = LEFT_PADDED.bool() if name != "ViT" else torch.ones(2, 5, dtype=torch.bool)
    for weights, expected in zip(recorded, theirs[which], strict=True):
        # A head of any layer, a row of any real query.
        torch.testing.assert_close(
            weights.mT.transpose(1, 3)[rows],
            expected.mT.transpose(1, 3)[rows],
            rtol=1e-3,
            atol=1e-5,
        )


@pytest.mark.parametrize(
    ("name", "padded"), [(name, True) for name in DECODERS] + [("Llama", False), ("Mistral", False)]
)
def test_a_cache_in_steps_gives_what_one_pass_gives(name, padded):
    expected = run(name, "attn_core", inputs_of(name, padded))[0]
    model = on(build(name), "attn_core")
    cache, outputs = DynamicCache(config=model.config), []
    for tokens in TOKENS.split([4, 3, 1, 1], dim=1):
        seen = sum(output.shape[1] for output in outputs) + tokens.shape[1]
        mask = {"attention_mask": LEFT_PADDED[:, :seen]} if padded else {}
        with torch.no_grad():
            outputs.append(model(tokens, past_key_values=cache, **mask)[0])
    real = real_of(name, padded, expected)
    assert_same(torch.cat(outputs, 1)[real], expected[real])


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma3Text"])
def test_a_static_cache_gives_what_one_pass_gives(name):
    expected = run(name, "attn_core", inputs_of(name, padded=False))[0]
    model = on(build(name), "attn_core")
    cache, outputs = StaticCache(config=model.config, max_cache_len=12), []
    for start, tokens in zip([0, 6, 7, 8], TOKENS.split([6, 1, 1, 1], dim=1), strict=True):
        positions = torch.arange(start, start + tokens.shape[1])
        with torch.no_grad():
            outputs.append(model(tokens, past_key_values=cache, cache_position=positions)[0])
    assert_same(torch.cat(outputs, 1), expected)


def test_generation_is_the_same_while_it_is_recorded():
    """It looks up whether the model takes positions, which left padding shifts in GPT-2."""
    model = on(build("GPT2"), "attn_core")
    generate = functools.partial(
        model.generate,
        TOKENS,
        attention_mask=LEFT_PADDED,
        max_new_tokens=3,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    expected = generate()
    with record(model) as layers:
        result = generate()
    torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=0)
    shapes = [tuple(weights.shape) for weights in layers["transformer.h.1.attn"]]
    assert shapes == [(2, 4, LENGTH, LENGTH), (2, 4, 1, LENGTH + 1), (2, 4, 1, LENGTH + 2)]
    on(model, "eager")
    torch.testing.assert_close(generate().logits, expected.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Llama", "GptOss", "Gemma2"])
def test_gradients_are_those_of_a_models_own_function(name):
    labels = TOKENS.masked_fill(LEFT_PADDED.roll(1, dims=1) * LEFT_PADDED == 0, -100)

    def gradients(implementation):
        model = on(build(name), implementation)
        model.zero_grad(set_to_none=True)
        model(TOKENS, labels=labels, attention_mask=LEFT_PADDED, use_cache=False).loss.backward()
        return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    given, expected = gradients("attn_core"), gradients("eager")
    assert given.keys() == expected.keys()
    assert name != "GptOss" or any("sinks" in key for key in given)
    for key, gradient in given.items():
        largest = float(expected[key].abs().max())
        torch.testing.assert_close(gradient, expected[key], rtol=1e-3, atol=1e-4 * largest + 1e-8)


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("Llama", "sdpa"),
        ("Llama", "chunked"),
        ("Mistral", "banded"),
        ("GptOss", "chunked"),
        ("Gemma2", "chunked"),
    ],
)
def test_the_kernels_compute_it(name, kernel):
    inputs = inputs_of(name, padded=False)
    expected = run(name, "eager", inputs)[0]
    with kernels.use(kernel):
        assert_same(run(name, "attn_core", inputs)[0], expected)


def test_a_padded_window_is_a_table_and_an_unpadded_one_is_not():
    with (
        kernels.use("banded"),
        pytest.raises(ValueError, match=r"banded.*not from attn_core\.masks"),
    ):
        run("Mistral", "attn_core", inputs_of("Mistral", padded=True))
    # Nothing is padded where every token is real.
    real = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    with kernels.use("banded"):
        run("Mistral", "attn_core", real)


def test_a_picture_of_a_models_heads():
    with record(on(build("Qwen3"), "attn_core")) as layers:
        run("Qwen3", "attn_core", inputs_of("Qwen3", padded=False))
    tokens = [str(number) for number in TOKENS[0].tolist()]
    figure = plot.heads(layers["model.layers.1.self_attn"][0][0], tokens, title="a layer")
    assert figure is not None
    plt.close("all")


def mask_of(make, config, implementation, q_len=5, **options):
    config._attn_implementation_internal = implementation
    cache = DynamicCache()
    cache.update(*torch.zeros(2, 2, 2, 3, 4), 0)
    made = make(
        config,
        torch.zeros(2, q_len, 8),
        cache_position=torch.arange(3, 3 + q_len),
        past_key_values=cache,
        **{"attention_mask": None} | options,
    )
    return made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_mask": torch.tensor([[1] * 8, [0] * 2 + [1] * 6])},
        {"or_mask_function": lambda batch, head, query, key: key == 7},
        {"and_mask_function": lambda batch, head, query, key: key != 2},
    ],
    ids=["plain", "padded", "or", "and"],
)
@pytest.mark.parametrize("kind", ["causal", "sliding_window_causal", "chunked_causal"])
@pytest.mark.parametrize("size", [2, 7, 8, 9])
def test_masks_are_those_of_transformers(kind, size, options):
    sizes = {"sliding_window": size}
    if kind == "chunked_causal":
        sizes |= {"attention_chunk_size": size}
    config = transformers.LlamaConfig(**GROUPED)
    for key, value in sizes.items():
        setattr(config, key, value)
    make = getattr(masking_utils, f"create_{kind}_mask")
    ours = mask_of(make, config, "attn_core", **options)
    theirs = mask_of(make, config, "eager", **options) == 0
    assert ours.shape == theirs.shape
    assert torch.equal(ours & True, theirs)


def vectors(keys=6):
    torch.manual_seed(0)
    return torch.randn(2, 4, 5, 8), *torch.randn(2, 2, 2, keys, 8)


def call(mask, **options):
    return attend(torch.nn.Identity(), *vectors(), mask, **options)[0]


def test_a_rule_that_was_changed_is_what_it_was_changed_to():
    def rule():
        return hide(2, torch.arange(1, 6), kv_length=6)

    table = masks.causal().dense(5, 6, q_offset=1).expand(2, 1, 5, 6)
    torch.testing.assert_close(call(rule()), call(table))
    changed, expected = rule(), table.clone()
    changed[0, 0, 2, 1] = False
    expected[0, 0, 2, 1] = False
    assert not torch.equal(call(expected), call(table))
    torch.testing.assert_close(call(changed), call(expected))
    assert type(rule() & table) is torch.Tensor


def test_what_may_be_compiled_is_a_table():
    assert type(hide(1, torch.arange(3), 3)) is not torch.Tensor
    assert type(hide(1, torch.arange(3), 3, allow_is_causal_skip=False)) is torch.Tensor


def test_numbers_in_a_mask_are_added_and_the_lowest_forbids():
    bias = torch.randn(2, 4, 5, 6)
    hidden = torch.rand(2, 4, 5, 6) < 0.4
    hidden[..., 0] = False
    given = bias.masked_fill(hidden, torch.finfo(bias.dtype).min)
    added = bias.masked_fill(hidden, -torch.inf)
    expected = scaled_dot_product_attention(*vectors(), attn_mask=added, enable_gqa=True)
    expected = expected.transpose(1, 2)
    torch.testing.assert_close(call(given), expected)
    # A mask may be longer than the keys that are there, as with a static cache.
    longer = torch.cat([given, torch.zeros(2, 4, 5, 3)], -1)
    torch.testing.assert_close(call(longer), expected)


def test_a_factor_for_each_head():
    factor = torch.tensor([1.0, 0.0, 2.0, 0.5])
    expected = call(None) * factor[:, None]
    torch.testing.assert_close(call(None, head_mask=factor), expected)
    torch.testing.assert_close(call(None, head_mask=factor[:, None, None][None]), expected)
    head_mask = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.5]])
    inputs = {"input_ids": TOKENS, "head_mask": head_mask}
    assert_same(run("GPT2", "attn_core", inputs)[0], run("GPT2", "eager", inputs)[0])


def test_dropout_drops():
    assert not torch.equal(call(None, dropout=0.5), call(None))


def test_what_a_layer_does_not_hand_on_is_refused():
    for switch in ({"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}):
        with pytest.raises(ValueError, match=r'GPT2Attention with scale_attn.*"eager"'):
            on(build("GPT2", **switch), "attn_core")(TOKENS)
    with pytest.raises(ValueError, match=r"head_mask that a layer hands on as mask"):
        on(build("ViT"), "attn_core")(pixel_values=IMAGES, head_mask=torch.ones(2, 4))


@pytest.mark.parametrize("version", ["none", "a newer one"])
def test_a_transformers_that_does_not_serve_is_named(monkeypatch, version):
    if version == "none":
        monkeypatch.setitem(sys.modules, "transformers", None)
    else:
        monkeypatch.setattr(masking_utils, "sdpa_mask", lambda q_length, q_offset: None)
    monkeypatch.delitem(sys.modules, "attn_core.hugging_face")
    with pytest.raises(ImportError, match=r'4\.57: pip install "attn-core\[hugging_face\]"'):
        importlib.import_module("attn_core.hugging_face")


@pytest.mark.parametrize("name", ["Bert", "T5"])
def test_a_layer_with_attention_of_its_own_is_not_reached(name):
    config = getattr(transformers, f"{name}Config")(
        vocab_size=20, num_hidden_layers=1, num_layers=1, hidden_size=12, d_model=12, d_ff=8
    )
    if name == "Bert":
        with pytest.raises(KeyError, match="attn_core"):
            transformers.AutoModel.from_config(config, attn_implementation="attn_core")
        return
    model = transformers.T5EncoderModel._from_config(config, attn_implementation="attn_core")
    with pytest.raises(ValueError, match="no attention layer that ran"), record(model):
        model(TOKENS.clamp(max=19))


def test_a_mask_tells_every_key_apart():
    x = torch.ones(1, 1, 2, 3)
    attend(torch.nn.Identity(), x, x, x, torch.ones(1, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="attention_mask must tell 2 keys apart"):
        attend(torch.nn.Identity(), x, x, x, torch.ones(1, 1, 2, 1, dtype=torch.bool))
