"""How a report draws itself in a notebook: the wrong weights beside the right ones."""

from dataclasses import fields
from html import escape

import numpy as np

from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes import recipe_of
from attn_core.diagnosis.recipe import Case, DoesNotApplyError, Recipe, attend
from attn_core.diagnosis.report import Report
from attn_core.reference.shapes import Array

_CELL, _GAP = 22, 40
_STEPS = {step.name for step in fields(Recipe)}
_DARKEST = (165, 57, 127)  # the colour of weights in attn_core.plot, which needs Matplotlib
_BELOW_ZERO = (0, 114, 178)


def report_as_html(report: Report) -> str:
    """The text of a report and, where mistakes have names, a picture of what they do."""
    text = f"<pre>{escape(str(report))}</pre>"
    picture = None if report.is_module else weights_picture(report.mistakes)
    return text if picture is None else f"{text}\n{picture}"


def weights_picture(mistakes: tuple[Mistake, ...]) -> str | None:
    """Two tables of weights as inline SVG: the right ones, and those with the mistakes.

    None if no mistake changes the weights, or none is computed.
    """
    computed = tuple(one for one in mistakes if one.knob in _STEPS)
    pair = example_weights(computed) if computed else None
    if pair is None:
        return None
    right, wrong = pair
    wrong_name = "with the mistake" if len(mistakes) == 1 else "with the mistakes"
    rows, columns = right.shape
    width, height = 2 * (columns * _CELL + _GAP) + 20, rows * _CELL + 42
    panels = [
        _panel(table, title, 24 + number * (columns * _CELL + _GAP))
        for number, (table, title) in enumerate(((right, "right"), (wrong, wrong_name)))
    ]
    description = (
        f"Weights of {rows} queries over {columns} keys. Sums of the rows: right {_sums(right)}, "
        f"{wrong_name} {_sums(wrong)}"
    )
    return (
        '<figure style="margin:0 0 1.5rem">'
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'role="img" aria-label="{escape(description)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" style="background:#ffffff;max-width:100%;height:auto" '
        f'font-family="sans-serif" font-size="12" fill="#333333">'
        f"{''.join(panels)}</svg></figure>"
    )


def example_weights(mistakes: tuple[Mistake, ...]) -> tuple[Array, Array] | None:
    """The weights of a small example ``(L, S)``, right and with the mistakes.

    The example has a mask or is causal if a mistake is about it. None if they are the same.
    """
    random = np.random.default_rng(3)
    for k_len in (6, 5):
        query, key, value = (random.normal(size=(2, 2, n, 4)) * 1.2 for n in (5, k_len, k_len))
        knobs = {mistake.knob for mistake in mistakes}
        mask = None
        if "mask" in knobs:
            mask = np.ones((2, 1, 5, k_len), dtype=bool)
            mask[..., -2:] = False
            mask[..., -1, :] = False
        is_causal = "causal" in knobs and all(m.setting != "always" for m in mistakes)
        case = Case(query, key, value, mask, is_causal)
        try:
            right, wrong = attend(recipe_of(()), case), attend(recipe_of(mistakes), case)
        except DoesNotApplyError:
            continue
        if right.weights is None or wrong.weights is None:
            return None
        if wrong.weights.shape != right.weights.shape:
            return None
        if np.array_equal(wrong.weights, right.weights):
            return None
        return right.weights[0, 0], wrong.weights[0, 0]
    return None


def _panel(table: Array, title: str, left: int) -> str:
    squares = [
        f'<text x="{left}" y="14">{title}</text><text x="{left}" y="30">keys →, sum of a row</text>'
    ]
    rows, columns = table.shape
    for i in range(rows):
        y = 38 + i * _CELL
        for j in range(columns):
            fill = _colour(table[i, j])
            squares.append(
                f'<rect x="{left + j * _CELL}" y="{y}" width="{_CELL}" height="{_CELL}" '
                f'fill="{fill}" stroke="#b0b0b0"/>'
            )
        total = table[i].sum()
        squares.append(
            f'<text x="{left + columns * _CELL + 4}" y="{y + 15}">'
            f"{'NaN' if np.isnan(total) else f'{total:.2g}'}</text>"
        )
    squares.append(
        f'<text x="{left - 6}" y="{38 + rows * _CELL}" '
        f'transform="rotate(-90 {left - 6} {38 + rows * _CELL})">queries →</text>'
    )
    return "".join(squares)


def _colour(weight: float) -> str:
    """White is 0; the full colour is 1 and more, or −1 and less."""
    if not np.isfinite(weight):
        return "#888888"
    share = round(32 * min(abs(weight), 1.0)) / 32  # the same on every machine
    end = _DARKEST if weight >= 0 else _BELOW_ZERO
    return "#" + "".join(f"{round(255 + share * (part - 255)):02x}" for part in end)


def _sums(table: Array) -> str:
    return ", ".join("NaN" if np.isnan(x) else f"{x:.2g}" for x in table.sum(-1))
