"""What a call of a layer returns, for type checkers: of PyTorch's modules they know nothing."""

from typing import Any, Literal, Protocol, TypeVar, overload

from torch import Tensor

Weights = TypeVar("Weights", covariant=True)


class TensorOrWeights(Protocol[Weights]):
    """A tensor; with ``return_weights=True`` a tuple with the weights."""

    @overload
    def __call__(
        self, *inputs: Any, return_weights: Literal[False] = ..., **options: Any
    ) -> Tensor: ...

    @overload
    def __call__(self, *inputs: Any, return_weights: Literal[True], **options: Any) -> Weights: ...

    @overload
    def __call__(self, *inputs: Any, return_weights: bool, **options: Any) -> Tensor | Weights: ...
