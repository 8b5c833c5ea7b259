"""What anyone's tests can ask of an attention."""

from collections.abc import Callable
from typing import Any

from attn_core.diagnosis import diagnose

__all__ = ["check_attention"]


def check_attention(function: Callable[..., Any], **options: Any) -> None:
    r"""Fail a test if a function, a module or a generator gets attention wrong.

    .. math:: f(Q, K, V) = \operatorname{softmax}\!\left(\frac{QK^\top}{\sqrt d}\right) V

    Args:
        function: what is tested, as in :func:`attn_core.diagnose`.
        **options: the other arguments of :func:`attn_core.diagnose`.

    Raises:
        AssertionError: if something is wrong; its message is the report.
        TypeError: as :func:`attn_core.diagnose`.
        ValueError: as :func:`attn_core.diagnose`.

    Source: this package; the report is that of :func:`attn_core.diagnose`.

    Example:
        >>> import torch
        >>> check_attention(torch.nn.functional.scaled_dot_product_attention)
        >>> try:
        ...     check_attention(lambda query, key, value: (query @ key.mT).softmax(-1) @ value)
        ... except AssertionError as error:
        ...     print(str(error).splitlines()[2])
          1. scores are not divided by √d
    """
    report = diagnose(function, **options)
    if not report:
        raise AssertionError(str(report))
