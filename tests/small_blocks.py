"""Kernels with blocks so small that short sequences have many of them."""

from contextlib import contextmanager
from unittest import mock

from attn_core.kernels import banded, chunked, grid


@contextmanager
def small_blocks(rows=2, keys=3):
    """Blocks of ``rows`` queries; where the kernel chooses how many keys, of ``keys``."""
    with (
        mock.patch.object(banded, "block_size", return_value=rows),
        mock.patch.object(chunked, "_ROWS_AT_ONCE", rows),
        mock.patch.multiple(grid, _ROWS=rows, _LEAST_KEYS=keys, _MOST_KEYS=keys),
    ):
        yield
