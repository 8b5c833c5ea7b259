"""Weights rounded to 8 bits: a quarter of the bytes, one step size for each row of a matrix."""

import io
import zipfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attn_core.reference.shapes import Array, check_float_arrays

__all__ = ["RoundedRows", "load_rounded", "restore_rows", "round_rows", "save_rounded"]

MOST = 127  # of the 256 numbers of 8 bits, those from −127 to 127 are used
VOCABULARY = "vocabulary"
STEP = ".step"


class RoundedRows(NamedTuple):
    """What round_rows returns.

    Attributes:
        numbers: int8, shape (R, C).
        step: what a number counts, a factor for each row, shape (R,).
    """

    numbers: Array
    step: Array


def round_rows(matrix: Array) -> RoundedRows:
    r"""Round each row of a matrix to whole multiples of its own step.

    .. math:: z_{rc} = \operatorname{round}(w_{rc} / \delta_r), \qquad
              \delta_r = \max_c \lvert w_{rc} \rvert / 127

    Args:
        matrix: w, shape (R, C).

    Returns:
        The whole numbers z and the steps δ. A row of zeros has the step 0.

    Raises:
        TypeError: matrix holds no floating-point numbers.
        ValueError: matrix is no matrix, or holds what is not finite.

    Source: Symmetric rounding, as in Jacob et al. 2018, section 2.1, with a step for each row.

    Example:
        >>> rows = round_rows(np.array([[1.27, -0.64], [0.0, 0.0]]))
        >>> rows.numbers.tolist(), rows.step.round(4).tolist()
        ([[127, -64], [0, 0]], [0.01, 0.0])
    """
    check_float_arrays(matrix=matrix)
    if matrix.ndim != 2:
        raise ValueError(f"matrix must have two dimensions, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("matrix must hold finite numbers only")
    step = np.abs(matrix).max(axis=1, initial=0.0).astype(matrix.dtype) / MOST
    divisor = np.where(step > 0, step, np.ones_like(step))
    numbers = np.clip(np.rint(matrix / divisor[:, None]), -MOST, MOST)
    return RoundedRows(numbers.astype(np.int8), step)


def restore_rows(numbers: Array, step: Array) -> Array:
    r"""Give back the matrix that was rounded, up to half a step in each entry.

    .. math:: \hat w_{rc} = \delta_r z_{rc}, \qquad
              \lvert \hat w_{rc} - w_{rc} \rvert \le \delta_r / 2

    Args:
        numbers: z, int8, shape (R, C).
        step: δ, shape (R,).

    Returns:
        Shape (R, C), of the dtype of step.

    Raises:
        TypeError: numbers are not int8, or step holds no floating-point numbers.
        ValueError: there is not one step for each row.

    Source: Jacob et al. 2018, section 2.1.

    Example:
        >>> rows = np.array([[127, -64]], dtype=np.int8)
        >>> restore_rows(rows, np.array([0.01])).round(2).tolist()
        [[1.27, -0.64]]
    """
    check_float_arrays(min_dims=1, step=step)
    if not isinstance(numbers, np.ndarray) or numbers.dtype != np.int8:
        raise TypeError(f"numbers must be int8, got {getattr(numbers, 'dtype', type(numbers))}")
    if numbers.ndim != 2 or step.shape != numbers.shape[:1]:
        raise ValueError(
            f"there must be a step for each row, got numbers {numbers.shape}, step {step.shape}"
        )
    restored: Array = numbers * step[:, None]
    return restored


def save_rounded(
    path: str | PathLike[str], parameters: dict[str, Array], vocabulary: Sequence[str]
) -> None:
    r"""Write a model's matrices in 8 bits, its vectors as they are, and its tokens to one file.

    .. math:: (W, \mathbf b, \text{tokens}) \to (z, \delta, \mathbf b, \text{tokens})

    Args:
        path: the file, in NumPy's format ``.npz``.
        parameters: arrays of one or two dimensions, by name.
        vocabulary: the tokens, in the order of their numbers.

    Raises:
        TypeError: an array holds no floating-point numbers.
        ValueError: an array has another number of dimensions, or a token has a line break.

    Source: This package. The same arrays give the same bytes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_rounded(f"{folder}/small.npz", {"w": np.eye(2)}, ["a", "b"])
        ...     load_rounded(f"{folder}/small.npz")
        ({'w': array([[1., 0.],
               [0., 1.]])}, ['a', 'b'])
    """
    if any("\n" in token for token in vocabulary):
        raise ValueError("vocabulary must have no token with a line break")
    text = "\n".join(vocabulary).encode()
    arrays: dict[str, Array] = {VOCABULARY: np.frombuffer(text, dtype=np.uint8)}
    for name, array in parameters.items():
        check_float_arrays(min_dims=1, **{name: array})
        if array.ndim == 1:
            arrays[name] = array
        else:
            arrays[name], arrays[name + STEP] = round_rows(array)
    with zipfile.ZipFile(path, "w") as archive:  # np.savez, with a date that does not change
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def load_rounded(path: str | PathLike[str]) -> tuple[dict[str, Array], list[str]]:
    r"""Read what save_rounded wrote.

    .. math:: (z, \delta, \mathbf b, \text{tokens}) \to (\hat W, \mathbf b, \text{tokens})

    Args:
        path: the file.

    Returns:
        The arrays by name, matrices restored, and the tokens.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was not written by save_rounded.

    Source: This package.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_rounded(f"{folder}/small.npz", {"b": np.ones(2)}, ["a"])
        ...     load_rounded(f"{folder}/small.npz")
        ({'b': array([1., 1.])}, ['a'])
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        vocabulary = arrays.pop(VOCABULARY).tobytes().decode().split("\n")
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} was not written by save_rounded: {error}") from None
    parameters = {}
    for name, array in arrays.items():
        if not name.endswith(STEP):
            step = arrays.get(name + STEP)
            parameters[name] = array if step is None else restore_rows(array, step)
    return parameters, vocabulary
