"""Masks of position: which distances between query and key are allowed."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from attn_core.checks import check_sizes, is_integer
from attn_core.masks.mask import Mask
from attn_core.masks.pairs import Indices, Reach


def causal() -> Mask:
    r"""Let a query attend its own position and those before it.

    .. math:: j \le i + \mathrm{q\_offset}

    Returns:
        A mask that compares positions. It is always the same object, copied and pickled too.

    Source: Vaswani et al. (2017), section 3.2.3.

    Example:
        >>> causal().dense(3, 3)
        tensor([[ True, False, False],
                [ True,  True, False],
                [ True,  True,  True]])
    """
    return _CAUSAL


def _is_not_later(at: Indices) -> Tensor:
    return at.key <= at.query


class _Causal(Mask):
    """The one mask that kernels know by its identity, so that no copy may be another object."""

    def __reduce__(self) -> tuple[Callable[[], Mask], tuple[()]]:
        return causal, ()


_CAUSAL = _Causal(
    _is_not_later,
    "causal()",
    uses_positions=True,
    reach=Reach(right=0),
    own_key=True,
    by_distance=True,
)


def window(left: int | None, right: int | None) -> Mask:
    r"""Let a query attend the keys near its own position, its own key always among them.

    .. math:: p - \text{left} \le j \le p + \text{right}, \qquad p = i + \mathrm{q\_offset}

    The convention is that of flash-attn and of ONNX: ``left`` and ``right`` count the *other*
    keys, so ``window(1, 1)`` is three keys wide.

    Args:
        left: how many keys before the query's own position; None for all of them.
        right: how many keys after it; None for all of them.

    Returns:
        A mask that compares positions.

    Raises:
        ValueError: if ``left`` or ``right`` is negative.
        TypeError: if one is neither an integer nor None.

    Source: Beltagy, Peters and Cohan (2020), sliding window; D2, section 2.2, local attention.

    Example:
        >>> window(1, 0).dense(3, 3)
        tensor([[ True, False, False],
                [ True,  True, False],
                [False,  True,  True]])
    """
    for name, keys in (("left", left), ("right", right)):
        if keys is not None and not is_integer(keys):
            raise TypeError(f"{name} must be an integer or None, got {keys!r}")
        if keys is not None and keys < 0:
            raise ValueError(f"{name} must be 0 or more, got {keys}")

    return Mask(
        partial(_is_near, left, right),
        f"window({left}, {right})",
        uses_positions=True,
        reach=Reach(left=left, right=right),
        own_key=True,
        by_distance=True,
    )


def _is_near(left: int | None, right: int | None, at: Indices) -> Tensor:
    distance = at.key - at.query
    inside = torch.ones_like(distance, dtype=torch.bool)
    if left is not None:
        inside = inside & (distance >= -left)
    if right is not None:
        inside = inside & (distance <= right)
    return inside


def dilated(left: int, right: int, gap: int) -> Mask:
    r"""Let a query attend keys near its own position, leaving ``gap`` keys out between two.

    .. math::
        j = p + (\text{gap} + 1) \, n, \qquad -\text{left} \le n \le \text{right}, \qquad
        p = i + \mathrm{q\_offset}

    It attends as many keys as ``window(left, right)`` and looks ``gap + 1`` times as far; with
    ``gap=0`` it is that window. Longformer's dilation is ``gap + 1``.

    Args:
        left: how many keys before the query's own position.
        right: how many keys after it.
        gap: how many keys are left out between two that are attended.

    Returns:
        A mask that compares positions.

    Raises:
        ValueError: if a number is negative.
        TypeError: if one is not an integer.

    Source: Beltagy, Peters and Cohan (2020), section 3.1, dilated sliding window.

    Example:
        >>> dilated(1, 1, gap=1).dense(4, 4)
        tensor([[ True, False,  True, False],
                [False,  True, False,  True],
                [ True, False,  True, False],
                [False,  True, False,  True]])
    """
    check_sizes(least=0, left=left, right=right, gap=gap)
    step = gap + 1
    return Mask(
        partial(_is_in_steps, left * step, right * step, step),
        f"dilated({left}, {right}, gap={gap})",
        uses_positions=True,
        reach=Reach(left=left * step, right=right * step),
        own_key=True,
        by_distance=True,
    )


def _is_in_steps(left: int, right: int, step: int, at: Indices) -> Tensor:
    distance = at.key - at.query
    return (-left <= distance) & (distance <= right) & (distance % step == 0)


def strided(stride: int) -> Mask:
    r"""Let a query attend its own position and every ``stride``-th before and after it.

    .. math:: j \equiv i + \mathrm{q\_offset} \pmod{\text{stride}}

    Args:
        stride: the distance between two keys that are attended.

    Returns:
        A mask that compares positions.

    Raises:
        ValueError: if ``stride`` is not positive.
        TypeError: if it is not an integer.

    Source: Child, Gray, Radford and Sutskever (2019), section 4.3, the second head of *strided*.

    Example:
        >>> (strided(2) & causal()).dense(4, 4)
        tensor([[ True, False, False, False],
                [False,  True, False, False],
                [ True, False,  True, False],
                [False,  True, False,  True]])
    """
    check_sizes(stride=stride)
    return Mask(
        partial(_is_in_stride, stride),
        f"strided({stride})",
        uses_positions=True,
        own_key=True,
        by_distance=True,
    )


def _is_in_stride(stride: int, at: Indices) -> Tensor:
    return (at.key - at.query) % stride == 0


def global_tokens(n: int) -> Mask:
    r"""Let the first ``n`` positions attend every key, and every query attend them.

    .. math:: j < n \quad\text{or}\quad 0 \le i + \mathrm{q\_offset} < n

    Alone it allows nothing else: combine it, ``window(4, 4) | global_tokens(2)``.

    Args:
        n: how many positions, from the first on.

    Returns:
        A mask that compares positions.

    Raises:
        ValueError: if ``n`` is negative.
        TypeError: if it is not an integer.

    Source: Beltagy, Peters and Cohan (2020), section 3.1, global attention.

    Example:
        >>> global_tokens(1).dense(3, 3)
        tensor([[ True,  True,  True],
                [ True, False, False],
                [ True, False, False]])
    """
    check_sizes(least=0, n=n)
    return Mask(
        partial(_is_global, n),
        f"global_tokens({n})",
        uses_positions=True,
        reach=Reach(left=0, right=0, first=n),
    )


def _is_global(n: int, at: Indices) -> Tensor:
    return (at.key < n) | ((at.query >= 0) & (at.query < n))
