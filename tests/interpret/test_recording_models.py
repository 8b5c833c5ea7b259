"""Every layer and every model of the package can be recorded, and does not notice."""

import pytest
import torch
from refusals import assert_refuses
from torch import nn

from attn_core import attention, interpret, masks, modules
from attn_core.data.vocabulary import Vocabulary
from attn_core.models.bert import BERT
from attn_core.models.copying import copy_batch
from attn_core.models.gpt import GPT
from attn_core.models.graph import GAT
from attn_core.models.hierarchical import HierarchicalClassifier
from attn_core.models.pointer import PointerGenerator
from attn_core.models.seq2seq import Seq2Seq
from attn_core.models.transformer import Transformer, TransformerDecoder, TransformerEncoder
from attn_core.models.vit import ViT
from attn_core.models.whisper import Whisper

X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[4, 5, 6, 7], [8, 9, 3, 2]])
LETTERS = Vocabulary("abc")
COPIED = copy_batch(LETTERS, ["axya", "b"], ["xa", "b"])[:2]
PATH = torch.eye(6).roll(1, 0).bool() | torch.eye(6).bool()


def seq2seq(kind):
    return Seq2Seq(LETTERS, LETTERS, embedding_dim=4, hidden_dim=6, attention=kind)


# What makes it, what it is called with, and how many calls each layer is recorded with.
EVERYTHING = {
    "MultiHeadAttention": (
        lambda: modules.MultiHeadAttention(8, 4, kv_heads=2, dropout=0.3),
        [X],
        {"MultiHeadAttention": 1},
    ),
    "SelfAttention": (lambda: modules.SelfAttention(8), [X], {"SelfAttention": 1}),
    "AttentionPooling": (lambda: modules.AttentionPooling(8), [X], {"AttentionPooling": 1}),
    "MultiHeadLatentAttention": (
        lambda: modules.MultiHeadLatentAttention(8, 2, kv_rank=4, dropout=0.3),
        [X],
        {"MultiHeadLatentAttention": 1},
    ),
    "LocalMonotonic": (lambda: modules.LocalMonotonic(1), [X, X], {"LocalMonotonic": 1}),
    "LocalPredictive": (lambda: modules.LocalPredictive(8, 2), [X, X], {"LocalPredictive": 1}),
    "HardAttention": (lambda: modules.HardAttention(), [X, X], {"HardAttention": 1}),
    "HierarchicalAttention": (
        lambda: modules.HierarchicalAttention(8),
        [X.reshape(2, 3, 2, 8)],
        {"HierarchicalAttention": 2},  # words, then sentences
    ),
    "TransformerEncoder": (
        lambda: TransformerEncoder(8, 2, 2, dropout=0.3),
        [X],
        {"blocks.0.attention": 1, "blocks.1.attention": 1},
    ),
    "TransformerDecoder": (
        lambda: TransformerDecoder(8, 2, 1, dropout=0.3),
        [X, X],
        {"blocks.0.attention": 1, "blocks.0.memory_attention": 1},
    ),
    "Transformer": (
        lambda: Transformer(10, 10, dim=8, heads=2, layers=1),
        [IDS, IDS],
        {
            "encoder.blocks.0.attention": 1,
            "decoder.blocks.0.attention": 1,
            "decoder.blocks.0.memory_attention": 1,
        },
    ),
    "GPT": (
        lambda: GPT(10, dim=8, heads=2, layers=1, max_len=8),
        [IDS],
        {"decoder.blocks.0.attention": 1},
    ),
    "BERT": (
        lambda: BERT(10, dim=8, heads=2, layers=1),
        [IDS],
        {"encoder.blocks.0.attention": 1},
    ),
    "ViT": (
        lambda: ViT(4, patch_size=2, channels=1, classes=3, dim=8, heads=2, layers=1),
        [X[:, :2].reshape(2, 1, 4, 4)],
        {"encoder.blocks.0.attention": 1},
    ),
    "Whisper": (
        lambda: Whisper(10, 8, 2, 1, bands=8),
        [X.transpose(1, 2), IDS],
        {
            "encoder.blocks.0.attention": 1,
            "decoder.blocks.0.attention": 1,
            "decoder.blocks.0.memory_attention": 1,
        },
    ),
    "GAT": (lambda: GAT(8, 4, 3, heads=2), [X, PATH], {"hidden": 1, "output": 1}),
    "HierarchicalClassifier": (
        lambda: HierarchicalClassifier(10, 3),
        [IDS.reshape(2, 2, 2)],
        {"words": 1, "sentences": 1},
    ),
    "Seq2Seq luong": (
        lambda: seq2seq("luong"),
        [IDS.clamp(max=5), IDS.clamp(max=5)],
        {"decoder": 1},
    ),
    "Seq2Seq bahdanau": (
        lambda: seq2seq("bahdanau"),
        [IDS.clamp(max=5), IDS.clamp(max=5)],
        {"decoder": 4},
    ),
    "PointerGenerator": (
        lambda: PointerGenerator(LETTERS, embedding_dim=4, hidden_dim=6),
        list(COPIED),
        {"PointerGenerator": COPIED[1].shape[1]},
    ),
}


def results(model, inputs):
    model.zero_grad()
    torch.manual_seed(1)
    output = model(*inputs)
    tensors = [x for x in (output if isinstance(output, tuple) else [output])]
    learned = [x.sum() for x in tensors if x.requires_grad]
    if learned:
        sum(learned).backward()
    return tensors + [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", EVERYTHING)
def test_recording_changes_no_bit_of_output_and_gradients(name, training):
    make, inputs, calls = EVERYTHING[name]
    torch.manual_seed(0)
    model = make().train(training)
    before = results(model, inputs)
    with interpret.record(model) as layers:
        during = results(model, inputs)
    after = results(model, inputs)
    for one, two, three in zip(before, during, after, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    assert {layer: len(seen) for layer, seen in layers.items()} == calls
    for weights in [one for seen in layers.values() for one in seen]:
        assert (weights >= 0).all()
        assert (weights.sum(-1) <= 1 + 1e-5).all()
        assert weights.sum() > 0
    assert not any("forward" in vars(part) for part in model.modules())


def test_what_runs_beside_forward_belongs_to_the_model_itself():
    model = PointerGenerator(LETTERS, embedding_dim=4, hidden_dim=6).eval()
    with torch.no_grad(), interpret.record(model) as layers:
        weights = model.greedy(COPIED[0], max_length=4).weights
    seen = torch.cat([one[:, 0] for one in layers["PointerGenerator"]], dim=1)
    assert torch.equal(seen[:, : weights.shape[1]], weights)


class Own(nn.Module):
    """Somebody's own module, which calls attention and says nothing of weights."""

    def forward(self, x):
        return attention(x, x, x, mask=masks.causal())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Own()

    def forward(self, x):
        return attention(x, self.inner(x), x)


def test_a_module_of_ones_own_is_recorded_where_it_calls_attention():
    x = X[0]
    model = Twice()
    expected = attention(x, x, x, mask=masks.causal(), return_weights=True)
    with interpret.record(model) as layers:
        output = model(x)
        attention(x, x, x)  # not called by the model, but while it is recorded
    assert torch.equal(output, model(x))
    assert {name: len(calls) for name, calls in layers.items()} == {"inner": 1, "Twice": 2}
    assert torch.equal(layers["inner"][0], expected.weights[None])  # as one head
    outer = attention(x, expected.output, x, return_weights=True)
    assert torch.equal(layers["Twice"][0], outer.weights[None])
    attention(x, x, x)
    assert len(layers["Twice"]) == 2


def test_an_error_inside_the_model_leaves_nothing_behind():
    model = Twice()
    with pytest.raises(ValueError, match="query"), interpret.record(model) as layers:
        model(X[0, 0])
    model(X[0])
    assert layers == {}
    assert not any("forward" in vars(part) for part in model.modules())


def test_gradients_reach_the_weights_of_a_module_of_ones_own():
    model = Own()
    with interpret.record(model, with_gradients=True) as layers:
        target = model(X[0])[3].sum()
    # Without parameters nothing has a gradient, until the input has.
    assert not layers["Own"][0].requires_grad
    x = X[0].clone().requires_grad_()
    with interpret.record(model, with_gradients=True) as layers:
        target = model(x)[3].sum()
    (product,) = interpret.gradient_times_attention(target, layers["Own"])
    torch.testing.assert_close(product.sum(), target)


def test_a_model_that_attends_nowhere_is_refused():
    class Nothing(nn.Module):
        def forward(self, x):
            return x

    def run():
        with interpret.record(Nothing()) as layers:
            Nothing()(X)
        return layers

    assert_refuses(run, ValueError, ["Nothing", "no attention layer that ran"])


def test_heads_of_latent_attention_are_taken_out():
    torch.manual_seed(0)
    layer = modules.MultiHeadLatentAttention(8, 4, kv_rank=4, rotary_dim=2).eval()
    whole = layer(X)
    bias = 0 if layer.out_proj.bias is None else layer.out_proj.bias
    parts = []
    for head in range(4):
        others = [n for n in range(4) if n != head]
        with interpret.ablate_heads(layer, {"MultiHeadLatentAttention": others}):
            parts.append(layer(X) - bias)
    torch.testing.assert_close(sum(parts) + bias, whole)
    assert torch.equal(layer(X), whole)


@pytest.mark.parametrize("name", EVERYTHING)
def test_gradients_reach_the_weights_of_every_layer(name):
    make, inputs, _ = EVERYTHING[name]
    torch.manual_seed(0)
    model = make().eval()
    inputs = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    with interpret.record(model, with_gradients=True) as layers:
        output = model(*inputs)
    # The output of a hard choice has no gradient; the logarithm of its probability has.
    of_interest = output.log_prob if name == "HardAttention" else output
    target = (output.output if hasattr(of_interest, "output") else of_interest).square().sum()
    weights = [one for calls in layers.values() for one in calls]
    products = interpret.gradient_times_attention(target, weights)
    assert any((product != 0).any() for product in products)
