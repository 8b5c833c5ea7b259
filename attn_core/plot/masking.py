"""A live figure: put masks together, and see who sees whom, directly and through layers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_core.plot.live import LiveFigure, framed
from attn_core.plot.masking_page import SCRIPT, STYLE
from attn_core.plot.style import COLORS, check_count, check_flag, check_tokens
from attn_core.reference import masks

_MOST_TOKENS, _MOST_LAYERS = 16, 6
_FILLS = ("#ffffff", "#e6bcd6", COLORS["weights"])  # unseen, through layers, directly
_LEFT, _TOP, _SIZE = 66.0, 62.0, 172.0  # of the grid, in a drawing 240 units wide
_HEIGHT = 244.0
_START, _ACROSS = 48.0, 178.0  # of the tokens below the paths


def live_mask(
    tokens: Sequence[str],
    *,
    documents: Sequence[int] | None = None,
    causal: bool = False,
    window: int | None = None,
    global_tokens: int = 0,
    length: int | None = None,
    by_document: bool = False,
    layers: int = 1,
    query: int = 0,
) -> LiveFigure:
    r"""A figure in which masks are put together, and each query shows what it sees.

    .. math:: M = (\text{window} \lor \text{global}) \land \text{causal} \land \text{document}
              \land \text{padding}, \qquad
              M^{[1]} = M, \quad M^{[N]}_{ij} = \bigvee_m M_{im} \land M^{[N-1]}_{mj}

    A dark cell is a key that the query sees in one layer, :math:`M_{ij}`; a pale one it sees
    through N layers only, :math:`M^{[N]}_{ij}`. Beside it, the paths of one query. It is SVG with a
    few lines of script and needs no library. Without script it is a still picture. The script
    keeps both tables in the attributes `data-mask` and `data-reach`.

    Args:
        tokens: n tokens, 2 to 16.
        documents: the document of each token, n integers; by default all are of one.
        causal: whether it starts with the causal mask.
        window: how many keys before and after its own a query sees, at the start; by default
            all.
        global_tokens: how many of the first tokens see all and are seen by all, at the start.
        length: how many tokens are real, at the start; the others are padding. By default all.
        by_document: whether it starts with the document mask.
        layers: N, at the start; 1 to 6.
        query: the position of the query that is shown at the start.

    Returns:
        An object that a notebook shows; its `html` is the markup.

    Raises:
        ValueError: a number is out of its range, or `documents` has not one entry a token.
        TypeError: `tokens` is one string.

    Source: Beltagy et al. (2020), section 3.1: windows stacked in layers, and global tokens.

    Example:
        >>> live_mask(["a", "b", "c"], window=1, layers=2).html[:23]
        '<div class="attn-mask" '
    """
    names = check_tokens(tokens, None, "tokens") or []
    n = len(names)
    window = n - 1 if window is None else window
    length = n if length is None else length
    check_flag("causal", causal)
    check_flag("by_document", by_document)
    for name, count in (("window", window), ("global_tokens", global_tokens), ("length", length)):
        check_count(name, count, least=None)
    check_count("layers", layers, least=None)
    check_count("query", query)
    try:
        ids = [0] * n if documents is None else [int(entry) for entry in documents]
    except (TypeError, ValueError):
        raise TypeError(f"documents must hold integers, got {documents!r}") from None
    start = {
        "causal": int(causal),
        "document": int(by_document),
        "window": window,
        "global": global_tokens,
        "length": length,
        "layers": layers,
        "query": query,
    }
    limits = _limits(n)
    if not 2 <= n <= _MOST_TOKENS:
        raise ValueError(f"tokens must be 2 to {_MOST_TOKENS}, got {n}")
    if len(ids) != n:
        raise ValueError(f"documents must have {n} entries, one for each token, got {len(ids)}")
    for name, (low, high) in limits.items():
        if not low <= start[name] <= high:
            raise ValueError(f"{name} must be between {low} and {high}, got {start[name]}")
    table = _table(start, ids)
    reach = _reach(table, layers)
    data = {
        "tokens": names,
        "documents": ids,
        **start,
        "mask": table.astype(int).tolist(),
        "reach": reach[-1].astype(int).tolist(),
    }
    return framed(
        "attn-mask",
        "Masks put together, live",
        data,
        _controls(start, limits)
        + f'<p class="code"><code>{escape(_code(start, n))}</code></p>'
        + f'<p class="reading">{escape(_reading(names, table, reach[-1], start))}</p>'
        + f'<div class="panels">{_grid(names, table, reach[-1], query)}'
        + _paths(names, table, reach, query)
        + "</div>",
        style=STYLE,
        script=SCRIPT,
    )


def _limits(n: int) -> dict[str, tuple[int, int]]:
    return {
        "window": (0, n - 1),
        "global": (0, n),
        "length": (1, n),
        "layers": (1, _MOST_LAYERS),
        "query": (0, n - 1),
    }


def _table(start: dict[str, int], ids: list[int]) -> NDArray[Any]:
    n, near = len(ids), start["window"]
    table = masks.window(near, near, n, n) | masks.global_tokens(start["global"], n, n)
    if start["causal"]:
        table = table & masks.causal(n, n)
    if start["document"]:
        table = table & masks.document(ids)
    return np.asarray(table & masks.padding([start["length"]], n)[0, 0])


def _reach(table: NDArray[Any], layers: int) -> list[NDArray[Any]]:
    """What is seen through no layer, one, ..., all of them: powers of the table."""
    powers = [np.eye(len(table), dtype=bool)]
    for _ in range(layers):
        powers.append(table @ powers[-1])  # of two bool tables: "and", then "or"
    return powers


def _code(start: dict[str, int], n: int) -> str:
    near, wide = start["window"], start["global"]
    parts = []
    if near < n - 1:
        parts.append(f"window({near}, {near})")
        if wide:
            parts[0] = f"({parts[0]} | global_tokens({wide}))"
    if start["causal"]:
        parts.append("causal()")
    if start["document"]:
        parts.append("document(ids)")
    if start["length"] < n:
        parts.append(f"padding([{start['length']}])")
    return "mask = " + (" & ".join(parts) or "None")


def _reading(
    names: list[str], table: NDArray[Any], reach: NDArray[Any], start: dict[str, int]
) -> str:
    query, layers = start["query"], start["layers"]
    direct = int(table[query].sum())
    text = f"Query {query}, “{names[query]}”, sees {direct} of {len(names)} keys"
    text += "" if direct else ": an empty row"
    if layers == 1:
        return text + "."
    return f"{text}; through {layers} layers, {int(reach[query].sum())}."


def _controls(start: dict[str, int], limits: dict[str, tuple[int, int]]) -> str:
    texts = {
        "window": "window, each side",
        "global": "global tokens",
        "length": "real tokens",
        "layers": "layers",
        "query": "query shown",
    }
    boxes = "".join(
        f'<label><input type="checkbox" name="{name}"{" checked" * start[name]}> {text}</label>'
        for name, text in {"causal": "causal", "document": "own document"}.items()
    )
    sliders = "".join(
        f'<label><span>{text}</span><input type="range" name="{name}" min="{limits[name][0]}" '
        f'max="{limits[name][1]}" value="{start[name]}"><span class="{name}-number" '
        f'aria-hidden="true">{start[name]}</span></label>'
        for name, text in texts.items()
    )
    return (
        f'<div class="controls" hidden><div class="boxes">{boxes}</div>'
        f'<div class="sliders">{sliders}</div></div>'
    )


def _word(x: float, y: float, text: str, *, anchor: str, turned: bool) -> str:
    turn = f' transform="rotate(-60 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'


def _grid(names: list[str], table: NDArray[Any], reach: NDArray[Any], query: int) -> str:
    cell = _SIZE / len(names)
    drawing = []
    for i, name in enumerate(names):
        drawing.append(
            _word(_LEFT - 4, _TOP + (i + 0.5) * cell + 4, name, anchor="end", turned=False)
        )
        drawing.append(
            _word(_LEFT + (i + 0.5) * cell + 3, _TOP - 5, name, anchor="start", turned=True)
        )
        for j in range(len(names)):
            shade = 2 if table[i, j] else int(reach[i, j])
            drawing.append(
                f'<rect class="cell" x="{_LEFT + j * cell:.2f}" y="{_TOP + i * cell:.2f}" '
                f'width="{cell:.2f}" height="{cell:.2f}" fill="{_FILLS[shade]}"/>'
            )
    drawing.append(
        f'<rect class="row" x="{_LEFT}" y="{_TOP + query * cell:.2f}" width="{_SIZE}" '
        f'height="{cell:.2f}" fill="none" stroke="{COLORS["query"]}" stroke-width="2.5"/>'
    )
    return _svg("grid", "Queries as rows, keys as columns", "".join(drawing))


def _paths(names: list[str], table: NDArray[Any], reach: list[NDArray[Any]], query: int) -> str:
    """One query above, the tokens below, and every way from it to them."""
    cell, lines, dots = _ACROSS / len(names), [], []
    layers = len(reach) - 1
    for depth, seen in enumerate(reach):
        y, below = _height(depth, layers), _height(depth + 1, layers)
        for i in np.flatnonzero(seen[query]):
            x = _START + (i + 0.5) * cell
            dots.append(f"M{x - 4:.2f} {y:.2f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0")
            if depth < layers:
                lines += [
                    f"M{x:.2f} {y:.2f}L{_START + (j + 0.5) * cell:.2f} {below:.2f}"
                    for j in np.flatnonzero(table[i])
                ]
    words = "".join(
        _word(_START + (j + 0.5) * cell + 4, _height(1, 1) + 16, name, anchor="end", turned=True)
        for j, name in enumerate(names)
    ) + "".join(
        f'<text class="depth" x="0" y="{_height(min(depth, layers), layers) + 4:.2f}">'
        f"{_depth(depth) if depth <= layers else ''}</text>"
        for depth in range(_MOST_LAYERS + 1)
    )
    drawing = (
        f'<path class="lines" d="{"".join(lines)}" stroke="{_FILLS[2]}" stroke-width="1" '
        f'fill="none"/><path class="dots" d="{"".join(dots)}" fill="{COLORS["output"]}"/>{words}'
    )
    return _svg("paths", "The query above, what it sees below, layer by layer", drawing)


def _depth(depth: int) -> str:
    return f"layer {depth}" if depth else "query"


def _height(depth: int, layers: int) -> float:
    return 12 + (176.0 * depth) / layers


def _svg(name: str, label: str, drawing: str) -> str:
    return (
        f'<svg class="{name}" viewBox="0 0 240 {_HEIGHT:.0f}" role="img" '
        f'aria-label="{label}">{drawing}</svg>'
    )
