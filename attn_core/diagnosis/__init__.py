"""What is wrong with somebody's attention: :func:`attn_core.diagnose`, and what it can name."""

import inspect
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from attn_core.diagnosis.calling import LAYOUTS, Convention, in_words
from attn_core.diagnosis.functions import diagnose_function
from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes import CATALOGUE, CHOICES
from attn_core.diagnosis.properties import Broken
from attn_core.diagnosis.recipe import Case, Result
from attn_core.diagnosis.report import Example, Report
from attn_core.reference.shapes import check_flags

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CATALOGUE",
    "CHOICES",
    "Broken",
    "Case",
    "Convention",
    "Example",
    "Mistake",
    "Report",
    "Result",
]


def diagnose(
    function: Callable[..., Any],
    *,
    inputs: "Tensor | tuple[Tensor, ...] | None" = None,
    step: Callable[..., Any] | None = None,
    layout: str | None = None,
    heads: int | None = None,
    width: int | None = None,
    backend: str | None = None,
    mask: str | None = None,
    mask_means: str = "allowed",
    masked_rows: bool = True,
    causal: bool = False,
    seconds: float = 5.0,
) -> Report:
    r"""Say what is wrong with an attention function, an attention layer, or a generator.

    .. math::
        f(Q, K, V) \overset{?}{=}
        \operatorname{softmax}\!\left(\frac{QK^\top}{\sqrt d}\right) V

    A **function** of query, key and value is compared with attention, and with attention in which
    one, two or three named mistakes were made on purpose. What matches to rounding is named. Where
    nothing matches, the report says which properties of attention fail, each with the smallest
    example found. How the function is called is found out by asking its signature and by trying: a
    function that takes matrices, batches and heads has to be right for each of them, unless a
    ``layout`` is named.

    A **module** is judged from outside: its inputs are changed, and its outputs and gradients
    watched. A **generator** is a model with ``new_cache()``, or a function with its ``step``:
    reading a sequence in pieces has to give what reading it at once gives.

    A function that crashes, returns something else, changes its inputs, or takes too long gets a
    report that says so, not a traceback. What was not tested, the report says.

    Args:
        function: a function ``(query, key, value)`` of NumPy arrays or PyTorch tensors, with a mask
            and a causal flag if it has them; or a :class:`torch.nn.Module` of one sequence, or of
            query, key and value.
        inputs: what a module is called with, batch first, one tensor or several; by default
            guessed from its layers.
        step: for a generator, ``step(piece, state)`` that returns what belongs to the piece, and
            the next state; the state is None at first. ``inputs`` is then one sequence.
        layout: how query, key and value are laid out: ``"BHLD"``, ``"BLHD"``, ``"BLD"``,
            ``"LBD"``, ``"LD"`` or ``"joined"``, for batch, heads, length and width, where joined
            is ``(B, L, H · D)``; by default it is tried out.
        heads: number of heads of a function whose inputs are joined, and which splits them.
        width: width of a query, if the function takes only one; with ``heads``, that of a head.
        backend: ``"torch"`` or ``"numpy"``; by default both are tried.
        mask: the name of the argument that takes a mask; by default one whose name says so.
        mask_means: ``"allowed"``, True = may attend; ``"hidden"``, the opposite; or
            ``"additive"``, 0 and −∞.
        masked_rows: whether queries that may attend nothing are tried too.
        causal: whether the function is meant to be causal without being asked.
        seconds: how long the function may compute in all; it may wait ten times as long.

    Returns:
        The report: true if nothing is wrong; it prints as text, and draws itself in a notebook.

    Raises:
        TypeError: if ``function`` cannot be called, or another argument is of the wrong kind.
        ValueError: if ``layout``, ``backend`` or ``mask_means`` is none of those, the function has
            no argument ``mask``, or a number is not positive.

    Source: this package; mutation analysis, DeMillo, Lipton and Sayward (1978).

    Example:
        >>> import numpy as np
        >>> def my_attention(query, key, value):
        ...     scores = query @ key.swapaxes(-1, -2) / query.shape[-1]
        ...     powers = np.exp(scores - scores.max(-2, keepdims=True))
        ...     return powers / powers.sum(-2, keepdims=True) @ value
        >>> report = diagnose(my_attention, backend="numpy")
        >>> bool(report)
        False
        >>> [mistake.name for mistake in report.mistakes]
        ['scale not rooted', 'softmax over queries']
    """
    _check(function, layout, backend, mask_means, seconds, heads, width)
    if step is not None and not callable(step):
        raise TypeError(f"step must be a function (piece, state), got {step!r}")
    check_flags(masked_rows=masked_rows, causal=causal)
    _check_mask(function, mask)
    _check_inputs(inputs)
    inputs = inputs if inputs is None or isinstance(inputs, tuple) else (inputs,)
    name = str(getattr(function, "__name__", type(function).__name__))
    torch = sys.modules.get("torch")
    is_module = torch is not None and isinstance(function, torch.nn.Module)
    # What is made in inference mode has no gradient, in the best of functions.
    outside = nullcontext() if torch is None else torch.inference_mode(False)
    try:
        with outside:
            if step is not None or (is_module and hasattr(function, "new_cache")):
                return _generator(function, step, name, inputs, seconds)
            if is_module:
                from attn_core.diagnosis.modules import diagnose_module

                return diagnose_module(
                    function,  # type: ignore[arg-type]
                    inputs=inputs,
                    causal=causal,
                    mask=mask,
                    mask_means=mask_means,
                    seconds=seconds,
                )
            return diagnose_function(
                function,
                name,
                layout=layout,
                backend=backend,
                mask=mask,
                mask_means=mask_means,
                causal=causal,
                masked_rows=masked_rows,
                heads=heads,
                width=width,
                seconds=seconds,
            )
    except Exception as error:  # over something that a function returns, and nobody has foreseen
        return Report(name, trouble=f"the comparison broke off with {in_words(error)}")


def _generator(
    function: Any, step: Any, name: str, inputs: "tuple[Tensor, ...] | None", seconds: float
) -> Report:
    import torch

    from attn_core.diagnosis.generators import diagnose_generator, steps_of
    from attn_core.diagnosis.runner import guessed_inputs, own_copy

    if isinstance(function, torch.nn.Module):
        function = own_copy(function).eval()
    sequence = guessed_inputs(function)[0] if inputs is None else inputs
    chosen = step if step is not None else steps_of(function)
    return diagnose_generator(function, chosen, name, inputs=sequence[0], seconds=seconds)


def _check(
    function: object,
    layout: str | None,
    backend: str | None,
    mask_means: str,
    seconds: float,
    heads: int | None,
    width: int | None,
) -> None:
    if not callable(function):
        raise TypeError(f"function must be a function or a module, got {type(function).__name__}")
    for name, value, known in (
        ("layout", layout, [None, *LAYOUTS]),
        ("backend", backend, [None, "torch", "numpy"]),
        ("mask_means", mask_means, ["allowed", "hidden", "additive"]),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"seconds must be a number, got {type(seconds).__name__}")
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    for name, number in (("heads", heads), ("width", width)):
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be an integer, got {type(number).__name__}")
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _check_mask(function: Any, mask: str | None) -> None:
    """That the function has the argument that is said to take its mask."""
    if mask is None:
        return
    if not isinstance(mask, str):
        raise TypeError(f"mask must be the name of an argument, got {type(mask).__name__}")
    # A layer of Keras has its own arguments in `call`, a module of PyTorch in `forward`.
    asked = getattr(function, "call", None) or getattr(function, "forward", None) or function
    try:
        parameters = inspect.signature(asked).parameters
    except Exception:  # written in C
        return
    takes_any = any(one.kind == one.VAR_KEYWORD for one in parameters.values())
    if mask not in parameters and not takes_any:
        raise ValueError(f"mask must be one of {list(parameters)}, got {mask!r}")


def _check_inputs(inputs: object) -> None:
    if inputs is None:
        return
    import torch

    given = inputs if isinstance(inputs, tuple) else (inputs,)
    if not given or not all(isinstance(x, torch.Tensor) for x in given):
        kinds = ", ".join(type(x).__name__ for x in given)
        raise TypeError(f"inputs must be a tuple of tensors, got {kinds or 'an empty tuple'}")
    for x in given:
        if isinstance(x, torch.Tensor) and x.layout != torch.strided:
            raise TypeError(f"inputs must be dense, got {x.layout}")
