"""A live figure: the width of queries and keys grows, and scores, weights, derivatives follow."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_core import reference
from attn_core.plot.live import LiveFigure, framed
from attn_core.plot.scaling_page import SCRIPT, STYLE
from attn_core.plot.style import COLORS, check_count, to_matrix

_BINS = 96
_BASE, _TOP = 84.0, 24.0  # of the bars, in a drawing that is 240 units wide and 100 high
_LEFT, _RIGHT = 4.0, 236.0
_FULL = {"weights": 1.0, "derivatives": 0.5}  # what a bar of full height means
_MOST_NUMBERS = 10_000  # that a page carries


def live_scale(queries: Any, keys: Any, *, width: int = 64) -> LiveFigure:
    r"""A figure with a slider for the width D: on the left raw scores, on the right divided by √D.

    .. math:: s_{ij} = \sum_{c=1}^{D} q_{ic} k_{jc} \quad\text{or}\quad
              s_{ij} = \frac{1}{\sqrt D} \sum_{c=1}^{D} q_{ic} k_{jc}, \qquad
              a_i = \operatorname{softmax}(s_i), \qquad
              g_i = \sqrt{\sum_{jm} \Big(\frac{\partial a_{ij}}{\partial s_{im}}\Big)^2}

    Each side shows a histogram of all scores, the weights of the first query, and :math:`g_i` for
    each query: how strongly its weights answer to its scores. At width D only the first D columns
    of the queries and keys are used. It is SVG with a few lines of script and needs no library.
    Without script it is a still picture. The script keeps the unrounded numbers of both sides in
    the attributes `data-spreads`, `data-weights` and `data-derivatives`.

    Args:
        queries: `(L, D_max)`. The slider goes through the powers of two up to `D_max`.
        keys: `(S, D_max)`.
        width: D, where the slider starts; a power of two.

    Returns:
        An object that a notebook shows; its `html` is the markup.

    Raises:
        ValueError: queries or keys are no matrix, hold a number that is not finite, or differ in
            width; the width is no power of two up to `D_max`; or the page would have to carry
            more than 10,000 scores.
        TypeError: `queries` or `keys` holds no numbers.

    Source: Vaswani et al. (2017), section 3.2.1, footnote 4.

    Example:
        >>> live_scale(np.ones((1, 2)), np.ones((3, 2)), width=2).html[:24]
        '<div class="attn-scale" '
    """
    query_array = to_matrix(queries, "queries", "L", "D_max").astype(float)
    key_array = to_matrix(keys, "keys", "S", "D_max").astype(float)
    widths = _widths(query_array, key_array, width)
    # Rounded, so that every processor writes the same page.
    dots = np.array([reference.dot(query_array[:, :w], key_array[:, :w]).round(2) for w in widths])
    limit = float(max(np.ceil(np.abs(dots).max()), 1))
    position = widths.index(width)
    sides = [dots[position], dots[position] / np.sqrt(width)]
    data = {
        "widths": widths,
        "dots": dots.tolist(),
        "limit": limit,
        "highest": _highest(dots, widths, limit),
        "bins": _BINS,
        "width": width,
        "spreads": [round(float(scores.std()), 6) for scores in sides],
        "weights": [reference.softmax(scores[0]).round(6).tolist() for scores in sides],
        "derivatives": [_derivatives(scores).round(6).tolist() for scores in sides],
    }
    return framed(
        "attn-scale",
        "Scores at a width, live",
        data,
        _slider(widths, position)
        + _panels(sides, data)
        + f'<p class="reading">{_reading(data)}</p>',
        style=STYLE,
        script=SCRIPT,
    )


def _widths(queries: NDArray[Any], keys: NDArray[Any], width: int) -> list[int]:
    widest = queries.shape[1]
    if keys.shape[1] != widest:
        raise ValueError(
            f"queries and keys must have one width, got the shapes {queries.shape}, {keys.shape}"
        )
    if not (np.isfinite(queries).all() and np.isfinite(keys).all()):
        raise ValueError("queries and keys must be finite")
    widths = [2**power for power in range(widest.bit_length())]
    check_count("width", width)
    if width not in widths:
        raise ValueError(f"width must be one of {widths}, got {width}")
    count = len(widths) * len(queries) * len(keys)
    if count > _MOST_NUMBERS:
        raise ValueError(
            f"{len(queries)} queries and {len(keys)} keys at {len(widths)} widths are {count:,} "
            f"scores; the page carries at most {_MOST_NUMBERS:,}"
        )
    return widths


def _derivatives(scores: NDArray[Any]) -> NDArray[Any]:
    """The root of the sum of squared derivatives of each row's softmax."""
    jacobians = reference.softmax_jacobian(scores)
    return np.asarray(np.sqrt((jacobians**2).sum(axis=(-2, -1))))


def _counts(scores: NDArray[Any], limit: float) -> NDArray[Any]:
    places = np.floor((scores.ravel() + limit) / (2 * limit) * _BINS).astype(int)
    return np.bincount(np.minimum(places, _BINS - 1), minlength=_BINS)


def _highest(dots: NDArray[Any], widths: list[int], limit: float) -> int:
    sides = [
        scores / divisor
        for scores, w in zip(dots, widths, strict=True)
        for divisor in (1, np.sqrt(w))
    ]
    return int(max(_counts(scores, limit).max() for scores in sides))


def _bars(heights: NDArray[Any], full: float) -> str:
    """One path for all bars: absolute places only, as the script writes them."""
    step = (_RIGHT - _LEFT) / len(heights)
    pieces = []
    for index, height in enumerate(heights):
        left = _LEFT + (index + 0.1) * step
        top = _BASE - (_BASE - _TOP) * float(height) / full
        pieces.append(f"M{left:.2f} {_BASE:.2f}V{top:.2f}H{left + 0.8 * step:.2f}V{_BASE:.2f}z")
    return "".join(pieces)


def _panels(sides: list[NDArray[Any]], data: dict[str, Any]) -> str:
    names = ("not scaled", "divided by √D")
    rows, columns = sides[0].shape
    heads = (
        f'<p class="bad">{names[0]}</p><p class="good">divided by √<span class="root">D</span></p>'
    )
    titles = {
        "scores": f"All {rows * columns} scores",
        "weights": f"Weights of the first query, for {columns} keys",
        "derivatives": f"Size of ∂a/∂s, for {rows} queries",
    }
    html = [f'<div class="sides">{heads}']
    for kind, title in titles.items():
        html.append(f'<p class="what">{title}</p>')
        for side, numbers in enumerate(_numbers(data)):
            if kind == "scores":
                bars = _bars(_counts(sides[side], data["limit"]), data["highest"])
            else:
                bars = _bars(np.array(data[kind][side]), _FULL[kind])
            label = f"{title}, {names[side]}"
            html.append(_svg(kind, label, bars, numbers[kind], data["limit"]))
    return "".join(html) + "</div>"


def _svg(kind: str, label: str, bars: str, number: str, limit: float) -> str:
    color = {"scores": "muted", "weights": "weights", "derivatives": "query"}[kind]
    line = f'stroke="{COLORS["muted"]}" stroke-width="0.8"'
    if kind == "scores":
        ticks = [(_LEFT, "start", f"−{limit:.0f}"), (120.0, "middle", "0")]
        ticks.append((_RIGHT, "end", f"{limit:.0f}"))
        frame = "".join(
            f'<text class="small" x="{x:.0f}" y="99" text-anchor="{anchor}">{text}</text>'
            for x, anchor, text in ticks
        )
    else:
        frame = (
            f'<path d="M{_LEFT} {_TOP}H{_RIGHT}" {line} stroke-dasharray="2 3"/>'
            f'<text class="small" x="{_RIGHT}" y="{_TOP - 5}" text-anchor="end">'
            f"{_FULL[kind]:g}</text>"
        )
    return (
        f'<svg class="{kind}" viewBox="0 0 240 {102 if kind == "scores" else 88}" role="img" '
        f'aria-label="{escape(label)}">{frame}'
        f'<path class="bars" d="{bars}" fill="{COLORS[color]}"/>'
        f'<path d="M{_LEFT} {_BASE}H{_RIGHT}" {line}/>'
        f'<text class="number" x="{_LEFT}" y="14">{number}</text></svg>'
    )


def _numbers(data: dict[str, Any]) -> list[dict[str, str]]:
    """What stands above the bars, for each of the two sides."""
    return [
        {
            "scores": f"standard deviation {data['spreads'][side]:.1f}",
            "weights": f"largest {max(data['weights'][side]):.2f}",
            "derivatives": f"median {np.median(data['derivatives'][side]):.2f}",
        }
        for side in (0, 1)
    ]


def _reading(data: dict[str, Any]) -> str:
    texts = [
        "{scores}; weights: {weights}; derivatives: {derivatives}.".format(**numbers)
        for numbers in _numbers(data)
    ]
    return f"Width {data['width']}. Not scaled: {texts[0]} Divided by √D: {texts[1]}"


def _slider(widths: list[int], position: int) -> str:
    return (
        '<div class="controls" hidden><label><span>width D of queries and keys</span> '
        f'<input type="range" name="width" min="0" max="{len(widths) - 1}" step="1" '
        f'value="{position}" aria-valuetext="{widths[position]}"> '
        f'<span class="width-number" aria-hidden="true">{widths[position]}</span></label></div>'
    )
