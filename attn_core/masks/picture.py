"""How a mask draws itself in a notebook."""

from collections.abc import Callable
from html import escape

from torch import Tensor

_MOST_TABLES, _MOST_CELLS = 4, 32
_ALLOWED = "#A5397F"  # the colour of weights in attn_core.plot, which needs Matplotlib


def mask_picture(corner: Callable[..., Tensor], full: tuple[int, ...], name: str) -> str:
    """Inline SVG of a few tables side by side, with a description for screen readers.

    A picture of thousands of pairs would weigh megabytes, so of a large table it shows a corner,
    and asks for no more: ``corner(batch, heads, queries, keys)`` gives the first of each. The
    ``full`` table has as many as it says.
    """
    most = (_MOST_TABLES, _MOST_TABLES, _MOST_CELLS, _MOST_CELLS)
    sizes = tuple(min(size, limit) for size, limit in zip(full, most, strict=True))
    shown, cell, gap = corner(*sizes).reshape(-1, *sizes[2:])[:_MOST_TABLES].cpu(), 16, 24
    count, q_len, k_len = shown.shape
    width, height = count * (k_len * cell + gap) + 16, q_len * cell + 44
    squares = []
    for panel, table in enumerate(shown.tolist()):
        left = 20 + panel * (k_len * cell + gap)
        for i, row in enumerate(table):
            for j, allowed in enumerate(row):
                fill = _ALLOWED if allowed else "#ffffff"
                squares.append(
                    f'<rect x="{left + j * cell}" y="{24 + i * cell}" width="{cell}" '
                    f'height="{cell}" fill="{fill}" stroke="#b0b0b0"/>'
                )
        squares.append(f'<text x="{left}" y="18">keys →</text>')
    tables = full[0] * full[1]
    is_whole = shown.numel() == tables * full[2] * full[3]
    description = f"Mask {name}{'' if is_whole else ', a corner'}: "
    description += f"{int(shown.sum())} of {shown.numel()} pairs allowed"
    if not is_whole:
        name += f" (shown: {count} of {tables} tables, {q_len} of {full[2]} queries, "
        name += f"{k_len} of {full[3]} keys)"
    return (
        f'<figure style="margin:0;overflow-x:auto"><svg xmlns="http://www.w3.org/2000/svg" '
        f'role="img" aria-label="{escape(description)}" width="{width}" '
        f'height="{height}" style="background:#ffffff" font-family="sans-serif" font-size="12" '
        f'fill="#333333">{"".join(squares)}<text x="12" y="{24 + q_len * cell}" '
        f'transform="rotate(-90 12 {24 + q_len * cell})">queries →</text>'
        f'<text x="20" y="{height - 6}">filled: may attend</text></svg>'
        f'<figcaption style="color:inherit">{escape(name)}</figcaption></figure>'
    )
