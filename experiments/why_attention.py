"""Dates without and with attention, each model trained until its validation error stops falling."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attn_core.data.dates import (
    DateExample,
    date_examples,
    date_vocabularies,
    split_dates,
    write_dates,
)
from attn_core.data.vocabulary import PAD
from attn_core.models.seq2seq import Seq2Seq
from attn_core.training import length_batches, train_to_plateau

# The wider state and the larger number of parameters go to the model without attention.
WIDTHS = {"none": 64, "bahdanau": 48}
RUNS = [{"attention": kind, "seed": seed} for seed in (0, 1, 2) for kind in WIDTHS]
LENGTHS = (1, 2, 3, 4)  # dates in a list; training has lists of 1, 2 and 3
SOURCE_VOCAB, TARGET_VOCAB = date_vocabularies()


def tensors(examples: Sequence[DateExample]) -> tuple[Tensor, Tensor]:
    source, _ = SOURCE_VOCAB.pad([example.source for example in examples])
    target, _ = TARGET_VOCAB.pad([example.target for example in examples], bos=True, eos=True)
    return source, target


def wrong_characters(model: Seq2Seq, examples: Sequence[DateExample]) -> float:
    """The share of characters that are not the most probable one, given the true ones before."""
    source, target = tensors(examples)
    logits = model(source, target[:, :-1])
    counts = target[:, 1:] != PAD
    wrong = (logits.argmax(dim=-1) != target[:, 1:]) & counts
    return (wrong.sum() / counts.sum()).item()


def translate(model: Seq2Seq, examples: Sequence[DateExample]) -> list[list[str]]:
    """What the model writes, cut at the spaces: a list of dates for every example."""
    source, _ = SOURCE_VOCAB.pad([example.source for example in examples])
    tokens, _ = model.greedy(source, max_length=60)
    return ["".join(TARGET_VOCAB.decode(row)).split(" ") for row in tokens]


def right_by_place(model: Seq2Seq, examples: Sequence[DateExample]) -> list[float]:
    """The share of dates that are right, for the first place of the list, the second and so on."""
    right = [
        [i < len(written) and written[i] == day.isoformat() for i, day in enumerate(example.dates)]
        for example, written in zip(examples, translate(model, examples), strict=True)
    ]
    return np.mean(right, axis=0).round(4).tolist()


def influence(
    model: Seq2Seq, examples: Sequence[DateExample], others: Sequence[DateExample]
) -> list[list[float]]:
    """How often a written date (row) changes when a source date (column) is exchanged."""

    def written(lists: Sequence[DateExample]) -> np.ndarray:
        return np.array([[*dates, "", "", ""][:3] for dates in translate(model, lists)])

    before, columns = written(examples), []
    for place in range(3):
        changed = []
        for example, other in zip(examples, others, strict=True):
            dates = list(example.dates)
            dates[place] = other.dates[place]
            source = write_dates(dates, example.language)
            changed.append(DateExample(source, "", example.language, tuple(dates)))
        columns.append((written(changed) != before).mean(axis=0))
    return np.stack(columns, axis=1).round(4).tolist()


def run(attention: str, seed: int, toy: bool = False) -> dict[str, Any]:
    """Train one model on 10,000 lists of one to three dates and test it on dates it never saw.

    Every seed has the same split of the dates; it draws other lists, weights and batches.
    """
    dates = split_dates(seed=0)
    count, tested = (200, 8) if toy else (10_000, 200)
    training = date_examples(dates["train"], count, per_list=[1, 2, 3], seed=10 + seed)
    lengths = [len(example.source) for example in training]
    validation = date_examples(dates["validation"], tested, per_list=[1, 2, 3], seed=1)
    watched = {
        n: date_examples(dates["validation"], tested // 2, per_list=[n], seed=2) for n in LENGTHS
    }
    tests = {n: date_examples(dates["test"], tested, per_list=[n], seed=3) for n in LENGTHS}
    others = date_examples(dates["test"], tested, per_list=[3], seed=4)

    torch.manual_seed(seed)
    model = Seq2Seq(
        SOURCE_VOCAB,
        TARGET_VOCAB,
        embedding_dim=32,
        hidden_dim=WIDTHS[attention],
        attention=None if attention == "none" else "bahdanau",
    )
    curve: dict[str, list[float]] = {str(n): [] for n in LENGTHS}
    batches, start = 0, time.process_time()

    def epoch(number: int) -> list[Tensor]:
        nonlocal batches
        of_epoch = length_batches(lengths, batch_size=32, seed=1000 * seed + number)
        batches += len(of_epoch)
        return of_epoch

    def validate() -> float:
        for n, examples in watched.items():
            curve[str(n)].append(round(float(np.mean(right_by_place(model, examples))), 4))
        return wrong_characters(model, validation)

    history = train_to_plateau(
        model,
        lambda batch: model.loss(*tensors([training[i] for i in batch])),
        epoch,
        validate,
        learning_rate=0.005,
        patience=3,
        reductions=1,
        max_epochs=2 if toy else 60,
    )
    cpu_seconds = round(time.process_time() - start, 1)
    return {
        "width": WIDTHS[attention],
        "parameters": sum(p.numel() for p in model.parameters()),
        "lists": count,
        "passes": len(history.errors) - 1,
        "best": history.best,
        "stopped": history.stopped,
        "updates": batches,
        "cpu_seconds": cpu_seconds,
        "errors": [round(error, 5) for error in history.errors],
        "validation": curve,
        "right": {str(n): right_by_place(model, examples) for n, examples in tests.items()},
        "influence": influence(model, tests[3], others),
    }
