"""How a mask draws itself in a notebook."""

from html import escape

from torch import Tensor


def mask_picture(tables: Tensor, name: str) -> str:
    """Inline SVG of up to four tables side by side, with a description for screen readers."""
    shown, cell, gap = tables[:4], 16, 24
    count, q_len, k_len = shown.shape
    width, height = count * (k_len * cell + gap) + 16, q_len * cell + 44
    squares = []
    for panel, table in enumerate(shown.tolist()):
        left = 20 + panel * (k_len * cell + gap)
        for i, row in enumerate(table):
            for j, allowed in enumerate(row):
                fill = "#6a51a3" if allowed else "#ffffff"
                squares.append(
                    f'<rect x="{left + j * cell}" y="{24 + i * cell}" width="{cell}" '
                    f'height="{cell}" fill="{fill}" stroke="#b0b0b0"/>'
                )
        squares.append(f'<text x="{left}" y="18">keys →</text>')
    allowed_share = f"{int(shown.sum())} of {shown.numel()} pairs allowed"
    return (
        f'<figure style="margin:0;overflow-x:auto"><svg xmlns="http://www.w3.org/2000/svg" '
        f'role="img" aria-label="Mask {escape(name)}: {allowed_share}" width="{width}" '
        f'height="{height}" style="background:#ffffff" font-family="sans-serif" font-size="12" '
        f'fill="#333333">{"".join(squares)}<text x="12" y="{24 + q_len * cell}" '
        f'transform="rotate(-90 12 {24 + q_len * cell})">queries →</text>'
        f'<text x="20" y="{height - 6}">filled: may attend</text></svg>'
        f'<figcaption style="color:inherit">{escape(name)}</figcaption></figure>'
    )
