"""The last value of a variable: every way to tell attention the order, up to eight times as long.

A list holds n assignments, such as x=3, y=1, x=5. After it every variable is asked for, and the
answer is the value that it was given last. All models are alike but for their positions.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attn_core import attention, positions
from attn_core.training import train

VARIABLES, VALUES = 8, 10
TRAINED = 32  # lists of 4 to 32 assignments
TESTED = (32, 64, 256)
WIDTH, LAYERS = 32, 2
KINDS = (
    "none",
    "none, causal mask",
    "sinusoidal",
    "learned",
    "Shaw",
    "Transformer-XL",
    "T5",
    "ALiBi",
    "rotary",
)
STEPS = 600
RUNS = [{"positions": kind, "steps": STEPS, "seed": seed} for seed in (0, 1, 2) for kind in KINDS]
# Four times as long, to see whether training is what those lack that fail on longer lists.
LONGER = ("sinusoidal", "learned")
RUNS += [{"positions": kind, "steps": 4 * STEPS, "seed": 0} for kind in LONGER]
# ALiBi's slope is fixed by hand, so two others show how much of what it does is that choice.
SLOPES = {"ALiBi": 1 / 2, "ALiBi 1/16": 1 / 16, "ALiBi 1/128": 1 / 128}
RUNS += [
    {"positions": kind, "steps": STEPS, "seed": seed}
    for seed in (0, 1, 2)
    for kind in list(SLOPES)[1:]
]
# Those that use absolute positions; all others see distances, which no move changes.
ABSOLUTE = ("sinusoidal", "learned", "rotary")
MOVED = TESTED[-1] - TRAINED
# Keys so far away share T5's last bucket.
LAST_BUCKET = 27


def drawn(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Variables and values of lists, both ``(batch, length)``."""
    shape = (batch, length)
    variable = torch.randint(VARIABLES, shape, generator=generator)
    return variable, torch.randint(VALUES, shape, generator=generator)


def last_places(variable: Tensor) -> Tensor:
    """Where each variable was set last, ``(batch, VARIABLES)``; −1 where it never was."""
    at = torch.arange(variable.shape[1])[:, None]
    is_set = variable[..., None] == torch.arange(VARIABLES)
    return torch.where(is_set, at, -1).amax(dim=1)


def answers(variable: Tensor, value: Tensor) -> Tensor:
    """The last value of each variable, ``(batch, VARIABLES)``; −1 where it has none."""
    place = last_places(variable)
    return torch.where(place < 0, -1, value.gather(1, place.clamp(min=0)))


class Layer(nn.Module):
    """One head of attention and a small network, each added to what came in."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.lowered = 0.0  # taken from the score of the keys in T5's last bucket
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(2)])
        self.query, self.key, self.value, self.out = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)
        )
        self.inner, self.outer = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.bias = {
            "Shaw": lambda: positions.ShawBias(WIDTH, max_distance=TRAINED // 2),
            "Transformer-XL": lambda: positions.TransformerXLBias(1, WIDTH),
            "T5": lambda: positions.T5Bias(1, buckets=32, max_distance=TRAINED),
        }.get(kind, lambda: None)()

    def added(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor | None:
        """What positions add to the scores."""
        if self.kind in SLOPES:  # 1/2 is the steepest of eight heads' slopes
            return -SLOPES[self.kind] * distance.abs().to(query.dtype)
        if self.bias is None:
            return None
        bias = self.bias(query, key, distance)
        return bias - self.lowered * (distance.abs() >= LAST_BUCKET) if self.lowered else bias

    def forward(self, x: Tensor, at: Tensor, length: int, first: int) -> tuple[Tensor, Tensor]:
        """The new vectors from row ``first`` on, and their weights; keys are ``length`` rows."""
        normed = self.norms[0](x)[:, None]  # one head
        query, key = self.query(normed[:, :, first:]), self.key(normed[:, :, :length])
        if self.kind == "rotary":
            query = positions.rotary(query, at[first:])
            key = positions.rotary(key, at[:length])
        distance = at[:length] - at[first:, None]
        output, weights = attention(
            query,
            key,
            self.value(normed[:, :, :length]),
            bias=self.added(query, key, distance),
            mask=distance <= 0 if self.kind == "none, causal mask" else None,
            return_weights=True,
        )
        x = x[:, first:] + self.out(output[:, 0])
        return x + self.outer(functional.gelu(self.inner(self.norms[1](x)))), weights[:, 0]


class Model(nn.Module):
    """Reads a list of assignments and says the last value of every variable."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.variable = nn.Embedding(VARIABLES, WIDTH)
        self.value = nn.Embedding(VALUES + 1, WIDTH)  # the last one stands for "?"
        self.encoding: nn.Module | None = None
        if kind == "sinusoidal":
            self.encoding = positions.SinusoidalEncoding(WIDTH)
        if kind == "learned":  # a row for every position of the tests, of which training sees 33
            self.encoding = positions.LearnedEncoding(TESTED[-1] + 1, WIDTH)
        self.layers = nn.ModuleList([Layer(kind) for _ in range(LAYERS)])
        self.norm, self.read = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VALUES)

    def forward(
        self,
        variable: Tensor,
        value: Tensor,
        *,
        clipped: bool = False,
        moved: int = 0,
        after: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(batch, VARIABLES, VALUES)`` and the last layer's weights of the questions.

        ``clipped`` gives a longer list no position that training has not seen: the questions
        stand at 32, the last 32 assignments at 0 to 31, and all earlier ones at 0.
        ``moved`` is added to the positions from place ``after`` on.
        """
        batch, length = variable.shape
        asked = torch.arange(VARIABLES).expand(batch, -1)
        x = self.variable(torch.cat([variable, asked], dim=1))
        x = x + self.value(torch.cat([value, torch.full_like(asked, VALUES)], dim=1))
        # All questions stand behind the list, and nothing attends to them.
        at = torch.cat([torch.arange(length), torch.full((VARIABLES,), length)])
        if clipped:
            at = (at - max(length - TRAINED, 0)).clamp(min=0)
        at = at + moved * (torch.arange(len(at)) >= after)
        if self.encoding is not None:
            x = self.encoding(x, positions=at)
        for layer in self.layers:  # the last one needs the questions only
            first = length if layer is self.layers[-1] else 0
            x, weights = layer(x, at, length, first)
        return self.read(self.norm(x)), weights


def asked(
    model: Model, length: int, batch: int, *, clipped: bool = False, moved: int = 0, after: int = 0
) -> dict[str, float]:
    """The share of right answers over variables that were set, and where the last layer looks.

    Its weight goes to the assignment asked for (``last``), to older ones of the same variable, or
    to those of other variables.
    """
    variable, value = drawn(batch, length, torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits, weights = model(variable, value, clipped=clipped, moved=moved, after=after)
    place = last_places(variable)
    same = variable[:, None] == torch.arange(VARIABLES)[:, None]
    last = torch.arange(length) == place[..., None]
    parts = {"last": last, "older": same & ~last, "others": ~same}
    measured = {"right": logits.argmax(dim=-1) == answers(variable, value)}
    measured |= {name: (weights * part).sum(dim=-1) for name, part in parts.items()}
    return {
        name: round(each[place >= 0].double().mean().item(), 4) for name, each in measured.items()
    }


def trained(positions: str, seed: int, steps: int = STEPS) -> Model:
    """A model trained on fresh lists of 4 to 32 assignments."""
    torch.manual_seed(seed)
    model = Model(positions)
    generator = torch.Generator().manual_seed(1000 + seed)

    def loss(length: int) -> Tensor:
        variable, value = drawn(32, length, generator)
        wanted = answers(variable, value)
        logits = model(variable, value)[0]
        return functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1)

    lengths = torch.randint(4, TRAINED + 1, (steps,), generator=generator).tolist()
    train(model, loss, lengths, learning_rate=0.005)
    return model.eval()


def lowered(model: Model, length: int, batch: int, by: float) -> dict[str, float]:
    """What T5 answers when the scores of all keys in its last bucket are lowered."""
    for layer in model.layers:
        layer.lowered = by
    measured = asked(model, length, batch)
    for layer in model.layers:
        layer.lowered = 0.0
    return measured


def run(positions: str, steps: int, seed: int, toy: bool = False) -> dict[str, Any]:
    """Train one model, and ask it about lists as long as in training, and longer ones."""
    start = time.process_time()
    model = trained(positions, seed, 3 if toy else steps)
    cpu_seconds = round(time.process_time() - start, 1)
    many = 10 if toy else 200
    measured = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": cpu_seconds,
        "asked": {str(n): asked(model, n, many) for n in TESTED},
        "clipped": {str(n): asked(model, n, many, clipped=True) for n in TESTED},
    }
    # The same short lists, at places that training never saw.
    if positions in ABSOLUTE and steps == STEPS:
        measured["moved"] = {str(TRAINED): asked(model, TRAINED, many, moved=MOVED)}
    if positions == "rotary":  # far distances as in long lists, but few keys
        apart = asked(model, TRAINED, many, moved=MOVED, after=TRAINED // 2)
        measured["apart"] = {str(TRAINED): apart}
    if positions == "T5":  # as if the farthest keys were not eight times as many
        by = math.log(TESTED[-1] / TRAINED)
        measured["lowered"] = {str(TESTED[-1]): lowered(model, TESTED[-1], many, by)}
    return measured
