"""Whatever is causal does not know the future, to the last bit.

One table of all causal mechanisms of the package. A later token is changed, a little or a lot, and
no bit of an earlier output may move: a maximum over all keys, a sum that is subtracted again, or a
border that a later token shifts would show here, however small their share is.
"""

import re
from functools import partial
from importlib import import_module

import pytest
import torch

from attn_core import attention, kernels, masks, normalizers, positions, scores
from attn_core.arguments import check_arguments
from attn_core.data.vocabulary import Vocabulary
from attn_core.models.copying import coverage
from attn_core.models.gpt import GPT
from attn_core.models.pointer import PointerGenerator
from attn_core.models.seq2seq import Seq2Seq
from attn_core.models.transformer import Transformer, TransformerDecoder
from attn_core.models.whisper import Whisper
from attn_core.modules import KVCache, MultiHeadAttention, MultiHeadLatentAttention, SelfAttention
from attn_core.positions import Rotary

LENGTH, WIDTH, HEADS = 70, 16, 4  # more than one block or chunk of everything
CHANGED = [1, 37, 69]
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def split(x, heads, seed):
    """Heads of a fixed projection of x: ``(..., heads, LENGTH, WIDTH / HEADS)``."""
    weight = normal(heads, WIDTH, WIDTH // HEADS, seed=seed, dtype=x.dtype)
    return x.unsqueeze(-3) @ weight


def query_key_value(x, kv_heads=HEADS):
    return split(x, HEADS, seed=1), split(x, kv_heads, seed=2), split(x, kv_heads, seed=3)


def assert_no_later_token_is_known(compute, x, changed):
    """``compute`` turns ``(..., LENGTH, WIDTH)`` into ``(..., LENGTH, ·)``."""
    before = compute(x)
    for size in (0.5, 200.0):
        other = x.clone()
        other[..., changed, :] = size * normal(WIDTH, seed=7, dtype=x.dtype)
        after = compute(other)
        assert torch.equal(after[..., :changed, :], before[..., :changed, :])
        assert not torch.equal(after[..., changed:, :], before[..., changed:, :])


MASKS = {
    "causal": lambda: masks.causal(),
    "window": lambda: masks.window(9, 0),
    "wide window cut": lambda: masks.window(9, 4) & masks.causal(),
    "global and window": lambda: (masks.window(9, 9) | masks.global_tokens(2)) & masks.causal(),
    "dilated": lambda: masks.dilated(5, 0, gap=2),
    "strided": lambda: masks.causal() & masks.strided(5),
    "sparse transformer": lambda: masks.sparse_transformer(8),
    "longformer cut": lambda: masks.longformer(8, 1) & masks.causal(),
    "bigbird cut": lambda: masks.bigbird(LENGTH, 5) & masks.causal(),
    "blocks": lambda: masks.causal() & masks.block_sparse(torch.ones(14, 14) > 0, 5),
    "documents": lambda: masks.causal() & masks.document(torch.arange(LENGTH)[None] // 20),
    "padding": lambda: masks.causal() & masks.padding([LENGTH]),
    "table": lambda: torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(),
    "no future and not itself": lambda: masks.causal() & ~masks.window(0, 0),
}
NORMALIZERS = {
    "softmax": normalizers.softmax,
    "temperature": partial(normalizers.softmax, temperature=0.5),
    "sink": partial(normalizers.softmax_with_sink, sink=0.3),
    "sparsemax": normalizers.sparsemax,
    "entmax15": normalizers.entmax15,
    "entmax": partial(normalizers.entmax, alpha=1.3),
    "entmax_bisect": partial(normalizers.entmax_bisect, alpha=1.7),
    "sigmoid": normalizers.sigmoid,
    "hard": normalizers.hard,
}
BIASES = {
    "ALiBi": lambda: positions.ALiBi(HEADS),
    "T5": lambda: positions.T5Bias(HEADS, bidirectional=False),
    "Shaw": lambda: positions.ShawBias(WIDTH // HEADS, max_distance=6),
    "Transformer-XL": lambda: positions.TransformerXLBias(HEADS, WIDTH // HEADS),
    "table": lambda: normal(HEADS, LENGTH, LENGTH, seed=5),
}
SCORES = {
    "dot": lambda: scores.dot,
    "scaled dot": lambda: scores.scaled_dot,
    "cosine": lambda: scores.cosine,
    "gaussian": lambda: scores.gaussian,
    "bilinear": lambda: scores.Bilinear(WIDTH // HEADS, WIDTH // HEADS),
    "additive": lambda: scores.Additive(WIDTH // HEADS, WIDTH // HEADS, 3),
}


def options_of_attention():
    """Calls of attention, each by what is special in it."""
    for name, mask in MASKS.items():
        yield f"mask: {name}", lambda mask=mask: {"mask": mask()}
    for name, normalizer in NORMALIZERS.items():
        yield (
            f"normaliser: {name}",
            lambda normalizer=normalizer: {"mask": masks.causal(), "normalizer": normalizer},
        )
        yield (
            f"normaliser in a window: {name}",
            lambda normalizer=normalizer: {"mask": masks.window(9, 0), "normalizer": normalizer},
        )
    for name, bias in BIASES.items():
        yield f"bias: {name}", lambda bias=bias: {"mask": masks.causal(), "bias": bias()}
        yield (
            f"bias in a window: {name}",
            lambda bias=bias: {"mask": masks.window(9, 0), "bias": bias()},
        )
    for name, score in SCORES.items():
        yield f"score: {name}", lambda score=score: {"mask": masks.causal(), "score": score()}
    yield "softcap", lambda: {"mask": masks.causal(), "softcap": 2.0}
    yield "scale", lambda: {"mask": masks.causal(), "scale": -0.7}
    yield "offset", lambda: {"mask": masks.causal(), "q_offset": 0}
    yield "offset of a batch", lambda: {"mask": masks.causal(), "q_offset": torch.tensor([0])}
    yield "queries that look further back", lambda: {"mask": masks.causal(), "q_offset": -3}


OPTIONS = dict(options_of_attention())


def made(options, dtype):
    """The options, with parameters and tables in the dtype of the call."""
    torch.manual_seed(0)
    options = options()
    for name, option in options.items():
        is_table = isinstance(option, torch.Tensor) and option.is_floating_point()
        if is_table or isinstance(option, torch.nn.Module):
            options[name] = option.to(dtype)
    return options


def known_kernels():
    """The names that ``kernels.use`` knows; each is a module."""
    with pytest.raises(ValueError, match="one of") as caught, kernels.use("?"):
        pass
    names = re.findall(r"'(\w+)'", str(caught.value))
    return {name: import_module(f"attn_core.kernels.{name}") for name in names}


KERNELS = known_kernels()


def refusal(kernel, dtype, kv_heads, options):
    inputs = query_key_value(normal(1, LENGTH, WIDTH, dtype=dtype), kv_heads)
    arguments = check_arguments(*inputs, **made(options, dtype))
    return KERNELS[kernel].refusal(arguments)


DTYPES = {"float32": torch.float32, "float64": torch.float64}
CALLS = [
    (call, kernel, dtype, kv_heads)
    for call, options in OPTIONS.items()
    for kernel in KERNELS
    for dtype, kv_heads in (("float32", 4), ("float64", 2))
    if refusal(kernel, DTYPES[dtype], kv_heads, options) is None
]


@pytest.mark.parametrize(("call", "kernel", "dtype", "kv_heads"), CALLS)
def test_attention_knows_no_later_token(call, kernel, dtype, kv_heads):
    options = made(OPTIONS[call], DTYPES[dtype])

    def compute(x):
        with kernels.use(kernel), torch.no_grad():
            return attention(*query_key_value(x, kv_heads), **options).transpose(1, 2).flatten(2)

    x = normal(1, LENGTH, WIDTH, dtype=DTYPES[dtype])
    for changed in CHANGED:
        assert_no_later_token_is_known(compute, x, changed)


def test_every_kernel_is_in_the_table_grouped_and_not():
    assert {(kernel, kv_heads) for _, kernel, _, kv_heads in CALLS} == {
        (kernel, kv_heads) for kernel in KERNELS for kv_heads in (4, 2)
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_row_is_normalised_whatever_the_other_rows_are(name, dtype):
    """A search that goes on until all rows have arrived moves the last digits of the others."""
    rows = normal(40, 30, dtype=DTYPES[dtype])
    before = NORMALIZERS[name](rows, -1)
    for size in (1e-3, 1.0, 30.0):
        others = rows.clone()
        others[20:] = size * normal(20, 30, seed=7, dtype=rows.dtype)
        assert torch.equal(NORMALIZERS[name](others, -1)[:20], before[:20])


def linear(x, **options):
    return kernels.linear_attention(*query_key_value(x, 2), causal=True, **options)


def delta(x, *, gates="", **options):
    """The rules of the delta family, with gates that the tokens set."""
    query, key, value = query_key_value(x, 2)
    if "beta" in gates:
        options["beta"] = split(x, 2, seed=4)[..., :1].sigmoid()
    if "decay" in gates:
        options["decay"] = torch.nn.functional.logsigmoid(split(x, 2, seed=5))
    key = torch.nn.functional.normalize(key, dim=-1)
    return kernels.delta_rule(query, key, value, **options)


def favor(x, **options):
    projection = normal(32, WIDTH // HEADS, seed=6, dtype=x.dtype)
    return kernels.favor(*query_key_value(x, 2), projection=projection, causal=True, **options)


def lsh(x, **options):
    rotations = normal(2, WIDTH // HEADS, 4, seed=6, dtype=x.dtype)
    query, _, value = query_key_value(x, 2)
    return kernels.lsh(
        query, value, buckets=8, rounds=2, rotations=rotations, causal=True, **options
    )


def relu_plus(x):
    return torch.relu(x) + 0.01


FAMILIES = {
    "linear attention, recurrent": partial(linear, chunk_size=1),
    "linear attention, in small chunks": partial(linear, chunk_size=8),
    "linear attention, in chunks": linear,
    "linear attention, parallel": partial(linear, chunk_size=128),
    "linear attention, another feature map": partial(linear, feature_map=relu_plus),
    **{
        f"{name}, {how}": partial(delta, gates=gates, chunk_size=size)
        for name, gates in (
            ("linear rule", ""),
            ("gated rule", "decay"),
            ("delta rule", "beta"),
            ("gated delta rule", "beta decay"),
        )
        for how, size in (("recurrent", 1), ("in small chunks", 8), ("in chunks", 64))
    },
    "FAVOR+": favor,
    "FAVOR+, scaled": partial(favor, scale=-0.3),
    "LSH": lsh,
    "LSH with itself": partial(lsh, attend_self=True),
}


@pytest.mark.parametrize("size", [1.0, 0.05])  # small tokens, so that a changed one stands out
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_know_no_later_token(name, dtype, size):
    def compute(x):
        return FAMILIES[name](x).transpose(1, 2).flatten(2)

    x = size * normal(1, LENGTH, WIDTH, dtype=DTYPES[dtype])
    for changed in CHANGED:
        assert_no_later_token_is_known(compute, x, changed)


@pytest.mark.parametrize("call", [partial(kernels.linformer), partial(kernels.nystrom)])
def test_what_cannot_be_causal_refuses_to_be(call):
    x = normal(1, 2, 8, 4)
    options = {kernels.linformer: {"key_projection": normal(3, 8)}}.get(call.func, {"landmarks": 2})
    with pytest.raises(ValueError, match="causal"):
        call(x, x, x, causal=True, **options)


def in_pieces(layer, cache, x, sizes=(1, 36, 1, 31, 1), **options):
    """As a prompt is read and then continued: some tokens at a time."""
    pieces = x.split(sizes, dim=1)
    return torch.cat([layer(piece, cache=cache, **options) for piece in pieces], dim=1)


def seeded(make):
    torch.manual_seed(0)
    return make()


def layers():
    """Layers ``(1, LENGTH, WIDTH)`` to ``(1, LENGTH, ·)``, each with how it is called."""
    causal = masks.causal()
    self_attention = SelfAttention(WIDTH)
    yield "self-attention", self_attention, lambda x: self_attention(x, mask=causal)
    for kv_heads in (4, 2, 1):
        for name, rotary in (("", None), (", rotary", Rotary(WIDTH // HEADS))):
            layer = MultiHeadAttention(WIDTH, HEADS, kv_heads=kv_heads, rotary=rotary)
            name = f"multi-head, {kv_heads} key heads{name}"
            yield name, layer, lambda x, m=layer: m(x, mask=causal)
            yield (
                f"{name}, window",
                layer,
                lambda x, m=layer: m(x, mask=masks.window(9, 0)),
            )
            for kind, make in (
                ("growing", KVCache),
                ("fixed", lambda: KVCache(max_len=LENGTH)),
            ):
                yield (
                    f"{name}, {kind} cache",
                    layer,
                    lambda x, m=layer, c=make: in_pieces(m, c(), x, mask=causal),
                )
            yield (
                f"{name}, sliding cache",
                layer,
                lambda x, m=layer: in_pieces(m, KVCache(window=9), x, mask=masks.window(9, 0)),
            )
    for absorbed in (True, False):
        latent = MultiHeadLatentAttention(WIDTH, HEADS, kv_rank=6, query_rank=5)
        name = f"latent, {'absorbed' if absorbed else 'naive'}"
        yield name, latent, lambda x, m=latent, a=absorbed: m(x, mask=causal, absorbed=a)
        yield (
            f"{name}, cache",
            latent,
            lambda x, m=latent, a=absorbed: in_pieces(m, KVCache(), x, mask=causal, absorbed=a),
        )
    for norm in ("pre", "post"):
        decoder = TransformerDecoder(WIDTH, HEADS, layers=2, norm=norm)
        memory = normal(1, 5, WIDTH, seed=8)
        yield (
            f"decoder, {norm}-norm",
            decoder,
            lambda x, m=decoder, memory=memory: m(x, memory.to(x.dtype)),
        )
    yield "coverage, and what is attended now", None, lambda x: x + coverage(x)


LAYERS = {name: (layer, call) for name, layer, call in seeded(lambda: list(layers()))}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_know_no_later_token(name, dtype):
    layer, call = LAYERS[name]
    if layer is not None:
        layer.to(DTYPES[dtype]).eval()
    x = normal(1, LENGTH, WIDTH, dtype=DTYPES[dtype])
    with torch.no_grad():
        for changed in CHANGED:
            assert_no_later_token_is_known(call, x, changed)


VOCABULARY = Vocabulary("abcdefghijklmnop")
SOURCE = torch.tensor([[5, 9, 7, 4, 12]])


def models():
    """Models, each with how target tokens ``(1, 24)`` become ``(1, 24, ·)``."""
    size = len(VOCABULARY)
    widths = {"dim": WIDTH, "heads": HEADS, "layers": 2}
    gpts = {
        "GPT": GPT(size, **widths, max_len=24),
        "GPT, rotary, grouped": GPT(size, **widths, rotary=Rotary(WIDTH // HEADS), kv_heads=2),
        "GPT, window": GPT(size, **widths, max_len=24, window=3),
    }
    for name, gpt in gpts.items():
        yield name, gpt, gpt
        yield (
            f"{name}, cached",
            gpt,
            lambda ids, m=gpt: in_pieces(m, m.new_cache(), ids, sizes=(1, 11, 1, 10, 1)),
        )
    transformer = Transformer(size, size, **widths)
    yield "Transformer", transformer, lambda ids: transformer(SOURCE, ids)
    whisper = Whisper(size, **widths, bands=4, max_frames=6, max_len=24)
    spectrogram = normal(1, 4, 12)
    yield "Whisper", whisper, lambda ids: whisper(spectrogram.to(weight_of(whisper)), ids)
    for kind in (None, "bahdanau", "luong"):
        seq2seq = Seq2Seq(VOCABULARY, VOCABULARY, attention=kind)
        yield f"recurrent, {kind}", seq2seq, lambda ids, m=seq2seq: m(SOURCE, ids)
    pointer = PointerGenerator(VOCABULARY)
    yield "pointer-generator", pointer, lambda ids: pointer(SOURCE, ids)


def weight_of(model):
    return next(model.parameters())


MODELS = {name: (model, call) for name, model, call in seeded(lambda: list(models()))}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_models_know_no_later_token(name, dtype):
    model, call = MODELS[name]
    model.to(DTYPES[dtype]).eval()
    ids = torch.randint(4, len(VOCABULARY), (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = call(ids)
        for changed in (1, 12, 23):
            other = ids.clone()
            other[:, changed:] = (other[:, changed:] - 4 + 7) % (len(VOCABULARY) - 4) + 4
            after = call(other)
            assert torch.equal(after[:, :changed], before[:, :changed])
            assert not torch.equal(after[:, changed:], before[:, changed:])


def leaky(x):
    """The mistake that the package is kept from: features divided by a maximum over all keys."""
    query, key, value = query_key_value(x)
    features = [torch.exp(y - y.amax((-1, -2), keepdim=True)) + 1e-6 for y in (query, key)]
    products = (features[0] @ features[1].mT).tril()
    return (products @ value / products.sum(-1, keepdim=True)).transpose(1, 2).flatten(2)


def test_the_test_sees_a_maximum_over_all_keys():
    x = normal(1, LENGTH, WIDTH)
    with pytest.raises(AssertionError):
        assert_no_later_token_is_known(leaky, x, 37)
