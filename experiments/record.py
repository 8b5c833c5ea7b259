"""What a results file holds, and how it is written: after every run, so that none is lost."""

import json
import platform
import time
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def circumstances() -> dict[str, Any]:
    """When, with what and on how many threads a run was made."""
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
    }


def measured(module: ModuleType, settings: dict[str, Any], *, toy: bool) -> dict[str, Any]:
    """One row of a results file: the settings, what the run returned, and how it was made."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    result = module.run(**settings, toy=toy)
    seconds = round(time.perf_counter() - start, 1)
    row = {**settings, **result, "seconds": seconds, **circumstances()}
    return json.loads(json.dumps(row, allow_nan=False))


def record(chapter: str, module: ModuleType, *, resume: bool) -> None:
    path = RESULTS / f"{chapter}.json"
    rows = json.loads(path.read_text())["runs"] if resume and path.exists() else []
    for settings in module.RUNS:
        if any(settings.items() <= row.items() for row in rows):
            print("has", settings, flush=True)
            continue
        row = measured(module, settings, toy=False)
        rows.append(row)
        text = json.dumps({"experiment": chapter, "runs": rows}, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        print(f"{row['seconds']:.0f} s", settings, flush=True)
