"""Guess the next letter of Hamlet from other plays: one network of each generation."""

import math
import random
import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attn_core import attention, masks
from attn_core.data.plays import ALPHABET, letters
from attn_core.models.gpt import GPT
from attn_core.models.transformer import TransformerDecoder
from attn_core.positions import Rotary, SinusoidalEncoding
from attn_core.training import train_to_plateau

TRAINING = ("macbeth", "lear", "othello", "julius_caesar")
VALIDATION, TEST = "antony_and_cleopatra", "hamlet"
LINE = (
    "thanks rosencrantz and gentle guildenstern queen thanks guildenstern and gentle rosencrantz "
)
WORD = re.compile(r"(?<= )[a-z]+(?= )")
WINDOW, SCORED = 192, 96  # letters that a network reads; of them the last ones are scored
KINDS = ("GRU", "GRU, attention", "Transformer", "today's block")
LARGER = ("GRU, larger",)
RATES = (0.004, 0.001)
PROBE = 4  # passes over the text with each rate


def settings(kind: str, rate: float, seed: int = 0, max_epochs: int = 60) -> dict[str, Any]:
    return {"kind": kind, "rate": rate, "seed": seed, "max_epochs": max_epochs}


# A few passes with either rate; then to the end with the one that was better on validation, for
# each kind the higher. The larger networks have dropout and a rate between the two.
RUNS = [settings(kind, rate, max_epochs=PROBE) for kind in KINDS for rate in RATES]
RUNS += [settings(kind, max(RATES)) for kind in KINDS]
RUNS += [settings(kind, max(RATES), seed=1) for kind in KINDS[:2]]
RUNS += [settings(kind, 0.002) for kind in LARGER]


def numbers(text: str) -> Tensor:
    return torch.tensor([ALPHABET.index(letter) for letter in text])


class Recurrent(nn.Module):
    """A GRU, whose state may attend to its earlier states."""

    def __init__(self, width: int, *, attends: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), 32)
        self.gru = nn.GRU(32, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.projections = nn.ModuleList(nn.Linear(width, 64) for _ in "qkv" if attends)
        self.out = nn.Linear(width + 64 * attends, len(ALPHABET))

    def forward(self, ids: Tensor) -> Tensor:
        states = self.dropout(self.gru(self.embedding(ids))[0])
        if self.projections:
            query, key, value = (project(states) for project in self.projections)
            read = attention(query, key, value, mask=masks.causal())
            states = torch.cat([states, read], dim=-1)
        return self.out(states)


class Transformer(nn.Module):
    """As in 2017: waves for positions, norms behind the layers, ReLU."""

    def __init__(self, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.position = SinusoidalEncoding(dim)
        self.decoder = TransformerDecoder(
            dim, heads, layers, cross=False, norm="post", activation="relu"
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.position(self.embedding(ids) * self.embedding.embedding_dim**0.5)
        return functional.linear(self.decoder(x), self.embedding.weight)


def make(kind: str, seed: int) -> nn.Module:
    """About 110,000 parameters each, the larger one 418,000."""
    torch.manual_seed(seed)
    models: dict[str, Callable[[], nn.Module]] = {
        "GRU": lambda: Recurrent(168),
        "GRU, attention": lambda: Recurrent(142, attends=True),
        "Transformer": lambda: Transformer(66, heads=3, layers=2),
        "today's block": lambda: GPT(
            len(ALPHABET),
            dim=64,
            heads=4,
            layers=2,
            rotary=Rotary(16),
            activation="swiglu",
            hidden_dim=196,
        ),
        "GRU, larger": lambda: Recurrent(352, dropout=0.2),
    }
    return models[kind]()


def windows(text: Tensor, start: int, step: int) -> Tensor:
    """``(windows, WINDOW + 1)``: as many as fit."""
    return text[start:].unfold(0, WINDOW + 1, step)


@torch.no_grad()
def bits(model: nn.Module, rows: Tensor) -> Tensor:
    """What every letter but a row's first costs: ``(rows, WINDOW)``."""
    parts = []
    for part in rows.split(64):
        logits = model(part[:, :-1])
        parts.append(functional.cross_entropy(logits.mT, part[:, 1:], reduction="none"))
    return torch.cat(parts) / math.log(2)


def words_of(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Where the whole words between two places begin and end."""
    found = WORD.finditer(text[start:end])
    return [(start + word.start(), start + word.end()) for word in found]


def repeated_names(text: str, known: set[str]) -> dict[str, list[Any]]:
    """Words that training never showed, in the scored half of a window of ``text``.

    ``first``: they do not stand in the window before. ``again``: they do. For each of them the
    window's start and the word's two ends; for ``again`` also where all earlier copies begin.
    """
    found: dict[str, list[Any]] = {"known": [], "first": [], "again": []}
    for start in range(0, len(text) - WINDOW, SCORED):
        end = start + WINDOW + 1
        for a, b in words_of(text, end - SCORED, end):
            word = text[a:b]
            if word in known:
                found["known"].append((start, a, b, []))
                continue
            earlier = f" {text[start : a - 1]} "
            copies, at = [], earlier.find(f" {word} ")
            while at >= 0:
                copies.append(start + at)
                at = earlier.find(f" {word} ", at + 1)
            found["again" if copies else "first"].append((start, a, b, copies))
    return found


def without_copies(text: str, where: list[Any], substitutes: dict[int, list[str]]) -> str:
    """The window with every earlier copy replaced by a word of the same length."""
    start, a, b, copies = where
    window = text[start : start + WINDOW + 1]
    other = random.Random(a).choice(substitutes[b - a])
    for copy in copies:
        at = copy - start
        window = window[:at] + other + window[at + b - a :]
    return window


def cost_of(model: nn.Module, rows: list[str], places: list[Any]) -> float:
    """Bits per letter of the words at these places."""
    cost = bits(model, torch.stack([numbers(row) for row in rows]))
    spent = sum(
        cost[i, a - start - 1 : b - start - 1].sum().item()
        for i, (start, a, b, _) in enumerate(places)
    )
    return spent / sum(b - a for _, a, b, _ in places)


@torch.no_grad()
def sample(model: nn.Module, prompt: str, count: int) -> str:
    """Letters drawn one by one from the network's probabilities, after ``prompt``."""
    generator = torch.Generator().manual_seed(0)
    text = prompt
    for _ in range(count):
        logits = model(numbers(text[-WINDOW:])[None])[0, -1]
        text += ALPHABET[torch.multinomial(logits.softmax(-1), 1, generator=generator).item()]
    return text[len(prompt) :]


def run(kind: str, rate: float, seed: int, max_epochs: int, toy: bool = False) -> dict[str, Any]:
    """Train one network until it no longer improves on the validation play; score Hamlet once."""
    training = numbers(" ".join(letters(play) for play in TRAINING))
    validation, test_text = letters(VALIDATION), letters(TEST)
    if toy:
        training, validation, test_text = training[:3000], validation[:600], test_text[:4000]
    generator = torch.Generator().manual_seed(seed)
    model = make(kind, seed)
    held_out = windows(numbers(validation), 0, SCORED)

    def epoch(_: int) -> list[Tensor]:
        start = int(torch.randint(WINDOW, (1,), generator=generator))
        rows = windows(training, start, WINDOW)
        return list(rows[torch.randperm(len(rows), generator=generator)].split(16))

    start = time.process_time()
    history = train_to_plateau(
        model,
        lambda rows: functional.cross_entropy(model(rows[:, :-1]).mT, rows[:, 1:]),
        epoch,
        lambda: bits(model, held_out)[:, -SCORED:].mean().item(),
        learning_rate=rate,
        patience=2,
        reductions=2,
        max_epochs=1 if toy else max_epochs,
    )
    cpu_seconds = round(time.process_time() - start, 1)
    row = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(history.errors) - 1,
        "best": history.best,
        "stopped": history.stopped,
        "cpu_seconds": cpu_seconds,
        "validation": [round(error, 4) for error in history.errors],
    }
    return row if max_epochs == PROBE else row | measure(model, test_text)


def measure(model: nn.Module, text: str) -> dict[str, Any]:
    """What the trained network does with the held-out play."""
    known_text = " ".join(letters(play) for play in TRAINING)
    known = set(known_text.split())
    substitutes: dict[int, list[str]] = {}
    for word in sorted(known):
        substitutes.setdefault(len(word), []).append(word)
    places = repeated_names(text, known)
    rows = windows(numbers(text), 0, SCORED)
    cost = bits(model, rows)
    groups = {}
    for name, where in places.items():
        whole = [text[start : start + WINDOW + 1] for start, *_ in where]
        groups[name] = {
            "words": len(where),
            "letters": sum(b - a for _, a, b, _ in where),
            "bits": round(cost_of(model, whole, where), 3),
        }
    replaced = [without_copies(text, where, substitutes) for where in places["again"]]
    groups["copies replaced"] = {
        **groups["again"],
        "bits": round(cost_of(model, replaced, places["again"]), 3),
    }
    end = letters(TEST).find(LINE) + len(LINE)
    window = letters(TEST)[end - WINDOW - 1 : end]
    return {
        "test": round(cost[:, -SCORED:].mean().item(), 4),
        "by place": [round(value, 3) for value in cost.mean(dim=0).tolist()],
        "words": groups,
        "line": [round(c, 2) for c in bits(model, numbers(window)[None])[0, -len(LINE) :].tolist()],
        "sample": sample(model, "the king ", 60),
    }
