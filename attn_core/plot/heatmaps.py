"""Heat maps: weights, scores, heads, position encodings, masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from attn_core.plot.style import (
    COLORS,
    SIGNED_MAP,
    WEIGHTS_MAP,
    Font,
    Values,
    axes_for,
    check_axes,
    check_count,
    check_flag,
    check_positive,
    check_text,
    check_tokens,
    heat_map,
    set_title,
    title_font,
    to_array,
    to_font,
    to_matrix,
)

_MOST_NUMBERS = 64  # cells beyond which numbers would be too small to read
_MOST_TICKS = 40  # tokens beyond which ticks would overlap


def weights(
    weights: Any,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    *,
    title: str,
    ax: Axes | None = None,
    values: Values = "auto",
    font: Font = None,
    vmax: float = 1.0,
    colorbar: bool = True,
) -> Axes:
    """Draw attention weights: queries as rows, keys as columns, 0 is white.

    Args:
        weights: `(L, S)`, one head of one batch entry; NaN is drawn hatched.
        queries: L tokens for the rows; their positions where it is not given.
        keys: S tokens for the columns.
        title: what the figure shows, as a sentence.
        ax: where to draw; a new figure of fitting size where it is not given.
        values: whether each cell shows its number; "auto" is yes up to 64 cells.
        font: a Matplotlib font or the path of a font file, for tokens in another script.
        vmax: the weight of the darkest colour. Keep 1 where figures are to be compared.
        colorbar: whether to draw the scale.

    Returns:
        The axes.

    Raises:
        ValueError: `weights` is no matrix, or there is not one token for each row and column.
        TypeError: `weights` holds no numbers, or the tokens are one string.

    Source: D1, last section: attention is hard to interpret without a way to see it.

    Example:
        >>> ax = weights([[0.9, 0.1], [0.4, 0.6]], ["it", "ran"], ["it", "ran"], title="Weights")
        >>> ax.get_ylabel(), [tick.get_text() for tick in ax.get_xticklabels()]
        ('query', ['it', 'ran'])
    """
    table = to_matrix(weights, "weights", "queries", "keys")
    check_positive("vmax", vmax)
    ax = axes_for(ax, table, colorbar)
    image = heat_map(ax, table, WEIGHTS_MAP, 0.0, vmax)
    _token_axes(ax, table, queries, keys, font)
    _numbers(ax, table, values, image)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="weight", shrink=0.85)
    set_title(ax, title, font)
    return ax


def scores(
    scores: Any,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    *,
    title: str,
    ax: Axes | None = None,
    values: Values = "auto",
    font: Font = None,
    limit: float | None = None,
    label: str = "score",
    colorbar: bool = True,
) -> Axes:
    """Draw signed values between queries and keys, such as scores or gradients; 0 is white.

    Args:
        scores: `(L, S)`; −inf (a masked score) is drawn hatched.
        queries: L tokens for the rows.
        keys: S tokens for the columns.
        title: what the figure shows, as a sentence.
        ax: where to draw; a new figure of fitting size where it is not given.
        values: whether each cell shows its number; "auto" is yes up to 64 cells.
        font: a Matplotlib font or the path of a font file.
        limit: the absolute value of the darkest colours; the greatest finite one by default.
        label: what the colour scale is called.
        colorbar: whether to draw the scale.

    Returns:
        The axes.

    Raises:
        ValueError: `scores` is no matrix, or there is not one token for each row and column.
        TypeError: `scores` holds no numbers, or the tokens are one string.

    Source: D0 §3.1, scoring is the first of the three steps.

    Example:
        >>> scores([[2.0, -1.0]], ["ran"], ["dog", "bank"], title="Scores").get_xlabel()
        'key'
    """
    table = to_matrix(scores, "scores", "queries", "keys").astype(float)
    finite = np.abs(table[np.isfinite(table)])
    if limit is None:
        limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    check_positive("limit", limit)
    check_text("label", label)
    ax = axes_for(ax, table, colorbar)
    image = heat_map(ax, table, SIGNED_MAP, -limit, limit)
    _token_axes(ax, table, queries, keys, font)
    _numbers(ax, table, values, image)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label=label, shrink=0.85)
    set_title(ax, title, font)
    return ax


def heads(
    weights: Any,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    *,
    title: str,
    names: Sequence[str] | None = None,
    columns: int | None = None,
    font: Font = None,
    vmax: float = 1.0,
) -> NDArray[Any]:
    """Draw one panel of weights per head, all with the same colour scale, in a new figure.

    Args:
        weights: `(heads, L, S)`, one batch entry.
        queries: L tokens for the rows.
        keys: S tokens for the columns.
        title: what the figure shows, as a sentence.
        names: one name per panel; "head 0", "head 1", … by default.
        columns: panels side by side; at most four by default.
        font: a Matplotlib font or the path of a font file.
        vmax: the weight of the darkest colour.

    Returns:
        The axes of the panels, one per head, `(heads,)`.

    Raises:
        ValueError: `weights` has not three dimensions, or names or tokens do not fit it.
        TypeError: `weights` holds no numbers, or the tokens are one string.

    Source: Vaswani et al. (2017), §3.2.2 and the appendix "Attention Visualizations".

    Example:
        >>> panels = heads(np.full((2, 3, 3), 1 / 3), title="Two heads that look everywhere")
        >>> [panel.get_title(loc="left") for panel in panels]
        ['head 0', 'head 1']
    """
    array = to_array(weights, "weights")
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            f"weights must be (heads, queries, keys), got the shape {array.shape}; "
            "choose one batch entry, such as weights[0]"
        )
    count, query_count, key_count = array.shape
    names = check_tokens(names, count, "names") or [f"head {head}" for head in range(count)]
    columns = min(count, 4) if columns is None else columns
    check_count("columns", columns, least=1)
    check_positive("vmax", vmax)
    check_text("title", title)
    rows = -(-count // columns)
    panel_width = float(np.clip(0.32 * key_count + 0.9, 1.9, 3.0))
    panel_height = panel_width * float(np.clip(query_count / key_count, 0.5, 1.5))
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(max(columns * panel_width + 0.8, 4.5), rows * panel_height + 0.8),
        squeeze=False,
        layout="constrained",
    )
    panels = grid.ravel()[:count]
    for head, ax in enumerate(panels):
        image = heat_map(ax, array[head], WEIGHTS_MAP, 0.0, vmax)
        _token_axes(ax, array[head], queries, keys, font)
        set_title(ax, names[head], font)
        if head % columns:
            ax.set_ylabel("")
        if head + columns < count:
            ax.set_xlabel("")
    for ax in grid.ravel()[count:]:
        ax.set_visible(False)
    figure.colorbar(image, ax=list(panels), label="weight", shrink=0.8)
    figure.suptitle(title, fontproperties=title_font(font), ha="left", x=0.01)
    return panels


def encoding(
    table: Any,
    *,
    title: str,
    ax: Axes | None = None,
    limit: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw a position encoding: positions as rows, dimensions as columns.

    Args:
        table: `(positions, dim)`.
        title: what the figure shows, as a sentence.
        ax: where to draw; a new figure where it is not given.
        limit: the absolute value of the darkest colours; the greatest one by default.
        colorbar: whether to draw the scale.

    Returns:
        The axes.

    Raises:
        ValueError: `table` is no matrix.
        TypeError: `table` holds no numbers.

    Source: D4 §2.3.

    Example:
        >>> encoding(np.eye(4), title="One-hot positions").get_xlabel()
        'dimension'
    """
    array = to_matrix(table, "table", "positions", "dim").astype(float)
    if limit is None:
        limit = float(np.abs(array).max()) or 1.0
    check_positive("limit", limit)
    check_flag("colorbar", colorbar)
    check_axes(ax)
    ax = ax or plt.subplots(layout="constrained")[1]
    image = heat_map(ax, array, SIGNED_MAP, -limit, limit)
    ax.set_aspect("auto")
    _position_ticks(ax)
    ax.set(xlabel="dimension", ylabel="position")
    set_title(ax, title)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="value")
    return ax


def mask(
    mask: Any,
    q_len: int | None = None,
    k_len: int | None = None,
    q_offset: int | None = None,
    *,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    title: str,
    ax: Axes | None = None,
    font: Font = None,
) -> Axes:
    """Draw who may attend to whom: a filled cell may, an empty one (crossed when few) may not.

    Args:
        mask: a `Mask` of `attn_core.masks`, or a bool matrix `(L, S)`, True = may attend.
        q_len: L, needed for a `Mask`.
        k_len: S, needed for a `Mask`.
        q_offset: the position of query 0 among the keys, as in `Mask.dense`.
        queries: L tokens for the rows.
        keys: S tokens for the columns.
        title: what the figure shows, as a sentence.
        ax: where to draw; a new figure of fitting size where it is not given.
        font: a Matplotlib font or the path of a font file.

    Returns:
        The axes.

    Raises:
        ValueError: a `Mask` without its lengths, more than one matrix, or tokens that do not fit.
        TypeError: the mask is not bool.

    Source: D2 §2.2, global and local attention.

    Example:
        >>> mask(np.tri(3, dtype=bool), title="No query sees the future").get_ylabel()
        'query'
    """
    table = _mask_table(mask, q_len, k_len, q_offset)
    ax = axes_for(ax, table, colorbar=False)
    heat_map(ax, np.where(table, 0.72, 0.0), WEIGHTS_MAP, 0.0, 1.0)
    _token_axes(ax, table, queries, keys, font)
    if table.size <= 4 * _MOST_NUMBERS:
        rows, columns = np.nonzero(~table)
        ax.plot(columns, rows, "x", color=COLORS["muted"], markersize=5, markeredgewidth=1.2)
        ax.set_xticks(np.arange(0.5, table.shape[1] - 1), minor=True)
        ax.set_yticks(np.arange(0.5, table.shape[0] - 1), minor=True)
        ax.grid(which="minor", color="white", linewidth=1.5)
        ax.tick_params(which="minor", length=0)
    set_title(ax, title, font)
    return ax


def _mask_table(
    mask: Any, q_len: int | None, k_len: int | None, q_offset: int | None
) -> NDArray[Any]:
    if hasattr(mask, "dense") and not hasattr(mask, "detach"):
        if q_len is None or k_len is None:
            raise ValueError("q_len and k_len must be given to draw a Mask")
        mask = mask.dense(q_len, k_len, q_offset=q_offset)
        array = to_array(mask, "mask")
        if all(size == 1 for size in array.shape[:-2]):
            array = array.reshape(array.shape[-2:])
        array = np.broadcast_to(array, (*array.shape[:-2], q_len, k_len))
    else:
        array = to_array(mask, "mask")
    if array.dtype != bool:
        raise TypeError(f"mask must be bool (True = may attend), got {array.dtype}")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"mask must be one matrix (queries, keys), got the shape {array.shape}; "
            "choose one batch entry and one head"
        )
    if q_len not in (None, array.shape[0]) or k_len not in (None, array.shape[1]):
        raise ValueError(f"mask has the shape {array.shape}, but q_len={q_len}, k_len={k_len}")
    return array


def _token_axes(
    ax: Axes,
    table: NDArray[Any],
    queries: Sequence[str] | None,
    keys: Sequence[str] | None,
    font: Font,
) -> None:
    rows = check_tokens(queries, table.shape[0], "queries")
    columns = check_tokens(keys, table.shape[1], "keys")
    _position_ticks(ax)
    size = 10.0 if max(table.shape) <= 16 else 8.0
    if columns is not None and len(columns) <= _MOST_TICKS:
        turned = max(_width(token, size) for token in columns) > _cell_width(ax, table.shape)
        ax.set_xticks(
            range(len(columns)),
            columns,
            rotation=50 if turned else 0,
            ha="right" if turned else "center",
            rotation_mode="anchor" if turned else "default",
            fontproperties=to_font(font, size),
            parse_math=False,
        )
    if rows is not None and len(rows) <= _MOST_TICKS:
        properties = to_font(font, size)
        ax.set_yticks(range(len(rows)), rows, fontproperties=properties, parse_math=False)
    ax.tick_params(length=0 if max(table.shape) <= _MOST_TICKS else 3)
    ax.set(xlabel="key", ylabel="query")


def _width(token: str, points: float) -> float:
    """About how many inches a token takes; characters beyond Latin and Greek are taken as wide."""
    return sum(1.0 if character > "\u2e80" else 0.62 for character in token) * points / 72


def _cell_width(ax: Axes, shape: tuple[int, ...]) -> float:
    box = ax.get_position()
    inches = ax.figure.canvas.figure.get_size_inches()
    return float(min(box.width * inches[0] / shape[1], box.height * inches[1] / shape[0]))


def _position_ticks(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))


def _numbers(ax: Axes, table: NDArray[Any], values: Values, image: Any) -> None:
    if not isinstance(values, str | bool) or values not in ("auto", True, False):
        raise ValueError(f'values must be "auto", True or False, got {values!r}')
    if values is False or (values == "auto" and table.size > _MOST_NUMBERS):
        return
    size = 10 if max(table.shape) <= 6 else 8
    for (row, column), number in np.ndenumerate(table):
        red, green, blue, _ = image.cmap(image.norm(number)) if np.isfinite(number) else (1,) * 4
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        text = f"{number:.2f}".replace("-0.00", "0.00")
        text = text.replace("-", "−").replace("inf", "∞").replace("nan", "NaN")
        ax.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color="white" if dark else "black",
            bbox=None if np.isfinite(number) else {"facecolor": "white", "linewidth": 0, "pad": 1},
        )
