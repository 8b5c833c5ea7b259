"""A page that holds live figures and nothing else, and what it says of itself."""

import json

import numpy as np

from attn_core.plot import LiveFigure


def page_of(*figures: LiveFigure) -> str:
    body = "".join(figure.html for figure in figures)
    return f'<!doctype html><html lang="en"><title>Live</title><main>{body}</main></html>'


def read(figure, name: str) -> np.ndarray:
    """The numbers that a figure keeps in an attribute."""
    return np.array(json.loads(figure.get_attribute(f"data-{name}")), dtype=float)


def set_slider(figure, name: str, value: float) -> None:
    figure.locator(f"input[name={name}]").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )
