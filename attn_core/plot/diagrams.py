"""Flow charts: boxes and arrows, drawn by code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from attn_core.plot.style import COLORS, check_axes, check_positive, set_title


class Box(NamedTuple):
    """One box of a flow chart.

    Args:
        text: what stands in it; line breaks are kept.
        at: its centre, in columns to the right and rows downwards.
        color: a name in `COLORS`.
        filled: True for an operation, False for what flows.
        width: in columns.
        height: in rows.

    Example:
        >>> Box("score", (1, 0), filled=True).color
        'muted'
    """

    text: str
    at: tuple[float, float]
    color: str = "muted"
    filled: bool = False
    width: float = 0.82
    height: float = 0.56


def flow_chart(
    boxes: Mapping[str, Box],
    arrows: Sequence[tuple[str, str] | tuple[str, str, str]],
    *,
    title: str,
    ax: Axes | None = None,
    scale: tuple[float, float] = (1.35, 0.95),
) -> Axes:
    """Draw a flow chart: filled boxes are operations, outlined ones are what flows through them.

    Args:
        boxes: the boxes by name.
        arrows: `(from, to)` or `(from, to, text)`, with names of boxes.
        title: what the figure shows, as a sentence.
        ax: where to draw; a new figure of fitting size where it is not given.
        scale: inches per column and per row of a new figure.

    Returns:
        The axes, without ticks.

    Raises:
        ValueError: there are no boxes, an arrow names a box that does not exist, or a colour is
            not in `COLORS`.

    Source: the flow charts of D3 §2 and D4 §2.4.

    Example:
        >>> boxes = {"x": Box("scores", (0, 0)), "f": Box("softmax", (1, 0), filled=True)}
        >>> ax = flow_chart(boxes, [("x", "f")], title="Scores enter the softmax")
        >>> [text.get_text() for text in ax.texts]
        ['scores', 'softmax']
    """
    _check(boxes, arrows)
    check_axes(ax)
    if not isinstance(scale, tuple) or len(scale) != 2:
        raise TypeError(f"scale must be two numbers, got {scale!r}")
    for side in scale:
        check_positive("scale", side)
    left = min(box.at[0] - box.width / 2 for box in boxes.values()) - 0.05
    right = max(box.at[0] + box.width / 2 for box in boxes.values()) + 0.05
    top = min(box.at[1] - box.height / 2 for box in boxes.values()) - 0.08
    bottom = max(box.at[1] + box.height / 2 for box in boxes.values()) + 0.08
    if ax is None:
        size = ((right - left) * scale[0], (bottom - top) * scale[1] + 0.4)
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.axis("off")
    patches = {name: _draw_box(ax, box) for name, box in boxes.items()}
    for start, end, *text in arrows:
        tail, tip = _ends(boxes[start], boxes[end])
        arrow = FancyArrowPatch(
            tail,
            tip,
            patchA=patches[start],
            patchB=patches[end],
            arrowstyle="-|>",
            mutation_scale=14,
            linewidth=1.6,
            color=COLORS["muted"],
            shrinkA=2,
            shrinkB=2,
            zorder=1,
        )
        ax.add_patch(arrow)
        if text:
            _label(ax, text[0], boxes[start], boxes[end], tail, tip)
    set_title(ax, title)
    return ax


def _check(
    boxes: Mapping[str, Box], arrows: Sequence[tuple[str, str] | tuple[str, str, str]]
) -> None:
    if not isinstance(boxes, Mapping):
        raise TypeError(f"boxes must be a dictionary of boxes, got {boxes!r}")
    if not isinstance(arrows, Sequence) or isinstance(arrows, str):
        raise TypeError(f"arrows must be a list of arrows, got {arrows!r}")
    if not boxes:
        raise ValueError("boxes must hold at least one box")
    for name, box in boxes.items():
        if box.color not in COLORS:
            raise ValueError(f"color of box {name!r} must be one of {[*COLORS]}, got {box.color!r}")
    for arrow in arrows:
        if len(arrow) not in (2, 3):
            raise ValueError(f"arrows must be (from, to) or (from, to, text), got {arrow!r}")
        for end in arrow[:2]:
            if end not in boxes:
                raise ValueError(f"arrows names the box {end!r}; the boxes are {[*boxes]}")


def _ends(start: Box, end: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow runs: straight down or across where the boxes face each other."""
    tail, tip = list(start.at), list(end.at)
    for axis, sizes in enumerate([(start.width, end.width), (start.height, end.height)]):
        low = max(at[axis] - size / 2 for at, size in zip((tail, tip), sizes, strict=True))
        high = min(at[axis] + size / 2 for at, size in zip((tail, tip), sizes, strict=True))
        if low < high:
            tail[axis] = tip[axis] = (low + high) / 2
            break
    return (tail[0], tail[1]), (tip[0], tip[1])


def _label(
    ax: Axes,
    text: str,
    start: Box,
    end: Box,
    tail: tuple[float, float],
    tip: tuple[float, float],
) -> None:
    """Write beside the middle of what is seen of the arrow: right of a steep one, above a flat."""
    steep = abs(tip[1] - tail[1]) >= abs(tip[0] - tail[0])
    axis, sizes = (1, (start.height, end.height)) if steep else (0, (start.width, end.width))
    forward = 1 if tip[axis] > tail[axis] else -1
    seen = (tail[axis] + forward * sizes[0] / 2, tip[axis] - forward * sizes[1] / 2)
    share = (sum(seen) / 2 - tail[axis]) / (tip[axis] - tail[axis])
    ax.annotate(
        text,
        (tail[0] + share * (tip[0] - tail[0]), tail[1] + share * (tip[1] - tail[1])),
        xytext=(7, 0) if steep else (0, 5),
        textcoords="offset points",
        ha="left" if steep else "center",
        va="center" if steep else "bottom",
        fontsize=9.5,
        color=COLORS["output"],
        zorder=3,
    )


def _draw_box(ax: Axes, box: Box) -> FancyBboxPatch:
    color = COLORS[box.color]
    x, y = box.at
    rounding = 0.04 if box.filled else 0.12
    patch = FancyBboxPatch(
        (x - box.width / 2 + rounding, y - box.height / 2 + rounding),
        box.width - 2 * rounding,
        box.height - 2 * rounding,
        boxstyle=f"round,pad={rounding}",
        facecolor=color if box.filled else "white",
        edgecolor=color,
        linewidth=1.8,
        zorder=2,
    )
    ax.add_patch(patch)
    ax.text(
        x,
        y,
        box.text,
        ha="center",
        va="center",
        color="white" if box.filled else color,
        fontweight="bold" if box.filled else "normal",
        zorder=3,
    )
    return patch
