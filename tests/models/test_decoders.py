"""Llama, Mistral, Qwen, Gemma and gpt-oss are configurations of GPT: the same logits."""

import re

import pytest
import torch
from torch import nn

from attn_core.models.gpt import GPT
from attn_core.positions import Rotary, YaRNScaling

VOCABULARY, DIM, LENGTH = 40, 16, 12
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": DIM,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,  # not 16 / 4
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
    "pad_token_id": None,
}
MODERN = {
    "kv_heads": 2,
    "head_dim": 6,
    "hidden_dim": 24,
    "activation": "swiglu",
    "bias": False,
    "norm_kind": "rms",
}
GEMMA = MODERN | {"activation": "geglu_tanh"}
RENAMED = {
    r"^model\.embed_tokens": "embedding",
    r"^lm_head": "output",
    r"^model\.norm": "decoder.final_norm",
    r"^model\.layers": "decoder.blocks",
    r"self_attn\.([qk])_norm": r"attention.\1_norm",
    r"self_attn\.([qkvo])_proj": r"attention.\1_proj",
    r"self_attn\.sinks": "attention.sink",
    r"attention\.q_": "attention.query_",
    r"attention\.k_": "attention.key_",
    r"attention\.v_": "attention.value_",
    r"attention\.o_": "attention.out_",
    r"input_layernorm": "attention_norm",
    r"pre_feedforward_layernorm": "feed_forward_norm",
    r"post_feedforward_layernorm": "feed_forward_out_norm",
    r"mlp\.gate_proj": "feed_forward.gate",
    r"mlp\.up_proj": "feed_forward.inner",
    r"mlp\.down_proj": "feed_forward.outer",
}


def random_model(kind, **settings):
    """Their model, of the smallest size, with weights that tell everything apart."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | settings)
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def named_as_ours(model, *, is_sandwich=False):
    """Their weights, by our names."""
    names = {
        r"post_attention_layernorm": "attention_out_norm" if is_sandwich else "feed_forward_norm"
    }
    tied = model.config.tie_word_embeddings
    weights = {}
    for name, tensor in model.state_dict().items():
        for theirs, ours in (names | RENAMED).items():
            name = re.sub(theirs, ours, name)
        if not (tied and name.startswith("output")):
            weights[name] = tensor
    return weights


def gemma_weights(model, **options):
    """Gemma multiplies embeddings by the root of the width, and norms have 1 + their weight."""
    weights = named_as_ours(model, **options)
    weights = {name: 1 + x if "norm" in name else x for name, x in weights.items()}
    weights["embedding.weight"] = weights["embedding.weight"] * DIM**0.5
    weights["decoder.final_norm.weight"] = weights["decoder.final_norm.weight"] / DIM**0.5
    return weights


def ours(weights, **settings):
    model = GPT(VOCABULARY, DIM, heads=4, layers=2, **settings).eval()
    model.load_state_dict(weights)
    return model


def llama():
    theirs = random_model("Llama", rope_theta=500.0, rms_norm_eps=1e-5)
    rotary = Rotary(base=500.0)
    return theirs, ours(named_as_ours(theirs), rotary=rotary, tied=False, eps=1e-5, **MODERN)


def mistral():
    theirs = random_model("Mistral", sliding_window=4, rms_norm_eps=1e-6)
    settings = MODERN | {"rotary": Rotary(), "window": 3, "eps": 1e-6}
    return theirs, ours(named_as_ours(theirs), tied=False, **settings)


def qwen2():
    """Queries, keys and values have biases, the output has none: it is 0."""
    theirs = random_model("Qwen2", head_dim=4, tie_word_embeddings=True)
    weights = named_as_ours(theirs)
    weights |= {f"decoder.blocks.{n}.attention.out_proj.bias": torch.zeros(DIM) for n in (0, 1)}
    settings = MODERN | {"rotary": Rotary(), "bias": True, "head_dim": 4, "eps": 1e-6}
    return theirs, ours(weights, **settings)


def qwen3():
    theirs = random_model("Qwen3", rms_norm_eps=1e-6)
    settings = MODERN | {"rotary": Rotary(), "qk_norm": True, "eps": 1e-6}
    return theirs, ours(named_as_ours(theirs), tied=False, **settings)


def gemma():
    theirs = random_model("Gemma")
    return theirs, ours(gemma_weights(theirs), rotary=Rotary(), eps=1e-6, **GEMMA)


def gemma2():
    """The cap on the logits stands behind the model, and is put there."""
    theirs = random_model(
        "Gemma2", sliding_window=4, query_pre_attn_scalar=10, attn_logit_softcapping=2.0
    )
    settings = GEMMA | {"norm": "both", "scale": 10**-0.5, "softcap": 2.0, "eps": 1e-6}
    model = ours(
        gemma_weights(theirs, is_sandwich=True), rotary=Rotary(), window=[3, None], **settings
    )
    cap = theirs.config.final_logit_softcapping
    model.register_forward_hook(lambda _, __, logits: cap * torch.tanh(logits / cap))
    return theirs, model


def gemma3():
    """Blocks that look at a window turn by another base than the others."""
    theirs = random_model(
        "Gemma3Text",
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        rope_theta=500.0,
        rope_local_base_freq=50.0,
        query_pre_attn_scalar=10,
    )
    settings = GEMMA | {"norm": "both", "qk_norm": True, "scale": 10**-0.5, "eps": 1e-6}
    model = ours(
        gemma_weights(theirs, is_sandwich=True),
        rotary=Rotary(base=500.0),
        window=[3, None],
        **settings,
    )
    model.decoder.blocks[0].attention.rotary = Rotary(base=50.0)
    return theirs, model


class Experts(nn.Module):
    """The network of experts is no part of attention: theirs is taken as it is."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[0]


def gpt_oss():
    yarn = {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    }
    theirs = random_model(
        "GptOss",
        sliding_window=4,
        num_local_experts=3,
        num_experts_per_tok=2,
        rope_theta=500.0,
        rope_scaling=yarn,
    )
    settings = MODERN | {"bias": True, "sink": True, "window": [3, None], "eps": 1e-5}
    scaling = YaRNScaling(32.0, original_length=4096, ramp="unrounded index")
    rotary = Rotary(base=500.0, scaling=scaling)
    model = GPT(VOCABULARY, DIM, heads=4, layers=2, rotary=rotary, tied=False, **settings).eval()
    for block, layer in zip(model.decoder.blocks, theirs.model.layers, strict=True):
        block.feed_forward = Experts(layer.mlp)
    weights = {
        name.replace("mlp.", "feed_forward.network."): x
        for name, x in named_as_ours(theirs).items()
    }
    model.load_state_dict(weights)
    return theirs, model


def gpt2():
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=32,
        n_embd=DIM,
        n_layer=2,
        n_head=4,
        attn_implementation="eager",
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.4)
    body = theirs.transformer
    model = GPT(VOCABULARY, DIM, 4, 2, max_len=32, activation="gelu_tanh").eval()
    pairs = [(model.embedding, body.wte), (model.position, body.wpe)]
    pairs += [(model.decoder.final_norm, body.ln_f)]
    for block, layer in zip(model.decoder.blocks, body.h, strict=True):
        pairs += [(block.attention_norm, layer.ln_1), (block.feed_forward_norm, layer.ln_2)]
        pairs += [(block.attention.out_proj, transposed(layer.attn.c_proj))]
        pairs += [(block.feed_forward.inner, transposed(layer.mlp.c_fc))]
        pairs += [(block.feed_forward.outer, transposed(layer.mlp.c_proj))]
        together = transposed(layer.attn.c_attn)
        for n, name in enumerate(("query_proj", "key_proj", "value_proj")):
            part = nn.Linear(DIM, DIM)
            part.weight.data = together.weight.data.chunk(3)[n]
            part.bias.data = together.bias.data.chunk(3)[n]
            pairs.append((getattr(block.attention, name), part))
    for copy, original in pairs:
        copy.load_state_dict(original.state_dict())
    return theirs, model


def transposed(layer):
    linear = nn.Linear(*layer.weight.shape)
    linear.weight.data, linear.bias.data = layer.weight.data.T, layer.bias.data
    return linear


MODELS = [llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, gpt_oss, gpt2]


@pytest.fixture(scope="module", params=MODELS, ids=lambda make: make.__name__)
def pair(request):
    return request.param()


def texts():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY, (2, LENGTH), generator=generator)


@torch.no_grad()
def test_the_logits_are_those_of_transformers(pair):
    theirs, model = pair
    expected = theirs(texts()).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(model(texts()), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_so_are_they_behind_padding(pair):
    theirs, model = pair
    is_token = torch.arange(LENGTH) >= torch.tensor([[0], [5]])
    places = (is_token.long().cumsum(-1) - 1).clamp(min=0)
    expected = theirs(texts(), attention_mask=is_token.long(), position_ids=places).logits
    logits = model(texts(), is_token=is_token)
    torch.testing.assert_close(logits[is_token], expected[is_token], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_so_are_they_token_by_token_with_a_cache(pair):
    theirs, model = pair
    cache = model.new_cache()
    logits = [model(new, cache=cache) for new in texts().split([5, 1, 1, 1, 4], dim=1)]
    expected = theirs(texts()).logits
    torch.testing.assert_close(torch.cat(logits, 1), expected, rtol=1e-4, atol=1e-4)
