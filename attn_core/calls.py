"""What all public calls have in common: what is said of wrong arguments, and what they return."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, Protocol, TypeVar, overload

import torch
from torch import Tensor

from attn_core.other_names import hints

Called = TypeVar("Called", bound=Callable[..., Any])

Weights = TypeVar("Weights", covariant=True)


class TensorOrWeights(Protocol[Weights]):
    """A tensor; with ``return_weights=True`` a tuple with the weights.

    Type checkers know nothing of what a call of a module of PyTorch returns.
    """

    @overload
    def __call__(
        self, *inputs: Any, return_weights: Literal[False] = ..., **options: Any
    ) -> Tensor: ...

    @overload
    def __call__(self, *inputs: Any, return_weights: Literal[True], **options: Any) -> Weights: ...

    @overload
    def __call__(self, *inputs: Any, return_weights: bool, **options: Any) -> Tensor | Weights: ...


def checked_call(thing: Called) -> Called:
    """Say of an unknown argument what it is called here, and refuse a flag that is none.

    Flags and generators are known by their annotations, and looked at where they are given by name.

    Args:
        thing: a function; or a class, of which it is done to ``__init__`` and ``forward``.

    Returns:
        The class itself, or a function that is called like this one.

    Source: this package.

    Example:
        >>> @checked_call
        ... def turn(*, base, back: bool = False):
        ...     return -base if back else base
        >>> turn(theta=500.0)
        Traceback (most recent call last):
        TypeError: turn() got an unexpected keyword argument 'theta'; theta is called base here
        >>> turn(base=500.0, back="no")
        Traceback (most recent call last):
        TypeError: back must be True or False, got 'no'
    """
    if inspect.isclass(thing):
        for name in {"__init__", "forward"} & set(vars(thing)):
            setattr(thing, name, checked_call(vars(thing)[name]))
        return thing
    own = inspect.signature(thing).parameters
    kinds = {name: _KINDS.get(_named(parameter.annotation)) for name, parameter in own.items()}
    checked = [(name, *kind) for name, kind in kinds.items() if kind is not None]

    @wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, types, said in checked:
            if name in kwargs and not isinstance(kwargs[name], types):
                raise TypeError(f"{name} must be {said}, got {kwargs[name]!r}")
        try:
            return thing(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # from inside of the call
            found = [hint for other in kwargs if other not in own for hint in hints(other, own)]
            if not found:
                raise
            raise TypeError("; ".join([str(error), *found])) from None

    return call  # type: ignore[return-value]


# By the annotation of an argument: what is taken, and how that is said.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "True or False"),
    "bool | None": ((bool, type(None)), "True, False or None"),
    "torch.Generator | None": ((torch.Generator, type(None)), "a torch.Generator"),
}


def _named(annotation: Any) -> str:
    """An annotation as it is written."""
    written = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    return written.replace("torch._C.Generator", "torch.Generator")
