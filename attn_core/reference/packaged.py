"""The trained model that the book reads in NumPy, in a notebook and in the book's page."""

import sys
from functools import cache
from pathlib import Path

from attn_core.reference.block import Parameters
from attn_core.reference.rounding import load_rounded

__all__ = ["minilm"]

IN_THE_PAGE = Path(__file__).parents[2] / "minilm.npz"  # where the page's panel puts it


def minilm() -> tuple[Parameters, dict[str, int]]:
    r"""Give the sentence encoder all-MiniLM-L6-v2, its matrices rounded to 8 bits.

    .. math:: \{\text{name} \to \hat W\}, \qquad \{\text{token} \to \text{number}\}

    It has 12 heads in each of 6 layers.

    Returns:
        The arrays, float32 and not to be written to, by the names that :func:`bert` has for them;
        and the number of each token.

    Raises:
        FileNotFoundError: the data package is not installed; in the page: it is not loaded yet.

    Source: Reimers and Gurevych 2019; Wang et al. 2020, for the model that it was trained from.

    Example:
        >>> parameters, numbers = minilm()
        >>> parameters["token_embedding.weight"].shape, numbers["[CLS]"]
        ((30522, 384), 101)
    """
    parameters, numbers = _read(_path())
    return dict(parameters), dict(numbers)


def _path() -> Path:
    if sys.platform == "emscripten":
        if not IN_THE_PAGE.is_file():
            raise FileNotFoundError(
                "The model is not loaded yet. Press “Load the model” in the panel of this page, "
                "then run this cell again."
            )
        return IN_THE_PAGE
    from attn_core.data import pretrained  # NumPy only, until the file has to be made

    return pretrained.minilm_rounded()


@cache
def _read(path: Path) -> tuple[Parameters, dict[str, int]]:
    parameters, tokens = load_rounded(path)
    for array in parameters.values():
        array.flags.writeable = False  # one copy for all who ask
    return parameters, {token: number for number, token in enumerate(tokens)}
