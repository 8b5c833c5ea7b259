"""Somebody else's layers, tests/client.py, run; `make lint` has mypy check their types strictly."""

import subprocess
import tomllib
from pathlib import Path

import client
import torch

from attn_core import AttentionOutput
from attn_core.models.block import BlockOutput
from attn_core.models.transformer import StackOutput

ROOT = Path(__file__).parents[1]


def test_the_lint_checks_the_client_strictly():
    recipe = subprocess.run(
        ["make", "--dry-run", "lint"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "mypy attn_core tests/client.py" in recipe
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    (strict,) = [own for own in settings["overrides"] if own["module"] == "client"]
    assert strict["warn_return_any"]


def test_what_the_types_say_is_what_is_returned():
    layer = client.Layer(8, 2)
    x = torch.randn(2, 3, 8)
    assert layer(x).shape == x.shape
    assert layer.heads(x).shape == (2, 2, 3, 3)
    assert type(layer.either(x, True)) is AttentionOutput
    assert type(layer.either(x, False)) is torch.Tensor
    assert layer.pooled(x).shape == (2, 8)
    assert type(layer.looked_at(x)) is BlockOutput
    assert type(client.stack(x)) is StackOutput
    assert client.logits(torch.ones(1, 2, dtype=torch.int64)).shape == (1, 2, 9)
    assert client.bias(x.reshape(1, 2, 3, 8)).shape == (1, 2, 3, 8)
    assert client.runs(x)
    assert type(client.multiplications()) is int
