"""The comparison of a run in the page with the print sees what a browser gets wrong."""

from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
from in_the_page_runs import differences, unlike
from nbformat.v4 import new_code_cell, new_output
from PIL import Image


def drawn(lengths: np.ndarray, size: tuple[float, float] = (6, 3)) -> Image.Image:
    """Multiplications of attention against the length, in the type of the lengths."""
    fig, ax = plt.subplots(figsize=size)
    with np.errstate(over="ignore"):
        ax.plot(lengths, 2 * lengths**2 * lengths.dtype.type(64))
    data = BytesIO()
    fig.savefig(data, format="png")
    plt.close(fig)
    return Image.open(data)


LENGTHS = np.arange(0, 8193, 256)


def test_the_same_figure_is_no_difference():
    assert list(unlike(drawn(LENGTHS.astype(np.int64)), drawn(LENGTHS.astype(float)))) == []


def test_a_curve_that_overflows_in_32_bits_is_seen():
    right, wrong = LENGTHS.astype(np.int64), LENGTHS.astype(np.int32)
    assert "drawn otherwise" in "".join(unlike(drawn(right), drawn(wrong)))


def test_a_blank_figure_and_another_size_are_seen():
    right = drawn(LENGTHS)
    blank = Image.new("RGB", right.size, "white")
    assert "blank" in "".join(unlike(right, blank))
    assert "pixels" in "".join(unlike(right, drawn(LENGTHS, size=(6, 4))))


def test_another_text_and_an_error_are_seen():
    cell = new_code_cell("print(2**31)")
    cell.outputs = [new_output("stream", name="stdout", text="2147483648\n")]
    same = {"outputs": [{"type": "stdout", "text": "2147483648\n"}], "error": None}
    overflow = {"outputs": [{"type": "stdout", "text": "-2147483648\n"}], "error": None}
    failed = {"outputs": [], "error": {"traceback": "OverflowError"}}
    assert list(differences(cell, same)) == []
    assert len(list(differences(cell, overflow))) == 1
    assert list(differences(cell, failed)) == ["OverflowError"]
