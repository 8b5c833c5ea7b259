"""The look that every figure of the book shares: sizes, colours, colour maps."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

# The hues of Okabe and Ito (2008), darkened where needed to a contrast of 4.5 on white.
COLORS: dict[str, str] = {
    "query": "#0072B2",
    "key": "#B84E00",
    "value": "#0B7A3E",
    "weights": "#A5397F",
    "output": "#1A1A1A",
    "good": "#17727F",
    "bad": "#A8071A",
    "muted": "#5F6368",
}

WEIGHTS_MAP = LinearSegmentedColormap.from_list(
    "attn_weights", ["#FFFFFF", "#EBC3DC", "#C9659F", "#8F2A6B", "#3F0A2E"]
)
SIGNED_MAP = LinearSegmentedColormap.from_list(
    "attn_signed", ["#5C2C00", "#C77B30", "#F3D5B0", "#FFFFFF", "#B5E0E2", "#3799A3", "#00464F"]
)

Font = FontProperties | str | os.PathLike[str] | None
Values = Literal["auto"] | bool

_STYLE: dict[str, Any] = {
    "figure.figsize": (6.0, 3.7),
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.titlesize": 11.5,
    "figure.titleweight": "bold",
    "savefig.dpi": 150,
    "savefig.facecolor": "white",
    "svg.hashsalt": "attn_core",
    "axes.facecolor": "white",
    "axes.edgecolor": COLORS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.prop_cycle": cycler(
        color=[COLORS[name] for name in ("query", "key", "value", "weights", "output", "muted")]
    ),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
    "grid.color": "#D9DCE0",
    "image.interpolation": "nearest",
}


def use_book_style() -> None:
    """Set Matplotlib's defaults to those of the book.

    White opaque ground (a dark page does not swallow the figure), text of 10 to 12 points on a
    figure 6 inches wide (legible when a phone shows it 360 pixels wide), and only the font that
    Matplotlib brings, so that another machine draws the same picture.

    Example:
        >>> use_book_style()
        >>> plt.rcParams["figure.facecolor"]
        'white'
    """
    plt.style.use(_STYLE)


def to_array(argument: Any, name: str) -> NDArray[Any]:
    """A torch tensor (any device, any dtype, with or without gradient) or array-like as NumPy."""
    if hasattr(argument, "detach"):
        if str(argument.layout) != "torch.strided":
            raise TypeError(f"{name} must be dense, got {argument.layout}: give {name}.to_dense()")
        argument = argument.detach().cpu()
        if argument.is_floating_point():
            argument = argument.double()
        argument = argument.numpy()
    array = np.asarray(argument)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got {type(argument).__name__} of {array.dtype}")
    return array


def to_matrix(argument: Any, name: str, rows: str, columns: str) -> NDArray[Any]:
    """`to_array`, refusing whatever is not one matrix with at least one row and column."""
    array = to_array(argument, name)
    if array.ndim != 2 or 0 in array.shape:
        hint = f"; choose one, such as {name}[0, 0]" if array.ndim > 2 else ""
        raise ValueError(
            f"{name} must be one matrix ({rows}, {columns}), got the shape {array.shape}{hint}"
        )
    return array


def check_tokens(tokens: Sequence[str] | None, size: int | None, name: str) -> list[str] | None:
    """The tokens as a list of strings, refused when there are not as many as rows or columns."""
    if tokens is None:
        return None
    if isinstance(tokens, str) or not isinstance(tokens, Sequence | np.ndarray):
        raise TypeError(f"{name} must be a sequence of tokens, got {tokens!r}")
    if size is not None and len(tokens) != size:
        raise ValueError(f"{name} has {len(tokens)} tokens for {size} rows or columns")
    return [str(token) for token in tokens]


def check_text(name: str, text: object) -> None:
    """Refuse what is no string."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string, got {text!r}")


def check_flag(name: str, flag: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be True or False, got {flag!r}")


def check_axes(ax: object) -> None:
    """Refuse what is no axes of Matplotlib; None stands for new ones."""
    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be axes of Matplotlib, got {ax!r}")


def check_number(name: str, number: object) -> None:
    """Refuse what is no finite number."""
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{name} must be a number, got {number!r}")
    if not np.isfinite(float(number)):
        raise ValueError(f"{name} must be finite, got {number}")


def check_positive(name: str, number: float) -> None:
    """Refuse what is no positive finite number."""
    check_number(name, number)
    if number <= 0:
        raise ValueError(f"{name} must be positive, got {number}")


def check_count(name: str, count: object, *, least: int | None = 0) -> None:
    """Refuse what is no integer, or less than the least, if there is one."""
    if isinstance(count, bool) or not isinstance(count, Integral):
        raise TypeError(f"{name} must be an integer, got {count!r}")
    if least is not None and int(count) < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")


def to_font(font: Font, size: float | str) -> FontProperties:
    """Font properties of that size from a font, the path of a font file, or nothing."""
    if isinstance(font, FontProperties):
        properties = font.copy()
    elif font is None:
        properties = FontProperties()
    elif isinstance(font, str | os.PathLike):
        properties = FontProperties(fname=os.fspath(font))
    else:
        raise TypeError(f"font must be font properties or a font file, got {font!r}")
    properties.set_size(size)
    return properties


def title_font(font: Font) -> FontProperties:
    """The book's bold title font, or the given font in the size of a title."""
    properties = to_font(font, plt.rcParams["axes.titlesize"])
    if font is None:
        properties.set_weight(plt.rcParams["axes.titleweight"])
    return properties


def set_title(ax: Axes, title: str, font: Font = None) -> None:
    """Set the title of the axes, broken into lines that do not widen the figure."""
    check_text("title", title)
    figure_width, _ = ax.figure.canvas.figure.get_size_inches()
    position = ax.get_position()
    inches = figure_width * (1 - position.x0 if position.x1 > 0.7 else position.width)
    properties = title_font(font)
    characters = max(int(inches * 72 / (0.66 * properties.get_size_in_points())), 12)
    lines = [textwrap.fill(line, characters) for line in title.splitlines()]
    ax.set_title("\n".join(lines), fontproperties=properties, loc="left")


def axes_for(ax: Axes | None, table: NDArray[Any], colorbar: bool) -> Axes:
    """The axes that are given, or new ones of a size that fits a table."""
    check_flag("colorbar", colorbar)
    check_axes(ax)
    if ax is not None:
        return ax
    rows, columns = table.shape
    width = float(np.clip(0.62 * columns + 2.0 + 0.9 * colorbar, 3.6, 7.0))
    height = float(np.clip(0.5 * rows + 1.4, 2.0, 6.5))
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def heat_map(ax: Axes, table: NDArray[Any], colors: Colormap, vmin: float, vmax: float) -> Any:
    """Draw a table as coloured cells; what is not finite is hatched."""
    shown = np.ma.masked_invalid(table.astype(float))
    image = ax.imshow(shown, cmap=colors, vmin=vmin, vmax=vmax, aspect="equal")
    for row, column in np.argwhere(np.ma.getmaskarray(shown)):
        corner = (column - 0.5, row - 0.5)
        ax.add_patch(
            Rectangle(
                corner, 1, 1, facecolor="white", edgecolor=COLORS["muted"], hatch="///", linewidth=0
            )
        )
    ax.spines[:].set_visible(True)
    return image
