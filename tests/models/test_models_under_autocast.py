"""Every model trains under autocast in bfloat16: its gradients point where float32's point."""

import pytest
import torch

from attn_core import kernels
from attn_core.data.vocabulary import Vocabulary
from attn_core.masks import window
from attn_core.models.bert import BERT
from attn_core.models.copying import copy_batch
from attn_core.models.gpt import GPT
from attn_core.models.graph import GAT
from attn_core.models.hierarchical import HierarchicalClassifier, ReadAndAttend
from attn_core.models.pointer import PointerGenerator
from attn_core.models.seq2seq import Seq2Seq
from attn_core.models.transformer import Transformer
from attn_core.models.vit import ViT
from attn_core.models.whisper import Whisper
from attn_core.positions import Rotary

DIGITS = Vocabulary("0123456789")


def seq2seq(attention):
    model = Seq2Seq(DIGITS, DIGITS, embedding_dim=8, hidden_dim=16, attention=attention)
    source, target = DIGITS.pad(["2024", "7"])[0], DIGITS.pad(["42", "7"], bos=True, eos=True)[0]
    return model, lambda: model.loss(source, target)


def pointer():
    vocabulary = Vocabulary("ab")
    model = PointerGenerator(vocabulary, embedding_dim=8, hidden_dim=16)
    source, target, _ = copy_batch(vocabulary, ["axya", "b"], ["xa", "b"])
    return model, lambda: model.loss(source, target)


def reader():
    model = ReadAndAttend(dim=8, hidden_dim=8)
    x, goal = torch.randn(2, 5, 8), torch.randn(2, 16)
    return model, lambda: (model(x, torch.tensor([5, 2])).output - goal).square().mean()


def classifier():
    model = HierarchicalClassifier(10, 2, embedding_dim=8, hidden_dim=8)
    documents = torch.tensor([[[4, 5, 6], [7, 0, 0]], [[8, 9, 0], [0, 0, 0]]])
    goal = torch.tensor([0, 1])
    return model, lambda: torch.nn.functional.cross_entropy(model(documents), goal)


def gpt(length, **options):
    model = GPT(20, dim=16, heads=2, layers=1, **options)
    ids = torch.randint(20, (1, length))
    return model, lambda: model.loss(ids)


def bert(length):
    model = BERT(20, dim=16, heads=2, layers=1, max_len=length, pooler=False, head=True)
    ids = torch.randint(20, (2, length))
    is_token = torch.arange(length) < torch.tensor([[length], [3]])
    return model, lambda: torch.nn.functional.cross_entropy(
        model.guess(model(ids, is_token))[is_token], ids[is_token]
    )


def transformer(length):
    model = Transformer(20, 20, dim=16, heads=2, layers=1)
    tokens = torch.randint(1, 20, (2, length))
    tokens[1, 3:] = 0
    return model, lambda: model.loss(tokens, tokens)


def vit():
    model = ViT(8, patch_size=2, channels=1, classes=10, dim=16, heads=2, layers=1)
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4])
    return model, lambda: model.loss(images, labels)


def whisper():
    model = Whisper(20, dim=16, heads=2, layers=1, bands=4, max_frames=20)
    spectrogram, ids = torch.randn(2, 4, 20), torch.randint(20, (2, 5))
    return model, lambda: torch.nn.functional.cross_entropy(
        model(spectrogram, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
    )


def gat(version):
    model = GAT(8, hidden_dim=4, classes=3, heads=2, version=version)
    x, edges, goal = torch.randn(6, 8), torch.rand(6, 6) > 0.5, torch.arange(6) % 3
    return model, lambda: torch.nn.functional.cross_entropy(model(x, edges), goal)


MODELS = {
    "seq2seq, plain": lambda: seq2seq(None),
    "seq2seq, bahdanau": lambda: seq2seq("bahdanau"),
    "seq2seq, luong": lambda: seq2seq("luong"),
    "pointer": pointer,
    "reader": reader,
    "classifier": classifier,
    "gpt": lambda: gpt(20, max_len=20),
    "gpt, long": lambda: gpt(600, max_len=600),
    "gpt, window": lambda: gpt(20, rotary=Rotary(), window=5),
    "gpt, window, long": lambda: gpt(1100, rotary=Rotary(), window=5),
    "bert": lambda: bert(9),
    "bert, long": lambda: bert(600),
    "transformer": lambda: transformer(9),
    "transformer, long": lambda: transformer(600),
    "vit": vit,
    "whisper": whisper,
    "gat 1": lambda: gat(1),
    "gat 2": lambda: gat(2),
}


@pytest.mark.parametrize("name", MODELS)
def test_autocast_gives_the_gradients_of_float32(name):
    torch.manual_seed(0)
    model, loss = MODELS[name]()
    exact = torch.autograd.grad(loss(), list(model.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss()
    rounded = torch.autograd.grad(value, list(model.parameters()))
    exact, rounded = (torch.cat([g.flatten() for g in gs]) for gs in (exact, rounded))
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.99
    assert (exact - rounded).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("kind", [None, "bahdanau", "luong"])
def test_a_translation_is_written_under_autocast(kind):
    torch.manual_seed(0)
    model, _ = seq2seq(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.eval().greedy(DIGITS.pad(["2024", "7"])[0], max_length=3)
    assert found.tokens.shape[0] == 2


def test_the_long_cases_run_on_another_kernel_than_the_short_ones():
    short, long = torch.zeros(1, 2, 20, 8), torch.zeros(1, 2, 1100, 8)
    assert kernels.which(short, short, short, mask=window(5, 0)).kernel == "sdpa"
    assert kernels.which(long, long, long, mask=window(5, 0)).kernel == "banded"
