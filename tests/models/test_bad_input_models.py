"""The Transformers, their block, and what reads sound and weights refuse bad input.

A table of call × defect: each row holds the call, the error, and the parts of its message.
"""

import pytest
import torch
from refusals import assert_refuses
from torch import nn

from attn_core.models.bert import BERT, MaskedTokenHead
from attn_core.models.block import Block, FeedForward
from attn_core.models.gpt import GPT
from attn_core.models.spectrogram import log_mel, mel_filters
from attn_core.models.transformer import Transformer, TransformerDecoder, TransformerEncoder
from attn_core.models.vit import ViT
from attn_core.models.weights import load_weights, read_ctranslate2, read_safetensors
from attn_core.models.whisper import Whisper
from attn_core.positions import Rotary

X = torch.ones(2, 3, 8)
IDS = torch.tensor([[1, 2, 3]])
SOUND = torch.ones(1, 80, 6)
IMAGES = torch.ones(2, 1, 4, 4)

block = Block(8, 2)
crossing = Block(8, 2, cross=True)
encoder = TransformerEncoder(8, 2, 2)
decoder = TransformerDecoder(8, 2, 2)
transformer = Transformer(5, 6, 8, 2, 1)
gpt = GPT(5, 8, 2, 1, max_len=4)
bert = BERT(5, 8, 2, 1, max_len=4, pooler=False)
pooling = BERT(5, 8, 2, 1, max_len=4, head=True)
vit = ViT(4, 2, 1, 3, 8, 2, 1)
whisper = Whisper(9, 8, 2, 1, max_frames=4, max_len=4)


def gpt_cache(length):
    cache = gpt.new_cache()
    gpt(IDS[:, :length], cache=cache)
    return cache


def torch_encoder(**options):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


BLOCK = {
    "feed-forward width zero": (lambda: FeedForward(0), ValueError, ["dim", "0"]),
    "feed-forward inner float": (lambda: FeedForward(8, 8.0), TypeError, ["hidden_dim", "8.0"]),
    "feed-forward activation": (
        lambda: FeedForward(8, activation="tanh"),
        ValueError,
        ["activation", "'tanh'", "'swiglu'"],
    ),
    "feed-forward dropout": (lambda: FeedForward(8, dropout=1.0), ValueError, ["dropout", "1.0"]),
    "block heads": (lambda: Block(8, 3), ValueError, ["dim 8", "heads 3"]),
    "block norm": (lambda: Block(8, 2, norm="none"), ValueError, ["norm", "'none'", "'pre'"]),
    "block kind of norm": (
        lambda: Block(8, 2, norm_kind="batch"),
        ValueError,
        ["norm_kind", "'batch'", "'rms'"],
    ),
    "block flag": (lambda: Block(8, 2, qk_norm="no"), TypeError, ["qk_norm", "'no'"]),
    "block bias": (lambda: Block(8, 2, bias=0), TypeError, ["bias", "0"]),
    "feed-forward bias": (lambda: FeedForward(8, bias=None), TypeError, ["bias", "None"]),
    "block head width": (lambda: Block(8, 2, head_dim=0), ValueError, ["head_dim", "0"]),
    "block dropout": (lambda: Block(8, 2, dropout=-0.1), ValueError, ["dropout", "-0.1"]),
    "block rotary": (lambda: Block(8, 2, rotary=True), TypeError, ["rotary", "True"]),
    "block unknown argument": (lambda: Block(8, 2, biases=False), TypeError, ["biases"]),
    "block memory missing": (lambda: crossing(X), ValueError, ["memory", "missing"]),
    "block memory too many": (lambda: block(X, X), ValueError, ["memory", "no cross-attention"]),
    "feed-forward x": (lambda: FeedForward(8)(X[..., :4]), ValueError, ["x", "8", "(2, 3, 4)"]),
    "block x width": (lambda: block(X[..., :4]), ValueError, ["x", "8", "(2, 3, 4)"]),
    "block x matrix": (lambda: block(X[0]), ValueError, ["x", "(3, 8)"]),
    "block x double": (lambda: block(X.double()), TypeError, ["x", "float64", "float32"]),
    "block x list": (lambda: block([[1.0]]), TypeError, ["x", "list"]),
    "block memory width": (lambda: crossing(X, X[..., :4]), ValueError, ["memory", "(2, 3, 4)"]),
    "block mask of numbers": (lambda: block(X, mask=torch.ones(3, 3)), TypeError, ["mask", "bias"]),
    "block eps": (lambda: Block(8, 2, eps="a"), TypeError, ["eps", "'a'"]),
    "block eps below 0": (lambda: Block(8, 2, eps=-1.0), ValueError, ["eps", "-1.0"]),
    "block cache": (lambda: block(X, cache=3), TypeError, ["cache", "new_cache", "int"]),
    "block weights": (
        lambda: block(X, return_weights="no"),
        TypeError,
        ["return_weights", "'no'"],
    ),
    "stack norm": (
        lambda: TransformerEncoder(8, 2, 1, final_norm="no"),
        TypeError,
        ["final_norm", "'no'"],
    ),
    "stack cache": (lambda: gpt(IDS, cache=[3]), TypeError, ["cache", "[3]"]),
    "stack cache of one": (
        lambda: gpt.decoder(X, cache=block.new_cache()),
        TypeError,
        ["cache", "BlockCache"],
    ),
    "transformer cache": (
        lambda: transformer.decode(IDS, X[:1], cache=3),
        TypeError,
        ["cache", "3"],
    ),
    "whisper cache": (lambda: whisper.decode(IDS, X[:1], cache=()), TypeError, ["cache", "()"]),
    "transformer without memory": (
        lambda: transformer.decode(IDS, None),
        TypeError,
        ["memory", "NoneType"],
    ),
    "transformer memory width": (
        lambda: transformer.decode(IDS, X[..., :4]),
        ValueError,
        ["memory", "8", "(2, 3, 4)"],
    ),
    "bert flag": (lambda: BERT(5, 8, 2, 1, pooler="no"), TypeError, ["pooler", "'no'"]),
    "bert eps": (lambda: BERT(5, 8, 2, 1, eps="a"), TypeError, ["eps", "'a'"]),
    "bert pools a list": (lambda: pooling.pool([1]), TypeError, ["states", "list"]),
    "bert pools a matrix": (lambda: pooling.pool(X[0]), ValueError, ["states", "(3, 8)"]),
    "bert pools another width": (
        lambda: pooling.pool(X[..., :4]),
        ValueError,
        ["states", "8", "(2, 3, 4)"],
    ),
    "bert guesses nothing": (lambda: pooling.guess(None), TypeError, ["states", "NoneType"]),
    "weights for no model": (lambda: load_weights(3, {}), TypeError, ["model", "int"]),
    "weights in a list": (
        lambda: load_weights(nn.Linear(1, 1), [1]),
        TypeError,
        ["tensors", "list"],
    ),
    "weights of numbers": (
        lambda: load_weights(nn.Linear(1, 1), {"weight": 1}),
        TypeError,
        ["weight", "int"],
    ),
    "block cache option": (lambda: block.new_cache(room=3), TypeError, ["room"]),
}
STACKS = {
    "encoder no layers": (lambda: TransformerEncoder(8, 2, 0), ValueError, ["layers", "0"]),
    "encoder layers float": (lambda: TransformerEncoder(8, 2, 1.5), TypeError, ["layers", "1.5"]),
    "encoder unknown argument": (
        lambda: TransformerEncoder(8, 2, 1, activate="relu"),
        TypeError,
        ["activate"],
    ),
    "decoder no memory": (lambda: decoder(X), ValueError, ["memory", "missing"]),
    "decoder another's cache": (
        lambda: decoder(X, X, cache=TransformerDecoder(8, 2, 3).new_cache()),
        ValueError,
        ["cache", "3", "2"],
    ),
    "decoder memory of another batch": (
        lambda: decoder(X, X[:1].expand(3, -1, -1)),
        ValueError,
        ["(2, ", "(3, "],
    ),
    "copy no stack": (
        lambda: TransformerEncoder.from_torch(nn.Linear(1, 1)),
        TypeError,
        ["stack", "TransformerEncoder", "Linear"],
    ),
    "copy a decoder as an encoder": (
        lambda: TransformerDecoder.from_torch(torch_encoder()),
        TypeError,
        ["stack", "TransformerDecoder", "TransformerEncoder"],
    ),
    "copy another activation": (
        lambda: TransformerEncoder.from_torch(torch_encoder(activation=torch.tanh)),
        ValueError,
        ["activation", "tanh"],
    ),
    "transformer vocabulary": (lambda: Transformer(0, 5, 8, 2, 1), ValueError, ["source_size"]),
    "transformer target": (lambda: Transformer(5, 5.0, 8, 2, 1), TypeError, ["target_size"]),
    "transformer dropout": (
        lambda: Transformer(5, 5, 8, 2, 1, dropout=2),
        ValueError,
        ["dropout", "2"],
    ),
    "transformer source beyond": (
        lambda: transformer(IDS + 3, IDS),
        ValueError,
        ["source", "0 to 4", "4 to 6"],
    ),
    "transformer target floats": (
        lambda: transformer(IDS, IDS.float()),
        TypeError,
        ["target", "float32"],
    ),
    "transformer target list": (lambda: transformer(IDS, [[1]]), TypeError, ["target", "list"]),
    "transformer target vector": (
        lambda: transformer(IDS, IDS[0]),
        ValueError,
        ["target", "(3,)"],
    ),
    "transformer batches": (
        lambda: transformer(IDS, IDS.expand(2, -1)),
        ValueError,
        ["source", "target", "1", "2"],
    ),
    "transformer longest": (lambda: transformer.generate(IDS, 0), ValueError, ["max_length", "0"]),
}
LANGUAGE = {
    "gpt no positions": (lambda: GPT(5, 8, 2, 1), ValueError, ["max_len", "rotary", "None"]),
    "gpt two positions": (
        lambda: GPT(5, 8, 2, 1, max_len=4, rotary=Rotary(4)),
        ValueError,
        ["max_len", "rotary", "4"],
    ),
    "gpt vocabulary": (lambda: GPT(0, 8, 2, 1, max_len=4), ValueError, ["vocab_size", "0"]),
    "gpt window": (lambda: GPT(5, 8, 2, 1, max_len=4, window=-1), ValueError, ["-1"]),
    "gpt too long": (lambda: gpt(torch.ones(1, 5).long()), ValueError, ["max_len", "4"]),
    "gpt ids beyond": (lambda: gpt(IDS + 3), ValueError, ["ids", "0 to 4", "6"]),
    "gpt ids negative": (lambda: gpt(IDS - 2), ValueError, ["ids", "-1"]),
    "gpt ids bool": (lambda: gpt(IDS > 1), TypeError, ["ids", "bool"]),
    "gpt ids empty": (lambda: gpt(IDS[:, :0]), ValueError, ["ids", "(1, 0)"]),
    "gpt nothing to predict": (lambda: gpt.loss(IDS[:, :1]), ValueError, ["ids", "(1, 1)"]),
    "gpt loss of a list": (lambda: gpt.loss([[1, 2]]), TypeError, ["ids", "list"]),
    "gpt steps": (lambda: gpt.generate(IDS, 0), ValueError, ["steps", "0"]),
    "gpt more steps than positions": (lambda: gpt.generate(IDS, 3), ValueError, ["max_len", "4"]),
    "gpt cold": (
        lambda: gpt.generate(IDS, 1, temperature=-1.0),
        ValueError,
        ["temperature", "-1.0"],
    ),
    "gpt temperature text": (
        lambda: gpt.generate(IDS, 1, temperature="hot"),
        TypeError,
        ["temperature", "'hot'"],
    ),
    "gpt top none": (lambda: gpt.generate(IDS, 1, top_k=0), ValueError, ["top_k", "0"]),
    "gpt top float": (lambda: gpt.generate(IDS, 1, top_k=2.0), TypeError, ["top_k", "2.0"]),
    "gpt one window too few": (
        lambda: GPT(5, 8, 2, 2, max_len=4, window=[3]),
        ValueError,
        ["window", "2 blocks", "[3]"],
    ),
    "gpt tied": (lambda: GPT(5, 8, 2, 1, max_len=4, tied=1), TypeError, ["tied", "1"]),
    "gpt is_token of numbers": (
        lambda: gpt(IDS, is_token=torch.ones_like(IDS)),
        TypeError,
        ["is_token", "bool", "int64"],
    ),
    "gpt is_token of another length": (
        lambda: gpt(IDS, is_token=torch.ones(1, 2).bool()),
        ValueError,
        ["is_token", "(1, 3)", "(1, 2)"],
    ),
    "gpt is_token of the new tokens only": (
        lambda: gpt(IDS[:, 1:], is_token=torch.ones(1, 2).bool(), cache=gpt_cache(1)),
        ValueError,
        ["is_token", "(1, 3)", "(1, 2)"],
    ),
    "gpt mask of numbers": (
        lambda: gpt(IDS, mask=torch.ones(3, 3)),
        TypeError,
        ["bool", "float32"],
    ),
    "gpt positions beyond": (
        lambda: gpt(IDS, positions=torch.tensor([0, 1, 4])),
        ValueError,
        ["positions", "0 to 3", "4"],
    ),
    "gpt positions where it rotates": (
        lambda: GPT(5, 8, 2, 1, rotary=Rotary(4))(IDS, positions=torch.arange(3)),
        ValueError,
        ["positions", "rotates"],
    ),
    "gpt generates behind padding": (
        lambda: gpt.generate(IDS, 1, is_token=torch.tensor([[True, True, False]])),
        ValueError,
        ["is_token", "in front"],
    ),
    "a mask too few": (
        lambda: gpt.decoder(X, mask=[None, None]),
        ValueError,
        ["mask", "2 entries", "1 blocks"],
    ),
    "bert vocabulary": (lambda: BERT(0, 8, 2, 1), ValueError, ["vocab_size", "0"]),
    "bert segments": (lambda: BERT(5, 8, 2, 1, segments=0), ValueError, ["segments", "0"]),
    "bert too long": (lambda: bert(torch.ones(1, 5).long()), ValueError, ["max_len", "4"]),
    "bert mask of numbers": (lambda: bert(IDS, IDS), TypeError, ["is_token", "int64"]),
    "bert mask shape": (
        lambda: bert(IDS, IDS[:, :2] > 0),
        ValueError,
        ["is_token", "(1, 3)", "(1, 2)"],
    ),
    "bert segment beyond": (lambda: bert(IDS, segments=IDS), ValueError, ["segment", "3"]),
    "bert no pooler": (lambda: bert.pool(X), ValueError, ["pooler"]),
    "bert no head": (lambda: bert.guess(X), ValueError, ["head"]),
    "bert no file": (lambda: BERT.from_safetensors("nowhere"), FileNotFoundError, ["config.json"]),
    "head width": (lambda: MaskedTokenHead(0, 5), ValueError, ["dim", "0"]),
}
SENSES = {
    "vit patch": (lambda: ViT(5, 2, 1, 3, 8, 2, 1), ValueError, ["image_size", "5", "2"]),
    "vit pool": (lambda: ViT(4, 2, 1, 3, 8, 2, 1, pool="max"), ValueError, ["pool", "'max'"]),
    "vit classes": (lambda: ViT(4, 2, 1, 0, 8, 2, 1), ValueError, ["classes", "0"]),
    "vit images shape": (lambda: vit(IMAGES[..., :2]), ValueError, ["images", "(2, 1, 4, 2)"]),
    "vit one image": (lambda: vit(IMAGES[0]), ValueError, ["images", "(1, 4, 4)"]),
    "vit bytes": (lambda: vit(IMAGES.byte()), TypeError, ["images", "uint8"]),
    "vit doubles": (lambda: vit(IMAGES.double()), TypeError, ["images", "float64", "float32"]),
    "mel no bands": (lambda: mel_filters(0), ValueError, ["bands", "0"]),
    "mel one bin": (lambda: mel_filters(80, bins=1), ValueError, ["bins", "1"]),
    "mel rate": (lambda: mel_filters(80, rate=-1), ValueError, ["rate", "-1"]),
    "sound list": (lambda: log_mel([0.0] * 500), TypeError, ["audio", "list"]),
    "sound integers": (lambda: log_mel(torch.ones(500).short()), TypeError, ["audio", "int16"]),
    "sound number": (lambda: log_mel(torch.tensor(1.0)), ValueError, ["audio", "()"]),
    "sound empty": (lambda: log_mel(torch.ones(0)), ValueError, ["audio", "(0,)"]),
    "sound short": (
        lambda: log_mel(torch.ones(399), seconds=None),
        ValueError,
        ["audio", "400", "(399,)"],
    ),
    "sound long": (
        lambda: log_mel(torch.ones(480_001)),
        ValueError,
        ["audio", "30.0", "480001", "cut"],
    ),
    "sound seconds": (lambda: log_mel(torch.ones(500), seconds="1"), TypeError, ["seconds", "'1'"]),
    "whisper vocabulary": (lambda: Whisper(0, 8, 2, 1), ValueError, ["vocab_size", "0"]),
    "whisper bands": (
        lambda: whisper.encode(SOUND[:, :5]),
        ValueError,
        ["(batch, 80,", "(1, 5, 6)"],
    ),
    "whisper one sound": (lambda: whisper.encode(SOUND[0]), ValueError, ["(80, 6)"]),
    "whisper integers": (lambda: whisper.encode(SOUND.int()), TypeError, ["int32"]),
    "whisper long sound": (
        lambda: whisper.encode(SOUND.repeat(1, 1, 2)),
        ValueError,
        ["max_len", "4"],
    ),
    "whisper long text": (
        lambda: whisper(SOUND, torch.ones(1, 5).long()),
        ValueError,
        ["max_len", "4"],
    ),
    "whisper ids": (lambda: whisper(SOUND, IDS + 8), ValueError, ["ids", "0 to 8", "11"]),
    "whisper longest": (lambda: whisper.generate(SOUND, 0), ValueError, ["max_length", "0"]),
    "whisper stereo": (
        lambda: whisper.transcribe(torch.ones(2, 500), None),
        ValueError,
        ["audio", "(2, 500)"],
    ),
    "whisper no sound": (lambda: whisper.transcribe("a.wav", None), TypeError, ["audio", "str"]),
    "whisper no tokenizer": (
        lambda: whisper.transcribe(torch.ones(500), None),
        TypeError,
        ["tokenizer", "None"],
    ),
    "whisper no file": (lambda: Whisper.from_ctranslate2("nowhere"), FileNotFoundError, ["model"]),
    "safetensors no file": (lambda: read_safetensors("nowhere"), FileNotFoundError, ["nowhere"]),
    "ctranslate2 no file": (lambda: read_ctranslate2("nowhere"), FileNotFoundError, ["nowhere"]),
    "weights of another shape": (
        lambda: load_weights(nn.Linear(1, 1), {"weight": torch.ones(2, 1), "bias": torch.ones(1)}),
        ValueError,
        ["Linear", "weight (2, 1) for (1, 1)"],
    ),
}


@pytest.mark.parametrize(
    ("call", "raises", "says"),
    [pytest.param(*row, id=name) for name, row in (BLOCK | STACKS | LANGUAGE | SENSES).items()],
)
def test_bad_input_is_refused_by_name(call, raises, says):
    assert_refuses(call, raises, says)
