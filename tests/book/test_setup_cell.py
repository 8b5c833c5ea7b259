"""The set-up cell that Colab and Binder need, run where the package is not installed."""

import os
import subprocess
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from execute_notebooks import ROOT, SETUP_SOURCE
from packaging.requirements import Requirement

from attn_core.data import packages

# What Colab has already, and what takes minutes to install.
AT_HAND = ["pip", "torch", "numpy"]
CHAPTERS_IMPORT = "import babel, ipykernel, jieba, keras, matplotlib, sacrebleu, tensorboard, tqdm"


def closure(names: list[str]) -> set[str]:
    """These distributions and all that they require here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            needed = [Requirement(line) for line in requires]
            waiting += [
                r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})
            ]
    return found


def clean_environment(folder: Path) -> Path:
    """A new virtual environment with PyTorch and NumPy at hand; its Python."""
    venv.create(folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for name in closure(AT_HAND):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files if not file.parts[0].startswith("..")}:
            link = site_packages / top
            if not link.exists():
                link.symlink_to(distribution(name).locate_file(top))
    return folder / "bin" / "python"


@pytest.mark.slow
def test_setup_cell_makes_the_package_importable(tmp_path: Path):
    python = clean_environment(tmp_path / "environment")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "torch",
        "PIP_CONSTRAINT": str(ROOT / "requirements.txt"),
        "ATTN_CORE_DATA": str(packages.data_folder()),
    }

    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-c", code]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert "No module named 'attn_core'" in run("import attn_core").stderr
    setup = SETUP_SOURCE.format(address=f"file://localhost{ROOT.as_posix()}")
    reads = "open('../../experiments/results/why_attention.json').close()"  # as a chapter does
    code = f"{setup}\n{CHAPTERS_IMPORT}\n{reads}\nimport attn_core\nprint(attn_core.__file__)"
    for done in (run(code), run(code)):  # the second time as after a restart of the kernel
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith(str(tmp_path))


def test_setup_cell_does_nothing_where_the_package_is_installed(monkeypatch: pytest.MonkeyPatch):
    def refuse(*command: object, **_: object) -> None:
        raise AssertionError(f"ran {command}")

    monkeypatch.setattr(subprocess, "run", refuse)
    names: dict[str, object] = {}
    exec(SETUP_SOURCE.format(address="https://example.org/book"), names)
    assert "clone" not in names
