"""What attention adds to a small translator: four networks, each to its plateau, and two controls.

English messages of programs into Chinese, the split of `attn_core.data.catalogues`. Every network
has the same widths, pairs, batches and stopping rule: training ends when BLEU on the validation
messages has stopped rising. The test messages are translated once, with the best weights.

The scale of "Luong, scaled" does two things: the first scores are smaller, and a step of Adam moves
them less. The controls do one each: "Luong, small start" divides the first W_s by the root of the
key's width, and "Luong, small steps" divides the score by it and multiplies the first W_s.
"""

import math
import time
from typing import Any

import sacrebleu
import torch
from torch import Tensor

from attn_core.data import catalogues
from attn_core.data.catalogues import Pair
from attn_core.data.translations import Glossary, as_written, reference_streams, references
from attn_core.data.vocabulary import PAD
from attn_core.models.translator import Translator
from attn_core.training import train_to_plateau

# Each seed takes about 50 minutes of a core; `--resume` records only what the file lacks.
SEEDS = (0, 1, 2)
CONTROLS = {"Luong, small start": ("Luong", -0.5), "Luong, small steps": ("Luong, scaled", 0.5)}
RUNS = [
    {"network": network, "seed": seed}
    for seed in SEEDS
    for network in ("no attention", "Luong, scaled", "Luong", "Bahdanau")
] + [{"network": network, "seed": 0} for network in CONTROLS]
LENGTHS = {"3–4": (3, 4), "5–6": (5, 6), "7–8": (7, 8), "9–12": (9, 12)}
METRIC = sacrebleu.BLEU(tokenize="zh")


def score(outputs: list[str], targets: list[list[str]]) -> sacrebleu.metrics.BLEUScore:
    return METRIC.corpus_score(outputs, reference_streams(targets))


class Reading:
    """How the weights look on the people's own translations of the validation messages."""

    def __init__(self, pairs: list[Pair], glossary: Glossary) -> None:
        links = [(row, link) for row, pair in enumerate(pairs) for link in glossary.links(pair)]
        self.first = torch.tensor([(row, link.first, link.word) for row, link in links]).T
        self.rest = torch.tensor(
            [(row, link.first + k, link.word) for row, link in links for k in range(1, link.tokens)]
        ).T
        words = [len(pairs[row].source.split()) + 1 for row, _ in links]  # and the end
        self.chance = 1 - sum(1 / n for n in words) / len(words)

    def measure(self, weights: Tensor, target: Tensor) -> dict[str, float]:
        """``weights`` (pairs, steps, words); row t wrote the target's token t."""
        rows = weights[target != PAD]
        entropy = -torch.special.xlogy(rows, rows).sum(dim=-1)
        pair, step, word = self.first
        largest, at = weights[pair, step].max(dim=-1)
        pair_of_rest, step_of_rest, word_of_rest = self.rest
        at_of_rest = weights[pair_of_rest, step_of_rest].argmax(dim=-1)
        found = {
            "saturated": (rows.max(dim=-1).values > 0.95),
            "entropy": entropy,
            "wrong": at != word,
            "wrong and saturated": (at != word) & (largest > 0.95),
            "wrong after the first token": at_of_rest != word_of_rest,
        }
        return {name: round(values.float().mean().item(), 4) for name, values in found.items()}


def run(network: str, seed: int, toy: bool = False) -> dict[str, Any]:
    start = time.process_time()
    parts = catalogues.split(catalogues.pairs("zh"))
    train, validation, test = (part[:200] if toy else part for part in parts)
    widths = {"embedding_dim": 8, "hidden_dim": 8} if toy else {}
    kind, power = CONTROLS.get(network, (network, 0))
    translator = Translator(train, kind, seed=seed, **widths)
    model = translator.model
    if power:
        with torch.no_grad():
            W_s = model.decoder.score.weight
            W_s *= W_s.shape[1] ** power
    held_out = references(validation)
    batch = translator.batch(validation)
    reading = Reading(validation, Glossary(parts.train[: 3000 if toy else None]))
    losses: list[float] = []
    read: list[dict[str, float]] = []

    def validate() -> float:
        source, target = batch
        memory = model.encode(source)
        logits, weights, _ = model.decode(target[:, :-1], memory, memory.summary)
        losses.append(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD
            ).item()
        )
        if weights is not None:
            read.append(reading.measure(weights, target[:, 1:]))
        bleu = score(translator(list(held_out)), list(held_out.values())).score
        print(f"{network} {seed}: epoch {len(losses) - 1}, BLEU {bleu:.1f}", *read[-1:], flush=True)
        return 100 - bleu

    batches = translator.epochs(train, 64, seed=seed)
    history = train_to_plateau(
        model,
        translator.loss,
        batches,
        validate,
        learning_rate=4e-3,
        patience=2 if toy else 3,
        reductions=1 if toy else 2,
        max_epochs=2 if toy else 40,
    )
    answers = references(test)
    sources, targets = list(answers), list(answers.values())
    outputs = translator(sources)
    whole = score(outputs, targets)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(history.errors) - 1,
        "updates": (len(history.errors) - 1) * math.ceil(len(train) / 64),
        "best epoch": history.best,
        "stopped": history.stopped,
        "CPU seconds": round(time.process_time() - start, 1),
        "validation BLEU": [round(100 - error, 2) for error in history.errors],
        "validation loss": [round(loss, 4) for loss in losses],
        "BLEU": round(whole.score, 2),
        "signature": str(METRIC.get_signature()),
        "by length": by_length(sources, targets, outputs),
        "links": reading.first.shape[1],
        "wrong by chance": round(reading.chance, 4),
        "reading": read,
        "outputs": [as_written(output) for output in outputs],
    }


def by_length(
    sources: list[str], targets: list[list[str]], outputs: list[str]
) -> list[dict[str, Any]]:
    found = []
    for name, (low, high) in LENGTHS.items():
        member = [i for i, source in enumerate(sources) if low <= len(source.split()) <= high]
        of = score([outputs[i] for i in member], [targets[i] for i in member])
        found.append(
            {
                "words": name,
                "messages": len(member),
                "BLEU": round(of.score, 2),
                "length ratio": round(of.sys_len / of.ref_len, 3),
            }
        )
    return found
