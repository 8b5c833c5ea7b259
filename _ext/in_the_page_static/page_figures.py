"""Matplotlib's back end in the page: Agg draws, and plt.show() hands the picture to page_kernel."""

import page_kernel
from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas

__all__ = ["FigureCanvas", "show"]


def show(*_: object, **__: object) -> None:
    page_kernel.show_figures()
