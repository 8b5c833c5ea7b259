"""Attention in three steps: score, normalise, aggregate.

Every name is imported when it is first used, so ``import attn_core.reference`` needs NumPy only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn_core import (
        data,
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
        training,
    )
    from attn_core.attend import AttentionOutput, attention
    from attn_core.costs import Cost, cost

__version__ = "0.1.0"

__all__ = [
    "AttentionOutput",
    "Cost",
    "attention",
    "cost",
    "data",
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
    "training",
]


def __getattr__(name: str) -> Any:
    if name in ("attention", "AttentionOutput"):
        return getattr(import_module("attn_core.attend"), name)
    if name in ("cost", "Cost"):
        return getattr(import_module("attn_core.costs"), name)
    if name in __all__:
        return import_module(f"attn_core.{name}")
    raise AttributeError(f"module 'attn_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
