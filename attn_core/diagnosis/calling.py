"""Calling somebody's function: its layout, its mask, what it returns, and what goes wrong."""

import inspect
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from attn_core.diagnosis.recipe import Case, Result
from attn_core.reference.shapes import Array

LAYOUTS = {
    "BHLD": "batch, heads, length, width",
    "BLHD": "batch, length, heads, width",
    "BLD": "batch, length, width",
    "LBD": "length, batch, width",
    "LD": "length, width",
    "joined": "batch, length, heads · width",
}


class TroubleError(Exception):
    """The function could not be asked; the message says why, in words for its author."""


@dataclass(frozen=True)
class Convention:
    """How a function is called.

    Attributes:
        backend: ``"torch"`` or ``"numpy"``.
        layout: of query, key and value: a key of ``LAYOUTS``.
        output_layout: of what it returns.
        dtype: ``"float64"``, or ``"float32"`` where it takes no other.
        group: how many heads of queries share one of keys and values.
        input_names: the names of query, key and value; None if they are its first three arguments.
        mask_argument: the name of its mask; None if it has none.
        mask_means: ``"allowed"``, ``"hidden"`` or ``"additive"``.
        mask_shape: ``"BHLS"``, ``"BLS"`` or ``"LS"``.
        causal_argument: the name of its causal flag; None if it has none.
        always_causal: whether it is meant to be causal without being asked.
    """

    backend: str = "torch"
    layout: str = "BHLD"
    output_layout: str = "BHLD"
    dtype: str = "float64"
    group: int = 1
    input_names: tuple[str, str, str] | None = None
    mask_argument: str | None = None
    mask_means: str = "allowed"
    mask_shape: str = "BHLS"
    causal_argument: str | None = None
    always_causal: bool = False

    @property
    def words(self) -> str:
        """The layout, in words."""
        shared = f", {self.group} heads of queries for one of keys" if self.group > 1 else ""
        return LAYOUTS[self.layout] + shared


def in_words(error: BaseException) -> str:
    """The name of an error and the first line of what it says."""
    try:
        first_line = (str(error).strip() or "without a message").splitlines()[0]
    except Exception:
        first_line = "with a message that cannot be read"
    return f"{type(error).__name__}: {first_line}"


class _TimeIsUp(BaseException):
    """Interrupts a function; no Exception, so that its own handlers let it pass."""


class Budget:
    """Seconds of computing that are left for somebody else's code; ours is not counted.

    On a busy machine a function takes longer and computes no more, so the clock on the wall stops
    it only after ten times as long.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.left = seconds
        self.wall_left = 10 * seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Raise TroubleError for what the function raises, and when the time is up.

        Amid a call that is possible in the main thread only, and not everywhere.
        PyTorch gets one thread, so that what it computes can be measured.
        """
        if self.left <= 0 or self.wall_left <= 0:
            raise TroubleError(self._words())
        is_main = threading.current_thread() is threading.main_thread()
        can_interrupt = is_main and hasattr(signal, "setitimer")

        def stop(*_: object) -> None:
            if time.process_time() - begin > self.left or time.monotonic() - wall > self.wall_left:
                raise _TimeIsUp

        torch = sys.modules.get("torch")
        threads = torch.get_num_threads() if torch is not None else 1
        if torch is not None:
            torch.set_num_threads(1)
        is_up = False
        begin, wall = time.process_time(), time.monotonic()
        if can_interrupt:
            before = signal.signal(signal.SIGALRM, stop)
            often = max(self.left / 10, 0.001)  # more often there is time for nothing else
            signal.setitimer(signal.ITIMER_REAL, often, often)
        try:
            with np.errstate(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it may be asked what it is not made for
                yield
        except _TimeIsUp:
            is_up = True
        except (TroubleError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit() in somebody's function is no end of ours
            raise TroubleError(f"it raises {in_words(error)}") from error
        finally:
            if can_interrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            self.left -= time.process_time() - begin
            self.wall_left -= time.monotonic() - wall
            if torch is not None:
                torch.set_num_threads(threads)
        if is_up:
            raise TroubleError(self._words())

    def _words(self) -> str:
        if self.left <= 0:
            return f"it takes too long: more than {self.seconds:g} seconds for small inputs"
        return f"it waits too long: more than {10 * self.seconds:g} seconds for small inputs"


_KINDS = {
    "query": {"q", "qs", "query", "queries", "querys"},
    "key": {"k", "ks", "key", "keys"},
    "value": {"v", "vs", "value", "values"},
}


class Signature(NamedTuple):
    """What the names of a function's arguments say.

    Attributes:
        inputs: the names of query, key and value; None if they come first and in this order.
        mask: the name of its mask; None if it has none.
        causal: the name of its causal flag; None if it has none.
    """

    inputs: tuple[str, str, str] | None
    mask: str | None
    causal: str | None


def asked_signature(function: Callable[..., Any]) -> Signature:
    """Which arguments a function has, by their names."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except Exception:  # written in C: PyTorch's own says it in its docstring
        is_known = "attn_mask" in (getattr(function, "__doc__", None) or "")
        return Signature(None, "attn_mask", "is_causal") if is_known else Signature(*[None] * 3)
    named = [
        p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)
    ]
    inputs = _inputs_out_of_order(named)
    further = [p for p in named if p.name not in inputs] if inputs else named[3:]
    causal = [p.name for p in further if p.name.lower() in ("causal", "is_causal")]
    masks = [p.name for p in further if "mask" in p.name.lower() and p.name not in causal]
    required = [p.name for p in further if p.default is p.empty and p.name not in causal]
    mask = masks[0] if masks else required[0] if len(required) == 1 else None
    return Signature(inputs, mask, causal[0] if causal else None)


def _inputs_out_of_order(named: list[inspect.Parameter]) -> tuple[str, str, str] | None:
    """The names of query, key and value where they stand in another order, or not in front."""
    required = [p.name for p in named if p.default is p.empty and "mask" not in p.name.lower()]
    found = [
        [name for name in required if kinds & set(re.split(r"[_\d]+", name.lower()))]
        for kinds in _KINDS.values()
    ]
    if any(len(names) != 1 for names in found):
        return None
    query, key, value = (names[0] for names in found)
    in_order = [p.name for p in named[:3]] == [query, key, value]
    is_callable = len({query, key, value}) == 3
    return None if in_order or not is_callable else (query, key, value)


class Caller:
    """A function together with how it is called."""

    def __init__(
        self, function: Callable[..., Any], convention: Convention, budget: Budget
    ) -> None:
        self.function = function
        self.convention = convention
        self.budget = budget

    def like(self, **changes: Any) -> "Caller":
        return Caller(self.function, replace(self.convention, **changes), self.budget)

    def __call__(self, case: Case) -> Result:
        """Call it with a case.

        Raises:
            TroubleError: if it crashes, returns something else than attention does, changes its
                inputs, or takes too long.
        """
        inputs = self.inputs(case)
        returned = self.returned(inputs, case)
        for name, given, untouched in zip(
            ("query", "key", "value"), inputs, self.inputs(case), strict=True
        ):
            now, before = _array(given), _array(untouched)
            if now is None or before is None or not np.array_equal(now, before):
                raise TroubleError(f"it changes its input {name} in place")
        try:
            return self._understood(returned, case)
        except TroubleError:
            raise
        except Exception as error:
            raise TroubleError(f"what it returns cannot be read: {in_words(error)}") from error

    def inputs(self, case: Case) -> list[Any]:
        """Query, key and value as the function takes them."""
        named = {"query": case.query, "key": case.key, "value": case.value}
        return [self.given(name, x) for name, x in named.items()]

    def given(self, name: str, x: Array) -> Any:
        """A query, a key or a value as the function takes it: keys and values once a group."""
        own = x if name == "query" else x[:, :: self.convention.group]
        return self._given(self._laid_out(own))

    def returned(self, inputs: list[Any], case: Case) -> Any:
        """What the function gives, as it gives it."""
        names = self.convention.input_names
        named = {} if names is None else dict(zip(names, inputs, strict=True))
        options = {**named, **self._options(case)}
        with self.budget.running():
            return self.function(*(inputs if names is None else ()), **options)

    def first_of(self, returned: Any) -> Any:
        """The output among what a function returned."""
        if isinstance(returned, dict):
            returned = tuple(returned.values())
        return returned[0] if isinstance(returned, tuple | list) and returned else returned

    def _laid_out(self, x: Array) -> Array:
        batch, _, length, _ = x.shape
        turned = {
            "BHLD": lambda: x,
            "BLHD": lambda: x.swapaxes(1, 2),
            "BLD": lambda: x[:, 0],
            "LBD": lambda: x[:, 0].swapaxes(0, 1),
            "LD": lambda: x[0, 0],
            "joined": lambda: x.swapaxes(1, 2).reshape(batch, length, -1),
        }
        return np.ascontiguousarray(turned[self.convention.layout]())

    def _given(self, x: Array) -> Any:
        x = x.copy() if x.dtype == bool else x.astype(self.convention.dtype, copy=True)
        if self.convention.backend == "numpy":
            return x
        import torch

        return torch.from_numpy(x)

    def _options(self, case: Case) -> dict[str, Any]:
        how, options = self.convention, {}
        if how.causal_argument and case.causal:
            options[how.causal_argument] = True
        if how.mask_argument and case.mask is not None:
            mask = {"BHLS": case.mask, "BLS": case.mask[:, 0], "LS": case.mask[0, 0]}[
                how.mask_shape
            ]
            if how.mask_means == "hidden":
                mask = ~mask
            if how.mask_means == "additive":
                mask = np.where(mask, 0.0, -np.inf)
            options[how.mask_argument] = self._given(np.ascontiguousarray(mask))
        return options

    def _understood(self, returned: Any, case: Case) -> Result:
        """Output and weights, in the dimensions of the case."""
        parts = list(returned.values()) if isinstance(returned, dict) else returned
        parts = list(parts) if isinstance(parts, tuple | list) else [parts]
        arrays = [array for array in map(_array, parts) if array is not None]
        if not arrays:
            raise TroubleError(
                f"it returns {type(returned).__name__}, and no array of real numbers"
            )
        output = self._canonical(arrays[0], case)
        if output is None:
            expected = self._laid_out(np.empty((*case.query.shape[:-1], case.value.shape[-1])))
            query, key, value = (tuple(x.shape) for x in self.inputs(case))
            raise TroubleError(
                f"it returns the shape {arrays[0].shape} where {expected.shape} is expected, for "
                f"query {query}, key {key} and value {value}"
            )
        shape = (*case.query.shape[:-1], case.lengths[1])
        weights = [x.reshape(shape).astype(float) for x in arrays[1:] if x.size == np.prod(shape)]
        return Result(output, weights[0] if weights else None)

    def _canonical(self, x: Array, case: Case) -> Array | None:
        """As ``(B, H, L, width)``; the width may be a value's, a key's, or the number of keys."""
        batch, heads, length, _ = case.query.shape
        layout = self.convention.output_layout
        x = x.astype(float)
        for width in (case.value.shape[-1], case.key.shape[-1], case.lengths[1]):
            full = {
                "BHLD": (batch, heads, length, width),
                "BLHD": (batch, length, heads, width),
                "BLD": (batch, length, width),
                "LBD": (length, batch, width),
                "LD": (length, width),
                "joined": (batch, length, heads * width),
            }[layout]
            if x.shape != full:
                continue
            if layout == "LBD":
                x = x.swapaxes(0, 1)
            if layout in ("BLHD", "joined"):
                return x.reshape(batch, length, heads, width).swapaxes(1, 2)
            return x.reshape(batch, heads, length, width)
        return None


def _array(x: Any) -> Array | None:
    """What a function returned, as an array of numbers; None if it is nothing of the kind."""
    try:
        if type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "detach"):
            x = x.detach().cpu()
            x = (x.double() if x.is_floating_point() else x).numpy()
        if not hasattr(x, "__array__"):
            return None
        array: Array = np.asarray(x)
    except Exception:  # sparse, without data, or of a class of its own
        return None
    return array if array.dtype.kind in "fiub" else None
