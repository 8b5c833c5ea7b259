"""Every recorded experiment still runs, and its file holds what a run returns."""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import experiments
from experiments.record import RESULTS, circumstances, measured

ROOT = Path(__file__).parents[2]
NAMES = sorted(
    module.name
    for module in pkgutil.iter_modules(experiments.__path__)
    if module.name not in ("__main__", "record")
)


def shape_of(value: Any) -> Any:
    """The kinds of values and the keys; of a list only the kinds of its items."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list):
        kinds: list[Any] = []
        for item in map(shape_of, value):
            if item not in kinds:
                kinds.append(item)
        return kinds
    return "number" if type(value) in (int, float) else type(value).__name__


def recorded(name: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["runs"]


def kinds_of_runs(name: str) -> list[Any]:
    """The first run of every combination of settings other than the seed."""
    module = importlib.import_module(f"experiments.{name}")
    kinds: dict[str, dict[str, Any]] = {}
    for settings in module.RUNS:
        without_seed = {key: value for key, value in settings.items() if key != "seed"}
        kinds.setdefault(json.dumps(without_seed), settings)
    return [pytest.param(name, settings, id=f"{name}-{kind}") for kind, settings in kinds.items()]


def test_results_and_experiments_belong_together():
    assert sorted(path.stem for path in RESULTS.glob("*.json")) == NAMES
    assert set(NAMES) <= {path.stem for path in ROOT.glob("chapters/**/*.ipynb")}


@pytest.mark.parametrize("name", NAMES)
def test_every_run_is_recorded_once(name: str):
    settings = importlib.import_module(f"experiments.{name}").RUNS
    rows = recorded(name)
    assert len(rows) == len(settings)
    for wanted in settings:
        assert sum(wanted.items() <= row.items() for row in rows) == 1
    for row in rows:
        assert set(circumstances()) | {"seconds"} <= set(row)


@pytest.mark.parametrize(
    ("name", "settings"), [kind for name in NAMES for kind in kinds_of_runs(name)]
)
def test_a_toy_run_returns_what_the_file_holds(name: str, settings: dict[str, Any]):
    module = importlib.import_module(f"experiments.{name}")
    toy = measured(module, settings, toy=True)
    full = next(row for row in recorded(name) if settings.items() <= row.items())
    assert shape_of(toy) == shape_of(full)
    assert toy["seconds"] < 20
