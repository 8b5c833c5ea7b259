"""Graph attention, the pointer-generator and the hierarchical classifier refuse bad input.

A table of call × defect: each row holds the call, the error, and the parts of its message.
"""

import numpy as np
import pytest
import torch
from refusals import assert_refuses

from attn_core import reference
from attn_core.data.vocabulary import Vocabulary
from attn_core.models.copying import copy_batch, coverage, coverage_loss, pointer_mixture
from attn_core.models.graph import GAT, GraphAttention
from attn_core.models.hierarchical import HierarchicalClassifier, ReadAndAttend
from attn_core.models.pointer import PointerGenerator

X = torch.ones(3, 4)
EDGES = torch.ones(3, 3, dtype=torch.bool)
ELSEWHERE = {"device": "meta"}
layer = GraphAttention(4, 2)
model = GAT(4, 2, 3)

GRAPH = {
    "layer width zero": (lambda: GraphAttention(0, 2), ValueError, ["in_dim", "0"]),
    "layer head width float": (lambda: GraphAttention(4, 2.0), TypeError, ["head_dim", "2.0"]),
    "layer no heads": (lambda: GraphAttention(4, 2, 0), ValueError, ["heads", "0"]),
    "layer version 3": (lambda: GraphAttention(4, 2, version=3), ValueError, ["version", "3"]),
    "layer version name": (lambda: GraphAttention(4, 2, version="v2"), ValueError, ["version"]),
    "layer version True": (lambda: GraphAttention(4, 2, version=True), ValueError, ["version"]),
    "layer slope name": (
        lambda: GraphAttention(4, 2, negative_slope="steep"),
        TypeError,
        ["negative_slope", "'steep'"],
    ),
    "layer slope infinite": (
        lambda: GraphAttention(4, 2, negative_slope=float("inf")),
        ValueError,
        ["negative_slope", "inf"],
    ),
    "layer dropout 1": (lambda: GraphAttention(4, 2, dropout=1), ValueError, ["dropout", "1"]),
    "nodes list": (lambda: layer([[1.0]], EDGES), TypeError, ["x", "list"]),
    "nodes integers": (lambda: layer(X.long(), EDGES), TypeError, ["x", "int64"]),
    "nodes vector": (lambda: layer(X[0], EDGES), ValueError, ["x", "(4,)"]),
    "nodes width": (lambda: layer(X[:, :3], EDGES), ValueError, ["x", "4", "(3, 3)"]),
    "nodes dtype": (lambda: layer(X.double(), EDGES), TypeError, ["x", "float64", "float32"]),
    "nodes elsewhere": (lambda: layer(X.to(**ELSEWHERE), EDGES), ValueError, ["x", "meta", "cpu"]),
    "edges floats": (lambda: layer(X, EDGES.float()), TypeError, ["adjacency", "float32"]),
    "edges list": (lambda: layer(X, [[True]]), TypeError, ["adjacency", "list"]),
    "edges not square": (lambda: layer(X, EDGES[:2]), ValueError, ["adjacency", "(2, 3)"]),
    "edges of another batch": (
        lambda: layer(X.expand(2, 3, 4), EDGES.expand(5, 3, 3)),
        ValueError,
        ["adjacency", "(2, 3, 3)", "(5, 3, 3)"],
    ),
    "edges elsewhere": (
        lambda: layer(X, EDGES.to(**ELSEWHERE)),
        ValueError,
        ["adjacency", "meta", "cpu"],
    ),
    "model no classes": (lambda: GAT(4, 2, 0), ValueError, ["classes", "0"]),
    "model hidden float": (lambda: GAT(4, 2.5, 3), TypeError, ["hidden_dim", "2.5"]),
    "model out heads": (lambda: GAT(4, 2, 3, out_heads=0), ValueError, ["out_heads", "0"]),
    "model version": (lambda: GAT(4, 2, 3, version=0), ValueError, ["version", "0"]),
    "model dropout": (lambda: GAT(4, 2, 3, dropout=-0.1), ValueError, ["dropout", "-0.1"]),
    "model nodes width": (lambda: model(X[:, :3], EDGES), ValueError, ["x", "(3, 3)"]),
    "model edges floats": (lambda: model(X, X), TypeError, ["adjacency", "float32"]),
}

LETTERS = Vocabulary("ab")
pointer = PointerGenerator(LETTERS, embedding_dim=4, hidden_dim=4)
SOURCE, TARGET, _ = copy_batch(LETTERS, ["ax", "b"], ["xa", "b"])
WEIGHTS = torch.full((2, 3, 4), 0.25)
GENERATE = torch.full((2, 3, 5), 0.2)
SHARE = torch.full((2, 3), 0.5)
WORDS = torch.zeros(2, 4, dtype=torch.int64)

POINTER = {
    "no sources": (lambda: copy_batch(LETTERS, []), ValueError, ["sources", "none"]),
    "empty source": (lambda: copy_batch(LETTERS, ["a", ""]), ValueError, ["sources", "row 1"]),
    "targets too few": (
        lambda: copy_batch(LETTERS, ["a", "b"], ["a"]),
        ValueError,
        ["sources", "targets", "2", "1"],
    ),
    "coverage integers": (lambda: coverage(WORDS), TypeError, ["weights", "int64"]),
    "coverage vector": (lambda: coverage(torch.ones(3)), ValueError, ["weights", "(3,)"]),
    "coverage loss list": (lambda: coverage_loss([[1.0]]), TypeError, ["weights", "list"]),
    "coverage loss vector": (lambda: coverage_loss(torch.ones(3)), ValueError, ["weights"]),
    "mixture generate list": (
        lambda: pointer_mixture([0.5], WEIGHTS, SHARE, WORDS, 6),
        TypeError,
        ["generate", "list"],
    ),
    "mixture dtypes": (
        lambda: pointer_mixture(GENERATE.double(), WEIGHTS, SHARE, WORDS, 6),
        TypeError,
        ["weights", "float32", "generate", "float64"],
    ),
    "mixture share integers": (
        lambda: pointer_mixture(GENERATE, WEIGHTS, SHARE.long(), WORDS, 6),
        TypeError,
        ["p_generate", "int64"],
    ),
    "mixture share shape": (
        lambda: pointer_mixture(GENERATE, WEIGHTS, SHARE[..., None], WORDS, 6),
        ValueError,
        ["p_generate", "(2, 3)", "(2, 3, 1)"],
    ),
    "mixture generate steps": (
        lambda: pointer_mixture(GENERATE[:, :2], WEIGHTS, SHARE, WORDS, 6),
        ValueError,
        ["generate", "(2, 3)", "(2, 2)"],
    ),
    "mixture source floats": (
        lambda: pointer_mixture(GENERATE, WEIGHTS, SHARE, WORDS.float(), 6),
        TypeError,
        ["source", "float32"],
    ),
    "mixture source length": (
        lambda: pointer_mixture(GENERATE, WEIGHTS, SHARE, WORDS[:, :3], 6),
        ValueError,
        ["source", "(2, 4)", "(2, 3)"],
    ),
    "mixture source too high": (
        lambda: pointer_mixture(GENERATE, WEIGHTS, SHARE, WORDS + 6, 6),
        ValueError,
        ["source", "0 to 5", "6"],
    ),
    "mixture source negative": (
        lambda: pointer_mixture(GENERATE, WEIGHTS, SHARE, WORDS - 1, 6),
        ValueError,
        ["source", "-1"],
    ),
    "mixture size below the vocabulary": (
        lambda: pointer_mixture(GENERATE, WEIGHTS, SHARE, WORDS, 4),
        ValueError,
        ["size", "5", "4"],
    ),
    "mixture size float": (
        lambda: pointer_mixture(GENERATE, WEIGHTS, SHARE, WORDS, 6.0),
        TypeError,
        ["size", "6.0"],
    ),
    "model embedding zero": (
        lambda: PointerGenerator(LETTERS, embedding_dim=0),
        ValueError,
        ["embedding_dim", "0"],
    ),
    "model hidden float": (
        lambda: PointerGenerator(LETTERS, hidden_dim=4.0),
        TypeError,
        ["hidden_dim", "4.0"],
    ),
    "model dropout": (lambda: PointerGenerator(LETTERS, dropout=1.0), ValueError, ["dropout"]),
    "source floats": (lambda: pointer(SOURCE.float(), TARGET), TypeError, ["source", "float32"]),
    "source list": (lambda: pointer([[4]], TARGET), TypeError, ["source", "list"]),
    "source vector": (lambda: pointer(SOURCE[0], TARGET[:1]), ValueError, ["source", "(2,)"]),
    "source negative": (lambda: pointer(SOURCE - 9, TARGET), ValueError, ["source", "-"]),
    "source padded first": (
        lambda: pointer(SOURCE.flip(-1), TARGET),
        ValueError,
        ["source", "padding"],
    ),
    "target floats": (lambda: pointer(SOURCE, TARGET.float()), TypeError, ["target", "float32"]),
    "target empty": (lambda: pointer(SOURCE, TARGET[:, :0]), ValueError, ["target", "(2, 0)"]),
    "rows differ": (
        lambda: pointer(SOURCE, TARGET[:1]),
        ValueError,
        ["source and target", "2", "1"],
    ),
    "loss rows differ": (
        lambda: pointer.loss(SOURCE, TARGET[:1]),
        ValueError,
        ["source and target", "2", "1"],
    ),
    "loss of a word that cannot be written": (
        lambda: pointer.loss(SOURCE.flip(0)[:, :1], TARGET),
        ValueError,
        ["target", "[6]"],
    ),
    "loss weight name": (
        lambda: pointer.loss(SOURCE, TARGET, coverage_weight="much"),
        TypeError,
        ["coverage_weight", "'much'"],
    ),
    "loss target only begins": (
        lambda: pointer.loss(SOURCE, TARGET[:, :1]),
        ValueError,
        ["target", "(2, 0)"],
    ),
    "greedy no length": (lambda: pointer.greedy(SOURCE, 0), ValueError, ["max_length", "0"]),
    "greedy length float": (lambda: pointer.greedy(SOURCE, 2.0), TypeError, ["max_length", "2.0"]),
}

reader = ReadAndAttend(3, 4)
classifier = HierarchicalClassifier(9, 2)
DOCUMENT = torch.tensor([[[4, 5], [6, 0]]])
HIERARCHICAL = {
    "reader width": (lambda: ReadAndAttend(0, 4), ValueError, ["dim", "0"]),
    "reader hidden": (lambda: ReadAndAttend(3, 4.5), TypeError, ["hidden_dim", "4.5"]),
    "reader x matrix": (
        lambda: reader(torch.ones(5, 3), torch.tensor([5])),
        ValueError,
        ["x", "(5, 3)"],
    ),
    "reader x width": (
        lambda: reader(torch.ones(1, 5, 2), torch.tensor([5])),
        ValueError,
        ["x", "3", "(1, 5, 2)"],
    ),
    "reader lengths list": (
        lambda: reader(torch.ones(1, 5, 3), [5]),
        TypeError,
        ["lengths", "list"],
    ),
    "reader lengths floats": (
        lambda: reader(torch.ones(1, 5, 3), torch.tensor([5.0])),
        TypeError,
        ["lengths", "float32"],
    ),
    "reader lengths of another batch": (
        lambda: reader(torch.ones(1, 5, 3), torch.tensor([5, 5])),
        ValueError,
        ["lengths", "(1,)", "(2,)"],
    ),
    "reader length zero": (
        lambda: reader(torch.ones(1, 5, 3), torch.tensor([0])),
        ValueError,
        ["lengths", "0"],
    ),
    "reader length too long": (
        lambda: reader(torch.ones(1, 5, 3), torch.tensor([6])),
        ValueError,
        ["lengths", "5", "6"],
    ),
    "no words": (lambda: HierarchicalClassifier(0, 2), ValueError, ["vocabulary_size", "0"]),
    "no classes": (lambda: HierarchicalClassifier(9, 0), ValueError, ["classes", "0"]),
    "embedding float": (
        lambda: HierarchicalClassifier(9, 2, embedding_dim=1.5),
        TypeError,
        ["embedding_dim", "1.5"],
    ),
    "hidden zero": (
        lambda: HierarchicalClassifier(9, 2, hidden_dim=0),
        ValueError,
        ["hidden_dim", "0"],
    ),
    "dropout name": (
        lambda: HierarchicalClassifier(9, 2, dropout="half"),
        TypeError,
        ["dropout", "'half'"],
    ),
    "documents list": (lambda: classifier([[[4]]]), TypeError, ["documents", "list"]),
    "documents floats": (lambda: classifier(DOCUMENT * 1.0), TypeError, ["documents", "float32"]),
    "documents matrix": (lambda: classifier(DOCUMENT[0]), ValueError, ["documents", "(2, 2)"]),
    "documents none": (lambda: classifier(DOCUMENT[:0]), ValueError, ["documents", "(0, 2, 2)"]),
    "documents unknown word": (lambda: classifier(DOCUMENT + 8), ValueError, ["documents", "14"]),
    "documents negative": (lambda: classifier(DOCUMENT - 5), ValueError, ["documents", "-5"]),
    "padding before a word": (
        lambda: classifier(DOCUMENT.flip(2)),
        ValueError,
        ["documents", "padding after the words"],
    ),
    "no sentence": (
        lambda: classifier(torch.zeros(1, 2, 2).long()),
        ValueError,
        ["documents", "at least one"],
    ),
    "an empty sentence before another": (
        lambda: classifier(torch.tensor([[[4], [0], [5]]])),
        ValueError,
        ["documents", "sentences first"],
    ),
    "classify floats": (lambda: classifier.classify(DOCUMENT * 1.0), TypeError, ["documents"]),
}

EDGES_ = np.ones((2, 2), dtype=bool)
NODES, MATRIX, VECTOR = np.ones((2, 3)), np.ones((1, 4, 3)), np.ones((1, 4))
TWO = np.ones((2, 5, 3)) / 3
REFERENCE = {
    "graph edges": (
        lambda: reference.graph_attention(NODES, NODES, MATRIX, VECTOR, VECTOR),
        TypeError,
        ["adjacency", "float64"],
    ),
    "graph weight matrix": (
        lambda: reference.graph_attention(NODES, EDGES_, MATRIX[0], VECTOR, VECTOR),
        ValueError,
        ["weight", "(4, 3)"],
    ),
    "graph vector": (
        lambda: reference.graph_attention(NODES, EDGES_, MATRIX, VECTOR, VECTOR[:, :2]),
        ValueError,
        ["key_vector", "(1, 4)", "(1, 2)"],
    ),
    "graph slope": (
        lambda: reference.graph_attention(
            NODES, EDGES_, MATRIX, VECTOR, VECTOR, negative_slope=None
        ),
        TypeError,
        ["negative_slope", "None"],
    ),
    "graph backward": (
        lambda: reference.graph_attention_backward(NODES, NODES, EDGES_, MATRIX, VECTOR, VECTOR),
        ValueError,
        ["grad_output", "(2, 4)", "(2, 3)"],
    ),
    "graph v2 edges": (
        lambda: reference.graph_attention_v2(NODES, EDGES_[:1], MATRIX, MATRIX, VECTOR),
        ValueError,
        ["adjacency", "(2, 2)", "(1, 2)"],
    ),
    "graph v2 weight": (
        lambda: reference.graph_attention_v2(NODES, EDGES_, MATRIX, MATRIX[:, :2], VECTOR),
        ValueError,
        ["key_weight", "(1, 4, 3)", "(1, 2, 3)"],
    ),
    "graph v2 backward": (
        lambda: reference.graph_attention_v2_backward(NODES, NODES, EDGES_, MATRIX, MATRIX, VECTOR),
        ValueError,
        ["grad_output", "(2, 4)", "(2, 3)"],
    ),
    "mixture source": (
        lambda: reference.pointer_mixture(TWO, TWO, TWO[..., 0], TWO[:, 0], 4),
        TypeError,
        ["source", "float64"],
    ),
    "mixture share": (
        lambda: reference.pointer_mixture(TWO, TWO, TWO, np.zeros((2, 3), int), 4),
        ValueError,
        ["p_generate", "(2, 5)", "(2, 5, 3)"],
    ),
    "mixture size": (
        lambda: reference.pointer_mixture(TWO, TWO, TWO[..., 0], np.zeros((2, 3), int), 2),
        ValueError,
        ["size", "3", "2"],
    ),
    "mixture backward": (
        lambda: reference.pointer_mixture_backward(
            TWO, TWO, TWO, TWO[..., 0], np.zeros((2, 3), int), 4
        ),
        ValueError,
        ["grad_mixture", "(2, 5, 4)", "(2, 5, 3)"],
    ),
    "coverage vector": (lambda: reference.coverage(np.ones(3)), ValueError, ["weights", "(3,)"]),
    "coverage backward": (
        lambda: reference.coverage_backward(TWO[0], TWO),
        ValueError,
        ["grad_coverage", "(2, 5, 3)", "(5, 3)"],
    ),
    "coverage loss": (lambda: reference.coverage_loss([1.0]), TypeError, ["weights", "list"]),
    "coverage loss backward": (
        lambda: reference.coverage_loss_backward(TWO, TWO),
        ValueError,
        ["grad_loss", "(2, 5)", "(2, 5, 3)"],
    ),
}

TABLE = {
    f"{part} {defect}": row
    for part, table in (
        ("graph:", GRAPH),
        ("pointer:", POINTER),
        ("hierarchical:", HIERARCHICAL),
        ("reference:", REFERENCE),
    )
    for defect, row in table.items()
}


@pytest.mark.parametrize("defect", TABLE)
def test_a_defect_is_named(defect):
    call, raises, says = TABLE[defect]
    assert_refuses(call, raises, says)
