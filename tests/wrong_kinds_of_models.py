"""A right call of every model, of its methods, and of what trains, measures and marks models."""

import torch

from attn_core import diagnose, training
from attn_core.data.catalogues import Pair
from attn_core.data.vocabulary import Vocabulary
from attn_core.diagnosis import listings
from attn_core.models import (
    bert,
    block,
    copying,
    gpt,
    graph,
    hierarchical,
    pointer,
    seq2seq,
    spectrogram,
    transformer,
    translator,
    vit,
    weights,
    whisper,
)
from attn_core.scores import Additive


class Letters:
    """A tokenizer."""

    def decode(self, ids):
        return "a" * len(ids)


IDS = torch.ones(2, 3, dtype=torch.long)
WORDS = torch.full((2, 3), 4)
B = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
VOCABULARY = Vocabulary("ab")
PAIRS = [Pair("a b", "b a", ""), Pair("b a", "a b", "")]
THIRDS = torch.full((1, 2, 3), 1 / 3)
SOUND = torch.zeros(16_000)
SPECTROGRAM = torch.zeros(1, 4, 8)
TOKEN = torch.ones(1, 1, dtype=torch.long)

torch.manual_seed(0)
BLOCK = block.Block(8, 2, cross=True)
BERT = bert.BERT(9, 8, 2, 1).eval()
HEAD = bert.BERT(9, 8, 2, 1, head=True).eval()
GPT = gpt.GPT(9, 8, 2, 1, max_len=6).eval()
TRANSFORMER = transformer.Transformer(9, 9, 8, 2, 1).eval()
ENCODER = transformer.TransformerEncoder(8, 2, 1)
DECODER = transformer.TransformerDecoder(8, 2, 1)
VIT = vit.ViT(4, 2, 1, 2, 8, 2, 1)
IMAGES = torch.zeros(1, 1, 4, 4)
EDGES = torch.ones(3, 3) > 0
READER = hierarchical.ReadAndAttend(8, 4)
CLASSIFIER = hierarchical.HierarchicalClassifier(9, 2, embedding_dim=4, hidden_dim=4)
SEQ2SEQ = seq2seq.Seq2Seq(VOCABULARY, VOCABULARY, embedding_dim=4, hidden_dim=4, attention="luong")
POINTER = pointer.PointerGenerator(VOCABULARY, embedding_dim=4, hidden_dim=4)
TRANSLATOR = translator.Translator(PAIRS, "Luong", embedding_dim=4, hidden_dim=4, min_count=1)
ENDS_AT_ONCE = whisper.Rules(prompt=(1,), end=2, never=(0, 1, 3, 4, 5, 6, 7, 8))
WHISPER = whisper.Whisper(9, 8, 2, 1, bands=4, max_len=4, rules=ENDS_AT_ONCE).eval()
ADDITIVE = Additive(8, 8, 3)
STEP = torch.nn.Linear(1, 1)
TRAINING = {"model": STEP, "loss": lambda batch: STEP(batch).square().mean()}
SMALL = {"vocab_size": 9, "dim": 8, "heads": 2, "layers": 1}
TEACH = {"source": WORDS, "target": WORDS}


with torch.no_grad():
    MEMORY = SEQ2SEQ.encode(WORDS)
    READ, STATE = POINTER.encode(WORDS)
    HEARD = WHISPER.encode(SPECTROGRAM)

RIGHT = {
    "Block": (block.Block, {"dim": 8, "heads": 2}),
    "Block()": (block.Block(8, 2), {"x": B}),
    "Block.new_cache": (BLOCK.new_cache, {}),
    "FeedForward": (block.FeedForward, {"dim": 8, "hidden_dim": 8}),
    "FeedForward()": (block.FeedForward(8), {"x": B}),
    "GPT": (gpt.GPT, SMALL | {"max_len": 4}),
    "GPT()": (GPT, {"ids": IDS}),
    "GPT.loss": (GPT.loss, {"ids": IDS}),
    "GPT.generate": (GPT.generate, {"ids": IDS, "steps": 1}),
    "BERT": (bert.BERT, SMALL),
    "BERT()": (BERT, {"ids": IDS}),
    "BERT.embed": (BERT.embed, {"ids": IDS, "is_token": IDS > 0}),
    "BERT.pool": (BERT.pool, {"states": B}),
    "BERT.guess": (HEAD.guess, {"states": B}),
    "MaskedTokenHead": (bert.MaskedTokenHead, {"dim": 8, "vocab_size": 9}),
    "TransformerEncoder": (transformer.TransformerEncoder, {"dim": 8, "heads": 2, "layers": 1}),
    "TransformerEncoder()": (ENCODER, {"x": B}),
    "TransformerEncoder.from_torch": (
        transformer.TransformerEncoder.from_torch,
        {
            "stack": torch.nn.TransformerEncoder(
                torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1
            )
        },
    ),
    "TransformerDecoder": (transformer.TransformerDecoder, {"dim": 8, "heads": 2, "layers": 1}),
    "TransformerDecoder()": (DECODER, {"x": B, "memory": B}),
    "TransformerDecoder.from_torch": (
        transformer.TransformerDecoder.from_torch,
        {
            "stack": torch.nn.TransformerDecoder(
                torch.nn.TransformerDecoderLayer(8, 2, 8, batch_first=True), 1
            )
        },
    ),
    "Transformer": (
        transformer.Transformer,
        {"source_size": 9, "target_size": 9, "dim": 8, "heads": 2, "layers": 1},
    ),
    "Transformer()": (TRANSFORMER, {"source": IDS, "target": IDS}),
    "Transformer.encode": (TRANSFORMER.encode, {"source": IDS}),
    "Transformer.decode": (TRANSFORMER.decode, {"target": IDS, "memory": B}),
    "Transformer.loss": (TRANSFORMER.loss, {"source": IDS, "target": IDS}),
    "Transformer.generate": (TRANSFORMER.generate, {"source": IDS, "max_length": 1}),
    "ViT": (
        vit.ViT,
        {"image_size": 4, "patch_size": 2, "channels": 1, "classes": 2}
        | {"dim": 8, "heads": 2, "layers": 1},
    ),
    "ViT()": (VIT, {"images": IMAGES}),
    "ViT.patches": (VIT.patches, {"images": IMAGES}),
    "ViT.states": (VIT.states, {"images": IMAGES}),
    "ViT.loss": (VIT.loss, {"images": IMAGES, "labels": torch.zeros(1, dtype=torch.long)}),
    "GraphAttention": (graph.GraphAttention, {"in_dim": 8, "head_dim": 4, "heads": 2}),
    "GraphAttention()": (
        graph.GraphAttention(8, 4, 2),
        {"x": torch.ones(3, 8), "adjacency": EDGES},
    ),
    "GAT": (graph.GAT, {"in_dim": 8, "hidden_dim": 4, "classes": 2}),
    "GAT()": (graph.GAT(8, 4, 2, heads=2), {"x": torch.ones(3, 8), "adjacency": EDGES}),
    "ReadAndAttend": (hierarchical.ReadAndAttend, {"dim": 8, "hidden_dim": 4}),
    "ReadAndAttend()": (READER, {"x": B, "lengths": torch.tensor([3, 2])}),
    "HierarchicalClassifier": (
        hierarchical.HierarchicalClassifier,
        {"vocabulary_size": 9, "classes": 2},
    ),
    "HierarchicalClassifier()": (CLASSIFIER, {"documents": IDS[None]}),
    "HierarchicalClassifier.classify": (CLASSIFIER.classify, {"documents": IDS[None]}),
    "Seq2Seq": (seq2seq.Seq2Seq, {"source_vocab": VOCABULARY, "target_vocab": VOCABULARY}),
    "Seq2Seq()": (SEQ2SEQ, TEACH),
    "Seq2Seq.encode": (SEQ2SEQ.encode, {"source": WORDS}),
    "Seq2Seq.decode": (
        SEQ2SEQ.decode,
        {"previous": WORDS, "memory": MEMORY, "state": MEMORY.summary},
    ),
    "Seq2Seq.align": (SEQ2SEQ.align, TEACH),
    "Seq2Seq.loss": (SEQ2SEQ.loss, TEACH),
    "Seq2Seq.greedy": (SEQ2SEQ.greedy, {"source": WORDS, "max_length": 1}),
    "PointerGenerator": (pointer.PointerGenerator, {"vocabulary": VOCABULARY}),
    "PointerGenerator()": (POINTER, TEACH),
    "PointerGenerator.encode": (POINTER.encode, {"source": WORDS}),
    "PointerGenerator.decode": (
        POINTER.decode,
        {"previous": WORDS, "memory": READ, "state": STATE},
    ),
    "PointerGenerator.loss": (POINTER.loss, TEACH),
    "PointerGenerator.greedy": (POINTER.greedy, {"source": WORDS, "max_length": 1}),
    "pointer_mixture": (
        copying.pointer_mixture,
        {
            "generate": torch.full((1, 2, 4), 0.25),
            "weights": THIRDS,
            "p_generate": torch.ones(1, 2),
            "source": TOKEN.expand(1, 3),
            "size": 4,
        },
    ),
    "copy_batch": (copying.copy_batch, {"vocabulary": VOCABULARY, "sources": ["ab"]}),
    "coverage": (copying.coverage, {"weights": THIRDS}),
    "coverage_loss": (copying.coverage_loss, {"weights": THIRDS}),
    "Translator": (
        translator.Translator,
        {"train": PAIRS, "kind": "Luong", "embedding_dim": 4, "hidden_dim": 4, "min_count": 1},
    ),
    "Translator()": (TRANSLATOR, {"sources": ["a b"], "max_length": 1}),
    "Translator.batch": (TRANSLATOR.batch, {"pairs": PAIRS}),
    "Translator.epochs": (TRANSLATOR.epochs, {"pairs": PAIRS, "batch_size": 1}),
    "Translator.loss": (TRANSLATOR.loss, {"batch": (WORDS, WORDS)}),
    "Translator.align": (TRANSLATOR.align, {"source": "a b", "target": "a b"}),
    "Whisper": (whisper.Whisper, SMALL),
    "Whisper()": (WHISPER, {"spectrogram": SPECTROGRAM, "ids": TOKEN}),
    "Whisper.encode": (WHISPER.encode, {"spectrogram": SPECTROGRAM}),
    "Whisper.decode": (WHISPER.decode, {"ids": TOKEN, "memory": HEARD}),
    "Whisper.align": (WHISPER.align, {"spectrogram": SPECTROGRAM, "ids": TOKEN}),
    "Whisper.generate": (WHISPER.generate, {"spectrogram": SPECTROGRAM, "max_length": 1}),
    "mel_filters": (spectrogram.mel_filters, {"bands": 4, "bins": 17}),
    "log_mel": (spectrogram.log_mel, {"audio": SOUND, "bands": 4, "seconds": 1.0}),
    "load_weights": (
        weights.load_weights,
        {"model": torch.nn.Linear(1, 1, bias=False), "tensors": {"weight": torch.ones(1, 1)}},
    ),
    "Whisper.transcribe": (WHISPER.transcribe, {"audio": SOUND[:400], "tokenizer": Letters()}),
    "excerpt": (
        lambda source, width: listings.excerpt(source, (1, 1), width=width),
        {"source": "a = 1", "width": 9},
    ),
    "load": (listings.load, {"source": "a = 1"}),
    "outcome": (listings.outcome, {"call": list}),
    "softmax_of": (
        lambda call: listings.softmax_of(call, B),
        {"call": lambda x: x.softmax(-1)},
    ),
    "diagnose": (diagnose, {"function": lambda query, key, value: None}),
    "train": (training.train, TRAINING | {"batches": [torch.ones(1, 1)]}),
    "train_to_plateau": (
        training.train_to_plateau,
        TRAINING | {"epoch": lambda number: [torch.ones(1, 1)], "validate": lambda: 0.0},
    ),
    "length_batches": (training.length_batches, {"lengths": [2, 3], "batch_size": 1}),
}
