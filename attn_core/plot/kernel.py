"""A live figure: a query moves along a line of measurements, and the kernel moves with it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_core import reference
from attn_core.plot.kernel_page import SCRIPT, STYLE
from attn_core.plot.live import LiveFigure, framed
from attn_core.plot.style import COLORS, check_number, check_positive, check_text, to_array

_LEFT, _RIGHT, _TOP, _BASE = 46.0, 472.0, 16.0, 186.0  # of the values' plane
_FLOOR, _HIGH = 286.0, 52.0  # where the weights stand, and how high the highest is
_PLACES = 201  # of the curve
_MOST_NUMBERS = 500  # keys that a page carries


def live_kernel(
    keys: Any,
    values: Any,
    *,
    query: float,
    bandwidths: Sequence[float],
    bandwidth: float,
    key_axis: str = "key",
    value_axis: str = "value",
) -> LiveFigure:
    r"""A figure in which a query moves along a line of keys, and the weights and answer follow.

    .. math:: s_j = -\frac{(q - k_j)^2}{2 \beta^2}, \qquad
              a_j = \frac{e^{s_j}}{\sum_m e^{s_m}}, \qquad
              o = \sum_j a_j v_j

    It is SVG with a few lines of script and needs no library. Without script it is a still
    picture. The script keeps the unrounded numbers in the attributes `data-query`,
    `data-bandwidth`, `data-weights`, `data-output` and `data-curve`, the answers at 201 places
    from the first key to the last.

    Args:
        keys: `(S,)`, where something was seen.
        values: `(S,)`, what was seen there.
        query: where it starts; between the smallest and the largest key.
        bandwidths: the positive, rising β through which the slider goes, in the unit of the keys.
        bandwidth: β, where the slider starts; one of `bandwidths`.
        key_axis: what keys and query are, with the unit.
        value_axis: what values and output are, with the unit.

    Returns:
        An object that a notebook shows; its `html` is the markup.

    Raises:
        ValueError: a shape does not fit, a number is not finite, all keys are equal, there are
            more than 500, the query is outside the keys, or the bandwidths do not rise from above
            0 or do not contain `bandwidth`.
        TypeError: `keys` or `values` holds no numbers.

    Source: Nadaraya (1964); Watson (1964).

    Example:
        >>> live_kernel([0, 1], [2, 4], query=0.5, bandwidths=[1], bandwidth=1).html[:25]
        '<div class="attn-kernel" '
    """
    key_array, value_array = _line(keys, "keys"), _line(values, "values")
    if key_array.shape != value_array.shape:
        raise ValueError(
            f"there must be one value for each key, got {len(key_array)} keys and "
            f"{len(value_array)} values"
        )
    check_number("query", query)
    check_positive("bandwidth", bandwidth)
    check_text("key_axis", key_axis)
    check_text("value_axis", value_axis)
    low, high = float(key_array.min()), float(key_array.max())
    if low == high:
        raise ValueError(f"keys must differ, got {low} only")
    if not low <= query <= high:
        raise ValueError(f"query must be between the keys {low} and {high}, got {query}")
    steps = _line(bandwidths, "bandwidths")
    if steps[0] <= 0 or (np.diff(steps) <= 0).any():
        raise ValueError(f"bandwidths must be positive and rise, got {steps.tolist()}")
    if bandwidth not in steps:
        raise ValueError(f"bandwidth must be one of {steps.tolist()}, got {bandwidth}")

    # Rounded, so that every processor writes the same page; the script writes them in full.
    output, weights = _answer(np.array([query], dtype=float), key_array, value_array, bandwidth)
    curve, _ = _answer(np.linspace(low, high, _PLACES), key_array, value_array, bandwidth)
    floor, ceiling = float(value_array.min()), float(value_array.max())
    room = 0.06 * (ceiling - floor) or 1.0
    data = {
        "keys": key_array.tolist(),
        "values": value_array.tolist(),
        "query": float(query),
        "bandwidths": steps.tolist(),
        "bandwidth": float(bandwidth),
        "weights": weights[0].round(6).tolist(),
        "output": round(float(output[0]), 6),
        "curve": curve.round(4).tolist(),
        "frame": [low, high, round(floor - room, 6), round(ceiling + room, 6)],
        "axes": [key_axis, value_axis],
    }
    return framed(
        "attn-kernel",
        "A query on a line of keys, live",
        data,
        _drawing(data) + f'<p class="reading">{_reading(data)}</p>' + _controls(data),
        style=STYLE,
        script=SCRIPT,
    )


def _line(argument: Any, name: str) -> NDArray[Any]:
    array = to_array(argument, name).astype(float)
    if array.ndim != 1 or not 0 < len(array) <= _MOST_NUMBERS:
        raise ValueError(f"{name} must be 1 to {_MOST_NUMBERS} numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    return array


def _answer(
    places: NDArray[Any], keys: NDArray[Any], values: NDArray[Any], bandwidth: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Kernel regression at these places, as attention."""
    output, weights = reference.attention(
        places[:, None],
        keys[:, None],
        values[:, None],
        score=lambda query, key: reference.gaussian(query, key, bandwidth=bandwidth),
        return_weights=True,
    )
    return output[:, 0], weights


def _drawing(data: dict[str, Any]) -> str:
    low, high, floor, ceiling = data["frame"]

    def across(key: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (key - low) / (high - low)

    def down(value: float) -> float:
        return _BASE - (_BASE - _TOP) * (value - floor) / (ceiling - floor)

    weights = np.array(data["weights"])
    line = f'stroke="{COLORS["muted"]}" stroke-width="1"'
    pieces = [
        f'<path d="M{_LEFT} {_TOP}V{_BASE}H{_RIGHT}M{_LEFT} {_FLOOR}H{_RIGHT}" fill="none" {line}/>'
    ]
    for tick in _ticks(low, high):
        pieces.append(f'<path d="M{across(tick):.2f} {_BASE}v4" {line}/>')
        pieces.append(_text(across(tick), _BASE + 17, f"{tick:g}", "middle"))
    for tick in _ticks(floor, ceiling):
        pieces.append(f'<path d="M{_LEFT} {down(tick):.2f}h-4" {line}/>')
        pieces.append(_text(_LEFT - 7, down(tick) + 4, f"{tick:g}".replace("-", "−"), "end"))
    x, y = across(data["query"]), down(data["output"])
    curve = "".join(
        f"{'L' if index else 'M'}{_LEFT + (_RIGHT - _LEFT) * index / (_PLACES - 1):.2f} "
        f"{down(value):.2f}"
        for index, value in enumerate(data["curve"])
    )
    pieces.append(
        f'<path class="curve" d="{curve}" fill="none" stroke="{COLORS["muted"]}" '
        'stroke-width="1.5"/>'
        f'<path class="at" d="M{x:.2f} {_TOP}V{_BASE}M{x:.2f} {_FLOOR - _HIGH}V{_FLOOR}" '
        f'stroke="{COLORS["query"]}" '
        'stroke-width="1.5" stroke-dasharray="5 3"/>'
    )
    highest = weights.max()
    for key, value, weight in zip(data["keys"], data["values"], weights, strict=True):
        pieces.append(
            f'<circle class="seen" cx="{across(key):.2f}" cy="{down(value):.2f}" '
            f'r="{2.2 + 6 * weight / highest:.2f}" fill="{COLORS["value"]}" fill-opacity="0.75"/>'
            f'<path class="bar" d="M{across(key):.2f} {_FLOOR:.0f}'
            f'V{_FLOOR - _HIGH * weight / highest:.2f}" stroke="{COLORS["weights"]}" '
            'stroke-width="3"/>'
        )
    pieces.append(
        f'<circle class="answer" cx="{x:.2f}" cy="{y:.2f}" r="6.5" fill="{COLORS["output"]}" '
        'stroke="white" stroke-width="1.5"/>'
        + _text(_LEFT + 4, _TOP - 4, f"↑ {data['axes'][1]}", "start")
        + _text(_RIGHT, _BASE + 37, f"{data['axes'][0]} →", "end")
        + _text(_LEFT + 4, _BASE + 37, f"weights, highest {highest:.3f}", "start", "top")
    )
    return (
        '<svg viewBox="0 -6 480 298" role="img" aria-label="Values over keys, the answer at the '
        'query, and below them the weights">' + "".join(pieces) + "</svg>"
    )


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    step = 10.0 ** np.floor(np.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= count)
    return [float(step * i) for i in range(int(np.ceil(low / step)), int(high // step) + 1)]


def _text(x: float, y: float, text: str, anchor: str, name: str = "") -> str:
    kind = f' class="{name}"' if name else ""
    return f'<text{kind} x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{escape(text)}</text>'


def _reading(data: dict[str, Any]) -> str:
    weights = np.array(data["weights"])
    nearest = int(weights.argmax())
    number = f"{data['output']:.1f}".replace("-", "−")
    many = int((weights >= 0.01).sum())
    return (
        f"At {data['query']:.2f} the answer is {number}. "
        f"The key {data['keys'][nearest]:.2f} has the most weight, {weights[nearest]:.3f}; "
        f"{many} of {len(weights)} keys {'has' if many == 1 else 'have'} 0.01 or more."
    )


def _controls(data: dict[str, Any]) -> str:
    low, high = data["frame"][:2]
    position = data["bandwidths"].index(data["bandwidth"])
    return (
        '<div class="controls" hidden>'
        f'<label><span>query</span> <input type="range" name="query" min="{low}" max="{high}" '
        f'step="any" value="{data["query"]}"> '
        f'<span class="query-number" aria-hidden="true">{data["query"]:.2f}</span></label>'
        '<label><span>bandwidth β</span> <input type="range" name="bandwidth" min="0" '
        f'max="{len(data["bandwidths"]) - 1}" step="1" value="{position}"> '
        f'<span class="bandwidth-number" aria-hidden="true">{data["bandwidth"]:g}</span></label>'
        "</div>"
    )
