"""The files of Pyodide are pinned; without them the book is built without controls."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import page_python
import pytest
from execute_notebooks import ROOT


@pytest.fixture
def distribution(tmp_path: Path) -> Path:
    """A folder as an unpacked official distribution, and more in it than the book takes."""
    folder = tmp_path / "pyodide"
    shutil.copytree(page_python.VENDOR, folder)
    (folder / "scipy.whl").write_text("more")
    return folder


def test_the_files_come_from_a_folder_that_a_variable_names(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYODIDE", str(distribution))
    monkeypatch.setattr(page_python, "VENDOR", tmp_path / "vendor")
    page_python.fetch()
    assert page_python.is_there()
    named = {path.name for path in (tmp_path / "vendor").iterdir()}
    own = {"files.json", "pyodide-lock.json", "NOTICE.txt", "pins.txt"}
    assert named == own | page_python.pins()[1].keys()
    assert sum(json.loads((tmp_path / "vendor" / "files.json").read_text()).values()) == 25_071_996


def test_a_file_that_is_not_the_pinned_one_is_refused(
    distribution: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    with (distribution / "pyodide.asm.js").open("a") as file:
        file.write("// more")
    monkeypatch.setenv("PYODIDE", str(distribution))
    monkeypatch.setattr(page_python, "VENDOR", tmp_path / "vendor")
    page_python.fetch()
    assert not page_python.is_there()
    said = capsys.readouterr().err
    assert "without the controls" in said
    assert "pyodide.asm.js is not the file" in said


@pytest.mark.parametrize("why", ["no network", "no folder"])
def test_where_nothing_can_be_fetched_the_build_says_so(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def refuse(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(page_python, "VENDOR", tmp_path / "vendor")
    if why == "no folder":
        monkeypatch.setenv("PYODIDE", str(tmp_path / "nowhere"))
    else:
        monkeypatch.delenv("PYODIDE", raising=False)
        monkeypatch.setattr(subprocess, "run", refuse)
    page_python.fetch()
    assert not page_python.is_there()
    said = capsys.readouterr().err
    assert "without the controls" in said
    assert "set PYODIDE to the folder" in said


def test_every_file_has_its_licence_in_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    for file in page_python.pins()[1]:
        name = file.split("-")[0].replace("_", "-") if file.endswith(".whl") else "Pyodide"
        assert f"| {name} " in readme, file


def test_wasm_is_served_as_wasm():
    """`make serve` is Python's own server; a browser compiles nothing that is called otherwise."""
    code = "import mimetypes; print(mimetypes.guess_type('a.wasm')[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "application/wasm"
