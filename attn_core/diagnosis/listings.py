"""Reading a listing that somebody else printed: show a part, run it, and watch its softmax."""

import textwrap
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from attn_core.checks import check_callable, check_sizes, check_text

__all__ = ["SoftmaxCall", "excerpt", "load", "outcome", "softmax_of"]


class SoftmaxCall(NamedTuple):
    """What went into a softmax, and what came out.

    Attributes:
        scores: what was normalised, of any shape.
        weights: the result, of the same shape.
    """

    scores: Tensor
    weights: Tensor


class _Excerpt(str):
    """Lines of Python that a notebook shows in colour."""

    __slots__ = ()

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}\n```"


def excerpt(source: str, *parts: tuple[int, int], width: int = 76) -> str:
    """Some lines of a listing, as narrow as a page; a notebook shows them as code.

    Nothing is left out but the other lines, their common indentation, and comments that say so
    where a part ends. A line that is too long goes on in the next one, further in.

    Args:
        source: the text of the listing.
        *parts: the first and the last line of each part, counted from 1.
        width: the number of characters of the longest line.

    Returns:
        The lines.

    Raises:
        ValueError: if a part is not within the listing, or ``width`` is not positive.
        TypeError: if ``source`` is no text, or ``width`` no integer.

    Source: this package.

    Example:
        >>> print(excerpt("class A:\\n    x = 1\\n    y = 2\\n    z = 3", (2, 2), (4, 4)))
        x = 1
        # …
        z = 3
    """
    check_text("source", source)
    check_sizes(width=width)
    lines = source.splitlines()
    chosen: list[str] = []
    for first, last in parts:
        if not 1 <= first <= last <= len(lines):
            raise ValueError(f"the listing has {len(lines)} lines, got the part {(first, last)}")
        if chosen:
            chosen.append(_indentation(lines[first - 1]) + "# …")
        chosen += lines[first - 1 : last]
    narrow = textwrap.dedent("\n".join(chosen)).splitlines()
    return _Excerpt("\n".join(_folded(line, width) for line in narrow))


def load(source: str) -> Any:
    """Run a listing as it is printed.

    Args:
        source: the text of the listing. It can do what any program can: run only what you have
            read.

    Returns:
        The names that it defines, as attributes.

    Raises:
        SyntaxError: if Python cannot read it. What it raises by itself is passed on.
        TypeError: if ``source`` is no text.

    Source: this package.

    Example:
        >>> load("def twice(x): return 2 * x").twice(4)
        8
    """
    check_text("source", source)
    names: dict[str, Any] = {"__name__": "listing"}
    exec(compile(source, "listing", "exec"), names)
    return SimpleNamespace(**names)


def outcome(call: Callable[[], object], *, width: int = 70) -> str:
    """Say how a call ends: ``"runs"``, or with which error.

    Args:
        call: a function without arguments.
        width: the number of characters of the longest line.

    Returns:
        ``"runs"``, or the name and the first line of the error, in lines that fit.

    Raises:
        ValueError: if ``width`` is not positive.
        TypeError: if ``call`` cannot be called, or ``width`` is no integer.

    Source: this package.

    Example:
        >>> outcome(lambda: 1 + 1)
        'runs'
        >>> outcome(lambda: math.sqrt(2))
        "NameError: name 'math' is not defined"
    """
    check_callable("call", call)
    check_sizes(width=width)
    try:
        call()
    except Exception as error:
        said = (str(error) or "without a message").splitlines()[0]
        return textwrap.fill(f"{type(error).__name__}: {said}", width, subsequent_indent="    ")
    return "runs"


def softmax_of(call: Callable[..., object], *inputs: Any) -> SoftmaxCall:
    r"""Run a layer and catch its softmax, however it calls it and whatever it returns.

    .. math:: \mathit{weights} = \operatorname{softmax}(\mathit{scores})

    Args:
        call: a layer or function that calls PyTorch's softmax: the function, the method, or
            :class:`torch.nn.Softmax`.
        *inputs: what it is called with.

    Returns:
        The scores and the weights of its last softmax, without their gradients.

    Raises:
        ValueError: if no softmax was called.
        TypeError: if ``call`` cannot be called.

    Source: this package.

    Example:
        >>> import torch
        >>> softmax_of(lambda x: (x / 2).softmax(-1).sum(), torch.zeros(2)).weights
        tensor([0.5000, 0.5000])
    """
    check_callable("call", call)
    with _Watch() as watch:
        call(*inputs)
    if watch.last is None:
        raise ValueError("call did not reach a softmax of PyTorch")
    return watch.last


class _Watch(TorchFunctionMode):
    last: SoftmaxCall | None = None

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.__name__ == "softmax":
            scores = args[0] if args else (kwargs or {})["input"]
            self.last = SoftmaxCall(scores.detach(), result.detach())
        return result


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _folded(line: str, width: int) -> str:
    """The line in pieces that fit: broken before a comment, at a blank, or else before a dot."""
    inner = _indentation(line) + " " * 8
    pieces = []
    while len(line) > width:
        places = range(len(inner) + 1, width + 1)
        comments = [i for i in places if line[i - 1 : i + 1] == " #"]
        blanks = [i for i in places if line[i - 1] == " " and i > width / 2]
        dots = [i for i in places if line[i] == "."]
        place = max(comments or blanks or dots, default=width)
        pieces.append(line[:place].rstrip())
        line = inner + line[place:]
    return "\n".join([*pieces, line])
