"""Spans of a sequence, which may overlap: cut out without a copy, and added up on the way back."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Spans(NamedTuple):
    """Stretches of a sequence, each as long as the others, at equal distances.

    Attributes:
        start: where the first one begins.
        number: how many there are.
        step: how far the next one begins after it.
        length: how long each is.
        first: how many positions from the start of the sequence stand before each of them.
    """

    start: int
    number: int
    step: int
    length: int
    first: int = 0

    def positions(self, device: torch.device) -> Tensor:
        """Which positions: ``(number, first + length)``."""
        start = self.start + self.step * torch.arange(self.number, device=device)
        spans = start[:, None] + torch.arange(self.length, device=device)
        if not self.first:
            return spans
        return torch.cat(
            [torch.arange(self.first, device=device).expand(self.number, -1), spans], 1
        )

    def of(self, x: Tensor) -> Tensor:
        """From ``(heads, S, width)`` to ``(number, heads, first + length, width)``."""
        end = self.start + (self.number - 1) * self.step + self.length
        spans = x[:, self.start : end]
        # (heads, count, width, length)
        spans = spans.mT[:, None] if self.number == 1 else spans.unfold(1, self.length, self.step)
        spans = spans.permute(1, 0, 3, 2)
        if not self.first:
            return spans
        return torch.cat([x[:, : self.first].expand(self.number, -1, -1, -1), spans], 2)

    def add_to(self, x: Tensor, spans: Tensor) -> None:
        """Add what :meth:`of` gives to where it came from; x has ``step`` positions to spare."""
        x[:, : self.first] += spans[:, :, : self.first].sum(0)
        # Pieces of neighbouring spans do not overlap if they are no longer than a step.
        for begin in range(0, self.length, self.step):
            length = min(self.step, self.length - begin)
            lines = x[:, self.start + begin :][:, : self.number * self.step]
            lines = lines.unflatten(1, (self.number, self.step))[:, :, :length].transpose(0, 1)
            lines += spans[:, :, self.first + begin : self.first + begin + length]


def one_span(start: int, length: int, first: int = 0) -> Spans:
    """A single stretch."""
    return Spans(start, 1, max(1, length), length, first)


class Cut(torch.autograd.Function):
    """Cut each sequence of a batch ``(batch, heads, S, width)`` into spans, entry by entry.

    The derivative of views that overlap is their sum: one tensor that all are added to, where
    PyTorch would fill a tensor for each of them.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, spans: tuple[Spans, ...]) -> tuple[Tensor, ...]:
        return tuple(span.of(sequence) for sequence in x for span in spans)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.shape, ctx.spans = inputs[0].shape, inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return Join.apply(ctx.shape, ctx.spans, *gradients), None

    @staticmethod
    def jvp(ctx: Any, x: Tensor, spans: None) -> tuple[Tensor, ...]:
        return Cut.forward(x, ctx.spans)


class Join(torch.autograd.Function):
    """Add spans up where they come from, the transpose of :class:`Cut`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(shape: torch.Size, spans: tuple[Spans, ...], *pieces: Tensor) -> Tensor:
        batch, heads, length, width = shape
        spare = max(-span.length % span.step for span in spans)
        # Many spans may meet at a position: half precision is too coarse for their sum.
        dtype = torch.promote_types(pieces[0].dtype, torch.float32)
        x = pieces[0].new_zeros(batch, heads, length + spare, width, dtype=dtype)
        for number, piece in enumerate(pieces):
            spans[number % len(spans)].add_to(x[number // len(spans)], piece)
        return x[:, :, :length].to(pieces[0].dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.spans = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *Cut.apply(gradient, ctx.spans)
