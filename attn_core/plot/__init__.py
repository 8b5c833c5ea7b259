"""Figures of attention: heat maps, flow charts, and some that answer to the reader's hand.

Importing this module imports Matplotlib. Every function takes torch tensors or NumPy arrays.
"""

from attn_core.extras import needed

with needed("attn_core.plot"):
    from attn_core.plot.diagrams import Box, flow_chart
    from attn_core.plot.heatmaps import encoding, heads, mask, scores, weights
    from attn_core.plot.kernel import live_kernel
    from attn_core.plot.live import LiveFigure, live_attention
    from attn_core.plot.masking import live_mask
    from attn_core.plot.scaling import live_scale
    from attn_core.plot.style import COLORS, SIGNED_MAP, WEIGHTS_MAP, use_book_style

__all__ = [
    "COLORS",
    "SIGNED_MAP",
    "WEIGHTS_MAP",
    "Box",
    "LiveFigure",
    "encoding",
    "flow_chart",
    "heads",
    "live_attention",
    "live_kernel",
    "live_mask",
    "live_scale",
    "mask",
    "scores",
    "use_book_style",
    "weights",
]
