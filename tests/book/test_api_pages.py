"""The API pages name every public name, and nothing twice."""

import re
from collections import Counter
from importlib import import_module

import pytest
from execute_notebooks import ROOT

import attn_core

PAGES = sorted(ROOT.glob("chapters/appendix/api_*.md"))
DIRECTIVE = re.compile(r"^\.\. auto(?:function|class):: (attn_core\.\S+)$", re.M)
DOCUMENTED = [name for page in PAGES for name in DIRECTIVE.findall(page.read_text("utf-8"))]
MODULES = [
    "scores",
    "normalizers",
    "masks",
    "positions",
    "kernels",
    "modules",
    "reference",
    "plot",
    "interpret",
    "hugging_face",
    "diagnosis",
    "diagnosis.listings",
    "testing",
    "models.bert",
    "models.block",
    "models.copying",
    "models.gpt",
    "models.graph",
    "models.hierarchical",
    "models.pointer",
    "models.spectrogram",
    "models.transformer",
    "models.vit",
    "models.weights",
    "models.whisper",
]


def public_names() -> list[str]:
    own = [name for name in attn_core.__all__ if callable(getattr(attn_core, name))]
    names = [f"attn_core.{name}" for name in own]
    for module in MODULES:
        contents = import_module(f"attn_core.{module}")
        names += [
            f"attn_core.{module}.{name}"
            for name in contents.__all__
            if callable(getattr(contents, name)) and not name.isupper()
        ]
    return names


@pytest.mark.parametrize("name", public_names())
def test_a_public_name_is_documented(name: str):
    assert name in DOCUMENTED


def test_no_name_is_documented_twice():
    assert [name for name, count in Counter(DOCUMENTED).items() if count > 1] == []
