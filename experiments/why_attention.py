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
    date_word_vocabularies,
    date_words,
    split_dates,
)
from attn_core.data.vocabulary import PAD
from attn_core.models.seq2seq import Seq2Seq
from attn_core.training import length_batches, train_to_plateau

# The model without attention has the wider state and the larger number of parameters.
WIDTHS = {"none": 64, "bahdanau": 48}
FRESH = "6,000 new ones in every pass"
RUNS = [
    {"attention": kind, "lists": lists, "seed": seed}
    for lists in (6_000, FRESH)
    for seed in (0, 1, 2)
    for kind in WIDTHS
]
TRAINED = (1, 2, 3, 4)  # dates in a list of the training
TESTED = (1, 2, 3, 4, 5)
SOURCE, TARGET = date_word_vocabularies()


def tensors(examples: Sequence[DateExample]) -> tuple[Tensor, Tensor]:
    sources, targets = zip(*map(date_words, examples), strict=True)
    return SOURCE.pad(sources)[0], TARGET.pad(targets, bos=True, eos=True)[0]


def wrong_words(model: Seq2Seq, source: Tensor, target: Tensor) -> float:
    """The share of target words that are not the most probable, given the true ones before."""
    wanted = target[:, 1:]
    wrong = model(source, target[:, :-1]).argmax(dim=-1) != wanted
    return wrong[wanted != PAD].double().mean().item()


def translate(model: Seq2Seq, examples: Sequence[DateExample]) -> list[list[str]]:
    """The dates that the model writes, each in the form 2024-11-21."""
    source, _ = tensors(examples)
    tokens, _ = model.greedy(source, max_length=3 * TESTED[-1] + 1)
    texts = [TARGET.decode(row) for row in tokens]
    return [["-".join(words[i : i + 3]) for i in range(0, len(words), 3)] for words in texts]


def right_by_place(model: Seq2Seq, examples: Sequence[DateExample]) -> list[float]:
    """The share of dates that are right, for the first place of the list, the second and so on."""
    right = [
        [i < len(written) and written[i] == day.isoformat() for i, day in enumerate(example.dates)]
        for example, written in zip(examples, translate(model, examples), strict=True)
    ]
    return np.mean(right, axis=0).round(4).tolist()


def run(attention: str, lists: int | str, seed: int, toy: bool = False) -> dict[str, Any]:
    """Train one model on lists of one to four dates and test it on dates it never saw.

    ``lists`` is how many lists there are to train on, the same ones in every pass, or ``FRESH``.
    Every seed has the same split of the dates; it draws other lists, weights and batches.
    """
    dates = split_dates(seed=0)
    tested = 8 if toy else 200

    def drawn(number: int) -> list[DateExample]:
        """The lists of one pass."""
        return date_examples(
            dates["train"],
            200 if toy else 6_000 if lists == FRESH else int(lists),
            per_list=TRAINED,
            seed=10 + seed if lists != FRESH else 1000 * (seed + 1) + number,
        )

    def prepare(examples: list[DateExample]) -> None:
        nonlocal source, target, lengths, written
        source, target = tensors(examples)
        lengths, written = (source != PAD).sum(dim=-1), (target != PAD).sum(dim=-1)

    source = target = lengths = written = torch.empty(0)
    training = drawn(0)
    prepare(training)
    validation = tensors(date_examples(dates["validation"], 2 * tested, per_list=TRAINED, seed=1))
    watched = {
        n: date_examples(dates["validation"], tested // 2, per_list=[n], seed=2) for n in TRAINED
    }
    tests = {n: date_examples(dates["test"], tested, per_list=[n], seed=3) for n in TESTED}

    torch.manual_seed(seed)
    kind = None if attention == "none" else "bahdanau"
    model = Seq2Seq(SOURCE, TARGET, embedding_dim=32, hidden_dim=WIDTHS[attention], attention=kind)
    curve: dict[str, list[float]] = {str(n): [] for n in TRAINED}
    updates, start = 0, time.process_time()

    def epoch(number: int) -> list[Tensor]:
        nonlocal updates
        if lists == FRESH:
            prepare(drawn(number))
        batches = length_batches(lengths, batch_size=64, seed=1000 * seed + number)
        updates += len(batches)
        return batches

    def loss(batch: Tensor) -> Tensor:
        return model.loss(
            source[batch, : lengths[batch].max()], target[batch, : written[batch].max()]
        )

    def validate() -> float:
        for n, examples in watched.items():
            curve[str(n)].append(round(float(np.mean(right_by_place(model, examples))), 4))
        return wrong_words(model, *validation)

    history = train_to_plateau(
        model,
        loss,
        epoch,
        validate,
        learning_rate=0.005,
        patience=3,
        reductions=3,
        max_epochs=2 if toy else 150,
    )
    learnt = {n: [e for e in training if len(e.dates) == n][:tested] for n in TRAINED}
    cpu_seconds = round(time.process_time() - start, 1)
    return {
        "width": WIDTHS[attention],
        "parameters": sum(p.numel() for p in model.parameters()),
        "passes": len(history.errors) - 1,
        "best": history.best,
        "stopped": history.stopped,
        "updates": updates,
        "cpu_seconds": cpu_seconds,
        "errors": [round(error, 5) for error in history.errors],
        "validation": curve,
        "right_in_training": {
            str(n): right_by_place(model, examples) for n, examples in learnt.items()
        },
        "right": {str(n): right_by_place(model, examples) for n, examples in tests.items()},
    }
