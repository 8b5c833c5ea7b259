"""A live figure: the reader drags a query, and scores, weights and output follow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attn_core import reference
from attn_core.plot.live_page import SCRIPT, STYLE
from attn_core.plot.style import COLORS, check_number, check_tokens, to_array

_CENTRE = 120.0  # of a drawing that is 240 units wide and high
_REACH = 104.0  # from its centre to its edge
_BAR_START, _BAR_LENGTH = 128.0, 100.0


class LiveFigure:
    """A piece of a page that a notebook shows by itself.

    Args:
        html: the markup.

    Example:
        >>> LiveFigure("<div></div>")
        LiveFigure(11 characters of HTML)
    """

    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"LiveFigure({len(self.html)} characters of HTML)"


def framed(
    name: str, label: str, data: dict[str, Any], body: str, *, style: str, script: str
) -> LiveFigure:
    """What every live figure has around its body: a name, its numbers, its style and script."""
    attributes = " ".join(
        f'data-{key}="{escape(json.dumps(item, ensure_ascii=False, separators=(",", ":")))}"'
        for key, item in data.items()
    )
    return LiveFigure(
        # JupyterLab leaves the arrow keys to what carries the attribute with `suppress`.
        f'<div class="{name}" role="group" aria-label="{label}" '
        f'data-lm-suppress-shortcuts="true" {attributes}>'
        f"<style>{style}</style>{body}<script>{script}</script></div>"
    )


class _Frame(NamedTuple):
    """How numbers become places in a drawing: `centre` is drawn in the middle."""

    centre: tuple[float, float]
    unit: float

    def at(self, point: NDArray[Any]) -> tuple[float, float]:
        return (
            _CENTRE + self.unit * (float(point[0]) - self.centre[0]),
            _CENTRE - self.unit * (float(point[1]) - self.centre[1]),
        )


def live_attention(
    words: Sequence[str],
    keys: Any,
    values: Any,
    query: Any,
    *,
    temperature: float = 1.0,
    key_axes: tuple[str, str] = ("first coordinate", "second coordinate"),
    value_axes: tuple[str, str] = ("first coordinate", "second coordinate"),
) -> LiveFigure:
    r"""A figure in which one query is dragged, and scores, weights and output follow.

    .. math:: s_j = \mathbf{q} \cdot \mathbf{k}_j, \qquad
              a_j = \frac{e^{s_j / \tau}}{\sum_m e^{s_m / \tau}}, \qquad
              \mathbf{o} = \sum_j a_j \mathbf{v}_j

    It is SVG with a few lines of script and needs no library. Without script it is a still
    picture. The script keeps the unrounded numbers in the attributes `data-scores`, `data-weights`
    and `data-output`.

    Args:
        words: S words.
        keys: `(S, 2)`.
        values: `(S, 2)`.
        query: `(2,)`, where it starts.
        temperature: τ, where it starts; from 0.1 to 4. √2 is the scaled dot product.
        key_axes: what the two coordinates of queries and keys mean.
        value_axes: what the two coordinates of values and outputs mean.

    Returns:
        An object that a notebook shows; its `html` is the markup.

    Raises:
        ValueError: a shape does not fit, a number is not finite, or the temperature is out of
            its range.
        TypeError: `keys`, `values` or `query` holds no numbers, or `words` is one string.

    Source: D0 §3.1, the three steps.

    Example:
        >>> live_attention(["a", "b"], [[1, 0], [0, 1]], [[1, 0], [0, 1]], [1, 0]).html[:23]
        '<div class="attn-live" '
    """
    names = check_tokens(words, None, "words") or []
    key_array = _points(keys, "keys", len(names))
    value_array = _points(values, "values", len(names))
    query_array = _points(np.asarray(to_array(query, "query"))[None], "query", 1)[0]
    for name, axes in (("key_axes", key_axes), ("value_axes", value_axes)):
        check_tokens(axes, 2, name)
    check_number("temperature", temperature)
    if not 0.1 <= temperature <= 4:
        raise ValueError(f"temperature must be between 0.1 and 4, got {temperature}")

    farthest = max(np.abs(key_array).max(), np.abs(query_array).max())
    limit = float(np.ceil(2 * farthest) / 2 + 0.5)
    low, high = value_array.min(axis=0), value_array.max(axis=0)
    spread = max(float((high - low).max()), 0.5)
    middle = (low + high) / 2
    key_frame = _Frame((0.0, 0.0), _REACH / limit)
    value_frame = _Frame((float(middle[0]), float(middle[1])), _REACH / (0.72 * spread))

    scores = reference.dot(query_array[None], key_array)
    output, weights = reference.attention(
        query_array[None], key_array, value_array, scale=1 / temperature, return_weights=True
    )
    data = {
        "keys": key_array.tolist(),
        "values": value_array.tolist(),
        "words": names,
        "query": query_array.tolist(),
        "temperature": float(temperature),
        # Rounded, so that every processor writes the same page; the script writes them in full.
        "scores": scores[0].round(6).tolist(),
        "weights": weights[0].round(6).tolist(),
        "output": output[0].round(6).tolist(),
        "limit": limit,
        "frames": {
            "query": [0.0, 0.0, key_frame.unit],
            "output": [*value_frame.centre, value_frame.unit],
        },
    }
    attributes = " ".join(
        f'data-{name}="{escape(json.dumps(item))}"' for name, item in data.items()
    )
    return LiveFigure(
        # JupyterLab leaves the arrow keys to what carries the attribute with `suppress`.
        '<div class="attn-live" role="group" aria-label="Attention with one query, live" '
        'data-lm-suppress-shortcuts="true" '
        f"{attributes}>"
        f"<style>{STYLE}</style>"
        '<div class="panels">'
        + _score_panel(names, key_array, query_array, key_frame, key_axes)
        + _weight_panel(names, scores[0], weights[0])
        + _output_panel(names, value_array, weights[0], output[0], value_frame, value_axes)
        + f'<p class="reading">{_reading(names, weights[0], output[0])}</p></div>'
        + _controls(query_array, temperature, limit, key_axes)
        + f"<script>{SCRIPT}</script></div>"
    )


def _points(argument: Any, name: str, count: int) -> NDArray[Any]:
    array = to_array(argument, name).astype(float)
    if array.shape != (count, 2) or count == 0:
        expected = "(2,)" if name == "query" else f"({count}, 2), one point for each word"
        shape = array.shape[1:] if name == "query" else array.shape
        raise ValueError(f"{name} must have the shape {expected}, got {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    return array


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _svg(panel: str, label: str, drawing: str, height: float = 264) -> str:
    return (
        f'<svg class="{panel}" viewBox="0 0 240 {height:.0f}" role="img" '
        f'aria-label="{escape(label)}">'
        f"{drawing}</svg>"
    )


def _text(
    x: float, y: float, text: str, style: str = "", anchor: str = "start", name: str = ""
) -> str:
    kind = f' class="{name}"' if name else ""
    fill = COLORS.get(style, style) or COLORS["output"]
    return (
        f'<text{kind} x="{x:.2f}" y="{y:.2f}" fill="{fill}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _plane(title: str, frame: _Frame, axes: tuple[str, str]) -> str:
    zero_x, zero_y = frame.at(np.zeros(2))
    one_x, one_y = frame.at(np.ones(2))
    line = f'stroke="{COLORS["muted"]}" stroke-width="1" opacity="0.5"'
    return (
        _text(4, 15, title, name="title")
        + '<g transform="translate(0 22)">'
        + f'<line x1="4" y1="{zero_y:.2f}" x2="236" y2="{zero_y:.2f}" {line}/>'
        + f'<line x1="{zero_x:.2f}" y1="4" x2="{zero_x:.2f}" y2="236" {line}/>'
        + f'<path d="M{one_x:.2f} {zero_y - 3:.2f}v6M{zero_x - 3:.2f} {one_y:.2f}h6" {line}/>'
        + _text(one_x, zero_y + 15, "1", "muted", "middle", "small")
        + _text(zero_x - 4, one_y + 15, "1", "muted", "end", "small")
        + _text(236, 238, f"{axes[0]} →", "muted", "end", "small")
        + _text(4, 12, f"↑ {axes[1]}", "muted", name="small")
    )


def _score_panel(
    words: list[str],
    keys: NDArray[Any],
    query: NDArray[Any],
    frame: _Frame,
    axes: tuple[str, str],
) -> str:
    start = frame.at(np.zeros(2))
    drawing = [_plane("1 score: query · key", frame, axes)]
    for names, point in _by_place(words, keys):
        x, y = frame.at(point)
        drawing.append(_line(start, (x, y), "key", 2))
        drawing.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="4" fill="{COLORS["key"]}"/>')
        drawing.append(_word(names, (x, y), "key"))
    x, y = frame.at(query)
    drawing.append(
        _line(start, (x, y), "query", 3, "query-line")
        + f'<g class="handle" transform="translate({x:.2f} {y:.2f})">'
        '<circle class="ring" r="15" fill="transparent"/>'
        f'<circle r="7" fill="{COLORS["query"]}" stroke="white" stroke-width="1.5"/>'
        + _text(min(max(x, 30), 210) - x, _beside(y), "query", "query", "middle")
        + "</g></g>"
    )
    return _svg("score", "Keys of the words and the query as arrows in a plane", "".join(drawing))


def _weight_panel(words: list[str], scores: NDArray[Any], weights: NDArray[Any]) -> str:
    drawing = [
        _text(4, 15, "2 softmax(score / τ)", name="title"),
        _text(112, 44, "score", "muted", "end", "small"),
        _text(_BAR_START, 44, "weight", "weights", name="small"),
    ]
    step = min(40.0, 190.0 / len(words))
    for row, word in enumerate(words):
        y = 66 + step * row
        drawing.append(
            _text(4, y, word, "key")
            + _text(112, y, _number(scores[row]), anchor="end", name="score-number")
            + f'<rect class="bar" x="{_BAR_START}" y="{y + 5:.2f}" height="9" '
            f'width="{_BAR_LENGTH * weights[row]:.2f}" fill="{COLORS["weights"]}"/>'
            + f'<rect x="{_BAR_START}" y="{y + 5:.2f}" height="9" width="{_BAR_LENGTH}" '
            f'fill="none" stroke="{COLORS["muted"]}" stroke-width="0.6"/>'
            + _text(_BAR_START, y, _number(weights[row]), "weights", name="weight-number")
        )
    return _svg("weight", "Score and weight of each word", "".join(drawing), 66 + step * len(words))


def _output_panel(
    words: list[str],
    values: NDArray[Any],
    weights: NDArray[Any],
    output: NDArray[Any],
    frame: _Frame,
    axes: tuple[str, str],
) -> str:
    x, y = frame.at(output)
    drawing = [_plane("3 aggregate the values", frame, axes)]
    for value, weight in zip(values, weights, strict=True):
        end = frame.at(value)
        drawing.append(_line((x, y), end, "weights", 8 * weight, "pull"))
    for names, value in _by_place(words, values):
        end = frame.at(value)
        drawing.append(
            f'<circle cx="{end[0]:.2f}" cy="{end[1]:.2f}" r="5" fill="{COLORS["value"]}"/>'
        )
        drawing.append(_word(names, end, "value"))
    drawing.append(
        f'<g class="output" transform="translate({x:.2f} {y:.2f})">'
        f'<circle r="7" fill="{COLORS["output"]}" stroke="white" stroke-width="1.5"/>'
        + _text(0, _beside(y), "output", "output", "middle")
        + "</g></g>"
    )
    return _svg(
        "output-plane", "Values of the words, and the output between them", "".join(drawing)
    )


def _by_place(words: list[str], points: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    """Words that share a point share a label."""
    places: dict[tuple[float, ...], list[str]] = {}
    for word, point in zip(words, points, strict=True):
        places.setdefault(tuple(point.tolist()), []).append(word)
    return [(", ".join(names), np.array(place)) for place, names in places.items()]


def _line(
    start: tuple[float, float], end: tuple[float, float], color: str, width: float, name: str = ""
) -> str:
    kind = f' class="{name}"' if name else ""
    return (
        f'<line{kind} x1="{start[0]:.2f}" y1="{start[1]:.2f}" x2="{end[0]:.2f}" y2="{end[1]:.2f}"'
        f' stroke="{COLORS[color]}" stroke-width="{width:.2f}"/>'
    )


def _word(word: str, at: tuple[float, float], color: str) -> str:
    room = 7.5 * len(word) / 2
    x = min(max(at[0], room + 2), 238 - room)
    y = at[1] - 9 if at[1] <= _CENTRE else at[1] + 18
    return _text(x, y, word, color, "middle")


def _beside(y: float) -> float:
    """Where the label of a moving point stands: on the side where `_word` puts none."""
    return 23 if y <= _CENTRE else -12


def _reading(words: list[str], weights: NDArray[Any], output: NDArray[Any]) -> str:
    highest = weights.max()
    first = [f"“{escape(words[j])}”" for j in np.flatnonzero(weights > highest - 1e-9)]
    if 1 < len(first) == len(words):
        most = f"All weights are equal, {_number(highest)}."
    elif len(first) > 1:
        most = f"Most weight: {', '.join(first[:-1])} and {first[-1]}, {_number(highest)} each."
    else:
        most = f"Most weight: {first[0]}, {_number(highest)}."
    return f"{most} Output: ({_number(output[0])}, {_number(output[1])})."


def _controls(query: NDArray[Any], temperature: float, limit: float, axes: tuple[str, str]) -> str:
    def slider(name: str, text: str, low: float, high: float, step: float, value: float) -> str:
        return (
            f'<label><span>{escape(text)}</span> <input type="range" name="{name}" min="{low}" '
            f'max="{high}" step="{step}" value="{value}"> '
            f'<span class="{name}-number" aria-hidden="true">{_number(value)}</span></label>'
        )

    return (
        '<div class="controls" hidden>'
        "<p>Drag the blue query, or move it with the arrow keys or these sliders.</p>"
        + slider("x", f"query: {axes[0]}", -limit, limit, 0.05, float(query[0]))
        + slider("y", f"query: {axes[1]}", -limit, limit, 0.05, float(query[1]))
        + slider("temperature", "temperature τ", 0.1, 4, 0.1, temperature)
        + '<button type="button">Start again</button></div>'
    )
