"""Attention in three steps: score, normalise, aggregate.

Every name is imported when it is first used, so ``import attn_core.reference`` needs NumPy only.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from attn_core.elsewhere import homes_of
from attn_core.extras import is_installed, missing

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
# What cannot be imported without a package that may be missing.
_NEEDS = {
    "AttentionOutput": "torch",
    "attention": "torch",
    "interpret": "torch",
    "kernels": "torch",
    "masks": "torch",
    "modules": "torch",
    "normalizers": "torch",
    "plot": "matplotlib",
    "positions": "torch",
    "scores": "torch",
    "training": "torch",
}
# `from attn_core import *` gives what there is.
__all__[:] = [name for name in __all__ if name not in _NEEDS or is_installed(_NEEDS[name])]


def __getattr__(name: str) -> Any:
    if name in _HOMES or name in _NEEDS or name in __all__:
        if name not in _NEEDS or is_installed(_NEEDS[name]):
            home = import_module(f"attn_core.{_HOMES.get(name, name)}")
            return getattr(home, name) if name in _HOMES else home
        why = missing(f"attn_core.{name}", _NEEDS[name])
    elif not name.startswith("_") and (homes := homes_of(name)):
        why = f"attn_core has no {name} at its top: import it from {' or '.join(homes)}"
    else:
        raise AttributeError(f"module 'attn_core' has no attribute {name!r}")
    # `from attn_core import name` asks here, by this function of Python's, and would not say why.
    if sys._getframe(1).f_code.co_name == "_handle_fromlist":
        raise ImportError(why, name="attn_core")
    raise AttributeError(why, name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
