"""Small whole models that the chapters train; import them from the module that holds them.

All Transformers are stacks of one :class:`attn_core.models.block.Block`. A module is imported when
it is first used: ``models.bert.from_safetensors(folder)``.
"""

import importlib
from pkgutil import iter_modules
from typing import Any


def __getattr__(name: str) -> Any:
    if name in __dir__():
        return importlib.import_module(f"attn_core.models.{name}")
    raise AttributeError(f"module 'attn_core.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))
