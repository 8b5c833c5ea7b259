"""The cost of a mechanism, as numbers that add up."""

from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What one forward pass of a mechanism costs; ``a + b`` and ``12 * a`` are costs too.

    Attributes:
        multiplications: of matrix products, each with its addition. A counter of floating point
            operations, such as :class:`torch.utils.flop_counter.FlopCounterMode`, counts two for
            each. Single entries (softmax, biases, gates, rotary positions) are not counted.
        parameters: numbers that are learned.
        parameter_bytes: bytes that they take.
        weight_bytes: bytes of the attention weights that are held at once, if they are written out.
        cache_bytes: bytes that have to be kept, so that the next tokens can attend to these.

    Raises:
        TypeError: if it is added to something else than a cost, or multiplied by no integer.

    Source: this package; the tests compare it with PyTorch's counter and with allocations.

    Example:
        >>> layer = Cost(multiplications=1000, parameters=20, parameter_bytes=80)
        >>> print(layer + layer)
        2,000 multiplications
        40 parameters, 160 bytes
        0 bytes of weights
        0 bytes of cache
    """

    multiplications: int = 0
    parameters: int = 0
    parameter_bytes: int = 0
    weight_bytes: int = 0
    cache_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        if not isinstance(other, Cost):
            raise TypeError(f"a cost adds up with a cost, got {type(other).__name__}")
        names = [field.name for field in fields(self)]
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def __mul__(self, times: int) -> "Cost":
        if not is_integer(times):
            raise TypeError(f"a cost is multiplied by an integer, got {times!r}")
        return Cost(
            **{field.name: int(times) * getattr(self, field.name) for field in fields(self)}
        )

    __rmul__ = __mul__

    def __str__(self) -> str:
        return (
            f"{self.multiplications:,} multiplications\n"
            f"{self.parameters:,} parameters, {self.parameter_bytes:,} bytes\n"
            f"{self.weight_bytes:,} bytes of weights\n"
            f"{self.cache_bytes:,} bytes of cache"
        )


def is_integer(number: Any) -> bool:
    """Whether it is an integer of Python or NumPy, or a tensor that holds one and no dimension.

    As in :mod:`attn_core.checks`, which needs PyTorch.
    """
    if isinstance(number, bool | Integral):
        return not isinstance(number, bool)
    return "int" in str(getattr(number, "dtype", "")) and number.ndim == 0
