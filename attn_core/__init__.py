"""Attention in three steps: score, normalise, aggregate.

Every name is imported when it is first used, so ``import attn_core.reference`` needs NumPy only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn_core import (
        data,
        diagnosis,
        interpret,
        kernels,
        masks,
        models,
        modules,
        normalizers,
        plot,
        positions,
        reference,
        scores,
        testing,
        training,
    )
    from attn_core.attend import AttentionOutput, attention
    from attn_core.costs import Cost, cost
    from attn_core.diagnosis import diagnose

__version__ = "0.1.0"

__all__ = [
    "AttentionOutput",
    "Cost",
    "attention",
    "cost",
    "data",
    "diagnose",
    "diagnosis",
    "interpret",
    "kernels",
    "masks",
    "models",
    "modules",
    "normalizers",
    "plot",
    "positions",
    "reference",
    "scores",
    "testing",
    "training",
]


# Where the names that are no modules live.
_HOMES = {
    "AttentionOutput": "attend",
    "Cost": "costs",
    "attention": "attend",
    "cost": "costs",
    "diagnose": "diagnosis",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"attn_core.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"attn_core.{name}")
    raise AttributeError(f"module 'attn_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
