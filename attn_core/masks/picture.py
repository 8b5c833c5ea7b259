"""How a mask draws itself in a notebook."""

from html import escape

from torch import Tensor

_MOST_TABLES, _MOST_CELLS = 4, 32
_ALLOWED = "#A5397F"  # the colour of weights in attn_core.plot, which needs Matplotlib


def mask_picture(tables: Tensor, name: str) -> str:
    """Inline SVG of a few tables side by side, with a description for screen readers.

    A picture of thousands of pairs would weigh megabytes, so of a large table it shows a corner.
    """
    shown, cell, gap = tables[:_MOST_TABLES, :_MOST_CELLS, :_MOST_CELLS], 16, 24
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
    description = f"Mask {name}: {int(tables.sum())} of {tables.numel()} pairs allowed"
    if shown.numel() < tables.numel():
        name += f" (shown: {count} of {len(tables)} tables, {q_len} of {tables.shape[1]} queries, "
        name += f"{k_len} of {tables.shape[2]} keys)"
    return (
        f'<figure style="margin:0;overflow-x:auto"><svg xmlns="http://www.w3.org/2000/svg" '
        f'role="img" aria-label="{escape(description)}" width="{width}" '
        f'height="{height}" style="background:#ffffff" font-family="sans-serif" font-size="12" '
        f'fill="#333333">{"".join(squares)}<text x="12" y="{24 + q_len * cell}" '
        f'transform="rotate(-90 12 {24 + q_len * cell})">queries →</text>'
        f'<text x="20" y="{height - 6}">filled: may attend</text></svg>'
        f'<figcaption style="color:inherit">{escape(name)}</figcaption></figure>'
    )
